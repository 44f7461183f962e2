//! What this node's clients say to consumers: acknowledgements, pull requests and flow control
//! answers are taken from the broker in the order of each connection and handed to the engine of the
//! leader in batches, which is this node or a peer.
//!
//! Owns the queue, the batches that are on their way, and the memory of pull requests that a leader
//! was given: when it is gone they are answered here. It never looks at a stream's messages and never
//! decides what an acknowledgement means. `forward` is the task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;
use unibus_broker::{Inbound, Service};
use unibus_proto::jetstream::ack::AckSubject;

use super::api::may_be_answered;
use super::core::Core;
use super::flow;
use super::inputs::{self, InputKind};
use super::internal;

/// Connections wait before their next read while more bytes than this are queued.
const QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Above this many bytes inputs are dropped: only while there is no leader, when waiting for room
/// would stall whole connections. Acknowledgements that are lost mean redeliveries.
const QUEUE_BYTES_HARD_MAX: usize = 2 * QUEUE_BYTES_MAX;
/// One batch on its way takes inputs up to this many bytes.
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// A longer body is no acknowledgement and no pull request.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The queue of what this node's clients say to consumers.
#[derive(Debug, Default)]
pub(super) struct Inlet {
    queue: Mutex<BytesMut>,
    /// The queue's bytes, so that `room` takes no lock.
    queued: AtomicUsize,
    /// There is a leader to send to.
    flowing: AtomicBool,
    pub(super) wake: Notify,
    drained: Notify,
}

impl Inlet {
    /// Queues one input. False: it can't be one, or there is no room.
    pub(super) fn push(&self, kind: InputKind, m: &Inbound<'_>) -> bool {
        // Answers to flow control say in their headers what they acknowledge, and have no payload.
        let body = match kind {
            InputKind::Flow => m.data.get(..m.header_len),
            InputKind::Ack | InputKind::Pull => m.data.get(m.header_len..),
        };
        let body = body.unwrap_or_default();
        let queued = self.queued.load(Ordering::Relaxed);
        if body.len() > BODY_BYTES_MAX || queued > QUEUE_BYTES_HARD_MAX {
            return false;
        }
        let was_empty = {
            let mut queue = self.queue.lock();
            let was_empty = queue.is_empty();
            let reply = m.reply.unwrap_or_default();
            if inputs::put(&mut queue, kind, m.subject, reply, body).is_err() {
                return false;
            }
            self.queued.store(queue.len(), Ordering::Relaxed);
            was_empty
        };
        if was_empty {
            self.wake.notify_one();
        }
        true
    }

    /// `Some`: too much is queued; resolves when there is room again.
    pub(super) fn room(core: &Arc<Core>) -> Option<BoxFuture<'static, ()>> {
        if !core.inlet.is_full() {
            return None;
        }
        let core = Arc::clone(core);
        Some(Box::pin(async move {
            loop {
                let drained = core.inlet.drained.notified();
                tokio::pin!(drained);
                // Registered before the check: a drain in between is not missed.
                drained.as_mut().enable();
                if !core.inlet.is_full() {
                    return;
                }
                drained.await;
            }
        }))
    }

    /// Whether the queue moves: without a leader nobody waits for it.
    pub(super) fn set_flowing(&self, flowing: bool) {
        if self.flowing.swap(flowing, Ordering::AcqRel) && !flowing {
            self.drained.notify_waiters();
        }
    }

    /// Takes the next batch, whole inputs only.
    pub(super) fn take(&self) -> Option<Bytes> {
        let mut queue = self.queue.lock();
        if queue.is_empty() {
            return None;
        }
        let len = inputs::whole_prefix(&queue, BATCH_BYTES_MAX);
        let batch = queue.split_to(len).freeze();
        self.queued.store(queue.len(), Ordering::Relaxed);
        drop(queue);
        self.drained.notify_waiters();
        Some(batch)
    }

    fn is_full(&self) -> bool {
        self.flowing.load(Ordering::Acquire)
            && self.queued.load(Ordering::Relaxed) > QUEUE_BYTES_MAX
    }
}

/// Takes `$JS.ACK.>` and `$JS.FC.>`.
#[derive(Debug)]
pub(super) struct Acknowledgements {
    core: Arc<Core>,
}

impl Acknowledgements {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// The kind of an input for a consumer that may be there.
    fn kind(&self, m: &Inbound<'_>) -> Option<InputKind> {
        let restricted = !m.origin.internal && m.origin.permissions.is_some();
        let (kind, (stream, consumer)) = match flow::target(m.subject) {
            Some(target) => (InputKind::Flow, target),
            None => (InputKind::Ack, acked(m.subject, restricted)?),
        };
        if !m.origin.internal && internal::is_stream(stream) {
            return None;
        }
        self.core.may_be_consumer(stream, consumer).then_some(kind)
    }
}

impl Service for Acknowledgements {
    fn deliver(&self, m: &Inbound<'_>) -> bool {
        // An acknowledgement of a consumer that is gone has no responders.
        may_be_answered(m)
            && self
                .kind(m)
                .is_some_and(|kind| self.core.inlet.push(kind, m))
    }

    fn ready(&self) -> Option<BoxFuture<'static, ()>> {
        Inlet::room(&self.core)
    }
}

/// The stream and consumer that an acknowledgement names: nine tokens, or eleven and more with domain
/// and account in front (nats-surface §2.7).
///
/// The longer form is not for clients whose permissions are `restricted`: what is granted for one stream
/// (`$JS.ACK.<stream>.>`) would match acknowledgements of any other, with that stream's name in the
/// domain's place. Nothing is delivered with the longer form.
fn acked(subject: &[u8], restricted: bool) -> Option<(&str, &str)> {
    let tokens = AckSubject::split(subject)?;
    if tokens.is_long() && restricted {
        return None;
    }
    tokens.target()
}

#[cfg(test)]
mod tests {
    use super::acked;

    #[test]
    fn acknowledgements_name_their_consumer() {
        for restricted in [false, true] {
            let target = acked(b"$JS.ACK.S.C.1.2.3.4.5", restricted);
            assert_eq!(target, Some(("S", "C")));
        }
        for longer in [
            &b"$JS.ACK._.h.S.C.1.2.3.4.5"[..],
            b"$JS.ACK._.h.S.C.1.2.3.4.5.x",
        ] {
            assert_eq!(acked(longer, false), Some(("S", "C")));
        }
        for strange in [
            &b"$JS.ACK"[..],
            b"$JS.ACK.S.C.1.2.3.4",
            b"$JS.ACK.S.C.1.2.3.4.5.6",
            b"$JS.FC.S.C.1",
        ] {
            assert_eq!(acked(strange, false), None);
        }
    }

    #[test]
    fn what_is_granted_for_one_stream_acknowledges_no_other() {
        // Matches a grant of `$JS.ACK.MINE.>`.
        assert_eq!(acked(b"$JS.ACK.MINE.h.OTHER.C.1.2.3.4.5", true), None);
    }
}
