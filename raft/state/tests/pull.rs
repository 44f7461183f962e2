//! Pull requests: who gets what, in which order, and how each request ends (nats-surface §2.6, traps 53
//! to 55).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;

use bench::host::{Host, batch, pull_config};
use bench::{Bench, SECOND, config};
use unibus_proto::jetstream::api::ConsumerAction;
use unibus_proto::jetstream::consumer::ConsumerConfig;
use unibus_proto::jetstream::pull::PullRequest;
use unibus_proto::jetstream::timestamp::Timestamp;
use unibus_state::command::{Command, ConsumerPause};
use unibus_state::{Outcome, Poll, Status};

fn with(messages: usize, consumer: ConsumerConfig) -> Host {
    let mut bench = Bench::with(config(&["a.>"]));
    for _ in 0..messages {
        bench.publish("a.1", &[], "hi");
    }
    Host::new(bench, consumer)
}

fn no_wait(messages: i64) -> PullRequest {
    PullRequest {
        no_wait: true,
        ..batch(messages)
    }
}

fn expiring(messages: i64, seconds: u64) -> PullRequest {
    PullRequest {
        expires: (seconds * SECOND) as i64,
        ..batch(messages)
    }
}

#[test]
fn requests_take_turns() {
    let mut host = with(5, pull_config());
    assert_eq!(host.pull(&batch(2), "x"), None);
    assert_eq!(host.pull(&batch(2), "y"), None);
    assert_eq!(host.all(), ["x 1#1 +4", "y 2#2 +3", "x 3#3 +2", "y 4#4 +1"]);
    assert_eq!(host.pull(&batch(9), "z"), None);
    assert_eq!(host.all(), ["z 5#5 +0"]);
    host.bench.publish("a.1", &[], "hi");
    assert_eq!(host.all(), ["z 6#6 +0"], "the rest of a request waits");
}

#[test]
fn requests_without_waiting_end_with_what_is_there() {
    let mut host = with(2, pull_config());
    assert_eq!(host.pull(&no_wait(5), "x"), None);
    assert_eq!(host.all(), ["x 1#1 +1", "x 2#2 +0", "x: 404 No Messages"]);
    assert_eq!(host.pull(&no_wait(5), "x").unwrap(), "404 No Messages");
    let waits = PullRequest {
        no_wait: true,
        ..expiring(5, 1)
    };
    assert_eq!(host.pull(&waits, "y"), None);
    assert!(
        host.all().is_empty(),
        "with an expiry it waits for the first"
    );
    host.bench.publish("a.1", &[], "hi");
    assert_eq!(host.all(), ["y 3#3 +0", "y: 404 No Messages"]);
    assert_eq!(host.pull(&waits, "y"), None);
    host.wait(1);
    assert_eq!(host.all(), ["y: 408 Request Timeout 5/0"]);
    host.bench.publish("a.1", &[], "hi");
    assert_eq!(host.pull(&batch(5), "z"), None);
    assert_eq!(
        host.pull(&no_wait(1), "x").unwrap(),
        "408 Requests Pending",
        "others want more than there is"
    );
}

#[test]
fn requests_expire_after_their_messages() {
    let mut host = with(1, pull_config());
    host.pull(&expiring(3, 2), "x");
    assert_eq!(host.all(), ["x 1#1 +0"]);
    let Poll::Idle { deadline_ns } = host.poll() else {
        panic!("not idle");
    };
    assert_eq!(deadline_ns, Some(host.bench.now + 2 * SECOND));
    host.wait(2);
    assert_eq!(host.all(), ["x: 408 Request Timeout 2/0"]);
    host.bench.publish("a.1", &[], "hi");
    assert!(host.all().is_empty());
}

#[test]
fn heartbeats_fill_the_silence_of_a_request() {
    let mut host = with(1, pull_config());
    let request = PullRequest {
        idle_heartbeat: SECOND as i64,
        ..expiring(3, 4)
    };
    host.pull(&request, "x");
    assert_eq!(host.all(), ["x 1#1 +0"]);
    host.wait(1);
    assert_eq!(host.all(), ["x: 100 Idle Heartbeat 1/1"]);
    host.wait(1);
    host.bench.publish("a.1", &[], "hi");
    let told = host.all();
    assert_eq!(told, ["x: 100 Idle Heartbeat 1/1", "x 2#2 +0"]);
    host.wait(2);
    assert_eq!(host.all(), ["x: 408 Request Timeout 1/0"]);
}

#[test]
fn bytes_limit_a_request() {
    let mut host = with(3, pull_config());
    // "a.1" + "hi" + "$JS.ACK.S.c.1.N.N.1000000000000.M".
    let one = ("a.1hi".len() + "$JS.ACK.S.c.1.1.1.1000000000000.2".len()) as i64;
    let bytes = |max_bytes: i64| PullRequest {
        max_bytes,
        ..batch(5)
    };
    host.pull(&bytes(one + 3), "x");
    let told = host.all();
    assert_eq!(
        told,
        ["x 1#1 +2", "x: 409 Message Size Exceeds MaxBytes 4/3"]
    );
    host.pull(&bytes(one), "y");
    assert_eq!(host.all(), ["y 2#2 +1"], "exactly used up: it is over");
    let last = PullRequest {
        batch: 1,
        ..bytes(one + 3)
    };
    host.pull(&last, "z");
    assert_eq!(host.all(), ["z 3#3 +0", "z: 409 Batch Completed 0/3"]);
}

#[test]
fn limits_of_the_consumer_bind_requests() {
    let limited = ConsumerConfig {
        max_batch: 5,
        max_expires: 60 * SECOND as i64,
        max_bytes: 1000,
        max_waiting: 1,
        ..pull_config()
    };
    let mut host = with(0, limited);
    let refused = |host: &mut Host, request: PullRequest| host.pull(&request, "x").unwrap();
    assert_eq!(
        refused(&mut host, batch(6)),
        "409 Exceeded MaxRequestBatch of 5"
    );
    assert_eq!(
        refused(&mut host, expiring(1, 61)),
        "409 Exceeded MaxRequestExpires of 1m0s"
    );
    let bytes = PullRequest {
        max_bytes: 1001,
        ..batch(1)
    };
    assert_eq!(
        refused(&mut host, bytes),
        "409 Exceeded MaxRequestMaxBytes of 1000"
    );
    assert_eq!(host.pull(&expiring(1, 1), "x"), None);
    assert_eq!(refused(&mut host, batch(1)), "409 Exceeded MaxWaiting");
    host.wait(1);
    assert_eq!(host.pull(&batch(1), "y"), None, "the other one is over");
    assert_eq!(host.all(), ["x: 408 Request Timeout 1/0"]);
}

#[test]
fn lost_interest_and_the_end_of_a_consumer_end_requests() {
    let mut host = with(1, pull_config());
    host.pull(&batch(1), "x");
    host.pull(&batch(1), "y");
    assert!(host.cursor.handle_interest_lost(b"x"));
    assert!(!host.cursor.handle_interest_lost(b"x"));
    let Poll::Deliver(delivery) = host.poll() else {
        panic!("nothing delivered");
    };
    assert_eq!(&delivery.to[..], b"y");
    // Nobody was there any more: the next one gets it at once, as if for the first time.
    host.cursor.handle_undelivered(&delivery);
    host.pull(&batch(1), "z");
    assert_eq!(host.all(), ["z 1#2 +0"]);
    host.pull(&batch(1), "w");
    let ended = host.cursor.close(&Status::CONSUMER_DELETED);
    assert_eq!(ended.len(), 1);
    assert_eq!((&ended[0].0[..], ended[0].1.code), (&b"w"[..], 409));
    host.flush();
}

#[test]
fn push_consumers_refuse_requests() {
    let push = ConsumerConfig {
        deliver_subject: "d".into(),
        ..pull_config()
    };
    let mut host = with(0, push);
    let refused = host.pull(&batch(1), "x").unwrap();
    assert_eq!(refused, "409 Consumer is push based");
}

#[test]
fn unused_consumers_say_so() {
    let ephemeral = ConsumerConfig {
        durable_name: String::new(),
        name: "c".into(),
        inactive_threshold: 10 * SECOND as i64,
        ..pull_config()
    };
    let mut host = with(0, ephemeral);
    host.pull(&expiring(1, 60), "x");
    host.wait(59);
    assert!(host.all().is_empty(), "a waiting request is use");
    host.wait(1);
    assert_eq!(host.all(), ["x: 408 Request Timeout 1/0"]);
    host.wait(9);
    assert!(host.all().is_empty());
    host.wait(1);
    assert_eq!(host.all(), ["abandoned"]);
    assert!(host.all().is_empty(), "not all the time");
    host.wait(5);
    assert_eq!(host.all(), ["abandoned"]);
}

#[test]
fn overflow_requests_wait_for_a_backlog() {
    let overflow = ConsumerConfig {
        priority_groups: vec!["A".into()],
        priority_policy: "overflow".into(),
        ..pull_config()
    };
    let mut host = with(2, overflow);
    assert_eq!(
        host.pull(&batch(1), "x").unwrap(),
        "400 Bad Request - Priority Group missing"
    );
    let of = |group: &str, min_pending: i64| PullRequest {
        group: group.into(),
        min_pending,
        ..batch(5)
    };
    assert_eq!(
        host.pull(&of("B", 0), "x").unwrap(),
        "400 Bad Request - Invalid Priority Group"
    );
    let pinned = PullRequest {
        id: "p".into(),
        ..of("A", 0)
    };
    assert_eq!(
        host.pull(&pinned, "x").unwrap(),
        "400 Bad Request - Not a Pinned Client Priority consumer"
    );
    assert_eq!(host.pull(&of("A", 3), "x"), None);
    assert!(host.all().is_empty());
    host.bench.publish("a.1", &[], "hi");
    assert_eq!(host.all(), ["x 1#1 +2"], "only while there are three");
    let acks = PullRequest {
        group: "A".into(),
        min_ack_pending: 2,
        ..batch(5)
    };
    assert_eq!(host.pull(&acks, "y"), None);
    assert!(host.all().is_empty());
    assert_eq!(host.pull(&of("A", 0), "z"), None);
    assert_eq!(host.all(), ["z 2#2 +1", "y 3#3 +0"]);
}

#[test]
fn a_pinned_client_gets_everything_until_it_is_gone() {
    let pinned = ConsumerConfig {
        priority_groups: vec!["A".into()],
        priority_policy: "pinned_client".into(),
        priority_timeout: 10 * SECOND as i64,
        ..pull_config()
    };
    let mut host = with(6, pinned);
    let of = |id: &str, messages: i64| PullRequest {
        group: "A".into(),
        id: id.into(),
        ..batch(messages)
    };
    assert_eq!(host.pull(&of("", 1), "x"), None);
    assert_eq!(host.pull(&of("", 1), "y"), None);
    let Poll::Deliver(first) = host.poll() else {
        panic!("nothing delivered");
    };
    let pin = first.pin.unwrap();
    assert_eq!(&first.to[..], b"x");
    assert!(host.all()[0].starts_with("Pinned"));
    assert_eq!(
        host.pull(&of("wrong", 1), "x").unwrap(),
        "423 Nats-Pin-Id mismatch"
    );
    assert_eq!(host.pull(&of(&pin, 2), "x"), None);
    assert_eq!(host.all(), ["x 2#2 +4", "x 3#3 +3"]);
    host.flush();
    host.fail_over();
    let held = host.cursor.info(host.bench.state.stream("S").unwrap());
    assert_eq!(held.pinned.unwrap().1, pin, "a new leader knows the pin");
    assert_eq!(host.pull(&of("", 1), "y"), None);
    assert!(host.all().is_empty());
    host.wait(10);
    let told = host.all();
    assert!(
        told[0].starts_with("Unpinned") && told[0].contains("timeout"),
        "{told:?}"
    );
    assert_eq!(told[1], "y 4#4 +2");
    assert!(host.cursor.handle_unpin("A", host.bench.now));
    assert!(!host.cursor.handle_unpin("B", host.bench.now));
    assert_eq!(host.pull(&of(&pin, 2), "x"), None);
    let told = host.all();
    assert!(
        told.contains(&"x: 423 Nats-Wrong-Pin-Id 2/0".to_owned()),
        "{told:?}"
    );
}

#[test]
fn the_rest_of_the_request_that_brought_the_pin_goes_with_it() {
    let pinned = ConsumerConfig {
        priority_groups: vec!["A".into()],
        priority_policy: "pinned_client".into(),
        priority_timeout: 10 * SECOND as i64,
        ..pull_config()
    };
    let mut host = with(2, pinned);
    let of = |messages: i64| PullRequest {
        group: "A".into(),
        ..batch(messages)
    };
    assert_eq!(host.pull(&of(5), "x"), None);
    assert_eq!(host.pull(&of(5), "y"), None);
    let told = host.all();
    assert!(told.contains(&"x 2#2 +0".to_owned()), "{told:?}");
    assert!(host.cursor.handle_unpin("A", host.bench.now));
    for _ in 0..5 {
        host.bench.publish("a.1", &[], "");
    }
    let told = host.all();
    let to = |who: &str| told.iter().filter(|event| event.starts_with(who)).count();
    assert_eq!((to("y "), to("x ")), (5, 0), "{told:?}");
}

#[test]
fn urgent_requests_go_first() {
    let prioritized = ConsumerConfig {
        priority_groups: vec!["A".into()],
        priority_policy: "prioritized".into(),
        ..pull_config()
    };
    let mut host = with(5, prioritized);
    let of = |priority: i64| PullRequest {
        group: "A".into(),
        priority,
        ..batch(2)
    };
    host.pull(&of(3), "late");
    host.pull(&of(1), "x");
    host.pull(&of(1), "y");
    assert_eq!(
        host.all(),
        [
            "x 1#1 +4",
            "y 2#2 +3",
            "x 3#3 +2",
            "y 4#4 +1",
            "late 5#5 +0"
        ]
    );
}

#[test]
fn a_paused_consumer_delivers_nothing() {
    let until = Some(Timestamp(1010 * SECOND));
    let paused = ConsumerConfig {
        pause_until: until,
        ..pull_config()
    };
    let mut host = with(1, paused);
    host.pull(&batch(1), "x");
    assert!(host.all().is_empty());
    let Poll::Idle { deadline_ns } = host.poll() else {
        panic!("not idle");
    };
    assert_eq!(deadline_ns, Some(1010 * SECOND));
    host.wait(10);
    assert_eq!(host.all(), ["x 1#1 +0"]);
    host.bench.publish("a.1", &[], "hi");
    host.bench.consumer(pull_config(), ConsumerAction::Update);
    let kept = host.consumer().config().pause_until;
    assert_eq!(kept, until, "an update leaves it alone");
    let pause = ConsumerPause {
        stream: "S".into(),
        name: "c".into(),
        until_ns: 2000 * SECOND,
        privileged: false,
    };
    assert_eq!(
        host.bench.run(&Command::ConsumerPause(pause)),
        Outcome::Done
    );
    let stream = host.bench.state.stream("S").unwrap();
    host.cursor
        .handle_update(stream, stream.consumer("c").unwrap());
    host.pull(&batch(1), "x");
    assert!(host.all().is_empty());
}
