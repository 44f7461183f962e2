//! The control plane on real sockets and real processes: what it grants, and what it refuses to
//! those who attack it. Each attack is tried next to the same request as it is meant to be.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod attacks;
mod blobs;
mod commands;
mod golden;
mod limits;
mod moving;
mod openapi;
mod people;
mod store;
mod tls;
mod world;

use std::path::Path;

/// The binary under test.
fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_unibus-node"))
}
