//! The API under the node's JetStream domain: `$JS.<domain>.API.X` is `$JS.API.X`, and what clients of
//! key-value and object stores publish below it goes to the stores' own subjects (nats-surface §2.1).

use std::sync::Arc;

use futures::future::BoxFuture;
use unibus_broker::{Inbound, Service};

use super::api::Api;
use super::ingest::Capture;
use super::subject::API_PREFIX;

/// Prefixes of subjects that are published through the domain's API.
const STORES: [&[u8]; 2] = [b"$KV.", b"$O."];

/// The service of `$JS.<domain>.API.>`.
#[derive(Debug)]
pub(super) struct DomainApi {
    prefix: Vec<u8>,
    api: Arc<Api>,
    capture: Arc<Capture>,
}

impl DomainApi {
    pub(super) fn new(domain: &str, api: Arc<Api>, capture: Arc<Capture>) -> Self {
        Self {
            prefix: format!("$JS.{domain}.API.").into_bytes(),
            api,
            capture,
        }
    }
}

impl Service for DomainApi {
    fn deliver(&self, m: &Inbound<'_>) -> bool {
        let Some(rest) = m.subject.strip_prefix(self.prefix.as_slice()) else {
            return false;
        };
        if STORES.iter().any(|store| rest.starts_with(store)) {
            let m = Inbound {
                subject: rest,
                ..*m
            };
            return self.capture.deliver(&m);
        }
        let subject = [API_PREFIX.as_bytes(), rest].concat();
        let m = Inbound {
            subject: &subject,
            ..*m
        };
        self.api.deliver(&m)
    }

    fn ready(&self) -> Option<BoxFuture<'static, ()>> {
        self.api.ready()
    }
}
