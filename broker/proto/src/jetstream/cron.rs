//! Six-field cron patterns (ADR-51): seconds, minutes, hours, day of the month, month, day of the week.
//! Arithmetic on civil time only: what zone that time is in is the caller's business.

use super::timestamp::civil_of_days;

const DAY_SECONDS: i64 = 86_400;
/// Days that are looked at for the next run: what does not run within five years never does.
const DAYS_AHEAD_MAX: i64 = 5 * 366;
const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// When something runs. Each field is a set of allowed values, one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: Field,
    months: u64,
    weekdays: Field,
}

/// A set of days, and whether it was written as a star.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Field {
    set: u64,
    any: bool,
}

/// The values that a field may have.
#[derive(Copy, Clone)]
struct Range {
    first: u32,
    last: u32,
    /// What the values from `first` on may be called.
    names: &'static [&'static str],
}

impl Range {
    const fn new(first: u32, last: u32, names: &'static [&'static str]) -> Self {
        Self { first, last, names }
    }

    fn value(&self, text: &str) -> Option<u32> {
        let named = |name: &&str| name.eq_ignore_ascii_case(text);
        if let Some(at) = self.names.iter().position(named) {
            return Some(self.first + u32::try_from(at).ok()?);
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let value: u32 = text.parse().ok()?;
        (self.first..=self.last).contains(&value).then_some(value)
    }

    /// A list of ranges with steps.
    fn field(&self, text: &str) -> Option<Field> {
        let mut field = Field { set: 0, any: false };
        for part in text.split(',') {
            let (range, step) = part.split_once('/').unwrap_or((part, "1"));
            let step = step.parse::<usize>().ok().filter(|step| *step > 0)?;
            let star = matches!(range, "*" | "?");
            let (first, last) = match range.split_once('-') {
                _ if star => (self.first, self.last),
                Some((first, last)) => (self.value(first)?, self.value(last)?),
                // `5/15` goes on to the end, `5` does not.
                None if part.contains('/') => (self.value(range)?, self.last),
                None => (self.value(range)?, self.value(range)?),
            };
            if first > last {
                return None;
            }
            field.any |= star && step == 1;
            for value in (first..=last).step_by(step) {
                field.set |= 1 << value;
            }
        }
        Some(field)
    }
}

fn has(set: u64, value: i64) -> bool {
    (0..64).contains(&value) && set >> value & 1 == 1
}

impl Cron {
    /// Reads six fields, separated by blanks.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split_ascii_whitespace();
        let mut next = |range: Range| range.field(fields.next()?);
        let cron = Self {
            seconds: next(Range::new(0, 59, &[]))?.set,
            minutes: next(Range::new(0, 59, &[]))?.set,
            hours: next(Range::new(0, 23, &[]))?.set,
            days: next(Range::new(1, 31, &[]))?,
            months: next(Range::new(1, 12, &MONTHS))?.set,
            weekdays: next(Range::new(0, 6, &WEEKDAYS))?,
        };
        fields.next().is_none().then_some(cron)
    }

    /// The first run after a civil time; both in seconds since 1970-01-01T00:00:00 of that zone's clock.
    #[must_use]
    pub fn next_after(&self, civil: i64) -> Option<i64> {
        let start = civil.checked_add(1)?;
        let (today, mut from) = (start.div_euclid(DAY_SECONDS), start.rem_euclid(DAY_SECONDS));
        for day in today..=today.checked_add(DAYS_AHEAD_MAX)? {
            if self.runs_on(day)
                && let Some(second) = self.next_second(from)
            {
                return Some(day * DAY_SECONDS + second);
            }
            from = 0;
        }
        None
    }

    /// With both kinds of days restricted either is enough, otherwise both have to fit.
    fn runs_on(&self, day: i64) -> bool {
        let (_, month, of_month) = civil_of_days(day);
        // 1970-01-01 was a Thursday.
        let weekday = (day + 4).rem_euclid(7);
        let (by_date, by_weekday) = (
            has(self.days.set, of_month),
            has(self.weekdays.set, weekday),
        );
        let fits = if self.days.any || self.weekdays.any {
            by_date && by_weekday
        } else {
            by_date || by_weekday
        };
        has(self.months, month) && fits
    }

    /// The first allowed second of a day that is not below `from`.
    fn next_second(&self, from: i64) -> Option<i64> {
        for hour in (from / 3600..24).filter(|hour| has(self.hours, *hour)) {
            let from = (from - hour * 3600).max(0);
            for minute in (from / 60..60).filter(|minute| has(self.minutes, *minute)) {
                let from = (from - minute * 60).max(0);
                if let Some(second) = (from..60).find(|second| has(self.seconds, *second)) {
                    return Some(hour * 3600 + minute * 60 + second);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::timestamp::Timestamp;
    use super::*;

    fn seconds(time: &str) -> i64 {
        let time: Timestamp = time.parse().unwrap();
        (time.0 / 1_000_000_000) as i64
    }

    fn next(pattern: &str, after: &str) -> String {
        let cron = Cron::parse(pattern).unwrap();
        let next = cron.next_after(seconds(after)).unwrap();
        Timestamp(next as u64 * 1_000_000_000).to_string()
    }

    #[test]
    fn the_next_run_is_found() {
        for (pattern, after, expected) in [
            (
                "* * * * * *",
                "2026-11-30T03:00:00Z",
                "2026-11-30T03:00:01Z",
            ),
            (
                "0 0 * * * *",
                "2026-11-30T03:00:00Z",
                "2026-11-30T04:00:00Z",
            ),
            (
                "0 0 0 * * *",
                "2026-11-30T03:00:00Z",
                "2026-12-01T00:00:00Z",
            ),
            (
                "0 0 0 1 1 *",
                "2026-11-30T03:00:00Z",
                "2027-01-01T00:00:00Z",
            ),
            (
                "0 0 0 * * 0",
                "2026-11-30T03:00:00Z",
                "2026-12-06T00:00:00Z",
            ),
            (
                "0 */20 * * * *",
                "2026-11-30T23:45:00Z",
                "2026-12-01T00:00:00Z",
            ),
            (
                "5/15 * * * * *",
                "2026-11-30T23:45:21Z",
                "2026-11-30T23:45:35Z",
            ),
            (
                "0 30 4 1,15 * Fri",
                "2026-11-30T05:00:00Z",
                "2026-12-01T04:30:00Z",
            ),
            (
                "0 30 4 1,15 * 5",
                "2026-12-01T05:00:00Z",
                "2026-12-04T04:30:00Z",
            ),
            (
                "0 0 12 29 feb ?",
                "2026-11-30T05:00:00Z",
                "2028-02-29T12:00:00Z",
            ),
            (
                "59 59 23 31 DEC *",
                "2026-12-31T23:59:58Z",
                "2026-12-31T23:59:59Z",
            ),
        ] {
            assert_eq!(next(pattern, after), expected, "{pattern} after {after}");
        }
        let never = Cron::parse("0 0 0 31 2 *").unwrap();
        assert_eq!(never.next_after(seconds("2026-01-01T00:00:00Z")), None);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in [
            "",
            "* * * * *",
            "* * * * * * *",
            "60 * * * * *",
            "* * * 0 * *",
            "* * * * 13 *",
            "* * * * * 7",
            "5-1 * * * * *",
            "*/0 * * * * *",
            "a * * * * *",
            "1, * * * * *",
            "-1 * * * * *",
            "+1 * * * * *",
        ] {
            assert_eq!(Cron::parse(bad), None, "{bad}");
        }
    }
}
