//! The state's rows in sled, and in the flat file that every snapshot carries. sled is never the
//! only holder of anything: it can be set aside and refilled from the file at any time.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use unibus_state::RowOp;

use crate::blocks::{list, remove_quietly, sync_dir};
use crate::errors::StorageError;
use crate::manifest::FileEntry;

/// Key of the row that says where the rows were cut; the state's own keys are prefixed.
const META_KEY: &[u8] = b"\x00meta";
const ROW_PREFIX: u8 = 1;
/// Rows written per sled batch when everything is replaced.
const BATCH_ROWS: usize = 4096;
/// Longest key or value accepted from a rows file, bytes.
const ROW_BYTES_MAX: u32 = 64 << 20;
/// What every rows file starts with: a name and the format's number.
const FILE_MAGIC: &[u8; 8] = b"UROW\x01\0\0\0";
const FILE_FORMAT: u32 = 1;
/// Magic, then rows, then a row with this key length.
const FILE_END: u32 = u32::MAX;

/// A key and its value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);

/// The rows in sled.
#[derive(Debug)]
pub(crate) struct RowStore {
    dir: PathBuf,
    db: sled::Db,
}

impl RowStore {
    /// Opens the database in `dir`. The caller sets it aside if this fails.
    pub(crate) fn open(dir: &Path, cache_bytes: u64) -> Result<Self, StorageError> {
        crate::disk::make_folder(dir).map_err(StorageError::io("create", dir))?;
        // A kill during sled's recovery leaves such a file, and with it the database never opens
        // again: sled takes the half-written file for its newest snapshot (sled#1527).
        for file in list(dir)? {
            if file.name.starts_with("snap.") && file.name.ends_with(".generating") {
                remove_quietly(&file.path);
            }
        }
        let db = sled::Config::new()
            .path(dir)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None)
            .open()
            .map_err(sled_error)?;
        Ok(Self {
            dir: dir.to_owned(),
            db,
        })
    }

    /// Where the rows were cut; `None` if they are not complete.
    pub(crate) fn meta(&self) -> Result<Option<Vec<u8>>, StorageError> {
        let meta = self.db.get(META_KEY).map_err(sled_error)?;
        Ok(meta.map(|value| value.to_vec()))
    }

    /// Applies changed rows and the new cut in one batch. Durable after [`RowStore::sync`].
    pub(crate) fn apply(
        &self,
        ops: impl IntoIterator<Item = RowOp>,
        meta: &[u8],
    ) -> Result<(), StorageError> {
        let mut batch = sled::Batch::default();
        for op in ops {
            match op {
                RowOp::Put { key, value } => batch.insert(stored_key(&key), value),
                RowOp::Delete { key } => batch.remove(stored_key(&key)),
            }
        }
        batch.insert(META_KEY, meta);
        self.db.apply_batch(batch).map_err(sled_error)
    }

    /// Replaces everything. Until it is through there is no cut, so a crash leaves rows that are
    /// known to be incomplete.
    pub(crate) fn replace(
        &self,
        rows: impl Iterator<Item = Result<Row, StorageError>>,
        meta: &[u8],
    ) -> Result<(), StorageError> {
        self.db.remove(META_KEY).map_err(sled_error)?;
        self.sync()?;
        self.db.clear().map_err(sled_error)?;
        let mut batch = sled::Batch::default();
        let mut count = 0;
        for row in rows {
            let (key, value) = row?;
            batch.insert(stored_key(&key), value);
            count += 1;
            if count % BATCH_ROWS == 0 {
                self.db
                    .apply_batch(std::mem::take(&mut batch))
                    .map_err(sled_error)?;
            }
        }
        self.db.apply_batch(batch).map_err(sled_error)?;
        self.sync()?;
        self.db.insert(META_KEY, meta).map_err(sled_error)?;
        self.sync()
    }

    /// All rows, in key order.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Result<Row, StorageError>> + use<> {
        self.db.range([ROW_PREFIX]..).map(|row| {
            let (key, value) = row.map_err(sled_error)?;
            Ok((key.get(1..).unwrap_or_default().to_vec(), value.to_vec()))
        })
    }

    /// Makes everything durable: sled's own flush issues no fsync on Linux.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        self.db.flush().map_err(sled_error)?;
        let db = self.dir.join("db");
        File::open(&db)
            .and_then(|file| file.sync_all())
            .map_err(StorageError::io("sync", db))?;
        let blobs = self.dir.join("blobs");
        for blob in list(&blobs)? {
            match File::open(&blob.path).and_then(|file| file.sync_all()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StorageError::io("sync", blob.path)(error));
                }
                _ => {}
            }
        }
        sync_dir(&self.dir)
    }

    /// Size on disk, bytes; 0 if it is not known.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }
}

fn stored_key(key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(key.len() + 1);
    stored.push(ROW_PREFIX);
    stored.extend_from_slice(key);
    stored
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "a function for map_err, which passes by value"
)]
fn sled_error(error: sled::Error) -> StorageError {
    match error {
        sled::Error::Io(error) => StorageError::io("use", "the rows database")(error),
        error => StorageError::Sled(error.to_string()),
    }
}

/// The bytes of a rows file, one piece after the other, with their length and digest.
struct RowsFile<W> {
    out: W,
    hasher: blake3::Hasher,
    len: u64,
}

impl<W: Write> RowsFile<W> {
    fn begin(out: W) -> Result<Self, StorageError> {
        let mut file = Self {
            out,
            hasher: blake3::Hasher::new(),
            len: 0,
        };
        file.put(FILE_MAGIC)?;
        Ok(file)
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        for bytes in [key, value] {
            let len = u32::try_from(bytes.len())
                .ok()
                .filter(|len| *len <= ROW_BYTES_MAX)
                .ok_or_else(|| StorageError::Rows(format!("a row of {} bytes", bytes.len())))?;
            self.put(&len.to_le_bytes())?;
        }
        self.put(key)?;
        self.put(value)
    }

    fn end(mut self) -> Result<(W, FileEntry), StorageError> {
        self.put(&FILE_END.to_le_bytes())?;
        let entry = FileEntry {
            len: self.len,
            digest: *self.hasher.finalize().as_bytes(),
        };
        Ok((self.out, entry))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        self.out
            .write_all(bytes)
            .map_err(StorageError::io("write", "the rows file"))
    }
}

/// Writes rows to a new file and syncs it. Answers with its length and digest.
pub(crate) fn write_rows_file(
    path: &Path,
    rows: impl Iterator<Item = Result<Row, StorageError>>,
) -> Result<FileEntry, StorageError> {
    let file = File::create(path).map_err(StorageError::io("create", path))?;
    let mut out = RowsFile::begin(BufWriter::with_capacity(256 << 10, file))?;
    for row in rows {
        let (key, value) = row?;
        out.row(&key, &value)?;
    }
    let (out, entry) = out.end()?;
    let fail = |error| StorageError::io("write", path)(error);
    let file = out.into_inner().map_err(|error| fail(error.into_error()))?;
    file.sync_all().map_err(fail)?;
    Ok(entry)
}

/// Hands `rows` to `read`, and says what a rows file with those that were read would be.
pub(crate) fn read_hashing<T>(
    rows: impl Iterator<Item = Result<Row, StorageError>>,
    read: impl FnOnce(&mut dyn Iterator<Item = Result<Row, StorageError>>) -> T,
) -> Result<(T, FileEntry), StorageError> {
    let mut out = RowsFile::begin(io::sink())?;
    let mut rows = rows.map(|row| {
        let (key, value) = row?;
        out.row(&key, &value)?;
        Ok((key, value))
    });
    let done = read(&mut rows);
    rows.by_ref().for_each(drop);
    drop(rows);
    Ok((done, out.end()?.1))
}

/// Reads a rows file row by row. Its digest is checked before, by whoever trusts it.
pub(crate) fn read_rows_file(
    path: &Path,
) -> Result<impl Iterator<Item = Result<Row, StorageError>> + use<>, StorageError> {
    let path = path.to_owned();
    let file = File::open(&path).map_err(StorageError::io("open", &path))?;
    let mut input = BufReader::with_capacity(256 << 10, file);
    let mut magic = [0u8; 8];
    input
        .read_exact(&mut magic)
        .map_err(StorageError::io("read", &path))?;
    if let Some((b"UROW", format)) = magic.split_first_chunk()
        && let Ok(format) = <[u8; 4]>::try_from(format)
        && u32::from_le_bytes(format) > FILE_FORMAT
    {
        return Err(StorageError::Format {
            path,
            found: u32::from_le_bytes(format),
            supported: FILE_FORMAT,
        });
    }
    if &magic != FILE_MAGIC {
        return Err(StorageError::Damaged {
            path,
            reason: "not a rows file of this format".to_owned(),
        });
    }
    let mut ended = false;
    Ok(std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let row = read_row(&mut input, &path).transpose();
        ended = !matches!(row, Some(Ok(_)));
        row
    }))
}

fn read_row(input: &mut impl Read, path: &Path) -> Result<Option<Row>, StorageError> {
    let mut word = || -> Result<u32, StorageError> {
        let mut bytes = [0u8; 4];
        input
            .read_exact(&mut bytes)
            .map_err(StorageError::io("read", path))?;
        Ok(u32::from_le_bytes(bytes))
    };
    let key_len = word()?;
    if key_len == FILE_END {
        return Ok(None);
    }
    let value_len = word()?;
    if key_len > ROW_BYTES_MAX || value_len > ROW_BYTES_MAX {
        return Err(StorageError::Damaged {
            path: path.to_owned(),
            reason: "a row's length is out of range".to_owned(),
        });
    }
    let mut key = vec![0u8; key_len as usize];
    let mut value = vec![0u8; value_len as usize];
    input
        .read_exact(&mut key)
        .and_then(|()| input.read_exact(&mut value))
        .map_err(StorageError::io("read", path))?;
    Ok(Some((key, value)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn put(key: &str, value: &str) -> RowOp {
        RowOp::Put {
            key: key.into(),
            value: value.into(),
        }
    }

    fn rows(store: &RowStore) -> Vec<Row> {
        store.rows().map(|row| row.unwrap()).collect()
    }

    #[test]
    fn rows_survive_reopening_and_a_leftover_generating_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = RowStore::open(dir.path(), 1 << 20).unwrap();
        assert_eq!(store.meta().unwrap(), None);
        store
            .apply(vec![put("a", "1"), put("b", "2")], b"cut 1")
            .unwrap();
        let delete = RowOp::Delete { key: b"a".to_vec() };
        store.apply(vec![delete], b"cut 2").unwrap();
        store.sync().unwrap();
        drop(store);
        fs::write(dir.path().join("snap.00.generating"), b"half").unwrap();
        let store = RowStore::open(dir.path(), 1 << 20).unwrap();
        assert_eq!(store.meta().unwrap().unwrap(), b"cut 2");
        assert_eq!(rows(&store), [(b"b".to_vec(), b"2".to_vec())]);
    }

    #[test]
    fn a_rows_file_refills_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = RowStore::open(&dir.path().join("db"), 1 << 20).unwrap();
        store
            .apply(vec![put("a", ""), put("b", "2")], b"x")
            .unwrap();
        let path = dir.path().join("rows");
        let entry = write_rows_file(&path, store.rows()).unwrap();
        assert_eq!(entry.len, fs::metadata(&path).unwrap().len());
        let other = RowStore::open(&dir.path().join("other"), 1 << 20).unwrap();
        other.apply(vec![put("z", "9")], b"old").unwrap();
        other.replace(read_rows_file(&path).unwrap(), b"y").unwrap();
        assert_eq!(rows(&other), rows(&store));
        assert_eq!(other.meta().unwrap().unwrap(), b"y");
    }

    #[test]
    fn a_cut_rows_file_is_an_error_not_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows");
        let row = Ok((b"k".to_vec(), b"value".to_vec()));
        write_rows_file(&path, std::iter::once(row)).unwrap();
        let whole = fs::read(&path).unwrap();
        for len in 8..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(read_rows_file(&path).unwrap().any(|row| row.is_err()));
        }
    }
}
