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
    /// `node.id` exists but is not readable as one.
    #[error("{path}: not a node id file: {reason}")]
    NodeId {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The data folder can't be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The write-ahead log does not open.
    #[error("the log does not open: {0}")]
    Log(String),
    /// The log begins after what the checkpoint holds: acknowledged entries are missing here.
    #[error("the log was purged up to {purged} but the newest usable checkpoint is {checkpoint}")]
    Gap {
        /// Last index that is no longer in the log.
        purged: u64,
        /// Index of the best checkpoint found.
        checkpoint: u64,
    },
    /// The consensus core refused to start.
    #[error("consensus did not start: {0}")]
    Raft(String),
}

/// Why stored bytes can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
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
