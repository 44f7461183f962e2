//! The ports of the broker: what the node above it implements.
//!
//! Owns the traits for authentication and for in-process services, and the types they speak in. Must
//! never name raft, storage or a concrete service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use futures::future::BoxFuture;
use thiserror::Error;
use tokio::sync::watch;
use unibus_proto::handshake::ConnectOptions;
use unibus_proto::permissions::Permissions;

use crate::certificate::CertificateIdentity;
use crate::report::{ConnectionKind, ConnectionReport};

/// Decides who a connecting client is and what it may do.
pub trait Authenticator: Send + Sync + 'static {
    /// Called on the connection's task for every CONNECT, and once without one when the client's first
    /// operation is something else. Must not block: what takes long is [`Decision::Later`].
    fn authenticate(&self, request: &AuthRequest<'_>) -> Decision;
}

/// What an authenticator says. A refused client reads the [`AuthError`]'s text and is closed.
pub enum Decision {
    /// At once.
    Now(Result<Admission, AuthError>),
    /// When the future is done. Until then the connection reads nothing more, and its authentication
    /// timeout holds. The future bounds its own work: it may be dropped at any time.
    Later(BoxFuture<'static, Result<Admission, AuthError>>),
}

impl std::fmt::Debug for Decision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Now(decided) => f.debug_tuple("Now").field(decided).finish(),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}

impl From<Result<Admission, AuthError>> for Decision {
    fn from(decided: Result<Admission, AuthError>) -> Self {
        Self::Now(decided)
    }
}

/// What a client presents.
#[derive(Debug)]
pub struct AuthRequest<'a> {
    /// The CONNECT options, with credentials.
    pub connect: &'a ConnectOptions,
    /// The nonce this connection's INFO carried; empty when it carried none.
    pub nonce: &'a str,
    /// The address the client connected from.
    pub peer: SocketAddr,
    /// Whether the connection is inside TLS.
    pub tls: bool,
    /// The names in the client's certificate, where the listener maps certificates to users: then one of
    /// them has to be a user's, and it is that user.
    pub certificate: Option<&'a CertificateIdentity>,
    /// How the client talks to the node.
    pub kind: ConnectionKind,
}

/// Who an admitted client is.
#[derive(Debug)]
pub struct Admission {
    /// The public nkey (`U…`), when the client has one.
    pub identity: Option<Arc<str>>,
    /// The user's name, for reports.
    pub user: Option<Arc<str>>,
    /// The account that the client belongs to; `None` = `$G`.
    pub account: Option<Arc<str>>,
    /// Whether this is the node itself: services see it in [`Origin`].
    pub internal: bool,
    /// What the client may do. The connection follows it live: see [`Grant`].
    pub grant: watch::Receiver<Grant>,
    /// What this user may not exceed, besides the node's own limits.
    pub limits: UserLimits,
    /// When the credentials end: the connection is closed with `User Authentication Expired` then.
    pub expires_at: Option<SystemTime>,
}

impl Admission {
    /// Somebody without a name, in `$G`, who may do what `grant` says.
    #[must_use]
    pub fn new(grant: watch::Receiver<Grant>) -> Self {
        Self {
            identity: None,
            user: None,
            account: None,
            internal: false,
            grant,
            limits: UserLimits::default(),
            expires_at: None,
        }
    }
}

/// Limits of one user. `None` = only the node's own limit holds; a larger value doesn't widen that.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct UserLimits {
    /// Subscriptions of one connection.
    pub subscriptions_max: Option<usize>,
    /// Headers and payload of one message, in bytes.
    pub payload_bytes_max: Option<usize>,
    /// Open connections of this user.
    pub connections_max: Option<usize>,
}

impl UserLimits {
    /// The smaller of both limits; `connections_max` counts something else for each and stays.
    pub(crate) fn within(self, other: Self) -> Self {
        let smaller = |own: Option<usize>, other: Option<usize>| match (own, other) {
            (Some(own), Some(other)) => Some(own.min(other)),
            (own, other) => own.or(other),
        };
        Self {
            subscriptions_max: smaller(self.subscriptions_max, other.subscriptions_max),
            payload_bytes_max: smaller(self.payload_bytes_max, other.payload_bytes_max),
            connections_max: self.connections_max,
        }
    }
}

/// What a client may do at the moment.
#[derive(Clone, Debug)]
pub enum Grant {
    /// These permissions hold. When they change, subscriptions that they no longer allow are removed.
    Active(Arc<Permissions>),
    /// The identity was revoked: the connection is closed with `User Authentication Revoked`.
    Revoked,
    /// More is allowed than the connection has been refused meanwhile: it is closed with `Stale Connection`, and
    /// its client connects and subscribes anew, as every client library does by itself then. Final: what is
    /// granted afterwards is another channel's.
    Anew,
}

/// Why a client is not admitted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
pub enum AuthError {
    /// Missing or wrong credentials: `-ERR 'Authorization Violation'`.
    #[error("Authorization Violation")]
    Refused,
    /// The credentials were right once: `-ERR 'User Authentication Expired'`.
    #[error("User Authentication Expired")]
    Expired,
    /// The identity was revoked: `-ERR 'User Authentication Revoked'`.
    #[error("User Authentication Revoked")]
    Revoked,
}

impl AuthError {
    /// The `-ERR` text.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Refused => "Authorization Violation",
            Self::Expired => "User Authentication Expired",
            Self::Revoked => "User Authentication Revoked",
        }
    }
}

/// Hears of connections that come and go. Called on the connection's task: must not block. It may
/// publish.
pub trait Events: Send + Sync + 'static {
    /// A client was admitted (again, when it sent CONNECT again).
    fn connected(&self, connection: &ConnectionReport) {
        let _ = connection;
    }

    /// A client that had been admitted is gone; `reason` and `stop` are set.
    fn disconnected(&self, connection: &ConnectionReport) {
        let _ = connection;
    }

    /// A client was refused with this `-ERR` text.
    fn auth_failed(&self, connection: &ConnectionReport, text: &str) {
        let _ = (connection, text);
    }
}

/// An in-process consumer of what this node's own clients publish, such as stream capture.
///
/// It never sees messages that came over a route: the node they were published at captured them.
pub trait Service: Send + Sync + 'static {
    /// Takes one message. Runs on the publishing connection's task, in publish order, with the
    /// subscription table locked for reading: it must not block, await, or call a [`crate::Broker`]
    /// method that subscribes. `Broker::publish`, `add_service` and `remove_service` are fine.
    ///
    /// Returns false when the message is not taken: then it does not count as a receiver, and a
    /// request nobody else took is answered with *no responders*.
    fn deliver(&self, message: &Inbound<'_>) -> bool;

    /// Back-pressure: `None` = ready; otherwise the connection awaits the future before its next read.
    fn ready(&self) -> Option<BoxFuture<'static, ()>> {
        None
    }
}

/// A message as a service sees it. Borrowed from the publisher's read buffer.
#[derive(Clone, Copy, Debug)]
pub struct Inbound<'a> {
    /// The subject it was published to.
    pub subject: &'a [u8],
    /// Where an answer goes.
    pub reply: Option<&'a [u8]>,
    /// Bytes of `data` that are the header block; 0 = no headers.
    pub header_len: usize,
    /// Header block and payload.
    pub data: &'a [u8],
    /// Who published it.
    pub origin: &'a Origin,
}

/// Who published a message.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The connection's number in this process; 0 = the node itself.
    pub connection: u64,
    /// Whether the node itself published it (an internal publish or an internal identity).
    pub internal: bool,
    /// The public nkey (`U…`) of the publisher, when it has one.
    pub identity: Option<Arc<str>>,
    /// The account's name; `None` = `$G`.
    pub account: Option<Arc<str>>,
    /// What the publisher may do; `None` = everything.
    pub permissions: Option<Arc<Permissions>>,
}

impl Origin {
    /// Whether the publisher may itself publish to the literal `subject`. For services that publish
    /// somewhere on its behalf, such as where a consumer delivers to.
    #[must_use]
    pub fn may_publish(&self, subject: &[u8]) -> bool {
        let permissions = self.permissions.as_deref();
        self.internal || permissions.is_none_or(|p| p.can_publish(subject))
    }

    /// Whether an answer may go to the literal `subject`: the publisher could have it sent there, or
    /// receive it there itself. Clients that may publish only requests have inboxes all the same.
    #[must_use]
    pub fn may_be_answered_at(&self, subject: &[u8]) -> bool {
        let permissions = self.permissions.as_deref();
        self.may_publish(subject) || permissions.is_none_or(|p| p.can_subscribe(subject, None))
    }
}

/// A message published from inside the node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Publication<'a> {
    /// Decides who receives it.
    pub subject: &'a [u8],
    /// The subject that receivers see, when it differs (JetStream delivers with the stream's subject).
    pub shown: Option<&'a [u8]>,
    /// The reply subject that receivers see. Reserved prefixes are allowed here.
    pub reply: Option<&'a [u8]>,
    /// Bytes of `data` that are the header block; 0 = no headers.
    pub header_len: usize,
    /// Header block and payload.
    pub data: &'a [u8],
    /// Whether services (streams) may take it too.
    pub capture: bool,
    /// For this node's subscribers only: every node publishes its own.
    pub local: bool,
}
