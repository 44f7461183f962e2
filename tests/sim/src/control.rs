//! Signed changes of the control plane as a node plans them: read the replica, note what was relied on,
//! propose everything as one command. Values are one word each; what they mean to people is not this
//! crate's affair.

use std::sync::LazyLock;

use bytes::Bytes;
use unibus_proto::control::{RoomAccess, room_stream};
use unibus_proto::jetstream::config::StreamConfig;
use unibus_proto::nkey::UserSeed;
use unibus_proto::signing::{NONCE_BYTES, NONCE_LIFE_MS, RequestProof, body_hash, sign_request};
use unibus_state::{Command, ControlChange, ControlCheck, ControlRecord};

use crate::member::Member;
use crate::streams::put;

/// Users of a run, and rooms that they may create.
pub(crate) const USERS: usize = 4;
pub(crate) const ROOMS: usize = 5;

const USERS_BUCKET: &str = "UNIBUS_users";
const ROOMS_BUCKET: &str = "UNIBUS_rooms";
const MEMBERS_BUCKET: &str = "UNIBUS_members";
const REVERSE_BUCKET: &str = "UNIBUS_rooms_by_member";
const NONCES_BUCKET: &str = "UNIBUS_nonces";
const BUCKETS: [&str; 5] = [
    USERS_BUCKET,
    ROOMS_BUCKET,
    MEMBERS_BUCKET,
    REVERSE_BUCKET,
    NONCES_BUCKET,
];

const ACTIVE: &str = "active";
const REVOKED: &str = "revoked";
const HERE: &str = "here";
const GONE: &str = "gone";

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Create {
        room: usize,
    },
    Admit {
        room: usize,
        user: usize,
    },
    Remove {
        room: usize,
        user: usize,
    },
    Revoke {
        user: usize,
    },
    /// Changes nothing: its nonce is all that it writes.
    Look,
}

/// A signed request. Anybody who has seen it may send it again.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) asker: usize,
    pub(crate) wish: Wish,
    headers: [(&'static str, String); 4],
    /// The entry that granted it.
    pub(crate) granted: Option<usize>,
}

/// Public keys of the users; making one is slow.
static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| {
    (0..USERS)
        .map(|user| seed(user).public().to_hex())
        .collect()
});

fn key_of(user: usize) -> &'static str {
    &KEYS[user]
}

fn seed(user: usize) -> UserSeed {
    UserSeed::from_bytes([u8::try_from(user + 1).unwrap_or(u8::MAX); 32])
}

fn room_name(room: usize) -> String {
    format!("r{room}")
}

/// The subject of a room.
pub(crate) fn room_subject(room: usize) -> String {
    format!("room.{room}")
}

fn subject(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

/// The buckets and the users.
pub(crate) fn setup() -> Vec<Command> {
    let bucket = |name: &&str| {
        let life_ns = i64::try_from(NONCE_LIFE_MS * 1_000_000).unwrap_or(i64::MAX);
        let config = StreamConfig {
            name: format!("KV_{name}"),
            subjects: vec![subject(name, ">")],
            max_msgs_per_subject: 1,
            max_age: if *name == NONCES_BUCKET { life_ns } else { 0 },
            allow_rollup_hdrs: true,
            deny_delete: true,
            ..StreamConfig::default()
        };
        Command::StreamCreate(put(config))
    };
    let mut commands: Vec<_> = BUCKETS.iter().map(bucket).collect();
    let users = (0..USERS).map(|user| record(USERS_BUCKET, key_of(user), ACTIVE));
    commands.push(Command::Control(ControlChange {
        records: users.collect(),
        ..ControlChange::default()
    }));
    commands
}

fn record(bucket: &str, key: &str, value: &str) -> ControlRecord {
    ControlRecord {
        subject: subject(bucket, key).into(),
        header_len: 0,
        data: Bytes::copy_from_slice(value.as_bytes()),
    }
}

/// The revision and value of a record at a node; revision 0: there is none.
fn look(member: &Member, bucket: &str, key: &str) -> (u64, Option<String>) {
    let stream = member.state.stream(&format!("KV_{bucket}"));
    let found = stream.and_then(|stream| stream.last_for(subject(bucket, key).as_bytes()));
    let Some((seq, at)) = found else {
        return (0, None);
    };
    let stored = member.disk.read(&at);
    let value = stored.map(|message| String::from_utf8_lossy(&message.payload).into_owned());
    (seq, value)
}

impl Request {
    pub(crate) fn new(asker: usize, wish: Wish, at_s: u64, nonce: u64) -> Self {
        let mut bytes = [0; NONCE_BYTES];
        bytes[..8].copy_from_slice(&nonce.to_le_bytes());
        let hash = body_hash(b"");
        Self {
            asker,
            wish,
            headers: sign_request(&seed(asker), "POST", &uri(wish), at_s, &bytes, &hash),
            granted: None,
        }
    }

    /// What a node proposes for it; `None`: it refuses.
    pub(crate) fn plan(&self, member: &Member, now_ns: u64) -> Option<ControlChange> {
        let header = |name| {
            let found = self.headers.iter().find(|(header, _)| *header == name);
            found.map(|(_, value)| value.as_str())
        };
        let proof = RequestProof::read(header).ok()?;
        proof.check_clock(member.clock(now_ns) / 1_000_000).ok()?;
        let hash = body_hash(b"");
        proof.check_signature("POST", &uri(self.wish), &hash).ok()?;
        let asker = key_of(self.asker);
        let (revision, status) = look(member, USERS_BUCKET, asker);
        let nonce = proof.nonce_key();
        if status.as_deref() != Some(ACTIVE) || look(member, NONCES_BUCKET, &nonce).0 > 0 {
            return None;
        }
        let mut draft = ControlChange::default();
        expect(&mut draft, USERS_BUCKET, asker, revision);
        expect(&mut draft, NONCES_BUCKET, &nonce, 0);
        draft.records.push(record(NONCES_BUCKET, &nonce, "{}"));
        self.add_wish(member, &mut draft)?;
        Some(draft)
    }

    fn add_wish(&self, member: &Member, draft: &mut ControlChange) -> Option<()> {
        match self.wish {
            Wish::Create { room } => {
                let name = room_name(room);
                let rooms = member.state.stream("KV_UNIBUS_rooms")?.last_seq();
                draft.checks.push(ControlCheck {
                    stream: "KV_UNIBUS_rooms".into(),
                    filter: Bytes::new(),
                    last_seq: rooms,
                });
                if look(member, ROOMS_BUCKET, &name).0 > 0 {
                    return None;
                }
                draft.records.push(record(ROOMS_BUCKET, &name, HERE));
                set_member(draft, room, self.asker, HERE);
                draft.create = Some(put(StreamConfig {
                    name: room_stream(&name),
                    subjects: vec![room_subject(room)],
                    ..StreamConfig::default()
                }));
            }
            Wish::Admit { room, user } => {
                let (revision, value) = membership(member, room, user);
                if value.as_deref() == Some(HERE) || !has_room(member, room) {
                    return None;
                }
                expect(draft, MEMBERS_BUCKET, &member_key(room, user), revision);
                set_member(draft, room, user, HERE);
            }
            Wish::Remove { room, user } => {
                let (revision, value) = membership(member, room, user);
                if value.as_deref() != Some(HERE) {
                    return None;
                }
                expect(draft, MEMBERS_BUCKET, &member_key(room, user), revision);
                set_member(draft, room, user, GONE);
            }
            Wish::Look => {}
            Wish::Revoke { user } => {
                let key = key_of(user);
                let (revision, status) = look(member, USERS_BUCKET, key);
                if status.as_deref() != Some(ACTIVE) {
                    return None;
                }
                expect(draft, USERS_BUCKET, key, revision);
                draft.records.push(record(USERS_BUCKET, key, REVOKED));
            }
        }
        Some(())
    }
}

fn uri(wish: Wish) -> String {
    format!("/{wish:?}").replace(' ', "")
}

fn member_key(room: usize, user: usize) -> String {
    format!("{}.{}", room_name(room), key_of(user))
}

fn reverse_key(room: usize, user: usize) -> String {
    format!("{}.{}", key_of(user), room_name(room))
}

fn set_member(draft: &mut ControlChange, room: usize, user: usize, value: &str) {
    let (key, reverse) = (member_key(room, user), reverse_key(room, user));
    draft.records.push(record(MEMBERS_BUCKET, &key, value));
    draft.records.push(record(REVERSE_BUCKET, &reverse, value));
}

fn membership(member: &Member, room: usize, user: usize) -> (u64, Option<String>) {
    look(member, MEMBERS_BUCKET, &member_key(room, user))
}

fn has_room(member: &Member, room: usize) -> bool {
    look(member, ROOMS_BUCKET, &room_name(room)).0 > 0
}

fn expect(draft: &mut ControlChange, bucket: &str, key: &str, last_seq: u64) {
    draft.checks.push(ControlCheck {
        stream: format!("KV_{bucket}"),
        filter: subject(bucket, key).into(),
        last_seq,
    });
}

/// The rooms that a user has by what a node's replica says.
pub(crate) fn rooms_of(member: &Member, user: usize) -> Vec<RoomAccess> {
    if look(member, USERS_BUCKET, key_of(user)).1.as_deref() != Some(ACTIVE) {
        return Vec::new();
    }
    let has = |room: &usize| {
        has_room(member, *room) && membership(member, *room, user).1.as_deref() == Some(HERE)
    };
    let access = |room| RoomAccess {
        room: room_name(room),
        subject: room_subject(room),
        persisted: true,
    };
    (0..ROOMS).filter(has).map(access).collect()
}

/// Every room is there as a whole or not at all: record, stream and an index that says the same both
/// ways.
pub(crate) fn check_rooms(member: &Member) -> Result<(), String> {
    for room in 0..ROOMS {
        let name = room_name(room);
        let there = has_room(member, room);
        let stream = member.state.stream(&room_stream(&name)).is_some();
        if there != stream {
            return Err(format!("room {name}: record {there}, stream {stream}"));
        }
        let mut members = 0;
        for user in 0..USERS {
            let (forth, back) = (
                membership(member, room, user).1,
                look(member, REVERSE_BUCKET, &reverse_key(room, user)).1,
            );
            if forth != back {
                return Err(format!("room {name}, user {user}: {forth:?} and {back:?}"));
            }
            members += usize::from(forth.is_some());
        }
        if there != (members > 0) {
            return Err(format!(
                "room {name}: record {there}, {members} ever belonged to it"
            ));
        }
    }
    Ok(())
}

/// What a change that was made means.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) nonce: Option<String>,
    pub(crate) asker: Option<usize>,
    /// Room, user, and whether it belongs to the room now.
    pub(crate) members: Vec<(usize, usize, bool)>,
    pub(crate) revoked: Vec<usize>,
}

/// Reads a change from its records alone.
pub(crate) fn read(change: &ControlChange) -> Done {
    let mut done = Done::default();
    let user_of = |key: &str| (0..USERS).find(|user| key_of(*user) == key);
    let first = change.checks.first();
    let asker = first.and_then(|check| text(&check.filter).strip_prefix("$KV.UNIBUS_users."));
    done.asker = asker.and_then(user_of);
    for record in &change.records {
        let (subject, value) = (text(&record.subject), text(&record.data));
        if let Some(nonce) = subject.strip_prefix("$KV.UNIBUS_nonces.") {
            done.nonce = Some(nonce.to_owned());
        } else if let Some(key) = subject.strip_prefix("$KV.UNIBUS_users.") {
            done.revoked
                .extend(user_of(key).filter(|_| value == REVOKED));
        } else if let Some(key) = subject.strip_prefix("$KV.UNIBUS_members.r") {
            let named = key.split_once('.').and_then(|(room, key)| {
                let joined = value == HERE;
                Some((room.parse().ok()?, user_of(key)?, joined))
            });
            done.members.extend(named);
        }
    }
    done
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}
