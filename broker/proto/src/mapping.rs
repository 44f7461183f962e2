//! Subjects of one account as another one sees them: an import's two patterns and the way between them.
//!
//! Owns `$1` and `{{wildcard(1)}}`, the intersection of filters, and the search for cycles. Pure; who
//! imports what is the broker's.

use std::fmt::Write as _;

use thiserror::Error;

use crate::subject::{WILDCARD_ONE, WILDCARD_REST, is_subset, is_valid_filter, tokens};

/// Why two patterns make no mapping.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
pub enum MappingError {
    /// One of them is no filter.
    #[error("{0:?} is no subject")]
    Subject(String),
    /// The destination uses other wildcards than the source has.
    #[error("{to:?} does not use the wildcards of {from:?}, each once")]
    Wildcards {
        /// The source.
        from: String,
        /// The destination.
        to: String,
    },
}

/// One token of a destination.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Literal(Box<[u8]>),
    /// The source's wildcard with this number, from 0.
    Wildcard(usize),
    Rest,
}

/// From one pattern to another with the same wildcards.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mapping {
    from: Box<[u8]>,
    to: Vec<Part>,
    /// `to` with plain wildcards.
    to_filter: Box<[u8]>,
}

impl Mapping {
    /// The mapping of subjects within `from`. `to` names the wildcards of `from` as `$1` or
    /// `{{wildcard(1)}}`, or repeats them in order as `*`; `>` stays `>`.
    ///
    /// # Errors
    /// [`MappingError`]: the two don't fit.
    pub fn new(from: &str, to: &str) -> Result<Self, MappingError> {
        let mismatch = || MappingError::Wildcards {
            from: from.to_owned(),
            to: to.to_owned(),
        };
        if !is_valid_filter(from.as_bytes()) {
            return Err(MappingError::Subject(from.to_owned()));
        }
        let parts = parts_of(to).ok_or_else(mismatch)?;
        let stars = count(from.as_bytes(), WILDCARD_ONE);
        let rests = count(from.as_bytes(), WILDCARD_REST);
        let mut used: Vec<usize> = Vec::new();
        for part in &parts {
            if let Part::Wildcard(number) = part {
                used.push(*number);
            }
        }
        used.sort_unstable();
        let each_once = used.iter().copied().eq(0..stars);
        let tails = parts.iter().filter(|part| **part == Part::Rest).count();
        if !each_once || tails != rests {
            return Err(mismatch());
        }
        let to_filter = join(parts.iter().map(|part| match part {
            Part::Literal(text) => &**text,
            Part::Wildcard(_) => WILDCARD_ONE,
            Part::Rest => WILDCARD_REST,
        }));
        if !is_valid_filter(&to_filter) {
            return Err(MappingError::Subject(to.to_owned()));
        }
        Ok(Self {
            from: from.as_bytes().into(),
            to: parts,
            to_filter: to_filter.into(),
        })
    }

    /// The way back.
    #[must_use]
    pub fn reversed(&self) -> Self {
        let mut places = vec![0; self.to.len()];
        let wildcards = self.to.iter().filter_map(|part| match part {
            Part::Wildcard(number) => Some(*number),
            Part::Literal(_) | Part::Rest => None,
        });
        for (place, number) in wildcards.enumerate() {
            places[number] = place;
        }
        let mut number = 0;
        let to = tokens(&self.from)
            .map(|token| match token {
                WILDCARD_REST => Part::Rest,
                WILDCARD_ONE => {
                    number += 1;
                    Part::Wildcard(places[number - 1])
                }
                literal => Part::Literal(literal.into()),
            })
            .collect();
        Self {
            from: self.to_filter.clone(),
            to,
            to_filter: self.from.clone(),
        }
    }

    /// The pattern of what is mapped.
    #[must_use]
    pub fn from_filter(&self) -> &[u8] {
        &self.from
    }

    /// The pattern of what comes out.
    #[must_use]
    pub fn to_filter(&self) -> &[u8] {
        &self.to_filter
    }

    /// What `text`, a subject or a filter within [`Self::from_filter`], becomes; `None` = it is not
    /// within.
    #[must_use]
    pub fn apply(&self, text: &[u8]) -> Option<Vec<u8>> {
        if !is_subset(text, &self.from) {
            return None;
        }
        let mut wildcards: Vec<&[u8]> = Vec::new();
        let mut rest: &[u8] = &[];
        let mut given = text;
        for own in tokens(&self.from) {
            if own == WILDCARD_REST {
                rest = given;
                break;
            }
            let end = memchr::memchr(b'.', given).unwrap_or(given.len());
            if own == WILDCARD_ONE {
                wildcards.push(&given[..end]);
            }
            given = given.get(end + 1..).unwrap_or_default();
        }
        Some(join(self.to.iter().map(|part| match part {
            Part::Literal(text) => &**text,
            Part::Wildcard(number) => wildcards.get(*number).copied().unwrap_or_default(),
            Part::Rest => rest,
        })))
    }
}

fn count(filter: &[u8], wildcard: &[u8]) -> usize {
    tokens(filter).filter(|token| *token == wildcard).count()
}

fn parts_of(to: &str) -> Option<Vec<Part>> {
    let mut stars = 0;
    to.split('.')
        .map(|token| {
            let number = token
                .strip_prefix('$')
                .or_else(|| token.strip_prefix("{{wildcard(")?.strip_suffix(")}}"))
                .and_then(|number| number.trim().parse::<usize>().ok());
            match (token, number) {
                ("", _) => None,
                (">", _) => Some(Part::Rest),
                ("*", _) => {
                    stars += 1;
                    Some(Part::Wildcard(stars - 1))
                }
                (_, Some(number)) => number.checked_sub(1).map(Part::Wildcard),
                (literal, None) => Some(Part::Literal(literal.as_bytes().into())),
            }
        })
        .collect()
}

fn join<'a>(tokens: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut joined = Vec::new();
    for token in tokens {
        if !joined.is_empty() {
            joined.push(b'.');
        }
        joined.extend_from_slice(token);
    }
    joined
}

/// The filter that selects what both select; `None` = no subject is in both.
#[must_use]
pub fn intersection(a: &[u8], b: &[u8]) -> Option<Vec<u8>> {
    let mut common = Vec::new();
    let (mut a_tokens, mut b_tokens) = (tokens(a), tokens(b));
    loop {
        let token = match (a_tokens.next(), b_tokens.next()) {
            (None, None) => return Some(join(common.into_iter())),
            (Some(WILDCARD_REST), Some(token)) => {
                common.push(token);
                common.extend(b_tokens);
                return Some(join(common.into_iter()));
            }
            (Some(token), Some(WILDCARD_REST)) => {
                common.push(token);
                common.extend(a_tokens);
                return Some(join(common.into_iter()));
            }
            (Some(WILDCARD_ONE), Some(token)) | (Some(token), Some(WILDCARD_ONE)) => token,
            (Some(a), Some(b)) if a == b => a,
            _ => return None,
        };
        common.push(token);
    }
}

/// One step that messages or requests take from account to account.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// Where it begins.
    pub from: String,
    /// What is taken there.
    pub from_subject: String,
    /// Where it leads.
    pub to: String,
    /// As what it arrives.
    pub to_subject: String,
}

/// Accounts that a chain of steps passes at most; a longer one counts as a cycle.
const CHAIN_MAX: usize = 64;

/// A chain of steps that comes back to where it began, as a text for people.
#[must_use]
pub fn find_cycle(steps: &[Step]) -> Option<String> {
    steps.iter().find_map(|first| {
        let mut chain = vec![first];
        cycle_from(steps, &mut chain).then(|| {
            let mut text = String::new();
            for step in &chain {
                let _ = write!(text, "{} {:?} -> ", step.from, step.from_subject);
            }
            let last = chain.last().map_or("", |step| step.to.as_str());
            text + last
        })
    })
}

fn cycle_from<'a>(steps: &'a [Step], chain: &mut Vec<&'a Step>) -> bool {
    let Some(&last) = chain.last() else {
        return false;
    };
    for next in steps {
        let follows = next.from == last.to
            && crate::subject::collide(last.to_subject.as_bytes(), next.from_subject.as_bytes());
        if !follows {
            continue;
        }
        if chain.contains(&next) || chain.len() >= CHAIN_MAX {
            return true;
        }
        chain.push(next);
        if cycle_from(steps, chain) {
            return true;
        }
        chain.pop();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(bytes: Option<Vec<u8>>) -> Option<String> {
        bytes.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn subjects_and_filters_are_mapped_and_back() {
        let there = Mapping::new("orders.*.*.>", "b.$2.x.{{wildcard(1)}}.>").unwrap();
        let back = there.reversed();
        for (from, to) in [
            ("orders.1.2.3.4", "b.2.x.1.3.4"),
            ("orders.*.2.>", "b.2.x.*.>"),
            ("orders.*.*.>", "b.*.x.*.>"),
        ] {
            assert_eq!(text(there.apply(from.as_bytes())).as_deref(), Some(to));
            assert_eq!(text(back.apply(to.as_bytes())).as_deref(), Some(from));
        }
        assert_eq!(there.apply(b"orders.1.2"), None);
        assert_eq!(there.apply(b"orders.>"), None);
        assert_eq!(there.to_filter(), b"b.*.x.*.>");
    }

    #[test]
    fn stars_stand_for_themselves_in_order() {
        let mapping = Mapping::new("a.*.b.*", "c.*.*").unwrap();
        assert_eq!(text(mapping.apply(b"a.1.b.2")).as_deref(), Some("c.1.2"));
    }

    #[test]
    fn patterns_that_do_not_fit_are_refused() {
        for (from, to) in [
            ("a.*", "b"),
            ("a", "b.*"),
            ("a.*", "b.$1.$1"),
            ("a.*", "b.$2"),
            ("a.>", "b.*"),
            ("a", "b."),
            ("a..b", "b"),
            ("a.*", "b.$0"),
            ("a.>", "b.>.c"),
        ] {
            assert!(Mapping::new(from, to).is_err(), "{from} {to}");
        }
    }

    #[test]
    fn intersections_are_filters() {
        for (a, b, both) in [
            ("a.*", "a.b", Some("a.b")),
            ("*.b", "a.*", Some("a.b")),
            ("a.>", "*.b.*", Some("a.b.*")),
            (">", ">", Some(">")),
            ("a.>", "a", None),
            ("a.b", "a.c", None),
        ] {
            let found = text(intersection(a.as_bytes(), b.as_bytes()));
            assert_eq!(found.as_deref(), both, "{a} {b}");
            let found = text(intersection(b.as_bytes(), a.as_bytes()));
            assert_eq!(found.as_deref(), both, "{b} {a}");
        }
    }

    fn step(from: &str, from_subject: &str, to: &str, to_subject: &str) -> Step {
        Step {
            from: from.into(),
            from_subject: from_subject.into(),
            to: to.into(),
            to_subject: to_subject.into(),
        }
    }

    #[test]
    fn cycles_are_found_and_chains_are_none() {
        let chain = [
            step("A", "x.>", "B", "y.>"),
            step("B", "y.*", "C", "z.*"),
            step("C", "other", "A", "x.1"),
        ];
        assert_eq!(find_cycle(&chain), None);
        let mut cycle = chain.to_vec();
        cycle[2].from_subject = "z.a".into();
        let found = find_cycle(&cycle).unwrap();
        assert!(found.contains('A') && found.contains("z.a"), "{found}");
        assert!(find_cycle(&[step("A", "a", "A", "a")]).is_some());
    }

    fn filter() -> impl Strategy<Value = String> {
        let token = prop::sample::select(vec!["a", "b", "*"]);
        (prop::collection::vec(token, 1..4), any::<bool>()).prop_map(|(mut tokens, rest)| {
            if rest {
                tokens.push(">");
            }
            tokens.join(".")
        })
    }

    proptest! {
        #[test]
        fn an_intersection_selects_what_both_select(
            a in filter(), b in filter(),
            subject in prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..6),
        ) {
            let subject = subject.join(".");
            let selects = |f: &[u8]| crate::subject::matches(f, subject.as_bytes());
            let both = intersection(a.as_bytes(), b.as_bytes());
            let expected = selects(a.as_bytes()) && selects(b.as_bytes());
            prop_assert_eq!(both.is_some_and(|f| selects(&f)), expected);
        }
    }
}
