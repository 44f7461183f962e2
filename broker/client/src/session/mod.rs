//! A session: one identity's connection to both planes of a unibus. Opens and keeps the connection;
//! what it can do stands in the modules beside this one.

mod files;
mod history;
mod listen;
mod membership;
mod notices;
mod read;
mod refused;
mod rooms;
mod speak;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{ServerError, jetstream};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use unibus_proto::control::{MemberRole, MyRoom as ServersRoom, RoomId};

use crate::control::{Ask, Control};
use crate::error::Error;
use crate::event::MyRoom;
use crate::identity::Identity;
use crate::memory::Memory;
use crate::options::Options;

pub use files::{FileInfo, Progress};
pub use history::{HistoryPage, HistoryQuery, ThreadSummary};
pub use listen::{Start, Subscription};
pub use membership::NewRoom;
pub use notices::RoomsWatch;
pub use rooms::RoomInfo;
pub use speak::{Sent, Speech};

use refused::Refused;
use rooms::Room;

/// Longest pause between attempts to reconnect.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(500);
/// How often an idle connection is probed: two probes without an answer end it.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// How long one request on the message plane may take before it is made again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// A connection to a unibus as one identity. Cheap to clone; ends when the last clone is dropped.
///
/// ```no_run
/// use unibus_client::{Identity, Options, Session};
///
/// #[tokio::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let me = Identity::load("me.json".as_ref())?;
///     let options = Options::new().server("https://n0:8470", "tls://n0:4222").ca("ca.crt");
///     let session = Session::connect(me, options).await?;
///     println!("connected as {}", session.identity().endpoint());
///     for room in session.list_my_rooms().await? {
///         println!("{} on {}", room.id, room.subject);
///     }
///     session.close().await;
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Session {
    inner: Arc<Inner>,
    _end: Arc<DropGuard>,
}

/// What the parts of a session share.
#[derive(Debug)]
struct Inner {
    identity: Arc<Identity>,
    options: Options,
    control: Control,
    nats: async_nats::Client,
    jetstream: jetstream::Context,
    rooms: Mutex<HashMap<RoomId, Arc<Room>>>,
    memory: Option<Arc<Memory>>,
    /// Counts connections: everything that lives on one is made anew when it changes.
    connections: watch::Receiver<u64>,
    /// Tells which subscriptions the server refuses or withdraws.
    refused: Refused,
    /// Counts hints that the rooms of this identity may have changed.
    stirred: watch::Sender<u64>,
    closing: CancellationToken,
}

impl Session {
    /// Connects to both planes as `identity`, which an admin must have added to the users.
    /// Example: [`Session`].
    ///
    /// # Errors
    /// [`Error::Options`] for options that are not secure or can't be used, or a memory that is damaged,
    /// [`Error::Unreachable`]
    /// and [`Error::Messages`] where no server lets the identity in.
    pub async fn connect(
        identity: impl Into<Arc<Identity>>,
        options: Options,
    ) -> Result<Self, Error> {
        options.check()?;
        let memory = options.memory.as_deref().map(Memory::open).transpose()?;
        let memory = memory.map(Arc::new);
        let identity = identity.into();
        let control = Control::new(&options, Arc::clone(&identity))?;
        let refused = Refused::default();
        let opening = open_messages(&options, Arc::clone(&identity), refused.clone());
        let (nats, connections) = opening.await?;
        let mut jetstream = jetstream::new(nats.clone());
        jetstream.set_timeout(REQUEST_TIMEOUT);
        let closing = CancellationToken::new();
        let inner = Arc::new(Inner {
            identity,
            options,
            control,
            nats,
            jetstream,
            rooms: Mutex::default(),
            memory,
            connections,
            refused,
            stirred: watch::channel(0).0,
            closing: closing.clone(),
        });
        // The server's word that this identity is a user, before anything relies on it.
        inner.list().await?;
        notices::start(&inner);
        Ok(Self {
            inner,
            _end: Arc::new(closing.drop_guard()),
        })
    }

    /// The identity of this session. Example: [`Session`].
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// The rooms that this identity belongs to or is invited to, by id. What the server says: using a
    /// room verifies it.
    ///
    /// ```no_run
    /// use unibus_client::MyRoom;
    /// # async fn run(session: unibus_client::Session) -> Result<(), unibus_client::Error> {
    /// let rooms: Vec<MyRoom> = session.list_my_rooms().await?;
    /// let invitations = rooms.iter().filter(|room| !room.joined);
    /// println!("{} rooms, {} of them invitations", rooms.len(), invitations.count());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As every call: [`Error::Refused`], [`Error::Unreachable`].
    pub async fn list_my_rooms(&self) -> Result<Vec<MyRoom>, Error> {
        self.inner.list().await
    }

    /// Connects anew and looks at every room again. Servers follow membership live; this is for those
    /// that froze permissions when a client connected.
    ///
    /// ```no_run
    /// # async fn run(session: unibus_client::Session) -> Result<(), unibus_client::Error> {
    /// session.refresh_session().await?; // such as when the application comes back from the background
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Messages`] where the connection can't be made anew.
    pub async fn refresh_session(&self) -> Result<(), Error> {
        let inner = &self.inner;
        let mut connections = inner.connections.clone();
        connections.mark_unchanged();
        let asked = inner.nats.force_reconnect().await;
        asked.map_err(|error| Error::messages("reconnecting", error))?;
        let connected = tokio::time::timeout(inner.options.call_timeout, connections.changed());
        if !matches!(connected.await, Ok(Ok(()))) {
            return Err(Error::messages("reconnecting", "no server let us in"));
        }
        inner.look_again().await;
        Ok(())
    }

    /// Ends the session: subscriptions end, nothing is sent any more. Example: [`Session`].
    pub async fn close(&self) {
        self.inner.closing.cancel();
        // What was published is flushed; a connection that is gone already has nothing to flush.
        drop(self.inner.nats.drain().await);
    }

    /// The connection to the message plane, for what rooms are not for. Permissions are those of the
    /// identity.
    ///
    /// ```no_run
    /// # async fn run(session: unibus_client::Session) -> Result<(), Box<dyn std::error::Error>> {
    /// // Not a room's: in cleartext, as any NATS client publishes.
    /// session.nats().publish("kitchen.temperature", "21".into()).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn nats(&self) -> &async_nats::Client {
        &self.inner.nats
    }
}

impl Inner {
    fn endpoint(&self) -> &unibus_proto::control::EndpointId {
        self.identity.endpoint()
    }

    async fn list(&self) -> Result<Vec<MyRoom>, Error> {
        let uri = format!("/members/{}/rooms", self.endpoint());
        let rooms: Vec<ServersRoom> = self.control.call(Ask::get(uri)).await?;
        Ok(rooms.into_iter().map(my_room).collect())
    }
}

fn my_room(room: ServersRoom) -> MyRoom {
    MyRoom {
        id: room.room_id,
        subject: room.subject,
        epoch: room.epoch,
        policy: room.policy,
        role: room.role,
        joined: room.joined || room.role == MemberRole::Owner,
        needs_rekey: room.needs_rekey,
    }
}

/// Connects to the message plane. The seed stays here: the library that speaks NATS is given
/// signatures only.
async fn open_messages(
    options: &Options,
    identity: Arc<Identity>,
    refused: Refused,
) -> Result<(async_nats::Client, watch::Receiver<u64>), Error> {
    let (connected, connections) = watch::channel(0);
    let prove = move |nonce: Vec<u8>| {
        let mut auth = async_nats::Auth::new();
        auth.nkey = Some(identity.nkey());
        let proof = identity.signing().answer_nonce(&nonce);
        std::future::ready(proof.map_err(async_nats::AuthError::new).map(|proof| {
            auth.signature = Some(proof.to_vec());
            auth
        }))
    };
    let mut connecting = async_nats::ConnectOptions::with_auth_callback(prove)
        .name(&options.name)
        .connection_timeout(options.connect_timeout)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .ping_interval(PING_INTERVAL)
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| {
            let pause = Duration::from_millis(50)
                .saturating_mul(u32::try_from(attempts).unwrap_or(u32::MAX));
            pause.min(RECONNECT_PAUSE_MAX)
        })
        .event_callback(move |event| {
            match event {
                async_nats::Event::Connected => connected.send_modify(|count| *count += 1),
                async_nats::Event::ServerError(ServerError::Other(words)) => refused.note(&words),
                other => tracing::debug!(event = %other, "message plane"),
            }
            std::future::ready(())
        });
    if let Some(ca) = &options.ca {
        // With a file of certificates no other roots are trusted.
        connecting = connecting
            .add_root_certificates(ca.clone())
            .require_tls(true);
    }
    let client = connecting.connect(&options.nats[..]).await;
    let client = client.map_err(|error| {
        let cause = crate::control::chain(&error);
        Error::messages("connecting to the message plane", cause)
    })?;
    Ok((client, connections))
}
