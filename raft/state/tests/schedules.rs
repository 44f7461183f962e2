//! Scheduled messages: what is accepted, when it is due, what a run does, and that a schedule outlives a
//! checkpoint.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;

use bench::{Bench, SECOND, config, refused, seq};
use bytes::Bytes;
use unibus_proto::jetstream::config::StreamConfig;
use unibus_proto::jetstream::timestamp::Timestamp;
use unibus_state::command::{Append, Command, ScheduleRun};
use unibus_state::{DueSchedule, Outcome, RowOp, State};

fn scheduled() -> Bench {
    Bench::with(StreamConfig {
        allow_msg_schedules: true,
        allow_msg_ttl: true,
        ..config(&["s.>", "t.>"])
    })
}

/// The state as a checkpoint keeps it.
fn reloaded(state: &mut State) -> State {
    let mut rows = Vec::new();
    state.dump_rows(true, &mut |op| {
        if let RowOp::Put { key, value } = op {
            rows.push((key, value));
        }
    });
    State::load_rows(rows.into_iter()).unwrap()
}

fn due(bench: &Bench) -> Vec<DueSchedule> {
    bench.state.due_schedules(bench.now, 16)
}

fn run(bench: &mut Bench, due: &DueSchedule, next_ns: u64, message: Option<&str>) -> Outcome {
    let message = message.map(|payload| Append {
        subject: Bytes::from_static(b"t.out"),
        header_len: 0,
        data: Bytes::copy_from_slice(payload.as_bytes()),
        privileged: false,
    });
    bench.run(&Command::ScheduleRun(ScheduleRun {
        stream: due.stream.to_string(),
        created_ns: due.created_ns,
        seq: due.seq,
        due_ns: due.due_ns,
        next_ns,
        message,
    }))
}

const EVERY: [(&str, &str); 2] = [
    ("Nats-Schedule", "@every 10s"),
    ("Nats-Schedule-Target", "t.out"),
];

#[test]
fn what_is_no_schedule_is_refused_by_its_code() {
    let mut bench = scheduled();
    let mut code = |headers: &[(&str, &str)]| refused(bench.publish("s.a", headers, "")).1;
    let at = ("Nats-Schedule", "@at 2026-01-01T00:00:00Z");
    let target = ("Nats-Schedule-Target", "t.a");
    assert_eq!(code(&[("Nats-Schedule", "@often"), target]), 10189);
    assert_eq!(code(&[at]), 10190);
    for wrong in ["s.a", "t.*", "u.a", ""] {
        assert_eq!(
            code(&[at, ("Nats-Schedule-Target", wrong)]),
            10190,
            "{wrong}"
        );
    }
    assert_eq!(code(&[at, target, ("Nats-Schedule-TTL", "soon")]), 10191);
    assert_eq!(code(&[at, target, ("Nats-Rollup", "all")]), 10192);
    assert_eq!(code(&[at, target, ("Nats-Schedule-Rollup", "some")]), 10192);
    for wrong in ["s.a", "t.a", "t.>", "u.a"] {
        assert_eq!(code(&[at, target, ("Nats-Schedule-Source", wrong)]), 10203);
    }
    let cron = ("Nats-Schedule", "0 0 5 * * *");
    let zone = |name| ("Nats-Schedule-Time-Zone", name);
    assert_eq!(code(&[cron, target, zone("Europe/Nowhere")]), 10223);
    assert_eq!(code(&[at, target, zone("Europe/Vienna")]), 10223);
    let purge = ("Nats-Schedule-Next", "purge");
    assert_eq!(code(&[purge]), 10212);
    assert_eq!(code(&[purge, ("Nats-Scheduler", "s.a")]), 10212);
    assert_eq!(bench.stream().last_seq(), 0);
}

#[test]
fn a_single_schedule_runs_once_and_goes() {
    let mut bench = scheduled();
    let at_ns = bench.now + 5 * SECOND;
    let at = format!("@at {}", Timestamp(at_ns));
    let headers = [
        ("Nats-Schedule", at.as_str()),
        ("Nats-Schedule-Target", "t.out"),
    ];
    assert_eq!(seq(&bench.publish("s.a", &headers, "x")), 1);
    let stored = bench.message(1);
    let stored = String::from_utf8(stored.headers.to_vec()).unwrap();
    assert!(stored.ends_with("Nats-Rollup: sub\r\n\r\n"), "{stored}");
    assert_eq!(bench.state.next_schedule_ns(), Some(at_ns));
    assert_eq!(due(&bench), []);
    bench.now = at_ns;
    let [one] = &due(&bench)[..] else {
        panic!("not due");
    };
    assert_eq!((one.seq, one.armed), (1, true));
    assert_eq!(run(&mut bench, one, 0, Some("x")), Outcome::Done);
    assert_eq!(
        (bench.live(), bench.state.next_schedule_ns()),
        (vec![2], None)
    );
    // Proposed twice, by a leader that did not know.
    assert_eq!(run(&mut bench, one, 0, Some("x")), Outcome::Done);
    assert_eq!(bench.live(), [2]);
}

#[test]
fn an_interval_runs_again_until_it_is_replaced_or_cancelled() {
    let mut bench = scheduled();
    bench.publish("s.a", &EVERY, "x");
    let first = bench.now + 10 * SECOND;
    assert_eq!(bench.state.next_schedule_ns(), Some(first));
    bench.now = first;
    let one = due(&bench).remove(0);
    run(&mut bench, &one, first + 10 * SECOND, Some("x"));
    assert_eq!(bench.live(), [1, 2]);
    assert_eq!(bench.state.next_schedule_ns(), Some(first + 10 * SECOND));
    // A new schedule of the subject replaces the old one.
    bench.publish("s.a", &EVERY, "y");
    assert_eq!(bench.live(), [2, 3]);
    let cancel = [("Nats-Schedule-Next", "purge"), ("Nats-Scheduler", "s.a")];
    bench.publish("t.b", &cancel, "");
    assert_eq!(
        (bench.live(), bench.state.next_schedule_ns()),
        (vec![2, 4], None)
    );
}

#[test]
fn a_refused_run_is_tried_again_later() {
    let mut bench = Bench::with(StreamConfig {
        allow_msg_schedules: true,
        max_msg_size: 100,
        ..config(&["s.>", "t.>"])
    });
    bench.publish("s.a", &EVERY, "x");
    bench.now += 10 * SECOND;
    let one = due(&bench).remove(0);
    let long = "x".repeat(200);
    assert_eq!(
        refused(run(&mut bench, &one, one.due_ns + 1, Some(&long))).1,
        10054
    );
    assert_eq!(bench.state.next_schedule_ns(), Some(bench.now + 5 * SECOND));
    assert_eq!(due(&bench), []);
}

#[test]
fn zones_are_worked_out_by_the_leader() {
    let mut bench = scheduled();
    let headers = [
        ("Nats-Schedule", "0 0 5 * * *"),
        ("Nats-Schedule-Target", "t.out"),
        ("Nats-Schedule-Time-Zone", "Europe/Vienna"),
    ];
    bench.publish("s.a", &headers, "x");
    let one = due(&bench).remove(0);
    assert!(!one.armed);
    let next = bench.now + 3600 * SECOND;
    assert_eq!(run(&mut bench, &one, next, None), Outcome::Done);
    assert_eq!(
        (bench.live(), bench.state.next_schedule_ns()),
        (vec![1], Some(next))
    );
}

#[test]
fn schedules_outlive_checkpoints_and_go_with_their_messages() {
    let mut bench = scheduled();
    bench.publish("s.a", &EVERY, "x");
    bench.publish("s.b", &EVERY, "x");
    let state = reloaded(&mut bench.state);
    assert_eq!(state.digest(), bench.state.digest());
    let until = bench.now + 10 * SECOND;
    assert_eq!(
        state.due_schedules(until, 9),
        bench.state.due_schedules(until, 9)
    );
    assert_eq!(state.due_schedules(until, 9).len(), 2);
    bench.purge("s.a", 0, 0);
    assert_eq!(bench.state.due_schedules(until, 9).len(), 1);
    bench.purge("", 0, 0);
    assert_eq!(bench.state.next_schedule_ns(), None);
}

#[test]
fn a_batch_may_hold_schedules() {
    let mut bench = Bench::with(StreamConfig {
        allow_msg_schedules: true,
        allow_atomic: true,
        ..config(&["s.>", "t.>"])
    });
    let block = "NATS/1.0\r\nNats-Schedule: @every 1m\r\nNats-Schedule-Target: t.a\r\n\r\n";
    let message = |subject: &'static str| Append {
        subject: Bytes::from_static(subject.as_bytes()),
        header_len: block.len() as u32,
        data: Bytes::copy_from_slice(block.as_bytes()),
        privileged: false,
    };
    let batch = |subjects: &[&'static str]| {
        Command::Atomic(unibus_state::command::AtomicBatch {
            id: "b".into(),
            messages: subjects.iter().map(|subject| message(subject)).collect(),
        })
    };
    assert_eq!(refused(bench.run(&batch(&["s.a", "s.a"]))).1, 10192);
    bench.run(&batch(&["s.a", "s.b"]));
    assert_eq!(bench.live(), [1, 2]);
    let until = bench.now + 60 * SECOND;
    assert_eq!(bench.state.due_schedules(until, 9).len(), 2);
}
