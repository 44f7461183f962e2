//! Consumers in a cluster: at every node, and when the leader dies.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::{self, stream};
use futures::StreamExt;
use unibus_testkit::{Cluster, ClusterOptions, PATIENCE, eventually, next};

use crate::binary;

/// A stream with `count` messages and a durable consumer, made at `node`.
async fn prepare(cluster: &Cluster, node: usize, count: usize) -> anyhow::Result<()> {
    let context = jetstream::new(cluster.client(node).await?);
    let config = stream::Config {
        name: "WORK".into(),
        subjects: vec!["work.>".into()],
        num_replicas: 3,
        ..Default::default()
    };
    let held = context.create_stream(config).await?;
    let mut acks = Vec::new();
    for i in 0..count {
        acks.push(context.publish("work.x", i.to_string().into()).await?);
    }
    for ack in acks {
        ack.await?;
    }
    held.create_consumer(pull::Config {
        durable_name: Some("d".into()),
        ack_wait: Duration::from_secs(2),
        ..Default::default()
    })
    .await?;
    Ok(())
}

async fn consumer(cluster: &Cluster, node: usize) -> anyhow::Result<PullConsumer> {
    let context = jetstream::new(cluster.client(node).await?);
    let held = context.get_stream("WORK").await?;
    held.get_consumer("d")
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))
}

/// Takes some messages and confirms them; the sequences that were confirmed.
async fn work(consumer: &PullConsumer, seen: &mut Vec<u64>) -> anyhow::Result<Vec<u64>> {
    let mut batch = consumer
        .fetch()
        .max_messages(10)
        .expires(Duration::from_secs(2))
        .messages()
        .await?;
    let mut done = Vec::new();
    while let Some(message) = batch.next().await {
        let message = message.map_err(|error| anyhow::anyhow!("{error}"))?;
        let seq = message
            .info()
            .map_err(|error| anyhow::anyhow!("{error}"))?
            .stream_sequence;
        seen.push(seq);
        let confirmed = tokio::time::timeout(Duration::from_secs(3), message.double_ack()).await;
        if let Ok(Ok(())) = confirmed {
            done.push(seq);
        }
    }
    Ok(done)
}

#[tokio::test]
async fn every_node_serves_pulls_and_acknowledgements() -> anyhow::Result<()> {
    let cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    prepare(&cluster, 0, 90).await?;
    let mut done = BTreeSet::new();
    for node in [0, 1, 2, 0, 1, 2] {
        let consumer = consumer(&cluster, node).await?;
        let confirmed = work(&consumer, &mut Vec::new()).await?;
        assert_eq!(confirmed.len(), 10, "node {node}");
        for seq in confirmed {
            assert!(done.insert(seq), "{seq} came twice");
        }
    }
    for node in 0..3 {
        let mut consumer = consumer(&cluster, node).await?;
        let info = consumer.info().await?;
        assert_eq!(
            (info.ack_floor.stream_sequence, info.num_pending),
            (60, 30),
            "node {node}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_dying_leader_loses_no_message_and_no_acknowledgement() -> anyhow::Result<()> {
    const COUNT: usize = 300;
    let mut cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    prepare(&cluster, 0, COUNT).await?;
    let leader = cluster.leader(0).await?;
    let survivor = (leader + 1) % 3;
    let consumer = consumer(&cluster, survivor).await?;
    let (mut done, mut seen) = (BTreeSet::new(), Vec::new());
    let end = Instant::now() + PATIENCE;
    let mut killed = false;
    while done.len() < COUNT {
        anyhow::ensure!(Instant::now() < end, "{} of {COUNT} are done", done.len());
        let mut came = Vec::new();
        // A request may fail while there is no leader.
        let confirmed = work(&consumer, &mut came).await.unwrap_or_default();
        for seq in &came {
            assert!(
                !done.contains(seq),
                "{seq} came again after its acknowledgement"
            );
        }
        seen.extend(came);
        done.extend(confirmed);
        if !killed && done.len() >= COUNT / 3 {
            cluster.nodes[leader].kill();
            killed = true;
        }
        // What was in doubt may come again, but what was confirmed may not.
        let known: BTreeSet<u64> = seen.iter().copied().collect();
        assert!(known.len() >= done.len());
    }
    let all: Vec<u64> = (1..=COUNT as u64).collect();
    assert_eq!(done.into_iter().collect::<Vec<_>>(), all);
    Ok(())
}

#[tokio::test]
async fn a_request_that_waits_is_answered_when_its_leader_dies() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    prepare(&cluster, 0, 0).await?;
    let leader = cluster.leader(0).await?;
    let client = cluster.client((leader + 1) % 3).await?;
    let mut inbox = client.subscribe("waiting.here").await?;
    let body = r#"{"batch":1,"expires":60000000000}"#;
    client
        .publish_with_reply(
            "$JS.API.CONSUMER.MSG.NEXT.WORK.d",
            "waiting.here",
            body.into(),
        )
        .await?;
    eventually("the request waits at the leader", PATIENCE, || async {
        let info = client
            .request("$JS.API.CONSUMER.INFO.WORK.d", "".into())
            .await?;
        let info: serde_json::Value = serde_json::from_slice(&info.payload)?;
        anyhow::ensure!(info["num_waiting"] == 1, "{info}");
        Ok(())
    })
    .await?;
    cluster.nodes[leader].kill();
    let answer = next(&mut inbox).await?;
    assert_eq!(answer.status.context("no status")?.as_u16(), 409);
    assert_eq!(answer.description.as_deref(), Some("Leadership Change"));
    Ok(())
}

/// What a request is answered with, or that nobody serves it.
async fn asked(client: &async_nats::Client, subject: String, body: &str) -> anyhow::Result<u16> {
    let answer = client.request(subject, body.to_owned().into()).await;
    match answer {
        Ok(message) => Ok(message.status.map_or(200, |status| status.as_u16())),
        Err(error) if error.kind() == async_nats::RequestErrorKind::NoResponders => Ok(503),
        Err(error) => Err(error.into()),
    }
}

#[tokio::test]
async fn a_consumer_is_there_at_every_node_once_its_creation_is_answered() -> anyhow::Result<()> {
    let cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    prepare(&cluster, 0, 1).await?;
    let leader = cluster.leader(0).await?;
    let maker = cluster.client(leader).await?;
    let others = [
        cluster.client((leader + 1) % 3).await?,
        cluster.client((leader + 2) % 3).await?,
    ];
    for round in 0..60 {
        let name = format!("c{round}");
        let create = serde_json::json!({ "stream_name": "WORK", "config": { "name": name, "ack_policy": "explicit" } });
        let subject = format!("$JS.API.CONSUMER.CREATE.WORK.{name}");
        maker.request(subject, create.to_string().into()).await?;
        let client = &others[round % 2];
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.WORK.{name}");
        // What is delivered shows the stream's subject, by which a request would not know it.
        let inbox = client.new_inbox();
        let mut messages = client.subscribe(inbox.clone()).await?;
        client
            .publish_with_reply(subject, inbox, "1".into())
            .await?;
        let came = next(&mut messages).await?;
        assert!(
            came.status.is_none(),
            "{name} is not known everywhere: {came:?}"
        );
        // So is what is delivered: its acknowledgement is confirmed.
        let ack = came.reply.context("no reply subject")?.to_string();
        assert_eq!(asked(client, ack, "+ACK").await?, 200, "{name}");
    }
    // What is for no consumer at all has no responders, at every node.
    for client in others.iter().chain([&maker]) {
        for subject in [
            "$JS.API.CONSUMER.MSG.NEXT.WORK.none",
            "$JS.API.CONSUMER.MSG.NEXT.NONE.none",
            "$JS.ACK.WORK.none.1.1.1.1.0",
        ] {
            assert_eq!(
                asked(client, subject.to_owned(), "").await?,
                503,
                "{subject}"
            );
        }
    }
    Ok(())
}
