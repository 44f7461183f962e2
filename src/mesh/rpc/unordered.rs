//! Calls of unordered classes: each on a stream of its own, so that none waits for another.

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use quinn::VarInt;
use unibus_raft::{GroupId, RpcClass, TransportError};

use super::frames::{Batch, FrameReader, put_request_head};
use super::{StreamKind, priority};
use crate::mesh::peer::Peer;

/// Code with which an abandoned request is cut off.
const ABANDONED: VarInt = VarInt::from_u32(0);

/// Cuts the request off if the caller gives up while it is being written: half a request must not
/// look like a whole one.
struct Cut {
    send: quinn::SendStream,
    done: bool,
}

impl Drop for Cut {
    fn drop(&mut self) {
        if !self.done {
            // A stream that is closed already needs no cut.
            let _closed = self.send.reset(ABANDONED);
        }
    }
}

pub(super) async fn call(
    peer: Arc<Peer>,
    class: RpcClass,
    group: GroupId,
    request: Bytes,
) -> Result<Bytes, TransportError> {
    let id = peer.id();
    let unreachable = || TransportError::Unreachable(id);
    let _slot = peer
        .calls()
        .calling(class)
        .acquire()
        .await
        .map_err(|_| unreachable())?;
    let (send, recv) = peer
        .connection()
        .open_bi()
        .await
        .map_err(|_| unreachable())?;
    send.set_priority(priority(class))
        .map_err(|_| unreachable())?;
    let mut cut = Cut { send, done: false };
    let lost = |e: &dyn std::fmt::Display| TransportError::Lost(id, e.to_string());
    let mut batch = Batch::default();
    batch
        .head()
        .put_slice(&[StreamKind::Unordered as u8, class as u8]);
    put_request_head(batch.head(), group, &request);
    batch.body(request);
    batch.write(&mut cut.send).await.map_err(|e| lost(&e))?;
    cut.done = cut.send.finish().is_ok();
    let answer = FrameReader::for_one(recv)
        .answer()
        .await
        .map_err(|e| lost(&e))?;
    answer.map_err(|text| TransportError::Refused(id, text))
}
