//! What all tasks of one mesh share: identity, endpoint, peers, routes, refusals, the stop signal.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};
use quinn::{Endpoint, EndpointConfig, TokioRuntime, VarInt};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use unibus_proto::NodeId;
use unibus_raft::RpcHandler;

use super::MeshHooks;
use super::control::Hello;
use super::dial;
use super::error::MeshError;
use super::limits::{ACCEPTING_MAX, ACCEPTING_PER_ADDRESS_MAX, SHUTDOWN_LINGER};
use super::options::{MeshOptions, Posture, RouteAddr};
use super::refusals::{Refusal, Refusals};
use super::registry::Registry;
use super::routes::{RouteState, Routes};
use super::secret::RouteSecret;
use super::tls::TlsSet;
use crate::seats::{SeatCounts, Seats};

/// Why a connection was closed, as the QUIC application code the peer sees.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum CloseCode {
    Shutdown = 1,
    Refused = 2,
    Duplicate = 3,
    Replaced = 4,
    Own = 5,
    Protocol = 6,
}

impl CloseCode {
    pub(crate) fn wire(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }
}

/// Who this node is on its routes.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) node_id: NodeId,
    /// Random per process: tells a restarted peer from a second connection of the same one, and
    /// this node from another that runs on a copy of its data folder.
    pub(crate) incarnation: u64,
    pub(crate) name: String,
    pub(crate) cluster: String,
    pub(crate) posture: Posture,
    pub(crate) learn_routes: bool,
    pub(crate) versions: RangeInclusive<u32>,
}

pub(crate) struct Shared {
    pub(crate) own: Own,
    pub(crate) secret: RouteSecret,
    pub(crate) hooks: Arc<dyn MeshHooks>,
    pub(crate) endpoint: Endpoint,
    pub(crate) local_addr: SocketAddr,
    /// When this node's certificate ends to be valid.
    pub(crate) not_after: SystemTime,
    pub(crate) handler: RwLock<Option<Arc<dyn RpcHandler>>>,
    pub(crate) registry: Registry,
    pub(crate) routes: Routes,
    pub(crate) refusals: Mutex<Refusals>,
    /// Bumped when anything that [`super::Mesh`] reports has changed.
    pub(crate) changed: watch::Sender<u64>,
    /// Bumped when the local status has changed.
    pub(crate) nudge: watch::Sender<u64>,
    /// Slots for connections in handshake.
    pub(crate) accepting: Arc<Semaphore>,
    /// Of those, by the addresses that were proven.
    pub(crate) accepting_seats: Arc<Seats>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Shared {
    /// Loads the TLS files and binds the endpoint; starts no task of its own.
    pub(crate) fn open(
        options: MeshOptions,
        hooks: Arc<dyn MeshHooks>,
    ) -> Result<Arc<Self>, MeshError> {
        let tls = TlsSet::load(&options.tls)?;
        if tls.name != options.server_name {
            return Err(MeshError::OtherName {
                path: options.tls.cert,
                found: tls.name,
                wanted: options.server_name,
            });
        }
        let bind = |source| MeshError::Bind {
            addr: options.bind,
            source,
        };
        let socket = UdpSocket::bind(options.bind).map_err(bind)?;
        let mut endpoint = Endpoint::new(
            EndpointConfig::default(),
            Some(tls.server),
            socket,
            Arc::new(TokioRuntime),
        )
        .map_err(bind)?;
        endpoint.set_default_client_config(tls.client);
        let local_addr = endpoint.local_addr().map_err(bind)?;
        Ok(Arc::new(Self {
            own: Own {
                node_id: options.node_id,
                incarnation: rand::random(),
                name: options.server_name,
                cluster: options.cluster_name,
                posture: options.posture,
                learn_routes: options.learn_routes,
                versions: options.versions,
            },
            secret: options.secret,
            hooks,
            endpoint,
            local_addr,
            not_after: tls.not_after,
            handler: RwLock::new(None),
            registry: Registry::default(),
            routes: Routes::new(options.routes),
            refusals: Mutex::new(Refusals::default()),
            changed: watch::Sender::new(0),
            nudge: watch::Sender::new(0),
            accepting: Arc::new(Semaphore::new(ACCEPTING_MAX)),
            accepting_seats: Seats::new(ACCEPTING_PER_ADDRESS_MAX, Arc::<SeatCounts>::default()),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    /// How this node presents itself now.
    pub(crate) fn hello(&self) -> Hello {
        let status = self.hooks.local_status();
        Hello {
            protocol_min: *self.own.versions.start(),
            protocol_max: *self.own.versions.end(),
            cluster: self.own.cluster.clone(),
            node: self.own.node_id,
            incarnation: self.own.incarnation,
            name: self.own.name.clone(),
            posture: self.own.posture,
            initialized: status.initialized,
            cluster_id: status.cluster_id,
            unidentified: status.unidentified,
        }
    }

    /// Where nodes are reached, this one included; nothing where routes are not learnt.
    pub(crate) fn known_routes(&self) -> Vec<String> {
        if !self.own.learn_routes {
            return Vec::new();
        }
        let connected = self.routes.all().into_iter();
        let connected = connected.filter(|entry| matches!(entry.state, RouteState::Connected(_)));
        let mut known: Vec<String> = connected.map(|entry| entry.route.to_string()).collect();
        known.push(self.local_addr.to_string());
        known
    }

    /// Dials what a peer tells of, where it is new. Only loopback: nobody may send this node to other
    /// hosts.
    pub(crate) fn learn_routes(self: &Arc<Self>, told: Vec<String>) {
        if !self.own.learn_routes {
            return;
        }
        for route in told
            .iter()
            .filter_map(|text| text.parse::<RouteAddr>().ok())
        {
            let address = route.host.parse::<IpAddr>().ok();
            let Some(address) = address.filter(IpAddr::is_loopback) else {
                continue;
            };
            if SocketAddr::new(address, route.port) == self.local_addr {
                continue;
            }
            if let Some(index) = self.routes.add(route) {
                self.tasks.spawn(dial::run(Arc::clone(self), index));
            }
        }
    }

    pub(crate) fn bump(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Remembers and logs a refusal.
    pub(crate) fn refused(&self, refusal: Refusal) {
        self.refusals.lock().record(refusal);
        self.bump();
    }

    /// Sets an entry's state and tells who waits for it.
    pub(crate) fn route_is(&self, index: usize, state: RouteState) {
        if self.routes.set(index, state) {
            self.bump();
        }
    }

    /// Starts the end: no new connections, all existing ones closed.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
        self.endpoint
            .close(CloseCode::Shutdown.wire(), b"shutting down");
    }

    pub(crate) async fn shutdown(&self) {
        self.stop();
        self.tasks.close();
        // The handler may own the mesh: it is let go, so that both can be dropped.
        let handler = self.handler.write().take();
        drop(handler);
        // Both are bounded: a peer that does not answer must not hold up the stop of this node.
        let quiet = tokio::time::timeout(SHUTDOWN_LINGER, async {
            self.tasks.wait().await;
            self.endpoint.wait_idle().await;
        });
        if quiet.await.is_err() {
            tracing::debug!("routes did not close within {SHUTDOWN_LINGER:?}");
        }
    }
}
