//! The sequences of one subject in ascending order. Removal from either end is cheap; removal from the
//! middle leaves the number behind until half of them are dead, so the ends are always live.

use crate::progressions::Progressions;

/// Dead numbers tolerated in the middle before it is worth to look at their share.
const DEAD_MIN: u64 = 32;

/// Most subjects of a key-value bucket hold one message: those cost no allocation.
#[derive(Clone, Debug, Default)]
pub(crate) enum SeqList {
    #[default]
    Empty,
    One(u64),
    Many(Box<Many>),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Many {
    seqs: Progressions,
    dead: u64,
}

impl SeqList {
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Live messages.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::One(_) => 1,
            Self::Many(many) => many.seqs.len() - many.dead,
        }
    }

    pub(crate) fn first(&self) -> Option<u64> {
        match self {
            Self::Empty => None,
            Self::One(seq) => Some(*seq),
            Self::Many(many) => many.seqs.first(),
        }
    }

    pub(crate) fn last(&self) -> Option<u64> {
        match self {
            Self::Empty => None,
            Self::One(seq) => Some(*seq),
            Self::Many(many) => many.seqs.last(),
        }
    }

    /// Adds a sequence greater than all others.
    pub(crate) fn push(&mut self, seq: u64) {
        match self {
            Self::Empty => *self = Self::One(seq),
            Self::One(first) => {
                let mut seqs = Progressions::default();
                seqs.push(*first);
                seqs.push(seq);
                *self = Self::Many(Box::new(Many { seqs, dead: 0 }));
            }
            Self::Many(many) => many.seqs.push(seq),
        }
    }

    /// Removes a sequence that `live` no longer says is live.
    pub(crate) fn remove(&mut self, seq: u64, live: impl Fn(u64) -> bool) {
        match self {
            Self::Empty => {}
            Self::One(only) => {
                if *only == seq {
                    *self = Self::Empty;
                }
            }
            Self::Many(many) => {
                many.remove(seq, live);
                match (many.seqs.len(), many.seqs.first()) {
                    (_, None) => *self = Self::Empty,
                    (1, Some(only)) => *self = Self::One(only),
                    _ => {}
                }
            }
        }
    }

    /// Live sequences not below `from`.
    pub(crate) fn count_from(&self, from: u64, live: impl Fn(u64) -> bool) -> u64 {
        match self {
            Self::Many(many) => {
                if many.dead == 0 {
                    many.seqs.count_from(from)
                } else {
                    many.seqs.from(from).filter(|seq| live(*seq)).count() as u64
                }
            }
            Self::One(seq) if *seq >= from => 1,
            _ => 0,
        }
    }

    /// The first live sequence not below `from`.
    pub(crate) fn next_from(&self, from: u64, live: impl Fn(u64) -> bool) -> Option<u64> {
        match self {
            Self::Many(many) => many.seqs.from(from).find(|seq| live(*seq)),
            Self::One(seq) => (*seq >= from).then_some(*seq),
            Self::Empty => None,
        }
    }

    /// The last live sequence not above `to`.
    pub(crate) fn last_to(&self, to: u64, live: impl Fn(u64) -> bool) -> Option<u64> {
        match self {
            Self::Many(many) => many.seqs.up_to(to).find(|seq| live(*seq)),
            Self::One(seq) => (*seq <= to).then_some(*seq),
            Self::Empty => None,
        }
    }
}

impl Many {
    fn remove(&mut self, seq: u64, live: impl Fn(u64) -> bool) {
        if !self.seqs.contains(seq) {
            return;
        }
        if self.seqs.first() == Some(seq) {
            self.seqs.pop_front();
            while self.dead > 0 && self.seqs.first().is_some_and(|seq| !live(seq)) {
                self.seqs.pop_front();
                self.dead -= 1;
            }
        } else if self.seqs.last() == Some(seq) {
            self.seqs.pop_back();
            while self.dead > 0 && self.seqs.last().is_some_and(|seq| !live(seq)) {
                self.seqs.pop_back();
                self.dead -= 1;
            }
        } else {
            self.dead += 1;
            if self.dead > DEAD_MIN && self.dead * 2 > self.seqs.len() {
                self.seqs.retain(&live);
                self.dead = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::SeqList;

    #[test]
    fn agrees_with_a_set() {
        let mut list = SeqList::default();
        let mut set = BTreeSet::new();
        for seq in 1..=300u64 {
            list.push(seq);
            set.insert(seq);
        }
        // 5 generates every residue of 307 but 0: a fixed order that hits both ends and the middle.
        let mut at = 7u64;
        for _ in 0..306 {
            at = at * 5 % 307;
            if !set.remove(&at) {
                continue;
            }
            list.remove(at, |seq| set.contains(&seq));
            let live = |seq: u64| set.contains(&seq);
            assert_eq!(list.len(), set.len() as u64);
            assert_eq!(
                (list.first(), list.last()),
                (set.first().copied(), set.last().copied())
            );
            for from in [0, 50, 150, 299] {
                assert_eq!(
                    list.count_from(from, live),
                    set.range(from..).count() as u64
                );
                assert_eq!(
                    list.next_from(from, live),
                    set.range(from..).next().copied()
                );
                assert_eq!(
                    list.last_to(from, live),
                    set.range(..=from).next_back().copied()
                );
            }
        }
        assert!(list.is_empty());
    }
}
