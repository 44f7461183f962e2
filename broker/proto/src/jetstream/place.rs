//! Headers that say where a message is stored: of direct gets and of messages that are published again.
//! Written by hand because they are on the hot path and clients compare them literally (nats-surface
//! §2.4, §2.5).

use std::io::Write as _;

use super::timestamp::Timestamp;

/// Where a direct get's message stands; the tail fields belong to batches only.
#[derive(Clone, Copy, Debug)]
pub struct DirectPlace<'a> {
    /// Its stream.
    pub stream: &'a str,
    /// Its subject.
    pub subject: &'a [u8],
    /// Its sequence.
    pub seq: u64,
    /// When it was stored, Unix nanoseconds.
    pub ts_ns: u64,
    /// `(messages still to come, sequence sent before this one)`.
    pub batch: Option<(u64, u64)>,
}

/// The header block of a direct get: the stored headers and then the place. Returns its length.
pub fn direct_headers(out: &mut Vec<u8>, stored: &[u8], place: &DirectPlace<'_>) -> usize {
    let start = out.len();
    place_headers(out, stored, place);
    if let Some((pending, last)) = place.batch {
        out.extend_from_slice(b"\r\nNats-Num-Pending: ");
        decimal(out, pending);
        out.extend_from_slice(b"\r\nNats-Last-Sequence: ");
        decimal(out, last);
    }
    out.extend_from_slice(b"\r\n\r\n");
    out.len() - start
}

/// The stored headers and the place, without the final empty line.
fn place_headers(out: &mut Vec<u8>, stored: &[u8], place: &DirectPlace<'_>) {
    open_block(out, stored);
    out.extend_from_slice(b"Nats-Stream: ");
    out.extend_from_slice(place.stream.as_bytes());
    out.extend_from_slice(b"\r\nNats-Subject: ");
    out.extend_from_slice(place.subject);
    out.extend_from_slice(b"\r\nNats-Sequence: ");
    decimal(out, place.seq);
    out.extend_from_slice(b"\r\nNats-Time-Stamp: ");
    // Writing to a Vec does not fail.
    let _ = write!(out, "{}", Timestamp(place.ts_ns));
}

/// The header block of a message published again: the stored headers, the place, the last sequence
/// of its subject before, and the payload's size when the payload is left out. Returns its length.
pub fn republish_headers(
    out: &mut Vec<u8>,
    stored: &[u8],
    place: &DirectPlace<'_>,
    last_seq: u64,
    payload_len: Option<usize>,
) -> usize {
    let start = out.len();
    place_headers(out, stored, place);
    out.extend_from_slice(b"\r\nNats-Last-Sequence: ");
    decimal(out, last_seq);
    if let Some(len) = payload_len {
        out.extend_from_slice(b"\r\nNats-Msg-Size: ");
        decimal(out, len as u64);
    }
    out.extend_from_slice(b"\r\n\r\n");
    out.len() - start
}

/// Starts a header block that goes on after the stored one: its final empty line is left off.
pub fn open_block(out: &mut Vec<u8>, stored: &[u8]) {
    match stored.strip_suffix(b"\r\n") {
        Some(open) if !open.is_empty() => out.extend_from_slice(open),
        _ => out.extend_from_slice(b"NATS/1.0\r\n"),
    }
}

/// A number's digits.
pub fn decimal(out: &mut Vec<u8>, mut number: u64) {
    // u64::MAX has 20 digits.
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::{DirectPlace, direct_headers};

    #[test]
    fn direct_get_headers_are_byte_exact() {
        let place = DirectPlace {
            stream: "KV_b",
            subject: b"$KV.b.k",
            seq: 5,
            ts_ns: 1_795_319_555_794_488_103,
            batch: None,
        };
        let mut out = Vec::new();
        assert_eq!(direct_headers(&mut out, b"", &place), 121);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "NATS/1.0\r\nNats-Stream: KV_b\r\nNats-Subject: $KV.b.k\r\nNats-Sequence: 5\r\n\
             Nats-Time-Stamp: 2026-11-22T03:52:35.794488103Z\r\n\r\n"
        );
        let mut out = Vec::new();
        let batch = DirectPlace {
            batch: Some((3, 4)),
            ..place
        };
        direct_headers(&mut out, b"NATS/1.0\r\nA: b\r\n\r\n", &batch);
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with("NATS/1.0\r\nA: b\r\nNats-Stream: KV_b\r\n"),
            "{text}"
        );
        assert!(
            text.ends_with("Z\r\nNats-Num-Pending: 3\r\nNats-Last-Sequence: 4\r\n\r\n"),
            "{text}"
        );
    }
}
