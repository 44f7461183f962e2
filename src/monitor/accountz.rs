//! `/accountz` and `/accstatz`: the accounts and what they do on this node (nats-surface §4.1).

use std::collections::BTreeSet;

use serde::Serialize;
use unibus_broker::{AccountReport, GLOBAL_ACCOUNT};
use unibus_proto::jetstream::timestamp::Timestamp;

use super::query::{AccountzOptions, AccstatzOptions};
use super::source::Monitor;
use super::text;

/// `/accountz`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Accountz {
    server_id: String,
    now: Timestamp,
    system_account: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    accounts: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_detail: Option<AccountInfo>,
}

/// One account in detail.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct AccountInfo {
    account_name: String,
    update_time: Timestamp,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_system: bool,
    expired: bool,
    complete: bool,
    jetstream_enabled: bool,
    leafnode_connections: usize,
    client_connections: usize,
    subscriptions: usize,
    name_tag: String,
}

/// `/accstatz`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Accstatz {
    server_id: String,
    now: Timestamp,
    account_statz: Vec<AccountStat>,
}

/// What one account does.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct AccountStat {
    acc: String,
    name: String,
    conns: usize,
    leafnodes: usize,
    total_conns: usize,
    num_subscriptions: usize,
    sent: Data,
    received: Data,
    slow_consumers: u64,
}

/// Messages and bytes, with what gateways, routes and leaf nodes had of them.
#[derive(Clone, Debug, Default, Serialize)]
struct Data {
    msgs: u64,
    bytes: u64,
    gateways: Amount,
    routes: Amount,
    leafs: Amount,
}

/// Messages and bytes.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Amount {
    pub(super) msgs: u64,
    pub(super) bytes: u64,
}

/// Makes `/accountz`; an account that is not there has no detail.
#[must_use]
pub(crate) fn accountz(monitor: &Monitor, options: &AccountzOptions) -> Accountz {
    let facts = monitor.facts();
    let listed = options.account.is_empty();
    Accountz {
        server_id: facts.server_id.clone(),
        now: text::now(),
        system_account: facts.system_account.to_string(),
        accounts: listed.then(|| names(monitor).into_iter().collect()),
        account_detail: if listed {
            None
        } else {
            account_info(monitor, &options.account)
        },
    }
}

/// Every account that is known here.
fn names(monitor: &Monitor) -> BTreeSet<String> {
    let facts = monitor.facts();
    let mut names: BTreeSet<String> = facts.accounts.iter().cloned().collect();
    names.insert(GLOBAL_ACCOUNT.to_owned());
    names.insert(facts.system_account.to_string());
    names.extend(monitor.broker().accounts().into_iter().map(|a| a.name));
    names
}

/// One account; `None` where there is none of this name.
pub(super) fn account_info(monitor: &Monitor, name: &str) -> Option<AccountInfo> {
    if !names(monitor).contains(name) {
        return None;
    }
    let report = report_of(monitor, name);
    let facts = monitor.facts();
    Some(AccountInfo {
        account_name: name.to_owned(),
        update_time: text::timestamp(monitor.started_at()),
        is_system: name == &*facts.system_account,
        expired: false,
        complete: true,
        jetstream_enabled: monitor.store().is_some() && name == facts.jetstream_account,
        leafnode_connections: 0,
        client_connections: report.connections,
        subscriptions: report.subscriptions,
        name_tag: name.to_owned(),
    })
}

fn report_of(monitor: &Monitor, name: &str) -> AccountReport {
    let found = monitor.broker().accounts().into_iter();
    let mut found = found.filter(|account| account.name == name);
    found.next().unwrap_or_else(|| AccountReport {
        name: name.to_owned(),
        ..AccountReport::default()
    })
}

/// Makes `/accstatz`.
#[must_use]
pub(crate) fn accstatz(monitor: &Monitor, options: &AccstatzOptions) -> Accstatz {
    let wanted = |name: &String| options.accounts.is_empty() || options.accounts.contains(name);
    let accounts = names(monitor).into_iter().filter(wanted);
    let stats = accounts.map(|name| report_of(monitor, &name));
    Accstatz {
        server_id: monitor.facts().server_id.clone(),
        now: text::now(),
        account_statz: stats
            .filter(|account| options.include_unused || account.connections > 0)
            .map(|account| AccountStat::from(&account))
            .collect(),
    }
}

/// What one account does, for events and requests about it.
pub(super) fn account_stat(monitor: &Monitor, name: &str) -> AccountStat {
    AccountStat::from(&report_of(monitor, name))
}

/// How many accounts have clients here.
pub(super) fn active_accounts(monitor: &Monitor) -> usize {
    let accounts = monitor.broker().accounts();
    accounts.iter().filter(|a| a.connections > 0).count()
}

impl From<&AccountReport> for AccountStat {
    fn from(account: &AccountReport) -> Self {
        let data = |msgs, bytes| Data {
            msgs,
            bytes,
            ..Data::default()
        };
        Self {
            acc: account.name.clone(),
            name: account.name.clone(),
            conns: account.connections,
            leafnodes: 0,
            // nats-server counts here what is connected now, leaf nodes included.
            total_conns: account.connections,
            num_subscriptions: account.subscriptions,
            sent: data(account.out_msgs, account.out_bytes),
            received: data(account.in_msgs, account.in_bytes),
            slow_consumers: account.slow_consumers,
        }
    }
}
