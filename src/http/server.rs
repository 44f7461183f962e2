//! One HTTP/1.1 listener with its own accept loop: connections, header bytes, header time, body
//! bytes and the whole request are bounded before anything of a request is believed
//! (control-plane.md, Denial-of-service limits).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::CONTENT_LENGTH;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::debug;
use unibus_broker::{ACCEPT_RETRY, AcceptFailures};

use super::answer::{self, Body};
use super::health::{Document, HealthSource};
use super::pace::{Arrived, Paced, TooSlow};
use super::pages::{Foreign, OwnNames};
use crate::config::limits::HttpLimits;
use crate::seats::{SeatCounts, Seats};
use crate::shutdown::Shutdown;

/// Monitoring documents that are made at the same time; further requests wait.
const DOCUMENTS_AT_ONCE: usize = 2;
/// Answers about health that are made at the same time: who asks for it must not wait behind whoever
/// asks for documents.
const PROBES_AT_ONCE: usize = 2;
/// Documents up to this size are no part of the budget: as many as there may be connections are bounded,
/// and health is told when others read nothing of what they asked for.
const SMALL_BYTES: usize = 64 * 1024;
/// The budget of documents counts in this many bytes.
const BUDGET_UNIT_BYTES: u64 = 1024;

/// Which routes a listener offers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Surface {
    /// `--http-port`.
    Control,
    /// `--monitor-port`.
    Monitor,
}

/// A bound listener that is ready to [`run`](HttpServer::run).
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    surface: Surface,
    limits: HttpLimits,
    connections: Arc<Semaphore>,
    seats: Arc<Seats>,
    names: Option<Arc<OwnNames>>,
}

impl HttpServer {
    /// Binds `address`; port 0 takes a free one, told by [`HttpServer::local_addr`].
    ///
    /// # Errors
    /// The operating system's.
    pub async fn bind(
        address: SocketAddr,
        surface: Surface,
        limits: HttpLimits,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let each = limits.connections_per_address_max;
        Ok(Self {
            listener,
            surface,
            connections: Arc::new(Semaphore::new(limits.connections_max)),
            seats: Seats::new(each, Arc::<SeatCounts>::default()),
            limits,
            names: None,
        })
    }

    /// Documents are told over loopback only to who asks for one of these names: a page in a browser of
    /// this host could ask for another, that its author had point here, and read them.
    #[must_use]
    pub fn known_as(mut self, names: Option<OwnNames>) -> Self {
        self.names = names.map(Arc::new);
        self
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The operating system's.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts and answers until `shutdown` fires. Open connections are then cut: an answer is
    /// short and its client is expected to ask another node.
    pub async fn run(self, source: Arc<dyn HealthSource>, mut shutdown: Shutdown) {
        let served = Served {
            surface: self.surface,
            places: Arc::new(Places::new(&self.limits)),
            source,
            connections: Arc::clone(&self.connections),
            names: self.names.clone(),
        };
        let mut failures = AcceptFailures::default();
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
                    self.spawn(stream, peer, permit, served.clone(), shutdown.clone());
                }
                Some((_, Err(error))) => {
                    let listener = match self.surface {
                        Surface::Control => "health",
                        Surface::Monitor => "monitoring",
                    };
                    failures.heed(listener, &error, ACCEPT_RETRY).await;
                }
                None => return,
            }
        }
    }

    fn spawn(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
        served: Served,
        mut shutdown: Shutdown,
    ) {
        let Some(seat) = self.seats.take(peer.ip()) else {
            debug!(%peer, "http connection refused: its address has too many");
            return;
        };
        let limits = self.limits.clone();
        tokio::spawn(async move {
            let _held_until_the_end = (permit, seat);
            tokio::select! {
                () = connection(stream, peer, served, limits) => {}
                () = shutdown.wait() => {}
            }
        });
    }
}

#[derive(Clone)]
struct Served {
    surface: Surface,
    places: Arc<Places>,
    source: Arc<dyn HealthSource>,
    connections: Arc<Semaphore>,
    /// Those that are looked at on this connection.
    names: Option<Arc<OwnNames>>,
}

/// What is given out to requests that want a document.
struct Places {
    documents: Arc<Semaphore>,
    probes: Arc<Semaphore>,
    /// Units of large documents that are not read yet, over all connections.
    budget: Arc<Semaphore>,
    budget_units: u32,
}

impl Places {
    fn new(limits: &HttpLimits) -> Self {
        let units = limits.bodies_bytes_max / BUDGET_UNIT_BYTES;
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let most = usize::try_from(units).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            documents: Arc::new(Semaphore::new(DOCUMENTS_AT_ONCE)),
            probes: Arc::new(Semaphore::new(PROBES_AT_ONCE)),
            budget: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            budget_units: units,
        }
    }

    /// The text with its part of the budget, which it gives back when it is written or dropped; `None` =
    /// too much waits to be read. One that is larger than the budget takes all of it.
    fn hold(&self, text: Vec<u8>) -> Option<Bytes> {
        if text.len() <= SMALL_BYTES {
            return Some(Bytes::from(text));
        }
        let units = u32::try_from(text.len() as u64 / BUDGET_UNIT_BYTES).unwrap_or(u32::MAX);
        let units = units.min(self.budget_units);
        let share = Arc::clone(&self.budget).try_acquire_many_owned(units);
        Some(Bytes::from_owner(Held {
            text,
            _share: share.ok()?,
        }))
    }
}

/// A document on its way.
struct Held {
    text: Vec<u8>,
    _share: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, mut served: Served, limits: HttpLimits) {
    if !peer.ip().to_canonical().is_loopback() {
        served.names = None;
    }
    // Who does not read, or hardly, does not hold its connection and what waits for it.
    let stream = Paced::new(stream, &limits);
    let arrived = stream.arrived();
    let service = service_fn(|request: Request<Incoming>| {
        let (served, arrived, limits) = (served.clone(), &arrived, &limits);
        async move {
            let mut response = request_within(request, &served, arrived, limits).await;
            answer::yield_place(&mut response, &served.connections);
            Ok::<_, Infallible>(response)
        }
    });
    let outcome = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_buf_size(limits.header_bytes_max)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = outcome {
        debug!(%peer, %error, "http connection ended");
    }
}

async fn request_within(
    request: Request<Incoming>,
    served: &Served,
    arrived: &Arrived,
    limits: &HttpLimits,
) -> Response<Body> {
    if declared_length(&request) > limits.body_bytes_max {
        return answer::error(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is larger than allowed here",
        );
    }
    if let Err(foreign) = served.check_name(&request) {
        return answer::error(foreign.status(), &foreign.to_string());
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let query = request.uri().query().unwrap_or_default().to_owned();
    let draining = arrived.keeping_up(limits, drained(request, limits));
    match tokio::time::timeout(limits.request_timeout, draining).await {
        Ok(Ok(Ok(()))) if served.surface == Surface::Monitor && is_reading(&method) => {
            match served.document(&path, query).await {
                Some(document) => served.within_budget(document),
                None => answer::answer(served.surface, &method, &path, served.source.as_ref()),
            }
        }
        Ok(Ok(Ok(()))) => answer::answer(served.surface, &method, &path, served.source.as_ref()),
        Ok(Ok(Err(refused))) => refused,
        Ok(Err(TooSlow)) | Err(_) => answer::error(
            StatusCode::REQUEST_TIMEOUT,
            "the request took too long to arrive",
        ),
    }
}

fn is_reading(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

impl Served {
    /// Health is anybody's to know.
    fn check_name(&self, request: &Request<Incoming>) -> Result<(), Foreign> {
        let is_probe = matches!(request.uri().path(), "/healthz" | "/livez");
        match self.names.as_deref().filter(|_| !is_probe) {
            Some(names) => names.check_host(request.uri(), request.headers()),
            None => Ok(()),
        }
    }

    /// Lets a blocking thread make the document, so many at a time.
    async fn document(&self, path: &str, query: String) -> Option<Document> {
        let places = match path {
            "/healthz" | "/livez" => &self.places.probes,
            _ => &self.places.documents,
        };
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        let (source, path) = (Arc::clone(&self.source), path.to_owned());
        let making = tokio::task::spawn_blocking(move || {
            let _held_until_the_end = place;
            source.document(&path, &query)
        });
        making.await.ok().flatten()
    }

    fn within_budget(&self, mut document: Document) -> Response<Body> {
        match self.places.hold(std::mem::take(&mut document.body)) {
            Some(text) => answer::document(&document, text),
            None => answer::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "as much as may wait to be read by those who asked for it does; ask again in a moment",
            ),
        }
    }
}

/// The declared length, or 0 where none is declared. One that hyper lets through unparsed counts
/// as too large.
fn declared_length(request: &Request<Incoming>) -> u64 {
    match request.headers().get(CONTENT_LENGTH) {
        None => 0,
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|v| v.parse().ok())
            .unwrap_or(u64::MAX),
    }
}

/// Reads a body that no route wants, up to the ceiling, so that the connection can be kept.
async fn drained(request: Request<Incoming>, limits: &HttpLimits) -> Result<(), Response<Body>> {
    use http_body_util::BodyExt;
    let mut body = request.into_body();
    let mut taken = 0u64;
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else {
            break;
        };
        let Ok(frame) = frame else {
            return Err(answer::error(
                StatusCode::BAD_REQUEST,
                "the body ended too early",
            ));
        };
        taken += frame.data_ref().map_or(0, |data| data.len() as u64);
        if taken > limits.body_bytes_max {
            let words = "the body is larger than allowed here";
            return Err(answer::error(StatusCode::PAYLOAD_TOO_LARGE, words));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
