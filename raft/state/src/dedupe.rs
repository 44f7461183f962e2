//! Which `Nats-Msg-Id`s were stored recently. Ids are kept as 128 bits of their BLAKE3 digest, so the
//! memory of one is fixed whatever a client sends.

use std::collections::{HashMap, VecDeque};

/// Ids remembered at most per stream; beyond that publishes with an id are refused, not forgotten.
pub(crate) const IDS_MAX: usize = 16 << 20;
/// Ids in one checkpoint row.
pub(crate) const CHUNK_IDS: u64 = 4096;

pub(crate) type IdKey = [u8; 16];

#[derive(Copy, Clone, Debug)]
pub(crate) struct Remembered {
    pub(crate) key: IdKey,
    pub(crate) seq: u64,
    pub(crate) ts_ns: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Dedupe {
    /// Index of the oldest remembered id among all ever remembered.
    pub(crate) first: u64,
    pub(crate) order: VecDeque<Remembered>,
    /// Only looked up, never iterated.
    seqs: HashMap<IdKey, u64>,
    /// Indexes below are in the last checkpoint.
    pub(crate) dumped: u64,
    /// Chunks below are removed from the last checkpoint.
    pub(crate) dropped_chunks: u64,
}

pub(crate) fn key_of(id: &[u8]) -> IdKey {
    let mut key = IdKey::default();
    key.copy_from_slice(&blake3::hash(id).as_bytes()[..16]);
    key
}

impl Dedupe {
    pub(crate) fn find(&self, key: &IdKey) -> Option<u64> {
        self.seqs.get(key).copied()
    }

    pub(crate) fn is_full(&self) -> bool {
        !self.has_room_for(1)
    }

    pub(crate) fn has_room_for(&self, ids: usize) -> bool {
        self.order.len() + ids <= IDS_MAX
    }

    pub(crate) fn remember(&mut self, id: Remembered) {
        self.seqs.insert(id.key, id.seq);
        self.order.push_back(id);
    }

    /// Forgets what is older than the window; whether there was anything.
    pub(crate) fn expire(&mut self, window_ns: u64, now_ns: u64) -> bool {
        let before = self.first;
        while let Some(oldest) = self.order.front() {
            if oldest.ts_ns.saturating_add(window_ns) > now_ns {
                break;
            }
            // A later copy of the same id may be remembered under a new sequence.
            if self.seqs.get(&oldest.key) == Some(&oldest.seq) {
                self.seqs.remove(&oldest.key);
            }
            self.order.pop_front();
            self.first += 1;
        }
        self.first != before
    }

    /// One past the index of the newest.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.order.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_last_for_the_window() {
        let mut dedupe = Dedupe::default();
        for (seq, id) in ["a", "b"].iter().enumerate() {
            let seq = seq as u64 + 1;
            dedupe.remember(Remembered {
                key: key_of(id.as_bytes()),
                seq,
                ts_ns: seq * 100,
            });
        }
        dedupe.expire(50, 149);
        assert_eq!(dedupe.find(&key_of(b"a")), Some(1));
        dedupe.expire(50, 150);
        assert_eq!(dedupe.find(&key_of(b"a")), None);
        assert_eq!(dedupe.find(&key_of(b"b")), Some(2));
        assert_eq!((dedupe.first, dedupe.end()), (1, 2));
    }
}
