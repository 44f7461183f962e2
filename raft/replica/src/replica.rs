//! The facade of this crate.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::watch;
use unibus_proto::NodeId;
use unibus_state::{Effect, EncodedBatch, Location, State};

use crate::errors::{
    AdmitError, CheckpointError, InitializeError, ReadError, StartError, StorageError,
};
use crate::options::ReplicaOptions;
use crate::propose::Proposal;
use crate::status::{Leadership, ReplicaStatus};
use crate::transport::{RpcHandler, Transport};

/// Hears what entries changed, on every node.
pub trait Observer: Send + Sync + 'static {
    /// Called after entries were applied, with the state they led to, and before the applied index
    /// is published and proposals are answered. Runs inside apply: it must be quick and must not
    /// call back into the replica's state.
    fn applied(&self, state: &State, effects: &[Effect]);
}

/// A handle on the replica of this node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Replica {}

impl Replica {
    /// The id of the node that owns `data_dir`: read from `node.id`, or made from a random UUID and
    /// synced there on first use.
    pub fn node_id_in(data_dir: &Path) -> Result<NodeId, StartError> {
        unimplemented!("{data_dir:?}")
    }

    /// Opens the log and the newest checkpoint, and starts consensus.
    pub async fn start(
        options: ReplicaOptions,
        id: NodeId,
        transport: Arc<dyn Transport>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, StartError> {
        unimplemented!()
    }

    /// What the transport hands peers' requests to (all classes but [`crate::RpcClass::Leader`]).
    pub fn handler(&self) -> Arc<dyn RpcHandler> {
        unimplemented!()
    }

    /// Enqueues a batch. Batches keep the order of the calls. Must be called inside a tokio runtime.
    pub fn propose(&self, batch: EncodedBatch) -> Proposal {
        unimplemented!()
    }

    /// `None`: propose on. `Some`: the queue is over its high-water mark; await before the next.
    pub fn propose_ready(&self) -> Option<BoxFuture<'static, ()>> {
        unimplemented!()
    }

    /// Resolves when local state holds everything acknowledged anywhere before the call; answers
    /// with the index that covers it.
    pub async fn read_barrier(&self) -> Result<u64, ReadError> {
        unimplemented!()
    }

    /// Resolves when entry `index` is applied here.
    pub async fn wait_applied(&self, index: u64, deadline: Instant) -> Result<(), ReadError> {
        unimplemented!()
    }

    /// Waits until every connected member has applied `index`; answers with those that did not
    /// confirm it within the time.
    pub async fn applied_everywhere(&self, index: u64, within: Duration) -> Vec<NodeId> {
        unimplemented!()
    }

    /// Looks at the state under a read lock. `f` must be quick: apply waits for it.
    pub fn with_state<T>(&self, f: impl FnOnce(&State) -> T) -> T {
        unimplemented!()
    }

    /// The record stored at a location that the state gave.
    pub fn read_record(&self, at: &Location) -> Result<Bytes, StorageError> {
        unimplemented!()
    }

    /// Who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        unimplemented!()
    }

    /// The index up to which entries are applied here.
    pub fn applied_index(&self) -> watch::Receiver<u64> {
        unimplemented!()
    }

    /// How this replica stands.
    pub fn status(&self) -> ReplicaStatus {
        unimplemented!()
    }

    /// Forms a new cluster from exactly these members. Only on a node without any state; calling it
    /// on several members with the same set is fine.
    pub async fn initialize(
        &self,
        members: BTreeMap<NodeId, String>,
    ) -> Result<(), InitializeError> {
        unimplemented!()
    }

    /// Makes a node a voting member: learner, caught up, voter. A voter of the same name with
    /// another id is replaced. Works on any node (it asks the leader); safe to repeat.
    pub async fn admit(&self, id: NodeId, name: String) -> Result<(), AdmitError> {
        unimplemented!()
    }

    /// Hands leadership to the most caught-up connected voter, if this node leads. Waits at most
    /// for about one election timeout.
    pub async fn transfer_leadership(&self) {
        unimplemented!()
    }

    /// Takes a checkpoint now and purges the log up to it. Answers with its index.
    pub async fn checkpoint(&self) -> Result<u64, CheckpointError> {
        unimplemented!()
    }

    /// Hands leadership over, stops consensus and answers everything that waits with `Stopped`.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}
