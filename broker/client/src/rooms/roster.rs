//! Who belongs to a room, as clients find it out: every member's record must carry the signature of
//! who admitted it, chained to the owner's signature on the room's record. What the server says
//! beyond that is reported, and gets no key.

use std::collections::BTreeMap;

use thiserror::Error;
use unibus_proto::control::{
    EndpointId, MemberRecord, MemberRole, Party, RoomId, RoomRecord, SignPublic, member_statement,
    room_statement,
};

/// Why a room's own record is not to be trusted: no member of it can be verified.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
pub enum RosterError {
    /// The list of members lacks the owner.
    #[error("the server names no record of this room's owner")]
    NoOwner,
    /// The owner's signature does not cover what the server says about the room.
    #[error("the room's record is not signed by its owner: the server may have changed it")]
    RoomSignature,
    /// The room had another owner before.
    #[error("the room's owner was {before} and is said to be {now}")]
    OwnerChanged {
        /// Who owned it when it was first seen.
        before: EndpointId,
        /// Who is said to own it now.
        now: EndpointId,
    },
    /// The room's epoch went back.
    #[error("the room's epoch was {before} and is said to be {now}")]
    EpochWentBack {
        /// The latest epoch that was seen.
        before: u64,
        /// The epoch that the server says.
        now: u64,
    },
}

/// Why somebody whom the server calls a member is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
pub enum InventedReason {
    /// The endpoint is not that of the signing key.
    #[error("its endpoint does not follow from its signing key")]
    Endpoint,
    /// Somebody else than the owner is said to have admitted it, or it is called an owner.
    #[error("nobody who may admit members has admitted it")]
    Inviter,
    /// The inviter's signature does not cover this record.
    #[error("the signature of who is said to have admitted it does not fit")]
    Signature,
    /// This client removed it, and did not admit it again.
    #[error("it was removed, and nobody has admitted it again")]
    Removed,
}

/// A member that the server made up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Invented {
    /// What the server calls it.
    pub endpoint: EndpointId,
    /// What gives it away.
    pub reason: InventedReason,
}

/// A verified member.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// Its endpoint and keys.
    pub party: Party,
    /// What it may do.
    pub role: MemberRole,
    /// It has accepted its invitation.
    pub joined: bool,
}

/// A room whose record and members were verified.
///
/// ```
/// # use unibus_client::Identity;
/// # use unibus_client::rooms::roster::Roster;
/// # use unibus_proto::control::*;
/// # let me = Identity::generate()?;
/// # let (id, subject): (RoomId, RoomSubject) = ("r1".parse()?, "room.one".parse()?);
/// # let signature = me.sign_text(&room_statement(&id, &subject, &Policy::MATRIX, me.party()));
/// # let Party { endpoint, sign_pub, kex_pub } = me.party().clone();
/// # let room = RoomRecord { id, subject, policy: Policy::MATRIX, owner: endpoint.clone(), epoch: 1,
/// #     created_at: String::new(), owner_signature: signature.clone(), needs_rekey: false };
/// # let owner = MemberRecord { endpoint: endpoint.clone(), sign_pub, kex_pub, role: MemberRole::Owner,
/// #     joined_at: Some(String::new()), inviter: endpoint.clone(), inviter_signature: signature };
/// // `room` and `owner` are what the server says of a room and its only member.
/// let roster = Roster::verify(&room, &[owner])?;
/// assert!(roster.member(&endpoint).is_some() && roster.invented().is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Roster {
    owner: Party,
    members: BTreeMap<EndpointId, Member>,
    invented: Vec<Invented>,
}

impl Roster {
    /// Verifies a room's record, and each member's.
    ///
    /// # Errors
    /// [`RosterError`] where the room itself can't be trusted. Members that can't are in
    /// [`Roster::invented`].
    pub fn verify(room: &RoomRecord, records: &[MemberRecord]) -> Result<Self, RosterError> {
        let owner = records
            .iter()
            .find(|record| record.endpoint == room.owner && record.role == MemberRole::Owner)
            .map(party)
            .ok_or(RosterError::NoOwner)?;
        let statement = room_statement(&room.id, &room.subject, &room.policy, &owner);
        let genuine = owner.sign_pub.endpoint() == owner.endpoint
            && signed(&owner.sign_pub, &statement, &room.owner_signature);
        if !genuine {
            return Err(RosterError::RoomSignature);
        }
        let mut roster = Self {
            owner,
            members: BTreeMap::new(),
            invented: Vec::new(),
        };
        for record in records {
            let endpoint = record.endpoint.clone();
            match roster.check(&room.id, record) {
                Ok(member) => drop(roster.members.insert(endpoint, member)),
                Err(reason) => roster.invented.push(Invented { endpoint, reason }),
            }
        }
        Ok(roster)
    }

    /// Verifies one record against the room's owner.
    ///
    /// # Errors
    /// What gives it away.
    pub fn check(&self, room: &RoomId, record: &MemberRecord) -> Result<Member, InventedReason> {
        let member = Member {
            party: party(record),
            role: record.role,
            joined: record.joined_at.is_some(),
        };
        if member.party == self.owner && record.role == MemberRole::Owner {
            return Ok(member);
        }
        if record.sign_pub.endpoint() != record.endpoint {
            return Err(InventedReason::Endpoint);
        }
        if record.role != MemberRole::Member || record.inviter != self.owner.endpoint {
            return Err(InventedReason::Inviter);
        }
        let statement = member_statement(room, &member.party, record.role);
        if signed(&self.owner.sign_pub, &statement, &record.inviter_signature) {
            Ok(member)
        } else {
            Err(InventedReason::Signature)
        }
    }

    /// The owner.
    #[must_use]
    pub fn owner(&self) -> &Party {
        &self.owner
    }

    /// A verified member.
    #[must_use]
    pub fn member(&self, endpoint: &EndpointId) -> Option<&Member> {
        self.members.get(endpoint)
    }

    /// The verified members, by endpoint.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Whom the server made up.
    #[must_use]
    pub fn invented(&self) -> &[Invented] {
        &self.invented
    }

    /// Strikes out somebody who was removed: what the server says of them counts no more.
    pub fn strike(&mut self, endpoint: &EndpointId) {
        if self.members.remove(endpoint).is_some() {
            self.invented.push(Invented {
                endpoint: endpoint.clone(),
                reason: InventedReason::Removed,
            });
        }
    }
}

fn party(record: &MemberRecord) -> Party {
    Party {
        endpoint: record.endpoint.clone(),
        sign_pub: record.sign_pub,
        kex_pub: record.kex_pub.clone(),
    }
}

fn signed(key: &SignPublic, statement: &str, signature: &str) -> bool {
    key.0.verify(statement.as_bytes(), signature)
}

#[cfg(test)]
mod tests {
    use unibus_proto::control::{History, Policy};

    use super::*;
    use crate::identity::Identity;

    fn who(at: u8) -> Identity {
        Identity::from_secrets([at; 32], [at + 100; 32]).unwrap()
    }

    fn room(owner: &Identity) -> RoomRecord {
        let (id, subject) = ("r1".parse().unwrap(), "room.one".parse().unwrap());
        let statement = room_statement(&id, &subject, &Policy::MATRIX, owner.party());
        RoomRecord {
            id,
            subject,
            policy: Policy::MATRIX,
            owner: owner.endpoint().clone(),
            epoch: 1,
            created_at: String::new(),
            owner_signature: owner.sign_text(&statement),
            needs_rekey: false,
        }
    }

    fn record(
        room: &RoomRecord,
        member: &Identity,
        role: MemberRole,
        by: &Identity,
    ) -> MemberRecord {
        let statement = member_statement(&room.id, member.party(), role);
        let Party {
            endpoint,
            sign_pub,
            kex_pub,
        } = member.party().clone();
        MemberRecord {
            endpoint,
            sign_pub,
            kex_pub,
            role,
            joined_at: Some("x".into()),
            inviter: by.endpoint().clone(),
            inviter_signature: by.sign_text(&statement),
        }
    }

    #[test]
    fn admitted_members_are_verified_and_invented_ones_reported() {
        let (owner, guest, stranger) = (who(1), who(2), who(3));
        let room = room(&owner);
        let mut other_keys = record(&room, &guest, MemberRole::Member, &owner);
        other_keys.kex_pub = stranger.party().kex_pub.clone();
        let mut wrong_endpoint = record(&room, &stranger, MemberRole::Member, &owner);
        wrong_endpoint.endpoint = who(4).endpoint().clone();
        let mut foreign_inviter = record(&room, &stranger, MemberRole::Member, &guest);
        let by_member = foreign_inviter.clone();
        foreign_inviter.inviter = owner.endpoint().clone();
        let cases = [
            (other_keys, InventedReason::Signature),
            (wrong_endpoint, InventedReason::Endpoint),
            (foreign_inviter, InventedReason::Signature),
            (by_member, InventedReason::Inviter),
            (
                record(&room, &stranger, MemberRole::Owner, &owner),
                InventedReason::Inviter,
            ),
        ];
        let first = record(&room, &owner, MemberRole::Owner, &owner);
        for (invented, reason) in cases {
            let records = [first.clone(), invented];
            let roster = Roster::verify(&room, &records).unwrap();
            assert_eq!(roster.members().count(), 1, "{reason}");
            assert_eq!(roster.invented().len(), 1, "{reason}");
            assert_eq!(roster.invented()[0].reason, reason);
        }
        let genuine = record(&room, &guest, MemberRole::Member, &owner);
        let roster = Roster::verify(&room, &[first, genuine]).unwrap();
        assert!(roster.invented().is_empty());
        assert_eq!(
            roster.member(guest.endpoint()).unwrap().party,
            *guest.party()
        );
    }

    #[test]
    fn a_room_that_the_server_changed_is_not_trusted() {
        let owner = who(1);
        let genuine = room(&owner);
        let records = [record(&genuine, &owner, MemberRole::Owner, &owner)];
        assert!(Roster::verify(&genuine, &records).is_ok());
        let mut changes: Vec<RoomRecord> = vec![genuine.clone(); 4];
        changes[0].policy.encrypted = false;
        changes[1].policy.history = History::Shared;
        changes[2].subject = "room.two".parse().unwrap();
        changes[3].id = "r2".parse().unwrap();
        for changed in changes {
            let refused = Roster::verify(&changed, &records);
            assert_eq!(refused, Err(RosterError::RoomSignature), "{changed:?}");
        }
        let mut other = genuine;
        other.owner = who(2).endpoint().clone();
        assert_eq!(Roster::verify(&other, &records), Err(RosterError::NoOwner));
    }
}
