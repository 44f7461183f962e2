//! Mirrors, sources, subject transforms and republishing, as an observer of the state sees them. A
//! small driver plays the leader's part: it reads origins and proposes what is new.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;

use bench::{Bench, SECOND, config, put, refused, seq};
use bytes::Bytes;
use proptest::prelude::*;
use unibus_proto::jetstream::api::ConsumerAction;
use unibus_proto::jetstream::config::{
    Republish, Retention, StreamConfig, StreamSource, SubjectTransform,
};
use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig};
use unibus_proto::jetstream::source::SourceConsumer;
use unibus_state::command::{Command, ConsumerCreate, CopiedMessage, CopyBatch, StreamDelete};
use unibus_state::{
    CommandBatch, CopyConsumer, CopyRules, CopyTrouble, Effect, NullSink, Outcome, Rules, State,
    StoredMessage, check_copy_consumers,
};

fn source(name: &str) -> StreamSource {
    StreamSource {
        name: name.into(),
        ..StreamSource::default()
    }
}

fn named(name: &str, subjects: &[&str]) -> StreamConfig {
    StreamConfig {
        name: name.into(),
        ..config(subjects)
    }
}

fn mirror_of(source: StreamSource) -> StreamConfig {
    StreamConfig {
        mirror: Some(source),
        ..named("M", &[])
    }
}

fn gathering(sources: Vec<StreamSource>) -> StreamConfig {
    StreamConfig {
        sources,
        ..named("M", &[])
    }
}

fn read(bench: &Bench, stream: &str, seq: u64) -> StoredMessage {
    let at = bench.state.stream(stream).unwrap().get(seq).unwrap();
    let block = &bench.blocks.bytes[&(at.stream, at.block)];
    let record = &block[at.offset as usize..(at.offset + at.len) as usize];
    StoredMessage::decode(Bytes::copy_from_slice(record)).unwrap()
}

/// One round of the leader's work for each copy of stream `M`; how many messages were proposed.
fn round(bench: &mut Bench, limit: usize) -> usize {
    let mut batches = Vec::new();
    let target = bench.state.stream("M").unwrap();
    for source in target.origins() {
        let Some(origin) = bench.state.stream(&source.name) else {
            continue;
        };
        let rules = CopyRules::new(source);
        let from = target.copy_from(source, origin);
        let (mut upto, mut messages) = (from.after, Vec::new());
        while let Some((seq, _)) = origin.next_for(&rules.filters, upto + 1) {
            if messages.len() == limit {
                break;
            }
            upto = seq;
            let message = read(bench, &source.name, seq);
            messages.push(CopiedMessage {
                seq,
                ts_ns: message.ts_ns,
                subject: rules
                    .rename(&message.subject)
                    .map_or(message.subject, Bytes::from),
                header_len: message.headers.len() as u32,
                data: [&message.headers[..], &message.payload[..]].concat().into(),
            });
        }
        batches.push(CopyBatch {
            stream: "M".into(),
            created_ns: target.created_ns(),
            origin: source.identity(),
            origin_uid: from.origin_uid.0,
            after: from.after,
            upto,
            whole: false,
            messages,
        });
    }
    let mut proposed = 0;
    for batch in batches
        .into_iter()
        .filter(|batch| !batch.messages.is_empty())
    {
        proposed += batch.messages.len();
        let command = Command::Copy(batch);
        bench.run(&command);
        let before = bench.state.digest();
        bench.run(&command);
        assert_eq!(bench.state.digest(), before, "a batch counts once");
    }
    proposed
}

fn all(bench: &Bench, stream: &str) -> Vec<(u64, u64, Vec<u8>, Vec<u8>)> {
    let held = bench.state.stream(stream).unwrap();
    (1..=held.last_seq())
        .filter(|seq| held.get(*seq).is_some())
        .map(|seq| {
            let m = read(bench, stream, seq);
            (m.seq, m.ts_ns, m.subject.to_vec(), m.payload.to_vec())
        })
        .collect()
}

#[test]
fn a_mirror_keeps_sequences_and_times() {
    let mut bench = Bench::with(config(&["s.>"]));
    for n in 1..=5 {
        bench.now += SECOND;
        bench.publish("s.a", &[], &n.to_string());
    }
    bench.delete(3);
    assert_eq!(bench.create(mirror_of(source("S"))), Outcome::Done);
    assert_eq!(round(&mut bench, 2), 2);
    assert_eq!(round(&mut bench, 9), 2);
    assert_eq!(all(&bench, "M"), all(&bench, "S"));
    let state = bench.state.stream("M").unwrap().state();
    assert_eq!((state.messages, state.num_deleted), (4, 1));
    let info = &bench
        .state
        .source_infos(bench.state.stream("M").unwrap(), bench.now + 5)[0];
    assert_eq!((info.name.as_str(), info.lag, info.active), ("S", 0, 5));
    bench.publish("s.b", &[], "6");
    let info = &bench
        .state
        .source_infos(bench.state.stream("M").unwrap(), bench.now)[0];
    assert_eq!(info.lag, 1);
    assert_eq!(
        bench.publish("M", &[], "x"),
        Outcome::NoStream,
        "a mirror takes nothing else"
    );
}

#[test]
fn a_mirror_starts_where_it_is_told_and_is_promoted() {
    let mut bench = Bench::with(config(&["s.>"]));
    for n in 1..=5 {
        bench.publish("s.a", &[], &n.to_string());
    }
    let late = StreamSource {
        opt_start_seq: 4,
        ..source("S")
    };
    assert_eq!(bench.create(mirror_of(late)), Outcome::Done);
    round(&mut bench, 9);
    let first = bench.state.stream("M").unwrap().first_seq();
    assert_eq!((first, all(&bench, "M").len()), (4, 2));
    let other = refused(bench.update(mirror_of(source("X"))));
    assert_eq!(other.1, 10055);
    bench.run(&Command::StreamDelete(StreamDelete {
        name: "S".into(),
        privileged: false,
    }));
    assert_eq!(bench.update(named("M", &["s.>"])), Outcome::Done);
    assert_eq!(seq(&bench.publish("s.a", &[], "new")), 6);
}

#[test]
fn sources_are_filtered_renamed_and_kept_apart() {
    let mut bench = Bench::with(config(&["s.>"]));
    assert_eq!(bench.create(named("T", &["t.>"])), Outcome::Done);
    let renamed = StreamSource {
        subject_transforms: vec![SubjectTransform {
            src: "s.a.*".into(),
            dest: "m.{{wildcard(1)}}".into(),
        }],
        ..source("S")
    };
    assert_eq!(
        bench.create(gathering(vec![renamed, source("T")])),
        Outcome::Done
    );
    bench.publish("s.a.x", &[("Nats-Expected-Last-Sequence", "0")], "1");
    bench.publish("s.b.x", &[], "2");
    bench.publish("t.q", &[("Nats-Msg-Id", "i")], "3");
    assert_eq!(round(&mut bench, 9), 2);
    assert_eq!(round(&mut bench, 9), 0);
    let copies: Vec<_> = all(&bench, "M").into_iter().map(|m| m.2).collect();
    assert_eq!(copies, [&b"m.x"[..], b"t.q"]);
    bench.run(&Command::StreamDelete(StreamDelete {
        name: "T".into(),
        privileged: false,
    }));
    assert_eq!(bench.create(named("T", &["t.>"])), Outcome::Done);
    bench.publish("t.r", &[], "4");
    assert_eq!(round(&mut bench, 9), 1, "an origin made anew begins again");
}

#[test]
fn a_full_stream_takes_the_rest_later() {
    let mut bench = Bench::with(config(&["s"]));
    for n in 0..4 {
        bench.publish("s", &[], &n.to_string());
    }
    let small = StreamConfig {
        max_msgs: 2,
        discard: unibus_proto::jetstream::config::Discard::New,
        ..gathering(vec![source("S")])
    };
    assert_eq!(bench.create(small.clone()), Outcome::Done);
    round(&mut bench, 9);
    assert_eq!(all(&bench, "M").len(), 2);
    assert_eq!(
        bench.update(StreamConfig {
            max_msgs: 9,
            ..small
        }),
        Outcome::Done
    );
    round(&mut bench, 9);
    let payloads: Vec<_> = all(&bench, "M").into_iter().map(|m| m.3).collect();
    assert_eq!(payloads, [b"0", b"1", b"2", b"3"]);
}

#[test]
fn copies_survive_a_checkpoint() {
    let mut bench = Bench::with(config(&["s"]));
    bench.publish("s", &[], "1");
    assert_eq!(bench.create(mirror_of(source("S"))), Outcome::Done);
    round(&mut bench, 9);
    let mut rows = Vec::new();
    bench.state.dump_rows(true, &mut |op| {
        if let unibus_state::RowOp::Put { key, value } = op {
            rows.push((key, value));
        }
    });
    let loaded = State::load_rows(rows.into_iter()).unwrap();
    assert_eq!(loaded.digest(), bench.state.digest());
    bench.state = loaded;
    assert_eq!(round(&mut bench, 9), 0);
}

#[test]
fn subjects_are_renamed_before_everything_else() {
    let mut bench = Bench::with(StreamConfig {
        subject_transform: Some(SubjectTransform {
            src: "a.*".into(),
            dest: "b.{{partition(1,1)}}.$1".into(),
        }),
        max_msgs_per_subject: 1,
        ..config(&["a.*", "q"])
    });
    seq(&bench.publish("a.x", &[], "1"));
    seq(&bench.publish("q", &[], "2"));
    let last = &[("Nats-Expected-Last-Subject-Sequence", "1")];
    assert_eq!(seq(&bench.publish("a.x", last, "3")), 3);
    assert_eq!(&bench.message(3).subject[..], b"b.0.x");
    assert_eq!(&bench.message(2).subject[..], b"q");
    assert_eq!(bench.live(), [2, 3]);
    let bad = StreamConfig {
        subject_transform: Some(SubjectTransform {
            src: "a.*".into(),
            dest: "b.$2".into(),
        }),
        ..config(&["a.*", "q"])
    };
    assert_eq!(refused(bench.update(bad)).1, 10156);
}

#[test]
fn republished_messages_are_effects() {
    let mut bench = Bench::with(StreamConfig {
        republish: Some(Republish {
            src: "s.*".into(),
            dest: "again.$1".into(),
            headers_only: true,
        }),
        ..config(&["s.>"])
    });
    bench.publish("s.a", &[], "1");
    let mut batch = CommandBatch::new();
    batch.push_append(b"s.a", 0, b"2", false).unwrap();
    batch.push_append(b"s.a.b", 0, b"3", false).unwrap();
    let effects = bench.apply(batch).effects;
    let again: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Republish {
                subject,
                seq,
                last_seq,
                headers_only: true,
                ..
            } => Some((&subject[..], *seq, *last_seq)),
            _ => None,
        })
        .collect();
    assert_eq!(again, [(&b"again.a"[..], 2, 1)]);
    for dest in ["s.x.$1", "$JS.API.$1", "again.$2"] {
        let looping = StreamConfig {
            name: "L".into(),
            republish: Some(Republish {
                src: "l.*".into(),
                dest: dest.into(),
                headers_only: false,
            }),
            ..config(&["l.>", "s2", "again2"])
        };
        let dest_is_other = dest == "s.x.$1";
        let outcome = bench.create(looping);
        assert_eq!(matches!(outcome, Outcome::Done), dest_is_other, "{dest}");
    }
}

#[test]
fn what_a_stream_captures_of_what_is_published_again_is_stored_by_the_same_entry() {
    let again = |dest: &str| {
        Some(Republish {
            src: ">".into(),
            dest: dest.into(),
            headers_only: false,
        })
    };
    let mut bench = Bench::with(StreamConfig {
        republish: again("t.>"),
        ..config(&["s.>"])
    });
    // Each publishes again what the one before did: round and round, but not for ever.
    for (name, captures, dest) in [("T", "t.>", "u.>"), ("U", "u.>", "s.>")] {
        let config = StreamConfig {
            name: name.into(),
            republish: again(dest),
            ..config(&[captures])
        };
        assert_eq!(bench.create(config), Outcome::Done);
    }
    let mut batch = CommandBatch::new();
    batch.push_append(b"s.a", 0, b"1", false).unwrap();
    let applied = bench.apply(batch);
    assert_eq!(applied.outcomes.len(), 1);
    let stored = |name: &str| bench.state.stream(name).unwrap().messages();
    assert_eq!((stored("S"), stored("T"), stored("U")), (3, 3, 3));
    let captured = applied
        .effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Republish { captured: true, .. }));
    assert_eq!(captured.count(), 8);
    let copy = bench.state.stream("T").unwrap().get(1).unwrap();
    let block = &bench.blocks.bytes[&(copy.stream, copy.block)];
    let record = &block[copy.offset as usize..(copy.offset + copy.len) as usize];
    let copy = StoredMessage::decode(Bytes::copy_from_slice(record)).unwrap();
    let headers = String::from_utf8(copy.headers.to_vec()).unwrap();
    assert!(headers.contains("Nats-Stream: S\r\nNats-Subject: s.a\r\nNats-Sequence: 1\r\n"));
    assert_eq!(
        (&copy.subject[..], &copy.payload[..]),
        (&b"t.s.a"[..], &b"1"[..])
    );
}

#[test]
fn what_is_elsewhere_is_refused_by_name() {
    let mut bench = Bench::new();
    let mut far = source("S");
    far.external = Some(unibus_proto::jetstream::source::ExternalStream::default());
    assert!(
        refused(bench.create(mirror_of(far)))
            .2
            .contains("other accounts")
    );
    let control = mirror_of(source("KV_UNIBUS_users"));
    assert_eq!(refused(bench.create(control)).0, 403);
    assert_eq!(
        refused(bench.create(mirror_of(source("M")))).2,
        "detected cycle"
    );
    let with_subjects = StreamConfig {
        subjects: vec!["m".into()],
        ..mirror_of(source("S"))
    };
    assert_eq!(refused(bench.create(with_subjects)).1, 10034);
    let twice = gathering(vec![source("S"), source("S")]);
    assert_eq!(refused(bench.create(twice)).1, 10140);
}

#[test]
fn a_copy_goes_on_after_what_is_larger_than_itself() {
    for copy in [mirror_of(source("S")), gathering(vec![source("S")])] {
        let mut bench = Bench::with(config(&["s.*"]));
        bench.create(StreamConfig {
            max_bytes: 500,
            ..copy
        });
        for size in [10, 1000, 10, 10] {
            bench.publish("s.a", &[], &"x".repeat(size));
        }
        for _ in 0..4 {
            round(&mut bench, 2);
        }
        let copy = bench.state.stream("M").unwrap();
        assert_eq!((copy.last_seq(), copy.messages()), (4, 2));
    }
}

#[test]
fn copied_markers_are_not_marked_again() {
    for copy in [mirror_of(source("S")), gathering(vec![source("S")])] {
        let mut bench = Bench::with(config(&["s.*"]));
        bench.create(StreamConfig {
            allow_msg_ttl: true,
            subject_delete_marker_ttl: if copy.mirror.is_some() {
                0
            } else {
                2 * SECOND as i64
            },
            ..copy
        });
        bench.publish("s.a", &[], "x");
        bench.state.stream("S").unwrap();
        let marker = [("Nats-Marker-Reason", "MaxAge")];
        bench.publish("s.b", &marker, "");
        round(&mut bench, 9);
        let config = bench.state.stream("M").unwrap().config().clone();
        let aging = StreamConfig {
            max_age: 5 * SECOND as i64,
            ..config
        };
        assert_eq!(bench.update(aging), Outcome::Done);
        bench.now += 6 * SECOND;
        bench.run(&Command::Tick);
        let copy = bench.state.stream("M").unwrap();
        let expected = u64::from(copy.config().mirror.is_none());
        assert_eq!(copy.messages(), expected, "only of the plain one");
    }
}

/// A counter's message of the `at`th origin as a copy brings it.
fn counted(seq: u64, at: u64, val: u64) -> CopiedMessage {
    let block =
        format!("NATS/1.0\r\nNats-Incr: 1\r\nNats-Stream-Source: O {seq} > > o.{at}\r\n\r\n");
    CopiedMessage {
        seq,
        ts_ns: 1,
        subject: Bytes::from_static(b"c"),
        header_len: block.len() as u32,
        data: Bytes::from(format!("{block}{{\"val\":\"{val}\"}}")),
    }
}

#[test]
fn a_counter_stops_at_one_origin_too_many_and_not_before() {
    let mut bench = Bench::new();
    let made = bench.create(StreamConfig {
        allow_msg_counter: true,
        ..gathering(vec![source("O")])
    });
    assert_eq!(made, Outcome::Done);
    let mut copy = |after: u64, messages: Vec<CopiedMessage>| {
        let target = bench.state.stream("M").unwrap();
        let outcome = bench.run(&Command::Copy(CopyBatch {
            stream: "M".into(),
            created_ns: target.created_ns(),
            origin: source("O").identity(),
            origin_uid: 77,
            after,
            upto: messages.last().unwrap().seq,
            whole: false,
            messages,
        }));
        let target = bench.state.stream("M").unwrap();
        let last = read(&bench, "M", target.last_seq());
        let last = String::from_utf8(last.payload.to_vec()).unwrap();
        (outcome, last, target.progress(&source("O")).unwrap().seq)
    };
    let all = (1..=1024).map(|at| counted(at, at, 1)).collect();
    let sum = |val: u64| format!("{{\"val\":\"{val}\"}}");
    assert_eq!(copy(0, all), (Outcome::Done, sum(1024), 1024));
    let known = vec![counted(1025, 7, 11)];
    assert_eq!(copy(1024, known), (Outcome::Done, sum(1034), 1025));
    let (outcome, last, progress) = copy(1025, vec![counted(1026, 2000, 1)]);
    assert_eq!(
        (refused(outcome).1, last, progress),
        (10172, sum(1034), 1025)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens to the origin, a mirror that follows holds what the origin held when it was
    /// read, and replicas that are fed the same entries agree.
    #[test]
    fn a_mirror_follows_any_history(steps in prop::collection::vec((0u8..6, 1u64..12), 1..60)) {
        let mut bench = Bench::with(config(&["s.*"]));
        bench.create(mirror_of(source("S")));
        let mut replica = State::new();
        let mut rules = CommandBatch::new();
        rules.push(&Command::Rules(Rules::NEWEST)).unwrap();
        let entry = unibus_state::encode_entry(1000 * SECOND, &[rules.freeze()]);
        let entry = unibus_state::decode_entry(&entry).unwrap();
        replica.apply(0, &entry, &mut NullSink);
        for name in [config(&["s.*"]), mirror_of(source("S"))] {
            let mut batch = CommandBatch::new();
            batch.push(&Command::StreamCreate(put(name))).unwrap();
            let entry = unibus_state::encode_entry(1000 * SECOND, &[batch.freeze()]);
            let entry = unibus_state::decode_entry(&entry).unwrap();
            replica.apply(0, &entry, &mut NullSink);
        }
        prop_assert_eq!(replica.digest(), bench.state.digest());
        let mut seen = std::collections::BTreeMap::new();
        for (step, n) in steps {
            bench.now += SECOND;
            match step {
                0..3 => drop(bench.publish(&format!("s.{}", n % 3), &[], &n.to_string())),
                3 => drop(bench.delete(n)),
                4 => drop(bench.purge("s.1", 0, 0)),
                _ => drop(round(&mut bench, n as usize)),
            }
            for m in all(&bench, "S") {
                seen.insert(m.0, m);
            }
        }
        while round(&mut bench, 7) > 0 {}
        for copy in all(&bench, "M") {
            prop_assert_eq!(Some(&copy), seen.get(&copy.0));
        }
        let (copies, origin) = (all(&bench, "M"), all(&bench, "S"));
        prop_assert!(origin.iter().all(|m| copies.contains(m)));
    }
}

fn through(name: &str, consumer: &str, deliver: &str) -> StreamSource {
    StreamSource {
        consumer: Some(SourceConsumer {
            name: consumer.into(),
            deliver_subject: deliver.into(),
        }),
        ..source(name)
    }
}

#[test]
fn a_named_consumer_says_where_a_copy_begins() {
    let begun = StreamSource {
        opt_start_seq: 3,
        ..through("S", "c", "d")
    };
    let filtered = StreamSource {
        filter_subject: "a.1".into(),
        ..through("S", "c", "d")
    };
    let wrong = [
        begun,
        filtered,
        through("S", "", "d"),
        through("S", "c.x", "d"),
        through("S", "c", ""),
        through("S", "c", "d.*"),
        through("S", "JS_SRC_x", "d"),
        through("S", "c", "$JS.S.x"),
    ];
    for source in wrong {
        let mirror = check_copy_consumers(&mirror_of(source.clone()));
        assert_eq!(mirror.unwrap_err().err_code, 10213, "{source:?}");
        let gathering = check_copy_consumers(&gathering(vec![source]));
        assert_eq!(gathering.unwrap_err().err_code, 10215);
    }
    let renamed = StreamSource {
        subject_transforms: vec![SubjectTransform {
            src: "a.>".into(),
            dest: "b.>".into(),
        }],
        ..through("S", "c", "d")
    };
    let twice = gathering(vec![through("S", "c", "d"), renamed]);
    let twice = check_copy_consumers(&twice);
    assert_eq!(twice.unwrap_err().err_code, 10216);
    let fine = gathering(vec![through("S", "c", "d"), through("S", "e", "f")]);
    assert_eq!(check_copy_consumers(&fine), Ok(()));
    let mut bench = Bench::with(config(&["a.>"]));
    bench.run(&Command::StreamCreate(put(fine)));
    assert!(bench.state.stream("M").is_some());
}

#[test]
fn consumers_are_made_for_copies_and_known_when_these_are_gone() {
    let mut bench = Bench::with(StreamConfig {
        retention: Retention::Interest,
        ..config(&["a.>"])
    });
    let filtered = StreamSource {
        filter_subject: "a.1".into(),
        ..source("S")
    };
    bench.run(&Command::StreamCreate(put(gathering(vec![
        source("S"),
        filtered.clone(),
    ]))));
    let ways = |bench: &Bench| {
        let (copy, origin) = (bench.state.stream("M").unwrap(), bench.stream());
        let ways = copy.origins().map(|s| copy.copy_consumer(s, origin));
        ways.map(Option::unwrap).collect::<Vec<_>>()
    };
    let made = ways(&bench);
    assert_ne!(made[0].name, made[1].name);
    assert!(made[0].name.starts_with("JS_SRC_"));
    let config_of = |bench: &Bench, way: &CopyConsumer| {
        let (copy, origin) = (bench.state.stream("M").unwrap(), bench.stream());
        let made_for = |s: &&StreamSource| copy.copy_consumer(s, origin).as_ref() == Some(way);
        let source = copy.origins().find(made_for).unwrap();
        copy.copy_consumer_config(source, origin, way.clone())
    };
    for way in &made {
        let create = ConsumerCreate {
            stream: "S".into(),
            config: config_of(&bench, way),
            action: ConsumerAction::Create,
            generated_name: String::new(),
            privileged: true,
        };
        bench.run(&Command::ConsumerCreate(create));
        let consumer = bench.stream().consumer(&way.name).unwrap();
        assert!(way.fits(consumer));
    }
    assert_eq!(ways(&bench), made, "the same at every look");
    assert_eq!(bench.state.forsaken_copy_consumers(), []);
    bench.run(&Command::StreamUpdate(put(gathering(vec![filtered]))));
    let gone: Vec<_> = bench.state.forsaken_copy_consumers();
    assert_eq!(gone.len(), 1);
    assert_eq!(gone[0].consumer, made[0].name);
    bench.run(&Command::StreamDelete(StreamDelete {
        name: "M".into(),
        privileged: false,
    }));
    assert_eq!(bench.state.forsaken_copy_consumers().len(), 2);
}

#[test]
fn streams_that_keep_everything_are_read_without_a_consumer() {
    let mut bench = Bench::with(config(&["a.>"]));
    bench.run(&Command::StreamCreate(put(mirror_of(source("S")))));
    let copy = bench.state.stream("M").unwrap();
    let way = copy.copy_consumer(copy.origins().next().unwrap(), bench.stream());
    assert_eq!(way, None);
}

#[test]
fn a_copy_whose_origin_forgets_stops_at_what_is_refused() {
    for (whole, stored, seq) in [(false, 2, 3), (true, 1, 1)] {
        let mut bench = Bench::with(config(&["a.>"]));
        let small = StreamConfig {
            max_msg_size: 4,
            ..gathering(vec![source("S")])
        };
        bench.run(&Command::StreamCreate(put(small)));
        let message = |seq: u64, text: &'static [u8]| CopiedMessage {
            seq,
            ts_ns: 1,
            subject: Bytes::from_static(b"a.1"),
            header_len: 0,
            data: Bytes::from_static(text),
        };
        let copy = bench.state.stream("M").unwrap();
        let batch = CopyBatch {
            stream: "M".into(),
            created_ns: copy.created_ns(),
            origin: source("S").identity(),
            origin_uid: 1,
            after: 0,
            upto: 3,
            whole,
            messages: vec![message(1, b"1"), message(2, b"too long"), message(3, b"3")],
        };
        let outcome = bench.run(&Command::Copy(batch));
        assert_eq!(matches!(outcome, Outcome::Refused(_)), whole, "{outcome:?}");
        let copy = bench.state.stream("M").unwrap();
        assert_eq!(copy.state().messages, stored);
        assert_eq!(copy.progress(&source("S")).unwrap().seq, seq);
    }
}

#[test]
fn infos_say_what_keeps_a_stream_from_being_copied() {
    let mut bench = Bench::with(config(&["a.>"]));
    let through = StreamSource {
        consumer: Some(SourceConsumer {
            name: "c".into(),
            deliver_subject: "d".into(),
        }),
        ..source("S")
    };
    let sources = vec![through.clone(), source("NOT"), source("S2")];
    bench.run(&Command::StreamCreate(put(gathering(sources))));
    bench.run(&Command::StreamCreate(put(named("S2", &["b.>"]))));
    let errors = |bench: &Bench| {
        let copy = bench.state.stream("M").unwrap();
        let infos = bench.state.source_infos(copy, bench.now).into_iter();
        let error = infos.map(|info| info.error.map(|error| (error.code, error.err_code)));
        error.collect::<Vec<_>>()
    };
    let missing = Some((404, 10059));
    assert_eq!(errors(&bench), [Some((500, 10045)), missing, None]);
    let make = |ack_policy, deliver_subject: &str| {
        Command::ConsumerCreate(ConsumerCreate {
            stream: "S".into(),
            config: ConsumerConfig {
                name: "c".into(),
                durable_name: "c".into(),
                ack_policy,
                max_ack_pending: 100,
                deliver_subject: deliver_subject.into(),
                ..ConsumerConfig::default()
            },
            action: ConsumerAction::CreateOrUpdate,
            generated_name: String::new(),
            privileged: true,
        })
    };
    bench.run(&make(AckPolicy::FlowControl, "elsewhere"));
    let copy = bench.state.stream("M").unwrap();
    let trouble = bench.state.copy_trouble(copy, &through);
    assert_eq!(trouble, Some(CopyTrouble::ConsumerUnfit));
    bench.run(&make(AckPolicy::FlowControl, "d"));
    assert_eq!(errors(&bench), [None, missing, None]);
}
