//! The program `unibus`: what people and scripts do with a bus. An ordinary client of any NATS server:
//! it knows the protocol through async-nats and no part of a node.
//!
//! `main` reads the command line (`args`), `settings` and `context` say where to connect and as whom,
//! `connect` does, and one folder a command does the rest. Exit status: 0 done, 1 it did not work, 2
//! the command is wrong.

mod api;
mod args;
mod bench;
mod blobs;
mod bridge;
mod chat;
mod connect;
mod consumers;
mod context;
mod error;
mod identity;
mod kv;
mod local_file;
mod messages;
mod objects;
mod output;
mod room;
mod session;
mod settings;
mod shell;
mod silence;
mod streams;
mod text;
mod worker;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use self::args::{Cli, Command};
use self::error::{CliError, FAILED, Result};

/// The whole program: reads the command line, does what it says, ends with its status.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            output::tell(&format!("unibus: the runtime does not start: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    let done = runtime.block_on(Box::pin(run(&cli)));
    // A read of stdin may still block a thread; nobody waits for it.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, CliError::ReaderGone) {
                output::tell(&format!("unibus: {error}"));
            }
            ExitCode::from(error.status())
        }
    }
}

/// Does what the command line says.
async fn run(cli: &Cli) -> Result {
    match &cli.command {
        Command::Context(command) => return context::run(command, cli),
        Command::Completions { shell } => return completions(*shell),
        _ => {}
    }
    let settings = context::settings(&cli.connection)?;
    match &cli.command {
        Command::Identity(command) => identity::run(command, &settings, cli.json),
        Command::Pub(args) => Box::pin(messages::publish(args, &settings, cli.json)).await,
        Command::Sub(args) => Box::pin(messages::subscribe(args, &settings, cli.json)).await,
        Command::Req(args) => Box::pin(messages::request(args, &settings, cli.json)).await,
        Command::Reply(args) => Box::pin(messages::reply(args, &settings, cli.json)).await,
        Command::Kv(command) => Box::pin(kv::run(command, &settings, cli.json)).await,
        Command::Object(command) => Box::pin(objects::run(command, &settings, cli.json)).await,
        Command::Stream(command) => Box::pin(streams::run(command, &settings, cli.json)).await,
        Command::Consumer(command) => Box::pin(consumers::run(command, &settings, cli.json)).await,
        Command::Chat(args) => Box::pin(chat::run(args, &settings)).await,
        Command::Room(command) => Box::pin(room::run(command, &settings, cli.json)).await,
        Command::Blob(command) => Box::pin(blobs::run(command, &settings, cli.json)).await,
        Command::Worker(args) => Box::pin(worker::run(args, &settings, cli.json)).await,
        Command::Bridge(args) => Box::pin(bridge::run(args, &settings, cli.json)).await,
        Command::Bench(command) => Box::pin(bench::run(command, &settings, cli.json)).await,
        Command::Context(_) | Command::Completions { .. } => Ok(()),
    }
}

fn completions(shell: clap_complete::Shell) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "unibus", &mut script);
    output::bytes(&script)
}
