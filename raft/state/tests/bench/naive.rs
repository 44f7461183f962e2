//! A consumer as one would write it down on paper: maps, loops, no cleverness. The measure of the real
//! one.

use std::collections::{BTreeMap, BTreeSet};

/// A message that was delivered and is not settled.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Open {
    pub(crate) first_delivery: u64,
    pub(crate) due: u64,
    pub(crate) count: u64,
    pub(crate) naked: bool,
}

/// What a consumer knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Known {
    pub(crate) deliveries: u64,
    pub(crate) delivered_to: u64,
    pub(crate) floor: (u64, u64),
    pub(crate) open: BTreeMap<u64, Open>,
}

#[derive(Clone, Debug)]
pub(crate) struct Naive {
    pub(crate) live: BTreeMap<u64, String>,
    pub(crate) last_seq: u64,
    pub(crate) now: u64,
    pub(crate) known: Known,
    /// What a new leader would start from.
    pub(crate) reported: Known,
    pub(crate) wanted: u64,
    /// Settled and not reported.
    settled: BTreeSet<u64>,
    pub(crate) filters: Vec<String>,
    pub(crate) wait: u64,
    pub(crate) max_deliver: u64,
    pub(crate) max_open: usize,
    pub(crate) ack_all: bool,
    pub(crate) workqueue: bool,
}

/// Stream sequence, delivery, count, messages that remain.
pub(crate) type Sent = (u64, u64, u64, u64);

impl Naive {
    pub(crate) fn new(filters: Vec<String>, now: u64) -> Self {
        Self {
            live: BTreeMap::new(),
            last_seq: 0,
            now,
            known: Known::default(),
            reported: Known::default(),
            wanted: 0,
            settled: BTreeSet::new(),
            filters,
            wait: 30,
            max_deliver: u64::MAX,
            max_open: usize::MAX,
            ack_all: false,
            workqueue: false,
        }
    }

    pub(crate) fn publish(&mut self, subject: &str) {
        self.last_seq += 1;
        self.live.insert(self.last_seq, subject.to_owned());
    }

    fn wants(&self, subject: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| filter == subject)
    }

    pub(crate) fn remaining(&self) -> Vec<u64> {
        let ahead = self.live.range(self.known.delivered_to + 1..);
        ahead
            .filter(|(_, subject)| self.wants(subject))
            .map(|(seq, _)| *seq)
            .collect()
    }

    fn raise_floor(&mut self) {
        let known = &mut self.known;
        known.floor = match known.open.first_key_value() {
            None => (known.deliveries, known.delivered_to),
            Some((seq, open)) => (open.first_delivery - 1, seq - 1),
        }
        .max(known.floor);
    }

    pub(crate) fn remove(&mut self, seqs: &[u64]) {
        for seq in seqs {
            self.live.remove(seq);
        }
        let before = self.known.open.len();
        let live = &self.live;
        self.known.open.retain(|seq, _| live.contains_key(seq));
        if self.known.open.len() < before {
            self.raise_floor();
        }
    }

    pub(crate) fn settle(&mut self, seq: u64) {
        if seq == 0 || seq > self.known.delivered_to {
            return;
        }
        let covered: Vec<u64> = if self.ack_all {
            self.known.open.range(..=seq).map(|(seq, _)| *seq).collect()
        } else {
            vec![seq]
        };
        for seq in covered {
            if self.known.open.remove(&seq).is_some() {
                self.settled.insert(seq);
            }
        }
        self.raise_floor();
    }

    pub(crate) fn terminate(&mut self, seq: u64) {
        if self.known.open.contains_key(&seq) {
            self.settle(seq);
        }
    }

    pub(crate) fn refuse(&mut self, seq: u64, delay: Option<u64>) {
        let now = self.now;
        if let Some(open) = self.known.open.get_mut(&seq) {
            match delay {
                Some(delay) => (open.due, open.naked) = (now + delay, false),
                None => open.naked = true,
            }
        }
    }

    pub(crate) fn progress(&mut self, seq: u64) {
        let due = self.now + self.wait;
        if let Some(open) = self.known.open.get_mut(&seq) {
            (open.due, open.naked) = (due, false);
        }
    }

    fn is_due(&self, open: &Open) -> bool {
        open.naked || open.due <= self.now
    }

    /// Everything that goes out now.
    pub(crate) fn deliver(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        loop {
            let now = self.now;
            let max = self.max_deliver;
            self.known
                .open
                .retain(|_, open| !((open.naked || open.due <= now) && open.count >= max));
            if self.wanted == 0 {
                return sent;
            }
            let again = self.known.open.iter().find(|(_, open)| self.is_due(open));
            let remaining = self.remaining();
            let (seq, count, left) = if let Some((seq, open)) = again {
                (*seq, open.count + 1, remaining.len())
            } else if self.known.open.len() < self.max_open && !remaining.is_empty() {
                (remaining[0], 1, remaining.len() - 1)
            } else {
                return sent;
            };
            self.wanted -= 1;
            self.known.deliveries += 1;
            self.known.delivered_to = self.known.delivered_to.max(seq);
            let number = self.known.deliveries;
            let due = self.now + self.wait;
            let open = self.known.open.entry(seq).or_insert(Open {
                first_delivery: number,
                due,
                count,
                naked: false,
            });
            (open.due, open.count, open.naked) = (due, count, false);
            sent.push((seq, number, count, left as u64));
        }
    }

    /// The row learns everything.
    pub(crate) fn report(&mut self) {
        self.reported = self.known.clone();
        for seq in std::mem::take(&mut self.settled) {
            if self.workqueue {
                self.live.remove(&seq);
            }
        }
    }

    /// Another leader starts from the row. What was due at once is only due in time.
    pub(crate) fn fail_over(&mut self) {
        self.known = self.reported.clone();
        self.settled.clear();
        for open in self.known.open.values_mut() {
            open.naked = false;
        }
        self.remove(&[]);
    }
}
