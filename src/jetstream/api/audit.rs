//! Tells of the API's requests whoever listens on `$JS.EVENT.ADVISORY.API`. Nothing is kept of a request
//! while nobody does.

use serde_json::{Value, json};
use unibus_broker::Inbound;

use crate::jetstream::advisory::{self, Event};
use crate::jetstream::core::Core;

/// Bytes of a request or an answer that are told.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// A request that is to be told of.
#[derive(Debug)]
pub(super) struct Audit {
    subject: String,
    request: String,
    client: Value,
}

impl Audit {
    /// `None`: nobody wants to know.
    pub(super) fn of(core: &Core, m: &Inbound<'_>) -> Option<Box<Self>> {
        let wanted =
            core.broker.has_interest(advisory::API.as_bytes()) || core.hooks.stores_events();
        if !wanted || m.origin.internal {
            return None;
        }
        let body = m.data.get(m.header_len..).unwrap_or_default();
        Some(Box::new(Self {
            subject: String::from_utf8_lossy(m.subject).into_owned(),
            request: text(body),
            client: json!({
                "id": m.origin.connection,
                "user": m.origin.identity.as_deref(),
                "acc": m.origin.account.as_deref().unwrap_or("$G"),
            }),
        }))
    }

    /// The request was answered.
    pub(super) fn tell(&self, core: &Core, response: &[u8]) {
        let event = Event::Api {
            subject: self.subject.clone(),
            request: self.request.clone(),
            response: text(response),
            server: core.options.server_name.clone(),
            client: self.client.clone(),
        };
        advisory::tell(core, &event);
    }
}

fn text(bytes: &[u8]) -> String {
    let kept = &bytes[..bytes.len().min(TEXT_BYTES_MAX)];
    String::from_utf8_lossy(kept).into_owned()
}
