//! The lines around the messages: where one is, what was just done, the state of the connection, and the
//! line that is written.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::paint::{Paint, Sign};
use super::rooms::unread;
use crate::chat::model::clean::clean_line;
use crate::chat::model::log::Body;
use crate::chat::model::state::{Chat, Room};
use crate::chat::model::wrap::{clip, columns, fit, wrap};

/// Bytes of a message that stand for it elsewhere.
const GIST_BYTES_MAX: usize = 120;

/// What a message says, on one line.
pub(super) fn gist(body: &Body) -> String {
    match body {
        Body::Text(text) => clean_line(text.trim(), GIST_BYTES_MAX),
        Body::File { name, .. } => format!("[file] {name}"),
    }
}

/// The first line: the room, and what holds in it.
pub(super) fn header(chat: &Chat, width: usize, paint: &Paint) -> Line<'static> {
    let dot = format!(" {} ", paint.sign(Sign::Dot));
    let text = match chat.room() {
        None => " unibus chat".to_owned(),
        Some(room) => {
            let mut facts = vec![room.label.clone()];
            facts.push(match (room.encrypted, room.persisted) {
                (true, true) => "end-to-end encrypted, kept".to_owned(),
                (true, false) => "end-to-end encrypted, not kept".to_owned(),
                (false, true) => "NOT encrypted, kept".to_owned(),
                (false, false) => "NOT encrypted, not kept".to_owned(),
            });
            if !room.joined {
                facts.push("you are invited: /join or /leave".to_owned());
            } else if !room.people.is_empty() {
                let s = if room.people.len() == 1 { "" } else { "s" };
                facts.push(format!("{} member{s}", room.people.len()));
            }
            if room.invented > 0 {
                facts.push(format!("{} made up by the server", room.invented));
            }
            if let Some(root) = chat.thread {
                let root = room.log.said(root).map(|said| gist(&said.body));
                let gist = &root.unwrap_or_else(|| "from before".to_owned());
                facts.insert(1, format!("thread: {} (Esc leaves it)", clip(gist, 30)));
            }
            format!(" {}", facts.join(&dot))
        }
    };
    Line::styled(fit(&text, width), paint.here())
}

/// What was just done, or why it was not.
pub(super) fn notice(chat: &Chat, width: usize, paint: &Paint) -> Vec<Line<'static>> {
    let Some(notice) = &chat.notice else {
        return Vec::new();
    };
    let style = if notice.grave {
        paint.grave()
    } else {
        paint.strong()
    };
    let text = &notice.text;
    let rows = wrap(text, width.saturating_sub(2));
    rows.into_iter()
        .map(|row| Line::styled(format!(" {row}"), style))
        .collect()
}

/// The connection, the room's epoch, what is under way and what is unread elsewhere.
pub(super) fn status(chat: &Chat, width: usize, paint: &Paint) -> Line<'static> {
    let mut spans = vec![Span::raw(" ")];
    if chat.connected {
        spans.push(Span::raw(format!("{} connected", paint.sign(Sign::On))));
    } else {
        let text = format!("{} connecting again", paint.sign(Sign::Off));
        spans.push(Span::styled(text, paint.grave()));
    }
    let mut facts = Vec::new();
    if let Some(room) = chat.room() {
        facts.extend(epoch(room));
        if room.log.loading() {
            facts.push("loading".to_owned());
        }
        if room.unread > 0 {
            facts.push(format!("{} new below", unread(room)));
        }
    }
    let elsewhere = chat
        .rooms
        .iter()
        .filter(|room| Some(&room.id) != chat.current.as_ref());
    let elsewhere: usize = elsewhere.map(|room| room.unread).sum();
    if elsewhere > 0 {
        facts.push(format!("{elsewhere} unread elsewhere"));
    }
    facts.extend(chat.working.values().next_back().cloned());
    facts.push(hint(chat).to_owned());
    let dot = format!("  {}  ", paint.sign(Sign::Dot));
    for fact in facts {
        spans.push(Span::styled(dot.clone(), paint.faint()));
        spans.push(Span::raw(fact));
    }
    let used: usize = spans.iter().map(|span| columns(&span.content)).sum();
    if used > width {
        spans.truncate(spans.len() - 2);
    }
    Line::from(spans)
}

fn epoch(room: &Room) -> Option<String> {
    match (room.encrypted, room.needs_rekey) {
        (false, _) => None,
        (true, false) => Some(format!("epoch {}", room.epoch)),
        (true, true) => Some(format!("epoch {}, waits for a new key", room.epoch)),
    }
}

fn hint(chat: &Chat) -> &'static str {
    if chat.sheet.is_some() {
        "Esc closes"
    } else if chat.selected.is_some() {
        "Enter shows, ^R replies, ^T thread, Esc"
    } else {
        "Up selects, Tab next room, /help"
    }
}

/// The line that is written, and the column of the place in it.
pub(super) fn input(chat: &Chat, width: usize, paint: &Paint) -> (Line<'static>, usize) {
    let prompt = match (chat.room(), chat.replying, chat.thread) {
        (Some(room), Some(id), _) => match room.log.said(id) {
            Some(said) => format!("reply to {}> ", chat.name(room, &said.from)),
            None => "reply> ".to_owned(),
        },
        (_, None, Some(_)) => "thread> ".to_owned(),
        _ => "> ".to_owned(),
    };
    let prompt = clip(&prompt, width / 2);
    let (text, place) = chat.line.shown(width.saturating_sub(columns(&prompt)));
    let place = columns(&prompt) + place;
    let line = Line::from(vec![
        Span::styled(prompt, paint.faint()),
        Span::styled(text, Style::new()),
    ]);
    (line, place)
}
