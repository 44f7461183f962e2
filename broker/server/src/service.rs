//! In-process consumers of what this node's own clients publish.
//!
//! Owns the table of services: copied on change, read without a lock.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use unibus_proto::subject;
use unibus_proto::sublist::{Sublist, Walk};

use crate::ports::Service;

/// Names an added service.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub struct ServiceId(pub(crate) u64);

#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    pub(crate) service: Arc<dyn Service>,
}

/// An entry and what it wants.
pub(crate) type Offer = (Vec<u8>, Entry);

#[derive(Clone, Debug, Default)]
pub(crate) struct ServiceTable {
    sublist: Sublist<Entry>,
}

impl ServiceTable {
    pub(crate) fn generation(&self) -> u64 {
        self.sublist.generation()
    }

    pub(crate) fn with(&self, filter: &[u8], id: u64, service: Arc<dyn Service>) -> Self {
        let mut next = self.clone();
        next.sublist.insert(filter, None, Entry { id, service });
        next
    }

    pub(crate) fn without(&self, id: u64) -> Self {
        let mut next = self.clone();
        next.sublist.retain(|entry| entry.id != id);
        // An unchanged table is a change of nothing; a changed one has a higher generation already.
        next
    }

    /// The table with `new` in the place of `gone`: nobody sees both, or neither.
    pub(crate) fn exchanged(&self, gone: &[u64], new: &[Offer]) -> Self {
        let mut next = self.clone();
        next.sublist.retain(|entry| !gone.contains(&entry.id));
        for (filter, entry) in new {
            next.sublist.insert(filter, None, entry.clone());
        }
        next
    }

    /// What has to be awaited before the services that may want subjects within `filter` take more.
    pub(crate) fn behind(&self, filter: &[u8]) -> Vec<BoxFuture<'static, ()>> {
        let mut behind = Vec::new();
        let mut own = Vec::new();
        self.sublist.for_each(|handle, _, entries| {
            own.clear();
            self.sublist.filter_of(handle, &mut own);
            if subject::collide(&own, filter) {
                behind.extend(entries.iter().filter_map(|entry| entry.service.ready()));
            }
        });
        behind
    }

    /// Whether some service wants the literal `subject`.
    pub(crate) fn wants(&self, subject: &[u8]) -> bool {
        self.sublist.has_match(subject)
    }

    pub(crate) fn has(&self, id: u64) -> bool {
        let mut found = false;
        self.sublist
            .for_each(|_, _, entries| found |= entries.iter().any(|entry| entry.id == id));
        found
    }

    /// Adds each service that wants `subject` to `out`, once.
    pub(crate) fn find(&self, subject: &[u8], walk: &mut Walk, out: &mut Vec<Arc<dyn Service>>) {
        self.sublist.for_each_match(subject, walk, |found| {
            for entry in found.members {
                if !out.iter().any(|known| Arc::ptr_eq(known, &entry.service)) {
                    out.push(Arc::clone(&entry.service));
                }
            }
        });
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
