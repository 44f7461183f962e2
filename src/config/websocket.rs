//! The listener for NATS over WebSocket (nats-surface §1.14): settings only.

use std::net::SocketAddr;
use std::time::Duration;

use super::tls::ClientTls;

/// TCP port of WebSocket where a listener is wanted and no port is given.
pub const WS_PORT_DEFAULT: u16 = 8080;
/// Time for the HTTP upgrade where none is set.
pub const WS_HANDSHAKE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);

/// One WebSocket listener (`websocket {}` of nats-server's file, `--ws-…` of ours).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WebSocket {
    /// Where it listens (TCP); port 0 takes a free one.
    pub listen: SocketAddr,
    /// `host:port` that INFO's `ws_connect_urls` tells, where it differs from `listen`.
    pub advertise: Option<String>,
    /// TLS (`wss`). Its `handshake_first` and `allow_non_tls` have no meaning here.
    pub tls: Option<ClientTls>,
    /// Plain `ws` is meant: a listener without `tls` and without this is a mistake.
    pub no_tls: bool,
    /// Negotiate permessage-deflate with clients that offer it.
    pub compression: bool,
    /// From accept (after TLS) to the end of the HTTP upgrade.
    pub handshake_timeout: Duration,
    /// A browser's Origin must be this listener's own host and port.
    pub same_origin: bool,
    /// A browser's Origin must be one of these (`https://app.example:8443`); empty = any.
    pub allowed_origins: Vec<String>,
    /// The user that a client without credentials counts as, where it differs from the NATS listener's.
    pub no_auth_user: Option<String>,
}

impl WebSocket {
    /// A listener with every default: no TLS named yet, no compression, any Origin.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            advertise: None,
            tls: None,
            no_tls: false,
            compression: false,
            handshake_timeout: WS_HANDSHAKE_TIMEOUT_DEFAULT,
            same_origin: false,
            allowed_origins: Vec::new(),
            no_auth_user: None,
        }
    }
}
