//! Running one node: configuration, logging, start, five lines, wait, stop.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tracing::{error, info, warn};

use super::out::{say, tell};
use super::{FAILED, WRONG, banner, notify, refused, tool};
use crate::config::NodeConfig;
use crate::config::args::RunArgs;
use crate::frontdoor::files::Left;
use crate::frontdoor::signals::{Signals, Wish};
use crate::node::Node;
use crate::{open_files, telemetry};

/// How long clients have, once told, before the first of them is closed.
const LAME_DUCK_GRACE: Duration = Duration::from_secs(10);
/// Over how long they are closed then.
const LAME_DUCK_DURATION: Duration = Duration::from_secs(110);

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
    open_files::raise(config.limits.connections_max);
    let mut signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return failed(format!("can't listen for signals: {error}")),
    };
    // A signal during a long start ends it: nothing is served yet, so nothing has to be handed over.
    let started = tokio::select! {
        started = Box::pin(Node::start(config.clone())) => started,
        () = stop_asked(&mut signals) => return ExitCode::SUCCESS,
    };
    let node = match started {
        Ok(node) => node,
        Err(error) => return failed(error.to_string()),
    };
    for line in banner::lines(&config, node.addresses(), &tool::command()) {
        say(&line);
    }
    let _pid = match pid_file(args.node.pid_file.as_deref()) {
        Ok(left) => left,
        Err(words) => return failed(words),
    };
    notify::ready();
    // A store that failed stays closed until the process starts again. Whoever supervises the process
    // does that when it ends; one that stayed would only go on saying that it is unwell.
    let failure = tokio::select! {
        () = heed(&node, args, &mut signals) => None,
        why = node.store_failed() => Some(why),
    };
    if let Some(why) = &failure {
        error!(error = %why, "the store has failed: this node ends, to be started again");
    }
    notify::stopping();
    tokio::select! {
        () = Box::pin(node.shutdown()) => {}
        () = signals.only_stop() => {}
    }
    if let Some(why) = failure {
        return failed(format!("the store has failed: {why}"));
    }
    info!("stopped");
    ExitCode::SUCCESS
}

/// A signal during a long start.
async fn stop_asked(signals: &mut Signals) {
    while !matches!(signals.next().await, Wish::Stop(_) | Wish::LameDuck) {}
}

/// Does what signals ask for until one asks to stop.
async fn heed(node: &Node, args: &RunArgs, signals: &mut Signals) {
    loop {
        let wish = tokio::select! {
            wish = signals.next() => wish,
            request = node.reload_asked() => {
                request.answer(reload(node, args));
                continue;
            }
        };
        match wish {
            Wish::Stop(signal) => {
                info!(signal, "shutting down");
                return;
            }
            Wish::LameDuck => {
                info!("lame duck mode: clients are sent to the other nodes");
                tokio::select! {
                    () = node.lame_duck(LAME_DUCK_GRACE, LAME_DUCK_DURATION) => {}
                    () = stop_asked(signals) => {}
                }
                return;
            }
            Wish::Reload => drop(reload(node, args)),
            Wish::Reopen => {}
        }
    }
}

/// Reads the certificates of client listeners again: a renewed one serves from then on, and nobody is
/// disconnected.
fn reload(node: &Node, args: &RunArgs) -> Result<(), String> {
    let reloaded = NodeConfig::from_args(args)
        .map_err(|error| error.to_string())
        .and_then(|now| {
            let (tls, websocket) = (now.client_tls.as_ref(), now.websocket.as_ref());
            let reloaded = node.reload_client_tls(tls, websocket);
            reloaded.map_err(|error| error.to_string())
        });
    match &reloaded {
        Ok(()) => {
            node.reconfigured();
            info!("certificates of client listeners read again");
        }
        Err(error) => warn!(%error, "nothing reloaded: everything stays as it was"),
    }
    reloaded
}

fn pid_file(path: Option<&Path>) -> Result<Option<Left>, String> {
    path.map(Left::with_pid).transpose()
}
