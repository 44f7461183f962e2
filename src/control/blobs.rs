//! Blobs: ciphertext by its hash, in the object store `UNIBUS_blobs` (ADR-20). `GET` and
//! `HEAD /blobs/{hash}` stream one back, whole or one range; `uploads` stores them.

use std::ops::Range;

use bytes::Bytes;
use data_encoding::BASE64URL;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue,
};
use hyper::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json as json_value;
use unibus_state::StoredMessage;

use super::buckets::{BLOB_CHUNKS, BLOB_INFOS, BLOBS_STREAM};
use super::plane::Call;
use super::records::{Entry, Records};
use super::refusal::Refusal;
use super::reply::{Body, BodyError, full, json};

/// An object's info (ADR-20).
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Info {
    /// The hash.
    pub(super) name: String,
    pub(super) bucket: String,
    /// What its chunks are found by.
    pub(super) nuid: String,
    /// Bytes.
    pub(super) size: u64,
    pub(super) chunks: u64,
    pub(super) mtime: String,
    pub(super) digest: String,
    #[serde(default)]
    pub(super) deleted: bool,
}

pub(super) fn info_subject(hash: &str) -> String {
    format!("{BLOB_INFOS}{}", BASE64URL.encode(hash.as_bytes()))
}

pub(super) fn chunk_subject(upload: &str) -> String {
    format!("{BLOB_CHUNKS}{upload}")
}

/// A blob that is there, all its chunks included.
pub(super) fn find(records: &Records, hash: &str) -> Result<Entry<Info>, Refusal> {
    let found = records.get_bytes(BLOBS_STREAM, &info_subject(hash))?;
    let info = found.value.and_then(|json| {
        serde_json::from_slice::<Info>(&json)
            .inspect_err(|error| tracing::error!(%hash, %error, "a blob's info can't be read"))
            .ok()
    });
    Ok(Entry {
        revision: found.revision,
        value: info.filter(|info| !info.deleted && has_chunks(records, info)),
    })
}

/// Whether as many chunks are stored as an info says.
fn has_chunks(records: &Records, info: &Info) -> bool {
    let subject = chunk_subject(&info.nuid);
    let stored = records.replica().with_state(|state| {
        let stream = state.stream(BLOBS_STREAM)?;
        let (counts, _) = stream.subjects(subject.as_bytes(), 0, 1);
        counts.into_values().next()
    });
    let whole = stored.unwrap_or(0) == info.chunks;
    if !whole {
        tracing::error!(hash = %info.name, ?stored, wanted = info.chunks, "a blob lacks chunks");
    }
    whole
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
