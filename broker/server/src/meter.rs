//! What one connection has sent and received.
//!
//! Owns the numbers only: relaxed atomics, written once per burst and read by reports.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Messages and their header and payload bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Amount {
    pub(crate) msgs: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Meter {
    in_msgs: AtomicU64,
    in_bytes: AtomicU64,
    out_msgs: AtomicU64,
    out_bytes: AtomicU64,
    /// [`crate::clock`] nanoseconds.
    active: AtomicU64,
    /// Nanoseconds; 0 = not measured yet.
    rtt: AtomicU64,
    subscriptions: AtomicU32,
}

impl Meter {
    /// The client published this much. Only its own task says so.
    pub(crate) fn received(&self, amount: Amount) {
        add(&self.in_msgs, amount.msgs);
        add(&self.in_bytes, amount.bytes);
    }

    /// This much is on its way to the client. Callers take turns: the outbound's lock is held.
    pub(crate) fn sent(&self, amount: Amount, now: u64) {
        add(&self.out_msgs, amount.msgs);
        add(&self.out_bytes, amount.bytes);
        self.touch(now);
    }

    pub(crate) fn touch(&self, now: u64) {
        self.active.store(now, Ordering::Relaxed);
    }

    pub(crate) fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    pub(crate) fn set_rtt(&self, rtt: Duration) {
        let nanos = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX);
        self.rtt.store(nanos.max(1), Ordering::Relaxed);
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        match self.rtt.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    pub(crate) fn subscribed(&self) {
        self.subscriptions.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn unsubscribed(&self) {
        self.subscriptions.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn subscriptions(&self) -> usize {
        self.subscriptions.load(Ordering::Relaxed) as usize
    }

    pub(crate) fn incoming(&self) -> Amount {
        read(&self.in_msgs, &self.in_bytes)
    }

    pub(crate) fn outgoing(&self) -> Amount {
        read(&self.out_msgs, &self.out_bytes)
    }
}

/// Adds without a locked instruction: one writer at a time is the callers' promise.
fn add(counter: &AtomicU64, more: u64) {
    if more > 0 {
        let now = counter.load(Ordering::Relaxed);
        counter.store(now.wrapping_add(more), Ordering::Relaxed);
    }
}

fn read(msgs: &AtomicU64, bytes: &AtomicU64) -> Amount {
    Amount {
        msgs: msgs.load(Ordering::Relaxed),
        bytes: bytes.load(Ordering::Relaxed),
    }
}
