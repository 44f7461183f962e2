//! Message bodies: one folder per stream, one file per block, written at the place the state
//! assigns. Nothing is synced here until a checkpoint asks; until then the log is the durable copy
//! and replay writes the same bytes to the same place. Never decides where a record goes, never
//! deletes a file that the newest checkpoint still needs.

mod cache;
mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use unibus_state::{BlockId, BlockSink, Location, StreamUid, first_damaged};

use self::cache::Cache;
use crate::disk;
use crate::errors::StorageError;

/// File header: magic, format version, stream uid. Offsets of the state start after it.
const HEADER_BYTES: u64 = 16;
const MAGIC: &[u8; 4] = b"UBLK";
const FORMAT: u32 = 1;
/// Open block files that are kept, files.
const OPEN_FILES_MAX: usize = 256;
/// A coalesced write is closed at this size, bytes.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Copies made for a digest or a hash go through a buffer of this size, bytes.
const COPY_BYTES: usize = 256 << 10;

/// Stream uid and block number.
pub(crate) type BlockKey = (u64, u32);

/// The block of a place.
fn key_of(at: &Location) -> BlockKey {
    (at.stream.0, at.block.0)
}

/// All block files of a node, and the cache of what was written last.
#[derive(Debug)]
pub(crate) struct BlockStore {
    root: PathBuf,
    cache: Mutex<Cache>,
    files: Mutex<Files>,
    pending: Mutex<BlockCut>,
    /// Held by whoever syncs, so that nobody counts bytes as durable of whose loss another is being told.
    syncing: Mutex<()>,
    /// The first sync that failed.
    failure: OnceLock<Unsynced>,
}

/// A sync that failed.
#[derive(Clone, Debug)]
struct Unsynced {
    path: PathBuf,
    reason: String,
}

impl From<Unsynced> for StorageError {
    fn from(Unsynced { path, reason }: Unsynced) -> Self {
        Self::Unsynced { path, reason }
    }
}

/// What happened to the files since the last checkpoint.
#[derive(Debug, Default)]
pub(crate) struct BlockCut {
    /// Written and not synced.
    pub(crate) dirty: BTreeSet<BlockKey>,
    /// No longer referenced by the state.
    pub(crate) dropped_blocks: BTreeSet<BlockKey>,
    /// Streams no longer referenced by the state.
    pub(crate) dropped_streams: BTreeSet<u64>,
}

impl BlockStore {
    /// Opens (creates) the store under `root` with a cache of `cache_bytes`.
    pub(crate) fn open(root: PathBuf, cache_bytes: usize) -> Result<Self, StorageError> {
        fs::create_dir_all(&root).map_err(StorageError::io("create", &root))?;
        Ok(Self {
            root,
            cache: Mutex::new(Cache::new(cache_bytes)),
            files: Mutex::new(Files::default()),
            pending: Mutex::new(BlockCut::default()),
            syncing: Mutex::new(()),
            failure: OnceLock::new(),
        })
    }

    /// Why nothing here counts as durable any more, if it does not: a sync failed.
    pub(crate) fn failure(&self) -> Option<StorageError> {
        self.failure.get().cloned().map(StorageError::from)
    }

    /// Bytes of a block's file as they are, by place in the state's terms.
    pub(crate) fn read_range(
        &self,
        key: BlockKey,
        offset: u32,
        len: u32,
    ) -> Result<Bytes, StorageError> {
        let missing = || StorageError::Missing {
            stream: key.0,
            block: key.1,
            offset,
        };
        let path = self.path(key);
        let file = self.file(key, false).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                missing()
            } else {
                StorageError::io("open", &path)(error)
            }
        })?;
        let mut bytes = vec![0u8; len as usize];
        match file.read_exact_at(&mut bytes, HEADER_BYTES + u64::from(offset)) {
            Ok(()) => Ok(Bytes::from(bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(missing()),
            Err(error) => Err(StorageError::io("read", path)(error)),
        }
    }

    /// Bytes of a block's file, header included.
    pub(crate) fn file_len(&self, key: BlockKey) -> Result<u64, StorageError> {
        let path = self.path(key);
        let meta = fs::metadata(&path).map_err(StorageError::io("inspect", path))?;
        Ok(meta.len())
    }

    /// The first `len` bytes of a block.
    pub(crate) fn read_prefix(&self, key: BlockKey, len: u32) -> Result<Vec<u8>, StorageError> {
        if len == 0 {
            return Ok(Vec::new());
        }
        Ok(self.read_range(key, 0, len)?.into())
    }

    /// Where the first `len` bytes of a block stop being what was written: at the start of the first
    /// record that is not whole, or at 0 where the file's header is not. `None`: they are all right.
    pub(crate) fn check(&self, key: BlockKey, len: u32) -> Result<Option<u32>, StorageError> {
        let path = self.path(key);
        // Opened anew: a file that was removed must not look well because somebody has it open.
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(0)),
            Err(error) => return Err(StorageError::io("open", path)(error)),
        };
        let wanted = usize::try_from(file_bytes(len)).unwrap_or(usize::MAX);
        let mut bytes = Vec::with_capacity(wanted);
        file.take(file_bytes(len))
            .read_to_end(&mut bytes)
            .map_err(StorageError::io("read", &path))?;
        let Some((head, body)) = bytes.split_at_checked(header(key.0).len()) else {
            return Ok(Some(0));
        };
        if let Some(found) = newer_format(head) {
            return Err(StorageError::Format {
                path,
                found,
                supported: FORMAT,
            });
        }
        if head != header(key.0) {
            return Ok(Some(0));
        }
        let bad = first_damaged(body).or_else(|| (bytes.len() < wanted).then_some(body.len()));
        Ok(bad.map(|at| u32::try_from(at).unwrap_or(u32::MAX)))
    }

    /// Writes bytes where they belong, the header too, and syncs them. Makes the file if it is missing.
    pub(crate) fn patch(
        &self,
        key: BlockKey,
        offset: u32,
        bytes: &[u8],
    ) -> Result<(), StorageError> {
        let path = self.path(key);
        if !path.exists() {
            self.files.lock().close(key);
        }
        let write = |file: Arc<File>| -> io::Result<Arc<File>> {
            disk::write_at(&file, &header(key.0), 0)?;
            disk::write_at(&file, bytes, HEADER_BYTES + u64::from(offset))?;
            Ok(file)
        };
        let file = self
            .file(key, true)
            .and_then(write)
            .map_err(StorageError::io("mend", &path))?;
        let _alone = self.begin_sync()?;
        disk::sync_all(&file).map_err(|error| self.unsynced(path, &error))?;
        self.sync_folder(&self.folder(key.0))
    }

    /// Bytes in the cache.
    pub(crate) fn cached_bytes(&self) -> usize {
        self.cache.lock().bytes
    }

    /// Starts collecting the writes of one apply.
    pub(crate) fn writer(&self) -> BlockWriter<'_> {
        BlockWriter {
            store: self,
            open: Vec::new(),
            ready: Vec::new(),
            dropped: BlockCut::default(),
        }
    }

    /// Takes what a checkpoint has to sync and what it may delete once it is durable.
    pub(crate) fn cut(&self) -> BlockCut {
        std::mem::take(&mut *self.pending.lock())
    }

    /// Gives back a cut whose checkpoint failed.
    pub(crate) fn uncut(&self, cut: BlockCut) {
        let mut pending = self.pending.lock();
        pending.dirty.extend(cut.dirty);
        pending.dropped_blocks.extend(cut.dropped_blocks);
        pending.dropped_streams.extend(cut.dropped_streams);
    }

    /// Syncs the files of a cut and the folders that hold them.
    ///
    /// # Errors
    /// [`StorageError::Unsynced`] if that failed, now or ever before: then nobody may try again.
    pub(crate) fn sync(&self, cut: &BlockCut) -> Result<(), StorageError> {
        let _alone = self.begin_sync()?;
        let mut folders = BTreeSet::new();
        for key in &cut.dirty {
            let path = self.path(*key);
            match self.file(*key, false) {
                Ok(file) => {
                    disk::sync_data(&file).map_err(|error| self.unsynced(path, &error))?;
                    folders.insert(key.0);
                }
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && (cut.dropped_blocks.contains(key)
                            || cut.dropped_streams.contains(&key.0)) => {}
                Err(error) => return Err(StorageError::io("open", path)(error)),
            }
        }
        for stream in &folders {
            self.sync_folder(&self.folder(*stream))?;
        }
        self.sync_folder(&self.root)
    }

    /// Syncs a file that may be one of a block under another name.
    ///
    /// # Errors
    /// As of [`BlockStore::sync`].
    pub(crate) fn sync_file(&self, path: &Path) -> Result<(), StorageError> {
        let file = File::open(path).map_err(StorageError::io("open", path))?;
        let _alone = self.begin_sync()?;
        disk::sync_all(&file).map_err(|error| self.unsynced(path.to_owned(), &error))
    }

    /// Has the caller be the only one who syncs. An error if that ever failed.
    fn begin_sync(&self) -> Result<MutexGuard<'_, ()>, StorageError> {
        let alone = self.syncing.lock();
        match self.failure() {
            Some(failure) => Err(failure),
            None => Ok(alone),
        }
    }

    /// Notes that a sync failed, for good.
    fn unsynced(&self, path: PathBuf, error: &io::Error) -> StorageError {
        let reason = error.to_string();
        let failure = self.failure.get_or_init(|| Unsynced { path, reason });
        failure.clone().into()
    }

    fn sync_folder(&self, path: &Path) -> Result<(), StorageError> {
        let folder = File::open(path).map_err(StorageError::io("open", path))?;
        disk::sync_all(&folder).map_err(|error| self.unsynced(path.to_owned(), &error))
    }

    /// Deletes what a durable checkpoint no longer references.
    pub(crate) fn remove_dropped(&self, cut: &BlockCut) {
        for key in &cut.dropped_blocks {
            self.files.lock().close(*key);
            remove_quietly(&self.path(*key));
            remove_quietly(&self.root.join(Self::index_name(*key)));
        }
        for stream in &cut.dropped_streams {
            self.files.lock().close_stream(*stream);
            let folder = self.folder(*stream);
            if let Err(error) = fs::remove_dir_all(&folder)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %folder.display(), %error, "dropped stream folder stays");
            }
        }
    }

    /// Hard-links a block file to `to`.
    pub(crate) fn link_out(&self, key: BlockKey, to: &Path) -> Result<(), StorageError> {
        fs::hard_link(self.path(key), to).map_err(StorageError::io("link", self.path(key)))
    }

    /// Makes the file at `from` the block (by hard link), replacing what is there.
    pub(crate) fn link_in(&self, key: BlockKey, from: &Path) -> Result<(), StorageError> {
        let folder = self.folder(key.0);
        fs::create_dir_all(&folder).map_err(StorageError::io("create", &folder))?;
        let aside = folder.join("incoming");
        remove_quietly(&aside);
        fs::hard_link(from, &aside).map_err(StorageError::io("link", from))?;
        self.files.lock().close(key);
        let path = self.path(key);
        fs::rename(&aside, &path).map_err(StorageError::io("rename", path))?;
        // rename(2) of two links of one file does nothing and leaves the first name in place.
        remove_quietly(&aside);
        Ok(())
    }

    /// Digest of the header and the first `len` bytes of a block, as manifests list it.
    pub(crate) fn digest(&self, key: BlockKey, len: u32) -> Result<[u8; 32], StorageError> {
        digest_prefix(&self.path(key), HEADER_BYTES + u64::from(len))
    }

    /// Forgets the cache and every open file, and deletes all files that are not `live`.
    pub(crate) fn retain(&self, live: &BTreeSet<BlockKey>) -> Result<(), StorageError> {
        *self.files.lock() = Files::default();
        self.cache.lock().clear();
        *self.pending.lock() = BlockCut::default();
        for stream in list(&self.root)? {
            let uid = u64::from_str_radix(&stream.name, 16).ok();
            for block in list(&stream.path)? {
                let number = block
                    .name
                    .strip_suffix(".blk")
                    .or_else(|| block.name.strip_suffix(".idx"))
                    .and_then(|number| u32::from_str_radix(number, 16).ok());
                let is_live = uid
                    .zip(number)
                    .is_some_and(|(uid, number)| live.contains(&(uid, number)));
                if !is_live {
                    remove_quietly(&block.path);
                }
            }
            // Succeeds only for folders that are empty now.
            drop(fs::remove_dir(&stream.path));
        }
        Ok(())
    }

    /// Path of a block's file in a store's folder of blocks.
    pub(crate) fn name(key: BlockKey) -> PathBuf {
        PathBuf::from(format!("{:016x}", key.0)).join(format!("{:08x}.blk", key.1))
    }

    /// Path of the copy of a block's index in a store's folder of blocks.
    pub(crate) fn index_name(key: BlockKey) -> PathBuf {
        Self::name(key).with_extension("idx")
    }

    /// The folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Copies the file at `from` to the place of the block.
    pub(crate) fn copy_in(&self, key: BlockKey, from: &Path) -> Result<(), StorageError> {
        let folder = self.folder(key.0);
        fs::create_dir_all(&folder).map_err(StorageError::io("create", &folder))?;
        fs::copy(from, self.path(key)).map_err(StorageError::io("copy", from))?;
        Ok(())
    }

    /// What the file of a block starts with.
    pub(crate) fn header(&self, key: BlockKey) -> [u8; HEADER_BYTES as usize] {
        header(key.0)
    }

    fn folder(&self, stream: u64) -> PathBuf {
        self.root.join(format!("{stream:016x}"))
    }

    /// The file of a block.
    pub(crate) fn path(&self, key: BlockKey) -> PathBuf {
        self.root.join(Self::name(key))
    }

    fn file(&self, key: BlockKey, create: bool) -> io::Result<Arc<File>> {
        let mut files = self.files.lock();
        if let Some(file) = files.get(key) {
            return Ok(file);
        }
        let path = self.path(key);
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
                fs::create_dir_all(self.folder(key.0))?;
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(&path)?;
                disk::write_at(&file, &header(key.0), 0)?;
                file
            }
            other => other?,
        };
        let file = Arc::new(file);
        files.put(key, Arc::clone(&file));
        Ok(file)
    }

    fn write(&self, chunk: &Chunk) -> Result<(), StorageError> {
        let path = self.path(chunk.key);
        self.file(chunk.key, true)
            .and_then(|file| {
                disk::write_at(&file, &chunk.bytes, HEADER_BYTES + u64::from(chunk.start))
            })
            .map_err(StorageError::io("write", path))
    }
}

fn header(stream: u64) -> [u8; HEADER_BYTES as usize] {
    let mut header = [0u8; HEADER_BYTES as usize];
    header[..4].copy_from_slice(MAGIC);
    header[4..8].copy_from_slice(&FORMAT.to_le_bytes());
    header[8..].copy_from_slice(&stream.to_le_bytes());
    header
}

/// The format in a header that is whole but for it, if it is one to come.
fn newer_format(head: &[u8]) -> Option<u32> {
    let (magic, rest) = head.split_first_chunk::<4>()?;
    let (format, _) = rest.split_first_chunk::<4>()?;
    let format = u32::from_le_bytes(*format);
    // A flipped bit of a 1 is not taken for a version: versions are small and follow one another.
    (magic == MAGIC && format == FORMAT + 1).then_some(format)
}

/// Bytes of a block file that a manifest entry of `len` covers, header included.
pub(crate) fn file_bytes(len: u32) -> u64 {
    HEADER_BYTES + u64::from(len)
}

/// BLAKE3 of the first `len` bytes of a file; an error if it is shorter.
pub(crate) fn digest_prefix(path: &Path, len: u64) -> Result<[u8; 32], StorageError> {
    let file = File::open(path).map_err(StorageError::io("open", path))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0u8; COPY_BYTES];
    let mut at = 0u64;
    while at < len {
        let want = usize::try_from(len - at)
            .unwrap_or(COPY_BYTES)
            .min(COPY_BYTES);
        file.read_exact_at(&mut buffer[..want], at)
            .map_err(StorageError::io("read", path))?;
        hasher.update(&buffer[..want]);
        at += want as u64;
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Makes the entries of a folder durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), StorageError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(StorageError::io("sync", path))
}

/// Removes a file that may not be there; anything else is only worth a log line.
pub(crate) fn remove_quietly(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a file that is not needed stays");
    }
}

/// One entry of a folder.
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// The entries of a folder with readable names; empty if it is missing or not a folder.
pub(crate) fn list(path: &Path) -> Result<Vec<Listed>, StorageError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(StorageError::io("list", path)(error)),
    };
    let mut listed = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StorageError::io("list", path))?;
        if let Ok(name) = entry.file_name().into_string() {
            listed.push(Listed {
                name,
                path: entry.path(),
            });
        }
    }
    Ok(listed)
}

/// Collects the block writes of one apply: adjacent records become one write.
#[derive(Debug)]
pub(crate) struct BlockWriter<'a> {
    store: &'a BlockStore,
    open: Vec<OpenChunk>,
    ready: Vec<Chunk>,
    dropped: BlockCut,
}

#[derive(Debug)]
struct OpenChunk {
    key: BlockKey,
    start: u32,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Chunk {
    key: BlockKey,
    start: u32,
    bytes: Bytes,
}

impl BlockWriter<'_> {
    /// Makes the records readable. Called before other readers can see the state that names them.
    pub(crate) fn publish(&mut self) {
        for chunk in self.open.drain(..) {
            self.ready.push(chunk.close());
        }
        if !self.ready.is_empty() {
            let mut cache = self.store.cache.lock();
            for chunk in &self.ready {
                cache.insert(chunk.clone());
            }
        }
        let mut pending = self.store.pending.lock();
        pending
            .dirty
            .extend(self.ready.iter().map(|chunk| chunk.key));
        pending
            .dropped_blocks
            .append(&mut self.dropped.dropped_blocks);
        pending
            .dropped_streams
            .append(&mut self.dropped.dropped_streams);
    }

    /// Writes the records to their files, and only then lets the cache forget.
    pub(crate) fn write_out(self) -> Result<(), StorageError> {
        for chunk in &self.ready {
            self.store.write(chunk)?;
        }
        if !self.ready.is_empty() {
            self.store.cache.lock().evict();
        }
        Ok(())
    }
}

impl BlockSink for BlockWriter<'_> {
    fn append(&mut self, at: &Location, record: &[&[u8]]) {
        let key = key_of(at);
        let position = self.open.iter().position(|chunk| chunk.key == key);
        if let Some(position) = position {
            let chunk = &mut self.open[position];
            let end = chunk.start as usize + chunk.bytes.len();
            if end == at.offset as usize && chunk.bytes.len() < CHUNK_BYTES_MAX {
                chunk.extend(record);
                return;
            }
            let full = self.open.swap_remove(position);
            self.ready.push(full.close());
        }
        let mut chunk = OpenChunk {
            key,
            start: at.offset,
            bytes: Vec::with_capacity(at.len as usize),
        };
        chunk.extend(record);
        self.open.push(chunk);
    }

    fn drop_block(&mut self, stream: StreamUid, block: BlockId) {
        self.dropped.dropped_blocks.insert((stream.0, block.0));
    }

    fn drop_stream(&mut self, stream: StreamUid) {
        self.dropped.dropped_streams.insert(stream.0);
    }
}

impl OpenChunk {
    fn extend(&mut self, record: &[&[u8]]) {
        for piece in record {
            self.bytes.extend_from_slice(piece);
        }
    }

    /// What it grew by in advance is given back: the cache counts what is in it.
    fn close(self) -> Chunk {
        let mut bytes = self.bytes;
        bytes.shrink_to_fit();
        Chunk {
            key: self.key,
            start: self.start,
            bytes: Bytes::from(bytes),
        }
    }
}

#[derive(Debug, Default)]
struct Files {
    open: BTreeMap<BlockKey, (Arc<File>, u64)>,
    uses: u64,
}

impl Files {
    fn get(&mut self, key: BlockKey) -> Option<Arc<File>> {
        self.uses += 1;
        let (file, used) = self.open.get_mut(&key)?;
        *used = self.uses;
        Some(Arc::clone(file))
    }

    fn put(&mut self, key: BlockKey, file: Arc<File>) {
        if self.open.len() >= OPEN_FILES_MAX {
            let oldest = self.open.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.open.remove(&oldest);
            }
        }
        self.uses += 1;
        self.open.insert(key, (file, self.uses));
    }

    fn close(&mut self, key: BlockKey) {
        self.open.remove(&key);
    }

    fn close_stream(&mut self, stream: u64) {
        self.open.retain(|key, _| key.0 != stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(stream: u64, block: u32, offset: u32, len: u32) -> Location {
        Location {
            stream: StreamUid(stream),
            block: BlockId(block),
            offset,
            len,
        }
    }

    /// A record with this payload and nothing else (`unibus_state::record`).
    pub(super) fn record(payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0u8; 32];
        bytes[4..8].copy_from_slice(&(32 + payload.len() as u32).to_le_bytes());
        bytes[8] = 1;
        bytes.extend_from_slice(payload);
        let crc = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn write(store: &BlockStore, records: &[(Location, &[u8])]) {
        let mut writer = store.writer();
        for (at, record) in records {
            writer.append(at, &[record]);
        }
        writer.publish();
        writer.write_out().unwrap();
    }

    #[test]
    fn records_are_read_back_from_cache_and_from_file() {
        for cache_bytes in [0, 1 << 20] {
            let dir = tempfile::tempdir().unwrap();
            let store = BlockStore::open(dir.path().join("b"), cache_bytes).unwrap();
            let (one, four, xy) = (record(b"one"), record(b"four"), record(b"xy"));
            let (a, b, c) = (at(1, 0, 0, 35), at(1, 0, 35, 36), at(2, 7, 100, 34));
            write(&store, &[(a, &one), (c, &xy), (b, &four)]);
            assert_eq!(store.read(&a).unwrap(), one);
            assert_eq!(store.read(&b).unwrap(), four);
            assert_eq!(store.read(&c).unwrap(), xy);
            assert_eq!(store.cached_bytes(), if cache_bytes == 0 { 0 } else { 105 });
            assert!(matches!(
                store.read(&at(1, 0, 500, 3)),
                Err(StorageError::Missing { .. })
            ));
        }
    }

    #[test]
    fn dropped_files_go_only_when_the_cut_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlockStore::open(dir.path().join("b"), 0).unwrap();
        let (one, two) = (record(b"one"), record(b"two"));
        let (a, b) = (at(1, 0, 0, 35), at(1, 1, 0, 35));
        write(&store, &[(a, &one), (b, &two)]);
        let mut writer = store.writer();
        writer.drop_block(StreamUid(1), BlockId(0));
        writer.publish();
        writer.write_out().unwrap();
        let cut = store.cut();
        store.sync(&cut).unwrap();
        assert_eq!(store.read(&a).unwrap(), one);
        store.remove_dropped(&cut);
        assert!(store.read(&a).is_err());
        assert_eq!(store.read(&b).unwrap(), two);
    }

    #[test]
    fn retain_deletes_what_is_not_live() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlockStore::open(dir.path().join("b"), 0).unwrap();
        let (one, two) = (record(b"one"), record(b"two"));
        let (a, b) = (at(1, 0, 0, 35), at(2, 0, 0, 35));
        write(&store, &[(a, &one), (b, &two)]);
        store.retain(&BTreeSet::from([(2, 0)])).unwrap();
        assert!(store.read(&a).is_err());
        assert_eq!(store.read(&b).unwrap(), two);
    }

    #[test]
    fn a_block_that_is_not_what_was_written_is_found_and_mended_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlockStore::open(dir.path().join("b"), 0).unwrap();
        let (one, two) = (record(b"one"), record(b"two"));
        let (a, b) = (at(1, 0, 0, 35), at(1, 0, 35, 35));
        write(&store, &[(a, &one), (b, &two)]);
        let key = (1, 0);
        assert_eq!(store.check(key, 70).unwrap(), None);
        let path = store.path(key);
        let whole = fs::read(&path).unwrap();
        let link = dir.path().join("link");
        fs::hard_link(&path, &link).unwrap();
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x20;
            fs::write(&path, &bad).unwrap();
            let expected = if at < 16 + 35 { 0 } else { 35 };
            assert_eq!(store.check(key, 70).unwrap(), Some(expected), "{at}");
            store
                .patch(key, expected, &whole[16 + expected as usize..])
                .unwrap();
            assert_eq!(store.check(key, 70).unwrap(), None);
            assert_eq!(
                fs::read(&link).unwrap(),
                whole,
                "what shares it is mended too"
            );
        }
        assert!(matches!(store.check(key, 71).unwrap(), Some(70)));
        fs::remove_file(&path).unwrap();
        assert_eq!(store.check(key, 70).unwrap(), Some(0));
        store.patch(key, 0, &whole[16..]).unwrap();
        assert_eq!(store.read(&b).unwrap(), two);
        assert!(matches!(
            store.read(&at(1, 0, 36, 34)),
            Err(StorageError::Damaged { .. })
        ));
    }
}
