//! Joins monitoring with the parts of a node: the facts it tells, the services of `$SYS`, the events,
//! and with it what peers ask this node for.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::Parts;
use super::listeners::Addresses;
use super::wiring::Dispatch;
use crate::config::tls::ClientTls;
use crate::config::{AuthMode, NodeConfig};
use crate::monitor::sys::{Advisories, PeerAnswers, Peers, SystemServices};
use crate::monitor::{Facts, Monitor, ReloadRequests, StorePart};
use crate::shutdown::Shutdown;

/// The system account of a node whose users are the bus's own: there is one account only.
const SYSTEM_ACCOUNT_UNNAMED: &str = "$SYS";

/// Monitoring that runs.
pub(super) struct Monitoring {
    pub(super) monitor: Monitor,
    pub(super) advisories: Advisories,
    pub(super) reloads: ReloadRequests,
    pub(super) tasks: Vec<JoinHandle<()>>,
}

/// Monitoring of a node: from now on `$SYS` is served, its events are told, and peers are answered:
/// also what they ask the store for.
pub(super) fn start(
    config: &NodeConfig,
    addresses: &Addresses,
    server_id: &str,
    parts: &Parts<'_>,
    shutdown: &Shutdown,
) -> Monitoring {
    let store = parts.store.map(|store| StorePart {
        replica: store.replica.clone(),
        jetstream: store.jetstream.clone(),
        caught_up: store.caught_up.clone(),
        control: parts.control.clone(),
    });
    let broker = parts.broker;
    let facts = facts(config, addresses, server_id);
    let (monitor, reloads) = Monitor::new(facts, broker.clone(), store, parts.mesh.cloned());
    let separate = matches!(config.auth, AuthMode::Static(_));
    let account = if separate {
        broker.account(&monitor.facts().system_account)
    } else {
        None
    };
    let system = account.unwrap_or_else(|| broker.clone());
    let advisories = Advisories::new(monitor.clone(), system);
    broker.set_events(advisories.clone());
    let peers = parts.mesh.map(|mesh| {
        mesh.set_rpc_handler(Arc::new(Dispatch {
            store: parts
                .store
                .map(|store| (store.replica.handler(), store.jetstream.clone())),
            answers: PeerAnswers::new(monitor.clone()),
        }));
        Peers::new(Arc::clone(mesh) as _)
    });
    let tasks = vec![
        tokio::spawn(SystemServices::start(&monitor, broker, separate, peers)),
        tokio::spawn(advisories.clone().run(shutdown.clone())),
    ];
    Monitoring {
        monitor,
        advisories,
        reloads,
        tasks,
    }
}

fn facts(config: &NodeConfig, addresses: &Addresses, server_id: &str) -> Facts {
    let jetstream = config.jetstream.as_ref();
    let (system_account, accounts) = match &config.auth {
        AuthMode::Bus(_) => (SYSTEM_ACCOUNT_UNNAMED, Vec::new()),
        AuthMode::Static(auth) => {
            let names = auth.accounts.iter().map(|account| account.name.clone());
            (auth.system_account(), names.collect())
        }
    };
    let cluster = config.cluster.as_ref();
    Facts {
        server_id: server_id.to_owned(),
        server_name: config.server_name.clone(),
        version: super::ADVERTISED_VERSION.to_owned(),
        client: addresses.client,
        monitor: addresses.monitor,
        cluster_name: cluster.map(|cluster| cluster.name.clone()),
        cluster: addresses.cluster,
        route_urls: cluster.map_or_else(Vec::new, |cluster| {
            cluster.routes.iter().map(ToString::to_string).collect()
        }),
        tls_required: config.client_tls.is_some(),
        tls_verify: config
            .client_tls
            .as_ref()
            .is_some_and(ClientTls::asks_for_certificates),
        websocket: addresses.websocket.zip(config.websocket.clone()),
        store_dir: config.data_dir.clone(),
        domain: jetstream.and_then(|js| js.domain.clone()),
        max_memory: jetstream.and_then(|js| js.max_memory),
        max_storage: jetstream.and_then(|js| js.max_storage),
        strict: jetstream.is_some_and(|js| js.strict),
        jsonp: config.own_names().is_none(),
        tags: config.server_tags.clone(),
        system_account: system_account.into(),
        jetstream_account: jetstream
            .and_then(|js| js.account.clone())
            .unwrap_or_else(|| unibus_broker::GLOBAL_ACCOUNT.to_owned()),
        accounts,
    }
}
