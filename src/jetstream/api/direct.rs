//! `DIRECT.GET`: messages as they were stored, with their place in the headers, without JSON.

use unibus_proto::jetstream::api::MsgGetRequest;
use unibus_proto::subject::is_valid_filter;
use unibus_state::{Location, State, StoredMessage, Stream};

use super::Ticket;
use super::plan::{Read, names_one_message};
use crate::jetstream::core::{Core, Unread};
use crate::jetstream::text::{self, DirectPlace};

/// Messages that one batch request brings at most.
const BATCH_MAX: u64 = 1024;
/// Subjects that a request for several last messages may match.
const MULTI_MAX: usize = 1024;
/// Bytes that one batch request brings at most when it names no limit.
const BATCH_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How often a read is repeated when the message is removed between finding and reading it.
const READ_ATTEMPTS: usize = 3;

/// Reads a request. The error is the description of a 408 status.
pub(super) fn request(
    stream: &str,
    subject: Option<&str>,
    body: &[u8],
) -> Result<Read, &'static str> {
    let body = body.trim_ascii();
    let parsed = match body.first() {
        Some(b'{') => {
            serde_json::from_slice::<MsgGetRequest>(body).map_err(|_| "Malformed Request")?
        }
        _ if subject.is_some() => MsgGetRequest::default(),
        Some(_) => return Err("Malformed Request"),
        None => return Err("Empty Request"),
    };
    let request = match subject {
        Some(subject) => {
            if parsed.seq > 0 || !parsed.next_by_subj.is_empty() || parsed.batch > 0 {
                return Err("Bad Request");
            }
            MsgGetRequest {
                last_by_subj: subject.to_owned(),
                no_hdr: parsed.no_hdr,
                ..Default::default()
            }
        }
        None if parsed == MsgGetRequest::default() => return Err("Empty Request"),
        None => parsed,
    };
    let multi = !request.multi_last.is_empty();
    let fits = if multi {
        request.seq == 0 && request.last_by_subj.is_empty() && request.next_by_subj.is_empty()
    } else {
        names_one_message(&request) && (request.batch == 0 || request.last_by_subj.is_empty())
    };
    if !fits {
        return Err("Bad Request");
    }
    Ok(Read::Direct {
        stream: stream.to_owned(),
        request,
    })
}

/// Told instead of a message that is damaged here: its absence would be a wrong answer.
const DAMAGED: &str = "Message Damaged On This Node, Ask Again";

/// Answers a request after its barrier.
pub(super) fn answer(core: &Core, stream: &str, request: &MsgGetRequest, ticket: &Ticket) {
    if !request.multi_last.is_empty() {
        return answer_multi(core, stream, request, ticket);
    }
    if request.batch > 0 {
        return answer_batch(core, stream, request, ticket);
    }
    match find(core, stream, request) {
        Ok(message) => send_message(&message, stream, request.no_hdr, None, ticket),
        Err(Unread::Gone) => ticket.status(404, "Message Not Found"),
        Err(Unread::Damaged) => ticket.status(500, DAMAGED),
    }
}

/// The one message that a request names.
pub(super) fn find(
    core: &Core,
    stream: &str,
    request: &MsgGetRequest,
) -> Result<StoredMessage, Unread> {
    for _ in 0..READ_ATTEMPTS {
        let place = core
            .replica
            .with_state(|state| locate(state, stream, request))
            .ok_or(Unread::Gone)?;
        match core.read_message(&place) {
            Err(Unread::Gone) => {}
            read => return read,
        }
    }
    Err(Unread::Gone)
}

fn locate(state: &State, stream: &str, request: &MsgGetRequest) -> Option<Location> {
    let stream = state.stream(stream)?;
    if !request.last_by_subj.is_empty() {
        return stream
            .last_for(request.last_by_subj.as_bytes())
            .map(|(_, place)| place);
    }
    let from = start(request, stream)?;
    if request.next_by_subj.is_empty() && request.start_time.is_none() {
        return stream.get(from);
    }
    stream
        .next_for(filters(request), from)
        .map(|(_, place)| place)
}

/// The sequence a request begins at.
fn start(request: &MsgGetRequest, stream: &Stream) -> Option<u64> {
    match request.start_time {
        Some(time) => stream.first_seq_at(time.0),
        None => Some(request.seq.max(1)),
    }
}

fn filters(request: &MsgGetRequest) -> &[String] {
    match request.next_by_subj.as_str() {
        "" | ">" => &[],
        _ => std::slice::from_ref(&request.next_by_subj),
    }
}

/// Where the messages of a batch are, and how many match after the last of them.
struct Batch {
    places: Vec<(u64, Location)>,
    /// Messages that match, those of the batch included.
    matching: u64,
}

fn answer_batch(core: &Core, stream: &str, request: &MsgGetRequest, ticket: &Ticket) {
    let found = core.replica.with_state(|state| {
        let held = state.stream(stream)?;
        let mut from = start(request, held)?;
        let filters = filters(request);
        let matching = held.num_pending(filters, from, false);
        let mut places = Vec::new();
        while (places.len() as u64) < request.batch.min(BATCH_MAX) {
            let Some((seq, place)) = held.next_for(filters, from) else {
                break;
            };
            from = seq + 1;
            places.push((seq, place));
        }
        Some(Batch { places, matching })
    });
    match found {
        Some(batch) if !batch.places.is_empty() => {
            send_batch(core, stream, request, &batch, None, ticket);
        }
        _ => ticket.status(404, "Message Not Found"),
    }
}

fn answer_multi(core: &Core, stream: &str, request: &MsgGetRequest, ticket: &Ticket) {
    if request
        .multi_last
        .iter()
        .any(|filter| !is_valid_filter(filter.as_bytes()))
    {
        return ticket.status(408, "Bad Request");
    }
    let found = core.replica.with_state(|state| {
        let held = state.stream(stream)?;
        let last = held.last_seq();
        let mut up_to = if request.up_to_seq > 0 {
            request.up_to_seq.min(last)
        } else {
            last
        };
        if let Some(time) = request.up_to_time {
            let after = held.first_seq_at(time.0);
            up_to = after.map_or(up_to, |seq| up_to.min(seq.saturating_sub(1)));
        }
        let seqs = held.last_seqs_up_to(&request.multi_last, up_to, MULTI_MAX);
        let places: Vec<(u64, Location)> = seqs
            .into_iter()
            .filter_map(|seq| Some((seq, held.get(seq)?)))
            .collect();
        Some((
            Batch {
                matching: places.len() as u64,
                places,
            },
            up_to,
        ))
    });
    match found {
        Some((batch, _)) if batch.places.len() > MULTI_MAX && request.batch == 0 => {
            ticket.status(413, "Too Many Results");
        }
        Some((mut batch, up_to)) if !batch.places.is_empty() => {
            if request.batch > 0 {
                batch.places.truncate(request.batch.min(BATCH_MAX) as usize);
            }
            send_batch(core, stream, request, &batch, Some(up_to), ticket);
        }
        _ => ticket.status(404, "No Results"),
    }
}

fn send_batch(
    core: &Core,
    stream: &str,
    request: &MsgGetRequest,
    batch: &Batch,
    up_to: Option<u64>,
    ticket: &Ticket,
) {
    let bytes_max = if request.max_bytes > 0 {
        request.max_bytes.min(BATCH_BYTES_MAX)
    } else {
        BATCH_BYTES_MAX
    };
    let (mut bytes, mut pending, mut last) = (0, batch.matching, 0);
    for (seq, place) in &batch.places {
        // The first message always goes: a batch that brings nothing would be asked for again.
        bytes += u64::from(place.len);
        if bytes > bytes_max && last > 0 {
            break;
        }
        pending = pending.saturating_sub(1);
        let message = match core.read_message(place) {
            Ok(message) => message,
            Err(Unread::Gone) => continue,
            Err(Unread::Damaged) => return ticket.status(500, DAMAGED),
        };
        send_message(
            &message,
            stream,
            // Subjects are asked for to be told apart: their answers always have headers.
            request.no_hdr && up_to.is_none(),
            Some((pending, last)),
            ticket,
        );
        last = *seq;
    }
    let mut block = Vec::new();
    text::end_of_batch(&mut block, pending, last, up_to);
    ticket.send(block.len(), &block);
}

fn send_message(
    message: &StoredMessage,
    stream: &str,
    no_headers: bool,
    batch: Option<(u64, u64)>,
    ticket: &Ticket,
) {
    let place = DirectPlace {
        stream,
        subject: &message.subject,
        seq: message.seq,
        ts_ns: message.ts_ns,
        batch,
    };
    // Without headers the payload comes alone, as nats-server sends it: no place either.
    if no_headers {
        return ticket.send(0, &message.payload);
    }
    let mut out = Vec::with_capacity(message.headers.len() + message.payload.len() + 256);
    let header_len = text::direct_headers(&mut out, &message.headers, &place);
    out.extend_from_slice(&message.payload);
    ticket.send(header_len, &out);
}

#[cfg(test)]
mod tests {
    use super::request;
    use crate::jetstream::api::plan::Read;

    #[test]
    fn requests_by_subject_and_by_body() {
        let Ok(Read::Direct {
            request: by_subject,
            ..
        }) = request("S", Some("a.b"), b"")
        else {
            panic!("refused");
        };
        assert_eq!(by_subject.last_by_subj, "a.b");
        assert!(request("S", None, br#"{"seq":1}"#).is_ok());
        assert!(request("S", None, br#"{"multi_last":["a.*"],"batch":2}"#).is_ok());
        assert!(request("S", None, br#"{"seq":1,"next_by_subj":"a","batch":3}"#).is_ok());
    }

    #[test]
    fn bad_requests_have_their_own_words() {
        assert_eq!(request("S", None, b""), Err("Empty Request"));
        assert_eq!(request("S", None, b"what"), Err("Malformed Request"));
        assert_eq!(
            request("S", None, br#"{"seq":"x"}"#),
            Err("Malformed Request")
        );
        assert_eq!(request("S", None, b"{}"), Err("Empty Request"));
        assert_eq!(request("S", Some("a"), br#"{"seq":1}"#), Err("Bad Request"));
        assert_eq!(
            request("S", None, br#"{"last_by_subj":"a","batch":2}"#),
            Err("Bad Request")
        );
    }
}
