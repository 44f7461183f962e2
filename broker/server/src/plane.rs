//! One account's part of the broker: its own subscriptions, services and traffic.
//!
//! Owns what `$G` and every other account have each for themselves, and publishes from inside the node.
//! Messages cross from one plane to another only by imports (`exchange`). Must never know who belongs to
//! which account.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use unibus_proto::NodeId;

use crate::exchange::Exchange;
use crate::fanout::{Fanout, Message, Reach};
use crate::outbound::Outbound;
use crate::ports::{Origin, Publication};
use crate::report::GLOBAL_ACCOUNT;
use crate::service::ServiceTable;
use crate::stats::Traffic;
use crate::table::Table;

/// Engines kept for later internal publishes.
const ENGINES_KEPT_MAX: usize = 8;

/// Capacity, in bytes, that the buffers of a kept engine may have.
const ENGINE_BYTES_KEPT: usize = 1024 * 1024;

/// Accounts of one node, those that only peers have named included.
const ACCOUNTS_MAX: usize = 10_000;

pub(crate) struct Plane {
    /// `None` = `$G`.
    pub(crate) account: Option<Arc<str>>,
    pub(crate) table: RwLock<Table>,
    pub(crate) services: ArcSwap<ServiceTable>,
    pub(crate) traffic: Traffic,
    /// What it takes from other planes, and its limits.
    pub(crate) exchange: ArcSwap<Exchange>,
    /// Connections of the account.
    pub(crate) connections: AtomicUsize,
    pub(crate) connections_total: AtomicU64,
    pub(crate) slow_consumers: AtomicU64,
    engines: Mutex<Vec<Fanout>>,
    interest: watch::Sender<u64>,
    internal: Origin,
}

impl Plane {
    fn new(account: Option<Arc<str>>) -> Self {
        Self {
            table: RwLock::new(Table::new(account.clone())),
            services: ArcSwap::default(),
            traffic: Traffic::default(),
            exchange: ArcSwap::default(),
            connections: AtomicUsize::new(0),
            connections_total: AtomicU64::new(0),
            slow_consumers: AtomicU64::new(0),
            engines: Mutex::new(Vec::new()),
            interest: watch::Sender::new(0),
            internal: Origin {
                internal: true,
                account: account.clone(),
                ..Origin::default()
            },
            account,
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.account.as_deref().unwrap_or(GLOBAL_ACCOUNT)
    }

    pub(crate) fn interest_receiver(&self) -> watch::Receiver<u64> {
        self.interest.subscribe()
    }

    /// Tells those who watch that local or remote interest changed.
    pub(crate) fn interest_changed(&self) {
        if self.interest.receiver_count() > 0 {
            self.interest.send_modify(|generation| *generation += 1);
        }
    }

    /// Runs `publish` with an engine under the table's read lock, then lets the receivers' tasks write.
    pub(crate) fn with_engine<T>(&self, publish: impl FnOnce(&mut Internal<'_>) -> T) -> T {
        let kept = self.engines.lock().pop();
        let mut engine = kept.unwrap_or_else(Fanout::new);
        let services = self.services.load();
        let result = {
            // Recursive: a service may publish from `deliver`, inside its publisher's burst.
            let table = self.table.read_recursive();
            engine.sync(&table, &services);
            let result = publish(&mut Internal {
                engine: &mut engine,
                table: &table,
                services: &services,
                plane: self,
            });
            engine.hand_over();
            result
        };
        engine.wake();
        self.finish(engine);
        result
    }

    fn finish(&self, mut engine: Fanout) {
        self.traffic.book(engine.tally());
        engine.take_stalling();
        engine.take_fed().for_each(drop);
        // An internal publish may run inside a burst, under the table's read lock: then the write lock
        // can only be taken elsewhere. The subscriptions count no more deliveries meanwhile.
        for subscription in engine.take_expired() {
            let outbound = Arc::clone(&subscription.outbound);
            outbound.expire(subscription);
        }
        if engine.kept() > ENGINE_BYTES_KEPT {
            engine.free();
        }
        let mut engines = self.engines.lock();
        if engines.len() < ENGINES_KEPT_MAX {
            engines.push(engine);
        }
    }
}

impl fmt::Debug for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plane")
            .field("account", &self.name())
            .finish_non_exhaustive()
    }
}

/// Publishes from inside the node, several at once: see [`crate::Broker::batch`].
#[derive(Debug)]
pub struct Internal<'a> {
    engine: &'a mut Fanout,
    table: &'a Table,
    services: &'a ServiceTable,
    plane: &'a Plane,
}

impl Internal<'_> {
    /// Publishes one message. Returns the number of receivers: local, peers and services.
    pub fn publish(&mut self, publication: Publication<'_>) -> usize {
        let services = publication.capture.then_some(&self.plane.internal);
        self.send(publication, services)
    }

    /// Whether somebody listened to what was published last and was not given it, because it may not
    /// read what that consumer delivers.
    #[must_use]
    pub fn was_withheld(&self) -> bool {
        self.engine.was_withheld()
    }

    /// Publishes what somebody of another account did, so that services see that origin.
    pub(crate) fn forward(&mut self, publication: Publication<'_>, origin: &Origin) -> usize {
        self.send(publication, Some(origin))
    }

    fn send(&mut self, publication: Publication<'_>, services: Option<&Origin>) -> usize {
        let message = Message {
            subject: publication.subject,
            shown: publication.shown,
            reply: publication.reply,
            header_len: publication.header_len,
            data: publication.data,
        };
        let reach = Reach {
            peers: !publication.local,
            account: self.plane.account.as_deref(),
            services,
            except: None,
        };
        let receivers = self
            .engine
            .publish(self.table, self.services, &message, &reach, |_| true)
            .unwrap_or(0);
        if self.engine.is_full() {
            self.engine.hand_over();
            self.engine.wake();
        }
        receivers
    }
}

/// All planes of a broker.
#[derive(Debug)]
pub(crate) struct Planes {
    pub(crate) global: Arc<Plane>,
    /// Looked up within bursts: nobody waits for anything while this is locked.
    named: RwLock<HashMap<Arc<str>, Arc<Plane>, std::hash::RandomState>>,
    /// The routes that are attached, for planes that come later. Locked for every change of either; takes
    /// tables' locks, so it must never be asked for under one.
    routes: Mutex<Vec<(NodeId, Arc<Outbound>)>>,
}

impl Planes {
    pub(crate) fn new() -> Self {
        Self {
            global: Arc::new(Plane::new(None)),
            named: RwLock::default(),
            routes: Mutex::default(),
        }
    }

    /// The plane of an account, made if it is new: then no table may be locked by the caller. `None` =
    /// there are too many accounts.
    pub(crate) fn of(&self, account: Option<&str>) -> Option<Arc<Plane>> {
        let Some(name) = account.filter(|name| *name != GLOBAL_ACCOUNT) else {
            return Some(Arc::clone(&self.global));
        };
        if let Some(plane) = self.named.read().get(name) {
            return Some(Arc::clone(plane));
        }
        let routes = self.routes.lock();
        if let Some(plane) = self.named.read().get(name) {
            return Some(Arc::clone(plane));
        }
        if self.named.read().len() >= ACCOUNTS_MAX {
            tracing::error!(account = name, limit = ACCOUNTS_MAX, "too many accounts");
            return None;
        }
        let name: Arc<str> = Arc::from(name);
        let plane = Arc::new(Plane::new(Some(Arc::clone(&name))));
        for (node, outbound) in &*routes {
            plane.table.write().attach(*node, outbound);
        }
        self.named.write().insert(name, Arc::clone(&plane));
        Some(plane)
    }

    /// `$G` first, then the others by name.
    pub(crate) fn all(&self) -> Vec<Arc<Plane>> {
        let mut named: Vec<_> = self.named.read().values().cloned().collect();
        named.sort_by(|a, b| a.account.cmp(&b.account));
        named.insert(0, Arc::clone(&self.global));
        named
    }

    /// Adds a route to every plane, and returns those whose interest the peer has to be told first. A route
    /// that the same node had before is closed.
    pub(crate) fn attach(&self, node: NodeId, outbound: &Arc<Outbound>) -> Vec<Arc<Plane>> {
        let mut routes = self.routes.lock();
        routes.retain(|(known, _)| *known != node);
        let planes = self.all();
        for plane in &planes {
            plane.table.write().attach(node, outbound);
        }
        routes.push((node, Arc::clone(outbound)));
        planes
    }

    /// Removes a route from every plane, unless another one took its place.
    pub(crate) fn detach(&self, outbound: &Arc<Outbound>) {
        let mut routes = self.routes.lock();
        routes.retain(|(_, known)| !Arc::ptr_eq(known, outbound));
        let planes = self.all();
        for plane in &planes {
            plane.table.write().detach(outbound);
        }
        drop(routes);
        for plane in planes {
            plane.interest_changed();
        }
    }
}
