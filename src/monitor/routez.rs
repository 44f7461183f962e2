//! `/routez`: the routes to other nodes (nats-surface §4.1).

use serde::Serialize;
use unibus_proto::jetstream::timestamp::Timestamp;

use super::source::Monitor;
use super::text;
use crate::mesh::PeerStatus;

/// The document.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Routez {
    server_id: String,
    server_name: String,
    now: Timestamp,
    num_routes: usize,
    routes: Vec<RouteInfo>,
}

/// One route. What is not counted per route is 0: the node's own counters have it.
#[derive(Clone, Debug, Serialize)]
struct RouteInfo {
    rid: usize,
    remote_id: String,
    remote_name: String,
    did_solicit: bool,
    is_configured: bool,
    ip: String,
    port: u16,
    start: Timestamp,
    last_activity: Timestamp,
    rtt: String,
    uptime: String,
    idle: &'static str,
    pending_size: u64,
    in_msgs: u64,
    out_msgs: u64,
    in_bytes: u64,
    out_bytes: u64,
    subscriptions: usize,
}

/// Makes the document.
#[must_use]
pub(crate) fn routez(monitor: &Monitor) -> Routez {
    let peers = monitor.peers();
    let routes: Vec<RouteInfo> = peers.iter().enumerate().map(route).collect();
    Routez {
        server_id: monitor.facts().server_id.clone(),
        server_name: monitor.facts().server_name.clone(),
        now: text::now(),
        num_routes: routes.len(),
        routes,
    }
}

fn route((at, peer): (usize, &PeerStatus)) -> RouteInfo {
    let now = std::time::SystemTime::now();
    let start = now.checked_sub(peer.connected_for).unwrap_or(now);
    RouteInfo {
        rid: at + 1,
        remote_id: peer.id.to_string(),
        remote_name: peer.name.clone(),
        did_solicit: peer.dialed,
        is_configured: true,
        ip: peer.addr.ip().to_string(),
        port: peer.addr.port(),
        start: text::timestamp(start),
        last_activity: text::timestamp(now),
        rtt: text::rtt(peer.rtt),
        uptime: text::uptime(peer.connected_for),
        // Heartbeats flow all the time.
        idle: "0s",
        pending_size: 0,
        in_msgs: 0,
        out_msgs: 0,
        in_bytes: 0,
        out_bytes: 0,
        subscriptions: 0,
    }
}
