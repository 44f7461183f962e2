//! Places that are given out by address, so that one address can't have all of them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Bits of an IPv6 address that tell hosts apart: whoever has one address has its whole /64.
const IPV6_PREFIX_BITS: u32 = 64;

/// The part of an address that one party holds.
pub(crate) fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => {
            let prefix = u128::from(six) >> (128 - IPV6_PREFIX_BITS) << (128 - IPV6_PREFIX_BITS);
            IpAddr::V6(Ipv6Addr::from(prefix))
        }
        four => four,
    }
}

/// How many seats are and were taken. For the metrics endpoint.
#[derive(Debug, Default)]
pub struct SeatCounts {
    /// Seats that are taken now.
    pub taken: AtomicU64,
    /// Those that were refused because their address had as many as it may.
    pub refused: AtomicU64,
}

/// Seats by address.
#[derive(Debug)]
pub(crate) struct Seats {
    per_address_max: usize,
    counts: Arc<SeatCounts>,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

impl Seats {
    /// So many for each address, an IPv6 network counting as one.
    pub(crate) fn new(per_address_max: usize, counts: Arc<SeatCounts>) -> Arc<Self> {
        Arc::new(Self {
            per_address_max,
            counts,
            taken: Mutex::default(),
        })
    }

    /// A seat for `address`, given back when it is dropped; `None` = it has as many as it may.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let host = host(address);
        let mut taken = self.taken.lock();
        let held = taken.entry(host).or_insert(0);
        if *held >= self.per_address_max {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *held += 1;
        self.counts.taken.fetch_add(1, Ordering::Relaxed);
        Some(Seat {
            seats: Arc::clone(self),
            host,
        })
    }
}

/// One place.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Arc<Seats>,
    host: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.counts.taken.fetch_sub(1, Ordering::Relaxed);
        let mut taken = self.seats.taken.lock();
        if let Some(held) = taken.get_mut(&self.host) {
            *held -= 1;
            if *held == 0 {
                taken.remove(&self.host);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_with_all_its_seats_leaves_those_of_others() {
        let counts = Arc::<SeatCounts>::default();
        let seats = Seats::new(2, Arc::clone(&counts));
        let (one, other): (IpAddr, IpAddr) =
            ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let held = [seats.take(one), seats.take(one)];
        assert!(held.iter().all(Option::is_some));
        assert!(seats.take(one).is_none() && seats.take(other).is_some());
        drop(held);
        assert!(seats.take(one).is_some());
        assert_eq!(counts.taken.load(Ordering::Relaxed), 0);
        assert_eq!(counts.refused.load(Ordering::Relaxed), 1);
        assert!(
            seats.taken.lock().is_empty(),
            "those that left are forgotten"
        );
    }

    #[test]
    fn a_whole_ipv6_network_and_a_mapped_address_are_one_host() {
        let of = |text: &str| host(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
