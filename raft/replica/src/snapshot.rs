//! Snapshot folders: a manifest, a rows file and hard links to block files. A folder gets its final
//! name only when everything in it is synced, so whatever has that name is complete; it is deleted
//! when the last holder lets go of a superseded one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::blocks::{BlockKey, digest_prefix, list, sync_dir};
use crate::errors::StorageError;
use crate::identity::write_whole;
use crate::manifest::{BlockEntry, FileEntry, MANIFEST_FILES, Manifest, ROWS_FILE};
use crate::quarantine::Quarantine;

/// Suffix of a folder that is being built or received.
const PARTIAL: &str = ".part";

/// Snapshots of one place in the log, at most. All but the newest go when nobody holds them, and at a start.
const SAME_PLACE_MAX: u32 = 1000;

/// In the folder of a snapshot that was not taken here: the log need not reach it.
const RECEIVED: &str = "received";

/// A complete snapshot on disk. openraft hands it around by `Arc`.
#[derive(Debug)]
pub(crate) struct SnapshotDir {
    path: PathBuf,
    /// The table of contents.
    pub(crate) manifest: Manifest,
    /// The bytes of the manifest file.
    pub(crate) manifest_bytes: Bytes,
    /// The rows file is what the manifest says. Looked at when the folder is opened.
    pub(crate) rows_are_whole: bool,
    superseded: AtomicBool,
}

impl SnapshotDir {
    /// Path of one of its files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Path of its rows file.
    pub(crate) fn rows_path(&self) -> PathBuf {
        self.path.join(ROWS_FILE)
    }

    /// What the manifest says of a block.
    pub(crate) fn block(&self, key: BlockKey) -> Option<BlockEntry> {
        let blocks = &self.manifest.blocks;
        let at = blocks.binary_search_by_key(&key, |entry| (entry.stream, entry.block));
        at.ok().and_then(|at| blocks.get(at)).copied()
    }

    /// Whether both are the same folder.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.path == other.path
    }

    /// It was not taken here.
    pub(crate) fn is_received(&self) -> bool {
        self.path.join(RECEIVED).exists()
    }

    /// Delete the folder when the last holder drops it.
    pub(crate) fn supersede(&self) {
        self.superseded.store(true, Ordering::Release);
    }

    /// Opens a complete folder: its manifest, from whichever copy is whole, and a look at the rows file.
    pub(crate) fn open(path: PathBuf) -> Result<Self, StorageError> {
        let (manifest, manifest_bytes) = read_manifest(&path)?;
        let rows_are_whole = match verify(&path.join(ROWS_FILE), &manifest.rows) {
            Ok(()) => true,
            Err(error) if error.is_damage() => {
                tracing::error!(%error, "the rows of the snapshot are damaged");
                false
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            path,
            manifest,
            manifest_bytes,
            rows_are_whole,
            superseded: AtomicBool::new(false),
        })
    }

    /// Writes the copies of the manifest that are not whole again, after setting them aside.
    pub(crate) fn mend_manifest(&self, damaged: &Path) -> Result<(), StorageError> {
        for name in MANIFEST_FILES {
            let path = self.path.join(name);
            if fs::read(&path).is_ok_and(|bytes| bytes == self.manifest_bytes) {
                continue;
            }
            if path.exists() {
                let why = format!("{} is not what was written", path.display());
                tracing::error!(%why, "set aside and written again from its copy");
                Quarantine::create(damaged, &why)?.take(&path)?;
            }
            write_whole(&self.path, name, &self.manifest_bytes)?;
        }
        Ok(())
    }
}

/// The manifest in a snapshot folder, from the first copy that is whole.
fn read_manifest(folder: &Path) -> Result<(Manifest, Bytes), StorageError> {
    let mut failure = None;
    for name in MANIFEST_FILES {
        let path = folder.join(name);
        let read = fs::read(&path)
            .map_err(StorageError::io("read", &path))
            .and_then(|bytes| {
                let bytes = Bytes::from(bytes);
                let manifest = Manifest::decode(&bytes).map_err(|error| error.at(path))?;
                Ok((manifest, bytes))
            });
        match read {
            Ok(read) => return Ok(read),
            Err(error) if !error.is_damage() => return Err(error),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    Err(failure.unwrap_or_else(|| StorageError::Damaged {
        path: folder.to_owned(),
        reason: "there is no manifest".to_owned(),
    }))
}

impl Drop for SnapshotDir {
    fn drop(&mut self) {
        if self.superseded.load(Ordering::Acquire)
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "an old snapshot stays");
        }
    }
}

/// Checks a file's length and digest. The file may be longer: a block goes on growing.
pub(crate) fn verify(path: &Path, expected: &FileEntry) -> Result<(), StorageError> {
    if digest_prefix(path, expected.len)? == expected.digest {
        return Ok(());
    }
    Err(StorageError::Damaged {
        path: path.to_owned(),
        reason: "the digest does not match the manifest".to_owned(),
    })
}

/// A folder that is being filled.
#[derive(Debug)]
pub(crate) struct PartialSnapshot {
    root: PathBuf,
    path: PathBuf,
}

impl PartialSnapshot {
    /// Starts an empty folder.
    pub(crate) fn create(root: &Path, name: &str) -> Result<Self, StorageError> {
        let partial = Self::resume(root, name)?;
        fs::remove_dir_all(&partial.path).map_err(StorageError::io("clear", &partial.path))?;
        fs::create_dir(&partial.path).map_err(StorageError::io("create", &partial.path))?;
        Ok(partial)
    }

    /// Continues a folder that may hold files of an earlier attempt.
    pub(crate) fn resume(root: &Path, name: &str) -> Result<Self, StorageError> {
        let path = root.join(format!("{name}{PARTIAL}"));
        fs::create_dir_all(&path).map_err(StorageError::io("create", &path))?;
        Ok(Self {
            root: root.to_owned(),
            path,
        })
    }

    /// Path of one of its files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Gives the folder a final name that nothing has. One of the same place in the log may be the newest
    /// that there is, and in use: it goes once this one counts.
    fn take_name(&self, manifest: &Manifest) -> Result<PathBuf, StorageError> {
        for number in 0..SAME_PLACE_MAX {
            let path = self.root.join(final_name(manifest, number));
            if path.exists() {
                continue;
            }
            fs::rename(&self.path, &path).map_err(StorageError::io("rename", &path))?;
            return Ok(path);
        }
        let full = io::Error::other("too many snapshots of one place in the log");
        Err(StorageError::io("name", &self.path)(full))
    }

    /// Notes that its files come from elsewhere.
    pub(crate) fn mark_received(&self) -> Result<(), StorageError> {
        write_whole(&self.path, RECEIVED, b"")
    }

    /// Writes the manifest, syncs the folder and gives it its final name. All other files are
    /// synced by whoever wrote them.
    pub(crate) fn finish(self, manifest: Manifest) -> Result<SnapshotDir, StorageError> {
        let damaged = |error: crate::frame::FrameError| StorageError::Damaged {
            path: self.path.clone(),
            reason: error.to_string(),
        };
        let manifest_bytes = manifest.encode().map_err(damaged)?;
        for name in MANIFEST_FILES {
            write_whole(&self.path, name, &manifest_bytes)?;
        }
        let final_path = self.take_name(&manifest)?;
        sync_dir(&self.root)?;
        Ok(SnapshotDir {
            path: final_path,
            manifest,
            manifest_bytes,
            rows_are_whole: true,
            superseded: AtomicBool::new(false),
        })
    }
}

/// The name of the folder of a snapshot that is cut there, the first one or one of several. They sort by the
/// place in the log and then by age.
fn final_name(manifest: &Manifest, number: u32) -> String {
    let last = manifest.meta.last_log_id;
    let term = last.map_or(0, |id| id.committed_leader_id().term);
    let name = format!("{:020}-{term:020}", manifest.index());
    match number {
        0 => name,
        number => format!("{name}-{number:03}"),
    }
}

/// What opening the snapshots found.
#[derive(Debug, Default)]
pub(crate) struct Newest {
    /// The newest one with a whole manifest.
    pub(crate) snapshot: Option<Arc<SnapshotDir>>,
    /// Newer ones that can't be opened, with how it shows.
    pub(crate) damaged: Vec<(PathBuf, String)>,
    /// Older ones, of no further use.
    older: Vec<PathBuf>,
}

impl Newest {
    /// Looks under `root`. Changes nothing.
    pub(crate) fn find(root: &Path) -> Result<Self, StorageError> {
        let mut found = list(root)?;
        found.retain(|entry| !entry.name.ends_with(PARTIAL));
        found.sort_by(|a, b| b.name.cmp(&a.name));
        let mut newest = Self::default();
        for entry in found {
            if newest.snapshot.is_some() {
                newest.older.push(entry.path);
                continue;
            }
            match SnapshotDir::open(entry.path.clone()) {
                Ok(snapshot) => newest.snapshot = Some(Arc::new(snapshot)),
                Err(error) if !error.is_damage() => return Err(error),
                Err(error) => newest.damaged.push((entry.path, error.to_string())),
            }
        }
        Ok(newest)
    }

    /// Deletes the older ones, mends the manifest and sets aside what can't be opened. What is being
    /// received stays: a transfer can go on after a restart.
    pub(crate) fn tidy(&self, damaged: &Path) -> Result<(), StorageError> {
        for path in &self.older {
            if let Err(error) = fs::remove_dir_all(path) {
                tracing::warn!(path = %path.display(), %error, "an old snapshot stays");
            }
        }
        for (path, why) in &self.damaged {
            tracing::error!(path = %path.display(), why, "snapshot set aside");
            Quarantine::create(damaged, why)?.take(path)?;
        }
        match &self.snapshot {
            Some(snapshot) => snapshot.mend_manifest(damaged),
            None => Ok(()),
        }
    }
}
