//! What operators are given (`ops/`), held against the program: the configuration reference, names of
//! metrics, units, and the runbook, whose commands are executed.
#![allow(
    clippy::unwrap_used,
    reason = "what fails in a helper fails the test that uses it"
)]

mod metrics;
mod reference;
mod runbook;
mod units;

use std::path::{Path, PathBuf};

/// A file of the workspace.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap()
}
