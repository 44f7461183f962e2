//! One fast batch: which message is due, what waits, what is stored, and what the publisher is told of
//! it. No locks, no queues.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::jetstream::info::{write_pub_ack_of, write_pub_refusal};
use unibus_state::{Append, Outcome};

use super::part::{Operation, Part};

/// Messages of one series.
const SERIES_MESSAGES_MAX: usize = 1024;
/// A series ends with the message that leads over this many bytes.
const SERIES_BYTES_MAX: usize = 256 << 10;

/// (reply subject, text) of what is to be told.
pub(super) type Answers = Vec<(Vec<u8>, Vec<u8>)>;

/// A batch that has begun and not ended.
#[derive(Debug)]
pub(super) struct Session {
    /// Tells apart batches of one id.
    pub(super) number: u64,
    pub(super) go_on: bool,
    flow: u64,
    /// The batch sequence that is due.
    next: u64,
    /// Batch sequence up to which everything that came is stored, or refused where the batch goes on.
    settled: u64,
    /// The batch sequence that was acknowledged last.
    told: u64,
    /// Stream sequence of the last message stored.
    seq: u64,
    /// Batch sequence, reply subject and message of what no series has taken yet.
    pub(super) waiting: VecDeque<(u64, Vec<u8>, Append)>,
    pub(super) in_flight: bool,
    end: Option<End>,
    pub(super) touched: Instant,
}

/// Nothing more is taken; the PubAck goes to this subject when everything is settled.
#[derive(Debug)]
struct End {
    reply: Vec<u8>,
    /// What waits is not stored any more.
    cut: bool,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Note<'a> {
    Ack { seq: u64, msgs: u64 },
    Gap { last_seq: u64, seq: u64 },
    Err { seq: u64, error: &'a ApiError },
}

impl Note<'_> {
    fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The text of a refusal that ends a batch, or begins none.
pub(super) fn refusal(stream: &str, error: &ApiError) -> Vec<u8> {
    let mut text = Vec::new();
    write_pub_refusal(&mut text, stream, error);
    text
}

impl Session {
    pub(super) fn new(number: u64, first: &Part<'_>, now: Instant) -> Self {
        Self {
            number,
            go_on: first.go_on,
            flow: first.flow,
            next: 1,
            settled: 0,
            told: 0,
            seq: 0,
            waiting: VecDeque::new(),
            in_flight: false,
            end: None,
            touched: now,
        }
    }

    /// How far the batch is, as its publisher is told.
    pub(super) fn flow_ack(&self) -> Vec<u8> {
        let (seq, msgs) = (self.settled, self.flow);
        Note::Ack { seq, msgs }.text()
    }

    pub(super) fn is_idle(&self, now: Instant, max: Duration) -> bool {
        !self.in_flight && now.duration_since(self.touched) >= max
    }

    /// Takes note of a message. True: it is to be stored.
    pub(super) fn hear(
        &mut self,
        part: &Part<'_>,
        reply: &[u8],
        stream: &str,
        answers: &mut Answers,
    ) -> bool {
        let is_ping = part.operation == Operation::Ping;
        if self.end.is_some() {
            let text = match is_ping {
                true => self.flow_ack(),
                false => refusal(stream, &error::BATCH_PUBLISH_UNKNOWN_ID),
            };
            answers.push((reply.to_vec(), text));
            return false;
        }
        // A ping names the last message sent, not one of its own.
        let at = part.seq + u64::from(is_ping);
        if at > self.next {
            let (last_seq, seq) = (self.next, at);
            answers.push((reply.to_vec(), Note::Gap { last_seq, seq }.text()));
            if !self.go_on {
                self.finish(reply, false);
                return false;
            }
            self.next = at;
        }
        if is_ping {
            answers.push((reply.to_vec(), self.flow_ack()));
            return false;
        }
        if at < self.next {
            // It came before: whether it is the same message nobody can tell.
            self.finish(reply, false);
            return false;
        }
        if part.operation != Operation::End {
            self.next += 1;
        }
        if matches!(part.operation, Operation::Commit | Operation::End) {
            self.finish(reply, false);
        }
        part.operation != Operation::End
    }

    fn finish(&mut self, reply: &[u8], cut: bool) {
        let reply = reply.to_vec();
        self.end = Some(End { reply, cut });
    }

    /// Whether what waits is not to be stored.
    pub(super) fn is_cut(&self) -> bool {
        self.end.as_ref().is_some_and(|end| end.cut)
    }

    /// Drops what waits; its bytes.
    pub(super) fn forget_waiting(&mut self) -> usize {
        let dropped = self.waiting.drain(..);
        dropped
            .map(|(_, _, message)| message.subject.len() + message.data.len())
            .sum()
    }

    /// Where the publisher listens for what comes of the batch as a whole: its end, or the last of these.
    pub(super) fn last_reply(self, parts: &[(u64, Vec<u8>)]) -> Option<Vec<u8>> {
        let end = self.end.map(|end| end.reply);
        end.or_else(|| parts.last().map(|(_, reply)| reply.clone()))
    }

    /// Takes what the next series may hold of what waits.
    pub(super) fn next_series(&mut self) -> Vec<(u64, Vec<u8>, Append)> {
        let mut bytes = 0;
        let mut taken = Vec::new();
        while taken.len() < SERIES_MESSAGES_MAX && bytes < SERIES_BYTES_MAX {
            let Some(next) = self.waiting.pop_front() else {
                break;
            };
            bytes += next.2.data.len();
            taken.push(next);
        }
        taken
    }

    /// The last answer, where the batch has ended.
    pub(super) fn end_of(&self, stream: &str, domain: Option<&str>, id: &[u8]) -> Option<Answers> {
        let end = self.end.as_ref()?;
        let count = match self.go_on {
            true => self.next - 1,
            false => self.settled,
        };
        let id = String::from_utf8_lossy(id);
        let mut text = Vec::new();
        let batch = Some((&*id, count));
        write_pub_ack_of(&mut text, stream, domain, self.seq, batch, None);
        Some(vec![(end.reply.clone(), text)])
    }

    /// Takes note of what became of a series. True: the batch is over and was told so.
    pub(super) fn settle(
        &mut self,
        stream: &str,
        parts: &[(u64, Vec<u8>)],
        outcome: &Outcome,
        answers: &mut Answers,
    ) -> bool {
        match outcome {
            Outcome::Series { seq, refused, .. } => {
                if *seq > 0 {
                    self.seq = *seq;
                }
                self.settle_each(stream, parts, refused, answers)
            }
            Outcome::Refused(refused) => {
                let all: Vec<_> = (0..)
                    .zip(parts)
                    .map(|(at, _)| (at, refused.error.clone()))
                    .collect();
                self.settle_each(stream, parts, &all, answers)
            }
            // A stream that acknowledges nothing.
            Outcome::Silent => {
                self.settled = parts.last().map_or(self.settled, |(seq, _)| *seq);
                self.end.is_some() && self.waiting.is_empty()
            }
            _ => {
                let gone = refusal(stream, &error::STREAM_NOT_FOUND);
                answers.extend(parts.last().map(|(_, reply)| (reply.clone(), gone)));
                true
            }
        }
    }

    fn settle_each(
        &mut self,
        stream: &str,
        parts: &[(u64, Vec<u8>)],
        refused: &[(u32, ApiError)],
        answers: &mut Answers,
    ) -> bool {
        let mut refused = refused.iter().peekable();
        let mut acknowledge = None;
        for (at, (seq, reply)) in (0u32..).zip(parts) {
            if let Some((_, error)) = refused.next_if(|(place, _)| *place == at) {
                if !self.go_on && self.settled == 0 {
                    answers.push((reply.clone(), refusal(stream, error)));
                    return true;
                }
                answers.push((reply.clone(), Note::Err { seq: *seq, error }.text()));
                if !self.go_on {
                    self.finish(reply, true);
                    return false;
                }
            }
            self.settled = *seq;
            if seq - self.told >= self.flow {
                self.told = *seq;
                acknowledge = Some(reply);
            }
        }
        let is_last = self.end.is_some() && self.waiting.is_empty();
        if let Some(reply) = acknowledge.filter(|_| !is_last) {
            let (seq, msgs) = (self.told, self.flow);
            answers.push((reply.clone(), Note::Ack { seq, msgs }.text()));
        }
        false
    }
}
