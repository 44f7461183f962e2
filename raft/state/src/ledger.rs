//! What a consumer has delivered and what of it is unsettled: the part of a consumer's row that
//! deliveries and acknowledgements change. The leader's cursor keeps the same structure, ahead of the
//! replicated one by the updates that are under way. Knows no messages and no time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A place in the numbering of deliveries and in the stream.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Deliveries.
    pub consumer_seq: u64,
    /// Stream sequence.
    pub stream_seq: u64,
}

/// A delivered message nobody has acknowledged.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsettled {
    /// The number of its first delivery.
    pub consumer_seq: u64,
    /// The time to acknowledge counts from here, Unix nanoseconds: its last delivery, the last sign of
    /// progress, or later when a delay was asked for.
    pub since_ns: u64,
    /// How often it was delivered; 0 when its only delivery was taken back.
    pub deliveries: u32,
}

/// Deliveries and what of them is unsettled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    delivered: Position,
    ack_floor: Position,
    pending: BTreeMap<u64, Unsettled>,
    redelivered: u64,
}

impl Ledger {
    /// Nothing delivered; what lies before `stream_seq` counts as passed.
    pub(crate) fn starting_at(stream_seq: u64) -> Self {
        let start = Position {
            consumer_seq: 0,
            stream_seq: stream_seq.saturating_sub(1),
        };
        Self {
            delivered: start,
            ack_floor: start,
            ..Self::default()
        }
    }

    /// What is known from elsewhere, such as an archive.
    #[must_use]
    pub fn of(delivered: Position, ack_floor: Position, pending: Vec<(u64, Unsettled)>) -> Self {
        Self::restore(delivered, ack_floor, pending)
    }

    /// What was stored.
    pub(crate) fn restore(
        delivered: Position,
        ack_floor: Position,
        pending: Vec<(u64, Unsettled)>,
    ) -> Self {
        let redelivered = pending.iter().filter(|(_, entry)| entry.deliveries > 1);
        Self {
            delivered,
            ack_floor,
            redelivered: redelivered.count() as u64,
            pending: pending.into_iter().collect(),
        }
    }

    /// The last delivery and the highest stream sequence delivered.
    #[must_use]
    pub fn delivered(&self) -> Position {
        self.delivered
    }

    /// Everything up to here is settled.
    #[must_use]
    pub fn ack_floor(&self) -> Position {
        self.ack_floor
    }

    /// Unsettled messages by stream sequence.
    #[must_use]
    pub fn pending(&self) -> &BTreeMap<u64, Unsettled> {
        &self.pending
    }

    /// How many of them were delivered more than once.
    #[must_use]
    pub fn redelivered(&self) -> u64 {
        self.redelivered
    }

    /// Notes a delivery; only ever further.
    pub(crate) fn advance(&mut self, to: Position) {
        self.delivered.consumer_seq = self.delivered.consumer_seq.max(to.consumer_seq);
        self.delivered.stream_seq = self.delivered.stream_seq.max(to.stream_seq);
    }

    /// Back to an earlier position, where nothing is waited for.
    pub(crate) fn go_back(&mut self, to: Position) {
        self.delivered = to;
        let floor = &mut self.ack_floor;
        floor.consumer_seq = floor.consumer_seq.min(to.consumer_seq);
        floor.stream_seq = floor.stream_seq.min(to.stream_seq);
    }

    pub(crate) fn insert(&mut self, stream_seq: u64, entry: Unsettled) {
        self.redelivered += u64::from(entry.deliveries > 1);
        if let Some(before) = self.pending.insert(stream_seq, entry) {
            self.redelivered -= u64::from(before.deliveries > 1);
        }
    }

    /// Forgets a message without moving the floor.
    pub(crate) fn remove(&mut self, stream_seq: u64) -> Option<Unsettled> {
        let entry = self.pending.remove(&stream_seq)?;
        self.redelivered -= u64::from(entry.deliveries > 1);
        Some(entry)
    }

    /// The highest floor that what is pending allows.
    pub(crate) fn floor_allowed(&self) -> Position {
        match self.pending.first_key_value() {
            None => self.delivered,
            Some((stream_seq, entry)) => Position {
                consumer_seq: entry.consumer_seq.saturating_sub(1),
                stream_seq: stream_seq.saturating_sub(1),
            },
        }
    }

    /// Moves the floor up to `to`, never back and never past what is pending.
    pub(crate) fn raise_floor(&mut self, to: Position) {
        let allowed = self.floor_allowed();
        let floor = &mut self.ack_floor;
        let (cseq, sseq) = (to.consumer_seq, to.stream_seq);
        floor.consumer_seq = floor.consumer_seq.max(cseq.min(allowed.consumer_seq));
        floor.stream_seq = floor.stream_seq.max(sseq.min(allowed.stream_seq));
    }

    /// Moves the floor as far as it can go.
    pub(crate) fn settle_floor(&mut self) {
        self.raise_floor(self.floor_allowed());
    }

    /// Forgets what is unsettled and goes on at `next_seq`, with the numbering of deliveries started
    /// again.
    pub(crate) fn reset(&mut self, next_seq: u64) {
        *self = Self::starting_at(next_seq);
    }

    /// Whether the consumer still waits for this message (or has yet to deliver it).
    pub(crate) fn needs(&self, stream_seq: u64) -> bool {
        stream_seq > self.delivered.stream_seq || self.pending.contains_key(&stream_seq)
    }
}
