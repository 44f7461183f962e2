//! One node: every part built in the order of its dependencies, stopped in reverse.

mod authority;
mod bootstrap;
mod formation;
mod health;
mod readiness;
mod users;
mod wiring;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use unibus_broker::{Broker, BrokerOptions};
use unibus_proto::NodeId;
use unibus_raft::{Observer, Replica, ReplicaOptions, Transport};

use crate::access::{Directory, IdentityError, InternalIdentity};
use crate::config::args::BusAuth;
use crate::config::{Advertise, ClusterConfig, NodeConfig, RouteSecret};
use crate::http::{HttpServer, Surface};
use crate::jetstream::{JetStream, JetStreamHooks, JetStreamOptions};
use crate::mesh::{self, Mesh, MeshOptions, MeshTls, Posture};
use crate::shutdown::{self, Shutdown, Trigger};

use self::health::Health;
use self::wiring::{Alone, Dispatch, ReplicaSlot, RouteHooks, StateObserver};

/// The version that clients are told: they gate features on it, and it is what our API level
/// supports (nats-surface §5). The product's own version stands in other fields.
pub const ADVERTISED_VERSION: &str = "2.14.0";
/// JetStream API level: TTLs and markers, nothing later yet.
const API_LEVEL: u8 = 1;
/// Under `enforce`, how long a node lets clients wait that come before it has caught up.
const ADMISSION_WAIT: Duration = Duration::from_secs(10);
/// How long connections get to flush, and leadership to move, when the node stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

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
    /// The node's own identity can't be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The route secret can't be used.
    #[error(transparent)]
    Secret(#[from] mesh::SecretError),
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
    replica: Replica,
    replica_slot: Arc<ReplicaSlot>,
    jetstream: JetStream,
    mesh: Option<Arc<Mesh>>,
    addresses: Addresses,
    caught_up: watch::Receiver<bool>,
    trigger: Trigger,
    tasks: Vec<JoinHandle<()>>,
}

/// Where a node listens, with the ports really bound.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// NATS clients, TCP.
    pub client: SocketAddr,
    /// The control plane, TCP.
    pub http: SocketAddr,
    /// Monitoring, TCP; `None` is off.
    pub monitor: Option<SocketAddr>,
    /// Routes, UDP; `None` for a single node.
    pub cluster: Option<SocketAddr>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// What is bound before anything starts, so that a port in use is said at once.
struct Listeners {
    client: TcpListener,
    http: HttpServer,
    monitor: Option<HttpServer>,
}

impl Node {
    /// Builds and starts every part. Clients are served when this returns; the store may still be
    /// electing: see [`Node::ready`].
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left running.
    pub async fn start(config: NodeConfig) -> Result<Self, NodeError> {
        make_data_dir(&config.data_dir)?;
        let listeners = Listeners::bind(&config).await?;
        let client = local(&listeners.client, &config)?;
        let id = Replica::node_id_in(&config.data_dir)?;
        let identity = InternalIdentity::load_or_create(&config.internal_id_file)?;
        let directory = Arc::new(Directory::new(config.bus_auth, &identity));
        // Nobody is admitted by what a restart finds on disk until the cluster has confirmed it.
        directory.set_authority(false);
        let options = broker_options(&config, client);
        let server_id = options.server_id.clone();
        let broker = Broker::new(options, Arc::clone(&directory) as _);
        broker.set_node(id);
        let (trigger, shutdown) = shutdown::channel();
        let slot = Arc::new(ReplicaSlot::default());
        let mesh = match &config.cluster {
            Some(cluster) => Some(start_mesh(&config, cluster, id, &broker, &slot).await?),
            None => None,
        };
        let transport: Arc<dyn Transport> = match &mesh {
            Some(mesh) => Arc::clone(mesh) as _,
            None => Arc::new(Alone),
        };
        let hooks = JetStreamHooks::new();
        let observer = Arc::new(StateObserver {
            directory: Arc::clone(&directory),
            jetstream: hooks.clone(),
            replica: Arc::clone(&slot),
        });
        let replica = start_replica(&config, id, &transport, observer, &slot).await?;
        replica.with_state(|state| users::load(state, &replica, &directory));
        let jetstream = JetStream::start(
            broker.clone(),
            replica.clone(),
            jetstream_options(&config),
            transport,
            &hooks,
        );
        if let Some(mesh) = &mesh {
            let slot = OnceLock::from(jetstream.clone());
            let dispatch = Dispatch {
                replica: replica.handler(),
                jetstream: Arc::new(slot),
            };
            mesh.set_rpc_handler(Arc::new(dispatch));
        }
        let (caught_up_sender, caught_up) = watch::channel(false);
        let catching_up = readiness::watch_for(replica.clone(), caught_up_sender, shutdown.clone());
        let authority = authority::follow(
            replica.clone(),
            Arc::clone(&directory),
            caught_up.clone(),
            shutdown.clone(),
        );
        let parts = Parts {
            broker: &broker,
            replica: &replica,
            mesh: &mesh,
            caught_up: &caught_up,
        };
        let health = Arc::new(Health::new(&config, client, server_id, &parts));
        let addresses = listeners.addresses(client, mesh.as_deref());
        let mut node = Self {
            broker,
            replica,
            replica_slot: slot,
            jetstream,
            mesh,
            addresses,
            caught_up,
            trigger,
            tasks: vec![tokio::spawn(catching_up), tokio::spawn(authority)],
        };
        node.spawn(&config, listeners, &health, &shutdown).await?;
        Ok(node)
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Where NATS clients connect.
    pub fn client_addr(&self) -> SocketAddr {
        self.addresses.client
    }

    /// Waits until the node answers for the cluster: it belongs to one, there is a leader, and it
    /// has caught up.
    ///
    /// # Errors
    /// [`NodeError::NotReady`] after `within`, saying what is missing.
    pub async fn ready(&self, within: Duration) -> Result<(), NodeError> {
        let mut caught_up = self.caught_up.clone();
        let waiting = caught_up.wait_for(|done| *done);
        if matches!(tokio::time::timeout(within, waiting).await, Ok(Ok(_))) {
            return Ok(());
        }
        let missing = match self.replica.status() {
            status if !status.initialized => "the node belongs to no cluster yet",
            status if !status.has_quorum => "there is no quorum",
            _ => "the node is still catching up",
        };
        Err(NodeError::NotReady(within, missing.to_owned()))
    }

    /// Stops everything in the reverse order of starting: listeners, JetStream, leadership, clients,
    /// routes, store.
    pub async fn shutdown(self) {
        self.trigger.fire();
        let hand_over = self.replica.transfer_leadership();
        let _timed_out = tokio::time::timeout(STOP_PATIENCE, hand_over).await;
        self.broker.shutdown(STOP_PATIENCE).await;
        // After the clients: what they publish until then is captured and acknowledged.
        self.jetstream.shutdown();
        for task in self.tasks {
            task.abort();
            let _cancelled = task.await;
        }
        self.replica.shutdown().await;
        if let Some(mesh) = &self.mesh {
            mesh.shutdown().await;
        }
        self.replica_slot.set(None);
    }

    async fn spawn(
        &mut self,
        config: &NodeConfig,
        listeners: Listeners,
        health: &Arc<Health>,
        shutdown: &Shutdown,
    ) -> Result<(), NodeError> {
        match &self.mesh {
            None => {
                if !self.replica.status().initialized {
                    let id = NodeId(self.replica.status().node_id);
                    let alone = BTreeMap::from([(id, config.server_name.clone())]);
                    self.replica.initialize(alone).await?;
                }
            }
            Some(mesh) => {
                let (replica, mesh) = (self.replica.clone(), Arc::clone(mesh));
                let name = config.server_name.clone();
                let forming = formation::run(replica, mesh, name, shutdown.clone());
                self.tasks.push(tokio::spawn(forming));
            }
        }
        let bucket = users::ensure_bucket(self.replica.clone(), shutdown.clone());
        self.tasks.push(tokio::spawn(bucket));
        let serve = serve_clients(
            self.broker.clone(),
            listeners.client,
            self.caught_up.clone(),
            config.bus_auth,
            shutdown.receiver(),
        );
        self.tasks.push(tokio::spawn(serve));
        for server in [Some(listeners.http), listeners.monitor]
            .into_iter()
            .flatten()
        {
            let run = server.run(Arc::clone(health) as _, shutdown.clone());
            self.tasks.push(tokio::spawn(run));
        }
        Ok(())
    }
}

impl Listeners {
    async fn bind(config: &NodeConfig) -> Result<Self, NodeError> {
        let failed = |flag, address| {
            move |source| NodeError::Listen {
                flag,
                address,
                source,
            }
        };
        let limits = &config.limits.http;
        let address = config.client_listen;
        let client = TcpListener::bind(address)
            .await
            .map_err(failed("--port", address))?;
        let address = config.http_listen;
        let http = HttpServer::bind(address, Surface::Control, limits.clone())
            .await
            .map_err(failed("--http-port", address))?;
        let monitor = match config.monitor_listen {
            None => None,
            Some(address) => Some(
                HttpServer::bind(address, Surface::Monitor, limits.clone())
                    .await
                    .map_err(failed("--monitor-port", address))?,
            ),
        };
        Ok(Self {
            client,
            http,
            monitor,
        })
    }

    fn addresses(&self, client: SocketAddr, mesh: Option<&Mesh>) -> Addresses {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        Addresses {
            client,
            http: self.http.local_addr().unwrap_or(unknown),
            monitor: self
                .monitor
                .as_ref()
                .map(|m| m.local_addr().unwrap_or(unknown)),
            cluster: mesh.map(Mesh::local_addr),
        }
    }
}

impl Health {
    fn new(config: &NodeConfig, client: SocketAddr, server_id: String, parts: &Parts<'_>) -> Self {
        Self {
            server_name: config.server_name.clone(),
            server_id,
            cluster_name: config.cluster.as_ref().map(|cluster| cluster.name.clone()),
            posture: posture(config),
            host: client.ip().to_string(),
            port: client.port(),
            payload_bytes_max: config.limits.payload_bytes_max,
            started: Instant::now(),
            started_at: SystemTime::now(),
            broker: parts.broker.clone(),
            replica: parts.replica.clone(),
            mesh: parts.mesh.clone(),
            caught_up: parts.caught_up.clone(),
        }
    }
}

/// What [`Health`] looks at.
struct Parts<'a> {
    broker: &'a Broker,
    replica: &'a Replica,
    mesh: &'a Option<Arc<Mesh>>,
    caught_up: &'a watch::Receiver<bool>,
}

/// Accepts clients. Under `enforce` a node that does not know the users yet would refuse people it
/// should admit, and clients take that refusal for final: so it lets them wait, for a while.
async fn serve_clients(
    broker: Broker,
    listener: TcpListener,
    mut caught_up: watch::Receiver<bool>,
    bus_auth: BusAuth,
    stop: watch::Receiver<bool>,
) {
    if bus_auth == BusAuth::Enforce {
        let waiting = caught_up.wait_for(|done| *done);
        // Without a quorum only the node's own identity is admitted: others are told so.
        let _waited = tokio::time::timeout(ADMISSION_WAIT, waiting).await;
    }
    broker.serve(listener, stop).await;
}

fn make_data_dir(path: &Path) -> Result<(), NodeError> {
    std::fs::create_dir_all(path).map_err(|source| NodeError::DataDir {
        path: path.to_path_buf(),
        source,
    })
}

fn local(listener: &TcpListener, config: &NodeConfig) -> Result<SocketAddr, NodeError> {
    let address = config.client_listen;
    listener.local_addr().map_err(|source| NodeError::Listen {
        flag: "--port",
        address,
        source,
    })
}

/// How strictly this node is run. Clients' TLS does not exist yet, so `tls` speaks of the routes.
fn posture(config: &NodeConfig) -> Posture {
    let clustered = config.cluster.is_some();
    let enforce = config.bus_auth == BusAuth::Enforce;
    Posture {
        enforce,
        acl: enforce,
        tls: clustered,
        cluster: clustered,
        store: true,
    }
}

fn broker_options(config: &NodeConfig, client: SocketAddr) -> BrokerOptions {
    let limits = &config.limits;
    let mut own = unibus_broker::Limits {
        payload_bytes_max: limits.payload_bytes_max,
        control_line_bytes_max: limits.control_line_bytes_max,
        pending_bytes_max: limits.pending_bytes_max,
        connections_max: limits.connections_max,
        write_deadline: limits.write_deadline,
        auth_timeout: limits.auth_timeout,
        ping_interval: limits.ping_interval,
        pings_out_max: limits.pings_out_max,
        ..unibus_broker::Limits::default()
    };
    own.route_pending_bytes_max = own.route_pending_bytes_max.max(limits.pending_bytes_max);
    let advertised = match &config.advertise {
        Advertise::Address(address) => Some(address.clone()),
        // An address that means "all of them" would poison clients' server pools.
        Advertise::Listener => (!client.ip().is_unspecified()).then(|| client.to_string()),
        Advertise::Nothing => None,
    };
    BrokerOptions {
        server_name: config.server_name.clone(),
        server_id: server_id(),
        version: ADVERTISED_VERSION.to_owned(),
        cluster: config.cluster.as_ref().map(|cluster| cluster.name.clone()),
        host: client.ip().to_string(),
        port: client.port(),
        connect_urls: advertised.into_iter().collect(),
        auth_required: config.bus_auth == BusAuth::Enforce,
        always_nonce: true,
        jetstream: true,
        api_level: API_LEVEL,
        limits: own,
        ..BrokerOptions::default()
    }
}

/// An id in the shape of nats-server's: `N` and 55 letters and digits, new for every process.
fn server_id() -> String {
    let random: [u8; 34] = rand::random();
    format!("N{}", data_encoding::BASE32_NOPAD.encode(&random))
}

fn jetstream_options(config: &NodeConfig) -> JetStreamOptions {
    JetStreamOptions {
        cluster_name: config.cluster.as_ref().map(|cluster| cluster.name.clone()),
        version: ADVERTISED_VERSION.to_owned(),
        api_level: API_LEVEL,
        ..JetStreamOptions::new(config.server_name.clone())
    }
}

async fn start_mesh(
    config: &NodeConfig,
    cluster: &ClusterConfig,
    node_id: NodeId,
    broker: &Broker,
    replica: &Arc<ReplicaSlot>,
) -> Result<Arc<Mesh>, NodeError> {
    let secret = match &cluster.secret {
        RouteSecret::UserPass { user, pass } => mesh::RouteSecret::from_user_pass(user, pass),
        RouteSecret::File(path) => mesh::RouteSecret::from_file(path)?,
        RouteSecret::None => mesh::RouteSecret::absent(),
    };
    let tls = MeshTls {
        cert: cluster.tls.cert.clone(),
        key: cluster.tls.key.clone(),
        ca: cluster.tls.ca.clone(),
    };
    let options = MeshOptions {
        node_id,
        server_name: config.server_name.clone(),
        cluster_name: cluster.name.clone(),
        bind: cluster.listen,
        routes: cluster.routes.clone(),
        tls,
        secret,
        posture: posture(config),
    };
    let hooks = RouteHooks {
        broker: broker.clone(),
        replica: Arc::clone(replica),
    };
    Ok(Mesh::start(options, Arc::new(hooks)).await?)
}

async fn start_replica(
    config: &NodeConfig,
    id: NodeId,
    transport: &Arc<dyn Transport>,
    observer: Arc<dyn Observer>,
    slot: &ReplicaSlot,
) -> Result<Replica, NodeError> {
    let mut options = ReplicaOptions::new(config.data_dir.join("store"), &config.server_name);
    options.heartbeat = config.timing.heartbeat;
    options.election_min = config.timing.election_min;
    options.election_max = config.timing.election_max;
    options.cache_bytes = usize::try_from(config.limits.cache_bytes).unwrap_or(usize::MAX);
    if let Some(bytes) = config.limits.checkpoint_log_bytes {
        options.checkpoint_log_bytes = bytes;
    }
    let replica = Replica::start(options, id, Arc::clone(transport), observer).await?;
    slot.set(Some(replica.clone()));
    Ok(replica)
}
