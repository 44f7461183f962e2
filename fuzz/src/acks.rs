//! Acknowledgements and pull requests: what is read is written back as it was, and numbers stay in the
//! bounds that the consumer's cursor relies on.

use unibus_proto::jetstream::ack::{AckKind, AckTokens, TERM_REASON_BYTES_MAX};
use unibus_proto::jetstream::pull::{PRIORITY_MAX, PullRequest};

/// All bytes are an acknowledgement's subject, then its payload, then a pull request.
pub fn acks(data: &[u8]) {
    if let Some(tokens) = AckTokens::parse(data) {
        let mut written = Vec::new();
        tokens.write(&mut written);
        let again = AckTokens::parse(&written);
        let first_form = AckTokens {
            domain: None,
            account: None,
            ..tokens
        };
        assert_eq!(again, Some(first_form));
    }
    match AckKind::parse(data) {
        Some(AckKind::Nak { delay_ns }) => assert_ne!(delay_ns, Some(0)),
        Some(AckKind::Term { reason }) => {
            // Damaged text grows by its replacement characters.
            let len = reason.map_or(0, |reason| reason.len());
            assert!(len <= TERM_REASON_BYTES_MAX * 3);
        }
        Some(AckKind::Next(Ok(request))) => bounded(&request),
        _ => {}
    }
    if let Ok(request) = PullRequest::parse(data) {
        bounded(&request);
    }
}

fn bounded(request: &PullRequest) {
    assert!(request.batch >= 1);
    assert!((0..=PRIORITY_MAX).contains(&request.priority));
    let beats = request.idle_heartbeat;
    assert!(beats <= 0 || request.expires >= beats.saturating_mul(2));
}
