//! The state machine as openraft drives it: decodes entries, applies them to the state, writes the
//! bodies to the block store, tells the observer, publishes the applied index and only then answers
//! proposers. Never decides anything itself: what an entry does is `unibus_state`'s affair.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::RwLock;
use tokio::sync::watch;
use unibus_state::{Effect, Location, State, decode_entry};

use crate::belonging::Belonging;
use crate::blocks::BlockStore;
use crate::checkpoint::{CheckpointStore, Cut, Opened};
use crate::codec;
use crate::errors::StorageError;
use crate::log::GroupLog;
use crate::mend::Suspects;
use crate::replica::Observer;
use crate::snapshot::SnapshotDir;
use crate::types::{LogId, Reply, SnapshotMeta, StoredMembership, TypeConfig};

/// Entries that are applied under one write lock, at most: bounds how long readers wait.
const APPLY_ENTRIES_MAX: usize = 64;

/// How often a node's first checkpoint is tried, and the pause in between.
const FIRST_ATTEMPTS_MAX: u32 = 20;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// A snapshot as openraft hands it around.
pub(crate) type Snapshot =
    openraft::Snapshot<crate::types::LeaderId, u64, crate::types::Peer, Arc<SnapshotDir>>;

/// What the machine shares with the facade.
pub(crate) struct Shared {
    /// The state. Written by apply only.
    pub(crate) state: RwLock<State>,
    /// Message bodies.
    pub(crate) blocks: Arc<BlockStore>,
    /// Checkpoints and snapshots.
    pub(crate) store: CheckpointStore,
    /// The applied index. Published after the observer has heard.
    pub(crate) applied: watch::Sender<u64>,
    /// Bytes of entries applied since the newest cut.
    pub(crate) bytes_since_checkpoint: AtomicU64,
    /// Index of the entry with the members, as of what is applied.
    pub(crate) members_since: AtomicU64,
    /// Blocks that are or may be damaged.
    pub(crate) suspects: Suspects,
    observer: Arc<dyn Observer>,
    belonging: Arc<Belonging>,
}

impl Shared {
    /// The record at a place that the state named a moment ago. One that is damaged is noted, to be
    /// mended; one that the state no longer names is [`StorageError::Missing`].
    pub(crate) fn read_record(&self, at: &Location) -> Result<Bytes, StorageError> {
        self.blocks.read(at).map_err(|error| self.unread(at, error))
    }

    /// The records at places that the state named a moment ago, in their order, each as
    /// [`Shared::read_record`] has it.
    pub(crate) fn read_records(&self, places: &[Location]) -> Vec<Result<Bytes, StorageError>> {
        let mut records = self.blocks.read_all(places);
        for (record, at) in records.iter_mut().zip(places) {
            if let Err(error) = record {
                let told = StorageError::Rows(String::new());
                *error = self.unread(at, std::mem::replace(error, told));
            }
        }
        records
    }

    /// Why a record can't be read, in terms of what the state names.
    fn unread(&self, at: &Location, error: StorageError) -> StorageError {
        let key = (at.stream.0, at.block.0);
        // Recursive: observers read records while the state is locked for them.
        let live = self.state.read_recursive().live_blocks();
        let block = live
            .into_iter()
            .find(|block| (block.stream.0, block.block.0) == key);
        if block.is_none_or(|block| block.len < at.offset.saturating_add(at.len)) {
            return StorageError::Missing {
                stream: key.0,
                block: key.1,
                offset: at.offset,
            };
        }
        self.suspects.note(key);
        match error {
            StorageError::Missing { .. } => StorageError::Damaged {
                path: self.blocks.path(key),
                reason: "it is missing or too short".to_owned(),
            },
            error => error,
        }
    }

    /// Tells the observer something that no entry did.
    pub(crate) fn tell(&self, effects: &[Effect]) {
        self.observer.applied(&self.state.read(), effects);
    }

    /// See [`Observer::settled`].
    pub(crate) fn settled(&self, within: Duration) -> BoxFuture<'static, bool> {
        self.observer.settled(within)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("applied", &*self.applied.borrow())
            .finish_non_exhaustive()
    }
}

/// openraft's handle on the state machine. There is one.
#[derive(Debug)]
pub(crate) struct Machine {
    shared: Arc<Shared>,
    /// Where the entries come from: they are applied before they are synced here, once a quorum of others has
    /// them.
    log: GroupLog,
    last: Option<LogId>,
    membership: StoredMembership,
}

impl Machine {
    /// Starts from what was opened; the observer hears of everything that is there.
    pub(crate) fn new(
        opened: Opened,
        blocks: Arc<BlockStore>,
        log: GroupLog,
        observer: Arc<dyn Observer>,
        belonging: Arc<Belonging>,
    ) -> Self {
        let effects = everything(&opened.state, &BTreeSet::new());
        observer.applied(&opened.state, &effects);
        let index = opened.meta.last_log_id.map_or(0, |id| id.index);
        let shared = Arc::new(Shared {
            state: RwLock::new(opened.state),
            blocks,
            store: opened.store,
            applied: watch::channel(index).0,
            bytes_since_checkpoint: AtomicU64::new(0),
            members_since: AtomicU64::new(since(&opened.meta.last_membership)),
            suspects: Suspects::default(),
            observer,
            belonging,
        });
        Self {
            shared,
            log,
            last: opened.meta.last_log_id,
            membership: opened.meta.last_membership,
        }
    }

    /// What the facade needs of it.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.last,
            last_membership: self.membership.clone(),
        }
    }

    fn apply_chunk(&mut self, chunk: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let mut answers: Vec<(ApplyResponder<TypeConfig>, Reply)> = Vec::new();
        let mut effects = Vec::new();
        let mut bytes = 0;
        let mut changed = None;
        let shared = Arc::clone(&self.shared);
        let mut writer = shared.blocks.writer();
        {
            let mut state = shared.state.write();
            for (entry, responder) in chunk {
                let index = entry.log_id.index;
                let mut reply = Reply {
                    index,
                    outcomes: Vec::new(),
                };
                match entry.payload {
                    EntryPayload::Blank => {}
                    EntryPayload::Membership(membership) => {
                        changed = codec::cluster_of(&membership).or(changed);
                        self.membership = StoredMembership::new(Some(entry.log_id), membership);
                        shared.members_since.store(index, Ordering::Relaxed);
                    }
                    EntryPayload::Normal(batch) => {
                        bytes += batch.0.len() as u64;
                        let entry = decode_entry(&batch.0).map_err(io::Error::other)?;
                        let applied = state.apply(index, &entry, &mut writer);
                        reply.outcomes = applied.outcomes;
                        effects.extend(applied.effects);
                    }
                }
                self.last = Some(entry.log_id);
                answers.extend(responder.map(|responder| (responder, reply)));
            }
            writer.publish();
        }
        writer.write_out()?;
        if let Some(id) = changed {
            shared.belonging.confirm(id)?;
        }
        shared
            .bytes_since_checkpoint
            .fetch_add(bytes, Ordering::Relaxed);
        shared.announce(self.last, &effects);
        for (responder, reply) in answers {
            responder.send(reply);
        }
        Ok(())
    }
}

impl Shared {
    /// Tells the observer, then publishes the index.
    fn announce(&self, last: Option<LogId>, effects: &[Effect]) {
        if !effects.is_empty() {
            self.observer.applied(&self.state.read(), effects);
        }
        self.applied.send_replace(last.map_or(0, |id| id.index));
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Arc<SnapshotDir>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(APPLY_ENTRIES_MAX);
        while let Some(chunk) = chunks.next().await {
            self.apply_chunk(chunk.into_iter().collect::<io::Result<Vec<_>>>()?)?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let cut = self
            .shared
            .store
            .cut(&mut self.shared.state.write(), self.meta());
        self.shared
            .bytes_since_checkpoint
            .store(0, Ordering::Relaxed);
        Builder {
            shared: Arc::clone(&self.shared),
            log: self.log.clone(),
            cut: Some(cut),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Arc<SnapshotDir>,
    ) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let id = codec::cluster_of(meta.last_membership.membership());
        let installing = tokio::task::spawn_blocking(move || {
            if let Some(id) = id {
                shared.belonging.confirm(id)?;
            }
            io::Result::Ok(shared.store.install(&snapshot)?)
        });
        let state = installing.await.map_err(io::Error::other)??;
        let before = names(&self.shared.state.read());
        let effects = everything(&state, &before);
        *self.shared.state.write() = state;
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        let members_since = since(&self.membership);
        self.shared
            .members_since
            .store(members_since, Ordering::Relaxed);
        self.shared
            .bytes_since_checkpoint
            .store(0, Ordering::Relaxed);
        self.shared.announce(self.last, &effects);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.shared.store.current().map(as_snapshot))
    }
}

/// Index of the entry that says who the members are; 0 where none does.
pub(crate) fn since(members: &StoredMembership) -> u64 {
    members.log_id().as_ref().map_or(0, |id| id.index)
}

fn as_snapshot(snapshot: Arc<SnapshotDir>) -> Snapshot {
    Snapshot {
        meta: snapshot.manifest.meta.clone(),
        snapshot,
    }
}

/// Writes one cut, beside apply.
#[derive(Debug)]
pub(crate) struct Builder {
    shared: Arc<Shared>,
    log: GroupLog,
    cut: Option<Cut>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Arc<SnapshotDir>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let Some(mut cut) = self.cut.take() else {
            let current = self.shared.store.current();
            return current
                .map(as_snapshot)
                .ok_or_else(|| io::Error::other("the cut was used already"));
        };
        // A checkpoint must not outlive the entries that it covers: a log that ends before it has lost some.
        self.log.sync().await?;
        let mut built = Err(StorageError::Rows("not tried".to_owned()));
        for attempt in 1..=FIRST_ATTEMPTS_MAX {
            let shared = Arc::clone(&self.shared);
            // Without an older checkpoint a failure stops consensus, so that one is tried again.
            let is_last = attempt == FIRST_ATTEMPTS_MAX || shared.store.current().is_some();
            (cut, built) = tokio::task::spawn_blocking(move || {
                let built = shared.store.build(&mut cut, is_last);
                (cut, built)
            })
            .await
            .map_err(io::Error::other)?;
            match &built {
                Err(StorageError::Unsynced { .. }) => break,
                Err(error) if !is_last => {
                    tracing::error!(%error, attempt, "the first checkpoint failed");
                    tokio::time::sleep(FIRST_PAUSE).await;
                }
                _ => break,
            }
        }
        match (built, self.shared.store.current()) {
            (Ok(snapshot), _) => Ok(as_snapshot(snapshot)),
            // What may be lost is of entries that the log still holds: the next start applies them again.
            (Err(error @ StorageError::Unsynced { .. }), _) => Err(error.into()),
            // The log is still whole, so an old checkpoint is no loss; the next one may succeed.
            (Err(error), Some(older)) => {
                tracing::error!(%error, "checkpoint failed, the previous one stays");
                Ok(as_snapshot(older))
            }
            (Err(error), None) => Err(error.into()),
        }
    }
}

fn names(state: &State) -> BTreeSet<Arc<str>> {
    state
        .streams()
        .map(|stream| stream.name().clone())
        .collect()
}

/// The effects that turn an observer's picture with streams `before` into one of `state`.
fn everything(state: &State, before: &BTreeSet<Arc<str>>) -> Vec<Effect> {
    let after = names(state);
    let mut effects: Vec<Effect> = before
        .difference(&after)
        .map(|name| Effect::StreamRemoved { name: name.clone() })
        .collect();
    for stream in state.streams() {
        let name = stream.name().clone();
        effects.push(if before.contains(&name) {
            Effect::StreamUpdated { name: name.clone() }
        } else {
            Effect::StreamCreated { name: name.clone() }
        });
        for consumer in stream.consumers() {
            effects.push(Effect::ConsumerCreated {
                stream: name.clone(),
                name: consumer.name().clone(),
            });
        }
        effects.push(Effect::StreamAdvanced { name: name.clone() });
        if stream.is_control() {
            effects.push(Effect::ControlChanged { bucket: name });
        }
    }
    effects
}
