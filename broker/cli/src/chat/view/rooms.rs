//! The rooms on the left, and who belongs to the open one on the right.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::paint::{Paint, Sign, ago};
use crate::chat::model::state::{Chat, Person, Room};
use crate::chat::model::wrap::{clip, columns as width_of, fit};

/// Columns of the list.
const COLUMNS_MIN: usize = 16;
const COLUMNS_MAX: usize = 28;
/// Unread messages that are counted in digits.
const UNREAD_SHOWN_MAX: usize = 999;

/// How wide the list should be on a terminal of `width`.
pub(super) fn columns(chat: &Chat, width: u16) -> u16 {
    let longest = chat.rooms.iter().map(|room| width_of(&room.label)).max();
    let wanted = (longest.unwrap_or(0) + 6).clamp(COLUMNS_MIN, COLUMNS_MAX);
    u16::try_from(wanted).unwrap_or(width).min(width / 3)
}

/// The rooms, with the open one in view.
pub(super) fn list(chat: &Chat, width: usize, rows: usize, paint: &Paint) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let mut open = 0;
    let mut invitations = false;
    for room in &chat.rooms {
        if !room.joined && !invitations {
            invitations = true;
            lines.push(Line::styled(fit("invitations", width), paint.faint()));
        }
        let here = chat.current.as_ref() == Some(&room.id);
        if here {
            open = lines.len();
        }
        lines.push(row(room, here, width, paint));
    }
    let skipped = (open + 1).saturating_sub(rows);
    lines.drain(..skipped);
    lines.truncate(rows);
    lines
}

/// How many messages are unread, for people.
pub(super) fn unread(room: &Room) -> String {
    match (room.unread, room.unread_more) {
        (0, false) => String::new(),
        (count, false) if count <= UNREAD_SHOWN_MAX => count.to_string(),
        (count, _) => format!("{}+", count.min(UNREAD_SHOWN_MAX)),
    }
}

fn row(room: &Room, here: bool, width: usize, paint: &Paint) -> Line<'static> {
    let unread = unread(room);
    let sign = match (room.joined, room.needs_rekey) {
        (false, _) => "+",
        (true, true) => "!",
        (true, false) => " ",
    };
    let label = fit(&room.label, width.saturating_sub(width_of(&unread) + 3));
    let style = match (here, unread.is_empty()) {
        (true, _) => paint.here(),
        (false, false) => paint.strong(),
        (false, true) => Style::new(),
    };
    Line::from(Span::styled(format!("{sign}{label} {unread} "), style))
}

/// Who belongs to the open room.
pub(super) fn members(chat: &Chat, width: usize, rows: usize, paint: &Paint) -> Vec<Line<'static>> {
    let Some(room) = chat.room() else {
        return Vec::new();
    };
    let mut lines = vec![Line::styled(
        format!(" {} members", room.people.len()),
        paint.faint(),
    )];
    for person in people(chat, room).into_iter().take(rows.saturating_sub(2)) {
        let name = clip(&chat.name(room, &person.endpoint), width.saturating_sub(1));
        let style = paint.person(&person.endpoint, &chat.me);
        lines.push(Line::from(vec![Span::raw(" "), Span::styled(name, style)]));
        if lines.len() + 1 < rows {
            let about = clip(&about(chat, room, person), width.saturating_sub(3));
            lines.push(Line::styled(format!("   {about}"), paint.faint()));
        }
    }
    if room.people.len() * 2 + 1 > rows {
        lines.truncate(rows.saturating_sub(1));
        let more = format!(" {} /members", paint.sign(Sign::More));
        lines.push(Line::styled(more, paint.faint()));
    }
    lines
}

/// Members: who spoke last comes first, then everybody else.
pub(super) fn people<'a>(chat: &Chat, room: &'a Room) -> Vec<&'a Person> {
    let mut people: Vec<&Person> = room.people.iter().collect();
    people.sort_by_cached_key(|person| {
        let spoke = room.spoke.get(&person.endpoint).copied().unwrap_or(0);
        (std::cmp::Reverse(spoke), chat.name(room, &person.endpoint))
    });
    people
}

/// What is known of a member. Nobody can tell who has a client open; when somebody last spoke is known.
pub(super) fn about(chat: &Chat, room: &Room, person: &Person) -> String {
    let mut words = Vec::new();
    if person.owner {
        words.push("owner".to_owned());
    }
    if !person.joined {
        words.push("invited".to_owned());
    }
    match room.spoke.get(&person.endpoint) {
        Some(at) => words.push(format!("spoke {}", ago(chat.now_ms, *at))),
        None if person.joined => words.push("not heard yet".to_owned()),
        None => {}
    }
    words.join(", ")
}
