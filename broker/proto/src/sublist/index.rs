//! From (parent node, token) to child node: one open-addressing table for the whole trie.
//!
//! Owns probing and growth. A slot is the 32-bit hash over the node number, so most wrong candidates
//! are told apart without touching the node. Must never hold a token itself.

use super::node::{NONE, Node};
use crate::subject::hash;

const SLOTS_MIN: usize = 16;
const EMPTY: u64 = u64::MAX;

#[derive(Debug, Clone)]
pub(super) struct Index {
    /// `hash << 32 | node`, or `EMPTY`. Empty until the first insert, then a power of two long.
    slots: Vec<u64>,
    used: usize,
    seed: u64,
}

impl Index {
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            slots: Vec::new(),
            used: 0,
            seed,
        }
    }

    pub(super) fn find<T>(&self, nodes: &[Node<T>], parent: u32, token: &[u8]) -> u32 {
        if self.slots.is_empty() {
            return NONE;
        }
        let hash = self.hash(parent, token);
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == EMPTY {
                return NONE;
            }
            if (slot >> 32) as u32 == hash {
                let node = &nodes[slot as u32 as usize];
                if node.parent == parent && node.token.as_bytes() == token {
                    return slot as u32;
                }
            }
            at = (at + 1) & mask;
        }
    }

    pub(super) fn insert(&mut self, parent: u32, token: &[u8], id: u32) {
        if (self.used + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let hash = self.hash(parent, token);
        self.place(u64::from(hash) << 32 | u64::from(id));
        self.used += 1;
    }

    pub(super) fn remove(&mut self, parent: u32, token: &[u8], id: u32) {
        if self.slots.is_empty() {
            return;
        }
        let wanted = u64::from(self.hash(parent, token)) << 32 | u64::from(id);
        let mask = self.slots.len() - 1;
        let mut hole = (wanted >> 32) as usize & mask;
        while self.slots[hole] != wanted {
            if self.slots[hole] == EMPTY {
                return;
            }
            hole = (hole + 1) & mask;
        }
        // Shift followers back into the hole unless that would put one before its home slot.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            if slot == EMPTY {
                break;
            }
            let home = (slot >> 32) as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = EMPTY;
        self.used -= 1;
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u64>()
    }

    #[cfg(test)]
    pub(super) const fn len(&self) -> usize {
        self.used
    }

    fn grow(&mut self) {
        let wider = (self.slots.len() * 2).max(SLOTS_MIN);
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; wider]);
        for slot in old {
            if slot != EMPTY {
                self.place(slot);
            }
        }
    }

    fn place(&mut self, slot: u64) {
        let mask = self.slots.len() - 1;
        let mut at = (slot >> 32) as usize & mask;
        while self.slots[at] != EMPTY {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }

    fn hash(&self, parent: u32, token: &[u8]) -> u32 {
        let seed = self.seed ^ u64::from(parent).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash(seed, token) as u32
    }
}
