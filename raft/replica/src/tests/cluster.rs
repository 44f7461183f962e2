//! Three nodes and more: forwarding, linearizable reads, failover, growth and replacement.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver;
use unibus_proto::NodeId;

use super::harness::{
    Net, Node, equal_digests, eventually, leader_of, messages, payload, sequences, three,
};
use crate::types::{EntryPayload, Membership};
use crate::{AdmitError, ProposeError, RpcClass};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_takes_proposals_in_order_and_reads_what_was_acknowledged() {
    let net: Arc<Net> = Arc::default();
    let nodes = three(&net).await;
    let mut last = 0;
    for round in 0..5 {
        for node in &nodes {
            let proposals: Vec<_> = (0..20)
                .map(|n| node.propose(messages(&[&format!("{round}-{n}")])))
                .collect();
            for proposal in proposals {
                let seq = sequences(&proposal.await.unwrap())[0];
                assert!(seq > last);
                last = seq;
            }
            for reader in &nodes {
                reader.read_barrier().await.unwrap();
                assert_eq!(payload(reader, last).unwrap(), format!("{round}-19"));
            }
        }
    }
    assert!(net.calls(RpcClass::Propose) > 0 && net.calls(RpcClass::Read) > 0);
    let refs: Vec<&Node> = nodes.iter().collect();
    equal_digests(&refs).await;
    let index = nodes[0].read_barrier().await.unwrap();
    let within = Duration::from_secs(10);
    assert_eq!(nodes[0].applied_everywhere(index, within).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let net: Arc<Net> = Arc::default();
    let nodes = three(&net).await;
    nodes[0].propose(messages(&["before"])).await.unwrap();
    let old = leader_of(&nodes);
    net.isolate(nodes[old].id);
    let others: Vec<&Node> = nodes.iter().filter(|n| n.id != nodes[old].id).collect();
    // Proposed at once: the nodes look for the new leader themselves.
    let during = others[0].propose(messages(&["during"])).await;
    let unknown = matches!(
        during,
        Err(ProposeError::TimedOut {
            maybe_applied: true
        })
    );
    assert!(during.is_ok() || unknown, "{during:?}");
    eventually("a new leader", || {
        others
            .iter()
            .any(|node| node.leadership().borrow().is_leader)
    })
    .await;
    others[0].propose(messages(&["after"])).await.unwrap();
    eventually("the old leader notices", || {
        nodes[old].leadership().borrow().leader.is_none()
    })
    .await;
    assert!(nodes[old].propose(messages(&["lost"])).await.is_err());
    assert!(nodes[old].read_barrier().await.is_err());
    net.heal();
    let refs: Vec<&Node> = nodes.iter().collect();
    equal_digests(&refs).await;
    for node in &nodes {
        assert_eq!(payload(node, 1).unwrap(), "before");
        let last = node.with_state(|state| state.stream("S").unwrap().last_seq());
        assert_eq!(payload(node, last).unwrap(), "after");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_and_a_restarted_node_catches_up() {
    let net: Arc<Net> = Arc::default();
    let mut nodes = three(&net).await;
    let old = leader_of(&nodes);
    nodes[old].transfer_leadership().await;
    eventually("another leader", || {
        nodes
            .iter()
            .any(|node| node.id != nodes[old].id && node.leadership().borrow().is_leader)
    })
    .await;
    nodes[old].kill().await;
    let running = (old + 1) % 3;
    nodes[running]
        .propose(messages(&["while away"]))
        .await
        .unwrap();
    nodes[old].restart().await;
    let refs: Vec<&Node> = nodes.iter().collect();
    equal_digests(&refs).await;
    assert_eq!(payload(&nodes[old], 1).unwrap(), "while away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_node_is_fed_by_snapshot_and_replaces_a_voter_of_its_name() {
    let net: Arc<Net> = Arc::default();
    let mut nodes = three(&net).await;
    let big = "x".repeat(100_000);
    for _ in 0..30 {
        nodes[0].propose(messages(&[&big])).await.unwrap();
    }
    for node in &nodes {
        node.read_barrier().await.unwrap();
        node.checkpoint().await.unwrap();
    }
    nodes[0].propose(messages(&["tail"])).await.unwrap();
    let lost = (leader_of(&nodes) + 1) % 3;
    let name = nodes[lost].name.clone();
    let lost_id = nodes[lost].id;
    nodes[lost].kill().await;
    let fresh = Node::start(&net, &name).await;
    // Asked by the empty node itself, which knows no leader.
    fresh.admit(fresh.id, name.clone()).await.unwrap();
    assert!(net.calls(RpcClass::Snapshot) > 3);
    eventually("the membership is the new one", || {
        let voters = fresh.status().voters;
        voters.len() == 3 && !voters.contains_key(&lost_id)
    })
    .await;
    assert_eq!(fresh.status().voters.get(&fresh.id), Some(&name));
    nodes.remove(lost);
    nodes.push(fresh);
    let refs: Vec<&Node> = nodes.iter().collect();
    equal_digests(&refs).await;
    let fresh = nodes.last_mut().unwrap();
    assert_eq!(payload(fresh, 30).unwrap(), big);
    assert_eq!(payload(fresh, 31).unwrap(), "tail");
    fresh.kill().await;
    fresh.restart().await;
    let deadline = Instant::now() + Duration::from_secs(30);
    fresh.wait_applied(1, deadline).await.unwrap();
    fresh.read_barrier().await.unwrap();
    assert_eq!(payload(fresh, 30).unwrap(), big);
    let ids: Vec<NodeId> = fresh.status().voters.into_keys().collect();
    assert!(ids.contains(&fresh.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_grows_into_a_cluster_with_its_data() {
    let net: Arc<Net> = Arc::default();
    let first = Node::start(&net, "a").await;
    let members = [(first.id, "a".to_owned())].into_iter().collect();
    first.initialize(members).await.unwrap();
    first
        .propose(super::harness::create_stream())
        .await
        .unwrap();
    first.propose(messages(&["kept"])).await.unwrap();
    let mut nodes = vec![first];
    for name in ["b", "c"] {
        let node = Node::start(&net, name).await;
        node.admit(node.id, name.to_owned()).await.unwrap();
        nodes.push(node);
    }
    let refs: Vec<&Node> = nodes.iter().collect();
    equal_digests(&refs).await;
    for node in &nodes {
        assert_eq!(payload(node, 1).unwrap(), "kept");
        assert_eq!(node.status().voters.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_snapshot_goes_on_where_it_stopped() {
    let net: Arc<Net> = Arc::default();
    let first = Node::start(&net, "a").await;
    let members = [(first.id, "a".to_owned())].into_iter().collect();
    first.initialize(members).await.unwrap();
    first
        .propose(super::harness::create_stream())
        .await
        .unwrap();
    let big = "x".repeat(100_000);
    for _ in 0..60 {
        first.propose(messages(&[&big])).await.unwrap();
    }
    first.checkpoint().await.unwrap();
    // Manifest, rows and four of the six chunks of the block get through.
    net.limit(RpcClass::Snapshot, 6);
    let second = Node::start(&net, "b").await;
    let joiner = (*second).clone();
    let id = second.id;
    let joining = tokio::spawn(async move { joiner.admit(id, "b".to_owned()).await });
    eventually("the transfer breaks", || {
        net.broken.load(Ordering::SeqCst) > 0
    })
    .await;
    net.limit(RpcClass::Snapshot, 1000);
    joining.await.unwrap().unwrap();
    // Manifest again, two chunks, install: nothing was sent twice.
    assert_eq!(net.calls(RpcClass::Snapshot), 10);
    equal_digests(&[&first, &second]).await;
    assert_eq!(payload(&second, 60).unwrap(), big);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_voters_that_was_interrupted_is_finished() {
    let net: Arc<Net> = Arc::default();
    let nodes = three(&net).await;
    let leader = &nodes[leader_of(&nodes)];
    let configs = || {
        let metrics = leader.raft().metrics();
        let metrics = metrics.borrow_watched();
        metrics
            .membership_config
            .membership()
            .get_joint_config()
            .clone()
    };
    let all: BTreeSet<u64> = nodes.iter().map(|node| node.id.0).collect();
    let other = nodes.iter().find(|node| node.id != leader.id).unwrap();
    let two = BTreeSet::from([leader.id.0, other.id.0]);
    let peers: BTreeMap<_, _> = {
        let metrics = leader.raft().metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        membership
            .nodes()
            .map(|(id, peer)| (*id, peer.clone()))
            .collect()
    };
    // Its first step only, as a leader that fails between the two leaves it.
    let joint = Membership::new(vec![all, two.clone()], peers).unwrap();
    leader
        .raft()
        .append_membership(joint, EntryPayload::Blank, [])
        .await
        .unwrap();
    eventually("one set of voters", || configs() == [two.clone()]).await;
    let removed = nodes.iter().find(|node| !two.contains(&node.id.0)).unwrap();
    leader
        .admit(removed.id, removed.name.clone())
        .await
        .unwrap();
    assert_eq!(configs().len(), 1);
    assert_eq!(leader.status().voters.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_gone_neither_holds_up_admissions_nor_waits_for_long() {
    let net: Arc<Net> = Arc::default();
    let nodes = three(&net).await;
    let leader = &nodes[leader_of(&nodes)];
    let joining = Node::start(&net, "d").await;
    let gone = NodeId(4711);
    let first = leader.admit(gone, "gone".to_owned());
    let second = async {
        eventually("the learner", || {
            leader.status().learners.contains_key(&gone)
        })
        .await;
        leader.admit(joining.id, "d".to_owned()).await.unwrap();
        assert!(leader.status().learners.contains_key(&gone));
    };
    let both = async { tokio::join!(first, second) };
    let (refused, ()) = tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .unwrap();
    assert_eq!(refused, Err(AdmitError::NotCaughtUp(gone)));
    assert_eq!(leader.status().voters.len(), 4);
}
