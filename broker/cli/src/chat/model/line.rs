//! The line that is being written: edited by grapheme, bounded, with what was written before. Pure.

use std::collections::VecDeque;

use unicode_segmentation::UnicodeSegmentation;

use super::wrap::columns;

/// Longest line, in bytes.
pub(in crate::chat) const LINE_BYTES_MAX: usize = 16 * 1024;
/// Lines that are remembered.
const PAST_MAX: usize = 100;
/// What a line feed inside the line looks like.
const FEED: &str = "⏎";

/// A line and the place in it where the next character goes.
#[derive(Debug, Default)]
pub(in crate::chat) struct Line {
    text: String,
    /// A byte, always between graphemes.
    at: usize,
    past: VecDeque<String>,
    /// Which of the past is shown: 0 = none, 1 = the latest.
    back: usize,
}

/// Where an edit ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::chat) enum Reach {
    Grapheme,
    Word,
    End,
}

impl Line {
    pub(in crate::chat) fn text(&self) -> &str {
        &self.text
    }

    pub(in crate::chat) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Puts another text into the line.
    pub(in crate::chat) fn set(&mut self, text: &str) {
        text.clone_into(&mut self.text);
        self.at = self.text.len();
        self.back = 0;
    }

    /// Writes; what does not fit is left out.
    pub(in crate::chat) fn insert(&mut self, text: &str) {
        for grapheme in text.graphemes(true) {
            if self.text.len() + grapheme.len() > LINE_BYTES_MAX {
                return;
            }
            self.text.insert_str(self.at, grapheme);
            self.at += grapheme.len();
        }
        self.snap();
    }

    /// Combining characters that came one by one belong to the grapheme before: the place goes behind it.
    fn snap(&mut self) {
        let mut ends = self.text.grapheme_indices(true).map(|(at, g)| at + g.len());
        if self.at > 0 {
            self.at = ends.find(|end| *end >= self.at).unwrap_or(self.text.len());
        }
    }

    pub(in crate::chat) fn left(&mut self, reach: Reach) {
        self.at = self.before(reach);
    }

    pub(in crate::chat) fn right(&mut self, reach: Reach) {
        self.at = self.after(reach);
    }

    /// Deletes what is before the place.
    pub(in crate::chat) fn erase(&mut self, reach: Reach) {
        let from = self.before(reach);
        self.text.replace_range(from..self.at, "");
        self.at = from;
        self.snap();
    }

    /// Deletes what is behind the place.
    pub(in crate::chat) fn delete(&mut self, reach: Reach) {
        let to = self.after(reach);
        self.text.replace_range(self.at..to, "");
        self.snap();
    }

    fn before(&self, reach: Reach) -> usize {
        let head = &self.text[..self.at];
        match reach {
            Reach::Grapheme => head
                .grapheme_indices(true)
                .next_back()
                .map_or(0, |(at, _)| at),
            Reach::Word => {
                let words = head.split_word_bound_indices().rev();
                let mut words = words.skip_while(|(_, word)| word.trim().is_empty());
                words.next().map_or(0, |(at, _)| at)
            }
            Reach::End => 0,
        }
    }

    fn after(&self, reach: Reach) -> usize {
        let tail = &self.text[self.at..];
        let length = match reach {
            Reach::Grapheme => tail.graphemes(true).next().map_or(0, str::len),
            Reach::Word => {
                let words = tail.split_word_bound_indices();
                let mut words = words.skip_while(|(_, word)| word.trim().is_empty());
                words
                    .next()
                    .map_or(tail.len(), |(at, word)| at + word.len())
            }
            Reach::End => tail.len(),
        };
        self.at + length
    }

    /// Takes the line away, and remembers it.
    pub(in crate::chat) fn take(&mut self) -> String {
        let text = std::mem::take(&mut self.text);
        (self.at, self.back) = (0, 0);
        if !text.is_empty() && self.past.front() != Some(&text) {
            self.past.push_front(text.clone());
            self.past.truncate(PAST_MAX);
        }
        text
    }

    /// Puts the line written before this one into its place.
    pub(in crate::chat) fn earlier(&mut self) {
        self.turn(self.back + 1);
    }

    /// Goes the other way; behind the latest line is an empty one.
    pub(in crate::chat) fn later(&mut self) {
        self.turn(self.back.saturating_sub(1));
    }

    fn turn(&mut self, back: usize) {
        if back == 0 {
            self.set("");
        } else if let Some(past) = self.past.get(back - 1).cloned() {
            self.set(&past);
            self.back = back;
        }
    }

    /// What of the line fits into `width` columns, and in which of them the place is.
    pub(in crate::chat) fn shown(&self, width: usize) -> (String, usize) {
        let whole = |text: &str| text.replace('\n', FEED);
        let (head, tail) = self.text.split_at(self.at);
        let (head, tail) = (whole(head), whole(tail));
        // The place itself takes a column.
        let room = width.saturating_sub(1);
        let mut skipped = 0;
        for (at, _) in head.grapheme_indices(true).chain([(head.len(), "")]) {
            skipped = at;
            if columns(&head[at..]) <= room {
                break;
            }
        }
        let mut shown = head[skipped..].to_owned();
        let place = columns(&shown);
        for grapheme in tail.graphemes(true) {
            if columns(&shown) + columns(grapheme) > width {
                break;
            }
            shown.push_str(grapheme);
        }
        (shown, place)
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE_BYTES_MAX, Line, Reach};

    fn line(text: &str) -> Line {
        let mut line = Line::default();
        line.insert(text);
        line
    }

    #[test]
    fn graphemes_are_edited_whole() {
        let mut edited = line("a👨\u{200d}👩\u{200d}👧e\u{301}");
        edited.erase(Reach::Grapheme);
        assert_eq!(edited.text(), "a👨\u{200d}👩\u{200d}👧");
        edited.left(Reach::Grapheme);
        edited.insert("b");
        edited.delete(Reach::Grapheme);
        assert_eq!(edited.text(), "ab");
        edited.insert("e");
        edited.insert("\u{301}");
        edited.erase(Reach::Grapheme);
        assert_eq!(edited.text(), "ab");
    }

    #[test]
    fn words_and_ends() {
        let mut edited = line("one two  three");
        edited.left(Reach::Word);
        edited.erase(Reach::Word);
        assert_eq!(edited.text(), "one three");
        edited.left(Reach::End);
        edited.right(Reach::Word);
        edited.delete(Reach::End);
        assert_eq!(edited.text(), "one");
        edited.erase(Reach::End);
        assert!(edited.is_empty());
        edited.erase(Reach::Grapheme);
        edited.delete(Reach::Word);
    }

    #[test]
    fn past_lines_come_back() {
        let mut edited = line("first");
        assert_eq!(edited.take(), "first");
        edited.insert("second");
        edited.take();
        edited.earlier();
        edited.earlier();
        edited.earlier();
        assert_eq!(edited.text(), "first");
        edited.later();
        assert_eq!(edited.text(), "second");
        edited.later();
        assert!(edited.is_empty());
    }

    #[test]
    fn a_line_has_an_end() {
        let edited = line(&"é".repeat(LINE_BYTES_MAX));
        assert_eq!(edited.text().len(), LINE_BYTES_MAX);
    }

    #[test]
    fn the_place_is_always_in_view() {
        let mut edited = line("hello 世界");
        assert_eq!(edited.shown(20), ("hello 世界".into(), 10));
        assert_eq!(edited.shown(6), (" 世界".into(), 5));
        edited.left(Reach::End);
        assert_eq!(edited.shown(6), ("hello ".into(), 0));
        assert_eq!(line("a\nb").shown(9), ("a⏎b".into(), 3));
    }
}
