//! Reading the configuration again while the server runs (SIGHUP): what may change is changed for open
//! connections too, and where anything else has changed, all of it is refused and the old one stays.

use tracing::info;

use super::flags::Flags;
use super::logging::Log;
use super::options::{Options, WebSocketOptions};
use super::{build, file};
use crate::node::Node;

/// The options that are in force from here on.
///
/// # Errors
/// Words for the log; nothing has changed then.
pub(super) fn reload(
    flags: &Flags,
    old: &Options,
    node: &Node,
    log: &Log,
) -> Result<Options, String> {
    if flags.config.is_none() {
        return Err(
            "can only reload config when a file is provided using -c or --config".to_owned(),
        );
    }
    let next = file::options(flags)?;
    let fixed = fixed(old, &next);
    if !fixed.is_empty() {
        return Err(format!(
            "config reload not supported for {}: restart the server for that",
            fixed.join(", ")
        ));
    }
    next.limits.check().map_err(|error| error.to_string())?;
    // Before anything is changed: files that can't be read or opened refuse the whole. Certificates are
    // read again where nothing else has changed too, since one is renewed in its place.
    let websocket = build::websocket(&next).map_err(|error| error.to_string())?;
    let tls = node
        .prepare_client_tls(next.tls.as_ref(), websocket.as_ref())
        .map_err(|error| error.to_string())?;
    let logging = (old.log != next.log).then(|| log.prepare(&next.log));
    let logging = logging.transpose().map_err(|error| error.to_string())?;
    // Users are taken as a whole or not at all. Nothing after them fails.
    if old.auth != next.auth {
        node.reload_users(&next.auth)
            .map_err(|error| error.to_string())?;
        info!(target: "nats_server", "Reloaded: authorization");
    }
    tls();
    if old.tls != next.tls || old.websocket != next.websocket {
        info!(target: "nats_server", "Reloaded: tls");
    }
    if old.limits != next.limits {
        node.set_limits(&next.limits);
        info!(target: "nats_server", "Reloaded: limits");
    }
    if let Some(logging) = logging {
        logging();
        info!(target: "nats_server", "Reloaded: logging");
    }
    for note in &next.notes {
        tracing::warn!(target: "nats_server", "{note}");
    }
    info!(target: "nats_server", "Reloaded server configuration");
    Ok(next)
}

/// The WebSocket listener without what may change while it serves.
fn place(options: &Options) -> Option<WebSocketOptions> {
    options.websocket.clone().map(|ws| WebSocketOptions {
        tls: None,
        same_origin: false,
        allowed_origins: Vec::new(),
        handshake_timeout: None,
        ..ws
    })
}

/// What differs and can't be changed while the server runs.
fn fixed(old: &Options, next: &Options) -> Vec<&'static str> {
    let differs = [
        ("host", old.host != next.host),
        ("port", old.port != next.port),
        (
            "http",
            (&old.http_host, old.http_port) != (&next.http_host, next.http_port),
        ),
        ("server_name", old.server_name != next.server_name),
        ("server_tags", old.server_tags != next.server_tags),
        (
            "client_advertise",
            old.client_advertise != next.client_advertise,
        ),
        ("pid_file", old.pid_file != next.pid_file),
        ("ports_file_dir", old.ports_file_dir != next.ports_file_dir),
        ("jetstream", old.jetstream != next.jetstream),
        ("websocket", place(old) != place(next)),
        ("cluster", old.cluster != next.cluster),
        (
            "system_account",
            old.auth.system_account != next.auth.system_account,
        ),
    ];
    differs
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(name, _)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::fixed;
    use crate::frontdoor::options::{Options, Port};

    #[test]
    fn what_needs_a_restart_is_named() {
        let old = Options::default();
        let mut next = old.clone();
        next.limits.connections_max = 7;
        next.log.debug = true;
        assert!(fixed(&old, &next).is_empty());
        next.port = Port::Free;
        next.jetstream = Some(Default::default());
        assert_eq!(fixed(&old, &next), ["port", "jetstream"]);
    }
}
