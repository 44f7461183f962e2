//! Reading the configuration again while the server runs (SIGHUP): what may change is changed for open
//! connections too, and where anything else has changed, all of it is refused and the old one stays.

use tracing::info;

use super::file;
use super::flags::Flags;
use super::logging::Log;
use super::options::Options;
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
    let mut next = file::options(flags)?;
    let fixed = fixed(old, &next);
    if !fixed.is_empty() {
        return Err(format!(
            "config reload not supported for {}: restart the server for that",
            fixed.join(", ")
        ));
    }
    next.limits.auth_timeout = next.auth.timeout;
    next.limits.check().map_err(|error| error.to_string())?;
    if old.limits != next.limits {
        node.set_limits(&next.limits);
        info!(target: "nats_server", "Reloaded: limits");
    }
    if old.log != next.log {
        log.change(&next.log).map_err(|error| error.to_string())?;
        info!(target: "nats_server", "Reloaded: logging");
    }
    for note in &next.notes {
        tracing::warn!(target: "nats_server", "{note}");
    }
    info!(target: "nats_server", "Reloaded server configuration");
    Ok(next)
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
        ("websocket", old.websocket != next.websocket),
        ("cluster", old.cluster != next.cluster),
        ("tls", old.tls != next.tls),
        ("authorization", old.auth.users != next.auth.users),
        ("accounts", old.auth.accounts != next.auth.accounts),
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
