//! nats-server's command line on real processes: what others read from it (log, pid and ports files,
//! exit status), what its signals do, and that the official client talks to it.
#![allow(
    clippy::unwrap_used,
    reason = "what fails in a helper fails the test that uses it"
)]

mod clusters;
mod server;
mod signals;
mod starting;
mod system;
mod traces;
