//! The control stream: small framed messages of the handshake and the status exchange.
//!
//! Frame: length `u32` little-endian (of what follows), kind `u8`, body. Bodies are JSON, so that a
//! later version can add fields, except the proof, which is 32 raw bytes.

use quinn::{Connection, RecvStream, SendStream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use unibus_proto::NodeId;

use super::limits::CONTROL_FRAME_BYTES_MAX;
use super::options::Posture;
use super::refusals::RefusalReason;

/// What a control frame is.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Kind {
    Hello = 1,
    Proof = 2,
    Refused = 3,
    Ready = 4,
    Duplicate = 5,
    Status = 6,
}

impl Kind {
    fn from_wire(byte: u8) -> Option<Self> {
        [
            Self::Hello,
            Self::Proof,
            Self::Refused,
            Self::Ready,
            Self::Duplicate,
            Self::Status,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// How a node presents itself.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol_min: u32,
    pub(crate) protocol_max: u32,
    pub(crate) cluster: String,
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) name: String,
    pub(crate) posture: Posture,
    pub(crate) initialized: bool,
    /// The identity of its cluster, 32 hex digits; absent where there is none, and before version 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cluster_id: Option<String>,
    /// It has a store of a cluster that has no identity yet.
    #[serde(default)]
    pub(crate) unidentified: bool,
}

/// Why the sender gives the receiver no route.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct RefusedFrame {
    pub(crate) reason: RefusalReason,
    pub(crate) detail: String,
}

/// One frame as it came.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) body: Vec<u8>,
}

impl Frame {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ControlError> {
        serde_json::from_slice(&self.body).map_err(|_| ControlError::Malformed("undecodable body"))
    }
}

/// Why the control stream brought no frame.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum ControlError {
    /// The stream or its connection ended.
    #[error("{0}")]
    Lost(String),
    /// The peer broke the protocol.
    #[error("the peer sent a bad control frame: {0}")]
    Malformed(&'static str),
}

/// Both halves of the control stream.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) writer: ControlWriter,
    pub(crate) reader: ControlReader,
}

impl Control {
    pub(crate) async fn open(connection: &Connection) -> Result<Self, ControlError> {
        let streams = connection
            .open_bi()
            .await
            .map_err(|e| ControlError::Lost(e.to_string()))?;
        Ok(Self::over(streams))
    }

    pub(crate) async fn accept(connection: &Connection) -> Result<Self, ControlError> {
        let streams = connection
            .accept_bi()
            .await
            .map_err(|e| ControlError::Lost(e.to_string()))?;
        Ok(Self::over(streams))
    }

    fn over((send, recv): (SendStream, RecvStream)) -> Self {
        // A stream that is closed already says so at the first write.
        let _closed = send.set_priority(super::rpc::CONTROL_PRIORITY);
        Self {
            writer: ControlWriter { send },
            reader: ControlReader { recv },
        }
    }
}

#[derive(Debug)]
pub(crate) struct ControlWriter {
    send: SendStream,
}

impl ControlWriter {
    pub(crate) async fn write(&mut self, kind: Kind, body: &[u8]) -> Result<(), ControlError> {
        let length = u32::try_from(body.len() + 1)
            .map_err(|_| ControlError::Malformed("own frame too large"))?;
        let mut frame = Vec::with_capacity(5 + body.len());
        frame.extend_from_slice(&length.to_le_bytes());
        frame.push(kind as u8);
        frame.extend_from_slice(body);
        self.send
            .write_all(&frame)
            .await
            .map_err(|e| ControlError::Lost(e.to_string()))
    }

    pub(crate) async fn write_json<T: Serialize>(
        &mut self,
        kind: Kind,
        body: &T,
    ) -> Result<(), ControlError> {
        self.write(kind, &encode(body)?).await
    }

    /// Ends the stream and waits until the peer has everything.
    pub(crate) async fn flush_and_end(&mut self) {
        // Errors mean that the peer is gone, which is what comes next anyway.
        let _closed = self.send.finish();
        let _gone = self.send.stopped().await;
    }
}

/// A JSON body.
pub(crate) fn encode<T: Serialize>(body: &T) -> Result<Vec<u8>, ControlError> {
    serde_json::to_vec(body).map_err(|_| ControlError::Malformed("own body not encodable"))
}

#[derive(Debug)]
pub(crate) struct ControlReader {
    recv: RecvStream,
}

impl ControlReader {
    /// Not cancel-safe: a dropped call loses what it has read.
    pub(crate) async fn read(&mut self) -> Result<Frame, ControlError> {
        let lost = |e: quinn::ReadExactError| ControlError::Lost(e.to_string());
        let mut head = [0_u8; 5];
        self.recv.read_exact(&mut head).await.map_err(lost)?;
        let [a, b, c, d, kind] = head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length == 0 || length > CONTROL_FRAME_BYTES_MAX {
            return Err(ControlError::Malformed("length out of bounds"));
        }
        let kind = Kind::from_wire(kind).ok_or(ControlError::Malformed("unknown kind"))?;
        let mut body = vec![0_u8; length - 1];
        self.recv.read_exact(&mut body).await.map_err(lost)?;
        Ok(Frame { kind, body })
    }
}
