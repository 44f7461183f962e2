//! Entry points for fuzzers: what nodes say to the leader about consumers, and archives of streams that
//! clients send. A panic is a find.

use bytes::{Bytes, BytesMut};
use unibus_proto::jetstream::consumer::ConsumerConfig;
use unibus_state::Position;
use unibus_state::command::RestoredConsumer;

use super::archive::{self, Item};
use super::inputs::{Inputs, Verdict, put, whole_prefix};
use super::leader::ToLeader;

/// Reads any bytes as a frame for the leader, as a batch of inputs and as its verdict.
///
/// # Panics
/// When something that was read is not written again as the same.
pub fn leader_frames(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(frame) = ToLeader::decode(&bytes) {
        assert_eq!(frame.encode(), bytes);
    }
    if let Ok(verdict) = Verdict::decode(bytes.clone()) {
        assert_eq!(verdict.encode(), bytes);
    }
    let mut again = BytesMut::new();
    for input in Inputs::new(&bytes) {
        let Ok(input) = input else { return };
        let written = put(
            &mut again,
            input.kind,
            input.subject,
            input.reply,
            input.body,
        );
        assert!(written.is_ok(), "an input that was read is too large");
    }
    assert_eq!(
        again, bytes,
        "inputs are written otherwise than they were read"
    );
    assert!(whole_prefix(&bytes, usize::MAX) == bytes.len());
}

/// Reads any bytes as an archive, as an unpacked one, or as a consumer's position: the first byte chooses.
/// Messages come in ascending order and none below the first that is wanted.
///
/// # Panics
/// When they do not.
pub fn stream_archive(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else {
        return;
    };
    let first_seq = u64::from(kind / 3);
    let mut before = None;
    let mut look = |item| {
        if let Item::Messages { messages, .. } = item {
            for message in messages {
                assert!(message.seq >= first_seq && Some(message.seq) > before);
                before = Some(message.seq);
            }
        }
        Ok(())
    };
    match kind % 3 {
        0 => drop(archive::read(body, first_seq, &mut look)),
        1 => drop(archive::read_unpacked(body, first_seq, &mut look)),
        _ => {
            let mut consumer = RestoredConsumer {
                config: ConsumerConfig::default(),
                created_ns: 0,
                delivered: Position::default(),
                ack_floor: Position::default(),
                pending: Vec::new(),
            };
            archive::decode_consumer_state(body, &mut consumer);
        }
    }
}
