//! `jetstream`: on or off, or a block.

use super::field::{Field, Findings, each};
use crate::config::batches::BatchLimits;
use crate::frontdoor::conf::{Map, Value};
use crate::frontdoor::options::JetStreamOptions;

const KNOWN: &[&str] = &[
    "enabled",
    "store_dir",
    "domain",
    "max_memory_store",
    "max_mem_store",
    "max_file_store",
    "limits",
    "strict",
    "unique_tag",
    "sync_interval",
];

/// Settings of nats-server's own storage and replication.
const IGNORED: &[&str] = &[
    "sync_always",
    "max_buffered_msgs",
    "max_buffered_size",
    "max_outstanding_catchup",
    "extension_hint",
    "request_queue_limit",
    "info_queue_limit",
    "meta_compact",
    "meta_compact_size",
    "meta_compact_sync",
    "cipher_cache",
    "default_max_ack_pending",
];

const LIMITS_KNOWN: &[&str] = &[
    "max_request_batch",
    "max_ack_pending",
    "max_ha_assets",
    "duplicate_window",
    "batch",
];

const BATCH_KNOWN: &[&str] = &[
    "max_inflight_per_stream",
    "max_inflight_total",
    "max_msgs",
    "timeout",
];

/// `None` where it is off.
pub(super) fn read(field: Field<'_>, findings: &mut Findings) -> Option<JetStreamOptions> {
    match &field.node.value {
        Value::Map(map) => block(map, findings),
        Value::Bool(on) => on.then(JetStreamOptions::default),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "enabled" | "enable" => Some(JetStreamOptions::default()),
            "disabled" | "disable" => None,
            _ => wrong(&field, findings),
        },
        _ => wrong(&field, findings),
    }
}

fn wrong(field: &Field<'_>, findings: &mut Findings) -> Option<JetStreamOptions> {
    let words = "jetstream is neither a block { … } nor enabled, disabled, true or false";
    findings.problem(&field.node.at, words);
    None
}

fn block(map: &Map, findings: &mut Findings) -> Option<JetStreamOptions> {
    let mut enabled = true;
    let mut js = JetStreamOptions::default();
    each(map, "jetstream", KNOWN, findings, |key, field, findings| {
        match key {
            "enabled" | "enable" => enabled = field.flag(findings).unwrap_or(true),
            "store_dir" | "storedir" => js.store_dir = field.path(findings),
            "domain" => js.domain = field.text(findings),
            "max_memory_store" | "max_mem_store" | "max_mem" | "max_memory" => {
                js.max_memory = field.limit(findings);
            }
            "max_file_store" | "max_file" => js.max_storage = field.limit(findings),
            "strict" => js.strict = field.flag(findings).unwrap_or(true),
            "limits" => limits(field, &mut js, findings),
            "unique_tag" => {
                findings.note(&field, "has no effect here: every node has every stream")
            }
            "sync_interval" | "sync" => {
                let why = "has no effect here: what is acknowledged has been synced";
                findings.note(&field, why);
            }
            "key" | "ek" | "encryption_key" | "cipher" | "prev_key" | "prev_ek" | "tpm" => {
                findings.refuse(
                    &field,
                    "encryption at rest is the file system's business here",
                );
            }
            _ if IGNORED.contains(&key) => findings.note(&field, "has no effect here"),
            _ => return false,
        }
        true
    });
    enabled.then_some(js)
}

fn limits(field: Field<'_>, js: &mut JetStreamOptions, findings: &mut Findings) {
    let Some(map) = field.map(findings) else {
        return;
    };
    each(
        map,
        "jetstream.limits",
        LIMITS_KNOWN,
        findings,
        |key, field, findings| {
            match key {
                "max_request_batch" => js.limits.max_request_batch = field.limit(findings),
                "max_ack_pending" => js.limits.max_ack_pending = field.limit(findings),
                "duplicate_window" => js.limits.duplicate_window = field.duration(findings),
                "max_ha_assets" => findings.note(&field, "has no effect here"),
                "batch" => batch(field, &mut js.batches, findings),
                _ => return false,
            }
            true
        },
    );
}

/// Bounds of batches of messages; 0 and less are nats-server's words for its default, which is ours.
fn batch(field: Field<'_>, batches: &mut BatchLimits, findings: &mut Findings) {
    let Some(map) = field.map(findings) else {
        return;
    };
    each(
        map,
        "jetstream.limits.batch",
        BATCH_KNOWN,
        findings,
        |key, field, findings| {
            let count = |findings: &mut Findings| {
                let number = field.limit(findings).filter(|number| *number > 0);
                number.and_then(|number| usize::try_from(number).ok())
            };
            match key {
                "max_inflight_per_stream" => {
                    let most = count(findings);
                    batches.atomic_per_stream_max = most.unwrap_or(batches.atomic_per_stream_max);
                }
                "max_inflight_total" => {
                    batches.fast_max = count(findings).unwrap_or(batches.fast_max);
                }
                "timeout" => {
                    let given = field.duration(findings).filter(|time| !time.is_zero());
                    batches.idle_max = given.unwrap_or(batches.idle_max);
                }
                "max_msgs" => findings.note(
                    &field,
                    "has no effect here: a batch holds as many messages as nats-server's does, 1000",
                ),
                _ => return false,
            }
            true
        },
    );
}
