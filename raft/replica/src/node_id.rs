//! The node's identity: a random UUID in `node.id`, made once. Names and addresses may change, this
//! does not; whoever loses the file is a new node.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use unibus_proto::NodeId;
use uuid::Uuid;

use crate::errors::{StartError, StorageError};

const FILE: &str = "node.id";
const HEADER: &str = "unibus-node-id 1";

/// Reads `node.id` in `data_dir`, or creates it (and the folder).
pub(crate) fn read_or_create(data_dir: &Path) -> Result<NodeId, StartError> {
    let path = data_dir.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => parse(&text).ok_or_else(|| StartError::NodeId {
            path,
            reason: format!("wanted {HEADER:?} and a UUID, found {text:?}"),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let uuid = Uuid::new_v4();
            create(data_dir, uuid)?;
            Ok(id_of(uuid))
        }
        Err(error) => Err(StorageError::io("read", path)(error).into()),
    }
}

fn parse(text: &str) -> Option<NodeId> {
    let mut lines = text.lines();
    if lines.next()? != HEADER {
        return None;
    }
    Uuid::parse_str(lines.next()?.trim()).ok().map(id_of)
}

/// The id is 63 bits of the UUID's digest: never 0, and exact in formats with signed integers.
fn id_of(uuid: Uuid) -> NodeId {
    let digest = blake3::hash(uuid.as_bytes());
    let mut first = [0u8; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    NodeId((u64::from_le_bytes(first) >> 1).max(1))
}

/// Written aside, synced, renamed: a crash leaves either no file or a whole one.
fn create(data_dir: &Path, uuid: Uuid) -> Result<(), StorageError> {
    fs::create_dir_all(data_dir).map_err(StorageError::io("create", data_dir))?;
    let aside = data_dir.join("node.id.new");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&aside)?;
        writeln!(file, "{HEADER}\n{uuid}")?;
        file.sync_all()?;
        fs::rename(&aside, data_dir.join(FILE))?;
        File::open(data_dir)?.sync_all()
    };
    write().map_err(StorageError::io("write", aside.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_is_made_once_and_differs_between_folders() {
        let a = tempfile::tempdir().unwrap();
        let b = tempfile::tempdir().unwrap();
        let first = read_or_create(&a.path().join("deep")).unwrap();
        assert_eq!(first, read_or_create(&a.path().join("deep")).unwrap());
        assert_ne!(first, read_or_create(b.path()).unwrap());
    }

    #[test]
    fn a_damaged_file_is_refused_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "nonsense").unwrap();
        assert!(matches!(
            read_or_create(dir.path()),
            Err(StartError::NodeId { .. })
        ));
    }
}
