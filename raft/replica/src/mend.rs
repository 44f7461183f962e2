//! Mending block files: the messages that the state names must be what was written. A background scrub
//! reads every block now and then, at a bounded rate, and a read that fails says so at once. What is
//! damaged is copied aside, fetched from a peer and written where it belongs.
//!
//! The bytes of a block are the same on every replica (the state assigns every place), each record has
//! its checksum, and those of a snapshot's blocks have a digest: a peer's bytes are believed only with
//! both. The file is mended in place, so that a snapshot that shares it is mended too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use unibus_proto::NodeId;
use unibus_state::{BlockMeta, Effect, first_damaged};

use crate::blocks::{BlockKey, file_bytes};
use crate::errors::StorageError;
use crate::quarantine::Quarantine;
use crate::replica::{GROUP, Inner};
use crate::transfer::{CHUNK_BYTES, encode_block_request};
use crate::transport::{RpcClass, TransportError};

/// Pause between two attempts at what could not be mended.
const RETRY: Duration = Duration::from_secs(10);
/// A block that is being written may be read in the middle of a write: damage must last this long.
const SETTLE: Duration = Duration::from_millis(100);
/// Longest wait for one piece of a block.
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);
/// Blocks that wait to be looked at; the scrub finds what is not noted.
const SUSPECTS_MAX: usize = 65_536;

/// Why a block can't be mended for now.
#[derive(Debug, thiserror::Error)]
enum MendError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("no other node is connected")]
    Nobody,
    #[error("node {0}: {1}")]
    Peer(NodeId, TransportError),
    #[error("node {0} has other bytes, damaged ones, or not yet all of them")]
    NoHelp(NodeId),
    #[error("reading the file: {0}")]
    Join(#[from] tokio::task::JoinError),
}

/// Blocks that are or may be damaged.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    waiting: Mutex<BTreeSet<BlockKey>>,
    wake: Notify,
    /// Damaged and not mended yet, with what was found.
    damaged: Mutex<BTreeMap<BlockKey, String>>,
    mended: AtomicU64,
}

impl Suspects {
    /// A read of this block failed.
    pub(crate) fn note(&self, key: BlockKey) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < SUSPECTS_MAX {
            waiting.insert(key);
        }
        self.wake.notify_one();
    }

    /// How many blocks are damaged now.
    pub(crate) fn damaged(&self) -> usize {
        self.damaged.lock().len()
    }

    /// How many blocks have been mended since the start.
    pub(crate) fn mended(&self) -> u64 {
        self.mended.load(Ordering::Relaxed)
    }

    fn take(&self) -> BTreeSet<BlockKey> {
        let mut taken = std::mem::take(&mut *self.waiting.lock());
        taken.extend(self.damaged.lock().keys());
        taken
    }
}

/// Mends what is noted, at once and then until it works.
pub(crate) async fn run(inner: Arc<Inner>, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        let pass = async {
            for key in inner.shared.suspects.take() {
                look_and_mend(&inner, key).await;
            }
            let again = inner.shared.suspects.damaged() > 0;
            tokio::select! {
                () = inner.shared.suspects.wake.notified() => {}
                () = tokio::time::sleep(RETRY), if again => {}
            }
        };
        tokio::select! {
            _ = stop.changed() => break,
            () = pass => {}
        }
    }
}

/// Reads every block now and then. The first pass only looks whether the files are there and long enough.
pub(crate) async fn scrub(inner: Arc<Inner>, mut stop: watch::Receiver<bool>) {
    let passes = async {
        for block in live(&inner) {
            let (shared, key) = (Arc::clone(&inner.shared), key_of(&block));
            let there = tokio::task::spawn_blocking(move || shared.blocks.file_len(key));
            if !matches!(there.await, Ok(Ok(len)) if len >= file_bytes(block.len)) {
                inner.shared.suspects.note(key);
            }
        }
        let rate = inner.options.scrub_bytes_per_second;
        if rate == 0 {
            return;
        }
        loop {
            tokio::time::sleep(inner.options.scrub_pause).await;
            for block in live(&inner) {
                let started = Instant::now();
                let (shared, key) = (Arc::clone(&inner.shared), key_of(&block));
                let checking =
                    tokio::task::spawn_blocking(move || shared.blocks.check(key, block.len));
                if !matches!(checking.await, Ok(Ok(None))) {
                    inner.shared.suspects.note(key);
                }
                let due = Duration::from_secs_f64(file_bytes(block.len) as f64 / rate as f64);
                tokio::time::sleep_until(started + due).await;
            }
        }
    };
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = passes => {}
    }
}

fn key_of(block: &BlockMeta) -> BlockKey {
    (block.stream.0, block.block.0)
}

fn live(inner: &Inner) -> Vec<BlockMeta> {
    let mut blocks = inner.shared.state.read().live_blocks();
    blocks.retain(|block| block.len > 0);
    blocks
}

/// A block as it is now: how many bytes it must have, and where the first bad one is.
struct Patient {
    key: BlockKey,
    len: u32,
    bad_from: u32,
}

async fn look_and_mend(inner: &Arc<Inner>, key: BlockKey) {
    match look(inner, key).await {
        Ok(None) => {
            if inner.shared.suspects.damaged.lock().remove(&key).is_some() {
                tracing::info!(stream = key.0, block = key.1, "the block is whole again");
            }
        }
        Ok(Some(patient)) => {
            let path = inner.shared.blocks.path(key);
            let found = format!(
                "{} is damaged from byte {} on",
                path.display(),
                file_bytes(patient.bad_from)
            );
            let is_new = {
                let mut damaged = inner.shared.suspects.damaged.lock();
                damaged.insert(key, found.clone()).is_none()
            };
            if is_new {
                tracing::error!(damage = %found, "a block of messages is damaged: asking the other nodes");
            }
            match mend(inner, &patient, is_new.then_some(found)).await {
                Ok(from) => {
                    inner.shared.suspects.damaged.lock().remove(&key);
                    inner.shared.suspects.mended.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(path = %path.display(), %from, "the block is mended");
                    tell_again(inner, key);
                }
                Err(error) if is_new => {
                    tracing::error!(path = %path.display(), %error,
                        "the block can't be mended now: reads of it fail; trying again");
                }
                Err(error) => {
                    tracing::debug!(path = %path.display(), %error, "the block can't be mended now");
                }
            }
        }
        Err(error) => {
            tracing::error!(stream = key.0, block = key.1, %error, "a block can't be read")
        }
    }
}

/// What is wrong with a block, if anything is, and the state still needs it.
async fn look(inner: &Arc<Inner>, key: BlockKey) -> Result<Option<Patient>, MendError> {
    let mut last = None;
    for attempt in 0..2 {
        if attempt > 0 {
            tokio::time::sleep(SETTLE).await;
        }
        let block = live(inner).into_iter().find(|block| key_of(block) == key);
        let Some(block) = block else {
            return Ok(None);
        };
        let shared = Arc::clone(&inner.shared);
        let bad =
            tokio::task::spawn_blocking(move || shared.blocks.check(key, block.len)).await??;
        let Some(bad_from) = bad else {
            return Ok(None);
        };
        last = Some(Patient {
            key,
            len: block.len,
            bad_from,
        });
    }
    Ok(last)
}

/// Sets a copy aside, finds the bytes and writes them. Answers with the node that had them.
async fn mend(
    inner: &Arc<Inner>,
    patient: &Patient,
    found: Option<String>,
) -> Result<NodeId, MendError> {
    let Patient { key, len, bad_from } = *patient;
    let peers = peers(inner);
    let mut last = MendError::Nobody;
    for peer in peers {
        let bytes = match fetch(inner, peer, patient).await {
            Ok(bytes) => bytes,
            Err(error) => {
                last = error;
                continue;
            }
        };
        let shared = Arc::clone(&inner.shared);
        let damaged_dir = inner.options.damaged_dir();
        let why = found.clone();
        let written = tokio::task::spawn_blocking(move || -> Result<bool, StorageError> {
            let mut whole = shared.blocks.read_prefix(key, bad_from)?;
            whole.extend_from_slice(&bytes);
            if first_damaged(&whole).is_some() || !shared.store.agrees(key, &whole) {
                return Ok(false);
            }
            if let Some(why) = why {
                let name = format!("{:016x}-{:08x}.blk", key.0, key.1);
                let aside = Quarantine::create(&damaged_dir, &why)?;
                aside.copy(&shared.blocks.path(key), &name)?;
            }
            shared.blocks.patch(key, bad_from, &bytes)?;
            shared.store.relink(key)?;
            Ok(shared.blocks.check(key, len)?.is_none())
        });
        if written.await?? {
            return Ok(peer);
        }
        last = MendError::NoHelp(peer);
    }
    Err(last)
}

/// The connected members, this node left out.
fn peers(inner: &Inner) -> Vec<NodeId> {
    let status = inner.status();
    let connected = inner.transport.connected();
    let members = status.voters.into_keys().chain(status.learners.into_keys());
    members.filter(|id| connected.contains(id)).collect()
}

/// The bytes of a block from the first bad one to its end.
async fn fetch(inner: &Inner, peer: NodeId, patient: &Patient) -> Result<Bytes, MendError> {
    let mut bytes = BytesMut::with_capacity((patient.len - patient.bad_from) as usize);
    let mut at = patient.bad_from;
    while at < patient.len {
        let len = (patient.len - at).min(u32::try_from(CHUNK_BYTES).unwrap_or(u32::MAX));
        let request = encode_block_request(patient.key, at, len);
        let call = inner
            .transport
            .call(peer, RpcClass::Snapshot, GROUP, request);
        let lost = || TransportError::Lost(peer, "no answer in time".to_owned());
        let piece = tokio::time::timeout(PIECE_TIMEOUT, call)
            .await
            .unwrap_or_else(|_| Err(lost()))
            .map_err(|error| MendError::Peer(peer, error))?;
        if piece.len() != len as usize {
            return Err(MendError::NoHelp(peer));
        }
        bytes.put(piece);
        at += len;
    }
    Ok(bytes.freeze())
}

/// Who follows the control plane's records may have met some that could not be read.
fn tell_again(inner: &Inner, key: BlockKey) {
    let name = {
        let state = inner.shared.state.read();
        let mut streams = state.streams();
        let stream = streams.find(|stream| stream.uid().0 == key.0 && stream.is_control());
        stream.map(|stream| stream.name().clone())
    };
    if let Some(name) = name {
        inner.shared.tell(&[Effect::StreamUpdated { name }]);
    }
}
