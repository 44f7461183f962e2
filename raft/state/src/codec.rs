//! Little-endian framing shared by commands, outcomes, records and rows. Every length is checked
//! against what is there before anything is allocated; malformed input is an error, never a panic.

use bytes::Bytes;
use thiserror::Error;

/// Why bytes could not be read.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
pub enum CodecError {
    /// Ends before the value does.
    #[error("the bytes end too early")]
    Truncated,
    /// A format this version does not know.
    #[error("unknown format {0}")]
    UnknownFormat(u8),
    /// A kind this version does not know.
    #[error("unknown kind {0}")]
    UnknownKind(u8),
    /// A length or count over its limit, or bytes left over.
    #[error("a length is out of range")]
    Length,
    /// A body that does not parse.
    #[error("a body is malformed")]
    Malformed,
}

/// Reads values from the front of a slice.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, CodecError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn key(&mut self) -> Result<[u8; 16], CodecError> {
        self.array()
    }

    pub(crate) fn flag(&mut self) -> Result<bool, CodecError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodecError::Malformed),
        }
    }

    /// A byte string with a 32-bit length.
    pub(crate) fn blob(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.u32()?;
        self.take(usize::try_from(len).map_err(|_| CodecError::Length)?)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, CodecError> {
        std::str::from_utf8(self.blob()?).map_err(|_| CodecError::Malformed)
    }

    /// A count of items that take at least `item_bytes_min` each.
    pub(crate) fn count(&mut self, item_bytes_min: usize) -> Result<usize, CodecError> {
        let count = usize::try_from(self.u32()?).map_err(|_| CodecError::Length)?;
        if count
            .checked_mul(item_bytes_min)
            .is_none_or(|bytes| bytes > self.rest.len())
        {
            return Err(CodecError::Length);
        }
        Ok(count)
    }

    /// Seven bits a byte, lowest first; the only form of each number is the shortest.
    pub(crate) fn varint(&mut self) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(CodecError::Malformed);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(CodecError::Malformed);
                }
                return Ok(value);
            }
        }
        Err(CodecError::Malformed)
    }

    /// Like [`Reader::count`], for a count written as a varint.
    pub(crate) fn varint_count(&mut self, item_bytes_min: usize) -> Result<usize, CodecError> {
        let count = usize::try_from(self.varint()?).map_err(|_| CodecError::Length)?;
        if count
            .checked_mul(item_bytes_min)
            .is_none_or(|bytes| bytes > self.rest.len())
        {
            return Err(CodecError::Length);
        }
        Ok(count)
    }

    pub(crate) fn finish(self) -> Result<(), CodecError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(CodecError::Length)
        }
    }
}

pub(crate) fn put_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&len_u32(bytes.len()).to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Lengths here come from messages bounded far below 4 GiB; a longer one could not be framed at all.
pub(crate) fn len_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// The part of `whole` that `part` (a slice of it) covers, sharing the allocation.
pub(crate) fn share(whole: &Bytes, part: &[u8]) -> Bytes {
    if part.is_empty() {
        Bytes::new()
    } else {
        whole.slice_ref(part)
    }
}
