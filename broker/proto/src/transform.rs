//! Subject transforms: from a filter to a destination, with the mapping functions of nats-server
//! (`wildcard`, `partition`, `split`, `splitFromLeft`, `splitFromRight`, `sliceFromLeft`,
//! `sliceFromRight`, `left`, `right`). Pure: the same subject always becomes the same subject, so
//! `random` is refused.

use thiserror::Error;

use crate::subject;

/// Tokens of a transform's source and destination at most.
const TOKENS_MAX: usize = 256;
/// A transformed subject is at most this long; a longer one is left as it was.
const SUBJECT_BYTES_MAX: usize = 65_535;

/// Why a transform is not acceptable. The texts are nats-server's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TransformError {
    /// Source or destination is no subject, or they do not fit each other.
    #[error("invalid subject")]
    Subject,
    /// A function names a wildcard that the source does not have.
    #[error("invalid mapping destination: wildcard index out of range in {0}")]
    IndexOutOfRange(String),
    /// No such function.
    #[error("invalid mapping destination: unknown function in {0}")]
    UnknownFunction(String),
    /// A function without a needed argument.
    #[error("invalid mapping destination: not enough arguments passed to the function in {0}")]
    NotEnoughArguments(String),
    /// A function with too many arguments.
    #[error("invalid mapping destination: too many arguments passed to the function in {0}")]
    TooManyArguments(String),
    /// An argument that does not parse.
    #[error(
        "invalid mapping destination: function argument is invalid or in the wrong format in {0}"
    )]
    InvalidArgument(String),
    /// A function whose result can't be the same everywhere.
    #[error("invalid mapping destination: function is not supported here: {0}")]
    Unsupported(String),
}

/// One piece of a destination. Indexes are those of source tokens, from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Vec<u8>),
    Token(usize),
    Partition {
        buckets: u32,
        tokens: Vec<usize>,
    },
    Split {
        token: usize,
        delimiter: Vec<u8>,
    },
    SplitAt {
        token: usize,
        at: usize,
        from_right: bool,
    },
    Slice {
        token: usize,
        size: usize,
        from_right: bool,
    },
    Edge {
        token: usize,
        size: usize,
        right: bool,
    },
    Rest,
}

/// A checked transform, ready to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transform {
    source: Vec<u8>,
    pieces: Vec<Piece>,
    /// Tokens of the source before a final `>`.
    fixed: usize,
}

impl Transform {
    /// Reads a transform. An empty source means `>`.
    pub fn new(source: &str, destination: &str) -> Result<Self, TransformError> {
        let source = if source.is_empty() { ">" } else { source };
        let from: Vec<&str> = source.split('.').collect();
        let to = destination_tokens(destination)?;
        if !subject::is_valid_filter(source.as_bytes()) || from.len() > TOKENS_MAX {
            return Err(TransformError::Subject);
        }
        let open = from.last() == Some(&">");
        if open != (to.last() == Some(&">")) || to.contains(&"*") {
            return Err(TransformError::Subject);
        }
        if to[..to.len() - 1].contains(&">") {
            return Err(TransformError::Subject);
        }
        let wildcards: Vec<usize> = (0..from.len()).filter(|at| from[*at] == "*").collect();
        let pieces = to
            .iter()
            .map(|token| piece(token, &wildcards))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            source: source.as_bytes().to_vec(),
            pieces,
            fixed: from.len() - usize::from(open),
        })
    }

    /// What the transform applies to.
    #[must_use]
    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// Every subject the transform can produce matches this filter.
    #[must_use]
    pub fn destination_filter(&self) -> Vec<u8> {
        let mut out: Vec<u8> = Vec::new();
        for piece in &self.pieces {
            if !out.is_empty() {
                out.push(b'.');
            }
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text),
                Piece::Token(_) | Piece::Partition { .. } | Piece::Edge { .. } => out.push(b'*'),
                // Any number of tokens from here on.
                _ => {
                    out.push(b'>');
                    return out;
                }
            }
        }
        out
    }

    /// The transformed subject; `None` when the source does not match it.
    #[must_use]
    pub fn apply(&self, name: &[u8]) -> Option<Vec<u8>> {
        if !subject::matches(&self.source, name) {
            return None;
        }
        let tokens: Vec<&[u8]> = name.split(|byte| *byte == b'.').collect();
        let mut out = Vec::with_capacity(name.len() + 32);
        for (at, piece) in self.pieces.iter().enumerate() {
            if at > 0 {
                out.push(b'.');
            }
            self.write(piece, &tokens, &mut out);
        }
        (out.len() <= SUBJECT_BYTES_MAX).then_some(out)
    }

    fn write(&self, piece: &Piece, tokens: &[&[u8]], out: &mut Vec<u8>) {
        let token = |at: &usize| tokens.get(*at).copied().unwrap_or_default();
        match piece {
            Piece::Literal(text) => out.extend_from_slice(text),
            Piece::Token(at) => out.extend_from_slice(token(at)),
            Piece::Partition {
                buckets,
                tokens: of,
            } => {
                let key: Vec<u8> = if of.is_empty() {
                    tokens.join(&b'.')
                } else {
                    of.iter().flat_map(&token).copied().collect()
                };
                out.extend_from_slice((fnv1a(&key) % buckets).to_string().as_bytes());
            }
            Piece::Split {
                token: at,
                delimiter,
            } => split(token(at), delimiter, out),
            Piece::SplitAt {
                token: at,
                at: cut,
                from_right,
            } => {
                let text = token(at);
                let cut = if *from_right {
                    text.len().saturating_sub(*cut)
                } else {
                    *cut
                };
                if cut > 0 && cut < text.len() {
                    join(out, [&text[..cut], &text[cut..]].into_iter());
                } else {
                    out.extend_from_slice(text);
                }
            }
            Piece::Slice {
                token: at,
                size,
                from_right,
            } => {
                let text = token(at);
                let head = if *from_right { text.len() % size } else { 0 };
                let (head, tail) = text.split_at(head);
                let parts = std::iter::once(head).chain(tail.chunks(*size));
                join(out, parts.filter(|part| !part.is_empty()));
            }
            Piece::Edge {
                token: at,
                size,
                right,
            } => {
                let text = token(at);
                let size = (*size).min(text.len());
                let part = if *right {
                    &text[text.len() - size..]
                } else {
                    &text[..size]
                };
                out.extend_from_slice(part);
            }
            Piece::Rest => {
                join(
                    out,
                    tokens.get(self.fixed..).unwrap_or_default().iter().copied(),
                );
            }
        }
    }
}

fn join<'a>(out: &mut Vec<u8>, parts: impl Iterator<Item = &'a [u8]>) {
    for (at, part) in parts.enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        out.extend_from_slice(part);
    }
}

fn split(text: &[u8], delimiter: &[u8], out: &mut Vec<u8>) {
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest
        .windows(delimiter.len())
        .position(|window| window == delimiter)
    {
        parts.push(&rest[..at]);
        rest = &rest[at + delimiter.len()..];
    }
    parts.push(rest);
    parts.retain(|part| !part.is_empty());
    if parts.is_empty() {
        // A token of delimiters only stays: a subject has no empty tokens.
        parts.push(text);
    }
    join(out, parts.into_iter());
}

/// FNV-1a, 32 bits: the hash that clients expect of `partition`.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// Splits at the dots outside of `{{…}}`.
fn destination_tokens(destination: &str) -> Result<Vec<&str>, TransformError> {
    let mut tokens = Vec::new();
    let (mut start, mut depth) = (0, 0_usize);
    for (at, byte) in destination.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            b'.' if depth == 0 => {
                tokens.push(&destination[start..at]);
                start = at + 1;
            }
            byte if depth == 0 && (byte.is_ascii_whitespace() || byte == 0) => {
                return Err(TransformError::Subject);
            }
            _ => {}
        }
    }
    tokens.push(&destination[start..]);
    if tokens.len() > TOKENS_MAX || tokens.iter().any(|token| token.is_empty()) {
        return Err(TransformError::Subject);
    }
    Ok(tokens)
}

fn piece(token: &str, wildcards: &[usize]) -> Result<Piece, TransformError> {
    if token == ">" {
        return Ok(Piece::Rest);
    }
    if let Some(index) = token
        .strip_prefix('$')
        .and_then(|text| text.parse::<usize>().ok())
    {
        let at = index.checked_sub(1).and_then(|at| wildcards.get(at));
        return at
            .map(|at| Piece::Token(*at))
            .ok_or_else(|| TransformError::IndexOutOfRange(token.to_owned()));
    }
    let call = token
        .strip_prefix("{{")
        .and_then(|text| text.strip_suffix("}}"));
    match call {
        Some(call) => function(call, token, wildcards),
        None => Ok(Piece::Literal(token.as_bytes().to_vec())),
    }
}

/// A function's arguments, read with the errors that name the whole token.
struct Call<'a> {
    token: &'a str,
    args: Vec<&'a str>,
    wildcards: &'a [usize],
}

impl Call<'_> {
    fn arity(&self, min: usize, max: usize) -> Result<(), TransformError> {
        if self.args.len() < min {
            return Err(TransformError::NotEnoughArguments(self.token.to_owned()));
        }
        if self.args.len() > max {
            return Err(TransformError::TooManyArguments(self.token.to_owned()));
        }
        Ok(())
    }

    fn number(&self, at: usize) -> Result<usize, TransformError> {
        self.args
            .get(at)
            .and_then(|text| text.parse::<u32>().ok())
            .map(|number| number as usize)
            .ok_or_else(|| TransformError::InvalidArgument(self.token.to_owned()))
    }

    fn positive(&self, at: usize) -> Result<usize, TransformError> {
        match self.number(at)? {
            0 => Err(TransformError::InvalidArgument(self.token.to_owned())),
            number => Ok(number),
        }
    }

    /// The source token of the wildcard that an argument counts from 1.
    fn wildcard(&self, at: usize) -> Result<usize, TransformError> {
        let index = self.number(at)?;
        let found = index.checked_sub(1).and_then(|at| self.wildcards.get(at));
        found
            .copied()
            .ok_or_else(|| TransformError::IndexOutOfRange(format!("{}: [{index}]", self.token)))
    }

    fn wildcard_and_number(&self) -> Result<(usize, usize), TransformError> {
        self.arity(2, 2)?;
        Ok((self.wildcard(0)?, self.positive(1)?))
    }
}

fn function(call: &str, token: &str, wildcards: &[usize]) -> Result<Piece, TransformError> {
    let unknown = || TransformError::UnknownFunction(token.to_owned());
    let (name, args) = call.trim().split_once('(').ok_or_else(unknown)?;
    let args = args.strip_suffix(')').ok_or_else(unknown)?;
    let args: Vec<&str> = args
        .split(',')
        .map(str::trim)
        .filter(|arg| !arg.is_empty())
        .collect();
    let call = Call {
        token,
        args,
        wildcards,
    };
    match name.trim().to_ascii_lowercase().as_str() {
        "wildcard" => {
            call.arity(1, 1)?;
            Ok(Piece::Token(call.wildcard(0)?))
        }
        "partition" => {
            call.arity(1, TOKENS_MAX)?;
            let buckets = call.positive(0)? as u32;
            let tokens = (1..call.args.len())
                .map(|at| call.wildcard(at))
                .collect::<Result<_, _>>()?;
            Ok(Piece::Partition { buckets, tokens })
        }
        "split" => {
            call.arity(2, 2)?;
            let delimiter = call.args[1];
            if delimiter.contains(['.', ' ']) {
                return Err(TransformError::InvalidArgument(token.to_owned()));
            }
            let delimiter = delimiter.as_bytes().to_vec();
            Ok(Piece::Split {
                token: call.wildcard(0)?,
                delimiter,
            })
        }
        name @ ("splitfromleft" | "splitfromright") => {
            let (token, at) = call.wildcard_and_number()?;
            Ok(Piece::SplitAt {
                token,
                at,
                from_right: name.ends_with("right"),
            })
        }
        name @ ("slicefromleft" | "slicefromright") => {
            let (token, size) = call.wildcard_and_number()?;
            Ok(Piece::Slice {
                token,
                size,
                from_right: name.ends_with("right"),
            })
        }
        name @ ("left" | "right") => {
            let (token, size) = call.wildcard_and_number()?;
            Ok(Piece::Edge {
                token,
                size,
                right: name == "right",
            })
        }
        "random" => Err(TransformError::Unsupported(token.to_owned())),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Transform, TransformError};

    fn applied(source: &str, destination: &str, name: &str) -> Option<String> {
        let transform = Transform::new(source, destination).unwrap();
        let out = transform.apply(name.as_bytes())?;
        assert!(
            crate::subject::matches(&transform.destination_filter(), &out),
            "{transform:?}"
        );
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn functions_do_what_nats_server_does() {
        let cases = [
            ("foo", "bar", "foo", "bar"),
            ("", "x.>", "a.b", "x.a.b"),
            ("foo.*.*", "$2.x.$1", "foo.a.b", "b.x.a"),
            (
                "foo.*.>",
                "bar.{{ wildcard(1) }}.>",
                "foo.a.b.c",
                "bar.a.b.c",
            ),
            ("*", "{{split(1,-)}}", "-abc-def--ghi-", "abc.def.ghi"),
            ("*", "{{splitfromleft(1,3)}}", "12345", "123.45"),
            ("*", "{{SplitFromRight(1,3)}}", "12345", "12.345"),
            ("*", "{{splitFromLeft(1,9)}}", "12345", "12345"),
            ("*", "{{SliceFromLeft(1,3)}}", "1234567890", "123.456.789.0"),
            (
                "*",
                "{{SliceFromRight(1,3)}}",
                "1234567890",
                "1.234.567.890",
            ),
            ("*", "{{left(1,3)}}.{{right(1,2)}}", "12345", "123.45"),
            ("*", "baz.{{partition(10,1)}}", "foo", "baz.3"),
            ("*", "baz.{{partition(10)}}", "foo", "baz.3"),
            (
                "*.bar.*",
                "a.{{partition(10,1,2)}}.$2",
                "foo.bar.z",
                "a.3.z",
            ),
        ];
        for (source, destination, name, expected) in cases {
            let found = applied(source, destination, name);
            assert_eq!(found.as_deref(), Some(expected), "{source} {destination}");
        }
        assert_eq!(applied("a.*", "b.$1", "x.y"), None);
    }

    #[test]
    fn bad_transforms_are_named() {
        let refused = |source, destination| Transform::new(source, destination).unwrap_err();
        assert_eq!(refused("foo..x", "bar"), TransformError::Subject);
        assert_eq!(refused("foo.*", "bar.*"), TransformError::Subject);
        assert_eq!(refused("foo.>", "bar"), TransformError::Subject);
        assert_eq!(refused("foo", ""), TransformError::Subject);
        assert_eq!(
            refused("foo", "bar.$1").to_string(),
            "invalid mapping destination: wildcard index out of range in $1"
        );
        assert_eq!(
            refused("foo.*", "bar.{{wildcard(2)}}").to_string(),
            "invalid mapping destination: wildcard index out of range in {{wildcard(2)}}: [2]"
        );
        assert_eq!(
            refused("foo.*", "bar.{{foo(1)}}").to_string(),
            "invalid mapping destination: unknown function in {{foo(1)}}"
        );
        for destination in [
            "{{left(1)}}",
            "{{left(1,0)}}",
            "{{partition(0,1)}}",
            "{{split(1,x,y)}}",
        ] {
            assert!(Transform::new("*", destination).is_err(), "{destination}");
        }
        assert!(matches!(
            refused("*", "{{random(3)}}"),
            TransformError::Unsupported(_)
        ));
    }
}
