//! Everything that a chat knows: its rooms, the line that is written, what is selected and open. Pure:
//! inputs change it (`update`, `keys`, `doing`, `news`) and leave orders behind.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

use unibus_client::rooms::blob::BlobRef;
use unibus_client::rooms::frame::FrameId;
use unibus_client::{Identity, MyRoom};
use unibus_proto::control::{EndpointId, Party, RoomId, RoomSubject};

use super::clean::clean_line;
use super::heard::Heard;
use super::keys::Key;
use super::line::Line;
use super::log::{Log, Page, Part, Said, What};
use super::names::Names;

/// Longest label of a room, in bytes: a subject has at most 255.
const LABEL_BYTES_MAX: usize = 255;
/// Members whose last word is remembered, for each room.
const SPOKE_MAX: usize = 2000;

/// Something that happened.
#[derive(Clone, Debug)]
pub(in crate::chat) enum Input {
    Key(Key),
    Paste(String),
    News(News),
    /// Once a second: the time, and whether the message plane is connected.
    Tick {
        now_ms: u64,
        connected: bool,
    },
}

/// What the session told.
#[derive(Clone, Debug)]
pub(in crate::chat) enum News {
    /// A room is there, or what is said of it has changed.
    Room(MyRoom),
    RoomGone(RoomId),
    Loaded {
        room: RoomId,
        part: Part,
        page: Page,
    },
    NotLoaded {
        room: RoomId,
        words: String,
    },
    Heard {
        room: RoomId,
        heard: Heard,
    },
    /// `None` = it could not be looked at.
    Looked {
        room: RoomId,
        look: Option<Look>,
    },
    Sent {
        room: RoomId,
        ticket: u64,
        id: FrameId,
    },
    NotSent {
        room: RoomId,
        ticket: u64,
        words: String,
    },
    Created(RoomId),
    /// How far something long has come.
    Progress {
        ticket: u64,
        text: String,
    },
    /// Something that was ordered is done, or is not.
    Done {
        ticket: u64,
        outcome: Result<String, String>,
    },
}

/// A room as it was verified.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::chat) struct Look {
    pub(in crate::chat) epoch: u64,
    pub(in crate::chat) needs_rekey: bool,
    pub(in crate::chat) people: Vec<Person>,
    /// Whom the server calls members and nobody has admitted.
    pub(in crate::chat) invented: usize,
}

/// A member.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::chat) struct Person {
    pub(in crate::chat) endpoint: EndpointId,
    pub(in crate::chat) owner: bool,
    pub(in crate::chat) joined: bool,
}

/// What is to be done outside.
#[derive(Clone, Debug)]
pub(in crate::chat) enum Order {
    /// Load the end of a room's history and listen to it.
    Open {
        room: RoomId,
        persisted: bool,
    },
    /// Listen no more.
    Close(RoomId),
    Load {
        room: RoomId,
        part: Part,
    },
    /// Look who belongs to a room.
    Look(RoomId),
    Say(Speaking),
    React {
        room: RoomId,
        to: FrameId,
        reaction: String,
    },
    Errand {
        ticket: u64,
        errand: Errand,
    },
    /// Add a line to the file of names.
    Remember(String),
    /// Draw everything anew.
    Redraw,
    /// Give the terminal back until the shell goes on with this program.
    Suspend,
    Quit,
}

/// Something to say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::chat) struct Speaking {
    pub(in crate::chat) ticket: u64,
    pub(in crate::chat) room: RoomId,
    pub(in crate::chat) text: String,
    pub(in crate::chat) thread: Option<FrameId>,
    pub(in crate::chat) reply_to: Option<FrameId>,
}

/// Something that takes a while and ends in words.
#[derive(Clone, Debug)]
pub(in crate::chat) enum Errand {
    Create {
        subject: RoomSubject,
        plain: bool,
    },
    Invite {
        room: RoomId,
        party: Party,
    },
    Join(RoomId),
    Leave(RoomId),
    Remove {
        room: RoomId,
        endpoint: EndpointId,
    },
    Rekey(RoomId),
    Send {
        room: RoomId,
        path: PathBuf,
        thread: Option<FrameId>,
    },
    Save {
        file: Box<BlobRef>,
        path: PathBuf,
    },
}

/// A room.
#[derive(Debug)]
pub(in crate::chat) struct Room {
    pub(in crate::chat) id: RoomId,
    /// Its subject, clean.
    pub(in crate::chat) label: String,
    pub(in crate::chat) joined: bool,
    pub(in crate::chat) encrypted: bool,
    pub(in crate::chat) persisted: bool,
    pub(in crate::chat) epoch: u64,
    pub(in crate::chat) needs_rekey: bool,
    pub(in crate::chat) people: Vec<Person>,
    pub(in crate::chat) invented: usize,
    pub(in crate::chat) log: Log,
    /// Messages of others that were not seen; of rooms with a stream, those after `mark`.
    pub(in crate::chat) unread: usize,
    /// There are more than those.
    pub(in crate::chat) unread_more: bool,
    /// The last place that was seen; `None` = this room is new here.
    pub(in crate::chat) mark: Option<u64>,
    /// Behind this place messages were new when the room was entered.
    pub(in crate::chat) new_after: Option<u64>,
    /// It is listened to.
    pub(in crate::chat) opened: bool,
    /// The end of its history is here.
    pub(in crate::chat) loaded: bool,
    /// Who belongs to it may have changed.
    pub(in crate::chat) stale: bool,
    /// It is being looked at.
    pub(in crate::chat) looking: bool,
    /// What was said and is not in the log yet.
    pub(in crate::chat) pending: VecDeque<Pending>,
    pub(in crate::chat) draft: String,
    /// When members last spoke, Unix milliseconds.
    pub(in crate::chat) spoke: BTreeMap<EndpointId, u64>,
}

/// Something that is on its way.
#[derive(Clone, Debug)]
pub(in crate::chat) struct Pending {
    pub(in crate::chat) ticket: u64,
    pub(in crate::chat) text: String,
    pub(in crate::chat) thread: Option<FrameId>,
    /// It is stored, and comes back any moment.
    pub(in crate::chat) id: Option<FrameId>,
}

/// A page over the messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::chat) enum Sheet {
    Help,
    Members,
    Whoami,
    /// A message as a whole, by its key.
    Message(i64),
}

/// Where the selected message stands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::chat) enum Stand {
    Top,
    #[default]
    Middle,
    Bottom,
}

/// What was drawn last, which scrolling goes by.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::chat) struct Drawn {
    /// Keys of the first and last entry in view.
    pub(in crate::chat) entries: Option<(i64, i64)>,
    /// How far the open sheet can be scrolled, in rows.
    pub(in crate::chat) scroll_max: usize,
    /// Rows of the open sheet.
    pub(in crate::chat) sheet_rows: usize,
}

/// A line about what was done, or why not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::chat) struct Notice {
    pub(in crate::chat) text: String,
    pub(in crate::chat) grave: bool,
    pub(in crate::chat) since_ms: u64,
}

/// The chat.
#[derive(Debug)]
pub(in crate::chat) struct Chat {
    pub(in crate::chat) me: EndpointId,
    pub(in crate::chat) contact: String,
    pub(in crate::chat) nkey: String,
    pub(in crate::chat) names: Names,
    /// Those that were joined first, then invitations, each by label.
    pub(in crate::chat) rooms: Vec<Room>,
    pub(in crate::chat) current: Option<RoomId>,
    /// How the room begins that is to be open first, until it is.
    pub(in crate::chat) wanted: Option<String>,
    pub(in crate::chat) line: Line,
    pub(in crate::chat) sheet: Option<Sheet>,
    pub(in crate::chat) scroll: usize,
    /// Key of the selected message of the current room.
    pub(in crate::chat) selected: Option<i64>,
    pub(in crate::chat) stand: Stand,
    /// The thread that is open.
    pub(in crate::chat) thread: Option<FrameId>,
    /// What the line is a reply to.
    pub(in crate::chat) replying: Option<FrameId>,
    pub(in crate::chat) notice: Option<Notice>,
    pub(in crate::chat) working: BTreeMap<u64, String>,
    pub(in crate::chat) connected: bool,
    pub(in crate::chat) now_ms: u64,
    pub(in crate::chat) drawn: Drawn,
    /// The room that `/leave` was said in once.
    pub(in crate::chat) leaving: Option<RoomId>,
    pub(in crate::chat) tickets: u64,
    pub(in crate::chat) marks: BTreeMap<RoomId, u64>,
    pub(in crate::chat) orders: Vec<Order>,
}

impl Chat {
    /// A chat that knows of no room yet. `marks`: the last place seen in each room.
    pub(in crate::chat) fn new(
        me: &Identity,
        names: Names,
        marks: BTreeMap<RoomId, u64>,
        now_ms: u64,
    ) -> Self {
        Self {
            me: me.endpoint().clone(),
            contact: me.contact(),
            nkey: me.nkey(),
            names,
            rooms: Vec::new(),
            current: None,
            wanted: None,
            line: Line::default(),
            sheet: None,
            scroll: 0,
            selected: None,
            stand: Stand::default(),
            thread: None,
            replying: None,
            notice: None,
            working: BTreeMap::new(),
            connected: true,
            now_ms,
            drawn: Drawn::default(),
            leaving: None,
            tickets: 0,
            marks,
            orders: Vec::new(),
        }
    }

    /// The room that is shown.
    pub(in crate::chat) fn room(&self) -> Option<&Room> {
        let current = self.current.as_ref()?;
        self.rooms.iter().find(|room| room.id == *current)
    }

    pub(in crate::chat) fn room_mut(&mut self) -> Option<&mut Room> {
        let current = self.current.clone()?;
        self.by_id(&current)
    }

    pub(in crate::chat) fn by_id(&mut self, id: &RoomId) -> Option<&mut Room> {
        self.rooms.iter_mut().find(|room| room.id == *id)
    }

    /// What somebody is called in a room.
    pub(in crate::chat) fn name(&self, room: &Room, who: &EndpointId) -> String {
        if *who == self.me {
            return "you".to_owned();
        }
        self.names
            .of(who, room.people.iter().map(|person| &person.endpoint))
    }

    /// Keys of the entries that are in the open view: all of the room, or those of a thread.
    pub(in crate::chat) fn visible(&self) -> Vec<i64> {
        let Some(room) = self.room() else {
            return Vec::new();
        };
        let of_thread = |what: &What| match (self.thread, what) {
            (None, _) => true,
            (Some(root), What::Said(said)) => said.id == root || said.thread == Some(root),
            (Some(_), _) => false,
        };
        let entries = room.log.iter();
        entries
            .filter(|(_, entry)| of_thread(&entry.what))
            .map(|(key, _)| key)
            .collect()
    }

    /// Keys of the messages in the open view.
    pub(in crate::chat) fn visible_said(&self) -> Vec<i64> {
        let mut keys = self.visible();
        keys.retain(|key| self.said(*key).is_some());
        keys
    }

    /// A message of the current room.
    pub(in crate::chat) fn said(&self, key: i64) -> Option<&Said> {
        match &self.room()?.log.entry(key)?.what {
            What::Said(said) => Some(said),
            _ => None,
        }
    }

    pub(in crate::chat) fn tell(&mut self, text: impl Into<String>) {
        self.notify(text.into(), false);
    }

    pub(in crate::chat) fn warn(&mut self, text: impl Into<String>) {
        self.notify(text.into(), true);
    }

    fn notify(&mut self, text: String, grave: bool) {
        self.notice = Some(Notice {
            text,
            grave,
            since_ms: self.now_ms,
        });
    }

    pub(in crate::chat) fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }
}

impl Room {
    pub(in crate::chat) fn new(room: &MyRoom, mark: Option<u64>) -> Self {
        Self {
            id: room.id.clone(),
            label: clean_line(room.subject.as_str(), LABEL_BYTES_MAX),
            joined: room.joined,
            encrypted: room.policy.encrypted,
            persisted: room.policy.persisted,
            epoch: room.epoch,
            needs_rekey: room.needs_rekey,
            people: Vec::new(),
            invented: 0,
            log: Log::default(),
            unread: 0,
            unread_more: false,
            mark,
            new_after: None,
            opened: false,
            loaded: false,
            stale: false,
            looking: false,
            pending: VecDeque::new(),
            draft: String::new(),
            spoke: BTreeMap::new(),
        }
    }

    /// Notes that somebody spoke.
    pub(in crate::chat) fn note_spoke(&mut self, who: &EndpointId, at_ms: u64) {
        if self.spoke.len() >= SPOKE_MAX && !self.spoke.contains_key(who) {
            return;
        }
        let last = self.spoke.entry(who.clone()).or_insert(at_ms);
        *last = (*last).max(at_ms);
    }

    /// Everything in it was seen.
    pub(in crate::chat) fn read(&mut self) {
        (self.unread, self.unread_more) = (0, false);
        if self.persisted && self.loaded {
            self.mark = Some(self.log.last_seq().max(self.mark.unwrap_or(0)));
        }
    }
}
