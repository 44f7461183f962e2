//! A connection's part in other accounts: what stream imports make of its subscriptions.
//!
//! Owns the shadows by the subscription they stand for; an account without stream imports costs one look
//! at an empty list for each SUB. Must never lock two tables at once.

use std::collections::HashMap;
use std::sync::Arc;

use crate::plane::Plane;
use crate::subscription::{Subscription, Via};

/// One shadow and the plane it lives in.
type Cast = (Arc<Plane>, Arc<Subscription>);

#[derive(Debug, Default)]
pub(super) struct Shadows {
    /// By the address of the subscription, which each of its shadows keeps alive.
    of: HashMap<usize, Vec<Cast>>,
}

impl Shadows {
    /// Subscribes in other planes to what `filter` means there.
    pub(super) fn add(&mut self, plane: &Plane, filter: &[u8], parent: &Arc<Subscription>) {
        let exchange = plane.exchange.load();
        if exchange.streams.is_empty() {
            return;
        }
        let mut cast = Vec::new();
        for import in &exchange.streams {
            let Some(shadow) = import.shadow(filter) else {
                continue;
            };
            let via = Via::Shadow {
                parent: Arc::clone(parent),
                back: shadow.back,
            };
            let outbound = Arc::clone(&parent.outbound);
            let queue = parent.queue.as_deref();
            let standing = Arc::new(Subscription::indirect(outbound, &parent.sid, queue, via));
            let source = shadow.source;
            source.table.write().subscribe(&shadow.filter, &standing);
            source.interest_changed();
            cast.push((source, standing));
        }
        if !cast.is_empty() {
            self.of.insert(key(parent), cast);
        }
    }

    /// Ends the shadows of a subscription.
    pub(super) fn drop_of(&mut self, parent: &Arc<Subscription>) {
        if let Some(cast) = self.of.remove(&key(parent)) {
            end(cast);
        }
    }

    pub(super) fn drop_all(&mut self) {
        for (_, cast) in std::mem::take(&mut self.of) {
            end(cast);
        }
    }

    /// Ends the shadows of so many subscriptions. Returns whether there are more.
    pub(super) fn drop_some(&mut self, most: usize) -> bool {
        let some: Vec<_> = self.of.keys().take(most).copied().collect();
        for parent in some {
            self.of.remove(&parent).into_iter().for_each(end);
        }
        !self.of.is_empty()
    }

    /// Casts all shadows anew: the account's imports have changed.
    pub(super) fn renew<'a>(
        &mut self,
        plane: &Arc<Plane>,
        subscriptions: impl Iterator<Item = &'a Arc<Subscription>>,
    ) {
        self.drop_all();
        if plane.exchange.load().streams.is_empty() {
            return;
        }
        for subscription in subscriptions.filter(|s| !s.is_closed()) {
            let filter = plane.table.read().filter_of(subscription);
            self.add(plane, &filter, subscription);
        }
    }
}

fn key(subscription: &Arc<Subscription>) -> usize {
    Arc::as_ptr(subscription) as usize
}

fn end(cast: Vec<Cast>) {
    for (plane, shadow) in cast {
        plane.table.write().unsubscribe(&shadow);
        plane.interest_changed();
    }
}
