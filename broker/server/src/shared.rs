//! What all connections and routes of one broker share.
//!
//! Owns the tables, the counters, the registry of connections and the pool of engines for publishes
//! from inside the node.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use unibus_proto::NodeId;
use unibus_proto::encoder;
use unibus_proto::handshake::ServerInfo;

use crate::exchange::Answers;
use crate::options::{BrokerOptions, Limits};
use crate::outbound::{Close, Outbound};
use crate::places::Places;
use crate::plane::{Plane, Planes};
use crate::ports::{Authenticator, Events};
use crate::reason::CloseReason;
use crate::registry::{Record, Registry};
use crate::stats::Counters;

/// The id of a node that was not told its own.
pub(crate) const NODE_UNKNOWN: NodeId = NodeId(0);

pub(crate) struct Shared {
    pub(crate) options: BrokerOptions,
    limits: ArcSwap<Limits>,
    auth_required: AtomicBool,
    pub(crate) auth: Arc<dyn Authenticator>,
    pub(crate) info: ArcSwap<ServerInfo>,
    pub(crate) planes: Planes,
    /// The account of `$SYS`.
    pub(crate) system: ArcSwapOption<Plane>,
    /// By account: what its services owe to others.
    pub(crate) answers: Mutex<HashMap<Arc<str>, Arc<Answers>>>,
    /// The receiver of what stays inside the node; nothing is ever written to it.
    pub(crate) inner: Arc<Outbound>,
    pub(crate) counters: Counters,
    /// This node, or [`NODE_UNKNOWN`].
    pub(crate) node: ArcSwap<NodeId>,
    pub(crate) registry: Registry,
    pub(crate) places: Arc<Places>,
    /// A session has applied a grant.
    pub(crate) regranted: Notify,
    /// Everyone has been told to go.
    stopped: AtomicBool,
    /// No more clients are accepted.
    pub(crate) closing: watch::Sender<bool>,
    events: ArcSwapOption<Box<dyn Events>>,
    /// A connection ended.
    pub(crate) gone: Notify,
    next_id: AtomicU64,
}

impl Shared {
    pub(crate) fn new(options: BrokerOptions, auth: Arc<dyn Authenticator>) -> Self {
        Self {
            info: ArcSwap::from_pointee(server_info(&options)),
            limits: ArcSwap::from_pointee(options.limits.clone()),
            auth_required: AtomicBool::new(options.auth_required),
            options,
            auth,
            planes: Planes::new(),
            system: ArcSwapOption::empty(),
            answers: Mutex::default(),
            inner: Arc::new(Outbound::new(0, usize::MAX, None)),
            counters: Counters::default(),
            node: ArcSwap::from_pointee(NODE_UNKNOWN),
            registry: Registry::default(),
            places: Arc::default(),
            regranted: Notify::new(),
            stopped: AtomicBool::new(false),
            closing: watch::Sender::new(false),
            events: ArcSwapOption::empty(),
            gone: Notify::new(),
            next_id: AtomicU64::new(1),
        }
    }

    pub(crate) fn limits(&self) -> arc_swap::Guard<Arc<Limits>> {
        self.limits.load()
    }

    /// Other limits from now on, also for those who are connected.
    pub(crate) fn set_limits(&self, limits: Limits) {
        let payload = limits.payload_bytes_max as u64;
        self.limits.store(Arc::new(limits));
        for record in self.registry.records() {
            record.outbound.nudge();
        }
        if self.info.load().max_payload != payload {
            self.announce(|info| info.max_payload = payload);
        }
    }

    pub(crate) fn is_auth_required(&self) -> bool {
        self.auth_required.load(Ordering::Relaxed)
    }

    pub(crate) fn set_auth_required(&self, required: bool) {
        if self.auth_required.swap(required, Ordering::Relaxed) != required {
            self.announce(|info| info.auth_required = required);
        }
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn set_events(&self, events: Box<dyn Events>) {
        self.events.store(Some(Arc::new(events)));
    }

    /// Tells whoever listens to connections coming and going.
    pub(crate) fn tell(&self, what: impl FnOnce(&dyn Events)) {
        if let Some(events) = &*self.events.load() {
            what(&***events);
        }
    }

    /// Moves a connection from the open ones to the closed ones.
    pub(crate) fn unregister(&self, record: &Record, reason: CloseReason, subscriptions: usize) {
        let kept = self.limits().closed_connections_kept;
        let report = self.registry.closed(record, reason, subscriptions, kept);
        if report.client.admitted {
            self.tell(|events| events.disconnected(&report));
        }
    }

    /// Changes INFO and sends it to the clients that take it at any time.
    pub(crate) fn announce(&self, change: impl Fn(&mut ServerInfo)) {
        self.info.rcu(|info| {
            let mut next = ServerInfo::clone(info);
            change(&mut next);
            next
        });
        let info = self.info.load_full();
        for record in self.registry.records() {
            if record.follows_info() {
                self.send_info(&record, &info);
            }
        }
    }

    pub(crate) fn send_info(&self, record: &Record, info: &ServerInfo) {
        let mut own = ServerInfo {
            client_id: record.outbound.id,
            client_ip: Some(record.peer().ip().to_string()),
            ..ServerInfo::clone(info)
        };
        record.greeting().dress(&mut own);
        record.outbound.append_with(|out| encoder::info(out, &own));
        record.outbound.wake();
    }

    /// Resolves when no client is connected.
    pub(crate) async fn nobody(&self) {
        loop {
            let mut gone = std::pin::pin!(self.gone.notified());
            gone.as_mut().enable();
            if self.counters.connections.load(Ordering::Relaxed) == 0 {
                return;
            }
            gone.await;
        }
    }

    /// Enters a connection that has just been opened.
    pub(crate) fn register(&self, record: &Arc<Record>) {
        self.registry.opened(record);
        if self.stopped.load(Ordering::SeqCst) {
            record.outbound.close(Close::Shutdown);
        }
    }

    /// Closes everyone, and whoever is registered later.
    pub(crate) fn close_all(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        for record in self.registry.records() {
            record.outbound.close(Close::Shutdown);
        }
    }
}

fn server_info(options: &BrokerOptions) -> ServerInfo {
    ServerInfo {
        server_id: options.server_id.clone(),
        server_name: options.server_name.clone(),
        version: options.version.clone(),
        proto: 1,
        go: "rust".into(),
        host: options.host.clone(),
        port: options.port,
        headers: true,
        auth_required: options.auth_required,
        max_payload: options.limits.payload_bytes_max as u64,
        jetstream: options.jetstream,
        cluster: options.cluster.clone(),
        domain: options.domain.clone(),
        connect_urls: options.connect_urls.clients.clone(),
        ws_connect_urls: options.connect_urls.websockets.clone(),
        api_lvl: options.api_level,
        ..ServerInfo::default()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
