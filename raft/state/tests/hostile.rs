//! Numbers and sizes that only a hostile client asks for: apply refuses them at once, because what
//! it does not refuse every node executes, again at every replay.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;

use bench::{Bench, SECOND, config, put, refused, seq};
use unibus_proto::jetstream::api::ConsumerAction;
use unibus_proto::jetstream::config::{Retention, Storage, StreamConfig};
use unibus_proto::jetstream::consumer::{ConsumerConfig, DeliverPolicy};
use unibus_state::command::{Command, ConsumerProgress, StreamPut};
use unibus_state::{ConsumerCursor, Outcome, Poll, RowOp, State};

const FIRST_SEQ_MAX: u64 = 1 << 62;

fn beginning_at(first_seq: u64) -> StreamConfig {
    StreamConfig {
        first_seq,
        max_msgs: 2,
        max_msgs_per_subject: 1,
        ..config(&["a.>"])
    }
}

#[test]
fn first_sequences_end_where_counting_on_is_safe() {
    let mut bench = Bench::new();
    for first_seq in [u64::MAX, u64::MAX - 1, FIRST_SEQ_MAX + 1] {
        let (code, err_code, text) = refused(bench.create(beginning_at(first_seq)));
        assert_eq!((code, err_code), (500, 10052));
        assert!(text.ends_with("maximum allowed is 4611686018427387904"));
    }
    assert_eq!(bench.create(beginning_at(FIRST_SEQ_MAX)), Outcome::Done);
    for at in 0..4 {
        let stored = bench.publish(&format!("a.{at}"), &[], "x");
        assert_eq!(seq(&stored), FIRST_SEQ_MAX + at);
    }
    let state = bench.stream().state();
    assert_eq!((state.messages, state.first_seq), (2, FIRST_SEQ_MAX + 2));
    let high = bench.update(beginning_at(u64::MAX));
    assert_eq!(refused(high).1, 10052);
}

#[test]
fn the_largest_numbers_change_nothing() {
    let mut bench = Bench::with(StreamConfig {
        max_age: i64::MAX,
        duplicate_window: i64::MAX,
        allow_msg_ttl: true,
        subject_delete_marker_ttl: i64::MAX,
        max_msg_size: i64::MIN,
        max_consumers: i64::MIN,
        ..config(&["a"])
    });
    bench.publish("a", &[("Nats-Msg-Id", "m"), ("Nats-TTL", "1h")], "x");
    let ttl = bench.publish("a", &[("Nats-TTL", "18446744073709551615")], "x");
    assert_eq!(refused(ttl).1, 10165);
    bench.now = u64::MAX / 2;
    assert_eq!(bench.run(&Command::Tick), Outcome::Done);
    assert_eq!(bench.live(), [1]);
    assert!(bench.state.next_deadline_ns().is_some());
    assert_eq!(refused(bench.delete(u64::MAX)).1, 10043);
    assert_eq!(bench.purge("", 0, u64::MAX), Outcome::Purged { count: 0 });
    assert_eq!(bench.purge("a", 0, u64::MAX), Outcome::Purged { count: 0 });
    assert_eq!(bench.purge("a", u64::MAX, 0), Outcome::Purged { count: 1 });
    assert_eq!(bench.purge("", u64::MAX, 0), Outcome::Purged { count: 0 });
    assert_eq!(seq(&bench.publish("a", &[], "x")), 2);
    for negative in [-1, i64::MIN] {
        let broken = [
            StreamConfig {
                max_age: negative,
                ..config(&["a"])
            },
            StreamConfig {
                duplicate_window: negative,
                ..config(&["a"])
            },
            StreamConfig {
                subject_delete_marker_ttl: negative,
                ..config(&["a"])
            },
        ];
        for config in broken {
            assert_eq!(refused(bench.update(config)).1, 10052);
        }
    }
}

#[test]
fn a_consumer_may_start_beyond_the_end() {
    let mut bench = Bench::with(config(&["a"]));
    bench.publish("a", &[], "x");
    let consumer = ConsumerConfig {
        name: "c".into(),
        deliver_policy: DeliverPolicy::ByStartSequence,
        opt_start_seq: u64::MAX,
        deliver_subject: "_INBOX.x".into(),
        ..ConsumerConfig::default()
    };
    assert!(matches!(
        bench.consumer(consumer, ConsumerAction::Create),
        Outcome::ConsumerCreated {
            num_pending: Some(0),
            ..
        }
    ));
    let stream = bench.stream();
    let mut cursor = ConsumerCursor::new(stream, stream.consumer("c").unwrap(), 0);
    assert!(matches!(cursor.poll(stream, 0), Poll::Idle { .. }));
    assert_eq!(cursor.num_pending(stream), 0);

    let progress = ConsumerProgress {
        stream: "S".into(),
        name: "c".into(),
        consumer_seq: 1,
        stream_seq: u64::MAX,
    };
    bench.run(&Command::ConsumerProgress(progress));
    let stream = bench.stream();
    let consumer = stream.consumer("c").unwrap();
    assert_eq!(consumer.num_pending(stream), 0);
    let mut cursor = ConsumerCursor::new(stream, consumer, 0);
    assert!(matches!(cursor.poll(stream, 0), Poll::Idle { .. }));
}

#[test]
fn reservations_add_up_without_overflow() {
    let mut bench = Bench::new();
    for (at, storage) in [Storage::File, Storage::Memory]
        .repeat(3)
        .iter()
        .enumerate()
    {
        let reserving = StreamConfig {
            name: format!("S{at}"),
            max_bytes: i64::MAX,
            storage: *storage,
            ..config(&[])
        };
        assert_eq!(bench.create(reserving), Outcome::Done);
    }
    let info = bench.state.account_info();
    assert_eq!(info.reserved_storage, u64::MAX);
    assert_eq!(info.reserved_memory, u64::MAX);
}

fn many(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("a{at}")).collect()
}

#[test]
fn stream_subjects_are_limited() {
    let mut bench = Bench::new();
    let with = |subjects: Vec<String>| StreamConfig {
        subjects,
        ..config(&[])
    };
    let text = "too many stream subjects, maximum allowed is 1024".to_owned();
    for count in [1025, 150_000] {
        let outcome = bench.create(with(many(count)));
        assert_eq!(refused(outcome), (500, 10052, text.clone()));
    }
    let long = (0..1024).map(|at| format!("{}a{at}", "a.".repeat(400)));
    let text = "stream subjects are too long, maximum allowed is 65536 bytes".to_owned();
    let outcome = bench.create(with(long.collect()));
    assert_eq!(refused(outcome), (500, 10052, text));
    assert_eq!(bench.create(with(many(1024))), Outcome::Done);
    assert_eq!(refused(bench.update(with(many(1025)))).1, 10052);
    assert_eq!(seq(&bench.publish("a1023", &[], "x")), 1);
}

#[test]
fn consumer_filters_are_limited() {
    let mut bench = Bench::with(config(&["b.>"]));
    let with = |filter_subjects: Vec<String>| ConsumerConfig {
        name: "c".into(),
        filter_subjects,
        deliver_subject: "_INBOX.x".into(),
        ..ConsumerConfig::default()
    };
    let text = "too many filter subjects, maximum allowed is 1024".to_owned();
    for count in [1025, 150_000] {
        let outcome = bench.consumer(with(many(count)), ConsumerAction::Create);
        assert_eq!(refused(outcome), (500, 10012, text.clone()));
    }
    let long = (0..1024).map(|at| format!("{}a{at}", "a.".repeat(400)));
    let text = "filter subjects are too long, maximum allowed is 65536 bytes".to_owned();
    let outcome = bench.consumer(with(long.collect()), ConsumerAction::Create);
    assert_eq!(refused(outcome), (500, 10012, text));
    assert!(matches!(
        bench.consumer(with(many(1024)), ConsumerAction::Create),
        Outcome::ConsumerCreated { created: true, .. }
    ));
}

/// What a restart would have in memory.
fn restored(state: &mut State) -> State {
    let mut rows = Vec::new();
    state.dump_rows(true, &mut |op| {
        if let RowOp::Put { key, value } = op {
            rows.push((key, value));
        }
    });
    State::load_rows(rows.into_iter()).unwrap()
}

#[test]
fn unwanted_messages_cost_no_files() {
    let mut bench = Bench::with(StreamConfig {
        retention: Retention::Interest,
        ..config(&["a.>"])
    });
    let wanted = ConsumerConfig {
        name: "c".into(),
        filter_subject: "a.yes".into(),
        deliver_subject: "_INBOX.x".into(),
        ..ConsumerConfig::default()
    };
    bench.consumer(wanted, ConsumerAction::Create);
    for at in 0..50 {
        bench.now += SECOND;
        assert_eq!(seq(&bench.publish("a.no", &[], "x")), 2 * at + 1);
        assert_eq!(seq(&bench.publish("a.yes", &[], "x")), 2 * at + 2);
    }
    bench.publish("a.no", &[], "x");
    assert_eq!(bench.stream().live_blocks().count(), 1);
    let even: Vec<u64> = (1..=50).map(|at| 2 * at).collect();
    assert_eq!(bench.live(), even);
    let state = bench.stream().state();
    assert_eq!((state.messages, state.num_deleted), (50, 50));
    assert_eq!((state.first_seq, state.last_seq), (2, 101));
    assert_eq!(&bench.message(100).subject[..], b"a.yes");

    let again = restored(&mut bench.state);
    let stream = again.stream("S").unwrap();
    assert_eq!(stream.state(), bench.stream().state());
    for seq in 1..=101 {
        assert_eq!(stream.get(seq), bench.stream().get(seq));
    }
}

#[test]
fn system_subjects_are_not_for_users() {
    // `no_ack` is what makes the system's own subjects legal (nats-surface §2.3); never those of the
    // control plane.
    let system = [
        "$JS.>",
        "$JS.API.>",
        "$JSC.>",
        "$JSC.x",
        "$NRG.>",
        "$SYS.>",
        "$SYS.REQ.>",
        "*.API.INFO",
    ];
    let control = [
        ">",
        "*.>",
        "$KV.>",
        "*.*.>",
        "$KV.*.>",
        "$KV.*.admin",
        "*.UNIBUS_users.>",
        "$KV.UNIBUS_users.>",
        "$KV.UNIBUS_users.admin",
        "$O.>",
        "$O.*.C.>",
        "$O.UNIBUS_blobs.>",
        "*.UNIBUS_blobs.>",
    ];
    let mut bench = Bench::with(config(&["fine"]));
    for no_ack in [false, true] {
        for subject in system.iter().filter(|_| !no_ack).chain(&control) {
            let wanted = |name: &str| StreamConfig {
                name: name.into(),
                no_ack,
                ..config(&["also.fine", subject])
            };
            for outcome in [bench.create(wanted("T")), bench.update(wanted("S"))] {
                let err_code = refused(outcome).1;
                assert!(matches!(err_code, 10052 | 10065), "{subject}: {err_code}");
            }
        }
    }
    for name in ["KV_UNIBUS_users", "OBJ_UNIBUS_blobs"] {
        let named = StreamConfig {
            name: name.into(),
            ..config(&["harmless"])
        };
        assert!(matches!(bench.create(named.clone()), Outcome::Refused(_)));
        assert!(matches!(bench.update(named), Outcome::Refused(_)));
    }
    let everything = StreamPut {
        privileged: true,
        ..put(StreamConfig {
            no_ack: true,
            num_replicas: 3,
            ..config(&[">"])
        })
    };
    let text = "capturing all subjects requires replicas of 1".to_owned();
    let outcome = bench.run(&Command::StreamUpdate(everything));
    assert_eq!(refused(outcome), (500, 10052, text));
    let exceptions = ["$JS.EVENT.>", "$SYS.ACCOUNT.>", "_INBOX.>", "$KV.users.>"];
    assert_eq!(bench.update(config(&exceptions)), Outcome::Done);
}
