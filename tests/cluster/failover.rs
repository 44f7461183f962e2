//! What survives when processes die.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use async_nats::jetstream::{self, kv, stream};
use futures::TryStreamExt;
use unibus_testkit::{Cluster, ClusterOptions, PATIENCE, eventually, voters};

use crate::binary;

async fn bucket(cluster: &Cluster, node: usize, name: &str) -> anyhow::Result<kv::Store> {
    let context = jetstream::new(cluster.client(node).await?);
    let config = kv::Config {
        bucket: name.into(),
        num_replicas: 3,
        ..Default::default()
    };
    match context.create_key_value(config).await {
        Ok(store) => Ok(store),
        Err(_) => Ok(context.get_key_value(name).await?),
    }
}

/// Writes `KEY-0, KEY-1, …` until told to stop and returns what was acknowledged, by revision.
async fn write_until(
    context: jetstream::Context,
    writer: usize,
    stop: Arc<AtomicBool>,
) -> BTreeMap<u64, String> {
    let mut acknowledged = BTreeMap::new();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let value = format!("{writer}-{n}");
        n += 1;
        let publish = context.publish(format!("load.{writer}"), value.clone().into());
        let Ok(Ok(ack)) = tokio::time::timeout(Duration::from_secs(3), publish).await else {
            continue;
        };
        if let Ok(Ok(ack)) = tokio::time::timeout(Duration::from_secs(3), ack).await {
            acknowledged.insert(ack.sequence, value);
        }
    }
    acknowledged
}

#[tokio::test]
async fn killing_the_leader_loses_nothing_acknowledged() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let leader = cluster.leader(0).await?;
    let survivor = (leader + 1) % 3;
    let context = jetstream::new(cluster.client(survivor).await?);
    let config = stream::Config {
        name: "LOAD".into(),
        subjects: vec!["load.>".into()],
        num_replicas: 3,
        allow_direct: true,
        ..Default::default()
    };
    context.create_stream(config).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|w| tokio::spawn(write_until(context.clone(), w, stop.clone())))
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await; // load before the kill
    cluster.nodes[leader].kill();
    let killed = Instant::now();
    eventually("a write after the kill", PATIENCE, || async {
        let ack = context.publish("load.probe", "after".into()).await?;
        Ok(tokio::time::timeout(Duration::from_secs(2), ack).await??)
    })
    .await?;
    println!("writes succeed again {:?} after the kill", killed.elapsed());
    tokio::time::sleep(Duration::from_millis(500)).await; // load after it, too
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeMap::new();
    for writer in writers {
        for (seq, value) in writer.await? {
            assert!(
                acknowledged.insert(seq, value).is_none(),
                "sequence {seq} was given twice"
            );
        }
    }
    assert!(
        acknowledged.len() > 100,
        "too little load to prove anything: {}",
        acknowledged.len()
    );

    cluster.nodes[leader].start()?;
    cluster.nodes[leader].ready(PATIENCE).await?;
    for node in [survivor, leader] {
        let stream = jetstream::new(cluster.client(node).await?)
            .get_stream("LOAD")
            .await?;
        for (seq, value) in &acknowledged {
            let message = stream
                .direct_get(*seq)
                .await
                .with_context(|| format!("sequence {seq}"))?;
            assert_eq!(message.payload, value.as_bytes());
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_empty_node_is_fed_a_snapshot_and_takes_part() -> anyhow::Result<()> {
    let options = ClusterOptions {
        checkpoint_log_mb: Some(1),
        ..Default::default()
    };
    let mut cluster = Cluster::start(binary(), options).await?;
    let store = bucket(&cluster, 1, "data").await?;
    for i in 0..800 {
        store.put(format!("k{i}"), vec![b'x'; 4096].into()).await?;
    }
    cluster.nodes[2].kill();
    std::fs::remove_dir_all(cluster.data_dir(2))?;
    for i in 800..900 {
        // The killed node may have led: then the first of these waits for an election.
        eventually("a write without the killed node", PATIENCE, || async {
            Ok(store.put(format!("k{i}"), vec![b'y'; 4096].into()).await?)
        })
        .await?;
    }
    cluster.nodes[2].start()?;
    cluster.nodes[2].ready(PATIENCE).await?;
    let here = bucket(&cluster, 2, "data").await?;
    let keys: Vec<String> = here.keys().await?.try_collect().await?;
    assert_eq!(keys.len(), 900);
    // It counts as a voter under its new identity: with another node gone it makes the majority.
    eventually("three voters again", PATIENCE, || async {
        let (_, health) = cluster.nodes[2].health().await?;
        let voters = voters(&health);
        if voters == 3 {
            Ok(())
        } else {
            bail!("{voters} voters: {health}")
        }
    })
    .await?;
    let leader = cluster.leader(2).await?;
    let other = if leader == 2 { 1 } else { leader };
    cluster.nodes[other].kill();
    eventually(
        "a write with the new node in the majority",
        PATIENCE,
        || async {
            here.put("last", "word".into()).await?;
            Ok(())
        },
    )
    .await?;
    assert_eq!(here.get("last").await?, Some("word".into()));
    Ok(())
}

#[tokio::test]
async fn a_stopped_cluster_starts_again_with_its_data_in_any_order() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let store = bucket(&cluster, 0, "kept").await?;
    for i in 0..50 {
        store.put(format!("k{i}"), format!("v{i}").into()).await?;
    }
    for node in &mut cluster.nodes {
        assert_eq!(node.stop(Duration::from_secs(20)).await?, Some(0));
    }
    for i in [2, 0, 1] {
        cluster.nodes[i].start()?;
    }
    cluster.ready().await?;
    for node in 0..3 {
        let store = bucket(&cluster, node, "kept").await?;
        for i in 0..50 {
            assert_eq!(
                store.get(format!("k{i}")).await?,
                Some(format!("v{i}").into())
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn without_a_majority_writes_fail_quickly_and_health_says_so() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let store = bucket(&cluster, 0, "alone").await?;
    store.put("k", "v".into()).await?;
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    eventually("503 on /healthz", PATIENCE, || async {
        match cluster.nodes[0].health().await? {
            (503, _) => Ok(()),
            (status, body) => bail!("{status}: {body}"),
        }
    })
    .await?;
    let refused = tokio::time::timeout(Duration::from_secs(10), store.put("k", "w".into())).await?;
    assert!(
        refused.is_err(),
        "a write was acknowledged without a majority"
    );
    cluster.nodes[1].start()?;
    cluster.nodes[1].ready(PATIENCE).await?;
    cluster.nodes[0].ready(PATIENCE).await?;
    store.put("k", "x".into()).await?;
    Ok(())
}
