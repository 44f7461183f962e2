//! What the reply subject of a fast batch's message says:
//! `<inbox>.<batch id>.<flow>.<ok|fail>.<batch sequence>.<operation>.$FI`. Pure.

use unibus_proto::jetstream::error::{self, ApiError};

/// How such a reply subject ends.
const MARK: &[u8] = b".$FI";
/// Tokens of it; the inbox counts as one.
const TOKENS: usize = 7;
/// Bytes of a batch's id.
const ID_BYTES_MAX: usize = 64;
/// Messages between two acknowledgements where the client asks for no number.
const FLOW_DEFAULT: u16 = 10;

/// What a message is to its batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Operation {
    Start,
    Append,
    /// Stored, and the last one.
    Commit,
    /// Not stored; the last one came before it.
    End,
    /// Not stored; asks how far the batch is.
    Ping,
}

/// A message's place in its batch.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Part<'a> {
    pub(super) id: &'a [u8],
    /// The client wants an acknowledgement after so many messages, at the latest.
    pub(super) flow: u64,
    /// Missing and refused messages do not end the batch.
    pub(super) go_on: bool,
    /// From 1 on.
    pub(super) seq: u64,
    pub(super) operation: Operation,
}

/// Whether a reply subject is that of a fast batch.
pub(in crate::jetstream) fn is_part(reply: Option<&[u8]>) -> bool {
    reply.is_some_and(|reply| reply.ends_with(MARK))
}

impl<'a> Part<'a> {
    /// Reads the reply subject of a message, for which [`is_part`] holds.
    pub(super) fn parse(reply: &'a [u8]) -> Result<Self, ApiError> {
        let mut tokens = reply.rsplitn(TOKENS, |byte| *byte == b'.').skip(1);
        let mut next = || tokens.next().ok_or(error::BATCH_PUBLISH_INVALID_PATTERN);
        let (operation, seq, gap, flow, id) = (next()?, next()?, next()?, next()?, next()?);
        next()?;
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            return Err(error::BATCH_PUBLISH_INVALID_ID);
        }
        let operation = match operation {
            b"0" => Operation::Start,
            b"1" => Operation::Append,
            b"2" => Operation::Commit,
            b"3" => Operation::End,
            b"4" => Operation::Ping,
            _ => return Err(error::BATCH_PUBLISH_INVALID_PATTERN),
        };
        let go_on = match gap {
            b"ok" => true,
            b"fail" => false,
            _ => return Err(error::BATCH_PUBLISH_INVALID_PATTERN),
        };
        let seq: u64 = number(seq).unwrap_or(0);
        let fits = match operation {
            Operation::Start => seq == 1,
            Operation::Append | Operation::End => seq > 1,
            Operation::Commit | Operation::Ping => seq > 0,
        };
        if !fits || seq >= 1 << 63 {
            return Err(error::BATCH_PUBLISH_INVALID_PATTERN);
        }
        let flow = number(flow).unwrap_or(FLOW_DEFAULT).max(1);
        Ok(Self {
            id,
            flow: u64::from(flow),
            go_on,
            seq,
            operation,
        })
    }
}

fn number<T: std::str::FromStr>(token: &[u8]) -> Option<T> {
    std::str::from_utf8(token).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_what_fits_no_batch_is_refused() {
        assert!(is_part(Some(b"a.b.$FI")) && !is_part(Some(b"a.b")) && !is_part(None));
        let part = Part::parse(b"_INBOX.x.id.7.fail.12.1.$FI").unwrap();
        let expected = Part {
            id: b"id",
            flow: 7,
            go_on: false,
            seq: 12,
            operation: Operation::Append,
        };
        assert_eq!(part, expected);
        let flow = |text: &str| {
            let reply = format!("i.id.{text}.ok.1.0.$FI");
            Part::parse(reply.as_bytes()).unwrap().flow
        };
        assert_eq!(
            [flow("0"), flow("x"), flow("65535"), flow("65536")],
            [1, 10, 65_535, 10]
        );
        let code = |reply: &str| Part::parse(reply.as_bytes()).unwrap_err().err_code;
        for bad in [
            "i.id.1.ok.1.5.$FI",
            "i.id.1.ok.2.0.$FI",
            "i.id.1.ok.1.1.$FI",
            "i.id.1.ok.1.3.$FI",
            "i.id.1.ok.0.4.$FI",
            "i.id.1.maybe.1.0.$FI",
            "id.1.ok.1.0.$FI",
            ".$FI",
        ] {
            assert_eq!(code(bad), 10206, "{bad}");
        }
        let long = "i".repeat(65);
        assert_eq!(code(&format!("i.{long}.1.ok.1.0.$FI")), 10207);
    }
}
