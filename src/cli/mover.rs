//! The control plane's records and blobs of a running cluster, read and written as a whole through
//! ordinary key-value and object calls. Knows nothing of files and of how a command prints.

use async_nats::jetstream::kv::{Operation, Store};
use async_nats::jetstream::object_store::ObjectStore;
use futures::{StreamExt, TryStreamExt};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use unibus_proto::control::{RoomRecord, room_stream};

use super::link::{ANSWER, Link, LinkError, Target};
use crate::control::buckets::{BLOBS_BUCKET, Bucket};
use crate::control::room_stream_config;
use crate::snapshot::file::PART_BYTES;
use crate::snapshot::{BUCKETS, Held, Place, Plan, Problems, Record, Write};

/// How often a whole is read that changes meanwhile.
const ATTEMPTS_MAX: usize = 10;
/// Records that are being written at a time.
const WRITES_AT_ONCE: usize = 32;

/// Why records can't be moved.
#[derive(Debug, Error)]
pub(super) enum MoveError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("records of the cluster can't be read:\n  {0}")]
    Unreadable(Problems),
    #[error(
        "the cluster's records kept changing while they were read, {ATTEMPTS_MAX} times; try again when less is going on"
    )]
    Changing,
    #[error(
        "{place} can't be written: {reason}; what was written before it stays, and running this again goes on"
    )]
    Write { place: Place, reason: String },
    #[error("the stream of room {room} can't be made: {reason}")]
    Stream { room: String, reason: String },
    #[error("blob {hash} can't be {action}: {reason}")]
    Blob {
        hash: String,
        action: &'static str,
        reason: String,
    },
    #[error("{have} of {all} replicas have everything, and --replicas wants {wanted}")]
    Replicas {
        have: usize,
        all: usize,
        wanted: usize,
    },
}

/// A connection to all of them.
pub(super) struct Mover {
    link: Link,
}

impl Mover {
    pub(super) async fn open(target: &Target) -> Result<Self, MoveError> {
        Ok(Self {
            link: Link::open(target).await?,
        })
    }

    async fn bucket(&self, bucket: Bucket) -> Result<Store, LinkError> {
        let jetstream = &self.link.jetstream;
        self.link
            .until(|| jetstream.get_key_value(bucket.name()))
            .await
    }

    /// Everything the cluster holds, as it was at one moment: read again where something changed
    /// before the last record was read.
    pub(super) async fn read(&self) -> Result<Held, MoveError> {
        let mut stores = Vec::new();
        for bucket in BUCKETS {
            stores.push((bucket, self.bucket(bucket).await?));
        }
        let mut before = self.last_seqs(&stores).await?;
        for _ in 0..ATTEMPTS_MAX {
            let mut held = Held::default();
            let mut problems = Vec::new();
            for (bucket, store) in &stores {
                self.read_bucket(*bucket, store, &mut held, &mut problems)
                    .await?;
            }
            let after = self.last_seqs(&stores).await?;
            if before == after {
                if problems.is_empty() {
                    return Ok(held);
                }
                return Err(MoveError::Unreadable(Problems(problems)));
            }
            before = after;
        }
        Err(MoveError::Changing)
    }

    async fn last_seqs(&self, stores: &[(Bucket, Store)]) -> Result<Vec<u64>, LinkError> {
        let mut seqs = Vec::with_capacity(stores.len());
        for (_, store) in stores {
            let info = self.link.until(|| store.stream.get_info()).await?;
            seqs.push(info.state.last_sequence);
        }
        Ok(seqs)
    }

    async fn read_bucket(
        &self,
        bucket: Bucket,
        store: &Store,
        held: &mut Held,
        problems: &mut Vec<String>,
    ) -> Result<(), LinkError> {
        let info = self.link.until(|| store.stream.get_info()).await?;
        if info.state.messages == 0 {
            return Ok(());
        }
        let mut entries = self.link.until(|| store.watch_with_history(">")).await?;
        loop {
            let next = timeout(super::link::PATIENCE, entries.next()).await;
            let entry = match next {
                Ok(Some(Ok(entry))) => entry,
                Ok(Some(Err(error))) => return Err(self.link.not_ready(error.to_string())),
                Ok(None) | Err(_) => {
                    return Err(self
                        .link
                        .not_ready(format!("reading {} stopped before its end", bucket.name())));
                }
            };
            let place = Place {
                bucket,
                key: entry.key,
            };
            held.revisions.insert(place.clone(), entry.revision);
            if entry.operation == Operation::Put {
                match Record::decode(&place, &entry.value) {
                    Ok(record) => held.snapshot.insert(place, record),
                    Err(reason) => problems.push(format!("{place}: {reason}")),
                }
            }
            if entry.delta == 0 {
                return Ok(());
            }
        }
    }

    /// Writes what a plan says, bucket after bucket.
    pub(super) async fn write(&self, plan: &Plan) -> Result<(), MoveError> {
        for bucket in BUCKETS {
            let writes = plan.writes.iter().filter(|w| w.place.bucket == bucket);
            let store = self.bucket(bucket).await?;
            let attempts = writes.map(|write| self.write_one(&store, write));
            futures::stream::iter(attempts)
                .buffer_unordered(WRITES_AT_ONCE)
                .try_collect::<()>()
                .await?;
        }
        Ok(())
    }

    async fn write_one(&self, store: &Store, write: &Write) -> Result<(), MoveError> {
        let value = write.value.clone().map(bytes::Bytes::from);
        let patience = self.link.patience();
        let mut unanswered = false;
        loop {
            let attempt = attempt(store, write, value.clone());
            let reason = match timeout(ANSWER, attempt).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(reason)) => reason,
                Err(_) => "it does not answer".to_owned(),
            };
            // An attempt without an answer may have been carried out.
            if unanswered && self.is_there(store, write).await? {
                return Ok(());
            }
            unanswered = true;
            if patience.pause(reason.as_str()).await.is_err() {
                let place = write.place.clone();
                return Err(MoveError::Write { place, reason });
            }
        }
    }

    async fn is_there(&self, store: &Store, write: &Write) -> Result<bool, MoveError> {
        let key = &write.place.key;
        let entry = self.link.until(|| store.entry(key)).await?;
        let there = entry.filter(|entry| entry.operation == Operation::Put);
        Ok(there.map(|entry| entry.value)
            == write.value.as_deref().map(bytes::Bytes::copy_from_slice))
    }

    /// Makes the stream of a persisted room, where it is not there.
    pub(super) async fn make_stream(&self, room: &RoomRecord) -> Result<(), MoveError> {
        if !room.policy.persisted {
            return Ok(());
        }
        let name = room_stream(room.id.as_str());
        let ask = |verb: &str, body: Vec<u8>| {
            let subject = format!("$JS.API.STREAM.{verb}.{name}");
            let client = self.link.client.clone();
            async move {
                let answer = client.request(subject, body.into()).await?;
                let json: serde_json::Value = serde_json::from_slice(&answer.payload)?;
                Ok::<_, async_nats::Error>(json["error"]["description"].as_str().map(str::to_owned))
            }
        };
        if self.link.until(|| ask("INFO", Vec::new())).await?.is_none() {
            return Ok(());
        }
        // Settings of a stream always serialise.
        let config = serde_json::to_vec(&room_stream_config(room)).unwrap_or_default();
        match self.link.until(|| ask("CREATE", config.clone())).await? {
            None => Ok(()),
            Some(reason) => Err(MoveError::Stream {
                room: room.id.to_string(),
                reason,
            }),
        }
    }

    /// Waits until `wanted` replicas have every bucket; answers with how many have, and of how many.
    pub(super) async fn replicas(&self, wanted: usize) -> Result<(usize, usize), MoveError> {
        let patience = self.link.patience();
        loop {
            let (mut have, mut all) = (usize::MAX, 0);
            for bucket in BUCKETS {
                let store = self.bucket(bucket).await?;
                let (current, members) = replicas_of(&self.link, &store).await?;
                have = have.min(current);
                all = members;
            }
            if have >= wanted {
                return Ok((have, all));
            }
            if wanted > all || patience.pause("replicas are behind").await.is_err() {
                return Err(MoveError::Replicas { have, all, wanted });
            }
        }
    }

    /// The object store of blobs.
    pub(super) async fn blobs(&self) -> Result<Blobs, MoveError> {
        let jetstream = &self.link.jetstream;
        let store = self
            .link
            .until(|| jetstream.get_object_store(BLOBS_BUCKET))
            .await?;
        Ok(Blobs { store })
    }
}

/// Writes or removes a record where the cluster still has the revision that was read.
async fn attempt(store: &Store, write: &Write, value: Option<bytes::Bytes>) -> Result<(), String> {
    let (key, revision) = (&write.place.key, write.revision);
    match value {
        Some(value) => {
            let updated = store.update(key, value, revision).await;
            updated.map(drop).map_err(|error| error.to_string())
        }
        None => {
            let deleted = store.delete_expect_revision(key, Some(revision)).await;
            deleted.map_err(|error| error.to_string())
        }
    }
}

/// How many nodes have everything that a bucket's leader has, and how many there are.
pub(super) async fn replicas_of(link: &Link, store: &Store) -> Result<(usize, usize), LinkError> {
    let info = link.until(|| store.stream.get_info()).await?;
    let others = info.cluster.map(|cluster| cluster.replicas);
    let others = others.unwrap_or_default();
    let current = others.iter().filter(|peer| peer.current && !peer.offline);
    Ok((current.count() + 1, others.len() + 1))
}

/// The blobs of a cluster.
pub(super) struct Blobs {
    store: ObjectStore,
}

impl Blobs {
    /// Their hashes.
    pub(super) async fn list(&self) -> Result<Vec<String>, MoveError> {
        let failed = |reason: String| blob_error("*", "listed", reason);
        let list = self.store.list().await;
        let mut list = list.map_err(|error| failed(error.to_string()))?;
        let mut hashes = Vec::new();
        while let Some(info) = list.next().await {
            let info = info.map_err(|error| failed(error.to_string()))?;
            if !info.deleted {
                hashes.push(info.name);
            }
        }
        hashes.sort_unstable();
        Ok(hashes)
    }

    /// Reads one, part by part.
    pub(super) async fn read(
        &self,
        hash: &str,
        mut take: impl FnMut(&[u8], bool) -> std::io::Result<()>,
    ) -> Result<(), MoveError> {
        let failed = |reason: String| blob_error(hash, "read", reason);
        let object = self.store.get(hash).await;
        let mut object = object.map_err(|error| failed(error.to_string()))?;
        let mut left = object.info.size;
        while left > 0 {
            let mut part = vec![0; left.min(PART_BYTES)];
            let read = object.read_exact(&mut part).await;
            read.map_err(|error| failed(error.to_string()))?;
            left -= part.len();
            take(&part, left > 0).map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    }

    /// Whether a blob of this hash and size is there.
    pub(super) async fn has(&self, hash: &str, bytes: usize) -> bool {
        let info = self.store.info(hash).await;
        info.is_ok_and(|info| info.size == bytes && !info.deleted)
    }

    pub(super) async fn write(&self, hash: &str, bytes: &[u8]) -> Result<(), MoveError> {
        let mut reader = bytes;
        match self.store.put(hash, &mut reader).await {
            Ok(_) => Ok(()),
            Err(error) => Err(blob_error(hash, "written", error.to_string())),
        }
    }
}

fn blob_error(hash: &str, action: &'static str, reason: String) -> MoveError {
    MoveError::Blob {
        hash: hash.to_owned(),
        action,
        reason,
    }
}
