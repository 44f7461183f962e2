//! The consumers of all streams while this node leads: who has something to do now, who at a certain
//! time, and who when a stream moves.
//!
//! A consumer that waits for nothing is one entry in a map and is never looked at. What a consumer does
//! in its turn is [`super::runner`]'s affair.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use unibus_state::{Consumer, State, Stream};

use super::runner::Runner;

/// A consumer: its stream's and its own name.
pub(super) type Key = (Arc<str>, Arc<str>);

/// The consumers of one stream.
#[derive(Debug, Default)]
struct OfStream {
    runners: HashMap<Arc<str>, Runner>,
    /// Those that wait for the stream to move.
    hungry: Vec<Arc<str>>,
}

/// The consumers of all streams.
#[derive(Debug, Default)]
pub(super) struct Table {
    streams: HashMap<Arc<str>, OfStream>,
    /// Consumers to look at; each at most once (`Runner::queued`).
    ready: VecDeque<Key>,
    /// When to look again, Unix nanoseconds. At most a few per consumer: see `Table::set_timer`.
    timers: BinaryHeap<Reverse<(u64, Key)>>,
    /// Consumers with changes to propose soon; each at most once (`Runner::dirty`).
    dirty: Vec<Key>,
    /// The same, of which only positions change.
    leisurely: Vec<Key>,
}

impl Table {
    /// Makes everything that of the state.
    pub(super) fn adopt_all(&mut self, state: &State, now_ns: u64) {
        *self = Self::default();
        let names: Vec<Arc<str>> = state.streams().map(|s| Arc::clone(s.name())).collect();
        for name in names {
            self.adopt(state, &name, now_ns, &mut Vec::new());
        }
    }

    /// Makes the consumers of one stream those of the state. `fresh` gets those that are new or
    /// changed; those that are gone come back.
    pub(super) fn adopt(
        &mut self,
        state: &State,
        name: &str,
        now_ns: u64,
        fresh: &mut Vec<Key>,
    ) -> Vec<Runner> {
        let Some(stream) = state.stream(name) else {
            let gone = self.streams.remove(name);
            return gone.map_or(Vec::new(), |gone| gone.runners.into_values().collect());
        };
        let mut gone = Vec::new();
        if let Some(known) = self.streams.get_mut(name) {
            let left = known
                .runners
                .extract_if(|consumer, _| stream.consumer(consumer).is_none());
            gone.extend(left.map(|(_, runner)| runner));
        }
        for consumer in stream.consumers() {
            gone.extend(self.put(stream, consumer, now_ns));
            fresh.push((Arc::clone(stream.name()), Arc::clone(consumer.name())));
        }
        self.forget_empty(name);
        gone
    }

    /// Makes one consumer that of the state; the one that is gone or replaced comes back.
    pub(super) fn adopt_consumer(
        &mut self,
        state: &State,
        (stream, name): (&str, &str),
        now_ns: u64,
        fresh: &mut Vec<Key>,
    ) -> Option<Runner> {
        let found = state
            .stream(stream)
            .and_then(|held| Some((held, held.consumer(name)?)));
        if let Some((held, consumer)) = found {
            if let Some(runner) = self.runner_of(stream, name)
                && runner.is_of(held, consumer)
                && runner.is_configured_as(consumer)
            {
                // Something else than its configuration was changed: its position.
                runner.start_over(state, now_ns);
            }
            let gone = self.put(held, consumer, now_ns);
            fresh.push((Arc::clone(held.name()), Arc::clone(consumer.name())));
            return gone;
        }
        let gone = self
            .streams
            .get_mut(stream)
            .and_then(|known| known.runners.remove(name));
        self.forget_empty(stream);
        gone
    }

    fn put(&mut self, stream: &Stream, consumer: &Consumer, now_ns: u64) -> Option<Runner> {
        let known = self.streams.entry(Arc::clone(stream.name())).or_default();
        match known.runners.get_mut(consumer.name()) {
            Some(runner) if runner.is_of(stream, consumer) => {
                runner.reconfigure(stream, consumer);
                None
            }
            _ => {
                let runner = Runner::new(stream, consumer, now_ns);
                known.runners.insert(Arc::clone(consumer.name()), runner)
            }
        }
    }

    fn forget_empty(&mut self, stream: &str) {
        if self
            .streams
            .get(stream)
            .is_some_and(|known| known.runners.is_empty())
        {
            self.streams.remove(stream);
        }
    }

    pub(super) fn key_of(&self, stream: &str, consumer: &str) -> Option<Key> {
        let (stream, known) = self.streams.get_key_value(stream)?;
        let (consumer, _) = known.runners.get_key_value(consumer)?;
        Some((Arc::clone(stream), Arc::clone(consumer)))
    }

    fn runner_of(&mut self, stream: &str, consumer: &str) -> Option<&mut Runner> {
        self.streams.get_mut(stream)?.runners.get_mut(consumer)
    }

    pub(super) fn runner(&mut self, key: &Key) -> Option<&mut Runner> {
        self.streams.get_mut(&key.0)?.runners.get_mut(&key.1)
    }

    /// All consumers.
    pub(super) fn runners(&mut self) -> impl Iterator<Item = (Key, &mut Runner)> {
        self.streams.iter_mut().flat_map(|(stream, known)| {
            known
                .runners
                .iter_mut()
                .map(|(name, runner)| ((Arc::clone(stream), Arc::clone(name)), runner))
        })
    }

    /// Gives a consumer a turn.
    pub(super) fn queue(&mut self, key: &Key) {
        if let Some(runner) = self.runner(key)
            && !runner.queued
        {
            runner.queued = true;
            self.ready.push_back(key.clone());
        }
    }

    /// The consumer whose turn it is.
    pub(super) fn next_ready(&mut self) -> Option<Key> {
        loop {
            let key = self.ready.pop_front()?;
            if let Some(runner) = self.runner(&key) {
                runner.queued = false;
                return Some(key);
            }
        }
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The consumer gets a turn when its stream moves.
    pub(super) fn set_hungry(&mut self, key: &Key) {
        if let Some(known) = self.streams.get_mut(&key.0)
            && let Some(runner) = known.runners.get_mut(&key.1)
            && !runner.hungry
        {
            runner.hungry = true;
            known.hungry.push(Arc::clone(&key.1));
        }
    }

    /// These streams moved.
    pub(super) fn wake_streams(&mut self, names: &HashSet<String>) {
        for name in names {
            let Some((stream, _)) = self.streams.get_key_value(name.as_str()) else {
                continue;
            };
            let stream = Arc::clone(stream);
            let hungry = self
                .streams
                .get_mut(&stream)
                .map(|known| std::mem::take(&mut known.hungry));
            for consumer in hungry.unwrap_or_default() {
                let key = (Arc::clone(&stream), consumer);
                if let Some(runner) = self.runner(&key) {
                    runner.hungry = false;
                }
                self.queue(&key);
            }
        }
    }

    /// Notes whether a consumer has something to propose.
    pub(super) fn set_dirty(&mut self, key: &Key) {
        let Some(runner) = self.runner(key) else {
            return;
        };
        if runner.dirty || !runner.has_changes() {
            return;
        }
        runner.dirty = true;
        if runner.is_leisurely() {
            self.leisurely.push(key.clone());
        } else {
            self.dirty.push(key.clone());
        }
    }

    pub(super) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Takes up to `max` consumers that have something to propose soon, those that wait longest first.
    pub(super) fn take_dirty(&mut self, max: usize) -> Vec<Key> {
        let count = self.dirty.len().min(max);
        self.dirty.drain(..count).collect()
    }

    /// Takes up to `max` consumers whose positions changed.
    pub(super) fn take_leisurely(&mut self, max: usize) -> Vec<Key> {
        let count = self.leisurely.len().min(max);
        self.leisurely.drain(..count).collect()
    }

    /// Only an earlier time than the one that stands is put on the heap: a busy consumer does not
    /// fill it with times that no longer matter.
    pub(super) fn set_timer(&mut self, key: &Key, at_ns: u64) {
        let Some(runner) = self.runner(key) else {
            return;
        };
        if runner.timer_ns.is_none_or(|standing| at_ns < standing) {
            runner.timer_ns = Some(at_ns);
            self.timers.push(Reverse((at_ns, key.clone())));
        }
    }

    /// Gives a turn to those whose time has come.
    pub(super) fn fire_timers(&mut self, now_ns: u64) {
        while let Some(Reverse((at_ns, _))) = self.timers.peek()
            && *at_ns <= now_ns
        {
            let Some(Reverse((at_ns, key))) = self.timers.pop() else {
                return;
            };
            if let Some(runner) = self.runner(&key) {
                if runner.timer_ns == Some(at_ns) {
                    runner.timer_ns = None;
                }
                self.queue(&key);
            }
        }
    }

    /// The next time somebody's time comes.
    pub(super) fn next_timer(&self) -> Option<u64> {
        self.timers.peek().map(|Reverse((at_ns, _))| *at_ns)
    }
}
