//! What an input changes. The parts about keys, commands and news stand in files of their own; here is
//! what all of them share: going from room to room, scrolling, and what counts as read. Pure.

use unibus_proto::control::RoomId;

use super::clean::clean;
use super::line::LINE_BYTES_MAX;
use super::log::Part;
use super::state::{Chat, Input, Order, Room, Stand};

/// How long a notice stays, in milliseconds.
const NOTICE_MS: u64 = 20_000;
/// So many messages before the window's end, the next page is loaded.
const AHEAD: usize = 10;

impl Chat {
    /// Takes an input; answers with what is to be done outside.
    pub(in crate::chat) fn take(&mut self, input: Input) -> Vec<Order> {
        match input {
            Input::Key(key) => self.on_key(key),
            Input::Paste(text) => self.line.insert(&clean(&text, LINE_BYTES_MAX)),
            Input::News(news) => self.on_news(news),
            Input::Tick { now_ms, connected } => self.on_tick(now_ms, connected),
        }
        self.settle();
        std::mem::take(&mut self.orders)
    }

    fn on_tick(&mut self, now_ms: u64, connected: bool) {
        self.now_ms = now_ms;
        self.connected = connected;
        if let Some(notice) = &self.notice
            && notice.since_ms + NOTICE_MS < now_ms
        {
            self.notice = None;
        }
        let current = self.current.clone();
        for room in &mut self.rooms {
            let shown = room.joined || current.as_ref() == Some(&room.id);
            if room.stale && !room.looking && shown && connected {
                (room.stale, room.looking) = (false, true);
                self.orders.push(Order::Look(room.id.clone()));
            }
        }
    }

    /// What is in view at the end of the current room is read.
    fn settle(&mut self) {
        let at_end = self.selected.is_none() && self.thread.is_none() && self.sheet.is_none();
        let Some(room) = self.room_mut() else {
            return;
        };
        if !at_end || room.log.torn() || !room.loaded {
            return;
        }
        room.read();
        let (id, mark) = (room.id.clone(), room.mark);
        if let Some(mark) = mark {
            self.marks.insert(id, mark);
        }
    }

    /// Goes to a room.
    pub(in crate::chat) fn enter(&mut self, id: &RoomId) {
        if self.current.as_ref() == Some(id) {
            return;
        }
        let draft = self.line.text().to_owned();
        if let Some(left) = self.room_mut() {
            left.draft = draft;
            left.new_after = None;
        }
        self.current = Some(id.clone());
        self.leave_views();
        let Some(room) = self.room_mut() else {
            return;
        };
        room.new_after = room.mark.filter(|_| room.unread > 0);
        let draft = std::mem::take(&mut room.draft);
        if room.people.is_empty() {
            room.stale = true;
        }
        self.line.set(&draft);
    }

    /// Closes whatever is over the end of the room's messages.
    pub(in crate::chat) fn leave_views(&mut self) {
        (self.sheet, self.scroll) = (None, 0);
        (self.selected, self.stand) = (None, Stand::Middle);
        (self.thread, self.replying) = (None, None);
    }

    /// Goes to the room `step` places further down the list, around its end.
    pub(in crate::chat) fn turn(&mut self, step: isize) {
        let count = self.rooms.len();
        if count == 0 {
            return;
        }
        let at = self
            .rooms
            .iter()
            .position(|room| Some(&room.id) == self.current.as_ref());
        let next = at
            .unwrap_or(0)
            .saturating_add(count)
            .saturating_add_signed(step)
            % count;
        let id = self.rooms[next].id.clone();
        self.enter(&id);
    }

    /// Puts the rooms into order: those that were joined, then invitations.
    pub(in crate::chat) fn sort_rooms(&mut self) {
        let key = |room: &Room| (!room.joined, room.label.clone(), room.id.clone());
        self.rooms.sort_by_cached_key(key);
    }

    /// Selects the message before the selected one, or the last one.
    pub(in crate::chat) fn select_up(&mut self) {
        self.stand = Stand::Middle;
        let keys = self.visible_said();
        let before = match self.selected {
            Some(selected) => keys.iter().rev().find(|key| **key < selected),
            None => keys.last(),
        };
        if let Some(key) = before {
            self.selected = Some(*key);
        }
        self.look_ahead();
    }

    /// Selects the message after the selected one; behind the last, none.
    pub(in crate::chat) fn select_down(&mut self) {
        self.stand = Stand::Middle;
        let Some(selected) = self.selected else {
            return;
        };
        let keys = self.visible_said();
        let after = keys.into_iter().find(|key| *key > selected);
        if after.is_some() || !self.torn() {
            self.selected = after;
        }
        self.look_ahead();
    }

    /// Scrolls a page up: the first message in view becomes the last one.
    pub(in crate::chat) fn page_up(&mut self) {
        let keys = self.visible_said();
        let (first, _) = self.drawn.entries.unwrap_or((i64::MIN, i64::MAX));
        let target = keys
            .iter()
            .find(|key| **key >= first)
            .or_else(|| keys.last());
        match (target, self.selected) {
            (Some(target), selected) if Some(*target) != selected => {
                self.selected = Some(*target);
            }
            _ => self.select_up(),
        }
        self.stand = Stand::Bottom;
        self.look_ahead();
    }

    /// Scrolls a page down.
    pub(in crate::chat) fn page_down(&mut self) {
        let Some(selected) = self.selected else {
            return;
        };
        let (_, last) = self.drawn.entries.unwrap_or((i64::MIN, i64::MAX));
        let at_end = self.visible().last().is_none_or(|key| *key <= last);
        let keys = self.visible_said();
        let target = keys.iter().rev().find(|key| **key <= last).copied();
        if at_end && !self.torn() {
            self.selected = None;
        } else if let Some(target) = target.filter(|target| *target > selected) {
            self.selected = Some(target);
        } else {
            self.select_down();
        }
        self.stand = Stand::Top;
        self.look_ahead();
    }

    /// Goes to the end of the room.
    pub(in crate::chat) fn go_to_end(&mut self) {
        self.selected = None;
        let Some(room) = self.room_mut() else {
            return;
        };
        if let Some(part) = room.log.want_end() {
            let room = room.id.clone();
            self.orders.push(Order::Load { room, part });
        }
    }

    fn torn(&self) -> bool {
        self.room().is_some_and(|room| room.log.torn())
    }

    /// Loads what comes next where the selected message is close to the window's end.
    fn look_ahead(&mut self) {
        let Some(selected) = self.selected else {
            return;
        };
        let keys = self.visible();
        let before = keys.iter().take_while(|key| **key < selected).count();
        let after = keys.len().saturating_sub(before + 1);
        let Some(room) = self.room_mut() else {
            return;
        };
        let mut part: Option<Part> = None;
        if before < AHEAD {
            part = room.log.want_older();
        }
        if part.is_none() && after < AHEAD {
            part = room.log.want_newer();
        }
        if let Some(part) = part {
            let room = room.id.clone();
            self.orders.push(Order::Load { room, part });
        }
    }
}
