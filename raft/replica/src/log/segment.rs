//! Segment files: names, the 64-byte header, creation and reuse. A file gets its `.wal` name only
//! after its header is synced, so a `.wal` file always has a valid one.

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::LogError;
use super::record::{Stamp, u32_at, u64_at};
use crate::disk;

/// Bytes before the first record.
pub(super) const HEADER_BYTES: u32 = 64;

/// Format version of segment files.
pub(super) const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"UNIBWAL\n";

/// Zeros are written in pieces of this size.
const ZERO_BYTES: usize = 1024 * 1024;

/// One open segment file.
#[derive(Debug)]
pub(super) struct Segment {
    /// Segments are numbered without gaps.
    pub(super) sequence: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Size it was made with; records end before it.
    pub(super) bytes: u32,
    pub(super) stamp: Stamp,
}

/// The file name of a segment.
pub(super) fn file_name(sequence: u64) -> String {
    format!("{sequence:016x}.wal")
}

/// Reverses [`file_name`].
pub(super) fn parse_name(name: &str) -> Option<u64> {
    let hex = name.strip_suffix(".wal")?;
    if hex.len() != 16 {
        return None;
    }
    u64::from_str_radix(hex, 16).ok()
}

/// Whether `name` is a file waiting to become a segment.
pub(super) fn is_spare(name: &str) -> bool {
    name.starts_with("spare-")
}

/// Makes a zero-filled file of `bytes` bytes, allocated on disk.
pub(super) fn create_zeroed(path: &Path, bytes: u32) -> Result<File, LogError> {
    let file = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(path)
        .map_err(|e| LogError::io("create", path, e))?;
    let filled = zero(&file, 0, u64::from(bytes))
        .map_err(|e| LogError::io("fill", path, e))
        .and_then(|()| disk::sync_all(&file).map_err(|e| LogError::io("sync", path, e)));
    if filled.is_err() {
        // A disk that is full needs the room, and nobody takes up what is not whole.
        crate::blocks::remove_quietly(path);
    }
    filled.map(|()| file)
}

/// Overwrites `from..to` with zeros.
pub(super) fn zero(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; ZERO_BYTES];
    let mut at = from;
    while at < to {
        let piece = usize::try_from(to - at)
            .unwrap_or(ZERO_BYTES)
            .min(ZERO_BYTES);
        disk::write_at(file, zeros.get(..piece).unwrap_or_default(), at)?;
        at += piece as u64;
    }
    Ok(())
}

/// Syncs a directory, so that names made or changed in it last.
pub(super) fn sync_dir(dir: &Path) -> Result<(), LogError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| LogError::io("sync", dir, e))
}

impl Segment {
    /// Turns a file of `bytes` bytes into segment `sequence`: a new stamp, then its name. What the
    /// file held before is invalid from here on.
    pub(super) fn activate(
        dir: &Path,
        spare: &Path,
        file: File,
        bytes: u32,
        sequence: u64,
    ) -> Result<Self, LogError> {
        let header = encode_header(sequence, bytes, fresh_salt());
        disk::write_at(&file, &header, 0).map_err(|e| LogError::io("write", spare, e))?;
        disk::sync_all(&file).map_err(|e| LogError::io("sync", spare, e))?;
        let path = dir.join(file_name(sequence));
        fs::rename(spare, &path).map_err(|e| LogError::io("rename", spare, e))?;
        sync_dir(dir)?;
        let (_, stamp) = decode_header(&path, &header, sequence)?;
        Ok(Self {
            sequence,
            path,
            file,
            bytes,
            stamp,
        })
    }

    /// Opens segment `sequence` of `dir` and checks its header.
    pub(super) fn open(dir: &Path, sequence: u64) -> Result<Self, LogError> {
        let path = dir.join(file_name(sequence));
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| LogError::io("open", &path, e))?;
        let mut header = [0; HEADER_BYTES as usize];
        match file.read_exact_at(&mut header, 0) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(LogError::damaged(&path, 0, "it is shorter than its header"));
            }
            Err(e) => return Err(LogError::io("read", &path, e)),
        }
        let (bytes, stamp) = decode_header(&path, &header, sequence)?;
        Ok(Self {
            sequence,
            path,
            file,
            bytes,
            stamp,
        })
    }

    /// The whole file; what is missing at its end reads as zeros. Also the length on disk.
    pub(super) fn read_all(&self, into: &mut Vec<u8>) -> Result<u64, LogError> {
        let io = |e| LogError::io("read", &self.path, e);
        let on_disk = self.file.metadata().map_err(io)?.len();
        let present = usize::try_from(on_disk.min(u64::from(self.bytes))).unwrap_or(usize::MAX);
        into.clear();
        into.resize(self.bytes as usize, 0);
        if let Some(part) = into.get_mut(..present) {
            self.file.read_exact_at(part, 0).map_err(io)?;
        }
        Ok(on_disk)
    }
}

/// 64 random bits: the standard library seeds its hashers from the operating system.
pub(super) fn fresh_salt() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(0);
    hasher.finish()
}

fn encode_header(sequence: u64, bytes: u32, salt: u64) -> [u8; HEADER_BYTES as usize] {
    let mut header = [0; HEADER_BYTES as usize];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        if let Some(to) = header.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
        at += bytes.len();
    };
    put(&MAGIC);
    put(&FORMAT.to_le_bytes());
    put(&bytes.to_le_bytes());
    put(&sequence.to_le_bytes());
    put(&salt.to_le_bytes());
    put(&[0; 28]);
    let crc = crc32fast::hash(header.get(..60).unwrap_or_default());
    if let Some(to) = header.get_mut(60..) {
        to.copy_from_slice(&crc.to_le_bytes());
    }
    header
}

/// Size and stamp from a header.
fn decode_header(path: &Path, header: &[u8], sequence: u64) -> Result<(u32, Stamp), LogError> {
    let bad = |detail: &str| LogError::damaged(path, 0, detail);
    let short = || bad("it is shorter than its header");
    if header.get(..8) != Some(&MAGIC[..]) {
        return Err(bad("its header does not start as a segment does"));
    }
    let found = u32_at(header, 8).ok_or_else(short)?;
    let seed = u32_at(header, 60).ok_or_else(short)?;
    if crc32fast::hash(header.get(..60).ok_or_else(short)?) != seed {
        return Err(bad("the checksum of its header is wrong"));
    }
    if found != FORMAT {
        return Err(LogError::Format {
            file: path.to_owned(),
            found,
            supported: FORMAT,
        });
    }
    if u64_at(header, 16) != Some(sequence) {
        return Err(bad("its header names another segment"));
    }
    let bytes = u32_at(header, 12).ok_or_else(short)?;
    let tag = u32_at(header, 24).ok_or_else(short)?;
    Ok((bytes, Stamp { seed, tag }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of the format: changing them needs a new format version.
    #[test]
    fn golden_header() {
        let header = encode_header(5, 4096, 0x0102_0304_0506_0708);
        let mut expected = b"UNIBWAL\n".to_vec();
        expected.extend_from_slice(&[1, 0, 0, 0, 0, 16, 0, 0]);
        expected.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
        expected.extend_from_slice(&[0; 28]);
        expected.extend_from_slice(&[231, 177, 90, 155]);
        assert_eq!(header[..], expected);
        let (bytes, stamp) = decode_header(Path::new("x"), &header, 5).unwrap();
        assert_eq!((bytes, stamp.tag), (4096, 0x0506_0708));
        assert!(decode_header(Path::new("x"), &header, 6).is_err());
        assert_eq!(parse_name(&file_name(255)), Some(255));
        assert_eq!(parse_name("ff.wal"), None);
    }
}
