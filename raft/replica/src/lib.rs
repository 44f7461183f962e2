//! The replica: openraft over our own log, with checkpoints in sled and block files.
//!
//! It knows nothing of NATS connections: it takes encoded command batches, makes them durable on a
//! majority, applies them to [`unibus_state::State`] and tells an [`Observer`] what changed.
//! openraft and sled types never leave this crate.

#[allow(dead_code, reason = "the replica calls it as it is being written")]
mod codec;
mod errors;
mod log;
mod options;
mod propose;
mod replica;
mod status;
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
