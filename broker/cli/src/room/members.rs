//! Who belongs to a room: inviting, joining, leaving, removing, and the list.

use clap::Args;
use serde_json::json;
use unibus_client::{Identity, Session};
use unibus_proto::control::{EndpointId, Party, RoomId};

use super::room;
use crate::error::{Result, failed};
use crate::output;
use crate::session::{as_failed, invitation};

/// Flags of `room invite`.
#[derive(Args, Debug)]
pub(crate) struct InviteArgs {
    /// The room: its id or its subject
    room: String,
    /// Whom: the contact that unibus identity show prints for them, taken from themselves
    #[arg(required = true, value_name = "CONTACT", value_parser = contact)]
    contacts: Vec<Party>,
}

/// Flags of `room join`.
#[derive(Args, Debug)]
pub(crate) struct JoinArgs {
    /// The room: its id or its subject
    room: String,
    /// Join only where the room's owner is this one: an endpoint or a contact. Who owns a room is
    /// otherwise what the servers say when it is first seen
    #[arg(long, value_name = "WHO", value_parser = endpoint)]
    owner: Option<EndpointId>,
}

/// Flags of `room remove`.
#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    /// The room: its id or its subject
    room: String,
    /// Whom: an endpoint (unibus room members) or a contact
    #[arg(value_name = "WHO", value_parser = endpoint)]
    who: EndpointId,
}

fn contact(text: &str) -> std::result::Result<Party, String> {
    Identity::parse_contact(text).map_err(|_| {
        format!("{text:?} is no contact; wanted what unibus identity show prints: unibus-contact:…")
    })
}

/// Somebody's endpoint: as such, or in a contact.
pub(crate) fn endpoint(text: &str) -> std::result::Result<EndpointId, String> {
    let endpoint = text.parse().ok();
    let found = endpoint.or_else(|| Some(Identity::parse_contact(text).ok()?.endpoint));
    found.ok_or_else(|| format!("{text:?} is no endpoint (32 hex digits) and no contact"))
}

/// Lists a room's members.
///
/// # Errors
/// Where the room can't be trusted, and as every call.
pub(super) async fn list(session: &Session, named: &str, json: bool) -> Result {
    let id = room(session, named).await?;
    let info = session.room_info(&id).await.map_err(as_failed)?;
    let me = session.identity().endpoint();
    if json {
        let members = info.members.iter().map(|member| {
            json!({"endpoint": member.party.endpoint, "sign_pub": member.party.sign_pub,
                "kex_pub": member.party.kex_pub, "role": member.role, "joined": member.joined,
                "you": member.party.endpoint == *me, "verified": true})
        });
        let invented = info.invented.iter().map(|one| {
            json!({"endpoint": one.endpoint, "verified": false, "reason": one.reason.to_string()})
        });
        return output::json(&members.chain(invented).collect::<Vec<_>>());
    }
    output::table(
        &["endpoint", "role", "", "nkey"],
        info.members.iter().map(|member| {
            let state = match (member.joined, member.party.endpoint == *me) {
                (_, true) => "you",
                (false, _) => "invited",
                _ => "",
            };
            vec![
                member.party.endpoint.to_string(),
                member.role.as_str().to_owned(),
                state.to_owned(),
                member.party.sign_pub.0.to_nkey(),
            ]
        }),
    )?;
    for one in &info.invented {
        output::tell(&format!(
            "unibus: the servers call {} a member, which it is not: {}; it gets no key",
            one.endpoint, one.reason
        ));
    }
    Ok(())
}

/// Lets people in.
///
/// # Errors
/// Where one does not own the room, or somebody is a member already; who comes after them is not invited.
pub(super) async fn invite(args: &InviteArgs, session: &Session, json: bool) -> Result {
    let id = room(session, &args.room).await?;
    super::ready_to_speak(session, &id).await?;
    for guest in &args.contacts {
        session.invite(&id, guest).await.map_err(as_failed)?;
        let endpoint = &guest.endpoint;
        match json {
            true => output::json_line(&json!({"room": id, "invited": endpoint}))?,
            false => output::say(&format!("invited {endpoint} to room {id}"))?,
        }
    }
    Ok(())
}

/// Accepts an invitation.
///
/// # Errors
/// Where there is none, the room can't be trusted, or its owner is not who was expected.
pub(super) async fn join(args: &JoinArgs, session: &Session, json: bool) -> Result {
    let id = invitation(session, &args.room).await?;
    let owner = accept(session, &id, args.owner.as_slice()).await?;
    if json {
        return output::json(&json!({"room": id, "owner": owner}));
    }
    output::say(&format!("joined room {id}; its owner is {owner}"))
}

/// Joins a room, if its owner is one of those who are expected (none: anybody); answers with the owner.
///
/// # Errors
/// As [`join`].
pub(crate) async fn accept(
    session: &Session,
    room: &RoomId,
    expected: &[EndpointId],
) -> Result<EndpointId> {
    let info = session.room_info(room).await.map_err(as_failed)?;
    let owner = info.record.owner;
    if !expected.is_empty() && !expected.contains(&owner) {
        return failed(format!(
            "the owner of room {room} is {owner} and not who you expect: it was not joined"
        ));
    }
    session.join(room).await.map_err(as_failed)?;
    Ok(owner)
}

/// Leaves a room.
///
/// # Errors
/// Where one owns it.
pub(super) async fn leave(session: &Session, named: &str, json: bool) -> Result {
    let id = room(session, named).await?;
    session.leave(&id).await.map_err(as_failed)?;
    if json {
        return output::json(&json!({"room": id, "left": true}));
    }
    output::say(&format!("left room {id}"))
}

/// Removes somebody.
///
/// # Errors
/// Where one does not own the room, or they are no member.
pub(super) async fn remove(args: &RemoveArgs, session: &Session, json: bool) -> Result {
    let id = room(session, &args.room).await?;
    session.remove(&id, &args.who).await.map_err(as_failed)?;
    let info = session.room_info(&id).await.map_err(as_failed)?;
    let (who, epoch) = (&args.who, info.record.epoch);
    if json {
        return output::json(&json!({"room": id, "removed": who, "epoch": epoch}));
    }
    let key = match info.record.policy.encrypted {
        true => format!("; its new key is of epoch {epoch}"),
        false => String::new(),
    };
    output::say(&format!("removed {who} from room {id}{key}"))
}

#[cfg(test)]
mod tests {
    use unibus_client::Identity;

    use super::{contact, endpoint};

    #[test]
    fn people_are_named_by_contact_or_endpoint() {
        let me = Identity::generate().unwrap();
        assert_eq!(contact(&me.contact()).unwrap(), *me.party());
        assert_eq!(endpoint(&me.contact()).unwrap(), *me.endpoint());
        assert_eq!(endpoint(me.endpoint().as_str()).unwrap(), *me.endpoint());
        // An endpoint names keys, and does not hold them.
        for bad in [me.endpoint().as_str(), &me.nkey(), "", "unibus-contact:00"] {
            assert!(contact(bad).is_err(), "{bad}");
        }
        assert!(endpoint(&me.nkey()).is_err());
    }
}
