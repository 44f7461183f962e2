//! The log of one group, as openraft wants it: `RaftLogStorage` and `RaftLogReader`.
//!
//! Memory changes first and the writer follows in the same order: the place in the queue is taken
//! before the index is locked, and filled while it is. An appended entry is readable at once.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use openraft::storage::RaftLogStorage;
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::index::{GroupIndex, Piece, Place, invalid};
use super::record::{self, Kind};
use super::segment::Segment;
use super::writer::{Action, Done, Op, Pending, permits_for};
use super::{Handle, Shared};
use crate::codec::{PayloadKind, decode_payload, encode_payload};
use crate::transport::GroupId;
use crate::types::{Entry, IoFlushed, LogId, LogState, TypeConfig, Vote};

/// The log of one group. Clones share it.
#[derive(Clone)]
pub(crate) struct GroupLog {
    group: GroupId,
    index: Arc<Mutex<GroupIndex>>,
    handle: Arc<Handle>,
}

impl Debug for GroupLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupLog")
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

impl Handle {
    fn ops(&self) -> io::Result<&mpsc::Sender<Op>> {
        self.ops.as_ref().ok_or_else(stopped)
    }

    /// Takes a place in the queue.
    async fn place(&self) -> io::Result<mpsc::Permit<'_, Op>> {
        self.shared.check()?;
        self.ops()?.reserve().await.map_err(|_| stopped())
    }

    /// Waits until everything accepted so far is on disk.
    pub(super) async fn sync(&self) -> io::Result<()> {
        let (sender, answer) = oneshot::channel();
        self.place().await?.send(Op {
            group: GroupId(0),
            action: Action::Sync,
            done: Done::Signal(sender),
            room: None,
            committed: None,
        });
        answer.await.map_err(|_| stopped())?
    }

    /// Takes room for `bytes` bytes of entries.
    async fn room(&self, bytes: usize) -> io::Result<OwnedSemaphorePermit> {
        let permits = permits_for(bytes, self.shared.options.queue_bytes);
        Semaphore::acquire_many_owned(Arc::clone(&self.room), permits)
            .await
            .map_err(|_| stopped())
    }
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed")
}

impl GroupLog {
    pub(super) fn new(group: GroupId, handle: Arc<Handle>) -> Self {
        let index = handle.shared.group(group);
        Self {
            group,
            index,
            handle,
        }
    }

    /// Waits until everything that was readable before this call is on disk. It waits in the queue like any
    /// write and shares the sync of those around it.
    pub(crate) async fn sync(&self) -> io::Result<()> {
        self.handle.sync().await
    }

    /// Operations that wait for the writer.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        let queue = self.handle.ops.as_ref();
        queue.map_or(0, |queue| queue.max_capacity() - queue.capacity())
    }

    /// Record bytes of the entries that are not purged: what a restart has to read, and what a
    /// checkpoint would free.
    #[allow(dead_code, reason = "tests use it; metrics will")]
    pub(crate) fn live_bytes(&self) -> u64 {
        self.index.lock().live_bytes()
    }

    /// Index up to which the entries are purged; 0 if none is.
    pub(crate) fn purged_index(&self) -> u64 {
        self.index.lock().purged.map_or(0, |id| id.index)
    }

    /// The last entry, purged or not.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.index.lock().state().last_log_id
    }

    /// Index of the last entry, purged or not; 0 if there never was one.
    pub(crate) fn last_index(&self) -> u64 {
        self.last().map_or(0, |id| id.index)
    }

    /// Drops the entries from `index` on.
    pub(crate) async fn truncate_before(&self, index: u64) -> io::Result<()> {
        self.truncate(index.checked_sub(1)).await
    }

    async fn truncate(&self, keep: Option<u64>) -> io::Result<()> {
        let place = self.handle.place().await?;
        let mut index = self.index.lock();
        index.truncate(keep);
        place.send(self.op(&mut index, Action::Truncate(keep), Done::Nobody));
        Ok(())
    }

    /// The operation, with the committed hint that is due. The entry that the hint names is in the
    /// queue already, so it gets to the disk first.
    fn op(&self, index: &mut GroupIndex, action: Action, done: Done) -> Op {
        Op {
            group: self.group,
            action,
            done,
            room: None,
            committed: index.take_hint(),
        }
    }

    /// Entries of `start..end` that are present, up to `limit` bytes (but at least one).
    async fn read(&self, start: u64, end: u64, limit: usize) -> io::Result<Vec<Entry>> {
        self.handle.shared.check()?;
        let (pieces, files) = {
            let index = self.index.lock();
            let pieces = index.read(start, end, limit);
            // Taken under the index lock: a segment leaves only after its entries left the index.
            let files = Files::of(&self.handle.shared, &pieces)?;
            (pieces, files)
        };
        if files.0.is_empty() {
            return Ok(pieces
                .into_iter()
                .filter_map(|piece| match piece {
                    Piece::Cached(entry) => Some(entry),
                    Piece::Stored(..) => None,
                })
                .collect());
        }
        let group = self.group;
        tokio::task::spawn_blocking(move || files.read(group, pieces))
            .await
            .map_err(io::Error::other)?
    }

    /// Turns bounds into `start..end`.
    fn bounds(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => self.index.lock().end(),
        };
        (start, end)
    }
}

/// The segments a read needs, held so that none of them is recycled meanwhile.
struct Files(Vec<Arc<Segment>>);

impl Files {
    fn of(shared: &Shared, pieces: &[Piece]) -> io::Result<Self> {
        let mut files: Vec<Arc<Segment>> = Vec::new();
        for piece in pieces {
            let Piece::Stored(log_id, place) = piece else {
                continue;
            };
            if files.last().is_some_and(|s| s.sequence == place.segment) {
                continue;
            }
            let segments = shared.segments.read();
            let segment = segments
                .get(&place.segment)
                .ok_or_else(|| invalid(format!("entry {log_id} is in a segment that is gone")))?;
            files.push(Arc::clone(segment));
        }
        Ok(Self(files))
    }

    /// Reads the stored pieces, neighbours in one go.
    fn read(&self, group: GroupId, pieces: Vec<Piece>) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::with_capacity(pieces.len());
        let mut pieces = pieces.into_iter().peekable();
        while let Some(piece) = pieces.next() {
            let (log_id, place) = match piece {
                Piece::Cached(entry) => {
                    entries.push(entry);
                    continue;
                }
                Piece::Stored(log_id, place) => (log_id, place),
            };
            let mut run = vec![(log_id, place)];
            let mut end = place.offset + place.size;
            while let Some(Piece::Stored(log_id, next)) = pieces
                .next_if(|piece| matches!(piece, Piece::Stored(_, next) if next.segment == place.segment && next.offset == end))
            {
                run.push((log_id, next));
                end += next.size;
            }
            self.read_run(group, place, end, &run, &mut entries)?;
        }
        Ok(entries)
    }

    fn read_run(
        &self,
        group: GroupId,
        start: Place,
        end: u32,
        run: &[(LogId, Place)],
        entries: &mut Vec<Entry>,
    ) -> io::Result<()> {
        let segment = self
            .0
            .iter()
            .find(|segment| segment.sequence == start.segment)
            .ok_or_else(|| invalid("a segment is gone"))?;
        let mut buffer = vec![0; (end - start.offset) as usize];
        segment
            .file
            .read_exact_at(&mut buffer, u64::from(start.offset))?;
        let mut bytes = Bytes::from(buffer);
        for (log_id, place) in run {
            let record = bytes.split_to(place.size as usize);
            let entry = decode(group, log_id, segment, &record).ok_or_else(|| {
                invalid(format!(
                    "{} is damaged at byte {}: it should hold entry {log_id}",
                    segment.path.display(),
                    place.offset,
                ))
            })?;
            entries.push(entry);
        }
        Ok(())
    }
}

/// The entry in a record, if it is the one expected. Its payload is a slice of `record`.
pub(super) fn decode(
    group: GroupId,
    log_id: &LogId,
    segment: &Segment,
    record: &Bytes,
) -> Option<Entry> {
    let found = record::read(record, segment.stamp)?;
    let head = &found.head;
    if head.kind != Kind::Entry || head.group != group || head.log_id() != *log_id {
        return None;
    }
    let kind = PayloadKind::from_byte(head.detail)?;
    let payload = decode_payload(kind, record.slice_ref(found.body)).ok()?;
    Some(Entry {
        log_id: *log_id,
        payload,
    })
}

impl RaftLogReader<TypeConfig> for GroupLog {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = self.bounds(&range);
        self.read(start, end, usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.index.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let limit = self.handle.shared.options.read_bytes;
        self.read(start, end, limit).await
    }

    /// Reads ahead one bounded piece at a time, however long the range is.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = self.bounds(&range);
        let limit = self.handle.shared.options.read_bytes;
        let pieces =
            futures::stream::try_unfold((self.clone(), start), move |(log, start)| async move {
                if start >= end {
                    return Ok::<_, io::Error>(None);
                }
                let entries = log.read(start, end, limit).await?;
                let Some(last) = entries.last() else {
                    return Ok(None);
                };
                let next = last.log_id.index + 1;
                Ok(Some((entries, (log, next))))
            });
        pieces
            .map_ok(|entries| futures::stream::iter(entries.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }
}

impl RaftLogStorage<TypeConfig> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState> {
        Ok(self.index.lock().state())
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (sender, answer) = oneshot::channel();
        let place = self.handle.place().await?;
        {
            let mut index = self.index.lock();
            index.vote = Some(*vote);
            place.send(self.op(&mut index, Action::Vote(*vote), Done::Signal(sender)));
        }
        answer.await.map_err(|_| stopped())?
    }

    /// A hint: it goes along with the next operation, and does not wait for it.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut index = self.index.lock();
        if committed.is_some() && index.committed != committed {
            index.committed = committed;
            index.committed_dirty = true;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.index.lock().usable_hint())
    }

    async fn append<I>(&mut self, entries: I, callback: IoFlushed) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let mut pending = Vec::with_capacity(entries.len());
        let mut bytes = 0;
        for entry in &entries {
            let (kind, payload) = encode_payload(&entry.payload)?;
            bytes += record::size(payload.len());
            pending.push(Pending {
                log_id: entry.log_id,
                kind,
                payload,
            });
        }
        let room = self.handle.room(bytes).await?;
        let place = self.handle.place().await?;
        let mut index = self.index.lock();
        let mut next = None;
        for entry in &entries {
            let at = entry.log_id.index;
            match next {
                None => index.check_next(at).map_err(invalid)?,
                Some(next) if next == at => {}
                Some(next) => return Err(invalid(format!("entry {at} where {next} is due"))),
            }
            next = Some(at + 1);
        }
        for (entry, pending) in entries.into_iter().zip(&pending) {
            let place = Place {
                segment: 0,
                offset: 0,
                size: u32::try_from(record::size(pending.payload.len()))
                    .map_err(|_| invalid("an entry over 4 GiB"))?,
            };
            index.append(&pending.log_id, place, Some(entry));
        }
        let mut op = self.op(&mut index, Action::Append(pending), Done::Flushed(callback));
        op.room = Some(room);
        place.send(op);
        Ok(())
    }

    /// In order with everything else; it needs no sync of its own, because nothing is answered on
    /// the strength of it before a later append or vote is synced.
    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        self.truncate(last_log_id.map(|log_id| log_id.index)).await
    }

    /// In order with everything else; the segments go once it is synced.
    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let place = self.handle.place().await?;
        let mut index = self.index.lock();
        index.purge(&log_id);
        place.send(self.op(&mut index, Action::Purge(log_id), Done::Nobody));
        Ok(())
    }
}
