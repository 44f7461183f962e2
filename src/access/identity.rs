//! The node's own service identity: an Ed25519 key in a JSON file of mode 0600. A file that is
//! there but can't be used is an error and is never replaced (control-plane.md, Identities):
//! `load` and `load_or_create` are two functions on purpose.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use unibus_proto::nkey::{NkeyPublic, UserSeed};
use zeroize::{Zeroize, Zeroizing};

use super::users::now;

/// Largest identity file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// An identity with its secret half.
#[derive(Debug)]
pub struct InternalIdentity {
    seed: UserSeed,
    public: NkeyPublic,
}

/// Why an identity file is of no use. No message shows what stands in it.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// There is none.
    #[error("identity file {} is not there; a node creates it when it first starts", .0.display())]
    Missing(PathBuf),
    /// The operating system says no.
    #[error("identity file {} can't be {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `created`.
        action: &'static str,
        /// Its reason.
        source: std::io::Error,
    },
    /// Others can read the secret.
    #[error("identity file {path} can be read or written by others on this host; mend it: chmod 600 {path}", path = .0.display())]
    Open(PathBuf),
    /// It is not an identity.
    #[error("identity file {} is corrupt: {reason}; it is never replaced on its own: restore it, or move it away to get a new identity", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong, without its content.
        reason: &'static str,
    },
    /// The system gave no random bytes.
    #[error("the system's random number source failed")]
    Random,
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
        let mut random = Zeroizing::new([0u8; 32]);
        use rand::TryRng;
        rand::rngs::SysRng
            .try_fill_bytes(random.as_mut())
            .map_err(|_| IdentityError::Random)?;
        let seed = UserSeed::from_bytes(*random);
        let public = seed.public();
        Ok(Self { seed, public })
    }

    /// Reads the identity in `path`.
    ///
    /// # Errors
    /// [`IdentityError`]; the file is left as it is.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let io = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound => IdentityError::Missing(path.to_owned()),
            _ => IdentityError::Io {
                path: path.to_owned(),
                action: "read",
                source,
            },
        };
        let meta = std::fs::metadata(path).map_err(io)?;
        let corrupt = |reason| IdentityError::Corrupt {
            path: path.to_owned(),
            reason,
        };
        if meta.mode() & 0o077 != 0 {
            return Err(IdentityError::Open(path.to_owned()));
        }
        if meta.len() > FILE_BYTES_MAX {
            return Err(corrupt("it is larger than an identity is"));
        }
        let text = Zeroizing::new(std::fs::read(path).map_err(io)?);
        let content: Content = serde_json::from_slice(&text)
            .map_err(|_| corrupt("it is not the JSON of an identity"))?;
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
        match Self::load(path) {
            Err(IdentityError::Missing(_)) => {}
            done => return done,
        }
        let fresh = Self::generate()?;
        match fresh.create(path) {
            Ok(()) => Ok(fresh),
            Err(IdentityError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::AlreadyExists =>
            {
                Self::load(path)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes the identity to `path`, which must not exist: complete or not at all.
    ///
    /// # Errors
    /// [`IdentityError::Io`]; of kind `AlreadyExists` where the file is there.
    pub fn create(&self, path: &Path) -> Result<(), IdentityError> {
        let io = |source| IdentityError::Io {
            path: path.to_owned(),
            action: "created",
            source,
        };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(folder).map_err(io)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let draft = folder.join(name);
        let written = self.write(&draft).and_then(|()| {
            // A hard link, unlike a rename, does not replace what is there.
            std::fs::hard_link(&draft, path)?;
            File::open(folder)?.sync_all()
        });
        // The draft is left over or was never made; neither changes the outcome.
        drop(std::fs::remove_file(&draft));
        written.map_err(io)
    }

    fn write(&self, draft: &Path) -> std::io::Result<()> {
        let content = Content {
            seed: self.seed.to_nkey(),
            nkey: self.public.to_nkey(),
            sign_pub: self.public.to_hex(),
            created_at: now(),
        };
        let text = Zeroizing::new(serde_json::to_vec_pretty(&content)?);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(draft)?;
        file.write_all(&text)?;
        file.write_all(b"\n")?;
        file.sync_all()
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
        assert!(!format!("{created:?}").contains("SU"));
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
