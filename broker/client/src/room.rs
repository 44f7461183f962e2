//! What a session knows of one room: its verified record and members, its keys, and what changed
//! when it looked again. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use unibus_proto::control::{EndpointId, FormerMember, MemberRecord, RoomRecord, SignPublic};

use crate::event::{MembershipChange, Unreadable};
use crate::rooms::keyring::Keyring;
use crate::rooms::roster::{Member, Roster, RosterError};

/// A verified room.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) record: RoomRecord,
    pub(crate) roster: Roster,
    pub(crate) keys: Keyring,
    /// Epochs whose key the server does not have for this identity.
    pub(crate) keyless: BTreeSet<u64>,
    /// Who left, with the last epoch that they belonged to.
    former: BTreeMap<EndpointId, (SignPublic, u64)>,
    /// Whom this session removed and did not invite again.
    removed: BTreeSet<EndpointId>,
}

impl Known {
    /// Takes what the server says of a room that is not known yet.
    pub(crate) fn first(
        record: RoomRecord,
        members: &[MemberRecord],
    ) -> Result<(Self, Vec<MembershipChange>), RosterError> {
        let roster = Roster::verify(&record, members)?;
        let changes = invented(&roster);
        let known = Self {
            record,
            roster,
            keys: Keyring::default(),
            keyless: BTreeSet::new(),
            former: BTreeMap::new(),
            removed: BTreeSet::new(),
        };
        Ok((known, changes))
    }

    /// Takes what the server says now; answers with what has changed. Where that can't be trusted,
    /// nothing is taken.
    pub(crate) fn update(
        &mut self,
        record: RoomRecord,
        members: &[MemberRecord],
    ) -> Result<Vec<MembershipChange>, RosterError> {
        if record.owner != self.record.owner {
            return Err(RosterError::OwnerChanged {
                before: self.record.owner.clone(),
                now: record.owner,
            });
        }
        if record.epoch < self.record.epoch {
            return Err(RosterError::EpochWentBack {
                before: self.record.epoch,
                now: record.epoch,
            });
        }
        let mut roster = Roster::verify(&record, members)?;
        for endpoint in &self.removed {
            roster.strike(endpoint);
        }
        let changes = self.difference(&record, &roster);
        let epoch = self.record.epoch;
        for member in self.roster.members() {
            let endpoint = &member.party.endpoint;
            if roster.member(endpoint).is_none() {
                let left = (member.party.sign_pub, epoch);
                self.former.insert(endpoint.clone(), left);
            }
        }
        self.record = record;
        self.roster = roster;
        Ok(changes)
    }

    fn difference(&self, record: &RoomRecord, roster: &Roster) -> Vec<MembershipChange> {
        let mut changes = Vec::new();
        for member in roster.members() {
            let endpoint = member.party.endpoint.clone();
            match self.roster.member(&endpoint) {
                Some(before) if before.joined == member.joined => {}
                _ if member.joined => changes.push(MembershipChange::Joined(endpoint)),
                _ => changes.push(MembershipChange::Invited(endpoint)),
            }
        }
        for member in self.roster.members() {
            let endpoint = &member.party.endpoint;
            if roster.member(endpoint).is_none() {
                changes.push(MembershipChange::Left(endpoint.clone()));
            }
        }
        let known = invented(&self.roster);
        changes.extend(
            invented(roster)
                .into_iter()
                .filter(|change| !known.contains(change)),
        );
        if record.needs_rekey && !self.record.needs_rekey {
            changes.push(MembershipChange::NeedsRekey);
        }
        if record.epoch > self.record.epoch {
            changes.push(MembershipChange::Rekeyed {
                epoch: record.epoch,
            });
        }
        changes
    }

    /// Takes what the server says of those who left: each must have been admitted by the owner.
    pub(crate) fn take_former(&mut self, former: &[FormerMember]) {
        for FormerMember { member, left_epoch } in former {
            if let Ok(verified) = self.roster.check(&self.record.id, member) {
                let left = (verified.party.sign_pub, *left_epoch);
                self.former.entry(member.endpoint.clone()).or_insert(left);
            }
        }
    }

    /// The signing key with which `from` may have signed a frame of `epoch`.
    pub(crate) fn sender(&self, from: &EndpointId, epoch: u64) -> Result<SignPublic, Unreadable> {
        if let Some(member) = self.roster.member(from) {
            return Ok(member.party.sign_pub);
        }
        match self.former.get(from) {
            Some((key, left)) if epoch <= *left => Ok(*key),
            Some(_) => Err(Unreadable::SenderHadLeft),
            None => Err(Unreadable::UnknownSender),
        }
    }

    /// Notes that this session removed somebody: the server can't bring them back.
    pub(crate) fn note_removed(&mut self, endpoint: &EndpointId) {
        self.removed.insert(endpoint.clone());
        if let Some(member) = self.roster.member(endpoint) {
            let left = (member.party.sign_pub, self.record.epoch);
            self.former.insert(endpoint.clone(), left);
        }
    }

    /// Notes that this session invited somebody.
    pub(crate) fn note_invited(&mut self, endpoint: &EndpointId) {
        self.removed.remove(endpoint);
    }

    /// The members who get the next key.
    pub(crate) fn recipients(&self) -> impl Iterator<Item = &Member> {
        self.roster.members()
    }
}

fn invented(roster: &Roster) -> Vec<MembershipChange> {
    let all = roster.invented().iter();
    all.map(|invented| MembershipChange::Invented {
        endpoint: invented.endpoint.clone(),
        reason: invented.reason,
    })
    .collect()
}
