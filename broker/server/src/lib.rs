//! The publish/subscribe broker: sockets, routing, slow-consumer rule.
//!
//! [`Broker`] is the only way in. It serves NATS clients on a TCP listener, exchanges interest and
//! messages with the brokers of other nodes over byte streams that the caller provides, and hands what
//! its own clients publish to in-process services. It knows neither raft nor storage nor QUIC.

mod accepting;
mod accounts;
mod backlog;
mod broker;
mod burst;
mod certificate;
mod clock;
mod connection;
mod exchange;
mod fanout;
mod io;
mod lameduck;
mod listener;
mod meter;
mod opening;
mod options;
mod outbound;
mod places;
mod plan;
mod plane;
mod ports;
mod query;
mod reason;
mod registry;
mod replies;
mod report;
mod rng;
mod route;
mod service;
mod session;
mod settings;
mod shared;
mod stats;
mod subscription;
mod table;
mod tls;
mod trace;
mod violation;
mod websocket;
mod wire;

pub use accepting::{ACCEPT_RETRY, AcceptFailures, Seldom};
pub use accounts::{AccountOptions, AccountsError, Export, Import, ResponseType, ShareKind};
pub use broker::Broker;
pub use certificate::{CertificateError, CertificateIdentity};
pub use lameduck::LameDuck;
pub use options::{BrokerOptions, ConnectUrls, Limits};
pub use plane::Internal;
pub use ports::{
    Admission, AuthError, AuthRequest, Authenticator, Decision, Events, Grant, Inbound, Origin,
    Publication, Service, UserLimits,
};
pub use reason::CloseReason;
pub use report::{
    AccountReport, ClientFacts, ConnectionKind, ConnectionOrder, ConnectionPage, ConnectionQuery,
    ConnectionReport, ConnectionState, GLOBAL_ACCOUNT, SubscriptionPage, SubscriptionQuery,
    SubscriptionReport, TlsFacts,
};
pub use route::{Peer, RouteTask};
pub use service::ServiceId;
pub use settings::{ClientListener, ListenerSettings};
pub use stats::BrokerStats;
pub use tls::{HandshakeFirst, TlsSettings};
pub use websocket::{OriginError, OriginRule, WebSocketSettings};
