//! Interest: what a node tells its peers about its subscribers, and what they told it.
//!
//! Owns the counting: a peer hears of a filter when its first plain subscriber comes and when the last
//! goes, and of a queue group whenever its weight (number of members) changes. The counts are those of
//! the [`Sublist`] itself, so local interest costs no memory of its own. Must never know a connection.

use crate::sublist::{Cursor, Handle, Inserted, Match, Sublist, Walk};

/// What a peer has to hear: the filter and queue now have this weight; 0 = nobody is left.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct InterestChange<'a> {
    /// The subscribed filter.
    pub filter: &'a [u8],
    /// The queue group; `None` = plain subscribers.
    pub queue: Option<&'a [u8]>,
    /// Members of the queue group; for plain subscribers 1 or 0.
    pub weight: u32,
}

/// This node's own subscriptions, with what peers have to hear about them.
#[derive(Debug)]
pub struct InterestTable<T> {
    sublist: Sublist<T>,
}

impl<T> Default for InterestTable<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> InterestTable<T> {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sublist: Sublist::new(),
        }
    }

    /// Adds a subscription. Returns its place and, when peers have to hear of it, the new weight.
    pub fn insert(
        &mut self,
        filter: &[u8],
        queue: Option<&[u8]>,
        value: T,
    ) -> (Inserted, Option<u32>) {
        let inserted = self.sublist.insert(filter, queue, value);
        (
            inserted,
            advertised(queue, inserted.members, inserted.members == 1),
        )
    }

    /// Removes a subscription. Returns the new weight when peers have to hear of it. `place` and `moved`
    /// are those of [`Sublist::remove_at`].
    pub fn remove(
        &mut self,
        handle: Handle,
        queue: Option<&[u8]>,
        place: usize,
        is_it: impl FnMut(&T) -> bool,
        moved: impl FnMut(&T, usize),
    ) -> Option<u32> {
        let left = self.sublist.remove_at(handle, queue, place, is_it, moved)?;
        advertised(queue, left, left == 0)
    }

    /// Visits a part of the table as a peer has to hear it: from `cursor` on, which moves, and for as long as
    /// `visit` returns true. Returns whether nothing is left. What is in the table from before the first
    /// part until after the last is visited, whatever else changes in between.
    pub fn visit_from(
        &self,
        cursor: &mut Cursor,
        mut visit: impl FnMut(InterestChange<'_>) -> bool,
    ) -> bool {
        let mut filter = Vec::new();
        self.sublist.visit_from(cursor, |handle, queue, members| {
            filter.clear();
            self.sublist.filter_of(handle, &mut filter);
            let weight = if queue.is_some() {
                weight_of(members.len())
            } else {
                1
            };
            visit(InterestChange {
                filter: &filter,
                queue,
                weight,
            })
        })
    }

    /// The subscriptions themselves.
    #[must_use]
    pub const fn sublist(&self) -> &Sublist<T> {
        &self.sublist
    }

    /// Makes cached match results stale: what a member may receive has changed.
    pub fn touch(&mut self) {
        self.sublist.touch();
    }
}

fn advertised(queue: Option<&[u8]>, members: usize, edge: bool) -> Option<u32> {
    match queue {
        Some(_) => Some(weight_of(members)),
        None => edge.then(|| members.min(1) as u32),
    }
}

fn weight_of(members: usize) -> u32 {
    u32::try_from(members).unwrap_or(u32::MAX)
}

/// One peer's interest in a filter or queue.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Remote<P> {
    /// The peer.
    pub peer: P,
    /// Its members in the queue group; 1 for plain interest.
    pub weight: u32,
    /// In which round the peer said so last: see [`RemoteInterest::keep_round`].
    round: u32,
}

/// What all peers said they want.
#[derive(Debug, Default)]
pub struct RemoteInterest<P> {
    sublist: Sublist<Remote<P>>,
}

impl<P: Copy + Eq> RemoteInterest<P> {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sublist: Sublist::new(),
        }
    }

    /// Takes over what `peer` said in a round. Saying the same twice changes nothing.
    pub fn set(&mut self, peer: P, change: InterestChange<'_>, round: u32) {
        let InterestChange {
            filter,
            queue,
            weight,
        } = change;
        let known = self.sublist.find(filter);
        if weight == 0 {
            if let Some(handle) = known {
                self.sublist
                    .remove(handle, queue, |remote| remote.peer == peer);
            }
            return;
        }
        if let Some(handle) = known {
            let members = self.sublist.members_mut(handle, queue);
            if let Some(remote) = members.iter_mut().find(|remote| remote.peer == peer) {
                remote.weight = weight;
                remote.round = round;
                return;
            }
        }
        let remote = Remote {
            peer,
            weight,
            round,
        };
        self.sublist.insert(filter, queue, remote);
    }

    /// Forgets what `peer` has not said again in this round.
    pub fn keep_round(&mut self, peer: P, round: u32) {
        self.sublist
            .retain(|remote| remote.peer != peer || remote.round == round);
    }

    /// Forgets everything `peer` said.
    pub fn forget(&mut self, peer: P) {
        self.sublist.retain(|remote| remote.peer != peer);
    }

    /// Visits the peers that want a literal subject.
    pub fn for_each_match<'a>(
        &'a self,
        subject: &[u8],
        walk: &mut Walk,
        visit: impl FnMut(Match<'a, Remote<P>>),
    ) {
        self.sublist.for_each_match(subject, walk, visit);
    }

    /// Whether any peer wants a literal subject.
    #[must_use]
    pub fn has_match(&self, subject: &[u8]) -> bool {
        self.sublist.has_match(subject)
    }

    /// Changes whenever match results may.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.sublist.generation()
    }

    /// How many filters and queues all peers asked for, summed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sublist.len()
    }

    /// Whether no peer wants anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sublist.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn plain_interest_is_said_at_the_edges_only() {
        let mut table = InterestTable::new();
        let (one, first) = table.insert(b"a.*", None, 1);
        let (two, second) = table.insert(b"a.*", None, 2);
        assert_eq!((first, second), (Some(1), None));
        let mut moved = vec![];
        let mut remove = |place, value| {
            let is_it = |v: &i32| *v == value;
            table.remove(one.handle, None, place, is_it, |v, at| moved.push((*v, at)))
        };
        assert_eq!(remove(one.place(), 1), None);
        assert_eq!(remove(two.place(), 2), Some(0));
        assert_eq!(moved, [(2, 0)]);
    }

    #[test]
    fn queue_weight_is_said_at_each_change() {
        let mut table = InterestTable::new();
        let (one, first) = table.insert(b"a", Some(b"q"), 1);
        let (_, second) = table.insert(b"a", Some(b"q"), 2);
        assert_eq!((first, second), (Some(1), Some(2)));
        for left in [1, 0] {
            let removed = table.remove(one.handle, Some(b"q"), 0, |_| true, |_, _| {});
            assert_eq!(removed, Some(left));
        }
    }

    fn remote_hits(table: &RemoteInterest<u8>, subject: &[u8]) -> Vec<(Option<Vec<u8>>, u8, u32)> {
        let mut hits = vec![];
        table.for_each_match(subject, &mut Walk::default(), |found| {
            for remote in found.members {
                hits.push((found.queue.map(|q| q.to_vec()), remote.peer, remote.weight));
            }
        });
        hits.sort();
        hits
    }

    #[test]
    fn a_peer_that_left_wants_nothing() {
        let mut table = RemoteInterest::new();
        for peer in [1, 2] {
            table.set(
                peer,
                InterestChange {
                    filter: b"a.>",
                    queue: None,
                    weight: 1,
                },
                0,
            );
            table.set(
                peer,
                InterestChange {
                    filter: b"a.>",
                    queue: Some(b"q"),
                    weight: 3,
                },
                0,
            );
        }
        table.forget(1);
        assert_eq!(
            remote_hits(&table, b"a.b"),
            [(None, 2, 1), (Some(b"q".to_vec()), 2, 3)]
        );
        table.forget(2);
        assert!(table.is_empty());
    }

    #[test]
    fn what_a_peer_does_not_say_again_is_forgotten() {
        let mut table = RemoteInterest::new();
        let said = |filter, weight| InterestChange {
            filter,
            queue: None,
            weight,
        };
        for peer in [1, 2] {
            table.set(peer, said(b"a", 1), 0);
            table.set(peer, said(b"b", 1), 0);
        }
        table.set(1, said(b"b", 1), 1);
        table.set(1, said(b"c", 1), 1);
        table.keep_round(1, 1);
        assert_eq!(remote_hits(&table, b"a"), [(None, 2, 1)]);
        assert_eq!(remote_hits(&table, b"b"), [(None, 1, 1), (None, 2, 1)]);
        assert_eq!(remote_hits(&table, b"c"), [(None, 1, 1)]);
    }

    type Op = (bool, usize, usize);

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        prop::collection::vec((any::<bool>(), 0_usize..3, 0_usize..3), 0..50)
    }

    const FILTERS: [&[u8]; 3] = [b"a", b"a.*", b">"];
    const QUEUES: [Option<&[u8]>; 3] = [None, Some(b"q"), Some(b"r")];

    type Key = (Vec<u8>, Option<Vec<u8>>);

    fn apply(table: &mut InterestTable<()>, (add, filter, queue): Op, tell: impl FnOnce(Key, u32)) {
        let (filter, queue) = (FILTERS[filter], QUEUES[queue]);
        let change = if add {
            table.insert(filter, queue, ()).1
        } else {
            let handle = table.sublist().find(filter);
            handle.and_then(|handle| table.remove(handle, queue, 0, |()| true, |(), _| {}))
        };
        if let Some(weight) = change {
            tell((filter.to_vec(), queue.map(<[u8]>::to_vec)), weight);
        }
    }

    proptest! {
        #[test]
        fn a_follower_of_the_changes_knows_the_table(ops in ops()) {
            let mut table = InterestTable::new();
            let mut follower = BTreeMap::new();
            let mut counts = BTreeMap::<(usize, usize), usize>::new();
            for (add, filter, queue) in ops {
                let key = (filter, queue);
                let change = if add {
                    *counts.entry(key).or_default() += 1;
                    table.insert(FILTERS[filter], QUEUES[queue], key).1
                } else {
                    let Some(handle) = table.sublist().find(FILTERS[filter]) else { continue };
                    let count = counts.entry(key).or_default();
                    *count = count.saturating_sub(1);
                    table.remove(handle, QUEUES[queue], 0, |v| *v == key, |_, _| {})
                };
                match change {
                    Some(0) => { follower.remove(&key); }
                    Some(weight) => { follower.insert(key, weight); }
                    None => {}
                }
            }
            let mut expected = BTreeMap::new();
            for (key, count) in counts {
                if count > 0 {
                    expected.insert(key, if QUEUES[key.1].is_some() { count as u32 } else { 1 });
                }
            }
            prop_assert_eq!(&follower, &expected);
            let mut told = BTreeMap::new();
            table.visit_from(&mut Cursor::default(), |change| {
                let filter = FILTERS.iter().position(|f| *f == change.filter).unwrap();
                let queue = QUEUES.iter().position(|q| *q == change.queue).unwrap();
                told.insert((filter, queue), change.weight);
                true
            });
            prop_assert_eq!(told, expected);
        }

        /// One at a time, with changes in between that the follower hears as they happen.
        #[test]
        fn a_table_told_in_parts_while_it_changes_is_known_at_the_end(before in ops(), between in ops()) {
            let mut table = InterestTable::new();
            let mut follower = BTreeMap::new();
            for op in before {
                apply(&mut table, op, |_, _| ());
            }
            let mut cursor = Cursor::default();
            let mut between = between.into_iter();
            loop {
                let done = table.visit_from(&mut cursor, |change| {
                    follower.insert((change.filter.to_vec(), change.queue.map(<[u8]>::to_vec)), change.weight);
                    false
                });
                match between.next() {
                    Some(op) => apply(&mut table, op, |key, weight| match weight {
                        0 => drop(follower.remove(&key)),
                        weight => drop(follower.insert(key, weight)),
                    }),
                    None if done => break,
                    None => {}
                }
            }
            let mut whole = BTreeMap::new();
            table.visit_from(&mut Cursor::default(), |change| {
                whole.insert((change.filter.to_vec(), change.queue.map(<[u8]>::to_vec)), change.weight);
                true
            });
            prop_assert_eq!(follower, whole);
        }
    }
}
