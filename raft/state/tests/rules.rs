//! One test per rule a publisher or administrator of a stream can observe: exact error codes and
//! texts, sequences and counts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;

use bench::{Bench, SECOND, config, put, refused, seq};
use unibus_proto::jetstream::api::ConsumerAction;
use unibus_proto::jetstream::config::{Discard, StreamConfig};
use unibus_proto::jetstream::consumer::ConsumerConfig;
use unibus_proto::jetstream::timestamp::Timestamp;
use unibus_state::command::{Command, ConsumerCreate, StreamDelete, StreamPut};
use unibus_state::{CommandBatch, Effect, Outcome, RowOp, Rules, State};

#[test]
fn create_is_idempotent_and_names_conflicts() {
    let mut bench = Bench::with(config(&["a.>"]));
    assert_eq!(bench.create(config(&["a.>"])), Outcome::Done);
    let text = "stream name already in use with a different configuration".to_owned();
    assert_eq!(refused(bench.create(config(&["b.>"]))), (400, 10058, text));
    let other = StreamConfig {
        name: "T".into(),
        ..config(&["a.b"])
    };
    let text = "subjects overlap with an existing stream".to_owned();
    assert_eq!(refused(bench.create(other)), (400, 10065, text));
    let many = StreamConfig {
        name: "U".into(),
        num_replicas: 5,
        ..config(&["u"])
    };
    assert_eq!(refused(bench.create(many)).1, 10074);
    let missing = StreamConfig {
        name: "X".into(),
        ..config(&["x"])
    };
    assert_eq!(
        refused(bench.update(missing)),
        (404, 10059, "stream not found".into())
    );
}

#[test]
fn publish_stores_verbatim() {
    let mut bench = Bench::with(config(&["a.>"]));
    assert_eq!(bench.publish("b", &[], "x"), Outcome::NoStream);
    assert_eq!(seq(&bench.publish("a.b", &[], "one")), 1);
    assert_eq!(
        seq(&bench.publish("a.c", &[("K", "v"), ("k", "w")], "two")),
        2
    );
    let two = bench.message(2);
    assert_eq!(
        (&two.subject[..], &two.payload[..]),
        (&b"a.c"[..], &b"two"[..])
    );
    assert_eq!(&two.headers[..], b"NATS/1.0\r\nK: v\r\nk: w\r\n\r\n");
    assert_eq!((two.seq, two.ts_ns), (2, bench.now));
    let state = bench.stream().state();
    assert_eq!((state.messages, state.first_seq, state.last_seq), (2, 1, 2));
    assert_eq!(state.bytes, (30 + 3 + 3) + (34 + 3 + 24 + 3));
    assert_eq!(state.num_subjects, 2);
    // A wildcard is published to as if it were a name.
    assert_eq!(seq(&bench.publish("a.*", &[], "x")), 3);
}

#[test]
fn duplicates_are_known_for_the_window() {
    let mut bench = Bench::with(config(&["a"]));
    let id = [("Nats-Msg-Id", "m1")];
    assert_eq!(seq(&bench.publish("a", &id, "x")), 1);
    let again = bench.publish("a", &id, "x");
    assert_eq!(
        again,
        Outcome::Published {
            stream: "S".into(),
            seq: 1,
            duplicate: true
        }
    );
    // A retry with an expectation that no longer holds is still a duplicate.
    let retry = [("Nats-Msg-Id", "m1"), ("Nats-Expected-Last-Sequence", "0")];
    assert!(matches!(
        bench.publish("a", &retry, "x"),
        Outcome::Published {
            duplicate: true,
            ..
        }
    ));
    bench.now += 121 * SECOND;
    assert_eq!(seq(&bench.publish("a", &id, "x")), 2);
    let wrong = [("Nats-Expected-Last-Msg-Id", "zz")];
    assert_eq!(
        refused(bench.publish("a", &wrong, "x")),
        (400, 10070, "wrong last msg ID: m1".into())
    );
}

#[test]
fn expectations_are_compared() {
    let mut bench = Bench::with(config(&["a.>"]));
    bench.publish("a.x", &[], "1");
    bench.publish("a.y", &[], "2");
    let text = |n: u64| (400, 10071, format!("wrong last sequence: {n}"));
    let check =
        |bench: &mut Bench, name: &str, value: &str| bench.publish("a.x", &[(name, value)], "3");
    assert_eq!(
        refused(check(&mut bench, "Nats-Expected-Last-Sequence", "1")),
        text(2)
    );
    assert_eq!(
        refused(check(
            &mut bench,
            "Nats-Expected-Last-Subject-Sequence",
            "0"
        )),
        text(1)
    );
    assert_eq!(
        refused(check(&mut bench, "Nats-Expected-Stream", "T")).1,
        10060
    );
    assert_eq!(
        refused(check(
            &mut bench,
            "Nats-Expected-Last-Subject-Sequence-Subject",
            "a.y"
        ))
        .1,
        10193
    );
    let over = [
        ("Nats-Expected-Last-Subject-Sequence", "2"),
        ("Nats-Expected-Last-Subject-Sequence-Subject", "a.*"),
    ];
    assert_eq!(seq(&bench.publish("a.x", &over, "3")), 3);
    assert_eq!(
        seq(&check(
            &mut bench,
            "Nats-Expected-Last-Subject-Sequence",
            "3"
        )),
        4
    );
    bench.purge("a.x", 0, 0);
    assert_eq!(
        seq(&check(
            &mut bench,
            "Nats-Expected-Last-Subject-Sequence",
            "0"
        )),
        5
    );
}

#[test]
fn unsupported_features_are_refused_by_name() {
    let mut bench = Bench::with(config(&["a"]));
    let code = |bench: &mut Bench, name: &str| refused(bench.publish("a", &[(name, "1")], "")).1;
    assert_eq!(code(&mut bench, "Nats-Incr"), 10168);
    assert_eq!(code(&mut bench, "Nats-Batch-Id"), 10174);
    assert_eq!(code(&mut bench, "Nats-Schedule"), 10188);
    assert_eq!(code(&mut bench, "Nats-TTL"), 10166);
    assert_eq!(code(&mut bench, "Nats-Rollup"), 10111);
    assert_eq!(bench.stream().last_seq(), 0);
}

#[test]
fn discard_old_makes_room() {
    let mut bench = Bench::with(StreamConfig {
        max_msgs: 2,
        ..config(&["a.>"])
    });
    for n in 0..4 {
        bench.publish(&format!("a.{n}"), &[], "x");
    }
    assert_eq!(bench.live(), [3, 4]);
    let mut bench = Bench::with(StreamConfig {
        max_bytes: 80,
        ..config(&["a"])
    });
    for _ in 0..4 {
        bench.publish("a", &[], "123456789");
    }
    assert_eq!((bench.live(), bench.stream().bytes()), (vec![3, 4], 80));
    assert_eq!(seq(&bench.publish("a", &[], &"x".repeat(99))), 5);
    assert_eq!(bench.live(), [0; 0], "it went with everything before it");
    assert_eq!(seq(&bench.publish("a", &[], "x")), 6);
}

#[test]
fn rules_change_with_an_entry() {
    let small = StreamConfig {
        max_bytes: 80,
        ..config(&["a"])
    };
    let mut bench = Bench::of_old();
    bench.create(small);
    let large = |bench: &mut Bench| bench.publish("a", &[], &"x".repeat(99));
    assert_eq!(refused(large(&mut bench)).1, 10077);
    assert_eq!(bench.state.rules(), Rules::default());
    let reloaded = |bench: &mut Bench| {
        let mut rows = Vec::new();
        bench.state.dump_rows(true, &mut |op| {
            if let RowOp::Put { key, value } = op {
                rows.push((key, value));
            }
        });
        State::load_rows(rows.into_iter()).unwrap()
    };
    assert_eq!(reloaded(&mut bench).rules(), Rules::default());
    bench.run(&Command::Rules(Rules::NEWEST));
    assert_eq!(seq(&large(&mut bench)), 1);
    bench.run(&Command::Rules(Rules::default()));
    let loaded = reloaded(&mut bench);
    assert_eq!(loaded.rules(), Rules::NEWEST, "they never go back");
    assert_eq!(loaded.digest(), bench.state.digest());
}

#[test]
fn what_marks_a_removal_leaves_no_other_marker() {
    let mut bench = Bench::with(StreamConfig {
        allow_msg_ttl: true,
        allow_rollup_hdrs: true,
        subject_delete_marker_ttl: 5 * SECOND as i64,
        max_msgs_per_subject: 1,
        ..config(&["k.*"])
    });
    let ttl = ("Nats-TTL", "1");
    bench.publish("k.plain", &[ttl], "x");
    bench.publish("k.purge", &[("KV-Operation", "PURGE"), ttl], "");
    bench.publish("k.del", &[("KV-Operation", "DEL"), ttl], "");
    bench.publish("k.mark", &[("Nats-Marker-Reason", "MaxAge"), ttl], "");
    bench.now += 2 * SECOND;
    bench.run(&Command::Tick);
    let marked = bench
        .live()
        .into_iter()
        .map(|seq| bench.message(seq).subject);
    assert_eq!(marked.collect::<Vec<_>>(), ["k.plain", "k.del"]);
}

#[test]
fn a_rollup_of_everything_leaves_itself() {
    for many in [10, 3000] {
        let mut bench = Bench::with(StreamConfig {
            allow_rollup_hdrs: true,
            ..config(&["a.*"])
        });
        for at in 0..many {
            bench.publish(&format!("a.{}", at % 7), &[], "x");
        }
        let all = bench.publish("a.1", &[("Nats-Rollup", "all")], "y");
        assert_eq!(seq(&all), many + 1);
        assert_eq!(bench.live(), [many + 1]);
        assert_eq!(bench.stream().first_seq(), many + 1);
        assert_eq!(bench.stream().state().num_subjects, 1);
        assert_eq!(&bench.message(many + 1).payload[..], b"y");
    }
}

/// More subjects than one entry may look at again and again.
fn crowded(mut bench: Bench) -> Bench {
    bench.create(config(&["k.*.*"]));
    let mut batch = CommandBatch::new();
    for at in 0..5000 {
        let name = format!("k.{at}.a");
        batch.push_append(name.as_bytes(), 0, b"x", false).unwrap();
    }
    bench.apply(batch);
    bench
}

fn expecting(filter: &str, last: u64) -> String {
    format!(
        "NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: {last}\r\n\
         Nats-Expected-Last-Subject-Sequence-Subject: {filter}\r\n\r\n"
    )
}

#[test]
fn one_entry_looks_at_so_much_and_no_more() {
    let creating = |name: &str| {
        Command::ConsumerCreate(ConsumerCreate {
            stream: "S".into(),
            config: ConsumerConfig {
                durable_name: name.into(),
                filter_subject: "k.*.a".into(),
                ..ConsumerConfig::default()
            },
            action: ConsumerAction::Create,
            generated_name: String::new(),
            privileged: false,
        })
    };
    for (bench, is_bounded) in [(Bench::new(), true), (Bench::of_old(), false)] {
        let mut bench = crowded(bench);
        let mut batch = CommandBatch::new();
        batch.push(&creating("first")).unwrap();
        for at in 0..400 {
            let block = expecting(&format!("k.*.none{at}"), 0);
            let data = block.as_bytes();
            batch
                .push_append(b"k.x.y", data.len(), data, false)
                .unwrap();
        }
        let block = expecting("k.x.z", 0);
        let data = block.as_bytes();
        batch
            .push_append(b"k.x.z", data.len(), data, false)
            .unwrap();
        batch.push_append(b"k.x.q", 0, b"x", false).unwrap();
        batch.push(&creating("second")).unwrap();
        let outcomes = bench.apply(batch).outcomes;
        let code = |outcome: &Outcome| match outcome {
            Outcome::Refused(refusal) => refusal.error.err_code,
            _ => 0,
        };
        let refused = outcomes[1..401].iter().filter(|o| code(o) == 10023).count();
        assert_eq!((100..300).contains(&refused), is_bounded, "{refused}");
        assert_eq!(
            (
                code(&outcomes[1]),
                code(&outcomes[401]),
                code(&outcomes[402])
            ),
            (0, 0, 0)
        );
        let pending = |outcome: &Outcome| match outcome {
            Outcome::ConsumerCreated { num_pending, .. } => *num_pending,
            other => panic!("{other:?}"),
        };
        assert_eq!(pending(&outcomes[0]), Some(5000));
        assert_eq!(pending(&outcomes[403]), (!is_bounded).then_some(5000));
        let block = expecting("k.*.none", 0);
        let again = bench.publish("k.x.y", &[], "x");
        seq(&again);
        let mut batch = CommandBatch::new();
        let data = block.as_bytes();
        batch
            .push_append(b"k.x.y", data.len(), data, false)
            .unwrap();
        assert_eq!(
            code(&bench.apply(batch).outcomes[0]),
            0,
            "the next entry may"
        );
    }
}

#[test]
fn the_last_of_a_filter_is_found_wherever_it_is() {
    let mut bench = crowded(Bench::new());
    for seq in [5000, 4990, 3000, 1, 2] {
        bench.delete(seq);
    }
    let live = bench.live();
    for (filter, expected) in [
        (">", Some(4999)),
        ("k.*.a", Some(4999)),
        ("k.>", Some(4999)),
        ("k.4980.*", Some(4981)),
        ("*.4990.a", Some(4991)),
        ("k.4989.*", None),
        ("k.5.*", Some(6)),
        ("*.5.*", Some(6)),
        ("k.1.*", None),
        ("*.*.b", None),
        ("k.7.a", Some(8)),
    ] {
        let found = bench.stream().last_seq_for(filter.as_bytes());
        assert_eq!(found, expected, "{filter}");
        assert!(found.is_none_or(|found| live.contains(&found)));
    }
}

#[test]
fn discard_new_refuses_but_replaces_its_own_subject() {
    let kv = StreamConfig {
        discard: Discard::New,
        max_msgs_per_subject: 1,
        max_msgs: 2,
        ..config(&["a.>"])
    };
    let mut bench = Bench::with(kv);
    bench.publish("a.1", &[], "x");
    bench.publish("a.2", &[], "x");
    assert_eq!(seq(&bench.publish("a.1", &[], "y")), 3);
    let full = refused(bench.publish("a.3", &[], "x"));
    assert_eq!(full, (503, 10077, "maximum messages exceeded".into()));
    assert_eq!(bench.live(), [2, 3]);

    let per_subject = StreamConfig {
        discard: Discard::New,
        max_msgs_per_subject: 1,
        discard_new_per_subject: true,
        allow_rollup_hdrs: true,
        ..config(&["a.>"])
    };
    let mut bench = Bench::with(per_subject);
    bench.publish("a.1", &[], "x");
    let text = "maximum messages per subject exceeded".to_owned();
    assert_eq!(refused(bench.publish("a.1", &[], "y")), (503, 10077, text));
    assert_eq!(
        seq(&bench.publish("a.1", &[("Nats-Rollup", "sub")], "z")),
        2
    );

    let bytes = StreamConfig {
        discard: Discard::New,
        max_bytes: 40,
        ..config(&["a"])
    };
    let mut bench = Bench::with(bytes);
    bench.publish("a", &[], "x");
    assert_eq!(
        refused(bench.publish("a", &[], "x")).2,
        "maximum bytes exceeded"
    );
}

#[test]
fn rollups_keep_only_the_new_message() {
    let mut bench = Bench::with(StreamConfig {
        allow_rollup_hdrs: true,
        ..config(&["a.>"])
    });
    for subject in ["a.1", "a.2", "a.1"] {
        bench.publish(subject, &[], "x");
    }
    assert_eq!(
        seq(&bench.publish("a.1", &[("Nats-Rollup", "sub")], "y")),
        4
    );
    assert_eq!(bench.live(), [2, 4]);
    assert_eq!(
        seq(&bench.publish("a.3", &[("Nats-Rollup", "all")], "z")),
        5
    );
    assert_eq!((bench.live(), bench.stream().first_seq()), (vec![5], 5));
}

#[test]
fn a_rollup_published_to_a_wildcard_empties_what_it_matches() {
    let mut bench = Bench::with(StreamConfig {
        allow_rollup_hdrs: true,
        ..config(&["a.>"])
    });
    for subject in ["a.1", "a.2", "a.2.x", "a.1"] {
        bench.publish(subject, &[], "x");
    }
    assert_eq!(seq(&bench.publish("a.*", &[], "plain")), 5);
    assert_eq!(bench.live(), [1, 2, 3, 4, 5]);
    assert_eq!(
        seq(&bench.publish("a.*", &[("Nats-Rollup", "sub")], "y")),
        6
    );
    assert_eq!(bench.live(), [3, 6]);
    assert_eq!(refused(bench.publish("a.>.b", &[], "x")).1, 10003);
}

#[test]
fn sizes_are_limited() {
    let mut bench = Bench::with(StreamConfig {
        max_msg_size: 3,
        ..config(&["a"])
    });
    let text = "message size exceeds maximum allowed".to_owned();
    assert_eq!(refused(bench.publish("a", &[], "1234")), (400, 10054, text));
    let long = "v".repeat(65_600);
    assert_eq!(refused(bench.publish("a", &[("K", &long)], "")).1, 10097);
}

#[test]
fn deletes_leave_gaps() {
    let mut bench = Bench::with(config(&["a"]));
    for _ in 0..5 {
        bench.publish("a", &[], "x");
    }
    assert_eq!(bench.delete(3), Outcome::Done);
    let text = "sequence 3 not found".to_owned();
    assert_eq!(refused(bench.delete(3)), (400, 10043, text));
    let state = bench.stream().state();
    assert_eq!((state.messages, state.num_deleted), (4, 1));
    assert_eq!(bench.stream().deleted(10), [3]);
    bench.delete(1);
    bench.delete(2);
    assert_eq!(
        (
            bench.stream().first_seq(),
            bench.stream().state().num_deleted
        ),
        (4, 0)
    );
    bench.update(StreamConfig {
        deny_delete: true,
        ..config(&["a"])
    });
    let text = "message delete not permitted".to_owned();
    assert_eq!(refused(bench.delete(4)), (500, 10057, text));
    let lax = refused(bench.update(config(&["a"])));
    assert_eq!(lax.1, 10052, "deny_delete can't be cancelled");
}

#[test]
fn purges_count_and_bound() {
    let mut bench = Bench::with(config(&["a.>"]));
    for n in 0..6 {
        bench.publish(&format!("a.{}", n % 2), &[], "x");
    }
    assert_eq!(bench.purge("a.0", 4, 0), Outcome::Purged { count: 2 });
    assert_eq!(bench.live(), [2, 4, 5, 6]);
    assert_eq!(bench.purge("a.*", 0, 2), Outcome::Purged { count: 2 });
    assert_eq!(bench.live(), [5, 6]);
    assert_eq!(refused(bench.purge("", 1, 1)).1, 10003);
    bench.now += SECOND;
    assert_eq!(bench.purge("", 0, 0), Outcome::Purged { count: 2 });
    let state = bench.stream().state();
    assert_eq!((state.first_seq, state.last_seq, state.bytes), (7, 6, 0));
    assert_eq!(
        (state.first_ts, state.last_ts),
        (Timestamp::ZERO, Timestamp(bench.now - SECOND))
    );
    bench.update(StreamConfig {
        deny_purge: true,
        ..config(&["a.>"])
    });
    let text = "stream purge not permitted".to_owned();
    assert_eq!(refused(bench.purge("", 0, 0)), (500, 10110, text));
}

#[test]
fn sealed_streams_only_read() {
    let mut bench = Bench::with(config(&["a"]));
    bench.publish("a", &[], "x");
    assert_eq!(
        bench.update(StreamConfig {
            sealed: true,
            ..config(&["a"])
        }),
        Outcome::Done
    );
    let text = "invalid operation on sealed stream".to_owned();
    assert_eq!(refused(bench.publish("a", &[], "x")), (400, 10109, text));
    assert_eq!(refused(bench.purge("", 0, 0)).1, 10109);
    assert_eq!(refused(bench.delete(1)).1, 10109);
    assert_eq!(refused(bench.update(config(&["a"]))).1, 10052);
}

#[test]
fn first_seq_is_where_a_stream_begins() {
    let mut bench = Bench::with(StreamConfig {
        first_seq: 100,
        ..config(&["a"])
    });
    let state = bench.stream().state();
    assert_eq!((state.first_seq, state.last_seq), (100, 99));
    assert_eq!(seq(&bench.publish("a", &[], "x")), 100);
}

#[test]
fn age_expires_at_ticks() {
    let age = 10 * SECOND as i64;
    let mut bench = Bench::with(StreamConfig {
        max_age: age,
        allow_msg_ttl: true,
        ..config(&["a.>"])
    });
    assert_eq!(bench.state.next_deadline_ns(), None);
    bench.publish("a.1", &[("Nats-TTL", "never")], "x");
    bench.publish("a.2", &[], "x");
    bench.publish("a.3", &[("Nats-TTL", "2s")], "x");
    let start = bench.now;
    assert_eq!(bench.state.next_deadline_ns(), Some(start + 2 * SECOND));
    bench.now = start + 2 * SECOND;
    bench.run(&Command::Tick);
    assert_eq!(bench.live(), [1, 2]);
    assert_eq!(bench.state.next_deadline_ns(), Some(start + 10 * SECOND));
    bench.now = start + 10 * SECOND;
    bench.run(&Command::Tick);
    assert_eq!(
        (bench.live(), bench.state.next_deadline_ns()),
        (vec![1], None)
    );
    let text = "invalid per-message TTL".to_owned();
    assert_eq!(
        refused(bench.publish("a.1", &[("Nats-TTL", "5ms")], "")),
        (400, 10165, text)
    );
}

#[test]
fn an_expired_subject_leaves_a_marker_that_goes_silently() {
    let marked = StreamConfig {
        max_age: 10 * SECOND as i64,
        subject_delete_marker_ttl: 2 * SECOND as i64,
        ..config(&["a"])
    };
    let mut bench = Bench::with(marked);
    bench.publish("a", &[], "x");
    bench.publish("a", &[], "y");
    bench.now += 10 * SECOND;
    bench.run(&Command::Tick);
    assert_eq!(bench.live(), [3]);
    let expected =
        "NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\nNats-TTL: 2s\r\nNats-Rollup: sub\r\n\r\n";
    assert_eq!(bench.message(3).headers, expected);
    bench.now += 2 * SECOND;
    bench.run(&Command::Tick);
    assert_eq!((bench.live().len(), bench.stream().last_seq()), (0, 3));
}

#[test]
fn tighter_limits_trim_at_once() {
    let mut bench = Bench::with(config(&["a.>"]));
    for n in 0..6 {
        bench.publish(&format!("a.{}", n % 2), &[], "x");
    }
    bench.update(StreamConfig {
        max_msgs_per_subject: 1,
        ..config(&["a.>"])
    });
    assert_eq!(bench.live(), [5, 6]);
}

#[test]
fn no_ack_streams_are_silent() {
    let mut bench = Bench::with(StreamConfig {
        no_ack: true,
        ..config(&["a"])
    });
    assert_eq!(bench.publish("a", &[], "x"), Outcome::Silent);
    let wrong = bench.publish("a", &[("Nats-Expected-Stream", "T")], "x");
    assert!(matches!(wrong, Outcome::Refused(r) if r.silent));
}

#[test]
fn the_control_plane_is_privileged() {
    let mut bench = Bench::new();
    let control = StreamConfig {
        name: "KV_UNIBUS_users".into(),
        ..config(&["$KV.UNIBUS_users.>"])
    };
    assert_eq!(refused(bench.create(control.clone())).0, 403);
    let own = StreamPut {
        privileged: true,
        ..put(control)
    };
    assert_eq!(bench.run(&Command::StreamCreate(own)), Outcome::Done);
    assert_eq!(
        refused(bench.publish("$KV.UNIBUS_users.a", &[], "x")).0,
        403
    );
    let delete = StreamDelete {
        name: "KV_UNIBUS_users".into(),
        privileged: false,
    };
    assert_eq!(refused(bench.run(&Command::StreamDelete(delete))).0, 403);
    let mut batch = CommandBatch::new();
    batch
        .push_append(b"$KV.UNIBUS_users.a", 0, b"x", true)
        .unwrap();
    let applied = bench.apply(batch);
    assert_eq!(seq(&applied.outcomes[0]), 1);
    assert!(applied.effects.contains(&Effect::ControlChanged {
        bucket: "KV_UNIBUS_users".into()
    }));
    assert_eq!(bench.state.account_info().streams, 0);
}

#[test]
fn effects_are_told_once_per_entry() {
    let mut bench = Bench::with(config(&["a"]));
    let mut batch = CommandBatch::new();
    for _ in 0..3 {
        batch.push_append(b"a", 0, b"x", false).unwrap();
    }
    batch
        .push(&Command::StreamDelete(StreamDelete {
            name: "S".into(),
            privileged: false,
        }))
        .unwrap();
    let applied = bench.apply(batch);
    assert_eq!(applied.outcomes.len(), 4);
    assert_eq!(
        applied.effects,
        [
            Effect::StreamAdvanced { name: "S".into() },
            Effect::StreamRemoved { name: "S".into() }
        ]
    );
    assert!(bench.blocks.bytes.is_empty());
}
