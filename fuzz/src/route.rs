//! The route protocol: what is read does not depend on how the bytes arrive, and a message that was read
//! is written and read again as the same.

use bytes::{Buf, BytesMut};
use unibus_proto::route::{
    self, OutgoingMessage, RouteDecodeError, RouteLimits, RouteMessage, RouteOp, Written,
};

/// Small, so that the limit is met.
const LIMITS: RouteLimits = RouteLimits {
    frame_bytes_max: 1024,
};

/// All bytes are what a peer sends.
pub fn route_decoder(data: &[u8]) {
    let whole = read(data, data.len().max(1));
    for chunk in [1, 7] {
        assert_eq!(read(data, chunk), whole, "in pieces of {chunk}");
    }
}

/// Operations as text, and how the stream ended.
fn read(data: &[u8], chunk: usize) -> (Vec<String>, Option<RouteDecodeError>) {
    let (mut buffer, mut told) = (BytesMut::new(), Vec::new());
    for piece in data.chunks(chunk) {
        buffer.extend_from_slice(piece);
        loop {
            match route::decode(&buffer, &LIMITS) {
                Err(error) => return (told, Some(error)),
                Ok(None) => break,
                Ok(Some((op, len))) => {
                    assert!(len <= buffer.len() && len >= route::FRAME_HEAD_BYTES);
                    assert_eq!(route::frame_bytes(&buffer), Some(len));
                    told.push(format!("{op:?}"));
                    again(&op, &buffer[..len]);
                    buffer.advance(len);
                }
            }
        }
    }
    (told, None)
}

/// What was read and is written again has the same bytes.
fn again(op: &RouteOp<'_>, frame: &[u8]) {
    let mut out = BytesMut::new();
    match op {
        RouteOp::Interest(change) => route::interest(&mut out, *change),
        // A later version may add to these.
        RouteOp::Hello { .. } | RouteOp::Synced | RouteOp::Ping | RouteOp::Pong => return,
        RouteOp::Renewal | RouteOp::Renewed if frame.len() > route::FRAME_HEAD_BYTES => return,
        RouteOp::Renewal => route::renewal(&mut out),
        RouteOp::Renewed => route::renewed(&mut out),
        RouteOp::Message(message) => {
            write_message(&mut out, message);
            if out[0] != frame[0] {
                // A wide frame whose queue names fit the usual one.
                assert_eq!(route::decode(&out, &LIMITS), Ok(Some((*op, out.len()))));
                return;
            }
        }
        RouteOp::Account { name, frame: inner } => {
            let Ok(name) = std::str::from_utf8(name) else {
                return;
            };
            route::in_account(&mut out, Some(name), |out| out.extend_from_slice(inner));
        }
    }
    assert_eq!(&out[..], frame, "{op:?}");
}

fn write_message(out: &mut BytesMut, message: &RouteMessage<'_>) {
    let outgoing = OutgoingMessage {
        subject: message.subject,
        shown: message.shown,
        reply: message.reply,
        header_len: message.header_len,
        data: message.data,
    };
    let names: Vec<&[u8]> = message.queues.iter().collect();
    let written = route::message(out, &outgoing, names.iter().copied(), || true);
    assert_eq!(written, Written::Whole);
}
