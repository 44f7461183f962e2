//! Restoring a stream: message by message, unseen until it ends, and gone when it is given up.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;

use bench::{Bench, SECOND, config, refused, seq};
use bytes::Bytes;
use unibus_proto::jetstream::config::StreamConfig;
use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig};
use unibus_state::command::{
    Command, CopiedMessage, RestoreBegin, RestoreConsumers, RestoreEnd, RestoreMessages,
    RestoredConsumer,
};
use unibus_state::{Effect, Outcome, Position, RowOp, State, Unsettled};

fn begin(config: StreamConfig) -> Command {
    Command::RestoreBegin(RestoreBegin {
        token: "t".into(),
        config,
        privileged: false,
        replicas_max: 1,
    })
}

fn message(seq: u64, subject: &str, headers: &str, payload: &str) -> CopiedMessage {
    let block = if headers.is_empty() {
        String::new()
    } else {
        format!("NATS/1.0\r\n{headers}\r\n\r\n")
    };
    CopiedMessage {
        seq,
        ts_ns: 900 * SECOND + seq,
        subject: Bytes::copy_from_slice(subject.as_bytes()),
        header_len: block.len() as u32,
        data: format!("{block}{payload}").into(),
    }
}

fn messages(messages: Vec<CopiedMessage>, removed: &[u64]) -> Command {
    Command::RestoreMessages(RestoreMessages {
        token: "t".into(),
        messages,
        removed: removed.to_vec(),
    })
}

fn end(last_seq: u64) -> Command {
    Command::RestoreEnd(RestoreEnd {
        token: "t".into(),
        created_ns: 5,
        last_seq,
    })
}

fn reloaded(state: &mut State) -> State {
    let mut rows = Vec::new();
    state.dump_rows(true, &mut |op| {
        if let RowOp::Put { key, value } = op {
            rows.push((key, value));
        }
    });
    State::load_rows(rows.into_iter()).unwrap()
}

#[test]
#[allow(clippy::too_many_lines, reason = "one story, told in order")]
fn a_restored_stream_is_what_it_was() {
    let mut bench = Bench::new();
    assert_eq!(bench.run(&begin(config(&["a.>"]))), Outcome::Done);
    let first = vec![
        message(3, "a.x", "", "three"),
        message(4, "a.y", "Nats-Msg-Id: four", "4"),
        message(9, "a.x", "A: b", "nine"),
    ];
    assert_eq!(bench.run(&messages(first, &[3])), Outcome::Done);
    assert!(bench.state.stream("S").is_none(), "nobody sees it");
    assert_eq!(bench.publish("a.x", &[], "x"), Outcome::NoStream);
    let again = messages(vec![message(9, "a.x", "", "")], &[]);
    assert_eq!(refused(bench.run(&again)).1, 10062);
    // A checkpoint half way.
    let state = reloaded(&mut bench.state);
    assert_eq!(state.digest(), bench.state.digest());
    bench.state = state;
    let at = |consumer_seq, stream_seq| Position {
        consumer_seq,
        stream_seq,
    };
    let unsettled = Unsettled {
        consumer_seq: 2,
        since_ns: 7,
        deliveries: 2,
    };
    let consumers = Command::RestoreConsumers(RestoreConsumers {
        token: "t".into(),
        consumers: vec![RestoredConsumer {
            config: ConsumerConfig {
                name: "c".into(),
                durable_name: "c".into(),
                ack_policy: AckPolicy::Explicit,
                ..ConsumerConfig::default()
            },
            created_ns: 6,
            delivered: at(2, 4),
            ack_floor: at(1, 3),
            // The second of them is not there any more.
            pending: vec![(4, unsettled), (7, unsettled)],
        }],
    });
    assert_eq!(bench.run(&consumers), Outcome::Done);
    let mut batch = unibus_state::CommandBatch::new();
    batch.push(&end(12)).unwrap();
    let applied = bench.apply(batch);
    assert_eq!(applied.outcomes, [Outcome::Done]);
    assert!(matches!(
        &applied.effects[..],
        [Effect::StreamCreated { .. }, Effect::ConsumerCreated { .. }]
    ));
    let stream = bench.stream();
    assert_eq!(
        (stream.first_seq(), stream.last_seq(), stream.created_ns()),
        (4, 12, 5)
    );
    assert_eq!(bench.live(), [4, 9]);
    let nine = bench.message(9);
    assert_eq!(
        (nine.ts_ns, &nine.payload[..]),
        (900 * SECOND + 9, &b"nine"[..])
    );
    let consumer = stream.consumer("c").unwrap();
    assert_eq!(
        consumer
            .ledger()
            .pending()
            .keys()
            .copied()
            .collect::<Vec<_>>(),
        [4]
    );
    assert_eq!(
        (
            consumer.delivered().stream_seq,
            consumer.num_pending(stream)
        ),
        (4, 1)
    );
    // It goes on where it was, and remembers what was published shortly before.
    let duplicate = bench.publish("a.y", &[("Nats-Msg-Id", "four")], "4");
    assert!(matches!(
        duplicate,
        Outcome::Published {
            seq: 4,
            duplicate: true,
            ..
        }
    ));
    assert_eq!(seq(&bench.publish("a.x", &[], "x")), 13);
}

#[test]
fn an_empty_stream_keeps_its_sequences() {
    let mut bench = Bench::new();
    bench.run(&begin(config(&["a.>"])));
    assert_eq!(bench.run(&end(7)), Outcome::Done);
    assert_eq!(
        (bench.stream().first_seq(), bench.stream().last_seq()),
        (8, 7)
    );
    assert_eq!(seq(&bench.publish("a.x", &[], "x")), 8);
}

#[test]
fn names_and_subjects_in_use_are_refused_at_both_ends() {
    let mut bench = Bench::with(config(&["a.>"]));
    assert_eq!(refused(bench.run(&begin(config(&["b"])))).1, 10130);
    let other = StreamConfig {
        name: "T".into(),
        ..config(&["a.x"])
    };
    assert_eq!(refused(bench.run(&begin(other.clone()))).1, 10065);
    let mut bench = Bench::new();
    bench.run(&begin(other));
    bench.run(&messages(vec![message(1, "a.x", "", "x")], &[]));
    bench.create(config(&["a.>"]));
    assert_eq!(refused(bench.run(&end(1))).1, 10065);
    // It is gone, with its blocks.
    assert_eq!(refused(bench.run(&end(1))).1, 10062);
    assert!(bench.blocks.bytes.is_empty());
}

#[test]
fn a_restore_that_is_given_up_or_silent_leaves_nothing() {
    let mut bench = Bench::new();
    for silent in [false, true] {
        bench.run(&begin(config(&["a.>"])));
        bench.run(&messages(vec![message(1, "a.x", "", "x")], &[]));
        if silent {
            let deadline = bench.state.next_deadline_ns().unwrap();
            assert_eq!(deadline, bench.now + 120 * SECOND);
            bench.now = deadline;
            bench.run(&Command::Tick);
        } else {
            bench.run(&Command::RestoreAbort("t".into()));
        }
        assert_eq!(bench.state.next_deadline_ns(), None);
        assert!(bench.blocks.bytes.is_empty());
        assert_eq!(refused(bench.run(&end(1))).1, 10062);
    }
    assert_eq!(bench.create(config(&["a.>"])), Outcome::Done);
}

#[test]
fn limits_hold_once_the_restore_ends() {
    let mut bench = Bench::new();
    bench.run(&begin(StreamConfig {
        max_msgs_per_subject: 1,
        ..config(&["a.>"])
    }));
    let all = (1..=4).map(|seq| message(seq, "a.x", "", "x")).collect();
    bench.run(&messages(all, &[]));
    bench.run(&end(4));
    assert_eq!(bench.live(), [4]);
}

#[test]
fn the_control_plane_is_not_restored_over_by_clients() {
    let mut bench = Bench::new();
    let control = StreamConfig {
        name: "KV_UNIBUS_users".into(),
        ..config(&["b"])
    };
    assert_eq!(refused(bench.run(&begin(control))).1, 10003);
}
