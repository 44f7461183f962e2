//! The node's identity: a random UUID in `node.id`, made once and kept twice, in the node's folder and
//! in its store. Names and addresses may change, this does not; whoever loses both files is a new node.
//!
//! ```text
//! unibus-node-id 1
//! 6f9a…            the UUID
//! store yes        whether a store was made for it: then a missing one is a loss and no beginning
//! crc32 1a2b3c4d   of the lines before
//! ```
//! A file of two lines is of a version that had no more.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use unibus_proto::NodeId;
use uuid::Uuid;

use crate::errors::StorageError;

/// Name of the file, in both places.
pub(crate) const FILE: &str = "node.id";
const HEADER: &str = "unibus-node-id 1";
/// Larger than any identity file, bytes.
const BYTES_MAX: u64 = 4096;

/// What an identity file says.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) struct Identity {
    uuid: Uuid,
    /// A store was made under this identity.
    pub(crate) has_store: bool,
}

/// What is found where an identity file is looked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Found {
    Absent,
    Whole(Identity),
    /// It is there and can't be believed; the text says why.
    Damaged(String),
}

impl Identity {
    /// A new one.
    pub(crate) fn fresh() -> Self {
        Self {
            uuid: Uuid::new_v4(),
            has_store: false,
        }
    }

    /// The same node, with a store.
    pub(crate) fn with_store(self) -> Self {
        Self {
            has_store: true,
            ..self
        }
    }

    /// Whether both are of one node.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.uuid == other.uuid
    }

    /// The id is 63 bits of the UUID's digest: never 0, and exact in formats with signed integers.
    pub(crate) fn id(&self) -> NodeId {
        let digest = blake3::hash(self.uuid.as_bytes());
        let mut first = [0u8; 8];
        first.copy_from_slice(&digest.as_bytes()[..8]);
        NodeId((u64::from_le_bytes(first) >> 1).max(1))
    }

    fn encode(&self) -> String {
        let store = if self.has_store { "yes" } else { "no" };
        let body = format!("{HEADER}\n{}\nstore {store}\n", self.uuid);
        let crc = crc32fast::hash(body.as_bytes());
        format!("{body}crc32 {crc:08x}\n")
    }

    fn decode(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        let header = lines.next().unwrap_or_default();
        if header != HEADER {
            return Err(format!("wanted {HEADER:?}, found {header:?}"));
        }
        let uuid = lines.next().unwrap_or_default();
        let uuid = Uuid::parse_str(uuid).map_err(|_| format!("{uuid:?} is no UUID"))?;
        let (store, crc) = (lines.next(), lines.next());
        let has_store = match store {
            // Of a version that wrote no more; nothing more can be checked.
            None => {
                return Ok(Self {
                    uuid,
                    has_store: false,
                });
            }
            Some("store yes") => true,
            Some("store no") => false,
            Some(other) => return Err(format!("wanted \"store yes\" or no, found {other:?}")),
        };
        let identity = Self { uuid, has_store };
        if lines.next().is_some() || crc.is_none() || identity.encode() != text {
            return Err("its checksum does not match".to_owned());
        }
        Ok(identity)
    }
}

/// Looks for an identity in `folder`.
pub(crate) fn read(folder: &Path) -> Result<Found, StorageError> {
    let path = folder.join(FILE);
    let size = match fs::metadata(&path) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Absent),
        Err(error) => return Err(StorageError::io("inspect", path)(error)),
    };
    if size > BYTES_MAX {
        return Ok(Found::Damaged(format!("it has {size} bytes")));
    }
    let bytes = fs::read(&path).map_err(StorageError::io("read", &path))?;
    Ok(match String::from_utf8(bytes) {
        Err(_) => Found::Damaged("it is no text".to_owned()),
        Ok(text) => Identity::decode(&text).map_or_else(Found::Damaged, Found::Whole),
    })
}

/// Writes an identity into `folder`: aside, synced, renamed, so that a crash leaves either what was
/// there or the whole new one.
pub(crate) fn write(folder: &Path, identity: &Identity) -> Result<(), StorageError> {
    write_whole(folder, FILE, identity.encode().as_bytes())
}

/// Makes `folder/name` hold exactly `bytes`, durably, or leaves it as it was.
pub(crate) fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
    crate::disk::make_folder(folder).map_err(StorageError::io("create", folder))?;
    let aside = folder.join(format!("{name}.new"));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, folder.join(name))?;
        File::open(folder)?.sync_all()
    };
    write().map_err(StorageError::io("write", aside.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back_and_old_files_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("deep");
        assert_eq!(read(&deep).unwrap(), Found::Absent);
        let identity = Identity::fresh();
        for identity in [identity, identity.with_store()] {
            write(&deep, &identity).unwrap();
            assert_eq!(read(&deep).unwrap(), Found::Whole(identity));
        }
        assert_ne!(identity.id(), Identity::fresh().id());
        let old = format!("{HEADER}\n{}\n", identity.uuid);
        fs::write(deep.join(FILE), old).unwrap();
        assert_eq!(read(&deep).unwrap(), Found::Whole(identity));
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        write(dir.path(), &Identity::fresh().with_store()).unwrap();
        let whole = fs::read(&path).unwrap();
        let two_lines = HEADER.len() + 1 + 36;
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(
                matches!(read(dir.path()).unwrap(), Found::Damaged(_)),
                "{at}"
            );
            // Cut after the UUID it can't be told from a file of an older version, and means the same
            // node.
            if at != two_lines && at != two_lines + 1 {
                fs::write(&path, &whole[..at]).unwrap();
                assert!(
                    matches!(read(dir.path()).unwrap(), Found::Damaged(_)),
                    "{at}"
                );
            }
        }
        fs::write(&path, vec![0; whole.len()]).unwrap();
        assert!(matches!(read(dir.path()).unwrap(), Found::Damaged(_)));
    }
}
