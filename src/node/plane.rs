//! The message plane of a node: who may connect, and the broker they connect to.

use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;
use unibus_broker::{AccountsError, Authenticator, Broker};
use unibus_proto::NodeId;

use super::listeners::Listeners;
use super::{NodeError, parts};
use crate::access::accounts;
use crate::access::static_users::{StaticAuthError, StaticUsers};
use crate::access::{Directory, InternalIdentity};
use crate::config::args::BusAuth;
use crate::config::auth::StaticAuth;
use crate::config::{AuthMode, NodeConfig};

/// Why another configuration's users are not taken. Nothing has changed then.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// Its users can't be used.
    #[error(transparent)]
    Users(#[from] StaticAuthError),
    /// Its accounts can't be used.
    #[error(transparent)]
    Accounts(#[from] AccountsError),
}

/// The broker and those who decide about its clients.
pub(super) struct Plane {
    /// The bus's own users. Without a say where the configuration names the users.
    pub(super) directory: Arc<Directory>,
    /// The configuration's users, where it names them.
    pub(super) users: Option<StaticUsers>,
    pub(super) broker: Broker,
    pub(super) server_id: String,
}

impl Plane {
    pub(super) fn new(
        config: &NodeConfig,
        listeners: &Listeners,
        client: SocketAddr,
        id: NodeId,
    ) -> Result<Self, NodeError> {
        let identity = match &config.internal_id_file {
            Some(path) => InternalIdentity::load_or_create(path)?,
            None => InternalIdentity::generate()?,
        };
        let directory = Arc::new(Directory::new(
            config.auth.bus().unwrap_or(BusAuth::Off),
            &identity,
        ));
        // Nobody is admitted by what a restart finds on disk until the cluster has confirmed it.
        directory.set_authority(config.auth.bus().is_none());
        let users = match &config.auth {
            AuthMode::Bus(_) => None,
            AuthMode::Static(auth) => Some(StaticUsers::new(auth)?),
        };
        let authenticator: Arc<dyn Authenticator> = match &users {
            None => Arc::clone(&directory) as _,
            Some(users) => Arc::new(users.clone()),
        };
        let options = parts::broker_options(config, &listeners.addresses(client, None));
        let server_id = options.server_id.clone();
        let broker = Broker::new(options, authenticator);
        broker.set_node(id);
        if let AuthMode::Static(auth) = &config.auth {
            broker.set_accounts(&accounts::options_of(auth))?;
            broker.set_system_account(auth.system_account());
        }
        Ok(Self {
            directory,
            users,
            broker,
            server_id,
        })
    }
}

/// Takes the users and accounts of another configuration: see [`StaticUsers::reload`]. INFO follows.
pub(super) fn reload_users(
    users: &StaticUsers,
    broker: &Broker,
    auth: &StaticAuth,
) -> Result<(), ReloadError> {
    let taken = users.prepare(auth)?;
    broker.set_accounts(&accounts::options_of(auth))?;
    users.adopt(taken);
    broker.set_auth_required(users.auth_required());
    Ok(())
}
