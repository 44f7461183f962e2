//! `accounts {}`: users, what flows between accounts, limits.

use super::auth;
use super::field::{Field, Findings, each};
use crate::config::auth::{
    AccountConfig, AccountJetStream, ExportConfig, GLOBAL_ACCOUNT, ImportConfig, ResponseType,
    ShareKind, StaticAuth,
};
use crate::frontdoor::conf::Value;

const KNOWN: &[&str] = &[
    "users",
    "exports",
    "imports",
    "jetstream",
    "limits",
    "default_permissions",
];
const EXPORT_KNOWN: &[&str] = &[
    "stream",
    "service",
    "accounts",
    "response_type",
    "response_threshold",
    "account_token_position",
];
const IMPORT_KNOWN: &[&str] = &["stream", "service", "to", "prefix", "share"];
const SOURCE_KNOWN: &[&str] = &["account", "subject"];
const LIMITS_KNOWN: &[&str] = &["max_connections", "max_subscriptions", "max_payload"];
const JETSTREAM_KNOWN: &[&str] = &[
    "max_mem",
    "max_file",
    "max_streams",
    "max_consumers",
    "max_bytes_required",
    "memory_max_stream_bytes",
    "store_max_stream_bytes",
    "max_ack_pending",
];

pub(super) fn read(field: Field<'_>, auth: &mut StaticAuth, findings: &mut Findings) {
    // A list of names alone is allowed, too: accounts without users.
    if let Value::Array(_) = &field.node.value {
        for name in field.texts(findings).unwrap_or_default() {
            auth.accounts.push(AccountConfig {
                name,
                ..AccountConfig::default()
            });
        }
        return;
    }
    let Some(map) = field.map(findings) else {
        return;
    };
    for entry in map.entries() {
        let field = Field {
            section: "accounts",
            key: &entry.key,
            at: &entry.at,
            node: &entry.node,
        };
        if entry.key == GLOBAL_ACCOUNT {
            let words =
                "accounts has $G, which is the server's own: users without an account are in it";
            findings.problem(&entry.at, words);
        } else if let Some(account) = read_account(field, auth, findings) {
            auth.accounts.push(account);
        }
    }
}

fn read_account(
    field: Field<'_>,
    auth: &mut StaticAuth,
    findings: &mut Findings,
) -> Option<AccountConfig> {
    let map = field.map(findings)?;
    let (name, section) = (field.key, field.name());
    let mut account = AccountConfig {
        name: name.to_owned(),
        ..AccountConfig::default()
    };
    let (mut users, mut defaults) = (Vec::new(), None);
    each(map, &section, KNOWN, findings, |key, field, findings| {
        match key {
            "users" => users = auth::read_users(field, Some(name), findings),
            "exports" => account.exports = list(field, findings, read_export),
            "imports" => account.imports = list(field, findings, read_import),
            "jetstream" => account.jetstream = read_jetstream(field, findings),
            "limits" => read_limits(field, &mut account, findings),
            "default_permissions" | "default_permission" => {
                defaults = auth::permissions(field, findings);
            }
            "mappings" | "maps" => {
                findings.refuse(&field, "subject mappings are not: leave it out")
            }
            "msg_trace" | "trace_dest" | "cluster_traffic" => {
                findings.note(&field, "has no effect here");
            }
            "nkey" => findings.note(
                &field,
                "has no effect here: the account is known by its name",
            ),
            _ => return false,
        }
        true
    });
    auth::give_defaults(&mut users, defaults.as_ref());
    auth.users.append(&mut users);
    Some(account)
}

fn list<T>(
    field: Field<'_>,
    findings: &mut Findings,
    read: impl Fn(Field<'_>, &mut Findings) -> Option<T>,
) -> Vec<T> {
    let items = field.list(findings).unwrap_or_default();
    items
        .iter()
        .filter_map(|item| read(field.item(item), findings))
        .collect()
}

fn read_export(field: Field<'_>, findings: &mut Findings) -> Option<ExportConfig> {
    let map = field.map(findings)?;
    let section = field.name();
    let mut subject = None;
    let mut export = ExportConfig {
        kind: ShareKind::Stream,
        subject: String::new(),
        accounts: None,
        response_type: ResponseType::Singleton,
        response_threshold: None,
        account_token_position: None,
    };
    each(
        map,
        &section,
        EXPORT_KNOWN,
        findings,
        |key, field, findings| {
            match key {
                "stream" => (export.kind, subject) = (ShareKind::Stream, field.text(findings)),
                "service" => (export.kind, subject) = (ShareKind::Service, field.text(findings)),
                "accounts" => export.accounts = field.texts(findings),
                "response" | "response_type" => {
                    export.response_type = response_type(&field, findings).unwrap_or_default();
                }
                "threshold" | "response_threshold" | "response_max_time" | "response_time" => {
                    export.response_threshold = field.duration(findings);
                }
                "account_token_position" => {
                    let number = field
                        .count(findings)
                        .and_then(|number| u32::try_from(number).ok());
                    export.account_token_position = number.filter(|number| *number > 0);
                }
                "latency" => findings.note(&field, "has no effect here"),
                "allow_trace" => findings.note(&field, "has no effect here"),
                _ => return false,
            }
            true
        },
    );
    let Some(subject) = subject else {
        findings.problem(
            &field.node.at,
            format!("an entry of {section} needs stream or service"),
        );
        return None;
    };
    export.subject = subject;
    Some(export)
}

fn response_type(field: &Field<'_>, findings: &mut Findings) -> Option<ResponseType> {
    match field.text(findings)?.to_ascii_lowercase().as_str() {
        "singleton" | "single" => Some(ResponseType::Singleton),
        "stream" => Some(ResponseType::Stream),
        "chunked" | "chunk" => Some(ResponseType::Chunked),
        other => {
            let words = format!(
                "{} is {other:?}; wanted Singleton, Stream or Chunked",
                field.name()
            );
            findings.problem(&field.node.at, words);
            None
        }
    }
}

fn read_import(field: Field<'_>, findings: &mut Findings) -> Option<ImportConfig> {
    let map = field.map(findings)?;
    let section = field.name();
    let mut source = None;
    let mut import = ImportConfig {
        kind: ShareKind::Stream,
        account: String::new(),
        subject: String::new(),
        to: None,
        prefix: None,
        share: false,
    };
    each(
        map,
        &section,
        IMPORT_KNOWN,
        findings,
        |key, field, findings| {
            match key {
                "stream" => {
                    (import.kind, source) = (ShareKind::Stream, read_source(field, findings))
                }
                "service" => {
                    (import.kind, source) = (ShareKind::Service, read_source(field, findings))
                }
                "to" => import.to = field.text(findings),
                "prefix" => import.prefix = field.text(findings),
                "share" => import.share = field.flag(findings).unwrap_or_default(),
                "allow_trace" => findings.note(&field, "has no effect here"),
                _ => return false,
            }
            true
        },
    );
    let Some((account, subject)) = source else {
        let words =
            format!("an entry of {section} needs stream or service with {{ account, subject }}");
        findings.problem(&field.node.at, words);
        return None;
    };
    (import.account, import.subject) = (account, subject);
    Some(import)
}

fn read_source(field: Field<'_>, findings: &mut Findings) -> Option<(String, String)> {
    let map = field.map(findings)?;
    let (mut account, mut subject) = (None, None);
    each(
        map,
        &field.name(),
        SOURCE_KNOWN,
        findings,
        |key, field, findings| {
            match key {
                "account" => account = field.text(findings),
                "subject" => subject = field.text(findings),
                _ => return false,
            }
            true
        },
    );
    account.zip(subject)
}

fn read_limits(field: Field<'_>, account: &mut AccountConfig, findings: &mut Findings) {
    let Some(map) = field.map(findings) else {
        return;
    };
    let limits = &mut account.limits;
    each(
        map,
        &field.name(),
        LIMITS_KNOWN,
        findings,
        |key, field, findings| {
            match key {
                "max_connections" | "max_conn" => limits.max_connections = field.limit(findings),
                "max_subscriptions" | "max_subs" => {
                    limits.max_subscriptions = field.limit(findings)
                }
                "max_payload" | "max_pay" => limits.max_payload = field.limit(findings),
                "max_leafnodes" | "max_leafs" => findings.note(&field, "has no effect here"),
                _ => return false,
            }
            true
        },
    );
}

/// `enabled`, `true`, or limits; `None` is off.
fn read_jetstream(field: Field<'_>, findings: &mut Findings) -> Option<AccountJetStream> {
    let mut js = AccountJetStream::default();
    let map = match &field.node.value {
        Value::Map(map) => map,
        Value::Bool(on) => return on.then_some(js),
        Value::String(text) if text.eq_ignore_ascii_case("enabled") => return Some(js),
        Value::String(text) if text.eq_ignore_ascii_case("enable") => return Some(js),
        Value::String(text) if text.eq_ignore_ascii_case("disabled") => return None,
        Value::String(text) if text.eq_ignore_ascii_case("disable") => return None,
        _ => {
            let words = format!(
                "{} is neither a block nor enabled or disabled",
                field.name()
            );
            findings.problem(&field.node.at, words);
            return None;
        }
    };
    each(
        map,
        &field.name(),
        JETSTREAM_KNOWN,
        findings,
        |key, field, findings| {
            match key {
                "max_mem" | "max_memory" | "mem" | "memory" => {
                    js.max_memory = field.limit(findings)
                }
                "max_store" | "max_file" | "max_disk" | "store" | "disk" => {
                    js.max_storage = field.limit(findings);
                }
                "max_streams" | "streams" => js.max_streams = field.limit(findings),
                "max_consumers" | "consumers" => js.max_consumers = field.limit(findings),
                "max_bytes_required" | "max_stream_bytes" | "max_bytes" => {
                    js.max_bytes_required = field.flag(findings).unwrap_or_default();
                }
                "mem_max_stream_bytes" | "memory_max_stream_bytes" => {
                    js.memory_max_stream_bytes = field.limit(findings);
                }
                "disk_max_stream_bytes" | "store_max_stream_bytes" => {
                    js.store_max_stream_bytes = field.limit(findings);
                }
                "max_ack_pending" => js.max_ack_pending = field.limit(findings),
                "cluster_traffic" => findings.note(&field, "has no effect here"),
                _ => return false,
            }
            true
        },
    );
    Some(js)
}
