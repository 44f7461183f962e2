//! What consumers did, on its way into the replicated state: changes of many consumers leave together,
//! and acknowledgements that want an answer get it when the changes before them are applied.
//!
//! One task, in order. It never changes a consumer; what failed is reported to the engine, which
//! starts over from the replicated state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Notify, mpsc};
use unibus_state::Outcome;

use super::core::Core;
use super::ingest::Call;
use super::orders::Answer;
use super::table::Key;

/// Flushes on their way; while there are so many, changes gather.
pub(super) const FLUSHES_MAX: usize = 4;

/// Becomes true when a change of a consumer was not applied: what the engine knew of it since is void.
pub(super) type Void = Arc<AtomicBool>;

/// Changes that were proposed together, and who waits for them.
#[derive(Debug, Default)]
pub(super) struct Flush {
    pub(super) calls: Vec<(Key, Void, Call)>,
    pub(super) answers: Vec<(Void, Answer)>,
}

/// The engine's end of the way.
#[derive(Debug)]
pub(super) struct Outflow {
    sender: mpsc::Sender<Flush>,
    on_their_way: Arc<AtomicUsize>,
    /// A flush came to its end.
    landed: Arc<Notify>,
}

impl Outflow {
    /// The way and the task that works it.
    pub(super) fn new(core: Arc<Core>) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(FLUSHES_MAX);
        let on_their_way = Arc::new(AtomicUsize::new(0));
        let landed = Arc::new(Notify::new());
        let ends = (Arc::clone(&on_their_way), Arc::clone(&landed));
        let work = run(core, receiver, ends);
        (
            Self {
                sender,
                on_their_way,
                landed,
            },
            work,
        )
    }

    /// Whether another flush may leave.
    pub(super) fn has_room(&self) -> bool {
        self.on_their_way.load(Ordering::Acquire) < FLUSHES_MAX
    }

    /// Resolves once nothing is on its way. A leadership begins then: a change of the one before that
    /// was applied afterwards could be answered while the new cursors do not know of it.
    pub(super) async fn landed(&self) {
        loop {
            let landed = self.landed.notified();
            if self.on_their_way.load(Ordering::Acquire) == 0 {
                return;
            }
            landed.await;
        }
    }

    pub(super) fn send(&self, flush: Flush) {
        self.on_their_way.fetch_add(1, Ordering::AcqRel);
        // There is room; without a task the node stops, and dropping fails the answers.
        let _ = self.sender.try_send(flush);
    }
}

async fn run(
    core: Arc<Core>,
    mut flushes: mpsc::Receiver<Flush>,
    (on_their_way, landed): (Arc<AtomicUsize>, Arc<Notify>),
) {
    while let Some(flush) = flushes.recv().await {
        let mut failed = Vec::new();
        for (key, void, call) in flush.calls {
            if !is_applied(&key, call).await {
                void.store(true, Ordering::Release);
                failed.push((key, void));
            }
        }
        for (void, answer) in flush.answers {
            if !void.load(Ordering::Acquire) {
                answer.give();
            }
        }
        on_their_way.fetch_sub(1, Ordering::AcqRel);
        landed.notify_waiters();
        core.engine.settled(failed);
    }
}

async fn is_applied((stream, consumer): &Key, call: Call) -> bool {
    match call.await {
        Ok(Ok(answered)) => match answered.outcome {
            Outcome::Refused(refusal) => {
                tracing::debug!(%stream, %consumer, error = %refusal.error.description, "a consumer's change is void");
                false
            }
            Outcome::NoStream => false,
            _ => true,
        },
        Ok(Err(error)) => {
            tracing::warn!(%stream, %consumer, %error, "a consumer's change was not applied");
            false
        }
        // The node stops.
        Err(_) => false,
    }
}
