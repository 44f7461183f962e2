//! Clusters of one name, one CA and one secret stay apart, and nodes know when they are no members.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use unibus_testkit::{Cluster, ClusterOptions, PATIENCE, eventually, voters};

use crate::binary;

/// `unibus-node recover` on the data folder of a node that is not running.
fn recover(data: &Path, name: &str) -> anyhow::Result<()> {
    let data = data.display().to_string();
    let args = ["recover", "--data-dir", &data, "--server-name", name];
    let output = Command::new(binary())
        .args(args)
        .arg("--accept-data-loss")
        .output()?;
    let printed = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{printed}");
    Ok(())
}

async fn cluster_id(cluster: &Cluster, node: usize) -> anyhow::Result<String> {
    let (_, health) = cluster.nodes[node].health().await?;
    let id = health["cluster_id"].as_str().context("no identity yet")?;
    Ok(id.to_owned())
}

/// Waits until the node names a refused route of this peer, because of another cluster.
async fn refuses(cluster: &Cluster, node: usize, peer: &str) -> anyhow::Result<()> {
    eventually("a refused route", PATIENCE, || async {
        let (_, health) = cluster.nodes[node].health().await?;
        let refused = health["refused_routes"].as_array().context("no list")?;
        let is_it = |route: &serde_json::Value| {
            let says =
                |key: &str, text: &str| route[key].as_str().is_some_and(|s| s.contains(text));
            says("peer", &format!("{peer} ")) && says("reason", "another cluster of the same name")
        };
        ensure!(refused.iter().any(is_it), "{health}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_recovered_node_and_those_that_come_back_are_two_clusters_and_say_so()
-> anyhow::Result<()> {
    let mut cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let before = eventually("an identity", PATIENCE, || cluster_id(&cluster, 0)).await?;
    for node in 1..3 {
        ensure!(cluster_id(&cluster, node).await? == before);
    }
    for node in &mut cluster.nodes {
        node.kill();
    }
    recover(&cluster.data_dir(0), "n0")?;
    cluster.nodes[0].start()?;
    cluster.nodes[0].ready(PATIENCE).await?;
    let after = cluster_id(&cluster, 0).await?;
    ensure!(after != before, "another history under one identity");
    // The hosts that were given up boot again, with their disks.
    for node in 1..3 {
        cluster.nodes[node].start()?;
    }
    for node in 1..3 {
        cluster.nodes[node].ready(PATIENCE).await?;
        ensure!(cluster_id(&cluster, node).await? == before);
        refuses(&cluster, node, "n0").await?;
        refuses(&cluster, 0, &format!("n{node}")).await?;
    }
    let log = cluster.nodes[0].log_text();
    ensure!(log.contains("Two clusters must not be joined"), "{log}");
    // What is said on one side is not heard on the other.
    let (one, two) = (cluster.client(0).await?, cluster.client(1).await?);
    let mut heard = futures_of(&two, "news").await?;
    one.publish("news", "of one".into()).await?;
    one.flush().await?;
    let (_, health) = cluster.nodes[0].health().await?;
    ensure!(voters(&health) == 1, "{health}");
    two.publish("news", "of two".into()).await?;
    ensure!(heard.next().await?.payload == "of two");
    // A new node takes part in one of them, whichever is first, and says no to the other.
    let new = cluster.grow()?;
    eventually("the new node is a member", PATIENCE, || async {
        let (status, health) = cluster.nodes[new].health().await?;
        ensure!(status == 200, "{health}");
        Ok(())
    })
    .await?;
    let joined = cluster_id(&cluster, new).await?;
    let strangers: &[usize] = if joined == after { &[1, 2] } else { &[0] };
    for stranger in strangers {
        refuses(&cluster, new, &format!("n{stranger}")).await?;
        ensure!(cluster_id(&cluster, *stranger).await? != joined);
    }
    // To bring the others back is to take their old data from them.
    for node in 1..3 {
        cluster.nodes[node].kill();
        std::fs::rename(
            cluster.data_dir(node).join("store"),
            cluster.data_dir(node).join("old-store"),
        )?;
        std::fs::remove_file(cluster.data_dir(node).join("node.id"))?;
    }
    if joined != after {
        cluster.nodes[new].kill();
    }
    for node in 1..3 {
        cluster.nodes[node].start()?;
        cluster.nodes[node].ready(PATIENCE).await?;
        ensure!(cluster_id(&cluster, node).await? == after);
    }
    Ok(())
}

/// What comes on a subject.
struct Heard(async_nats::Subscriber);

impl Heard {
    async fn next(&mut self) -> anyhow::Result<async_nats::Message> {
        use futures::StreamExt;
        let next = tokio::time::timeout(PATIENCE, self.0.next()).await?;
        next.context("the subscription ended")
    }
}

async fn futures_of(client: &async_nats::Client, subject: &str) -> anyhow::Result<Heard> {
    let subscriber = client.subscribe(subject.to_owned()).await?;
    client.flush().await?;
    Ok(Heard(subscriber))
}

#[tokio::test]
async fn a_node_that_lost_its_disk_joins_again_whatever_its_own_routes_say() -> anyhow::Result<()> {
    let options = ClusterOptions {
        nodes: 1,
        ..Default::default()
    };
    // The first node's routes name it alone; those of the others name it too.
    let mut cluster = Cluster::start(binary(), options).await?;
    for _ in 0..2 {
        let node = cluster.grow()?;
        cluster.nodes[node].ready(PATIENCE).await?;
    }
    eventually("three voters", PATIENCE, || async {
        let (_, health) = cluster.nodes[1].health().await?;
        ensure!(voters(&health) == 3, "{health}");
        Ok(())
    })
    .await?;
    let before = cluster_id(&cluster, 1).await?;
    cluster.nodes[0].kill();
    std::fs::remove_dir_all(cluster.data_dir(0).join("store"))?;
    std::fs::remove_file(cluster.data_dir(0).join("node.id"))?;
    cluster.nodes[0].start()?;
    cluster.nodes[0].ready(PATIENCE).await?;
    ensure!(cluster_id(&cluster, 0).await? == before);
    eventually("it has taken its old place", PATIENCE, || async {
        let (_, health) = cluster.nodes[0].health().await?;
        ensure!(voters(&health) == 3, "{health}");
        Ok(())
    })
    .await?;
    // Who was removed is told so, and not that there is no quorum.
    // The leader may know a moment later that the one with the new disk is there, and refuses until then.
    eventually("n2 is removed", PATIENCE, || async {
        let (worked, printed) = cluster.operate(0, &["cluster", "remove", "n2"])?;
        ensure!(worked, "{printed}");
        Ok(())
    })
    .await?;
    eventually("n2 knows that it is none", PATIENCE, || async {
        let (status, health) = cluster.nodes[2].health().await?;
        ensure!(status == 503 && health["outside"] == true, "{health}");
        let metrics = cluster.nodes[2].metrics().await?;
        ensure!(metrics.contains("\nunibus_raft_outside 1"), "{metrics}");
        let expires = "\nunibus_route_certificate_not_after_seconds ";
        ensure!(metrics.contains(expires), "{metrics}");
        Ok(())
    })
    .await?;
    eventually("n2 and the leader say what they see", PATIENCE, || async {
        let log = cluster.nodes[2].log_text();
        ensure!(log.contains("no member of its cluster any more"), "{log}");
        let logs: Vec<String> = cluster.nodes.iter().map(|node| node.log_text()).collect();
        ensure!(logs.concat().contains("is no member: it was removed"));
        let (_, health) = cluster.nodes[0].health().await?;
        let peers = health["peers"].as_array().context("peers")?;
        let n2 = peers.iter().find(|peer| peer["server_name"] == "n2");
        ensure!(
            n2.is_some_and(|peer| peer["trouble"].is_string()),
            "{health}"
        );
        Ok(())
    })
    .await
}
