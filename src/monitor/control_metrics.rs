//! The control plane's numbers in `/metrics`: one table.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::Registry;

use super::metrics::Kind;
use crate::control::ControlCounters;

/// Goes up, or goes up and down; name; help; where its value is.
type Row = (
    Kind,
    &'static str,
    &'static str,
    fn(&ControlCounters) -> &AtomicU64,
);

use Kind::{Counter as C, Gauge as G};

#[rustfmt::skip]
const TABLE: [Row; 16] = [
    (C, "unibus_control_requests_total", "Requests to the control plane whose head was read", |c| &c.requests),
    (C, "unibus_control_changes_total", "Changes that were made", |c| &c.changes),
    (C, "unibus_control_unauthorized_total", "Refused with 401, replays apart", |c| &c.unauthorized),
    (C, "unibus_control_replayed_total", "Refused with 401 because their nonce was seen", |c| &c.replayed),
    (C, "unibus_control_forbidden_total", "Refused with 403", |c| &c.forbidden),
    (C, "unibus_control_unavailable_total", "Refused with 503 because the store did not answer", |c| &c.unavailable),
    (C, "unibus_control_tolerated_total", "Let through by soft, which enforce would refuse", |c| &c.tolerated),
    (C, "unibus_control_bodies_too_large_total", "Refused with 413: --http-max-body, --http-max-blob", |c| &c.bodies_too_large),
    (C, "unibus_control_heads_too_large_total", "Refused with 431: --http-max-header", |c| &c.heads_too_large),
    (C, "unibus_control_too_slow_total", "Cut for their time: --http-header-timeout-ms, --http-body-timeout-ms, --http-blob-timeout-ms", |c| &c.too_slow),
    (C, "unibus_control_rate_limited_total", "Refused with 429: --http-rate, --http-burst", |c| &c.rate_limited),
    (C, "unibus_control_shed_total", "Refused with 503: --http-body-budget", |c| &c.shed),
    (G, "unibus_control_body_bytes", "Bytes of bodies in flight", |c| &c.body_bytes),
    (G, "unibus_control_body_bytes_max", "Most of them: --http-body-budget", |c| &c.body_bytes_max),
    (G, "unibus_control_connections", "Open connections to the control plane", |c| &c.seats.taken),
    (C, "unibus_control_connections_refused_total", "Closed at once: --http-max-connections-per-address", |c| &c.seats.refused),
];

/// Adds the table to a registry.
pub(super) fn fill(registry: &Registry, counters: &ControlCounters) -> prometheus::Result<()> {
    for (kind, name, help, read) in TABLE {
        let value = read(counters).load(Ordering::Relaxed) as f64;
        kind.register(registry, (name, help), value)?;
    }
    Ok(())
}
