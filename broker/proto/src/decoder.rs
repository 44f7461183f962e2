//! The client-to-broker decoder: bytes in, borrowed operations out (nats-surface §1.1, §1.7).
//!
//! Owns the grammar, its limits, and the choice between answering a violation and closing silently.
//! Works in place on the caller's buffer and must never allocate, copy a payload, or look at a payload
//! byte: this runs once for every message a client publishes.

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
        Self { control_line_bytes_max: 4096, payload_bytes_max: 1024 * 1024 }
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
    /// The text between the quotes of `-ERR '…'`, for [`crate::encoder::err`]; `None` = close silently.
    pub fn err_line(&self) -> Option<&'static str> {
        match self {
            Self::UnknownOperation => Some("Unknown Protocol Operation"),
            Self::MaximumPayload => Some("Maximum Payload Violation"),
            Self::MaximumControlLine => Some("maximum control line exceeded"),
            Self::Malformed => None,
        }
    }
}

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

/// One connection's decoder. Holds positions only; the bytes stay with the caller.
#[derive(Clone, Debug)]
pub struct Decoder {
    limits: DecoderLimits,
    /// Shortest buffer with which another attempt can end differently.
    resume_len: usize,
    /// Bytes of an unfinished control line already known to hold no line end.
    scanned: usize,
    wanted: usize,
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new(limits: DecoderLimits) -> Self {
        Self { limits, resume_len: 0, scanned: 0, wanted: 1 }
    }

    /// The limits in force.
    pub fn limits(&self) -> DecoderLimits {
        self.limits
    }

    /// How many bytes beyond the buffer last given to `decode` the unfinished operation needs at least.
    /// Exact once its control line is complete, so a reader can make room for the whole payload.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// Reads the operation at the start of `buf`.
    ///
    /// `Ok(Some((op, consumed)))`: drop `consumed` bytes, then call again. `Ok(None)`: call again with the
    /// same bytes followed by more. After an error the connection ends and the decoder must not be used.
    pub fn decode<'a>(
        &mut self,
        buf: &'a [u8],
    ) -> Result<Option<(ClientOp<'a>, usize)>, DecodeError> {
        if buf.len() < self.resume_len {
            return Ok(None);
        }
        let Some((verb, verb_len)) = read_verb(buf)? else {
            self.starve(buf.len(), buf.len() + 1, buf.len() + 1);
            return Ok(None);
        };
        let decoded = match verb {
            Verb::Pub => self.publish(buf, verb_len, false)?,
            Verb::HeaderPub => self.publish(buf, verb_len, true)?,
            Verb::Sub | Verb::Unsub => self.interest(buf, verb, verb_len)?,
            Verb::Ping
            | Verb::Pong
            | Verb::Ok
            | Verb::Connect
            | Verb::Info
            | Verb::Err => self.line(buf, verb, verb_len)?,
        };
        if decoded.is_some() {
            self.resume_len = 0;
            self.scanned = 0;
            self.wanted = 1;
        }
        Ok(decoded)
    }

    /// Verbs whose whole operation is one line of free text, or nothing.
    fn line<'a>(
        &mut self,
        buf: &'a [u8],
        verb: Verb,
        verb_len: usize,
    ) -> Result<Option<(ClientOp<'a>, usize)>, DecodeError> {
        let Some(end) = self.line_end(buf, verb_len)? else {
            return Ok(None);
        };
        let text = buf[verb_len..end].trim_ascii();
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
        Ok(Some((op, end)))
    }

    fn interest<'a>(
        &mut self,
        buf: &'a [u8],
        verb: Verb,
        verb_len: usize,
    ) -> Result<Option<(ClientOp<'a>, usize)>, DecodeError> {
        let Some(args) = self.args(buf, verb_len)? else {
            return Ok(None);
        };
        let op = match (verb, args.count()) {
            (Verb::Sub, 2) => {
                ClientOp::Sub { subject: args.token(buf, 0), queue: None, sid: args.token(buf, 1) }
            }
            (Verb::Sub, 3) => ClientOp::Sub {
                subject: args.token(buf, 0),
                queue: Some(args.token(buf, 1)),
                sid: args.token(buf, 2),
            },
            (Verb::Unsub, 1) => ClientOp::Unsub { sid: args.token(buf, 0), max: None },
            // A max that is no number ends the subscription at once, as the stock server does.
            (Verb::Unsub, 2) => ClientOp::Unsub {
                sid: args.token(buf, 0),
                max: scan::size(args.token(buf, 1)).map(|max| max as u64),
            },
            _ => return Err(DecodeError::Malformed),
        };
        Ok(Some((op, args.line_end())))
    }

    fn publish<'a>(
        &mut self,
        buf: &'a [u8],
        verb_len: usize,
        has_headers: bool,
    ) -> Result<Option<(ClientOp<'a>, usize)>, DecodeError> {
        let Some(args) = self.args(buf, verb_len)? else {
            return Ok(None);
        };
        // The sizes stand last: one for PUB, two for HPUB; a reply subject may stand before them.
        let named = args.count().wrapping_sub(1 + usize::from(has_headers));
        if named != 1 && named != 2 {
            return Err(DecodeError::Malformed);
        }
        let total = scan::size(args.token(buf, args.count() - 1)).ok_or(DecodeError::Malformed)?;
        let header_len = if has_headers {
            scan::size(args.token(buf, args.count() - 2)).ok_or(DecodeError::Malformed)?
        } else {
            0
        };
        if header_len > total {
            return Err(DecodeError::Malformed);
        }
        if total > self.limits.payload_bytes_max {
            return Err(DecodeError::MaximumPayload);
        }
        let start = args.line_end();
        let end = start + total;
        match buf.get(end..end + 2) {
            Some(b"\r\n") => {}
            Some(_) => return Err(DecodeError::UnknownOperation),
            None => return self.await_payload(buf, end),
        }
        let op = PubOp {
            subject: args.token(buf, 0),
            reply: (named == 2).then(|| args.token(buf, 1)),
            header_len,
            data: &buf[start..end],
            has_headers,
        };
        Ok(Some((ClientOp::Pub(op), end + 2)))
    }

    /// The payload ends at `end`, and the buffer before its CRLF does. A wrong first byte after the
    /// payload is refused without waiting for the second, since a client might never send one.
    #[cold]
    fn await_payload<'a>(
        &mut self,
        buf: &[u8],
        end: usize,
    ) -> Result<Option<(ClientOp<'a>, usize)>, DecodeError> {
        match buf.get(end) {
            None => self.starve(buf.len(), end + 1, end + 2),
            Some(b'\r') => self.starve(buf.len(), end + 2, end + 2),
            Some(_) => return Err(DecodeError::UnknownOperation),
        }
        Ok(None)
    }

    fn args(&mut self, buf: &[u8], verb_len: usize) -> Result<Option<Args>, DecodeError> {
        // One pass finds the tokens and the line end together; only an unfinished or overfull line
        // falls through to the search for the line end alone, which remembers how far it came.
        if self.scanned == 0
            && let Some(args) = Args::scan(buf, verb_len)
        {
            self.check_line(&buf[verb_len..args.line_end() - 1])?;
            return Ok(Some(args));
        }
        if self.line_end(buf, verb_len)?.is_none() {
            return Ok(None);
        }
        Args::scan(buf, verb_len).map(Some).ok_or(DecodeError::Malformed)
    }

    /// The position after the line's LF, once it is there.
    fn line_end(&mut self, buf: &[u8], verb_len: usize) -> Result<Option<usize>, DecodeError> {
        if let Some(at) = memchr(b'\n', &buf[self.scanned..]) {
            let end = self.scanned + at + 1;
            self.check_line(&buf[verb_len..end - 1])?;
            return Ok(Some(end));
        }
        self.check_line(&buf[verb_len..])?;
        self.scanned = buf.len();
        self.starve(buf.len(), buf.len() + 1, buf.len() + 1);
        Ok(None)
    }

    /// `rest` is what follows the verb, up to the LF or the end of an unfinished line.
    fn check_line(&self, rest: &[u8]) -> Result<(), DecodeError> {
        let separator_and_limit = self.limits.control_line_bytes_max + 1;
        if rest.len() <= separator_and_limit
            || rest.strip_suffix(b"\r").is_some_and(|r| r.len() <= separator_and_limit)
        {
            return Ok(());
        }
        Err(DecodeError::MaximumControlLine)
    }

    fn starve(&mut self, have: usize, resume_len: usize, full_len: usize) {
        self.resume_len = resume_len;
        self.wanted = full_len - have;
    }
}

/// The verb at the start of `buf` and its length; `None` while more bytes could still make one.
fn read_verb(buf: &[u8]) -> Result<Option<(Verb, usize)>, DecodeError> {
    match buf {
        [b'P', b'U', b'B', b' ', ..] => Ok(Some((Verb::Pub, 3))),
        [b'H', b'P', b'U', b'B', b' ', ..] => Ok(Some((Verb::HeaderPub, 4))),
        [b'S', b'U', b'B', b' ', ..] => Ok(Some((Verb::Sub, 3))),
        [b'P', b'I', b'N', b'G', ..] => Ok(Some((Verb::Ping, 4))),
        [b'P', b'O', b'N', b'G', ..] => Ok(Some((Verb::Pong, 4))),
        _ => search_verb(buf),
    }
}

/// Any case, any separator. Refuses at the first byte that cannot belong to a verb, so that a peer of
/// another protocol is told at once, even if it never ends a line.
#[cold]
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
