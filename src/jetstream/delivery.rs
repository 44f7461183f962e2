//! The delivery engine: on the leader, sends the messages of push consumers to whoever listens on
//! their deliver subjects.
//!
//! One task, a queue of consumers with something to do, bounded work per turn. Where a consumer
//! stands is the pure core's affair ([`super::pusher`]); this file owns when it is looked at. On
//! other nodes the table is empty. Progress reaches the replicated state in batches behind the
//! deliveries: a new leader may repeat some, never skip one.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use unibus_proto::jetstream::info::ConsumerInfo;
use unibus_raft::{Leadership, Replica};
use unibus_state::{Command, Consumer, State, Stream};

use super::core::Core;
use super::flow;
use super::pusher::{Pusher, Turn};

/// Consumers served between two looks at what else happened.
const PUSHERS_PER_ROUND: usize = 64;
/// Shortest time between two looks at who still listens.
const SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// A sweep may take this share of the time.
const SWEEP_SHARE: u32 = 20;
/// How often positions are put into the replicated state.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Positions proposed at once.
const PROGRESS_MAX: usize = 512;
/// Flow control replies that wait; more are dropped (the stall limit makes them good).
const FLOW_REPLIES_MAX: usize = 65_536;
/// Sleep when nothing is due.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// A consumer: its stream's and its own name.
type Key = (Arc<str>, Arc<str>);

/// What other tasks reach of the engine.
#[derive(Debug, Default)]
pub(super) struct Engine {
    /// Always locked before the state and before the broker's table, never after them.
    table: Mutex<Table>,
    /// Replies are taken on connections' tasks, which must never wait for a turn of the engine.
    flow_replies: Mutex<Vec<Bytes>>,
    wake: Notify,
}

/// The push consumers of all streams, while this node leads.
#[derive(Debug, Default)]
struct Table {
    streams: HashMap<Arc<str>, HashMap<Arc<str>, Pusher>>,
    /// Consumers to look at; each at most once (`Pusher::queued`).
    ready: VecDeque<Key>,
    /// When to look again, Unix nanoseconds. At most a few per consumer: see `Table::set_timer`.
    timers: BinaryHeap<Reverse<(u64, Key)>>,
    /// Where the next round of positions starts, so that none waits for ever behind busier ones.
    progress_from: usize,
}

impl Engine {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A client answered a flow control request.
    pub(super) fn flow_reply(&self, subject: &[u8]) {
        let mut replies = self.flow_replies.lock();
        if replies.len() < FLOW_REPLIES_MAX {
            replies.push(Bytes::copy_from_slice(subject));
        }
        drop(replies);
        self.wake.notify_one();
    }

    /// Adds what only the leader knows of a consumer.
    pub(super) fn add_live(&self, replica: &Replica, info: &mut ConsumerInfo) {
        let mut table = self.table.lock();
        let pusher = table
            .streams
            .get_mut(info.stream_name.as_str())
            .and_then(|consumers| consumers.get_mut(info.name.as_str()));
        if let Some(pusher) = pusher {
            replica.with_state(|state| pusher.add_live(state, info));
        }
    }
}

/// Runs until the task is aborted.
pub(super) async fn run(core: Arc<Core>) {
    let mut leadership = core.replica.leadership();
    loop {
        tokio::select! {
            leads = leadership.wait_for(|known| known.is_leader) => {
                if leads.is_err() {
                    return;
                }
            }
            // Nobody reads the news of a node that does not lead: they must not pile up.
            () = core.hooks.wake_delivery.notified() => {
                drop(core.hooks.take_news());
                continue;
            }
        }
        tracing::debug!("delivery starts");
        drop(core.hooks.take_news());
        {
            let mut table = core.engine.table.lock();
            core.replica.with_state(|state| table.adopt_all(state));
        }
        lead(&core, &mut leadership).await;
        *core.engine.table.lock() = Table::default();
        tracing::debug!("delivery ends");
    }
}

async fn lead(core: &Core, leadership: &mut watch::Receiver<Leadership>) {
    let mut interest = core.broker.interest_changed();
    let mut sweep = Sweep::new();
    let mut progress_at = Instant::now() + PROGRESS_INTERVAL;
    while leadership.borrow_and_update().is_leader {
        take_news(core);
        take_flow_replies(&core.engine);
        if sweep.is_due() {
            sweep.run(core);
        }
        if Instant::now() >= progress_at {
            propose_progress(core);
            progress_at = Instant::now() + PROGRESS_INTERVAL;
        }
        if round(core) {
            tokio::task::yield_now().await;
            continue;
        }
        let until = core
            .engine
            .table
            .lock()
            .sleep_until()
            .min(sweep.due())
            .min(progress_at);
        tokio::select! {
            () = core.hooks.wake_delivery.notified() => {}
            () = core.engine.wake.notified() => {}
            _ = leadership.changed() => {}
            changed = interest.changed(), if !sweep.asked => {
                if changed.is_err() {
                    return;
                }
                sweep.asked = true;
            }
            () = tokio::time::sleep_until(until.into()) => {}
        }
    }
}

/// Follows what happened to streams and consumers.
fn take_news(core: &Core) {
    let news = core.hooks.take_news();
    let mut table = core.engine.table.lock();
    if !news.reshaped.is_empty() || !news.consumers.is_empty() {
        let fresh = core.replica.with_state(|state| {
            let mut fresh = Vec::new();
            for stream in &news.reshaped {
                table.adopt(state, stream, &mut fresh);
            }
            for (stream, consumer) in &news.consumers {
                table.adopt_consumer(state, stream, consumer, &mut fresh);
            }
            fresh
        });
        // Whoever comes to listen after this look is told by the broker, and found by a sweep.
        for key in &fresh {
            table.look_for_interest(core, key);
        }
    }
    if !news.advanced.is_empty() {
        table.wake_streams(&news.advanced);
    }
}

fn take_flow_replies(engine: &Engine) {
    let replies = std::mem::take(&mut *engine.flow_replies.lock());
    if replies.is_empty() {
        return;
    }
    let mut table = engine.table.lock();
    for subject in replies {
        let Some((stream, consumer)) = flow::target(&subject) else {
            continue;
        };
        if let Some(key) = table.key_of(stream, consumer) {
            if let Some(pusher) = table.pusher(&key) {
                pusher.flow_reply(&subject);
            }
            table.queue(&key);
        }
    }
}

/// Serves some consumers. True: more are waiting.
fn round(core: &Core) -> bool {
    let now_ns = Core::now().0;
    core.engine.table.lock().fire_timers(now_ns);
    for _ in 0..PUSHERS_PER_ROUND {
        let mut table = core.engine.table.lock();
        let Some(key) = table.ready.pop_front() else {
            return false;
        };
        let Some(pusher) = table.pusher(&key) else {
            continue;
        };
        pusher.queued = false;
        match pusher.turn(core, now_ns) {
            Turn::More => table.queue(&key),
            Turn::Wait(Some(at_ns)) => table.set_timer(&key, at_ns),
            Turn::Wait(None) => {}
        }
    }
    !core.engine.table.lock().ready.is_empty()
}

/// Positions travel with everything else; losing one proposal only means repeating deliveries after
/// a change of leaders.
fn propose_progress(core: &Core) {
    let mut table = core.engine.table.lock();
    let start = std::mem::take(&mut table.progress_from);
    let mut moved = Vec::new();
    for after_start in [true, false] {
        let pushers = table
            .streams
            .values_mut()
            .flat_map(HashMap::values_mut)
            .enumerate();
        for (at, pusher) in pushers.filter(|(at, _)| (*at >= start) == after_start) {
            if moved.len() == PROGRESS_MAX {
                table.progress_from = at;
                break;
            }
            moved.extend(pusher.take_changes());
        }
        if moved.len() == PROGRESS_MAX {
            break;
        }
    }
    drop(table);
    for progress in moved {
        drop(core.ingest.call(&Command::ConsumerUpdate(progress)));
    }
}

/// Looks at who still listens, not more often than it is worth.
#[derive(Debug)]
struct Sweep {
    asked: bool,
    not_before: Instant,
}

impl Sweep {
    fn new() -> Self {
        Self {
            asked: true,
            not_before: Instant::now(),
        }
    }

    fn due(&self) -> Instant {
        if self.asked {
            self.not_before
        } else {
            Instant::now() + SLEEP_MAX
        }
    }

    fn is_due(&self) -> bool {
        self.asked && Instant::now() >= self.not_before
    }

    fn run(&mut self, core: &Core) {
        let start = Instant::now();
        self.asked = false;
        let mut table = core.engine.table.lock();
        let mut woken = Vec::new();
        for (stream, consumers) in &mut table.streams {
            for (name, pusher) in consumers {
                if pusher.look_for_interest(&core.broker, start) {
                    woken.push((Arc::clone(stream), Arc::clone(name)));
                }
            }
        }
        for key in &woken {
            table.queue(key);
        }
        let pause = (start.elapsed() * SWEEP_SHARE).max(SWEEP_INTERVAL_MIN);
        self.not_before = Instant::now() + pause;
    }
}

impl Table {
    fn adopt_all(&mut self, state: &State) {
        *self = Self::default();
        let names: Vec<Arc<str>> = state.streams().map(|s| Arc::clone(s.name())).collect();
        for name in names {
            // The first sweep looks at all of them.
            self.adopt(state, &name, &mut Vec::new());
        }
    }

    /// Makes the consumers of one stream those of the state; tells which are new.
    fn adopt(&mut self, state: &State, name: &str, fresh: &mut Vec<Key>) {
        let Some(stream) = state.stream(name) else {
            self.streams.remove(name);
            return;
        };
        if let Some(known) = self.streams.get_mut(name) {
            known.retain(|consumer, _| stream.consumer(consumer).is_some());
        }
        for consumer in stream.consumers() {
            fresh.extend(self.put(stream, consumer));
        }
        self.forget_empty(name);
    }

    /// Makes one consumer that of the state; tells if it is new.
    fn adopt_consumer(&mut self, state: &State, stream: &str, name: &str, fresh: &mut Vec<Key>) {
        match state
            .stream(stream)
            .and_then(|held| Some((held, held.consumer(name)?)))
        {
            Some((held, consumer)) => fresh.extend(self.put(held, consumer)),
            None => {
                if let Some(known) = self.streams.get_mut(stream) {
                    known.remove(name);
                }
                self.forget_empty(stream);
            }
        }
    }

    fn put(&mut self, stream: &Stream, consumer: &Consumer) -> Option<Key> {
        if !consumer.config().is_push() {
            return None;
        }
        let known = self.streams.entry(Arc::clone(stream.name())).or_default();
        match known.get_mut(consumer.name()) {
            Some(pusher) if pusher.is_of(stream, consumer) => pusher.reconfigure(stream, consumer),
            _ => {
                known.insert(Arc::clone(consumer.name()), Pusher::new(stream, consumer));
            }
        }
        // A new configuration may deliver elsewhere: look for interest either way.
        Some((Arc::clone(stream.name()), Arc::clone(consumer.name())))
    }

    fn look_for_interest(&mut self, core: &Core, key: &Key) {
        let now = Instant::now();
        if self
            .pusher(key)
            .is_some_and(|pusher| pusher.look_for_interest(&core.broker, now))
        {
            self.queue(key);
        }
    }

    fn forget_empty(&mut self, stream: &str) {
        if self.streams.get(stream).is_some_and(HashMap::is_empty) {
            self.streams.remove(stream);
        }
    }

    fn key_of(&self, stream: &str, consumer: &str) -> Option<Key> {
        let (stream, consumers) = self.streams.get_key_value(stream)?;
        let (consumer, _) = consumers.get_key_value(consumer)?;
        Some((Arc::clone(stream), Arc::clone(consumer)))
    }

    fn pusher(&mut self, key: &Key) -> Option<&mut Pusher> {
        self.streams.get_mut(&key.0)?.get_mut(&key.1)
    }

    fn queue(&mut self, key: &Key) {
        if let Some(pusher) = self.pusher(key)
            && !pusher.queued
        {
            pusher.queued = true;
            self.ready.push_back(key.clone());
        }
    }

    fn wake_streams(&mut self, names: &HashSet<String>) {
        let keys: Vec<Key> = names
            .iter()
            .filter_map(|name| self.streams.get_key_value(name.as_str()))
            .flat_map(|(stream, consumers)| {
                consumers
                    .iter()
                    .filter(|(_, pusher)| pusher.is_active())
                    .map(|(consumer, _)| (Arc::clone(stream), Arc::clone(consumer)))
            })
            .collect();
        for key in &keys {
            self.queue(key);
        }
    }

    /// Only an earlier time than the one that stands is put on the heap: a busy consumer does not
    /// fill it with times that no longer matter.
    fn set_timer(&mut self, key: &Key, at_ns: u64) {
        let Some(pusher) = self.pusher(key) else {
            return;
        };
        if pusher.timer_ns.is_none_or(|standing| at_ns < standing) {
            pusher.timer_ns = Some(at_ns);
            self.timers.push(Reverse((at_ns, key.clone())));
        }
    }

    fn fire_timers(&mut self, now_ns: u64) {
        while let Some(Reverse((at_ns, _))) = self.timers.peek()
            && *at_ns <= now_ns
        {
            let Some(Reverse((at_ns, key))) = self.timers.pop() else {
                return;
            };
            if let Some(pusher) = self.pusher(&key) {
                if pusher.timer_ns == Some(at_ns) {
                    pusher.timer_ns = None;
                }
                self.queue(&key);
            }
        }
    }

    fn sleep_until(&self) -> Instant {
        let wait = match self.timers.peek() {
            Some(Reverse((at_ns, _))) => {
                Duration::from_nanos(at_ns.saturating_sub(Core::now().0)).min(SLEEP_MAX)
            }
            None => SLEEP_MAX,
        };
        Instant::now() + wait
    }
}
