//! What a session tells its application: messages, reactions, files, changes of membership, and what
//! could not be read and why.

use unibus_proto::control::{EndpointId, MemberRole, Policy, RoomId, RoomSubject};
use zeroize::Zeroizing;

use crate::rooms::blob::BlobRef;
use crate::rooms::frame::{FrameError, FrameId, FrameKind, Header};
use crate::rooms::roster::{InventedReason, RosterError};

/// Something that happened in a room.
///
/// ```
/// use unibus_client::{Event, Message};
/// # use unibus_client::Identity;
/// # use unibus_client::rooms::frame::{FrameId, FrameKind, Header};
///
/// fn line(event: &Event) -> Option<String> {
///     match event {
///         Event::Message(message) => Some(message.text().into_owned()),
///         Event::Reaction { to, reaction, .. } => Some(format!("{reaction} to {to}")),
///         Event::File { file, .. } => Some(format!("a file of {} bytes", file.size)),
///         Event::Undecryptable(frame) => Some(format!("unreadable: {}", frame.reason)),
///         _ => None,
///     }
/// }
/// # let me = Identity::generate()?;
/// # let header = Header {
/// #     id: FrameId::new(1_000, [7; 10]),
/// #     room: "kitchen".parse()?,
/// #     epoch: 1,
/// #     from: me.endpoint().clone(),
/// #     kind: FrameKind::message(),
/// #     sent_ms: 1_000,
/// #     thread: None,
/// #     reply_to: None,
/// # };
/// # let message = Message { header, payload: b"tea is ready".to_vec().into(), seq: Some(7), stored_ms: Some(1_003) };
/// let event = Event::Message(message); // as a subscription yields it
/// assert_eq!(line(&event).as_deref(), Some("tea is ready"));
/// assert_eq!(event.seq(), Some(7)); // where to go on after a restart
/// assert_eq!(event.message().map(|message| message.from()), Some(me.endpoint()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Somebody said something.
    Message(Message),
    /// Somebody reacted to a frame.
    Reaction {
        /// The frame that it is a reaction to.
        to: FrameId,
        /// The reaction, such as an emoji.
        reaction: String,
        /// Who, when and where; its payload is the reaction.
        message: Message,
    },
    /// Somebody shared a file.
    File {
        /// Where it is, and its key.
        file: BlobRef,
        /// Who, when and where.
        message: Message,
    },
    /// A frame of a kind that this library does not know.
    Other(Message),
    /// The room's members, or its key, changed.
    Membership(MembershipChange),
    /// A frame that can't be read.
    Undecryptable(Undecryptable),
    /// What was in the room's stream when the subscription began has been delivered. Rooms without a
    /// stream say so at once.
    CaughtUp,
    /// This identity is no member any more. Nothing follows.
    Gone {
        /// The server's words.
        words: String,
    },
}

impl Event {
    /// The frame's place in the room's stream, for events that have one: what
    /// [`Start::After`](crate::Start::After) takes. Example: [`Event`].
    #[must_use]
    pub fn seq(&self) -> Option<u64> {
        match self {
            Self::Message(message)
            | Self::Reaction { message, .. }
            | Self::File { message, .. }
            | Self::Other(message) => message.seq,
            Self::Undecryptable(frame) => frame.seq,
            _ => None,
        }
    }

    /// The message of events that have one. Example: [`Event`].
    #[must_use]
    pub fn message(&self) -> Option<&Message> {
        match self {
            Self::Message(message)
            | Self::Reaction { message, .. }
            | Self::File { message, .. }
            | Self::Other(message) => Some(message),
            _ => None,
        }
    }
}

/// A frame whose signature was verified and whose payload was decrypted. `Debug` shows no payload.
///
/// ```
/// use unibus_client::Message;
/// use unibus_client::rooms::frame::FrameKind;
/// # use unibus_client::Identity;
/// # use unibus_client::rooms::frame::{FrameId, Header};
/// # let me = Identity::generate()?;
/// # let header = Header {
/// #     id: FrameId::new(1_000, [7; 10]),
/// #     room: "kitchen".parse()?,
/// #     epoch: 1,
/// #     from: me.endpoint().clone(),
/// #     kind: FrameKind::message(),
/// #     sent_ms: 1_000,
/// #     thread: None,
/// #     reply_to: None,
/// # };
/// # let message = Message { header, payload: b"tea is ready".to_vec().into(), seq: Some(7), stored_ms: Some(1_003) };
/// // `message` is what an event holds.
/// assert_eq!((message.from(), message.text().as_ref()), (me.endpoint(), "tea is ready"));
/// assert_eq!((message.kind(), message.thread()), (&FrameKind::message(), None));
/// assert_eq!(message.id(), message.header.id); // what a reply or a reaction names
/// assert!(!format!("{message:?}").contains("tea is"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Message {
    /// Everything but the payload.
    pub header: Header,
    /// What was said, in cleartext.
    pub payload: Zeroizing<Vec<u8>>,
    /// Its place in the room's stream; `None` in rooms without one.
    pub seq: Option<u64>,
    /// When the stream stored it, as the servers say, in Unix milliseconds; `None` in rooms without one. Long
    /// after `header.sent_ms` it is not the first time: whoever has a frame can publish it again.
    pub stored_ms: Option<u64>,
}

impl Message {
    /// Its id. Example: [`Message`].
    #[must_use]
    pub fn id(&self) -> FrameId {
        self.header.id
    }

    /// Who sent it. Example: [`Message`].
    #[must_use]
    pub fn from(&self) -> &EndpointId {
        &self.header.from
    }

    /// What kind of frame it is. Example: [`Message`].
    #[must_use]
    pub fn kind(&self) -> &FrameKind {
        &self.header.kind
    }

    /// The payload as text; what is no UTF-8 is replaced. Example: [`Message`].
    #[must_use]
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.payload)
    }

    /// The frame that its thread began with. Example: [`Message`].
    #[must_use]
    pub fn thread(&self) -> Option<FrameId> {
        self.header.thread
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("header", &self.header)
            .field("payload_bytes", &self.payload.len())
            .field("seq", &self.seq)
            .finish()
    }
}

/// What changed about a room's members or key. Verified, not believed: what the server says and
/// can't prove is [`MembershipChange::Invented`].
///
/// ```
/// use unibus_client::MembershipChange;
///
/// fn line(change: &MembershipChange) -> String {
///     match change {
///         MembershipChange::Joined(who) => format!("{who} is here"),
///         MembershipChange::Left(who) => format!("{who} is gone"),
///         MembershipChange::Rekeyed { epoch } => format!("a new key, the {epoch}th"),
///         MembershipChange::Invented { endpoint, reason } => format!("beware of {endpoint}: {reason}"),
///         other => format!("{other:?}"),
///     }
/// }
/// assert_eq!(line(&MembershipChange::Rekeyed { epoch: 4 }), "a new key, the 4th");
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum MembershipChange {
    /// The owner has invited somebody.
    Invited(EndpointId),
    /// Somebody has accepted the invitation.
    Joined(EndpointId),
    /// Somebody has left or was removed.
    Left(EndpointId),
    /// The room has a new key: whoever left before can't read what follows.
    Rekeyed {
        /// The new epoch.
        epoch: u64,
    },
    /// The room needs a new key before anybody may speak.
    NeedsRekey,
    /// The server calls somebody a member whom nobody has admitted. It got no key.
    Invented {
        /// What the server calls it.
        endpoint: EndpointId,
        /// What gives it away.
        reason: InventedReason,
    },
    /// What the server says about the room itself can't be trusted; nothing of it was taken over.
    Untrusted(RosterError),
}

/// A frame that can't be read.
///
/// ```
/// use unibus_client::{Undecryptable, Unreadable};
/// // What was said before this identity was invited, in a room whose history is closed.
/// let frame = Undecryptable { reason: Unreadable::NoKey(1), claims: None, seq: Some(3) };
/// assert_eq!(frame.reason.to_string(), "there is no key of epoch 1 for you");
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Undecryptable {
    /// Why.
    pub reason: Unreadable,
    /// What it claims to be, if it is a frame at all. None of it is proven.
    pub claims: Option<Box<Header>>,
    /// Its place in the room's stream.
    pub seq: Option<u64>,
}

/// Why a frame can't be read. Example: [`Undecryptable`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// It is garbled, its signature does not fit, or it can't be decrypted.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// It says that it belongs to another room.
    #[error("it was made for another room")]
    OtherRoom,
    /// It is in cleartext where the room's policy says encrypted, or the reverse.
    #[error("it does not follow the room's policy of encryption")]
    Policy,
    /// Its sender is and was no verified member.
    #[error("its sender is no member of the room")]
    UnknownSender,
    /// Its sender had left before this epoch began.
    #[error("its sender had left the room before")]
    SenderHadLeft,
    /// This identity has no key of its epoch: it was sent before this identity came.
    #[error("there is no key of epoch {0} for you")]
    NoKey(u64),
    /// The servers can't be asked for what is missing.
    #[error("what is needed to read it can't be fetched now: {0}")]
    Unreachable(String),
}

/// A room as [`Session::list_my_rooms`](crate::Session::list_my_rooms) shows it: what the server
/// says, not verified. Example: [`Session::list_my_rooms`](crate::Session::list_my_rooms).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MyRoom {
    /// Its id.
    pub id: RoomId,
    /// Where its messages are published.
    pub subject: RoomSubject,
    /// The current epoch.
    pub epoch: u64,
    /// How it treats messages.
    pub policy: Policy,
    /// What this identity may do there.
    pub role: MemberRole,
    /// Whether this identity has joined; an invitation otherwise.
    pub joined: bool,
    /// Somebody has gone and the owner has not rekeyed it yet.
    pub needs_rekey: bool,
}

/// What a watch of one's rooms tells. Example: [`Session::watch_rooms`](crate::Session::watch_rooms).
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RoomsChange {
    /// This identity belongs to a room that it did not belong to before: an invitation, if it has
    /// not joined.
    Added(MyRoom),
    /// What is said of a room has changed, such as that this identity has joined.
    Changed(MyRoom),
    /// This identity belongs to the room no more.
    Removed(RoomId),
}
