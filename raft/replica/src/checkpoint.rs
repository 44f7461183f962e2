//! Checkpoints: a cut of the state taken between two applies, made durable beside them. The order
//! makes every crash recoverable: block files are synced before the rows that name them, rows before
//! the snapshot's final name, and nothing is deleted before that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use unibus_state::{BlockMeta, RowOp, State};

use crate::blocks::{BlockCut, BlockKey, BlockStore, file_bytes, remove_quietly};
use crate::codec;
use crate::errors::StorageError;
use crate::indexes::{self, Indexes, sealed_row};
use crate::manifest::{BlockEntry, FileEntry, Manifest, index_name};
use crate::quarantine::Quarantine;
use crate::rows::{RowStore, read_hashing, read_rows_file, write_rows_file};
use crate::snapshot::{Newest, PartialSnapshot, SnapshotDir, verify};
use crate::types::{LogId, SnapshotMeta, StoredMembership};

/// Folder of the snapshots in the data folder.
const SNAPSHOTS: &str = "snapshots";
/// Folder of the sled database in the data folder.
const ROWS: &str = "rows";
/// Name of a checkpoint that is being built.
const BUILDING: &str = "building";

/// The durable side of the state machine.
#[derive(Debug)]
pub(crate) struct CheckpointStore {
    snapshots: PathBuf,
    blocks: Arc<BlockStore>,
    /// Held for the whole of a build or an install: they exclude each other. `None` once closed.
    rows: Mutex<Option<RowStore>>,
    current: Mutex<Option<Arc<SnapshotDir>>>,
    /// Counts installs: a cut taken before one must not be written after it.
    installs: AtomicU64,
    /// The last cut was lost, so the next one needs every row.
    needs_full: AtomicBool,
}

/// The index files that a checkpoint wrote.
type Written = BTreeMap<BlockKey, FileEntry>;

/// What a checkpoint has to write; taken while no entry is applied.
#[derive(Debug)]
pub(crate) struct Cut {
    meta: SnapshotMeta,
    ops: Vec<RowOp>,
    full: bool,
    live: Vec<BlockMeta>,
    blocks: BlockCut,
    installs: u64,
}

/// What opening found.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: CheckpointStore,
    pub(crate) state: State,
    pub(crate) meta: SnapshotMeta,
    /// There is no checkpoint at all.
    is_empty: bool,
}

impl Opened {
    /// Deletes the block files that the checkpoint does not name: they are of entries that the log
    /// holds. Without a checkpoint the files stay: they may be all that is left.
    pub(crate) fn sweep(&self) -> Result<(), StorageError> {
        if !self.is_empty {
            let live = live_keys(&self.state.live_blocks());
            self.store.blocks.retain(&live)?;
        }
        Ok(())
    }
}

impl CheckpointStore {
    /// Looks at what is on disk and says what can't be mended here. Changes nothing but the database,
    /// which finishes its own recovery when it opens.
    ///
    /// The newest snapshot is what counts. sled is a second copy of its rows, believed only where their
    /// digest is the one in the manifest; either copy mends the other.
    pub(crate) fn look(data_dir: &Path, sled_cache_bytes: u64) -> Result<Looked, StorageError> {
        let newest = Newest::find(&data_dir.join(SNAPSHOTS))?;
        let rows_dir = data_dir.join(ROWS);
        let (rows, fault) = match open_rows(&rows_dir, sled_cache_bytes) {
            Ok(rows) => (Some(rows), None),
            Err(error) if !error.is_damage() => return Err(error),
            Err(error) => (None, Some(error.to_string())),
        };
        let mut looked = Looked {
            newest,
            rows,
            fault,
            state: None,
            indexes: Indexes::default(),
        };
        if let Some(snapshot) = &looked.newest.snapshot {
            looked.indexes = Indexes::look(snapshot, &data_dir.join(crate::store::BLOCKS))?;
        }
        let indexes = &looked.indexes;
        if let Some(snapshot) = &looked.newest.snapshot
            && let Some(rows) = &looked.rows
            && indexes.lost().next().is_none()
        {
            match guarded(|| read_copy(rows, snapshot, indexes)) {
                Ok(Copy::Same(state)) => looked.state = Some((*state)?),
                Ok(Copy::Other) => {}
                Ok(Copy::Damaged) => {
                    looked.fault = Some("its rows are not those of the snapshot".to_owned());
                }
                Err(error) => looked.fault = Some(error.to_string()),
            }
        }
        Ok(looked)
    }

    /// Opens the newest state, mending or setting aside what [`CheckpointStore::look`] found.
    pub(crate) fn open(
        data_dir: &Path,
        blocks: Arc<BlockStore>,
        looked: Looked,
        options: &CheckpointOptions,
    ) -> Result<Opened, StorageError> {
        let snapshots = data_dir.join(SNAPSHOTS);
        let rows_dir = data_dir.join(ROWS);
        std::fs::create_dir_all(&snapshots).map_err(StorageError::io("create", &snapshots))?;
        looked.newest.tidy(&options.damaged_dir)?;
        let rows = match (looked.rows, looked.fault) {
            (Some(rows), None) => rows,
            (rows, fault) => {
                drop(rows);
                let why = format!("{}: {}", rows_dir.display(), fault.unwrap_or_default());
                tracing::error!(%why, "the rows database is set aside and made anew");
                Quarantine::create(&options.damaged_dir, &why)?.take(&rows_dir)?;
                RowStore::open(&rows_dir, options.sled_cache_bytes)?
            }
        };
        let current = looked.newest.snapshot;
        let store = Self {
            snapshots,
            blocks,
            rows: Mutex::new(Some(rows)),
            current: Mutex::new(current.clone()),
            installs: AtomicU64::new(0),
            // Without a snapshot the state begins empty, and what the database holds is not its. One
            // that keeps indexes in the rows is of an older version, or was made by hand.
            needs_full: AtomicBool::new(current.as_ref().is_none_or(|snapshot| {
                let blocks = &snapshot.manifest.blocks;
                blocks
                    .iter()
                    .any(|block| block.sealed && block.index.is_none())
            })),
        };
        let is_empty = current.is_none();
        let (state, meta) = match (current, looked.state) {
            (None, _) => (State::new(), SnapshotMeta::default()),
            (Some(snapshot), Some(state)) => {
                looked.indexes.mend(&options.damaged_dir)?;
                store.mend_rows_file(&snapshot, &options.damaged_dir)?;
                (state, snapshot.manifest.meta.clone())
            }
            (Some(snapshot), None) => {
                tracing::info!(
                    index = snapshot.manifest.index(),
                    "restoring from the snapshot"
                );
                looked.indexes.mend(&options.damaged_dir)?;
                let state = store.restore(&snapshot)?;
                (state, snapshot.manifest.meta.clone())
            }
        };
        Ok(Opened {
            store,
            state,
            meta,
            is_empty,
        })
    }

    /// Writes the snapshot's copy of the rows again if that is damaged, from the database, whose rows
    /// are the same.
    fn mend_rows_file(&self, snapshot: &SnapshotDir, damaged: &Path) -> Result<(), StorageError> {
        if snapshot.rows_are_whole {
            return Ok(());
        }
        let rows = self.rows.lock();
        let rows = rows.as_ref().ok_or_else(closed)?;
        let path = snapshot.rows_path();
        let why = format!("{}: not what the manifest says", path.display());
        tracing::error!(%why, "set aside and written again from the rows database");
        Quarantine::create(damaged, &why)?.take(&path)?;
        if write_rows_file(&path, rows.rows())? == snapshot.manifest.rows {
            return Ok(());
        }
        Err(StorageError::Damaged {
            path,
            reason: "what was written again is not what the manifest says".to_owned(),
        })
    }

    /// The newest complete snapshot.
    pub(crate) fn current(&self) -> Option<Arc<SnapshotDir>> {
        self.current.lock().clone()
    }

    /// Where snapshots and transfers live.
    pub(crate) fn root(&self) -> &Path {
        &self.snapshots
    }

    /// Size of the sled database, bytes; `None` while a checkpoint holds it and once it is closed.
    pub(crate) fn sled_bytes(&self) -> Option<u64> {
        let rows = self.rows.try_lock()?;
        rows.as_ref().map(RowStore::size_bytes)
    }

    /// Closes the database, after what is being written. Blocking. Nothing can be built or installed
    /// afterwards, so another instance may open the folder.
    pub(crate) fn close(&self) {
        drop(self.rows.lock().take());
    }

    /// Takes the cut. Called between two applies; costs what changed since the last one.
    pub(crate) fn cut(&self, state: &mut State, meta: SnapshotMeta) -> Cut {
        let full = self.needs_full.swap(false, Ordering::AcqRel);
        let mut ops = Vec::new();
        state.dump_rows(full, &mut |op| ops.push(op));
        Cut {
            meta,
            ops,
            full,
            live: state.live_blocks(),
            blocks: self.blocks.cut(),
            installs: self.installs.load(Ordering::Acquire),
        }
    }

    /// Makes a cut durable and answers with the snapshot. Blocking; runs beside apply. On failure
    /// nothing durable is lost: unless `is_last`, the same cut can be tried again, else the next cut
    /// is a full one.
    pub(crate) fn build(
        &self,
        cut: &mut Cut,
        is_last: bool,
    ) -> Result<Arc<SnapshotDir>, StorageError> {
        let rows = self.rows.lock();
        let rows = rows.as_ref().ok_or_else(closed)?;
        if cut.installs != self.installs.load(Ordering::Acquire) {
            // The state was replaced since. What replaced it is newer.
            return self.current().ok_or_else(|| {
                StorageError::Rows("the state was replaced during the checkpoint".to_owned())
            });
        }
        match self.try_build(rows, cut) {
            Ok(snapshot) => {
                let snapshot = Arc::new(snapshot);
                self.replace_current(&snapshot);
                self.blocks.remove_dropped(&cut.blocks);
                Ok(snapshot)
            }
            Err(error) => {
                if is_last {
                    self.needs_full.store(true, Ordering::Release);
                    self.blocks.uncut(std::mem::take(&mut cut.blocks));
                }
                Err(error)
            }
        }
    }

    fn try_build(&self, rows: &RowStore, cut: &Cut) -> Result<SnapshotDir, StorageError> {
        let meta_bytes = encode_meta(&cut.meta)?;
        self.blocks.sync(&cut.blocks)?;
        let partial = PartialSnapshot::create(&self.snapshots, BUILDING)?;
        let indexes = self.write_indexes(&partial, cut)?;
        let others = cut.ops.iter().map(|op| match sealed_row(op) {
            Some((block, key, _)) if indexes.contains_key(&block) => {
                RowOp::Delete { key: key.to_vec() }
            }
            _ => op.clone(),
        });
        if cut.full {
            let puts = others.filter_map(|op| match op {
                RowOp::Put { key, value } => Some(Ok((key, value))),
                RowOp::Delete { .. } => None,
            });
            rows.replace(puts, &meta_bytes)?;
        } else {
            rows.apply(others, &meta_bytes)?;
            rows.sync()?;
        }
        let written = write_rows_file(&partial.file(crate::manifest::ROWS_FILE), rows.rows())?;
        let blocks = self.link_blocks(&partial, &cut.live, &indexes)?;
        partial.finish(Manifest {
            meta: cut.meta.clone(),
            rows: written,
            blocks,
        })
    }

    /// Writes the indexes of blocks that were sealed since the last checkpoint.
    fn write_indexes(&self, partial: &PartialSnapshot, cut: &Cut) -> Result<Written, StorageError> {
        let live = cut.live.iter().filter(|block| block.len > 0);
        let live: BTreeSet<BlockKey> = live.map(|block| (block.stream.0, block.block.0)).collect();
        let mut written = Written::new();
        for (block, key, value) in cut.ops.iter().filter_map(sealed_row) {
            // The others have no entry in the manifest that could name the file.
            if live.contains(&block) {
                let path = partial.file(&index_name(block));
                let entry = indexes::write(self.blocks.root(), (block, key, value), &path)?;
                written.insert(block, entry);
            }
        }
        Ok(written)
    }

    /// Hard-links the live blocks and their indexes into the snapshot, `written` ones aside. Digests of
    /// sealed blocks that the last snapshot listed are taken from it, so each block is read once in its
    /// life.
    fn link_blocks(
        &self,
        partial: &PartialSnapshot,
        live: &[BlockMeta],
        written: &Written,
    ) -> Result<Vec<BlockEntry>, StorageError> {
        let current = self.current();
        let known: BTreeMap<BlockKey, BlockEntry> = current
            .iter()
            .flat_map(|snapshot| &snapshot.manifest.blocks)
            .map(|entry| ((entry.stream, entry.block), *entry))
            .collect();
        let mut entries = Vec::with_capacity(live.len());
        for block in live.iter().filter(|block| block.len > 0) {
            let key = (block.stream.0, block.block.0);
            let len = file_bytes(block.len);
            let digest = match known.get(&key) {
                Some(entry) if entry.file.len == len => entry.file.digest,
                _ => self.blocks.digest(key, block.len)?,
            };
            let before = known.get(&key).and_then(|entry| entry.index);
            let entry = BlockEntry {
                stream: key.0,
                block: key.1,
                sealed: block.sealed,
                file: FileEntry { len, digest },
                index: written.get(&key).copied().or(before),
            };
            self.blocks.link_out(key, &partial.file(&entry.name()))?;
            if let Some(current) = &current
                && entry.index.is_some()
                && !written.contains_key(&key)
            {
                let to = partial.file(&entry.index_name());
                indexes::link(current, self.blocks.root(), &entry, &to)?;
            }
            entries.push(entry);
        }
        entries.sort_by_key(|entry| (entry.stream, entry.block));
        Ok(entries)
    }

    /// Whether the newest snapshot, as far as it knows the block, wants these bytes in it.
    pub(crate) fn agrees(&self, key: BlockKey, body: &[u8]) -> bool {
        let Some(entry) = self.current().and_then(|snapshot| snapshot.block(key)) else {
            return true;
        };
        let head = self.blocks.header(key);
        let covered = usize::try_from(entry.file.len).unwrap_or(usize::MAX);
        let Some(part) = body.get(..covered.saturating_sub(head.len())) else {
            return false;
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&head).update(part);
        *hasher.finalize().as_bytes() == entry.file.digest
    }

    /// Makes the newest snapshot share the block's file again, where it has lost its own.
    pub(crate) fn relink(&self, key: BlockKey) -> Result<(), StorageError> {
        let Some(snapshot) = self.current() else {
            return Ok(());
        };
        let Some(entry) = snapshot.block(key) else {
            return Ok(());
        };
        let path = snapshot.file(&entry.name());
        if verify(&path, &entry.file).is_ok() {
            return Ok(());
        }
        remove_quietly(&path);
        self.blocks.link_out(key, &path)
    }

    /// Makes a received snapshot the base: blocks and rows are replaced by its own. Blocking. The
    /// snapshot has its final name already, so a crash in between is repaired at the next open.
    pub(crate) fn install(&self, snapshot: &Arc<SnapshotDir>) -> Result<State, StorageError> {
        self.installs.fetch_add(1, Ordering::AcqRel);
        let state = self.restore(snapshot)?;
        self.blocks.retain(&live_keys(&state.live_blocks()))?;
        self.needs_full.store(false, Ordering::Release);
        self.replace_current(snapshot);
        Ok(state)
    }

    fn restore(&self, snapshot: &SnapshotDir) -> Result<State, StorageError> {
        let rows = self.rows.lock();
        let rows = rows.as_ref().ok_or_else(closed)?;
        verify(&snapshot.rows_path(), &snapshot.manifest.rows)?;
        let indexes = Indexes::look(snapshot, self.blocks.root())?.complete()?;
        let state = load_state(read_rows_file(&snapshot.rows_path())?.chain(indexes.rows()))?;
        indexes.replace()?;
        let mut linked = BlockCut::default();
        for entry in &snapshot.manifest.blocks {
            let key = (entry.stream, entry.block);
            match self.blocks.link_in(key, &snapshot.file(&entry.name())) {
                Ok(()) => drop(linked.dirty.insert(key)),
                // The messages in it can be had from peers; see `mend`.
                Err(error) if error.is_absence() => {
                    tracing::error!(%error, "a block file of the snapshot is missing");
                }
                Err(error) => return Err(error),
            }
        }
        self.blocks.sync(&linked)?;
        let meta_bytes = encode_meta(&snapshot.manifest.meta)?;
        rows.replace(read_rows_file(&snapshot.rows_path())?, &meta_bytes)?;
        Ok(state)
    }

    fn replace_current(&self, snapshot: &Arc<SnapshotDir>) {
        let old = self.current.lock().replace(Arc::clone(snapshot));
        if let Some(old) = old.filter(|old| !old.is_same(snapshot)) {
            old.supersede();
        }
    }
}

fn closed() -> StorageError {
    StorageError::Sled("closed".to_owned())
}

/// What looking at the checkpoint found.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) newest: Newest,
    rows: Option<RowStore>,
    /// The database is damaged, with how it shows.
    fault: Option<String>,
    /// The state, where the database's rows are those of the newest snapshot.
    state: Option<State>,
    /// Of the newest snapshot.
    indexes: Indexes,
}

impl Looked {
    /// What can't be mended from what is here: with it, acknowledged entries may be gone.
    pub(crate) fn lost(&self) -> Vec<String> {
        let mut lost: Vec<String> = self.indexes.lost().collect();
        if !lost.is_empty() {
            return lost;
        }
        match &self.newest.snapshot {
            Some(snapshot) if !snapshot.rows_are_whole && self.state.is_none() => {
                let path = snapshot.rows_path();
                let fault = self.fault.as_deref().unwrap_or("it is of another time");
                lost.push(format!(
                    "{} is not what its manifest says, and the rows database is no copy of it ({fault})",
                    path.display()
                ));
            }
            _ => {}
        }
        lost
    }

    /// The last entry that need not be in the log.
    pub(crate) fn last(&self) -> Option<LogId> {
        let snapshot = self.newest.snapshot.as_ref();
        snapshot.and_then(|snapshot| snapshot.manifest.meta.last_log_id)
    }

    /// Index up to which entries need not be in the log.
    pub(crate) fn index(&self) -> u64 {
        self.last().map_or(0, |last| last.index)
    }

    /// The members of the newest snapshot.
    pub(crate) fn membership(&self) -> Option<&StoredMembership> {
        let snapshot = self.newest.snapshot.as_ref();
        snapshot.map(|snapshot| &snapshot.manifest.meta.last_membership)
    }

    /// There are traces of a checkpoint, usable or not.
    pub(crate) fn has_traces(&self) -> bool {
        self.newest.snapshot.is_some() || !self.newest.damaged.is_empty()
    }
}

/// What opening a checkpoint takes.
#[derive(Clone, Debug)]
pub(crate) struct CheckpointOptions {
    /// Where what is damaged is set aside.
    pub(crate) damaged_dir: PathBuf,
    /// Cache of the database, bytes.
    pub(crate) sled_cache_bytes: u64,
}

/// What the database is to a snapshot.
enum Copy {
    /// It holds the same rows; the state that they make, or why this version can't read them.
    Same(Box<Result<State, StorageError>>),
    /// It was cut elsewhere in the log, or is empty.
    Other,
    /// It says that it holds the same rows and does not.
    Damaged,
}

fn read_copy(
    rows: &RowStore,
    snapshot: &SnapshotDir,
    indexes: &Indexes,
) -> Result<Copy, StorageError> {
    let Some(meta) = rows.meta()? else {
        return Ok(Copy::Other);
    };
    let meta = codec::decode_snapshot_meta(&meta)
        .map_err(|error| StorageError::Rows(error.to_string()))?;
    if meta.last_log_id != snapshot.manifest.meta.last_log_id {
        return Ok(Copy::Other);
    }
    let (state, entry) = read_hashing(rows.rows(), |rows| load_state(rows.chain(indexes.rows())))?;
    Ok(match entry == snapshot.manifest.rows {
        true => Copy::Same(Box::new(state)),
        false => Copy::Damaged,
    })
}

fn open_rows(dir: &Path, cache_bytes: u64) -> Result<RowStore, StorageError> {
    guarded(|| RowStore::open(dir, cache_bytes))
}

/// sled panics on some kinds of damage; that is an answer like any other.
fn guarded<T>(look: impl FnOnce() -> Result<T, StorageError>) -> Result<T, StorageError> {
    let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(look));
    looked.unwrap_or_else(|_| Err(StorageError::Sled("it can't be read".to_owned())))
}

pub(crate) fn load_state(
    rows: impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StorageError>>,
) -> Result<State, StorageError> {
    let mut failure = None;
    let rows = rows.map_while(|row| match row {
        Ok(row) => Some(row),
        Err(error) => {
            failure = Some(error);
            None
        }
    });
    let state = State::load_rows(rows);
    match failure {
        Some(error) => Err(error),
        None => state.map_err(|error| StorageError::Rows(error.to_string())),
    }
}

fn live_keys(live: &[BlockMeta]) -> BTreeSet<BlockKey> {
    live.iter()
        .map(|block| (block.stream.0, block.block.0))
        .collect()
}

fn encode_meta(meta: &SnapshotMeta) -> Result<Vec<u8>, StorageError> {
    codec::encode_snapshot_meta(meta)
        .map(|bytes| bytes.to_vec())
        .map_err(|error| StorageError::Rows(error.to_string()))
}
