//! The status page for people: one self-contained file (`status.html`) and the document that it asks for
//! again and again. The page loads nothing from elsewhere, and its policy lets it do nothing else.

use std::sync::LazyLock;

use data_encoding::BASE64;
use serde::Serialize;
use sha2::{Digest, Sha256};
use unibus_proto::jetstream::config::Retention;
use unibus_proto::jetstream::timestamp::Timestamp;

use super::process;
use super::source::Monitor;
use super::text;
use crate::http::HealthReport;
use crate::jetstream::StreamReport;

/// The page.
pub(super) const PAGE: &str = include_str!("status.html");
/// Streams that are shown one by one.
const STREAMS_MAX: usize = 100;
/// Consumers that are shown: those that are furthest behind.
const LAGGING_MAX: usize = 50;

/// What the page may do: run its own script, wear its own style, ask this server.
pub(super) fn policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let (script, style) = (digest("script"), digest("style"));
        format!(
            "default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
    });
    &POLICY
}

/// The source expression for what stands between the page's only `<tag>` and its end (CSP 3, §2.3.1).
fn digest(tag: &str) -> String {
    let (start, end) = (format!("<{tag}>"), format!("</{tag}>"));
    let content = PAGE.split(&start).nth(1).unwrap_or_default();
    let content = content.split(&end).next().unwrap_or_default();
    format!("'sha256-{}'", BASE64.encode(&Sha256::digest(content)))
}

/// The document behind the page.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Status {
    now: Timestamp,
    /// Milliseconds.
    uptime_ms: u64,
    node: Node,
    health: Health,
    traffic: Traffic,
    connections: Connections,
    subscriptions: usize,
    process: Process,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<Store>,
    streams: Vec<Stream>,
    lagging: Vec<Lagging>,
}

#[derive(Clone, Debug, Serialize)]
struct Node {
    id: String,
    name: String,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct Health {
    status: &'static str,
    /// Why it is not ok.
    error: String,
    #[serde(flatten)]
    report: HealthReport,
}

/// Counters since the start: rates are the page's.
#[derive(Clone, Debug, Serialize)]
struct Traffic {
    in_msgs: u64,
    in_bytes: u64,
    out_msgs: u64,
    out_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Connections {
    open: usize,
    max: usize,
    total: u64,
    slow_total: u64,
    stale_total: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Process {
    memory_bytes: u64,
    /// Percent of one core.
    cpu_percent: f64,
    cores: usize,
}

#[derive(Clone, Debug, Serialize)]
struct Store {
    #[serde(flatten)]
    disk: Option<Disk>,
    streams: u64,
    consumers: u64,
    messages: u64,
    bytes: u64,
}

/// The file system that holds the store.
#[derive(Clone, Debug, Serialize)]
struct Disk {
    size_bytes: u64,
    free_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Stream {
    name: String,
    messages: u64,
    bytes: u64,
    last_seq: u64,
    consumers: usize,
    retention: Retention,
}

/// A consumer that does not have everything.
#[derive(Clone, Debug, Serialize)]
struct Lagging {
    stream: String,
    name: String,
    pending: u64,
    ack_pending: u64,
    redelivered: u64,
    waiting: u64,
    paused: bool,
}

/// Makes the document.
#[must_use]
pub(crate) fn status(monitor: &Monitor, health: HealthReport) -> Status {
    let (facts, stats) = (monitor.facts(), monitor.stats());
    let usage = monitor.process().usage();
    let reports = monitor
        .store()
        .map(|store| store.jetstream.streams(true, STREAMS_MAX))
        .unwrap_or_default();
    let ailments = health.ailments();
    Status {
        now: text::now(),
        uptime_ms: u64::try_from(monitor.uptime().as_millis()).unwrap_or(u64::MAX),
        node: Node {
            id: facts.server_id.clone(),
            name: facts.server_name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            cluster: facts.cluster_name.clone(),
        },
        health: Health {
            status: if ailments.is_empty() {
                "ok"
            } else {
                "unavailable"
            },
            error: ailments.join("; "),
            report: health,
        },
        traffic: Traffic {
            in_msgs: stats.in_msgs,
            in_bytes: stats.in_bytes,
            out_msgs: stats.out_msgs,
            out_bytes: stats.out_bytes,
        },
        connections: Connections {
            open: stats.connections,
            max: monitor.broker().limits().connections_max,
            total: stats.connections_total,
            slow_total: stats.slow_consumers,
            stale_total: stats.stale_connections,
        },
        subscriptions: stats.subscriptions,
        process: Process {
            memory_bytes: usage.memory_bytes,
            cpu_percent: usage.cpu_percent,
            cores: process::cores(),
        },
        store: store(monitor),
        streams: reports.iter().map(stream).collect(),
        lagging: lagging(&reports),
    }
}

fn store(monitor: &Monitor) -> Option<Store> {
    let totals = monitor.store()?.jetstream.totals();
    Some(Store {
        disk: process::disk(&monitor.facts().store_dir).map(|disk| Disk {
            size_bytes: disk.size_bytes,
            free_bytes: disk.free_bytes,
        }),
        streams: totals.account.streams,
        consumers: totals.account.consumers,
        messages: totals.messages,
        bytes: totals.bytes,
    })
}

fn stream(report: &StreamReport) -> Stream {
    let (info, state) = (&report.info, &report.info.state);
    Stream {
        name: info.config.name.clone(),
        messages: state.messages,
        bytes: state.bytes,
        last_seq: state.last_seq,
        consumers: report.consumers.as_ref().map_or(0, Vec::len),
        retention: info.config.retention,
    }
}

/// Those that are furthest behind, first.
fn lagging(reports: &[StreamReport]) -> Vec<Lagging> {
    let consumers = reports
        .iter()
        .flat_map(|report| report.consumers.iter().flatten());
    let mut behind: Vec<Lagging> = consumers
        .filter(|info| info.num_pending > 0 || info.num_ack_pending > 0)
        .map(|info| Lagging {
            stream: info.stream_name.clone(),
            name: info.name.clone(),
            pending: info.num_pending,
            ack_pending: info.num_ack_pending,
            redelivered: info.num_redelivered,
            waiting: info.num_waiting,
            paused: info.paused,
        })
        .collect();
    behind.sort_by_key(|consumer| {
        std::cmp::Reverse(consumer.pending.saturating_add(consumer.ack_pending))
    });
    behind.truncate(LAGGING_MAX);
    behind
}

#[cfg(test)]
mod tests {
    use super::{PAGE, policy};

    #[test]
    fn the_page_is_complete_and_loads_nothing() {
        assert_eq!(PAGE.matches("<script>").count(), 1);
        assert_eq!(PAGE.matches("<style>").count(), 1);
        for outside in [
            "src=",
            "@import",
            "url(",
            "https://",
            "innerHTML",
            " style=",
            "onclick",
        ] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
        assert_eq!(policy().matches("'sha256-").count(), 2);
        assert!(policy().starts_with("default-src 'none'") && !policy().contains("unsafe"));
    }
}
