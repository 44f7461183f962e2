//! The NATS wire protocol, subjects, permissions and JetStream types.
//!
//! Pure code: no I/O, no clocks, no threads, no environment. Everything a socket or a store needs to
//! know about NATS is decided here, so that it can be tested and fuzzed without either.

pub mod control;
pub mod decoder;
pub mod encoder;
pub mod handshake;
pub mod headers;
pub mod interest;
pub mod jetstream;
pub mod mapping;
pub mod nkey;
pub mod op;
pub mod permissions;
pub mod route;
pub mod signing;
pub mod subject;
pub mod sublist;
pub mod transform;

use serde::{Deserialize, Serialize};

/// A node's identity in the cluster: derived from a UUID kept in its data folder, never from its name.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
