//! The command line of `unibus-node`: what may be typed, and the exit status it ends with. Data goes
//! to stdout, talk to stderr. Commands that ask a running cluster are ordinary NATS clients; nothing
//! here reaches into a node's parts.
//!
//! Exit status: 0 done, 1 it did not work, 2 the command or the configuration is wrong.

mod admin;
mod asker;
mod backup;
pub mod banner;
mod cluster;
mod health;
mod link;
mod local_tls;
mod mover;
mod notify;
mod out;
mod pki;
mod quickstart;
mod recover;
mod run;
mod snapshot;
mod tool;
mod users;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing::debug;

use crate::config::args::RunArgs;
use crate::config::{ConfigError, NodeConfig};
use crate::node::{CertificateError, check_route_certificate};
use crate::{boot_guard, frontdoor, telemetry};

use self::out::{say, tell};

/// Status of a command that did not work.
const FAILED: u8 = 1;
/// Status of a command or configuration that is wrong.
const WRONG: u8 = boot_guard::EXIT_STATUS;

const EXAMPLES: &str = "\
Without a command, one node runs. Examples:
  unibus-node                                    one node on loopback, no questions asked
  unibus-node quickstart                         a secured cluster of three on this machine
  unibus-node pki init --dir pki                 a CA for a cluster of your own
  unibus-node pki issue --dir pki --name a --host a.example
  unibus-node --routes a.example,b.example,c.example
  unibus-node user add UABC… --role service --pub '>' --sub '>'
  unibus-node cluster status";

/// A secure NATS-compatible message bus: one binary on every host.
#[derive(Debug, Parser)]
#[command(
    name = "unibus-node",
    version,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do; nothing = run a node.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of a running node.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Everything but running a node.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a secured three-node cluster on loopback, prove it, say how to connect; until Ctrl-C
    Quickstart(quickstart::QuickstartArgs),
    /// Make the bus's own certificate authority and certificates for its nodes
    #[command(subcommand)]
    Pki(pki::PkiCommand),
    /// Say who may use the bus, on the running cluster
    #[command(subcommand)]
    User(users::UserCommand),
    /// Write the control plane's records to a file, or from one to the cluster
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Move a membershipd database (SQLite) into the cluster: backup, write, compare
    MigrateToKv(Box<snapshot::MigrateArgs>),
    /// See and change the members of the running cluster
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Save the state of the running cluster in a file; make a new cluster of one
    #[command(subcommand)]
    Backup(backup::BackupCommand),
    /// Say what is left of a damaged store, and make a new one of it when no majority can replace it
    Recover(recover::RecoverArgs),
    /// Judge a configuration as starting would, and print what it means, without starting
    CheckConfig(Box<RunArgs>),
    /// Ask the node on this host whether it is well; status 0 if so
    Health(health::HealthArgs),
    /// Tell a running node to leave (ldm: clients are sent to the other nodes first), to stop, or to
    /// read its certificates and configuration again (reload)
    Signal {
        /// What to do: ldm, reload, stop
        #[arg(value_parser = ["ldm", "reload", "stop"])]
        command: String,
        /// The file that the node was given with --pid-file
        #[arg(long, value_name = "FILE", env = "UNIBUS_PID_FILE")]
        pid_file: std::path::PathBuf,
    },
    /// Be a nats-server: its command line and its configuration file; see nats-server --help
    #[command(disable_help_flag = true, disable_version_flag = true)]
    NatsServer {
        /// nats-server's flags
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "FLAGS"
        )]
        arguments: Vec<std::ffi::OsString>,
    },
    /// Print the version
    Version,
}

/// The whole program: reads the command line, does what it says, ends with its status.
#[must_use]
pub fn main() -> ExitCode {
    // Before the parser: nats-server's flags are not in its form (-js, -sd=DIR, -p -1).
    if let Some(arguments) = frontdoor::arguments(std::env::args_os()) {
        return frontdoor::main(arguments);
    }
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(dispatch(cli))),
        Err(error) => {
            tell(&format!("unibus-node: the runtime does not start: {error}"));
            ExitCode::from(FAILED)
        }
    }
}

/// Does what the command line says.
pub async fn dispatch(cli: Cli) -> ExitCode {
    match cli.command {
        None => Box::pin(run::run(&cli.run)).await,
        Some(Command::Quickstart(args)) => Box::pin(quickstart::quickstart(&args)).await,
        Some(Command::Pki(command)) => pki::pki(&command),
        Some(Command::User(command)) => Box::pin(users::user(&command)).await,
        Some(Command::Snapshot(command)) => Box::pin(snapshot::snapshot(&command)).await,
        Some(Command::MigrateToKv(args)) => Box::pin(snapshot::migrate(&args)).await,
        Some(Command::Cluster(command)) => Box::pin(cluster::cluster(&command)).await,
        Some(Command::Backup(command)) => Box::pin(backup::backup(&command)).await,
        Some(Command::Recover(args)) => recover::recover(&args),
        Some(Command::CheckConfig(args)) => check_config(&args),
        Some(Command::Health(args)) => health::health(&args),
        Some(Command::Signal { command, pid_file }) => signal(&command, &pid_file),
        // `main` has seen to it already, except where this is called with a command line of its own.
        Some(Command::NatsServer { .. }) => {
            tell("unibus-node: nats-server has to be the first word");
            ExitCode::from(WRONG)
        }
        Some(Command::Version) => {
            say(&format!("unibus-node {}", env!("CARGO_PKG_VERSION")));
            ExitCode::SUCCESS
        }
    }
}

fn check_config(args: &RunArgs) -> ExitCode {
    match NodeConfig::from_args(args) {
        Ok(config) => {
            say(&format!("{config:#?}"));
            let certificate = config.cluster.as_ref().map(|cluster| &cluster.tls.cert);
            let checked = certificate.map(|path| check_route_certificate(path));
            if let Some(Err(error @ CertificateError::Expired { .. })) = checked {
                tell(&format!("unibus-node: {error}"));
                return ExitCode::from(WRONG);
            }
            ExitCode::SUCCESS
        }
        Err(error) => refused(&error),
    }
}

fn signal(command: &str, pid_file: &std::path::Path) -> ExitCode {
    match frontdoor::send::send(&format!("{command}={}", pid_file.display())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("unibus-node: {error}"));
            ExitCode::from(FAILED)
        }
    }
}

/// Says why a configuration is refused, every reason of it.
fn refused(error: &ConfigError) -> ExitCode {
    tell(&format!("unibus-node: {error}"));
    ExitCode::from(WRONG)
}

/// Logging for commands: quiet unless asked for, because their result is what they print.
fn quiet_logging(verbose: bool) {
    let level = if verbose {
        "debug"
    } else {
        "error,openraft=off,async_nats=off"
    };
    let args = crate::config::args::LogArgs {
        log_level: Some(level.to_owned()),
        ..Default::default()
    };
    if let Err(error) = telemetry::init(&args) {
        debug!(%error, "logging is as it was");
    }
}

#[cfg(test)]
mod tests;
