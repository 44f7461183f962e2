//! What nats-server's flags and configuration file ask for, as one typed value with every default
//! filled in. Says nothing yet about sockets or stores: [`super::build`] makes a node's
//! configuration of it. Reads no file itself.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::flags::Flags;
use crate::config::limits::Limits;

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
        if let Some(jetstream) = &mut self.jetstream {
            over(&mut jetstream.store_dir, &flags.store_dir);
        }
        for flag in &flags.ignored {
            self.notes
                .push(format!("{flag} is understood and has no effect here"));
        }
        Ok(())
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
