//! How many connections a user or an account has open, where that is limited.
//!
//! Owns the counts by name; a [`Place`] gives its own back when it goes. Names without a limit are never
//! counted and cost nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::plane::Plane;
use crate::stats::count;

#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<HashMap<Arc<str>, usize>>);

/// One connection's place under one name.
#[derive(Debug)]
pub(crate) struct Place {
    of: Arc<Places>,
    name: Arc<str>,
}

impl Places {
    /// A place under `name`, unless `most` are taken.
    pub(crate) fn take(self: &Arc<Self>, name: &str, most: usize) -> Option<Place> {
        let mut taken = self.0.lock();
        let name: Arc<str> = Arc::from(name);
        let count = taken.entry(Arc::clone(&name)).or_default();
        if *count >= most {
            if *count == 0 {
                taken.remove(&name);
            }
            return None;
        }
        *count += 1;
        Some(Place {
            of: Arc::clone(self),
            name,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.0.lock();
        if let Some(count) = taken.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.name);
            }
        }
    }
}

/// Counts a connection for its account as long as it belongs to it.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Plane>);

impl Seat {
    /// A seat, unless the account's connections are as many as they may be.
    pub(crate) fn take(plane: &Arc<Plane>) -> Option<Self> {
        let most = plane.exchange.load().limits.connections_max;
        let taken = plane.connections.fetch_add(1, Ordering::Relaxed);
        let seat = Self(Arc::clone(plane));
        if most.is_some_and(|most| taken >= most) {
            return None;
        }
        count(&plane.connections_total);
        Some(seat)
    }

    pub(crate) fn is_in(&self, plane: &Arc<Plane>) -> bool {
        Arc::ptr_eq(&self.0, plane)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_holder_goes() {
        let places = Arc::new(Places::default());
        let first = places.take("u", 1);
        assert!(first.is_some() && places.take("u", 1).is_none());
        assert!(places.take("v", 1).is_some() && places.take("u", 0).is_none());
        drop(first);
        assert!(places.0.lock().is_empty());
        assert!(places.take("u", 0).is_none() && places.take("u", 1).is_some());
        assert!(places.0.lock().is_empty());
    }
}
