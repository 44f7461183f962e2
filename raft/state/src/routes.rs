//! Which stream stores a subject. Streams never overlap, so there is at most one; the lookup takes one
//! step per token of the subject, however many streams there are.

use std::collections::BTreeMap;

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
        let dots = subject
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'.');
        let ends = std::iter::once(0).chain(dots.map(|(at, _)| at + 1));
        ends.chain([subject.len()])
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
        let all = self.by_prefix.values().flatten();
        all.filter(|(_, slot)| Some(*slot) != except)
            .find(|(have, _)| subject::collide(have, filter))
            .map(|(_, slot)| *slot)
    }
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
}
