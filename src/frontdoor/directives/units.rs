//! Durations, sizes and addresses as nats-server writes them, and the word that somebody meant.
//! Pure text.

use std::time::Duration;

/// Letters by which a word may differ from the one that was meant.
const TYPING_ERRORS_MAX: usize = 2;

/// Reads Go's form: numbers with units, `1h2m3.5s`, `250ms`. Negative ones are refused.
pub(super) fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut sum = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        sum = sum.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = tail;
    }
    Some(sum)
}

/// Reads a size that stands in quotes: `10MB` (1024), `10M` (1024 as well, as nats-server has it there).
pub(super) fn size(text: &str) -> Option<i64> {
    let number = crate::config::limits::parse_size(text).ok()?;
    i64::try_from(number).ok()
}

/// Splits `host:port`, `:port` or `port`. An IPv6 address stands in brackets.
pub(super) fn host_port(text: &str) -> Option<(Option<String>, i64)> {
    if let Ok(port) = text.parse() {
        return Some((None, port));
    }
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = Some(host.to_owned()).filter(|host| !host.is_empty());
    Some((host, port.parse().ok()?))
}

/// The word of `known` that `word` was meant to be.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = known.iter().map(|other| (distance(word, other), *other));
    let (errors, other) = near.min_by_key(|(errors, _)| *errors)?;
    (errors <= TYPING_ERRORS_MAX && errors < word.len()).then_some(other)
}

/// Letters to change, add or leave out to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("2s"), Some(Duration::from_secs(2)));
        assert_eq!(duration("1h2m3.5s"), Some(Duration::from_millis(3_723_500)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("0"), Some(Duration::ZERO));
        for bad in [
            "",
            "s",
            "2",
            "2x",
            "-2s",
            "1.2.3s",
            "9999999999999999999999h",
        ] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses_are_split() {
        assert_eq!(host_port("a.b:1"), Some((Some("a.b".into()), 1)));
        assert_eq!(host_port("[::1]:-1"), Some((Some("::1".into()), -1)));
        assert_eq!(host_port(":4222"), Some((None, 4222)));
        assert_eq!(host_port("4222"), Some((None, 4222)));
        assert_eq!(host_port("a.b"), None);
    }

    #[test]
    fn a_word_that_was_meant_is_found() {
        assert_eq!(nearest("prot", &["host", "port"]), Some("port"));
        assert_eq!(nearest("jetstraem", &["jetstream"]), Some("jetstream"));
        assert_eq!(nearest("zebra", &["port", "host"]), None);
    }
}
