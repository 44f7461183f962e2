//! Answers to questions about consumers: from local state, and from the leader for what only it
//! knows.

use std::sync::Arc;

use unibus_proto::jetstream::api::{
    ConsumerListResponse, ConsumerNamesResponse, LIST_PAGE_MAX, NAMES_PAGE_MAX, PagedRequest,
};
use unibus_proto::jetstream::error::{self, ApiError};

use super::plan::Read;
use super::read::{Question, page};
use super::write::json;
use crate::jetstream::core::Core;

/// `CONSUMER.INFO`, after its barrier.
pub(super) async fn answer(core: Arc<Core>, question: Question) {
    let Read::ConsumerInfo { stream, consumer } = &question.read else {
        return;
    };
    let answer = match core.live_consumer_info(stream, consumer).await {
        Some(info) => json(question.kind, &info),
        None if core
            .replica
            .with_state(|state| state.stream(stream).is_none()) =>
        {
            Err(error::STREAM_NOT_FOUND)
        }
        None => Err(error::CONSUMER_NOT_FOUND),
    };
    match answer {
        Ok(body) => question.ticket.answer(&body),
        Err(error) => question.ticket.refuse(question.kind, &error),
    }
}

/// `CONSUMER.NAMES`.
pub(super) fn names(
    core: &Core,
    stream: &str,
    request: &PagedRequest,
) -> Result<ConsumerNamesResponse, ApiError> {
    core.replica.with_state(|state| {
        let stream = state.stream(stream).ok_or(error::STREAM_NOT_FOUND)?;
        let names = stream
            .consumers()
            .map(|consumer| consumer.name().to_string());
        Ok(ConsumerNamesResponse {
            total: stream.consumers().len() as u64,
            offset: request.offset.min(stream.consumers().len() as u64),
            limit: NAMES_PAGE_MAX as u64,
            consumers: page(names, request.offset, NAMES_PAGE_MAX),
        })
    })
}

/// `CONSUMER.LIST`.
pub(super) fn list(
    core: &Core,
    stream: &str,
    request: &PagedRequest,
) -> Result<ConsumerListResponse, ApiError> {
    let (total, names) = core.replica.with_state(|state| {
        let held = state.stream(stream).ok_or(error::STREAM_NOT_FOUND)?;
        let names = held.consumers().map(|consumer| consumer.name().to_string());
        Ok((
            held.consumers().len() as u64,
            page(names, request.offset, LIST_PAGE_MAX),
        ))
    })?;
    Ok(ConsumerListResponse {
        total,
        offset: request.offset.min(total),
        limit: LIST_PAGE_MAX as u64,
        consumers: names
            .iter()
            .filter_map(|name| core.listed_consumer_info(stream, name))
            .collect(),
    })
}
