//! Messages of a block file. A record is `length:u32 | seq:u64 | time:u64 | subject length:u16 | subject |
//! (header length:u32 | headers)? | payload | checksum:8`, little-endian; the highest bit of the length
//! says that there are headers, those of the sequence that there is no message.

use std::io::{self, Read};

use bytes::Bytes;
use unibus_state::StoredMessage;
use unibus_state::command::CopiedMessage;

use super::Checksum;

const HEAD_BYTES: usize = 22;
const CHECKSUM_BYTES: usize = 8;
/// Longer records are taken for damage, bytes.
const RECORD_BYTES_MAX: usize = 128 << 20;
const HAS_HEADERS: u32 = 1 << 31;
/// The message was removed and its bytes were overwritten.
const ERASED: u64 = 1 << 63;
/// Says that an earlier message was removed.
const TOMBSTONE: u64 = 1 << 62;

/// What a record says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    Message(CopiedMessage),
    Removed(u64),
}

pub(super) fn put(out: &mut Vec<u8>, message: &StoredMessage, checksum: &Checksum) {
    let headers = if message.headers.is_empty() {
        0
    } else {
        4 + message.headers.len()
    };
    let len = HEAD_BYTES + message.subject.len() + headers + message.payload.len() + CHECKSUM_BYTES;
    // Stored records are far shorter.
    let mut marked = u32::try_from(len).unwrap_or(u32::MAX);
    if headers > 0 {
        marked |= HAS_HEADERS;
    }
    let mut head = [0_u8; HEAD_BYTES];
    head[..4].copy_from_slice(&marked.to_le_bytes());
    head[4..12].copy_from_slice(&message.seq.to_le_bytes());
    head[12..20].copy_from_slice(&message.ts_ns.to_le_bytes());
    let subject_len = u16::try_from(message.subject.len()).unwrap_or(u16::MAX);
    head[20..].copy_from_slice(&subject_len.to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(&message.subject);
    if headers > 0 {
        let len = u32::try_from(message.headers.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&message.headers);
    }
    out.extend_from_slice(&message.payload);
    let parts: [&[u8]; 4] = [
        &head[4..20],
        &message.subject,
        &message.headers,
        &message.payload,
    ];
    out.extend_from_slice(&checksum.sum(&parts));
}

fn damaged(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The next record; `None` at the end.
pub(super) fn next(input: &mut impl Read, checksum: &Checksum) -> io::Result<Option<Record>> {
    let mut head = [0_u8; HEAD_BYTES];
    if input.read(&mut head[..1])? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut head[1..])?;
    let marked = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let len = (marked & !HAS_HEADERS) as usize;
    let subject_len = usize::from(u16::from_le_bytes([head[20], head[21]]));
    if len > RECORD_BYTES_MAX || len < HEAD_BYTES + subject_len + CHECKSUM_BYTES {
        return Err(damaged("a message's length is damaged"));
    }
    // Grows with what is there, not with what the length claims.
    let mut body = Vec::new();
    let wanted = len - HEAD_BYTES;
    if input.take(wanted as u64).read_to_end(&mut body)? < wanted {
        return Err(damaged("a message is cut off"));
    }
    let sum = body.split_off(wanted - CHECKSUM_BYTES);
    let body = Bytes::from(body);
    let (subject, rest) = (body.slice(..subject_len), body.slice(subject_len..));
    let (header_len, data) = split(rest, marked & HAS_HEADERS != 0)?;
    let parts: [&[u8]; 3] = [&head[4..20], &subject, &data];
    if sum != checksum.sum(&parts) {
        return Err(damaged("a message's checksum does not match"));
    }
    let number = |at: usize| {
        let mut bytes = [0_u8; 8];
        bytes.copy_from_slice(&head[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let seq = number(4);
    if seq & (ERASED | TOMBSTONE) != 0 {
        return Ok(Some(Record::Removed(seq & !(ERASED | TOMBSTONE))));
    }
    Ok(Some(Record::Message(CopiedMessage {
        seq,
        ts_ns: number(12),
        subject,
        header_len,
        data,
    })))
}

/// Header block and payload, back to back.
fn split(rest: Bytes, has_headers: bool) -> io::Result<(u32, Bytes)> {
    if !has_headers {
        return Ok((0, rest));
    }
    let (len, data) = rest
        .split_first_chunk::<4>()
        .ok_or_else(|| damaged("a message has no header length"))?;
    let len = u32::from_le_bytes(*len);
    if len as usize > data.len() {
        return Err(damaged("a message's header length is damaged"));
    }
    Ok((len, rest.slice(4..)))
}
