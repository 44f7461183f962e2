//! Subjects and subject filters: what is valid, what matches what.
//!
//! Owns the one definition of NATS subject syntax (nats-surface §1.9). Works on bytes, token by token,
//! without recursion and without allocation, so that a subject of thousands of tokens costs no stack.
//! Must never know about subscriptions or connections.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use thiserror::Error;

/// The wildcard for exactly one token.
pub const WILDCARD_ONE: &[u8] = b"*";
/// The wildcard for one or more trailing tokens.
pub const WILDCARD_REST: &[u8] = b">";

/// Whether a client may publish to `subject`: no empty token, no whitespace, no NUL.
///
/// Wildcard characters are allowed and stand for themselves (nats-surface §1.9).
#[must_use]
pub fn is_valid_publish(subject: &[u8]) -> bool {
    let mut previous = b'.';
    for &byte in subject {
        if is_forbidden(byte) || (byte == b'.' && previous == b'.') {
            return false;
        }
        previous = byte;
    }
    previous != b'.'
}

/// Whether `subject` is valid and holds no wildcard token.
#[must_use]
pub fn is_literal(subject: &[u8]) -> bool {
    is_valid_publish(subject) && !has_wildcard(subject)
}

/// Whether any whole token of `filter` is `*` or `>`. Says nothing about validity.
#[must_use]
pub fn has_wildcard(filter: &[u8]) -> bool {
    if !filter.iter().any(|byte| matches!(byte, b'*' | b'>')) {
        return false;
    }
    tokens(filter).any(|token| token == WILDCARD_ONE || token == WILDCARD_REST)
}

/// Whether `filter` may be subscribed to: a valid subject in which a `>` token comes last.
#[must_use]
pub fn is_valid_filter(filter: &[u8]) -> bool {
    if !is_valid_publish(filter) {
        return false;
    }
    let mut rest_seen = false;
    for token in tokens(filter) {
        if rest_seen {
            return false;
        }
        rest_seen = token == WILDCARD_REST;
    }
    true
}

/// Whether the literal `subject` is one that `filter` selects.
///
/// Tokens of `subject` are taken literally, also `*` and `>`. A subject with an empty token matches
/// nothing.
#[must_use]
pub fn matches(filter: &[u8], subject: &[u8]) -> bool {
    let mut wanted = tokens(filter);
    let mut given = tokens(subject);
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (None, Some(_)) | (Some(_), None) => return false,
            (Some(want), Some(have)) => {
                if have.is_empty() {
                    return false;
                }
                if want == WILDCARD_REST {
                    return given.all(|token| !token.is_empty());
                }
                if want != WILDCARD_ONE && want != have {
                    return false;
                }
            }
        }
    }
}

/// Whether every subject that `inner` selects is selected by `outer` too.
#[must_use]
pub fn is_subset(inner: &[u8], outer: &[u8]) -> bool {
    let mut inner_tokens = tokens(inner);
    let mut outer_tokens = tokens(outer);
    loop {
        match (inner_tokens.next(), outer_tokens.next()) {
            (None, None) => return true,
            (None, Some(_)) | (Some(_), None) => return false,
            (Some(_), Some(WILDCARD_REST)) => return true,
            (Some(WILDCARD_REST), Some(_)) => return false,
            (Some(_), Some(WILDCARD_ONE)) => {}
            (Some(a), Some(b)) if a == b => {}
            (Some(_), Some(_)) => return false,
        }
    }
}

/// Whether some subject could be selected by both filters.
#[must_use]
pub fn collide(a: &[u8], b: &[u8]) -> bool {
    let mut a_tokens = tokens(a);
    let mut b_tokens = tokens(b);
    loop {
        match (a_tokens.next(), b_tokens.next()) {
            (None, None) => return true,
            (None, Some(_)) | (Some(_), None) => return false,
            (Some(x), Some(y)) => {
                if x == WILDCARD_REST || y == WILDCARD_REST {
                    return true;
                }
                if x != WILDCARD_ONE && y != WILDCARD_ONE && x != y {
                    return false;
                }
            }
        }
    }
}

/// The tokens of a subject or filter, in order. An empty subject has one empty token.
pub fn tokens(subject: &[u8]) -> impl Iterator<Item = &[u8]> {
    subject.split(|&byte| byte == b'.')
}

/// A 64-bit hash of a subject or token for tables in memory. With a secret seed nobody can choose
/// subjects that collide; it is no cryptographic hash.
#[must_use]
pub fn hash(seed: u64, subject: &[u8]) -> u64 {
    let mut state = seed;
    let (words, tail) = subject.as_chunks::<8>();
    for word in words {
        state = mix(state, u64::from_le_bytes(*word));
    }
    let mut word = [0; 8];
    word[..tail.len()].copy_from_slice(tail);
    let last = mix(state ^ subject.len() as u64, u64::from_le_bytes(word));
    mix(last, seed)
}

/// Multiplies to 128 bits and folds: each output bit depends on all input bits.
const fn mix(state: u64, word: u64) -> u64 {
    let wide = (state ^ 0xa076_1d64_78bd_642f) as u128 * (word ^ 0xe703_7ed1_a0b4_28db) as u128;
    (wide as u64) ^ ((wide >> 64) as u64)
}

/// SP TAB CR LF FF and NUL can't be part of a subject.
const fn is_forbidden(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0c | 0)
}

/// Why some text is not a subject or not a filter.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
pub enum SubjectError {
    /// The text is empty, has an empty token, or holds whitespace or NUL.
    #[error("a subject needs non-empty tokens without whitespace, separated by dots")]
    Malformed,
    /// A literal subject was wanted and the text has a wildcard token.
    #[error("a literal subject can't have a wildcard token")]
    Wildcard,
    /// A `>` token stands before the end.
    #[error("`>` can only be the last token")]
    MisplacedRest,
    /// The text is not UTF-8.
    #[error("a subject is UTF-8 text")]
    NotUtf8,
}

/// A literal subject: valid, UTF-8, no wildcard token. Cheap to clone.
#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Subject(Bytes);

/// A subject filter: valid, UTF-8, may have wildcard tokens. Cheap to clone.
#[derive(Clone, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct SubjectFilter(Bytes);

impl Subject {
    /// Takes `bytes` as a subject without copying.
    ///
    /// # Errors
    /// [`SubjectError`] when it is not UTF-8, malformed, or has a wildcard token.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, SubjectError> {
        check_utf8(&bytes)?;
        if !is_valid_publish(&bytes) {
            return Err(SubjectError::Malformed);
        }
        if has_wildcard(&bytes) {
            return Err(SubjectError::Wildcard);
        }
        Ok(Self(bytes))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        text(&self.0)
    }

    /// The text as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The shared bytes.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl SubjectFilter {
    /// Takes `bytes` as a filter without copying.
    ///
    /// # Errors
    /// [`SubjectError`] when it is not UTF-8, malformed, or has `>` before the end.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, SubjectError> {
        check_utf8(&bytes)?;
        if !is_valid_publish(&bytes) {
            return Err(SubjectError::Malformed);
        }
        if !is_valid_filter(&bytes) {
            return Err(SubjectError::MisplacedRest);
        }
        Ok(Self(bytes))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        text(&self.0)
    }

    /// The text as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The shared bytes.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Whether the filter selects the literal `subject`.
    #[must_use]
    pub fn matches(&self, subject: &[u8]) -> bool {
        matches(&self.0, subject)
    }

    /// Whether no token is a wildcard.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        !has_wildcard(&self.0)
    }
}

fn check_utf8(bytes: &[u8]) -> Result<(), SubjectError> {
    std::str::from_utf8(bytes)
        .map(|_| ())
        .map_err(|_| SubjectError::NotUtf8)
}

/// The constructors checked UTF-8, so the fallback is never taken.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        Self::from_bytes(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl FromStr for SubjectFilter {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        Self::from_bytes(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl TryFrom<&[u8]> for Subject {
    type Error = SubjectError;

    fn try_from(bytes: &[u8]) -> Result<Self, SubjectError> {
        Self::from_bytes(Bytes::copy_from_slice(bytes))
    }
}

impl TryFrom<&[u8]> for SubjectFilter {
    type Error = SubjectError;

    fn try_from(bytes: &[u8]) -> Result<Self, SubjectError> {
        Self::from_bytes(Bytes::copy_from_slice(bytes))
    }
}

impl TryFrom<&str> for Subject {
    type Error = SubjectError;

    fn try_from(text: &str) -> Result<Self, SubjectError> {
        text.parse()
    }
}

impl TryFrom<&str> for SubjectFilter {
    type Error = SubjectError;

    fn try_from(text: &str) -> Result<Self, SubjectError> {
        text.parse()
    }
}

impl From<Subject> for SubjectFilter {
    fn from(subject: Subject) -> Self {
        Self(subject.0)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subject({:?})", self.as_str())
    }
}

impl fmt::Display for SubjectFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SubjectFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SubjectFilter({:?})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn publish_subjects_need_whole_tokens() {
        for good in ["a", "a.b", "foo.*", "$JS.API.INFO", "a>b", "é.ü"] {
            assert!(is_valid_publish(good.as_bytes()), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\0", "a\r"] {
            assert!(!is_valid_publish(bad.as_bytes()), "{bad:?}");
        }
    }

    #[test]
    fn wildcards_are_whole_tokens_and_rest_is_last() {
        for good in ["*", ">", "a.*", "a.>", "*.a.>", "foo*", "a>b.c", "a.>b.c"] {
            assert!(is_valid_filter(good.as_bytes()), "{good}");
        }
        for bad in ["", ">.a", "a.>.b", "a..>", ".>"] {
            assert!(!is_valid_filter(bad.as_bytes()), "{bad}");
        }
        assert!(is_literal(b"foo*.a>b"));
        assert!(!is_literal(b"foo.*"));
        assert!(!is_literal(b"foo..a"));
    }

    #[test]
    fn matching_follows_the_table() {
        let table: &[(&str, &str, bool)] = &[
            ("a.b", "a.b", true),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
            (">", "a..b", false),
            ("*", "", false),
            ("foo.*", "foo.*", true),
            ("foo.bar", "foo.*", false),
            ("foo*", "foox", false),
        ];
        for (filter, subject, expected) in table {
            assert_eq!(
                matches(filter.as_bytes(), subject.as_bytes()),
                *expected,
                "{filter} {subject}"
            );
        }
    }

    #[test]
    fn thousands_of_tokens_cost_no_stack() {
        let subject = vec!["a"; 100_000].join(".");
        assert!(matches(b">", subject.as_bytes()));
        assert!(is_subset(subject.as_bytes(), b">"));
        assert!(collide(subject.as_bytes(), b"*.>"));
    }

    #[test]
    fn newtypes_check_what_they_hold() {
        assert_eq!("a.*".parse::<Subject>(), Err(SubjectError::Wildcard));
        assert_eq!("a..b".parse::<Subject>(), Err(SubjectError::Malformed));
        assert_eq!(
            ">.a".parse::<SubjectFilter>(),
            Err(SubjectError::MisplacedRest)
        );
        assert_eq!(Subject::try_from(&b"\xff"[..]), Err(SubjectError::NotUtf8));
        assert_eq!("a.b".parse::<Subject>().unwrap().as_str(), "a.b");
        assert!("a.>".parse::<SubjectFilter>().unwrap().matches(b"a.b"));
    }

    /// Every literal subject of up to four tokens over a two-letter alphabet, plus a stranger `z`.
    fn universe() -> Vec<String> {
        let mut all: Vec<String> = vec![];
        let mut layer: Vec<String> = vec![String::new()];
        for _ in 0..5 {
            let mut next = vec![];
            for prefix in &layer {
                for token in ["a", "b", "z"] {
                    next.push(if prefix.is_empty() {
                        token.into()
                    } else {
                        format!("{prefix}.{token}")
                    });
                }
            }
            all.extend(next.iter().cloned());
            layer = next;
        }
        all
    }

    /// The obvious recursive definition, on owned tokens.
    fn naive(filter: &[&str], subject: &[&str]) -> bool {
        match (filter.split_first(), subject.split_first()) {
            (None, None) => true,
            (Some((&">", _)), Some(_)) => true,
            (Some((&"*", f)), Some((_, s))) => naive(f, s),
            (Some((a, f)), Some((b, s))) => a == b && naive(f, s),
            _ => false,
        }
    }

    fn filter_strategy() -> impl Strategy<Value = String> {
        (
            prop::collection::vec(prop::sample::select(vec!["a", "b", "*"]), 0..4),
            any::<bool>(),
        )
            .prop_map(|(mut tokens, rest)| {
                if rest || tokens.is_empty() {
                    tokens.push(">");
                }
                tokens.join(".")
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn matches_as_the_naive_model(filter in filter_strategy()) {
            let tokens: Vec<&str> = filter.split('.').collect();
            for subject in universe() {
                let parts: Vec<&str> = subject.split('.').collect();
                prop_assert_eq!(matches(filter.as_bytes(), subject.as_bytes()), naive(&tokens, &parts));
            }
        }

        #[test]
        fn subset_and_collide_agree_with_the_sets(a in filter_strategy(), b in filter_strategy()) {
            let both = |s: &String| (matches(a.as_bytes(), s.as_bytes()), matches(b.as_bytes(), s.as_bytes()));
            let sets: Vec<(bool, bool)> = universe().iter().map(both).collect();
            prop_assert_eq!(is_subset(a.as_bytes(), b.as_bytes()), sets.iter().all(|&(x, y)| !x || y));
            prop_assert_eq!(collide(a.as_bytes(), b.as_bytes()), sets.iter().any(|&(x, y)| x && y));
        }

        #[test]
        fn never_panics(a in prop::collection::vec(any::<u8>(), 0..40), b in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = (is_valid_filter(&a), matches(&a, &b), is_subset(&a, &b), collide(&a, &b));
        }
    }
}
