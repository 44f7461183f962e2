//! Records of the control plane's buckets, and the bodies of requests and answers. Unknown fields
//! of a record are ignored; unknown fields of a request are refused, because a client that asks for
//! what this version does not know must not believe that it got it.

use serde::{Deserialize, Serialize};

use super::ids::{EndpointId, KexPublic, RoomId, RoomSubject, SignPublic};

/// How a room treats its messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(from = "PolicyForm")]
pub struct Policy {
    /// Only members can read; the node never has a key.
    pub encrypted: bool,
    /// Messages are kept in the stream `UNIBUS_<room>`.
    pub persisted: bool,
    /// What a newcomer may read.
    pub history: History,
}

/// What a newcomer gets of what was said before.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum History {
    /// From the current epoch on.
    #[default]
    Joined,
    /// Older epochs' keys are sealed to newcomers too.
    Shared,
}

impl Policy {
    /// The preset `nats`: cleartext and ephemeral.
    pub const NATS: Self = Self {
        encrypted: false,
        persisted: false,
        history: History::Joined,
    };
    /// The preset `matrix`: end-to-end encrypted and persisted.
    pub const MATRIX: Self = Self {
        encrypted: true,
        persisted: true,
        history: History::Joined,
    };
}

/// A preset's name, or the switches.
#[derive(Deserialize)]
#[serde(untagged)]
enum PolicyForm {
    Preset(Preset),
    Switches(Switches),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Preset {
    Nats,
    Matrix,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Switches {
    encrypted: bool,
    persisted: bool,
    #[serde(default)]
    history: History,
}

impl From<PolicyForm> for Policy {
    fn from(form: PolicyForm) -> Self {
        match form {
            PolicyForm::Preset(Preset::Nats) => Self::NATS,
            PolicyForm::Preset(Preset::Matrix) => Self::MATRIX,
            PolicyForm::Switches(s) => Self {
                encrypted: s.encrypted,
                persisted: s.persisted,
                history: s.history,
            },
        }
    }
}

/// Bucket `UNIBUS_rooms`, key `<room>`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct RoomRecord {
    /// Its id.
    pub id: RoomId,
    /// Where its messages are published.
    pub subject: RoomSubject,
    /// How it treats them.
    pub policy: Policy,
    /// The owner's endpoint.
    pub owner: EndpointId,
    /// Number of the current room key; 1 at first.
    pub epoch: u64,
    /// RFC 3339 UTC.
    pub created_at: String,
    /// The owner's signature over [`super::room_statement`].
    pub owner_signature: String,
    /// Somebody left or was removed: no message before the next epoch.
    #[serde(default)]
    pub needs_rekey: bool,
}

/// What a member may do in a room.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberRole {
    /// Invites, removes and rekeys.
    Owner,
    /// Takes part.
    Member,
}

impl MemberRole {
    /// The word in records and statements.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Member => "member",
        }
    }
}

/// Bucket `UNIBUS_members`, key `<room>.<endpoint>`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Who.
    pub endpoint: EndpointId,
    /// Signing key.
    pub sign_pub: SignPublic,
    /// Key-agreement key.
    pub kex_pub: KexPublic,
    /// What it may do.
    pub role: MemberRole,
    /// RFC 3339 UTC; `null` = invited, not joined yet.
    pub joined_at: Option<String>,
    /// Who admitted it.
    pub inviter: EndpointId,
    /// The inviter's signature over [`super::member_statement`]; the owner's own record carries the
    /// signature of the room.
    pub inviter_signature: String,
}

/// Third part of the key of somebody who has left.
pub const FORMER_PART: &str = "former";

/// Bucket `UNIBUS_members`, key `<room>.<endpoint>.former`: somebody who has left. Opens nothing;
/// kept so that what they said before can be verified.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct FormerMember {
    /// Their record as it was.
    pub member: MemberRecord,
    /// The room's epoch when they left: the last one whose messages can be theirs.
    pub left_epoch: u64,
}

/// Bucket `UNIBUS_rooms_by_member`, key `<endpoint>.<room>`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ReverseRecord {
    /// What the endpoint may do there.
    pub role: MemberRole,
}

/// Bucket `UNIBUS_room_keys`, key `<room>.<epoch>.<endpoint>`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SealedKeyRecord {
    /// The sealed room key, base64. The node can't open it.
    pub sealed_key: String,
    /// Who sealed it.
    pub sealer: EndpointId,
    /// The sealer's signature over [`super::sealed_key_statement`].
    pub sealer_signature: String,
}

/// Somebody's endpoint and keys, as a request states them.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Party {
    /// Follows from `sign_pub`; stated so that a mix-up is noticed.
    pub endpoint: EndpointId,
    /// Signing key.
    pub sign_pub: SignPublic,
    /// Key-agreement key.
    pub kex_pub: KexPublic,
}

/// A room key, sealed to somebody.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedKey {
    /// base64.
    pub sealed_key: String,
    /// The sealer's signature over [`super::sealed_key_statement`].
    pub signature: String,
}

/// Body of `POST /rooms`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateRoom {
    /// The id, made up by the client because the owner's signature covers it.
    pub id: RoomId,
    /// Where its messages are published.
    pub subject: RoomSubject,
    /// A preset's name (`nats`, `matrix`) or the switches.
    pub policy: Policy,
    /// Who owns it: the signer of the request.
    pub owner: Party,
    /// The owner's signature over [`super::room_statement`].
    pub signature: String,
    /// The room key of epoch 1, sealed to the owner; wanted where the room is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_key: Option<SealedKey>,
}

/// Body of `POST /rooms/{id}/invite`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// Whom.
    pub member: Party,
    /// The inviter's signature over [`super::member_statement`].
    pub signature: String,
    /// The epoch of `sealed_key`: the current one.
    pub epoch: u64,
    /// The room key, sealed to the newcomer; wanted where the room is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_key: Option<SealedKey>,
    /// The keys of older epochs, sealed to the newcomer: where the room's history is shared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub older_keys: Vec<SealedForEpoch>,
}

/// The key of one epoch, sealed to somebody.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedForEpoch {
    /// Of which epoch.
    pub epoch: u64,
    /// base64.
    pub sealed_key: String,
    /// The sealer's signature over [`super::sealed_key_statement`].
    pub signature: String,
}

/// A room key sealed to one of many.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedFor {
    /// To whom.
    pub endpoint: EndpointId,
    /// base64.
    pub sealed_key: String,
    /// The sealer's signature over [`super::sealed_key_statement`].
    pub signature: String,
}

/// Body of `POST /rooms/{id}/rekey`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rekey {
    /// The new epoch: the current one and 1.
    pub epoch: u64,
    /// One for every remaining member, the owner included.
    pub keys: Vec<SealedFor>,
}

/// Answer of `GET /rooms/{id}/key`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct KeyReply {
    /// The room.
    pub room_id: RoomId,
    /// Of which epoch.
    pub epoch: u64,
    /// For whom.
    pub endpoint: EndpointId,
    /// The sealed key and who sealed it.
    #[serde(flatten)]
    pub key: SealedKeyRecord,
}

/// One of the answer of `GET /members/{endpoint}/rooms`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct MyRoom {
    /// The room.
    pub room_id: RoomId,
    /// Where its messages are published.
    pub subject: RoomSubject,
    /// The current epoch.
    pub epoch: u64,
    /// How it treats messages.
    pub policy: Policy,
    /// What the endpoint may do there.
    pub role: MemberRole,
    /// It has joined; an invitation otherwise.
    #[serde(default)]
    pub joined: bool,
    /// Somebody has gone: no message before the next epoch.
    #[serde(default)]
    pub needs_rekey: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_a_preset_or_switches() {
        let read = |text: &str| serde_json::from_str::<Policy>(text);
        assert_eq!(read(r#""nats""#).unwrap(), Policy::NATS);
        assert_eq!(read(r#""matrix""#).unwrap(), Policy::MATRIX);
        let switches = r#"{"encrypted":true,"persisted":false,"history":"shared"}"#;
        let policy = read(switches).unwrap();
        assert_eq!(serde_json::to_string(&policy).unwrap(), switches);
        for bad in [r#""open""#, "{}", r#"{"encrypted":true}"#, "1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
