//! The replicated store across three processes, through async-nats.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream::object_store::{self, ObjectStore, UpdateMetadata};
use async_nats::jetstream::{self, kv};
use futures::{StreamExt, TryStreamExt};
use tokio::io::AsyncReadExt;
use unibus_testkit::{Cluster, ClusterOptions, PATIENCE, eventually, next};

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

/// Everything that a bucket can do, about keys of `who` only, from the beginning.
async fn use_bucket(store: &kv::Store, who: &str) -> anyhow::Result<()> {
    let key = format!("{who}.k");
    let created = store.create(&key, "a".into()).await?;
    ensure!(store.create(&key, "again".into()).await.is_err());
    let updated = store.update(&key, "b".into(), created).await?;
    ensure!(store.update(&key, "c".into(), created).await.is_err());
    ensure!(updated > created);
    store.put(&key, "d".into()).await?;
    ensure!(store.get(&key).await? == Some("d".into()));
    let entry = store.entry_for_revision(&key, updated).await?;
    ensure!(entry.context("no such revision")?.value == "b");
    store.delete(&key).await?;
    ensure!(store.get(&key).await?.is_none());
    let history: Vec<_> = store.history(&key).await?.try_collect().await?;
    let values: Vec<_> = history.iter().map(|e| e.value.clone()).collect();
    ensure!(
        values.ends_with(&["a".into(), "b".into(), "d".into(), "".into()]),
        "{values:?}"
    );
    let mut watch = store.watch_from_revision(&key, updated).await?;
    for value in ["b", "d", ""] {
        let seen = tokio::time::timeout(Duration::from_secs(5), watch.next()).await?;
        ensure!(seen.context("the watch ended")??.value == value);
    }
    store.purge(&key).await?;
    ensure!(store.history(&key).await?.count().await == 1);
    store.put(format!("{who}.kept"), "x".into()).await?;
    let several = [format!("{who}.kept"), format!("{who}.none")];
    let mut watch = store.watch_many_with_history(several).await?;
    let seen = tokio::time::timeout(Duration::from_secs(5), watch.next()).await?;
    ensure!(seen.context("the watch ended")??.value == "x");
    let keys: Vec<String> = store.keys().await?.try_collect().await?;
    let mine: Vec<_> = keys.iter().filter(|key| key.starts_with(who)).collect();
    ensure!(mine == [&format!("{who}.kept")], "{mine:?}");
    ensure!(store.status().await?.history() == 5);
    Ok(())
}

/// Everything that an object store can do, about objects of `who` only, from the beginning.
async fn use_objects(store: &ObjectStore, who: &str) -> anyhow::Result<()> {
    let data: Vec<u8> = (0..300_000_usize).map(|at| (at / 7 % 251) as u8).collect();
    let name = format!("{who}-data");
    let put = store.put(name.as_str(), &mut &data[..]).await?;
    ensure!((put.size, put.chunks) == (data.len(), 3), "{put:?}");
    let mut read = Vec::new();
    store.get(&name).await?.read_to_end(&mut read).await?;
    ensure!(read == data, "{} bytes came back", read.len());
    let link = format!("{who}-link");
    store.add_link(link.clone(), &put).await?;
    read.clear();
    store.get(&link).await?.read_to_end(&mut read).await?;
    ensure!(
        read == data,
        "{} bytes came back through the link",
        read.len()
    );
    let renamed = format!("{who}-renamed");
    let change = UpdateMetadata {
        name: renamed.clone(),
        description: Some("changed".into()),
        ..Default::default()
    };
    store.update_metadata(&name, change).await?;
    ensure!(store.info(&renamed).await?.description.as_deref() == Some("changed"));
    let listed: Vec<_> = store.list().await?.try_collect().await?;
    let mine = listed
        .iter()
        .filter(|info| !info.deleted && info.name.starts_with(who))
        .count();
    ensure!(mine == 2, "{mine} objects are listed");
    store.delete(&link).await?;
    store.delete(&renamed).await?;
    ensure!(store.get(&renamed).await.is_err());
    Ok(())
}

#[tokio::test]
async fn every_operation_works_at_every_node_while_the_leader_dies() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let first = jetstream::new(cluster.client(0).await?);
    let buckets = stores(&cluster, "used").await?;
    let config = object_store::Config {
        bucket: "files".into(),
        num_replicas: 3,
        ..Default::default()
    };
    first.create_object_store(config).await?;
    let mut files = Vec::new();
    for (node, bucket) in buckets.iter().enumerate() {
        let context = jetstream::new(cluster.client(node).await?);
        let store = context.get_object_store("files").await?;
        let who = format!("calm{node}");
        use_bucket(bucket, &who).await?;
        use_objects(&store, &who).await?;
        files.push(store);
    }
    let leader = cluster.leader(0).await?;
    cluster.nodes[leader].kill();
    let survivors = (0..3).filter(|node| *node != leader);
    let used = survivors.map(|node| {
        let (bucket, files) = (&buckets[node], &files[node]);
        async move {
            // An operation may fail while there is no leader: whoever tries again, under other names for
            // what is in doubt, gets what he asks for.
            let attempt = AtomicUsize::new(0);
            let who = || {
                let attempt = attempt.fetch_add(1, Ordering::Relaxed);
                format!("kill{node}-{attempt}-")
            };
            eventually("all of a bucket", PATIENCE, || {
                let who = who();
                async move { use_bucket(bucket, &who).await }
            })
            .await?;
            eventually("all of an object store", PATIENCE, || {
                let who = who();
                async move { use_objects(files, &who).await }
            })
            .await
        }
    });
    futures::future::try_join_all(used).await?;
    cluster.nodes[leader].start()?;
    cluster.nodes[leader].ready(PATIENCE).await?;
    let context = jetstream::new(cluster.client(leader).await?);
    let mut files = context.get_object_store("files").await?;
    use_bucket(&context.get_key_value("used").await?, "back").await?;
    use_objects(&files, "back").await?;
    files.seal().await?;
    ensure!(
        files.put("late", &mut &b"x"[..]).await.is_err(),
        "a sealed store took an object"
    );
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
