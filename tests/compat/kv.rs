//! Key-value buckets, as async-nats uses them.

use anyhow::Context;
use async_nats::jetstream::{self, kv};
use futures::TryStreamExt;
use unibus_testkit::next;

async fn bucket(
    node: &unibus_testkit::NodeProcess,
    config: kv::Config,
) -> anyhow::Result<kv::Store> {
    Ok(jetstream::new(crate::client(node).await?)
        .create_key_value(config)
        .await?)
}

fn named(bucket: &str) -> kv::Config {
    kv::Config {
        bucket: bucket.into(),
        history: 10,
        ..Default::default()
    }
}

#[tokio::test]
async fn revisions_guard_creates_and_updates() -> anyhow::Result<()> {
    let (node, _dir) = crate::node().await?;
    let store = bucket(&node, named("rev")).await?;
    let first = store.create("k", "1".into()).await?;
    let error = store
        .create("k", "1".into())
        .await
        .err()
        .context("created twice")?;
    assert_eq!(error.kind(), kv::CreateErrorKind::AlreadyExists);
    let second = store.update("k", "2".into(), first).await?;
    let error = store
        .update("k", "3".into(), first)
        .await
        .err()
        .context("stale update")?;
    assert_eq!(error.kind(), kv::UpdateErrorKind::WrongLastRevision);
    let entry = store.entry("k").await?.context("missing")?;
    assert_eq!((entry.revision, entry.value), (second, "2".into()));
    let old = store
        .entry_for_revision("k", first)
        .await?
        .context("history")?;
    assert_eq!(old.value, "1");
    store.delete("k").await?;
    assert_eq!(store.get("k").await?, None);
    // A deleted key may be created again.
    store.create("k", "4".into()).await?;
    assert_eq!(store.get("k").await?, Some("4".into()));
    Ok(())
}

#[tokio::test]
async fn history_is_bounded_and_keys_leave_tombstones_out() -> anyhow::Result<()> {
    let (node, _dir) = crate::node().await?;
    let store = bucket(
        &node,
        kv::Config {
            history: 3,
            ..named("hist")
        },
    )
    .await?;
    for i in 0..5 {
        store.put("k", i.to_string().into()).await?;
    }
    let history: Vec<_> = store.history("k").await?.try_collect().await?;
    assert_eq!(
        history.iter().map(|e| e.value.clone()).collect::<Vec<_>>(),
        ["2", "3", "4"]
    );
    for i in 0..100 {
        store.put(format!("many.{i}"), "x".into()).await?;
    }
    store.delete("many.7").await?;
    store.purge("many.8").await?;
    let keys: Vec<String> = store.keys().await?.try_collect().await?;
    assert_eq!(keys.len(), 99);
    assert!(!keys.contains(&"many.7".to_string()) && !keys.contains(&"many.8".to_string()));
    // A store's own status is what was true when it was opened, so ask for the stream again.
    let context = jetstream::new(crate::client(&node).await?);
    let stream = context.get_stream("KV_hist").await?;
    // k keeps 3, many.7 its value and its tombstone, many.8 its purge marker, 98 others one each.
    assert_eq!(stream.cached_info().state.messages, 3 + 2 + 1 + 98);
    Ok(())
}

#[tokio::test]
async fn watches_see_the_present_and_then_every_change() -> anyhow::Result<()> {
    let (node, _dir) = crate::node().await?;
    let store = bucket(&node, named("watch")).await?;
    store.put("a", "old".into()).await?;
    store.put("a", "present".into()).await?;
    let mut watch = store.watch_with_history(">").await?;
    let first = next(&mut watch).await??;
    assert_eq!((first.value.clone(), first.delta), ("present".into(), 0));
    for i in 0..200 {
        store.put(format!("b{i}"), i.to_string().into()).await?;
    }
    for i in 0..200 {
        let entry = next(&mut watch).await??;
        assert_eq!(
            (entry.key, entry.value),
            (format!("b{i}"), i.to_string().into())
        );
    }
    store.delete("a").await?;
    let gone = next(&mut watch).await??;
    assert_eq!(
        (gone.key.as_str(), gone.operation),
        ("a", kv::Operation::Delete)
    );
    Ok(())
}

#[tokio::test]
async fn buckets_are_created_found_and_deleted() -> anyhow::Result<()> {
    let (node, _dir) = crate::node().await?;
    let context = jetstream::new(crate::client(&node).await?);
    assert!(context.get_key_value("none").await.is_err());
    context.create_key_value(named("one")).await?;
    // The same configuration again is the same bucket; another one is refused.
    context.create_key_value(named("one")).await?;
    assert!(
        context
            .create_key_value(kv::Config {
                history: 2,
                ..named("one")
            })
            .await
            .is_err()
    );
    let store = context.get_key_value("one").await?;
    store.put("k", "v".into()).await?;
    context.delete_key_value("one").await?;
    assert!(context.get_key_value("one").await.is_err());
    Ok(())
}

#[tokio::test]
async fn values_survive_a_kill() -> anyhow::Result<()> {
    let (mut node, _dir) = crate::node().await?;
    let store = bucket(&node, named("kept")).await?;
    for i in 0..200 {
        store
            .put(format!("k{i}"), vec![b'v'; i * 50].into())
            .await?;
    }
    node.kill();
    node.start()?;
    node.ready(unibus_testkit::PATIENCE).await?;
    let store = jetstream::new(crate::client(&node).await?)
        .get_key_value("kept")
        .await?;
    for i in 0..200 {
        assert_eq!(
            store.get(format!("k{i}")).await?,
            Some(vec![b'v'; i * 50].into())
        );
    }
    Ok(())
}
