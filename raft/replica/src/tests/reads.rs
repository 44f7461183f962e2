//! Reads: nobody sees less than what anybody was shown before, whoever leads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::harness::{Net, Node, eventually, leader_of, messages, sequences, three};
use crate::{ProposeError, ReadError, Replica, RpcClass};

/// Hand-overs while reads and writes go on.
const HAND_OVERS: usize = 60;
/// Reads side by side at each node.
const READERS: usize = 4;

fn last_seq(replica: &Replica) -> u64 {
    replica.with_state(|state| state.stream("S").map_or(0, |stream| stream.last_seq()))
}

/// Writes until it is told to stop; what is acknowledged counts as shown.
async fn write(node: Replica, shown: Arc<AtomicU64>, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow_and_update() {
        match node.propose(messages(&["x"])).await {
            Ok(proposed) => {
                let newest = sequences(&proposed).into_iter().max().unwrap_or(0);
                shown.fetch_max(newest, Ordering::SeqCst);
            }
            Err(ProposeError::TimedOut {
                maybe_applied: true,
            }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Reads until it is told to stop, and counts.
async fn read(node: Replica, shown: Arc<AtomicU64>, mut stop: watch::Receiver<bool>) -> u64 {
    let mut reads = 0;
    while !*stop.borrow_and_update() {
        let before = shown.load(Ordering::SeqCst);
        match node.read_barrier().await {
            Ok(index) => {
                let seen = last_seq(&node);
                assert!(
                    seen >= before,
                    "{seen} after {before} was shown, at {index}"
                );
                shown.fetch_max(seen, Ordering::SeqCst);
                reads += 1;
            }
            Err(ReadError::TimedOut | ReadError::NoLeader) => {}
            Err(error) => panic!("{error}"),
        }
        tokio::task::yield_now().await;
    }
    reads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_read_shows_less_than_another_did_through_hand_overs() {
    let net: Arc<Net> = Arc::default();
    let nodes = three(&net).await;
    let stop = watch::Sender::new(false);
    let shown: Arc<AtomicU64> = Arc::default();
    let (mut writers, mut readers) = (Vec::new(), Vec::new());
    for node in &nodes {
        let replica: &Replica = node;
        let writing = write(replica.clone(), Arc::clone(&shown), stop.subscribe());
        writers.push(tokio::spawn(writing));
        for _ in 0..READERS {
            let reading = read(replica.clone(), Arc::clone(&shown), stop.subscribe());
            readers.push(tokio::spawn(reading));
        }
    }
    for _ in 0..HAND_OVERS {
        eventually("a leader", || {
            nodes
                .iter()
                .any(|node| node.leadership().borrow().is_leader)
        })
        .await;
        let before = shown.load(Ordering::SeqCst);
        nodes[leader_of(&nodes)].transfer_leadership().await;
        eventually("progress", || shown.load(Ordering::SeqCst) > before).await;
    }
    stop.send_replace(true);
    for writer in writers {
        writer.await.unwrap();
    }
    for reader in readers {
        assert!(reader.await.unwrap() > 0, "a node that answered no read");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_answers_by_its_lease_and_others_with_one_question() {
    let net: Arc<Net> = Arc::default();
    let nodes = three(&net).await;
    let leader = leader_of(&nodes);
    eventually("a lease", || nodes[leader].lease().read_index().is_some()).await;
    let acked = nodes[leader].propose(messages(&["a"])).await.unwrap();
    let index = nodes[leader].lease().read_index();
    assert!(
        index >= Some(acked.index),
        "{index:?} misses {}",
        acked.index
    );
    for (at, node) in nodes.iter().enumerate() {
        let before = net.calls(RpcClass::Read);
        assert!(node.read_barrier().await.unwrap() >= acked.index);
        let asked = net.calls(RpcClass::Read) - before;
        if at == leader {
            assert_eq!(asked, 0, "the leader asked somebody");
        } else {
            assert!(asked > 0, "a follower asked nobody");
            assert_eq!(node.lease().read_index(), None, "a follower has no lease");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_ends_when_no_quorum_answers_and_when_leadership_is_handed_over() {
    let net = Net::without_timers();
    let nodes = three(&net).await;
    let old = leader_of(&nodes);
    eventually("a lease", || nodes[old].lease().read_index().is_some()).await;
    // Nobody takes over: the successors hear nothing. Without timers the lease would last for long.
    for node in &nodes {
        if node.id != nodes[old].id {
            net.mute(node.id);
        }
    }
    let leading = (*nodes[old]).clone();
    let handing = tokio::spawn(async move { leading.transfer_leadership().await });
    eventually("the lease is given up", || {
        nodes[old].lease().read_index().is_none()
    })
    .await;
    net.heal();
    eventually("another leader with a lease", || {
        let mut others = nodes.iter().filter(|node| node.id != nodes[old].id);
        others.any(|node| node.lease().read_index().is_some())
    })
    .await;
    assert_eq!(nodes[old].lease().read_index(), None);
    handing.await.unwrap();

    let net: Arc<Net> = Arc::default();
    let nodes = three(&net).await;
    let old = leader_of(&nodes);
    eventually("a lease", || nodes[old].lease().read_index().is_some()).await;
    net.isolate(nodes[old].id);
    eventually("the lease is over", || {
        nodes[old].lease().read_index().is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_stood_still_asks_a_quorum() {
    let net = Net::without_timers();
    let nodes = three(&net).await;
    let leader = &nodes[leader_of(&nodes)];
    eventually("a lease", || leader.lease().read_index().is_some()).await;
    let acked = leader.propose(messages(&["a"])).await.unwrap();
    leader.lease().note_suspension();
    assert_eq!(leader.lease().read_index(), None);
    // Heartbeats are of this class.
    let before = net.calls(RpcClass::Vote);
    assert!(leader.read_barrier().await.unwrap() >= acked.index);
    assert!(net.calls(RpcClass::Vote) > before, "nobody was asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_needs_nobody_for_its_lease() {
    let net: Arc<Net> = Arc::default();
    let node = Node::start(&net, "only").await;
    assert_eq!(node.lease().read_index(), None, "it is no member yet");
    let alone = [(node.id, node.name.clone())].into_iter().collect();
    node.initialize(alone).await.unwrap();
    eventually("a lease", || node.lease().read_index().is_some()).await;
}
