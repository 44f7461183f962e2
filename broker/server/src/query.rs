//! Monitoring's questions, answered from the registry and the tables.
//!
//! Owns filtering and paging. A question about subscriptions walks the whole index under its read lock;
//! publishers go on meanwhile, subscribers wait for it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use unibus_proto::subject;

use crate::plane::Plane;
use crate::report::{
    self, AccountReport, ConnectionPage, ConnectionQuery, ConnectionReport, ConnectionState,
    GLOBAL_ACCOUNT, SubscriptionPage, SubscriptionQuery, SubscriptionReport,
};
use crate::shared::Shared;
use crate::stats::read;
use crate::subscription::Subscription;

pub(crate) fn connections(shared: &Shared, query: &ConnectionQuery) -> ConnectionPage {
    let mut found = Vec::new();
    if query.state != ConnectionState::Closed {
        let records = match query.cid {
            Some(cid) => shared.registry.get(cid).into_iter().collect(),
            None => shared.registry.records(),
        };
        let reports = records.iter().map(|record| record.report());
        found.extend(reports.filter(|report| is_wanted(query, report)));
    }
    if query.state != ConnectionState::Open {
        found.extend(shared.registry.past(|report| is_wanted(query, report)));
    }
    if let Some(filter) = &query.filter_subject {
        let mut of = subscriptions_by_connection(shared);
        found.retain(|report| {
            let own = of.remove(&report.cid).unwrap_or_default();
            let collides =
                |s: &SubscriptionReport| subject::collide(s.subject.as_bytes(), filter.as_bytes());
            report.stop.is_none() && own.iter().any(collides)
        });
    }
    report::sort(&mut found, query.order);
    let total = found.len();
    let mut connections = page(found, query.offset, query.limit);
    if query.subscriptions {
        let mut of = subscriptions_by_connection(shared);
        for connection in connections.iter_mut().filter(|c| c.stop.is_none()) {
            connection.subscription_list = of.remove(&connection.cid).unwrap_or_default();
        }
    }
    ConnectionPage { connections, total }
}

pub(crate) fn subscriptions(shared: &Shared, query: &SubscriptionQuery) -> SubscriptionPage {
    let mut found = Vec::new();
    for_each_subscription(shared, |report| {
        let account = report.account.as_deref().unwrap_or(GLOBAL_ACCOUNT);
        let wanted = query.cid.is_none_or(|cid| cid == report.cid)
            && query.account.as_deref().is_none_or(|name| name == account)
            && query.test.as_deref().is_none_or(|literal| {
                subject::matches(report.subject.as_bytes(), literal.as_bytes())
            });
        if wanted {
            found.push(report);
        }
    });
    found.sort_by(|a, b| (a.cid, &a.sid).cmp(&(b.cid, &b.sid)));
    let total = found.len();
    SubscriptionPage {
        subscriptions: page(found, query.offset, query.limit),
        total,
    }
}

/// `$G` and every other account, by name.
pub(crate) fn accounts(shared: &Shared) -> Vec<AccountReport> {
    let planes = shared.planes.all();
    planes.iter().map(|plane| account(plane)).collect()
}

fn account(plane: &Plane) -> AccountReport {
    let traffic = plane.traffic.read();
    AccountReport {
        name: plane.name().to_owned(),
        connections: plane.connections.load(Ordering::Relaxed),
        connections_total: read(&plane.connections_total),
        subscriptions: plane.table.read_recursive().local.sublist().len(),
        in_msgs: traffic.in_msgs,
        in_bytes: traffic.in_bytes,
        out_msgs: traffic.out_msgs,
        out_bytes: traffic.out_bytes,
        slow_consumers: read(&plane.slow_consumers),
    }
}

fn is_wanted(query: &ConnectionQuery, report: &ConnectionReport) -> bool {
    let client = &report.client;
    let is_user =
        |user: &str| client.user.as_deref() == Some(user) || client.nkey.as_deref() == Some(user);
    query.cid.is_none_or(|cid| cid == report.cid)
        && query
            .account
            .as_deref()
            .is_none_or(|name| name == client.account_name())
        && query.user.as_deref().is_none_or(is_user)
}

fn subscriptions_by_connection(shared: &Shared) -> HashMap<u64, Vec<SubscriptionReport>> {
    let mut of: HashMap<u64, Vec<SubscriptionReport>> = HashMap::new();
    for_each_subscription(shared, |report| {
        of.entry(report.cid).or_default().push(report);
    });
    for list in of.values_mut() {
        list.sort_by(|a, b| a.sid.cmp(&b.sid));
    }
    of
}

fn for_each_subscription(shared: &Shared, mut visit: impl FnMut(SubscriptionReport)) {
    let mut filter = Vec::new();
    for plane in shared.planes.all() {
        let table = plane.table.read_recursive();
        let sublist = table.local.sublist();
        sublist.for_each(|handle, _, members| {
            filter.clear();
            sublist.filter_of(handle, &mut filter);
            for subscription in members.iter().filter(|s| s.via().is_none()) {
                visit(report_of(&plane, subscription, &filter));
            }
        });
    }
}

fn report_of(plane: &Plane, subscription: &Subscription, filter: &[u8]) -> SubscriptionReport {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    SubscriptionReport {
        cid: subscription.outbound.id,
        account: plane.account.clone(),
        subject: text(filter),
        queue: subscription.queue.as_deref().map(text),
        sid: text(&subscription.sid),
        msgs: subscription.delivered(),
        max: subscription.max(),
    }
}

fn page<T>(all: Vec<T>, offset: usize, limit: usize) -> Vec<T> {
    all.into_iter().skip(offset).take(limit).collect()
}
