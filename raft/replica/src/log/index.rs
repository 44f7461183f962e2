//! What memory knows of one group: its vote, its marks, where each entry lies, and the most recent
//! entries themselves. And what the writer knows to be logged of it, which decides when a segment
//! may go. No I/O here.

use std::collections::VecDeque;
use std::io;

use crate::codec::GroupHead;
use crate::types::{Entry, LeaderId, LogId, LogState, Vote};

/// Where a record lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place {
    /// Sequence number of the segment.
    pub(super) segment: u64,
    /// Of the record's head, from the start of the file. 0 while it is not written.
    pub(super) offset: u32,
    /// Bytes of the record, head and padding included.
    pub(super) size: u32,
}

/// One piece of a read.
#[derive(Debug)]
pub(super) enum Piece {
    /// From memory.
    Cached(Entry),
    /// To be read from a segment.
    Stored(LogId, Place),
}

/// A group as readers see it: appended entries are here before they are written.
#[derive(Debug, Default)]
pub(super) struct GroupIndex {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
    /// `committed` changed since an operation last took it along to the writer.
    pub(super) committed_dirty: bool,
    /// Index of the first slot.
    first: u64,
    slots: VecDeque<Place>,
    /// Leader of the slots from the index on, up to the next run.
    runs: VecDeque<(u64, LeaderId)>,
    /// The last entries, ending with the last slot.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    live_bytes: u64,
}

impl GroupIndex {
    /// Index after the last entry.
    pub(super) fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// First and last log id.
    pub(super) fn state(&self) -> LogState {
        let last = match self.slots.len() {
            0 => self.purged,
            _ => self.log_id(self.end() - 1),
        };
        LogState {
            last_purged_log_id: self.purged,
            last_log_id: last,
        }
    }

    /// The committed hint, if the writer has not been given it yet.
    pub(super) fn take_hint(&mut self) -> Option<LogId> {
        match std::mem::take(&mut self.committed_dirty) {
            true => self.committed,
            false => None,
        }
    }

    /// The committed hint, unless it names an entry that is not in the log: then it says nothing
    /// about the entries that are.
    pub(super) fn usable_hint(&self) -> Option<LogId> {
        self.committed.filter(|committed| {
            let is_purged = self
                .purged
                .is_some_and(|purged| committed.index <= purged.index);
            is_purged || self.log_id(committed.index) == Some(*committed)
        })
    }

    /// Record bytes of the entries present.
    #[allow(dead_code, reason = "tests use it; metrics will")]
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Whether an entry at `index` continues the log without a hole.
    pub(super) fn check_next(&self, index: u64) -> Result<(), String> {
        let expected = match (self.slots.is_empty(), self.purged) {
            (false, _) => self.end(),
            (true, Some(purged)) => purged.index + 1,
            // An empty log may start anywhere: a checkpoint can be ahead of it.
            (true, None) => return Ok(()),
        };
        if index == expected {
            Ok(())
        } else {
            Err(format!("entry {index} where {expected} is due"))
        }
    }

    /// Adds the next entry (see [`Self::check_next`]); `cached` keeps it in memory.
    pub(super) fn append(&mut self, log_id: &LogId, place: Place, cached: Option<Entry>) {
        if self.slots.is_empty() {
            self.first = log_id.index;
            self.runs.clear();
        }
        if self.runs.back().map(|(_, leader)| leader) != Some(&log_id.leader_id) {
            self.runs.push_back((log_id.index, log_id.leader_id));
        }
        self.slots.push_back(place);
        self.live_bytes += u64::from(place.size);
        if let Some(entry) = cached {
            self.cache.push_back(entry);
            self.cache_bytes += place.size as usize;
        }
    }

    /// The writer tells where an entry went. Ignored if the entry has been replaced meanwhile.
    pub(super) fn locate(&mut self, log_id: &LogId, place: Place) {
        if self.log_id(log_id.index) != Some(*log_id) {
            return;
        }
        if let Some(slot) = self.slot_at(log_id.index) {
            *slot = place;
        }
    }

    /// Drops the oldest cached entries that are written, until `limit` bytes are left.
    pub(super) fn shrink_cache(&mut self, limit: usize) {
        while self.cache_bytes > limit {
            let Some(at) = self.slots.len().checked_sub(self.cache.len()) else {
                return;
            };
            match self.slots.get(at) {
                Some(place) if place.offset != 0 => {
                    self.cache.pop_front();
                    self.cache_bytes -= place.size as usize;
                }
                _ => return,
            }
        }
    }

    /// Drops entries above `keep`; all of them for `None`.
    pub(super) fn truncate(&mut self, keep: Option<u64>) {
        let end = keep.map_or(self.first, |keep| keep.saturating_add(1));
        while !self.slots.is_empty() && self.end() > end {
            if let Some(place) = self.slots.pop_back() {
                self.live_bytes -= u64::from(place.size);
                if self.cache.pop_back().is_some() {
                    self.cache_bytes -= place.size as usize;
                }
            }
        }
        let end = self.end();
        while self.runs.back().is_some_and(|(from, _)| *from >= end) {
            self.runs.pop_back();
        }
    }

    /// Drops entries up to `upto` and remembers it. Going backwards changes nothing.
    pub(super) fn purge(&mut self, upto: &LogId) {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        self.purged = Some(*upto);
        while !self.slots.is_empty() && self.first <= upto.index {
            let is_cached = self.cache.len() == self.slots.len();
            if let Some(place) = self.slots.pop_front() {
                self.live_bytes -= u64::from(place.size);
                if is_cached && self.cache.pop_front().is_some() {
                    self.cache_bytes -= place.size as usize;
                }
            }
            self.first += 1;
        }
        while self
            .runs
            .get(1)
            .is_some_and(|(from, _)| *from <= self.first)
        {
            self.runs.pop_front();
        }
    }

    /// The entries of `start..end` that are present, in order, stopping once `limit` bytes are
    /// reached (but after at least one).
    pub(super) fn read(&self, start: u64, end: u64, limit: usize) -> Vec<Piece> {
        let (start, end) = (start.max(self.first), end.min(self.end()));
        let cache_first = self.end() - self.cache.len() as u64;
        let mut pieces = Vec::new();
        let mut bytes = 0;
        for index in start..end {
            let Some(place) = self.slot(index) else { break };
            if bytes + place.size as usize > limit && !pieces.is_empty() {
                break;
            }
            bytes += place.size as usize;
            let cached = index
                .checked_sub(cache_first)
                .and_then(|at| self.cache.get(usize::try_from(at).ok()?));
            match (cached, self.log_id(index)) {
                (Some(entry), _) => pieces.push(Piece::Cached(entry.clone())),
                (None, Some(log_id)) => pieces.push(Piece::Stored(log_id, *place)),
                (None, None) => break,
            }
        }
        pieces
    }

    /// The log id of the entry at `index`, if it is present.
    pub(super) fn log_id(&self, index: u64) -> Option<LogId> {
        if index < self.first || index >= self.end() {
            return None;
        }
        let run = self.runs.partition_point(|(from, _)| *from <= index);
        let (_, leader_id) = self.runs.get(run.checked_sub(1)?)?;
        Some(LogId {
            leader_id: *leader_id,
            index,
        })
    }

    fn slot(&self, index: u64) -> Option<&Place> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.slots.get(at)
    }

    fn slot_at(&mut self, index: u64) -> Option<&mut Place> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.slots.get_mut(at)
    }
}

/// A run of entries in one segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Span {
    segment: u64,
    first: u64,
    last: u64,
}

/// A group as the log on disk has it, up to the last record written. Memory may be ahead of it, so
/// only this decides what a segment still holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Logged {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
    /// In index order, which is also segment order: an index is rewritten only after everything from
    /// it on was truncated.
    spans: VecDeque<Span>,
}

impl Logged {
    /// The entry `index` was written to `segment`.
    pub(super) fn append(&mut self, index: u64, segment: u64) {
        match self.spans.back_mut() {
            Some(span) if span.segment == segment => span.last = index,
            _ => self.spans.push_back(Span {
                segment,
                first: index,
                last: index,
            }),
        }
    }

    /// Entries above `keep` are gone.
    pub(super) fn truncate(&mut self, keep: Option<u64>) {
        let Some(keep) = keep else {
            self.spans.clear();
            return;
        };
        while self.spans.back().is_some_and(|span| span.first > keep) {
            self.spans.pop_back();
        }
        if let Some(span) = self.spans.back_mut() {
            span.last = span.last.min(keep);
        }
    }

    /// Entries up to `upto` are gone.
    pub(super) fn purge(&mut self, upto: &LogId) {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        self.purged = Some(*upto);
        while self
            .spans
            .front()
            .is_some_and(|span| span.last <= upto.index)
        {
            self.spans.pop_front();
        }
        if let Some(span) = self.spans.front_mut() {
            span.first = span.first.max(upto.index + 1);
        }
    }

    /// The oldest segment that holds an entry of this group.
    pub(super) fn oldest_segment(&self) -> Option<u64> {
        self.spans.front().map(|span| span.segment)
    }

    /// What goes to the start of the next segment.
    pub(super) fn head(&self) -> GroupHead {
        GroupHead {
            vote: self.vote,
            purged: self.purged,
            committed: self.committed,
            live: match (self.spans.front(), self.spans.back()) {
                (Some(first), Some(last)) => Some((first.first, last.last)),
                _ => None,
            },
        }
    }
}

/// An `InvalidData` error about the log.
pub(super) fn invalid(detail: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail.into())
}
