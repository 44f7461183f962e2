//! What apply says back: one outcome per command for the proposer, and effects for every node.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use unibus_proto::jetstream::error::ApiError;

use crate::codec::{CodecError, Reader, len_u32, put_blob};
use crate::location::Location;

/// How a count that was not made is written.
const UNCOUNTED: u64 = u64::MAX;

/// A command that was understood but not granted. Data, not an error: the entry is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The stream, for publishes (its PubAck names it).
    pub stream: Option<Arc<str>>,
    /// The publisher's stream takes no acknowledgements: do not answer.
    pub silent: bool,
    /// What the client is told.
    pub error: ApiError,
}

/// The result of one command, in the order of the entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The message is stored, or was before.
    Published {
        /// The stream.
        stream: Arc<str>,
        /// Its sequence (of the first copy, when a duplicate).
        seq: u64,
        /// Stored before.
        duplicate: bool,
    },
    /// A counter's message is stored.
    Counted {
        /// The stream.
        stream: Arc<str>,
        /// Its sequence.
        seq: u64,
        /// The value it led to, decimal.
        val: String,
    },
    /// All messages of an atomic batch are stored.
    Batched {
        /// The stream.
        stream: Arc<str>,
        /// The sequence of the last of them.
        seq: u64,
        /// The batch's id.
        batch: String,
        /// Messages.
        count: u64,
        /// The value that the last of them led to, in a counter stream.
        val: Option<String>,
    },
    /// Messages of a fast batch, up to the last or the first refused one, are stored or were before.
    Series {
        /// The stream.
        stream: Arc<str>,
        /// The sequence of the last that is stored; 0 where none is.
        seq: u64,
        /// Places in the series of those that are refused, and why.
        refused: Vec<(u32, ApiError)>,
    },
    /// Created, updated, deleted: read the details from the state.
    Done,
    /// Messages were removed.
    Purged {
        /// How many.
        count: u64,
    },
    /// The consumer exists; `created` is false when it was there already.
    ConsumerCreated {
        /// Its name.
        name: Arc<str>,
        /// Messages it will deliver from here; `None` where the entry had to count too much already.
        num_pending: Option<u64>,
        /// New, rather than found or updated.
        created: bool,
    },
    /// Not granted.
    Refused(Refusal),
    /// No stream stores this subject (any more).
    NoStream,
    /// Stored (or a duplicate) in a stream that acknowledges nothing.
    Silent,
    /// An expectation of a control change does not hold; nothing was written.
    CheckFailed {
        /// Its place in the change's list.
        check: u32,
    },
}

/// What every node has to react to after an entry, deduplicated per entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A stream appeared.
    StreamCreated {
        /// Its name.
        name: Arc<str>,
    },
    /// A stream's configuration changed.
    StreamUpdated {
        /// Its name.
        name: Arc<str>,
    },
    /// A stream is gone, with its consumers.
    StreamRemoved {
        /// Its name.
        name: Arc<str>,
    },
    /// Messages were stored or removed.
    StreamAdvanced {
        /// Its name.
        name: Arc<str>,
    },
    /// A consumer appeared.
    ConsumerCreated {
        /// Its stream.
        stream: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// A consumer's configuration changed.
    ConsumerUpdated {
        /// Its stream.
        stream: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// A consumer is gone.
    ConsumerRemoved {
        /// Its stream.
        stream: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// A message was stored that its stream wants published again, by the leader.
    Republish {
        /// Its stream.
        stream: Arc<str>,
        /// Under which subject.
        subject: Bytes,
        /// Its sequence.
        seq: u64,
        /// The last sequence of its subject before; 0 = it is the first.
        last_seq: u64,
        /// Where it is; readable for a while even if it is removed.
        location: Location,
        /// Without the payload.
        headers_only: bool,
        /// A stream captures it: apply has seen to that.
        captured: bool,
    },
    /// A control-plane bucket (`KV_UNIBUS_…`) changed.
    ControlChanged {
        /// Its stream.
        bucket: Arc<str>,
    },
}

/// The result of one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// One per command.
    pub outcomes: Vec<Outcome>,
    /// For observers.
    pub effects: Vec<Effect>,
}

const FORMAT: u8 = 1;

mod kind {
    pub(super) const PUBLISHED: u8 = 1;
    pub(super) const DONE: u8 = 2;
    pub(super) const PURGED: u8 = 3;
    pub(super) const CONSUMER_CREATED: u8 = 4;
    pub(super) const REFUSED: u8 = 5;
    pub(super) const NO_STREAM: u8 = 6;
    pub(super) const SILENT: u8 = 7;
    pub(super) const CHECK_FAILED: u8 = 64;
    /// Published in the same stream as the outcome before: the common case of a batch.
    pub(super) const PUBLISHED_SAME: u8 = 8;
    pub(super) const COUNTED: u8 = 9;
    pub(super) const BATCHED: u8 = 10;
    pub(super) const SERIES: u8 = 11;
}

/// `format:u8 | count:u32 | outcome…`, to answer a follower's proposal.
#[must_use]
pub fn encode_outcomes(outcomes: &[Outcome]) -> Vec<u8> {
    let mut out = Vec::with_capacity(5 + outcomes.len() * 10);
    out.push(FORMAT);
    out.extend_from_slice(&len_u32(outcomes.len()).to_le_bytes());
    let mut before: Option<&Arc<str>> = None;
    for outcome in outcomes {
        encode_outcome(&mut out, outcome, before);
        if let Outcome::Published { stream, .. } = outcome {
            before = Some(stream);
        }
    }
    out
}

fn encode_outcome(out: &mut Vec<u8>, outcome: &Outcome, before: Option<&Arc<str>>) {
    match outcome {
        Outcome::Published {
            stream,
            seq,
            duplicate,
        } => {
            if before.is_some_and(|name| name == stream) {
                out.push(kind::PUBLISHED_SAME);
            } else {
                out.push(kind::PUBLISHED);
                put_blob(out, stream.as_bytes());
            }
            out.extend_from_slice(&seq.to_le_bytes());
            out.push(u8::from(*duplicate));
        }
        Outcome::Counted { stream, seq, val } => {
            out.push(kind::COUNTED);
            put_blob(out, stream.as_bytes());
            out.extend_from_slice(&seq.to_le_bytes());
            put_blob(out, val.as_bytes());
        }
        Outcome::Batched {
            stream,
            seq,
            batch,
            count,
            val,
        } => {
            out.push(kind::BATCHED);
            put_blob(out, stream.as_bytes());
            out.extend_from_slice(&seq.to_le_bytes());
            put_blob(out, batch.as_bytes());
            out.extend_from_slice(&count.to_le_bytes());
            // No value is an empty one.
            put_blob(out, val.as_deref().unwrap_or_default().as_bytes());
        }
        Outcome::Series {
            stream,
            seq,
            refused,
        } => {
            out.push(kind::SERIES);
            put_blob(out, stream.as_bytes());
            out.extend_from_slice(&seq.to_le_bytes());
            put_errors(out, refused);
        }
        Outcome::Done => out.push(kind::DONE),
        Outcome::Purged { count } => {
            out.push(kind::PURGED);
            out.extend_from_slice(&count.to_le_bytes());
        }
        Outcome::ConsumerCreated {
            name,
            num_pending,
            created,
        } => {
            out.push(kind::CONSUMER_CREATED);
            put_blob(out, name.as_bytes());
            out.extend_from_slice(&num_pending.unwrap_or(UNCOUNTED).to_le_bytes());
            out.push(u8::from(*created));
        }
        Outcome::Refused(refusal) => put_refusal(out, refusal),
        Outcome::NoStream => out.push(kind::NO_STREAM),
        Outcome::Silent => out.push(kind::SILENT),
        Outcome::CheckFailed { check } => {
            out.push(kind::CHECK_FAILED);
            out.extend_from_slice(&check.to_le_bytes());
        }
    }
}

fn put_refusal(out: &mut Vec<u8>, refusal: &Refusal) {
    out.push(kind::REFUSED);
    out.push(u8::from(refusal.stream.is_some()));
    let stream = refusal.stream.as_deref().unwrap_or_default();
    put_blob(out, stream.as_bytes());
    out.push(u8::from(refusal.silent));
    put_error(out, &refusal.error);
}

fn put_errors(out: &mut Vec<u8>, errors: &[(u32, ApiError)]) {
    out.extend_from_slice(&len_u32(errors.len()).to_le_bytes());
    for (at, error) in errors {
        out.extend_from_slice(&at.to_le_bytes());
        put_error(out, error);
    }
}

fn put_error(out: &mut Vec<u8>, error: &ApiError) {
    out.extend_from_slice(&error.code.to_le_bytes());
    out.extend_from_slice(&error.err_code.to_le_bytes());
    put_blob(out, error.description.as_bytes());
}

fn read_error(reader: &mut Reader<'_>) -> Result<ApiError, CodecError> {
    Ok(ApiError {
        code: reader.u16()?,
        err_code: reader.u16()?,
        description: Cow::Owned(reader.text()?.to_owned()),
    })
}

/// Reads what [`encode_outcomes`] wrote.
pub fn decode_outcomes(bytes: &[u8]) -> Result<Vec<Outcome>, CodecError> {
    let mut reader = Reader::new(bytes);
    let format = reader.u8()?;
    if format != FORMAT {
        return Err(CodecError::UnknownFormat(format));
    }
    let count = reader.count(1)?;
    let mut outcomes = Vec::with_capacity(count);
    let mut before: Option<Arc<str>> = None;
    for _ in 0..count {
        outcomes.push(decode_outcome(&mut reader, &mut before)?);
    }
    reader.finish()?;
    Ok(outcomes)
}

fn decode_outcome(
    reader: &mut Reader<'_>,
    before: &mut Option<Arc<str>>,
) -> Result<Outcome, CodecError> {
    Ok(match reader.u8()? {
        tag @ (kind::PUBLISHED | kind::PUBLISHED_SAME) => {
            if tag == kind::PUBLISHED {
                *before = Some(reader.text()?.into());
            }
            let stream = before.clone().ok_or(CodecError::Malformed)?;
            Outcome::Published {
                stream,
                seq: reader.u64()?,
                duplicate: reader.flag()?,
            }
        }
        kind::DONE => Outcome::Done,
        kind::PURGED => Outcome::Purged {
            count: reader.u64()?,
        },
        kind::CONSUMER_CREATED => Outcome::ConsumerCreated {
            name: reader.text()?.into(),
            num_pending: Some(reader.u64()?).filter(|count| *count != UNCOUNTED),
            created: reader.flag()?,
        },
        kind::REFUSED => {
            let named = reader.flag()?;
            let stream = reader.text()?;
            Outcome::Refused(Refusal {
                stream: named.then(|| stream.into()),
                silent: reader.flag()?,
                error: read_error(reader)?,
            })
        }
        kind::COUNTED => Outcome::Counted {
            stream: reader.text()?.into(),
            seq: reader.u64()?,
            val: reader.text()?.to_owned(),
        },
        kind::BATCHED => Outcome::Batched {
            stream: reader.text()?.into(),
            seq: reader.u64()?,
            batch: reader.text()?.to_owned(),
            count: reader.u64()?,
            val: Some(reader.text()?.to_owned()).filter(|val| !val.is_empty()),
        },
        kind::SERIES => Outcome::Series {
            stream: reader.text()?.into(),
            seq: reader.u64()?,
            refused: {
                let count = reader.count(4 + 2 + 2 + 4)?;
                (0..count)
                    .map(|_| Ok((reader.u32()?, read_error(reader)?)))
                    .collect::<Result<_, CodecError>>()?
            },
        },
        kind::NO_STREAM => Outcome::NoStream,
        kind::SILENT => Outcome::Silent,
        kind::CHECK_FAILED => Outcome::CheckFailed {
            check: reader.u32()?,
        },
        other => return Err(CodecError::UnknownKind(other)),
    })
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self {
            stream: None,
            silent: false,
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unibus_proto::jetstream::error;

    fn samples() -> Vec<Outcome> {
        let stream: Arc<str> = "S".into();
        vec![
            Outcome::Published {
                stream: stream.clone(),
                seq: 1,
                duplicate: false,
            },
            Outcome::Published {
                stream: stream.clone(),
                seq: 1,
                duplicate: true,
            },
            Outcome::Counted {
                stream: stream.clone(),
                seq: 4,
                val: "-12".into(),
            },
            Outcome::Batched {
                stream: stream.clone(),
                seq: 9,
                batch: "b".into(),
                count: 2,
                val: None,
            },
            Outcome::Series {
                stream: stream.clone(),
                seq: 11,
                refused: vec![(2, error::MAXIMUM_BYTES), (3, error::STREAM_SEALED)],
            },
            Outcome::Done,
            Outcome::Purged { count: 3 },
            Outcome::ConsumerCreated {
                name: "C".into(),
                num_pending: Some(4),
                created: true,
            },
            Outcome::Refused(Refusal {
                stream: Some(stream),
                silent: false,
                error: error::STREAM_SEALED,
            }),
            Outcome::Refused(error::STREAM_NOT_FOUND.into()),
            Outcome::NoStream,
            Outcome::Silent,
            Outcome::CheckFailed { check: 2 },
        ]
    }

    #[test]
    fn outcomes_read_back() {
        let bytes = encode_outcomes(&samples());
        assert_eq!(decode_outcomes(&bytes).unwrap(), samples());
        for cut in 0..bytes.len() {
            assert!(decode_outcomes(&bytes[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn outcome_bytes_are_golden() {
        let bytes = encode_outcomes(&samples()[..2]);
        assert_eq!(
            bytes,
            b"\x01\x02\0\0\0\x01\x01\0\0\0S\x01\0\0\0\0\0\0\0\0\x08\x01\0\0\0\0\0\0\0\x01"
        );
    }
}
