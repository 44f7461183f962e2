//! Running one node: configuration, logging, start, five lines, wait, stop.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::out::{say, tell};
use super::{FAILED, WRONG, banner, refused};
use crate::config::NodeConfig;
use crate::config::args::RunArgs;
use crate::node::Node;
use crate::shutdown::Shutdown;
use crate::{shutdown, telemetry};

pub(super) async fn run(args: &RunArgs) -> ExitCode {
    if let Err(error) = telemetry::init(&args.log) {
        tell(&format!("unibus-node: {error}"));
        return ExitCode::from(WRONG);
    }
    let config = match NodeConfig::from_args(args) {
        Ok(config) => config,
        Err(error) => return refused(&error),
    };
    let failed = |words: String| {
        tell(&format!("unibus-node: {words}"));
        ExitCode::from(FAILED)
    };
    let mut shutdown = match shutdown::on_signals() {
        Ok(shutdown) => shutdown,
        Err(error) => return failed(format!("can't listen for signals: {error}")),
    };
    // A signal during a long start ends it: nothing is served yet, so nothing has to be handed over.
    let started = tokio::select! {
        started = Box::pin(Node::start(config.clone())) => started,
        () = shutdown.wait() => return ExitCode::SUCCESS,
    };
    let node = match started {
        Ok(node) => node,
        Err(error) => return failed(error.to_string()),
    };
    for line in banner::lines(&config, node.addresses()) {
        say(&line);
    }
    follow_hangups(&node, args, &mut shutdown).await;
    Box::pin(node.shutdown()).await;
    info!("stopped");
    ExitCode::SUCCESS
}

/// Waits for the end. At each SIGHUP the certificates of client listeners are read again: a renewed one
/// serves from then on, and nobody is disconnected.
async fn follow_hangups(node: &Node, args: &RunArgs, shutdown: &mut Shutdown) {
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => {
            warn!(%error, "can't listen for SIGHUP: renewed certificates need a restart");
            return shutdown.wait().await;
        }
    };
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            Some(()) = hangups.recv() => {}
        }
        let reloaded = NodeConfig::from_args(args)
            .map_err(|error| error.to_string())
            .and_then(|now| {
                let (tls, websocket) = (now.client_tls.as_ref(), now.websocket.as_ref());
                let reloaded = node.reload_client_tls(tls, websocket);
                reloaded.map_err(|error| error.to_string())
            });
        match reloaded {
            Ok(()) => info!("certificates of client listeners read again"),
            Err(error) => warn!(%error, "nothing reloaded: everything stays as it was"),
        }
    }
}
