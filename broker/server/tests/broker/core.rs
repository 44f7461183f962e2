//! nats-surface §1: framing, subscriptions, deliveries, statuses.

use unibus_broker::ConnectionQuery;

use crate::support::{Node, until};

#[tokio::test]
async fn info_comes_first_and_connect_info_after_the_first_pong() {
    let node = Node::with(|options| {
        options.always_nonce = true;
        options.jetstream = true;
        options.connect_urls.clients = vec!["127.0.0.1:4222".into()];
    })
    .await;
    let raw = node.client().await;
    for part in [
        "\"headers\":true",
        "\"proto\":1",
        "\"max_payload\":1048576",
        "\"jetstream\":true",
    ] {
        assert!(raw.info.contains(part), "{}", raw.info);
    }
    let nonce = raw
        .info
        .split("\"nonce\":\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    assert_eq!(nonce.len(), 15);
    let other = node.client().await;
    assert!(!other.info.contains(nonce), "nonces are unique");
}

#[tokio::test]
async fn a_message_reaches_every_matching_subscription() {
    let node = Node::start().await;
    let (mut sub, mut publisher) = (node.client().await, node.client().await);
    sub.send("SUB foo.* 1\r\nSUB foo.bar 2\r\nSUB other 3\r\n")
        .await;
    sub.flush().await;
    publisher.send("PUB foo.bar reply.to 5\r\nhello\r\n").await;
    publisher.flush().await;
    let mut got = [sub.line().await, String::new()];
    sub.expect("hello\r\n").await;
    got[1] = sub.line().await;
    sub.expect("hello\r\n").await;
    got.sort();
    assert_eq!(
        got,
        ["MSG foo.bar 1 reply.to 5", "MSG foo.bar 2 reply.to 5"]
    );
    sub.flush().await;
}

#[tokio::test]
async fn what_nobody_hears_counts_and_who_comes_to_listen_hears_the_rest() {
    let node = Node::start().await;
    let mut raw = node.client().await;
    let unheard = "PUB foo 3\r\nabc\r\n".repeat(1000);
    let heard = "PUB foo 3\r\n\r\n1\r\nPUB foo 3\r\nabc\r\n";
    raw.send(&format!(
        "{unheard}SUB foo 1\r\n{heard}UNSUB 1\r\n{unheard}PUB bar 3\r\nabc\r\n"
    ))
    .await;
    raw.expect("MSG foo 1 3\r\n\r\n1\r\nMSG foo 1 3\r\nabc\r\n")
        .await;
    raw.flush().await;
    // What a burst received is booked when it is over.
    raw.flush().await;
    let page = node.broker.connections(&ConnectionQuery::default());
    let report = &page.connections[0];
    assert_eq!((report.in_msgs, report.in_bytes), (2003, 6009));
}

#[tokio::test]
async fn repeated_publications_are_each_answered() {
    let node = Node::start().await;
    let mut raw = node.client().await;
    let asking = "PUB foo in 0\r\n\r\n".repeat(3);
    raw.send(&format!("SUB in 1\r\n{asking}")).await;
    assert_eq!(raw.count_messages().await, 3);
    let mut verbose = node.dial().await;
    let quiet = "PUB foo 0\r\n\r\n".repeat(3);
    verbose
        .send(&format!(
            "CONNECT {{\"verbose\":true,\"pedantic\":false}}\r\n{quiet}PING\r\n"
        ))
        .await;
    verbose.expect("+OK\r\n+OK\r\n+OK\r\n+OK\r\nPONG\r\n").await;
}

#[tokio::test]
async fn headers_are_delivered_or_stripped() {
    let node = Node::start().await;
    let mut modern = node.client().await;
    let mut plain = node.client_with("\"headers\":false").await;
    for sub in [&mut modern, &mut plain] {
        sub.send("SUB h 7\r\n").await;
        sub.flush().await;
    }
    modern.send("HPUB h 12 14\r\nNATS/1.0\r\n\r\nhi\r\n").await;
    modern
        .expect("HMSG h 7 12 14\r\nNATS/1.0\r\n\r\nhi\r\n")
        .await;
    plain.expect("MSG h 7 2\r\nhi\r\n").await;
    plain.send("HPUB h 12 14\r\nNATS/1.0\r\n\r\nhi\r\n").await;
    assert_eq!(plain.rest().await, "");
}

#[tokio::test]
async fn verbose_acknowledges_before_it_delivers() {
    let node = Node::start().await;
    let mut raw = node.dial().await;
    raw.send("CONNECT {\"verbose\":true,\"pedantic\":false}\r\nSUB foo 1\r\nPUB foo 1\r\nx\r\nUNSUB 1\r\nPING\r\n").await;
    raw.expect("+OK\r\n+OK\r\n+OK\r\nMSG foo 1 1\r\nx\r\n+OK\r\nPONG\r\n")
        .await;
}

#[tokio::test]
async fn operations_before_connect_work_without_authentication() {
    let node = Node::start().await;
    let mut raw = node.dial().await;
    raw.send("SUB foo 1\r\nPUB foo 2\r\nhi\r\n").await;
    raw.expect("+OK\r\n+OK\r\nMSG foo 1 2\r\nhi\r\n").await;
    raw.send("PUB foo.* 0\r\n\r\n").await;
    raw.expect("-ERR 'Invalid Publish Subject'\r\n+OK\r\n")
        .await;
}

#[tokio::test]
async fn an_invalid_subject_is_refused_and_not_fatal() {
    let node = Node::start().await;
    let mut raw = node.client().await;
    raw.send("SUB foo..bar 1\r\nSUB >.a 2\r\nPUB foo..bar 1\r\nx\r\n")
        .await;
    raw.expect("-ERR 'Invalid Subject'\r\n-ERR 'Invalid Subject'\r\n")
        .await;
    raw.flush().await;
}

#[tokio::test]
async fn wildcards_in_a_published_subject_are_literal() {
    let node = Node::start().await;
    let mut raw = node.client().await;
    raw.send("SUB > 1\r\nSUB foo.bar 2\r\nPUB foo.* 1\r\nx\r\nPUB a..b 1\r\ny\r\n")
        .await;
    raw.expect("MSG foo.* 1 1\r\nx\r\n").await;
    raw.flush().await;
}

#[tokio::test]
async fn unsub_max_counts_from_the_subscription() {
    let node = Node::start().await;
    let mut raw = node.client().await;
    raw.send("SUB foo 1\r\nPUB foo 1\r\na\r\nPUB foo 1\r\nb\r\nUNSUB 1 2\r\nPUB foo 1\r\nc\r\n")
        .await;
    raw.expect("MSG foo 1 1\r\na\r\nMSG foo 1 1\r\nb\r\n").await;
    raw.flush().await;
    raw.send("SUB foo 2\r\nUNSUB 2 2\r\nPUB foo 1\r\na\r\nPUB foo 1\r\nb\r\nPUB foo 1\r\nc\r\n")
        .await;
    raw.expect("MSG foo 2 1\r\na\r\nMSG foo 2 1\r\nb\r\n").await;
    raw.flush().await;
    until("the used-up subscription is gone", || {
        node.broker.stats().subscriptions == 0
    })
    .await;
    raw.send("SUB bar 2\r\nPUB bar 1\r\nx\r\n").await;
    raw.expect("MSG bar 2 1\r\nx\r\n").await;
}

#[tokio::test]
async fn unsub_max_holds_across_connections() {
    let node = Node::start().await;
    let (mut sub, mut publisher) = (node.client().await, node.client().await);
    sub.send("SUB foo 1\r\nUNSUB 1 3\r\n").await;
    sub.flush().await;
    publisher.send(&"PUB foo 1\r\nx\r\n".repeat(10)).await;
    publisher.flush().await;
    assert_eq!(sub.count_messages().await, 3);
    sub.send("SUB foo 1\r\n").await;
    sub.flush().await;
    publisher.send("PUB foo 1\r\nx\r\n").await;
    sub.expect("MSG foo 1 1\r\nx\r\n").await;
}

#[tokio::test]
async fn after_unsub_nothing_more_comes() {
    let node = Node::start().await;
    let (mut sub, mut publisher) = (node.client().await, node.client().await);
    sub.send("SUB foo 1\r\nSUB foo 1\r\n").await;
    sub.flush().await;
    publisher.send("PUB foo 1\r\nx\r\n").await;
    sub.expect("MSG foo 1 1\r\nx\r\n").await;
    sub.send("UNSUB 1\r\n").await;
    sub.flush().await;
    publisher.send("PUB foo 1\r\nx\r\n").await;
    publisher.flush().await;
    sub.flush().await;
}

#[tokio::test]
async fn echo_false_leaves_out_the_own_connection_only() {
    let node = Node::start().await;
    let mut quiet = node.client_with("\"headers\":true,\"echo\":false").await;
    let mut other = node.client().await;
    for raw in [&mut quiet, &mut other] {
        raw.send("SUB foo 1\r\nSUB q.x group 2\r\n").await;
        raw.flush().await;
    }
    quiet.send("PUB foo 1\r\nx\r\n").await;
    quiet.send(&"PUB q.x 1\r\ny\r\n".repeat(20)).await;
    quiet.flush().await;
    other.expect("MSG foo 1 1\r\nx\r\n").await;
    assert_eq!(other.count_messages().await, 20);
}

#[tokio::test]
async fn no_responders_goes_to_the_publishers_plain_subscription() {
    let node = Node::start().await;
    let mut raw = node.client().await;
    raw.send("SUB qq.* 89\r\nPUB none qq.1 1\r\nx\r\n").await;
    raw.expect("HMSG qq.1 89 36 36\r\nNATS/1.0 503\r\nNats-Subject: none\r\n\r\n\r\n")
        .await;
    raw.send("SUB rr.* group 90\r\nPUB none rr.1 1\r\nx\r\nPUB none 1\r\nx\r\n")
        .await;
    raw.flush().await;
    let mut old = node.client_with("\"headers\":true").await;
    old.send("SUB qq.* 1\r\nPUB none qq.1 1\r\nx\r\n").await;
    old.flush().await;
    raw.flush().await;
}

#[tokio::test]
async fn a_large_message_and_its_neighbours_arrive_whole() {
    let node = Node::start().await;
    let (mut sub, mut publisher) = (node.client().await, node.client().await);
    sub.send("SUB big 1\r\n").await;
    sub.flush().await;
    let mut bytes = Vec::new();
    let payload = "0123456789abcdef".repeat(65_536);
    for size in [10, 70_000, 1_048_576, 65_536, 3, 200_000] {
        bytes.extend_from_slice(format!("PUB big {size}\r\n{}\r\n", &payload[..size]).as_bytes());
    }
    publisher.send_bytes(&bytes).await;
    for size in [10, 70_000, 1_048_576, 65_536, 3, 200_000] {
        sub.expect(&format!("MSG big 1 {size}\r\n{}\r\n", &payload[..size]))
            .await;
    }
    publisher.flush().await;
}

#[tokio::test]
async fn many_messages_keep_their_order() {
    let node = Node::start().await;
    let (mut sub, mut publisher) = (node.client().await, node.client().await);
    sub.send("SUB n.> 1\r\n").await;
    sub.flush().await;
    let mut bytes = String::new();
    let mut expected = String::new();
    for n in 0..50_000 {
        let text = format!("{n:06}");
        bytes.push_str(&format!("PUB n.{} 6\r\n{text}\r\n", n % 5_000));
        expected.push_str(&format!("MSG n.{} 1 6\r\n{text}\r\n", n % 5_000));
    }
    let writer = async {
        publisher.send(&bytes).await;
        publisher.flush().await;
    };
    tokio::join!(writer, sub.expect(&expected));
    assert_eq!(node.broker.stats().out_msgs, 50_000);
}
