//! Header blocks: `NATS/1.0[ <code>[ <description>]]`, `Name: value` lines, a blank line (§1.4).
//!
//! Owns reading them in place and writing them. Names are compared byte for byte. A line without a
//! colon is passed over, since brokers hand such blocks on as they are.

use bytes::{BufMut, Bytes, BytesMut};
use memchr::{memchr, memmem};
use thiserror::Error;

use crate::encoder;

const VERSION: &[u8] = b"NATS/1.0";
const LINE_END: &[u8] = b"\r\n";

/// Not a header block: no `NATS/1.0` line at its start, or no blank line at its end.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Error)]
#[error("malformed header block")]
pub struct MalformedHeaders;

/// A view of one header block; copies nothing.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct HeaderMap<'a> {
    /// After `NATS/1.0` in the first line.
    status_line: &'a [u8],
    /// `Name: value` lines, each with its CRLF, without the blank line.
    fields: &'a [u8],
}

impl<'a> HeaderMap<'a> {
    /// Reads a whole block, blank line included, as counted by `#hdr`.
    pub fn parse(block: &'a [u8]) -> Result<Self, MalformedHeaders> {
        let after_version = block.strip_prefix(VERSION).ok_or(MalformedHeaders)?;
        let lines = after_version
            .strip_suffix(LINE_END)
            .ok_or(MalformedHeaders)?;
        let (status_line, fields) = split_line(lines).ok_or(MalformedHeaders)?;
        let ends_in_line = fields.is_empty() || fields.ends_with(LINE_END);
        let separated = status_line.first().is_none_or(|&byte| byte == b' ');
        if !ends_in_line || !separated {
            return Err(MalformedHeaders);
        }
        Ok(Self {
            status_line,
            fields,
        })
    }

    /// The inline status, such as 503, and its description, which may be empty.
    pub fn status(&self) -> Option<(u16, &'a str)> {
        let text = std::str::from_utf8(self.status_line.trim_ascii()).ok()?;
        let (code, description) = text.split_once(' ').unwrap_or((text, ""));
        if code.len() != 3 || !code.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some((code.parse().ok()?, description.trim()))
    }

    /// The first value of `name`, exact case; `None` too if it is not UTF-8.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(self.get_bytes(name)?).ok()
    }

    /// The first value of `name`, exact case.
    pub fn get_bytes(&self, name: &str) -> Option<&'a [u8]> {
        self.iter()
            .find(|(field, _)| *field == name.as_bytes())
            .map(|(_, value)| value)
    }

    /// Names and values in order, repeated names included. Values are trimmed of surrounding
    /// blanks.
    pub fn iter(&self) -> HeaderIter<'a> {
        HeaderIter { rest: self.fields }
    }

    /// Whether there is no `Name: value` line.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl<'a> IntoIterator for HeaderMap<'a> {
    type Item = (&'a [u8], &'a [u8]);
    type IntoIter = HeaderIter<'a>;

    fn into_iter(self) -> HeaderIter<'a> {
        self.iter()
    }
}

/// Iterator over the fields of a [`HeaderMap`].
#[derive(Clone, Debug)]
pub struct HeaderIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (line, rest) = split_line(self.rest)?;
            self.rest = rest;
            if let Some(colon) = memchr(b':', line) {
                return Some((&line[..colon], line[colon + 1..].trim_ascii()));
            }
        }
    }
}

/// The first line without its CRLF, and what follows.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memmem::find(bytes, LINE_END)?;
    Some((&bytes[..at], &bytes[at + LINE_END.len()..]))
}

/// Writes a header block.
///
/// Line ends inside names, values and descriptions are written as blanks, so that no value can
/// forge a header of its own.
#[derive(Clone, Debug)]
pub struct HeaderBuilder {
    block: BytesMut,
}

impl HeaderBuilder {
    /// A block without a status.
    pub fn new() -> Self {
        let mut block = BytesMut::with_capacity(128);
        block.put_slice(VERSION);
        block.put_slice(LINE_END);
        Self { block }
    }

    /// A block with an inline status; `description` may be empty.
    pub fn with_status(code: u16, description: &str) -> Self {
        let mut block = BytesMut::with_capacity(128);
        block.put_slice(VERSION);
        block.put_u8(b' ');
        encoder::decimal(&mut block, u64::from(code));
        if !description.is_empty() {
            block.put_u8(b' ');
            put_on_one_line(&mut block, description.as_bytes());
        }
        block.put_slice(LINE_END);
        Self { block }
    }

    /// Adds `name: value`.
    pub fn push(&mut self, name: &str, value: &str) -> &mut Self {
        self.push_bytes(name.as_bytes(), value.as_bytes())
    }

    /// Adds `name: value`, for subjects and values from clients, which need not be UTF-8.
    pub fn push_bytes(&mut self, name: &[u8], value: &[u8]) -> &mut Self {
        put_on_one_line(&mut self.block, name);
        self.block.put_slice(b": ");
        put_on_one_line(&mut self.block, value);
        self.block.put_slice(LINE_END);
        self
    }

    /// Adds `name: <decimal>`.
    pub fn push_number(&mut self, name: &str, value: u64) -> &mut Self {
        put_on_one_line(&mut self.block, name.as_bytes());
        self.block.put_slice(b": ");
        encoder::decimal(&mut self.block, value);
        self.block.put_slice(LINE_END);
        self
    }

    /// Adds the fields of another block except those named in `without`; its status is left behind.
    pub fn extend(&mut self, fields: HeaderMap<'_>, without: &[&str]) -> &mut Self {
        for (name, value) in fields {
            if !without.iter().any(|skipped| skipped.as_bytes() == name) {
                self.push_bytes(name, value);
            }
        }
        self
    }

    /// The block, blank line included: its length is `#hdr`.
    pub fn finish(mut self) -> Bytes {
        self.block.put_slice(LINE_END);
        self.block.freeze()
    }
}

impl Default for HeaderBuilder {
    fn default() -> Self {
        Self::new()
    }
}

fn put_on_one_line(block: &mut BytesMut, text: &[u8]) {
    let start = block.len();
    block.put_slice(text);
    for byte in &mut block[start..] {
        if matches!(*byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HeaderBuilder, HeaderMap, MalformedHeaders};
    use proptest::prelude::*;

    fn parse(block: &str) -> HeaderMap<'_> {
        HeaderMap::parse(block.as_bytes()).unwrap()
    }

    #[test]
    fn fields_are_read_in_order_and_by_exact_name() {
        let map = parse("NATS/1.0\r\nA: 1\r\nNats-Msg-Id:  x y \r\nA:2\r\nE:\r\na: 3\r\n\r\n");
        assert_eq!(map.status(), None);
        assert_eq!(map.get("A"), Some("1"));
        assert_eq!(map.get("a"), Some("3"));
        assert_eq!(map.get("Nats-Msg-Id"), Some("x y"));
        assert_eq!(map.get("nats-msg-id"), None);
        assert_eq!(map.get("E"), Some(""));
        assert_eq!(map.get("Msg-Id"), None);
        assert_eq!(map.iter().filter(|(name, _)| *name == b"A").count(), 2);
        assert_eq!(map.iter().count(), 5);
    }

    #[test]
    fn a_status_is_three_digits_and_a_description() {
        assert_eq!(parse("NATS/1.0 503\r\n\r\n").status(), Some((503, "")));
        assert_eq!(
            parse("NATS/1.0 404 No Messages\r\n\r\n").status(),
            Some((404, "No Messages"))
        );
        assert_eq!(
            parse("NATS/1.0  100  Idle Heartbeat \r\n\r\n").status(),
            Some((100, "Idle Heartbeat"))
        );
        assert_eq!(parse("NATS/1.0\r\n\r\n").status(), None);
        assert_eq!(parse("NATS/1.0 x\r\n\r\n").status(), None);
        assert_eq!(parse("NATS/1.0 5030\r\n\r\n").status(), None);
        let with_field = parse("NATS/1.0 503\r\nNats-Subject: a\r\n\r\n");
        assert_eq!(with_field.status(), Some((503, "")));
        assert_eq!(with_field.get("Nats-Subject"), Some("a"));
    }

    #[test]
    fn lines_without_a_colon_are_passed_over() {
        let map = parse("NATS/1.0\r\nnothing\r\nA: b:c\r\n\r\n");
        assert_eq!(map.get("A"), Some("b:c"));
        assert_eq!(map.iter().count(), 1);
        assert!(parse("NATS/1.0\r\nnothing\r\n\r\n").is_empty());
    }

    #[test]
    fn values_that_are_not_utf8_are_bytes_only() {
        let map = HeaderMap::parse(b"NATS/1.0\r\nA: \xff\r\n\r\n").unwrap();
        assert_eq!(map.get("A"), None);
        assert_eq!(map.get_bytes("A"), Some(&b"\xff"[..]));
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for block in [
            "",
            "garbage",
            "NATS/1.0",
            "NATS/1.0\r\n",
            "NATS/1.1\r\n\r\n",
            "NATS/1.0x\r\n\r\n",
            "NATS/1.0\r\nA: 1\r\n",
            "NATS/1.0\nA: 1\n\n",
            "NATS/1.0\r\nA: 1\n\r\n",
        ] {
            assert_eq!(
                HeaderMap::parse(block.as_bytes()),
                Err(MalformedHeaders),
                "{block:?}"
            );
        }
    }

    #[test]
    fn blocks_are_written_with_the_exact_bytes() {
        assert_eq!(&HeaderBuilder::new().finish()[..], b"NATS/1.0\r\n\r\n");
        assert_eq!(
            &HeaderBuilder::with_status(404, "No Messages").finish()[..],
            b"NATS/1.0 404 No Messages\r\n\r\n"
        );
        let mut builder = HeaderBuilder::with_status(503, "");
        builder
            .push("Nats-Subject", "a.b")
            .push_number("Nats-Sequence", 42);
        assert_eq!(
            &builder.finish()[..],
            b"NATS/1.0 503\r\nNats-Subject: a.b\r\nNats-Sequence: 42\r\n\r\n"
        );
    }

    #[test]
    fn a_value_cannot_forge_a_header() {
        let mut builder = HeaderBuilder::new();
        builder.push("A", "1\r\nB: 2\r\n\r\npayload");
        let block = builder.finish();
        let map = HeaderMap::parse(&block).unwrap();
        assert_eq!(map.iter().count(), 1);
        assert_eq!(map.get("A"), Some("1  B: 2    payload"));
    }

    #[test]
    fn extending_drops_the_status_and_the_named_fields() {
        let from = parse("NATS/1.0 100 Idle\r\nA: 1\r\nNats-Request-Info: x\r\nB: 2\r\n\r\n");
        let mut builder = HeaderBuilder::new();
        builder.extend(from, &["Nats-Request-Info"]);
        assert_eq!(&builder.finish()[..], b"NATS/1.0\r\nA: 1\r\nB: 2\r\n\r\n");
    }

    /// Slow and obvious: cut the text into lines, then each line at its first colon.
    fn naive(block: &str) -> Option<Vec<(String, String)>> {
        let mut lines: Vec<&str> = block.split("\r\n").collect();
        if lines.len() < 3 || lines.pop() != Some("") || lines.pop() != Some("") {
            return None;
        }
        let first = lines.remove(0);
        if first != "NATS/1.0" && !first.starts_with("NATS/1.0 ") {
            return None;
        }
        let cut = |line: &&str| {
            let (name, value) = line.split_once(':')?;
            let value = value.trim_matches(|c: char| c.is_ascii_whitespace());
            Some((name.to_owned(), value.to_owned()))
        };
        Some(lines.iter().filter_map(cut).collect())
    }

    proptest! {
        #[test]
        fn reading_agrees_with_cutting_into_lines(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "NATS/1.0", "NATS/1.0", " 503", " ", "\r\n", "\r\n", "\r\n", "\r", "\n", "A", "B", ":", ": ", "x", "\t",
                ]),
                0..20,
            )
        ) {
            let block = pieces.concat();
            let read = HeaderMap::parse(block.as_bytes()).ok().map(|map| {
                let owned = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                map.iter().map(|(name, value)| (owned(name), owned(value))).collect::<Vec<_>>()
            });
            prop_assert_eq!(read, naive(&block));
        }

        #[test]
        fn what_is_written_is_read_back(
            fields in prop::collection::vec(("[A-Za-z-]{1,12}", "[!-~]{0,20}"), 0..8)
        ) {
            let mut builder = HeaderBuilder::new();
            for (name, value) in &fields {
                builder.push(name, value);
            }
            let block = builder.finish();
            let map = HeaderMap::parse(&block).unwrap();
            let read: Vec<_> = map.iter().map(|(name, value)| {
                let owned = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                (owned(name), owned(value))
            }).collect();
            prop_assert_eq!(read, fields);
        }
    }
}
