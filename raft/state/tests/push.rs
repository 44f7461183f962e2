//! Push consumers: acknowledgements, listeners that come and go, and the pace of deliveries
//! (nats-surface §2.8, traps 56 and 61 to 63).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;

use bench::host::{Host, batch, pull_config};
use bench::{Bench, SECOND, config};
use unibus_proto::jetstream::api::ConsumerAction;
use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig, ReplayPolicy};
use unibus_state::Poll;

fn push_config() -> ConsumerConfig {
    ConsumerConfig {
        deliver_subject: "d".into(),
        ..pull_config()
    }
}

fn with(messages: usize, consumer: ConsumerConfig) -> Host {
    let mut bench = Bench::with(config(&["a.>"]));
    for _ in 0..messages {
        bench.publish("a.1", &[], "hi");
    }
    Host::new(bench, consumer)
}

/// What happens, second by second.
fn seconds(host: &mut Host, count: u64) -> Vec<String> {
    let mut seen = Vec::new();
    for second in 0..count {
        seen.extend(host.all().iter().map(|told| format!("{second}: {told}")));
        host.wait(1);
    }
    seen
}

#[test]
fn deliveries_wait_for_acknowledgements_and_listeners() {
    let config = ConsumerConfig {
        max_ack_pending: 2,
        ack_wait: 5 * SECOND as i64,
        deliver_group: "q".into(),
        ..push_config()
    };
    let mut host = with(3, config);
    assert_eq!(host.all(), ["d 1#1 +2", "d 2#2 +1"]);
    host.say(1, "");
    assert_eq!(host.all(), ["d 3#3 +0"]);
    host.cursor.handle_listening(false, host.bench.now);
    host.wait(5);
    assert!(host.all().is_empty(), "nobody listens");
    host.flush();
    host.cursor.handle_listening(true, host.bench.now);
    assert_eq!(host.all(), ["d 2#4 x2 +0", "d 3#5 x2 +0"]);
    host.flush();
}

#[test]
fn heartbeats_go_on_while_a_consumer_is_paused() {
    let config = ConsumerConfig {
        idle_heartbeat: SECOND as i64,
        pause_until: Some(unibus_proto::jetstream::timestamp::Timestamp(1003 * SECOND)),
        ..push_config()
    };
    let mut host = with(1, config);
    let seen = seconds(&mut host, 5);
    assert_eq!(seen, ["1: beat 0", "2: beat 0", "3: d 1#1 +0", "4: beat 1"]);
}

#[test]
fn unheard_ephemerals_are_abandoned() {
    let config = ConsumerConfig {
        durable_name: String::new(),
        name: "c".into(),
        ack_policy: AckPolicy::None,
        ..push_config()
    };
    let mut host = with(0, config);
    assert!(seconds(&mut host, 20).is_empty(), "somebody listens");
    host.cursor.handle_listening(false, host.bench.now);
    let seen = seconds(&mut host, 7);
    assert_eq!(seen, ["5: abandoned"]);
    host.cursor.handle_listening(true, host.bench.now);
    assert!(seconds(&mut host, 20).is_empty());
}

#[test]
fn replays_keep_the_original_gaps() {
    let mut bench = Bench::with(config(&["a.>"]));
    for gap in [0, 2, 1] {
        bench.now += gap * SECOND;
        bench.publish("a.1", &[], "hi");
    }
    bench.now += 100 * SECOND;
    let config = ConsumerConfig {
        replay_policy: ReplayPolicy::Original,
        ..push_config()
    };
    let mut host = Host::new(bench, config);
    assert_eq!(
        seconds(&mut host, 4),
        ["0: d 1#1 +2", "2: d 2#2 +1", "3: d 3#3 +0"]
    );
    host.bench.publish("a.1", &[], "hi");
    assert_eq!(host.all(), ["d 4#4 +0"], "caught up: at once");
}

#[test]
fn rates_are_limited() {
    // A thousand bits a second; each message is "a.1", "hi" and some 34 bytes of reply subject.
    let config = ConsumerConfig {
        rate_limit_bps: 1000,
        ..push_config()
    };
    let mut host = with(100, config);
    let start = host.bench.now;
    let mut sent = 0;
    while host.bench.now < start + 10 * SECOND {
        match host.poll() {
            Poll::Deliver(_) => sent += 1,
            Poll::Idle { deadline_ns } => {
                let next = deadline_ns.unwrap();
                assert!(next > host.bench.now, "time goes on");
                host.bench.now = next;
            }
            other => panic!("{other:?}"),
        }
    }
    let bits = "a.1hi$JS.ACK.S.c.1.10.10.1000000000000.90".len() * 8;
    let expected = 10 * 1000 / bits;
    assert!(
        sent >= expected && sent <= expected + 2,
        "{sent} of {expected}"
    );
}

#[test]
fn changes_of_a_consumer_reach_its_cursor() {
    let mut host = with(4, pull_config());
    host.pull(&batch(1), "x");
    assert_eq!(host.all(), ["x 1#1 +3"]);
    host.bench.publish("a.2", &[], "hi");
    let changed = ConsumerConfig {
        filter_subject: "a.2".into(),
        headers_only: true,
        ack_wait: 2 * SECOND as i64,
        ..pull_config()
    };
    host.bench.consumer(changed, ConsumerAction::Update);
    let stream = host.bench.state.stream("S").unwrap();
    let consumer = stream.consumer("c").unwrap();
    host.cursor.handle_update(stream, consumer);
    assert_eq!(host.cursor.num_pending(stream), 1, "the position stays");
    host.pull(&batch(2), "y");
    let Poll::Deliver(delivery) = host.poll() else {
        panic!("nothing delivered");
    };
    assert_eq!((delivery.seq, delivery.headers_only), (5, true));
    host.wait(2);
    assert_eq!(
        host.all(),
        ["y 1#3 x2 +0"],
        "the new patience counts for old deliveries"
    );
    host.flush();
}

/// What nats-server 2.14 does with the same consumer, observed from outside.
#[test]
fn answers_to_flow_control_acknowledge() {
    let config = ConsumerConfig {
        ack_policy: AckPolicy::FlowControl,
        max_ack_pending: 4,
        ..push_config()
    };
    let mut host = with(6, config);
    let flow = |host: &mut Host, number: u64, settled| {
        let reply = format!("$JS.FC.S.c.{number:04X}");
        let now = host.bench.now;
        host.cursor.handle_flow_control(&reply, settled, now);
    };
    let four = ["d 1#1 +5", "d 2#2 +4", "d 3#3 +3", "d 4#4 +2"];
    assert_eq!(host.all()[..4], four);
    host.flush();
    assert_eq!(host.say(2, "+ACK"), unibus_state::AckOutcome::Ignored);
    host.wait(1);
    let stalled = |poll: Poll| match poll {
        Poll::Heartbeat { stalled, .. } => stalled,
        other => panic!("{other:?}"),
    };
    assert_eq!(stalled(host.poll()), Some("$JS.FC.S.c.0001".to_owned()));
    // An answer that names nothing settles nothing; the next heartbeat asks again.
    flow(&mut host, 1, None);
    host.wait(1);
    assert_eq!(host.all(), ["beat 4", "flow $JS.FC.S.c.0002"]);
    flow(&mut host, 2, Some(3));
    assert_eq!(host.all(), ["d 5#5 +1", "d 6#6 +0"]);
    host.flush();
    assert_eq!(host.consumer().ledger().ack_floor().stream_seq, 3);
    // Nothing comes again by itself, however long it takes, nor at the next leader.
    host.wait(100);
    host.fail_over();
    assert_eq!(host.all(), Vec::<String>::new());
    // Nobody is asked who was asked before, nor is it acknowledged by whoever makes up an answer.
    flow(&mut host, 9, Some(6));
    flow(&mut host, 2, Some(6));
    assert_eq!(host.cursor.ledger().pending().len(), 3);
    // A receiver that says it has more than it got settles what it got.
    host.cursor.handle_taken(99, host.bench.now);
    host.flush();
    let ledger = host.consumer().ledger();
    assert_eq!(ledger.ack_floor().stream_seq, 6);
    assert!(ledger.pending().is_empty());
}
