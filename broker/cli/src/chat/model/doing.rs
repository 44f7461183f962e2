//! What commands do. Pure: whatever needs a session, a file or time becomes an order.

use std::path::PathBuf;

use unibus_proto::control::{EndpointId, RoomSubject};

use super::clean::clean_line;
use super::command::Command;
use super::log::{Body, Said, What};
use super::state::{Chat, Errand, Order, Pending, Room, Sheet, Speaking};

/// Messages of a room that are on their way at most.
const PENDING_MAX: usize = 32;
/// Errands at the same time at most.
const WORKING_MAX: usize = 16;
/// Longest reaction, in bytes.
const REACTION_BYTES_MAX: usize = 32;

impl Chat {
    /// Runs a command; the line is taken where it could be run.
    pub(in crate::chat) fn run(&mut self, command: Command) {
        let leaving = self.leaving.take();
        let done = match command {
            Command::Say(text) => self.say(text, None),
            Command::Reply(text) => self.reply(text),
            Command::React(reaction) => self.react(&reaction),
            Command::Thread => self.enter_thread(),
            Command::Join => self.join(),
            Command::Leave => self.leave(leaving),
            Command::Create { subject, plain } => self.create(&subject, plain),
            Command::Invite(who) => self.invite(&who),
            Command::Remove(who) => self.remove(&who),
            Command::Rekey => self.rekey(),
            Command::File(path) => self.send(path),
            Command::Save(path) => self.save(path),
            Command::Name { who, name } => self.call(&who, &name),
            Command::Members => self.show(Sheet::Members),
            Command::Whoami => self.show(Sheet::Whoami),
            Command::Help => self.show(Sheet::Help),
            Command::Go(beginning) => return self.go(&beginning),
            Command::Quit => {
                self.orders.push(Order::Quit);
                Ok(())
            }
        };
        match done {
            Ok(()) => drop(self.line.take()),
            Err(words) => self.warn(words),
        }
    }

    fn show(&mut self, sheet: Sheet) -> Result<(), String> {
        if sheet == Sheet::Members {
            let room = self.room_mut().ok_or("no room is open")?;
            room.stale = true;
        }
        self.open(sheet);
        Ok(())
    }

    /// The room that is open, joined.
    fn in_room(&self) -> Result<&Room, String> {
        match self.room() {
            None => Err("no room is open: /create makes one, and others can invite you".into()),
            Some(room) if !room.joined => {
                Err("you are invited to this room: /join accepts, /leave declines".into())
            }
            Some(room) => Ok(room),
        }
    }

    /// Orders something that takes a while.
    fn errand(&mut self, doing: &str, errand: Errand) -> Result<(), String> {
        if self.working.len() >= WORKING_MAX {
            return Err(format!(
                "{WORKING_MAX} things are under way already; wait for one"
            ));
        }
        let ticket = self.ticket();
        self.working.insert(ticket, format!("{doing} …"));
        self.orders.push(Order::Errand { ticket, errand });
        Ok(())
    }

    fn say(&mut self, text: String, reply: Option<&Said>) -> Result<(), String> {
        let room = self.in_room()?;
        if room.pending.len() >= PENDING_MAX {
            return Err(format!(
                "{PENDING_MAX} messages are on their way already; wait for one"
            ));
        }
        let replying = self.replying.and_then(|id| room.log.said(id)).or(reply);
        let thread = self.thread.or_else(|| replying?.thread);
        let reply_to = self.replying.or_else(|| reply.map(|said| said.id));
        let id = room.id.clone();
        let ticket = self.ticket();
        (self.replying, self.selected) = (None, None);
        self.go_to_end();
        if let Some(room) = self.room_mut() {
            room.new_after = None;
            room.pending.push_back(Pending {
                ticket,
                text: text.clone(),
                thread,
                id: None,
            });
        }
        self.orders.push(Order::Say(Speaking {
            ticket,
            room: id,
            text,
            thread,
            reply_to,
        }));
        Ok(())
    }

    fn reply(&mut self, text: String) -> Result<(), String> {
        self.in_room()?;
        let said = self.target()?.clone();
        if text.is_empty() {
            self.replying = Some(said.id);
            return Ok(());
        }
        self.replying = None;
        self.say(text, Some(&said))
    }

    /// Makes the line a reply to the selected message.
    pub(in crate::chat) fn begin_reply(&mut self) {
        match self.target().map(|said| said.id) {
            Ok(id) => self.replying = Some(id),
            Err(words) => self.warn(words),
        }
    }

    fn react(&mut self, reaction: &str) -> Result<(), String> {
        let room = self.in_room()?.id.clone();
        let to = self.target()?.id;
        let reaction = clean_line(reaction, REACTION_BYTES_MAX + 1);
        if reaction.is_empty() || reaction.len() > REACTION_BYTES_MAX {
            return Err(format!("a reaction has 1 to {REACTION_BYTES_MAX} bytes"));
        }
        self.orders.push(Order::React { room, to, reaction });
        Ok(())
    }

    /// The message that is meant: the selected one, or the last one of somebody else, or the last one.
    fn target(&self) -> Result<&Said, String> {
        let keys = self.visible_said();
        let others = |key: &&i64| self.said(**key).is_some_and(|said| said.from != self.me);
        let last = keys.iter().rev().find(others).or_else(|| keys.last());
        let key = self.selected.or_else(|| last.copied());
        key.and_then(|key| self.said(key))
            .ok_or_else(|| "there is no message here".to_owned())
    }

    /// Opens the thread of the message that is meant.
    pub(in crate::chat) fn open_thread(&mut self) {
        if let Err(words) = self.enter_thread() {
            self.warn(words);
        }
    }

    fn enter_thread(&mut self) -> Result<(), String> {
        let said = self.target()?;
        let root = said.thread.unwrap_or(said.id);
        self.leave_views();
        self.thread = Some(root);
        Ok(())
    }

    fn rekey(&mut self) -> Result<(), String> {
        let room = self.in_room()?.id.clone();
        self.errand("making a new key", Errand::Rekey(room))
    }

    fn join(&mut self) -> Result<(), String> {
        let room = self.room().ok_or("no room is open")?;
        if room.joined {
            return Err("you belong to this room".into());
        }
        let id = room.id.clone();
        self.errand("joining", Errand::Join(id))
    }

    fn leave(&mut self, asked: Option<unibus_proto::control::RoomId>) -> Result<(), String> {
        let room = self.room().ok_or("no room is open")?;
        let (id, label, joined) = (room.id.clone(), room.label.clone(), room.joined);
        if joined && asked.as_ref() != Some(&id) {
            self.tell(format!(
                "say /leave once more to leave {label}: what is said later you can't read"
            ));
            self.leaving = Some(id);
            return Ok(());
        }
        self.errand("leaving", Errand::Leave(id))
    }

    fn create(&mut self, subject: &str, plain: bool) -> Result<(), String> {
        let subject: RoomSubject = subject
            .parse()
            .map_err(|error| format!("{subject:?}: {error}"))?;
        self.errand("making the room", Errand::Create { subject, plain })
    }

    fn invite(&mut self, who: &str) -> Result<(), String> {
        let room = self.in_room()?.id.clone();
        let party = self.names.party(who)?;
        self.errand("inviting", Errand::Invite { room, party })
    }

    fn remove(&mut self, who: &str) -> Result<(), String> {
        let room = self.in_room()?;
        let people = room.people.iter().map(|person| &person.endpoint);
        let endpoint = self.names.find(who, people)?;
        let room = room.id.clone();
        self.errand("removing", Errand::Remove { room, endpoint })
    }

    fn send(&mut self, path: PathBuf) -> Result<(), String> {
        let room = self.in_room()?;
        if !room.encrypted {
            return Err(
                "files are shared in encrypted rooms only: what names one holds its key".into(),
            );
        }
        let room = room.id.clone();
        let thread = self.thread;
        self.errand("sending", Errand::Send { room, path, thread })
    }

    fn save(&mut self, path: Option<PathBuf>) -> Result<(), String> {
        let files = |key: &i64| match &self.said(*key)?.body {
            Body::File { file, name } => Some((file.clone(), name.clone())),
            Body::Text(_) => None,
        };
        let found = match self.selected {
            Some(key) => files(&key).ok_or("the selected message is no file"),
            None => {
                let keys = self.visible_said();
                let last = keys.iter().rev().find_map(files);
                last.ok_or("nobody has shared a file here")
            }
        };
        let (file, name) = found?;
        let path = path.unwrap_or_else(|| PathBuf::from(safe_name(&name)));
        self.errand("fetching", Errand::Save { file, path })
    }

    fn call(&mut self, who: &str, name: &str) -> Result<(), String> {
        let everybody = self.rooms.iter().flat_map(|room| &room.people);
        let mut everybody: Vec<&EndpointId> = everybody.map(|person| &person.endpoint).collect();
        everybody.sort();
        everybody.dedup();
        // A contact brings keys; anything else means somebody who is seen here.
        let found = self.names.find(who, everybody.into_iter());
        let who = match found {
            Ok(endpoint) if !who.starts_with("unibus-contact:") => endpoint.to_string(),
            Err(words) if who.parse::<EndpointId>().is_err() => return Err(words),
            _ => who.to_owned(),
        };
        self.names.add(name, &who)?;
        self.tell(format!("{name} it is, on this host"));
        self.orders.push(Order::Remember(format!("{name} {who}\n")));
        Ok(())
    }

    /// The line stays with the room that is entered: it takes its draft from there.
    fn go(&mut self, beginning: &str) {
        let rooms = &self.rooms;
        let found = rooms.iter().find(|room| room.label == beginning);
        let found = found.or_else(|| rooms.iter().find(|room| room.label.starts_with(beginning)));
        match found.map(|room| room.id.clone()) {
            Some(id) => {
                self.line.take();
                self.enter(&id);
            }
            None => self.warn(format!("no room here begins with {beginning:?}")),
        }
    }

    /// Whether an entry was said by somebody else.
    pub(in crate::chat) fn by_others(&self, what: &What) -> bool {
        matches!(what, What::Said(said) if said.from != self.me)
    }
}

/// A file name that stays in its folder and is not hidden, from what its sender calls it.
fn safe_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    match last.trim_start_matches('.').trim() {
        "" => "file".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::safe_name;

    #[test]
    fn a_file_can_not_choose_its_folder() {
        for (name, safe) in [
            ("../../etc/passwd", "passwd"),
            ("..", "file"),
            (".bashrc", "bashrc"),
            ("C:\\x\\cat.png", "cat.png"),
            ("cat.png", "cat.png"),
            ("a/", "file"),
        ] {
            assert_eq!(safe_name(name), safe);
        }
    }
}
