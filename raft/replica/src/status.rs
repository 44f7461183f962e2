//! Who leads and how this replica stands: what `/healthz`, the directory and JetStream look at.

use std::collections::BTreeMap;
use unibus_proto::NodeId;

/// Who leads, as this node knows it.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Leadership {
    /// The leader, if one is known and was heard of lately.
    pub leader: Option<NodeId>,
    /// The current term.
    pub term: u64,
    /// This node leads, has a quorum, and has applied everything earlier leaders committed.
    pub is_leader: bool,
}

/// A moment's view of the replica.
#[derive(Clone, Debug, Default)]
pub struct ReplicaStatus {
    /// This node.
    pub node_id: u64,
    /// The leader, if one is known and was heard of lately.
    pub leader: Option<NodeId>,
    /// The current term.
    pub term: u64,
    /// Index of the last entry in the local log.
    pub last_log_index: u64,
    /// Index of the last entry applied here.
    pub applied_index: u64,
    /// Index of the newest checkpoint, 0 if there is none.
    pub checkpoint_index: u64,
    /// Members that vote, with their names.
    pub voters: BTreeMap<NodeId, String>,
    /// Members that only receive, with their names.
    pub learners: BTreeMap<NodeId, String>,
    /// Whether the cluster can commit, as far as this node can tell from the last election timeout:
    /// a leader was acknowledged by a quorum, a follower heard of its leader.
    pub has_quorum: bool,
    /// Whether this node belongs to a cluster (has a membership).
    pub initialized: bool,
    /// Size of the sled database on disk, bytes.
    pub sled_bytes: u64,
    /// Bytes in the recent-message cache.
    pub cache_bytes: usize,
    /// Entry bytes applied since the newest checkpoint.
    pub bytes_since_checkpoint: u64,
    /// Why consensus stopped on this node, if it did (disk failure, damaged log).
    pub fatal: Option<String>,
}
