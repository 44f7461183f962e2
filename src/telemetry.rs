//! Logging: one subscriber, set up once, writing to stderr so that stdout stays data. The level
//! policy is the house's: per message TRACE, per connection DEBUG, membership and leadership INFO,
//! what would wake somebody WARN, possible loss ERROR; never a payload, key or secret.

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::args::{LogArgs, LogFormat};

/// What stays quiet whatever the level is: libraries whose INFO is our DEBUG. openraft warns at every
/// heartbeat to a peer that is away, which the mesh has said once.
pub(crate) const QUIET: [&str; 5] = [
    "openraft=error",
    "quinn=warn",
    "quinn_proto=warn",
    "sled=warn",
    "rustls=warn",
];

/// What `--nats-debug` adds (cluster.md, Routes).
const PROTOCOL: &str = ",unibus_broker=trace,unibus_node::mesh=debug";

/// Why logging was not set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The filter is none.
    #[error(
        "--log-level {found:?} is no filter ({source}); wanted error, warn, info, debug, trace or e.g. info,unibus_raft=debug"
    )]
    Filter {
        /// What was found.
        found: String,
        /// Why it does not parse.
        source: ParseError,
    },
}

/// Sets up logging for the process. A second call keeps the first one's set-up.
///
/// # Errors
/// [`TelemetryError::Filter`].
pub fn init(args: &LogArgs) -> Result<(), TelemetryError> {
    let filter = filter(args)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let outcome = match args.log_format {
        LogFormat::Text => builder.with_ansi(stderr_is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "logging was set up before");
    }
    Ok(())
}

fn stderr_is_terminal() -> bool {
    use std::io::IsTerminal;
    std::io::stderr().is_terminal()
}

fn filter(args: &LogArgs) -> Result<EnvFilter, TelemetryError> {
    let level = match (&args.log_level, args.debug) {
        (Some(level), _) => level.as_str(),
        (None, true) => "debug",
        (None, false) => "info",
    };
    let mut text = QUIET.join(",");
    if args.nats_debug {
        text.push_str(PROTOCOL);
    }
    // What the operator wrote comes last, so that it wins over the quiet list.
    text.push(',');
    text.push_str(level);
    EnvFilter::try_new(&text).map_err(|source| TelemetryError::Filter {
        found: level.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::filter;
    use crate::config::args::LogArgs;

    fn of(level: &str) -> Result<String, String> {
        let args = LogArgs {
            log_level: Some(level.to_owned()),
            ..LogArgs::default()
        };
        filter(&args)
            .map(|f| f.to_string())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn the_operators_words_win_over_the_quiet_list() {
        assert!(of("debug").unwrap().contains("sled=warn"));
        assert!(of("info,sled=trace").unwrap().contains("sled=trace"));
    }

    #[test]
    fn the_protocol_is_traced_where_that_is_asked_for() {
        let args = LogArgs {
            nats_debug: true,
            ..LogArgs::default()
        };
        let text = filter(&args).unwrap().to_string();
        assert!(text.contains("unibus_broker=trace"), "{text}");
        assert!(!of("info").unwrap().contains("trace"));
    }

    #[test]
    fn what_is_no_filter_is_named() {
        assert!(of("a=b=c").unwrap_err().contains("--log-level"));
    }
}
