//! The frames of requests between replicas other than raft's own: forwarded proposals, read index,
//! barrier, join. Each starts with a format byte; an unknown one is refused, never guessed.

use bytes::{BufMut, Bytes, BytesMut};
use unibus_proto::NodeId;
use unibus_state::{EncodedBatch, Outcome, decode_outcomes, encode_outcomes};

use crate::change::Change;
use crate::frame::{FrameError, Reader, put_bytes};

const FORMAT: u8 = 1;
/// First byte of a change of the members, a request that came later than the others.
const FORMAT_CHANGE: u8 = 2;
/// Most batches in one forwarded proposal.
pub(crate) const PARTS_MAX: usize = 65_536;

/// The answer to a forwarded proposal.
#[derive(Debug, PartialEq)]
pub(crate) enum ProposeAnswer {
    /// Applied at this index.
    Applied { index: u64, outcomes: Vec<Outcome> },
    /// Not applied: the node does not lead. Ask another.
    NotLeader,
    /// Not applied: the leader's queue is full.
    Overloaded,
    /// May have been applied.
    Unknown,
}

/// Encodes batches for the leader.
pub(crate) fn encode_propose(parts: &[EncodedBatch]) -> Bytes {
    let bytes: usize = parts.iter().map(|part| part.bytes.len() + 8).sum();
    let mut out = BytesMut::with_capacity(5 + bytes);
    out.put_u8(FORMAT);
    out.put_u32_le(u32::try_from(parts.len()).unwrap_or(u32::MAX));
    for part in parts {
        out.put_u32_le(part.count);
        put_bytes(&mut out, &part.bytes);
    }
    out.freeze()
}

/// Decodes [`encode_propose`] into slices of the request.
pub(crate) fn decode_propose(request: Bytes) -> Result<Vec<EncodedBatch>, FrameError> {
    let mut input = open(request)?;
    let count = input.u32()? as usize;
    if count > PARTS_MAX {
        return Err(FrameError("too many batches"));
    }
    let mut parts = Vec::with_capacity(count);
    for _ in 0..count {
        let count = input.u32()?;
        let bytes = input.bytes()?;
        parts.push(EncodedBatch { count, bytes });
    }
    close(&input)?;
    Ok(parts)
}

/// Encodes an answer.
pub(crate) fn encode_propose_answer(answer: &ProposeAnswer) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(FORMAT);
    match answer {
        ProposeAnswer::Applied { index, outcomes } => {
            out.put_u8(0);
            out.put_u64_le(*index);
            out.put_slice(&encode_outcomes(outcomes));
        }
        ProposeAnswer::NotLeader => out.put_u8(1),
        ProposeAnswer::Overloaded => out.put_u8(2),
        ProposeAnswer::Unknown => out.put_u8(3),
    }
    out.freeze()
}

/// Decodes [`encode_propose_answer`].
pub(crate) fn decode_propose_answer(answer: Bytes) -> Result<ProposeAnswer, FrameError> {
    let mut input = open(answer)?;
    Ok(match input.u8()? {
        0 => ProposeAnswer::Applied {
            index: input.u64()?,
            outcomes: decode_outcomes(&input.rest()).map_err(|_| FrameError("outcomes"))?,
        },
        1 => ProposeAnswer::NotLeader,
        2 => ProposeAnswer::Overloaded,
        3 => ProposeAnswer::Unknown,
        _ => return Err(FrameError("propose answer")),
    })
}

/// Encodes a read index request. It says nothing but "now".
pub(crate) fn encode_read() -> Bytes {
    Bytes::from_static(&[FORMAT])
}

/// Checks [`encode_read`].
pub(crate) fn decode_read(request: Bytes) -> Result<(), FrameError> {
    close(&open(request)?)
}

/// Encodes an index, or that this node can't give one because it does not lead.
pub(crate) fn encode_index(index: Option<u64>) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(FORMAT);
    match index {
        Some(index) => {
            out.put_u8(1);
            out.put_u64_le(index);
        }
        None => out.put_u8(0),
    }
    out.freeze()
}

/// Decodes [`encode_index`].
pub(crate) fn decode_index(answer: Bytes) -> Result<Option<u64>, FrameError> {
    let mut input = open(answer)?;
    Ok(match input.u8()? {
        0 => None,
        1 => Some(input.u64()?),
        _ => return Err(FrameError("index")),
    })
}

/// Encodes "answer when you have applied this index, or when this many milliseconds are over".
pub(crate) fn encode_barrier(index: u64, within_ms: u64) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(FORMAT);
    out.put_u64_le(index);
    out.put_u64_le(within_ms);
    out.freeze()
}

/// Decodes [`encode_barrier`].
pub(crate) fn decode_barrier(request: Bytes) -> Result<(u64, u64), FrameError> {
    let mut input = open(request)?;
    Ok((input.u64()?, input.u64()?))
}

/// A request to become a member.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Join {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    /// A member passed it on already: do not pass it on again.
    pub(crate) forwarded: bool,
}

/// Encodes a change of the members. Told from a [`Join`] by its first byte.
pub(crate) fn encode_change(change: &Change) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(FORMAT_CHANGE);
    out.put_u64_le(change.remove.0);
    out.put_u8(u8::from(change.accept_quorum_loss));
    let (id, name) = match &change.replacement {
        Some((id, name)) => (id.0, name.as_str()),
        None => (0, ""),
    };
    out.put_u64_le(id);
    put_bytes(&mut out, name.as_bytes());
    out.freeze()
}

/// Decodes [`encode_change`]; `None` if the bytes are something else.
pub(crate) fn decode_change(request: &Bytes) -> Option<Result<Change, FrameError>> {
    (request.first() == Some(&FORMAT_CHANGE)).then(|| {
        let mut input = Reader::new(request.slice(1..));
        let remove = NodeId(input.u64()?);
        let accept_quorum_loss = input.u8()? != 0;
        let (id, name) = (input.u64()?, input.text()?);
        close(&input)?;
        Ok(Change {
            remove,
            replacement: (id != 0).then_some((NodeId(id), name)),
            accept_quorum_loss,
        })
    })
}

/// The answer to a [`Join`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum JoinAnswer {
    Admitted,
    NoLeader,
    NotCaughtUp,
    Refused(String),
}

/// Encodes a join request.
pub(crate) fn encode_join(join: &Join) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(FORMAT);
    out.put_u64_le(join.id.0);
    out.put_u8(u8::from(join.forwarded));
    put_bytes(&mut out, join.name.as_bytes());
    out.freeze()
}

/// Decodes [`encode_join`].
pub(crate) fn decode_join(request: Bytes) -> Result<Join, FrameError> {
    let mut input = open(request)?;
    Ok(Join {
        id: NodeId(input.u64()?),
        forwarded: input.u8()? != 0,
        name: input.text()?,
    })
}

/// Encodes the answer to a join request.
pub(crate) fn encode_join_answer(answer: &JoinAnswer) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(FORMAT);
    match answer {
        JoinAnswer::Admitted => out.put_u8(0),
        JoinAnswer::NoLeader => out.put_u8(1),
        JoinAnswer::NotCaughtUp => out.put_u8(2),
        JoinAnswer::Refused(reason) => {
            out.put_u8(3);
            put_bytes(&mut out, reason.as_bytes());
        }
    }
    out.freeze()
}

/// Decodes [`encode_join_answer`].
pub(crate) fn decode_join_answer(answer: Bytes) -> Result<JoinAnswer, FrameError> {
    let mut input = open(answer)?;
    Ok(match input.u8()? {
        0 => JoinAnswer::Admitted,
        1 => JoinAnswer::NoLeader,
        2 => JoinAnswer::NotCaughtUp,
        3 => JoinAnswer::Refused(input.text()?),
        _ => return Err(FrameError("join answer")),
    })
}

fn open(bytes: Bytes) -> Result<Reader, FrameError> {
    let mut input = Reader::new(bytes);
    match input.u8()? {
        FORMAT => Ok(input),
        _ => Err(FrameError("unknown format")),
    }
}

fn close(input: &Reader) -> Result<(), FrameError> {
    if input.is_empty() {
        Ok(())
    } else {
        Err(FrameError("bytes after the frame"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_and_short_ones_are_errors() {
        let parts = vec![EncodedBatch {
            count: 2,
            bytes: Bytes::from_static(b"frames"),
        }];
        let bytes = encode_propose(&parts);
        assert_eq!(decode_propose(bytes.clone()), Ok(parts));
        for len in 0..bytes.len() {
            assert!(decode_propose(bytes.slice(..len)).is_err());
        }
        let answer = ProposeAnswer::Applied {
            index: 7,
            outcomes: vec![Outcome::Done],
        };
        let bytes = encode_propose_answer(&answer);
        assert_eq!(decode_propose_answer(bytes), Ok(answer));
        let join = Join {
            id: NodeId(5),
            name: "n".to_owned(),
            forwarded: true,
        };
        assert_eq!(decode_join(encode_join(&join)), Ok(join.clone()));
        assert!(decode_change(&encode_join(&join)).is_none());
        for replacement in [None, Some((NodeId(6), "m".to_owned()))] {
            let change = Change {
                remove: NodeId(5),
                replacement,
                accept_quorum_loss: true,
            };
            let bytes = encode_change(&change);
            assert_eq!(decode_change(&bytes), Some(Ok(change)));
            let cut = bytes.slice(..bytes.len() - 1);
            assert!(matches!(decode_change(&cut), Some(Err(_))));
        }
        let refused = JoinAnswer::Refused("why".to_owned());
        assert_eq!(
            decode_join_answer(encode_join_answer(&refused)),
            Ok(refused)
        );
        assert_eq!(decode_index(encode_index(Some(3))), Ok(Some(3)));
        assert_eq!(decode_index(encode_index(None)), Ok(None));
        assert_eq!(decode_barrier(encode_barrier(1, 2)), Ok((1, 2)));
        assert_eq!(decode_read(encode_read()), Ok(()));
    }
}
