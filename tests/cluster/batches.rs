//! Fast batches (ADR-50) whose leader dies: what was acknowledged is there, in order and without gaps, and the
//! publisher hears that its batch is over instead of waiting for ever.

use anyhow::{Context, ensure};
use async_nats::Subscriber;
use async_nats::jetstream::{self, consumer::pull, stream};
use futures::TryStreamExt;
use serde_json::{Value, json};
use unibus_testkit::{Cluster, ClusterOptions, PATIENCE, eventually, next, round_trip};

use crate::binary;

/// Messages of a batch: many series, so that the leader dies in the middle.
const MESSAGES: u64 = 2_000;
/// Bytes of each, beside what it says.
const PADDING: usize = 8 * 1024;
/// The publisher wants an acknowledgement after so many.
const FLOW: u64 = 50;

/// What a message is to its batch.
const START: u8 = 0;
const APPEND: u8 = 1;
const COMMIT: u8 = 2;
const PING: u8 = 4;

/// A publisher of one batch that takes no gaps, and what it hears.
struct Batch {
    client: async_nats::Client,
    id: &'static str,
    inbox: String,
    answers: Subscriber,
    /// Batch sequence up to which everything is acknowledged.
    acknowledged: u64,
}

impl Batch {
    async fn new(client: &async_nats::Client, id: &'static str) -> anyhow::Result<Self> {
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.>")).await?;
        round_trip(client).await?;
        Ok(Self {
            client: client.clone(),
            id,
            inbox,
            answers,
            acknowledged: 0,
        })
    }

    async fn send(&self, seq: u64, operation: u8) -> anyhow::Result<()> {
        let (id, inbox) = (self.id, &self.inbox);
        let reply = format!("{inbox}.{id}.{FLOW}.fail.{seq}.{operation}.$FI");
        let body = format!("{id} {seq} {}", "x".repeat(PADDING));
        self.client
            .publish_with_reply("f.a", reply, body.into())
            .await?;
        Ok(())
    }

    /// Begins the batch and sends so many messages of it.
    async fn send_all(&self, count: u64) -> anyhow::Result<()> {
        self.send(1, START).await?;
        for seq in 2..=count {
            self.send(seq, APPEND).await?;
        }
        Ok(())
    }

    /// The next answer: `None` is an acknowledgement, anything else is the batch's end.
    async fn hears(&mut self) -> anyhow::Result<Option<Value>> {
        let answer = next(&mut self.answers).await?;
        let answer: Value = serde_json::from_slice(&answer.payload)?;
        if answer["type"] != "ack" {
            return Ok(Some(answer));
        }
        let seq = answer["seq"].as_u64().context("no sequence")?;
        ensure!(
            seq >= self.acknowledged,
            "{answer} after {}",
            self.acknowledged
        );
        self.acknowledged = seq;
        Ok(None)
    }

    /// Waits until so much is acknowledged.
    async fn reaches(&mut self, seq: u64) -> anyhow::Result<()> {
        while self.acknowledged < seq {
            let end = self.hears().await?;
            ensure!(end.is_none(), "it ended before {seq}: {end:?}");
        }
        Ok(())
    }

    /// What ends the batch: its PubAck, or a refusal. What is said of single messages comes before it.
    async fn ends(&mut self) -> anyhow::Result<Value> {
        loop {
            match self.hears().await? {
                Some(note) if note["type"] == "err" || note["type"] == "gap" => {}
                Some(end) => return Ok(end),
                None => {}
            }
        }
    }
}

/// Makes the stream `F` for batches, and `P` for what is published without one.
async fn create(client: &async_nats::Client) -> anyhow::Result<()> {
    let body = json!({"name": "F", "subjects": ["f.>"], "num_replicas": 3, "allow_batched": true});
    let made = client.request("$JS.API.STREAM.CREATE.F", body.to_string().into());
    let made: Value = serde_json::from_slice(&made.await?.payload)?;
    ensure!(made["did_create"] == true, "{made}");
    let plain = stream::Config {
        name: "P".into(),
        subjects: vec!["p".into()],
        num_replicas: 3,
        ..Default::default()
    };
    jetstream::new(client.clone()).create_stream(plain).await?;
    Ok(())
}

/// Batch and batch sequence of everything in the stream, in its order.
async fn stored(client: &async_nats::Client) -> anyhow::Result<Vec<(String, u64)>> {
    let context = jetstream::new(client.clone());
    let mut stream = context.get_stream("F").await?;
    let count = usize::try_from(stream.info().await?.state.messages)?;
    let consumer = stream
        .create_consumer(pull::OrderedConfig::default())
        .await?;
    let messages = futures::StreamExt::take(consumer.messages().await?, count);
    let reading = messages
        .map_err(anyhow::Error::from)
        .and_then(|message| async move {
            let text = std::str::from_utf8(&message.payload)?;
            let mut words = text.split(' ');
            let (batch, seq) = (words.next().context("batch")?, words.next().context("seq")?);
            Ok((batch.to_owned(), seq.parse()?))
        });
    tokio::time::timeout(PATIENCE, reading.try_collect()).await?
}

/// Takes a batch off the beginning of what is stored: it begins with its first message, misses none up to
/// its last one, and has everything that was acknowledged. Answers with how many there are.
fn taken(stored: &mut Vec<(String, u64)>, batch: &Batch) -> anyhow::Result<u64> {
    let count = stored.iter().take_while(|(id, _)| id == batch.id).count();
    let own = stored
        .drain(..count)
        .map(|(_, seq)| seq)
        .collect::<Vec<_>>();
    let count = own.len() as u64;
    ensure!(
        own.iter().copied().eq(1..=count),
        "{} has gaps or is out of order: {own:?}",
        batch.id
    );
    ensure!(
        count >= batch.acknowledged,
        "{count} of {} are there, {} were acknowledged",
        batch.id,
        batch.acknowledged
    );
    Ok(count)
}

/// A batch that is begun and committed once there is a leader again.
async fn works(client: &async_nats::Client, id: &'static str) -> anyhow::Result<Batch> {
    let context = jetstream::new(client.clone());
    eventually("a leader", PATIENCE, || async {
        Ok(context.publish("p", "x".into()).await?.await?)
    })
    .await?;
    let mut batch = Batch::new(client, id).await?;
    batch.send_all(FLOW).await?;
    batch.send(FLOW + 1, COMMIT).await?;
    let end = batch.ends().await?;
    ensure!(end["count"] == FLOW + 1, "{end}");
    batch.acknowledged = FLOW + 1;
    Ok(batch)
}

#[tokio::test]
async fn a_fast_batch_is_whole_up_to_where_its_leader_died() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let leader = cluster.leader(0).await?;
    let survivor = (leader + 1) % 3;
    let client = cluster.client(survivor).await?;
    create(&client).await?;

    // Everything is sent; from here on the publisher only listens.
    let mut batch = Batch::new(&client, "a").await?;
    batch.send_all(MESSAGES).await?;
    batch.send(MESSAGES + 1, COMMIT).await?;
    round_trip(&client).await?;
    batch.reaches(1).await?;
    cluster.nodes[leader].kill();
    let end = batch.ends().await?;
    println!("{} were acknowledged, then: {end}", batch.acknowledged);
    let committed = end["count"].as_u64();
    ensure!(
        committed.is_some() || end["error"]["err_code"] == 10208,
        "{end}"
    );

    let after = works(&client, "b").await?;
    let mut all = stored(&client).await?;
    let count = taken(&mut all, &batch)?;
    ensure!(
        committed.is_none_or(|said| said == count),
        "{count} are there: {end}"
    );
    ensure!(
        taken(&mut all, &after)? == FLOW + 1 && all.is_empty(),
        "{all:?}"
    );
    // The node that comes back has the same.
    cluster.nodes[leader].start()?;
    cluster.nodes[leader].ready(PATIENCE).await?;
    let mut again = stored(&cluster.client(leader).await?).await?;
    ensure!(taken(&mut again, &batch)? == count && taken(&mut again, &after)? == FLOW + 1);
    Ok(())
}

#[tokio::test]
async fn a_fast_batch_whose_own_node_died_is_unknown_to_the_others() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let leader = cluster.leader(0).await?;
    let survivor = (leader + 1) % 3;
    let (client, other) = (
        cluster.client(leader).await?,
        cluster.client(survivor).await?,
    );
    create(&client).await?;

    let mut batch = Batch::new(&client, "a").await?;
    let sent = 10 * FLOW;
    batch.send_all(sent).await?;
    batch.reaches(sent / 2).await?;
    cluster.nodes[leader].kill();

    // Where the publisher goes on, and where it only asks, it is told that nobody knows the batch.
    let mut moved = Batch::new(&other, "a").await?;
    for (seq, operation) in [(sent + 1, APPEND), (sent, PING), (sent + 1, COMMIT)] {
        moved.send(seq, operation).await?;
        let end = moved.ends().await?;
        ensure!(end["error"]["err_code"] == 10208, "{operation}: {end}");
    }
    let after = works(&other, "b").await?;
    let mut all = stored(&other).await?;
    let count = taken(&mut all, &batch)?;
    ensure!(count <= sent, "{count}");
    ensure!(
        taken(&mut all, &after)? == FLOW + 1 && all.is_empty(),
        "{all:?}"
    );
    Ok(())
}
