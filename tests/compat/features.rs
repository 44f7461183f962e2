//! What fewer applications use: dead letters, priority groups, lives of single messages and their markers.

use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{self, Stream};
use async_nats::jetstream::{self, AckKind, kv};
use async_nats::{Client, Message, Subscriber};
use serde_json::{Value, json};
use unibus_testkit::{NodeProcess, PATIENCE, eventually, next};

async fn ask(client: &Client, subject: &str, body: &Value) -> anyhow::Result<Value> {
    let answer = client
        .request(subject.to_owned(), body.to_string().into())
        .await?;
    let answer: Value = serde_json::from_slice(&answer.payload)?;
    ensure!(answer.get("error").is_none(), "{subject}: {answer}");
    Ok(answer)
}

async fn stream(client: &Client, name: &str, subject: &str) -> anyhow::Result<Stream> {
    let config = stream::Config {
        name: name.into(),
        subjects: vec![subject.into()],
        ..Default::default()
    };
    Ok(jetstream::new(client.clone()).create_stream(config).await?)
}

async fn publish(client: &Client, count: usize) -> anyhow::Result<()> {
    let context = jetstream::new(client.clone());
    for _ in 0..count {
        context.publish("s.a", "x".into()).await?.await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_runs_out_of_deliveries_is_found_among_the_dead_letters() -> anyhow::Result<()> {
    let (node, _dir) = crate::node().await?;
    let client = crate::client(&node).await?;
    let letters = stream(&client, "D", "dead.>").await?;
    let mut held = stream(&client, "S", "s.>").await?;
    publish(&client, 2).await?;
    let config = pull::Config {
        durable_name: Some("d".into()),
        ack_policy: AckPolicy::Explicit,
        max_deliver: 2,
        metadata: [("unibus.dead_letter".to_owned(), "dead.s".to_owned())].into(),
        ..Default::default()
    };
    let mut consumer: PullConsumer = held.create_consumer(config).await?;
    let mut messages = consumer
        .stream()
        .max_messages_per_batch(1)
        .messages()
        .await?;
    // The first message is refused each time it comes; the second is taken.
    let mut came = Vec::new();
    while came.len() < 3 {
        let message = next(&mut messages).await??;
        let seq = message
            .info()
            .map_err(|e| anyhow::anyhow!("{e}"))?
            .stream_sequence;
        let kind = match seq {
            1 => AckKind::Nak(None),
            _ => AckKind::Ack,
        };
        came.push(seq);
        let told = message.ack_with(kind).await;
        told.map_err(|e| anyhow::anyhow!("{e}"))?;
    }
    came.sort_unstable();
    assert_eq!(came, [1, 1, 2]);
    let mut dead = letters
        .create_consumer(pull::Config::default())
        .await?
        .messages()
        .await?;
    let letter = next(&mut dead).await??;
    assert_eq!(
        (letter.subject.as_str(), &letter.payload[..]),
        ("dead.s", &b"x"[..])
    );
    let headers = letter.headers.as_ref().context("no headers")?;
    let told = |name: &str| headers.get(name).map(ToString::to_string);
    assert_eq!(told("Nats-Dead-Letter-Stream").as_deref(), Some("S"));
    assert_eq!(told("Nats-Dead-Letter-Consumer").as_deref(), Some("d"));
    assert_eq!(told("Nats-Dead-Letter-Deliveries").as_deref(), Some("2"));
    eventually("nothing is pending", PATIENCE, || async {
        let mut consumer = consumer.clone();
        let info = consumer.info().await?;
        ensure!(
            info.num_ack_pending == 0 && info.num_pending == 0,
            "{info:?}"
        );
        Ok(())
    })
    .await?;
    // What was given up stays where it was, as with nats-server.
    assert_eq!(held.info().await?.state.messages, 2);
    assert_eq!(consumer.info().await?.config.max_deliver, 2);
    Ok(())
}

/// Clients of one consumer with a priority group `g`, each with an inbox of its own.
struct Group {
    _node: NodeProcess,
    _dir: tempfile::TempDir,
    client: Client,
    inboxes: Vec<Subscriber>,
}

impl Group {
    async fn new(policy: &str) -> anyhow::Result<Self> {
        let (node, dir) = crate::node().await?;
        let client = crate::client(&node).await?;
        stream(&client, "S", "s.>").await?;
        let config = json!({"stream_name": "S", "action": "create", "config": {
            "durable_name": "c", "ack_policy": "explicit", "priority_groups": ["g"],
            "priority_policy": policy,
        }});
        ask(&client, "$JS.API.CONSUMER.CREATE.S.c", &config).await?;
        let mut inboxes = Vec::new();
        for name in ["a", "b"] {
            inboxes.push(client.subscribe(format!("_INBOX.{name}")).await?);
        }
        Ok(Self {
            _node: node,
            _dir: dir,
            client,
            inboxes,
        })
    }

    /// Asks for one message for client `who`, and waits until so many requests are known.
    async fn pull(&self, who: &str, more: Value, waiting: u64) -> anyhow::Result<()> {
        let mut request = json!({"batch": 1, "expires": 60_000_000_000_u64, "group": "g"});
        if let (Some(request), Some(more)) = (request.as_object_mut(), more.as_object()) {
            request.extend(more.clone());
        }
        let (to, reply) = ("$JS.API.CONSUMER.MSG.NEXT.S.c", format!("_INBOX.{who}"));
        let body = request.to_string().into();
        self.client.publish_with_reply(to, reply, body).await?;
        eventually("the request is known", PATIENCE, || async {
            let info = ask(&self.client, "$JS.API.CONSUMER.INFO.S.c", &json!({})).await?;
            ensure!(
                info["num_waiting"].as_u64().unwrap_or(0) == waiting,
                "{info}"
            );
            Ok(())
        })
        .await
    }

    /// The stream sequence of what the client gets next, and the message.
    async fn gets(&mut self, who: usize) -> anyhow::Result<(u64, Message)> {
        let message = next(&mut self.inboxes[who]).await?;
        let reply = message
            .reply
            .as_ref()
            .with_context(|| format!("{message:?}"))?;
        let seq = reply.split('.').nth(5).context("no sequence")?.parse()?;
        Ok((seq, message))
    }
}

#[tokio::test]
async fn an_overflow_group_serves_the_far_client_when_much_is_pending() -> anyhow::Result<()> {
    let mut group = Group::new("overflow").await?;
    group.pull("a", json!({"min_pending": 3}), 1).await?;
    publish(&group.client, 2).await?;
    group.pull("b", json!({}), 1).await?;
    assert_eq!(
        group.gets(1).await?.0,
        1,
        "who asked for it all gets the first"
    );
    publish(&group.client, 2).await?;
    assert_eq!(group.gets(0).await?.0, 2, "three are pending now");
    Ok(())
}

#[tokio::test]
async fn a_prioritized_group_serves_the_lowest_number_first() -> anyhow::Result<()> {
    let mut group = Group::new("prioritized").await?;
    group.pull("a", json!({"priority": 2}), 1).await?;
    group.pull("b", json!({"priority": 0}), 2).await?;
    publish(&group.client, 1).await?;
    assert_eq!(group.gets(1).await?.0, 1);
    publish(&group.client, 1).await?;
    assert_eq!(group.gets(0).await?.0, 2, "the other one is served");
    Ok(())
}

#[tokio::test]
async fn a_pinned_client_gets_everything_until_it_is_unpinned() -> anyhow::Result<()> {
    let mut group = Group::new("pinned_client").await?;
    group.pull("a", json!({}), 1).await?;
    group.pull("b", json!({}), 2).await?;
    publish(&group.client, 1).await?;
    let (seq, message) = group.gets(0).await?;
    let headers = message.headers.context("no headers")?;
    let pin = headers.get("Nats-Pin-Id").context("no pin")?.to_string();
    assert_eq!(seq, 1);
    group.pull("a", json!({"id": pin}), 2).await?;
    publish(&group.client, 1).await?;
    assert_eq!(group.gets(0).await?.0, 2, "who is pinned is served");
    let of = json!({"group": "g"});
    ask(&group.client, "$JS.API.CONSUMER.UNPIN.S.c", &of).await?;
    publish(&group.client, 1).await?;
    let (seq, message) = group.gets(1).await?;
    let headers = message.headers.context("no headers")?;
    let other = headers.get("Nats-Pin-Id").context("no pin")?.to_string();
    assert!(seq == 3 && other != pin, "{seq} {other}");
    Ok(())
}

#[tokio::test]
async fn a_key_lives_as_long_as_it_was_given_and_leaves_a_marker() -> anyhow::Result<()> {
    let (node, _dir) = crate::node().await?;
    let client = crate::client(&node).await?;
    let config = kv::Config {
        bucket: "short".into(),
        limit_markers: Some(Duration::from_secs(60)),
        ..Default::default()
    };
    let store = jetstream::new(client.clone())
        .create_key_value(config)
        .await?;
    let mut watch = store.watch_all().await?;
    store.put("kept", "k".into()).await?;
    store
        .create_with_ttl("gone", "g".into(), Duration::from_secs(1))
        .await?;
    for (key, operation) in [
        ("kept", kv::Operation::Put),
        ("gone", kv::Operation::Put),
        ("gone", kv::Operation::Purge),
    ] {
        let entry = next(&mut watch).await??;
        assert_eq!((entry.key.as_str(), entry.operation), (key, operation));
    }
    assert_eq!(store.get("gone").await?, None);
    assert_eq!(store.get("kept").await?, Some("k".into()));
    let marker = jetstream::new(client).get_stream("KV_short").await?;
    let marker = marker
        .get_last_raw_message_by_subject("$KV.short.gone")
        .await?;
    let told = |name: &str| marker.headers.get(name).map(ToString::to_string);
    assert_eq!(told("Nats-Marker-Reason").as_deref(), Some("MaxAge"));
    assert_eq!(told("Nats-TTL").as_deref(), Some("1m0s"));
    Ok(())
}
