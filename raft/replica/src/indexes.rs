//! Index files: the rows that say what is where in the blocks that the state writes no more to. Together
//! they grow with the number of messages, so they are no part of the rows database and of the rows file,
//! which every checkpoint writes anew: each is written once, when its block is sealed.
//!
//! There are two copies with the same bytes, a rows file of one row: one in the newest snapshot, linked
//! from snapshot to snapshot, and one beside the block. Its length and digest stand in the manifest.
//! Either copy mends the other.

use std::fs;
use std::path::{Path, PathBuf};

use unibus_state::{RowOp, sealed_index};

use crate::blocks::{BlockKey, BlockStore};
use crate::errors::StorageError;
use crate::identity::write_whole;
use crate::manifest::{BlockEntry, FileEntry};
use crate::quarantine::Quarantine;
use crate::rows::{Row, read_rows_file, write_rows_file};
use crate::snapshot::{SnapshotDir, verify};

/// The index of a sealed block, if the row is one.
pub(crate) fn sealed_row(op: &RowOp) -> Option<(BlockKey, &[u8], &[u8])> {
    let RowOp::Put { key, value } = op else {
        return None;
    };
    let (stream, block) = sealed_index(key, value)?;
    Some(((stream.0, block.0), key, value))
}

/// Writes an index file to a snapshot that is being built, and its copy beside the block. Synced.
pub(crate) fn write(
    blocks: &Path,
    (block, key, value): (BlockKey, &[u8], &[u8]),
    path: &Path,
) -> Result<FileEntry, StorageError> {
    let row = Ok((key.to_vec(), value.to_vec()));
    let entry = write_rows_file(path, std::iter::once(row))?;
    copy(path, &blocks.join(BlockStore::index_name(block)))?;
    Ok(entry)
}

/// The index files of a snapshot, each from a copy that is whole.
#[derive(Debug, Default)]
pub(crate) struct Indexes {
    whole: Vec<PathBuf>,
    /// Copies that are not what the manifest says, and one that is.
    bad: Vec<(PathBuf, PathBuf)>,
    /// Files of which no copy is.
    lost: Vec<PathBuf>,
}

impl Indexes {
    /// Looks at all copies; `blocks` is the folder of the store's blocks. Changes nothing.
    pub(crate) fn look(snapshot: &SnapshotDir, blocks: &Path) -> Result<Self, StorageError> {
        let mut looked = Self::default();
        for block in &snapshot.manifest.blocks {
            let Some(expected) = &block.index else {
                continue;
            };
            let copies = copies(snapshot, blocks, block);
            let whole = [
                is_whole(&copies[0], expected)?,
                is_whole(&copies[1], expected)?,
            ];
            let [first, second] = copies;
            match whole {
                [true, true] => looked.whole.push(first),
                [true, false] => {
                    looked.bad.push((second, first.clone()));
                    looked.whole.push(first);
                }
                [false, true] => {
                    looked.bad.push((first, second.clone()));
                    looked.whole.push(second);
                }
                [false, false] => looked.lost.push(first),
            }
        }
        Ok(looked)
    }

    /// The rows, in no particular order.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Result<Row, StorageError>> {
        self.whole.iter().flat_map(|path| {
            let (rows, failure) = match read_rows_file(path) {
                Ok(rows) => (Some(rows), None),
                Err(error) => (None, Some(Err(error))),
            };
            rows.into_iter().flatten().chain(failure)
        })
    }

    /// What can't be had from either copy, as it is told.
    pub(crate) fn lost(&self) -> impl Iterator<Item = String> {
        self.lost.iter().map(|path| {
            let path = path.display();
            format!("{path} and the copy beside its block are not what the manifest says")
        })
    }

    /// An error if something is lost.
    pub(crate) fn complete(self) -> Result<Self, StorageError> {
        match self.lost.first() {
            None => Ok(self),
            Some(path) => Err(StorageError::Damaged {
                path: path.clone(),
                reason: "neither it nor its copy is what the manifest says".to_owned(),
            }),
        }
    }

    /// Writes the bad copies anew, after setting them aside in `damaged`.
    pub(crate) fn mend(&self, damaged: &Path) -> Result<(), StorageError> {
        for (bad, _) in self.bad.iter().filter(|(bad, _)| bad.exists()) {
            let why = format!("{}: not what the manifest says", bad.display());
            tracing::error!(%why, "set aside and written again from its copy");
            Quarantine::create(damaged, &why)?.take(bad)?;
        }
        self.replace()
    }

    /// Writes the copies anew that are not those of the snapshot.
    pub(crate) fn replace(&self) -> Result<(), StorageError> {
        for (bad, whole) in &self.bad {
            copy(whole, bad)?;
        }
        Ok(())
    }
}

/// Makes an index file of the newest snapshot one of a snapshot that is being built, too.
pub(crate) fn link(
    from: &SnapshotDir,
    blocks: &Path,
    block: &BlockEntry,
    to: &Path,
) -> Result<(), StorageError> {
    let [first, second] = copies(from, blocks, block);
    let linked = fs::hard_link(&first, to).map_err(StorageError::io("link", &first));
    match (linked, &block.index) {
        (Err(error), Some(expected)) if error.is_absence() => {
            tracing::error!(%error, "an index file of the snapshot is missing");
            verify(&second, expected)?;
            copy(&second, to)
        }
        (linked, _) => linked,
    }
}

fn copies(snapshot: &SnapshotDir, blocks: &Path, block: &BlockEntry) -> [PathBuf; 2] {
    [
        snapshot.file(&block.index_name()),
        blocks.join(BlockStore::index_name((block.stream, block.block))),
    ]
}

fn is_whole(path: &Path, expected: &FileEntry) -> Result<bool, StorageError> {
    match verify(path, expected) {
        Ok(()) => Ok(true),
        Err(error) if error.is_damage() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Another file with the same bytes: what happens to one does not happen to the other.
fn copy(from: &Path, to: &Path) -> Result<(), StorageError> {
    let bytes = fs::read(from).map_err(StorageError::io("read", from))?;
    let (Some(folder), Some(name)) = (to.parent(), to.file_name().and_then(|name| name.to_str()))
    else {
        return Err(StorageError::Rows(format!("{} is no place", to.display())));
    };
    write_whole(folder, name, &bytes)
}
