//! The subjects of flow control: clients publish to them to say how far they have read.

use unibus_proto::headers::HeaderMap;

/// What every flow control reply subject starts with:
/// `$JS.FC.<stream>.<consumer>.<request>`.
const FLOW_PREFIX: &str = "$JS.FC.";

/// The stream and consumer that a flow control subject names.
pub(super) fn target(subject: &[u8]) -> Option<(&str, &str)> {
    let rest = subject.strip_prefix(FLOW_PREFIX.as_bytes())?;
    let rest = std::str::from_utf8(rest).ok()?;
    let mut tokens = rest.split('.');
    let found = (tokens.next()?, tokens.next()?);
    (tokens.next().is_some() && tokens.next().is_none()).then_some(found)
}

/// The stream sequence up to which an answer with these headers acknowledges (ADR-60).
pub(super) fn settled(headers: &[u8]) -> Option<u64> {
    let map = HeaderMap::parse(headers).ok()?;
    map.get("Nats-Last-Stream")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::target;

    #[test]
    fn subjects_name_the_consumer() {
        assert_eq!(target(b"$JS.FC.S.c.AB12"), Some(("S", "c")));
        assert_eq!(target(b"$JS.FC.S.c"), None);
        assert_eq!(target(b"$JS.FC.S.c.x.y"), None);
        assert_eq!(target(b"$JS.ACK.S.c.x"), None);
    }
}
