//! Time as JetStream writes it: RFC 3339 in UTC with up to nine trimmed fraction digits.
//! Never reads a clock.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

const NANOS: u64 = 1_000_000_000;
const DAY_SECONDS: i64 = 86_400;

/// Nanoseconds since the Unix epoch. 0 stands for "no time" and is written as Go's zero time
/// `0001-01-01T00:00:00Z`; anything before the epoch reads as 0.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

/// The text is not an RFC 3339 time.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Error)]
#[error("not an RFC 3339 time")]
pub struct TimestampError;

impl Timestamp {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// Whether this is "no time".
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0001-01-01T00:00:00Z");
        }
        let seconds = (self.0 / NANOS) as i64;
        let fraction = self.0 % NANOS;
        let (year, month, day) = civil_of_days(seconds.div_euclid(DAY_SECONDS));
        let of_day = seconds.rem_euclid(DAY_SECONDS);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
        )?;
        if fraction > 0 {
            let digits = format!("{fraction:09}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text.as_bytes()).ok_or(TimestampError)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Proleptic Gregorian date of a day number counted from 1970-01-01.
pub(crate) fn civil_of_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Day number counted from 1970-01-01 of a proleptic Gregorian date.
fn days_of_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0i64, |sum, d| {
        d.is_ascii_digit().then(|| sum * 10 + i64::from(d - b'0'))
    })
}

fn parse(text: &[u8]) -> Option<Timestamp> {
    if text.len() < 20 || text.len() > 40 || text[4] != b'-' || text[7] != b'-' {
        return None;
    }
    if !matches!(text[10], b'T' | b't' | b' ') || text[13] != b':' || text[16] != b':' {
        return None;
    }
    let (year, month, day) = (
        number(&text[..4])?,
        number(&text[5..7])?,
        number(&text[8..10])?,
    );
    let (hour, minute) = (number(&text[11..13])?, number(&text[14..16])?);
    let second = number(&text[17..19])?;
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 {
        return None;
    }
    if second > 60 {
        return None;
    }
    let (fraction, zone) = fraction_of(&text[19..])?;
    let offset = offset_seconds(zone)?;
    let seconds =
        days_of_civil(year, month, day) * DAY_SECONDS + hour * 3600 + minute * 60 + second - offset;
    let Ok(seconds) = u64::try_from(seconds) else {
        return Some(Timestamp::ZERO);
    };
    Some(Timestamp(
        seconds.checked_mul(NANOS)?.checked_add(fraction)?,
    ))
}

/// Splits `.123Z` into nanoseconds and the zone; digits past the ninth are dropped.
fn fraction_of(rest: &[u8]) -> Option<(u64, &[u8])> {
    if rest.first() != Some(&b'.') {
        return Some((0, rest));
    }
    let end = rest[1..].iter().position(|b| !b.is_ascii_digit())? + 1;
    if end == 1 {
        return None;
    }
    let mut value = 0u64;
    for place in 0..9 {
        let digit = rest.get(1 + place).filter(|_| 1 + place < end);
        value = value * 10 + digit.map_or(0, |d| u64::from(d - b'0'));
    }
    Some((value, &rest[end..]))
}

fn offset_seconds(zone: &[u8]) -> Option<i64> {
    match zone {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let total = number(&[*h1, *h2])? * 3600 + number(&[*m1, *m2])? * 60;
            Some(if *sign == b'-' { -total } else { total })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_trimmed_utc() {
        assert_eq!(Timestamp(0).to_string(), "0001-01-01T00:00:00Z");
        assert_eq!(
            Timestamp(1_795_319_421_866_465_442).to_string(),
            "2026-11-22T03:50:21.866465442Z"
        );
        assert_eq!(Timestamp(1_000_000_000).to_string(), "1970-01-01T00:00:01Z");
        assert_eq!(
            Timestamp(1_500_000_000).to_string(),
            "1970-01-01T00:00:01.5Z"
        );
        assert_eq!(
            Timestamp(951_782_400 * NANOS).to_string(),
            "2000-02-29T00:00:00Z"
        );
    }

    #[test]
    fn reads_offsets_and_fractions() {
        assert_eq!("0001-01-01T00:00:00Z".parse(), Ok(Timestamp::ZERO));
        assert_eq!(
            "1970-01-01T01:00:01.25+01:00".parse(),
            Ok(Timestamp(1_250_000_000))
        );
        assert_eq!(
            "1969-12-31T23:00:02-01:00".parse(),
            Ok(Timestamp(2_000_000_000))
        );
        for bad in [
            "",
            "2020",
            "2020-13-01T00:00:00Z",
            "2020-01-01T00:00:00",
            "2020-01-01T00:00:00.Z",
        ] {
            assert_eq!(bad.parse::<Timestamp>(), Err(TimestampError), "{bad}");
        }
    }

    #[test]
    fn every_time_reads_back() {
        for ns in [1, 999, 1_795_319_421_866_465_442, 4_102_444_799_999_999_999] {
            assert_eq!(Timestamp(ns).to_string().parse(), Ok(Timestamp(ns)));
        }
    }
}
