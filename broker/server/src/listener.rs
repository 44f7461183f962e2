//! The accept loop.
//!
//! Owns the count of connections. What happens before the first operation is `opening`'s part.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use unibus_proto::encoder;
use unibus_proto::handshake::ServerInfo;

use crate::accepting::{ACCEPT_RETRY, AcceptFailures};
use crate::opening::Guest;
use crate::settings::{ClientListener, Prepared};
use crate::shared::Shared;
use crate::stats::count;
use crate::websocket::upgrade::refusal;

/// Clients of one listener that are told at the same time that there are too many; one more is closed
/// without a word. They are not among those that are counted, and each takes an open file.
const TURNED_AWAY_MAX: usize = 64;

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
    settings: &ClientListener,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut closing = shared.closing.subscribe();
    let turning_away = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
    let mut failures = AcceptFailures::default();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => return,
            _ = closing.wait_for(|closing| *closing) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => accept(shared, settings.prepared(), &turning_away, stream, peer),
            Err(error) => failures.heed("clients", &error, ACCEPT_RETRY).await,
        }
    }
}

fn accept(
    shared: &Arc<Shared>,
    prepared: Arc<Prepared>,
    turning_away: &Arc<Semaphore>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let _ = stream.set_nodelay(true);
    let permit = Permit::take(shared);
    let shared = Arc::clone(shared);
    if let Some(permit) = permit {
        tokio::spawn(async move {
            count(&shared.counters.connections_total);
            start(shared, prepared, stream, peer).await;
            drop(permit);
        });
    } else if let Ok(place) = Arc::clone(turning_away).try_acquire_owned() {
        tokio::spawn(async move {
            let longest = shared.limits().flush_on_close;
            let refusing = Box::pin(turn_away(&shared, &prepared, stream));
            let _ = tokio::time::timeout(longest, refusing).await;
            drop(place);
        });
    }
}

/// Serves one connection to its end.
async fn start(shared: Arc<Shared>, prepared: Arc<Prepared>, stream: TcpStream, peer: SocketAddr) {
    let guest = Guest {
        shared: &shared,
        prepared: &prepared,
        peer,
    };
    let settings = &prepared.settings;
    let opened = match (&settings.websocket, &settings.tls) {
        (None, None) => Some(guest.open_plain(stream)),
        (None, Some(tls)) => Box::pin(guest.open_tls(tls, stream)).await,
        (Some(ws), tls) => Box::pin(guest.open_websocket(ws, tls.as_ref(), stream)).await,
    };
    drop(prepared);
    drop(shared);
    if let Some(connection) = opened {
        connection.register();
        connection.run().await;
    }
}

async fn turn_away(shared: &Shared, prepared: &Prepared, mut stream: TcpStream) -> io::Result<()> {
    let settings = &prepared.settings;
    let mut text = BytesMut::new();
    match (&settings.websocket, &settings.tls) {
        // Words in plain text would be noise in a handshake.
        (Some(_), Some(_)) => {}
        (Some(_), None) => {
            let refusal = refusal("503 Service Unavailable", "maximum connections exceeded\n");
            text.extend_from_slice(refusal.as_bytes());
        }
        (None, _) => {
            let mut info = ServerInfo::clone(&shared.info.load());
            prepared.greeting.dress(&mut info);
            encoder::info(&mut text, &info);
            encoder::err(&mut text, "maximum connections exceeded");
        }
    }
    stream.write_all(&text).await?;
    stream.shutdown().await
}
