//! One node: every part built in the order of its dependencies, stopped in reverse.

mod advertise;
mod authority;
mod bootstrap;
mod certificate;
mod client_tls;
mod formation;
mod health;
mod interfaces;
mod listeners;
mod monitoring;
mod parts;
mod plane;
mod readiness;
mod store;
mod wiring;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use thiserror::Error;
use tokio::task::JoinHandle;
use unibus_broker::{Broker, LameDuck};
use unibus_proto::NodeId;
use unibus_raft::OpenStore;

use crate::access::static_users::{StaticAuthError, StaticUsers};
use crate::access::{Directory, IdentityError};
use crate::config;
use crate::config::args::BusAuth;
use crate::config::auth::StaticAuth;
use crate::config::tls::ClientTls;
use crate::config::websocket::WebSocket;
use crate::config::{Advertise, NodeConfig};
use crate::control::{ControlCounters, ControlServer, ControlTlsError, PlaneParts};
use crate::mesh::{self, Mesh};
use crate::monitor::sys::Advisories;
use crate::monitor::{Monitor, ReloadRequest, ReloadRequests};
use crate::shutdown::{self, Shutdown, Trigger};

pub use self::certificate::{CertificateError, check_route_certificate};
pub use self::client_tls::{ClientTlsError, check_client_tls};
pub use self::interfaces::every_address;
pub use self::listeners::Addresses;
pub use self::parts::server_id;
pub use self::plane::ReloadError;

use self::client_tls::ClientListeners;
use self::health::Health;
use self::listeners::Listeners;
use self::plane::Plane;
use self::store::{Joins, Store};
use self::wiring::{ReplicaSlot, RouteHooks};

/// The version that clients are told: they gate features on it, and it is what our API level
/// supports (nats-surface §5). The product's own version stands in other fields.
pub const ADVERTISED_VERSION: &str = "2.14.0";
/// How long connections get to flush, and leadership to move, when the node stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How long a node without peers may take until its store answers, where it serves nobody before.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Why a node does not start.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The data folder can't be made.
    #[error("the data folder {path:?} can't be made: {source}; choose another with --data-dir")]
    DataDir {
        /// The folder.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A listener can't be bound.
    #[error("can't listen on {address} ({flag}): {source}")]
    Listen {
        /// Which flag chose it.
        flag: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Clients' TLS or WebSocket can't be set up.
    #[error(transparent)]
    ClientTls(#[from] ClientTlsError),
    /// The node's own identity can't be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The configuration's users can't be used.
    #[error(transparent)]
    Users(#[from] StaticAuthError),
    /// The configuration's accounts can't be used.
    #[error(transparent)]
    Accounts(#[from] unibus_broker::AccountsError),
    /// The route secret can't be used.
    #[error(transparent)]
    Secret(#[from] mesh::SecretError),
    /// The control plane's certificate can't be used.
    #[error(transparent)]
    ControlTls(#[from] ControlTlsError),
    /// The route certificate can't be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The mesh does not start.
    #[error(transparent)]
    Mesh(#[from] mesh::MeshError),
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] unibus_raft::StartError),
    /// A fresh single node could not form its group of one.
    #[error("the store can't be initialized: {0}")]
    Initialize(#[from] unibus_raft::InitializeError),
    /// It did not become ready in time.
    #[error("not ready within {0:?}: {1}")]
    NotReady(Duration, String),
}

/// A running node.
pub struct Node {
    broker: Broker,
    users: Option<StaticUsers>,
    store: Option<Store>,
    mesh: Option<Arc<Mesh>>,
    addresses: Addresses,
    clients: ClientListeners,
    trigger: Trigger,
    monitor: Monitor,
    advisories: Advisories,
    reloads: ReloadRequests,
    tasks: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Builds and starts every part. Clients are served when this returns; the store may still be
    /// electing: see [`Node::ready`].
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left running.
    pub async fn start(config: NodeConfig) -> Result<Self, NodeError> {
        // Before anybody hears of this node: a damaged store makes it another one.
        let opened = parts::open_store(&config).await?;
        let id = opened
            .as_ref()
            .map_or_else(parts::passing_id, OpenStore::id);
        let listeners = Listeners::bind(&config).await?;
        let client = listeners.client_addr(&config)?;
        let Plane {
            directory,
            users,
            broker,
            server_id,
        } = Plane::new(&config, &listeners, client, id)?;
        let (trigger, shutdown) = shutdown::channel();
        let slot = Arc::new(ReplicaSlot::default());
        let forming = Arc::default();
        let hooks = RouteHooks {
            broker: broker.clone(),
            replica: Arc::clone(&slot),
            urls: parts::connect_urls(&config, client, listeners.websocket_addr()),
            belonging: opened.as_ref().map(OpenStore::belonging),
            forming: Arc::clone(&forming),
        };
        let mesh = parts::start_mesh(&config, id, hooks).await?;
        let joins = Joins {
            id,
            broker: &broker,
            directory: &directory,
            mesh: mesh.as_ref(),
            slot: &slot,
            forming: &forming,
            shutdown: &shutdown,
        };
        let store = match opened {
            Some(opened) => Some(Store::open(&config, opened, &joins).await?),
            None => None,
        };
        let parts = Parts {
            broker: &broker,
            store: store.as_ref(),
            mesh: mesh.as_ref(),
            control: listeners.control.as_ref().map(ControlServer::counters),
        };
        let addresses = listeners.addresses(client, mesh.as_deref());
        let monitoring = monitoring::start(&config, &addresses, &server_id, &parts, &shutdown);
        let (own, monitor) = ((id, server_id), monitoring.monitor.clone());
        let health = Arc::new(Health::new(&config, client, own, &parts, monitor));
        let mut node = Self {
            broker,
            users,
            store,
            mesh,
            addresses,
            clients: listeners.settings.clone(),
            trigger,
            monitor: monitoring.monitor,
            advisories: monitoring.advisories,
            reloads: monitoring.reloads,
            tasks: monitoring.tasks,
        };
        let jetstream = config.jetstream.as_ref();
        if jetstream.is_some_and(|js| js.serve_when_ready) {
            node.ready(START_PATIENCE).await?;
        }
        node.serve(&config, listeners, (&directory, &health), &shutdown);
        Ok(node)
    }

    /// Lame duck mode: another node leads, there are no new clients, and those that are there are told of
    /// the other nodes and closed one after the other. Returns when the last one has been told to go.
    pub async fn lame_duck(&self, grace: Duration, duration: Duration) {
        self.advisories.lame_duck();
        if let Some(store) = &self.store {
            store.hand_over().await;
        }
        let other_urls = self.mesh.as_deref().map(advertise::peers);
        let plan = LameDuck {
            other_urls: other_urls.unwrap_or_default(),
            grace,
            duration,
        };
        self.broker.lame_duck(plan).await;
    }

    /// Takes other limits: for what is done from here on, on connections that are open too.
    pub fn set_limits(&self, limits: &config::limits::Limits) {
        let mut now = self.broker.limits();
        parts::client_limits(&mut now, limits);
        self.broker.set_limits(now);
        let payload = limits.payload_bytes_max as u64;
        self.broker.update_info(|info| info.max_payload = payload);
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Where NATS clients connect.
    pub fn client_addr(&self) -> SocketAddr {
        self.addresses.client
    }

    /// Reads the certificates of the client listeners again and follows changed settings, for
    /// connections accepted from now on; open ones stay. Listeners do not move, come or go.
    ///
    /// # Errors
    /// [`NodeError::ClientTls`]; then everything is as it was.
    pub fn reload_client_tls(
        &self,
        tls: Option<&ClientTls>,
        websocket: Option<&WebSocket>,
    ) -> Result<(), NodeError> {
        self.prepare_client_tls(tls, websocket)?();
        Ok(())
    }

    /// The first half of [`Self::reload_client_tls`], which changes nothing. What is returned is the second.
    ///
    /// # Errors
    /// [`NodeError::ClientTls`].
    pub fn prepare_client_tls(
        &self,
        tls: Option<&ClientTls>,
        websocket: Option<&WebSocket>,
    ) -> Result<impl FnOnce() + use<'_>, NodeError> {
        Ok(self.clients.prepare(tls, websocket)?)
    }

    /// Waits until the node answers for the cluster: it belongs to one, there is a leader, and it
    /// has caught up.
    ///
    /// # Errors
    /// [`NodeError::NotReady`] after `within`, saying what is missing.
    pub async fn ready(&self, within: Duration) -> Result<(), NodeError> {
        match &self.store {
            Some(store) => store.ready(within).await,
            None => Ok(()),
        }
    }

    /// Resolves with the reason once the store has failed: it takes nothing more until the process is
    /// started again. A node without a store waits for ever.
    pub async fn store_failed(&self) -> String {
        match &self.store {
            Some(store) => store.failed().await,
            None => std::future::pending().await,
        }
    }

    /// Takes the users of another configuration, where a configuration names them. Open connections
    /// follow: new permissions hold at once, and those whose user is gone or changed are closed.
    ///
    /// # Errors
    /// [`ReloadError`]; nothing has changed then.
    pub fn reload_users(&self, auth: &StaticAuth) -> Result<(), ReloadError> {
        match &self.users {
            Some(users) => plane::reload_users(users, &self.broker, auth),
            None => Ok(()),
        }
    }

    /// A wish to read the configuration again that came over `$SYS`; waits for one.
    pub async fn reload_asked(&self) -> ReloadRequest {
        self.reloads.next().await
    }

    /// Notes that another configuration is in force: monitoring says since when.
    pub fn reconfigured(&self) {
        self.monitor.reconfigured();
    }

    /// Stops everything in the reverse order of starting: listeners, leadership, clients, JetStream
    /// and its store, routes.
    pub async fn shutdown(self) {
        self.advisories.shutdown();
        self.trigger.fire();
        if let Some(store) = &self.store {
            store.hand_over().await;
        }
        self.broker.shutdown(STOP_PATIENCE).await;
        for task in self.tasks {
            task.abort();
            let _cancelled = task.await;
        }
        if let Some(store) = self.store {
            store.close().await;
        }
        if let Some(mesh) = &self.mesh {
            mesh.shutdown().await;
        }
    }

    fn serve(
        &mut self,
        config: &NodeConfig,
        listeners: Listeners,
        (directory, health): (&Arc<Directory>, &Arc<Health>),
        shutdown: &Shutdown,
    ) {
        let nats = (listeners.client, self.clients.nats.clone());
        let websocket = self.clients.websocket.as_ref().map(|(ws, _)| ws.clone());
        for accepting in [Some(nats), listeners.websocket.zip(websocket)]
            .into_iter()
            .flatten()
        {
            let serve = listeners::serve_clients(
                self.broker.clone(),
                accepting,
                self.store.as_ref().map(|store| store.caught_up.clone()),
                config.auth.bus(),
                shutdown.receiver(),
            );
            self.tasks.push(tokio::spawn(serve));
        }
        if let (Some(mesh), Some(cluster)) = (&self.mesh, &config.cluster) {
            let (path, until) = (cluster.tls.cert.clone(), mesh.certificate_not_after());
            let watch = certificate::watch(path, until, shutdown.clone());
            self.tasks.push(tokio::spawn(watch));
        }
        if let Some(mesh) = &self.mesh
            && config.advertise != Advertise::Nothing
        {
            let Addresses {
                client, websocket, ..
            } = self.addresses;
            let own = parts::connect_urls(config, client, websocket);
            let tell =
                advertise::follow(Arc::clone(mesh), self.broker.clone(), own, shutdown.clone());
            self.tasks.push(tokio::spawn(tell));
        }
        if let (Some(control), Some(store)) = (listeners.control, &self.store) {
            let parts = PlaneParts {
                replica: store.replica.clone(),
                directory: Arc::clone(directory),
                transport: Arc::clone(&store.transport),
                health: Arc::clone(health) as _,
                mode: config.auth.bus().unwrap_or(BusAuth::Off),
                encrypted_rooms: config.encrypted_rooms,
                names: config.own_names().unwrap_or_default(),
            };
            let run = control.run(parts, shutdown.clone());
            self.tasks.push(tokio::spawn(run));
        }
        for server in [listeners.http, listeners.monitor].into_iter().flatten() {
            let run = server.run(Arc::clone(health) as _, shutdown.clone());
            self.tasks.push(tokio::spawn(run));
        }
    }
}

impl Health {
    fn new(
        config: &NodeConfig,
        client: SocketAddr,
        (id, server_id): (NodeId, String),
        parts: &Parts<'_>,
        monitor: Monitor,
    ) -> Self {
        Self {
            monitor,
            id,
            server_name: config.server_name.clone(),
            server_id,
            cluster_name: config.cluster.as_ref().map(|cluster| cluster.name.clone()),
            posture: parts::posture(config),
            host: client.ip().to_string(),
            port: client.port(),
            payload_bytes_max: config.limits.payload_bytes_max,
            started: Instant::now(),
            started_at: SystemTime::now(),
            broker: parts.broker.clone(),
            replica: parts.store.map(|store| store.replica.clone()),
            mesh: parts.mesh.cloned(),
            caught_up: parts.store.map(|store| store.caught_up.clone()),
        }
    }
}

/// What [`Health`] looks at.
struct Parts<'a> {
    broker: &'a Broker,
    store: Option<&'a Store>,
    mesh: Option<&'a Arc<Mesh>>,
    control: Option<Arc<ControlCounters>>,
}
