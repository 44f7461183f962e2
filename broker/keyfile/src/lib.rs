//! Files that hold an identity, a node's or a person's: JSON that only its owner can read, created whole
//! or not at all, never overwritten, and never replaced where it can't be used (control-plane.md,
//! Identities). What stands in them is their owners' matter.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use unibus_keyfile::{IdentityError, create, load_or_create, random, read};
//!
//! #[derive(Debug, Deserialize, PartialEq, Serialize)]
//! struct Content {
//!     seed: String,
//! }
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("me.json");
//! let content = Content { seed: format!("{:02x?}", random()?) };
//! create(&path, &content)?;
//! assert_eq!(read::<Content>(&path)?, content);
//! assert!(matches!(create(&path, &content), Err(IdentityError::Exists(_))));
//! // A program that wants the same identity at every start, and a new one at the first.
//! let fresh = || Ok(Content { seed: "another".into() });
//! assert_eq!(load_or_create(&path, read, fresh, |new| create(&path, new))?, content);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rand::TryRng;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use zeroize::Zeroizing;

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Reading or writing by group or others.
const MODE_OF_OTHERS: u32 = 0o077;

/// Why an identity file is of no use. No message shows what stands in it.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// There is none.
    #[error("identity file {} is not there", .0.display())]
    Missing(PathBuf),
    /// There is one already.
    #[error("identity file {} is there already; it is never overwritten", .0.display())]
    Exists(PathBuf),
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

/// 32 bytes from the system's random number source, for a secret key.
///
/// # Errors
/// [`IdentityError::Random`].
pub fn random() -> Result<Zeroizing<[u8; 32]>, IdentityError> {
    let mut secret = Zeroizing::new([0; 32]);
    rand::rngs::SysRng
        .try_fill_bytes(secret.as_mut())
        .map_err(|_| IdentityError::Random)?;
    Ok(secret)
}

/// What stands in an identity file.
///
/// # Errors
/// [`IdentityError`], of which [`IdentityError::Missing`] alone means that nothing is there; the file is
/// left as it is.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, IdentityError> {
    let io = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => IdentityError::Missing(path.to_owned()),
        _ => IdentityError::Io {
            path: path.to_owned(),
            action: "read",
            source,
        },
    };
    let corrupt = |reason| IdentityError::Corrupt {
        path: path.to_owned(),
        reason,
    };
    let meta = std::fs::metadata(path).map_err(io)?;
    if meta.mode() & MODE_OF_OTHERS != 0 {
        return Err(IdentityError::Open(path.to_owned()));
    }
    if meta.len() > FILE_BYTES_MAX {
        return Err(corrupt("it is larger than an identity is"));
    }
    let text = std::fs::read(path).map(Zeroizing::new).map_err(io)?;
    serde_json::from_slice(&text).map_err(|_| corrupt("it is not the JSON of an identity"))
}

/// Writes an identity file of mode 0600, and its folder: whole or not at all.
///
/// # Errors
/// [`IdentityError::Exists`], [`IdentityError::Io`].
pub fn create(path: &Path, content: &impl Serialize) -> Result<(), IdentityError> {
    let io = |source: std::io::Error| match source.kind() {
        ErrorKind::AlreadyExists => IdentityError::Exists(path.to_owned()),
        _ => IdentityError::Io {
            path: path.to_owned(),
            action: "created",
            source,
        },
    };
    let text = serde_json::to_vec_pretty(content).map_err(|error| io(error.into()))?;
    let mut text = Zeroizing::new(text);
    text.push(b'\n');
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(io)?;
    // Not the process id: in a container it is the same after a crash that has left a draft.
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}.new", rand::random::<u64>()));
    let draft = folder.join(name);
    let written = write(&draft, &text).and_then(|()| {
        // A hard link, unlike a rename, does not replace what is there.
        std::fs::hard_link(&draft, path)?;
        File::open(folder)?.sync_all()
    });
    // The draft is left over or was never made; neither changes the outcome.
    drop(std::fs::remove_file(&draft));
    written.map_err(io)
}

fn write(draft: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(draft)?;
    file.write_all(content)?;
    file.sync_all()
}

/// The identity in `path`, or a fresh one that `create` puts there. Of two processes that do so at
/// once, both get the same identity.
///
/// # Errors
/// [`IdentityError`]; a file that is there is never overwritten.
pub fn load_or_create<T>(
    path: &Path,
    load: impl Fn(&Path) -> Result<T, IdentityError>,
    fresh: impl FnOnce() -> Result<T, IdentityError>,
    create: impl FnOnce(&T) -> Result<(), IdentityError>,
) -> Result<T, IdentityError> {
    match load(path) {
        Err(IdentityError::Missing(_)) => {}
        done => return done,
    }
    let fresh = fresh()?;
    match create(&fresh) {
        Err(IdentityError::Exists(_)) => load(path),
        done => done.map(|()| fresh),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_can_not_be_used_is_an_error_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/me.json");
        let again = || load_or_create(&path, read, || Ok(7), |new| create(&path, new));
        assert!(matches!(read::<u32>(&path), Err(IdentityError::Missing(_))));
        assert_eq!(again().unwrap(), 7);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let left = std::fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(left.count(), 1, "no draft is left");

        let large = vec![b' '; usize::try_from(FILE_BYTES_MAX).unwrap() + 1];
        for content in [&b""[..], b"seven", &large] {
            std::fs::write(&path, content).unwrap();
            assert!(matches!(again(), Err(IdentityError::Corrupt { .. })));
            assert_eq!(std::fs::read(&path).unwrap(), content);
        }
        std::fs::write(&path, b"8").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let open = again().unwrap_err();
        assert!(open.to_string().contains("chmod 600"), "{open}");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(again().unwrap(), 8);
    }

    #[test]
    fn who_comes_second_gets_the_identity_of_who_came_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("me.json");
        let racing = load_or_create(
            &path,
            read,
            || Ok(1),
            |new| {
                create(&path, &2)?; // another process, between looking and creating
                create(&path, new)
            },
        );
        assert_eq!(racing.unwrap(), 2);
    }
}
