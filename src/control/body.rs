//! Reads a request's body: within its ceiling, within the budget of all bodies, hashed as it comes.
//! A body whose sender can't be admitted anyway is hashed and thrown away.

use std::collections::VecDeque;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use hyper::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};
use unibus_proto::signing::BodyHash;

use super::limits::Share;
use super::refusal::Refusal;

/// A body that was read to its end.
#[derive(Debug)]
pub(crate) struct Received {
    /// Its frames; empty where it was not to be kept.
    parts: VecDeque<Bytes>,
    pub(crate) bytes: u64,
    pub(crate) hash: BodyHash,
    /// The budget's share, held for as long as the body is.
    share: Share,
}

impl Received {
    /// The body as one piece.
    pub(crate) fn joined(&self) -> Bytes {
        let mut parts = self.parts.iter();
        match (parts.next(), parts.len()) {
            (None, _) => Bytes::new(),
            (Some(one), 0) => one.clone(),
            _ => self.parts.iter().flatten().copied().collect(),
        }
    }

    /// Takes the next frame out of the body, and gives its part of the budget back: who takes it
    /// stores it somewhere else, and memory must not hold both for long.
    pub(crate) fn take_part(&mut self) -> Option<Bytes> {
        let part = self.parts.pop_front()?;
        self.share.give_back(part.len() as u64);
        Some(part)
    }
}

/// The declared length: `None` = none is declared, or the sender lies in a way that only reading
/// will tell.
fn declared(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(CONTENT_LENGTH)?;
    // One that hyper lets through unparsed counts as too large.
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    Some(length.unwrap_or(u64::MAX))
}

/// Whether a body follows.
pub(crate) fn is_declared(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || declared(headers).is_some_and(|length| length > 0)
}

/// Reads the body of at most `bytes_max` bytes. `keep` = false: only its hash is wanted.
pub(crate) async fn receive(
    headers: &HeaderMap,
    mut body: Incoming,
    bytes_max: u64,
    keep: bool,
    mut share: Share,
) -> Result<Received, Refusal> {
    let declared = declared(headers).unwrap_or(0);
    if declared > bytes_max {
        return Err(Refusal::too_large(bytes_max));
    }
    if keep && !share.at_least(declared) {
        return Err(shed());
    }
    let mut hash = Sha256::new();
    let mut parts = VecDeque::new();
    let mut bytes = 0u64;
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else {
            break;
        };
        let frame = frame.map_err(|_| Refusal {
            close: true,
            ..Refusal::bad("the body ended too early")
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        bytes += data.len() as u64;
        if bytes > bytes_max {
            return Err(Refusal::too_large(bytes_max));
        }
        hash.update(&data);
        if keep {
            if !share.at_least(bytes) {
                return Err(shed());
            }
            // A frame may be a small part of a large read buffer that it would keep alive.
            parts.push_back(Bytes::copy_from_slice(&data));
        }
    }
    Ok(Received {
        parts,
        bytes,
        hash: hash.finalize().into(),
        share,
    })
}

fn shed() -> Refusal {
    Refusal {
        close: true,
        ..Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            ..Refusal::unavailable(
                "this node is taking in as many bodies as it may; ask again in a moment",
            )
        }
    }
}
