//! Whether the system was suspended lately. A lease is measured by the clock of [`Instant`], which stands
//! still meanwhile, while the other nodes' clocks go on and their promises end.
//!
//! A virtual machine that its host stops, or moves, may see none of its clocks go on: that can't be noticed
//! from inside. Hosts of voters must not be paused longer than a quarter of the election timeout, unless
//! their clock of boot time is set forward when they go on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Suspensions that are shorter in sum are within what leases spare, and reading two clocks takes its time.
const TOLERANCE: Duration = Duration::from_millis(10);

/// What was noticed so far.
#[derive(Debug)]
pub(crate) struct Suspensions {
    /// Time in suspension since the boot, at least, when it was looked at; nanoseconds.
    known: AtomicU64,
    start: Instant,
    /// When the last one was noticed; nanoseconds after `start`, 0 for never.
    noticed: AtomicU64,
}

impl Suspensions {
    pub(crate) fn new() -> Self {
        Self {
            known: AtomicU64::new(nanos(suspended().0)),
            start: Instant::now(),
            noticed: AtomicU64::new(0),
        }
    }

    /// Whether the system may have been suspended within `past`. One is noticed at the first call after it:
    /// whatever happened before that call may have been before it.
    pub(crate) fn any_within(&self, past: Duration) -> bool {
        self.look(suspended(), past)
    }

    /// `between`: the least and the most time that the system has been suspended since it booted.
    fn look(&self, between: (Duration, Duration), past: Duration) -> bool {
        let known = Duration::from_nanos(self.known.load(Ordering::SeqCst));
        if between.1 > known + TOLERANCE {
            self.note();
            // Last: whoever sees that it is known sees that it was noticed.
            self.known.store(nanos(between.0), Ordering::SeqCst);
        }
        let noticed = self.noticed.load(Ordering::SeqCst);
        noticed != 0 && self.start.elapsed() < Duration::from_nanos(noticed).saturating_add(past)
    }

    /// As if one were noticed now.
    pub(crate) fn note(&self) {
        let now = nanos(self.start.elapsed()).max(1);
        self.noticed.store(now, Ordering::SeqCst);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The least and the most time that the system has been suspended since it booted.
#[cfg(target_os = "linux")]
fn suspended() -> (Duration, Duration) {
    use rustix::time::{ClockId, clock_gettime};

    let read = |clock| {
        let now = clock_gettime(clock);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
    };
    let before = read(ClockId::Monotonic);
    let all = read(ClockId::Boottime);
    let after = read(ClockId::Monotonic);
    (all.saturating_sub(after), all.saturating_sub(before))
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
fn suspended() -> (Duration, Duration) {
    (Duration::ZERO, Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_suspension_is_noticed_once_and_counts_for_as_long_as_is_asked() {
        let seen = Suspensions::new();
        let base = Duration::from_nanos(seen.known.load(Ordering::SeqCst));
        let at = |ahead: Duration| (base + ahead, base + ahead);
        assert!(!seen.any_within(LONG));
        assert!(!seen.look(at(Duration::from_millis(9)), LONG));
        assert!(seen.look(at(Duration::from_millis(11)), LONG));
        let noticed = seen.noticed.load(Ordering::SeqCst);
        assert!(seen.look(at(Duration::from_millis(11)), LONG));
        assert_eq!(seen.noticed.load(Ordering::SeqCst), noticed);
        assert!(!seen.look(at(Duration::from_millis(11)), Duration::ZERO));
        // Short ones add up.
        assert!(seen.look(at(Duration::from_millis(22)), LONG));
        assert_ne!(seen.noticed.load(Ordering::SeqCst), noticed);
    }

    /// A thread that was put aside between two clocks must not make a later suspension look shorter.
    #[test]
    fn what_is_not_certain_counts_against_the_lease() {
        let seen = Suspensions::new();
        let base = Duration::from_nanos(seen.known.load(Ordering::SeqCst));
        let wide = (base, base + Duration::from_secs(1));
        assert!(seen.look(wide, LONG));
        assert_eq!(seen.known.load(Ordering::SeqCst), nanos(base));
    }
}
