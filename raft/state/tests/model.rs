//! The stream against a naive model of it: random histories must agree in every answer, in what is
//! live, and on every replica, also through checkpoints at random points.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "model/reload.rs"]
mod reload;

use std::collections::BTreeMap;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use unibus_proto::jetstream::config::{Discard, StreamConfig};
use unibus_proto::subject;
use unibus_state::command::{Command, MessageDelete, StreamPurge, StreamPut};
use unibus_state::{
    CommandBatch, NullSink, Outcome, RowOp, Rules, State, decode_entry, encode_entry, fuzzing,
};

const SECOND: u64 = 1_000_000_000;
/// Stands for a message that outlives the maximum age.
const NEVER: u64 = 8;

#[derive(Clone, Debug)]
enum Op {
    Append {
        key: u8,
        size: usize,
        id: Option<u8>,
        rollup: u8,
        expect: Option<(bool, u64)>,
        ttl: Option<u8>,
    },
    /// Time passes, seconds.
    Wait(u64),
    Delete(u64),
    Purge {
        filter: u8,
        seq: u64,
        keep: u64,
    },
    Checkpoint,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    max_msgs: i64,
    max_bytes: i64,
    per_subject: i64,
    discard: Discard,
    new_per_subject: bool,
    /// Seconds; 0 = for ever.
    max_age: u64,
    /// Seconds that ids are remembered.
    window: u64,
}

/// A stream, as simply as it can be said.
struct Model {
    limits: Limits,
    last: u64,
    live: BTreeMap<u64, (String, u64)>,
    /// Sequence and second of the last message with an id.
    ids: BTreeMap<u8, (u64, u64)>,
    /// The second in which a message goes.
    ends: BTreeMap<u64, u64>,
    now: u64,
}

const FILTERS: [&str; 4] = ["", "m.*.x", "m.1.x", "m.>"];

fn subject_of(key: u8) -> String {
    format!("m.{}.{}", key % 4, if key < 4 { "x" } else { "y" })
}

impl Model {
    fn count(&self, name: &str) -> usize {
        self.live.values().filter(|(s, _)| s == name).count()
    }

    fn bytes(&self) -> u64 {
        self.live.values().map(|(_, size)| size).sum()
    }

    fn last_of(&self, name: &str) -> u64 {
        let of = |(_, (s, _)): &(&u64, &(String, u64))| s == name;
        self.live.iter().rev().find(of).map_or(0, |(seq, _)| *seq)
    }

    /// The sequence and whether it is a duplicate, or the error's number.
    fn append(&mut self, name: String, size: u64, op: &Op) -> Result<(u64, bool), u16> {
        let Op::Append {
            id,
            rollup,
            expect,
            ttl,
            ..
        } = op
        else {
            unreachable!()
        };
        if *ttl == Some(0) {
            return Err(10165);
        }
        if let Some((seq, at)) = id.and_then(|id| self.ids.get(&id))
            && at + self.limits.window > self.now
        {
            return Ok((*seq, true));
        }
        if let Some((per_subject, expected)) = expect {
            let last = if *per_subject {
                self.last_of(&name)
            } else {
                self.last
            };
            if last != *expected {
                return Err(10071);
            }
        }
        self.check_limits(&name, size, *rollup)?;
        self.last += 1;
        let seq = self.last;
        self.live.insert(seq, (name.clone(), size));
        let age = Some(self.limits.max_age).filter(|age| *age > 0);
        let own = ttl.map(u64::from).filter(|ttl| *ttl != NEVER);
        // A message of its own life may go before the others, or stay as long as they do.
        let ages = age.filter(|_| *ttl != Some(NEVER as u8));
        if let Some(life) = own.into_iter().chain(ages).min() {
            self.ends.insert(seq, self.now + life);
        }
        match rollup {
            1 => self.live.retain(|at, (s, _)| *at == seq || *s != name),
            2 => self.live.retain(|at, _| *at == seq),
            _ => {}
        }
        let oldest = |live: &BTreeMap<u64, (String, u64)>| {
            live.iter()
                .find(|(_, (s, _))| *s == name)
                .map(|(seq, _)| *seq)
        };
        while self.limits.per_subject > 0 && self.count(&name) as i64 > self.limits.per_subject {
            self.live.remove(&oldest(&self.live).unwrap());
        }
        while self.is_over() {
            self.live.pop_first();
        }
        if let Some(id) = id {
            self.ids.insert(*id, (seq, self.now));
        }
        Ok((seq, false))
    }

    fn is_over(&self) -> bool {
        let Limits {
            max_msgs,
            max_bytes,
            ..
        } = self.limits;
        max_msgs > 0 && self.live.len() as i64 > max_msgs
            || max_bytes > 0 && self.bytes() as i64 > max_bytes
    }

    fn check_limits(&self, name: &str, size: u64, rollup: u8) -> Result<(), u16> {
        let Limits {
            max_msgs,
            max_bytes,
            per_subject,
            discard,
            new_per_subject,
            ..
        } = self.limits;
        if discard == Discard::Old {
            return Ok(());
        }
        if max_bytes > 0 && size as i64 > max_bytes {
            return Err(10077);
        }
        let replaces = per_subject > 0 && self.count(name) as i64 >= per_subject;
        let first = self
            .live
            .values()
            .find(|(s, _)| s == name)
            .map(|(_, size)| *size);
        if new_per_subject && replaces && rollup == 0 {
            return Err(10077);
        }
        if max_msgs > 0 && self.live.len() as i64 >= max_msgs && !replaces {
            return Err(10077);
        }
        let fits = max_bytes <= 0 || (self.bytes() + size) as i64 <= max_bytes;
        let makes_room = replaces && first >= Some(size);
        if !(fits || makes_room) {
            return Err(10077);
        }
        Ok(())
    }

    fn wait(&mut self, seconds: u64) {
        self.now += seconds;
        let (ends, now) = (&self.ends, self.now);
        self.live
            .retain(|seq, _| ends.get(seq).is_none_or(|end| *end > now));
    }

    fn purge(&mut self, filter: &str, seq: u64, keep: u64) -> u64 {
        let hit =
            |name: &str| filter.is_empty() || subject::matches(filter.as_bytes(), name.as_bytes());
        let below = |at: &u64| seq == 0 || *at < seq;
        let mut doomed: Vec<u64> = self
            .live
            .iter()
            .filter(|(at, (name, _))| below(at) && hit(name))
            .map(|(at, _)| *at)
            .collect();
        doomed.truncate(doomed.len().saturating_sub(keep as usize));
        for at in &doomed {
            self.live.remove(at);
        }
        doomed.len() as u64
    }
}

fn header_of(op: &Op) -> String {
    let Op::Append {
        id,
        rollup,
        expect,
        ttl,
        ..
    } = op
    else {
        unreachable!()
    };
    let mut text = String::new();
    if let Some(ttl) = ttl {
        text += &match u64::from(*ttl) {
            NEVER => "Nats-TTL: never\r\n".to_owned(),
            seconds => format!("Nats-TTL: {seconds}\r\n"),
        };
    }
    if let Some(id) = id {
        text += &format!("Nats-Msg-Id: id{id}\r\n");
    }
    match rollup {
        1 => text += "Nats-Rollup: sub\r\n",
        2 => text += "Nats-Rollup: all\r\n",
        _ => {}
    }
    match expect {
        Some((true, seq)) => text += &format!("Nats-Expected-Last-Subject-Sequence: {seq}\r\n"),
        Some((false, seq)) => text += &format!("Nats-Expected-Last-Sequence: {seq}\r\n"),
        None => {}
    }
    if text.is_empty() {
        text
    } else {
        format!("NATS/1.0\r\n{text}\r\n")
    }
}

fn ops() -> impl Strategy<Value = Op> {
    let expect = prop_oneof![
        4 => Just(None),
        1 => (any::<bool>(), 0u64..20).prop_map(Some)
    ];
    prop_oneof![
        8 => (0u8..8, 0usize..60, prop_oneof![3 => Just(None), 1 => (0u8..6).prop_map(Some)],
              prop_oneof![8 => Just(0u8), 1 => Just(1), 1 => Just(2)], expect,
              prop_oneof![4 => Just(None), 1 => (0u8..9).prop_map(Some)])
            .prop_map(|(key, size, id, rollup, expect, ttl)| Op::Append {
                key, size, id, rollup, expect, ttl,
            }),
        2 => (1u64..6).prop_map(Op::Wait),
        2 => (0u64..60).prop_map(Op::Delete),
        1 => (0u8..4, 0u64..40, any::<bool>()).prop_map(|(filter, n, keep)| Op::Purge {
            filter,
            seq: if keep { 0 } else { n },
            keep: if keep { n % 5 } else { 0 },
        }),
        1 => Just(Op::Checkpoint),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    let age = prop_oneof![1 => Just(0), 1 => 4u64..12];
    (
        0i64..12,
        0i64..900,
        0i64..4,
        any::<bool>(),
        any::<bool>(),
        age,
        1u64..5,
    )
        .prop_map(
            |(max_msgs, max_bytes, per_subject, new, each, max_age, window)| Limits {
                max_msgs,
                max_bytes,
                per_subject,
                discard: if new { Discard::New } else { Discard::Old },
                new_per_subject: new && each && per_subject > 0,
                max_age,
                window: if max_age > 0 {
                    window.min(max_age)
                } else {
                    window
                },
            },
        )
}

fn create(limits: Limits) -> Command {
    Command::StreamCreate(StreamPut {
        config: StreamConfig {
            name: "M".into(),
            subjects: vec!["m.>".into()],
            max_msgs: limits.max_msgs,
            max_bytes: limits.max_bytes,
            max_msgs_per_subject: limits.per_subject,
            discard: limits.discard,
            discard_new_per_subject: limits.new_per_subject,
            allow_rollup_hdrs: true,
            allow_msg_ttl: true,
            max_age: (limits.max_age * SECOND) as i64,
            duplicate_window: (limits.window * SECOND) as i64,
            ..StreamConfig::default()
        },
        privileged: false,
        replicas_max: 1,
        pedantic: false,
    })
}

/// A replica that keeps its checkpoint as rows.
struct Replica {
    state: State,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    index: u64,
    now: u64,
}

impl Replica {
    fn new() -> Self {
        let mut replica = Self {
            state: State::new(),
            rows: BTreeMap::new(),
            index: 0,
            now: 1000,
        };
        let mut batch = CommandBatch::new();
        batch.push(&Command::Rules(Rules::NEWEST)).unwrap();
        assert_eq!(replica.apply(batch), Outcome::Done);
        replica
    }

    fn apply(&mut self, batch: CommandBatch) -> Outcome {
        self.index += 1;
        let entry = decode_entry(&encode_entry(self.now * SECOND, &[batch.freeze()])).unwrap();
        self.state
            .apply(self.index, &entry, &mut NullSink)
            .outcomes
            .remove(0)
    }

    /// An incremental checkpoint, and a restart from it.
    fn checkpoint(&mut self) {
        let rows = &mut self.rows;
        self.state.dump_rows(false, &mut |op| match op {
            RowOp::Put { key, value } => {
                rows.insert(key, value);
            }
            RowOp::Delete { key } => {
                rows.remove(&key);
            }
        });
        self.state = State::load_rows(self.rows.clone().into_iter()).unwrap();
    }
}

fn batch_of(op: &Op) -> CommandBatch {
    let mut batch = CommandBatch::new();
    let pushed = match op {
        Op::Append { key, size, .. } => {
            let header = header_of(op);
            let data = [header.as_bytes(), &vec![b'x'; *size]].concat();
            batch.push_append(subject_of(*key).as_bytes(), header.len(), &data, false)
        }
        Op::Delete(seq) => batch.push(&Command::MessageDelete(MessageDelete {
            stream: "M".into(),
            seq: *seq,
            no_erase: false,
            privileged: false,
        })),
        Op::Purge { filter, seq, keep } => batch.push(&Command::StreamPurge(StreamPurge {
            name: "M".into(),
            filter: FILTERS[usize::from(*filter)].into(),
            seq: *seq,
            keep: *keep,
            privileged: false,
        })),
        Op::Checkpoint | Op::Wait(_) => batch.push(&Command::Tick),
    };
    pushed.unwrap();
    batch
}

fn check_answer(model: &mut Model, op: &Op, outcome: &Outcome) {
    match op {
        Op::Append { key, size, .. } => {
            let name = subject_of(*key);
            let header = header_of(op).len();
            let overhead = if header > 0 { 34 } else { 30 };
            let bytes = (overhead + name.len() + header + size) as u64;
            match (model.append(name, bytes, op), outcome) {
                (
                    Ok((seq, dup)),
                    Outcome::Published {
                        seq: have,
                        duplicate,
                        ..
                    },
                ) => {
                    assert_eq!((seq, dup), (*have, *duplicate));
                }
                (Err(code), Outcome::Refused(r)) => assert_eq!(code, r.error.err_code),
                (expected, other) => panic!("{expected:?} but {other:?}"),
            }
        }
        Op::Delete(seq) => {
            let there = model.live.remove(seq).is_some();
            assert_eq!(there, *outcome == Outcome::Done);
        }
        Op::Purge { filter, seq, keep } => {
            let count = model.purge(FILTERS[usize::from(*filter)], *seq, *keep);
            assert_eq!(*outcome, Outcome::Purged { count });
        }
        Op::Wait(seconds) => model.wait(*seconds),
        Op::Checkpoint => {}
    }
}

fn check_content(model: &Model, state: &State) {
    let stream = state.stream("M").unwrap();
    let live: Vec<u64> = (0..=model.last + 1)
        .filter(|seq| stream.message(*seq).is_some())
        .collect();
    assert_eq!(live, model.live.keys().copied().collect::<Vec<_>>());
    let json = stream.state();
    assert_eq!(
        (json.messages, json.bytes),
        (live.len() as u64, model.bytes())
    );
    assert_eq!(json.last_seq, model.last);
    if let Some(first) = live.first() {
        assert_eq!(json.first_seq, *first);
        assert_eq!(json.num_deleted, model.last + 1 - first - live.len() as u64);
        assert_eq!(stream.deleted(1000).len() as u64, json.num_deleted);
    }
    for filter in &FILTERS[1..] {
        let hit = |name: &str| subject::matches(filter.as_bytes(), name.as_bytes());
        let matching: Vec<u64> = model
            .live
            .iter()
            .filter(|(_, (name, _))| hit(name))
            .map(|(seq, _)| *seq)
            .collect();
        assert_eq!(
            stream.last_seq_for(filter.as_bytes()),
            matching.last().copied()
        );
        for from in [0, model.last / 2, model.last + 1] {
            let rest: Vec<u64> = matching
                .iter()
                .copied()
                .filter(|seq| *seq >= from)
                .collect();
            assert_eq!(stream.next_seq_for(&[filter], from), rest.first().copied());
            assert_eq!(
                stream.num_pending(&[filter], from, false),
                rest.len() as u64
            );
            let mut names: Vec<&str> = rest.iter().map(|seq| model.live[seq].0.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(
                stream.num_pending(&[filter], from, true),
                names.len() as u64
            );
        }
    }
}

fn run(limits: Limits, history: &[Op]) {
    let mut model = Model {
        limits,
        last: 0,
        live: BTreeMap::new(),
        ids: BTreeMap::new(),
        ends: BTreeMap::new(),
        now: 1000,
    };
    let (mut steady, mut restarted) = (Replica::new(), Replica::new());
    for replica in [&mut steady, &mut restarted] {
        let mut batch = CommandBatch::new();
        batch.push(&create(limits)).unwrap();
        assert_eq!(replica.apply(batch), Outcome::Done);
    }
    for op in history {
        if let Op::Wait(seconds) = op {
            steady.now += seconds;
            restarted.now += seconds;
        }
        let outcome = steady.apply(batch_of(op));
        assert_eq!(outcome, restarted.apply(batch_of(op)));
        check_answer(&mut model, op, &outcome);
        if matches!(op, Op::Checkpoint) {
            restarted.checkpoint();
            check_content(&model, &restarted.state);
        }
    }
    check_content(&model, &steady.state);
    assert_eq!(steady.state.digest(), restarted.state.digest());
    restarted.checkpoint();
    assert_eq!(steady.state.digest(), restarted.state.digest());
    assert_eq!(steady.state.live_blocks(), restarted.state.live_blocks());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn streams_agree_with_the_model(
        limits in limits(),
        history in proptest::collection::vec(ops(), 0..80),
    ) {
        run(limits, &history);
    }

    #[test]
    fn arbitrary_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        fuzzing::state_machine(&data);
    }

    #[test]
    fn damaged_entries_and_rows_never_panic(
        history in proptest::collection::vec(ops(), 1..20),
        at in any::<usize>(),
        with in any::<u8>(),
    ) {
        let limits = Limits { max_msgs: 0, max_bytes: 0, per_subject: 0, discard: Discard::Old, new_per_subject: false, max_age: 0, window: 120 };
        let mut replica = Replica::new();
        let mut batch = CommandBatch::new();
        batch.push(&create(limits)).unwrap();
        replica.apply(batch);
        for op in &history {
            replica.apply(batch_of(op));
            let mut bytes = encode_entry(1, &[batch_of(op).freeze()]).to_vec();
            let place = at % bytes.len();
            bytes[place] = with;
            fuzzing::state_machine(&bytes);
        }
        replica.checkpoint();
        let mut rows: Vec<_> = replica.rows.into_iter().collect();
        let row = at % rows.len();
        let value = &mut rows[row].1;
        let place = at / 7 % value.len();
        value[place] = with;
        let _ = State::load_rows(rows.into_iter());
    }
}
