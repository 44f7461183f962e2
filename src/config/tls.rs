//! How clients' connections are encrypted: settings only. Reading the files is `node/client_tls.rs`'s
//! part, the handshake is the broker's.

use std::path::PathBuf;
use std::time::Duration;

/// Time for a TLS handshake where none is set (nats-surface §1.7).
pub const TLS_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
/// Longest time that may be set for a handshake.
pub const TLS_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Under `handshake_first: auto`, how long a silent client is waited for before it gets INFO in plain
/// text (nats-surface §1.13).
pub const FALLBACK_DELAY_DEFAULT: Duration = Duration::from_millis(50);

/// TLS of one client listener (`tls {}` of nats-server's file, `--tls-…` of ours).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientTls {
    /// Certificate chain, PEM, the server's own certificate first.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Authorities that clients' certificates must come from, PEM. Needed with `verify` and
    /// `verify_and_map`.
    pub ca: Option<PathBuf>,
    /// A client without a certificate of `ca` is refused.
    pub verify: bool,
    /// As `verify`, and the certificate says which user the client is.
    pub verify_and_map: bool,
    /// Who speaks first.
    pub handshake_first: HandshakeFirst,
    /// From accept to the end of the handshake.
    pub timeout: Duration,
    /// Clients may go on without TLS (`allow_non_tls`, mixed mode). Not for WebSocket listeners.
    pub allow_non_tls: bool,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
}

impl ClientTls {
    /// Server certificate only, everything else at its default.
    #[must_use]
    pub fn new(cert: PathBuf, key: PathBuf) -> Self {
        Self {
            cert,
            key,
            ca: None,
            verify: false,
            verify_and_map: false,
            handshake_first: HandshakeFirst::Off,
            timeout: TLS_TIMEOUT_DEFAULT,
            allow_non_tls: false,
            min_version: TlsVersion::V12,
        }
    }

    /// Whether clients have to show a certificate.
    #[must_use]
    pub fn asks_for_certificates(&self) -> bool {
        self.verify || self.verify_and_map
    }
}

/// Who speaks first on a TLS listener (`handshake_first`, nats-surface §1.13).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum HandshakeFirst {
    /// INFO in plain text, then the handshake.
    #[default]
    Off,
    /// The handshake, then INFO inside TLS (`true`).
    Always,
    /// The handshake if the client begins one within this time, else INFO in plain text first (`auto`
    /// is [`FALLBACK_DELAY_DEFAULT`]; a duration is itself).
    Auto(Duration),
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    V12,
    /// TLS 1.3.
    V13,
}
