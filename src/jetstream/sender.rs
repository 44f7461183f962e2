//! What a consumer's turn sends: messages with their places, statuses, heartbeats, flow control
//! questions. Bodies are read before the subscription table is locked, and everything of a turn is
//! published in one go.

use bytes::Bytes;
use unibus_broker::{Internal, Publication};
use unibus_state::{Delivery, Status, StoredMessage};

use super::core::Core;
use super::ingest::answer_to;
use super::text::{self, AckPlace};

/// One thing to send.
#[derive(Debug)]
pub(super) enum Step {
    Message(Delivery),
    /// To the reply subject of a pull request.
    Status {
        to: Bytes,
        status: Status,
    },
    /// To the deliver subject.
    FlowControl {
        reply: String,
    },
    /// To the deliver subject.
    Heartbeat {
        last_consumer: u64,
        last_stream: u64,
        stalled: Option<String>,
    },
}

/// Whose messages these are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) stream: &'a str,
    pub(super) consumer: &'a str,
    /// The deliver subject of a push consumer.
    pub(super) deliver: &'a str,
}

/// A message with its body: headers and payload.
struct Read {
    subject: Bytes,
    header_len: usize,
    data: Bytes,
}

/// Sends the steps in their order; tells which of them were messages that found no receiver.
pub(super) fn send(core: &Core, source: Source<'_>, steps: &[Step]) -> Vec<usize> {
    let bodies: Vec<Option<Read>> = steps
        .iter()
        .map(|step| match step {
            Step::Message(delivery) => read(core, delivery),
            _ => None,
        })
        .collect();
    let mut scratch = Scratch::default();
    core.broker.batch(|out| {
        let mut lost = Vec::new();
        for (at, (step, body)) in steps.iter().zip(&bodies).enumerate() {
            scratch.clear();
            match (step, body) {
                (Step::Message(delivery), Some(body)) => {
                    if send_message(out, source, delivery, body, &mut scratch) == 0 {
                        lost.push(at);
                    }
                }
                // Removed in between: its number stays unused, as if the client had lost it.
                (Step::Message(_), None) => {}
                (step, _) => send_other(out, source, step, &mut scratch),
            }
        }
        lost
    })
}

fn read(core: &Core, delivery: &Delivery) -> Option<Read> {
    let record = core.read_record(&delivery.location)?;
    let message = Core::decode_message(record.clone())?;
    let body = message.headers.len() + message.payload.len();
    Some(match delivery.headers_only {
        true => with_size(message),
        false => Read {
            header_len: message.headers.len(),
            data: record.slice(record.len() - body..),
            subject: message.subject,
        },
    })
}

/// Instead of the payload its size.
fn with_size(message: StoredMessage) -> Read {
    let mut data = Vec::new();
    let header_len = text::size_headers(&mut data, &message.headers, message.payload.len());
    Read {
        header_len,
        data: data.into(),
        subject: message.subject,
    }
}

fn send_message(
    out: &mut Internal<'_>,
    source: Source<'_>,
    delivery: &Delivery,
    body: &Read,
    scratch: &mut Scratch,
) -> usize {
    let place = AckPlace {
        stream: source.stream,
        consumer: source.consumer,
        delivered: delivery.delivered,
        stream_seq: delivery.seq,
        consumer_seq: delivery.consumer_seq,
        ts_ns: delivery.ts_ns,
        pending: delivery.num_pending,
    };
    text::ack_subject(&mut scratch.reply, &place);
    let (header_len, data) = match &delivery.pin {
        None => (body.header_len, &body.data[..]),
        Some(pin) => {
            let (headers, payload) = body.data.split_at(body.header_len);
            let len = text::add_header(&mut scratch.data, headers, "Nats-Pin-Id", pin);
            scratch.data.extend_from_slice(payload);
            (len, &scratch.data[..])
        }
    };
    out.publish(Publication {
        subject: &delivery.to,
        shown: Some(&body.subject),
        reply: Some(&scratch.reply),
        header_len,
        data,
        capture: false,
        local: false,
    })
}

fn send_other(out: &mut Internal<'_>, source: Source<'_>, step: &Step, scratch: &mut Scratch) {
    let deliver = source.deliver.as_bytes();
    let data = &mut scratch.data;
    match step {
        Step::Message(_) => {}
        Step::Status { to, status } => {
            status.write(data);
            out.publish(answer_to(to, data.len(), data));
        }
        Step::FlowControl { reply } => {
            let data = text::FLOW_CONTROL;
            out.publish(Publication {
                reply: Some(reply.as_bytes()),
                ..answer_to(deliver, data.len(), data)
            });
        }
        Step::Heartbeat {
            last_consumer,
            last_stream,
            stalled,
        } => {
            text::heartbeat(data, *last_consumer, *last_stream, stalled.as_deref());
            out.publish(answer_to(deliver, data.len(), data));
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
