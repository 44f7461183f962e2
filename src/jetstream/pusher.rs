//! One push consumer on the leader: its cursor, whether somebody listens, and the sending of what the
//! cursor says is next. Owns no queue and no timer; tells the engine when to look again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use unibus_broker::{Broker, Internal, Publication};
use unibus_proto::jetstream::consumer::ConsumerConfig;
use unibus_proto::jetstream::info::{ConsumerInfo, SequenceInfo};
use unibus_state::command::{ConsumerDelete, ConsumerUpdate};
use unibus_state::{
    Command, Consumer, ConsumerCursor, Delivery, Poll, Position, State, StoredMessage, Stream,
    StreamUid,
};

use super::core::Core;
use super::text::{self, AckPlace};

/// Messages sent in one turn.
const TURN_MESSAGES: usize = 64;
/// Record bytes sent in one turn, unless one message is larger.
const TURN_BYTES: u64 = 1024 * 1024;
/// A client that does not answer a flow control request for so long gets more all the same; one that
/// really does not read is closed by the broker as a slow consumer.
const STALL_MAX_NS: u64 = 10_000_000_000;
/// Between two attempts to remove a consumer that nobody uses.
const REMOVAL_RETRY: Duration = Duration::from_secs(5);

/// What a turn leaves to be done.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Turn {
    /// There is more to send.
    More,
    /// Nothing before the stream moves, somebody comes or goes, or this time (Unix nanoseconds).
    Wait(Option<u64>),
}

/// One push consumer.
#[derive(Debug)]
pub(super) struct Pusher {
    stream: String,
    name: String,
    config: Arc<ConsumerConfig>,
    /// Tells a consumer apart from a later one of the same name.
    born: (StreamUid, u64),
    cursor: ConsumerCursor,
    /// Somebody listens on the deliver subject.
    active: bool,
    /// Since when nobody listens.
    lonely_since: Instant,
    /// No removal is proposed before this.
    removal_not_before: Instant,
    stalled_since_ns: Option<u64>,
    /// The latest time the cursor was polled with: it must not go backwards.
    now_ns: u64,
    /// It is in the engine's queue.
    pub(super) queued: bool,
    /// When the engine will look again.
    pub(super) timer_ns: Option<u64>,
}

/// One thing to send.
enum Step {
    Message(Delivery),
    FlowControl {
        reply: String,
    },
    Heartbeat {
        last_consumer: u64,
        last_stream: u64,
        stalled: Option<String>,
    },
}

impl Pusher {
    /// A consumer at the position the replicated state knows. Whether somebody listens is not known
    /// yet.
    pub(super) fn new(stream: &Stream, consumer: &Consumer) -> Self {
        let now = Instant::now();
        let now_ns = Core::now().0;
        let cursor = ConsumerCursor::new(stream, consumer, now_ns);
        Self {
            stream: stream.name().to_string(),
            name: consumer.name().to_string(),
            config: consumer.config().clone(),
            born: (stream.uid(), consumer.created_ns()),
            cursor,
            active: false,
            lonely_since: now,
            removal_not_before: now,
            stalled_since_ns: None,
            now_ns,
            queued: false,
            timer_ns: None,
        }
    }

    pub(super) fn is_of(&self, stream: &Stream, consumer: &Consumer) -> bool {
        self.born == (stream.uid(), consumer.created_ns()) && consumer.config().is_push()
    }

    pub(super) fn is_active(&self) -> bool {
        self.active
    }

    pub(super) fn reconfigure(&mut self, stream: &Stream, consumer: &Consumer) {
        if self.config != *consumer.config() {
            self.config = consumer.config().clone();
            self.cursor.handle_update(stream, consumer);
        }
    }

    pub(super) fn flow_reply(&mut self, subject: &[u8]) {
        if let Ok(subject) = std::str::from_utf8(subject) {
            self.cursor.handle_flow_control(subject);
        }
    }

    /// Looks whether somebody listens. True: that changed, or nobody did from the start, so that the
    /// engine has to look at this consumer.
    pub(super) fn look_for_interest(&mut self, broker: &Broker, now: Instant) -> bool {
        let listens = broker.has_interest(self.config.deliver_subject.as_bytes());
        if listens == self.active {
            return !listens && self.timer_ns.is_none();
        }
        self.active = listens;
        self.lonely_since = now;
        true
    }

    /// Adds the deliveries that the replicated state does not know yet.
    pub(super) fn add_live(&mut self, state: &State, info: &mut ConsumerInfo) {
        let Some(stream) = state.stream(&self.stream) else {
            return;
        };
        let live = self.cursor.info(stream);
        let place = |at: Position| SequenceInfo {
            consumer_seq: at.consumer_seq,
            stream_seq: at.stream_seq,
            last_active: None,
        };
        info.delivered = place(live.delivered);
        info.ack_floor = place(live.ack_floor);
        info.num_pending = live.num_pending;
    }

    /// What changed since it was taken last.
    pub(super) fn take_changes(&mut self) -> Option<ConsumerUpdate> {
        self.cursor.take_changes()
    }

    /// Sends what is due, up to the bounds of a turn.
    pub(super) fn turn(&mut self, core: &Core, now_ns: u64) -> Turn {
        if !self.active {
            return self.wait_for_interest(core);
        }
        self.now_ns = self.now_ns.max(now_ns);
        self.give_credit();
        let mut steps = Vec::new();
        let turn = core
            .replica
            .with_state(|state| match state.stream(&self.stream) {
                Some(stream) => self.gather(stream, &mut steps),
                None => Turn::Wait(None),
            });
        if !steps.is_empty() {
            self.send(core, steps);
        }
        self.note_stall();
        turn
    }

    /// Nobody listens: an ephemeral consumer is removed after a while.
    fn wait_for_interest(&mut self, core: &Core) -> Turn {
        let threshold = match u64::try_from(self.config.inactive_threshold) {
            Ok(ns) if ns > 0 => Duration::from_nanos(ns),
            _ => return Turn::Wait(None),
        };
        let now = Instant::now();
        let due = (self.lonely_since + threshold).max(self.removal_not_before);
        if now >= due {
            self.removal_not_before = now + REMOVAL_RETRY;
            tracing::debug!(
                stream = self.stream,
                consumer = self.name,
                "unused consumer"
            );
            drop(core.ingest.call(&Command::ConsumerDelete(ConsumerDelete {
                stream: self.stream.clone(),
                name: self.name.clone(),
                created_ns: Some(self.born.1),
                privileged: true,
            })));
        }
        let wait = due
            .max(self.removal_not_before)
            .saturating_duration_since(now);
        Turn::Wait(Some(Core::now().0.saturating_add(wait.as_nanos() as u64)))
    }

    fn gather(&mut self, stream: &Stream, steps: &mut Vec<Step>) -> Turn {
        let mut bytes = 0;
        while steps.len() < TURN_MESSAGES && bytes < TURN_BYTES {
            match self.cursor.poll(stream, self.now_ns) {
                Poll::Deliver(delivery) => {
                    bytes += u64::from(delivery.location.len);
                    steps.push(Step::Message(delivery));
                }
                Poll::FlowControl { reply } => steps.push(Step::FlowControl { reply }),
                Poll::Heartbeat {
                    last_consumer,
                    last_stream,
                    stalled,
                } => {
                    steps.push(Step::Heartbeat {
                        last_consumer,
                        last_stream,
                        stalled,
                    });
                }
                // Nothing else is said of a push consumer without acknowledgements; disuse is this
                // file's own affair.
                Poll::Status { .. } | Poll::Advisory(_) | Poll::DeadLetter(_) | Poll::Abandoned => {
                }
                Poll::Idle { deadline_ns } => return Turn::Wait(deadline_ns),
            }
        }
        Turn::More
    }

    fn send(&self, core: &Core, steps: Vec<Step>) {
        // Records are read before the subscription table is locked.
        let steps: Vec<(Step, Option<StoredMessage>)> = steps
            .into_iter()
            .map(|step| {
                let message = match &step {
                    Step::Message(delivery) => core.read_message(&delivery.location),
                    _ => None,
                };
                (step, message)
            })
            .collect();
        core.broker.batch(|out| {
            let mut scratch = Scratch::default();
            for (step, message) in &steps {
                self.send_one(out, step, message.as_ref(), &mut scratch);
            }
        });
    }

    fn send_one(
        &self,
        out: &mut Internal<'_>,
        step: &Step,
        message: Option<&StoredMessage>,
        scratch: &mut Scratch,
    ) {
        scratch.clear();
        match (step, message) {
            (Step::Message(delivery), Some(message)) => {
                self.send_message(out, delivery, message, scratch);
            }
            // Removed in between: its number stays unused, as if the client had lost it.
            (Step::Message(_), None) => {}
            (Step::FlowControl { reply }, _) => {
                let data = text::FLOW_CONTROL;
                self.publish(out, None, Some(reply.as_bytes()), data.len(), data);
            }
            (
                Step::Heartbeat {
                    last_consumer,
                    last_stream,
                    stalled,
                },
                _,
            ) => {
                let data = &mut scratch.data;
                text::heartbeat(data, *last_consumer, *last_stream, stalled.as_deref());
                self.publish(out, None, None, data.len(), data);
            }
        }
    }

    fn send_message(
        &self,
        out: &mut Internal<'_>,
        delivery: &Delivery,
        message: &StoredMessage,
        scratch: &mut Scratch,
    ) {
        let place = AckPlace {
            stream: &self.stream,
            consumer: &self.name,
            delivered: delivery.delivered,
            stream_seq: delivery.seq,
            consumer_seq: delivery.consumer_seq,
            ts_ns: delivery.ts_ns,
            pending: delivery.num_pending,
        };
        text::ack_subject(&mut scratch.reply, &place);
        let data = &mut scratch.data;
        let header_len = if delivery.headers_only {
            text::size_headers(data, &message.headers, message.payload.len())
        } else {
            data.extend_from_slice(&message.headers);
            data.extend_from_slice(&message.payload);
            message.headers.len()
        };
        self.publish(
            out,
            Some(&message.subject),
            Some(&scratch.reply),
            header_len,
            data,
        );
    }

    fn publish(
        &self,
        out: &mut Internal<'_>,
        shown: Option<&[u8]>,
        reply: Option<&[u8]>,
        header_len: usize,
        data: &[u8],
    ) {
        let subject = self.config.deliver_subject.as_bytes();
        out.publish(Publication {
            subject,
            shown,
            reply,
            header_len,
            data,
            capture: false,
        });
    }

    fn note_stall(&mut self) {
        if !self.cursor.is_stalled() {
            self.stalled_since_ns = None;
        } else if self.stalled_since_ns.is_none() {
            self.stalled_since_ns = Some(self.now_ns);
        }
    }

    /// Heartbeats, which flow control requires, bring a stalled consumer here often enough.
    fn give_credit(&mut self) {
        let expired = |since: u64| self.now_ns.saturating_sub(since) >= STALL_MAX_NS;
        if self.stalled_since_ns.is_some_and(expired) {
            tracing::debug!(
                stream = self.stream,
                consumer = self.name,
                "flow control unanswered"
            );
            self.stalled_since_ns = None;
            self.cursor.handle_flow_timeout();
        }
    }
}

/// Buffers that one turn uses again and again.
#[derive(Default)]
struct Scratch {
    reply: Vec<u8>,
    data: Vec<u8>,
}

impl Scratch {
    fn clear(&mut self) {
        self.reply.clear();
        self.data.clear();
    }
}
