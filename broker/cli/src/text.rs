//! Durations, sizes, times and payloads as people type and read them. Pure.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Units of time, the longest name first so that `ms` is not taken for `m`.
const TIME_UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];
const SIZE_UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
/// Bytes of a payload that is no text which are shown.
const HEX_SHOWN: usize = 32;

/// A duration: `500ms`, `5s`, `1h30m`, `7d`.
///
/// # Errors
/// Words for a person.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || {
        format!("{text:?} is no duration; wanted a number and a unit, e.g. 500ms, 5s, 1h30m, 7d")
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, 0u64);
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let (name, nanos) = TIME_UNITS
            .iter()
            .find(|(name, _)| {
                rest.strip_prefix(name)
                    .is_some_and(|after| !after.starts_with(|c: char| c.is_alphabetic()))
            })
            .ok_or_else(bad)?;
        rest = &rest[name.len()..];
        total = number
            .checked_mul(*nanos)
            .and_then(|nanos| total.checked_add(nanos))
            .ok_or_else(bad)?;
    }
    Ok(Duration::from_nanos(total))
}

/// A size in bytes: `512`, `64K`, `1MiB`, `2GB` (powers of 1024).
///
/// # Errors
/// Words for a person.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let bad = || {
        format!("{text:?} is no size; wanted bytes or a number with K, M, G or T, e.g. 64K, 1MiB")
    };
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| bad())?;
    let power = match text[digits..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 1,
        "M" | "MB" | "MIB" => 2,
        "G" | "GB" | "GIB" => 3,
        "T" | "TB" | "TIB" => 4,
        _ => return Err(bad()),
    };
    number.checked_mul(1024u64.pow(power)).ok_or_else(bad)
}

/// A header: `Name: value`.
///
/// # Errors
/// Words for a person.
pub(crate) fn header(text: &str) -> Result<(String, String), String> {
    let bad = || format!("{text:?} is no header; wanted 'Name: value'");
    let (name, value) = text.split_once(':').ok_or_else(bad)?;
    let (name, value) = (name.trim(), value.trim());
    let plain = |c: char| c.is_ascii_graphic() && c != ':';
    if name.is_empty() || !name.chars().all(plain) || value.contains(['\r', '\n']) {
        return Err(bad());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// A time: RFC 3339, as `2026-01-31T12:00:00Z`.
///
/// # Errors
/// Words for a person.
pub(crate) fn moment(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| format!("{text:?} is no time; wanted RFC 3339, e.g. 2026-01-31T12:00:00Z"))
}

/// A size for people: `1.5 KiB`.
pub(crate) fn size_shown(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < SIZE_UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = SIZE_UNITS.get(unit).copied().unwrap_or("B");
    if unit == 0 {
        format!("{bytes} {name}")
    } else {
        format!("{value:.1} {name}")
    }
}

/// A duration for people, two units at most: `2h13m`, `1.5ms`.
pub(crate) fn duration_shown(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |big: u64, big_name: &str, small: u64, small_name: &str| match small {
        0 => format!("{big}{big_name}"),
        _ => format!("{big}{big_name}{small}{small_name}"),
    };
    match seconds {
        0 if duration.as_micros() < 1000 => format!("{}µs", duration.as_micros()),
        0 => format!("{:.1}ms", duration.as_secs_f64() * 1000.0).replace(".0ms", "ms"),
        1..60 => format!("{:.1}s", duration.as_secs_f64()).replace(".0s", "s"),
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// A number with its thousands apart: `1,234,567`.
pub(crate) fn count_shown(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time to the second, in UTC: `2026-01-31 12:00:00`.
pub(crate) fn moment_shown(moment: OffsetDateTime) -> String {
    let at = moment.to_offset(time::UtcOffset::UTC);
    let (date, clock) = (at.date(), at.time());
    format!(
        "{date} {:02}:{:02}:{:02}",
        clock.hour(),
        clock.minute(),
        clock.second()
    )
}

/// A time in RFC 3339; empty where it can't be written so.
pub(crate) fn rfc3339(moment: OffsetDateTime) -> String {
    moment.format(&Rfc3339).unwrap_or_default()
}

/// A payload for people: text as it is but for what would steer a terminal, else its first bytes.
pub(crate) fn payload_shown(payload: &[u8]) -> String {
    match std::str::from_utf8(payload) {
        Ok(text) => harmless(text),
        Err(_) => {
            let shown = payload.get(..HEX_SHOWN).unwrap_or(payload);
            let more = if shown.len() < payload.len() {
                "…"
            } else {
                ""
            };
            format!(
                "({} bytes, no text: {}{more})",
                payload.len(),
                data_encoding::HEXLOWER.encode(shown)
            )
        }
    }
}

/// Text whose control characters can't steer a terminal; line ends and tabs stay.
pub(crate) fn harmless(text: &str) -> String {
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(steers) {
        return text.to_owned();
    }
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

#[cfg(test)]
mod tests;
