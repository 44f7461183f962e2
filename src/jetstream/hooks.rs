//! What the replica's observer tells JetStream: which subjects to capture on this node, which
//! streams and consumers exist, and what the delivery engine has to look at.
//!
//! Made before the replica and the broker; bound to them by [`Hooks::attach`]. `applied` runs inside
//! apply: it never publishes, never waits for a connection, and never reads the state through the
//! replica. Connections' tasks look only at the catalogue here, never at the state: they would wait
//! for apply while apply waits for the subscription table.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use unibus_broker::{Broker, Service, ServiceId};
use unibus_proto::jetstream::config::StreamConfig;
use unibus_proto::subject::{collide, matches};
use unibus_state::{Effect, State, Stream};

use super::republish::Outbox;

/// Where advisories and metrics are published.
const EVENTS: &[u8] = b"$JS.EVENT.>";

/// What connections' tasks need to know of a stream before a request is taken.
#[derive(Debug, Default)]
struct Entry {
    allow_direct: bool,
    /// It may store advisories or metrics.
    stores_events: bool,
    /// Consumer name → deliver subject, empty without one.
    consumers: HashMap<String, Arc<str>>,
}

/// Changes that the delivery engine has not seen yet. Sets of names:
/// bounded by the streams and consumers there are.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Streams that have new messages (or lost some).
    pub(super) advanced: HashSet<String>,
    /// Streams that came, went or changed.
    pub(super) reshaped: HashSet<String>,
    /// (stream, consumer): consumers that came, went or changed.
    pub(super) consumers: HashSet<(String, String)>,
}

/// The subjects this node captures.
struct Captures {
    broker: Broker,
    service: Arc<dyn Service>,
    /// Stream → its filters as registered with the broker.
    filters: Mutex<HashMap<String, HashMap<String, ServiceId>>>,
}

/// Shared between the observer, the services and the delivery engine.
#[derive(Default)]
pub(super) struct Hooks {
    captures: OnceLock<Captures>,
    catalog: RwLock<HashMap<String, Entry>>,
    /// Some stream may store advisories.
    stores_events: AtomicBool,
    news: Mutex<News>,
    pub(super) wake_delivery: Notify,
    pub(super) wake_clock: Notify,
    /// Streams that copies may be made of have news, or copies were configured.
    pub(super) wake_copies: Notify,
    /// A stream that takes schedules has news.
    pub(super) wake_schedules: Notify,
    /// Some stream takes schedules.
    schedules: AtomicBool,
    /// Some stream is a mirror or has sources.
    copies: AtomicBool,
    /// Streams came, went or changed since copies were last compared with the consumers made for them.
    shape: AtomicBool,
    /// Some stream takes atomic batches.
    atomic: AtomicBool,
    /// (filter, stream) of those that do.
    atomic_filters: RwLock<Vec<(String, Arc<str>)>>,
    /// (filter, stream) of those that take fast batches.
    fast_filters: RwLock<Vec<(String, Arc<str>)>>,
    pub(super) republish: Outbox,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks")
            .field("streams", &self.catalog.read().len())
            .finish_non_exhaustive()
    }
}

impl Hooks {
    /// From here on stream subjects are captured by `service`. The caller follows with
    /// [`Hooks::resync`] under the state's read lock. Only the first call counts.
    pub(super) fn attach(&self, broker: Broker, service: Arc<dyn Service>) {
        let captures = Captures {
            broker,
            service,
            filters: Mutex::default(),
        };
        if self.captures.set(captures).is_err() {
            tracing::error!("JetStream is attached twice");
        }
    }

    /// Stops capturing.
    pub(super) fn detach(&self) {
        if let Some(captures) = self.captures.get() {
            captures.clear();
        }
    }

    /// Makes everything match the state: at start and after a snapshot was installed.
    pub(super) fn resync(&self, state: &State) {
        self.note_copies(state);
        let known: Vec<String> = self.catalog.read().keys().cloned().collect();
        let present = state.streams().map(|stream| stream.config().name.clone());
        let names: HashSet<String> = known.into_iter().chain(present).collect();
        self.refresh(state, &names);
    }

    /// Follows what entries changed.
    pub(super) fn applied(&self, state: &State, effects: &[Effect]) {
        let mut reshaped = HashSet::new();
        let mut consumers = HashSet::new();
        let (mut advanced, mut moved) = (false, false);
        for effect in effects {
            match effect {
                Effect::StreamCreated { name }
                | Effect::StreamUpdated { name }
                | Effect::StreamRemoved { name } => {
                    reshaped.insert(name.to_string());
                }
                Effect::ConsumerCreated { stream, name }
                | Effect::ConsumerUpdated { stream, name }
                | Effect::ConsumerRemoved { stream, name } => {
                    consumers.insert((stream.to_string(), name.to_string()));
                }
                Effect::StreamAdvanced { name } => {
                    moved = true;
                    advanced |= self.note_advanced(name);
                }
                Effect::Republish { .. } => self.republish.note(effect),
                Effect::ControlChanged { .. } => {}
            }
        }
        let copies = self.copies.load(Ordering::Relaxed);
        let reorganized = !reshaped.is_empty() || !consumers.is_empty();
        if !reshaped.is_empty() {
            self.note_copies(state);
            self.note_shape();
            self.refresh(state, &reshaped);
        }
        if !consumers.is_empty() {
            self.refresh_consumers(state, consumers);
        }
        if advanced {
            self.wake_delivery.notify_one();
        }
        // The last copy may just have ended.
        let copies = copies || self.copies.load(Ordering::Relaxed);
        if (moved || reorganized) && copies {
            self.wake_copies.notify_one();
        }
        if moved && self.schedules.load(Ordering::Relaxed) {
            self.wake_schedules.notify_one();
        }
        self.wake_clock.notify_one();
    }

    /// Whether a stream answers direct gets here. Unknown streams do not.
    pub(super) fn allows_direct(&self, stream: &str) -> bool {
        self.catalog
            .read()
            .get(stream)
            .is_some_and(|entry| entry.allow_direct)
    }

    /// Whether a stream may store advisories and metrics.
    pub(super) fn stores_events(&self) -> bool {
        self.stores_events.load(Ordering::Relaxed)
    }

    /// Whether a consumer exists and pushes.
    pub(super) fn consumer_pushes(&self, stream: &str, consumer: &str) -> Option<bool> {
        let catalog = self.catalog.read();
        let deliver = catalog.get(stream)?.consumers.get(consumer)?;
        Some(!deliver.is_empty())
    }

    /// Whether a stream is there that may have consumers which this node has not heard of yet.
    pub(super) fn has_stream(&self, stream: &str) -> bool {
        self.catalog.read().contains_key(stream)
    }

    /// Whether the delivery engine has something to look at.
    pub(super) fn has_news(&self) -> bool {
        let news = self.news.lock();
        !(news.reshaped.is_empty() && news.consumers.is_empty())
    }

    /// Where a consumer delivers, empty when it is asked for messages. `None`: no such consumer.
    pub(super) fn deliver_subject(&self, stream: &str, consumer: &str) -> Option<Arc<str>> {
        let catalog = self.catalog.read();
        catalog.get(stream)?.consumers.get(consumer).cloned()
    }

    pub(super) fn take_news(&self) -> News {
        std::mem::take(&mut *self.news.lock())
    }

    fn note_copies(&self, state: &State) {
        let copies = state
            .streams()
            .any(|stream| stream.origins().next().is_some());
        self.copies.store(copies, Ordering::Relaxed);
        let schedules = state
            .streams()
            .any(|stream| stream.config().allow_msg_schedules);
        self.schedules.store(schedules, Ordering::Relaxed);
        let filters = filters_where(state, |config| config.allow_atomic);
        self.atomic.store(!filters.is_empty(), Ordering::Relaxed);
        *self.atomic_filters.write() = filters;
        *self.fast_filters.write() = filters_where(state, |config| config.allow_batched);
    }

    /// Copies are to be compared with the consumers made for them.
    pub(super) fn note_shape(&self) {
        self.shape.store(true, Ordering::Relaxed);
    }

    /// Whether that is to be done, once.
    pub(super) fn take_shape(&self) -> bool {
        self.shape.swap(false, Ordering::Relaxed)
    }

    /// Whether any stream takes atomic batches.
    pub(super) fn has_atomic(&self) -> bool {
        self.atomic.load(Ordering::Relaxed)
    }

    /// The stream of a subject, if it takes atomic batches.
    pub(super) fn atomic_stream(&self, subject: &[u8]) -> Option<Arc<str>> {
        stream_of(&self.atomic_filters.read(), subject)
    }

    /// The stream of a subject, if it takes fast batches.
    pub(super) fn fast_stream(&self, subject: &[u8]) -> Option<Arc<str>> {
        stream_of(&self.fast_filters.read(), subject)
    }

    fn refresh_consumers(&self, state: &State, names: HashSet<(String, String)>) {
        {
            let mut catalog = self.catalog.write();
            for (stream, name) in &names {
                let Some(entry) = catalog.get_mut(stream) else {
                    continue;
                };
                match state.stream(stream).and_then(|held| held.consumer(name)) {
                    Some(consumer) => {
                        let deliver = consumer.config().deliver_subject.as_str().into();
                        entry.consumers.insert(name.clone(), deliver);
                    }
                    None => {
                        entry.consumers.remove(name);
                    }
                }
            }
        }
        self.news.lock().consumers.extend(names);
        self.wake_delivery.notify_one();
    }

    /// Whether this is news.
    fn note_advanced(&self, name: &str) -> bool {
        // Streams without consumers have nothing to deliver.
        if self
            .catalog
            .read()
            .get(name)
            .is_none_or(|entry| entry.consumers.is_empty())
        {
            return false;
        }
        let mut news = self.news.lock();
        !news.advanced.contains(name) && news.advanced.insert(name.to_owned())
    }

    fn refresh(&self, state: &State, names: &HashSet<String>) {
        {
            let mut catalog = self.catalog.write();
            for name in names {
                match state.stream(name) {
                    Some(stream) => {
                        catalog.insert(name.clone(), Entry::of(stream));
                    }
                    None => {
                        catalog.remove(name);
                    }
                }
            }
            let stores = catalog.values().any(|entry| entry.stores_events);
            self.stores_events.store(stores, Ordering::Relaxed);
        }
        self.news.lock().reshaped.extend(names.iter().cloned());
        if let Some(captures) = self.captures.get() {
            captures.refresh(state, names);
        }
        self.wake_delivery.notify_one();
    }
}

impl Entry {
    fn of(stream: &Stream) -> Self {
        let consumers = stream
            .consumers()
            .map(|consumer| {
                let deliver = consumer.config().deliver_subject.as_str().into();
                (consumer.name().to_string(), deliver)
            })
            .collect();
        Self {
            allow_direct: stream.config().allow_direct,
            stores_events: stream
                .config()
                .subjects
                .iter()
                .any(|subject| collide(subject.as_bytes(), EVENTS)),
            consumers,
        }
    }
}

impl Captures {
    /// Registers and removes services so that exactly the streams' subjects are captured. What comes
    /// is added before what goes is removed, so that no subject is left alone in between; the broker
    /// hands a message to one service only once, however many of its filters match.
    fn refresh(&self, state: &State, names: &HashSet<String>) {
        let mut held = self.filters.lock();
        for name in names {
            for filter in subjects_of(state, name) {
                let filters = held.entry(name.clone()).or_default();
                if !filters.contains_key(filter) {
                    let id = self.broker.add_service(filter, Arc::clone(&self.service));
                    filters.insert(filter.clone(), id);
                }
            }
        }
        for name in names {
            let wanted = subjects_of(state, name);
            let Some(filters) = held.get_mut(name) else {
                continue;
            };
            filters.retain(|filter, id| {
                let keep = wanted.contains(filter);
                if !keep {
                    self.broker.remove_service(*id);
                }
                keep
            });
            if wanted.is_empty() {
                held.remove(name);
            }
        }
    }

    fn clear(&self) {
        for (_, filters) in self.filters.lock().drain() {
            for id in filters.into_values() {
                self.broker.remove_service(id);
            }
        }
    }
}

/// (filter, stream) of the streams whose configuration is `wanted`.
fn filters_where(state: &State, wanted: impl Fn(&StreamConfig) -> bool) -> Vec<(String, Arc<str>)> {
    let streams = state.streams().filter(|stream| wanted(stream.config()));
    streams
        .flat_map(|stream| {
            let filters = stream.config().subjects.iter().cloned();
            filters.map(|filter| (filter, Arc::clone(stream.name())))
        })
        .collect()
}

fn stream_of(filters: &[(String, Arc<str>)], subject: &[u8]) -> Option<Arc<str>> {
    let mut filters = filters.iter();
    filters
        .find(|(filter, _)| matches(filter.as_bytes(), subject))
        .map(|(_, stream)| Arc::clone(stream))
}

fn subjects_of<'a>(state: &'a State, stream: &str) -> &'a [String] {
    state
        .stream(stream)
        .map_or(&[], |stream| stream.config().subjects.as_slice())
}
