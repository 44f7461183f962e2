//! TLS of client connections (nats-surface §1.13).
//!
//! Owns who speaks first, how a client that does not encrypt is told apart, and what is taken from its
//! certificate. The certificates themselves come ready in a `rustls::ServerConfig`. Must never read an
//! operation.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certificate::CertificateIdentity;

/// The first byte of a TLS handshake record. No operation of a client begins with it.
const HANDSHAKE_RECORD: u8 = 0x16;

/// How a listener encrypts.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// Certificate, key, versions and whether clients are asked for certificates.
    pub config: Arc<ServerConfig>,
    /// Who speaks first.
    pub handshake_first: HandshakeFirst,
    /// From accept to the end of the handshake.
    pub timeout: Duration,
    /// A client that does not encrypt is refused. False = mixed mode; not for WebSocket.
    pub required: bool,
    /// `tls_verify` of INFO: clients are asked for certificates.
    pub verify: bool,
    /// The authenticator sees the names in a client's certificate.
    pub map: bool,
}

/// Who speaks first.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum HandshakeFirst {
    /// INFO in plain text, then the handshake.
    #[default]
    Never,
    /// The handshake, then INFO inside TLS.
    Always,
    /// The handshake if the client begins one within this time, else INFO in plain text first.
    Within(Duration),
}

/// What a client began with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Opening {
    /// A TLS handshake.
    Handshake,
    /// Something else.
    Plain,
    /// Nothing, in the time it had.
    Silence,
    /// The end.
    Gone,
}

/// Waits for the client's first byte and leaves it where it is.
pub(crate) async fn opening(stream: &TcpStream, until: Instant) -> Opening {
    let mut first = [0];
    match timeout_at(until, stream.peek(&mut first)).await {
        Err(_) => Opening::Silence,
        Ok(Err(_) | Ok(0)) => Opening::Gone,
        Ok(Ok(_)) if first[0] == HANDSHAKE_RECORD => Opening::Handshake,
        Ok(Ok(_)) => Opening::Plain,
    }
}

/// Runs the handshake.
///
/// # Errors
/// What rustls says; `TimedOut` after `until`.
pub(crate) async fn handshake(
    settings: &TlsSettings,
    stream: TcpStream,
    until: Instant,
) -> io::Result<Box<TlsStream<TcpStream>>> {
    let acceptor = TlsAcceptor::from(Arc::clone(&settings.config));
    let left = until.saturating_duration_since(Instant::now());
    match timeout(left, acceptor.accept(stream)).await {
        Ok(done) => done.map(Box::new),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// The names in the client's certificate, where users are looked up by them. A certificate that can't
/// be read has none: the authenticator then refuses.
pub(crate) fn identity(
    settings: &TlsSettings,
    stream: &TlsStream<TcpStream>,
) -> Option<Arc<CertificateIdentity>> {
    if !settings.map {
        return None;
    }
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let first = certificates.first().map(AsRef::as_ref).unwrap_or_default();
    Some(Arc::new(
        CertificateIdentity::from_der(first).unwrap_or_default(),
    ))
}
