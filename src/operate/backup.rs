//! Backups of a running cluster: a snapshot that is kept while a command reads it piece by piece.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use unibus_raft::backup::BackupSource;

use super::{Answer, Parts};

/// Snapshots that are read at once; each keeps its files on disk.
const READERS_MAX: usize = 4;
/// One that nobody has read from for this long is let go of.
const IDLE_MAX: Duration = Duration::from_secs(120);
/// Bytes in one answer, as far as the largest message allows.
const PIECE_BYTES: usize = 256 * 1024;

/// A backup that can be read.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct BackupBegun {
    /// What it is asked for by.
    pub id: String,
    /// Index of the last entry in it.
    pub index: u64,
    /// Bytes of its manifest.
    pub manifest_bytes: u64,
}

/// Which bytes are asked for.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct BackupPiece {
    /// Of which backup.
    pub id: String,
    /// Number of the file in the manifest's order; none asks for the manifest.
    pub file: Option<usize>,
    /// First byte.
    pub offset: u64,
}

impl BackupPiece {
    /// Of the manifest.
    #[must_use]
    pub fn manifest(offset: u64) -> Self {
        Self {
            offset,
            ..Self::default()
        }
    }

    /// Of a file.
    #[must_use]
    pub fn of(file: usize, offset: u64) -> Self {
        Self {
            file: Some(file),
            offset,
            ..Self::default()
        }
    }
}

/// How far a snapshot is that somebody asked for.
#[derive(Clone, Debug)]
enum Reader {
    Taking,
    Ready(BackupSource),
    Failed(String),
}

/// The snapshots that are being read, by the id that their readers chose.
#[derive(Debug, Default)]
pub(super) struct Readers(Mutex<BTreeMap<String, (Reader, Instant)>>);

impl Readers {
    fn find(&self, id: &str) -> Option<Reader> {
        let mut readers = self.0.lock();
        let (reader, used) = readers.get_mut(id)?;
        *used = Instant::now();
        Some(reader.clone())
    }

    /// Makes room for one that is being taken; false where there are too many.
    fn reserve(&self, id: &str) -> bool {
        let mut readers = self.0.lock();
        let has_room = readers.len() < READERS_MAX;
        if has_room {
            readers.insert(id.to_owned(), (Reader::Taking, Instant::now()));
        }
        has_room
    }

    fn set(&self, id: &str, reader: Reader) {
        self.0
            .lock()
            .insert(id.to_owned(), (reader, Instant::now()));
    }

    /// Lets go of one when nobody has read from it for long: until then its files stay on disk, deleted
    /// or not.
    async fn let_go(&self, id: &str) {
        loop {
            let used = self.0.lock().get(id).map(|(_, used)| *used);
            let Some(used) = used else { return };
            if used.elapsed() >= IDLE_MAX {
                self.0.lock().remove(id);
                return;
            }
            tokio::time::sleep_until(used + IDLE_MAX).await;
        }
    }
}

/// Takes a snapshot of everything that was acknowledged anywhere before. Asked again with the same id, it
/// says how far that is.
pub(super) async fn begin(parts: &Parts, readers: &Arc<Readers>, id: &str) -> Answer {
    match readers.find(id) {
        Some(Reader::Ready(source)) => Answer::Backup(BackupBegun {
            id: id.to_owned(),
            index: source.index(),
            manifest_bytes: source.manifest().len() as u64,
        }),
        Some(Reader::Failed(words)) => Answer::Refused(words),
        Some(Reader::Taking) => Answer::Working("the node takes a snapshot".to_owned()),
        None if id.is_empty() => Answer::Refused("a backup without an id".to_owned()),
        None => {
            if let Err(error) = parts.replica.read_barrier().await {
                return Answer::Working(format!("the node has not caught up: {error}"));
            }
            if !readers.reserve(id) {
                return Answer::Working(format!("{READERS_MAX} backups are being read already"));
            }
            let (replica, readers) = (parts.replica.clone(), Arc::clone(readers));
            let id = id.to_owned();
            tokio::spawn(async move {
                let reader = match replica.backup_source().await {
                    Ok(source) => Reader::Ready(source),
                    Err(error) => Reader::Failed(format!("no snapshot was taken: {error}")),
                };
                readers.set(&id, reader);
                readers.let_go(&id).await;
            });
            Answer::Working("the node takes a snapshot".to_owned())
        }
    }
}

/// A piece: 0 and its bytes, or 1 and words.
pub(super) async fn read(parts: &Parts, readers: &Arc<Readers>, piece: BackupPiece) -> Vec<u8> {
    let max = parts.broker.limits().payload_bytes_max.saturating_sub(1024);
    let len = PIECE_BYTES.min(max);
    let Some(Reader::Ready(source)) = readers.find(&piece.id) else {
        return refused("this backup is not being read any more: begin anew");
    };
    let reading = tokio::task::spawn_blocking(move || match piece.file {
        None => {
            let manifest = source.manifest();
            let from = usize::try_from(piece.offset).unwrap_or(usize::MAX);
            let rest = manifest.get(from..).unwrap_or_default();
            Ok(rest[..rest.len().min(len)].to_vec())
        }
        Some(file) => source.read(file, piece.offset, len),
    });
    match reading.await {
        Ok(Ok(bytes)) => std::iter::once(0).chain(bytes).collect(),
        Ok(Err(error)) => refused(&error.to_string()),
        Err(error) => refused(&error.to_string()),
    }
}

fn refused(words: &str) -> Vec<u8> {
    std::iter::once(1).chain(words.bytes()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{IDLE_MAX, Reader, Readers};

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_that_nobody_reads_is_let_go_of() {
        let readers = Readers::default();
        assert!(readers.reserve("b"));
        readers.set("b", Reader::Failed(String::new()));
        let reading = async {
            for _ in 0..4 {
                tokio::time::sleep(IDLE_MAX / 2).await;
                assert!(readers.find("b").is_some(), "it is still read");
            }
        };
        tokio::join!(reading, async {
            readers.let_go("b").await;
        });
        assert!(readers.0.lock().is_empty());
        let gone = tokio::time::timeout(Duration::from_secs(1), readers.let_go("b"));
        assert!(gone.await.is_ok());
    }
}
