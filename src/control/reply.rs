//! Answers as bytes: JSON, errors in words, and bodies that are streamed.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::json as json_value;
use thiserror::Error;

use super::refusal::Refusal;

/// The body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A streamed body that can't be finished: the connection is cut, so that nobody takes a part for
/// the whole.
#[derive(Clone, Copy, Debug, Error)]
#[error("the rest of the body can't be read")]
pub(crate) struct BodyError;

/// A body of known bytes.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // What is answered consists of structs that always serialise.
    let text = serde_json::to_vec(value).unwrap_or_else(|_| b"null".to_vec());
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A refusal as `{"error": …}`.
pub(crate) fn refuse(refusal: &Refusal) -> Response<Body> {
    let mut response = json(refusal.status, &json_value!({ "error": refusal.words }));
    let headers = response.headers_mut();
    if let Some(wait) = refusal.retry_after {
        // Whole seconds, rounded up: earlier would be too early.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    if refusal.close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
