//! STATSZ and the head of every system document: who speaks, and the few numbers that lists of servers
//! show (nats-surface §4.2).

use serde::{Deserialize, Serialize};
use unibus_proto::jetstream::timestamp::Timestamp;

use super::accountz::{self, Amount};
use super::jsz::{self, JetStreamVarz};
use super::source::Monitor;
use super::{process, text};

/// `flags` of a server with JetStream.
const FLAG_JETSTREAM: u64 = 1;

/// Who speaks.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ServerInfo {
    name: String,
    host: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    ver: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    jetstream: bool,
    flags: u64,
    seq: u64,
    time: Timestamp,
}

/// Which servers are meant: those it does not match stay silent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    server_name: String,
    cluster: String,
    host: String,
    exact_match: bool,
    tags: Vec<String>,
    domain: String,
}

/// IDZ: without an envelope.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Idz {
    name: String,
    host: String,
    id: String,
}

/// The numbers.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Statsz {
    start: Timestamp,
    mem: u64,
    cores: usize,
    cpu: f64,
    connections: usize,
    total_connections: u64,
    active_accounts: usize,
    subscriptions: usize,
    sent: Amount,
    received: Amount,
    slow_consumers: u64,
    active_servers: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    jetstream: Option<JetStreamVarz>,
    gomaxprocs: usize,
}

/// The head of the next document.
pub(super) fn server(monitor: &Monitor) -> ServerInfo {
    let facts = monitor.facts();
    let jetstream = monitor.store().is_some();
    ServerInfo {
        name: facts.server_name.clone(),
        host: facts.client.ip().to_string(),
        id: facts.server_id.clone(),
        cluster: facts.cluster_name.clone(),
        domain: facts.domain.clone(),
        ver: facts.version.clone(),
        tags: facts.tags.clone(),
        jetstream,
        flags: if jetstream { FLAG_JETSTREAM } else { 0 },
        seq: monitor.next_sequence(),
        time: text::now(),
    }
}

/// The same, short.
pub(super) fn idz(monitor: &Monitor) -> Idz {
    let facts = monitor.facts();
    Idz {
        name: facts.server_name.clone(),
        host: facts.client.ip().to_string(),
        id: facts.server_id.clone(),
    }
}

/// The numbers as they are now.
pub(super) fn statsz(monitor: &Monitor) -> Statsz {
    let (stats, usage) = (monitor.stats(), monitor.process().usage());
    Statsz {
        start: text::timestamp(monitor.started_at()),
        mem: usage.memory_bytes,
        cores: process::cores(),
        cpu: usage.cpu_percent,
        connections: stats.connections,
        total_connections: stats.connections_total,
        active_accounts: accountz::active_accounts(monitor),
        subscriptions: stats.subscriptions,
        sent: Amount {
            msgs: stats.out_msgs,
            bytes: stats.out_bytes,
        },
        received: Amount {
            msgs: stats.in_msgs,
            bytes: stats.in_bytes,
        },
        slow_consumers: stats.slow_consumers,
        active_servers: monitor.peers().len() + 1,
        jetstream: jsz::varz(monitor),
        gomaxprocs: process::cores(),
    }
}

impl Filter {
    /// Whether this server is meant.
    pub(super) fn matches(&self, monitor: &Monitor) -> bool {
        let facts = monitor.facts();
        let named = |wanted: &str, own: &str| {
            wanted.is_empty()
                || if self.exact_match {
                    wanted == own
                } else {
                    own.contains(wanted)
                }
        };
        named(&self.server_name, &facts.server_name)
            && named(
                &self.cluster,
                facts.cluster_name.as_deref().unwrap_or_default(),
            )
            && named(&self.host, &facts.client.ip().to_string())
            && (self.domain.is_empty() || facts.domain.as_deref() == Some(&*self.domain))
            && self.tags.iter().all(|tag| facts.tags.contains(tag))
    }
}
