//! Delivery: from one message to every receiver's pending bytes.
//!
//! Owns the publisher's side of routing: match, choose queue members, stage. What a burst delivers is
//! gathered per receiver and handed over in one go at its end, inside the table's read lock. Must never
//! wait, and never write to a socket while the lock is held.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use hashbrown::HashTable;
use parking_lot::RwLock;
use unibus_proto::encoder;
use unibus_proto::permissions::Reading;
use unibus_proto::route::{self, OutgoingMessage, Written};
use unibus_proto::sublist::Walk;

use crate::meter::Amount;
use crate::outbound::Outbound;
use crate::plan::{Hop, Lookup, Plan, PlanCache, QueuePlan, TargetId};
use crate::ports::{Inbound, Origin, Service};
use crate::rng::Rng;
use crate::service::ServiceTable;
use crate::stats::Tally;
use crate::subscription::{Admit, Subscription, Via};
use crate::table::{Table, TableGeneration};

mod message;
mod staging;
#[cfg(test)]
mod tests;

pub(crate) use message::{Message, Reach};
use staging::STAGED_BYTES_FULL;

/// A lag over this many bytes makes the publisher wait for `SOFT_STALL` at most before its next read.
const SOFT_STALL_BYTES: usize = 4 * 1024 * 1024;
const SOFT_STALL: Duration = Duration::from_millis(2);

/// Receivers a publisher remembers before it starts over.
const TARGETS_MAX: usize = 16 * 1024;

#[derive(Debug)]
struct Target {
    outbound: Arc<Outbound>,
    staged: BytesMut,
    /// Messages in `staged`.
    sent: Amount,
    /// A consumer (`<stream>.<consumer>`) of which the receiver may have everything. Another grant makes
    /// the table another one, and with that all targets are made anew.
    reader_of: Option<Box<[u8]>>,
    /// Bytes in `staged` above which the receiver has to be looked at.
    room: usize,
    /// The part of [`Stage::kept`] that is this buffer's.
    kept: usize,
}

/// One publisher's delivery engine: its cache and its staging buffers.
#[derive(Debug)]
pub(crate) struct Fanout {
    cache: PlanCache,
    plan: Plan,
    stage: Stage,
    walk: Walk,
    seen: (TableGeneration, u64),
    target_of: HashTable<TargetId>,
    fed: Vec<FedService>,
    /// The last message published had nobody to go to.
    unheard: bool,
    /// Something has been published since [`Self::rest`].
    used: bool,
}

struct FedService(Arc<dyn Service>);

#[derive(Debug)]
struct Stage {
    targets: Vec<Target>,
    touched: Vec<TargetId>,
    handed: Vec<Arc<Outbound>>,
    staged_bytes: usize,
    /// Capacity of the empty staging buffers, in bytes.
    kept: usize,
    /// Bytes were handed over in the middle of a message.
    overflowed: bool,
    expired: Vec<Arc<Subscription>>,
    /// Peer and queue of remote picks for the message in hand.
    picked: Vec<(TargetId, Arc<[u8]>)>,
    /// Somebody who listens was not given the message in hand.
    withheld: bool,
    stalling: Option<Stalling>,
    rng: Rng,
    tally: Tally,
}

/// A receiver that lags, and by how much.
#[derive(Clone, Debug)]
pub(crate) struct Stalling {
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) pending: usize,
}

impl Stalling {
    /// Whether a publisher should wait before its next read.
    fn is_serious(&self) -> bool {
        self.pending > SOFT_STALL_BYTES || self.outbound.is_crowded(self.pending)
    }

    /// Waits until the receiver has caught up: briefly, or for `longest` when its limit is near and it is a
    /// client.
    pub(crate) async fn wait(self, longest: Duration) {
        if self.outbound.is_crowded(self.pending) {
            let longest = self.outbound.patience().unwrap_or(longest);
            self.outbound.caught_up(longest).await;
        } else if self.is_serious() {
            self.outbound.caught_up(SOFT_STALL.min(longest)).await;
        }
    }
}

impl Fanout {
    pub(crate) fn new() -> Self {
        Self {
            cache: PlanCache::new(),
            plan: Plan::default(),
            stage: Stage {
                targets: Vec::new(),
                touched: Vec::new(),
                handed: Vec::new(),
                staged_bytes: 0,
                kept: 0,
                overflowed: false,
                expired: Vec::new(),
                picked: Vec::new(),
                withheld: false,
                stalling: None,
                rng: Rng::new(),
                tally: Tally::default(),
            },
            walk: Walk::default(),
            seen: (TableGeneration::default(), 0),
            target_of: HashTable::new(),
            fed: Vec::new(),
            unheard: false,
            used: false,
        }
    }

    /// Brings the cache up to date with the tables. To be called once after each locking.
    pub(crate) fn sync(&mut self, table: &Table, services: &ServiceTable) {
        self.used = true;
        let now = (table.generation(), services.generation());
        if self.seen != now || self.stage.targets.len() > TARGETS_MAX {
            self.seen = now;
            self.forget();
        }
    }

    /// Drops cached plans: the publisher's permissions changed.
    pub(crate) fn forget(&mut self) {
        self.stage.hand_over();
        self.cache.clear();
        self.stage.targets.clear();
        self.stage.kept = 0;
        self.target_of.clear();
    }

    /// Drops everything that costs memory or keeps receivers alive.
    pub(crate) fn free(&mut self) {
        self.cache.free();
        self.plan = Plan::default();
        self.stage.targets = Vec::new();
        self.stage.kept = 0;
        self.stage.touched = Vec::new();
        self.stage.handed = Vec::new();
        self.stage.expired = Vec::new();
        self.stage.picked = Vec::new();
        self.target_of = HashTable::new();
        self.walk = Walk::default();
        self.fed = Vec::new();
    }

    /// The same, unless something has been published since the last call.
    pub(crate) fn rest(&mut self) {
        if !std::mem::take(&mut self.used) {
            self.free();
        }
    }

    /// Capacity that empty buffers keep, in bytes.
    pub(crate) const fn kept(&self) -> usize {
        self.stage.kept
    }

    pub(crate) const fn tally(&mut self) -> &mut Tally {
        &mut self.stage.tally
    }

    /// Stages lines that are no messages for one receiver.
    pub(crate) fn lines(&mut self, outbound: &Arc<Outbound>, write: impl FnOnce(&mut BytesMut)) {
        let target = target_for(&mut self.stage.targets, &mut self.target_of, outbound);
        self.stage.put(target, write);
    }

    /// Delivers one message. Returns the number of receivers, or `None` when `allowed` refuses the
    /// subject.
    pub(crate) fn publish(
        &mut self,
        table: &Table,
        services: &ServiceTable,
        message: &Message<'_>,
        reach: &Reach<'_>,
        allowed: impl FnOnce(&[u8]) -> bool,
    ) -> Option<usize> {
        self.unheard = false;
        let found = self.cache.lookup(message.subject);
        let cached = match found {
            Lookup::Found(at) => Some(at),
            Lookup::Missing { hash, keep } => {
                self.make_plan(table, services, message.subject, allowed);
                if keep {
                    self.cache.insert(hash, message.subject, &self.plan);
                }
                None
            }
        };
        let plan = match cached {
            Some(at) => self.cache.plan(at)?,
            None => &self.plan,
        };
        if !plan.allowed {
            return None;
        }
        self.unheard = plan.is_empty();
        self.stage.withheld = false;
        let mut receivers = self.stage.deliver(plan, message, reach);
        if let Some(origin) = reach.services {
            receivers += feed(plan, message, origin, &mut self.fed);
        }
        Some(receivers)
    }

    /// Whether the last [`Self::publish`] had nobody to ask: as long as the tables stay locked, another
    /// message with its subject is nobody's either.
    pub(crate) const fn is_unheard(&self) -> bool {
        self.unheard
    }

    /// Whether somebody listened to what was published last and was not given it: see
    /// [`unibus_proto::permissions::DeliveryRule`].
    pub(crate) const fn was_withheld(&self) -> bool {
        self.stage.withheld
    }

    /// The same for a publisher that may publish this once, whatever its cache says of the subject.
    pub(crate) fn publish_once(
        &mut self,
        table: &Table,
        services: &ServiceTable,
        message: &Message<'_>,
        reach: &Reach<'_>,
    ) -> usize {
        self.make_plan(table, services, message.subject, |_| true);
        let mut receivers = self.stage.deliver(&self.plan, message, reach);
        if let Some(origin) = reach.services {
            receivers += feed(&self.plan, message, origin, &mut self.fed);
        }
        receivers
    }

    /// Delivers a message from a route: to plain subscribers, and to one member of each named queue.
    pub(crate) fn publish_routed<'q>(
        &mut self,
        table: &Table,
        services: &ServiceTable,
        message: &Message<'_>,
        queues: impl Iterator<Item = &'q [u8]>,
    ) {
        let found = self.cache.lookup(message.subject);
        let cached = match found {
            Lookup::Found(at) => Some(at),
            Lookup::Missing { hash, keep } => {
                self.make_plan(table, services, message.subject, |_| true);
                if keep {
                    self.cache.insert(hash, message.subject, &self.plan);
                }
                None
            }
        };
        let plan = match cached {
            Some(at) => self.cache.plan(at),
            None => Some(&self.plan),
        };
        let Some(plan) = plan else { return };
        self.stage.tally.route_in_msgs += 1;
        self.stage.deliver_plain(plan, message, None);
        for name in queues {
            if let Some(queue) = plan.queue_named(name) {
                self.stage.deliver_to_one(queue, message, None);
            }
        }
    }

    fn make_plan(
        &mut self,
        table: &Table,
        services: &ServiceTable,
        subject: &[u8],
        allowed: impl FnOnce(&[u8]) -> bool,
    ) {
        let Self {
            plan,
            stage,
            target_of,
            walk,
            ..
        } = self;
        plan.clear();
        plan.allowed = allowed(subject);
        if !plan.allowed {
            return;
        }
        table
            .local
            .sublist()
            .for_each_match(subject, walk, |found| {
                for subscription in found.members {
                    if subscription.is_checked() && subscription.outbound.denies(subject) {
                        continue;
                    }
                    let target = target_for(&mut stage.targets, target_of, &subscription.outbound);
                    let hop = Hop {
                        subscription: Arc::clone(subscription),
                        target,
                    };
                    match found.queue {
                        None => plan.plain.push(hop),
                        Some(name) => plan.queue(name).local.push(hop),
                    }
                }
            });
        table.remote.for_each_match(subject, walk, |found| {
            for remote in found.members {
                let Some(outbound) = table.peer(remote.peer) else {
                    continue;
                };
                let target = target_for(&mut stage.targets, target_of, outbound);
                match found.queue {
                    None if plan.peers.contains(&target) => {}
                    None => plan.peers.push(target),
                    Some(name) => plan.queue(name).remote.push((target, remote.weight)),
                }
            }
        });
        services.find(subject, walk, &mut plan.services);
    }

    /// Whether so much is staged that it should be handed over within the burst.
    pub(crate) const fn is_full(&self) -> bool {
        self.stage.staged_bytes > STAGED_BYTES_FULL || self.stage.overflowed
    }

    /// Hands everything staged over to the receivers. Has to be called before the table's lock is let
    /// go; [`Self::flush`] or [`Self::wake`] follow after.
    pub(crate) fn hand_over(&mut self) {
        self.stage.hand_over();
    }

    /// Writes what was handed over, from this task where possible.
    pub(crate) fn flush(&mut self) {
        self.stage.overflowed = false;
        for outbound in self.stage.handed.drain(..) {
            outbound.flush();
        }
    }

    /// Lets the receivers' own tasks write what was handed over.
    pub(crate) fn wake(&mut self) {
        self.stage.overflowed = false;
        for outbound in self.stage.handed.drain(..) {
            outbound.wake();
        }
    }

    /// Removes subscriptions that reached their maximum. Must be called without the table's lock.
    pub(crate) fn reap(&mut self, table: &RwLock<Table>) {
        for subscription in self.stage.expired.drain(..) {
            table.write().unsubscribe(&subscription);
            let outbound = Arc::clone(&subscription.outbound);
            outbound.expire(subscription);
        }
    }

    pub(crate) const fn has_expired(&self) -> bool {
        !self.stage.expired.is_empty()
    }

    /// For callers that can't take the write lock: the subscriptions [`Self::reap`] would remove.
    pub(crate) fn take_expired(&mut self) -> Vec<Arc<Subscription>> {
        std::mem::take(&mut self.stage.expired)
    }

    /// The receiver that lags most since the last call, if any lags.
    pub(crate) const fn take_stalling(&mut self) -> Option<Stalling> {
        self.stage.stalling.take()
    }

    /// Whether a receiver lags so much that the publisher should wait; see [`Stalling::wait`].
    pub(crate) fn is_stalling(&self) -> bool {
        let worst = self.stage.stalling.as_ref();
        worst.is_some_and(Stalling::is_serious)
    }

    /// The services fed since the last call.
    pub(crate) fn take_fed(&mut self) -> impl Iterator<Item = Arc<dyn Service>> {
        self.fed.drain(..).map(|fed| fed.0)
    }
}

fn target_for(
    targets: &mut Vec<Target>,
    target_of: &mut HashTable<TargetId>,
    outbound: &Arc<Outbound>,
) -> TargetId {
    let hash = spread(outbound.id);
    let known = target_of.find(hash, |&at| targets[at as usize].outbound.id == outbound.id);
    if let Some(&at) = known {
        return at;
    }
    let at = targets.len() as TargetId;
    targets.push(Target {
        outbound: Arc::clone(outbound),
        staged: BytesMut::new(),
        sent: Amount::default(),
        reader_of: None,
        room: 0,
        kept: 0,
    });
    target_of.insert_unique(hash, at, |&known| {
        spread(targets[known as usize].outbound.id)
    });
    at
}

/// Ids count up from 1: spreads them over the hash's bits.
const fn spread(id: u64) -> u64 {
    id.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn feed(plan: &Plan, message: &Message<'_>, origin: &Origin, fed: &mut Vec<FedService>) -> usize {
    let inbound = Inbound {
        subject: message.subject,
        reply: message.reply,
        header_len: message.header_len,
        data: message.data,
        origin,
    };
    let mut receivers = 0;
    for service in &plan.services {
        if service.deliver(&inbound) {
            receivers += 1;
            if !fed.iter().any(|known| Arc::ptr_eq(&known.0, service)) {
                fed.push(FedService(Arc::clone(service)));
            }
        }
    }
    receivers
}

impl Stage {
    fn deliver(&mut self, plan: &Plan, message: &Message<'_>, reach: &Reach<'_>) -> usize {
        let mut receivers = self.deliver_plain(plan, message, reach.except);
        self.picked.clear();
        for queue in &plan.queues {
            if self.deliver_to_one(queue, message, reach.except) {
                receivers += 1;
            } else if reach.peers {
                self.pick_peer(queue);
            }
        }
        if reach.peers && (!plan.peers.is_empty() || !self.picked.is_empty()) {
            receivers += self.deliver_to_peers(plan, message, reach.account);
        }
        receivers
    }

    fn deliver_plain(&mut self, plan: &Plan, message: &Message<'_>, except: Option<u64>) -> usize {
        let mut receivers = 0;
        for hop in &plan.plain {
            receivers += usize::from(self.deliver_one(hop, message, except));
        }
        receivers
    }

    /// Starts at a random member and takes the first that can have it.
    fn deliver_to_one(
        &mut self,
        queue: &QueuePlan,
        message: &Message<'_>,
        except: Option<u64>,
    ) -> bool {
        let members = queue.local.len();
        if members == 0 {
            return false;
        }
        let start = self.rng.below(members);
        let (before, after) = queue.local.split_at(start);
        after
            .iter()
            .chain(before)
            .any(|hop| self.deliver_one(hop, message, except))
    }

    fn deliver_one(&mut self, hop: &Hop, message: &Message<'_>, except: Option<u64>) -> bool {
        let subscription = &*hop.subscription;
        let outbound = &*subscription.outbound;
        if outbound.is_closed() || except == Some(outbound.id) {
            return false;
        }
        // Only what consumers deliver is shown under another subject, and exports of other accounts.
        if message.shown.is_some()
            && subscription.is_guarded()
            && self.withholds(hop.target, message)
        {
            self.withheld = true;
            return false;
        }
        match subscription.admit() {
            Admit::Yes => {}
            Admit::Last => self.expired.push(Arc::clone(&hop.subscription)),
            Admit::No => return self.deliver_indirectly(hop, message),
        }
        self.write(hop.target, subscription, message, message.shown);
        true
    }

    /// Whether this is a consumer's delivery that the receiver may not read now, whatever it might when
    /// the consumer was made or asked.
    fn withholds(&mut self, target: TargetId, message: &Message<'_>) -> bool {
        let Some((names, subject)) = message.delivered() else {
            return false;
        };
        let target = &mut self.targets[target as usize];
        if target.reader_of.as_deref() == Some(names) {
            return false;
        }
        match target.outbound.reading(names, subject) {
            Reading::All => {
                target.reader_of = Some(names.into());
                false
            }
            Reading::This => false,
            Reading::Nothing => true,
        }
    }

    /// To a sink of the node, or to the subscription of another account that this one stands for.
    #[cold]
    fn deliver_indirectly(&mut self, hop: &Hop, message: &Message<'_>) -> bool {
        if hop.subscription.is_closed() {
            return false;
        }
        let (parent, back) = match hop.subscription.via() {
            None => return false,
            Some(Via::Sink(sink)) => return sink.take(message),
            Some(Via::Shadow { parent, back }) => (parent, back),
        };
        let Some(shown) = back.apply(message.shown.unwrap_or(message.subject)) else {
            return false;
        };
        if parent.is_checked() && parent.outbound.denies(&shown) {
            return false;
        }
        match parent.admit() {
            Admit::Yes => {}
            // Its own table is another one: the connection takes it out.
            Admit::Last => parent.outbound.expire(Arc::clone(parent)),
            Admit::No => return false,
        }
        self.write(hop.target, parent, message, Some(&shown));
        true
    }

    #[inline]
    fn write(
        &mut self,
        target: TargetId,
        subscription: &Subscription,
        message: &Message<'_>,
        shown: Option<&[u8]>,
    ) {
        let outbound = &*subscription.outbound;
        if let Some(reply) = message.reply
            && outbound.may_owe_answers()
        {
            outbound.asked(reply);
        }
        let subject = shown.unwrap_or(message.subject);
        let strip = message.header_len > 0 && !outbound.takes_headers();
        let (header_len, data) = if strip {
            (
                0,
                message.data.get(message.header_len..).unwrap_or_default(),
            )
        } else {
            (message.header_len, message.data)
        };
        let sent = &mut self.targets[target as usize].sent;
        sent.msgs += 1;
        sent.bytes += data.len() as u64;
        let sid = &subscription.sid;
        self.put(target, |out| {
            encoder::msg(out, subject, sid, message.reply, header_len, data);
        });
    }

    /// Chooses a peer for a queue without local members, by weight.
    fn pick_peer(&mut self, queue: &QueuePlan) {
        let open = |target: TargetId| !self.targets[target as usize].outbound.is_closed();
        let total: u64 = queue
            .remote
            .iter()
            .filter(|r| open(r.0))
            .map(|r| u64::from(r.1))
            .sum();
        if total == 0 {
            return;
        }
        let mut left = self.rng.next() % total;
        for &(target, weight) in &queue.remote {
            if !open(target) {
                continue;
            }
            if left < u64::from(weight) {
                self.picked.push((target, Arc::clone(&queue.name)));
                return;
            }
            left -= u64::from(weight);
        }
    }

    /// One copy for each peer, with the queues it serves. Plain interest and each queue count as one
    /// receiver.
    fn deliver_to_peers(
        &mut self,
        plan: &Plan,
        message: &Message<'_>,
        account: Option<&str>,
    ) -> usize {
        let picked = std::mem::take(&mut self.picked);
        let mut receivers = 0;
        for &target in &plan.peers {
            receivers += usize::from(self.deliver_to_peer(target, &picked, message, account));
        }
        for (at, (target, _)) in picked.iter().enumerate() {
            let sent = plan.peers.contains(target) || picked[..at].iter().any(|p| p.0 == *target);
            if !sent {
                receivers += usize::from(self.deliver_to_peer(*target, &picked, message, account));
            }
        }
        self.picked = picked;
        receivers
    }

    fn deliver_to_peer(
        &mut self,
        target: TargetId,
        picked: &[(TargetId, Arc<[u8]>)],
        message: &Message<'_>,
        account: Option<&str>,
    ) -> bool {
        if self.targets[target as usize].outbound.is_closed() {
            return false;
        }
        let outgoing = OutgoingMessage {
            subject: message.subject,
            shown: message.shown,
            reply: message.reply,
            header_len: message.header_len,
            data: message.data,
        };
        let queues = picked
            .iter()
            .filter(|pick| pick.0 == target)
            .map(|pick| &*pick.1);
        let is_wide = self.targets[target as usize].outbound.is_wide() == Some(true);
        // What may wait for a peer is looked at when it is handed over.
        self.open(target).room = usize::MAX;
        let written = self.put(target, |out| {
            route::in_account(out, account, |out| {
                route::message(out, &outgoing, queues, || is_wide)
            })
        });
        if written != Written::Whole {
            self.targets[target as usize].outbound.lose_message();
        }
        let sent = written != Written::Nothing;
        self.tally.route_out_msgs += u64::from(sent);
        sent
    }
}

impl std::fmt::Debug for FedService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FedService")
    }
}
