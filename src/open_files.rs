//! How many files this process may have open, and how many of them connections may take.
//!
//! Each connection is one. The soft limit that most systems begin with, 1,024, is there for programs that
//! use `select`: a server takes what it may have. Whoever connects, without a login even, must not take
//! the last one: a store that can't open a file has failed, and the node with it.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use tracing::{debug, info, warn};

use crate::config::limits::HttpLimits;

/// Files beside clients' sockets where there are enough: 1,024 for logs, blocks, index files, listeners
/// and routes, and as many for each of the two HTTP listeners.
const OTHER_FILES: u64 = 3 * 1024;
/// Where that would be more than this part of all files, clients may have the rest: one half.
const OTHERS_PART: u64 = 2;
/// An HTTP listener takes at most this part of all files: a sixteenth.
const HTTP_PART: u64 = 16;

/// Raises the soft limit of open files to the hard one, and logs what this process has then. Where fewer
/// than `connections_max` clients fit, that is said: the operator may raise the hard limit (`ulimit -Hn`,
/// `LimitNOFILE=`), or the clients beyond it are turned away.
pub(crate) fn raise(connections_max: usize) {
    match raised() {
        Ok((before, limit)) => {
            debug!(before, limit, "open files: took the hard limit");
            let fitting = clients_within(limit);
            if fitting < connections_max {
                info!(
                    open_files = limit,
                    max_connections = connections_max,
                    fitting,
                    "this process may not have as many files open as the clients that it may have: those \
                     beyond what fits are turned away"
                );
            }
        }
        Err(error) => warn!(%error, "the limit of open files stays as it was"),
    }
}

/// The soft limit before and after.
fn raised() -> Result<(rlim_t, rlim_t), Errno> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok((soft, hard))
}

/// As many clients as are wanted, or as fit into the files that this process may have open.
pub(crate) fn clients(wanted: usize) -> usize {
    limit().map_or(wanted, |limit| wanted.min(clients_within(limit)))
}

/// The limits of an HTTP listener, with as many connections as fit.
pub(crate) fn http(wanted: &HttpLimits) -> HttpLimits {
    limit().map_or_else(|| wanted.clone(), |limit| http_within(wanted, limit))
}

/// `None` = the system does not tell.
fn limit() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|two| two.0)
}

fn clients_within(limit: u64) -> usize {
    let others = OTHER_FILES.min(limit / OTHERS_PART);
    size(limit - others)
}

fn http_within(wanted: &HttpLimits, limit: u64) -> HttpLimits {
    let most = size(limit / HTTP_PART);
    if wanted.connections_max <= most {
        return wanted.clone();
    }
    HttpLimits {
        connections_max: most,
        // One address never has all of them.
        connections_per_address_max: wanted.connections_per_address_max.min((most / 2).max(1)),
        ..wanted.clone()
    }
}

fn size(files: u64) -> usize {
    usize::try_from(files).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_never_take_the_last_file() {
        let wanted = HttpLimits::default();
        for limit in [64, 256, 1024, 4096, 20_000, 65_536, 1_048_576] {
            let http = http_within(&wanted, limit).connections_max as u64;
            let taken = clients_within(limit) as u64 + 2 * http;
            let left = limit - taken;
            assert!(left >= (limit / 4).min(1024), "{left} of {limit}");
        }
    }

    #[test]
    fn where_files_abound_nobody_has_less() {
        let wanted = HttpLimits::default();
        assert_eq!(http_within(&wanted, 1_048_576), wanted);
        assert!(clients_within(1_048_576) > 1_000_000);
        assert_eq!(clients_within(20_000), 16_928);
        let few = http_within(&wanted, 1024);
        assert_eq!(
            (few.connections_max, few.connections_per_address_max),
            (64, 32)
        );
    }
}
