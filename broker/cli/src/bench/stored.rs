//! What is stored: streams with their acknowledgements and consumers, buckets with their keys. Each run
//! has a stream of its own, which is deleted at its end whatever happens.

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::jetstream::{Context, kv as buckets};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::load::{Load, Share, Times, note, payload, phase, times};
use super::report::Report;
use super::{AmountArgs, StoredArgs, StreamArgs};
use crate::connect::connect;
use crate::error::{Attempt, Result, failed};
use crate::output;
use crate::settings::Settings;

/// Messages that a consumer of a bench fetches at a time.
const BATCH: usize = 500;

/// The streams' API through as many connections as clients are wanted, and a name of our own.
async fn contexts(settings: &Settings, count: u16) -> Result<(Vec<Context>, String)> {
    let mut all = Vec::with_capacity(count.into());
    let mut name = String::new();
    for _ in 0..count {
        let bus = connect(settings).await?;
        let inbox = bus.client.new_inbox();
        let id = inbox.rsplit('.').next().unwrap_or_default();
        name = format!("unibus_bench_{id}");
        all.push(bus.jetstream());
    }
    Ok((all, name))
}

fn of(all: &[Context], number: u16) -> Result<Context> {
    match all.get(usize::from(number)) {
        Some(context) => Ok(context.clone()),
        None => failed("a connection is missing"),
    }
}

fn storage(args: &StoredArgs) -> StorageType {
    match args.memory {
        true => StorageType::Memory,
        false => StorageType::File,
    }
}

/// Deletes a run's stream, and says so where it stays.
async fn clean_up(context: &Context, stream: &str) {
    if let Err(error) = context.delete_stream(stream).await {
        output::tell(&format!(
            "unibus: stream {stream} of this bench is left: {error}"
        ));
    }
}

/// Publishes to a stream, then reads it.
///
/// # Errors
/// [`crate::error::CliError`].
pub(super) async fn stream(args: &StreamArgs, settings: &Settings) -> Result<Vec<Report>> {
    let (contexts, name) = contexts(settings, args.stored.amount.clients).await?;
    let first = of(&contexts, 0)?;
    let config = Config {
        name: name.clone(),
        subjects: vec![format!("{name}.>")],
        storage: storage(&args.stored),
        num_replicas: args.stored.replicas.into(),
        ..Config::default()
    };
    let made = Box::pin(first.create_stream(config)).await;
    made.or_failed(|| format!("can't make stream {name}"))?;
    let reports = stream_phases(args, &contexts, &name).await;
    clean_up(&first, &name).await;
    reports
}

async fn stream_phases(args: &StreamArgs, contexts: &[Context], name: &str) -> Result<Vec<Report>> {
    let amount = &args.stored.amount;
    let load = Load::new(amount.msgs, amount.time);
    let written = phase("publish", amount, &load, |number, share| {
        let subject = format!("{name}.{number}");
        store(
            of(contexts, number),
            subject,
            amount.size,
            args.in_flight.into(),
            share,
        )
    })
    .await?;
    if args.no_read {
        return Ok(vec![written]);
    }
    let consumer = pull::Config {
        durable_name: Some("reader".to_owned()),
        ack_policy: AckPolicy::None,
        ..pull::Config::default()
    };
    let context = of(contexts, 0)?;
    let made = Box::pin(context.create_consumer_on_stream(consumer, name)).await;
    made.or_failed(|| format!("can't make a consumer of {name}"))?;
    let load = Load::new(load.finished(), amount.time);
    let one = AmountArgs {
        clients: 1,
        ..amount.clone()
    };
    let read = phase("consume", &one, &load, |_, share| {
        consume(context.clone(), name.to_owned(), share)
    })
    .await?;
    Ok(vec![written, read])
}

async fn store(
    context: Result<Context>,
    subject: String,
    size: u64,
    in_flight: usize,
    mut share: Share,
) -> Result<Times> {
    let (context, mut times, payload) = (context?, times()?, payload(size));
    let subject = async_nats::Subject::from(subject);
    let what = || format!("can't publish to {subject}");
    let mut waiting = FuturesUnordered::new();
    loop {
        while waiting.len() < in_flight && share.more() {
            let began = Instant::now();
            let ack = context.publish(subject.clone(), payload.clone()).await;
            let ack = ack.or_failed(what)?;
            waiting.push(async move { ack.await.map(|_| began) });
        }
        match waiting.next().await {
            None => return Ok(times),
            Some(acknowledged) => {
                let began = acknowledged.or_failed(|| format!("{subject} is not acknowledged"))?;
                note(&mut times, began);
                share.done();
            }
        }
    }
}

async fn consume(context: Context, stream: String, mut share: Share) -> Result<Times> {
    let what = || format!("can't read stream {stream}");
    let consumer = context
        .get_consumer_from_stream::<pull::Config, _, _>("reader", stream.as_str())
        .await
        .or_failed(what)?;
    let messages = consumer.stream().max_messages_per_batch(BATCH).messages();
    let mut messages = messages.await.or_failed(what)?;
    while share.more() {
        match messages.next().await {
            Some(message) => {
                message.or_failed(what)?;
                share.done();
            }
            None => return failed(what()),
        }
    }
    times()
}

/// Sets keys, then gets them.
///
/// # Errors
/// [`crate::error::CliError`].
pub(super) async fn kv(args: &StoredArgs, settings: &Settings) -> Result<Vec<Report>> {
    let (contexts, bucket) = contexts(settings, args.amount.clients).await?;
    let first = of(&contexts, 0)?;
    let config = buckets::Config {
        bucket: bucket.clone(),
        storage: storage(args),
        num_replicas: args.replicas.into(),
        ..buckets::Config::default()
    };
    let made = Box::pin(first.create_key_value(config)).await;
    made.or_failed(|| format!("can't make bucket {bucket}"))?;
    let reports = kv_phases(args, &contexts, &bucket).await;
    clean_up(&first, &format!("KV_{bucket}")).await;
    reports
}

async fn kv_phases(args: &StoredArgs, contexts: &[Context], bucket: &str) -> Result<Vec<Report>> {
    let amount = &args.amount;
    let mut reports = Vec::new();
    for (what, put) in [("put", true), ("get", false)] {
        let load = Load::new(amount.msgs, amount.time);
        let phase = phase(what, amount, &load, |number, share| {
            let context = of(contexts, number);
            keys(context, bucket.to_owned(), number, amount.size, put, share)
        });
        reports.push(phase.await?);
    }
    Ok(reports)
}

/// Sets or gets the keys of one client in turn.
async fn keys(
    context: Result<Context>,
    bucket: String,
    number: u16,
    size: u64,
    put: bool,
    mut share: Share,
) -> Result<Times> {
    /// Keys of one client.
    const KEYS: u64 = 1000;
    let (context, mut times, payload) = (context?, times()?, payload(size));
    let store = Box::pin(context.get_key_value(bucket.as_str())).await;
    let store = store.or_failed(|| format!("can't open bucket {bucket}"))?;
    let mut done = 0;
    while share.more() {
        let key = format!("k{number}.{}", done % KEYS);
        let began = Instant::now();
        if put {
            let set = store.put(&key, payload.clone()).await;
            set.or_failed(|| format!("can't set {key}"))?;
        } else {
            let got = store.get(&key).await;
            got.or_failed(|| format!("can't get {key}"))?;
        }
        note(&mut times, began);
        share.done();
        done += 1;
    }
    Ok(times)
}
