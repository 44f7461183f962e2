//! The replicated store across three processes, through async-nats.

use anyhow::Context;
use async_nats::jetstream::{self, kv};
use futures::{StreamExt, TryStreamExt};
use unibus_testkit::{Cluster, ClusterOptions, next};

use crate::binary;

async fn stores(cluster: &Cluster, bucket: &str) -> anyhow::Result<Vec<kv::Store>> {
    let first = jetstream::new(cluster.client(0).await?);
    let config = kv::Config {
        bucket: bucket.into(),
        history: 5,
        num_replicas: 3,
        ..Default::default()
    };
    first.create_key_value(config).await?;
    let mut all = Vec::new();
    for node in 0..3 {
        let context = jetstream::new(cluster.client(node).await?);
        all.push(context.get_key_value(bucket).await?);
    }
    Ok(all)
}

#[tokio::test]
async fn a_key_written_at_any_node_is_read_at_every_other_at_once() -> anyhow::Result<()> {
    const ROUNDS: usize = 1_000;
    let cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let stores = stores(&cluster, "fresh").await?;
    for round in 0..ROUNDS {
        let writer = &stores[round % 3];
        let value = format!("v{round}");
        let revision = writer.put("key", value.clone().into()).await?;
        for offset in 1..3 {
            let reader = &stores[(round + offset) % 3];
            let entry = reader.entry("key").await?.context("the key is missing")?;
            assert_eq!(
                (entry.revision, entry.value),
                (revision, value.clone().into())
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_kv_operation_works_at_every_node() -> anyhow::Result<()> {
    let cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let stores = stores(&cluster, "ops").await?;
    for (i, store) in stores.iter().enumerate() {
        let key = format!("k{i}");
        let mut watch = store.watch(&key).await?;
        let created = store.create(&key, "a".into()).await?;
        assert!(store.create(&key, "again".into()).await.is_err());
        let updated = store.update(&key, "b".into(), created).await?;
        assert!(store.update(&key, "c".into(), created).await.is_err());
        assert!(updated > created);
        store.put(&key, "d".into()).await?;
        store.delete(&key).await?;
        assert_eq!(store.get(&key).await?, None);
        let history: Vec<_> = store.history(&key).await?.try_collect().await?;
        let values: Vec<_> = history.iter().map(|e| e.value.clone()).collect();
        assert_eq!(values, ["a", "b", "d", ""]);
        let mut watched = Vec::new();
        while watched.len() < 4 {
            watched.push(next(&mut watch).await??.value);
        }
        assert_eq!(watched, ["a", "b", "d", ""]);
        store.purge(&key).await?;
        assert_eq!(store.history(&key).await?.count().await, 1);
        store.put(format!("keep{i}"), "x".into()).await?;
    }
    for store in &stores {
        let mut keys: Vec<String> = store.keys().await?.try_collect().await?;
        keys.sort();
        assert_eq!(keys, ["keep0", "keep1", "keep2"]);
        assert_eq!(store.status().await?.history(), 5);
    }
    let context = jetstream::new(cluster.client(2).await?);
    context.delete_key_value("ops").await?;
    assert!(context.get_key_value("ops").await.is_err());
    Ok(())
}
