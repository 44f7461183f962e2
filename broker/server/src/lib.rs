//! The publish/subscribe broker: sockets, routing, slow-consumer rule.
//!
//! [`Broker`] is the only way in. It serves NATS clients on a TCP listener, exchanges interest and
//! messages with the brokers of other nodes over byte streams that the caller provides, and hands what
//! its own clients publish to in-process services. It knows neither raft nor storage nor QUIC.

mod broker;
mod burst;
mod connection;
mod fanout;
mod io;
mod listener;
mod options;
mod outbound;
mod plan;
mod ports;
mod rng;
mod route;
mod service;
mod session;
mod shared;
mod stats;
mod subscription;
mod table;

pub use broker::Broker;
pub use options::{BrokerOptions, Limits};
pub use ports::{
    Admission, AuthError, AuthRequest, Authenticator, Grant, Inbound, Origin, Publication, Service,
};
pub use route::{Peer, RouteTask};
pub use service::ServiceId;
pub use shared::Internal;
pub use stats::BrokerStats;
