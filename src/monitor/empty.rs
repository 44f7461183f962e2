//! `/gatewayz`, `/leafz`, `/ipqueuesz`: documents about parts that this server does not have. Tools read
//! them all the same.

use serde::Serialize;
use unibus_proto::jetstream::timestamp::Timestamp;

use super::source::Monitor;
use super::text;

/// An object without fields.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Empty {}

/// `/gatewayz`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Gatewayz {
    server_id: String,
    now: Timestamp,
    outbound_gateways: Empty,
    inbound_gateways: Empty,
}

/// `/leafz`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Leafz {
    server_id: String,
    now: Timestamp,
    leafnodes: usize,
    leafs: [Empty; 0],
}

/// Makes `/gatewayz`.
#[must_use]
pub(crate) fn gatewayz(monitor: &Monitor) -> Gatewayz {
    Gatewayz {
        server_id: monitor.facts().server_id.clone(),
        now: text::now(),
        outbound_gateways: Empty {},
        inbound_gateways: Empty {},
    }
}

/// Makes `/leafz`.
#[must_use]
pub(crate) fn leafz(monitor: &Monitor) -> Leafz {
    Leafz {
        server_id: monitor.facts().server_id.clone(),
        now: text::now(),
        leafnodes: 0,
        leafs: [],
    }
}
