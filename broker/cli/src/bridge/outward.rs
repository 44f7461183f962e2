//! What of a room goes out to plain subjects, and the headers that say where it is from. Pure.

use async_nats::HeaderMap;
use bytes::Bytes;
use time::OffsetDateTime;
use unibus_client::Event;
use unibus_proto::control::EndpointId;

use crate::room::file_shown;
use crate::text;

/// Says that a message came out of a room: such a message never goes into one.
pub(super) const ROOM_HEADER: &str = "Unibus-Room";

/// The headers and the payload of an event that goes out; `None` for what is no speech, and for what
/// the bridge said itself.
pub(super) fn outward(event: &Event, me: &EndpointId) -> Option<(HeaderMap, Bytes)> {
    let message = event.message()?;
    let header = &message.header;
    if header.from == *me {
        return None;
    }
    let payload = match event {
        // A file's reference holds its key, which stays in the room.
        Event::File { file, .. } => file_shown(file).into(),
        _ => Bytes::copy_from_slice(&message.payload),
    };
    let mut headers = HeaderMap::new();
    let id = header.id.to_string();
    headers.insert("Nats-Msg-Id", id.as_str());
    headers.insert("Unibus-Id", id.as_str());
    headers.insert(ROOM_HEADER, header.room.as_str());
    headers.insert("Unibus-From", header.from.as_str());
    headers.insert("Unibus-Kind", header.kind.as_str());
    let nanos = i128::from(header.sent_ms) * 1_000_000;
    if let Ok(sent) = OffsetDateTime::from_unix_timestamp_nanos(nanos) {
        headers.insert("Unibus-Time", text::rfc3339(sent));
    }
    if let Some(seq) = message.seq {
        headers.insert("Unibus-Seq", seq.to_string());
    }
    if let Some(root) = header.thread {
        headers.insert("Unibus-Thread", root.to_string());
    }
    if let Some(to) = header.reply_to {
        headers.insert("Unibus-Reply-To", to.to_string());
    }
    Some((headers, payload))
}

#[cfg(test)]
mod tests {
    use unibus_client::rooms::blob::{BlobHash, BlobKey, BlobRef};
    use unibus_client::rooms::frame::{FrameId, FrameKind, Header};
    use unibus_client::{Event, Identity, Message};

    use super::outward;

    #[test]
    fn others_go_out_with_their_name_and_files_without_their_key() {
        let [me, other] = [1, 2].map(|at| Identity::from_secrets([at; 32], [at; 32]).unwrap());
        let file = BlobRef {
            hash: BlobHash([1; 32]),
            key: BlobKey::from_bytes([0xab; 32]),
            size: 2048,
            name: Some("cat.png".into()),
            media_type: None,
        };
        let message = |from: &Identity| Message {
            header: Header {
                id: FrameId::new(1, [1; 10]),
                room: "r1".parse().unwrap(),
                epoch: 1,
                from: from.endpoint().clone(),
                kind: FrameKind::file(),
                sent_ms: 1000,
                thread: None,
                reply_to: None,
            },
            payload: file.encode().into(),
            seq: Some(4),
            stored_ms: None,
        };
        let event = |from| Event::File {
            file: file.clone(),
            message: message(from),
        };
        assert!(outward(&event(&me), me.endpoint()).is_none());
        assert!(outward(&Event::CaughtUp, me.endpoint()).is_none());
        let (headers, payload) = outward(&event(&other), me.endpoint()).unwrap();
        assert_eq!(payload, "shares cat.png, 2.0 KiB");
        let header = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
        assert_eq!(
            header("Unibus-From").as_deref(),
            Some(other.endpoint().as_str())
        );
        assert_eq!(header("Unibus-Seq").as_deref(), Some("4"));
        assert_eq!(
            header("Unibus-Time").as_deref(),
            Some("1970-01-01T00:00:01Z")
        );
        assert_eq!(header("Unibus-Thread"), None);
    }
}
