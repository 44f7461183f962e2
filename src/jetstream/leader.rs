//! What nodes send to the leader because only it can act: the frames of `RpcClass::Leader`.
//!
//! A frame is a version byte, a kind byte and the body. Encoding and decoding only.

use bytes::{BufMut, Bytes, BytesMut};

/// Version of the frames below.
const VERSION: u8 = 1;
const FLOW_REPLY: u8 = 1;
const CONSUMER_INFO: u8 = 2;

/// A message for the leader.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum ToLeader {
    /// A client answered a flow-control request. The subject names the consumer and the request.
    FlowReply { subject: Bytes },
    /// What is known of a consumer, its deliveries included. Answered with the JSON of its info, or
    /// with nothing when there is no such consumer.
    ConsumerInfo { stream: String, consumer: String },
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
            Self::FlowReply { subject } => {
                out.put_u8(FLOW_REPLY);
                out.put_slice(subject);
            }
            Self::ConsumerInfo { stream, consumer } => {
                out.put_u8(CONSUMER_INFO);
                // Names have no dots.
                out.put_slice(stream.as_bytes());
                out.put_u8(b'.');
                out.put_slice(consumer.as_bytes());
            }
        }
        out.freeze()
    }

    pub(super) fn decode(frame: &Bytes) -> Result<Self, MalformedFrame> {
        let [VERSION, kind, body @ ..] = &frame[..] else {
            return Err(MalformedFrame);
        };
        match *kind {
            FLOW_REPLY => Ok(Self::FlowReply {
                subject: frame.slice_ref(body),
            }),
            CONSUMER_INFO => {
                let text = std::str::from_utf8(body).map_err(|_| MalformedFrame)?;
                let (stream, consumer) = text.split_once('.').ok_or(MalformedFrame)?;
                Ok(Self::ConsumerInfo {
                    stream: stream.to_owned(),
                    consumer: consumer.to_owned(),
                })
            }
            _ => Err(MalformedFrame),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{MalformedFrame, ToLeader};

    #[test]
    fn frames_read_back() {
        let frames = [
            ToLeader::FlowReply {
                subject: Bytes::from_static(b"$JS.FC.S.c.AB12"),
            },
            ToLeader::ConsumerInfo {
                stream: "S".into(),
                consumer: "c".into(),
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
