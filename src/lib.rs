//! The node: configuration, mesh, JetStream and control-plane services, assembled.

pub mod access;
pub mod boot_guard;
pub mod cli;
pub mod config;
pub mod control;
pub mod frontdoor;
pub mod http;
pub mod jetstream;
pub mod mesh;
pub mod monitor;
pub mod node;
mod open_files;
pub mod operate;
pub mod pki;
mod seats;
pub mod shutdown;
mod snapshot;
pub mod telemetry;
