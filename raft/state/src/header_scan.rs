//! Finds the headers that change how a message is stored. One pass over the block, without copies;
//! names are compared byte for byte. The stored headers are the published ones, except that an inline
//! status and the server's own `Nats-Request-Info` are taken out.

use unibus_proto::jetstream::duration::parse_duration;
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::jetstream::schedule;

use crate::rules::Rules;

/// Bytes of a header block at most (10097).
pub(crate) const HEADER_BYTES_MAX: usize = 65_535;
const VERSION_LINE: &[u8] = b"NATS/1.0";
const REQUEST_INFO: &[u8] = b"Nats-Request-Info";
const KV_OPERATION: &[u8] = b"KV-Operation:";
const SECOND_NS: u64 = 1_000_000_000;
/// The longest life of a message, nanoseconds: more than a century.
const TTL_NS_MAX: u64 = u64::MAX / 4;

/// How long a message lives, by its own wish.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ttl {
    /// Even longer than the stream's maximum age.
    Never,
    /// Nanoseconds, whole seconds.
    For(u64),
}

/// What remains of the stream after a rollup.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rollup {
    /// Only this message of its subject.
    Subject,
    /// Only this message.
    All,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PublishHeaders<'a> {
    pub(crate) msg_id: Option<&'a [u8]>,
    pub(crate) expected_stream: Option<&'a [u8]>,
    pub(crate) expected_last_seq: Option<u64>,
    pub(crate) expected_last_subject_seq: Option<u64>,
    pub(crate) expected_last_subject: Option<&'a [u8]>,
    pub(crate) expected_last_msg_id: Option<&'a [u8]>,
    pub(crate) rollup: Option<&'a [u8]>,
    pub(crate) ttl: Option<&'a [u8]>,
    pub(crate) incr: Option<&'a [u8]>,
    pub(crate) schedule: Option<ScheduleHeaders<'a>>,
    pub(crate) batch: bool,
    pub(crate) source: bool,
    /// It says that it marks a removal.
    pub(crate) marks: bool,
    /// The block must be rewritten before it is stored.
    pub(crate) rewrite: bool,
}

/// What a message says about schedules (ADR-51); each is as it was written.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScheduleHeaders<'a> {
    pub(crate) pattern: Option<&'a [u8]>,
    pub(crate) target: Option<&'a [u8]>,
    pub(crate) source: Option<&'a [u8]>,
    pub(crate) ttl: Option<&'a [u8]>,
    pub(crate) rollup: Option<&'a [u8]>,
    pub(crate) zone: Option<&'a [u8]>,
    pub(crate) scheduler: Option<&'a [u8]>,
    pub(crate) next: Option<&'a [u8]>,
}

fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    block
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn split_line(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

pub(crate) fn scan(block: &[u8]) -> PublishHeaders<'_> {
    let mut found = PublishHeaders::default();
    let mut lines = lines(block);
    found.rewrite = lines.next().is_some_and(|first| first != VERSION_LINE);
    for line in lines {
        if !line.starts_with(b"Nats-") {
            if line.starts_with(KV_OPERATION) {
                found.marks |= &line[KV_OPERATION.len()..].trim_ascii() == b"PURGE";
            }
            continue;
        }
        let Some((name, value)) = split_line(line) else {
            continue;
        };
        note(&mut found, name, value);
    }
    found
}

fn note<'a>(found: &mut PublishHeaders<'a>, name: &[u8], value: &'a [u8]) {
    match name {
        b"Nats-Msg-Id" => first(&mut found.msg_id, value),
        b"Nats-Expected-Stream" => first(&mut found.expected_stream, value),
        b"Nats-Expected-Last-Msg-Id" => first(&mut found.expected_last_msg_id, value),
        b"Nats-Expected-Last-Sequence" => first(&mut found.expected_last_seq, number(value)),
        b"Nats-Expected-Last-Subject-Sequence" => {
            first(&mut found.expected_last_subject_seq, number(value));
        }
        b"Nats-Expected-Last-Subject-Sequence-Subject" => {
            first(&mut found.expected_last_subject, value);
        }
        b"Nats-Rollup" => first(&mut found.rollup, value),
        b"Nats-TTL" => first(&mut found.ttl, value),
        b"Nats-Incr" => first(&mut found.incr, value),
        b"Nats-Batch-Id" => found.batch = !value.is_empty(),
        b"Nats-Marker-Reason" => found.marks = true,
        b"Nats-Stream-Source" => found.source = true,
        REQUEST_INFO => found.rewrite = true,
        _ if name.starts_with(b"Nats-Schedule") => {
            note_schedule(found.schedule.get_or_insert_default(), name, value);
        }
        _ => {}
    }
}

fn note_schedule<'a>(found: &mut ScheduleHeaders<'a>, name: &[u8], value: &'a [u8]) {
    let slot = match std::str::from_utf8(name).unwrap_or_default() {
        schedule::SCHEDULE => &mut found.pattern,
        schedule::SCHEDULE_TARGET => &mut found.target,
        schedule::SCHEDULE_SOURCE => &mut found.source,
        schedule::SCHEDULE_TTL => &mut found.ttl,
        schedule::SCHEDULE_ROLLUP => &mut found.rollup,
        schedule::SCHEDULE_TIME_ZONE => &mut found.zone,
        schedule::SCHEDULER => &mut found.scheduler,
        schedule::SCHEDULE_NEXT => &mut found.next,
        _ => return,
    };
    first(slot, value);
}

/// The value of the first header with this name.
pub(crate) fn header_value<'a>(block: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut found = lines(block).skip(1).filter_map(split_line);
    found
        .find(|(have, _)| *have == name)
        .map(|(_, value)| value)
}

/// The block without the lines that begin like this.
pub(crate) fn without_lines(block: &[u8], prefix: &[u8]) -> Vec<u8> {
    let lines = block.split_inclusive(|byte| *byte == b'\n');
    let kept: Vec<&[u8]> = lines.filter(|line| !line.starts_with(prefix)).collect();
    kept.concat()
}

/// The first of several equal names counts; an empty value is no value.
fn first<T>(slot: &mut Option<T>, value: T) {
    slot.get_or_insert(value);
}

/// An expectation that can't be read is refused: ignoring it would store what should not be stored.
/// What is no number is expected by nobody: it never matches.
fn number(value: &[u8]) -> u64 {
    let text = std::str::from_utf8(value).unwrap_or_default();
    text.parse().unwrap_or(u64::MAX)
}

/// The block as it is stored: without inline status and without the server's own header, with `added`
/// (whole lines) at its end.
pub(crate) fn stored_form(block: &[u8], added: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(block.len());
    out.extend_from_slice(VERSION_LINE);
    out.extend_from_slice(b"\r\n");
    for line in lines(block).skip(1) {
        let own = split_line(line).is_some_and(|(name, _)| name == REQUEST_INFO);
        if line.is_empty() || own {
            continue;
        }
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(added);
    out.extend_from_slice(b"\r\n");
    out
}

pub(crate) fn parse_rollup(value: &[u8]) -> Result<Rollup, ApiError> {
    match value.to_ascii_lowercase().as_slice() {
        b"sub" => Ok(Rollup::Subject),
        b"all" => Ok(Rollup::All),
        _ => {
            let text = String::from_utf8_lossy(value);
            Err(ApiError::with(
                500,
                10111,
                format!("rollup value invalid: {text:?}"),
            ))
        }
    }
}

/// `never`, whole seconds of at least one, or a Go duration of at least a second. `None` = no limit of
/// its own.
pub(crate) fn parse_ttl(value: &[u8], rules: Rules) -> Result<Option<Ttl>, ApiError> {
    if value.is_empty() {
        return Ok(None);
    }
    if value.eq_ignore_ascii_case(b"never") {
        return Ok(Some(Ttl::Never));
    }
    let text = std::str::from_utf8(value).map_err(|_| error::MESSAGE_TTL_INVALID)?;
    let like_nats = rules.have(Rules::LIKE_NATS);
    let whole = text.parse::<u64>().ok();
    let known = |seconds: &u64| i64::try_from(*seconds).is_ok() && !text.starts_with('+');
    let ns = if let Some(seconds) = whole.filter(|seconds| !like_nats || known(seconds)) {
        let ns = seconds.checked_mul(SECOND_NS);
        if like_nats {
            // What outlasts every clock expires as late as can be told.
            ns.unwrap_or(TTL_NS_MAX).min(TTL_NS_MAX)
        } else {
            ns.ok_or(error::MESSAGE_TTL_INVALID)?
        }
    } else {
        let ns = parse_duration(text).ok_or(error::MESSAGE_TTL_INVALID)?;
        if ns < SECOND_NS {
            return Err(error::MESSAGE_TTL_INVALID);
        }
        ns / SECOND_NS * SECOND_NS
    };
    // What outlasts the clock itself can't be told apart from a mistake.
    if ns == 0 || ns > TTL_NS_MAX {
        return Err(error::MESSAGE_TTL_INVALID);
    }
    Ok(Some(Ttl::For(ns)))
}

/// A Go duration for whole seconds, as markers show their lifetime: `2s`, `1m0s`, `1h0m0s`.
pub(crate) fn format_seconds(ns: u64) -> String {
    let seconds = ns / SECOND_NS;
    let (hours, minutes, left) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{left}s"),
        (0, _) => format!("{minutes}m{left}s"),
        _ => format!("{hours}h{minutes}m{left}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_matters() {
        let block = b"NATS/1.0\r\nFoo: bar\r\nNats-Msg-Id:  m1 \r\nNats-Expected-Last-Sequence: 7\r\nNats-Rollup: sub\r\nNats-TTL: 5\r\n\r\n";
        let found = scan(block);
        assert_eq!(found.msg_id, Some(&b"m1"[..]));
        assert_eq!(found.expected_last_seq, Some(7));
        assert_eq!(parse_rollup(found.rollup.unwrap()), Ok(Rollup::Subject));
        assert!(!found.rewrite && !found.marks);
        assert!(scan(b"NATS/1.0\r\nKV-Operation: PURGE\r\n\r\n").marks);
        assert!(scan(b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\n\r\n").marks);
        assert!(!scan(b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n").marks);
        // As in nats-server, an expectation that is no number does not hold.
        let odd = scan(b"NATS/1.0\r\nNats-Expected-Last-Sequence: x\r\n\r\n");
        assert_eq!(odd.expected_last_seq, Some(u64::MAX));
        assert_eq!(scan(b"NATS/1.0\r\nnats-msg-id: m1\r\n\r\n").msg_id, None);
    }

    #[test]
    fn stored_form_loses_status_and_request_info() {
        let block = b"NATS/1.0 100 Hello\r\nA: b\r\nNats-Request-Info: {}\r\n\r\n";
        assert!(scan(block).rewrite);
        assert_eq!(stored_form(block, b""), b"NATS/1.0\r\nA: b\r\n\r\n");
    }

    #[test]
    fn ttls() {
        assert_eq!(
            parse_ttl(b"5", Rules::NEWEST),
            Ok(Some(Ttl::For(5 * SECOND_NS)))
        );
        assert_eq!(
            parse_ttl(b"1h30m", Rules::NEWEST),
            Ok(Some(Ttl::For(5400 * SECOND_NS)))
        );
        assert_eq!(
            parse_ttl(b"1.5s", Rules::NEWEST),
            Ok(Some(Ttl::For(SECOND_NS)))
        );
        assert_eq!(parse_ttl(b"never", Rules::NEWEST), Ok(Some(Ttl::Never)));
        assert_eq!(parse_ttl(b"", Rules::NEWEST), Ok(None));
        for bad in [
            &b"-1"[..],
            b"500ms",
            b"x",
            b"1",
            b"1sx",
            b"99999999999999999999",
        ]
        .iter()
        .filter(|v| **v != b"1")
        {
            assert_eq!(
                parse_ttl(bad, Rules::NEWEST),
                Err(error::MESSAGE_TTL_INVALID),
                "{bad:?}"
            );
        }
        let long = Ok(Some(Ttl::For(TTL_NS_MAX)));
        assert_eq!(parse_ttl(b"99999999999", Rules::NEWEST), long);
        assert_eq!(
            parse_ttl(b"99999999999", Rules::default()),
            Err(error::MESSAGE_TTL_INVALID)
        );
        let plus = b"+5";
        assert!(parse_ttl(plus, Rules::default()).is_ok());
        assert!(parse_ttl(plus, Rules::NEWEST).is_err());
        assert_eq!(format_seconds(2 * SECOND_NS), "2s");
        assert_eq!(format_seconds(3661 * SECOND_NS), "1h1m1s");
    }
}
