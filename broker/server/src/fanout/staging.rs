//! What a publisher has in hand for its receivers until it hands it over.
//!
//! Owns the budgets of staged bytes and of the buffers for them. Must never know what the bytes mean.

use std::sync::Arc;

use bytes::BytesMut;

use super::{Stage, Stalling, Target};
use crate::clock;
use crate::meter::Amount;
use crate::plan::TargetId;

/// Staged bytes, over all receivers, at which a burst hands over early: after the message in hand.
pub(super) const STAGED_BYTES_FULL: usize = 4 * 1024 * 1024;

/// Staged bytes, over all receivers, at which a publisher hands over in the middle of a message. With one
/// copy of a message it is all that a publisher's staging may take; what is handed over counts for its
/// receiver's limit.
pub(super) const STAGED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Staged bytes of one receiver at which they are held against its limit before they are handed over.
const UNSEEN_BYTES_MAX: usize = 256 * 1024;

/// Capacity, in bytes over all receivers, that a publisher's empty staging buffers keep.
pub(super) const STAGING_BYTES_KEPT: usize = 4 * 1024 * 1024;

/// A staging buffer above this capacity, in bytes, is freed after a burst.
const BUFFER_BYTES_KEPT: usize = 1024 * 1024;

/// A staging buffer of up to this capacity, in bytes, is kept however little a burst makes of it.
pub(super) const BUFFER_BYTES_SMALL: usize = 16 * 1024;

/// A larger one is freed when a burst fills less than one part in so many of it.
const BUFFER_PARTS_MAX: usize = 16;

/// Pending bytes of a receiver below which nobody considers waiting for it.
const LAG_BYTES_MIN: usize = 1024 * 1024;

impl Stage {
    /// Stages what `write` writes.
    #[inline]
    pub(super) fn put<T>(&mut self, target: TargetId, write: impl FnOnce(&mut BytesMut) -> T) -> T {
        let opened = self.open(target);
        let before = opened.staged.len();
        let written = write(&mut opened.staged);
        let (staged, room) = (opened.staged.len(), opened.room);
        self.staged_bytes += staged - before;
        if staged > room || self.staged_bytes > STAGED_BYTES_MAX {
            self.relieve(target);
        }
        written
    }

    /// Much is staged in the middle of a burst: closes the receiver where it is more than it may have
    /// waiting, and hands over where it is more than a publisher may have staged.
    #[cold]
    fn relieve(&mut self, target: TargetId) {
        let Target {
            outbound,
            staged,
            sent,
            room,
            kept,
            ..
        } = &mut self.targets[target as usize];
        if staged.len() > *room {
            match outbound.room_beside(staged.len()) {
                Some(left) => *room = left,
                None => {
                    self.staged_bytes -= staged.len();
                    self.kept -= std::mem::take(kept);
                    *staged = BytesMut::new();
                    *sent = Amount::default();
                }
            }
        }
        if self.staged_bytes > STAGED_BYTES_MAX {
            let before = self.handed.len();
            self.hand_over();
            self.overflowed = true;
            // They may write while the fan-out goes on.
            for outbound in &self.handed[before..] {
                outbound.wake();
            }
        }
    }

    pub(super) fn open(&mut self, target: TargetId) -> &mut Target {
        let opened = &mut self.targets[target as usize];
        if opened.staged.is_empty() {
            // Listed twice when a line is empty: handing over an empty buffer does nothing.
            self.touched.push(target);
            opened.room = opened.outbound.pending_max().min(UNSEEN_BYTES_MAX);
        }
        opened
    }

    pub(super) fn hand_over(&mut self) {
        if self.touched.is_empty() {
            return;
        }
        let now = clock::now();
        for target in self.touched.drain(..) {
            let Target {
                outbound,
                staged,
                sent,
                kept,
                ..
            } = &mut self.targets[target as usize];
            let bytes = staged.len();
            if bytes == 0 {
                continue;
            }
            let sent = std::mem::take(sent);
            self.tally.out_msgs += sent.msgs;
            self.tally.out_bytes += sent.bytes;
            let pending = outbound.append(staged, sent, now);
            self.kept -= std::mem::take(kept);
            let capacity = staged.capacity();
            if is_worth_keeping(capacity, bytes) && self.kept + capacity <= STAGING_BYTES_KEPT {
                *kept = capacity;
                self.kept += capacity;
            } else {
                *staged = BytesMut::new();
            }
            let worst = self
                .stalling
                .as_ref()
                .map_or(LAG_BYTES_MIN, |worst| worst.pending);
            if pending > worst {
                self.stalling = Some(Stalling {
                    outbound: Arc::clone(outbound),
                    pending,
                });
            }
            self.handed.push(Arc::clone(outbound));
        }
        self.staged_bytes = 0;
    }
}

/// Whether a buffer of this capacity is kept after a burst that staged so many bytes.
const fn is_worth_keeping(capacity: usize, bytes: usize) -> bool {
    capacity <= BUFFER_BYTES_SMALL
        || (capacity <= BUFFER_BYTES_KEPT && capacity / BUFFER_PARTS_MAX <= bytes)
}
