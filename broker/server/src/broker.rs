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
use unibus_proto::handshake::ServerInfo;

use crate::listener;
use crate::options::BrokerOptions;
use crate::ports::{Authenticator, Events, Publication, Service};
use crate::query;
use crate::report::{
    AccountReport, ConnectionPage, ConnectionQuery, SubscriptionPage, SubscriptionQuery,
};
use crate::route::{self, Peer, RouteTask};
use crate::service::ServiceId;
use crate::shared::{Internal, Shared};
use crate::stats::BrokerStats;

/// A broker. Cheap to clone; all clones are the same broker.
#[derive(Clone, Debug)]
pub struct Broker {
    shared: Arc<Shared>,
}

impl Broker {
    /// A broker that serves nobody yet.
    #[must_use]
    pub fn new(options: BrokerOptions, authenticator: Arc<dyn Authenticator>) -> Self {
        Self {
            shared: Arc::new(Shared::new(options, authenticator)),
        }
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

    /// Accepts clients until `shutdown` turns true or its sender is dropped. Open connections stay; see
    /// [`Self::shutdown`].
    pub async fn serve(&self, listener: TcpListener, shutdown: watch::Receiver<bool>) {
        listener::serve(&self.shared, listener, shutdown).await;
    }

    /// Hands what local clients publish within `filter` (which has to be valid) to `service`.
    pub fn add_service(&self, filter: &str, service: Arc<dyn Service>) -> ServiceId {
        let id = self.shared.next_id();
        self.shared
            .services
            .rcu(|services| services.with(filter.as_bytes(), id, Arc::clone(&service)));
        ServiceId(id)
    }

    /// Ends what [`Self::add_service`] began. A burst in progress may still deliver to it.
    pub fn remove_service(&self, id: ServiceId) {
        self.shared.services.rcu(|services| services.without(id.0));
    }

    /// Publishes from inside the node. Returns the number of receivers: local subscribers, peers, and
    /// (with `capture`) services.
    pub fn publish(&self, publication: Publication<'_>) -> usize {
        self.batch(|internal| internal.publish(publication))
    }

    /// Publishes several messages at once: cheaper than one by one. `publish` runs with the subscription
    /// table locked for reading, so it must not wait or take long.
    pub fn batch<T>(&self, publish: impl FnOnce(&mut Internal<'_>) -> T) -> T {
        self.shared.with_engine(publish)
    }

    /// Whether a local subscriber or a peer wants the literal `subject`. Services don't count.
    #[must_use]
    pub fn has_interest(&self, subject: &[u8]) -> bool {
        let table = self.shared.table.read_recursive();
        table.local.sublist().has_match(subject) || table.remote.has_match(subject)
    }

    /// Changes whenever local or remote interest may have changed.
    #[must_use]
    pub fn interest_changed(&self) -> watch::Receiver<u64> {
        self.shared.interest_receiver()
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

    /// Changes INFO (such as `connect_urls`) and sends it to all clients that follow it.
    pub fn update_info(&self, change: impl Fn(&mut ServerInfo)) {
        self.shared.announce(change);
    }

    /// Tells clients that this node is about to stop, and where else to go (nats-surface §1.15).
    pub fn lame_duck(&self, other_urls: &[String]) {
        self.update_info(|info| {
            info.ldm = true;
            info.connect_urls = other_urls.to_vec();
        });
    }

    /// Closes all client connections after writing what waits for them, and waits for that, at most
    /// `longest`. The accept loop has to be stopped by its own signal.
    pub async fn shutdown(&self, longest: Duration) {
        let gone = async {
            loop {
                let gone = self.shared.gone.notified();
                let mut gone = std::pin::pin!(gone);
                gone.as_mut().enable();
                self.shared.close_all();
                if self.shared.counters.connections.load(Ordering::Relaxed) == 0 {
                    return;
                }
                gone.await;
            }
        };
        let _ = tokio::time::timeout(longest, gone).await;
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
        let (subscriptions, remote_interests, routes) = {
            let table = self.shared.table.read_recursive();
            (
                table.local.sublist().len(),
                table.remote.len(),
                table.peers_count(),
            )
        };
        BrokerStats {
            in_msgs: counters.in_msgs.load(Ordering::Relaxed),
            in_bytes: counters.in_bytes.load(Ordering::Relaxed),
            out_msgs: counters.out_msgs.load(Ordering::Relaxed),
            out_bytes: counters.out_bytes.load(Ordering::Relaxed),
            route_out_msgs: counters.route_out_msgs.load(Ordering::Relaxed),
            route_in_msgs: counters.route_in_msgs.load(Ordering::Relaxed),
            connections: counters.connections.load(Ordering::Relaxed),
            connections_total: counters.connections_total.load(Ordering::Relaxed),
            slow_consumers: counters.slow_consumers.load(Ordering::Relaxed),
            stale_connections: counters.stale_connections.load(Ordering::Relaxed),
            auth_failures: counters.auth_failures.load(Ordering::Relaxed),
            subscriptions,
            remote_interests,
            routes,
            slow_routes: counters.slow_routes.load(Ordering::Relaxed),
        }
    }
}
