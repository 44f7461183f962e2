//! JetStream's JSON: configurations, infos, requests, responses and errors, with the keys, the order
//! and the defaults that existing clients depend on. Only data and its text form; the rules that
//! accept or refuse a configuration are in `unibus-state`.

pub mod ack;
pub mod api;
pub mod config;
pub mod consumer;
pub mod cron;
pub mod duration;
pub mod error;
pub mod info;
pub mod place;
pub mod pull;
pub mod schedule;
pub mod source;
pub mod timestamp;

use serde::{Deserialize, Deserializer};

/// Reads a value that clients may leave out or send as `null`; both mean the default.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// For `skip_serializing_if`: the value is its type's default (Go's `omitempty`).
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
