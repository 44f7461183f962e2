//! What can go wrong in a session, with what the caller needs to act.

use thiserror::Error;
use unibus_proto::control::{EndpointId, RoomId};

use crate::rooms::blob::BlobError;
use crate::rooms::frame::FrameError;
use crate::rooms::room_key::SealError;
use crate::rooms::roster::RosterError;

/// Why a call of a session failed.
///
/// ```
/// use unibus_client::Error;
///
/// fn advice(error: &Error) -> String {
///     match error {
///         Error::NeedsRekey(room) => format!("wait until the owner of {room} is here"),
///         Error::Unreachable { server, .. } => format!("is {server} running?"),
///         refused if refused.is_forbidden() => format!("ask an admin: {refused}"),
///         other => other.to_string(),
///     }
/// }
/// let refused = Error::Refused { status: 403, words: "you are no member".into() };
/// assert_eq!(advice(&refused), "ask an admin: you are no member");
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The options can't be used together, or one of them can't be used at all.
    #[error("{0}")]
    Options(String),
    /// A server said no, in its own words.
    #[error("{words}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What the server said.
        words: String,
    },
    /// No server answered in time.
    #[error("none of the servers answered; the last one tried, {server}: {cause}")]
    Unreachable {
        /// The server that was tried last.
        server: String,
        /// What happened there.
        cause: String,
    },
    /// A server answered with something that it should not.
    #[error("{server} answered with something else than was asked for: {what}")]
    Garbled {
        /// The server.
        server: String,
        /// What was wrong with it.
        what: String,
    },
    /// The nodes run a build from before one of the calls of this one. What the call is for can't be done
    /// safely without it.
    #[error(
        "{server} is older than this program and does not serve {lacks}: upgrade the nodes first"
    )]
    OlderNode {
        /// The server that was tried last.
        server: String,
        /// What it does not serve.
        lacks: &'static str,
    },
    /// The message plane failed.
    #[error("{doing}: {cause}")]
    Messages {
        /// What was being done.
        doing: &'static str,
        /// What happened.
        cause: String,
    },
    /// Somebody left the room or was removed, and its owner has not made a new key yet.
    #[error("the room {0} needs a new key before anybody may speak in it: its owner rekeys it")]
    NeedsRekey(RoomId),
    /// Only the owner can do that.
    #[error("only the owner of the room {0} can do that")]
    NotOwner(RoomId),
    /// The invitation was not accepted yet.
    #[error("you are invited to the room {0} and have not joined it")]
    NotJoined(RoomId),
    /// There is no room key for this identity.
    #[error("there is no key of epoch {epoch} of the room {room} for you: {words}")]
    NoKey {
        /// The room.
        room: RoomId,
        /// The epoch.
        epoch: u64,
        /// Why.
        words: String,
    },
    /// A payload is larger than a frame holds.
    #[error("the message has {bytes} bytes; the most is {max}: send a file instead")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most.
        max: usize,
    },
    /// Somebody whom the server calls a member can't be verified.
    #[error("{0} is no member that the owner has admitted: it gets no key")]
    Invented(EndpointId),
    /// The room itself can't be trusted.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// What the server says of the room can't follow what the memory of this identity has of it.
    #[error(
        "{error}, as {path} remembers; if it is another room of the same id, or you trust the server with it \
         as it is now, move that file away to begin anew"
    )]
    Memory {
        /// What does not fit.
        error: RosterError,
        /// The file.
        path: String,
    },
    /// The room's epoch is the last number that there is.
    #[error("the room {0} can have no new key: its epoch is the last one")]
    LastEpoch(RoomId),
    /// A room key can't be sealed or opened.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A frame can't be made or read.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A file can't be sent or fetched.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Reading or writing a local file failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The session was closed.
    #[error("the session is closed")]
    Closed,
}

impl Error {
    /// Whether a server said that this identity may not do that.
    ///
    /// ```
    /// let refused = unibus_client::Error::Refused { status: 403, words: "no".into() };
    /// assert!(refused.is_forbidden());
    /// ```
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                status: 401 | 403,
                ..
            }
        )
    }

    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    pub(crate) fn messages(doing: &'static str, cause: impl std::fmt::Display) -> Self {
        Self::Messages {
            doing,
            cause: cause.to_string(),
        }
    }
}
