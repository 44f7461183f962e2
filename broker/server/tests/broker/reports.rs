//! What monitoring is told: connections, subscriptions, why connections ended, and when.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use unibus_broker::{
    CloseReason, ConnectionOrder, ConnectionQuery, ConnectionReport, ConnectionState, Events,
    Grant, SubscriptionQuery,
};

use crate::support::{Node, until};

/// What happened, in order: `+name`, `-name reason`, `!name text`.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn note(&self, sign: &str, connection: &ConnectionReport, rest: &str) {
        let name = connection.client.name.as_deref().unwrap_or("?");
        self.0.lock().push(format!("{sign}{name}{rest}"));
    }

    async fn shows(&self, expected: &[&str]) {
        until("the diary is complete", || {
            self.0.lock().len() >= expected.len()
        })
        .await;
        assert_eq!(*self.0.lock(), expected);
    }
}

impl Events for Diary {
    fn connected(&self, connection: &ConnectionReport) {
        self.note("+", connection, "");
    }

    fn disconnected(&self, connection: &ConnectionReport) {
        let reason = connection.reason.map(CloseReason::text).unwrap_or_default();
        self.note("-", connection, &format!(" {reason}"));
    }

    fn auth_failed(&self, connection: &ConnectionReport, text: &str) {
        self.note("!", connection, &format!(" {text}"));
    }
}

fn closed() -> ConnectionQuery {
    ConnectionQuery {
        state: ConnectionState::Closed,
        ..ConnectionQuery::default()
    }
}

#[tokio::test]
async fn an_open_connection_is_reported_with_what_it_did() {
    let node = Node::start().await;
    let mut raw = node
        .client_with(r#""user":"ada","name":"probe","lang":"raw","version":"1.2.3""#)
        .await;
    raw.send("SUB foo.* q 7\r\nSUB bar 8\r\nUNSUB 8 5\r\nPUB foo.a 3\r\nabc\r\n")
        .await;
    raw.expect("MSG foo.a 7 3\r\nabc\r\n").await;
    raw.flush().await;
    let query = ConnectionQuery {
        subscriptions: true,
        user: Some("ada".into()),
        ..ConnectionQuery::default()
    };
    let page = node.broker.connections(&query);
    assert_eq!(page.total, 1);
    let report = &page.connections[0];
    assert_eq!(report.client.name.as_deref(), Some("probe"));
    assert_eq!(report.client.lang.as_deref(), Some("raw"));
    assert_eq!(report.client.version.as_deref(), Some("1.2.3"));
    assert_eq!(report.client.account_name(), "$G");
    assert_eq!((report.in_msgs, report.in_bytes), (1, 3));
    assert_eq!((report.out_msgs, report.out_bytes), (1, 3));
    assert_eq!((report.subscriptions, report.pending_bytes), (2, 0));
    assert!(report.last_activity >= report.start && report.stop.is_none());
    let list: Vec<_> = report
        .subscription_list
        .iter()
        .map(|s| {
            (
                s.subject.as_str(),
                s.queue.as_deref(),
                s.sid.as_str(),
                s.msgs,
                s.max,
            )
        })
        .collect();
    assert_eq!(
        list,
        [
            ("foo.*", Some("q"), "7", 1, None),
            ("bar", None, "8", 0, Some(5))
        ]
    );
    let test = SubscriptionQuery {
        test: Some("foo.b".into()),
        limit: 10,
        ..SubscriptionQuery::default()
    };
    assert_eq!(node.broker.subscriptions(&test).total, 1);
    let accounts = node.broker.accounts();
    assert_eq!((accounts[0].subscriptions, accounts[0].connections), (2, 1));
}

#[tokio::test]
async fn the_round_trip_is_measured() {
    let node = Node::limited(|limits| limits.first_ping = Duration::from_millis(5)).await;
    let mut raw = node.client().await;
    raw.expect("PING\r\n").await;
    raw.send("PONG\r\n").await;
    raw.flush().await;
    let page = node.broker.connections(&ConnectionQuery::default());
    assert!(
        page.connections[0]
            .rtt
            .is_some_and(|rtt| rtt > Duration::ZERO)
    );
}

#[tokio::test]
async fn pages_are_in_order_and_bounded() {
    let node = Node::start().await;
    let mut clients = Vec::new();
    for messages in [1, 3, 2] {
        let mut raw = node.client().await;
        raw.send(&"PUB foo 0\r\n\r\n".repeat(messages)).await;
        raw.flush().await;
        clients.push(raw);
    }
    let query = ConnectionQuery {
        order: ConnectionOrder::MessagesFrom,
        offset: 1,
        limit: 1,
        ..ConnectionQuery::default()
    };
    let page = node.broker.connections(&query);
    assert_eq!((page.total, page.connections.len()), (3, 1));
    assert_eq!(page.connections[0].in_msgs, 2);
    let none = ConnectionQuery {
        filter_subject: Some("foo".into()),
        ..ConnectionQuery::default()
    };
    assert_eq!(node.broker.connections(&none).total, 0);
    clients[0].send("SUB foo.> 1\r\nSUB * 2\r\n").await;
    clients[0].flush().await;
    assert_eq!(node.broker.connections(&none).total, 1);
}

#[tokio::test]
async fn closed_connections_stay_in_a_bounded_ring_with_their_reason() {
    let node = Node::limited(|limits| {
        limits.closed_connections_kept = 3;
        limits.payload_bytes_max = 10;
    })
    .await;
    drop(node.client_with(r#""name":"first""#).await);
    until("the first is closed", || {
        node.broker.connections(&closed()).total == 1
    })
    .await;
    for sent in ["PUB foo 11\r\n", "NONSENSE\r\n", "PUB foo -1\r\n"] {
        let mut raw = node.client().await;
        raw.send("SUB a 1\r\n").await;
        raw.send(sent).await;
        raw.rest().await;
    }
    until("three are left", || {
        let last = closed_reasons(&node);
        last.len() == 3 && node.broker.stats().connections == 0
    })
    .await;
    assert_eq!(
        closed_reasons(&node),
        [
            "Maximum Message Payload Exceeded",
            "Parse Error",
            "Parse Error"
        ]
    );
    let page = node.broker.connections(&closed());
    assert!(
        page.connections
            .iter()
            .all(|r| r.stop.is_some() && r.subscriptions == 1)
    );
}

fn closed_reasons(node: &Node) -> Vec<&'static str> {
    let page = node.broker.connections(&closed());
    let reasons = page.connections.iter().filter_map(|r| r.reason);
    reasons.map(CloseReason::text).collect()
}

#[tokio::test]
async fn events_tell_who_came_and_went() {
    let node = Node::with(|options| options.auth_required = true).await;
    let diary = Diary::default();
    node.broker.set_events(diary.clone());
    let mut refused = node.dial().await;
    refused
        .send("CONNECT {\"user\":\"nobody\",\"name\":\"mallory\"}\r\n")
        .await;
    refused.rest().await;
    let left = node.client_with(r#""name":"ada""#).await;
    drop(left);
    until("ada has left", || node.broker.stats().connections == 0).await;
    let mut revoked = node.client_with(r#""name":"bob""#).await;
    node.grant.send(Grant::Revoked).unwrap();
    revoked.rest().await;
    drop(revoked);
    diary
        .shows(&[
            "!mallory Authorization Violation",
            "+ada",
            "-ada Client Closed",
            "+bob",
            "-bob Credentials Revoked",
        ])
        .await;
}

#[tokio::test]
async fn info_waits_for_the_first_pong() {
    let node = Node::start().await;
    let mut raw = node.dial().await;
    raw.send("CONNECT {\"verbose\":false,\"protocol\":1}\r\nSUB a 1\r\n")
        .await;
    until("CONNECT was read", || {
        node.broker.stats().subscriptions == 1
    })
    .await;
    node.broker
        .update_info(|info| info.connect_urls = vec!["10.0.0.9:4222".into()]);
    raw.send("PING\r\n").await;
    assert_eq!(raw.line().await, "PONG");
    let info = raw.line().await;
    assert!(
        info.contains("connect_info") && info.contains("10.0.0.9"),
        "{info}"
    );
    node.broker
        .update_info(|info| info.connect_urls = vec!["10.0.0.8:4222".into()]);
    let later = raw.line().await;
    assert!(
        later.starts_with("INFO {") && later.contains("10.0.0.8"),
        "{later}"
    );
}
