//! The message plane across three processes.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use unibus_testkit::{Cluster, ClusterOptions, PATIENCE, eventually, round_trip};

use crate::binary;

/// Publishes probes until one comes through, so that later messages can't outrun the interest.
async fn await_interest(
    publisher: &async_nats::Client,
    subscriber: &mut async_nats::Subscriber,
    subject: &str,
) -> anyhow::Result<()> {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        publisher
            .publish(subject.to_string(), "probe".into())
            .await?;
        publisher.flush().await?;
        match tokio::time::timeout(Duration::from_millis(100), subscriber.next()).await {
            Ok(Some(_)) => return Ok(()),
            Ok(None) => anyhow::bail!("the subscription ended"),
            Err(_) if tokio::time::Instant::now() > end => anyhow::bail!("no interest in time"),
            Err(_) => {}
        }
    }
}

#[tokio::test]
async fn a_message_crosses_nodes_and_a_reply_comes_back() -> anyhow::Result<()> {
    let cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let near = cluster.client(0).await?;
    let far = cluster.client(2).await?;

    let mut sub = near.subscribe("news.*").await?;
    round_trip(&near).await?;
    await_interest(&far, &mut sub, "news.probe").await?;
    far.publish("news.today", "hello".into()).await?;
    let got = loop {
        let m = tokio::time::timeout(PATIENCE, sub.next())
            .await?
            .context("ended")?;
        if m.subject.as_str() == "news.today" {
            break m;
        }
    };
    assert_eq!(got.payload, "hello");

    let mut service = near.subscribe("echo").await?;
    round_trip(&near).await?;
    let responder = near.clone();
    tokio::spawn(async move {
        while let Some(m) = service.next().await {
            if let Some(reply) = m.reply {
                let _ = responder.publish(reply, m.payload).await;
            }
        }
    });
    // The inbox is subscribed at the moment of the request: its interest has to travel ahead of it.
    eventually("the service is known at the far node", PATIENCE, || async {
        Ok(far.request("echo", "probe".into()).await?)
    })
    .await?;
    for i in 0..200 {
        let fresh = cluster.client(2).await?;
        let answer = fresh.request("echo", format!("r{i}").into()).await?;
        assert_eq!(answer.payload, format!("r{i}"));
    }
    Ok(())
}

#[tokio::test]
async fn a_queue_group_over_three_nodes_gets_each_message_once() -> anyhow::Result<()> {
    const MESSAGES: usize = 10_000;
    let cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let (sender, mut received) = tokio::sync::mpsc::channel::<(usize, usize)>(MESSAGES);
    let mut members = Vec::new();
    for node in 0..3 {
        for _ in 0..2 {
            let client = cluster.client(node).await?;
            let mut sub = client.queue_subscribe("work", "workers".into()).await?;
            round_trip(&client).await?;
            members.push(client);
            let sender = sender.clone();
            tokio::spawn(async move {
                while let Some(m) = sub.next().await {
                    if let Some(n) = std::str::from_utf8(&m.payload)
                        .ok()
                        .and_then(|t| t.parse().ok())
                    {
                        let _ = sender.send((node, n)).await;
                    }
                }
            });
        }
    }
    let mut publishers = Vec::new();
    for node in 0..3 {
        publishers.push(cluster.client(node).await?);
    }
    for (i, publisher) in (0..MESSAGES).zip(publishers.iter().cycle()) {
        publisher.publish("work", i.to_string().into()).await?;
    }
    for publisher in &publishers {
        round_trip(publisher).await?;
    }
    let mut seen = HashSet::new();
    while seen.len() < MESSAGES {
        let (_, n) = tokio::time::timeout(PATIENCE, received.recv())
            .await
            .with_context(|| format!("only {} of {MESSAGES} arrived", seen.len()))?
            .context("channel closed")?;
        assert!(seen.insert(n), "message {n} was delivered twice");
    }
    // Everything has been delivered once; a duplicate would arrive behind a flush of every member.
    for member in &members {
        round_trip(member).await?;
    }
    assert!(
        received.try_recv().is_err(),
        "a message was delivered twice"
    );
    Ok(())
}
