//! One connection per pair, self detection, status, restart, silence.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use unibus_proto::NodeId;
use unibus_raft::Transport;

use super::fixture::{Authority, Event, Node, Relay, named_route, route_to, until, within};
use crate::mesh::{Mesh, MeshError, RouteState};

/// Nodes that all have the same routes, their own included.
async fn full_mesh(authority: &Authority, count: usize) -> (Vec<Node>, Vec<Relay>) {
    let mut relays = Vec::new();
    // Relay [i][j] is how node i reaches node j.
    for _ in 0..count * count {
        relays.push(Relay::new().await);
    }
    let mut nodes = Vec::new();
    for i in 0..count {
        let routes = (0..count)
            .map(|j| route_to(relays[i * count + j].addr))
            .collect();
        nodes.push(authority.node(i as u64 + 1, routes).await);
    }
    for i in 0..count {
        for (j, node) in nodes.iter().enumerate() {
            relays[i * count + j].lead_to(node.addr());
        }
    }
    (nodes, relays)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_dial_each_other_keep_one_connection() {
    let authority = Authority::new();
    for _ in 0..5 {
        let (nodes, _relays) = full_mesh(&authority, 2).await;
        nodes[0].has_peers(&[2]).await;
        nodes[1].has_peers(&[1]).await;
        until("every route entry is settled", || {
            nodes.iter().all(|node| {
                let routes = node.mesh.routes();
                !routes
                    .iter()
                    .any(|entry| matches!(entry.state, RouteState::Pending { .. }))
            })
        })
        .await;
        until("one connection is left on each side", || {
            nodes
                .iter()
                .all(|node| node.mesh.shared.endpoint.open_connections() == 1)
        })
        .await;
        let dialed = nodes.iter().map(|node| node.mesh.peers()[0].dialed);
        assert_eq!(dialed.filter(|dialed| *dialed).count(), 1);
        assert_eq!(*nodes[0].hooks.events.lock(), [Event::Connected(NodeId(2))]);
        assert_eq!(*nodes[1].hooks.events.lock(), [Event::Connected(NodeId(1))]);
        assert!(nodes.iter().all(|node| node.mesh.refused().is_empty()));
    }
}

#[tokio::test]
async fn three_with_equal_routes_find_themselves_and_each_other() {
    let authority = Authority::new();
    let (nodes, _relays) = full_mesh(&authority, 3).await;
    for (index, node) in nodes.iter().enumerate() {
        let others: Vec<u64> = (1..=3).filter(|id| *id != index as u64 + 1).collect();
        node.has_peers(&others).await;
        let wanted: Vec<RouteState> = (0..3)
            .map(|j| match j {
                j if j == index => RouteState::Own,
                j => RouteState::Connected(NodeId(j as u64 + 1)),
            })
            .collect();
        until("each entry is known", || {
            node.mesh
                .routes()
                .iter()
                .map(|entry| entry.state.clone())
                .eq(wanted.iter().cloned())
        })
        .await;
        let connected: Vec<u64> = node.mesh.connected().iter().map(|id| id.0).collect();
        assert_eq!(connected, others);
        assert!(node.mesh.refused().is_empty());
    }
}

#[tokio::test]
async fn the_message_stream_carries_bytes_both_ways() {
    let authority = Authority::new();
    let one = authority.node(1, vec![]).await;
    let two = authority.node(2, vec![named_route("n1", one.addr())]).await;
    one.has_peers(&[2]).await;
    two.has_peers(&[1]).await;
    let (mut one_recv, mut one_send) = one.take_stream(2);
    let (mut two_recv, mut two_send) = two.take_stream(1);
    one_send.write_all(b"interest of one").await.unwrap();
    two_send.write_all(b"interest of two").await.unwrap();
    let mut text = [0; 15];
    two_recv.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"interest of one");
    one_recv.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"interest of two");
}

#[tokio::test]
async fn a_change_of_status_reaches_the_peers() {
    let authority = Authority::new();
    let one = authority.node(1, vec![]).await;
    let two = authority.node(2, vec![route_to(one.addr())]).await;
    one.has_peers(&[2]).await;
    two.has_peers(&[1]).await;
    assert!(!one.mesh.peers()[0].initialized);
    two.hooks.initialized.store(true, Ordering::Relaxed);
    two.mesh.status_changed();
    until("one knows that two is initialized", || {
        one.mesh.peers()[0].initialized
    })
    .await;
    assert!(!two.mesh.peers()[0].initialized);
}

#[tokio::test]
async fn a_restarted_peer_is_connected_again() {
    let authority = Authority::new();
    let relay = Relay::new().await;
    let one = authority.node(1, vec![route_to(relay.addr)]).await;
    for _ in 0..3 {
        let two = authority.node(2, vec![]).await;
        relay.lead_to(two.addr());
        one.has_peers(&[2]).await;
        two.has_peers(&[1]).await;
        two.mesh.shutdown().await;
        assert_eq!(
            two.hooks.events.lock().last(),
            Some(&Event::Disconnected(NodeId(1)))
        );
        one.has_peers(&[]).await;
    }
    let connected = one
        .hooks
        .events
        .lock()
        .iter()
        .filter(|e| **e == Event::Connected(NodeId(2)))
        .count();
    assert_eq!(connected, 3);
}

#[tokio::test]
async fn a_new_process_replaces_the_connection_of_the_old_one() {
    let authority = Authority::new();
    let one = authority.node(1, vec![]).await;
    let relay = Relay::new().await;
    relay.lead_to(one.addr());
    let old = authority.node(2, vec![route_to(relay.addr)]).await;
    one.has_peers(&[2]).await;
    let first = one.mesh.peers()[0].addr;
    // The old process falls silent without a goodbye; the new one must not wait for its timeout.
    relay.cut();
    let started = Instant::now();
    let new = authority.node(2, vec![route_to(one.addr())]).await;
    new.has_peers(&[1]).await;
    until("one has moved over", || {
        one.mesh.peers().first().is_some_and(|p| p.addr != first)
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(3));
    let events = one.hooks.events.lock().clone();
    let two = NodeId(2);
    assert_eq!(
        events,
        [
            Event::Connected(two),
            Event::Disconnected(two),
            Event::Connected(two)
        ]
    );
    drop(old);
}

#[tokio::test]
async fn a_silent_peer_is_gone_in_under_five_seconds_and_comes_back() {
    let authority = Authority::new();
    let one = authority.node(1, vec![]).await;
    let relay = Relay::new().await;
    relay.lead_to(one.addr());
    let two = authority.node(2, vec![route_to(relay.addr)]).await;
    one.has_peers(&[2]).await;
    two.has_peers(&[1]).await;
    relay.cut();
    let limit = Duration::from_secs(5);
    within(limit, "both notice the silence", &mut || {
        one.peer_ids().is_empty() && two.peer_ids().is_empty()
    })
    .await;
    relay.mend();
    one.has_peers(&[2]).await;
    two.has_peers(&[1]).await;
}

#[tokio::test]
async fn a_dropped_mesh_is_noticed_at_once() {
    let authority = Authority::new();
    let one = authority.node(1, vec![]).await;
    let two = authority.node(2, vec![route_to(one.addr())]).await;
    one.has_peers(&[2]).await;
    drop(two);
    let limit = Duration::from_secs(2);
    within(limit, "one notices", &mut || one.peer_ids().is_empty()).await;
}

#[tokio::test]
async fn names_addresses_and_ports_that_cannot_be_served_are_errors() {
    let authority = Authority::new();
    let hooks = || std::sync::Arc::new(super::fixture::Recorder::default());
    let mut options = authority.options(1, vec![]);
    options.server_name = "n9".to_owned();
    let error = Mesh::start(options, hooks()).await.unwrap_err();
    assert!(
        matches!(&error, MeshError::OtherName { found, .. } if found == "n1"),
        "{error}"
    );

    let one = authority.node(1, vec![]).await;
    let mut options = authority.options(2, vec![]);
    options.bind = one.addr();
    let error = Mesh::start(options, hooks()).await.unwrap_err();
    assert!(matches!(error, MeshError::Bind { .. }), "{error}");

    let mut options = authority.options(2, vec![]);
    options.tls.key = "/nowhere/node.key".into();
    let error = Mesh::start(options, hooks()).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/node.key"), "{error}");

    let mut options = authority.options(2, vec![]);
    options.tls.key = authority.options(3, vec![]).tls.key;
    let error = Mesh::start(options, hooks()).await.unwrap_err();
    assert!(matches!(error, MeshError::Tls(_)), "{error}");
}

#[tokio::test]
async fn a_route_whose_message_stream_ends_is_made_anew() {
    let authority = Authority::new();
    let one = authority.node(1, vec![]).await;
    let two = authority.node(2, vec![route_to(one.addr())]).await;
    let came = |node: &Node| {
        let events = node.hooks.events.lock();
        events
            .iter()
            .filter(|e| matches!(e, Event::Connected(_)))
            .count()
    };
    until("the route stands", || came(&one) == 1 && came(&two) == 1).await;
    let end = one.hooks.stream_ends.lock().pop().unwrap();
    end.send(()).unwrap();
    until("it stands again", || came(&one) == 2 && came(&two) == 2).await;
    assert_eq!(one.mesh.peers().len(), 1);
}

#[tokio::test]
async fn a_route_whose_process_has_ended_is_closed_while_its_packets_still_come() {
    let authority = Authority::new();
    let relay = Relay::new().await;
    // Stands for the kernel of the other host.
    let listener = TcpListener::bind(relay.addr).await.unwrap();
    let two = authority.node(2, vec![]).await;
    relay.lead_to(two.addr());
    let one = authority.node(1, vec![route_to(relay.addr)]).await;
    one.has_peers(&[2]).await;
    let (held, _) = listener.accept().await.unwrap();
    // A connection that ends says nothing as long as another one is taken.
    drop(held);
    let (held, _) = listener.accept().await.unwrap();
    assert_eq!(one.peer_ids(), [2]);
    drop(listener);
    drop(held);
    until("the route is closed", || {
        let events = one.hooks.events.lock();
        events.contains(&Event::Disconnected(NodeId(2)))
    })
    .await;
}

/// A host that is gone as a whole ends no TCP connection: what it held is let go with its route.
#[tokio::test]
async fn what_is_held_on_tcp_goes_with_the_route() {
    let authority = Authority::new();
    let one = authority.node(1, vec![]).await;
    let two = authority.node(2, vec![route_to(one.addr())]).await;
    one.has_peers(&[2]).await;
    let mut lifeline = TcpStream::connect(one.addr()).await.unwrap();
    let held = tokio::spawn(async move { lifeline.read(&mut [0]).await });
    two.has_peers(&[1]).await;
    assert!(!held.is_finished());
    two.mesh.shutdown().await;
    let ended = tokio::time::timeout(Duration::from_secs(15), held).await;
    let _whichever_way_the_kernel_says_so = ended.expect("let go with its route").unwrap();
}

#[tokio::test]
async fn only_peers_are_held_on_tcp() {
    let authority = Authority::new();
    let one = authority.node(1, vec![]).await;
    let mut stranger = TcpStream::connect(one.addr()).await.unwrap();
    // Ended without a word, whichever way the kernel says so.
    assert!(!matches!(stranger.read(&mut [0]).await, Ok(1..)));
    let two = authority.node(2, vec![route_to(one.addr())]).await;
    one.has_peers(&[2]).await;
    two.has_peers(&[1]).await;
    let mut peer = TcpStream::connect(one.addr()).await.unwrap();
    let held = tokio::spawn(async move { peer.read(&mut [0]).await });
    two.has_peers(&[1]).await;
    assert!(!held.is_finished());
    one.mesh.shutdown().await;
    // It ends with the mesh, whichever way the kernel says so.
    let _ended = held.await.unwrap();
    assert!(TcpStream::connect(one.addr()).await.is_err());
}
