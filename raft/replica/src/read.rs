//! Linearizable reads: a round asks the leader (or its lease) for an index, and serves everything that was
//! waiting when it began. On the leader there is one at a time, which costs least; on other nodes a few go
//! side by side, because each is mostly waiting for the network.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::LinearizerOption;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use unibus_proto::NodeId;

use crate::errors::ReadError;
use crate::options::ReplicaOptions;
use crate::replica::{GROUP, RaftCore};
use crate::rpc::{decode_index, encode_read};
use crate::status::Leadership;
use crate::transport::{RpcClass, Transport};

/// Reads that may wait for the next round.
const WAITING_MAX: usize = 65_536;
/// Rounds at once where the leader is another node.
const REMOTE_ROUNDS_MAX: usize = 4;
/// Pause before a round that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

type Answer = Result<u64, ReadError>;

/// The reads that wait.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    answers: Vec<oneshot::Sender<Answer>>,
    closed: bool,
}

impl Reads {
    /// Joins the next round; its index covers everything acknowledged before this call.
    pub(crate) async fn index(&self) -> Answer {
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

    fn take(&self) -> Vec<oneshot::Sender<Answer>> {
        std::mem::take(&mut self.waiting.lock().answers)
    }

    fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        waiting.answers.clear();
    }
}

/// What the task behind [`Reads`] works with.
pub(crate) struct Reader {
    pub(crate) id: NodeId,
    pub(crate) reads: Arc<Reads>,
    pub(crate) raft: RaftCore,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) options: ReplicaOptions,
}

impl Reader {
    /// Runs until the replica stops.
    pub(crate) async fn run(self) {
        let mut stop = self.stop.clone();
        let mut rounds = FuturesUnordered::new();
        while !*stop.borrow() {
            tokio::select! {
                _ = stop.changed() => {}
                () = self.reads.wake.notified(), if rounds.len() < self.rounds_max() => {
                    let waiting = self.reads.take();
                    if !waiting.is_empty() {
                        rounds.push(self.serve(waiting));
                    }
                }
                Some(()) = rounds.next() => {}
            }
        }
        // Those that are under way are told that the replica has stopped.
        drop(rounds);
        self.reads.close();
    }

    fn rounds_max(&self) -> usize {
        if self.leadership.borrow().is_leader {
            1
        } else {
            REMOTE_ROUNDS_MAX
        }
    }

    async fn serve(&self, waiting: Vec<oneshot::Sender<Answer>>) {
        let answer = self.round().await;
        for reader in waiting {
            // A reader that dropped its future no longer wants to know.
            drop(reader.send(answer.clone()));
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

    async fn local(&self, deadline: Instant) -> Option<u64> {
        let wait = deadline
            .saturating_duration_since(Instant::now())
            .min(self.options.election_max);
        read_index(&self.raft, lease(&self.options), wait).await
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

/// How old a quorum's acknowledgement may be for a read without asking again. openraft forgets a
/// follower's promise to the leader when the follower restarts, so this stays well under the
/// shortest time after a start in which a node gives no vote (see `handler`) and seeks none, and under
/// the loyalty of followers that have not restarted.
pub(crate) fn lease(options: &ReplicaOptions) -> Duration {
    options.election_min * 3 / 4
}

/// The leader's answer: by its lease if that is valid, else by asking a quorum. `None` if this node
/// can't show that it leads.
pub(crate) async fn read_index(raft: &RaftCore, lease: Duration, wait: Duration) -> Option<u64> {
    let option = LinearizerOption::new(Some(lease), true).with_wait_timeout(wait);
    match raft.get_read_linearizer(option).await {
        Ok(linearizer) => Some(linearizer.read_log_id().index()),
        Err(error) => {
            tracing::debug!(%error, "no read index");
            None
        }
    }
}
