//! `sub`: prints what arrives, until it is enough.

use std::time::Duration;

use clap::Args;
use futures::StreamExt;
use serde_json::json;
use unibus_proto::subject;

use super::shown::{Shape, show};
use crate::connect::{Bus, connect};
use crate::error::{Attempt, Result, failed, wrong};
use crate::output;
use crate::settings::Settings;
use crate::silence::silence;
use crate::text;

const EXAMPLES: &str = "\
Examples:
  unibus sub 'orders.*'
  unibus sub jobs --queue workers             one of the group gets each message
  unibus sub 'log.>' --raw | grep ERROR
  unibus sub answer --count 1 --wait 10s      status 1 if none came";

/// Flags of `sub`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SubArgs {
    /// Subjects; * stands for one token, > for all that follow
    #[arg(required = true, value_name = "SUBJECT")]
    pub(crate) subjects: Vec<String>,
    /// Queue group: each message goes to one of its members
    #[arg(long, short, value_name = "GROUP")]
    pub(crate) queue: Option<String>,
    /// End after so many messages
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// End when nothing came for so long; status 1 where --count is not reached then
    #[arg(long, value_name = "TIME", value_parser = text::duration)]
    pub(crate) wait: Option<Duration>,
    /// How to print.
    #[command(flatten)]
    pub(crate) shape: Shape,
}

/// Subscribes and prints.
///
/// # Errors
/// [`crate::error::CliError`].
pub(crate) async fn subscribe(args: &SubArgs, settings: &Settings, json: bool) -> Result {
    for subject in &args.subjects {
        if !subject::is_valid_filter(subject.as_bytes()) {
            return wrong(format!(
                "{subject:?} is no subject: tokens are between dots, and > stands only at the end"
            ));
        }
    }
    let bus = connect(settings).await?;
    let mut arrivals = subscriptions(&bus, args).await?;
    bus.subscribed().await?;
    output::tell(&format!("listening on {}", args.subjects.join(", ")));
    let mut seen = 0;
    loop {
        let message = tokio::select! {
            message = arrivals.next() => message,
            refusal = bus.refused_subscription() => return Err(refusal),
            () = silence(args.wait) => return quiet(args, seen),
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let Some(message) = message else {
            return failed("the server closed the connection");
        };
        if bus.is_echo(&message) {
            continue;
        }
        seen += 1;
        let reply = message
            .reply
            .as_ref()
            .map_or_else(String::new, |reply| format!(", reply to {reply}"));
        let title = format!("[#{seen}] {}{reply}", message.subject);
        show(&message, &title, json!({}), args.shape, json)?;
        if args.count.is_some_and(|count| seen >= count) {
            return Ok(());
        }
    }
}

async fn subscriptions(
    bus: &Bus,
    args: &SubArgs,
) -> Result<futures::stream::SelectAll<async_nats::Subscriber>> {
    let mut all = futures::stream::SelectAll::new();
    for subject in &args.subjects {
        let subject = subject.clone();
        let what = format!("can't subscribe to {subject:?}");
        let subscription = match &args.queue {
            Some(queue) => bus.client.queue_subscribe(subject, queue.clone()).await,
            None => bus.client.subscribe(subject).await,
        };
        all.push(subscription.or_wrong(|| what)?);
    }
    Ok(all)
}

/// Nothing came for as long as one was told to wait.
fn quiet(args: &SubArgs, seen: u64) -> Result {
    match args.count {
        Some(count) => failed(format!("{seen} of {count} messages came")),
        None => Ok(()),
    }
}
