//! Backups: a snapshot as one file. It is taken from a running replica at one place in the log, piece by
//! piece, and holds everything: rows, messages, digests. Restoring one makes the store of a new node.
//!
//! ```text
//!  0 "UNIBUSBK"   8 format u32   12 length of the manifest u32   16 the manifest
//!    the rows file, then the block files, in the manifest's order, each as long as it says
//!    BLAKE3 of everything before
//! ```
//! Integers are little endian. The manifest is the one of snapshots: it names each file with its length
//! and digest and ends with its own digest.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::blocks::sync_dir;
use crate::errors::{CheckpointError, StorageError};
use crate::manifest::{FileEntry, Manifest, ManifestError};
use crate::seed::{Seed, SeedError, Seeded};
use crate::snapshot::SnapshotDir;

const MAGIC: &[u8; 8] = b"UNIBUSBK";
const FORMAT: u32 = 1;
/// A manifest of 4 TiB in full blocks fits.
const MANIFEST_BYTES_MAX: u32 = 64 << 20;
/// What a backup file may be by others than its owner: nothing.
const FILE_MODE: u32 = 0o600;
/// Copies go through a buffer of this size, bytes.
const COPY_BYTES: usize = 256 << 10;

/// Why there is no backup, or why one can't be restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file can't be written or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no backup, or not what was written.
    #[error("{} is no whole backup: {reason}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// How it shows.
        reason: String,
    },
    /// The file was written by a later version.
    #[error("{} has backup format {found} and this version reads {FORMAT}: use the version that wrote it, or a newer one", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The node took no checkpoint.
    #[error("the node took no checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// No store was made of it.
    #[error(transparent)]
    Seed(#[from] SeedError),
}

/// A snapshot of a running replica that stays for as long as this is held.
#[derive(Clone, Debug)]
pub struct BackupSource {
    snapshot: Arc<SnapshotDir>,
}

impl BackupSource {
    pub(crate) fn new(snapshot: Arc<SnapshotDir>) -> Self {
        Self { snapshot }
    }

    /// Index of the last entry in it.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.snapshot.manifest.index()
    }

    /// The bytes of the manifest.
    #[must_use]
    pub fn manifest(&self) -> Bytes {
        self.snapshot.manifest_bytes.clone()
    }

    /// Up to `len` bytes of file `number` from `offset` on; fewer at its end. Blocking.
    ///
    /// # Errors
    /// [`StorageError`]; a file of that number that is not there is damage.
    pub fn read(&self, number: usize, offset: u64, len: usize) -> Result<Vec<u8>, StorageError> {
        let files = self.snapshot.manifest.files();
        let missing = || StorageError::Rows(format!("there is no file {number}"));
        let (name, entry) = files.get(number).ok_or_else(missing)?;
        let left = entry.len.saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(len);
        let mut bytes = vec![0; len];
        let path = self.snapshot.file(name);
        File::open(&path)
            .and_then(|file| file.read_exact_at(&mut bytes, offset))
            .map_err(StorageError::io("read", path))?;
        Ok(bytes)
    }
}

/// The file that a backup is written to. It goes unless it got its name.
#[derive(Debug)]
struct Aside(PathBuf);

impl Drop for Aside {
    fn drop(&mut self) {
        crate::blocks::remove_quietly(&self.0);
    }
}

/// Makes a file that is not there, for nobody but the owner: a backup holds everything that is stored.
fn create_private(path: &Path) -> Result<File, BackupError> {
    let mut options = File::options();
    let created = options
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path);
    created.map_err(|error| BackupError::Io {
        path: path.to_owned(),
        source: match error.kind() {
            io::ErrorKind::AlreadyExists => io::Error::new(
                error.kind(),
                "it is there: of a backup that runs, or of one that did not end and can be removed",
            ),
            _ => error,
        },
    })
}

/// A backup file that is being written: beside, and under its name only when it is whole.
#[derive(Debug)]
pub struct BackupWriter {
    path: PathBuf,
    aside: Aside,
    out: BufWriter<File>,
    whole: blake3::Hasher,
    files: Vec<FileEntry>,
    /// The file that comes next, what came of it, and its digest so far.
    number: usize,
    written: u64,
    digest: blake3::Hasher,
}

impl BackupWriter {
    /// Starts a backup with this manifest.
    ///
    /// # Errors
    /// [`BackupError::Io`], also where a file of that name is there; [`BackupError::Damaged`] where the
    /// manifest is none.
    pub fn create(path: &Path, manifest: &Bytes) -> Result<Self, BackupError> {
        let parsed = parse(path, manifest)?;
        let fail = |source| BackupError::Io {
            path: path.to_owned(),
            source,
        };
        if path.exists() {
            return Err(fail(io::Error::from(io::ErrorKind::AlreadyExists)));
        }
        let mut aside = path.as_os_str().to_owned();
        aside.push(".part");
        let aside = PathBuf::from(aside);
        let file = create_private(&aside)?;
        let mut writer = Self {
            path: path.to_owned(),
            aside: Aside(aside),
            out: BufWriter::with_capacity(COPY_BYTES, file),
            whole: blake3::Hasher::new(),
            files: parsed.files().into_iter().map(|(_, entry)| entry).collect(),
            number: 0,
            written: 0,
            digest: blake3::Hasher::new(),
        };
        let len = u32::try_from(manifest.len()).unwrap_or(u32::MAX);
        for bytes in [
            &MAGIC[..],
            &FORMAT.to_le_bytes(),
            &len.to_le_bytes(),
            manifest,
        ] {
            writer.put(bytes)?;
        }
        Ok(writer)
    }

    /// Which file's bytes come next, and from where: number, offset, and how many are wanted. `None`:
    /// all are there.
    pub fn wants(&mut self) -> Option<(usize, u64, u64)> {
        while let Some(entry) = self.files.get(self.number) {
            if self.written < entry.len {
                return Some((self.number, self.written, entry.len - self.written));
            }
            // Files of no bytes: nothing to ask for.
            self.number += 1;
            self.written = 0;
            self.digest.reset();
        }
        None
    }

    /// Takes the bytes that come next.
    ///
    /// # Errors
    /// [`BackupError::Damaged`] where they are not those that the manifest names.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        let Some((number, _, wanted)) = self.wants() else {
            return Err(self.damaged("more bytes than the manifest names"));
        };
        if bytes.is_empty() || bytes.len() as u64 > wanted {
            return Err(self.damaged("a piece of the wrong length came"));
        }
        self.put(bytes)?;
        self.digest.update(bytes);
        self.written += bytes.len() as u64;
        let is_whole = bytes.len() as u64 == wanted;
        let expected = self.files.get(number).map(|entry| entry.digest);
        if is_whole && expected != Some(*self.digest.finalize().as_bytes()) {
            return Err(self.damaged(&format!("file {number} of the node is damaged")));
        }
        Ok(())
    }

    /// Syncs it and gives it its name. Answers with its size in bytes.
    ///
    /// # Errors
    /// [`BackupError`]; then nothing has that name.
    pub fn finish(mut self) -> Result<u64, BackupError> {
        if self.wants().is_some() {
            return Err(self.damaged("bytes are missing"));
        }
        let digest = *self.whole.finalize().as_bytes();
        self.put(&digest)?;
        let fail = |source| BackupError::Io {
            path: self.path.clone(),
            source,
        };
        self.out.flush().map_err(fail)?;
        let file = self.out.get_ref();
        file.sync_all().map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        fs::rename(&self.aside.0, &self.path).map_err(fail)?;
        if let Some(parent) = self
            .path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            sync_dir(parent).map_err(SeedError::from)?;
        }
        Ok(size)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.whole.update(bytes);
        self.out.write_all(bytes).map_err(|source| BackupError::Io {
            path: self.aside.0.clone(),
            source,
        })
    }

    fn damaged(&self, reason: &str) -> BackupError {
        BackupError::Damaged {
            path: self.path.clone(),
            reason: reason.to_owned(),
        }
    }
}

fn parse(path: &Path, manifest: &Bytes) -> Result<Manifest, BackupError> {
    Manifest::decode(manifest).map_err(|error| match error {
        ManifestError::Format(found) => BackupError::Format {
            path: path.to_owned(),
            found,
        },
        ManifestError::Frame(error) => BackupError::Damaged {
            path: path.to_owned(),
            reason: error.to_string(),
        },
    })
}

/// Reads a backup from its start, and knows what it has read.
struct Reading<'a> {
    path: &'a Path,
    input: BufReader<File>,
    whole: blake3::Hasher,
}

impl Reading<'_> {
    fn take(&mut self, into: &mut [u8]) -> Result<(), BackupError> {
        self.input
            .read_exact(into)
            .map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => self.damaged("it ends early"),
                _ => BackupError::Io {
                    path: self.path.to_owned(),
                    source,
                },
            })?;
        self.whole.update(into);
        Ok(())
    }

    fn word(&mut self) -> Result<u32, BackupError> {
        let mut bytes = [0; 4];
        self.take(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn damaged(&self, reason: &str) -> BackupError {
        BackupError::Damaged {
            path: self.path.to_owned(),
            reason: reason.to_owned(),
        }
    }

    fn manifest(&mut self) -> Result<Manifest, BackupError> {
        let mut magic = [0; 8];
        self.take(&mut magic)?;
        if &magic != MAGIC {
            return Err(self.damaged("it does not start as one does"));
        }
        let found = self.word()?;
        if found != FORMAT {
            return Err(BackupError::Format {
                path: self.path.to_owned(),
                found,
            });
        }
        let len = self.word()?;
        if len > MANIFEST_BYTES_MAX {
            return Err(self.damaged("its manifest is too long"));
        }
        let mut bytes = vec![0; len as usize];
        self.take(&mut bytes)?;
        parse(self.path, &Bytes::from(bytes))
    }

    /// Copies one file out of it, or only reads it.
    fn file(
        &mut self,
        name: &str,
        entry: &FileEntry,
        to: Option<&Path>,
    ) -> Result<(), BackupError> {
        let fail = |source| BackupError::Io {
            path: to.unwrap_or(self.path).to_owned(),
            source,
        };
        let mut out = to.map(File::create).transpose().map_err(fail)?;
        let mut digest = blake3::Hasher::new();
        let mut buffer = vec![0; COPY_BYTES];
        let mut left = entry.len;
        while left > 0 {
            let len = usize::try_from(left).unwrap_or(COPY_BYTES).min(COPY_BYTES);
            let piece = &mut buffer[..len];
            self.take(piece)?;
            digest.update(piece);
            if let Some(out) = &mut out {
                out.write_all(piece).map_err(|source| BackupError::Io {
                    path: to.unwrap_or(self.path).to_owned(),
                    source,
                })?;
            }
            left -= len as u64;
        }
        if *digest.finalize().as_bytes() == entry.digest {
            return Ok(());
        }
        Err(self.damaged(&format!("the digest of {name} in it does not match")))
    }

    /// The digest of everything, and nothing behind it.
    fn end(&mut self) -> Result<(), BackupError> {
        let expected = *self.whole.finalize().as_bytes();
        let mut found = [0; 32];
        self.take(&mut found)?;
        if found != expected {
            return Err(self.damaged("its digest does not match"));
        }
        match self.input.read(&mut [0]) {
            Ok(0) => Ok(()),
            _ => Err(self.damaged("bytes follow its end")),
        }
    }
}

fn read(path: &Path) -> Result<Reading<'_>, BackupError> {
    let file = File::open(path).map_err(|source| BackupError::Io {
        path: path.to_owned(),
        source,
    })?;
    Ok(Reading {
        path,
        input: BufReader::with_capacity(COPY_BYTES, file),
        whole: blake3::Hasher::new(),
    })
}

/// Makes the store of a new node `name` in `home` from the backup at `path`: the only voter of its
/// cluster, with everything that the backup holds. Blocking; memory does not grow with the backup.
///
/// # Errors
/// [`BackupError`]; then there is no store in `home`.
pub fn restore(path: &Path, home: &Path, name: &str) -> Result<Seeded, BackupError> {
    let mut reading = read(path)?;
    let manifest = reading.manifest()?;
    let seed = Seed::begin(home, name)?;
    for (name, entry) in manifest.files() {
        reading.file(&name, &entry, Some(&seed.file(&name)))?;
    }
    reading.end()?;
    Ok(seed.finish(manifest, || Ok(()))?)
}

/// Reads a whole backup and checks every digest. Answers with the index of its last entry and the bytes
/// of its files. Blocking.
///
/// # Errors
/// [`BackupError`].
pub fn verify(path: &Path) -> Result<(u64, u64), BackupError> {
    let mut reading = read(path)?;
    let manifest = reading.manifest()?;
    let files = manifest.files();
    for (name, entry) in &files {
        reading.file(name, entry, None)?;
    }
    reading.end()?;
    Ok((
        manifest.index(),
        files.iter().map(|(_, entry)| entry.len).sum(),
    ))
}
