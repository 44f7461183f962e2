//! From the bytes of a frame to an event: decoded, its sender looked up and verified, decrypted. What is
//! missing is asked for once; what can't be read is an event that says why.

use std::time::Instant;

use unibus_proto::control::SignPublic;
use zeroize::Zeroizing;

use super::Inner;
use super::rooms::Room;
use crate::error::Error;
use crate::event::{Event, Message, Undecryptable, Unreadable};
use crate::rooms::blob::BlobRef;
use crate::rooms::frame::{Frame, FrameKind, Header, SignedFrame};

/// How a frame came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Came {
    /// Its place in the room's stream.
    pub(super) seq: Option<u64>,
    /// When the stream stored it, in Unix milliseconds.
    pub(super) stored_ms: Option<u64>,
    /// It was said before this: whoever has looked at the room since then has seen what there is to it.
    pub(super) known: Instant,
}

/// Where and when a stream stored a message.
pub(super) fn stored(message: &async_nats::jetstream::Message) -> Option<(u64, Option<u64>)> {
    let info = message.info().ok()?;
    let ms = info.published.unix_timestamp_nanos() / 1_000_000;
    Some((info.stream_sequence, u64::try_from(ms).ok()))
}

impl Inner {
    /// What a frame says.
    pub(super) async fn read(&self, room: &Room, bytes: &[u8], came: Came) -> Event {
        let Came {
            seq,
            stored_ms,
            known,
        } = came;
        let signed = match SignedFrame::decode(bytes) {
            Ok(signed) => signed,
            Err(error) => {
                return Event::Undecryptable(Undecryptable {
                    reason: error.into(),
                    claims: None,
                    seq,
                });
            }
        };
        match self.open(room, &signed, known).await {
            Ok(payload) => event(Message {
                header: signed.claims().clone(),
                payload,
                seq,
                stored_ms,
            }),
            Err(reason) => Event::Undecryptable(Undecryptable {
                reason,
                claims: Some(Box::new(signed.claims().clone())),
                seq,
            }),
        }
    }

    async fn open(
        &self,
        room: &Room,
        signed: &SignedFrame,
        known: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
        let header = signed.claims();
        if header.room != room.id {
            return Err(Unreadable::OtherRoom);
        }
        let (policy, epoch) = room
            .with(|known| (known.record.policy, known.record.epoch))
            .map_err(|error| unreachable(&error))?;
        if policy.encrypted != (header.epoch > 0) {
            return Err(Unreadable::Policy);
        }
        if header.epoch > epoch {
            let looked = self.look_since(room, known).await;
            looked.map_err(|error| unreachable(&error))?;
        }
        let sender = self.sender(room, header, known).await?;
        let frame = signed.verify(&sender)?;
        if policy.encrypted {
            self.decrypt(room, frame).await
        } else {
            Ok(Zeroizing::new(frame.payload().to_vec()))
        }
    }

    /// The sender's key. Somebody unknown may have come since, or have gone long ago; of somebody who has gone
    /// it may not be known for certain when.
    async fn sender(
        &self,
        room: &Room,
        header: &Header,
        known: Instant,
    ) -> Result<SignPublic, Unreadable> {
        let find = || {
            room.with(|known| known.sender(&header.from, header.epoch))
                .unwrap_or_else(|error| Err(unreachable(&error)))
        };
        let is_final = |found: &Result<_, _>| {
            let missing = Unreadable::UnknownSender;
            !matches!(found, Err(reason) if *reason == missing || *reason == Unreadable::SenderHadLeft)
        };
        let found = find();
        if is_final(&found) {
            return found;
        }
        let looked = self.look_since(room, known).await;
        looked.map_err(|error| unreachable(&error))?;
        let found = find();
        if is_final(&found) {
            return found;
        }
        let looked = self.look_for_former(room, known).await;
        looked.map_err(|error| unreachable(&error))?;
        find()
    }

    async fn decrypt(&self, room: &Room, frame: &Frame) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
        let epoch = frame.header().epoch;
        let key = match self.key(room, epoch).await {
            Ok(key) => key,
            Err(Error::NoKey { .. } | Error::Seal(_)) => return Err(Unreadable::NoKey(epoch)),
            Err(error) => return Err(unreachable(&error)),
        };
        Ok(frame.open(&key)?)
    }
}

fn unreachable(error: &Error) -> Unreadable {
    Unreadable::Unreachable(error.to_string())
}

/// The typed form of a message. What claims to be a reaction or a file and is none is delivered as it is.
fn event(message: Message) -> Event {
    let kind = message.kind();
    if *kind == FrameKind::message() {
        return Event::Message(message);
    }
    if *kind == FrameKind::reaction()
        && let Some(to) = message.header.reply_to
        && let Ok(reaction) = std::str::from_utf8(&message.payload)
    {
        return Event::Reaction {
            to,
            reaction: reaction.to_owned(),
            message,
        };
    }
    if *kind == FrameKind::file()
        && let Ok(file) = BlobRef::decode(&message.payload)
    {
        return Event::File { file, message };
    }
    Event::Other(message)
}
