//! Counters and atomic batches: what is stored, what is answered, and that a refused batch leaves
//! nothing behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;

use bench::{Bench, config, refused};
use bytes::Bytes;
use proptest::prelude::*;
use unibus_proto::jetstream::config::{Discard, StreamConfig};
use unibus_state::command::{Append, AtomicBatch, Command, Series};
use unibus_state::{Outcome, RowOp, State};

fn counting() -> Bench {
    Bench::with(StreamConfig {
        allow_msg_counter: true,
        ..config(&["c.>"])
    })
}

fn add(bench: &mut Bench, subject: &str, incr: &str) -> String {
    match bench.publish(subject, &[("Nats-Incr", incr)], "") {
        Outcome::Counted { val, .. } => val,
        other => panic!("{other:?}"),
    }
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
fn counters_add_up_without_bounds() {
    let mut bench = counting();
    assert_eq!(add(&mut bench, "c.a", "1"), "1");
    assert_eq!(add(&mut bench, "c.a", "+5"), "6");
    assert_eq!(add(&mut bench, "c.a", "-10"), "-4");
    assert_eq!(add(&mut bench, "c.b", "2"), "2");
    let big = "99999999999999999999999999";
    assert_eq!(add(&mut bench, "c.a", big), "99999999999999999999999995");
    let stored = bench.message(3);
    assert_eq!(&stored.payload[..], br#"{"val":"-4"}"#);
    assert_eq!(&stored.headers[..], b"NATS/1.0\r\nNats-Incr: -10\r\n\r\n");
    let loaded = reloaded(&mut bench.state);
    assert_eq!(loaded.digest(), bench.state.digest());
    bench.state = loaded;
    assert_eq!(add(&mut bench, "c.b", "1"), "3");
    bench.delete(6);
    assert_eq!(
        add(&mut bench, "c.b", "1"),
        "3",
        "the last live value counts"
    );
}

#[test]
fn counters_refuse_what_is_no_count() {
    let mut bench = counting();
    let mut code =
        |headers: &[(&str, &str)], payload| refused(bench.publish("c.a", headers, payload)).1;
    assert_eq!(code(&[("Nats-Incr", "x")], ""), 10171);
    assert_eq!(code(&[("Nats-Incr", "1.5")], ""), 10171);
    assert_eq!(code(&[("Nats-Incr", "1")], "body"), 10170);
    assert_eq!(code(&[], "body"), 10169);
    assert_eq!(code(&[("A", "b")], ""), 10169);
    assert_eq!(
        code(&[("Nats-Incr", "1"), ("Nats-Rollup", "sub")], ""),
        10171
    );
    let mut plain = Bench::with(config(&["s"]));
    assert_eq!(
        refused(plain.publish("s", &[("Nats-Incr", "1")], "")).1,
        10168
    );
}

fn message(subject: &str, headers: &str, payload: &str) -> Append {
    let block = if headers.is_empty() {
        String::new()
    } else {
        format!("NATS/1.0\r\n{headers}\r\n")
    };
    Append {
        subject: Bytes::copy_from_slice(subject.as_bytes()),
        header_len: block.len() as u32,
        data: Bytes::from(block + payload),
        privileged: false,
    }
}

fn commit(bench: &mut Bench, messages: Vec<Append>) -> Outcome {
    let id = "b".to_owned();
    bench.run(&Command::Atomic(AtomicBatch { id, messages }))
}

/// Two messages of which the second is refused in the form in which it would be stored.
fn half_refused(mut bench: Bench) -> Vec<(Outcome, u64)> {
    let named = |name: &str, own: StreamConfig| StreamConfig {
        name: name.into(),
        subjects: vec![format!("{name}.>")],
        allow_atomic: true,
        ..own
    };
    let mut answers = Vec::new();
    let mut ask = |bench: &mut Bench, config: StreamConfig, messages: Vec<Append>| {
        let name = config.name.clone();
        assert_eq!(bench.create(config), Outcome::Done);
        let before = bench.state.stream(&name).unwrap().last_seq();
        let outcome = commit(bench, messages);
        let after = bench.state.stream(&name).unwrap().last_seq();
        answers.push((outcome, after - before));
    };
    let sized = named(
        "C",
        StreamConfig {
            allow_msg_counter: true,
            max_msg_size: 40,
            ..StreamConfig::default()
        },
    );
    let counts = vec![
        message("C.a", "Nats-Incr: 1\r\n", ""),
        message("C.b", "Nats-Incr: 111111\r\n", ""),
    ];
    ask(&mut bench, sized, counts);
    let long = "9".repeat(4096);
    let digits = named(
        "D",
        StreamConfig {
            allow_msg_counter: true,
            ..StreamConfig::default()
        },
    );
    let counts = vec![
        message("D.a", "Nats-Incr: 1\r\n", ""),
        message("D.b", &format!("Nats-Incr: {long}\r\n"), ""),
        message("D.b", "Nats-Incr: 1\r\n", ""),
    ];
    ask(&mut bench, digits, counts);
    let schedule = "Nats-Schedule: @every 1h\r\nNats-Schedule-Target: F.t\r\n";
    let full = named(
        "F",
        StreamConfig {
            allow_msg_schedules: true,
            discard: Discard::New,
            max_bytes: 152,
            ..StreamConfig::default()
        },
    );
    let messages = vec![message("F.a", "", "x"), message("F.b", schedule, "")];
    ask(&mut bench, full, messages);
    answers
}

#[test]
fn a_batch_is_checked_in_the_form_in_which_it_is_stored() {
    for (outcome, stored) in half_refused(Bench::new()) {
        assert_eq!(stored, 0, "{outcome:?}");
        refused(outcome);
    }
    // By the rules of before, so that nodes of versions before do the same.
    for (outcome, stored) in half_refused(Bench::of_old()) {
        assert!(stored > 0, "{outcome:?}");
        refused(outcome);
    }
}

#[test]
fn what_the_node_adds_to_a_schedule_does_not_count_against_its_size() {
    let schedule = "Nats-Schedule: @every 1h\r\nNats-Schedule-Target: s.t\r\n";
    let one = message("s.b", schedule, "");
    let mut bench = Bench::with(StreamConfig {
        allow_msg_schedules: true,
        max_msg_size: one.data.len() as i64,
        ..atomic()
    });
    let outcome = commit(&mut bench, vec![message("s.a", "", "x"), one.clone()]);
    assert!(matches!(outcome, Outcome::Batched { .. }), "{outcome:?}");
    let alone = bench.run(&Command::Append(one));
    assert!(matches!(alone, Outcome::Published { .. }), "{alone:?}");
    assert_eq!(bench.live(), [1, 3], "a schedule replaces the one before");
}

#[test]
fn counters_of_one_batch_build_on_each_other() {
    let mut bench = Bench::with(StreamConfig {
        allow_msg_counter: true,
        ..atomic()
    });
    let add = |incr: &str| message("s.a", &format!("Nats-Incr: {incr}\r\n"), "");
    let outcome = commit(&mut bench, vec![add("5"), add("-2"), add("10")]);
    let Outcome::Batched { val, .. } = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(val.as_deref(), Some("13"));
    assert_eq!(&bench.message(2).payload[..], br#"{"val":"3"}"#);
}

fn atomic() -> StreamConfig {
    StreamConfig {
        allow_atomic: true,
        allow_rollup_hdrs: true,
        ..config(&["s.>"])
    }
}

#[test]
fn a_batch_is_stored_as_a_whole() {
    let mut bench = Bench::with(atomic());
    let two = vec![message("s.a", "", "1"), message("s.b", "A: b\r\n", "2")];
    let expected = Outcome::Batched {
        stream: "S".into(),
        seq: 2,
        batch: "b".into(),
        count: 2,
        val: None,
    };
    assert_eq!(commit(&mut bench, two), expected);
    assert_eq!(bench.live(), [1, 2]);
    assert_eq!(&bench.message(2).headers[..], b"NATS/1.0\r\nA: b\r\n\r\n");
}

#[test]
fn a_refused_batch_leaves_nothing() {
    let mut bench = Bench::with(atomic());
    bench.publish("s.a", &[("Nats-Msg-Id", "known")], "x");
    let before = bench.state.digest();
    let cases = [
        ("Nats-Msg-Id: known\r\n", 10201),
        ("Nats-Msg-Id: first\r\n", 10201),
        ("Nats-Expected-Last-Sequence: 7\r\n", 10071),
        ("Nats-Expected-Last-Subject-Sequence: 0\r\n", 10164),
        ("Nats-Expected-Last-Msg-Id: known\r\n", 10177),
        ("Nats-Expected-Stream: T\r\n", 10060),
        ("Nats-Rollup: all\r\n", 10111),
        ("Nats-Rollup: sub\r\n", 10111),
        ("Nats-TTL: 5\r\n", 10166),
    ];
    for (headers, code) in cases {
        let batch = vec![
            message("s.b", "Nats-Msg-Id: first\r\n", "1"),
            message("s.b", headers, "2"),
        ];
        assert_eq!(refused(commit(&mut bench, batch)).1, code, "{headers}");
        assert_eq!(bench.stream().messages(), 1, "{headers}");
    }
    bench.publish("s.c", &[], "advance");
    assert_ne!(bench.state.digest(), before);
    let elsewhere = vec![message("s.a", "", "1"), message("t.a", "", "2")];
    assert_eq!(refused(commit(&mut bench, elsewhere)).1, 10176);
    let mut plain = Bench::with(config(&["s.>"]));
    let one = vec![message("s.a", "", "1")];
    assert_eq!(refused(commit(&mut plain, one)).1, 10174);
}

#[test]
fn a_batch_fits_or_is_refused() {
    let mut bench = Bench::with(StreamConfig {
        max_msgs: 2,
        discard: Discard::New,
        ..atomic()
    });
    let three = |n: usize| (0..n).map(|_| message("s.a", "", "x")).collect::<Vec<_>>();
    assert_eq!(refused(commit(&mut bench, three(3))).1, 10077);
    assert!(bench.live().is_empty());
    assert!(matches!(
        commit(&mut bench, three(2)),
        Outcome::Batched { seq: 2, .. }
    ));
}

#[test]
fn a_series_ends_at_what_is_refused_unless_it_goes_on() {
    let mut bench = Bench::with(StreamConfig {
        allow_batched: true,
        ..config(&["s.>"])
    });
    let series = || {
        vec![
            message("s.a", "Nats-Msg-Id: one\r\n", "1"),
            message("s.a", "Nats-Msg-Id: one\r\n", "1"),
            message("s.a", "Nats-Expected-Last-Sequence: 7\r\n", "2"),
            message("s.b", "", "3"),
        ]
    };
    let mut run = |go_on| {
        let messages = series();
        let outcome = bench.run(&Command::Series(Series { go_on, messages }));
        let Outcome::Series { seq, refused, .. } = outcome else {
            panic!("{outcome:?}");
        };
        let refused: Vec<_> = (refused.iter().map(|(at, e)| (*at, e.err_code))).collect();
        (seq, refused, bench.live())
    };
    assert_eq!(run(false), (1, vec![(2, 10071)], vec![1]));
    assert_eq!(run(true), (2, vec![(2, 10071)], vec![1, 2]));
    let mut plain = Bench::with(config(&["s.>"]));
    let messages = series();
    let outcome = plain.run(&Command::Series(Series {
        go_on: true,
        messages,
    }));
    assert_eq!(refused(outcome).1, 10205);
    assert!(plain.live().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A batch is all or nothing, whatever is in it.
    #[test]
    fn batches_are_all_or_nothing(parts in prop::collection::vec((0u8..4, 0u8..6), 1..8)) {
        let mut bench = Bench::with(atomic());
        bench.publish("s.0", &[("Nats-Msg-Id", "1")], "x");
        let messages: Vec<Append> = parts
            .iter()
            .map(|(subject, kind)| {
                let headers = match kind {
                    0 => "Nats-Msg-Id: 1\r\n",
                    1 => "Nats-Expected-Last-Subject-Sequence: 0\r\n",
                    2 => "Nats-Rollup: sub\r\n",
                    _ => "",
                };
                message(&format!("s.{subject}"), headers, "y")
            })
            .collect();
        let count = messages.len() as u64;
        match commit(&mut bench, messages) {
            Outcome::Batched { seq, count: told, .. } => {
                prop_assert_eq!((seq, told), (1 + count, count));
            }
            Outcome::Refused(_) => prop_assert_eq!(bench.stream().last_seq(), 1),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
