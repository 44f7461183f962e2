//! What the server tells about streams, consumers, messages and the account (nats-surface §2.3, §2.5).
//! Fields without `skip_serializing_if` are demanded by async-nats.

use std::collections::BTreeMap;
use std::io::Write;

use serde::{Deserialize, Serialize};

use super::config::{ConsumerConfig, StreamConfig};
use super::error::ApiError;
use super::is_default;
use super::source::SourceInfo;
use super::timestamp::Timestamp;

/// A stream's numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamStateJson {
    /// Live messages.
    pub messages: u64,
    /// Their size as nats-server counts it.
    pub bytes: u64,
    /// Sequence of the first live message, or last + 1 (0 before the first message ever).
    pub first_seq: u64,
    /// Zero time when empty.
    pub first_ts: Timestamp,
    /// The last sequence ever given.
    pub last_seq: u64,
    /// When it was given.
    pub last_ts: Timestamp,
    /// Distinct subjects.
    #[serde(skip_serializing_if = "is_default")]
    pub num_subjects: u64,
    /// Messages per subject, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subjects: Option<BTreeMap<String, u64>>,
    /// Deleted sequences between first and last.
    #[serde(skip_serializing_if = "is_default")]
    pub num_deleted: u64,
    /// Those sequences, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Vec<u64>>,
    /// Consumers.
    pub consumer_count: u64,
}

/// A member of a group as shown to clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerInfo {
    /// Server name.
    pub name: String,
    /// Caught up.
    pub current: bool,
    /// Not reachable.
    #[serde(skip_serializing_if = "is_default")]
    pub offline: bool,
    /// Nanoseconds since last heard of.
    pub active: u64,
    /// Entries behind.
    #[serde(skip_serializing_if = "is_default")]
    pub lag: u64,
    /// Short peer id.
    pub peer: String,
}

/// Where a stream or consumer lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterInfo {
    /// Cluster name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Raft group name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raft_group: Option<String>,
    /// Leader's server name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Since when it leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader_since: Option<Timestamp>,
    /// Whether what the members tell each other is the system account's traffic.
    #[serde(skip_serializing_if = "is_default")]
    pub system_account: bool,
    /// The account whose traffic it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_account: Option<String>,
    /// The other members.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<PeerInfo>,
}

/// A stream as told to clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamInfo {
    /// With defaults filled in.
    pub config: StreamConfig,
    /// Creation.
    pub created: Timestamp,
    /// Numbers.
    pub state: StreamStateJson,
    /// Where it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterInfo>,
    /// How far the mirror has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<SourceInfo>,
    /// How far each source has come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceInfo>,
    /// When this was said.
    #[serde(default)]
    pub ts: Timestamp,
}

/// A position in a consumer.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceInfo {
    /// Deliveries so far.
    pub consumer_seq: u64,
    /// The stream sequence of the last of them.
    pub stream_seq: u64,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_active: Option<Timestamp>,
}

/// A consumer as told to clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConsumerInfo {
    /// Its stream.
    pub stream_name: String,
    /// Its name.
    pub name: String,
    /// Creation.
    pub created: Timestamp,
    /// With defaults filled in.
    pub config: ConsumerConfig,
    /// The last delivery.
    pub delivered: SequenceInfo,
    /// Everything up to here is acknowledged.
    pub ack_floor: SequenceInfo,
    /// Delivered, not acknowledged.
    pub num_ack_pending: u64,
    /// Of those, delivered more than once.
    pub num_redelivered: u64,
    /// Waiting pull requests.
    pub num_waiting: u64,
    /// Matching messages not delivered yet.
    pub num_pending: u64,
    /// Where it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterInfo>,
    /// Push: somebody listens.
    #[serde(default, skip_serializing_if = "is_default")]
    pub push_bound: bool,
    /// Paused.
    #[serde(default, skip_serializing_if = "is_default")]
    pub paused: bool,
    /// Nanoseconds left.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pause_remaining: u64,
    /// Pinned clients.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub priority_groups: Vec<PriorityGroupState>,
    /// When this was said.
    #[serde(default)]
    pub ts: Timestamp,
}

/// What a priority group is at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorityGroupState {
    /// The group.
    pub group: String,
    /// The client that is served, by the pin it was given.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pinned_client_id: String,
    /// Since when; zero without one.
    #[serde(default)]
    pub pinned_ts: Timestamp,
}

/// `message` of `STREAM.MSG.GET`; headers and data are standard base64.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageJson {
    /// Subject.
    pub subject: String,
    /// Sequence.
    pub seq: u64,
    /// Raw header block.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hdrs: String,
    /// Payload.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub data: String,
    /// When it was stored.
    pub time: Timestamp,
}

/// Limits of an account; -1 = unlimited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountLimits {
    /// Bytes in memory.
    pub max_memory: i64,
    /// Bytes on disk.
    pub max_storage: i64,
    /// Streams.
    pub max_streams: i64,
    /// Consumers.
    pub max_consumers: i64,
    /// Unacknowledged messages of a consumer.
    pub max_ack_pending: i64,
    /// Bytes of one stream in memory.
    pub memory_max_stream_bytes: i64,
    /// Bytes of one stream on disk.
    pub storage_max_stream_bytes: i64,
    /// Streams must set `max_bytes`.
    pub max_bytes_required: bool,
}

impl Default for AccountLimits {
    fn default() -> Self {
        Self {
            max_memory: -1,
            max_storage: -1,
            max_streams: -1,
            max_consumers: -1,
            max_ack_pending: -1,
            memory_max_stream_bytes: -1,
            storage_max_stream_bytes: -1,
            max_bytes_required: false,
        }
    }
}

/// API use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiStats {
    /// API level.
    #[serde(default)]
    pub level: u8,
    /// Requests.
    pub total: u64,
    /// Refused requests.
    pub errors: u64,
    /// Requests being served.
    #[serde(default, skip_serializing_if = "is_default")]
    pub inflight: u64,
}

/// Answer to `$JS.API.INFO`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountInfo {
    /// Bytes in memory.
    pub memory: u64,
    /// Bytes on disk.
    pub storage: u64,
    /// Reserved bytes in memory.
    #[serde(default)]
    pub reserved_memory: u64,
    /// Reserved bytes on disk.
    #[serde(default)]
    pub reserved_storage: u64,
    /// Streams.
    pub streams: u64,
    /// Consumers.
    pub consumers: u64,
    /// Limits.
    pub limits: AccountLimits,
    /// JetStream domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// API use.
    pub api: ApiStats,
}

/// The answer to a publish into a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PubAck {
    /// The stream.
    pub stream: String,
    /// JetStream domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The message's sequence (of the first copy, when a duplicate).
    pub seq: u64,
    /// The message was stored before.
    #[serde(default, skip_serializing_if = "is_default")]
    pub duplicate: bool,
}

/// Appends nats-server's exact bytes of a publish acknowledgement, without other allocation.
pub fn write_pub_ack(
    out: &mut Vec<u8>,
    stream: &str,
    domain: Option<&str>,
    seq: u64,
    duplicate: bool,
) {
    let tail = if duplicate {
        ",\"duplicate\": true}"
    } else {
        "}"
    };
    // Stream names are checked at creation: nothing in them needs escaping but `"`.
    let plain = |name: &str| !name.contains(['"', '\\']) && !name.chars().any(char::is_control);
    let written = match domain {
        None if plain(stream) => {
            write!(out, "{{\"stream\":\"{stream}\",\"seq\":{seq}{tail}").is_ok()
        }
        None => serde_json::to_string(stream)
            .map(|name| write!(out, "{{\"stream\":{name},\"seq\":{seq}{tail}"))
            .is_ok(),
        Some(domain) => serde_json::to_string(stream)
            .and_then(|stream| Ok((stream, serde_json::to_string(domain)?)))
            .map(|(stream, domain)| {
                write!(
                    out,
                    "{{\"stream\":{stream},\"domain\":{domain},\"seq\":{seq}{tail}"
                )
            })
            .is_ok(),
    };
    debug_assert!(written, "writing to a Vec can't fail");
}

/// Appends the acknowledgement of a counter's message or of an atomic batch `(id, messages)`.
pub fn write_pub_ack_of(
    out: &mut Vec<u8>,
    stream: &str,
    domain: Option<&str>,
    seq: u64,
    batch: Option<(&str, u64)>,
    val: Option<&str>,
) {
    #[derive(Serialize)]
    struct Ack<'a> {
        stream: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        domain: Option<&'a str>,
        seq: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        val: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        batch: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        count: Option<u64>,
    }
    let ack = Ack {
        stream,
        domain,
        seq,
        val,
        batch: batch.map(|(id, _)| id),
        count: batch.map(|(_, count)| count),
    };
    let written = serde_json::to_writer(out, &ack).is_ok();
    debug_assert!(written, "writing to a Vec can't fail");
}

/// Appends the exact bytes of a refused publish.
pub fn write_pub_refusal(out: &mut Vec<u8>, stream: &str, error: &ApiError) {
    #[derive(Serialize)]
    struct Refused<'a> {
        error: &'a ApiError,
        stream: &'a str,
        seq: u64,
    }
    let written = serde_json::to_writer(
        out,
        &Refused {
            error,
            stream,
            seq: 0,
        },
    )
    .is_ok();
    debug_assert!(written, "writing to a Vec can't fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(seq: u64, duplicate: bool) -> String {
        let mut out = Vec::new();
        write_pub_ack(&mut out, "S", None, seq, duplicate);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn pub_acks_are_byte_exact() {
        assert_eq!(ack(1, false), r#"{"stream":"S","seq":1}"#);
        assert_eq!(ack(2, true), r#"{"stream":"S","seq":2,"duplicate": true}"#);
        let mut out = Vec::new();
        write_pub_ack(&mut out, "S", Some("hub"), 1, false);
        assert_eq!(out, br#"{"stream":"S","domain":"hub","seq":1}"#);
        let mut out = Vec::new();
        write_pub_ack_of(&mut out, "B", None, 2, Some(("A", 2)), None);
        assert_eq!(out, br#"{"stream":"B","seq":2,"batch":"A","count":2}"#);
        out.clear();
        write_pub_ack_of(&mut out, "C", Some("d"), 1, None, Some("-4"));
        assert_eq!(out, br#"{"stream":"C","domain":"d","seq":1,"val":"-4"}"#);
        let mut out = Vec::new();
        write_pub_refusal(&mut out, "S", &ApiError::wrong_last_sequence(2));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 2"},"stream":"S","seq":0}"#
        );
    }
}
