//! Peers that take less than they are sent: what is lost is counted, interest is not, and the route stays.

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use unibus_broker::{Limits, Peer, RouteTask};
use unibus_proto::NodeId;
use unibus_proto::interest::InterestChange;
use unibus_proto::route::{self, RouteLimits, RouteOp};

use crate::routes::{interest, link};
use crate::support::{DEADLINE, Node, Raw, until};

const PIPE_BYTES: usize = 64 * 1024;
const BODY_BYTES: usize = 60_000;

/// A link of which one direction may be shut.
struct Gated {
    open: watch::Sender<bool>,
    routes: [RouteTask; 2],
}

/// Links two nodes. What the first sends waits while the gate is shut, as it is at first.
fn gated(nodes: &[Node]) -> Gated {
    let (open, gate) = watch::channel(false);
    let (near, near_far) = tokio::io::duplex(PIPE_BYTES);
    let (far, far_near) = tokio::io::duplex(PIPE_BYTES);
    let (from_first, to_first) = tokio::io::split(near_far);
    let (from_second, to_second) = tokio::io::split(far_near);
    tokio::spawn(relay(from_first, to_second, gate));
    tokio::spawn(relay(from_second, to_first, watch::channel(true).1));
    let attach = |node: &Node, peer: u64, stream| {
        let (reader, writer) = tokio::io::split(stream);
        let peer = Peer {
            id: NodeId(peer),
            name: format!("n{peer}"),
        };
        node.broker.attach_route(peer, reader, writer)
    };
    let routes = [attach(&nodes[0], 2, near), attach(&nodes[1], 1, far)];
    Gated { open, routes }
}

async fn relay(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut gate: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; PIPE_BYTES];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let open = gate.wait_for(|open| *open).await.is_ok();
        if !open || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn pair(change: impl FnOnce(&mut Limits)) -> [Node; 2] {
    // Nobody is asked whether he is still there.
    let patient = |limits: &mut Limits| limits.first_ping = DEADLINE;
    let first = Node::limited(|limits| {
        patient(limits);
        change(limits);
    });
    let nodes = [first.await, Node::limited(patient).await];
    nodes[0].broker.set_node(NodeId(1));
    nodes[1].broker.set_node(NodeId(2));
    nodes
}

/// A message to `foo` that begins with its number.
fn numbered(number: usize) -> String {
    let body = format!("{number:0>BODY_BYTES$}");
    format!("PUB foo {BODY_BYTES}\r\n{body}\r\n")
}

async fn next_number(sub: &mut Raw) -> usize {
    let line = sub.line().await;
    assert_eq!(line, format!("MSG foo 1 {BODY_BYTES}"));
    let body = sub.line().await;
    assert_eq!(body.len(), BODY_BYTES);
    body.parse().unwrap()
}

async fn subscribed(node: &Node, lines: &str) -> Raw {
    let mut sub = node.client().await;
    sub.send(lines).await;
    sub.flush().await;
    sub
}

fn assert_kept(nodes: &[Node], link: &Gated) {
    assert!(link.routes.iter().all(|route| !route.is_finished()));
    for node in nodes {
        let stats = node.broker.stats();
        assert_eq!((stats.routes, stats.slow_routes), (1, 0));
    }
}

#[tokio::test]
async fn what_a_peer_has_no_room_for_is_dropped_and_the_route_stays() {
    let nodes = pair(|limits| {
        limits.route_pending_bytes_max = 1024 * 1024;
        limits.route_stall = std::time::Duration::from_millis(1);
    })
    .await;
    let link = gated(&nodes);
    let mut sub = subscribed(&nodes[1], "SUB foo 1\r\n").await;
    interest(&nodes[0], 1).await;
    let mut publisher = nodes[0].client().await;
    for number in 0..64 {
        publisher.send(&numbered(number)).await;
    }
    publisher.flush().await;
    link.open.send_replace(true);
    let lost = || nodes[0].broker.stats().route_lost_msgs as usize;
    let came = || nodes[1].broker.stats().out_msgs as usize;
    until("each came or is counted", || lost() + came() == 64).await;
    assert!((1..64).contains(&lost()), "{}", lost());
    publisher.send(&numbered(64)).await;
    let mut last = None;
    for _ in 0..64 - lost() + 1 {
        let number = next_number(&mut sub).await;
        assert!(last < Some(number), "{number} after {last:?}");
        last = Some(number);
    }
    assert_eq!(last, Some(64));
    assert_kept(&nodes, &link);
}

#[tokio::test]
async fn publishers_wait_for_a_peer_before_it_loses_anything() {
    const PUBLISHERS: usize = 20;
    const MESSAGES: usize = 32;
    let nodes = pair(|limits| {
        limits.route_pending_bytes_max = 16 * 1024 * 1024;
        limits.route_stall = DEADLINE;
    })
    .await;
    let link = gated(&nodes);
    let mut sub = subscribed(&nodes[1], "SUB foo 1\r\n").await;
    interest(&nodes[0], 1).await;
    let mut publishing = Vec::new();
    for _ in 0..PUBLISHERS {
        let mut publisher = nodes[0].client().await;
        publishing.push(tokio::spawn(async move {
            for number in 0..MESSAGES {
                publisher.send(&numbered(number)).await;
            }
            publisher.flush().await;
        }));
    }
    let crowded = || nodes[0].broker.stats().in_msgs as usize * BODY_BYTES > 4 * 1024 * 1024;
    until("the peer is behind", crowded).await;
    link.open.send_replace(true);
    let mut sum = 0;
    for _ in 0..PUBLISHERS * MESSAGES {
        sum += next_number(&mut sub).await;
    }
    assert_eq!(sum, PUBLISHERS * MESSAGES * (MESSAGES - 1) / 2);
    for publisher in publishing {
        publisher.await.unwrap();
    }
    assert_eq!(nodes[0].broker.stats().route_lost_msgs, 0);
    assert_kept(&nodes, &link);
}

/// A filter with a long token, so that few of them fill a pipe.
fn long(name: &str, number: usize) -> String {
    format!("{name}.{number}.{}", "x".repeat(1000))
}

fn lines(name: &str, numbers: std::ops::Range<usize>, sid: usize) -> String {
    let line = |number| format!("SUB {} {}\r\n", long(name, number), sid + number);
    numbers.map(line).collect()
}

#[tokio::test]
async fn a_table_longer_than_every_limit_reaches_a_new_peer() {
    let nodes = pair(|limits| {
        limits.route_pending_bytes_max = 16 * 1024;
        limits.route_interest_bytes_max = 16 * 1024;
    })
    .await;
    let _sub = subscribed(&nodes[0], &lines("t", 0..2000, 0)).await;
    let (to_second, to_first) = link(&nodes, 0, 1);
    interest(&nodes[1], 2000).await;
    assert!(!to_second.is_finished() && !to_first.is_finished());
}

#[tokio::test]
async fn inboxes_are_told_before_requests_while_the_table_is_still_told() {
    let nodes = pair(|_| ()).await;
    let mut server = subscribed(&nodes[1], "SUB ask 1\r\n").await;
    let many = lines("t", 0..500, 1000);
    let mut client = subscribed(&nodes[0], &format!("{many}SUB old.inbox 1\r\n")).await;
    let link = gated(&nodes);
    interest(&nodes[0], 1).await;
    client
        .send("PUB ask old.inbox 1\r\n1\r\nSUB new.inbox 2\r\nPUB ask new.inbox 1\r\n2\r\n")
        .await;
    client.flush().await;
    assert_eq!(nodes[1].broker.stats().route_in_msgs, 0);
    link.open.send_replace(true);
    for (inbox, number) in [("old", 1), ("new", 2)] {
        server
            .expect(&format!("MSG ask 1 {inbox}.inbox 1\r\n{number}\r\n"))
            .await;
        server
            .send(&format!("PUB {inbox}.inbox 1\r\n{number}\r\n"))
            .await;
        client
            .expect(&format!("MSG {inbox}.inbox {number} 1\r\n{number}\r\n"))
            .await;
    }
    interest(&nodes[1], 502).await;
}

#[tokio::test]
async fn interest_that_had_no_room_is_told_anew() {
    let nodes = pair(|limits| limits.route_interest_bytes_max = 4 * 1024).await;
    let link = gated(&nodes);
    link.open.send_replace(true);
    let groups = "SUB work q 1\r\nSUB work q 2\r\nSUB work r 3\r\n";
    let mut one = subscribed(&nodes[0], &format!("{}{groups}", lines("old", 0..50, 100))).await;
    let other = subscribed(&nodes[0], &lines("gone", 0..300, 100)).await;
    interest(&nodes[1], 352).await;
    link.open.send_replace(false);
    let ends: String = (100..150).map(|sid| format!("UNSUB {sid}\r\n")).collect();
    one.send(&ends).await;
    one.send(&lines("new", 0..300, 1000)).await;
    one.send("UNSUB 1\r\nUNSUB 3\r\n").await;
    one.flush().await;
    drop(other);
    until("the other is gone", || {
        nodes[0].broker.stats().connections == 1
    })
    .await;
    link.open.send_replace(true);
    interest(&nodes[1], 301).await;
    let has = |subject: &str| nodes[1].broker.has_interest(subject.as_bytes());
    assert!((0..300).all(|number| has(&long("new", number))));
    assert!(has("work") && !has(&long("old", 7)) && !has(&long("gone", 7)));
    one.send("UNSUB 2\r\nSUB later 4\r\n").await;
    until("changes go on", || !has("work") && has("later")).await;
    assert_kept(&nodes, &link);
}

/// `SUB`s to `room` in so many groups with names of 4,000 bytes.
fn groups(count: usize) -> String {
    let name = |n: usize| format!("{n:0>4000}");
    let line = |n| format!("SUB room {} {}\r\n", name(n), n + 1);
    (0..count).map(line).collect()
}

#[tokio::test]
async fn queue_names_keep_no_message_from_a_peer() {
    let nodes = pair(|_| ()).await;
    let mut plain = subscribed(&nodes[1], "SUB room 1\r\n").await;
    let mut queues = subscribed(&nodes[1], &groups(40)).await;
    let _routes = link(&nodes, 0, 1);
    interest(&nodes[0], 41).await;
    let mut publisher = nodes[0].client().await;
    publisher.send("PUB room 1\r\nx\r\n").await;
    plain.expect("MSG room 1 1\r\nx\r\n").await;
    until("each group has it", || {
        nodes[1].broker.stats().out_msgs == 41
    })
    .await;
    assert_eq!(queues.count_messages().await, 40);
    assert_eq!(nodes[0].broker.stats().route_lost_msgs, 0);
}

#[tokio::test]
async fn messages_longer_than_a_peer_takes_of_clients_keep_the_route() {
    let nodes = pair(|_| ()).await;
    let mut sub = subscribed(&nodes[1], "SUB big 1\r\n").await;
    let (to_second, to_first) = link(&nodes, 0, 1);
    interest(&nodes[0], 1).await;
    let mut limits = nodes[0].broker.limits();
    limits.payload_bytes_max = 3 * 1024 * 1024;
    nodes[0].broker.set_limits(limits.clone());
    let body = "x".repeat(limits.payload_bytes_max);
    let mut publisher = nodes[0].client().await;
    let message = format!("big {}\r\n{body}\r\n", body.len());
    publisher.send(&format!("PUB {message}")).await;
    sub.expect(&format!("MSG big 1 {}\r\n", body.len())).await;
    sub.skip(body.len() + 2).await;
    assert!(!to_second.is_finished() && !to_first.is_finished());
}

/// The other end of a route: frames as bytes.
struct Bare {
    stream: tokio::io::DuplexStream,
    buffer: BytesMut,
}

impl Bare {
    /// A peer of the first revision, whose hello ends with its id.
    async fn first(node: &Node) -> (Self, RouteTask) {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let (reader, writer) = tokio::io::split(near);
        let peer = Peer {
            id: NodeId(9),
            name: "first".into(),
        };
        let task = node.broker.attach_route(peer, reader, writer);
        let mut bare = Self {
            stream: far,
            buffer: BytesMut::new(),
        };
        bare.send(&[1, 9, 0, 0, 0, 1, 9, 0, 0, 0, 0, 0, 0, 0]).await;
        (bare, task)
    }

    async fn send(&mut self, frames: &[u8]) {
        self.stream.write_all(frames).await.unwrap();
    }

    async fn want(&mut self, filter: &[u8], queue: Option<&[u8]>) {
        let mut out = BytesMut::new();
        let change = InterestChange {
            filter,
            queue,
            weight: 1,
        };
        route::interest(&mut out, change);
        self.send(&out).await;
    }

    /// The next frame that `found` takes, all before it being such as the first revision knows.
    async fn find<T>(&mut self, found: impl Fn(RouteOp<'_>) -> Option<T>) -> T {
        loop {
            while let Some((op, used)) =
                route::decode(&self.buffer, &RouteLimits::default()).unwrap()
            {
                assert!((1..=7).contains(&self.buffer[0]), "{op:?}");
                let result = found(op);
                self.buffer.advance(used);
                if let Some(result) = result {
                    return result;
                }
            }
            let read = self.stream.read_buf(&mut self.buffer).await.unwrap();
            assert!(read > 0, "the route ended");
        }
    }
}

#[tokio::test]
async fn a_peer_of_the_first_revision_gets_the_message_and_as_many_queues_as_it_can_read() {
    let node = Node::start().await;
    let (mut peer, _task) = Bare::first(&node).await;
    peer.want(b"room", None).await;
    for n in 0..20 {
        peer.want(b"room", Some(format!("{n:0>4000}").as_bytes()))
            .await;
    }
    interest(&node, 21).await;
    let mut publisher = node.client().await;
    publisher.send("PUB room 1\r\nx\r\n").await;
    let queues = peer.find(|op| match op {
        RouteOp::Message(message) => Some(message.queues.iter().count()),
        _ => None,
    });
    assert_eq!(queues.await, 16);
    until("the rest is counted", || {
        node.broker.stats().route_lost_msgs == 1
    })
    .await;
}

#[tokio::test]
async fn a_peer_of_the_first_revision_that_lags_with_interest_begins_anew() {
    let node = Node::limited(|limits| limits.route_interest_bytes_max = 4 * 1024).await;
    let (mut peer, task) = Bare::first(&node).await;
    let synced = |op: RouteOp<'_>| matches!(op, RouteOp::Synced).then_some(());
    peer.find(synced).await;
    let mut one = subscribed(&node, &lines("t", 0..500, 1)).await;
    one.send("UNSUB 1\r\n").await;
    one.flush().await;
    let reading = async {
        let mut sink = vec![0; PIPE_BYTES];
        while peer.stream.read(&mut sink).await.is_ok_and(|read| read > 0) {}
    };
    tokio::join!(reading, until("the route ended", || task.is_finished()));
    assert_eq!(node.broker.stats().slow_routes, 1);
    let (mut again, _task) = Bare::first(&node).await;
    again.find(synced).await;
}
