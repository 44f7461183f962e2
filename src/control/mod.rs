//! The control plane: users, rooms, members, sealed keys and blobs as records of the replicated
//! store, and the HTTP API over them (control-plane.md).
//!
//! - `buckets`: the seven buckets and who makes them; `first_users`: who is in them at first.
//! - `follow`: on every node, from applied records to what open connections may do.
//! - `records`: typed reads and changes with expectations and deadlines.
//! - `listener`, `router`, `limits`, `body`, `caller`: the way of a request to its handler.
//! - `users`, `rooms`, `members`, `keys`, `blobs`, `uploads`, `openapi`: the handlers, one resource each.
//!
//! A change is one command (`unibus_state::ControlChange`): all of it or nothing.

mod blobs;
mod body;
pub(crate) mod buckets;
mod caller;
pub(crate) mod first_users;
pub(crate) mod follow;
mod keys;
mod limits;
mod listener;
mod members;
mod openapi;
mod plane;
mod records;
mod refusal;
mod reply;
mod rooms;
mod router;
mod tls;
mod uploads;
mod users;

pub use limits::ControlCounters;
pub use listener::{ControlServer, PreparedTls};
pub use openapi::document as openapi_document;
pub use tls::{ControlTls, ControlTlsError};

pub(crate) use listener::PlaneParts;
pub(crate) use rooms::room_stream_config;
