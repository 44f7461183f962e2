//! The `$JS.API.>` service of a node.
//!
//! Every node serves the whole API for its own clients: writes go through the node's command queue in
//! the order the connection sent them, reads wait for a read barrier and look at local state. A
//! request is planned on the connection's task and answered on another; nothing here blocks.

mod audit;
mod authority;
mod consumer;
mod consumer_read;
mod consumer_write;
mod direct;
mod plan;
mod read;
mod restore;
mod snapshot;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use futures::future::BoxFuture;
use tokio::sync::Notify;
use unibus_broker::{Inbound, Origin, Service};
use unibus_proto::headers::HeaderMap;
use unibus_proto::jetstream::api::error_response;
use unibus_proto::jetstream::error::{self, ApiError};

use super::core::Core;
use super::ingest::answer_to;
use super::inlet::Inlet;
use super::inputs::InputKind;
use super::internal;
use super::subject::{self, Endpoint};
use super::text;

pub(super) use read::Reader;

use audit::Audit;
use plan::{Caller, Plan, plan, response_type};

/// Requests being served before connections wait with their next read.
const REQUESTS_SOFT_MAX: usize = 1024;
/// Requests being served before further ones are refused (10167).
const REQUESTS_MAX: usize = 32 * 1024;
/// Names of consumers made by the server have this many characters.
const GENERATED_NAME_LEN: usize = 8;

/// What the API counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    total: AtomicU64,
    errors: AtomicU64,
    serving: AtomicUsize,
    /// Archives that are being sent or read.
    archives: AtomicUsize,
    finished: Notify,
}

/// One request in service; counts itself out when dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    core: Arc<Core>,
    pub(super) reply: Vec<u8>,
    /// The request, when somebody wants to know of all requests.
    audit: Option<Box<Audit>>,
}

/// The service.
#[derive(Debug)]
pub(super) struct Api {
    core: Arc<Core>,
    reader: Arc<Reader>,
}

impl Api {
    pub(super) fn new(core: Arc<Core>, reader: Arc<Reader>) -> Self {
        Self { core, reader }
    }

    /// Whether this node answers the request at all. A direct get of a stream that does not allow it
    /// and a pull from a consumer that is not there have no responders.
    fn takes(&self, endpoint: &Endpoint<'_>, privileged: bool) -> bool {
        let hidden = |stream: &str| !privileged && internal::is_stream(stream);
        match *endpoint {
            Endpoint::DirectGet { stream, .. } => {
                !hidden(stream) && self.core.hooks.allows_direct(stream)
            }
            Endpoint::ConsumerNext { stream, consumer } => {
                !hidden(stream) && self.core.may_be_consumer(stream, consumer)
            }
            _ => true,
        }
    }

    /// A pull request goes to the leader; one that nothing can come back from goes nowhere.
    fn next(&self, m: &Inbound<'_>) -> bool {
        if m.reply.is_none_or(<[u8]>::is_empty) {
            return true;
        }
        let headers = &m.data[..m.header_len.min(m.data.len())];
        if required_level(headers) > self.core.options.api_level {
            Ticket::new(&self.core, m.reply.unwrap_or_default()).status(412, "Required Api Level");
            return true;
        }
        self.core.inlet.push(InputKind::Pull, m)
    }

    fn serve(&self, m: &Inbound<'_>, endpoint: &Endpoint<'_>, ticket: Ticket) {
        let (headers, body) = m.data.split_at(m.header_len.min(m.data.len()));
        let level = required_level(headers);
        match *endpoint {
            Endpoint::DirectGet { .. } if level > self.core.options.api_level => {
                ticket.status(412, "Required Api Level");
            }
            Endpoint::DirectGet { stream, subject } => {
                match direct::request(stream, subject, body) {
                    Ok(read) => self.reader.ask(read, "", m.origin.internal, ticket),
                    Err(description) => ticket.status(408, description),
                }
            }
            _ if level > self.core.options.api_level => {
                ticket.refuse(response_type(endpoint), &error::REQUIRED_API_LEVEL);
            }
            _ => self.serve_json(endpoint, body, m.origin, ticket),
        }
    }

    fn serve_json(&self, endpoint: &Endpoint<'_>, body: &[u8], origin: &Origin, ticket: Ticket) {
        let privileged = origin.internal;
        let kind = response_type(endpoint);
        let group_size = match endpoint {
            Endpoint::StreamCreate(_)
            | Endpoint::StreamUpdate(_)
            | Endpoint::ConsumerCreate(_)
            | Endpoint::Unsupported(_) => self.core.replica.status().voters.len(),
            _ => 0,
        };
        let caller = Caller {
            internal: privileged,
            group_size,
            limits: self.core.options.consumer_limits,
        };
        match plan(endpoint, body, caller, generated_name) {
            Err(error) => ticket.refuse(kind, &error),
            Ok(Plan::Read(read)) => self.reader.ask(read, kind, privileged, ticket),
            Ok(Plan::Leader(task)) => {
                tokio::spawn(consumer_write::at_leader(kind, task, ticket));
            }
            Ok(Plan::Snapshot { stream, request }) => {
                if !origin.may_be_answered_at(request.deliver_subject.as_bytes()) {
                    return ticket.refuse(kind, &error::SNAPSHOT_DELIVER_SUBJECT_INVALID);
                }
                tokio::spawn(snapshot::serve(stream, request, ticket));
            }
            Ok(Plan::Restore(request)) => {
                if let Some(error) = authority::refuse_stream(origin, &request.config) {
                    return ticket.refuse(kind, &error);
                }
                tokio::spawn(restore::serve(*request, origin.clone(), ticket));
            }
            Ok(Plan::Write { command, then }) => {
                let refused = authority::refuse(origin, &command)
                    .or_else(|| consumer_write::refuse(&self.core, &command));
                if let Some(error) = refused {
                    return ticket.refuse(kind, &error);
                }
                let call = self.core.ingest.call(&command);
                tokio::spawn(async move {
                    write::finish(kind, then, call, ticket).await;
                });
            }
        }
    }
}

impl Service for Api {
    fn deliver(&self, m: &Inbound<'_>) -> bool {
        let endpoint = subject::parse(m.subject);
        if !self.takes(&endpoint, m.origin.internal) || !may_be_answered(m) {
            return false;
        }
        if let Endpoint::ConsumerNext { .. } = endpoint {
            return self.next(m);
        }
        let mut ticket = Ticket::new(&self.core, m.reply.unwrap_or_default());
        ticket.audit = Audit::of(&self.core, m);
        if self.core.counters.serving.load(Ordering::Relaxed) > REQUESTS_MAX {
            ticket.refuse(response_type(&endpoint), &error::TOO_MANY_REQUESTS);
        } else {
            self.serve(m, &endpoint, ticket);
        }
        true
    }

    fn ready(&self) -> Option<BoxFuture<'static, ()>> {
        if self.core.counters.serving.load(Ordering::Relaxed) <= REQUESTS_SOFT_MAX {
            return Inlet::room(&self.core);
        }
        let core = Arc::clone(&self.core);
        Some(Box::pin(async move { core.counters.room().await }))
    }
}

impl Counters {
    /// (requests, refused ones, requests being served)
    pub(super) fn read(&self) -> (u64, u64, u64) {
        (
            self.total.load(Ordering::Relaxed),
            self.errors.load(Ordering::Relaxed),
            self.serving.load(Ordering::Relaxed) as u64,
        )
    }

    async fn room(&self) {
        loop {
            let finished = self.finished.notified();
            tokio::pin!(finished);
            finished.as_mut().enable();
            if self.serving.load(Ordering::Relaxed) <= REQUESTS_SOFT_MAX {
                return;
            }
            finished.await;
        }
    }
}

impl Ticket {
    fn new(core: &Arc<Core>, reply: &[u8]) -> Self {
        core.counters.total.fetch_add(1, Ordering::Relaxed);
        core.counters.serving.fetch_add(1, Ordering::Relaxed);
        Self {
            core: Arc::clone(core),
            reply: reply.to_vec(),
            audit: None,
        }
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// A JSON answer.
    fn answer(&self, body: &[u8]) {
        self.send(0, body);
        self.tell(body);
    }

    /// A JSON error.
    fn refuse(&self, kind: &str, error: &ApiError) {
        self.core.counters.errors.fetch_add(1, Ordering::Relaxed);
        let body = error_response(kind, error);
        self.send(0, &body);
        self.tell(&body);
    }

    fn tell(&self, response: &[u8]) {
        if let Some(audit) = &self.audit {
            audit.tell(&self.core, response);
        }
    }

    /// A status line without a body. Direct gets and pulls are no requests of the API that fail.
    fn status(&self, code: u16, description: &str) {
        let mut block = Vec::new();
        text::status(&mut block, code, description);
        self.send(block.len(), &block);
    }

    fn send(&self, header_len: usize, data: &[u8]) {
        if !self.reply.is_empty() {
            self.core
                .broker
                .publish(answer_to(&self.reply, header_len, data));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let before = self.core.counters.serving.fetch_sub(1, Ordering::Relaxed);
        if before == REQUESTS_SOFT_MAX + 1 {
            self.core.counters.finished.notify_waiters();
        }
    }
}

/// A node answers only where the asker could publish or listen himself.
pub(super) fn may_be_answered(m: &Inbound<'_>) -> bool {
    m.reply
        .is_none_or(|reply| reply.is_empty() || m.origin.may_be_answered_at(reply))
}

/// The `Nats-Required-Api-Level` of a request, 0 without one.
fn required_level(headers: &[u8]) -> u8 {
    if headers.is_empty() {
        return 0;
    }
    let wanted = HeaderMap::parse(headers)
        .ok()
        .and_then(|map| map.get("Nats-Required-Api-Level").map(str::parse::<u32>));
    match wanted {
        Some(Ok(level)) => u8::try_from(level).unwrap_or(u8::MAX),
        // A level that is no number is higher than any.
        Some(Err(_)) => u8::MAX,
        None => 0,
    }
}

fn generated_name() -> String {
    text::random_name(GENERATED_NAME_LEN)
}
