//! The bounded FIFO in front of the proposer. Enqueueing is synchronous, so the order of proposals is
//! the order of calls; nothing here waits or talks to anyone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use unibus_state::EncodedBatch;

use crate::errors::ProposeError;
use crate::propose::Proposed;

/// A larger batch is refused, bytes: as an entry it has to fit into one request between nodes (64 MiB)
/// or it could never be replicated.
const BATCH_BYTES_MAX: usize = 48 << 20;

/// What a proposer is told.
pub(crate) type Answer = Result<Proposed, ProposeError>;

/// One proposal that waits.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) parts: Vec<EncodedBatch>,
    pub(crate) count: usize,
    pub(crate) bytes: usize,
    /// Came from a peer: it is never forwarded again.
    pub(crate) forwarded: bool,
    pub(crate) since: Instant,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// Limits of the queue.
#[derive(Copy, Clone, Debug)]
pub(crate) struct QueueLimits {
    pub(crate) batches_max: usize,
    pub(crate) bytes_max: usize,
}

/// The queue. Shared by proposers and the proposer task.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: QueueLimits,
    waiting: Mutex<Waiting>,
    /// Something was enqueued or the queue was closed.
    pub(crate) wake: Notify,
    room: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    items: VecDeque<Item>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            waiting: Mutex::new(Waiting::default()),
            wake: Notify::new(),
            room: Notify::new(),
        })
    }

    /// Enqueues, or answers at once if there is no room. A single batch over the byte limit is taken
    /// when nothing else waits.
    pub(crate) fn push(
        &self,
        parts: Vec<EncodedBatch>,
        forwarded: bool,
    ) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        let item = Item {
            count: parts.iter().map(|part| part.count as usize).sum(),
            bytes: parts.iter().map(|part| part.bytes.len()).sum(),
            parts,
            forwarded,
            since: Instant::now(),
            answer,
        };
        let mut waiting = self.waiting.lock();
        let refusal = if waiting.closed {
            Some(ProposeError::Stopped)
        } else if item.bytes > BATCH_BYTES_MAX {
            tracing::warn!(bytes = item.bytes, BATCH_BYTES_MAX, "a batch is too large");
            Some(ProposeError::Overloaded)
        } else if waiting.items.len() >= self.limits.batches_max
            || (!waiting.items.is_empty() && waiting.bytes + item.bytes > self.limits.bytes_max)
        {
            Some(ProposeError::Overloaded)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            drop(waiting);
            send(item.answer, Err(refusal));
            return receiver;
        }
        waiting.bytes += item.bytes;
        waiting.items.push_back(item);
        drop(waiting);
        self.wake.notify_one();
        receiver
    }

    /// Takes from the front what fits into one entry: at least one item, and only items with the
    /// same origin as the first unless `mixed`.
    pub(crate) fn take(&self, commands_max: usize, bytes_max: usize, mixed: bool) -> Vec<Item> {
        let mut waiting = self.waiting.lock();
        let mut taken: Vec<Item> = Vec::new();
        let (mut commands, mut bytes) = (0, 0);
        while let Some(next) = waiting.items.front() {
            let fits = commands + next.count <= commands_max && bytes + next.bytes <= bytes_max;
            let same = mixed
                || taken
                    .first()
                    .is_none_or(|first| first.forwarded == next.forwarded);
            let alone = taken.is_empty();
            if !alone && (!fits || !same) {
                break;
            }
            let Some(item) = waiting.items.pop_front() else {
                break;
            };
            commands += item.count;
            bytes += item.bytes;
            waiting.bytes -= item.bytes;
            taken.push(item);
        }
        let roomy = self.is_low(&waiting);
        drop(waiting);
        if roomy {
            self.room.notify_waiters();
        }
        taken
    }

    /// Puts items back in front, in their order.
    pub(crate) fn put_back(&self, items: Vec<Item>) {
        let mut waiting = self.waiting.lock();
        for item in items.into_iter().rev() {
            waiting.bytes += item.bytes;
            waiting.items.push_front(item);
        }
    }

    /// Answers everything that has waited longer than `age` (and forwarded items if `forwarded`)
    /// with `error`. What waits longest is in front, so that nothing due costs nothing.
    pub(crate) fn expire(&self, age: Duration, forwarded: bool, error: &ProposeError) {
        let mut waiting = self.waiting.lock();
        let mut late: Vec<Item> = Vec::new();
        while let Some(item) = waiting
            .items
            .pop_front_if(|item| item.since.elapsed() >= age)
        {
            late.push(item);
        }
        if forwarded && waiting.items.iter().any(|item| item.forwarded) {
            let items = std::mem::take(&mut waiting.items);
            let (sent, kept): (VecDeque<Item>, VecDeque<Item>) =
                items.into_iter().partition(|item| item.forwarded);
            late.extend(sent);
            waiting.items = kept;
        }
        if late.is_empty() {
            return;
        }
        waiting.bytes -= late.iter().map(|item| item.bytes).sum::<usize>();
        drop(waiting);
        for item in late {
            send(item.answer, Err(error.clone()));
        }
        self.room.notify_waiters();
    }

    /// Whether anything waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.lock().items.is_empty()
    }

    /// Refuses what comes from now on, and answers what waits with `Stopped`.
    pub(crate) fn close(&self) {
        let items = {
            let mut waiting = self.waiting.lock();
            waiting.closed = true;
            waiting.bytes = 0;
            std::mem::take(&mut waiting.items)
        };
        for item in items {
            send(item.answer, Err(ProposeError::Stopped));
        }
        self.room.notify_waiters();
        self.wake.notify_one();
    }

    /// Whether the queue is over its high-water mark, half of each limit.
    pub(crate) fn is_high(&self) -> bool {
        let waiting = self.waiting.lock();
        !waiting.closed
            && (waiting.bytes > self.limits.bytes_max / 2
                || waiting.items.len() > self.limits.batches_max / 2)
    }

    /// Resolves when the queue is under its low-water mark, a quarter of each limit.
    pub(crate) async fn room(self: Arc<Self>) {
        loop {
            let notified = self.room.notified();
            {
                let waiting = self.waiting.lock();
                if waiting.closed || self.is_low(&waiting) {
                    return;
                }
            }
            notified.await;
        }
    }

    fn is_low(&self, waiting: &Waiting) -> bool {
        waiting.bytes <= self.limits.bytes_max / 4
            && waiting.items.len() <= self.limits.batches_max / 4
    }
}

/// Answers a proposer that may have gone.
pub(crate) fn send(to: oneshot::Sender<Answer>, answer: Answer) {
    // A proposer that dropped its future no longer wants to know.
    drop(to.send(answer));
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn batch(len: usize) -> Vec<EncodedBatch> {
        vec![EncodedBatch {
            count: 1,
            bytes: Bytes::from(vec![0; len]),
        }]
    }

    #[tokio::test]
    async fn limits_refuse_and_order_is_kept() {
        let queue = Queue::new(QueueLimits {
            batches_max: 3,
            bytes_max: 100,
        });
        let _big = queue.push(batch(500), false);
        assert_eq!(
            queue.push(batch(1), false).await.unwrap().unwrap_err(),
            ProposeError::Overloaded
        );
        assert!(queue.is_high());
        assert_eq!(queue.take(10, 100, true).len(), 1);
        let _a = queue.push(batch(1), false);
        let _b = queue.push(batch(2), false);
        let _c = queue.push(batch(3), true);
        assert!(queue.push(batch(1), false).await.unwrap().is_err());
        let taken = queue.take(10, 100, false);
        assert_eq!(
            taken.iter().map(|item| item.bytes).collect::<Vec<_>>(),
            [1, 2]
        );
        queue.put_back(taken);
        let taken = queue.take(10, 100, true);
        assert_eq!(
            taken.iter().map(|item| item.bytes).collect::<Vec<_>>(),
            [1, 2, 3]
        );
        assert!(!queue.is_high());
        Arc::clone(&queue).room().await;
    }

    #[tokio::test]
    async fn what_no_request_can_carry_is_refused() {
        let queue = Queue::new(QueueLimits {
            batches_max: 3,
            bytes_max: 100,
        });
        assert_eq!(
            queue
                .push(batch(BATCH_BYTES_MAX + 1), false)
                .await
                .unwrap()
                .unwrap_err(),
            ProposeError::Overloaded
        );
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn what_is_due_expires_and_the_rest_waits_on() {
        let queue = Queue::new(QueueLimits {
            batches_max: 10,
            bytes_max: 100,
        });
        let age = Duration::from_secs(3600);
        let old = queue.push(batch(1), false);
        queue.waiting.lock().items[0].since -= age;
        let _own = queue.push(batch(2), false);
        let from_peer = queue.push(batch(4), true);
        let late = ProposeError::NoLeader;
        queue.expire(age, false, &late);
        assert_eq!(old.await.unwrap().unwrap_err(), late);
        queue.expire(age, true, &late);
        assert_eq!(from_peer.await.unwrap().unwrap_err(), late);
        assert_eq!(queue.waiting.lock().bytes, 2);
    }

    #[tokio::test]
    async fn closing_answers_what_waits() {
        let queue = Queue::new(QueueLimits {
            batches_max: 3,
            bytes_max: 100,
        });
        let waiting = queue.push(batch(1), false);
        queue.close();
        let late = queue.push(batch(1), false);
        for answer in [waiting, late] {
            assert_eq!(answer.await.unwrap().unwrap_err(), ProposeError::Stopped);
        }
    }
}
