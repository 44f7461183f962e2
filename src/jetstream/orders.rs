//! Batches of consumer inputs at the leader's engine: taken in, worked off, and settled when every
//! acknowledgement in them that wants an answer is in the replicated state.
//!
//! Owns the queue of batches and the verdict on each. It never looks into an input.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::inputs::{Taken, Verdict};

/// Bytes of batches that wait for the engine; more are refused and offered again.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The batches that wait for the engine.
#[derive(Debug, Default)]
pub(super) struct Orders(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    open: bool,
    bytes: usize,
    batches: VecDeque<(Bytes, Arc<Order>)>,
}

/// One batch in work. The last one to let go of it pronounces the verdict.
#[derive(Debug)]
pub(super) struct Order {
    verdict: Mutex<Option<oneshot::Sender<Verdict>>>,
    answered: Mutex<Vec<u32>>,
    /// Inputs whose consumers do not exist.
    strays: Mutex<Vec<u32>>,
    failed: AtomicBool,
    /// The clients are this node's own: their interest is known here as soon as they have any.
    pub(super) local: bool,
}

/// The answer that one input of a batch waits for. Dropping it fails the batch: another leader gets it.
#[derive(Debug)]
pub(super) struct Answer {
    order: Arc<Order>,
    number: u32,
    settled: bool,
}

impl Orders {
    /// Lets batches in, or refuses them from now on. Those that wait are refused as well.
    pub(super) fn open(&self, open: bool) {
        let mut waiting = self.0.lock();
        waiting.open = open;
        waiting.bytes = 0;
        for (_, order) in std::mem::take(&mut waiting.batches) {
            order.refuse();
        }
    }

    /// Queues a batch; the receiver gets the verdict, or an error when the leader was lost meanwhile.
    pub(super) fn push(&self, batch: Bytes, local: bool) -> oneshot::Receiver<Verdict> {
        let (sender, receiver) = oneshot::channel();
        let order = Arc::new(Order {
            verdict: Mutex::new(Some(sender)),
            answered: Mutex::default(),
            strays: Mutex::default(),
            failed: AtomicBool::new(false),
            local,
        });
        let mut waiting = self.0.lock();
        if !waiting.open || waiting.bytes > WAITING_BYTES_MAX {
            order.refuse();
        } else {
            waiting.bytes += batch.len();
            waiting.batches.push_back((batch, order));
        }
        receiver
    }

    /// The next batch to work off.
    pub(super) fn take(&self) -> Option<(Bytes, Arc<Order>)> {
        let mut waiting = self.0.lock();
        let (batch, order) = waiting.batches.pop_front()?;
        waiting.bytes -= batch.len();
        Some((batch, order))
    }
}

impl Order {
    /// The consumers of these inputs do not exist: ascending, and after those told before.
    pub(super) fn strayed(&self, numbers: Vec<u32>) {
        self.strays.lock().extend(numbers);
    }

    fn refuse(&self) {
        self.pronounce(Verdict::NotNow);
    }

    fn pronounce(&self, verdict: Verdict) {
        if let Some(sender) = self.verdict.lock().take() {
            // Whoever asked may be gone.
            let _ = sender.send(verdict);
        }
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        if self.failed.load(Ordering::Acquire) {
            return;
        }
        let mut answered = std::mem::take(&mut *self.answered.lock());
        answered.sort_unstable();
        let strays = std::mem::take(&mut *self.strays.lock());
        self.pronounce(Verdict::Taken(Taken {
            answered,
            strays: Some(strays),
        }));
    }
}

impl Answer {
    pub(super) fn new(order: &Arc<Order>, number: u32) -> Self {
        Self {
            order: Arc::clone(order),
            number,
            settled: false,
        }
    }

    /// The client is to be answered.
    pub(super) fn give(mut self) {
        self.settled = true;
        self.order.answered.lock().push(self.number);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.settled {
            self.order.failed.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{Answer, Orders};
    use crate::jetstream::inputs::{Taken, Verdict};

    #[test]
    fn a_batch_is_settled_when_its_last_answer_is_given() {
        let orders = Orders::default();
        orders.open(true);
        let mut verdict = orders.push(Bytes::from_static(b"x"), true);
        let (batch, order) = orders.take().unwrap();
        assert_eq!(&batch[..], b"x");
        let (late, early) = (Answer::new(&order, 4), Answer::new(&order, 1));
        order.strayed(vec![2]);
        drop(order);
        late.give();
        assert!(verdict.try_recv().is_err(), "one answer is missing");
        early.give();
        let taken = Taken {
            answered: vec![1, 4],
            strays: Some(vec![2]),
        };
        assert_eq!(verdict.try_recv(), Ok(Verdict::Taken(taken)));
    }

    #[test]
    fn an_answer_that_is_lost_fails_its_batch() {
        let orders = Orders::default();
        orders.open(true);
        let verdict = orders.push(Bytes::from_static(b"x"), true);
        let (_, order) = orders.take().unwrap();
        Answer::new(&order, 0).give();
        drop(Answer::new(&order, 1));
        drop(order);
        assert!(verdict.blocking_recv().is_err());
    }

    #[test]
    fn batches_are_refused_while_nobody_leads() {
        let orders = Orders::default();
        let refused = orders.push(Bytes::from_static(b"x"), false);
        assert_eq!(refused.blocking_recv(), Ok(Verdict::NotNow));
        orders.open(true);
        let waiting = orders.push(Bytes::from_static(b"x"), false);
        orders.open(false);
        assert_eq!(waiting.blocking_recv(), Ok(Verdict::NotNow));
        assert!(orders.take().is_none());
    }
}
