//! `stream`: stored messages and what keeps them.

mod config;
mod manage;
mod messages;

use clap::Subcommand;

use crate::connect::connect;
use crate::error::Result;
use crate::settings::Settings;

pub(crate) use config::StreamFlags;
pub(crate) use messages::ViewArgs;

const EXAMPLES: &str = "\
Examples:
  unibus stream add ORDERS --subjects 'orders.>' --max-age 30d --replicas 3
  unibus stream ls
  unibus stream view ORDERS --last 10
  unibus stream get ORDERS --last-for orders.new
  unibus stream edit ORDERS --max-bytes 10GiB
  unibus stream info ORDERS --json > orders.json && unibus stream add COPY --config orders.json";

/// The commands about streams.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum StreamCommand {
    /// List the streams
    #[command(alias = "list")]
    Ls {
        /// Only those that keep this subject
        #[arg(long, value_name = "SUBJECT")]
        subject: Option<String>,
        /// Names alone, one a line
        #[arg(long, short)]
        names: bool,
    },
    /// Make a stream
    #[command(alias = "create")]
    Add {
        /// The stream's name
        name: String,
        /// What it keeps.
        #[command(flatten)]
        flags: Box<StreamFlags>,
    },
    /// Print what a stream is and holds
    #[command(alias = "status")]
    Info {
        /// The stream
        name: String,
        /// How many messages each subject has
        #[arg(long)]
        subjects: bool,
    },
    /// Change a stream; what no flag names stays
    #[command(alias = "update")]
    Edit {
        /// The stream
        name: String,
        /// What changes.
        #[command(flatten)]
        flags: Box<StreamFlags>,
    },
    /// Delete a stream with its messages and consumers
    #[command(alias = "delete")]
    Rm {
        /// The stream
        name: String,
        /// Don't ask
        #[arg(long, short)]
        force: bool,
    },
    /// Delete messages
    Purge {
        /// The stream
        name: String,
        /// Only of this subject; * and > stand for tokens
        #[arg(long, value_name = "SUBJECT")]
        subject: Option<String>,
        /// Only those before this sequence
        #[arg(long, value_name = "SEQ", conflicts_with = "keep")]
        seq: Option<u64>,
        /// All but the newest so many
        #[arg(long, value_name = "N")]
        keep: Option<u64>,
        /// Don't ask
        #[arg(long, short)]
        force: bool,
    },
    /// Print one message
    Get {
        /// The stream
        name: String,
        /// Its sequence
        #[arg(required_unless_present = "last_for")]
        seq: Option<u64>,
        /// The newest of a subject
        #[arg(long, value_name = "SUBJECT", conflicts_with = "seq")]
        last_for: Option<String>,
        /// How to print.
        #[command(flatten)]
        shape: crate::messages::Shape,
    },
    /// Print messages in order; no consumer is made
    View(ViewArgs),
}

/// Runs a command about streams.
///
/// # Errors
/// [`crate::error::CliError`].
pub(crate) async fn run(command: &StreamCommand, settings: &Settings, json: bool) -> Result {
    let bus = connect(settings).await?;
    match command {
        StreamCommand::Ls { subject, names } => {
            manage::list(subject.as_deref(), *names, &bus, json).await
        }
        StreamCommand::Add { name, flags } => manage::add(name, flags, &bus, json).await,
        StreamCommand::Info { name, subjects } => manage::info(name, *subjects, &bus, json).await,
        StreamCommand::Edit { name, flags } => manage::edit(name, flags, &bus, json).await,
        StreamCommand::Rm { name, force } => manage::remove(name, &bus, *force).await,
        StreamCommand::Purge {
            name,
            subject,
            seq,
            keep,
            force,
        } => {
            let what = manage::Purge {
                subject: subject.as_deref(),
                seq: *seq,
                keep: *keep,
            };
            manage::purge(name, &what, &bus, *force, json).await
        }
        StreamCommand::Get {
            name,
            seq,
            last_for,
            shape,
        } => messages::get(name, *seq, last_for.as_deref(), *shape, &bus, json).await,
        StreamCommand::View(args) => messages::view(args, &bus, json).await,
    }
}
