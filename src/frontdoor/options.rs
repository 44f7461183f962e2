//! What nats-server's flags and configuration file ask for, as one typed value with every default
//! filled in. Says nothing yet about sockets or stores: [`super::build`] makes a node's
//! configuration of it. Reads no file itself.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::flags::Flags;
use crate::config::JetStreamLimits;
use crate::config::auth::{Secret, StaticAuth, StaticUser};
use crate::config::batches::BatchLimits;
use crate::config::limits::Limits;
use crate::config::tls::ClientTls;

/// TCP port for clients where none is given.
const PORT_DEFAULT: u16 = 4222;
/// How long clients have to leave in lame duck mode where nothing is said.
const LAME_DUCK_DURATION_DEFAULT: Duration = Duration::from_mins(2);
/// How long lame duck mode waits before it closes the first client where nothing is said.
const LAME_DUCK_GRACE_DEFAULT: Duration = Duration::from_secs(10);

/// A port as nats-server writes it: -1 takes a free one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Port {
    /// Any free one.
    Free,
    /// This one.
    Fixed(u16),
}

impl Port {
    /// Reads nats-server's number; 0 is `None`: the default, or off.
    #[must_use]
    pub fn of(number: i64) -> Option<Result<Self, String>> {
        match number {
            -1 => Some(Ok(Self::Free)),
            0 => None,
            1..=65_535 => Some(
                u16::try_from(number)
                    .map(Self::Fixed)
                    .map_err(|e| e.to_string()),
            ),
            _ => Some(Err(format!(
                "port {number} is none; wanted 1 to 65535, or -1 for any free one"
            ))),
        }
    }

    /// The number to bind: 0 takes a free one.
    #[must_use]
    pub fn bind(self) -> u16 {
        match self {
            Self::Free => 0,
            Self::Fixed(port) => port,
        }
    }
}

/// Everything that is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address for clients.
    pub host: String,
    /// Port for clients.
    pub port: Port,
    /// Address of monitoring; `None` = that of clients.
    pub http_host: Option<String>,
    /// Port of monitoring; `None` = off.
    pub http_port: Option<Port>,
    /// Name of this server; `None` = its id.
    pub server_name: Option<String>,
    /// What clients are told to connect to.
    pub client_advertise: Option<String>,
    /// Where the process writes its id.
    pub pid_file: Option<PathBuf>,
    /// Where the process writes which ports it has.
    pub ports_file_dir: Option<PathBuf>,
    /// How it logs.
    pub log: LogOptions,
    /// Sizes, counts and times.
    pub limits: Limits,
    /// Tags of this server, for placement and monitoring.
    pub server_tags: Vec<String>,
    /// Who may connect.
    pub auth: StaticAuth,
    /// TLS for clients.
    pub tls: Option<ClientTls>,
    /// Clients may go on without TLS.
    pub allow_non_tls: bool,
    /// The WebSocket listener; `None` = none.
    pub websocket: Option<WebSocketOptions>,
    /// The other servers; `None` = none.
    pub cluster: Option<ClusterOptions>,
    /// Where streams are kept, where JetStream is on and names no folder itself.
    pub store_dir: Option<PathBuf>,
    /// Streams; `None` = off.
    pub jetstream: Option<JetStreamOptions>,
    /// Lame duck mode.
    pub lame_duck: LameDuck,
    /// What was understood and changes nothing here, in words for the log.
    pub notes: Vec<String>,
}

/// Logging.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogOptions {
    /// The file; `None` = stderr.
    pub file: Option<PathBuf>,
    /// Lines carry the time.
    pub time: bool,
    /// Debug lines.
    pub debug: bool,
    /// Trace lines.
    pub trace: bool,
}

/// Streams.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct JetStreamOptions {
    /// Folder; the store is in its `jetstream`. `None` = `nats` in the system's temporary folder.
    pub store_dir: Option<PathBuf>,
    /// The domain told to clients.
    pub domain: Option<String>,
    /// Most bytes of streams in memory; `None` = no limit.
    pub max_memory: Option<u64>,
    /// Most bytes of streams in files; `None` = no limit.
    pub max_storage: Option<u64>,
    /// Requests with fields that are not known are refused.
    pub strict: bool,
    /// What a single stream or consumer may ask for.
    pub limits: JetStreamLimits,
    /// Bounds of the batches of this server's publishers.
    pub batches: BatchLimits,
}

/// The WebSocket listener.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct WebSocketOptions {
    /// Address; `None` = every one, whatever that of clients is.
    pub host: Option<String>,
    /// Port; `None` = no listener.
    pub port: Option<Port>,
    /// What clients are told.
    pub advertise: Option<String>,
    /// TLS of its own.
    pub tls: Option<ClientTls>,
    /// Plain `ws` is meant.
    pub no_tls: bool,
    /// A browser's Origin must be this server.
    pub same_origin: bool,
    /// A browser's Origin must be one of these.
    pub allowed_origins: Vec<String>,
    /// Compress messages where clients can.
    pub compression: bool,
    /// Time for the HTTP upgrade; `None` = the default.
    pub handshake_timeout: Option<Duration>,
    /// Who clients without credentials are.
    pub no_auth_user: Option<String>,
}

/// The other servers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClusterOptions {
    /// Name of the cluster.
    pub name: Option<String>,
    /// Address for routes; `None` = that of clients.
    pub host: Option<String>,
    /// Port for routes.
    pub port: Option<Port>,
    /// The other servers' URLs.
    pub routes: Vec<String>,
    /// User half of what all of them share.
    pub user: Option<String>,
    /// Password half of it.
    pub pass: Option<Secret>,
    /// Clients are not told about the other servers.
    pub no_advertise: bool,
}

/// How a server lets its clients go before it stops.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LameDuck {
    /// Over how long clients are closed.
    pub duration: Duration,
    /// How long before the first of them.
    pub grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host: "0.0.0.0".to_owned(),
            port: Port::Fixed(PORT_DEFAULT),
            http_host: None,
            http_port: None,
            server_name: None,
            client_advertise: None,
            pid_file: None,
            ports_file_dir: None,
            log: LogOptions {
                file: None,
                time: true,
                debug: false,
                trace: false,
            },
            limits: Limits::default(),
            server_tags: Vec::new(),
            auth: StaticAuth::default(),
            tls: None,
            allow_non_tls: false,
            websocket: None,
            cluster: None,
            store_dir: None,
            jetstream: None,
            lame_duck: LameDuck {
                duration: LAME_DUCK_DURATION_DEFAULT,
                grace: LAME_DUCK_GRACE_DEFAULT,
            },
            notes: Vec::new(),
        }
    }
}

/// Flags that contradict themselves or the file.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum OptionsError {
    /// A port out of range.
    #[error("{0}")]
    Port(String),
    /// A password without its user.
    #[error("--pass is given without --user: add it, or use --auth TOKEN")]
    PassAlone,
    /// TLS without its files.
    #[error("TLS needs both --tlscert FILE and --tlskey FILE")]
    TlsFiles,
    /// Clients can't be verified against nothing.
    #[error("--tlsverify needs --tlscacert FILE")]
    TlsAuthority,
    /// A cluster's URL.
    #[error("--cluster is {0:?}; wanted nats://HOST:PORT")]
    ClusterUrl(String),
}

impl Options {
    /// Puts the flags over what the file said.
    ///
    /// # Errors
    /// [`OptionsError`].
    pub fn apply(&mut self, flags: &Flags) -> Result<(), OptionsError> {
        let port = |number: i32| {
            Port::of(number.into())
                .transpose()
                .map_err(OptionsError::Port)
        };
        if let Some(number) = flags.port {
            self.port = port(number)?.unwrap_or(Port::Fixed(PORT_DEFAULT));
        }
        if let Some(number) = flags.http_port {
            self.http_port = port(number)?;
        }
        take(&mut self.host, &flags.host);
        over(&mut self.server_name, &flags.name);
        over(&mut self.client_advertise, &flags.client_advertise);
        over(&mut self.pid_file, &flags.pid_file);
        over(&mut self.ports_file_dir, &flags.ports_file_dir);
        over(&mut self.log.file, &flags.log_file);
        take(&mut self.log.time, &flags.log_time);
        take(&mut self.log.debug, &flags.debug);
        take(&mut self.log.trace, &flags.trace);
        match flags.jetstream {
            Some(true) => drop(self.jetstream.get_or_insert_default()),
            Some(false) => self.jetstream = None,
            None => {}
        }
        over(&mut self.store_dir, &flags.store_dir);
        if let Some(jetstream) = &mut self.jetstream {
            over(&mut jetstream.store_dir, &flags.store_dir);
            if jetstream.store_dir.is_none() {
                jetstream.store_dir.clone_from(&self.store_dir);
            }
        }
        self.apply_auth(flags)?;
        self.limits.auth_timeout = self.auth.timeout;
        self.apply_tls(flags)?;
        self.apply_cluster(flags)?;
        for flag in &flags.ignored {
            self.notes
                .push(format!("{flag} is understood and has no effect here"));
        }
        Ok(())
    }
}

impl Options {
    /// A user or token of the command line takes the place of those of the file that belong to no
    /// account.
    fn apply_auth(&mut self, flags: &Flags) -> Result<(), OptionsError> {
        if flags.user.is_none() && flags.token.is_none() {
            return match flags.pass {
                Some(_) => Err(OptionsError::PassAlone),
                None => Ok(()),
            };
        }
        self.auth.users.retain(|user| user.account.is_some());
        self.auth.token = flags.token.as_deref().map(Secret::new);
        if let Some(name) = &flags.user {
            self.auth.users.push(StaticUser {
                name: Some(name.clone()),
                password: Some(Secret::new(flags.pass.clone().unwrap_or_default())),
                ..StaticUser::default()
            });
        }
        Ok(())
    }

    fn apply_tls(&mut self, flags: &Flags) -> Result<(), OptionsError> {
        let files = [&flags.tls_cert, &flags.tls_key, &flags.tls_ca];
        if !flags.tls && !flags.tls_verify && files.iter().all(|file| file.is_none()) {
            return Ok(());
        }
        let before = self.tls.take();
        let file = |given: &Option<PathBuf>, old: fn(&ClientTls) -> PathBuf| {
            let file = given.clone().or_else(|| before.as_ref().map(old));
            file.ok_or(OptionsError::TlsFiles)
        };
        let cert = file(&flags.tls_cert, |tls| tls.cert.clone())?;
        let key = file(&flags.tls_key, |tls| tls.key.clone())?;
        let mut tls = before.unwrap_or_else(|| ClientTls::new("".into(), "".into()));
        (tls.cert, tls.key) = (cert, key);
        over(&mut tls.ca, &flags.tls_ca);
        tls.verify |= flags.tls_verify;
        tls.allow_non_tls = self.allow_non_tls;
        if tls.asks_for_certificates() && tls.ca.is_none() {
            return Err(OptionsError::TlsAuthority);
        }
        self.tls = Some(tls);
        Ok(())
    }

    fn apply_cluster(&mut self, flags: &Flags) -> Result<(), OptionsError> {
        let said = [&flags.cluster_listen, &flags.routes, &flags.cluster_name];
        if said.iter().all(|flag| flag.is_none()) && flags.no_advertise.is_none() {
            return Ok(());
        }
        let cluster = self.cluster.get_or_insert_default();
        over(&mut cluster.name, &flags.cluster_name);
        take(&mut cluster.no_advertise, &flags.no_advertise);
        if let Some(routes) = &flags.routes {
            let routes = routes
                .split(',')
                .map(str::trim)
                .filter(|url| !url.is_empty());
            cluster.routes = routes.map(str::to_owned).collect();
        }
        if let Some(url) = &flags.cluster_listen {
            let wrong = || OptionsError::ClusterUrl(url.clone());
            let listen = RouteUrl::parse(url).ok_or_else(wrong)?;
            cluster.host = Some(listen.host);
            let port = Port::of(listen.port)
                .transpose()
                .map_err(OptionsError::Port)?;
            cluster.port = port;
            over(&mut cluster.user, &listen.user);
            over(&mut cluster.pass, &listen.pass);
        }
        Ok(())
    }
}

/// `nats://user:pass@host:port` of a route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteUrl {
    /// The host, without brackets.
    pub host: String,
    /// The port, -1 for any.
    pub port: i64,
    /// What stands before `@`.
    pub user: Option<String>,
    /// What stands after the user's colon.
    pub pass: Option<Secret>,
}

impl RouteUrl {
    /// Reads it; the scheme may be left out.
    #[must_use]
    pub fn parse(url: &str) -> Option<Self> {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let rest = rest.trim_end_matches('/');
        let (credentials, address) = match rest.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials), address),
            None => (None, rest),
        };
        let (host, port) = address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let (user, pass) = match credentials.map(|both| both.split_once(':').unwrap_or((both, "")))
        {
            Some((user, pass)) => (Some(user.to_owned()), Some(Secret::new(pass))),
            None => (None, None),
        };
        Some(Self {
            host: host.to_owned(),
            port: port.parse().ok()?,
            user,
            pass,
        })
    }
}

fn over<T: Clone>(slot: &mut Option<T>, given: &Option<T>) {
    if given.is_some() {
        slot.clone_from(given);
    }
}

fn take<T: Clone>(slot: &mut T, given: &Option<T>) {
    if let Some(given) = given {
        slot.clone_from(given);
    }
}
