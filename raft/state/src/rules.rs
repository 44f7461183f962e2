//! By which rules entries are applied. What an entry does may only change when every replica changes it
//! with the same entry: a change comes with a level of its own, and holds from the entry on by which the
//! leader raises the state to that level. It does so once every voter speaks a version that knows it.
//! Nodes of other versions end at such an entry, and at rows that it has led to.

use crate::codec::CodecError;

/// A level of rules; states begin at the lowest and never go back.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rules(u8);

impl Rules {
    /// What this version knows.
    pub const NEWEST: Self = Self(1);
    /// An atomic batch is checked in the form in which it is stored, and then whole.
    pub(crate) const WHOLE_BATCHES: Self = Self(1);
    /// A full stream that discards what is old takes a message that is larger than itself, and drops it.
    pub(crate) const OVERSIZED: Self = Self(1);
    /// Known origins of a counter stay known at their limit, and a copy stops at one that is too many.
    pub(crate) const COUNTED_ORIGINS: Self = Self(1);
    /// A message that says that it marks a removal is followed by no marker when it expires.
    pub(crate) const TOLD_MARKERS: Self = Self(1);
    /// What nobody needs goes when a consumer is reset, and stays when the retention ends.
    pub(crate) const SWEEPS: Self = Self(1);
    /// A rollup of everything clears the stream.
    pub(crate) const ROLLUP_CLEARS: Self = Self(1);
    /// Times to live are read as nats-server reads them, and archives bring no position beyond every stream.
    pub(crate) const LIKE_NATS: Self = Self(1);
    /// One entry looks at so many subjects and no more.
    pub(crate) const BOUNDED_WORK: Self = Self(1);

    /// Whether the rules of `level` hold.
    pub(crate) fn have(self, level: Self) -> bool {
        self >= level
    }

    /// As it is written.
    pub(crate) fn level(self) -> u8 {
        self.0
    }

    /// The reverse of [`Rules::level`]; a level that this version does not know is an error.
    pub(crate) fn of_level(level: u8) -> Result<Self, CodecError> {
        let rules = Self(level);
        if rules > Self::NEWEST {
            return Err(CodecError::UnknownFormat(level));
        }
        Ok(rules)
    }
}
