//! Entry points for fuzzers, also replayed as ordinary tests: arbitrary bytes in, a panic is a find.

use bytes::Bytes;
use unibus_proto::jetstream::config::StreamConfig;

use crate::batch::{CommandBatch, EncodedBatch, decode_entry, encode_entry};
use crate::command::{Command, MessageDelete, StreamPurge, StreamPut};
use crate::location::NullSink;
use crate::outcome::decode_outcomes;
use crate::record::StoredMessage;
use crate::rows::RowOp;
use crate::state::State;

const HEADERS: [&[u8]; 6] = [
    b"",
    b"NATS/1.0\r\nNats-Msg-Id: a\r\n\r\n",
    b"NATS/1.0\r\nNats-Rollup: sub\r\n\r\n",
    b"NATS/1.0\r\nNats-Expected-Last-Sequence: 3\r\n\r\n",
    b"NATS/1.0\r\nNats-TTL: 1s\r\n\r\n",
    b"NATS/1.0 100 X\r\nNats-Expected-Last-Subject-Sequence: 0\r\n\r\n",
];

/// Decodes `data` as everything that can arrive in bytes, then drives two replicas with commands made
/// from it and compares them, one of them going through a checkpoint half way.
///
/// # Panics
/// When replicas that applied the same entries differ.
pub fn state_machine(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let _ = decode_outcomes(data);
    let _ = StoredMessage::decode(bytes.clone());
    let mut one = State::new();
    let mut other = State::new();
    if let Ok(entry) = decode_entry(&bytes) {
        one.apply(1, &entry, &mut NullSink);
        other.apply(1, &entry, &mut NullSink);
    }
    let mut framed = CommandBatch::new();
    let _ = framed.push(&setup());
    let mut index = 1;
    for (at, op) in data.chunks(4).enumerate() {
        let batch = std::mem::take(&mut framed);
        for parts in [batch.freeze(), command_of(op)] {
            index += 1;
            let Ok(entry) = decode_entry(&encode_entry(index * 100_000_000, &[parts])) else {
                return;
            };
            let a = one.apply(index, &entry, &mut NullSink);
            let b = other.apply(index, &entry, &mut NullSink);
            assert_eq!(a, b, "replicas answer differently");
        }
        if at % 16 == 7 {
            other = reloaded(&mut other);
        }
    }
    assert_eq!(one.digest(), other.digest(), "replicas differ");
}

fn setup() -> Command {
    Command::StreamCreate(StreamPut {
        config: StreamConfig {
            name: "F".into(),
            subjects: vec!["f.>".into()],
            max_msgs_per_subject: 3,
            max_msgs: 20,
            max_age: 5_000_000_000,
            allow_rollup_hdrs: true,
            allow_msg_ttl: true,
            ..StreamConfig::default()
        },
        privileged: false,
        replicas_max: 1,
        pedantic: false,
    })
}

fn command_of(op: &[u8]) -> EncodedBatch {
    let byte = |at: usize| op.get(at).copied().unwrap_or_default();
    let mut batch = CommandBatch::new();
    let pushed = match byte(0) % 8 {
        0 => batch.push(&Command::Tick),
        1 => batch.push(&Command::MessageDelete(MessageDelete {
            stream: "F".into(),
            seq: u64::from(byte(1)),
            no_erase: true,
            privileged: false,
        })),
        2 => batch.push(&Command::StreamPurge(StreamPurge {
            name: "F".into(),
            filter: if byte(1) % 2 == 0 {
                String::new()
            } else {
                format!("f.{}", byte(2) % 4)
            },
            seq: u64::from(byte(3)),
            keep: 0,
            privileged: false,
        })),
        _ => {
            let header = HEADERS[usize::from(byte(1)) % HEADERS.len()];
            let data = [header, op].concat();
            let subject = format!("f.{}", byte(2) % 8);
            batch.push_append(subject.as_bytes(), header.len(), &data, false)
        }
    };
    debug_assert!(pushed.is_ok(), "these commands always fit");
    batch.freeze()
}

fn reloaded(state: &mut State) -> State {
    let mut rows = Vec::new();
    state.dump_rows(true, &mut |op| {
        if let RowOp::Put { key, value } = op {
            rows.push((key, value));
        }
    });
    let loaded = State::load_rows(rows.into_iter());
    assert!(loaded.is_ok(), "a dump does not load");
    loaded.unwrap_or_default()
}
