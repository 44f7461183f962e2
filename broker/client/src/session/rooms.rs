//! The rooms that a session has used: looked up once, verified, and looked at again when a notice, a
//! reconnection or an unknown frame says so. Fetches keys.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::broadcast;
use unibus_proto::control::{
    FormerMember, KeyReply, MemberRecord, Party, Policy, RoomId, RoomRecord, RoomSubject, SealedKey,
};

use super::membership::NewKey;
use super::{Inner, Session};
use crate::control::Ask;
use crate::error::Error;
use crate::event::MembershipChange;
use crate::room::Known;
use crate::rooms::room_key::{KeySlot, RoomKey};
use crate::rooms::roster::{Member, RosterError};

/// Changes that a slow subscriber may be behind; it looks at the room itself when it missed some.
const CHANGES_MAX: usize = 256;
/// A frame that can't be read makes the session look again at most this often.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// After so many looks in a row for the sake of frames, at which nothing was new, the next such look is not
/// waited for.
const IN_VAIN_MAX: u32 = 8;

/// Something that subscribers of a room are told.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Membership(MembershipChange),
    /// The server's words.
    Gone(String),
}

/// A room in use.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) id: RoomId,
    known: Mutex<Option<Known>>,
    /// One look at a time.
    looking: tokio::sync::Mutex<Looks>,
    changes: broadcast::Sender<Change>,
    /// One new key at a time: whoever waits may find that it was made. Holds the one that was sent last, until
    /// it is known to be in force.
    pub(super) rekeying: tokio::sync::Mutex<Option<NewKey>>,
    /// Notices about the room are followed.
    pub(super) followed: std::sync::atomic::AtomicBool,
}

/// When a room was looked at last.
#[derive(Debug, Default)]
struct Looks {
    /// When the last one ended, however it did.
    ended: Option<Instant>,
    /// When the last one began that went well.
    began: Option<Instant>,
    /// How many in a row, for the sake of a frame, have found nothing new.
    in_vain: u32,
    /// When it was asked last, with success, who has left.
    former: Option<Instant>,
}

impl Room {
    fn new(id: RoomId) -> Self {
        Self {
            id,
            known: Mutex::new(None),
            looking: tokio::sync::Mutex::default(),
            changes: broadcast::channel(CHANGES_MAX).0,
            rekeying: tokio::sync::Mutex::default(),
            followed: std::sync::atomic::AtomicBool::new(false),
        }
    }

    /// What is known of the room. Only after [`Inner::room`] has looked.
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Known) -> T) -> Result<T, Error> {
        self.known.lock().as_mut().map(look).ok_or(Error::Closed)
    }

    pub(super) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    pub(super) fn tell(&self, change: Change) {
        // Nobody may be listening.
        drop(self.changes.send(change));
    }

    /// Takes in whom this session has admitted, with the signatures of that, and tells it. A look that is
    /// under way, and may have asked before they were admitted, ends first: it would take them out again.
    pub(super) async fn take_in(&self, admitted: &[(&Party, String)]) -> Result<(), Error> {
        let _none_under_way = self.looking.lock().await;
        for (party, signature) in admitted {
            if let Some(change) = self.with(|known| known.admit(party, signature))? {
                self.tell(Change::Membership(change));
            }
        }
        Ok(())
    }

    pub(super) fn policy(&self) -> Result<(Policy, RoomSubject), Error> {
        self.with(|known| (known.record.policy, known.record.subject.clone()))
    }
}

/// A room as this session has verified it. Example: [`Session::room_info`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RoomInfo {
    /// Its record, signed by its owner.
    pub record: RoomRecord,
    /// Its members, each admitted by the owner, by endpoint.
    pub members: Vec<Member>,
    /// Whom the server calls members and nobody has admitted.
    pub invented: Vec<crate::rooms::roster::Invented>,
}

impl Session {
    /// A room and its members, asked anew and verified.
    ///
    /// ```no_run
    /// use unibus_client::RoomInfo;
    /// # async fn run(session: unibus_client::Session, room: unibus_proto::control::RoomId) -> Result<(), unibus_client::Error> {
    /// let RoomInfo { record, members, invented } = session.room_info(&room).await?;
    /// println!("{} of {}, {} members, epoch {}", record.id, record.owner, members.len(), record.epoch);
    /// assert!(invented.is_empty(), "the server lies: {invented:?}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Roster`] where the room can't be trusted, and as every call.
    pub async fn room_info(&self, room: &RoomId) -> Result<RoomInfo, Error> {
        let room = self.inner.entry(room);
        self.inner.look(&room).await?;
        room.with(|known| RoomInfo {
            record: known.record.clone(),
            members: known.roster.members().cloned().collect(),
            invented: known.roster.invented().to_vec(),
        })
    }
}

impl Session {
    /// The key of an epoch of a room, for applications that keep keys themselves, such as backups of
    /// history. Whoever has it reads that epoch.
    ///
    /// ```no_run
    /// use unibus_client::rooms::room_key::RoomKey;
    /// # async fn run(session: unibus_client::Session, room: unibus_proto::control::RoomId) -> Result<(), unibus_client::Error> {
    /// let epoch = session.room_info(&room).await?.record.epoch;
    /// let key: RoomKey = session.room_key(&room, epoch).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NoKey`] where there is none for this identity.
    pub async fn room_key(&self, room: &RoomId, epoch: u64) -> Result<RoomKey, Error> {
        let room = self.inner.room(room).await?;
        self.inner.key(&room, epoch).await
    }
}

impl Inner {
    /// The room's entry, looked up or not.
    pub(super) fn entry(&self, id: &RoomId) -> Arc<Room> {
        let mut rooms = self.rooms.lock();
        let room = rooms
            .entry(id.clone())
            .or_insert_with(|| Arc::new(Room::new(id.clone())));
        Arc::clone(room)
    }

    /// A room that has been looked at and verified.
    pub(super) async fn room(&self, id: &RoomId) -> Result<Arc<Room>, Error> {
        let room = self.entry(id);
        if room.known.lock().is_none() {
            self.look(&room).await?;
        }
        Ok(room)
    }

    /// Asks for the room's record and members, verifies them, tells what has changed, and fetches the
    /// current key. Whoever waits while others look takes what they see, if they began later than it
    /// asked: hundreds who publish at once, and know nothing yet, look once.
    pub(super) async fn look(&self, room: &Room) -> Result<(), Error> {
        let asked = Instant::now();
        let mut looks = room.looking.lock().await;
        if looks.began.is_some_and(|began| began > asked) {
            return Ok(());
        }
        let began = Instant::now();
        let outcome = self.look_alone(room).await;
        looks.ended = Some(Instant::now());
        if let Ok(changed) = &outcome {
            looks.began = Some(began);
            if *changed {
                looks.in_vain = 0;
            }
        }
        drop(looks);
        if let Err(error) = &outcome {
            self.tell_trouble(room, error);
        }
        outcome.map(drop)
    }

    /// Looks again where the room's own record has changed. That costs the same in every room: members are
    /// not asked for.
    pub(super) async fn look_if_changed(&self, room: &Room) -> Result<(), Error> {
        let asking = self.control.call(Ask::get(format!("/rooms/{}", room.id)));
        let record: RoomRecord = match asking.await {
            Ok(record) => record,
            Err(error) => {
                self.tell_trouble(room, &error);
                return Err(error);
            }
        };
        if room.with(|known| known.record == record)? {
            Ok(())
        } else {
            self.look(room).await
        }
    }

    /// Looks for what a frame needs that was said before `known`, unless a look has begun since. Such looks
    /// keep a pause between them, and it is waited for, since the next frame may be as new; only where nobody
    /// has come or gone and no key was made at several of them in a row, such as where a member floods the
    /// room with frames that nobody can read, is one left out.
    pub(super) async fn look_since(&self, room: &Room, known: Instant) -> Result<(), Error> {
        let looks = room.looking.lock().await;
        if looks.began.is_some_and(|began| began > known) {
            return Ok(());
        }
        let ago = looks.ended.map(|ended| ended.elapsed());
        let left = ago.and_then(|ago| LOOK_PAUSE.checked_sub(ago));
        let in_vain = looks.in_vain;
        drop(looks);
        if let Some(left) = left {
            if in_vain >= IN_VAIN_MAX {
                return Ok(());
            }
            tokio::time::sleep(left).await;
        }
        let version = room.with(|known| known.version)?;
        self.look(room).await?;
        if room.with(|known| known.version)? == version {
            let mut looks = room.looking.lock().await;
            looks.in_vain = looks.in_vain.saturating_add(1);
        }
        Ok(())
    }

    fn tell_trouble(&self, room: &Room, error: &Error) {
        match error {
            Error::Refused { status: 403, words } => {
                self.rooms.lock().remove(&room.id);
                room.tell(Change::Gone(words.clone()));
            }
            Error::Roster(error) | Error::Memory { error, .. } => {
                room.tell(Change::Membership(MembershipChange::Untrusted(
                    error.clone(),
                )));
            }
            _ => {}
        }
    }

    /// Answers whether anything was new.
    async fn look_alone(&self, room: &Room) -> Result<bool, Error> {
        let id = &room.id;
        let record: RoomRecord = self.control.call(Ask::get(format!("/rooms/{id}"))).await?;
        let members = Ask::get(format!("/rooms/{id}/members"));
        let members: Vec<MemberRecord> = self.control.call(members).await?;
        if record.id != *id {
            return Err(RosterError::RoomSignature.into());
        }
        let (epoch, encrypted) = (record.epoch, record.policy.encrypted);
        let changes = {
            let mut known = room.known.lock();
            match known.as_mut() {
                Some(known) => known.update(record, &members)?,
                None => {
                    let (first, changes) = self.meet(record, &members)?;
                    *known = Some(first);
                    changes
                }
            }
        };
        let changed = !changes.is_empty();
        if changed {
            room.with(|known| {
                known.keyless.clear();
                known.version += 1;
            })?;
        }
        for change in changes {
            room.tell(Change::Membership(change));
        }
        // An epoch is remembered when its key was opened: the server's word alone is worth nothing.
        let key = match encrypted {
            true => self.key(room, epoch).await.map(drop),
            false => Ok(()),
        };
        self.remember(room, false).await?;
        match key {
            // Invited to an older epoch, or admitted by nobody: reading says so.
            Ok(()) | Err(Error::NoKey { .. }) => Ok(changed),
            Err(error) => Err(error),
        }
    }

    /// A room that is not known yet, held against what is remembered of it.
    fn meet(
        &self,
        record: RoomRecord,
        members: &[MemberRecord],
    ) -> Result<(Known, Vec<MembershipChange>), Error> {
        let memory = self.memory.as_ref();
        let remembered = memory.and_then(|memory| memory.recall(&record.id));
        let path = memory.filter(|_| remembered.is_some());
        let path = path.map(|memory| memory.path().display().to_string());
        Known::first(record, members, remembered).map_err(|error| match (&error, path) {
            (RosterError::OwnerChanged { .. } | RosterError::EpochWentBack { .. }, Some(path)) => {
                Error::Memory { error, path }
            }
            _ => error.into(),
        })
    }

    /// Keeps what must outlive the session, where a file for it was named; takes what other sessions of this
    /// identity have added, where that has to be `certain`. Answers whether the members have to be looked at
    /// again.
    pub(super) async fn remember(&self, room: &Room, certain: bool) -> Result<bool, Error> {
        let Some(memory) = self.memory.clone() else {
            return Ok(false);
        };
        let given = room.with(|known| known.remember())?;
        let (id, now) = (room.id.clone(), given.clone());
        let kept = tokio::task::spawn_blocking(move || memory.keep(&id, now, certain));
        let now = kept.await.map_err(|_| Error::Closed)??;
        room.with(|known| known.take_memory(&given, now))
    }

    /// Takes an epoch that no key was ever signed for; that it was taken outlives the session. Whoever was a
    /// member when one was signed may have that one, whatever the server said of it.
    pub(super) async fn claim_epoch(&self, room: &Room) -> Result<u64, Error> {
        let Some(memory) = self.memory.clone() else {
            let claimed = room.with(Known::claim_epoch)?;
            return claimed.ok_or_else(|| Error::LastEpoch(room.id.clone()));
        };
        let (given, current) = room.with(|known| (known.remember(), known.record.epoch))?;
        let (id, now) = (room.id.clone(), given.clone());
        let claimed = tokio::task::spawn_blocking(move || memory.claim_epoch(&id, now, current));
        let now = claimed.await.map_err(|_| Error::Closed)??;
        let epoch = now.signed;
        room.with(|known| known.take_memory(&given, now))?;
        Ok(epoch)
    }

    /// The key of an epoch: the one that is kept, or the one that the server keeps sealed.
    pub(super) async fn key(&self, room: &Room, epoch: u64) -> Result<RoomKey, Error> {
        let no_key = |words: String| Error::NoKey {
            room: room.id.clone(),
            epoch,
            words,
        };
        let kept = room.with(|known| {
            let kept = known.keys.key(epoch).cloned();
            let future = epoch > known.record.epoch;
            (kept, known.keyless.contains(&epoch) || future)
        })?;
        match kept {
            (Some(key), _) => return Ok(key),
            (None, true) => return Err(no_key("the server has none".into())),
            (None, false) => {}
        }
        let me = self.endpoint();
        let uri = format!("/rooms/{}/key?endpoint={me}&epoch={epoch}", room.id);
        let reply: KeyReply = match self.control.call(Ask::get(uri)).await {
            Ok(reply) => reply,
            Err(Error::Refused { status: 403, words }) => {
                room.with(|known| known.keyless.insert(epoch))?;
                return Err(no_key(words));
            }
            Err(error) => return Err(error),
        };
        let owner = room.with(|known| known.roster.owner().clone())?;
        if reply.key.sealer != owner.endpoint {
            return Err(no_key(format!("{} may not seal it", reply.key.sealer)));
        }
        let slot = KeySlot {
            room: &room.id,
            epoch,
            recipient: me,
        };
        let sealed = SealedKey {
            sealed_key: reply.key.sealed_key,
            signature: reply.key.sealer_signature,
        };
        let key = slot.open(&sealed, self.identity.agreement(), &owner.sign_pub)?;
        room.with(|known| known.take_key(epoch, key.clone()))?;
        Ok(key)
    }

    /// Asks who has left, so that what they said before can be verified, unless that was asked since `known`.
    pub(super) async fn look_for_former(&self, room: &Room, known: Instant) -> Result<(), Error> {
        let mut looks = room.looking.lock().await;
        if looks.former.is_some_and(|asked| asked > known) {
            return Ok(());
        }
        let asked = Instant::now();
        let ask = Ask::get(format!("/rooms/{}/members/former", room.id));
        let former: Vec<FormerMember> = match self.control.call(ask).await {
            Ok(former) => former,
            // An older server keeps no record of those who left.
            Err(Error::Refused { status: 404, .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        looks.former = Some(asked);
        room.with(|known| known.take_former(&former))
    }

    /// Looks at every room in use.
    pub(super) async fn look_again(&self) {
        let rooms: Vec<Arc<Room>> = self.rooms.lock().values().cloned().collect();
        for room in rooms {
            if let Err(error) = self.look(&room).await {
                tracing::debug!(room = %room.id, %error, "looking again");
            }
        }
    }
}
