//! A snapshot of the control plane: every user, room, member and sealed key, with the revisions at
//! which a cluster has them. Pure: checks, compares and plans; reads and writes nothing itself.
//!
//! - `file`: its form in a file, with blobs beside the records.
//! - `sqlite`: a membershipd database as a snapshot.

pub(crate) mod file;
pub(crate) mod sqlite;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use unibus_proto::control::{
    EndpointId, FORMER_PART, FormerMember, MemberRecord, MemberRole, ReverseRecord, RoomId,
    RoomRecord, SealedKeyRecord, SignPublic,
};

use crate::access::{Status, UserRecord};
use crate::control::buckets::Bucket;

/// The buckets of a snapshot, in the order in which they are written: a room is seen by nobody before
/// its own record is there, so by then everything that belongs to it is.
pub(crate) const BUCKETS: [Bucket; 5] = [
    Bucket::Users,
    Bucket::RoomKeys,
    Bucket::RoomsByMember,
    Bucket::Members,
    Bucket::Rooms,
];
/// Problems that are told one by one.
const TOLD_MAX: usize = 20;

/// Where a record is kept.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Place {
    pub(crate) bucket: Bucket,
    pub(crate) key: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.bucket.name(), self.key)
    }
}

/// A value of one of the buckets.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    User(UserRecord),
    Room(RoomRecord),
    Member(MemberRecord),
    Former(FormerMember),
    Reverse(ReverseRecord),
    Key(SealedKeyRecord),
}

/// Everything that is wrong with a snapshot.
#[derive(Clone, Debug, Error)]
#[error("{}", listed(.0))]
pub(crate) struct Problems(pub(crate) Vec<String>);

fn listed(problems: &[String]) -> String {
    let mut text = problems
        .iter()
        .take(TOLD_MAX)
        .map(|problem| format!("\n  {problem}"))
        .collect::<String>();
    if problems.len() > TOLD_MAX {
        text.push_str(&format!("\n  and {} more", problems.len() - TOLD_MAX));
    }
    text.trim_start().to_owned()
}

/// The records of a control plane.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Snapshot {
    records: BTreeMap<Place, Record>,
}

/// What a cluster holds: its records, and the revision of every key that it has or had.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    pub(crate) snapshot: Snapshot,
    pub(crate) revisions: BTreeMap<Place, u64>,
}

/// A record that has to be written or removed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Write {
    pub(crate) place: Place,
    /// `None`: it is to be removed.
    pub(crate) value: Option<Vec<u8>>,
    /// What the cluster has there: 0 = nothing, ever.
    pub(crate) revision: u64,
}

/// What an import has to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// In the order of [`BUCKETS`].
    pub(crate) writes: Vec<Write>,
    /// Records that are the same already.
    pub(crate) unchanged: usize,
    /// What is not written because the cluster knows better: a revoked user stays revoked, who was removed
    /// from a room stays removed, a room does not go back to an older epoch.
    pub(crate) held_back: Vec<String>,
    /// Members that the cluster's rooms have, the snapshot's do not, and nobody can tell who is right.
    pub(crate) more_members: Vec<String>,
}

/// Who has gone on with a room.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    /// The cluster has never had it.
    New,
    /// The snapshot has a later epoch, or a rekey that is due.
    Ours,
    /// Neither, as far as epochs tell.
    Same,
    /// The cluster has.
    Theirs,
    /// The cluster has deleted it.
    Deleted,
}

impl Held {
    fn revision(&self, place: &Place) -> u64 {
        self.revisions.get(place).copied().unwrap_or(0)
    }
}

impl Record {
    /// Reads the value kept at `place`, and checks that it belongs there.
    pub(crate) fn decode(place: &Place, json: &[u8]) -> Result<Self, String> {
        let key = place.key.as_str();
        let record = match place.bucket {
            Bucket::Users => {
                Self::User(UserRecord::decode(key, json).map_err(|error| error.to_string())?)
            }
            Bucket::Rooms => Self::Room(value(json)?),
            Bucket::Members if is_former(key) => Self::Former(value(json)?),
            Bucket::Members => Self::Member(value(json)?),
            Bucket::RoomsByMember => Self::Reverse(value(json)?),
            Bucket::RoomKeys => Self::Key(value(json)?),
            Bucket::Nonces => return Err("nonces are not kept".to_owned()),
        };
        if record.fits(key) {
            Ok(record)
        } else {
            Err("it is kept under a key that is not its own".to_owned())
        }
    }

    fn fits(&self, key: &str) -> bool {
        let parts: Vec<&str> = key.split('.').collect();
        let is_room = |text: &str| text.parse::<RoomId>().is_ok();
        let is_endpoint = |text: &str| text.parse::<EndpointId>().is_ok();
        match (self, parts.as_slice()) {
            (Self::User(user), [key]) => {
                user.sign_pub == *key
                    && key
                        .parse::<SignPublic>()
                        .is_ok_and(|k| k.to_string() == *key)
            }
            (Self::Room(room), [id]) => room.id.as_str() == *id && room.epoch > 0,
            (Self::Member(member), [room, endpoint]) => {
                is_room(room)
                    && member.endpoint.as_str() == *endpoint
                    && member.sign_pub.endpoint() == member.endpoint
            }
            (Self::Former(former), [room, endpoint, FORMER_PART]) => {
                let member = &former.member;
                is_room(room)
                    && member.endpoint.as_str() == *endpoint
                    && member.sign_pub.endpoint() == member.endpoint
            }
            (Self::Reverse(_), [endpoint, room]) => is_endpoint(endpoint) && is_room(room),
            (Self::Key(_), [room, epoch, endpoint]) => {
                is_room(room) && is_endpoint(endpoint) && epoch.parse::<u64>().is_ok_and(|n| n > 0)
            }
            _ => false,
        }
    }

    /// The JSON that is kept.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::User(user) => user.encode(),
            Self::Room(room) => json(room),
            Self::Member(member) => json(member),
            Self::Former(former) => json(former),
            Self::Reverse(reverse) => json(reverse),
            Self::Key(key) => json(key),
        }
    }
}

/// Whether a key of the members' bucket is that of somebody who has left.
fn is_former(key: &str) -> bool {
    key.rsplit_once('.')
        .is_some_and(|(_, last)| last == FORMER_PART)
}

fn value<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Structs of strings, numbers and enums always serialise.
    serde_json::to_vec(value).unwrap_or_default()
}

impl Snapshot {
    pub(crate) fn put(&mut self, bucket: Bucket, key: impl Into<String>, record: Record) {
        let key = key.into();
        self.records.insert(Place { bucket, key }, record);
    }

    pub(crate) fn insert(&mut self, place: Place, record: Record) {
        self.records.insert(place, record);
    }

    /// A member's record and its reverse index.
    pub(crate) fn put_member(&mut self, room: &RoomId, member: MemberRecord) {
        let endpoint = member.endpoint.clone();
        let reverse = Record::Reverse(ReverseRecord { role: member.role });
        self.put(Bucket::RoomsByMember, format!("{endpoint}.{room}"), reverse);
        let key = format!("{room}.{endpoint}");
        self.put(Bucket::Members, key, Record::Member(member));
    }

    /// Every record, in the order of [`BUCKETS`].
    pub(crate) fn records(&self) -> impl Iterator<Item = (&Place, &Record)> {
        BUCKETS.iter().flat_map(|bucket| self.of(*bucket))
    }

    /// The records of one bucket, by key.
    pub(crate) fn of(&self, bucket: Bucket) -> impl Iterator<Item = (&Place, &Record)> {
        let from = Place {
            bucket,
            key: String::new(),
        };
        let rest = self.records.range(from..);
        rest.take_while(move |(place, _)| place.bucket == bucket)
    }

    pub(crate) fn rooms(&self) -> impl Iterator<Item = &RoomRecord> {
        self.of(Bucket::Rooms)
            .filter_map(|(_, record)| match record {
                Record::Room(room) => Some(room),
                _ => None,
            })
    }

    fn get(&self, bucket: Bucket, key: String) -> Option<&Record> {
        self.records.get(&Place { bucket, key })
    }

    /// How many of what, in words.
    pub(crate) fn summary(&self) -> String {
        let count = |bucket, one: &str| {
            let number = self.of(bucket).count();
            format!("{number} {one}{}", if number == 1 { "" } else { "s" })
        };
        [
            count(Bucket::Users, "user"),
            count(Bucket::Rooms, "room"),
            count(Bucket::Members, "member"),
            count(Bucket::RoomKeys, "sealed key"),
        ]
        .join(", ")
    }

    /// Asserts that the records are one whole: no member, key or index of a room that is not there,
    /// no two rooms on one subject, every room with its owner and every member with its index.
    ///
    /// # Errors
    /// [`Problems`], all of them.
    pub(crate) fn check(&self) -> Result<(), Problems> {
        let mut problems = Vec::new();
        for (place, record) in self.records() {
            if let Some(problem) = self.problem(place, record) {
                problems.push(format!("{place}: {problem}"));
            }
        }
        let mut subjects = BTreeMap::new();
        for room in self.rooms() {
            if let Some(other) = subjects.insert(room.subject.as_str(), &room.id) {
                problems.push(format!(
                    "rooms {other} and {} have the same subject {}",
                    room.id, room.subject
                ));
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Problems(problems))
        }
    }

    fn problem(&self, place: &Place, record: &Record) -> Option<String> {
        let parts: Vec<&str> = place.key.split('.').collect();
        let no_room = |room: &str| {
            let absent = self.get(Bucket::Rooms, room.to_owned()).is_none();
            absent.then(|| format!("there is no room {room}"))
        };
        let no_member = |room: &str, endpoint: &str| {
            let absent = self
                .get(Bucket::Members, format!("{room}.{endpoint}"))
                .is_none();
            absent.then(|| format!("{endpoint} is no member of room {room}"))
        };
        match (record, parts.as_slice()) {
            (Record::Room(room), _) => {
                let owner = self.get(Bucket::Members, format!("{}.{}", room.id, room.owner));
                match owner {
                    Some(Record::Member(member)) if member.role == MemberRole::Owner => None,
                    _ => Some(format!(
                        "its owner {} is no member as its owner",
                        room.owner
                    )),
                }
            }
            (Record::Member(member), [room, endpoint]) => no_room(room).or_else(|| {
                let index = self.get(Bucket::RoomsByMember, format!("{endpoint}.{room}"));
                let same = matches!(index, Some(Record::Reverse(r)) if r.role == member.role);
                (!same).then(|| "its entry in the index by member is missing or other".to_owned())
            }),
            (Record::Former(_), [room, ..]) => no_room(room),
            (Record::Reverse(_), [endpoint, room]) => {
                no_room(room).or_else(|| no_member(room, endpoint))
            }
            (Record::Key(_), [room, _, endpoint]) => {
                no_room(room).or_else(|| no_member(room, endpoint))
            }
            _ => None,
        }
    }

    /// What has to be done so that `held` has every record of this snapshot. Unless `roll_back`, nothing
    /// goes back behind what the cluster decided since: what it has ever had stays as it is there, unless
    /// the snapshot's room is further. A room that is taken over as a whole loses the members that it does
    /// not have in the snapshot.
    pub(crate) fn plan(&self, held: &Held, roll_back: bool) -> Plan {
        let mut plan = Plan::default();
        for (place, record) in self.records() {
            let there = held.snapshot.records.get(place);
            if there == Some(record) {
                plan.unchanged += 1;
                continue;
            }
            let reason = match roll_back {
                true => None,
                false => self.known_better(place, record, held),
            };
            match reason {
                Some(reason) => plan.held_back.push(format!("{place}: {reason}")),
                None => plan.writes.push(Write {
                    place: place.clone(),
                    value: Some(record.encode()),
                    revision: held.revision(place),
                }),
            }
        }
        self.plan_removals(&mut plan, held, roll_back);
        plan
    }

    /// Why a record that differs is not written: the cluster has decided about it.
    fn known_better(&self, place: &Place, record: &Record, held: &Held) -> Option<&'static str> {
        let was_there = held.revision(place) > 0;
        let Some(room) = room_of(place) else {
            return match (record, held.snapshot.records.get(place)) {
                // What takes rights away is always taken over.
                (Record::User(ours), Some(_)) if ours.status == Status::Revoked => None,
                (_, Some(Record::User(theirs))) if theirs.status == Status::Revoked => {
                    Some("the cluster has revoked this user")
                }
                (_, Some(_)) => Some("the cluster has this user otherwise"),
                (_, None) => was_there.then_some("the cluster has removed this user"),
            };
        };
        match self.standing(room, held) {
            Standing::New | Standing::Ours => None,
            Standing::Same if !was_there => None,
            Standing::Same => Some("the cluster has changed or removed this since"),
            Standing::Theirs => Some("the cluster is further with this room"),
            Standing::Deleted => Some("the cluster has deleted this room"),
        }
    }

    /// A room has gone on with a later epoch, or with one that is due because somebody was removed.
    fn standing(&self, room: &str, held: &Held) -> Standing {
        let find = |snapshot: &Self| match snapshot.get(Bucket::Rooms, room.to_owned()) {
            Some(Record::Room(room)) => Some((room.epoch, room.needs_rekey)),
            _ => None,
        };
        let place = Place {
            bucket: Bucket::Rooms,
            key: room.to_owned(),
        };
        match (find(self), find(&held.snapshot)) {
            (_, None) if held.revision(&place) > 0 => Standing::Deleted,
            (_, None) => Standing::New,
            (ours, theirs) if ours > theirs => Standing::Ours,
            (ours, theirs) if ours < theirs => Standing::Theirs,
            _ => Standing::Same,
        }
    }

    fn plan_removals(&self, plan: &mut Plan, held: &Held, roll_back: bool) {
        for (place, _) in held.snapshot.records() {
            let known = self.records.contains_key(place) || is_former(&place.key);
            let Some(room) = room_of(place).filter(|_| !known && place.bucket != Bucket::Rooms)
            else {
                continue;
            };
            if self.get(Bucket::Rooms, room.to_owned()).is_none() {
                continue;
            }
            if roll_back || self.standing(room, held) == Standing::Ours {
                plan.writes.push(Write {
                    place: place.clone(),
                    value: None,
                    revision: held.revision(place),
                });
            } else if place.bucket == Bucket::Members {
                plan.more_members.push(place.to_string());
            }
        }
    }

    /// Subjects of this snapshot's rooms that other rooms of the cluster have.
    pub(crate) fn conflicts(&self, held: &Self) -> Vec<String> {
        let taken: BTreeMap<&str, &RoomId> = held
            .rooms()
            .map(|room| (room.subject.as_str(), &room.id))
            .collect();
        self.rooms()
            .filter_map(|room| {
                let other = taken.get(room.subject.as_str())?;
                (**other != room.id).then(|| {
                    format!(
                        "room {}: the cluster's room {other} has its subject {}",
                        room.id, room.subject
                    )
                })
            })
            .collect()
    }

    /// Records of this snapshot that `other` has not, or has otherwise.
    pub(crate) fn missing_in(&self, other: &Self) -> Vec<String> {
        self.records()
            .filter_map(|(place, record)| match other.records.get(place) {
                Some(there) if there == record => None,
                Some(_) => Some(format!("{place}: differs")),
                None => Some(format!("{place}: is missing")),
            })
            .collect()
    }

    /// Number of records that `other` has at places where this snapshot has none.
    pub(crate) fn more_in(&self, other: &Self) -> usize {
        let strange = |place: &&Place| !self.records.contains_key(*place);
        other.records.keys().filter(strange).count()
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }
}

/// The room that a record belongs to.
fn room_of(place: &Place) -> Option<&str> {
    let mut parts = place.key.split('.');
    match place.bucket {
        Bucket::Rooms | Bucket::Members | Bucket::RoomKeys => parts.next(),
        Bucket::RoomsByMember => parts.nth(1),
        Bucket::Users | Bucket::Nonces => None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
