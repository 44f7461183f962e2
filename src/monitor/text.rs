//! Times and durations in the text forms of nats-server's documents. Pure.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use unibus_proto::jetstream::timestamp::Timestamp;

/// A moment as the documents write it: RFC 3339 in UTC with nanoseconds.
pub(crate) fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// This moment.
pub(crate) fn now() -> Timestamp {
    timestamp(SystemTime::now())
}

/// Whole seconds with the larger units in front, as in `1d0h5m13s`: `uptime` and `idle`.
pub(crate) fn uptime(for_: Duration) -> String {
    let seconds = for_.as_secs();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / (24 * 365));
    let mut text = String::new();
    let mut unit = |shown: bool, value: u64, letter: char| {
        if shown {
            // Writing to a String can't fail.
            let _ = write!(text, "{value}{letter}");
        }
    };
    unit(years > 0, years, 'y');
    unit(days > 0, days % 365, 'd');
    unit(hours > 0, hours % 24, 'h');
    unit(minutes > 0, minutes % 60, 'm');
    unit(true, seconds % 60, 's');
    text
}

/// A short duration with its unit, as in `499µs` or `1.25ms`: `rtt`. Below a millisecond whole
/// microseconds are enough.
pub(crate) fn rtt(for_: Duration) -> String {
    let nanos = for_.as_nanos();
    match nanos {
        0..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", nanos / 1_000),
        1_000_000..1_000_000_000 => format!("{}ms", nanos as f64 / 1e6),
        _ => format!("{}s", nanos as f64 / 1e9),
    }
}

/// Nanoseconds, as `ping_interval` and other durations are written.
pub(crate) fn nanos(for_: Duration) -> u64 {
    u64::try_from(for_.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptimes_read_like_those_of_nats_server() {
        let text = |seconds| uptime(Duration::from_secs(seconds));
        assert_eq!(text(0), "0s");
        assert_eq!(text(59), "59s");
        assert_eq!(text(60), "1m0s");
        assert_eq!(text(3_725), "1h2m5s");
        assert_eq!(text(90_061), "1d1h1m1s");
        assert_eq!(text(366 * 86_400 + 7), "1y1d0h0m7s");
    }

    #[test]
    fn round_trip_times_have_a_unit() {
        assert_eq!(rtt(Duration::from_nanos(12)), "12ns");
        assert_eq!(rtt(Duration::from_nanos(499_662)), "499µs");
        assert_eq!(rtt(Duration::from_micros(1_250)), "1.25ms");
        assert_eq!(rtt(Duration::from_millis(1_500)), "1.5s");
    }
}
