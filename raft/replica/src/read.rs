//! Linearizable reads: an index that covers everything acknowledged before the read began. The leader's lease
//! gives it at once; other nodes ask the leader, a few times side by side, because each is mostly waiting
//! for the network. What comes while those are out, or finds no answer, waits for a round that serves
//! everything that was waiting when it began, and is tried again.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::LinearizerOption;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::Instant;
use unibus_proto::NodeId;

use crate::errors::ReadError;
use crate::lease::Lease;
use crate::options::ReplicaOptions;
use crate::replica::{GROUP, RaftCore};
use crate::rpc::{decode_index, encode_read};
use crate::status::Leadership;
use crate::transport::{RpcClass, Transport};

/// Reads that may wait for the next round.
const WAITING_MAX: usize = 65_536;
/// Questions to a leader elsewhere that go out without waiting for a round.
const DIRECT_MAX: usize = 4;
/// Rounds at once where the leader is another node.
const REMOTE_ROUNDS_MAX: usize = 4;
/// Pause before a round that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

type Answer = Result<u64, ReadError>;

/// The reads of a node.
pub(crate) struct Reads {
    asker: Asker,
    direct: Semaphore,
    waiting: Mutex<Waiting>,
    wake: Notify,
}

/// Those that wait for a round.
#[derive(Debug, Default)]
struct Waiting {
    answers: Vec<oneshot::Sender<Answer>>,
    closed: bool,
}

impl Reads {
    pub(crate) fn new(asker: Asker) -> Arc<Self> {
        Arc::new(Self {
            asker,
            direct: Semaphore::new(DIRECT_MAX),
            waiting: Mutex::default(),
            wake: Notify::new(),
        })
    }

    /// An index that covers everything acknowledged before this call.
    pub(crate) async fn index(&self) -> Answer {
        if self.waiting.lock().closed {
            return Err(ReadError::Stopped);
        }
        if let Some(index) = self.asker.lease.read_index() {
            return Ok(index);
        }
        if let Ok(_permit) = self.direct.try_acquire()
            && let Some(index) = self.asker.elsewhere().await
        {
            return Ok(index);
        }
        self.in_a_round().await
    }

    async fn in_a_round(&self) -> Answer {
        let (answer, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.closed {
                return Err(ReadError::Stopped);
            }
            if waiting.answers.len() >= WAITING_MAX {
                return Err(ReadError::TimedOut);
            }
            waiting.answers.push(answer);
        }
        self.wake.notify_one();
        receiver.await.unwrap_or(Err(ReadError::Stopped))
    }

    /// Serves rounds until the replica stops.
    pub(crate) async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut rounds = FuturesUnordered::new();
        while !*stop.borrow() {
            tokio::select! {
                _ = stop.changed() => {}
                () = self.wake.notified(), if rounds.len() < self.asker.rounds_max() => {
                    let waiting = self.take();
                    if !waiting.is_empty() {
                        rounds.push(self.serve(waiting));
                    }
                }
                Some(()) = rounds.next() => {}
            }
        }
        // Those that are under way are told that the replica has stopped.
        drop(rounds);
        self.close();
    }

    async fn serve(&self, waiting: Vec<oneshot::Sender<Answer>>) {
        let answer = self.asker.round().await;
        for reader in waiting {
            // A reader that dropped its future no longer wants to know.
            drop(reader.send(answer.clone()));
        }
    }

    fn take(&self) -> Vec<oneshot::Sender<Answer>> {
        std::mem::take(&mut self.waiting.lock().answers)
    }

    fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        waiting.answers.clear();
    }
}

/// Asks whoever leads.
pub(crate) struct Asker {
    pub(crate) id: NodeId,
    pub(crate) raft: RaftCore,
    pub(crate) lease: Arc<Lease>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) options: ReplicaOptions,
}

impl Asker {
    /// On the leader there is one round at a time, which costs least.
    fn rounds_max(&self) -> usize {
        if self.leadership.borrow().is_leader {
            1
        } else {
            REMOTE_ROUNDS_MAX
        }
    }

    /// Tries until the deadline, wherever the leader is.
    async fn round(&self) -> Answer {
        let start = Instant::now();
        let deadline = start + self.options.read_timeout;
        loop {
            let leader = self.leadership.borrow().leader;
            let index = match leader {
                None => None,
                Some(leader) if leader == self.id => self.local(deadline).await,
                Some(leader) => self.remote(leader, deadline).await,
            };
            if let Some(index) = index {
                return Ok(index);
            }
            if leader.is_none() && start.elapsed() >= self.options.no_leader_timeout {
                return Err(ReadError::NoLeader);
            }
            if Instant::now() >= deadline {
                return Err(ReadError::TimedOut);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// The answer of a leader that is another node, asked once.
    async fn elsewhere(&self) -> Option<u64> {
        let leader = self.leadership.borrow().leader;
        let leader = leader.filter(|leader| *leader != self.id)?;
        self.remote(leader, Instant::now() + self.options.read_timeout)
            .await
    }

    async fn local(&self, deadline: Instant) -> Option<u64> {
        let wait = deadline
            .saturating_duration_since(Instant::now())
            .min(self.options.election_max);
        read_index(&self.raft, self.lease.max_age(), wait).await
    }

    async fn remote(&self, leader: NodeId, deadline: Instant) -> Option<u64> {
        let deadline = deadline.min(Instant::now() + self.options.election_max * 2);
        let call = self
            .transport
            .call(leader, RpcClass::Read, GROUP, encode_read());
        let answer = tokio::time::timeout_at(deadline, call).await.ok()?.ok()?;
        decode_index(answer).ok().flatten()
    }
}

/// Consensus's own answer: by a quorum's acknowledgement if there is one of at most `max_age`, else by asking.
/// `None` if this node can't show that it leads.
pub(crate) async fn read_index(raft: &RaftCore, max_age: Duration, wait: Duration) -> Option<u64> {
    let option = LinearizerOption::new(Some(max_age), true).with_wait_timeout(wait);
    match raft.get_read_linearizer(option).await {
        Ok(linearizer) => Some(linearizer.read_log_id().index()),
        Err(error) => {
            tracing::debug!(%error, "no read index");
            None
        }
    }
}
