//! How far the log was known to be synced, kept beside it: `synced`, rewritten in place whenever the log
//! goes idle. Without it the last records of a log could be lost without a trace: zeros where they were
//! look like a place that was never written.
//!
//! It is written after the sync that it tells of and never synced itself, so it may be behind the log
//! and never ahead. One that is damaged or missing tells nothing.
//!
//! ```text
//! 0 "USYN"   4 segment sequence u64   12 tag of the segment u32   16 offset u32   20 crc32
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::record::{Stamp, u32_at, u64_at};

const NAME: &str = "synced";
const MAGIC: &[u8; 4] = b"USYN";
const BYTES: usize = 24;

/// A place up to which everything was synced.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Synced {
    /// The segment's sequence number.
    pub(super) sequence: u64,
    /// Its tag: a recycled file has another.
    pub(super) tag: u32,
    /// Bytes from the start of the segment.
    pub(super) offset: u32,
}

impl Synced {
    /// What was noted in `dir`, if anything that can be believed.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        let bytes = fs::read(dir.join(NAME)).ok()?;
        let body = bytes.get(..BYTES - 4)?;
        let is_whole = bytes.len() == BYTES
            && body.starts_with(MAGIC)
            && u32_at(&bytes, BYTES - 4)? == crc32fast::hash(body);
        is_whole.then_some(Self {
            sequence: u64_at(body, 4)?,
            tag: u32_at(body, 12)?,
            offset: u32_at(body, 16)?,
        })
    }

    /// Whether it tells of the segment with this number and stamp.
    pub(super) fn is_of(&self, sequence: u64, stamp: Stamp) -> bool {
        self.sequence == sequence && self.tag == stamp.tag
    }

    fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4..12].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.tag.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.offset.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..BYTES - 4]);
        bytes[BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// Writes the note.
#[derive(Debug)]
pub(super) struct SyncedFile(Option<File>);

impl SyncedFile {
    /// Opens the note in `dir`. A log works without one.
    pub(super) fn open(dir: &Path) -> Self {
        let path = dir.join(NAME);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(BYTES as u64).map(|()| file));
        Self(file.map_err(|error| told(&path, &error)).ok())
    }

    /// Notes a place.
    pub(super) fn note(&mut self, synced: &Synced) {
        if let Some(file) = &self.0
            && let Err(error) = file.write_all_at(&synced.encode(), 0)
        {
            told(Path::new(NAME), &error);
            self.0 = None;
        }
    }
}

fn told(path: &Path, error: &io::Error) {
    tracing::warn!(path = %path.display(), %error,
        "how far the log is synced is not noted: a loss of its last records may go unnoticed");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_and_a_damaged_one_tells_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Synced::read(dir.path()), None);
        let mut file = SyncedFile::open(dir.path());
        assert_eq!(Synced::read(dir.path()), None);
        let mut note = Synced {
            sequence: 7,
            tag: 99,
            offset: 64,
        };
        file.note(&note);
        note.offset = 4096;
        file.note(&note);
        assert_eq!(Synced::read(dir.path()), Some(note));
        let path = dir.path().join(NAME);
        let whole = fs::read(&path).unwrap();
        for at in 0..BYTES {
            let mut bad = whole.clone();
            bad[at] ^= 4;
            fs::write(&path, &bad).unwrap();
            assert_eq!(Synced::read(dir.path()), None, "{at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(Synced::read(dir.path()), None, "{at}");
        }
    }
}
