//! What an operator does with a running cluster: its members, its backups, and nodes with damaged stores.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use async_nats::jetstream::{self, stream};
use unibus_testkit::{Cluster, ClusterOptions, NodeProcess, PATIENCE, eventually, voters};

use crate::binary;

async fn stream_on(client: async_nats::Client) -> anyhow::Result<stream::Stream> {
    let config = stream::Config {
        name: "KEPT".into(),
        subjects: vec!["kept.>".into()],
        allow_direct: true,
        ..Default::default()
    };
    Ok(jetstream::new(client).get_or_create_stream(config).await?)
}

/// Publishes `count` messages; their numbers are their payloads.
async fn publish(client: &async_nats::Client, from: usize, count: usize) -> anyhow::Result<()> {
    let context = jetstream::new(client.clone());
    for n in from..from + count {
        eventually("an acknowledgement", PATIENCE, || async {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Nats-Msg-Id", n.to_string());
            let ack = context
                .publish_with_headers("kept.m", headers, n.to_string().into())
                .await?;
            Ok(tokio::time::timeout(Duration::from_secs(3), ack).await??)
        })
        .await?;
    }
    Ok(())
}

/// Every message from 0 to `count` is there, in order, at the node of `client`.
async fn check(client: async_nats::Client, count: usize) -> anyhow::Result<()> {
    let stream = jetstream::new(client).get_stream("KEPT").await?;
    for n in 0..count {
        let message = stream
            .direct_get(n as u64 + 1)
            .await
            .with_context(|| format!("message {n}"))?;
        ensure!(
            message.payload == n.to_string(),
            "{n}: {:?}",
            message.payload
        );
    }
    Ok(())
}

async fn wait_voters(cluster: &Cluster, node: usize, count: usize) -> anyhow::Result<()> {
    eventually("the number of voters", PATIENCE, || async {
        let (status, health) = cluster.nodes[node].health().await?;
        ensure!(status == 200 && voters(&health) == count, "{health}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_cluster_grows_from_one_to_five_and_back_with_its_data() -> anyhow::Result<()> {
    let options = ClusterOptions {
        nodes: 1,
        ..Default::default()
    };
    let mut cluster = Cluster::start(binary(), options).await?;
    let client = cluster.client(0).await?;
    stream_on(client.clone()).await?;
    publish(&client, 0, 20).await?;
    let mut written = 20;
    for _ in 0..4 {
        let node = cluster.grow()?;
        let (worked, printed) = cluster.operate(0, &["cluster", "add", &format!("n{node}")])?;
        // Before it is connected there is nobody to add; it joins by itself all the same.
        ensure!(worked || printed.contains("is connected"), "{printed}");
        wait_voters(&cluster, 0, node + 1).await?;
        let (worked, printed) = cluster.operate(node, &["cluster", "add", &format!("n{node}")])?;
        ensure!(worked, "{printed}");
        publish(&client, written, 5).await?;
        written += 5;
    }
    check(cluster.client(4).await?, written).await?;
    for gone in [4, 3, 2, 1] {
        let name = format!("n{gone}");
        let (worked, printed) = cluster.operate(0, &["cluster", "remove", &name])?;
        ensure!(worked && printed.contains("is removed"), "{printed}");
        cluster.nodes[gone].kill();
        wait_voters(&cluster, 0, gone).await?;
        publish(&client, written, 5).await?;
        written += 5;
    }
    let (worked, printed) = cluster.operate(0, &["cluster", "remove", "n0"])?;
    ensure!(!worked && printed.contains("only voter"), "{printed}");
    check(client, written).await?;
    // What was removed has a store of the time before, and is told what to do with it.
    cluster.nodes[1].start()?;
    eventually("n1 is connected again", PATIENCE, || async {
        // The others that were removed may still count as connected for a moment.
        let (_, printed) = cluster.operate(0, &["cluster", "status"])?;
        let of_n1 = printed.lines().find(|line| line.contains("n1"));
        let known = of_n1.is_some_and(|line| line.contains("has a store of its own"));
        ensure!(known, "{printed}");
        Ok(())
    })
    .await?;
    let (worked, printed) = cluster.operate(0, &["cluster", "add", "n1"])?;
    ensure!(
        !worked && printed.contains("move its data folder away"),
        "{printed}"
    );
    Ok(())
}

#[tokio::test]
async fn a_dead_node_is_replaced_and_a_quorum_is_not_given_away() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let client = cluster.client(0).await?;
    stream_on(client.clone()).await?;
    publish(&client, 0, 20).await?;
    let (worked, printed) = cluster.operate(0, &["cluster", "replace", "n2", "--with", "n9"])?;
    ensure!(!worked && printed.contains("no node named n9"), "{printed}");
    cluster.nodes[2].kill();
    eventually("n2 is known to be gone", PATIENCE, || async {
        let (_, printed) = cluster.operate(0, &["cluster", "status"])?;
        ensure!(
            printed.contains("NOT CONNECTED") && printed.contains("quorum yes"),
            "{printed}"
        );
        Ok(())
    })
    .await?;
    let (worked, printed) = cluster.operate(0, &["cluster", "remove", "n1"])?;
    ensure!(
        !worked && printed.contains("--accept-quorum-loss"),
        "{printed}"
    );
    let new = cluster.grow()?;
    cluster.nodes[new].ready(PATIENCE).await?;
    // One more voter, and three of four would have to be there.
    let log =
        |cluster: &Cluster| -> String { cluster.nodes.iter().map(NodeProcess::log_text).collect() };
    eventually("the leader says why n3 has no vote", PATIENCE, || {
        let said = log(&cluster).contains("no vote yet, because voters are away: n2");
        async move { if said { Ok(()) } else { bail!("not yet") } }
    })
    .await?;
    let (_, health) = cluster.nodes[0].health().await?;
    ensure!(voters(&health) == 3, "{health}");
    let (worked, printed) = eventually("the replacement", PATIENCE, || async {
        let done = cluster.operate(0, &["cluster", "replace", "n2", "--with", "n3"])?;
        ensure!(done.0, "{}", done.1);
        Ok(done)
    })
    .await?;
    ensure!(worked && printed.contains("n3"), "{printed}");
    wait_voters(&cluster, 0, 3).await?;
    let (_, printed) = cluster.operate(1, &["cluster", "status", "--json"])?;
    let status: serde_json::Value = serde_json::from_str(&printed)?;
    let names: Vec<&str> = status["members"]
        .as_array()
        .context("members")?
        .iter()
        .filter_map(|member| member["name"].as_str())
        .collect();
    ensure!(names.len() == 3 && !names.contains(&"n2"), "{names:?}");
    check(cluster.client(new).await?, 20).await
}

fn log_of(data: &Path) -> anyhow::Result<PathBuf> {
    let entries = std::fs::read_dir(data.join("store/log"))?;
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let segments = files.filter(|path| path.extension().is_some_and(|e| e == "wal"));
    segments.max().context("no segment")
}

fn flip(path: &Path) -> anyhow::Result<()> {
    let mut bytes = std::fs::read(path)?;
    let used = bytes.iter().rposition(|byte| *byte != 0).context("empty")?;
    bytes[used / 2] ^= 1;
    Ok(std::fs::write(path, bytes)?)
}

#[tokio::test]
async fn a_node_with_a_damaged_log_comes_back_as_a_new_member_with_everything() -> anyhow::Result<()>
{
    let mut cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let client = cluster.client(0).await?;
    stream_on(client.clone()).await?;
    publish(&client, 0, 30).await?;
    let (_, before) = cluster.nodes[2].health().await?;
    cluster.nodes[2].kill();
    publish(&client, 30, 5).await?;
    flip(&log_of(&cluster.data_dir(2))?)?;
    cluster.nodes[2].start()?;
    cluster.nodes[2].ready(PATIENCE).await?;
    let (_, after) = cluster.nodes[2].health().await?;
    ensure!(
        before["node"] != after["node"],
        "it must not vote under its old identity"
    );
    wait_voters(&cluster, 2, 3).await?;
    check(cluster.client(2).await?, 35).await?;
    let log = cluster.nodes[2].log_text();
    ensure!(log.contains(".wal is damaged at byte"), "{log}");
    ensure!(cluster.data_dir(2).join("damaged").is_dir());
    // It counts: with another node gone it is part of the majority.
    cluster.nodes[1].kill();
    publish(&cluster.client(2).await?, 35, 3).await?;
    check(cluster.client(2).await?, 38).await
}

fn run(args: &[&str]) -> anyhow::Result<(bool, String)> {
    let output = Command::new(binary()).args(args).output()?;
    let mut printed = String::from_utf8_lossy(&output.stdout).into_owned();
    printed.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), printed))
}

#[tokio::test]
async fn a_single_node_with_a_damaged_log_refuses_and_is_recovered_on_demand() -> anyhow::Result<()>
{
    let dir = tempfile::tempdir()?;
    let mut node = NodeProcess::single(binary(), dir.path())?;
    node = node.with_args(vec!["--server-name".into(), "one".into()]);
    node.start()?;
    node.ready(PATIENCE).await?;
    let client = async_nats::connect(node.url()).await?;
    stream_on(client.clone()).await?;
    publish(&client, 0, 60).await?;
    let code = node.stop(Duration::from_secs(20)).await?;
    ensure!(code == Some(0));
    let data = dir.path().join("data");
    flip(&log_of(&data)?)?;
    node.start()?;
    eventually("it ends", PATIENCE, || {
        let is_running = node.is_running();
        async move { if is_running { bail!("it runs") } else { Ok(()) } }
    })
    .await?;
    let log = node.log_text();
    ensure!(
        log.contains("is damaged at byte") && log.contains("unibus-node recover"),
        "{log}"
    );
    node.kill();
    let data = data.display().to_string();
    let (worked, printed) = run(&["recover", "--data-dir", &data])?;
    ensure!(
        !worked && printed.contains("--accept-data-loss"),
        "{printed}"
    );
    let accept = [
        "recover",
        "--data-dir",
        &data,
        "--server-name",
        "one",
        "--accept-data-loss",
    ];
    let (worked, printed) = run(&accept)?;
    ensure!(worked && printed.contains("recovered"), "{printed}");
    node.start()?;
    node.ready(PATIENCE).await?;
    let client = async_nats::connect(node.url()).await?;
    let mut stream = jetstream::new(client.clone()).get_stream("KEPT").await?;
    let kept = stream.info().await?.state.messages as usize;
    ensure!(kept > 0 && kept < 60, "a prefix is left: {kept}");
    check(client.clone(), kept).await?;
    publish(&client, kept, 5).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::too_many_lines, reason = "one story, told in order")]
async fn a_backup_under_load_is_restored_into_one_node_and_into_three() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let client = cluster.client(0).await?;
    stream_on(client.clone()).await?;
    publish(&client, 0, 50).await?;
    let file = cluster.dir().join("bus.backup");
    let path = file.display().to_string();
    let (made, writing) = tokio::join!(
        async { tokio::task::block_in_place(|| cluster.operate(1, &["backup", "create", &path])) },
        publish(&client, 50, 40),
    );
    writing?;
    let (worked, printed) = made?;
    ensure!(worked, "{printed}");
    let (worked, printed) = cluster.operate(1, &["backup", "create", &path])?;
    ensure!(!worked, "a backup is never overwritten: {printed}");
    let (worked, printed) = run(&["backup", "verify", &path])?;
    ensure!(worked && printed.contains("whole"), "{printed}");
    for node in &mut cluster.nodes {
        node.kill();
    }
    // A new cluster with other names: one node that has the backup, two that join it.
    let mut other = Cluster::prepare(binary(), ClusterOptions::default())?;
    let data = other.data_dir(0).display().to_string();
    let restore = [
        "backup",
        "restore",
        &path,
        "--data-dir",
        &data,
        "--server-name",
        "n0",
    ];
    let (worked, printed) = run(&restore)?;
    ensure!(worked && printed.contains("restored"), "{printed}");
    let (worked, printed) = run(&restore)?;
    ensure!(!worked && printed.contains("is there"), "{printed}");
    other.take_user(&cluster);
    other.nodes[0].start()?;
    other.nodes[0].ready(PATIENCE).await?;
    let mut stream = jetstream::new(other.client(0).await?)
        .get_stream("KEPT")
        .await?;
    let kept = stream.info().await?.state.messages as usize;
    ensure!((50..=90).contains(&kept), "{kept}");
    check(other.client(0).await?, kept).await?;
    for node in [1, 2] {
        other.nodes[node].start()?;
        other.nodes[node].ready(PATIENCE).await?;
    }
    wait_voters(&other, 2, 3).await?;
    check(other.client(2).await?, kept).await?;
    other.nodes[0].kill();
    publish(&other.client(2).await?, kept, 3).await?;
    check(other.client(1).await?, kept + 3).await?;
    // A backup that was changed is not restored.
    let mut bytes = std::fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes)?;
    let (worked, printed) = run(&["backup", "verify", &path])?;
    ensure!(!worked && printed.contains("no whole backup"), "{printed}");
    let empty = cluster.dir().join("empty").display().to_string();
    let (worked, _) = run(&[
        "backup",
        "restore",
        &path,
        "--data-dir",
        &empty,
        "--server-name",
        "x",
    ])?;
    ensure!(!worked && !Path::new(&empty).join("store").exists());
    Ok(())
}
