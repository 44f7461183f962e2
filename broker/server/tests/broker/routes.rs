//! Two and three brokers over in-memory streams.

use std::sync::Arc;

use parking_lot::Mutex;
use unibus_broker::{Inbound, Peer, RouteTask, Service};
use unibus_proto::NodeId;

use crate::support::{Node, Raw, until};

const PIPE_BYTES: usize = 64 * 1024;

/// Nodes in a full mesh.
pub(crate) async fn mesh(size: usize) -> Vec<Node> {
    let mut nodes = Vec::new();
    for id in 0..size {
        let node = Node::start().await;
        node.broker.set_node(NodeId(id as u64 + 1));
        nodes.push(node);
    }
    for a in 0..size {
        for b in 0..a {
            link(&nodes, a, b);
        }
    }
    nodes
}

pub(crate) fn link(nodes: &[Node], a: usize, b: usize) -> (RouteTask, RouteTask) {
    let (left, right) = tokio::io::duplex(PIPE_BYTES);
    let peer = |id: usize| Peer {
        id: NodeId(id as u64 + 1),
        name: format!("n{id}"),
    };
    let (reader, writer) = tokio::io::split(left);
    let to_b = nodes[a].broker.attach_route(peer(b), reader, writer);
    let (reader, writer) = tokio::io::split(right);
    let to_a = nodes[b].broker.attach_route(peer(a), reader, writer);
    (to_b, to_a)
}

pub(crate) async fn interest(node: &Node, count: usize) {
    until("interest arrived", || {
        node.broker.stats().remote_interests == count
    })
    .await;
}

#[tokio::test]
async fn a_message_crosses_once_with_reply_and_headers() {
    let nodes = mesh(3).await;
    let mut subs = [nodes[1].client().await, nodes[2].client().await];
    for sub in &mut subs {
        sub.send("SUB foo.* 1\r\n").await;
        sub.flush().await;
    }
    interest(&nodes[0], 2).await;
    let mut publisher = nodes[0].client().await;
    publisher
        .send("HPUB foo.x r.1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n")
        .await;
    publisher.send("PUB foo.y 0\r\n\r\n").await;
    publisher.flush().await;
    for sub in &mut subs {
        sub.expect("HMSG foo.x 1 r.1 12 14\r\nNATS/1.0\r\n\r\nhi\r\nMSG foo.y 1 0\r\n\r\n")
            .await;
        sub.flush().await;
    }
    assert_eq!(nodes[0].broker.stats().route_out_msgs, 4);
    assert_eq!(nodes[1].broker.stats().route_out_msgs, 0, "one hop");
}

#[tokio::test]
async fn interest_follows_subscriptions() {
    let nodes = mesh(2).await;
    let mut sub = nodes[1].client().await;
    sub.send("SUB a 1\r\nSUB a 2\r\nSUB b q 3\r\nSUB c.> 4\r\n")
        .await;
    sub.flush().await;
    interest(&nodes[0], 3).await;
    assert!(nodes[0].broker.has_interest(b"c.d"));
    sub.send("UNSUB 1\r\nUNSUB 4\r\n").await;
    sub.flush().await;
    interest(&nodes[0], 2).await;
    assert!(nodes[0].broker.has_interest(b"a"));
    drop(sub);
    interest(&nodes[0], 0).await;
}

#[tokio::test]
async fn a_new_route_learns_the_whole_table_and_a_lost_one_forgets_it() {
    let nodes = [Node::start().await, Node::start().await];
    let mut sub = nodes[1].client().await;
    let mut lines = String::new();
    for n in 0..3_000 {
        lines.push_str(&format!("SUB t.{n}.* {n}\r\n"));
    }
    sub.send(&lines).await;
    sub.flush().await;
    let (left, right) = link(&nodes, 0, 1);
    interest(&nodes[0], 3_000).await;
    left.abort();
    until("both ends see it", || right.is_finished()).await;
    let _again = link(&nodes, 0, 1);
    interest(&nodes[0], 3_000).await;
    assert_eq!(nodes[0].broker.stats().routes, 1);
    let mut publisher = nodes[0].client().await;
    publisher.send("PUB t.7.x 1\r\nx\r\n").await;
    sub.expect("MSG t.7.x 7 1\r\nx\r\n").await;
}

#[tokio::test]
async fn a_second_route_to_the_same_peer_replaces_the_first() {
    let nodes = [Node::start().await, Node::start().await];
    nodes[0].broker.set_node(NodeId(1));
    nodes[1].broker.set_node(NodeId(2));
    let mut sub = nodes[1].client().await;
    sub.send("SUB foo 1\r\n").await;
    sub.flush().await;
    let (first, _) = link(&nodes, 0, 1);
    let _second = link(&nodes, 0, 1);
    until("the first route ended", || first.is_finished()).await;
    interest(&nodes[0], 1).await;
    let mut publisher = nodes[0].client().await;
    publisher.send("PUB foo 1\r\nx\r\n").await;
    publisher.flush().await;
    sub.expect("MSG foo 1 1\r\nx\r\n").await;
    sub.flush().await;
}

async fn members(node: &Node, count: usize) -> Vec<Raw> {
    let mut members = Vec::new();
    for _ in 0..count {
        let mut member = node.client().await;
        member.send("SUB work g 1\r\n").await;
        member.flush().await;
        members.push(member);
    }
    members
}

async fn received(members: &mut [Raw]) -> usize {
    let mut total = 0;
    for member in members {
        total += member.count_messages().await;
    }
    total
}

#[tokio::test]
async fn a_queue_group_is_served_once_and_by_weight() {
    let nodes = mesh(3).await;
    let mut one = members(&nodes[1], 1).await;
    let mut three = members(&nodes[2], 3).await;
    interest(&nodes[0], 2).await;
    let mut publisher = nodes[0].client().await;
    publisher.send(&"PUB work 1\r\nx\r\n".repeat(800)).await;
    publisher.flush().await;
    let delivered = || nodes[1].broker.stats().out_msgs + nodes[2].broker.stats().out_msgs == 800;
    until("all are delivered", delivered).await;
    let (few, many) = (received(&mut one).await, received(&mut three).await);
    assert_eq!(few + many, 800);
    assert!((100..300).contains(&few), "a quarter of the members: {few}");
}

#[tokio::test]
async fn local_queue_members_come_first() {
    let nodes = mesh(2).await;
    let mut far = members(&nodes[1], 2).await;
    let mut near = members(&nodes[0], 1).await;
    interest(&nodes[0], 1).await;
    let mut publisher = nodes[0].client().await;
    publisher.send(&"PUB work 1\r\nx\r\n".repeat(50)).await;
    publisher.flush().await;
    assert_eq!(received(&mut near).await, 50);
    assert_eq!(received(&mut far).await, 0);
}

#[tokio::test]
async fn plain_and_queue_receivers_of_one_peer_share_one_copy() {
    let nodes = mesh(2).await;
    let mut far = nodes[1].client().await;
    far.send("SUB work 9\r\nSUB work g 1\r\nSUB work h 2\r\n")
        .await;
    far.flush().await;
    interest(&nodes[0], 3).await;
    let mut publisher = nodes[0].client().await;
    publisher.send("PUB work 1\r\nx\r\n").await;
    publisher.flush().await;
    until("it came", || nodes[1].broker.stats().out_msgs == 3).await;
    assert_eq!(far.count_messages().await, 3);
    assert_eq!(nodes[0].broker.stats().route_out_msgs, 1);
}

#[tokio::test]
async fn a_reply_finds_the_inbox_made_just_before_the_request() {
    let nodes = mesh(3).await;
    let mut server = nodes[2].client().await;
    server.send("SUB ask 1\r\n").await;
    server.flush().await;
    interest(&nodes[0], 1).await;
    let mut client = nodes[0].client().await;
    for n in 0..100 {
        client
            .send(&format!(
                "SUB in.{n} {n}\r\nUNSUB {n} 1\r\nPUB ask in.{n} 1\r\n?\r\n"
            ))
            .await;
        let request = server.line().await;
        assert_eq!(request, format!("MSG ask 1 in.{n} 1"));
        server.skip(3).await;
        server.send(&format!("PUB in.{n} 1\r\n!\r\n")).await;
        client.expect(&format!("MSG in.{n} {n} 1\r\n!\r\n")).await;
    }
    client
        .send("SUB none.* x\r\nPUB nobody none.1 0\r\n\r\n")
        .await;
    assert!(client.line().await.starts_with("HMSG none.1 x "));
}

struct Tap(Mutex<Vec<Vec<u8>>>);

impl Service for Tap {
    fn deliver(&self, message: &Inbound<'_>) -> bool {
        self.0.lock().push(message.data.to_vec());
        true
    }
}

#[tokio::test]
async fn services_take_at_the_origin_only() {
    let nodes = mesh(2).await;
    let taps = [0, 1].map(|_| Arc::new(Tap(Mutex::default())));
    for (node, tap) in nodes.iter().zip(&taps) {
        let service: Arc<Tap> = Arc::clone(tap);
        node.broker.add_service(">", service);
    }
    let mut sub = nodes[1].client().await;
    sub.send("SUB foo 1\r\n").await;
    sub.flush().await;
    interest(&nodes[0], 1).await;
    let mut publisher = nodes[0].client().await;
    publisher.send("PUB foo 1\r\nx\r\n").await;
    sub.expect("MSG foo 1 1\r\nx\r\n").await;
    assert_eq!(*taps[0].0.lock(), [b"x"]);
    assert!(taps[1].0.lock().is_empty());
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_dropped() {
    let node = Node::start().await;
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let (reader, writer) = tokio::io::split(near);
    let peer = Peer {
        id: NodeId(9),
        name: "bad".into(),
    };
    let route = node.broker.attach_route(peer, reader, writer);
    let (_far_reader, mut far_writer) = tokio::io::split(far);
    tokio::io::AsyncWriteExt::write_all(&mut far_writer, b"GET / HTTP/1.1\r\n")
        .await
        .unwrap();
    until("the route ended", || route.is_finished()).await;
    assert_eq!(node.broker.stats().routes, 0);
}

#[tokio::test]
async fn a_stream_that_leads_to_another_node_is_no_route() {
    let nodes = [Node::start().await, Node::start().await];
    nodes[0].broker.set_node(NodeId(1));
    nodes[1].broker.set_node(NodeId(7));
    let (to_b, to_a) = link(&nodes, 0, 1);
    until("the route ended", || {
        to_b.is_finished() && to_a.is_finished()
    })
    .await;
    assert_eq!(nodes[0].broker.stats().routes, 0);
}

#[tokio::test]
async fn a_route_to_the_node_itself_ends_at_once() {
    let node = Node::start().await;
    node.broker.set_node(NodeId(1));
    let nodes = [node];
    let (to_self, back) = link(&nodes, 0, 0);
    until("the routes ended", || {
        to_self.is_finished() && back.is_finished()
    })
    .await;
    assert_eq!(nodes[0].broker.stats().routes, 0);
}

#[tokio::test]
async fn nodes_that_were_not_told_their_ids_still_route() {
    let nodes = [Node::start().await, Node::start().await];
    let mut sub = nodes[1].client().await;
    sub.send("SUB foo 1\r\n").await;
    sub.flush().await;
    let _routes = link(&nodes, 0, 1);
    interest(&nodes[0], 1).await;
}
