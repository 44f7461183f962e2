//! `reply`: answers each request with a text, with what was asked, or with what a command prints.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use clap::Args;
use futures::StreamExt;
use serde_json::json;
use tokio::sync::Semaphore;

use super::body::headers;
use super::shown::{Shape, header_pairs, show};
use crate::connect::connect;
use crate::error::{Attempt, Result, failed};
use crate::output;
use crate::settings::Settings;
use crate::shell::{Printed, Shell};
use crate::text;

/// Most bytes of a command's output that become an answer.
const ANSWER_MAX: u64 = 8 * 1024 * 1024;

const EXAMPLES: &str = "\
Examples:
  unibus reply greet 'hello to you'
  unibus reply mirror --echo
  unibus reply sys.uptime --command uptime
  unibus reply calc --command bc --queue calculators

The command runs in sh; the request is its stdin, UNIBUS_SUBJECT its subject. Where it fails, the
answer carries the header Unibus-Error, and what the command had printed.";

/// Flags of `reply`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ReplyArgs {
    /// Subject of the requests
    pub(crate) subject: String,
    /// Answer with this text
    #[arg(value_name = "TEXT", required_unless_present_any = ["echo", "command"], conflicts_with_all = ["echo", "command"])]
    pub(crate) text: Option<String>,
    /// Answer with what was asked
    #[arg(long, conflicts_with = "command")]
    pub(crate) echo: bool,
    /// Answer with what this command prints
    #[arg(long, short, value_name = "COMMAND")]
    pub(crate) command: Option<String>,
    /// How long a command may run
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = text::duration)]
    pub(crate) command_timeout: Duration,
    /// How many requests are answered at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) parallel: u16,
    /// Queue group: each request goes to one of its members
    #[arg(long, short, value_name = "GROUP", default_value = "unibus-reply")]
    pub(crate) queue: String,
    /// A header of the answers, 'Name: value'; may be given more than once
    #[arg(long = "header", short = 'H', value_name = "HEADER", value_parser = text::header)]
    pub(crate) headers: Vec<(String, String)>,
    /// End after so many answers
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

/// Answers until it is enough.
///
/// # Errors
/// [`crate::error::CliError`].
pub(crate) async fn reply(args: &ReplyArgs, settings: &Settings, json: bool) -> Result {
    let bus = connect(settings).await?;
    let requests = bus
        .client
        .queue_subscribe(args.subject.clone(), args.queue.clone())
        .await;
    let mut requests = requests.or_wrong(|| format!("can't subscribe to {:?}", args.subject))?;
    bus.subscribed().await?;
    output::tell(&format!("answering on {}", args.subject));
    let answerer = Arc::new(Answerer::of(args, bus.client.clone()));
    let turns = Arc::new(Semaphore::new(args.parallel.into()));
    let mut tasks = tokio::task::JoinSet::new();
    let mut seen = 0;
    while args.count.is_none_or(|count| seen < count) {
        while tasks.try_join_next().is_some() {}
        let request = tokio::select! {
            request = requests.next() => request,
            refusal = bus.refused_subscription() => return Err(refusal),
            _ = tokio::signal::ctrl_c() => {
                // Commands that run are killed, and not left behind.
                tasks.shutdown().await;
                return Ok(());
            }
        };
        let Some(request) = request else {
            return failed("the server closed the connection");
        };
        if bus.is_echo(&request) {
            continue;
        }
        let Some(to) = request.reply.clone() else {
            output::tell("unibus: a message that wants no answer came; it is left out");
            continue;
        };
        seen += 1;
        let title = format!("[#{seen}] {}", request.subject);
        show(&request, &title, json!({}), Shape::default(), json)?;
        // The semaphore is never closed.
        let turn = Arc::clone(&turns).acquire_owned().await.ok();
        let answerer = Arc::clone(&answerer);
        tasks.spawn(async move {
            answerer.answer(request, to).await;
            drop(turn);
        });
    }
    tasks.join_all().await;
    bus.published().await
}

enum Answer {
    Text(Bytes),
    Echo,
    Command(Shell),
}

struct Answerer {
    answer: Answer,
    headers: Option<HeaderMap>,
    client: async_nats::Client,
}

impl Answerer {
    fn of(args: &ReplyArgs, client: async_nats::Client) -> Self {
        let answer = match (&args.command, args.echo) {
            (Some(command), _) => Answer::Command(Shell {
                command: command.clone(),
                limit: args.command_timeout,
                output_max: ANSWER_MAX,
            }),
            (None, true) => Answer::Echo,
            (None, false) => Answer::Text(args.text.clone().unwrap_or_default().into()),
        };
        Self {
            answer,
            headers: headers(&args.headers),
            client,
        }
    }

    async fn answer(&self, request: Message, to: async_nats::Subject) {
        let mut map = self.headers.clone().unwrap_or_default();
        let payload = match &self.answer {
            Answer::Text(text) => text.clone(),
            Answer::Echo => {
                for (name, value) in header_pairs(request.headers.as_ref()) {
                    map.append(name.as_str(), value.as_str());
                }
                request.payload
            }
            Answer::Command(shell) => {
                let env = [("UNIBUS_SUBJECT", request.subject.to_string())];
                let Printed { output, problem } = shell.run(&env, request.payload).await;
                if let Some(problem) = problem {
                    output::tell(&format!("unibus: {:?}: {problem}", shell.command));
                    map.insert("Unibus-Error", problem.as_str());
                }
                output
            }
        };
        let sent = match map.is_empty() {
            true => self.client.publish(to, payload).await,
            false => self.client.publish_with_headers(to, map, payload).await,
        };
        if let Err(error) = sent {
            output::tell(&format!("unibus: can't answer: {error}"));
        }
    }
}
