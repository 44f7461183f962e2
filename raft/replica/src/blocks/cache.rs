//! What was written last, in memory, as it was written: chunks of records that follow one another.
//! First in, first out.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use unibus_state::Location;

use super::{BlockKey, Chunk, key_of};

#[derive(Debug)]
pub(super) struct Cache {
    bytes_max: usize,
    pub(super) bytes: usize,
    chunks: BTreeMap<(BlockKey, u32), Bytes>,
    order: VecDeque<(BlockKey, u32)>,
}

/// A chunk that was found, and where it begins.
#[derive(Clone, Copy)]
struct Found<'a> {
    key: BlockKey,
    start: u32,
    bytes: &'a Bytes,
}

impl Found<'_> {
    fn slice(&self, at: &Location) -> Option<Bytes> {
        if key_of(at) != self.key {
            return None;
        }
        let from = at.offset.checked_sub(self.start)? as usize;
        let to = from.checked_add(at.len as usize)?;
        (to <= self.bytes.len()).then(|| self.bytes.slice(from..to))
    }
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            chunks: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }

    pub(super) fn get(&self, at: &Location) -> Option<Bytes> {
        self.search(at)?.slice(at)
    }

    /// The records at `places` that are here. Those that follow one another are found with one search.
    pub(super) fn get_all(&self, places: &[Location]) -> Vec<Option<Bytes>> {
        let mut last: Option<Found<'_>> = None;
        let mut found = Vec::with_capacity(places.len());
        for at in places {
            let near = last.and_then(|last| last.slice(at));
            found.push(near.or_else(|| {
                last = self.search(at);
                last?.slice(at)
            }));
        }
        found
    }

    /// The chunk that holds the record if any does.
    fn search(&self, at: &Location) -> Option<Found<'_>> {
        let wanted = (key_of(at), at.offset);
        let (&(key, start), bytes) = self.chunks.range(..=wanted).next_back()?;
        Some(Found { key, start, bytes })
    }

    pub(super) fn insert(&mut self, chunk: Chunk) {
        self.bytes += chunk.bytes.len();
        let at = (chunk.key, chunk.start);
        if let Some(old) = self.chunks.insert(at, chunk.bytes) {
            self.bytes -= old.len();
        } else {
            self.order.push_back(at);
        }
    }

    pub(super) fn evict(&mut self) {
        while self.bytes > self.bytes_max {
            let Some(at) = self.order.pop_front() else {
                return;
            };
            if let Some(old) = self.chunks.remove(&at) {
                self.bytes -= old.len();
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.chunks.clear();
        self.order.clear();
        self.bytes = 0;
    }
}
