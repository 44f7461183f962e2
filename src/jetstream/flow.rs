//! The answers of clients to flow control requests: they arrive at the client's node and matter on
//! the leader.

use std::sync::Arc;

use bytes::Bytes;
use unibus_broker::{Inbound, Service};

use super::core::Core;
use super::leader::ToLeader;

/// What every flow control reply subject starts with:
/// `$JS.FC.<stream>.<consumer>.<request>`.
pub(super) const FLOW_PREFIX: &str = "$JS.FC.";

/// Takes `$JS.FC.>`.
#[derive(Debug)]
pub(super) struct FlowReplies {
    core: Arc<Core>,
}

impl FlowReplies {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

impl Service for FlowReplies {
    fn deliver(&self, m: &Inbound<'_>) -> bool {
        if self.core.is_leader() {
            self.core.engine.flow_reply(m.subject);
        } else {
            let subject = Bytes::copy_from_slice(m.subject);
            // Sent in the order of the calls; a lost one is made good by the stall limit.
            tokio::spawn(self.core.ask_leader(&ToLeader::FlowReply { subject }));
        }
        true
    }
}

/// The stream and consumer that a flow control subject names.
pub(super) fn target(subject: &[u8]) -> Option<(&str, &str)> {
    let rest = std::str::from_utf8(subject)
        .ok()?
        .strip_prefix(FLOW_PREFIX)?;
    let mut tokens = rest.split('.');
    let found = (tokens.next()?, tokens.next()?);
    (tokens.next().is_some() && tokens.next().is_none()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::target;

    #[test]
    fn subjects_name_the_consumer() {
        assert_eq!(target(b"$JS.FC.S.c.AB12"), Some(("S", "c")));
        assert_eq!(target(b"$JS.FC.S.c"), None);
        assert_eq!(target(b"$JS.FC.S.c.x.y"), None);
        assert_eq!(target(b"$JS.ACK.S.c.x"), None);
    }
}
