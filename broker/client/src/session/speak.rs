//! Saying something in a room. What is published in a room with a stream is acknowledged once a
//! majority of the nodes has synced it; it is sent again, without being stored twice, until then.

use std::time::{Duration, Instant};

use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use rand::Rng;
use unibus_proto::control::{Policy, RoomId, RoomSubject, room_stream};

use super::rooms::Room;
use super::{Inner, Session};
use crate::control::unix_ms;
use crate::error::Error;
use crate::rooms::blob::BlobRef;
use crate::rooms::frame::{FRAME_BYTES_MAX, FRAME_OVERHEAD_MAX, Frame, FrameId, FrameKind, Header};
use crate::rooms::message::SALT_BYTES;

/// How long one attempt waits for its acknowledgement.
const ACK_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause between attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// Largest payload, in bytes.
const PAYLOAD_BYTES_MAX: usize = FRAME_BYTES_MAX - FRAME_OVERHEAD_MAX;

/// Something to say: a payload, and where it belongs.
///
/// ```
/// use unibus_client::Speech;
/// use unibus_client::rooms::frame::{FrameId, FrameKind};
/// # use unibus_client::rooms::blob::{BlobHash, BlobKey, BlobRef};
/// # let (root, asked) = (FrameId::new(0, [0; 10]), FrameId::new(1, [0; 10]));
/// # let stored = BlobRef {
/// #     hash: BlobHash::of(b""), key: BlobKey::from_bytes([7; 32]), size: 0, name: None, media_type: None,
/// # };
/// let plain: Speech = "hello".into();
/// let answer = Speech::message("me too").in_thread(root).reply_to(asked);
/// let picture = Speech::file(&stored); // what `put_blob` answered with
/// let own = Speech::of("TEMPERATURE".parse::<FrameKind>()?, 21u8.to_be_bytes());
/// // What somebody says is wiped when it is dropped, and never printed.
/// assert!(!format!("{plain:?}").contains("hello"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Speech {
    kind: FrameKind,
    payload: zeroize::Zeroizing<Vec<u8>>,
    thread: Option<FrameId>,
    reply_to: Option<FrameId>,
}

impl Speech {
    /// A message. Example: [`Speech`].
    #[must_use]
    pub fn message(payload: impl Into<Vec<u8>>) -> Self {
        Self::of(FrameKind::message(), payload)
    }

    /// A frame of a kind of one's own. Example: [`Speech`].
    #[must_use]
    pub fn of(kind: FrameKind, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            payload: zeroize::Zeroizing::new(payload.into()),
            thread: None,
            reply_to: None,
        }
    }

    /// A file that was stored with [`Session::put_blob`]. Example: [`Speech`].
    #[must_use]
    pub fn file(file: &BlobRef) -> Self {
        Self::of(FrameKind::file(), file.encode())
    }

    /// Puts it into the thread that began with `root`. Example: [`Speech`].
    #[must_use]
    pub fn in_thread(mut self, root: FrameId) -> Self {
        self.thread = Some(root);
        self
    }

    /// Makes it a reply to a frame. Example: [`Speech`].
    #[must_use]
    pub fn reply_to(mut self, frame: FrameId) -> Self {
        self.reply_to = Some(frame);
        self
    }
}

impl std::fmt::Debug for Speech {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Speech")
            .field("kind", &self.kind)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

impl From<&str> for Speech {
    fn from(text: &str) -> Self {
        Self::message(text)
    }
}

impl From<String> for Speech {
    fn from(text: String) -> Self {
        Self::message(text)
    }
}

impl From<Vec<u8>> for Speech {
    fn from(payload: Vec<u8>) -> Self {
        Self::message(payload)
    }
}

/// What was sent. Example: [`Session::publish`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sent {
    /// The frame's id: what replies, threads and reactions name.
    pub id: FrameId,
    /// Its place in the room's stream; `None` in rooms without one, where nobody acknowledges.
    pub seq: Option<u64>,
}

impl Session {
    /// Says something in a room: encrypted where the room is, signed always. In a room with a stream
    /// it is stored on a majority of the nodes when this answers.
    ///
    /// ```no_run
    /// use unibus_client::Sent;
    /// # async fn run(session: unibus_client::Session, room: unibus_proto::control::RoomId) -> Result<(), unibus_client::Error> {
    /// let Sent { id, seq } = session.publish(&room, "hello").await?;
    /// println!("stored on a majority of the nodes, at place {seq:?}");
    /// session.react(&room, id, "👍").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NeedsRekey`] where somebody has gone and the key was not changed yet,
    /// [`Error::NotJoined`], [`Error::TooLarge`], and as every call.
    pub async fn publish(&self, room: &RoomId, speech: impl Into<Speech>) -> Result<Sent, Error> {
        let room = self.inner.room(room).await?;
        self.inner.publish(&room, speech.into()).await
    }

    /// Says something as a reply to a frame.
    ///
    /// ```no_run
    /// # async fn run(session: unibus_client::Session, room: unibus_proto::control::RoomId) -> Result<(), unibus_client::Error> {
    /// let question = session.publish(&room, "tea or coffee?").await?;
    /// session.publish_reply(&room, question.id, "tea").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Session::publish`].
    pub async fn publish_reply(
        &self,
        room: &RoomId,
        to: FrameId,
        speech: impl Into<Speech>,
    ) -> Result<Sent, Error> {
        self.publish(room, speech.into().reply_to(to)).await
    }

    /// Reacts to a frame, such as with an emoji. Example: [`Session::publish`].
    ///
    /// # Errors
    /// As [`Session::publish`].
    pub async fn react(&self, room: &RoomId, to: FrameId, reaction: &str) -> Result<Sent, Error> {
        let speech = Speech::of(FrameKind::reaction(), reaction).reply_to(to);
        self.publish(room, speech).await
    }
}

impl Inner {
    async fn publish(&self, room: &Room, speech: Speech) -> Result<Sent, Error> {
        let bytes = speech.payload.len();
        if bytes > PAYLOAD_BYTES_MAX {
            return Err(Error::TooLarge {
                bytes,
                max: PAYLOAD_BYTES_MAX,
            });
        }
        self.may_speak(room).await?;
        let (policy, subject) = room.policy()?;
        let frame = self.frame(room, policy, speech).await?;
        let id = frame.header().id;
        let encoded = Bytes::from(frame.sign(self.identity.signing()));
        let seq = if policy.persisted {
            Some(self.store(room, &subject, id, encoded).await?)
        } else {
            self.send(&subject, encoded).await?;
            None
        };
        Ok(Sent { id, seq })
    }

    /// Whether this identity may speak now. What is known may be out of date, so it is looked at once.
    async fn may_speak(&self, room: &Room) -> Result<(), Error> {
        let me = self.endpoint();
        let judge = || {
            room.with(|known| {
                if known.record.needs_rekey {
                    return Err(Error::NeedsRekey(room.id.clone()));
                }
                match known.roster.member(me) {
                    Some(member) if member.joined => Ok(()),
                    Some(_) => Err(Error::NotJoined(room.id.clone())),
                    None => Err(Error::Invented(me.clone())),
                }
            })?
        };
        if judge().is_ok() {
            return Ok(());
        }
        self.look(room).await?;
        judge()
    }

    async fn frame(&self, room: &Room, policy: Policy, speech: Speech) -> Result<Frame, Error> {
        let now = unix_ms();
        let mut random = [0; 10];
        rand::rng().fill_bytes(&mut random);
        let epoch = room.with(|known| known.record.epoch)?;
        let header = Header {
            id: FrameId::new(now, random),
            room: room.id.clone(),
            epoch,
            from: self.endpoint().clone(),
            kind: speech.kind,
            sent_ms: now,
            thread: speech.thread,
            reply_to: speech.reply_to,
        };
        if !policy.encrypted {
            return Ok(header.plain(speech.payload.to_vec()));
        }
        let key = self.key(room, epoch).await?;
        let mut salt = [0; SALT_BYTES];
        rand::rng().fill_bytes(&mut salt);
        Ok(header.encrypted(&key, salt, &speech.payload))
    }

    async fn send(&self, subject: &RoomSubject, frame: Bytes) -> Result<(), Error> {
        let doing = "publishing";
        let publish = self.nats.publish(subject.to_string(), frame);
        publish
            .await
            .map_err(|error| Error::messages(doing, error))?;
        let flushed = self.nats.flush().await;
        flushed.map_err(|error| Error::messages(doing, error))
    }

    /// Publishes until the stream acknowledges. The frame's id keeps it from being stored twice.
    async fn store(
        &self,
        room: &Room,
        subject: &RoomSubject,
        id: FrameId,
        frame: Bytes,
    ) -> Result<u64, Error> {
        let deadline = Instant::now() + self.options.call_timeout;
        let stream = room_stream(room.id.as_str());
        let mut looked = false;
        loop {
            let publish = PublishMessage::build()
                .payload(frame.clone())
                .message_id(id.to_string())
                .expected_stream(&stream);
            let attempt = async {
                let ack = self.jetstream.send_publish(subject.to_string(), publish);
                ack.await?.await
            };
            let cause = match tokio::time::timeout(ACK_TIMEOUT, attempt).await {
                Ok(Ok(ack)) => return Ok(ack.sequence),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no acknowledgement in time".to_owned(),
            };
            tracing::debug!(room = %room.id, %cause, "publishing again");
            if !looked {
                // Whoever was removed is told so by the control plane; here nothing is said at all.
                looked = true;
                self.look(room).await?;
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(Error::messages("publishing in a room", cause));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
