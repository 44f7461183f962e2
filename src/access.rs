//! Who may connect and what they may do: the replicated users as a table in memory, kept up to date
//! by the replica's observer, and the broker's [`Authenticator`] over it. Every open connection
//! follows its user's grant live. Fails closed: a record that can't be read grants nothing. Never
//! reads or writes the store itself.

pub mod accounts;
pub mod first_users;
pub mod identity;
pub mod permissions;
mod rooms;
pub mod static_users;
pub mod users;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{debug, error, warn};
use unibus_broker::{Admission, AuthError, AuthRequest, Authenticator, Decision, Grant};
use unibus_proto::control::{EndpointId, RoomId};
use unibus_proto::nkey::NkeyPublic;
use unibus_proto::permissions::Permissions;

use self::rooms::RoomTable;

pub use self::identity::{IdentityError, InternalIdentity};
pub use self::users::{Grants, RecordError, Role, Status, USERS_BUCKET, UserRecord};
use crate::config::args::BusAuth;

/// Fewest followed identities before those that nobody follows any more are looked for.
const SWEEP_AT_LEAST: usize = 256;

/// The users and everybody who is connected as one of them. A cheap handle: clones share the table.
#[derive(Clone, Debug)]
pub struct Directory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    mode: BusAuth,
    internal: Option<NkeyPublic>,
    /// What everybody has where nobody is asked. Never changes; kept so that its channel stays open.
    open: watch::Sender<Grant>,
    /// What the node itself has.
    everything: watch::Sender<Grant>,
    /// Whether the users known here are the cluster's: a node cut off from the others may have missed
    /// a revocation.
    authority: AtomicBool,
    table: Mutex<Table>,
}

/// A bucket that decides what connections may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Book {
    /// `UNIBUS_users`.
    Users,
    /// `UNIBUS_rooms`.
    Rooms,
    /// `UNIBUS_members`.
    Members,
}

/// What became of a bucket's records.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which bucket.
    pub book: Book,
    /// `records` is all there is; whatever was known before is forgotten.
    pub anew: bool,
    /// Keys and their JSON, in the order of writing; `None` = the key is gone.
    pub records: Vec<(String, Option<Bytes>)>,
}

impl Change {
    /// Nothing is left.
    #[must_use]
    pub fn emptied(book: Book) -> Self {
        Self {
            book,
            anew: true,
            records: Vec::new(),
        }
    }
}

#[derive(Debug, Default)]
struct Table {
    users: HashMap<NkeyPublic, Arc<UserRecord>>,
    /// Users by endpoint.
    endpoints: HashMap<EndpointId, NkeyPublic>,
    rooms: RoomTable,
    /// What is known of rooms may be out of date: it opens nothing.
    suspended: bool,
    /// One sender for each identity with open connections, and some whose connections have ended.
    followed: HashMap<NkeyPublic, watch::Sender<Grant>>,
    /// When `followed` has this many entries, those without a follower are dropped.
    sweep_at: usize,
}

impl Directory {
    /// An empty directory: until records come, only the node itself gets in under `enforce`.
    #[must_use]
    pub fn new(mode: BusAuth, internal: &InternalIdentity) -> Self {
        Self::of(mode, Some(*internal.public()))
    }

    fn of(mode: BusAuth, internal: Option<NkeyPublic>) -> Self {
        let grant = |permissions| watch::channel(Grant::Active(Arc::new(permissions))).0;
        let shared = Shared {
            mode,
            internal,
            open: grant(permissions::open()),
            everything: grant(Permissions::all()),
            authority: AtomicBool::new(true),
            table: Mutex::new(Table {
                sweep_at: SWEEP_AT_LEAST,
                ..Table::default()
            }),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Whether the users known here may be admitted by. Without authority only the internal identity
    /// gets in under `enforce`; open connections stay.
    pub fn set_authority(&self, authority: bool) {
        self.shared.authority.store(authority, Ordering::Release);
    }

    fn has_authority(&self) -> bool {
        self.shared.authority.load(Ordering::Acquire)
    }

    /// Whether rooms open anything: a node that is cut off may have missed that somebody was removed.
    /// Open connections lose their rooms' subjects, and the subscriptions to them. When `suspended` ends, those
    /// that get their rooms back are closed: nothing else makes every client subscribe anew.
    pub fn suspend_rooms(&self, suspended: bool) {
        let mut table = self.shared.table.lock();
        let was = std::mem::replace(&mut table.suspended, suspended);
        if was && !suspended {
            table.renew_all();
        } else if was != suspended {
            table.tell_all();
        }
    }

    /// Takes what was written to the buckets, and tells every open connection that it concerns.
    pub fn take(&self, changes: Vec<Change>) {
        let mut table = self.shared.table.lock();
        let mut concerned = HashSet::new();
        let mut everybody = false;
        for change in changes {
            everybody |= change.anew;
            table.take(change, &mut concerned);
        }
        if everybody {
            table.tell_all();
        } else {
            for key in concerned {
                table.tell(&key);
            }
        }
    }

    /// The room that publishes on `subject`.
    #[must_use]
    pub fn room_on(&self, subject: &str) -> Option<String> {
        let table = self.shared.table.lock();
        table.rooms.by_subject(subject).map(str::to_owned)
    }

    /// How many belong to a room, joined or not: as many as have a record.
    #[must_use]
    pub fn members_of(&self, room: &RoomId) -> usize {
        self.shared.table.lock().rooms.members_of(room.as_str())
    }

    /// Whether some active service was granted `subject` by a pattern that begins with a literal
    /// token.
    #[must_use]
    pub fn is_granted(&self, subject: &str) -> bool {
        let table = self.shared.table.lock();
        table.users.values().any(|user| {
            let lists = [&user.grants.publish, &user.grants.subscribe];
            user.status == Status::Active
                && lists.into_iter().flatten().any(|pattern| {
                    !pattern.starts_with(['*', '>'])
                        && unibus_proto::subject::matches(pattern.as_bytes(), subject.as_bytes())
                })
        })
    }

    /// Whether `key` is an active user. Unknown is no.
    #[must_use]
    pub fn is_authorized(&self, key: &NkeyPublic) -> bool {
        let table = self.shared.table.lock();
        table
            .users
            .get(key)
            .is_some_and(|user| user.status == Status::Active)
    }

    /// Whether some active user is an admin.
    #[must_use]
    pub fn has_admin(&self) -> bool {
        let table = self.shared.table.lock();
        table
            .users
            .values()
            .any(|u| u.role == Role::Admin && u.status == Status::Active)
    }

    /// Number of records, revoked ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.table.lock().users.len()
    }

    /// True where there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn admit_open(&self, identity: Option<&NkeyPublic>) -> Admission {
        Admission {
            identity: identity.map(|key| key.to_nkey().into()),
            ..Admission::new(self.shared.open.subscribe())
        }
    }

    /// What `enforce` decides about somebody who has proven to own `key`.
    fn admit_user(&self, key: &NkeyPublic) -> Result<Admission, AuthError> {
        let mut table = self.shared.table.lock();
        let grant = match table.users.get(key) {
            None => return Err(AuthError::Refused),
            Some(user) if user.status == Status::Revoked => return Err(AuthError::Revoked),
            Some(user) => Grant::Active(Arc::new(table.permissions_of(user))),
        };
        let grant = table.follow(key, grant);
        Ok(Admission {
            identity: Some(key.to_nkey().into()),
            ..Admission::new(grant)
        })
    }

    fn admit_internal(&self, key: &NkeyPublic) -> Admission {
        Admission {
            identity: Some(key.to_nkey().into()),
            internal: true,
            ..Admission::new(self.shared.everything.subscribe())
        }
    }
}

impl Table {
    fn take(&mut self, change: Change, concerned: &mut HashSet<NkeyPublic>) {
        let mut endpoints = Vec::new();
        if change.anew {
            match change.book {
                Book::Users => {
                    self.users.clear();
                    self.endpoints.clear();
                }
                Book::Rooms => endpoints = self.rooms.clear_rooms(),
                Book::Members => endpoints = self.rooms.clear_members(),
            }
        }
        for (key, value) in change.records {
            let value = value.as_deref();
            match change.book {
                Book::Users => concerned.extend(self.set_user(&key, value)),
                Book::Rooms => endpoints.extend(self.rooms.set_room(&key, value)),
                Book::Members => endpoints.extend(self.rooms.set_member(&key, value)),
            }
        }
        let known = endpoints.iter().filter_map(|id| self.endpoints.get(id));
        concerned.extend(known);
    }

    /// A record that can't be read removes its user.
    fn set_user(&mut self, key: &str, value: Option<&[u8]>) -> Option<NkeyPublic> {
        let public = NkeyPublic::parse(key).ok()?;
        let endpoint = EndpointId::of(&public);
        match value.and_then(|value| readable(key, value)) {
            Some((_, record)) => {
                self.users.insert(public, record);
                self.endpoints.insert(endpoint, public);
            }
            None => {
                self.users.remove(&public);
                self.endpoints.remove(&endpoint);
            }
        }
        Some(public)
    }

    fn permissions_of(&self, user: &UserRecord) -> Permissions {
        let key = NkeyPublic::parse(&user.sign_pub);
        let rooms = match key {
            Ok(key) if !self.suspended => self.rooms.of(&EndpointId::of(&key)),
            _ => Vec::new(),
        };
        permissions::permissions_of(user, &rooms)
    }

    fn tell_all(&mut self) {
        let followed: Vec<NkeyPublic> = self.followed.keys().copied().collect();
        for key in followed {
            self.tell(&key);
        }
    }

    /// Has everybody connect anew who is allowed something else than before.
    fn renew_all(&self) {
        for (key, sender) in &self.followed {
            let grant = self.grant_of(key);
            sender.send_if_modified(|held| {
                let other = !matches!(held, Grant::Anew) && !same(held, &grant);
                if other {
                    *held = match &grant {
                        Grant::Active(_) => Grant::Anew,
                        revoked => revoked.clone(),
                    };
                }
                other
            });
        }
    }

    fn grant_of(&self, key: &NkeyPublic) -> Grant {
        match self.users.get(key) {
            Some(user) if user.status == Status::Active => {
                Grant::Active(Arc::new(self.permissions_of(user)))
            }
            _ => Grant::Revoked,
        }
    }

    /// Tells those who are connected as `key` what holds for them.
    fn tell(&mut self, key: &NkeyPublic) {
        let Some(sender) = self.followed.get(key) else {
            return;
        };
        if is_final(sender) {
            return;
        }
        let grant = self.grant_of(key);
        if sender.receiver_count() == 0 {
            self.followed.remove(key);
        } else {
            sender.send_if_modified(|held| {
                let changed = !same(held, &grant);
                *held = grant;
                changed
            });
        }
    }

    /// A receiver of what holds for `key`, starting with `grant`.
    fn follow(&mut self, key: &NkeyPublic, grant: Grant) -> watch::Receiver<Grant> {
        if let Some(sender) = self.followed.get(key)
            && !is_final(sender)
        {
            return sender.subscribe();
        }
        if self.followed.len() >= self.sweep_at {
            self.followed
                .retain(|_, sender| sender.receiver_count() > 0);
            self.sweep_at = SWEEP_AT_LEAST.max(self.followed.len() * 2);
        }
        let (sender, receiver) = watch::channel(grant);
        self.followed.insert(*key, sender);
        receiver
    }
}

/// Whether those who follow this are to connect anew, and nobody else may follow it.
fn is_final(sender: &watch::Sender<Grant>) -> bool {
    matches!(*sender.borrow(), Grant::Anew)
}

fn same(a: &Grant, b: &Grant) -> bool {
    match (a, b) {
        (Grant::Active(a), Grant::Active(b)) => a == b,
        (Grant::Revoked, Grant::Revoked) => true,
        _ => false,
    }
}

/// A record that can be used, or `None` after saying so in the log.
fn readable(key: &str, value: &[u8]) -> Option<(NkeyPublic, Arc<UserRecord>)> {
    let Ok(public) = NkeyPublic::parse(key) else {
        error!(%key, "a user record is stored under something that is no key; it grants nothing");
        return None;
    };
    match UserRecord::decode(key, value) {
        Ok(record) => Some((public, Arc::new(record))),
        Err(error) => {
            error!(user = %public, %error, "a user record can't be read; its user gets nothing");
            None
        }
    }
}

/// The key that a client has proven to own: `Ok(None)` where it presents none.
fn proven(request: &AuthRequest<'_>) -> Result<Option<NkeyPublic>, AuthError> {
    let Some(nkey) = request
        .connect
        .nkey
        .as_deref()
        .filter(|nkey| !nkey.is_empty())
    else {
        return Ok(None);
    };
    let key = NkeyPublic::parse(nkey).map_err(|_| AuthError::Refused)?;
    let signature = request.connect.sig.as_deref().unwrap_or_default();
    // Without a nonce there is nothing fresh to sign, so nothing can be proven.
    if request.nonce.is_empty() || !key.verify(request.nonce.as_bytes(), signature) {
        return Err(AuthError::Refused);
    }
    Ok(Some(key))
}

impl Authenticator for Directory {
    fn authenticate(&self, request: &AuthRequest<'_>) -> Decision {
        self.decide(request).into()
    }
}

impl Directory {
    fn decide(&self, request: &AuthRequest<'_>) -> Result<Admission, AuthError> {
        let peer = request.peer;
        let outcome = proven(request).and_then(|key| match key {
            Some(key) if self.shared.internal == Some(key) => Ok(self.admit_internal(&key)),
            key if self.shared.mode == BusAuth::Off => Ok(self.admit_open(key.as_ref())),
            Some(_) if !self.has_authority() => Err(AuthError::Refused),
            Some(key) => self.admit_user(&key),
            None => Err(AuthError::Refused),
        });
        match (outcome, self.shared.mode) {
            (Ok(admission), BusAuth::Soft) if !admission.internal => Ok(Admission {
                grant: self.shared.open.subscribe(),
                ..admission
            }),
            (Err(reason), BusAuth::Soft) => {
                warn!(%peer, %reason, "let in under soft; enforce would refuse this client");
                Ok(self.admit_open(None))
            }
            (Err(reason), _) => {
                debug!(%peer, %reason, "client refused");
                Err(reason)
            }
            (admitted, _) => admitted,
        }
    }
}

#[cfg(test)]
mod tests;
