//! The users' bucket of a running cluster, as a NATS client that is the node's own service identity
//! sees it. Every wait is bounded by one deadline. Knows nothing of how a command prints.

use std::path::Path;

use async_nats::jetstream::kv::{CreateErrorKind, Operation, Store, UpdateErrorKind};
use futures::StreamExt;
use thiserror::Error;
use tokio::time::timeout_at;
use unibus_proto::nkey::NkeyPublic;

use super::link::{Link, LinkError, Target};
use super::mover::replicas_of;
use crate::access::first_users::FirstUsersError;
use crate::access::{RecordError, Status, USERS_BUCKET, UserRecord};

/// Most attempts to change a record that others change too.
const ATTEMPTS_MAX: usize = 5;

/// Why an administrative command did not work.
#[derive(Debug, Error)]
pub(super) enum AdminError {
    /// The cluster can't be spoken to.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The first users of a node that has never started.
    #[error(transparent)]
    FirstUsers(#[from] FirstUsersError),
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
    /// Whoever was shut out is given nothing.
    #[error("user {0} is revoked: that is for good; add another key instead")]
    Revoked(NkeyPublic),
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
        match self {
            Self::Link(error) => error.is_usage(),
            Self::Record(_) | Self::FirstUsers(FirstUsersError::NoAdmin) => true,
            _ => false,
        }
    }
}

/// An open connection to the users' bucket.
pub(super) struct Registry {
    link: Link,
    store: Store,
}

impl Registry {
    /// Connects as the internal identity and waits until the bucket is there.
    ///
    /// # Errors
    /// [`AdminError`].
    pub(super) async fn open(target: &Target) -> Result<Self, AdminError> {
        let link = Link::open(target).await?;
        let store = link
            .until(|| link.jetstream.get_key_value(USERS_BUCKET))
            .await?;
        Ok(Self { link, store })
    }

    /// Stores a new user.
    ///
    /// # Errors
    /// [`AdminError::Exists`] where the key has a record, whatever its role or status.
    pub(super) async fn add(&self, record: &UserRecord) -> Result<(), AdminError> {
        let key = self.key_of(record)?;
        let value = bytes::Bytes::from(record.encode());
        let patience = self.link.patience();
        let mut unanswered = false;
        loop {
            let attempt = self.store.create(&record.sign_pub, value.clone());
            let reason = match timeout_at(patience.deadline, attempt).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) if error.kind() == CreateErrorKind::AlreadyExists => {
                    return self.add_found(&key, record, unanswered).await;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it does not answer".to_owned(),
            };
            unanswered = true;
            patience.pause(reason).await?;
        }
    }

    /// An attempt without an answer may have worked: then the record is exactly ours.
    async fn add_found(
        &self,
        key: &NkeyPublic,
        ours: &UserRecord,
        unanswered: bool,
    ) -> Result<(), AdminError> {
        let (found, _) = self.find(key).await?;
        if unanswered && found == *ours {
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
        let patience = self.link.patience();
        for _ in 0..ATTEMPTS_MAX {
            let (found, revision) = self.find(key).await?;
            let changed = change(&found);
            changed.check()?;
            if changed == found {
                return Ok(found);
            }
            let value = bytes::Bytes::from(changed.encode());
            let attempt = self.store.update(&found.sign_pub, value, revision);
            match timeout_at(patience.deadline, attempt).await {
                Ok(Ok(_)) => return Ok(changed),
                Ok(Err(error)) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
                Ok(Err(error)) => patience.pause(error.to_string()).await?,
                Err(_) => patience.pause("it does not answer".to_owned()).await?,
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
        let entry = self.link.until(|| self.store.entry(&hex)).await?;
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
        let keys = self.link.until(|| self.store.keys()).await?;
        let collected = timeout_at(self.link.patience().deadline, keys.collect::<Vec<_>>()).await;
        let (mut users, mut damaged) = (Vec::new(), Vec::new());
        for key in collected.map_err(|_| self.link.not_ready("it does not answer"))? {
            let hex = key.map_err(|error| self.link.not_ready(error.to_string()))?;
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
        Ok(replicas_of(&self.link, &self.store).await?)
    }

    fn key_of(&self, record: &UserRecord) -> Result<NkeyPublic, AdminError> {
        NkeyPublic::parse(&record.sign_pub).map_err(|_| AdminError::Record(RecordError::Key))
    }
}

/// Where a node keeps its identity unless told otherwise.
pub(super) fn default_identity() -> &'static Path {
    Path::new("./unibus-data/internal.json")
}

#[cfg(test)]
mod tests {
    use super::{Registry, Target};
    use crate::access::InternalIdentity;

    #[tokio::test]
    async fn a_missing_identity_is_said_before_anything_is_connected() {
        let dir = tempfile::tempdir().unwrap();
        let identity = dir.path().join("internal.json");
        let target = Target {
            url: "nats://127.0.0.1:1".into(),
            ca: None,
            tls_first: false,
            identity: identity.clone(),
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
