//! One route: interest and messages to and from a peer over one ordered byte stream.
//!
//! Owns the stream and its end. Messages that come in go to local subscribers only, so none travels
//! two hops. Must never know QUIC, nor reconnect: the mesh does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use unibus_proto::NodeId;
use unibus_proto::route::{self as wire, RouteDecodeError, RouteLimits, RouteOp};

use crate::burst::Burst;
use crate::fanout::{Fanout, Message, Stalling};
use crate::outbound::{Close, Outbound, poll_work};
use crate::plane::Plane;
use crate::shared::{NODE_UNKNOWN, Shared};
use crate::stats::count;

/// Bytes one read takes at most when no larger frame is expected.
const READ_BYTES: usize = 128 * 1024;

/// Bytes of subjects, replies and queue names a frame may have beside its payload.
const FRAME_OVERHEAD_BYTES: usize = 512 * 1024;

/// A write to a peer that makes no progress for this long ends the route.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// Bytes handed to the stream at once, so that a deadline covers a bounded amount.
const WRITE_BYTES: usize = 256 * 1024;

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
    let outbound = Arc::new(Outbound::new(
        id,
        shared.limits().route_pending_bytes_max,
        None,
    ));
    shared.planes.attach(this, peer.id, &outbound);
    tokio::spawn(async move {
        let route = Route {
            shared: Arc::clone(&shared),
            peer,
            outbound,
        };
        tokio::select! {
            () = route.write(writer) => {}
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
    /// Writes what is pending, until the route is closed or the stream fails.
    async fn write<W: AsyncWrite + Unpin>(&self, mut writer: W) {
        loop {
            std::future::poll_fn(|cx| {
                if poll_work(&self.outbound, cx) {
                    std::task::Poll::Ready(())
                } else {
                    std::task::Poll::Pending
                }
            })
            .await;
            if self.outbound.is_closed() {
                return;
            }
            let Some(mut chunk) = self.outbound.take_chunk() else {
                continue;
            };
            let before = chunk.len();
            let mut written = 0;
            while written < before {
                let end = (written + WRITE_BYTES).min(before);
                match timeout(WRITE_DEADLINE, writer.write_all(&chunk[written..end])).await {
                    Ok(Ok(())) => {
                        self.outbound.progressed(end - written);
                        written = end;
                    }
                    Ok(Err(_)) => return self.outbound.close_quietly(Close::Gone),
                    Err(_) => return self.outbound.close_quietly(Close::SlowDeadline),
                }
            }
            chunk.clear();
            self.outbound.wrote(chunk, 0, Ok(()));
            if !matches!(timeout(WRITE_DEADLINE, writer.flush()).await, Ok(Ok(()))) {
                return self.outbound.close_quietly(Close::Gone);
            }
        }
    }

    /// Reads until the stream ends or the peer breaks the protocol.
    async fn read<R: AsyncRead + Unpin>(&self, mut reader: R) {
        let payload_max = self.shared.limits().payload_bytes_max;
        let limits = RouteLimits {
            frame_bytes_max: payload_max + FRAME_OVERHEAD_BYTES,
        };
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
                    if let Some(stalling) = lanes.take_stalling() {
                        stalling.wait(self.shared.limits().stall).await;
                    }
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
                Ok(Some((RouteOp::Hello { node }, _))) if !self.is_peer(node) => {
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
            RouteOp::Ping => {
                self.outbound.append_with(wire::pong);
                self.outbound.wake();
            }
            RouteOp::Hello { node } => {
                tracing::debug!(peer = %self.peer.name, %node, "route opened");
            }
            RouteOp::Synced => {
                tracing::debug!(peer = %self.peer.name, "interest of the peer is complete");
            }
            RouteOp::Pong | RouteOp::Account { .. } => {}
        }
    }

    fn end(&self) {
        let reason = self.outbound.close(Close::Gone);
        self.shared.planes.detach(&self.outbound);
        self.outbound.detach();
        if matches!(reason, Close::SlowPending | Close::SlowDeadline) {
            count(&self.shared.counters.slow_routes);
            tracing::warn!(peer = %self.peer.name, ?reason, "route dropped: the peer lags");
        }
        tracing::debug!(peer = %self.peer.name, "route closed");
    }
}
