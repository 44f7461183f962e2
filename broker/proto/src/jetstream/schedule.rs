//! When a scheduled message is due (ADR-51): `@at` a time, `@every` so often, or by a cron pattern, the
//! latter in a time zone of the bundled database. Never reads a clock.

use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::cron::Cron;
use super::duration::parse_duration;
use super::timestamp::Timestamp;

const SECOND_NS: u64 = 1_000_000_000;
/// Shortest interval.
const EVERY_NS_MIN: u64 = SECOND_NS;
/// Civil times that are tried until one lies after the last run: clocks are put back once at a time.
const FOLDS_MAX: usize = 4096;

/// The header that holds the schedule.
pub const SCHEDULE: &str = "Nats-Schedule";
/// The subject that produced messages are published to.
pub const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";
/// The subject whose last message is published instead of the schedule's own.
pub const SCHEDULE_SOURCE: &str = "Nats-Schedule-Source";
/// How long produced messages live.
pub const SCHEDULE_TTL: &str = "Nats-Schedule-TTL";
/// How produced messages roll up.
pub const SCHEDULE_ROLLUP: &str = "Nats-Schedule-Rollup";
/// The zone of a cron pattern.
pub const SCHEDULE_TIME_ZONE: &str = "Nats-Schedule-Time-Zone";
/// On produced messages: the subject that holds the schedule.
pub const SCHEDULER: &str = "Nats-Scheduler";
/// On produced messages: the next run, or [`NEXT_PURGE`].
pub const SCHEDULE_NEXT: &str = "Nats-Schedule-Next";
/// There is no next run: the schedule is removed.
pub const NEXT_PURGE: &str = "purge";

/// A schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Once, Unix nanoseconds.
    At(u64),
    /// Again and again after so many nanoseconds.
    Every(u64),
    /// By a pattern.
    Cron(Cron),
}

impl Schedule {
    /// Reads the value of [`SCHEDULE`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(time) = text.strip_prefix("@at ") {
            return Some(Self::At(time.trim().parse::<Timestamp>().ok()?.0));
        }
        if let Some(interval) = text.strip_prefix("@every ") {
            let ns = parse_duration(interval.trim())?;
            return (EVERY_NS_MIN..=u64::MAX / 4)
                .contains(&ns)
                .then_some(Self::Every(ns));
        }
        let pattern = match text {
            "@yearly" | "@annually" => "0 0 0 1 1 *",
            "@monthly" => "0 0 0 1 * *",
            "@weekly" => "0 0 0 * * 0",
            "@daily" | "@midnight" => "0 0 0 * * *",
            "@hourly" => "0 0 * * * *",
            pattern => pattern,
        };
        Cron::parse(pattern).map(Self::Cron)
    }

    /// Whether there is a run after the next one.
    #[must_use]
    pub fn repeats(&self) -> bool {
        !matches!(self, Self::At(_))
    }

    /// The first run after `after_ns` (for `@at` the only one), Unix nanoseconds, in UTC.
    #[must_use]
    pub fn next(&self, after_ns: u64) -> Option<u64> {
        match self {
            Self::At(at_ns) => Some(*at_ns),
            Self::Every(interval_ns) => {
                let whole = (after_ns + SECOND_NS / 2) / SECOND_NS * SECOND_NS;
                whole.checked_add(*interval_ns)
            }
            Self::Cron(cron) => {
                let next = cron.next_after(seconds(after_ns)?)?;
                nanoseconds(next)
            }
        }
    }

    /// The first run after `after_ns` by a zone's clock. Only patterns have zones. A time that the clock
    /// skips is taken to be as much later, one that it shows twice is its first.
    #[must_use]
    pub fn next_in(&self, zone: &Zone, after_ns: u64) -> Option<u64> {
        let Self::Cron(cron) = self else {
            return None;
        };
        let after = seconds(after_ns)?;
        let mut civil = after.checked_add(zone.offset_at(after)?)?;
        for _ in 0..FOLDS_MAX {
            civil = cron.next_after(civil)?;
            let next = zone.time_of(civil)?;
            if next > after {
                return nanoseconds(next);
            }
        }
        None
    }
}

fn seconds(ns: u64) -> Option<i64> {
    i64::try_from(ns / SECOND_NS).ok()
}

fn nanoseconds(seconds: i64) -> Option<u64> {
    u64::try_from(seconds).ok()?.checked_mul(SECOND_NS)
}

/// A time zone of the database that is part of this program.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

impl Zone {
    /// A zone by its IANA name, such as `Europe/Vienna`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let known = TimeZoneDatabase::bundled().get(name);
        known.ok().map(Self)
    }

    /// Seconds that the zone's clock is ahead of UTC.
    fn offset_at(&self, seconds: i64) -> Option<i64> {
        let time = jiff::Timestamp::from_second(seconds).ok()?;
        Some(i64::from(self.0.to_offset(time).seconds()))
    }

    /// Unix seconds at which the zone's clock shows a civil time.
    fn time_of(&self, civil: i64) -> Option<i64> {
        let shown = jiff::Timestamp::from_second(civil).ok()?;
        let shown = TimeZone::UTC.to_datetime(shown);
        let time = self.0.to_ambiguous_timestamp(shown).compatible().ok()?;
        Some(time.as_second())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(time: &str) -> u64 {
        time.parse::<Timestamp>().unwrap().0
    }

    fn next(schedule: &str, after: &str) -> String {
        let schedule = Schedule::parse(schedule).unwrap();
        Timestamp(schedule.next(ns(after)).unwrap()).to_string()
    }

    #[test]
    fn schedules_say_when_they_are_due() {
        let after = "2026-11-30T03:10:20.7Z";
        assert_eq!(
            next("@at 2026-12-01T01:00:00+02:00", after),
            "2026-11-30T23:00:00Z"
        );
        assert_eq!(next("@every 1m30s", after), "2026-11-30T03:11:51Z");
        assert_eq!(next("@hourly", after), "2026-11-30T04:00:00Z");
        assert_eq!(next("@weekly", after), "2026-12-06T00:00:00Z");
        assert!(
            !Schedule::parse("@at 2026-12-01T01:00:00Z")
                .unwrap()
                .repeats()
        );
        for bad in [
            "",
            "@at",
            "@at now",
            "@every 1",
            "@every 500ms",
            "@often",
            "* *",
        ] {
            assert_eq!(Schedule::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn patterns_follow_a_zones_clock() {
        let vienna = Zone::named("Europe/Vienna").unwrap();
        let at_five = Schedule::parse("0 0 5 * * *").unwrap();
        let next = |schedule: &Schedule, after| {
            Timestamp(schedule.next_in(&vienna, ns(after)).unwrap()).to_string()
        };
        assert_eq!(
            next(&at_five, "2026-01-10T00:00:00Z"),
            "2026-01-10T04:00:00Z"
        );
        assert_eq!(
            next(&at_five, "2026-07-10T00:00:00Z"),
            "2026-07-10T03:00:00Z"
        );
        // On 29 March the clock goes from 2 to 3, on 25 October from 3 to 2.
        let half_past_two = Schedule::parse("0 30 2 * * *").unwrap();
        assert_eq!(
            next(&half_past_two, "2026-03-29T00:00:00Z"),
            "2026-03-29T01:30:00Z"
        );
        assert_eq!(
            next(&half_past_two, "2026-10-25T00:00:00Z"),
            "2026-10-25T00:30:00Z"
        );
        assert_eq!(
            next(&half_past_two, "2026-10-25T00:45:00Z"),
            "2026-10-26T01:30:00Z"
        );
        assert!(Zone::named("Europe/Nowhere").is_none());
        let every = Schedule::parse("@every 1m").unwrap();
        assert_eq!(every.next_in(&vienna, 0), None);
    }
}
