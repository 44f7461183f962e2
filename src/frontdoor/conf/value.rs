//! The tree that a configuration file is: maps, arrays and scalars, each with the place it stands at.

use std::fmt;
use std::sync::Arc;

/// Where something stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// A scalar as it was written, without quotes; empty for arrays and maps.
    pub text: String,
    /// Where it begins.
    pub at: Place,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `true`, `yes`, `on`, `false`, `no`, `off`.
    Bool(bool),
    /// A whole number, its unit multiplied in.
    Integer(i64),
    /// A number with a fraction.
    Float(f64),
    /// Any other text.
    String(String),
    /// `[…]`.
    Array(Vec<Node>),
    /// `{…}`.
    Map(Map),
}

impl Value {
    /// What it is, for a person.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number with a fraction",
            Self::String(_) => "text",
            Self::Array(_) => "a list",
            Self::Map(_) => "a block",
        }
    }
}

impl Node {
    /// How many values it holds, itself included.
    #[must_use]
    pub fn count(&self) -> usize {
        match &self.value {
            Value::Array(items) => 1 + items.iter().map(Self::count).sum::<usize>(),
            Value::Map(map) => 1 + map.entries().iter().map(|e| e.node.count()).sum::<usize>(),
            _ => 1,
        }
    }
}

/// `key: value`.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key, as it was written.
    pub key: String,
    /// Where the key stands.
    pub at: Place,
    /// The value.
    pub node: Node,
    /// Some `$key` takes its value from here: the key need not be a directive.
    pub is_variable: bool,
}

/// A block, in the order it was written; of two entries with one key the later counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    entries: Vec<Entry>,
}

impl Map {
    /// The entries that count.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The value of `key`, which is compared without regard to case.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        let found = self
            .entries
            .iter()
            .find(|entry| entry.key.eq_ignore_ascii_case(key));
        found.map(|entry| &entry.node)
    }

    /// Adds an entry in the place of one with the same key.
    pub(super) fn insert(&mut self, mut entry: Entry) {
        if let Some(old) = self.entries.iter_mut().find(|old| old.key == entry.key) {
            entry.is_variable |= old.is_variable;
            *old = entry;
        } else {
            self.entries.push(entry);
        }
    }

    /// The entry of exactly `key`, marked as a variable.
    pub(super) fn variable(&mut self, key: &str) -> Option<&Node> {
        let entry = self.entries.iter_mut().find(|entry| entry.key == key)?;
        entry.is_variable = true;
        Some(&entry.node)
    }
}
