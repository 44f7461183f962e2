//! Splitting a control line into arguments, and reading sizes.
//!
//! Owns the byte classes of the grammar. Looks at eight bytes at a time, since the argument scan is
//! most of what decoding a message costs; must never look beyond the line it is given.

/// Most arguments any operation takes (`HPUB subject reply #hdr #total`).
const ARGS_MAX: usize = 4;

/// Longest size token; as the stock server, which keeps sizes far inside 32 bits.
const SIZE_DIGITS_MAX: usize = 9;

/// Positions of up to four arguments of a complete control line.
#[derive(Copy, Clone, Debug)]
pub(super) struct Args {
    spans: [(usize, usize); ARGS_MAX],
    count: usize,
    line_end: usize,
}

impl Args {
    /// Reads arguments from `from` to the LF. `None` if there is no LF, or there are too many of
    /// them.
    #[inline(always)]
    pub(super) fn scan(buf: &[u8], from: usize) -> Option<Self> {
        let mut args = Self {
            spans: [(0, 0); ARGS_MAX],
            count: 0,
            line_end: 0,
        };
        let mut start = from;
        let mut base = from;
        loop {
            let mut found = blanks(word_at(buf, base)?);
            while found != 0 {
                let at = base + (found.trailing_zeros() / 8) as usize;
                found &= found - 1;
                let byte = *buf.get(at)?;
                if !is_separator(byte) {
                    continue;
                }
                if at > start {
                    *args.spans.get_mut(args.count)? = (start, at);
                    args.count += 1;
                }
                start = at + 1;
                if byte == b'\n' {
                    args.line_end = start;
                    return Some(args);
                }
            }
            base += 8;
        }
    }

    #[inline]
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The `index`-th argument; empty if there is none.
    #[inline]
    pub(super) fn token<'a>(&self, buf: &'a [u8], index: usize) -> &'a [u8] {
        let (start, end) = self.spans.get(index).copied().unwrap_or_default();
        buf.get(start..end).unwrap_or_default()
    }

    /// The position after the LF.
    #[inline]
    pub(super) fn line_end(&self) -> usize {
        self.line_end
    }
}

/// A size of at most nine decimal digits; `None` for anything else, signs included.
#[inline]
pub(super) fn size(token: &[u8]) -> Option<usize> {
    if token.is_empty() || token.len() > SIZE_DIGITS_MAX {
        return None;
    }
    let mut value = 0_usize;
    for &byte in token {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + usize::from(digit);
    }
    Some(value)
}

/// Eight bytes from `at`, the first one lowest. Beyond the end of `buf` stand NULs, which count as
/// blank: the caller meets the end of the buffer when it looks at them. `None` once there is
/// nothing left.
#[inline]
fn word_at(buf: &[u8], at: usize) -> Option<u64> {
    let rest = buf.get(at..)?;
    if let Some(word) = rest.first_chunk::<8>() {
        return Some(u64::from_le_bytes(*word));
    }
    last_word(rest)
}

#[cold]
fn last_word(rest: &[u8]) -> Option<u64> {
    if rest.is_empty() {
        return None;
    }
    let mut word = [0; 8];
    word[..rest.len()].copy_from_slice(rest);
    Some(u64::from_le_bytes(word))
}

#[inline]
fn is_separator(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// The high bit of each byte that is at most 0x20, and no other bit.
#[inline]
fn blanks(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    // The sum carries into the high bit from 0x21 on, and never into the next byte.
    let above = (word & !HIGH) + ONES * (0x7f - 0x20);
    !(above | word) & HIGH
}

#[cfg(test)]
mod tests {
    use super::{Args, size};

    fn tokens(line: &[u8]) -> Option<Vec<Vec<u8>>> {
        let args = Args::scan(line, 0)?;
        assert_eq!(
            Some(args.line_end() - 1),
            line.iter().position(|&byte| byte == b'\n')
        );
        Some(
            (0..args.count())
                .map(|i| args.token(line, i).to_vec())
                .collect(),
        )
    }

    #[test]
    fn any_byte_at_any_place_is_told_apart() {
        for byte in 0..=u8::MAX {
            for place in 0..20 {
                let mut line = [b'x'; 21];
                line[place] = byte;
                line[20] = b'\n';
                let end = line.iter().position(|&byte| byte == b'\n').unwrap();
                let naive: Vec<Vec<u8>> = line[..end]
                    .split(|byte| b" \t\r".contains(byte))
                    .filter(|token| !token.is_empty())
                    .map(<[u8]>::to_vec)
                    .collect();
                assert_eq!(tokens(&line), Some(naive), "{byte:#x} at {place}");
            }
        }
    }

    #[test]
    fn a_line_of_any_length_needs_its_end_and_at_most_four_arguments() {
        for len in 0..40 {
            let mut line = vec![b'x'; len];
            assert_eq!(tokens(&line), None);
            line.push(b'\n');
            assert_eq!(tokens(&line).unwrap().concat().len(), len);
        }
        assert_eq!(tokens(b"a b c d\n").unwrap().len(), 4);
        assert_eq!(tokens(b"a b c d e\n"), None);
        assert_eq!(tokens(b" \t\r\n"), Some(Vec::new()));
    }

    #[test]
    fn sizes_are_plain_digits() {
        assert_eq!(size(b"0"), Some(0));
        assert_eq!(size(b"1048576"), Some(1_048_576));
        assert_eq!(size(b"007"), Some(7));
        assert_eq!(size(b"999999999"), Some(999_999_999));
        for bad in [
            &b""[..],
            b"-1",
            b"+1",
            b"1x",
            b"x",
            b"1234567890",
            b"1 ",
            b"/",
            b":",
        ] {
            assert_eq!(size(bad), None, "{bad:?}");
        }
    }
}
