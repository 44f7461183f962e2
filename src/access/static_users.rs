//! The users of a configuration (nats-surface §1.12): name and password, nkey, token, or nobody asked;
//! the broker's [`Authenticator`] over them, and their reload. Fails closed: what can't be understood
//! is refused when it is configured, and nobody is let in by it. Never keeps a plain password.

mod rules;
mod secrets;
mod table;

use std::sync::Arc;

use arc_swap::ArcSwap;
use thiserror::Error;
use tracing::debug;
use unibus_broker::{Admission, AuthError, AuthRequest, Authenticator, ConnectionKind, Decision};
use unibus_proto::nkey::NkeyPublic;

pub use self::rules::RuleError;
pub use self::secrets::SecretError;
use self::secrets::{Comparison, DigestKey, SlowCheck, SlowChecks};
use self::table::{Table, User};
use crate::config::auth::{ConnectionType, StaticAuth};

/// Why users can't be taken from a configuration.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
pub enum StaticAuthError {
    /// Neither or both of name and nkey.
    #[error("user number {0} has {1}; each user has either a name or an nkey")]
    Identity(usize, &'static str),
    /// Its public key is none.
    #[error(
        "user {0:?} has an nkey that is no public user key; wanted U and 55 letters and digits"
    )]
    Nkey(String),
    /// Two of them.
    #[error("user {0:?} is configured twice; names and nkeys are unique over all accounts")]
    Twice(String),
    /// Somebody who could never log in, or whom everybody could be.
    #[error("user {0:?} has no password; give one, or an nkey in the place of the name")]
    NoPassword(String),
    /// A password of no use.
    #[error("the password of user {user:?} is of no use: {reason}")]
    Password {
        /// Whose.
        user: String,
        /// Why.
        reason: SecretError,
    },
    /// A token of no use.
    #[error("the token is of no use: {0}")]
    Token(SecretError),
    /// Both ways of asking.
    #[error("there are users and a token; a token is for everybody, so choose one of them")]
    TokenAndUsers,
    /// Permissions of no use.
    #[error("the permissions of user {user:?} are of no use: {reason}")]
    Permissions {
        /// Whose.
        user: String,
        /// Why.
        reason: RuleError,
    },
    /// Nobody of that name.
    #[error("no_auth_user is {0:?}, which is no configured user; name one of the users")]
    NoAuthUser(String),
    /// An account of that name is not there.
    #[error("user {user:?} is in account {account:?}, which is not configured")]
    Account {
        /// Who.
        user: String,
        /// Where.
        account: String,
    },
}

/// The users of a configuration and everybody who is connected as one of them. A cheap handle.
#[derive(Clone, Debug)]
pub struct StaticUsers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    table: ArcSwap<Table>,
    key: DigestKey,
    slow: SlowChecks,
}

/// A configuration that has been found good.
#[derive(Debug)]
pub struct Prepared(Table);

/// What is known about a client.
#[derive(Debug)]
enum Step {
    Known(Result<Admission, AuthError>),
    /// This user's password has to be checked with bcrypt.
    Slow(Arc<User>, ConnectionType, SlowCheck),
}

impl Step {
    fn refused() -> Self {
        Self::Known(Err(AuthError::Refused))
    }
}

impl StaticUsers {
    /// Checks what is configured.
    ///
    /// # Errors
    /// [`StaticAuthError`]: the first entry that is of no use.
    pub fn new(config: &StaticAuth) -> Result<Self, StaticAuthError> {
        let key = DigestKey::random();
        let table = Table::new(config, &key)?;
        Ok(Self {
            shared: Arc::new(Shared {
                table: ArcSwap::from_pointee(table),
                key,
                slow: SlowChecks::new(),
            }),
        })
    }

    /// Takes another configuration. Open connections follow: new permissions hold at once, and those
    /// whose user is gone, or proves itself otherwise now, are closed.
    ///
    /// # Errors
    /// [`StaticAuthError`]; nothing has changed then.
    pub fn reload(&self, config: &StaticAuth) -> Result<(), StaticAuthError> {
        self.adopt(self.prepare(config)?);
        Ok(())
    }

    /// Checks another configuration: the first half of a reload.
    ///
    /// # Errors
    /// [`StaticAuthError`].
    pub fn prepare(&self, config: &StaticAuth) -> Result<Prepared, StaticAuthError> {
        Table::new(config, &self.shared.key).map(Prepared)
    }

    /// Puts it in force: the second half.
    pub fn adopt(&self, Prepared(mut next): Prepared) {
        let before = self.shared.table.load_full();
        next.take_over(&before);
        let next = Arc::new(next);
        self.shared.table.store(Arc::clone(&next));
        // After the change: whoever was looked up in the table before still hears of it.
        next.tell(&before);
    }

    /// Whether INFO says that credentials are required: not where some user needs none.
    #[must_use]
    pub fn auth_required(&self) -> bool {
        let table = self.shared.table.load();
        table.everybody().is_none() && table.uninvited(ConnectionType::Standard).is_none()
    }

    /// The account of `$SYS`.
    #[must_use]
    pub fn system_account(&self) -> Arc<str> {
        self.shared.table.load().system_account()
    }

    /// Everything that can be said without slow work.
    fn decide(&self, request: &AuthRequest<'_>) -> Step {
        let table = self.shared.table.load();
        if let Some(everybody) = table.everybody() {
            return Step::Known(everybody.admit(connection_type(request)));
        }
        let connect = request.connect;
        if let Some(nkey) = connect.nkey.as_deref()
            && table.has_nkeys()
        {
            return Step::Known(by_nkey(&table, nkey, request));
        }
        if let Some(certificate) = request.certificate {
            let user = table.certified(certificate).ok_or(AuthError::Refused);
            return Step::Known(user.and_then(|user| user.admit(connection_type(request))));
        }
        if !presents_something(request)
            && let Some(user) = table.uninvited(connection_type(request))
        {
            return Step::Known(user.admit(connection_type(request)));
        }
        if let Some(token) = table.token() {
            let presented = connect.auth_token.as_deref().or(connect.user.as_deref());
            return self.by_secret(token, presented.unwrap_or_default(), request);
        }
        match connect.user.as_deref().and_then(|name| table.user(name)) {
            Some(user) => {
                self.by_secret(user, connect.pass.as_deref().unwrap_or_default(), request)
            }
            None => Step::refused(),
        }
    }

    fn by_secret(&self, user: &Arc<User>, presented: &str, request: &AuthRequest<'_>) -> Step {
        match user.compare(presented, &self.shared.key) {
            Comparison::Known(true) => Step::Known(user.admit(connection_type(request))),
            Comparison::Known(false) => Step::refused(),
            Comparison::Slow(check) => {
                Step::Slow(Arc::clone(user), connection_type(request), check)
            }
        }
    }
}

impl Authenticator for StaticUsers {
    fn authenticate(&self, request: &AuthRequest<'_>) -> Decision {
        let peer = request.peer;
        match self.decide(request) {
            Step::Known(decided) => {
                if let Err(reason) = &decided {
                    debug!(%peer, %reason, "client refused");
                }
                decided.into()
            }
            Step::Slow(user, kind, check) => {
                let checking = self.shared.slow.check(check);
                Decision::Later(Box::pin(async move {
                    if checking.await {
                        return user.admit(kind);
                    }
                    debug!(%peer, "client refused: wrong password");
                    Err(AuthError::Refused)
                }))
            }
        }
    }
}

fn connection_type(request: &AuthRequest<'_>) -> ConnectionType {
    match request.kind {
        ConnectionKind::Nats => ConnectionType::Standard,
        ConnectionKind::WebSocket => ConnectionType::Websocket,
    }
}

/// Whether the client presents any credentials at all.
fn presents_something(request: &AuthRequest<'_>) -> bool {
    let connect = request.connect;
    [
        &connect.user,
        &connect.pass,
        &connect.auth_token,
        &connect.nkey,
        &connect.jwt,
        &connect.sig,
    ]
    .iter()
    .any(|field| field.is_some())
}

fn by_nkey(table: &Table, nkey: &str, request: &AuthRequest<'_>) -> Result<Admission, AuthError> {
    let key = NkeyPublic::parse(nkey).map_err(|_| AuthError::Refused)?;
    let user = table.nkey(&key).ok_or(AuthError::Refused)?;
    let signature = request.connect.sig.as_deref().unwrap_or_default();
    // Without a nonce there is nothing fresh to sign, so nothing can be proven.
    if request.nonce.is_empty() || !key.verify(request.nonce.as_bytes(), signature) {
        return Err(AuthError::Refused);
    }
    user.admit(connection_type(request))
}

#[cfg(test)]
mod tests;
