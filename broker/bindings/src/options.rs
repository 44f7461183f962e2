//! What calls take and answer with, beside events.

use unibus_client::rooms::frame::FrameKind;
use unibus_client::{HistoryQuery, Options, Start};
use unibus_proto::control::{History, MemberRole, Policy};

use crate::error::{BusError, parse};

/// A node.
#[derive(Clone, Debug, Eq, PartialEq, uniffi::Record)]
pub struct Server {
    /// Its control plane: `http://` or `https://`.
    pub control: String,
    /// Its message plane: `nats://` or `tls://`.
    pub nats: String,
}

/// How to reach a bus.
#[derive(Clone, Debug, Eq, PartialEq, uniffi::Record)]
pub struct ConnectOptions {
    /// Its nodes; the session fails over between them.
    pub servers: Vec<Server>,
    /// File of the CA that the nodes' certificates must come from; TLS on both planes is then required.
    #[uniffi(default = None)]
    pub ca_file: Option<String>,
    /// File that keeps what the identity must not forget of its rooms between sessions: who owns them, the
    /// latest epoch, who has gone. Without it each session believes the servers at first.
    #[uniffi(default = None)]
    pub memory_file: Option<String>,
    /// The name that servers show for the connection.
    #[uniffi(default = None)]
    pub name: Option<String>,
    /// Whether rooms of this identity get a new key by themselves when somebody has gone.
    #[uniffi(default = true)]
    pub caretaker: bool,
}

impl From<ConnectOptions> for Options {
    fn from(given: ConnectOptions) -> Self {
        let mut options = Self::new().caretaker(given.caretaker);
        for Server { control, nats } in given.servers {
            options = options.server(control, nats);
        }
        if let Some(ca) = given.ca_file {
            options = options.ca(ca);
        }
        if let Some(memory) = given.memory_file {
            options = options.memory(memory);
        }
        if let Some(name) = given.name {
            options = options.name(name);
        }
        options
    }
}

/// How a room treats messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq, uniffi::Record)]
pub struct RoomPolicy {
    /// End to end; the servers can't read it.
    pub encrypted: bool,
    /// In a stream, with history.
    pub persisted: bool,
    /// Who comes later gets the keys of what was said before.
    pub shared_history: bool,
}

impl From<RoomPolicy> for Policy {
    fn from(policy: RoomPolicy) -> Self {
        let history = if policy.shared_history {
            History::Shared
        } else {
            Self::MATRIX.history
        };
        Self {
            encrypted: policy.encrypted,
            persisted: policy.persisted,
            history,
        }
    }
}

impl From<Policy> for RoomPolicy {
    fn from(policy: Policy) -> Self {
        Self {
            encrypted: policy.encrypted,
            persisted: policy.persisted,
            shared_history: policy.history == History::Shared,
        }
    }
}

/// A room, verified.
#[derive(Clone, Debug, Eq, PartialEq, uniffi::Record)]
pub struct RoomInfo {
    /// Its id.
    pub room: String,
    /// Where its messages are published.
    pub subject: String,
    /// How it treats messages.
    pub policy: RoomPolicy,
    /// Who owns it: compare with whom you expect.
    pub owner: String,
    /// The number of its current key.
    pub epoch: u64,
    /// Nobody may speak until the owner's client has made a new key.
    pub needs_rekey: bool,
    /// Its members, each admitted by the owner.
    pub members: Vec<Member>,
    /// Whom the server calls members and nobody has admitted; they get no key.
    pub invented: Vec<String>,
}

/// A member, verified.
#[derive(Clone, Debug, Eq, PartialEq, uniffi::Record)]
pub struct Member {
    /// 32 hex digits.
    pub endpoint: String,
    /// Whether the room is theirs.
    pub owner: bool,
    /// Whether they have accepted the invitation.
    pub joined: bool,
}

impl From<unibus_client::RoomInfo> for RoomInfo {
    fn from(info: unibus_client::RoomInfo) -> Self {
        let unibus_client::RoomInfo {
            record,
            members,
            invented,
        } = info;
        Self {
            room: record.id.to_string(),
            subject: record.subject.to_string(),
            policy: record.policy.into(),
            owner: record.owner.to_string(),
            epoch: record.epoch,
            needs_rekey: record.needs_rekey,
            members: members
                .into_iter()
                .map(|member| Member {
                    endpoint: member.party.endpoint.to_string(),
                    owner: member.role == MemberRole::Owner,
                    joined: member.joined,
                })
                .collect(),
            invented: invented
                .into_iter()
                .map(|invented| invented.endpoint.to_string())
                .collect(),
        }
    }
}

/// Something to say.
#[derive(Clone, Debug, Eq, PartialEq, uniffi::Record)]
pub struct Speech {
    /// What: UTF-8 where it is a message.
    pub payload: Vec<u8>,
    /// The frame that its thread began with.
    #[uniffi(default = None)]
    pub thread: Option<String>,
    /// The frame that it answers.
    #[uniffi(default = None)]
    pub reply_to: Option<String>,
    /// What it is: upper-case letters, digits and `_`; a message where nothing is said.
    #[uniffi(default = None)]
    pub kind: Option<String>,
}

impl TryFrom<Speech> for unibus_client::Speech {
    type Error = BusError;

    fn try_from(given: Speech) -> Result<Self, BusError> {
        let kind = match &given.kind {
            Some(kind) => parse(kind)?,
            None => FrameKind::message(),
        };
        let mut speech = Self::of(kind, given.payload);
        if let Some(root) = &given.thread {
            speech = speech.in_thread(parse(root)?);
        }
        if let Some(to) = &given.reply_to {
            speech = speech.reply_to(parse(to)?);
        }
        Ok(speech)
    }
}

/// What was sent.
#[derive(Clone, Debug, Eq, PartialEq, uniffi::Record)]
pub struct Sent {
    /// The frame's id: what replies, threads and reactions name.
    pub id: String,
    /// Its place in the room's stream; rooms without one have none.
    pub seq: Option<u64>,
}

impl From<unibus_client::Sent> for Sent {
    fn from(sent: unibus_client::Sent) -> Self {
        Self {
            id: sent.id.to_string(),
            seq: sent.seq,
        }
    }
}

/// Which part of a room's history is wanted; at most 1000 frames.
#[derive(Clone, Copy, Debug, Eq, PartialEq, uniffi::Enum)]
pub enum HistoryPart {
    /// The end.
    Last {
        /// Frames at most.
        limit: u32,
    },
    /// What comes after a place.
    After {
        /// The place; 0 = from the beginning.
        seq: u64,
        /// Frames at most.
        limit: u32,
    },
    /// What comes before a place.
    Before {
        /// The place.
        seq: u64,
        /// Frames at most.
        limit: u32,
    },
}

impl From<HistoryPart> for HistoryQuery {
    fn from(part: HistoryPart) -> Self {
        let frames = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
        match part {
            HistoryPart::Last { limit } => Self::last(frames(limit)),
            HistoryPart::After { seq, limit } => Self::after(seq, frames(limit)),
            HistoryPart::Before { seq, limit } => Self::before(seq, frames(limit)),
        }
    }
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq, uniffi::Enum)]
pub enum StartAt {
    /// With what comes next.
    Now,
    /// With the first frame that is kept.
    Beginning,
    /// After a place.
    After {
        /// The place: `HistoryPage.next`, or the `seq` of the last message that was seen.
        seq: u64,
    },
}

impl From<StartAt> for Start {
    fn from(start: StartAt) -> Self {
        match start {
            StartAt::Now => Self::Now,
            StartAt::Beginning => Self::Beginning,
            StartAt::After { seq } => Self::After(seq),
        }
    }
}
