//! The table of contents of a snapshot: where it was cut, the file with the state's rows, and the
//! block files and their indexes with lengths and digests. The bytes are the same on disk and on the wire.

use std::path::PathBuf;

use bytes::{BufMut, Bytes, BytesMut};

use crate::blocks::BlockKey;
use crate::codec;
use crate::errors::StorageError;
use crate::frame::{FrameError, Reader, put_bytes};
use crate::types::SnapshotMeta;

const MAGIC: u32 = u32::from_le_bytes(*b"USNP");
const FORMAT: u32 = 2;
/// Before there were index files: all indexes are in the rows.
const FORMAT_ROWS_ONLY: u32 = 1;
/// The state writes no more to the block.
const SEALED: u8 = 1;
/// The block has an index file.
const INDEXED: u8 = 2;
/// Most blocks a manifest may list: 16 TiB of 4 MiB blocks would be 4 million.
const BLOCKS_MAX: usize = 4 << 20;
/// Names of the manifest in a snapshot folder: it is small and everything hangs on it, so there are two.
pub(crate) const MANIFEST_FILES: [&str; 2] = ["manifest", "manifest.copy"];
/// Name of the rows file in a snapshot folder.
pub(crate) const ROWS_FILE: &str = "rows";

/// What a snapshot consists of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Manifest {
    /// Last applied entry and membership.
    pub(crate) meta: SnapshotMeta,
    /// The rows file.
    pub(crate) rows: FileEntry,
    /// The block files, by stream and number.
    pub(crate) blocks: Vec<BlockEntry>,
}

/// Length and digest of a file.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) struct FileEntry {
    /// Bytes.
    pub(crate) len: u64,
    /// BLAKE3 of these bytes.
    pub(crate) digest: [u8; 32],
}

/// One block file.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) struct BlockEntry {
    pub(crate) stream: u64,
    pub(crate) block: u32,
    /// The state writes no more to it.
    pub(crate) sealed: bool,
    /// The file up to here, header included, belongs to the snapshot.
    pub(crate) file: FileEntry,
    /// The file with its index; `None` where that is in the rows.
    pub(crate) index: Option<FileEntry>,
}

impl BlockEntry {
    /// Its name in a snapshot folder.
    pub(crate) fn name(&self) -> String {
        format!("{:016x}-{:08x}.blk", self.stream, self.block)
    }

    /// The name of its index file in a snapshot folder.
    pub(crate) fn index_name(&self) -> String {
        index_name((self.stream, self.block))
    }
}

/// The name of a block's index file in a snapshot folder.
pub(crate) fn index_name((stream, block): BlockKey) -> String {
    format!("{stream:016x}-{block:08x}.idx")
}

/// Why bytes are no manifest.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Whole, but of another version.
    #[error("manifest format {0}, this version reads {FORMAT}")]
    Format(u32),
}

impl ManifestError {
    /// As an error of the file at `path`.
    pub(crate) fn at(self, path: PathBuf) -> StorageError {
        match self {
            Self::Format(found) => StorageError::Format {
                path,
                found,
                supported: FORMAT,
            },
            Self::Frame(error) => StorageError::Damaged {
                path,
                reason: error.to_string(),
            },
        }
    }
}

impl Manifest {
    /// Index of the last entry it covers, 0 for none.
    pub(crate) fn index(&self) -> u64 {
        self.meta.last_log_id.map_or(0, |id| id.index)
    }

    /// Names and expectations of all files: rows first, then the blocks, then the indexes.
    pub(crate) fn files(&self) -> Vec<(String, FileEntry)> {
        let blocks = self.blocks.iter().map(|block| (block.name(), block.file));
        let indexes = self.blocks.iter();
        let indexes = indexes.filter_map(|block| Some((block.index_name(), block.index?)));
        std::iter::once((ROWS_FILE.to_owned(), self.rows))
            .chain(blocks)
            .chain(indexes)
            .collect()
    }

    /// The bytes of the manifest file; they end with their own digest.
    pub(crate) fn encode(&self) -> Result<Bytes, FrameError> {
        let meta = codec::encode_snapshot_meta(&self.meta).map_err(|_| FrameError("meta"))?;
        let mut out = BytesMut::with_capacity(256 + self.blocks.len() * 64);
        out.put_u32_le(MAGIC);
        out.put_u32_le(FORMAT);
        put_bytes(&mut out, &meta);
        put_file(&mut out, &self.rows);
        out.put_u32_le(u32::try_from(self.blocks.len()).unwrap_or(u32::MAX));
        for block in &self.blocks {
            out.put_u64_le(block.stream);
            out.put_u32_le(block.block);
            let sealed = if block.sealed { SEALED } else { 0 };
            let indexed = if block.index.is_some() { INDEXED } else { 0 };
            out.put_u8(sealed | indexed);
            put_file(&mut out, &block.file);
            if let Some(index) = &block.index {
                put_file(&mut out, index);
            }
        }
        let digest = blake3::hash(&out);
        out.put_slice(digest.as_bytes());
        Ok(out.freeze())
    }

    /// Parses and verifies the bytes of a manifest file.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, ManifestError> {
        let body_len = bytes.len().checked_sub(32).ok_or(FrameError("short"))?;
        if blake3::hash(&bytes[..body_len]).as_bytes() != &bytes[body_len..] {
            return Err(FrameError("manifest digest").into());
        }
        let mut input = Reader::new(bytes.slice(..body_len));
        if input.u32()? != MAGIC {
            return Err(FrameError("not a manifest").into());
        }
        let format = input.u32()?;
        let known = match format {
            FORMAT => SEALED | INDEXED,
            FORMAT_ROWS_ONLY => SEALED,
            other => return Err(ManifestError::Format(other)),
        };
        let meta = codec::decode_snapshot_meta(&input.bytes()?)
            .map_err(|_| FrameError("snapshot meta"))?;
        let rows = read_file(&mut input)?;
        let count = input.u32()? as usize;
        if count > BLOCKS_MAX {
            return Err(FrameError("too many blocks").into());
        }
        let mut blocks = Vec::new();
        for _ in 0..count {
            let (stream, block, flags) = (input.u64()?, input.u32()?, input.u8()?);
            if flags & !known != 0 {
                return Err(FrameError("flags of a block").into());
            }
            let file = read_file(&mut input)?;
            let index = (flags & INDEXED != 0).then(|| read_file(&mut input));
            blocks.push(BlockEntry {
                stream,
                block,
                sealed: flags & SEALED != 0,
                file,
                index: index.transpose()?,
            });
        }
        if !input.is_empty() {
            return Err(FrameError("bytes after the manifest").into());
        }
        Ok(Self { meta, rows, blocks })
    }
}

fn put_file(out: &mut BytesMut, file: &FileEntry) {
    out.put_u64_le(file.len);
    out.put_slice(&file.digest);
}

fn read_file(input: &mut Reader) -> Result<FileEntry, FrameError> {
    Ok(FileEntry {
        len: input.u64()?,
        digest: input.digest()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let block = |block, sealed, index| BlockEntry {
            stream: 7,
            block,
            sealed,
            file: FileEntry {
                len: 99,
                digest: [2; 32],
            },
            index,
        };
        let index = FileEntry {
            len: 5,
            digest: [3; 32],
        };
        Manifest {
            meta: SnapshotMeta::default(),
            rows: FileEntry {
                len: 10,
                digest: [1; 32],
            },
            blocks: vec![
                block(2, true, None),
                block(3, true, Some(index)),
                block(4, false, None),
            ],
        }
    }

    #[test]
    fn files_are_listed_by_kind() {
        let names: Vec<String> = manifest()
            .files()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let numbers = [
            "00000002.blk",
            "00000003.blk",
            "00000004.blk",
            "00000003.idx",
        ];
        let mut expected = vec!["rows".to_owned()];
        expected.extend(numbers.map(|number| format!("0000000000000007-{number}")));
        assert_eq!(names, expected);
    }

    /// As it was written before there were index files.
    #[test]
    fn the_format_without_index_files_is_read() {
        let mut older = manifest();
        older.blocks.retain(|block| block.index.is_none());
        let mut bytes = older.encode().unwrap().to_vec();
        bytes.truncate(bytes.len() - 32);
        bytes[4..8].copy_from_slice(&FORMAT_ROWS_ONLY.to_le_bytes());
        let with_digest = |mut bytes: Vec<u8>| {
            let digest = blake3::hash(&bytes);
            bytes.extend_from_slice(digest.as_bytes());
            Bytes::from(bytes)
        };
        assert_eq!(Manifest::decode(&with_digest(bytes.clone())), Ok(older));
        bytes[4..8].copy_from_slice(&(FORMAT + 1).to_le_bytes());
        let newer = Manifest::decode(&with_digest(bytes));
        assert_eq!(newer, Err(ManifestError::Format(FORMAT + 1)));
    }

    #[test]
    fn encoding_round_trips_and_damage_is_noticed() {
        let manifest = manifest();
        let bytes = manifest.encode().unwrap();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest));
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert!(Manifest::decode(&Bytes::from(damaged)).is_err());
            assert!(Manifest::decode(&bytes.slice(..at)).is_err());
        }
    }
}
