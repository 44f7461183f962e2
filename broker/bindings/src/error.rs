//! What can go wrong, in a form that other languages can match on.

use unibus_client::{Error, IdentityError};

/// Why a call failed. `words` are for people.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error, uniffi::Error)]
pub enum BusError {
    /// An argument is not what it should be; nothing was done.
    #[error("{words}")]
    Invalid {
        /// What is wrong with it.
        words: String,
    },
    /// The identity's file is missing, damaged, or open to others.
    #[error("{words}")]
    Identity {
        /// Which, and what mends it.
        words: String,
    },
    /// A server said no, in its own words.
    #[error("{words}")]
    Refused {
        /// The HTTP status: 401 and 403 say that this identity may not.
        status: u16,
        /// What the server said.
        words: String,
    },
    /// No server answered, or the connection is lost; trying later may help.
    #[error("{words}")]
    Unreachable {
        /// What was tried.
        words: String,
    },
    /// The room needs a new key before anybody may speak: its owner's client makes it.
    #[error("{words}")]
    NeedsRekey {
        /// Which room.
        words: String,
    },
    /// The invitation was not accepted yet.
    #[error("{words}")]
    NotJoined {
        /// Which room.
        words: String,
    },
    /// Only the room's owner can do that.
    #[error("{words}")]
    NotOwner {
        /// Which room.
        words: String,
    },
    /// There is no room key for this identity.
    #[error("{words}")]
    NoKey {
        /// Of which room and epoch.
        words: String,
    },
    /// A message is larger than a frame holds, or a file than files may be.
    #[error("{words}")]
    TooLarge {
        /// How large it may be.
        words: String,
    },
    /// What a server said does not verify: it may be lying, or something is damaged.
    #[error("{words}")]
    Untrusted {
        /// What does not verify.
        words: String,
    },
    /// Reading or writing a local file failed.
    #[error("{words}")]
    Io {
        /// What was being done.
        words: String,
    },
    /// The session was closed.
    #[error("{words}")]
    Closed {
        /// That it was.
        words: String,
    },
}

impl BusError {
    pub(crate) fn invalid(what: impl std::fmt::Display) -> Self {
        let words = what.to_string();
        Self::Invalid { words }
    }
}

impl From<Error> for BusError {
    fn from(error: Error) -> Self {
        let words = error.to_string();
        match error {
            Error::Options(_) => Self::Invalid { words },
            Error::Refused { status, .. } => Self::Refused { status, words },
            Error::OlderNode { .. } => Self::Refused { status: 404, words },
            Error::NeedsRekey(_) => Self::NeedsRekey { words },
            Error::NotOwner(_) => Self::NotOwner { words },
            Error::NotJoined(_) => Self::NotJoined { words },
            Error::NoKey { .. } => Self::NoKey { words },
            Error::TooLarge { .. } => Self::TooLarge { words },
            Error::Io { .. } => Self::Io { words },
            Error::Closed => Self::Closed { words },
            Error::Unreachable { .. } | Error::Messages { .. } => Self::Unreachable { words },
            // Garbled answers, made-up members, seals, frames and files that don't verify; what the
            // library learns to refuse later is not trusted either.
            _ => Self::Untrusted { words },
        }
    }
}

impl From<IdentityError> for BusError {
    fn from(error: IdentityError) -> Self {
        let words = error.to_string();
        Self::Identity { words }
    }
}

/// An id in the form of a text.
pub(crate) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: &str,
) -> Result<T, BusError> {
    text.parse()
        .map_err(|error| BusError::invalid(format!("{text:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::{BusError, parse};
    use unibus_client::Error;
    use unibus_proto::control::RoomId;

    #[test]
    fn errors_keep_their_kind_and_words() {
        let refused = Error::Refused {
            status: 403,
            words: "not a member".into(),
        };
        let wanted = BusError::Refused {
            status: 403,
            words: "not a member".into(),
        };
        assert_eq!(BusError::from(refused), wanted);
        let room: RoomId = "r1".parse().unwrap();
        let needs = BusError::from(Error::NeedsRekey(room));
        assert!(matches!(&needs, BusError::NeedsRekey { words } if words.contains("r1")));
        assert!(matches!(
            BusError::from(Error::Closed),
            BusError::Closed { .. }
        ));
    }

    #[test]
    fn what_is_no_id_is_named() {
        let error = parse::<RoomId>("a b").unwrap_err();
        assert!(error.to_string().contains("\"a b\""), "{error}");
    }
}
