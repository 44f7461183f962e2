//! The engine's clock: Unix time that never goes back while this node leads.

use std::time::{Duration, Instant};

use super::core::Core;

/// The wall clock may run ahead of this one by so much before it is followed.
const AHEAD_MAX_NS: u64 = 1_000_000_000;

/// Runs with the monotonic clock from where the wall clock stood, follows the wall clock when it is set
/// forward, and does not follow it back.
#[derive(Debug)]
pub(super) struct Ticker {
    base_ns: u64,
    since: Instant,
}

impl Ticker {
    pub(super) fn new() -> Self {
        Self {
            base_ns: Core::now().0,
            since: Instant::now(),
        }
    }

    /// Unix nanoseconds.
    pub(super) fn now_ns(&mut self) -> u64 {
        self.read(Core::now().0, Instant::now())
    }

    fn read(&mut self, wall_ns: u64, instant: Instant) -> u64 {
        let elapsed = instant.saturating_duration_since(self.since);
        let elapsed = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let now = self.base_ns.saturating_add(elapsed);
        if wall_ns > now.saturating_add(AHEAD_MAX_NS) {
            self.base_ns = wall_ns;
            self.since = instant;
            return wall_ns;
        }
        now
    }

    /// When this clock will show `at_ns`, at most `longest` from now.
    pub(super) fn instant(&mut self, at_ns: u64, longest: Duration) -> Instant {
        let wait = Duration::from_nanos(at_ns.saturating_sub(self.now_ns()));
        Instant::now() + wait.min(longest)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Ticker;

    #[test]
    fn time_goes_on_whatever_the_wall_clock_does() {
        let since = Instant::now();
        let mut ticker = Ticker {
            base_ns: 5_000_000_000,
            since,
        };
        let later = |seconds| since + Duration::from_secs(seconds);
        assert_eq!(ticker.read(5_000_000_000, later(0)), 5_000_000_000);
        assert_eq!(ticker.read(1, later(1)), 6_000_000_000, "set back");
        assert_eq!(ticker.read(90_000_000_000, later(2)), 90_000_000_000);
        assert_eq!(ticker.read(2, later(3)), 91_000_000_000);
    }
}
