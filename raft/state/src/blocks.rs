//! The index of a stream's messages, by sequence: one dense run of entries per block. Decides where
//! each record goes and when a block is no longer needed. Holds no message bytes.

use std::collections::VecDeque;

use crate::entries::{Entries, IndexEntry};
use crate::location::{BLOCK_BYTES_MAX, BlockId};

/// Entries in one block at most (skipped sequences have no bytes that would fill it).
const BLOCK_ENTRIES_MAX: usize = 1 << 18;
/// A block that is still written to but holds nothing live is dropped once it has this many bytes.
const IDLE_BLOCK_BYTES_MAX: u32 = BLOCK_BYTES_MAX / 4;

#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) id: BlockId,
    /// Sequence of the first entry.
    pub(crate) base: u64,
    pub(crate) entries: Entries,
    pub(crate) live: u32,
    /// Bytes of all records, dead ones included.
    pub(crate) bytes: u32,
    pub(crate) sealed: bool,
    /// Entries were added since the last checkpoint.
    pub(crate) index_dirty: bool,
    /// Messages died since the last checkpoint.
    pub(crate) live_dirty: bool,
}

impl Block {
    pub(crate) fn new(id: BlockId, base: u64) -> Self {
        Self {
            id,
            base,
            entries: Entries::new(),
            live: 0,
            bytes: 0,
            sealed: false,
            index_dirty: true,
            live_dirty: true,
        }
    }

    /// Adds an entry behind the others; a dead one only keeps its length and time.
    pub(crate) fn push(&mut self, ts_ns: u64, len: u32, flags: u32, subject: Option<u32>) {
        let entry = IndexEntry::new(ts_ns, self.bytes, len, flags, subject);
        self.entries.push(entry);
        self.live += u32::from(subject.is_some());
        self.bytes += len;
        self.index_dirty = true;
        self.live_dirty = true;
    }

    /// Nothing is added any more.
    pub(crate) fn seal(&mut self) {
        self.sealed = true;
        self.entries.pack();
    }

    fn end(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    fn is_idle(&self) -> bool {
        self.live == 0 && (self.sealed || self.bytes >= IDLE_BLOCK_BYTES_MAX)
    }
}

/// What was known of a message that just died.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Killed {
    pub(crate) entry: IndexEntry,
    /// The block that went with it.
    pub(crate) dropped: Option<BlockId>,
}

#[derive(Debug, Default)]
pub(crate) struct Blocks {
    /// Ascending and disjoint in sequences; what lies between two blocks is dead.
    pub(crate) list: VecDeque<Block>,
    pub(crate) next_id: u32,
}

impl Blocks {
    /// The place of the next record, and a block that was only kept for writing and is now dropped.
    pub(crate) fn place(&mut self, seq: u64, len: u32) -> (BlockId, u32, Option<BlockId>) {
        let mut dropped = None;
        if let Some(active) = self.list.back_mut().filter(|block| !block.sealed) {
            let full = active.bytes.saturating_add(len) > BLOCK_BYTES_MAX && active.bytes > 0;
            // A gap in the sequences can't be inside a block.
            let gap = active.end() != seq;
            if !full && !gap && active.entries.len() < BLOCK_ENTRIES_MAX {
                return (active.id, active.bytes, None);
            }
            active.seal();
            active.index_dirty = true;
            if active.live == 0 {
                dropped = Some(active.id);
                self.list.pop_back();
            }
        }
        let id = BlockId(self.next_id);
        self.next_id += 1;
        self.list.push_back(Block::new(id, seq));
        (id, 0, dropped)
    }

    /// Adds the entry of the record placed last.
    pub(crate) fn push(&mut self, ts_ns: u64, len: u32, flags: u32, subject: u32) {
        if let Some(active) = self.list.back_mut() {
            active.push(ts_ns, len, flags, Some(subject));
        }
    }

    /// Keeps the active block dense across a sequence without a message: a gap would seal it, and a
    /// stream that stores every other message would get a file for each.
    pub(crate) fn skip(&mut self, seq: u64, ts_ns: u64) {
        let active = self.list.back_mut().filter(|block| !block.sealed);
        if let Some(active) = active
            && active.end() == seq
            && active.entries.len() < BLOCK_ENTRIES_MAX
        {
            active.push(ts_ns, 0, 0, None);
        }
    }

    fn position(&self, seq: u64) -> Option<(usize, usize)> {
        let after = self.list.partition_point(|block| block.base <= seq);
        let at = after.checked_sub(1)?;
        let offset = usize::try_from(seq - self.list[at].base).ok()?;
        (offset < self.list[at].entries.len()).then_some((at, offset))
    }

    /// The live message with this sequence and its block.
    pub(crate) fn find(&self, seq: u64) -> Option<(BlockId, IndexEntry)> {
        let (block, at) = self.position(seq)?;
        let block = &self.list[block];
        let entry = block.entries.get(at).filter(IndexEntry::is_live)?;
        Some((block.id, entry))
    }

    pub(crate) fn is_live(&self, seq: u64) -> bool {
        let place = self.position(seq);
        place.is_some_and(|(block, at)| self.list[block].entries.is_live(at))
    }

    pub(crate) fn kill(&mut self, seq: u64) -> Option<Killed> {
        let (at, offset) = self.position(seq)?;
        let block = &mut self.list[at];
        let before = block.entries.kill(offset)?;
        block.live -= 1;
        block.live_dirty = true;
        let dropped = block.is_idle().then_some(block.id);
        if dropped.is_some() {
            self.list.remove(at);
        }
        Some(Killed {
            entry: before,
            dropped,
        })
    }

    /// Makes the next checkpoint write the index of a message's block again.
    pub(crate) fn mark_changed(&mut self, seq: u64) {
        if let Some((at, _)) = self.position(seq) {
            self.list[at].index_dirty = true;
        }
    }

    /// Drops every block.
    pub(crate) fn clear(&mut self) -> Vec<BlockId> {
        self.list.drain(..).map(|block| block.id).collect()
    }

    /// Live messages from `from` on, ascending.
    pub(crate) fn iter_from(&self, from: u64) -> impl Iterator<Item = (u64, BlockId, IndexEntry)> {
        let at = self.list.partition_point(|block| block.end() <= from);
        self.list.range(at..).flat_map(move |block| {
            let skip = usize::try_from(from.saturating_sub(block.base)).unwrap_or(usize::MAX);
            // A dead block has nothing to offer, however many entries it has.
            let skip = if block.live == 0 { usize::MAX } else { skip };
            let live = block.entries.live_from(skip);
            live.map(|(at, entry)| (block.base + at as u64, block.id, entry))
        })
    }

    /// Live messages among the newest `places` of blocks that hold any, descending.
    pub(crate) fn iter_back(&self, places: usize) -> impl Iterator<Item = (u64, IndexEntry)> {
        let blocks = self.list.iter().rev().filter(|block| block.live > 0);
        let all =
            blocks.flat_map(|block| (0..block.entries.len()).rev().map(move |at| (block, at)));
        all.take(places).filter_map(|(block, at)| {
            let entry = block.entries.get(at).filter(IndexEntry::is_live)?;
            Some((block.base + at as u64, entry))
        })
    }

    /// The last live message.
    pub(crate) fn last_live(&self) -> Option<u64> {
        self.iter_back(usize::MAX).next().map(|(seq, _)| seq)
    }

    pub(crate) fn next_live(&self, from: u64) -> Option<u64> {
        self.iter_from(from).next().map(|(seq, ..)| seq)
    }

    /// Live messages not below `from`: whole blocks by their count, one block by looking.
    pub(crate) fn count_from(&self, from: u64) -> u64 {
        let at = self.list.partition_point(|block| block.end() <= from);
        let mut count = 0;
        for block in self.list.range(at..) {
            if block.base >= from {
                count += u64::from(block.live);
            } else {
                let skip = usize::try_from(from - block.base).unwrap_or(usize::MAX);
                count += if block.live as usize == block.entries.len() {
                    block.entries.len().saturating_sub(skip) as u64
                } else {
                    let rest = skip..block.entries.len();
                    rest.filter(|at| block.entries.is_live(*at)).count() as u64
                };
            }
        }
        count
    }

    /// The first live message stored at `ts_ns` or later.
    pub(crate) fn first_at(&self, ts_ns: u64) -> Option<u64> {
        let at = self
            .list
            .partition_point(|b| b.entries.last().is_none_or(|entry| entry.ts_ns() < ts_ns));
        let block = self.list.get(at)?;
        let skip = block.entries.older_than(ts_ns);
        self.next_live(block.base + skip as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(blocks: &mut Blocks, seq: u64, len: u32) -> (BlockId, u32) {
        let (id, offset, _) = blocks.place(seq, len);
        blocks.push(seq * 10, len, 0, 0);
        (id, offset)
    }

    #[test]
    fn records_fill_blocks_in_order() {
        let mut blocks = Blocks::default();
        let half = BLOCK_BYTES_MAX / 2;
        assert_eq!(push(&mut blocks, 1, half), (BlockId(0), 0));
        assert_eq!(push(&mut blocks, 2, half), (BlockId(0), half));
        assert_eq!(push(&mut blocks, 3, 1), (BlockId(1), 0));
        assert_eq!(push(&mut blocks, 4, BLOCK_BYTES_MAX + 5), (BlockId(2), 0));
        assert_eq!(push(&mut blocks, 5, 1), (BlockId(3), 0));
        assert_eq!(
            push(&mut blocks, 9, 1),
            (BlockId(4), 0),
            "a gap starts a block"
        );
        assert_eq!(blocks.count_from(0), 6);
        assert_eq!(blocks.count_from(4), 3);
        assert_eq!(blocks.next_live(6), Some(9));
        assert_eq!(blocks.first_at(25), Some(3));
        assert_eq!(blocks.first_at(91), None);
    }

    #[test]
    fn dead_sealed_blocks_go_and_the_small_active_one_stays() {
        let mut blocks = Blocks::default();
        push(&mut blocks, 1, BLOCK_BYTES_MAX);
        push(&mut blocks, 2, 1);
        assert_eq!(blocks.kill(1).unwrap().dropped, Some(BlockId(0)));
        assert!(blocks.kill(1).is_none());
        assert_eq!(blocks.kill(2).unwrap().dropped, None);
        assert_eq!(push(&mut blocks, 3, 1), (BlockId(1), 1));
        assert_eq!(
            blocks.iter_from(0).map(|(seq, ..)| seq).collect::<Vec<_>>(),
            [3]
        );
        assert!(blocks.find(2).is_none() && blocks.is_live(3));
    }

    #[test]
    fn skipped_sequences_stay_inside_the_block() {
        let mut blocks = Blocks::default();
        blocks.skip(1, 10);
        assert_eq!(push(&mut blocks, 2, 7), (BlockId(0), 0), "nothing to fill");
        blocks.skip(3, 30);
        blocks.skip(4, 40);
        assert_eq!(push(&mut blocks, 5, 7), (BlockId(0), 7));
        let live = blocks.iter_from(0).map(|(seq, ..)| seq);
        assert_eq!(live.collect::<Vec<_>>(), [2, 5]);
        assert_eq!(blocks.next_live(3), Some(5));
        assert_eq!((blocks.count_from(3), blocks.first_at(21)), (1, Some(5)));
        assert!(blocks.kill(3).is_none());
        blocks.skip(9, 90);
        assert_eq!(push(&mut blocks, 10, 7).0, BlockId(1), "a gap is no skip");
    }

    #[test]
    fn skipped_sequences_fill_a_block() {
        let mut blocks = Blocks::default();
        push(&mut blocks, 1, 7);
        let last = BLOCK_ENTRIES_MAX as u64 + 1;
        for seq in 2..=last {
            blocks.skip(seq, seq * 10);
        }
        assert_eq!(blocks.list[0].entries.len(), BLOCK_ENTRIES_MAX);
        assert_eq!(push(&mut blocks, last + 1, 7).0, BlockId(1));
    }
}
