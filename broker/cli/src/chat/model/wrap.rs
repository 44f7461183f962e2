//! Text cut into rows of a terminal: at spaces where there are some, and never inside a grapheme, so that
//! wide characters and joined emoji are counted as a terminal counts them. Pure.

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// Columns that a text takes.
pub(in crate::chat) fn columns(text: &str) -> usize {
    text.width()
}

/// The rows of a text, each at most `width` columns (but for a grapheme that is wider than that).
pub(in crate::chat) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    text.split('\n')
        .flat_map(|line| wrap_line(line, width))
        .collect()
}

fn wrap_line(line: &str, width: usize) -> Vec<String> {
    let mut rows = Vec::new();
    let mut row = String::new();
    // Where the row may be cut: after its last space.
    let mut cut = None;
    for grapheme in line.graphemes(true) {
        while !row.is_empty() && columns(&row) + columns(grapheme) > width {
            if grapheme == " " {
                break;
            }
            let rest = cut.take().map_or_else(String::new, |at| row.split_off(at));
            rows.push(row.trim_end().to_owned());
            row = rest;
        }
        if grapheme == " " && columns(&row) >= width {
            rows.push(std::mem::take(&mut row).trim_end().to_owned());
            cut = None;
            continue;
        }
        row.push_str(grapheme);
        if grapheme == " " {
            cut = Some(row.len());
        }
    }
    if !row.is_empty() || rows.is_empty() {
        rows.push(row);
    }
    rows
}

/// A text that fits into `width` columns; what is longer ends in `…`.
pub(in crate::chat) fn clip(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut clipped = String::new();
    for grapheme in text.graphemes(true) {
        if columns(&clipped) + columns(grapheme) + 1 > width {
            break;
        }
        clipped.push_str(grapheme);
    }
    if width > 0 {
        clipped.push('…');
    }
    clipped
}

/// A text of exactly `width` columns: clipped, or followed by spaces.
pub(in crate::chat) fn fit(text: &str, width: usize) -> String {
    let mut fitted = clip(text, width);
    let missing = width.saturating_sub(columns(&fitted));
    fitted.extend(std::iter::repeat_n(' ', missing));
    fitted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{clip, columns, fit, wrap};

    #[test]
    fn rows_break_at_spaces_and_long_words_anywhere() {
        assert_eq!(wrap("the tea is ready", 7), ["the tea", "is", "ready"]);
        assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrap("a\n\n  b", 9), ["a", "", "  b"]);
        assert_eq!(wrap("", 9), [""]);
        assert_eq!(wrap("tea  ", 3), ["tea", " "]);
    }

    #[test]
    fn wide_characters_take_two_columns() {
        assert_eq!(wrap("世界世界", 5), ["世界", "世界"]);
        assert_eq!(wrap("世", 1), ["世"]);
        let family = "👨\u{200d}👩\u{200d}👧";
        assert_eq!(wrap(&family.repeat(2), 3), [family, family]);
        assert_eq!(
            (clip("世界", 3).as_str(), clip("世界", 4).as_str()),
            ("世…", "世界")
        );
        assert_eq!(
            (fit("世", 4).as_str(), fit("abcdef", 4).as_str()),
            ("世  ", "abc…")
        );
    }

    proptest! {
        #[test]
        fn no_row_is_too_wide_and_no_word_is_lost(text in "[a-z 世é\u{301}]{0,60}", width in 2..20usize) {
            let rows = wrap(&text, width);
            for row in &rows {
                prop_assert!(columns(row) <= width, "{row:?}");
            }
            let kept: String = rows.concat().split(' ').collect();
            prop_assert_eq!(kept, text.split(' ').collect::<String>());
        }
    }
}
