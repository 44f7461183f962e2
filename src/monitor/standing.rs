//! How a node stands to the members of its cluster, by what it and its peers know: voters that are away,
//! connected nodes that are odd, and whether the node itself is a member any more.

use unibus_proto::NodeId;
use unibus_raft::{CLUSTER_IDS_FROM, ReplicaStatus};

use crate::mesh::PeerStatus;

/// What is told of a node that is no member any more.
pub(crate) const OUTSIDE: &str = "this node is no member of its cluster any more: the members go on without it. \
                                  Stop it; to let it join again, move its data folder away and start it";
/// What is told of a connected node that has a store and is no member.
pub(crate) const STRANGER: &str = "it is connected, has a store of its own and is no member: it was removed, or its \
                                   store is of another cluster. It is not admitted: stop it and move its data \
                                   folder away";

/// Whether the others have a leader and this node is not among their members.
pub(crate) fn is_outside(status: &ReplicaStatus, peers: &[PeerStatus]) -> bool {
    let own = NodeId(status.node_id);
    let without =
        |peer: &PeerStatus| peer.quorum && !peer.members.is_empty() && !peer.members.contains(&own);
    status.initialized && !status.rejoining && !status.has_quorum && peers.iter().any(without)
}

/// The connected nodes that have a store for certain and are no members.
pub(crate) fn strangers<'a>(
    status: &'a ReplicaStatus,
    peers: &'a [PeerStatus],
) -> impl Iterator<Item = &'a PeerStatus> {
    peers.iter().filter(|peer| {
        let is_member =
            status.voters.contains_key(&peer.id) || status.learners.contains_key(&peer.id);
        // A node whose store is not open yet says that it has one.
        let is_certain =
            peer.unidentified || peer.cluster_id.is_some() || peer.protocol < CLUSTER_IDS_FROM;
        peer.initialized && !peer.rejoining && is_certain && !is_member
    })
}

/// How many voters this node is not connected to.
pub(crate) fn voters_away(status: &ReplicaStatus, peers: &[PeerStatus]) -> usize {
    let is_there = |id: &NodeId| id.0 == status.node_id || peers.iter().any(|peer| peer.id == *id);
    status.voters.keys().filter(|id| !is_there(id)).count()
}
