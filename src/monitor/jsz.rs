//! `/jsz`, and JetStream's part of `/varz` and STATSZ (nats-surface §4.1).

use serde::Serialize;
use unibus_proto::jetstream::config::{ConsumerConfig, StreamConfig};
use unibus_proto::jetstream::info::{
    ApiStats, ClusterInfo, ConsumerInfo, PeerInfo, StreamStateJson,
};
use unibus_proto::jetstream::source::SourceInfo;
use unibus_proto::jetstream::timestamp::Timestamp;

use super::query::{JszOptions, LIMIT_MAX};
use super::source::{Monitor, StorePart};
use super::text;
use crate::jetstream::{StreamReport, Totals};

/// The document. Where JetStream is off only `disabled` and who says so are there.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Jsz {
    #[serde(flatten)]
    stats: Stats,
    server_id: String,
    now: Timestamp,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    disabled: bool,
    config: Config,
    limits: NoLimits,
    streams: u64,
    #[serde(skip_serializing_if = "is_zero")]
    streams_leader: u64,
    consumers: u64,
    #[serde(skip_serializing_if = "is_zero")]
    consumers_leader: u64,
    messages: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta_cluster: Option<MetaCluster>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    account_details: Vec<AccountDetail>,
    total: usize,
}

/// `jetstream` of `/varz` and STATSZ.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct JetStreamVarz {
    config: Config,
    stats: Stats,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<MetaCluster>,
    limits: NoLimits,
}

/// What is used.
#[derive(Clone, Debug, Default, Serialize)]
struct Stats {
    memory: u64,
    storage: u64,
    reserved_memory: u64,
    reserved_storage: u64,
    accounts: usize,
    ha_assets: u64,
    api: ApiStats,
}

/// What may be used. -1 = no limit.
#[derive(Clone, Debug, Default, Serialize)]
struct Config {
    max_memory: i64,
    max_storage: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    store_dir: String,
    /// Nanoseconds between syncs of the store: 0, for every acknowledgement waits for one.
    sync_interval: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    compress_ok: bool,
    strict: bool,
}

/// Limits of requests; none of nats-server's are in force.
#[derive(Clone, Debug, Default, Serialize)]
struct NoLimits {}

/// The group that decides about streams.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct MetaCluster {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<String>,
    peer: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    replicas: Vec<PeerInfo>,
    cluster_size: usize,
    pending: u64,
}

/// One account.
#[derive(Clone, Debug, Serialize)]
struct AccountDetail {
    name: String,
    id: String,
    #[serde(flatten)]
    stats: Stats,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_detail: Option<Vec<StreamDetail>>,
}

/// One stream.
#[derive(Clone, Debug, Serialize)]
struct StreamDetail {
    name: String,
    created: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<StreamConfig>,
    state: StreamStateJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    mirror: Option<SourceInfo>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sources: Vec<SourceInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumer_detail: Option<Vec<ConsumerDetail>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_raft_group: Option<String>,
}

/// One consumer: its info, the configuration only when asked for.
#[derive(Clone, Debug, Serialize)]
struct ConsumerDetail {
    #[serde(flatten)]
    info: serde_json::Map<String, serde_json::Value>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// JetStream's part of `/varz`; `None` where it is off.
pub(super) fn varz(monitor: &Monitor) -> Option<JetStreamVarz> {
    let store = monitor.store()?;
    Some(JetStreamVarz {
        config: config(monitor),
        stats: stats(&store.jetstream.totals()),
        meta: meta(monitor),
        limits: NoLimits {},
    })
}

/// Makes the document.
#[must_use]
pub(crate) fn jsz(monitor: &Monitor, options: &JszOptions) -> Jsz {
    let options = options.clone().completed();
    let facts = monitor.facts();
    let (server_id, now) = (facts.server_id.clone(), text::now());
    let Some(store) = monitor.store() else {
        return Jsz {
            server_id,
            now,
            disabled: true,
            ..Jsz::default()
        };
    };
    let totals = store.jetstream.totals();
    let leads = monitor.is_leader();
    let led = |count: u64| if leads { count } else { 0 };
    let account = &totals.account;
    let wanted = options.account.is_empty() || options.account == facts.jetstream_account;
    let in_page = options.offset == 0 && wanted && options.accounts;
    let hidden = options.leader_only && !leads;
    let details = (in_page && !hidden).then(|| account_detail(monitor, store, &totals, &options));
    Jsz {
        stats: stats(&totals),
        server_id,
        now,
        disabled: false,
        config: config(monitor),
        limits: NoLimits {},
        streams: account.streams,
        streams_leader: led(account.streams),
        consumers: account.consumers,
        consumers_leader: led(account.consumers),
        messages: totals.messages,
        bytes: totals.bytes,
        meta_cluster: meta(monitor),
        account_details: details.into_iter().collect(),
        total: 1,
    }
}

fn stats(totals: &Totals) -> Stats {
    let account = &totals.account;
    Stats {
        memory: account.memory,
        storage: account.storage,
        reserved_memory: account.reserved_memory,
        reserved_storage: account.reserved_storage,
        accounts: 1,
        ha_assets: 0,
        api: account.api.clone(),
    }
}

fn config(monitor: &Monitor) -> Config {
    let facts = monitor.facts();
    let bound =
        |limit: Option<u64>| limit.map_or(-1, |most| i64::try_from(most).unwrap_or(i64::MAX));
    Config {
        max_memory: bound(facts.max_memory),
        max_storage: bound(facts.max_storage),
        store_dir: facts.store_dir.display().to_string(),
        sync_interval: 0,
        domain: facts.domain.clone(),
        compress_ok: true,
        strict: facts.strict,
    }
}

/// The group; `None` for a node alone, as nats-server has it.
pub(super) fn meta(monitor: &Monitor) -> Option<MetaCluster> {
    let store = monitor.store()?;
    let status = store.replica.status();
    if status.voters.len() <= 1 && monitor.facts().cluster.is_none() {
        return None;
    }
    let cluster = store.jetstream.cluster();
    Some(MetaCluster {
        name: monitor.facts().cluster_name.clone(),
        leader: cluster.leader,
        peer: format!("{:08x}", status.node_id >> 32),
        // The leader lists the others; who follows knows only whom it follows.
        replicas: if monitor.is_leader() {
            cluster.replicas
        } else {
            Vec::new()
        },
        cluster_size: status.voters.len(),
        pending: status.last_log_index.saturating_sub(status.applied_index),
    })
}

fn account_detail(
    monitor: &Monitor,
    store: &StorePart,
    totals: &Totals,
    options: &JszOptions,
) -> AccountDetail {
    let name = &monitor.facts().jetstream_account;
    let hidden = options.stream_leader_only && !monitor.is_leader();
    let streams = (options.streams && !hidden).then(|| {
        let streams = store.jetstream.streams(options.consumer, LIMIT_MAX);
        let streams = streams.into_iter();
        streams.map(|stream| detail(stream, options)).collect()
    });
    AccountDetail {
        name: name.clone(),
        id: name.clone(),
        stats: stats(totals),
        stream_detail: streams,
    }
}

fn detail(report: StreamReport, options: &JszOptions) -> StreamDetail {
    let info = report.info;
    let consumers = report.consumers.map(|consumers| {
        let consumers = consumers.into_iter();
        consumers
            .map(|info| consumer(info, options.config))
            .collect()
    });
    StreamDetail {
        name: info.config.name.clone(),
        created: info.created,
        cluster: info.cluster,
        config: options.config.then_some(info.config),
        state: info.state,
        mirror: info.mirror,
        sources: info.sources,
        consumer_detail: consumers,
        stream_raft_group: options.raft.then(|| "meta".to_owned()),
    }
}

fn consumer(mut info: ConsumerInfo, config: bool) -> ConsumerDetail {
    if !config {
        info.config = ConsumerConfig::default();
    }
    let mut info = match serde_json::to_value(info) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    if !config {
        info.remove("config");
    }
    ConsumerDetail { info }
}
