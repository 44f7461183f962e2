//! One consumer on the leader: its cursor, whether somebody listens, and its turns. Owns no queue and no
//! timer; tells the engine when to look again. What is sent leaves through [`super::sender`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use unibus_broker::Broker;
use unibus_proto::jetstream::ack::{AckKind, AckTokens};
use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig};
use unibus_proto::jetstream::pull::PullRequest;
use unibus_state::{
    AckOutcome, Advisory, Consumer, ConsumerCursor, ConsumerUpdate, CursorInfo, DeadLetter,
    Delivery, LetterFate, Poll, Position, State, Status, Stream, StreamUid,
};

use super::advisory::{Event, Message};
use super::core::Core;
use super::flow;
use super::sender::{self, Source, Step};
use super::settle::Void;
use super::sourcing::Sink;
use super::table::Key;

/// Messages sent in one turn.
const TURN_MESSAGES: usize = 256;
/// Record bytes sent in one turn, unless one message is larger.
const TURN_BYTES: u64 = 1024 * 1024;
/// A client that does not answer a flow control request for so long gets more all the same; one that
/// really does not read is closed by the broker as a slow consumer. Nanoseconds.
const STALL_MAX_NS: u64 = 10_000_000_000;
/// Between two attempts to remove a consumer that nobody uses, nanoseconds.
const REMOVAL_RETRY_NS: u64 = 5_000_000_000;

/// What a turn leaves to be done.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Turn {
    /// There is more to send.
    More,
    /// Nothing before the stream moves, somebody comes or goes, or this time (Unix nanoseconds).
    Wait(Option<u64>),
}

/// What a turn asks the engine for, once nothing is locked.
#[derive(Debug, Default)]
pub(super) struct Aftermath {
    /// To be told to whoever listens.
    pub(super) events: Vec<Event>,
    /// Consumers that nobody uses, with their incarnations.
    pub(super) abandoned: Vec<(Key, u64)>,
    /// Messages to be stored elsewhere.
    pub(super) letters: Vec<(Key, u64, DeadLetter)>,
}

/// One consumer.
#[derive(Debug)]
pub(super) struct Runner {
    key: Key,
    config: Arc<ConsumerConfig>,
    /// Tells a consumer apart from a later one of the same name.
    born: (StreamUid, u64),
    /// Made when it is first needed.
    cursor: Option<ConsumerCursor>,
    /// There were unsettled messages before this node led: they have to be watched.
    unsettled: bool,
    /// Somebody listens on the deliver subject.
    active: bool,
    /// Without a cursor: since when nobody uses the consumer, and when that was reported last.
    unused_since_ns: u64,
    removal_not_before_ns: u64,
    stalled_since_ns: Option<u64>,
    /// The generation of interest in which the waiting requests were looked at.
    looked_at: u64,
    /// Set when a change that this cursor reported was not applied.
    void: Void,
    /// It is in the engine's queue.
    pub(super) queued: bool,
    /// It waits for its stream to move.
    pub(super) hungry: bool,
    /// It is among those with changes to propose.
    pub(super) dirty: bool,
    /// When the engine will look again.
    pub(super) timer_ns: Option<u64>,
}

impl Runner {
    /// A consumer where the replicated state says it is. Whether somebody listens is not known yet.
    pub(super) fn new(stream: &Stream, consumer: &Consumer, now_ns: u64) -> Self {
        Self {
            key: (Arc::clone(stream.name()), Arc::clone(consumer.name())),
            config: Arc::clone(consumer.config()),
            born: (stream.uid(), consumer.created_ns()),
            cursor: None,
            unsettled: !consumer.ledger().pending().is_empty(),
            active: false,
            unused_since_ns: now_ns,
            removal_not_before_ns: 0,
            stalled_since_ns: None,
            looked_at: 0,
            void: Void::default(),
            queued: false,
            hungry: false,
            dirty: false,
            timer_ns: None,
        }
    }

    pub(super) fn is_of(&self, stream: &Stream, consumer: &Consumer) -> bool {
        self.born == (stream.uid(), consumer.created_ns())
            && consumer.config().is_push() == self.config.is_push()
    }

    /// When the consumer was created.
    pub(super) fn created_ns(&self) -> u64 {
        self.born.1
    }

    /// Only positions change, which need not be replicated at once.
    pub(super) fn is_leisurely(&self) -> bool {
        self.config.ack_policy == AckPolicy::None
    }

    /// Whether it has to be looked at although nobody asks for it.
    pub(super) fn wants_a_turn(&self) -> bool {
        self.unsettled || self.config.inactive_threshold > 0
    }

    /// Whether it was used since this node leads.
    pub(super) fn has_cursor(&self) -> bool {
        self.cursor.is_some()
    }

    /// The mark that changes reported from now on share.
    pub(super) fn void(&self) -> Void {
        Arc::clone(&self.void)
    }

    pub(super) fn is_configured_as(&self, consumer: &Consumer) -> bool {
        self.config == *consumer.config()
    }

    pub(super) fn reconfigure(&mut self, stream: &Stream, consumer: &Consumer) {
        if self.config != *consumer.config() {
            self.config = Arc::clone(consumer.config());
            if let Some(cursor) = &mut self.cursor {
                cursor.handle_update(stream, consumer);
            }
        }
    }

    /// Goes back to what the replicated state says: a change was not applied.
    pub(super) fn start_over(&mut self, state: &State, now_ns: u64) {
        self.void.store(true, Ordering::Release);
        self.void = Void::default();
        let found = state
            .stream(&self.key.0)
            .and_then(|stream| Some((stream, stream.consumer(&self.key.1)?)));
        if let (Some(cursor), Some((stream, consumer))) = (&mut self.cursor, found) {
            cursor.handle_refused(stream, consumer, now_ns);
        }
    }

    fn cursor(&mut self, stream: &Stream, consumer: &Consumer, now_ns: u64) -> &mut ConsumerCursor {
        let active = self.active || !self.config.is_push();
        self.cursor.get_or_insert_with(|| {
            let mut cursor = ConsumerCursor::new(stream, consumer, now_ns);
            cursor.handle_listening(active, now_ns);
            cursor
        })
    }

    /// A client asks for messages. A status is the answer to a request that does not wait.
    pub(super) fn pull(
        &mut self,
        (stream, consumer): (&Stream, &Consumer),
        request: &PullRequest,
        reply: Bytes,
        now_ns: u64,
    ) -> Option<Status> {
        if self.config.is_push() {
            return Some(Status::PUSH_BASED);
        }
        self.cursor(stream, consumer, now_ns)
            .handle_pull(stream, request, reply, now_ns)
    }

    /// A client acknowledges.
    pub(super) fn ack(
        &mut self,
        (stream, consumer): (&Stream, &Consumer),
        kind: &AckKind,
        tokens: &AckTokens<'_>,
        now_ns: u64,
    ) -> AckOutcome {
        self.cursor(stream, consumer, now_ns)
            .handle_ack(kind, tokens, now_ns)
    }

    /// A client answered a flow control request, with these headers.
    pub(super) fn flow_reply(&mut self, core: &Core, subject: &[u8], headers: &[u8], now_ns: u64) {
        // What a copy is made of is acknowledged by nobody else.
        let copied = self.sink(core).is_some();
        let settled = flow::settled(headers).filter(|_| !copied);
        if let (Some(cursor), Ok(subject)) = (&mut self.cursor, std::str::from_utf8(subject)) {
            cursor.handle_flow_control(subject, settled, now_ns);
        }
    }

    /// A copy was made of what was delivered, up to `seq`.
    pub(super) fn taken(&mut self, seq: u64, now_ns: u64) {
        if let Some(cursor) = &mut self.cursor {
            cursor.handle_taken(seq, now_ns);
        }
    }

    /// Whether somebody listens on the deliver subject. That of a consumer made for a copy is nobody's.
    fn is_heard(&self, core: &Core) -> bool {
        let deliver = self.config.deliver_subject.as_bytes();
        !self.config.sourcing && core.broker.has_interest(deliver)
    }

    /// Where the messages go of a consumer that a copy is made through.
    fn sink(&self, core: &Core) -> Option<Arc<Sink>> {
        let may_have = self.config.ack_policy == AckPolicy::FlowControl;
        may_have.then(|| core.sinks.of(&self.key)).flatten()
    }

    /// An administrator takes the pin away. False: there is no such group.
    pub(super) fn unpin(
        &mut self,
        (stream, consumer): (&Stream, &Consumer),
        group: &str,
        now_ns: u64,
    ) -> bool {
        self.cursor(stream, consumer, now_ns)
            .handle_unpin(group, now_ns)
    }

    /// What became of a dead letter.
    pub(super) fn letter(&mut self, seq: u64, fate: LetterFate, now_ns: u64) {
        if let Some(cursor) = &mut self.cursor {
            cursor.handle_dead_letter(seq, fate, now_ns);
        }
    }

    /// Looks whether somebody listens. True: the engine has to look at this consumer.
    pub(super) fn look_for_interest(&mut self, core: &Core, generation: u64, now_ns: u64) -> bool {
        if !self.config.is_push() {
            return self.look_at_requests(&core.broker, generation);
        }
        let listens = self.is_heard(core) || self.sink(core).is_some();
        if listens == self.active {
            return !listens && self.timer_ns.is_none() && self.wants_a_turn();
        }
        self.active = listens;
        self.unused_since_ns = now_ns;
        if let Some(cursor) = &mut self.cursor {
            cursor.handle_listening(listens, now_ns);
        }
        true
    }

    /// Ends the requests of clients that are gone. True if there were any.
    fn look_at_requests(&mut self, broker: &Broker, generation: u64) -> bool {
        if self.looked_at == generation {
            return false;
        }
        self.looked_at = generation;
        let Some(cursor) = &mut self.cursor else {
            return false;
        };
        let mut gone: Vec<Bytes> = cursor
            .replies()
            .filter(|reply| !broker.has_interest(reply))
            .cloned()
            .collect();
        gone.dedup();
        for reply in &gone {
            cursor.handle_interest_lost(reply);
        }
        !gone.is_empty()
    }

    /// What only the leader knows; `None` while that is nothing.
    pub(super) fn info(&mut self, state: &State) -> Option<CursorInfo> {
        let stream = state.stream(&self.key.0)?;
        Some(self.cursor.as_mut()?.info(stream))
    }

    /// Ends the requests that wait, each with this status.
    pub(super) fn close(&mut self, status: &Status) -> Vec<(Bytes, Status)> {
        self.cursor
            .as_mut()
            .map_or(Vec::new(), |cursor| cursor.close(status))
    }

    pub(super) fn has_changes(&self) -> bool {
        self.cursor
            .as_ref()
            .is_some_and(ConsumerCursor::has_changes)
    }

    /// What has to be replicated.
    pub(super) fn take_changes(&mut self) -> Option<ConsumerUpdate> {
        self.cursor.as_mut()?.take_changes()
    }

    /// Sends what is due, up to the bounds of a turn.
    pub(super) fn turn(
        &mut self,
        core: &Core,
        generation: u64,
        now_ns: u64,
        aftermath: &mut Aftermath,
    ) -> Turn {
        if self.cursor.is_none() && !self.active && !self.unsettled {
            return self.idle(now_ns, aftermath);
        }
        self.look_at_requests(&core.broker, generation);
        self.give_credit(now_ns);
        let sink = self.sink(core);
        let room = sink.as_ref().map_or(TURN_MESSAGES, |sink| sink.room());
        if room == 0 {
            // What is taken off is told.
            return Turn::Wait(None);
        }
        let mut steps = Vec::new();
        let mut before = Position::default();
        let turn = core.replica.with_state(|state| {
            let found = state
                .stream(&self.key.0)
                .and_then(|stream| Some((stream, stream.consumer(&self.key.1)?)));
            match found {
                Some((stream, consumer)) => {
                    if self.cursor(stream, consumer, now_ns).is_overtaken(consumer) {
                        self.start_over(state, now_ns);
                    }
                    before = self.cursor(stream, consumer, now_ns).ledger().delivered();
                    let most = room.min(TURN_MESSAGES);
                    self.gather(stream, (now_ns, most), &mut steps, aftermath)
                }
                None => Turn::Wait(None),
            }
        });
        self.unsettled = false;
        let sent = steps.is_empty() || self.send(core, sink.as_deref(), &steps, before, now_ns);
        self.note_stall(now_ns);
        if sent { turn } else { Turn::More }
    }

    /// A consumer that nobody has used since this node leads.
    fn idle(&mut self, now_ns: u64, aftermath: &mut Aftermath) -> Turn {
        let threshold = match u64::try_from(self.config.inactive_threshold) {
            Ok(ns) if ns > 0 => ns,
            _ => return Turn::Wait(None),
        };
        let due = self.unused_since_ns.saturating_add(threshold);
        if now_ns < due.max(self.removal_not_before_ns) {
            return Turn::Wait(Some(due.max(self.removal_not_before_ns)));
        }
        self.removal_not_before_ns = now_ns.saturating_add(REMOVAL_RETRY_NS);
        aftermath.abandoned.push((self.key.clone(), self.born.1));
        Turn::Wait(Some(self.removal_not_before_ns))
    }

    fn gather(
        &mut self,
        stream: &Stream,
        (now_ns, most): (u64, usize),
        steps: &mut Vec<Step>,
        aftermath: &mut Aftermath,
    ) -> Turn {
        let Some(cursor) = &mut self.cursor else {
            return Turn::Wait(None);
        };
        let mut bytes = 0;
        while steps.len() < most && bytes < TURN_BYTES {
            match cursor.poll(stream, now_ns) {
                Poll::Deliver(delivery) => {
                    bytes += u64::from(delivery.location.len);
                    steps.push(Step::Message(delivery));
                }
                Poll::Status { to, status } => steps.push(Step::Status { to, status }),
                Poll::FlowControl { reply } => steps.push(Step::FlowControl { reply }),
                Poll::Heartbeat {
                    last_consumer,
                    last_stream,
                    stalled,
                } => steps.push(Step::Heartbeat {
                    last_consumer,
                    last_stream,
                    stalled,
                }),
                Poll::Advisory(advisory) => aftermath.events.push(event(&self.key, advisory)),
                Poll::DeadLetter(letter) => {
                    aftermath
                        .letters
                        .push((self.key.clone(), self.born.1, letter));
                }
                Poll::Abandoned => aftermath.abandoned.push((self.key.clone(), self.born.1)),
                Poll::Idle { deadline_ns } => return Turn::Wait(deadline_ns),
            }
        }
        Turn::More
    }

    /// Sends what a turn brought; `before` it the ledger stood there. False: some of it has to be delivered
    /// later.
    fn send(
        &mut self,
        core: &Core,
        sink: Option<&Sink>,
        steps: &[Step],
        before: Position,
        now_ns: u64,
    ) -> bool {
        if let Some(sink) = sink {
            if sink.put(steps) {
                core.hooks.wake_copies.notify_one();
            }
            if !self.is_heard(core) {
                return true;
            }
        }
        let source = Source {
            stream: &self.key.0,
            consumer: &self.key.1,
            deliver: &self.config.deliver_subject,
        };
        // One by one is acknowledged what may come in any order.
        let in_order = self.config.ack_policy != AckPolicy::Explicit && sink.is_none();
        let unsent = sender::send(core, source, steps, in_order);
        let Some(cursor) = self.cursor.as_mut().filter(|_| sink.is_none()) else {
            return true;
        };
        for at in unsent.lost {
            if let Some(Step::Message(delivery)) = steps.get(at) {
                cursor.handle_interest_lost(&delivery.to);
                cursor.handle_undelivered(delivery);
            }
        }
        let Some(first) = unsent.unread.first() else {
            return true;
        };
        let message = |step: &Step| match step {
            Step::Message(delivery) => Some((delivery.consumer_seq, delivery.seq)),
            _ => None,
        };
        let last_sent = steps[..*first].iter().rev().find_map(message);
        let before = last_sent.map_or(before, |(consumer_seq, stream_seq)| Position {
            consumer_seq,
            stream_seq: stream_seq.max(before.stream_seq),
        });
        let unread: Vec<&Delivery> = unsent
            .unread
            .iter()
            .filter_map(|at| match steps.get(*at) {
                Some(Step::Message(delivery)) => Some(delivery),
                _ => None,
            })
            .collect();
        let (stream, consumer) = &self.key;
        let seq = unread.first().map_or(0, |delivery| delivery.seq);
        tracing::warn!(%stream, %consumer, seq, "a message is delivered once it is mended");
        core.replica.with_state(|state| {
            let held = state.stream(stream);
            if let Some((stream, consumer)) = held.and_then(|s| Some((s, s.consumer(consumer)?))) {
                cursor.handle_unread(stream, consumer, before, &unread, now_ns);
            }
        });
        false
    }

    fn note_stall(&mut self, now_ns: u64) {
        if !self.cursor.as_ref().is_some_and(ConsumerCursor::is_stalled) {
            self.stalled_since_ns = None;
        } else if self.stalled_since_ns.is_none() {
            self.stalled_since_ns = Some(now_ns);
        }
    }

    /// Heartbeats, which flow control requires, bring a stalled consumer here often enough.
    fn give_credit(&mut self, now_ns: u64) {
        let expired = |since: u64| now_ns.saturating_sub(since) >= STALL_MAX_NS;
        if self.stalled_since_ns.is_some_and(expired)
            && let Some(cursor) = &mut self.cursor
        {
            let (stream, consumer) = &self.key;
            tracing::debug!(%stream, %consumer, "flow control unanswered");
            self.stalled_since_ns = None;
            cursor.handle_flow_timeout();
        }
    }
}

/// What a cursor announces, as it is told.
fn event((stream, consumer): &Key, advisory: Advisory) -> Event {
    let (stream, consumer) = (stream.to_string(), consumer.to_string());
    let message = |stream_seq, consumer_seq, deliveries| Message {
        stream: stream.clone(),
        consumer: consumer.clone(),
        stream_seq,
        consumer_seq,
        deliveries,
    };
    match advisory {
        Advisory::MaxDeliveries {
            stream_seq,
            deliveries,
        } => Event::MaxDeliveries {
            stream,
            consumer,
            stream_seq,
            deliveries,
        },
        Advisory::Naked {
            stream_seq,
            consumer_seq,
            deliveries,
        } => Event::Naked(message(stream_seq, consumer_seq, deliveries)),
        Advisory::Terminated {
            stream_seq,
            consumer_seq,
            deliveries,
            reason,
        } => Event::Terminated {
            message: message(stream_seq, consumer_seq, deliveries),
            reason: reason.unwrap_or_default(),
        },
        Advisory::AckSample {
            stream_seq,
            consumer_seq,
            deliveries,
            ack_time_ns,
        } => Event::Acked {
            message: message(stream_seq, consumer_seq, deliveries),
            ack_time_ns,
        },
        Advisory::Pinned { group, pin } => Event::Pinned {
            stream,
            consumer,
            group: group.to_string(),
            pin: pin.to_string(),
        },
        Advisory::Unpinned { group, reason } => Event::Unpinned {
            stream,
            consumer,
            group: group.to_string(),
            reason,
        },
    }
}
