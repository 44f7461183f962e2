//! What a client may ask of the broker, as views into the bytes it sent.
//!
//! Owns the shapes only: reading them off the wire is `decoder`'s work, and acting on them is the
//! broker's. Nothing here allocates, and `Debug` never prints credentials or payloads.

use std::fmt;

/// One operation from a client, borrowed from the read buffer.
///
/// Subjects and queue names are unchecked bytes without SP, TAB, CR or LF (nats-surface §1.1,
/// §1.9).
#[derive(Copy, Clone, Eq, PartialEq)]
pub enum ClientOp<'a> {
    /// `CONNECT {json}`: the JSON text, for [`crate::handshake::ConnectOptions::parse`].
    Connect(&'a [u8]),
    /// `PING`: to be answered by `PONG` after every effect of the operations before it.
    Ping,
    /// `PONG`: an answer to the broker's own `PING`.
    Pong,
    /// `INFO {…}`: tolerated from a client and ignored.
    Info,
    /// `+OK`: tolerated from a client and ignored.
    Ok,
    /// `PUB` and `HPUB`.
    Pub(PubOp<'a>),
    /// `SUB <subject> [queue] <sid>`.
    Sub {
        /// The filter, wildcards included; may be invalid.
        subject: &'a [u8],
        /// The queue group, if any.
        queue: Option<&'a [u8]>,
        /// The client's name for this subscription: any token.
        sid: &'a [u8],
    },
    /// `UNSUB <sid> [max]`.
    Unsub {
        /// The subscription to end.
        sid: &'a [u8],
        /// Deliveries, counted since SUB, after which it ends; `None` ends it at once.
        max: Option<u64>,
    },
    /// `-ERR '…'` from a client: the broker closes the connection without a text.
    Err(&'a [u8]),
}

/// A published message.
#[derive(Copy, Clone, Eq, PartialEq)]
pub struct PubOp<'a> {
    /// Where it goes; not validated.
    pub subject: &'a [u8],
    /// Where answers are wanted.
    pub reply: Option<&'a [u8]>,
    /// Bytes of header block at the start of `data`; 0 for `PUB`.
    pub header_len: usize,
    /// Header block and payload, without the closing CRLF.
    pub data: &'a [u8],
    /// Whether the verb was `HPUB`, even with a header block of 0 bytes.
    pub has_headers: bool,
}

impl<'a> PubOp<'a> {
    /// The header block; empty for `PUB`.
    pub fn headers(&self) -> &'a [u8] {
        self.data.get(..self.header_len).unwrap_or_default()
    }

    /// The payload without headers.
    pub fn payload(&self) -> &'a [u8] {
        self.data.get(self.header_len..).unwrap_or_default()
    }
}

impl fmt::Debug for PubOp<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PubOp")
            .field("subject", &String::from_utf8_lossy(self.subject))
            .field("reply", &self.reply.map(String::from_utf8_lossy))
            .field("header_len", &self.header_len)
            .field("data_len", &self.data.len())
            .field("has_headers", &self.has_headers)
            .finish()
    }
}

impl fmt::Debug for ClientOp<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy;
        match self {
            Self::Connect(json) => write!(f, "Connect({} bytes)", json.len()),
            Self::Ping => f.write_str("Ping"),
            Self::Pong => f.write_str("Pong"),
            Self::Info => f.write_str("Info"),
            Self::Ok => f.write_str("Ok"),
            Self::Pub(op) => fmt::Debug::fmt(op, f),
            Self::Sub {
                subject,
                queue,
                sid,
            } => f
                .debug_struct("Sub")
                .field("subject", &text(subject))
                .field("queue", &queue.map(text))
                .field("sid", &text(sid))
                .finish(),
            Self::Unsub { sid, max } => f
                .debug_struct("Unsub")
                .field("sid", &text(sid))
                .field("max", max)
                .finish(),
            Self::Err(reason) => write!(f, "Err({} bytes)", reason.len()),
        }
    }
}
