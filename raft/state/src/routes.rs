//! Which stream stores a subject. Streams never overlap, so there is at most one; the lookup takes one
//! step per token of the subject, however many streams there are.

use std::collections::BTreeMap;
use std::ops::Bound;

use unibus_proto::subject;

use crate::subject_table::literal_prefix;

/// A filter and the slot of its stream.
type Route = (Box<[u8]>, u32);

#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// By the literal part of the filter.
    by_prefix: BTreeMap<Box<[u8]>, Vec<Route>>,
}

impl Routes {
    pub(crate) fn insert(&mut self, filter: &[u8], slot: u32) {
        let prefix = literal_prefix(filter);
        self.by_prefix
            .entry(prefix.into())
            .or_default()
            .push((filter.into(), slot));
    }

    pub(crate) fn remove(&mut self, filter: &[u8], slot: u32) {
        let prefix = literal_prefix(filter);
        if let Some(filters) = self.by_prefix.get_mut(prefix) {
            filters.retain(|(have, of)| **have != *filter || *of != slot);
            if filters.is_empty() {
                self.by_prefix.remove(prefix);
            }
        }
    }

    /// The stream of a literal subject.
    pub(crate) fn find(&self, subject: &[u8]) -> Option<u32> {
        token_starts(subject)
            .chain([subject.len()])
            .find_map(|end| self.find_at(&subject[..end], subject))
    }

    fn find_at(&self, prefix: &[u8], subject: &[u8]) -> Option<u32> {
        let filters = self.by_prefix.get(prefix)?;
        filters
            .iter()
            .find(|(filter, _)| subject::matches(filter, subject))
            .map(|(_, slot)| *slot)
    }

    /// A stream whose filters some subject shares with `filter`.
    pub(crate) fn find_overlap(&self, filter: &[u8], except: Option<u32>) -> Option<u32> {
        self.candidates(filter)
            .filter(|(_, slot)| Some(*slot) != except)
            .find(|(have, _)| subject::collide(have, filter))
            .map(|(_, slot)| *slot)
    }

    /// Routes whose literal part does not already tell them apart from `filter`.
    fn candidates<'a>(&'a self, filter: &'a [u8]) -> impl Iterator<Item = &'a Route> {
        let prefix = literal_prefix(filter);
        let literal = prefix.len() == filter.len();
        let above = token_starts(prefix)
            .filter(move |end| *end < prefix.len())
            .filter_map(move |end| self.by_prefix.get(&prefix[..end]));
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let below = self
            .by_prefix
            .range::<[u8], _>(from)
            .take_while(move |(have, _)| {
                // Only the same literal can meet a literal.
                have.starts_with(prefix) && (!literal || have.len() == prefix.len())
            });
        above.chain(below.map(|(_, routes)| routes)).flatten()
    }
}

/// Where each token begins.
fn token_starts(subject: &[u8]) -> impl Iterator<Item = usize> {
    let dots = subject
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'.');
    std::iter::once(0).chain(dots.map(|(at, _)| at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_one_stream() {
        let mut routes = Routes::default();
        routes.insert(b"a.b.>", 1);
        routes.insert(b"a.*.c", 2);
        routes.insert(b"x", 3);
        routes.insert(b"*.y", 4);
        assert_eq!(routes.find(b"a.b.z"), Some(1));
        assert_eq!(routes.find(b"a.b"), None);
        assert_eq!(routes.find(b"a.q.c"), Some(2));
        assert_eq!(routes.find(b"x"), Some(3));
        assert_eq!(routes.find(b"x.y"), Some(4));
        assert_eq!(routes.find(b"x.z"), None);
        assert!(routes.find_overlap(b"a.>", None).is_some());
        assert_eq!(routes.find_overlap(b"x", Some(3)), None);
        routes.remove(b"x", 3);
        assert_eq!(routes.find(b"x"), None);
    }

    #[test]
    fn overlap_agrees_with_a_comparison_of_all() {
        let filters: [&[u8]; 16] = [
            b"a", b"b", b"ab", b"a.b", b"a.bc", b"a.b.c", b"*", b">", b"a.*", b"a.>", b"*.b",
            b"a.*.c", b"*.>", b"a.b.>", b"a.b.*", b"b.*",
        ];
        for have in filters {
            let mut routes = Routes::default();
            routes.insert(have, 1);
            routes.insert(b"other.x", 2);
            for asked in filters {
                let expected = subject::collide(have, asked).then_some(1);
                let found = routes.find_overlap(asked, Some(2));
                assert_eq!(found, expected, "{have:?} {asked:?}");
            }
        }
    }
}
