//! Consumers: what may be asked for, where they start, and what a push cursor delivers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;

use bench::{Bench, SECOND, config, refused};
use unibus_proto::jetstream::api::ConsumerAction;
use unibus_proto::jetstream::config::StreamConfig;
use unibus_proto::jetstream::consumer::{ConsumerConfig, DeliverPolicy};
use unibus_proto::jetstream::timestamp::Timestamp;
use unibus_state::command::{Command, ConsumerDelete};
use unibus_state::{ConsumerCursor, Delivery, Outcome, Poll};

/// Stream sequence, consumer sequence, messages that remain.
type Step = (u64, u64, u64);

fn watch(policy: DeliverPolicy, filter: &str) -> ConsumerConfig {
    ConsumerConfig {
        deliver_policy: policy,
        filter_subject: filter.into(),
        deliver_subject: "_INBOX.x".into(),
        ..ConsumerConfig::default()
    }
}

fn next(bench: &Bench, cursor: &mut ConsumerCursor) -> Option<Delivery> {
    match cursor.poll(bench.stream(), 0) {
        Poll::Deliver(delivery) => Some(delivery),
        _ => None,
    }
}

fn drain(bench: &Bench, cursor: &mut ConsumerCursor) -> Vec<Step> {
    let mut all = Vec::new();
    while let Some(d) = next(bench, cursor) {
        all.push((d.seq, d.consumer_seq, d.num_pending));
    }
    all
}

fn cursor(bench: &Bench, name: &str) -> ConsumerCursor {
    ConsumerCursor::new(bench.stream(), bench.stream().consumer(name).unwrap(), 0)
}

#[test]
fn consumers_start_where_their_policy_says() {
    let mut bench = Bench::with(config(&["a.>"]));
    for subject in ["a.1", "a.2", "a.1", "a.3"] {
        bench.now += SECOND;
        bench.publish(subject, &[], "x");
    }
    let third = Timestamp(bench.now - SECOND);
    let cases: [(ConsumerConfig, &[Step]); 7] = [
        (watch(DeliverPolicy::All, "a.1"), &[(1, 1, 1), (3, 2, 0)]),
        (watch(DeliverPolicy::Last, "a.1"), &[(3, 1, 0)]),
        (watch(DeliverPolicy::New, ""), &[]),
        (
            ConsumerConfig {
                opt_start_seq: 3,
                ..watch(DeliverPolicy::ByStartSequence, "")
            },
            &[(3, 1, 1), (4, 2, 0)],
        ),
        (
            ConsumerConfig {
                opt_start_time: Some(third),
                ..watch(DeliverPolicy::ByStartTime, "")
            },
            &[(3, 1, 1), (4, 2, 0)],
        ),
        (
            watch(DeliverPolicy::LastPerSubject, "a.>"),
            &[(2, 1, 2), (3, 2, 1), (4, 3, 0)],
        ),
        (
            ConsumerConfig {
                filter_subjects: vec!["a.2".into(), "*.3".into()],
                ..watch(DeliverPolicy::All, "")
            },
            &[(2, 1, 1), (4, 2, 0)],
        ),
    ];
    for (at, (config, expected)) in cases.into_iter().enumerate() {
        let name = format!("c{at}");
        let config = ConsumerConfig {
            name: name.clone(),
            ..config
        };
        let outcome = bench.consumer(config, ConsumerAction::Create);
        let num_pending = expected.len() as u64;
        let created = Outcome::ConsumerCreated {
            name: name.as_str().into(),
            num_pending: Some(num_pending),
            created: true,
        };
        assert_eq!(outcome, created);
        assert_eq!(drain(&bench, &mut cursor(&bench, &name)), expected, "{at}");
    }
}

#[test]
fn a_watch_follows_overwrites_without_gaps_or_repeats() {
    let mut bench = Bench::with(StreamConfig {
        max_msgs_per_subject: 1,
        ..config(&["a.>"])
    });
    for subject in ["a.1", "a.2", "a.3"] {
        bench.publish(subject, &[], "x");
    }
    bench.consumer(
        watch(DeliverPolicy::LastPerSubject, "a.>"),
        ConsumerAction::Create,
    );
    let mut cursor = cursor(&bench, "gen");
    assert_eq!(next(&bench, &mut cursor).unwrap().num_pending, 2);
    bench.publish("a.3", &[], "y");
    assert_eq!(drain(&bench, &mut cursor), [(2, 2, 1), (4, 3, 0)]);
    bench.publish("a.1", &[], "y");
    bench.publish("a.2", &[], "y");
    bench.delete(5);
    assert_eq!(drain(&bench, &mut cursor), [(6, 4, 0)]);
}

/// A leader looks at a consumer when it is first needed. What its subjects got meanwhile comes after
/// what they had when it was created, as in nats-server, and not in its place.
#[test]
fn the_last_of_each_subject_is_that_of_the_consumers_creation() {
    let mut bench = Bench::with(config(&["a.>"]));
    bench.publish("a.1", &[], "x");
    bench.publish("a.2", &[], "x");
    bench.consumer(
        watch(DeliverPolicy::LastPerSubject, "a.>"),
        ConsumerAction::Create,
    );
    bench.publish("a.1", &[], "y");
    bench.publish("a.3", &[], "x");
    assert_eq!(
        drain(&bench, &mut cursor(&bench, "gen")),
        [(1, 1, 3), (2, 2, 2), (3, 3, 1), (4, 4, 0)]
    );
}

#[test]
fn flow_control_stalls_and_heartbeats_fill_silence() {
    let mut bench = Bench::with(config(&["a"]));
    let config = ConsumerConfig {
        flow_control: true,
        idle_heartbeat: SECOND as i64,
        ..watch(DeliverPolicy::All, "")
    };
    bench.consumer(config, ConsumerAction::CreateOrUpdate);
    let mut cursor = cursor(&bench, "gen");
    assert_eq!(
        cursor.poll(bench.stream(), 0),
        Poll::Idle {
            deadline_ns: Some(SECOND)
        }
    );
    let beat = Poll::Heartbeat {
        last_consumer: 0,
        last_stream: 0,
        stalled: None,
    };
    assert_eq!(cursor.poll(bench.stream(), SECOND), beat);
    let big = "x".repeat(512 << 10);
    for _ in 0..8 {
        bench.publish("a", &[], &big);
    }
    let mut seen = Vec::new();
    loop {
        match cursor.poll(bench.stream(), SECOND) {
            Poll::Deliver(d) => seen.push(d.seq.to_string()),
            Poll::FlowControl { reply } => seen.push(reply),
            Poll::Idle { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, ["1", "2", "$JS.FC.S.gen.0001", "3", "4"]);
    assert!(cursor.is_stalled());
    let reply = Some("$JS.FC.S.gen.0001".to_owned());
    let beat = Poll::Heartbeat {
        last_consumer: 4,
        last_stream: 4,
        stalled: reply,
    };
    assert_eq!(cursor.poll(bench.stream(), 2 * SECOND), beat);
    cursor.handle_flow_control("$JS.FC.S.gen.9999", None, 0);
    assert!(cursor.is_stalled());
    cursor.handle_flow_control("$JS.FC.S.gen.0001", None, 0);
    assert!(matches!(cursor.poll(bench.stream(), 2 * SECOND), Poll::Deliver(d) if d.seq == 5));
}

#[test]
fn consumer_requests_are_judged() {
    let mut bench = Bench::with(config(&["a.>"]));
    let create = ConsumerAction::Create;
    let code =
        |bench: &mut Bench, config: ConsumerConfig| refused(bench.consumer(config, create)).1;
    let base = || watch(DeliverPolicy::All, "");
    let both = ConsumerConfig {
        filter_subject: "a.1".into(),
        filter_subjects: vec!["a.2".into()],
        ..base()
    };
    assert_eq!(code(&mut bench, both), 10136);
    let overlap = ConsumerConfig {
        filter_subjects: vec!["a.>".into(), "a.1".into()],
        ..base()
    };
    assert_eq!(code(&mut bench, overlap), 10138);
    let empty = ConsumerConfig {
        filter_subjects: vec!["a.1".into(), String::new()],
        ..base()
    };
    assert_eq!(code(&mut bench, empty), 10139);
    assert_eq!(
        code(&mut bench, watch(DeliverPolicy::LastPerSubject, "")),
        10094
    );
    let cycle = ConsumerConfig {
        deliver_subject: "a.1".into(),
        ..base()
    };
    assert_eq!(code(&mut bench, cycle), 10081);
    let names = ConsumerConfig {
        name: "a".into(),
        durable_name: "b".into(),
        ..base()
    };
    assert_eq!(code(&mut bench, names), 10132);
    let flow = ConsumerConfig {
        flow_control: true,
        ..base()
    };
    assert_eq!(code(&mut bench, flow), 10108);
    assert_eq!(
        refused(bench.consumer(base(), ConsumerAction::Update)).1,
        10149
    );
}

#[test]
fn consumer_actions() {
    let mut bench = Bench::with(config(&["a.>"]));
    let base = watch(DeliverPolicy::All, "a.1");
    assert!(matches!(
        bench.consumer(base.clone(), ConsumerAction::Create),
        Outcome::ConsumerCreated { created: true, .. }
    ));
    assert!(matches!(
        bench.consumer(base, ConsumerAction::Create),
        Outcome::ConsumerCreated { created: false, .. }
    ));
    let changed = watch(DeliverPolicy::All, "a.2");
    assert_eq!(
        refused(bench.consumer(changed.clone(), ConsumerAction::Create)).1,
        10148
    );
    assert!(matches!(
        bench.consumer(changed, ConsumerAction::Update),
        Outcome::ConsumerCreated { created: false, .. }
    ));
    let policy = refused(bench.consumer(watch(DeliverPolicy::New, "a.2"), ConsumerAction::Update));
    assert_eq!(
        policy,
        (500, 10012, "deliver policy can not be updated".into())
    );
    let consumer = bench.stream().consumer("gen").unwrap();
    assert_eq!(consumer.config().inactive_threshold, 5 * SECOND as i64);
    assert_eq!(
        (
            consumer.config().max_deliver,
            consumer.config().name.as_str()
        ),
        (-1, "gen")
    );
    let delete = ConsumerDelete {
        stream: "S".into(),
        name: "gen".into(),
        created_ns: None,
        privileged: false,
    };
    let other = ConsumerDelete {
        created_ns: Some(1),
        ..delete.clone()
    };
    assert_eq!(
        refused(bench.run(&Command::ConsumerDelete(other))).1,
        10014,
        "another one of that name was meant"
    );
    assert_eq!(
        bench.run(&Command::ConsumerDelete(delete.clone())),
        Outcome::Done
    );
    let gone = refused(bench.run(&Command::ConsumerDelete(delete)));
    assert_eq!(gone, (404, 10014, "consumer not found".into()));
}
