//! Reads an archive. Blocking: belongs on a thread of its own. Takes nothing in it for granted: every
//! length has a limit, and paths only say what a file is.

use std::io::{self, BufReader, Read};

use serde::Deserialize;
use thiserror::Error;
use unibus_proto::jetstream::config::StreamConfig;
use unibus_proto::jetstream::consumer::ConsumerConfig;
use unibus_proto::jetstream::error::ApiError;
use unibus_proto::jetstream::timestamp::Timestamp;
use unibus_state::Position;
use unibus_state::command::{CopiedMessage, RestoredConsumer};

use super::block::{self, Record};
use super::{BLOCKS, CONSUMER_STATE, CONSUMERS, Checksum, META, consumer_state};

/// Bytes of a configuration at most.
const META_BYTES_MAX: u64 = 4 << 20;
/// Bytes of a consumer's position at most.
const STATE_BYTES_MAX: u64 = 24 << 20;
/// Unacknowledged messages of one consumer at most: they are proposed together, and have to fit one entry of
/// the log.
const PENDING_MAX: u64 = 400_000;
/// Unacknowledged messages of all consumers at most: every node holds them in memory.
const PENDING_TOTAL_MAX: u64 = 4_000_000;
/// Messages that are given on together.
const BATCH_MESSAGES_MAX: usize = 1024;
/// Bytes of messages that are given on together; the first goes whatever its size.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// What an archive holds, in its order.
#[derive(Debug)]
pub(in crate::jetstream) enum Item {
    /// Comes first.
    Meta {
        config: Box<StreamConfig>,
        created_ns: u64,
    },
    /// Messages in ascending order, and earlier ones that were removed.
    Messages {
        messages: Vec<CopiedMessage>,
        removed: Vec<u64>,
    },
    /// Comes after all messages.
    Consumer(Box<RestoredConsumer>),
}

/// Why an archive was not taken.
#[derive(Debug, Error)]
pub(in crate::jetstream) enum ArchiveError {
    /// It does not read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// A file of it says nothing that can be understood.
    #[error("{path} is not understood: {why}")]
    File { path: String, why: String },
    /// It has no configuration at its beginning.
    #[error("the archive does not begin with {META}")]
    NoMeta,
    /// Whoever takes the items refused.
    #[error("{0}")]
    Refused(ApiError),
}

#[derive(Deserialize)]
struct StreamMeta {
    #[serde(default, rename = "Created", alias = "created")]
    created: Timestamp,
    #[serde(flatten)]
    config: StreamConfig,
}

#[derive(Deserialize)]
struct ConsumerMeta {
    #[serde(default, rename = "Created", alias = "created")]
    created: Timestamp,
    #[serde(flatten)]
    config: ConsumerConfig,
}

type Emit<'a> = &'a mut dyn FnMut(Item) -> Result<(), ArchiveError>;

/// What is gathered between two items.
struct Reading<'a> {
    emit: Emit<'a>,
    stream: String,
    first_seq: u64,
    last_seq: u64,
    messages: Vec<CopiedMessage>,
    bytes: usize,
    removed: Vec<u64>,
    consumer: Option<RestoredConsumer>,
    /// Unacknowledged messages so far.
    pending: u64,
}

/// Gives everything in the archive to `emit`, without messages below `first_seq`.
pub(in crate::jetstream) fn read(
    input: impl Read,
    first_seq: u64,
    emit: Emit<'_>,
) -> Result<(), ArchiveError> {
    read_unpacked(minlz::Reader::new(input), first_seq, emit)
}

/// As [`read`], of an archive that is not compressed.
pub(in crate::jetstream) fn read_unpacked(
    input: impl Read,
    first_seq: u64,
    emit: Emit<'_>,
) -> Result<(), ArchiveError> {
    let mut archive = tar::Archive::new(input);
    let mut reading = Reading {
        emit,
        stream: String::new(),
        first_seq,
        last_seq: 0,
        messages: Vec::new(),
        bytes: 0,
        removed: Vec::new(),
        consumer: None,
        pending: 0,
    };
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if entry.header().entry_type().is_file() {
            reading.file(&path, &mut entry)?;
        }
    }
    if reading.stream.is_empty() {
        return Err(ArchiveError::NoMeta);
    }
    reading.give_messages()?;
    reading.give_consumer()
}

fn not_understood(path: &str, why: impl ToString) -> ArchiveError {
    ArchiveError::File {
        path: path.to_owned(),
        why: why.to_string(),
    }
}

fn whole(path: &str, input: &mut impl Read, bytes_max: u64) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = Vec::new();
    input.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(not_understood(
            path,
            format!("longer than {bytes_max} bytes"),
        ));
    }
    Ok(bytes)
}

impl Reading<'_> {
    fn file(&mut self, path: &str, input: &mut impl Read) -> Result<(), ArchiveError> {
        if path == META {
            return self.stream_meta(path, input);
        }
        if self.stream.is_empty() {
            return Err(ArchiveError::NoMeta);
        }
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            [BLOCKS, file] => match file.strip_suffix(".blk").map(str::parse) {
                Some(Ok(number)) => self.block(number, input),
                _ => Ok(()),
            },
            [CONSUMERS, name, META] => self.consumer_meta(path, name, input),
            [CONSUMERS, _, CONSUMER_STATE] => self.consumer_state(path, input),
            // Checksums of what S2 has checked, and indexes that follow from the messages.
            _ => Ok(()),
        }
    }

    fn stream_meta(&mut self, path: &str, input: &mut impl Read) -> Result<(), ArchiveError> {
        let bytes = whole(path, input, META_BYTES_MAX)?;
        let meta: StreamMeta =
            serde_json::from_slice(&bytes).map_err(|why| not_understood(path, why))?;
        if meta.config.name.is_empty() {
            return Err(not_understood(path, "it names no stream"));
        }
        self.stream.clone_from(&meta.config.name);
        (self.emit)(Item::Meta {
            config: Box::new(meta.config),
            created_ns: meta.created.0,
        })
    }

    fn block(&mut self, number: u64, input: &mut impl Read) -> Result<(), ArchiveError> {
        let checksum = Checksum::of_block(&self.stream, number);
        let mut input = BufReader::new(input);
        while let Some(record) = block::next(&mut input, &checksum)? {
            match record {
                Record::Message(message) if message.seq < self.first_seq.max(1) => {}
                Record::Message(message) if message.seq > self.last_seq => {
                    self.last_seq = message.seq;
                    self.bytes += message.data.len() + message.subject.len();
                    self.messages.push(message);
                }
                // Twice in an archive whose block was being rewritten.
                Record::Message(_) => {}
                Record::Removed(seq) if seq <= self.last_seq => self.removed.push(seq),
                Record::Removed(_) => {}
            }
            if self.bytes >= BATCH_BYTES_MAX
                || self.messages.len() + self.removed.len() >= BATCH_MESSAGES_MAX
            {
                self.give_messages()?;
            }
        }
        Ok(())
    }

    fn give_messages(&mut self) -> Result<(), ArchiveError> {
        self.bytes = 0;
        let messages = std::mem::take(&mut self.messages);
        let removed = std::mem::take(&mut self.removed);
        if messages.is_empty() && removed.is_empty() {
            return Ok(());
        }
        (self.emit)(Item::Messages { messages, removed })
    }

    fn consumer_meta(
        &mut self,
        path: &str,
        name: &str,
        input: &mut impl Read,
    ) -> Result<(), ArchiveError> {
        self.give_messages()?;
        self.give_consumer()?;
        let bytes = whole(path, input, META_BYTES_MAX)?;
        let meta: ConsumerMeta =
            serde_json::from_slice(&bytes).map_err(|why| not_understood(path, why))?;
        let mut config = meta.config;
        if config.name.is_empty() {
            name.clone_into(&mut config.name);
        }
        self.consumer = Some(RestoredConsumer {
            config,
            created_ns: meta.created.0,
            delivered: Position::default(),
            ack_floor: Position::default(),
            pending: Vec::new(),
        });
        Ok(())
    }

    fn consumer_state(&mut self, path: &str, input: &mut impl Read) -> Result<(), ArchiveError> {
        let bytes = whole(path, input, STATE_BYTES_MAX)?;
        let Some(consumer) = &mut self.consumer else {
            return Err(not_understood(path, "no configuration comes before it"));
        };
        let pending = consumer_state::pending_of(&bytes).unwrap_or(0);
        self.pending = self.pending.saturating_add(pending);
        if pending > PENDING_MAX || self.pending > PENDING_TOTAL_MAX {
            let why = format!(
                "{pending} unacknowledged messages, with all before {}: at most {PENDING_MAX} of a consumer \
                 and {PENDING_TOTAL_MAX} of a stream can be restored",
                self.pending
            );
            return Err(not_understood(path, why));
        }
        consumer_state::decode(&bytes, consumer)
            .ok_or_else(|| not_understood(path, "it is damaged or of another version"))
    }

    fn give_consumer(&mut self) -> Result<(), ArchiveError> {
        match self.consumer.take() {
            Some(consumer) => (self.emit)(Item::Consumer(Box::new(consumer))),
            None => Ok(()),
        }
    }
}
