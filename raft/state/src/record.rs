//! A stored message as bytes: self-describing and checked, so that blocks can be read without the
//! index. Layout (little-endian):
//! `crc32:u32 | len:u32 | format:u8 | flags:u8 | subject_len:u16 | header_len:u32 | seq:u64 | ts_ns:u64 |
//! subject | headers | payload`; `len` is the whole record, the checksum covers everything after it.

use bytes::Bytes;
use thiserror::Error;

use crate::codec::{Reader, len_u32};

/// Bytes before the subject.
pub const RECORD_HEAD_BYTES: usize = 32;
/// The longest record; the index keeps 27 bits of it.
pub const RECORD_BYTES_MAX: usize = (1 << 27) - 1;
const FORMAT: u8 = 1;

/// Why a record could not be read.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Shorter or longer than it says.
    #[error("the record has {have} bytes and needs {need}")]
    Length {
        /// Bytes given.
        have: usize,
        /// Bytes it says it has.
        need: usize,
    },
    /// The bytes are not those that were written.
    #[error("the record's checksum does not match")]
    Checksum,
    /// A format this version does not know.
    #[error("unknown record format {0}")]
    UnknownFormat(u8),
}

/// A message as it was stored. Headers and payload are exactly what was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its sequence.
    pub seq: u64,
    /// When it was stored, Unix nanoseconds.
    pub ts_ns: u64,
    /// Its subject.
    pub subject: Bytes,
    /// Its header block, empty without headers.
    pub headers: Bytes,
    /// Its payload.
    pub payload: Bytes,
}

/// The bytes before the subject, checksum included. `data` is headers and payload.
pub(crate) fn head(
    seq: u64,
    ts_ns: u64,
    subject: &[u8],
    header_len: u32,
    data: &[u8],
) -> [u8; RECORD_HEAD_BYTES] {
    let len = RECORD_HEAD_BYTES + subject.len() + data.len();
    let mut head = [0u8; RECORD_HEAD_BYTES];
    head[4..8].copy_from_slice(&len_u32(len).to_le_bytes());
    head[8] = FORMAT;
    let subject_len = u16::try_from(subject.len()).unwrap_or(u16::MAX);
    head[10..12].copy_from_slice(&subject_len.to_le_bytes());
    head[12..16].copy_from_slice(&header_len.to_le_bytes());
    head[16..24].copy_from_slice(&seq.to_le_bytes());
    head[24..32].copy_from_slice(&ts_ns.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[4..]);
    hasher.update(subject);
    hasher.update(data);
    head[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
    head
}

/// Where the first record starts that is not whole, in records that follow one another without a gap, as
/// they do in a block; `None` if all of them are whole.
#[must_use]
pub fn first_damaged(block: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at < block.len() {
        let rest = &block[at..];
        let mut reader = Reader::new(rest);
        let (Ok(crc), Ok(len)) = (reader.u32(), reader.u32()) else {
            return Some(at);
        };
        let whole = rest.get(4..len as usize);
        if (len as usize) < RECORD_HEAD_BYTES || whole.map(crc32fast::hash) != Some(crc) {
            return Some(at);
        }
        at += len as usize;
    }
    None
}

/// A record's parts, borrowed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Its sequence.
    pub seq: u64,
    /// When it was stored, Unix nanoseconds.
    pub ts_ns: u64,
    /// Its subject.
    pub subject: &'a [u8],
    /// Bytes of the header block, 0 without headers.
    pub header_len: usize,
    /// Header block and payload.
    pub data: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Reads and checks one whole record.
    ///
    /// # Errors
    /// [`RecordError`]: the bytes are no whole record of this format.
    pub fn parse(record: &'a [u8]) -> Result<Self, RecordError> {
        let short = RecordError::Length {
            have: record.len(),
            need: RECORD_HEAD_BYTES,
        };
        let mut reader = Reader::new(record);
        let crc = reader.u32().map_err(|_| short)?;
        let need = reader.u32().map_err(|_| short)? as usize;
        if need != record.len() || need < RECORD_HEAD_BYTES {
            return Err(RecordError::Length {
                have: record.len(),
                need,
            });
        }
        if crc32fast::hash(&record[4..]) != crc {
            return Err(RecordError::Checksum);
        }
        let format = reader.u8().map_err(|_| short)?;
        if format != FORMAT {
            return Err(RecordError::UnknownFormat(format));
        }
        let _flags = reader.u8().map_err(|_| short)?;
        let subject_len = usize::from(reader.u16().map_err(|_| short)?);
        let header_len = reader.u32().map_err(|_| short)? as usize;
        let seq = reader.u64().map_err(|_| short)?;
        let ts_ns = reader.u64().map_err(|_| short)?;
        let need = (RECORD_HEAD_BYTES + subject_len).saturating_add(header_len);
        let longer = RecordError::Length {
            have: record.len(),
            need,
        };
        let texts = record.get(RECORD_HEAD_BYTES..).ok_or(longer)?;
        let (subject, data) = texts.split_at_checked(subject_len).ok_or(longer)?;
        if header_len > data.len() {
            return Err(longer);
        }
        Ok(Self {
            seq,
            ts_ns,
            subject,
            header_len,
            data,
        })
    }
}

impl StoredMessage {
    /// Reads and checks one whole record.
    pub fn decode(record: Bytes) -> Result<Self, RecordError> {
        let view = RecordView::parse(&record)?;
        let headers_at = RECORD_HEAD_BYTES + view.subject.len();
        let payload_at = headers_at + view.header_len;
        Ok(Self {
            seq: view.seq,
            ts_ns: view.ts_ns,
            subject: record.slice(RECORD_HEAD_BYTES..headers_at),
            headers: record.slice(headers_at..payload_at),
            payload: record.slice(payload_at..),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Vec<u8> {
        let mut bytes = head(7, 9, b"a.b", 2, b"hhpay").to_vec();
        bytes.extend_from_slice(b"a.bhhpay");
        bytes
    }

    #[test]
    fn reads_back() {
        let message = StoredMessage::decode(record().into()).unwrap();
        assert_eq!((message.seq, message.ts_ns), (7, 9));
        assert_eq!(&message.subject[..], b"a.b");
        assert_eq!(
            (&message.headers[..], &message.payload[..]),
            (&b"hh"[..], &b"pay"[..])
        );
    }

    #[test]
    fn bytes_are_golden() {
        let golden: &[u8] =
            b"\x28\0\0\0\x01\0\x03\0\x02\0\0\0\x07\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0a.bhhpay";
        assert_eq!(&record()[4..], golden);
    }

    #[test]
    fn the_first_damaged_record_of_a_block_is_found() {
        let one = record();
        let block = [one.clone(), one.clone(), one.clone()].concat();
        assert_eq!(first_damaged(&block), None);
        assert_eq!(first_damaged(&[]), None);
        for at in 0..block.len() {
            let mut bad = block.clone();
            bad[at] ^= 0x40;
            assert_eq!(
                first_damaged(&bad),
                Some(at / one.len() * one.len()),
                "{at}"
            );
            let cut = &block[..at];
            let whole = (at % one.len() == 0).then_some(None);
            let expected = whole.unwrap_or(Some(at / one.len() * one.len()));
            assert_eq!(first_damaged(cut), expected, "{at}");
        }
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        let good = record();
        for at in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(StoredMessage::decode(bad.into()).is_err(), "{at}");
        }
        assert!(StoredMessage::decode(Bytes::from_static(b"")).is_err());
        assert!(StoredMessage::decode(Bytes::from(good[..20].to_vec())).is_err());
    }
}
