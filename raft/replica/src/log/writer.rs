//! The one thread that writes: it takes what waits, writes it with one `pwrite` for each segment it
//! touches, issues one `fdatasync`, and then calls everyone back. A failed write or sync ends the
//! log: everything after it is refused until the next open.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::index::{Logged, Place};
use super::keeper::Keeper;
use super::record::{self, Head, Kind};
use super::segment::{HEADER_BYTES, Segment};
use super::synced::{Synced, SyncedFile};
use super::{LogError, Shared};
use crate::codec::{self, PayloadKind};
use crate::disk;
use crate::transport::GroupId;
use crate::types::{IoFlushed, LogId, Vote};

/// Operations in one write, at most.
const BATCH_OPS_MAX: usize = 1024;

/// Bytes in one write after which no further operation joins it.
const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes that one permit of the queue stands for.
const PERMIT_BYTES: usize = 1024;

/// Room that every segment keeps for its last record.
const SEAL_BYTES: usize = record::HEAD_BYTES;

/// Permits of a queue of `bytes` bytes.
pub(super) fn permits(bytes: usize) -> usize {
    (bytes / PERMIT_BYTES).clamp(1, u32::MAX as usize / 2)
}

/// Permits that `bytes` bytes of entries take from a queue of `limit` bytes: never more than all.
pub(super) fn permits_for(bytes: usize, limit: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PERMIT_BYTES).min(permits(limit))).unwrap_or(u32::MAX)
}

/// An entry on its way to disk.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) log_id: LogId,
    pub(super) kind: PayloadKind,
    pub(super) payload: Bytes,
}

/// What to write.
#[derive(Debug)]
pub(super) enum Action {
    Append(Vec<Pending>),
    Vote(Vote),
    Truncate(Option<u64>),
    Purge(LogId),
    /// Nothing: only the sync.
    Sync,
}

/// Whom to tell.
pub(super) enum Done {
    Nobody,
    Flushed(IoFlushed),
    Signal(oneshot::Sender<io::Result<()>>),
}

/// One operation in the queue.
pub(super) struct Op {
    pub(super) group: GroupId,
    pub(super) action: Action,
    pub(super) done: Done,
    /// Room in the queue, given back when the operation is done.
    pub(super) room: Option<OwnedSemaphorePermit>,
    /// A committed hint, to be written after this operation and never before it.
    pub(super) committed: Option<LogId>,
}

impl Op {
    fn bytes(&self) -> usize {
        match &self.action {
            Action::Append(entries) => entries.iter().map(|e| e.payload.len()).sum(),
            _ => 0,
        }
    }
}

/// Where the log ends, as recovery found it.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) segment: Arc<Segment>,
    /// Where the next record goes.
    pub(super) offset: u32,
    pub(super) groups: BTreeMap<GroupId, Logged>,
}

/// The writer thread's state.
pub(super) struct Writer {
    dir: PathBuf,
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Op>,
    keeper: Keeper,
    synced: SyncedFile,
    segment: Arc<Segment>,
    /// Where `buffer` goes in the segment.
    offset: u32,
    /// The segment is synced up to here.
    durable: u32,
    /// Records not yet written.
    buffer: Vec<u8>,
    /// Entries in `buffer`.
    placed: Vec<(GroupId, LogId, Place)>,
    groups: BTreeMap<GroupId, Logged>,
    /// Committed hints of the operations in this batch, for its end.
    hints: BTreeMap<GroupId, LogId>,
    /// End of the last mark: an offset that still equals it has nothing to sync.
    marked: Option<u32>,
    has_asked_for_spare: bool,
}

impl Writer {
    /// Continues the log at `tail`, which is synced.
    pub(super) fn new(
        dir: &Path,
        shared: Arc<Shared>,
        tail: Tail,
        queue: mpsc::Receiver<Op>,
    ) -> Result<Self, LogError> {
        let keeper = Keeper::start(dir, &shared.options)?;
        Ok(Self {
            dir: dir.to_owned(),
            shared,
            queue,
            keeper,
            synced: SyncedFile::open(dir),
            segment: tail.segment,
            offset: tail.offset,
            durable: tail.offset,
            buffer: Vec::new(),
            placed: Vec::new(),
            groups: tail.groups,
            hints: BTreeMap::new(),
            marked: None,
            has_asked_for_spare: false,
        })
    }

    /// Runs until every sender is gone.
    pub(super) fn run(mut self) {
        let mut batch = Vec::new();
        loop {
            let received = self.queue.blocking_recv_many(&mut batch, BATCH_OPS_MAX);
            if received == 0 {
                break;
            }
            let mut rest = batch.drain(..).peekable();
            while rest.peek().is_some() {
                let mut bytes = 0;
                let mut part = Vec::new();
                while bytes < BATCH_BYTES_MAX
                    && let Some(op) = rest.next()
                {
                    bytes += op.bytes();
                    part.push(op);
                }
                self.commit(part);
            }
        }
        // Leaves the last committed hints, so that a restart replays what was applied. The queue is
        // empty, so the entries they name are written.
        for (group, index) in self.shared.groups.read().iter() {
            if let Some(committed) = index.lock().take_hint() {
                self.hints.insert(*group, committed);
            }
        }
        self.commit(Vec::new());
    }

    /// Writes, syncs and answers one batch.
    fn commit(&mut self, batch: Vec<Op>) {
        let result = self
            .shared
            .check()
            .and_then(|()| self.write_batch(&batch).inspect_err(|e| self.fail(e)));
        if result.is_ok() {
            let shared = &self.shared;
            shared
                .operations
                .fetch_add(batch.len() as u64, Ordering::Relaxed);
            self.retire();
        }
        for op in batch {
            // io::Error cannot be cloned; everyone gets the same text.
            let result = match &result {
                Ok(()) => Ok(()),
                Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
            };
            match op.done {
                Done::Nobody => {}
                Done::Flushed(callback) => callback.io_completed(result),
                Done::Signal(sender) => {
                    // The caller may have gone away; the record is written all the same.
                    let _ = sender.send(result);
                }
            }
            drop(op.room);
        }
    }

    fn fail(&self, error: &io::Error) {
        tracing::error!(%error, dir = %self.dir.display(), "the log has failed");
        let mut failure = self.shared.failure.write();
        failure.get_or_insert_with(|| error.to_string());
    }

    fn write_batch(&mut self, batch: &[Op]) -> io::Result<()> {
        for op in batch {
            self.write_op(op)?;
            if let Some(committed) = op.committed {
                self.hints.insert(op.group, committed);
            }
        }
        self.write_committed()?;
        self.flush()?;
        if self.sync()? && self.queue.is_empty() {
            self.mark()?;
        }
        if !self.has_asked_for_spare && self.offset > self.segment.bytes / 2 {
            self.has_asked_for_spare = true;
            self.keeper.prepare();
        }
        Ok(())
    }

    fn write_op(&mut self, op: &Op) -> io::Result<()> {
        let group = op.group;
        match &op.action {
            Action::Append(entries) => {
                for entry in entries {
                    self.write_entry(group, entry)?;
                }
            }
            Action::Vote(vote) => {
                let log_id = LogId {
                    leader_id: vote.leader_id,
                    index: 0,
                };
                let mut head = Head::at(Kind::Vote, group, &log_id);
                head.detail = u8::from(vote.committed);
                self.put(&head, &[])?;
                self.logged(group).vote = Some(*vote);
            }
            Action::Truncate(keep) => {
                let mut head = Head::plain(Kind::Truncate, group);
                head.detail = u8::from(keep.is_some());
                head.index = keep.unwrap_or(0);
                self.put(&head, &[])?;
                self.logged(group).truncate(*keep);
            }
            Action::Purge(upto) => {
                self.put(&Head::at(Kind::Purge, group, upto), &[])?;
                self.logged(group).purge(upto);
            }
            Action::Sync => {}
        }
        Ok(())
    }

    fn write_entry(&mut self, group: GroupId, entry: &Pending) -> io::Result<()> {
        let mut head = Head::at(Kind::Entry, group, &entry.log_id);
        head.detail = entry.kind as u8;
        let place = self.put(&head, &entry.payload)?;
        self.logged(group).append(entry.log_id.index, place.segment);
        self.placed.push((group, entry.log_id, place));
        Ok(())
    }

    /// Adds the committed hints that came with this batch.
    fn write_committed(&mut self) -> io::Result<()> {
        for (group, committed) in std::mem::take(&mut self.hints) {
            self.put(&Head::at(Kind::Committed, group, &committed), &[])?;
            self.logged(group).committed = Some(committed);
        }
        Ok(())
    }

    fn logged(&mut self, group: GroupId) -> &mut Logged {
        self.groups.entry(group).or_default()
    }

    /// Adds a record to the buffer, in the next segment if this one has no room for it.
    fn put(&mut self, head: &Head, body: &[u8]) -> io::Result<Place> {
        let size = record::size(body.len());
        if self.end() + size + SEAL_BYTES > self.segment.bytes as usize {
            self.roll(size)?;
        }
        let place = Place {
            segment: self.segment.sequence,
            offset: to_u32(self.end())?,
            size: to_u32(size)?,
        };
        record::put(
            &mut self.buffer,
            self.segment.stamp,
            self.durable,
            head,
            body,
        );
        Ok(place)
    }

    /// Where the next record goes.
    fn end(&self) -> usize {
        self.offset as usize + self.buffer.len()
    }

    /// Writes the buffer and lets readers know where its entries are.
    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let at = u64::from(self.offset);
        disk::write_at(&self.segment.file, &self.buffer, at)?;
        self.offset = to_u32(self.end())?;
        let bytes = self.buffer.len() as u64;
        self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.buffer.clear();
        self.buffer.shrink_to(BATCH_BYTES_MAX);
        let mut touched = BTreeMap::new();
        for (group, log_id, place) in self.placed.drain(..) {
            let index = touched
                .entry(group)
                .or_insert_with(|| self.shared.group(group));
            index.lock().locate(&log_id, place);
        }
        for index in touched.values() {
            index.lock().shrink_cache(self.shared.options.cache_bytes);
        }
        Ok(())
    }

    /// Syncs what was written; false if that was nothing.
    fn sync(&mut self) -> io::Result<bool> {
        if self.durable == self.offset || self.marked == Some(self.offset) {
            return Ok(false);
        }
        disk::sync_data(&self.segment.file)?;
        self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        self.durable = self.offset;
        Ok(true)
    }

    /// Notes, without a sync, that everything so far is synced. From then on a bad byte in it is
    /// known to be damage, even in the last batch; a busy log gets this from the next batch.
    fn mark(&mut self) -> io::Result<()> {
        if self.end() + 2 * SEAL_BYTES > self.segment.bytes as usize {
            return Ok(());
        }
        let mark = Head::plain(Kind::Mark, GroupId(0));
        record::put(
            &mut self.buffer,
            self.segment.stamp,
            self.durable,
            &mark,
            &[],
        );
        self.flush()?;
        // Losing the mark loses nothing, so it gets no sync and `durable` stays in front of it.
        self.marked = Some(self.offset);
        self.synced.note(&Synced {
            sequence: self.segment.sequence,
            tag: self.segment.stamp.tag,
            offset: self.durable,
        });
        Ok(())
    }

    /// Goes on in a new segment that has room for a record of `size` bytes.
    ///
    /// The new file has its name before the old one is sealed, and the old one is synced before
    /// anything goes into the new one: so only the last segment can be torn, a sealed one always has
    /// a successor, and an unsealed one never has a successor with records.
    fn roll(&mut self, size: usize) -> io::Result<()> {
        self.flush()?;
        let heads = self.encode_heads()?;
        let heads_bytes: usize = heads.iter().map(|(_, body)| record::size(body.len())).sum();
        let needed = HEADER_BYTES as usize + heads_bytes + size + SEAL_BYTES;
        let spare = self.keeper.take(needed as u64).map_err(io::Error::other)?;
        let sequence = self.segment.sequence + 1;
        let next = Segment::activate(&self.dir, &spare.path, spare.file, spare.bytes, sequence)
            .map_err(io::Error::other)?;
        let next = Arc::new(next);
        self.shared
            .segments
            .write()
            .insert(sequence, Arc::clone(&next));

        let seal = Head::plain(Kind::Seal, GroupId(0));
        record::put(
            &mut self.buffer,
            self.segment.stamp,
            self.durable,
            &seal,
            &[],
        );
        self.flush()?;
        self.sync()?;

        self.segment = next;
        self.offset = HEADER_BYTES;
        self.durable = HEADER_BYTES;
        self.marked = None;
        self.has_asked_for_spare = false;
        for (head, body) in heads {
            record::put(
                &mut self.buffer,
                self.segment.stamp,
                self.durable,
                &head,
                &body,
            );
        }
        Ok(())
    }

    /// What is live besides entries, for the start of a segment.
    fn encode_heads(&self) -> io::Result<Vec<(Head, Bytes)>> {
        self.groups
            .iter()
            .map(|(group, logged)| {
                let body = codec::encode_group_head(&logged.head())?;
                Ok((Head::plain(Kind::Head, *group), body))
            })
            .collect()
    }

    /// Gives up the segments that hold nothing any group needs, oldest first. Called when everything
    /// that `groups` knows is synced.
    fn retire(&self) {
        let oldest_needed = self
            .groups
            .values()
            .filter_map(Logged::oldest_segment)
            .min()
            .unwrap_or(self.segment.sequence);
        let mut segments = self.shared.segments.write();
        while let Some(first) = segments.first_entry()
            && *first.key() < oldest_needed
            && *first.key() < self.segment.sequence
        {
            if let Err(segment) = self.keeper.retire(first.remove()) {
                segments.insert(segment.sequence, segment);
                return;
            }
        }
    }
}

fn to_u32(value: usize) -> io::Result<u32> {
    u32::try_from(value).map_err(|_| io::Error::other("a segment over 4 GiB"))
}
