//! What is enforced before anybody is asked who they are: a token bucket for each address, and one
//! budget for all bodies in flight (control-plane.md, Denial-of-service limits). Counts what it
//! refuses.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use lru::LruCache;
use parking_lot::Mutex;

use crate::seats::{SeatCounts, host};

/// Addresses that are remembered at most, about 150 bytes each.
const ADDRESSES_MAX: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();

/// What the control plane has counted since the node started. For the metrics endpoint.
#[derive(Debug, Default)]
pub struct ControlCounters {
    /// Requests whose head was read.
    pub requests: AtomicU64,
    /// 413: bodies over their ceiling.
    pub bodies_too_large: AtomicU64,
    /// 429: addresses over their rate.
    pub rate_limited: AtomicU64,
    /// 503: bodies over the budget.
    pub shed: AtomicU64,
    /// 408 and connections whose head took too long.
    pub too_slow: AtomicU64,
    /// 401, replays apart.
    pub unauthorized: AtomicU64,
    /// 401 for nonces that were seen before.
    pub replayed: AtomicU64,
    /// 403.
    pub forbidden: AtomicU64,
    /// Other refusals that are the store's: 503 without a quorum.
    pub unavailable: AtomicU64,
    /// Requests let through by `soft` that `enforce` would refuse.
    pub tolerated: AtomicU64,
    /// Changes that were made.
    pub changes: AtomicU64,
    /// Bytes of bodies in flight now.
    pub body_bytes: AtomicU64,
    /// Most of them: what [`Self::body_bytes`] is measured against.
    pub body_bytes_max: AtomicU64,
    /// 431: heads over their ceiling.
    pub heads_too_large: AtomicU64,
    /// Connections.
    pub seats: Arc<SeatCounts>,
}

impl ControlCounters {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// One address's token bucket.
type Bucket<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// A token bucket for each address. The address that has been silent longest is forgotten where there
/// are too many; it comes back with a full bucket.
pub(crate) struct PerAddress<C: Clock = MonotonicClock> {
    quota: Quota,
    clock: C,
    buckets: Mutex<LruCache<IpAddr, Bucket<C>>>,
}

impl<C: Clock> std::fmt::Debug for PerAddress<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PerAddress")
            .field("quota", &self.quota)
            .finish_non_exhaustive()
    }
}

impl PerAddress {
    /// `per_second` requests in the long run, `burst` at once.
    pub(crate) fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        Self::with_clock(per_second, burst, MonotonicClock)
    }
}

impl<C: Clock + Clone> PerAddress<C> {
    fn with_clock(per_second: NonZeroU32, burst: NonZeroU32, clock: C) -> Self {
        Self {
            quota: Quota::per_second(per_second).allow_burst(burst),
            clock,
            buckets: Mutex::new(LruCache::new(ADDRESSES_MAX)),
        }
    }

    /// Takes one token of `address`, or says how long there is none.
    pub(crate) fn take(&self, address: IpAddr) -> Result<(), Duration> {
        let new = || RateLimiter::direct_with_clock(self.quota, self.clock.clone());
        let mut buckets = self.buckets.lock();
        let bucket = buckets.get_or_insert(host(address), new);
        bucket
            .check()
            .map_err(|refused| refused.wait_time_from(self.clock.now()))
    }
}

/// A body of up to so many bytes is a small one, which has a part of the budget to itself.
pub(crate) const SMALL_BODY_BYTES: u64 = 64 * 1024;
/// One part in so many of the budget is for small bodies alone.
const SMALL_PART: u64 = 8;
/// One address has at most one part in so many of the budget.
const ADDRESS_PART: u64 = 2;

/// Bytes of bodies in flight, over all connections. Large bodies leave something to small ones, and one
/// address leaves something to others: a body is let in before anybody knows who sends it.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: u64,
    counters: Arc<ControlCounters>,
    /// What each address holds; only those that hold something.
    held: Mutex<HashMap<IpAddr, u64>>,
}

impl Budget {
    pub(crate) fn new(bytes_max: u64, counters: &Arc<ControlCounters>) -> Arc<Self> {
        counters.body_bytes_max.store(bytes_max, Ordering::Relaxed);
        Arc::new(Self {
            bytes_max,
            counters: Arc::clone(counters),
            held: Mutex::default(),
        })
    }

    /// A share that can grow; given back when it is dropped, however the request ends.
    pub(crate) fn share(self: &Arc<Self>, address: IpAddr) -> Share {
        Share {
            budget: Arc::clone(self),
            address: host(address),
            bytes: 0,
        }
    }

    /// Makes a share of `old` bytes one of `new` bytes.
    fn grow(&self, address: IpAddr, old: u64, new: u64) -> bool {
        let mut held = self.held.lock();
        let others = held.values().sum::<u64>() - old;
        let theirs = held.get(&address).copied().unwrap_or(0) - old;
        // A body of the largest size always fits where nothing else is.
        let bytes_max = match new <= SMALL_BODY_BYTES || others == 0 {
            true => self.bytes_max,
            false => self.bytes_max - self.bytes_max / SMALL_PART,
        };
        let fits = |sum: Option<u64>, max| sum.is_some_and(|sum| sum <= max);
        let granted = fits(others.checked_add(new), bytes_max)
            && (theirs == 0 || fits(theirs.checked_add(new), self.bytes_max / ADDRESS_PART));
        if granted {
            held.insert(address, theirs + new);
            self.count(others + new);
        }
        granted
    }

    fn give_back(&self, address: IpAddr, bytes: u64) {
        let mut held = self.held.lock();
        if let Entry::Occupied(mut theirs) = held.entry(address) {
            *theirs.get_mut() -= bytes;
            if *theirs.get() == 0 {
                theirs.remove();
            }
        }
        self.count(held.values().sum());
    }

    fn count(&self, bytes: u64) {
        self.counters.body_bytes.store(bytes, Ordering::Relaxed);
    }
}

/// One request's part of the budget.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    address: IpAddr,
    bytes: u64,
}

impl Share {
    /// Makes the share at least `bytes`; false = the budget is used up.
    pub(crate) fn at_least(&mut self, bytes: u64) -> bool {
        let granted = bytes <= self.bytes || self.budget.grow(self.address, self.bytes, bytes);
        if granted {
            self.bytes = self.bytes.max(bytes);
        }
        granted
    }

    /// Gives a part of it back before its end.
    pub(crate) fn give_back(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.give_back(self.address, bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.give_back(self.address, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from(n))
    }

    #[test]
    fn the_budget_is_given_back_on_every_path() {
        let counters = Arc::new(ControlCounters::default());
        let held = || counters.body_bytes.load(Ordering::Relaxed);
        let budget = Budget::new(100, &counters);
        let mut a = budget.share(address(1));
        let mut b = budget.share(address(2));
        assert!(a.at_least(60) && a.at_least(50) && b.at_least(40));
        assert!(!a.at_least(61) && !b.at_least(41));
        assert_eq!(held(), 100);
        drop(a);
        assert_eq!(held(), 40);
        assert!(b.at_least(100) && !b.at_least(u64::MAX));
        b.give_back(30);
        assert_eq!(held(), 70);
        b.give_back(u64::MAX);
        drop(b);
        assert_eq!(held(), 0);
        assert!(budget.held.lock().is_empty());
    }

    #[test]
    fn large_bodies_leave_room_for_small_ones_and_one_address_for_others() {
        const MIB: u64 = 1024 * 1024;
        let budget = Budget::new(128 * MIB, &Arc::new(ControlCounters::default()));
        let blobs = |n: u32| -> Vec<Share> {
            let shares = std::iter::repeat_with(|| budget.share(address(n)));
            shares
                .take(9)
                .filter_map(|mut share| share.at_least(16 * MIB).then_some(share))
                .collect()
        };
        let one = blobs(1);
        assert_eq!(one.len(), 4, "half of the budget");
        let other = blobs(2);
        assert_eq!(other.len(), 3, "and what is not for small bodies");
        assert!(!budget.share(address(3)).at_least(16 * MIB));
        assert!(budget.share(address(3)).at_least(SMALL_BODY_BYTES));
        drop(other);
        assert!(budget.share(address(3)).at_least(48 * MIB));
    }

    fn limited(per_second: u32, burst: u32) -> (PerAddress<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let of = |n| NonZeroU32::new(n).unwrap();
        let limits = PerAddress::with_clock(of(per_second), of(burst), clock.clone());
        (limits, clock)
    }

    #[test]
    fn one_address_over_its_rate_leaves_others_alone() {
        let (limits, clock) = limited(2, 3);
        let (one, other): (IpAddr, IpAddr) =
            ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let taken = (0..10).filter(|_| limits.take(one).is_ok());
        assert_eq!(taken.count(), 3);
        let half = Duration::from_millis(500);
        assert_eq!(limits.take(one), Err(half));
        assert!(limits.take(other).is_ok());
        clock.advance(half);
        assert!(limits.take(one).is_ok());
        assert_eq!(limits.take(one), Err(half));
        clock.advance(Duration::from_secs(60));
        let taken = (0..10).filter(|_| limits.take(one).is_ok());
        assert_eq!(taken.count(), 3, "no more than the burst is saved up");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (limits, _) = limited(1, 1);
        let many = u32::try_from(ADDRESSES_MAX.get()).unwrap();
        for n in 0..=many {
            assert!(limits.take(address(n)).is_ok());
        }
        assert_eq!(limits.buckets.lock().len(), ADDRESSES_MAX.get());
        assert!(
            limits.take(address(many)).is_err(),
            "the last is remembered"
        );
        assert!(
            limits.take(address(1)).is_err(),
            "and so is who came second"
        );
        assert!(limits.take(address(0)).is_ok(), "the first is forgotten");
    }
}
