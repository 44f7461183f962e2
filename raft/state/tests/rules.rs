//! One test per rule a client can observe: exact error codes and texts, sequences and counts.

use bytes::Bytes;
use unibus_proto::jetstream::api::ConsumerAction;
use unibus_proto::jetstream::config::{Discard, StreamConfig};
use unibus_proto::jetstream::consumer::{ConsumerConfig, DeliverPolicy};
use unibus_proto::jetstream::timestamp::Timestamp;
use unibus_state::command::{
    Command, ConsumerCreate, ConsumerDelete, MessageDelete, StreamDelete, StreamPurge, StreamPut,
};
use unibus_state::{
    Applied, BlockId, BlockSink, CommandBatch, Effect, Location, Outcome, Poll, PushCursor, State,
    StoredMessage, Stream, StreamUid, decode_entry, encode_entry,
};

const SECOND: u64 = 1_000_000_000;

/// Keeps records by place and notes what was dropped.
#[derive(Default)]
struct Blocks {
    bytes: std::collections::BTreeMap<(StreamUid, BlockId), Vec<u8>>,
}

impl BlockSink for Blocks {
    fn append(&mut self, at: &Location, record: &[&[u8]]) {
        let block = self.bytes.entry((at.stream, at.block)).or_default();
        assert_eq!(block.len(), at.offset as usize, "records follow each other");
        block.extend(record.concat());
        assert_eq!(block.len(), (at.offset + at.len) as usize);
    }
    fn drop_block(&mut self, stream: StreamUid, block: BlockId) {
        assert!(self.bytes.remove(&(stream, block)).is_some());
    }
    fn drop_stream(&mut self, stream: StreamUid) {
        self.bytes.retain(|(of, _), _| *of != stream);
    }
}

struct Bench {
    state: State,
    blocks: Blocks,
    index: u64,
    now: u64,
}

impl Bench {
    fn new() -> Self {
        Self {
            state: State::new(),
            blocks: Blocks::default(),
            index: 0,
            now: 1000 * SECOND,
        }
    }

    fn with(config: StreamConfig) -> Self {
        let mut bench = Self::new();
        assert_eq!(bench.create(config), Outcome::Done);
        bench
    }

    fn apply(&mut self, batch: CommandBatch) -> Applied {
        self.index += 1;
        let entry = decode_entry(&encode_entry(self.now, &[batch.freeze()])).unwrap();
        self.state.apply(self.index, &entry, &mut self.blocks)
    }

    fn run(&mut self, command: &Command) -> Outcome {
        let mut batch = CommandBatch::new();
        batch.push(command).unwrap();
        self.apply(batch).outcomes.remove(0)
    }

    fn create(&mut self, config: StreamConfig) -> Outcome {
        self.run(&Command::StreamCreate(put(config)))
    }

    fn update(&mut self, config: StreamConfig) -> Outcome {
        self.run(&Command::StreamUpdate(put(config)))
    }

    fn publish(&mut self, subject: &str, headers: &[(&str, &str)], payload: &str) -> Outcome {
        let mut data = String::new();
        if !headers.is_empty() {
            data.push_str("NATS/1.0\r\n");
            for (name, value) in headers {
                data.push_str(&format!("{name}: {value}\r\n"));
            }
            data.push_str("\r\n");
        }
        let header_len = data.len();
        data.push_str(payload);
        let mut batch = CommandBatch::new();
        batch
            .push_append(subject.as_bytes(), header_len, data.as_bytes(), false)
            .unwrap();
        self.apply(batch).outcomes.remove(0)
    }

    fn purge(&mut self, filter: &str, seq: u64, keep: u64) -> Outcome {
        self.run(&Command::StreamPurge(StreamPurge {
            name: "S".into(),
            filter: filter.into(),
            seq,
            keep,
            privileged: false,
        }))
    }

    fn delete(&mut self, seq: u64) -> Outcome {
        self.run(&Command::MessageDelete(MessageDelete {
            stream: "S".into(),
            seq,
            no_erase: false,
            privileged: false,
        }))
    }

    fn consumer(&mut self, config: ConsumerConfig, action: ConsumerAction) -> Outcome {
        self.run(&Command::ConsumerCreate(ConsumerCreate {
            stream: "S".into(),
            config,
            action,
            generated_name: "gen".into(),
            privileged: false,
        }))
    }

    fn stream(&self) -> &Stream {
        self.state.stream("S").unwrap()
    }

    fn message(&self, seq: u64) -> StoredMessage {
        let at = self.stream().get(seq).unwrap();
        let block = &self.blocks.bytes[&(at.stream, at.block)];
        let record = &block[at.offset as usize..(at.offset + at.len) as usize];
        StoredMessage::decode(Bytes::copy_from_slice(record)).unwrap()
    }

    fn live(&self) -> Vec<u64> {
        (0..=self.stream().last_seq())
            .filter(|seq| self.stream().get(*seq).is_some())
            .collect()
    }
}

fn put(config: StreamConfig) -> StreamPut {
    StreamPut {
        config,
        privileged: false,
        replicas_max: 3,
        pedantic: false,
    }
}

fn config(subjects: &[&str]) -> StreamConfig {
    let subjects = subjects.iter().map(ToString::to_string).collect();
    StreamConfig {
        name: "S".into(),
        subjects,
        ..StreamConfig::default()
    }
}

fn seq(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Published {
            seq,
            duplicate: false,
            ..
        } => *seq,
        other => panic!("{other:?}"),
    }
}

fn refused(outcome: Outcome) -> (u16, u16, String) {
    match outcome {
        Outcome::Refused(r) => (
            r.error.code,
            r.error.err_code,
            r.error.description.into_owned(),
        ),
        other => panic!("{other:?}"),
    }
}

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
    assert_eq!(refused(bench.publish("a.*", &[], "x")).1, 10003);
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
    assert_eq!(refused(bench.publish("a", &[], &"x".repeat(99))).1, 10077);
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

fn watch(policy: DeliverPolicy, filter: &str) -> ConsumerConfig {
    ConsumerConfig {
        deliver_policy: policy,
        filter_subject: filter.into(),
        deliver_subject: "_INBOX.x".into(),
        ..ConsumerConfig::default()
    }
}

fn drain(bench: &Bench, cursor: &mut PushCursor) -> Vec<(u64, u64, u64)> {
    let mut all = Vec::new();
    while let Some(d) = cursor.poll_next(bench.stream()) {
        all.push((d.seq, d.consumer_seq, d.num_pending));
    }
    all
}

fn cursor(bench: &Bench, name: &str) -> PushCursor {
    PushCursor::new(bench.stream(), bench.stream().consumer(name).unwrap(), 0)
}

#[test]
fn consumers_start_where_their_policy_says() {
    let mut bench = Bench::with(config(&["a.>"]));
    for subject in ["a.1", "a.2", "a.1", "a.3"] {
        bench.now += SECOND;
        bench.publish(subject, &[], "x");
    }
    let third = Timestamp(bench.now - SECOND);
    let cases: [(ConsumerConfig, &[(u64, u64, u64)]); 7] = [
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
            num_pending,
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
    assert_eq!(cursor.poll_next(bench.stream()).unwrap().num_pending, 2);
    bench.publish("a.3", &[], "y");
    assert_eq!(drain(&bench, &mut cursor), [(2, 2, 1), (4, 3, 0)]);
    bench.publish("a.1", &[], "y");
    bench.publish("a.2", &[], "y");
    bench.delete(5);
    assert_eq!(drain(&bench, &mut cursor), [(6, 4, 0)]);
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
    cursor.handle_flow_control("$JS.FC.S.gen.9999");
    assert!(cursor.is_stalled());
    cursor.handle_flow_control("$JS.FC.S.gen.0001");
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
    let pull = ConsumerConfig {
        deliver_subject: String::new(),
        ..base()
    };
    let text = "pull consumers are not supported by this server".to_owned();
    assert_eq!(refused(bench.consumer(pull, create)), (500, 10012, text));
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
        bench.consumer(base.clone(), ConsumerAction::Create),
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
        privileged: false,
    };
    assert_eq!(
        bench.run(&Command::ConsumerDelete(delete.clone())),
        Outcome::Done
    );
    let gone = refused(bench.run(&Command::ConsumerDelete(delete)));
    assert_eq!(gone, (404, 10014, "consumer not found".into()));
}
