//! The directives of the file itself.

use super::field::{Field, Findings, each};
use super::{accounts, auth, cluster, jetstream, tls, websocket};
use crate::config::tls::HandshakeFirst;
use crate::frontdoor::conf::Map;
use crate::frontdoor::options::Options;

/// What may stand here, without the second names of the same.
const KNOWN: &[&str] = &[
    "listen",
    "port",
    "host",
    "net",
    "client_advertise",
    "server_name",
    "server_tags",
    "http",
    "http_port",
    "monitor",
    "monitor_port",
    "https",
    "https_port",
    "debug",
    "trace",
    "logtime",
    "log_file",
    "pid_file",
    "ports_file_dir",
    "store_dir",
    "max_payload",
    "max_connections",
    "max_control_line",
    "max_pending",
    "max_subscriptions",
    "max_subscription_tokens",
    "ping_interval",
    "ping_max",
    "write_deadline",
    "lame_duck_duration",
    "lame_duck_grace_period",
    "authorization",
    "accounts",
    "system_account",
    "no_auth_user",
    "tls",
    "allow_non_tls",
    "websocket",
    "jetstream",
    "cluster",
    "leafnodes",
];

/// Directives about things that this server does in its own way or not at all, without a difference
/// that a client could see.
const IGNORED: &[&str] = &[
    "logtime_utc",
    "log_size_limit",
    "logfile_size_limit",
    "logfile_max_num",
    "log_max_num",
    "max_traced_msg_len",
    "trace_verbose",
    "trace_headers",
    "syslog",
    "remote_syslog",
    "prof_port",
    "prof_block_rate",
    "disable_sublist_cache",
    "connect_error_reports",
    "reconnect_error_reports",
    "max_closed_clients",
    "http_base_path",
    "no_fast_producer_stall",
    "server_metadata",
    "feature_flags",
    "store_dir_permissions",
];

/// Directives that would make a server do something this one can't, with the reason.
const REFUSED: &[(&str, &str)] = &[
    ("operator", JWT),
    ("operators", JWT),
    ("root", JWT),
    ("roots", JWT),
    ("resolver", JWT),
    ("account_resolver", JWT),
    ("resolver_preload", JWT),
    ("resolver_pinned_accounts", JWT),
    ("resolver_tls", JWT),
    ("trusted", JWT),
    ("trusted_keys", JWT),
    ("default_sentinel", JWT),
    (
        "gateway",
        "superclusters are not: leave it out, or use unibus-node --routes",
    ),
    ("mqtt", "MQTT is not: leave it out"),
    (
        "mappings",
        "subject mappings of an account are not: leave it out",
    ),
    (
        "maps",
        "subject mappings of an account are not: leave it out",
    ),
    ("ocsp", "OCSP stapling is not: leave it out"),
    (
        "no_header_support",
        "headers are always there: leave it out",
    ),
];

const JWT: &str = "accounts and users as JWTs are not; use accounts {} with users, or unibus-node's \
    own users (unibus-node user add)";

pub(super) fn read(map: &Map, findings: &mut Findings) -> Options {
    let mut options = Options::default();
    // JWTs come as a bundle of directives: one refusal says it all.
    let mut jwt_refused = false;
    each(map, "", KNOWN, findings, |key, field, findings| {
        if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == key) {
            if *why != JWT || !std::mem::replace(&mut jwt_refused, true) {
                findings.refuse(&field, why);
            }
            return true;
        }
        if IGNORED.contains(&key) {
            findings.note(&field, "has no effect here");
            return true;
        }
        listening(key, field, &mut options, findings)
            || process(key, field, &mut options, findings)
            || limits(key, field, &mut options, findings)
            || blocks(key, field, &mut options, findings)
    });
    relate(map, &mut options, findings);
    options
}

fn listening(key: &str, field: Field<'_>, options: &mut Options, findings: &mut Findings) -> bool {
    match key {
        "listen" => {
            if let Some((host, port)) = field.listen(findings) {
                options.host = host.unwrap_or_else(|| std::mem::take(&mut options.host));
                options.port = port.unwrap_or(options.port);
            }
        }
        "port" => {
            if let Some(port) = field.port(findings).flatten() {
                options.port = port;
            }
        }
        "host" | "net" => {
            if let Some(host) = field.text(findings) {
                options.host = host;
            }
        }
        "client_advertise" => options.client_advertise = field.text(findings),
        "server_name" => options.server_name = server_name(&field, findings),
        "server_tags" => options.server_tags = field.texts(findings).unwrap_or_default(),
        "http" | "monitor" => {
            if let Some((host, port)) = field.listen(findings) {
                options.http_host = host;
                options.http_port = port;
            }
        }
        "http_port" | "monitor_port" => options.http_port = field.port(findings).flatten(),
        "https" | "https_port" => {
            let why = "monitoring is served in plain HTTP: use http, on loopback or behind a proxy";
            findings.refuse(&field, why);
        }
        _ => return false,
    }
    true
}

/// A name is shown in the protocol's text and in subjects: no white space, and nothing empty.
fn server_name(field: &Field<'_>, findings: &mut Findings) -> Option<String> {
    let name = field.text(findings)?;
    if name.is_empty() || name.contains(char::is_whitespace) {
        let words = format!("server_name is {name:?}; wanted a name without spaces");
        findings.problem(&field.node.at, words);
        return None;
    }
    Some(name)
}

fn process(key: &str, field: Field<'_>, options: &mut Options, findings: &mut Findings) -> bool {
    let log = &mut options.log;
    match key {
        "debug" => log.debug = field.flag(findings).unwrap_or_default(),
        "trace" => log.trace = field.flag(findings).unwrap_or_default(),
        "logtime" => log.time = field.flag(findings).unwrap_or(true),
        "log_file" | "logfile" => log.file = field.path(findings),
        "pid_file" | "pidfile" => options.pid_file = field.path(findings),
        "ports_file_dir" => options.ports_file_dir = field.path(findings),
        "store_dir" | "storedir" => options.store_dir = field.path(findings),
        "lame_duck_duration" => {
            if let Some(duration) = field.duration(findings) {
                options.lame_duck.duration = duration;
            }
        }
        "lame_duck_grace_period" => {
            if let Some(grace) = field.duration(findings) {
                options.lame_duck.grace = grace;
            }
        }
        _ => return false,
    }
    true
}

fn limits(key: &str, field: Field<'_>, options: &mut Options, findings: &mut Findings) -> bool {
    let limits = &mut options.limits;
    let size = |findings: &mut Findings| {
        let number = field.count(findings)?;
        usize::try_from(number).ok()
    };
    match key {
        "max_payload" => set(&mut limits.payload_bytes_max, size(findings)),
        "max_control_line" => set(&mut limits.control_line_bytes_max, size(findings)),
        "max_pending" => set(&mut limits.pending_bytes_max, size(findings)),
        "max_connections" | "max_conn" => {
            // -1 and 0 are nats-server's "no limit": the ceiling is what a process can hold.
            let number = field.limit(findings).filter(|number| *number > 0);
            let number = number.and_then(|number| usize::try_from(number).ok());
            set(&mut limits.connections_max, number);
        }
        "max_subscriptions" | "max_subs" => {
            let number = field.limit(findings).unwrap_or_default();
            limits.subscriptions_max = usize::try_from(number).unwrap_or(usize::MAX);
        }
        "ping_interval" => set(&mut limits.ping_interval, field.duration(findings)),
        "ping_max" => {
            let number = field
                .count(findings)
                .and_then(|number| u32::try_from(number).ok());
            set(&mut limits.pings_out_max, number);
        }
        "write_deadline" => set(&mut limits.write_deadline, field.duration(findings)),
        "max_subscription_tokens" | "max_sub_tokens" => {
            set(&mut limits.subscription_tokens_max, size(findings));
        }
        _ => return false,
    }
    true
}

fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

fn blocks(key: &str, field: Field<'_>, options: &mut Options, findings: &mut Findings) -> bool {
    match key {
        "authorization" => auth::read(field, &mut options.auth, findings),
        "accounts" => accounts::read(field, &mut options.auth, findings),
        "system_account" | "system" => options.auth.system_account = field.text(findings),
        "no_auth_user" => options.auth.no_auth_user = field.text(findings),
        "no_system_account" => findings.note(&field, "has no effect here"),
        "tls" => options.tls = tls::read(field, findings),
        "allow_non_tls" => options.allow_non_tls = field.flag(findings).unwrap_or_default(),
        "websocket" | "ws" => {
            options.websocket = websocket::read(field, findings);
            let user = options.websocket.as_ref().map(|ws| &ws.no_auth_user);
            options.auth.websocket_no_auth_user = user.cloned().flatten();
        }
        "jetstream" => options.jetstream = jetstream::read(field, findings),
        "cluster" => options.cluster = cluster::read(field, findings),
        "leafnodes" | "leaf" => {
            findings.note(
                &field,
                "is ignored: this server neither accepts nor makes leaf node connections",
            );
        }
        _ => return false,
    }
    true
}

/// What one directive means for another.
fn relate(map: &Map, options: &mut Options, findings: &mut Findings) {
    if let Some(tls) = &mut options.tls {
        tls.allow_non_tls = options.allow_non_tls;
        options.auth.map_certificates = tls.verify_and_map;
        if options.allow_non_tls && tls.handshake_first != HandshakeFirst::Off {
            let at = map.get("allow_non_tls").map(|node| node.at.clone());
            if let Some(at) = at {
                findings.problem(
                    &at,
                    "allow_non_tls excludes tls.handshake_first: one of them has to go",
                );
            }
        }
    }
    if let Some(jetstream) = &mut options.jetstream
        && jetstream.store_dir.is_none()
    {
        jetstream.store_dir.clone_from(&options.store_dir);
    }
}
