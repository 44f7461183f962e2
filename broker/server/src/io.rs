//! A client's byte stream: plain TCP, TLS or WebSocket.
//!
//! Owns the difference between them. Plain TCP is split, and its writing side lives in the outbound
//! where every publisher can use it; the others are written by the connection's task only, and may hold
//! bytes that they have taken and not yet written.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use crate::outbound::{Close, Outbound};
use crate::reason::CloseReason;
use crate::report::{ConnectionKind, TlsFacts};
use crate::websocket::WsStream;
use crate::wire::Wire;

#[derive(Debug)]
pub(crate) enum Io {
    Tcp(OwnedReadHalf),
    Tls(Owned<Box<TlsStream<TcpStream>>>),
    WebSocket(Owned<Box<WsStream>>),
}

impl Io {
    pub(crate) const fn tls(stream: Box<TlsStream<TcpStream>>) -> Self {
        Self::Tls(Owned::new(stream))
    }

    pub(crate) fn websocket(stream: WsStream) -> Self {
        Self::WebSocket(Owned::new(Box::new(stream)))
    }

    /// Writes what is pending. Pending when the socket takes no more, and the task is registered.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        outbound: &Outbound,
        full: bool,
    ) -> Poll<()> {
        match self {
            Self::Tcp(reader) => {
                if full {
                    // An error is found again by the write itself.
                    if reader.as_ref().poll_write_ready(cx).is_pending() {
                        return Poll::Pending;
                    }
                    outbound.writable();
                }
                outbound.flush();
                Poll::Ready(())
            }
            Self::Tls(stream) => stream.poll_write(cx, outbound),
            Self::WebSocket(stream) => stream.poll_write(cx, outbound),
        }
    }

    /// Since when bytes that were taken from the outbound wait to reach the socket: nothing is pending
    /// there, and still [`Self::poll_write`] has to be called.
    pub(crate) const fn unflushed(&self) -> Option<Instant> {
        match self {
            Self::Tcp(_) => None,
            Self::Tls(stream) => stream.unflushed,
            Self::WebSocket(stream) => stream.unflushed,
        }
    }

    /// What TLS agreed upon; `None` in plain text.
    pub(crate) fn tls_facts(&self) -> Option<TlsFacts> {
        let stream = match self {
            Self::Tcp(_) => return None,
            Self::Tls(owned) => &owned.stream,
            Self::WebSocket(owned) => match owned.stream.wire() {
                Wire::Tcp(_) => return None,
                Wire::Tls(stream) => stream,
            },
        };
        let (_, session) = stream.get_ref();
        Some(TlsFacts {
            version: session.protocol_version().map(version).unwrap_or_default(),
            cipher: session
                .negotiated_cipher_suite()
                .map(|suite| cipher(&format!("{:?}", suite.suite())))
                .unwrap_or_default(),
        })
    }

    /// How the client talks to the node.
    pub(crate) const fn kind(&self) -> ConnectionKind {
        match self {
            Self::Tcp(_) | Self::Tls(_) => ConnectionKind::Nats,
            Self::WebSocket(_) => ConnectionKind::WebSocket,
        }
    }

    /// Ends the writing side, with words where the protocol has some.
    pub(crate) async fn shutdown(&mut self, reason: CloseReason) -> io::Result<()> {
        match self {
            Self::Tcp(_) => Ok(()),
            Self::Tls(stream) => stream.stream.shutdown().await,
            Self::WebSocket(stream) => {
                let (code, words) = farewell(reason);
                stream.stream.close(code, words);
                stream.stream.shutdown().await
            }
        }
    }

    /// Whether the client waits for an answer although it has closed its side.
    pub(crate) fn owes_farewell(&self) -> bool {
        matches!(self, Self::WebSocket(stream) if stream.stream.owes())
    }
}

/// Close code and words for a WebSocket client (RFC 6455 §7.4.1).
const fn farewell(reason: CloseReason) -> (u16, &'static str) {
    let code = match reason {
        CloseReason::ClientClosed => 1000,
        CloseReason::ServerShutdown => 1001,
        CloseReason::ParseError
        | CloseReason::ProtocolViolation
        | CloseReason::BadClientProtocolVersion
        | CloseReason::NoRespondersRequiresHeaders
        | CloseReason::MsgHeaderViolation => 1002,
        CloseReason::MaxPayloadExceeded | CloseReason::MaxControlLineExceeded => 1009,
        _ => 1008,
    };
    (code, reason.text())
}

/// As nats-server writes it: `1.3`.
fn version(version: rustls::ProtocolVersion) -> String {
    match version {
        rustls::ProtocolVersion::TLSv1_3 => "1.3".into(),
        rustls::ProtocolVersion::TLSv1_2 => "1.2".into(),
        other => format!("{other:?}"),
    }
}

/// IANA's name: rustls puts `TLS13_` before the suites of TLS 1.3.
fn cipher(name: &str) -> String {
    name.replacen("TLS13_", "TLS_", 1)
}

/// A stream that only the connection's task writes.
#[derive(Debug)]
pub(crate) struct Owned<S> {
    stream: S,
    /// Since when the stream itself holds bytes; renewed by every progress.
    unflushed: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Owned<S> {
    const fn new(stream: S) -> Self {
        Self {
            stream,
            unflushed: None,
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, outbound: &Outbound) -> Poll<()> {
        let mut progress = false;
        while let Some(mut chunk) = outbound.take_chunk() {
            let before = chunk.len();
            let result = self.write(cx, &mut chunk);
            progress |= chunk.len() < before;
            let full = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
            let failed = result.as_ref().is_err_and(|error| !full(error));
            if !outbound.wrote(chunk, before, result) {
                if failed {
                    self.unflushed = None;
                    return Poll::Ready(());
                }
                self.note(progress);
                return Poll::Pending;
            }
        }
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(result) => {
                self.unflushed = None;
                if result.is_err() {
                    outbound.close(Close::Failed);
                }
                Poll::Ready(())
            }
            Poll::Pending => {
                self.note(progress);
                Poll::Pending
            }
        }
    }

    /// The stream holds bytes.
    fn note(&mut self, progress: bool) {
        if progress || self.unflushed.is_none() {
            self.unflushed = Some(Instant::now());
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, chunk: &mut BytesMut) -> io::Result<()> {
        let mut written = 0;
        let result = loop {
            if written == chunk.len() {
                // Not `advance`: the whole capacity stays usable, and is seen.
                chunk.clear();
                return Ok(());
            }
            match Pin::new(&mut self.stream).poll_write(cx, &chunk[written..]) {
                Poll::Ready(Ok(0)) => break Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(more)) => written += more,
                Poll::Ready(Err(error)) => break Err(error),
                Poll::Pending => break Err(io::ErrorKind::WouldBlock.into()),
            }
        };
        chunk.advance(written);
        result
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(reader) => Pin::new(reader).poll_read(cx, buffer),
            Self::Tls(owned) => Pin::new(&mut owned.stream).poll_read(cx, buffer),
            Self::WebSocket(owned) => {
                let result = Pin::new(&mut owned.stream).poll_read(cx, buffer);
                if owned.stream.owes() {
                    owned.note(false);
                }
                result
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// A client that has gone.
    struct Broken;

    impl AsyncRead for Broken {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
    }

    impl AsyncWrite for Broken {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }
    }

    #[test]
    fn a_last_word_to_a_client_that_has_gone_is_not_tried_for_ever() {
        let outbound = Outbound::new(1, 1000, None);
        outbound.append_with(|bytes| bytes.extend_from_slice(b"-ERR 'Unknown Protocol Operation'"));
        let reason = Close::AfterFlush(CloseReason::ParseError);
        assert_eq!(outbound.close(reason), reason);
        let mut owned = Owned::new(Broken);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(owned.poll_write(&mut cx, &outbound).is_ready());
        let left = outbound.take_chunk();
        assert!(left.is_none() && owned.unflushed.is_none(), "{left:?}");
        assert_eq!(outbound.status().pending, 0);
        assert_eq!(outbound.close(Close::Gone), reason);
    }
}
