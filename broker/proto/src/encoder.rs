//! Broker-to-client lines, appended to a write buffer (nats-surface §1.1).
//!
//! Owns the exact bytes. One reserve per message, integers by hand: this runs once for every
//! delivery. Never checks its arguments; the decoder and the session have done so.

use bytes::{BufMut, BytesMut};

use crate::handshake::ServerInfo;

/// Longest decimal form of a `u64`.
const DECIMAL_DIGITS_MAX: usize = 20;

/// Bytes of a delivery beyond its subject, sid, reply and data: verb, separators, sizes, line ends.
const DELIVERY_OVERHEAD_MAX: usize = 16 + 2 * DECIMAL_DIGITS_MAX;

const NO_RESPONDERS_HEAD: &[u8] = b"NATS/1.0 503\r\nNats-Subject: ";
const NO_RESPONDERS_TAIL: &[u8] = b"\r\n\r\n";

/// A delivery: `MSG` if `header_len` is 0, else `HMSG`. `data` holds headers and payload, without
/// the closing CRLF.
#[inline]
pub fn msg(
    out: &mut BytesMut,
    subject: &[u8],
    sid: &[u8],
    reply: Option<&[u8]>,
    header_len: usize,
    data: &[u8],
) {
    let reply_len = reply.map_or(0, <[u8]>::len);
    out.reserve(subject.len() + sid.len() + reply_len + data.len() + DELIVERY_OVERHEAD_MAX);
    out.put_slice(if header_len == 0 { b"MSG " } else { b"HMSG " });
    out.put_slice(subject);
    out.put_u8(b' ');
    out.put_slice(sid);
    out.put_u8(b' ');
    if let Some(reply) = reply {
        out.put_slice(reply);
        out.put_u8(b' ');
    }
    if header_len != 0 {
        decimal(out, header_len as u64);
        out.put_u8(b' ');
    }
    decimal(out, data.len() as u64);
    out.put_slice(b"\r\n");
    out.put_slice(data);
    out.put_slice(b"\r\n");
}

/// The status that tells a requester at once that nobody took its message: 503 with `Nats-Subject`,
/// delivered to the requester's own subscription `sid` on `reply` (nats-surface §1.5).
pub fn no_responders(out: &mut BytesMut, reply: &[u8], sid: &[u8], subject: &[u8]) {
    let header_len = (NO_RESPONDERS_HEAD.len() + subject.len() + NO_RESPONDERS_TAIL.len()) as u64;
    out.reserve(reply.len() + sid.len() + header_len as usize + DELIVERY_OVERHEAD_MAX);
    out.put_slice(b"HMSG ");
    out.put_slice(reply);
    out.put_u8(b' ');
    out.put_slice(sid);
    out.put_u8(b' ');
    decimal(out, header_len);
    out.put_u8(b' ');
    decimal(out, header_len);
    out.put_slice(b"\r\n");
    out.put_slice(NO_RESPONDERS_HEAD);
    out.put_slice(subject);
    out.put_slice(NO_RESPONDERS_TAIL);
    out.put_slice(b"\r\n");
}

/// `INFO {json} ` and CRLF: one line, with the space before CRLF that clients are used to.
pub fn info(out: &mut BytesMut, info: &ServerInfo) {
    let start = out.len();
    out.put_slice(b"INFO ");
    if serde_json::to_writer((&mut *out).writer(), info).is_err() {
        // Strings, numbers and flags always serialise; a half line must not go out if that changes.
        debug_assert!(false, "INFO did not serialise");
        out.truncate(start);
        return;
    }
    out.put_slice(b" \r\n");
}

/// `-ERR '<text>'`. `text` without quotes and line ends; see nats-surface §1.8 for those clients
/// know.
pub fn err(out: &mut BytesMut, text: &str) {
    out.put_slice(b"-ERR '");
    out.put_slice(text.as_bytes());
    out.put_slice(b"'\r\n");
}

/// `+OK`, for clients that asked for `verbose`.
pub fn ok(out: &mut BytesMut) {
    out.put_slice(b"+OK\r\n");
}

/// `PING`.
pub fn ping(out: &mut BytesMut) {
    out.put_slice(b"PING\r\n");
}

/// `PONG`.
pub fn pong(out: &mut BytesMut) {
    out.put_slice(b"PONG\r\n");
}

/// Appends `value` in decimal.
#[inline]
pub fn decimal(out: &mut BytesMut, mut value: u64) {
    if value < 10 {
        out.put_u8(b'0' + value as u8);
        return;
    }
    let mut digits = [0_u8; DECIMAL_DIGITS_MAX];
    let mut at = DECIMAL_DIGITS_MAX;
    while value >= 10 {
        let pair = DIGIT_PAIRS[(value % 100) as usize];
        value /= 100;
        at -= 2;
        digits[at..at + 2].copy_from_slice(&pair);
    }
    if value > 0 {
        at -= 1;
        digits[at] = b'0' + value as u8;
    }
    out.put_slice(&digits[at..]);
}

/// `00` to `99`: two digits for each division.
const DIGIT_PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut i = 0;
    while i < 100 {
        pairs[i] = [b'0' + (i / 10) as u8, b'0' + (i % 10) as u8];
        i += 1;
    }
    pairs
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn deliveries_have_the_exact_bytes() {
        assert_eq!(
            written(|out| msg(out, b"foo", b"1", None, 0, b"x")),
            "MSG foo 1 1\r\nx\r\n"
        );
        assert_eq!(
            written(|out| msg(out, b"foo", b"1", Some(b"r"), 0, b"")),
            "MSG foo 1 r 0\r\n\r\n"
        );
        assert_eq!(
            written(|out| msg(out, b"foo", b"9", None, 12, b"NATS/1.0\r\n\r\nhi")),
            "HMSG foo 9 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"
        );
        assert_eq!(
            written(|out| msg(out, b"foo", b"9", Some(b"r.s"), 12, b"NATS/1.0\r\n\r\n")),
            "HMSG foo 9 r.s 12 12\r\nNATS/1.0\r\n\r\n\r\n"
        );
    }

    #[test]
    fn no_responders_is_the_observed_line() {
        assert_eq!(
            written(|out| no_responders(out, b"_INBOX.r1", b"r1", b"nobody.home")),
            "HMSG _INBOX.r1 r1 43 43\r\nNATS/1.0 503\r\nNats-Subject: nobody.home\r\n\r\n\r\n"
        );
        assert_eq!(
            written(|out| no_responders(out, b"qq.1", b"89", b"none")),
            "HMSG qq.1 89 36 36\r\nNATS/1.0 503\r\nNats-Subject: none\r\n\r\n\r\n"
        );
    }

    #[test]
    fn single_lines() {
        assert_eq!(
            written(|out| err(out, "Invalid Subject")),
            "-ERR 'Invalid Subject'\r\n"
        );
        assert_eq!(written(ok), "+OK\r\n");
        assert_eq!(written(ping), "PING\r\n");
        assert_eq!(written(pong), "PONG\r\n");
    }

    #[test]
    fn info_is_one_line_with_a_space_before_its_end() {
        let line = written(|out| info(out, &ServerInfo::default()));
        assert!(line.starts_with("INFO {\"server_id\":"), "{line}");
        assert!(line.ends_with("} \r\n"), "{line}");
        assert_eq!(line.matches('\n').count(), 1, "{line}");
    }

    #[test]
    fn lines_are_appended() {
        let both = written(|out| {
            ok(out);
            msg(out, b"a", b"1", None, 0, b"");
        });
        assert_eq!(both, "+OK\r\nMSG a 1 0\r\n\r\n");
    }

    proptest! {
        #[test]
        fn decimal_is_to_string(value in any::<u64>(), shift in 0_u32..64) {
            let value = value >> shift;
            prop_assert_eq!(written(|out| decimal(out, value)), value.to_string());
        }
    }

    #[test]
    fn decimal_at_the_edges() {
        for value in [0, 9, 10, 99, 100, 101, 999, 1000, 1001, 10_000, u64::MAX] {
            assert_eq!(written(|out| decimal(out, value)), value.to_string());
        }
    }
}
