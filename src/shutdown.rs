//! The shutdown signal: one [`Trigger`], any number of cheap [`Shutdown`] clones that wait for it,
//! and the wiring of SIGINT and SIGTERM. Owns the signal only; what stops in which order is the
//! node's business.

use tokio::sync::watch;

/// Fires the signal; dropping it without firing counts as firing, so that nothing waits for ever.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Waits for the signal.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// A new signal that nobody has fired.
#[must_use]
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Fires; later calls do nothing.
    pub fn fire(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Returns once the signal was fired.
    pub async fn wait(&mut self) {
        // An error means that the trigger is gone, which counts as fired.
        let _gone = self.0.wait_for(|fired| *fired).await;
    }

    /// Whether the signal was fired.
    #[must_use]
    pub fn is_fired(&self) -> bool {
        *self.0.borrow()
    }

    /// The underlying channel, for parts that select on it themselves.
    #[must_use]
    pub fn receiver(&self) -> watch::Receiver<bool> {
        self.0.clone()
    }
}

/// A signal that SIGINT (Ctrl-C) and SIGTERM fire. A second one ends the process at once with the
/// status that shells use for the signal: an operator who asks twice does not want to wait.
///
/// # Errors
/// The operating system's, where a handler can't be installed.
pub fn on_signals() -> std::io::Result<Shutdown> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (trigger, shutdown) = channel();
    tokio::spawn(async move {
        let mut asked = false;
        loop {
            let (name, status) = tokio::select! {
                _ = interrupt.recv() => ("SIGINT", 130),
                _ = terminate.recv() => ("SIGTERM", 143),
            };
            if asked {
                tracing::warn!(signal = name, "asked a second time: ending at once");
                std::process::exit(status);
            }
            asked = true;
            tracing::info!(signal = name, "shutting down");
            trigger.fire();
        }
    });
    Ok(shutdown)
}

#[cfg(test)]
mod tests {
    use super::channel;

    #[tokio::test]
    async fn every_clone_hears_the_signal_even_after_it() {
        let (trigger, shutdown) = channel();
        let mut early = shutdown.clone();
        assert!(!shutdown.is_fired());
        trigger.fire();
        trigger.fire();
        early.wait().await;
        let mut late = shutdown.clone();
        late.wait().await;
        assert!(late.is_fired());
    }

    #[tokio::test]
    async fn a_lost_trigger_counts_as_fired() {
        let (trigger, mut shutdown) = channel();
        drop(trigger);
        shutdown.wait().await;
    }
}
