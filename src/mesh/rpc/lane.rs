//! The calling side of one class to one peer: a bounded queue, one stream, one writer.
//!
//! A call is queued synchronously, so the order of the calls is the order on the wire. Until a
//! request is taken from the queue the peer cannot have seen it; from then on it may have.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use parking_lot::Mutex;
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::{Notify, oneshot};
use unibus_proto::NodeId;
use unibus_raft::{GroupId, RpcClass, TransportError};

use super::frames::{Batch, FrameError, FrameReader, put_request_head};
use super::{StreamKind, priority};
use crate::mesh::limits::{ORDERED_BATCH_BYTES, ORDERED_CALLS_MAX, ORDERED_QUEUE_BYTES_MAX};
use crate::mesh::shared::CloseCode;

type Reply = oneshot::Sender<Result<Bytes, TransportError>>;

#[derive(Debug)]
struct Queued {
    group: GroupId,
    body: Bytes,
    reply: Reply,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Queued>,
    /// Bytes of bodies in the queue.
    queued_bytes: usize,
    /// Written and unanswered, by correlation id.
    waiting: HashMap<u64, Reply>,
    next_correlation: u64,
    closed: bool,
}

/// One class to one peer, over one connection.
#[derive(Debug)]
pub(crate) struct Lane {
    peer: NodeId,
    class: RpcClass,
    state: Mutex<State>,
    wake: Notify,
}

impl Lane {
    pub(super) fn new(peer: NodeId, class: RpcClass) -> Self {
        Self {
            peer,
            class,
            state: Mutex::new(State::default()),
            wake: Notify::new(),
        }
    }

    pub(super) fn class(&self) -> RpcClass {
        self.class
    }

    /// Queues a request behind all earlier ones; the future is its answer.
    pub(super) fn call(
        &self,
        group: GroupId,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let peer = self.peer;
        let answer = match self.enqueue(group, body) {
            Ok(answer) => answer,
            Err(error) => return ready(Err(error)).boxed(),
        };
        self.wake.notify_one();
        async move {
            answer
                .await
                .unwrap_or_else(|_| Err(TransportError::Lost(peer, "stopped".to_owned())))
        }
        .boxed()
    }

    fn enqueue(
        &self,
        group: GroupId,
        body: Bytes,
    ) -> Result<oneshot::Receiver<Result<Bytes, TransportError>>, TransportError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(TransportError::Unreachable(self.peer));
        }
        let calls = state.queue.len() + state.waiting.len();
        let over = state.queued_bytes.saturating_add(body.len()) > ORDERED_QUEUE_BYTES_MAX;
        // A single request within the body limit always fits an empty queue.
        if calls >= ORDERED_CALLS_MAX || (over && !state.queue.is_empty()) {
            return Err(TransportError::Lost(
                self.peer,
                "overloaded: not sent".to_owned(),
            ));
        }
        let (reply, answer) = oneshot::channel();
        state.queued_bytes += body.len();
        state.queue.push_back(Queued { group, body, reply });
        Ok(answer)
    }

    /// Takes what is queued, up to a batch, and awaits its answers from now on.
    fn take(&self, batch: &mut Batch) {
        let mut state = self.state.lock();
        while batch.bytes() < ORDERED_BATCH_BYTES {
            let Some(Queued { group, body, reply }) = state.queue.pop_front() else {
                return;
            };
            state.queued_bytes -= body.len();
            let correlation = state.next_correlation;
            state.next_correlation += 1;
            state.waiting.insert(correlation, reply);
            batch.head().put_u64_le(correlation);
            put_request_head(batch.head(), group, &body);
            batch.body(body);
        }
    }

    async fn take_some(&self, batch: &mut Batch) {
        loop {
            self.take(batch);
            if !batch.is_empty() {
                return;
            }
            self.wake.notified().await;
        }
    }

    async fn write(&self, mut batch: Batch, mut send: SendStream) -> FrameError {
        loop {
            if let Err(error) = batch.write(&mut send).await {
                return error;
            }
            self.take_some(&mut batch).await;
        }
    }

    async fn read(&self, recv: RecvStream) -> FrameError {
        let mut reader = FrameReader::new(recv);
        loop {
            let (correlation, answer) = match read_answer(&mut reader).await {
                Ok(answer) => answer,
                Err(error) => return error,
            };
            let Some(reply) = self.state.lock().waiting.remove(&correlation) else {
                return FrameError::Malformed("an answer to nothing");
            };
            // A caller that gave up needs no answer.
            let _gone = reply.send(answer.map_err(|text| TransportError::Refused(self.peer, text)));
        }
    }

    /// The connection is gone: what was written is lost, what was not is unreachable.
    pub(super) fn fail_all(&self) {
        let (queue, waiting) = {
            let mut state = self.state.lock();
            state.closed = true;
            state.queued_bytes = 0;
            (
                std::mem::take(&mut state.queue),
                std::mem::take(&mut state.waiting),
            )
        };
        for reply in waiting.into_values() {
            let lost = TransportError::Lost(self.peer, "the connection broke".to_owned());
            let _gone = reply.send(Err(lost));
        }
        for queued in queue {
            let _gone = queued
                .reply
                .send(Err(TransportError::Unreachable(self.peer)));
        }
    }
}

async fn read_answer(reader: &mut FrameReader) -> Result<(u64, super::frames::Answer), FrameError> {
    let correlation = reader.correlation().await?;
    let correlation = correlation.ok_or_else(|| FrameError::lost("the peer ended the stream"))?;
    Ok((correlation, reader.answer().await?))
}

/// Opens the lane's stream at its first request and works it until the connection ends.
pub(crate) async fn run_lane(lane: Arc<Lane>, connection: Connection) {
    let mut batch = Batch::default();
    let first = async {
        lane.take_some(&mut batch).await;
        connection.open_bi().await
    };
    let opened = tokio::select! {
        opened = first => opened,
        error = connection.closed() => Err(error),
    };
    let Ok((send, recv)) = opened else {
        lane.fail_all();
        return;
    };
    // A stream that is closed already says so at the first write.
    let _closed = send.set_priority(priority(lane.class));
    let mut opening = Batch::default();
    opening
        .head()
        .put_slice(&[StreamKind::Ordered as u8, lane.class as u8]);
    let mut send = send;
    let error = match opening.write(&mut send).await {
        Ok(()) => tokio::select! {
            error = lane.write(batch, send) => error,
            error = lane.read(recv) => error,
        },
        Err(error) => error,
    };
    connection.close(CloseCode::Protocol.wire(), error.to_string().as_bytes());
    lane.fail_all();
}
