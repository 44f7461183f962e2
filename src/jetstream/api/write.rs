//! The answers to API writes: waits for the outcome, for the change to be in force where it must be,
//! and tells the result from local state.

use std::time::{Duration, Instant};

use serde::Serialize;
use unibus_proto::jetstream::api::{PurgeResponse, StreamCreateResponse, Success};
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_state::Outcome;

use super::Ticket;
use super::plan::Then;
use crate::jetstream::ingest::{Answered, Call, EVERYWHERE_MAX};

/// How long an applied change may take to be applied here as well.
const LOCAL_APPLY_MAX: Duration = Duration::from_secs(5);

/// Waits for the outcome of a write and answers.
pub(super) async fn finish(kind: &'static str, then: Then, call: Call, ticket: Ticket) {
    match settle(&then, call, &ticket).await {
        Ok(body) => ticket.answer(&body),
        Err(error) => ticket.refuse(kind, &error),
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
    body(then, &outcome, ticket)
}

/// Nodes capture a stream's subjects on their own: all must know of a change before its maker
/// publishes on the strength of it.
fn matters_everywhere(then: &Then) -> bool {
    matches!(
        then,
        Then::StreamCreated(_) | Then::StreamUpdated(_) | Then::StreamDeleted
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
        Then::StreamDeleted => json("stream_delete_response", &Success { success: true }),
        Then::MessageDeleted => json("stream_msg_delete_response", &Success { success: true }),
        Then::ConsumerDeleted => json("consumer_delete_response", &Success { success: true }),
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
        Then::ConsumerCreated { stream } => {
            let Outcome::ConsumerCreated {
                name, num_pending, ..
            } = outcome
            else {
                return Err(error::CLUSTER_NOT_AVAILABLE);
            };
            let mut info = core
                .consumer_info(stream, name)
                .ok_or(error::CONSUMER_NOT_FOUND)?;
            // What was pending at creation, whatever was published since: watchers count on it.
            info.num_pending = *num_pending;
            json("consumer_create_response", &info)
        }
    }
}

/// A whole response.
pub(super) fn json<T: Serialize>(kind: &str, body: &T) -> Result<Vec<u8>, ApiError> {
    unibus_proto::jetstream::api::response(kind, body).map_err(|error| {
        tracing::error!(%error, kind, "a response does not serialize");
        error::CLUSTER_NOT_AVAILABLE
    })
}
