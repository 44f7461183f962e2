//! One node: propose, read back, restart in every way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use unibus_state::{Outcome, State};

use super::harness::{Net, Node, create_stream, eventually, messages, payload, sequences};
use crate::rows::RowStore;
use crate::{InitializeError, OnDamage, OpenStore, ProposeError, StartError, StorageError};

pub(super) async fn alone(net: &Arc<Net>) -> Node {
    let node = Node::start(net, "one").await;
    let members = BTreeMap::from([(node.id, node.name.clone())]);
    node.initialize(members.clone()).await.unwrap();
    assert_eq!(
        node.initialize(members).await,
        Err(InitializeError::NotPristine)
    );
    let created = node.propose(create_stream()).await.unwrap();
    assert_eq!(created.outcomes, [Outcome::Done]);
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_keep_their_order_and_effects_are_heard_before_the_answer() {
    let net = Arc::default();
    let node = alone(&net).await;
    let proposals: Vec<_> = (0..500)
        .map(|n| node.propose(messages(&[&format!("m{n}"), "x"])))
        .collect();
    for (n, proposal) in proposals.into_iter().enumerate() {
        let proposed = proposal.await.unwrap();
        let first = 2 * n as u64 + 1;
        assert_eq!(sequences(&proposed), [first, first + 1]);
        assert!(node.recorder.last_seq.load(Ordering::SeqCst) > first);
        assert!(*node.applied_index().borrow() >= proposed.index);
    }
    assert_eq!(payload(&node, 999).unwrap(), "m499");
    assert!(node.read_barrier().await.unwrap() >= 2);
    let status = node.status();
    assert!(status.has_quorum && status.initialized && status.fatal.is_none());
    assert_eq!(status.leader, Some(node.id));
}

/// What is acknowledged just before a kill has no commit hint behind it: a leader of the same term
/// would not know it as committed, and its barrier would let readers see the time before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_leads_in_a_new_term_and_its_first_barrier_covers_what_it_acknowledged() {
    let net = Arc::default();
    let mut node = alone(&net).await;
    for round in 0..5 {
        let term = node.status().term;
        let acknowledged = node.propose(messages(&["x"])).await.unwrap();
        node.kill().await;
        node.restart().await;
        let barrier = node.read_barrier().await.unwrap();
        assert!(barrier > acknowledged.index, "{round}");
        assert!(node.status().term > term, "{round}");
        let last = node.with_state(|state| state.stream("S").unwrap().last_seq());
        assert_eq!([last], sequences(&acknowledged)[..], "{round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_survives_restarts_from_the_log_and_from_checkpoints() {
    let net = Arc::default();
    let mut node = alone(&net).await;
    node.propose(messages(&["one", "two"])).await.unwrap();
    node.kill().await;
    node.restart().await;
    node.propose(messages(&["three"])).await.unwrap();
    let index = node.checkpoint().await.unwrap();
    assert_eq!(node.status().checkpoint_index, index);
    node.propose(messages(&["four"])).await.unwrap();
    let digest = node.with_state(State::digest);
    for damage in ["none", "sled", "sled file", "part"] {
        node.kill().await;
        match damage {
            "sled" => fs::remove_dir_all(node.path().join("rows")).unwrap(),
            "sled file" => fs::write(node.path().join("rows/db"), b"garbage").unwrap(),
            "part" => {
                fs::create_dir_all(node.path().join("snapshots/building.part")).unwrap();
            }
            _ => {}
        }
        node.restart().await;
        node.read_barrier().await.unwrap();
        assert_eq!(node.with_state(State::digest), digest, "{damage}");
        for (seq, text) in [(1, "one"), (3, "three"), (4, "four")] {
            assert_eq!(payload(&node, seq).unwrap(), text, "{damage}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_outside_any_cluster_refuses_quickly_and_a_stopped_one_says_so() {
    let net: Arc<Net> = Arc::default();
    let mut node = Node::start(&net, "lonely").await;
    assert_eq!(
        node.propose(messages(&["x"])).await.unwrap_err(),
        ProposeError::NoLeader
    );
    let replica = node.clone();
    node.kill().await;
    assert_eq!(
        replica.propose(messages(&["x"])).await.unwrap_err(),
        ProposeError::Stopped
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_follow_the_bytes_and_do_not_stop_writing() {
    let net = Arc::default();
    let mut node = alone(&net).await;
    node.kill().await;
    node.checkpoint_log_bytes = 1 << 20;
    node.restart().await;
    let big = "y".repeat(50_000);
    let mut written = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    // Two checkpoints, so that the second purges the log up to the first.
    let mut seen = BTreeSet::from([0]);
    while seen.len() < 3 {
        assert!(Instant::now() < deadline);
        node.propose(messages(&[&big, "small"])).await.unwrap();
        written += 2;
        seen.insert(node.status().checkpoint_index);
    }
    let digest = node.with_state(State::digest);
    node.kill().await;
    node.restart().await;
    node.read_barrier().await.unwrap();
    assert_eq!(node.with_state(State::digest), digest);
    assert_eq!(payload(&node, written).unwrap(), "small");
    assert_eq!(payload(&node, 1).unwrap(), big);
    let names: Vec<_> = fs::read_dir(node.path().join("snapshots"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_or_in_use_stops_the_start_and_nothing_is_touched() {
    let net = Arc::default();
    let mut node = alone(&net).await;
    node.propose(messages(&["one"])).await.unwrap();
    let index = node.checkpoint().await.unwrap();
    node.kill().await;
    let path = node.path().to_owned();
    let refusal = || OpenStore::open(node.options(), OnDamage::Refuse).err();

    let in_use = RowStore::open(&path.join("rows"), 1 << 20).unwrap();
    let refused = refusal();
    assert!(
        matches!(refused, Some(StartError::Storage(StorageError::Io { .. }))),
        "{refused:?}"
    );
    drop(in_use);

    let aside = tempfile::tempdir().unwrap();
    for folder in ["rows", "snapshots"] {
        fs::rename(path.join(folder), aside.path().join(folder)).unwrap();
    }
    let refused = refusal();
    let Some(StartError::Damaged(damage)) = refused else {
        panic!("{refused:?}")
    };
    assert!(
        damage.to_string().contains(&format!("after entry {index}")),
        "{damage}"
    );
    for folder in ["rows", "snapshots"] {
        // The look at what is there opened a new database.
        drop(fs::remove_dir_all(path.join(folder)));
        fs::rename(aside.path().join(folder), path.join(folder)).unwrap();
    }
    node.restart().await;
    node.read_barrier().await.unwrap();
    assert_eq!(payload(&node, 1).unwrap(), "one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_checkpoint_that_fails_is_tried_again() {
    let net = Arc::default();
    let node = alone(&net).await;
    let in_the_way = node.path().join("snapshots/building.part");
    fs::write(&in_the_way, b"").unwrap();
    let replica = node.clone();
    let taking = tokio::spawn(async move { replica.checkpoint().await });
    eventually("the cut", || node.status().bytes_since_checkpoint == 0).await;
    for text in ["one", "two", "three"] {
        node.propose(messages(&[text])).await.unwrap();
    }
    fs::remove_file(&in_the_way).unwrap();
    assert!(taking.await.unwrap().unwrap() > 0);
    node.propose(messages(&["four"])).await.unwrap();
}
