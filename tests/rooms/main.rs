//! Rooms on a cluster of three processes under `enforce` with TLS, through the client library: what
//! people do there, what outsiders and servers that lie get, and what is never on a node's disk, in its memory or on the wire.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod conversation;
mod liar;
mod membership;
mod secrecy;
mod wire;
mod world;
