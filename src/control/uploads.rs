//! Uploads: `POST /blobs` stores a body once, in bounded steps. An upload that is not known to have
//! become the blob is settled later: it is the blob, or its chunks are removed and it never will be.

use std::time::Duration;

use bytes::BytesMut;
use data_encoding::{BASE64URL, HEXLOWER};
use hyper::{Response, StatusCode};
use serde_json::json as json_value;
use unibus_state::command::StreamPurge;
use unibus_state::{Command, CommandBatch, Outcome};

use super::blobs::{Info, chunk_subject, find, info_subject};
use super::body::Received;
use super::buckets::{BLOBS_BUCKET, BLOBS_STREAM};
use super::plane::Call;
use super::records::{Committed, Draft, Records, StoreError};
use super::refusal::Refusal;
use super::reply::{Body, json};
use crate::access::users::now;

/// Bytes of a chunk, as NATS object stores have them.
const CHUNK_BYTES: usize = 128 * 1024;
/// Chunks that are proposed at once: what one blob adds to the log's queue.
const CHUNKS_PER_BATCH: usize = 8;
/// Header block of an object's info: only the newest one is kept.
const ROLLUP: &[u8] = b"NATS/1.0\r\nNats-Rollup: sub\r\n\r\n";
/// Attempts at settling an upload; what is left over then is never shown.
const SETTLE_ATTEMPTS_MAX: u32 = 20;
/// Pause between them.
const SETTLE_PAUSE: Duration = Duration::from_secs(3);

/// An upload that is under way. Dropped like that, it is settled in a task of its own: the caller has
/// gone, or nobody knows whether it is the blob.
struct Unsettled {
    records: Records,
    hash: String,
    upload: String,
    is_settled: bool,
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        let (records, hash, upload) = (
            self.records.clone(),
            std::mem::take(&mut self.hash),
            std::mem::take(&mut self.upload),
        );
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { settle(&records, &hash, &upload).await });
        }
    }
}

/// Finds out whether an upload is the blob. Where there is none, a deleted object is put in its place
/// first: what is still on its way expects the revision before that.
async fn settle(records: &Records, hash: &str, upload: &str) {
    for _ in 0..SETTLE_ATTEMPTS_MAX {
        tokio::time::sleep(SETTLE_PAUSE).await;
        if let Ok(is_blob) = decide(records, hash, upload).await {
            if !is_blob {
                forget(records, upload).await;
            }
            return;
        }
    }
    tracing::warn!(%hash, %upload, "the chunks of an upload that failed are left over");
}

/// Whether an upload is the blob; if it is not, it cannot become it any more.
async fn decide(records: &Records, hash: &str, upload: &str) -> Result<bool, Refusal> {
    records.barrier().await?;
    let found = find(records, hash)?;
    if let Some(info) = found.value {
        return Ok(info.nuid == upload);
    }
    let mut draft = Draft::default();
    let subject = info_subject(hash);
    draft.expect_subject(BLOBS_STREAM, &subject, found.revision);
    let nobody = Info {
        name: hash.to_owned(),
        bucket: BLOBS_BUCKET.to_owned(),
        nuid: upload.to_owned(),
        size: 0,
        chunks: 0,
        mtime: now(),
        digest: String::new(),
        deleted: true,
    };
    put_info(&mut draft, subject, &nobody);
    match records.commit(draft).await? {
        Committed::Done { .. } => Ok(false),
        Committed::Conflict { .. } | Committed::Refused(_) => Err(StoreError::Unknown.into()),
    }
}

fn put_info(draft: &mut Draft, subject: String, info: &Info) {
    // Structs of strings and numbers always serialise.
    let json = serde_json::to_vec(info).unwrap_or_default();
    let data = [ROLLUP, &json].concat();
    draft.append(subject, ROLLUP.len(), data.into());
}

pub(crate) async fn store(mut call: Call<'_>) -> Result<Response<Body>, Refusal> {
    if call.body.bytes == 0 {
        return Err(Refusal::bad("a blob has at least one byte"));
    }
    // Before anything is stored: a replay must not cost a byte.
    call.claim().await?;
    let hash = HEXLOWER.encode(&call.body.hash);
    let answer = json(StatusCode::CREATED, &json_value!({ "hash": hash }));
    let records = call.plane.records.clone();
    if find(&records, &hash)?.value.is_some() {
        return Ok(answer);
    }
    let mut unsettled = Unsettled {
        records: records.clone(),
        hash: hash.clone(),
        upload: uuid::Uuid::new_v4().simple().to_string(),
        is_settled: false,
    };
    let chunks = store_chunks(&records, &unsettled.upload, &mut call.body).await?;
    let is_blob = publish(&mut call, &hash, &unsettled.upload, chunks).await?;
    unsettled.is_settled = true;
    if !is_blob {
        forget(&records, &unsettled.upload).await;
    }
    Ok(answer)
}

/// Stores a body's chunks; answers with their number.
async fn store_chunks(
    records: &Records,
    upload: &str,
    body: &mut Received,
) -> Result<u64, Refusal> {
    let subject = chunk_subject(upload);
    let mut batch = CommandBatch::new();
    let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
    let mut chunks = 0;
    while let Some(part) = body.take_part() {
        let mut rest = &part[..];
        while !rest.is_empty() {
            let take = rest.len().min(CHUNK_BYTES - chunk.len());
            chunk.extend_from_slice(&rest[..take]);
            rest = &rest[take..];
            if chunk.len() == CHUNK_BYTES {
                chunks += 1;
                push(records, &subject, &mut batch, &mut chunk).await?;
            }
        }
    }
    if !chunk.is_empty() {
        chunks += 1;
        push(records, &subject, &mut batch, &mut chunk).await?;
    }
    flush(records, &mut batch).await?;
    Ok(chunks)
}

async fn push(
    records: &Records,
    subject: &str,
    batch: &mut CommandBatch,
    chunk: &mut BytesMut,
) -> Result<(), Refusal> {
    if let Err(error) = batch.push_append(subject.as_bytes(), 0, chunk, true) {
        tracing::error!(%error, "a chunk can't be encoded");
        return Err(Refusal::bad("the blob can't be stored"));
    }
    chunk.clear();
    if batch.len() >= CHUNKS_PER_BATCH {
        flush(records, batch).await?;
    }
    Ok(())
}

async fn flush(records: &Records, batch: &mut CommandBatch) -> Result<(), Refusal> {
    if batch.is_empty() {
        return Ok(());
    }
    match records.run(std::mem::take(batch)).await? {
        Outcome::Published { .. } => Ok(()),
        outcome => {
            tracing::error!(?outcome, "a chunk was not stored");
            Err(Refusal::unavailable("the blob can't be stored now"))
        }
    }
}

/// Makes an upload the blob; false = another upload of the same bytes was first.
async fn publish(
    call: &mut Call<'_>,
    hash: &str,
    upload: &str,
    chunks: u64,
) -> Result<bool, Refusal> {
    let info = Info {
        name: hash.to_owned(),
        bucket: BLOBS_BUCKET.to_owned(),
        nuid: upload.to_owned(),
        size: call.body.bytes,
        chunks,
        mtime: now(),
        digest: format!("SHA-256={}", BASE64URL.encode(&call.body.hash)),
        deleted: false,
    };
    let subject = info_subject(hash);
    let changed = call
        .change(|records, _, draft| {
            let found = find(records, hash)?;
            if found.value.is_some() {
                return Ok(false);
            }
            draft.expect_subject(BLOBS_STREAM, &subject, found.revision);
            put_info(draft, subject.clone(), &info);
            Ok(true)
        })
        .await?;
    Ok(changed.value)
}

/// Removes the chunks of an upload that is no blob and never will be.
async fn forget(records: &Records, upload: &str) {
    let mut batch = CommandBatch::new();
    let purge = Command::StreamPurge(StreamPurge {
        name: BLOBS_STREAM.to_owned(),
        filter: chunk_subject(upload),
        seq: 0,
        keep: 0,
        privileged: true,
    });
    if batch.push(&purge).is_ok()
        && let Err(error) = records.run(batch).await
    {
        tracing::warn!(%error, "the chunks of an upload that failed are left over");
    }
}
