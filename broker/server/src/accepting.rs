//! What a loop that accepts connections does where accepting fails: it neither spins nor fills the log.
//! [`Seldom`] is for whatever else would fill it.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Pause after a failed accept, such as too many open files, unless another time is given.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// What happens again and again is logged again after this long.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// Something that whoever connects can make happen again and again, and that is worth a line in the log now
/// and then.
#[derive(Debug, Default)]
pub struct Seldom {
    logged: Option<Instant>,
    /// How often it has happened since then.
    untold: u64,
}

impl Seldom {
    /// It has happened: how often since it was told last, if it is to be told now.
    pub fn happened(&mut self) -> Option<u64> {
        self.happened_times(1)
    }

    /// The same for what has happened several times.
    pub fn happened_times(&mut self, times: u64) -> Option<u64> {
        self.happened_at(Instant::now(), times)
    }

    fn happened_at(&mut self, now: Instant, times: u64) -> Option<u64> {
        self.untold += times;
        let lately = |at: Instant| now.duration_since(at) < LOG_PERIOD;
        if self.logged.is_some_and(lately) {
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// The failures of one listener.
#[derive(Debug, Default)]
pub struct AcceptFailures(Seldom);

impl AcceptFailures {
    /// Heeds one failure of `listener`: a client that was gone before it was accepted costs nothing,
    /// anything else a line in the log now and then, and a pause of `retry`.
    pub async fn heed(&mut self, listener: &'static str, error: &io::Error, retry: Duration) {
        if is_gone(error) {
            return;
        }
        if let Some(failures) = self.0.happened() {
            tracing::warn!(listener, %error, failures, "accepting failed");
        }
        sleep(retry).await;
    }
}

/// Whether it is the client's trouble and not the listener's.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_once_in_a_while_with_their_number() {
        let (mut failures, start) = (Seldom::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(failures.happened_at(at(0), 1), Some(1));
        for tick in 1..200 {
            assert_eq!(failures.happened_at(at(50 * tick), 1), None);
        }
        assert_eq!(failures.happened_at(at(10_000), 3), Some(202));
        assert_eq!(failures.happened_at(at(10_050), 1), None);
    }

    #[test]
    fn a_client_that_was_gone_holds_nobody_up() {
        assert!(is_gone(&io::ErrorKind::ConnectionAborted.into()));
        assert!(!is_gone(&io::Error::other("no file left")));
    }
}
