//! A stream's configuration as clients write and read it: keys, order and omitted values are those of
//! nats-server (nats-surface §2.3). Durations are nanoseconds, -1 means unlimited.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use super::consumer::ConsumerConfig;
pub use super::source::{Republish, StreamSource, SubjectTransform};
use super::{is_default, or_default};

/// When messages leave a stream by themselves.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retention {
    /// Only limits remove messages.
    #[default]
    Limits,
    /// Removed once every interested consumer acknowledged.
    Interest,
    /// Removed at the first acknowledgement.
    Workqueue,
}

/// What happens to a message that does not fit.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discard {
    /// The oldest messages make room.
    #[default]
    Old,
    /// The publish is refused.
    New,
}

/// Where a stream asks to be kept. Both kinds are stored the same way here.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// On disk.
    #[default]
    File,
    /// In memory.
    Memory,
}

/// Compression of stored blocks: a hint that never changes what a client sees.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Stored as published.
    #[default]
    None,
    /// S2.
    S2,
}

/// How eagerly a stream asks to be synced. Everything is synced before it is acknowledged here.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PersistMode {
    /// Synced before acknowledged.
    #[default]
    Default,
    /// Allowed to lag.
    Async,
}

/// Limits that a stream puts on its consumers.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsumerLimits {
    /// Nanoseconds; 0 = none.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub inactive_threshold: i64,
    /// Messages; 0 = none.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub max_ack_pending: i64,
}

/// A wish for a place in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Placement {
    /// Cluster name.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub cluster: String,
    /// Server tags.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub tags: Vec<String>,
}

/// A stream's configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "the flags are the wire format's own"
)]
pub struct StreamConfig {
    /// 1..=255 bytes without `.`, `*`, `>`, `/`, `\` or white space.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// At most 4 KiB.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub description: String,
    /// Filters whose messages the stream stores.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub subjects: Vec<String>,
    /// When messages leave by themselves.
    #[serde(deserialize_with = "or_default")]
    pub retention: Retention,
    /// -1 = unlimited.
    #[serde(deserialize_with = "or_default")]
    pub max_consumers: i64,
    /// -1 = unlimited.
    #[serde(deserialize_with = "or_default")]
    pub max_msgs: i64,
    /// -1 = unlimited.
    #[serde(deserialize_with = "or_default")]
    pub max_bytes: i64,
    /// Nanoseconds; 0 = for ever.
    #[serde(deserialize_with = "or_default")]
    pub max_age: i64,
    /// -1 = unlimited.
    #[serde(deserialize_with = "or_default")]
    pub max_msgs_per_subject: i64,
    /// Bytes of headers and payload; -1 = unlimited.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub max_msg_size: i64,
    /// What gives way when a limit is reached.
    #[serde(deserialize_with = "or_default")]
    pub discard: Discard,
    /// Where it is kept.
    #[serde(deserialize_with = "or_default")]
    pub storage: Storage,
    /// Copies asked for.
    #[serde(deserialize_with = "or_default")]
    pub num_replicas: i64,
    /// Publishers get no acknowledgement.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub no_ack: bool,
    /// Nanoseconds a `Nats-Msg-Id` is remembered.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub duplicate_window: i64,
    /// A wish for a place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// The stream this one copies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<StreamSource>,
    /// The streams this one gathers.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub sources: Vec<StreamSource>,
    /// Compression of stored blocks.
    #[serde(deserialize_with = "or_default")]
    pub compression: Compression,
    /// The first sequence of a new stream; 0 = 1.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub first_seq: u64,
    /// Renaming of subjects as they are stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_transform: Option<SubjectTransform>,
    /// Publishing of stored messages again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub republish: Option<Republish>,
    /// Serves `DIRECT.GET`.
    #[serde(deserialize_with = "or_default")]
    pub allow_direct: bool,
    /// A mirror serves `DIRECT.GET` for its origin.
    #[serde(deserialize_with = "or_default")]
    pub mirror_direct: bool,
    /// `discard: new` also for the limit per subject.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub discard_new_per_subject: bool,
    /// Nothing may change any more.
    #[serde(deserialize_with = "or_default")]
    pub sealed: bool,
    /// Refuses deletion of single messages.
    #[serde(deserialize_with = "or_default")]
    pub deny_delete: bool,
    /// Refuses purges.
    #[serde(deserialize_with = "or_default")]
    pub deny_purge: bool,
    /// Obeys `Nats-Rollup`.
    #[serde(deserialize_with = "or_default")]
    pub allow_rollup_hdrs: bool,
    /// Limits for consumers.
    #[serde(deserialize_with = "or_default")]
    pub consumer_limits: ConsumerLimits,
    /// Obeys `Nats-TTL`.
    #[serde(deserialize_with = "or_default")]
    pub allow_msg_ttl: bool,
    /// Nanoseconds a marker of an expired subject lives; 0 = no markers.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub subject_delete_marker_ttl: i64,
    /// Counters (`Nats-Incr`).
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub allow_msg_counter: bool,
    /// Atomic batches.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub allow_atomic: bool,
    /// Scheduled messages.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub allow_msg_schedules: bool,
    /// How eagerly it is synced.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub persist_mode: PersistMode,
    /// Fast batches.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub allow_batched: bool,
    /// Free for users, `_nats.*` reserved for the server.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub metadata: BTreeMap<String, String>,
}

const LEVEL: &str = "_nats.level";
const REQUIRED_LEVEL: &str = "_nats.req.level";
const VERSION: &str = "_nats.ver";

/// What the server itself tells in a configuration's metadata; clients send it back when they update.
const SERVER_METADATA: [&str; 3] = [LEVEL, REQUIRED_LEVEL, VERSION];

/// Removes what a server added to metadata that a client sends back.
pub fn strip_server_metadata(metadata: &mut BTreeMap<String, String>) {
    metadata.retain(|key, _| !SERVER_METADATA.contains(&key.as_str()));
}

/// Adds what responses to create, update and info show (but lists do not): the API level the
/// configuration needs, this server's level and its version.
pub fn add_server_metadata(
    metadata: &mut BTreeMap<String, String>,
    needs: u8,
    level: u8,
    version: &str,
) {
    metadata.insert(LEVEL.into(), level.to_string());
    metadata.insert(REQUIRED_LEVEL.into(), needs.to_string());
    metadata.insert(VERSION.into(), version.into());
}

/// Adds what lists of streams and consumers show: the API level the configuration needs.
pub fn add_required_level(metadata: &mut BTreeMap<String, String>, needs: u8) {
    metadata.insert(REQUIRED_LEVEL.into(), needs.to_string());
}

impl StreamConfig {
    /// The lowest API level that knows every field this configuration uses.
    #[must_use]
    pub fn required_api_level(&self) -> u8 {
        let mut copies = self.mirror.iter().chain(&self.sources);
        if self.allow_batched || copies.any(|source| source.consumer.is_some()) {
            return 4;
        }
        if self.allow_msg_counter
            || self.allow_atomic
            || self.allow_msg_schedules
            || self.persist_mode != PersistMode::Default
        {
            return 2;
        }
        u8::from(self.allow_msg_ttl || self.subject_delete_marker_ttl > 0)
    }
}
