//! Follows the route to the leader: when it is gone, the leader's process most likely is too, and the
//! next leader is elected as soon as followers owe the old one nothing, instead of after its silence.
//!
//! It only makes openraft ask earlier. A pre-vote comes first, and no follower grants one while it has
//! heard of the leader within its loyalty: where only this node lost its route, nothing happens.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;
use tokio::time::Instant;
use unibus_proto::NodeId;

use crate::options::ReplicaOptions;
use crate::replica::{Inner, Metrics};

/// How often the route is looked at, in parts of a heartbeat.
const LOOKS_PER_HEARTBEAT: u32 = 4;

/// Looks until the replica stops.
pub(crate) async fn keep(inner: Arc<Inner>, mut stop: watch::Receiver<bool>) {
    let mut vigil = Vigil::default();
    while !*stop.borrow() {
        tokio::select! {
            _ = stop.changed() => break,
            () = tokio::time::sleep(inner.options.heartbeat / LOOKS_PER_HEARTBEAT) => {}
        }
        let gone = gone_leader(&inner);
        if !vigil.is_due(gone, &inner.options, Instant::now()) {
            continue;
        }
        if let Some(gone) = gone {
            tracing::info!(
                leader = gone.leader.0,
                term = gone.term,
                "the route to the leader is gone: asking for votes"
            );
        }
        if inner.raft.trigger().elect(true).await.is_err() {
            break;
        }
    }
}

/// A leader that this node follows and has no route to.
#[derive(Copy, Clone, Debug)]
struct Gone {
    leader: NodeId,
    term: u64,
    /// How long it has not been heard of.
    silence: Duration,
    /// This node's place among those that may stand for election.
    rank: u32,
}

fn gone_leader(inner: &Inner) -> Option<Gone> {
    let metrics = inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    let leader = metrics.current_leader.map(NodeId)?;
    if leader == inner.id || inner.transport.connected().contains(&leader) {
        return None;
    }
    Some(Gone {
        leader,
        term: metrics.current_term,
        silence: inner
            .contact
            .age_of(leader)
            .unwrap_or_else(|| inner.contact.age()),
        rank: rank(&metrics, leader)?,
    })
}

/// Where this node stands among the voters without the leader; another begins in each term, so that one
/// that can't win does not always come first. `None` for a node that has no vote.
fn rank(metrics: &Metrics, leader: NodeId) -> Option<u32> {
    let voters: Vec<u64> = metrics
        .membership_config
        .voter_ids()
        .filter(|id| *id != leader.0)
        .collect();
    place(&voters, metrics.id, metrics.current_term)
}

fn place(voters: &[u64], own: u64, term: u64) -> Option<u32> {
    let mut sorted = voters.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let place = sorted.iter().position(|id| *id == own)? as u64;
    let count = sorted.len() as u64;
    u32::try_from((place + term) % count).ok()
}

/// When votes were asked for last, and how long the next attempt waits.
#[derive(Debug, Default)]
struct Vigil {
    last: Option<(NodeId, u64)>,
    not_before: Option<Instant>,
    pause: Duration,
}

impl Vigil {
    /// Whether votes are to be asked for now. Repeats with growing pauses up to an election timeout: the
    /// others may owe their votes a moment longer, or for as long as only this node misses its route.
    fn is_due(&mut self, gone: Option<Gone>, options: &ReplicaOptions, now: Instant) -> bool {
        let Some(gone) = gone else {
            *self = Self::default();
            return false;
        };
        if self.last != Some((gone.leader, gone.term)) {
            self.last = Some((gone.leader, gone.term));
            self.not_before = None;
            self.pause = options.heartbeat / LOOKS_PER_HEARTBEAT;
        }
        // Each lets those before it have their try, so that votes are not split.
        let turn = options.loyalty() + options.heartbeat * gone.rank;
        if gone.silence < turn || self.not_before.is_some_and(|at| now < at) {
            return false;
        }
        self.not_before = Some(now + self.pause);
        self.pause = (self.pause * 2).min(options.election_max);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;
    use unibus_proto::NodeId;

    use super::{Gone, Vigil, place};
    use crate::options::ReplicaOptions;

    fn gone(term: u64, silence_ms: u64, rank: u32) -> Option<Gone> {
        Some(Gone {
            leader: NodeId(1),
            term,
            silence: Duration::from_millis(silence_ms),
            rank,
        })
    }

    #[test]
    fn votes_are_asked_for_when_loyalty_is_over_and_those_before_had_their_turn() {
        let options = ReplicaOptions::new("home", "n0");
        let now = Instant::now();
        let mut vigil = Vigil::default();
        assert!(!vigil.is_due(None, &options, now));
        assert!(!vigil.is_due(gone(1, 449, 0), &options, now));
        assert!(vigil.is_due(gone(1, 450, 0), &options, now));
        let mut second = Vigil::default();
        assert!(!second.is_due(gone(1, 549, 1), &options, now));
        assert!(second.is_due(gone(1, 550, 1), &options, now));
    }

    #[test]
    fn attempts_become_rarer_and_begin_anew_with_a_new_leader() {
        let options = ReplicaOptions::new("home", "n0");
        let start = Instant::now();
        let mut vigil = Vigil::default();
        let attempts = (0..60_000u64)
            .filter(|ms| {
                let at = start + Duration::from_millis(*ms);
                vigil.is_due(gone(1, 450 + ms, 0), &options, at)
            })
            .count();
        // 25 + 50 + … + 400 ms, then one each 600 ms.
        assert!((95..=110).contains(&attempts), "{attempts}");
        let at = start + Duration::from_millis(60_001);
        assert!(vigil.is_due(gone(2, 450, 0), &options, at));
    }

    #[test]
    fn every_voter_has_a_place_of_its_own_and_another_is_first_in_the_next_term() {
        let places = |term| -> Vec<_> {
            [7, 9, 30]
                .iter()
                .map(|own| place(&[30, 7, 9], *own, term).unwrap())
                .collect()
        };
        assert_eq!(places(0), [0, 1, 2]);
        assert_eq!(places(1), [1, 2, 0]);
        assert_eq!(place(&[7, 9], 8, 0), None);
    }
}
