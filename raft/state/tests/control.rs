//! Control-plane changes: all of a change or nothing of it, whatever refuses it and wherever the
//! history is cut.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;

use std::collections::BTreeMap;

use bench::{Bench, put, refused};
use bytes::Bytes;
use proptest::prelude::*;
use unibus_proto::jetstream::config::StreamConfig;
use unibus_state::command::{Command, StreamPut};
use unibus_state::{
    CommandBatch, ControlChange, ControlCheck, ControlRecord, Effect, Outcome, RECORDS_MAX,
};

const USERS: &str = "KV_UNIBUS_users";
const ROOMS: &str = "KV_UNIBUS_rooms";

fn privileged(config: StreamConfig) -> StreamPut {
    StreamPut {
        privileged: true,
        ..put(config)
    }
}

fn bucket(name: &str) -> StreamConfig {
    StreamConfig {
        name: format!("KV_{name}"),
        subjects: vec![format!("$KV.{name}.>")],
        max_msgs_per_subject: 1,
        allow_rollup_hdrs: true,
        ..StreamConfig::default()
    }
}

fn bench() -> Bench {
    let mut bench = Bench::new();
    for name in ["UNIBUS_users", "UNIBUS_rooms"] {
        let made = bench.run(&Command::StreamCreate(privileged(bucket(name))));
        assert_eq!(made, Outcome::Done);
    }
    bench
}

fn record(subject: &str, value: &str) -> ControlRecord {
    ControlRecord {
        subject: Bytes::copy_from_slice(subject.as_bytes()),
        header_len: 0,
        data: Bytes::copy_from_slice(value.as_bytes()),
    }
}

fn expect(stream: &str, filter: &str, last_seq: u64) -> ControlCheck {
    ControlCheck {
        stream: stream.into(),
        filter: Bytes::copy_from_slice(filter.as_bytes()),
        last_seq,
    }
}

fn messages(bench: &Bench) -> (u64, u64) {
    let count = |name: &str| bench.state.stream(name).unwrap().messages();
    (count(USERS), count(ROOMS))
}

#[test]
fn a_change_writes_all_its_records_and_its_stream() {
    let mut bench = bench();
    let change = ControlChange {
        checks: vec![
            expect(USERS, "$KV.UNIBUS_users.a", 0),
            expect(ROOMS, "", 0),
            expect(ROOMS, "$KV.UNIBUS_rooms.*", 0),
        ],
        create: Some(put(StreamConfig {
            name: "UNIBUS_r1".into(),
            subjects: vec!["room.one".into()],
            ..StreamConfig::default()
        })),
        records: vec![
            record("$KV.UNIBUS_users.a", "A"),
            record("$KV.UNIBUS_rooms.r1", "R"),
        ],
    };
    let mut batch = CommandBatch::new();
    batch.push(&Command::Control(change)).unwrap();
    let applied = bench.apply(batch);
    assert_eq!(applied.outcomes, [Outcome::Done]);
    for bucket in [USERS, ROOMS] {
        let told = Effect::ControlChanged {
            bucket: bucket.into(),
        };
        assert!(applied.effects.contains(&told), "{bucket}");
    }
    assert_eq!(messages(&bench), (1, 1));
    assert!(bench.state.stream("UNIBUS_r1").is_some());
}

#[test]
fn the_largest_change_is_applied_and_a_larger_one_can_not_be_made() {
    let mut bench = bench();
    let of = |count: usize| ControlChange {
        records: (0..count)
            .map(|at| record(&format!("$KV.UNIBUS_rooms.{at}"), "key"))
            .collect(),
        ..ControlChange::default()
    };
    let mut batch = CommandBatch::new();
    batch.push(&Command::Control(of(RECORDS_MAX))).unwrap();
    assert_eq!(bench.apply(batch).outcomes, [Outcome::Done]);
    assert_eq!(messages(&bench), (0, RECORDS_MAX as u64));
    let larger = Command::Control(of(RECORDS_MAX + 1));
    assert!(CommandBatch::new().push(&larger).is_err());
}

#[test]
fn whatever_refuses_a_change_nothing_of_it_is_there() {
    let mut bench = bench();
    bench.create(bench::config(&["taken.>"]));
    let good = record("$KV.UNIBUS_users.a", "A");
    let stream = |subject: &str| {
        Some(put(StreamConfig {
            name: "UNIBUS_r1".into(),
            subjects: vec![subject.into()],
            ..StreamConfig::default()
        }))
    };
    let with = |create, record: ControlRecord| ControlChange {
        checks: Vec::new(),
        create,
        records: vec![good.clone(), record],
    };
    let headers = b"NATS/1.0\r\nNats-Msg-Id: x\r\n\r\n";
    let refusals = [
        with(None, record("not.stored", "x")),
        with(None, record("taken.x", "x")),
        with(None, record("$KV.UNIBUS_users.*", "x")),
        with(
            None,
            ControlRecord {
                header_len: u32::try_from(headers.len()).unwrap(),
                data: Bytes::from_static(headers),
                ..good.clone()
            },
        ),
        with(stream("taken.x"), good.clone()),
        with(stream("bad subject"), good.clone()),
    ];
    for change in refusals {
        let outcome = bench.run(&Command::Control(change.clone()));
        let _why = refused(outcome);
        assert_eq!(messages(&bench), (0, 0), "{change:?}");
        assert!(bench.state.stream("UNIBUS_r1").is_none(), "{change:?}");
    }
    let mut checked = with(stream("fresh"), good.clone());
    checked.checks = vec![
        expect(USERS, "$KV.UNIBUS_users.a", 0),
        expect(ROOMS, "$KV.UNIBUS_rooms.r", 7),
    ];
    let outcome = bench.run(&Command::Control(checked.clone()));
    assert_eq!(outcome, Outcome::CheckFailed { check: 1 });
    assert_eq!(messages(&bench), (0, 0));
    checked.checks.pop();
    assert_eq!(bench.run(&Command::Control(checked)), Outcome::Done);
    assert_eq!(messages(&bench), (1, 0));
}

/// What a room's creation leaves behind: the room, its member, and nothing else.
fn creation(room: u8, value: u8, expected: u64) -> ControlChange {
    ControlChange {
        checks: vec![expect(ROOMS, &format!("$KV.UNIBUS_rooms.{room}"), expected)],
        create: None,
        records: vec![
            record(&format!("$KV.UNIBUS_users.{room}"), &value.to_string()),
            record(&format!("$KV.UNIBUS_rooms.{room}"), &value.to_string()),
        ],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Killed after any entry, and at any byte of the one being written: what a restart finds are
    /// whole changes, as a model has them.
    #[test]
    fn no_cut_leaves_half_a_change(
        ops in proptest::collection::vec((0u8..4, any::<u8>(), 0u64..6), 1..40),
        cut in any::<u16>(),
    ) {
        let mut bench = bench();
        let mut model: BTreeMap<u8, (u8, u64)> = BTreeMap::new();
        let mut stored = 0;
        for (room, value, expected) in ops {
            let change = Command::Control(creation(room, value, expected));
            let mut batch = CommandBatch::new();
            batch.push(&change).unwrap();
            let entry = unibus_state::encode_entry(bench.now, &[batch.freeze()]);
            let torn = entry.slice(..usize::from(cut) % entry.len());
            prop_assert!(unibus_state::decode_entry(&torn).is_err());
            let holds = model.get(&room).map_or(0, |(_, seq)| *seq) == expected;
            let outcome = bench.run(&change);
            if holds {
                stored += 1;
                model.insert(room, (value, stored));
                prop_assert_eq!(outcome, Outcome::Done);
            } else {
                prop_assert_eq!(outcome, Outcome::CheckFailed { check: 0 });
            }
            let rooms = bench.state.stream(ROOMS).unwrap();
            let users = bench.state.stream(USERS).unwrap();
            for room in 0u8..4 {
                let seq = model.get(&room).map(|(_, seq)| *seq);
                let last = |of: &unibus_state::Stream, bucket: &str| {
                    of.last_seq_for(format!("$KV.{bucket}.{room}").as_bytes())
                };
                prop_assert_eq!(last(rooms, "UNIBUS_rooms"), seq);
                prop_assert_eq!(last(users, "UNIBUS_users"), seq);
            }
        }
    }
}
