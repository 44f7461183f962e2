//! What the row has to learn from a cursor: sequences that changed since the last report, and where the
//! report builds on.

use super::ConsumerCursor;
use crate::consumer::Consumer;
use crate::consumer_update::ConsumerUpdate;
use crate::ledger::Position;

/// Deliveries and acknowledgements that may be unreported; deliveries stop there until they are taken.
const UNREPORTED_MAX: usize = 65_536;

#[derive(Clone, Debug)]
pub(super) struct Changes {
    /// Settled messages need no report when their delivery had none: the stream keeps them anyway.
    pub(super) keeps_messages: bool,
    /// Messages whose entry may have changed.
    touched: Vec<u64>,
    settled: Vec<u64>,
    dropped: Vec<u64>,
    pin: bool,
    /// The positions of the last report.
    delivered: Position,
    ack_floor: Position,
    /// The stamp that the next report builds on, and how the following ones are made.
    stamp: u64,
    writer: u64,
    /// The row's stamp when it was last looked at: at the start, or one of this cursor's.
    seen: u64,
}

impl Changes {
    pub(super) fn new(consumer: &Consumer, keeps_messages: bool, now_ns: u64) -> Self {
        Self {
            keeps_messages,
            touched: Vec::new(),
            settled: Vec::new(),
            dropped: Vec::new(),
            pin: false,
            delivered: consumer.ledger().delivered(),
            ack_floor: consumer.ledger().ack_floor(),
            stamp: consumer.stamp(),
            writer: now_ns,
            seen: consumer.stamp(),
        }
    }

    pub(super) fn touch(&mut self, seq: u64) {
        self.touched.push(seq);
    }

    pub(super) fn settle(&mut self, seq: u64) {
        if !self.keeps_messages || seq <= self.delivered.stream_seq {
            self.settled.push(seq);
        }
    }

    pub(super) fn discard(&mut self, seq: u64) {
        if seq <= self.delivered.stream_seq {
            self.dropped.push(seq);
        }
    }

    pub(super) fn pin(&mut self) {
        self.pin = true;
    }

    /// Too much is unreported: no more deliveries until it was taken.
    pub(super) fn is_full(&self) -> bool {
        self.touched.len() + self.settled.len() + self.dropped.len() >= UNREPORTED_MAX
    }

    /// Each update has its own stamp, and those of two cursors differ.
    fn stamp_after(&self, stamp: u64) -> u64 {
        // The finalizer of SplitMix64: a bijection, so one writer never repeats itself.
        let mut mixed = (stamp ^ self.writer).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Whether the row has a stamp that no report of this cursor gave it.
    fn is_strange(&mut self, stamp: u64) -> bool {
        let mut mine = self.seen;
        while mine != stamp {
            if mine == self.stamp {
                return true;
            }
            mine = self.stamp_after(mine);
        }
        self.seen = stamp;
        false
    }
}

fn ascending(mut seqs: Vec<u64>) -> Vec<u64> {
    seqs.sort_unstable();
    seqs.dedup();
    seqs
}

impl ConsumerCursor {
    /// Whether the row was changed by somebody else: by what the cursor of an earlier leader reported,
    /// when that reaches the log only now, or by a reset. This cursor does not know what is settled
    /// since, and its own reports will be refused: then `handle_refused` comes before the next `poll`.
    pub fn is_overtaken(&mut self, consumer: &Consumer) -> bool {
        self.changes.is_strange(consumer.stamp())
    }

    /// Whether `take_changes` has something to give.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        let changes = &self.changes;
        !changes.touched.is_empty()
            || !changes.settled.is_empty()
            || !changes.dropped.is_empty()
            || changes.pin
            || changes.delivered != self.ledger.delivered()
            || changes.ack_floor != self.ledger.ack_floor()
    }

    /// Everything that changed since the last call, to be proposed in the order of the calls. When one
    /// is refused, those after it are as well: then `handle_refused`.
    pub fn take_changes(&mut self) -> Option<ConsumerUpdate> {
        if !self.has_changes() {
            return None;
        }
        let touched = ascending(std::mem::take(&mut self.changes.touched));
        let entry = |seq| Some((seq, *self.ledger.pending().get(&seq)?));
        let pending: Vec<_> = touched.into_iter().filter_map(entry).collect();
        let changes = &mut self.changes;
        let base = changes.stamp;
        changes.stamp = changes.stamp_after(base);
        changes.delivered = self.ledger.delivered();
        changes.ack_floor = self.ledger.ack_floor();
        let pin = std::mem::take(&mut changes.pin);
        Some(ConsumerUpdate {
            stream: self.stream.clone(),
            name: self.consumer.clone(),
            created_ns: self.created_ns,
            base,
            stamp: changes.stamp,
            delivered: changes.delivered,
            ack_floor: changes.ack_floor,
            pending,
            settled: ascending(std::mem::take(&mut changes.settled)),
            dropped: ascending(std::mem::take(&mut changes.dropped)),
            pin: pin.then(|| self.pin.clone()),
        })
    }
}
