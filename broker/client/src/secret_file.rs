//! Files that hold a secret: readable by their owner only, created complete or not at all, never
//! overwritten.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

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

/// The content of a secret file.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let io = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => IdentityError::Missing(path.to_owned()),
        _ => IdentityError::Io {
            path: path.to_owned(),
            action: "read",
            source,
        },
    };
    let meta = std::fs::metadata(path).map_err(io)?;
    if meta.mode() & MODE_OF_OTHERS != 0 {
        return Err(IdentityError::Open(path.to_owned()));
    }
    if meta.len() > FILE_BYTES_MAX {
        return Err(IdentityError::Corrupt {
            path: path.to_owned(),
            reason: "it is larger than an identity is",
        });
    }
    std::fs::read(path).map(Zeroizing::new).map_err(io)
}

/// Creates a secret file of mode 0600, and its folder.
pub(crate) fn create(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    let io = |source: std::io::Error| match source.kind() {
        ErrorKind::AlreadyExists => IdentityError::Exists(path.to_owned()),
        _ => IdentityError::Io {
            path: path.to_owned(),
            action: "created",
            source,
        },
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(io)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let draft = folder.join(name);
    let written = write(&draft, content).and_then(|()| {
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
