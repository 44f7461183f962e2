//! Who belongs to a room, as clients find it out: every member's record must carry the signature of
//! who admitted it, chained to the owner's signature on the room's record. What the server says
//! beyond that is reported, and gets no key.

use std::collections::BTreeMap;

use thiserror::Error;
use unibus_proto::control::{
    EndpointId, MemberRecord, MemberRole, Party, RoomId, RoomRecord, SignPublic, member_statement,
    room_statement,
};

/// Why a room's own record is not to be trusted: no member of it can be verified. Example: [`Roster`].
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

/// Why somebody whom the server calls a member is none. Example: [`Roster`].
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
    /// The owner has sealed no key of the current epoch to it, as everybody has one who belongs to the
    /// room: it was removed or has left.
    #[error("the owner has not given it the room's current key: it was removed, or has left")]
    Keyless,
}

/// A member that the server made up. Example: [`Roster`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Invented {
    /// What the server calls it.
    pub endpoint: EndpointId,
    /// What gives it away.
    pub reason: InventedReason,
}

/// A verified member. Example: [`Roster`].
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
/// use unibus_client::rooms::roster::{Invented, InventedReason, Member, Roster, RosterError};
/// # use unibus_client::Identity;
/// # use unibus_proto::control::*;
/// # let (me, friend) = (Identity::generate()?, Identity::generate()?);
/// # let (id, subject): (RoomId, RoomSubject) = ("r1".parse()?, "room.one".parse()?);
/// # let signature = me.sign_text(&room_statement(&id, &subject, &Policy::MATRIX, me.party()));
/// # let room = RoomRecord { id, subject, policy: Policy::MATRIX, owner: me.endpoint().clone(), epoch: 1,
/// #     created_at: String::new(), owner_signature: signature.clone(), needs_rekey: false };
/// # let record = |party: &Party, role, signature: String| MemberRecord { endpoint: party.endpoint.clone(),
/// #     sign_pub: party.sign_pub, kex_pub: party.kex_pub.clone(), role, joined_at: Some(String::new()),
/// #     inviter: me.endpoint().clone(), inviter_signature: signature };
/// # let admitted = me.sign_text(&member_statement(&room.id, friend.party(), MemberRole::Member));
/// # let owner = record(me.party(), MemberRole::Owner, signature);
/// # let guest = record(friend.party(), MemberRole::Member, admitted);
/// # let mut made_up = record(Identity::generate()?.party(), MemberRole::Member, me.sign_text("else"));
/// // `room` is what the server says of the room; `owner`, `guest` and `made_up` of its members.
/// let mut roster = Roster::verify(&room, &[owner.clone(), guest, made_up.clone()])?;
/// assert_eq!(roster.owner(), me.party());
/// let members: Vec<&Member> = roster.members().collect();
/// assert_eq!(members.len(), 2);
/// assert!(roster.member(friend.endpoint()).is_some());
/// // Whom nobody has admitted is reported, and gets no key.
/// let reason = InventedReason::Signature;
/// assert_eq!(roster.invented(), [Invented { endpoint: made_up.endpoint.clone(), reason }]);
/// assert_eq!(roster.check(&room.id, &made_up), Err(reason));
/// // Whom this client has removed does not come back because the server says so.
/// roster.strike(friend.endpoint(), InventedReason::Removed);
/// assert!(roster.member(friend.endpoint()).is_none());
/// // A room that the server changed is not used at all.
/// let moved = RoomRecord { subject: "room.two".parse()?, ..room };
/// assert_eq!(Roster::verify(&moved, &[owner]), Err(RosterError::RoomSignature));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Roster {
    room: RoomId,
    owner: Party,
    members: BTreeMap<EndpointId, Member>,
    /// The signatures that the members were admitted with: one that was verified is not verified again.
    admissions: BTreeMap<EndpointId, String>,
    invented: Vec<Invented>,
}

impl Roster {
    /// Verifies a room's record, and each member's. Example: [`Roster`].
    ///
    /// # Errors
    /// [`RosterError`] where the room itself can't be trusted. Members that can't are in
    /// [`Roster::invented`].
    pub fn verify(room: &RoomRecord, records: &[MemberRecord]) -> Result<Self, RosterError> {
        Self::verify_after(None, room, records)
    }

    /// The same, where the room was verified `before`: the cost of a member is then that of comparing its
    /// record, as long as that is the same.
    pub(crate) fn verify_after(
        before: Option<&Self>,
        room: &RoomRecord,
        records: &[MemberRecord],
    ) -> Result<Self, RosterError> {
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
            room: room.id.clone(),
            owner,
            members: BTreeMap::new(),
            admissions: BTreeMap::new(),
            invented: Vec::new(),
        };
        let before = before.filter(|before| before.room == room.id && before.owner == roster.owner);
        for record in records {
            let endpoint = record.endpoint.clone();
            let same = before.and_then(|before| before.recognize(record));
            match same.map_or_else(|| roster.check(&room.id, record), Ok) {
                Ok(member) => {
                    roster.members.insert(endpoint.clone(), member);
                    let signature = record.inviter_signature.clone();
                    roster.admissions.insert(endpoint, signature);
                }
                Err(reason) => roster.invented.push(Invented { endpoint, reason }),
            }
        }
        Ok(roster)
    }

    /// A member whose record was verified with everything that its signature covers, and with this signature.
    fn recognize(&self, record: &MemberRecord) -> Option<Member> {
        let before = self.members.get(&record.endpoint)?;
        let same = before.party == party(record)
            && before.role == record.role
            && record.inviter == self.owner.endpoint
            && self.admissions.get(&record.endpoint) == Some(&record.inviter_signature);
        same.then(|| Member {
            joined: record.joined_at.is_some(),
            ..before.clone()
        })
    }

    /// Takes in somebody whom this client has admitted itself with `signature`; answers whether they are new.
    pub(crate) fn admit(&mut self, party: &Party, signature: &str) -> bool {
        let endpoint = &party.endpoint;
        if self.members.contains_key(endpoint) {
            return false;
        }
        self.invented.retain(|one| one.endpoint != *endpoint);
        let member = Member {
            party: party.clone(),
            role: MemberRole::Member,
            joined: false,
        };
        self.members.insert(endpoint.clone(), member);
        self.admissions
            .insert(endpoint.clone(), signature.to_owned());
        true
    }

    /// Verifies one record against the room's owner. Example: [`Roster`].
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

    /// The owner. Example: [`Roster`].
    #[must_use]
    pub fn owner(&self) -> &Party {
        &self.owner
    }

    /// A verified member. Example: [`Roster`].
    #[must_use]
    pub fn member(&self, endpoint: &EndpointId) -> Option<&Member> {
        self.members.get(endpoint)
    }

    /// The verified members, by endpoint. Example: [`Roster`].
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Whom the server made up. Example: [`Roster`].
    #[must_use]
    pub fn invented(&self) -> &[Invented] {
        &self.invented
    }

    /// Strikes out somebody who has gone: what the server says of them counts no more.
    /// Example: [`Roster`].
    pub fn strike(&mut self, endpoint: &EndpointId, reason: InventedReason) {
        self.admissions.remove(endpoint);
        if self.members.remove(endpoint).is_some() {
            self.invented.push(Invented {
                endpoint: endpoint.clone(),
                reason,
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
    fn what_was_verified_is_known_again_and_what_differs_is_verified_anew() {
        let (owner, guest, other) = (who(1), who(2), who(3));
        let room = room(&owner);
        let first = record(&room, &owner, MemberRole::Owner, &owner);
        let genuine = record(&room, &guest, MemberRole::Member, &owner);
        let before = Roster::verify(&room, &[first.clone(), genuine.clone()]).unwrap();
        let again = |records: &[MemberRecord]| Roster::verify_after(Some(&before), &room, records);
        let mut invited = genuine.clone();
        invited.joined_at = None;
        let records = [first.clone(), invited];
        let roster = again(&records).unwrap();
        assert_eq!(roster, Roster::verify(&room, &records).unwrap());
        assert!(!roster.member(guest.endpoint()).unwrap().joined);

        let mut changed = vec![genuine; 5];
        changed[0].kex_pub = other.party().kex_pub.clone();
        changed[1].sign_pub = other.party().sign_pub;
        changed[2].role = MemberRole::Owner;
        changed[3].inviter = other.endpoint().clone();
        changed[4].inviter_signature = guest.sign_text("else");
        for changed in changed {
            let records = [first.clone(), changed];
            let roster = again(&records).unwrap();
            assert_eq!(roster, Roster::verify(&room, &records).unwrap());
            assert_eq!(roster.invented().len(), 1, "{records:?}");
        }
        // Another room of the same owner, with the admissions of this one.
        let moved = RoomRecord {
            id: "r2".parse().unwrap(),
            ..room.clone()
        };
        let statement = room_statement(&moved.id, &moved.subject, &moved.policy, owner.party());
        let moved = RoomRecord {
            owner_signature: owner.sign_text(&statement),
            ..moved
        };
        let roster = Roster::verify_after(Some(&before), &moved, &records).unwrap();
        assert_eq!(roster.invented().len(), 1);
    }

    #[test]
    fn whom_this_client_admits_is_a_member_at_once() {
        let (owner, guest) = (who(1), who(2));
        let room = room(&owner);
        let first = record(&room, &owner, MemberRole::Owner, &owner);
        let genuine = record(&room, &guest, MemberRole::Member, &owner);
        let mut roster = Roster::verify(&room, std::slice::from_ref(&first)).unwrap();
        assert!(roster.admit(guest.party(), &genuine.inviter_signature));
        assert!(!roster.admit(guest.party(), &genuine.inviter_signature));
        let mut invited = genuine;
        invited.joined_at = None;
        assert_eq!(roster, Roster::verify(&room, &[first, invited]).unwrap());
        roster.strike(guest.endpoint(), InventedReason::Removed);
        assert!(roster.admit(guest.party(), "again"));
        assert!(roster.invented().is_empty());
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
