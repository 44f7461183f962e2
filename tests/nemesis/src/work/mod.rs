//! What clients do while a cluster is broken, and how their histories are judged.

pub(crate) mod consume;
pub(crate) mod log;
pub(crate) mod nonces;
pub(crate) mod register;
pub(crate) mod rooms;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::history::Recorder;

/// How long one operation may take before its fate counts as unknown.
pub(crate) const OP_TIMEOUT: Duration = Duration::from_secs(4);

/// What every client is given.
#[derive(Clone, Debug)]
pub(crate) struct Ctx {
    pub(crate) recorder: Recorder,
    stop: Arc<AtomicBool>,
}

impl Ctx {
    pub(crate) fn new(recorder: Recorder) -> Self {
        Self {
            recorder,
            stop: Arc::default(),
        }
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// A short rest between operations, so that histories stay small enough to be judged.
pub(crate) async fn rest(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
