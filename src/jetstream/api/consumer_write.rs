//! Answers to what changes consumers, and what only the leader can do about them.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use unibus_proto::jetstream::consumer::AckPolicy;
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::jetstream::info::ConsumerInfo;
use unibus_proto::jetstream::timestamp::Timestamp;
use unibus_state::command::ConsumerCreate;
use unibus_state::{Command, Outcome};

use super::Ticket;
use super::plan::{AtLeader, Target, Then};
use super::write::json;
use crate::jetstream::advisory::{Action, Event};
use crate::jetstream::core::{Core, FLOW_ACKS_NOT_YET};
use crate::jetstream::leader::ToLeader;

/// How long the leader may take.
const LEADER_MAX: Duration = Duration::from_secs(5);

/// `consumer_pause_response`.
#[derive(Serialize)]
struct PauseResponse {
    paused: bool,
    pause_until: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_remaining: Option<u64>,
}

/// `consumer_reset_response`.
#[derive(Serialize)]
struct ResetResponse {
    #[serde(flatten)]
    info: ConsumerInfo,
    reset_seq: u64,
}

/// `consumer_unpin_response` and `consumer_leader_stepdown_response`.
#[derive(Serialize)]
struct Stepdown {
    success: bool,
}

#[derive(Serialize)]
struct Unpinned {}

/// Why a consumer may not be made as asked, as far as this node's connections decide that.
pub(super) fn refuse(core: &Core, command: &Command) -> Option<ApiError> {
    let Command::ConsumerCreate(create) = command else {
        return None;
    };
    if create.config.ack_policy == AckPolicy::FlowControl && !core.knows_flow_acks() {
        return Some(ApiError::consumer_create(FLOW_ACKS_NOT_YET));
    }
    is_bound_elsewhere(core, create).then_some(error::CONSUMER_NAME_IN_USE)
}

/// A push consumer that somebody listens to may not be told to deliver elsewhere.
fn is_bound_elsewhere(core: &Core, create: &ConsumerCreate) -> bool {
    let config = &create.config;
    let name = match config.name.as_str() {
        "" => config.durable_name.as_str(),
        name => name,
    };
    let Some(deliver) = core.hooks.deliver_subject(&create.stream, name) else {
        return false;
    };
    let moves = !deliver.is_empty()
        && !config.deliver_subject.is_empty()
        && *deliver != *config.deliver_subject;
    moves && core.broker.has_interest(deliver.as_bytes())
}

/// `CONSUMER.CREATE`.
pub(super) fn created(core: &Core, stream: &str, outcome: &Outcome) -> Result<Vec<u8>, ApiError> {
    let Outcome::ConsumerCreated {
        name,
        num_pending,
        created,
    } = outcome
    else {
        return Err(error::CLUSTER_NOT_AVAILABLE);
    };
    let mut info = core
        .consumer_info(stream, name)
        .ok_or(error::CONSUMER_NOT_FOUND)?;
    if *created {
        // What was pending at creation, whatever was published since: watchers count on it.
        info.num_pending = num_pending.unwrap_or(info.num_pending);
    } else if core.is_leader() {
        core.add_live(&mut info);
    }
    json("consumer_create_response", &info)
}

/// `CONSUMER.PAUSE`.
pub(super) fn paused(core: &Core, target: &Target) -> Result<Vec<u8>, ApiError> {
    let info = core
        .consumer_info(&target.stream, &target.consumer)
        .ok_or(error::CONSUMER_NOT_FOUND)?;
    let response = PauseResponse {
        paused: info.paused,
        pause_until: info.config.pause_until.unwrap_or_default(),
        pause_remaining: info.paused.then_some(info.pause_remaining),
    };
    json("consumer_pause_response", &response)
}

/// `CONSUMER.RESET`.
pub(super) fn reset(core: &Core, target: &Target) -> Result<Vec<u8>, ApiError> {
    let info = core
        .consumer_info(&target.stream, &target.consumer)
        .ok_or(error::CONSUMER_NOT_FOUND)?;
    let reset_seq = info.delivered.stream_seq + 1;
    json(
        "consumer_reset_response",
        &ResetResponse { info, reset_seq },
    )
}

/// What a write is worth telling.
pub(super) fn event(core: &Core, then: &Then, outcome: &Outcome) -> Option<Event> {
    let stream = |stream: &String, action| Event::Stream {
        stream: stream.clone(),
        action,
    };
    Some(match then {
        Then::StreamCreated(name) => stream(name, Action::Create),
        Then::StreamUpdated(name) => stream(name, Action::Modify),
        Then::StreamDeleted(name) => stream(name, Action::Delete),
        Then::ConsumerCreated { stream } => match outcome {
            Outcome::ConsumerCreated {
                name,
                created: true,
                ..
            } => Event::Consumer {
                stream: stream.clone(),
                consumer: name.to_string(),
                action: Action::Create,
            },
            _ => return None,
        },
        Then::ConsumerDeleted(target) => Event::Consumer {
            stream: target.stream.clone(),
            consumer: target.consumer.clone(),
            action: Action::Delete,
        },
        Then::ConsumerPaused(target) => {
            let info = core.consumer_info(&target.stream, &target.consumer)?;
            Event::Paused {
                stream: target.stream.clone(),
                consumer: target.consumer.clone(),
                paused: info.paused,
                until: info.config.pause_until.unwrap_or_default(),
            }
        }
        _ => return None,
    })
}

/// Does what only the leader can do, and answers.
pub(super) async fn at_leader(kind: &'static str, task: AtLeader, ticket: Ticket) {
    let core = Arc::clone(ticket.core());
    let done = tokio::time::timeout(LEADER_MAX, run(&core, kind, task)).await;
    match done.unwrap_or(Err(error::CLUSTER_NOT_AVAILABLE)) {
        Ok(body) => ticket.answer(&body),
        Err(error) => ticket.refuse(kind, &error),
    }
}

async fn run(core: &Arc<Core>, kind: &str, task: AtLeader) -> Result<Vec<u8>, ApiError> {
    let (stream, consumer) = match &task {
        AtLeader::StepDown { stream, consumer } => (stream.as_ref(), consumer.as_ref()),
        AtLeader::Unpin {
            stream, consumer, ..
        } => (Some(stream), Some(consumer)),
    };
    core.replica.with_state(|state| {
        let Some(stream) = stream else {
            return Ok(());
        };
        let held = state.stream(stream).ok_or(error::STREAM_NOT_FOUND)?;
        let known = consumer.is_none_or(|consumer| held.consumer(consumer).is_some());
        known.then_some(()).ok_or(error::CONSUMER_NOT_FOUND)
    })?;
    match task {
        AtLeader::StepDown { .. } => step_down(core, kind).await,
        AtLeader::Unpin {
            stream,
            consumer,
            group,
        } => unpin(core, kind, stream, consumer, group).await,
    }
}

async fn step_down(core: &Arc<Core>, kind: &str) -> Result<Vec<u8>, ApiError> {
    if core.replica.status().voters.len() <= 1 {
        return Err(error::CLUSTER_REQUIRED);
    }
    if core.is_leader() {
        core.replica.transfer_leadership().await;
    } else {
        core.ask_leader(&ToLeader::StepDown)
            .await
            .ok_or(error::CLUSTER_NOT_AVAILABLE)?;
    }
    json(kind, &Stepdown { success: true })
}

async fn unpin(
    core: &Arc<Core>,
    kind: &str,
    stream: String,
    consumer: String,
    group: String,
) -> Result<Vec<u8>, ApiError> {
    let done = if core.is_leader() {
        core.engine.unpin(core, &stream, &consumer, &group)
    } else {
        let request = ToLeader::Unpin {
            stream,
            consumer,
            group,
        };
        let answer = core.ask_leader(&request).await;
        let answer = answer.ok_or(error::CLUSTER_NOT_AVAILABLE)?;
        answer.first().map(|byte| *byte == 1)
    };
    match done {
        None => Err(error::CONSUMER_NOT_FOUND),
        Some(false) => Err(error::CONSUMER_INVALID_PRIORITY_GROUP),
        Some(true) => json(kind, &Unpinned {}),
    }
}
