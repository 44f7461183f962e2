//! Who may connect and what they may do: the replicated users as a table in memory, kept up to date
//! by the replica's observer, and the broker's [`Authenticator`] over it. Every open connection
//! follows its user's grant live. Fails closed: a record that can't be read grants nothing. Never
//! reads or writes the store itself.

pub mod accounts;
pub mod identity;
pub mod permissions;
pub mod static_users;
pub mod users;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{debug, error, warn};
use unibus_broker::{Admission, AuthError, AuthRequest, Authenticator, Decision, Grant};
use unibus_proto::nkey::NkeyPublic;
use unibus_proto::permissions::Permissions;

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

#[derive(Debug, Default)]
struct Table {
    users: HashMap<NkeyPublic, Arc<UserRecord>>,
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

    /// Takes `records` (key in hex, JSON value) as all there are: after a start or a snapshot.
    pub fn replace_users<K: AsRef<str>, V: AsRef<[u8]>>(
        &self,
        records: impl IntoIterator<Item = (K, V)>,
    ) {
        let users = records
            .into_iter()
            .filter_map(|(key, value)| readable(key.as_ref(), value.as_ref()))
            .collect();
        let mut table = self.shared.table.lock();
        table.users = users;
        let followed: Vec<NkeyPublic> = table.followed.keys().copied().collect();
        for key in followed {
            table.tell(&key);
        }
    }

    /// Takes one record that was written. A record that can't be read removes its user.
    pub fn upsert(&self, key: &str, value: &[u8]) {
        match readable(key, value) {
            Some((public, record)) => {
                let mut table = self.shared.table.lock();
                table.users.insert(public, record);
                table.tell(&public);
            }
            None => self.remove(key),
        }
    }

    /// Takes note that a record was deleted: its user gets nothing from here on.
    pub fn remove(&self, key: &str) {
        let Ok(public) = NkeyPublic::parse(key) else {
            return;
        };
        let mut table = self.shared.table.lock();
        table.users.remove(&public);
        table.tell(&public);
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
            Some(user) => Grant::Active(Arc::new(permissions::permissions_of(user))),
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
    /// Tells those who are connected as `key` what holds for them.
    fn tell(&mut self, key: &NkeyPublic) {
        let Some(sender) = self.followed.get(key) else {
            return;
        };
        let grant = match self.users.get(key) {
            Some(user) if user.status == Status::Active => {
                Grant::Active(Arc::new(permissions::permissions_of(user)))
            }
            _ => Grant::Revoked,
        };
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
        if let Some(sender) = self.followed.get(key) {
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
