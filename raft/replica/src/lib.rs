//! The replica: openraft over our own log, with checkpoints in sled and block files.
//!
//! It knows nothing of NATS connections: it takes encoded command batches, makes them durable on a
//! majority, applies them to [`unibus_state::State`] and tells an [`Observer`] what changed.
//! openraft and sled types never leave this crate.

mod blocks;
mod checkpoint;
#[allow(
    dead_code,
    reason = "the codec is complete; not every part of it has a caller"
)]
mod codec;
mod driver;
mod errors;
mod frame;
pub mod fuzzing;
mod handler;
mod log;
mod machine;
mod manifest;
mod membership;
mod network;
mod node_id;
mod options;
mod propose;
mod queue;
mod read;
mod replica;
mod rows;
mod rpc;
mod snapshot;
mod status;
#[cfg(test)]
mod tests;
mod transfer;
mod transport;
mod types;

pub use errors::{
    AdmitError, CheckpointError, InitializeError, ProposeError, ReadError, StartError, StorageError,
};
pub use options::ReplicaOptions;
pub use propose::{Proposal, Proposed};
pub use replica::{Observer, Replica};
pub use status::{Leadership, ReplicaStatus};
pub use transport::{GroupId, RpcClass, RpcHandler, Transport, TransportError};
