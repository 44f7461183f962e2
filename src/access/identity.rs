//! The node's own service identity: an Ed25519 key in a JSON file of mode 0600. A file that is
//! there but can't be used is an error and is never replaced (control-plane.md, Identities):
//! `load` and `load_or_create` are two functions on purpose.

use std::path::Path;

use serde::{Deserialize, Serialize};
pub use unibus_keyfile::IdentityError;
use unibus_proto::nkey::{NkeyPublic, UserSeed};
use zeroize::{Zeroize, Zeroizing};

use super::users::now;

/// An identity with its secret half.
#[derive(Debug)]
pub struct InternalIdentity {
    seed: UserSeed,
    public: NkeyPublic,
}

#[derive(Serialize, Deserialize)]
struct Content {
    /// `SU…`, secret.
    seed: String,
    /// `U…`.
    nkey: String,
    /// The same in hex.
    sign_pub: String,
    /// RFC 3339 UTC.
    created_at: String,
}

impl Drop for Content {
    fn drop(&mut self) {
        self.seed.zeroize();
    }
}

impl InternalIdentity {
    /// A new identity that is nowhere stored.
    ///
    /// # Errors
    /// [`IdentityError::Random`].
    pub fn generate() -> Result<Self, IdentityError> {
        let seed = UserSeed::from_bytes(*unibus_keyfile::random()?);
        let public = seed.public();
        Ok(Self { seed, public })
    }

    /// Reads the identity in `path`.
    ///
    /// # Errors
    /// [`IdentityError`]; the file is left as it is.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let content: Content = unibus_keyfile::read(path)?;
        let corrupt = |reason| IdentityError::Corrupt {
            path: path.to_owned(),
            reason,
        };
        let seed = UserSeed::parse(&content.seed).map_err(|_| corrupt("its seed is none"))?;
        let public = seed.public();
        if content.nkey != public.to_nkey() || content.sign_pub != public.to_hex() {
            return Err(corrupt(
                "its seed and its public key do not belong together",
            ));
        }
        Ok(Self { seed, public })
    }

    /// Reads the identity in `path`, or creates it (mode 0600, folder included) where nothing is.
    /// Of two processes that do so at once, both get the same identity.
    ///
    /// # Errors
    /// [`IdentityError`]; a file that is there is never overwritten.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        unibus_keyfile::load_or_create(path, Self::load, Self::generate, |new| new.create(path))
    }

    /// Writes the identity to `path`, which must not exist: complete or not at all.
    ///
    /// # Errors
    /// [`IdentityError::Exists`], [`IdentityError::Io`].
    pub fn create(&self, path: &Path) -> Result<(), IdentityError> {
        let content = Content {
            seed: self.seed.to_nkey(),
            nkey: self.public.to_nkey(),
            sign_pub: self.public.to_hex(),
            created_at: now(),
        };
        unibus_keyfile::create(path, &content)
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> &NkeyPublic {
        &self.public
    }

    /// The secret as `SU…`, for a client library. Never log it.
    #[must_use]
    pub fn seed_text(&self) -> Zeroizing<String> {
        Zeroizing::new(self.seed.to_nkey())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::{IdentityError, InternalIdentity};

    #[test]
    fn an_identity_is_created_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/internal.json");
        assert!(matches!(
            InternalIdentity::load(&path),
            Err(IdentityError::Missing(_))
        ));
        let created = InternalIdentity::load_or_create(&path).unwrap();
        let again = InternalIdentity::load_or_create(&path).unwrap();
        assert_eq!(created.public(), again.public());
        assert_eq!(
            created.seed_text(),
            InternalIdentity::load(&path).unwrap().seed_text()
        );
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "no draft is left");
        // "SU" alone may stand in a public key by chance.
        assert!(!format!("{created:?}").contains(created.seed_text().as_str()));
    }

    #[test]
    fn a_corrupt_identity_is_an_error_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("internal.json");
        InternalIdentity::load_or_create(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let other = InternalIdentity::generate().unwrap();
        let swapped = String::from_utf8(whole.clone()).unwrap();
        let nkey = InternalIdentity::load(&path).unwrap().public().to_nkey();
        let swapped = swapped.replace(&nkey, &other.public().to_nkey());
        for content in [
            &b""[..],
            b"{}",
            &whole[..whole.len() / 2],
            swapped.as_bytes(),
        ] {
            std::fs::write(&path, content).unwrap();
            for outcome in [
                InternalIdentity::load(&path),
                InternalIdentity::load_or_create(&path),
            ] {
                assert!(matches!(outcome, Err(IdentityError::Corrupt { .. })));
            }
            assert_eq!(std::fs::read(&path).unwrap(), content);
        }
        std::fs::write(&path, whole).unwrap();
        assert!(InternalIdentity::load(&path).is_ok());
    }

    #[test]
    fn an_identity_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("internal.json");
        InternalIdentity::load_or_create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = InternalIdentity::load_or_create(&path).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("internal.json");
        let first = InternalIdentity::load_or_create(&path).unwrap();
        assert!(InternalIdentity::generate().unwrap().create(&path).is_err());
        assert_eq!(
            InternalIdentity::load(&path).unwrap().public(),
            first.public()
        );
    }
}
