//! nats-server's command line as data: which flags there are, and what a list of arguments says. One
//! or two dashes, `-flag value` or `-flag=value`, the first word that is no flag ends the flags.
//! Knows no defaults and opens no file.

use std::path::PathBuf;

use thiserror::Error;

/// What the arguments say. `None` and `false` are "not given".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flags {
    /// `-h`.
    pub help: bool,
    /// `--help_tls`.
    pub help_tls: bool,
    /// `-v`.
    pub version: bool,
    /// `-t`: test the configuration and exit.
    pub test: bool,
    /// `-c`.
    pub config: Option<PathBuf>,
    /// `-sl`: `CMD` or `CMD=PID`.
    pub signal: Option<String>,
    /// `-a`.
    pub host: Option<String>,
    /// `-p`; -1 is any free port.
    pub port: Option<i32>,
    /// `-n`.
    pub name: Option<String>,
    /// `-P`.
    pub pid_file: Option<PathBuf>,
    /// `-m`; -1 is any free port, 0 is off.
    pub http_port: Option<i32>,
    /// `-ms`.
    pub https_port: Option<i32>,
    /// `--ports_file_dir`.
    pub ports_file_dir: Option<PathBuf>,
    /// `--client_advertise`.
    pub client_advertise: Option<String>,
    /// `-l`.
    pub log_file: Option<PathBuf>,
    /// `-T`: whether log lines carry the time.
    pub log_time: Option<bool>,
    /// `-D`.
    pub debug: Option<bool>,
    /// `-V`.
    pub trace: Option<bool>,
    /// `-js`.
    pub jetstream: Option<bool>,
    /// `-sd`.
    pub store_dir: Option<PathBuf>,
    /// `--user`.
    pub user: Option<String>,
    /// `--pass`.
    pub pass: Option<String>,
    /// `--auth`.
    pub token: Option<String>,
    /// `--tls`.
    pub tls: bool,
    /// `--tlsverify`.
    pub tls_verify: bool,
    /// `--tlscert`.
    pub tls_cert: Option<PathBuf>,
    /// `--tlskey`.
    pub tls_key: Option<PathBuf>,
    /// `--tlscacert`.
    pub tls_ca: Option<PathBuf>,
    /// `--routes`, as one list with commas.
    pub routes: Option<String>,
    /// `--cluster` or `--cluster_listen`.
    pub cluster_listen: Option<String>,
    /// `--cluster_name`.
    pub cluster_name: Option<String>,
    /// `--cluster_advertise`.
    pub cluster_advertise: Option<String>,
    /// `--no_advertise`.
    pub no_advertise: Option<bool>,
    /// Flags that are understood and change nothing here, as they were written.
    pub ignored: Vec<String>,
}

/// An argument that means nothing.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum FlagError {
    /// No such flag.
    #[error("flag provided but not defined: -{0}; see nats-server --help for those that are")]
    Unknown(String),
    /// A flag without its value.
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    /// A value of the wrong kind.
    #[error("invalid value {value:?} for flag -{flag}: wanted {wanted}")]
    Value {
        /// The flag.
        flag: String,
        /// Its value.
        value: String,
        /// What it may be.
        wanted: &'static str,
    },
    /// A word that is no flag.
    #[error("unrecognized command: {0:?}; nats-server takes flags only, see nats-server --help")]
    Word(String),
}

/// What a flag does with its value.
enum Kind {
    /// Takes no value of its own; `=true` and `=false` may follow.
    Switch(fn(&mut Flags, bool)),
    /// Takes any text.
    Text(fn(&mut Flags, String)),
    /// Takes a whole number.
    Number(fn(&mut Flags, i32)),
    /// Takes a value and is ignored.
    IgnoredText,
    /// Takes none and is ignored.
    IgnoredSwitch,
}

/// Every flag, by each of its names without the dashes.
fn kind(name: &str) -> Option<Kind> {
    use Kind::{IgnoredSwitch, IgnoredText, Number, Switch, Text};
    Some(match name {
        "h" | "help" => Switch(|f, on| f.help = on),
        "help_tls" => Switch(|f, on| f.help_tls = on),
        "v" | "version" => Switch(|f, on| f.version = on),
        "t" => Switch(|f, on| f.test = on),
        "c" | "config" => Text(|f, v| f.config = Some(v.into())),
        "sl" | "signal" => Text(|f, v| f.signal = Some(v)),
        "a" | "addr" | "net" => Text(|f, v| f.host = Some(v)),
        "p" | "port" => Number(|f, n| f.port = Some(n)),
        "n" | "name" | "server_name" => Text(|f, v| f.name = Some(v)),
        "P" | "pid" => Text(|f, v| f.pid_file = Some(v.into())),
        "m" | "http_port" => Number(|f, n| f.http_port = Some(n)),
        "ms" | "https_port" => Number(|f, n| f.https_port = Some(n)),
        "ports_file_dir" => Text(|f, v| f.ports_file_dir = Some(v.into())),
        "client_advertise" => Text(|f, v| f.client_advertise = Some(v)),
        "l" | "log" => Text(|f, v| f.log_file = Some(v.into())),
        "T" | "logtime" => Switch(|f, on| f.log_time = Some(on)),
        "D" | "debug" => Switch(|f, on| f.debug = Some(on)),
        "V" | "VV" | "trace" => Switch(|f, on| f.trace = Some(on)),
        "DV" | "DVV" => Switch(|f, on| (f.debug, f.trace) = (Some(on), Some(on))),
        "js" | "jetstream" => Switch(|f, on| f.jetstream = Some(on)),
        "sd" | "store_dir" => Text(|f, v| f.store_dir = Some(v.into())),
        "user" => Text(|f, v| f.user = Some(v)),
        "pass" => Text(|f, v| f.pass = Some(v)),
        "auth" => Text(|f, v| f.token = Some(v)),
        "tls" => Switch(|f, on| f.tls = on),
        "tlsverify" => Switch(|f, on| f.tls_verify = on),
        "tlscert" => Text(|f, v| f.tls_cert = Some(v.into())),
        "tlskey" => Text(|f, v| f.tls_key = Some(v.into())),
        "tlscacert" => Text(|f, v| f.tls_ca = Some(v.into())),
        "routes" => Text(|f, v| f.routes = Some(v)),
        "cluster" | "cluster_listen" => Text(|f, v| f.cluster_listen = Some(v)),
        "cluster_name" => Text(|f, v| f.cluster_name = Some(v)),
        "cluster_advertise" => Text(|f, v| f.cluster_advertise = Some(v)),
        "no_advertise" => Switch(|f, on| f.no_advertise = Some(on)),
        "s" | "syslog" => IgnoredSwitch,
        "r" | "remote_syslog" | "log_size_limit" | "max_traced_msg_len" | "connect_retries"
        | "profile" => IgnoredText,
        _ => return None,
    })
}

impl Flags {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// [`FlagError`] for the first that means nothing.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, FlagError> {
        let mut flags = Self::default();
        let mut rest = arguments.into_iter();
        while let Some(argument) = rest.next() {
            let Some(name) = flag_of(&argument) else {
                return flags.word(argument, rest.next());
            };
            if name.is_empty() {
                return match rest.next() {
                    Some(word) => flags.word(word, rest.next()),
                    None => Ok(flags),
                };
            }
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            flags.take(name, value, &mut rest)?;
        }
        Ok(flags)
    }

    /// `version` and `help` may stand as words too.
    fn word(mut self, word: String, next: Option<String>) -> Result<Self, FlagError> {
        match (word.as_str(), next) {
            ("version", None) => self.version = true,
            ("help", None) => self.help = true,
            _ => return Err(FlagError::Word(word)),
        }
        Ok(self)
    }

    fn take(
        &mut self,
        name: &str,
        value: Option<String>,
        rest: &mut impl Iterator<Item = String>,
    ) -> Result<(), FlagError> {
        let kind = kind(name).ok_or_else(|| FlagError::Unknown(name.to_owned()))?;
        if matches!(kind, Kind::IgnoredSwitch | Kind::IgnoredText) {
            self.ignored.push(format!("-{name}"));
        }
        let mut text = |value: Option<String>| {
            let value = value.or_else(|| rest.next());
            value.ok_or_else(|| FlagError::NoValue(name.to_owned()))
        };
        match kind {
            Kind::Switch(set) => set(self, switch(name, value)?),
            Kind::IgnoredSwitch => drop(switch(name, value)?),
            Kind::Text(set) => set(self, text(value)?),
            Kind::IgnoredText => drop(text(value)?),
            Kind::Number(set) => set(self, number(name, text(value)?)?),
        }
        Ok(())
    }
}

/// The flag's name with what follows it, without its dashes; `None` for what is no flag.
fn flag_of(argument: &str) -> Option<&str> {
    let rest = argument.strip_prefix('-')?;
    match rest.strip_prefix('-') {
        Some(rest) => Some(rest),
        // A lone dash is a word.
        None => Some(rest).filter(|rest| !rest.is_empty()),
    }
}

fn switch(flag: &str, value: Option<String>) -> Result<bool, FlagError> {
    match value.as_deref() {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(value) => Err(FlagError::Value {
            flag: flag.to_owned(),
            value: value.to_owned(),
            wanted: "true or false",
        }),
    }
}

fn number(flag: &str, value: String) -> Result<i32, FlagError> {
    value.parse().map_err(|_| FlagError::Value {
        flag: flag.to_owned(),
        value,
        wanted: "a whole number",
    })
}

#[cfg(test)]
mod tests {
    use super::{FlagError, Flags};

    fn parse(line: &str) -> Result<Flags, FlagError> {
        Flags::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn one_dash_and_two_are_the_same() {
        for dash in ["-", "--"] {
            let line = format!("{dash}port 4333 {dash}addr=127.0.0.1 {dash}js {dash}sd=/x/y");
            let flags = parse(&line).unwrap();
            assert_eq!(flags.port, Some(4333));
            assert_eq!(flags.host.as_deref(), Some("127.0.0.1"));
            assert_eq!(flags.jetstream, Some(true));
            assert_eq!(flags.store_dir.unwrap().to_str(), Some("/x/y"));
        }
    }

    #[test]
    fn a_negative_port_is_a_value_and_no_flag() {
        let flags = parse("-p -1 -m -1").unwrap();
        assert_eq!((flags.port, flags.http_port), (Some(-1), Some(-1)));
    }

    #[test]
    fn what_the_official_suites_start_is_understood() {
        let lines = [
            "--store_dir /s -p -1 -l /l -P /p -c /c --routes nats://127.0.0.1:1,nats://127.0.0.1:2 \
             --cluster nats://127.0.0.1:3 --cluster_name cluster -n node1",
            "-p 4222 -m 8222 -a 127.0.0.1 --user foo --pass bar --auth tok -js -sd=/tmp/x",
            "--tls --tlscert a --tlskey b --tlsverify --tlscacert c --cluster_listen nats://h:1",
            "-DV -user a -pass b -auth c -server_name n -tls -tlscert d -cluster_name e",
            "--signal ldm=12",
        ];
        for line in lines {
            assert!(parse(line).unwrap().ignored.is_empty(), "{line}");
        }
        let flags = parse(lines[3]).unwrap();
        assert_eq!((flags.debug, flags.trace), (Some(true), Some(true)));
    }

    #[test]
    fn what_means_nothing_is_named() {
        let text = |line| parse(line).unwrap_err().to_string();
        assert!(text("-nope 1").contains("-nope"));
        assert!(text("-p").contains("needs an argument: -p"));
        assert!(text("-p x").contains("\"x\""));
        assert!(text("-js=maybe").contains("true or false"));
        assert!(text("foo").contains("\"foo\""));
        assert!(text("-js foo").contains("\"foo\""));
        assert!(parse("version").unwrap().version && parse("help").unwrap().help);
        assert_eq!(parse("-s -r x").unwrap().ignored, ["-s", "-r"]);
        assert_eq!(
            parse("-no_advertise=false").unwrap().no_advertise,
            Some(false)
        );
    }
}
