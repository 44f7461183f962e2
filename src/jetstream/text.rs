//! Bytes that JetStream puts on the wire outside its JSON answers: status messages, the headers of
//! direct gets, acknowledgement subjects. Written by hand because they are on the hot path and
//! clients compare them literally (nats-surface §2.4-2.8, Appendix A).
//!
//! Everything appends to a caller's buffer; nothing here knows a stream or a connection.

pub(super) use unibus_proto::jetstream::place::{DirectPlace, direct_headers, republish_headers};
use unibus_proto::jetstream::place::{decimal, open_block};

/// The status that tells a publisher that nobody took its message.
pub(super) const NO_RESPONDERS: &[u8] = b"NATS/1.0 503\r\n\r\n";

/// The status of an idle push consumer's flow-control question.
pub(super) const FLOW_CONTROL: &[u8] = b"NATS/1.0 100 FlowControl Request\r\n\r\n";

/// The header block of a headers-only delivery: the stored headers and the payload's size.
pub(super) fn size_headers(out: &mut Vec<u8>, stored: &[u8], payload_len: usize) -> usize {
    let start = out.len();
    open_block(out, stored);
    out.extend_from_slice(b"Nats-Msg-Size: ");
    decimal(out, payload_len as u64);
    out.extend_from_slice(b"\r\n\r\n");
    out.len() - start
}

/// The stored headers and one more; returns the block's length.
pub(super) fn add_header(out: &mut Vec<u8>, stored: &[u8], name: &str, value: &str) -> usize {
    set_headers(out, stored, &[(name, value)])
}

/// The stored headers and these instead of any of the same name; returns the block's length.
pub(super) fn set_headers(out: &mut Vec<u8>, stored: &[u8], fields: &[(&str, &str)]) -> usize {
    let start = out.len();
    let mut lines = stored.split_inclusive(|byte| *byte == b'\n');
    out.extend_from_slice(lines.next().unwrap_or(b"NATS/1.0\r\n"));
    for line in lines {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        let replaced = fields.iter().any(|(field, _)| field.as_bytes() == name);
        if !replaced && line != b"\r\n" {
            out.extend_from_slice(line);
        }
    }
    for (name, value) in fields {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.len() - start
}

/// `NATS/1.0 <code> <description>` as a whole block.
pub(super) fn status(out: &mut Vec<u8>, code: u16, description: &str) {
    out.extend_from_slice(b"NATS/1.0 ");
    decimal(out, u64::from(code));
    out.push(b' ');
    out.extend_from_slice(description.as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
}

/// The end of a batch of direct gets. `up_to` is told for multi-subject requests only.
pub(super) fn end_of_batch(out: &mut Vec<u8>, pending: u64, last: u64, up_to: Option<u64>) {
    out.extend_from_slice(b"NATS/1.0 204 EOB\r\nNats-Num-Pending: ");
    decimal(out, pending);
    out.extend_from_slice(b"\r\nNats-Last-Sequence: ");
    decimal(out, last);
    if let Some(seq) = up_to {
        out.extend_from_slice(b"\r\nNats-UpTo-Sequence: ");
        decimal(out, seq);
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// A push consumer's sign of life; `stalled` names the flow-control subject it waits for.
pub(super) fn heartbeat(
    out: &mut Vec<u8>,
    consumer_seq: u64,
    stream_seq: u64,
    stalled: Option<&str>,
) {
    out.extend_from_slice(b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: ");
    decimal(out, consumer_seq);
    out.extend_from_slice(b"\r\nNats-Last-Stream: ");
    decimal(out, stream_seq);
    if let Some(subject) = stalled {
        out.extend_from_slice(b"\r\nNats-Consumer-Stalled: ");
        out.extend_from_slice(subject.as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// What a delivery's reply subject says (the nine-token form).
#[derive(Clone, Copy, Debug)]
pub(super) struct AckPlace<'a> {
    pub(super) stream: &'a str,
    pub(super) consumer: &'a str,
    /// How often this message was delivered, this time included.
    pub(super) delivered: u64,
    pub(super) stream_seq: u64,
    pub(super) consumer_seq: u64,
    pub(super) ts_ns: u64,
    /// Messages of the consumer after this one.
    pub(super) pending: u64,
}

/// `$JS.ACK.<stream>.<consumer>.<delivered>.<sseq>.<cseq>.<ts>.<pending>`.
pub(super) fn ack_subject(out: &mut Vec<u8>, place: &AckPlace<'_>) {
    out.extend_from_slice(b"$JS.ACK.");
    out.extend_from_slice(place.stream.as_bytes());
    out.push(b'.');
    out.extend_from_slice(place.consumer.as_bytes());
    let numbers = [
        place.delivered,
        place.stream_seq,
        place.consumer_seq,
        place.ts_ns,
        place.pending,
    ];
    for number in numbers {
        out.push(b'.');
        decimal(out, number);
    }
}

/// A random name of letters and digits: of consumers without one, and of events.
pub(super) fn random_name(len: usize) -> String {
    use rand::Rng as _;

    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    (0..len)
        .map(|_| char::from(ALPHABET[rng.next_u32() as usize % ALPHABET.len()]))
        .collect()
}

/// Where a sourced message comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    pub(super) stream: &'a str,
    pub(super) seq: u64,
    pub(super) filters: &'a str,
    pub(super) destinations: &'a str,
    pub(super) subject: &'a [u8],
}

/// The stored headers and where the message comes from:
/// `Nats-Stream-Source: <stream> <seq> <filters> <destinations> <subject>`.
pub(super) fn source_headers(out: &mut Vec<u8>, stored: &[u8], origin: &Origin<'_>) {
    let stored =
        without_lines(stored, &[b"Nats-Stream-Source:"]).unwrap_or_else(|| stored.to_vec());
    open_block(out, &stored);
    out.extend_from_slice(b"Nats-Stream-Source: ");
    out.extend_from_slice(origin.stream.as_bytes());
    out.push(b' ');
    decimal(out, origin.seq);
    for part in [origin.filters, origin.destinations] {
        out.push(b' ');
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b' ');
    out.extend_from_slice(origin.subject);
    out.extend_from_slice(b"\r\n\r\n");
}

/// A header block without what its publisher expected of the stream; `None` when it expected nothing.
pub(super) fn without_expectations(block: &[u8]) -> Option<Vec<u8>> {
    without_lines(block, &[b"Nats-Expected-"])
}

/// The block without the lines that begin like this, `None` when there are none. A block of which
/// nothing is left is empty.
pub(super) fn without_lines(block: &[u8], prefixes: &[&[u8]]) -> Option<Vec<u8>> {
    let doomed = |line: &[u8]| prefixes.iter().any(|prefix| line.starts_with(prefix));
    let mut lines = block.split_inclusive(|byte| *byte == b'\n');
    if !lines.clone().any(doomed) {
        return None;
    }
    let kept: Vec<&[u8]> = lines.by_ref().filter(|line| !doomed(line)).collect();
    // The version line and the empty one.
    Some(if kept.len() <= 2 {
        Vec::new()
    } else {
        kept.concat()
    })
}

#[cfg(test)]
mod tests {
    use super::{
        AckPlace, Origin, ack_subject, end_of_batch, heartbeat, set_headers, size_headers,
        source_headers, status, without_expectations,
    };

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn statuses_are_byte_exact() {
        let text = written(|out| status(out, 404, "Message Not Found"));
        assert_eq!(
            (text.as_str(), text.len()),
            ("NATS/1.0 404 Message Not Found\r\n\r\n", 34)
        );
        let text = written(|out| heartbeat(out, 5, 5, None));
        assert_eq!(text.len(), 75);
        assert_eq!(
            text,
            "NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 5\r\nNats-Last-Stream: 5\r\n\r\n"
        );
        assert!(
            written(|out| heartbeat(out, 1, 2, Some("$JS.FC.S.c.x")))
                .ends_with("Nats-Last-Stream: 2\r\nNats-Consumer-Stalled: $JS.FC.S.c.x\r\n\r\n")
        );
        let text = written(|out| end_of_batch(out, 2, 4, None));
        assert_eq!(text.len(), 64);
        assert_eq!(
            text,
            "NATS/1.0 204 EOB\r\nNats-Num-Pending: 2\r\nNats-Last-Sequence: 4\r\n\r\n"
        );
    }

    #[test]
    fn sourced_headers_are_byte_exact() {
        let origin = Origin {
            stream: "O",
            seq: 1,
            filters: "o.a",
            destinations: ">",
            subject: b"o.a",
        };
        let stored = b"NATS/1.0\r\nNats-Msg-Id: x\r\nNats-Expected-Last-Sequence: 0\r\n\r\n";
        let kept = without_expectations(stored).unwrap();
        let text = written(|out| source_headers(out, &kept, &origin));
        assert_eq!(
            text,
            "NATS/1.0\r\nNats-Msg-Id: x\r\nNats-Stream-Source: O 1 o.a > o.a\r\n\r\n"
        );
        let only = b"NATS/1.0\r\nNats-Expected-Stream: x\r\n\r\n";
        assert_eq!(without_expectations(only).unwrap(), b"");
        assert_eq!(without_expectations(&kept), None);
    }

    #[test]
    fn headers_only_tells_the_size() {
        assert_eq!(
            written(|out| {
                size_headers(out, b"", 12);
            }),
            "NATS/1.0\r\nNats-Msg-Size: 12\r\n\r\n"
        );
    }

    #[test]
    fn headers_are_replaced_by_name() {
        let mut out = Vec::new();
        let stored = b"NATS/1.0\r\nA: 1\r\nB: 2\r\n\r\n";
        let len = set_headers(&mut out, stored, &[("A", "3"), ("C", "4")]);
        assert_eq!(
            String::from_utf8(out.clone()).unwrap(),
            "NATS/1.0\r\nB: 2\r\nA: 3\r\nC: 4\r\n\r\n"
        );
        assert_eq!(len, out.len());
        out.clear();
        set_headers(&mut out, b"", &[("A", "3")]);
        assert_eq!(out, b"NATS/1.0\r\nA: 3\r\n\r\n");
    }

    #[test]
    fn ack_subject_has_nine_tokens() {
        let place = AckPlace {
            stream: "S",
            consumer: "C1",
            delivered: 1,
            stream_seq: 1,
            consumer_seq: 1,
            ts_ns: 1_795_319_421_866_465_442,
            pending: 4,
        };
        let text = written(|out| ack_subject(out, &place));
        assert_eq!(text, "$JS.ACK.S.C1.1.1.1.1795319421866465442.4");
        assert_eq!(text.split('.').count(), 9);
    }
}
