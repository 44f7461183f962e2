//! The table of contents of a snapshot: where it was cut, the file with the state's rows, and the
//! block files with lengths and digests. The bytes are the same on disk and on the wire.

use std::path::PathBuf;

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec;
use crate::errors::StorageError;
use crate::frame::{FrameError, Reader, put_bytes};
use crate::types::SnapshotMeta;

const MAGIC: u32 = u32::from_le_bytes(*b"USNP");
const FORMAT: u32 = 1;
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
}

impl BlockEntry {
    /// Its name in a snapshot folder.
    pub(crate) fn name(&self) -> String {
        format!("{:016x}-{:08x}.blk", self.stream, self.block)
    }
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

    /// Names and expectations of all files: rows first, then the blocks.
    pub(crate) fn files(&self) -> Vec<(String, FileEntry)> {
        let blocks = self.blocks.iter().map(|block| (block.name(), block.file));
        std::iter::once((ROWS_FILE.to_owned(), self.rows))
            .chain(blocks)
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
            out.put_u8(u8::from(block.sealed));
            put_file(&mut out, &block.file);
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
        if format != FORMAT {
            return Err(ManifestError::Format(format));
        }
        let meta = codec::decode_snapshot_meta(&input.bytes()?)
            .map_err(|_| FrameError("snapshot meta"))?;
        let rows = read_file(&mut input)?;
        let count = input.u32()? as usize;
        if count > BLOCKS_MAX {
            return Err(FrameError("too many blocks").into());
        }
        let mut blocks = Vec::new();
        for _ in 0..count {
            blocks.push(BlockEntry {
                stream: input.u64()?,
                block: input.u32()?,
                sealed: input.u8()? != 0,
                file: read_file(&mut input)?,
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

    #[test]
    fn encoding_round_trips_and_damage_is_noticed() {
        let manifest = Manifest {
            meta: SnapshotMeta::default(),
            rows: FileEntry {
                len: 10,
                digest: [1; 32],
            },
            blocks: vec![BlockEntry {
                stream: 7,
                block: 2,
                sealed: true,
                file: FileEntry {
                    len: 99,
                    digest: [2; 32],
                },
            }],
        };
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
