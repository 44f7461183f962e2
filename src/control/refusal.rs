//! What a caller is told when a request is not granted: a status and words for a person. Never a
//! storage message, a file path or a debug print.

use std::borrow::Cow;
use std::time::Duration;

use hyper::StatusCode;
use unibus_proto::control::IdError;

use super::records::StoreError;

/// A status and its words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) words: Cow<'static, str>,
    /// When to ask again.
    pub(crate) retry_after: Option<Duration>,
    /// Whether the caller may see more of the body: the connection ends otherwise.
    pub(crate) close: bool,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, words: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            words: words.into(),
            retry_after: None,
            close: false,
        }
    }

    pub(crate) fn bad(words: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, words)
    }

    pub(crate) fn unauthorized(words: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, words)
    }

    pub(crate) fn forbidden(words: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, words)
    }

    pub(crate) fn conflict(words: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, words)
    }

    pub(crate) fn not_found(words: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, words)
    }

    pub(crate) fn unavailable(words: impl Into<Cow<'static, str>>) -> Self {
        Self {
            retry_after: Some(Duration::from_secs(1)),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, words)
        }
    }

    pub(crate) fn too_large(max: u64) -> Self {
        Self {
            close: true,
            ..Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than the {max} bytes that this call takes"),
            )
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable => Self::unavailable(
                "denied: this node can't reach a majority of the cluster now; ask again, or another node",
            ),
            StoreError::Unknown => Self::unavailable(
                "the cluster did not answer in time, and the request may have been carried out: look \
                 before asking again",
            ),
            StoreError::Damaged => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "a record of this request can't be read; the node's log says more",
            ),
            StoreError::TooMany => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "there are more records than one answer holds",
            ),
        }
    }
}

impl From<IdError> for Refusal {
    fn from(error: IdError) -> Self {
        Self::bad(error.to_string())
    }
}
