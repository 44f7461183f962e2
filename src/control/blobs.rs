//! Blobs: ciphertext by its hash, in the object store `UNIBUS_blobs` (ADR-20). `POST /blobs` stores
//! a body once, in bounded steps; `GET` and `HEAD /blobs/{hash}` stream it back, whole or one range.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use data_encoding::{BASE64URL, HEXLOWER};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue,
};
use hyper::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json as json_value;
use unibus_state::command::StreamPurge;
use unibus_state::{Command, CommandBatch, Outcome, StoredMessage};

use super::body::Received;
use super::buckets::{BLOB_CHUNKS, BLOB_INFOS, BLOBS_BUCKET, BLOBS_STREAM};
use super::plane::Call;
use super::records::{Entry, Records};
use super::refusal::Refusal;
use super::reply::{Body, BodyError, full, json};
use crate::access::users::now;

/// Bytes of a chunk, as NATS object stores have them.
const CHUNK_BYTES: usize = 128 * 1024;
/// Chunks that are proposed at once: what one blob adds to the log's queue.
const CHUNKS_PER_BATCH: usize = 8;
/// Header block of an object's info: only the newest one is kept.
const ROLLUP: &[u8] = b"NATS/1.0\r\nNats-Rollup: sub\r\n\r\n";

/// An object's info (ADR-20).
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Info {
    name: String,
    bucket: String,
    nuid: String,
    size: u64,
    chunks: u64,
    mtime: String,
    digest: String,
    #[serde(default)]
    deleted: bool,
}

fn info_subject(hash: &str) -> String {
    format!("{BLOB_INFOS}{}", BASE64URL.encode(hash.as_bytes()))
}

fn chunk_subject(upload: &str) -> String {
    format!("{BLOB_CHUNKS}{upload}")
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
    let upload = uuid::Uuid::new_v4().simple().to_string();
    let outcome = match store_chunks(&records, &upload, &mut call.body).await {
        Ok(chunks) => publish(&mut call, &hash, &upload, chunks).await,
        Err(refusal) => Err(refusal),
    };
    if !matches!(outcome, Ok(true)) {
        forget(&records, &upload).await;
    }
    outcome.map(|_| answer)
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
            let json = serde_json::to_vec(&info).unwrap_or_default();
            let data = [ROLLUP, &json].concat();
            draft.append(subject.clone(), ROLLUP.len(), data.into());
            Ok(true)
        })
        .await?;
    Ok(changed.value)
}

/// Removes the chunks of an upload that is no blob. What a crash leaves behind is never shown.
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

fn find(records: &Records, hash: &str) -> Result<Entry<Info>, Refusal> {
    let found = records.get_bytes(BLOBS_STREAM, &info_subject(hash))?;
    let info = found.value.and_then(|json| {
        serde_json::from_slice::<Info>(&json)
            .inspect_err(|error| tracing::error!(%hash, %error, "a blob's info can't be read"))
            .ok()
    });
    Ok(Entry {
        revision: found.revision,
        value: info.filter(|info| !info.deleted),
    })
}

pub(crate) async fn fetch(call: Call<'_>) -> Result<Response<Body>, Refusal> {
    serve(call, true).await
}

pub(crate) async fn head(call: Call<'_>) -> Result<Response<Body>, Refusal> {
    serve(call, false).await
}

async fn serve(mut call: Call<'_>, with_body: bool) -> Result<Response<Body>, Refusal> {
    let hash = call.params.first().copied().unwrap_or_default().to_owned();
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if hash.len() != 64 || !hash.bytes().all(lower) {
        return Err(Refusal::bad("a blob's hash is 64 lower-case hex digits"));
    }
    let found = call.read(|records, _| find(records, &hash)).await?;
    let Some(info) = found.value else {
        return Err(Refusal::not_found("there is no such blob"));
    };
    let range = match wanted(call.range, info.size) {
        Wanted::Whole => None,
        Wanted::Part(range) => Some(range),
        Wanted::Nothing => return Ok(unsatisfiable(info.size)),
    };
    let records = call.plane.records.clone();
    Ok(answer(records, &info, range, with_body))
}

fn answer(
    records: Records,
    info: &Info,
    range: Option<Range<u64>>,
    with_body: bool,
) -> Response<Body> {
    let part = range.clone().unwrap_or(0..info.size);
    let length = part.end - part.start;
    let body = if with_body {
        stream(records, info, part.clone())
    } else {
        full(Bytes::new())
    };
    let mut response = Response::new(body);
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let text = format!("bytes {}-{}/{}", part.start, part.end - 1, info.size);
        insert(&mut response, CONTENT_RANGE, &text);
    }
    insert(&mut response, CONTENT_LENGTH, &length.to_string());
    insert(&mut response, CONTENT_TYPE, "application/octet-stream");
    insert(&mut response, ACCEPT_RANGES, "bytes");
    insert(&mut response, ETAG, &format!("\"{}\"", info.name));
    response
}

fn unsatisfiable(size: u64) -> Response<Body> {
    let refusal = json_value!({ "error": "the range is none, or lies outside the blob; wanted one range of bytes: bytes=FIRST-LAST" });
    let mut response = json(StatusCode::RANGE_NOT_SATISFIABLE, &refusal);
    insert(&mut response, CONTENT_RANGE, &format!("bytes */{size}"));
    response
}

fn insert(response: &mut Response<Body>, name: hyper::header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// What a Range header asks of a blob.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Wanted {
    Whole,
    Part(Range<u64>),
    Nothing,
}

/// Reads a Range header (RFC 9110 §14.2). Another unit than bytes is ignored, as the RFC demands;
/// several ranges, and what is no range, are refused, as it allows.
fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some((unit, spec)) = header.and_then(|header| header.trim().split_once('=')) else {
        return Wanted::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::Whole;
    }
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Wanted::Nothing;
    };
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Some(first), None) if last.is_empty() => first..size,
        (None, Some(count)) if first.is_empty() => size.saturating_sub(count)..size,
        _ => return Wanted::Nothing,
    };
    if range.start < range.end {
        Wanted::Part(range)
    } else {
        Wanted::Nothing
    }
}

/// Where a download stands.
struct Download {
    records: Records,
    subject: String,
    /// Sequence from which the next chunk is looked for.
    next_seq: u64,
    /// Bytes before the range that are still to be passed over.
    skip: u64,
    /// Bytes that are still to be sent.
    left: u64,
}

/// The bytes of a range, chunk by chunk: memory holds one.
fn stream(records: Records, info: &Info, range: Range<u64>) -> Body {
    let download = Download {
        records,
        subject: chunk_subject(&info.nuid),
        next_seq: 1,
        skip: range.start,
        left: range.end - range.start,
    };
    let frames = futures::stream::unfold(Some(download), |download| async move {
        let mut download = download?;
        if download.left == 0 {
            return None;
        }
        match download.next() {
            Some(bytes) => Some((Ok(Frame::data(bytes)), Some(download))),
            None => Some((Err(BodyError), None)),
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

impl Download {
    fn next(&mut self) -> Option<Bytes> {
        loop {
            let chunk = self.chunk()?;
            let length = chunk.len() as u64;
            if length <= self.skip {
                self.skip -= length;
                continue;
            }
            let start = usize::try_from(self.skip).ok()?;
            let take = usize::try_from(self.left.min(length - self.skip)).ok()?;
            self.skip = 0;
            self.left -= take as u64;
            return Some(chunk.slice(start..start + take));
        }
    }

    /// `None`: the blob is gone or damaged.
    fn chunk(&mut self) -> Option<Bytes> {
        let replica = self.records.replica();
        let filter = [self.subject.as_bytes()];
        let (seq, at) = replica
            .with_state(|state| state.stream(BLOBS_STREAM)?.next_for(&filter, self.next_seq))?;
        self.next_seq = seq + 1;
        let record = replica
            .read_record(&at)
            .inspect_err(|error| tracing::error!(%error, "a blob's chunk can't be read"))
            .ok()?;
        let message = StoredMessage::decode(record).ok()?;
        Some(message.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::{Wanted, wanted};

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let of = |text: &str| wanted(Some(text), 100);
        assert_eq!(of("bytes=0-9"), Wanted::Part(0..10));
        assert_eq!(of("bytes=90-"), Wanted::Part(90..100));
        assert_eq!(of("bytes=90-1000"), Wanted::Part(90..100));
        assert_eq!(of("bytes=-10"), Wanted::Part(90..100));
        assert_eq!(of("bytes=-1000"), Wanted::Part(0..100));
        assert_eq!(of("bytes=0-18446744073709551615"), Wanted::Part(0..100));
        assert_eq!(of("Bytes = 0-9"), Wanted::Part(0..10));
        for outside in [
            "bytes=100-",
            "bytes=100-200",
            "bytes=-0",
            "bytes=5-4",
            "bytes=0-1,3-4",
            "bytes=-",
            "bytes=a-b",
            "bytes=",
            "bytes=1",
            "bytes=0--1",
        ] {
            assert_eq!(of(outside), Wanted::Nothing, "{outside}");
        }
        for ignored in ["lines=1-2", "x", ""] {
            assert_eq!(of(ignored), Wanted::Whole, "{ignored}");
        }
        assert_eq!(wanted(None, 100), Wanted::Whole);
    }
}
