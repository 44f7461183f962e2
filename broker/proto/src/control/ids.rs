//! Identifiers as they stand in paths, bodies and record keys. A value of one of these types is
//! safe as a token of a subject, in a file name and in a log line.

use std::fmt;
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::nkey::NkeyPublic;
use crate::subject;

/// Longest room id, in bytes.
pub const ROOM_ID_BYTES_MAX: usize = 64;
/// Longest subject of a room, in bytes.
pub const ROOM_SUBJECT_BYTES_MAX: usize = 255;
const ENDPOINT_BYTES: usize = 16;
const KEX_BYTES: usize = 32;

/// Why a text is no identifier.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
pub enum IdError {
    /// Not an endpoint id.
    #[error("an endpoint id is 32 lower-case hex digits")]
    Endpoint,
    /// Not a room id.
    #[error("a room id has 1 to 64 letters, digits, '-' and '_'")]
    Room,
    /// Not a room's subject.
    #[error(
        "a room's subject is literal, has at most 255 bytes, and begins neither with '$' nor with _INBOX"
    )]
    Subject,
    /// Not an X25519 public key.
    #[error("kex_pub is an X25519 public key in 64 hex digits")]
    Kex,
    /// Not an Ed25519 public key.
    #[error("sign_pub is an Ed25519 public key in 64 hex digits")]
    Sign,
}

/// The first 16 bytes of BLAKE3 of a signing key, in lower-case hex.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EndpointId(String);

impl EndpointId {
    /// Whose key this is.
    #[must_use]
    pub fn of(key: &NkeyPublic) -> Self {
        let hash = blake3::hash(key.as_bytes());
        Self(HEXLOWER.encode(&hash.as_bytes()[..ENDPOINT_BYTES]))
    }
}

impl FromStr for EndpointId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == 2 * ENDPOINT_BYTES && text.bytes().all(hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::Endpoint)
        }
    }
}

/// A room's id: one token.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoomId(String);

impl FromStr for RoomId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if (1..=ROOM_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(legal) {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::Room)
        }
    }
}

/// A room's subject: literal, and outside everything that the system or inboxes use.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoomSubject(String);

impl FromStr for RoomSubject {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let first = text.split('.').next().unwrap_or_default();
        let plain = text.len() <= ROOM_SUBJECT_BYTES_MAX
            && !text.chars().any(|c| c.is_control() || c.is_whitespace())
            && subject::is_literal(text.as_bytes());
        if plain && !first.starts_with('$') && !first.starts_with("_INBOX") {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::Subject)
        }
    }
}

/// An X25519 public key in lower-case hex.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KexPublic(String);

impl FromStr for KexPublic {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bytes = HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .map_err(|_| IdError::Kex)?;
        // The all-zero point contributes nothing to an agreement.
        if bytes.len() == KEX_BYTES && bytes.iter().any(|byte| *byte != 0) {
            Ok(Self(HEXLOWER.encode(&bytes)))
        } else {
            Err(IdError::Kex)
        }
    }
}

/// An Ed25519 public key that is written in lower-case hex.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SignPublic(pub NkeyPublic);

impl SignPublic {
    /// Whose key this is.
    #[must_use]
    pub fn endpoint(&self) -> EndpointId {
        EndpointId::of(&self.0)
    }
}

impl FromStr for SignPublic {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        NkeyPublic::parse(text).map(Self).map_err(|_| IdError::Sign)
    }
}

impl fmt::Display for SignPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_hex())
    }
}

impl From<SignPublic> for String {
    fn from(key: SignPublic) -> Self {
        key.0.to_hex()
    }
}

impl TryFrom<String> for SignPublic {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

macro_rules! text_type {
    ($($name:ident),*) => { $(
        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    )* };
}

text_type!(EndpointId, RoomId, RoomSubject, KexPublic);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nkey::UserSeed;

    #[test]
    fn an_endpoint_id_follows_from_the_key() {
        let key = UserSeed::from_bytes([7; 32]).public();
        let id = EndpointId::of(&key);
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        let hash = blake3::hash(key.as_bytes()).to_hex();
        assert_eq!(id.as_str(), &hash.as_str()[..32]);
        for bad in ["", "xyz", &id.as_str()[1..], &id.as_str().to_uppercase()] {
            assert_eq!(bad.parse::<EndpointId>(), Err(IdError::Endpoint), "{bad}");
        }
    }

    #[test]
    fn ids_that_would_be_more_than_one_token_are_refused() {
        assert!("room-1_A".parse::<RoomId>().is_ok());
        let long = "a".repeat(65);
        for bad in ["", "a.b", "a b", "*", ">", "../x", "a\n", "ä", &long] {
            assert_eq!(bad.parse::<RoomId>(), Err(IdError::Room), "{bad:?}");
        }
    }

    #[test]
    fn a_room_takes_no_subject_of_the_system() {
        assert!("rooms.one".parse::<RoomSubject>().is_ok());
        let long = "a".repeat(256);
        for bad in [
            "",
            ">",
            "a.*",
            "a.>",
            "a..b",
            ".a",
            "a b",
            "a\tb",
            "$KV.x.y",
            "$SYS.x",
            "_INBOX.a",
            "_INBOX",
            "_INBOX_x.y",
            &long,
        ] {
            assert_eq!(bad.parse::<RoomSubject>(), Err(IdError::Subject), "{bad:?}");
        }
    }

    #[test]
    fn keys_are_hex_and_usable() {
        assert!("11".repeat(32).parse::<KexPublic>().is_ok());
        for bad in ["", "11", &"00".repeat(32), &"zz".repeat(32)] {
            assert_eq!(bad.parse::<KexPublic>(), Err(IdError::Kex), "{bad}");
        }
        assert!("00".repeat(32).parse::<SignPublic>().is_err());
    }
}
