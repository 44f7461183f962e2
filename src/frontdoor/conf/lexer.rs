//! Characters → words: white space and comments, keys, quoted text, blocks of text, bare words, with
//! the line and column of each. Knows nothing of maps and arrays.

use std::iter::Peekable;
use std::str::Chars;
use std::sync::Arc;

use super::parser::ConfError;
use super::value::Place;

/// Reads one file's text.
pub(super) struct Lexer<'a> {
    chars: Peekable<Chars<'a>>,
    after: Option<char>,
    file: Arc<str>,
    line: u32,
    column: u32,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(file: Arc<str>, text: &'a str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self {
            chars: text.chars().peekable(),
            after: None,
            file,
            line: 1,
            column: 1,
        }
    }

    /// Where the next character stands.
    pub(super) fn place(&self) -> Place {
        Place {
            file: Arc::clone(&self.file),
            line: self.line,
            column: self.column,
        }
    }

    pub(super) fn peek(&mut self) -> Option<char> {
        self.after.or_else(|| self.chars.peek().copied())
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let next = self.after.take().or_else(|| self.chars.next())?;
        if next == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
        Some(next)
    }

    /// Takes `wanted` if it comes next.
    pub(super) fn take(&mut self, wanted: char) -> bool {
        let is_next = self.peek() == Some(wanted);
        if is_next {
            self.next();
        }
        is_next
    }

    /// Skips spaces and comments on this line. True if the line ends here.
    pub(super) fn skip_on_line(&mut self) -> bool {
        loop {
            match self.peek() {
                None | Some('\n') => return true,
                Some(c) if c.is_whitespace() => {
                    self.next();
                }
                _ if self.skip_comment() => {}
                _ => return false,
            }
        }
    }

    /// Skips white space, line ends and comments.
    pub(super) fn skip(&mut self) {
        while self.skip_on_line() && self.next().is_some() {}
    }

    /// A comment up to, not with, the end of its line.
    fn skip_comment(&mut self) -> bool {
        let begins = match self.peek() {
            Some('#') => true,
            // A lone slash is the beginning of a bare word such as a path.
            Some('/') if self.after.is_none() => {
                let mut ahead = self.chars.clone();
                ahead.next();
                ahead.next() == Some('/')
            }
            _ => false,
        };
        if begins {
            while self.peek().is_some_and(|c| c != '\n') {
                self.next();
            }
        }
        begins
    }

    /// A key: quoted, or up to white space, `:`, `=` or `{`.
    pub(super) fn key(&mut self) -> Result<String, ConfError> {
        let at = self.place();
        match self.peek() {
            Some(quote @ ('"' | '\'')) => self.quoted(quote),
            _ => {
                let ends = |c: char| c.is_whitespace() || matches!(c, ':' | '=' | '{' | '}');
                let key = self.until(ends);
                if key.is_empty() {
                    let found = shown(self.peek());
                    return Err(ConfError::at(at, format!("wanted a key, found {found}")));
                }
                Ok(key)
            }
        }
    }

    /// A bare word: up to white space or what may end a value.
    pub(super) fn bare(&mut self) -> String {
        let mut word = self.until(ends_bare);
        // As in quoted text, a backslash takes what follows for itself.
        while self.peek() == Some('\\') {
            self.next();
            word.extend(self.next());
            word.push_str(&self.until(ends_bare));
        }
        word
    }

    fn until(&mut self, ends: impl Fn(char) -> bool) -> String {
        let mut word = String::new();
        while let Some(c) = self.peek().filter(|c| !ends(*c)) {
            word.push(c);
            self.next();
        }
        word
    }

    /// Quoted text. Only in double quotes does a backslash mean something.
    pub(super) fn quoted(&mut self, quote: char) -> Result<String, ConfError> {
        let at = self.place();
        self.next();
        let mut text = String::new();
        while let Some(c) = self.next() {
            match c {
                _ if c == quote => return Ok(text),
                '\\' if quote == '"' => text.push(self.escape()?),
                _ => text.push(c),
            }
        }
        Err(ConfError::at(
            at,
            format!("text that begins with {quote} here has no end"),
        ))
    }

    fn escape(&mut self) -> Result<char, ConfError> {
        let at = self.place();
        match self.next() {
            Some('n') => Ok('\n'),
            Some('t') => Ok('\t'),
            Some('r') => Ok('\r'),
            Some('b') => Ok('\u{8}'),
            Some('f') => Ok('\u{c}'),
            Some(c @ ('"' | '\\' | '/' | '\'')) => Ok(c),
            Some('x') => self.code(2, &at),
            Some('u') => self.unicode(&at),
            other => {
                let found = other.map(String::from).unwrap_or_default();
                let known = r#"\n, \t, \r, \b, \f, \", \\, \/, \xHH and \uHHHH"#;
                Err(ConfError::at(
                    at,
                    format!("\\{found} means nothing; known are {known}"),
                ))
            }
        }
    }

    /// `\uHHHH`, or a pair of them for a character beyond the first plane.
    fn unicode(&mut self, at: &Place) -> Result<char, ConfError> {
        let first = self.hex(4, at)?;
        if !(0xd800..0xdc00).contains(&first) {
            return character(first, at);
        }
        if self.next() != Some('\\') || self.next() != Some('u') {
            return Err(ConfError::at(
                at.clone(),
                "half of a \\u pair stands alone".to_owned(),
            ));
        }
        let second = self.hex(4, at)?.wrapping_sub(0xdc00);
        if second >= 0x400 {
            return Err(ConfError::at(
                at.clone(),
                "half of a \\u pair stands alone".to_owned(),
            ));
        }
        character(0x1_0000 + ((first - 0xd800) << 10) + second, at)
    }

    fn code(&mut self, digits: usize, at: &Place) -> Result<char, ConfError> {
        let code = self.hex(digits, at)?;
        character(code, at)
    }

    fn hex(&mut self, digits: usize, at: &Place) -> Result<u32, ConfError> {
        let mut code = 0;
        for _ in 0..digits {
            let digit = self.next().and_then(|c| c.to_digit(16));
            let digit = digit.ok_or_else(|| {
                ConfError::at(at.clone(), format!("wanted {digits} hex digits here"))
            })?;
            code = code * 16 + digit;
        }
        Ok(code)
    }

    /// The lines between `(` and a line that is only `)`.
    pub(super) fn block(&mut self) -> Result<String, ConfError> {
        let at = self.place();
        self.next();
        let mut text = String::new();
        loop {
            let line = self.until(|c| c == '\n');
            let ended = self.next().is_none();
            if line.trim() == ")" {
                // The end of the line ends the value too.
                self.after = (!ended).then(|| self.unread_line());
                return Ok(text.trim_matches('\n').to_owned());
            }
            if ended {
                let words = "a block of text that begins with ( here has no line with only )";
                return Err(ConfError::at(at, words.to_owned()));
            }
            text.push_str(&line);
            text.push('\n');
        }
    }

    fn unread_line(&mut self) -> char {
        self.line -= 1;
        '\n'
    }
}

/// A character, or its absence, in a message.
pub(super) fn shown(next: Option<char>) -> String {
    next.map_or_else(|| "the end of the file".to_owned(), |c| format!("{c:?}"))
}

fn ends_bare(c: char) -> bool {
    c.is_whitespace() || matches!(c, ',' | ';' | ']' | '}' | '\\')
}

fn character(code: u32, at: &Place) -> Result<char, ConfError> {
    char::from_u32(code)
        .ok_or_else(|| ConfError::at(at.clone(), format!("{code:#x} is no character")))
}
