//! The node's configuration: typed, complete and valid by construction. [`args`] is what may be
//! written, [`settings`] is what was asked for, the boot guard judges it, and [`NodeConfig`] is
//! what is true. Nothing here listens, connects or writes.

pub mod args;
pub mod auth;
pub mod batches;
pub mod client;
pub mod client_args;
pub mod files;
pub mod http_args;
pub mod limits;
pub mod settings;
pub mod tls;
pub mod websocket;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use self::args::{BusAuth, RunArgs};
use self::auth::StaticAuth;
use self::limits::Limits;
use self::settings::Settings;
use self::tls::ClientTls;
use self::websocket::WebSocket;
use crate::boot_guard::{self, Violation};
use crate::control::ControlTls;
use crate::http::OwnNames;
use crate::mesh::RouteAddr;

/// Longest node or cluster name, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// A value that means nothing, whatever the mode. Each says which flag, what was found and what is
/// wanted.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A bound outside its range.
    #[error("{flag} is {found}; wanted {wanted}")]
    Limit {
        /// The flag.
        flag: &'static str,
        /// What it says.
        found: u64,
        /// What it may say.
        wanted: &'static str,
    },
    /// A name with characters that would break the protocol's text or a log line.
    #[error("{flag} is {found:?}; wanted 1 to 128 letters, digits, '.', '-' and '_'")]
    Name {
        /// The flag.
        flag: &'static str,
        /// What it says.
        found: String,
    },
    /// Two listeners on one port.
    #[error("{first} and {second} are both {port}; give one of them another port")]
    PortTwice {
        /// One flag.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// The port.
        port: u16,
    },
    /// `--config-dir` names no folder.
    #[error(
        "--config-dir {0:?} is no folder; make it and copy ca.crt, node.crt, node.key and route.secret into it"
    )]
    ConfigDir(PathBuf),
    /// `--client-advertise` is no address.
    #[error("--client-advertise is {found:?}; wanted host or host:port")]
    Advertise {
        /// What it says.
        found: String,
    },
    /// The route certificate can't be used.
    #[error(
        "the route certificate {path:?} can't be used: {reason}; mint one with: unibus-node pki issue --dir DIR --name NAME --host HOST"
    )]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The shape is one that this binary does not boot in.
    #[error("{}", boot_guard::report(.0))]
    Refused(Vec<Violation>),
}

/// Everything a node needs to know to start. A value of this type has passed the boot guard.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// What clients and monitoring know this process by; `None` = a new one is made.
    pub server_id: Option<String>,
    /// This node's name.
    pub server_name: String,
    /// Where clients connect (TCP); port 0 takes a free one.
    pub client_listen: SocketAddr,
    /// TLS of the NATS listener; `None` is plain TCP.
    pub client_tls: Option<ClientTls>,
    /// Where clients connect by WebSocket; `None` is nowhere.
    pub websocket: Option<WebSocket>,
    /// Where the control plane listens (TCP); `None` is off.
    pub http_listen: Option<SocketAddr>,
    /// Its certificate; `None` is plain HTTP.
    pub http_tls: Option<ControlTls>,
    /// Rooms in cleartext are refused: asked for, or because other hosts can connect.
    pub encrypted_rooms: bool,
    /// Where monitoring listens (TCP); `None` is off.
    pub monitor_listen: Option<SocketAddr>,
    /// Folder of everything stored. Not looked at where [`Self::jetstream`] is off.
    pub data_dir: PathBuf,
    /// Streams and what is stored for them; `None` = JetStream is off and no store is opened.
    pub jetstream: Option<JetStreamConfig>,
    /// Who gets in.
    pub auth: AuthMode,
    /// Words of the operator about this node, for placement and monitoring.
    pub server_tags: Vec<String>,
    /// File of the node's own service identity (mode 0600); `None` = it lives in memory, as long as
    /// the process.
    pub internal_id_file: Option<PathBuf>,
    /// Name told to clients as the cluster's, `None` for a single node.
    pub cluster: Option<ClusterConfig>,
    /// What clients are told about where to connect.
    pub advertise: Advertise,
    /// Consensus timing.
    pub timing: Timing,
    /// How long a node without a leader may go on by what it knows of users and rooms.
    pub access_staleness: Duration,
    /// Every bound.
    pub limits: Limits,
}

/// How JetStream presents itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct JetStreamConfig {
    /// The domain told to clients.
    pub domain: Option<String>,
    /// The account that it serves; `None` = that of everybody (`$G`).
    pub account: Option<String>,
    /// Most bytes of streams in memory; `None` = no limit.
    pub max_memory: Option<u64>,
    /// Most bytes of streams in files; `None` = no limit.
    pub max_storage: Option<u64>,
    /// Requests with fields that are not known are refused.
    pub strict: bool,
    /// What a single stream or consumer may ask for.
    pub limits: JetStreamLimits,
    /// No client is served before the store answers. Only for a node without peers: it needs
    /// nobody's vote.
    pub serve_when_ready: bool,
}

/// What a single stream or consumer may ask for; `None` = the default, or no limit.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct JetStreamLimits {
    /// Messages of one pull request.
    pub max_request_batch: Option<u64>,
    /// Unacknowledged messages of one consumer.
    pub max_ack_pending: Option<u64>,
    /// The longest duplicate window of a stream.
    pub duplicate_window: Option<Duration>,
}

/// Who decides who gets in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AuthMode {
    /// The users of the replicated bucket, as strictly as this.
    Bus(BusAuth),
    /// The users of a configuration file.
    Static(Box<StaticAuth>),
}

impl AuthMode {
    /// The mode of the replicated users, where they decide.
    #[must_use]
    pub fn bus(&self) -> Option<BusAuth> {
        match self {
            Self::Bus(mode) => Some(*mode),
            Self::Static(_) => None,
        }
    }

    /// Whether clients have to prove who they are.
    #[must_use]
    pub fn is_enforced(&self) -> bool {
        match self {
            Self::Bus(mode) => *mode == BusAuth::Enforce,
            Self::Static(auth) => !auth.is_open() && auth.no_auth_user.is_none(),
        }
    }
}

/// The other nodes, and how this one proves itself to them.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Name that every node must share.
    pub name: String,
    /// Where other nodes connect (UDP, QUIC).
    pub listen: SocketAddr,
    /// The nodes, possibly including this one.
    pub routes: Vec<RouteAddr>,
    /// Certificate, key and CA.
    pub tls: RouteTls,
    /// What all nodes share, proven and never sent.
    pub secret: RouteSecret,
    /// Whether nodes on loopback that peers tell of are dialed too.
    pub learn_routes: bool,
}

/// Paths of the route TLS triple (PEM).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteTls {
    /// This node's certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The bus CA.
    pub ca: PathBuf,
}

/// Where the route secret comes from.
#[derive(Clone, Eq, PartialEq)]
pub enum RouteSecret {
    /// `--cluster-user` and `--cluster-pass`.
    UserPass {
        /// User half.
        user: String,
        /// Password half.
        pass: String,
    },
    /// The file `route.secret`.
    File(PathBuf),
    /// None: only a cluster on loopback gets by with its certificates alone.
    None,
}

impl fmt::Debug for RouteSecret {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UserPass { user, .. } => write!(f, "UserPass({user:?}, …)"),
            Self::File(path) => write!(f, "File({path:?})"),
            Self::None => f.write_str("None"),
        }
    }
}

/// What clients are told about where to connect.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Advertise {
    /// Nothing was said: the listener's own address if it is a definite one, else nothing.
    Listener,
    /// This `host:port`.
    Address(String),
    /// Nothing.
    Nothing,
}

/// Consensus timing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timing {
    /// Time between heartbeats (`--heartbeat-ms`).
    pub heartbeat: Duration,
    /// Shortest time between two elections (`--election-timeout-ms`).
    pub election_min: Duration,
    /// Longest time between two elections: twice the shortest.
    pub election_max: Duration,
}

/// [`NodeConfig::access_staleness`] where none is given.
pub const ACCESS_STALENESS_DEFAULT: Duration = Duration::from_secs(10);

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
        }
    }
}

impl Timing {
    /// Checks that one lost heartbeat can't cause an election, and that nothing is absurd.
    ///
    /// # Errors
    /// [`ConfigError::Limit`] naming the flag.
    pub fn new(heartbeat: Duration, election_min: Duration) -> Result<Self, ConfigError> {
        let out_of = |flag, found: Duration, wanted| {
            let found = found.as_millis() as u64;
            Err(ConfigError::Limit {
                flag,
                found,
                wanted,
            })
        };
        if !(Duration::from_millis(10)..=Duration::from_secs(10)).contains(&heartbeat) {
            return out_of("--heartbeat-ms", heartbeat, "from 10 to 10000");
        }
        if election_min > Duration::from_secs(60) || election_min < heartbeat * 2 {
            let wanted = "at least twice --heartbeat-ms, and at most 60000";
            return out_of("--election-timeout-ms", election_min, wanted);
        }
        Ok(Self {
            heartbeat,
            election_min,
            election_max: election_min * 2,
        })
    }
}

impl NodeConfig {
    /// By which names browsers may ask this node; `None` = what they say is not looked at, and monitoring
    /// offers JSONP, as nats-server does.
    #[must_use]
    pub fn own_names(&self) -> Option<OwnNames> {
        self.auth.bus()?;
        Some(match &self.advertise {
            Advertise::Address(address) => OwnNames::new(Some(address)),
            Advertise::Listener | Advertise::Nothing => OwnNames::default(),
        })
    }

    /// Reads arguments, looks at the files they name, asks the boot guard.
    ///
    /// # Errors
    /// [`ConfigError`]; [`ConfigError::Refused`] holds every reason at once.
    pub fn from_args(args: &RunArgs) -> Result<Self, ConfigError> {
        Self::from_settings(&Settings::gather(args)?)
    }

    /// Makes the configuration true, or says everything that is wrong with it.
    ///
    /// # Errors
    /// [`ConfigError::Refused`].
    pub fn from_settings(set: &Settings) -> Result<Self, ConfigError> {
        let violations = boot_guard::violations(set);
        if !violations.is_empty() {
            return Err(ConfigError::Refused(violations));
        }
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Ok(Self {
            server_id: None,
            server_name: set.server_name.clone(),
            client_listen: SocketAddr::new(set.bind, set.port),
            client_tls: set.client.tls(),
            websocket: set.client.websocket(),
            http_listen: Some(SocketAddr::new(set.bind, set.http_port)),
            http_tls: set.http_tls.clone(),
            encrypted_rooms: set.encrypted_rooms || set.serves_other_hosts(),
            monitor_listen: (set.monitor_port != 0)
                .then(|| SocketAddr::new(loopback, set.monitor_port)),
            data_dir: set.data_dir.clone(),
            jetstream: Some(JetStreamConfig::default()),
            auth: AuthMode::Bus(set.effective_bus_auth()),
            server_tags: Vec::new(),
            internal_id_file: Some(set.internal_id_file.clone()),
            cluster: ClusterConfig::from_settings(set),
            advertise: Advertise::from_settings(set),
            timing: set.timing,
            access_staleness: set.access_staleness,
            limits: set.limits.clone(),
        })
    }
}

impl ClusterConfig {
    fn from_settings(set: &Settings) -> Option<Self> {
        if set.routes.is_empty() {
            return None;
        }
        let path = |fact: &Option<files::FileFact>| fact.as_ref().map(|f| f.path.clone());
        let tls = RouteTls {
            cert: path(&set.cert)?,
            key: path(&set.key)?,
            ca: path(&set.ca)?,
        };
        let secret = match (&set.cluster_user, &set.cluster_pass, &set.secret_file) {
            (Some(user), Some(pass), _) => RouteSecret::UserPass {
                user: user.clone(),
                pass: pass.clone(),
            },
            (_, _, Some(file)) => RouteSecret::File(file.path.clone()),
            _ => RouteSecret::None,
        };
        Some(Self {
            name: set
                .cluster_name
                .clone()
                .unwrap_or_else(|| "unibus".to_owned()),
            listen: SocketAddr::new(set.cluster_bind, set.cluster_port),
            routes: set.routes.clone(),
            tls,
            secret,
            learn_routes: false,
        })
    }
}

impl Advertise {
    fn from_settings(set: &Settings) -> Self {
        match &set.client_advertise {
            _ if set.no_advertise => Self::Nothing,
            Some(address) if address.contains(':') => Self::Address(address.clone()),
            Some(host) => Self::Address(format!("{host}:{}", set.port)),
            None => Self::Listener,
        }
    }
}

/// True when a route is on this machine only. A host name counts only if it is `localhost`:
/// nothing is resolved here.
#[must_use]
pub fn is_loopback(route: &RouteAddr) -> bool {
    route.host.eq_ignore_ascii_case("localhost")
        || route
            .host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// A name that is safe in the protocol's text, in a subject token's neighbourhood and in a log.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(legal)
}

#[cfg(test)]
mod tests;
