//! What the account and the server may use together.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;

use bench::{Bench, config, refused, seq};
use unibus_proto::jetstream::api::ConsumerAction;
use unibus_proto::jetstream::config::{ConsumerLimits, StreamConfig};
use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig};
use unibus_proto::jetstream::info::AccountLimits;
use unibus_state::command::Command;
use unibus_state::limits::Limits;
use unibus_state::{Outcome, State};

fn limited(account: AccountLimits) -> Bench {
    let mut bench = Bench::new();
    let limits = Limits {
        account,
        ..Limits::default()
    };
    assert_eq!(bench.run(&Command::Limits(limits)), Outcome::Done);
    bench
}

fn sized(name: &str, max_bytes: i64) -> StreamConfig {
    StreamConfig {
        name: name.into(),
        max_bytes,
        ..config(&[name])
    }
}

#[test]
fn streams_stay_within_the_account() {
    let mut bench = limited(AccountLimits {
        max_storage: 5000,
        max_streams: 2,
        storage_max_stream_bytes: 4096,
        max_bytes_required: true,
        ..AccountLimits::default()
    });
    assert_eq!(refused(bench.create(sized("A", -1))).1, 10113);
    assert_eq!(refused(bench.create(sized("A", 65_536))).1, 10122);
    assert_eq!(bench.create(sized("A", 4096)), Outcome::Done);
    assert_eq!(refused(bench.create(sized("B", 1000))).1, 10047);
    assert_eq!(bench.create(sized("B", 128)), Outcome::Done);
    assert_eq!(refused(bench.create(sized("C", 128))).1, 10027);
    assert_eq!(refused(bench.update(sized("B", 1000))).1, 10047);
    assert_eq!(bench.update(sized("B", 900)), Outcome::Done);
    assert_eq!(bench.update(sized("B", 100)), Outcome::Done);
}

#[test]
fn publishing_stays_within_the_account() {
    let mut bench = limited(AccountLimits {
        max_storage: 100,
        ..AccountLimits::default()
    });
    assert_eq!(bench.create(config(&["s.>"])), Outcome::Done);
    assert_eq!(seq(&bench.publish("s.a", &[], &"x".repeat(40))), 1);
    let text = "resource limits exceeded for account".to_owned();
    let full = refused(bench.publish("s.b", &[], &"x".repeat(40)));
    assert_eq!(full, (400, 10002, text));
    bench.purge("", 0, 0);
    assert_eq!(seq(&bench.publish("s.b", &[], &"x".repeat(40))), 2);
}

#[test]
fn consumers_stay_within_the_account_and_the_stream() {
    let mut bench = limited(AccountLimits {
        max_consumers: 1,
        max_ack_pending: 100,
        ..AccountLimits::default()
    });
    assert_eq!(bench.create(config(&["s"])), Outcome::Done);
    let consumer = |name: &str, max_ack_pending| ConsumerConfig {
        durable_name: name.into(),
        name: name.into(),
        deliver_subject: "d".into(),
        ack_policy: AckPolicy::None,
        max_ack_pending,
        ..ConsumerConfig::default()
    };
    let any = ConsumerAction::CreateOrUpdate;
    assert_eq!(refused(bench.consumer(consumer("a", 101), any)).1, 10121);
    let made = bench.consumer(consumer("a", 0), any);
    assert!(matches!(made, Outcome::ConsumerCreated { .. }), "{made:?}");
    assert_eq!(refused(bench.consumer(consumer("b", 0), any)).1, 10026);
    let again = bench.consumer(consumer("a", 0), any);
    assert!(
        matches!(again, Outcome::ConsumerCreated { .. }),
        "{again:?}"
    );
}

#[test]
fn limits_survive_a_checkpoint() {
    let mut bench = limited(AccountLimits {
        max_streams: 1,
        ..AccountLimits::default()
    });
    let mut rows = Vec::new();
    bench.state.dump_rows(true, &mut |op| {
        if let unibus_state::RowOp::Put { key, value } = op {
            rows.push((key, value));
        }
    });
    let loaded = State::load_rows(rows.into_iter()).unwrap();
    assert_eq!(loaded.limits(), bench.state.limits());
    assert_eq!(loaded.digest(), bench.state.digest());
}

#[test]
fn consumer_limits_do_not_become_tighter_than_consumers() {
    let mut bench = Bench::with(config(&["s"]));
    let durable = ConsumerConfig {
        durable_name: "name".into(),
        name: "name".into(),
        deliver_subject: "d".into(),
        inactive_threshold: 5_000_000_000,
        ..ConsumerConfig::default()
    };
    bench.consumer(durable, ConsumerAction::Create);
    let tight = |inactive_threshold| StreamConfig {
        consumer_limits: ConsumerLimits {
            inactive_threshold,
            max_ack_pending: 0,
        },
        ..config(&["s"])
    };
    let text = "change to limits violates consumers: name".to_owned();
    assert_eq!(
        refused(bench.update(tight(2_000_000_000))),
        (500, 10052, text)
    );
    assert_eq!(bench.update(tight(6_000_000_000)), Outcome::Done);
}
