//! Setting damaged files aside: they are renamed or copied into `damaged/<time>/` beside the store, with
//! a text that says what was found. Nothing is ever deleted here; when to delete is the operator's.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use crate::blocks::sync_dir;
use crate::errors::StorageError;
use crate::identity::write_whole;

/// Folder of everything set aside, in the node's folder.
pub(crate) const FOLDER: &str = "damaged";
/// What was found, in each folder of things set aside.
const WHY: &str = "WHY.txt";
/// Folders of one second, at most.
const SAME_SECOND_MAX: u32 = 1000;

/// One folder for what is set aside together.
#[derive(Clone, Debug)]
pub(crate) struct Quarantine {
    path: PathBuf,
}

impl Quarantine {
    /// Makes a new folder under `root` (`…/damaged`) and writes down why.
    pub(crate) fn create(root: &Path, why: &str) -> Result<Self, StorageError> {
        crate::disk::make_folder(root).map_err(StorageError::io("create", root))?;
        let stamp = stamp(OffsetDateTime::now_utc());
        for number in 0..SAME_SECOND_MAX {
            let name = match number {
                0 => stamp.clone(),
                n => format!("{stamp}-{n}"),
            };
            let path = root.join(name);
            match fs::create_dir(&path) {
                Ok(()) => {
                    write_whole(&path, WHY, format!("{why}\n").as_bytes())?;
                    sync_dir(root)?;
                    return Ok(Self { path });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(StorageError::io("create", path)(error)),
            }
        }
        let full = io::Error::other("too many folders of this second");
        Err(StorageError::io("create", root.join(stamp))(full))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Renames a file or folder into it, durably. Nothing happens if it is not there.
    pub(crate) fn take(&self, from: &Path) -> Result<(), StorageError> {
        let Some(to) = from.file_name().map(|name| self.path.join(name)) else {
            return Ok(());
        };
        match fs::rename(from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(StorageError::io("set aside", from)(error)),
        }
        if let Some(parent) = from.parent() {
            sync_dir(parent)?;
        }
        sync_dir(&self.path)
    }

    /// Copies a file into it under `name`, durably: for files that stay in use and are mended in place.
    /// Nothing happens if it is not there.
    pub(crate) fn copy(&self, from: &Path, name: &str) -> Result<(), StorageError> {
        let to = self.path.join(name);
        match fs::copy(from, &to) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(StorageError::io("copy", from)(error)),
        }
        File::open(&to)
            .and_then(|file| file.sync_all())
            .map_err(StorageError::io("sync", &to))?;
        sync_dir(&self.path)
    }
}

/// `20261130T033000Z`: sorts by time, and is a file name everywhere.
fn stamp(at: OffsetDateTime) -> String {
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_aside_keeps_its_bytes_and_has_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "bad").unwrap();
        fs::write(&b, "worse").unwrap();
        let root = dir.path().join(FOLDER);
        let first = Quarantine::create(&root, "a is bad").unwrap();
        let second = Quarantine::create(&root, "b is worse").unwrap();
        assert_ne!(first.path(), second.path());
        first.take(&a).unwrap();
        first.take(&dir.path().join("not there")).unwrap();
        second.copy(&b, "b-1").unwrap();
        assert!(!a.exists() && b.exists());
        assert_eq!(fs::read(first.path().join("a")).unwrap(), b"bad");
        assert_eq!(fs::read(second.path().join("b-1")).unwrap(), b"worse");
        let why = fs::read_to_string(first.path().join(WHY)).unwrap();
        assert_eq!(why, "a is bad\n");
    }

    #[test]
    fn folders_sort_by_time() {
        assert_eq!(stamp(OffsetDateTime::UNIX_EPOCH), "19700101T000000Z");
    }
}
