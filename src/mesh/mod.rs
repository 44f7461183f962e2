//! The route mesh: one mutually authenticated QUIC connection per pair of nodes, carrying an
//! ordered message stream for the broker and raft RPCs on streams of their own (cluster.md,
//! Routes).
//!
//! It decides who is let in, keeps one connection per peer, dials every configured route for ever,
//! and implements [`Transport`]. It knows nothing of subjects, raft or NATS, and must never let
//! bulk data delay an election: every stream has a priority and every queue a limit (`limits`).

mod accept;
mod claims;
mod control;
mod dial;
mod error;
mod handshake;
mod lifeline;
mod limits;
mod options;
mod peer;
mod refusals;
mod registry;
mod routes;
mod rpc;
mod secret;
mod shared;
mod tls;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::watch;
use unibus_proto::NodeId;
use unibus_raft::{GroupId, RpcClass, RpcHandler, Transport, TransportError};

use shared::Shared;

pub use error::MeshError;
pub(crate) use limits::REDIAL_WITHIN;
pub use options::{MeshOptions, MeshTls, Posture, ROUTE_PORT_DEFAULT, RouteAddr, RouteAddrError};
pub use refusals::{Direction, Refusal, RefusalReason, RefusedBy};
pub use routes::{RouteState, RouteStatus};
pub use secret::{RouteSecret, SecretError};
pub use tls::{certificate_name, certificate_not_after};

/// What the node does when routes come and go. Calls for one peer are in order: `connected`, then
/// `disconnected`, then perhaps `connected` again. They must not block.
pub trait MeshHooks: Send + Sync + 'static {
    /// A route stands. `stream` is the ordered byte stream for broker messages, one each way, for
    /// as long as the route lives. RPCs of this peer are served from here on.
    ///
    /// The future resolves when the node is done with the stream. The route is then closed as a
    /// whole and made anew: a pair without a message stream would look healthy and pass nothing on.
    fn connected(
        &self,
        peer: PeerInfo,
        stream: (quinn::RecvStream, quinn::SendStream),
    ) -> BoxFuture<'static, ()>;

    /// The route of this peer is gone.
    fn disconnected(&self, id: NodeId);

    /// Whether a node that says this of itself may have a route: one of another cluster may not, whatever
    /// the clusters are called. Asked in the handshake and for each status that it tells later.
    ///
    /// # Errors
    /// Why it may not, with what to do, for both operators.
    fn accepts(&self, peer: &PeerClaim) -> Result<(), String> {
        let _ = peer;
        Ok(())
    }

    /// What to tell the peers about this node. Asked every second and after
    /// [`Mesh::status_changed`].
    fn local_status(&self) -> PeerLocalStatus;
}

/// What a node says of the cluster that it belongs to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerClaim {
    /// From its data folder.
    pub id: NodeId,
    /// The first DNS name of its certificate.
    pub name: String,
    /// The identity of its cluster, 32 hex digits; `None` where it has none.
    pub cluster_id: Option<String>,
    /// It has a store of a cluster that has no identity yet.
    pub unidentified: bool,
}

/// What a node tells its peers about itself.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct PeerLocalStatus {
    /// Whether its replica has state: it belongs to a cluster already. A node that lost its state says
    /// so too: nobody may form a cluster with it.
    pub initialized: bool,
    /// Whether it lost its state and waits for its cluster to admit it.
    pub rejoining: bool,
    /// The identity of its cluster, 32 hex digits; `None` where it has none.
    pub cluster_id: Option<String>,
    /// It has a store of a cluster that has no identity yet.
    pub unidentified: bool,
    /// Whether it hears a leader that a majority follows.
    pub quorum: bool,
    /// The members of its cluster, voters or not, as it knows them.
    pub members: Vec<NodeId>,
    /// `host:port` where clients reach it, for their lists of servers.
    pub client_urls: Vec<String>,
    /// The same for clients over WebSocket.
    pub websocket_urls: Vec<String>,
    /// Where other nodes are reached, as far as it knows: filled in by the mesh, where it learns
    /// routes.
    pub routes: Vec<String>,
}

/// A peer as it presented itself, verified.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerInfo {
    /// From its data folder.
    pub id: NodeId,
    /// The first DNS name of its certificate.
    pub name: String,
    /// Where it is reached, UDP.
    pub addr: SocketAddr,
    /// How strictly it is run.
    pub posture: Posture,
    /// Whether its replica had state when it connected.
    pub initialized: bool,
}

/// A connected peer at this moment.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// From its data folder.
    pub id: NodeId,
    /// The first DNS name of its certificate.
    pub name: String,
    /// Where it is reached, UDP.
    pub addr: SocketAddr,
    /// How strictly it is run.
    pub posture: Posture,
    /// Whether its replica has state, as of its last status frame.
    pub initialized: bool,
    /// Whether it waits to be admitted again, as of its last status frame.
    pub rejoining: bool,
    /// The identity of its cluster, as of its last status frame.
    pub cluster_id: Option<String>,
    /// Whether it has a store of a cluster without an identity, as of its last status frame.
    pub unidentified: bool,
    /// Whether it hears a leader that a majority follows, as of its last status frame.
    pub quorum: bool,
    /// The members of its cluster, as of its last status frame.
    pub members: Vec<NodeId>,
    /// The protocol version spoken with it.
    pub protocol: u32,
    /// Where clients reach it, as of its last status frame.
    pub client_urls: Vec<String>,
    /// The same for clients over WebSocket.
    pub websocket_urls: Vec<String>,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// How long the route has stood.
    pub connected_for: Duration,
    /// Whether this node opened the connection.
    pub dialed: bool,
}

/// The running mesh. Dropping it closes every route.
pub struct Mesh {
    shared: Arc<Shared>,
}

impl Mesh {
    /// Reads the TLS files, opens the UDP endpoint, and starts dialing and accepting.
    #[allow(
        clippy::unused_async,
        reason = "the endpoint needs the runtime that async implies"
    )]
    pub async fn start(
        options: MeshOptions,
        hooks: Arc<dyn MeshHooks>,
    ) -> Result<Arc<Self>, MeshError> {
        let shared = Shared::open(options, hooks)?;
        if let Some(listener) = lifeline::listen(shared.local_addr) {
            let serve = lifeline::serve(Arc::clone(&shared), listener);
            shared.tasks.spawn(serve);
        }
        shared.tasks.spawn(accept::run(Arc::clone(&shared)));
        for index in 0..shared.routes.len() {
            shared.tasks.spawn(dial::run(Arc::clone(&shared), index));
        }
        Ok(Arc::new(Self { shared }))
    }

    /// Sets who serves the requests of peers. Until then they are refused with "not ready".
    pub fn set_rpc_handler(&self, handler: Arc<dyn RpcHandler>) {
        *self.shared.handler.write() = Some(handler);
    }

    /// The UDP address of the endpoint, with the port really bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local_addr
    }

    /// When this node's certificate, as it was read at the start, ends to be valid.
    pub fn certificate_not_after(&self) -> SystemTime {
        self.shared.not_after
    }

    /// The peers connected now, by id.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.shared
            .registry
            .all()
            .iter()
            .map(|peer| peer.status())
            .collect()
    }

    /// Every entry of `--routes` with what it leads to, in the order given.
    pub fn routes(&self) -> Vec<RouteStatus> {
        self.shared.routes.all()
    }

    /// Recent refusals, ours and our peers', newest last. Bounded.
    pub fn refused(&self) -> Vec<Refusal> {
        self.shared.refusals.lock().all()
    }

    /// Changes its number whenever a peer, a peer's status, a route entry or the list of refusals
    /// changes, so that waiting needs no polling.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Tells the peers this node's new status now instead of within the second.
    pub fn status_changed(&self) {
        self.shared.nudge.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Closes every route in an orderly way and frees the port. `disconnected` is called for each
    /// peer before this returns.
    pub async fn shutdown(&self) {
        self.shared.shutdown().await;
    }
}

impl Transport for Mesh {
    fn call(
        &self,
        target: NodeId,
        class: RpcClass,
        group: GroupId,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        rpc::call(&self.shared, target, class, group, request)
    }

    fn connected(&self) -> Vec<NodeId> {
        self.shared
            .registry
            .all()
            .iter()
            .map(|peer| peer.id())
            .collect()
    }

    fn route_since(&self, peer: NodeId) -> Option<Instant> {
        Some(self.shared.registry.find(peer)?.since())
    }

    fn routes_changed(&self) -> watch::Receiver<u64> {
        self.changes()
    }

    fn protocol(&self, peer: NodeId) -> Option<u32> {
        Some(self.shared.registry.find(peer)?.protocol())
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh")
            .field("node", &self.shared.own.node_id)
            .field("name", &self.shared.own.name)
            .field("local_addr", &self.shared.local_addr)
            .finish_non_exhaustive()
    }
}
