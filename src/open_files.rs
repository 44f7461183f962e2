//! How many files this process may have open. Each client is one, and the soft limit that most systems
//! begin with, 1,024, is there for programs that use `select`: a server takes what it may have.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use tracing::{debug, info, warn};

/// Files beside clients' sockets: logs, blocks, index files, listeners, routes, monitoring.
const OWN_FILES: u64 = 1024;

/// Raises the soft limit of open files to the hard one, and logs what this process has then. Where fewer
/// than `connections_max` clients fit, that is said: the operator may raise the hard limit (`ulimit -Hn`,
/// `LimitNOFILE=`), or the clients beyond it are not accepted.
pub(crate) fn raise(connections_max: usize) {
    match raised() {
        Ok((before, limit)) => {
            debug!(before, limit, "open files: took the hard limit");
            if limit < OWN_FILES.saturating_add(connections_max as u64) {
                info!(
                    open_files = limit,
                    max_connections = connections_max,
                    "this process may not have as many files open as the clients that it may have"
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
