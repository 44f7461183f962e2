//! Acknowledgements and their absence: what is settled, what is due again, what has run out of
//! deliveries (nats-surface §2.7, traps 49 to 52).

use unibus_proto::jetstream::ack::{AckKind, AckTokens};
use unibus_proto::jetstream::consumer::AckPolicy;

use super::{
    ConsumerCursor, DEAD_LETTER_DOUBLINGS_MAX, DEAD_LETTER_RETRY_NS, Letter, UNREAD_RETRY_NS,
    backlog_after,
};
use crate::consumer::Consumer;
use crate::delivery::{AckOutcome, Advisory, DeadLetter, Delivery, LetterFate};
use crate::ledger::{Position, Unsettled};
use crate::stream::Stream;

impl ConsumerCursor {
    /// An acknowledgement arrived. After `+NXT` the host also calls `handle_pull` with the request in it
    /// and the acknowledgement's reply subject.
    pub fn handle_ack(
        &mut self,
        kind: &AckKind,
        tokens: &AckTokens<'_>,
        now_ns: u64,
    ) -> AckOutcome {
        self.note_time(now_ns);
        let seq = tokens.stream_seq;
        let one_by_one = self.settings.tracks_acks() && !self.settings.acks_by_flow();
        if !one_by_one || seq > self.ledger.delivered().stream_seq || seq == 0 {
            return AckOutcome::Ignored;
        }
        self.used_ns = self.now_ns;
        self.last_ack_ns = Some(self.now_ns);
        let entry = self.ledger.pending().get(&seq).copied();
        match kind {
            AckKind::Ack | AckKind::Next(_) => self.settle_acknowledged(seq, entry),
            AckKind::Term { reason } => {
                if let Some(entry) = entry {
                    self.advisories.push_back(Advisory::Terminated {
                        stream_seq: seq,
                        consumer_seq: tokens.consumer_seq,
                        deliveries: entry.deliveries.into(),
                        reason: reason.clone(),
                    });
                    self.settle_acknowledged(seq, None);
                }
            }
            AckKind::Nak { delay_ns } => {
                if let Some(entry) = entry {
                    self.refuse(seq, entry, tokens.consumer_seq, *delay_ns);
                }
            }
            AckKind::Progress => {
                if let Some(entry) = entry {
                    self.postpone(seq, entry, self.now_ns);
                }
                return AckOutcome::Now;
            }
        }
        AckOutcome::AfterUpdate
    }

    /// A message arrived on the flow control subject `reply`: the client has read that far. Where flow
    /// control acknowledges, everything up to the stream sequence that it names is settled.
    pub fn handle_flow_control(&mut self, reply: &str, settled: Option<u64>, now_ns: u64) {
        self.note_time(now_ns);
        let Some(flow) = self.flow.as_mut().filter(|f| f.asked() == Some(reply)) else {
            return;
        };
        flow.confirm();
        if let Some(seq) = settled {
            self.settle_up_to(seq);
        }
    }

    /// Where flow control acknowledges: everything up to `seq` is done with, and room is granted without
    /// a question. For a receiver inside the node.
    pub fn handle_taken(&mut self, seq: u64, now_ns: u64) {
        self.note_time(now_ns);
        if let Some(flow) = &mut self.flow {
            flow.confirm();
        }
        self.settle_up_to(seq);
    }

    fn settle_up_to(&mut self, seq: u64) {
        if self.settings.acks_by_flow() && self.ledger.pending().keys().next() <= Some(&seq) {
            self.used_ns = self.now_ns;
            self.last_ack_ns = Some(self.now_ns);
            self.settle_acknowledged(seq, None);
        }
    }

    /// A delivery could not be sent because nobody listens any more: the message is due again at once,
    /// and its delivery does not count.
    pub fn handle_undelivered(&mut self, delivery: &Delivery) {
        let Some(entry) = self.ledger.pending().get(&delivery.seq).copied() else {
            return;
        };
        if u64::from(entry.deliveries) == delivery.delivered {
            let entry = Unsettled {
                deliveries: entry.deliveries.saturating_sub(1),
                ..entry
            };
            self.ledger.insert(delivery.seq, entry);
            self.changes.touch(delivery.seq);
            self.redelivery.expire(delivery.seq);
        }
    }

    /// Deliveries that were not sent: the message of the first of them can't be read now, and where
    /// messages come in their order those behind it wait with it. `before` is where the ledger stood
    /// before the first. They do not count, requests that asked for them get their places back, and they
    /// are delivered again after a pause.
    pub fn handle_unread(
        &mut self,
        stream: &Stream,
        consumer: &Consumer,
        before: Position,
        unread: &[&Delivery],
        now_ns: u64,
    ) {
        self.note_time(now_ns);
        let again_ns = self.now_ns.saturating_add(UNREAD_RETRY_NS);
        for delivery in unread {
            if self.settings.push.is_none() {
                self.waiting.give_back(&delivery.to, &mut self.statuses);
            }
            if self.settings.is_in_order() {
                self.handle_undelivered(delivery);
            } else if let Some(entry) = self.ledger.pending().get(&delivery.seq).copied() {
                let deliveries = entry.deliveries.saturating_sub(1);
                let patience = self.redelivery.patience().after(deliveries);
                let entry = Unsettled {
                    deliveries,
                    ..entry
                };
                self.postpone(delivery.seq, entry, again_ns.saturating_sub(patience));
            }
        }
        if self.settings.is_in_order() {
            self.held_until_ns = again_ns;
        }
        if !self.settings.tracks_acks() {
            self.ledger.go_back(before);
            self.backlog = backlog_after(stream, consumer, before);
        }
    }

    /// What became of a dead letter that `poll` handed out.
    pub fn handle_dead_letter(&mut self, seq: u64, fate: LetterFate, now_ns: u64) {
        self.note_time(now_ns);
        match fate {
            LetterFate::Stored => {
                self.letters.remove(&seq);
                self.settle(seq);
                self.ledger.settle_floor();
            }
            LetterFate::Later => {
                if let Some(letter) = self.letters.get_mut(&seq) {
                    let pause_ns = DEAD_LETTER_RETRY_NS << letter.failures;
                    let at_ns = self.now_ns.saturating_add(pause_ns);
                    letter.retry_ns = Some(at_ns);
                    letter.failures = (letter.failures + 1).min(DEAD_LETTER_DOUBLINGS_MAX);
                    self.redelivery.retry_at(at_ns, seq);
                }
            }
            LetterFate::Refused if self.letters.contains_key(&seq) => {
                self.lose(seq);
            }
            LetterFate::Refused => {}
        }
    }

    fn settle_acknowledged(&mut self, seq: u64, sampled: Option<Unsettled>) {
        if let Some(entry) = sampled {
            self.sample(seq, entry);
        }
        if matches!(self.settings.ack, AckPolicy::All | AckPolicy::FlowControl) {
            while let Some(first) = self.ledger.pending().keys().next().copied()
                && first <= seq
            {
                self.settle(first);
            }
        } else {
            self.settle(seq);
        }
        self.ledger.settle_floor();
    }

    fn settle(&mut self, seq: u64) {
        if self.ledger.remove(seq).is_some() {
            self.redelivery.forget(seq);
            self.letters.remove(&seq);
            self.changes.settle(seq);
        }
    }

    /// Announces the share of acknowledgements that the consumer asks for.
    fn sample(&mut self, seq: u64, entry: Unsettled) {
        // A fixed pattern that is spread evenly: which ones are taken has to be repeatable.
        let place = entry.consumer_seq.wrapping_mul(61) % 100;
        if place < self.settings.sample_percent {
            self.advisories.push_back(Advisory::AckSample {
                stream_seq: seq,
                consumer_seq: entry.consumer_seq,
                deliveries: entry.deliveries.into(),
                ack_time_ns: self.now_ns.saturating_sub(entry.since_ns),
            });
        }
    }

    fn refuse(&mut self, seq: u64, entry: Unsettled, consumer_seq: u64, delay_ns: Option<u64>) {
        if self.letters.contains_key(&seq) {
            return;
        }
        self.advisories.push_back(Advisory::Naked {
            stream_seq: seq,
            consumer_seq,
            deliveries: entry.deliveries.into(),
        });
        // One that has run out of deliveries is given up now, whatever waits to be delivered before it.
        let given_up = self.is_exhausted(seq).then_some(0);
        match delay_ns.or(given_up) {
            Some(delay) => {
                let due = self.now_ns.saturating_add(delay);
                let patience = self.redelivery.patience().after(entry.deliveries);
                self.postpone(seq, entry, due.saturating_sub(patience));
            }
            None => self.redelivery.expire(seq),
        }
    }

    fn postpone(&mut self, seq: u64, entry: Unsettled, since_ns: u64) {
        self.ledger.insert(seq, Unsettled { since_ns, ..entry });
        self.changes.touch(seq);
        self.redelivery.schedule(seq, &self.ledger);
    }

    /// Makes what is due ready for redelivery, and gives up on what has run out of deliveries.
    pub(super) fn expire_acks(&mut self, stream: &Stream) {
        while let Some(seq) = self.redelivery.pop_due(self.now_ns, &self.ledger) {
            if self.is_exhausted(seq) {
                self.exhaust(stream, seq);
            } else {
                self.redelivery.expire(seq);
            }
        }
    }

    pub(super) fn is_exhausted(&self, seq: u64) -> bool {
        let entry = self.ledger.pending().get(&seq);
        entry.is_some_and(|entry| entry.deliveries >= self.settings.max_deliver)
    }

    pub(super) fn exhaust(&mut self, stream: &Stream, seq: u64) {
        let Some(entry) = self.ledger.pending().get(&seq).copied() else {
            return self.lose(seq);
        };
        let letter = self.settings.dead_letter.clone();
        let Some((subject, location)) = letter.zip(stream.get(seq)) else {
            self.announce_exhausted(seq, entry);
            return self.lose(seq);
        };
        self.redelivery.forget(seq);
        match self.letters.get_mut(&seq) {
            None => {
                self.letters.insert(seq, Letter::default());
                self.announce_exhausted(seq, entry);
            }
            Some(letter) => match letter.retry_ns {
                None => return,
                Some(retry_ns) if retry_ns > self.now_ns => {
                    return self.redelivery.retry_at(retry_ns, seq);
                }
                Some(_) => letter.retry_ns = None,
            },
        }
        self.letters_out.push_back(DeadLetter {
            subject,
            seq,
            location,
            deliveries: entry.deliveries.into(),
        });
    }

    fn announce_exhausted(&mut self, seq: u64, entry: Unsettled) {
        self.advisories.push_back(Advisory::MaxDeliveries {
            stream_seq: seq,
            deliveries: entry.deliveries.into(),
        });
    }

    /// Stops waiting for a message that is gone or has run out of deliveries. The floor stays.
    pub(super) fn lose(&mut self, seq: u64) {
        self.redelivery.forget(seq);
        self.letters.remove(&seq);
        if self.ledger.remove(seq).is_some() {
            self.changes.discard(seq);
        }
    }
}
