//! What nodes send to the leader because only it can act: the frames of `RpcClass::Leader`.
//!
//! A frame is a version byte, a kind byte and the body. Encoding and decoding only.

use bytes::{BufMut, Bytes, BytesMut};

/// Version of the frames below.
const VERSION: u8 = 1;
const INPUTS: u8 = 1;
const CONSUMER_INFO: u8 = 2;
const STEP_DOWN: u8 = 3;
const UNPIN: u8 = 4;

/// A message for the leader.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum ToLeader {
    /// What clients say to consumers; answered with a verdict. See [`super::inputs`] for both.
    Inputs { batch: Bytes },
    /// What is known of a consumer, its deliveries included. Answered with the JSON of its info, or
    /// with nothing when there is no such consumer.
    ConsumerInfo { stream: String, consumer: String },
    /// Hands the leadership to another node. Answered when that was tried.
    StepDown,
    /// Takes the pin of a priority group away. Answered with 1, with 0 when there is no such group, and
    /// with nothing when there is no such consumer.
    Unpin {
        stream: String,
        consumer: String,
        group: String,
    },
}

/// A frame is not one of ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("malformed leader frame")]
pub(super) struct MalformedFrame;

impl ToLeader {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        match self {
            Self::Inputs { batch } => {
                out.put_u8(INPUTS);
                out.put_slice(batch);
            }
            Self::ConsumerInfo { stream, consumer } => {
                out.put_u8(CONSUMER_INFO);
                // Names have no dots.
                out.put_slice(stream.as_bytes());
                out.put_u8(b'.');
                out.put_slice(consumer.as_bytes());
            }
            Self::StepDown => out.put_u8(STEP_DOWN),
            Self::Unpin {
                stream,
                consumer,
                group,
            } => {
                out.put_u8(UNPIN);
                out.put_slice(stream.as_bytes());
                out.put_u8(b'.');
                out.put_slice(consumer.as_bytes());
                out.put_u8(b'.');
                out.put_slice(group.as_bytes());
            }
        }
        out.freeze()
    }

    pub(super) fn decode(frame: &Bytes) -> Result<Self, MalformedFrame> {
        let [VERSION, kind, body @ ..] = &frame[..] else {
            return Err(MalformedFrame);
        };
        match *kind {
            INPUTS => Ok(Self::Inputs {
                batch: frame.slice_ref(body),
            }),
            CONSUMER_INFO => {
                let (stream, consumer) = text(body)?.split_once('.').ok_or(MalformedFrame)?;
                Ok(Self::ConsumerInfo {
                    stream: stream.to_owned(),
                    consumer: consumer.to_owned(),
                })
            }
            STEP_DOWN if body.is_empty() => Ok(Self::StepDown),
            UNPIN => {
                let (stream, rest) = text(body)?.split_once('.').ok_or(MalformedFrame)?;
                let (consumer, group) = rest.split_once('.').ok_or(MalformedFrame)?;
                Ok(Self::Unpin {
                    stream: stream.to_owned(),
                    consumer: consumer.to_owned(),
                    group: group.to_owned(),
                })
            }
            _ => Err(MalformedFrame),
        }
    }
}

fn text(body: &[u8]) -> Result<&str, MalformedFrame> {
    std::str::from_utf8(body).map_err(|_| MalformedFrame)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{MalformedFrame, ToLeader};

    #[test]
    fn frames_read_back() {
        let frames = [
            ToLeader::Inputs {
                batch: Bytes::from_static(b"inputs"),
            },
            ToLeader::ConsumerInfo {
                stream: "S".into(),
                consumer: "c".into(),
            },
            ToLeader::StepDown,
            ToLeader::Unpin {
                stream: "S".into(),
                consumer: "c".into(),
                group: "a.b".into(),
            },
        ];
        for frame in frames {
            assert_eq!(ToLeader::decode(&frame.encode()), Ok(frame));
        }
    }

    #[test]
    fn strange_frames_are_refused() {
        for frame in [
            &b""[..],
            b"\x01",
            b"\x02\x01x",
            b"\x01\x09x",
            b"\x01\x02nodot",
        ] {
            let frame = Bytes::copy_from_slice(frame);
            assert_eq!(ToLeader::decode(&frame), Err(MalformedFrame), "{frame:?}");
        }
    }
}
