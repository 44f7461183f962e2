//! One client subscription, and a connection's table of them by sid.
//!
//! Owns the delivery count with its maximum. Must never hold the filter's text: the trie has it.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hashbrown::HashTable;
use smallvec::SmallVec;
use unibus_proto::mapping::Mapping;
use unibus_proto::permissions::Permissions;
use unibus_proto::subject;
use unibus_proto::sublist::Handle;

use crate::exchange::Sink;
use crate::outbound::Outbound;

/// A client's name for a subscription; most are short numbers.
type Sid = SmallVec<[u8; 16]>;

/// A subscription, shared by its connection, the trie, and match caches.
pub(crate) struct Subscription {
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) sid: Sid,
    pub(crate) queue: Option<Box<[u8]>>,
    /// Deliveries after which it ends; 0 = no end.
    max: AtomicU64,
    delivered: AtomicU64,
    handle: AtomicU32,
    /// Where it is among the members of the same filter and queue.
    place: AtomicU32,
    closed: AtomicBool,
    /// The filter overlaps a deny: each delivery has to be checked.
    checked: AtomicBool,
    /// What consumers deliver has to be checked.
    guarded: AtomicBool,
    /// Deliveries go another way than into the outbound.
    via: Option<Box<Via>>,
}

/// Where deliveries to an indirect subscription go.
pub(crate) enum Via {
    /// Into the node.
    Sink(Arc<dyn Sink>),
    /// To a subscription of another account, under its names.
    Shadow {
        parent: Arc<Subscription>,
        back: Arc<Mapping>,
    },
}

/// Whether one more delivery may be made.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Admit {
    Yes,
    /// Yes, and the subscription ends with it.
    Last,
    No,
}

impl Subscription {
    pub(crate) fn new(outbound: Arc<Outbound>, sid: &[u8], queue: Option<&[u8]>) -> Self {
        Self {
            outbound,
            sid: SmallVec::from_slice(sid),
            queue: queue.map(Box::from),
            max: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            handle: AtomicU32::new(0),
            place: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            checked: AtomicBool::new(false),
            guarded: AtomicBool::new(false),
            via: None,
        }
    }

    /// A subscription whose deliveries go another way. To [`Self::admit`] it looks exhausted, so that the
    /// usual delivery doesn't have to ask for it.
    pub(crate) fn indirect(
        outbound: Arc<Outbound>,
        sid: &[u8],
        queue: Option<&[u8]>,
        via: Via,
    ) -> Self {
        Self {
            max: AtomicU64::new(1),
            delivered: AtomicU64::new(1),
            via: Some(Box::new(via)),
            ..Self::new(outbound, sid, queue)
        }
    }

    pub(crate) fn via(&self) -> Option<&Via> {
        self.via.as_deref()
    }

    /// Counts one delivery. Exact also when several publishers deliver at once.
    pub(crate) fn admit(&self) -> Admit {
        if self.closed.load(Ordering::Relaxed) {
            return Admit::No;
        }
        let number = self.delivered.fetch_add(1, Ordering::Relaxed) + 1;
        match self.max.load(Ordering::Relaxed) {
            0 => Admit::Yes,
            max if number < max => Admit::Yes,
            max if number == max => Admit::Last,
            _ => Admit::No,
        }
    }

    /// Sets the maximum. Returns false when it has been reached already. Needs the table's write lock,
    /// so that no delivery runs beside it.
    pub(crate) fn limit(&self, max: u64) -> bool {
        self.max.store(max, Ordering::Relaxed);
        self.delivered.load(Ordering::Relaxed) < max
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Deliveries after which it ends.
    pub(crate) fn max(&self) -> Option<u64> {
        match self.max.load(Ordering::Relaxed) {
            0 => None,
            max => Some(max),
        }
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle::from_bits(self.handle.load(Ordering::Relaxed))
    }

    pub(crate) fn set_handle(&self, handle: Handle) {
        self.handle.store(handle.to_bits(), Ordering::Relaxed);
    }

    pub(crate) fn place(&self) -> usize {
        self.place.load(Ordering::Relaxed) as usize
    }

    /// Needs the table's write lock. A place that can't be told costs a search.
    pub(crate) fn set_place(&self, place: usize) {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        self.place.store(place, Ordering::Relaxed);
    }

    pub(crate) fn is_checked(&self) -> bool {
        self.checked.load(Ordering::Relaxed)
    }

    pub(crate) fn is_guarded(&self) -> bool {
        self.guarded.load(Ordering::Relaxed)
    }

    /// What has to be checked, under these permissions, of what comes to its `filter`.
    pub(crate) fn check_by(&self, permissions: &Permissions, filter: &[u8]) {
        let checked = permissions.needs_delivery_check(filter);
        self.checked.store(checked, Ordering::Relaxed);
        let guarded = permissions.guards_deliveries(filter);
        self.guarded.store(guarded, Ordering::Relaxed);
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("sid", &self.sid)
            .finish_non_exhaustive()
    }
}

/// The subscriptions of one connection by sid: 8 bytes and a tag each.
#[derive(Debug)]
pub(crate) struct SidTable {
    table: HashTable<Arc<Subscription>>,
    seed: u64,
}

impl SidTable {
    pub(crate) fn new() -> Self {
        Self {
            table: HashTable::new(),
            seed: RandomState::new().hash_one(0_u8),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn get(&self, sid: &[u8]) -> Option<&Arc<Subscription>> {
        self.table
            .find(subject::hash(self.seed, sid), |known| &*known.sid == sid)
    }

    /// Adds or replaces.
    pub(crate) fn insert(&mut self, subscription: Arc<Subscription>) {
        let seed = self.seed;
        let hash = subject::hash(seed, &subscription.sid);
        if let Some(known) = self
            .table
            .find_mut(hash, |known| known.sid == subscription.sid)
        {
            *known = subscription;
            return;
        }
        self.table
            .insert_unique(hash, subscription, |known| subject::hash(seed, &known.sid));
    }

    pub(crate) fn remove(&mut self, sid: &[u8]) -> Option<Arc<Subscription>> {
        let hash = subject::hash(self.seed, sid);
        let entry = self
            .table
            .find_entry(hash, |known| &*known.sid == sid)
            .ok()?;
        let (subscription, _) = entry.remove();
        if self.table.is_empty() {
            self.table = HashTable::new();
        }
        Some(subscription)
    }

    /// Removes exactly this subscription, not a later one with the same sid.
    pub(crate) fn forget(&mut self, subscription: &Arc<Subscription>) {
        if self
            .get(&subscription.sid)
            .is_some_and(|known| Arc::ptr_eq(known, subscription))
        {
            self.remove(&subscription.sid);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Subscription>> {
        self.table.iter()
    }

    pub(crate) fn take(&mut self) -> Vec<Arc<Subscription>> {
        std::mem::take(&mut self.table).into_iter().collect()
    }
}
