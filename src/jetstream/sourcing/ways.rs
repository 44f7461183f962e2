//! Which copies are made through a consumer of their origin (ADR-60), and what has to be done for that:
//! the consumer made, taken over from where it has acknowledged, acknowledged for what is copied, and
//! removed with the copy. On the leader, for one leadership.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use unibus_proto::jetstream::api::ConsumerAction;
use unibus_proto::jetstream::consumer::ConsumerConfig;
use unibus_proto::jetstream::source::StreamSource;
use unibus_state::command::{ConsumerCreate, ConsumerDelete, ConsumerReset};
use unibus_state::{Command, CopyConsumer, Forsaken, Outcome, State, Stream};

use super::sinks::Sink;
use crate::jetstream::core::Core;
use crate::jetstream::table::Key;

/// Pause after a consumer could not be made or taken over.
const REST: Duration = Duration::from_secs(1);

/// A copy: its stream, and which of its origins.
type CopyId = (Arc<str>, String);

/// A consumer that delivers to a copy.
#[derive(Debug)]
struct Bound {
    key: Key,
    /// Its incarnation.
    created_ns: u64,
    sink: Arc<Sink>,
}

/// Something to do before a copy can go on, or after its end.
#[derive(Debug)]
enum Chore {
    Make(CopyId, String, Box<ConsumerConfig>),
    TakeOver(CopyId, Key, u64),
    Remove(Forsaken),
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
}

impl<'a> Ways<'a> {
    pub(super) fn new(core: &'a Core) -> Self {
        Self {
            core,
            bound: HashMap::new(),
            resting: HashMap::new(),
            told: HashMap::new(),
        }
    }

    /// Makes and takes over consumers, and removes those that no copy needs any more: `removals` says
    /// whether to look for these, among all there are.
    pub(super) async fn prepare(&mut self, removals: bool) {
        let core = self.core;
        let chores = core.replica.with_state(|state| {
            let mut chores = self.plan(state);
            if removals {
                let forsaken = state.forsaken_copy_consumers();
                chores.extend(forsaken.into_iter().map(Chore::Remove));
            }
            chores
        });
        for chore in chores {
            self.perform(chore).await;
        }
    }

    /// How the copy of `source` into `stream` is made.
    pub(super) fn of(&self, stream: &Stream, source: &StreamSource, origin: &Stream) -> Way {
        if stream.copy_consumer(source, origin).is_none() {
            return Way::Read;
        }
        let bound = self.bound.get(&id_of(stream, source));
        bound.map_or(Way::Wait, |bound| Way::Through(Arc::clone(&bound.sink)))
    }

    /// Acknowledges what is copied. How far that is says the replicated state: a copy that was applied is
    /// stored on a majority.
    pub(super) fn settle(&self) {
        let copied: Vec<(&Bound, u64)> = self.core.replica.with_state(|state| {
            let copied = self.bound.iter().filter_map(|((name, identity), bound)| {
                let stream = state.stream(name)?;
                let source = stream.origins().find(|s| s.identity() == *identity)?;
                let origin = state.stream(&source.name)?;
                Some((bound, stream.copy_from(source, origin).after))
            });
            copied.collect()
        });
        for (bound, upto) in copied {
            if bound.sink.forget(upto) {
                self.core.engine.taken(&bound.key, upto);
            }
        }
    }

    fn plan(&mut self, state: &State) -> Vec<Chore> {
        let mut chores = Vec::new();
        let mut wanted = HashSet::new();
        for stream in state.streams() {
            for source in stream.origins() {
                let Some(origin) = state.stream(&source.name) else {
                    continue;
                };
                let Some(through) = stream.copy_consumer(source, origin) else {
                    continue;
                };
                let id = id_of(stream, source);
                if stream.mirrors_another(source, origin) {
                    // Not taken for copied: the consumer would acknowledge what nobody has.
                    self.tell(
                        &id,
                        "the origin was made anew: make the mirror anew as well",
                    );
                    continue;
                }
                chores.extend(self.plan_one(&id, origin, through));
                wanted.insert(id);
            }
        }
        self.keep(&wanted);
        chores
    }

    fn plan_one(&mut self, id: &CopyId, origin: &Stream, through: CopyConsumer) -> Option<Chore> {
        let consumer = origin.consumer(&through.name);
        let bound = self.bound.get(id).map(|bound| bound.created_ns);
        if bound.is_some() && bound == consumer.map(|consumer| consumer.created_ns()) {
            return None;
        }
        self.unbind(id);
        let rests = self.resting.get(id);
        if rests.is_some_and(|until| *until > Instant::now()) {
            return None;
        }
        let Some(consumer) = consumer else {
            let Some(config) = through.config else {
                self.tell(id, "the consumer that the configuration names is not there");
                return None;
            };
            if !self.core.knows_flow_acks() {
                self.rest(
                    id,
                    "its consumer can be made once every node is connected and of this version",
                );
                return None;
            }
            let stream = origin.name().to_string();
            return Some(Chore::Make(id.clone(), stream, Box::new(config)));
        };
        if !through.fits(consumer) {
            self.tell(
                id,
                "the consumer has to acknowledge by flow control, and to deliver whole messages to the \
                 subject that the configuration names",
            );
            return None;
        }
        let key = (Arc::clone(origin.name()), Arc::clone(consumer.name()));
        Some(Chore::TakeOver(id.clone(), key, consumer.created_ns()))
    }

    async fn perform(&mut self, chore: Chore) {
        match chore {
            Chore::Make(id, stream, config) => {
                let create = Command::ConsumerCreate(ConsumerCreate {
                    stream,
                    config: *config,
                    action: ConsumerAction::Create,
                    generated_name: String::new(),
                    privileged: true,
                });
                if let Err(why) = self.apply(&create).await {
                    self.rest(&id, &why);
                }
            }
            Chore::TakeOver(id, key, created_ns) => {
                // What was delivered and not acknowledged before this leadership is delivered again.
                let reset = Command::ConsumerReset(ConsumerReset {
                    stream: key.0.to_string(),
                    name: key.1.to_string(),
                    seq: 0,
                    privileged: true,
                });
                match self.apply(&reset).await {
                    Ok(()) => self.bind(id, key, created_ns),
                    Err(why) => self.rest(&id, &why),
                }
            }
            Chore::Remove(forsaken) => {
                let Forsaken {
                    stream, consumer, ..
                } = &forsaken;
                let delete = Command::ConsumerDelete(ConsumerDelete {
                    stream: stream.clone(),
                    name: consumer.clone(),
                    privileged: true,
                    created_ns: Some(forsaken.created_ns),
                });
                if let Err(why) = self.apply(&delete).await {
                    tracing::debug!(%stream, %consumer, %why, "the consumer of an ended copy stays");
                }
            }
        }
    }

    async fn apply(&self, command: &Command) -> Result<(), String> {
        match self.core.ingest.call(command).await {
            Ok(Ok(answered)) => match answered.outcome {
                Outcome::Refused(refusal) => Err(refusal.error.to_string()),
                _ => Ok(()),
            },
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no longer the leader".to_owned()),
        }
    }

    fn bind(&mut self, id: CopyId, key: Key, created_ns: u64) {
        let sink = self.core.sinks.open(key.clone());
        self.core.engine.look_at(self.core, &key);
        self.told.remove(&id);
        let bound = Bound {
            key,
            created_ns,
            sink,
        };
        self.bound.insert(id, bound);
    }

    fn unbind(&mut self, id: &CopyId) {
        if let Some(bound) = self.bound.remove(id) {
            self.core.sinks.close(&bound.key);
            self.core.engine.look_at(self.core, &bound.key);
        }
    }

    /// Lets go of copies that are configured no more.
    fn keep(&mut self, wanted: &HashSet<CopyId>) {
        let ended: Vec<CopyId> = (self.bound.keys())
            .filter(|id| !wanted.contains(*id))
            .cloned()
            .collect();
        for id in &ended {
            self.unbind(id);
        }
        self.resting.retain(|id, _| wanted.contains(id));
        self.told.retain(|id, _| wanted.contains(id));
    }

    fn rest(&mut self, id: &CopyId, why: &str) {
        self.resting.insert(id.clone(), Instant::now() + REST);
        self.tell(id, why);
    }

    /// Says once what is in a copy's way.
    fn tell(&mut self, id: &CopyId, why: &str) {
        if self.told.get(id).is_none_or(|told| told != why) {
            let (stream, origin) = id;
            tracing::warn!(%stream, %origin, why, "a mirror or source waits");
            self.told.insert(id.clone(), why.to_owned());
        }
    }
}

impl Drop for Ways<'_> {
    fn drop(&mut self) {
        for bound in self.bound.values() {
            self.core.sinks.close(&bound.key);
        }
    }
}

fn id_of(stream: &Stream, source: &StreamSource) -> CopyId {
    (Arc::clone(stream.name()), source.identity())
}
