//! The messages of the open room or thread: their rows, and which of them are in view.

use std::collections::VecDeque;

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::paint::{Paint, Sign};
use super::status::gist;
use crate::chat::model::log::{Body, Entry, Said, What};
use crate::chat::model::state::{Chat, Room, Stand};
use crate::chat::model::wrap::{clip, fit, wrap};

/// Columns of a time and the space behind it, with the sign of the selected message before.
const TIME_COLUMNS: usize = 7;
/// Columns of a name: where there is room, and where there is little.
const NAME_COLUMNS: usize = 12;
const NAME_COLUMNS_NARROW: usize = 9;
/// Rows of a message's text that are shown where it is not open as a whole.
const TEXT_ROWS_MAX: usize = 12;

/// A view on the messages.
struct View<'a> {
    chat: &'a Chat,
    room: &'a Room,
    paint: &'a Paint,
    width: usize,
    names: usize,
    keys: Vec<i64>,
    /// The first entry that was new when the room was entered.
    first_new: Option<i64>,
}

/// The rows that are in view, and the keys of the first and last entry of them.
pub(super) fn window(
    chat: &Chat,
    width: usize,
    rows: usize,
    paint: &Paint,
) -> (Vec<Line<'static>>, Option<(i64, i64)>) {
    let Some(room) = chat.room() else {
        return (welcome(width), None);
    };
    if !room.joined {
        return (invitation(chat, room, width), None);
    }
    let view = View {
        chat,
        room,
        paint,
        width,
        names: if width < 50 {
            NAME_COLUMNS_NARROW
        } else {
            NAME_COLUMNS
        },
        keys: chat.visible(),
        first_new: first_new(chat, room),
    };
    let (lines, range) = view.window(rows);
    let keys = range.map(|(first, last)| (view.keys[first], view.keys[last]));
    (lines, keys)
}

fn first_new(chat: &Chat, room: &Room) -> Option<i64> {
    let after = room.new_after?;
    let is_new =
        |entry: &Entry| entry.seq.is_some_and(|seq| seq > after) && chat.by_others(&entry.what);
    let mut entries = room.log.iter();
    entries.find(|(_, entry)| is_new(entry)).map(|(key, _)| key)
}

/// Who owns a room is taken from its first sight, so it is shown before anything is accepted.
fn invitation(chat: &Chat, room: &Room, width: usize) -> Vec<Line<'static>> {
    let owner = room.people.iter().find(|person| person.owner);
    let owner = owner.map_or_else(
        || "its owner (asking who that is)".to_owned(),
        |person| {
            format!(
                "{} ({})",
                chat.name(room, &person.endpoint),
                person.endpoint
            )
        },
    );
    page(
        &format!(
            "You are invited to {} by {owner}. Is that whom you expect?\n\n/join accepts, /leave declines.",
            room.label
        ),
        width,
    )
}

fn welcome(width: usize) -> Vec<Line<'static>> {
    let words = "You belong to no room yet.\n\n/create team.kitchen makes one. To be invited to one, give \
        your contact to its owner: /whoami shows it.\n\n/help lists what else there is.";
    page(words, width)
}

fn page(words: &str, width: usize) -> Vec<Line<'static>> {
    let rows = wrap(words, width.saturating_sub(2));
    let lines = rows.into_iter().map(|row| Line::raw(format!(" {row}")));
    std::iter::once(Line::raw("")).chain(lines).collect()
}

impl View<'_> {
    fn window(&self, rows: usize) -> (Vec<Line<'static>>, Option<(usize, usize)>) {
        let count = self.keys.len();
        let selected = self.chat.selected;
        let selected = selected.and_then(|key| self.keys.iter().position(|other| *other == key));
        let tail = self.tail();
        let (mut lines, first) = self.upwards(count, rows.saturating_sub(tail.len()));
        let whole = lines.len() + tail.len() <= rows;
        let in_view = |at: usize| at > first || (at == first && whole);
        if let Some(at) = selected.filter(|at| self.chat.stand != Stand::Middle || !in_view(*at)) {
            let (lines, range) = self.around(at, rows);
            if lines.len() == rows {
                return (lines, range);
            }
        }
        lines.extend(tail);
        while lines.len() > rows {
            lines.pop_front();
        }
        let range = (count > 0).then(|| (first.min(count - 1), count - 1));
        (lines.into(), range)
    }

    /// The rows of the entries before `end`, from the last one up, until there are enough; and where
    /// they begin.
    fn upwards(&self, end: usize, rows: usize) -> (VecDeque<Line<'static>>, usize) {
        let mut lines = VecDeque::new();
        let mut first = end;
        while first > 0 && lines.len() < rows {
            first -= 1;
            for line in self.block(first).into_iter().rev() {
                lines.push_front(line);
            }
        }
        (lines, first)
    }

    /// The rows around a selected entry.
    fn around(&self, at: usize, rows: usize) -> (Vec<Line<'static>>, Option<(usize, usize)>) {
        let block = self.block(at);
        let spare = rows.saturating_sub(block.len());
        let above = match self.chat.stand {
            Stand::Top => 0,
            Stand::Middle => spare / 2,
            Stand::Bottom => spare,
        };
        let (mut lines, first) = self.upwards(at, above);
        while lines.len() > above {
            lines.pop_front();
        }
        lines.extend(block);
        let mut last = at;
        while lines.len() < rows && last + 1 < self.keys.len() {
            last += 1;
            lines.extend(self.block(last));
        }
        lines.truncate(rows);
        (lines.into(), Some((first, last)))
    }

    /// What is on its way, or that there is more below.
    fn tail(&self) -> Vec<Line<'static>> {
        let faint = self.paint.faint();
        if self.room.log.torn() {
            return vec![Line::styled(" newer messages below: Esc goes there", faint)];
        }
        let here = self.room.pending.iter();
        let here =
            here.filter(|pending| self.chat.thread.is_none() || pending.thread == self.chat.thread);
        let rows = here.flat_map(|pending| {
            let rows = wrap(&pending.text, self.text_columns());
            let more = self.paint.sign(Sign::More);
            self.hanging(more, "you", rows, faint, faint)
        });
        rows.collect()
    }

    fn text_columns(&self) -> usize {
        self.width
            .saturating_sub(TIME_COLUMNS + self.names + 1)
            .max(1)
    }

    fn indent(&self) -> String {
        " ".repeat(TIME_COLUMNS + self.names)
    }

    /// Rows of a text beside a time and a name.
    fn hanging(
        &self,
        time: &str,
        name: &str,
        rows: Vec<String>,
        name_style: Style,
        style: Style,
    ) -> Vec<Line<'static>> {
        let name = fit(name, self.names - 1);
        let mut lines = Vec::new();
        for row in rows {
            let mut spans = Vec::new();
            if lines.is_empty() {
                let time = fit(time, TIME_COLUMNS - 2);
                spans.push(Span::styled(format!(" {time} "), self.paint.faint()));
                spans.push(Span::styled(name.clone(), name_style));
                spans.push(Span::raw(" "));
            } else {
                spans.push(Span::raw(self.indent()));
            }
            spans.push(Span::styled(row, style));
            lines.push(Line::from(spans));
        }
        lines
    }

    /// The rows of an entry, with what separates it from the one before.
    fn block(&self, at: usize) -> Vec<Line<'static>> {
        let Some(entry) = self.room.log.entry(self.keys[at]) else {
            return Vec::new();
        };
        let before = at
            .checked_sub(1)
            .and_then(|at| self.room.log.entry(self.keys[at]));
        let mut lines = self.separators(self.keys[at], entry, before);
        let faint = self.paint.faint();
        match &entry.what {
            What::Said(said) => lines.extend(self.said(said, entry, self.keys[at])),
            What::Note { text, grave } => {
                let style = if *grave { self.paint.grave() } else { faint };
                lines.extend(self.remark(text, style));
            }
            What::Unreadable { frames, why } => {
                let s = if *frames == 1 { "" } else { "s" };
                let text = format!("{frames} message{s} can't be read: {why}");
                lines.extend(self.remark(&text, faint));
            }
        }
        lines
    }

    fn separators(&self, key: i64, entry: &Entry, before: Option<&Entry>) -> Vec<Line<'static>> {
        let mut lines = Vec::new();
        let beginning = before.is_none() && self.room.persisted && self.room.loaded;
        if beginning && self.room.log.has_beginning() && self.chat.thread.is_none() {
            lines.push(self.rule("the beginning of this room", self.paint.faint()));
        }
        let day = |entry: &Entry| self.paint.day(entry.at_ms);
        if before.is_none_or(|before| day(before) != day(entry)) {
            lines.push(self.rule(&day(entry), self.paint.faint()));
        }
        if self.first_new == Some(key) {
            lines.push(self.rule("new", self.paint.strong()));
        }
        lines
    }

    fn rule(&self, words: &str, style: Style) -> Line<'static> {
        let rule = self.paint.sign(Sign::Rule).repeat(2);
        Line::styled(clip(&format!(" {rule} {words} {rule}"), self.width), style)
    }

    fn remark(&self, text: &str, style: Style) -> Vec<Line<'static>> {
        let rows = wrap(text, self.width.saturating_sub(TIME_COLUMNS + 2));
        let mut lines = Vec::new();
        for row in rows {
            let head = if lines.is_empty() { "-" } else { " " };
            lines.push(Line::styled(
                format!("{:>TIME_COLUMNS$} {row}", head),
                style,
            ));
        }
        lines
    }

    fn said(&self, said: &Said, entry: &Entry, key: i64) -> Vec<Line<'static>> {
        let faint = self.paint.faint();
        let mut lines: Vec<Line<'static>> = self.context(said).into_iter().collect();
        let body = match &said.body {
            Body::Text(text) => text.clone(),
            Body::File { file, name } => {
                let size = crate::text::size_shown(file.size);
                format!("[file] {name}, {size}: /save fetches it")
            }
        };
        let mut rows = wrap(&body, self.text_columns());
        let folded = rows.len().saturating_sub(TEXT_ROWS_MAX);
        if folded > 0 {
            rows.truncate(TEXT_ROWS_MAX - 1);
            let more = self.paint.sign(Sign::More);
            rows.push(format!("{more} {} more rows: select it, Enter", folded + 1));
        }
        let name = self.chat.name(self.room, &said.from);
        let style = self.paint.person(&said.from, &self.chat.me);
        let time = self.paint.time(entry.at_ms);
        lines.extend(self.hanging(&time, &name, rows, style, Style::new()));
        lines.extend(
            self.reactions(said)
                .map(|text| Line::raw(format!("{}{text}", self.indent()))),
        );
        lines.extend(self.replies(said).map(|text| Line::styled(text, faint)));
        if self.chat.selected == Some(key) {
            for line in &mut lines {
                select(line, self.paint.sign(Sign::Selected), self.paint);
            }
        }
        lines
    }

    /// What a message answers, or the thread it belongs to.
    fn context(&self, said: &Said) -> Option<Line<'static>> {
        let thread = said.thread.filter(|_| self.chat.thread.is_none());
        let (sign, of, lost) = match (said.reply_to, thread) {
            (Some(to), _) => (Sign::Quote, to, "a message from before"),
            (None, Some(root)) => (Sign::Thread, root, "a thread from before"),
            (None, None) => return None,
        };
        let gist = match self.room.log.said(of) {
            Some(of) => format!(
                "{}: {}",
                self.chat.name(self.room, &of.from),
                gist(&of.body)
            ),
            None => lost.to_owned(),
        };
        let word = if sign == Sign::Thread {
            "in the thread of "
        } else {
            ""
        };
        let text = clip(
            &format!("{word}{gist}"),
            self.text_columns().saturating_sub(2),
        );
        let sign = self.paint.sign(sign);
        Some(Line::styled(
            format!("{}{sign} {text}", self.indent()),
            self.paint.faint(),
        ))
    }

    /// The reactions to a message, in one row: who, where it is one, how many otherwise.
    fn reactions(&self, said: &Said) -> Option<String> {
        let reactions = self.room.log.reactions(said.id)?;
        let each = reactions.iter().map(|(reaction, who)| match &who[..] {
            [only] => format!("{reaction} {}", self.chat.name(self.room, only)),
            several => format!("{reaction} {}", several.len()),
        });
        let row = each.collect::<Vec<_>>().join("  ");
        Some(clip(&row, self.text_columns()))
    }

    fn replies(&self, said: &Said) -> Option<String> {
        if self.chat.thread.is_some() {
            return None;
        }
        match self.room.log.replies(said.id) {
            0 => None,
            count => {
                let sign = self.paint.sign(Sign::Replies);
                Some(format!("{}{sign} {count} in its thread", self.indent()))
            }
        }
    }
}

/// Marks a row of the selected message: its first column becomes a sign.
fn select(line: &mut Line<'static>, sign: &'static str, paint: &Paint) {
    if let Some(first) = line.spans.first_mut()
        && let Some(rest) = first.content.strip_prefix(' ')
    {
        let rest = Span::styled(rest.to_owned(), first.style);
        *first = Span::styled(sign, paint.strong());
        line.spans.insert(1, rest);
    }
}
