//! One server process behind nats-server's command line: start, say where it listens, wait for
//! signals, stop.

use std::net::SocketAddr;
use std::process::ExitCode;

use tracing::{error, info, warn};

use super::logging::Log;
use super::options::Options;
use super::{FAILED, build, tell};
use crate::config::NodeConfig;
use crate::node::{self, ADVERTISED_VERSION, Node};
use crate::shutdown;

/// Runs until a signal ends it.
pub(super) async fn run(options: Options) -> ExitCode {
    let server_id = node::server_id();
    let config = match build::node_config(&options, &server_id) {
        Ok(config) => config,
        Err(error) => return failed(&error.to_string()),
    };
    if let Err(error) = Log::init(&options.log) {
        return failed(&error.to_string());
    }
    let mut shutdown = match shutdown::on_signals() {
        Ok(shutdown) => shutdown,
        Err(error) => return failed(&format!("can't listen for signals: {error}")),
    };
    announce(&config, &server_id, &options);
    if let Err(error) = write_pid(&options) {
        error!("{error}");
        return ExitCode::from(FAILED);
    }
    let started = tokio::select! {
        started = Box::pin(Node::start(config.clone())) => started,
        () = shutdown.wait() => {
            remove_pid(&options);
            return ExitCode::SUCCESS;
        }
    };
    let node = match started {
        Ok(node) => node,
        Err(error) => {
            error!("{error}");
            remove_pid(&options);
            return ExitCode::from(FAILED);
        }
    };
    ready(&config, &node);
    shutdown.wait().await;
    Box::pin(node.shutdown()).await;
    remove_pid(&options);
    info!(target: "nats_server", "Server Exiting..");
    ExitCode::SUCCESS
}

fn failed(words: &str) -> ExitCode {
    tell(&format!("nats-server: {words}"));
    ExitCode::from(FAILED)
}

/// What is known before anything listens.
fn announce(config: &NodeConfig, server_id: &str, options: &Options) {
    info!(target: "nats_server", "Starting nats-server");
    info!(target: "nats_server", "  Version:  {ADVERTISED_VERSION}");
    let product = env!("CARGO_PKG_VERSION");
    info!(target: "nats_server", "  Git:      [unibus-{product}]");
    info!(target: "nats_server", "  Name:     {}", config.server_name);
    info!(target: "nats_server", "  ID:       {server_id}");
    for note in &options.notes {
        warn!(target: "nats_server", "{note}");
    }
    if config.jetstream.is_some() {
        info!(target: "nats_server", "Starting JetStream");
        info!(target: "nats_server", "  Store Directory: \"{}\"", config.data_dir.display());
    }
}

/// Where it listens, in the words that others read from the log.
fn ready(config: &NodeConfig, node: &Node) {
    let addresses = node.addresses();
    if let Some(at) = addresses.monitor {
        info!(target: "nats_server", "Starting http monitor on {at}");
    }
    let client = SocketAddr::new(config.client_listen.ip(), addresses.client.port());
    info!(target: "nats_server", "Listening for client connections on {client}");
    info!(target: "nats_server", "Server is ready");
}

fn write_pid(options: &Options) -> Result<(), String> {
    let Some(path) = &options.pid_file else {
        return Ok(());
    };
    std::fs::write(path, std::process::id().to_string())
        .map_err(|error| format!("the pid file {} can't be written: {error}", path.display()))
}

fn remove_pid(options: &Options) {
    if let Some(path) = &options.pid_file {
        // It may have been removed by others; there is nothing left to do about it.
        let _gone = std::fs::remove_file(path);
    }
}
