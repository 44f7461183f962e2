//! Sending a snapshot to a peer and receiving one: manifest, then file chunks, then the request to
//! install. The receiver says what it has, so an interrupted transfer goes on where it stopped, and
//! blocks it holds already are not sent. Nothing is installed whose digests do not match.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::Mutex;
use unibus_proto::NodeId;

use crate::belonging::{ClusterId, ID_BYTES};
use crate::blocks::{BlockKey, BlockStore, digest_prefix};
use crate::codec;
use crate::disk;
use crate::errors::StorageError;
use crate::frame::{FrameError, Reader, put_bytes};
use crate::machine::{Shared, Snapshot};
use crate::manifest::{FileEntry, Manifest, ManifestError};
use crate::replica::{GROUP, RaftCore};
use crate::snapshot::{PartialSnapshot, SnapshotDir};
use crate::transport::{RpcClass, Transport, TransportError};
use crate::types::{SnapshotResponse, Vote};

const FORMAT: u8 = 1;
/// The sender's cluster stands behind the snapshot's id.
const FORMAT_IDENTIFIED: u8 = 2;
/// File bytes in one request.
pub(crate) const CHUNK_BYTES: u64 = 1 << 20;
/// Bytes of a request, at most: a manifest of 4 TiB in full blocks fits.
const REQUEST_BYTES_MAX: usize = 64 << 20;

const BEGIN: u8 = 1;
const CHUNK: u8 = 2;
const FINISH: u8 = 3;
/// Not part of a transfer: a piece of a block file, for a peer whose own is damaged.
const BLOCK: u8 = 4;

/// Asks for bytes of a block, by place in the state's terms.
pub(crate) fn encode_block_request(key: BlockKey, offset: u32, len: u32) -> Bytes {
    let mut out = head(BLOCK, &[0; 32], None);
    out.put_u64_le(key.0);
    out.put_u32_le(key.1);
    out.put_u32_le(offset);
    out.put_u32_le(len);
    out.freeze()
}

/// Whether a request is one of a leader that feeds this node, and not of another node that mends a block.
pub(crate) fn is_of_leader(request: &[u8]) -> bool {
    request.get(1) != Some(&BLOCK)
}

/// Answers [`encode_block_request`]. The asker checks what it gets.
fn read_block(mut input: Reader, shared: &Shared) -> Result<Bytes, ReceiveError> {
    let key = (input.u64()?, input.u32()?);
    let (offset, len) = (input.u32()?, input.u32()?);
    if u64::from(len) > CHUNK_BYTES {
        return Err(FrameError("too long a piece").into());
    }
    Ok(shared.blocks.read_range(key, offset, len)?)
}

/// Why a snapshot did not get through. All of these are worth another attempt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the receiver's answer makes no sense: {0}")]
    Frame(#[from] FrameError),
    #[error("the receiver's answer makes no sense: {0}")]
    Codec(#[from] codec::CodecError),
    #[error("reading a chunk: {0}")]
    Join(#[from] tokio::task::JoinError),
}

/// Sends a snapshot and has it installed. `cluster` is named to a peer that knows identities.
pub(crate) async fn send(
    transport: &Arc<dyn Transport>,
    (target, cluster): (NodeId, Option<ClusterId>),
    vote: &Vote,
    snapshot: &Arc<SnapshotDir>,
) -> Result<SnapshotResponse, SendError> {
    let call = |request: Bytes| transport.call(target, RpcClass::Snapshot, GROUP, request);
    let id = *blake3::hash(&snapshot.manifest_bytes).as_bytes();
    let mut begin = head(BEGIN, &id, cluster);
    put_bytes(&mut begin, &snapshot.manifest_bytes);
    let mut held = Reader::new(call(begin.freeze()).await?);
    let files = snapshot.manifest.files();
    tracing::info!(
        target = target.0,
        index = snapshot.manifest.index(),
        files = files.len(),
        "sending a snapshot"
    );
    for (number, (name, entry)) in files.iter().enumerate() {
        let mut offset = held.u64()?;
        while offset < entry.len {
            let len = CHUNK_BYTES.min(entry.len - offset);
            let path = snapshot.file(name);
            let bytes =
                tokio::task::spawn_blocking(move || read_chunk(&path, offset, len)).await??;
            let mut chunk = head(CHUNK, &id, cluster);
            chunk.put_u32_le(u32::try_from(number).map_err(|_| FrameError("too many files"))?);
            chunk.put_u64_le(offset);
            chunk.put_slice(&bytes);
            let next = Reader::new(call(chunk.freeze()).await?).u64()?;
            if next <= offset || next > entry.len {
                return Err(FrameError("offset").into());
            }
            offset = next;
        }
    }
    let mut finish = head(FINISH, &id, cluster);
    put_bytes(&mut finish, &codec::encode_vote(vote)?);
    let answer = call(finish.freeze()).await?;
    Ok(codec::decode_snapshot_response(&answer)?)
}

fn head(kind: u8, id: &[u8; 32], cluster: Option<ClusterId>) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u8(cluster.map_or(FORMAT, |_| FORMAT_IDENTIFIED));
    out.put_u8(kind);
    out.put_slice(id);
    if let Some(ClusterId(cluster)) = cluster {
        out.put_slice(&cluster);
    }
    out
}

/// The cluster that a request names; `None` too for what is no request.
pub(crate) fn cluster_named(request: &Bytes) -> Option<ClusterId> {
    let rest = request.strip_prefix(&[FORMAT_IDENTIFIED])?;
    let named = rest.get(1 + 32..1 + 32 + ID_BYTES)?;
    Some(ClusterId(named.try_into().ok()?))
}

fn read_chunk(path: &Path, offset: u64, len: u64) -> Result<Vec<u8>, StorageError> {
    let mut bytes = vec![0u8; usize::try_from(len).unwrap_or(0)];
    File::open(path)
        .and_then(|file| file.read_exact_at(&mut bytes, offset))
        .map_err(StorageError::io("read", path))?;
    Ok(bytes)
}

/// The receiving side. One transfer at a time; a different one replaces it.
#[derive(Debug, Default)]
pub(crate) struct Receiver {
    current: Mutex<Option<Incoming>>,
}

#[derive(Debug)]
struct Incoming {
    id: [u8; 32],
    manifest: Manifest,
    files: Vec<(String, FileEntry)>,
    partial: PartialSnapshot,
}

/// Why a request of a transfer was refused.
#[derive(Debug, thiserror::Error)]
enum ReceiveError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Codec(#[from] codec::CodecError),
    #[error("not the transfer that is under way")]
    Other,
    #[error("consensus: {0}")]
    Raft(String),
    #[error(transparent)]
    Join(#[from] tokio::task::JoinError),
}

impl Receiver {
    /// Serves one request of a transfer.
    pub(crate) async fn handle(
        &self,
        request: Bytes,
        shared: &Arc<Shared>,
        raft: &RaftCore,
    ) -> Result<Bytes, String> {
        self.serve(request, shared, raft)
            .await
            .map_err(|error| error.to_string())
    }

    async fn serve(
        &self,
        request: Bytes,
        shared: &Arc<Shared>,
        raft: &RaftCore,
    ) -> Result<Bytes, ReceiveError> {
        if request.len() > REQUEST_BYTES_MAX {
            return Err(FrameError("too long").into());
        }
        let mut input = Reader::new(request);
        let is_identified = match input.u8()? {
            FORMAT => false,
            FORMAT_IDENTIFIED => true,
            _ => return Err(FrameError("unknown format").into()),
        };
        let kind = input.u8()?;
        let id = input.digest()?;
        // Looked at before: see `cluster_named`.
        for _ in 0..if is_identified { ID_BYTES } else { 0 } {
            input.u8()?;
        }
        if kind == BLOCK {
            let shared = Arc::clone(shared);
            return tokio::task::spawn_blocking(move || read_block(input, &shared)).await?;
        }
        let mut current = self.current.lock().await;
        match kind {
            BEGIN => {
                let bytes = input.bytes()?;
                let shared = Arc::clone(shared);
                let (incoming, held) =
                    tokio::task::spawn_blocking(move || begin(id, &bytes, &shared)).await??;
                *current = Some(incoming);
                let mut answer = BytesMut::new();
                held.iter().for_each(|len| answer.put_u64_le(*len));
                Ok(answer.freeze())
            }
            CHUNK => {
                let incoming = current
                    .as_ref()
                    .filter(|incoming| incoming.id == id)
                    .ok_or(ReceiveError::Other)?;
                let next = incoming.write(input)?;
                Ok(Bytes::copy_from_slice(&next.to_le_bytes()))
            }
            FINISH => {
                // Another transfer's end leaves the one under way alone.
                let incoming = current
                    .take_if(|incoming| incoming.id == id)
                    .ok_or(ReceiveError::Other)?;
                let vote = codec::decode_vote(&input.bytes()?)?;
                finish(incoming, vote, shared, raft).await
            }
            _ => Err(FrameError("unknown request").into()),
        }
    }
}

/// Opens the folder of the transfer and answers, file by file, how many bytes are there already.
fn begin(
    id: [u8; 32],
    manifest: &Bytes,
    shared: &Shared,
) -> Result<(Incoming, Vec<u64>), ReceiveError> {
    if blake3::hash(manifest).as_bytes() != &id {
        return Err(FrameError("manifest id").into());
    }
    let manifest = Manifest::decode(manifest)?;
    let name = format!("incoming-{}", blake3::Hash::from(id).to_hex());
    drop_other_transfers(shared.store.root(), &name)?;
    let partial = PartialSnapshot::resume(shared.store.root(), &name)?;
    partial.mark_received()?;
    let files = manifest.files();
    for block in &manifest.blocks {
        let path = partial.file(&block.name());
        let key = (block.stream, block.block);
        // A block that this node wrote itself is the same block: no need to fetch it.
        if !path.exists()
            && let Ok(len) = u32::try_from(block.file.len - crate::blocks::file_bytes(0))
            && shared.blocks.digest(key, len).ok() == Some(block.file.digest)
        {
            shared.blocks.link_out(key, &path)?;
        }
    }
    link_indexes(&manifest, &partial, shared)?;
    let held = files
        .iter()
        .map(|(name, entry)| {
            let len = std::fs::metadata(partial.file(name)).map_or(0, |meta| meta.len());
            len.min(entry.len)
        })
        .collect();
    let incoming = Incoming {
        id,
        manifest,
        files,
        partial,
    };
    Ok((incoming, held))
}

/// An index that this node's own snapshot has need not be fetched either.
fn link_indexes(
    manifest: &Manifest,
    partial: &PartialSnapshot,
    shared: &Shared,
) -> Result<(), StorageError> {
    let Some(current) = shared.store.current() else {
        return Ok(());
    };
    for block in manifest.blocks.iter().filter(|block| block.index.is_some()) {
        let (own, path) = (
            current.block((block.stream, block.block)),
            partial.file(&block.index_name()),
        );
        if own.is_some_and(|own| own.index == block.index) && !path.exists() {
            let from = current.file(&block.index_name());
            std::fs::hard_link(&from, &path).map_err(StorageError::io("link", from))?;
        }
    }
    Ok(())
}

/// What earlier, different transfers left behind is of no use any more.
fn drop_other_transfers(root: &Path, name: &str) -> Result<(), StorageError> {
    for entry in crate::blocks::list(root)? {
        if entry.name.starts_with("incoming-") && !entry.name.starts_with(name) {
            std::fs::remove_dir_all(&entry.path)
                .map_err(StorageError::io("remove", &entry.path))?;
        }
    }
    Ok(())
}

impl Incoming {
    /// Writes a chunk and answers with the next offset wanted.
    fn write(&self, mut input: Reader) -> Result<u64, ReceiveError> {
        let number = input.u32()? as usize;
        let offset = input.u64()?;
        let bytes = input.rest();
        let (name, entry) = self.files.get(number).ok_or(FrameError("file number"))?;
        let end = offset + bytes.len() as u64;
        if bytes.is_empty() || end > entry.len {
            return Err(FrameError("chunk").into());
        }
        let path = self.partial.file(name);
        let write = || -> io::Result<()> {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)?;
            if file.metadata()?.len() != offset {
                return Err(io::Error::other("chunks are out of order"));
            }
            file.write_all_at(&bytes, offset)?;
            if end == entry.len {
                // One that may not get to the disk is fetched again, into another file.
                disk::sync_all(&file).inspect_err(|_| crate::blocks::remove_quietly(&path))?;
            }
            Ok(())
        };
        write().map_err(StorageError::io("write", &path))?;
        Ok(end)
    }

    /// Checks and syncs every file: some were complete when the transfer began, and blocks of this node's own
    /// may never have been synced. A file with a wrong digest is deleted, to be fetched again.
    fn verify(&self, blocks: &BlockStore) -> Result<(), StorageError> {
        for (name, entry) in &self.files {
            let path = self.partial.file(name);
            if digest_prefix(&path, entry.len)? != entry.digest {
                crate::blocks::remove_quietly(&path);
                return Err(StorageError::Damaged {
                    path,
                    reason: "received with a wrong digest".to_owned(),
                });
            }
            blocks
                .sync_file(&path)
                .inspect_err(|_| crate::blocks::remove_quietly(&path))?;
        }
        Ok(())
    }
}

async fn finish(
    incoming: Incoming,
    vote: Vote,
    shared: &Shared,
    raft: &RaftCore,
) -> Result<Bytes, ReceiveError> {
    let blocks = Arc::clone(&shared.blocks);
    let snapshot = tokio::task::spawn_blocking(move || -> Result<_, StorageError> {
        incoming.verify(&blocks)?;
        incoming.partial.finish(incoming.manifest)
    })
    .await??;
    let received = Arc::new(snapshot);
    let snapshot = Snapshot {
        meta: received.manifest.meta.clone(),
        snapshot: Arc::clone(&received),
    };
    let response = raft
        .install_full_snapshot(vote, snapshot)
        .await
        .map_err(|error| ReceiveError::Raft(error.to_string()))?;
    // Consensus may have had no use for it (a newer leader, or nothing new in it).
    let current = shared.store.current();
    if current.is_none_or(|current| !current.is_same(&received)) {
        received.supersede();
    }
    Ok(codec::encode_snapshot_response(&response)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::faults::{Disk, Fault};
    use crate::types::SnapshotMeta;

    #[test]
    fn who_asks_for_a_piece_of_a_block_feeds_nobody() {
        assert!(!is_of_leader(&encode_block_request((1, 2), 3, 4)));
        for kind in [BEGIN, CHUNK, FINISH] {
            for cluster in [None, Some(ClusterId([7; ID_BYTES]))] {
                let request = head(kind, &[0; 32], cluster).freeze();
                assert!(is_of_leader(&request));
                assert_eq!(cluster_named(&request), cluster);
            }
        }
    }

    /// A transfer of one file, whose bytes these are.
    fn incoming(root: &Path, bytes: &[u8]) -> Incoming {
        let entry = FileEntry {
            len: bytes.len() as u64,
            digest: *blake3::hash(bytes).as_bytes(),
        };
        let manifest = Manifest {
            meta: SnapshotMeta::default(),
            rows: entry,
            blocks: Vec::new(),
        };
        Incoming {
            id: [0; 32],
            files: manifest.files(),
            manifest,
            partial: PartialSnapshot::resume(root, "incoming").unwrap(),
        }
    }

    #[test]
    fn a_received_file_that_could_not_be_synced_is_fetched_again() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::under(dir.path());
        let incoming = incoming(dir.path(), b"rows");
        let path = incoming.partial.file(&incoming.files[0].0);
        let chunk = || {
            let mut chunk = BytesMut::new();
            chunk.put_u32_le(0);
            chunk.put_u64_le(0);
            chunk.put_slice(b"rows");
            Reader::new(chunk.freeze())
        };
        disk.fail_next_sync("rows", Fault::Refused);
        assert!(incoming.write(chunk()).is_err());
        assert!(!path.exists(), "what stays would count as held");
        assert_eq!(incoming.write(chunk()).unwrap(), 4);
        assert!(path.exists());
    }

    /// It may be a block of this node's own, linked, whose loss nobody else will be told of.
    #[test]
    fn files_are_synced_before_a_snapshot_counts_and_a_failure_is_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::under(dir.path());
        let blocks = BlockStore::open(dir.path().join("blocks"), 0).unwrap();
        let incoming = incoming(dir.path(), b"rows");
        std::fs::write(incoming.partial.file(&incoming.files[0].0), b"rows").unwrap();
        incoming.verify(&blocks).unwrap();
        disk.fail_next_sync("rows", Fault::Refused);
        let failed = incoming.verify(&blocks);
        assert!(
            matches!(failed, Err(StorageError::Unsynced { .. })),
            "{failed:?}"
        );
        assert!(blocks.failure().is_some());
    }
}
