//! `consumer next`: fetches messages and says what becomes of them.

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use clap::Args;
use futures::StreamExt;
use serde_json::json;

use crate::api;
use crate::connect::Bus;
use crate::error::{Attempt, CliError, Result, failed};
use crate::messages::{Shape, show};
use crate::text;

/// Flags of `consumer next`.
#[derive(Args, Debug)]
pub(crate) struct NextArgs {
    /// The stream
    stream: String,
    /// The consumer
    name: String,
    /// How many messages; --timeout bounds the wait for them
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Leave them unacknowledged: they are delivered again
    #[arg(long)]
    no_ack: bool,
    /// Refuse them: they are delivered again at once
    #[arg(long, conflicts_with = "no_ack")]
    nak: bool,
    /// Refuse them for good: they are not delivered again
    #[arg(long, conflicts_with_all = ["no_ack", "nak"])]
    term: bool,
    /// How to print.
    #[command(flatten)]
    shape: Shape,
}

/// Fetches and prints messages; each is acknowledged once it is printed.
///
/// # Errors
/// Where nothing comes in time.
pub(super) async fn next(args: &NextArgs, bus: &Bus, json: bool) -> Result {
    api::name("stream", &args.stream)?;
    api::name("consumer", &args.name)?;
    let consumer = opened(args, bus).await?;
    let batch = consumer
        .batch()
        .max_messages(usize::try_from(args.count).unwrap_or(usize::MAX))
        .expires(bus.timeout)
        .messages()
        .await;
    let what = || format!("can't fetch from {} of {}", args.name, args.stream);
    let mut batch = batch.or_failed(what)?;
    let mut got = 0;
    while let Some(message) = batch.next().await {
        let message = message.or_failed(what)?;
        got += 1;
        let about = message
            .info()
            .map_err(|error| CliError::Failed(format!("{}: {error}", what())))?;
        let title = format!(
            "[{}] {}  {}, delivery {}, {} wait",
            about.stream_sequence,
            text::harmless(&message.subject),
            text::moment_shown(about.published),
            about.delivered,
            about.pending
        );
        let extra = json!({"stream": about.stream, "consumer": about.consumer,
            "sequence": about.stream_sequence, "delivered": about.delivered,
            "pending": about.pending, "time": text::rfc3339(about.published)});
        // The reply subject is the acknowledgement's, of no use to a reader.
        let shown = async_nats::Message {
            reply: None,
            ..message.message.clone()
        };
        show(&shown, &title, extra, args.shape, json)?;
        let kind = match (args.no_ack, args.nak, args.term) {
            (true, ..) => continue,
            (_, true, _) => AckKind::Nak(None),
            (_, _, true) => AckKind::Term,
            _ => AckKind::Ack,
        };
        let settled = message.double_ack_with(kind).await;
        settled.or_failed(|| "the message is printed, but not acknowledged".to_owned())?;
    }
    if got == 0 {
        return failed(format!(
            "no message for {} of {} within {}",
            args.name,
            args.stream,
            text::duration_shown(bus.timeout)
        ));
    }
    Ok(())
}

async fn opened(args: &NextArgs, bus: &Bus) -> Result<PullConsumer> {
    let what = || format!("can't look up consumer {} of {}", args.name, args.stream);
    let context = bus.jetstream();
    let found = context
        .get_consumer_from_stream(args.name.as_str(), args.stream.as_str())
        .await;
    found.or_failed(what)
}
