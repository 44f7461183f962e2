//! Making a store out of what is left of one, when there is no majority that could replace it: the newest
//! checkpoint and the entries behind it, as far as they can be read. What cannot be read is lost, and
//! entries that were never acknowledged may come to count: whoever runs this has said that he accepts it.
//! The old store is set aside, never deleted.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use openraft::EntryPayload;
use unibus_state::{BlockMeta, RowOp, State, decode_entry};

use crate::blocks::{BlockStore, file_bytes};
use crate::checkpoint::load_state;
use crate::errors::StorageError;
use crate::identity;
use crate::indexes::Indexes;
use crate::log::{Log, Salvaged, salvage};
use crate::manifest::{BlockEntry, FileEntry, Manifest};
use crate::options::STORE;
use crate::quarantine::{self, Quarantine};
use crate::replica::GROUP;
use crate::rows::{read_rows_file, write_rows_file};
use crate::seed::{Seed, SeedError, Seeded};
use crate::snapshot::{Newest, SnapshotDir};
use crate::store::{BLOCKS, LOG, REJOIN, newer};
use crate::types::{SnapshotMeta, StoredMembership};

/// What is left of a store.
#[derive(Debug)]
pub struct Remains {
    store: PathBuf,
    snapshot: Option<std::sync::Arc<SnapshotDir>>,
    log: Option<Salvaged>,
    /// What is wrong with it.
    pub damage: Vec<String>,
    /// Index of the newest usable checkpoint's last entry; 0 if there is none.
    pub checkpoint: u64,
    /// Index of the last entry that can be recovered.
    pub last: u64,
    /// Names of the members, as of the last change of them that can be read.
    pub members: Vec<String>,
}

impl Remains {
    /// Looks at the store in `store` (a node's `store`, or one that was set aside). Changes nothing, and
    /// fails while a node runs on it. Blocking.
    ///
    /// # Errors
    /// [`SeedError`].
    pub fn look(store: &Path) -> Result<Self, SeedError> {
        let newest = Newest::find(&store.join("snapshots"))?;
        let mut damage: Vec<String> = newest.damaged.iter().map(|(_, why)| why.clone()).collect();
        let mut snapshot = newest.snapshot.filter(|snapshot| {
            if !snapshot.rows_are_whole {
                let path = snapshot.rows_path();
                damage.push(format!("{} is not what its manifest says", path.display()));
            }
            snapshot.rows_are_whole
        });
        if let Some(found) = &snapshot {
            let lost: Vec<String> = Indexes::look(found, &store.join(BLOCKS))?.lost().collect();
            if !lost.is_empty() {
                damage.extend(lost);
                snapshot = None;
            }
        }
        let dir = store.join(LOG);
        let log = match Log::is_in(&dir) {
            true => Some(salvage(&dir, GROUP)?),
            false => None,
        };
        match &log {
            Some(log) => damage.extend(log.damage.clone()),
            None => damage.push(format!("{} is missing", dir.display())),
        }
        let checkpoint = snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.manifest.index());
        let mut last = checkpoint;
        if let Some((first, end)) = log.as_ref().and_then(Salvaged::range) {
            match first > checkpoint + 1 {
                true => damage.push(format!(
                    "entries {} to {} are missing",
                    checkpoint + 1,
                    first - 1
                )),
                false => last = last.max(end),
            }
        }
        let members = newer(
            snapshot
                .as_ref()
                .map(|snapshot| snapshot.manifest.meta.last_membership.clone()),
            log.as_ref().and_then(Salvaged::membership),
        );
        let members = members.map(|members| {
            let nodes = members.membership().nodes();
            nodes.map(|(_, peer)| peer.name.clone()).collect()
        });
        Ok(Self {
            store: store.to_owned(),
            snapshot,
            log,
            damage,
            checkpoint,
            last,
            members: members.unwrap_or_default(),
        })
    }

    /// Makes a new store in `home` out of it, for a new node `name` that is its cluster's only voter. What
    /// `home` has now is set aside. Blocking. Answers also with what could not be recovered.
    ///
    /// # Errors
    /// [`SeedError`]; then everything is as it was.
    pub fn recover(self, home: &Path, name: &str) -> Result<(Seeded, Vec<String>), SeedError> {
        if self.last == 0 {
            return Err(SeedError::Empty);
        }
        let seed = Seed::begin_beside(home, name)?;
        let blocks = BlockStore::open(seed.blocks(), 0)?;
        let mut lost = self.damage.clone();
        let (mut state, mut meta) = self.load(&blocks, &mut lost)?;
        self.replay(&mut state, &mut meta, &blocks)?;
        let manifest = contents(&seed, &mut state, meta, &blocks, &mut lost)?;
        let why = format!("recovered by an operator from {}", self.store.display());
        // The old log's lock goes with this.
        drop(self);
        let seeded = seed.finish(manifest, || {
            let aside = Quarantine::create(&home.join(quarantine::FOLDER), &why)?;
            for taken in [STORE, identity::FILE, REJOIN] {
                aside.take(&home.join(taken))?;
            }
            Ok(())
        })?;
        Ok((seeded, lost))
    }

    /// The state of the checkpoint, with its messages copied into `blocks`.
    fn load(
        &self,
        blocks: &BlockStore,
        lost: &mut Vec<String>,
    ) -> Result<(State, SnapshotMeta), SeedError> {
        let Some(snapshot) = &self.snapshot else {
            return Ok((State::new(), SnapshotMeta::default()));
        };
        let indexes = Indexes::look(snapshot, &self.store.join(BLOCKS))?.complete()?;
        let state = load_state(read_rows_file(&snapshot.rows_path())?.chain(indexes.rows()))?;
        for entry in &snapshot.manifest.blocks {
            let key = (entry.stream, entry.block);
            let own = self.store.join(BLOCKS).join(BlockStore::name(key));
            let found = [snapshot.file(&entry.name()), own]
                .into_iter()
                .find(|path| path.exists());
            match found {
                // A copy: what comes behind is written into it.
                Some(path) => blocks.copy_in(key, &path)?,
                None => lost.push(format!("{} is missing", entry.name())),
            }
        }
        Ok((state, snapshot.manifest.meta.clone()))
    }

    /// Applies the entries behind the checkpoint.
    fn replay(
        &self,
        state: &mut State,
        meta: &mut SnapshotMeta,
        blocks: &BlockStore,
    ) -> Result<(), SeedError> {
        let Some(log) = self.log.as_ref().filter(|_| self.last > self.checkpoint) else {
            return Ok(());
        };
        log.for_each(self.checkpoint + 1, |entry| {
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Membership(membership) => {
                    meta.last_membership = StoredMembership::new(Some(entry.log_id), membership);
                }
                EntryPayload::Normal(batch) => {
                    let decoded = decode_entry(&batch.0).map_err(io::Error::other)?;
                    let mut writer = blocks.writer();
                    state.apply(entry.log_id.index, &decoded, &mut writer);
                    writer.publish();
                    writer.write_out()?;
                }
            }
            meta.last_log_id = Some(entry.log_id);
            Ok(())
        })?;
        Ok(())
    }
}

/// Writes rows and links blocks into the seed.
fn contents(
    seed: &Seed,
    state: &mut State,
    meta: SnapshotMeta,
    blocks: &BlockStore,
    lost: &mut Vec<String>,
) -> Result<Manifest, SeedError> {
    let mut rows = BTreeMap::new();
    state.dump_rows(true, &mut |op| match op {
        RowOp::Put { key, value } => drop(rows.insert(key, value)),
        RowOp::Delete { .. } => {}
    });
    let rows = write_rows_file(
        &seed.file(crate::manifest::ROWS_FILE),
        rows.into_iter().map(Ok),
    )?;
    let mut entries = Vec::new();
    for block in state
        .live_blocks()
        .into_iter()
        .filter(|block| block.len > 0)
    {
        entries.push(link(seed, &block, blocks, lost)?);
    }
    entries.sort_by_key(|entry| (entry.stream, entry.block));
    Ok(Manifest {
        meta,
        rows,
        blocks: entries,
    })
}

fn link(
    seed: &Seed,
    block: &BlockMeta,
    blocks: &BlockStore,
    lost: &mut Vec<String>,
) -> Result<BlockEntry, SeedError> {
    let key = (block.stream.0, block.block.0);
    if let Some(from) = blocks.check(key, block.len)? {
        lost.push(format!(
            "messages of stream {} from byte {} of block {} on",
            key.0,
            file_bytes(from),
            key.1
        ));
        // The length must be right; what is missing reads as damaged ever after.
        blocks.patch(key, block.len, &[])?;
        let file = OpenOptions::new().write(true).open(blocks.path(key));
        file.and_then(|file| {
            let len = file.metadata()?.len().max(file_bytes(block.len));
            file.set_len(len)
        })
        .map_err(StorageError::io("extend", blocks.path(key)))?;
    }
    let entry = BlockEntry {
        stream: key.0,
        block: key.1,
        sealed: block.sealed,
        file: FileEntry {
            len: file_bytes(block.len),
            digest: blocks.digest(key, block.len)?,
        },
        // In the rows, which hold everything here.
        index: None,
    };
    blocks.link_out(key, &seed.file(&entry.name()))?;
    Ok(entry)
}

/// The stores of a node: its own, if there is one, and those that were set aside, newest first.
#[must_use]
pub fn stores_of(home: &Path) -> Vec<PathBuf> {
    let mut stores: Vec<PathBuf> = fs::read_dir(home.join(quarantine::FOLDER))
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path().join(STORE))
        .collect();
    stores.sort_by(|a, b| b.cmp(a));
    stores.insert(0, home.join(STORE));
    stores.retain(|store| store.is_dir());
    stores
}
