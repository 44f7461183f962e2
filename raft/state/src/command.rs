//! What can be asked of the state. The codec is in `batch`: a format byte, a kind byte, then for
//! appends hand framing without copies and for everything rare a JSON body, which may gain fields.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use unibus_proto::jetstream::api::ConsumerAction;
use unibus_proto::jetstream::config::StreamConfig;
use unibus_proto::jetstream::consumer::ConsumerConfig;

pub use crate::consumer_update::ConsumerUpdate;
use crate::control::ControlChange;
use crate::ledger::{Position, Unsettled};

/// Stores one message in whatever stream its subject belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The subject it was published to, at most 65,535 bytes.
    pub subject: Bytes,
    /// How much of `data` is the header block; 0 = no headers.
    pub header_len: u32,
    /// Header block and payload.
    pub data: Bytes,
    /// The publisher is this node itself (may write control-plane streams).
    pub privileged: bool,
}

/// A borrowed [`Append`], as apply sees it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct AppendRef<'a> {
    /// The subject it was published to.
    pub subject: &'a [u8],
    /// How much of `data` is the header block.
    pub header_len: u32,
    /// Header block and payload.
    pub data: &'a [u8],
    /// The publisher is this node itself.
    pub privileged: bool,
}

/// `StreamCreate` and `StreamUpdate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamPut {
    /// As the client sent it; defaults are filled in by apply.
    pub config: StreamConfig,
    /// The asker is this node itself.
    pub privileged: bool,
    /// Members of the group: more replicas than this are refused with 10074.
    pub replicas_max: u32,
    /// Refuse where defaults would have to be filled in (10157).
    #[serde(default)]
    pub pedantic: bool,
}

/// `StreamDelete`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamDelete {
    /// The stream.
    pub name: String,
    /// The asker is this node itself.
    pub privileged: bool,
}

/// `StreamPurge`. `seq` and `keep` exclude each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamPurge {
    /// The stream.
    pub name: String,
    /// Only matching subjects; empty = all.
    pub filter: String,
    /// Only sequences below; 0 = all.
    pub seq: u64,
    /// Keeps that many of the newest matching messages.
    pub keep: u64,
    /// The asker is this node itself.
    pub privileged: bool,
}

/// `MessageDelete`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageDelete {
    /// The stream.
    pub stream: String,
    /// The sequence.
    pub seq: u64,
    /// Accepted for compatibility: bytes are never overwritten in place.
    pub no_erase: bool,
    /// The asker is this node itself.
    pub privileged: bool,
}

/// `ConsumerCreate`, in all its API forms: the caller has checked names and filter of the subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConsumerCreate {
    /// The stream.
    pub stream: String,
    /// As the client sent it.
    pub config: ConsumerConfig,
    /// What is allowed.
    pub action: ConsumerAction,
    /// Used when neither `name` nor `durable_name` is set; the proposer made it up.
    pub generated_name: String,
    /// The asker is this node itself.
    pub privileged: bool,
}

/// `ConsumerDelete`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerDelete {
    /// The stream.
    pub stream: String,
    /// The consumer.
    pub name: String,
    /// Only the one created then, Unix nanoseconds; `None`: whichever has the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_ns: Option<u64>,
    /// The asker is this node itself.
    pub privileged: bool,
}

/// `ConsumerPause`: no deliveries before a time; a time that has passed resumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerPause {
    /// The stream.
    pub stream: String,
    /// The consumer.
    pub name: String,
    /// Unix nanoseconds; 0 = resume.
    pub until_ns: u64,
    /// The asker is this node itself.
    pub privileged: bool,
}

/// `ConsumerReset`: forgets what was delivered from a sequence on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerReset {
    /// The stream.
    pub stream: String,
    /// The consumer.
    pub name: String,
    /// The next sequence to deliver; 0 = what follows the ack floor.
    pub seq: u64,
    /// The asker is this node itself.
    pub privileged: bool,
}

/// `ConsumerProgress`: what a consumer without acknowledgements has delivered. Read from logs of older
/// versions; [`ConsumerUpdate`] is written instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerProgress {
    /// The stream.
    pub stream: String,
    /// The consumer.
    pub name: String,
    /// The last consumer sequence delivered.
    pub consumer_seq: u64,
    /// The stream sequence of that delivery.
    pub stream_seq: u64,
}

/// One message of a [`CopyBatch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedMessage {
    /// Its sequence in the origin.
    pub seq: u64,
    /// When the origin stored it, Unix nanoseconds.
    pub ts_ns: u64,
    /// The subject under which it is copied.
    pub subject: Bytes,
    /// How much of `data` is the header block.
    pub header_len: u32,
    /// Header block and payload, as the copy stores them.
    pub data: Bytes,
}

/// `Copy`: what the leader read of an origin for a mirror or source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyBatch {
    /// The stream that copies.
    pub stream: String,
    /// Its creation: a stream of the same name that came later is not meant.
    pub created_ns: u64,
    /// The identity of the mirror or source.
    pub origin: String,
    /// The origin's incarnation.
    pub origin_uid: u64,
    /// The place in the origin that the batch continues at.
    pub after: u64,
    /// The place in the origin that the batch leads to.
    pub upto: u64,
    /// The origin forgets what is copied: the copy stops at what the stream refuses, where it else goes on.
    pub whole: bool,
    /// What matches in between.
    pub messages: Vec<CopiedMessage>,
}

/// `Atomic`: messages of one stream that are stored together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtomicBatch {
    /// The client's name for the batch.
    pub id: String,
    /// In order.
    pub messages: Vec<Append>,
}

/// `Series`: messages of a fast batch (ADR-50), in order, each stored or refused by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// What follows a refused message is stored all the same; otherwise nothing of it is.
    pub go_on: bool,
    /// In order.
    pub messages: Vec<Append>,
}

/// `ScheduleRun`: what the leader read of a schedule that was due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleRun {
    /// The stream.
    pub stream: String,
    /// Its creation: a stream of the same name that came later is not meant.
    pub created_ns: u64,
    /// The message that holds the schedule.
    pub seq: u64,
    /// When it was due, Unix nanoseconds; a schedule that is due at another time is not meant.
    pub due_ns: u64,
    /// When it is due next; 0 = never, the schedule goes.
    pub next_ns: u64,
    /// What it produces; `None`: only its next time was worked out.
    pub message: Option<Append>,
}

/// `RestoreBegin`: makes a stream that nobody sees yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoreBegin {
    /// Names the restore.
    pub token: String,
    /// As the client sent it.
    pub config: StreamConfig,
    /// The asker is this node itself.
    pub privileged: bool,
    /// Members of the group.
    pub replicas_max: u32,
}

/// `RestoreMessages`: some of a restored stream's messages, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreMessages {
    /// The restore.
    pub token: String,
    /// Messages, each above the ones before.
    pub messages: Vec<CopiedMessage>,
    /// Sequences that were removed later.
    pub removed: Vec<u64>,
}

/// A consumer as an archive keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoredConsumer {
    /// Its configuration; the name has to be set.
    pub config: ConsumerConfig,
    /// When it was made first, Unix nanoseconds.
    pub created_ns: u64,
    /// How far it had come.
    pub delivered: Position,
    /// Everything up to here was settled.
    pub ack_floor: Position,
    /// What was not, by stream sequence.
    pub pending: Vec<(u64, Unsettled)>,
}

/// `RestoreConsumers`: some of a restored stream's consumers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestoreConsumers {
    /// The restore.
    pub token: String,
    /// Consumers, after all messages.
    pub consumers: Vec<RestoredConsumer>,
}

/// `RestoreEnd`: from here on the stream is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreEnd {
    /// The restore.
    pub token: String,
    /// When the stream was made first, Unix nanoseconds; 0 = not known.
    pub created_ns: u64,
    /// The last sequence that was given out; messages may end before.
    pub last_seq: u64,
}

/// Everything that changes the state.
#[derive(Clone, Debug, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "the large ones are rare and short-lived"
)]
pub enum Command {
    /// Store a message.
    Append(Append),
    /// Create a stream.
    StreamCreate(StreamPut),
    /// Replace a stream's configuration.
    StreamUpdate(StreamPut),
    /// Delete a stream.
    StreamDelete(StreamDelete),
    /// Remove messages.
    StreamPurge(StreamPurge),
    /// Remove one message.
    MessageDelete(MessageDelete),
    /// Create or update a consumer.
    ConsumerCreate(ConsumerCreate),
    /// Delete a consumer.
    ConsumerDelete(ConsumerDelete),
    /// Record deliveries of a consumer without acknowledgements.
    ConsumerProgress(ConsumerProgress),
    /// Record deliveries and acknowledgements.
    ConsumerUpdate(ConsumerUpdate),
    /// Pause or resume a consumer.
    ConsumerPause(ConsumerPause),
    /// Move a consumer back or forth.
    ConsumerReset(ConsumerReset),
    /// Copy messages of one stream to another.
    Copy(CopyBatch),
    /// Store a batch as a whole.
    Atomic(AtomicBatch),
    /// Store messages of a fast batch.
    Series(Series),
    /// Run a schedule.
    ScheduleRun(ScheduleRun),
    /// Start to restore a stream.
    RestoreBegin(RestoreBegin),
    /// Restore messages.
    RestoreMessages(RestoreMessages),
    /// Restore consumers.
    RestoreConsumers(RestoreConsumers),
    /// End a restore.
    RestoreEnd(RestoreEnd),
    /// Give a restore up: its token.
    RestoreAbort(String),
    /// What the account and the server may use.
    Limits(crate::limits::Limits),
    /// Change records of the control plane, all or none.
    Control(ControlChange),
    /// Apply what follows by other rules.
    Rules(crate::rules::Rules),
    /// Let time pass: expire what the entry's stamp says is due.
    Tick,
}

/// A command as apply sees it: appends borrowed from the entry, the rest decoded.
#[derive(Clone, Debug, PartialEq)]
pub enum CommandRef<'a> {
    /// Store a message.
    Append(AppendRef<'a>),
    /// Anything rare.
    Other(Box<Command>),
}
