//! The port through which a replica reaches its peers. The node implements it over QUIC; tests
//! implement it over channels. Nothing in this crate opens a socket.

use std::fmt;
use std::time::Instant;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::watch;
use unibus_proto::NodeId;

/// Which raft group a frame belongs to. The first version runs group 0 for everything.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
pub struct GroupId(pub u32);

/// What an RPC is for. The transport gives each class its own priority and, for ordered classes,
/// delivers requests to the handler in the order of the calls.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Debug)]
#[repr(u8)]
pub enum RpcClass {
    /// Votes, pre-votes, heartbeats, leadership transfer: small and urgent.
    Vote = 0,
    /// Log entries.
    Append = 1,
    /// Snapshot manifest and file chunks: bulk, lowest priority.
    Snapshot = 2,
    /// Commands forwarded to the leader. Ordered.
    Propose = 3,
    /// Read index requests to the leader.
    Read = 4,
    /// "Tell me when you have applied index N".
    Barrier = 5,
    /// An empty node asks to be admitted; status questions.
    Join = 6,
    /// JetStream messages that only the leader can act on (acks, pulls, consumer info). Ordered.
    /// Served by the node, not by the replica.
    Leader = 7,
    /// Questions about the node itself (`$SYS`). Served by the node, not by the replica.
    System = 8,
}

impl RpcClass {
    /// Every class, in wire order.
    pub const ALL: [Self; 9] = [
        Self::Vote,
        Self::Append,
        Self::Snapshot,
        Self::Propose,
        Self::Read,
        Self::Barrier,
        Self::Join,
        Self::Leader,
        Self::System,
    ];

    /// Whether requests of this class from one node reach the handler in call order. Answers may
    /// still come back in any order.
    pub fn is_ordered(self) -> bool {
        matches!(self, Self::Propose | Self::Leader)
    }

    /// The class with this wire number.
    pub fn from_wire(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

/// Why a call brought no answer. Only `Unreachable` promises that the peer did not see the request.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TransportError {
    /// There is no connection to the node: the request was not sent.
    #[error("node {0} is not connected")]
    Unreachable(NodeId),
    /// The connection broke or the answer did not come: the peer may have acted.
    #[error("the answer of node {0} was lost: {1}")]
    Lost(NodeId, String),
    /// The peer's handler refused the request.
    #[error("node {0} refused: {1}")]
    Refused(NodeId, String),
}

/// Sends requests to peers. Implementations bound the number of calls in flight and the bytes queued.
pub trait Transport: Send + Sync + fmt::Debug + 'static {
    /// Sends `request` to `target` and resolves with its answer. For ordered classes the order is
    /// that of the calls to this function, not of the first polls. The caller sets the deadline by
    /// dropping the future.
    fn call(
        &self,
        target: NodeId,
        class: RpcClass,
        group: GroupId,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;

    /// The peers that are connected now.
    fn connected(&self) -> Vec<NodeId>;

    /// The protocol version spoken with a peer that is connected now.
    fn protocol(&self, peer: NodeId) -> Option<u32>;

    /// Since when the route to a peer stands that it is connected by now: one that was made anew is
    /// another one, and what the peer held for this node by the old one may be gone.
    fn route_since(&self, peer: NodeId) -> Option<Instant> {
        let _ = peer;
        None
    }

    /// Changes its number whenever a route comes or goes.
    fn routes_changed(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }
}

/// Serves requests of peers.
pub trait RpcHandler: Send + Sync + 'static {
    /// Handles one request. For ordered classes everything whose order matters happens in this call,
    /// before the returned future is polled. `Err` is a text for the peer's log.
    fn handle(
        &self,
        from: NodeId,
        class: RpcClass,
        group: GroupId,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>>;
}
