//! Which consumers of a stream want which subjects, to be asked without going through all of them.
//! Derived from the consumers' filters, never stored; it says what a walk over them would say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use unibus_proto::subject;

type Names = BTreeSet<Arc<str>>;

#[derive(Debug, Default)]
pub(crate) struct Interest {
    /// Those without a filter.
    everything: Names,
    literal: BTreeMap<Box<[u8]>, Names>,
    wild: BTreeMap<Box<[u8]>, Names>,
}

impl Interest {
    pub(crate) fn insert(&mut self, name: &Arc<str>, filters: &[Box<[u8]>]) {
        if filters.is_empty() {
            self.everything.insert(Arc::clone(name));
        }
        for filter in filters {
            let names = self.map_of(filter).entry(filter.clone()).or_default();
            names.insert(Arc::clone(name));
        }
    }

    pub(crate) fn remove(&mut self, name: &str, filters: &[Box<[u8]>]) {
        if filters.is_empty() {
            self.everything.remove(name);
        }
        for filter in filters {
            let map = self.map_of(filter);
            if let Some(names) = map.get_mut(filter) {
                names.remove(name);
                if names.is_empty() {
                    map.remove(filter);
                }
            }
        }
    }

    fn map_of(&mut self, filter: &[u8]) -> &mut BTreeMap<Box<[u8]>, Names> {
        if subject::has_wildcard(filter) {
            &mut self.wild
        } else {
            &mut self.literal
        }
    }

    /// The consumers that want a subject, one of them perhaps more than once.
    pub(crate) fn of(&self, subject: &[u8]) -> impl Iterator<Item = &Arc<str>> {
        let literal = self.literal.get(subject).into_iter().flatten();
        let wild = self
            .wild
            .iter()
            .filter(move |(filter, _)| subject::matches(filter, subject))
            .flat_map(|(_, names)| names);
        self.everything.iter().chain(literal).chain(wild)
    }

    /// Whether a consumer that `counts` may want a subject that one of `filters` (none = everything)
    /// matches.
    pub(crate) fn overlaps(&self, filters: &[&[u8]], counts: impl Fn(&str) -> bool) -> bool {
        let other = |names: &Names| names.iter().any(|name| counts(name));
        if other(&self.everything) {
            return true;
        }
        let hit = |map: &BTreeMap<Box<[u8]>, Names>, filter: &[u8]| {
            map.iter()
                .any(|(held, names)| subject::collide(held, filter) && other(names))
        };
        if filters.is_empty() {
            return self.literal.values().chain(self.wild.values()).any(other);
        }
        filters.iter().any(|filter| {
            let literal = if subject::has_wildcard(filter) {
                hit(&self.literal, filter)
            } else {
                self.literal.get(*filter).is_some_and(other)
            };
            literal || hit(&self.wild, filter)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(filters: &[&str]) -> Vec<Box<[u8]>> {
        filters
            .iter()
            .map(|filter| filter.as_bytes().into())
            .collect()
    }

    fn wanting(interest: &Interest, subject: &str) -> Vec<String> {
        let names: Names = interest.of(subject.as_bytes()).cloned().collect();
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn consumers_are_found_by_what_they_want() {
        let mut interest = Interest::default();
        let consumers = [
            ("all", boxed(&[])),
            ("one", boxed(&["a.1", "a.2"])),
            ("star", boxed(&["a.*"])),
            ("deep", boxed(&["b.>"])),
        ];
        for (name, filters) in &consumers {
            interest.insert(&Arc::from(*name), filters);
        }
        assert_eq!(wanting(&interest, "a.1"), ["all", "one", "star"]);
        assert_eq!(wanting(&interest, "b.c.d"), ["all", "deep"]);
        assert!(
            interest.overlaps(&[b"x"], |name| name != "one"),
            "one wants everything"
        );
        interest.remove("all", &[]);
        assert!(!interest.overlaps(&[b"x"], |name| name != "one"));
        assert!(interest.overlaps(&[b"a.1"], |name| name != "star"));
        assert!(!interest.overlaps(&[b"b.c"], |name| name != "deep"));
        assert!(interest.overlaps(&[b"*.c"], |name| name != "star"));
        assert!(interest.overlaps(&[], |name| name != "one"));
        for (name, filters) in &consumers[1..] {
            interest.remove(name, filters);
        }
        assert!(interest.literal.is_empty() && interest.wild.is_empty());
        assert!(wanting(&interest, "a.1").is_empty());
    }
}
