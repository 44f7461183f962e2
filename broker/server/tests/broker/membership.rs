//! Messages while nodes join and leave: nothing twice, nothing in circles, each group served once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use unibus_broker::{Peer, RouteTask};
use unibus_proto::NodeId;

use crate::routes::mesh;
use crate::support::{DEADLINE, Node, Raw, until};

const PIPE_BYTES: usize = 64 * 1024;

/// Who heard which number.
type Heard = Arc<Mutex<Vec<(usize, u64)>>>;

/// Subscribes and tells every number it receives, until told to stop.
async fn collect(mut raw: Raw, label: usize, heard: Heard) {
    loop {
        let line = raw.line().await;
        if line.starts_with("MSG end ") {
            return;
        }
        let number = raw.line().await;
        if let Ok(number) = number.parse() {
            heard.lock().push((label, number));
        }
    }
}

/// Links two nodes by a pipe. Dropping the tasks' streams ends the route on both sides.
fn join(a: (&Node, u64), b: (&Node, u64)) -> [RouteTask; 2] {
    let (left, right) = tokio::io::duplex(PIPE_BYTES);
    let peer = |id: u64| Peer {
        id: NodeId(id),
        name: format!("n{id}"),
    };
    let (reader, writer) = tokio::io::split(left);
    let to_b = a.0.broker.attach_route(peer(b.1), reader, writer);
    let (reader, writer) = tokio::io::split(right);
    let to_a = b.0.broker.attach_route(peer(a.1), reader, writer);
    [to_b, to_a]
}

async fn subscriber(node: &Node, queue: &str) -> Raw {
    let mut raw = node.client().await;
    raw.send(&format!("SUB work {queue} 1\r\nSUB end 2\r\n"))
        .await;
    raw.flush().await;
    raw
}

#[tokio::test]
async fn nothing_comes_twice_while_nodes_join_and_leave() {
    let nodes = mesh(3).await;
    let heard = Heard::default();
    let mut tasks = Vec::new();
    // Labels 0 to 2 are plain subscribers, 3 to 5 members of one group, one of each on each node.
    for (label, queue) in [(0, ""), (3, "q")] {
        for (at, node) in nodes.iter().enumerate() {
            let raw = subscriber(node, queue).await;
            tasks.push(tokio::spawn(collect(raw, label + at, Arc::clone(&heard))));
        }
    }
    // Four interests of each peer: the filters of both subscribers and `end`.
    until("all interest is known", || {
        nodes.iter().all(|n| n.broker.stats().remote_interests == 6)
    })
    .await;
    let mut publisher = nodes[0].client().await;
    let mut sent = 0;
    for round in 0..20 {
        // Replaces a route by a new one, as after a lost connection.
        let _routes = join((&nodes[0], 1), (&nodes[2], 3));
        for _ in 0..50 {
            let number = sent.to_string();
            publisher
                .send(&format!("PUB work {}\r\n{number}\r\n", number.len()))
                .await;
            sent += 1;
        }
        publisher.flush().await;
        if round % 5 == 4 {
            until("the new route is complete", || {
                nodes[0].broker.stats().remote_interests == 6
                    && nodes[2].broker.stats().remote_interests == 6
            })
            .await;
        }
    }
    until("all interest is known again", || {
        nodes.iter().all(|n| n.broker.stats().remote_interests == 6)
    })
    .await;
    publisher.send("PUB end 0\r\n\r\n").await;
    publisher.flush().await;
    for task in tasks {
        tokio::time::timeout(DEADLINE, task).await.unwrap().unwrap();
    }
    let mut times: HashMap<(bool, usize, u64), usize> = HashMap::new();
    for &(label, number) in heard.lock().iter() {
        let (is_queue, who) = (label >= 3, if label >= 3 { 0 } else { label });
        *times.entry((is_queue, who, number)).or_default() += 1;
    }
    let twice: Vec<_> = times.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    for number in 0..sent {
        for key in [(false, 0, number), (false, 1, number), (true, 0, number)] {
            assert!(
                times.contains_key(&key),
                "{key:?} was lost although its way stayed open"
            );
        }
    }
}

#[tokio::test]
async fn what_came_over_a_route_goes_no_further_and_never_back() {
    // A line of nodes instead of a mesh: 1 - 2 - 3.
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let node = Node::start().await;
        node.broker.set_node(NodeId(id));
        nodes.push(node);
    }
    let _first = join((&nodes[0], 1), (&nodes[1], 2));
    let _second = join((&nodes[1], 2), (&nodes[2], 3));
    let mut subs = Vec::new();
    for node in &nodes {
        let mut raw = node.client().await;
        raw.send("SUB foo 1\r\n").await;
        raw.flush().await;
        subs.push(raw);
    }
    until("neighbours know of each other", || {
        let known: Vec<_> = nodes
            .iter()
            .map(|n| n.broker.stats().remote_interests)
            .collect();
        known == [1, 2, 1]
    })
    .await;
    subs[0].send("PUB foo 1\r\nx\r\n").await;
    for sub in &mut subs[..2] {
        sub.expect("MSG foo 1 1\r\nx\r\n").await;
    }
    // A message from the middle arrives everywhere, after whatever might have been passed on.
    subs[1].send("PUB foo 1\r\ny\r\n").await;
    for sub in &mut subs {
        sub.expect("MSG foo 1 1\r\ny\r\n").await;
        sub.flush().await;
    }
}

#[tokio::test]
async fn groups_are_served_by_weight_where_no_member_is_local() {
    let nodes = mesh(3).await;
    let mut members = Vec::new();
    for (node, count) in [(1, 1), (2, 3)] {
        for _ in 0..count {
            members.push((node, subscriber(&nodes[node], "q").await));
        }
    }
    until("all members are known", || {
        nodes[0].broker.stats().remote_interests == 4
    })
    .await;
    // The last weight comes after the first interest.
    let settled = async {
        loop {
            let mut publisher = nodes[0].client().await;
            publisher.send(&"PUB work 0\r\n\r\n".repeat(400)).await;
            publisher.flush().await;
            let mut by_node = [0; 3];
            while by_node.iter().sum::<usize>() < 400 {
                for (node, raw) in &mut members {
                    by_node[*node] += raw.count_messages().await;
                }
            }
            assert_eq!(
                by_node.iter().sum::<usize>(),
                400,
                "each message once: {by_node:?}"
            );
            // Of 400, 100 are expected on node 1; far from that only while a weight is on its way.
            if (60..140).contains(&by_node[1]) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, settled).await.unwrap();
}
