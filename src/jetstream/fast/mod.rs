//! Fast batches (ADR-50): messages that are stored as they come, acknowledged now and then over the
//! reply subject of the batch, with a PubAck at its end. The node that a publisher is connected to holds
//! the batch; what it holds is in memory only, and a batch whose node goes away ends there.
//!
//! One series of a batch is on its way at a time: what comes meanwhile waits for the next. So a message
//! that is refused, or lost on its way here, is followed by nothing where the client wants no gaps.

mod part;
mod session;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use unibus_broker::{Broker, Inbound};
use unibus_proto::jetstream::error;
use unibus_state::command::Series;
use unibus_state::{Append, Outcome};

pub(super) use self::part::is_part;
use self::part::{Operation, Part};
use self::session::{Answers, Session, refusal};
use super::ingest::{Ingest, answer_to};
use crate::config::batches::BatchLimits;

/// Stream and batch id.
type Key = (Arc<str>, Vec<u8>);

/// The fast batches of this node's publishers.
#[derive(Debug)]
pub(super) struct FastBatches {
    held: Mutex<Held>,
    waiting_bytes: AtomicUsize,
    limits: BatchLimits,
}

#[derive(Debug, Default)]
struct Held {
    batches: HashMap<Key, Session>,
    started: u64,
}

/// A series on its way: whose it is, and which of the batch's messages are in it.
#[derive(Debug)]
pub(super) struct Sent {
    key: Key,
    /// Which batch of that id; 0: none, the stream takes no fast batches.
    number: u64,
    /// Batch sequence and reply subject of each message.
    parts: Vec<(u64, Vec<u8>)>,
}

impl FastBatches {
    pub(super) fn new(limits: BatchLimits) -> Self {
        Self {
            held: Mutex::default(),
            waiting_bytes: AtomicUsize::new(0),
            limits,
        }
    }

    /// Whether more waits than may: connections wait before their next read then.
    pub(super) fn is_full(&self) -> bool {
        self.waiting_bytes.load(Ordering::Relaxed) > self.limits.fast_waiting_bytes_max
    }

    /// Takes a message for `stream`; `None` where no stream of its subject takes fast batches.
    pub(super) fn take(
        &self,
        stream: Option<Arc<str>>,
        m: &Inbound<'_>,
        ingest: &Ingest,
        broker: &Broker,
    ) {
        let reply = m.reply.unwrap_or_default();
        let name = stream.clone().unwrap_or_default();
        let part = match Part::parse(reply) {
            Ok(part) => part,
            Err(error) => return publish(broker, vec![(reply.to_vec(), refusal(&name, &error))]),
        };
        let Some(stream) = stream else {
            // Apply knows the stream, and says that it does not take this.
            let sent = Sent {
                key: (name, part.id.to_vec()),
                number: 0,
                parts: vec![(part.seq, reply.to_vec())],
            };
            let series = Series {
                go_on: false,
                messages: vec![append_of(m)],
            };
            return ingest.series(&series, sent);
        };
        let mut answers = Vec::new();
        self.step((stream, part.id.to_vec()), &part, m, &mut answers, ingest);
        publish(broker, answers);
    }

    fn step(
        &self,
        key: Key,
        part: &Part<'_>,
        m: &Inbound<'_>,
        answers: &mut Answers,
        ingest: &Ingest,
    ) {
        let reply = m.reply.unwrap_or_default();
        let now = Instant::now();
        let mut held = self.held.lock();
        let idle = |session: &Session| session.is_idle(now, self.limits.idle_max);
        if held.batches.get(&key).is_some_and(idle) {
            held.batches.remove(&key);
        }
        if !held.batches.contains_key(&key) {
            if part.seq != 1 || part.operation == Operation::Ping {
                let unknown = refusal(&key.0, &error::BATCH_PUBLISH_UNKNOWN_ID);
                return answers.push((reply.to_vec(), unknown));
            }
            if held.batches.len() >= self.limits.fast_max {
                held.batches.retain(|_, session| !idle(session));
            }
            if held.batches.len() >= self.limits.fast_max {
                let many = refusal(&key.0, &error::BATCH_PUBLISH_TOO_MANY_INFLIGHT);
                return answers.push((reply.to_vec(), many));
            }
            held.started += 1;
            let session = Session::new(held.started, part, now);
            if part.operation == Operation::Start {
                answers.push((reply.to_vec(), session.flow_ack()));
            }
            held.batches.insert(key.clone(), session);
        }
        let Some(session) = held.batches.get_mut(&key) else {
            return;
        };
        session.touched = now;
        if session.hear(part, reply, &key.0, answers) {
            let message = append_of(m);
            let bytes = message.subject.len() + message.data.len();
            self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
            session
                .waiting
                .push_back((part.seq, reply.to_vec(), message));
        }
        self.go(&mut held, &key, answers, ingest);
    }

    /// Sends the next series of a batch, or ends it, where nothing of it is on its way.
    fn go(&self, held: &mut Held, key: &Key, answers: &mut Answers, ingest: &Ingest) {
        let Some(session) = held.batches.get_mut(key) else {
            return;
        };
        if session.in_flight {
            return;
        }
        let next = session.next_series();
        if next.is_empty() {
            if let Some(last) = session.end_of(&key.0, ingest.domain.as_deref(), &key.1) {
                answers.extend(last);
                held.batches.remove(key);
            }
            return;
        }
        session.in_flight = true;
        let (go_on, number) = (session.go_on, session.number);
        let mut bytes = 0;
        let (mut parts, mut messages) = (Vec::new(), Vec::new());
        for (seq, reply, message) in next {
            bytes += message.subject.len() + message.data.len();
            parts.push((seq, reply));
            messages.push(message);
        }
        self.release(bytes);
        let sent = Sent {
            key: key.clone(),
            number,
            parts,
        };
        ingest.series(&Series { go_on, messages }, sent);
    }

    /// Follows what became of a series.
    pub(super) fn settled(&self, sent: Sent, outcome: &Outcome, ingest: &Ingest, broker: &Broker) {
        let mut answers = Vec::new();
        if sent.number == 0 {
            if let (Outcome::Refused(refused), Some((_, reply))) = (outcome, sent.parts.first()) {
                let stream = refused.stream.as_deref().unwrap_or_default();
                answers.push((reply.clone(), refusal(stream, &refused.error)));
            }
            return publish(broker, answers);
        }
        let mut held = self.held.lock();
        let Some(session) = held.batches.get_mut(&sent.key) else {
            return;
        };
        if session.number != sent.number {
            return;
        }
        session.in_flight = false;
        session.touched = Instant::now();
        let over = session.settle(&sent.key.0, &sent.parts, outcome, &mut answers);
        if over || session.is_cut() {
            self.release(session.forget_waiting());
        }
        if over {
            held.batches.remove(&sent.key);
        } else {
            self.go(&mut held, &sent.key, &mut answers, ingest);
        }
        drop(held);
        publish(broker, answers);
    }

    /// Nobody knows what became of a series, and nothing of the batch may follow it: the batch is forgotten,
    /// and its publisher is told that it is, also where it has sent everything and only waits.
    pub(super) fn lost(&self, sent: &Sent, broker: &Broker) {
        let mut held = self.held.lock();
        let same = |session: &Session| session.number == sent.number;
        let is_held = held.batches.get(&sent.key).is_some_and(same);
        let session = is_held.then(|| held.batches.remove(&sent.key)).flatten();
        let reply = match session {
            Some(mut session) => {
                self.release(session.forget_waiting());
                session.last_reply(&sent.parts)
            }
            None => None,
        };
        drop(held);
        let unknown = refusal(&sent.key.0, &error::BATCH_PUBLISH_UNKNOWN_ID);
        publish(
            broker,
            reply.map(|reply| (reply, unknown)).into_iter().collect(),
        );
    }

    fn release(&self, bytes: usize) {
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

fn append_of(m: &Inbound<'_>) -> Append {
    Append {
        subject: Bytes::copy_from_slice(m.subject),
        header_len: u32::try_from(m.header_len).unwrap_or(u32::MAX),
        data: Bytes::copy_from_slice(m.data),
        privileged: m.origin.internal,
    }
}

fn publish(broker: &Broker, answers: Answers) {
    for (reply, text) in answers {
        broker.publish(answer_to(&reply, 0, &text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_wait_where_more_waits_than_was_said() {
        let batches = FastBatches::new(BatchLimits {
            fast_waiting_bytes_max: 100,
            ..BatchLimits::default()
        });
        batches.waiting_bytes.store(100, Ordering::Relaxed);
        assert!(!batches.is_full());
        batches.waiting_bytes.store(101, Ordering::Relaxed);
        assert!(batches.is_full());
    }
}
