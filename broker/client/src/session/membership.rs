//! Who belongs to a room: making one, inviting, joining, leaving, removing, and making a new key.
//! Keys are sealed to verified members only. A request whose outcome is unknown is followed by a look
//! at what came of it.

use std::collections::BTreeSet;

use rand::Rng;
use unibus_proto::control::{
    CreateRoom, EndpointId, History, Invite, MemberRole, Party, Policy, Rekey, RoomId, RoomRecord,
    RoomSubject, SealedFor, SealedForEpoch, SealedKey, member_statement, room_statement,
};

use super::rooms::{Change, Room};
use super::{Inner, Session};
use crate::control::{Answered, Ask};
use crate::error::Error;
use crate::rooms::room_key::{KeySlot, RoomKey};
use crate::rooms::roster::Invented;

/// A new key on its way.
#[derive(Debug)]
pub(super) struct NewKey {
    epoch: u64,
    key: RoomKey,
    /// Whom it is sealed to.
    to: Vec<Party>,
    body: Rekey,
}

/// Attempts at a change that others get in the way of.
const ATTEMPTS_MAX: usize = 5;

/// A room that is to be created.
///
/// ```
/// use unibus_client::NewRoom;
/// use unibus_proto::control::{History, Policy};
/// let kitchen = NewRoom::new("team.kitchen".parse()?); // encrypted and persisted
/// let open_to_newcomers = Policy { history: History::Shared, ..Policy::MATRIX };
/// let lobby = NewRoom::new("team.lobby".parse()?).id("lobby".parse()?).policy(open_to_newcomers);
/// # Ok::<(), unibus_proto::control::IdError>(())
/// ```
#[derive(Clone, Debug)]
pub struct NewRoom {
    id: Option<RoomId>,
    subject: RoomSubject,
    policy: Policy,
}

impl NewRoom {
    /// A room that is encrypted and persisted ([`Policy::MATRIX`]), with a random id.
    /// Example: [`NewRoom`].
    #[must_use]
    pub fn new(subject: RoomSubject) -> Self {
        Self {
            id: None,
            subject,
            policy: Policy::MATRIX,
        }
    }

    /// Another policy. Example: [`NewRoom`].
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// An id of one's own choice. Example: [`NewRoom`].
    #[must_use]
    pub fn id(mut self, id: RoomId) -> Self {
        self.id = Some(id);
        self
    }
}

impl Session {
    /// Creates a room that this identity owns.
    ///
    /// ```no_run
    /// # use unibus_client::{Error, NewRoom, Session};
    /// # async fn run(session: Session) -> Result<(), Box<dyn std::error::Error>> {
    /// let room = session.create_room(NewRoom::new("team.kitchen".parse()?)).await?;
    /// session.publish(&room, "hello, kitchen").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] where the id or the subject is taken, or the policy is not allowed there.
    pub async fn create_room(&self, new: NewRoom) -> Result<RoomId, Error> {
        let inner = &self.inner;
        let NewRoom {
            id,
            subject,
            policy,
        } = new;
        let id = id.map_or_else(random_id, Ok)?;
        let me = inner.identity.party().clone();
        let statement = room_statement(&id, &subject, &policy, &me);
        let signature = inner.identity.sign_text(&statement);
        inner.may_create(&id)?;
        let key = RoomKey::random(&mut rand::rng());
        let sealed_key = if policy.encrypted {
            Some(inner.seal(&id, 1, &key, &me)?)
        } else {
            None
        };
        let body = CreateRoom {
            id: id.clone(),
            subject,
            policy,
            owner: me,
            signature: signature.clone(),
            sealed_key,
        };
        let Answered { outcome, doubtful } = inner.control.ask(Ask::post("/rooms", &body)).await;
        match outcome {
            Err(error) if doubtful && error.status() == Some(409) => {
                let made = inner.control.call(Ask::get(format!("/rooms/{id}"))).await;
                if !made.is_ok_and(|made: RoomRecord| made.owner_signature == signature) {
                    return Err(error);
                }
            }
            outcome => drop(outcome?),
        }
        let room = inner.room(&id).await?;
        inner.follow(&room);
        Ok(id)
    }

    /// Invites somebody to a room that this identity owns: gives them the current key, and the older
    /// ones too where the room's history is shared. `party` must come from whom it names, not from a
    /// server: see [`Identity::contact`](crate::Identity::contact).
    ///
    /// ```no_run
    /// # use unibus_client::{Identity, Session};
    /// # async fn run(session: Session, room: unibus_proto::control::RoomId) -> Result<(), Box<dyn std::error::Error>> {
    /// let bob = Identity::parse_contact("unibus-contact:…")?;
    /// session.invite(&room, &bob).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] where they are a member already or this identity is not the owner,
    /// [`Error::NeedsRekey`] where somebody has gone and the key was not changed yet.
    pub async fn invite(&self, room: &RoomId, party: &Party) -> Result<(), Error> {
        self.invite_all(room, std::slice::from_ref(party)).await
    }

    /// Invites many, one after the other; the room's own record is looked at before the first, and not for
    /// each of them. As [`Session::invite`] otherwise.
    ///
    /// ```no_run
    /// use unibus_client::Identity;
    /// # async fn run(session: unibus_client::Session, room: unibus_proto::control::RoomId) -> Result<(), Box<dyn std::error::Error>> {
    /// let contacts = std::fs::read_to_string("team.txt")?; // one a line
    /// let team: Result<Vec<_>, _> = contacts.lines().map(Identity::parse_contact).collect();
    /// session.invite_all(&room, &team?).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Session::invite`]; those before the one that failed are invited.
    pub async fn invite_all(&self, room: &RoomId, parties: &[Party]) -> Result<(), Error> {
        let inner = &self.inner;
        let room = inner.room(room).await?;
        inner.look_if_changed(&room).await?;
        let mut admitted = Vec::with_capacity(parties.len());
        let mut outcome = Ok(());
        for party in parties {
            match inner.admit(&room, party).await {
                Ok(signature) => admitted.push((party, signature)),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        room.take_in(&admitted).await?;
        outcome
    }

    /// Accepts an invitation.
    ///
    /// ```no_run
    /// # async fn run(session: unibus_client::Session) -> Result<(), unibus_client::Error> {
    /// for room in session.list_my_rooms().await?.into_iter().filter(|room| !room.joined) {
    ///     session.join(&room.id).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no invitation; [`Error::Roster`] where the room can't be
    /// trusted: it is verified before it is joined.
    pub async fn join(&self, room: &RoomId) -> Result<(), Error> {
        let inner = &self.inner;
        let room = inner.entry(room);
        inner.look(&room).await?;
        let uri = format!("/rooms/{}/join", room.id);
        inner
            .control
            .ask(Ask::bytes(uri, Vec::new().into()))
            .await
            .outcome?;
        inner.look(&room).await
    }

    /// Leaves a room. Its owner's client makes a new key when it hears of it.
    ///
    /// ```no_run
    /// # async fn run(session: unibus_client::Session, room: unibus_proto::control::RoomId) -> Result<(), unibus_client::Error> {
    /// session.leave(&room).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`]: the owner can't leave its own room.
    pub async fn leave(&self, room: &RoomId) -> Result<(), Error> {
        let inner = &self.inner;
        let uri = format!("/rooms/{room}/leave");
        let Answered { outcome, doubtful } =
            inner.control.ask(Ask::bytes(uri, Vec::new().into())).await;
        match outcome {
            // An attempt before this one has got through.
            Err(error) if doubtful && error.status() == Some(403) => {}
            outcome => drop(outcome?),
        }
        let entry = inner.rooms.lock().remove(room);
        if let Some(room) = entry {
            room.tell(Change::Gone("you have left this room".into()));
        }
        Ok(())
    }

    /// Removes somebody from a room that this identity owns, and makes a new key that they don't get.
    ///
    /// ```no_run
    /// # async fn run(session: unibus_client::Session, room: unibus_proto::control::RoomId) -> Result<(), unibus_client::Error> {
    /// let info = session.room_info(&room).await?;
    /// let me = session.identity().endpoint();
    /// // Everybody but the owner; what is said from now on they can't read.
    /// for member in info.members.iter().filter(|member| member.party.endpoint != *me) {
    ///     session.remove(&room, &member.party.endpoint).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] where they are no member or this identity is not the owner. Where the removal
    /// went through and the new key did not, the error is that of [`Session::rekey`], which may be
    /// called again.
    pub async fn remove(&self, room: &RoomId, endpoint: &EndpointId) -> Result<(), Error> {
        let inner = &self.inner;
        let room = inner.room(room).await?;
        let before = room.with(|known| known.record.epoch)?;
        let uri = format!("/rooms/{}/members/{endpoint}", room.id);
        let Answered { outcome, doubtful } = inner.control.ask(Ask::delete(uri)).await;
        if let Err(error) = outcome {
            inner.look(&room).await?;
            let gone = room.with(|known| known.roster.member(endpoint).is_none())?;
            if !(doubtful && gone) {
                return Err(error);
            }
        }
        room.with(|known| known.note_removed(endpoint))?;
        inner.remember(&room, false).await?;
        if room.policy()?.0.encrypted {
            inner.rekey(&room, Some(before + 1)).await?;
            return Ok(());
        }
        inner.look(&room).await
    }

    /// Makes a new key for a room that this identity owns, sealed to its verified members only.
    /// Answers with the new epoch. Done by itself after [`Session::remove`], and when somebody leaves
    /// while the owner has a session open.
    ///
    /// ```no_run
    /// # async fn run(session: unibus_client::Session, room: unibus_proto::control::RoomId) -> Result<(), unibus_client::Error> {
    /// let epoch = session.rekey(&room).await?; // such as when a member has lost a device
    /// println!("what was recorded with the old keys tells nothing about epoch {epoch}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invented`] where the server insists that somebody whom nobody admitted gets a key,
    /// [`Error::OlderNode`] where no server tells who has the current one.
    pub async fn rekey(&self, room: &RoomId) -> Result<u64, Error> {
        let room = self.inner.room(room).await?;
        self.inner.rekey(&room, None).await
    }
}

impl Inner {
    fn seal(
        &self,
        room: &RoomId,
        epoch: u64,
        key: &RoomKey,
        to: &Party,
    ) -> Result<SealedKey, Error> {
        let slot = KeySlot {
            room,
            epoch,
            recipient: &to.endpoint,
        };
        let signer = self.identity.signing();
        Ok(slot.seal(key, &to.kex_pub, signer, &mut rand::rng())?)
    }

    /// Whether a room of this id may be made: one that the memory could not follow would be of no use.
    fn may_create(&self, id: &RoomId) -> Result<(), Error> {
        let Some(memory) = &self.memory else {
            return Ok(());
        };
        match memory.recall(id) {
            Some(known) if !known.allows_new(self.endpoint()) => Err(Error::Options(format!(
                "{} remembers another room of the id {id}, such as of another bus: choose another id, or move \
                 that file away to begin anew",
                memory.path().display()
            ))),
            _ => Ok(()),
        }
    }

    /// Invites somebody to a room that was looked at; answers with the signature of their admission.
    async fn admit(&self, room: &Room, party: &Party) -> Result<String, Error> {
        let statement = member_statement(&room.id, party, MemberRole::Member);
        let signature = self.identity.sign_text(&statement);
        let uri = format!("/rooms/{}/invite", room.id);
        for attempt in 1.. {
            let body = self.invitation(room, party, &signature).await?;
            let Answered { outcome, doubtful } = self.control.ask(Ask::post(&uri, &body)).await;
            let moved = |error: &Error| error.status() == Some(409);
            match outcome {
                Ok(_) => break,
                Err(error) if moved(&error) && attempt < ATTEMPTS_MAX => {
                    // Whom this session removed, and another one admitted again, is wanted now.
                    room.with(|known| known.note_invited(&party.endpoint))?;
                    self.look(room).await?;
                    let (epoch, member) = room.with(|known| {
                        let member = known.roster.member(&party.endpoint).cloned();
                        (known.record.epoch, member)
                    })?;
                    let mine = member.is_some_and(|member| member.party == *party);
                    if doubtful && mine {
                        break;
                    }
                    if mine || epoch == body.epoch {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        room.with(|known| known.note_invited(&party.endpoint))?;
        self.remember(room, false).await?;
        Ok(signature)
    }

    async fn invitation(
        &self,
        room: &Room,
        party: &Party,
        signature: &str,
    ) -> Result<Invite, Error> {
        let (record, owned) = room.with(|known| {
            let owned = known.roster.owner() == self.identity.party();
            (known.record.clone(), owned)
        })?;
        if !owned {
            return Err(Error::NotOwner(room.id.clone()));
        }
        if record.needs_rekey {
            return Err(Error::NeedsRekey(room.id.clone()));
        }
        let epoch = record.epoch;
        let mut invite = Invite {
            member: party.clone(),
            signature: signature.to_owned(),
            epoch,
            sealed_key: None,
            older_keys: Vec::new(),
        };
        if !record.policy.encrypted {
            return Ok(invite);
        }
        let key = self.key(room, epoch).await?;
        invite.sealed_key = Some(self.seal(&room.id, epoch, &key, party)?);
        if record.policy.history == History::Shared {
            for older in 1..epoch {
                let key = match self.key(room, older).await {
                    Ok(key) => key,
                    // A new key may skip epochs; nothing was said in those.
                    Err(Error::NoKey { .. }) => continue,
                    Err(error) => return Err(error),
                };
                let SealedKey {
                    sealed_key,
                    signature,
                } = self.seal(&room.id, older, &key, party)?;
                invite.older_keys.push(SealedForEpoch {
                    epoch: older,
                    sealed_key,
                    signature,
                });
            }
        }
        Ok(invite)
    }

    /// Makes a new key; answers with its epoch. With `enough`, a key of that epoch or a later one will
    /// do, if nobody has gone since: another task or session of the owner may have made it.
    pub(super) async fn rekey(&self, room: &Room, enough: Option<u64>) -> Result<u64, Error> {
        let mut sent = room.rekeying.lock().await;
        for attempt in 1.. {
            self.look(room).await?;
            let (epoch, needed) =
                room.with(|known| (known.record.epoch, known.record.needs_rekey))?;
            if !needed && enough.is_some_and(|enough| epoch >= enough) {
                return Ok(epoch);
            }
            let owned = room.with(|known| known.roster.owner() == self.identity.party())?;
            if !owned {
                return Err(Error::NotOwner(room.id.clone()));
            }
            if self.remember(room, true).await? {
                self.look(room).await?;
            }
            self.hold_against_keys(room).await?;
            let new = self.new_key(room, &mut sent).await?;
            let refusal = match self.put_in_force(room, new).await? {
                Ok(epoch) => return Ok(epoch),
                Err(refusal) => refusal,
            };
            let evicted = self.evict_invented(room).await?;
            if attempt >= ATTEMPTS_MAX {
                return Err(evicted.map_or(refusal, Error::Invented));
            }
        }
        Err(Error::Closed)
    }

    /// The key to send: the one that was sent before, if it is for the same members and may still become the
    /// next one, and otherwise one of an epoch that none was ever signed for. A server that says of a key that
    /// it has not taken it has it all the same, and who was a member then may have it too: a second one of
    /// the same epoch would let the server choose which of the two the others get.
    async fn new_key<'a>(
        &self,
        room: &Room,
        sent: &'a mut Option<NewKey>,
    ) -> Result<&'a NewKey, Error> {
        let (current, to) = room.with(|known| {
            let to = known.recipients().map(|member| member.party.clone());
            (known.record.epoch, to.collect::<Vec<_>>())
        })?;
        let same = |sent: &NewKey| sent.epoch > current && sent.to == to;
        if sent.as_ref().is_none_or(|sent| !same(sent)) {
            let (epoch, key) = (
                self.claim_epoch(room).await?,
                RoomKey::random(&mut rand::rng()),
            );
            let keys = self.seal_to_all(&room.id, epoch, &key, to.clone()).await?;
            *sent = Some(NewKey {
                epoch,
                key,
                to,
                body: Rekey { epoch, keys },
            });
        }
        sent.as_ref().ok_or(Error::Closed)
    }

    /// Sends a new key; answers with its epoch when it is the room's. What is refused because something has
    /// moved meanwhile may be tried again.
    async fn put_in_force(&self, room: &Room, new: &NewKey) -> Result<Result<u64, Error>, Error> {
        let current = room.with(|known| known.record.epoch)?;
        let uri = format!("/rooms/{}/rekey", room.id);
        let refusal = match self.control.ask(Ask::post(&uri, &new.body)).await.outcome {
            Ok(_) => None,
            Err(error) if error.status() == Some(409) => Some(error),
            Err(error) => return Err(error),
        };
        if refusal.is_none() {
            room.with(|known| known.take_key(new.epoch, new.key.clone()))?;
        }
        self.look(room).await?;
        let Some(refusal) = refusal else {
            return Ok(Ok(new.epoch));
        };
        let stored = self.key(room, new.epoch).await;
        if stored.is_ok_and(|stored| stored == new.key) {
            return Ok(Ok(new.epoch));
        }
        // Nodes of older builds take the next epoch only, and refuse to skip one in words like these.
        let skips = new.epoch > current + 1 && room.with(|known| known.record.epoch)? == current;
        if skips && refusal.to_string().starts_with("the room's epoch is") {
            return Ok(Err(self.control.pass_by("a new key that skips an epoch")));
        }
        Ok(Err(refusal))
    }

    /// Holds the members against the keys of the current epoch. An admission is signed once and for all, so
    /// a server could show that of somebody who has gone; a key of the current epoch, signed by this
    /// identity, is what everybody has who belongs to the room, and nobody who has gone before it.
    async fn hold_against_keys(&self, room: &Room) -> Result<(), Error> {
        let (policy, _) = room.policy()?;
        if !policy.encrypted {
            return Ok(());
        }
        // An epoch that has no key of the owner's is the server's invention: nothing follows it.
        let epoch = room.with(|known| known.record.epoch)?;
        self.key(room, epoch).await?;
        // Before the keys are asked for: who is admitted meanwhile is judged the next time.
        let members: BTreeSet<_> = room.with(|known| {
            let members = known.recipients();
            let members = members.map(|member| member.party.endpoint.clone());
            members.chain(known.gone().cloned()).collect()
        })?;
        let keys = self.control.epoch_keys(&room.id, epoch).await?;
        let (id, me) = (room.id.clone(), self.identity.party().sign_pub);
        let proving = tokio::task::spawn_blocking(move || {
            let proven = keys.into_iter().filter_map(|key| {
                let recipient = &key.endpoint;
                let slot = KeySlot {
                    room: &id,
                    epoch,
                    recipient,
                };
                let sealed = SealedKey {
                    sealed_key: key.key.sealed_key,
                    signature: key.key.sealer_signature,
                };
                slot.is_by(&sealed, &me).then_some(key.endpoint)
            });
            proven.collect::<BTreeSet<_>>()
        });
        let proven = proving.await.map_err(|_| Error::Closed)?;
        if room.with(|known| known.hold_against(epoch, &members, &proven))? {
            self.look(room).await?;
        }
        Ok(())
    }

    /// Strikes those whom the server made up out of its records: it asks for a key for everybody who
    /// stands there. Answers with one of them.
    async fn evict_invented(&self, room: &Room) -> Result<Option<EndpointId>, Error> {
        let invented = room.with(|known| known.roster.invented().to_vec())?;
        for Invented { endpoint, .. } in &invented {
            let ask = Ask::delete(format!("/rooms/{}/members/{endpoint}", room.id));
            if let Err(error) = self.control.ask(ask).await.outcome {
                tracing::warn!(room = %room.id, %endpoint, %error, "an invented member stays");
            }
        }
        Ok(invented.into_iter().next().map(|one| one.endpoint))
    }

    /// Sealing to thousands takes a second: it is done where nothing waits for it.
    async fn seal_to_all(
        &self,
        room: &RoomId,
        epoch: u64,
        key: &RoomKey,
        to: Vec<Party>,
    ) -> Result<Vec<SealedFor>, Error> {
        let (identity, room, key) = (self.identity.clone(), room.clone(), key.clone());
        let sealing = tokio::task::spawn_blocking(move || {
            let mut rng = rand::rng();
            let seal = |party: Party| {
                let slot = KeySlot {
                    room: &room,
                    epoch,
                    recipient: &party.endpoint,
                };
                let sealed = slot.seal(&key, &party.kex_pub, identity.signing(), &mut rng)?;
                Ok(SealedFor {
                    sealed_key: sealed.sealed_key,
                    signature: sealed.signature,
                    endpoint: party.endpoint,
                })
            };
            to.into_iter().map(seal).collect()
        });
        sealing.await.map_err(|_| Error::Closed)?
    }
}

/// 96 random bits: a room's id is as hard to guess as to meet twice.
fn random_id() -> Result<RoomId, Error> {
    let mut bytes = [0; 12];
    rand::rng().fill_bytes(&mut bytes);
    let text = data_encoding::HEXLOWER.encode(&bytes);
    text.parse()
        .map_err(|error: unibus_proto::control::IdError| Error::Options(error.to_string()))
}
