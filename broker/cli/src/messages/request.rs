//! `req`: asks, and prints one answer or several.

use std::time::Duration;

use async_nats::StatusCode;
use clap::Args;
use futures::StreamExt;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::body::{Body, BodyArgs, headers};
use super::shown::{Shape, show};
use crate::connect::{Bus, connect};
use crate::error::{Attempt, Result, failed};
use crate::settings::Settings;
use crate::text;

const EXAMPLES: &str = "\
Examples:
  unibus req time.now ''
  unibus req svc.add '{\"a\":1}' --timeout 500ms --raw
  unibus req who.is.there '' --replies 0      every answer until the timeout
  unibus req svc.load '' --count 100 --json   status 1 as soon as one is not answered";

/// Flags of `req`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ReqArgs {
    /// Whom to ask
    pub(crate) subject: String,
    /// What to ask.
    #[command(flatten)]
    pub(crate) body: BodyArgs,
    /// How many answers to wait for; 0 takes all that come until the timeout
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) replies: u64,
    /// How many times to ask
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,
    /// How to print.
    #[command(flatten)]
    pub(crate) shape: Shape,
}

/// Asks.
///
/// # Errors
/// [`crate::error::CliError`]; also where nobody answers, or fewer than asked for.
pub(crate) async fn request(args: &ReqArgs, settings: &Settings, json: bool) -> Result {
    let body = Body::read(&args.body)?;
    let bus = connect(settings).await?;
    for number in 1..=args.count {
        let fresh_id = || bus.client.new_inbox();
        let payload = body.of(number, fresh_id);
        ask(args, &bus, payload, json).await?;
    }
    Ok(())
}

async fn ask(args: &ReqArgs, bus: &Bus, payload: bytes::Bytes, json: bool) -> Result {
    let inbox = bus.client.new_inbox();
    let what = || format!("can't ask {:?}", args.subject);
    let mut answers = bus.client.subscribe(inbox.clone()).await.or_failed(what)?;
    let (subject, began) = (args.subject.clone(), Instant::now());
    let sent = match headers(&args.body.headers) {
        Some(map) => {
            bus.client
                .publish_with_reply_and_headers(subject, inbox, map, payload)
                .await
        }
        None => bus.client.publish_with_reply(subject, inbox, payload).await,
    };
    sent.or_failed(what)?;
    let deadline = began + bus.timeout;
    let mut got = 0;
    while args.replies == 0 || got < args.replies {
        let next = timeout_at(deadline, async {
            tokio::select! {
                answer = answers.next() => Ok(answer),
                refusal = bus.refusal() => Err(refusal),
            }
        });
        let answer = match next.await {
            Err(_) => return overdue(args, got, bus.timeout),
            Ok(answer) => answer?,
        };
        let Some(answer) = answer else {
            return failed("the server closed the connection");
        };
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            return failed(format!(
                "no responders: nobody listens on {:?}",
                args.subject
            ));
        }
        got += 1;
        let taken = began.elapsed();
        let title = format!("[#{got}] {}", text::duration_shown(taken));
        let extra = json!({"round_trip_us": u64::try_from(taken.as_micros()).unwrap_or(u64::MAX)});
        show(&answer, &title, extra, args.shape, json)?;
    }
    Ok(())
}

fn overdue(args: &ReqArgs, got: u64, waited: Duration) -> Result {
    let waited = text::duration_shown(waited);
    match (args.replies, got) {
        (0, 1..) => Ok(()),
        (0 | 1, _) => failed(format!(
            "no answer from {:?} within {waited}; --timeout gives it longer",
            args.subject
        )),
        (wanted, got) => failed(format!(
            "{got} of {wanted} answers from {:?} within {waited}",
            args.subject
        )),
    }
}
