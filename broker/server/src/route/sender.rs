//! The writing side of a route: this node's whole interest, then what waits in the outbound.
//!
//! Owns the order of these, the deadline of writes, and what comes of losses: dropped messages are counted and
//! logged, and interest that had no room is told anew, in parts between what waits. Must never read.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use unibus_proto::route as wire;
use unibus_proto::sublist::Cursor;

use super::Route;
use crate::accepting::Seldom;
use crate::outbound::{Close, poll_work};
use crate::plane::Plane;

/// A write to a peer that makes no progress for this long ends the route.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// Bytes handed to the stream at once, so that a deadline covers a bounded amount.
const WRITE_BYTES: usize = 256 * 1024;

/// Interest is told anew while less of it waits than this, in bytes: changes always find room.
const RENEWAL_BYTES_MAX: usize = 1024 * 1024;

/// Parts of one account's interest told anew between two writes.
const RENEWAL_PARTS: usize = 4;

pub(super) struct Sender<'a, W> {
    route: &'a Route,
    writer: W,
    /// Accounts whose interest the peer has to be told anew.
    debts: Vec<Arc<Plane>>,
    lost: Seldom,
}

impl<'a, W: AsyncWrite + Unpin> Sender<'a, W> {
    pub(super) fn new(route: &'a Route, writer: W) -> Self {
        Self {
            route,
            writer,
            debts: Vec::new(),
            lost: Seldom::default(),
        }
    }

    /// Writes until the route is closed or the stream fails.
    pub(super) async fn run(mut self, planes: Vec<Arc<Plane>>) {
        let result = match self.introduce(planes).await {
            Ok(()) => self.forward().await,
            Err(reason) => Err(reason),
        };
        if let Err(reason) = result {
            self.route.outbound.close_quietly(reason);
        }
    }

    /// The hello and all interest. It overtakes what waits in the outbound: changes come after what they
    /// change, and messages after the inboxes of their answers.
    async fn introduce(&mut self, planes: Vec<Arc<Plane>>) -> Result<(), Close> {
        let mut out = BytesMut::new();
        wire::hello(&mut out, **self.route.shared.node.load());
        for plane in planes {
            let mut cursor = Cursor::default();
            loop {
                let done = plane.table.read().tell_part(&mut cursor, &mut out);
                self.write(&out, |_| ()).await?;
                out.clear();
                if done {
                    break;
                }
            }
        }
        wire::synced(&mut out);
        self.write(&out, |_| ()).await
    }

    async fn forward(&mut self) -> Result<(), Close> {
        let route = self.route;
        loop {
            let in_debt = !self.debts.is_empty();
            std::future::poll_fn(|cx| {
                // Debts are paid once the peer has said what it understands.
                let pays = in_debt && route.outbound.is_wide().is_some();
                if poll_work(&route.outbound, cx) || pays {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
            if route.outbound.is_closed() {
                return Ok(());
            }
            if let Some(mut chunk) = route.outbound.take_chunk() {
                self.write(&chunk, |written| route.outbound.progressed(written))
                    .await?;
                chunk.clear();
                route.outbound.wrote(chunk, 0, Ok(()));
            }
            self.settle()?;
            // What has to be told anew may be nothing but places that nobody is at.
            tokio::task::consume_budget().await;
        }
    }

    async fn write(&mut self, bytes: &[u8], progressed: impl Fn(usize)) -> Result<(), Close> {
        let mut written = 0;
        while written < bytes.len() {
            if self.route.outbound.is_closed() {
                return Err(Close::Gone);
            }
            let end = (written + WRITE_BYTES).min(bytes.len());
            match timeout(WRITE_DEADLINE, self.writer.write(&bytes[written..end])).await {
                Ok(Ok(more)) if more > 0 => {
                    progressed(more);
                    written += more;
                }
                Ok(_) => return Err(Close::Gone),
                Err(_) => return Err(Close::SlowDeadline),
            }
        }
        match timeout(WRITE_DEADLINE, self.writer.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Close::Gone),
            Err(_) => Err(Close::SlowDeadline),
        }
    }

    /// Acts on what had no room.
    fn settle(&mut self) -> Result<(), Close> {
        let losses = self.route.outbound.take_losses();
        self.count_lost(losses.messages);
        if losses.interest {
            self.debts = self.route.shared.planes.all();
        }
        if self.debts.is_empty() {
            return Ok(());
        }
        match self.route.outbound.is_wide() {
            None => return Ok(()),
            // It could not be told what is over.
            Some(false) => return Err(Close::SlowPending),
            Some(true) => {}
        }
        let outbound = &self.route.outbound;
        let mut parts = 0;
        while let Some(plane) = self.debts.last() {
            if parts >= RENEWAL_PARTS || outbound.told() >= RENEWAL_BYTES_MAX {
                break;
            }
            parts += 1;
            if plane.table.read().renew(outbound) {
                self.debts.pop();
            }
        }
        Ok(())
    }

    fn count_lost(&mut self, messages: u64) {
        self.route.count_lost(messages);
        if messages > 0
            && let Some(messages) = self.lost.happened_times(messages)
        {
            let peer = &*self.route.peer.name;
            tracing::warn!(peer, messages, "messages dropped: the peer lags");
        }
    }
}
