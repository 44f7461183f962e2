//! What a consumer has yet to deliver: the next matching message, and exactly how many there are
//! (a count of 0 tells clients that they have caught up, trap 48).

use std::collections::VecDeque;

use crate::stream::Stream;

/// Up to here what remains is counted exactly each time something was removed.
const EXACT_COUNT_MAX: u64 = 1024;
/// Deliveries between two counts of a long backlog from which messages keep being removed.
const RECOUNT_DELIVERIES: u32 = 256;

#[derive(Clone, Debug)]
pub(super) struct Backlog {
    filters: Vec<Box<[u8]>>,
    /// Last messages per subject still to be sent before `next_seq` takes over.
    firsts: VecDeque<u64>,
    next_seq: u64,
    /// How many messages remain.
    count: u64,
    counted_to: u64,
    removals: u64,
    stale_deliveries: u32,
}

impl Backlog {
    /// Everything from `next_seq` on; with `last_per_subject_to`, of what lies up to there only the last
    /// message of each subject.
    pub(super) fn new(
        stream: &Stream,
        filters: Vec<Box<[u8]>>,
        mut next_seq: u64,
        last_per_subject_to: Option<u64>,
    ) -> Self {
        let mut firsts = VecDeque::new();
        if let Some(to) = last_per_subject_to {
            let wanted = next_seq..=to;
            let lasts = stream.last_seqs(&filters).into_iter();
            firsts.extend(lasts.filter(|seq| wanted.contains(seq)));
            next_seq = next_seq.max(to + 1);
        }
        let mut backlog = Self {
            filters,
            firsts,
            next_seq,
            count: 0,
            counted_to: 0,
            removals: 0,
            stale_deliveries: 0,
        };
        backlog.recount(stream);
        backlog
    }

    pub(super) fn set_filters(&mut self, stream: &Stream, filters: Vec<Box<[u8]>>) {
        self.filters = filters;
        self.recount(stream);
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The next message, which stays the next one until it is taken.
    pub(super) fn peek(&mut self, stream: &Stream) -> Option<u64> {
        while let Some(seq) = self.firsts.front() {
            if stream.get(*seq).is_some() {
                return Some(*seq);
            }
            self.firsts.pop_front();
        }
        let seq = stream.next_seq_for(&self.filters, self.next_seq)?;
        self.next_seq = seq;
        Some(seq)
    }

    /// Takes the message that was peeked at.
    pub(super) fn take(&mut self, stream: &Stream, seq: u64) {
        if self.firsts.front() == Some(&seq) {
            self.firsts.pop_front();
        } else {
            self.next_seq = seq + 1;
        }
        self.count = self.count.saturating_sub(1);
        self.stale_deliveries = self.stale_deliveries.saturating_add(1);
        self.refresh(stream);
    }

    /// Counts what was added; counts again what was removed, unless that is long and was done lately.
    pub(super) fn refresh(&mut self, stream: &Stream) {
        if stream.removals() == self.removals {
            let last = stream.last_seq();
            if last > self.counted_to {
                let from = self.next_seq.max(self.counted_to + 1);
                self.count += stream.num_pending(&self.filters, from, false);
                self.counted_to = last;
            }
            return;
        }
        let tail = (stream.last_seq() + 1).saturating_sub(self.next_seq);
        let short = tail.max(self.firsts.len() as u64) <= EXACT_COUNT_MAX;
        if short || self.stale_deliveries >= RECOUNT_DELIVERIES {
            self.recount(stream);
            return;
        }
        // A stale count is only too high; the one value that matters exactly is 0.
        let more = self.firsts.iter().any(|seq| stream.get(*seq).is_some())
            || stream.next_seq_for(&self.filters, self.next_seq).is_some();
        if more {
            self.count = self.count.max(1);
        } else {
            self.recount(stream);
        }
    }

    fn recount(&mut self, stream: &Stream) {
        self.firsts.retain(|seq| stream.get(*seq).is_some());
        let later = stream.num_pending(&self.filters, self.next_seq, false);
        self.count = self.firsts.len() as u64 + later;
        self.counted_to = stream.last_seq();
        self.removals = stream.removals();
        self.stale_deliveries = 0;
    }
}
