//! What a client must not forget when its session ends: the latest epoch of each room that it has seen, who
//! owns it, and who has gone. Kept in a file, so that a server can't show the next session of the same
//! identity a room as it was before.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use unibus_proto::control::RoomId;

use crate::error::Error;
use crate::room::Remembered;
use crate::rooms::roster::RosterError;

/// Largest file that is read or written, in bytes: some ten thousand rooms.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Mode of the file: who talks to whom is nobody else's business.
const PRIVATE: u32 = 0o600;

type Rooms = BTreeMap<RoomId, Remembered>;

/// The file, and what this session knows of it.
#[derive(Debug)]
pub(crate) struct Memory {
    path: PathBuf,
    rooms: Mutex<Rooms>,
}

impl Memory {
    /// Reads what was remembered; nothing, where no file is there. A file that can't be read is an error
    /// and is left as it is: who forgets believes the server.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let rooms = Mutex::new(read(path)?);
        Ok(Self {
            path: path.to_owned(),
            rooms,
        })
    }

    /// What is remembered of a room.
    pub(crate) fn recall(&self, room: &RoomId) -> Option<Remembered> {
        self.rooms.lock().get(room).cloned()
    }

    /// Where it is kept.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Remembers a room, on disk. Answers with what is remembered of it then: other sessions of this identity
    /// may have added to it. Where nothing has changed here the file is not asked, unless that has to be
    /// `certain`. Blocks for the disk.
    pub(crate) fn keep(
        &self,
        room: &RoomId,
        now: Remembered,
        certain: bool,
    ) -> Result<Remembered, Error> {
        let mut rooms = self.rooms.lock();
        if !certain && rooms.get(room) == Some(&now) {
            return Ok(now);
        }
        self.change(&mut rooms, room, now, |_| Ok(()))
    }

    /// Takes the next epoch that no session of this identity has signed keys for, and answers with what is
    /// remembered then: `signed` is that epoch. It is on disk before any key is signed. Blocks for the disk.
    pub(crate) fn claim_epoch(
        &self,
        room: &RoomId,
        now: Remembered,
        current: u64,
    ) -> Result<Remembered, Error> {
        self.change(&mut self.rooms.lock(), room, now, |merged| {
            let next = merged.signed.max(current).checked_add(1);
            merged.signed = next.ok_or_else(|| Error::LastEpoch(room.clone()))?;
            Ok(())
        })
    }

    /// Merges `now` into the file, then changes what stands there.
    fn change(
        &self,
        rooms: &mut Rooms,
        room: &RoomId,
        now: Remembered,
        change: impl FnOnce(&mut Remembered) -> Result<(), Error>,
    ) -> Result<Remembered, Error> {
        let io = io(&self.path);
        std::fs::create_dir_all(folder(&self.path)).map_err(&io)?;
        // Other sessions of this identity write the file too: one at a time.
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(PRIVATE)
            .open(beside(&self.path, "lock"))
            .map_err(&io)?;
        lock.lock().map_err(&io)?;
        let mut all = read(&self.path)?;
        let mut merged = now.clone();
        let before = all.get(room).cloned();
        if let Some(other) = before.clone() {
            if other.owner != now.owner {
                return Err(Error::Roster(RosterError::OwnerChanged {
                    before: other.owner,
                    now: now.owner,
                }));
            }
            merged.merge(other, rooms.get(room));
        }
        change(&mut merged)?;
        if before.as_ref() == Some(&merged) {
            rooms.insert(room.clone(), merged.clone());
            return Ok(merged);
        }
        all.insert(room.clone(), merged.clone());
        write(&self.path, &all)?;
        rooms.insert(room.clone(), merged.clone());
        Ok(merged)
    }
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |error| {
        let path = path.display();
        Error::Options(format!("the memory of rooms {path} can't be kept: {error}"))
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(end);
    path.with_file_name(name)
}

/// The folder of a file.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn read(path: &Path) -> Result<Rooms, Error> {
    let io = io(path);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Rooms::new()),
        Err(error) => return Err(io(error)),
    };
    let mut text = Vec::new();
    let mut file = file.take(FILE_BYTES_MAX + 1);
    file.read_to_end(&mut text).map_err(&io)?;
    let damaged = |why: String| {
        let path = path.display();
        Error::Options(format!(
            "the memory of rooms {path} can't be used: {why}; move it away to begin anew, and believe the \
             server once more"
        ))
    };
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(damaged(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))
}

/// Whole or not at all.
fn write(path: &Path, rooms: &Rooms) -> Result<(), Error> {
    let io = io(path);
    let text = serde_json::to_vec(rooms).map_err(|error| io(error.into()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::Options(format!(
            "the memory of rooms {} is full: {FILE_BYTES_MAX} bytes",
            path.display()
        )));
    }
    let draft = beside(path, "new");
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true);
    let mut file = options.mode(PRIVATE).open(&draft).map_err(&io)?;
    file.write_all(&text).map_err(&io)?;
    file.sync_all().map_err(&io)?;
    std::fs::rename(&draft, path).map_err(&io)?;
    File::open(folder(path))
        .and_then(|folder| folder.sync_all())
        .map_err(io)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn remembered(epoch: u64, gone: &str) -> Remembered {
        let gone: serde_json::Value = serde_json::from_str(gone).unwrap();
        let owner = "00112233445566778899aabbccddeeff";
        let all = serde_json::json!({ "owner": owner, "epoch": epoch, "gone": gone });
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn what_two_sessions_saw_is_remembered_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/rooms.json");
        let (one, two) = (Memory::open(&path).unwrap(), Memory::open(&path).unwrap());
        let room: RoomId = "r1".parse().unwrap();
        assert_eq!(one.recall(&room), None);
        let removed = r#"{ "ffeeddccbbaa99887766554433221100": { "epoch": 3, "removed": true } }"#;
        one.keep(&room, remembered(3, removed), false).unwrap();
        // The other one has not heard of the removal, and is behind: it hears of it.
        let heard = two.keep(&room, remembered(2, "{}"), false).unwrap();
        assert_eq!(heard, remembered(3, removed));
        let now = |wanted| {
            let found = Memory::open(&path).unwrap().recall(&room);
            assert_eq!(found, Some(wanted));
        };
        now(remembered(3, removed));
        // Who removed somebody takes it back, and the other one hears of that too when it asks.
        one.keep(&room, remembered(3, "{}"), false).unwrap();
        now(remembered(3, "{}"));
        let heard = two.keep(&room, remembered(3, removed), true).unwrap();
        assert_eq!(heard, remembered(3, "{}"));
        let mode = std::fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, PRIVATE);

        let mut other = remembered(9, "{}");
        other.owner = "ffeeddccbbaa99887766554433221100".parse().unwrap();
        let changed = two.keep(&room, other, false);
        assert!(matches!(changed, Err(Error::Roster(_))), "{changed:?}");
        now(remembered(3, "{}"));
    }

    #[test]
    fn a_damaged_memory_is_an_error_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rooms.json");
        let memory = Memory::open(&path).unwrap();
        std::fs::write(&path, "{").unwrap();
        let room: RoomId = "r1".parse().unwrap();
        let refused = [
            memory.keep(&room, remembered(1, "{}"), false).unwrap_err(),
            Memory::open(&path).unwrap_err(),
        ];
        for error in refused {
            assert!(error.to_string().contains("can't be used"), "{error}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"{");
    }
}
