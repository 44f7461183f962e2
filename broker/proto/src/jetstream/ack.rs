//! Acknowledgements on the wire: where a delivery stands (the reply subject of a delivered message) and
//! what its receiver says about it (nats-surface §2.7). Only text; what it does is in `unibus-state`.

use std::io::Write as _;

use serde::Deserialize;

use super::duration::parse_duration;
use super::or_default;
use super::pull::{PullError, PullRequest};

/// Bytes of a termination's reason that are kept.
pub const TERM_REASON_BYTES_MAX: usize = 1024;

/// What a receiver says about a delivered message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AckKind {
    /// Done: empty, `+ACK` or `+OK`.
    Ack,
    /// `-NAK`: deliver it again, at once or after a delay.
    Nak {
        /// Nanoseconds.
        delay_ns: Option<u64>,
    },
    /// `+WPI`: still working, the time to acknowledge starts again.
    Progress,
    /// `+TERM`: never deliver it again.
    Term {
        /// At most [`TERM_REASON_BYTES_MAX`] bytes.
        reason: Option<String>,
    },
    /// `+NXT`: done, and a pull request whose reply subject is that of the acknowledgement.
    Next(Result<PullRequest, PullError>),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NakOptions {
    #[serde(deserialize_with = "or_default")]
    delay: i64,
}

impl AckKind {
    /// Reads an acknowledgement's payload; `None` is something else, which changes nothing.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        match body {
            b"" | b"+ACK" | b"+OK" => return Some(Self::Ack),
            b"+WPI" => return Some(Self::Progress),
            _ => {}
        }
        if let Some(rest) = body.strip_prefix(b"-NAK") {
            return Some(Self::Nak {
                delay_ns: nak_delay(rest.trim_ascii()),
            });
        }
        if let Some(rest) = body.strip_prefix(b"+TERM") {
            let rest = rest.trim_ascii();
            let kept = &rest[..rest.len().min(TERM_REASON_BYTES_MAX)];
            let reason = (!kept.is_empty()).then(|| String::from_utf8_lossy(kept).into_owned());
            return Some(Self::Term { reason });
        }
        let rest = body.strip_prefix(b"+NXT")?;
        Some(Self::Next(PullRequest::parse(rest)))
    }
}

/// A delay that can't be read is none, as in nats-server.
fn nak_delay(text: &[u8]) -> Option<u64> {
    let delay = if text.first() == Some(&b'{') {
        let options: NakOptions = serde_json::from_slice(text).ok()?;
        u64::try_from(options.delay).ok()
    } else {
        parse_duration(std::str::from_utf8(text).ok()?)
    };
    delay.filter(|ns| *ns > 0)
}

/// Where a delivery stands. Read from both forms of the subject, written in the first, which
/// permissions of existing deployments know.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct AckTokens<'a> {
    /// JetStream domain (second form only).
    pub domain: Option<&'a str>,
    /// Hash of the account (second form only).
    pub account: Option<&'a str>,
    /// Stream.
    pub stream: &'a str,
    /// Consumer.
    pub consumer: &'a str,
    /// How often the message was delivered, this time included.
    pub delivered: u64,
    /// Its sequence in the stream.
    pub stream_seq: u64,
    /// The number of this delivery.
    pub consumer_seq: u64,
    /// When the message was stored, Unix nanoseconds.
    pub ts_ns: u64,
    /// Matching messages after it when it was delivered.
    pub pending: u64,
}

impl<'a> AckTokens<'a> {
    /// Reads `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>` or,
    /// with eleven or twelve tokens, the form with domain and account hash in front of the stream.
    #[must_use]
    pub fn parse(subject: &'a [u8]) -> Option<Self> {
        let tokens = AckSubject::split(subject)?;
        let from = tokens.names_at();
        let number = |at: usize| decimal(tokens.token(from + at));
        let text = |at: usize| std::str::from_utf8(tokens.token(at)).ok();
        let (domain, account) = match from {
            0 => (None, None),
            _ => (
                Some(text(0)?).filter(|domain| *domain != "_"),
                Some(text(1)?),
            ),
        };
        Some(Self {
            domain,
            account,
            stream: text(from)?,
            consumer: text(from + 1)?,
            delivered: number(2)?,
            stream_seq: number(3)?,
            consumer_seq: number(4)?,
            ts_ns: number(5)?,
            pending: number(6)?,
        })
    }

    /// Appends the nine-token form.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"$JS.ACK.");
        out.extend_from_slice(self.stream.as_bytes());
        out.push(b'.');
        out.extend_from_slice(self.consumer.as_bytes());
        let numbers = [
            self.delivered,
            self.stream_seq,
            self.consumer_seq,
            self.ts_ns,
            self.pending,
        ];
        for number in numbers {
            // Writing to a Vec does not fail.
            let _ = write!(out, ".{number}");
        }
    }
}

/// What an acknowledgement's subject starts with.
const ACK_PREFIX: &[u8] = b"$JS.ACK.";
/// Tokens behind it, at most.
const ACK_TOKENS_MAX: usize = 10;

/// An acknowledgement's subject cut into its tokens, none of them empty. Its numbers are not looked at.
#[derive(Copy, Clone, Debug)]
pub struct AckSubject<'a> {
    rest: &'a [u8],
    /// Where each token ends in `rest`.
    ends: [usize; ACK_TOKENS_MAX],
    count: usize,
}

impl<'a> AckSubject<'a> {
    /// Cuts a subject of either form: seven tokens behind `$JS.ACK`, or nine or ten.
    #[must_use]
    pub fn split(subject: &'a [u8]) -> Option<Self> {
        let rest = subject.strip_prefix(ACK_PREFIX)?;
        let (mut ends, mut count, mut start) = ([0; ACK_TOKENS_MAX], 0, 0);
        for (at, byte) in rest.iter().chain(b".").enumerate() {
            if *byte != b'.' {
                continue;
            }
            if at == start || count == ends.len() {
                return None;
            }
            ends[count] = at;
            count += 1;
            start = at + 1;
        }
        matches!(count, 7 | 9 | 10).then_some(Self { rest, ends, count })
    }

    /// Whether domain and account stand before the stream.
    #[must_use]
    pub fn is_long(&self) -> bool {
        self.count > 7
    }

    /// The stream and the consumer; `None` where they are no text.
    #[must_use]
    pub fn target(&self) -> Option<(&'a str, &'a str)> {
        let at = self.names_at();
        let stream = std::str::from_utf8(self.token(at)).ok()?;
        Some((stream, std::str::from_utf8(self.token(at + 1)).ok()?))
    }

    fn names_at(&self) -> usize {
        if self.is_long() { 2 } else { 0 }
    }

    fn token(&self, at: usize) -> &'a [u8] {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before] + 1);
        &self.rest[start..self.ends[at]]
    }
}

/// A number of decimal digits only.
fn decimal(token: &[u8]) -> Option<u64> {
    token.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_say_what_was_done() {
        let nak = |delay_ns| Some(AckKind::Nak { delay_ns });
        for body in [&b""[..], b"+ACK", b"+OK"] {
            assert_eq!(AckKind::parse(body), Some(AckKind::Ack));
        }
        assert_eq!(AckKind::parse(b"+WPI"), Some(AckKind::Progress));
        assert_eq!(AckKind::parse(b"-NAK"), nak(None));
        assert_eq!(AckKind::parse(b"-NAK {\"delay\": 5}"), nak(Some(5)));
        assert_eq!(AckKind::parse(b"-NAK 5s"), nak(Some(5_000_000_000)));
        assert_eq!(AckKind::parse(b"-NAK 1.5ms"), nak(Some(1_500_000)));
        assert_eq!(AckKind::parse(b"-NAK nonsense"), nak(None));
        assert_eq!(AckKind::parse(b"-NAK {\"delay\": -5}"), nak(None));
        let term = |reason: Option<&str>| {
            Some(AckKind::Term {
                reason: reason.map(str::to_owned),
            })
        };
        assert_eq!(AckKind::parse(b"+TERM"), term(None));
        assert_eq!(AckKind::parse(b"+TERM  bad card "), term(Some("bad card")));
        let next = |batch| {
            Some(AckKind::Next(Ok(PullRequest {
                batch,
                ..PullRequest::default()
            })))
        };
        assert_eq!(AckKind::parse(b"+NXT"), next(1));
        assert_eq!(AckKind::parse(b"+NXT 5"), next(5));
        assert_eq!(AckKind::parse(b"+NXT {\"batch\":7}"), next(7));
        assert_eq!(AckKind::parse(b"hello"), None);
        assert_eq!(AckKind::parse(b"+ACKNOWLEDGED"), None);
    }

    #[test]
    fn both_forms_of_the_subject_are_read() {
        let first = b"$JS.ACK.S.C.1.2.3.1795319421866465442.4";
        let tokens = AckTokens::parse(first).unwrap();
        assert_eq!((tokens.stream, tokens.consumer), ("S", "C"));
        assert_eq!(
            (tokens.delivered, tokens.stream_seq, tokens.consumer_seq),
            (1, 2, 3)
        );
        assert_eq!(
            (tokens.ts_ns, tokens.pending),
            (1_795_319_421_866_465_442, 4)
        );
        let mut out = Vec::new();
        tokens.write(&mut out);
        assert_eq!(out, first);
        for second in [
            &b"$JS.ACK._.h4sh.S.C.1.2.3.1795319421866465442.4"[..],
            b"$JS.ACK._.h4sh.S.C.1.2.3.1795319421866465442.4.r4nd",
        ] {
            let read = AckTokens::parse(second).unwrap();
            let hashed = AckTokens {
                account: Some("h4sh"),
                ..tokens
            };
            assert_eq!(read, hashed);
        }
        let hub = AckTokens::parse(b"$JS.ACK.hub.h.S.C.1.2.3.4.5").unwrap();
        assert_eq!(hub.domain, Some("hub"));
    }

    #[test]
    fn other_subjects_are_refused() {
        for bad in [
            &b""[..],
            b"$JS.ACK.",
            b"$JS.ACK.S.C.1.2.3.4",
            b"$JS.ACK.S.C.1.2.3.4.5.6",
            b"$JS.ACK.S.C.x.2.3.4.5",
            b"$JS.ACK.S..1.2.3.4.5",
            b"$JS.ACK.S.C.1.2.3.4.-5",
            b"$JS.ACK.a.b.S.C.1.2.3.4.5.6.7",
            b"$JS.FC.S.C.1.2.3.4.5",
            b"$JS.ACK.S.C.1.2.3.4.\xff",
        ] {
            assert_eq!(AckTokens::parse(bad), None, "{bad:?}");
        }
    }
}
