//! Checkpoints: the state as key-value rows, and back. Sealed index rows are written once; what changes
//! under them is a small bitmap of live messages. A row that is older than its stream's row is cut to
//! what the stream row says, so rows may be richer than the state, never poorer.
//!
//! Keys: `kind:u8 | stream:u64be | …`. Values start with a format byte.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use unibus_proto::jetstream::config::StreamConfig;

use crate::blocks::Block;
use crate::codec::{CodecError, Reader, len_u32, put_blob};
use crate::consumer::{Consumer, ConsumerRow};
use crate::copies::Progress;
use crate::dedupe::{CHUNK_IDS, Dedupe, Remembered};
use crate::entries::{HEADERS, IndexEntry, STORED_FLAGS, TTL};
use crate::limits::Limits;
use crate::location::{BlockId, StreamUid};
use crate::restore::Restoring;
use crate::rules::Rules;
use crate::schedules::Planned;
use crate::state::State;
use crate::stream::{Stream, message_size};

const FORMAT: u8 = 1;
/// Format of the meta row of a state with rules other than the first: they come first.
const FORMAT_RULES: u8 = 2;
/// Format of index rows of blocks with counters: their values come last.
const FORMAT_COUNTED: u8 = 2;
/// Format of index rows of blocks with schedules: counters' values and then schedules come last.
const FORMAT_SCHEDULED: u8 = 3;
/// Where an index row says that its block is sealed: behind format and base.
const SEALED_AT: usize = 9;
/// A dead entry of an index row.
const DEAD: u32 = u32::MAX;

mod kind {
    pub(super) const META: u8 = b'0';
    pub(super) const STREAM: u8 = b'1';
    pub(super) const CONSUMER: u8 = b'2';
    pub(super) const LIVE: u8 = b'3';
    pub(super) const INDEX: u8 = b'4';
    pub(super) const DEDUPE: u8 = b'5';
}

/// One change of the row store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowOp {
    /// Write.
    Put {
        /// Key.
        key: Vec<u8>,
        /// Value.
        value: Vec<u8>,
    },
    /// Remove, if there.
    Delete {
        /// Key.
        key: Vec<u8>,
    },
}

/// The block that a row is the index of, if the state adds nothing to that block any more. Such rows are
/// written once (but for a change of a counter or a schedule in them) and may be kept apart from the
/// others: what is loaded is the same in any order.
#[must_use]
pub fn sealed_index(key: &[u8], value: &[u8]) -> Option<(StreamUid, BlockId)> {
    let rest = key.strip_prefix(&[kind::INDEX])?;
    let (stream, block) = rest.split_first_chunk::<8>()?;
    let block = <[u8; 4]>::try_from(block).ok()?;
    let ids = (
        StreamUid(u64::from_be_bytes(*stream)),
        BlockId(u32::from_be_bytes(block)),
    );
    (value.get(SEALED_AT) == Some(&1)).then_some(ids)
}

/// Why rows are not a state.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LoadError {
    /// A value does not parse.
    #[error("a row of kind {kind} is unreadable: {source}")]
    Row {
        /// The first byte of its key.
        kind: char,
        /// Why.
        source: CodecError,
    },
    /// A row is missing, or rows contradict each other.
    #[error("the rows of stream {0} contradict each other")]
    Inconsistent(u64),
    /// No meta row: not a checkpoint.
    #[error("the rows hold no state")]
    Missing,
}

#[derive(Serialize, Deserialize)]
struct StreamRow {
    config: StreamConfig,
    created_ns: u64,
    messages: u64,
    bytes: u64,
    first_seq: u64,
    last_seq: u64,
    last_ts_ns: u64,
    last_msg_id: Option<Box<str>>,
    next_block: u32,
    dedupe_first: u64,
    dedupe_end: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sweep_from: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    restoring: Option<Restoring>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    progress: BTreeMap<String, Progress>,
}

fn key(kind: u8, uid: StreamUid, tail: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + tail.len());
    key.push(kind);
    key.extend_from_slice(&uid.0.to_be_bytes());
    key.extend_from_slice(tail);
    key
}

fn block_key(kind: u8, uid: StreamUid, block: BlockId) -> Vec<u8> {
    key(kind, uid, &block.0.to_be_bytes())
}

fn chunk_key(uid: StreamUid, chunk: u64) -> Vec<u8> {
    key(kind::DEDUPE, uid, &chunk.to_be_bytes())
}

fn json_value<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = vec![FORMAT];
    // These types serialize to JSON without fail: string keys, no custom errors.
    let written = serde_json::to_writer(&mut out, value).is_ok();
    debug_assert!(written, "a row always serializes");
    out
}

type Out<'a> = &'a mut dyn FnMut(RowOp);

fn put(out: Out<'_>, key: Vec<u8>, value: Vec<u8>) {
    out(RowOp::Put { key, value });
}

// --- writing -----------------------------------------------------------------------------------

impl State {
    /// Tells the rows of this state. `full`: all of them, for an empty target, without forgetting what
    /// the next incremental dump has to say. Otherwise only what changed since the last incremental
    /// dump (or since loading), which then counts as written.
    pub fn dump_rows(&mut self, full: bool, out: &mut dyn FnMut(RowOp)) {
        if full {
            self.dump_all(out);
            return;
        }
        put(out, vec![kind::META], self.meta_row());
        for key in std::mem::take(&mut self.dead_rows) {
            out(RowOp::Delete { key });
        }
        for stream in self.streams_mut() {
            stream.dump_changes(out);
        }
    }

    fn dump_all(&self, out: Out<'_>) {
        put(out, vec![kind::META], self.meta_row());
        for stream in self.streams().chain(self.hidden_streams()) {
            stream.dump_all(out);
        }
    }

    fn meta_row(&self) -> Vec<u8> {
        let mut row = match self.rules.level() {
            0 => vec![FORMAT],
            level => vec![FORMAT_RULES, level],
        };
        row.extend_from_slice(&self.last_stamp_ns.to_le_bytes());
        row.extend_from_slice(&self.next_uid.to_le_bytes());
        // Absent while nothing is limited, as in rows written before there were limits.
        if self.limits != Limits::default() {
            row.extend(serde_json::to_vec(&self.limits).unwrap_or_default());
        }
        row
    }

    /// BLAKE3 over everything that is replicated: equal on replicas that applied the same entries.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        self.dump_all(&mut |op| {
            if let RowOp::Put { key, value } = op {
                hasher.update(&(key.len() as u64).to_le_bytes());
                hasher.update(&key);
                hasher.update(&(value.len() as u64).to_le_bytes());
                hasher.update(&value);
            }
        });
        *hasher.finalize().as_bytes()
    }

    /// Remembers to delete every row a stream may have.
    pub(crate) fn bury_rows(&mut self, stream: &Stream) {
        let uid = stream.uid;
        let rows = &mut self.dead_rows;
        rows.push(key(kind::STREAM, uid, &[]));
        let consumers = stream.consumers.keys().chain(&stream.dirty.consumers);
        rows.extend(consumers.map(|name| key(kind::CONSUMER, uid, name.as_bytes())));
        let live = stream.blocks.list.iter().map(|block| block.id);
        for block in live.chain(stream.dirty.dead_blocks.iter().copied()) {
            rows.push(block_key(kind::LIVE, uid, block));
            rows.push(block_key(kind::INDEX, uid, block));
        }
        let dedupe = &stream.dedupe;
        let chunks = dedupe.dropped_chunks..dedupe.end().div_ceil(CHUNK_IDS);
        rows.extend(chunks.map(|chunk| chunk_key(uid, chunk)));
    }
}

impl Stream {
    fn row(&self) -> Vec<u8> {
        json_value(&StreamRow {
            config: self.config.clone(),
            created_ns: self.created_ns,
            messages: self.messages,
            bytes: self.bytes,
            first_seq: self.first_seq,
            last_seq: self.last_seq,
            last_ts_ns: self.last_ts_ns,
            last_msg_id: self.last_msg_id.clone(),
            next_block: self.blocks.next_id,
            dedupe_first: self.dedupe.first,
            dedupe_end: self.dedupe.end(),
            sweep_from: self.sweep_from,
            restoring: self.restoring.clone(),
            progress: self.progress.clone(),
        })
    }

    fn dump_all(&self, out: Out<'_>) {
        put(out, key(kind::STREAM, self.uid, &[]), self.row());
        for consumer in self.consumers.values() {
            self.dump_consumer(consumer, out);
        }
        for block in &self.blocks.list {
            put(
                out,
                block_key(kind::LIVE, self.uid, block.id),
                live_row(block),
            );
            put(
                out,
                block_key(kind::INDEX, self.uid, block.id),
                self.index_row(block),
            );
        }
        let chunks = self.dedupe.first / CHUNK_IDS..self.dedupe.end().div_ceil(CHUNK_IDS);
        for chunk in chunks {
            put(
                out,
                chunk_key(self.uid, chunk),
                chunk_row(&self.dedupe, chunk),
            );
        }
    }

    fn dump_changes(&mut self, out: Out<'_>) {
        if std::mem::take(&mut self.dirty.row) {
            put(out, key(kind::STREAM, self.uid, &[]), self.row());
        }
        for name in std::mem::take(&mut self.dirty.consumers) {
            match self.consumers.get(&name) {
                Some(consumer) => self.dump_consumer(consumer, out),
                None => out(RowOp::Delete {
                    key: key(kind::CONSUMER, self.uid, name.as_bytes()),
                }),
            }
        }
        for block in std::mem::take(&mut self.dirty.dead_blocks) {
            out(RowOp::Delete {
                key: block_key(kind::LIVE, self.uid, block),
            });
            out(RowOp::Delete {
                key: block_key(kind::INDEX, self.uid, block),
            });
        }
        for block in &self.blocks.list {
            if block.live_dirty {
                put(
                    out,
                    block_key(kind::LIVE, self.uid, block.id),
                    live_row(block),
                );
            }
            if block.index_dirty {
                put(
                    out,
                    block_key(kind::INDEX, self.uid, block.id),
                    self.index_row(block),
                );
            }
        }
        for block in &mut self.blocks.list {
            block.live_dirty = false;
            block.index_dirty = false;
        }
        self.dump_dedupe_changes(out);
    }

    fn dump_dedupe_changes(&mut self, out: Out<'_>) {
        let dedupe = &mut self.dedupe;
        let first = dedupe.first / CHUNK_IDS;
        for chunk in dedupe.dropped_chunks..first {
            out(RowOp::Delete {
                key: chunk_key(self.uid, chunk),
            });
        }
        dedupe.dropped_chunks = dedupe.dropped_chunks.max(first);
        if dedupe.dumped < dedupe.end() {
            let changed = (dedupe.dumped / CHUNK_IDS).max(first);
            for chunk in changed..dedupe.end().div_ceil(CHUNK_IDS) {
                put(out, chunk_key(self.uid, chunk), chunk_row(dedupe, chunk));
            }
            dedupe.dumped = dedupe.end();
        }
    }

    fn dump_consumer(&self, consumer: &Consumer, out: Out<'_>) {
        let key = key(kind::CONSUMER, self.uid, consumer.name.as_bytes());
        put(out, key, consumer.row.encode());
    }

    /// `base | sealed | subjects… | (subject, length and flags, time)… | expiries…`
    fn index_row(&self, block: &Block) -> Vec<u8> {
        let mut places: BTreeMap<u32, u32> = BTreeMap::new();
        let mut names: Vec<u32> = Vec::new();
        for entry in block.entries.from(0).filter(IndexEntry::is_live) {
            places.entry(entry.subject).or_insert_with(|| {
                names.push(entry.subject);
                len_u32(names.len() - 1)
            });
        }
        let end = block.base + block.entries.len() as u64;
        let counts: Vec<_> = self.counts.range(block.base..end).collect();
        let schedules: Vec<_> = self.schedules.range(block.base..end).collect();
        let format = match (schedules.is_empty(), counts.is_empty()) {
            (false, _) => FORMAT_SCHEDULED,
            (true, false) => FORMAT_COUNTED,
            (true, true) => FORMAT,
        };
        let mut row = vec![format];
        row.extend_from_slice(&block.base.to_le_bytes());
        row.push(u8::from(block.sealed));
        row.extend_from_slice(&len_u32(names.len()).to_le_bytes());
        for id in &names {
            put_blob(&mut row, self.subjects.name(*id));
        }
        row.extend_from_slice(&len_u32(block.entries.len()).to_le_bytes());
        for entry in block.entries.from(0) {
            let place = places.get(&entry.subject).filter(|_| entry.is_live());
            row.extend_from_slice(&place.copied().unwrap_or(DEAD).to_le_bytes());
            row.extend_from_slice(&(entry.len() | entry.flags()).to_le_bytes());
            row.extend_from_slice(&entry.ts_ns().to_le_bytes());
        }
        let expiries: Vec<_> = self.expiry_of.range(block.base..end).collect();
        row.extend_from_slice(&len_u32(expiries.len()).to_le_bytes());
        for (seq, expiry) in expiries {
            row.extend_from_slice(&seq.to_le_bytes());
            row.extend_from_slice(&expiry.to_le_bytes());
        }
        if format != FORMAT {
            row.extend_from_slice(&len_u32(counts.len()).to_le_bytes());
            for (seq, count) in counts {
                row.extend_from_slice(&seq.to_le_bytes());
                put_blob(&mut row, &serde_json::to_vec(count).unwrap_or_default());
            }
        }
        if format == FORMAT_SCHEDULED {
            row.extend_from_slice(&len_u32(schedules.len()).to_le_bytes());
            for (seq, planned) in schedules {
                row.extend_from_slice(&seq.to_le_bytes());
                row.extend_from_slice(&planned.at_ns.to_le_bytes());
                row.push(u8::from(planned.armed));
            }
        }
        row
    }
}

/// One bit per entry, lowest bit first.
fn live_row(block: &Block) -> Vec<u8> {
    let mut bits = vec![0u8; block.entries.len().div_ceil(8)];
    for (at, entry) in block.entries.from(0).enumerate() {
        bits[at / 8] |= u8::from(entry.is_live()) << (at % 8);
    }
    let mut row = vec![FORMAT];
    row.extend_from_slice(&len_u32(block.entries.len()).to_le_bytes());
    row.extend_from_slice(&bits);
    row
}

fn chunk_row(dedupe: &Dedupe, chunk: u64) -> Vec<u8> {
    let start = (chunk * CHUNK_IDS).max(dedupe.first);
    let end = ((chunk + 1) * CHUNK_IDS).min(dedupe.end());
    let mut row = vec![FORMAT];
    row.extend_from_slice(&start.to_le_bytes());
    for index in start..end {
        let at = usize::try_from(index - dedupe.first).unwrap_or(usize::MAX);
        if let Some(id) = dedupe.order.get(at) {
            row.extend_from_slice(&id.key);
            row.extend_from_slice(&id.seq.to_le_bytes());
            row.extend_from_slice(&id.ts_ns.to_le_bytes());
        }
    }
    row
}

// --- reading -----------------------------------------------------------------------------------

/// A stream's rows before they are put together.
#[derive(Default)]
struct Parts {
    stream: Option<Vec<u8>>,
    consumers: Vec<Vec<u8>>,
    live: BTreeMap<u32, Vec<u8>>,
    index: BTreeMap<u32, Vec<u8>>,
    dedupe: BTreeMap<u64, Vec<u8>>,
}

impl State {
    /// The state that rows describe, in any order. It counts as written.
    pub fn load_rows(rows: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<Self, LoadError> {
        let mut state = Self::new();
        let mut meta = None;
        let mut parts: BTreeMap<u64, Parts> = BTreeMap::new();
        for (key, value) in rows {
            let kind = key.first().copied().unwrap_or_default();
            if kind == kind::META {
                meta = Some(value);
            } else {
                sort_row(&mut parts, &key, value).map_err(|source| row_error(kind, source))?;
            }
        }
        let meta = meta.ok_or(LoadError::Missing)?;
        state
            .load_meta(&meta)
            .map_err(|source| row_error(kind::META, source))?;
        for (uid, parts) in parts {
            let stream = load_stream(StreamUid(uid), parts)?;
            state.insert_stream(stream);
        }
        Ok(state)
    }

    fn load_meta(&mut self, value: &[u8]) -> Result<(), CodecError> {
        let mut reader = Reader::new(value);
        match reader.u8()? {
            FORMAT => {}
            FORMAT_RULES => self.rules = Rules::of_level(reader.u8()?)?,
            other => return Err(CodecError::UnknownFormat(other)),
        }
        self.last_stamp_ns = reader.u64()?;
        self.next_uid = reader.u64()?;
        if reader.len() > 0 {
            let limits = serde_json::from_slice(reader.rest());
            self.limits = limits.map_err(|_| CodecError::Malformed)?;
        }
        reader.finish()
    }
}

fn row_error(kind: u8, source: CodecError) -> LoadError {
    LoadError::Row {
        kind: char::from(kind),
        source,
    }
}

fn open(value: &[u8]) -> Result<Reader<'_>, CodecError> {
    let mut reader = Reader::new(value);
    match reader.u8()? {
        FORMAT => Ok(reader),
        other => Err(CodecError::UnknownFormat(other)),
    }
}

fn json_row<T: for<'de> Deserialize<'de>>(value: &[u8]) -> Result<T, CodecError> {
    let mut reader = open(value)?;
    serde_json::from_slice(reader.rest()).map_err(|_| CodecError::Malformed)
}

fn sort_row(
    parts: &mut BTreeMap<u64, Parts>,
    key: &[u8],
    value: Vec<u8>,
) -> Result<(), CodecError> {
    let (kind, rest) = key.split_first().ok_or(CodecError::Truncated)?;
    let (uid, tail) = rest.split_first_chunk::<8>().ok_or(CodecError::Truncated)?;
    let parts = parts.entry(u64::from_be_bytes(*uid)).or_default();
    let number = || {
        let tail: [u8; 4] = tail.try_into().map_err(|_| CodecError::Length)?;
        Ok(u32::from_be_bytes(tail))
    };
    match *kind {
        kind::STREAM if tail.is_empty() => parts.stream = Some(value),
        kind::CONSUMER => parts.consumers.push(value),
        kind::LIVE => {
            parts.live.insert(number()?, value);
        }
        kind::INDEX => {
            parts.index.insert(number()?, value);
        }
        kind::DEDUPE => {
            let tail: [u8; 8] = tail.try_into().map_err(|_| CodecError::Length)?;
            parts.dedupe.insert(u64::from_be_bytes(tail), value);
        }
        other => return Err(CodecError::UnknownKind(other)),
    }
    Ok(())
}

fn load_stream(uid: StreamUid, mut parts: Parts) -> Result<Stream, LoadError> {
    let inconsistent = || LoadError::Inconsistent(uid.0);
    let row = parts.stream.take().ok_or_else(inconsistent)?;
    let row: StreamRow = json_row(&row).map_err(|e| row_error(kind::STREAM, e))?;
    let mut stream = Stream::new(uid, row.config, row.created_ns);
    stream.dirty.row = false;
    stream.first_seq = row.first_seq;
    stream.last_seq = row.last_seq;
    stream.last_ts_ns = row.last_ts_ns;
    stream.last_msg_id = row.last_msg_id;
    stream.progress = row.progress;
    stream.restoring = row.restoring;
    stream.blocks.next_id = row.next_block;
    for (id, index) in &parts.index {
        let live = parts.live.get(id).ok_or_else(inconsistent)?;
        let known = stream.load_block(BlockId(*id), index, live);
        known.map_err(|e| row_error(kind::INDEX, e))?;
    }
    if stream.messages != row.messages || stream.bytes != row.bytes {
        return Err(inconsistent());
    }
    for value in &parts.consumers {
        let row = ConsumerRow::decode(value).map_err(|e| row_error(kind::CONSUMER, e))?;
        let consumer = Consumer::of_row(row);
        stream.add_consumer(consumer);
    }
    stream.dedupe.first = row.dedupe_first;
    for value in parts.dedupe.values() {
        load_chunk(&mut stream.dedupe, value).map_err(|e| row_error(kind::DEDUPE, e))?;
    }
    if stream.dedupe.end() != row.dedupe_end {
        return Err(inconsistent());
    }
    stream.sweep_from = row.sweep_from;
    stream.dedupe.dumped = row.dedupe_end;
    stream.dedupe.dropped_chunks = parts
        .dedupe
        .keys()
        .next()
        .copied()
        .unwrap_or(row.dedupe_first / CHUNK_IDS);
    Ok(stream)
}

impl Stream {
    fn load_block(&mut self, id: BlockId, index: &[u8], live: &[u8]) -> Result<(), CodecError> {
        let bits = read_live(live)?;
        let mut reader = Reader::new(index);
        let format = reader.u8()?;
        if !(FORMAT..=FORMAT_SCHEDULED).contains(&format) {
            return Err(CodecError::UnknownFormat(format));
        }
        let base = reader.u64()?;
        let mut block = Block::new(id, base);
        let sealed = reader.flag()?;
        let names = (0..reader.count(4)?)
            .map(|_| reader.blob())
            .collect::<Result<Vec<_>, _>>()?;
        let entries = reader.count(16)?;
        let end = base.checked_add(entries as u64).ok_or(CodecError::Length)?;
        let after = self
            .blocks
            .list
            .back()
            .is_none_or(|b| b.base + b.entries.len() as u64 <= base);
        if entries != bits.entries || end > self.last_seq.saturating_add(1) || !after {
            return Err(CodecError::Malformed);
        }
        for at in 0..entries {
            let place = reader.u32()?;
            let packed = reader.u32()?;
            let ts_ns = reader.u64()?;
            let len = packed & !STORED_FLAGS;
            let flags = packed & STORED_FLAGS;
            if block.bytes.checked_add(len).is_none()
                || len > crate::record::RECORD_BYTES_MAX as u32
            {
                return Err(CodecError::Length);
            }
            if !bits.is_live(at) {
                block.push(ts_ns, len, 0, None);
                continue;
            }
            let name = names.get(place as usize).ok_or(CodecError::Malformed)?;
            if len < crate::record::RECORD_HEAD_BYTES as u32 {
                return Err(CodecError::Length);
            }
            let subject = self.subjects.intern(name);
            self.subjects.push(subject, base + at as u64);
            block.push(ts_ns, len, flags, Some(subject));
            self.messages += 1;
            self.bytes += message_size(self.config.storage, len, flags & HEADERS != 0);
        }
        self.load_expiries(&block, &mut reader)?;
        if format != FORMAT {
            self.load_counts(&block, &mut reader)?;
        }
        if format == FORMAT_SCHEDULED {
            self.load_schedules(&block, &mut reader)?;
        }
        reader.finish()?;
        if sealed {
            block.seal();
        }
        block.index_dirty = false;
        block.live_dirty = false;
        self.blocks.list.push_back(block);
        Ok(())
    }
}

impl Stream {
    fn load_expiries(&mut self, block: &Block, reader: &mut Reader<'_>) -> Result<(), CodecError> {
        for _ in 0..reader.count(16)? {
            let (seq, expiry) = (reader.u64()?, reader.u64()?);
            let at = usize::try_from(seq.wrapping_sub(block.base)).unwrap_or(usize::MAX);
            if block
                .entries
                .get(at)
                .is_some_and(|entry| entry.is_live() && entry.has(TTL))
            {
                self.expiry_of.insert(seq, expiry);
                self.by_expiry.insert((expiry, seq));
            }
        }
        Ok(())
    }

    fn load_counts(&mut self, block: &Block, reader: &mut Reader<'_>) -> Result<(), CodecError> {
        for _ in 0..reader.count(12)? {
            let seq = reader.u64()?;
            let count =
                serde_json::from_slice(reader.blob()?).map_err(|_| CodecError::Malformed)?;
            let at = usize::try_from(seq.wrapping_sub(block.base)).unwrap_or(usize::MAX);
            if block.entries.get(at).is_some_and(|entry| entry.is_live()) {
                self.counts.insert(seq, count);
            }
        }
        Ok(())
    }
}

impl Stream {
    fn load_schedules(&mut self, block: &Block, reader: &mut Reader<'_>) -> Result<(), CodecError> {
        for _ in 0..reader.count(17)? {
            let (seq, at_ns, armed) = (reader.u64()?, reader.u64()?, reader.flag()?);
            let at = usize::try_from(seq.wrapping_sub(block.base)).unwrap_or(usize::MAX);
            if block.entries.get(at).is_some_and(|entry| entry.is_live()) {
                self.schedules.plan(seq, Planned { at_ns, armed });
            }
        }
        Ok(())
    }
}

struct LiveBits<'a> {
    entries: usize,
    bits: &'a [u8],
}

impl LiveBits<'_> {
    fn is_live(&self, at: usize) -> bool {
        self.bits
            .get(at / 8)
            .is_some_and(|byte| byte >> (at % 8) & 1 == 1)
    }
}

fn read_live(value: &[u8]) -> Result<LiveBits<'_>, CodecError> {
    let mut reader = open(value)?;
    let entries = reader.u32()? as usize;
    let bits = reader.rest();
    if bits.len() != entries.div_ceil(8) {
        return Err(CodecError::Length);
    }
    Ok(LiveBits { entries, bits })
}

/// Adds a chunk's ids that are not forgotten yet; chunks come in order.
fn load_chunk(dedupe: &mut Dedupe, value: &[u8]) -> Result<(), CodecError> {
    let mut reader = open(value)?;
    let mut index = reader.u64()?;
    while reader.len() > 0 {
        let id = Remembered {
            key: reader.key()?,
            seq: reader.u64()?,
            ts_ns: reader.u64()?,
        };
        if index == dedupe.end() {
            dedupe.remember(id);
        } else if index > dedupe.end() {
            return Err(CodecError::Malformed);
        }
        index += 1;
    }
    Ok(())
}
