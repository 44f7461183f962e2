//! Running one node: configuration, logging, start, five lines, wait, stop.

use std::process::ExitCode;

use tracing::info;

use super::out::{say, tell};
use super::{FAILED, WRONG, banner, refused};
use crate::config::NodeConfig;
use crate::config::args::RunArgs;
use crate::node::Node;
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
    shutdown.wait().await;
    Box::pin(node.shutdown()).await;
    info!("stopped");
    ExitCode::SUCCESS
}
