//! One node: every part built in the order of its dependencies, stopped in reverse.

mod authority;
mod bootstrap;
mod formation;
mod health;
mod listeners;
mod parts;
mod readiness;
mod users;
mod wiring;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use unibus_broker::Broker;
use unibus_proto::NodeId;
use unibus_raft::{Replica, Transport};

use crate::access::{Directory, IdentityError, InternalIdentity};
use crate::config::NodeConfig;
use crate::jetstream::{JetStream, JetStreamHooks};
use crate::mesh::{self, Mesh};
use crate::shutdown::{self, Shutdown, Trigger};

pub use self::listeners::Addresses;

use self::health::Health;
use self::listeners::Listeners;
use self::wiring::{Alone, Dispatch, ReplicaSlot, StateObserver};

/// The version that clients are told: they gate features on it, and it is what our API level
/// supports (nats-surface §5). The product's own version stands in other fields.
pub const ADVERTISED_VERSION: &str = "2.14.0";
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
        parts::make_data_dir(&config.data_dir)?;
        let listeners = Listeners::bind(&config).await?;
        let client = listeners.client_addr(&config)?;
        let id = Replica::node_id_in(&config.data_dir)?;
        let (directory, broker, server_id) = message_plane(&config, client, id)?;
        let (trigger, shutdown) = shutdown::channel();
        let slot = Arc::new(ReplicaSlot::default());
        let mesh = match &config.cluster {
            Some(cluster) => Some(parts::start_mesh(&config, cluster, id, &broker, &slot).await?),
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
        let replica = parts::start_replica(&config, id, &transport, observer, &slot).await?;
        replica.with_state(|state| users::load(state, &replica, &directory));
        let jetstream = JetStream::start(
            broker.clone(),
            replica.clone(),
            parts::jetstream_options(&config),
            transport,
            &hooks,
        );
        if let Some(mesh) = &mesh {
            mesh.set_rpc_handler(Arc::new(Dispatch {
                replica: replica.handler(),
                jetstream: jetstream.clone(),
            }));
        }
        let (caught_up, tasks) = follow_cluster(&replica, &directory, &shutdown);
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
            tasks,
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
        let serve = listeners::serve_clients(
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

impl Health {
    fn new(config: &NodeConfig, client: SocketAddr, server_id: String, parts: &Parts<'_>) -> Self {
        Self {
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

/// Who may connect, and the broker they connect to.
fn message_plane(
    config: &NodeConfig,
    client: SocketAddr,
    id: NodeId,
) -> Result<(Arc<Directory>, Broker, String), NodeError> {
    let identity = InternalIdentity::load_or_create(&config.internal_id_file)?;
    let directory = Arc::new(Directory::new(config.bus_auth, &identity));
    // Nobody is admitted by what a restart finds on disk until the cluster has confirmed it.
    directory.set_authority(false);
    let options = parts::broker_options(config, client);
    let server_id = options.server_id.clone();
    let broker = Broker::new(options, Arc::clone(&directory) as _);
    broker.set_node(id);
    Ok((directory, broker, server_id))
}

/// Starts what watches whether this node may speak for the cluster.
fn follow_cluster(
    replica: &Replica,
    directory: &Arc<Directory>,
    shutdown: &Shutdown,
) -> (watch::Receiver<bool>, Vec<JoinHandle<()>>) {
    let (sender, caught_up) = watch::channel(false);
    let catching_up = readiness::watch_for(replica.clone(), sender, shutdown.clone());
    let authority = authority::follow(
        replica.clone(),
        Arc::clone(directory),
        caught_up.clone(),
        shutdown.clone(),
    );
    (
        caught_up,
        vec![tokio::spawn(catching_up), tokio::spawn(authority)],
    )
}
