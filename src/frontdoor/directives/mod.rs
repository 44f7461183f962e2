//! nats-server's directives → [`Options`]. One file for each block. A directive that changes nothing
//! here is accepted and noted in the log; one that asks for something this server can't do is refused;
//! one that nobody knows is a mistake. All of them are told at once, each with its place.

mod accounts;
mod auth;
mod cluster;
mod field;
mod jetstream;
mod server;
mod tls;
mod units;
mod websocket;

pub use field::Problem;

use self::field::Findings;
use super::conf::Map;
use super::options::Options;

/// Reads a configuration into options that are otherwise at their defaults.
///
/// # Errors
/// Every mistake in it.
pub fn read(map: &Map) -> Result<Options, Vec<Problem>> {
    let mut findings = Findings::default();
    let mut options = server::read(map, &mut findings);
    if findings.problems.is_empty() {
        options.notes = findings.notes;
        Ok(options)
    } else {
        Err(findings.problems)
    }
}

#[cfg(test)]
mod tests;
