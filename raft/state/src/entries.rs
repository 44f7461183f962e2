//! The index entries of one block, by position. While the block is written they lie in a row; once it is
//! sealed they are kept by column, each in the smallest of a few forms: messages that came together share
//! their time, those of one kind their length and subject, and then cost next to nothing. What was
//! removed is a bit. Holds no message bytes.

use crate::column::Column;
use crate::subject_table::NO_SUBJECT;

const LIVE: u32 = 1 << 31;
/// The message has headers.
pub(crate) const HEADERS: u32 = 1 << 30;
/// The message has its own expiry.
pub(crate) const TTL: u32 = 1 << 29;
/// The message survives the stream's maximum age.
pub(crate) const NEVER: u32 = 1 << 28;
/// The message marks an expired subject.
pub(crate) const MARKER: u32 = 1 << 27;
/// The flags that are stored.
pub(crate) const STORED_FLAGS: u32 = HEADERS | TTL | NEVER | MARKER;
const LEN_MASK: u32 = MARKER - 1;
/// The stored flags without what lies below them.
const FLAGS_SHIFT: u32 = MARKER.trailing_zeros();

/// 20 bytes per message.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) struct IndexEntry {
    ts_low: u32,
    ts_high: u32,
    offset: u32,
    packed: u32,
    pub(crate) subject: u32,
}

impl IndexEntry {
    /// An entry for a record at `offset`; a dead one only keeps its length and time.
    pub(crate) fn new(ts_ns: u64, offset: u32, len: u32, flags: u32, subject: Option<u32>) -> Self {
        let flags = subject.map_or(0, |_| LIVE | flags & STORED_FLAGS);
        Self {
            ts_low: ts_ns as u32,
            ts_high: (ts_ns >> 32) as u32,
            offset,
            packed: (len & LEN_MASK) | flags,
            subject: subject.unwrap_or(NO_SUBJECT),
        }
    }

    pub(crate) fn ts_ns(&self) -> u64 {
        u64::from(self.ts_high) << 32 | u64::from(self.ts_low)
    }

    /// Length of the record.
    pub(crate) fn len(&self) -> u32 {
        self.packed & LEN_MASK
    }

    pub(crate) fn offset(&self) -> u32 {
        self.offset
    }

    pub(crate) fn is_live(&self) -> bool {
        self.packed & LIVE != 0
    }

    pub(crate) fn has(&self, flag: u32) -> bool {
        self.packed & flag != 0
    }

    pub(crate) fn flags(&self) -> u32 {
        self.packed & STORED_FLAGS
    }

    fn die(&mut self) {
        self.packed &= LEN_MASK;
        self.subject = NO_SUBJECT;
    }
}

#[derive(Debug)]
pub(crate) enum Entries {
    Open(Vec<IndexEntry>),
    Packed(Box<Packed>),
}

#[derive(Debug)]
pub(crate) struct Packed {
    times: Column,
    offsets: Column,
    lens: Column,
    /// Flags and subject of those that were alive when it was packed.
    flags: Column,
    subjects: Column,
    /// One bit for each, lowest first.
    live: Box<[u8]>,
    len: usize,
}

impl Entries {
    pub(crate) fn new() -> Self {
        Self::Open(Vec::new())
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Open(entries) => entries.len(),
            Self::Packed(packed) => packed.len,
        }
    }

    pub(crate) fn get(&self, at: usize) -> Option<IndexEntry> {
        match self {
            Self::Open(entries) => entries.get(at).copied(),
            Self::Packed(packed) => (at < packed.len).then(|| packed.entry(at)),
        }
    }

    pub(crate) fn last(&self) -> Option<IndexEntry> {
        self.get(self.len().checked_sub(1)?)
    }

    /// Adds an entry. The block must not be sealed.
    pub(crate) fn push(&mut self, entry: IndexEntry) {
        match self {
            Self::Open(entries) => entries.push(entry),
            Self::Packed(_) => debug_assert!(false, "nothing is added to a sealed block"),
        }
    }

    /// Entries from position `from` on.
    pub(crate) fn from(&self, from: usize) -> impl Iterator<Item = IndexEntry> {
        let (open, packed) = match self {
            Self::Open(entries) => (entries.get(from..).unwrap_or_default(), None),
            Self::Packed(packed) => (&[][..], Some(packed)),
        };
        let packed = packed.into_iter();
        let packed = packed.flat_map(move |packed| (from..packed.len).map(|at| packed.entry(at)));
        open.iter().copied().chain(packed)
    }

    /// The live ones from position `from` on, with their positions.
    pub(crate) fn live_from(&self, from: usize) -> impl Iterator<Item = (usize, IndexEntry)> {
        let live = (from..self.len()).filter(|at| self.is_live(*at));
        live.filter_map(|at| Some((at, self.get(at)?)))
    }

    pub(crate) fn is_live(&self, at: usize) -> bool {
        match self {
            Self::Open(entries) => entries.get(at).is_some_and(IndexEntry::is_live),
            Self::Packed(packed) => packed.is_live(at),
        }
    }

    /// How many are older than `ts_ns`. Times never go back.
    pub(crate) fn older_than(&self, ts_ns: u64) -> usize {
        match self {
            Self::Open(entries) => entries.partition_point(|entry| entry.ts_ns() < ts_ns),
            Self::Packed(packed) => {
                let (mut low, mut high) = (0, packed.len);
                while low < high {
                    let middle = low + (high - low) / 2;
                    if packed.times.get(middle) < ts_ns {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                low
            }
        }
    }

    /// Makes an entry dead. Answers with what it was, if it was alive.
    pub(crate) fn kill(&mut self, at: usize) -> Option<IndexEntry> {
        let before = self.get(at).filter(IndexEntry::is_live)?;
        match self {
            Self::Open(entries) => entries.get_mut(at)?.die(),
            Self::Packed(packed) => *packed.live.get_mut(at / 8)? &= !(1 << (at % 8)),
        }
        Some(before)
    }

    /// Nothing is added any more: takes as little memory as it can.
    pub(crate) fn pack(&mut self) {
        if let Self::Open(entries) = self {
            *self = Self::Packed(Box::new(Packed::of(entries)));
        }
    }
}

impl Packed {
    fn of(entries: &[IndexEntry]) -> Self {
        let mut live = vec![0u8; entries.len().div_ceil(8)];
        for (at, entry) in entries.iter().enumerate() {
            live[at / 8] |= u8::from(entry.is_live()) << (at % 8);
        }
        let column = |value: fn(&IndexEntry) -> u64| Column::of(entries.iter().map(value));
        Self {
            times: column(IndexEntry::ts_ns),
            offsets: column(|entry| entry.offset.into()),
            lens: column(|entry| entry.len().into()),
            flags: column(|entry| u64::from(entry.flags() >> FLAGS_SHIFT)),
            subjects: column(|entry| match entry.is_live() {
                true => entry.subject.into(),
                // Nobody looks at it, and it must not widen the column.
                false => 0,
            }),
            live: live.into(),
            len: entries.len(),
        }
    }

    fn entry(&self, at: usize) -> IndexEntry {
        let short = |column: &Column| column.get(at) as u32;
        let is_live = self.is_live(at);
        let subject = is_live.then(|| short(&self.subjects));
        let flags = short(&self.flags) << FLAGS_SHIFT;
        IndexEntry::new(
            self.times.get(at),
            short(&self.offsets),
            short(&self.lens),
            flags,
            subject,
        )
    }

    fn is_live(&self, at: usize) -> bool {
        let byte = self.live.get(at / 8);
        byte.is_some_and(|byte| byte >> (at % 8) & 1 == 1)
    }

    /// Bytes that it takes.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        let columns = [
            &self.times,
            &self.offsets,
            &self.lens,
            &self.flags,
            &self.subjects,
        ];
        let columns = columns.into_iter().map(Column::bytes);
        columns.sum::<usize>() + self.live.len() + size_of::<Self>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1000 entries; `spread` of them in a row share time, subject and length.
    fn entries(spread: u64) -> Entries {
        let mut entries = Entries::new();
        let mut offset = 0;
        for at in 0..1000_u64 {
            let group = at / spread;
            let len = 40 + (group % 17) as u32;
            let flags = if group.is_multiple_of(5) {
                HEADERS | TTL
            } else {
                0
            };
            let subject = (group % 3 != 1).then_some((group % 11) as u32);
            // Far apart, so that they need all of 64 bits.
            let ts_ns = 1_700_000_000_000_000_000 + group * 10_000_000_007;
            entries.push(IndexEntry::new(ts_ns, offset, len, flags, subject));
            offset += len;
        }
        entries
    }

    #[test]
    fn packed_entries_are_those_that_were_pushed() {
        for spread in [1, 7, 100, 1000] {
            let (mut open, mut packed) = (entries(spread), entries(spread));
            packed.pack();
            assert!(matches!(packed, Entries::Packed(_)));
            for round in 0..2 {
                assert_eq!(packed.len(), 1000);
                assert_eq!(packed.last(), open.last());
                assert_eq!((packed.get(1000), open.get(1000)), (None, None));
                for from in [0, 1, 500, 999, 1000, 1001] {
                    assert!(packed.from(from).eq(open.from(from)), "{spread} {from}");
                }
                for at in (0..1000).step_by(13) {
                    let ts_ns = open.get(at).unwrap().ts_ns();
                    for ts_ns in [ts_ns, ts_ns + 1] {
                        assert_eq!(packed.older_than(ts_ns), open.older_than(ts_ns));
                    }
                    let killed = open.kill(at);
                    assert_eq!(packed.kill(at), killed);
                    assert!(round == 0 || killed.is_none(), "dies once");
                }
            }
        }
    }

    #[test]
    fn what_repeats_costs_little_and_nothing_costs_more_than_before() {
        for (spread, bytes_max) in [(1, 8_000), (100, 3_000), (1000, 500)] {
            let mut entries = entries(spread);
            entries.pack();
            let Entries::Packed(packed) = entries else {
                panic!("it is packed")
            };
            assert!(packed.bytes() < bytes_max, "{spread}: {}", packed.bytes());
        }
    }

    #[test]
    fn entries_stay_small() {
        assert_eq!(size_of::<IndexEntry>(), 20);
    }
}
