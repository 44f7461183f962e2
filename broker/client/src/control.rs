//! The control plane as a client calls it: signed requests over HTTP, each signed anew for every
//! attempt, at whichever server answers. Errors are the servers' words.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rand::Rng;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::de::DeserializeOwned;
use unibus_proto::control::{KeyReply, RoomId, RoomRecord};
use unibus_proto::signing::{NONCE_BYTES, body_hash, sign_request};

use crate::error::Error;
use crate::identity::Identity;
use crate::options::Options;

/// Largest answer that is read, in bytes: a blob's piece, or the members of a very large room.
const ANSWER_BYTES_MAX: usize = 17 * 1024 * 1024;
/// Pause before the servers are asked again when none of them could answer.
const PAUSE: Duration = Duration::from_millis(150);
/// Longest pause that a server may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Idle connections kept for each server.
const IDLE_MAX: usize = 4;

/// A request before it is signed.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    method: Method,
    /// Path and query.
    uri: String,
    body: Bytes,
}

impl Ask {
    pub(crate) fn get(uri: impl Into<String>) -> Self {
        Self::new(Method::GET, uri, Bytes::new())
    }

    pub(crate) fn post(uri: impl Into<String>, body: &impl serde::Serialize) -> Self {
        // Structs of texts, numbers and enums always serialise.
        let body = serde_json::to_vec(body).unwrap_or_default();
        Self::new(Method::POST, uri, body.into())
    }

    pub(crate) fn bytes(uri: impl Into<String>, body: Bytes) -> Self {
        Self::new(Method::POST, uri, body)
    }

    pub(crate) fn delete(uri: impl Into<String>) -> Self {
        Self::new(Method::DELETE, uri, Bytes::new())
    }

    fn new(method: Method, uri: impl Into<String>, body: Bytes) -> Self {
        Self {
            method,
            uri: uri.into(),
            body,
        }
    }
}

/// What a server said, and whether an earlier attempt may have been carried out before.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) outcome: Result<Bytes, Error>,
    /// An attempt whose outcome is unknown came before this answer.
    pub(crate) doubtful: bool,
}

/// The servers' control planes.
#[derive(Debug)]
pub(crate) struct Control {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    identity: Arc<Identity>,
    servers: Vec<String>,
    /// The server that answered last.
    current: AtomicUsize,
    timeout: Duration,
}

impl Control {
    pub(crate) fn new(options: &Options, identity: Arc<Identity>) -> Result<Self, Error> {
        let roots = match &options.ca {
            Some(path) => roots(path)?,
            None => RootCertStore::empty(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Options(format!("TLS: {error}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(options.connect_timeout));
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls);
        let builder = match &options.ca {
            Some(_) => builder.https_only(),
            None => builder.https_or_http(),
        };
        let connector = builder.enable_http1().wrap_connector(tcp);
        let http = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_MAX)
            .build(connector);
        let servers = options.control.iter();
        Ok(Self {
            http,
            identity,
            servers: servers
                .map(|url| url.trim_end_matches('/').to_owned())
                .collect(),
            current: AtomicUsize::new(0),
            timeout: options.call_timeout,
        })
    }

    /// Asks, and reads the answer as JSON.
    pub(crate) async fn call<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, Error> {
        let bytes = self.ask(ask).await.outcome?;
        self.json(&bytes)
    }

    /// The sealed keys of an epoch of a room that is this identity's own. Nodes of older builds do not know
    /// the call, and answer 404 as to any path that leads nowhere: one that serves the room and not its keys
    /// is such a node, and the next server is asked.
    pub(crate) async fn epoch_keys(
        &self,
        room: &RoomId,
        epoch: u64,
    ) -> Result<Vec<KeyReply>, Error> {
        let mut older = None;
        for _ in &self.servers {
            let asked = self.ask(Ask::get(format!("/rooms/{room}/keys?epoch={epoch}")));
            let refused = match asked.await.outcome {
                Ok(bytes) => return self.json(&bytes),
                Err(refused) => refused,
            };
            if refused.status() != Some(404) {
                return Err(refused);
            }
            let _there: RoomRecord = self.call(Ask::get(format!("/rooms/{room}"))).await?;
            older = Some(self.pass_by("the keys of an epoch (GET /rooms/{id}/keys)"));
        }
        Err(older.unwrap_or(Error::Closed))
    }

    /// Turns to the next server, since this one is of an older build and does not serve what it `lacks`;
    /// answers with the error that says so.
    pub(crate) fn pass_by(&self, lacks: &'static str) -> Error {
        let server = self.server().to_owned();
        self.current.fetch_add(1, Ordering::Relaxed);
        Error::OlderNode { server, lacks }
    }

    pub(crate) fn json<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(bytes).map_err(|error| Error::Garbled {
            server: self.server().to_owned(),
            what: error.to_string(),
        })
    }

    fn server(&self) -> &str {
        let at = self.current.load(Ordering::Relaxed) % self.servers.len();
        &self.servers[at]
    }

    /// Asks one server after the other until one of them answers, or time is up.
    pub(crate) async fn ask(&self, ask: Ask) -> Answered {
        let deadline = Instant::now() + self.timeout;
        let mut doubtful = false;
        let mut tried = 0;
        loop {
            let server = self.server();
            let left = deadline.saturating_duration_since(Instant::now());
            let attempt = tokio::time::timeout(left, self.attempt(server, &ask)).await;
            let trouble = match attempt {
                Ok(Attempt::Answer(outcome)) => return Answered { outcome, doubtful },
                Ok(Attempt::Trouble(trouble)) => trouble,
                Err(_) => Trouble::unknown("no answer in time"),
            };
            doubtful |= trouble.doubtful;
            tried += 1;
            self.current.fetch_add(1, Ordering::Relaxed);
            let all_tried = tried % self.servers.len() == 0;
            let pause = trouble.pause.or_else(|| all_tried.then_some(PAUSE));
            let pause = pause.unwrap_or_default().min(PAUSE_MAX);
            if Instant::now() + pause >= deadline {
                let outcome = Err(Error::Unreachable {
                    server: server.to_owned(),
                    cause: trouble.cause,
                });
                return Answered { outcome, doubtful };
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(&self, server: &str, ask: &Ask) -> Attempt {
        let request = match self.signed(server, ask) {
            Ok(request) => request,
            Err(error) => return Attempt::Answer(Err(error)),
        };
        let response = match self.http.request(request).await {
            Ok(response) => response,
            Err(error) => {
                let cause = chain(&error);
                // A connection that was never made has carried nothing.
                let doubtful = !error.is_connect();
                return Attempt::Trouble(Trouble {
                    cause,
                    doubtful,
                    pause: None,
                });
            }
        };
        let status = response.status();
        let wait = response.headers().get(RETRY_AFTER);
        let wait = wait.and_then(|value| value.to_str().ok()?.parse().ok());
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let bytes = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Attempt::Trouble(Trouble::unknown(error.to_string())),
        };
        if status.is_success() {
            return Attempt::Answer(Ok(bytes));
        }
        let words = words(status, &bytes);
        let busy = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        );
        if busy {
            return Attempt::Trouble(Trouble {
                // A node that lost its majority may have carried the change out all the same.
                doubtful: status == StatusCode::SERVICE_UNAVAILABLE,
                pause: (status == StatusCode::TOO_MANY_REQUESTS)
                    .then(|| Duration::from_secs(wait.unwrap_or(1))),
                cause: words,
            });
        }
        Attempt::Answer(Err(Error::Refused {
            status: status.as_u16(),
            words,
        }))
    }

    fn signed(&self, server: &str, ask: &Ask) -> Result<Request<Full<Bytes>>, Error> {
        let mut nonce = [0; NONCE_BYTES];
        rand::rng().fill_bytes(&mut nonce);
        let (method, uri) = (ask.method.as_str(), ask.uri.as_str());
        let signer = self.identity.signing();
        let hash = body_hash(&ask.body);
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(format!("{server}{uri}"));
        for (name, value) in sign_request(signer, method, uri, unix_ms() / 1000, &nonce, &hash) {
            request = request.header(name, value);
        }
        if !ask.body.is_empty() {
            let kind = match uri {
                "/blobs" => "application/octet-stream",
                _ => "application/json",
            };
            request = request.header(CONTENT_TYPE, kind);
        }
        let request = request.body(Full::new(ask.body.clone()));
        request.map_err(|error| Error::Options(format!("{server}: {error}")))
    }
}

/// What came of one attempt.
enum Attempt {
    /// An answer that another server would give as well.
    Answer(Result<Bytes, Error>),
    /// Another server, or the same later, may answer.
    Trouble(Trouble),
}

struct Trouble {
    cause: String,
    /// It may have been carried out.
    doubtful: bool,
    pause: Option<Duration>,
}

impl Trouble {
    fn unknown(cause: impl Into<String>) -> Self {
        Self {
            cause: cause.into(),
            doubtful: true,
            pause: None,
        }
    }
}

/// The server's words, or what the status says.
fn words(status: StatusCode, body: &[u8]) -> String {
    let json = serde_json::from_slice::<serde_json::Value>(body).ok();
    let words = json.as_ref().and_then(|json| json["error"].as_str());
    words.map_or_else(|| status.to_string(), str::to_owned)
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn roots(path: &std::path::Path) -> Result<RootCertStore, Error> {
    let wrong = |why: String| Error::Options(format!("CA file {}: {why}", path.display()));
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("it holds no certificate in PEM form".into()));
    }
    Ok(roots)
}

/// Unix milliseconds by this host's clock.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
