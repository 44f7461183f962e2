//! Splitting a control line into arguments, and reading sizes.
//!
//! Owns the byte classes of the grammar. Looks at eight bytes at a time, since the argument scan is most
//! of what decoding a message costs; must never look beyond the line it is given.

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
    /// Reads arguments from `from` to the LF. `None` if there is no LF, or there are too many of them.
    #[inline]
    pub(super) fn scan(buf: &[u8], from: usize) -> Option<Self> {
        let mut args = Self { spans: [(0, 0); ARGS_MAX], count: 0, line_end: 0 };
        let mut at = from;
        loop {
            match *buf.get(at)? {
                b' ' | b'\t' | b'\r' => at += 1,
                b'\n' => {
                    args.line_end = at + 1;
                    return Some(args);
                }
                _ => {
                    let end = token_end(buf, at + 1)?;
                    *args.spans.get_mut(args.count)? = (at, end);
                    args.count += 1;
                    at = end;
                }
            }
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

/// The first SP, TAB, CR or LF at or after `at`.
#[inline]
fn token_end(buf: &[u8], mut at: usize) -> Option<usize> {
    while let Some(word) = buf.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let found = blanks(u64::from_le_bytes(*word));
        if found == 0 {
            at += 8;
            continue;
        }
        at += (found.trailing_zeros() / 8) as usize;
        if is_separator(buf[at]) {
            return Some(at);
        }
        at += 1;
    }
    let tail = buf.get(at..)?;
    tail.iter().position(|&byte| is_separator(byte)).map(|offset| at + offset)
}

#[inline]
fn is_separator(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Sets the high bit of bytes up to 0x20. Bits above the lowest one set may be false (borrows run
/// upwards), so only the lowest may be used.
#[inline]
fn blanks(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    word.wrapping_sub(ONES * 0x21) & !word & HIGH
}

#[cfg(test)]
mod tests {
    use super::{size, token_end};

    #[test]
    fn the_word_scan_agrees_with_a_byte_scan_at_every_place_and_for_every_byte() {
        for byte in 0..=u8::MAX {
            for place in 0..20 {
                let mut buf = [b'x'; 20];
                buf[place] = byte;
                for from in 0..=20 {
                    let naive = (from..20).find(|&i| [b' ', b'\t', b'\r', b'\n'].contains(&buf[i]));
                    assert_eq!(token_end(&buf, from), naive, "{byte:#x} at {place} from {from}");
                }
            }
        }
    }

    #[test]
    fn sizes_are_plain_digits() {
        assert_eq!(size(b"0"), Some(0));
        assert_eq!(size(b"1048576"), Some(1_048_576));
        assert_eq!(size(b"007"), Some(7));
        assert_eq!(size(b"999999999"), Some(999_999_999));
        for bad in [&b""[..], b"-1", b"+1", b"1x", b"x", b"1234567890", b"1 ", b"/", b":"] {
            assert_eq!(size(bad), None, "{bad:?}");
        }
    }
}
