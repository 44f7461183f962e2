//! Serving a push consumer without acknowledgements: which message is next, how many remain, when to
//! ask for flow control and when to say that nothing happens. Pure: the host polls with the time, sends
//! what it is told in that order, and reports flow control answers. Not replicated; the host proposes
//! `ConsumerProgress` from [`PushCursor::position`] as often as it likes.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::consumer::Consumer;
use crate::location::Location;
use crate::record::RECORD_HEAD_BYTES;
use crate::stream::Stream;

/// The first flow control window, bytes.
pub const FLOW_WINDOW_BYTES_MIN: u64 = 2 << 20;
/// The widest flow control window, bytes.
pub const FLOW_WINDOW_BYTES_MAX: u64 = 32 << 20;
/// Up to here what remains is counted exactly each time something was removed.
const EXACT_COUNT_MAX: u64 = 1024;
/// Deliveries between two counts of a long backlog from which messages keep being removed.
const RECOUNT_DELIVERIES: u32 = 256;

/// A message to send.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its sequence in the stream.
    pub seq: u64,
    /// Where its record is.
    pub location: Location,
    /// When it was stored, Unix nanoseconds.
    pub ts_ns: u64,
    /// The number of this delivery, from 1 without gaps.
    pub consumer_seq: u64,
    /// Matching messages after this one.
    pub num_pending: u64,
    /// Send the headers (with `Nats-Msg-Size`) but no payload.
    pub headers_only: bool,
}

impl Delivery {
    /// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`.
    #[must_use]
    pub fn ack_subject(&self, stream: &str, consumer: &str) -> String {
        let Self {
            seq,
            consumer_seq,
            ts_ns,
            num_pending,
            ..
        } = self;
        format!("$JS.ACK.{stream}.{consumer}.1.{seq}.{consumer_seq}.{ts_ns}.{num_pending}")
    }
}

/// What the host has to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Send this message, then poll again.
    Deliver(Delivery),
    /// Send `NATS/1.0 100 FlowControl Request` with this reply subject, then poll again.
    FlowControl {
        /// `$JS.FC.<stream>.<consumer>.<token>`.
        reply: String,
    },
    /// Send `NATS/1.0 100 Idle Heartbeat`, then poll again.
    Heartbeat {
        /// `Nats-Last-Consumer`.
        last_consumer: u64,
        /// `Nats-Last-Stream`.
        last_stream: u64,
        /// `Nats-Consumer-Stalled`: the flow control request nobody answered.
        stalled: Option<String>,
    },
    /// Wait for the stream, a flow control answer, or this time (Unix nanoseconds or whatever clock the
    /// host polls with).
    Idle {
        /// When a heartbeat is due.
        deadline_ns: Option<u64>,
    },
}

/// The position of one push consumer at its host.
#[derive(Clone, Debug)]
pub struct PushCursor {
    stream: Arc<str>,
    consumer: Arc<str>,
    filters: Vec<Box<[u8]>>,
    headers_only: bool,
    /// Last messages per subject still to be sent before `next_seq` takes over.
    firsts: VecDeque<u64>,
    next_seq: u64,
    consumer_seq: u64,
    stream_seq: u64,
    pending: Pending,
    flow: Option<Flow>,
    heartbeat_ns: Option<u64>,
    active_ns: u64,
}

/// How many messages remain, kept up to date without counting again.
#[derive(Clone, Debug)]
struct Pending {
    count: u64,
    counted_to: u64,
    removals: u64,
    stale_deliveries: u32,
}

#[derive(Clone, Debug)]
struct Flow {
    window: u64,
    outstanding: u64,
    /// The unanswered request and the bytes its answer will confirm.
    asked: Option<(String, u64)>,
    announced: bool,
    requests: u64,
}

impl PushCursor {
    /// A cursor where the consumer is known to have come to. Made while the entry that created the
    /// consumer is applied, it delivers exactly what the creation promised.
    #[must_use]
    pub fn new(stream: &Stream, consumer: &Consumer, now_ns: u64) -> Self {
        let delivered = consumer.delivered();
        let resume = consumer.resume_seq();
        let mut firsts = VecDeque::new();
        let mut next_seq = consumer
            .start_seq()
            .max(delivered.stream_seq.saturating_add(1));
        if consumer.is_last_per_subject() {
            let wanted = next_seq..=resume;
            let lasts = stream.last_seqs(consumer.filters()).into_iter();
            firsts.extend(lasts.filter(|seq| wanted.contains(seq)));
            next_seq = next_seq.max(resume + 1);
        }
        let config = consumer.config();
        let mut cursor = Self {
            stream: stream.name().clone(),
            consumer: consumer.name().clone(),
            filters: consumer.filters().to_vec(),
            headers_only: config.headers_only,
            firsts,
            next_seq,
            consumer_seq: delivered.consumer_seq,
            stream_seq: delivered.stream_seq,
            pending: Pending {
                count: 0,
                counted_to: 0,
                removals: 0,
                stale_deliveries: 0,
            },
            flow: config.flow_control.then(Flow::new),
            heartbeat_ns: u64::try_from(config.idle_heartbeat)
                .ok()
                .filter(|ns| *ns > 0),
            active_ns: now_ns,
        };
        cursor.recount(stream);
        cursor
    }

    /// Takes over a changed configuration; the position stays.
    pub fn handle_update(&mut self, stream: &Stream, consumer: &Consumer) {
        self.filters = consumer.filters().to_vec();
        self.headers_only = consumer.config().headers_only;
        self.recount(stream);
    }

    /// A message arrived on the flow control subject `reply`: the client has read that far.
    pub fn handle_flow_control(&mut self, reply: &str) {
        if let Some(flow) = &mut self.flow
            && flow.asked.as_ref().is_some_and(|(asked, _)| asked == reply)
        {
            flow.confirm();
        }
    }

    /// Grants what the client never confirmed, for instance once its connection has drained.
    pub fn handle_flow_timeout(&mut self) {
        if let Some(flow) = &mut self.flow {
            flow.confirm();
        }
    }

    /// Whether deliveries wait for a flow control answer.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.flow.as_ref().is_some_and(Flow::is_stalled)
    }

    /// The last consumer sequence and the stream sequence of that delivery.
    #[must_use]
    pub fn position(&self) -> (u64, u64) {
        (self.consumer_seq, self.stream_seq)
    }

    /// Matching messages not delivered yet.
    pub fn num_pending(&mut self, stream: &Stream) -> u64 {
        self.refresh(stream);
        self.pending.count
    }

    /// The next thing to do. `now_ns` never goes backwards.
    pub fn poll(&mut self, stream: &Stream, now_ns: u64) -> Poll {
        if let Some(reply) = self.flow.as_mut().and_then(Flow::announce) {
            return Poll::FlowControl { reply };
        }
        if !self.is_stalled()
            && let Some(delivery) = self.poll_next(stream)
        {
            self.active_ns = now_ns;
            return Poll::Deliver(delivery);
        }
        let Some(heartbeat_ns) = self.heartbeat_ns else {
            return Poll::Idle { deadline_ns: None };
        };
        let due = self.active_ns.saturating_add(heartbeat_ns);
        if now_ns < due {
            return Poll::Idle {
                deadline_ns: Some(due),
            };
        }
        self.active_ns = now_ns;
        let asked = self
            .flow
            .as_ref()
            .filter(|flow| flow.is_stalled())
            .and_then(|f| f.asked.as_ref());
        Poll::Heartbeat {
            last_consumer: self.consumer_seq,
            last_stream: self.stream_seq,
            stalled: asked.map(|(reply, _)| reply.clone()),
        }
    }

    /// The next message, regardless of flow control and time.
    pub fn poll_next(&mut self, stream: &Stream) -> Option<Delivery> {
        let seq = self.take_next(stream)?;
        let view = stream.message(seq)?;
        self.consumer_seq += 1;
        self.stream_seq = seq;
        self.pending.count = self.pending.count.saturating_sub(1);
        self.pending.stale_deliveries = self.pending.stale_deliveries.saturating_add(1);
        self.refresh(stream);
        if let Some(flow) = &mut self.flow {
            let size = if self.headers_only && !view.has_headers {
                view.subject.len()
            } else {
                view.location.len as usize - RECORD_HEAD_BYTES
            };
            flow.sent(size as u64, &self.stream, &self.consumer);
        }
        Some(Delivery {
            seq,
            location: view.location,
            ts_ns: view.ts_ns,
            consumer_seq: self.consumer_seq,
            num_pending: self.pending.count,
            headers_only: self.headers_only,
        })
    }

    fn take_next(&mut self, stream: &Stream) -> Option<u64> {
        while let Some(seq) = self.firsts.pop_front() {
            if stream.get(seq).is_some() {
                return Some(seq);
            }
        }
        let seq = stream.next_seq_for(&self.filters, self.next_seq)?;
        self.next_seq = seq + 1;
        Some(seq)
    }

    /// Counts what was added; counts again what was removed, unless that is long and was done lately.
    fn refresh(&mut self, stream: &Stream) {
        if stream.removals() == self.pending.removals {
            let last = stream.last_seq();
            if last > self.pending.counted_to {
                let from = self.next_seq.max(self.pending.counted_to + 1);
                self.pending.count += stream.num_pending(&self.filters, from, false);
                self.pending.counted_to = last;
            }
            return;
        }
        let tail = (stream.last_seq() + 1).saturating_sub(self.next_seq);
        let short = tail.max(self.firsts.len() as u64) <= EXACT_COUNT_MAX;
        if short || self.pending.stale_deliveries >= RECOUNT_DELIVERIES {
            self.recount(stream);
            return;
        }
        // A stale count is only too high; the one value that matters exactly is 0.
        let more = self.firsts.iter().any(|seq| stream.get(*seq).is_some())
            || stream.next_seq_for(&self.filters, self.next_seq).is_some();
        if more {
            self.pending.count = self.pending.count.max(1);
        } else {
            self.recount(stream);
        }
    }

    fn recount(&mut self, stream: &Stream) {
        self.firsts.retain(|seq| stream.get(*seq).is_some());
        let later = stream.num_pending(&self.filters, self.next_seq, false);
        self.pending = Pending {
            count: self.firsts.len() as u64 + later,
            counted_to: stream.last_seq(),
            removals: stream.removals(),
            stale_deliveries: 0,
        };
    }
}

impl Flow {
    fn new() -> Self {
        Self {
            window: FLOW_WINDOW_BYTES_MIN,
            outstanding: 0,
            asked: None,
            announced: true,
            requests: 0,
        }
    }

    fn sent(&mut self, bytes: u64, stream: &str, consumer: &str) {
        self.outstanding += bytes;
        if self.asked.is_none() && self.outstanding > self.window / 2 {
            self.requests += 1;
            let reply = format!("$JS.FC.{stream}.{consumer}.{:04X}", self.requests);
            self.asked = Some((reply, self.outstanding));
            self.announced = false;
        }
    }

    fn announce(&mut self) -> Option<String> {
        if std::mem::replace(&mut self.announced, true) {
            return None;
        }
        self.asked.as_ref().map(|(reply, _)| reply.clone())
    }

    fn confirm(&mut self) {
        if let Some((_, bytes)) = self.asked.take() {
            self.outstanding = self.outstanding.saturating_sub(bytes);
            self.window = (self.window * 2).min(FLOW_WINDOW_BYTES_MAX);
        }
    }

    fn is_stalled(&self) -> bool {
        self.asked.is_some() && self.outstanding >= self.window
    }
}
