//! The node's HTTP listeners: the control plane (`--http-port`: /healthz, /livez) and monitoring
//! (`--monitor-port`: /healthz, /livez, /varz). Owns accepting, bounds and routing; asks a
//! [`HealthSource`] for what it answers and must never touch the store or the mesh itself.

pub mod answer;
pub mod health;
pub(crate) mod pace;
pub(crate) mod pages;
pub mod server;

pub use health::{
    Document, HealthReport, HealthSource, NodeRole, PeerReport, PostureReport, RefusedRoute,
};
pub use pages::OwnNames;
pub use server::{HttpServer, Surface};
