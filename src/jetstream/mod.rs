//! JetStream: joins the broker, the replica and the pure state into streams, key-value buckets and
//! consumers as NATS clients know them.
//!
//! - `ingest`: messages of stream subjects → batches of commands → acknowledgements.
//! - `api`: `$JS.API.>` → commands and reads → answers.
//! - `inlet`, `forward`: acknowledgements and pull requests → the engine of the leader.
//! - `delivery`: on the leader, the engine that serves consumers.
//! - `advisory`: what happened, for whoever listens.
//! - `clock`: on the leader, the passing of time; `schedules`: what is published because of it.
//! - `archive`: streams as files, for `STREAM.SNAPSHOT` and `STREAM.RESTORE`.
//! - `hooks`: on every node, which subjects are captured.
//!
//! Every node serves the whole API to its own clients (messages that came over a route were captured
//! at their origin); writes reach the leader inside the replica. Nothing here is durable: what must
//! survive is in the state.

mod advisory;
mod api;
mod archive;
mod batches;
mod clock;
mod consumer_info;
mod core;
mod delivery;
mod domain;
mod fast;
mod flow;
mod forward;
pub mod fuzzing;
mod hooks;
mod ingest;
mod inlet;
mod inputs;
mod intake;
mod internal;
mod leader;
mod letters;
mod orders;
mod reign;
mod report;
mod republish;
mod rules;
mod runner;
mod schedules;
mod sender;
mod serve;
mod settle;
mod sourcing;
mod subject;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod ticker;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use unibus_broker::{Broker, ServiceId};
use unibus_proto::NodeId;
use unibus_raft::{Replica, Transport};
use unibus_state::command::Command;
use unibus_state::limits::Limits;
use unibus_state::{Effect, State};

pub(crate) use self::report::{StreamReport, Totals};

use self::api::{Api, Reader};
use self::batches::Stage;
use self::core::Core;
use self::delivery::Engine;
use self::domain::DomainApi;
use self::hooks::Hooks;
use self::ingest::{Capture, Ingest};
use self::inlet::{Acknowledgements, Inlet};
use crate::config::batches::BatchLimits;

/// How JetStream presents itself.
#[derive(Clone, Debug)]
pub struct JetStreamOptions {
    /// This server's name, as in INFO.
    pub server_name: String,
    /// The cluster's name; `None` = stand-alone.
    pub cluster_name: Option<String>,
    /// The JetStream domain, shown in `$JS.API.INFO`.
    pub domain: Option<String>,
    /// The version clients are told, as in INFO.
    pub version: String,
    /// The JetStream API level clients are told, as in INFO.
    pub api_level: u8,
    /// What the account and the server may use; told to the cluster at start.
    pub limits: Limits,
    /// Refuses requests with fields that it does not know (10025).
    pub strict: bool,
    /// What a consumer may ask for.
    pub consumer_limits: ConsumerLimits,
    /// Bounds of the batches that publishers of this node send.
    pub batches: BatchLimits,
}

/// What a consumer may ask for; `None` = no limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ConsumerLimits {
    /// Messages of one pull request.
    pub max_request_batch: Option<u64>,
    /// Unacknowledged messages.
    pub max_ack_pending: Option<u64>,
}

impl ConsumerLimits {
    /// No limits.
    pub const NONE: Self = Self {
        max_request_batch: None,
        max_ack_pending: None,
    };
}

impl JetStreamOptions {
    /// Stand-alone defaults.
    pub fn new(server_name: impl Into<String>) -> Self {
        Self {
            server_name: server_name.into(),
            cluster_name: None,
            domain: None,
            version: "2.14.0".to_owned(),
            api_level: 1,
            limits: Limits::default(),
            strict: false,
            consumer_limits: ConsumerLimits::NONE,
            batches: BatchLimits::default(),
        }
    }
}

/// The part of JetStream that the replica's observer talks to. Made before the replica; what it
/// hears before [`JetStream::start`] is made good by a look at the whole state then.
#[derive(Clone, Debug, Default)]
pub struct JetStreamHooks(Arc<Hooks>);

impl JetStreamHooks {
    /// Unbound hooks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Follows what entries changed; to be called from `Observer::applied` on every node. Quick, and
    /// never reads the state through the replica.
    pub fn applied(&self, state: &State, effects: &[Effect]) {
        self.0.applied(state, effects);
    }

    /// Follows a state that was replaced as a whole (a snapshot was installed).
    pub fn resync(&self, state: &State) {
        self.0.resync(state);
    }
}

/// JetStream of this node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JetStream {
    core: Arc<Core>,
    running: Arc<Mutex<Running>>,
}

/// What has to be ended.
#[derive(Debug, Default)]
struct Running {
    services: Vec<ServiceId>,
    tasks: Vec<JoinHandle<()>>,
}

impl JetStream {
    /// Starts serving. Must be called inside a tokio runtime, after the replica has started with an
    /// observer that calls `hooks`. `leader_link` carries `RpcClass::Leader`.
    pub fn start(
        broker: Broker,
        replica: Replica,
        options: JetStreamOptions,
        leader_link: Arc<dyn Transport>,
        hooks: &JetStreamHooks,
    ) -> Self {
        let domain = options.domain.as_deref().map(Arc::from);
        let ingest = Ingest::new(domain, options.batches);
        let reader = Reader::new();
        let core = Arc::new(Core {
            broker: broker.clone(),
            replica: replica.clone(),
            options,
            hooks: Arc::clone(&hooks.0),
            ingest: Arc::clone(&ingest),
            leader_link,
            engine: Engine::new(),
            inlet: Inlet::default(),
            sinks: sourcing::Sinks::default(),
            counters: api::Counters::default(),
            reign: reign::Reign::default(),
        });
        let mut tasks = Vec::from(ingest.start(broker.clone(), replica.clone()));
        tasks.push(tokio::spawn(delivery::run(Arc::clone(&core))));
        tasks.push(tokio::spawn(forward::run(Arc::clone(&core))));
        tasks.push(tokio::spawn(rules::run(Arc::clone(&core))));
        tasks.push(tokio::spawn(clock::run(Arc::clone(&core))));
        tasks.push(tokio::spawn(republish::run(Arc::clone(&core))));
        tasks.push(tokio::spawn(sourcing::run(Arc::clone(&core))));
        tasks.push(tokio::spawn(schedules::run(Arc::clone(&core))));
        let stage = Arc::new(Stage::new(core.options.batches));
        tasks.push(tokio::spawn(Arc::clone(&stage).tidy()));
        let capture = Arc::new(Capture {
            ingest,
            hooks: Arc::clone(&core.hooks),
            broker: broker.clone(),
            stage: Arc::clone(&stage),
        });
        core.hooks.attach(broker.clone(), capture.clone());
        replica.with_state(|state| core.hooks.resync(state));
        let acknowledgements = Arc::new(Acknowledgements::new(Arc::clone(&core)));
        if replica.with_state(|state| *state.limits() != core.options.limits) {
            // First in the queue: whatever this node's clients ask for comes after it.
            drop(
                core.ingest
                    .call(&Command::Limits(core.options.limits.clone())),
            );
        }
        let api = Arc::new(Api::new(Arc::clone(&core), reader));
        let domain = core.options.domain.as_deref().map(|domain| {
            let filter = format!("$JS.{domain}.API.>");
            let service = DomainApi::new(domain, Arc::clone(&api), capture);
            broker.add_service(&filter, Arc::new(service))
        });
        let mut services = vec![
            broker.add_service("$JS.API.>", api),
            broker.add_service("$JS.ACK.>", acknowledgements.clone()),
            broker.add_service("$JS.FC.>", acknowledgements),
        ];
        services.extend(domain);
        let running = Running { services, tasks };
        Self {
            core,
            running: Arc::new(Mutex::new(running)),
        }
    }

    /// Serves `RpcClass::Leader`. Everything whose order matters happens before the future is
    /// polled. `Err` is a text for the peer's log.
    pub fn handle_leader_rpc(
        &self,
        from: NodeId,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        serve::serve(&self.core, from, &request)
    }

    /// Stops serving: captures nothing more, answers nothing more. Proposals on their way may still
    /// be applied.
    pub fn shutdown(&self) {
        self.core.hooks.detach();
        let running = std::mem::take(&mut *self.running.lock());
        for service in running.services {
            self.core.broker.remove_service(service);
        }
        self.core.ingest.stop();
        for task in running.tasks {
            task.abort();
        }
    }
}
