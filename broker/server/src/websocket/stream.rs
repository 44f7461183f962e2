//! NATS bytes inside WebSocket frames, as one byte stream (RFC 6455 §5, nats-surface §1.14).
//!
//! Owns wrapping what is written into binary frames, answering pings and the closing handshake. Holds
//! no buffers: a frame's header is written together with bytes of the caller, and what is read is
//! unwrapped where the caller wants it. Must never look at the NATS protocol.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::frames::{Asked, CONTROL_BYTES_MAX, FrameReader};
use crate::wire::Wire;

/// Longest frame that is sent, in payload bytes.
const FRAME_BYTES_MAX: usize = 64 * 1024;

/// Header of what a server sends, without a mask.
const HEADER_BYTES_MAX: usize = 10;

/// A client's stream after the upgrade.
#[derive(Debug)]
pub(crate) struct WsStream {
    wire: Wire,
    frames: FrameReader,
    /// The header of the frame that is being written.
    header: Small<HEADER_BYTES_MAX>,
    /// Payload bytes which that header has promised and the caller still has to give.
    promised: usize,
    /// A pong or close that waits for the end of a frame.
    answer: Small<{ CONTROL_BYTES_MAX + 2 }>,
    /// A close frame was queued: nothing is written after it.
    closing: bool,
    /// The client's side has ended.
    ended: bool,
}

/// A few bytes on their way out.
#[derive(Debug)]
struct Small<const N: usize> {
    bytes: [u8; N],
    at: usize,
    end: usize,
}

impl<const N: usize> Small<N> {
    const EMPTY: Self = Self {
        bytes: [0; N],
        at: 0,
        end: 0,
    };

    fn rest(&self) -> &[u8] {
        &self.bytes[self.at..self.end]
    }

    const fn is_empty(&self) -> bool {
        self.at == self.end
    }

    /// Replaces the content. What does not fit is left out: callers know their lengths.
    fn set(&mut self, parts: [&[u8]; 2]) {
        (self.at, self.end) = (0, 0);
        for part in parts {
            let len = part.len().min(N - self.end);
            self.bytes[self.end..self.end + len].copy_from_slice(&part[..len]);
            self.end += len;
        }
    }
}

fn header(opcode: OpCode, length: usize) -> Small<HEADER_BYTES_MAX> {
    let mut header = Small::EMPTY;
    let frame = FrameHeader {
        opcode,
        ..FrameHeader::default()
    };
    let mut room = &mut header.bytes[..];
    let before = room.len();
    // Ten bytes hold every header without a mask.
    let _ = frame.format(length as u64, &mut room);
    header.end = before - room.len();
    header
}

impl WsStream {
    /// `masked` = the client has to mask its frames.
    pub(crate) const fn new(wire: Wire, masked: bool) -> Self {
        Self {
            wire,
            frames: FrameReader::new(masked),
            header: Small::EMPTY,
            promised: 0,
            answer: Small::EMPTY,
            closing: false,
            ended: false,
        }
    }

    pub(crate) const fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Whether an answer to the client waits to be written.
    pub(crate) const fn owes(&self) -> bool {
        !self.answer.is_empty()
    }

    /// Queues a close frame, unless one was queued before.
    pub(crate) fn close(&mut self, code: u16, reason: &str) {
        let code = u16::from(CloseCode::from(code)).to_be_bytes();
        let room = CONTROL_BYTES_MAX - code.len();
        let mut end = reason.len().min(room);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let mut payload = Small::<CONTROL_BYTES_MAX>::EMPTY;
        payload.set([&code, &reason.as_bytes()[..end]]);
        self.queue(Control::Close, payload.rest());
    }

    fn queue(&mut self, control: Control, payload: &[u8]) {
        if self.closing {
            return;
        }
        // An answer that is partly on the wire stays: a pong may be left out, and a close comes again
        // with the end of the connection.
        if self.answer.at > 0 && !self.answer.is_empty() {
            return;
        }
        self.closing = control == Control::Close;
        let header = header(OpCode::Control(control), payload.len());
        self.answer.set([header.rest(), payload]);
    }

    fn take_orders(&mut self, asked: Asked) {
        let payload = *self.frames.asked();
        match asked {
            Asked::Pong => self.queue(Control::Pong, payload.bytes()),
            Asked::Close => {
                self.ended = true;
                self.queue(Control::Close, payload.bytes());
            }
        }
    }

    /// Writes a waiting answer if the stream is between two frames.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.promised > 0 || !self.header.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.answer.is_empty() {
            let written = ready!(Pin::new(&mut self.wire).poll_write(cx, self.answer.rest()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.answer.at += written;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for WsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        while !this.ended && buffer.remaining() > 0 {
            ready!(Pin::new(&mut this.wire).poll_read(cx, buffer))?;
            let raw = &mut buffer.filled_mut()[before..];
            if raw.is_empty() {
                this.ended = true;
                break;
            }
            let unwrapped = match this.frames.unwrap(raw) {
                Ok(unwrapped) => unwrapped,
                Err(error) => {
                    buffer.set_filled(before);
                    this.ended = true;
                    this.close(u16::from(CloseCode::Protocol), &error.to_string());
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
            };
            buffer.set_filled(before + unwrapped.data);
            if let Some(asked) = unwrapped.asked {
                this.take_orders(asked);
                // What can't be written now is written when the socket is writable.
                if let Poll::Ready(result) = Pin::new(&mut *this).poll_flush(cx) {
                    result?;
                }
            }
            if unwrapped.data > 0 {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WsStream {
    /// Between `Pending` and the next call the first bytes of `bytes` have to stay the same: a header
    /// may have promised them.
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_answer(cx))?;
        if this.promised == 0 && this.header.is_empty() {
            if this.closing || bytes.is_empty() {
                // Nobody reads after a close.
                return Poll::Ready(Ok(bytes.len()));
            }
            this.promised = bytes.len().min(FRAME_BYTES_MAX);
            this.header = header(OpCode::Data(Data::Binary), this.promised);
        }
        loop {
            let payload = &bytes[..this.promised.min(bytes.len())];
            let both = [IoSlice::new(this.header.rest()), IoSlice::new(payload)];
            let written = ready!(Pin::new(&mut this.wire).poll_write_vectored(cx, &both))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_header = written.min(this.header.rest().len());
            this.header.at += of_header;
            let of_payload = written - of_header;
            this.promised -= of_payload;
            if of_payload > 0 {
                return Poll::Ready(Ok(of_payload));
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_answer(cx))?;
        Pin::new(&mut this.wire).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut *this).poll_flush(cx))?;
        Pin::new(&mut this.wire).poll_shutdown(cx)
    }
}
