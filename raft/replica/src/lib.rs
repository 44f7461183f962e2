//! The replica: openraft over our own log, with checkpoints in sled and block files.
//!
//! It knows nothing of NATS connections: it takes encoded command batches, makes them durable on a
//! majority, applies them to [`unibus_state::State`] and tells an [`Observer`] what changed.
//! openraft and sled types never leave this crate.

pub mod backup;
mod belonging;
mod blocks;
mod change;
mod checkpoint;
#[allow(
    dead_code,
    reason = "the codec is complete; not every part of it has a caller"
)]
mod codec;
mod disk;
mod driver;
mod errors;
mod frame;
pub mod fuzzing;
mod handler;
mod handover;
mod identity;
mod indexes;
mod lease;
mod log;
mod machine;
mod manifest;
mod membership;
mod mend;
mod network;
mod options;
mod pause;
mod propose;
mod quarantine;
mod queue;
mod read;
pub mod recover;
mod replica;
mod rows;
mod rpc;
mod seed;
mod snapshot;
mod status;
mod store;
mod suspend;
#[cfg(test)]
mod tests;
mod transfer;
mod transport;
mod types;
mod vigil;
mod watchdog;

pub use belonging::{Belonging, CLUSTER_IDS_FROM, ClusterId};
pub use change::Change;
pub use errors::{
    AdmitError, CheckpointError, Damage, InitializeError, ProposeError, ReadError, StartError,
    StorageError,
};
pub use options::ReplicaOptions;
pub use propose::{Proposal, Proposed};
pub use replica::{Observer, Replica};
pub use seed::{SeedError, Seeded};
pub use status::{Leadership, ReplicaStatus};
pub use store::{OnDamage, OpenStore};
pub use transport::{GroupId, RpcClass, RpcHandler, Transport, TransportError};
