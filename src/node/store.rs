//! The part of a node that stores: the replica, JetStream over it, and what follows the cluster. A
//! node whose configuration leaves JetStream out has none of it and touches no disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use unibus_broker::Broker;
use unibus_proto::NodeId;
use unibus_raft::{OpenStore, Replica, Transport};

use super::wiring::{Alone, ReplicaSlot, StateObserver};
use super::{NodeError, STOP_PATIENCE, authority, formation, parts, readiness};
use crate::access::Directory;
use crate::access::first_users::FirstUsers;
use crate::config::NodeConfig;
use crate::control::buckets;
use crate::control::follow::Follower;
use crate::jetstream::{JetStream, JetStreamHooks};
use crate::mesh::Mesh;
use crate::operate;
use crate::shutdown::Shutdown;

/// How often it is looked whether the store has failed.
const FAILURE_LOOK: Duration = Duration::from_secs(1);

/// What the store is joined to.
pub(super) struct Joins<'a> {
    pub(super) id: NodeId,
    pub(super) broker: &'a Broker,
    pub(super) directory: &'a Arc<Directory>,
    pub(super) mesh: Option<&'a Arc<Mesh>>,
    pub(super) slot: &'a Arc<ReplicaSlot>,
    /// See [`super::wiring::RouteHooks`].
    pub(super) forming: &'a Arc<AtomicBool>,
    pub(super) shutdown: &'a Shutdown,
}

/// The broker as the account sees it whose streams these are.
fn account_of(config: &NodeConfig, broker: &Broker) -> Broker {
    let jetstream = config.jetstream.as_ref();
    let name = jetstream.and_then(|jetstream| jetstream.account.as_deref());
    // The first account of a node is never one too many.
    name.and_then(|name| broker.account(name))
        .unwrap_or_else(|| broker.clone())
}

/// An open store.
pub(super) struct Store {
    pub(super) replica: Replica,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) jetstream: JetStream,
    pub(super) caught_up: watch::Receiver<bool>,
    slot: Arc<ReplicaSlot>,
    tasks: Vec<JoinHandle<()>>,
}

impl Store {
    /// Starts it on what was opened, and what serves it; elections and replay may still be going on.
    pub(super) async fn open(
        config: &NodeConfig,
        opened: OpenStore,
        joins: &Joins<'_>,
    ) -> Result<Self, NodeError> {
        let transport: Arc<dyn Transport> = match joins.mesh {
            Some(mesh) => Arc::clone(mesh) as _,
            None => Arc::new(Alone),
        };
        let hooks = JetStreamHooks::new();
        let observer = Arc::new(StateObserver {
            follower: config
                .auth
                .bus()
                .map(|_| Follower::new(Arc::clone(joins.directory))),
            broker: joins.broker.clone(),
            jetstream: hooks.clone(),
            replica: Arc::clone(joins.slot),
        });
        let observing = Arc::clone(&observer) as _;
        let replica = parts::start_replica(opened, &transport, observing, joins.slot).await?;
        replica.with_state(|state| observer.resync(state, &replica));
        let options = parts::jetstream_options(config);
        let jetstream = JetStream::start(
            account_of(config, joins.broker),
            replica.clone(),
            options,
            Arc::clone(&transport),
            &hooks,
        );
        let mut store = Self {
            caught_up: watch::channel(false).1,
            replica,
            transport,
            jetstream,
            slot: Arc::clone(joins.slot),
            tasks: Vec::new(),
        };
        operate::start(operate::Parts {
            broker: joins.broker.clone(),
            replica: store.replica.clone(),
            mesh: joins.mesh.cloned(),
            cluster_name: config.cluster.as_ref().map(|cluster| cluster.name.clone()),
        });
        store.follow_cluster(config, joins);
        store.form(config, joins).await?;
        Ok(store)
    }

    /// Resolves with the reason once the store takes nothing more. The reason is looked for now and
    /// then: whoever waits for it has nothing better to do.
    pub(super) async fn failed(&self) -> String {
        loop {
            if let Some(reason) = self.replica.status().fatal {
                return reason;
            }
            tokio::time::sleep(FAILURE_LOOK).await;
        }
    }

    /// Starts what watches whether this node may speak for the cluster.
    fn follow_cluster(&mut self, config: &NodeConfig, joins: &Joins<'_>) {
        let (sender, caught_up) = watch::channel(false);
        self.caught_up = caught_up;
        let control_plane = config.auth.bus().map(|_| readiness::Beginnings {
            first_users: config.internal_id_file.as_deref().map(FirstUsers::beside),
        });
        self.spawn(readiness::watch_for(
            self.replica.clone(),
            sender,
            control_plane,
            joins.shutdown.clone(),
        ));
        self.spawn(authority::follow(
            self.replica.clone(),
            Arc::clone(joins.directory),
            self.caught_up.clone(),
            config.access_staleness,
            joins.shutdown.clone(),
        ));
        if config.auth.bus().is_some() {
            let making = buckets::ensure(self.replica.clone(), joins.shutdown.clone());
            self.spawn(making);
        }
    }

    /// Makes a node alone a group of one; lets a node with peers form or join their group.
    async fn form(&mut self, config: &NodeConfig, joins: &Joins<'_>) -> Result<(), NodeError> {
        let name = config.server_name.clone();
        match joins.mesh {
            None if self.replica.status().initialized => {}
            None => {
                let alone = BTreeMap::from([(joins.id, name)]);
                self.replica.initialize(alone).await?;
            }
            Some(mesh) => {
                // Where routes are learnt they begin with one node that names no other: it is the seed.
                let learns = config.cluster.as_ref().is_some_and(|c| c.learn_routes);
                let formation = formation::Formation {
                    replica: self.replica.clone(),
                    mesh: Arc::clone(mesh),
                    name,
                    alone_after: match learns {
                        true => Duration::ZERO,
                        false => formation::ALONE_AFTER,
                    },
                    forming: Arc::clone(joins.forming),
                };
                self.spawn(formation::run(formation, joins.shutdown.clone()));
            }
        }
        Ok(())
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(tokio::spawn(task));
    }

    /// Waits until the node answers for the cluster, or says what is missing.
    pub(super) async fn ready(&self, within: Duration) -> Result<(), NodeError> {
        let mut caught_up = self.caught_up.clone();
        let waiting = caught_up.wait_for(|done| *done);
        if matches!(tokio::time::timeout(within, waiting).await, Ok(Ok(_))) {
            return Ok(());
        }
        let missing = match self.replica.status() {
            status if status.rejoining => "the node lost its store and waits to be admitted again",
            status if !status.initialized => "the node belongs to no cluster yet",
            status if !status.has_quorum => "there is no quorum",
            _ => "the node is still catching up",
        };
        Err(NodeError::NotReady(within, missing.to_owned()))
    }

    /// Lets another node lead, where there is one, for at most [`STOP_PATIENCE`].
    pub(super) async fn hand_over(&self) {
        let hand_over = self.replica.transfer_leadership();
        let _timed_out = tokio::time::timeout(STOP_PATIENCE, hand_over).await;
    }

    /// Closes it. Clients are gone by now: what they published before is captured and acknowledged.
    pub(super) async fn close(self) {
        self.jetstream.shutdown();
        for task in self.tasks {
            task.abort();
            let _cancelled = task.await;
        }
        self.replica.shutdown().await;
        self.slot.set(None);
    }
}
