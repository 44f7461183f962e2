//! Entry points for fuzzers, also replayed as ordinary tests: arbitrary bytes in, a panic is a find.

use bytes::Bytes;
use unibus_proto::jetstream::ack::{AckKind, AckTokens};
use unibus_proto::jetstream::api::ConsumerAction;
use unibus_proto::jetstream::config::{Retention, StreamConfig};
use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig};
use unibus_proto::jetstream::pull::PullRequest;

use crate::batch::{CommandBatch, EncodedBatch, decode_entry, encode_entry};
use crate::command::{
    Command, ConsumerCreate, ConsumerDelete, ConsumerReset, MessageDelete, StreamPurge, StreamPut,
};
use crate::cursor::ConsumerCursor;
use crate::delivery::{Delivery, Poll};
use crate::location::NullSink;
use crate::outcome::decode_outcomes;
use crate::record::StoredMessage;
use crate::rows::RowOp;
use crate::rules::Rules;
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
    if data.first().is_some_and(|byte| byte.is_multiple_of(2)) {
        let _ = framed.push(&Command::Rules(Rules::NEWEST));
    }
    for command in setup() {
        let _ = framed.push(&command);
    }
    let mut index = 1;
    for (at, op) in data.chunks(4).enumerate() {
        let batch = std::mem::take(&mut framed);
        for parts in [batch.freeze(), command_of(op), served(&one, op, index)] {
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

/// Streams of all retentions.
const STREAMS: [(&str, &str, Retention); 3] = [
    ("F", "f", Retention::Limits),
    ("W", "w", Retention::Workqueue),
    ("I", "i", Retention::Interest),
];

fn setup() -> Vec<Command> {
    let stream = |(name, prefix, retention): (&str, &str, Retention)| {
        Command::StreamCreate(StreamPut {
            config: StreamConfig {
                name: name.into(),
                subjects: vec![format!("{prefix}.>")],
                retention,
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
    };
    STREAMS.into_iter().map(stream).collect()
}

fn consumer(stream: &str, prefix: &str, kind: u8) -> Command {
    let by_flow = kind >> 2 & 3 == 3;
    let filter = |at: u8| format!("{prefix}.{}", at % 8);
    Command::ConsumerCreate(ConsumerCreate {
        stream: stream.into(),
        config: ConsumerConfig {
            name: format!("c{}", kind % 3),
            ack_policy: match kind >> 2 & 3 {
                0 => AckPolicy::None,
                1 => AckPolicy::All,
                2 => AckPolicy::Explicit,
                _ => AckPolicy::FlowControl,
            },
            deliver_subject: if by_flow { "to".into() } else { String::new() },
            sourcing: by_flow && kind & 3 == 3,
            filter_subjects: if kind & 16 == 0 {
                Vec::new()
            } else {
                vec![filter(kind), filter(kind.wrapping_add(1))]
            },
            max_deliver: i64::from(kind >> 6),
            max_ack_pending: i64::from(kind >> 5 & 3),
            ..ConsumerConfig::default()
        },
        action: ConsumerAction::CreateOrUpdate,
        generated_name: String::new(),
        privileged: false,
    })
}

/// What a leader that has just taken over would report after serving one consumer for a moment.
fn served(state: &State, op: &[u8], index: u64) -> EncodedBatch {
    let byte = |at: usize| op.get(at).copied().unwrap_or_default();
    let (name, ..) = STREAMS[usize::from(byte(1)) % STREAMS.len()];
    let consumer = format!("c{}", byte(2) % 3);
    let held = state
        .stream(name)
        .and_then(|stream| Some((stream, stream.consumer(&consumer)?)));
    let mut batch = CommandBatch::new();
    if let Some((stream, consumer)) = held {
        let now_ns = index * 1_000_000_000;
        let mut cursor = ConsumerCursor::new(stream, consumer, now_ns);
        let request = PullRequest {
            batch: i64::from(byte(3) % 8),
            ..PullRequest::default()
        };
        let _ = cursor.handle_pull(stream, &request, Bytes::from_static(b"r"), now_ns);
        for _ in 0..64 {
            match cursor.poll(stream, now_ns) {
                Poll::Deliver(delivery) => settle(&mut cursor, &delivery, op, now_ns),
                Poll::Idle { .. } => break,
                _ => {}
            }
        }
        let floor = cursor.ledger().ack_floor();
        let first = cursor.ledger().pending().keys().next();
        assert!(first.is_none_or(|first| floor.stream_seq < *first));
        if let Some(update) = cursor.take_changes() {
            let pushed = batch.push(&Command::ConsumerUpdate(update));
            debug_assert!(pushed.is_ok(), "an update always fits");
        }
    }
    batch.freeze()
}

/// Some deliveries are acknowledged, refused, or left alone.
fn settle(cursor: &mut ConsumerCursor, delivery: &Delivery, op: &[u8], now_ns: u64) {
    let subject = format!(
        "$JS.ACK.S.c.{}.{}.{}.{}.{}",
        delivery.delivered,
        delivery.seq,
        delivery.consumer_seq,
        delivery.ts_ns,
        delivery.num_pending
    );
    let body: &[u8] = match op.get(usize::from(delivery.seq as u8) % 4) {
        Some(byte) if byte % 4 == 0 => b"-NAK 1s",
        Some(byte) if byte % 4 == 1 => b"+TERM",
        Some(byte) if byte % 4 == 2 => b"",
        _ => return,
    };
    if let (Some(kind), Some(tokens)) = (AckKind::parse(body), AckTokens::parse(subject.as_bytes()))
    {
        let _ = cursor.handle_ack(&kind, &tokens, now_ns);
    }
}

fn command_of(op: &[u8]) -> EncodedBatch {
    let byte = |at: usize| op.get(at).copied().unwrap_or_default();
    let mut batch = CommandBatch::new();
    let (stream, prefix, _) = STREAMS[usize::from(byte(1)) % STREAMS.len()];
    let pushed = match byte(0) % 8 {
        0 => batch.push(&Command::Tick),
        1 => batch.push(&Command::MessageDelete(MessageDelete {
            stream: stream.into(),
            seq: u64::from(byte(2)),
            no_erase: true,
            privileged: false,
        })),
        2 => batch.push(&Command::StreamPurge(StreamPurge {
            name: stream.into(),
            filter: if byte(2) % 2 == 0 {
                String::new()
            } else {
                format!("{prefix}.{}", byte(2) % 8)
            },
            seq: u64::from(byte(3)),
            keep: 0,
            privileged: false,
        })),
        3 if byte(3) % 4 == 0 => batch.push(&Command::ConsumerDelete(ConsumerDelete {
            stream: stream.into(),
            name: format!("c{}", byte(2) % 3),
            created_ns: None,
            privileged: false,
        })),
        3 if byte(3) % 4 == 1 => batch.push(&Command::ConsumerReset(ConsumerReset {
            stream: stream.into(),
            name: format!("c{}", byte(2) % 3),
            seq: u64::from(byte(2)),
            privileged: false,
        })),
        3 => batch.push(&consumer(stream, prefix, byte(2))),
        _ => {
            let header = HEADERS[usize::from(byte(3)) % HEADERS.len()];
            let data = [header, op].concat();
            let subject = format!("{prefix}.{}", byte(2) % 8);
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
