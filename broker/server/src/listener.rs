//! The accept loop.
//!
//! Owns the count of connections and what happens before the first operation: INFO, and the TLS
//! handshake. Must never read an operation.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use data_encoding::BASE64URL_NOPAD;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use unibus_proto::encoder;

use crate::connection::Connection;
use crate::io::Io;
use crate::outbound::Outbound;
use crate::report::ConnectionKind;
use crate::session::Session;
use crate::shared::Shared;
use crate::stats::count;

/// Random bytes of a nonce: 15 characters in base64url.
const NONCE_BYTES: usize = 11;

/// Pause after a failed accept, such as too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Counts one connection for as long as it lives.
struct Permit(Arc<Shared>);

impl Permit {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let permit = Self(Arc::clone(shared));
        let open = shared.counters.connections.fetch_add(1, Ordering::Relaxed);
        (open < shared.limits().connections_max).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.counters.connections.fetch_sub(1, Ordering::Relaxed);
        self.0.gone.notify_waiters();
    }
}

/// Accepts until `shutdown` turns true or its sender is gone.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    listener: TcpListener,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut closing = shared.closing.subscribe();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => return,
            _ = closing.wait_for(|closing| *closing) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => accept(shared, stream, peer),
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

fn accept(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    let _ = stream.set_nodelay(true);
    let permit = Permit::take(shared);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        match permit {
            Some(permit) => {
                count(&shared.counters.connections_total);
                start(Arc::clone(&shared), stream, peer).await;
                drop(permit);
            }
            None => {
                let longest = shared.limits().flush_on_close;
                let _ = tokio::time::timeout(longest, Box::pin(turn_away(&shared, stream))).await;
            }
        }
    });
}

/// Serves one connection to its end.
async fn start(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    let opened = if shared.options.tls.is_none() {
        Some(open_plain(&shared, stream, peer))
    } else {
        Box::pin(open_tls(&shared, stream, peer)).await
    };
    drop(shared);
    if let Some(connection) = opened {
        connection.register();
        connection.run().await;
    }
}

fn open_plain(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr) -> Box<Connection> {
    let (reader, writer) = stream.into_split();
    let session = open_session(shared, Some(writer), peer);
    let outbound = &session.outbound;
    outbound.append_with(|out| encoder::info(out, &session.info(shared)));
    outbound.flush();
    Box::new(Connection::new(
        Arc::clone(shared),
        session,
        Io::Tcp(reader),
    ))
}

async fn open_tls(
    shared: &Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
) -> Option<Box<Connection>> {
    let session = open_session(shared, None, peer);
    let longest = shared.limits().tls_timeout;
    match tokio::time::timeout(longest, secure(shared, &session, stream)).await {
        Ok(Ok(io)) => {
            session
                .record
                .set_link(ConnectionKind::Nats, io.tls_facts());
            Some(Box::new(Connection::new(Arc::clone(shared), session, io)))
        }
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "TLS refused");
            None
        }
        Err(_) => {
            tracing::debug!(%peer, "TLS handshake timed out");
            None
        }
    }
}

fn open_session(shared: &Shared, writer: Option<OwnedWriteHalf>, peer: SocketAddr) -> Session {
    let id = shared.next_id();
    tracing::debug!(client_id = id, %peer, "connection accepted");
    let pending_max = shared.limits().pending_bytes_max;
    let outbound = Arc::new(Outbound::new(id, pending_max, writer));
    Session::new(shared, outbound, peer, nonce(shared))
}

/// INFO in plain text, then the handshake.
async fn secure(shared: &Shared, session: &Session, mut stream: TcpStream) -> io::Result<Io> {
    let config = shared
        .options
        .tls
        .clone()
        .ok_or(io::ErrorKind::Unsupported)?;
    let mut hello = BytesMut::new();
    encoder::info(&mut hello, &session.info(shared));
    stream.write_all(&hello).await?;
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    Ok(Io::Tls(Box::new(stream)))
}

async fn turn_away(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    let mut text = BytesMut::new();
    encoder::info(&mut text, &shared.info.load());
    encoder::err(&mut text, "maximum connections exceeded");
    stream.write_all(&text).await?;
    stream.shutdown().await
}

fn nonce(shared: &Shared) -> Option<Box<str>> {
    let options = &shared.options;
    (shared.is_auth_required() || options.always_nonce).then(|| {
        let random: [u8; NONCE_BYTES] = rand::random();
        BASE64URL_NOPAD.encode(&random).into_boxed_str()
    })
}
