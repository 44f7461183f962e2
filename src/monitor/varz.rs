//! `/varz`: the server's general numbers (nats-surface §4.1), with nats-server's names and units.

use std::collections::BTreeMap;

use serde::Serialize;
use unibus_proto::jetstream::timestamp::Timestamp;

use super::jsz::{self, JetStreamVarz};
use super::process;
use super::source::Monitor;
use super::text;

/// `tls_timeout` where nothing else is configured, as in nats-server.
const TLS_TIMEOUT_SECONDS: f64 = 2.0;

/// The document.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Varz {
    server_id: String,
    server_name: String,
    version: String,
    proto: u8,
    git_commit: &'static str,
    go: &'static str,
    host: String,
    port: u16,
    #[serde(skip_serializing_if = "is_false")]
    auth_required: bool,
    #[serde(skip_serializing_if = "is_false")]
    tls_required: bool,
    #[serde(skip_serializing_if = "is_false")]
    tls_verify: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    connect_urls: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ws_connect_urls: Vec<String>,
    max_connections: usize,
    #[serde(skip_serializing_if = "is_zero")]
    max_subscriptions: usize,
    /// Nanoseconds.
    ping_interval: u64,
    ping_max: u32,
    http_host: String,
    http_port: u16,
    http_base_path: &'static str,
    https_port: u16,
    /// Seconds.
    auth_timeout: f64,
    max_control_line: usize,
    max_payload: usize,
    max_pending: usize,
    cluster: ClusterVarz,
    gateway: Nothing,
    leaf: Nothing,
    mqtt: Nothing,
    websocket: WebSocketVarz,
    #[serde(skip_serializing_if = "Option::is_none")]
    jetstream: Option<JetStreamVarz>,
    /// Seconds.
    tls_timeout: f64,
    /// Nanoseconds.
    write_deadline: u64,
    start: Timestamp,
    now: Timestamp,
    uptime: String,
    /// Bytes.
    mem: u64,
    cores: usize,
    gomaxprocs: usize,
    /// Percent of one core.
    cpu: f64,
    connections: usize,
    total_connections: u64,
    routes: usize,
    remotes: usize,
    leafnodes: usize,
    in_msgs: u64,
    out_msgs: u64,
    in_bytes: u64,
    out_bytes: u64,
    slow_consumers: u64,
    stale_connections: u64,
    stalled_clients: u64,
    subscriptions: usize,
    http_req_stats: BTreeMap<&'static str, u64>,
    config_load_time: Timestamp,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    config_digest: &'static str,
    system_account: String,
    slow_consumer_stats: ByKind,
    stale_connection_stats: ByKind,
    /// The version of this program.
    unibus_version: &'static str,
}

/// `cluster`.
#[derive(Clone, Debug, Default, Serialize)]
struct ClusterVarz {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    addr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_port: Option<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    urls: Vec<String>,
    #[serde(skip_serializing_if = "is_false")]
    tls_required: bool,
    #[serde(skip_serializing_if = "is_false")]
    tls_verify: bool,
}

/// `websocket`: empty where there is no listener.
#[derive(Clone, Debug, Default, Serialize)]
struct WebSocketVarz {
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_auth_user: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    no_tls: bool,
    #[serde(skip_serializing_if = "is_false")]
    same_origin: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allowed_origins: Vec<String>,
    #[serde(skip_serializing_if = "is_false")]
    compression: bool,
    /// Nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    handshake_timeout: Option<u64>,
}

/// A part that this server does not have.
#[derive(Clone, Debug, Default, Serialize)]
struct Nothing {}

/// A count by kind of connection.
#[derive(Clone, Debug, Default, Serialize)]
struct ByKind {
    clients: u64,
    routes: u64,
    gateways: u64,
    leafs: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Makes the document.
#[must_use]
pub(crate) fn varz(monitor: &Monitor) -> Varz {
    let (facts, stats) = (monitor.facts(), monitor.stats());
    let limits = monitor.broker().limits();
    let usage = monitor.process().usage();
    let started = text::timestamp(monitor.started_at());
    let routes = monitor.peers().len();
    let http = facts.monitor;
    let info = monitor.broker().info();
    Varz {
        server_id: facts.server_id.clone(),
        server_name: facts.server_name.clone(),
        version: facts.version.clone(),
        proto: 1,
        git_commit: concat!("unibus-", env!("CARGO_PKG_VERSION")),
        go: "rust",
        host: facts.client.ip().to_string(),
        port: facts.client.port(),
        auth_required: monitor.broker().is_auth_required(),
        tls_required: facts.tls_required,
        tls_verify: facts.tls_verify,
        connect_urls: info.connect_urls,
        ws_connect_urls: info.ws_connect_urls,
        max_connections: limits.connections_max,
        max_subscriptions: limits.subscriptions_max,
        ping_interval: text::nanos(limits.ping_interval),
        ping_max: limits.pings_out_max,
        http_host: http.map_or_else(String::new, |at| at.ip().to_string()),
        http_port: http.map_or(0, |at| at.port()),
        http_base_path: "",
        https_port: 0,
        auth_timeout: limits.auth_timeout.as_secs_f64(),
        max_control_line: limits.control_line_bytes_max,
        max_payload: limits.payload_bytes_max,
        max_pending: limits.pending_bytes_max,
        cluster: cluster(monitor),
        gateway: Nothing {},
        leaf: Nothing {},
        mqtt: Nothing {},
        websocket: websocket(monitor),
        jetstream: jsz::varz(monitor),
        tls_timeout: TLS_TIMEOUT_SECONDS,
        write_deadline: text::nanos(limits.write_deadline),
        start: started,
        now: text::now(),
        uptime: text::uptime(monitor.uptime()),
        mem: usage.memory_bytes,
        cores: process::cores(),
        gomaxprocs: process::cores(),
        cpu: usage.cpu_percent,
        connections: stats.connections,
        total_connections: stats.connections_total,
        routes,
        remotes: routes,
        leafnodes: 0,
        in_msgs: stats.in_msgs,
        out_msgs: stats.out_msgs,
        in_bytes: stats.in_bytes,
        out_bytes: stats.out_bytes,
        slow_consumers: stats.slow_consumers + stats.slow_routes,
        stale_connections: stats.stale_connections,
        stalled_clients: 0,
        subscriptions: stats.subscriptions,
        http_req_stats: monitor.requests().read().filter(|(_, n)| *n > 0).collect(),
        config_load_time: text::timestamp(monitor.configured_at()),
        tags: facts.tags.clone(),
        config_digest: "",
        system_account: facts.system_account.to_string(),
        slow_consumer_stats: by_kind(stats.slow_consumers, stats.slow_routes),
        stale_connection_stats: by_kind(stats.stale_connections, 0),
        unibus_version: env!("CARGO_PKG_VERSION"),
    }
}

fn by_kind(clients: u64, routes: u64) -> ByKind {
    ByKind {
        clients,
        routes,
        ..ByKind::default()
    }
}

fn websocket(monitor: &Monitor) -> WebSocketVarz {
    let facts = monitor.facts();
    let Some((at, settings)) = &facts.websocket else {
        return WebSocketVarz::default();
    };
    WebSocketVarz {
        host: Some(at.ip().to_string()),
        port: Some(at.port()),
        no_auth_user: settings.no_auth_user.clone(),
        no_tls: settings.no_tls,
        same_origin: settings.same_origin,
        allowed_origins: settings.allowed_origins.clone(),
        // Negotiated with nobody, whatever was asked for.
        compression: false,
        handshake_timeout: Some(text::nanos(settings.handshake_timeout)),
    }
}

fn cluster(monitor: &Monitor) -> ClusterVarz {
    let facts = monitor.facts();
    ClusterVarz {
        name: facts.cluster_name.clone(),
        addr: facts.cluster.map(|at| at.ip().to_string()),
        cluster_port: facts.cluster.map(|at| at.port()),
        urls: facts.route_urls.clone(),
        // Routes are always mutual TLS.
        tls_required: facts.cluster.is_some(),
        tls_verify: facts.cluster.is_some(),
    }
}
