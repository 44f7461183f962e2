//! What a session knows of one room: its verified record and members, its keys, and what changed
//! when it looked again. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use unibus_proto::control::{
    EndpointId, FormerMember, MemberRecord, Party, RoomRecord, SignPublic,
};

use crate::event::{MembershipChange, Unreadable};
use crate::rooms::keyring::Keyring;
use crate::rooms::room_key::RoomKey;
use crate::rooms::roster::{InventedReason, Member, Roster, RosterError};

/// A verified room.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) record: RoomRecord,
    pub(crate) roster: Roster,
    pub(crate) keys: Keyring,
    /// Epochs whose key the server does not have for this identity.
    pub(crate) keyless: BTreeSet<u64>,
    /// Counts what was new.
    pub(crate) version: u64,
    /// Who left, with the last epoch that they are known to have belonged to; the server may know a later one.
    former: BTreeMap<EndpointId, (SignPublic, u64)>,
    /// Who has gone, whatever the server says of them.
    gone: BTreeMap<EndpointId, Gone>,
    /// The latest epoch that is known to be one: its key, signed by the owner, was opened.
    proven: u64,
    /// The latest epoch that this identity has signed keys for, whatever came of them.
    signed: u64,
}

/// Of those whom this identity has removed, how many are remembered for one room: the latest. Whoever was
/// removed before them is still known by lacking the keys made since.
const REMOVED_MAX: usize = 4096;

/// That somebody belongs to a room no more, and how that is known.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Gone {
    /// The epoch that it happened in.
    epoch: u64,
    /// This identity removed them; otherwise they lack the key of that epoch.
    removed: bool,
}

impl Gone {
    fn reason(self) -> InventedReason {
        if self.removed {
            InventedReason::Removed
        } else {
            InventedReason::Keyless
        }
    }

    /// Whether a key of `epoch` shows that somebody was admitted again since. Never, of somebody whom this
    /// identity has removed: that key may have been signed before, in an attempt of which the server said that
    /// it had failed. They are back when this identity invites them.
    fn is_over(self, epoch: u64) -> bool {
        !self.removed && epoch >= self.epoch
    }
}

/// What a client must not forget of a room when its session ends: what a server could not take back before
/// its eyes, it must not take back behind its back.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Remembered {
    pub(crate) owner: EndpointId,
    /// The latest epoch of which a key was opened.
    pub(crate) epoch: u64,
    /// The latest epoch that this identity has signed keys for.
    #[serde(default)]
    pub(crate) signed: u64,
    #[serde(default)]
    gone: BTreeMap<EndpointId, Gone>,
}

impl Remembered {
    /// Takes what another session of the same identity has written since both knew `before`: who has gone
    /// stays gone, unless one of the two has taken it back.
    pub(crate) fn merge(&mut self, other: Self, before: Option<&Self>) {
        self.epoch = self.epoch.max(other.epoch);
        self.signed = self.signed.max(other.signed);
        let before = before.map(|before| &before.gone);
        let knew = |who: &EndpointId| before.is_some_and(|before| before.contains_key(who));
        self.gone
            .retain(|who, _| other.gone.contains_key(who) || !knew(who));
        for (endpoint, gone) in other.gone {
            if !knew(&endpoint) {
                self.gone.entry(endpoint).or_insert(gone);
            }
        }
    }

    /// Whether a room of `owner` that begins now can follow.
    pub(crate) fn allows_new(&self, owner: &EndpointId) -> bool {
        self.owner == *owner && self.epoch <= 1 && self.signed <= 1 && self.gone.is_empty()
    }
}

impl Known {
    /// Takes what the server says of a room that is not known yet.
    pub(crate) fn first(
        record: RoomRecord,
        members: &[MemberRecord],
        remembered: Option<Remembered>,
    ) -> Result<(Self, Vec<MembershipChange>), RosterError> {
        if let Some(Remembered { owner, epoch, .. }) = &remembered {
            follows(&record, owner, *epoch)?;
        }
        let (proven, signed, gone) = match remembered {
            Some(remembered) => (remembered.epoch, remembered.signed, remembered.gone),
            None => (0, 0, BTreeMap::new()),
        };
        let roster = verified(None, &record, members, &gone)?;
        let changes = invented(&roster);
        let known = Self {
            record,
            roster,
            keys: Keyring::default(),
            keyless: BTreeSet::new(),
            version: 0,
            former: BTreeMap::new(),
            gone,
            proven,
            signed,
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
        follows(&record, &self.record.owner, self.proven)?;
        let roster = verified(Some(&self.roster), &record, members, &self.gone)?;
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
                let known = self.former.entry(member.endpoint.clone());
                let known = known.or_insert(left);
                // One who left, came back and left again said more than at first.
                known.1 = known.1.max(*left_epoch);
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
        let (epoch, removed) = (self.record.epoch, true);
        self.gone.insert(endpoint.clone(), Gone { epoch, removed });
        if let Some(member) = self.roster.member(endpoint) {
            let left = (member.party.sign_pub, self.record.epoch);
            self.former.insert(endpoint.clone(), left);
        }
    }

    /// Notes that this session invited somebody: they may come back if they had gone.
    pub(crate) fn note_invited(&mut self, endpoint: &EndpointId) {
        self.gone.remove(endpoint);
    }

    /// Takes in whom this session invited with `signature`; answers with what has changed.
    pub(crate) fn admit(&mut self, party: &Party, signature: &str) -> Option<MembershipChange> {
        let new = self.roster.admit(party, signature);
        new.then(|| MembershipChange::Invited(party.endpoint.clone()))
    }

    /// Holds members against the keys of `epoch` that the owner is proven to have sealed: who has none is
    /// gone, and who has one of a later epoch than that of their removal is back. Answers whether the
    /// members have to be looked at again.
    pub(crate) fn hold_against(
        &mut self,
        epoch: u64,
        members: &BTreeSet<EndpointId>,
        proven: &BTreeSet<EndpointId>,
    ) -> bool {
        let before = self.gone.len();
        self.gone
            .retain(|endpoint, gone| !(proven.contains(endpoint) && gone.is_over(epoch)));
        let mut changed = self.gone.len() != before;
        for keyless in members.difference(proven) {
            let removed = false;
            let new = !self.gone.contains_key(keyless);
            self.gone
                .entry(keyless.clone())
                .or_insert(Gone { epoch, removed });
            changed |= new;
        }
        changed
    }

    /// Who has gone, whatever the server says of them.
    pub(crate) fn gone(&self) -> impl Iterator<Item = &EndpointId> {
        self.gone.keys()
    }

    /// What must outlive the session. Who left in an earlier epoch than this one is not among it: they have
    /// no key of this one, which tells as much.
    pub(crate) fn remember(&self) -> Remembered {
        let gone = self.gone.iter();
        let gone = gone.filter(|(_, gone)| gone.removed || gone.epoch >= self.proven);
        let mut gone: Vec<_> = gone.map(|(who, gone)| (who.clone(), *gone)).collect();
        if gone.len() > REMOVED_MAX {
            gone.sort_by_key(|(_, gone)| std::cmp::Reverse(gone.epoch));
            gone.truncate(REMOVED_MAX);
        }
        Remembered {
            owner: self.record.owner.clone(),
            epoch: self.proven,
            signed: self.signed,
            gone: gone.into_iter().collect(),
        }
    }

    /// Takes what is remembered now, where it was `given` and other sessions of this identity have added to
    /// it. Answers whether the members have to be looked at again.
    pub(crate) fn take_memory(&mut self, given: &Remembered, now: Remembered) -> bool {
        self.proven = self.proven.max(now.epoch);
        self.signed = self.signed.max(now.signed);
        let mut changed = false;
        for who in given.gone.keys() {
            if !now.gone.contains_key(who) {
                changed |= self.gone.remove(who).is_some();
            }
        }
        for (who, gone) in now.gone {
            if !given.gone.contains_key(&who) {
                changed |= self.gone.insert(who, gone).is_none();
            }
        }
        changed
    }

    /// Keeps the key of an epoch, which the owner has signed.
    pub(crate) fn take_key(&mut self, epoch: u64, key: RoomKey) {
        self.keys.insert(epoch, key);
        self.proven = self.proven.max(epoch);
    }

    /// Takes the next epoch that this session has signed no keys for; `None` where there is none.
    pub(crate) fn claim_epoch(&mut self) -> Option<u64> {
        let epoch = self.record.epoch.max(self.signed).checked_add(1)?;
        self.signed = epoch;
        Some(epoch)
    }

    /// The members who get the next key.
    pub(crate) fn recipients(&self) -> impl Iterator<Item = &Member> {
        self.roster.members()
    }
}

/// Whether what the server says of a room can follow what is known of it.
fn follows(record: &RoomRecord, owner: &EndpointId, epoch: u64) -> Result<(), RosterError> {
    if record.owner != *owner {
        return Err(RosterError::OwnerChanged {
            before: owner.clone(),
            now: record.owner.clone(),
        });
    }
    if record.epoch < epoch {
        return Err(RosterError::EpochWentBack {
            before: epoch,
            now: record.epoch,
        });
    }
    Ok(())
}

fn verified(
    before: Option<&Roster>,
    record: &RoomRecord,
    members: &[MemberRecord],
    gone: &BTreeMap<EndpointId, Gone>,
) -> Result<Roster, RosterError> {
    let mut roster = Roster::verify_after(before, record, members)?;
    for (endpoint, gone) in gone {
        roster.strike(endpoint, gone.reason());
    }
    Ok(roster)
}

fn invented(roster: &Roster) -> Vec<MembershipChange> {
    let all = roster.invented().iter();
    all.map(|invented| MembershipChange::Invented {
        endpoint: invented.endpoint.clone(),
        reason: invented.reason,
    })
    .collect()
}
