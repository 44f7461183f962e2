//! Checkpoints: a cut of the state taken between two applies, made durable beside them. The order
//! makes every crash recoverable: block files are synced before the rows that name them, rows before
//! the snapshot's final name, and nothing is deleted before that.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use unibus_state::{BlockMeta, RowOp, State};

use crate::blocks::{BlockCut, BlockKey, BlockStore, file_bytes};
use crate::codec;
use crate::errors::{StartError, StorageError};
use crate::manifest::{BlockEntry, FileEntry, Manifest};
use crate::rows::{RowStore, read_rows_file, write_rows_file};
use crate::snapshot::{PartialSnapshot, SnapshotDir, open_newest, verify};
use crate::types::SnapshotMeta;

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
    /// holds. So the log must go on where the checkpoint ends; if it was purged beyond that, nothing
    /// is touched. Without a checkpoint the files stay: they may be all that is left.
    pub(crate) fn sweep(&self, purged: u64) -> Result<(), StartError> {
        let checkpoint = self.meta.last_log_id.map_or(0, |id| id.index);
        if purged > checkpoint {
            return Err(StartError::Gap { purged, checkpoint });
        }
        if !self.is_empty {
            let live = live_keys(&self.state.live_blocks());
            self.store.blocks.retain(&live)?;
        }
        Ok(())
    }
}

impl CheckpointStore {
    /// Opens the newest state that is on disk: sled's rows, or the newest snapshot if it is newer
    /// (an install was interrupted) or if sled does not open.
    pub(crate) fn open(
        data_dir: &Path,
        blocks: Arc<BlockStore>,
        sled_cache_bytes: u64,
    ) -> Result<Opened, StorageError> {
        let snapshots = data_dir.join(SNAPSHOTS);
        let rows_dir = data_dir.join(ROWS);
        let current = open_newest(&snapshots)?;
        let loaded = match load_sled(&rows_dir, sled_cache_bytes) {
            Ok(loaded) => loaded,
            Err(error) if !error.is_damage() => return Err(error),
            Err(error) => {
                set_aside(&rows_dir, &error)?;
                let rows = RowStore::open(&rows_dir, sled_cache_bytes)?;
                Loaded { rows, found: None }
            }
        };
        let store = Self {
            snapshots,
            blocks,
            rows: Mutex::new(Some(loaded.rows)),
            current: Mutex::new(current.clone()),
            installs: AtomicU64::new(0),
            needs_full: AtomicBool::new(false),
        };
        let found_at = loaded.found.as_ref().map(|(_, meta)| meta.last_log_id);
        let newer = current
            .filter(|snapshot| found_at.is_none_or(|at| at < snapshot.manifest.meta.last_log_id));
        let is_empty = newer.is_none() && loaded.found.is_none();
        let (state, meta) = match (newer, loaded.found) {
            (Some(snapshot), _) => {
                tracing::info!(
                    index = snapshot.manifest.index(),
                    "restoring from the snapshot"
                );
                let state = store.restore(&snapshot)?;
                (state, snapshot.manifest.meta.clone())
            }
            (None, Some(found)) => found,
            (None, None) => (State::new(), SnapshotMeta::default()),
        };
        Ok(Opened {
            store,
            state,
            meta,
            is_empty,
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
        if cut.full {
            let puts = cut.ops.iter().filter_map(|op| match op {
                RowOp::Put { key, value } => Some(Ok((key.clone(), value.clone()))),
                RowOp::Delete { .. } => None,
            });
            rows.replace(puts, &meta_bytes)?;
        } else {
            rows.apply(cut.ops.clone(), &meta_bytes)?;
            rows.sync()?;
        }
        let partial = PartialSnapshot::create(&self.snapshots, BUILDING)?;
        let rows_entry = write_rows_file(&partial.file(crate::manifest::ROWS_FILE), rows.rows())?;
        let blocks = self.link_blocks(&partial, &cut.live)?;
        partial.finish(Manifest {
            meta: cut.meta.clone(),
            rows: rows_entry,
            blocks,
        })
    }

    /// Hard-links the live blocks into the snapshot. Digests of sealed blocks that the last
    /// snapshot listed are taken from it, so each block is read once in its life.
    fn link_blocks(
        &self,
        partial: &PartialSnapshot,
        live: &[BlockMeta],
    ) -> Result<Vec<BlockEntry>, StorageError> {
        let known: BTreeMap<BlockKey, BlockEntry> = self
            .current()
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
            let entry = BlockEntry {
                stream: key.0,
                block: key.1,
                sealed: block.sealed,
                file: FileEntry { len, digest },
            };
            self.blocks.link_out(key, &partial.file(&entry.name()))?;
            entries.push(entry);
        }
        entries.sort_by_key(|entry| (entry.stream, entry.block));
        Ok(entries)
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
        let state = load_state(read_rows_file(&snapshot.rows_path())?)?;
        let mut linked = BlockCut::default();
        for entry in &snapshot.manifest.blocks {
            let key = (entry.stream, entry.block);
            self.blocks.link_in(key, &snapshot.file(&entry.name()))?;
            linked.dirty.insert(key);
        }
        self.blocks.sync(&linked)?;
        let meta_bytes = encode_meta(&snapshot.manifest.meta)?;
        rows.replace(read_rows_file(&snapshot.rows_path())?, &meta_bytes)?;
        Ok(state)
    }

    fn replace_current(&self, snapshot: &Arc<SnapshotDir>) {
        let old = self.current.lock().replace(Arc::clone(snapshot));
        if let Some(old) = old
            && old.manifest.meta.last_log_id != snapshot.manifest.meta.last_log_id
        {
            old.supersede();
        }
    }
}

fn closed() -> StorageError {
    StorageError::Sled("closed".to_owned())
}

struct Loaded {
    rows: RowStore,
    found: Option<(State, SnapshotMeta)>,
}

fn load_sled(dir: &Path, cache_bytes: u64) -> Result<Loaded, StorageError> {
    let rows = RowStore::open(dir, cache_bytes)?;
    let found = match rows.meta()? {
        None => None,
        Some(meta) => {
            let meta = codec::decode_snapshot_meta(&meta)
                .map_err(|error| StorageError::Rows(error.to_string()))?;
            Some((load_state(rows.rows())?, meta))
        }
    };
    Ok(Loaded { rows, found })
}

fn load_state(
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

/// Moves a database that does not open out of the way, as evidence.
fn set_aside(dir: &Path, error: &StorageError) -> Result<(), StorageError> {
    let mut aside = dir.with_extension("bad");
    for number in 1..100 {
        if !aside.exists() {
            break;
        }
        aside = dir.with_extension(format!("bad{number}"));
    }
    tracing::error!(from = %dir.display(), to = %aside.display(), %error,
        "the rows database does not open: set aside, rebuilding it from snapshot and log");
    fs::rename(dir, &aside).map_err(StorageError::io("set aside", dir))
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
