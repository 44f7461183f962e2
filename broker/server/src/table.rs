//! The shared subscription table: who on this node and which peers want what.
//!
//! Owns the one lock of the hot path. Publishing holds it for reading during one burst (a read's worth
//! of operations, without waiting); a change takes it for writing. So when a change returns, no burst
//! that saw the old table still has deliveries in hand: after UNSUB or a revocation nothing more is
//! queued for that subscription. Peers hear of a change inside the same lock, before any message that
//! depends on it.

use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;
use unibus_proto::NodeId;
use unibus_proto::interest::{InterestChange, InterestTable, RemoteInterest};
use unibus_proto::permissions::Permissions;
use unibus_proto::route;
use unibus_proto::sublist::Cursor;

use crate::backlog::News;
use crate::outbound::{Close, Outbound};
use crate::subscription::Subscription;

/// Bytes of interest that are told at once where the table is told in parts: it is locked for as long.
const PART_BYTES: usize = 256 * 1024;

/// A peer's place in the table.
pub(crate) type PeerSlot = u32;

#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) local: InterestTable<Arc<Subscription>>,
    pub(crate) remote: RemoteInterest<PeerSlot>,
    peers: Vec<Option<Peer>>,
    /// Counts peers that came or went.
    peers_generation: u64,
    /// The account; `None` = `$G`.
    account: Option<Arc<str>>,
}

#[derive(Debug)]
struct Peer {
    node: NodeId,
    outbound: Arc<Outbound>,
    /// What it is told anew.
    renewal: Mutex<Renewal>,
    /// How often it has begun to tell its own interest anew.
    round: u32,
}

/// How far a peer has been told the table anew, after interest had no room.
#[derive(Clone, Copy, Debug, Default)]
enum Renewal {
    #[default]
    Unneeded,
    Due,
    Running {
        cursor: Cursor,
        /// Something had no room again.
        again: bool,
    },
}

impl Renewal {
    /// Something had no room.
    const fn owe(&mut self) {
        match self {
            Self::Unneeded => *self = Self::Due,
            Self::Due => {}
            Self::Running { again, .. } => *again = true,
        }
    }
}

/// Equal values mean equal match results.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct TableGeneration(u64, u64, u64);

impl Table {
    pub(crate) fn new(account: Option<Arc<str>>) -> Self {
        Self {
            account,
            ..Self::default()
        }
    }

    pub(crate) fn generation(&self) -> TableGeneration {
        let local = self.local.sublist().generation();
        TableGeneration(local, self.remote.generation(), self.peers_generation)
    }

    pub(crate) fn peer(&self, slot: PeerSlot) -> Option<&Arc<Outbound>> {
        self.peers
            .get(slot as usize)?
            .as_ref()
            .map(|peer| &peer.outbound)
    }

    pub(crate) fn peers_count(&self) -> usize {
        self.peers.iter().flatten().count()
    }

    /// Adds a subscription and tells the peers.
    pub(crate) fn subscribe(&mut self, filter: &[u8], subscription: &Arc<Subscription>) {
        let queue = subscription.queue.as_deref();
        let (inserted, weight) = self.local.insert(filter, queue, Arc::clone(subscription));
        subscription.set_handle(inserted.handle);
        subscription.set_place(inserted.place());
        subscription.outbound.meter.subscribed();
        if let Some(weight) = weight {
            self.tell(InterestChange {
                filter,
                queue,
                weight,
            });
        }
    }

    /// Removes a subscription and tells the peers. Safe to repeat.
    pub(crate) fn unsubscribe(&mut self, subscription: &Arc<Subscription>) {
        if subscription.is_closed() {
            return;
        }
        subscription.close();
        subscription.outbound.meter.unsubscribed();
        let queue = subscription.queue.as_deref();
        let mut filter = Vec::new();
        if self.peers_count() > 0 {
            self.local
                .sublist()
                .filter_of(subscription.handle(), &mut filter);
        }
        let same = |known: &Arc<Subscription>| Arc::ptr_eq(known, subscription);
        let moved = |known: &Arc<Subscription>, place| known.set_place(place);
        let (handle, place) = (subscription.handle(), subscription.place());
        if let Some(weight) = self.local.remove(handle, queue, place, same, moved) {
            self.tell(InterestChange {
                filter: &filter,
                queue,
                weight,
            });
        }
    }

    /// The filter text of a subscription that is in the table.
    pub(crate) fn filter_of(&self, subscription: &Subscription) -> Vec<u8> {
        let mut filter = Vec::new();
        self.local
            .sublist()
            .filter_of(subscription.handle(), &mut filter);
        filter
    }

    /// Applies new permissions to a connection's subscriptions: marks what has to be checked of their
    /// deliveries, and removes and returns (with filter) those no longer allowed.
    pub(crate) fn restrict<'a>(
        &mut self,
        permissions: &Permissions,
        subscriptions: impl Iterator<Item = &'a Arc<Subscription>>,
    ) -> Vec<(Arc<Subscription>, Vec<u8>)> {
        let mut refused = Vec::new();
        for subscription in subscriptions.filter(|s| !s.is_closed()) {
            let filter = self.filter_of(subscription);
            if permissions.can_subscribe(&filter, subscription.queue.as_deref()) {
                subscription.check_by(permissions, &filter);
            } else {
                refused.push((Arc::clone(subscription), filter));
            }
        }
        for (subscription, _) in &refused {
            self.unsubscribe(subscription);
        }
        self.local.touch();
        refused
    }

    /// Adds a peer, which hears of changes from now on; of what there is by [`Self::tell_part`]. A route that
    /// the same node had before is closed.
    pub(crate) fn attach(&mut self, node: NodeId, outbound: &Arc<Outbound>) {
        if let Some(old) = self
            .peers
            .iter()
            .position(|p| p.as_ref().is_some_and(|p| p.node == node))
        {
            self.drop_slot(old as PeerSlot);
        }
        self.peers_generation += 1;
        let peer = Some(Peer {
            node,
            outbound: Arc::clone(outbound),
            renewal: Mutex::default(),
            round: 0,
        });
        match self.peers.iter().position(Option::is_none) {
            Some(free) => self.peers[free] = peer,
            None => self.peers.push(peer),
        }
    }

    /// Removes a peer, unless another route took its place.
    pub(crate) fn detach(&mut self, outbound: &Arc<Outbound>) {
        if let Some(slot) = self.slot_of(outbound) {
            self.drop_slot(slot);
        }
    }

    /// Appends the part of the table at `cursor`, as a peer has to hear it. Returns whether nothing is left.
    /// Changes meanwhile have to reach the peer after it, or be told in their order with it.
    pub(crate) fn tell_part(&self, cursor: &mut Cursor, out: &mut BytesMut) -> bool {
        let account = self.account.as_deref();
        self.local.visit_from(cursor, |change| {
            route::in_account(out, account, |out| route::interest(out, change));
            out.len() < PART_BYTES
        })
    }

    /// Tells a peer the next part of what it has to be told anew. Returns whether nothing is left.
    pub(crate) fn renew(&self, outbound: &Arc<Outbound>) -> bool {
        let slot = self.slot_of(outbound);
        let peer = slot.and_then(|slot| self.peers.get(slot as usize)?.as_ref());
        let Some(peer) = peer else { return true };
        let account = self.account.as_deref();
        let mut renewal = peer.renewal.lock();
        let mut out = BytesMut::new();
        let (mut cursor, again) = match *renewal {
            Renewal::Unneeded => return true,
            Renewal::Due => {
                route::in_account(&mut out, account, route::renewal);
                (Cursor::default(), false)
            }
            Renewal::Running { cursor, again } => (cursor, again),
        };
        *renewal = match self.tell_part(&mut cursor, &mut out) {
            false => Renewal::Running { cursor, again },
            true if again => Renewal::Due,
            true => {
                route::in_account(&mut out, account, route::renewed);
                Renewal::Unneeded
            }
        };
        outbound.tell(News::Again, |buffer| buffer.extend_from_slice(&out));
        matches!(*renewal, Renewal::Unneeded)
    }

    /// The peer with the most interest that waits for it, of those with over so many bytes.
    pub(crate) fn lagging_peer(&self, bytes: usize) -> Option<Arc<Outbound>> {
        let told = |peer: &Peer| peer.outbound.told();
        let worst = self.peers.iter().flatten().max_by_key(|peer| told(peer))?;
        (told(worst) > bytes).then(|| Arc::clone(&worst.outbound))
    }

    fn slot_of(&self, outbound: &Arc<Outbound>) -> Option<PeerSlot> {
        let is_it = |peer: &Option<Peer>| {
            peer.as_ref()
                .is_some_and(|peer| Arc::ptr_eq(&peer.outbound, outbound))
        };
        let at = self.peers.iter().position(is_it)?;
        Some(at as PeerSlot)
    }

    fn drop_slot(&mut self, slot: PeerSlot) {
        self.peers_generation += 1;
        self.remote.forget(slot);
        if let Some(peer) = self.peers.get_mut(slot as usize).and_then(Option::take) {
            peer.outbound.close(Close::Gone);
        }
    }

    /// Takes over what a peer said. Nothing once its route has been replaced.
    pub(crate) fn hear(&mut self, from: &Arc<Outbound>, change: InterestChange<'_>) {
        if let Some((slot, round)) = self.round_of(from) {
            let round = *round;
            self.remote.set(slot, change, round);
        }
    }

    /// A peer tells all its interest anew from now on.
    pub(crate) fn hear_renewal(&mut self, from: &Arc<Outbound>) {
        if let Some((_, round)) = self.round_of(from) {
            *round = round.wrapping_add(1);
        }
    }

    /// It has: what it did not tell again is over.
    pub(crate) fn hear_renewed(&mut self, from: &Arc<Outbound>) {
        if let Some((slot, round)) = self.round_of(from) {
            let round = *round;
            self.remote.keep_round(slot, round);
        }
    }

    fn round_of(&mut self, from: &Arc<Outbound>) -> Option<(PeerSlot, &mut u32)> {
        let slot = self.slot_of(from)?;
        let peer = self.peers.get_mut(slot as usize)?.as_mut()?;
        Some((slot, &mut peer.round))
    }

    fn tell(&self, change: InterestChange<'_>) {
        let account = self.account.as_deref();
        let news = match change.weight {
            0 => News::Unwanted,
            _ => News::Wanted,
        };
        for peer in self.peers.iter().flatten() {
            let told = peer.outbound.tell(news, |out| {
                route::in_account(out, account, |out| route::interest(out, change));
            });
            if !told {
                peer.renewal.lock().owe();
            }
            peer.outbound.wake();
        }
    }
}
