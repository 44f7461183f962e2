//! Sending a signal to a running server: `--signal CMD[=PID]` of nats-server, `unibus-node signal`.
//! Finds the process and signals it; never one that it was not told of or that is not of this program.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thiserror::Error;

/// Longest pid file that is read, in bytes.
const PID_FILE_BYTES_MAX: u64 = 64;

/// Why no signal was sent.
#[derive(Debug, Error)]
pub enum SendError {
    /// No such command.
    #[error("unknown signal {0:?}; known are ldm, stop, quit, term, reopen and reload")]
    Command(String),
    /// Neither a process id nor a pid file.
    #[error("{0:?} is neither a process id nor a pid file that can be read")]
    Pid(String),
    /// Nobody there.
    #[error("no nats-server processes running")]
    Nobody,
    /// More than one there.
    #[error("multiple nats-server processes running: {0}; say which with CMD=PID")]
    Several(String),
    /// A process that has nothing to do with this program: a pid file outlives a process that was killed,
    /// and its id is given to another one.
    #[error(
        "process {pid} runs {found:?}, not this program: nothing was sent; the pid file or the id is that of \
         a process that is gone"
    )]
    Stranger {
        /// The process.
        pid: i32,
        /// What it runs; empty when nobody may know.
        found: String,
    },
    /// The operating system says no.
    #[error("signal {command:?} {pid}: {source}")]
    Refused {
        /// The command.
        command: String,
        /// The process.
        pid: i32,
        /// Why.
        source: nix::Error,
    },
}

/// The signal of a command's word.
fn signal_of(command: &str) -> Option<Signal> {
    match command {
        "ldm" => Some(Signal::SIGUSR2),
        "stop" | "term" => Some(Signal::SIGTERM),
        "quit" => Some(Signal::SIGINT),
        "reopen" => Some(Signal::SIGUSR1),
        "reload" => Some(Signal::SIGHUP),
        _ => None,
    }
}

/// Sends `CMD` or `CMD=PID`, PID being a process id or the path of a pid file. Without it, the only
/// server of this program is meant.
///
/// # Errors
/// [`SendError`]; nothing was sent then.
pub fn send(text: &str) -> Result<(), SendError> {
    let (command, target) = text.split_once('=').unwrap_or((text, ""));
    let signal = signal_of(command).ok_or_else(|| SendError::Command(command.to_owned()))?;
    let pid = match target {
        "" => the_only_one()?,
        target => ours(pid_of(target).ok_or_else(|| SendError::Pid(target.to_owned()))?)?,
    };
    kill(Pid::from_raw(pid), signal).map_err(|source| SendError::Refused {
        command: command.to_owned(),
        pid,
        source,
    })
}

/// Only a single process: 0 and negative numbers would mean groups of them.
fn pid_of(target: &str) -> Option<i32> {
    if let Ok(pid) = target.parse::<i32>() {
        return Some(pid).filter(|pid| *pid > 0);
    }
    let path = Path::new(target);
    let meta = fs::metadata(path).ok()?;
    if meta.len() > PID_FILE_BYTES_MAX {
        return None;
    }
    let pid = fs::read_to_string(path).ok()?.trim().parse::<i32>().ok()?;
    Some(pid).filter(|pid| *pid > 0)
}

/// The process, if it runs this program, in whatever version. One that is gone is signalled all the same,
/// for the operating system's words.
fn ours(pid: i32) -> Result<i32, SendError> {
    let program = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // What a running program is called whose file was replaced.
        name.trim_end_matches(" (deleted)").to_owned()
    };
    let own = std::env::current_exe().unwrap_or_default();
    let found = match fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(pid),
        Err(_) => Path::new("").to_owned(),
    };
    if program(&found) == program(&own) {
        return Ok(pid);
    }
    let found = found.display().to_string();
    Err(SendError::Stranger { pid, found })
}

fn the_only_one() -> Result<i32, SendError> {
    let found = servers();
    match found.as_slice() {
        [] => Err(SendError::Nobody),
        [one] => Ok(*one),
        many => {
            let pids: Vec<String> = many.iter().map(ToString::to_string).collect();
            Err(SendError::Several(pids.join(", ")))
        }
    }
}

/// The other processes of this program that run as a nats-server.
fn servers() -> Vec<i32> {
    let Ok(own) = std::env::current_exe() else {
        return Vec::new();
    };
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let is_server = |pid: &i32| {
        let exe = fs::read_link(format!("/proc/{pid}/exe"));
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        exe.is_ok_and(|exe| exe == own) && serves(&line)
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| u32::try_from(*pid) != Ok(std::process::id()))
        .filter(is_server)
        .collect()
}

/// Whether a command line (words that end in NUL) is that of a server and not of another `--signal`.
fn serves(line: &[u8]) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let words: Vec<&OsStr> = line
        .split(|byte| *byte == 0)
        .map(OsStr::from_bytes)
        .collect();
    let named = words
        .first()
        .and_then(|program| Path::new(program).file_name())
        .is_some_and(|name| name == super::NAME);
    let asked = words.get(1).is_some_and(|word| *word == super::NAME);
    let signals = words.iter().any(|word| {
        let word = word.as_bytes();
        let word = word.strip_prefix(b"--").or_else(|| word.strip_prefix(b"-"));
        word.is_some_and(|word| word.starts_with(b"signal") || word.starts_with(b"sl"))
    });
    (named || asked) && !signals
}

#[cfg(test)]
mod tests {
    use super::{SendError, pid_of, send, serves};

    #[test]
    fn a_server_is_told_from_other_processes() {
        assert!(serves(b"/bin/unibus-node\0nats-server\0-p\x004222\0"));
        assert!(serves(b"/x/nats-server\0-js\0"));
        assert!(!serves(b"/bin/unibus-node\0nats-server\0--signal\0ldm\0"));
        assert!(!serves(b"/bin/unibus-node\0--port\x001\0"));
        assert!(!serves(b""));
    }

    #[test]
    fn a_process_is_named_by_its_id_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        std::fs::write(&file, "4711\n").unwrap();
        assert_eq!(pid_of(file.to_str().unwrap()), Some(4711));
        assert_eq!(pid_of("12"), Some(12));
        for bad in ["0", "-1", "x", "/nope"] {
            assert_eq!(pid_of(bad), None, "{bad}");
        }
        std::fs::write(&file, "-1").unwrap();
        assert_eq!(pid_of(file.to_str().unwrap()), None);
        assert!(matches!(send("dance=1"), Err(SendError::Command(_))));
        assert!(matches!(send("ldm=/nope"), Err(SendError::Pid(_))));
    }

    #[test]
    fn nobody_elses_process_is_signalled() {
        let mut stranger = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let refused = send(&format!("stop={}", stranger.id()));
        assert!(
            matches!(refused, Err(SendError::Stranger { .. })),
            "{refused:?}"
        );
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        let gone = send(&format!("stop={}", stranger.id()));
        assert!(matches!(gone, Err(SendError::Refused { .. })), "{gone:?}");
    }
}
