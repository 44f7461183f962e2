//! Since when the present leader leads, as this node saw it: what an info's `leader_since` tells.

use parking_lot::Mutex;
use unibus_proto::NodeId;
use unibus_proto::jetstream::timestamp::Timestamp;

/// The last leader that was seen.
#[derive(Debug, Default)]
pub(super) struct Reign(Mutex<Option<Seen>>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    leader: NodeId,
    term: u64,
    since: Timestamp,
}

impl Reign {
    /// Takes what is known at `now`. The same leader in the same term goes on leading, also after a
    /// moment in which nobody was known.
    pub(super) fn saw(&self, leader: Option<NodeId>, term: u64, now: Timestamp) {
        let Some(leader) = leader else { return };
        let mut seen = self.0.lock();
        let goes_on = seen.is_some_and(|seen| seen.leader == leader && seen.term == term);
        if !goes_on {
            *seen = Some(Seen {
                leader,
                term,
                since: now,
            });
        }
    }

    /// Since when `leader` leads; `None` = this node has not seen it lead.
    pub(super) fn since(&self, leader: NodeId) -> Option<Timestamp> {
        let seen = *self.0.lock();
        seen.filter(|seen| seen.leader == leader)
            .map(|seen| seen.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reign_begins_with_a_leader_or_a_term() {
        let (a, b) = (NodeId(1), NodeId(2));
        let reign = Reign::default();
        assert_eq!(reign.since(a), None);
        reign.saw(Some(a), 1, Timestamp(10));
        reign.saw(None, 1, Timestamp(20));
        reign.saw(Some(a), 1, Timestamp(30));
        assert_eq!(
            (reign.since(a), reign.since(b)),
            (Some(Timestamp(10)), None)
        );
        reign.saw(Some(a), 2, Timestamp(40));
        assert_eq!(reign.since(a), Some(Timestamp(40)));
        reign.saw(Some(b), 3, Timestamp(50));
        assert_eq!(
            (reign.since(a), reign.since(b)),
            (None, Some(Timestamp(50)))
        );
    }
}
