//! One server process behind nats-server's command line: start, say where it listens, heed signals,
//! stop.

use std::net::SocketAddr;
use std::process::ExitCode;

use tracing::{error, info, warn};

use super::build::{self, Built};
use super::files::{self, Left};
use super::flags::Flags;
use super::logging::Log;
use super::options::Options;
use super::signals::{Signals, Wish};
use super::{FAILED, reload, tell};
use crate::config::NodeConfig;
use crate::node::{self, ADVERTISED_VERSION, Node};
use crate::open_files;

/// Runs until a signal ends it.
pub(super) async fn run(flags: &Flags, options: Options) -> ExitCode {
    let server_id = node::server_id();
    let built = match build::node_config(&options, &server_id) {
        Ok(built) => built,
        Err(error) => return failed(&error.to_string()),
    };
    let log = match Log::init(&options.log) {
        Ok(log) => log,
        Err(error) => return failed(&error.to_string()),
    };
    let signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return failed(&format!("can't listen for signals: {error}")),
    };
    announce(&built.config, &server_id, &options, flags);
    open_files::raise(built.config.limits.connections_max);
    match Box::pin(serve(flags, options, built, &log, signals)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => {
            error!(target: "nats_server", "{words}");
            // Where lines go to a file, whoever started this sees nothing of them.
            if log.is_file() {
                return failed(&words);
            }
            ExitCode::from(FAILED)
        }
    }
}

fn failed(words: &str) -> ExitCode {
    tell(&format!("nats-server: {words}"));
    ExitCode::from(FAILED)
}

async fn serve(
    flags: &Flags,
    mut options: Options,
    built: Built,
    log: &Log,
    mut signals: Signals,
) -> Result<(), String> {
    let _pid = options
        .pid_file
        .as_deref()
        .map(Left::with_pid)
        .transpose()?;
    let Built { config, routes } = built;
    let started = tokio::select! {
        started = Box::pin(Node::start(config.clone())) => started,
        () = stopped_early(&mut signals) => return Ok(()),
    };
    let node = started.map_err(|error| error.to_string())?;
    // The keys of the routes are in memory now.
    drop(routes);
    let _ports = ready(&options, &config, &node)?;
    loop {
        let wish = tokio::select! {
            wish = signals.next() => wish,
            request = node.reload_asked() => {
                request.answer(reload(flags, &mut options, &node, log));
                continue;
            }
        };
        match wish {
            Wish::Stop(name) => {
                info!(target: "nats_server", "Trapped \"{name}\" signal");
                break;
            }
            Wish::LameDuck => {
                lame_duck(&options, &node, &mut signals).await;
                break;
            }
            Wish::Reopen => reopen(log, &options),
            Wish::Reload => {
                info!(target: "nats_server", "Trapped \"hangup\" signal");
                drop(reload(flags, &mut options, &node, log));
            }
        }
    }
    info!(target: "nats_server", "Initiating Shutdown...");
    tokio::select! {
        () = Box::pin(node.shutdown()) => {}
        () = signals.only_stop() => {}
    }
    info!(target: "nats_server", "Server Exiting..");
    Ok(())
}

/// A signal to stop during the start: nothing is served yet, so nothing has to be handed over.
async fn stopped_early(signals: &mut Signals) {
    while !matches!(signals.next().await, Wish::Stop(_) | Wish::LameDuck) {}
}

async fn lame_duck(options: &Options, node: &Node, signals: &mut Signals) {
    info!(target: "nats_server", "Entering lame duck mode, stop accepting new clients");
    let plan = &options.lame_duck;
    let duration = plan.duration.saturating_sub(plan.grace);
    tokio::select! {
        () = node.lame_duck(plan.grace, duration) => {}
        () = stopped_early(signals) => {}
    }
}

/// Reads the configuration again.
fn reload(flags: &Flags, options: &mut Options, node: &Node, log: &Log) -> Result<(), String> {
    match reload::reload(flags, options, node, log) {
        Ok(next) => {
            *options = next;
            node.reconfigured();
            Ok(())
        }
        Err(words) => {
            let words = words.replace('\n', "; ");
            error!(target: "nats_server", "Failed to reload server configuration: {words}");
            Err(words)
        }
    }
}

fn reopen(log: &Log, options: &Options) {
    match log.change(&options.log) {
        Ok(()) => info!(target: "nats_server", "File log re-opened"),
        Err(error) => error!(target: "nats_server", "{error}"),
    }
}

/// What is known before anything listens.
fn announce(config: &NodeConfig, server_id: &str, options: &Options, flags: &Flags) {
    info!(target: "nats_server", "Starting nats-server");
    info!(target: "nats_server", "  Version:  {ADVERTISED_VERSION}");
    let product = env!("CARGO_PKG_VERSION");
    info!(target: "nats_server", "  Git:      [unibus-{product}]");
    if let Some(cluster) = &config.cluster {
        info!(target: "nats_server", "  Cluster:  {}", cluster.name);
    }
    info!(target: "nats_server", "  Name:     {}", config.server_name);
    info!(target: "nats_server", "  ID:       {server_id}");
    if let Some(path) = &flags.config {
        info!(target: "nats_server", "Using configuration file: {}", path.display());
    }
    for note in &options.notes {
        warn!(target: "nats_server", "{note}");
    }
    if config.jetstream.is_some() {
        info!(target: "nats_server", "Starting JetStream");
        info!(target: "nats_server", "  Store Directory: \"{}\"", config.data_dir.display());
    }
}

/// Says where it listens, in the words that others read from the log, and writes the ports file.
fn ready(options: &Options, config: &NodeConfig, node: &Node) -> Result<Option<Left>, String> {
    let addresses = node.addresses();
    if let Some(at) = addresses.monitor {
        info!(target: "nats_server", "Starting http monitor on {at}");
    }
    if let Some(at) = addresses.websocket {
        let tls = config.websocket.as_ref().is_some_and(|ws| ws.tls.is_some());
        let scheme = if tls { "wss" } else { "ws" };
        info!(target: "nats_server", "Listening for websocket clients on {scheme}://{at}");
    }
    let client = SocketAddr::new(config.client_listen.ip(), addresses.client.port());
    // The ports file first: who waits for these lines may read it next.
    let ports = files::write_ports(options, config, addresses)?;
    info!(target: "nats_server", "Listening for client connections on {client}");
    if config.client_tls.is_some() {
        info!(target: "nats_server", "TLS required for client connections");
    }
    info!(target: "nats_server", "Server is ready");
    if let (Some(at), Some(cluster)) = (addresses.cluster, &config.cluster) {
        info!(target: "nats_server", "Cluster name is {}", cluster.name);
        info!(target: "nats_server", "Listening for route connections on {at}");
    }
    Ok(ports)
}
