//! Words → the tree: blocks, lists, scalars, `include` and `$variables`. Nesting, files and values are
//! bounded, because the text may come from anybody.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lexer::{Lexer, shown};
use super::value::{Entry, Map, Node, Place, Value};

/// Deepest nesting of blocks and lists, files included.
const DEPTH_MAX: usize = 64;
/// Most files of one configuration: a file that includes itself ends here.
const FILES_MAX: usize = 64;
/// Deepest chain of files that include the next.
const INCLUDES_MAX: usize = 16;
/// Most values of one configuration, with what variables repeat.
const VALUES_MAX: usize = 200_000;
/// How a bcrypt hash begins: a `$` that is no variable's.
const BCRYPT: &str = "2a$";
const BCRYPT_B: &str = "2b$";
const BCRYPT_Y: &str = "2y$";

/// Where files and the environment come from.
pub trait Sources {
    /// The text of a file.
    ///
    /// # Errors
    /// Words for a person: why it can't be read.
    fn read(&self, path: &Path) -> Result<String, String>;

    /// A variable of the environment.
    fn environment(&self, name: &str) -> Option<String>;
}

/// A text that is no configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfError {
    /// Where; `None` where no place in a file is to blame.
    pub at: Option<Place>,
    /// What is wrong and what is wanted.
    pub words: String,
}

impl ConfError {
    pub(super) fn at(at: Place, words: String) -> Self {
        Self {
            at: Some(at),
            words,
        }
    }
}

impl fmt::Display for ConfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) => write!(f, "{at}: {}", self.words),
            None => f.write_str(&self.words),
        }
    }
}

impl std::error::Error for ConfError {}

/// Reads the configuration in `path`, with everything it includes.
///
/// # Errors
/// [`ConfError`] for the first thing that can't be read.
pub fn parse(path: &Path, sources: &dyn Sources) -> Result<Map, ConfError> {
    let mut parser = Parser {
        sources,
        scopes: vec![Map::default()],
        files: Vec::new(),
        files_read: 0,
        values: 0,
        depth: 0,
    };
    parser.file(path, None)?;
    Ok(parser.scopes.pop().unwrap_or_default())
}

struct Parser<'s> {
    sources: &'s dyn Sources,
    /// The blocks that are open, the innermost last: variables are looked up in them.
    scopes: Vec<Map>,
    /// The folders of the files that are open.
    files: Vec<PathBuf>,
    files_read: usize,
    values: usize,
    depth: usize,
}

impl Parser<'_> {
    /// Reads a file's entries into the innermost block.
    fn file(&mut self, path: &Path, included_at: Option<&Place>) -> Result<(), ConfError> {
        let failed = |words: String| ConfError {
            at: included_at.cloned(),
            words,
        };
        self.files_read += 1;
        if self.files.len() >= INCLUDES_MAX || self.files_read > FILES_MAX {
            return Err(failed(format!(
                "more than {INCLUDES_MAX} files deep or {FILES_MAX} in all: does a file include itself?"
            )));
        }
        let text = self.sources.read(path).map_err(failed)?;
        let folder = path.parent().unwrap_or_else(|| Path::new("")).to_path_buf();
        self.files.push(folder);
        let name: Arc<str> = path.display().to_string().into();
        let mut lexer = Lexer::new(name, &text);
        lexer.skip();
        let outcome = if lexer.peek() == Some('{') {
            self.braced_file(&mut lexer)
        } else {
            self.entries(&mut lexer, None)
        };
        self.files.pop();
        outcome
    }

    /// A file that is one block as a whole, as JSON is.
    fn braced_file(&mut self, lexer: &mut Lexer<'_>) -> Result<(), ConfError> {
        let at = lexer.place();
        lexer.next();
        self.entries(lexer, Some(&at))?;
        lexer.skip();
        match lexer.peek() {
            None => Ok(()),
            Some(c) => Err(ConfError::at(
                lexer.place(),
                format!("wanted the end of the file after }}, found {c:?}"),
            )),
        }
    }

    /// Entries up to `}` where `opened` says where the block began, else to the end of the file.
    fn entries(&mut self, lexer: &mut Lexer<'_>, opened: Option<&Place>) -> Result<(), ConfError> {
        loop {
            skip_separators(lexer);
            match (lexer.peek(), opened) {
                (None, None) => return Ok(()),
                (None, Some(at)) => return Err(unclosed(at, '}')),
                (Some('}'), Some(_)) => {
                    lexer.next();
                    return Ok(());
                }
                _ => self.entry(lexer, opened.is_some())?,
            }
        }
    }

    fn entry(&mut self, lexer: &mut Lexer<'_>, in_block: bool) -> Result<(), ConfError> {
        let at = lexer.place();
        let quoted = matches!(lexer.peek(), Some('"' | '\''));
        let key = lexer.key()?;
        lexer.skip();
        let separated = lexer.take(':') || lexer.take('=');
        if !quoted && !separated && key.eq_ignore_ascii_case("include") {
            return self.include(lexer, &at);
        }
        lexer.skip();
        if matches!(lexer.peek(), None | Some('}' | ']' | ',' | ';')) {
            return Err(ConfError::at(at, format!("{key:?} has no value")));
        }
        let node = self.value(lexer)?;
        ends_well(lexer, &node, if in_block { '}' } else { '\n' })?;
        self.insert(Entry {
            key,
            at,
            node,
            is_variable: false,
        });
        Ok(())
    }

    fn insert(&mut self, entry: Entry) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(entry);
        }
    }

    fn include(&mut self, lexer: &mut Lexer<'_>, at: &Place) -> Result<(), ConfError> {
        let path = match lexer.peek() {
            Some(quote @ ('"' | '\'')) => lexer.quoted(quote)?,
            _ => lexer.bare(),
        };
        if path.is_empty() {
            return Err(ConfError::at(
                at.clone(),
                "include names no file".to_owned(),
            ));
        }
        let folder = self.files.last().cloned().unwrap_or_default();
        self.file(&folder.join(path), Some(at))
    }

    fn value(&mut self, lexer: &mut Lexer<'_>) -> Result<Node, ConfError> {
        let at = lexer.place();
        self.count(1, &at)?;
        let text = match lexer.peek() {
            Some('{') => return self.nested(lexer, at, Self::map),
            Some('[') => return self.nested(lexer, at, Self::array),
            Some(quote @ ('"' | '\'')) => lexer.quoted(quote)?,
            Some('(') => lexer.block()?,
            _ => return self.bare(lexer, at),
        };
        let value = Value::String(text.clone());
        Ok(Node { value, text, at })
    }

    fn nested(
        &mut self,
        lexer: &mut Lexer<'_>,
        at: Place,
        read: fn(&mut Self, &mut Lexer<'_>, &Place) -> Result<Value, ConfError>,
    ) -> Result<Node, ConfError> {
        if self.depth >= DEPTH_MAX {
            return Err(ConfError::at(at, format!("nested deeper than {DEPTH_MAX}")));
        }
        self.depth += 1;
        lexer.next();
        let value = read(self, lexer, &at)?;
        self.depth -= 1;
        let text = String::new();
        Ok(Node { value, text, at })
    }

    fn map(&mut self, lexer: &mut Lexer<'_>, at: &Place) -> Result<Value, ConfError> {
        self.scopes.push(Map::default());
        let outcome = self.entries(lexer, Some(at));
        let map = self.scopes.pop().unwrap_or_default();
        outcome.map(|()| Value::Map(map))
    }

    fn array(&mut self, lexer: &mut Lexer<'_>, at: &Place) -> Result<Value, ConfError> {
        let mut items = Vec::new();
        loop {
            skip_separators(lexer);
            match lexer.peek() {
                None => return Err(unclosed(at, ']')),
                Some(']') => {
                    lexer.next();
                    return Ok(Value::Array(items));
                }
                Some('}') => return Err(unclosed(at, ']')),
                Some(_) => {
                    let node = self.value(lexer)?;
                    ends_well(lexer, &node, ']')?;
                    items.push(node);
                }
            }
        }
    }

    fn bare(&mut self, lexer: &mut Lexer<'_>, at: Place) -> Result<Node, ConfError> {
        let text = lexer.bare();
        if text.is_empty() {
            let found = shown(lexer.peek());
            return Err(ConfError::at(at, format!("wanted a value, found {found}")));
        }
        if let Some(name) = text.strip_prefix('$') {
            let hash = [BCRYPT, BCRYPT_B, BCRYPT_Y]
                .iter()
                .any(|start| name.starts_with(start));
            if !hash {
                return self.variable(name, at);
            }
        }
        let value = scalar(&text);
        Ok(Node { value, text, at })
    }

    fn variable(&mut self, name: &str, at: Place) -> Result<Node, ConfError> {
        let found = self
            .scopes
            .iter_mut()
            .rev()
            .find_map(|scope| scope.variable(name));
        if let Some(node) = found {
            let node = Node {
                at: at.clone(),
                ..node.clone()
            };
            self.count(node.count(), &at)?;
            return Ok(node);
        }
        let Some(text) = self.sources.environment(name) else {
            let words =
                format!("${name} is neither a key further up nor a variable of the environment");
            return Err(ConfError::at(at, words));
        };
        // The environment's text is a value in the file's language; what is none is text.
        let label = format!("${name}").into();
        let mut lexer = Lexer::new(label, &text);
        let structured = matches!(lexer.peek(), Some('[' | '{' | '"' | '\''));
        let depth = self.depth;
        if structured && let Ok(node) = self.value(&mut lexer) {
            return Ok(Node { at, ..node });
        }
        self.depth = depth;
        let value = scalar(&text);
        Ok(Node { value, text, at })
    }

    fn count(&mut self, values: usize, at: &Place) -> Result<(), ConfError> {
        self.values = self.values.saturating_add(values);
        if self.values > VALUES_MAX {
            return Err(ConfError::at(
                at.clone(),
                format!("more than {VALUES_MAX} values"),
            ));
        }
        Ok(())
    }
}

fn unclosed(at: &Place, end: char) -> ConfError {
    ConfError::at(at.clone(), format!("what begins here has no {end}"))
}

fn skip_separators(lexer: &mut Lexer<'_>) {
    lexer.skip();
    while lexer.take(',') || lexer.take(';') {
        lexer.skip();
    }
}

/// After a value the line ends, or a separator or the end of what it stands in follows.
fn ends_well(lexer: &mut Lexer<'_>, node: &Node, closing: char) -> Result<(), ConfError> {
    if lexer.skip_on_line() {
        return Ok(());
    }
    match lexer.peek() {
        Some(',' | ';') => Ok(()),
        Some(c) if c == closing => Ok(()),
        Some(c) => {
            let words = format!(
                "wanted the end of the line, ',' or ';' after {}, found {c:?}; text with spaces needs quotes",
                node.value.kind()
            );
            Err(ConfError::at(lexer.place(), words))
        }
        None => Ok(()),
    }
}

/// What a bare word means.
fn scalar(text: &str) -> Value {
    let is = |words: [&str; 3]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is(["true", "yes", "on"]) {
        return Value::Bool(true);
    }
    if is(["false", "no", "off"]) {
        return Value::Bool(false);
    }
    match integer(text) {
        Some(number) => Value::Integer(number),
        None => match float(text) {
            Some(number) => Value::Float(number),
            None => Value::String(text.to_owned()),
        },
    }
}

/// A whole number with an optional unit: `k` is 1000, `kb`, `ki` and `kib` are 1024, and so on.
fn integer(text: &str) -> Option<i64> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let digits = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return None;
    }
    let (number, unit) = text.split_at(text.len() - unsigned.len() + digits);
    let unit = unit.to_ascii_lowercase();
    let mut letters = unit.chars();
    let power = match letters.next() {
        None => return number.parse().ok(),
        Some('k') => 1,
        Some('m') => 2,
        Some('g') => 3,
        Some('t') => 4,
        Some('p') => 5,
        Some('e') => 6,
        Some(_) => return None,
    };
    let base: i64 = match letters.as_str() {
        "" => 1000,
        "b" | "i" | "ib" => 1024,
        _ => return None,
    };
    let number: i64 = number.parse().ok()?;
    number.checked_mul(base.checked_pow(power)?)
}

/// `1.5`: digits, one dot, digits; anything else that Rust would read (`inf`, `1e9`) is text.
fn float(text: &str) -> Option<f64> {
    let (whole, fraction) = text.strip_prefix('-').unwrap_or(text).split_once('.')?;
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let number = (digits(whole) && digits(fraction)).then(|| text.parse().ok());
    number.flatten().filter(|number: &f64| number.is_finite())
}
