//! Passwords and tokens as they are kept and compared: a plain one only as a keyed digest, compared in
//! constant time; a bcrypt one as its hash, checked on a blocking thread, few at a time. Never keeps,
//! prints or returns a secret.

use std::sync::Arc;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Semaphore;
use unibus_broker::Seldom;
use zeroize::Zeroizing;

use crate::config::auth::Secret;

/// Highest bcrypt cost that is accepted: each step doubles the time, and 16 is seconds already.
const COST_MAX: u32 = 16;
/// Length of a bcrypt hash in its text form.
const BCRYPT_BYTES: usize = 60;
/// Logins that may wait for a bcrypt check. More are refused at once: a flood of logins would
/// otherwise keep every honest client waiting beyond its authentication timeout.
const WAITING_MAX: usize = 1024;

/// Why a configured secret is of no use.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
pub enum SecretError {
    /// It is empty.
    #[error("it is empty; give a password or leave the user out")]
    Empty,
    /// It starts like a bcrypt hash and is none.
    #[error(
        "it starts like a bcrypt hash and is none; make one with `nats server passwd`, or choose a password that doesn't start with $2"
    )]
    Bcrypt,
    /// It would take too long.
    #[error("its bcrypt cost is {0}; at most {COST_MAX} is accepted, 11 is usual")]
    Cost(u32),
}

/// What digests of plain secrets are keyed with; random, and the same for the life of the process so
/// that a reload can tell whether a password changed.
#[derive(Clone, Debug)]
pub(super) struct DigestKey(Arc<Zeroizing<[u8; blake3::KEY_LEN]>>);

impl DigestKey {
    /// A key that is nowhere else.
    pub(super) fn random() -> Self {
        Self(Arc::new(Zeroizing::new(rand::random())))
    }

    fn digest(&self, secret: &str) -> blake3::Hash {
        blake3::keyed_hash(&self.0, secret.as_bytes())
    }
}

/// A secret that a client has to present.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum StoredSecret {
    /// Keyed digest of a plain secret. `blake3::Hash` compares in constant time.
    Plain(blake3::Hash),
    /// A bcrypt hash.
    Bcrypt(Arc<str>),
}

/// What is known about a presented secret without slow work.
#[derive(Debug)]
pub(super) enum Comparison {
    /// It is right or wrong.
    Known(bool),
    /// It takes a bcrypt check.
    Slow(SlowCheck),
}

impl StoredSecret {
    pub(super) fn new(secret: &Secret, key: &DigestKey) -> Result<Self, SecretError> {
        let text = secret.expose();
        if text.is_empty() {
            return Err(SecretError::Empty);
        }
        if !looks_like_bcrypt(text) {
            return Ok(Self::Plain(key.digest(text)));
        }
        let parts: bcrypt::HashParts = text.parse().map_err(|_| SecretError::Bcrypt)?;
        if text.len() != BCRYPT_BYTES {
            return Err(SecretError::Bcrypt);
        }
        if parts.get_cost() > COST_MAX {
            return Err(SecretError::Cost(parts.get_cost()));
        }
        Ok(Self::Bcrypt(text.into()))
    }

    pub(super) fn compare(&self, presented: &str, key: &DigestKey) -> Comparison {
        match self {
            Self::Plain(digest) => Comparison::Known(*digest == key.digest(presented)),
            // Nobody has an empty password, and the answer needs no work.
            Self::Bcrypt(_) if presented.is_empty() => Comparison::Known(false),
            Self::Bcrypt(hash) => Comparison::Slow(SlowCheck {
                hash: Arc::clone(hash),
                presented: Zeroizing::new(presented.to_owned()),
            }),
        }
    }
}

/// `$2a$11$…` and its sisters.
fn looks_like_bcrypt(text: &str) -> bool {
    ["$2a$", "$2b$", "$2x$", "$2y$"]
        .iter()
        .any(|prefix| text.starts_with(prefix))
}

/// A bcrypt check that is still to be made.
pub(super) struct SlowCheck {
    hash: Arc<str>,
    presented: Zeroizing<String>,
}

impl std::fmt::Debug for SlowCheck {
    /// Leaves the secrets out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SlowCheck")
    }
}

impl SlowCheck {
    fn run(&self) -> bool {
        bcrypt::verify(self.presented.as_str(), &self.hash).unwrap_or(false)
    }
}

/// Makes bcrypt checks, so many at a time that other work on this host goes on.
#[derive(Debug)]
pub(super) struct SlowChecks {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    refused: Arc<Mutex<Seldom>>,
}

impl SlowChecks {
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            running: Arc::new(Semaphore::new((cores / 2).max(1))),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            refused: Arc::default(),
        }
    }

    /// Whether the secret is right; `false` as well when too many wait already.
    pub(super) fn check(&self, check: SlowCheck) -> impl Future<Output = bool> + Send + use<> {
        let place = Arc::clone(&self.waiting).try_acquire_owned();
        let (running, refused) = (Arc::clone(&self.running), Arc::clone(&self.refused));
        async move {
            let Ok(_place) = place else {
                let told = refused.lock().happened();
                if let Some(logins) = told {
                    tracing::warn!(
                        logins,
                        waiting_max = WAITING_MAX,
                        "logins were refused: too many wait for their bcrypt check"
                    );
                }
                return false;
            };
            let Ok(turn) = running.acquire_owned().await else {
                return false;
            };
            // The turn ends with the work, not with this future, which may be dropped before.
            let checking = tokio::task::spawn_blocking(move || {
                let right = check.run();
                drop(turn);
                right
            });
            checking.await.unwrap_or(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(stored: &StoredSecret, presented: &str, key: &DigestKey) -> bool {
        match stored.compare(presented, key) {
            Comparison::Known(right) => right,
            Comparison::Slow(check) => check.run(),
        }
    }

    #[test]
    fn plain_and_bcrypt_secrets_are_told_from_others() {
        let key = DigestKey::random();
        let hash = bcrypt::hash("s3cr3t", 4).unwrap();
        for text in ["s3cr3t", hash.as_str()] {
            let stored = StoredSecret::new(&text.into(), &key).unwrap();
            assert!(known(&stored, "s3cr3t", &key), "{text}");
            for wrong in [
                "",
                "s3cr3",
                "s3cr3t ",
                "S3cr3t",
                text.trim_start_matches('s'),
            ] {
                assert!(!known(&stored, wrong, &key), "{text} against {wrong:?}");
            }
        }
    }

    #[test]
    fn the_hash_itself_opens_nothing() {
        let key = DigestKey::random();
        let hash = bcrypt::hash("s3cr3t", 4).unwrap();
        let stored = StoredSecret::new(&hash.as_str().into(), &key).unwrap();
        assert!(!known(&stored, &hash, &key));
    }

    #[test]
    fn what_only_looks_like_bcrypt_is_refused() {
        let key = DigestKey::random();
        let make = |text: &str| StoredSecret::new(&text.into(), &key).unwrap_err();
        assert_eq!(make(""), SecretError::Empty);
        assert_eq!(make("$2a$oops"), SecretError::Bcrypt);
        let costly = bcrypt::hash("x", 4).unwrap().replace("$04$", "$31$");
        assert_eq!(make(&costly), SecretError::Cost(31));
    }

    #[test]
    fn a_hash_made_elsewhere_is_understood() {
        // From the bcrypt test vectors of Openwall's crypt_blowfish: "U*U" with cost 5.
        let key = DigestKey::random();
        let hash = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        let stored = StoredSecret::new(&hash.into(), &key).unwrap();
        assert!(known(&stored, "U*U", &key));
        assert!(!known(&stored, "U*V", &key));
    }

    #[tokio::test]
    async fn a_flood_is_refused_and_leaves_room_again() {
        let key = DigestKey::random();
        let hash = bcrypt::hash("s3cr3t", 4).unwrap();
        let stored = StoredSecret::new(&hash.as_str().into(), &key).unwrap();
        let slow = |checks: &SlowChecks| match stored.compare("s3cr3t", &key) {
            Comparison::Slow(check) => checks.check(check),
            Comparison::Known(_) => unreachable!("bcrypt is slow"),
        };
        let checks = SlowChecks::new();
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| slow(&checks)).collect();
        assert!(!slow(&checks).await, "one too many");
        assert!(waiting.remove(0).await);
        assert!(slow(&checks).await);
        drop(waiting);
        assert!(slow(&checks).await);
    }
}
