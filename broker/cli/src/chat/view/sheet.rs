//! Pages that open over the messages: help, members, one's own contact, and a message as a whole.

use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::paint::Paint;
use super::rooms::{about, people};
use super::status::gist;
use crate::chat::model::command::COMMANDS;
use crate::chat::model::log::{Body, Said};
use crate::chat::model::state::{Chat, Sheet};
use crate::chat::model::wrap::{fit, wrap};

/// What keys do.
const KEYS: [(&str, &str); 13] = [
    ("Enter", "send; on a selected message: show it as a whole"),
    ("Ctrl-J, Alt-Enter", "a new line in the message"),
    ("Tab, Shift-Tab", "next room, room before"),
    ("Up, Down", "select a message"),
    (
        "PageUp, PageDown",
        "scroll; older messages are loaded as needed",
    ),
    ("Esc", "one step back: selection, thread, line"),
    ("Ctrl-R", "reply to the selected message, or the last one"),
    ("Ctrl-T", "open its thread"),
    ("Ctrl-P, Ctrl-N", "what you wrote before"),
    (
        "Ctrl-A/E/U/K/W",
        "begin, end, delete the line, its rest, a word",
    ),
    ("Alt-B/F/D", "word left, word right, delete a word"),
    ("Ctrl-L", "draw everything anew"),
    ("Ctrl-C", "end the program"),
];

/// The rows of a page.
pub(super) fn lines(sheet: Sheet, chat: &Chat, width: usize, paint: &Paint) -> Vec<Line<'static>> {
    match sheet {
        Sheet::Help => help(width, paint),
        Sheet::Members => members(chat, width, paint),
        Sheet::Whoami => whoami(chat, width, paint),
        Sheet::Message(key) => match chat.said(key) {
            Some(said) => message(said, key, chat, width, paint),
            None => text("it is not here any more", width, Style::new()),
        },
    }
}

fn title(title: &str, width: usize) -> Vec<Line<'static>> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let title = Line::styled(fit(&format!(" {title}"), width), bold);
    vec![title, Line::raw("")]
}

fn text(text: &str, width: usize, style: Style) -> Vec<Line<'static>> {
    let rows = wrap(text, width.saturating_sub(2));
    rows.into_iter()
        .map(|row| Line::styled(format!(" {row}"), style))
        .collect()
}

/// Two columns; what does not fit into the second one goes on below it.
fn pair(left: &str, right: &str, split: usize, width: usize, style: Style) -> Vec<Line<'static>> {
    let rows = wrap(right, width.saturating_sub(split + 2));
    let mut head = format!(" {}", fit(left, split));
    let mut lines = Vec::new();
    for row in rows {
        lines.push(Line::from(vec![Span::styled(head, style), Span::raw(row)]));
        head = " ".repeat(split + 1);
    }
    lines
}

fn help(width: usize, paint: &Paint) -> Vec<Line<'static>> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut lines = title("Help: Up, Down and PageDown scroll, Esc closes", width);
    let split = if width >= 56 { 24 } else { 16 };
    for (name, rest, what) in COMMANDS {
        let head = format!("{name} {rest}");
        lines.extend(pair(&head, what, split, width, bold));
    }
    lines.push(Line::raw(""));
    for (key, what) in KEYS {
        lines.extend(pair(key, what, split, width, bold));
    }
    lines.push(Line::raw(""));
    let about = "+ an invitation   ! waits for a new key   a number: unread messages. \
        Names are yours alone (/name); a server has no say in them. Texts of others are shown \
        without control characters.";
    lines.extend(text(about, width, paint.faint()));
    lines
}

fn members(chat: &Chat, width: usize, paint: &Paint) -> Vec<Line<'static>> {
    let Some(room) = chat.room() else {
        return Vec::new();
    };
    let head = format!("{}: {} members, verified", room.label, room.people.len());
    let mut lines = title(&head, width);
    for person in people(chat, room) {
        let name = &chat.name(room, &person.endpoint);
        let style = paint.person(&person.endpoint, &chat.me);
        lines.extend(pair(name, &about(chat, room, person), 20, width, style));
        lines.push(Line::styled(
            format!("   {}", person.endpoint),
            paint.faint(),
        ));
    }
    lines.push(Line::raw(""));
    if room.invented > 0 {
        let words = format!(
            "The server names {} more whom nobody has admitted. They get no key and can't read.",
            room.invented
        );
        lines.extend(text(&words, width, paint.grave()));
    }
    let honest = "Nobody can tell who has a client open; when somebody last spoke is known.";
    lines.extend(text(honest, width, paint.faint()));
    lines
}

fn whoami(chat: &Chat, width: usize, paint: &Paint) -> Vec<Line<'static>> {
    let mut lines = title("You", width);
    for (what, value) in [
        ("endpoint", chat.me.as_str()),
        ("nkey", &chat.nkey),
        ("contact", &chat.contact),
    ] {
        lines.extend(pair(what, value, 10, width, paint.faint()));
    }
    lines.push(Line::raw(""));
    let words = "Others invite you with the contact: /invite in a room of theirs. Give it to them on a \
        way that you trust; unibus identity show prints it too.";
    lines.extend(text(words, width, Style::new()));
    lines
}

fn message(said: &Said, key: i64, chat: &Chat, width: usize, paint: &Paint) -> Vec<Line<'static>> {
    let (Some(room), faint) = (chat.room(), paint.faint()) else {
        return Vec::new();
    };
    let mut lines = title(&chat.name(room, &said.from), width);
    let at_ms = room.log.entry(key).map_or(0, |entry| entry.at_ms);
    let facts = format!("{}, by the clock of {}", paint.moment(at_ms), said.from);
    lines.extend(text(&facts, width, faint));
    if let Some(to) = said.reply_to {
        let to = room
            .log
            .said(to)
            .map(|said| (chat.name(room, &said.from), gist(&said.body)));
        let words = match to {
            Some((name, gist)) => format!("reply to {name}: {gist}"),
            None => "reply to a message from before".to_owned(),
        };
        lines.extend(text(&words, width, faint));
    }
    lines.push(Line::raw(""));
    let body = match &said.body {
        Body::Text(text) => text.clone(),
        Body::File { file, name } => {
            format!("[file] {name}, {} bytes: /save fetches it", file.size)
        }
    };
    lines.extend(text(&body, width, Style::new()));
    if let Some(reactions) = room.log.reactions(said.id) {
        lines.push(Line::raw(""));
        for (reaction, who) in reactions {
            let who: Vec<String> = who.iter().map(|who| chat.name(room, who)).collect();
            let row = format!("{reaction}  {}", who.join(", "));
            lines.extend(text(&row, width, Style::new()));
        }
    }
    lines
}
