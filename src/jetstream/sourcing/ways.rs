//! Which copies are made through a consumer of their origin (ADR-60), and what has to be done for that:
//! the consumer made, taken over from where it has acknowledged, acknowledged for what is copied, and
//! removed with the copy. On the leader, for one leadership.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use unibus_proto::jetstream::api::ConsumerAction;
use unibus_proto::jetstream::config::Retention;
use unibus_proto::jetstream::source::StreamSource;
use unibus_state::command::{ConsumerCreate, ConsumerDelete, ConsumerReset};
use unibus_state::{
    Command, CopyConsumer, CopyTrouble, Forsaken, Outcome, State, Stream, StreamUid,
};

use super::id_of;
use super::sinks::Sink;
use crate::jetstream::core::Core;
use crate::jetstream::table::Key;

/// Pause after a consumer could not be made or taken over.
const REST: Duration = Duration::from_secs(1);
/// Consumers that are made, taken over or removed at once.
const CHORES_AT_ONCE: usize = 32;

/// A copy: its stream, and which of its origins.
pub(super) type CopyId = (Arc<str>, String);

/// A consumer that delivers to a copy.
#[derive(Debug)]
struct Bound {
    key: Key,
    /// The incarnations of its stream and its own.
    born: (StreamUid, u64),
    sink: Arc<Sink>,
}

/// Something to do before a copy can go on, or after its end.
#[derive(Debug)]
enum Chore {
    Make(CopyId, Command),
    /// The consumer begins again at its ack floor.
    TakeOver(CopyId, Command),
    Remove(Command),
}

/// What there is to do, found while the state is read.
#[derive(Debug, Default)]
struct Plan {
    chores: Vec<Chore>,
    /// Copies whose consumers are there and deliver to nobody.
    to_bind: Vec<(CopyId, Key, (StreamUid, u64))>,
    /// Copies whose consumers are gone or others.
    to_unbind: Vec<CopyId>,
    /// What is in the way of a copy.
    troubles: Vec<(CopyId, String)>,
    /// All copies through consumers.
    wanted: HashSet<CopyId>,
}

/// How a copy is made.
pub(super) enum Way {
    /// From the origin's messages.
    Read,
    /// From what a consumer delivers.
    Through(Arc<Sink>),
    /// Not before something is done.
    Wait,
}

/// The copies through consumers, of one leadership.
#[derive(Debug)]
pub(super) struct Ways<'a> {
    core: &'a Core,
    bound: HashMap<CopyId, Bound>,
    /// Copies that are not tried again before this time.
    resting: HashMap<CopyId, Instant>,
    /// What is in a copy's way, as it was told last.
    told: HashMap<CopyId, String>,
    /// Consumers can be made.
    can_make: bool,
}

impl<'a> Ways<'a> {
    pub(super) fn new(core: &'a Core) -> Self {
        Self {
            core,
            bound: HashMap::new(),
            resting: HashMap::new(),
            told: HashMap::new(),
            can_make: false,
        }
    }

    /// Makes and takes over consumers, and removes those that no copy needs any more: `removals` says
    /// whether to look for these, among all there are.
    pub(super) async fn prepare(&mut self, removals: bool) {
        self.can_make = self.core.knows_flow_acks();
        // The engine's table is locked before the state, so nothing is bound or let go in here.
        let mut plan = self.core.replica.with_state(|state| {
            let mut plan = self.plan(state);
            if removals {
                let forsaken = state.forsaken_copy_consumers();
                plan.chores.extend(forsaken.into_iter().map(remove));
            }
            plan
        });
        for id in &plan.to_unbind {
            self.unbind(id);
        }
        for (id, why) in plan.troubles {
            self.tell(&id, &why);
        }
        for (id, key, born) in plan.to_bind {
            plan.chores.extend(self.bind(id, key, born));
        }
        self.resting.retain(|id, _| plan.wanted.contains(id));
        self.told.retain(|id, _| plan.wanted.contains(id));
        self.perform(plan.chores).await;
    }

    /// How the copy of `source` into `stream` is made.
    pub(super) fn of(&self, stream: &Stream, source: &StreamSource, origin: &Stream) -> Way {
        if source.consumer.is_none() && origin.config().retention == Retention::Limits {
            return Way::Read;
        }
        if let Some(bound) = self.bound.get(&id_of(stream, source)) {
            let is_of = bound.is_of(origin) && !stream.mirrors_another(source, origin);
            return if is_of {
                Way::Through(Arc::clone(&bound.sink))
            } else {
                Way::Wait
            };
        }
        // Nodes of an older version, or nobody knows: what is read is copied, as these nodes do it.
        let through = stream.copy_consumer(source, origin);
        let made = through.is_some_and(|t| t.made && origin.consumer(&t.name).is_none());
        if made && !self.can_make {
            Way::Read
        } else {
            Way::Wait
        }
    }

    /// Acknowledges what is copied. How far that is says the replicated state: a copy that was applied is
    /// stored on a majority. `all`: also what was acknowledged before, in case that was lost.
    pub(super) fn settle(&self, all: bool) {
        if self.bound.is_empty() {
            return;
        }
        let copied: Vec<(&Bound, u64)> = self.core.replica.with_state(|state| {
            let copies = state.streams().flat_map(|stream| {
                let origins = stream.origins();
                origins.map(move |source| (stream, source))
            });
            let copied = copies.filter_map(|(stream, source)| {
                let bound = self.bound.get(&id_of(stream, source))?;
                let origin = state.stream(&source.name)?;
                let is_of = bound.is_of(origin) && !stream.mirrors_another(source, origin);
                is_of.then(|| (bound, stream.copy_from(source, origin).after))
            });
            copied.collect()
        });
        for (bound, upto) in copied {
            if bound.sink.forget(upto) || all {
                self.core.engine.taken(&bound.key, upto);
            }
        }
    }

    /// Says once what is in a copy's way.
    pub(super) fn tell(&mut self, id: &CopyId, why: &str) {
        if self.told.get(id).is_none_or(|told| told != why) {
            let (stream, origin) = id;
            tracing::warn!(%stream, %origin, why, "a mirror or source waits");
            self.told.insert(id.clone(), why.to_owned());
        }
    }

    fn plan(&self, state: &State) -> Plan {
        let mut plan = Plan::default();
        for stream in state.streams() {
            for source in stream.origins() {
                let Some(origin) = state.stream(&source.name) else {
                    continue;
                };
                if let Some(through) = stream.copy_consumer(source, origin) {
                    let id = id_of(stream, source);
                    plan.wanted.insert(id.clone());
                    let trouble = state.copy_trouble(stream, source);
                    self.plan_one(&mut plan, id, (stream, source, origin), (through, trouble));
                }
            }
        }
        let ended = self.bound.keys().filter(|id| !plan.wanted.contains(*id));
        plan.to_unbind.extend(ended.cloned());
        plan
    }

    fn plan_one(
        &self,
        plan: &mut Plan,
        id: CopyId,
        (stream, source, origin): (&Stream, &StreamSource, &Stream),
        (through, trouble): (CopyConsumer, Option<CopyTrouble>),
    ) {
        let rests = self.resting.get(&id);
        let rests = rests.is_some_and(|until| *until > Instant::now());
        let consumer = origin.consumer(&through.name);
        if let Some(bound) = self.bound.get(&id) {
            if !bound.is_of(origin) {
                plan.to_unbind.push(id);
            } else if bound.sink.is_torn() && !rests {
                plan.chores.push(take_over(id, &bound.key));
            }
            return;
        }
        if rests {
            return;
        }
        if let Some(trouble) = trouble {
            return plan.troubles.push((id, trouble.to_string()));
        }
        let Some(consumer) = consumer else {
            if self.can_make {
                let config = stream.copy_consumer_config(source, origin, through);
                let create = Command::ConsumerCreate(ConsumerCreate {
                    stream: origin.name().to_string(),
                    config,
                    action: ConsumerAction::Create,
                    generated_name: String::new(),
                    privileged: true,
                });
                plan.chores.push(Chore::Make(id, create));
            }
            return;
        };
        let key = (Arc::clone(origin.name()), Arc::clone(consumer.name()));
        plan.to_bind
            .push((id, key, (origin.uid(), consumer.created_ns())));
    }

    /// Opens the sink of a copy. It takes nothing before the consumer has begun again, which is to do.
    fn bind(&mut self, id: CopyId, key: Key, born: (StreamUid, u64)) -> Option<Chore> {
        let Some(sink) = self.core.sinks.open(key.clone()) else {
            self.tell(&id, "another copy is made through the same consumer");
            return None;
        };
        let chore = take_over(id.clone(), &key);
        self.bound.insert(id, Bound { key, born, sink });
        Some(chore)
    }

    fn unbind(&mut self, id: &CopyId) {
        if let Some(bound) = self.bound.remove(id) {
            self.core.sinks.close(&bound.key);
            self.core.engine.look_at(self.core, &bound.key);
        }
    }

    async fn perform(&mut self, chores: Vec<Chore>) {
        let core = self.core;
        for chore in &chores {
            if let Chore::TakeOver(id, _) = chore
                && let Some(bound) = self.bound.get(id)
            {
                bound.sink.mend();
            }
        }
        let done = stream::iter(chores).map(|chore| async move {
            let command = match &chore {
                Chore::Make(_, command) | Chore::TakeOver(_, command) | Chore::Remove(command) => {
                    command
                }
            };
            let outcome = apply(core, command).await;
            (chore, outcome)
        });
        let done: Vec<_> = done.buffer_unordered(CHORES_AT_ONCE).collect().await;
        for (chore, outcome) in done {
            match (chore, outcome) {
                (Chore::TakeOver(id, _), Ok(())) => {
                    self.told.remove(&id);
                    if let Some(bound) = self.bound.get(&id) {
                        core.engine.look_at(core, &bound.key);
                    }
                }
                (Chore::TakeOver(id, _), Err(why)) => {
                    self.unbind(&id);
                    self.rest(id, &why);
                }
                (Chore::Make(id, _), Err(why)) => self.rest(id, &why),
                (Chore::Remove(_), Err(why)) => {
                    tracing::debug!(%why, "the consumer of an ended copy stays");
                }
                (Chore::Make(..) | Chore::Remove(_), Ok(())) => {}
            }
        }
    }

    fn rest(&mut self, id: CopyId, why: &str) {
        self.tell(&id, why);
        self.resting.insert(id, Instant::now() + REST);
    }
}

impl Bound {
    /// Whether its consumer is the one that the origin has now.
    fn is_of(&self, origin: &Stream) -> bool {
        let consumer = origin.consumer(&self.key.1);
        consumer.is_some_and(|consumer| (origin.uid(), consumer.created_ns()) == self.born)
    }
}

impl Drop for Ways<'_> {
    fn drop(&mut self) {
        for bound in self.bound.values() {
            self.core.sinks.close(&bound.key);
        }
    }
}

fn take_over(id: CopyId, (stream, consumer): &Key) -> Chore {
    let reset = Command::ConsumerReset(ConsumerReset {
        stream: stream.to_string(),
        name: consumer.to_string(),
        seq: 0,
        privileged: true,
    });
    Chore::TakeOver(id, reset)
}

fn remove(forsaken: Forsaken) -> Chore {
    Chore::Remove(Command::ConsumerDelete(ConsumerDelete {
        stream: forsaken.stream,
        name: forsaken.consumer,
        privileged: true,
        created_ns: Some(forsaken.created_ns),
    }))
}

async fn apply(core: &Core, command: &Command) -> Result<(), String> {
    match core.ingest.call(command).await {
        Ok(Ok(answered)) => match answered.outcome {
            Outcome::Refused(refusal) => Err(refusal.error.to_string()),
            _ => Ok(()),
        },
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no longer the leader".to_owned()),
    }
}
