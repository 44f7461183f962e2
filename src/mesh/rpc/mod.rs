//! Raft RPCs over a peer's connection.
//!
//! Unordered classes: one stream per call. Ordered classes, and [`SHARED`] ones: one long-lived stream per
//! class with correlation ids; requests are written in the order of the calls, answers come back in any order.
//! Every stream starts with its kind byte; integers are little-endian.

mod frames;
mod lane;
mod serve;
mod unordered;

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use tokio::sync::Semaphore;
use unibus_proto::NodeId;
use unibus_raft::{GroupId, RpcClass, TransportError};

use super::limits::{RPC_BODY_BYTES_MAX, UNORDERED_CALLS_MAX, UNORDERED_SERVED_MAX};
use super::shared::Shared;

pub(crate) use lane::{Lane, run_lane};
pub(crate) use serve::serve;

/// The control stream is tiny and says who is alive.
pub(crate) const CONTROL_PRIORITY: i32 = 40;
/// The broker's messages: above snapshots, below everything that consensus waits for.
pub(crate) const MESSAGES_PRIORITY: i32 = 10;

/// The priority of a class: quinn sends from the highest first.
fn priority(class: RpcClass) -> i32 {
    match class {
        RpcClass::Vote => 30,
        RpcClass::Append
        | RpcClass::Propose
        | RpcClass::Read
        | RpcClass::Barrier
        | RpcClass::Join
        | RpcClass::Leader => 20,
        // Documents can be large and nobody's work waits for them.
        RpcClass::System => 5,
        RpcClass::Snapshot => 0,
    }
}

/// A class whose order does not matter and whose calls are many and tiny: between nodes that both speak
/// [`SHARED_FROM`] they go on one stream, as those of ordered classes do.
const SHARED: RpcClass = RpcClass::Read;
/// The first protocol version of that.
const SHARED_FROM: u32 = 2;

/// The first byte of every stream but the control stream.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum StreamKind {
    Messages = 1,
    Unordered = 2,
    Ordered = 3,
}

/// The calls to and from one peer.
#[derive(Debug)]
pub(crate) struct Calls {
    /// Per class: slots for calls to the peer.
    calling: [Semaphore; RpcClass::ALL.len()],
    /// Per class: slots for handlers that serve the peer.
    serving: [Arc<Semaphore>; RpcClass::ALL.len()],
    lanes: Vec<Arc<Lane>>,
}

impl Calls {
    /// With the highest protocol version that both sides speak.
    pub(crate) fn new(peer: NodeId, version: u32) -> Self {
        let in_lanes = RpcClass::ALL
            .into_iter()
            .filter(|class| class.is_ordered() || (*class == SHARED && version >= SHARED_FROM));
        Self {
            calling: RpcClass::ALL.map(|_| Semaphore::new(UNORDERED_CALLS_MAX)),
            serving: RpcClass::ALL.map(|_| Arc::new(Semaphore::new(UNORDERED_SERVED_MAX))),
            lanes: in_lanes
                .map(|class| Arc::new(Lane::new(peer, class)))
                .collect(),
        }
    }

    pub(crate) fn lanes(&self) -> &[Arc<Lane>] {
        &self.lanes
    }

    /// The connection is gone: nothing in flight will be answered.
    pub(crate) fn fail_all(&self) {
        for lane in &self.lanes {
            lane.fail_all();
        }
    }

    fn calling(&self, class: RpcClass) -> &Semaphore {
        // A class's wire number is its index in ALL.
        &self.calling[class as usize]
    }

    fn serving(&self, class: RpcClass) -> &Arc<Semaphore> {
        &self.serving[class as usize]
    }
}

/// [`unibus_raft::Transport::call`]: for ordered classes the request is queued before this returns.
pub(crate) fn call(
    shared: &Shared,
    target: NodeId,
    class: RpcClass,
    group: GroupId,
    request: Bytes,
) -> BoxFuture<'static, Result<Bytes, TransportError>> {
    let Some(peer) = shared.registry.find(target) else {
        return ready(Err(TransportError::Unreachable(target))).boxed();
    };
    if request.len() > RPC_BODY_BYTES_MAX {
        let text = format!(
            "request of {} bytes is over {RPC_BODY_BYTES_MAX}",
            request.len()
        );
        return ready(Err(TransportError::Refused(target, text))).boxed();
    }
    match peer
        .calls()
        .lanes()
        .iter()
        .find(|lane| lane.class() == class)
    {
        Some(lane) => lane.call(group, request),
        None => unordered::call(peer, class, group, request).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use unibus_proto::NodeId;
    use unibus_raft::RpcClass;

    use super::Calls;

    #[test]
    fn questions_for_a_read_index_share_a_stream_where_both_sides_know_how() {
        let lanes = |version| {
            let calls = Calls::new(NodeId(2), version);
            calls
                .lanes()
                .iter()
                .map(|lane| lane.class())
                .collect::<Vec<_>>()
        };
        assert_eq!(lanes(1), [RpcClass::Propose, RpcClass::Leader]);
        assert_eq!(
            lanes(2),
            [RpcClass::Propose, RpcClass::Read, RpcClass::Leader]
        );
    }
}
