//! Clusters of real processes: messages, keys, failures and refusals, judged by standard clients.

mod access;
mod batches;
mod boot;
mod consumers;
mod copies;
mod failover;
mod hostile;
mod identity;
mod messages;
mod operate;
mod stores;
mod streams;
mod system;

use std::path::Path;

/// The binary under test.
fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_unibus-node"))
}
