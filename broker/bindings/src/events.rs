//! What rooms tell, as flat records.

use unibus_client::{Event, MembershipChange};
use unibus_proto::control::MemberRole;

use crate::options::RoomPolicy;

/// A frame that was verified and decrypted.
#[derive(Clone, Debug, Eq, PartialEq, uniffi::Record)]
pub struct Message {
    /// Its id.
    pub id: String,
    /// Who sent it.
    pub sender: String,
    /// What it is: `MSG`, `REACT`, `FILE`, or an application's own.
    pub kind: String,
    /// When, by its sender's clock; Unix milliseconds.
    pub sent_ms: u64,
    /// The frame that its thread began with.
    pub thread: Option<String>,
    /// The frame that it answers.
    pub reply_to: Option<String>,
    /// Its place in the room's stream.
    pub seq: Option<u64>,
    /// What was said.
    pub payload: Vec<u8>,
    /// The same as text; what is no UTF-8 is replaced.
    pub text: String,
}

impl From<unibus_client::Message> for Message {
    fn from(message: unibus_client::Message) -> Self {
        let header = &message.header;
        Self {
            id: header.id.to_string(),
            sender: header.from.to_string(),
            kind: header.kind.to_string(),
            sent_ms: header.sent_ms,
            thread: header.thread.map(|id| id.to_string()),
            reply_to: header.reply_to.map(|id| id.to_string()),
            seq: message.seq,
            text: message.text().into_owned(),
            payload: message.payload.to_vec(),
        }
    }
}

/// Something that happened in a room.
#[derive(Clone, Debug, Eq, PartialEq, uniffi::Enum)]
pub enum RoomEvent {
    /// Somebody said something.
    Said {
        /// What.
        said: Message,
    },
    /// Somebody reacted to a frame.
    Reacted {
        /// To which.
        to: String,
        /// The reaction.
        reaction: String,
        /// Who and when.
        said: Message,
    },
    /// Somebody shared a file.
    Shared {
        /// What `get_blob` takes. It holds the file's key.
        reference: String,
        /// What its sender calls it: not a path to be trusted.
        name: Option<String>,
        /// In bytes.
        size: u64,
        /// Such as `image/png`.
        media_type: Option<String>,
        /// Who and when.
        said: Message,
    },
    /// A frame of another kind.
    Other {
        /// What.
        said: Message,
    },
    /// The owner has invited somebody.
    Invited {
        /// Whom.
        endpoint: String,
    },
    /// Somebody has accepted the invitation.
    Joined {
        /// Who.
        endpoint: String,
    },
    /// Somebody has left or was removed.
    Left {
        /// Who.
        endpoint: String,
    },
    /// The room has a new key.
    Rekeyed {
        /// Its number.
        epoch: u64,
    },
    /// Nobody may speak until the owner's client has made a new key.
    NeedsRekey,
    /// What a server says of the room or a member can't be verified, and was not taken over.
    Distrusted {
        /// What.
        words: String,
    },
    /// A frame can't be read.
    Unreadable {
        /// Why.
        words: String,
        /// Its place in the room's stream.
        seq: Option<u64>,
    },
    /// What was there when the subscription began has been delivered.
    CaughtUp,
    /// This identity is no member any more. Nothing follows.
    Gone {
        /// The server's words.
        words: String,
    },
}

impl RoomEvent {
    /// `None` = something that these bindings have no word for.
    pub(crate) fn of(event: Event) -> Option<Self> {
        Some(match event {
            Event::Message(message) => Self::Said {
                said: message.into(),
            },
            Event::Reaction {
                to,
                reaction,
                message,
            } => Self::Reacted {
                to: to.to_string(),
                reaction,
                said: message.into(),
            },
            Event::File { file, message } => Self::Shared {
                reference: file.to_text(),
                name: file.name,
                size: file.size,
                media_type: file.media_type,
                said: message.into(),
            },
            Event::Other(message) => Self::Other {
                said: message.into(),
            },
            Event::Membership(change) => return Self::of_change(change),
            Event::Undecryptable(frame) => Self::Unreadable {
                words: frame.reason.to_string(),
                seq: frame.seq,
            },
            Event::CaughtUp => Self::CaughtUp,
            Event::Gone { words } => Self::Gone { words },
            _ => return None,
        })
    }

    fn of_change(change: MembershipChange) -> Option<Self> {
        Some(match change {
            MembershipChange::Invited(who) => Self::Invited {
                endpoint: who.to_string(),
            },
            MembershipChange::Joined(who) => Self::Joined {
                endpoint: who.to_string(),
            },
            MembershipChange::Left(who) => Self::Left {
                endpoint: who.to_string(),
            },
            MembershipChange::Rekeyed { epoch } => Self::Rekeyed { epoch },
            MembershipChange::NeedsRekey => Self::NeedsRekey,
            MembershipChange::Invented { endpoint, reason } => Self::Distrusted {
                words: format!("{endpoint} is called a member: {reason}"),
            },
            MembershipChange::Untrusted(error) => Self::Distrusted {
                words: error.to_string(),
            },
            _ => return None,
        })
    }
}

/// A page of history.
#[derive(Clone, Debug, Eq, PartialEq, uniffi::Record)]
pub struct HistoryPage {
    /// Oldest first.
    pub events: Vec<RoomEvent>,
    /// Where to go on: for `HistoryPart.After` and `StartAt.After`.
    pub next: u64,
    /// Where the page before ends: for `HistoryPart.Before`; none = there is none.
    pub previous: Option<u64>,
}

impl From<unibus_client::HistoryPage> for HistoryPage {
    fn from(page: unibus_client::HistoryPage) -> Self {
        let events = page.events.into_iter().filter_map(RoomEvent::of);
        Self {
            events: events.collect(),
            next: page.next,
            previous: page.previous,
        }
    }
}

/// A room that this identity belongs to or is invited to; what the server says.
#[derive(Clone, Debug, Eq, PartialEq, uniffi::Record)]
pub struct MyRoom {
    /// Its id: what calls take.
    pub room: String,
    /// Where its messages are published: what people call it.
    pub subject: String,
    /// How it treats messages.
    pub policy: RoomPolicy,
    /// The number of its current key.
    pub epoch: u64,
    /// Whether it is this identity's own.
    pub owner: bool,
    /// Whether this identity has joined; an invitation otherwise.
    pub joined: bool,
    /// Nobody may speak until the owner's client has made a new key.
    pub needs_rekey: bool,
}

impl From<unibus_client::MyRoom> for MyRoom {
    fn from(room: unibus_client::MyRoom) -> Self {
        Self {
            room: room.id.to_string(),
            subject: room.subject.to_string(),
            policy: room.policy.into(),
            epoch: room.epoch,
            owner: room.role == MemberRole::Owner,
            joined: room.joined,
            needs_rekey: room.needs_rekey,
        }
    }
}

/// A change of the rooms that this identity belongs to.
#[derive(Clone, Debug, Eq, PartialEq, uniffi::Enum)]
pub enum RoomsChange {
    /// It belongs to one more: an invitation, if it has not joined.
    Added {
        /// Which.
        room: MyRoom,
    },
    /// What is said of a room has changed.
    Changed {
        /// Which, and how it is.
        room: MyRoom,
    },
    /// It belongs to one less.
    Removed {
        /// Which.
        room: String,
    },
}

impl RoomsChange {
    /// `None` = something that these bindings have no word for.
    pub(crate) fn of(change: unibus_client::RoomsChange) -> Option<Self> {
        Some(match change {
            unibus_client::RoomsChange::Added(room) => Self::Added { room: room.into() },
            unibus_client::RoomsChange::Changed(room) => Self::Changed { room: room.into() },
            unibus_client::RoomsChange::Removed(room) => Self::Removed {
                room: room.to_string(),
            },
            _ => return None,
        })
    }
}
