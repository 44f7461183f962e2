//! The engine's way of working off a batch of inputs: each goes to the cursor of its consumer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use unibus_proto::jetstream::ack::{AckKind, AckTokens};
use unibus_proto::jetstream::pull::{PullError, PullRequest};
use unibus_state::{AckOutcome, Consumer, State, Status, Stream};

use super::core::Core;
use super::delivery::Lead;
use super::flow;
use super::ingest::answer_to;
use super::inputs::{self, Input, InputKind, Inputs};
use super::orders::{Answer, Order};
use super::runner::Runner;
use super::table::{Key, Table};
use super::text;

/// How long a request waits for its client's interest to arrive over the route.
const PARKING_MAX: Duration = Duration::from_millis(500);
/// Between two looks at whether it has.
const PARKING_LOOK: Duration = Duration::from_millis(5);
/// Requests that wait like that; more are dropped, and their clients ask again.
const PARKED_MAX: usize = 16_384;
/// Before the reply subjects of imported services.
const IMPORTED_REPLY: &[u8] = b"_R_.";
/// Inputs worked off under one lock of the state.
const CHUNK: usize = 512;

/// Requests from other nodes' clients that came before those clients' interest: messages and the
/// interest of a peer travel on other streams than requests.
#[derive(Debug, Default)]
pub(super) struct Parked {
    /// Until when each waits, and the request as a batch of its own.
    waiting: VecDeque<(Instant, Bytes)>,
    look_at: Option<Instant>,
}

impl Parked {
    fn put(&mut self, input: Input<'_>) {
        let mut framed = BytesMut::new();
        let is_framed = inputs::put(
            &mut framed,
            input.kind,
            input.subject,
            input.reply,
            input.body,
        )
        .is_ok();
        // One that was read from a batch can be framed again.
        debug_assert!(is_framed, "an input that was read is too long");
        if self.waiting.len() < PARKED_MAX {
            let now = Instant::now();
            self.waiting.push_back((now + PARKING_MAX, framed.freeze()));
            self.look_at.get_or_insert(now + PARKING_LOOK);
        }
    }

    /// Ends the requests that wait: their reply subjects.
    pub(super) fn close(&mut self) -> Vec<Bytes> {
        let waiting = std::mem::take(&mut self.waiting);
        let inputs = waiting.iter().flat_map(|(_, framed)| Inputs::new(framed));
        let replies = inputs.flatten().map(|input| input.reply);
        replies.map(Bytes::copy_from_slice).collect()
    }

    /// When to look again.
    pub(super) fn due(&self) -> Instant {
        let never = Instant::now() + Duration::from_secs(60);
        self.look_at.unwrap_or(never)
    }
}

/// What one input led to.
#[derive(Default)]
struct Effects {
    statuses: Vec<(Bytes, Status)>,
    answers: Vec<(Key, u32)>,
    at_once: Vec<u32>,
    /// Inputs whose consumers do not exist.
    strays: Vec<u32>,
}

impl Lead<'_> {
    /// Works off one batch.
    pub(super) fn work_off(&mut self, batch: &[u8], order: &Arc<Order>, now_ns: u64) {
        let mut inputs = (0_u32..).zip(Inputs::new(batch).flatten()).peekable();
        let mut chunk = Vec::new();
        while inputs.peek().is_some() {
            chunk.clear();
            chunk.extend(inputs.by_ref().take(CHUNK));
            self.work_off_some(&mut chunk, order, now_ns);
        }
    }

    fn work_off_some(
        &mut self,
        chunk: &mut Vec<(u32, Input<'_>)>,
        order: &Arc<Order>,
        now_ns: u64,
    ) {
        let core = self.core;
        let mut effects = Effects::default();
        chunk.retain_mut(|(_, input)| {
            if !is_pull(input) || listens(core, input.reply) {
                return true;
            }
            // All interest of this node's own clients is known here: a request of theirs that nobody
            // listens for would only take messages away.
            if !order.local {
                self.parked.put(*input);
            }
            // An acknowledgement counts now, its request later.
            input.reply = b"";
            input.kind == InputKind::Ack
        });
        let mut table = core.engine.table.lock();
        core.replica.with_state(|state| {
            let mut rest = &chunk[..];
            while let Some(taken) = apply(core, state, &mut table, rest, now_ns, &mut effects) {
                rest = rest.get(taken..).unwrap_or_default();
            }
        });
        for (key, number) in effects.answers {
            if let Some(runner) = table.runner(&key) {
                self.answers
                    .push((runner.void(), Answer::new(order, number)));
            }
        }
        drop(table);
        for number in effects.at_once {
            Answer::new(order, number).give();
        }
        order.strayed(effects.strays);
        self.send_statuses(&effects.statuses);
    }

    /// Looks whether the interest of parked requests has arrived.
    pub(super) fn try_parked(&mut self, now_ns: u64) {
        if self.parked.waiting.is_empty() {
            return;
        }
        let core = self.core;
        let now = Instant::now();
        let waiting = std::mem::take(&mut self.parked.waiting);
        let mut effects = Effects::default();
        let mut lost: Vec<Bytes> = Vec::new();
        {
            let mut table = core.engine.table.lock();
            let mut arrived = Vec::new();
            for (until, framed) in &waiting {
                let Some(Ok(input)) = Inputs::new(framed).next() else {
                    continue;
                };
                if core.broker.has_interest(input.reply) {
                    arrived.push(input);
                } else if now < *until {
                    self.parked.waiting.push_back((*until, framed.clone()));
                }
            }
            core.replica.with_state(|state| {
                for (number, input) in (0_u32..).zip(&arrived) {
                    pull(state, &mut table, (number, input), now_ns, &mut effects);
                }
            });
            // Their batches are settled: what has no consumer is told here.
            lost.extend(effects.strays.iter().filter_map(|number| {
                let input = arrived.get(usize::try_from(*number).ok()?)?;
                Some(Bytes::copy_from_slice(input.reply))
            }));
        }
        self.parked.look_at = (!self.parked.waiting.is_empty()).then(|| now + PARKING_LOOK);
        for reply in lost {
            let block = text::NO_RESPONDERS;
            core.broker.publish(answer_to(&reply, block.len(), block));
        }
        self.send_statuses(&effects.statuses);
    }

    fn send_statuses(&self, statuses: &[(Bytes, Status)]) {
        if statuses.is_empty() {
            return;
        }
        self.core.broker.batch(|out| {
            let mut block = Vec::new();
            for (reply, status) in statuses {
                block.clear();
                status.write(&mut block);
                out.publish(answer_to(reply, block.len(), &block));
            }
        });
    }
}

/// Whether somebody hears what comes to this reply subject. One that stands for a request of another
/// account is no subscription, and is heard.
fn listens(core: &Core, reply: &[u8]) -> bool {
    reply.starts_with(IMPORTED_REPLY) || core.broker.has_interest(reply)
}

/// Whether messages are to come to the input's reply subject.
fn is_pull(input: &Input<'_>) -> bool {
    match input.kind {
        InputKind::Pull => true,
        InputKind::Ack => !input.reply.is_empty() && input.body.starts_with(b"+NXT"),
        InputKind::Flow => false,
    }
}

/// A consumer and its place.
fn find<'a>(
    state: &'a State,
    table: &Table,
    stream: &str,
    consumer: &str,
) -> Option<(Key, (&'a Stream, &'a Consumer))> {
    let key = table.key_of(stream, consumer)?;
    let held = state.stream(stream)?;
    Some((key, (held, held.consumer(consumer)?)))
}

/// Works off the first of `inputs`, and those behind it that acknowledge messages of the same consumer:
/// how many these are. `None` when there are none.
fn apply(
    core: &Core,
    state: &State,
    table: &mut Table,
    inputs: &[(u32, Input<'_>)],
    now_ns: u64,
    effects: &mut Effects,
) -> Option<usize> {
    let (number, input) = inputs.first()?;
    let first = (*number, input);
    match input.kind {
        InputKind::Pull => pull(state, table, first, now_ns, effects),
        InputKind::Ack => return Some(acks(state, table, inputs, now_ns, effects)),
        InputKind::Flow => {
            let key = flow::target(input.subject)
                .and_then(|(stream, consumer)| table.key_of(stream, consumer));
            if let Some(key) = key {
                if let Some(runner) = table.runner(&key) {
                    runner.flow_reply(core, input.subject, input.body, now_ns);
                }
                table.set_dirty(&key);
                table.queue(&key);
            }
        }
    }
    Some(1)
}

/// `MSG.NEXT`, or the request in a `+NXT`.
fn pull(
    state: &State,
    table: &mut Table,
    (number, input): (u32, &Input<'_>),
    now_ns: u64,
    effects: &mut Effects,
) {
    let request = match input.kind {
        InputKind::Ack => input.body.strip_prefix(b"+NXT").unwrap_or_default(),
        _ => input.body,
    };
    let target = inputs::target(input);
    let found = target.and_then(|(stream, consumer)| find(state, table, stream, consumer));
    let Some((key, place)) = found else {
        return effects.strays.push(number);
    };
    if let Some(runner) = table.runner(&key) {
        let request = PullRequest::parse(request);
        ask(runner, place, request, input.reply, now_ns, effects);
    }
    table.queue(&key);
}

/// Hands a request to its consumer; who is refused is told.
fn ask(
    runner: &mut Runner,
    place: (&Stream, &Consumer),
    request: Result<PullRequest, PullError>,
    reply: &[u8],
    now_ns: u64,
    effects: &mut Effects,
) {
    // Copied: a slice would keep the whole batch for as long as the request waits.
    let reply = Bytes::copy_from_slice(reply);
    let refused = match request {
        Err(error) => Some(Status::bad_request(&error.to_string())),
        Ok(request) => runner.pull(place, &request, reply.clone(), now_ns),
    };
    if let Some(status) = refused {
        effects.statuses.push((reply, status));
    }
}

/// The acknowledgements that `inputs` begins with, as long as they are of one consumer: it is looked up
/// once. How many inputs were worked off, at least one.
fn acks(
    state: &State,
    table: &mut Table,
    inputs: &[(u32, Input<'_>)],
    now_ns: u64,
    effects: &mut Effects,
) -> usize {
    let mut run = inputs.iter().map_while(|(number, input)| {
        let tokens = AckTokens::parse(input.subject).filter(|_| input.kind == InputKind::Ack);
        Some((*number, input, tokens?))
    });
    let Some(first) = run.next() else {
        return 1;
    };
    let (stream, consumer) = (first.2.stream, first.2.consumer);
    let Some((key, place)) = find(state, table, stream, consumer) else {
        effects.strays.push(first.0);
        return 1;
    };
    let Some(runner) = table.runner(&key) else {
        return 1;
    };
    let of_one =
        run.take_while(|(.., tokens)| (tokens.stream, tokens.consumer) == (stream, consumer));
    let mut taken = 0;
    for (number, input, tokens) in std::iter::once(first).chain(of_one) {
        taken += 1;
        let Some(kind) = AckKind::parse(input.body) else {
            continue;
        };
        let outcome = runner.ack(place, &kind, &tokens, now_ns);
        if input.reply.is_empty() {
            continue;
        }
        match (kind, outcome) {
            (AckKind::Next(request), _) => {
                ask(runner, place, request, input.reply, now_ns, effects);
            }
            (_, AckOutcome::AfterUpdate) => effects.answers.push((key.clone(), number)),
            (_, AckOutcome::Now) => effects.at_once.push(number),
            (_, AckOutcome::Ignored) => {}
        }
    }
    table.set_dirty(&key);
    table.queue(&key);
    taken
}
