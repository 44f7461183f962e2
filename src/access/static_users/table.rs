//! The users of one configuration, ready to be looked up, and the grants that their connections
//! follow. A table never changes; a reload makes another that takes the grants over.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use unibus_broker::{Admission, AuthError, CertificateIdentity, Grant};
use unibus_proto::nkey::NkeyPublic;
use unibus_proto::permissions::{Filters, Permissions};

use super::StaticAuthError;
use super::rules;
use super::secrets::{Comparison, DigestKey, StoredSecret};
use crate::access::permissions::control_plane;
use crate::config::auth::{ConnectionType, GLOBAL_ACCOUNT, StaticAuth, StaticUser};

/// The system's own subjects.
const SYSTEM_SUBJECTS: &[u8] = b"$SYS.>";

/// Users by how they prove themselves.
#[derive(Debug)]
pub(super) struct Table {
    names: HashMap<String, Arc<User>>,
    nkeys: HashMap<NkeyPublic, Arc<User>>,
    /// Whoever presents the token.
    token: Option<Arc<User>>,
    /// Whoever presents nothing, where that is enough.
    uninvited: Option<Arc<User>>,
    /// The same over WebSocket, where it is another.
    uninvited_websocket: Option<Arc<User>>,
    /// Everybody, where nothing is asked.
    everybody: Option<Arc<User>>,
    system_account: Arc<str>,
}

/// Somebody who may connect.
#[derive(Debug)]
pub(super) struct User {
    /// Name or nkey; `None` for the token and where nobody is asked.
    name: Option<Arc<str>>,
    nkey: Option<NkeyPublic>,
    secret: Option<StoredSecret>,
    /// `None` is the global account.
    account: Option<Arc<str>>,
    connection_types: Option<Vec<ConnectionType>>,
    permissions: Arc<Permissions>,
    /// What open connections follow.
    grant: watch::Sender<Grant>,
}

impl Table {
    pub(super) fn new(config: &StaticAuth, key: &DigestKey) -> Result<Self, StaticAuthError> {
        let system_account: Arc<str> = config.system_account().into();
        let mut table = Self {
            names: HashMap::new(),
            nkeys: HashMap::new(),
            token: None,
            uninvited: None,
            uninvited_websocket: None,
            everybody: None,
            system_account,
        };
        for (at, user) in config.users.iter().enumerate() {
            table.add(at + 1, user, config, key)?;
        }
        if let Some(token) = &config.token {
            let in_global = |user: &StaticUser| user.account.as_deref().is_none_or(is_global);
            if config.users.iter().any(in_global) {
                return Err(StaticAuthError::TokenAndUsers);
            }
            let secret = StoredSecret::new(token, key).map_err(StaticAuthError::Token)?;
            table.token = Some(Arc::new(User {
                secret: Some(secret),
                ..table.anybody()
            }));
        }
        if let Some(name) = &config.no_auth_user {
            table.uninvited = Some(table.like(name)?);
        }
        if let Some(name) = &config.websocket_no_auth_user {
            table.uninvited_websocket = Some(table.like(name)?);
        }
        if config.is_open() {
            table.everybody = Some(Arc::new(table.anybody()));
        }
        Ok(table)
    }

    /// `number` counts from 1.
    fn add(
        &mut self,
        number: usize,
        user: &StaticUser,
        config: &StaticAuth,
        key: &DigestKey,
    ) -> Result<(), StaticAuthError> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (name, nkey) = match (given(&user.name), given(&user.nkey)) {
            (Some(name), None) => (name, None),
            (None, Some(text)) => {
                let key =
                    NkeyPublic::parse(&text).map_err(|_| StaticAuthError::Nkey(text.clone()))?;
                (text, Some(key))
            }
            (None, None) => return Err(StaticAuthError::Identity(number, "neither")),
            (Some(_), Some(_)) => return Err(StaticAuthError::Identity(number, "both")),
        };
        let made = self.make(&name, nkey, user, config, key)?;
        let before = match nkey {
            Some(nkey) => self.nkeys.insert(nkey, Arc::new(made)),
            None => self.names.insert(name.clone(), Arc::new(made)),
        };
        match before {
            None => Ok(()),
            Some(_) => Err(StaticAuthError::Twice(name)),
        }
    }

    fn make(
        &self,
        name: &str,
        nkey: Option<NkeyPublic>,
        user: &StaticUser,
        config: &StaticAuth,
        key: &DigestKey,
    ) -> Result<User, StaticAuthError> {
        let secret = match &user.password {
            Some(password) => {
                let made = StoredSecret::new(password, key);
                Some(made.map_err(|reason| StaticAuthError::Password {
                    user: name.to_owned(),
                    reason,
                })?)
            }
            None if nkey.is_some() || config.map_certificates => None,
            // Nobody logs in by this name: it is who clients without credentials are.
            None if config.is_no_auth_user(name) => None,
            None => return Err(StaticAuthError::NoPassword(name.to_owned())),
        };
        let account = user.account.as_deref().filter(|name| !is_global(name));
        if let Some(account) = account {
            let known = config.accounts.iter().any(|known| known.name == account);
            if !known && account != &*self.system_account {
                return Err(StaticAuthError::Account {
                    user: name.to_owned(),
                    account: account.to_owned(),
                });
            }
        }
        let permissions = rules::permissions(user.permissions.as_ref()).map_err(|reason| {
            StaticAuthError::Permissions {
                user: name.to_owned(),
                reason,
            }
        })?;
        let permissions = self.guarded(permissions, account);
        Ok(User {
            name: Some(name.into()),
            nkey,
            secret,
            account: account.map(Into::into),
            connection_types: user.allowed_connection_types.clone(),
            grant: active(&permissions),
            permissions,
        })
    }

    /// Everybody in the global account, without a name.
    fn anybody(&self) -> User {
        let permissions = self.guarded(Permissions::all(), None);
        User {
            name: None,
            nkey: None,
            secret: None,
            account: None,
            connection_types: None,
            grant: active(&permissions),
            permissions,
        }
    }

    /// A user with the rights of the one that is called `name`, followed on its own: it goes when
    /// `no_auth_user` does.
    fn like(&self, name: &str) -> Result<Arc<User>, StaticAuthError> {
        let by_key = || self.nkeys.get(&NkeyPublic::parse(name).ok()?);
        let user = self.names.get(name).or_else(by_key);
        let user = user.ok_or_else(|| StaticAuthError::NoAuthUser(name.to_owned()))?;
        Ok(Arc::new(User {
            name: user.name.clone(),
            nkey: None,
            secret: None,
            account: user.account.clone(),
            connection_types: user.connection_types.clone(),
            permissions: Arc::clone(&user.permissions),
            grant: active(&user.permissions),
        }))
    }

    /// Takes away the control plane's streams from everybody, and the system's subjects from those
    /// outside the system account.
    fn guarded(&self, mut permissions: Permissions, account: Option<&str>) -> Arc<Permissions> {
        let of_system = account == Some(&*self.system_account);
        for (set, publishes) in [
            (&mut permissions.publish, true),
            (&mut permissions.subscribe, false),
        ] {
            // Requests to the system are judged where they are answered: some are for everybody.
            let may_name_system = of_system || publishes;
            let more = control_plane()
                .into_iter()
                .filter(|filter| !may_name_system || filter.as_bytes() != SYSTEM_SUBJECTS);
            let all = set.deny.as_slice().iter().cloned().chain(more);
            set.deny = Filters::from_iter(all);
        }
        Arc::new(permissions)
    }

    pub(super) fn has_nkeys(&self) -> bool {
        !self.nkeys.is_empty()
    }

    pub(super) fn user(&self, name: &str) -> Option<&Arc<User>> {
        self.names.get(name)
    }

    /// The user that a certificate names: by one of its names, in their order, or as its subject.
    pub(super) fn certified(&self, certificate: &CertificateIdentity) -> Option<&Arc<User>> {
        let by_name = certificate.names().iter().find_map(|name| self.user(name));
        by_name.or_else(|| {
            let mut users = self.names.iter();
            let found = users.find(|(name, _)| certificate.has_subject(name));
            found.map(|(_, user)| user)
        })
    }

    pub(super) fn nkey(&self, key: &NkeyPublic) -> Option<&Arc<User>> {
        self.nkeys.get(key)
    }

    pub(super) fn token(&self) -> Option<&Arc<User>> {
        self.token.as_ref()
    }

    pub(super) fn uninvited(&self, kind: ConnectionType) -> Option<&Arc<User>> {
        let own = match kind {
            ConnectionType::Websocket => self.uninvited_websocket.as_ref(),
            _ => None,
        };
        own.or(self.uninvited.as_ref())
    }

    pub(super) fn everybody(&self) -> Option<&Arc<User>> {
        self.everybody.as_ref()
    }

    pub(super) fn system_account(&self) -> Arc<str> {
        Arc::clone(&self.system_account)
    }

    /// Lets the users that `before` had, and that prove themselves as before, keep their connections.
    /// Tells nobody yet.
    pub(super) fn take_over(&mut self, before: &Self) {
        for (name, user) in &mut self.names {
            adopt(user, before.names.get(name));
        }
        for (key, user) in &mut self.nkeys {
            adopt(user, before.nkeys.get(key));
        }
        for (user, old) in [
            (&mut self.token, &before.token),
            (&mut self.uninvited, &before.uninvited),
            (&mut self.uninvited_websocket, &before.uninvited_websocket),
            (&mut self.everybody, &before.everybody),
        ] {
            if let Some(user) = user {
                adopt(user, old.as_ref());
            }
        }
    }

    /// Tells the connections of `before` what holds now.
    pub(super) fn tell(&self, before: &Self) {
        for user in self.users() {
            user.grant.send_if_modified(|held| {
                let changed = !matches!(held, Grant::Active(p) if *p == user.permissions);
                *held = Grant::Active(Arc::clone(&user.permissions));
                changed
            });
        }
        let ended = |old: &Arc<User>, now: Option<&Arc<User>>| {
            if now.is_none_or(|now| !now.grant.same_channel(&old.grant)) {
                old.grant.send_replace(Grant::Revoked);
            }
        };
        for (name, old) in &before.names {
            ended(old, self.names.get(name));
        }
        for (key, old) in &before.nkeys {
            ended(old, self.nkeys.get(key));
        }
        for (old, now) in [
            (&before.token, &self.token),
            (&before.uninvited, &self.uninvited),
            (&before.uninvited_websocket, &self.uninvited_websocket),
            (&before.everybody, &self.everybody),
        ] {
            if let Some(old) = old {
                ended(old, now.as_ref());
            }
        }
    }

    fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        let single = [
            &self.token,
            &self.uninvited,
            &self.uninvited_websocket,
            &self.everybody,
        ];
        let named = self.names.values().chain(self.nkeys.values());
        named.chain(single.into_iter().flatten())
    }
}

fn adopt(user: &mut Arc<User>, before: Option<&Arc<User>>) {
    let (Some(user), Some(before)) = (Arc::get_mut(user), before) else {
        return;
    };
    if user.proves_itself_as(before) {
        user.grant = before.grant.clone();
    }
}

fn is_global(account: &str) -> bool {
    account == GLOBAL_ACCOUNT
}

fn active(permissions: &Arc<Permissions>) -> watch::Sender<Grant> {
    watch::channel(Grant::Active(Arc::clone(permissions))).0
}

impl User {
    pub(super) fn compare(&self, presented: &str, key: &DigestKey) -> Comparison {
        match &self.secret {
            Some(secret) => secret.compare(presented, key),
            None => Comparison::Known(false),
        }
    }

    /// What somebody who has proven to be this user may do, if it may connect in this way.
    pub(super) fn admit(&self, kind: ConnectionType) -> Result<Admission, AuthError> {
        let types = self.connection_types.as_deref();
        if types.is_some_and(|types| !types.contains(&kind)) {
            return Err(AuthError::Refused);
        }
        Ok(Admission {
            identity: self.nkey.map(|key| key.to_nkey().into()),
            user: self.name.clone(),
            account: self.account.clone(),
            ..Admission::new(self.grant.subscribe())
        })
    }

    /// Whether connections of `before` may stay: everything but the permissions is the same.
    fn proves_itself_as(&self, before: &Self) -> bool {
        self.name == before.name
            && self.secret == before.secret
            && self.account == before.account
            && self.connection_types == before.connection_types
    }
}
