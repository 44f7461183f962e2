//! A session: everything that an application does.

use std::sync::Arc;

use tokio::fs::{self, File};
use tokio::sync::Mutex;
use unibus_client::rooms::blob::BlobRef;
use unibus_client::{FileInfo, NewRoom};
use unibus_proto::control::{EndpointId, RoomId};

use crate::error::{BusError, parse};
use crate::events::{HistoryPage, MyRoom};
use crate::identity::Identity;
use crate::options::{ConnectOptions, HistoryPart, RoomInfo, RoomPolicy, Sent, Speech, StartAt};
use crate::subscription::{RoomsWatch, Subscription};

/// Largest file that is handed over in memory, in bytes; larger ones go by path.
const BLOB_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A connection to a bus as one identity. It reconnects by itself, fails over between nodes, and sends
/// again what was not acknowledged.
#[derive(Debug, uniffi::Object)]
pub struct Session {
    inner: unibus_client::Session,
}

#[uniffi::export(async_runtime = "tokio")]
impl Session {
    /// Connects to both planes.
    ///
    /// # Errors
    /// [`BusError::Invalid`] for options that are not secure, [`BusError::Unreachable`] and
    /// [`BusError::Refused`] where no server lets the identity in.
    #[uniffi::constructor]
    pub async fn connect(
        identity: Arc<Identity>,
        options: ConnectOptions,
    ) -> Result<Arc<Self>, BusError> {
        let identity = Arc::clone(&identity.inner);
        let connecting = unibus_client::Session::connect(identity, options.into());
        let inner = Box::pin(connecting).await?;
        Ok(Arc::new(Self { inner }))
    }

    /// The endpoint of this session's identity.
    pub fn endpoint(&self) -> String {
        self.inner.identity().endpoint().to_string()
    }

    /// Creates a room that this identity owns; answers with its id.
    ///
    /// # Errors
    /// [`BusError::Refused`] where the subject is taken or not allowed.
    pub async fn create_room(
        &self,
        subject: String,
        policy: RoomPolicy,
    ) -> Result<String, BusError> {
        let room = NewRoom::new(parse(&subject)?).policy(policy.into());
        Ok(Box::pin(self.inner.create_room(room)).await?.to_string())
    }

    /// Invites somebody by contact, to a room of this identity.
    ///
    /// # Errors
    /// [`BusError::Invalid`] where that is no contact, and as every call.
    pub async fn invite(&self, room: String, contact: String) -> Result<(), BusError> {
        let party = unibus_client::Identity::parse_contact(&contact);
        let party = party.map_err(|error| BusError::invalid(format!("no contact: {error}")))?;
        Ok(Box::pin(self.inner.invite(&id(&room)?, &party)).await?)
    }

    /// Accepts an invitation.
    ///
    /// # Errors
    /// [`BusError::Refused`] where there is none, [`BusError::Untrusted`] where the room does not verify.
    pub async fn join(&self, room: String) -> Result<(), BusError> {
        Ok(Box::pin(self.inner.join(&id(&room)?)).await?)
    }

    /// Leaves a room, or declines its invitation.
    ///
    /// # Errors
    /// [`BusError::Refused`]: an owner can't leave its own room.
    pub async fn leave(&self, room: String) -> Result<(), BusError> {
        Ok(Box::pin(self.inner.leave(&id(&room)?)).await?)
    }

    /// Removes somebody from a room of this identity, and makes a key that they don't get.
    ///
    /// # Errors
    /// As every call.
    pub async fn remove(&self, room: String, endpoint: String) -> Result<(), BusError> {
        let endpoint: EndpointId = parse(&endpoint)?;
        Ok(Box::pin(self.inner.remove(&id(&room)?, &endpoint)).await?)
    }

    /// Makes a new key for a room of this identity; answers with its number.
    ///
    /// # Errors
    /// As every call.
    pub async fn rekey(&self, room: String) -> Result<u64, BusError> {
        Ok(Box::pin(self.inner.rekey(&id(&room)?)).await?)
    }

    /// Says something. In a room with a stream it is stored on a majority of the nodes then.
    ///
    /// # Errors
    /// [`BusError::NeedsRekey`], [`BusError::NotJoined`], [`BusError::TooLarge`], and as every call.
    pub async fn publish(&self, room: String, speech: Speech) -> Result<Sent, BusError> {
        let speech = unibus_client::Speech::try_from(speech)?;
        let sent = Box::pin(self.inner.publish(&id(&room)?, speech)).await?;
        Ok(sent.into())
    }

    /// Says a text as a reply to a frame.
    ///
    /// # Errors
    /// As `publish`.
    pub async fn reply(&self, room: String, to: String, text: String) -> Result<Sent, BusError> {
        let (room, to) = (id(&room)?, parse(&to)?);
        let sent = Box::pin(self.inner.publish_reply(&room, to, text)).await?;
        Ok(sent.into())
    }

    /// Reacts to a frame, such as with an emoji.
    ///
    /// # Errors
    /// As `publish`.
    pub async fn react(
        &self,
        room: String,
        to: String,
        reaction: String,
    ) -> Result<Sent, BusError> {
        let (room, to) = (id(&room)?, parse(&to)?);
        Ok(Box::pin(self.inner.react(&room, to, &reaction))
            .await?
            .into())
    }

    /// A page of what was said before.
    ///
    /// # Errors
    /// [`BusError::Invalid`] for a room that keeps nothing, and as every call.
    pub async fn history(&self, room: String, part: HistoryPart) -> Result<HistoryPage, BusError> {
        let page = Box::pin(self.inner.history(&id(&room)?, part.into())).await?;
        Ok(page.into())
    }

    /// Listens to a room.
    ///
    /// # Errors
    /// [`BusError::NotJoined`], and as every call.
    pub async fn subscribe(
        &self,
        room: String,
        start: StartAt,
    ) -> Result<Arc<Subscription>, BusError> {
        let inner = Box::pin(self.inner.subscribe(&id(&room)?, start.into())).await?;
        let inner = Mutex::new(inner);
        Ok(Arc::new(Subscription { inner }))
    }

    /// Watches which rooms this identity belongs to: new invitations without polling.
    ///
    /// # Errors
    /// As every call.
    pub async fn watch_rooms(&self) -> Result<Arc<RoomsWatch>, BusError> {
        let inner = Mutex::new(Box::pin(self.inner.watch_rooms()).await?);
        Ok(Arc::new(RoomsWatch { inner }))
    }

    /// The rooms that this identity belongs to or is invited to.
    ///
    /// # Errors
    /// As every call.
    pub async fn list_my_rooms(&self) -> Result<Vec<MyRoom>, BusError> {
        let rooms = Box::pin(self.inner.list_my_rooms()).await?;
        Ok(rooms.into_iter().map(MyRoom::from).collect())
    }

    /// A room and its members, asked anew and verified.
    ///
    /// # Errors
    /// [`BusError::Untrusted`] where the room does not verify, and as every call.
    pub async fn room_info(&self, room: String) -> Result<RoomInfo, BusError> {
        Ok(Box::pin(self.inner.room_info(&id(&room)?)).await?.into())
    }

    /// Encrypts bytes and stores them; answers with the reference, which holds the key.
    ///
    /// # Errors
    /// As every call.
    pub async fn put_blob(
        &self,
        content: Vec<u8>,
        name: Option<String>,
        media_type: Option<String>,
    ) -> Result<String, BusError> {
        let info = FileInfo {
            name,
            media_type,
            size: u64::try_from(content.len()).ok(),
        };
        let stored = Box::pin(self.inner.put_blob(&content[..], info, |_| {})).await?;
        Ok(stored.to_text())
    }

    /// Encrypts a file of any size and stores it; answers with the reference, which holds the key.
    ///
    /// # Errors
    /// [`BusError::Io`] where it can't be read, and as every call.
    pub async fn put_file(
        &self,
        path: String,
        media_type: Option<String>,
    ) -> Result<String, BusError> {
        let file = File::open(&path).await.map_err(|error| io(&path, &error))?;
        let about = file.metadata().await.map_err(|error| io(&path, &error))?;
        let name = std::path::Path::new(&path).file_name();
        let info = FileInfo {
            name: name.map(|name| name.to_string_lossy().into_owned()),
            media_type,
            size: Some(about.len()),
        };
        let stored = Box::pin(self.inner.put_blob(file, info, |_| {})).await?;
        Ok(stored.to_text())
    }

    /// Shares what `put_blob` or `put_file` has stored, in a room.
    ///
    /// # Errors
    /// As `publish`; [`BusError::Invalid`] where that is no reference.
    pub async fn share(&self, room: String, reference: String) -> Result<Sent, BusError> {
        let speech = unibus_client::Speech::file(&blob(&reference)?);
        Ok(Box::pin(self.inner.publish(&id(&room)?, speech))
            .await?
            .into())
    }

    /// Fetches what a reference names, verified and decrypted; at most 64 MiB, larger ones go by
    /// `get_file`.
    ///
    /// # Errors
    /// [`BusError::TooLarge`], [`BusError::Untrusted`] where it is not what was stored, and as every
    /// call.
    pub async fn get_blob(&self, reference: String) -> Result<Vec<u8>, BusError> {
        let file = blob(&reference)?;
        if file.size > BLOB_BYTES_MAX {
            let size = file.size;
            let words = format!("{size} bytes; at most {BLOB_BYTES_MAX} fit: fetch it to a file");
            return Err(BusError::TooLarge { words });
        }
        let mut content = Vec::new();
        Box::pin(self.inner.get_blob(&file, &mut content, |_| {})).await?;
        Ok(content)
    }

    /// Fetches what a reference names to a file that must not be there.
    ///
    /// # Errors
    /// [`BusError::Io`], [`BusError::Untrusted`], and as every call; nothing stays behind then.
    pub async fn get_file(&self, reference: String, path: String) -> Result<(), BusError> {
        let file = blob(&reference)?;
        let mut options = fs::OpenOptions::new();
        let to = options.write(true).create_new(true).open(&path);
        let to = to.await.map_err(|error| io(&path, &error))?;
        let fetched = Box::pin(self.inner.get_blob(&file, to, |_| {})).await;
        if fetched.is_err() {
            // Half a file looks like one; the error that is told is the one that matters.
            drop(fs::remove_file(&path).await);
        }
        Ok(fetched?)
    }

    /// Connects anew and looks at every room again.
    ///
    /// # Errors
    /// [`BusError::Unreachable`] where that can't be done.
    pub async fn refresh_session(&self) -> Result<(), BusError> {
        Ok(Box::pin(self.inner.refresh_session()).await?)
    }

    /// Ends the session: subscriptions end, nothing is sent any more. (`close` is taken: in Kotlin it gives
    /// an object's memory back.)
    pub async fn disconnect(&self) {
        Box::pin(self.inner.close()).await;
    }
}

fn id(room: &str) -> Result<RoomId, BusError> {
    parse(room)
}

fn blob(reference: &str) -> Result<BlobRef, BusError> {
    BlobRef::from_text(reference).map_err(BusError::invalid)
}

fn io(path: &str, error: &std::io::Error) -> BusError {
    let words = format!("{path}: {error}");
    BusError::Io { words }
}
