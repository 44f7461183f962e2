//! A command's connection to a running cluster: an ordinary NATS client that is the node's own
//! service identity. Owns how a node is reached, who is spoken to without a CA, and how long is
//! waited. Knows nothing of what a command wants.

use std::future::Future;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::{Auth, AuthError, Client, ConnectErrorKind, ServerAddr};
use thiserror::Error;
use tokio::time::{Instant, timeout_at};
use unibus_proto::nkey::UserSeed;

use super::local_tls;
use crate::access::{IdentityError, InternalIdentity};

/// How long one step of a command waits for the node to be ready.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two attempts.
const RETRY: Duration = Duration::from_millis(200);
/// Longest wait for one answer, so that one lost answer does not use up all patience.
pub(super) const ANSWER: Duration = Duration::from_secs(3);

/// Where the cluster is and who we are to it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// `nats://host:port`.
    pub(super) url: String,
    /// The CA that the node's TLS certificate must come from.
    pub(super) ca: Option<PathBuf>,
    /// The node begins with the TLS handshake.
    pub(super) tls_first: bool,
    /// The identity file.
    pub(super) identity: PathBuf,
}

/// Why a cluster can't be spoken to.
#[derive(Debug, Error)]
pub(super) enum LinkError {
    /// The URL is none.
    #[error("--nats-url {0:?} is no address; wanted nats://host:port")]
    Url(String),
    /// Secrets don't travel in the open.
    #[error(
        "--nats-url {0} is not this host, and --ca is not given: without TLS anybody on the way could act in the node's name; add --ca FILE, or run this on the node"
    )]
    RemoteWithoutCa(String),
    /// The CA's file.
    #[error("--ca {path:?} can't be read: {source}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Our own identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The node does not know us.
    #[error(
        "the node at {0} does not take this identity: --internal-id-file must be that node's own file"
    )]
    Stranger(String),
    /// Nobody answers in time.
    #[error("the cluster at {url} is not ready after {} s: {reason}", PATIENCE.as_secs())]
    NotReady {
        /// Where.
        url: String,
        /// What the last attempt said.
        reason: String,
    },
}

impl LinkError {
    /// Whether the command itself is wrong, as opposed to its not having worked.
    pub(super) fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Url(_) | Self::RemoteWithoutCa(_) | Self::Ca { .. }
        )
    }
}

/// An open connection as the internal identity.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) jetstream: Context,
    url: String,
}

impl Link {
    /// Connects, at the latest after [`PATIENCE`].
    ///
    /// # Errors
    /// [`LinkError`].
    pub(super) async fn open(target: &Target) -> Result<Self, LinkError> {
        target.check()?;
        let identity = InternalIdentity::load(&target.identity)?;
        let client = connected(target, &identity).await?;
        let mut jetstream = async_nats::jetstream::new(client.clone());
        jetstream.set_timeout(ANSWER);
        Ok(Self {
            client,
            jetstream,
            url: target.url.clone(),
        })
    }

    /// Repeats `attempt` until it works, for at most [`PATIENCE`].
    ///
    /// # Errors
    /// [`LinkError::NotReady`] with what the last attempt said.
    pub(super) async fn until<T, E, F>(
        &self,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, LinkError>
    where
        F: Future<Output = Result<T, E>>,
        E: std::fmt::Display,
    {
        let patience = self.patience();
        let mut said = NO_ANSWER.to_owned();
        loop {
            match timeout_at(patience.deadline, attempt()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => said = error.to_string(),
                // The time is over: what was said before says more than that nothing came.
                Err(_) => {}
            }
            patience.pause(said.as_str()).await?;
        }
    }

    /// Patience that starts now.
    pub(super) fn patience(&self) -> Patience {
        Patience::new(&self.url)
    }

    /// The cluster does not do what it should.
    pub(super) fn not_ready(&self, reason: impl Into<String>) -> LinkError {
        not_ready(&self.url, reason.into())
    }
}

/// What is said of a node that is silent.
const NO_ANSWER: &str = "it does not answer";

fn not_ready(url: &str, reason: String) -> LinkError {
    LinkError::NotReady {
        url: url.to_owned(),
        reason,
    }
}

/// How long something is still tried.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    url: String,
    pub(super) deadline: Instant,
}

impl Patience {
    fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            deadline: Instant::now() + PATIENCE,
        }
    }

    /// Pauses before the next attempt.
    ///
    /// # Errors
    /// [`LinkError::NotReady`] with `reason` where there is no time for one.
    pub(super) async fn pause(&self, reason: impl Into<String>) -> Result<(), LinkError> {
        if Instant::now() + RETRY >= self.deadline {
            return Err(not_ready(&self.url, reason.into()));
        }
        tokio::time::sleep(RETRY).await;
        Ok(())
    }
}

async fn connected(target: &Target, identity: &InternalIdentity) -> Result<Client, LinkError> {
    let patience = Patience::new(&target.url);
    let mut said = NO_ANSWER.to_owned();
    loop {
        let attempt = timeout_at(patience.deadline, connect(target, &identity.seed_text())).await;
        match attempt {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(error)) if error.kind() == ConnectErrorKind::AuthorizationViolation => {
                return Err(LinkError::Stranger(target.url.clone()));
            }
            Ok(Err(error)) => said = words(&error),
            // As in `Link::until`.
            Err(_) => {}
        }
        patience.pause(said.as_str()).await?;
    }
}

/// An error with its causes: what TLS objects to stands in the last of them.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

async fn connect(target: &Target, seed: &str) -> Result<Client, async_nats::ConnectError> {
    // Other nodes take neither this identity nor, perhaps, this way of speaking.
    let mut options = client_options(seed).ignore_discovered_servers();
    if target.tls_first {
        options = options.tls_first();
    }
    options = match &target.ca {
        Some(ca) => options.add_root_certificates(ca.clone()).require_tls(true),
        // Used only where the node asks for TLS.
        None => match local_tls::config() {
            Ok(config) => options.tls_client_config(config),
            Err(_) => options,
        },
    };
    Box::pin(options.connect(&target.url)).await
}

/// A client that proves `seed` and does not wait long for one answer.
pub(super) fn client_options(seed: &str) -> async_nats::ConnectOptions {
    let seed = UserSeed::parse(seed).map_err(AuthError::new);
    let prove = move |nonce: Vec<u8>| {
        let auth = seed.as_ref().map_err(Clone::clone).and_then(|seed| {
            let mut auth = Auth::new();
            auth.nkey = Some(seed.public().to_nkey());
            let proof = seed.answer_nonce(&nonce).map_err(AuthError::new)?;
            auth.signature = Some(proof.to_vec());
            Ok(auth)
        });
        std::future::ready(auth)
    };
    async_nats::ConnectOptions::with_auth_callback(prove)
        .name("unibus-node command")
        .connection_timeout(ANSWER)
        .request_timeout(Some(ANSWER))
}

impl Target {
    /// Whether it may be spoken to at all.
    ///
    /// # Errors
    /// [`LinkError`] about the command line.
    pub(super) fn check(&self) -> Result<(), LinkError> {
        if let Some(path) = &self.ca {
            std::fs::metadata(path).map_err(|source| LinkError::Ca {
                path: path.clone(),
                source,
            })?;
        }
        if self.is_here()? || self.ca.is_some() {
            return Ok(());
        }
        Err(LinkError::RemoteWithoutCa(self.url.clone()))
    }

    /// Whether the node runs on this host: what is said to it stays here.
    ///
    /// # Errors
    /// [`LinkError::Url`].
    pub(super) fn is_here(&self) -> Result<bool, LinkError> {
        let (host, _) = self.address()?;
        // A name would have to be resolved, and whoever answers for it could send us anywhere.
        Ok(host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_own))
    }

    /// Whether something accepts connections there now.
    pub(super) fn is_listening(&self) -> bool {
        let Ok((host, port)) = self.address() else {
            return false;
        };
        let host = if host.eq_ignore_ascii_case("localhost") {
            "127.0.0.1"
        } else {
            &host
        };
        host.parse::<IpAddr>().is_ok_and(|ip| {
            let address = SocketAddr::new(ip, port);
            std::net::TcpStream::connect_timeout(&address, ANSWER).is_ok()
        })
    }

    /// Host and port in the URL; the scheme and the port may be left out.
    fn address(&self) -> Result<(String, u16), LinkError> {
        let wrong = || LinkError::Url(self.url.clone());
        let address = self.url.parse::<ServerAddr>().map_err(|_| wrong())?;
        let host = address.host();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if bare.is_empty() {
            return Err(wrong());
        }
        Ok((bare.to_owned(), address.port()))
    }
}

/// Whether an address is one of this host's: only those can be bound.
fn is_own(ip: IpAddr) -> bool {
    ip.is_loopback() || (!ip.is_unspecified() && UdpSocket::bind((ip, 0)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::{LinkError, Target};

    fn target(url: &str) -> Target {
        Target {
            url: url.into(),
            ca: None,
            tls_first: false,
            identity: "internal.json".into(),
        }
    }

    #[test]
    fn only_this_host_is_spoken_to_without_a_ca() {
        for url in [
            "nats://127.0.0.1:4222",
            "localhost:1",
            "nats://[::1]:4222",
            "nats://127.9.9.9",
            "tls://127.0.0.1:4222",
        ] {
            assert!(target(url).check().is_ok(), "{url}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        for url in [
            // An address for documentation: no host has it.
            "nats://192.0.2.1:4222",
            "nats://localhost.example",
            "bus",
            "nats://0.0.0.0:4222",
        ] {
            let refused = target(url).check().unwrap_err();
            assert!(matches!(&refused, LinkError::RemoteWithoutCa(_)) && refused.is_usage());
            let with_ca = Target {
                ca: Some(file.path().to_owned()),
                ..target(url)
            };
            assert!(with_ca.check().is_ok(), "{url}");
        }
        assert!(matches!(target("http://x").check(), Err(LinkError::Url(_))));
        let missing = Target {
            ca: Some("no/such/ca.crt".into()),
            ..target("nats://bus:4222")
        };
        let error = missing.check().unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("no/such/ca.crt"));
    }
}
