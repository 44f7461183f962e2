//! A client's byte stream: plain TCP or TLS.
//!
//! Owns the difference between them. Plain TCP is split, and its writing side lives in the outbound
//! where every publisher can use it; a TLS stream is written by the connection's task only.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio_rustls::server::TlsStream;

use crate::outbound::Outbound;
use crate::report::TlsFacts;

pub(crate) enum Io {
    Tcp(OwnedReadHalf),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Io {
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
            Self::Tls(stream) => poll_write_tls(stream, cx, outbound),
        }
    }

    /// What TLS agreed upon; `None` in plain text.
    pub(crate) fn tls_facts(&self) -> Option<TlsFacts> {
        let Self::Tls(stream) = self else {
            return None;
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

    /// Ends the writing side.
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(_) => Ok(()),
            Self::Tls(stream) => stream.shutdown().await,
        }
    }
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

fn poll_write_tls(
    stream: &mut TlsStream<TcpStream>,
    cx: &mut Context<'_>,
    outbound: &Outbound,
) -> Poll<()> {
    while let Some(mut chunk) = outbound.take_chunk() {
        let before = chunk.len();
        let result = write_tls(stream, cx, &mut chunk);
        if !outbound.wrote(chunk, before, result) {
            return Poll::Pending;
        }
    }
    match pin!(stream.flush()).poll(cx) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => Poll::Pending,
    }
}

fn write_tls(
    stream: &mut TlsStream<TcpStream>,
    cx: &mut Context<'_>,
    chunk: &mut BytesMut,
) -> io::Result<()> {
    while !chunk.is_empty() {
        match Pin::new(&mut *stream).poll_write(cx, chunk) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(written)) => chunk.advance(written),
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
        }
    }
    Ok(())
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(reader) => Pin::new(reader).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buffer),
        }
    }
}
