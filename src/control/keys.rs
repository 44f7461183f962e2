//! Sealed room keys: `POST /rooms/{id}/rekey` (exactly one of two concurrent ones wins),
//! `GET /rooms/{id}/key` and, for the owner, `GET /rooms/{id}/keys`. The node can open none of them.

use std::collections::HashMap;

use hyper::{Response, StatusCode};
use unibus_proto::control::{
    EndpointId, KeyReply, Rekey, RoomId, RoomRecord, SealedFor, SealedKeyRecord,
};

use super::buckets::Bucket;
use super::caller::Caller;
use super::members::{MEMBERS_MAX, epoch_moved, members};
use super::plane::Call;
use super::records::{Draft, Entry, Records};
use super::refusal::Refusal;
use super::reply::{Body, json};
use super::rooms::{checked_key, put_key, room_for_member, room_for_owner};

/// How many epochs a rekey may skip. An owner's client goes past those that it has signed keys for once and
/// does not know what became of; more than that is a mistake that would use up a room's epochs.
const EPOCHS_SKIPPED_MAX: u64 = 1 << 20;

pub(crate) async fn rekey(mut call: Call<'_>) -> Result<Response<Body>, Refusal> {
    let id: RoomId = call.param(0)?;
    let asked: Rekey = call.json()?;
    let changed = call
        .change(|records, caller, draft| plan_rekey(records, caller, &id, &asked, draft))
        .await?;
    Ok(call.changed(StatusCode::OK, &changed))
}

fn plan_rekey(
    records: &Records,
    caller: &Caller,
    id: &RoomId,
    asked: &Rekey,
    draft: &mut Draft,
) -> Result<RoomRecord, Refusal> {
    let (mut room, owner) = room_for_owner(records, caller, id)?;
    if asked.epoch <= room.value.epoch {
        return Err(epoch_moved(&room.value));
    }
    if asked.epoch - room.value.epoch > EPOCHS_SKIPPED_MAX {
        return Err(Refusal::bad(format!(
            "epoch {} is more than {EPOCHS_SKIPPED_MAX} after the room's, which is {}",
            asked.epoch, room.value.epoch
        )));
    }
    let mut keys = by_endpoint(&asked.keys)?;
    // Read before the members: whoever comes or goes in between fails the expectation.
    let pattern = format!("{id}.*");
    let members_revision = records.revision_of(Bucket::Members, &pattern)?;
    draft.expect(Bucket::Rooms, id.as_str(), room.revision);
    draft.expect(Bucket::Members, &pattern, members_revision);
    for member in members(records, id)? {
        let to = &member.endpoint;
        let Some(sealed) = keys.remove(to) else {
            return Err(Refusal::conflict(format!(
                "the key for member {to} is missing: a rekey has one for everybody"
            )));
        };
        let (text, signature) = (&sealed.sealed_key, &sealed.signature);
        let key = checked_key(&room.value, asked.epoch, &owner, to, text, signature)?;
        put_key(draft, id, asked.epoch, to, &key);
    }
    if let Some(stranger) = keys.keys().next() {
        return Err(Refusal::conflict(format!(
            "{stranger} is no member (any more): nobody else gets a key"
        )));
    }
    room.value.epoch = asked.epoch;
    room.value.needs_rekey = false;
    draft.put(Bucket::Rooms, id.as_str(), &room.value);
    Ok(room.value)
}

fn by_endpoint(keys: &[SealedFor]) -> Result<HashMap<&EndpointId, &SealedFor>, Refusal> {
    if keys.len() > MEMBERS_MAX {
        return Err(Refusal::bad("there are more keys than a room has members"));
    }
    let map: HashMap<_, _> = keys.iter().map(|key| (&key.endpoint, key)).collect();
    if map.len() == keys.len() {
        Ok(map)
    } else {
        Err(Refusal::bad("two keys are for the same endpoint"))
    }
}

pub(crate) async fn show(mut call: Call<'_>) -> Result<Response<Body>, Refusal> {
    let id: RoomId = call.param(0)?;
    let endpoint = call
        .query("endpoint")
        .ok_or_else(|| Refusal::bad("wanted ?endpoint=, and maybe &epoch="))?;
    let endpoint: EndpointId = endpoint.parse()?;
    let epoch = epoch(&call)?;
    let key = call
        .read(|records, caller| look(records, caller, &id, endpoint, epoch))
        .await?;
    Ok(json(StatusCode::OK, &key))
}

fn look(
    records: &Records,
    caller: &Caller,
    id: &RoomId,
    endpoint: EndpointId,
    epoch: Option<u64>,
) -> Result<KeyReply, Refusal> {
    caller.require(
        "only the endpoint itself can see its sealed key",
        |identity| identity.endpoint == endpoint,
    )?;
    let room = room_for_member(records, caller, id)?.value;
    let epoch = epoch.unwrap_or(room.epoch);
    let key = format!("{id}.{epoch}.{endpoint}");
    let found: Entry<SealedKeyRecord> = records.get(Bucket::RoomKeys, &key)?;
    match found.value {
        Some(key) => Ok(KeyReply {
            room_id: room.id,
            epoch,
            endpoint,
            key,
        }),
        None => Err(Refusal::forbidden(format!(
            "there is no key of epoch {epoch} for this endpoint"
        ))),
    }
}

/// The epoch that is asked for; none: the current one.
fn epoch(call: &Call<'_>) -> Result<Option<u64>, Refusal> {
    let number = call.query("epoch").map(str::parse::<u64>).transpose();
    number.map_err(|_| Refusal::bad("an epoch is a number"))
}

/// Whom the owner has given the key of an epoch, with the owner's signatures: what its client holds the
/// list of members against before it seals the next one.
pub(crate) async fn list(mut call: Call<'_>) -> Result<Response<Body>, Refusal> {
    let id: RoomId = call.param(0)?;
    let epoch = epoch(&call)?;
    let keys = call
        .read(|records, caller| look_at_all(records, caller, &id, epoch))
        .await?;
    Ok(json(StatusCode::OK, &keys))
}

fn look_at_all(
    records: &Records,
    caller: &Caller,
    id: &RoomId,
    epoch: Option<u64>,
) -> Result<Vec<KeyReply>, Refusal> {
    let (room, _) = room_for_owner(records, caller, id)?;
    let epoch = epoch.unwrap_or(room.value.epoch);
    let listed = records.list::<SealedKeyRecord>(Bucket::RoomKeys, &format!("{id}.{epoch}.*"))?;
    let reply = |(name, key): (String, SealedKeyRecord)| {
        // A record that is not named as such is nobody's.
        let endpoint = name.rsplit('.').next()?.parse().ok()?;
        Some(KeyReply {
            room_id: id.clone(),
            epoch,
            endpoint,
            key,
        })
    };
    Ok(listed.into_iter().filter_map(reply).collect())
}
