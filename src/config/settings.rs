//! What the operator asked for, with files looked at and names resolved, but not yet judged: the
//! boot guard reads it, and [`super::NodeConfig`] is made from it only when the guard has nothing
//! to say. Never listens, never connects, never writes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use super::args::{BusAuth, ClusterArgs, NodeArgs, RunArgs};
use super::client::ClientSettings;
use super::files::{self, FileFact};
use super::limits::{LimitSettings, Limits};
use super::{ACCESS_STALENESS_DEFAULT, ConfigError, Timing, is_loopback, is_name};
use crate::control::ControlTls;
use crate::mesh::{ROUTE_PORT_DEFAULT, RouteAddr};

/// TCP port of the NATS listener where none is given.
pub const PORT_DEFAULT: u16 = 4222;
/// TCP port of the control plane where none is given.
pub const HTTP_PORT_DEFAULT: u16 = 8470;
/// TCP port of monitoring where none is given.
pub const MONITOR_PORT_DEFAULT: u16 = 8222;

/// Most entries in `--routes`.
const ROUTES_MAX: usize = 64;

/// The parsed configuration. `Option`s say "the operator said nothing".
#[derive(Clone)]
pub struct Settings {
    /// Where clients connect: given, or the default that fits the routes.
    pub bind: IpAddr,
    /// TCP port of the NATS listener.
    pub port: u16,
    /// Clients' TLS and the WebSocket listener.
    pub client: ClientSettings,
    /// TCP port of the control plane.
    pub http_port: u16,
    /// Its certificate, where it has one of its own.
    pub http_tls: Option<ControlTls>,
    /// Rooms in cleartext are refused whoever can connect.
    pub encrypted_rooms: bool,
    /// TCP port of monitoring; 0 is off.
    pub monitor_port: u16,
    /// Folder of everything stored.
    pub data_dir: PathBuf,
    /// The node's name: given, the certificate's, or the host's.
    pub server_name: String,
    /// A flag gave the name.
    pub server_name_explicit: bool,
    /// The mode, where the operator named one.
    pub bus_auth: Option<BusAuth>,
    /// File of the internal identity.
    pub internal_id_file: PathBuf,
    /// What clients are told, where it differs from where we listen.
    pub client_advertise: Option<String>,
    /// Clients are told nothing.
    pub no_advertise: bool,
    /// The other nodes; empty for a single node.
    pub routes: Vec<RouteAddr>,
    /// UDP port of the route endpoint.
    pub cluster_port: u16,
    /// Address of the route endpoint.
    pub cluster_bind: IpAddr,
    /// The cluster's name, where the operator gave one.
    pub cluster_name: Option<String>,
    /// Route certificate.
    pub cert: Option<FileFact>,
    /// Its key.
    pub key: Option<FileFact>,
    /// The bus CA.
    pub ca: Option<FileFact>,
    /// The DNS names in the route certificate.
    pub certificate_names: Vec<String>,
    /// User half of the route secret.
    pub cluster_user: Option<String>,
    /// Password half of the route secret.
    pub cluster_pass: Option<String>,
    /// File of the route secret, where no flags give it.
    pub secret_file: Option<FileFact>,
    /// Consensus timing.
    pub timing: Timing,
    /// How long a node without a leader may go on by what it knows of users and rooms.
    pub access_staleness: Duration,
    /// Bounds.
    pub limits: Limits,
}

impl std::fmt::Debug for Settings {
    /// Leaves the password out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("bind", &self.bind)
            .field("port", &self.port)
            .field("bus_auth", &self.bus_auth)
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Whether a listener of clients takes connections of other hosts.
    pub(super) fn serves_other_hosts(&self) -> bool {
        let websocket = self.client.websocket().map(|ws| ws.listen.ip());
        let mut listeners = std::iter::once(self.bind).chain(websocket);
        listeners.any(|address| !address.is_loopback())
    }

    /// Fills in every default and looks at the files that are named or found.
    ///
    /// # Errors
    /// [`ConfigError`] for values that mean nothing whatever the mode is.
    pub fn gather(args: &RunArgs) -> Result<Self, ConfigError> {
        let (node, cluster) = (&args.node, &args.cluster);
        if cluster.routes.len() > ROUTES_MAX {
            let found = cluster.routes.len() as u64;
            return Err(ConfigError::Limit {
                flag: "--routes",
                found,
                wanted: "at most 64 nodes",
            });
        }
        let files = RouteFiles::find(cluster)?;
        let data_dir = node
            .data_dir
            .clone()
            .unwrap_or_else(|| PathBuf::from("./unibus-data"));
        let bind = node.bind.unwrap_or_else(|| default_bind(&cluster.routes));
        let internal_id_file = node.internal_id_file.clone();
        let settings = Self {
            bind,
            port: node.port.unwrap_or(PORT_DEFAULT),
            client: ClientSettings::gather(&args.client, bind),
            http_port: node.http_port.unwrap_or(HTTP_PORT_DEFAULT),
            http_tls: http_tls(node),
            encrypted_rooms: node.encrypted_rooms,
            monitor_port: monitor_port(args),
            internal_id_file: internal_id_file.unwrap_or_else(|| data_dir.join("internal.json")),
            data_dir,
            server_name: server_name(node.server_name.as_ref(), &files.names),
            server_name_explicit: node.server_name.is_some(),
            bus_auth: node.bus_auth,
            client_advertise: node.client_advertise.clone(),
            no_advertise: node.no_advertise,
            cluster_port: cluster.cluster_port.unwrap_or(ROUTE_PORT_DEFAULT),
            cluster_bind: cluster
                .cluster_bind
                .unwrap_or_else(|| default_cluster_bind(bind, &cluster.routes)),
            routes: cluster.routes.clone(),
            cluster_name: cluster.cluster_name.clone(),
            cert: files.cert,
            key: files.key,
            ca: files.ca,
            certificate_names: files.names,
            cluster_user: cluster.cluster_user.clone(),
            cluster_pass: cluster.cluster_pass.clone(),
            secret_file: files.secret,
            timing: timing(cluster)?,
            access_staleness: cluster
                .access_staleness
                .map_or(ACCESS_STALENESS_DEFAULT, Duration::from_secs),
            limits: limits(args)?,
        };
        settings.check()?;
        Ok(settings)
    }

    /// The mode that is in force: given, or `enforce` as soon as this is a node of a cluster.
    #[must_use]
    pub fn effective_bus_auth(&self) -> BusAuth {
        let default = if self.is_clustered() {
            BusAuth::Enforce
        } else {
            BusAuth::Off
        };
        self.bus_auth.unwrap_or(default)
    }

    /// Routes or a cluster name were given.
    #[must_use]
    pub fn is_clustered(&self) -> bool {
        !self.routes.is_empty() || self.cluster_name.is_some()
    }

    fn check(&self) -> Result<(), ConfigError> {
        named("--server-name", &self.server_name)?;
        named(
            "--cluster-name",
            self.cluster_name.as_deref().unwrap_or("unibus"),
        )?;
        if let Some(advertised) = &self.client_advertise {
            let parsed = advertised.parse::<RouteAddr>();
            if parsed.is_err() || advertised.contains('=') {
                let found = advertised.clone();
                return Err(ConfigError::Advertise { found });
            }
        }
        let taken = [("--port", self.port), ("--http-port", self.http_port)];
        if self.port != 0 && self.port == self.http_port {
            return Err(ConfigError::PortTwice {
                first: taken[0].0,
                second: taken[1].0,
                port: self.port,
            });
        }
        let clash = taken
            .iter()
            .find(|(_, p)| *p != 0 && *p == self.monitor_port);
        match clash {
            Some((first, port)) => Err(ConfigError::PortTwice {
                first,
                second: "--monitor-port",
                port: *port,
            }),
            None => Ok(()),
        }
    }
}

/// Where somebody looks for a fault, monitoring is on.
fn monitor_port(args: &RunArgs) -> u16 {
    match args.node.monitor_port {
        Some(0) if args.log.nats_debug => MONITOR_PORT_DEFAULT,
        port => port.unwrap_or(MONITOR_PORT_DEFAULT),
    }
}

fn named(flag: &'static str, name: &str) -> Result<(), ConfigError> {
    if is_name(name) {
        Ok(())
    } else {
        Err(ConfigError::Name {
            flag,
            found: name.to_owned(),
        })
    }
}

/// The files that prove a node to its peers.
struct RouteFiles {
    cert: Option<FileFact>,
    key: Option<FileFact>,
    ca: Option<FileFact>,
    secret: Option<FileFact>,
    names: Vec<String>,
}

impl RouteFiles {
    /// A single node looks at no folder: it must start the same wherever it is started.
    fn find(args: &ClusterArgs) -> Result<Self, ConfigError> {
        let dir = if args.routes.is_empty() {
            None
        } else {
            files::config_dir(args.config_dir.as_ref())?
        };
        let dir = dir.as_deref();
        let cert = files::pick(args.route_tls_cert.as_ref(), dir, "node.crt");
        let names = match cert.as_ref().filter(|fact| fact.present) {
            Some(fact) => files::certificate_names(&fact.path)?,
            None => Vec::new(),
        };
        let by_flags = args.cluster_user.is_some() || args.cluster_pass.is_some();
        let secret = if by_flags {
            None
        } else {
            files::pick(None, dir, "route.secret")
        };
        Ok(Self {
            cert,
            key: files::pick(args.route_tls_key.as_ref(), dir, "node.key"),
            ca: files::pick(args.route_tls_ca.as_ref(), dir, "ca.crt"),
            secret,
            names,
        })
    }
}

fn server_name(given: Option<&String>, certificate: &[String]) -> String {
    match given.or_else(|| certificate.first()) {
        Some(name) => name.clone(),
        None => files::host_name(),
    }
}

/// Clients on other hosts must reach a node of a real cluster; where every route is on loopback the
/// whole cluster is one machine's, and so are its clients.
fn default_bind(routes: &[RouteAddr]) -> IpAddr {
    if routes.iter().all(is_loopback) {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    }
}

/// clap sees to it that the two come together.
fn http_tls(node: &NodeArgs) -> Option<ControlTls> {
    let (cert, key) = (node.http_tls_cert.clone()?, node.http_tls_key.clone()?);
    Some(ControlTls { cert, key })
}

fn default_cluster_bind(bind: IpAddr, routes: &[RouteAddr]) -> IpAddr {
    let six = bind.is_ipv6() || routes.iter().any(|route| route.host.contains(':'));
    match (routes.iter().all(is_loopback), six) {
        (true, false) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        (true, true) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        (false, false) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        (false, true) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

fn timing(args: &ClusterArgs) -> Result<Timing, ConfigError> {
    let base = Timing::default();
    let heartbeat = args
        .heartbeat_ms
        .map_or(base.heartbeat, Duration::from_millis);
    let election_min = args
        .election_timeout_ms
        .map_or(base.election_min, Duration::from_millis);
    Timing::new(heartbeat, election_min)
}

fn limits(args: &RunArgs) -> Result<Limits, ConfigError> {
    Limits::new(&LimitSettings {
        payload_bytes_max: args.limits.max_payload,
        pending_bytes_max: args.limits.max_pending,
        connections_max: args.limits.max_connections,
        subscriptions_max: args.limits.max_subscriptions,
        write_deadline_ms: args.limits.write_deadline_ms,
        auth_timeout_ms: args.limits.auth_timeout_ms,
        ping_interval_ms: args.limits.ping_interval_ms,
        cache_mib: args.limits.cache_mb,
        log_cache_mib: args.limits.log_cache_mb,
        checkpoint_log_mib: args.limits.checkpoint_log_mb,
        batches: args.limits.batches.clone(),
        http: args.limits.http.clone(),
    })
}
