//! nats-server's command line and configuration file as a front door: `unibus-node nats-server …`, or
//! this binary under the name `nats-server`. Translates what nats-server's operators and the official
//! clients' test suites write into a node's configuration, and speaks like nats-server where others
//! read it (log lines, pid and ports files, signals). Owns the translation only: a node started here
//! is the same node.

pub mod build;
pub mod conf;
pub mod directives;
mod file;
pub mod files;
pub mod flags;
mod help;
pub mod logging;
pub mod options;
mod reload;
mod routes;
mod run;
pub mod send;
pub mod signals;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use self::flags::Flags;
use self::options::Options;
use crate::access::static_users::StaticUsers;
use crate::node::{ADVERTISED_VERSION, check_client_tls, server_id};

/// The name of this front door: a subcommand, and a file name of the binary.
pub const NAME: &str = "nats-server";
/// Status of a server that did not work, or of flags that are wrong: nats-server knows no other.
const FAILED: u8 = 1;

/// The arguments for this front door, where the program was called through it.
#[must_use]
pub fn arguments(mut all: impl Iterator<Item = OsString>) -> Option<Vec<OsString>> {
    let program = all.next()?;
    if Path::new(&program)
        .file_name()
        .is_some_and(|name| name == NAME)
    {
        return Some(all.collect());
    }
    all.next().filter(|word| word == NAME)?;
    Some(all.collect())
}

/// Does what nats-server's command line says.
#[must_use]
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let mut words = Vec::with_capacity(arguments.len());
    for argument in arguments {
        match argument.into_string() {
            Ok(word) => words.push(word),
            Err(word) => return wrong(&format!("{word:?} is not UTF-8")),
        }
    }
    let flags = match Flags::parse(words) {
        Ok(flags) => flags,
        Err(error) => return wrong(&error.to_string()),
    };
    if flags.help {
        return say(help::USAGE);
    }
    if flags.help_tls {
        return say(help::TLS);
    }
    if flags.version {
        return say(&format!("nats-server: v{ADVERTISED_VERSION}\n"));
    }
    if let Some(text) = &flags.signal {
        return match send::send(text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => wrong(&error.to_string()),
        };
    }
    let options = match file::options(&flags) {
        Ok(options) => options,
        Err(words) => return wrong(&words),
    };
    if flags.test {
        return test(&flags, &options);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(run::run(&flags, options))),
        Err(error) => wrong(&format!("the runtime does not start: {error}")),
    }
}

/// `-t`: the configuration is judged as starting would, and nothing is started.
fn test(flags: &Flags, options: &Options) -> ExitCode {
    if let Err(error) = StaticUsers::new(&options.auth) {
        return wrong(&error.to_string());
    }
    let built = build::node_config(options, &server_id())
        .map_err(|error| error.to_string())
        .and_then(|built| check_client_tls(&built.config).map_err(|error| error.to_string()));
    match built {
        Err(words) => wrong(&words),
        Ok(()) => {
            let what = match &flags.config {
                Some(path) => format!("configuration file {}", path.display()),
                None => "the command line".to_owned(),
            };
            tell(&format!("{NAME}: {what} is valid"));
            ExitCode::SUCCESS
        }
    }
}

fn say(text: &str) -> ExitCode {
    // The reader of a pipe may be gone; there is nobody left to tell.
    let _reader_gone = std::io::stdout().lock().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn wrong(words: &str) -> ExitCode {
    tell(&format!("nats-server: {words}"));
    ExitCode::from(FAILED)
}

fn tell(line: &str) {
    let _reader_gone = writeln!(std::io::stderr().lock(), "{line}");
}
