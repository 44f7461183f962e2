//! Making a store for a node that begins with a state which it did not come to by itself: from a backup,
//! or from what is left of a store. The node is a new one and the only voter of its cluster; others join it
//! empty. Written beside and renamed, so that there is either no store or a whole one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use openraft::storage::RaftLogStorage;
use unibus_proto::NodeId;

use crate::belonging::ClusterId;
use crate::blocks::sync_dir;
use crate::errors::StorageError;
use crate::identity::{self, Identity};
use crate::log::{Log, LogError, LogOptions};
use crate::manifest::{FileEntry, Manifest};
use crate::options::STORE;
use crate::replica::GROUP;
use crate::snapshot::PartialSnapshot;
use crate::store::LOG;
use crate::types::{LeaderId, Membership, Peer, SnapshotMeta, StoredMembership, Vote};

/// Name of a store that is being made, in the node's folder.
const MAKING: &str = "store.new";
/// Name of the snapshot that is being made in it.
const SEED: &str = "seed";

/// Why no store was made. Nothing that was there has changed.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// There is a node already.
    #[error("{} is there: a store is only made in a folder without one; name another with --data-dir, or move it away", .0.display())]
    Occupied(PathBuf),
    /// The disk refused, or what is read is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The log can't be made.
    #[error("the log can't be made: {0}")]
    Log(String),
    /// What is read holds no entry at all.
    #[error("there is nothing in it: no entry was ever applied")]
    Empty,
}

impl From<LogError> for SeedError {
    fn from(error: LogError) -> Self {
        Self::Log(error.to_string())
    }
}

impl From<std::io::Error> for SeedError {
    fn from(error: std::io::Error) -> Self {
        Self::Log(error.to_string())
    }
}

/// What was made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seeded {
    /// The new node's id.
    pub id: NodeId,
    /// Index of the last entry that it holds.
    pub index: u64,
    /// Names of the members that the state comes from.
    pub members: Vec<String>,
    /// Bytes of rows and messages.
    pub bytes: u64,
}

/// A store that is being made.
#[derive(Debug)]
pub(crate) struct Seed {
    home: PathBuf,
    making: PathBuf,
    name: String,
    identity: Identity,
    snapshot: PartialSnapshot,
}

impl Seed {
    /// Starts one for the node `name` in `home`, which must hold no node.
    pub(crate) fn begin(home: &Path, name: &str) -> Result<Self, SeedError> {
        for taken in [home.join(STORE), home.join(identity::FILE)] {
            if taken.exists() {
                return Err(SeedError::Occupied(taken));
            }
        }
        Self::begin_beside(home, name)
    }

    /// Starts one beside the store that is there.
    pub(crate) fn begin_beside(home: &Path, name: &str) -> Result<Self, SeedError> {
        let making = home.join(MAKING);
        if making.exists() {
            // Of an attempt that did not end: nothing in it was ever used.
            fs::remove_dir_all(&making).map_err(StorageError::io("clear", &making))?;
        }
        crate::disk::make_folder(&making).map_err(StorageError::io("create", &making))?;
        let snapshot = PartialSnapshot::create(&making.join("snapshots"), SEED)?;
        snapshot.mark_received()?;
        Ok(Self {
            home: home.to_owned(),
            making,
            name: name.to_owned(),
            identity: Identity::fresh().with_store(),
            snapshot,
        })
    }

    /// Where one of the snapshot's files goes. The caller writes and syncs it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.snapshot.file(name)
    }

    /// Where the new store's own block files go, for those that are made beside the snapshot.
    pub(crate) fn blocks(&self) -> PathBuf {
        self.making.join(crate::store::BLOCKS)
    }

    /// Ends it: the files are those of `manifest`, all synced. `make_room` moves what is in the way.
    pub(crate) fn finish(
        self,
        manifest: Manifest,
        make_room: impl FnOnce() -> Result<(), StorageError>,
    ) -> Result<Seeded, SeedError> {
        let last = manifest.meta.last_log_id.ok_or(SeedError::Empty)?;
        let files = manifest.files();
        for (name, entry) in &files {
            sync_file(&self.snapshot.file(name), entry)?;
        }
        let membership = manifest.meta.last_membership.membership();
        let members = membership.nodes().map(|(_, peer)| peer.name.clone());
        let seeded = Seeded {
            id: self.identity.id(),
            index: last.index,
            members: members.collect(),
            bytes: files.iter().map(|(_, entry)| entry.len).sum(),
        };
        let alone = manifest_of(manifest, self.identity.id(), &self.name)?;
        self.snapshot.finish(alone)?;
        seed_log(&self.making.join(LOG), self.identity.id(), last)?;
        identity::write(&self.making, &self.identity)?;
        make_room()?;
        identity::write(&self.home, &self.identity)?;
        let store = self.home.join(STORE);
        fs::rename(&self.making, &store).map_err(StorageError::io("rename", &store))?;
        sync_dir(&self.home)?;
        Ok(seeded)
    }
}

fn sync_file(path: &Path, entry: &FileEntry) -> Result<(), StorageError> {
    crate::snapshot::verify(path, entry)?;
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(StorageError::io("sync", path))
}

/// The same content, of a cluster that has this one voter.
fn manifest_of(manifest: Manifest, id: NodeId, name: &str) -> Result<Manifest, StorageError> {
    // What follows is another history than that of the cluster it comes from: nodes of that one, which may
    // still be there, must not take part in this one.
    let peer = Peer {
        name: name.to_owned(),
        cluster: Some(ClusterId::of([id.0])),
    };
    let voters = vec![BTreeSet::from([id.0])];
    let membership = Membership::new(voters, BTreeMap::from([(id.0, peer)]))
        .map_err(|error| StorageError::Rows(error.to_string()))?;
    let last_log_id = manifest.meta.last_log_id;
    Ok(Manifest {
        meta: SnapshotMeta {
            last_log_id,
            last_membership: StoredMembership::new(last_log_id, membership),
        },
        ..manifest
    })
}

/// A log that begins after `last`, in the term after it.
fn seed_log(dir: &Path, id: NodeId, last: crate::types::LogId) -> Result<(), SeedError> {
    let (log, _) = Log::open(dir, LogOptions::default())?;
    let mut group = log.group(GROUP);
    let vote = Vote {
        leader_id: LeaderId {
            term: last.leader_id.term + 1,
            node_id: id.0,
        },
        committed: false,
    };
    let writing = async {
        group.purge(last).await?;
        group.save_vote(&vote).await
    };
    futures::executor::block_on(writing)?;
    Ok(())
}
