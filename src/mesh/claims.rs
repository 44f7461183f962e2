//! Which processes claim one node id. A process that comes back after another one took its place runs beside
//! that one, on a copy of the same data folder: what either says of its store may be what the other never
//! wrote, so neither gets a route while both are there.

use std::collections::BTreeMap;
use std::time::Instant;

use unibus_proto::NodeId;

use super::limits::{CLAIM_MEMORY, CLAIMS_MAX};

/// The processes that lost their place to another one, or were refused because of that, by node id.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    nodes: BTreeMap<NodeId, Vec<Claim>>,
}

/// One process, by its incarnation.
#[derive(Debug)]
struct Claim {
    incarnation: u64,
    seen: Instant,
    /// It was there at the same time as another one.
    contested: bool,
}

impl Claims {
    /// Whether a newcomer's claim to `id` is contested by another process; `held` is the incarnation whose
    /// connection it would replace. A restarted process replaces its own leftover once: that one never
    /// comes back.
    pub(crate) fn are_contested(
        &mut self,
        id: NodeId,
        newcomer: u64,
        held: Option<u64>,
        now: Instant,
    ) -> bool {
        self.forget(now);
        let held = held.filter(|held| *held != newcomer);
        let claims = self.nodes.entry(id).or_default();
        let is_back = claims.iter().any(|claim| claim.incarnation == newcomer);
        let others_contest = claims
            .iter()
            .any(|claim| claim.contested && claim.incarnation != newcomer);
        let contested = (is_back && held.is_some()) || others_contest;
        if contested {
            note(claims, newcomer, true, now);
        } else {
            claims.retain(|claim| claim.incarnation != newcomer);
        }
        if let Some(held) = held {
            note(claims, held, contested, now);
        }
        if claims.is_empty() {
            self.nodes.remove(&id);
        }
        contested
    }

    fn forget(&mut self, now: Instant) {
        self.nodes.retain(|_, claims| {
            claims.retain(|claim| now.duration_since(claim.seen) < CLAIM_MEMORY);
            !claims.is_empty()
        });
    }
}

fn note(claims: &mut Vec<Claim>, incarnation: u64, contested: bool, now: Instant) {
    claims.retain(|claim| claim.incarnation != incarnation);
    if claims.len() >= CLAIMS_MAX {
        claims.remove(0);
    }
    claims.push(Claim {
        incarnation,
        seen: now,
        contested,
    });
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use unibus_proto::NodeId;

    use super::Claims;
    use crate::mesh::limits::CLAIM_MEMORY;

    const ID: NodeId = NodeId(7);

    #[test]
    fn restarts_are_no_contest_however_many() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        assert!(!claims.are_contested(ID, 1, None, now));
        for next in 2..100 {
            assert!(
                !claims.are_contested(ID, next, Some(next - 1), now),
                "{next}"
            );
        }
        // The same process over a new connection.
        assert!(!claims.are_contested(ID, 99, Some(99), now));
        assert!(
            !claims.are_contested(NodeId(8), 1, None, now),
            "another node"
        );
    }

    #[test]
    fn who_comes_back_after_being_replaced_is_refused_and_so_is_the_other() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        assert!(
            !claims.are_contested(ID, 2, Some(1), now),
            "1 may be a leftover"
        );
        assert!(claims.are_contested(ID, 1, Some(2), now), "it is none");
        assert!(claims.are_contested(ID, 2, None, now));
        assert!(claims.are_contested(ID, 1, None, now));
        assert!(claims.are_contested(ID, 3, None, now), "whoever else comes");
    }

    #[test]
    fn who_stays_when_the_others_have_gone_is_let_in_again() {
        let (mut claims, start) = (Claims::default(), Instant::now());
        claims.are_contested(ID, 2, Some(1), start);
        assert!(claims.are_contested(ID, 1, Some(2), start));
        let middle = start + CLAIM_MEMORY / 2;
        assert!(
            claims.are_contested(ID, 1, None, middle),
            "2 was here lately"
        );
        assert!(!claims.are_contested(ID, 1, None, start + CLAIM_MEMORY));
    }
}
