//! What may be written on the command line and in the environment to configure a node. Every field
//! is optional where its default depends on others, so that "given" and "defaulted" stay apart.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};

use super::batches::BatchArgs;
use super::client_args::ClientArgs;
use super::http_args::HttpArgs;
use super::limits::parse_size;
use crate::mesh::RouteAddr;

/// How clients (and later requests) must prove who they are.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, ValueEnum)]
pub enum BusAuth {
    /// Nobody is asked. A key that is presented is still verified.
    Off,
    /// Nobody is refused, but what `enforce` would refuse is logged.
    Soft,
    /// Only active users get in, with the permissions that they were granted.
    Enforce,
}

impl BusAuth {
    /// The word on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Soft => "soft",
            Self::Enforce => "enforce",
        }
    }
}

impl std::fmt::Display for BusAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Flags of a running node.
#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    /// Flags about listening, names and folders.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Flags about the other nodes.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Flags about clients' TLS and WebSocket.
    #[command(flatten)]
    pub client: ClientArgs,
    /// Flags about bounds.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Flags about logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Listening, names and folders.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Node")]
pub struct NodeArgs {
    /// Address that clients and the control plane connect to [default: 127.0.0.1; 0.0.0.0 with
    /// --routes to other hosts]
    #[arg(long, value_name = "IP", env = "UNIBUS_BIND")]
    pub bind: Option<IpAddr>,
    /// TCP port of the NATS listener; 0 takes a free one [default: 4222]
    #[arg(long, short = 'p', value_name = "PORT", env = "UNIBUS_PORT")]
    pub port: Option<u16>,
    /// TCP port of the control plane (GET /healthz, /livez); 0 takes a free one [default: 8470]
    #[arg(long, value_name = "PORT", env = "UNIBUS_HTTP_PORT")]
    pub http_port: Option<u16>,
    /// Certificate chain of the control plane (PEM), read again when it changes [default: plain
    /// HTTP]
    #[arg(
        long,
        value_name = "FILE",
        requires = "http_tls_key",
        env = "UNIBUS_HTTP_TLS_CERT"
    )]
    pub http_tls_cert: Option<PathBuf>,
    /// The control plane's private key (PEM)
    #[arg(
        long,
        value_name = "FILE",
        requires = "http_tls_cert",
        env = "UNIBUS_HTTP_TLS_KEY"
    )]
    pub http_tls_key: Option<PathBuf>,
    /// TCP port of monitoring (GET /varz, /healthz), on loopback only; 0 turns it off
    /// [default: 8222]
    #[arg(long, short = 'm', value_name = "PORT", env = "UNIBUS_MONITOR_PORT")]
    pub monitor_port: Option<u16>,
    /// Folder of everything the node stores [default: ./unibus-data]
    #[arg(long, value_name = "DIR", env = "UNIBUS_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Write the process id here, for signals; removed at exit
    #[arg(long, value_name = "FILE", env = "UNIBUS_PID_FILE")]
    pub pid_file: Option<PathBuf>,
    /// Name of this node [default: the route certificate's name, else the host's name]
    #[arg(long, value_name = "NAME", env = "UNIBUS_SERVER_NAME")]
    pub server_name: Option<String>,
    /// Who gets in: off, soft (logs what it would refuse) or enforce [default: off; enforce with
    /// --routes]
    #[arg(long, value_name = "MODE", env = "UNIBUS_BUS_AUTH")]
    pub bus_auth: Option<BusAuth>,
    /// Refuse rooms in cleartext, as every node does that other hosts can connect to
    #[arg(long, env = "UNIBUS_ENCRYPTED_ROOMS")]
    pub encrypted_rooms: bool,
    /// File of the node's own service identity, created with mode 0600 where it is missing
    /// [default: internal.json in the data folder]
    #[arg(long, value_name = "FILE", env = "UNIBUS_INTERNAL_ID_FILE")]
    pub internal_id_file: Option<PathBuf>,
    /// Address that clients are told to use for this node, where it differs from --bind
    #[arg(long, value_name = "HOST:PORT", env = "UNIBUS_CLIENT_ADVERTISE")]
    pub client_advertise: Option<String>,
    /// Tell clients no address of any node
    #[arg(long, conflicts_with = "client_advertise")]
    pub no_advertise: bool,
}

/// The other nodes, and how they prove themselves.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// The nodes of the cluster: host, host:port or name=host:port, separated by commas; may
    /// include this node, so that every node can be given the same list
    #[arg(
        long,
        value_name = "A,B,C",
        value_delimiter = ',',
        value_parser = parse_route,
        env = "UNIBUS_ROUTES"
    )]
    pub routes: Vec<RouteAddr>,
    /// UDP port that other nodes connect to (QUIC); on TCP nothing is said there, peers notice by it that
    /// this process has ended [default: 6222]
    #[arg(long, value_name = "PORT", env = "UNIBUS_CLUSTER_PORT")]
    pub cluster_port: Option<u16>,
    /// Address that other nodes connect to [default: 127.0.0.1 where every route is on loopback,
    /// else every address of this host]
    #[arg(long, value_name = "IP", env = "UNIBUS_CLUSTER_BIND")]
    pub cluster_bind: Option<IpAddr>,
    /// Name of the cluster: nodes of another name are refused [default: unibus]
    #[arg(long, value_name = "NAME", env = "UNIBUS_CLUSTER_NAME")]
    pub cluster_name: Option<String>,
    /// Seconds that a node without a leader goes on by what it knows of users and rooms; then it
    /// admits nobody and suspends rooms on its connections, 0 is at once [default: 10]
    #[arg(long, value_name = "SECONDS", env = "UNIBUS_ACCESS_STALENESS")]
    pub access_staleness: Option<u64>,
    /// Folder with ca.crt, node.crt, node.key and route.secret, used for what no flag names
    /// [default: ./unibus-config, then /etc/unibus]
    #[arg(long, value_name = "DIR", env = "UNIBUS_CONFIG_DIR")]
    pub config_dir: Option<PathBuf>,
    /// This node's certificate (PEM), as `pki issue` writes it
    #[arg(long, value_name = "FILE", env = "UNIBUS_ROUTE_TLS_CERT")]
    pub route_tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM, mode 0600)
    #[arg(long, value_name = "FILE", env = "UNIBUS_ROUTE_TLS_KEY")]
    pub route_tls_key: Option<PathBuf>,
    /// The bus CA that every node's certificate must come from (PEM)
    #[arg(long, value_name = "FILE", env = "UNIBUS_ROUTE_TLS_CA")]
    pub route_tls_ca: Option<PathBuf>,
    /// User half of the route secret that all nodes share
    #[arg(long, value_name = "USER", env = "UNIBUS_CLUSTER_USER")]
    pub cluster_user: Option<String>,
    /// Password half of the route secret; others on this host can read a command line, so prefer
    /// the environment or the file route.secret
    #[arg(
        long,
        value_name = "PASS",
        env = "UNIBUS_CLUSTER_PASS",
        hide_env_values = true
    )]
    pub cluster_pass: Option<String>,
    /// Time between the leader's heartbeats, in milliseconds [default: 100]
    #[arg(long, value_name = "MS", env = "UNIBUS_HEARTBEAT_MS")]
    pub heartbeat_ms: Option<u64>,
    /// Election timeout, in milliseconds: for one and a half of it after hearing of their leader nodes
    /// elect no other, also when its process has ended; where it is only silent, they wait for as long
    /// again, at most [default: 300]
    #[arg(long, value_name = "MS", env = "UNIBUS_ELECTION_TIMEOUT_MS")]
    pub election_timeout_ms: Option<u64>,
}

impl std::fmt::Debug for ClusterArgs {
    /// Leaves the password out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterArgs")
            .field("routes", &self.routes)
            .field("cluster_port", &self.cluster_port)
            .field("cluster_name", &self.cluster_name)
            .field("config_dir", &self.config_dir)
            .finish_non_exhaustive()
    }
}

/// Reads one route; spaces around it, as after a comma, do not matter.
fn parse_route(text: &str) -> Result<RouteAddr, String> {
    let route: RouteAddr = text.trim().parse().map_err(|error| format!("{error}"))?;
    let host_is_legal = super::is_name(&route.host) || route.host.parse::<IpAddr>().is_ok();
    if host_is_legal && route.name.as_deref().is_none_or(super::is_name) {
        Ok(route)
    } else {
        Err(format!(
            "route {text:?} has a name or host that can't be one"
        ))
    }
}

/// Bounds.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Largest message with its headers, e.g. 1MB; at most 64MB [default: 1MB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, env = "UNIBUS_MAX_PAYLOAD")]
    pub max_payload: Option<u64>,
    /// Most bytes that wait for one slow client before it is dropped [default: 64MB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, env = "UNIBUS_MAX_PENDING")]
    pub max_pending: Option<u64>,
    /// Most client connections, as far as open files allow [default: 65536]
    #[arg(long, value_name = "N", env = "UNIBUS_MAX_CONNECTIONS")]
    pub max_connections: Option<usize>,
    /// Most subscriptions of one connection; 0 is no limit [default: 0]
    #[arg(long, value_name = "N", env = "UNIBUS_MAX_SUBSCRIPTIONS")]
    pub max_subscriptions: Option<u64>,
    /// Time that a client may take nothing of what waits for it before it is dropped, in milliseconds
    /// [default: 10000]
    #[arg(long, value_name = "MS", env = "UNIBUS_WRITE_DEADLINE_MS")]
    pub write_deadline_ms: Option<u64>,
    /// Time that a new client has to say who it is, in milliseconds [default: 2000]
    #[arg(long, value_name = "MS", env = "UNIBUS_AUTH_TIMEOUT_MS")]
    pub auth_timeout_ms: Option<u64>,
    /// Time between the server's PINGs to a silent client, in milliseconds [default: 120000]
    #[arg(long, value_name = "MS", env = "UNIBUS_PING_INTERVAL_MS")]
    pub ping_interval_ms: Option<u64>,
    /// Memory for recently stored messages, in MiB [default: 256]
    #[arg(long, value_name = "MIB", env = "UNIBUS_CACHE_MB")]
    pub cache_mb: Option<u64>,
    /// Memory for the log's last entries, in MiB [default: 64]
    #[arg(long, value_name = "MIB", env = "UNIBUS_LOG_CACHE_MB")]
    pub log_cache_mb: Option<u64>,
    /// Log written between two checkpoints of the store, in MiB [default: 256]
    #[arg(long, value_name = "MIB", env = "UNIBUS_CHECKPOINT_LOG_MB")]
    pub checkpoint_log_mb: Option<u64>,
    /// Flags about the bounds of batches.
    #[command(flatten)]
    pub batches: BatchArgs,
    /// Flags about the bounds of the control plane.
    #[command(flatten)]
    pub http: HttpArgs,
}

/// Logging.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// What is logged, on stderr: error, warn, info, debug, trace, or a filter such as
    /// info,unibus_raft=debug [default: info]
    #[arg(long, value_name = "LEVEL", env = "UNIBUS_LOG")]
    pub log_level: Option<String>,
    /// Log connections and decisions too: the same as --log-level debug
    #[arg(long, short = 'D', conflicts_with = "log_level")]
    pub debug: bool,
    /// Log each operation of the NATS protocol too, without payloads and secrets, and open monitoring
    /// on loopback where it is off
    #[arg(long, value_parser = BoolishValueParser::new(), env = "UNIBUS_NATS_DEBUG")]
    pub nats_debug: bool,
    /// Shape of a log line
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        env = "UNIBUS_LOG_FORMAT"
    )]
    pub log_format: LogFormat,
}
