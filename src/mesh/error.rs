//! Why a mesh could not start. Each error names what to mend.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why [`super::Mesh::start`] failed.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The UDP address is not to be had.
    #[error("cannot listen for routes on {addr}/udp: {source}; is another node running there?")]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A PEM file could not be read.
    #[error(
        "route TLS file {}: {reason}; make it with `unibus-node pki init` and `pki issue`",
        path.display()
    )]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        reason: String,
    },
    /// The certificate carries no DNS name.
    #[error(
        "certificate {} has no DNS name, so it is nobody's identity; \
         make one with `unibus-node pki issue <name>`",
        .0.display()
    )]
    NoName(PathBuf),
    /// The certificate is another node's.
    #[error(
        "certificate {path} belongs to {found:?}, this node is {wanted:?}; \
         use its own certificate or `--server-name {found}`",
        path = path.display()
    )]
    OtherName {
        /// The certificate file.
        path: PathBuf,
        /// Its first DNS name.
        found: String,
        /// The server name given.
        wanted: String,
    },
    /// Certificate, key and CA do not fit together.
    #[error("route TLS: {0}; check that certificate, key and CA belong together")]
    Tls(String),
}
