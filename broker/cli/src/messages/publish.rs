//! `pub`: sends messages, and says that they are sent only when the server has taken them.

use std::time::Duration;

use async_nats::jetstream::context::{Context, PublishErrorKind};
use async_nats::jetstream::publish::PublishAck;
use clap::Args;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::body::{Body, BodyArgs, headers, stdin};
use crate::connect::{Bus, connect};
use crate::error::{Attempt, Result, failed, wrong};
use crate::output;
use crate::settings::Settings;
use crate::text;

const EXAMPLES: &str = "\
Examples:
  unibus pub greet hello
  unibus pub orders.new -H 'Kind: test' --count 10 --template 'order {{Count}}'
  generate | unibus pub log.line --lines          each line of stdin is a message
  unibus pub orders.new --jetstream < order.json  wait until the stream has stored it";

/// Flags of `pub`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PubArgs {
    /// Where to publish
    pub(crate) subject: String,
    /// What to send.
    #[command(flatten)]
    pub(crate) body: BodyArgs,
    /// How many times
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,
    /// Pause between two messages
    #[arg(long, value_name = "TIME", value_parser = text::duration)]
    pub(crate) sleep: Option<Duration>,
    /// Where answers should go
    #[arg(long, value_name = "SUBJECT", conflicts_with = "jetstream")]
    pub(crate) reply: Option<String>,
    /// Each line of stdin is a message
    #[arg(long, conflicts_with_all = ["payload", "file", "count"])]
    pub(crate) lines: bool,
    /// Wait until a stream has stored each message, and print its sequence
    #[arg(long, short = 'J')]
    pub(crate) jetstream: bool,
    /// Say nothing when it worked
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Publishes.
///
/// # Errors
/// [`crate::error::CliError`].
pub(crate) async fn publish(args: &PubArgs, settings: &Settings, json: bool) -> Result {
    if args.subject.is_empty() || args.subject.contains(char::is_whitespace) {
        return wrong(format!(
            "{:?} is no subject: it has no spaces, and something in it",
            args.subject
        ));
    }
    if args.subject.contains(['*', '>']) {
        output::tell("unibus: the subject has a wildcard; a message is published to it literally");
    }
    let mut sender = Sender {
        args,
        json,
        jetstream: None,
        bus: None,
        sent: 0,
        bytes: 0,
    };
    if args.lines {
        sender.connect(settings).await?;
        let mut lines = BufReader::new(stdin()?).lines();
        while let Some(line) = lines
            .next_line()
            .await
            .or_failed(|| "can't read stdin".to_owned())?
        {
            sender.send(line.into()).await?;
        }
    } else {
        let body = Body::read(&args.body)?;
        sender.connect(settings).await?;
        for number in 1..=args.count {
            let payload = body.of(number, || sender.fresh_id());
            sender.send(payload).await?;
        }
    }
    sender.finish().await
}

struct Sender<'a> {
    args: &'a PubArgs,
    json: bool,
    bus: Option<Bus>,
    jetstream: Option<Context>,
    sent: u64,
    bytes: u64,
}

impl Sender<'_> {
    async fn connect(&mut self, settings: &Settings) -> Result {
        let bus = connect(settings).await?;
        self.jetstream = self.args.jetstream.then(|| bus.jetstream());
        self.bus = Some(bus);
        Ok(())
    }

    fn fresh_id(&self) -> String {
        let inbox = self.bus.as_ref().map(|bus| bus.client.new_inbox());
        let id = inbox.as_deref().and_then(|inbox| inbox.rsplit('.').next());
        id.unwrap_or_default().to_owned()
    }

    async fn send(&mut self, payload: bytes::Bytes) -> Result {
        if let (Some(pause), true) = (self.args.sleep, self.sent > 0) {
            tokio::time::sleep(pause).await;
        }
        let Some(bus) = &self.bus else {
            return wrong("there is no connection");
        };
        let subject = self.args.subject.clone();
        let headers = headers(&self.args.body.headers);
        let what = || format!("can't publish to {:?}", self.args.subject);
        let size = payload.len() as u64;
        if let Some(context) = &self.jetstream {
            let map = headers.unwrap_or_default();
            let ack = context.publish_with_headers(subject, map, payload).await;
            match ack.or_failed(what)?.await {
                Ok(ack) => self.acknowledged(&ack)?,
                Err(error) if error.kind() == PublishErrorKind::StreamNotFound => {
                    return failed(format!("no stream keeps {:?}", self.args.subject));
                }
                Err(error) => return Err(error).or_failed(what),
            }
        } else {
            let client = &bus.client;
            let sent = match (self.args.reply.clone(), headers) {
                (None, None) => client.publish(subject, payload).await,
                (None, Some(map)) => client.publish_with_headers(subject, map, payload).await,
                (Some(reply), None) => client.publish_with_reply(subject, reply, payload).await,
                (Some(reply), Some(map)) => {
                    client
                        .publish_with_reply_and_headers(subject, reply, map, payload)
                        .await
                }
            };
            sent.or_failed(what)?;
        }
        self.sent += 1;
        self.bytes += size;
        Ok(())
    }

    fn acknowledged(&self, ack: &PublishAck) -> Result {
        if self.json {
            return output::json_line(&json!({"stream": ack.stream, "sequence": ack.sequence,
                "duplicate": ack.duplicate}));
        }
        if self.args.quiet {
            return Ok(());
        }
        let again = if ack.duplicate { ", stored before" } else { "" };
        output::say(&format!(
            "stored in {} as {}{again}",
            ack.stream, ack.sequence
        ))
    }

    async fn finish(&self) -> Result {
        if self.jetstream.is_some() {
            return Ok(());
        }
        if let Some(bus) = &self.bus {
            bus.published().await?;
        }
        if self.json {
            return output::json_line(&json!({"subject": self.args.subject,
                "messages": self.sent, "bytes": self.bytes}));
        }
        if self.args.quiet {
            return Ok(());
        }
        let messages = if self.sent == 1 {
            "message"
        } else {
            "messages"
        };
        output::say(&format!(
            "published {} {messages}, {}, to {:?}",
            text::count_shown(self.sent),
            text::size_shown(self.bytes),
            self.args.subject
        ))
    }
}
