//! What the broker tells monitoring about its connections, subscriptions and accounts.
//!
//! Owns the public shapes and the order of pages. Copies of live numbers: nothing here changes anything.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::reason::CloseReason;

/// The account of those who name none.
pub const GLOBAL_ACCOUNT: &str = "$G";

/// How a client talks to the node: `type` in connz.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Hash)]
pub enum ConnectionKind {
    /// The NATS protocol over TCP or TLS.
    #[default]
    Nats,
    /// The NATS protocol in WebSocket frames.
    WebSocket,
}

impl ConnectionKind {
    /// nats-server's word for it.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::WebSocket => "websocket",
        }
    }
}

/// What TLS agreed upon.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TlsFacts {
    /// Such as `1.3`.
    pub version: String,
    /// Such as `TLS_AES_128_GCM_SHA256`.
    pub cipher: String,
}

/// One connection, open or closed.
#[derive(Clone, Debug)]
pub struct ConnectionReport {
    /// Its number in this process.
    pub cid: u64,
    /// How it talks to the node.
    pub kind: ConnectionKind,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// When it was accepted.
    pub start: SystemTime,
    /// When something was last sent or received.
    pub last_activity: SystemTime,
    /// When it was closed.
    pub stop: Option<SystemTime>,
    /// Why it was closed.
    pub reason: Option<CloseReason>,
    /// The last PING's round trip; `None` before the first PONG.
    pub rtt: Option<Duration>,
    /// Bytes that wait to be written to it.
    pub pending_bytes: usize,
    /// Messages it published.
    pub in_msgs: u64,
    /// Messages it was sent.
    pub out_msgs: u64,
    /// Header and payload bytes it published.
    pub in_bytes: u64,
    /// Header and payload bytes it was sent.
    pub out_bytes: u64,
    /// How many subscriptions it has (or had when it was closed).
    pub subscriptions: usize,
    /// What CONNECT said and the authenticator found.
    pub client: ClientFacts,
    /// Its subscriptions, when they were asked for. Empty for closed connections.
    pub subscription_list: Vec<SubscriptionReport>,
}

/// Who a connection is. Everything is empty before CONNECT.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClientFacts {
    /// CONNECT's `name`.
    pub name: Option<Arc<str>>,
    /// CONNECT's `lang`.
    pub lang: Option<Arc<str>>,
    /// CONNECT's `version`.
    pub version: Option<Arc<str>>,
    /// The account; `None` = [`GLOBAL_ACCOUNT`].
    pub account: Option<Arc<str>>,
    /// The user's name; for a token `[REDACTED]` is the reporter's business.
    pub user: Option<Arc<str>>,
    /// The public nkey, when the client has one.
    pub nkey: Option<Arc<str>>,
    /// TLS, when the connection is inside it.
    pub tls: Option<Arc<TlsFacts>>,
    /// Whether it has been admitted.
    pub admitted: bool,
}

impl ClientFacts {
    /// The account's name.
    #[must_use]
    pub fn account_name(&self) -> &str {
        self.account.as_deref().unwrap_or(GLOBAL_ACCOUNT)
    }
}

/// One subscription of a client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SubscriptionReport {
    /// The connection.
    pub cid: u64,
    /// The account; `None` = [`GLOBAL_ACCOUNT`].
    pub account: Option<Arc<str>>,
    /// The filter.
    pub subject: String,
    /// The queue group.
    pub queue: Option<String>,
    /// The client's name for it.
    pub sid: String,
    /// Deliveries so far.
    pub msgs: u64,
    /// Deliveries after which it ends.
    pub max: Option<u64>,
}

/// Which connections are meant.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ConnectionState {
    /// Those that are open.
    #[default]
    Open,
    /// Those in the ring of closed ones.
    Closed,
    /// Both.
    Any,
}

/// The order of a page: nats-server's `sort`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ConnectionOrder {
    /// By number, lowest first.
    #[default]
    Cid,
    /// By start, earliest first.
    Start,
    /// Most subscriptions first.
    Subscriptions,
    /// Most pending bytes first.
    Pending,
    /// Most messages sent to it first.
    MessagesTo,
    /// Most messages received from it first.
    MessagesFrom,
    /// Most bytes sent to it first.
    BytesTo,
    /// Most bytes received from it first.
    BytesFrom,
    /// Most recently active first.
    Last,
    /// Longest idle first.
    Idle,
    /// Longest up first.
    Uptime,
    /// Closed last first.
    Stop,
    /// By reason, then by stop.
    Reason,
    /// Longest round trip first.
    Rtt,
}

/// What [`crate::Broker::connections`] is asked for. `Default` = the first page of open connections.
#[derive(Clone, Debug)]
pub struct ConnectionQuery {
    /// Open, closed or both.
    pub state: ConnectionState,
    /// Only this one.
    pub cid: Option<u64>,
    /// Only those of this account.
    pub account: Option<String>,
    /// Only those of this user (name or nkey).
    pub user: Option<String>,
    /// Only those with a subscription whose filter could match this one.
    pub filter_subject: Option<String>,
    /// With [`ConnectionReport::subscription_list`].
    pub subscriptions: bool,
    /// The order.
    pub order: ConnectionOrder,
    /// How many to leave out at the start.
    pub offset: usize,
    /// The most to return.
    pub limit: usize,
}

impl Default for ConnectionQuery {
    fn default() -> Self {
        Self {
            state: ConnectionState::Open,
            cid: None,
            account: None,
            user: None,
            filter_subject: None,
            subscriptions: false,
            order: ConnectionOrder::Cid,
            offset: 0,
            limit: 1024,
        }
    }
}

/// A page of connections.
#[derive(Clone, Debug, Default)]
pub struct ConnectionPage {
    /// The page.
    pub connections: Vec<ConnectionReport>,
    /// How many there are over all pages.
    pub total: usize,
}

/// What [`crate::Broker::subscriptions`] is asked for.
#[derive(Clone, Debug, Default)]
pub struct SubscriptionQuery {
    /// Only those of this connection.
    pub cid: Option<u64>,
    /// Only those of this account.
    pub account: Option<String>,
    /// Only those that would receive this literal subject.
    pub test: Option<String>,
    /// How many to leave out at the start.
    pub offset: usize,
    /// The most to return.
    pub limit: usize,
}

/// A page of subscriptions, and what the index holds.
#[derive(Clone, Debug, Default)]
pub struct SubscriptionPage {
    /// The page.
    pub subscriptions: Vec<SubscriptionReport>,
    /// How many there are over all pages.
    pub total: usize,
}

/// One account on this node.
#[derive(Clone, Debug, Default)]
pub struct AccountReport {
    /// Its name.
    pub name: String,
    /// Open connections.
    pub connections: usize,
    /// Connections ever admitted.
    pub connections_total: u64,
    /// Subscriptions of its clients.
    pub subscriptions: usize,
    /// Messages its clients published.
    pub in_msgs: u64,
    /// Their header and payload bytes.
    pub in_bytes: u64,
    /// Messages its clients were sent.
    pub out_msgs: u64,
    /// Their header and payload bytes.
    pub out_bytes: u64,
    /// Clients closed because they read too slowly.
    pub slow_consumers: u64,
}

/// Puts reports in order.
pub(crate) fn sort(reports: &mut [ConnectionReport], order: ConnectionOrder) {
    use std::cmp::Reverse;
    reports.sort_by_key(|report| report.cid);
    match order {
        ConnectionOrder::Cid => {}
        ConnectionOrder::Start | ConnectionOrder::Uptime => reports.sort_by_key(|r| r.start),
        ConnectionOrder::Subscriptions => reports.sort_by_key(|r| Reverse(r.subscriptions)),
        ConnectionOrder::Pending => reports.sort_by_key(|r| Reverse(r.pending_bytes)),
        ConnectionOrder::MessagesTo => reports.sort_by_key(|r| Reverse(r.out_msgs)),
        ConnectionOrder::MessagesFrom => reports.sort_by_key(|r| Reverse(r.in_msgs)),
        ConnectionOrder::BytesTo => reports.sort_by_key(|r| Reverse(r.out_bytes)),
        ConnectionOrder::BytesFrom => reports.sort_by_key(|r| Reverse(r.in_bytes)),
        ConnectionOrder::Last => reports.sort_by_key(|r| Reverse(r.last_activity)),
        ConnectionOrder::Idle => reports.sort_by_key(|r| r.last_activity),
        ConnectionOrder::Stop => reports.sort_by_key(|r| Reverse(r.stop)),
        ConnectionOrder::Reason => reports.sort_by_key(|r| (r.reason.map(|r| r.text()), r.stop)),
        ConnectionOrder::Rtt => reports.sort_by_key(|r| Reverse(r.rtt)),
    }
}
