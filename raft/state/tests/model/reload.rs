//! A state that lives long against one that is loaded from its rows again and again: what is kept beside
//! the rows (slots, counts of what is in use, cursors, hints) must never decide what an entry does.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::{Just, ProptestConfig, Strategy, prop_oneof, proptest};
use unibus_proto::jetstream::config::{Republish, Retention, StreamConfig};
use unibus_proto::jetstream::info::AccountLimits;
use unibus_state::command::{
    Append, AtomicBatch, Command, Series, StreamDelete, StreamPurge, StreamPut,
};
use unibus_state::limits::Limits;
use unibus_state::{
    BlockMeta, CommandBatch, NullSink, Outcome, RowOp, Rules, State, decode_entry, encode_entry,
};

use super::SECOND;

/// Streams that publish again what they store, into `C`.
const STREAMS: u8 = 4;

#[derive(Clone, Debug)]
enum Ask {
    Make(u8),
    Drop(u8),
    Publish(u8, usize),
    Atomic(u8, usize, usize),
    Series(u8, usize, usize),
    Purge(u8),
    Limit(i64),
    Tick,
}

#[derive(Clone, Debug)]
enum Op {
    Entry(Vec<Ask>),
    Reload,
    Wait,
}

/// One that never stops, and one that is loaded anew; both apply the same entries.
struct Pair {
    steady: State,
    reloaded: State,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    index: u64,
    now_ns: u64,
}

fn source(of: u8) -> StreamConfig {
    StreamConfig {
        name: format!("S{of}"),
        subjects: vec![format!("s{of}.>")],
        allow_atomic: true,
        allow_batched: true,
        allow_rollup_hdrs: true,
        allow_msg_ttl: true,
        max_bytes: if of == 0 { 600 } else { -1 },
        max_msgs_per_subject: if of == 1 { 2 } else { -1 },
        retention: Retention::Limits,
        republish: Some(Republish {
            src: format!("s{of}.>"),
            dest: format!("c.{of}.>"),
            headers_only: false,
        }),
        ..StreamConfig::default()
    }
}

fn make(config: StreamConfig) -> Command {
    Command::StreamCreate(StreamPut {
        config,
        privileged: false,
        replicas_max: 1,
        pedantic: false,
    })
}

fn collector() -> Command {
    make(StreamConfig {
        name: "C".into(),
        subjects: vec!["c.>".into()],
        ..StreamConfig::default()
    })
}

fn message(of: u8, size: usize) -> Append {
    let header = if size.is_multiple_of(3) {
        "NATS/1.0\r\nNats-TTL: 2\r\n\r\n"
    } else {
        ""
    };
    let data = [header.as_bytes(), &vec![b'x'; size]].concat();
    Append {
        subject: Bytes::from(format!("s{of}.{}", size % 3)),
        header_len: header.len() as u32,
        data: data.into(),
        privileged: false,
    }
}

fn command(ask: &Ask) -> Command {
    let several =
        |of: u8, count: usize, size: usize| (0..count).map(|at| message(of, size + at)).collect();
    match ask {
        Ask::Make(of) => make(source(*of)),
        Ask::Drop(of) => Command::StreamDelete(StreamDelete {
            name: format!("S{of}"),
            privileged: false,
        }),
        Ask::Publish(of, size) => Command::Append(message(*of, *size)),
        Ask::Atomic(of, count, size) => Command::Atomic(AtomicBatch {
            id: "b".into(),
            messages: several(*of, *count, *size),
        }),
        Ask::Series(of, count, size) => Command::Series(Series {
            go_on: true,
            messages: several(*of, *count, *size),
        }),
        Ask::Purge(of) => Command::StreamPurge(StreamPurge {
            name: format!("S{of}"),
            filter: String::new(),
            seq: 0,
            keep: 1,
            privileged: false,
        }),
        Ask::Limit(bytes) => Command::Limits(Limits {
            account: AccountLimits {
                max_storage: *bytes,
                ..AccountLimits::default()
            },
            ..Limits::default()
        }),
        Ask::Tick => Command::Tick,
    }
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self {
            steady: State::new(),
            reloaded: State::new(),
            rows: BTreeMap::new(),
            index: 0,
            now_ns: 1000 * SECOND,
        };
        pair.entry(&[Command::Rules(Rules::NEWEST)]);
        pair
    }

    /// Both say the same to it.
    fn entry(&mut self, commands: &[Command]) -> Vec<Outcome> {
        let mut batch = CommandBatch::new();
        for command in commands {
            batch.push(command).unwrap();
        }
        self.index += 1;
        let entry = decode_entry(&encode_entry(self.now_ns, &[batch.freeze()])).unwrap();
        let steady = self.steady.apply(self.index, &entry, &mut NullSink);
        let reloaded = self.reloaded.apply(self.index, &entry, &mut NullSink);
        assert_eq!(steady.outcomes, reloaded.outcomes);
        steady.outcomes
    }

    fn reload(&mut self) {
        let rows = &mut self.rows;
        self.reloaded.dump_rows(false, &mut |op| match op {
            RowOp::Put { key, value } => drop(rows.insert(key, value)),
            RowOp::Delete { key } => drop(rows.remove(&key)),
        });
        self.reloaded = State::load_rows(self.rows.clone().into_iter()).unwrap();
    }

    fn check(&self) {
        assert_eq!(self.steady.digest(), self.reloaded.digest());
        let blocks = |state: &State| -> BTreeMap<_, _> {
            let blocks = state.live_blocks().into_iter();
            let entry = |block: BlockMeta| ((block.stream, block.block), block);
            blocks.map(entry).collect()
        };
        assert_eq!(blocks(&self.steady), blocks(&self.reloaded));
    }
}

fn run(history: &[Op]) {
    let mut pair = Pair::new();
    pair.entry(&[collector()]);
    for op in history {
        match op {
            Op::Entry(asks) => {
                let commands: Vec<Command> = asks.iter().map(command).collect();
                pair.entry(&commands);
            }
            Op::Reload => pair.reload(),
            Op::Wait => pair.now_ns += SECOND,
        }
        pair.check();
    }
    pair.reload();
    pair.check();
}

fn asks() -> impl Strategy<Value = Ask> {
    let size = 1usize..200;
    prop_oneof![
        3 => (0..STREAMS).prop_map(Ask::Make),
        1 => (0..STREAMS).prop_map(Ask::Drop),
        6 => (0..STREAMS, size.clone()).prop_map(|(of, size)| Ask::Publish(of, size)),
        2 => (0..STREAMS, 1usize..4, size.clone())
            .prop_map(|(of, count, size)| Ask::Atomic(of, count, size)),
        2 => (0..STREAMS, 1usize..4, size)
            .prop_map(|(of, count, size)| Ask::Series(of, count, size)),
        1 => (0..STREAMS).prop_map(Ask::Purge),
        1 => prop_oneof![1 => Just(-1), 3 => 1000i64..6000].prop_map(Ask::Limit),
        1 => Just(Ask::Tick),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => proptest::collection::vec(asks(), 1..6).prop_map(Op::Entry),
        1 => Just(Op::Reload),
        1 => Just(Op::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn loading_changes_nothing(history in proptest::collection::vec(ops(), 0..60)) {
        run(&history);
    }
}

/// Streams made again take the places of those deleted, which a state that was loaded knows nothing of.
#[test]
fn what_is_published_again_is_captured_in_one_order() {
    let entry = |asks: &[Ask]| Op::Entry(asks.to_vec());
    run(&[
        entry(&[Ask::Make(3), Ask::Make(1)]),
        entry(&[Ask::Drop(3)]),
        entry(&[Ask::Make(2)]),
        Op::Reload,
        entry(&[
            Ask::Publish(1, 10),
            Ask::Publish(2, 10),
            Ask::Publish(1, 10),
        ]),
    ]);
}

/// What a batch, a series or a run stores counts for what comes after it in the same entry and later.
#[test]
fn batches_count_for_what_the_account_may_use() {
    for store in [Ask::Atomic(2, 3, 200), Ask::Series(2, 3, 200)] {
        let mut pair = Pair::new();
        let before = [Ask::Make(2), Ask::Limit(1000)];
        pair.entry(&before.map(|ask| command(&ask)));
        let outcomes = pair.entry(&[command(&store), command(&Ask::Publish(2, 400))]);
        let Outcome::Refused(refusal) = &outcomes[1] else {
            panic!("{store:?}: {outcomes:?}");
        };
        assert_eq!(refusal.error.err_code, 10002);
        pair.reload();
        let outcomes = pair.entry(&[
            command(&Ask::Publish(2, 200)),
            command(&Ask::Publish(2, 100)),
        ]);
        assert!(
            matches!(outcomes[0], Outcome::Published { .. }),
            "{outcomes:?}"
        );
        assert!(matches!(outcomes[1], Outcome::Refused(_)), "{outcomes:?}");
        pair.check();
    }
}
