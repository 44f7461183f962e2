//! Seeded simulation: the pure cores of several nodes in one process, with naive models beside them.
//!
//! The replicated state, the cursors of consumers, signed requests, grants, subscriptions and the route
//! codec are the real ones; the log between them is a sketch of Raft that makes the histories a cluster
//! can make. One seed is one run. What must hold is in `checks` and `naive`.

mod blocks;
mod checks;
mod consensus;
mod control;
mod desk;
mod member;
mod naive;
mod plane;
mod rng;
mod run;
mod streams;
mod tokens;
mod world;

pub use run::{Failure, run};
pub use world::Counts;

/// A line of a trace.
#[allow(clippy::print_stderr, reason = "this is what a trace is for")]
fn say(line: &str) {
    eprintln!("{line}");
}
