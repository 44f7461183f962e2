//! The errors of this crate: one enum per question a caller can ask. None of them carries an
//! openraft or sled type.

use std::io;
use std::path::PathBuf;

use unibus_proto::NodeId;

/// Why a replica did not start. An operator reads this.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The options contradict each other.
    #[error("bad replica options: {0}")]
    Options(String),
    /// The two copies of `node.id` are of different nodes.
    #[error(
        "{} and {} name different nodes: the store was copied from elsewhere, or half of a folder was restored. Put back the one that belongs to the other, or move both away to start as a new node",
        home.display(), store.display()
    )]
    TwoNodes {
        /// The file in the node's folder.
        home: PathBuf,
        /// The file in its store.
        store: PathBuf,
    },
    /// Something that was durable is not what was written, and nobody can be asked for it. Nothing was
    /// changed.
    #[error("{0}")]
    Damaged(Damage),
    /// The data folder can't be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The write-ahead log does not open.
    #[error("the log does not open: {0}")]
    Log(String),
    /// The consensus core refused to start.
    #[error("consensus did not start: {0}")]
    Raft(String),
}

/// What was found damaged on disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Damage {
    /// Each file with how it shows, in the order found.
    pub found: Vec<String>,
    /// The node's folder.
    pub home: PathBuf,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the store is damaged: {}. What this node acknowledged may be gone, so it does not serve. \
             Put back the files if you have them, restore a backup (unibus-node backup restore), or see \
             what can be recovered: unibus-node recover --data-dir {}",
            self.found.join("; "),
            self.home.display()
        )
    }
}

/// Why stored bytes can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The file was written by another version.
    #[error(
        "{path} has format {found} and this version reads {supported}: start the version that wrote it, or a newer one; nothing was changed"
    )]
    Format {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// What this code reads.
        supported: u32,
    },
    /// The operating system refused.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Which file or folder.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A sync failed, so what was written may never get to the disk, whatever a later sync answers. The node
    /// has to end: its next start writes it again.
    #[error("{path} could not be synced ({reason}): what was written to it may be lost")]
    Unsynced {
        /// Which file or folder.
        path: PathBuf,
        /// The system's answer.
        reason: String,
    },
    /// The bytes are there, but they are not what was written.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// How it shows.
        reason: String,
    },
    /// The record is not (or no longer) stored here.
    #[error("no record at stream {stream} block {block} offset {offset}")]
    Missing {
        /// Stream uid.
        stream: u64,
        /// Block number.
        block: u32,
        /// Offset in the block.
        offset: u32,
    },
    /// The sled database refused.
    #[error("sled: {0}")]
    Sled(String),
    /// The rows of a checkpoint do not make a state.
    #[error("the checkpoint's rows do not load: {0}")]
    Rows(String),
}

impl StorageError {
    /// Wraps a system error with what was attempted and where.
    pub(crate) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}

impl StorageError {
    /// Whether a file is not there.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the bytes themselves are bad. Else the system refused for now, which says nothing
    /// about them.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::InvalidData
                    | io::ErrorKind::InvalidInput
            ),
            Self::Format { .. } | Self::Unsynced { .. } => false,
            _ => true,
        }
    }
}

impl From<StorageError> for io::Error {
    fn from(error: StorageError) -> Self {
        Self::other(error)
    }
}

/// Why a proposal has no outcome. Only `TimedOut { maybe_applied: true }` and `Stopped` leave it
/// open whether the commands were applied; all others say that they were not.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProposeError {
    /// No leader could be found in time: not applied.
    #[error("no leader")]
    NoLeader,
    /// No answer in time.
    #[error("timed out, {}", if *maybe_applied { "may have been applied" } else { "not applied" })]
    TimedOut {
        /// Whether the commands may have been (or may yet be) applied.
        maybe_applied: bool,
    },
    /// Too much is waiting already, or the batch is over what one entry may hold (48 MiB): not
    /// applied.
    #[error("too many proposals are waiting, or this one is too large")]
    Overloaded,
    /// The replica is stopping or has stopped: the outcome is unknown.
    #[error("the replica has stopped")]
    Stopped,
}

/// Why a read can't be served.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReadError {
    /// No leader could be found in time.
    #[error("no leader")]
    NoLeader,
    /// The leader did not confirm itself, or this node did not catch up, in time.
    #[error("timed out")]
    TimedOut,
    /// The replica is stopping or has stopped.
    #[error("the replica has stopped")]
    Stopped,
}

/// Why a cluster was not formed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InitializeError {
    /// This node has state already: it never initializes again.
    #[error("this node already belongs to a cluster")]
    NotPristine,
    /// This node lost its store: it takes part again once the others have admitted it, and never
    /// begins anew.
    #[error("this node lost its store and waits to be admitted by the others")]
    Rejoining,
    /// A cluster has begun to admit this node, which forms no other then.
    #[error("{0}")]
    Elsewhere(String),
    /// The member list is empty or lacks this node.
    #[error("bad member list: {0}")]
    Members(String),
    /// The replica is stopping or has stopped.
    #[error("the replica has stopped")]
    Stopped,
}

/// Why a node was not admitted. Asking again is always safe.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AdmitError {
    /// No leader is known or reachable.
    #[error("no leader")]
    NoLeader,
    /// The new member did not catch up in time; it stays a learner.
    #[error("node {0} did not catch up in time")]
    NotCaughtUp(NodeId),
    /// The cluster refused or the change failed.
    #[error("{0}")]
    Refused(String),
    /// The replica is stopping or has stopped.
    #[error("the replica has stopped")]
    Stopped,
}

/// Why a checkpoint could not be taken on request.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CheckpointError {
    /// It was not finished in time.
    #[error("timed out")]
    TimedOut,
    /// The replica is stopping or has stopped.
    #[error("the replica has stopped")]
    Stopped,
}
