//! Counters of the broker.
//!
//! Owns the numbers only. Connections add up locally and book once per read.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What the broker has done since it started, and what it holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct BrokerStats {
    /// Messages published by clients.
    pub in_msgs: u64,
    /// Their header and payload bytes.
    pub in_bytes: u64,
    /// Messages delivered to clients.
    pub out_msgs: u64,
    /// Their header and payload bytes.
    pub out_bytes: u64,
    /// Messages sent to peers.
    pub route_out_msgs: u64,
    /// Messages that came from peers.
    pub route_in_msgs: u64,
    /// Open client connections.
    pub connections: usize,
    /// Client connections ever accepted.
    pub connections_total: u64,
    /// Connections closed because they read too slowly.
    pub slow_consumers: u64,
    /// Connections closed because they answered no PING.
    pub stale_connections: u64,
    /// Connections refused for their credentials.
    pub auth_failures: u64,
    /// Subscriptions of local clients.
    pub subscriptions: usize,
    /// Filters and queues that peers asked for.
    pub remote_interests: usize,
    /// Attached routes.
    pub routes: usize,
    /// Routes dropped because the peer took nothing for too long.
    pub slow_routes: u64,
    /// Messages, or some of their queues, that a peer did not get because it lagged.
    pub route_lost_msgs: u64,
}

/// What happened once for the whole node.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections: AtomicUsize,
    pub(crate) connections_total: AtomicU64,
    pub(crate) slow_consumers: AtomicU64,
    pub(crate) stale_connections: AtomicU64,
    pub(crate) auth_failures: AtomicU64,
    pub(crate) slow_routes: AtomicU64,
    pub(crate) route_lost_msgs: AtomicU64,
}

/// What one account has sent and received.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    in_msgs: AtomicU64,
    in_bytes: AtomicU64,
    out_msgs: AtomicU64,
    out_bytes: AtomicU64,
    route_out_msgs: AtomicU64,
    route_in_msgs: AtomicU64,
}

/// What one burst adds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) in_msgs: u64,
    pub(crate) in_bytes: u64,
    pub(crate) out_msgs: u64,
    pub(crate) out_bytes: u64,
    pub(crate) route_out_msgs: u64,
    pub(crate) route_in_msgs: u64,
}

impl Traffic {
    pub(crate) fn book(&self, tally: &mut Tally) {
        let Tally {
            in_msgs,
            in_bytes,
            out_msgs,
            out_bytes,
            route_out_msgs,
            route_in_msgs,
        } = std::mem::take(tally);
        for (counter, more) in [
            (&self.in_msgs, in_msgs),
            (&self.in_bytes, in_bytes),
            (&self.out_msgs, out_msgs),
            (&self.out_bytes, out_bytes),
            (&self.route_out_msgs, route_out_msgs),
            (&self.route_in_msgs, route_in_msgs),
        ] {
            if more > 0 {
                counter.fetch_add(more, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn read(&self) -> Tally {
        Tally {
            in_msgs: read(&self.in_msgs),
            in_bytes: read(&self.in_bytes),
            out_msgs: read(&self.out_msgs),
            out_bytes: read(&self.out_bytes),
            route_out_msgs: read(&self.route_out_msgs),
            route_in_msgs: read(&self.route_in_msgs),
        }
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
