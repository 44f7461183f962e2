//! The publish/subscribe broker: sockets, routing, slow-consumer rule.
