//! Work queues and interest streams: who may consume, and when a message goes (traps 27, 32 and 52).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;

use std::collections::BTreeMap;

use bench::host::{Host, batch, pull_config};
use bench::{Bench, config, refused, seq};
use bytes::Bytes;
use proptest::prelude::*;
use unibus_proto::jetstream::ack::{AckKind, AckTokens};
use unibus_proto::jetstream::api::ConsumerAction;
use unibus_proto::jetstream::config::{Retention, StreamConfig};
use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig, DeliverPolicy};
use unibus_proto::subject::matches;
use unibus_state::command::{Command, ConsumerDelete, ConsumerReset};
use unibus_state::{ConsumerCursor, Outcome, Poll};

fn stream(retention: Retention) -> Bench {
    Bench::with(StreamConfig {
        retention,
        ..config(&["a.>"])
    })
}

fn named(name: &str, filter: &str) -> ConsumerConfig {
    ConsumerConfig {
        durable_name: name.into(),
        filter_subject: filter.into(),
        ..pull_config()
    }
}

fn delete(bench: &mut Bench, name: &str) -> Outcome {
    bench.run(&Command::ConsumerDelete(ConsumerDelete {
        stream: "S".into(),
        name: name.into(),
        created_ns: None,
        privileged: false,
    }))
}

#[test]
fn consumers_of_a_work_queue_do_not_share_messages() {
    let mut bench = stream(Retention::Workqueue);
    let mut code = |config: ConsumerConfig| match bench.consumer(config, ConsumerAction::Create) {
        Outcome::Refused(refusal) => refusal.error.err_code,
        _ => 0,
    };
    let no_ack = ConsumerConfig {
        ack_policy: AckPolicy::None,
        ..named("x", "")
    };
    assert_eq!(code(no_ack.clone()), 10084);
    let push = ConsumerConfig {
        deliver_subject: "d".into(),
        ..no_ack
    };
    assert_eq!(code(push), 10098);
    let new = ConsumerConfig {
        deliver_policy: DeliverPolicy::New,
        ..named("x", "")
    };
    assert_eq!(code(new), 10101);
    assert_eq!(code(named("one", "a.1")), 0);
    assert_eq!(code(named("all", "")), 10099);
    assert_eq!(code(named("two", "a.*")), 10100);
    assert_eq!(code(named("two", "a.2")), 0);
    let mut bench = stream(Retention::Workqueue);
    bench.consumer(named("all", ""), ConsumerAction::Create);
    let second = bench.consumer(named("one", "a.1"), ConsumerAction::Create);
    assert_eq!(refused(second).1, 10100);
    let again = bench.consumer(named("all", ""), ConsumerAction::Create);
    assert!(matches!(
        again,
        Outcome::ConsumerCreated { created: false, .. }
    ));
}

#[test]
fn a_work_queue_removes_what_is_settled() {
    let mut bench = stream(Retention::Workqueue);
    for _ in 0..4 {
        bench.publish("a.1", &[], "x");
    }
    let mut host = Host::new(bench, pull_config());
    host.pull(&batch(3), "x");
    host.all();
    host.say(2, "");
    host.say(3, "+TERM");
    assert_eq!(
        host.bench.live(),
        [1, 2, 3, 4],
        "not before it is replicated"
    );
    host.flush();
    assert_eq!(host.bench.live(), [1, 4]);
    host.say(1, "");
    host.pull(&batch(1), "x");
    host.all();
    host.flush();
    assert_eq!(host.bench.live(), [4]);
    assert_eq!(host.cursor.ledger().pending().len(), 1);
    delete(&mut host.bench, "c");
    assert_eq!(host.bench.live(), [4], "it waits for the next consumer");
}

#[test]
fn interest_keeps_what_some_consumer_waits_for() {
    let mut bench = stream(Retention::Interest);
    assert_eq!(seq(&bench.publish("a.1", &[], "x")), 1);
    assert!(bench.live().is_empty(), "nobody is interested");
    bench.consumer(named("other", "a.2"), ConsumerAction::Create);
    let mut host = Host::new(bench, pull_config());
    for subject in ["a.1", "a.2", "a.2", "a.1"] {
        host.bench.publish(subject, &[], "x");
    }
    host.pull(&batch(9), "x");
    host.all();
    for seq in [2, 3, 5] {
        host.say(seq, "");
    }
    host.flush();
    assert_eq!(
        host.bench.live(),
        [3, 4],
        "the other one waits for 3, this one for 4"
    );
    assert_eq!(delete(&mut host.bench, "other"), Outcome::Done);
    assert_eq!(host.bench.live(), [4]);
    assert_eq!(delete(&mut host.bench, "c"), Outcome::Done);
    assert!(host.bench.live().is_empty());
    assert_eq!(seq(&host.bench.publish("a.1", &[], "x")), 6);
}

#[test]
fn interest_without_acknowledgements_ends_with_the_delivery() {
    let none = ConsumerConfig {
        ack_policy: AckPolicy::None,
        ..pull_config()
    };
    let mut host = Host::new(stream(Retention::Interest), none);
    for _ in 0..3 {
        host.bench.publish("a.1", &[], "x");
    }
    host.pull(&batch(2), "x");
    host.all();
    host.flush();
    assert_eq!(host.bench.live(), [3]);
}

#[test]
fn ids_are_remembered_even_without_interest() {
    let mut bench = stream(Retention::Interest);
    bench.publish("a.1", &[("Nats-Msg-Id", "m")], "x");
    let again = bench.publish("a.1", &[("Nats-Msg-Id", "m")], "x");
    assert!(matches!(
        again,
        Outcome::Published {
            seq: 1,
            duplicate: true,
            ..
        }
    ));
}

#[test]
fn a_message_out_of_deliveries_stays_in_a_work_queue() {
    let once = ConsumerConfig {
        max_deliver: 1,
        ..pull_config()
    };
    let mut host = Host::new(stream(Retention::Workqueue), once);
    host.bench.publish("a.1", &[], "x");
    host.pull(&batch(1), "x");
    host.all();
    host.flush();
    host.wait(30);
    host.all();
    host.flush();
    assert_eq!(host.bench.live(), [1]);
    assert!(host.cursor.ledger().pending().is_empty());
}

#[test]
fn a_stream_that_turns_to_interest_lets_go_of_the_rest() {
    let mut bench = stream(Retention::Limits);
    for _ in 0..4 {
        bench.publish("a.1", &[], "x");
    }
    let mut host = Host::new(bench, pull_config());
    host.pull(&batch(2), "x");
    host.all();
    host.say(1, "");
    host.flush();
    assert_eq!(host.bench.live(), [1, 2, 3, 4]);
    let interest = StreamConfig {
        retention: Retention::Interest,
        ..config(&["a.>"])
    };
    assert_eq!(host.bench.update(interest), Outcome::Done);
    assert_eq!(host.bench.live(), [2, 3, 4]);
    // What is delivered and settled between two reports is let go of as well.
    host.pull(&batch(1), "x");
    host.all();
    host.say(3, "");
    host.flush();
    assert_eq!(host.bench.live(), [2, 4]);
}

#[test]
fn long_sweeps_go_on_with_the_ticks() {
    let mut bench = stream(Retention::Interest);
    for at in 0..2048 {
        bench.consumer(named(&format!("c{at}"), "a.1"), ConsumerAction::Create);
    }
    for _ in 0..1200 {
        bench.publish("a.1", &[], "x");
    }
    bench.consumer(named("last", "a.>"), ConsumerAction::Create);
    bench.publish("a.2", &[], "x");
    delete(&mut bench, "last");
    assert_eq!(bench.live().len(), 1201, "the step was too short");
    assert_eq!(bench.state.next_deadline_ns(), Some(0));
    let mut ticks = 0;
    while bench.state.next_deadline_ns().is_some() {
        bench.run(&Command::Tick);
        ticks += 1;
        assert!(ticks < 10);
    }
    assert_eq!(bench.live().len(), 1200);
}

#[test]
fn a_stream_that_turns_to_limits_keeps_what_it_still_has() {
    let mut bench = stream(Retention::Interest);
    for at in 0..2048 {
        bench.consumer(named(&format!("c{at}"), "a.1"), ConsumerAction::Create);
    }
    bench.consumer(named("last", "a.2"), ConsumerAction::Create);
    for _ in 0..1200 {
        bench.publish("a.2", &[], "x");
    }
    delete(&mut bench, "last");
    let left = bench.live().len();
    assert!((1..1200).contains(&left), "the step was too short: {left}");
    let limits = config(&["a.>"]);
    assert_eq!(bench.update(limits), Outcome::Done);
    bench.run(&Command::Tick);
    assert_eq!(bench.live().len(), left);
}

#[test]
fn what_a_reset_passes_over_goes() {
    let mut bench = stream(Retention::Interest);
    bench.consumer(named("c", ""), ConsumerAction::Create);
    bench.consumer(named("other", "a.2"), ConsumerAction::Create);
    for at in 0..5 {
        bench.publish(&format!("a.{at}"), &[], "x");
    }
    let reset = Command::ConsumerReset(ConsumerReset {
        stream: "S".into(),
        name: "c".into(),
        seq: 5,
        privileged: false,
    });
    assert_eq!(bench.run(&reset), Outcome::Done);
    assert_eq!(bench.live(), [3, 5], "the other one waits for 3");
}

#[derive(Clone, Debug)]
enum Op {
    Publish(u8),
    Create(u8, u8),
    Delete(u8),
    /// The consumer, how many messages it gets, which of them it settles.
    Serve(u8, u8, u8),
}

fn op() -> impl Strategy<Value = Op> {
    let few = || 0..4u8;
    prop_oneof![
        4 => few().prop_map(Op::Publish),
        1 => (few(), few()).prop_map(|(name, filter)| Op::Create(name, filter)),
        1 => few().prop_map(Op::Delete),
        6 => (few(), 1..4u8, any::<u8>()).prop_map(|(name, count, which)| Op::Serve(name, count, which)),
    ]
}

/// A leader of the moment delivers some messages and reports what was settled.
fn serve(bench: &mut Bench, name: &str, count: u8, which: u8) {
    let stream = bench.stream();
    let Some(consumer) = stream.consumer(name) else {
        return;
    };
    let mut cursor = ConsumerCursor::new(stream, consumer, bench.now);
    cursor.handle_pull(
        stream,
        &batch(count.into()),
        Bytes::from_static(b"r"),
        bench.now,
    );
    let mut open: Vec<u64> = cursor.ledger().pending().keys().copied().collect();
    loop {
        match cursor.poll(stream, bench.now) {
            Poll::Deliver(delivery) => open.push(delivery.seq),
            Poll::Idle { .. } => break,
            _ => {}
        }
    }
    for (at, seq) in open.iter().enumerate() {
        let subject = format!("$JS.ACK.S.{name}.1.{seq}.1.1.1");
        let tokens = AckTokens::parse(subject.as_bytes()).unwrap();
        if which >> (at % 8) & 1 == 1 {
            cursor.handle_ack(&AckKind::Ack, &tokens, bench.now);
        }
    }
    if let Some(update) = cursor.take_changes() {
        assert_eq!(bench.run(&Command::ConsumerUpdate(update)), Outcome::Done);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// A message of an interest stream is there as long as some consumer that wants it has not settled
    /// it, and not longer.
    #[test]
    fn interest_is_exact(ops in proptest::collection::vec(op(), 1..80)) {
        let mut bench = stream(Retention::Interest);
        let mut held: BTreeMap<u64, String> = BTreeMap::new();
        for op in ops {
            bench.now += 1;
            match op {
                Op::Publish(at) => {
                    let subject = format!("a.{at}");
                    let seq = seq(&bench.publish(&subject, &[], "x"));
                    held.insert(seq, subject);
                }
                Op::Create(name, filter) => {
                    let filter = ["", "a.1", "a.2", "a.*"][usize::from(filter)];
                    bench.consumer(named(&format!("c{name}"), filter), ConsumerAction::CreateOrUpdate);
                }
                Op::Delete(name) => {
                    delete(&mut bench, &format!("c{name}"));
                }
                Op::Serve(name, count, which) => serve(&mut bench, &format!("c{name}"), count, which),
            }
            held.retain(|seq, subject| {
                bench.stream().consumers().any(|consumer| {
                    let ledger = consumer.ledger();
                    let open = ledger.pending().contains_key(seq);
                    let filters = consumer.filters();
                    let wants = filters.is_empty()
                        || filters.iter().any(|f| matches(f, subject.as_bytes()));
                    wants && (*seq > ledger.delivered().stream_seq || open)
                })
            });
            let live: Vec<u64> = held.keys().copied().collect();
            prop_assert_eq!(bench.live(), live);
        }
    }
}

fn for_a_copy(filter: &str) -> ConsumerConfig {
    ConsumerConfig {
        ack_policy: AckPolicy::FlowControl,
        deliver_subject: "d".into(),
        sourcing: true,
        ..named("c", filter)
    }
}

#[test]
fn a_copy_takes_nothing_from_the_workers_of_a_queue() {
    let mut bench = stream(Retention::Workqueue);
    for _ in 0..3 {
        bench.publish("a.1", &[], "hi");
    }
    let mut copy = Host::new(bench, for_a_copy(""));
    let worker = copy.bench.consumer(named("w", ""), ConsumerAction::Create);
    assert!(matches!(worker, Outcome::ConsumerCreated { .. }));
    let second = copy
        .bench
        .consumer(named("x", "a.1"), ConsumerAction::Create);
    assert_eq!(refused(second).1, 10100, "two workers");
    assert_eq!(copy.all().len(), 3);
    copy.cursor.handle_taken(2, copy.bench.now);
    copy.flush();
    assert_eq!(copy.bench.stream().state().messages, 3, "the worker waits");
    settle_all(&mut copy, "w");
    let left = copy.bench.stream().state();
    assert_eq!((left.messages, left.first_seq), (1, 3), "the copy waits");
    // Without the copy nobody waits for the last message.
    delete(&mut copy.bench, "c");
    assert_eq!(copy.bench.stream().state().messages, 0);
}

#[test]
fn what_nobody_wants_yet_stays_in_a_queue_that_is_copied_no_more() {
    let mut bench = stream(Retention::Workqueue);
    bench.publish("a.1", &[], "hi");
    bench.publish("a.2", &[], "hi");
    let mut copy = Host::new(bench, for_a_copy("a.1"));
    assert_eq!(copy.all().len(), 1);
    delete(&mut copy.bench, "c");
    assert_eq!(copy.bench.stream().state().messages, 2);
}

/// The worker acknowledges everything there is.
fn settle_all(host: &mut Host, worker: &str) {
    let stream = host.bench.state.stream("S").unwrap();
    let consumer = stream.consumer(worker).unwrap();
    let mut cursor = ConsumerCursor::new(stream, consumer, host.bench.now);
    cursor.handle_pull(stream, &batch(10), Bytes::from_static(b"r"), host.bench.now);
    while let Poll::Deliver(delivery) = cursor.poll(stream, host.bench.now) {
        let tokens = AckTokens {
            domain: None,
            account: None,
            stream: "S",
            consumer: worker,
            delivered: 1,
            stream_seq: delivery.seq,
            consumer_seq: delivery.consumer_seq,
            ts_ns: 0,
            pending: 0,
        };
        cursor.handle_ack(&AckKind::Ack, &tokens, host.bench.now);
    }
    let update = cursor.take_changes().unwrap();
    assert_eq!(
        host.bench.run(&Command::ConsumerUpdate(update)),
        Outcome::Done
    );
}
