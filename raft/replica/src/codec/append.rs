//! AppendEntries requests and entry payloads: a small bincode head, then every entry framed by hand,
//! so that payload bytes are copied once when sent and not at all when received.
//!
//! Layout: `FORMAT` u8, head length u32, head, then for each entry: term u64, node u64, index u64,
//! kind u8, length u32, payload. Integers are little endian.

use bytes::{Buf, Bytes};

use super::{
    APPEND_ENTRIES_MAX, CodecError, FORMAT, SMALL_BYTES_MAX, decode_exact, decode_membership,
    encode_into, encode_membership, malformed, mirror,
};
use crate::types::{AppendEntriesRequest, Batch, Entry, EntryPayload, LeaderId, LogId};

/// Bytes in front of each payload.
const ENTRY_HEAD_BYTES: usize = 8 + 8 + 8 + 1 + 4;

/// What an entry's payload is, on wire and disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum PayloadKind {
    /// No payload: a new leader's first entry.
    Blank = 0,
    /// A batch of commands, as they are.
    Normal = 1,
    /// `encode_membership`.
    Membership = 2,
}

impl PayloadKind {
    /// The kind with this number.
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Blank),
            1 => Some(Self::Normal),
            2 => Some(Self::Membership),
            _ => None,
        }
    }
}

/// The bytes that stand for `payload`. A batch is shared, not copied.
pub(crate) fn encode_payload(payload: &EntryPayload) -> Result<(PayloadKind, Bytes), CodecError> {
    Ok(match payload {
        EntryPayload::Blank => (PayloadKind::Blank, Bytes::new()),
        EntryPayload::Normal(Batch(bytes)) => (PayloadKind::Normal, bytes.clone()),
        EntryPayload::Membership(membership) => {
            (PayloadKind::Membership, encode_membership(membership)?)
        }
    })
}

/// Reverses [`encode_payload`]. A batch keeps `bytes` as it is.
pub(crate) fn decode_payload(kind: PayloadKind, bytes: Bytes) -> Result<EntryPayload, CodecError> {
    match kind {
        PayloadKind::Blank if bytes.is_empty() => Ok(EntryPayload::Blank),
        PayloadKind::Blank => Err(CodecError::Trailing(bytes.len())),
        PayloadKind::Normal => Ok(EntryPayload::Normal(Batch(bytes))),
        PayloadKind::Membership => Ok(EntryPayload::Membership(decode_membership(&bytes)?)),
    }
}

/// Encodes AppendEntries, heartbeats included.
pub(crate) fn encode_append_request(request: &AppendEntriesRequest) -> Result<Bytes, CodecError> {
    if request.entries.len() > APPEND_ENTRIES_MAX {
        return Err(entries_over(request.entries.len()));
    }
    let payloads = request
        .entries
        .iter()
        .map(|entry| encode_payload(&entry.payload))
        .collect::<Result<Vec<_>, _>>()?;
    let head = mirror::AppendHead {
        vote: (&request.vote).into(),
        prev: request.prev_log_id.as_ref().map(mirror::LogId::from),
        commit: request.leader_commit.as_ref().map(mirror::LogId::from),
        entries: to_u32("entries", payloads.len())?,
    };
    let bytes: usize = payloads
        .iter()
        .map(|(_, payload)| ENTRY_HEAD_BYTES + payload.len())
        .sum();
    let mut out = Vec::with_capacity(128 + bytes);
    out.extend_from_slice(&[FORMAT, 0, 0, 0, 0]);
    encode_into("append head", head, &mut out)?;
    let head_len = to_u32("append head", out.len() - 5)?;
    if let Some(at) = out.get_mut(1..5) {
        at.copy_from_slice(&head_len.to_le_bytes());
    }
    for (entry, (kind, payload)) in request.entries.iter().zip(&payloads) {
        let leader = &entry.log_id.leader_id;
        out.extend_from_slice(&leader.term.to_le_bytes());
        out.extend_from_slice(&leader.node_id.to_le_bytes());
        out.extend_from_slice(&entry.log_id.index.to_le_bytes());
        out.push(*kind as u8);
        out.extend_from_slice(&to_u32("payload", payload.len())?.to_le_bytes());
        out.extend_from_slice(payload);
    }
    Ok(out.into())
}

/// Decodes [`encode_append_request`]; batches are slices of `bytes`.
pub(crate) fn decode_append_request(mut bytes: Bytes) -> Result<AppendEntriesRequest, CodecError> {
    let total = bytes.len();
    let short = move |_| CodecError::Truncated(total);
    let format = bytes.try_get_u8().map_err(short)?;
    if format != FORMAT {
        return Err(CodecError::Format(format));
    }
    let head_len = bytes.try_get_u32_le().map_err(short)? as usize;
    if head_len > SMALL_BYTES_MAX {
        return Err(CodecError::Limit {
            what: "append head",
            got: head_len,
            limit: SMALL_BYTES_MAX,
        });
    }
    let head: mirror::AppendHead =
        decode_exact("append head", &take(&mut bytes, head_len, total)?)?;
    let count = head.entries as usize;
    if count > APPEND_ENTRIES_MAX {
        return Err(entries_over(count));
    }
    // The bytes present bound the allocation, whatever the head claims.
    let mut entries = Vec::with_capacity(count.min(bytes.len() / ENTRY_HEAD_BYTES));
    for _ in 0..count {
        entries.push(take_entry(&mut bytes, total)?);
    }
    if !bytes.is_empty() {
        return Err(CodecError::Trailing(bytes.len()));
    }
    Ok(AppendEntriesRequest {
        vote: head.vote.into(),
        prev_log_id: head.prev.map(Into::into),
        leader_commit: head.commit.map(Into::into),
        entries,
    })
}

/// Reads one framed entry.
fn take_entry(bytes: &mut Bytes, total: usize) -> Result<Entry, CodecError> {
    let short = move |_| CodecError::Truncated(total);
    let leader_id = LeaderId {
        term: bytes.try_get_u64_le().map_err(short)?,
        node_id: bytes.try_get_u64_le().map_err(short)?,
    };
    let index = bytes.try_get_u64_le().map_err(short)?;
    let kind = bytes.try_get_u8().map_err(short)?;
    let kind = PayloadKind::from_byte(kind)
        .ok_or_else(|| malformed("entry", format_args!("payload kind {kind}")))?;
    let len = bytes.try_get_u32_le().map_err(short)? as usize;
    let payload = decode_payload(kind, take(bytes, len, total)?)?;
    Ok(Entry {
        log_id: LogId { leader_id, index },
        payload,
    })
}

/// Splits `len` bytes off the front, or says that a message of `total` bytes is too short.
fn take(bytes: &mut Bytes, len: usize, total: usize) -> Result<Bytes, CodecError> {
    if bytes.len() < len {
        return Err(CodecError::Truncated(total));
    }
    Ok(bytes.split_to(len))
}

fn to_u32(what: &'static str, value: usize) -> Result<u32, CodecError> {
    u32::try_from(value).map_err(|_| CodecError::Limit {
        what,
        got: value,
        limit: u32::MAX as usize,
    })
}

fn entries_over(got: usize) -> CodecError {
    CodecError::Limit {
        what: "entries",
        got,
        limit: APPEND_ENTRIES_MAX,
    }
}
