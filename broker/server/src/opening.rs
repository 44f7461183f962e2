//! What happens between accept and the first operation: INFO, the TLS handshake, the WebSocket upgrade.
//!
//! Owns the order of these and their time limits: a peer that says nothing, or says it slowly, holds a
//! socket and a few kilobytes until its time is over. Must never read an operation.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use data_encoding::BASE64URL_NOPAD;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::{Instant, timeout_at};
use unibus_proto::encoder;

use crate::connection::Connection;
use crate::io::Io;
use crate::outbound::Outbound;
use crate::reason::CloseReason;
use crate::session::Session;
use crate::settings::Prepared;
use crate::shared::Shared;
use crate::tls::{self, HandshakeFirst, Opening, TlsSettings};
use crate::websocket::{WebSocketSettings, WsStream, upgrade};
use crate::wire::Wire;

/// Random bytes of a nonce: 15 characters in base64url.
const NONCE_BYTES: usize = 11;

/// What a client that does not encrypt is told (nats-surface §1.7).
const TLS_REQUIRED: &str = "Secure Connection - TLS Required";

/// A connection that has not been opened yet.
#[derive(Clone, Copy)]
pub(crate) struct Guest<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) prepared: &'a Prepared,
    pub(crate) peer: SocketAddr,
}

impl Guest<'_> {
    pub(crate) fn open_plain(&self, stream: TcpStream) -> Box<Connection> {
        let (reader, writer) = stream.into_split();
        let session = self.session(Some(writer));
        self.greet(&session);
        self.connection(session, Io::Tcp(reader))
    }

    /// A NATS listener with TLS: first INFO and then the handshake, or the other way round
    /// (nats-surface §1.13).
    pub(crate) async fn open_tls(
        &self,
        settings: &TlsSettings,
        mut stream: TcpStream,
    ) -> Option<Box<Connection>> {
        let until = Instant::now() + settings.timeout;
        let mut session = self.session(None);
        let first = self.begins_first(settings, &stream, until).await;
        if !first {
            let mut hello = BytesMut::new();
            encoder::info(&mut hello, &session.info(self.shared));
            self.within(until, stream.write_all(&hello)).await?;
        }
        match tls::opening(&stream, until).await {
            Opening::Handshake => {}
            Opening::Gone => return None,
            Opening::Plain | Opening::Silence if settings.required => {
                self.refuse_plain(stream).await;
                return None;
            }
            Opening::Plain | Opening::Silence => {
                let (reader, writer) = stream.into_split();
                session.outbound.attach(writer);
                if first {
                    self.greet(&session);
                }
                return Some(self.connection(session, Io::Tcp(reader)));
            }
        }
        let handshake = tls::handshake(settings, stream, until);
        let Some(stream) = self.done(handshake.await) else {
            let failed = CloseReason::TlsHandshakeError;
            self.shared.unregister(&session.record, failed, 0);
            return None;
        };
        session.secured(tls::identity(settings, &stream));
        if first {
            self.greet(&session);
        }
        Some(self.connection(session, Io::tls(stream)))
    }

    /// A WebSocket listener: TLS if it has one, the HTTP upgrade, and then INFO in the first frame
    /// (nats-surface §1.14).
    pub(crate) async fn open_websocket(
        &self,
        settings: &WebSocketSettings,
        tls: Option<&TlsSettings>,
        stream: TcpStream,
    ) -> Option<Box<Connection>> {
        let mut session = self.session(None);
        let mut wire = match tls {
            None => Wire::Tcp(stream),
            Some(tls) => {
                let until = Instant::now() + tls.timeout;
                let stream = self.done(tls::handshake(tls, stream, until).await)?;
                session.secured(tls::identity(tls, &stream));
                Wire::Tls(stream)
            }
        };
        let until = Instant::now() + settings.handshake_timeout;
        let upgrade = timeout_at(until, upgrade::accept(&mut wire, &settings.origins));
        let masked = match upgrade.await {
            Ok(Ok(masked)) => masked,
            Ok(Err(error)) => {
                tracing::debug!(peer = %self.peer, %error, "WebSocket refused");
                return None;
            }
            Err(_) => {
                tracing::debug!(peer = %self.peer, "WebSocket upgrade timed out");
                return None;
            }
        };
        self.greet(&session);
        Some(self.connection(session, Io::websocket(WsStream::new(wire, masked))))
    }

    /// Whether the client is to begin the handshake before it has seen INFO.
    async fn begins_first(
        &self,
        settings: &TlsSettings,
        stream: &TcpStream,
        until: Instant,
    ) -> bool {
        match settings.handshake_first {
            HandshakeFirst::Never => false,
            HandshakeFirst::Always => true,
            HandshakeFirst::Within(delay) => {
                let until = until.min(Instant::now() + delay);
                tls::opening(stream, until).await == Opening::Handshake
            }
        }
    }

    /// Tells a client that does not encrypt why it is closed.
    async fn refuse_plain(&self, mut stream: TcpStream) {
        tracing::debug!(peer = %self.peer, "no TLS where it is required");
        let mut text = BytesMut::new();
        encoder::err(&mut text, TLS_REQUIRED);
        let until = Instant::now() + self.shared.limits().flush_on_close;
        let telling = async {
            stream.write_all(&text).await?;
            stream.shutdown().await
        };
        let _ = timeout_at(until, telling).await;
    }

    async fn within<T>(
        &self,
        until: Instant,
        doing: impl Future<Output = io::Result<T>>,
    ) -> Option<T> {
        let result = timeout_at(until, doing).await;
        self.done(result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
    }

    fn done<T>(&self, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(done) => Some(done),
            Err(error) => {
                tracing::debug!(peer = %self.peer, %error, "TLS refused");
                None
            }
        }
    }

    fn session(&self, writer: Option<OwnedWriteHalf>) -> Session {
        let shared = self.shared;
        let id = shared.next_id();
        tracing::debug!(client_id = id, peer = %self.peer, "connection accepted");
        let pending_max = shared.limits().pending_bytes_max;
        let outbound = Arc::new(Outbound::for_client(id, pending_max, writer));
        let greeting = Arc::clone(&self.prepared.greeting);
        Session::new(outbound, self.peer, greeting, nonce(shared))
    }

    fn greet(&self, session: &Session) {
        let outbound = &session.outbound;
        outbound.append_with(|out| encoder::info(out, &session.info(self.shared)));
        outbound.flush();
    }

    fn connection(&self, session: Session, io: Io) -> Box<Connection> {
        session.record.set_link(io.kind(), io.tls_facts());
        Box::new(Connection::new(Arc::clone(self.shared), session, io))
    }
}

fn nonce(shared: &Shared) -> Option<Box<str>> {
    let options = &shared.options;
    (shared.is_auth_required() || options.always_nonce).then(|| {
        let random: [u8; NONCE_BYTES] = rand::random();
        BASE64URL_NOPAD.encode(&random).into_boxed_str()
    })
}
