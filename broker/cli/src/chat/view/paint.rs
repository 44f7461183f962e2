//! What a terminal can do, and how things look on it: colours, signs and times. Without colours, without
//! Unicode, everything is still told apart.

use chrono::{DateTime, Local, Utc};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use unibus_proto::control::EndpointId;
use unicode_segmentation::UnicodeSegmentation;

use crate::chat::model::wrap::columns;

/// Colours of people: of the sixteen that every terminal has, those that are read on dark and light.
const PEOPLE: [Color; 6] = [
    Color::Cyan,
    Color::Green,
    Color::Magenta,
    Color::Blue,
    Color::Yellow,
    Color::Red,
];

/// Whose clock times are shown by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Zone {
    Local,
    #[cfg_attr(not(test), allow(dead_code, reason = "tests show the same everywhere"))]
    Utc,
}

/// How things look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    pub(crate) colour: bool,
    pub(crate) unicode: bool,
    pub(crate) zone: Zone,
}

/// Signs, and what stands for them where there is ASCII only.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sign {
    Bar,
    Rule,
    Quote,
    Thread,
    Replies,
    Selected,
    On,
    Off,
    Dot,
    More,
}

impl Paint {
    pub(super) fn sign(&self, sign: Sign) -> &'static str {
        let (unicode, ascii) = match sign {
            Sign::Bar => ("│", "|"),
            Sign::Rule => ("─", "-"),
            Sign::Quote => ("┌", "/"),
            Sign::Thread => ("┆", ":"),
            Sign::Replies => ("└", "\\"),
            Sign::Selected => ("▸", ">"),
            Sign::On => ("●", "*"),
            Sign::Off => ("○", "o"),
            Sign::Dot => ("·", "-"),
            Sign::More => ("…", "~"),
        };
        if self.unicode { unicode } else { ascii }
    }

    /// A text that the terminal can show, as wide as it was.
    pub(super) fn text(&self, text: &str) -> String {
        let shown = text.graphemes(true).map(|grapheme| match grapheme {
            "…" => "~".to_owned(),
            ascii if ascii.is_ascii() => ascii.to_owned(),
            other => "?".repeat(columns(other)),
        });
        shown.collect()
    }

    fn with(&self, colour: Color, otherwise: Modifier) -> Style {
        if self.colour {
            Style::new().fg(colour)
        } else {
            Style::new().add_modifier(otherwise)
        }
    }

    /// What is less important.
    pub(super) fn faint(&self) -> Style {
        self.with(Color::DarkGray, Modifier::DIM)
    }

    /// What is wrong.
    pub(super) fn grave(&self) -> Style {
        self.with(Color::Red, Modifier::empty())
            .add_modifier(Modifier::BOLD)
    }

    /// What wants to be seen.
    pub(super) fn strong(&self) -> Style {
        self.with(Color::Yellow, Modifier::empty())
            .add_modifier(Modifier::BOLD)
    }

    /// Where one is.
    pub(super) fn here(&self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// Somebody's name: each has a colour.
    pub(super) fn person(&self, who: &EndpointId, me: &EndpointId) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        if who == me || !self.colour {
            return bold;
        }
        let sum: usize = who.as_str().bytes().map(usize::from).sum();
        bold.fg(PEOPLE[sum % PEOPLE.len()])
    }

    /// A column of bars.
    pub(super) fn bar(&self, rows: usize) -> Vec<Line<'static>> {
        vec![Line::from(Span::styled(self.sign(Sign::Bar), self.faint())); rows]
    }

    /// `12:31`.
    pub(super) fn time(&self, unix_ms: u64) -> String {
        self.format(unix_ms, "%H:%M")
            .unwrap_or_else(|| "--:--".to_owned())
    }

    /// `Mon 30 Nov 2026`.
    pub(super) fn day(&self, unix_ms: u64) -> String {
        self.format(unix_ms, "%a %e %b %Y")
            .unwrap_or_else(|| "some day".to_owned())
    }

    /// `Mon 30 Nov 2026 12:31:05`.
    pub(super) fn moment(&self, unix_ms: u64) -> String {
        self.format(unix_ms, "%a %e %b %Y %H:%M:%S")
            .unwrap_or_else(|| "a time that can't be".to_owned())
    }

    /// A sender may claim any time: `None` for what no calendar has.
    fn format(&self, unix_ms: u64, form: &str) -> Option<String> {
        let time: DateTime<Utc> = DateTime::from_timestamp_millis(i64::try_from(unix_ms).ok()?)?;
        Some(match self.zone {
            Zone::Utc => time.format(form).to_string(),
            Zone::Local => time.with_timezone(&Local).format(form).to_string(),
        })
    }
}

/// `just now`, `5 min ago`, `3 h ago`, `2 days ago`.
pub(super) fn ago(now_ms: u64, then_ms: u64) -> String {
    let minutes = now_ms.saturating_sub(then_ms) / 60_000;
    match minutes {
        0 => "just now".to_owned(),
        1..60 => format!("{minutes} min ago"),
        60..2880 => format!("{} h ago", minutes / 60),
        _ => format!("{} days ago", minutes / 1440),
    }
}
