//! The serving side: hands requests of one peer to the node's handler and sends its answers back.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;

use bytes::{BufMut, Bytes};
use futures::FutureExt;
use futures::future::BoxFuture;
use quinn::{RecvStream, SendStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use unibus_raft::{GroupId, RpcClass};

use super::frames::{Answer, Batch, FrameError, FrameReader, put_answer_head};
use super::{SHARED, StreamKind, priority};
use crate::mesh::limits::{ORDERED_BATCH_BYTES, ORDERED_SERVED_MAX};
use crate::mesh::peer::Peer;
use crate::mesh::shared::{CloseCode, Shared};

/// Accepts the peer's RPC streams until the connection ends. The number of streams is bounded by
/// the transport configuration.
pub(crate) async fn serve(shared: &Arc<Shared>, peer: &Arc<Peer>) -> FrameError {
    loop {
        let (send, recv) = match peer.connection().accept_bi().await {
            Ok(streams) => streams,
            Err(error) => return FrameError::lost(error),
        };
        let (shared, peer) = (Arc::clone(shared), Arc::clone(peer));
        // Not tracked: a handler that takes its time must not hold up a shutdown.
        tokio::spawn(async move {
            if let Err(FrameError::Malformed(what)) = serve_stream(&shared, &peer, send, recv).await
            {
                tracing::warn!(id = %peer.id(), name = peer.name(), what, "bad RPC from peer");
                peer.close(CloseCode::Protocol, what);
            }
        });
    }
}

async fn serve_stream(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    send: SendStream,
    recv: RecvStream,
) -> Result<(), FrameError> {
    let mut reader = FrameReader::for_one(recv);
    let kind = reader.byte().await?;
    let class = reader.class().await?;
    // A stream that is closed already says so at the first write.
    let _closed = send.set_priority(priority(class));
    if kind == StreamKind::Unordered as u8 && !class.is_ordered() {
        serve_one(shared, peer, class, send, reader).await
    } else if kind == StreamKind::Ordered as u8 && (class.is_ordered() || class == SHARED) {
        reader.expect_many();
        serve_lane(shared, peer, class, send, reader).await
    } else {
        Err(FrameError::Malformed("stream kind and class do not fit"))
    }
}

/// Starts the handler; everything whose order matters has happened when this returns.
fn handle(
    shared: &Shared,
    peer: &Peer,
    class: RpcClass,
    group: GroupId,
    request: Bytes,
) -> BoxFuture<'static, Answer> {
    let handler = shared.handler.read().as_ref().map(Arc::clone);
    let Some(handler) = handler else {
        return async { Err("not ready".to_owned()) }.boxed();
    };
    let answer = handler.handle(peer.id(), class, group, request);
    // A handler that panics must not leave the caller without an answer.
    AssertUnwindSafe(answer)
        .catch_unwind()
        .map(|answer| answer.unwrap_or_else(|_| Err("the handler failed".to_owned())))
        .boxed()
}

/// One request on its own stream.
async fn serve_one(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    class: RpcClass,
    mut send: SendStream,
    mut reader: FrameReader,
) -> Result<(), FrameError> {
    let (group, request) = reader.request().await?;
    let slot = Arc::clone(peer.calls().serving(class)).try_acquire_owned();
    let Ok(_slot) = slot else {
        return answer_one(&mut send, Err("overloaded".to_owned())).await;
    };
    let mut answer = handle(shared, peer, class, group, request);
    let answered = tokio::select! {
        answer = &mut answer => Some(answer),
        _ = send.stopped() => None,
    };
    match answered {
        Some(answer) => answer_one(&mut send, answer).await,
        None => {
            // The caller gave up: its stream is freed for others, the work is finished all the
            // same, because the handler need not be safe to cancel.
            drop((send, reader));
            let _unwanted = answer.await;
            Ok(())
        }
    }
}

async fn answer_one(send: &mut SendStream, answer: Answer) -> Result<(), FrameError> {
    let mut batch = Batch::default();
    let body = put_answer_head(batch.head(), answer);
    batch.body(body);
    batch.write(send).await?;
    send.finish().map_err(FrameError::lost)
}

type Answered = (u64, Answer, OwnedSemaphorePermit);

/// The stream of many requests: handlers are called in the order of arrival, run side by side.
async fn serve_lane(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    class: RpcClass,
    send: SendStream,
    reader: FrameReader,
) -> Result<(), FrameError> {
    // As many answers as slots: a handler never waits to deliver.
    let (answers, answered) = mpsc::channel(ORDERED_SERVED_MAX);
    tokio::select! {
        result = read_lane(shared, peer, class, reader, answers) => result,
        error = write_lane(send, answered) => Err(error),
    }
}

async fn read_lane(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    class: RpcClass,
    mut reader: FrameReader,
    answers: mpsc::Sender<Answered>,
) -> Result<(), FrameError> {
    let slots = Arc::new(Semaphore::new(ORDERED_SERVED_MAX));
    while let Some(correlation) = reader.correlation().await? {
        let (group, request) = reader.request().await?;
        let slot = Arc::clone(&slots)
            .acquire_owned()
            .await
            .map_err(FrameError::lost)?;
        let mut answer = handle(shared, peer, class, group, request);
        // What is answered without waiting needs no task of its own.
        if let Poll::Ready(answer) = futures::poll!(&mut answer) {
            let _gone = answers.send((correlation, answer, slot)).await;
            continue;
        }
        let answers = answers.clone();
        tokio::spawn(async move {
            let answer = answer.await;
            // If the connection is gone there is nobody to tell.
            let _gone = answers.send((correlation, answer, slot)).await;
        });
    }
    Err(FrameError::lost("the peer ended the stream"))
}

async fn write_lane(mut send: SendStream, mut answered: mpsc::Receiver<Answered>) -> FrameError {
    let mut batch = Batch::default();
    loop {
        let Some(first) = answered.recv().await else {
            return FrameError::lost("stopped");
        };
        put_answered(&mut batch, first);
        while batch.bytes() < ORDERED_BATCH_BYTES {
            let Ok(next) = answered.try_recv() else {
                break;
            };
            put_answered(&mut batch, next);
        }
        if let Err(error) = batch.write(&mut send).await {
            return error;
        }
    }
}

fn put_answered(batch: &mut Batch, (correlation, answer, _slot): Answered) {
    batch.head().put_u64_le(correlation);
    let body = put_answer_head(batch.head(), answer);
    batch.body(body);
}
