//! `consumer`: who reads a stream, and how far.

mod config;
mod manage;
mod next;

use clap::Subcommand;

use crate::connect::connect;
use crate::error::Result;
use crate::settings::Settings;

pub(crate) use config::ConsumerFlags;
pub(crate) use next::NextArgs;

const EXAMPLES: &str = "\
Examples:
  unibus consumer add ORDERS billing --filter 'orders.paid' --ack-wait 1m --max-deliver 5
  unibus consumer next ORDERS billing --count 10
  unibus consumer next ORDERS billing --no-ack --raw
  unibus consumer pause ORDERS billing 1h
  unibus consumer ls ORDERS --json";

/// The commands about consumers.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum ConsumerCommand {
    /// List a stream's consumers
    #[command(alias = "list")]
    Ls {
        /// The stream
        stream: String,
        /// Names alone, one a line
        #[arg(long, short)]
        names: bool,
    },
    /// Make a consumer
    #[command(alias = "create")]
    Add {
        /// The stream
        stream: String,
        /// The consumer's name
        name: String,
        /// What it delivers.
        #[command(flatten)]
        flags: Box<ConsumerFlags>,
    },
    /// Print what a consumer is and how far it has come
    #[command(alias = "status")]
    Info {
        /// The stream
        stream: String,
        /// The consumer
        name: String,
    },
    /// Delete a consumer
    #[command(alias = "delete")]
    Rm {
        /// The stream
        stream: String,
        /// The consumer
        name: String,
        /// Don't ask
        #[arg(long, short)]
        force: bool,
    },
    /// Fetch messages of a pull consumer and acknowledge them
    Next(NextArgs),
    /// Deliver nothing for a while
    Pause {
        /// The stream
        stream: String,
        /// The consumer
        name: String,
        /// How long (1h), or until when (2026-01-31T12:00:00Z)
        until: String,
    },
    /// Deliver again
    Resume {
        /// The stream
        stream: String,
        /// The consumer
        name: String,
    },
}

/// Runs a command about consumers.
///
/// # Errors
/// [`crate::error::CliError`].
pub(crate) async fn run(command: &ConsumerCommand, settings: &Settings, json: bool) -> Result {
    let bus = connect(settings).await?;
    match command {
        ConsumerCommand::Ls { stream, names } => manage::list(stream, *names, &bus, json).await,
        ConsumerCommand::Add {
            stream,
            name,
            flags,
        } => manage::add(stream, name, flags, &bus, json).await,
        ConsumerCommand::Info { stream, name } => manage::info(stream, name, &bus, json).await,
        ConsumerCommand::Rm {
            stream,
            name,
            force,
        } => manage::remove(stream, name, &bus, *force).await,
        ConsumerCommand::Next(args) => next::next(args, &bus, json).await,
        ConsumerCommand::Pause {
            stream,
            name,
            until,
        } => manage::pause(stream, name, Some(until), &bus, json).await,
        ConsumerCommand::Resume { stream, name } => {
            manage::pause(stream, name, None, &bus, json).await
        }
    }
}
