//! Configuration → the options of each part, and the parts that take more than a call to start.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use unibus_broker::{BrokerOptions, ConnectUrls};
use unibus_proto::NodeId;
use unibus_raft::{Observer, OnDamage, OpenStore, Replica, ReplicaOptions, StartError, Transport};

use super::certificate::check_route_certificate;
use super::listeners::Addresses;
use super::wiring::{ReplicaSlot, RouteHooks};
use super::{ADVERTISED_VERSION, NodeError, interfaces};
use crate::config::limits::Limits;
use crate::config::{Advertise, AuthMode, NodeConfig, RouteSecret};
use crate::jetstream::{ConsumerLimits, JetStreamOptions};
use crate::mesh::{self, Mesh, MeshOptions, MeshTls, Posture};
use crate::open_files;

/// JetStream API level: that of nats-server 2.14.
const API_LEVEL: u8 = 4;

/// The id of a node that keeps nothing: made for this process.
pub(super) fn passing_id() -> NodeId {
    let random: [u8; 8] = rand::random();
    // 0 means "unknown" on the wire.
    NodeId(u64::from_le_bytes(random).max(1))
}

/// Opens what the node has on disk; `None` where it stores nothing. A damaged store is replaced by the
/// peers where there are any, and an error where there are none.
pub(super) async fn open_store(config: &NodeConfig) -> Result<Option<OpenStore>, NodeError> {
    if config.jetstream.is_none() {
        return Ok(None);
    }
    let path = &config.data_dir;
    let mut folders = std::fs::DirBuilder::new();
    // Whoever else has an account on the host has no business in it.
    let made = folders.recursive(true).mode(0o700).create(path);
    made.map_err(|source| NodeError::DataDir {
        path: path.clone(),
        source,
    })?;
    let options = replica_options(config);
    let on_damage = match config.cluster {
        Some(_) => OnDamage::Rejoin,
        None => OnDamage::Refuse,
    };
    let opening = tokio::task::spawn_blocking(move || OpenStore::open(options, on_damage));
    let opened = opening
        .await
        .map_err(|error| StartError::Raft(error.to_string()))?;
    Ok(Some(opened?))
}

fn replica_options(config: &NodeConfig) -> ReplicaOptions {
    let mut options = ReplicaOptions::new(&config.data_dir, &config.server_name);
    options.heartbeat = config.timing.heartbeat;
    options.election_min = config.timing.election_min;
    options.election_max = config.timing.election_max;
    options.cache_bytes = usize::try_from(config.limits.cache_bytes).unwrap_or(usize::MAX);
    options.log_cache_bytes = usize::try_from(config.limits.log_cache_bytes).unwrap_or(usize::MAX);
    if let Some(bytes) = config.limits.checkpoint_log_bytes {
        options.checkpoint_log_bytes = bytes;
    }
    options
}

/// How strictly this node is run. `tls` speaks of the routes: what nodes ask of each other.
pub(super) fn posture(config: &NodeConfig) -> Posture {
    let clustered = config.cluster.is_some();
    let enforce = config.auth.is_enforced();
    Posture {
        enforce,
        acl: enforce,
        tls: clustered,
        cluster: clustered,
        store: config.jetstream.is_some(),
    }
}

pub(super) fn broker_options(config: &NodeConfig, addresses: &Addresses) -> BrokerOptions {
    let client = addresses.client;
    let limits = &config.limits;
    let mut own = unibus_broker::Limits::default();
    client_limits(&mut own, limits);
    BrokerOptions {
        server_name: config.server_name.clone(),
        server_id: config.server_id.clone().unwrap_or_else(server_id),
        version: ADVERTISED_VERSION.to_owned(),
        cluster: config.cluster.as_ref().map(|cluster| cluster.name.clone()),
        host: client.ip().to_string(),
        port: client.port(),
        // Told once there are other nodes: see `advertise`.
        connect_urls: ConnectUrls::default(),
        auth_required: config.auth.is_enforced(),
        always_nonce: true,
        jetstream: config.jetstream.is_some(),
        domain: config.jetstream.as_ref().and_then(|js| js.domain.clone()),
        api_level: if config.jetstream.is_some() {
            API_LEVEL
        } else {
            0
        },
        limits: own,
    }
}

/// Puts the configuration's limits over the broker's. There are never more clients than open files allow.
pub(super) fn client_limits(own: &mut unibus_broker::Limits, limits: &Limits) {
    own.payload_bytes_max = limits.payload_bytes_max;
    own.control_line_bytes_max = limits.control_line_bytes_max;
    own.pending_bytes_max = limits.pending_bytes_max;
    own.connections_max = open_files::clients(limits.connections_max);
    own.subscriptions_max = limits.subscriptions_max;
    own.subscription_tokens_max = limits.subscription_tokens_max;
    own.write_deadline = limits.write_deadline;
    own.auth_timeout = limits.auth_timeout;
    own.ping_interval = limits.ping_interval;
    own.pings_out_max = limits.pings_out_max;
    own.route_pending_bytes_max = own.route_pending_bytes_max.max(limits.pending_bytes_max);
}

/// What clients are told about the WebSocket listener.
fn websocket_urls(config: &NodeConfig, at: Option<SocketAddr>) -> Vec<String> {
    let advertised = config
        .websocket
        .as_ref()
        .and_then(|ws| ws.advertise.clone());
    match (at, advertised) {
        (None, _) => Vec::new(),
        (Some(_), _) if config.advertise == Advertise::Nothing => Vec::new(),
        (Some(_), Some(advertised)) => vec![advertised],
        (Some(at), None) => interfaces::reachable(at)
            .iter()
            .map(ToString::to_string)
            .collect(),
    }
}

/// Where clients reach this node, as they are told.
pub(super) fn connect_urls(
    config: &NodeConfig,
    client: SocketAddr,
    websocket: Option<SocketAddr>,
) -> ConnectUrls {
    ConnectUrls {
        clients: client_urls(config, client),
        websockets: websocket_urls(config, websocket),
    }
}

fn client_urls(config: &NodeConfig, client: SocketAddr) -> Vec<String> {
    match &config.advertise {
        Advertise::Address(address) => vec![address.clone()],
        Advertise::Listener => interfaces::reachable(client)
            .iter()
            .map(ToString::to_string)
            .collect(),
        Advertise::Nothing => Vec::new(),
    }
}

/// An id in the shape of nats-server's: `N` and 55 letters and digits, new for every process.
#[must_use]
pub fn server_id() -> String {
    let random: [u8; 34] = rand::random();
    format!("N{}", data_encoding::BASE32_NOPAD.encode(&random))
}

pub(super) fn jetstream_options(config: &NodeConfig) -> JetStreamOptions {
    let limits = config.jetstream.as_ref().map(|js| &js.limits);
    JetStreamOptions {
        consumer_limits: ConsumerLimits {
            max_request_batch: limits.and_then(|limits| limits.max_request_batch),
            max_ack_pending: limits.and_then(|limits| limits.max_ack_pending),
        },
        domain: config.jetstream.as_ref().and_then(|js| js.domain.clone()),
        cluster_name: config.cluster.as_ref().map(|cluster| cluster.name.clone()),
        version: ADVERTISED_VERSION.to_owned(),
        api_level: API_LEVEL,
        limits: jetstream_limits(config),
        batches: config.limits.batches,
        strict: config.jetstream.as_ref().is_some_and(|js| js.strict),
        ..JetStreamOptions::new(config.server_name.clone())
    }
}

/// The limits of the account that JetStream serves, and of the server.
fn jetstream_limits(config: &NodeConfig) -> unibus_state::limits::Limits {
    let number = |limit: Option<u64>| limit.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX));
    let mut limits = unibus_state::limits::Limits::default();
    let Some(js) = &config.jetstream else {
        return limits;
    };
    limits.server_memory = number(js.max_memory);
    limits.server_storage = number(js.max_storage);
    let AuthMode::Static(auth) = &config.auth else {
        return limits;
    };
    let mut accounts = auth.accounts.iter();
    let served = accounts.find(|account| Some(&account.name) == js.account.as_ref());
    let Some(own) = served.and_then(|account| account.jetstream.as_ref()) else {
        return limits;
    };
    limits.account = unibus_proto::jetstream::info::AccountLimits {
        max_memory: number(own.max_memory),
        max_storage: number(own.max_storage),
        max_streams: number(own.max_streams),
        max_consumers: number(own.max_consumers),
        max_ack_pending: number(own.max_ack_pending),
        memory_max_stream_bytes: number(own.memory_max_stream_bytes),
        storage_max_stream_bytes: number(own.store_max_stream_bytes),
        max_bytes_required: own.max_bytes_required,
    };
    limits
}

/// `None` where the node has no routes.
pub(super) async fn start_mesh(
    config: &NodeConfig,
    node_id: NodeId,
    hooks: RouteHooks,
) -> Result<Option<Arc<Mesh>>, NodeError> {
    let Some(cluster) = &config.cluster else {
        return Ok(None);
    };
    check_route_certificate(&cluster.tls.cert)?;
    let secret = match &cluster.secret {
        RouteSecret::UserPass { user, pass } => mesh::RouteSecret::from_user_pass(user, pass),
        RouteSecret::File(path) => mesh::RouteSecret::from_file(path)?,
        RouteSecret::None => mesh::RouteSecret::absent(),
    };
    let tls = MeshTls {
        cert: cluster.tls.cert.clone(),
        key: cluster.tls.key.clone(),
        ca: cluster.tls.ca.clone(),
    };
    let options = MeshOptions {
        node_id,
        server_name: config.server_name.clone(),
        cluster_name: cluster.name.clone(),
        bind: cluster.listen,
        routes: cluster.routes.clone(),
        tls,
        secret,
        posture: posture(config),
        learn_routes: cluster.learn_routes,
        versions: MeshOptions::VERSIONS,
    };
    Ok(Some(Mesh::start(options, Arc::new(hooks)).await?))
}

pub(super) async fn start_replica(
    store: OpenStore,
    transport: &Arc<dyn Transport>,
    observer: Arc<dyn Observer>,
    slot: &ReplicaSlot,
) -> Result<Replica, NodeError> {
    let replica = Replica::start(store, Arc::clone(transport), observer).await?;
    slot.set(Some(replica.clone()));
    Ok(replica)
}
