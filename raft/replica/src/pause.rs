//! The pause of proposals while leadership is handed over: begun by the hand-over, kept by the proposer, who says
//! when nothing of his is on its way to the local log any more.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// No pause.
const NONE: u64 = 0;

/// One node's pause. Each has a number, so that the answer to one is never taken for that to the next.
#[derive(Debug)]
pub(crate) struct Pause {
    number: AtomicU64,
    wanted: watch::Sender<u64>,
    kept: watch::Sender<u64>,
}

impl Pause {
    pub(crate) fn new() -> Self {
        Self {
            number: AtomicU64::new(NONE),
            wanted: watch::channel(NONE).0,
            kept: watch::channel(NONE).0,
        }
    }

    /// Nothing goes into the local log until the answer is dropped, whatever becomes of the hand-over.
    pub(crate) fn begin(&self) -> Begun<'_> {
        let number = self.number.fetch_add(1, Ordering::SeqCst) + 1;
        self.wanted.send_replace(number);
        Begun {
            pause: self,
            number,
        }
    }

    /// The proposer's side.
    pub(crate) fn keeper(&self) -> Keeper {
        Keeper {
            wanted: self.wanted.subscribe(),
            kept: self.kept.clone(),
        }
    }
}

/// A pause, until it is dropped.
pub(crate) struct Begun<'a> {
    pause: &'a Pause,
    number: u64,
}

impl Begun<'_> {
    /// Waits until everything that the proposer sent before has been answered.
    pub(crate) async fn is_kept(&self) {
        let mut kept = self.pause.kept.subscribe();
        // The sender is here: this ends by its condition only.
        drop(kept.wait_for(|kept| *kept == self.number).await);
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.pause.wanted.send_replace(NONE);
    }
}

/// What the proposer goes by.
#[derive(Debug)]
pub(crate) struct Keeper {
    wanted: watch::Receiver<u64>,
    kept: watch::Sender<u64>,
}

impl Keeper {
    pub(crate) fn is_paused(&self) -> bool {
        *self.wanted.borrow() != NONE
    }

    /// Says that nothing is on its way to the local log; without a pause it says nothing.
    pub(crate) fn keep(&self) {
        let wanted = *self.wanted.borrow();
        if wanted != NONE {
            self.kept.send_if_modified(|kept| {
                let is_news = *kept != wanted;
                *kept = wanted;
                is_news
            });
        }
    }

    /// Resolves when a pause begins or ends; false when there will be none any more.
    pub(crate) async fn changed(&mut self) -> bool {
        self.wanted.changed().await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::Pause;

    #[test]
    fn a_pause_is_kept_by_its_own_answer_only() {
        let pause = Pause::new();
        let keeper = pause.keeper();
        keeper.keep();
        for _ in 0..2 {
            let begun = pause.begin();
            assert!(keeper.is_paused());
            assert!(begun.is_kept().now_or_never().is_none());
            keeper.keep();
            assert!(begun.is_kept().now_or_never().is_some());
            drop(begun);
            assert!(!keeper.is_paused());
            keeper.keep();
        }
    }
}
