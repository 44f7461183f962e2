//! Reading our own hand-framed bytes: little-endian integers, bytes with a length. Every read is
//! checked, nothing allocates for a length that the input does not hold.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The bytes are not what the format says.
#[derive(Debug, Clone, Eq, PartialEq, thiserror::Error)]
#[error("bad frame: {0}")]
pub(crate) struct FrameError(pub(crate) &'static str);

/// Takes fields off the front of a buffer; byte fields are slices of it.
#[derive(Debug)]
pub(crate) struct Reader {
    rest: Bytes,
}

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FrameError> {
        self.rest.try_get_u8().map_err(|_| FrameError("short"))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FrameError> {
        self.rest.try_get_u32_le().map_err(|_| FrameError("short"))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FrameError> {
        self.rest.try_get_u64_le().map_err(|_| FrameError("short"))
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<Bytes, FrameError> {
        if self.rest.len() < len {
            return Err(FrameError("short"));
        }
        Ok(self.rest.split_to(len))
    }

    /// A field written by [`put_bytes`].
    pub(crate) fn bytes(&mut self) -> Result<Bytes, FrameError> {
        let len = self.u32()?;
        self.take(usize::try_from(len).map_err(|_| FrameError("length"))?)
    }

    pub(crate) fn digest(&mut self) -> Result<[u8; 32], FrameError> {
        let bytes = self.take(32)?;
        <[u8; 32]>::try_from(bytes.as_ref()).map_err(|_| FrameError("digest"))
    }

    pub(crate) fn text(&mut self) -> Result<String, FrameError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| FrameError("text"))
    }

    pub(crate) fn rest(self) -> Bytes {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Appends a length and the bytes. Inputs are far below 4 GiB by the limits of their makers.
pub(crate) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    debug_assert!(u32::try_from(bytes.len()).is_ok());
    out.put_u32_le(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}
