//! `/metrics`: the node's numbers in Prometheus' text format. All names stand in one table; streams and
//! consumers follow with labels, so many at most.

use prometheus::{Counter, Encoder, Gauge, GaugeVec, Opts, Registry, TextEncoder};
use unibus_broker::BrokerStats;
use unibus_raft::ReplicaStatus;

use super::control_metrics;
use super::process::{self, Disk, Usage};
use super::source::Monitor;
use super::standing;
use crate::jetstream::Totals;

/// The format's name and version.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Most streams that are told one by one.
const STREAMS_MAX: usize = 1000;

/// Everything that one scrape reads.
struct Sample {
    stats: BrokerStats,
    connections_max: usize,
    /// Where the store is; `None` where nothing is stored.
    disk: Option<Disk>,
    usage: Usage,
    uptime_seconds: f64,
    peers: usize,
    not_after: Option<u64>,
    voters_away: Option<usize>,
    outside: Option<bool>,
    replica: Option<ReplicaStatus>,
    leads: bool,
    totals: Totals,
    http_requests: u64,
    http_refused: u64,
}

/// Goes up, or goes up and down.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

impl Kind {
    /// Adds one number without labels.
    pub(super) fn register(
        self,
        registry: &Registry,
        (name, help): (&str, &str),
        value: f64,
    ) -> prometheus::Result<()> {
        match self {
            Self::Counter => {
                let counter = Counter::new(name, help)?;
                counter.inc_by(value);
                registry.register(Box::new(counter))
            }
            Self::Gauge => {
                let gauge = Gauge::new(name, help)?;
                gauge.set(value);
                registry.register(Box::new(gauge))
            }
        }
    }
}

/// A metric: kind, name, help, and where its value comes from (`None` = not on this node).
type Row = (Kind, &'static str, &'static str, fn(&Sample) -> Option<f64>);

use Kind::{Counter as C, Gauge as G};

/// Every metric without labels.
const TABLE: [Row; 44] = [
    (
        C,
        "unibus_client_in_msgs_total",
        "Messages published by clients",
        |s| some(s.stats.in_msgs),
    ),
    (
        C,
        "unibus_client_in_bytes_total",
        "Their header and payload bytes",
        |s| some(s.stats.in_bytes),
    ),
    (
        C,
        "unibus_client_out_msgs_total",
        "Messages delivered to clients",
        |s| some(s.stats.out_msgs),
    ),
    (
        C,
        "unibus_client_out_bytes_total",
        "Their header and payload bytes",
        |s| some(s.stats.out_bytes),
    ),
    (
        C,
        "unibus_route_in_msgs_total",
        "Messages that came from peers",
        |s| some(s.stats.route_in_msgs),
    ),
    (
        C,
        "unibus_route_out_msgs_total",
        "Messages sent to peers",
        |s| some(s.stats.route_out_msgs),
    ),
    (G, "unibus_connections", "Open client connections", |s| {
        some(s.stats.connections as u64)
    }),
    (
        G,
        "unibus_connections_max",
        "Client connections at most",
        |s| some(s.connections_max as u64),
    ),
    (
        C,
        "unibus_connections_total",
        "Client connections ever accepted",
        |s| some(s.stats.connections_total),
    ),
    (
        G,
        "unibus_subscriptions",
        "Subscriptions of local clients",
        |s| some(s.stats.subscriptions as u64),
    ),
    (
        G,
        "unibus_remote_interests",
        "Filters and queues that peers asked for",
        |s| some(s.stats.remote_interests as u64),
    ),
    (
        G,
        "unibus_routes",
        "Attached message streams to peers",
        |s| some(s.stats.routes as u64),
    ),
    (G, "unibus_peers", "Connected peers", |s| {
        some(s.peers as u64)
    }),
    (
        G,
        "unibus_route_certificate_not_after_seconds",
        "When this node's route certificate expires, seconds since 1970",
        |s| s.not_after.and_then(some),
    ),
    (
        G,
        "unibus_voters_away",
        "Voters that this node is not connected to",
        |s| s.voters_away.and_then(|away| some(away as u64)),
    ),
    (
        G,
        "unibus_raft_outside",
        "1: this node is no member of its cluster any more",
        |s| s.outside.and_then(|is| some(u64::from(is))),
    ),
    (
        C,
        "unibus_slow_consumers_total",
        "Clients closed because they read too slowly",
        |s| some(s.stats.slow_consumers),
    ),
    (
        C,
        "unibus_slow_routes_total",
        "Routes dropped because the peer read too slowly",
        |s| some(s.stats.slow_routes),
    ),
    (
        C,
        "unibus_route_lost_messages_total",
        "Messages that a peer did not get because it lagged",
        |s| some(s.stats.route_lost_msgs),
    ),
    (
        C,
        "unibus_stale_connections_total",
        "Clients closed because they answered no PING",
        |s| some(s.stats.stale_connections),
    ),
    (
        C,
        "unibus_auth_failures_total",
        "Clients refused for their credentials",
        |s| some(s.stats.auth_failures),
    ),
    (
        C,
        "unibus_http_requests_total",
        "Requests to the monitoring port",
        |s| some(s.http_requests),
    ),
    (
        C,
        "unibus_http_refused_total",
        "Requests to the monitoring port that were refused",
        |s| some(s.http_refused),
    ),
    (G, "unibus_raft_term", "Current term", |s| {
        raft(s, |r| r.term)
    }),
    (G, "unibus_raft_is_leader", "1 where this node leads", |s| {
        raft(s, |_| u64::from(s.leads))
    }),
    (
        G,
        "unibus_raft_has_leader",
        "1 where a leader is known",
        |s| raft(s, |r| u64::from(r.leader.is_some())),
    ),
    (
        G,
        "unibus_raft_has_quorum",
        "1 where the group can commit, as far as this node can tell",
        |s| raft(s, |r| u64::from(r.has_quorum)),
    ),
    (
        G,
        "unibus_raft_log_index",
        "Index of the last entry in the local log",
        |s| raft(s, |r| r.last_log_index),
    ),
    (
        G,
        "unibus_raft_applied_index",
        "Index of the last applied entry",
        |s| raft(s, |r| r.applied_index),
    ),
    (
        G,
        "unibus_raft_apply_lag",
        "Entries in the log that are not applied yet",
        |s| raft(s, |r| r.last_log_index.saturating_sub(r.applied_index)),
    ),
    (
        G,
        "unibus_raft_checkpoint_index",
        "Index of the newest checkpoint",
        |s| raft(s, |r| r.checkpoint_index),
    ),
    (G, "unibus_raft_voters", "Members that vote", |s| {
        raft(s, |r| r.voters.len() as u64)
    }),
    (
        G,
        "unibus_store_index_bytes",
        "Size of the index on disk",
        |s| raft(s, |r| r.sled_bytes),
    ),
    (
        G,
        "unibus_disk_size_bytes",
        "Size of the file system that holds the store",
        |s| s.disk.map(|disk| disk.size_bytes as f64),
    ),
    (
        G,
        "unibus_disk_free_bytes",
        "What of it is free for the node",
        |s| s.disk.map(|disk| disk.free_bytes as f64),
    ),
    (
        G,
        "unibus_store_cache_bytes",
        "Bytes of the recent-message cache",
        |s| raft(s, |r| r.cache_bytes as u64),
    ),
    (G, "unibus_streams", "Streams", |s| {
        raft(s, |_| s.totals.account.streams)
    }),
    (G, "unibus_consumers", "Consumers of all streams", |s| {
        raft(s, |_| s.totals.account.consumers)
    }),
    (
        G,
        "unibus_stream_messages_sum",
        "Messages of all streams",
        |s| raft(s, |_| s.totals.messages),
    ),
    (G, "unibus_stream_bytes_sum", "Bytes of all streams", |s| {
        raft(s, |_| s.totals.bytes)
    }),
    (
        C,
        "unibus_jetstream_api_requests_total",
        "Requests to the JetStream API of this node",
        |s| raft(s, |_| s.totals.account.api.total),
    ),
    (
        C,
        "unibus_jetstream_api_errors_total",
        "Those that were refused",
        |s| raft(s, |_| s.totals.account.api.errors),
    ),
    (
        C,
        "process_cpu_seconds_total",
        "Processor time, user and system",
        |s| Some(s.usage.cpu.as_secs_f64()),
    ),
    (G, "process_resident_memory_bytes", "Resident memory", |s| {
        some(s.usage.memory_bytes)
    }),
];

#[allow(clippy::unnecessary_wraps, reason = "rows give an Option")]
fn some(value: u64) -> Option<f64> {
    Some(value as f64)
}

fn raft(sample: &Sample, read: impl Fn(&ReplicaStatus) -> u64) -> Option<f64> {
    sample.replica.as_ref().map(|status| read(status) as f64)
}

/// Labelled gauges of each stream.
const STREAM_LABELS: [&str; 1] = ["stream"];
/// Labelled gauges of each consumer.
const CONSUMER_LABELS: [&str; 2] = ["stream", "consumer"];

/// Reads everything and writes it down.
pub(super) fn text(monitor: &Monitor) -> Vec<u8> {
    let registry = Registry::new();
    let sample = Sample::take(monitor);
    let control = monitor.store().and_then(|store| store.control.as_ref());
    let filled = fill(&registry, &sample)
        .and_then(|()| control.map_or(Ok(()), |counts| control_metrics::fill(&registry, counts)))
        .and_then(|()| fill_streams(&registry, monitor));
    if let Err(error) = filled {
        tracing::warn!(%error, "some metrics are left out");
    }
    let mut out = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&registry.gather(), &mut out) {
        tracing::warn!(%error, "the metrics can't be written");
    }
    out
}

impl Sample {
    fn take(monitor: &Monitor) -> Self {
        let requests = monitor.requests();
        let (peers, replica) = (monitor.peers(), monitor.replica_status());
        Self {
            stats: monitor.stats(),
            connections_max: monitor.broker().limits().connections_max,
            disk: monitor
                .store()
                .and_then(|_| process::disk(&monitor.facts().store_dir)),
            usage: monitor.process().usage(),
            uptime_seconds: monitor.uptime().as_secs_f64(),
            peers: peers.len(),
            not_after: monitor.certificate_not_after(),
            voters_away: replica
                .as_ref()
                .map(|status| standing::voters_away(status, &peers)),
            outside: replica
                .as_ref()
                .map(|status| standing::is_outside(status, &peers)),
            replica,
            leads: monitor.is_leader(),
            totals: monitor
                .store()
                .map_or_else(Totals::default, |store| store.jetstream.totals()),
            http_requests: requests.read().map(|(_, count)| count).sum(),
            http_refused: requests.refused(),
        }
    }
}

fn fill(registry: &Registry, sample: &Sample) -> prometheus::Result<()> {
    for (kind, name, help, read) in TABLE {
        let Some(value) = read(sample) else {
            continue;
        };
        kind.register(registry, (name, help), value)?;
    }
    let uptime = ("unibus_uptime_seconds", "Since the start of the node");
    Kind::Gauge.register(registry, uptime, sample.uptime_seconds)
}

fn fill_streams(registry: &Registry, monitor: &Monitor) -> prometheus::Result<()> {
    let Some(store) = monitor.store() else {
        return Ok(());
    };
    let gauges = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<GaugeVec> {
        let vec = GaugeVec::new(Opts::new(name, help), labels)?;
        registry.register(Box::new(vec.clone()))?;
        Ok(vec)
    };
    let of = &STREAM_LABELS;
    let messages = gauges("unibus_stream_messages", "Messages of a stream", of)?;
    let bytes = gauges("unibus_stream_bytes", "Bytes of a stream", of)?;
    let last = gauges("unibus_stream_last_seq", "Last sequence of a stream", of)?;
    let of = &CONSUMER_LABELS;
    let pending = gauges(
        "unibus_consumer_num_pending",
        "Messages not delivered yet",
        of,
    )?;
    let unacked = gauges(
        "unibus_consumer_num_ack_pending",
        "Delivered, not acknowledged",
        of,
    )?;
    let again = gauges(
        "unibus_consumer_num_redelivered",
        "Delivered more than once",
        of,
    )?;
    let waiting = gauges("unibus_consumer_num_waiting", "Waiting pull requests", of)?;
    for stream in store.jetstream.streams(true, STREAMS_MAX) {
        let name = stream.info.config.name.as_str();
        let state = &stream.info.state;
        messages
            .with_label_values(&[name])
            .set(state.messages as f64);
        bytes.with_label_values(&[name]).set(state.bytes as f64);
        last.with_label_values(&[name]).set(state.last_seq as f64);
        for info in stream.consumers.unwrap_or_default() {
            let labels = [name, info.name.as_str()];
            pending
                .with_label_values(&labels)
                .set(info.num_pending as f64);
            unacked
                .with_label_values(&labels)
                .set(info.num_ack_pending as f64);
            again
                .with_label_values(&labels)
                .set(info.num_redelivered as f64);
            waiting
                .with_label_values(&labels)
                .set(info.num_waiting as f64);
        }
    }
    Ok(())
}
