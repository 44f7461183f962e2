//! Where message bytes live. The state chooses every place; a sink only writes there, so replaying an
//! entry writes the same bytes to the same place.

/// A stream's identity for its whole life; never reused, unlike its name.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamUid(pub u64);

/// A block file of one stream; never reused.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

/// Bytes a block may hold before the next record starts a new one.
pub const BLOCK_BYTES_MAX: u32 = 8 << 20;

/// The place of one record.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The stream.
    pub stream: StreamUid,
    /// The block.
    pub block: BlockId,
    /// First byte in the block.
    pub offset: u32,
    /// Length in bytes, record header included.
    pub len: u32,
}

/// A block that holds live messages or is being written.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct BlockMeta {
    /// The stream.
    pub stream: StreamUid,
    /// The block.
    pub block: BlockId,
    /// Bytes written so far.
    pub len: u32,
    /// Nothing is appended any more.
    pub sealed: bool,
}

/// Takes message bytes and learns which files are no longer needed.
pub trait BlockSink {
    /// Writes the concatenation of `record` at `at`. May happen again with the same bytes on replay.
    fn append(&mut self, at: &Location, record: &[&[u8]]);
    /// No message of the block is needed by the state after this entry. (A checkpoint taken before may
    /// still name it.)
    fn drop_block(&mut self, stream: StreamUid, block: BlockId);
    /// No message of the stream is needed after this entry.
    fn drop_stream(&mut self, stream: StreamUid);
}

/// A sink that forgets everything, for tests and models.
#[derive(Copy, Clone, Debug, Default)]
pub struct NullSink;

impl BlockSink for NullSink {
    fn append(&mut self, _at: &Location, _record: &[&[u8]]) {}
    fn drop_block(&mut self, _stream: StreamUid, _block: BlockId) {}
    fn drop_stream(&mut self, _stream: StreamUid) {}
}
