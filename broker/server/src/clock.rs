//! Time in one word: nanoseconds since the process began to count.
//!
//! Owns the epoch that turns a monotonic instant into an atomic and back into a date for reports. Decides
//! nothing by it.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

static EPOCH: LazyLock<(Instant, SystemTime)> =
    LazyLock::new(|| (Instant::now(), SystemTime::now()));

/// Nanoseconds since the epoch; never 0, which stands for "not yet".
pub(crate) fn nanos(at: Instant) -> u64 {
    let since = at.saturating_duration_since(EPOCH.0).as_nanos();
    u64::try_from(since).unwrap_or(u64::MAX).max(1)
}

/// The same for this moment.
pub(crate) fn now() -> u64 {
    nanos(Instant::now())
}

/// The date of a number of [`nanos`].
pub(crate) fn date(nanos: u64) -> SystemTime {
    EPOCH.1 + Duration::from_nanos(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_becomes_its_date() {
        let before = SystemTime::now();
        let date = date(now());
        let error = date.duration_since(before).unwrap_or_default();
        assert!(error < Duration::from_secs(5), "{error:?}");
    }
}
