//! One route: interest and messages to and from a peer over one ordered byte stream.
//!
//! Owns the stream and its end. Messages that come in go to local subscribers only, so none travels
//! two hops. Must never know QUIC, nor reconnect: the mesh does.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::task::JoinHandle;
use unibus_proto::NodeId;
use unibus_proto::route::{self as wire, RouteDecodeError, RouteLimits, RouteOp};

use crate::burst::Burst;
use crate::fanout::{Fanout, Message, Stalling};
use crate::outbound::{Close, Outbound};
use crate::plane::Plane;
use crate::shared::{NODE_UNKNOWN, Shared};
use crate::stats::count;

mod sender;

use sender::Sender;

/// Bytes one read takes at most when no larger frame is expected.
const READ_BYTES: usize = 128 * 1024;

/// A read buffer above this capacity, in bytes, is freed once it is empty.
const READ_BYTES_KEPT: usize = 4 * 1024 * 1024;

/// The node at the other end of a route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Its identity, as the mesh has authenticated it.
    pub id: NodeId,
    /// Its name, for logs.
    pub name: String,
}

/// The task of a route. It ends when the stream does, or the peer breaks the protocol or lags.
pub type RouteTask = JoinHandle<()>;

pub(crate) fn attach<R, W>(shared: Arc<Shared>, peer: Peer, reader: R, writer: W) -> RouteTask
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let this = **shared.node.load();
    if this == peer.id && this != NODE_UNKNOWN {
        tracing::error!(peer = %peer.name, "route to this node itself refused");
        return tokio::spawn(std::future::ready(()));
    }
    let id = shared.next_id();
    let outbound = Arc::new(Outbound::for_peer(id, &shared.limits()));
    let planes = shared.planes.attach(peer.id, &outbound);
    tokio::spawn(async move {
        let route = Route {
            shared: Arc::clone(&shared),
            peer,
            outbound,
        };
        tokio::select! {
            () = Sender::new(&route, writer).run(planes) => {}
            () = route.read(reader) => {}
        }
        route.end();
    })
}

/// Why what a peer sent ends its route.
#[derive(Debug, Error)]
enum Broken {
    #[error(transparent)]
    Frame(RouteDecodeError),
    /// The stream leads elsewhere than the mesh authenticated.
    #[error("the other end says that it is node {0}")]
    OtherNode(NodeId),
    /// An account that this node can't have.
    #[error("account {0:?} has no valid name, or this node has too many accounts")]
    Account(String),
}

/// The delivery engine for one account's frames.
struct Lane {
    plane: Arc<Plane>,
    fanout: Fanout,
}

struct Lanes {
    global: Lane,
    named: HashMap<Box<[u8]>, Lane>,
}

impl Lanes {
    fn new(shared: &Shared) -> Self {
        Self {
            global: Lane::new(Arc::clone(&shared.planes.global)),
            named: HashMap::new(),
        }
    }

    /// The lane of an account other than `$G`.
    fn of(&mut self, name: &[u8], shared: &Shared) -> Result<&mut Lane, Broken> {
        if !self.named.contains_key(name) {
            let refused = || Broken::Account(String::from_utf8_lossy(name).into_owned());
            let text = std::str::from_utf8(name).map_err(|_| refused())?;
            let plane = shared.planes.of(Some(text)).ok_or_else(refused)?;
            if plane.account.is_none() {
                return Err(refused());
            }
            self.named.insert(name.into(), Lane::new(plane));
        }
        self.named
            .get_mut(name)
            .ok_or_else(|| Broken::Account(String::from_utf8_lossy(name).into_owned()))
    }

    fn take_stalling(&mut self) -> Option<Stalling> {
        let lanes = std::iter::once(&mut self.global).chain(self.named.values_mut());
        lanes
            .filter_map(|lane| lane.fanout.take_stalling())
            .max_by_key(|stalling| stalling.pending)
    }
}

impl Lane {
    fn new(plane: Arc<Plane>) -> Self {
        Self {
            plane,
            fanout: Fanout::new(),
        }
    }
}

struct Route {
    shared: Arc<Shared>,
    peer: Peer,
    outbound: Arc<Outbound>,
}

impl Route {
    /// Reads until the stream ends or the peer breaks the protocol.
    async fn read<R: AsyncRead + Unpin>(&self, mut reader: R) {
        // Not what clients may send here: peers' limits may be others, and change at any time.
        let limits = RouteLimits::default();
        let mut lanes = Lanes::new(&self.shared);
        let mut buffer = BytesMut::new();
        loop {
            let wanted = wire::frame_bytes(&buffer)
                .unwrap_or(0)
                .min(limits.frame_bytes_max);
            buffer.reserve(wanted.saturating_sub(buffer.len()).max(READ_BYTES));
            match reader.read_buf(&mut buffer).await {
                Ok(read) if read > 0 => {}
                Ok(_) | Err(_) => return,
            }
            match self.act(&buffer, &limits, &mut lanes) {
                Ok(consumed) => {
                    buffer.advance(consumed);
                    if buffer.is_empty() && buffer.capacity() > READ_BYTES_KEPT {
                        buffer = BytesMut::new();
                    }
                    if let Some(stalling) = lanes.take_stalling() {
                        stalling.wait(self.shared.limits().stall).await;
                    }
                    // The writing side is part of the same task, and there may always be more to read.
                    tokio::task::consume_budget().await;
                }
                Err(error) => {
                    tracing::warn!(peer = %self.peer.name, %error, "route protocol broken");
                    return;
                }
            }
        }
    }

    /// Whether the other end may call itself `node`.
    fn is_peer(&self, node: NodeId) -> bool {
        node == self.peer.id || node == NODE_UNKNOWN
    }

    /// Acts on the whole frames in `data`: one burst for each run of frames of one account.
    fn act(&self, data: &[u8], limits: &RouteLimits, lanes: &mut Lanes) -> Result<usize, Broken> {
        let mut consumed = 0;
        loop {
            let before = consumed;
            let lane = match wire::decode(&data[consumed..], limits).map_err(Broken::Frame)? {
                Some((RouteOp::Account { name, .. }, _)) => lanes.of(name, &self.shared)?,
                Some(_) => &mut lanes.global,
                None => return Ok(consumed),
            };
            self.burst(data, limits, lane, &mut consumed)?;
            debug_assert!(consumed > before, "a lane takes its first frame");
        }
    }

    /// One burst: up to the first frame of another account.
    fn burst(
        &self,
        data: &[u8],
        limits: &RouteLimits,
        lane: &mut Lane,
        consumed: &mut usize,
    ) -> Result<(), Broken> {
        let Lane { plane, fanout } = lane;
        let own = plane.account.as_deref().map(str::as_bytes);
        let mut burst = Burst::new(&self.shared, plane);
        let result = loop {
            match wire::decode(&data[*consumed..], limits) {
                Ok(Some((RouteOp::Hello { node, .. }, _))) if !self.is_peer(node) => {
                    break Err(Broken::OtherNode(node));
                }
                Ok(Some((RouteOp::Account { name, frame }, used))) if own == Some(name) => {
                    *consumed += used;
                    match wire::decode(frame, limits) {
                        Ok(Some((op, _))) => self.handle(op, &mut burst, fanout),
                        Ok(None) => {}
                        Err(error) => break Err(Broken::Frame(error)),
                    }
                }
                Ok(Some((RouteOp::Account { .. }, _))) => break Ok(()),
                Ok(Some((op, used))) if own.is_none() => {
                    *consumed += used;
                    self.handle(op, &mut burst, fanout);
                }
                Ok(_) => break Ok(()),
                Err(error) => break Err(Broken::Frame(error)),
            }
        };
        burst.finish(fanout);
        result
    }

    fn handle(&self, op: RouteOp<'_>, burst: &mut Burst<'_>, fanout: &mut Fanout) {
        match op {
            RouteOp::Message(message) => {
                let (table, services) = burst.tables(fanout);
                let queues = message.queues;
                let message = Message {
                    subject: message.subject,
                    shown: message.shown,
                    reply: message.reply,
                    header_len: message.header_len,
                    data: message.data,
                };
                fanout.publish_routed(table, services, &message, queues.iter());
                if fanout.is_full() {
                    burst.release(fanout);
                    fanout.flush();
                }
            }
            RouteOp::Interest(change) => {
                burst.change(fanout, |table| table.hear(&self.outbound, change));
            }
            RouteOp::Renewal => {
                burst.change(fanout, |table| table.hear_renewal(&self.outbound));
            }
            RouteOp::Renewed => {
                burst.change(fanout, |table| table.hear_renewed(&self.outbound));
            }
            RouteOp::Ping => {
                self.outbound.append_with(wire::pong);
                self.outbound.wake();
            }
            RouteOp::Hello { node, revision } => {
                self.outbound.hear_revision(revision);
                tracing::debug!(peer = %self.peer.name, %node, revision, "route opened");
            }
            RouteOp::Synced => {
                tracing::debug!(peer = %self.peer.name, "interest of the peer is complete");
            }
            RouteOp::Pong | RouteOp::Account { .. } => {}
        }
    }

    fn count_lost(&self, messages: u64) {
        let counter = &self.shared.counters.route_lost_msgs;
        counter.fetch_add(messages, Ordering::Relaxed);
    }

    fn end(&self) {
        let reason = self.outbound.close(Close::Gone);
        self.count_lost(self.outbound.take_losses().messages);
        self.shared.planes.detach(&self.outbound);
        self.outbound.detach();
        if matches!(reason, Close::SlowPending | Close::SlowDeadline) {
            count(&self.shared.counters.slow_routes);
            tracing::warn!(peer = %self.peer.name, ?reason, "route dropped: the peer lags");
        }
        tracing::debug!(peer = %self.peer.name, "route closed");
    }
}
