//! Snapshot folders: a manifest, a rows file and hard links to block files. A folder gets its final
//! name only when everything in it is synced, so whatever has that name is complete; it is deleted
//! when the last holder lets go of a superseded one.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::blocks::{digest_prefix, list, sync_dir};
use crate::errors::StorageError;
use crate::manifest::{FileEntry, MANIFEST_FILE, Manifest, ROWS_FILE};

/// Suffix of a folder that is being built or received.
const PARTIAL: &str = ".part";

/// A complete snapshot on disk. openraft hands it around by `Arc`.
#[derive(Debug)]
pub(crate) struct SnapshotDir {
    path: PathBuf,
    /// The table of contents.
    pub(crate) manifest: Manifest,
    /// The bytes of the manifest file.
    pub(crate) manifest_bytes: Bytes,
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

    /// Delete the folder when the last holder drops it.
    pub(crate) fn supersede(&self) {
        self.superseded.store(true, Ordering::Release);
    }

    /// Opens a complete folder and checks its manifest and the rows file.
    fn open(path: PathBuf) -> Result<Self, StorageError> {
        let manifest_path = path.join(MANIFEST_FILE);
        let manifest_bytes: Bytes = fs::read(&manifest_path)
            .map_err(StorageError::io("read", &manifest_path))?
            .into();
        let manifest =
            Manifest::decode(&manifest_bytes).map_err(|error| StorageError::Damaged {
                path: manifest_path,
                reason: error.to_string(),
            })?;
        verify(&path.join(ROWS_FILE), &manifest.rows)?;
        Ok(Self {
            path,
            manifest,
            manifest_bytes,
            superseded: AtomicBool::new(false),
        })
    }
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

    /// Writes the manifest, syncs the folder and gives it its final name. All other files are
    /// synced by whoever wrote them.
    pub(crate) fn finish(self, manifest: Manifest) -> Result<SnapshotDir, StorageError> {
        let damaged = |error: crate::frame::FrameError| StorageError::Damaged {
            path: self.path.clone(),
            reason: error.to_string(),
        };
        let manifest_bytes = manifest.encode().map_err(damaged)?;
        let path = self.path.join(MANIFEST_FILE);
        File::create(&path)
            .and_then(|mut file| {
                file.write_all(&manifest_bytes)?;
                file.sync_all()
            })
            .map_err(StorageError::io("write", &path))?;
        sync_dir(&self.path)?;
        let final_path = self.root.join(final_name(&manifest));
        if final_path.exists() {
            // Same place in the log, so the same content: an attempt that was not recorded.
            fs::remove_dir_all(&final_path).map_err(StorageError::io("clear", &final_path))?;
        }
        fs::rename(&self.path, &final_path).map_err(StorageError::io("rename", &final_path))?;
        sync_dir(&self.root)?;
        Ok(SnapshotDir {
            path: final_path,
            manifest,
            manifest_bytes,
            superseded: AtomicBool::new(false),
        })
    }
}

fn final_name(manifest: &Manifest) -> String {
    let term = manifest
        .meta
        .last_log_id
        .map_or(0, |id| id.committed_leader_id().term);
    format!("{:020}-{term:020}", manifest.index())
}

/// Opens the newest usable snapshot under `root`, and deletes older and unusable ones (but keeps
/// what is being received: a transfer can go on after a restart).
pub(crate) fn open_newest(root: &Path) -> Result<Option<Arc<SnapshotDir>>, StorageError> {
    fs::create_dir_all(root).map_err(StorageError::io("create", root))?;
    let mut found = list(root)?;
    found.retain(|entry| !entry.name.ends_with(PARTIAL));
    found.sort_by(|a, b| b.name.cmp(&a.name));
    let mut newest: Option<Arc<SnapshotDir>> = None;
    for entry in found {
        if newest.is_some() {
            if let Err(error) = fs::remove_dir_all(&entry.path) {
                tracing::warn!(path = %entry.path.display(), %error, "an old snapshot stays");
            }
            continue;
        }
        match SnapshotDir::open(entry.path.clone()) {
            Ok(snapshot) => newest = Some(Arc::new(snapshot)),
            Err(error) if !error.is_damage() => return Err(error),
            Err(error) => {
                // Evidence stays on disk under a name that is never opened again.
                tracing::error!(path = %entry.path.display(), %error, "snapshot set aside");
                let aside = entry.path.with_extension(format!("bad{PARTIAL}"));
                fs::rename(&entry.path, &aside)
                    .map_err(StorageError::io("set aside", &entry.path))?;
            }
        }
    }
    Ok(newest)
}
