//! Subscriptions that the server refuses, or withdraws because permissions have changed. The library that speaks
//! NATS goes on as if they were there: whoever listens has to be told.

use tokio::sync::broadcast;

/// Refusals that a slow listener may be behind; it takes its subscription for lost when it missed some.
const REFUSALS_MAX: usize = 64;
/// How the server says it; the subject follows, and ends with the next quote.
const WORDS: &str = "Permissions Violation for Subscription to \"";

/// Tells refusals to whoever waits for one.
#[derive(Clone, Debug)]
pub(super) struct Refused(broadcast::Sender<String>);

impl Default for Refused {
    fn default() -> Self {
        Self(broadcast::channel(REFUSALS_MAX).0)
    }
}

impl Refused {
    /// Takes an error that the server has sent.
    pub(super) fn note(&self, words: &str) {
        tracing::debug!(words, "the message plane refuses");
        if let Some(subject) = subject(words) {
            // Nobody may be listening.
            drop(self.0.send(subject.to_owned()));
        }
    }

    /// Begins to watch a subject: before its subscription is made.
    pub(super) fn watch(&self, subject: impl Into<String>) -> Watch {
        Watch {
            refusals: self.0.subscribe(),
            subject: subject.into(),
        }
    }
}

/// Waits for the refusal of one subject.
#[derive(Debug)]
pub(super) struct Watch {
    refusals: broadcast::Receiver<String>,
    subject: String,
}

impl Watch {
    /// Resolves when the server has refused or withdrawn the subscription.
    pub(super) async fn refused(&mut self) {
        loop {
            match self.refusals.recv().await {
                Ok(subject) if subject != self.subject => {}
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

fn subject(words: &str) -> Option<&str> {
    let (_, rest) = words.split_once(WORDS)?;
    rest.split_once('"').map(|(subject, _)| subject)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_refusal_is_told_to_who_listens_to_that_subject() {
        let refused = Refused::default();
        let (mut mine, mut other) = (refused.watch("a.b"), refused.watch("a"));
        refused.note("Permissions Violation for Publish to \"a.b\"");
        assert!(mine.refused().now_or_never().is_none());
        refused.note("Permissions Violation for Subscription to \"a.b\" (sid \"7\")");
        assert!(mine.refused().now_or_never().is_some());
        assert!(mine.refused().now_or_never().is_none());
        assert!(other.refused().now_or_never().is_none());
        for _ in 0..=REFUSALS_MAX {
            refused.note("Permissions Violation for Subscription to \"c\"");
        }
        assert!(other.refused().now_or_never().is_some(), "some were missed");
    }
}
