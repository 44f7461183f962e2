//! The facade of this crate: opens log and checkpoint, starts consensus and the tasks around it, and
//! hands requests to the part that serves them. No logic of its own beyond starting and stopping.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, join, join_all, ready};
use openraft::async_runtime::WatchReceiver;
use openraft::{Raft, SnapshotPolicy, StepDownPolicy};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use unibus_proto::NodeId;
use unibus_state::{Effect, EncodedBatch, Location, State};

use crate::backup::BackupSource;
use crate::belonging::Belonging;
use crate::change::{self, Change};
use crate::driver;
use crate::errors::{
    AdmitError, CheckpointError, InitializeError, ReadError, StartError, StorageError,
};
use crate::handler::Handler;
use crate::handover;
use crate::lease::{Lease, Told};
use crate::log::Log;
use crate::machine::{Machine, Shared};
use crate::membership;
use crate::mend;
use crate::network::Network;
use crate::options::ReplicaOptions;
use crate::pause::Pause;
use crate::propose::{Proposal, Proposer};
use crate::queue::{Queue, QueueLimits};
use crate::read::{Asker, Reads};
use crate::rpc::{Join, decode_index, encode_barrier};
use crate::status::{self, Contact, Leadership, ReplicaStatus};
use crate::store::{LOG, OpenStore};
use crate::transfer::Receiver;
use crate::transport::{GroupId, RpcClass, RpcHandler, Transport};
use crate::types::TypeConfig;
use crate::vigil;
use crate::watchdog;

/// The group this version runs.
pub(crate) const GROUP: GroupId = GroupId(0);
/// openraft with our types.
pub(crate) type RaftCore = Raft<TypeConfig, Machine>;
/// openraft's view of itself.
pub(crate) type Metrics = openraft::RaftMetrics<TypeConfig>;

/// Entries in one AppendEntries request. Their bytes are bounded by the log's read limit.
const APPEND_ENTRIES_MAX: u64 = 256;
/// Longest wait for an answer to AppendEntries.
const APPEND_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a peer was unreachable; the transport reconnects on its own.
const BACKOFF: &str = "50ms";
/// How long a stop waits for openraft to let go of the log, and how often it looks.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
const CLOSE_POLL: Duration = Duration::from_millis(5);

/// Hears what entries changed, on every node.
pub trait Observer: Send + Sync + 'static {
    /// Called after entries were applied, with the state they led to, and before the applied index
    /// is published and proposals are answered. On start, and when a snapshot replaces the state, it
    /// is called with the effects that describe everything there is. Runs inside apply: it must be
    /// quick and must not wait for the replica.
    fn applied(&self, state: &State, effects: &[Effect]);

    /// Resolves when everything outside of apply acts by what [`Self::applied`] was told before the
    /// call; false when that takes longer than `within`. Awaited before this node confirms an index
    /// to [`Replica::applied_everywhere`].
    fn settled(&self, within: Duration) -> BoxFuture<'static, bool> {
        let _ = within;
        ready(true).boxed()
    }
}

/// A handle on the replica of this node. Cheap to clone.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("id", &self.inner.id)
            .finish_non_exhaustive()
    }
}

/// What the parts of a running replica share.
pub(crate) struct Inner {
    pub(crate) id: NodeId,
    pub(crate) options: ReplicaOptions,
    pub(crate) raft: RaftCore,
    pub(crate) shared: Arc<Shared>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) reads: Arc<Reads>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) receiver: Receiver,
    pub(crate) contact: Arc<Contact>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// A node that comes back may have promised a leader a lease that it no longer remembers: it
    /// gives no vote until any such lease is over.
    pub(crate) no_votes_before: Instant,
    /// The node had state when it started.
    pub(crate) returning: bool,
    /// The node lost its store and has not been admitted again.
    pub(crate) rejoining: AtomicBool,
    /// Held while a node is being admitted.
    pub(crate) admitting: tokio::sync::Mutex<()>,
    /// Held while leadership is being handed over.
    pub(crate) handing_over: tokio::sync::Mutex<()>,
    /// While this node, which leads, proposes nothing because another is about to lead.
    pub(crate) pause: Pause,
    /// Index up to which the log may be purged by the next checkpoint.
    pub(crate) previous_checkpoint: AtomicU64,
    /// The cluster that this node belongs to.
    pub(crate) belonging: Arc<Belonging>,
    /// Why consensus is no more, where its metrics don't tell.
    pub(crate) ended: OnceLock<String>,
    /// Becomes true when the replica stops.
    pub(crate) stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Kept open until the replica stops.
    log: Mutex<Option<Log>>,
}

impl Inner {
    pub(crate) async fn wait_applied(
        &self,
        index: u64,
        deadline: Instant,
    ) -> Result<(), ReadError> {
        if *self.shared.applied.borrow() >= index {
            return Ok(());
        }
        let mut applied = self.shared.applied.subscribe();
        let mut stop = self.stop.subscribe();
        tokio::select! {
            biased;
            waited = applied.wait_for(|applied| *applied >= index) => {
                waited.map(drop).map_err(|_| ReadError::Stopped)
            }
            _ = stop.wait_for(|stop| *stop) => Err(ReadError::Stopped),
            () = tokio::time::sleep_until(deadline.into()) => Err(ReadError::TimedOut),
        }
    }
}

fn raft_config(options: &ReplicaOptions) -> Result<openraft::Config, StartError> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    openraft::Config {
        cluster_name: "unibus".to_owned(),
        heartbeat_interval: ms(options.heartbeat),
        election_timeout_min: ms(options.election_min),
        // openraft takes its upper bound for a follower's loyalty too, and adds the election timeout to it.
        election_timeout_max: ms(options.loyalty()),
        // Sends whatever the log reader returns for one bounded read.
        max_payload_entries: APPEND_ENTRIES_MAX,
        // Snapshots are taken by bytes and purging is ours (see `driver`); a follower that lags is
        // fed from the log as long as the log has it.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: u64::MAX,
        enable_pre_vote: Some(true),
        // Restored in its old term, a leader knows of no commit later than its last hint: a read
        // barrier would pass below what it had acknowledged. A new term begins with an entry of its own.
        enable_leader_restore: Some(false),
        removed_leader_step_down: StepDownPolicy::After(ms(options.heartbeat)),
        backoff: BACKOFF.to_owned(),
        ..openraft::Config::default()
    }
    .validate()
    .map_err(|error| StartError::Options(error.to_string()))
}

/// Why this replica takes nothing any more, if it does not.
fn fatal(metrics: &Metrics, shared: &Shared) -> Option<String> {
    let consensus = metrics.running_state.as_ref().err();
    let blocks = || shared.blocks.failure().map(|error| error.to_string());
    consensus.map(ToString::to_string).or_else(blocks)
}

fn failed(error: impl std::fmt::Display) -> StartError {
    StartError::Raft(error.to_string())
}

async fn start_core(
    options: &ReplicaOptions,
    network: Network,
    log: &Log,
    machine: Machine,
) -> Result<RaftCore, StartError> {
    let config = Arc::new(raft_config(options)?);
    let (id, group) = (network.id.0, log.group(GROUP));
    let raft = Raft::new(id, config, network, group, machine).await;
    raft.map_err(failed)
}

/// Whether the node had state when it started, and how long it gives no vote because of that.
async fn come_back(
    raft: &RaftCore,
    id: NodeId,
    options: &ReplicaOptions,
    belonging: &Belonging,
) -> Result<(bool, Duration), StartError> {
    if !raft.is_initialized().await.map_err(failed)? {
        belonging.forget_founding();
        return Ok((false, Duration::ZERO));
    }
    membership::lead_if_alone(raft, id).await.map_err(failed)?;
    Ok((true, options.election_min))
}

/// What waits for reads, and the lease that answers most of them.
fn start_reads(
    options: &ReplicaOptions,
    raft: &RaftCore,
    transport: &Arc<dyn Transport>,
    leadership: &watch::Receiver<Leadership>,
    lease: &Arc<Lease>,
) -> Arc<Reads> {
    Reads::new(Asker {
        id: lease.id(),
        raft: raft.clone(),
        lease: Arc::clone(lease),
        transport: Arc::clone(transport),
        leadership: leadership.clone(),
        options: options.clone(),
    })
}

impl Replica {
    /// Starts consensus on a store that was opened. The observer is called before this returns, with
    /// what the checkpoint holds and what is replayed from the log.
    pub async fn start(
        store: OpenStore,
        transport: Arc<dyn Transport>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, StartError> {
        let OpenStore {
            options,
            id,
            log,
            opened,
            blocks,
            rejoin,
            belonging,
        } = store;
        let (own, group) = (Arc::clone(&belonging), log.group(GROUP));
        let making = move || Machine::new(opened, blocks, group, observer, own);
        let machine = tokio::task::spawn_blocking(making).await.map_err(failed)?;
        let shared = machine.shared();
        let told = Arc::new(Told::default());
        let quorum_lost = Arc::new(AtomicBool::new(false));
        let network = Network {
            id,
            transport: Arc::clone(&transport),
            append_timeout: APPEND_TIMEOUT,
            told: Arc::clone(&told),
            belonging: Arc::clone(&belonging),
            quorum_lost: Arc::clone(&quorum_lost),
        };
        let raft = start_core(&options, network, &log, machine).await?;
        let (returning, silence) = come_back(&raft, id, &options, &belonging).await?;
        let (leadership_sender, leadership) = watch::channel(Leadership::default());
        let checkpoint = shared
            .store
            .current()
            .map_or(0, |snapshot| snapshot.manifest.index());
        let stale = options.stale();
        let applied = shared.applied.subscribe();
        let lease = Arc::new(Lease::new(id, &options, &raft, applied, told));
        let reads = start_reads(&options, &raft, &transport, &leadership, &lease);
        let inner = Arc::new(Inner {
            id,
            raft,
            shared,
            transport,
            queue: Queue::new(QueueLimits {
                batches_max: options.queue_batches_max,
                bytes_max: options.queue_bytes_max,
            }),
            reads,
            lease,
            receiver: Receiver::default(),
            contact: Arc::new(Contact::new(stale)),
            leadership,
            no_votes_before: Instant::now() + silence,
            returning,
            rejoining: AtomicBool::new(rejoin.is_some()),
            admitting: tokio::sync::Mutex::new(()),
            handing_over: tokio::sync::Mutex::new(()),
            pause: Pause::new(),
            previous_checkpoint: AtomicU64::new(checkpoint),
            belonging,
            ended: OnceLock::new(),
            stop: watch::channel(false).0,
            tasks: Mutex::new(Vec::new()),
            log: Mutex::new(Some(log)),
            options,
        });
        inner.spawn_tasks(leadership_sender, quorum_lost);
        if let Some(rejoin) = rejoin {
            let watching = membership::watch_rejoin(Arc::clone(&inner), rejoin);
            inner.tasks.lock().push(tokio::spawn(watching));
        }
        Ok(Self { inner })
    }

    #[cfg(test)]
    pub(crate) fn raft(&self) -> &RaftCore {
        &self.inner.raft
    }

    #[cfg(test)]
    pub(crate) fn log(&self) -> crate::log::GroupLog {
        let log = self.inner.log.lock();
        log.as_ref().map(|log| log.group(GROUP)).unwrap()
    }

    #[cfg(test)]
    pub(crate) fn lease(&self) -> &Lease {
        &self.inner.lease
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// What the transport hands peers' requests to (all classes but
    /// [`crate::RpcClass::Leader`] and [`crate::RpcClass::System`]).
    pub fn handler(&self) -> Arc<dyn RpcHandler> {
        Arc::new(Handler {
            inner: Arc::clone(&self.inner),
        })
    }

    /// Enqueues a batch. Batches keep the order of the calls. Must be called inside a tokio runtime.
    pub fn propose(&self, batch: EncodedBatch) -> Proposal {
        Proposal::new(self.inner.queue.push(vec![batch], false))
    }

    /// `None`: propose on. `Some`: the queue is over its high-water mark; await before the next.
    pub fn propose_ready(&self) -> Option<BoxFuture<'static, ()>> {
        let queue = &self.inner.queue;
        queue.is_high().then(|| Arc::clone(queue).room().boxed())
    }

    /// Resolves when local state holds everything acknowledged anywhere before the call; answers
    /// with the index that covers it.
    pub async fn read_barrier(&self) -> Result<u64, ReadError> {
        let deadline = Instant::now() + self.inner.options.read_timeout;
        let index = tokio::time::timeout_at(deadline.into(), self.inner.reads.index())
            .await
            .map_err(|_| ReadError::TimedOut)??;
        self.inner.wait_applied(index, deadline).await?;
        Ok(index)
    }

    /// Resolves when entry `index` is applied here.
    pub async fn wait_applied(&self, index: u64, deadline: Instant) -> Result<(), ReadError> {
        self.inner.wait_applied(index, deadline).await
    }

    /// Waits until every connected member has applied `index` and acts by it ([`Observer::settled`]),
    /// this node (which must have applied it) included; answers with those that did not confirm it
    /// within the time.
    pub async fn applied_everywhere(&self, index: u64, within: Duration) -> Vec<NodeId> {
        let connected = self.inner.transport.connected();
        let status = self.status();
        let members = status.voters.into_keys().chain(status.learners.into_keys());
        let asked = members.filter(|id| connected.contains(id)).map(|id| {
            let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
            let request = encode_barrier(index, within_ms);
            let call = self
                .inner
                .transport
                .call(id, RpcClass::Barrier, GROUP, request);
            async move {
                let answer = tokio::time::timeout(within, call).await;
                let confirmed = answer
                    .ok()
                    .and_then(Result::ok)
                    .and_then(|answer| decode_index(answer).ok())
                    .flatten();
                (confirmed.is_none()).then_some(id)
            }
        });
        let here = self.inner.shared.settled(within);
        let (others, here) = join(join_all(asked), here).await;
        let own = (!here).then_some(self.inner.id);
        others.into_iter().flatten().chain(own).collect()
    }

    /// Looks at the state under a read lock. `f` must be quick: apply waits for it.
    pub fn with_state<T>(&self, f: impl FnOnce(&State) -> T) -> T {
        f(&self.inner.shared.state.read())
    }

    /// The record stored at a location that the state gave, checked.
    ///
    /// # Errors
    /// [`StorageError::Missing`] where the state no longer names it. Anything else means that it can't be
    /// read now: it is being fetched from the other nodes, and can be asked for again.
    pub fn read_record(&self, at: &Location) -> Result<Bytes, StorageError> {
        self.inner.shared.read_record(at)
    }

    /// The records stored at these locations, in their order, each as [`Replica::read_record`] has it.
    /// Neighbours cost one look into the cache or one read of a file together.
    #[must_use]
    pub fn read_records(&self, places: &[Location]) -> Vec<Result<Bytes, StorageError>> {
        self.inner.shared.read_records(places)
    }

    /// Who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// The index up to which entries are applied here.
    pub fn applied_index(&self) -> watch::Receiver<u64> {
        self.inner.shared.applied.subscribe()
    }

    /// How this replica stands.
    pub fn status(&self) -> ReplicaStatus {
        self.inner.status()
    }

    /// Forms a new cluster from exactly these members. Only on a node without any state; calling it
    /// on several members with the same set is fine.
    pub async fn initialize(
        &self,
        members: BTreeMap<NodeId, String>,
    ) -> Result<(), InitializeError> {
        membership::initialize(&self.inner, members).await
    }

    /// Makes a node a voting member: learner, caught up, voter. A voter of the same name with
    /// another id is replaced. Works on any node (it asks the leader); safe to repeat.
    pub async fn admit(&self, id: NodeId, name: String) -> Result<(), AdmitError> {
        let join = Join {
            id,
            name,
            forwarded: false,
        };
        membership::admit(&self.inner, &join).await
    }

    /// As [`Self::admit`], on the leader, for a node that asks by itself to be a member: while voters are away
    /// it has no vote, unless it takes the place of one of its name. Answers with their names; none = it votes.
    ///
    /// # Errors
    /// [`AdmitError`]; asking again is safe.
    pub async fn welcome(&self, id: NodeId, name: String) -> Result<Vec<String>, AdmitError> {
        let join = Join {
            id,
            name,
            forwarded: false,
        };
        membership::welcome(&self.inner, &join).await
    }

    /// Removes a member, or puts another node in its place. Works on any member (it asks the leader); safe
    /// to repeat: a change that is made already is no error, and [`AdmitError::NoLeader`] is worth another
    /// attempt.
    pub async fn change_members(&self, wanted: &Change) -> Result<(), AdmitError> {
        change::change(&self.inner, wanted, false).await
    }

    /// Hands leadership to the most caught-up connected voter, if this node leads; what is proposed
    /// meanwhile waits for the next leader. Waits at most for about two election timeouts.
    pub async fn transfer_leadership(&self) {
        handover::transfer(&self.inner).await;
    }

    /// Takes a checkpoint now and purges the log up to it. Answers with its index.
    pub async fn checkpoint(&self) -> Result<u64, CheckpointError> {
        driver::checkpoint_now(&self.inner).await
    }

    /// A snapshot that covers everything applied before the call, held for as long as the answer is.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub async fn backup_source(&self) -> Result<BackupSource, CheckpointError> {
        driver::take(&self.inner).await?;
        let snapshot = self.inner.shared.store.current();
        snapshot
            .map(BackupSource::new)
            .ok_or(CheckpointError::Stopped)
    }

    /// Hands leadership over, stops consensus and answers everything that waits with `Stopped`.
    pub async fn shutdown(&self) {
        if !*self.inner.stop.borrow() {
            handover::transfer(&self.inner).await;
        }
        self.inner.stop.send_replace(true);
        let tasks = std::mem::take(&mut *self.inner.tasks.lock());
        for task in tasks {
            // A task that panicked has been logged by its panic; stopping goes on.
            drop(task.await);
        }
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::error!(%error, "consensus did not stop cleanly");
        }
        let inner = Arc::clone(&self.inner);
        let closing = tokio::task::spawn_blocking(move || {
            inner.shared.store.close();
            drop(inner.log.lock().take());
        });
        if let Err(error) = closing.await {
            tracing::error!(%error, "the stores did not close cleanly");
        }
        self.inner.wait_log_closed().await;
    }
}

impl Inner {
    /// openraft's replication tasks end shortly after its core and hold the log until then. Waits
    /// for them, so that the folder can be opened again by this process.
    async fn wait_log_closed(&self) {
        let lock = self.options.data_dir.join(LOG).join("LOCK");
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        loop {
            let free = std::fs::File::open(&lock).is_ok_and(|file| file.try_lock_shared().is_ok());
            if free {
                return;
            }
            if Instant::now() >= deadline {
                tracing::warn!("the log is still held");
                return;
            }
            tokio::time::sleep(CLOSE_POLL).await;
        }
    }

    fn spawn_tasks(
        self: &Arc<Self>,
        publish: watch::Sender<Leadership>,
        quorum_lost: Arc<AtomicBool>,
    ) {
        let proposer = Proposer {
            id: self.id,
            queue: Arc::clone(&self.queue),
            raft: self.raft.clone(),
            shared: Arc::clone(&self.shared),
            transport: Arc::clone(&self.transport),
            leadership: self.leadership.clone(),
            contact: Arc::clone(&self.contact),
            pause: self.pause.keeper(),
            stop: self.stop.subscribe(),
            options: self.options.clone(),
        };
        let reads = Arc::clone(&self.reads).run(self.stop.subscribe());
        let watching = status::watch_leadership(
            self.raft.clone(),
            Arc::clone(&self.contact),
            (publish, quorum_lost),
            self.options.heartbeat,
            self.options.stale(),
            self.stop.subscribe(),
        );
        let checkpoints = driver::run(Arc::clone(self), self.stop.subscribe());
        self.tasks.lock().extend([
            tokio::spawn(proposer.run()),
            tokio::spawn(reads),
            tokio::spawn(watching),
            tokio::spawn(checkpoints),
            tokio::spawn(mend::run(Arc::clone(self), self.stop.subscribe())),
            tokio::spawn(mend::scrub(Arc::clone(self), self.stop.subscribe())),
            tokio::spawn(membership::watch(Arc::clone(self), self.stop.subscribe())),
            tokio::spawn(vigil::keep(Arc::clone(self), self.stop.subscribe())),
            tokio::spawn(watchdog::watch(Arc::clone(self), self.stop.subscribe())),
        ]);
    }

    /// Whether this node has a membership, committed or not.
    pub(crate) fn has_members(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        self.returning || metrics.membership_config.voter_ids().next().is_some()
    }

    pub(crate) fn status(&self) -> ReplicaStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let named = |id: u64| {
            let name = membership.get_node(&id).map(|peer| peer.name.clone());
            (NodeId(id), name.unwrap_or_default())
        };
        let leadership = status::leadership(&metrics, &self.contact, self.options.stale());
        ReplicaStatus {
            node_id: self.id.0,
            leader: leadership.leader,
            term: metrics.current_term,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            applied_index: *self.shared.applied.borrow(),
            checkpoint_index: metrics.snapshot.map_or(0, |id| id.index),
            voters: membership.voter_ids().map(named).collect(),
            learners: membership.learner_ids().map(named).collect(),
            has_quorum: status::has_quorum(&metrics, &self.contact, self.options.stale()),
            // The metrics of a fresh start may not show the membership that is in the log yet.
            rejoining: self.rejoining.load(Ordering::Relaxed),
            initialized: self.returning || membership.voter_ids().next().is_some(),
            cluster_id: self.belonging.id(),
            awaits: self.belonging.admitted(),
            sled_bytes: self.shared.store.sled_bytes().unwrap_or(0),
            cache_bytes: self.shared.blocks.cached_bytes(),
            bytes_since_checkpoint: self.shared.bytes_since_checkpoint.load(Ordering::Relaxed),
            damaged_blocks: self.shared.suspects.damaged(),
            mended_blocks: self.shared.suspects.mended(),
            fatal: fatal(&metrics, &self.shared).or_else(|| self.ended.get().cloned()),
        }
    }
}
