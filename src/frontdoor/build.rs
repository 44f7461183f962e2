//! nats-server's options → a node's configuration. Resolves host names; binds and opens nothing.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::options::{JetStreamOptions, Options};
use crate::config::args::BusAuth;
use crate::config::{Advertise, ConfigError, JetStreamConfig, NodeConfig, Timing};

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
    /// A limit out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Makes the node's configuration. `server_id` is this process's.
///
/// # Errors
/// [`BuildError`].
pub fn node_config(options: &Options, server_id: &str) -> Result<NodeConfig, BuildError> {
    let host = resolve(&options.host)?;
    let http_host = match &options.http_host {
        Some(host) => resolve(host)?,
        None => host,
    };
    options.limits.check()?;
    Ok(NodeConfig {
        server_id: Some(server_id.to_owned()),
        server_name: options
            .server_name
            .clone()
            .unwrap_or_else(|| server_id.to_owned()),
        client_listen: SocketAddr::new(host, options.port.bind()),
        client_tls: None,
        websocket: None,
        http_listen: None,
        monitor_listen: options
            .http_port
            .map(|port| SocketAddr::new(http_host, port.bind())),
        data_dir: store_dir(options.jetstream.as_ref()),
        jetstream: options.jetstream.as_ref().map(|jetstream| JetStreamConfig {
            domain: jetstream.domain.clone(),
            serve_when_ready: true,
        }),
        bus_auth: BusAuth::Off,
        users_bucket: false,
        internal_id_file: None,
        cluster: None,
        advertise: match &options.client_advertise {
            Some(address) => Advertise::Address(address.clone()),
            None => Advertise::Listener,
        },
        timing: Timing {
            heartbeat: HEARTBEAT_ALONE,
            election_min: ELECTION_ALONE,
            election_max: ELECTION_ALONE * 2,
        },
        limits: options.limits.clone(),
    })
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
