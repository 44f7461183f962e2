//! What clients say to consumers, in batches: the frames that a node hands to the leader's engine, its
//! own or over the network. Encoding and decoding only.
//!
//! `kind:u8 | subject len:u16 | reply len:u16 | body len:u32 | subject | reply | body`, little-endian,
//! one after the other. An answer is a code byte and, when the batch was taken, the numbers (u32) of
//! those inputs whose reply subjects get an empty message. Behind these are the numbers of those that
//! found no consumer, with the highest bit set, and [`TELLS_STRAYS`]: for versions that do not know of
//! it, numbers beyond all inputs.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use unibus_proto::jetstream::ack::AckTokens;

use super::flow;
use super::subject::{self, Endpoint};

/// Bytes before an input's texts.
const HEAD_BYTES: usize = 9;
const TAKEN: u8 = 0;
const NOT_NOW: u8 = 1;
/// In the numbers of inputs that found no consumer.
const STRAY: u32 = 1 << 31;
/// The last number of a verdict that tells which inputs found no consumer.
const TELLS_STRAYS: u32 = u32::MAX;

/// What an input is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum InputKind {
    /// `$JS.API.CONSUMER.MSG.NEXT.<stream>.<consumer>`.
    Pull = 1,
    /// `$JS.ACK.…`.
    Ack = 2,
    /// `$JS.FC.…`: the answer to a flow control request; the body is its header block.
    Flow = 3,
}

/// One input; its parts are slices of the batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Input<'a> {
    pub(super) kind: InputKind,
    pub(super) subject: &'a [u8],
    /// Empty = none.
    pub(super) reply: &'a [u8],
    pub(super) body: &'a [u8],
}

/// A batch is not one of ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("malformed batch of consumer inputs")]
pub(super) struct MalformedInputs;

/// An input has a part that is too long to be framed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a consumer input is too long")]
pub(super) struct InputTooLong;

/// Appends one input to a batch.
pub(super) fn put(
    out: &mut BytesMut,
    kind: InputKind,
    subject: &[u8],
    reply: &[u8],
    body: &[u8],
) -> Result<(), InputTooLong> {
    let subject_len = u16::try_from(subject.len()).map_err(|_| InputTooLong)?;
    let reply_len = u16::try_from(reply.len()).map_err(|_| InputTooLong)?;
    let body_len = u32::try_from(body.len()).map_err(|_| InputTooLong)?;
    out.reserve(HEAD_BYTES + subject.len() + reply.len() + body.len());
    out.put_u8(kind as u8);
    out.put_u16_le(subject_len);
    out.put_u16_le(reply_len);
    out.put_u32_le(body_len);
    out.put_slice(subject);
    out.put_slice(reply);
    out.put_slice(body);
    Ok(())
}

/// The length of the longest run of whole inputs within `max` bytes; one that is longer alone counts.
pub(super) fn whole_prefix(batch: &[u8], max: usize) -> usize {
    let mut end = 0;
    while let Some(head) = batch.get(end..end + HEAD_BYTES) {
        let short = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
        let body = u32::from_le_bytes([head[5], head[6], head[7], head[8]]) as usize;
        let next = end + HEAD_BYTES + short(1) + short(3) + body;
        if next > batch.len() || (end > 0 && next > max) {
            break;
        }
        end = next;
    }
    end
}

/// The stream and consumer that an input is for.
pub(super) fn target<'a>(input: &Input<'a>) -> Option<(&'a str, &'a str)> {
    match input.kind {
        InputKind::Pull => match subject::parse(input.subject) {
            Endpoint::ConsumerNext { stream, consumer } => Some((stream, consumer)),
            _ => None,
        },
        InputKind::Ack => AckTokens::parse(input.subject).map(|t| (t.stream, t.consumer)),
        InputKind::Flow => flow::target(input.subject),
    }
}

/// The inputs of a batch, in order. Ends after the first malformed one.
#[derive(Clone, Debug)]
pub(super) struct Inputs<'a>(&'a [u8]);

impl<'a> Inputs<'a> {
    pub(super) fn new(batch: &'a [u8]) -> Self {
        Self(batch)
    }

    fn take(&mut self) -> Option<Input<'a>> {
        let (head, rest) = self.0.split_first_chunk::<HEAD_BYTES>()?;
        let kind = match head[0] {
            1 => InputKind::Pull,
            2 => InputKind::Ack,
            3 => InputKind::Flow,
            _ => return None,
        };
        let short = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
        let body_len = u32::from_le_bytes([head[5], head[6], head[7], head[8]]);
        let (subject, rest) = rest.split_at_checked(short(1))?;
        let (reply, rest) = rest.split_at_checked(short(3))?;
        let (body, rest) = rest.split_at_checked(usize::try_from(body_len).ok()?)?;
        self.0 = rest;
        Some(Input {
            kind,
            subject,
            reply,
            body,
        })
    }
}

impl<'a> Iterator for Inputs<'a> {
    type Item = Result<Input<'a>, MalformedInputs>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let taken = self.take().ok_or(MalformedInputs);
        if taken.is_err() {
            self.0 = &[];
        }
        Some(taken)
    }
}

/// What is left to do of a batch. Numbers of inputs, ascending.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Taken {
    /// They are to be answered.
    pub(super) answered: Vec<u32>,
    /// Their consumers do not exist; `None` = the leader's version does not tell.
    pub(super) strays: Option<Vec<u32>>,
}

/// What became of a batch at the leader.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// Everything in it is done.
    Taken(Taken),
    /// Nothing of it was looked at: the node does not lead, or has too much to do.
    NotNow,
}

impl Verdict {
    pub(super) fn encode(&self) -> Bytes {
        match self {
            Self::NotNow => Bytes::from_static(&[NOT_NOW]),
            Self::Taken(Taken { answered, strays }) => {
                let more = strays.as_ref().map_or(0, |strays| strays.len() + 1);
                let mut out = BytesMut::with_capacity(1 + 4 * (answered.len() + more));
                out.put_u8(TAKEN);
                for number in answered {
                    out.put_u32_le(*number);
                }
                if let Some(strays) = strays {
                    for number in strays {
                        out.put_u32_le(number | STRAY);
                    }
                    out.put_u32_le(TELLS_STRAYS);
                }
                out.freeze()
            }
        }
    }

    pub(super) fn decode(mut frame: Bytes) -> Result<Self, MalformedInputs> {
        if frame.is_empty() {
            return Err(MalformedInputs);
        }
        match frame.get_u8() {
            NOT_NOW if frame.is_empty() => Ok(Self::NotNow),
            TAKEN if frame.len().is_multiple_of(4) => {
                let mut answered = Vec::with_capacity(frame.len() / 4);
                while frame.has_remaining() {
                    answered.push(frame.get_u32_le());
                }
                if answered.pop_if(|last| *last == TELLS_STRAYS).is_none() {
                    let strays = None;
                    return Ok(Self::Taken(Taken { answered, strays }));
                }
                // Strays have the highest bit set, and so come last.
                if !answered.is_sorted() {
                    return Err(MalformedInputs);
                }
                let strays = answered.split_off(answered.partition_point(|n| n & STRAY == 0));
                let strays = Some(strays.into_iter().map(|n| n & !STRAY).collect());
                Ok(Self::Taken(Taken { answered, strays }))
            }
            _ => Err(MalformedInputs),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};

    use super::{InputKind, Inputs, MalformedInputs, Taken, Verdict, put, whole_prefix};

    fn batch() -> Bytes {
        let mut out = BytesMut::new();
        put(&mut out, InputKind::Pull, b"a", b"r", b"{}").unwrap();
        put(&mut out, InputKind::Ack, b"b", b"", b"").unwrap();
        out.freeze()
    }

    #[test]
    fn batches_read_back() {
        let batch = batch();
        let inputs: Vec<_> = Inputs::new(&batch).map(Result::unwrap).collect();
        assert_eq!(inputs.len(), 2);
        assert_eq!(inputs[0].kind, InputKind::Pull);
        assert_eq!(
            (inputs[0].subject, inputs[0].reply, inputs[0].body),
            (&b"a"[..], &b"r"[..], &b"{}"[..])
        );
        assert_eq!(inputs[1].kind, InputKind::Ack);
        assert!(inputs[1].reply.is_empty());
    }

    #[test]
    fn a_damaged_batch_ends_with_an_error() {
        let whole = batch();
        for cut in 1..whole.len() {
            let read: Vec<_> = Inputs::new(&whole[..cut]).collect();
            let complete = usize::from(cut >= 13);
            let expected = complete + usize::from(cut != 13);
            assert_eq!(read.len(), expected, "{cut}");
            if cut != 13 {
                assert_eq!(read.last(), Some(&Err(MalformedInputs)), "{cut}");
            }
        }
        let strange = b"\x09\0\0\0\0\0\0\0\0";
        assert_eq!(
            Inputs::new(strange).collect::<Vec<_>>(),
            [Err(MalformedInputs)]
        );
    }

    #[test]
    fn batches_are_cut_between_inputs() {
        let whole = batch();
        assert_eq!(whole_prefix(&whole, 1024), whole.len());
        assert_eq!(whole_prefix(&whole, whole.len() - 1), 13);
        assert_eq!(whole_prefix(&whole, 1), 13);
    }

    fn taken(answered: &[u32], strays: Option<&[u32]>) -> Verdict {
        Verdict::Taken(Taken {
            answered: answered.to_vec(),
            strays: strays.map(<[u32]>::to_vec),
        })
    }

    #[test]
    fn verdicts_of_other_versions_are_understood() {
        // What earlier versions send and read: a code byte and the numbers to answer, ascending.
        let frame = Bytes::from_static(b"\0\x02\0\0\0\x05\0\0\0");
        assert_eq!(Verdict::decode(frame), Ok(taken(&[2, 5], None)));
        let frame = taken(&[2, 5], Some(&[3])).encode();
        let numbers: Vec<u32> = frame[1..]
            .chunks(4)
            .map(|number| u32::from_le_bytes(number.try_into().unwrap()))
            .collect();
        assert_eq!(numbers[..2], [2, 5]);
        assert!(numbers.is_sorted() && numbers[2..].iter().all(|number| *number > 1 << 30));
    }

    #[test]
    fn verdicts_read_back() {
        for verdict in [
            Verdict::NotNow,
            taken(&[], None),
            taken(&[0, 70_000], None),
            taken(&[], Some(&[])),
            taken(&[0, 70_000], Some(&[1, 80_000])),
        ] {
            assert_eq!(Verdict::decode(verdict.encode()), Ok(verdict));
        }
        for strange in [&b""[..], b"\x02", b"\x01x", b"\0abc"] {
            assert_eq!(
                Verdict::decode(Bytes::copy_from_slice(strange)),
                Err(MalformedInputs)
            );
        }
    }
}
