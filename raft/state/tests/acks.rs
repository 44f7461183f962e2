//! Acknowledgements, their absence and what the row learns of them (nats-surface §2.7, traps 47 to 52).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;

use bench::host::{Host, batch, pull_config};
use bench::{Bench, SECOND, config, refused};
use unibus_proto::jetstream::config::{Retention, StreamConfig};
use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig};
use unibus_proto::jetstream::pull::PullRequest;
use unibus_state::command::{Command, ConsumerReset};
use unibus_state::{
    AckOutcome, ConsumerUpdate, DEAD_LETTER_KEY, EncodedBatch, LetterFate, Outcome, Poll, Position,
    STALE_UPDATE,
};

fn with(messages: usize, consumer: ConsumerConfig) -> Host {
    let mut bench = Bench::with(config(&["a.>"]));
    for _ in 0..messages {
        bench.publish("a.1", &[], "hi");
    }
    Host::new(bench, consumer)
}

fn at(consumer_seq: u64, stream_seq: u64) -> Position {
    Position {
        consumer_seq,
        stream_seq,
    }
}

#[test]
fn floors_follow_contiguous_acknowledgements() {
    let mut host = with(4, pull_config());
    host.pull(&batch(4), "x");
    host.all();
    assert_eq!(host.say(2, "+ACK"), AckOutcome::AfterUpdate);
    assert_eq!(host.cursor.ledger().ack_floor(), at(0, 0));
    host.flush();
    assert_eq!(host.say(1, ""), AckOutcome::AfterUpdate);
    assert_eq!(host.cursor.ledger().ack_floor(), at(2, 2));
    assert_eq!(
        host.say(1, ""),
        AckOutcome::AfterUpdate,
        "it counted before"
    );
    assert_eq!(host.say(9, ""), AckOutcome::Ignored, "never delivered");
    host.say(3, "");
    host.say(4, "");
    assert_eq!(host.cursor.ledger().ack_floor(), at(4, 4));
    host.flush();
    assert!(!host.cursor.has_changes());
    assert_eq!(host.cursor.take_changes(), None);
}

#[test]
fn what_is_not_acknowledged_comes_again_in_order() {
    let mut host = with(3, pull_config());
    host.pull(&batch(9), "x");
    assert_eq!(host.all().len(), 3);
    host.say(2, "");
    host.wait(29);
    host.say(3, "+WPI");
    host.bench.publish("a.1", &[], "hi");
    assert_eq!(host.all(), ["x 4#4 +0"]);
    host.wait(1);
    assert_eq!(host.all(), ["x 1#5 x2 +0"], "3 is being worked on");
    host.say(4, "-NAK");
    host.say(3, "-NAK {\"delay\": 5000000000}");
    let told = host.all();
    assert!(told[0].starts_with("Naked") && told[1].starts_with("Naked"));
    assert_eq!(told[2], "x 4#6 x2 +0");
    host.flush();
    host.wait(5);
    assert_eq!(host.all(), ["x 3#7 x2 +0"]);
    assert_eq!(host.cursor.ledger().redelivered(), 3);
    assert_eq!(host.cursor.ledger().delivered(), at(7, 4));
    for seq in [1, 3, 4] {
        host.say(seq, "");
    }
    host.flush();
    assert_eq!(host.cursor.ledger().ack_floor(), at(7, 4));
    assert_eq!(host.cursor.ledger().redelivered(), 0);
}

#[test]
fn backoff_sets_each_wait_and_the_last_one_repeats() {
    let backoff = ConsumerConfig {
        backoff: vec![SECOND as i64, 3 * SECOND as i64],
        max_deliver: 4,
        ..pull_config()
    };
    let mut host = with(1, backoff);
    assert_eq!(host.consumer().config().ack_wait, SECOND as i64);
    host.pull(&batch(9), "x");
    let mut seen = Vec::new();
    for second in 0..12 {
        for told in host.all() {
            seen.push(format!("{second} {told}"));
        }
        host.wait(1);
    }
    assert_eq!(
        seen[..4],
        [
            "0 x 1#1 +0",
            "1 x 1#2 x2 +0",
            "4 x 1#3 x3 +0",
            "7 x 1#4 x4 +0"
        ]
    );
    assert_eq!(seen[4], "10 MaxDeliveries { stream_seq: 1, deliveries: 4 }");
    assert_eq!(seen.len(), 5);
    host.flush();
    assert!(host.cursor.ledger().pending().is_empty());
    assert_eq!(
        host.cursor.ledger().ack_floor(),
        at(0, 0),
        "it was not settled"
    );
    assert_eq!(host.bench.live(), [1], "it stays in the stream");
}

#[test]
fn a_refused_last_delivery_is_over_at_once() {
    let once = ConsumerConfig {
        max_deliver: 1,
        ..pull_config()
    };
    let mut host = with(1, once);
    host.pull(&batch(9), "x");
    host.all();
    host.say(1, "-NAK");
    let told = host.all();
    assert!(told[0].starts_with("Naked"), "{told:?}");
    assert!(told[1].starts_with("MaxDeliveries"), "{told:?}");
    assert_eq!(told.len(), 2);
}

#[test]
fn termination_settles() {
    let mut host = with(1, pull_config());
    host.pull(&batch(9), "x");
    host.all();
    host.say(1, "+TERM broken");
    assert_eq!(
        host.all(),
        ["Terminated { stream_seq: 1, consumer_seq: 1, deliveries: 1, reason: Some(\"broken\") }"]
    );
    host.flush();
    assert_eq!(host.cursor.ledger().ack_floor(), at(1, 1));
}

#[test]
fn one_acknowledgement_may_cover_all_before_it() {
    let all = ConsumerConfig {
        ack_policy: AckPolicy::All,
        ..pull_config()
    };
    let mut host = with(5, all);
    host.pull(&batch(5), "x");
    host.all();
    host.flush();
    host.say(3, "");
    assert_eq!(host.cursor.ledger().ack_floor(), at(3, 3));
    assert_eq!(host.cursor.ledger().pending().len(), 2);
    host.flush();
}

#[test]
fn without_acknowledgements_delivered_is_done() {
    let none = ConsumerConfig {
        ack_policy: AckPolicy::None,
        ..pull_config()
    };
    let mut host = with(2, none);
    host.pull(&batch(5), "x");
    assert_eq!(host.all().len(), 2);
    assert_eq!(host.say(1, ""), AckOutcome::Ignored);
    let update = host.cursor.take_changes().unwrap();
    assert!(update.is_empty(), "only positions: {update:?}");
    assert_eq!(
        host.bench.run(&Command::ConsumerUpdate(update)),
        Outcome::Done
    );
    assert_eq!(host.consumer().ledger().ack_floor(), at(2, 2));
}

#[test]
fn too_many_unacknowledged_messages_hold_new_ones_back() {
    let two = ConsumerConfig {
        max_ack_pending: 2,
        ..pull_config()
    };
    let mut host = with(4, two);
    host.pull(&batch(9), "x");
    assert_eq!(host.all(), ["x 1#1 +3", "x 2#2 +2"]);
    host.wait(30);
    assert_eq!(
        host.all(),
        ["x 1#3 x2 +2", "x 2#4 x2 +2"],
        "not redeliveries"
    );
    host.say(1, "");
    assert_eq!(host.all(), ["x 3#5 +1"]);
}

#[test]
fn removed_messages_are_not_waited_for() {
    let mut host = with(4, pull_config());
    host.pull(&batch(3), "x");
    host.all();
    host.flush();
    host.bench.delete(2);
    host.bench.purge("", 2, 0);
    let info = host.cursor.info(host.bench.state.stream("S").unwrap());
    assert_eq!((info.num_ack_pending, info.num_pending), (1, 1));
    host.flush();
    assert_eq!(host.cursor.ledger().ack_floor(), at(2, 2));
    host.wait(30);
    host.pull(&batch(9), "x");
    assert_eq!(host.all(), ["x 3#4 x2 +1", "x 4#5 +0"]);
    host.bench.purge("", 0, 0);
    let info = host.cursor.info(host.bench.state.stream("S").unwrap());
    assert_eq!((info.num_ack_pending, info.num_pending), (0, 0));
    host.flush();
    assert_eq!(
        host.cursor.ledger().ack_floor(),
        host.cursor.ledger().delivered()
    );
}

#[test]
fn a_new_leader_forgets_only_what_was_not_reported() {
    let mut host = with(4, pull_config());
    host.pull(&batch(3), "x");
    host.all();
    host.say(1, "");
    host.flush();
    host.say(2, "");
    host.pull(&batch(1), "x");
    assert_eq!(host.all(), ["x 4#4 +0"]);
    host.fail_over();
    host.pull(&batch(9), "y");
    assert_eq!(host.all(), ["y 4#4 +0"], "as if it had not been delivered");
    host.wait(30);
    assert_eq!(host.all(), ["y 2#5 x2 +0", "y 3#6 x2 +0", "y 4#7 x2 +0"]);
    host.say(2, "");
    host.say(3, "");
    host.say(4, "");
    host.flush();
    assert_eq!(host.cursor.ledger().ack_floor(), at(7, 4));
}

#[test]
fn late_reports_are_refused() {
    let mut host = with(4, pull_config());
    host.pull(&batch(2), "x");
    host.all();
    let late = host.cursor.take_changes().unwrap();
    host.say(1, "");
    let later = host.cursor.take_changes().unwrap();
    host.fail_over();
    host.pull(&batch(1), "y");
    host.all();
    host.flush();
    let stale = |outcome| refused(outcome).1 == STALE_UPDATE.err_code;
    let before = host.bench.state.digest();
    for update in [&late, &later] {
        assert!(stale(
            host.bench.run(&Command::ConsumerUpdate(update.clone()))
        ));
    }
    assert_eq!(host.bench.state.digest(), before);
    host.flush();
    // The other way round: what the old leader reported counts, and the new one starts again from it.
    let mut host = with(4, pull_config());
    host.pull(&batch(2), "x");
    host.all();
    let first = host.cursor.take_changes().unwrap();
    host.fail_over();
    host.pull(&batch(1), "y");
    host.all();
    let lost = [host.cursor.take_changes().unwrap(), {
        host.say(1, "");
        host.cursor.take_changes().unwrap()
    }];
    host.pull(&batch(2), "z");
    assert_eq!(
        host.bench.run(&Command::ConsumerUpdate(first)),
        Outcome::Done
    );
    for update in lost {
        assert!(stale(host.bench.run(&Command::ConsumerUpdate(update))));
    }
    let stream = host.bench.state.stream("S").unwrap();
    let consumer = stream.consumer("c").unwrap();
    host.cursor.handle_refused(stream, consumer, host.bench.now);
    assert_eq!(host.all(), ["z 3#3 +1", "z 4#4 +0"], "requests still wait");
    host.flush();
}

fn is_overtaken(host: &mut Host) -> bool {
    let stream = host.bench.state.stream("S").unwrap();
    host.cursor.is_overtaken(stream.consumer("c").unwrap())
}

#[test]
fn a_cursor_expects_its_own_reports_in_the_row() {
    let mut host = with(4, pull_config());
    host.pull(&batch(4), "x");
    host.all();
    let mut reports = vec![host.cursor.take_changes().unwrap()];
    for seq in 1..=4 {
        host.say(seq, "");
        reports.push(host.cursor.take_changes().unwrap());
    }
    assert!(!is_overtaken(&mut host), "none is applied");
    for (at, report) in reports.into_iter().enumerate() {
        let outcome = host.bench.run(&Command::ConsumerUpdate(report));
        assert_eq!(outcome, Outcome::Done);
        // Not looked at after each: several may be applied in between.
        assert!(at % 2 == 0 || !is_overtaken(&mut host), "{at}");
    }
    assert!(!is_overtaken(&mut host), "all are applied");
}

#[test]
fn what_an_earlier_leader_settled_is_not_delivered_again() {
    let mut host = with(3, pull_config());
    host.pull(&batch(3), "x");
    host.all();
    host.flush();
    host.say(1, "");
    host.say(2, "");
    let late = host.cursor.take_changes().unwrap();
    host.fail_over();
    host.wait(60);
    host.pull(&batch(1), "y");
    assert_eq!(host.all(), ["y 1#4 x2 +0"], "not known to be settled");
    let own = host.cursor.take_changes().unwrap();
    // The earlier leader's report reaches the log now, and its client is told that 1 and 2 are settled.
    let outcome = host.bench.run(&Command::ConsumerUpdate(late));
    assert_eq!(outcome, Outcome::Done);
    let outcome = host.bench.run(&Command::ConsumerUpdate(own));
    assert_eq!(refused(outcome).1, STALE_UPDATE.err_code);
    assert!(is_overtaken(&mut host));
    let stream = host.bench.state.stream("S").unwrap();
    let consumer = stream.consumer("c").unwrap();
    host.cursor.handle_refused(stream, consumer, host.bench.now);
    assert!(!is_overtaken(&mut host));
    host.pull(&batch(9), "z");
    assert_eq!(host.all(), ["z 3#4 x2 +0"]);
    host.flush();
}

#[test]
fn reports_of_another_incarnation_are_refused() {
    let mut host = with(2, pull_config());
    host.pull(&batch(2), "x");
    host.all();
    let update = host.cursor.take_changes().unwrap();
    let delete = unibus_state::command::ConsumerDelete {
        stream: "S".into(),
        name: "c".into(),
        created_ns: None,
        privileged: false,
    };
    host.bench.run(&Command::ConsumerDelete(delete));
    host.bench.now += 1;
    let mut host = Host::new(host.bench, pull_config());
    assert_eq!(
        refused(host.bench.run(&Command::ConsumerUpdate(update))).1,
        STALE_UPDATE.err_code
    );
    host.pull(&batch(1), "y");
    assert_eq!(host.all(), ["y 1#1 +1"]);
}

#[test]
fn a_reset_starts_again() {
    let mut host = with(4, pull_config());
    host.pull(&batch(3), "x");
    host.all();
    host.say(1, "");
    host.flush();
    let reset = |seq| {
        Command::ConsumerReset(ConsumerReset {
            stream: "S".into(),
            name: "c".into(),
            seq,
            privileged: false,
        })
    };
    let stale = host.cursor.take_changes();
    assert_eq!(stale, None);
    assert_eq!(host.bench.run(&reset(0)), Outcome::Done);
    let stream = host.bench.state.stream("S").unwrap();
    let consumer = stream.consumer("c").unwrap();
    host.cursor.handle_refused(stream, consumer, host.bench.now);
    host.pull(&batch(9), "y");
    assert_eq!(host.all(), ["y 2#1 +2", "y 3#2 +1", "y 4#3 +0"]);
    host.flush();
}

#[test]
fn a_refused_message_without_deliveries_left_is_given_up_behind_others_that_are_due() {
    let mut host = with(
        2,
        ConsumerConfig {
            max_deliver: 2,
            ..pull_config()
        },
    );
    host.pull(&batch(2), "x");
    host.all();
    host.say(2, "-NAK");
    host.pull(&batch(1), "y");
    assert_eq!(
        host.all(),
        [
            "Naked { stream_seq: 2, consumer_seq: 2, deliveries: 1 }",
            "y 2#3 x2 +0"
        ]
    );
    host.wait(30);
    host.say(2, "-NAK");
    assert_eq!(
        host.all(),
        [
            "Naked { stream_seq: 2, consumer_seq: 2, deliveries: 2 }",
            "MaxDeliveries { stream_seq: 2, deliveries: 2 }"
        ]
    );
    assert_eq!(
        host.cursor.ledger().pending().len(),
        1,
        "the first is due and waits for a request"
    );
}

#[test]
fn dead_letters_are_settled_once_they_are_stored() {
    let mut letters = ConsumerConfig {
        max_deliver: 2,
        ..pull_config()
    };
    let mut own = letters.clone();
    own.metadata.insert(DEAD_LETTER_KEY.into(), "a.dead".into());
    letters
        .metadata
        .insert(DEAD_LETTER_KEY.into(), "dead".into());
    let mut bench = Bench::with(StreamConfig {
        retention: Retention::Workqueue,
        ..config(&["a.>"])
    });
    let own = bench.consumer(own, unibus_proto::jetstream::api::ConsumerAction::Create);
    assert_eq!(refused(own).1, 10012, "the own stream would loop");
    bench.publish("a.1", &[], "hi");
    let mut host = Host::new(bench, letters);
    host.pull(&batch(9), "x");
    assert_eq!(host.all(), ["x 1#1 +0"]);
    host.wait(30);
    assert_eq!(host.all(), ["x 1#2 x2 +0"]);
    host.wait(30);
    assert_eq!(
        host.all(),
        [
            "letter 1 to dead",
            "MaxDeliveries { stream_seq: 1, deliveries: 2 }"
        ]
    );
    host.wait(30);
    assert!(host.all().is_empty(), "on its way");
    host.cursor
        .handle_dead_letter(1, LetterFate::Later, host.bench.now);
    assert!(host.all().is_empty());
    host.wait(1);
    assert_eq!(host.all(), ["letter 1 to dead"]);
    host.flush();
    host.fail_over();
    let again = host.all();
    assert_eq!(
        again[0], "letter 1 to dead",
        "a new leader does not forget it"
    );
    assert_eq!(host.bench.live(), [1]);
    host.cursor
        .handle_dead_letter(1, LetterFate::Stored, host.bench.now);
    host.flush();
    assert!(host.bench.live().is_empty());
    assert!(matches!(host.poll(), Poll::Idle { .. }));
}

#[test]
fn a_dead_letter_that_is_refused_gives_its_message_up() {
    let mut letters = ConsumerConfig {
        max_deliver: 1,
        max_ack_pending: 1,
        ..pull_config()
    };
    letters
        .metadata
        .insert(DEAD_LETTER_KEY.into(), "dead".into());
    let mut host = with(2, letters);
    host.pull(&batch(9), "x");
    assert_eq!(host.all(), ["x 1#1 +1"]);
    host.wait(30);
    assert_eq!(host.all()[0], "letter 1 to dead");
    // Each failure doubles the pause: 1 s, 2 s, up to 64 s.
    for pause in [1, 2, 4, 8, 16, 32, 64, 64] {
        host.cursor
            .handle_dead_letter(1, LetterFate::Later, host.bench.now);
        host.wait(pause - 1);
        assert!(host.all().is_empty(), "{pause} s are not over");
        host.wait(1);
        assert_eq!(host.all(), ["letter 1 to dead"], "after {pause} s");
    }
    host.cursor
        .handle_dead_letter(1, LetterFate::Refused, host.bench.now);
    host.pull(&batch(1), "y");
    assert!(
        host.all().iter().any(|sent| sent.contains(" 2#")),
        "its place is free"
    );
    assert_eq!(host.bench.live(), [1, 2], "it stays in its stream");
    // Told a second time, it changes nothing.
    host.cursor
        .handle_dead_letter(1, LetterFate::Refused, host.bench.now);
    assert_eq!(host.cursor.ledger().pending().len(), 1);
}

#[test]
fn requests_are_bounded_whatever_they_and_their_consumer_ask_for() {
    let mut host = with(
        0,
        ConsumerConfig {
            max_waiting: 1_000_000,
            ..pull_config()
        },
    );
    let eager = PullRequest {
        idle_heartbeat: 1,
        expires: 60_000_000_000,
        ..batch(1)
    };
    assert_eq!(host.pull(&eager, "x"), None);
    host.bench.now += SECOND / 20;
    assert!(host.all().is_empty(), "not every nanosecond");
    host.bench.now += SECOND / 20;
    assert_eq!(host.all(), ["x: 100 Idle Heartbeat 0/0"]);
    for _ in 1..65_536 {
        assert_eq!(host.pull(&batch(1), "y"), None);
    }
    assert_eq!(
        host.pull(&batch(1), "z").as_deref(),
        Some("409 Exceeded MaxWaiting")
    );
}

/// Polls everything and says that nothing from `from` on could be read (with `in_order`), or only that one.
fn unread(host: &mut Host, from: u64, in_order: bool) -> Vec<u64> {
    let mut before = host.cursor.ledger().delivered();
    let (mut sent, mut left) = (Vec::new(), Vec::new());
    loop {
        match host.poll() {
            Poll::Deliver(delivery) if delivery.seq == from || (in_order && !left.is_empty()) => {
                left.push(delivery);
            }
            Poll::Deliver(delivery) => {
                if left.is_empty() {
                    before = at(delivery.consumer_seq, delivery.seq);
                }
                sent.push(delivery.seq);
            }
            Poll::Idle { .. } => break,
            _ => {}
        }
    }
    let unread: Vec<_> = left.iter().collect();
    let stream = host.bench.stream();
    let consumer = stream.consumer("c").unwrap();
    host.cursor
        .handle_unread(stream, consumer, before, &unread, host.bench.now);
    sent
}

#[test]
fn what_can_not_be_read_is_delivered_once_it_can() {
    for ack_policy in [AckPolicy::None, AckPolicy::All, AckPolicy::Explicit] {
        let config = ConsumerConfig {
            ack_policy,
            max_deliver: if ack_policy == AckPolicy::None { -1 } else { 1 },
            ..pull_config()
        };
        let mut host = with(5, config);
        let in_order = ack_policy != AckPolicy::Explicit;
        host.pull(&batch(9), "x");
        let sent = unread(&mut host, 3, in_order);
        assert_eq!(
            sent,
            if in_order {
                vec![1, 2]
            } else {
                vec![1, 2, 4, 5]
            }
        );
        assert!(host.all().is_empty(), "{ack_policy:?}: not before a pause");
        host.flush();
        // Again, and nothing comes twice.
        host.wait(1);
        assert!(unread(&mut host, 3, in_order).is_empty());
        host.wait(1);
        let mut later = Vec::new();
        while let Poll::Deliver(delivery) = host.poll() {
            assert_eq!(delivery.delivered, 1, "{ack_policy:?}: it counts once");
            later.push(delivery.seq);
        }
        assert_eq!(later, if in_order { vec![3, 4, 5] } else { vec![3] });
        host.flush();
    }
}

#[test]
fn a_request_gets_the_place_back_that_was_not_used() {
    let mut host = with(3, pull_config());
    host.pull(&batch(2), "x");
    host.pull(&batch(1), "y");
    // x 1, y 2, x 3: the first request still wants one when 1 is given back, the second is over.
    assert_eq!(unread(&mut host, 2, false), [1, 3]);
    assert_eq!(host.all(), ["y: 408 Request Timeout 1/0"]);
    host.pull(&batch(1), "z");
    host.wait(1);
    assert_eq!(host.all(), ["z 2#4 +0"]);
}

#[test]
fn samples_are_taken_as_often_as_asked() {
    for (freq, share) in [("100%", 100), ("30", 30), ("0%", 0)] {
        let sampled = ConsumerConfig {
            sample_freq: freq.into(),
            ..pull_config()
        };
        let mut host = with(100, sampled);
        host.pull(&batch(100), "x");
        host.all();
        host.wait(2);
        for seq in 1..=100 {
            host.say(seq, "");
        }
        let told = host.all();
        assert_eq!(told.len(), share, "{freq}");
        assert!(
            told.iter()
                .all(|line| line.contains("ack_time_ns: 2000000000"))
        );
    }
}

#[test]
fn a_report_costs_what_changed_and_not_what_is_open() {
    let unlimited = ConsumerConfig {
        max_ack_pending: -1,
        ..pull_config()
    };
    let mut host = with(5_000, unlimited);
    host.pull(&batch(5_000), "x");
    assert_eq!(host.all().len(), 5_000);
    let all = host.cursor.take_changes().unwrap();
    assert_eq!((all.pending.len(), all.settled.len()), (5_000, 0));
    let bytes = |update: &ConsumerUpdate| {
        let command = Command::ConsumerUpdate(update.clone());
        EncodedBatch::of(&command).unwrap().bytes.len()
    };
    assert!(bytes(&all) < 5_000 * 8, "{}", bytes(&all));
    host.bench.run(&Command::ConsumerUpdate(all));
    host.say(4_000, "");
    let one = host.cursor.take_changes().unwrap();
    assert_eq!((one.pending.len(), one.settled.len()), (0, 1));
    assert!(bytes(&one) < 100);
    host.bench.run(&Command::ConsumerUpdate(one));
    // Delivered and acknowledged between two reports: the position says it all.
    host.bench.publish("a.1", &[], "hi");
    host.pull(&batch(1), "x");
    host.all();
    host.say(5_001, "");
    assert_eq!(host.cursor.take_changes().unwrap().len(), 0);
}
