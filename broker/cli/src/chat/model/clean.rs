//! Other people's text made fit for a terminal: nothing in it moves the cursor, changes colours, turns the
//! direction of writing or hides. Pure.

use unicode_segmentation::UnicodeSegmentation;

/// Characters of one grapheme at most: emoji of families have seven, stacks of accents have no end.
const GRAPHEME_CHARS_MAX: usize = 16;
/// What a tab becomes.
const TAB: &str = "    ";

/// The first `bytes_max` bytes of a text, with no control character but the line feed; what is longer ends
/// in `…`.
pub(in crate::chat) fn clean(text: &str, bytes_max: usize) -> String {
    let mut clean = String::with_capacity(text.len().min(bytes_max));
    for grapheme in text.graphemes(true) {
        let before = clean.len();
        match grapheme {
            "\r\n" | "\n" | "\r" | "\u{2028}" | "\u{2029}" => clean.push('\n'),
            "\t" => clean.push_str(TAB),
            other => clean.extend(other.chars().filter(shown).take(GRAPHEME_CHARS_MAX)),
        }
        if clean.len() > bytes_max {
            clean.truncate(before);
            clean.push('…');
            break;
        }
    }
    clean
}

/// The same on one line.
pub(in crate::chat) fn clean_line(text: &str, bytes_max: usize) -> String {
    clean(text, bytes_max).replace('\n', " ")
}

/// Whether a character may be printed: no control, no override of direction, nothing invisible that
/// makes two texts look alike. The joiners that emoji and scripts need stay.
fn shown(c: &char) -> bool {
    let unfit = c.is_control()
        || matches!(*c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    !unfit
}

#[cfg(test)]
mod tests {
    use super::{clean, clean_line};

    #[test]
    fn no_escape_sequence_survives() {
        let hostile = "a\x1b[2Jb\x1b]0;owned\x07c\u{9b}31md\x00\x7f\u{85}e";
        let safe = clean(hostile, 1000);
        assert_eq!(safe, "a[2Jb]0;ownedc31mde");
        for c in ('\0'..='\u{a0}').chain(['\u{feff}', '\u{e0041}']) {
            let text = clean(&format!("x{c}y"), 100);
            assert!(
                text.chars().all(|c| c == '\n' || !c.is_control()),
                "{c:?} became {text:?}"
            );
        }
    }

    #[test]
    fn the_direction_of_writing_can_not_be_turned() {
        let turned = "photo\u{202e}gpj.exe\u{2066}\u{2069}\u{200f}";
        assert_eq!(clean(turned, 100), "photogpj.exe");
    }

    #[test]
    fn lines_and_tabs_are_kept_as_what_they_look_like() {
        assert_eq!(clean("a\r\nb\rc\u{2028}d\te", 100), "a\nb\nc\nd    e");
        assert_eq!(clean_line("a\nb", 100), "a b");
    }

    #[test]
    fn emoji_stay_whole_and_stacks_of_accents_end() {
        let family = "👨\u{200d}👩\u{200d}👧\u{200d}👦 ❤\u{fe0f}";
        assert_eq!(clean(family, 100), family);
        let stack = format!("a{}", "\u{301}".repeat(500));
        assert_eq!(clean(&stack, 10_000).chars().count(), 16);
    }

    #[test]
    fn what_is_too_long_ends_between_graphemes() {
        assert_eq!(clean("añb", 3), "añ…");
        assert_eq!(clean("ab世界", 6), "ab世…");
        assert_eq!(clean("abc", 3), "abc");
    }
}
