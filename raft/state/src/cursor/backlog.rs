//! What a consumer has yet to deliver: the next matching message, and exactly how many there are
//! (a count of 0 tells clients that they have caught up, trap 48).

use std::collections::VecDeque;

use crate::stream::{Stream, matches_any};

#[derive(Clone, Debug)]
pub(super) struct Backlog {
    filters: Vec<Box<[u8]>>,
    /// Last messages per subject still to be sent before `next_seq` takes over, ascending.
    firsts: VecDeque<u64>,
    next_seq: u64,
    /// Matching messages from `next_seq` on that were looked up together; some may be gone.
    ahead: VecDeque<u64>,
    /// How many messages remain up to `counted_to`.
    count: u64,
    counted_to: u64,
    /// The stream's removals that are accounted for.
    removals: u64,
}

/// What following a stream found out about messages that are delivered already.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Followed {
    /// The lost ones were told one by one.
    All,
    /// Some may be lost without having been told.
    NotAll,
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
            // As of `to`: what a subject got later comes later, and does not take its place.
            let lasts = stream.last_seqs_up_to(&filters, to, usize::MAX).into_iter();
            firsts.extend(lasts.filter(|seq| *seq >= next_seq));
            next_seq = next_seq.max(to + 1);
        }
        let mut backlog = Self {
            filters,
            firsts,
            next_seq,
            ahead: VecDeque::new(),
            count: 0,
            counted_to: 0,
            removals: 0,
        };
        backlog.recount(stream);
        backlog
    }

    pub(super) fn set_filters(&mut self, stream: &Stream, filters: Vec<Box<[u8]>>) {
        self.filters = filters;
        self.ahead.clear();
        self.firsts.retain(|seq| {
            stream
                .message(*seq)
                .is_some_and(|view| wants(&self.filters, view.subject))
        });
        self.recount(stream);
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The next message, which stays the next one until it is taken.
    pub(super) fn peek(&mut self, stream: &Stream) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        if let Some(seq) = self.firsts.front() {
            return Some(*seq);
        }
        while let Some(seq) = self.ahead.front() {
            if stream.get(*seq).is_some() {
                return Some(*seq);
            }
            self.ahead.pop_front();
        }
        stream.next_seqs_for(&self.filters, self.next_seq, self.count, &mut self.ahead);
        self.ahead.front().copied()
    }

    /// Takes the message that was peeked at.
    pub(super) fn take(&mut self, seq: u64) {
        if self.firsts.front() == Some(&seq) {
            self.firsts.pop_front();
        } else {
            self.ahead.pop_front();
            self.next_seq = seq + 1;
        }
        self.count = self.count.saturating_sub(1);
    }

    /// Keeps up with what was stored and removed. `lost` is told of removed messages that are no part
    /// of the backlog any more.
    pub(super) fn follow(&mut self, stream: &Stream, mut lost: impl FnMut(u64)) -> Followed {
        let mut followed = Followed::All;
        if stream.removals() != self.removals {
            match stream.removed_since(self.removals) {
                Some(removed) => {
                    for (seq, subject) in removed {
                        if !self.remove(seq, subject) {
                            lost(seq);
                        }
                    }
                    self.removals = stream.removals();
                }
                None => {
                    self.recount(stream);
                    followed = Followed::NotAll;
                }
            }
        }
        let last = stream.last_seq();
        if last > self.counted_to {
            let from = self.next_seq.max(self.counted_to + 1);
            self.count += stream.num_pending(&self.filters, from, false);
            self.counted_to = last;
        }
        followed
    }

    /// True: it was still to be delivered, or not meant for this consumer.
    fn remove(&mut self, seq: u64, subject: &[u8]) -> bool {
        if seq >= self.next_seq {
            if seq <= self.counted_to && wants(&self.filters, subject) {
                self.count = self.count.saturating_sub(1);
            }
            return true;
        }
        if let Ok(at) = self.firsts.binary_search(&seq) {
            self.firsts.remove(at);
            self.count = self.count.saturating_sub(1);
            return true;
        }
        false
    }

    fn recount(&mut self, stream: &Stream) {
        self.firsts.retain(|seq| stream.get(*seq).is_some());
        let later = stream.num_pending(&self.filters, self.next_seq, false);
        self.count = self.firsts.len() as u64 + later;
        self.counted_to = stream.last_seq();
        self.removals = stream.removals();
    }
}

fn wants(filters: &[Box<[u8]>], subject: &[u8]) -> bool {
    filters.is_empty() || matches_any(filters, subject)
}
