//! `bench`: how many messages a second a server carries, and how long each takes; any NATS server.
//! Bounded by a number of messages or a time, whichever comes first.

mod load;
mod messages;
mod report;
mod rooms;
mod stored;

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::error::Result;
use crate::settings::Settings;
use crate::text;

const EXAMPLES: &str = "\
Examples:
  unibus bench pub --msgs 1000000 --size 128 --clients 4
  unibus bench pub --subs 4                        and how long each message takes to them
  unibus bench sub orders --msgs 100000            counts what others publish
  unibus bench request --clients 16 --time 10s
  unibus bench stream --replicas 3 --in-flight 256 --json
  unibus bench kv --msgs 20000 --clients 8
  unibus bench room --msgs 20000                   encrypt, store, then read and decrypt
  unibus bench rekey --members 100                 invite, then make new keys for everybody

MB are 10^6 bytes of payload. What a bench stores, it deletes at its end; but rooms, which nobody can
delete: give those benches a node of their own, or the same room again.";

/// What to measure.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum BenchCommand {
    /// Publish; with --subs also receive, and measure the time between
    Pub(PubArgs),
    /// Receive what others publish, from the first message on
    Sub(SubArgs),
    /// Ask and be answered, one question at a time for each client
    #[command(alias = "req")]
    Request(RequestArgs),
    /// Set keys of a bucket, then get them
    Kv(StoredArgs),
    /// Publish to a stream and wait for its acknowledgements, then read it through a consumer
    Stream(StreamArgs),
    /// Encrypt, sign and publish in a room until its stream has stored it, then read and decrypt
    Room(RoomArgs),
    /// Invite members who never come to a room, then make new keys for all of them
    Rekey(RekeyArgs),
}

/// How much of it.
#[derive(Args, Clone, Debug)]
pub(crate) struct AmountArgs {
    /// How many messages in all
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) msgs: u64,
    /// End after so long, even with fewer messages
    #[arg(long, value_name = "TIME", value_parser = text::duration)]
    pub(crate) time: Option<Duration>,
    /// Bytes of a message
    #[arg(long, value_name = "SIZE", default_value = "128", value_parser = text::size)]
    pub(crate) size: u64,
    /// How many connections do it at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) clients: u16,
}

/// Flags of `bench pub`.
#[derive(Args, Clone, Debug)]
pub(crate) struct PubArgs {
    /// Where to publish [default: a subject of its own]
    pub(crate) subject: Option<String>,
    /// How many subscribers receive it
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=4096))]
    pub(crate) subs: u16,
    /// How much.
    #[command(flatten)]
    pub(crate) amount: AmountArgs,
}

/// Flags of `bench sub`.
#[derive(Args, Clone, Debug)]
pub(crate) struct SubArgs {
    /// What to receive
    pub(crate) subject: String,
    /// Queue group of the clients: each message goes to one of them
    #[arg(long, short, value_name = "GROUP")]
    pub(crate) queue: Option<String>,
    /// How much.
    #[command(flatten)]
    pub(crate) amount: AmountArgs,
}

/// Flags of `bench request`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RequestArgs {
    /// Whom to ask [default: a subject of its own]
    pub(crate) subject: Option<String>,
    /// How many connections answer; 0 where a service of yours does
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(..=1024))]
    pub(crate) responders: u16,
    /// How much.
    #[command(flatten)]
    pub(crate) amount: AmountArgs,
}

/// Flags of what stores.
#[derive(Args, Clone, Debug)]
pub(crate) struct StoredArgs {
    /// How many nodes keep it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub(crate) replicas: u8,
    /// Keep it in memory only
    #[arg(long)]
    pub(crate) memory: bool,
    /// How much.
    #[command(flatten)]
    pub(crate) amount: AmountArgs,
}

/// Flags of `bench stream`.
#[derive(Args, Clone, Debug)]
pub(crate) struct StreamArgs {
    /// How many messages of each client wait for their acknowledgement
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) in_flight: u16,
    /// Write only
    #[arg(long)]
    pub(crate) no_read: bool,
    /// How it is stored.
    #[command(flatten)]
    pub(crate) stored: StoredArgs,
}

/// Flags of `bench room`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RoomArgs {
    /// The room: its id or its subject [default: a new one, which stays]
    pub(crate) room: Option<String>,
    /// How many messages of each client wait for their acknowledgement
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) in_flight: u16,
    /// Write only
    #[arg(long)]
    pub(crate) no_read: bool,
    /// How much.
    #[command(flatten)]
    pub(crate) amount: AmountArgs,
}

/// Flags of `bench rekey`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RekeyArgs {
    /// How many members the room has, oneself included
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(2..=8192))]
    pub(crate) members: u16,
    /// How many new keys are made
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rounds: u16,
}

/// Measures.
///
/// # Errors
/// [`crate::error::CliError`].
pub(crate) async fn run(command: &BenchCommand, settings: &Settings, json: bool) -> Result {
    let reports = match command {
        BenchCommand::Pub(args) => messages::publish(args, settings).await?,
        BenchCommand::Sub(args) => messages::receive(args, settings).await?,
        BenchCommand::Request(args) => messages::request(args, settings).await?,
        BenchCommand::Kv(args) => stored::kv(args, settings).await?,
        BenchCommand::Stream(args) => stored::stream(args, settings).await?,
        BenchCommand::Room(args) => rooms::room(args, settings).await?,
        BenchCommand::Rekey(args) => rooms::rekey(args, settings).await?,
    };
    report::print(&reports, json)
}
