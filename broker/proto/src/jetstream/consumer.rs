//! A consumer's configuration as clients write and read it (nats-surface §2.3).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::timestamp::Timestamp;
use super::{is_default, or_default};

/// Where a consumer starts.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliverPolicy {
    /// At the first message.
    #[default]
    All,
    /// At the last matching message.
    Last,
    /// After the last message at creation.
    New,
    /// At `opt_start_seq`.
    ByStartSequence,
    /// At the first message not older than `opt_start_time`.
    ByStartTime,
    /// With the last message of each matching subject, then everything new.
    LastPerSubject,
}

/// What acknowledges a message.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AckPolicy {
    /// Nothing: delivered is done.
    #[default]
    None,
    /// An acknowledgement covers everything before it.
    All,
    /// Each message for itself.
    Explicit,
    /// Answers to flow control requests say up to where everything is settled (2.14, ADR-60).
    FlowControl,
}

/// How fast a consumer replays.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplayPolicy {
    /// As fast as possible.
    #[default]
    Instant,
    /// With the original spacing.
    Original,
}

/// A consumer's configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "the flags are the wire format's own"
)]
pub struct ConsumerConfig {
    /// Set for consumers that outlive their users.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub durable_name: String,
    /// Always filled in by the server.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub name: String,
    /// At most 4 KiB.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub description: String,
    /// Where it starts.
    #[serde(deserialize_with = "or_default")]
    pub deliver_policy: DeliverPolicy,
    /// For `by_start_sequence`.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub opt_start_seq: u64,
    /// For `by_start_time`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt_start_time: Option<Timestamp>,
    /// What acknowledges.
    #[serde(deserialize_with = "or_default")]
    pub ack_policy: AckPolicy,
    /// Nanoseconds until redelivery.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub ack_wait: i64,
    /// Deliveries of one message; -1 = unlimited.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub max_deliver: i64,
    /// Nanoseconds before each redelivery.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub backoff: Vec<i64>,
    /// The one filter.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub filter_subject: String,
    /// The filters, when several.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub filter_subjects: Vec<String>,
    /// How fast it replays.
    #[serde(deserialize_with = "or_default")]
    pub replay_policy: ReplayPolicy,
    /// Bits per second; 0 = unlimited.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub rate_limit_bps: u64,
    /// Share of acknowledgements sampled, `30%`.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub sample_freq: String,
    /// Pull requests waiting at most.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub max_waiting: i64,
    /// Unacknowledged messages at most.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub max_ack_pending: i64,
    /// Push: asks the client to confirm its progress.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub flow_control: bool,
    /// Delivers without payloads.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub headers_only: bool,
    /// Messages of one pull at most.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub max_batch: i64,
    /// Nanoseconds of one pull at most.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub max_expires: i64,
    /// Bytes of one pull at most.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub max_bytes: i64,
    /// Set for push consumers.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub deliver_subject: String,
    /// The queue group of a push consumer.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub deliver_group: String,
    /// Push: nanoseconds of silence before a heartbeat.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub idle_heartbeat: i64,
    /// Nanoseconds without use before an ephemeral is removed.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub inactive_threshold: i64,
    /// 0 = as the stream.
    #[serde(deserialize_with = "or_default")]
    pub num_replicas: i64,
    /// Keep the state in memory.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub mem_storage: bool,
    /// An internal consumer of a mirror or source.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub direct: bool,
    /// A durable consumer of a mirror or source.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub sourcing: bool,
    /// Free for users, `_nats.*` reserved for the server.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub metadata: BTreeMap<String, String>,
    /// No deliveries before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_until: Option<Timestamp>,
    /// Groups of pull requests.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub priority_groups: Vec<String>,
    /// `none`, `overflow`, `pinned_client` or `prioritized`.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub priority_policy: String,
    /// Nanoseconds a pin lasts.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub priority_timeout: i64,
}

impl ConsumerConfig {
    /// Whether the server pushes (a deliver subject is set).
    #[must_use]
    pub fn is_push(&self) -> bool {
        !self.deliver_subject.is_empty()
    }

    /// The filters in force, none for everything.
    pub fn filters(&self) -> impl Iterator<Item = &str> {
        let one = (!self.filter_subject.is_empty()).then_some(self.filter_subject.as_str());
        one.into_iter()
            .chain(self.filter_subjects.iter().map(String::as_str))
    }

    /// The lowest API level that knows every field this configuration uses.
    #[must_use]
    pub fn required_api_level(&self) -> u8 {
        if self.ack_policy == AckPolicy::FlowControl {
            return 4;
        }
        u8::from(self.pause_until.is_some() || !self.priority_groups.is_empty())
    }
}
