//! The control plane's listener: its own accept loop, with TLS where it is set. Connections, header
//! bytes and header time are bounded before anything of a request is believed
//! (control-plane.md, Denial-of-service limits).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::debug;
use unibus_broker::{ACCEPT_RETRY, AcceptFailures};
use unibus_raft::{Replica, Transport};

use super::limits::{Budget, ControlCounters, PerAddress};
use super::plane::Plane;
use super::records::Records;
use super::router::{self, Client};
use super::tls::{ControlTls, ControlTlsError, ServerTls};
use crate::access::Directory;
use crate::config::args::BusAuth;
use crate::config::limits::HttpLimits;
use crate::http::pace::Paced;
use crate::http::{HealthSource, OwnNames, answer};
use crate::seats::Seats;
use crate::shutdown::Shutdown;

/// A bound listener that is ready to run.
#[derive(Debug)]
pub struct ControlServer {
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
    limits: HttpLimits,
    connections: Arc<Semaphore>,
    seats: Arc<Seats>,
    counters: Arc<ControlCounters>,
    budget: Arc<Budget>,
}

/// What the control plane works on.
pub(crate) struct PlaneParts {
    pub(crate) replica: Replica,
    pub(crate) directory: Arc<Directory>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) health: Arc<dyn HealthSource>,
    pub(crate) mode: BusAuth,
    /// Rooms in cleartext are refused.
    pub(crate) encrypted_rooms: bool,
    /// By which it may be asked where nobody needs a login.
    pub(crate) names: OwnNames,
}

impl ControlServer {
    /// Binds `address`; port 0 takes a free one, told by [`ControlServer::local_addr`].
    ///
    /// # Errors
    /// The operating system's.
    pub async fn bind(
        address: SocketAddr,
        tls: Option<Arc<PreparedTls>>,
        limits: HttpLimits,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let counters = Arc::<ControlCounters>::default();
        Ok(Self {
            listener,
            tls: tls.map(|tls| Arc::clone(&tls.0)),
            connections: Arc::new(Semaphore::new(limits.connections_max)),
            seats: Seats::new(
                limits.connections_per_address_max,
                Arc::clone(&counters.seats),
            ),
            budget: Budget::new(limits.bodies_bytes_max, &counters),
            counters,
            limits,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The operating system's.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What is counted here; for the metrics endpoint.
    #[must_use]
    pub fn counters(&self) -> Arc<ControlCounters> {
        Arc::clone(&self.counters)
    }

    /// Accepts and answers until `shutdown` fires. Open connections are then cut: a client is
    /// expected to ask another node.
    pub(crate) async fn run(self, parts: PlaneParts, mut shutdown: Shutdown) {
        let plane = Arc::new(self.plane(parts));
        let mut failures = AcceptFailures::default();
        if let Some(tls) = &self.tls {
            tokio::spawn(Arc::clone(tls).follow(shutdown.clone()));
        }
        loop {
            // A permit first: a full house waits in the kernel's backlog, not in our memory.
            let permit = Arc::clone(&self.connections).acquire_owned();
            let next = async {
                let permit = permit.await.ok()?;
                Some((permit, self.listener.accept().await))
            };
            let accepted = tokio::select! {
                accepted = next => accepted,
                () = shutdown.wait() => return,
            };
            match accepted {
                Some((permit, Ok((stream, peer)))) => {
                    self.spawn(stream, peer, permit, &plane, shutdown.clone());
                }
                Some((_, Err(error))) => {
                    failures.heed("control", &error, ACCEPT_RETRY).await;
                }
                None => return,
            }
        }
    }

    fn plane(&self, parts: PlaneParts) -> Plane {
        Plane {
            records: Records::new(parts.replica, self.limits.store_timeout),
            directory: parts.directory,
            transport: parts.transport,
            health: parts.health,
            mode: parts.mode,
            encrypted_rooms: parts.encrypted_rooms,
            names: parts.names,
            addresses: PerAddress::new(self.limits.rate_per_second, self.limits.rate_burst),
            budget: Arc::clone(&self.budget),
            counters: Arc::clone(&self.counters),
            limits: self.limits.clone(),
        }
    }

    fn spawn(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
        plane: &Arc<Plane>,
        mut shutdown: Shutdown,
    ) {
        let Some(seat) = self.seats.take(peer.ip()) else {
            debug!(%peer, "control connection refused: its address has too many");
            return;
        };
        let (plane, tls) = (Arc::clone(plane), self.tls.clone());
        let connections = Arc::clone(&self.connections);
        tokio::spawn(async move {
            let _held_until_the_end = (permit, seat);
            tokio::select! {
                () = connection((stream, peer), connections, plane, tls) => {}
                () = shutdown.wait() => {}
            }
        });
    }
}

/// A certificate that was read before anything listens.
#[derive(Debug)]
pub struct PreparedTls(Arc<ServerTls>);

impl PreparedTls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`ControlTlsError`] naming the file.
    pub fn load(files: ControlTls) -> Result<Self, ControlTlsError> {
        Ok(Self(Arc::new(ServerTls::load(files)?)))
    }
}

async fn connection(
    (stream, peer): (TcpStream, SocketAddr),
    connections: Arc<Semaphore>,
    plane: Arc<Plane>,
    tls: Option<Arc<ServerTls>>,
) {
    // Answers are small and written at once.
    drop(stream.set_nodelay(true));
    // Who does not read, or hardly, does not hold its connection and what waits for it.
    let stream = Paced::new(stream, &plane.limits);
    let client = Client {
        address: peer.ip(),
        arrived: stream.arrived(),
        connections,
    };
    let Some(tls) = tls else {
        return serve(stream, client, plane).await;
    };
    let handshake = tls.acceptor.accept(stream);
    match tokio::time::timeout(plane.limits.header_read_timeout, handshake).await {
        Ok(Ok(stream)) => serve(stream, client, plane).await,
        Ok(Err(error)) => debug!(%peer, %error, "control TLS handshake failed"),
        Err(_) => {
            ControlCounters::add(&plane.counters.too_slow);
            debug!(%peer, "control TLS handshake took too long");
        }
    }
}

async fn serve<S>(stream: S, client: Client, plane: Arc<Plane>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let (plane, client) = (&plane, &client);
        async move {
            let mut response = router::serve(plane, client, request).await;
            answer::yield_place(&mut response, &client.connections);
            Ok::<_, Infallible>(response)
        }
    });
    let outcome = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(plane.limits.header_read_timeout)
        .max_buf_size(plane.limits.header_bytes_max)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = outcome {
        if error.is_timeout() || is_stalled(&error) {
            ControlCounters::add(&plane.counters.too_slow);
        }
        if error.is_parse_too_large() {
            ControlCounters::add(&plane.counters.heads_too_large);
        }
        debug!(peer = %client.address, %error, "control connection ended");
    }
}

/// Whether a connection ended because its client did not read, or too slowly.
fn is_stalled(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref());
    cause.is_some_and(|cause: &std::io::Error| cause.kind() == std::io::ErrorKind::TimedOut)
}
