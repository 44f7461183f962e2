//! Opening what a node has on disk, before anything is said to peers: who it is, whether its log and
//! checkpoint are what it once synced, and what to do if they are not.
//!
//! A node whose log, vote or checkpoint is damaged may have acknowledged and promised things that it no
//! longer knows. Under its old identity it must never vote or count again. So its store is set aside as a
//! whole and it begins as another node of the same name that has nothing: the members that are left
//! admit it in the place of the old one, which takes a majority of the old voters without it, and feed
//! it. Until then it forms no cluster, gives no vote and counts for nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use unibus_proto::NodeId;

use crate::belonging::{Belonging, Elsewhere};
use crate::blocks::{BlockStore, list, sync_dir};
use crate::checkpoint::{CheckpointOptions, CheckpointStore, Looked, Opened};
use crate::codec;
use crate::errors::{Damage, StartError, StorageError};
use crate::identity::{self, Found, Identity};
use crate::log::{Log, LogOptions, salvage};
use crate::machine::since;
use crate::options::ReplicaOptions;
use crate::quarantine::Quarantine;
use crate::types::{LogId, StoredMembership};

/// Folders in the store.
pub(crate) const LOG: &str = "log";
pub(crate) const BLOCKS: &str = "blocks";
/// Says that this node lost its store and has not been admitted again. In the node's folder.
pub(crate) const REJOIN: &str = "rejoin";

/// What to do when something is damaged that only peers can replace.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum OnDamage {
    /// Change nothing and say what is damaged: there is nobody to ask.
    Refuse,
    /// Set the store aside and begin as a new node that waits to be admitted. A node that is its
    /// cluster's only voter refuses all the same.
    Rejoin,
}

/// What a node has on disk, open. [`crate::Replica::start`] runs on it.
#[derive(Debug)]
pub struct OpenStore {
    pub(crate) options: ReplicaOptions,
    pub(crate) id: NodeId,
    pub(crate) log: Log,
    pub(crate) opened: Opened,
    pub(crate) blocks: Arc<BlockStore>,
    pub(crate) rejoin: Option<Rejoin>,
    pub(crate) belonging: Arc<Belonging>,
}

impl OpenStore {
    /// Opens the store of a node, or makes an empty one. Blocking: it reads the whole log.
    ///
    /// # Errors
    /// [`StartError::Damaged`] names what is damaged and the command that may help; other errors are of
    /// the system, or of another version's formats. Whatever the error, nothing was changed.
    pub fn open(options: ReplicaOptions, on_damage: OnDamage) -> Result<Self, StartError> {
        let home = options.home.as_path();
        let rejoin = Rejoin::read(home);
        match examine(&options)? {
            Examined::Whole(whole) => finish(options, *whole, rejoin),
            Examined::Damaged { found, sole_voter } => {
                let damage = Damage {
                    found,
                    home: home.to_owned(),
                };
                if on_damage == OnDamage::Refuse || sole_voter {
                    return Err(StartError::Damaged(damage));
                }
                let rejoin = start_over(&options, &damage)?;
                match examine(&options)? {
                    Examined::Whole(whole) => finish(options, *whole, Some(rejoin)),
                    Examined::Damaged { found, .. } => Err(StartError::Damaged(Damage {
                        found,
                        home: options.home,
                    })),
                }
            }
        }
    }

    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Which cluster the node belongs to, kept up to date while it runs.
    #[must_use]
    pub fn belonging(&self) -> Arc<Belonging> {
        Arc::clone(&self.belonging)
    }

    /// Whether the node lost its store and waits to be admitted by the others.
    pub fn is_rejoining(&self) -> bool {
        self.rejoin.is_some()
    }
}

/// What looking at a store found.
enum Examined {
    Whole(Box<Whole>),
    Damaged {
        found: Vec<String>,
        /// By what can be read the node is the only voter: nobody else has what it lost.
        sole_voter: bool,
    },
}

struct Whole {
    identity: Identity,
    log: Log,
    looked: Looked,
}

/// Looks at everything. Changes nothing but copies of the identity, and what a log does at every start:
/// it is made if nothing was there before, and its torn tail is cut.
fn examine(options: &ReplicaOptions) -> Result<Examined, StartError> {
    let (home, store) = (options.home.as_path(), options.data_dir.as_path());
    let log_dir = store.join(LOG);
    let had_log = Log::is_in(&log_dir);
    let looked = CheckpointStore::look(store, options.sled_cache_bytes)?;
    let mut found = Vec::new();
    let (identity, had_store) = who(home, store, had_log || looked.has_traces(), &mut found)?;
    if had_store && !had_log {
        found.push(format!("{} is missing", log_dir.display()));
    }
    found.extend(looked.lost());
    let mut log = None;
    if found.is_empty() {
        match Log::open(&log_dir, log_options(options)) {
            Ok((opened, _report)) => log = Some(opened),
            Err(error) if error.is_damage() => found.push(error.to_string()),
            Err(error) => return Err(StartError::Log(error.to_string())),
        }
    }
    if let Some(log) = &log {
        found.extend(gap(log, &looked));
    }
    match (log, identity) {
        (Some(log), Some(identity)) if found.is_empty() => Ok(Examined::Whole(Box::new(Whole {
            identity,
            log,
            looked,
        }))),
        (log, _) => {
            // Its lock goes with it.
            drop(log);
            Ok(Examined::Damaged {
                sole_voter: is_sole_voter(&looked, &log_dir)?,
                found,
            })
        }
    }
}

/// Whether there is one voter only, by the newest checkpoint or by what the log has behind it: a change of
/// members may be younger than any checkpoint.
fn is_sole_voter(looked: &Looked, log_dir: &Path) -> Result<bool, StartError> {
    let mut newest = looked.membership().cloned();
    if Log::is_in(log_dir) {
        let left = salvage(log_dir, crate::replica::GROUP);
        let left = left.map_err(|error| StartError::Log(error.to_string()))?;
        newest = newer(newest, left.membership());
    }
    Ok(newest.is_some_and(|members| members.membership().voter_ids().count() == 1))
}

/// The one of the later entry.
pub(crate) fn newer(
    one: Option<StoredMembership>,
    other: Option<StoredMembership>,
) -> Option<StoredMembership> {
    let later = |members: &StoredMembership| since(members);
    one.into_iter().chain(other).max_by_key(later)
}

fn log_options(options: &ReplicaOptions) -> LogOptions {
    LogOptions {
        segment_bytes: options.log_segment_bytes,
        cache_bytes: options.log_cache_bytes,
        spares_max: spares_max(options),
        ..LogOptions::default()
    }
}

/// As many as checkpoints free: the log of the one before is kept, and while one is written the log grows.
fn spares_max(options: &ReplicaOptions) -> usize {
    const CHECKPOINTS: u64 = 4;
    let logged = options.checkpoint_log_bytes.saturating_mul(CHECKPOINTS);
    let segments = logged.div_ceil(options.log_segment_bytes.max(1));
    usize::try_from(segments)
        .unwrap_or(usize::MAX)
        .min(options.log_spares_max)
}

/// Log and checkpoint must meet: entries that are in neither are gone.
fn gap(log: &Log, looked: &Looked) -> Option<String> {
    let group = log.group(crate::replica::GROUP);
    let (purged, last, checkpoint) = (group.purged_index(), group.last_index(), looked.index());
    if purged > checkpoint {
        let broken: Vec<&str> = looked
            .newest
            .damaged
            .iter()
            .map(|(_, why)| why.as_str())
            .collect();
        return Some(format!(
            "the log begins after entry {purged} and the newest usable checkpoint ends with entry \
             {checkpoint}{}{}",
            if broken.is_empty() { "" } else { ": " },
            broken.join(", ")
        ));
    }
    let received = looked
        .newest
        .snapshot
        .as_ref()
        .is_some_and(|snapshot| snapshot.is_received());
    if received {
        return None;
    }
    if let Some((last, snapshot)) = conflict(log, looked) {
        return Some(format!(
            "the log ends with entry {last}, and the checkpoint was cut at entry {snapshot}, which it does not \
             hold"
        ));
    }
    (last < checkpoint).then(|| {
        format!(
            "the log ends with entry {last} and entries up to {checkpoint}, where the checkpoint was \
             cut, were in it"
        )
    })
}

/// The end of the log and the newest snapshot's last entry, where the log has another one in its place.
fn conflict(log: &Log, looked: &Looked) -> Option<(LogId, LogId)> {
    let last = log.group(crate::replica::GROUP).last()?;
    let snapshot = looked.last()?;
    (last < snapshot && last.index >= snapshot.index).then_some((last, snapshot))
}

/// Cuts the end of the log that a received snapshot contradicts, where the node was stopped between the
/// two. What a quorum acknowledged is in the snapshot, so entries of older terms beside its last one were
/// never acknowledged.
fn cut_conflict(log: &Log, looked: &Looked) -> Result<(), StartError> {
    let Some((last, snapshot)) = conflict(log, looked) else {
        return Ok(());
    };
    let group = log.group(crate::replica::GROUP);
    tracing::warn!(%last, %snapshot, "the end of the log is of before the snapshot that was received: cut");
    let cutting = async {
        group.truncate_before(snapshot.index).await?;
        group.sync().await
    };
    let cut = futures::executor::block_on(cutting);
    cut.map_err(|error| StartError::Log(error.to_string()))
}

/// Who this node is, and whether a store was made for it. Pushes to `found` if that can't be known.
/// A copy that is missing or damaged is written again from the other one.
fn who(
    home: &Path,
    store: &Path,
    has_traces: bool,
    found: &mut Vec<String>,
) -> Result<(Option<Identity>, bool), StartError> {
    let (outer, inner) = (identity::read(home)?, identity::read(store)?);
    let at = |folder: &Path| folder.join(identity::FILE);
    if let (Found::Whole(outer), Found::Whole(inner)) = (&outer, &inner)
        && !outer.is_same(inner)
    {
        return Err(StartError::TwoNodes {
            home: at(home),
            store: at(store),
        });
    }
    let damaged = [(home, &outer), (store, &inner)]
        .into_iter()
        .filter_map(|(folder, found)| match found {
            Found::Damaged(why) => Some((folder, format!("{}: {why}", at(folder).display()))),
            _ => None,
        });
    let damaged: Vec<(&Path, String)> = damaged.collect();
    let known = match (&outer, &inner) {
        (Found::Whole(outer), Found::Whole(_)) => Some(outer.with_store()),
        (Found::Whole(one), _) => Some(*one),
        (_, Found::Whole(one)) => Some(one.with_store()),
        _ => None,
    };
    let Some(identity) = known else {
        if damaged.is_empty() && !has_traces {
            let fresh = Identity::fresh();
            identity::write(home, &fresh)?;
            return Ok((Some(fresh), false));
        }
        found.extend(damaged.into_iter().map(|(_, why)| why));
        if found.is_empty() {
            found.push(format!("{} is missing", at(home).display()));
        }
        return Ok((None, has_traces));
    };
    for (folder, why) in damaged {
        tracing::error!(%why, "set aside and written again from its copy");
        Quarantine::create(&home.join(crate::quarantine::FOLDER), &why)?.take(&at(folder))?;
    }
    if outer != Found::Whole(identity) {
        identity::write(home, &identity)?;
    }
    Ok((Some(identity), identity.has_store || has_traces))
}

/// Opens what was found whole, and leaves the store with everything that a next start looks for.
fn finish(
    options: ReplicaOptions,
    whole: Whole,
    rejoin: Option<Rejoin>,
) -> Result<OpenStore, StartError> {
    let Whole {
        identity,
        log,
        looked,
    } = whole;
    let dir = &options.data_dir;
    let blocks = Arc::new(BlockStore::open(dir.join(BLOCKS), options.cache_bytes)?);
    let checkpoint_options = CheckpointOptions {
        damaged_dir: options.damaged_dir(),
        sled_cache_bytes: options.sled_cache_bytes,
    };
    cut_conflict(&log, &looked)?;
    let opened = CheckpointStore::open(dir, Arc::clone(&blocks), looked, &checkpoint_options)?;
    opened.sweep()?;
    // Log first, then the identity that says that there is one.
    let identity = identity.with_store();
    for folder in [dir.as_path(), &options.home] {
        if identity::read(folder)? != Found::Whole(identity) {
            identity::write(folder, &identity)?;
        }
    }
    let belonging = Belonging::read(dir)?;
    if let Some(id) = codec::cluster_of(opened.meta.last_membership.membership()) {
        belonging.confirm(id).map_err(|error| match error {
            Elsewhere::Storage(error) => StartError::Storage(error),
            Elsewhere::Other { .. } => StartError::Raft(error.to_string()),
        })?;
    }
    Ok(OpenStore {
        belonging: Arc::new(belonging),
        id: identity.id(),
        options,
        log,
        opened,
        blocks,
        rejoin,
    })
}

/// Sets the store and the identity aside and leaves a node that has nothing. A crash in between is
/// continued by the next start: the mark is there before anything moves.
fn start_over(options: &ReplicaOptions, damage: &Damage) -> Result<Rejoin, StartError> {
    let home = options.home.as_path();
    let why = damage.found.join("\n");
    let quarantine = Quarantine::create(&options.damaged_dir(), &why)?;
    tracing::error!(damaged = ?damage.found, to = %quarantine.path().display(),
        "the store is damaged and set aside: this node begins anew, and asks the others to admit it");
    let rejoin = Rejoin::write(home, quarantine.path(), &why)?;
    quarantine.take(&options.data_dir)?;
    quarantine.take(&home.join(identity::FILE))?;
    let store_name = options.data_dir.file_name().unwrap_or_default();
    let old = quarantine.path().join(store_name).join(BLOCKS);
    keep_blocks(&old, &options.data_dir.join(BLOCKS))?;
    Ok(rejoin)
}

/// Links block files into the new store: those that turn out to be what a snapshot wants need not be
/// sent. Whatever is not wanted is unlinked when a snapshot is installed.
fn keep_blocks(from: &Path, to: &Path) -> Result<(), StorageError> {
    for stream in list(from)? {
        let folder = to.join(&stream.name);
        fs::create_dir_all(&folder).map_err(StorageError::io("create", &folder))?;
        for block in list(&stream.path)? {
            let link = folder.join(&block.name);
            if !link.exists() {
                fs::hard_link(&block.path, &link).map_err(StorageError::io("link", &link))?;
            }
        }
        sync_dir(&folder)?;
    }
    Ok(())
}

/// The mark of a node that lost its store and has not been admitted again.
#[derive(Clone, Debug)]
pub(crate) struct Rejoin {
    home: PathBuf,
}

impl Rejoin {
    /// The mark in `home`. That it is there is all that counts.
    fn read(home: &Path) -> Option<Self> {
        home.join(REJOIN).exists().then(|| Self {
            home: home.to_owned(),
        })
    }

    fn write(home: &Path, aside: &Path, why: &str) -> Result<Self, StorageError> {
        let text = format!(
            "This node lost its store and waits to be admitted by the others of its cluster. It forms no\n\
             cluster while this file is here. Its old store is in {}:\n{why}\n",
            aside.display()
        );
        identity::write_whole(home, REJOIN, text.as_bytes())?;
        Ok(Self {
            home: home.to_owned(),
        })
    }

    /// The node votes again.
    pub(crate) fn is_over(&self) -> Result<(), StorageError> {
        let path = self.home.join(REJOIN);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StorageError::io("remove", path)(error))
            }
            _ => sync_dir(&self.home),
        }
    }
}
