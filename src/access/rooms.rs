//! Rooms and who has joined them, as a table in memory beside the users. Pure: takes records as
//! they are written, answers what an endpoint may use. A record that can't be read is no record.

use std::collections::{BTreeSet, HashMap, HashSet};

use tracing::error;
use unibus_proto::control::{EndpointId, MemberRecord, RoomAccess, RoomRecord};

/// The rooms.
#[derive(Debug, Default)]
pub(super) struct RoomTable {
    rooms: HashMap<String, RoomAccess>,
    /// Rooms by subject: a subject belongs to one room.
    by_subject: HashMap<String, String>,
    /// Who belongs to a room, by room.
    members: HashMap<String, Members>,
    /// The rooms that an endpoint has joined; ordered, so that equal memberships give equal grants.
    joined: HashMap<EndpointId, BTreeSet<String>>,
}

/// Who belongs to a room.
#[derive(Debug, Default)]
struct Members {
    joined: HashSet<EndpointId>,
    /// Those whose record opens nothing (yet).
    invited: HashSet<EndpointId>,
}

impl RoomTable {
    /// How many belong to a room, joined or not.
    pub(super) fn members_of(&self, room: &str) -> usize {
        let members = self.members.get(room);
        members.map_or(0, |members| members.joined.len() + members.invited.len())
    }

    /// What `endpoint` may use.
    pub(super) fn of(&self, endpoint: &EndpointId) -> Vec<RoomAccess> {
        let rooms = self.joined.get(endpoint).into_iter().flatten();
        rooms
            .filter_map(|room| self.rooms.get(room))
            .cloned()
            .collect()
    }

    /// The room that has this subject.
    pub(super) fn by_subject(&self, subject: &str) -> Option<&str> {
        self.by_subject.get(subject).map(String::as_str)
    }

    /// Takes a room's record; answers with whom it concerns.
    pub(super) fn set_room(&mut self, key: &str, value: Option<&[u8]>) -> Vec<EndpointId> {
        if let Some(before) = self.rooms.remove(key) {
            self.by_subject.remove(&before.subject);
        }
        if let Some(record) = value.and_then(|value| room(key, value)) {
            self.by_subject
                .insert(record.subject.clone(), key.to_owned());
            self.rooms.insert(key.to_owned(), record);
        }
        self.members
            .get(key)
            .map(|members| members.joined.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Takes a member's record; answers with whom it concerns.
    pub(super) fn set_member(&mut self, key: &str, value: Option<&[u8]>) -> Option<EndpointId> {
        let (room, endpoint) = key.split_once('.')?;
        let endpoint: EndpointId = endpoint.parse().ok()?;
        self.forget(room, &endpoint);
        if let Some(value) = value {
            let members = self.members.entry(room.to_owned()).or_default();
            if has_joined(key, &endpoint, value) {
                members.joined.insert(endpoint.clone());
                self.joined
                    .entry(endpoint.clone())
                    .or_default()
                    .insert(room.to_owned());
            } else {
                members.invited.insert(endpoint.clone());
            }
        }
        Some(endpoint)
    }

    /// Forgets every room; answers with whom that concerns.
    pub(super) fn clear_rooms(&mut self) -> Vec<EndpointId> {
        self.rooms.clear();
        self.by_subject.clear();
        self.joined.keys().cloned().collect()
    }

    /// Forgets every membership; answers with whom that concerns.
    pub(super) fn clear_members(&mut self) -> Vec<EndpointId> {
        self.members.clear();
        self.joined.drain().map(|(endpoint, _)| endpoint).collect()
    }

    fn forget(&mut self, room: &str, endpoint: &EndpointId) {
        if let Some(members) = self.members.get_mut(room) {
            members.joined.remove(endpoint);
            members.invited.remove(endpoint);
            if members.joined.is_empty() && members.invited.is_empty() {
                self.members.remove(room);
            }
        }
        if let Some(rooms) = self.joined.get_mut(endpoint) {
            rooms.remove(room);
            if rooms.is_empty() {
                self.joined.remove(endpoint);
            }
        }
    }
}

fn room(key: &str, value: &[u8]) -> Option<RoomAccess> {
    let record: RoomRecord = serde_json::from_slice(value)
        .inspect_err(|error| error!(room = %key, %error, "a room's record can't be read"))
        .ok()?;
    if record.id.as_str() != key {
        error!(room = %key, "a room's record is stored under another id");
        return None;
    }
    Some(RoomAccess {
        room: key.to_owned(),
        subject: record.subject.into(),
        persisted: record.policy.persisted,
    })
}

fn has_joined(key: &str, endpoint: &EndpointId, value: &[u8]) -> bool {
    match serde_json::from_slice::<MemberRecord>(value) {
        Ok(record) => {
            record.endpoint == *endpoint
                && record.sign_pub.endpoint() == *endpoint
                && record.joined_at.is_some()
        }
        Err(error) => {
            error!(member = %key, %error, "a member's record can't be read");
            false
        }
    }
}
