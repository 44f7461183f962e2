//! The files by which others find a running server: its process id, and the ports it has. They go
//! when the server goes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::NAME;
use super::options::Options;
use crate::config::NodeConfig;
use crate::node::{Addresses, every_address};

/// Removes its file when it is dropped.
#[derive(Debug)]
pub struct Left(PathBuf);

impl Left {
    /// A file with this process's id.
    ///
    /// # Errors
    /// Words for a person.
    pub fn with_pid(path: &Path) -> Result<Self, String> {
        let pid = std::process::id().to_string();
        std::fs::write(path, pid).map_err(|error| {
            format!("the pid file {} can't be written: {error}", path.display())
        })?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        // Somebody else may have removed it; there is nothing left to do about it.
        let _gone = std::fs::remove_file(&self.0);
    }
}

/// `nats-server_PID.ports`: for each listener the URLs by which it can be reached.
#[derive(Debug, Default, Serialize)]
struct Ports {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nats: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    monitoring: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cluster: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    websocket: Vec<String>,
}

/// Writes the ports file into `ports_file_dir`, where there is one: complete or not at all.
pub(super) fn write_ports(
    options: &Options,
    config: &NodeConfig,
    addresses: &Addresses,
) -> Result<Option<Left>, String> {
    let Some(folder) = &options.ports_file_dir else {
        return Ok(None);
    };
    let wss = config.websocket.as_ref().is_some_and(|ws| ws.tls.is_some());
    let ports = Ports {
        nats: urls("nats", Some(addresses.client)),
        monitoring: urls("http", addresses.monitor),
        cluster: urls("nats", addresses.cluster),
        websocket: urls(if wss { "wss" } else { "ws" }, addresses.websocket),
    };
    let path = folder.join(format!("{NAME}_{}.ports", std::process::id()));
    let failed = |error| {
        format!(
            "the ports file {} can't be written: {error}",
            path.display()
        )
    };
    let draft = path.with_extension("ports.new");
    let text = serde_json::to_vec(&ports).map_err(|error| failed(error.into()))?;
    std::fs::write(&draft, text).map_err(failed)?;
    std::fs::rename(&draft, &path).map_err(failed)?;
    Ok(Some(Left(path)))
}

fn urls(scheme: &str, at: Option<SocketAddr>) -> Vec<String> {
    let every = at.map(every_address).unwrap_or_default();
    every.iter().map(|at| format!("{scheme}://{at}")).collect()
}
