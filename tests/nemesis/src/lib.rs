//! Breaks real clusters on purpose. Each node is a process in a network namespace with a disk and a clock
//! of its own; a switch in this process carries every frame between them; faults come from a seed;
//! clients work throughout, and what they saw is judged afterwards.

mod campaign;
mod disk;
mod faults;
mod history;
mod host;
mod http;
mod kills;
mod lab;
mod report;
mod stores;
mod switch;
mod sys;
mod work;

pub use campaign::{Outcome, Plan, run};
pub use kills::measure;
pub use lab::obstacle;
pub use report::{percentile_ms, picture, summary};
