//! The byte layout of requests and answers, and a buffered reader for streams of them.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quinn::RecvStream;
use tokio::io::AsyncReadExt;
use unibus_raft::{GroupId, RpcClass};

use super::super::limits::{RPC_BODY_BYTES_MAX, RPC_ERROR_TEXT_BYTES_MAX, RPC_INLINE_BYTES_MAX};

/// Bytes asked of a stream of many frames at once,
const READ_BYTES: usize = 64 * 1024;
/// and of a stream of one: larger bodies say their length.
const READ_ONE_BYTES: usize = 512;
/// What a frame costs beside its body, for the size of a batch.
const HEAD_BYTES: usize = 16;
/// A body's announced length is trusted this far before its bytes are there.
const RESERVE_BYTES_MAX: usize = 1024 * 1024;

/// Why a stream of frames ended.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum FrameError {
    /// The stream or its connection ended in the middle of a frame.
    #[error("{0}")]
    Lost(String),
    /// The peer broke the protocol.
    #[error("the peer sent a bad RPC frame: {0}")]
    Malformed(&'static str),
}

impl FrameError {
    pub(crate) fn lost(error: impl std::fmt::Display) -> Self {
        Self::Lost(error.to_string())
    }
}

/// What a handler returned, or why it did not.
pub(crate) type Answer = Result<Bytes, String>;

/// `group u32, length u32, body`.
pub(crate) fn put_request_head(out: &mut BytesMut, group: GroupId, body: &Bytes) {
    out.put_u32_le(group.0);
    put_length(out, body);
}

fn put_length(out: &mut BytesMut, body: &Bytes) {
    // Bodies are bounded far below u32 before they come here.
    out.put_u32_le(u32::try_from(body.len()).unwrap_or(u32::MAX));
}

/// `status u8, length u32, body`: status 0 is an answer, 1 a refusal with its text.
pub(crate) fn put_answer_head(out: &mut BytesMut, answer: Answer) -> Bytes {
    let (status, body) = match answer {
        Ok(body) if body.len() <= RPC_BODY_BYTES_MAX => (0, body),
        Ok(body) => (
            1,
            Bytes::from(format!("answer of {} bytes is too large", body.len())),
        ),
        Err(mut text) => {
            let mut end = text.len().min(RPC_ERROR_TEXT_BYTES_MAX);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            (1, Bytes::from(text))
        }
    };
    out.put_u8(status);
    put_length(out, &body);
    body
}

/// Collects frames for one write: heads and small bodies are copied together, large bodies are
/// handed to QUIC as they are.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    chunks: Vec<Bytes>,
    tail: BytesMut,
    bytes: usize,
}

impl Batch {
    pub(crate) fn head(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    pub(crate) fn body(&mut self, body: Bytes) {
        self.bytes += HEAD_BYTES + body.len();
        if body.len() <= RPC_INLINE_BYTES_MAX {
            self.tail.extend_from_slice(&body);
        } else {
            let tail = self.tail.split().freeze();
            if !tail.is_empty() {
                self.chunks.push(tail);
            }
            self.chunks.push(body);
        }
    }

    /// Bytes in it, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.tail.is_empty()
    }

    pub(crate) async fn write(&mut self, send: &mut quinn::SendStream) -> Result<(), FrameError> {
        let tail = self.tail.split().freeze();
        if !tail.is_empty() {
            self.chunks.push(tail);
        }
        let written = send
            .write_all_chunks(&mut self.chunks)
            .await
            .map_err(FrameError::lost);
        self.chunks.clear();
        self.bytes = 0;
        written
    }
}

/// Reads frames out of a stream with few large reads.
#[derive(Debug)]
pub(crate) struct FrameReader {
    recv: RecvStream,
    buffer: BytesMut,
    /// Least bytes asked for at once.
    read_bytes: usize,
}

impl FrameReader {
    pub(crate) fn new(recv: RecvStream) -> Self {
        Self {
            recv,
            buffer: BytesMut::new(),
            read_bytes: READ_BYTES,
        }
    }

    /// For a stream that carries one frame.
    pub(crate) fn for_one(recv: RecvStream) -> Self {
        Self {
            read_bytes: READ_ONE_BYTES,
            ..Self::new(recv)
        }
    }

    /// There will be many frames after all.
    pub(crate) fn expect_many(&mut self) {
        self.read_bytes = READ_BYTES;
    }

    /// Waits until `wanted` bytes are buffered; false if the stream ends cleanly before the first.
    async fn fill(&mut self, wanted: usize) -> Result<bool, FrameError> {
        while self.buffer.len() < wanted {
            let missing = wanted - self.buffer.len();
            self.buffer
                .reserve(missing.clamp(self.read_bytes, RESERVE_BYTES_MAX));
            let count = self
                .recv
                .read_buf(&mut self.buffer)
                .await
                .map_err(FrameError::lost)?;
            if count == 0 {
                if self.buffer.is_empty() {
                    return Ok(false);
                }
                return Err(FrameError::Lost(
                    "the stream ended within a frame".to_owned(),
                ));
            }
        }
        Ok(true)
    }

    async fn need(&mut self, wanted: usize) -> Result<(), FrameError> {
        if self.fill(wanted).await? {
            return Ok(());
        }
        Err(FrameError::Lost(
            "the stream ended within a frame".to_owned(),
        ))
    }

    /// The next frame's correlation id; `None` at a clean end.
    pub(crate) async fn correlation(&mut self) -> Result<Option<u64>, FrameError> {
        Ok(self.fill(8).await?.then(|| self.buffer.get_u64_le()))
    }

    pub(crate) async fn byte(&mut self) -> Result<u8, FrameError> {
        self.need(1).await?;
        Ok(self.buffer.get_u8())
    }

    pub(crate) async fn class(&mut self) -> Result<RpcClass, FrameError> {
        let byte = self.byte().await?;
        RpcClass::from_wire(byte).ok_or(FrameError::Malformed("unknown class"))
    }

    pub(crate) async fn request(&mut self) -> Result<(GroupId, Bytes), FrameError> {
        self.need(4).await?;
        let group = GroupId(self.buffer.get_u32_le());
        Ok((group, self.body().await?))
    }

    pub(crate) async fn answer(&mut self) -> Result<Answer, FrameError> {
        let status = self.byte().await?;
        let body = self.body().await?;
        match status {
            0 => Ok(Ok(body)),
            1 => Ok(Err(String::from_utf8_lossy(&body).into_owned())),
            _ => Err(FrameError::Malformed("unknown status")),
        }
    }

    async fn body(&mut self) -> Result<Bytes, FrameError> {
        self.need(4).await?;
        let length = self.buffer.get_u32_le() as usize;
        if length > RPC_BODY_BYTES_MAX {
            return Err(FrameError::Malformed("body over its limit"));
        }
        self.need(length).await?;
        Ok(self.buffer.split_to(length).freeze())
    }
}
