//! Copies of streams that keep messages only for their consumers (ADR-60): whatever dies, each message
//! is in the copy once, and leaves its origin when it is there.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self, stream};
use futures::{StreamExt, TryStreamExt, future};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use unibus_testkit::{Cluster, ClusterOptions, PATIENCE, eventually, round_trip};

use crate::binary;

/// Messages that wait in the queue before it is copied.
const BACKLOG: usize = 20_000;
/// Messages that are published to each stream while the leader dies.
const MESSAGES: usize = 1_000;
/// Of which so many at a time.
const UNDER_WAY: usize = 64;

/// Asks the API; an error is an error.
async fn api(client: &async_nats::Client, what: &str, body: Value) -> anyhow::Result<Value> {
    let body = if body.is_null() {
        Vec::new()
    } else {
        serde_json::to_vec(&body)?
    };
    let answer = client
        .request(format!("$JS.API.{what}"), body.into())
        .await?;
    let answer: Value = serde_json::from_slice(&answer.payload)?;
    ensure!(answer["error"].is_null(), "{what}: {answer}");
    Ok(answer)
}

async fn messages(client: &async_nats::Client, stream: &str) -> anyhow::Result<u64> {
    let info = api(client, &format!("STREAM.INFO.{stream}"), Value::Null).await?;
    info["state"]["messages"].as_u64().context("no count")
}

/// Looks whether each stream holds so many messages.
async fn hold(client: &async_nats::Client, wanted: &[(&str, u64)]) -> anyhow::Result<()> {
    for (stream, count) in wanted {
        let found = messages(client, stream).await?;
        ensure!(found == *count, "{stream} holds {found} instead of {count}");
    }
    Ok(())
}

async fn consumers(client: &async_nats::Client, stream: &str) -> anyhow::Result<usize> {
    let names = api(client, &format!("CONSUMER.NAMES.{stream}"), Value::Null).await?;
    Ok(names["consumers"].as_array().map_or(0, Vec::len))
}

/// Publishes so many texts; those that were acknowledged.
async fn publish(
    client: async_nats::Client,
    subject: &'static str,
    count: usize,
) -> BTreeSet<String> {
    let context = jetstream::new(client);
    let texts = futures::stream::iter((0..count).map(|n| format!("{subject} {n}")));
    let acknowledged = texts.map(|text| {
        let context = context.clone();
        async move {
            let ack = context.publish(subject, text.clone().into()).await.ok()?;
            let ack = tokio::time::timeout(Duration::from_secs(3), ack).await;
            matches!(ack, Ok(Ok(_))).then_some(text)
        }
    });
    let acknowledged = acknowledged.buffered(UNDER_WAY);
    acknowledged.filter_map(future::ready).collect().await
}

/// Somebody at each node who hears everything, as long as the set lives.
async fn listen_to_all(cluster: &Cluster) -> anyhow::Result<JoinSet<usize>> {
    let mut listeners = JoinSet::new();
    for node in 0..cluster.nodes.len() {
        let heard = cluster.client(node).await?.subscribe(">").await?;
        listeners.spawn(heard.count());
    }
    Ok(listeners)
}

/// All texts of a stream; none of them twice.
async fn texts(client: &async_nats::Client, stream: &str) -> anyhow::Result<BTreeSet<String>> {
    let count = usize::try_from(messages(client, stream).await?)?;
    let stream = jetstream::new(client.clone()).get_stream(stream).await?;
    let config = pull::Config {
        ack_policy: AckPolicy::None,
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await?;
    let mut batch = consumer.fetch().max_messages(count).messages().await?;
    let mut texts = BTreeSet::new();
    while let Some(message) = batch.try_next().await.map_err(anyhow::Error::from_boxed)? {
        let text = String::from_utf8(message.payload.to_vec())?;
        ensure!(texts.insert(text.clone()), "{text} is there twice");
    }
    Ok(texts)
}

#[tokio::test]
async fn queues_are_copied_once_through_deaths_of_the_leader() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let client = cluster.client(cluster.leader(0).await?).await?;
    // Who listens to everything takes nothing from anybody.
    let _listeners = listen_to_all(&cluster).await?;
    for (name, subject, retention) in [("Q", "q.>", "workqueue"), ("I", "i.>", "interest")] {
        let config =
            json!({"name": name, "subjects": [subject], "retention": retention, "num_replicas": 3});
        api(&client, &format!("STREAM.CREATE.{name}"), config).await?;
    }
    // More than can be copied before the leader dies.
    let mut acknowledged = publish(client.clone(), "q.old", BACKLOG).await;
    let all = json!({"name": "ALL", "sources": [{"name": "Q"}, {"name": "I"}], "num_replicas": 3});
    let leader = cluster.leader(0).await?;
    api(&client, "STREAM.CREATE.ALL", all).await?;
    // Asked without a pause: the copy is quick.
    let begun = async {
        loop {
            let copied = messages(&client, "ALL").await?;
            if copied > 0 {
                return anyhow::Ok(copied);
            }
        }
    };
    let copied = tokio::time::timeout(PATIENCE, begun).await??;
    cluster.nodes[leader].kill();
    ensure!(
        copied < BACKLOG as u64,
        "all was copied before the leader died"
    );
    cluster.nodes[leader].start()?;
    cluster.nodes[leader].ready(PATIENCE).await?;

    // The same while both are written to.
    let leader = cluster.leader((leader + 1) % 3).await?;
    let survivor = cluster.client((leader + 1) % 3).await?;
    let writers = [("q.new", survivor.clone()), ("i.new", survivor.clone())];
    let writers = writers.map(|(to, client)| tokio::spawn(publish(client, to, MESSAGES)));
    eventually("new messages", PATIENCE, || async {
        let info = api(&survivor, "STREAM.INFO.I", Value::Null).await?;
        ensure!(info["state"]["last_seq"].as_u64() > Some(100));
        Ok(())
    })
    .await?;
    cluster.nodes[leader].kill();
    for writer in writers {
        acknowledged.extend(writer.await?);
    }
    cluster.nodes[leader].start()?;
    cluster.nodes[leader].ready(PATIENCE).await?;

    let client = cluster.client(0).await?;
    let empty = [("Q", 0), ("I", 0)];
    eventually("origins that are copied and empty", PATIENCE, || {
        hold(&client, &empty)
    })
    .await?;
    let copied = texts(&client, "ALL").await?;
    let lost: Vec<_> = acknowledged.difference(&copied).collect();
    ensure!(lost.is_empty(), "acknowledged and not copied: {lost:?}");
    ensure!(acknowledged.len() > BACKLOG, "too few to prove anything");
    // With the copy its consumers go.
    api(&client, "STREAM.DELETE.ALL", Value::Null).await?;
    eventually("no consumers", PATIENCE, || async {
        ensure!(consumers(&client, "Q").await? == 0 && consumers(&client, "I").await? == 0);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn copies_come_and_go_while_their_origin_is_written_to() -> anyhow::Result<()> {
    let cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let client = cluster.client(0).await?;
    let queue =
        json!({"name": "Q", "subjects": ["q.>"], "retention": "workqueue", "num_replicas": 3});
    api(&client, "STREAM.CREATE.Q", queue).await?;
    let writer = tokio::spawn(publish(cluster.client(1).await?, "q.a", 20_000));
    let mut rounds = 0;
    while !writer.is_finished() || rounds < 20 {
        let copy = json!({"name": "C", "sources": [{"name": "Q"}], "num_replicas": 3});
        api(&client, "STREAM.CREATE.C", copy).await?;
        let begun = eventually("a copy", PATIENCE, || async {
            ensure!(consumers(&client, "Q").await? == 1);
            Ok(())
        });
        begun.await?;
        api(&client, "STREAM.DELETE.C", Value::Null).await?;
        rounds += 1;
    }
    ensure!(writer.await?.len() == 20_000);
    Ok(())
}

#[tokio::test]
async fn a_consumer_is_not_taken_from_the_copy_that_has_it() -> anyhow::Result<()> {
    let cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let client = cluster.client(0).await?;
    let queue =
        json!({"name": "Q", "subjects": ["q.>"], "retention": "workqueue", "num_replicas": 3});
    api(&client, "STREAM.CREATE.Q", queue).await?;
    let copy = |name: &str| {
        json!({"name": name, "num_replicas": 3,
            "sources": [{"name": "Q", "consumer": {"name": "c", "deliver_subject": "for.c"}}]})
    };
    let consumer = json!({"stream_name": "Q", "config":
        {"durable_name": "c", "deliver_subject": "for.c", "ack_policy": "flow_control"}});
    api(&client, "CONSUMER.CREATE.Q.c", consumer).await?;
    api(&client, "STREAM.CREATE.ONE", copy("ONE")).await?;
    let bound = eventually("a copy", PATIENCE, || async {
        let info = api(&client, "CONSUMER.INFO.Q.c", Value::Null).await?;
        ensure!(info["push_bound"] == true);
        Ok(())
    });
    bound.await?;
    api(&client, "STREAM.CREATE.TWO", copy("TWO")).await?;
    ensure!(publish(client.clone(), "q.a", 100).await.len() == 100);
    let all = || async {
        let found = (
            messages(&client, "ONE").await?,
            messages(&client, "TWO").await?,
        );
        ensure!(found == (100, 0), "{found:?}");
        ensure!(messages(&client, "Q").await? == 0);
        Ok(())
    };
    eventually("the first copy", PATIENCE, all).await?;
    api(&client, "STREAM.DELETE.TWO", Value::Null).await?;
    ensure!(publish(client.clone(), "q.b", 100).await.len() == 100);
    let rest = [("ONE", 200), ("Q", 0)];
    eventually("the rest", PATIENCE, || hold(&client, &rest)).await
}

#[tokio::test]
async fn a_copy_through_a_named_consumer_does_what_that_says() -> anyhow::Result<()> {
    let cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let client = cluster.client(0).await?;
    let context = jetstream::new(client.clone());
    let config = json!({"name": "L", "subjects": ["l.>"], "num_replicas": 3});
    api(&client, "STREAM.CREATE.L", config).await?;
    let copy = json!({"name": "C", "num_replicas": 3,
        "sources": [{"name": "L", "consumer": {"name": "some", "deliver_subject": "for.c"}}]});
    api(&client, "STREAM.CREATE.C", copy).await?;
    for n in 0..6 {
        let subject = format!("l.{}", n % 2);
        context
            .publish(subject, n.to_string().into())
            .await?
            .await?;
    }
    ensure!(
        messages(&client, "C").await? == 0,
        "nobody has made the consumer"
    );
    let some = json!({"stream_name": "L", "config": {"durable_name": "some", "deliver_subject": "for.c",
        "ack_policy": "flow_control", "filter_subject": "l.1", "deliver_policy": "by_start_sequence",
        "opt_start_seq": 3}});
    api(&client, "CONSUMER.CREATE.L.some", some).await?;
    let selected = [("C", 2)];
    eventually("what it selects", PATIENCE, || hold(&client, &selected)).await?;
    let found = texts(&client, "C").await?;
    ensure!(
        found == BTreeSet::from(["3".to_owned(), "5".to_owned()]),
        "{found:?}"
    );
    eventually("acknowledgements", PATIENCE, || async {
        let info = api(&client, "CONSUMER.INFO.L.some", Value::Null).await?;
        let floor = info["ack_floor"]["stream_seq"].as_u64();
        ensure!(floor == Some(6) && info["push_bound"] == true, "{info}");
        Ok(())
    })
    .await?;
    // Going back copies nothing twice.
    api(&client, "CONSUMER.RESET.L.some", json!({"seq": 4})).await?;
    context.publish("l.1", "7".into()).await?.await?;
    let new = [("C", 3)];
    eventually("what is new", PATIENCE, || hold(&client, &new)).await?;
    // A paused consumer pauses its copy.
    let tomorrow = json!({"pause_until": "2100-01-01T00:00:00Z"});
    api(&client, "CONSUMER.PAUSE.L.some", tomorrow).await?;
    context.publish("l.1", "8".into()).await?.await?;
    tokio::time::sleep(Duration::from_millis(300)).await; // what must not happen would take a few
    hold(&client, &new).await?;
    api(&client, "CONSUMER.PAUSE.L.some", json!({})).await?;
    let rest = [("C", 4)];
    eventually("the rest", PATIENCE, || hold(&client, &rest)).await
}

/// A consumer of a work queue leaves nothing for others; a copy does.
#[tokio::test]
async fn workers_of_a_queue_do_not_notice_its_copy() -> anyhow::Result<()> {
    let cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let client = cluster.client(0).await?;
    let context = jetstream::new(client.clone());
    let config = stream::Config {
        name: "Q".into(),
        subjects: vec!["q.>".into()],
        retention: stream::RetentionPolicy::WorkQueue,
        num_replicas: 3,
        ..Default::default()
    };
    let queue = context.create_stream(config).await?;
    let worker = pull::Config {
        durable_name: Some("worker".into()),
        ..Default::default()
    };
    let worker = queue.create_consumer(worker).await?;
    let mirror = json!({"name": "M", "mirror": {"name": "Q"}, "num_replicas": 3});
    api(&client, "STREAM.CREATE.M", mirror).await?;
    for n in 0..50 {
        context.publish("q.a", n.to_string().into()).await?.await?;
    }
    let mut done = 0;
    let mut jobs = worker.fetch().max_messages(50).messages().await?;
    while let Some(job) = jobs.try_next().await.map_err(anyhow::Error::from_boxed)? {
        job.double_ack().await.map_err(anyhow::Error::from_boxed)?;
        done += 1;
    }
    ensure!(done == 50, "the worker got {done}");
    let done = [("M", 50), ("Q", 0)];
    eventually("a copy, and an empty queue", PATIENCE, || {
        hold(&client, &done)
    })
    .await
}

#[tokio::test]
async fn what_a_copy_has_no_room_for_stays_where_it_is() -> anyhow::Result<()> {
    let cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let client = cluster.client(0).await?;
    let queue =
        json!({"name": "Q", "subjects": ["q.>"], "retention": "workqueue", "num_replicas": 3});
    api(&client, "STREAM.CREATE.Q", queue).await?;
    let copy = |most: i64| {
        json!({"name": "C", "sources": [{"name": "Q"}], "max_msgs": most, "discard": "new",
            "num_replicas": 3})
    };
    api(&client, "STREAM.CREATE.C", copy(2)).await?;
    ensure!(publish(client.clone(), "q.a", 5).await.len() == 5);
    let full = [("C", 2), ("Q", 3)];
    eventually("a full copy", PATIENCE, || hold(&client, &full)).await?;
    // The consumer asks with its heartbeats, once a second.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    hold(&client, &full).await?;
    // Nobody else acknowledges for it.
    let names = api(&client, "CONSUMER.NAMES.Q", Value::Null).await?;
    let name = names["consumers"][0].as_str().context("no consumer")?;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Last-Consumer", "5");
    headers.insert("Nats-Last-Stream", "5");
    for request in 0..20 {
        let forged = format!("$JS.FC.Q.{name}.{request:04X}");
        client
            .publish_with_headers(forged, headers.clone(), "".into())
            .await?;
    }
    round_trip(&client).await?;
    tokio::time::sleep(Duration::from_millis(300)).await; // the same
    hold(&client, &full).await?;
    api(&client, "STREAM.UPDATE.C", copy(10)).await?;
    let rest = [("C", 5), ("Q", 0)];
    eventually("the rest", PATIENCE, || hold(&client, &rest)).await
}
