//! What owners, inviters and sealers sign: lines joined by `\n`, each statement with its own first
//! line, so that a signature over one can never be taken for a signature over another.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::ids::{EndpointId, RoomId, RoomSubject};
use super::records::{MemberRole, Party, Policy};

/// What the owner of a room signs once: everything about it that never changes.
#[must_use]
pub fn room_statement(
    id: &RoomId,
    subject: &RoomSubject,
    policy: &Policy,
    owner: &Party,
) -> String {
    let word = |on: bool, yes: &'static str, no: &'static str| if on { yes } else { no };
    let encryption = word(policy.encrypted, "encrypted", "cleartext");
    let persistence = word(policy.persisted, "persisted", "ephemeral");
    let history = match policy.history {
        super::History::Joined => "joined",
        super::History::Shared => "shared",
    };
    let Party {
        endpoint,
        sign_pub,
        kex_pub,
    } = owner;
    format!(
        "UNIBUS-ROOM-1\n{id}\n{subject}\n{encryption}\n{persistence}\n{history}\n{endpoint}\n{sign_pub}\n{kex_pub}"
    )
}

/// What an inviter signs about whom it admits.
#[must_use]
pub fn member_statement(room: &RoomId, member: &Party, role: MemberRole) -> String {
    let Party {
        endpoint,
        sign_pub,
        kex_pub,
    } = member;
    let role = role.as_str();
    format!("UNIBUS-MEMBER-1\n{room}\n{endpoint}\n{sign_pub}\n{kex_pub}\n{role}")
}

/// What a sealer signs about a sealed key (`sealed` = its bytes).
#[must_use]
pub fn sealed_key_statement(
    room: &RoomId,
    epoch: u64,
    recipient: &EndpointId,
    sealed: &[u8],
) -> String {
    let hash = HEXLOWER.encode(&Sha256::digest(sealed));
    format!("UNIBUS-SEALED-KEY-1\n{room}\n{epoch}\n{recipient}\n{hash}")
}
