//! What news from the session changes. Pure.

use unibus_client::{MembershipChange, MyRoom};
use unibus_proto::control::{EndpointId, RoomId};

use super::heard::Heard;
use super::log::{Entry, Page, Part, Told, What};
use super::state::{Chat, Look, News, Order, Room};

/// Rooms that are kept at most.
const ROOMS_MAX: usize = 250;

impl Chat {
    pub(in crate::chat) fn on_news(&mut self, news: News) {
        match news {
            News::Room(room) => self.on_room(&room),
            News::RoomGone(room) => self.drop_room(&room),
            News::Created(room) => self.enter(&room),
            News::Loaded { room, part, page } => self.on_loaded(&room, part, page),
            News::NotLoaded { room, words } => {
                if let Some(room) = self.by_id(&room) {
                    room.log.not_loaded();
                    self.warn(words);
                }
            }
            News::Heard { room, heard } => self.on_heard(&room, heard),
            News::Looked { room, look } => self.on_looked(&room, look),
            News::Sent { room, ticket, id } => self.on_sent(&room, ticket, id),
            News::NotSent {
                room,
                ticket,
                words,
            } => self.on_not_sent(&room, ticket, &words),
            News::Progress { ticket, text } => {
                if let Some(working) = self.working.get_mut(&ticket) {
                    *working = text;
                }
            }
            News::Done { ticket, outcome } => {
                self.working.remove(&ticket);
                match outcome {
                    Ok(words) => self.tell(words),
                    Err(words) => self.warn(words),
                }
            }
        }
    }

    fn on_room(&mut self, told: &MyRoom) {
        if let Some(room) = self.by_id(&told.id) {
            room.joined = told.joined;
            room.epoch = room.epoch.max(told.epoch);
            room.needs_rekey = told.needs_rekey;
        } else if self.rooms.len() >= ROOMS_MAX {
            self.warn(format!(
                "you belong to more than {ROOMS_MAX} rooms; the others are not shown"
            ));
            return;
        } else {
            let mark = self.marks.get(&told.id).copied();
            self.rooms.push(Room::new(told, mark));
        }
        self.sort_rooms();
        if let Some(room) = self.by_id(&told.id)
            && room.joined
            && !room.opened
        {
            room.opened = true;
            room.stale = true;
            let order = Order::Open {
                room: room.id.clone(),
                persisted: room.persisted,
            };
            self.orders.push(order);
        }
        let subject = told.subject.as_str();
        if self
            .wanted
            .as_ref()
            .is_some_and(|wanted| subject.starts_with(wanted))
        {
            self.wanted = None;
            self.enter(&told.id);
        } else if self.current.is_none() {
            self.enter(&told.id);
        }
    }

    fn drop_room(&mut self, id: &RoomId) {
        self.rooms.retain(|room| room.id != *id);
        self.marks.remove(id);
        self.orders.push(Order::Close(id.clone()));
        if self.current.as_ref() == Some(id) {
            self.current = None;
            self.leave_views();
            if let Some(first) = self.rooms.first().map(|room| room.id.clone()) {
                self.enter(&first);
            }
        }
    }

    fn on_loaded(&mut self, id: &RoomId, part: Part, page: Page) {
        let me = self.me.clone();
        let Some(room) = self.by_id(id) else {
            return;
        };
        for told in &page.told {
            note_speaker(room, told);
        }
        let first = !room.loaded && part == Part::Last;
        room.log.load(part, page);
        if !first {
            return;
        }
        room.loaded = true;
        match room.mark {
            None => room.mark = Some(room.log.last_seq()),
            Some(mark) => {
                let is_unread = |what: &What, seq: u64| {
                    seq > mark && matches!(what, What::Said(said) if said.from != me)
                };
                let entries = room.log.iter();
                room.unread = entries
                    .filter(|(_, entry)| entry.seq.is_some_and(|seq| is_unread(&entry.what, seq)))
                    .count();
                let begin = room.log.iter().find_map(|(_, entry)| entry.seq);
                room.unread_more = begin.is_some_and(|begin| begin > mark + 1);
                if self.current.as_ref() == Some(id)
                    && let Some(room) = self.by_id(id)
                {
                    room.new_after = Some(mark).filter(|_| room.unread > 0);
                }
            }
        }
    }

    fn on_heard(&mut self, id: &RoomId, heard: Heard) {
        match heard {
            Heard::Told(told) => self.on_told(id, told),
            Heard::Change(change) => self.on_change(id, &change),
            Heard::Gone(words) => {
                let label = self.by_id(id).map(|room| room.label.clone());
                self.drop_room(id);
                if let Some(label) = label {
                    self.tell(format!("{label}: {words}"));
                }
            }
        }
    }

    fn on_told(&mut self, id: &RoomId, told: Told) {
        let counts = matches!(&told, Told::Entry(entry) if self.by_others(&entry.what));
        let said = match &told {
            Told::Entry(Entry {
                what: What::Said(said),
                ..
            }) => Some(said.id),
            _ => None,
        };
        let Some(room) = self.by_id(id) else {
            return;
        };
        note_speaker(room, &told);
        if !room.log.hear(told) {
            return;
        }
        // In view at the end of the current room, it is read a moment later.
        room.unread += usize::from(counts);
        room.pending
            .retain(|pending| pending.id.is_none() || pending.id != said);
    }

    fn on_change(&mut self, id: &RoomId, change: &MembershipChange) {
        let Some(room) = self.rooms.iter().find(|room| room.id == *id) else {
            return;
        };
        let name = |who: &EndpointId| self.name(room, who);
        let verb = |who: &EndpointId, you: &'static str, they: &'static str| {
            let word = if *who == self.me { you } else { they };
            format!("{} {word}", name(who))
        };
        let (text, grave) = match change {
            MembershipChange::Invited(who) => (verb(who, "are invited", "is invited"), false),
            MembershipChange::Joined(who) => (verb(who, "joined", "joined"), false),
            MembershipChange::Left(who) => (verb(who, "left", "left, or was removed"), false),
            MembershipChange::Rekeyed { epoch } => (format!("a new key: epoch {epoch}"), false),
            MembershipChange::NeedsRekey => (
                "somebody has gone: nobody may speak until the owner's client has made a new key"
                    .into(),
                false,
            ),
            MembershipChange::Invented { endpoint, reason } => {
                let text =
                    format!("the server calls {endpoint} a member, but {reason}; it got no key");
                (text, true)
            }
            MembershipChange::Untrusted(error) => {
                (format!("this room is not to be trusted: {error}"), true)
            }
            other => (format!("{other:?}"), false),
        };
        if grave {
            self.warn(text.clone());
        }
        let at_ms = self.now_ms;
        let looks = !matches!(change, MembershipChange::Untrusted(_));
        if let Some(room) = self.by_id(id) {
            if let MembershipChange::Rekeyed { epoch } = change {
                room.epoch = room.epoch.max(*epoch);
                room.needs_rekey = false;
            }
            room.needs_rekey |= *change == MembershipChange::NeedsRekey;
            room.stale |= looks;
            let what = What::Note { text, grave };
            room.log.hear(Told::Entry(Entry {
                seq: None,
                at_ms,
                what,
            }));
        }
    }

    fn on_looked(&mut self, id: &RoomId, look: Option<Look>) {
        let Some(room) = self.by_id(id) else {
            return;
        };
        room.looking = false;
        let Some(look) = look else {
            return;
        };
        let Look {
            epoch,
            needs_rekey,
            people,
            invented,
        } = look;
        room.epoch = room.epoch.max(epoch);
        (room.needs_rekey, room.people, room.invented) = (needs_rekey, people, invented);
    }

    fn on_sent(&mut self, id: &RoomId, ticket: u64, frame: unibus_client::rooms::frame::FrameId) {
        let Some(room) = self.by_id(id) else {
            return;
        };
        let heard = room.log.torn() || room.log.said(frame).is_some();
        if heard {
            room.pending.retain(|pending| pending.ticket != ticket);
        } else if let Some(pending) = room.pending.iter_mut().find(|p| p.ticket == ticket) {
            pending.id = Some(frame);
        }
    }

    /// What could not be sent goes back into the line, where that is empty; the line's past has it too.
    fn on_not_sent(&mut self, id: &RoomId, ticket: u64, words: &str) {
        let current = self.current.as_ref() == Some(id);
        let Some(room) = self.by_id(id) else {
            return;
        };
        let label = room.label.clone();
        let at = room
            .pending
            .iter()
            .position(|pending| pending.ticket == ticket);
        if let Some(lost) = at.and_then(|at| room.pending.remove(at))
            && current
            && self.line.is_empty()
        {
            self.line.set(&lost.text);
        }
        self.warn(format!(
            "not sent in {label} (Ctrl-P brings it back): {words}"
        ));
    }
}

/// Notes when somebody spoke.
fn note_speaker(room: &mut Room, told: &Told) {
    if let Told::Entry(Entry {
        at_ms,
        what: What::Said(said),
        ..
    }) = told
    {
        room.note_spoke(&said.from, *at_ms);
    }
}
