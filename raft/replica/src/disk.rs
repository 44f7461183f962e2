//! The writes and syncs of the log and of the block files, in one place, so that tests can put a disk under
//! them that fails and forgets as real ones do. And the making of folders.

#[cfg(test)]
pub(crate) mod faults;

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::Path;

/// Who else has an account on the host has no business in what a node stores.
const FOLDER_MODE: u32 = 0o700;

/// Makes a folder, and those above it, for nobody but the owner. What is there stays as it is.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(FOLDER_MODE).create(path)
}

/// Writes all of `bytes` at `offset` bytes from the start. Durable after a sync that succeeds.
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(test)]
    faults::writing(file, offset, bytes.len())?;
    file.write_all_at(bytes, offset)
}

/// Makes what was written durable.
///
/// After an error the written bytes may be lost while the page cache still shows them, and the next sync
/// succeeds without writing them: Linux takes their pages for clean and tells of the error once. So a failed
/// sync is never tried again, by nobody. The process ends, and the next one writes the bytes anew.
pub(crate) fn sync_data(file: &File) -> io::Result<()> {
    #[cfg(test)]
    faults::syncing(file)?;
    file.sync_data()
}

/// As [`sync_data`], with everything that the system knows of the file.
pub(crate) fn sync_all(file: &File) -> io::Result<()> {
    #[cfg(test)]
    faults::syncing(file)?;
    file.sync_all()
}
