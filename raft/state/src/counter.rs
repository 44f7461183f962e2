//! Counters (ADR-49): a message of a counter stream adds to its subject's value instead of replacing
//! it. The values of live messages are kept beside the index, so that apply needs no message bytes.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use num_bigint::BigInt;
use serde::{Deserialize, Serialize};
use unibus_proto::jetstream::error::{self, ApiError};

use crate::codec::len_u32;
use crate::command::AppendRef;
use crate::header_scan::{PublishHeaders, header_value, without_lines};
use crate::rules::Rules;
use crate::stream::Stream;

/// Digits of an increment or value at most; numbers are unlimited, messages are not.
const DIGITS_MAX: usize = 4096;
/// Streams and subjects that one counter adds up at most.
const SOURCES_MAX: usize = 1024;
/// What a copy is refused that would be one more. Its copy stops there: going on would leave the origin
/// out of the sum and tell nobody.
const TOO_MANY_ORIGINS: ApiError = ApiError::fixed(
    503,
    10172,
    "message counter is full: it adds up 1024 origins already",
);

/// Origin stream → origin subject → the value that is included.
type Sources = BTreeMap<String, BTreeMap<String, String>>;

/// The value that a message led to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    /// Decimal.
    pub(crate) val: String,
    /// What other streams contributed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) sources: Sources,
}

#[derive(Deserialize)]
struct Body {
    val: String,
}

/// A counter message as it is to be stored.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) count: Count,
    pub(crate) header_len: u32,
    pub(crate) data: Vec<u8>,
}

fn number(text: &[u8]) -> Option<BigInt> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let plain = !digits.is_empty()
        && digits.len() <= DIGITS_MAX
        && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain {
        BigInt::from_str(text).ok()
    } else {
        None
    }
}

/// Whether a message's headers fit the kind of its stream.
pub(crate) fn check(counts: bool, headers: &PublishHeaders<'_>) -> Result<(), ApiError> {
    let incr = headers.incr.filter(|value| !value.is_empty());
    match (counts, incr) {
        (false, Some(_)) => return Err(error::MESSAGE_COUNTER_DISABLED),
        (true, None) => return Err(error::MESSAGE_INCR_MISSING),
        (false, None) => return Ok(()),
        (true, Some(value)) if number(value).is_none() => {
            return Err(error::MESSAGE_INCR_INVALID);
        }
        (true, Some(_)) => {}
    }
    let incompatible = headers.rollup.is_some()
        || headers.expected_stream.is_some()
        || headers.expected_last_seq.is_some()
        || headers.expected_last_subject_seq.is_some()
        || headers.expected_last_subject.is_some()
        || headers.expected_last_msg_id.is_some();
    if incompatible {
        Err(error::MESSAGE_INCR_INVALID)
    } else {
        Ok(())
    }
}

impl Stream {
    /// Works out what a counter message leads to. A copy brings its origin's total along.
    pub(crate) fn count(
        &self,
        a: AppendRef<'_>,
        headers: &PublishHeaders<'_>,
        copied: bool,
        rules: Rules,
    ) -> Result<Counted, ApiError> {
        let base = self.last_count(a.subject)?;
        base.add(a, headers, copied, rules)
    }

    /// The value that a subject's next message adds to.
    pub(crate) fn last_count(&self, subject: &[u8]) -> Result<Count, ApiError> {
        let id = self.subjects.find(subject);
        let Some(last) = id.and_then(|id| self.subjects.seqs(id).last()) else {
            return Ok(Count {
                val: "0".into(),
                sources: Sources::new(),
            });
        };
        let count = self.counts.get(&last).cloned();
        count.ok_or(error::MESSAGE_COUNTER_BROKEN)
    }
    /// Takes over the value that a restored message led to; one that can't be read breaks its counter.
    pub(crate) fn restore_count(&mut self, seq: u64, block: &[u8], payload: &[u8]) {
        let Ok(Body { val }) = serde_json::from_slice(payload) else {
            return;
        };
        let sources = header_value(block, b"Nats-Counter-Sources");
        let sources = sources.and_then(|json| serde_json::from_slice(json).ok());
        self.counts.insert(
            seq,
            Count {
                val,
                sources: sources.unwrap_or_default(),
            },
        );
    }
}

impl Count {
    /// What a counter message on top of this leads to.
    pub(crate) fn add(
        self,
        a: AppendRef<'_>,
        headers: &PublishHeaders<'_>,
        copied: bool,
        rules: Rules,
    ) -> Result<Counted, ApiError> {
        let (block, payload) = a.data.split_at(a.header_len as usize);
        if !payload.is_empty() && !copied {
            return Err(error::MESSAGE_INCR_PAYLOAD);
        }
        let value = number(self.val.as_bytes()).ok_or(error::MESSAGE_COUNTER_BROKEN)?;
        let mut incr =
            number(headers.incr.unwrap_or_default()).ok_or(error::MESSAGE_INCR_INVALID)?;
        let mut sources = self.sources;
        if copied {
            incr = include(&mut sources, block, payload, rules)?;
        }
        let val = (value + incr).to_string();
        if val.len() > DIGITS_MAX {
            return Err(error::MESSAGE_INCR_INVALID);
        }
        let mut data = with_sources(block, &sources);
        let header_len = len_u32(data.len());
        data.extend_from_slice(format!("{{\"val\":\"{val}\"}}").as_bytes());
        Ok(Counted {
            count: Self { val, sources },
            header_len,
            data,
        })
    }
}

/// Replaces what is included of a copy's origin; answers with the difference.
fn include(
    sources: &mut Sources,
    block: &[u8],
    payload: &[u8],
    rules: Rules,
) -> Result<BigInt, ApiError> {
    let (stream, subject, total) = told(block, payload).ok_or(error::MESSAGE_COUNTER_BROKEN)?;
    let known = sources.get(stream).and_then(|of| of.get(subject));
    let before = known.map_or(Some(BigInt::ZERO), |value| number(value.as_bytes()));
    let before = before.ok_or(error::MESSAGE_COUNTER_BROKEN)?;
    let is_full = sources.values().map(BTreeMap::len).sum::<usize>() >= SOURCES_MAX;
    if is_full && !rules.have(Rules::COUNTED_ORIGINS) {
        return Err(error::MESSAGE_COUNTER_BROKEN);
    }
    if is_full && known.is_none() {
        return Err(TOO_MANY_ORIGINS);
    }
    sources
        .entry(stream.to_owned())
        .or_default()
        .insert(subject.to_owned(), total.to_string());
    Ok(total - before)
}

/// The origin of a copied counter message, stream and subject, and its total.
fn told<'a>(block: &'a [u8], payload: &[u8]) -> Option<(&'a str, &'a str, BigInt)> {
    let total: Body = serde_json::from_slice(payload).ok()?;
    let total = number(total.val.as_bytes())?;
    let origin = header_value(block, b"Nats-Stream-Source")?;
    let origin = std::str::from_utf8(origin).ok()?;
    let mut tokens = origin.split(' ');
    Some((tokens.next()?, tokens.nth(3)?, total))
}

/// The header block with what the value includes of other streams.
fn with_sources(block: &[u8], sources: &Sources) -> Vec<u8> {
    let mut out = without_lines(block, b"Nats-Counter-Sources:");
    if sources.is_empty() {
        return out;
    }
    // A map of strings always serializes.
    let json = serde_json::to_string(sources).unwrap_or_default();
    out.truncate(out.len().saturating_sub(2));
    out.extend_from_slice(b"Nats-Counter-Sources: ");
    out.extend_from_slice(json.as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
    out
}
