//! Streams in a cluster: answers without a leader, more replicas in place, retries across a failover.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::HeaderMap;
use async_nats::jetstream::{self, consumer, stream};
use serde_json::{Value, json};
use unibus_testkit::{Cluster, ClusterOptions, PATIENCE, eventually};

use crate::binary;

fn config(replicas: usize) -> stream::Config {
    stream::Config {
        name: "S".into(),
        subjects: vec!["s.>".into()],
        num_replicas: replicas,
        allow_direct: true,
        ..Default::default()
    }
}

async fn ask(client: &async_nats::Client, subject: &str, body: &Value) -> anyhow::Result<Value> {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let answer = client.request(subject.to_owned(), body.into()).await?;
    Ok(serde_json::from_slice(&answer.payload)?)
}

#[tokio::test]
async fn without_a_leader_every_request_is_refused_by_its_code() -> anyhow::Result<()> {
    /// Longest time to an answer: reads and writes give up after two seconds.
    const QUICK: Duration = Duration::from_secs(5);
    let mut cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let client = cluster.client(0).await?;
    let context = jetstream::new(client.clone());
    let stream = context.create_stream(config(3)).await?;
    let durable = consumer::pull::Config {
        durable_name: Some("d".into()),
        ..Default::default()
    };
    stream.create_consumer(durable).await?;
    context.publish("s.a", "x".into()).await?.await?;
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    eventually("no leader", PATIENCE, || async {
        let (_, health) = cluster.nodes[0].health().await?;
        anyhow::ensure!(health["leader"].is_null(), "{health}");
        Ok(())
    })
    .await?;
    let requests = [
        ("INFO", Value::Null),
        ("STREAM.NAMES", Value::Null),
        ("STREAM.LIST", Value::Null),
        ("STREAM.INFO.S", Value::Null),
        ("STREAM.MSG.GET.S", json!({"seq": 1})),
        ("STREAM.CREATE.T", json!({"name": "T"})),
        (
            "STREAM.UPDATE.S",
            json!({"name": "S", "subjects": ["s.>"], "max_msgs": 9}),
        ),
        ("STREAM.PURGE.S", Value::Null),
        ("STREAM.MSG.DELETE.S", json!({"seq": 1})),
        ("STREAM.DELETE.S", Value::Null),
        ("STREAM.SNAPSHOT.S", json!({"deliver_subject": "to.me"})),
        ("STREAM.RESTORE.T", json!({"config": {"name": "T"}})),
        ("CONSUMER.NAMES.S", Value::Null),
        ("CONSUMER.LIST.S", Value::Null),
        ("CONSUMER.INFO.S.d", Value::Null),
        (
            "CONSUMER.CREATE.S.e",
            json!({"stream_name": "S", "config": {"name": "e"}}),
        ),
        (
            "CONSUMER.PAUSE.S.d",
            json!({"pause_until": "2100-01-01T00:00:00Z"}),
        ),
        ("CONSUMER.DELETE.S.d", Value::Null),
    ];
    let asked = requests.iter().map(|(verb, body)| {
        let client = client.clone();
        async move {
            let start = Instant::now();
            let answer = ask(&client, &format!("$JS.API.{verb}"), body).await;
            (verb, answer, start.elapsed())
        }
    });
    for (verb, answer, took) in futures::future::join_all(asked).await {
        let answer = answer.with_context(|| format!("{verb} was not answered"))?;
        assert_eq!(answer["error"]["err_code"], 10008, "{verb}: {answer}");
        assert!(took < QUICK, "{verb} took {took:?}");
    }
    // Neither JSON: a direct get has a status, a publish the code in its acknowledgement.
    let direct = client
        .request("$JS.API.DIRECT.GET.S.s.a", "".into())
        .await?;
    assert_eq!(direct.status.context("no status")?.as_u16(), 500);
    let refused = ask(&client, "s.b", &json!("x")).await?;
    assert_eq!(refused["error"]["err_code"], 10008, "{refused}");
    Ok(())
}

#[tokio::test]
async fn replicas_are_raised_in_place_while_the_stream_serves() -> anyhow::Result<()> {
    let cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let context = jetstream::new(cluster.client(0).await?);
    let created = context.create_stream(config(1)).await?;
    assert_eq!(created.cached_info().config.num_replicas, 1);
    let cluster_info = created
        .cached_info()
        .cluster
        .as_ref()
        .context("no cluster")?;
    assert!(cluster_info.leader.is_some());
    let stop = Arc::new(AtomicBool::new(false));
    let publishing = tokio::spawn({
        let (context, stop) = (context.clone(), stop.clone());
        async move {
            let mut published = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let ack = context.publish("s.a", "x".into()).await?.await?;
                published += 1;
                anyhow::ensure!(
                    ack.sequence == published,
                    "{} is not {published}",
                    ack.sequence
                );
            }
            Ok(published)
        }
    });
    let other = jetstream::new(cluster.client(1).await?);
    for replicas in [2, 3] {
        let info = other.update_stream(config(replicas)).await?;
        assert_eq!(info.config.num_replicas, replicas);
    }
    stop.store(true, Ordering::Relaxed);
    let published = publishing.await??;
    for node in 0..3 {
        let context = jetstream::new(cluster.client(node).await?);
        let mut stream = context.get_stream("S").await?;
        let info = stream.info().await?;
        assert_eq!(
            (info.config.num_replicas, info.state.messages),
            (3, published),
            "node {node}"
        );
        let peers = info.cluster.as_ref().context("no cluster")?;
        assert_eq!(peers.replicas.len(), 2);
        assert!(
            peers
                .replicas
                .iter()
                .all(|peer| peer.current && !peer.offline)
        );
    }
    // There are no five nodes, and saying so would not be true.
    let client = cluster.client(2).await?;
    let five = json!({"name": "S", "subjects": ["s.>"], "allow_direct": true, "num_replicas": 5});
    let refused = ask(&client, "$JS.API.STREAM.UPDATE.S", &five).await?;
    assert_eq!(refused["error"]["err_code"], 10074, "{refused}");
    Ok(())
}

#[tokio::test]
async fn five_replicas_are_reached_and_left_while_the_stream_serves() -> anyhow::Result<()> {
    let options = ClusterOptions {
        nodes: 5,
        ..Default::default()
    };
    let mut cluster = Cluster::start(binary(), options).await?;
    let context = jetstream::new(cluster.client(0).await?);
    context.create_stream(config(1)).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let publishing = tokio::spawn({
        let (context, stop) = (context.clone(), stop.clone());
        async move {
            let mut published = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let ack = context.publish("s.a", "x".into()).await?.await?;
                published += 1;
                anyhow::ensure!(ack.sequence == published, "{ack:?} is not {published}");
            }
            Ok(published)
        }
    });
    let other = jetstream::new(cluster.client(4).await?);
    for replicas in [3, 5] {
        let info = other.update_stream(config(replicas)).await?;
        assert_eq!(info.config.num_replicas, replicas);
    }
    let info = other.get_stream("S").await?.cached_info().clone();
    let peers = info.cluster.context("no cluster")?.replicas;
    assert_eq!(peers.len(), 4);
    stop.store(true, Ordering::Relaxed);
    let mut published = publishing.await??;
    // Two of five may die, the leader among them: what was acknowledged is there, and more is taken.
    let leader = cluster.leader(0).await?;
    let dead = [leader, (leader + 1) % 5];
    for node in dead {
        cluster.nodes[node].kill();
    }
    let alive = (0..5)
        .find(|node| !dead.contains(node))
        .context("all are dead")?;
    let context = jetstream::new(cluster.client(alive).await?);
    eventually("a majority of three serves", PATIENCE, || async {
        let ack = context
            .publish_with_headers("s.a", id(1), "x".into())
            .await?
            .await?;
        Ok(ack)
    })
    .await?;
    published += 1;
    for node in dead {
        cluster.nodes[node].start()?;
        cluster.nodes[node].ready(PATIENCE).await?;
    }
    for replicas in [3, 1] {
        let info = context.update_stream(config(replicas)).await?;
        assert_eq!(info.config.num_replicas, replicas);
        context.publish("s.a", "x".into()).await?.await?;
        published += 1;
    }
    for node in 0..5 {
        let context = jetstream::new(cluster.client(node).await?);
        let info = context.get_stream("S").await?.cached_info().clone();
        assert_eq!(
            (info.config.num_replicas, info.state.messages),
            (1, published),
            "node {node}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_retry_across_a_failover_is_a_duplicate() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let leader = cluster.leader(0).await?;
    let survivor = (leader + 1) % 3;
    let first = jetstream::new(cluster.client(leader).await?);
    let other = jetstream::new(cluster.client(survivor).await?);
    first.create_stream(config(3)).await?;
    let mut acknowledged = Vec::new();
    for n in 0..20 {
        let publish = first.publish_with_headers("s.a", id(n), n.to_string().into());
        acknowledged.push(publish.await?.await?.sequence);
    }
    cluster.nodes[leader].kill();
    for (n, seq) in acknowledged.into_iter().enumerate() {
        // The first of these wait for the election.
        let ack = eventually("an answer after the failover", PATIENCE, || async {
            let publish = other.publish_with_headers("s.a", id(n), n.to_string().into());
            Ok(tokio::time::timeout(Duration::from_secs(3), publish.await?).await??)
        })
        .await?;
        assert_eq!((ack.sequence, ack.duplicate), (seq, true));
    }
    let ack = other
        .publish_with_headers("s.a", id(20), "new".into())
        .await?
        .await?;
    assert!(!ack.duplicate);
    Ok(())
}

fn id(n: usize) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", format!("m{n}").as_str());
    headers
}
