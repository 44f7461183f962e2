//! What may be typed: the command tree and the flags that every command takes.

use clap::{Parser, Subcommand};

use crate::bench::BenchCommand;
use crate::blobs::BlobCommand;
use crate::bridge::BridgeArgs;
use crate::chat::ChatArgs;
use crate::consumers::ConsumerCommand;
use crate::context::ContextCommand;
use crate::identity::IdentityCommand;
use crate::kv::KvCommand;
use crate::messages::{PubArgs, ReplyArgs, ReqArgs, SubArgs};
use crate::objects::ObjectCommand;
use crate::room::RoomCommand;
use crate::settings::ConnectionArgs;
use crate::streams::StreamCommand;
use crate::worker::WorkerArgs;

const EXAMPLES: &str = "\
Examples:
  unibus sub 'orders.>'                            everything published below orders
  unibus pub orders.new '{\"id\": 1}'                one message
  unibus req time.now ''                           a question and its answer
  unibus kv put config theme dark                  a key of a bucket
  unibus context save prod --server tls://a.example --nkey app.nk --select
  unibus chat                                      talk in rooms, in a terminal
  unibus room pub team.kitchen 'tea is ready'       nobody but the room's members can read it
  unibus completions bash > ~/.local/share/bash-completion/completions/unibus

Exit status: 0 done, 1 it did not work, 2 the command is wrong. Data goes to stdout, talk to stderr.";

/// Publish, subscribe, ask, store and measure, on any NATS server; encrypted rooms on a unibus.
#[derive(Debug, Parser)]
#[command(name = "unibus", version, after_help = EXAMPLES, disable_help_subcommand = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// How to reach the server.
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    /// Print JSON: one document, or one record a line where they come one by one
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Publish messages
    #[command(alias = "publish")]
    Pub(PubArgs),
    /// Print what is published to a subject
    #[command(alias = "subscribe")]
    Sub(SubArgs),
    /// Ask a question and print the answer
    #[command(alias = "request")]
    Req(ReqArgs),
    /// Answer questions: with a text, what was asked, or what a command prints
    Reply(ReplyArgs),
    /// Keys and values in buckets
    #[command(subcommand)]
    Kv(KvCommand),
    /// Files of any size in buckets
    #[command(subcommand)]
    Object(ObjectCommand),
    /// Streams: stored messages
    #[command(subcommand)]
    Stream(StreamCommand),
    /// Consumers: who reads a stream, and how far
    #[command(subcommand)]
    Consumer(ConsumerCommand),
    /// Talk in rooms, in a terminal
    Chat(ChatArgs),
    /// End-to-end encrypted rooms
    #[command(subcommand)]
    Room(RoomCommand),
    /// Encrypted files, in rooms and out of them
    #[command(subcommand)]
    Blob(BlobCommand),
    /// A bot that joins the rooms it is invited to, and answers there
    Worker(WorkerArgs),
    /// A gateway between a room and plain subjects, for devices that can't do the cryptography
    Bridge(BridgeArgs),
    /// Measure a server
    #[command(subcommand)]
    Bench(BenchCommand),
    /// One's own keys
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// Servers and identities under a name
    #[command(subcommand)]
    Context(ContextCommand),
    /// Print a script that completes unibus's commands in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::Cli;

    #[test]
    fn the_command_tree_is_sound_and_every_flag_has_help() {
        fn walk(command: &clap::Command) {
            for arg in command.get_arguments() {
                let name = command.get_name();
                assert!(arg.get_help().is_some(), "{name} {}", arg.get_id());
            }
            command.get_subcommands().for_each(walk);
        }
        Cli::command().debug_assert();
        walk(&Cli::command());
    }

    #[test]
    fn connection_flags_stand_before_or_after_a_command() {
        for line in [
            "unibus -s nats://h:1 kv ls",
            "unibus kv ls --server nats://h:1",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.connection.server, ["nats://h:1"]);
        }
    }
}
