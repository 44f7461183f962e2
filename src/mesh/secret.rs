//! The route secret: both ends prove that they know it, bound to their one TLS session, and it
//! never travels. Only a derived key is kept in memory.

use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::limits::SECRET_BYTES_MAX;

/// Length of a proof, in bytes.
pub(crate) const PROOF_BYTES: usize = blake3::OUT_LEN;

const KEY_CONTEXT: &str = "unibus 2026 route secret v1";
const KEY_CONTEXT_USER: &str = "unibus 2026 route user and password v1";
const KEY_CONTEXT_ABSENT: &str = "unibus 2026 route without secret v1";
const PROOF_LABEL: &[u8] = b"unibus route proof v1";

/// The key derived from the cluster's shared secret.
#[derive(Clone)]
pub struct RouteSecret {
    key: Zeroizing<[u8; blake3::KEY_LEN]>,
}

/// Why a route secret file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file could not be read.
    #[error(
        "route secret {path}: {source}; make it with `unibus-node pki init`",
        path = path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file holds nothing.
    #[error("route secret {} is empty; make it anew with `unibus-node pki init`", .0.display())]
    Empty(PathBuf),
    /// The file is too large to be a secret.
    #[error(
        "route secret {} is over {SECRET_BYTES_MAX} bytes; is it the right file?",
        .0.display()
    )]
    TooLarge(PathBuf),
}

impl RouteSecret {
    /// A secret from its bytes.
    pub fn new(secret: &[u8]) -> Self {
        Self::derived(KEY_CONTEXT, &[secret])
    }

    /// A secret from `--cluster-user` and `--cluster-pass`.
    pub fn from_user_pass(user: &str, pass: &str) -> Self {
        Self::derived(KEY_CONTEXT_USER, &[user.as_bytes(), pass.as_bytes()])
    }

    /// The content of a `route.secret` file without surrounding whitespace.
    pub fn from_file(path: &Path) -> Result<Self, SecretError> {
        let read = |source| SecretError::Read {
            path: path.to_owned(),
            source,
        };
        let length = std::fs::metadata(path).map_err(read)?.len();
        if length > SECRET_BYTES_MAX {
            return Err(SecretError::TooLarge(path.to_owned()));
        }
        let content = Zeroizing::new(std::fs::read(path).map_err(read)?);
        match content.trim_ascii() {
            [] => Err(SecretError::Empty(path.to_owned())),
            secret => Ok(Self::new(secret)),
        }
    }

    /// No secret: matches only a peer that has none either. The boot guard allows it on loopback.
    pub fn absent() -> Self {
        Self::derived(KEY_CONTEXT_ABSENT, &[])
    }

    fn derived(context: &'static str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        for part in parts {
            // Lengths keep ("ab", "c") apart from ("a", "bc").
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self {
            key: Zeroizing::new(*hasher.finalize().as_bytes()),
        }
    }

    /// What `role` shows to prove that it knows the secret in this session.
    pub(crate) fn proof(&self, role: Role, session: &Session<'_>) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(PROOF_LABEL);
        hasher.update(&[role as u8]);
        hasher.update(session.exporter);
        for hello in [session.dialer_hello, session.acceptor_hello] {
            hasher.update(blake3::hash(hello).as_bytes());
        }
        hasher.finalize()
    }

    /// Whether `shown` is the proof of `role`; takes the same time whatever differs.
    pub(crate) fn verify(&self, role: Role, session: &Session<'_>, shown: &[u8]) -> bool {
        let Ok(shown) = <[u8; PROOF_BYTES]>::try_from(shown) else {
            return false;
        };
        // blake3::Hash compares in constant time.
        self.proof(role, session) == blake3::Hash::from_bytes(shown)
    }
}

impl fmt::Debug for RouteSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RouteSecret(..)")
    }
}

/// Which end of the connection makes a proof, so that one end's proof is useless to the other.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Role {
    Dialer = 1,
    Acceptor = 2,
}

/// What a proof is bound to: this TLS session and everything that both ends said in it (node ids,
/// names, posture).
#[derive(Copy, Clone, Debug)]
pub(crate) struct Session<'a> {
    pub(crate) exporter: &'a [u8],
    pub(crate) dialer_hello: &'a [u8],
    pub(crate) acceptor_hello: &'a [u8],
}

#[cfg(test)]
mod tests {
    use super::{Role, RouteSecret, SecretError, Session};

    const SESSION: Session<'static> = Session {
        exporter: b"exporter",
        dialer_hello: b"a",
        acceptor_hello: b"b",
    };

    #[test]
    fn a_proof_holds_for_its_secret_role_and_session_only() {
        let secret = RouteSecret::new(b"one");
        let proof = secret.proof(Role::Dialer, &SESSION);
        assert!(secret.verify(Role::Dialer, &SESSION, proof.as_bytes()));
        assert!(!secret.verify(Role::Acceptor, &SESSION, proof.as_bytes()));
        assert!(!RouteSecret::new(b"two").verify(Role::Dialer, &SESSION, proof.as_bytes()));
        let other = Session {
            exporter: b"another",
            ..SESSION
        };
        assert!(!secret.verify(Role::Dialer, &other, proof.as_bytes()));
        let other = Session {
            acceptor_hello: b"c",
            ..SESSION
        };
        assert!(!secret.verify(Role::Dialer, &other, proof.as_bytes()));
        assert!(!secret.verify(Role::Dialer, &SESSION, &proof.as_bytes()[1..]));
    }

    #[test]
    fn user_and_password_do_not_run_together() {
        let secret = RouteSecret::from_user_pass("ab", "c");
        let proof = secret.proof(Role::Dialer, &SESSION);
        let shifted = RouteSecret::from_user_pass("a", "bc");
        assert!(!shifted.verify(Role::Dialer, &SESSION, proof.as_bytes()));
        assert!(!RouteSecret::absent().verify(Role::Dialer, &SESSION, proof.as_bytes()));
        assert_eq!(format!("{secret:?}"), "RouteSecret(..)");
    }

    #[test]
    fn a_secret_file_is_trimmed_and_must_hold_something() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("route.secret");
        assert!(matches!(
            RouteSecret::from_file(&path),
            Err(SecretError::Read { .. })
        ));
        std::fs::write(&path, " \n").unwrap();
        assert!(matches!(
            RouteSecret::from_file(&path),
            Err(SecretError::Empty(_))
        ));
        std::fs::write(&path, "abc\n").unwrap();
        let proof = RouteSecret::from_file(&path)
            .unwrap()
            .proof(Role::Dialer, &SESSION);
        assert!(RouteSecret::new(b"abc").verify(Role::Dialer, &SESSION, proof.as_bytes()));
        std::fs::write(&path, vec![b'a'; 5000]).unwrap();
        assert!(matches!(
            RouteSecret::from_file(&path),
            Err(SecretError::TooLarge(_))
        ));
    }
}
