//! The binary form of commands and entries. One frame per command:
//! `len:u32 | format:u8 | kind:u8 | body`; an entry is
//! `format:u8 | stamp_ns:u64 | count:u32 | frame…`, so batches from many proposers are joined by
//! copying bytes once, and apply reads appends in place.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig};

use crate::bodies;
use crate::codec::{CodecError, Reader, len_u32};
use crate::command::{AppendRef, Command, CommandRef, ConsumerCreate, CopyBatch, RestoreConsumers};
use crate::consumer_update::ConsumerUpdate;
use crate::control::ControlChange;
use crate::rules::Rules;

/// Format of commands and entries written by this version.
pub const FORMAT: u8 = 1;
/// The format of commands that make a consumer which acknowledges by flow control, and of copies through
/// one. Nodes of versions that do not know them end there, where they would else do something else and
/// part ways with the others.
const FLOW_ACKS_FORMAT: u8 = 2;
/// The format of commands that change by which rules entries are applied.
const RULES_FORMAT: u8 = 3;
/// Commands in one entry at most.
pub const ENTRY_COMMANDS_MAX: u32 = 1 << 20;
const ENTRY_HEAD_BYTES: usize = 13;
const FRAME_HEAD_BYTES: usize = 6;

mod kind {
    pub(super) const APPEND: u8 = 1;
    pub(super) const STREAM_CREATE: u8 = 2;
    pub(super) const STREAM_UPDATE: u8 = 3;
    pub(super) const STREAM_DELETE: u8 = 4;
    pub(super) const STREAM_PURGE: u8 = 5;
    pub(super) const MESSAGE_DELETE: u8 = 6;
    pub(super) const CONSUMER_CREATE: u8 = 7;
    pub(super) const CONSUMER_DELETE: u8 = 8;
    pub(super) const CONSUMER_PROGRESS: u8 = 9;
    pub(super) const TICK: u8 = 10;
    pub(super) const CONSUMER_UPDATE: u8 = 11;
    pub(super) const CONSUMER_PAUSE: u8 = 12;
    pub(super) const CONSUMER_RESET: u8 = 13;
    pub(super) const COPY: u8 = 32;
    pub(super) const LIMITS: u8 = 33;
    pub(super) const CONTROL: u8 = 64;
    pub(super) const ATOMIC: u8 = 34;
    pub(super) const SCHEDULE_RUN: u8 = 35;
    pub(super) const RESTORE_BEGIN: u8 = 36;
    pub(super) const RESTORE_MESSAGES: u8 = 37;
    pub(super) const RESTORE_CONSUMERS: u8 = 38;
    pub(super) const RESTORE_END: u8 = 39;
    pub(super) const RESTORE_ABORT: u8 = 40;
    pub(super) const SERIES: u8 = 41;
    /// In a format of its own.
    pub(super) const RULES: u8 = 42;

    /// Each of them.
    pub(super) const ALL: [u8; 24] = [
        APPEND,
        STREAM_CREATE,
        STREAM_UPDATE,
        STREAM_DELETE,
        STREAM_PURGE,
        MESSAGE_DELETE,
        CONSUMER_CREATE,
        CONSUMER_DELETE,
        CONSUMER_PROGRESS,
        TICK,
        CONSUMER_UPDATE,
        CONSUMER_PAUSE,
        CONSUMER_RESET,
        COPY,
        LIMITS,
        CONTROL,
        ATOMIC,
        SCHEDULE_RUN,
        RESTORE_BEGIN,
        RESTORE_MESSAGES,
        RESTORE_CONSUMERS,
        RESTORE_END,
        RESTORE_ABORT,
        SERIES,
    ];
}

/// Commands being gathered by a proposer.
#[derive(Clone, Debug, Default)]
pub struct CommandBatch {
    count: u32,
    bytes: BytesMut,
}

/// Commands ready to be proposed; cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedBatch {
    /// Commands in `bytes`.
    pub count: u32,
    /// Their frames.
    pub bytes: Bytes,
}

impl CommandBatch {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Commands so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Commands so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a message without intermediate allocation. `header_len` is the share of `data` that is
    /// headers. A subject over 65,535 bytes can't be framed and is refused.
    pub fn push_append(
        &mut self,
        subject: &[u8],
        header_len: usize,
        data: &[u8],
        privileged: bool,
    ) -> Result<(), CodecError> {
        let subject_len = u16::try_from(subject.len()).map_err(|_| CodecError::Length)?;
        if header_len > data.len() || data.len() > (1 << 30) {
            return Err(CodecError::Length);
        }
        let body = 1 + 2 + 4 + subject.len() + data.len();
        self.bytes.reserve(FRAME_HEAD_BYTES + body);
        self.bytes.put_u32_le(len_u32(2 + body));
        self.bytes.put_u8(FORMAT);
        self.bytes.put_u8(kind::APPEND);
        self.bytes.put_u8(u8::from(privileged));
        self.bytes.put_u16_le(subject_len);
        self.bytes.put_u32_le(len_u32(header_len));
        self.bytes.put_slice(subject);
        self.bytes.put_slice(data);
        self.count += 1;
        Ok(())
    }

    /// Adds any command.
    pub fn push(&mut self, command: &Command) -> Result<(), CodecError> {
        match command {
            Command::Append(a) => {
                self.push_append(&a.subject, a.header_len as usize, &a.data, a.privileged)
            }
            Command::StreamCreate(body) => self.push_json(kind::STREAM_CREATE, body),
            Command::StreamUpdate(body) => self.push_json(kind::STREAM_UPDATE, body),
            Command::StreamDelete(body) => self.push_json(kind::STREAM_DELETE, body),
            Command::StreamPurge(body) => self.push_json(kind::STREAM_PURGE, body),
            Command::MessageDelete(body) => self.push_json(kind::MESSAGE_DELETE, body),
            Command::ConsumerCreate(body) => {
                let format = format_if(needs_flow_acks(&body.config));
                self.push_frame(format, kind::CONSUMER_CREATE, &to_json(body)?);
                Ok(())
            }
            Command::ConsumerDelete(body) => self.push_json(kind::CONSUMER_DELETE, body),
            Command::ConsumerProgress(body) => self.push_json(kind::CONSUMER_PROGRESS, body),
            Command::ConsumerPause(body) => self.push_json(kind::CONSUMER_PAUSE, body),
            Command::ConsumerReset(body) => self.push_json(kind::CONSUMER_RESET, body),
            Command::ConsumerUpdate(update) => {
                let mut body = Vec::new();
                update.encode(&mut body);
                self.push_body(kind::CONSUMER_UPDATE, &body);
                Ok(())
            }
            Command::Copy(body) => {
                let format = format_if(body.whole);
                self.push_frame(format, kind::COPY, &bodies::encode_copy(body));
                Ok(())
            }
            Command::Atomic(body) => {
                self.push_body(kind::ATOMIC, &bodies::encode_atomic(body));
                Ok(())
            }
            Command::Series(body) => {
                self.push_body(kind::SERIES, &bodies::encode_series(body));
                Ok(())
            }
            Command::ScheduleRun(run) => {
                self.push_body(kind::SCHEDULE_RUN, &bodies::encode_run(run));
                Ok(())
            }
            Command::RestoreBegin(body) => self.push_json(kind::RESTORE_BEGIN, body),
            Command::RestoreMessages(body) => {
                self.push_body(kind::RESTORE_MESSAGES, &bodies::encode_restored(body));
                Ok(())
            }
            Command::RestoreConsumers(body) => {
                let mut configs = body.consumers.iter().map(|consumer| &consumer.config);
                let format = format_if(configs.any(needs_flow_acks));
                self.push_frame(format, kind::RESTORE_CONSUMERS, &to_json(body)?);
                Ok(())
            }
            Command::RestoreEnd(body) => self.push_json(kind::RESTORE_END, body),
            Command::RestoreAbort(token) => self.push_json(kind::RESTORE_ABORT, token),
            Command::Limits(body) => self.push_json(kind::LIMITS, body),
            Command::Control(change) => {
                self.push_body(kind::CONTROL, &change.encode()?);
                Ok(())
            }
            Command::Rules(rules) => {
                self.push_frame(RULES_FORMAT, kind::RULES, &[rules.level()]);
                Ok(())
            }
            Command::Tick => {
                self.push_body(kind::TICK, &[]);
                Ok(())
            }
        }
    }

    /// Ends the gathering.
    #[must_use]
    pub fn freeze(self) -> EncodedBatch {
        EncodedBatch {
            count: self.count,
            bytes: self.bytes.freeze(),
        }
    }

    fn push_json<T: Serialize>(&mut self, kind: u8, body: &T) -> Result<(), CodecError> {
        self.push_body(kind, &to_json(body)?);
        Ok(())
    }

    fn push_body(&mut self, kind: u8, body: &[u8]) {
        self.push_frame(FORMAT, kind, body);
    }

    fn push_frame(&mut self, format: u8, kind: u8, body: &[u8]) {
        self.bytes.reserve(FRAME_HEAD_BYTES + body.len());
        self.bytes.put_u32_le(len_u32(2 + body.len()));
        self.bytes.put_u8(format);
        self.bytes.put_u8(kind);
        self.bytes.put_slice(body);
        self.count += 1;
    }
}

impl EncodedBatch {
    /// A batch of one command.
    pub fn of(command: &Command) -> Result<Self, CodecError> {
        let mut batch = CommandBatch::new();
        batch.push(command)?;
        Ok(batch.freeze())
    }
}

/// Joins batches into the body of one log entry, stamped with the leader's time (Unix nanoseconds).
#[must_use]
pub fn encode_entry(stamp_ns: u64, parts: &[EncodedBatch]) -> Bytes {
    let body: usize = parts.iter().map(|part| part.bytes.len()).sum();
    let mut out = BytesMut::with_capacity(ENTRY_HEAD_BYTES + body);
    out.put_u8(FORMAT);
    out.put_u64_le(stamp_ns);
    out.put_u32_le(parts.iter().map(|part| part.count).sum());
    for part in parts {
        out.put_slice(&part.bytes);
    }
    out.freeze()
}

/// A log entry whose framing has been checked.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The leader's time, Unix nanoseconds.
    pub stamp_ns: u64,
    /// Commands in it.
    pub count: u32,
    frames: Bytes,
}

/// Checks the framing of a whole entry; bodies are decoded one by one by [`Entry::commands`].
pub fn decode_entry(bytes: &Bytes) -> Result<Entry, CodecError> {
    let mut reader = Reader::new(bytes);
    let format = reader.u8()?;
    if format != FORMAT {
        return Err(CodecError::UnknownFormat(format));
    }
    let stamp_ns = reader.u64()?;
    let count = reader.u32()?;
    if count > ENTRY_COMMANDS_MAX {
        return Err(CodecError::Length);
    }
    let frames = bytes.slice(ENTRY_HEAD_BYTES..);
    for _ in 0..count {
        let frame = reader.blob()?;
        match frame {
            // What one node skips and another applies would part them for ever.
            [FORMAT | FLOW_ACKS_FORMAT, kind, ..] if !kind::ALL.contains(kind) => {
                return Err(CodecError::UnknownKind(*kind));
            }
            [FORMAT | FLOW_ACKS_FORMAT, _, ..] => {}
            [RULES_FORMAT, kind::RULES, level] => {
                Rules::of_level(*level)?;
            }
            [other, ..] => return Err(CodecError::UnknownFormat(*other)),
            [] => return Err(CodecError::Truncated),
        }
    }
    reader.finish()?;
    Ok(Entry {
        stamp_ns,
        count,
        frames,
    })
}

impl Entry {
    /// The commands in order; exactly `count` items. A body that does not parse is an error in its
    /// place and does not hide the others.
    pub fn commands(&self) -> impl Iterator<Item = Result<CommandRef<'_>, CodecError>> {
        let mut reader = Reader::new(&self.frames);
        (0..self.count).map(move |_| decode_frame(reader.blob()?))
    }

    /// Like [`Entry::commands`], owned; appends share the entry's allocation.
    pub fn owned_commands(&self) -> impl Iterator<Item = Result<Command, CodecError>> {
        self.commands().map(|command| {
            Ok(match command? {
                CommandRef::Append(a) => Command::Append(crate::command::Append {
                    subject: crate::codec::share(&self.frames, a.subject),
                    header_len: a.header_len,
                    data: crate::codec::share(&self.frames, a.data),
                    privileged: a.privileged,
                }),
                CommandRef::Other(command) => *command,
            })
        })
    }
}

fn to_json<T: Serialize>(body: &T) -> Result<Vec<u8>, CodecError> {
    serde_json::to_vec(body).map_err(|_| CodecError::Malformed)
}

/// The format of a command that `knows` what came with acknowledgements by flow control.
fn format_if(knows: bool) -> u8 {
    if knows { FLOW_ACKS_FORMAT } else { FORMAT }
}

fn needs_flow_acks(config: &ConsumerConfig) -> bool {
    config.ack_policy == AckPolicy::FlowControl || config.sourcing
}

fn decode_frame(frame: &[u8]) -> Result<CommandRef<'_>, CodecError> {
    let [format, kind, body @ ..] = frame else {
        return Err(CodecError::Truncated);
    };
    if let (RULES_FORMAT, kind::RULES, [level]) = (*format, *kind, body) {
        let rules = Command::Rules(Rules::of_level(*level)?);
        return Ok(CommandRef::Other(Box::new(rules)));
    }
    let knows = *format == FLOW_ACKS_FORMAT;
    // Written by a version that refuses such consumers, which others do then too.
    let known = |config: &ConsumerConfig| match needs_flow_acks(config) && !knows {
        true => Err(CodecError::Malformed),
        false => Ok(()),
    };
    let command = match *kind {
        kind::APPEND => return decode_append(body).map(CommandRef::Append),
        kind::STREAM_CREATE => Command::StreamCreate(json(body)?),
        kind::STREAM_UPDATE => Command::StreamUpdate(json(body)?),
        kind::STREAM_DELETE => Command::StreamDelete(json(body)?),
        kind::STREAM_PURGE => Command::StreamPurge(json(body)?),
        kind::MESSAGE_DELETE => Command::MessageDelete(json(body)?),
        kind::CONSUMER_CREATE => {
            let create: ConsumerCreate = json(body)?;
            known(&create.config)?;
            Command::ConsumerCreate(create)
        }
        kind::CONSUMER_DELETE => Command::ConsumerDelete(json(body)?),
        kind::CONSUMER_PROGRESS => Command::ConsumerProgress(json(body)?),
        kind::CONSUMER_UPDATE => Command::ConsumerUpdate(ConsumerUpdate::decode(body)?),
        kind::CONSUMER_PAUSE => Command::ConsumerPause(json(body)?),
        kind::CONSUMER_RESET => Command::ConsumerReset(json(body)?),
        kind::COPY => Command::Copy(CopyBatch {
            whole: knows,
            ..bodies::decode_copy(body)?
        }),
        kind::ATOMIC => Command::Atomic(bodies::decode_atomic(body)?),
        kind::SERIES => Command::Series(bodies::decode_series(body)?),
        kind::SCHEDULE_RUN => Command::ScheduleRun(bodies::decode_run(body)?),
        kind::RESTORE_BEGIN => Command::RestoreBegin(json(body)?),
        kind::RESTORE_MESSAGES => Command::RestoreMessages(bodies::decode_restored(body)?),
        kind::RESTORE_CONSUMERS => {
            let restored: RestoreConsumers = json(body)?;
            restored
                .consumers
                .iter()
                .try_for_each(|c| known(&c.config))?;
            Command::RestoreConsumers(restored)
        }
        kind::RESTORE_END => Command::RestoreEnd(json(body)?),
        kind::RESTORE_ABORT => Command::RestoreAbort(json(body)?),
        kind::LIMITS => Command::Limits(json(body)?),
        kind::CONTROL => Command::Control(ControlChange::decode(body)?),
        kind::TICK if body.is_empty() => Command::Tick,
        kind::TICK => return Err(CodecError::Length),
        other => return Err(CodecError::UnknownKind(other)),
    };
    Ok(CommandRef::Other(Box::new(command)))
}

fn decode_append(body: &[u8]) -> Result<AppendRef<'_>, CodecError> {
    let mut reader = Reader::new(body);
    let privileged = reader.flag()?;
    let subject_len = usize::from(reader.u16()?);
    let header_len = reader.u32()?;
    let subject = reader.take(subject_len)?;
    let data = reader.rest();
    if header_len as usize > data.len() {
        return Err(CodecError::Length);
    }
    Ok(AppendRef {
        subject,
        header_len,
        data,
        privileged,
    })
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    serde_json::from_slice(body).map_err(|_| CodecError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Append, StreamDelete};
    use unibus_proto::jetstream::api::ConsumerAction;

    fn append() -> Command {
        Command::Append(Append {
            subject: Bytes::from_static(b"a.b"),
            header_len: 2,
            data: Bytes::from_static(b"hhpayload"),
            privileged: true,
        })
    }

    #[test]
    fn entry_bytes_are_golden() {
        let mut batch = CommandBatch::new();
        batch.push(&append()).unwrap();
        batch.push(&Command::Tick).unwrap();
        assert_eq!((batch.count(), batch.bytes()), (2, 31));
        let entry = encode_entry(7, &[batch.freeze()]);
        let golden: &[u8] = b"\x01\x07\0\0\0\0\0\0\0\x02\0\0\0\
            \x15\0\0\0\x01\x01\x01\x03\0\x02\0\0\0a.bhhpayload\
            \x02\0\0\0\x01\x0a";
        assert_eq!(&entry[..], golden);
    }

    /// Versions that do not know such consumers end there, rather than make another consumer of it.
    #[test]
    fn consumers_that_acknowledge_by_flow_control_have_a_format_of_their_own() {
        for (ack_policy, format) in [
            (AckPolicy::Explicit, FORMAT),
            (AckPolicy::FlowControl, FLOW_ACKS_FORMAT),
        ] {
            let create = Command::ConsumerCreate(ConsumerCreate {
                stream: "S".into(),
                config: ConsumerConfig {
                    ack_policy,
                    ..ConsumerConfig::default()
                },
                action: ConsumerAction::CreateOrUpdate,
                generated_name: String::new(),
                privileged: false,
            });
            let part = EncodedBatch::of(&create).unwrap();
            assert_eq!(part.bytes[4], format);
            let entry = decode_entry(&encode_entry(9, &[part])).unwrap();
            let read: Vec<_> = entry.owned_commands().map(Result::unwrap).collect();
            assert_eq!(read, [create]);
        }
    }

    #[test]
    fn commands_read_back() {
        let delete = Command::StreamDelete(StreamDelete {
            name: "S".into(),
            privileged: false,
        });
        let parts = [
            EncodedBatch::of(&append()).unwrap(),
            EncodedBatch::of(&delete).unwrap(),
        ];
        let entry = decode_entry(&encode_entry(9, &parts)).unwrap();
        assert_eq!((entry.stamp_ns, entry.count), (9, 2));
        let read: Vec<_> = entry.owned_commands().map(Result::unwrap).collect();
        assert_eq!(read, [append(), delete]);
    }

    /// Neither older versions nor this one go on after rules that they do not know.
    #[test]
    fn rules_have_a_format_of_their_own() {
        let newest = Command::Rules(Rules::NEWEST);
        let part = EncodedBatch::of(&newest).unwrap();
        assert_eq!(&part.bytes[..], b"\x03\0\0\0\x03\x2a\x01");
        let entry = encode_entry(9, &[part]);
        let read = decode_entry(&entry).unwrap();
        let read: Vec<_> = read.owned_commands().map(Result::unwrap).collect();
        assert_eq!(read, [newest]);
        let mut later = entry.to_vec();
        *later.last_mut().unwrap() += 1;
        assert_eq!(
            decode_entry(&later.into()).unwrap_err(),
            CodecError::UnknownFormat(2)
        );
        let mut other = entry.to_vec();
        other[18] = kind::TICK;
        assert_eq!(
            decode_entry(&other.into()).unwrap_err(),
            CodecError::UnknownFormat(3)
        );
    }

    #[test]
    fn damage_is_an_error() {
        let entry = encode_entry(9, &[EncodedBatch::of(&append()).unwrap()]);
        for cut in 0..entry.len() {
            assert!(decode_entry(&entry.slice(..cut)).is_err(), "{cut}");
        }
        let mut wrong = entry.to_vec();
        wrong[0] = 2;
        assert_eq!(
            decode_entry(&wrong.into()).unwrap_err(),
            CodecError::UnknownFormat(2)
        );
        let mut long = entry.to_vec();
        long.push(0);
        assert_eq!(decode_entry(&long.into()).unwrap_err(), CodecError::Length);
        let mut kind = entry.to_vec();
        kind[18] = 99;
        assert_eq!(
            decode_entry(&kind.into()).unwrap_err(),
            CodecError::UnknownKind(99)
        );
    }

    #[test]
    fn oversized_subject_is_refused() {
        let subject = vec![b'a'; 70_000];
        let mut batch = CommandBatch::new();
        assert_eq!(
            batch.push_append(&subject, 0, b"", false),
            Err(CodecError::Length)
        );
        assert!(batch.is_empty() && batch.bytes() == 0);
    }
}
