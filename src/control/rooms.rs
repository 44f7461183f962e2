//! `POST /rooms`, `GET /rooms/{id}`, `GET /members/{endpoint}/rooms`: rooms and who is in them.
//! A room is created with its owner, the reverse index, the owner's sealed key and its stream, in
//! one step.

use data_encoding::{BASE64, HEXLOWER};
use hyper::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use unibus_proto::control::{
    CreateRoom, EndpointId, MemberRecord, MemberRole, MyRoom, Party, ReverseRecord, RoomId,
    RoomRecord, SealedKeyRecord, SignPublic, room_statement, room_stream, sealed_key_statement,
};
use unibus_proto::jetstream::config::StreamConfig;
use unibus_state::command::StreamPut;

use super::buckets::Bucket;
use super::caller::Caller;
use super::plane::{Call, Plane};
use super::records::{Draft, Entry, Records};
use super::refusal::Refusal;
use super::reply::{Body, json};
use crate::access::users::now;

/// Epoch of a new room's key.
const EPOCH_FIRST: u64 = 1;
/// Longest sealed key, in bytes: HPKE adds 48 to a key of 32.
const SEALED_BYTES_MAX: usize = 1024;
/// What everybody is told who is no member, whether the room exists or not.
pub(super) const NO_MEMBER: &str = "you are no member of this room, or there is no such room";
const OWNERS_ONLY: &str = "only the owner of this room can do that, or there is no such room";

pub(crate) async fn create(mut call: Call<'_>) -> Result<Response<Body>, Refusal> {
    let asked: CreateRoom = call.json()?;
    let plane = call.plane;
    let changed = call
        .change(|records, caller, draft| plan_create(plane, records, caller, &asked, draft))
        .await?;
    Ok(call.changed(StatusCode::CREATED, &changed))
}

fn plan_create(
    plane: &Plane,
    records: &Records,
    caller: &Caller,
    asked: &CreateRoom,
    draft: &mut Draft,
) -> Result<RoomRecord, Refusal> {
    let owner = &asked.owner;
    caller.require(
        "a room is owned by the signer of the request: endpoint and sign_pub must be yours",
        |identity| identity.endpoint == owner.endpoint && identity.key == owner.sign_pub.0,
    )?;
    check_party(owner)?;
    if plane.encrypted_rooms && !asked.policy.encrypted {
        return Err(Refusal::forbidden(
            "rooms in cleartext are refused here: this node takes encrypted rooms only",
        ));
    }
    let statement = room_statement(&asked.id, &asked.subject, &asked.policy, owner);
    check_signature(owner.sign_pub, &statement, &asked.signature, "the room")?;
    check_free(plane, records, asked, draft)?;
    let room = RoomRecord {
        id: asked.id.clone(),
        subject: asked.subject.clone(),
        policy: asked.policy,
        owner: owner.endpoint.clone(),
        epoch: EPOCH_FIRST,
        created_at: now(),
        owner_signature: asked.signature.clone(),
        needs_rekey: false,
    };
    let member = MemberRecord {
        endpoint: owner.endpoint.clone(),
        sign_pub: owner.sign_pub,
        kex_pub: owner.kex_pub.clone(),
        role: MemberRole::Owner,
        joined_at: Some(room.created_at.clone()),
        inviter: owner.endpoint.clone(),
        inviter_signature: asked.signature.clone(),
    };
    draft.put(Bucket::Rooms, room.id.as_str(), &room);
    put_member(draft, &room.id, &member);
    if let Some(sealed) = &asked.sealed_key {
        let (text, signature) = (&sealed.sealed_key, &sealed.signature);
        let key = checked_key(
            &room,
            EPOCH_FIRST,
            &member,
            &member.endpoint,
            text,
            signature,
        )?;
        put_key(draft, &room.id, EPOCH_FIRST, &member.endpoint, &key);
    } else if asked.policy.encrypted {
        return Err(no_sealed_key());
    }
    if asked.policy.persisted {
        draft.create_stream(stream_of(&room));
    }
    Ok(room)
}

/// Refuses an id or subject that is taken, and expects that none of it is taken meanwhile. Rooms with
/// other ids and subjects may come in between.
fn check_free(
    plane: &Plane,
    records: &Records,
    asked: &CreateRoom,
    draft: &mut Draft,
) -> Result<(), Refusal> {
    let taken = |what| Err(Refusal::conflict(what));
    let found: Entry<RoomRecord> = records.get(Bucket::Rooms, asked.id.as_str())?;
    if found.value.is_some() {
        return taken("the room's id is taken");
    }
    draft.expect(Bucket::Rooms, asked.id.as_str(), found.revision);
    let subject = asked.subject.as_str();
    // The directory hears of a room a moment after it is in the records: of the newest, the claim tells.
    let key = subject_claim(subject);
    let claim: Entry<SubjectClaim> = records.get(Bucket::Nonces, &key)?;
    if let Some(SubjectClaim { room }) = claim.value {
        let claimer: Entry<RoomRecord> = records.get(Bucket::Rooms, room.as_str())?;
        if claimer
            .value
            .is_some_and(|room| room.subject == asked.subject)
        {
            return taken("the room's subject is taken");
        }
    }
    draft.expect(Bucket::Nonces, &key, claim.revision);
    let room = asked.id.clone();
    draft.put(Bucket::Nonces, &key, &SubjectClaim { room });
    // Who creates a room may use its subject: it must not be one that somebody else relies on.
    if plane.directory.room_on(subject).is_some()
        || plane.directory.is_granted(subject)
        || records.is_captured(subject)
    {
        return taken("the room's subject is taken");
    }
    Ok(())
}

/// What a claimed subject was claimed for.
#[derive(Debug, Deserialize, Serialize)]
struct SubjectClaim {
    room: RoomId,
}

/// The key under which whoever creates a room claims its subject: room records are found by their ids
/// alone. It lies with the nonces, where it is forgotten after their life, which no request outlives.
fn subject_claim(subject: &str) -> String {
    format!("subject.{}", HEXLOWER.encode(&Sha256::digest(subject)))
}

/// The stream of a persisted room's messages.
pub(crate) fn room_stream_config(room: &RoomRecord) -> StreamConfig {
    StreamConfig {
        name: room_stream(room.id.as_str()),
        description: "messages of a room".to_owned(),
        subjects: vec![room.subject.to_string()],
        allow_direct: true,
        ..StreamConfig::default()
    }
}

fn stream_of(room: &RoomRecord) -> StreamPut {
    StreamPut {
        config: room_stream_config(room),
        privileged: true,
        pedantic: false,
        replicas_max: 1,
    }
}

pub(crate) async fn show(mut call: Call<'_>) -> Result<Response<Body>, Refusal> {
    let id: RoomId = call.param(0)?;
    let room = call
        .read(|records, caller| Ok(room_for_member(records, caller, &id)?.value))
        .await?;
    Ok(json(StatusCode::OK, &room))
}

pub(crate) async fn of_member(mut call: Call<'_>) -> Result<Response<Body>, Refusal> {
    let endpoint: EndpointId = call.param(0)?;
    let rooms = call
        .read(|records, caller| {
            caller.require("only the endpoint itself can see its rooms", |identity| {
                identity.endpoint == endpoint
            })?;
            my_rooms(records, &endpoint)
        })
        .await?;
    Ok(json(StatusCode::OK, &rooms))
}

fn my_rooms(records: &Records, endpoint: &EndpointId) -> Result<Vec<MyRoom>, Refusal> {
    let listed = records.list::<ReverseRecord>(Bucket::RoomsByMember, &format!("{endpoint}.*"))?;
    let mut rooms = Vec::with_capacity(listed.len());
    for (key, ReverseRecord { role }) in listed {
        let Some((_, room)) = key.split_once('.') else {
            continue;
        };
        let found: Entry<RoomRecord> = records.get(Bucket::Rooms, room)?;
        if let Some(room) = found.value {
            let own = member(records, &room.id, endpoint)?.value;
            rooms.push(MyRoom {
                joined: own.is_some_and(|own| own.joined_at.is_some()),
                needs_rekey: room.needs_rekey,
                room_id: room.id,
                subject: room.subject,
                epoch: room.epoch,
                policy: room.policy,
                role,
            });
        }
    }
    Ok(rooms)
}

/// A room that was found, and the revision to expect.
#[derive(Debug)]
pub(super) struct FoundRoom {
    pub(super) value: RoomRecord,
    pub(super) revision: u64,
}

/// The room, if the caller belongs to it (invited or joined).
pub(super) fn room_for_member(
    records: &Records,
    caller: &Caller,
    id: &RoomId,
) -> Result<FoundRoom, Refusal> {
    let mut belongs = false;
    if let Some(identity) = caller.identity() {
        let found = member(records, id, &identity.endpoint)?;
        belongs = found
            .value
            .is_some_and(|member| member.sign_pub.0 == identity.key);
    }
    caller.require(NO_MEMBER, |_| belongs)?;
    find_room(records, id, NO_MEMBER)
}

/// The room and its owner's record, if the caller owns it.
pub(super) fn room_for_owner(
    records: &Records,
    caller: &Caller,
    id: &RoomId,
) -> Result<(FoundRoom, MemberRecord), Refusal> {
    let room = find_room(records, id, OWNERS_ONLY)?;
    let owner = member(records, id, &room.value.owner)?.value;
    let owner = owner.ok_or_else(|| Refusal::forbidden(OWNERS_ONLY))?;
    caller.require(OWNERS_ONLY, |identity| {
        identity.endpoint == owner.endpoint
            && identity.key == owner.sign_pub.0
            && owner.role == MemberRole::Owner
    })?;
    Ok((room, owner))
}

/// A room that is not there is told apart from a foreign one by nothing.
pub(super) fn find_room(
    records: &Records,
    id: &RoomId,
    words: &'static str,
) -> Result<FoundRoom, Refusal> {
    let found: Entry<RoomRecord> = records.get(Bucket::Rooms, id.as_str())?;
    match found.value {
        Some(value) => Ok(FoundRoom {
            value,
            revision: found.revision,
        }),
        None => Err(Refusal::forbidden(words)),
    }
}

/// The record of `endpoint` in a room.
pub(super) fn member(
    records: &Records,
    room: &RoomId,
    endpoint: &EndpointId,
) -> Result<Entry<MemberRecord>, Refusal> {
    Ok(records.get(Bucket::Members, &format!("{room}.{endpoint}"))?)
}

/// Writes a member's record and the reverse index.
pub(super) fn put_member(draft: &mut Draft, room: &RoomId, member: &MemberRecord) {
    let endpoint = &member.endpoint;
    draft.put(Bucket::Members, &format!("{room}.{endpoint}"), member);
    let reverse = ReverseRecord { role: member.role };
    draft.put(
        Bucket::RoomsByMember,
        &format!("{endpoint}.{room}"),
        &reverse,
    );
}

/// Writes a sealed key.
pub(super) fn put_key(
    draft: &mut Draft,
    room: &RoomId,
    epoch: u64,
    endpoint: &EndpointId,
    key: &SealedKeyRecord,
) {
    draft.put(Bucket::RoomKeys, &format!("{room}.{epoch}.{endpoint}"), key);
}

/// An endpoint that does not follow from its key is a mix-up or a trick.
pub(super) fn check_party(party: &Party) -> Result<(), Refusal> {
    if party.sign_pub.endpoint() == party.endpoint {
        Ok(())
    } else {
        Err(Refusal::bad("the endpoint does not follow from sign_pub"))
    }
}

pub(super) fn check_signature(
    key: SignPublic,
    statement: &str,
    signature: &str,
    what: &str,
) -> Result<(), Refusal> {
    if key.0.verify(statement.as_bytes(), signature) {
        Ok(())
    } else {
        Err(Refusal::forbidden(format!(
            "the signature over {what} does not fit what it is given for"
        )))
    }
}

/// A sealed key as it is stored, after the sealer's signature was checked.
pub(super) fn checked_key(
    room: &RoomRecord,
    epoch: u64,
    sealer: &MemberRecord,
    recipient: &EndpointId,
    sealed: &str,
    signature: &str,
) -> Result<SealedKeyRecord, Refusal> {
    let bytes = BASE64.decode(sealed.as_bytes()).unwrap_or_default();
    if bytes.is_empty() || bytes.len() > SEALED_BYTES_MAX {
        return Err(Refusal::bad("sealed_key is at most 1024 bytes in base64"));
    }
    let statement = sealed_key_statement(&room.id, epoch, recipient, &bytes);
    check_signature(sealer.sign_pub, &statement, signature, "a sealed key")?;
    Ok(SealedKeyRecord {
        sealed_key: sealed.to_owned(),
        sealer: sealer.endpoint.clone(),
        sealer_signature: signature.to_owned(),
    })
}

pub(super) fn no_sealed_key() -> Refusal {
    Refusal::bad("sealed_key is missing: this room is encrypted")
}
