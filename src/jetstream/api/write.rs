//! The answers to API writes: waits for the outcome, for the change to be in force where it must be,
//! and tells the result from local state.

use std::time::{Duration, Instant};

use serde::Serialize;
use unibus_proto::jetstream::api::{PurgeResponse, StreamCreateResponse, Success};
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_state::Outcome;

use super::plan::Then;
use super::{Ticket, consumer_write};
use crate::jetstream::advisory;
use crate::jetstream::ingest::{Answered, Call, EVERYWHERE_MAX};

/// How long an applied change may take to be applied here as well.
const LOCAL_APPLY_MAX: Duration = Duration::from_secs(5);

/// How long the answer to a deletion waits for the engine to tell waiting clients.
const GOODBYE_MAX: Duration = Duration::from_millis(500);

/// Waits for the outcome of a write and answers. Whether it was granted.
pub(super) async fn finish(kind: &'static str, then: Then, call: Call, ticket: Ticket) -> bool {
    match settle(&then, call, &ticket).await {
        Ok(body) => {
            ticket.answer(&body);
            true
        }
        Err(error) => {
            ticket.refuse(kind, &error);
            false
        }
    }
}

async fn settle(then: &Then, call: Call, ticket: &Ticket) -> Result<Vec<u8>, ApiError> {
    let unavailable = |_| error::CLUSTER_NOT_AVAILABLE;
    let Answered { index, outcome } = call.await.map_err(unavailable)?.map_err(|error| {
        tracing::debug!(%error, "an API write has no outcome");
        error::CLUSTER_NOT_AVAILABLE
    })?;
    if let Some(error) = refusal(&outcome) {
        return Err(error);
    }
    let core = ticket.core();
    let deadline = Instant::now() + LOCAL_APPLY_MAX;
    core.replica
        .wait_applied(index, deadline)
        .await
        .map_err(|_| error::CLUSTER_NOT_AVAILABLE)?;
    if matters_everywhere(then) {
        let late = core.replica.applied_everywhere(index, EVERYWHERE_MAX).await;
        if !late.is_empty() {
            tracing::warn!(
                index,
                nodes = late.len(),
                "a change is not in force on every node yet"
            );
        }
    }
    if let Then::ConsumerDeleted(_) | Then::StreamDeleted(_) = then {
        // Whoever waits for its messages is told before (nats-surface §2.6).
        core.engine.followed(core, GOODBYE_MAX).await;
    }
    if let Some(event) = consumer_write::event(core, then, &outcome) {
        advisory::tell(core, &event);
    }
    body(then, &outcome, ticket)
}

/// Nodes capture a stream's subjects on their own: all must know of a change before its maker
/// publishes on the strength of it.
fn matters_everywhere(then: &Then) -> bool {
    matches!(
        then,
        Then::StreamCreated(_) | Then::StreamUpdated(_) | Then::StreamDeleted(_)
    )
}

fn refusal(outcome: &Outcome) -> Option<ApiError> {
    match outcome {
        Outcome::Refused(refusal) => Some(refusal.error.clone()),
        Outcome::NoStream => Some(error::STREAM_NOT_FOUND),
        _ => None,
    }
}

fn body(then: &Then, outcome: &Outcome, ticket: &Ticket) -> Result<Vec<u8>, ApiError> {
    let core = ticket.core();
    match then {
        Then::StreamCreated(name) => {
            // Gone again already: somebody else removed it in between.
            let info = core
                .created_stream_info(name)
                .ok_or(error::STREAM_NOT_FOUND)?;
            json(
                "stream_create_response",
                &StreamCreateResponse {
                    info,
                    did_create: true,
                },
            )
        }
        Then::StreamUpdated(name) => {
            let info = core
                .created_stream_info(name)
                .ok_or(error::STREAM_NOT_FOUND)?;
            json("stream_update_response", &info)
        }
        Then::StreamDeleted(_) => json("stream_delete_response", &Success { success: true }),
        Then::MessageDeleted => json("stream_msg_delete_response", &Success { success: true }),
        Then::ConsumerDeleted(_) => json("consumer_delete_response", &Success { success: true }),
        Then::ConsumerPaused(target) => consumer_write::paused(core, target),
        Then::ConsumerReset(target) => consumer_write::reset(core, target),
        Then::Purged => {
            let purged = if let Outcome::Purged { count } = outcome {
                *count
            } else {
                0
            };
            json(
                "stream_purge_response",
                &PurgeResponse {
                    success: true,
                    purged,
                },
            )
        }
        Then::ConsumerCreated { stream } => consumer_write::created(core, stream, outcome),
    }
}

/// A whole response.
pub(super) fn json<T: Serialize>(kind: &str, body: &T) -> Result<Vec<u8>, ApiError> {
    unibus_proto::jetstream::api::response(kind, body).map_err(|error| {
        tracing::error!(%error, kind, "a response does not serialize");
        error::CLUSTER_NOT_AVAILABLE
    })
}
