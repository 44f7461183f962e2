//! What people type and read.

use std::time::Duration;

use super::{
    count_shown, duration, duration_shown, harmless, header, moment, moment_shown, payload_shown,
    size, size_shown,
};

#[test]
fn durations_have_units_and_may_be_added_up() {
    assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
    assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
    assert_eq!(duration("0"), Ok(Duration::ZERO));
    for bad in [
        "",
        "5",
        "s",
        "5 s",
        "-5s",
        "5x",
        "1.5s",
        "99999999999d",
        "5mss",
    ] {
        assert!(duration(bad).is_err(), "{bad}");
    }
}

#[test]
fn sizes_are_powers_of_1024() {
    assert_eq!(size("512"), Ok(512));
    assert_eq!(size("64k"), Ok(65_536));
    assert_eq!(size("1MiB"), Ok(1_048_576));
    for bad in ["", "K", "-1", "1X", "99999999999T"] {
        assert!(size(bad).is_err(), "{bad}");
    }
    assert_eq!(size_shown(1023), "1023 B");
    assert_eq!(size_shown(1536), "1.5 KiB");
}

#[test]
fn what_is_shown_is_short() {
    assert_eq!(duration_shown(Duration::from_micros(250)), "250µs");
    assert_eq!(duration_shown(Duration::from_micros(1500)), "1.5ms");
    assert_eq!(duration_shown(Duration::from_secs(5)), "5s");
    assert_eq!(duration_shown(Duration::from_secs(7980)), "2h13m");
    assert_eq!(duration_shown(Duration::from_secs(86_400)), "1d");
    assert_eq!(count_shown(7), "7");
    assert_eq!(count_shown(1_234_567), "1,234,567");
}

#[test]
fn times_come_back_as_they_went() {
    let at = moment("2026-01-31T12:00:00+02:00").unwrap();
    assert_eq!(moment_shown(at), "2026-01-31 10:00:00");
    assert!(moment("yesterday").is_err());
}

#[test]
fn headers_are_split_at_the_first_colon() {
    assert_eq!(
        header("Link: http://x"),
        Ok(("Link".into(), "http://x".into()))
    );
    for bad in ["x", ": y", "a b: c", "a: b\r\nc: d"] {
        assert!(header(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_payload_can_not_steer_the_terminal() {
    assert_eq!(harmless("a\x1b[2Jb\n"), "a\\u{1b}[2Jb\n");
    assert_eq!(payload_shown(b"plain \xc3\xa9"), "plain é");
    assert_eq!(payload_shown(&[0xff, 0]), "(2 bytes, no text: ff00)");
    assert!(payload_shown(&[0xff; 100]).contains('…'));
}
