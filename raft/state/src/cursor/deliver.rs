//! The next delivery: what is due again before what is new, to whoever is next, if nothing holds it back.

use bytes::Bytes;

use super::ConsumerCursor;
use super::groups;
use super::waiting::Load;
use crate::delivery::Delivery;
use crate::ledger::{Position, Unsettled};
use crate::record::RECORD_HEAD_BYTES;
use crate::stream::{MessageView, Stream};

/// Why nothing was delivered, or what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// A message.
    Deliver(Delivery),
    /// There is none, or nobody to take it.
    Empty,
    /// The consumer is paused until this time.
    Paused(u64),
    /// Something that is not a time has to happen first.
    Blocked,
    /// Not before this time.
    Later(u64),
}

/// The message to deliver next.
#[derive(Copy, Clone)]
struct Next {
    seq: u64,
    /// How often it was delivered before.
    before: u32,
    is_new: bool,
}

impl ConsumerCursor {
    pub(super) fn try_deliver(&mut self, stream: &Stream) -> Attempt {
        if self.settings.paused_until_ns > self.now_ns {
            return Attempt::Paused(self.settings.paused_until_ns);
        }
        if self.held_until_ns > self.now_ns {
            return Attempt::Later(self.held_until_ns);
        }
        if self.settings.push.is_some() && (!self.listening || self.is_stalled()) {
            return Attempt::Blocked;
        }
        if self.changes.is_full() {
            return Attempt::Blocked;
        }
        let next = match self.next_message(stream) {
            Ok(next) => next,
            Err(held) => return held,
        };
        let Some(view) = stream.message(next.seq) else {
            return Attempt::Blocked;
        };
        let at_ns = self.pace.ready_at(next.seq, view.ts_ns);
        if at_ns > self.now_ns {
            return Attempt::Later(at_ns);
        }
        let size = self.size_of(&view, next);
        match self.receiver(size) {
            Some(to) => Attempt::Deliver(self.deliver(&view, next, size, to)),
            None => Attempt::Empty,
        }
    }

    fn next_message(&mut self, stream: &Stream) -> Result<Next, Attempt> {
        while let Some(seq) = self.redelivery.first_ready() {
            let entry = self.ledger.pending().get(&seq).copied();
            if self.is_exhausted(seq) {
                self.exhaust(stream, seq);
            } else if let Some(entry) = entry
                && stream.get(seq).is_some()
            {
                return Ok(Next {
                    seq,
                    before: entry.deliveries,
                    is_new: false,
                });
            } else {
                self.lose(seq);
                self.ledger.settle_floor();
            }
        }
        if self.settings.tracks_acks()
            && self.ledger.pending().len() >= self.settings.max_ack_pending
        {
            return Err(Attempt::Blocked);
        }
        let seq = self.backlog.peek(stream).ok_or(Attempt::Empty)?;
        Ok(Next {
            seq,
            before: 0,
            is_new: true,
        })
    }

    /// Bytes of a delivery as clients count them: subject, reply subject, headers and payload.
    fn size_of(&self, view: &MessageView<'_>, next: Next) -> u64 {
        let stored = if self.settings.headers_only && !view.has_headers {
            view.subject.len()
        } else {
            (view.location.len as usize).saturating_sub(RECORD_HEAD_BYTES)
        };
        let remaining = self.backlog.count().saturating_sub(u64::from(next.is_new));
        let numbers = [
            u64::from(next.before) + 1,
            next.seq,
            self.ledger.delivered().consumer_seq + 1,
            view.ts_ns,
            remaining,
        ];
        let digits: u64 = numbers.into_iter().map(digits).sum();
        let names = "$JS.ACK.......".len() + self.stream.len() + self.consumer.len();
        stored as u64 + names as u64 + digits
    }

    /// Where the message goes, with the request that asked for it taken off.
    fn receiver(&mut self, size: u64) -> Option<Bytes> {
        if let Some(subject) = &self.settings.push {
            return Some(subject.clone());
        }
        if self.waiting.is_empty() {
            return None;
        }
        let load = Load {
            pending: self.backlog.count(),
            ack_pending: self.ledger.pending().len() as u64,
        };
        let (policy, pin) = (self.settings.policy, self.pin.as_ref());
        let at = self.waiting.choose(
            size,
            load,
            |request| groups::judge(policy, pin, request),
            &mut self.statuses,
        )?;
        // The rest of a request that shows no pin belongs to the pin that its first message brings.
        let pin = self.pin_for_delivery();
        self.waiting
            .serve(at, size, pin, self.now_ns, &mut self.statuses)
    }

    fn deliver(&mut self, view: &MessageView<'_>, next: Next, size: u64, to: Bytes) -> Delivery {
        let consumer_seq = self.ledger.delivered().consumer_seq + 1;
        self.ledger.advance(Position {
            consumer_seq,
            stream_seq: next.seq,
        });
        if next.is_new {
            self.backlog.take(next.seq);
        }
        if self.settings.tracks_acks() {
            self.track(next, consumer_seq);
        } else {
            self.ledger.settle_floor();
        }
        if let Some(flow) = &mut self.flow {
            flow.sent(size, &self.stream, &self.consumer);
        }
        self.ask_for_acks(self.settings.max_ack_pending);
        self.pace.sent(self.now_ns, view.ts_ns, size);
        self.active_ns = self.now_ns;
        self.used_ns = self.now_ns;
        self.last_delivery_ns = Some(self.now_ns);
        Delivery {
            to,
            seq: next.seq,
            location: view.location,
            ts_ns: view.ts_ns,
            delivered: u64::from(next.before) + 1,
            consumer_seq,
            num_pending: self.backlog.count(),
            headers_only: self.settings.headers_only,
            pin: self.pin_for_delivery(),
        }
    }

    /// Waits for the acknowledgement of a delivery.
    fn track(&mut self, next: Next, consumer_seq: u64) {
        let first = self.ledger.pending().get(&next.seq);
        let entry = Unsettled {
            consumer_seq: first.map_or(consumer_seq, |entry| entry.consumer_seq),
            since_ns: self.now_ns,
            deliveries: next.before.saturating_add(1),
        };
        self.ledger.insert(next.seq, entry);
        self.redelivery.schedule(next.seq, &self.ledger);
        self.changes.touch(next.seq);
    }
}

/// Decimal digits.
fn digits(number: u64) -> u64 {
    u64::from(number.checked_ilog10().unwrap_or(0)) + 1
}
