//! The leader's own answer to a read: the index that covers everything acknowledged so far, from what
//! consensus has published, without a message to its task.
//!
//! Two things have to hold. Nobody else can have acknowledged anything: a quorum acknowledged this leader
//! less than a lease ago and gives no other node a vote before that is over (Raft, section 6.4.1), unless
//! this leader asked it to by handing over, or its clock stood still meanwhile (`suspend`). And the index has to cover what any reader may have seen
//! already: what is applied here, from which proposals are answered, and each commit index that this
//! leader has told a follower, which may have applied it earlier than this node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::{RaftDataMetrics, RaftServerMetrics};
use openraft::type_config::alias::WatchReceiverOf;
use tokio::sync::watch;
use unibus_proto::NodeId;

use crate::options::ReplicaOptions;
use crate::replica::RaftCore;
use crate::suspend::Suspensions;
use crate::types::{LogId, TypeConfig};

/// How old a quorum's acknowledgement may be for a read without asking again. openraft forgets a
/// follower's promise to the leader when the follower restarts, so this stays well under the
/// shortest time after a start in which a node gives no vote (see `handler`) and seeks none, and under
/// the loyalty of followers that have not restarted.
fn length(options: &ReplicaOptions) -> Duration {
    options.election_min * 3 / 4
}

/// The highest commit index that this node, leading, has told anyone.
#[derive(Debug, Default)]
pub(crate) struct Told(AtomicU64);

impl Told {
    /// Must be called before the request that carries it is sent.
    pub(crate) fn note(&self, commit: Option<&LogId>) {
        if let Some(commit) = commit {
            self.0.fetch_max(commit.index, Ordering::SeqCst);
        }
    }

    fn index(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// What shows that this node leads, and up to where reads must wait.
pub(crate) struct Lease {
    id: NodeId,
    length: Duration,
    server: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
    data: WatchReceiverOf<TypeConfig, RaftDataMetrics<TypeConfig>>,
    applied: watch::Receiver<u64>,
    told: Arc<Told>,
    suspensions: Suspensions,
    /// Hand-overs that are going on: in the term of each, followers owe this leader nothing any more.
    handing_over: AtomicUsize,
    /// The last term in which one was.
    given_up: AtomicU64,
}

impl Lease {
    pub(crate) fn new(
        id: NodeId,
        options: &ReplicaOptions,
        raft: &RaftCore,
        applied: watch::Receiver<u64>,
        told: Arc<Told>,
    ) -> Self {
        Self {
            id,
            length: length(options),
            server: raft.server_metrics(),
            data: raft.data_metrics(),
            applied,
            told,
            suspensions: Suspensions::new(),
            handing_over: AtomicUsize::new(0),
            given_up: AtomicU64::new(0),
        }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.id
    }

    /// An index that covers everything acknowledged before the call; `None` where that is not certain.
    pub(crate) fn read_index(&self) -> Option<u64> {
        let (term, alone) = self.leads()?;
        let is_given_up = self.handing_over.load(Ordering::SeqCst) > 0
            || term <= self.given_up.load(Ordering::SeqCst);
        if is_given_up || !self.is_acknowledged(term, alone) {
            return None;
        }
        Some((*self.applied.borrow()).max(self.told.index()))
    }

    /// The term in which this node leads, and whether it is the only voter.
    fn leads(&self) -> Option<(u64, bool)> {
        let server = self.server.borrow_watched();
        let vote = &server.vote;
        // The state is known before the vote that led to it is told: they have to be of one leadership.
        let is_own = vote.committed && vote.leader_id.node_id == self.id.0;
        if !is_own || !server.state.is_leader() || server.current_leader != Some(self.id.0) {
            return None;
        }
        let mut voters = server.membership_config.voter_ids();
        let alone = voters.next() == Some(self.id.0) && voters.next().is_none();
        Some((vote.leader_id.term, alone))
    }

    /// Whether this leader has applied an entry of its own term, so that what earlier ones committed is
    /// applied too, and a quorum acknowledged it within the lease.
    fn is_acknowledged(&self, term: u64, alone: bool) -> bool {
        let data = self.data.borrow_watched();
        let applied_term = data.last_applied.map(|at| at.committed_leader_id().term);
        let acked = data.last_quorum_acked.as_deref();
        applied_term == Some(term)
            && (alone || acked.is_some_and(|acked| acked.elapsed() < self.max_age()))
    }

    /// How old a quorum's acknowledgement may be for a read; nothing, if the system may have been suspended since
    /// one of that age.
    pub(crate) fn max_age(&self) -> Duration {
        match self.suspensions.any_within(self.length) {
            true => Duration::ZERO,
            false => self.length,
        }
    }

    #[cfg(test)]
    pub(crate) fn note_suspension(&self) {
        self.suspensions.note();
    }

    /// No lease from now on: followers are about to be told to forget what they owe this leader.
    pub(crate) fn suspend(&self) {
        self.handing_over.fetch_add(1, Ordering::SeqCst);
    }

    /// The end of one [`Lease::suspend`]: a lease of a later term than this is good again.
    pub(crate) fn resume_after(&self, term: u64) {
        self.given_up.fetch_max(term, Ordering::SeqCst);
        self.handing_over.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::Told;
    use crate::types::{LeaderId, LogId};

    #[test]
    fn the_highest_commit_index_told_is_kept() {
        let told = Told::default();
        let leader = LeaderId {
            term: 1,
            node_id: 1,
        };
        let commit = |index| LogId::new(leader, index);
        for (index, highest) in [(7, 7), (5, 7), (9, 9)] {
            told.note(Some(&commit(index)));
            told.note(None);
            assert_eq!(told.index(), highest);
        }
    }
}
