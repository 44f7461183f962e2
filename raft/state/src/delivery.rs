//! What a consumer's cursor tells its host: messages and statuses to send, things to announce, and how
//! acknowledgements were taken. Only data and its text form; the decisions are in `cursor`.

use std::borrow::Cow;
use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;

use crate::ledger::Position;
use crate::location::Location;

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Where to: the deliver subject, or the reply subject of a pull request.
    pub to: Bytes,
    /// Its sequence in the stream.
    pub seq: u64,
    /// Where its record is.
    pub location: Location,
    /// When it was stored, Unix nanoseconds.
    pub ts_ns: u64,
    /// How often it was delivered, this time included.
    pub delivered: u64,
    /// The number of this delivery, from 1 without gaps.
    pub consumer_seq: u64,
    /// Matching messages after this one.
    pub num_pending: u64,
    /// Send the headers (with `Nats-Msg-Size`) but no payload.
    pub headers_only: bool,
    /// Add the header `Nats-Pin-Id`.
    pub pin: Option<Arc<str>>,
}

/// A status message: headers only, to the reply subject of a pull request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// `100`, `400`, `404`, `408`, `409`, `423`.
    pub code: u16,
    /// The description clients compare.
    pub text: Cow<'static, str>,
    /// What the headers add.
    pub detail: StatusDetail,
}

/// Headers of a status message.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum StatusDetail {
    /// None.
    None,
    /// `Nats-Pending-Messages` and `Nats-Pending-Bytes`: what a request did not get.
    Unserved {
        /// Messages.
        messages: u64,
        /// Bytes, 0 without a limit.
        bytes: u64,
    },
    /// `Nats-Last-Consumer` and `Nats-Last-Stream`.
    Last(Position),
}

impl Status {
    /// `404 No Messages`.
    pub const NO_MESSAGES: Self = Self::fixed(404, "No Messages");
    /// `408 Requests Pending`.
    pub const REQUESTS_PENDING: Self = Self::fixed(408, "Requests Pending");
    /// `409 Consumer Deleted`.
    pub const CONSUMER_DELETED: Self = Self::fixed(409, "Consumer Deleted");
    /// `409 Consumer is push based`.
    pub const PUSH_BASED: Self = Self::fixed(409, "Consumer is push based");
    /// `409 Leadership Change`.
    pub const LEADERSHIP_CHANGE: Self = Self::fixed(409, "Leadership Change");
    /// `409 Server Shutdown`.
    pub const SERVER_SHUTDOWN: Self = Self::fixed(409, "Server Shutdown");
    /// `409 Exceeded MaxWaiting`.
    pub const MAX_WAITING: Self = Self::fixed(409, "Exceeded MaxWaiting");
    /// `423 Nats-Pin-Id mismatch`.
    pub const PIN_MISMATCH: Self = Self::fixed(423, "Nats-Pin-Id mismatch");

    /// A status without further headers.
    #[must_use]
    pub const fn fixed(code: u16, text: &'static str) -> Self {
        Self {
            code,
            text: Cow::Borrowed(text),
            detail: StatusDetail::None,
        }
    }

    /// `400 Bad Request - <why>`.
    #[must_use]
    pub fn bad_request(why: &str) -> Self {
        Self::limit(400, format!("Bad Request - {why}"))
    }

    pub(crate) fn limit(code: u16, text: String) -> Self {
        Self {
            code,
            text: Cow::Owned(text),
            detail: StatusDetail::None,
        }
    }

    pub(crate) const fn unserved(code: u16, text: &'static str, messages: u64, bytes: u64) -> Self {
        Self {
            code,
            text: Cow::Borrowed(text),
            detail: StatusDetail::Unserved { messages, bytes },
        }
    }

    /// Appends the whole header block.
    pub fn write(&self, out: &mut Vec<u8>) {
        // Writing to a Vec does not fail.
        let _ = write!(out, "NATS/1.0 {} {}\r\n", self.code, self.text);
        let _ = match self.detail {
            StatusDetail::None => Ok(()),
            StatusDetail::Unserved { messages, bytes } => write!(
                out,
                "Nats-Pending-Messages: {messages}\r\nNats-Pending-Bytes: {bytes}\r\n"
            ),
            StatusDetail::Last(at) => write!(
                out,
                "Nats-Last-Consumer: {}\r\nNats-Last-Stream: {}\r\n",
                at.consumer_seq, at.stream_seq
            ),
        };
        out.extend_from_slice(b"\r\n");
    }
}

/// What the host announces (nats-surface §2.9) and nothing depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advisory {
    /// `CONSUMER.MAX_DELIVERIES`.
    MaxDeliveries {
        /// The message.
        stream_seq: u64,
        /// How often it was delivered.
        deliveries: u64,
    },
    /// `CONSUMER.MSG_NAKED`.
    Naked {
        /// The message.
        stream_seq: u64,
        /// The delivery.
        consumer_seq: u64,
        /// How often it was delivered.
        deliveries: u64,
    },
    /// `CONSUMER.MSG_TERMINATED`.
    Terminated {
        /// The message.
        stream_seq: u64,
        /// The delivery.
        consumer_seq: u64,
        /// How often it was delivered.
        deliveries: u64,
        /// Why, if the client said so.
        reason: Option<String>,
    },
    /// The metric `CONSUMER.ACK` of a sampled acknowledgement.
    AckSample {
        /// The message.
        stream_seq: u64,
        /// The delivery.
        consumer_seq: u64,
        /// How often it was delivered.
        deliveries: u64,
        /// Nanoseconds from its last delivery to the acknowledgement.
        ack_time_ns: u64,
    },
    /// `CONSUMER.PINNED`.
    Pinned {
        /// The group.
        group: Arc<str>,
        /// The client's pin.
        pin: Arc<str>,
    },
    /// `CONSUMER.UNPINNED`.
    Unpinned {
        /// The group.
        group: Arc<str>,
        /// `admin` or `timeout`.
        reason: &'static str,
    },
}

/// A message that ran out of deliveries, on its way into the subject that the consumer names for such
/// messages. It stays unsettled until [`ConsumerCursor::handle_dead_letter`].
///
/// [`ConsumerCursor::handle_dead_letter`]: crate::ConsumerCursor::handle_dead_letter
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where to publish it.
    pub subject: Arc<str>,
    /// Its sequence in the stream.
    pub seq: u64,
    /// Where its record is.
    pub location: Location,
    /// How often it was delivered.
    pub deliveries: u64,
}

/// What became of a dead letter.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum LetterFate {
    /// It is stored: its message is settled.
    Stored,
    /// It could not be stored now: it is told again after a pause that doubles with each failure.
    Later,
    /// No stream will ever store it as it is: its message is given up like one without a dead letter
    /// subject, and stays where it is.
    Refused,
}

/// What the host has to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Send this message, then poll again.
    Deliver(Delivery),
    /// Send this status to the reply subject of a pull request that it ends (unless it is a heartbeat),
    /// then poll again.
    Status {
        /// The reply subject.
        to: Bytes,
        /// The status.
        status: Status,
    },
    /// Send `NATS/1.0 100 FlowControl Request` with this reply subject to the deliver subject, then poll
    /// again.
    FlowControl {
        /// `$JS.FC.<stream>.<consumer>.<token>`.
        reply: String,
    },
    /// Send `NATS/1.0 100 Idle Heartbeat` to the deliver subject, then poll again.
    Heartbeat {
        /// `Nats-Last-Consumer`.
        last_consumer: u64,
        /// `Nats-Last-Stream`.
        last_stream: u64,
        /// `Nats-Consumer-Stalled`: the flow control request nobody answered.
        stalled: Option<String>,
    },
    /// Announce this, then poll again.
    Advisory(Advisory),
    /// Publish this durably (with a `Nats-Msg-Id` made of stream, consumer, its incarnation and the
    /// sequence, so that a repetition is recognised), report it with `handle_dead_letter`, poll again.
    DeadLetter(DeadLetter),
    /// Nobody has used this consumer for its inactive threshold: propose a `ConsumerDelete` with its
    /// incarnation, then poll again. Said again every few seconds until it is gone or used.
    Abandoned,
    /// Wait for the stream, a call of one of the `handle_…` functions, or this time (Unix nanoseconds).
    /// What changed waits in `take_changes`.
    Idle {
        /// When to poll again at the latest.
        deadline_ns: Option<u64>,
    },
}

/// How an acknowledgement was taken.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum AckOutcome {
    /// It counts, or did before: answer (if an answer is wanted) as soon as everything that
    /// `take_changes` gives from here on, and gave before, has been applied.
    AfterUpdate,
    /// Nothing to wait for: answer now.
    Now,
    /// Nothing that was delivered, or a consumer that takes no acknowledgements: no answer.
    Ignored,
}

/// What only the leader's cursor knows of a consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CursorInfo {
    /// The last delivery.
    pub delivered: Position,
    /// When it was, Unix nanoseconds; `None` before this cursor's first.
    pub last_delivery_ns: Option<u64>,
    /// Everything up to here is settled.
    pub ack_floor: Position,
    /// When the last acknowledgement came, Unix nanoseconds.
    pub last_ack_ns: Option<u64>,
    /// Delivered and unsettled.
    pub num_ack_pending: u64,
    /// Of those, delivered more than once.
    pub num_redelivered: u64,
    /// Waiting pull requests.
    pub num_waiting: u64,
    /// Matching messages not delivered yet.
    pub num_pending: u64,
    /// The pinned client of the priority group: group, pin and since when (Unix nanoseconds).
    pub pinned: Option<(Arc<str>, Arc<str>, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(status: &Status) -> String {
        let mut out = Vec::new();
        status.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn statuses_are_byte_exact() {
        assert_eq!(
            text(&Status::NO_MESSAGES),
            "NATS/1.0 404 No Messages\r\n\r\n"
        );
        let expired = Status::unserved(408, "Request Timeout", 10, 0);
        let whole = "NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 10\r\nNats-Pending-Bytes: 0\r\n\r\n";
        assert_eq!((text(&expired).as_str(), whole.len()), (whole, 82));
        let beat = Status {
            detail: StatusDetail::Last(Position {
                consumer_seq: 5,
                stream_seq: 6,
            }),
            ..Status::fixed(100, "Idle Heartbeat")
        };
        assert_eq!(
            text(&beat),
            "NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 5\r\nNats-Last-Stream: 6\r\n\r\n"
        );
        assert_eq!(
            text(&Status::bad_request("heartbeat value too large")),
            "NATS/1.0 400 Bad Request - heartbeat value too large\r\n\r\n"
        );
    }
}
