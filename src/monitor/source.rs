//! Where monitoring documents take their facts from: what was fixed at the start, and handles on the
//! parts that know the rest. Reads only.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;
use unibus_broker::{Broker, BrokerStats};
use unibus_raft::{Replica, ReplicaStatus};

use super::process::Process;
use super::reload::{self, ReloadRequests, Reloader};
use crate::config::websocket::WebSocket;
use crate::control::ControlCounters;
use crate::jetstream::JetStream;
use crate::mesh::{Mesh, PeerStatus};

/// What does not change while the node runs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `server_id` of INFO.
    pub server_id: String,
    /// The node's name.
    pub server_name: String,
    /// The version that clients are told.
    pub version: String,
    /// Where clients connect.
    pub client: SocketAddr,
    /// Where monitoring listens; `None` is off.
    pub monitor: Option<SocketAddr>,
    /// The cluster's name; `None` for a single node.
    pub cluster_name: Option<String>,
    /// Where other nodes connect.
    pub cluster: Option<SocketAddr>,
    /// The other nodes, as configured.
    pub route_urls: Vec<String>,
    /// Whether clients speak TLS.
    pub tls_required: bool,
    /// Whether they show certificates.
    pub tls_verify: bool,
    /// Where WebSocket clients connect, and how.
    pub websocket: Option<(SocketAddr, WebSocket)>,
    /// Folder of the store.
    pub store_dir: PathBuf,
    /// JetStream's domain.
    pub domain: Option<String>,
    /// Most bytes of streams in memory; `None` = no limit.
    pub max_memory: Option<u64>,
    /// Most bytes of streams in files; `None` = no limit.
    pub max_storage: Option<u64>,
    /// JetStream requests with unknown fields are refused.
    pub strict: bool,
    /// JSON documents are told to any web page that asks for JSONP, as by nats-server.
    pub jsonp: bool,
    /// The operator's words about this node.
    pub tags: Vec<String>,
    /// The account of `$SYS`.
    pub system_account: Arc<str>,
    /// The account that JetStream serves.
    pub jetstream_account: String,
    /// Accounts that are configured, whether somebody is connected or not.
    pub accounts: Vec<String>,
}

/// Everything that documents are made from. A cheap handle.
#[derive(Clone)]
pub struct Monitor(Arc<Inner>);

struct Inner {
    facts: Facts,
    broker: Broker,
    store: Option<StorePart>,
    mesh: Option<Arc<Mesh>>,
    process: Process,
    started: Instant,
    started_at: SystemTime,
    /// When the configuration in force was read.
    configured_at: Mutex<SystemTime>,
    reloader: Reloader,
    requests: RequestCounts,
    /// Documents sent to the system account so far: `seq` of their envelopes.
    sequence: AtomicU64,
}

/// The part of a node that stores.
#[derive(Clone, Debug)]
pub struct StorePart {
    /// The replica.
    pub replica: Replica,
    /// JetStream over it.
    pub jetstream: JetStream,
    /// Whether it has caught up since the start.
    pub caught_up: watch::Receiver<bool>,
    /// What the control plane counts, where the node has one.
    pub control: Option<Arc<ControlCounters>>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor")
            .field("server_id", &self.0.facts.server_id)
            .finish_non_exhaustive()
    }
}

impl Monitor {
    /// Joins the parts. The node counts as started now. What comes with it is asked for over `$SYS` and
    /// has to be answered by whoever knows the configuration.
    #[must_use]
    pub fn new(
        facts: Facts,
        broker: Broker,
        store: Option<StorePart>,
        mesh: Option<Arc<Mesh>>,
    ) -> (Self, ReloadRequests) {
        let (reloader, requests) = reload::channel();
        let monitor = Self(Arc::new(Inner {
            facts,
            broker,
            store,
            mesh,
            process: Process::new(),
            started: Instant::now(),
            started_at: SystemTime::now(),
            configured_at: Mutex::new(SystemTime::now()),
            reloader,
            requests: RequestCounts::default(),
            sequence: AtomicU64::new(0),
        }));
        (monitor, requests)
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.0.facts
    }

    pub(crate) fn broker(&self) -> &Broker {
        &self.0.broker
    }

    pub(crate) fn store(&self) -> Option<&StorePart> {
        self.0.store.as_ref()
    }

    pub(crate) fn process(&self) -> &Process {
        &self.0.process
    }

    pub(crate) fn stats(&self) -> BrokerStats {
        self.0.broker.stats()
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.0.started.elapsed()
    }

    pub(crate) fn started_at(&self) -> SystemTime {
        self.0.started_at
    }

    pub(crate) fn configured_at(&self) -> SystemTime {
        *self.0.configured_at.lock()
    }

    pub(crate) fn reloader(&self) -> &Reloader {
        &self.0.reloader
    }

    /// Another configuration is in force from now on.
    pub(crate) fn reconfigured(&self) {
        *self.0.configured_at.lock() = SystemTime::now();
    }

    /// When this node's route certificate ends to be valid, seconds since 1970; `None` for a node without routes.
    pub(crate) fn certificate_not_after(&self) -> Option<u64> {
        let not_after = self.0.mesh.as_ref()?.certificate_not_after();
        let since = not_after.duration_since(SystemTime::UNIX_EPOCH);
        Some(since.map_or(0, |since| since.as_secs()))
    }

    /// The connected peers.
    pub(crate) fn peers(&self) -> Vec<PeerStatus> {
        self.0
            .mesh
            .as_ref()
            .map_or_else(Vec::new, |mesh| mesh.peers())
    }

    /// The replica's standing, where there is one.
    pub(crate) fn replica_status(&self) -> Option<ReplicaStatus> {
        self.store().map(|store| store.replica.status())
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.store()
            .is_some_and(|store| store.replica.leadership().borrow().is_leader)
    }

    pub(crate) fn requests(&self) -> &RequestCounts {
        &self.0.requests
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.0.sequence.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// The endpoints whose requests are counted.
pub(crate) const ENDPOINTS: [&str; 18] = [
    "/",
    "/status",
    "/status.json",
    "/varz",
    "/connz",
    "/routez",
    "/subsz",
    "/subscriptionsz",
    "/gatewayz",
    "/leafz",
    "/accountz",
    "/accstatz",
    "/jsz",
    "/healthz",
    "/livez",
    "/ipqueuesz",
    "/raftz",
    "/metrics",
];

/// How often each endpoint was asked: `http_req_stats`.
#[derive(Debug, Default)]
pub(crate) struct RequestCounts {
    answered: [AtomicU64; ENDPOINTS.len()],
    refused: AtomicU64,
}

impl RequestCounts {
    /// Counts a request for `path`; false where nothing is there.
    pub(crate) fn count(&self, path: &str) -> bool {
        let at = ENDPOINTS.iter().position(|known| *known == path);
        if let Some(at) = at {
            self.answered[at].fetch_add(1, Ordering::Relaxed);
        }
        at.is_some()
    }

    /// Counts a request that was refused.
    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Endpoints that were asked, with how often.
    pub(crate) fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.answered.iter().map(|c| c.load(Ordering::Relaxed));
        ENDPOINTS.into_iter().zip(counts)
    }

    /// Requests that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}
