//! A durable consumer of the log: every message comes at least once, what was double-acknowledged never
//! again, and the ack floor is never ahead of what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{self, AckKind, consumer::pull};
use futures::StreamExt;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::log::STREAM;
use super::{Ctx, OP_TIMEOUT, rest};
use crate::history::{Ending, Micros};

/// The consumer.
pub(crate) const CONSUMER: &str = "reader";
/// How long one pull request waits for messages.
const PULL_EXPIRES: Duration = Duration::from_secs(2);

/// What the consumer's clients know together.
#[derive(Debug, Default)]
pub(crate) struct Read {
    received: BTreeMap<u64, u64>,
    /// Acknowledgements sent, answered or not.
    sent: BTreeSet<u64>,
    /// When the answer to a double acknowledgement came.
    answered: BTreeMap<u64, Micros>,
}

pub(crate) async fn make(client: &async_nats::Client) -> anyhow::Result<()> {
    let stream = jetstream::new(client.clone()).get_stream(STREAM).await?;
    let config = pull::Config {
        durable_name: Some(CONSUMER.into()),
        ack_wait: Duration::from_secs(3),
        max_ack_pending: 512,
        ..Default::default()
    };
    stream.create_consumer(config).await?;
    Ok(())
}

/// One client at one node; several share the consumer. Ends when told to, or with `drain` once nothing
/// has come for a while.
pub(crate) async fn work(
    ctx: Ctx,
    client: async_nats::Client,
    seed: u64,
    read: Arc<Mutex<Read>>,
    drain: bool,
) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut quiet = 0;
    while drain || !ctx.is_stopped() {
        match fetch(&ctx, &client, &mut rng, &read, drain).await {
            Ok(0) => quiet += 1,
            Ok(_) => quiet = 0,
            Err(_) => rest(200).await,
        }
        // Longer than the time to acknowledge: what is open has come again by then.
        if drain && quiet > 3 {
            return;
        }
    }
}

async fn fetch(
    ctx: &Ctx,
    client: &async_nats::Client,
    rng: &mut SmallRng,
    read: &Mutex<Read>,
    drain: bool,
) -> anyhow::Result<u64> {
    let context = jetstream::new(client.clone());
    let found = context.get_consumer_from_stream::<pull::Config, _, _>(CONSUMER, STREAM);
    let consumer = tokio::time::timeout(OP_TIMEOUT, found).await??;
    let asked = ctx.recorder.now();
    let request = consumer.fetch().max_messages(20).expires(PULL_EXPIRES);
    let mut messages = tokio::time::timeout(OP_TIMEOUT, request.messages()).await??;
    let mut count = 0;
    loop {
        let next = tokio::time::timeout(PULL_EXPIRES * 2, messages.next()).await;
        let Ok(Some(Ok(message))) = next else { break };
        count += 1;
        let Ok(seq) = message.info().map(|info| info.stream_sequence) else {
            ctx.recorder
                .finding("a delivery without its subject's numbers".into());
            continue;
        };
        take(ctx, read, seq, asked);
        match rng.random_range(0..if drain { 8 } else { 10 }) {
            0..=3 => {
                read.lock().sent.insert(seq);
                let started = ctx.recorder.now();
                let acked = tokio::time::timeout(OP_TIMEOUT, message.double_ack()).await;
                if matches!(acked, Ok(Ok(()))) {
                    ctx.recorder.span("double ack", started, Ending::Done);
                    let now = ctx.recorder.now();
                    read.lock().answered.entry(seq).or_insert(now);
                } else {
                    ctx.recorder.span("double ack", started, Ending::Unknown);
                }
            }
            4..=7 => {
                read.lock().sent.insert(seq);
                let _ = message.ack().await;
            }
            8 => drop(message.ack_with(AckKind::Nak(None)).await),
            _ => {}
        }
    }
    Ok(count)
}

fn take(ctx: &Ctx, read: &Mutex<Read>, seq: u64, asked: Micros) {
    ctx.recorder
        .span("delivery", ctx.recorder.now(), Ending::Done);
    let mut read = read.lock();
    *read.received.entry(seq).or_default() += 1;
    // A delivery that was under way may arrive late; an answer to a later request may not.
    if let Some(at) = read.answered.get(&seq).filter(|at| **at < asked) {
        ctx.recorder.finding(format!(
            "message {seq} was settled at {at} us and came to a request of {asked} us"
        ));
    }
}

/// Looks at the ack floor now and then, at one node.
pub(crate) async fn watch_floor(ctx: Ctx, client: async_nats::Client, read: Arc<Mutex<Read>>) {
    let context = jetstream::new(client);
    while !ctx.is_stopped() {
        let found = context.get_consumer_from_stream::<pull::Config, _, _>(CONSUMER, STREAM);
        if let Ok(Ok(mut consumer)) = tokio::time::timeout(OP_TIMEOUT, found).await
            && let Ok(Ok(info)) = tokio::time::timeout(OP_TIMEOUT, consumer.info()).await
        {
            check_floor(&ctx, &read.lock(), info.ack_floor.stream_sequence);
        }
        rest(300).await;
    }
}

fn check_floor(ctx: &Ctx, read: &Read, floor: u64) {
    let open = (1..=floor).find(|seq| !read.sent.contains(seq));
    if let Some(seq) = open {
        ctx.recorder.finding(format!(
            "the ack floor is {floor}, and nobody acknowledged {seq}"
        ));
    }
}

/// What does not hold once everything was drained.
pub(crate) async fn judge(
    ctx: &Ctx,
    client: &async_nats::Client,
    read: &Mutex<Read>,
    last: u64,
) -> anyhow::Result<()> {
    let context = jetstream::new(client.clone());
    let consumer = context
        .get_consumer_from_stream::<pull::Config, _, _>(CONSUMER, STREAM)
        .await?;
    let info = consumer.cached_info();
    let read = read.lock();
    check_floor(ctx, &read, info.ack_floor.stream_sequence);
    let missed = (1..=last).find(|seq| !read.received.contains_key(seq));
    if let Some(seq) = missed {
        ctx.recorder
            .finding(format!("message {seq} of {last} was never delivered"));
    }
    if info.num_pending > 0 || info.num_ack_pending > 0 {
        ctx.recorder.finding(format!(
            "after draining {} messages wait and {} are open",
            info.num_pending, info.num_ack_pending
        ));
    }
    Ok(())
}
