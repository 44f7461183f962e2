//! The broker as its clients, services and peers see it, over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that can't go on fails"
)]

mod access;
mod accounts;
mod clients;
mod core;
mod endurance;
mod lagging;
mod limits;
mod membership;
mod queues;
mod reports;
mod routes;
mod secure;
mod services;
mod support;
mod websocket;
