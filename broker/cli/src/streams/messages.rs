//! Stored messages: one, or many in order, read straight from the stream.

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use clap::Args;
use serde_json::json;

use crate::api;
use crate::connect::Bus;
use crate::error::{Attempt, Result, failed};
use crate::messages::{Shape, show};
use crate::output;
use crate::text;

/// Flags of `stream view`.
#[derive(Args, Debug)]
pub(crate) struct ViewArgs {
    /// The stream
    name: String,
    /// Begin at this sequence [default: the first]
    #[arg(long, value_name = "SEQ", conflicts_with = "last")]
    from: Option<u64>,
    /// Only the last so many sequences
    #[arg(long, value_name = "N")]
    last: Option<u64>,
    /// At most so many messages
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Only of this subject; * and > stand for tokens
    #[arg(long, value_name = "SUBJECT", default_value = ">")]
    subject: String,
    /// How to print.
    #[command(flatten)]
    shape: Shape,
}

/// Prints one message.
///
/// # Errors
/// Where it is not there.
pub(super) async fn get(
    name: &str,
    seq: Option<u64>,
    last_for: Option<&str>,
    shape: Shape,
    bus: &Bus,
    json: bool,
) -> Result {
    let stream = opened(name, bus).await?;
    let (found, which) = match (seq, last_for) {
        (_, Some(subject)) => (
            stream.get_last_raw_message_by_subject(subject).await,
            format!("message of {subject:?}"),
        ),
        (seq, None) => {
            let seq = seq.unwrap_or_default();
            (stream.get_raw_message(seq).await, format!("message {seq}"))
        }
    };
    match found {
        Ok(message) => print(message, shape, json),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {
            failed(format!("stream {name} has no {which}"))
        }
        Err(error) => Err(error).or_failed(|| format!("can't get {which} of {name}")),
    }
}

/// Prints messages in order.
///
/// # Errors
/// Where the stream can't be read.
pub(super) async fn view(args: &ViewArgs, bus: &Bus, json: bool) -> Result {
    let stream = opened(&args.name, bus).await?;
    let mut next = match (args.from, args.last) {
        (Some(from), _) => from,
        (None, Some(last)) => {
            let info = api::stream_info(bus, &args.name).await?;
            (api::number(&info, "/state/last_seq") + 1).saturating_sub(last)
        }
        (None, None) => 1,
    }
    .max(1);
    for shown in 0..args.count {
        let found = stream
            .raw_message_builder()
            .sequence(next)
            .next_by_subject(args.subject.clone())
            .send()
            .await;
        let message = match found {
            Ok(message) => message,
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {
                if shown == 0 {
                    output::tell("there are no such messages");
                }
                return Ok(());
            }
            found => found.or_failed(|| format!("can't read stream {}", args.name))?,
        };
        next = message.sequence + 1;
        print(message, args.shape, json)?;
    }
    if !json {
        output::tell(&format!("there may be more: --from {next}"));
    }
    Ok(())
}

async fn opened(name: &str, bus: &Bus) -> Result<Stream<()>> {
    api::name("stream", name)?;
    // Where there is none of the name, this says so; what follows would wait for nobody's answer.
    api::stream_info(bus, name).await?;
    let stream = bus.jetstream().get_stream_no_info(name).await;
    stream.or_failed(|| format!("can't look up stream {name}"))
}

fn print(stored: StreamMessage, shape: Shape, json: bool) -> Result {
    let (sequence, time) = (stored.sequence, stored.time);
    let title = format!(
        "[{sequence}] {}  {}",
        text::harmless(&stored.subject),
        text::moment_shown(time)
    );
    let headers = Some(stored.headers).filter(|headers| !headers.is_empty());
    let message = async_nats::Message {
        length: stored.payload.len(),
        subject: stored.subject,
        payload: stored.payload,
        headers,
        reply: None,
        status: None,
        description: None,
    };
    let extra = json!({"sequence": sequence, "time": text::rfc3339(time)});
    show(&message, &title, extra, shape, json)
}
