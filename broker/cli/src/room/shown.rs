//! How what happens in a room is printed: a line for people, a record for programs. Pure.

use serde_json::{Value, json};
use time::OffsetDateTime;
use unibus_client::rooms::blob::BlobRef;
use unibus_client::{Event, MembershipChange, Message, RoomsChange};

use super::manage::{mine_json, standing};
use crate::messages::payload_json;
use crate::text;

/// When a frame was sent, by its sender's clock.
fn sent_at(message: &Message) -> Option<OffsetDateTime> {
    let nanos = i128::from(message.header.sent_ms) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()
}

/// An event as one record: `event` says what it is. A file's `reference` holds its key.
pub(crate) fn event_json(event: &Event) -> Value {
    match event {
        Event::Message(message) => frame_json("message", message, true),
        Event::Other(message) => frame_json("other", message, true),
        Event::Reaction {
            to,
            reaction,
            message,
        } => {
            let mut record = frame_json("reaction", message, false);
            record["reply_to"] = to.to_string().into();
            record["reaction"] = reaction.as_str().into();
            record
        }
        Event::File { file, message } => {
            let mut record = frame_json("file", message, false);
            record["file"] = file_json(file);
            record
        }
        Event::Membership(change) => membership_json(change),
        Event::Undecryptable(frame) => {
            let mut record = json!({"event": "undecryptable", "seq": frame.seq,
                "reason": frame.reason.to_string()});
            if let Some(claims) = &frame.claims {
                record["claims"] = json!({"id": claims.id.to_string(), "from": claims.from,
                    "epoch": claims.epoch, "kind": claims.kind.as_str()});
            }
            record
        }
        Event::CaughtUp => json!({"event": "caught_up"}),
        Event::Gone { words } => json!({"event": "gone", "words": words}),
        _ => json!({"event": "unknown"}),
    }
}

fn frame_json(event: &str, message: &Message, payload: bool) -> Value {
    let header = &message.header;
    let mut record = json!({"event": event, "room": header.room, "id": header.id.to_string(),
        "seq": message.seq, "from": header.from, "kind": header.kind.as_str(),
        "epoch": header.epoch, "time": sent_at(message).map(text::rfc3339)});
    if let Some(root) = header.thread {
        record["thread"] = root.to_string().into();
    }
    if let Some(to) = header.reply_to {
        record["reply_to"] = to.to_string().into();
    }
    if payload {
        payload_json(&mut record, &message.payload);
    }
    record
}

/// A file's reference in JSON; `reference` is secret.
pub(crate) fn file_json(file: &BlobRef) -> Value {
    json!({"name": file.name, "size": file.size, "media_type": file.media_type,
        "hash": file.hash.to_string(), "reference": file.to_text()})
}

fn membership_json(change: &MembershipChange) -> Value {
    let record = |change: &str| json!({"event": "membership", "change": change});
    let about = |change: &str, endpoint: &str| {
        let mut record = record(change);
        record["endpoint"] = endpoint.into();
        record
    };
    match change {
        MembershipChange::Invited(endpoint) => about("invited", endpoint.as_str()),
        MembershipChange::Joined(endpoint) => about("joined", endpoint.as_str()),
        MembershipChange::Left(endpoint) => about("left", endpoint.as_str()),
        MembershipChange::Rekeyed { epoch } => {
            let mut record = record("rekeyed");
            record["epoch"] = (*epoch).into();
            record
        }
        MembershipChange::NeedsRekey => record("needs_rekey"),
        MembershipChange::Invented { endpoint, reason } => {
            let mut record = about("invented", endpoint.as_str());
            record["reason"] = reason.to_string().into();
            record
        }
        MembershipChange::Untrusted(error) => {
            let mut record = record("untrusted");
            record["reason"] = error.to_string().into();
            record
        }
        _ => record("unknown"),
    }
}

/// An event for people; `None` where there is nothing to tell them.
pub(crate) fn event_line(event: &Event) -> Option<String> {
    Some(match event {
        Event::Message(message) => {
            let shown = text::payload_shown(&message.payload);
            frame_line(message, &shown)
        }
        Event::Other(message) => {
            let shown = text::payload_shown(&message.payload);
            frame_line(message, &format!("({}) {shown}", message.kind()))
        }
        Event::Reaction {
            to,
            reaction,
            message,
        } => {
            let shown = text::harmless(reaction);
            frame_line(message, &format!("reacts to {to}: {shown}"))
        }
        Event::File { file, message } => frame_line(message, &file_shown(file)),
        Event::Membership(change) => format!("-- {}", membership_shown(change)),
        Event::Undecryptable(frame) => {
            let from = match &frame.claims {
                Some(claims) => format!(" that says it is from {}", claims.from),
                None => String::new(),
            };
            format!("-- a frame{from} can't be read: {}", frame.reason)
        }
        Event::Gone { words } => {
            format!("-- you are no member any more: {}", text::harmless(words))
        }
        _ => return None,
    })
}

fn frame_line(message: &Message, shown: &str) -> String {
    let at = sent_at(message).map_or_else(String::new, text::moment_shown);
    let header = &message.header;
    let reply = match (&header.reply_to, header.kind.as_str()) {
        (Some(to), "MSG") => format!(" (replies to {to})"),
        _ => String::new(),
    };
    format!("{at}  {}  {}{reply}: {shown}", header.id, header.from)
}

/// A file for people, without its key.
pub(crate) fn file_shown(file: &BlobRef) -> String {
    let name = file.name.as_deref().unwrap_or("(no name)");
    let size = text::size_shown(file.size);
    let mut shown = format!("shares {}, {size}", text::harmless(name));
    if let Some(media_type) = &file.media_type {
        shown.push_str(&format!(", {}", text::harmless(media_type)));
    }
    shown
}

fn membership_shown(change: &MembershipChange) -> String {
    match change {
        MembershipChange::Invited(endpoint) => format!("{endpoint} was invited"),
        MembershipChange::Joined(endpoint) => format!("{endpoint} has joined"),
        MembershipChange::Left(endpoint) => format!("{endpoint} has gone"),
        MembershipChange::Rekeyed { epoch } => format!("the room has a new key, of epoch {epoch}"),
        MembershipChange::NeedsRekey => "the room needs a new key from its owner".to_owned(),
        MembershipChange::Invented { endpoint, reason } => format!(
            "the servers call {endpoint} a member, which it is not: {reason}; it gets no key"
        ),
        MembershipChange::Untrusted(error) => {
            format!("what the servers say about the room is not trusted: {error}")
        }
        other => format!("{other:?}"),
    }
}

/// A change of one's rooms as one record.
pub(super) fn rooms_change_json(change: &RoomsChange) -> Value {
    let with = |change: &str, mut room: Value| {
        room["change"] = change.into();
        room
    };
    match change {
        RoomsChange::Added(room) => with("added", mine_json(room)),
        RoomsChange::Changed(room) => with("changed", mine_json(room)),
        RoomsChange::Removed(id) => with("removed", json!({"room": id})),
        _ => json!({"change": "unknown"}),
    }
}

/// A change of one's rooms for people.
pub(super) fn rooms_change_line(change: &RoomsChange) -> String {
    match change {
        RoomsChange::Added(room) if !room.joined => format!(
            "{} on {}: you are invited (unibus room join {})",
            room.id, room.subject, room.id
        ),
        RoomsChange::Added(room) => {
            format!(
                "{} on {}: you are {}",
                room.id,
                room.subject,
                standing(room)
            )
        }
        RoomsChange::Changed(room) => format!(
            "{} on {}: you are {}, epoch {}{}",
            room.id,
            room.subject,
            standing(room),
            room.epoch,
            if room.needs_rekey {
                ", it needs a new key"
            } else {
                ""
            }
        ),
        RoomsChange::Removed(id) => format!("{id}: you are no member any more"),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use unibus_client::rooms::frame::{FrameId, FrameKind, Header};
    use unibus_client::{Event, Identity, Message};

    use super::{event_json, event_line};

    fn message(payload: &[u8]) -> Message {
        let me = Identity::from_secrets([1; 32], [2; 32]).unwrap();
        Message {
            header: Header {
                id: FrameId::new(1000, [3; 10]),
                room: "r1".parse().unwrap(),
                epoch: 2,
                from: me.endpoint().clone(),
                kind: FrameKind::message(),
                sent_ms: 1_700_000_000_000,
                thread: None,
                reply_to: Some(FrameId::new(1, [4; 10])),
            },
            payload: payload.to_vec().into(),
            seq: Some(7),
            stored_ms: None,
        }
    }

    #[test]
    fn a_message_is_a_record_and_a_line_that_steers_no_terminal() {
        let event = Event::Message(message(b"tea \x1b[2J"));
        let record = event_json(&event);
        assert_eq!(record["event"], "message");
        assert_eq!(record["payload"], "tea \u{1b}[2J");
        assert_eq!((&record["seq"], &record["epoch"]), (&7.into(), &2.into()));
        assert_eq!(record["time"], "2023-11-14T22:13:20Z");
        assert!(record["reply_to"].is_string() && record.get("thread").is_none());
        let line = event_line(&event).unwrap();
        assert!(
            line.contains("tea \\u{1b}[2J") && !line.contains('\u{1b}'),
            "{line}"
        );
        let binary = event_json(&Event::Message(message(&[0xff, 0])));
        assert_eq!(binary["payload_base64"], "/wA=");
    }
}
