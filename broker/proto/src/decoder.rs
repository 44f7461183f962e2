//! The client-to-broker decoder: bytes in, borrowed operations out (nats-surface §1.1, §1.7).
//!
//! Owns the grammar, its limits, and the choice between answering a violation and closing silently.
//! Works in place on the caller's buffer and must never allocate, copy a payload, or look at a
//! payload byte: this runs once for every message a client publishes.

use memchr::memchr;
use thiserror::Error;

pub use crate::op::{ClientOp, PubOp};

mod scan;
#[cfg(test)]
mod tests;

use scan::Args;

/// What a decoder refuses by size.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct DecoderLimits {
    /// Bytes of a control line after its verb and one separator, without the line end.
    pub control_line_bytes_max: usize,
    /// Bytes of headers and payload together in one message.
    pub payload_bytes_max: usize,
}

impl Default for DecoderLimits {
    fn default() -> Self {
        Self {
            control_line_bytes_max: 4096,
            payload_bytes_max: 1024 * 1024,
        }
    }
}

/// How a client broke the protocol. Each one ends the connection.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Error)]
pub enum DecodeError {
    /// Not a verb that clients may use, or a payload not followed by CRLF.
    #[error("unknown protocol operation")]
    UnknownOperation,
    /// The control line declares more than `payload_bytes_max`; none of the payload was waited for.
    #[error("payload over the limit")]
    MaximumPayload,
    /// The control line is longer than `control_line_bytes_max`.
    #[error("control line over the limit")]
    MaximumControlLine,
    /// Wrong number of arguments or an impossible size: closed without a text.
    #[error("malformed control line")]
    Malformed,
}

impl DecodeError {
    /// The text between the quotes of `-ERR '…'`, for [`crate::encoder::err`]; `None` = close
    /// silently.
    pub fn err_line(&self) -> Option<&'static str> {
        match self {
            Self::UnknownOperation => Some("Unknown Protocol Operation"),
            Self::MaximumPayload => Some("Maximum Payload Violation"),
            Self::MaximumControlLine => Some("maximum control line exceeded"),
            Self::Malformed => None,
        }
    }
}

/// An operation and the bytes it took; `None` = more bytes needed.
pub type Decoded<'a> = Result<Option<(ClientOp<'a>, usize)>, DecodeError>;

#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Verb {
    Connect,
    Ping,
    Pong,
    Info,
    Ok,
    Pub,
    HeaderPub,
    Sub,
    Unsub,
    Err,
}

/// What follows headers and payload.
const CRLF: &[u8] = b"\r\n";

/// Every verb and whether an SP or TAB must follow it.
const VERBS: [(&[u8], Verb, bool); 10] = [
    (b"PUB", Verb::Pub, true),
    (b"SUB", Verb::Sub, true),
    (b"HPUB", Verb::HeaderPub, true),
    (b"PING", Verb::Ping, false),
    (b"PONG", Verb::Pong, false),
    (b"UNSUB", Verb::Unsub, true),
    (b"CONNECT", Verb::Connect, true),
    (b"INFO", Verb::Info, true),
    (b"+OK", Verb::Ok, false),
    (b"-ERR", Verb::Err, true),
];

/// One connection's decoder. Holds lengths only; the bytes stay with the caller.
#[derive(Clone, Debug)]
pub struct Decoder {
    limits: DecoderLimits,
    /// Shortest buffer with which another attempt can end differently; 0 between operations.
    resume_len: usize,
    /// Length of the unfinished operation as far as known.
    full_len: usize,
    /// Bytes missing from `full_len` in the buffer last seen.
    wanted: usize,
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new(limits: DecoderLimits) -> Self {
        Self {
            limits,
            resume_len: 0,
            full_len: 0,
            wanted: 0,
        }
    }

    /// Other limits from the next operation on; one that is being read already has passed.
    pub fn set_limits(&mut self, limits: DecoderLimits) {
        self.limits = limits;
    }

    /// The limits in force.
    pub fn limits(&self) -> DecoderLimits {
        self.limits
    }

    /// How many bytes beyond the buffer last given to `decode` the unfinished operation needs at
    /// least. Exact once its control line is complete, so a reader can make room for the whole
    /// payload.
    pub fn wanted(&self) -> usize {
        if self.resume_len == 0 { 1 } else { self.wanted }
    }

    /// Reads the operation at the start of `buf`.
    ///
    /// `Ok(Some((op, consumed)))`: drop `consumed` bytes, then call again. `Ok(None)`: call again
    /// with the same bytes followed by more. After an error the connection ends and the decoder
    /// must not be used.
    ///
    /// An unfinished control line is scanned again from its start when more of it arrives, which
    /// its limit bounds; an unfinished payload is not looked at.
    #[inline]
    pub fn decode<'a>(&mut self, buf: &'a [u8]) -> Decoded<'a> {
        if buf.len() < self.resume_len {
            self.wanted = self.full_len - buf.len();
            return Ok(None);
        }
        // Every arm is a tail call that writes the result where the caller wants it: moving an
        // operation from frame to frame costs more than decoding it.
        match buf {
            [b'P', b'U', b'B', b' ', ..] => self.publish(buf, 3),
            [b'H', b'P', b'U', b'B', b' ', ..] => self.publish_headers(buf, 4),
            [b'S', b'U', b'B', b' ', ..] => self.subscribe(buf, 3),
            [b'P', b'I', b'N', b'G', b'\r', b'\n', ..] => self.finished(ClientOp::Ping, 6),
            [b'P', b'O', b'N', b'G', b'\r', b'\n', ..] => self.finished(ClientOp::Pong, 6),
            _ => self.decode_unusual(buf),
        }
    }

    /// Everything that is rare, or not spelt the way clients mostly spell it.
    #[cold]
    fn decode_unusual<'a>(&mut self, buf: &'a [u8]) -> Decoded<'a> {
        match search_verb(buf) {
            Ok(Some((Verb::Pub, verb_len))) => self.publish(buf, verb_len),
            Ok(Some((Verb::HeaderPub, verb_len))) => self.publish_headers(buf, verb_len),
            Ok(Some((Verb::Sub, verb_len))) => self.subscribe(buf, verb_len),
            Ok(Some((Verb::Unsub, verb_len))) => self.unsubscribe(buf, verb_len),
            Ok(Some((verb, verb_len))) => self.line(buf, verb, verb_len),
            Ok(None) => self.starved(buf.len(), buf.len() + 1, buf.len() + 1),
            Err(error) => Err(error),
        }
    }

    /// Verbs whose whole operation is one line of free text, or nothing.
    fn line<'a>(&mut self, buf: &'a [u8], verb: Verb, verb_len: usize) -> Decoded<'a> {
        let Some(at) = memchr(b'\n', buf) else {
            return self.unfinished_line(buf, verb_len);
        };
        self.check_line(&buf[verb_len..at])?;
        let text = buf[verb_len..at].trim_ascii();
        let op = match verb {
            Verb::Connect => ClientOp::Connect(text),
            Verb::Ping => ClientOp::Ping,
            Verb::Pong => ClientOp::Pong,
            Verb::Info => ClientOp::Info,
            Verb::Ok => ClientOp::Ok,
            Verb::Err | Verb::Pub | Verb::HeaderPub | Verb::Sub | Verb::Unsub => {
                ClientOp::Err(text)
            }
        };
        self.finished(op, at + 1)
    }

    fn subscribe<'a>(&mut self, buf: &'a [u8], verb_len: usize) -> Decoded<'a> {
        let Some(args) = Args::scan(buf, verb_len) else {
            return self.unfinished_line(buf, verb_len);
        };
        self.check_line(&buf[verb_len..args.line_end() - 1])?;
        let queue = match args.count() {
            2 => None,
            3 => Some(args.token(buf, 1)),
            _ => return Err(DecodeError::Malformed),
        };
        let sid = args.token(buf, args.count() - 1);
        let op = ClientOp::Sub {
            subject: args.token(buf, 0),
            queue,
            sid,
        };
        self.finished(op, args.line_end())
    }

    fn unsubscribe<'a>(&mut self, buf: &'a [u8], verb_len: usize) -> Decoded<'a> {
        let Some(args) = Args::scan(buf, verb_len) else {
            return self.unfinished_line(buf, verb_len);
        };
        self.check_line(&buf[verb_len..args.line_end() - 1])?;
        let max = match args.count() {
            1 => None,
            // A max that is no number ends the subscription at once, as the stock server does.
            2 => scan::size(args.token(buf, 1)).map(|max| max as u64),
            _ => return Err(DecodeError::Malformed),
        };
        let op = ClientOp::Unsub {
            sid: args.token(buf, 0),
            max,
        };
        self.finished(op, args.line_end())
    }

    fn publish<'a>(&mut self, buf: &'a [u8], verb_len: usize) -> Decoded<'a> {
        let Some(args) = Args::scan(buf, verb_len) else {
            return self.unfinished_line(buf, verb_len);
        };
        self.check_line(&buf[verb_len..args.line_end() - 1])?;
        let (reply, size) = match args.count() {
            2 => (None, args.token(buf, 1)),
            3 => (Some(args.token(buf, 1)), args.token(buf, 2)),
            _ => return Err(DecodeError::Malformed),
        };
        let total = scan::size(size).ok_or(DecodeError::Malformed)?;
        if total > self.limits.payload_bytes_max {
            return Err(DecodeError::MaximumPayload);
        }
        let start = args.line_end();
        let end = start + total;
        let Some(b"\r\n") = buf.get(end..end + 2) else {
            return self.unfinished_payload(buf, end);
        };
        let subject = args.token(buf, 0);
        let data = &buf[start..end];
        let op = PubOp {
            subject,
            reply,
            header_len: 0,
            data,
            has_headers: false,
        };
        self.finished(ClientOp::Pub(op), end + 2)
    }

    fn publish_headers<'a>(&mut self, buf: &'a [u8], verb_len: usize) -> Decoded<'a> {
        let Some(args) = Args::scan(buf, verb_len) else {
            return self.unfinished_line(buf, verb_len);
        };
        self.check_line(&buf[verb_len..args.line_end() - 1])?;
        let (reply, header_size, size) = match args.count() {
            3 => (None, args.token(buf, 1), args.token(buf, 2)),
            4 => (
                Some(args.token(buf, 1)),
                args.token(buf, 2),
                args.token(buf, 3),
            ),
            _ => return Err(DecodeError::Malformed),
        };
        let header_len = scan::size(header_size).ok_or(DecodeError::Malformed)?;
        let total = scan::size(size).ok_or(DecodeError::Malformed)?;
        if header_len > total {
            return Err(DecodeError::Malformed);
        }
        if total > self.limits.payload_bytes_max {
            return Err(DecodeError::MaximumPayload);
        }
        let start = args.line_end();
        let end = start + total;
        let Some(b"\r\n") = buf.get(end..end + 2) else {
            return self.unfinished_payload(buf, end);
        };
        let subject = args.token(buf, 0);
        let data = &buf[start..end];
        let op = PubOp {
            subject,
            reply,
            header_len,
            data,
            has_headers: true,
        };
        self.finished(ClientOp::Pub(op), end + 2)
    }

    /// No line end yet, or too many arguments before it.
    #[cold]
    fn unfinished_line<'a>(&mut self, buf: &[u8], verb_len: usize) -> Decoded<'a> {
        let line_end = memchr(b'\n', buf);
        self.check_line(&buf[verb_len..line_end.unwrap_or(buf.len())])?;
        if line_end.is_some() {
            return Err(DecodeError::Malformed);
        }
        self.starved(buf.len(), buf.len() + 1, buf.len() + 1)
    }

    /// The payload up to `end` and CRLF are not all there, or it is not CRLF. A wrong first byte is
    /// refused without waiting for the second, since a client might never send one.
    #[cold]
    fn unfinished_payload<'a>(&mut self, buf: &[u8], end: usize) -> Decoded<'a> {
        match buf.get(end..) {
            None | Some([]) => self.starved(buf.len(), end + 1, end + 2),
            Some([b'\r']) => self.starved(buf.len(), end + 2, end + 2),
            Some(_) => Err(DecodeError::UnknownOperation),
        }
    }

    /// `rest` is what follows the verb, up to the LF or the end of an unfinished line.
    #[inline]
    fn check_line(&self, rest: &[u8]) -> Result<(), DecodeError> {
        let separator_and_limit = self.limits.control_line_bytes_max + 1;
        if rest.len() <= separator_and_limit
            || rest
                .strip_suffix(b"\r")
                .is_some_and(|r| r.len() <= separator_and_limit)
        {
            return Ok(());
        }
        Err(DecodeError::MaximumControlLine)
    }

    #[inline]
    fn finished<'a>(&mut self, op: ClientOp<'a>, consumed: usize) -> Decoded<'a> {
        self.resume_len = 0;
        Ok(Some((op, consumed)))
    }

    fn starved<'a>(&mut self, have: usize, resume_len: usize, full_len: usize) -> Decoded<'a> {
        self.resume_len = resume_len;
        self.full_len = full_len;
        self.wanted = full_len - have;
        Ok(None)
    }
}

/// How many operations that publish the same way follow the first one in `buf`: byte for byte the same
/// control line, so the same subject, reply and sizes, and other data. The first one has `op_len` bytes,
/// `data_len` of them headers and payload.
///
/// A publisher tends to repeat its line, and where nobody hears it that is all there is to know of what
/// follows.
#[must_use]
pub fn repeats(buf: &[u8], op_len: usize, data_len: usize) -> usize {
    let line = op_len.checked_sub(data_len + CRLF.len());
    let Some(line) = line.and_then(|len| buf.get(..len)) else {
        return 0;
    };
    let rest = buf.get(op_len..).unwrap_or_default();
    rest.chunks_exact(op_len)
        .take_while(|op| op.starts_with(line) && op.ends_with(CRLF))
        .count()
}

/// The verb at the start of `buf` and its length; `None` while more bytes could still make one. Any
/// case, any separator. Refuses at the first byte that cannot belong to a verb, so that a peer of
/// another protocol is told at once, even if it never ends a line.
fn search_verb(buf: &[u8]) -> Result<Option<(Verb, usize)>, DecodeError> {
    for (name, verb, takes_args) in VERBS {
        let Some(head) = buf.get(..name.len()) else {
            if name[..buf.len()].eq_ignore_ascii_case(buf) {
                return Ok(None);
            }
            continue;
        };
        if !head.eq_ignore_ascii_case(name) {
            continue;
        }
        return match buf.get(name.len()) {
            _ if !takes_args => Ok(Some((verb, name.len()))),
            Some(b' ' | b'\t') => Ok(Some((verb, name.len()))),
            Some(_) => Err(DecodeError::UnknownOperation),
            None => Ok(None),
        };
    }
    Err(DecodeError::UnknownOperation)
}
