//! The record format: a 48-byte head and a body, padded with zeros to 8 bytes. Integers are little
//! endian. The checksum covers head, body and padding and is seeded by the header of the segment,
//! which holds a fresh random salt, so bytes that an earlier life of a recycled file left behind can
//! never be taken for a record of this one.
//!
//! ```text
//!  0 crc32     4 body length   8 tag (from the salt)   12 kind, detail, 0, 0
//! 16 group    20 durable      24 term    32 node       40 index               48 body
//! ```
//!
//! `durable` is how far the segment was known to be synced when the record was written. It is what
//! tells a torn tail from damage: a bad record below the `durable` of a later one had been synced.

use crate::transport::GroupId;
use crate::types::{LeaderId, LogId};

/// Bytes of a record without its body.
pub(super) const HEAD_BYTES: usize = 48;

/// Records start at multiples of this.
pub(super) const ALIGN: usize = 8;

/// What a record is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A log entry: log id in the head, payload kind in `detail`, payload in the body.
    Entry = 1,
    /// A vote: `detail` 1 when committed.
    Vote = 2,
    /// Entries above `index` are gone; all of them when `detail` is 0.
    Truncate = 3,
    /// Entries up to the log id are gone.
    Purge = 4,
    /// Entries up to the log id are committed. A hint, written when something else is.
    Committed = 5,
    /// State of one group as of the start of the segment (`codec::GroupHead` in the body).
    Head = 6,
    /// Everything before it is synced; carries nothing else.
    Mark = 7,
    /// The segment ends here and the next one exists.
    Seal = 8,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Entry,
            2 => Self::Vote,
            3 => Self::Truncate,
            4 => Self::Purge,
            5 => Self::Committed,
            6 => Self::Head,
            7 => Self::Mark,
            8 => Self::Seal,
            _ => return None,
        })
    }
}

/// The meaningful fields of a record's head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    /// Depends on the kind.
    pub(super) detail: u8,
    pub(super) group: GroupId,
    pub(super) term: u64,
    pub(super) node: u64,
    pub(super) index: u64,
}

impl Head {
    /// A head without a log id.
    pub(super) fn plain(kind: Kind, group: GroupId) -> Self {
        Self {
            kind,
            detail: 0,
            group,
            term: 0,
            node: 0,
            index: 0,
        }
    }

    /// A head with a log id.
    pub(super) fn at(kind: Kind, group: GroupId, log_id: &LogId) -> Self {
        Self {
            kind,
            detail: 0,
            group,
            term: log_id.leader_id.term,
            node: log_id.leader_id.node_id,
            index: log_id.index,
        }
    }

    /// The leader id in the head.
    pub(super) fn leader_id(&self) -> LeaderId {
        LeaderId {
            term: self.term,
            node_id: self.node,
        }
    }

    /// The log id in the head.
    pub(super) fn log_id(&self) -> LogId {
        LogId {
            leader_id: self.leader_id(),
            index: self.index,
        }
    }
}

/// What makes records of one life of a segment file recognisable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Stamp {
    /// Seeds the checksum: the checksum of the segment header.
    pub(super) seed: u32,
    /// Repeated in each head.
    pub(super) tag: u32,
}

/// A record found in a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Found<'a> {
    pub(super) head: Head,
    pub(super) durable: u32,
    pub(super) body: &'a [u8],
    /// Bytes it takes, padding included.
    pub(super) size: usize,
}

/// Bytes a record with a body of `body` bytes takes.
pub(super) fn size(body: usize) -> usize {
    HEAD_BYTES + body.next_multiple_of(ALIGN)
}

/// Appends a record to `out`. The caller has checked that the body fits a segment (< 4 GiB).
pub(super) fn put(out: &mut Vec<u8>, stamp: Stamp, durable: u32, head: &Head, body: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&stamp.tag.to_le_bytes());
    out.extend_from_slice(&[head.kind as u8, head.detail, 0, 0]);
    out.extend_from_slice(&head.group.0.to_le_bytes());
    out.extend_from_slice(&durable.to_le_bytes());
    out.extend_from_slice(&head.term.to_le_bytes());
    out.extend_from_slice(&head.node.to_le_bytes());
    out.extend_from_slice(&head.index.to_le_bytes());
    out.extend_from_slice(body);
    out.resize(start + size(body.len()), 0);
    let crc = checksum(stamp, out.get(start + 4..).unwrap_or_default());
    if let Some(at) = out.get_mut(start..start + 4) {
        at.copy_from_slice(&crc.to_le_bytes());
    }
}

/// Reads the record at the start of `bytes`; `None` if there is none that is whole and valid.
pub(super) fn read(bytes: &[u8], stamp: Stamp) -> Option<Found<'_>> {
    let head = bytes.get(..HEAD_BYTES)?;
    if u32_at(head, 8)? != stamp.tag {
        return None;
    }
    let kind = Kind::from_byte(*head.get(12)?)?;
    let len = u32_at(head, 4)? as usize;
    let whole = bytes.get(..size(len))?;
    if checksum(stamp, whole.get(4..)?) != u32_at(head, 0)? {
        return None;
    }
    Some(Found {
        head: Head {
            kind,
            detail: *head.get(13)?,
            group: GroupId(u32_at(head, 16)?),
            term: u64_at(head, 24)?,
            node: u64_at(head, 32)?,
            index: u64_at(head, 40)?,
        },
        durable: u32_at(head, 20)?,
        body: whole.get(HEAD_BYTES..HEAD_BYTES + len)?,
        size: size(len),
    })
}

/// Whether `bytes` begins with the head of a record of this segment that may not be whole.
pub(super) fn has_tag(bytes: &[u8], stamp: Stamp) -> bool {
    u32_at(bytes, 8) == Some(stamp.tag)
}

fn checksum(stamp: Stamp, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(stamp.seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// The little-endian u32 at `at`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// The little-endian u64 at `at`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of the format: changing them needs a new format version.
    #[test]
    fn golden_record() {
        let log_id = LogId {
            leader_id: LeaderId {
                term: 5,
                node_id: 6,
            },
            index: 300,
        };
        let mut head = Head::at(Kind::Entry, GroupId(7), &log_id);
        head.detail = 1;
        let stamp = Stamp {
            seed: 0xaabb_ccdd,
            tag: 0x1122_3344,
        };
        let mut out = Vec::new();
        put(&mut out, stamp, 64, &head, &[9, 8, 7]);
        #[rustfmt::skip]
        let expected = [
            101, 121, 25, 134,
            3, 0, 0, 0,
            0x44, 0x33, 0x22, 0x11,
            1, 1, 0, 0,
            7, 0, 0, 0,
            64, 0, 0, 0,
            5, 0, 0, 0, 0, 0, 0, 0,
            6, 0, 0, 0, 0, 0, 0, 0,
            44, 1, 0, 0, 0, 0, 0, 0,
            9, 8, 7, 0, 0, 0, 0, 0,
        ];
        assert_eq!(out, expected);
        let found = read(&out, stamp).unwrap();
        assert_eq!((found.head, found.durable), (head, 64));
        assert_eq!((found.body, found.size), (&[9, 8, 7][..], 56));
        let other = Stamp { seed: 1, ..stamp };
        assert_eq!(read(&out, other), None, "another life of the file");
    }
}
