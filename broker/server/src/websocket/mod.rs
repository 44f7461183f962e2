//! NATS over WebSocket (nats-surface §1.14).
//!
//! Owns the settings of such a listener. The HTTP request is `upgrade`, frames are `frames`, and `stream`
//! makes a byte stream of them.

mod frames;
mod origin;
mod stream;
pub(crate) mod upgrade;

use std::time::Duration;

pub use self::origin::{OriginError, OriginRule};
pub(crate) use self::stream::WsStream;

/// How a listener speaks WebSocket.
#[derive(Clone, Debug)]
pub struct WebSocketSettings {
    /// `host` of INFO for its clients.
    pub host: String,
    /// `port` of INFO for its clients.
    pub port: u16,
    /// From accept, or the end of the TLS handshake, to the end of the HTTP upgrade.
    pub handshake_timeout: Duration,
    /// Which web pages may connect.
    pub origins: OriginRule,
}
