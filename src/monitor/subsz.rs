//! `/subsz`: the subscription index (nats-surface §4.1).

use serde::Serialize;
use unibus_broker::SubscriptionQuery;
use unibus_proto::jetstream::timestamp::Timestamp;

use super::connz::SubDetail;
use super::query::{SubszOptions, limit};
use super::source::Monitor;
use super::text;

/// The document. Inserts, removes and the cache's numbers are not kept apart per node here: each
/// connection has a cache of its own.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Subsz {
    server_id: String,
    now: Timestamp,
    num_subscriptions: usize,
    num_cache: u64,
    num_inserts: u64,
    num_removes: u64,
    num_matches: u64,
    cache_hit_rate: f64,
    max_fanout: u64,
    avg_fanout: f64,
    total: usize,
    offset: usize,
    limit: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions_list: Option<Vec<SubDetail>>,
}

/// Makes the document.
#[must_use]
pub(crate) fn subsz(monitor: &Monitor, options: &SubszOptions) -> Subsz {
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    let limit = limit(options.limit);
    let page = options.subscriptions.then(|| {
        monitor.broker().subscriptions(&SubscriptionQuery {
            account: given(&options.account),
            test: given(&options.test),
            offset: options.offset,
            limit,
            ..SubscriptionQuery::default()
        })
    });
    let stats = monitor.stats();
    Subsz {
        server_id: monitor.facts().server_id.clone(),
        now: text::now(),
        num_subscriptions: stats.subscriptions,
        num_cache: 0,
        num_inserts: 0,
        num_removes: 0,
        num_matches: 0,
        cache_hit_rate: 0.0,
        max_fanout: 0,
        avg_fanout: 0.0,
        total: page.as_ref().map_or(0, |page| page.total),
        offset: options.offset,
        limit,
        subscriptions_list: page
            .map(|page| page.subscriptions.iter().map(SubDetail::from).collect()),
    }
}
