//! The handle on a broker.
//!
//! Owns the public surface; every method delegates to the part that does the work.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use unibus_proto::NodeId;
use unibus_proto::encoder;
use unibus_proto::handshake::ServerInfo;

use crate::accounts::{self, AccountOptions, AccountsError};
use crate::lameduck::{self, LameDuck};
use crate::listener;
use crate::options::{BrokerOptions, Limits};
use crate::outbound::Close;
use crate::plane::{Internal, Plane};
use crate::ports::{AuthError, Authenticator, Events, Publication, Service};
use crate::query;
use crate::reason::CloseReason;
use crate::registry::Record;
use crate::report::{
    AccountReport, ConnectionPage, ConnectionQuery, ConnectionReport, SubscriptionPage,
    SubscriptionQuery,
};
use crate::route::{self, Peer, RouteTask};
use crate::service::ServiceId;
use crate::settings::{ClientListener, ListenerSettings};
use crate::shared::Shared;
use crate::stats::{BrokerStats, read};
use crate::violation::Violation;

/// A broker. Cheap to clone; all clones are the same broker.
#[derive(Clone, Debug)]
pub struct Broker {
    shared: Arc<Shared>,
    /// The account that publishes and services belong to.
    plane: Arc<Plane>,
}

impl Broker {
    /// A broker that serves nobody yet.
    #[must_use]
    pub fn new(options: BrokerOptions, authenticator: Arc<dyn Authenticator>) -> Self {
        let shared = Arc::new(Shared::new(options, authenticator));
        Self {
            plane: Arc::clone(&shared.planes.global),
            shared,
        }
    }

    /// The same broker as one account sees it: what is published, subscribed to and served through the
    /// handle belongs to that account. `$G` is the account of those who name none. `None` = this node
    /// has too many accounts. Not to be called from [`Service::deliver`]: keep the handle.
    #[must_use]
    pub fn account(&self, name: &str) -> Option<Self> {
        Some(Self {
            plane: self.shared.planes.of(Some(name))?,
            shared: Arc::clone(&self.shared),
        })
    }

    /// Replaces all accounts' exports, imports and limits. Subscriptions of those who are connected
    /// follow.
    ///
    /// # Errors
    /// [`AccountsError`] says what is wrong; what held before still holds then.
    pub fn set_accounts(&self, accounts: &[AccountOptions]) -> Result<(), AccountsError> {
        accounts::set(&self.shared, accounts)
    }

    /// Names the account whose clients read `acc_is_sys` in INFO.
    pub fn set_system_account(&self, name: &str) {
        self.shared.system.store(self.shared.planes.of(Some(name)));
    }

    /// Sets the id that this node gives in the hello of each route attached from now on. Call it once,
    /// before the first [`Self::attach_route`].
    ///
    /// A peer ends a route whose hello names another node than the one it has authenticated: a stream
    /// that was handed to the wrong peer. A node that never sets its id says 0, which is not checked:
    /// the route works, and only this check is missing.
    pub fn set_node(&self, id: NodeId) {
        self.shared.node.store(Arc::new(id));
    }

    /// Accepts clients in plain text until `shutdown` turns true or its sender is dropped. Open connections stay; see
    /// [`Self::shutdown`].
    pub async fn serve(&self, listener: TcpListener, shutdown: watch::Receiver<bool>) {
        let plain = ClientListener::new(ListenerSettings::default());
        self.serve_listener(listener, &plain, shutdown).await;
    }

    /// The same for a listener that may speak TLS or WebSocket. Its settings hold for what is accepted
    /// from when they are set on.
    pub async fn serve_listener(
        &self,
        listener: TcpListener,
        settings: &ClientListener,
        shutdown: watch::Receiver<bool>,
    ) {
        listener::serve(&self.shared, listener, settings, shutdown).await;
    }

    /// Hands what the account's local clients publish within `filter` (which has to be valid) to `service`.
    pub fn add_service(&self, filter: &str, service: Arc<dyn Service>) -> ServiceId {
        let id = self.shared.next_id();
        self.plane
            .services
            .rcu(|services| services.with(filter.as_bytes(), id, Arc::clone(&service)));
        ServiceId(id)
    }

    /// The same for the clients of an account. `None` = this node has too many accounts.
    pub fn add_service_in(
        &self,
        account: &str,
        filter: &str,
        service: Arc<dyn Service>,
    ) -> Option<ServiceId> {
        Some(self.account(account)?.add_service(filter, service))
    }

    /// Ends what [`Self::add_service`] began. A burst in progress may still deliver to it.
    pub fn remove_service(&self, id: ServiceId) {
        for plane in self.shared.planes.all() {
            if plane.services.load().has(id.0) {
                plane.services.rcu(|services| services.without(id.0));
            }
        }
    }

    /// Publishes from inside the node. Returns the number of receivers: local subscribers, peers, and
    /// (with `capture`) services.
    pub fn publish(&self, publication: Publication<'_>) -> usize {
        self.batch(|internal| internal.publish(publication))
    }

    /// Publishes several messages at once: cheaper than one by one. `publish` runs with the subscription
    /// table locked for reading, so it must not wait or take long.
    pub fn batch<T>(&self, publish: impl FnOnce(&mut Internal<'_>) -> T) -> T {
        self.plane.with_engine(publish)
    }

    /// Whether a local subscriber or a peer wants the literal `subject`. Services don't count.
    #[must_use]
    pub fn has_interest(&self, subject: &[u8]) -> bool {
        let table = self.plane.table.read_recursive();
        table.local.sublist().has_match(subject) || table.remote.has_match(subject)
    }

    /// Changes whenever local or remote interest may have changed.
    #[must_use]
    pub fn interest_changed(&self) -> watch::Receiver<u64> {
        self.plane.interest_receiver()
    }

    /// Drives one authenticated, ordered byte stream to a peer. A route that the same peer had before
    /// ends. The task ends with the stream; the caller then connects anew. `peer.id` decides whom the
    /// route belongs to, so it has to be what the mesh authenticated. A route to this node itself ends
    /// at once: messages would come back. Needs a tokio runtime and [`Self::set_node`] before.
    pub fn attach_route<R, W>(&self, peer: Peer, reader: R, writer: W) -> RouteTask
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        route::attach(Arc::clone(&self.shared), peer, reader, writer)
    }

    /// INFO as clients that connect now read it, without what is theirs alone.
    #[must_use]
    pub fn info(&self) -> ServerInfo {
        ServerInfo::clone(&self.shared.info.load())
    }

    /// Changes INFO (such as `connect_urls`) and sends it to all clients that follow it.
    pub fn update_info(&self, change: impl Fn(&mut ServerInfo)) {
        self.shared.announce(change);
    }

    /// Lame duck mode: accepts nobody any more, tells clients that this node is about to stop and where
    /// else to go, and after the grace closes them one after the other. Returns when the last one has
    /// been told to go; [`Self::shutdown`] waits until it has gone.
    pub async fn lame_duck(&self, plan: LameDuck) {
        lameduck::leave(&self.shared, plan).await;
    }

    /// Tells one client that it had better go (INFO with `ldm`). False = there is no such client, or it
    /// doesn't follow INFO.
    pub fn announce_lame_duck_to(&self, cid: u64) -> bool {
        let record = self.shared.registry.get(cid);
        let Some(record) = record.filter(|record| record.follows_info()) else {
            return false;
        };
        let mut info = ServerInfo::clone(&self.shared.info.load());
        info.ldm = true;
        self.shared.send_info(&record, &info);
        true
    }

    /// Closes one client. False = there is no such client.
    pub fn kick(&self, cid: u64) -> bool {
        let record = self.shared.registry.get(cid);
        let close = |record: &Arc<Record>| {
            record
                .outbound
                .close(Close::AfterFlush(CloseReason::Kicked))
        };
        record.as_ref().map(close).is_some()
    }

    /// Judges every admitted connection anew, such as after a reload of the configuration: those for
    /// whom `judge` has an error read its text and are closed. Returns how many. Whose permissions
    /// changed is told over their grant, not here.
    pub fn recheck(&self, judge: impl Fn(&ConnectionReport) -> Result<(), AuthError>) -> usize {
        let mut closed = 0;
        for record in self.shared.registry.records() {
            let report = record.report();
            if !report.client.admitted {
                continue;
            }
            if let Err(error) = judge(&report) {
                let violation = Violation::from(error);
                record
                    .outbound
                    .append_with(|out| encoder::err(out, error.text()));
                record.outbound.close(Close::AfterFlush(violation.reason));
                closed += 1;
            }
        }
        closed
    }

    /// Waits until every session acts under the grant in force now, at most `longest`. When this returns
    /// true, nothing is delivered or published any more under a grant that was replaced before the call.
    pub async fn grants_settled(&self, longest: Duration) -> bool {
        let settled = async {
            loop {
                let regranted = self.shared.regranted.notified();
                let mut regranted = std::pin::pin!(regranted);
                regranted.as_mut().enable();
                let records = self.shared.registry.records();
                if !records.iter().any(|record| record.is_behind_its_grant()) {
                    return;
                }
                drop(records);
                regranted.await;
            }
        };
        tokio::time::timeout(longest, settled).await.is_ok()
    }

    /// Other limits from now on, also for those who are connected. Connections over a lower
    /// `connections_max` are closed, the newest first.
    pub fn set_limits(&self, limits: Limits) {
        let most = limits.connections_max;
        self.shared.set_limits(limits);
        let mut records = self.shared.registry.records();
        records.sort_by_key(|record| record.outbound.id);
        for record in records.iter().skip(most) {
            let text = "maximum connections exceeded";
            record.outbound.append_with(|out| encoder::err(out, text));
            let reason = CloseReason::MaxConnectionsExceeded;
            record.outbound.close(Close::AfterFlush(reason));
        }
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits::clone(&self.shared.limits())
    }

    /// Whether clients must present credentials before anything else, from now on. Those who are
    /// connected stay: see [`Self::recheck`].
    pub fn set_auth_required(&self, required: bool) {
        self.shared.set_auth_required(required);
    }

    /// Whether clients need credentials, as INFO says.
    #[must_use]
    pub fn is_auth_required(&self) -> bool {
        self.shared.is_auth_required()
    }

    /// Closes all client connections after writing what waits for them, and waits for that, at most
    /// `longest`. The accept loop has to be stopped by its own signal.
    pub async fn shutdown(&self, longest: Duration) {
        self.shared.close_all();
        let _ = tokio::time::timeout(longest, self.shared.nobody()).await;
    }

    /// Who hears of connections that come and go from now on.
    pub fn set_events(&self, events: impl Events) {
        self.shared.set_events(Box::new(events));
    }

    /// A page of connections (connz).
    #[must_use]
    pub fn connections(&self, query: &ConnectionQuery) -> ConnectionPage {
        query::connections(&self.shared, query)
    }

    /// A page of subscriptions (subsz). Walks the whole index: for people, not for loops.
    #[must_use]
    pub fn subscriptions(&self, query: &SubscriptionQuery) -> SubscriptionPage {
        query::subscriptions(&self.shared, query)
    }

    /// Every account with what it does on this node (accstatz).
    #[must_use]
    pub fn accounts(&self) -> Vec<AccountReport> {
        query::accounts(&self.shared)
    }

    /// What the broker has done and holds.
    #[must_use]
    pub fn stats(&self) -> BrokerStats {
        let counters = &self.shared.counters;
        let mut stats = BrokerStats {
            connections: counters.connections.load(Ordering::Relaxed),
            connections_total: read(&counters.connections_total),
            slow_consumers: read(&counters.slow_consumers),
            stale_connections: read(&counters.stale_connections),
            auth_failures: read(&counters.auth_failures),
            slow_routes: read(&counters.slow_routes),
            route_lost_msgs: read(&counters.route_lost_msgs),
            ..BrokerStats::default()
        };
        for plane in self.shared.planes.all() {
            let traffic = plane.traffic.read();
            stats.in_msgs += traffic.in_msgs;
            stats.in_bytes += traffic.in_bytes;
            stats.out_msgs += traffic.out_msgs;
            stats.out_bytes += traffic.out_bytes;
            stats.route_out_msgs += traffic.route_out_msgs;
            stats.route_in_msgs += traffic.route_in_msgs;
            let table = plane.table.read_recursive();
            stats.subscriptions += table.local.sublist().len();
            stats.remote_interests += table.remote.len();
            stats.routes = table.peers_count();
        }
        stats
    }
}
