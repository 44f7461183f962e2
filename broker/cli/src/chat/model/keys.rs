//! What keys do. Pure.

use super::command;
use super::line::Reach;
use super::state::{Chat, Order, Sheet};

/// A key, as the terminal's driver names it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::chat) enum Key {
    Char(char),
    Enter,
    /// A line feed inside the line: Ctrl-J, or Alt-Enter.
    Feed,
    Backspace,
    Delete,
    Left,
    Right,
    WordLeft,
    WordRight,
    Home,
    End,
    Up,
    Down,
    PageUp,
    PageDown,
    Tab,
    BackTab,
    Esc,
    EraseWord,
    DeleteWord,
    EraseLine,
    DeleteToEnd,
    /// The line written before this one.
    Earlier,
    Later,
    /// Reply to the selected message.
    Reply,
    /// Open the thread of the selected message.
    Thread,
    Help,
    Redraw,
    Suspend,
    /// Ctrl-D: the end, where nothing is written.
    EndOfFile,
    Quit,
}

impl Chat {
    pub(in crate::chat) fn on_key(&mut self, key: Key) {
        match key {
            Key::Quit => return self.orders.push(Order::Quit),
            Key::Redraw => return self.orders.push(Order::Redraw),
            Key::Suspend => return self.orders.push(Order::Suspend),
            Key::EndOfFile if self.line.is_empty() => return self.orders.push(Order::Quit),
            _ => {}
        }
        if self.sheet.is_some() && self.on_sheet_key(key) {
            return;
        }
        match key {
            Key::Char(c) => self.line.insert(c.encode_utf8(&mut [0; 4])),
            Key::Feed => self.line.insert("\n"),
            Key::Backspace => self.line.erase(Reach::Grapheme),
            Key::EraseWord => self.line.erase(Reach::Word),
            Key::EraseLine => self.line.erase(Reach::End),
            Key::Delete | Key::EndOfFile => self.line.delete(Reach::Grapheme),
            Key::DeleteWord => self.line.delete(Reach::Word),
            Key::DeleteToEnd => self.line.delete(Reach::End),
            Key::Left => self.line.left(Reach::Grapheme),
            Key::WordLeft => self.line.left(Reach::Word),
            Key::Home => self.line.left(Reach::End),
            Key::Right => self.line.right(Reach::Grapheme),
            Key::WordRight => self.line.right(Reach::Word),
            Key::End => self.line.right(Reach::End),
            Key::Earlier => self.line.earlier(),
            Key::Later => self.line.later(),
            Key::Up => self.select_up(),
            Key::Down => self.select_down(),
            Key::PageUp => self.page_up(),
            Key::PageDown => self.page_down(),
            Key::Tab => self.turn(1),
            Key::BackTab => self.turn(-1),
            Key::Enter => self.on_enter(),
            Key::Esc => self.on_esc(),
            Key::Reply => self.begin_reply(),
            Key::Thread => self.open_thread(),
            Key::Help => self.open(Sheet::Help),
            Key::Quit | Key::Redraw | Key::Suspend => {}
        }
    }

    /// Keys while a sheet is open; answers whether that was all.
    fn on_sheet_key(&mut self, key: Key) -> bool {
        let page = self.drawn.sheet_rows.max(2) - 1;
        match key {
            Key::Up => self.scroll = self.scroll.saturating_sub(1),
            Key::Down => self.scroll += 1,
            Key::PageUp => self.scroll = self.scroll.saturating_sub(page),
            Key::PageDown => self.scroll += page,
            Key::Home => self.scroll = 0,
            Key::End => self.scroll = self.drawn.scroll_max,
            Key::Esc => self.sheet = None,
            Key::Enter if self.line.is_empty() => self.sheet = None,
            // Who writes has read enough.
            _ => {
                self.sheet = None;
                return false;
            }
        }
        self.scroll = self.scroll.min(self.drawn.scroll_max);
        true
    }

    pub(in crate::chat) fn open(&mut self, sheet: Sheet) {
        (self.sheet, self.scroll) = (Some(sheet), 0);
    }

    fn on_enter(&mut self) {
        if self.line.text().trim().is_empty() {
            if let Some(key) = self.selected {
                self.open(Sheet::Message(key));
            }
            return;
        }
        match command::parse(self.line.text()) {
            Ok(command) => {
                self.notice = None;
                self.run(command);
            }
            Err(words) => self.warn(words),
        }
    }

    /// One step back: the reply, the selection, the thread, the line.
    fn on_esc(&mut self) {
        if self.replying.take().is_some() {
            return;
        }
        if self.selected.is_some() {
            return self.go_to_end();
        }
        if self.thread.take().is_some() {
            return;
        }
        self.notice = None;
        self.line.erase(Reach::End);
        self.line.delete(Reach::End);
    }
}
