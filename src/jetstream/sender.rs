//! What a consumer's turn sends: messages with their places, statuses, heartbeats, flow control
//! questions. Bodies are read before the subscription table is locked, and everything of a turn is
//! published in one go.

use bytes::Bytes;
use unibus_broker::{Internal, Publication};
use unibus_state::{Delivery, Location, RecordView, Status};

use super::core::{Core, Unread};
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

/// What was not sent, by places among the steps.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Unsent {
    /// Messages that found no receiver.
    pub(super) lost: Vec<usize>,
    /// Messages that can't be read now, and where order matters all behind the first of them.
    pub(super) unread: Vec<usize>,
}

/// Which messages wait until they can be read: those that are damaged here and whole elsewhere. `in_order`:
/// with all messages behind the first of them.
fn unread(records: &[Option<Result<Bytes, Unread>>], in_order: bool) -> Vec<usize> {
    let is_damaged = |record: &Option<_>| matches!(record, Some(Err(Unread::Damaged)));
    let Some(first) = records.iter().position(is_damaged) else {
        return Vec::new();
    };
    let rest = records.iter().enumerate().skip(first);
    rest.filter(|(_, record)| record.is_some() && (in_order || is_damaged(record)))
        .map(|(at, _)| at)
        .collect()
}

/// Sends the steps in their order; tells which of them were messages that were not sent. `in_order`: no
/// message may come after later ones.
pub(super) fn send(core: &Core, source: Source<'_>, steps: &[Step], in_order: bool) -> Unsent {
    let places: Vec<Location> = steps.iter().filter_map(place).collect();
    // Checked here: nothing that takes time happens while the table is locked.
    let mut read = core.read_records(&places).into_iter().map(|record| {
        record.and_then(|record| match RecordView::parse(&record) {
            Ok(_) => Ok(record),
            Err(error) => {
                tracing::error!(%error, "a stored message is damaged");
                Err(Unread::Damaged)
            }
        })
    });
    // Of each step that is a message.
    let records: Vec<Option<Result<Bytes, Unread>>> = steps
        .iter()
        .map(|step| place(step).and_then(|_| read.next()))
        .collect();
    let mut unread = unread(&records, in_order);
    if !unread.is_empty() && !core.may_be_mended() {
        // Nobody has it any more: it is passed over like one that was removed.
        unread.clear();
    }
    let bodies: Vec<Option<RecordView<'_>>> = records
        .iter()
        .enumerate()
        .map(|(at, record)| {
            let record = record.as_ref()?.as_ref().ok()?;
            let is_sent = unread.binary_search(&at).is_err();
            RecordView::parse(record).ok().filter(|_| is_sent)
        })
        .collect();
    let mut scratch = Scratch::default();
    let lost = core.broker.batch(|out| {
        let mut lost = Vec::new();
        for (at, (step, body)) in steps.iter().zip(&bodies).enumerate() {
            scratch.clear();
            match (step, body) {
                (Step::Message(delivery), Some(body)) => {
                    let receivers = send_message(out, source, delivery, body, &mut scratch);
                    // Who asks and may not read has asked in vain, and the message is another's. A
                    // push consumer has nobody else, and would try the same again at once for ever.
                    let spent = !source.deliver.is_empty() && out.was_withheld();
                    if receivers == 0 && !spent {
                        lost.push(at);
                    }
                }
                // Removed in between: its number stays unused, as if the client had lost it. Or not to be
                // read now, and delivered later.
                (Step::Message(_), None) => {}
                (step, _) => send_other(out, source, step, &mut scratch),
            }
        }
        lost
    });
    Unsent { lost, unread }
}

/// Where the message of a step is stored.
fn place(step: &Step) -> Option<Location> {
    match step {
        Step::Message(delivery) => Some(delivery.location),
        _ => None,
    }
}

fn send_message(
    out: &mut Internal<'_>,
    source: Source<'_>,
    delivery: &Delivery,
    body: &RecordView<'_>,
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
    let Scratch { reply, sized, data } = scratch;
    let mut message = (body.header_len, body.data);
    if delivery.headers_only {
        // Instead of the payload its size.
        let (headers, payload) = body.data.split_at(body.header_len);
        let header_len = text::size_headers(sized, headers, payload.len());
        message = (header_len, &sized[..]);
    }
    if let Some(pin) = &delivery.pin {
        let (headers, payload) = message.1.split_at(message.0);
        let header_len = text::add_header(data, headers, "Nats-Pin-Id", pin);
        data.extend_from_slice(payload);
        message = (header_len, &data[..]);
    }
    let (header_len, data) = message;
    out.publish(Publication {
        subject: &delivery.to,
        shown: Some(body.subject),
        reply: Some(&reply[..]),
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
    sized: Vec<u8>,
    data: Vec<u8>,
}

impl Scratch {
    fn clear(&mut self) {
        self.reply.clear();
        self.sized.clear();
        self.data.clear();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{Unread, unread};

    #[test]
    fn what_is_damaged_waits_and_what_must_not_overtake_it() {
        let whole = || Some(Ok(Bytes::new()));
        let records = vec![
            whole(),
            Some(Err(Unread::Gone)),
            None,
            Some(Err(Unread::Damaged)),
            None,
            whole(),
            Some(Err(Unread::Damaged)),
            whole(),
        ];
        assert_eq!(unread(&records, true), [3, 5, 6, 7]);
        assert_eq!(unread(&records, false), [3, 6]);
        assert!(unread(&records[..3], true).is_empty());
    }
}
