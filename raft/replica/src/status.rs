//! Who leads and how this replica stands: what `/healthz`, the directory and JetStream look at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::{RaftDataMetrics, RaftServerMetrics};
use openraft::type_config::alias::WatchReceiverOf;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use unibus_proto::NodeId;

use crate::belonging::ClusterId;
use crate::replica::{Metrics, RaftCore};
use crate::types::TypeConfig;

/// Who leads, as this node knows it.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Leadership {
    /// The leader, if one is known and was heard of lately.
    pub leader: Option<NodeId>,
    /// The current term.
    pub term: u64,
    /// This node leads, has a quorum, and has applied everything earlier leaders committed.
    pub is_leader: bool,
}

/// A moment's view of the replica.
#[derive(Clone, Debug, Default)]
pub struct ReplicaStatus {
    /// This node.
    pub node_id: u64,
    /// The leader, if one is known and was heard of lately.
    pub leader: Option<NodeId>,
    /// The current term.
    pub term: u64,
    /// Index of the last entry in the local log.
    pub last_log_index: u64,
    /// Index of the last entry applied here.
    pub applied_index: u64,
    /// Index of the newest checkpoint, 0 if there is none.
    pub checkpoint_index: u64,
    /// Members that vote, with their names.
    pub voters: BTreeMap<NodeId, String>,
    /// Members that only receive, with their names.
    pub learners: BTreeMap<NodeId, String>,
    /// Whether the cluster can commit, as far as this node can tell from the last election timeout:
    /// a leader was acknowledged by a quorum, a follower heard of its leader.
    pub has_quorum: bool,
    /// Whether this node belongs to a cluster (has a membership).
    pub initialized: bool,
    /// The identity of its cluster; `None` where it has none yet.
    pub cluster_id: Option<ClusterId>,
    /// The cluster that has begun to admit this node: it takes part in no other, and forms none.
    pub awaits: Option<ClusterId>,
    /// Whether this node lost its store and has not been admitted again: it gives no vote.
    pub rejoining: bool,
    /// Size of the sled database on disk, bytes.
    pub sled_bytes: u64,
    /// Bytes in the recent-message cache.
    pub cache_bytes: usize,
    /// Entry bytes applied since the newest checkpoint.
    pub bytes_since_checkpoint: u64,
    /// Block files that are damaged and not mended yet.
    pub damaged_blocks: usize,
    /// Block files that were mended since the start.
    pub mended_blocks: u64,
    /// Why this replica takes nothing any more, if it does not (disk failure, damaged log).
    pub fatal: Option<String>,
}

/// When this node last heard of the leader it follows, and of the one before.
#[derive(Debug)]
pub(crate) struct Contact {
    start: Instant,
    heard: Mutex<[Option<(NodeId, Instant)>; 2]>,
    /// Silence after which a leader is none.
    stale: Duration,
    /// The leader said with its last request that it can commit nothing.
    quorum_lost: AtomicBool,
    /// A leader is heard of who was none until now.
    news: Notify,
}

impl Contact {
    pub(crate) fn new(stale: Duration) -> Self {
        Self {
            start: Instant::now(),
            heard: Mutex::default(),
            stale,
            quorum_lost: AtomicBool::new(false),
            news: Notify::new(),
        }
    }

    /// One that heard of this leader so long ago.
    #[cfg(test)]
    pub(crate) fn heard_before(leader: NodeId, age: Duration) -> Self {
        let contact = Self::new(Duration::MAX);
        contact.heard.lock()[0] = Some((leader, Instant::now() - age));
        contact
    }

    /// A leader's request was accepted now.
    pub(crate) fn heard(&self, leader: NodeId) {
        let mut heard = self.heard.lock();
        let last = heard[0];
        if last.is_some_and(|(last, _)| last != leader) {
            heard[1] = last;
        }
        heard[0] = Some((leader, Instant::now()));
        if last.is_none_or(|(last, at)| last != leader || at.elapsed() >= self.stale) {
            self.news.notify_one();
        }
    }

    /// What the leader's request said of its quorum.
    pub(crate) fn leader_has_quorum(&self, has: bool) {
        if self.quorum_lost.swap(!has, Ordering::Relaxed) == has {
            self.news.notify_one();
        }
    }

    /// Resolves when a leader is heard of who was none until now.
    async fn news(&self) {
        self.news.notified().await;
    }

    /// How long ago a leader was heard of; since the start if none was.
    pub(crate) fn age(&self) -> Duration {
        let heard = self.heard.lock();
        heard[0].map_or(self.start, |(_, at)| at).elapsed()
    }

    /// How long ago this one was heard of; `None` if it is neither of the last two leaders.
    pub(crate) fn age_of(&self, leader: NodeId) -> Option<Duration> {
        let heard = *self.heard.lock();
        let mut known = heard.into_iter().flatten();
        known
            .find(|(id, _)| *id == leader)
            .map(|(_, at)| at.elapsed())
    }
}

/// Whether the cluster can commit as far as this node can tell; see [`ReplicaStatus::has_quorum`].
pub(crate) fn has_quorum(metrics: &Metrics, contact: &Contact, stale: Duration) -> bool {
    if metrics.running_state.is_err() {
        return false;
    }
    match metrics.current_leader {
        Some(leader) if leader == metrics.id => {
            let mut voters = metrics.membership_config.voter_ids();
            let alone = voters.next() == Some(leader) && voters.next().is_none();
            let acked = metrics.last_quorum_acked.as_deref();
            alone || acked.is_some_and(|acked| acked.elapsed() < stale)
        }
        Some(_) => contact.age() < stale && !contact.quorum_lost.load(Ordering::Relaxed),
        None => false,
    }
}

/// Who leads, by the metrics and by what was heard lately.
pub(crate) fn leadership(metrics: &Metrics, contact: &Contact, stale: Duration) -> Leadership {
    let quorum = has_quorum(metrics, contact, stale);
    let leads = quorum && metrics.current_leader == Some(metrics.id) && metrics.state.is_leader();
    let applied_term = metrics
        .last_applied
        .map(|applied| applied.committed_leader_id().term);
    Leadership {
        leader: metrics.current_leader.filter(|_| quorum).map(NodeId),
        term: metrics.current_term,
        is_leader: leads && applied_term == Some(metrics.current_term),
    }
}

/// openraft's views of itself.
struct Views {
    all: WatchReceiverOf<TypeConfig, Metrics>,
    server: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
    data: WatchReceiverOf<TypeConfig, RaftDataMetrics<TypeConfig>>,
}

impl Views {
    fn new(raft: &RaftCore) -> Self {
        Self {
            all: raft.metrics(),
            server: raft.server_metrics(),
            data: raft.data_metrics(),
        }
    }

    /// What is known by now. Whoever is woken by one of the smaller views must not go by the one of
    /// everything: that is sent last, and then there may be nothing to wake him again until a heartbeat.
    fn latest(&self) -> Metrics {
        let mut latest = self.all.borrow_watched().clone();
        {
            let server = self.server.borrow_watched();
            latest.state = server.state;
            latest.current_leader = server.current_leader;
            latest.current_term = server.vote.leader_id.term;
            latest.membership_config = server.membership_config.clone();
        }
        let data = self.data.borrow_watched();
        latest.last_applied = data.last_applied;
        latest.last_quorum_acked = data.last_quorum_acked;
        latest
    }
}

/// Publishes [`Leadership`] whenever it changes, until the replica stops.
pub(crate) async fn watch_leadership(
    raft: RaftCore,
    contact: Arc<Contact>,
    (publish, quorum_lost): (watch::Sender<Leadership>, Arc<AtomicBool>),
    heartbeat: Duration,
    stale: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let mut views = Views::new(&raft);
    let mut reign: Option<(u64, Instant)> = None;
    while !*stop.borrow() {
        let metrics = views.latest();
        let elected = metrics.current_leader == Some(metrics.id);
        let now = leadership(&metrics, &contact, stale);
        // A new leader has not been acknowledged by anybody yet.
        reign = elected.then(|| match reign {
            Some(reign) if reign.0 == metrics.current_term => reign,
            _ => (metrics.current_term, Instant::now()),
        });
        let is_settled = reign.is_some_and(|(_, since)| since.elapsed() >= stale);
        let is_lost = is_settled && !has_quorum(&metrics, &contact, stale);
        quorum_lost.store(is_lost, Ordering::Relaxed);
        publish.send_if_modified(|published| {
            let changed = *published != now;
            *published = now;
            changed
        });
        // Data metrics change with every entry: they are followed only while a new leader is
        // about to become ready: to be acknowledged by a quorum, and to have applied an entry of its own.
        let settling = elected && !now.is_leader;
        tokio::select! {
            changed = views.server.changed() => if changed.is_err() { break },
            _ = views.data.changed(), if settling => {}
            // consensus may have told of a leader before its first request was accepted here.
            () = contact.news() => {}
            () = tokio::time::sleep(heartbeat) => {}
            _ = stop.changed() => break,
        }
    }
    publish.send_replace(Leadership::default());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use unibus_proto::NodeId;

    use super::Contact;

    fn is_news(contact: &Contact, leader: u64) -> bool {
        contact.heard(NodeId(leader));
        contact.news().now_or_never().is_some()
    }

    #[test]
    fn a_leader_that_was_none_is_news_and_one_that_is_known_is_not() {
        let contact = Contact::new(Duration::from_secs(3600));
        assert!(is_news(&contact, 1), "the first");
        assert!(!is_news(&contact, 1));
        assert!(is_news(&contact, 2), "another");
        assert!(is_news(&contact, 1), "the one before");
        assert!(!is_news(&contact, 1));

        let forgetful = Contact::new(Duration::ZERO);
        assert!(is_news(&forgetful, 1));
        assert!(is_news(&forgetful, 1), "after a silence that was too long");
    }
}
