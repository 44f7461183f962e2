//! nats-server's options → a node's configuration. Resolves host names; binds and opens nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use thiserror::Error;

use super::options::{JetStreamOptions, Options};
use super::routes::{self, RoutesError};
use crate::config::limits::Limits;
use crate::config::websocket::WebSocket;
use crate::config::{Advertise, AuthMode, ConfigError, JetStreamConfig, NodeConfig, Timing};

/// Heartbeat of a store that has no peers to hear it.
const HEARTBEAT_ALONE: Duration = Duration::from_millis(50);
/// A store without peers waits this long, at most twice, before it elects itself again at a restart:
/// there is nobody else whose leadership it could disturb.
const ELECTION_ALONE: Duration = Duration::from_millis(100);

/// Options that make no configuration.
#[derive(Debug, Error)]
pub enum BuildError {
    /// A host that has no address.
    #[error("host {host:?} has no address: {source}; wanted an IP or a name of this machine")]
    Host {
        /// The host.
        host: String,
        /// Why.
        source: std::io::Error,
    },
    /// No cluster.
    #[error(transparent)]
    Routes(#[from] RoutesError),
    /// Streams of more than one account.
    #[error(
        "JetStream is enabled in the accounts {0}; this server keeps streams of one account: leave jetstream out of the others"
    )]
    JetStreamAccounts(String),
    /// A limit out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// A node's configuration, and what it needs while it starts.
#[derive(Debug)]
pub struct Built {
    /// The configuration.
    pub config: NodeConfig,
    /// The folder with the keys of the routes; may go once the node has started.
    pub routes: Option<TempDir>,
}

/// Makes the node's configuration. `server_id` is this process's.
///
/// # Errors
/// [`BuildError`].
pub fn node_config(options: &Options, server_id: &str) -> Result<Built, BuildError> {
    let host = resolve(&options.host)?;
    let http_host = match &options.http_host {
        Some(host) => resolve(host)?,
        None => host,
    };
    options.limits.check()?;
    let server_name = options
        .server_name
        .clone()
        .unwrap_or_else(|| server_id.to_owned());
    let (cluster, routes) = match &options.cluster {
        Some(asked) => {
            let host = asked.host.as_deref().map_or(Ok(host), resolve)?;
            let (config, folder) = routes::cluster(asked, host, &server_name)?;
            (Some(config), Some(folder))
        }
        None => (None, None),
    };
    let timing = match &cluster {
        Some(_) => Timing::default(),
        None => Timing {
            heartbeat: HEARTBEAT_ALONE,
            election_min: ELECTION_ALONE,
            election_max: ELECTION_ALONE * 2,
        },
    };
    let config = NodeConfig {
        server_id: Some(server_id.to_owned()),
        server_name,
        client_listen: SocketAddr::new(host, options.port.bind()),
        client_tls: options.tls.clone(),
        websocket: websocket(options)?,
        http_listen: None,
        http_tls: None,
        encrypted_rooms: false,
        monitor_listen: options
            .http_port
            .map(|port| SocketAddr::new(http_host, port.bind())),
        data_dir: store_dir(options.jetstream.as_ref()),
        jetstream: jetstream(options)?,
        auth: AuthMode::Static(Box::new(options.auth.clone())),
        server_tags: options.server_tags.clone(),
        internal_id_file: None,
        cluster,
        advertise: match &options.client_advertise {
            _ if options
                .cluster
                .as_ref()
                .is_some_and(|cluster| cluster.no_advertise) =>
            {
                Advertise::Nothing
            }
            Some(address) => Advertise::Address(address.clone()),
            None => Advertise::Listener,
        },
        timing,
        access_staleness: crate::config::ACCESS_STALENESS_DEFAULT,
        limits: Limits {
            batches: options
                .jetstream
                .as_ref()
                .map_or_else(Default::default, |js| js.batches),
            ..options.limits.clone()
        },
    };
    Ok(Built { config, routes })
}

/// The WebSocket listener.
///
/// # Errors
/// [`BuildError::Host`].
pub(super) fn websocket(options: &Options) -> Result<Option<WebSocket>, BuildError> {
    let Some(asked) = &options.websocket else {
        return Ok(None);
    };
    let Some(port) = asked.port else {
        return Ok(None);
    };
    let host = match &asked.host {
        Some(host) => resolve(host)?,
        None => Ipv4Addr::UNSPECIFIED.into(),
    };
    let base = WebSocket::new(SocketAddr::new(host, port.bind()));
    Ok(Some(WebSocket {
        advertise: asked.advertise.clone(),
        tls: asked.tls.clone(),
        no_tls: asked.no_tls,
        compression: asked.compression,
        handshake_timeout: asked.handshake_timeout.unwrap_or(base.handshake_timeout),
        same_origin: asked.same_origin,
        allowed_origins: asked.allowed_origins.clone(),
        no_auth_user: asked.no_auth_user.clone(),
        ..base
    }))
}

fn jetstream(options: &Options) -> Result<Option<JetStreamConfig>, BuildError> {
    let Some(asked) = &options.jetstream else {
        return Ok(None);
    };
    Ok(Some(JetStreamConfig {
        domain: asked.domain.clone(),
        account: jetstream_account(options)?,
        max_memory: asked.max_memory,
        max_storage: asked.max_storage,
        strict: asked.strict,
        limits: asked.limits.clone(),
        serve_when_ready: options.cluster.is_none(),
    }))
}

/// The account whose streams these are: the one that asks for JetStream, or everybody's where there
/// are no accounts.
fn jetstream_account(options: &Options) -> Result<Option<String>, BuildError> {
    let accounts = options.auth.accounts.iter();
    let asking: Vec<&str> = accounts
        .filter(|account| account.jetstream.is_some())
        .map(|account| account.name.as_str())
        .collect();
    match asking.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some((*one).to_owned())),
        _ => Err(BuildError::JetStreamAccounts(asking.join(", "))),
    }
}

/// `STORE_DIR/jetstream`, as nats-server keeps it.
fn store_dir(jetstream: Option<&JetStreamOptions>) -> PathBuf {
    let given = jetstream.and_then(|jetstream| jetstream.store_dir.clone());
    given
        .unwrap_or_else(|| std::env::temp_dir().join("nats"))
        .join("jetstream")
}

fn resolve(host: &str) -> Result<IpAddr, BuildError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse() {
        return Ok(ip);
    }
    let failed = |source| BuildError::Host {
        host: host.to_owned(),
        source,
    };
    let found: Vec<SocketAddr> = (bare, 0).to_socket_addrs().map_err(failed)?.collect();
    // Clients try IPv4 first, and so does nats-server.
    let best = found
        .iter()
        .find(|at| at.is_ipv4())
        .or_else(|| found.first());
    best.map(SocketAddr::ip)
        .ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))
}
