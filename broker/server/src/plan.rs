//! Who receives a subject: the resolved match, and each publisher's cache of them.
//!
//! Owns no lock and sends nothing. A plan is valid for one generation of the tables and one grant of
//! the publisher.

use std::collections::HashMap;
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

/// Memory of a publisher's cached plans, in bytes; over it the cache starts over.
const CACHED_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Memory of one cached plan, in bytes; larger ones are matched anew each time.
const CACHED_PLAN_BYTES_MAX: usize = 512 * 1024;

/// Memory of a queue's part beside its hops, in bytes: allocations and its place by name.
const QUEUE_BYTES: usize = size_of::<QueuePlan>() + 96;

/// Queues of one plan above which they are found through an index.
const LISTED_QUEUES_MAX: usize = 16;

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
    /// Places in `queues` by name, once there are many.
    #[allow(
        clippy::box_collection,
        reason = "most plans have none: 8 bytes, not 48"
    )]
    places: Option<Box<HashMap<Arc<[u8]>, u32>>>,
    /// Peers with plain interest.
    pub(crate) peers: Vec<TargetId>,
    pub(crate) services: Vec<Arc<dyn Service>>,
}

impl Plan {
    pub(crate) fn clear(&mut self) {
        self.allowed = true;
        self.plain.clear();
        if self.queues.len() <= LISTED_QUEUES_MAX {
            self.places = None;
        }
        if let Some(places) = &mut self.places {
            places.clear();
        }
        self.queues.clear();
        self.peers.clear();
        self.services.clear();
    }

    /// The queue's part, made if it is new.
    pub(crate) fn queue(&mut self, name: &Arc<[u8]>) -> &mut QueuePlan {
        let at = match self.place_of(name) {
            Some(at) => at,
            None => self.add(name),
        };
        &mut self.queues[at]
    }

    /// The part of a queue, if it has one.
    pub(crate) fn queue_named(&self, name: &[u8]) -> Option<&QueuePlan> {
        self.place_of(name).map(|at| &self.queues[at])
    }

    fn place_of(&self, name: &[u8]) -> Option<usize> {
        match &self.places {
            Some(places) => places.get(name).map(|&at| at as usize),
            None => self.queues.iter().position(|queue| *queue.name == *name),
        }
    }

    fn add(&mut self, name: &Arc<[u8]>) -> usize {
        let at = self.queues.len();
        self.queues.push(QueuePlan {
            name: Arc::clone(name),
            local: Vec::new(),
            remote: Vec::new(),
        });
        if let Some(places) = &mut self.places {
            places.insert(Arc::clone(name), at as u32);
        } else if self.queues.len() > LISTED_QUEUES_MAX {
            let queues = self.queues.iter().zip(0..);
            let places = queues.map(|(queue, at)| (Arc::clone(&queue.name), at));
            self.places = Some(Box::new(places.collect()));
        }
        at
    }

    /// Whether there is nobody to deliver to, nor a service to ask.
    pub(crate) fn is_empty(&self) -> bool {
        self.plain.is_empty()
            && self.queues.is_empty()
            && self.peers.is_empty()
            && self.services.is_empty()
    }

    /// Memory of a copy, in bytes.
    fn bytes(&self) -> usize {
        let queued = self
            .queues
            .iter()
            .map(|queue| QUEUE_BYTES + size_of_val(&*queue.local) + size_of_val(&*queue.remote));
        size_of_val(&*self.plain)
            + size_of_val(&*self.peers)
            + size_of_val(&*self.services)
            + queued.sum::<usize>()
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
    /// What the entries take.
    bytes: usize,
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
            bytes: 0,
            index: HashTable::new(),
            misses: Vec::new(),
            last: 0,
            seed: RandomState::new().hash_one(0_u8),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
        self.index.clear();
    }

    /// Also gives the memory back.
    pub(crate) fn free(&mut self) {
        self.entries = Vec::new();
        self.bytes = 0;
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
        let bytes = size_of::<Cached>() + subject.len() + plan.bytes();
        if bytes > CACHED_PLAN_BYTES_MAX {
            return;
        }
        if self.entries.len() >= CACHED_SUBJECTS_MAX || self.bytes + bytes > CACHED_BYTES_MAX {
            self.clear();
        }
        self.bytes += bytes;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

    use super::*;
    use crate::outbound::Outbound;

    fn hop() -> Hop {
        let outbound = Arc::new(Outbound::for_client(1, 1, None));
        Hop {
            subscription: Arc::new(Subscription::new(outbound, b"1", None)),
            target: 0,
        }
    }

    /// Publishes to so many subjects twice. Returns how many plans the cache holds.
    fn fill(cache: &mut PlanCache, subjects: usize, plan: &Plan) -> usize {
        for number in 0..subjects {
            let subject = format!("subject.{number}");
            for _ in 0..2 {
                if let Lookup::Missing { hash, keep: true } = cache.lookup(subject.as_bytes()) {
                    cache.insert(hash, subject.as_bytes(), plan);
                }
            }
        }
        cache.entries.len()
    }

    #[test]
    fn the_cache_has_a_budget_for_all_subjects_and_plans_together() {
        let mut plan = Plan::default();
        plan.plain.push(hop());
        let mut cache = PlanCache::new();
        assert_eq!(fill(&mut cache, 4_000, &plan), 4_000, "small plans all fit");
        let names: Vec<Arc<[u8]>> = (0..4_000)
            .map(|n| format!("q{n}").as_bytes().into())
            .collect();
        for (member, many) in [(true, "members of one queue"), (false, "queues")] {
            let mut plan = Plan::default();
            for name in &names {
                let name = if member { &names[0] } else { name };
                plan.queue(name).local.push(hop());
            }
            let held = fill(&mut cache, 1_000, &plan);
            let bytes: usize = cache.entries.iter().map(|entry| entry.plan.bytes()).sum();
            assert!(
                bytes <= CACHED_BYTES_MAX,
                "{many}: {held} plans, {bytes} bytes"
            );
            cache.free();
        }
        assert_eq!(cache.bytes, 0);
    }

    #[test]
    fn queues_are_found_by_name_however_many_they_are() {
        let mut plan = Plan::default();
        for queues in [40_u32, 3, 20] {
            plan.clear();
            for round in 0..2 {
                for number in 0..queues {
                    let name: Arc<[u8]> = number.to_be_bytes().as_slice().into();
                    let queue = plan.queue(&name);
                    assert_eq!((&queue.name, queue.remote.len()), (&name, round));
                    queue.remote.push((number, 1));
                }
            }
            assert_eq!(plan.queues.len(), queues as usize);
            let last = (queues - 1).to_be_bytes();
            assert_eq!(plan.queue_named(&last).unwrap().remote[0].0, queues - 1);
            assert!(plan.queue_named(&queues.to_be_bytes()).is_none());
        }
    }
}
