//! Clusters that are two although they share a network, and what a node knows of its own: which cluster it
//! belongs to, whether its leader can commit, whether its consensus runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::harness::{
    Net, Node, create_stream, equal_digests, eventually, leader_of, messages, three,
};

/// A node that is a cluster of its own.
async fn alone(net: &Arc<Net>, name: &str) -> Node {
    let node = Node::start(net, name).await;
    let members = BTreeMap::from([(node.id, name.to_owned())]);
    node.initialize(members).await.unwrap();
    eventually("it leads", || node.leadership().borrow().is_leader).await;
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_two_clusters_want_takes_part_in_the_first() {
    let net: Arc<Net> = Arc::default();
    let (one, two) = (alone(&net, "one").await, alone(&net, "two").await);
    let mut new = Node::start(&net, "new").await;
    assert_eq!(new.status().cluster_id, None);
    one.propose(create_stream()).await.unwrap();
    one.admit(new.id, "new".to_owned()).await.unwrap();
    let id = new.status().cluster_id;
    assert!(id.is_some() && id == one.status().cluster_id);
    assert_ne!(id, two.status().cluster_id);
    // The other one would feed it as soon as it is a learner there, and with a snapshot at once.
    two.propose(create_stream()).await.unwrap();
    for _ in 0..2 {
        two.propose(messages(&["of two"])).await.unwrap();
        two.checkpoint().await.unwrap();
    }
    let (other, wanted) = (two.clone(), new.id);
    let wanting = tokio::spawn(async move { other.welcome(wanted, "new".to_owned()).await });
    eventually("the other cluster wants it", || {
        two.status().learners.contains_key(&new.id)
    })
    .await;
    for _ in 0..5 {
        two.propose(messages(&["of two"])).await.unwrap();
        one.propose(messages(&["of one"])).await.unwrap();
    }
    equal_digests(&[&one, &new]).await;
    assert_eq!(new.status().leader, Some(one.id));
    // After a restart too, whoever calls it first.
    new.kill().await;
    two.propose(messages(&["of two"])).await.unwrap();
    new.restart().await;
    assert_eq!(new.status().cluster_id, id);
    one.propose(messages(&["of one"])).await.unwrap();
    equal_digests(&[&one, &new]).await;
    assert_eq!(two.status().voters.len(), 1);
    wanting.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_an_identity_gets_one_when_every_member_knows_of_them() {
    let net: Arc<Net> = Arc::default();
    net.is_old.store(true, Ordering::SeqCst);
    let mut nodes = three(&net).await;
    assert!(nodes.iter().all(|node| node.status().cluster_id.is_none()));
    let away = (leader_of(&nodes) + 1) % 3;
    nodes[away].kill().await;
    net.is_old.store(false, Ordering::SeqCst);
    nodes[(away + 1) % 3]
        .propose(messages(&["a"]))
        .await
        .unwrap();
    assert!(nodes[(away + 1) % 3].status().cluster_id.is_none());
    nodes[away].restart().await;
    eventually("all know it", || {
        let first = nodes[0].status().cluster_id;
        first.is_some() && nodes.iter().all(|node| node.status().cluster_id == first)
    })
    .await;
    let id = nodes[0].status().cluster_id;
    nodes[away].kill().await;
    nodes[away].restart().await;
    assert_eq!(
        nodes[away].status().cluster_id,
        id,
        "before it hears of anybody"
    );
    nodes[away].propose(messages(&["b"])).await.unwrap();
    nodes[away].checkpoint().await.unwrap();
    // A snapshot has it as well.
    let late = Node::start(&net, "late").await;
    nodes[away].admit(late.id, "late".to_owned()).await.unwrap();
    assert_eq!(late.status().cluster_id, id);
    equal_digests(&[&nodes[away], &late]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_knows_that_its_leader_has_no_quorum() {
    let net: Arc<Net> = Arc::default();
    let nodes = three(&net).await;
    let leader = leader_of(&nodes);
    let fourth = Node::start(&net, "d").await;
    nodes[leader]
        .admit(fourth.id, "d".to_owned())
        .await
        .unwrap();
    let mut followers = nodes.iter().filter(|node| node.id != nodes[leader].id);
    let (gone, left) = (followers.next().unwrap(), followers.next().unwrap());
    eventually("it follows", || left.status().has_quorum).await;
    // Two of four are left: the leader goes on to be heard, and can commit nothing.
    net.isolate(gone.id);
    net.isolate(fourth.id);
    eventually("both know", || {
        !nodes[leader].status().has_quorum && !left.status().has_quorum
    })
    .await;
    assert_eq!(left.leadership().borrow().leader, None);
    net.heal();
    eventually("both know that it is over", || {
        nodes.iter().all(|node| node.status().has_quorum)
    })
    .await;
    left.propose(messages(&["after"])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_consensus_panicked_has_failed() {
    let node = alone(&Arc::default(), "one").await;
    assert_eq!(node.status().fatal, None);
    let asked = node
        .raft()
        .with_raft_state(|_| panic!("what a bug of consensus does"))
        .await;
    let _: Result<(), _> = asked;
    eventually("it says so", || node.status().fatal.is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_while_a_voter_is_away_gets_no_vote_before_it_is_asked_for() {
    let net: Arc<Net> = Arc::default();
    let mut nodes = three(&net).await;
    let leader = leader_of(&nodes);
    let away = (leader + 1) % 3;
    let name = nodes[away].name.clone();
    nodes[away].kill().await;
    let new = Node::start(&net, "new").await;
    let missing = nodes[leader].welcome(new.id, "new".to_owned()).await;
    assert_eq!(missing, Ok(vec![name]));
    let status = nodes[leader].status();
    assert!(status.learners.contains_key(&new.id) && status.voters.len() == 3);
    nodes[away].restart().await;
    let members = nodes[leader].welcome(new.id, "new".to_owned()).await;
    assert_eq!(members, Ok(vec![]));
    assert_eq!(nodes[leader].status().voters.len(), 4);
    // An operator's word is enough while a quorum is left.
    nodes[away].kill().await;
    let asked = Node::start(&net, "asked").await;
    nodes[leader]
        .admit(asked.id, "asked".to_owned())
        .await
        .unwrap();
    assert_eq!(nodes[leader].status().voters.len(), 5);
}
