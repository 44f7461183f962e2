//! What a node does as leader: one cursor for each consumer, and acknowledgements that wait for what
//! they changed to be applied. Lives and dies with the leadership.

use std::collections::BTreeMap;

use bytes::Bytes;
use unibus_proto::jetstream::ack::{AckKind, AckTokens};
use unibus_proto::jetstream::pull::PullRequest;
use unibus_state::{
    AckOutcome, Consumer, ConsumerCursor, ConsumerUpdate, Delivery, Poll, State, Stream,
};

/// Updates of one cursor on their way at a time.
const UPDATES_MAX: usize = 2;
/// Messages sent in one turn.
const TURN: usize = 8;

/// The consumers, by their place in `consumers::CONSUMERS`.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    runners: BTreeMap<usize, Runner>,
}

#[derive(Debug)]
struct Runner {
    cursor: ConsumerCursor,
    /// Tells this cursor from an earlier one, so that late outcomes are not taken for its own.
    life: u64,
    /// Double acknowledgements that wait for the next update.
    answers: Vec<u64>,
    /// Updates on their way.
    updates: usize,
}

impl Desk {
    fn runner(
        &mut self,
        consumer: usize,
        names: (&str, &str),
        state: &State,
        (now_ns, life): (u64, u64),
    ) -> Option<&mut Runner> {
        let stream = state.stream(names.0)?;
        let row = stream.consumer(names.1)?;
        let runner = self.runners.entry(consumer).or_insert_with(|| Runner {
            cursor: ConsumerCursor::new(stream, row, now_ns),
            life,
            answers: Vec::new(),
            updates: 0,
        });
        Some(runner)
    }

    pub(crate) fn pull(
        &mut self,
        consumer: usize,
        names: (&str, &str),
        state: &State,
        at: (u64, u64),
        (batch, reply): (u64, Vec<u8>),
    ) {
        let Some(runner) = self.runner(consumer, names, state, at) else {
            return;
        };
        let request = PullRequest {
            batch: i64::try_from(batch).unwrap_or(1),
            expires: 10_000_000_000,
            ..PullRequest::default()
        };
        if let Some(stream) = state.stream(names.0) {
            let _refused = runner
                .cursor
                .handle_pull(stream, &request, Bytes::from(reply), at.0);
        }
    }

    /// True: the acknowledgement is answered at once.
    pub(crate) fn ack(
        &mut self,
        consumer: usize,
        names: (&str, &str),
        state: &State,
        at: (u64, u64),
        (seq, double, kind): (u64, bool, &AckKind),
    ) -> bool {
        let Some(runner) = self.runner(consumer, names, state, at) else {
            return false;
        };
        let tokens = AckTokens {
            domain: None,
            account: None,
            stream: names.0,
            consumer: names.1,
            delivered: 1,
            stream_seq: seq,
            consumer_seq: seq,
            ts_ns: 0,
            pending: 0,
        };
        match runner.cursor.handle_ack(kind, &tokens, at.0) {
            AckOutcome::AfterUpdate if double => {
                let nothing = !runner.cursor.has_changes() && runner.updates == 0;
                if !nothing {
                    runner.answers.push(seq);
                }
                nothing
            }
            AckOutcome::Now => double,
            AckOutcome::AfterUpdate | AckOutcome::Ignored => false,
        }
    }

    /// What is to be sent now.
    pub(crate) fn turn(
        &mut self,
        consumer: usize,
        names: (&str, &str),
        state: &State,
        at: (u64, u64),
    ) -> Vec<Delivery> {
        let mut sent = Vec::new();
        let Some(runner) = self.runner(consumer, names, state, at) else {
            return sent;
        };
        let found = state
            .stream(names.0)
            .and_then(|stream| Some((stream, stream.consumer(names.1)?)));
        let Some((stream, row)) = found else {
            return sent;
        };
        if runner.cursor.is_overtaken(row) {
            runner.start_over((stream, row), at);
        }
        while sent.len() < TURN {
            match runner.cursor.poll(stream, at.0) {
                Poll::Deliver(delivery) => sent.push(delivery),
                Poll::Idle { .. } => break,
                _ => {}
            }
        }
        sent
    }

    /// What has to be replicated, with the life of its cursor and the acknowledgements that wait for it.
    pub(crate) fn report(&mut self, consumer: usize) -> Option<(u64, ConsumerUpdate, Vec<u64>)> {
        let runner = self.runners.get_mut(&consumer)?;
        if runner.updates >= UPDATES_MAX {
            return None;
        }
        let update = runner.cursor.take_changes()?;
        runner.updates += 1;
        Some((runner.life, update, std::mem::take(&mut runner.answers)))
    }

    /// An update was applied or not, in the order of the reports. Answers with acknowledgements that
    /// changed nothing themselves and wait for no other.
    pub(crate) fn settle(
        &mut self,
        consumer: usize,
        life: u64,
        is_applied: bool,
        (names, state, at): ((&str, &str), &State, (u64, u64)),
    ) -> Vec<u64> {
        let Some(runner) = self.runners.get_mut(&consumer) else {
            return Vec::new();
        };
        if runner.life != life {
            return Vec::new();
        }
        runner.updates = runner.updates.saturating_sub(1);
        if is_applied {
            let rests = runner.updates == 0 && !runner.cursor.has_changes();
            return if rests {
                std::mem::take(&mut runner.answers)
            } else {
                Vec::new()
            };
        }
        let found = state
            .stream(names.0)
            .and_then(|stream| Some((stream, stream.consumer(names.1)?)));
        if let Some(found) = found {
            runner.start_over(found, at);
        }
        Vec::new()
    }
}

impl Runner {
    /// Goes back to the row; what waits for changes of the old cursor is not answered.
    fn start_over(&mut self, (stream, row): (&Stream, &Consumer), (now_ns, life): (u64, u64)) {
        self.cursor.handle_refused(stream, row, now_ns);
        self.life = life;
        self.answers.clear();
        self.updates = 0;
    }
}
