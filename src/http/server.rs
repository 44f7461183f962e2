//! One HTTP/1.1 listener with its own accept loop: connections, header bytes, header time, body
//! bytes and the whole request are bounded before anything of a request is believed
//! (control-plane.md, Denial-of-service limits).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::CONTENT_LENGTH;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

use super::answer::{self, Body};
use super::health::{Document, HealthSource};
use crate::config::limits::HttpLimits;
use crate::shutdown::Shutdown;

/// Pause after an accept that failed, so that a lack of file descriptors does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Monitoring documents that are made at the same time; further requests wait.
const DOCUMENTS_AT_ONCE: usize = 2;

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
        let connections = Arc::new(Semaphore::new(limits.connections_max));
        Ok(Self {
            listener,
            surface,
            limits,
            connections,
        })
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
        let documents = Arc::new(Semaphore::new(DOCUMENTS_AT_ONCE));
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
                    let served = Served {
                        surface: self.surface,
                        documents: Arc::clone(&documents),
                        source: Arc::clone(&source),
                    };
                    self.spawn(stream, peer, permit, served, shutdown.clone());
                }
                Some((_, Err(error))) => {
                    warn!(%error, "http accept failed");
                    tokio::time::sleep(ACCEPT_RETRY).await;
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
        let limits = self.limits.clone();
        tokio::spawn(async move {
            let _held_until_the_end = permit;
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
    documents: Arc<Semaphore>,
    source: Arc<dyn HealthSource>,
}

async fn connection(stream: TcpStream, peer: SocketAddr, served: Served, limits: HttpLimits) {
    let service = service_fn(|request: Request<Incoming>| {
        let (served, limits) = (served.clone(), &limits);
        async move { Ok::<_, Infallible>(request_within(request, &served, limits).await) }
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
    limits: &HttpLimits,
) -> Response<Body> {
    if declared_length(&request) > limits.body_bytes_max {
        return answer::error(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is larger than allowed here",
        );
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let query = request.uri().query().unwrap_or_default().to_owned();
    match tokio::time::timeout(limits.request_timeout, drained(request, limits)).await {
        Ok(Ok(())) if served.surface == Surface::Monitor && is_reading(&method) => {
            match served.document(&path, query).await {
                Some(document) => answer::document(document),
                None => answer::answer(served.surface, &method, &path, served.source.as_ref()),
            }
        }
        Ok(Ok(())) => answer::answer(served.surface, &method, &path, served.source.as_ref()),
        Ok(Err(refused)) => refused,
        Err(_) => answer::error(
            StatusCode::REQUEST_TIMEOUT,
            "the request took too long to arrive",
        ),
    }
}

fn is_reading(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

impl Served {
    /// Lets a blocking thread make the document, so many at a time.
    async fn document(&self, path: &str, query: String) -> Option<Document> {
        let place = Arc::clone(&self.documents).acquire_owned().await.ok()?;
        let (source, path) = (Arc::clone(&self.source), path.to_owned());
        let making = tokio::task::spawn_blocking(move || {
            let _held_until_the_end = place;
            source.document(&path, &query)
        });
        making.await.ok().flatten()
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
