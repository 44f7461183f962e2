//! From what a chat knows to what a terminal shows. Pure: the same state and size give the same screen.

mod messages;
mod paint;
mod rooms;
mod sheet;
mod status;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Text};
use ratatui::widgets::Paragraph;

use super::model::state::{Chat, Drawn};

pub(super) use paint::{Paint, Zone};

/// From this width on the rooms are listed beside the messages.
const ROOMS_WIDTH: u16 = 56;
/// From this width on the members are as well.
const MEMBERS_WIDTH: u16 = 100;
/// Columns of the members' list.
const MEMBERS_COLUMNS: u16 = 26;
/// Rows of a notice at most.
const NOTICE_ROWS_MAX: usize = 4;

/// Draws everything; answers with what scrolling goes by.
pub(super) fn draw(frame: &mut Frame<'_>, chat: &Chat, paint: &Paint) -> Drawn {
    let area = frame.area();
    let notice = status::notice(chat, usize::from(area.width), paint);
    let notice_rows = notice.len().min(NOTICE_ROWS_MAX);
    let [header, middle, told, status, input] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(u16::try_from(notice_rows).unwrap_or(0)),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(area);
    put(
        frame,
        header,
        vec![status::header(chat, usize::from(area.width), paint)],
        paint,
    );
    put(frame, told, notice, paint);
    put(
        frame,
        status,
        vec![status::status(chat, usize::from(area.width), paint)],
        paint,
    );
    let (line, place) = status::input(chat, usize::from(area.width), paint);
    put(frame, input, vec![line], paint);
    let column = u16::try_from(place)
        .unwrap_or(0)
        .min(area.width.saturating_sub(1));
    frame.set_cursor_position((input.x + column, input.y));
    draw_middle(frame, middle, chat, paint)
}

fn draw_middle(frame: &mut Frame<'_>, area: Rect, chat: &Chat, paint: &Paint) -> Drawn {
    let left = match area.width {
        width if width >= ROOMS_WIDTH => rooms::columns(chat, width),
        _ => 0,
    };
    let right = match area.width {
        width if width >= MEMBERS_WIDTH && chat.room().is_some() => MEMBERS_COLUMNS,
        _ => 0,
    };
    let [list, bar, middle, second_bar, members] = Layout::horizontal([
        Constraint::Length(left),
        Constraint::Length(left.min(1)),
        Constraint::Min(1),
        Constraint::Length(right.min(1)),
        Constraint::Length(right),
    ])
    .areas(area);
    let rows = usize::from(area.height);
    if left > 0 {
        put(
            frame,
            list,
            rooms::list(chat, usize::from(left), rows, paint),
            paint,
        );
        put(frame, bar, paint.bar(rows), paint);
    }
    if right > 0 {
        put(frame, second_bar, paint.bar(rows), paint);
        put(
            frame,
            members,
            rooms::members(chat, usize::from(right), rows, paint),
            paint,
        );
    }
    let width = usize::from(middle.width);
    if let Some(open) = chat.sheet {
        let lines = sheet::lines(open, chat, width, paint);
        let scroll_max = lines.len().saturating_sub(rows);
        let shown = lines
            .into_iter()
            .skip(chat.scroll.min(scroll_max))
            .take(rows);
        put(frame, middle, shown.collect(), paint);
        return Drawn {
            entries: chat.drawn.entries,
            scroll_max,
            sheet_rows: rows,
        };
    }
    let (lines, entries) = messages::window(chat, width, rows, paint);
    put(frame, middle, lines, paint);
    Drawn {
        entries,
        ..Drawn::default()
    }
}

/// Where there is ASCII only, everything is made so here, at the end.
fn put(frame: &mut Frame<'_>, area: Rect, mut lines: Vec<Line<'static>>, paint: &Paint) {
    if !paint.unicode {
        for span in lines.iter_mut().flat_map(|line| &mut line.spans) {
            span.content = paint.text(&span.content).into();
        }
    }
    frame.render_widget(Paragraph::new(Text::from(lines)), area);
}

#[cfg(test)]
mod tests;
