//! Why a log does not open. Everything here leaves the directory as it was found.

use std::io;
use std::path::{Path, PathBuf};

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// Another process (or another handle of this one) has the directory open.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Bytes that were synced once are not what was written. Entries and votes that this node has
    /// acknowledged may be gone: it must not vote until its peers have given it what it lacks.
    #[error("{} is damaged at byte {offset}: {detail}", file.display())]
    Damaged {
        /// The segment file.
        file: PathBuf,
        /// Where the first bad record starts, in bytes from the start of the file.
        offset: u64,
        /// What was wrong.
        detail: String,
    },
    /// A segment file that must be there is not.
    #[error("segment {} is missing: {detail}", file.display())]
    Missing {
        /// The name it would have.
        file: PathBuf,
        /// How its absence shows.
        detail: String,
    },
    /// The file is in a format of another version.
    #[error("{} has format {found} and this version reads {supported}: start the version that wrote it, or a newer one; nothing was changed", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// Its format version.
        found: u32,
        /// The format version this code reads.
        supported: u32,
    },
}

impl LogError {
    /// An [`LogError::Io`].
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether bytes that were synced once are not there any more, as opposed to being out of reach.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Missing { .. })
    }

    /// A [`LogError::Damaged`].
    pub(super) fn damaged(file: &Path, offset: u64, detail: impl Into<String>) -> Self {
        Self::Damaged {
            file: file.to_owned(),
            offset,
            detail: detail.into(),
        }
    }
}
