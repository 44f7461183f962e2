//! The users' bucket of a running cluster, as a NATS client that is the node's own service identity
//! sees it. Every wait is bounded by one deadline. Knows nothing of how a command prints.

use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream::kv::{CreateErrorKind, Operation, Store, UpdateErrorKind};
use async_nats::{Client, ConnectErrorKind};
use futures::StreamExt;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};
use unibus_proto::nkey::NkeyPublic;

use crate::access::{
    IdentityError, InternalIdentity, RecordError, Status, USERS_BUCKET, UserRecord,
};

/// How long one command waits for the node to be ready, and for everything it does.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two attempts.
const RETRY: Duration = Duration::from_millis(200);
/// Longest wait for one answer, so that one lost answer does not use up all patience.
const ANSWER: Duration = Duration::from_secs(3);
/// Most attempts to change a record that others change too.
const ATTEMPTS_MAX: usize = 5;

/// Where the cluster is and who we are to it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// `nats://host:port`.
    pub(super) url: String,
    /// The CA that the node's TLS certificate must come from.
    pub(super) ca: Option<PathBuf>,
    /// The identity file.
    pub(super) identity: PathBuf,
}

/// Why an administrative command did not work.
#[derive(Debug, Error)]
pub(super) enum AdminError {
    /// The URL is none.
    #[error("--nats-url {0:?} is no address; wanted nats://host:port")]
    Url(String),
    /// Secrets don't travel in the open.
    #[error(
        "--nats-url {0} is not this host, and --ca is not given: without TLS anybody on the way could act in the node's name; add --ca FILE, or run this on the node"
    )]
    RemoteWithoutCa(String),
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
    /// The key has a record.
    #[error(
        "user {key} is there already (role {role}, {status}); a second add changes nothing: see user grant and user revoke"
    )]
    Exists {
        /// Who.
        key: NkeyPublic,
        /// Its role.
        role: crate::access::Role,
        /// Its status.
        status: Status,
    },
    /// The key has no record.
    #[error("there is no user {0}")]
    NotFound(NkeyPublic),
    /// What was asked for can't be stored.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A record that is stored can't be read.
    #[error("the record of user {0} can't be read")]
    Damaged(NkeyPublic),
    /// Others changed the record again and again.
    #[error("the record of user {0} keeps changing; try again")]
    Contended(NkeyPublic),
}

impl AdminError {
    /// Whether the command itself is wrong, as opposed to its not having worked.
    pub(super) fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Url(_) | Self::RemoteWithoutCa(_) | Self::Record(_)
        )
    }
}

/// An open connection to the users' bucket.
pub(super) struct Registry {
    _client: Client,
    store: Store,
    url: String,
    deadline: Instant,
}

impl Registry {
    /// Connects as the internal identity and waits until the bucket is there.
    ///
    /// # Errors
    /// [`AdminError`], at the latest after [`PATIENCE`].
    pub(super) async fn open(target: &Target) -> Result<Self, AdminError> {
        check(target)?;
        let identity = InternalIdentity::load(&target.identity)?;
        let deadline = Instant::now() + PATIENCE;
        let client = connected(target, &identity, deadline).await?;
        let mut context = async_nats::jetstream::new(client.clone());
        context.set_timeout(ANSWER);
        let store = until(&target.url, deadline, || {
            context.get_key_value(USERS_BUCKET)
        })
        .await?;
        Ok(Self {
            _client: client,
            store,
            url: target.url.clone(),
            deadline,
        })
    }

    /// Stores a new user.
    ///
    /// # Errors
    /// [`AdminError::Exists`] where the key has a record, whatever its role or status.
    pub(super) async fn add(&self, record: &UserRecord) -> Result<(), AdminError> {
        let key = self.key_of(record)?;
        let value = bytes::Bytes::from(record.encode());
        loop {
            let attempt = self.store.create(&record.sign_pub, value.clone());
            let reason = match timeout_at(self.deadline, attempt).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) if error.kind() == CreateErrorKind::AlreadyExists => {
                    return self.add_found(&key, record).await;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it does not answer".to_owned(),
            };
            // An attempt without an answer may have worked: the next one then finds its own record.
            self.pause(reason).await?;
        }
    }

    /// A record that is exactly ours came from an earlier attempt of ours.
    async fn add_found(&self, key: &NkeyPublic, ours: &UserRecord) -> Result<(), AdminError> {
        let (found, _) = self.find(key).await?;
        if found == *ours {
            return Ok(());
        }
        Err(AdminError::Exists {
            key: *key,
            role: found.role,
            status: found.status,
        })
    }

    /// Changes a user's record, with the revision that was read; again if somebody was faster.
    ///
    /// # Errors
    /// [`AdminError::NotFound`]; [`AdminError::Record`] for what can't be stored.
    pub(super) async fn change(
        &self,
        key: &NkeyPublic,
        change: impl Fn(&UserRecord) -> UserRecord,
    ) -> Result<UserRecord, AdminError> {
        for _ in 0..ATTEMPTS_MAX {
            let (found, revision) = self.find(key).await?;
            let changed = change(&found);
            changed.check()?;
            if changed == found {
                return Ok(found);
            }
            let value = bytes::Bytes::from(changed.encode());
            let attempt = self.store.update(&found.sign_pub, value, revision);
            match timeout_at(self.deadline, attempt).await {
                Ok(Ok(_)) => return Ok(changed),
                Ok(Err(error)) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
                Ok(Err(error)) => self.pause(error.to_string()).await?,
                Err(_) => self.pause("it does not answer".to_owned()).await?,
            }
        }
        Err(AdminError::Contended(*key))
    }

    /// A user's record and its revision.
    ///
    /// # Errors
    /// [`AdminError::NotFound`], [`AdminError::Damaged`].
    pub(super) async fn find(&self, key: &NkeyPublic) -> Result<(UserRecord, u64), AdminError> {
        let hex = key.to_hex();
        let entry = until(&self.url, self.deadline, || self.store.entry(&hex)).await?;
        match entry.filter(|entry| entry.operation == Operation::Put) {
            None => Err(AdminError::NotFound(*key)),
            Some(entry) => UserRecord::decode(&hex, &entry.value)
                .map(|record| (record, entry.revision))
                .map_err(|_| AdminError::Damaged(*key)),
        }
    }

    /// Every user whose record can be read, by key, and the keys of the others.
    ///
    /// # Errors
    /// [`AdminError::NotReady`].
    pub(super) async fn list(&self) -> Result<(Vec<UserRecord>, Vec<String>), AdminError> {
        let keys = until(&self.url, self.deadline, || self.store.keys()).await?;
        let collected = timeout_at(self.deadline, keys.collect::<Vec<_>>()).await;
        let (mut users, mut damaged) = (Vec::new(), Vec::new());
        for key in collected.map_err(|_| self.not_ready("it does not answer"))? {
            let hex = key.map_err(|error| self.not_ready(&error.to_string()))?;
            let Ok(public) = NkeyPublic::parse(&hex) else {
                damaged.push(hex);
                continue;
            };
            match self.find(&public).await {
                Ok((record, _)) => users.push(record),
                // Deleted since the keys were read.
                Err(AdminError::NotFound(_)) => {}
                Err(AdminError::Damaged(_)) => damaged.push(hex),
                Err(error) => return Err(error),
            }
        }
        users.sort_by(|a, b| a.sign_pub.cmp(&b.sign_pub));
        Ok((users, damaged))
    }

    /// How many nodes have everything that the bucket's leader has, and how many there are.
    ///
    /// # Errors
    /// [`AdminError::NotReady`].
    pub(super) async fn replicas(&self) -> Result<(usize, usize), AdminError> {
        let info = until(&self.url, self.deadline, || self.store.stream.get_info()).await?;
        let others = info
            .cluster
            .map(|cluster| cluster.replicas)
            .unwrap_or_default();
        let current = others
            .iter()
            .filter(|peer| peer.current && !peer.offline)
            .count();
        Ok((current + 1, others.len() + 1))
    }

    fn key_of(&self, record: &UserRecord) -> Result<NkeyPublic, AdminError> {
        NkeyPublic::parse(&record.sign_pub).map_err(|_| AdminError::Record(RecordError::Key))
    }

    fn not_ready(&self, reason: &str) -> AdminError {
        AdminError::NotReady {
            url: self.url.clone(),
            reason: reason.to_owned(),
        }
    }

    async fn pause(&self, reason: String) -> Result<(), AdminError> {
        wait(&self.url, self.deadline, reason).await
    }
}

/// Repeats `attempt` until it works or the deadline is there.
async fn until<T, E, F>(
    url: &str,
    deadline: Instant,
    mut attempt: impl FnMut() -> F,
) -> Result<T, AdminError>
where
    F: Future<Output = Result<T, E>>,
    E: std::fmt::Display,
{
    loop {
        let reason = match timeout_at(deadline, attempt()).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not answer".to_owned(),
        };
        wait(url, deadline, reason).await?;
    }
}

/// Pauses before the next attempt, or says that there is no time for one.
async fn wait(url: &str, deadline: Instant, reason: String) -> Result<(), AdminError> {
    if Instant::now() + RETRY >= deadline {
        return Err(AdminError::NotReady {
            url: url.to_owned(),
            reason,
        });
    }
    tokio::time::sleep(RETRY).await;
    Ok(())
}

async fn connected(
    target: &Target,
    identity: &InternalIdentity,
    deadline: Instant,
) -> Result<Client, AdminError> {
    loop {
        let attempt = timeout_at(deadline, connect(target, &identity.seed_text())).await;
        let reason = match attempt {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(error)) if error.kind() == ConnectErrorKind::AuthorizationViolation => {
                return Err(AdminError::Stranger(target.url.clone()));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not answer".to_owned(),
        };
        wait(&target.url, deadline, reason).await?;
    }
}

async fn connect(target: &Target, seed: &str) -> Result<Client, async_nats::ConnectError> {
    let mut options = client_options(seed);
    if let Some(ca) = &target.ca {
        options = options.add_root_certificates(ca.clone()).require_tls(true);
    }
    Box::pin(options.connect(&target.url)).await
}

/// A client that proves `seed` and does not wait long for one answer.
pub(super) fn client_options(seed: &str) -> async_nats::ConnectOptions {
    async_nats::ConnectOptions::with_nkey(seed.to_owned())
        .name("unibus-node command")
        .connection_timeout(ANSWER)
        .request_timeout(Some(ANSWER))
}

fn check(target: &Target) -> Result<(), AdminError> {
    let host = host_of(&target.url).ok_or_else(|| AdminError::Url(target.url.clone()))?;
    let here = host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if here || target.ca.is_some() {
        return Ok(());
    }
    Err(AdminError::RemoteWithoutCa(target.url.clone()))
}

/// The host in a NATS URL; the scheme and the port may be left out.
fn host_of(url: &str) -> Option<String> {
    let address = url.parse::<async_nats::ServerAddr>().ok()?;
    let host = address.host();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    (!bare.is_empty()).then(|| bare.to_owned())
}

/// Where a node keeps its identity unless told otherwise.
pub(super) fn default_identity() -> &'static Path {
    Path::new("./unibus-data/internal.json")
}

#[cfg(test)]
mod tests {
    use super::{AdminError, Registry, Target, check, default_identity};
    use crate::access::InternalIdentity;

    fn target(url: &str) -> Target {
        Target {
            url: url.into(),
            ca: None,
            identity: default_identity().to_owned(),
        }
    }

    #[test]
    fn only_this_host_is_spoken_to_without_a_ca() {
        for url in [
            "nats://127.0.0.1:4222",
            "localhost:1",
            "nats://[::1]:4222",
            "nats://127.9.9.9",
        ] {
            assert!(check(&target(url)).is_ok(), "{url}");
        }
        for url in ["nats://10.0.0.1:4222", "nats://localhost.example", "bus"] {
            let refused = check(&target(url)).unwrap_err();
            assert!(matches!(&refused, AdminError::RemoteWithoutCa(_)) && refused.is_usage());
            let with_ca = Target {
                ca: Some("ca.crt".into()),
                ..target(url)
            };
            assert!(check(&with_ca).is_ok());
        }
        assert!(matches!(
            check(&target("http://x")),
            Err(AdminError::Url(_))
        ));
    }

    #[tokio::test]
    async fn a_missing_identity_is_said_before_anything_is_connected() {
        let dir = tempfile::tempdir().unwrap();
        let identity = dir.path().join("internal.json");
        let target = Target {
            identity: identity.clone(),
            ..target("nats://127.0.0.1:1")
        };
        let Err(error) = Registry::open(&target).await else {
            panic!("opened")
        };
        assert!(error.to_string().contains("internal.json"), "{error}");
        assert!(!identity.exists());
        std::fs::write(&identity, "{}").unwrap();
        assert!(Registry::open(&target).await.is_err());
        assert!(InternalIdentity::load(&identity).is_err());
    }
}
