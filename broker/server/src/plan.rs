//! Who receives a subject: the resolved match, and each publisher's cache of them.
//!
//! Owns no lock and sends nothing. A plan is valid for one generation of the tables and one grant of
//! the publisher.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use unibus_proto::subject;

use crate::ports::Service;
use crate::subscription::Subscription;

/// Subjects a publisher's cache holds before it starts over.
const CACHED_SUBJECTS_MAX: usize = 4096;

/// Recently missed subjects remembered by hash: only the second miss pays for a cache entry, so a
/// publisher that never repeats a subject allocates nothing.
const RECENT_MISSES: usize = 1024;

/// Subscriptions and peers one cached plan may hold; larger ones are matched anew each time.
const CACHED_HOPS_MAX: usize = 4096;

/// Index of a receiver in the publisher's own list of targets.
pub(crate) type TargetId = u32;

#[derive(Clone, Debug)]
pub(crate) struct Hop {
    pub(crate) subscription: Arc<Subscription>,
    pub(crate) target: TargetId,
}

#[derive(Clone, Debug)]
pub(crate) struct QueuePlan {
    pub(crate) name: Arc<[u8]>,
    pub(crate) local: Vec<Hop>,
    /// Peers with members, and how many.
    pub(crate) remote: Vec<(TargetId, u32)>,
}

/// Everyone who receives one subject.
#[derive(Clone, Default)]
pub(crate) struct Plan {
    /// Whether the publisher may publish it at all.
    pub(crate) allowed: bool,
    pub(crate) plain: Vec<Hop>,
    pub(crate) queues: Vec<QueuePlan>,
    /// Peers with plain interest.
    pub(crate) peers: Vec<TargetId>,
    pub(crate) services: Vec<Arc<dyn Service>>,
}

impl Plan {
    pub(crate) fn clear(&mut self) {
        self.allowed = true;
        self.plain.clear();
        self.queues.clear();
        self.peers.clear();
        self.services.clear();
    }

    /// The queue's part, made if it is new.
    pub(crate) fn queue(&mut self, name: &Arc<[u8]>) -> &mut QueuePlan {
        let at = match self.queues.iter().position(|queue| queue.name == *name) {
            Some(at) => at,
            None => {
                let name = Arc::clone(name);
                self.queues.push(QueuePlan {
                    name,
                    local: Vec::new(),
                    remote: Vec::new(),
                });
                self.queues.len() - 1
            }
        };
        &mut self.queues[at]
    }

    /// Whether there is nobody to deliver to, nor a service to ask.
    pub(crate) fn is_empty(&self) -> bool {
        self.plain.is_empty()
            && self.queues.is_empty()
            && self.peers.is_empty()
            && self.services.is_empty()
    }

    fn hops(&self) -> usize {
        let queued: usize = self
            .queues
            .iter()
            .map(|q| q.local.len() + q.remote.len())
            .sum();
        self.plain.len() + self.peers.len() + queued
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("plain", &self.plain.len())
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Cached {
    hash: u64,
    subject: Box<[u8]>,
    plan: Plan,
}

/// Plans by subject.
#[derive(Debug)]
pub(crate) struct PlanCache {
    entries: Vec<Cached>,
    index: HashTable<u32>,
    misses: Vec<u32>,
    /// The entry found last: publishers tend to repeat a subject.
    last: usize,
    seed: u64,
}

/// The outcome of a look-up.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Lookup {
    Found(usize),
    /// Make the plan; `keep` says whether it is worth caching.
    Missing {
        hash: u64,
        keep: bool,
    },
}

impl PlanCache {
    pub(crate) fn new() -> Self {
        Self {
            entries: Vec::new(),
            index: HashTable::new(),
            misses: Vec::new(),
            last: 0,
            seed: RandomState::new().hash_one(0_u8),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.index.clear();
    }

    /// Also gives the memory back.
    pub(crate) fn free(&mut self) {
        self.entries = Vec::new();
        self.index = HashTable::new();
        self.misses = Vec::new();
    }

    pub(crate) fn lookup(&mut self, subject: &[u8]) -> Lookup {
        if self
            .entries
            .get(self.last)
            .is_some_and(|entry| *entry.subject == *subject)
        {
            return Lookup::Found(self.last);
        }
        let hash = subject::hash(self.seed, subject);
        let entries = &self.entries;
        let known = self
            .index
            .find(hash, |&at| *entries[at as usize].subject == *subject);
        if let Some(&at) = known {
            self.last = at as usize;
            return Lookup::Found(self.last);
        }
        Lookup::Missing {
            hash,
            keep: self.missed_before(hash),
        }
    }

    fn missed_before(&mut self, hash: u64) -> bool {
        if self.misses.is_empty() {
            self.misses.resize(RECENT_MISSES, 0);
        }
        let slot = &mut self.misses[hash as usize % RECENT_MISSES];
        let tag = (hash >> 32) as u32 | 1;
        std::mem::replace(slot, tag) == tag
    }

    pub(crate) fn insert(&mut self, hash: u64, subject: &[u8], plan: &Plan) {
        if plan.hops() > CACHED_HOPS_MAX {
            return;
        }
        if self.entries.len() >= CACHED_SUBJECTS_MAX {
            self.clear();
        }
        let at = self.entries.len();
        self.entries.push(Cached {
            hash,
            subject: subject.into(),
            plan: plan.clone(),
        });
        let entries = &self.entries;
        self.index
            .insert_unique(hash, at as u32, |&known| entries[known as usize].hash);
        self.last = at;
    }

    pub(crate) fn plan(&self, at: usize) -> Option<&Plan> {
        self.entries.get(at).map(|entry| &entry.plan)
    }
}
