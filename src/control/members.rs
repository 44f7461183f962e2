//! Membership of one room: `GET /rooms/{id}/members`, `POST …/invite`, `…/join`, `…/leave`, and
//! `DELETE …/members/{endpoint}`. Whoever goes takes the room's right to speak along until it is
//! rekeyed.

use std::collections::BTreeSet;

use hyper::{Response, StatusCode};
use serde::Deserialize;
use unibus_proto::control::{
    EndpointId, FORMER_PART, FormerMember, History, Invite, MemberRecord, MemberRole, Party,
    RoomId, RoomRecord, member_statement,
};

use super::buckets::Bucket;
use super::caller::Caller;
use super::plane::{Call, Plane};
use super::records::{Draft, Records};
use super::refusal::Refusal;
use super::reply::{Body, json};
use super::rooms::{
    NO_MEMBER, check_party, check_signature, checked_key, find_room, member, no_sealed_key,
    put_key, put_member, room_for_member, room_for_owner,
};
use crate::access::users::now;

/// Members of one room at most: a rekey carries a sealed key for each, in one request.
pub(crate) const MEMBERS_MAX: usize = 8 * 1024;
/// Records that a change writes beside the keys of a room's members: the room's own, and the nonce's.
const BESIDE_KEYS: usize = 8;
// The largest room can be rekeyed: nobody may speak in a room that can't, once somebody has gone.
const _: () = assert!(MEMBERS_MAX + BESIDE_KEYS <= unibus_state::RECORDS_MAX);

/// Optional body of `join` and `leave`: says who, where nobody is asked to sign (`off`).
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Who {
    #[serde(default)]
    endpoint: Option<EndpointId>,
}

pub(crate) async fn list(mut call: Call<'_>) -> Result<Response<Body>, Refusal> {
    let id: RoomId = call.param(0)?;
    let members = call
        .read(|records, caller| {
            room_for_member(records, caller, &id)?;
            members(records, &id)
        })
        .await?;
    Ok(json(StatusCode::OK, &members))
}

pub(crate) async fn former(mut call: Call<'_>) -> Result<Response<Body>, Refusal> {
    let id: RoomId = call.param(0)?;
    let former = call
        .read(|records, caller| {
            room_for_member(records, caller, &id)?;
            let pattern = format!("{id}.*.{FORMER_PART}");
            Ok(records.list::<FormerMember>(Bucket::Members, &pattern)?)
        })
        .await?;
    let former: Vec<FormerMember> = former.into_iter().map(|(_, former)| former).collect();
    Ok(json(StatusCode::OK, &former))
}

/// Every member of a room, by endpoint.
pub(super) fn members(records: &Records, id: &RoomId) -> Result<Vec<MemberRecord>, Refusal> {
    let listed = records.list::<MemberRecord>(Bucket::Members, &format!("{id}.*"))?;
    Ok(listed.into_iter().map(|(_, member)| member).collect())
}

/// Whether a room has as many members as it may. The directory has counted them, so that inviting costs the
/// same in every room; only where it says that the room is full are the records read.
fn is_full(plane: &Plane, records: &Records, id: &RoomId) -> Result<bool, Refusal> {
    let few = plane.directory.members_of(id) < MEMBERS_MAX;
    Ok(!few && members(records, id)?.len() >= MEMBERS_MAX)
}

pub(crate) async fn invite(mut call: Call<'_>) -> Result<Response<Body>, Refusal> {
    let id: RoomId = call.param(0)?;
    let asked: Invite = call.json()?;
    check_party(&asked.member)?;
    let plane = call.plane;
    let changed = call
        .change(|records, caller, draft| plan_invite(plane, records, caller, (&id, &asked), draft))
        .await?;
    Ok(call.changed(StatusCode::CREATED, &changed))
}

fn plan_invite(
    plane: &Plane,
    records: &Records,
    caller: &Caller,
    (id, asked): (&RoomId, &Invite),
    draft: &mut Draft,
) -> Result<MemberRecord, Refusal> {
    let (room, owner) = room_for_owner(records, caller, id)?;
    let Party {
        endpoint,
        sign_pub,
        kex_pub,
    } = &asked.member;
    let statement = member_statement(id, &asked.member, MemberRole::Member);
    check_signature(owner.sign_pub, &statement, &asked.signature, "the member")?;
    let found = member(records, id, endpoint)?;
    if found.value.is_some() {
        return Err(Refusal::conflict("this endpoint is a member already"));
    }
    if asked.epoch != room.value.epoch {
        return Err(epoch_moved(&room.value));
    }
    if is_full(plane, records, id)? {
        return Err(Refusal::conflict("the room is full"));
    }
    let key = format!("{id}.{endpoint}");
    draft.expect(Bucket::Rooms, id.as_str(), room.revision);
    draft.expect(Bucket::Members, &key, found.revision);
    let invited = MemberRecord {
        endpoint: endpoint.clone(),
        sign_pub: *sign_pub,
        kex_pub: kex_pub.clone(),
        role: MemberRole::Member,
        joined_at: None,
        inviter: owner.endpoint.clone(),
        inviter_signature: asked.signature.clone(),
    };
    put_member(draft, id, &invited);
    if let Some(sealed) = &asked.sealed_key {
        let (text, signature) = (&sealed.sealed_key, &sealed.signature);
        let key = checked_key(&room.value, asked.epoch, &owner, endpoint, text, signature)?;
        put_key(draft, id, asked.epoch, endpoint, &key);
    } else if room.value.policy.encrypted {
        return Err(no_sealed_key());
    }
    put_older_keys(&room.value, &owner, asked, draft)?;
    Ok(invited)
}

/// The keys of older epochs: each at most once, and none of an epoch that is not older.
fn put_older_keys(
    room: &RoomRecord,
    owner: &MemberRecord,
    asked: &Invite,
    draft: &mut Draft,
) -> Result<(), Refusal> {
    if !asked.older_keys.is_empty() && room.policy.history != History::Shared {
        return Err(Refusal::bad(
            "older_keys are for rooms whose history is shared",
        ));
    }
    let (mut epochs, to) = (BTreeSet::new(), &asked.member.endpoint);
    for older in &asked.older_keys {
        let epoch = older.epoch;
        if !(1..asked.epoch).contains(&epoch) || !epochs.insert(epoch) {
            return Err(Refusal::bad(format!(
                "older_keys has epoch {epoch}, which is not older than {} or stands twice",
                asked.epoch
            )));
        }
        let (text, signature) = (&older.sealed_key, &older.signature);
        let key = checked_key(room, epoch, owner, to, text, signature)?;
        put_key(draft, &room.id, epoch, to, &key);
    }
    Ok(())
}

/// What is told where a request was made for another epoch than the current one.
pub(super) fn epoch_moved(room: &RoomRecord) -> Refusal {
    let epoch = room.epoch;
    Refusal::conflict(format!("the room's epoch is {epoch} now; look again"))
}

pub(crate) async fn join(mut call: Call<'_>) -> Result<Response<Body>, Refusal> {
    let id: RoomId = call.param(0)?;
    let who = who(&call)?;
    let changed = call
        .change(|records, caller, draft| {
            let endpoint = own_endpoint(caller, who.as_ref())?;
            let found = member(records, &id, &endpoint)?;
            let Some(mut invited) = found.value else {
                return Err(Refusal::forbidden(
                    "you are not invited to this room, or there is no such room",
                ));
            };
            caller.require(NO_MEMBER, |identity| identity.key == invited.sign_pub.0)?;
            find_room(records, &id, NO_MEMBER)?;
            draft.expect(Bucket::Members, &format!("{id}.{endpoint}"), found.revision);
            if invited.joined_at.is_none() {
                invited.joined_at = Some(now());
                put_member(draft, &id, &invited);
            }
            Ok(invited)
        })
        .await?;
    Ok(call.changed(StatusCode::OK, &changed))
}

pub(crate) async fn leave(call: Call<'_>) -> Result<Response<Body>, Refusal> {
    let who = who(&call)?;
    let endpoint = own_endpoint(&call.caller, who.as_ref())?;
    remove_from(call, endpoint).await
}

pub(crate) async fn remove(call: Call<'_>) -> Result<Response<Body>, Refusal> {
    let endpoint: EndpointId = call.param(1)?;
    remove_from(call, endpoint).await
}

async fn remove_from(mut call: Call<'_>, endpoint: EndpointId) -> Result<Response<Body>, Refusal> {
    let id: RoomId = call.param(0)?;
    let changed = call
        .change(|records, caller, draft| plan_remove(records, caller, &id, &endpoint, draft))
        .await?;
    Ok(call.changed(StatusCode::OK, &changed))
}

fn plan_remove(
    records: &Records,
    caller: &Caller,
    id: &RoomId,
    endpoint: &EndpointId,
    draft: &mut Draft,
) -> Result<RoomRecord, Refusal> {
    let is_self = caller
        .identity()
        .is_some_and(|identity| identity.endpoint == *endpoint);
    let mut room = if is_self {
        room_for_member(records, caller, id)?
    } else {
        room_for_owner(records, caller, id)?.0
    };
    if room.value.owner == *endpoint {
        return Err(Refusal::forbidden("the owner can't leave its room"));
    }
    let found = member(records, id, endpoint)?;
    let Some(leaving) = found.value else {
        return Err(Refusal::forbidden("this endpoint is no member"));
    };
    let key = format!("{id}.{endpoint}");
    draft.expect(Bucket::Rooms, id.as_str(), room.revision);
    draft.expect(Bucket::Members, &key, found.revision);
    draft.delete(Bucket::Members, &key);
    draft.delete(Bucket::RoomsByMember, &format!("{endpoint}.{id}"));
    let former = FormerMember {
        member: leaving,
        left_epoch: room.value.epoch,
    };
    draft.put(Bucket::Members, &format!("{key}.{FORMER_PART}"), &former);
    let keys = format!("{id}.*.{endpoint}");
    for (key, _) in records.list::<serde::de::IgnoredAny>(Bucket::RoomKeys, &keys)? {
        draft.delete(Bucket::RoomKeys, &key);
    }
    if room.value.policy.encrypted && !room.value.needs_rekey {
        room.value.needs_rekey = true;
        draft.put(Bucket::Rooms, id.as_str(), &room.value);
    }
    Ok(room.value)
}

fn who(call: &Call<'_>) -> Result<Option<EndpointId>, Refusal> {
    if call.body.bytes == 0 {
        return Ok(None);
    }
    Ok(call.json::<Who>()?.endpoint)
}

/// The caller's endpoint; a stated one must be its own.
fn own_endpoint(caller: &Caller, stated: Option<&EndpointId>) -> Result<EndpointId, Refusal> {
    match (caller.identity(), stated) {
        (Some(identity), None) => Ok(identity.endpoint.clone()),
        (Some(identity), Some(stated)) if identity.endpoint == *stated => Ok(stated.clone()),
        (Some(_), Some(_)) => Err(Refusal::forbidden("the stated endpoint is not yours")),
        (None, Some(stated)) => Ok(stated.clone()),
        (None, None) => Err(Refusal::bad(
            "who are you? sign the request, or state \"endpoint\" in the body",
        )),
    }
}
