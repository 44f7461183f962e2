//! Every subject with at least one live message, in order, with its sequences. Ids are local to this
//! memory: they are reused, never stored and never influence a result.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use unibus_proto::subject;

use crate::sequences::SeqList;

/// Marks a dead index entry.
pub(crate) const NO_SUBJECT: u32 = u32::MAX;

#[derive(Debug)]
struct Slot {
    name: Arc<[u8]>,
    seqs: SeqList,
}

#[derive(Debug, Default)]
pub(crate) struct SubjectTable {
    ids: BTreeMap<Arc<[u8]>, u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The subject of the last lookup: publishers tend to repeat themselves.
    hint: u32,
}

impl SubjectTable {
    /// Subjects with live messages.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn find(&self, name: &[u8]) -> Option<u32> {
        if let Some(slot) = self.slots.get(self.hint as usize)
            && *slot.name == *name
            && !slot.seqs.is_empty()
        {
            return Some(self.hint);
        }
        self.ids.get(name).copied()
    }

    /// The subject's id, new if need be; a new one must get a sequence at once.
    pub(crate) fn intern(&mut self, name: &[u8]) -> u32 {
        let id = match self.find(name) {
            Some(id) => id,
            None => self.insert(name),
        };
        self.hint = id;
        id
    }

    fn insert(&mut self, name: &[u8]) -> u32 {
        let name: Arc<[u8]> = name.into();
        let slot = Slot {
            name: name.clone(),
            seqs: SeqList::default(),
        };
        let id = if let Some(id) = self.free.pop() {
            self.slots[id as usize] = slot;
            id
        } else {
            self.slots.push(slot);
            // Memory ends long before 2^32 subjects.
            u32::try_from(self.slots.len() - 1).unwrap_or(NO_SUBJECT)
        };
        self.ids.insert(name, id);
        id
    }

    pub(crate) fn name(&self, id: u32) -> &[u8] {
        self.slots.get(id as usize).map_or(&[], |slot| &slot.name)
    }

    /// The name, to be kept after the subject is gone.
    pub(crate) fn shared_name(&self, id: u32) -> Arc<[u8]> {
        self.slots
            .get(id as usize)
            .map_or_else(|| Arc::from(&[][..]), |slot| Arc::clone(&slot.name))
    }

    pub(crate) fn seqs(&self, id: u32) -> &SeqList {
        static EMPTY: SeqList = SeqList::Empty;
        self.slots
            .get(id as usize)
            .map_or(&EMPTY, |slot| &slot.seqs)
    }

    pub(crate) fn push(&mut self, id: u32, seq: u64) {
        if let Some(slot) = self.slots.get_mut(id as usize) {
            slot.seqs.push(seq);
        }
    }

    /// Removes a dead sequence; the subject goes with its last one.
    pub(crate) fn remove(&mut self, id: u32, seq: u64, live: impl Fn(u64) -> bool) {
        let Some(slot) = self.slots.get_mut(id as usize) else {
            return;
        };
        slot.seqs.remove(seq, live);
        if slot.seqs.is_empty() {
            self.ids.remove(&slot.name);
            slot.name = Arc::from(&[][..]);
            self.free.push(id);
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Calls `visit` with each matching subject in order until it says stop. Only subjects that share
    /// the filter's literal prefix are looked at. Answers with how many those were; a subject that is
    /// named is found at once.
    pub(crate) fn visit(&self, filter: &[u8], mut visit: impl FnMut(u32, &[u8]) -> bool) -> u64 {
        let prefix = literal_prefix(filter);
        if prefix.len() == filter.len() {
            if let Some(id) = self.find(filter) {
                visit(id, filter);
            }
            return 0;
        }
        let mut seen = 0;
        let everything_below = &filter[prefix.len()..] == b">";
        let range = (Bound::Included(prefix), Bound::Unbounded);
        for (name, id) in self.ids.range::<[u8], _>(range) {
            if !name.starts_with(prefix) {
                break;
            }
            seen += 1;
            let matches = everything_below || subject::matches(filter, name);
            if matches && !visit(*id, name) {
                break;
            }
        }
        seen
    }
}

/// The tokens before the first wildcard, with their trailing dot; all of a literal.
pub(crate) fn literal_prefix(filter: &[u8]) -> &[u8] {
    let mut at = 0;
    for token in subject::tokens(filter) {
        if token == b"*" || token == b">" {
            return &filter[..at];
        }
        at = (at + token.len() + 1).min(filter.len());
    }
    filter
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visited(table: &SubjectTable, filter: &str) -> Vec<String> {
        let mut names = Vec::new();
        table.visit(filter.as_bytes(), |_, name| {
            names.push(String::from_utf8_lossy(name).into_owned());
            true
        });
        names
    }

    #[test]
    fn wildcards_stay_inside_their_prefix() {
        let mut table = SubjectTable::default();
        for (seq, name) in ["a", "a.b", "a.b.c", "a.c.c", "ab.c", "b.b.c"]
            .iter()
            .enumerate()
        {
            let id = table.intern(name.as_bytes());
            table.push(id, seq as u64 + 1);
        }
        assert_eq!(visited(&table, "a.>"), ["a.b", "a.b.c", "a.c.c"]);
        assert_eq!(visited(&table, "a.*"), ["a.b"]);
        assert_eq!(visited(&table, "*.b.c"), ["a.b.c", "b.b.c"]);
        assert_eq!(visited(&table, "a.*.c"), ["a.b.c", "a.c.c"]);
        assert_eq!(visited(&table, "ab.c"), ["ab.c"]);
        assert_eq!(visited(&table, ">").len(), 6);
        assert_eq!(literal_prefix(b"a.b.>"), b"a.b.");
        assert_eq!(literal_prefix(b"a.b"), b"a.b");
        assert_eq!(literal_prefix(b"*"), b"");
    }

    #[test]
    fn emptied_subjects_disappear_and_ids_are_reused() {
        let mut table = SubjectTable::default();
        let a = table.intern(b"a");
        table.push(a, 1);
        table.remove(a, 1, |_| false);
        assert_eq!((table.len(), table.find(b"a")), (0, None));
        let b = table.intern(b"b");
        table.push(b, 2);
        assert_eq!(b, a);
        assert_eq!(table.name(b), b"b");
    }
}
