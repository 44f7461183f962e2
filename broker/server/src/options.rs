//! What a broker is told at start: identity, addresses to advertise, and limits.
//!
//! Owns the numbers. Every queue and buffer of this crate is bounded by one of them.

use std::time::Duration;

use unibus_proto::handshake::ServerInfo;

/// How a broker presents itself and what it allows.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    /// `server_name` of INFO.
    pub server_name: String,
    /// `server_id` of INFO: any text unique to this process.
    pub server_id: String,
    /// `version` of INFO: three numbers; clients gate features on it.
    pub version: String,
    /// `cluster` of INFO; `None` = stand-alone.
    pub cluster: Option<String>,
    /// `host` of INFO.
    pub host: String,
    /// `port` of INFO.
    pub port: u16,
    /// Where clients reach this node and its peers.
    pub connect_urls: ConnectUrls,
    /// Whether a client must present credentials before anything else.
    pub auth_required: bool,
    /// Whether INFO has a nonce even when authentication is not required.
    pub always_nonce: bool,
    /// `jetstream` of INFO.
    pub jetstream: bool,
    /// `domain` of INFO.
    pub domain: Option<String>,
    /// `api_lvl` of INFO.
    pub api_level: u8,
    /// What is refused by size, count or time.
    pub limits: Limits,
}

/// Where clients reach nodes, as they are told in INFO: each kind of client its own list.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ConnectUrls {
    /// `host:port` for plain clients.
    pub clients: Vec<String>,
    /// `host:port` for clients over WebSocket.
    pub websockets: Vec<String>,
}

impl ConnectUrls {
    /// Puts the lists into the common INFO, of which each listener tells its own.
    pub fn tell(&self, info: &mut ServerInfo) {
        info.connect_urls.clone_from(&self.clients);
        info.ws_connect_urls.clone_from(&self.websockets);
    }
}

impl Default for BrokerOptions {
    fn default() -> Self {
        Self {
            server_name: "unibus".into(),
            server_id: "unibus".into(),
            version: "2.14.0".into(),
            cluster: None,
            host: "127.0.0.1".into(),
            port: 4222,
            connect_urls: ConnectUrls::default(),
            auth_required: false,
            always_nonce: false,
            jetstream: false,
            domain: None,
            api_level: 0,
            limits: Limits::default(),
        }
    }
}

/// What is refused by size, count or time (nats-surface §1.7). Units are in the names.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Headers and payload of one message.
    pub payload_bytes_max: usize,
    /// Arguments of one control line.
    pub control_line_bytes_max: usize,
    /// Bytes waiting to be written to one client; over it the client is a slow consumer.
    pub pending_bytes_max: usize,
    /// Bytes waiting to be written to one peer. Publishers are held back from a quarter of it on; over it the
    /// peer loses messages.
    pub route_pending_bytes_max: usize,
    /// Bytes of interest among what waits for one peer; over it the peer is told anew, as fast as it reads.
    pub route_interest_bytes_max: usize,
    /// How long a client may take no bytes while some wait for it.
    pub write_deadline: Duration,
    /// Between two PINGs to a silent client.
    pub ping_interval: Duration,
    /// Until the first PING after a connect.
    pub first_ping: Duration,
    /// Unanswered PINGs before the connection counts as stale.
    pub pings_out_max: u32,
    /// From accept to CONNECT.
    pub auth_timeout: Duration,
    /// Client connections at once.
    pub connections_max: usize,
    /// Subscriptions of one connection; 0 = no limit.
    pub subscriptions_max: usize,
    /// Tokens of a subscribed filter; 0 = no limit.
    pub subscription_tokens_max: usize,
    /// Longest wait of a publisher, per read, for a receiver whose queue is nearly full.
    pub stall: Duration,
    /// The same for a peer.
    pub route_stall: Duration,
    /// Closed connections that reports still name.
    pub closed_connections_kept: usize,
    /// Longest time given to queued bytes when a connection is closed in an orderly way.
    pub flush_on_close: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload_bytes_max: 1024 * 1024,
            control_line_bytes_max: 4096,
            pending_bytes_max: 64 * 1024 * 1024,
            route_pending_bytes_max: 256 * 1024 * 1024,
            route_interest_bytes_max: 64 * 1024 * 1024,
            write_deadline: Duration::from_secs(10),
            ping_interval: Duration::from_secs(120),
            first_ping: Duration::from_secs(2),
            pings_out_max: 2,
            auth_timeout: Duration::from_secs(2),
            connections_max: 65_536,
            subscriptions_max: 0,
            subscription_tokens_max: 0,
            stall: Duration::from_millis(10),
            route_stall: Duration::from_secs(1),
            closed_connections_kept: 10_000,
            flush_on_close: Duration::from_secs(1),
        }
    }
}
