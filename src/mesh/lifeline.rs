//! Notices at once that the process at the other end of a route has ended. A UDP socket that is closed
//! says nothing; TCP connections are ended by the kernel in the moment in which their process is.
//!
//! Each node listens on TCP beside its UDP endpoint and holds what its peers open, without reading or
//! writing anything, as long as their routes are there. When such a connection ends and another one is refused, nothing listens there any
//! more. It is a hint that saves waiting: where TCP does not get through, or the host is gone as a whole,
//! silence says it later. Nothing is believed of an address that refused from the beginning.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use quinn::Connection;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use unibus_broker::AcceptFailures;

use super::limits::{
    LIFELINE_KEEPALIVE, LIFELINE_KEEPALIVE_PAUSE, LIFELINE_PAUSE, LIFELINE_TIMEOUT, LIFELINES_MAX,
};
use super::shared::Shared;

/// Listens beside the UDP endpoint. A port that is taken costs the hint only.
pub(crate) fn listen(local: SocketAddr) -> Option<std::net::TcpListener> {
    let bound = std::net::TcpListener::bind(local)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    match bound {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::warn!(%local, %error, "not listening on TCP: peers will notice the end of this process later");
            None
        }
    }
}

/// Holds what peers open, until the mesh stops.
pub(crate) async fn serve(shared: Arc<Shared>, listener: std::net::TcpListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, "not listening on TCP");
            return;
        }
    };
    let slots = Arc::new(Semaphore::new(LIFELINES_MAX));
    let mut failures = AcceptFailures::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stop.cancelled() => return,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                let heeding = failures.heed("lifelines", &error, LIFELINE_TIMEOUT);
                shared.stop.run_until_cancelled(heeding).await;
                continue;
            }
        };
        let routes = shared.registry.routes_from(from.ip().to_canonical());
        let slot = Arc::clone(&slots).try_acquire_owned();
        let (false, Ok(slot)) = (routes.is_empty(), slot) else {
            continue;
        };
        let stop = shared.stop.clone();
        shared.tasks.spawn(async move {
            let held = async {
                tokio::select! {
                    () = until_end(stream) => {}
                    () = all_closed(routes) => {}
                }
            };
            stop.run_until_cancelled(held).await;
            drop(slot);
        });
    }
}

/// Resolves when the process at `peer` has ended.
pub(crate) async fn ended(peer: SocketAddr) {
    // Whether the last one was let go soon.
    let mut brief = false;
    loop {
        let mut opened = open(peer).await;
        while let Ok(stream) = opened {
            let since = Instant::now();
            until_end(stream).await;
            opened = open(peer).await;
            if matches!(&opened, Err(error) if error.kind() == ErrorKind::ConnectionRefused) {
                return;
            }
            // A peer that does not hold what is opened is not asked again and again; one that let go because of
            // another route, once more at once.
            let is_brief = since.elapsed() < LIFELINE_PAUSE;
            if is_brief && brief {
                tokio::time::sleep(LIFELINE_PAUSE).await;
            }
            brief = is_brief && !brief;
        }
        tokio::time::sleep(LIFELINE_PAUSE).await;
    }
}

/// Resolves when none of the routes is left, one of which a lifeline belongs to: nothing on it says which. One
/// that another route still needs, which came up in between, is opened anew.
async fn all_closed(routes: Vec<Connection>) {
    for route in routes {
        route.closed().await;
    }
}

/// Nothing is ever said: whatever comes is the end, also the end of a host that can't say it.
async fn until_end(mut stream: TcpStream) {
    if let Err(error) = keep_alive(&stream) {
        tracing::debug!(%error, "a lifeline without keepalive");
    }
    let _end = stream.read(&mut [0]).await;
}

fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(LIFELINE_KEEPALIVE)
        .with_interval(LIFELINE_KEEPALIVE_PAUSE);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

async fn open(peer: SocketAddr) -> std::io::Result<TcpStream> {
    tokio::time::timeout(LIFELINE_TIMEOUT, TcpStream::connect(peer))
        .await
        .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::net::{TcpListener, TcpStream};

    use super::{LIFELINE_KEEPALIVE, keep_alive};

    #[tokio::test]
    async fn the_kernel_asks_whether_the_other_host_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let socket = SockRef::from(&stream);
        assert!(!socket.keepalive().unwrap());
        keep_alive(&stream).unwrap();
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), LIFELINE_KEEPALIVE);
    }
}
