//! One stream: its configuration, index, limits and consumers. Storing is in `publish`, what may be
//! configured in `validate`, checkpoints in `rows`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use unibus_proto::jetstream::config::{Discard, Storage, StreamConfig};
use unibus_proto::jetstream::error::ApiError;
use unibus_proto::jetstream::info::StreamStateJson;
use unibus_proto::jetstream::timestamp::Timestamp;
use unibus_proto::subject;

use crate::blocks::Blocks;
use crate::compiled::Compiled;
use crate::consumer::Consumer;
use crate::copies::Progress;
use crate::counter::Count;
use crate::dedupe::Dedupe;
use crate::entries::{HEADERS, IndexEntry};
use crate::interest::Interest;
use crate::location::{BlockId, BlockMeta, BlockSink, Location, StreamUid};
use crate::removal_log::RemovalLog;
use crate::republish::Again;
use crate::restore::Restoring;
use crate::rules::Rules;
use crate::schedules::Schedules;
use crate::subject_table::SubjectTable;

/// Entries looked at one by one before the subject table is asked instead.
const WALK_ENTRIES_MAX: u64 = 1024;
/// Messages and subjects that one entry may look at where filters are asked about, while every node
/// waits. What asks for more is refused, or counted later.
pub(crate) const WORK_MAX: u64 = 1 << 20;

/// What apply hands down: the entry's time and where bytes go.
pub(crate) struct Context<'a> {
    pub(crate) now_ns: u64,
    /// The rules that hold.
    pub(crate) rules: Rules,
    /// Subjects that the entry has looked at so far where a filter was asked about.
    pub(crate) work: u64,
    pub(crate) sink: &'a mut dyn BlockSink,
}

/// A live message as the index knows it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct MessageView<'a> {
    /// Its sequence.
    pub seq: u64,
    /// When it was stored, Unix nanoseconds.
    pub ts_ns: u64,
    /// Its subject.
    pub subject: &'a [u8],
    /// Where its record is.
    pub location: Location,
    /// Whether it has headers.
    pub has_headers: bool,
}

/// What an entry is refused that asks about more than [`WORK_MAX`].
pub(crate) const TOO_MUCH_AT_ONCE: ApiError = ApiError::fixed(
    503,
    10023,
    "insufficient resources: too many subjects were asked about at once",
);

impl Context<'_> {
    /// Whether the entry has looked at as much as it may.
    pub(crate) fn is_spent(&self) -> bool {
        self.work >= WORK_MAX && self.rules.have(Rules::BOUNDED_WORK)
    }
}

/// What the next checkpoint has to say about a stream.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    pub(crate) row: bool,
    pub(crate) consumers: BTreeSet<Arc<str>>,
    pub(crate) dead_blocks: Vec<BlockId>,
}

/// One stream.
#[derive(Debug)]
pub struct Stream {
    pub(crate) uid: StreamUid,
    pub(crate) name: Arc<str>,
    pub(crate) config: StreamConfig,
    pub(crate) created_ns: u64,
    pub(crate) blocks: Blocks,
    pub(crate) subjects: SubjectTable,
    pub(crate) dedupe: Dedupe,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    pub(crate) last_ts_ns: u64,
    pub(crate) last_msg_id: Option<Box<str>>,
    /// Expiry by sequence, of live messages with their own.
    pub(crate) expiry_of: BTreeMap<u64, u64>,
    pub(crate) by_expiry: BTreeSet<(u64, u64)>,
    /// Every live message below survives the maximum age.
    pub(crate) age_cursor: u64,
    /// Changed through `retention` only, which keeps `interest` true.
    pub(crate) consumers: BTreeMap<Arc<str>, Consumer>,
    pub(crate) interest: Interest,
    /// The consumer that was last found to need a message: likely to need the next one as well.
    pub(crate) needed_by: Option<Arc<str>>,
    /// From here on it has to be found out what no consumer needs any more.
    pub(crate) sweep_from: Option<u64>,
    /// What was removed, for cursors that count. Not replicated.
    pub(crate) removals: RemovalLog,
    pub(crate) dirty: Dirty,
    /// What follows from the configuration.
    pub(crate) compiled: Compiled,
    /// What the live messages of a counter stream led to, by sequence.
    pub(crate) counts: BTreeMap<u64, Count>,
    /// Live messages that are schedules.
    pub(crate) schedules: Schedules,
    /// It is being restored: nobody sees it yet.
    pub(crate) restoring: Option<Restoring>,
    /// How far its mirror or sources have come, by their identity.
    pub(crate) progress: BTreeMap<String, Progress>,
    /// Stored by this entry, to be published again: becomes effects at its end.
    pub(crate) again: Vec<Again>,
    /// Whether this entry's effects name the stream already.
    pub(crate) advanced_in: u64,
    /// The deadline the state has noted for this stream.
    pub(crate) noted_deadline: Option<u64>,
    /// The time of its first schedule that the state has noted.
    pub(crate) noted_due: Option<u64>,
}

impl Stream {
    pub(crate) fn new(uid: StreamUid, config: StreamConfig, created_ns: u64) -> Self {
        let first_seq = config.first_seq;
        let compiled = Compiled::new(&config);
        Self {
            uid,
            name: config.name.as_str().into(),
            config,
            created_ns,
            blocks: Blocks::default(),
            subjects: SubjectTable::default(),
            dedupe: Dedupe::default(),
            messages: 0,
            bytes: 0,
            first_seq,
            last_seq: first_seq.saturating_sub(1),
            last_ts_ns: 0,
            last_msg_id: None,
            expiry_of: BTreeMap::new(),
            by_expiry: BTreeSet::new(),
            age_cursor: 0,
            consumers: BTreeMap::new(),
            interest: Interest::default(),
            needed_by: None,
            sweep_from: None,
            removals: RemovalLog::default(),
            dirty: Dirty {
                row: true,
                ..Dirty::default()
            },
            compiled,
            counts: BTreeMap::new(),
            schedules: Schedules::default(),
            restoring: None,
            progress: BTreeMap::new(),
            again: Vec::new(),
            advanced_in: 0,
            noted_deadline: None,
            noted_due: None,
        }
    }

    /// Identity of its blocks.
    #[must_use]
    pub fn uid(&self) -> StreamUid {
        self.uid
    }

    /// Name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Configuration with defaults filled in, without `_nats.*` metadata.
    #[must_use]
    pub fn config(&self) -> &StreamConfig {
        &self.config
    }

    /// Creation, Unix nanoseconds.
    #[must_use]
    pub fn created_ns(&self) -> u64 {
        self.created_ns
    }

    /// A control-plane bucket: only the node itself may touch it.
    #[must_use]
    pub fn is_control(&self) -> bool {
        is_control_name(&self.name)
    }

    /// The last sequence given.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The first live sequence, or the next one to be given (0 before the first message ever).
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.first_seq
    }

    /// Live messages.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Size of the live messages as nats-server counts it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts up with each removed message; only comparable within one process.
    #[must_use]
    pub fn removals(&self) -> u64 {
        self.removals.count()
    }

    /// Sequences and subjects removed since [`Stream::removals`] was `mark`; `None` if that is too long
    /// ago.
    pub(crate) fn removed_since(&self, mark: u64) -> Option<impl Iterator<Item = (u64, &[u8])>> {
        self.removals.since(mark)
    }

    /// Numbers for clients, without subjects and deleted sequences.
    #[must_use]
    pub fn state(&self) -> StreamStateJson {
        let first = self
            .blocks
            .find(self.first_seq)
            .map_or(0, |(_, entry)| entry.ts_ns());
        let span = if self.messages == 0 {
            0
        } else {
            (self.last_seq + 1).saturating_sub(self.first_seq)
        };
        StreamStateJson {
            messages: self.messages,
            bytes: self.bytes,
            first_seq: self.first_seq,
            first_ts: Timestamp(first),
            last_seq: self.last_seq,
            last_ts: Timestamp(self.last_ts_ns),
            num_subjects: self.subjects.len() as u64,
            subjects: None,
            num_deleted: span.saturating_sub(self.messages),
            deleted: None,
            consumer_count: self.consumers.len() as u64,
        }
    }

    /// Deleted sequences between the first and last live message, at most `limit`.
    #[must_use]
    pub fn deleted(&self, limit: usize) -> Vec<u64> {
        let mut deleted = Vec::new();
        if self.messages == 0 {
            return deleted;
        }
        let mut next = self.first_seq;
        let live = self.blocks.iter_from(next).map(|(seq, ..)| seq);
        for seq in live.chain([self.last_seq + 1]) {
            let room = limit - deleted.len();
            deleted.extend((next..seq).take(room));
            if deleted.len() == limit {
                break;
            }
            next = seq + 1;
        }
        deleted
    }

    /// The message with this sequence.
    #[must_use]
    pub fn message(&self, seq: u64) -> Option<MessageView<'_>> {
        let (block, entry) = self.blocks.find(seq)?;
        Some(self.view(seq, block, entry))
    }

    /// Where the message with this sequence is.
    #[must_use]
    pub fn get(&self, seq: u64) -> Option<Location> {
        Some(self.message(seq)?.location)
    }

    fn view(&self, seq: u64, block: BlockId, entry: IndexEntry) -> MessageView<'_> {
        MessageView {
            seq,
            ts_ns: entry.ts_ns(),
            subject: self.subjects.name(entry.subject),
            location: Location {
                stream: self.uid,
                block,
                offset: entry.offset(),
                len: entry.len(),
            },
            has_headers: entry.has(HEADERS),
        }
    }

    /// The last message whose subject matches.
    #[must_use]
    pub fn last_for(&self, filter: &[u8]) -> Option<(u64, Location)> {
        let seq = self.last_seq_for(filter)?;
        Some((seq, self.get(seq)?))
    }

    /// Its sequence.
    #[must_use]
    pub fn last_seq_for(&self, filter: &[u8]) -> Option<u64> {
        self.last_seq_of(filter, &mut 0)
    }

    /// Like [`Stream::last_seq_for`]; adds the messages and subjects that had to be looked at to `work`,
    /// as many on every replica.
    pub(crate) fn last_seq_of(&self, filter: &[u8], work: &mut u64) -> Option<u64> {
        if filter == b">" {
            return self.blocks.last_live();
        }
        // What is asked for tends to be new.
        if self.subjects.len() as u64 > WALK_ENTRIES_MAX && subject::has_wildcard(filter) {
            for (seq, entry) in self.blocks.iter_back(WALK_ENTRIES_MAX as usize) {
                *work += 1;
                if subject::matches(filter, self.subjects.name(entry.subject)) {
                    return Some(seq);
                }
            }
        }
        let mut last = None;
        *work += self.subjects.visit(filter, |id, _| {
            last = last.max(self.subjects.seqs(id).last());
            true
        });
        last
    }

    /// The first message from `from_seq` on that matches one of `filters` (none = everything).
    #[must_use]
    pub fn next_for<F: AsRef<[u8]>>(
        &self,
        filters: &[F],
        from_seq: u64,
    ) -> Option<(u64, Location)> {
        let seq = self.next_seq_for(filters, from_seq)?;
        Some((seq, self.get(seq)?))
    }

    /// Its sequence.
    #[must_use]
    pub fn next_seq_for<F: AsRef<[u8]>>(&self, filters: &[F], from_seq: u64) -> Option<u64> {
        if filters.is_empty() {
            return self.blocks.next_live(from_seq);
        }
        let walk = self
            .blocks
            .iter_from(from_seq)
            .take(WALK_ENTRIES_MAX as usize);
        let mut walked = 0;
        for (seq, _, entry) in walk {
            walked += 1;
            if matches_any(filters, self.subjects.name(entry.subject)) {
                return Some(seq);
            }
        }
        if walked < WALK_ENTRIES_MAX {
            return None;
        }
        let mut next: Option<u64> = None;
        for filter in filters {
            self.subjects.visit(filter.as_ref(), |id, _| {
                let found = self
                    .subjects
                    .seqs(id)
                    .next_from(from_seq, |s| self.blocks.is_live(s));
                next = match (next, found) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                true
            });
        }
        next
    }

    /// The first live message stored at `ts_ns` or later.
    #[must_use]
    pub fn first_seq_at(&self, ts_ns: u64) -> Option<u64> {
        self.blocks.first_at(ts_ns)
    }

    /// Messages from `from_seq` on that match (none = everything); with `last_per_subject`, subjects
    /// whose last message is one of them. Exact.
    #[must_use]
    pub fn num_pending<F: AsRef<[u8]>>(
        &self,
        filters: &[F],
        from_seq: u64,
        last_per_subject: bool,
    ) -> u64 {
        self.count_pending(filters, from_seq, last_per_subject, &mut 0)
    }

    /// Like [`Stream::num_pending`]; adds the messages and subjects that had to be looked at to `work`.
    pub(crate) fn count_pending<F: AsRef<[u8]>>(
        &self,
        filters: &[F],
        from_seq: u64,
        last_per_subject: bool,
        work: &mut u64,
    ) -> u64 {
        if filters.is_empty() && !last_per_subject {
            return self.blocks.count_from(from_seq);
        }
        let tail = (self.last_seq + 1).saturating_sub(from_seq);
        if tail <= WALK_ENTRIES_MAX && !last_per_subject {
            *work += tail;
            let tail = self.blocks.iter_from(from_seq);
            let names = tail.map(|(_, _, entry)| self.subjects.name(entry.subject));
            return names.filter(|name| matches_any(filters, name)).count() as u64;
        }
        let mut count = 0;
        *work += self.visit_ids(filters, |id| {
            let seqs = self.subjects.seqs(id);
            count += match (last_per_subject, seqs.first(), seqs.last()) {
                (true, _, last) => u64::from(last >= Some(from_seq)),
                (false, Some(first), _) if first >= from_seq => seqs.len(),
                _ => seqs.count_from(from_seq, |seq| self.blocks.is_live(seq)),
            };
        });
        count
    }

    /// The last message of each matching subject that is not above `up_to_seq`, ascending by sequence,
    /// at most `limit + 1` (so that the caller can tell that there are too many).
    #[must_use]
    pub fn last_seqs_up_to<F: AsRef<[u8]>>(
        &self,
        filters: &[F],
        up_to_seq: u64,
        limit: usize,
    ) -> Vec<u64> {
        let mut seqs = Vec::new();
        self.visit_ids(filters, |id| {
            if seqs.len() <= limit {
                let live = |seq| self.blocks.is_live(seq);
                seqs.extend(self.subjects.seqs(id).last_to(up_to_seq, live));
            }
        });
        seqs.sort_unstable();
        seqs
    }

    /// Each matching subject once, whatever filters it matches. Answers with how many were looked at.
    pub(crate) fn visit_ids<F: AsRef<[u8]>>(
        &self,
        filters: &[F],
        mut visit: impl FnMut(u32),
    ) -> u64 {
        let mut seen = 0;
        if filters.is_empty() {
            seen += self.subjects.visit(b">", |id, _| {
                visit(id);
                true
            });
        }
        for (at, filter) in filters.iter().enumerate() {
            seen += self.subjects.visit(filter.as_ref(), |id, name| {
                if !matches_any(&filters[..at], name) {
                    visit(id);
                }
                true
            });
        }
        seen
    }

    /// Calls `visit` with matching subjects in order and their message counts until it says stop.
    pub fn visit_subjects(&self, filter: &[u8], mut visit: impl FnMut(&[u8], u64) -> bool) {
        self.subjects
            .visit(filter, |id, name| visit(name, self.subjects.seqs(id).len()));
    }

    /// Matching subjects and their message counts, `offset` skipped, at most `limit`; and how many match.
    #[must_use]
    pub fn subjects(
        &self,
        filter: &[u8],
        offset: usize,
        limit: usize,
    ) -> (BTreeMap<String, u64>, usize) {
        let mut page = BTreeMap::new();
        let mut total = 0;
        self.visit_subjects(filter, |name, count| {
            if total >= offset && page.len() < limit {
                page.insert(String::from_utf8_lossy(name).into_owned(), count);
            }
            total += 1;
            true
        });
        (page, total)
    }

    /// Consumers by name.
    pub fn consumers(&self) -> impl ExactSizeIterator<Item = &Consumer> {
        self.consumers.values()
    }

    /// One consumer.
    #[must_use]
    pub fn consumer(&self, name: &str) -> Option<&Consumer> {
        self.consumers.get(name)
    }

    /// Its blocks, oldest first.
    pub fn live_blocks(&self) -> impl Iterator<Item = BlockMeta> {
        self.blocks.list.iter().map(|block| BlockMeta {
            stream: self.uid,
            block: block.id,
            len: block.bytes,
            sealed: block.sealed,
        })
    }

    // --- what follows changes the stream -------------------------------------------------------

    pub(crate) fn size_of(&self, entry: IndexEntry) -> u64 {
        message_size(self.config.storage, entry.len(), entry.has(HEADERS))
    }

    /// Removes a live message; false when there is none.
    pub(crate) fn remove(&mut self, seq: u64, ctx: &mut Context<'_>) -> bool {
        let Some(killed) = self.blocks.kill(seq) else {
            return false;
        };
        let blocks = &self.blocks;
        if self.consumers.is_empty() {
            self.removals.skip(1);
        } else {
            let subject = self.subjects.shared_name(killed.entry.subject);
            self.removals.note(seq, subject);
        }
        self.subjects
            .remove(killed.entry.subject, seq, |seq| blocks.is_live(seq));
        self.messages -= 1;
        self.bytes -= self.size_of(killed.entry);
        self.dirty.row = true;
        if let Some(expiry) = self.expiry_of.remove(&seq) {
            self.by_expiry.remove(&(expiry, seq));
        }
        self.counts.remove(&seq);
        self.schedules.remove(seq);
        if seq == self.first_seq {
            self.first_seq = self.blocks.next_live(seq).unwrap_or(self.last_seq + 1);
        }
        if let Some(block) = killed.dropped {
            self.drop_block(block, ctx);
        }
        true
    }

    pub(crate) fn drop_block(&mut self, block: BlockId, ctx: &mut Context<'_>) {
        self.dirty.dead_blocks.push(block);
        ctx.sink.drop_block(self.uid, block);
    }

    /// Removes everything.
    pub(crate) fn clear(&mut self, ctx: &mut Context<'_>) -> u64 {
        let count = self.messages;
        for block in self.blocks.clear() {
            self.drop_block(block, ctx);
        }
        self.subjects.clear();
        self.expiry_of.clear();
        self.by_expiry.clear();
        self.counts.clear();
        self.schedules.clear();
        self.removals.skip(count);
        self.messages = 0;
        self.bytes = 0;
        // A stream that never stored anything keeps its first sequence.
        if self.last_seq > 0 {
            self.first_seq = self.last_seq + 1;
        }
        self.dirty.row = true;
        count
    }

    /// Removes matching messages below `seq` (0 = all) but keeps the newest `keep`.
    pub(crate) fn purge(
        &mut self,
        filter: &[u8],
        seq: u64,
        keep: u64,
        ctx: &mut Context<'_>,
    ) -> u64 {
        let everything = filter.is_empty() || filter == b">";
        if everything && keep == 0 && (seq == 0 || seq > self.last_seq) {
            return self.clear(ctx);
        }
        let below = if seq == 0 { u64::MAX } else { seq };
        let mut doomed = if everything {
            let live = self.blocks.iter_from(0).map(|(seq, ..)| seq);
            live.take_while(|seq| *seq < below).collect::<Vec<_>>()
        } else {
            self.matching_below(filter, below)
        };
        let kept = usize::try_from(keep).unwrap_or(usize::MAX);
        doomed.truncate(doomed.len().saturating_sub(kept));
        for seq in &doomed {
            self.remove(*seq, ctx);
        }
        doomed.len() as u64
    }

    fn matching_below(&self, filter: &[u8], below: u64) -> Vec<u64> {
        let mut found = Vec::new();
        self.subjects.visit(filter, |id, _| {
            let seqs = self.subjects.seqs(id);
            let mut next = seqs.next_from(0, |seq| self.blocks.is_live(seq));
            while let Some(seq) = next.filter(|seq| *seq < below) {
                found.push(seq);
                next = seqs.next_from(seq + 1, |seq| self.blocks.is_live(seq));
            }
            true
        });
        found.sort_unstable();
        found
    }

    /// Makes room after a message of subject `id` was stored.
    pub(crate) fn enforce_limits(&mut self, id: u32, ctx: &mut Context<'_>) {
        self.enforce_subject_limit(id, ctx);
        self.enforce_stream_limits(ctx);
    }

    fn enforce_subject_limit(&mut self, id: u32, ctx: &mut Context<'_>) {
        let Some(limit) = limit(self.config.max_msgs_per_subject) else {
            return;
        };
        while self.subjects.seqs(id).len() > limit {
            let oldest = self.subjects.seqs(id).first();
            if !oldest.is_some_and(|oldest| self.remove(oldest, ctx)) {
                return;
            }
        }
    }

    fn enforce_stream_limits(&mut self, ctx: &mut Context<'_>) {
        let messages = limit(self.config.max_msgs).unwrap_or(u64::MAX);
        let bytes = limit(self.config.max_bytes).unwrap_or(u64::MAX);
        // Ends when nothing can be removed: apply must not spin, whatever the numbers say.
        while (self.messages > messages || self.bytes > bytes) && self.remove(self.first_seq, ctx) {
        }
    }

    /// Applies limits that may have become tighter.
    pub(crate) fn trim(&mut self, ctx: &mut Context<'_>) {
        self.age_cursor = 0;
        let over = limit(self.config.max_msgs_per_subject).map(|limit| {
            let mut ids = Vec::new();
            self.subjects.visit(b">", |id, _| {
                if self.subjects.seqs(id).len() > limit {
                    ids.push(id);
                }
                true
            });
            ids
        });
        for id in over.unwrap_or_default() {
            self.enforce_subject_limit(id, ctx);
        }
        // With `discard: new` a lower limit only refuses what comes.
        if self.config.discard == Discard::Old {
            self.enforce_stream_limits(ctx);
        }
    }
}

/// Streams of the control plane.
#[must_use]
pub fn is_control_name(name: &str) -> bool {
    name.starts_with("KV_UNIBUS_") || name.starts_with("OBJ_UNIBUS_")
}

/// -1 and 0 mean no limit.
pub(crate) fn limit(value: i64) -> Option<u64> {
    u64::try_from(value).ok().filter(|value| *value > 0)
}

/// A message's size as nats-server counts it, from its record's length.
pub(crate) fn message_size(storage: Storage, record_len: u32, has_headers: bool) -> u64 {
    let content = u64::from(record_len) - crate::record::RECORD_HEAD_BYTES as u64;
    match storage {
        Storage::Memory => content + 16,
        Storage::File => content + if has_headers { 34 } else { 30 },
    }
}

/// Whether one of the filters matches; none is never a match.
pub(crate) fn matches_any<F: AsRef<[u8]>>(filters: &[F], name: &[u8]) -> bool {
    filters
        .iter()
        .any(|filter| subject::matches(filter.as_ref(), name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::AppendRef;
    use crate::location::NullSink;
    use crate::outcome::Outcome;

    /// Counts that no history leads to: what matters is that apply comes back.
    fn miscounted() -> Stream {
        let config = StreamConfig {
            name: "S".into(),
            subjects: vec!["a".into()],
            max_msgs: 1,
            max_age: 1,
            ..StreamConfig::default()
        };
        let mut stream = Stream::new(StreamUid(1), config, 0);
        stream.messages = 3;
        stream.by_expiry.insert((1, 7));
        stream.expiry_of.insert(7, 1);
        stream
    }

    #[test]
    fn eviction_ends_when_nothing_can_be_removed() {
        let mut ctx = Context {
            now_ns: 10,
            rules: Rules::NEWEST,
            work: 0,
            sink: &mut NullSink,
        };
        let mut stream = miscounted();
        stream.trim(&mut ctx);
        assert_eq!(stream.expire(10, &mut ctx), 0);
        assert_eq!(stream.next_deadline_ns(), None, "not due for ever");
        assert_eq!(stream.messages(), 3);
    }

    #[test]
    fn sequences_run_out_before_they_overflow() {
        let mut ctx = Context {
            now_ns: 10,
            rules: Rules::NEWEST,
            work: 0,
            sink: &mut NullSink,
        };
        let mut stream = miscounted();
        stream.last_seq = u64::MAX;
        let append = AppendRef {
            subject: b"a",
            header_len: 0,
            data: b"x",
            privileged: false,
        };
        let outcome = stream.append(append, &mut ctx);
        assert!(matches!(outcome, Outcome::Refused(refusal) if refusal.error.err_code == 10023));
    }
}
