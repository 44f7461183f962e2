//! Durations as Go writes them (`1h30m`, `1.5s`): clients send them in headers and acknowledgements,
//! and nats-server's texts show them.

const SECOND_NS: u64 = 1_000_000_000;

/// A non-negative Go duration such as `1h30m` or `1.5s`, in nanoseconds.
#[must_use]
pub fn parse_duration(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale: u64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND_NS,
            "m" => 60 * SECOND_NS,
            "h" => 3600 * SECOND_NS,
            _ => return None,
        };
        total = total.checked_add(scaled(number, scale)?)?;
        rest = tail;
    }
    Some(total)
}

fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut value = whole.checked_mul(scale)?;
    let mut place = scale;
    for digit in fraction.bytes() {
        place /= 10;
        value =
            value.checked_add(u64::from(digit.checked_sub(b'0').filter(|d| *d < 10)?) * place)?;
    }
    Some(value)
}

/// Nanoseconds as Go prints them: `0s`, `1.5ms`, `2m0s`.
#[must_use]
pub fn format_duration(ns: u64) -> String {
    let (unit, scale) = match ns {
        0 => return "0s".to_owned(),
        1..1_000 => ("ns", 1),
        1_000..1_000_000 => ("µs", 1_000),
        1_000_000..SECOND_NS => ("ms", 1_000_000),
        _ => ("s", SECOND_NS),
    };
    if ns < SECOND_NS {
        return format!("{}{unit}", decimal(ns, scale));
    }
    let (hours, minutes) = (ns / (3600 * SECOND_NS), ns / (60 * SECOND_NS) % 60);
    let seconds = decimal(ns % (60 * SECOND_NS), SECOND_NS);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `value / scale` without trailing zeros; `scale` is a power of ten.
fn decimal(value: u64, scale: u64) -> String {
    let (whole, part) = (value / scale, value % scale);
    if part == 0 {
        return whole.to_string();
    }
    let width = scale.ilog10() as usize;
    let digits = format!("{part:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print() {
        for (text, ns) in [
            ("0s", 0),
            ("7ns", 7),
            ("1.5µs", 1_500),
            ("20ms", 20_000_000),
            ("1s", SECOND_NS),
            ("1.25s", 1_250_000_000),
            ("2m0s", 120 * SECOND_NS),
            ("1h1m1s", 3661 * SECOND_NS),
        ] {
            assert_eq!(format_duration(ns), text);
            assert_eq!(parse_duration(text), Some(ns));
        }
        assert_eq!(parse_duration("1h30m"), Some(5400 * SECOND_NS));
        for bad in ["", "5", "s", "1x", "-1s", "1.s.", "99999999999h"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
