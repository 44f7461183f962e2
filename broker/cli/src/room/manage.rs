//! Rooms themselves: making one, listing, looking, and a new key.

use clap::Args;
use serde_json::{Value, json};
use unibus_client::{MyRoom, NewRoom, Session};
use unibus_proto::control::{History, MemberRole, Policy, RoomId, RoomSubject};

use super::room;
use crate::error::Result;
use crate::output;
use crate::session::as_failed;

/// Flags of `room create`.
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// Where its messages are published, e.g. team.kitchen
    subject: RoomSubject,
    /// Its id [default: a random one]
    #[arg(long, value_name = "ID")]
    id: Option<RoomId>,
    /// matrix: encrypted, and kept in a stream; nats: in cleartext (signed), and kept nowhere
    #[arg(long, value_name = "PRESET", default_value = "matrix", value_parser = ["matrix", "nats"])]
    policy: String,
    /// Keep no messages, whatever the preset says
    #[arg(long)]
    ephemeral: bool,
    /// Newcomers may read what was said before they came
    #[arg(long)]
    shared_history: bool,
}

impl CreateArgs {
    fn policy(&self) -> Policy {
        let mut policy = match self.policy.as_str() {
            "nats" => Policy::NATS,
            _ => Policy::MATRIX,
        };
        policy.persisted &= !self.ephemeral;
        if self.shared_history {
            policy.history = History::Shared;
        }
        policy
    }
}

/// Makes a room.
///
/// # Errors
/// Where the id or the subject is taken, or the policy is not allowed there.
pub(super) async fn create(args: &CreateArgs, session: &Session, json: bool) -> Result {
    let mut new = NewRoom::new(args.subject.clone()).policy(args.policy());
    if let Some(id) = &args.id {
        new = new.id(id.clone());
    }
    let id = session.create_room(new).await.map_err(as_failed)?;
    if json {
        return output::json(&record(session, &id).await?);
    }
    output::say(&format!("created room {id} on {}", args.subject))
}

/// A verified room in JSON.
async fn record(session: &Session, room: &RoomId) -> Result<Value> {
    let info = session.room_info(room).await.map_err(as_failed)?;
    let record = &info.record;
    Ok(
        json!({"room": record.id, "subject": record.subject, "policy": record.policy,
        "epoch": record.epoch, "owner": record.owner, "created_at": record.created_at,
        "needs_rekey": record.needs_rekey, "members": info.members.len(),
        "invented": info.invented.len()}),
    )
}

/// How a room treats its messages, in words.
pub(super) fn policy_shown(policy: &Policy) -> String {
    let mut words = vec![match policy.encrypted {
        true => "encrypted",
        false => "cleartext",
    }];
    words.push(match policy.persisted {
        true => "kept",
        false => "not kept",
    });
    if policy.persisted && policy.history == History::Shared {
        words.push("shared history");
    }
    words.join(", ")
}

/// A room of one's own in JSON; what the server says.
pub(super) fn mine_json(room: &MyRoom) -> Value {
    json!({"room": room.id, "subject": room.subject, "policy": room.policy, "epoch": room.epoch,
        "role": room.role, "joined": room.joined, "needs_rekey": room.needs_rekey})
}

/// What one is in a room, in words.
pub(super) fn standing(room: &MyRoom) -> &'static str {
    match (room.role, room.joined) {
        (MemberRole::Owner, _) => "owner",
        (MemberRole::Member, true) => "member",
        (MemberRole::Member, false) => "invited",
    }
}

/// Lists one's rooms and invitations.
///
/// # Errors
/// As every call.
pub(super) async fn list(session: &Session, json: bool) -> Result {
    let rooms = session.list_my_rooms().await.map_err(as_failed)?;
    if json {
        return output::json(&rooms.iter().map(mine_json).collect::<Vec<_>>());
    }
    if rooms.is_empty() {
        output::tell("you belong to no room; see unibus room create --help");
        return Ok(());
    }
    let headings = ["room", "subject", "you are", "policy", "epoch", ""];
    output::table(
        &headings,
        rooms.iter().map(|room| {
            vec![
                room.id.to_string(),
                room.subject.to_string(),
                standing(room).to_owned(),
                policy_shown(&room.policy),
                room.epoch.to_string(),
                if room.needs_rekey { "needs a key" } else { "" }.to_owned(),
            ]
        }),
    )
}

/// Prints what a room is.
///
/// # Errors
/// Where it can't be trusted, and as every call.
pub(super) async fn info(session: &Session, named: &str, json: bool) -> Result {
    let id = room(session, named).await?;
    if json {
        return output::json(&record(session, &id).await?);
    }
    let info = session.room_info(&id).await.map_err(as_failed)?;
    let record = &info.record;
    let invented = match info.invented.len() {
        0 => String::new(),
        count => format!("{count}; see unibus room members {id}"),
    };
    let rekey = match record.needs_rekey {
        true => "needed: somebody has gone (unibus room rekey)",
        false => "",
    };
    output::facts(
        &format!("room {id}"),
        &[
            ("subject", record.subject.to_string()),
            ("policy", policy_shown(&record.policy)),
            ("owner", record.owner.to_string()),
            ("members", info.members.len().to_string()),
            ("made up", invented),
            ("epoch", record.epoch.to_string()),
            ("new key", rekey.to_owned()),
            ("created", record.created_at.clone()),
        ],
    )
}

/// Makes a new key.
///
/// # Errors
/// Where one does not own the room.
pub(super) async fn rekey(session: &Session, named: &str, json: bool) -> Result {
    let id = room(session, named).await?;
    let epoch = session.rekey(&id).await.map_err(as_failed)?;
    if json {
        return output::json(&json!({"room": id, "epoch": epoch}));
    }
    output::say(&format!("room {id} has a new key, of epoch {epoch}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use unibus_proto::control::History;

    use super::{CreateArgs, policy_shown};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CreateArgs,
    }

    #[test]
    fn flags_become_a_policy() {
        for (flags, words) in [
            ("", "encrypted, kept"),
            ("--policy nats", "cleartext, not kept"),
            ("--ephemeral", "encrypted, not kept"),
            ("--shared-history", "encrypted, kept, shared history"),
        ] {
            let line = format!("create a.b {flags}");
            let args = Line::try_parse_from(line.split_whitespace()).unwrap().args;
            assert_eq!(policy_shown(&args.policy()), words);
            let shared = args.policy().history == History::Shared;
            assert_eq!(shared, flags == "--shared-history");
        }
        for bad in ["create a.*", "create $JS.x", "create a --policy x"] {
            assert!(Line::try_parse_from(bad.split(' ')).is_err(), "{bad}");
        }
    }
}
