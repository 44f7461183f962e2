//! Long random histories of one consumer, in lockstep with a naive one: deliveries, acknowledgements of
//! all kinds, redelivery, removal of messages, checkpoints and changes of leaders.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;

use bench::host::{Host, batch, pull_config};
use bench::naive::{Naive, Sent};
use bench::{Bench, SECOND, config};
use proptest::prelude::*;
use unibus_proto::jetstream::config::{Retention, StreamConfig};
use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig};
use unibus_state::command::Command;
use unibus_state::{ConsumerUpdate, NullSink, Outcome, Poll, RowOp, State, decode_entry};

const SUBJECTS: [&str; 3] = ["a.1", "a.2", "a.3"];

#[derive(Clone, Debug)]
enum Op {
    Publish(usize),
    Pull(u8),
    Ack(u8),
    Term(u8),
    Nak(u8, Option<u8>),
    Progress(u8),
    Wait(u8),
    Report,
    /// Reports are lost with the leader.
    FailOver,
    /// A report of the old leader arrives after the change.
    LateReport,
    Delete(u8),
    Purge(u8, Option<usize>),
    Checkpoint,
}

fn op() -> impl Strategy<Value = Op> {
    let any = any::<u8>;
    prop_oneof![
        6 => (0..SUBJECTS.len()).prop_map(Op::Publish),
        4 => (1..6u8).prop_map(Op::Pull),
        6 => any().prop_map(Op::Ack),
        1 => any().prop_map(Op::Term),
        2 => (any(), proptest::option::of(1..40u8)).prop_map(|(at, delay)| Op::Nak(at, delay)),
        1 => any().prop_map(Op::Progress),
        3 => (1..35u8).prop_map(Op::Wait),
        4 => Just(Op::Report),
        1 => Just(Op::FailOver),
        1 => Just(Op::LateReport),
        1 => any().prop_map(Op::Delete),
        1 => (any(), proptest::option::of(0..SUBJECTS.len())).prop_map(|(at, of)| Op::Purge(at, of)),
        1 => Just(Op::Checkpoint),
    ]
}

#[derive(Clone, Debug)]
struct Kind {
    filtered: bool,
    max_deliver: Option<u8>,
    max_open: Option<u8>,
    ack_all: bool,
    workqueue: bool,
}

fn kind() -> impl Strategy<Value = Kind> {
    let few = || proptest::option::of(1..4u8);
    (any::<bool>(), few(), few(), any::<bool>(), any::<bool>()).prop_map(
        |(filtered, max_deliver, max_open, ack_all, workqueue)| Kind {
            filtered,
            max_deliver,
            max_open,
            ack_all: ack_all && !workqueue,
            workqueue,
        },
    )
}

struct Pair {
    real: Host,
    naive: Naive,
    /// Applies the same entries.
    replica: State,
    entries: usize,
}

impl Pair {
    fn new(kind: &Kind) -> Self {
        let retention = if kind.workqueue {
            Retention::Workqueue
        } else {
            Retention::Limits
        };
        let stream = StreamConfig {
            retention,
            ..config(&["a.>"])
        };
        let filters: &[&str] = if kind.filtered { &["a.1", "a.3"] } else { &[] };
        let filters: Vec<String> = filters.iter().map(ToString::to_string).collect();
        let consumer = ConsumerConfig {
            filter_subjects: filters.clone(),
            max_deliver: kind.max_deliver.map_or(-1, i64::from),
            max_ack_pending: kind.max_open.map_or(-1, i64::from),
            ack_policy: if kind.ack_all {
                AckPolicy::All
            } else {
                AckPolicy::Explicit
            },
            ..pull_config()
        };
        let real = Host::new(Bench::with(stream), consumer);
        let mut naive = Naive::new(filters, real.bench.now / SECOND);
        naive.max_deliver = kind.max_deliver.map_or(u64::MAX, u64::from);
        naive.max_open = kind.max_open.map_or(usize::MAX, usize::from);
        (naive.ack_all, naive.workqueue) = (kind.ack_all, kind.workqueue);
        Self {
            real,
            naive,
            replica: State::new(),
            entries: 0,
        }
    }

    /// A message that is or was unsettled, or some other.
    fn pick(&self, at: u8) -> u64 {
        let open: Vec<u64> = self.naive.known.open.keys().copied().collect();
        match open.get(usize::from(at) % (open.len() + 1)) {
            Some(seq) => *seq,
            None => u64::from(at) % (self.naive.last_seq + 2),
        }
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Publish(at) => {
                self.real.bench.publish(SUBJECTS[at], &[], "x");
                self.naive.publish(SUBJECTS[at]);
            }
            Op::Pull(messages) => {
                assert_eq!(self.real.pull(&batch(messages.into()), "x"), None);
                self.naive.wanted += u64::from(messages);
            }
            Op::Ack(at) => {
                let seq = self.pick(at);
                self.real.say(seq, "");
                self.naive.settle(seq);
            }
            Op::Term(at) => {
                let seq = self.pick(at);
                self.real.say(seq, "+TERM");
                self.naive.terminate(seq);
            }
            Op::Nak(at, delay) => {
                let seq = self.pick(at);
                let body = match delay {
                    Some(delay) => format!("-NAK {delay}s"),
                    None => "-NAK".to_owned(),
                };
                self.real.say(seq, &body);
                self.naive.refuse(seq, delay.map(u64::from));
            }
            Op::Progress(at) => {
                let seq = self.pick(at);
                self.real.say(seq, "+WPI");
                self.naive.progress(seq);
            }
            Op::Wait(seconds) => {
                self.real.wait(seconds.into());
                self.naive.now += u64::from(seconds);
            }
            Op::Report => self.report(),
            Op::FailOver | Op::LateReport => self.change_leader(matches!(op, Op::LateReport)),
            Op::Delete(at) => {
                let seq = self.pick(at);
                self.real.bench.delete(seq);
                self.naive.remove(&[seq]);
            }
            Op::Purge(at, of) => self.purge(at, of),
            Op::Checkpoint => self.checkpoint(),
        }
    }

    fn report(&mut self) {
        self.real.flush();
        self.naive.report();
    }

    fn change_leader(&mut self, late: bool) {
        let lost: Option<ConsumerUpdate> = self.real.cursor.take_changes();
        self.real.bench.now += SECOND;
        self.naive.now += 1;
        self.real.cursor = Host::fresh(&self.real.bench);
        self.naive.fail_over();
        self.naive.wanted = 0;
        if late && let Some(lost) = lost {
            // The new leader has reported something first: what comes late does not count.
            self.run(&Op::Pull(1));
            self.run(&Op::Publish(0));
            self.compare();
            if !self.real.cursor.has_changes() {
                return;
            }
            self.report();
            let outcome = self.real.bench.run(&Command::ConsumerUpdate(lost));
            assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
        }
    }

    fn purge(&mut self, at: u8, of: Option<usize>) {
        let below = u64::from(at) % (self.naive.last_seq + 2);
        let filter = of.map_or("", |at| SUBJECTS[at]);
        self.real.bench.purge(filter, below, 0);
        let live = self.naive.live.iter();
        let doomed: Vec<u64> = live
            .filter(|(seq, name)| {
                (below == 0 || **seq < below) && (of.is_none() || *name == filter)
            })
            .map(|(seq, _)| *seq)
            .collect();
        self.naive.remove(&doomed);
    }

    /// What is stored is the state: the same cursor goes on over the loaded one.
    fn checkpoint(&mut self) {
        let mut rows = Vec::new();
        let state = &mut self.real.bench.state;
        state.dump_rows(true, &mut |op| {
            if let RowOp::Put { key, value } = op {
                rows.push((key, value));
            }
        });
        let loaded = State::load_rows(rows.into_iter()).unwrap();
        assert_eq!(loaded.digest(), state.digest());
    }

    fn compare(&mut self) {
        let expected = self.naive.deliver();
        assert_eq!(self.sent(), expected);
        let info = self
            .real
            .cursor
            .info(self.real.bench.state.stream("S").unwrap());
        assert_eq!(info.num_pending, self.naive.remaining().len() as u64);
        let known = &self.naive.known;
        assert_eq!(info.num_ack_pending, known.open.len() as u64);
        let again = known.open.values().filter(|open| open.count > 1);
        assert_eq!(info.num_redelivered, again.count() as u64);
        let delivered = (info.delivered.consumer_seq, info.delivered.stream_seq);
        assert_eq!(delivered, (known.deliveries, known.delivered_to));
        let floor = (info.ack_floor.consumer_seq, info.ack_floor.stream_seq);
        assert_eq!(floor, known.floor);
        let live: Vec<u64> = self.naive.live.keys().copied().collect();
        assert_eq!(self.real.bench.live(), live);
        self.follow();
    }

    fn sent(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        loop {
            match self.real.poll() {
                Poll::Deliver(d) => sent.push((d.seq, d.consumer_seq, d.delivered, d.num_pending)),
                Poll::Advisory(_) => {}
                Poll::Idle { deadline_ns } => {
                    let now = self.real.bench.now;
                    assert!(deadline_ns.is_none_or(|at| at > now), "it would spin");
                    return sent;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The other replica applies what the first one has applied.
    fn follow(&mut self) {
        for (index, bytes) in self.real.bench.log[self.entries..].iter().enumerate() {
            let entry = decode_entry(bytes).unwrap();
            self.replica.apply(index as u64, &entry, &mut NullSink);
        }
        self.entries = self.real.bench.log.len();
        assert_eq!(self.replica.digest(), self.real.bench.state.digest());
    }

    /// Whatever happened: every message is delivered until it is settled or out of deliveries.
    fn finish(&mut self) {
        for _ in 0..200 {
            self.run(&Op::Pull(50));
            self.compare();
            let open: Vec<u64> = self.naive.known.open.keys().copied().collect();
            for seq in open {
                self.real.say(seq, "");
                self.naive.settle(seq);
            }
            self.report();
            self.run(&Op::Wait(40));
            self.compare();
            if self.naive.known.open.is_empty() && self.naive.remaining().is_empty() {
                return;
            }
        }
        panic!("messages are left over");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_naive_consumer(kind in kind(), ops in proptest::collection::vec(op(), 1..120)) {
        let mut pair = Pair::new(&kind);
        for op in &ops {
            pair.run(op);
            pair.compare();
        }
        pair.finish();
    }
}
