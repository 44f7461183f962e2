//! What is too large, too many, too late or too slow (nats-surface §1.6, §1.7).

use std::time::{Duration, Instant};

use unibus_broker::{
    CloseReason, ConnectUrls, ConnectionQuery, ConnectionReport, ConnectionState, LameDuck,
};

use crate::support::{DEADLINE, Node, until};

#[tokio::test]
async fn an_oversized_payload_is_refused_on_its_control_line() {
    let node = Node::limited(|limits| limits.payload_bytes_max = 100).await;
    let mut raw = node.client().await;
    raw.send("PUB foo 101\r\n").await;
    assert_eq!(raw.rest().await, "-ERR 'Maximum Payload Violation'\r\n");
}

#[tokio::test]
async fn a_refused_client_that_keeps_sending_still_reads_why() {
    let node = Node::limited(|limits| limits.payload_bytes_max = 100).await;
    let mut raw = node.client().await;
    raw.send(&format!("PUB foo 500000\r\n{}\r\n", "x".repeat(500_000)))
        .await;
    assert_eq!(raw.rest().await, "-ERR 'Maximum Payload Violation'\r\n");
}

#[tokio::test]
async fn broken_protocol_is_told_as_the_stock_server_does() {
    let node = Node::start().await;
    let unknown = "-ERR 'Unknown Protocol Operation'\r\n";
    for (sent, text) in [
        ("PUB foo 2\r\nxyz\r\n".to_owned(), unknown),
        ("RS+ a b\r\n".to_owned(), unknown),
        ("PUB foo -1\r\n".to_owned(), ""),
        ("-ERR 'x'\r\n".to_owned(), ""),
        (
            format!("SUB {} 1\r\n", "x".repeat(5_000)),
            "-ERR 'maximum control line exceeded'\r\n",
        ),
    ] {
        let mut raw = node.client().await;
        raw.send(&sent).await;
        assert_eq!(raw.rest().await, text, "{sent}");
    }
}

#[tokio::test]
async fn connections_and_subscriptions_are_counted() {
    let node = Node::limited(|limits| {
        limits.connections_max = 1;
        limits.subscriptions_max = 1;
    })
    .await;
    let mut raw = node.client().await;
    raw.send("SUB a 1\r\nSUB b 2\r\n").await;
    raw.expect("-ERR 'maximum subscriptions exceeded'\r\n")
        .await;
    let mut second = node.dial().await;
    assert_eq!(
        second.rest().await,
        "-ERR 'maximum connections exceeded'\r\n"
    );
    drop(raw);
    until("the place is free", || node.broker.stats().connections == 0).await;
    node.client().await.flush().await;
    assert_eq!(node.broker.stats().connections_total, 2);
}

#[tokio::test]
async fn a_silent_client_is_pinged_and_then_stale() {
    let node = Node::limited(|limits| {
        limits.first_ping = Duration::from_millis(20);
        limits.ping_interval = Duration::from_millis(40);
    })
    .await;
    let mut raw = node.client().await;
    raw.expect("PING\r\n").await;
    raw.send("PONG\r\n").await;
    raw.expect("PING\r\nPING\r\n").await;
    assert_eq!(raw.rest().await, "-ERR 'Stale Connection'\r\n");
    assert_eq!(node.broker.stats().stale_connections, 1);
}

#[tokio::test]
async fn a_peer_that_never_says_anything_is_stale_too() {
    let node = Node::limited(|limits| {
        limits.first_ping = Duration::from_millis(20);
        limits.ping_interval = Duration::from_millis(40);
    })
    .await;
    let mut raw = node.dial().await;
    // No PING before CONNECT: the silence itself counts.
    assert_eq!(raw.rest().await, "-ERR 'Stale Connection'\r\n");
    assert_eq!(node.broker.stats().stale_connections, 1);
    node.client().await.flush().await;
}

#[tokio::test]
async fn a_slow_consumer_is_closed_and_counted_and_others_are_not() {
    let node = Node::limited(|limits| {
        limits.pending_bytes_max = 1024 * 1024;
        limits.stall = Duration::from_millis(1);
    })
    .await;
    let (mut slow, mut quick, mut publisher) = (
        node.client().await,
        node.client().await,
        node.client().await,
    );
    for raw in [&mut slow, &mut quick] {
        raw.send("SUB flood 1\r\n").await;
        raw.flush().await;
    }
    let message = format!("PUB flood 8192\r\n{}\r\n", "x".repeat(8192));
    let mut sent = 0;
    while node.broker.stats().slow_consumers == 0 {
        publisher.send(&message.repeat(16)).await;
        publisher.flush().await;
        sent += 16;
        assert!(sent < 10_000, "{sent} messages and nobody is slow");
        for _ in 0..16 {
            quick.line().await;
            quick.skip(8194).await;
        }
    }
    until("one of three is gone", || {
        node.broker.stats().connections == 2
    })
    .await;
    quick.flush().await;
    assert_eq!(node.broker.stats().slow_consumers, 1);
    let _ = slow.rest().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_meets_the_write_deadline() {
    let node = Node::limited(|limits| limits.write_deadline = Duration::from_millis(50)).await;
    let (mut stuck, mut publisher) = (node.client().await, node.client().await);
    stuck.send("SUB flood 1\r\n").await;
    stuck.flush().await;
    let message = format!("PUB flood 65536\r\n{}\r\n", "x".repeat(65_536));
    publisher.send(&message.repeat(200)).await;
    publisher.flush().await;
    until("the stuck client is closed", || {
        node.broker.stats().slow_consumers == 1
    })
    .await;
}

#[tokio::test]
async fn shutdown_writes_what_waits_and_closes() {
    let node = Node::start().await;
    let (mut sub, mut publisher) = (node.client().await, node.client().await);
    sub.send("SUB foo 1\r\n").await;
    sub.flush().await;
    publisher.send("PUB foo 1\r\nx\r\n").await;
    publisher.flush().await;
    let plan = LameDuck {
        other_urls: ConnectUrls {
            clients: vec!["10.0.0.1:4222".into()],
            ..ConnectUrls::default()
        },
        grace: Duration::ZERO,
        duration: Duration::ZERO,
    };
    node.broker.lame_duck(plan).await;
    node.broker.shutdown(Duration::from_secs(5)).await;
    let rest = sub.rest().await;
    assert!(rest.starts_with("MSG foo 1 1\r\nx\r\nINFO {"), "{rest}");
    assert!(
        rest.contains("\"ldm\":true") && rest.contains("10.0.0.1:4222"),
        "{rest}"
    );
    assert_eq!(node.broker.stats().connections, 0);
    assert_eq!(node.broker.stats().subscriptions, 0);
}

#[tokio::test]
async fn limits_change_for_those_who_are_connected() {
    let node = Node::limited(|limits| limits.first_ping = DEADLINE * 2).await;
    let (mut first, mut second) = (node.client().await, node.client().await);
    let mut limits = node.broker.limits();
    limits.payload_bytes_max = 10;
    limits.subscription_tokens_max = 2;
    limits.connections_max = 1;
    limits.ping_interval = Duration::from_millis(20);
    node.broker.set_limits(limits);
    let rest = second.rest().await;
    assert!(
        rest.ends_with("-ERR 'maximum connections exceeded'\r\n"),
        "{rest}"
    );
    let info = first.line().await;
    assert!(info.contains("\"max_payload\":10,"), "{info}");
    first.expect("PING\r\n").await;
    first.send("PONG\r\nSUB a.b.c 1\r\n").await;
    first
        .expect("-ERR 'Permissions Violation for Subscription to \"a.b.c\", too many tokens'\r\n")
        .await;
    first.send("PUB foo 11\r\n").await;
    let rest = first.rest().await;
    assert!(
        rest.ends_with("-ERR 'Maximum Payload Violation'\r\n"),
        "{rest}"
    );
}

#[tokio::test]
async fn a_lame_duck_says_so_and_lets_its_clients_go_one_by_one() {
    let node = Node::start().await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(node.client().await);
    }
    let (broker, began) = (node.broker.clone(), Instant::now());
    let plan = LameDuck {
        other_urls: ConnectUrls {
            clients: vec!["10.0.0.1:4222".into()],
            ..ConnectUrls::default()
        },
        grace: Duration::from_millis(30),
        duration: Duration::from_millis(80),
    };
    let leaving = tokio::spawn(async move { broker.lame_duck(plan).await });
    for raw in &mut clients {
        let info = raw.line().await;
        assert!(
            info.contains("\"ldm\":true") && info.contains("10.0.0.1"),
            "{info}"
        );
    }
    until("the listener is closed", || {
        std::net::TcpStream::connect(node.addr).is_err()
    })
    .await;
    for raw in &mut clients {
        assert_eq!(raw.rest().await, "");
    }
    assert!(
        began.elapsed() >= Duration::from_millis(60),
        "{:?}",
        began.elapsed()
    );
    leaving.await.unwrap();
    node.broker.shutdown(DEADLINE).await;
    let closed = ConnectionQuery {
        state: ConnectionState::Closed,
        ..ConnectionQuery::default()
    };
    let page = node.broker.connections(&closed);
    let stopped = |r: &ConnectionReport| r.reason == Some(CloseReason::ServerShutdown);
    assert!(page.total == 4 && page.connections.iter().all(stopped));
}

#[tokio::test]
async fn one_client_is_told_to_go_or_thrown_out() {
    let node = Node::start().await;
    let mut raw = node.client().await;
    let cid = node
        .broker
        .connections(&ConnectionQuery::default())
        .connections[0]
        .cid;
    assert!(node.broker.announce_lame_duck_to(cid) && !node.broker.kick(cid + 99));
    let info = raw.line().await;
    assert!(info.contains("\"ldm\":true"), "{info}");
    assert!(node.broker.kick(cid));
    assert_eq!(raw.rest().await, "");
}
