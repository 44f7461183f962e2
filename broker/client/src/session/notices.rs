//! Hearing that something changed without asking over and over: servers publish notices about rooms
//! and memberships. A notice is a hint and proves nothing: what it is about is looked at and verified.
//! The owner's session also makes a new key here when somebody has gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use unibus_proto::control::{MemberRole, Notice, RoomId, member_notices, room_notices};

use super::rooms::{Change, Room};
use super::{Inner, Session};
use crate::error::Error;
use crate::event::{MyRoom, RoomsChange};

/// Changes that wait for the application.
const CHANGES_MAX: usize = 64;
/// Pause before something that failed is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// Notices that are taken together: they say the same, look.
const NOTICES_MAX: usize = 1024;

/// Changes of the rooms that an identity belongs to, as they happen. Example: [`Session::watch_rooms`].
#[derive(Debug)]
pub struct RoomsWatch {
    changes: mpsc::Receiver<RoomsChange>,
}

impl RoomsWatch {
    /// The next change; `None` when the session has ended. Example: [`Session::watch_rooms`].
    pub async fn next(&mut self) -> Option<RoomsChange> {
        self.changes.recv().await
    }
}

impl Session {
    /// Watches which rooms this identity belongs to. What it belongs to now comes first, as
    /// [`RoomsChange::Added`]; new invitations follow as they are made, without polling.
    ///
    /// ```no_run
    /// use unibus_client::{RoomsChange, RoomsWatch};
    /// # async fn run(session: unibus_client::Session) -> Result<(), unibus_client::Error> {
    /// let mut rooms: RoomsWatch = session.watch_rooms().await?;
    /// while let Some(change) = rooms.next().await {
    ///     if let RoomsChange::Added(room) = change && !room.joined {
    ///         session.join(&room.id).await?;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As every call.
    pub async fn watch_rooms(&self) -> Result<RoomsWatch, Error> {
        let inner = Arc::clone(&self.inner);
        let mut stirred = inner.stirred.subscribe();
        let first = inner.list().await?;
        let (changes, receiver) = mpsc::channel(CHANGES_MAX);
        let closing = inner.closing.clone();
        tokio::spawn(closing.run_until_cancelled_owned(async move {
            let mut known = BTreeMap::new();
            let mut now = first;
            loop {
                for change in difference(&mut known, now) {
                    if changes.send(change).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = changes.closed() => return,
                    changed = stirred.changed() => if changed.is_err() { return },
                }
                now = loop {
                    match inner.list().await {
                        Ok(now) => break now,
                        Err(error) => tracing::debug!(%error, "asking for rooms"),
                    }
                    tokio::time::sleep(PAUSE).await;
                };
            }
        }));
        Ok(RoomsWatch { changes: receiver })
    }
}

/// Takes what the rooms are now; answers with what has changed.
fn difference(known: &mut BTreeMap<RoomId, MyRoom>, now: Vec<MyRoom>) -> Vec<RoomsChange> {
    let mut changes = Vec::new();
    let mut gone = std::mem::take(known);
    for room in now {
        match gone.remove(&room.id) {
            None => changes.push(RoomsChange::Added(room.clone())),
            Some(before) if before != room => changes.push(RoomsChange::Changed(room.clone())),
            Some(_) => {}
        }
        known.insert(room.id.clone(), room);
    }
    changes.extend(gone.into_keys().map(RoomsChange::Removed));
    changes
}

/// Follows the notices that are for this identity, and connections.
pub(super) fn start(inner: &Arc<Inner>) {
    let inner = Arc::clone(inner);
    let closing = inner.closing.clone();
    tokio::spawn(closing.run_until_cancelled_owned(async move {
        loop {
            if let Err(error) = inner.follow_mine().await {
                tracing::debug!(%error, "following notices");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }));
}

impl Inner {
    async fn follow_mine(self: &Arc<Self>) -> Result<(), Error> {
        let mut connections = self.connections.clone();
        let subject = member_notices(self.endpoint());
        let mut refused = self.refused.watch(subject.as_str());
        let mut notices = self.listen(subject).await?;
        self.care().await;
        loop {
            let notice = tokio::select! {
                notice = notices.next() => notice,
                () = refused.refused() => return Err(refusal()),
                changed = connections.changed() => {
                    if changed.is_err() {
                        return Err(Error::Closed);
                    }
                    // What was said while there was no connection was missed.
                    self.look_again().await;
                    self.stirred.send_modify(|count| *count += 1);
                    self.care().await;
                    continue;
                }
            };
            let mut rooms = vec![notice.ok_or(Error::Closed)?];
            rooms.extend(drained(&mut notices));
            self.stirred.send_modify(|count| *count += 1);
            self.look_at_named(&rooms).await;
            self.care().await;
        }
    }

    /// Looks at the rooms in use that notices name.
    async fn look_at_named(&self, notices: &[async_nats::Message]) {
        let named = notices
            .iter()
            .filter_map(|message| serde_json::from_slice::<Notice>(&message.payload).ok());
        let mut rooms: Vec<RoomId> = named.map(|notice| notice.room_id).collect();
        rooms.sort_unstable();
        rooms.dedup();
        for id in rooms {
            let room = self.rooms.lock().get(&id).cloned();
            if let Some(room) = room
                && let Err(error) = self.look(&room).await
            {
                tracing::debug!(room = %id, %error, "looking at a room");
            }
        }
    }

    /// Follows the rooms that this identity owns, and rekeys those that need it.
    async fn care(self: &Arc<Self>) {
        if !self.options.caretaker {
            return;
        }
        let rooms = match self.list().await {
            Ok(rooms) => rooms,
            Err(error) => return tracing::debug!(%error, "asking for rooms"),
        };
        let owned = rooms
            .into_iter()
            .filter(|room| room.role == MemberRole::Owner && room.policy.encrypted);
        for MyRoom {
            id, needs_rekey, ..
        } in owned
        {
            let room = self.entry(&id);
            self.follow(&room);
            if needs_rekey {
                self.rekey_if_needed(&room).await;
            }
        }
    }

    async fn rekey_if_needed(&self, room: &Room) {
        if let Err(error) = self.look(room).await {
            return tracing::debug!(room = %room.id, %error, "looking at a room");
        }
        let mine = room.with(|known| {
            let owned = known.roster.owner() == self.identity.party();
            owned && known.record.needs_rekey
        });
        if !mine.unwrap_or(false) {
            return;
        }
        match self.rekey(room, Some(0)).await {
            Ok(epoch) => {
                tracing::info!(room = %room.id, epoch, "there is a new key: somebody has gone");
            }
            Err(error) => tracing::warn!(room = %room.id, %error, "the room needs a new key"),
        }
    }

    /// Follows the notices about a room, once.
    pub(super) fn follow(self: &Arc<Self>, room: &Arc<Room>) {
        if room.followed.swap(true, Ordering::AcqRel) {
            return;
        }
        let (inner, room) = (Arc::clone(self), Arc::clone(room));
        let closing = self.closing.clone();
        tokio::spawn(closing.run_until_cancelled_owned(async move {
            while inner.is_in_use(&room) {
                if let Err(error) = inner.follow_room(&room).await {
                    tracing::debug!(room = %room.id, %error, "following a room");
                }
                tokio::time::sleep(PAUSE).await;
            }
            room.followed.store(false, Ordering::Release);
        }));
    }

    fn is_in_use(&self, room: &Arc<Room>) -> bool {
        let rooms = self.rooms.lock();
        rooms
            .get(&room.id)
            .is_some_and(|entry| Arc::ptr_eq(entry, room))
    }

    async fn follow_room(&self, room: &Arc<Room>) -> Result<(), Error> {
        let subject = room_notices(&room.id);
        let mut refused = self.refused.watch(subject.as_str());
        let mut changes = room.changes();
        let mut notices = self.listen(subject).await?;
        // What changed before the subscription was in force.
        self.look(room).await?;
        while self.is_in_use(room) {
            tokio::select! {
                notice = notices.next() => notice.ok_or(Error::Closed)?,
                () = refused.refused() => return Err(refusal()),
                // Looks of others may find that this identity has gone: nothing comes after that.
                Ok(Change::Gone(_)) = changes.recv() => continue,
            };
            drained(&mut notices);
            if self.options.caretaker {
                self.rekey_if_needed(room).await;
            } else {
                self.look(room).await?;
            }
        }
        Ok(())
    }

    async fn listen(&self, subject: String) -> Result<async_nats::Subscriber, Error> {
        let notices = self.nats.subscribe(subject).await;
        let notices = notices.map_err(|error| Error::messages("following notices", error))?;
        self.settle().await?;
        Ok(notices)
    }
}

/// The server says that it follows no more; what was said meanwhile is looked for when it does again.
fn refusal() -> Error {
    Error::messages(
        "following notices",
        "the server has withdrawn the subscription",
    )
}

/// The notices that are there already.
fn drained(notices: &mut async_nats::Subscriber) -> Vec<async_nats::Message> {
    let mut all = Vec::new();
    while all.len() < NOTICES_MAX
        && let Some(Some(notice)) = notices.next().now_or_never()
    {
        all.push(notice);
    }
    all
}

#[cfg(test)]
mod tests {
    use unibus_proto::control::Policy;

    use super::*;

    fn room(id: &str, joined: bool) -> MyRoom {
        MyRoom {
            id: id.parse().unwrap(),
            subject: format!("room.{id}").parse().unwrap(),
            epoch: 1,
            policy: Policy::MATRIX,
            role: MemberRole::Member,
            joined,
            needs_rekey: false,
        }
    }

    #[test]
    fn rooms_come_change_and_go() {
        let mut known = BTreeMap::new();
        let (a, b) = (room("a", false), room("b", true));
        let first = difference(&mut known, vec![a.clone(), b.clone()]);
        assert_eq!(
            first,
            [RoomsChange::Added(a), RoomsChange::Added(b.clone())]
        );
        assert_eq!(
            difference(&mut known, vec![room("a", false), b.clone()]),
            []
        );
        let joined = room("a", true);
        let then = difference(&mut known, vec![joined.clone()]);
        assert_eq!(
            then,
            [RoomsChange::Changed(joined), RoomsChange::Removed(b.id)]
        );
    }
}
