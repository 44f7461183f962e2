//! Typed views on values of the tree, and the list of everything that is wrong: reading goes on after
//! a mistake, so that all of them are told at once.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::units;
use crate::config::auth::Secret;
use crate::frontdoor::conf::{Map, Node, Place, Value};
use crate::frontdoor::options::Port;

/// Mistakes told at most: a file with more has one at its root.
const PROBLEMS_MAX: usize = 50;

/// One mistake in a configuration file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Where.
    pub at: Place,
    /// What was found and what is wanted.
    pub words: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.words)
    }
}

/// What reading a file has brought up: mistakes, and notes for the log.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<Problem>,
    pub(super) notes: Vec<String>,
}

impl Findings {
    pub(super) fn problem(&mut self, at: &Place, words: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem {
                at: at.clone(),
                words: words.into(),
            });
        }
    }

    /// Something that is understood and changes nothing here.
    pub(super) fn note(&mut self, field: &Field<'_>, why: &str) {
        let (at, name) = (&field.node.at, field.name());
        self.notes.push(format!("{at}: {name} {why}"));
    }

    /// Something that would change what the server does, and that this one can't do.
    pub(super) fn refuse(&mut self, field: &Field<'_>, why: &str) {
        let name = field.name();
        self.problem(field.at, format!("{name} is not supported: {why}"));
    }
}

/// One directive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    /// The block it stands in; empty for the file itself.
    pub(super) section: &'a str,
    /// The key as it was written.
    pub(super) key: &'a str,
    /// Where the key stands.
    pub(super) at: &'a Place,
    pub(super) node: &'a Node,
}

/// Hands every entry of a block to `read` with its key in lower case. `read` says whether it knows the
/// key; what it does not know is a mistake, unless it is there for `$key`.
pub(super) fn each<'a>(
    map: &'a Map,
    section: &'a str,
    known: &[&str],
    findings: &mut Findings,
    mut read: impl FnMut(&str, Field<'a>, &mut Findings) -> bool,
) {
    for entry in map.entries() {
        let field = Field {
            section,
            key: &entry.key,
            at: &entry.at,
            node: &entry.node,
        };
        let key = entry.key.to_ascii_lowercase();
        if !read(&key, field, findings) && !entry.is_variable {
            let place = match section {
                "" => "the file".to_owned(),
                section => format!("{section} {{}}"),
            };
            let hint = match units::nearest(&key, known) {
                Some(near) => format!("did you mean {near:?}? "),
                None => String::new(),
            };
            let words = format!(
                "unknown field {:?} in {place}; {hint}known here: {}",
                entry.key,
                known.join(", ")
            );
            findings.problem(&entry.at, words);
        }
    }
}

impl<'a> Field<'a> {
    pub(super) fn name(&self) -> String {
        match self.section {
            "" => self.key.to_owned(),
            section => format!("{section}.{}", self.key),
        }
    }

    fn wrong(&self, wanted: &str, findings: &mut Findings) {
        let found = match (&self.node.value, self.is_secret()) {
            (Value::Array(_) | Value::Map(_), _) | (_, true) => self.node.value.kind().to_owned(),
            _ => format!("{:?}", self.node.text),
        };
        let name = self.name();
        findings.problem(&self.node.at, format!("{name} is {found}; wanted {wanted}"));
    }

    /// Whether a message must not show the value.
    fn is_secret(&self) -> bool {
        let key = self.key.to_ascii_lowercase();
        ["pass", "token", "seed", "secret", "key"]
            .iter()
            .any(|word| key.contains(word))
    }

    /// Any scalar, as it was written: names and passwords may look like numbers.
    pub(super) fn text(&self, findings: &mut Findings) -> Option<String> {
        match &self.node.value {
            Value::Array(_) | Value::Map(_) => {
                self.wrong("text", findings);
                None
            }
            _ => Some(self.node.text.clone()),
        }
    }

    pub(super) fn secret(&self, findings: &mut Findings) -> Option<Secret> {
        self.text(findings).map(Secret::new)
    }

    pub(super) fn path(&self, findings: &mut Findings) -> Option<PathBuf> {
        let text = self.text(findings)?;
        if text.is_empty() {
            self.wrong("the path of a file or folder", findings);
            return None;
        }
        Some(PathBuf::from(text))
    }

    pub(super) fn flag(&self, findings: &mut Findings) -> Option<bool> {
        match &self.node.value {
            Value::Bool(on) => Some(*on),
            Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
            _ => {
                self.wrong("true or false", findings);
                None
            }
        }
    }

    pub(super) fn integer(&self, findings: &mut Findings) -> Option<i64> {
        match &self.node.value {
            Value::Integer(number) => Some(*number),
            Value::String(text) if units::size(text).is_some() => units::size(text),
            _ => {
                self.wrong("a whole number", findings);
                None
            }
        }
    }

    /// A number that is at least 0.
    pub(super) fn count(&self, findings: &mut Findings) -> Option<u64> {
        let number = self.integer(findings)?;
        match u64::try_from(number) {
            Ok(number) => Some(number),
            Err(_) => {
                self.wrong("a whole number that is not negative", findings);
                None
            }
        }
    }

    /// A limit: a negative one is none.
    pub(super) fn limit(&self, findings: &mut Findings) -> Option<u64> {
        self.integer(findings)
            .and_then(|number| u64::try_from(number).ok())
    }

    pub(super) fn port(&self, findings: &mut Findings) -> Option<Option<Port>> {
        let number = self.integer(findings)?;
        match Port::of(number).transpose() {
            Ok(port) => Some(port),
            Err(_) => {
                self.wrong("a port from 1 to 65535, or -1 for any free one", findings);
                None
            }
        }
    }

    /// `host:port`, `:port` or a bare port. The host is `None` where there is none.
    pub(super) fn listen(&self, findings: &mut Findings) -> Option<(Option<String>, Option<Port>)> {
        if matches!(self.node.value, Value::Integer(_)) {
            return Some((None, self.port(findings)?));
        }
        let text = self.text(findings)?;
        match units::host_port(&text) {
            Some((host, number)) => {
                if let Ok(port) = Port::of(number).transpose() {
                    return Some((host, port));
                }
                self.wrong("host:port with a port from 1 to 65535, or -1", findings);
            }
            None => self.wrong("host:port, or a port", findings),
        }
        None
    }

    /// `2s`, `1m30s`; a bare number is in seconds, fractions included.
    pub(super) fn duration(&self, findings: &mut Findings) -> Option<Duration> {
        let found = match &self.node.value {
            Value::Integer(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
            Value::Float(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
            Value::String(text) => units::duration(text),
            _ => None,
        };
        if found.is_none() {
            self.wrong("a duration such as 2s, 1m30s or 250ms", findings);
        }
        found
    }

    pub(super) fn map(&self, findings: &mut Findings) -> Option<&'a Map> {
        match &self.node.value {
            Value::Map(map) => Some(map),
            _ => {
                self.wrong("a block { … }", findings);
                None
            }
        }
    }

    pub(super) fn list(&self, findings: &mut Findings) -> Option<&'a [Node]> {
        match &self.node.value {
            Value::Array(items) => Some(items),
            _ => {
                self.wrong("a list [ … ]", findings);
                None
            }
        }
    }

    /// A list of texts, or one text alone.
    pub(super) fn texts(&self, findings: &mut Findings) -> Option<Vec<String>> {
        let Value::Array(items) = &self.node.value else {
            return self.text(findings).map(|text| vec![text]);
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            texts.push(self.item(item).text(findings)?);
        }
        Some(texts)
    }

    /// A part of this list, under the list's name.
    pub(super) fn item(&self, node: &'a Node) -> Self {
        Field {
            node,
            at: &node.at,
            ..*self
        }
    }
}
