//! From membership to subjects: what a room opens for those who belong to it, and nothing else
//! (control-plane.md, From membership to the message plane).

use super::notices::room_notices;

/// What a user with any stream may ask: how the account stands.
pub const SERVICE_INFO_SUBJECT: &str = "$JS.API.INFO";

/// What may be asked about one stream, `{}` being its name: reading and consuming, not changing it.
///
/// Every position is spelled out: a `*` before the stream's name would also match requests about
/// other streams in which the name is a consumer's.
pub const STREAM_USES: [&str; 14] = [
    "$JS.API.STREAM.INFO.{}",
    "$JS.API.STREAM.MSG.GET.{}",
    "$JS.API.DIRECT.GET.{}",
    "$JS.API.DIRECT.GET.{}.>",
    "$JS.API.CONSUMER.CREATE.{}",
    "$JS.API.CONSUMER.CREATE.{}.>",
    "$JS.API.CONSUMER.DURABLE.CREATE.{}.>",
    "$JS.API.CONSUMER.INFO.{}.>",
    "$JS.API.CONSUMER.NAMES.{}",
    "$JS.API.CONSUMER.LIST.{}",
    "$JS.API.CONSUMER.DELETE.{}.>",
    "$JS.API.CONSUMER.MSG.NEXT.{}.>",
    "$JS.ACK.{}.>",
    "$JS.FC.{}.>",
];

/// The stream of a persisted room.
#[must_use]
pub fn room_stream(room: &str) -> String {
    format!("UNIBUS_{room}")
}

/// A room as somebody who belongs to it sees it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct RoomAccess {
    /// Its id.
    pub room: String,
    /// Its subject.
    pub subject: String,
    /// It has a stream.
    pub persisted: bool,
}

impl RoomAccess {
    /// Adds what the room opens. Requests about its stream are published and never subscribed to:
    /// who could would see, and could answer, the other members' requests.
    pub fn open(&self, publish: &mut Vec<String>, subscribe: &mut Vec<String>) {
        publish.push(self.subject.clone());
        subscribe.push(self.subject.clone());
        // A record's key is a room's id, or it opens nothing.
        if let Ok(room) = self.room.parse() {
            subscribe.push(room_notices(&room));
        }
        if self.persisted {
            let stream = room_stream(&self.room);
            let uses = STREAM_USES.iter();
            publish.extend(uses.map(|pattern| pattern.replace("{}", &stream)));
            publish.push(SERVICE_INFO_SUBJECT.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::matches;

    fn opened(persisted: bool) -> (Vec<String>, Vec<String>) {
        let (mut publish, mut subscribe) = (Vec::new(), Vec::new());
        let room = RoomAccess {
            room: "r1".into(),
            subject: "room.one".into(),
            persisted,
        };
        room.open(&mut publish, &mut subscribe);
        (publish, subscribe)
    }

    #[test]
    fn a_room_opens_its_subject_and_its_stream_alone() {
        let (publish, subscribe) = opened(true);
        let may = |subject: &str| {
            let fits = |filter: &String| matches(filter.as_bytes(), subject.as_bytes());
            publish.iter().any(fits)
        };
        for legitimate in [
            "room.one",
            "$JS.API.INFO",
            "$JS.API.STREAM.INFO.UNIBUS_r1",
            "$JS.API.DIRECT.GET.UNIBUS_r1.room.one",
            "$JS.API.CONSUMER.CREATE.UNIBUS_r1.c.room.one",
            "$JS.ACK.UNIBUS_r1.c.1.1.1.1.0",
        ] {
            assert!(may(legitimate), "{legitimate}");
        }
        for foreign in [
            "room.two",
            "room.one.x",
            "$JS.API.STREAM.INFO.UNIBUS_r2",
            "$JS.API.STREAM.DELETE.UNIBUS_r1",
            "$JS.API.STREAM.PURGE.UNIBUS_r1",
            "$JS.API.STREAM.NAMES",
            "$JS.API.CONSUMER.CREATE.UNIBUS_r2.UNIBUS_r1",
            "$JS.API.CONSUMER.DURABLE.CREATE.UNIBUS_r2.UNIBUS_r1",
            "$JS.ACK.UNIBUS_r2.c.1.1.1.1.0",
            "$KV.UNIBUS_rooms.r1",
        ] {
            assert!(!may(foreign), "{foreign}");
        }
        assert_eq!(subscribe, ["room.one", "$UNIBUS.NOTICE.ROOM.r1"]);
    }

    #[test]
    fn an_ephemeral_room_opens_its_subject_only() {
        let (publish, subscribe) = opened(false);
        assert_eq!(publish, ["room.one"]);
        assert_eq!(subscribe, ["room.one", "$UNIBUS.NOTICE.ROOM.r1"]);
    }
}
