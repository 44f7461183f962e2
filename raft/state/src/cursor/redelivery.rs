//! When unsettled messages are due again. Times are kept lazily: what a time belongs to is looked up
//! when it comes, and times that no longer mean anything are swept out before they outnumber the rest.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use crate::ledger::Ledger;

/// Stale times tolerated on top of twice the number of unsettled messages.
const STALE_MAX: usize = 1024;

/// How long a message may stay unacknowledged.
#[derive(Clone, Debug, Default)]
pub(super) struct Patience {
    ack_wait_ns: u64,
    backoff_ns: Vec<u64>,
}

impl Patience {
    pub(super) fn new(ack_wait: i64, backoff: &[i64]) -> Self {
        let ns = |value: i64| u64::try_from(value).unwrap_or(0);
        Self {
            ack_wait_ns: ns(ack_wait),
            backoff_ns: backoff.iter().copied().map(ns).collect(),
        }
    }

    /// Nothing is ever due by itself.
    pub(super) fn endless() -> Self {
        Self {
            ack_wait_ns: u64::MAX,
            backoff_ns: Vec::new(),
        }
    }

    /// After this many deliveries, nanoseconds; `u64::MAX` = never.
    pub(super) fn after(&self, deliveries: u32) -> u64 {
        let at = (deliveries.max(1) - 1) as usize;
        let last = self.backoff_ns.last();
        let backoff = self.backoff_ns.get(at).or(last);
        backoff.copied().unwrap_or(self.ack_wait_ns)
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Redelivery {
    patience: Patience,
    times: BinaryHeap<Reverse<(u64, u64)>>,
    /// Due, ascending.
    ready: BTreeSet<u64>,
}

impl Redelivery {
    pub(super) fn new(patience: Patience, ledger: &Ledger) -> Self {
        let mut new = Self {
            patience,
            ..Self::default()
        };
        new.rebuild(ledger);
        new
    }

    pub(super) fn set_patience(&mut self, patience: Patience, ledger: &Ledger) {
        self.patience = patience;
        self.rebuild(ledger);
    }

    fn rebuild(&mut self, ledger: &Ledger) {
        let times: Vec<_> = ledger
            .pending()
            .keys()
            .filter(|seq| !self.ready.contains(seq))
            .filter_map(|seq| Some(Reverse((self.due(*seq, ledger)?, *seq))))
            .collect();
        self.times = times.into();
    }

    pub(super) fn patience(&self) -> &Patience {
        &self.patience
    }

    /// When an unsettled message is due.
    fn due(&self, seq: u64, ledger: &Ledger) -> Option<u64> {
        let entry = ledger.pending().get(&seq)?;
        let patience = self.patience.after(entry.deliveries);
        (patience < u64::MAX).then(|| entry.since_ns.saturating_add(patience))
    }

    /// The message waits from its entry's time on.
    pub(super) fn schedule(&mut self, seq: u64, ledger: &Ledger) {
        self.ready.remove(&seq);
        if self.times.len() > ledger.pending().len() * 2 + STALE_MAX {
            self.rebuild(ledger);
        } else if let Some(due) = self.due(seq, ledger) {
            self.times.push(Reverse((due, seq)));
        }
    }

    /// The message is looked at again at this time although its own is over.
    pub(super) fn retry_at(&mut self, at_ns: u64, seq: u64) {
        self.times.push(Reverse((at_ns, seq)));
    }

    /// The message is due.
    pub(super) fn expire(&mut self, seq: u64) {
        self.ready.insert(seq);
    }

    /// The message is not waited for any more.
    pub(super) fn forget(&mut self, seq: u64) {
        self.ready.remove(&seq);
    }

    /// The next message to deliver again.
    pub(super) fn first_ready(&self) -> Option<u64> {
        self.ready.first().copied()
    }

    pub(super) fn ready_count(&self) -> u64 {
        self.ready.len() as u64
    }

    /// A message whose time has come.
    pub(super) fn pop_due(&mut self, now_ns: u64, ledger: &Ledger) -> Option<u64> {
        while let Some(Reverse((at_ns, seq))) = self.times.peek().copied() {
            if at_ns > now_ns {
                return None;
            }
            self.times.pop();
            let due = self.due(seq, ledger).filter(|due| *due <= now_ns);
            if due.is_some() && !self.ready.contains(&seq) {
                return Some(seq);
            }
        }
        None
    }

    /// When to look again; may be early.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.times.peek().map(|Reverse((at_ns, _))| *at_ns)
    }
}
