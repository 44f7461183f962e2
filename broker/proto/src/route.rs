//! What two nodes' brokers say to each other: interest and messages on one ordered stream.
//!
//! Owns the binary frames and their limits. A frame is an operation byte, the body's length (u32,
//! little-endian) and the body. The first frame of a stream is a hello with a version byte; what
//! follows it is the sender's whole interest, then changes and messages in one order, so that a reply
//! inbox's interest is always known before the request that needs it. Must never do I/O.

use bytes::{BufMut, BytesMut};
use thiserror::Error;

use crate::NodeId;
use crate::interest::InterestChange;

/// The version this code speaks. A stream with another one is refused.
pub const VERSION: u8 = 1;

/// What this code understands within [`VERSION`], told at the end of its hello. A hello that ends before it
/// is of revision 1. From 2 on: messages with any number of queues, and interest that is told anew.
pub const REVISION: u8 = 2;

/// The longest payload with headers that a frame carries, whatever clients may send.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Queue names that one message carries, each with two bytes of length, for a peer of revision 2.
pub const QUEUE_NAMES_BYTES_MAX: usize = 15 * 1024 * 1024;

/// The same for one of revision 1.
const NARROW_NAMES_BYTES_MAX: usize = u16::MAX as usize;

/// Bytes of subjects, replies and an account's name that a frame may have beside payload and queue names.
const SUBJECTS_BYTES_MAX: usize = 1024 * 1024;

/// Bytes before each body: operation and length.
pub const FRAME_HEAD_BYTES: usize = 5;

const OP_HELLO: u8 = 1;
const OP_INTEREST: u8 = 2;
const OP_SYNCED: u8 = 3;
const OP_MESSAGE: u8 = 4;
const OP_PING: u8 = 5;
const OP_PONG: u8 = 6;
const OP_ACCOUNT: u8 = 7;
const OP_WIDE_MESSAGE: u8 = 8;
const OP_RENEWAL: u8 = 9;
const OP_RENEWED: u8 = 10;

const MESSAGE_HEAD_BYTES: usize = 12;

/// What a decoder refuses by size.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct RouteLimits {
    /// The longest body of a frame: payload, headers, subjects and queue names together.
    pub frame_bytes_max: usize,
}

impl Default for RouteLimits {
    fn default() -> Self {
        Self {
            frame_bytes_max: PAYLOAD_BYTES_MAX + QUEUE_NAMES_BYTES_MAX + SUBJECTS_BYTES_MAX,
        }
    }
}

/// One frame, borrowed from the read buffer.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum RouteOp<'a> {
    /// First on the stream: who speaks.
    Hello {
        /// The speaker.
        node: NodeId,
        /// What it understands: see [`REVISION`].
        revision: u8,
    },
    /// A filter or queue has this weight at the speaker.
    Interest(InterestChange<'a>),
    /// The speaker's whole interest table has been sent.
    Synced,
    /// From here on the speaker tells its interest anew, with changes and messages in between.
    Renewal,
    /// It has: what it told before the last `Renewal`, and not again since, it wants no more.
    Renewed,
    /// A message for the receiver's local subscribers.
    Message(RouteMessage<'a>),
    /// To be answered by `Pong`.
    Ping,
    /// The answer to `Ping`.
    Pong,
    /// A frame that belongs to another account than the one nobody names (`$G`).
    Account {
        /// The account.
        name: &'a [u8],
        /// One whole frame, for [`decode`]: about interest, or a message.
        frame: &'a [u8],
    },
}

/// A message between brokers.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct RouteMessage<'a> {
    /// Decides who receives it.
    pub subject: &'a [u8],
    /// The subject that receivers see, when it differs.
    pub shown: Option<&'a [u8]>,
    /// Where answers go.
    pub reply: Option<&'a [u8]>,
    /// The queue groups that the receiver serves, one member each.
    pub queues: QueueNames<'a>,
    /// Bytes of `data` that are the header block.
    pub header_len: usize,
    /// Header block and payload.
    pub data: &'a [u8],
}

/// Queue names as they lie in a frame: each a u16 length and its bytes. Checked when made.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct QueueNames<'a>(&'a [u8]);

impl<'a> QueueNames<'a> {
    /// The names in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (name, after) = take_name(rest)?;
            rest = after;
            Some(name)
        })
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How a peer broke the protocol. Each one ends the route.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Error)]
pub enum RouteDecodeError {
    /// The hello names another version.
    #[error("the peer's route protocol has version {0}, this node's has {VERSION}")]
    Version(u8),
    /// An operation byte nobody knows.
    #[error("unknown route operation {0}")]
    UnknownOperation(u8),
    /// A body over `frame_bytes_max`.
    #[error("a route frame of {0} bytes is over the limit")]
    TooLong(usize),
    /// A body that is too short for what it says.
    #[error("malformed body of route operation {0}")]
    Malformed(u8),
}

/// Decodes the first frame of `buffer`. Returns it with its length in bytes, or `None` when more bytes
/// are needed.
///
/// # Errors
/// [`RouteDecodeError`]; the stream can't be used further.
pub fn decode<'a>(
    buffer: &'a [u8],
    limits: &RouteLimits,
) -> Result<Option<(RouteOp<'a>, usize)>, RouteDecodeError> {
    let Some((&op, rest)) = buffer.split_first() else {
        return Ok(None);
    };
    if !(OP_HELLO..=OP_RENEWED).contains(&op) {
        return Err(RouteDecodeError::UnknownOperation(op));
    }
    let Some((length, rest)) = take_u32(rest) else {
        return Ok(None);
    };
    let length = length as usize;
    if length > limits.frame_bytes_max {
        return Err(RouteDecodeError::TooLong(length));
    }
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    let decoded = decode_body(op, body)?;
    Ok(Some((decoded, FRAME_HEAD_BYTES + length)))
}

/// How many bytes the first frame of `buffer` has, once its head is there.
#[must_use]
pub fn frame_bytes(buffer: &[u8]) -> Option<usize> {
    let (length, _) = take_u32(buffer.get(1..)?)?;
    Some(FRAME_HEAD_BYTES + length as usize)
}

fn decode_body(op: u8, body: &[u8]) -> Result<RouteOp<'_>, RouteDecodeError> {
    let malformed = RouteDecodeError::Malformed(op);
    match op {
        OP_HELLO => decode_hello(body),
        OP_INTEREST => decode_interest(body)
            .map(RouteOp::Interest)
            .ok_or(malformed),
        OP_MESSAGE => decode_message(body, false)
            .map(RouteOp::Message)
            .ok_or(malformed),
        OP_WIDE_MESSAGE => decode_message(body, true)
            .map(RouteOp::Message)
            .ok_or(malformed),
        OP_RENEWAL => Ok(RouteOp::Renewal),
        OP_RENEWED => Ok(RouteOp::Renewed),
        OP_SYNCED => Ok(RouteOp::Synced),
        OP_PING => Ok(RouteOp::Ping),
        OP_PONG => Ok(RouteOp::Pong),
        OP_ACCOUNT => decode_account(body).ok_or(malformed),
        unknown => Err(RouteDecodeError::UnknownOperation(unknown)),
    }
}

fn decode_hello(body: &[u8]) -> Result<RouteOp<'_>, RouteDecodeError> {
    let malformed = RouteDecodeError::Malformed(OP_HELLO);
    let (&version, rest) = body.split_first().ok_or(malformed)?;
    if version != VERSION {
        return Err(RouteDecodeError::Version(version));
    }
    let (node, rest) = rest.split_first_chunk::<8>().ok_or(malformed)?;
    Ok(RouteOp::Hello {
        node: NodeId(u64::from_le_bytes(*node)),
        revision: rest.first().map_or(1, |&revision| revision.max(1)),
    })
}

fn decode_account(body: &[u8]) -> Option<RouteOp<'_>> {
    let (name, frame) = take_name(body)?;
    let &inner = frame.first()?;
    let whole = frame_bytes(frame) == Some(frame.len());
    let fits = matches!(
        inner,
        OP_INTEREST | OP_MESSAGE | OP_WIDE_MESSAGE | OP_RENEWAL | OP_RENEWED
    );
    if name.is_empty() || !fits || !whole {
        return None;
    }
    Some(RouteOp::Account { name, frame })
}

fn decode_interest(body: &[u8]) -> Option<InterestChange<'_>> {
    let (weight, rest) = take_u32(body)?;
    let (filter, rest) = take_name(rest)?;
    let (queue, rest) = take_name(rest)?;
    if !rest.is_empty() || !crate::subject::is_valid_filter(filter) {
        return None;
    }
    Some(InterestChange {
        filter,
        queue: non_empty(queue),
        weight,
    })
}

fn decode_message(body: &[u8], is_wide: bool) -> Option<RouteMessage<'_>> {
    let (header_len, rest) = take_u32(body)?;
    let (subject_len, rest) = take_u16(rest)?;
    let (shown_len, rest) = take_u16(rest)?;
    let (reply_len, rest) = take_u16(rest)?;
    let (queues_len, rest) = match is_wide {
        true => take_u32(rest).map(|(len, rest)| (len as usize, rest)),
        false => take_u16(rest),
    }?;
    let (subject, rest) = rest.split_at_checked(subject_len)?;
    let (shown, rest) = rest.split_at_checked(shown_len)?;
    let (reply, rest) = rest.split_at_checked(reply_len)?;
    let (queues, data) = rest.split_at_checked(queues_len)?;
    let queues = check_names(queues)?;
    let header_len = header_len as usize;
    if subject.is_empty() || header_len > data.len() {
        return None;
    }
    Some(RouteMessage {
        subject,
        shown: non_empty(shown),
        reply: non_empty(reply),
        queues,
        header_len,
        data,
    })
}

fn check_names(names: &[u8]) -> Option<QueueNames<'_>> {
    let mut rest = names;
    while !rest.is_empty() {
        rest = take_name(rest)?.1;
    }
    Some(QueueNames(names))
}

const fn non_empty(text: &[u8]) -> Option<&[u8]> {
    if text.is_empty() { None } else { Some(text) }
}

fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*head), rest))
}

fn take_u16(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<2>()?;
    Some((usize::from(u16::from_le_bytes(*head)), rest))
}

fn take_name(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = take_u16(bytes)?;
    rest.split_at_checked(len)
}

/// Appends the first frame of a stream.
pub fn hello(out: &mut BytesMut, node: NodeId) {
    head(out, OP_HELLO, 10);
    out.put_u8(VERSION);
    out.put_u64_le(node.0);
    // Decoders of revision 1 read no further than this.
    out.put_u8(REVISION);
}

/// Appends an interest change. A filter or queue over 65,535 bytes is left out: no peer can ask for it.
pub fn interest(out: &mut BytesMut, change: InterestChange<'_>) {
    let queue = change.queue.unwrap_or_default();
    let (Ok(filter_len), Ok(queue_len)) = (
        u16::try_from(change.filter.len()),
        u16::try_from(queue.len()),
    ) else {
        return;
    };
    head(out, OP_INTEREST, 8 + change.filter.len() + queue.len());
    out.put_u32_le(change.weight);
    out.put_u16_le(filter_len);
    out.put_slice(change.filter);
    out.put_u16_le(queue_len);
    out.put_slice(queue);
}

/// Appends what `write` writes, one frame or none, as a frame of the account `name`; without a name as it
/// is. Returns what `write` returned.
pub fn in_account<T>(
    out: &mut BytesMut,
    name: Option<&str>,
    write: impl FnOnce(&mut BytesMut) -> T,
) -> T {
    let Some((name, name_len)) = name.and_then(|n| Some((n, u16::try_from(n.len()).ok()?))) else {
        return write(out);
    };
    let start = out.len();
    head(out, OP_ACCOUNT, 0);
    out.put_u16_le(name_len);
    out.put_slice(name.as_bytes());
    let inner = out.len();
    let written = write(out);
    if out.len() == inner {
        out.truncate(start);
        return written;
    }
    set_body_len(out, start);
    written
}

/// Appends the mark that the whole table has been sent.
pub fn synced(out: &mut BytesMut) {
    head(out, OP_SYNCED, 0);
}

/// Appends the mark that interest is told anew from here on. Not for a peer of revision 1.
pub fn renewal(out: &mut BytesMut) {
    head(out, OP_RENEWAL, 0);
}

/// Appends the mark that interest has been told anew. Not for a peer of revision 1.
pub fn renewed(out: &mut BytesMut) {
    head(out, OP_RENEWED, 0);
}

/// Appends a ping.
pub fn ping(out: &mut BytesMut) {
    head(out, OP_PING, 0);
}

/// Appends a pong.
pub fn pong(out: &mut BytesMut) {
    head(out, OP_PONG, 0);
}

/// What [`message`] appends; the queue names are given beside it.
#[derive(Copy, Clone, Debug)]
pub struct OutgoingMessage<'a> {
    /// Decides who receives it.
    pub subject: &'a [u8],
    /// The subject that receivers see, when it differs.
    pub shown: Option<&'a [u8]>,
    /// Where answers go.
    pub reply: Option<&'a [u8]>,
    /// Bytes of `data` that are the header block.
    pub header_len: usize,
    /// Header block and payload.
    pub data: &'a [u8],
}

/// What [`message`] has appended.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Written {
    /// The message with all its queues.
    Whole,
    /// The message without the queues that had no room.
    Part,
    /// Nothing: a subject is over 65,535 bytes.
    Nothing,
}

/// Appends a message. `is_wide` is asked where the queue names are over 65,535 bytes: whether the peer is of
/// revision 2 and takes more, up to [`QUEUE_NAMES_BYTES_MAX`].
pub fn message<'q>(
    out: &mut BytesMut,
    message: &OutgoingMessage<'_>,
    queues: impl Iterator<Item = &'q [u8]> + Clone,
    is_wide: impl FnOnce() -> bool,
) -> Written {
    let shown = message.shown.unwrap_or_default();
    let reply = message.reply.unwrap_or_default();
    let lens = [message.subject.len(), shown.len(), reply.len()];
    let (Ok(header_len), true) = (
        u32::try_from(message.header_len),
        lens.iter().all(|len| u16::try_from(*len).is_ok()),
    ) else {
        return Written::Nothing;
    };
    let queues_len: usize = queues.clone().map(|name| 2 + name.len()).sum();
    if queues_len > NARROW_NAMES_BYTES_MAX {
        return crowded(out, message, queues, is_wide());
    }
    let names_len = lens.iter().sum::<usize>() + queues_len;
    let body_len = MESSAGE_HEAD_BYTES + names_len + message.data.len();
    out.reserve(FRAME_HEAD_BYTES + body_len);
    head(out, OP_MESSAGE, body_len);
    out.put_u32_le(header_len);
    for len in lens {
        out.put_u16_le(len as u16);
    }
    out.put_u16_le(queues_len as u16);
    rest_of_message(out, message, queues);
    Written::Whole
}

/// A message for more queues than a usual frame has room for.
#[cold]
fn crowded<'q>(
    out: &mut BytesMut,
    message: &OutgoingMessage<'_>,
    queues: impl Iterator<Item = &'q [u8]>,
    is_wide: bool,
) -> Written {
    let most = if is_wide {
        QUEUE_NAMES_BYTES_MAX
    } else {
        NARROW_NAMES_BYTES_MAX
    };
    let mut left_out = false;
    let mut queues_len = 0;
    let mut named = Vec::new();
    for name in queues {
        let len = queues_len + 2 + name.len();
        if len > most {
            left_out = true;
        } else {
            queues_len = len;
            named.push(name);
        }
    }
    let op = if is_wide { OP_WIDE_MESSAGE } else { OP_MESSAGE };
    let start = out.len();
    head(out, op, 0);
    out.put_u32_le(message.header_len as u32);
    for name in [Some(message.subject), message.shown, message.reply] {
        out.put_u16_le(name.unwrap_or_default().len() as u16);
    }
    if is_wide {
        out.put_u32_le(queues_len as u32);
    } else {
        out.put_u16_le(queues_len as u16);
    }
    rest_of_message(out, message, named.into_iter());
    set_body_len(out, start);
    if left_out {
        Written::Part
    } else {
        Written::Whole
    }
}

fn rest_of_message<'q>(
    out: &mut BytesMut,
    message: &OutgoingMessage<'_>,
    queues: impl Iterator<Item = &'q [u8]>,
) {
    out.extend_from_slice(message.subject);
    out.extend_from_slice(message.shown.unwrap_or_default());
    out.extend_from_slice(message.reply.unwrap_or_default());
    for name in queues {
        out.put_u16_le(name.len() as u16);
        out.extend_from_slice(name);
    }
    out.extend_from_slice(message.data);
}

fn head(out: &mut BytesMut, op: u8, body_len: usize) {
    out.put_u8(op);
    out.put_u32_le(body_len as u32);
}

/// Puts the length of the frame that begins at `start` and goes to the end into its head.
fn set_body_len(out: &mut BytesMut, start: usize) {
    let body_len = (out.len() - start - FRAME_HEAD_BYTES) as u32;
    out[start + 1..start + FRAME_HEAD_BYTES].copy_from_slice(&body_len.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(buffer: &[u8]) -> Result<Option<(RouteOp<'_>, usize)>, RouteDecodeError> {
        decode(buffer, &RouteLimits::default())
    }

    #[test]
    fn another_version_is_refused() {
        let mut out = BytesMut::new();
        hello(&mut out, NodeId(7));
        let hello = |revision| RouteOp::Hello {
            node: NodeId(7),
            revision,
        };
        assert_eq!(one(&out), Ok(Some((hello(REVISION), out.len()))));
        out[FRAME_HEAD_BYTES] = 9;
        assert_eq!(one(&out), Err(RouteDecodeError::Version(9)));
        let mut first = BytesMut::new();
        head(&mut first, OP_HELLO, 9);
        first.put_u8(VERSION);
        first.put_u64_le(7);
        assert_eq!(one(&first), Ok(Some((hello(1), first.len()))));
    }

    #[test]
    fn more_queues_than_a_frame_had_room_for() {
        let names: Vec<Vec<u8>> = (0..20_u8).map(|n| vec![b'a' + n; 4000]).collect();
        let queues = || names.iter().map(Vec::as_slice);
        let sent = OutgoingMessage {
            subject: b"a.b",
            shown: Some(b"c"),
            reply: Some(b"d"),
            header_len: 2,
            data: b"data",
        };
        for (is_wide, written, told) in [(true, Written::Whole, 20), (false, Written::Part, 16)] {
            let mut out = BytesMut::new();
            let got = in_account(&mut out, Some("A"), |out| {
                message(out, &sent, queues(), || is_wide)
            });
            assert_eq!(got, written);
            let Ok(Some((RouteOp::Account { frame, .. }, used))) = one(&out) else {
                panic!("no frame of an account");
            };
            assert_eq!(used, out.len());
            let Ok(Some((RouteOp::Message(got), _))) = one(frame) else {
                panic!("not a message");
            };
            assert_eq!(
                (got.subject, got.shown, got.reply),
                (sent.subject, sent.shown, sent.reply)
            );
            assert_eq!((got.header_len, got.data), (2, sent.data));
            let expected: Vec<_> = queues().take(told).collect();
            assert_eq!(got.queues.iter().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn sizes_are_limited_before_the_body_arrives() {
        let mut out = BytesMut::new();
        head(&mut out, OP_MESSAGE, 1000);
        let limits = RouteLimits {
            frame_bytes_max: 999,
        };
        assert_eq!(decode(&out, &limits), Err(RouteDecodeError::TooLong(1000)));
        assert_eq!(one(&[99]), Err(RouteDecodeError::UnknownOperation(99)));
    }

    #[test]
    fn lying_lengths_are_malformed() {
        let mut out = BytesMut::new();
        let body = OutgoingMessage {
            subject: b"a",
            shown: None,
            reply: None,
            header_len: 5,
            data: b"abc",
        };
        message(&mut out, &body, std::iter::empty(), || true);
        assert_eq!(one(&out), Err(RouteDecodeError::Malformed(OP_MESSAGE)));
        let mut out = BytesMut::new();
        interest(
            &mut out,
            InterestChange {
                filter: b"a..b",
                queue: None,
                weight: 1,
            },
        );
        assert_eq!(one(&out), Err(RouteDecodeError::Malformed(OP_INTEREST)));
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        "[a-z]{1,4}(\\.[a-z]{1,3}){0,2}".prop_map(String::into_bytes)
    }

    fn maybe() -> impl Strategy<Value = Option<Vec<u8>>> {
        prop::option::of(text())
    }

    proptest! {
        #[test]
        fn messages_come_back_as_they_went(
            subject in text(), shown in maybe(), reply in maybe(), queues in prop::collection::vec(text(), 0..4),
            data in prop::collection::vec(any::<u8>(), 0..200), split in any::<usize>(),
        ) {
            let header_len = split % (data.len() + 1);
            let sent = OutgoingMessage {
                subject: &subject, shown: shown.as_deref(), reply: reply.as_deref(), header_len, data: &data,
            };
            let mut out = BytesMut::new();
            prop_assert_eq!(message(&mut out, &sent, queues.iter().map(Vec::as_slice), || true), Written::Whole);
            prop_assert_eq!(frame_bytes(&out), Some(out.len()));
            for cut in 0..out.len() {
                prop_assert_eq!(one(&out[..cut]), Ok(None));
            }
            let Ok(Some((RouteOp::Message(got), used))) = one(&out) else { panic!("not a message") };
            prop_assert_eq!(used, out.len());
            prop_assert_eq!((got.subject, got.shown, got.reply), (sent.subject, sent.shown, sent.reply));
            prop_assert_eq!((got.header_len, got.data), (header_len, sent.data));
            prop_assert_eq!(got.queues.iter().collect::<Vec<_>>(), queues.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }

        #[test]
        fn interest_comes_back_as_it_went(filter in text(), queue in maybe(), weight in any::<u32>()) {
            let change = InterestChange { filter: &filter, queue: queue.as_deref(), weight };
            let mut out = BytesMut::new();
            interest(&mut out, change);
            synced(&mut out);
            let Ok(Some((op, used))) = one(&out) else { panic!("nothing decoded") };
            prop_assert_eq!(op, RouteOp::Interest(change));
            prop_assert_eq!(one(&out[used..]), Ok(Some((RouteOp::Synced, FRAME_HEAD_BYTES))));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), op in 1_u8..11) {
            let _ = one(&bytes);
            let mut framed = BytesMut::new();
            head(&mut framed, op, bytes.len());
            framed.put_slice(&bytes);
            let _ = one(&framed);
        }
    }
}
