//! A fixed list of filters, compiled so that asking it costs a walk over one subject's tokens.
//!
//! Owns the trie; decides nothing. The control plane's deny list has about ninety filters and is asked
//! for each publish of each client, so that a scan of the list would dominate the publish path.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use memchr::memchr;
use smallvec::SmallVec;

use crate::subject::{
    SubjectFilter, WILDCARD_ONE, WILDCARD_REST, collide, has_wildcard, is_subset, tokens,
};

/// Branches of a walk kept without allocating. A walk never visits a node of the trie twice.
const BRANCHES_INLINE: usize = 8;

/// No child: the root is nobody's child.
const NONE: u32 = 0;

/// An immutable list of filters. Cheap to clone; equal when the lists are.
#[derive(Clone, Default)]
pub struct Filters(Arc<Compiled>);

#[derive(Default)]
struct Compiled {
    list: Vec<SubjectFilter>,
    /// The bytes that a selected subject can begin with, one bit each.
    starts: [u64; 4],
    nodes: Vec<Node>,
}

#[derive(Default)]
struct Node {
    /// By token, sorted.
    literals: Vec<(Bytes, u32)>,
    /// The child for `*`, or [`NONE`].
    one: u32,
    /// A filter goes on with `>` here.
    rest: bool,
    /// A filter ends here.
    end: bool,
}

/// What the text is that a walk follows.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Text {
    /// Wildcards stand for themselves and empty tokens match nothing, as in [`crate::subject::matches`].
    Subject,
    /// Its wildcards have to be covered, as in [`is_subset`].
    Filter,
}

impl Filters {
    /// The filters, in the order given.
    #[must_use]
    pub fn as_slice(&self) -> &[SubjectFilter] {
        &self.0.list
    }

    /// Number of filters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.list.len()
    }

    /// True when nothing is selected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.list.is_empty()
    }

    /// Whether some filter selects the literal `subject`.
    #[must_use]
    pub fn matches(&self, subject: &[u8]) -> bool {
        self.0.may_start(subject) && self.0.walk(subject, Text::Subject)
    }

    /// Whether some single filter selects all that `filter` selects.
    #[must_use]
    pub fn covers(&self, filter: &[u8]) -> bool {
        self.0.may_start(filter) && self.0.walk(filter, Text::Filter)
    }

    /// Whether some filter selects a subject that `filter` selects too.
    #[must_use]
    pub fn collides(&self, filter: &[u8]) -> bool {
        let open = tokens(filter).next().is_some_and(has_wildcard);
        (open || self.0.may_start(filter))
            && self
                .as_slice()
                .iter()
                .any(|own| collide(filter, own.as_bytes()))
    }

    /// Whether some filter covers `filter`, where each `*` of ours stands for one literal token: a
    /// wildcard may only stand where ours has `>`.
    #[must_use]
    pub fn covers_literally(&self, filter: &[u8]) -> bool {
        let literal_under_stars = |own: &SubjectFilter| {
            tokens(filter)
                .zip(tokens(own.as_bytes()))
                .all(|(token, own)| {
                    own != WILDCARD_ONE || !(token.is_empty() || has_wildcard(token))
                })
        };
        let covers = |own: &SubjectFilter| is_subset(filter, own.as_bytes());
        self.as_slice()
            .iter()
            .any(|own| covers(own) && literal_under_stars(own))
    }
}

impl Compiled {
    fn add(&mut self, filter: &SubjectFilter) {
        let bytes = filter.clone().into_bytes();
        match bytes.first() {
            Some(&first) if !tokens(&bytes).next().is_some_and(has_wildcard) => {
                self.starts[usize::from(first >> 6)] |= 1 << (first & 63);
            }
            _ => self.starts = [u64::MAX; 4],
        }
        let mut at = 0;
        for token in tokens(&bytes) {
            if token == WILDCARD_REST {
                self.nodes[at].rest = true;
                return;
            }
            at = self.child_for(at, token, &bytes);
        }
        self.nodes[at].end = true;
    }

    /// The child of `at` for `token`, a part of `whole`; made if it is new.
    fn child_for(&mut self, at: usize, token: &[u8], whole: &Bytes) -> usize {
        let new = self.nodes.len();
        let node = &mut self.nodes[at];
        let known = if token == WILDCARD_ONE {
            if node.one == NONE {
                node.one = new as u32;
            }
            node.one
        } else {
            match node.find(token) {
                Ok(place) => node.literals[place].1,
                Err(place) => {
                    node.literals
                        .insert(place, (whole.slice_ref(token), new as u32));
                    new as u32
                }
            }
        };
        if known as usize == new {
            self.nodes.push(Node::default());
        }
        known as usize
    }

    /// False only when nothing can be found for `text`.
    fn may_start(&self, text: &[u8]) -> bool {
        match text.first() {
            Some(&first) => self.starts[usize::from(first >> 6)] & (1 << (first & 63)) != 0,
            None => !self.list.is_empty(),
        }
    }

    /// Whether the walk along `text` ends at some filter's end. Each node is visited at most once.
    fn walk(&self, text: &[u8], kind: Text) -> bool {
        let mut branches: SmallVec<[(u32, usize); BRANCHES_INLINE]> = SmallVec::new();
        let mut next = Some((0, 0));
        while let Some((at, from)) = next.take().or_else(|| branches.pop()) {
            let node = &self.nodes[at as usize];
            // Past the last byte: no dot and no further token was left.
            let Some(rest) = text.get(from..) else {
                if node.end {
                    return true;
                }
                continue;
            };
            let token = &rest[..memchr(b'.', rest).unwrap_or(rest.len())];
            if token.is_empty() && kind == Text::Subject {
                continue;
            }
            if node.rest && (kind == Text::Filter || tokens(rest).all(|token| !token.is_empty())) {
                return true;
            }
            let after = from + token.len() + 1;
            if node.one != NONE && (kind == Text::Subject || token != WILDCARD_REST) {
                next = Some((node.one, after));
            }
            if let Ok(place) = node.find(token) {
                branches.extend(next.replace((node.literals[place].1, after)));
            }
        }
        false
    }
}

impl Node {
    fn find(&self, token: &[u8]) -> Result<usize, usize> {
        self.literals
            .binary_search_by(|(own, _)| own.as_ref().cmp(token))
    }
}

impl From<Vec<SubjectFilter>> for Filters {
    fn from(list: Vec<SubjectFilter>) -> Self {
        let mut compiled = Compiled {
            nodes: vec![Node::default()],
            ..Compiled::default()
        };
        for filter in &list {
            compiled.add(filter);
        }
        compiled.list = list;
        Self(Arc::new(compiled))
    }
}

impl FromIterator<SubjectFilter> for Filters {
    fn from_iter<I: IntoIterator<Item = SubjectFilter>>(filters: I) -> Self {
        Self::from(filters.into_iter().collect::<Vec<_>>())
    }
}

impl PartialEq for Filters {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.as_slice() == other.as_slice()
    }
}

impl Eq for Filters {}

impl fmt::Debug for Filters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::matches;
    use proptest::prelude::*;

    fn filters(list: &[&str]) -> Filters {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_empty_list_selects_nothing() {
        for empty in [Filters::default(), filters(&[])] {
            for text in ["", "a", ">", "*", "a.b"] {
                let text = text.as_bytes();
                assert!(!empty.matches(text) && !empty.covers(text));
                assert!(!empty.collides(text) && !empty.covers_literally(text));
            }
        }
    }

    #[test]
    fn equality_is_of_the_lists() {
        assert_eq!(filters(&["a", "b.>"]), filters(&["a", "b.>"]));
        assert_ne!(filters(&["a"]), filters(&["a", "b"]));
        assert_eq!(Filters::default(), filters(&[]));
    }

    #[test]
    fn a_long_subject_costs_no_stack() {
        let long = vec!["a"; 100_000].join(".");
        let set = filters(&["a.*.>", "a.a.*.b", &long]);
        assert!(set.matches(long.as_bytes()) && set.covers(long.as_bytes()));
        assert!(!filters(&["a.*.b", "*.a.a"]).matches(long.as_bytes()));
    }

    /// Filters over few tokens, so that they share prefixes and branch.
    fn filter_strategy() -> impl Strategy<Value = String> {
        let token = prop::sample::select(vec!["a", "b", "$a", "ab", "*", "a*", ">b"]);
        (prop::collection::vec(token, 0..5), any::<bool>()).prop_map(|(mut tokens, rest)| {
            if rest || tokens.is_empty() {
                tokens.push(">");
            }
            tokens.join(".")
        })
    }

    /// Anything that may arrive, also what is no valid subject or filter.
    fn text_strategy() -> impl Strategy<Value = String> {
        let token = prop::sample::select(vec!["a", "b", "$a", "ab", "*", ">", "a*", ">b", "", "z"]);
        prop::collection::vec(token, 0..6).prop_map(|tokens| tokens.join("."))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn answers_as_a_scan_of_the_list(
            list in prop::collection::vec(filter_strategy(), 0..12),
            texts in prop::collection::vec(prop_oneof![text_strategy(), filter_strategy()], 1..20),
        ) {
            let list: Vec<SubjectFilter> = list.iter().map(|text| text.parse().unwrap()).collect();
            let compiled = Filters::from(list.clone());
            for text in &texts {
                let text = text.as_bytes();
                let any = |question: fn(&[u8], &[u8]) -> bool| list.iter().any(|own| question(own.as_bytes(), text));
                prop_assert_eq!(compiled.matches(text), any(matches));
                prop_assert_eq!(compiled.covers(text), any(|own, text| is_subset(text, own)));
                prop_assert_eq!(compiled.collides(text), any(collide));
            }
        }

        /// The model: the rule with its stars replaced by the text's own tokens, all of them literal.
        #[test]
        fn literal_rules_hold_literally(rule in filter_strategy(), text in filter_strategy()) {
            let given: Vec<&str> = text.split('.').collect();
            let mut literal = true;
            let mut filled = Vec::new();
            for (at, token) in rule.split('.').enumerate() {
                let own = given.get(at).copied().unwrap_or("missing");
                literal &= token != "*" || (own != "*" && own != ">");
                filled.push(if token == "*" { own } else { token });
            }
            let model = literal && is_subset(text.as_bytes(), filled.join(".").as_bytes());
            prop_assert_eq!(filters(&[&rule]).covers_literally(text.as_bytes()), model);
        }
    }
}
