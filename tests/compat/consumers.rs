//! Consumers, as async-nats uses them: pulls, acknowledgements, redelivery, work queues.

use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{self, RetentionPolicy, Stream};
use async_nats::jetstream::{self, AckKind, Message};
use bytes::Bytes;
use futures::StreamExt;
use unibus_testkit::{NodeProcess, PATIENCE, eventually, next};

async fn stream(node: &NodeProcess, retention: RetentionPolicy) -> anyhow::Result<Stream> {
    let context = jetstream::new(crate::client(node).await?);
    let config = stream::Config {
        name: "S".into(),
        subjects: vec!["s.>".into()],
        retention,
        ..Default::default()
    };
    Ok(context.get_or_create_stream(config).await?)
}

async fn publish(node: &NodeProcess, count: usize) -> anyhow::Result<()> {
    let context = jetstream::new(crate::client(node).await?);
    for i in 0..count {
        context.publish("s.a", i.to_string().into()).await?.await?;
    }
    Ok(())
}

fn durable(name: &str) -> pull::Config {
    pull::Config {
        durable_name: Some(name.into()),
        ack_policy: AckPolicy::Explicit,
        ..Default::default()
    }
}

/// What is there now, up to `max`.
async fn fetch(consumer: &PullConsumer, max: usize) -> anyhow::Result<Vec<Message>> {
    let mut messages = consumer.fetch().max_messages(max).messages().await?;
    let mut fetched = Vec::new();
    while let Some(message) = messages.next().await {
        fetched.push(message.map_err(|error| anyhow::anyhow!("{error}"))?);
    }
    Ok(fetched)
}

async fn double_ack(message: &Message) -> anyhow::Result<()> {
    message
        .double_ack()
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))
}

async fn ack_with(message: &Message, kind: AckKind) -> anyhow::Result<()> {
    message
        .ack_with(kind)
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))
}

fn seq(message: &Message) -> anyhow::Result<(u64, i64)> {
    let info = message.info().map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok((info.stream_sequence, info.delivered))
}

#[tokio::test]
async fn what_is_acknowledged_never_comes_again() -> anyhow::Result<()> {
    let (mut node, _dir) = crate::node().await?;
    let held = stream(&node, RetentionPolicy::Limits).await?;
    publish(&node, 10).await?;
    let consumer = held.create_consumer(durable("d")).await?;
    let messages = fetch(&consumer, 6).await?;
    assert_eq!(messages.len(), 6);
    for message in &messages[..4] {
        double_ack(message).await?;
    }
    // Killed at once: what was confirmed is on disk.
    node.kill();
    node.start()?;
    node.ready(PATIENCE).await?;
    let held = stream(&node, RetentionPolicy::Limits).await?;
    let mut consumer: PullConsumer = held
        .get_consumer("d")
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let info = consumer.info().await?;
    assert_eq!(info.ack_floor.stream_sequence, 4);
    let again: Vec<u64> = fetch(&consumer, 10)
        .await?
        .iter()
        .map(|message| seq(message).map(|(seq, _)| seq))
        .collect::<Result<_, _>>()?;
    assert!(again.iter().all(|seq| *seq > 4), "{again:?}");
    assert!(again.contains(&10), "{again:?}");
    Ok(())
}

#[tokio::test]
async fn refused_messages_come_again_and_terminated_ones_do_not() -> anyhow::Result<()> {
    let (node, _dir) = crate::node().await?;
    let held = stream(&node, RetentionPolicy::Limits).await?;
    publish(&node, 4).await?;
    let config = pull::Config {
        ack_wait: Duration::from_millis(700),
        max_deliver: 2,
        ..durable("d")
    };
    let mut advisories = crate::client(&node)
        .await?
        .subscribe("$JS.EVENT.ADVISORY.CONSUMER.>")
        .await?;
    let mut consumer = held.create_consumer(config).await?;
    let messages = fetch(&consumer, 4).await?;
    ack_with(&messages[0], AckKind::Nak(None)).await?;
    ack_with(&messages[1], AckKind::Term).await?;
    double_ack(&messages[2]).await?;
    let again = fetch(&consumer, 4).await?;
    assert_eq!(again.len(), 1);
    assert_eq!(seq(&again[0])?, (1, 2), "refused: at once");
    let late = eventually("the unanswered message", PATIENCE, || async {
        let fetched = fetch(&consumer, 4).await?;
        fetched.into_iter().next().context("not yet")
    })
    .await?;
    assert_eq!(seq(&late)?, (4, 2), "unanswered: after its time");
    let mut told = Vec::new();
    while told
        .iter()
        .filter(|kind: &&String| kind.ends_with("max_deliver"))
        .count()
        < 2
    {
        let advisory: serde_json::Value =
            serde_json::from_slice(&next(&mut advisories).await?.payload)?;
        assert!(advisory["id"].is_string() && advisory["timestamp"].is_string());
        told.push(advisory["type"].as_str().unwrap_or_default().to_owned());
    }
    for kind in ["consumer_action", "nak", "terminated"] {
        assert!(
            told.iter().any(|told| told.ends_with(kind)),
            "{kind}: {told:?}"
        );
    }
    let info = consumer.info().await?;
    assert_eq!((info.num_ack_pending, info.num_pending), (0, 0));
    Ok(())
}

#[tokio::test]
async fn a_work_queue_keeps_what_is_not_done() -> anyhow::Result<()> {
    let (node, _dir) = crate::node().await?;
    let mut held = stream(&node, RetentionPolicy::WorkQueue).await?;
    let consumer = held.create_consumer(durable("d")).await?;
    publish(&node, 5).await?;
    let messages = fetch(&consumer, 3).await?;
    for message in &messages {
        double_ack(message).await?;
    }
    let state = &held.info().await?.state;
    assert_eq!((state.messages, state.first_sequence), (2, 4));
    Ok(())
}

#[tokio::test]
async fn a_stream_of_messages_goes_on_for_thousands() -> anyhow::Result<()> {
    const COUNT: u64 = 3000;
    let (node, _dir) = crate::node().await?;
    let held = stream(&node, RetentionPolicy::Limits).await?;
    let client = crate::client(&node).await?;
    for i in 0..COUNT {
        client.publish("s.a", i.to_string().into()).await?;
    }
    client.flush().await?;
    let mut consumer = held.create_consumer(durable("d")).await?;
    let mut messages = consumer.messages().await?;
    for expected in 1..=COUNT {
        let message = tokio::time::timeout(PATIENCE, messages.next())
            .await?
            .context("ended")?
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        assert_eq!(seq(&message)?, (expected, 1));
        ack_with(&message, AckKind::Ack).await?;
    }
    eventually("all acknowledged", PATIENCE, || async {
        let mut consumer: PullConsumer = held
            .get_consumer("d")
            .await
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        let pending = consumer.info().await?.num_ack_pending;
        anyhow::ensure!(pending == 0, "{pending} are pending");
        Ok(())
    })
    .await?;
    let info = consumer.info().await?;
    assert_eq!(info.ack_floor.stream_sequence, COUNT);
    Ok(())
}

/// The status line and headers of one answer to a pull request.
async fn pull_status(
    client: &async_nats::Client,
    consumer: &str,
    body: &str,
) -> anyhow::Result<String> {
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.S.{consumer}");
    let answer = client.request(subject, body.to_owned().into()).await?;
    let status = answer.status.context("no status")?;
    let text = answer.description.unwrap_or_default();
    let headers = answer.headers.unwrap_or_default();
    let mut pending: Vec<String> = headers
        .iter()
        .map(|(name, values)| format!("{name}={}", values[0]))
        .collect();
    pending.sort();
    Ok(format!("{} {text} {}", status.as_u16(), pending.join(" ")))
}

#[tokio::test]
async fn pull_requests_end_with_the_statuses_that_clients_know() -> anyhow::Result<()> {
    let (node, _dir) = crate::node().await?;
    let held = stream(&node, RetentionPolicy::Limits).await?;
    held.create_consumer(durable("d")).await?;
    let client = crate::client(&node).await?;
    let cases = [
        (r#"{"batch":1,"no_wait":true}"#, "404 No Messages "),
        (
            r#"{"batch":10,"expires":50000000}"#,
            "408 Request Timeout Nats-Pending-Bytes=0 Nats-Pending-Messages=10",
        ),
        (
            r#"{"batch":1,"expires":1000000000,"idle_heartbeat":900000000}"#,
            "400 Bad Request - heartbeat value too large ",
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(pull_status(&client, "d", body).await?, expected, "{body}");
    }
    let missing = pull_status(&client, "nobody", "").await;
    assert!(missing.is_err(), "nobody serves it: {missing:?}");
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { pull_status(&client, "d", r#"{"expires":30000000000}"#).await })
    };
    eventually("the request waits", PATIENCE, || async {
        let info = client
            .request("$JS.API.CONSUMER.INFO.S.d", "".into())
            .await?;
        let info: serde_json::Value = serde_json::from_slice(&info.payload)?;
        anyhow::ensure!(info["num_waiting"] == 1, "{info}");
        Ok(())
    })
    .await?;
    held.delete_consumer("d").await?;
    assert_eq!(waiting.await??, "409 Consumer Deleted ");
    Ok(())
}

#[tokio::test]
async fn a_paused_consumer_rests() -> anyhow::Result<()> {
    let (node, _dir) = crate::node().await?;
    let held = stream(&node, RetentionPolicy::Limits).await?;
    publish(&node, 1).await?;
    let consumer = held.create_consumer(durable("d")).await?;
    let client = crate::client(&node).await?;
    let ask = |body: &'static str| {
        let client = client.clone();
        async move {
            let answer = client
                .request(
                    "$JS.API.CONSUMER.PAUSE.S.d",
                    Bytes::from_static(body.as_bytes()),
                )
                .await?;
            anyhow::Ok(serde_json::from_slice::<serde_json::Value>(
                &answer.payload,
            )?)
        }
    };
    let paused = ask(r#"{"pause_until":"2500-01-01T00:00:00Z"}"#).await?;
    assert_eq!(paused["paused"], true, "{paused}");
    assert!(paused["pause_remaining"].as_u64() > Some(0), "{paused}");
    assert!(fetch(&consumer, 1).await?.is_empty());
    let resumed = ask("").await?;
    assert_eq!(resumed["paused"], false, "{resumed}");
    assert_eq!(fetch(&consumer, 1).await?.len(), 1);
    Ok(())
}
