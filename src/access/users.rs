//! A user's record: the JSON value of bucket `UNIBUS_users` (control-plane.md, Records) and the
//! checks that make one. Field names are stable; unknown fields are kept out and unknown roles or
//! states are refused, so that a record of a newer node never grants by accident.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use unibus_proto::nkey::NkeyPublic;
use unibus_proto::subject::SubjectFilter;

/// Bucket of the users' records; the stream is `KV_` and this.
pub const USERS_BUCKET: &str = "UNIBUS_users";

/// Most patterns, streams or buckets in one list of a user's grants.
pub const GRANTS_MAX: usize = 256;

/// Longest name of a user, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// Longest granted pattern, stream or bucket, in bytes.
const GRANT_BYTES_MAX: usize = 512;

/// Who somebody is, and what they were granted.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct UserRecord {
    /// The public key in lower-case hex: the record's key too.
    pub sign_pub: String,
    /// A name for people; may be empty.
    #[serde(default)]
    pub name: String,
    /// What kind of user this is.
    pub role: Role,
    /// Whether it gets in.
    pub status: Status,
    /// What an admin granted, for the role `service`.
    #[serde(default)]
    pub grants: Grants,
    /// When it was added, RFC 3339 UTC.
    pub created_at: String,
    /// When it was revoked, RFC 3339 UTC.
    #[serde(default)]
    pub revoked_at: Option<String>,
}

/// What kind of user somebody is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Manages users.
    Admin,
    /// Takes part in rooms.
    Member,
    /// An application, with what it was granted.
    Service,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Admin => "admin",
            Self::Member => "member",
            Self::Service => "service",
        })
    }
}

/// Whether a user gets in.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It does.
    Active,
    /// It never does again.
    Revoked,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
        })
    }
}

/// What an admin granted a `service` user.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grants {
    /// Patterns it may publish to.
    pub publish: Vec<String>,
    /// Patterns it may subscribe to.
    pub subscribe: Vec<String>,
    /// Streams it may read and consume through the JetStream API.
    pub streams: Vec<String>,
    /// Key-value buckets it may read and write.
    pub buckets: Vec<String>,
}

impl Grants {
    /// True where nothing is granted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lists().into_iter().all(Vec::is_empty)
    }

    fn lists(&self) -> [&Vec<String>; 4] {
        [&self.publish, &self.subscribe, &self.streams, &self.buckets]
    }
}

/// Why a record is none.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
pub enum RecordError {
    /// The value is not the JSON of a user.
    #[error("the record is not a user's JSON: {0}")]
    Json(String),
    /// The key in the record is not the one it is stored under.
    #[error("the record's sign_pub is not the key it is stored under")]
    Key,
    /// A pattern that matches nothing that could be published.
    #[error(
        "{0:?} is no subject pattern; wanted tokens separated by '.', with * and > as whole tokens"
    )]
    Pattern(String),
    /// A stream or bucket name that can't be one.
    #[error("{0:?} is no stream or bucket name; wanted letters, digits, '-' and '_'")]
    Store(String),
    /// The control plane's own records can't be granted.
    #[error("{0:?} belongs to the control plane and can't be granted")]
    Reserved(String),
    /// Too much.
    #[error("more than {GRANTS_MAX} entries in one list of grants")]
    TooMany,
    /// The name is too long or has control characters.
    #[error("a user's name has at most 128 bytes and no control characters")]
    Name,
    /// Only service users are granted patterns.
    #[error("only a user of the role service can be granted patterns, streams or buckets")]
    NotService,
}

impl UserRecord {
    /// A new active user.
    ///
    /// # Errors
    /// [`RecordError`] for a name, pattern, stream or bucket that is none.
    pub fn new(
        key: &NkeyPublic,
        name: &str,
        role: Role,
        grants: Grants,
    ) -> Result<Self, RecordError> {
        let record = Self {
            sign_pub: key.to_hex(),
            name: name.to_owned(),
            role,
            status: Status::Active,
            grants,
            created_at: now(),
            revoked_at: None,
        };
        record.check()?;
        Ok(record)
    }

    /// Reads the value stored under `key` (hex).
    ///
    /// # Errors
    /// [`RecordError`]; the caller must treat the user as one who gets nothing.
    pub fn decode(key: &str, value: &[u8]) -> Result<Self, RecordError> {
        let record: Self =
            serde_json::from_slice(value).map_err(|error| RecordError::Json(error.to_string()))?;
        if record.sign_pub != key {
            return Err(RecordError::Key);
        }
        record.check()?;
        Ok(record)
    }

    /// The JSON that is stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // A struct of strings and enums always serialises.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The same user, revoked as of the present moment.
    #[must_use]
    pub fn revoked(&self) -> Self {
        Self {
            status: Status::Revoked,
            revoked_at: Some(now()),
            ..self.clone()
        }
    }

    /// Checks everything that a person may have typed.
    ///
    /// # Errors
    /// [`RecordError`] naming what is wrong.
    pub fn check(&self) -> Result<(), RecordError> {
        if self.name.len() > NAME_BYTES_MAX || self.name.chars().any(char::is_control) {
            return Err(RecordError::Name);
        }
        if self.role != Role::Service && !self.grants.is_empty() {
            return Err(RecordError::NotService);
        }
        if self
            .grants
            .lists()
            .into_iter()
            .any(|list| list.len() > GRANTS_MAX)
        {
            return Err(RecordError::TooMany);
        }
        for pattern in self.grants.publish.iter().chain(&self.grants.subscribe) {
            if pattern.len() > GRANT_BYTES_MAX || pattern.parse::<SubjectFilter>().is_err() {
                return Err(RecordError::Pattern(pattern.clone()));
            }
        }
        self.grants
            .streams
            .iter()
            .chain(&self.grants.buckets)
            .try_for_each(|name| store(name))
    }
}

fn store(name: &str) -> Result<(), RecordError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if name.is_empty() || name.len() > GRANT_BYTES_MAX || !name.bytes().all(legal) {
        return Err(RecordError::Store(name.to_owned()));
    }
    if ["UNIBUS_", "KV_UNIBUS_", "OBJ_UNIBUS_"]
        .iter()
        .any(|reserved| name.starts_with(reserved))
    {
        return Err(RecordError::Reserved(name.to_owned()));
    }
    Ok(())
}

/// The present moment, RFC 3339 UTC in whole seconds.
#[must_use]
pub fn now() -> String {
    let moment = OffsetDateTime::now_utc();
    let whole = moment.replace_nanosecond(0).unwrap_or(moment);
    // Formatting fails only for years that RFC 3339 can't write.
    whole.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Grants, RecordError, Role, Status, UserRecord};
    use unibus_proto::nkey::{NkeyPublic, UserSeed};

    fn key() -> NkeyPublic {
        UserSeed::from_bytes([7; 32]).public()
    }

    fn service(grants: Grants) -> Result<UserRecord, RecordError> {
        UserRecord::new(&key(), "app", Role::Service, grants)
    }

    #[test]
    fn a_record_reads_back_and_its_field_names_are_the_specs() {
        let grants = Grants {
            publish: vec!["a.>".into()],
            ..Grants::default()
        };
        let record = service(grants).unwrap();
        let hex = key().to_hex();
        assert_eq!(UserRecord::decode(&hex, &record.encode()).unwrap(), record);
        let json: serde_json::Value = serde_json::from_slice(&record.encode()).unwrap();
        for field in [
            "sign_pub",
            "name",
            "role",
            "status",
            "grants",
            "created_at",
            "revoked_at",
        ] {
            assert!(json.get(field).is_some(), "{field}");
        }
        assert_eq!(
            (&json["role"], &json["status"]),
            (&"service".into(), &"active".into())
        );
    }

    #[test]
    fn a_record_under_another_key_or_of_another_shape_is_refused() {
        let record = service(Grants::default()).unwrap();
        assert_eq!(
            UserRecord::decode("00", &record.encode()),
            Err(RecordError::Key)
        );
        let hex = key().to_hex();
        for value in [
            "",
            "{}",
            "null",
            r#"{"sign_pub":"x","role":"root","status":"active"}"#,
        ] {
            assert!(
                UserRecord::decode(&hex, value.as_bytes()).is_err(),
                "{value}"
            );
        }
    }

    #[test]
    fn what_cannot_be_granted_is_named() {
        let publish = |p: &str| {
            service(Grants {
                publish: vec![p.into()],
                ..Grants::default()
            })
        };
        for bad in ["", "a..b", "a b", ".a", "a.>.b"] {
            assert!(
                matches!(publish(bad), Err(RecordError::Pattern(_))),
                "{bad}"
            );
        }
        assert!(publish(">").is_ok());
        let bucket = |b: &str| {
            service(Grants {
                buckets: vec![b.into()],
                ..Grants::default()
            })
        };
        assert!(matches!(bucket("a.b"), Err(RecordError::Store(_))));
        assert!(matches!(
            bucket("UNIBUS_users"),
            Err(RecordError::Reserved(_))
        ));
        assert!(bucket("config").is_ok());
        let member = UserRecord::new(
            &key(),
            "",
            Role::Member,
            Grants {
                publish: vec!["a".into()],
                ..Grants::default()
            },
        );
        assert_eq!(member.unwrap_err(), RecordError::NotService);
    }

    #[test]
    fn revoking_keeps_everything_else() {
        let record = service(Grants::default()).unwrap();
        let revoked = record.revoked();
        assert_eq!(
            (revoked.status, revoked.revoked_at.is_some()),
            (Status::Revoked, true)
        );
        assert_eq!(
            (revoked.role, &revoked.created_at),
            (record.role, &record.created_at)
        );
    }
}
