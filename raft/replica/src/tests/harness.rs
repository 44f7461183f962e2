//! Nodes and a network in one process. Waits end by condition or by deadline, never by time alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, ready};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::time::Instant;
use unibus_proto::NodeId;
use unibus_proto::jetstream::config::StreamConfig;
use unibus_state::command::StreamPut;
use unibus_state::{Command, CommandBatch, Effect, EncodedBatch, Outcome, State, StoredMessage};

use crate::{
    GroupId, Observer, OnDamage, OpenStore, Proposed, Replica, ReplicaOptions, RpcClass,
    RpcHandler, StartError, Transport, TransportError,
};

/// No wait of a test takes longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// Handlers by node, and the pairs that can't talk.
#[derive(Default)]
pub(crate) struct Net {
    /// No timer of consensus ends while a test runs: everything has to follow from what happens.
    without_timers: bool,
    handlers: Mutex<BTreeMap<NodeId, Arc<dyn RpcHandler>>>,
    cut: Mutex<BTreeSet<NodeId>>,
    /// Nodes that look connected, and from and to which nothing gets through.
    mute: Mutex<BTreeSet<NodeId>>,
    /// Requests of each class so far.
    calls: Mutex<BTreeMap<RpcClass, u64>>,
    /// Requests of a class that get through before its stream breaks.
    limits: Mutex<BTreeMap<RpcClass, u64>>,
    /// Requests that did not get through by such a limit.
    pub(crate) broken: AtomicU64,
    /// Nodes speak the version of routes from before clusters had identities.
    pub(crate) is_old: AtomicBool,
}

impl Net {
    pub(crate) fn without_timers() -> Arc<Self> {
        Arc::new(Self {
            without_timers: true,
            ..Self::default()
        })
    }

    pub(crate) fn isolate(&self, id: NodeId) {
        self.cut.lock().insert(id);
    }

    pub(crate) fn mute(&self, id: NodeId) {
        self.mute.lock().insert(id);
    }

    pub(crate) fn heal(&self) {
        self.cut.lock().clear();
        self.mute.lock().clear();
    }

    fn is_mute(&self, a: NodeId, b: NodeId) -> bool {
        let mute = self.mute.lock();
        mute.contains(&a) || mute.contains(&b)
    }

    pub(crate) fn calls(&self, class: RpcClass) -> u64 {
        self.calls.lock().get(&class).copied().unwrap_or(0)
    }

    pub(crate) fn limit(&self, class: RpcClass, calls: u64) {
        self.limits.lock().insert(class, calls);
    }

    /// Counts a request; `false` if its class is over the limit.
    fn count(&self, class: RpcClass) -> bool {
        let mut calls = self.calls.lock();
        let count = calls.entry(class).or_default();
        let limit = self.limits.lock().get(&class).copied();
        let passes = limit.is_none_or(|limit| *count < limit);
        *count += u64::from(passes);
        self.broken.fetch_add(u64::from(!passes), Ordering::SeqCst);
        passes
    }

    fn open(&self, a: NodeId, b: NodeId) -> bool {
        let cut = self.cut.lock();
        !cut.contains(&a) && !cut.contains(&b)
    }
}

/// One node's end of the network.
struct Link {
    net: Arc<Net>,
    id: NodeId,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link({})", self.id)
    }
}

impl Transport for Link {
    fn call(
        &self,
        target: NodeId,
        class: RpcClass,
        group: GroupId,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let handler = self.net.handlers.lock().get(&target).cloned();
        let Some(handler) = handler.filter(|_| self.net.open(self.id, target)) else {
            return ready(Err(TransportError::Unreachable(target))).boxed();
        };
        if self.net.is_mute(self.id, target) {
            return futures::future::pending().boxed();
        }
        if !self.net.count(class) {
            let lost = TransportError::Lost(target, "the stream broke".to_owned());
            return ready(Err(lost)).boxed();
        }
        let served = tokio::spawn(handler.handle(self.id, class, group, request));
        let (net, id) = (Arc::clone(&self.net), self.id);
        async move {
            let answer = served
                .await
                .map_err(|error| TransportError::Lost(target, error.to_string()))?;
            if net.is_mute(id, target) {
                futures::future::pending::<()>().await;
            }
            if !net.open(id, target) {
                return Err(TransportError::Lost(target, "cut".to_owned()));
            }
            answer.map_err(|error| TransportError::Refused(target, error))
        }
        .boxed()
    }

    fn connected(&self) -> Vec<NodeId> {
        let handlers = self.net.handlers.lock();
        let others = handlers.keys().copied().filter(|id| *id != self.id);
        others.filter(|id| self.net.open(self.id, *id)).collect()
    }

    fn protocol(&self, peer: NodeId) -> Option<u32> {
        let version = match self.net.is_old.load(Ordering::SeqCst) {
            true => crate::CLUSTER_IDS_FROM - 1,
            false => crate::CLUSTER_IDS_FROM,
        };
        self.net.open(self.id, peer).then_some(version)
    }
}

/// Counts what the observer hears.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) effects: Mutex<Vec<Effect>>,
    /// Highest last sequence of stream S that the observer was shown.
    pub(crate) last_seq: AtomicU64,
}

impl Observer for Recorder {
    fn applied(&self, state: &State, effects: &[Effect]) {
        self.effects.lock().extend_from_slice(effects);
        if let Some(stream) = state.stream("S") {
            self.last_seq.fetch_max(stream.last_seq(), Ordering::SeqCst);
        }
    }
}

/// One node: its folder outlives its replica.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    dir: TempDir,
    net: Arc<Net>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) checkpoint_log_bytes: u64,
    pub(crate) on_damage: OnDamage,
    pub(crate) scrub_pause: Duration,
    pub(crate) propose_timeout: Duration,
    running: Option<Replica>,
}

impl Node {
    pub(crate) async fn start(net: &Arc<Net>, name: &str) -> Self {
        Self::start_in(net, name, tempfile::tempdir().unwrap()).await
    }

    /// Starts on what a folder holds.
    pub(crate) async fn start_in(net: &Arc<Net>, name: &str, dir: TempDir) -> Self {
        let mut node = Self {
            id: NodeId(0),
            name: name.to_owned(),
            dir,
            net: Arc::clone(net),
            recorder: Arc::default(),
            checkpoint_log_bytes: 256 << 20,
            on_damage: OnDamage::Rejoin,
            scrub_pause: Duration::from_secs(3600),
            propose_timeout: Duration::from_secs(10),
            running: None,
        };
        node.restart().await;
        node
    }

    /// The folder of the store.
    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("store")
    }

    /// The node's folder.
    pub(crate) fn home(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(crate) async fn restart(&mut self) {
        self.try_restart().await.unwrap();
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The options of this node's replica.
    pub(crate) fn options(&self) -> ReplicaOptions {
        let mut options = ReplicaOptions::new(self.dir.path(), &self.name);
        options.log_segment_bytes = 1 << 20;
        options.checkpoint_log_bytes = self.checkpoint_log_bytes;
        options.sled_cache_bytes = 1 << 20;
        options.scrub_pause = self.scrub_pause;
        // Tests share two slow cores: elections must not start by scheduling delay.
        options.heartbeat = Duration::from_millis(150);
        options.election_min = Duration::from_millis(1000);
        options.election_max = Duration::from_millis(1600);
        if self.net.without_timers {
            options.heartbeat = Duration::from_secs(1000);
            options.election_min = Duration::from_secs(3000);
            options.election_max = Duration::from_secs(6000);
        }
        options.no_leader_timeout = Duration::from_secs(4);
        options.propose_timeout = self.propose_timeout;
        options.read_timeout = Duration::from_secs(10);
        options
    }

    pub(crate) async fn try_restart(&mut self) -> Result<(), StartError> {
        let (options, on_damage) = (self.options(), self.on_damage);
        let store = tokio::task::spawn_blocking(move || OpenStore::open(options, on_damage))
            .await
            .unwrap()?;
        self.id = store.id();
        let link = Link {
            net: Arc::clone(&self.net),
            id: self.id,
        };
        self.recorder = Arc::default();
        let observer: Arc<dyn Observer> = Arc::clone(&self.recorder) as _;
        let replica = Replica::start(store, Arc::new(link), observer).await?;
        self.net.handlers.lock().insert(self.id, replica.handler());
        self.running = Some(replica);
        Ok(())
    }

    /// Takes the node off the network and stops it without a hand-over.
    pub(crate) async fn kill(&mut self) {
        self.net.handlers.lock().remove(&self.id);
        if let Some(replica) = self.running.take() {
            replica.shutdown().await;
        }
    }
}

impl std::ops::Deref for Node {
    type Target = Replica;

    fn deref(&self) -> &Replica {
        self.running.as_ref().unwrap()
    }
}

/// Polls until `check` holds; fails the test at the deadline.
pub(crate) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !check() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A command that makes stream S for `s.>`.
pub(crate) fn create_stream() -> EncodedBatch {
    let config = StreamConfig {
        name: "S".to_owned(),
        subjects: vec!["s.>".to_owned()],
        ..StreamConfig::default()
    };
    let put = StreamPut {
        config,
        privileged: false,
        replicas_max: 5,
        pedantic: false,
    };
    EncodedBatch::of(&Command::StreamCreate(put)).unwrap()
}

/// Messages to stream S.
pub(crate) fn messages(payloads: &[&str]) -> EncodedBatch {
    let mut batch = CommandBatch::new();
    for payload in payloads {
        batch
            .push_append(b"s.a", 0, payload.as_bytes(), false)
            .unwrap();
    }
    batch.freeze()
}

/// The sequences that a proposal's outcomes name.
pub(crate) fn sequences(proposed: &Proposed) -> Vec<u64> {
    let seq = |outcome: &Outcome| match outcome {
        Outcome::Published { seq, .. } => *seq,
        other => panic!("not published: {other:?}"),
    };
    proposed.outcomes.iter().map(seq).collect()
}

/// The payload stored under a sequence of stream S at this node.
pub(crate) fn payload(replica: &Replica, seq: u64) -> Option<Bytes> {
    let at = replica.with_state(|state| state.stream("S")?.get(seq))?;
    let record = replica.read_record(&at).unwrap();
    Some(StoredMessage::decode(record).unwrap().payload)
}

/// Three nodes that form a cluster, with stream S in it.
pub(crate) async fn three(net: &Arc<Net>) -> Vec<Node> {
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(Node::start(net, name).await);
    }
    let members: BTreeMap<NodeId, String> = nodes
        .iter()
        .map(|node| (node.id, node.name.clone()))
        .collect();
    // Only the first of them can win; the others learn of the cluster by its election. Without timers nobody
    // would ask again after votes that others split.
    let asking = if net.without_timers { 1 } else { 3 };
    for node in nodes.iter().take(asking) {
        drop(node.initialize(members.clone()).await);
    }
    eventually("a leader that all know", || {
        let leaders: BTreeSet<_> = nodes
            .iter()
            .map(|node| node.leadership().borrow().leader)
            .collect();
        leaders.len() == 1 && !leaders.contains(&None)
    })
    .await;
    let created = nodes[0].propose(create_stream()).await.unwrap();
    assert_eq!(created.outcomes, [Outcome::Done]);
    nodes
}

/// Position of the leader.
pub(crate) fn leader_of(nodes: &[Node]) -> usize {
    let leads = |node: &Node| node.leadership().borrow().is_leader;
    nodes.iter().position(leads).unwrap()
}

/// Waits until all nodes hold the same state at the same index.
pub(crate) async fn equal_digests(nodes: &[&Node]) {
    let index = nodes[0].read_barrier().await.unwrap();
    for node in nodes {
        let deadline = std::time::Instant::now() + DEADLINE;
        node.wait_applied(index, deadline).await.unwrap();
    }
    let digests: BTreeSet<[u8; 32]> = nodes
        .iter()
        .map(|node| node.with_state(State::digest))
        .collect();
    assert_eq!(digests.len(), 1);
}
