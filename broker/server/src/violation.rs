//! What ends a connection, and what clients are told about refusals (nats-surface §1.8).
//!
//! Owns the `-ERR` texts that the session writes. Must never close anything.

use unibus_proto::decoder::DecodeError;

use crate::ports::AuthError;
use crate::reason::CloseReason;
use crate::subscription::Subscription;

/// Why a burst ends the connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Violation {
    /// The `-ERR` text; `None` = closed without one.
    pub(crate) text: Option<&'static str>,
    /// For reports.
    pub(crate) reason: CloseReason,
}

impl Violation {
    pub(crate) const fn new(text: &'static str, reason: CloseReason) -> Self {
        Self {
            text: Some(text),
            reason,
        }
    }

    pub(crate) const fn silent(reason: CloseReason) -> Self {
        Self { text: None, reason }
    }
}

impl From<DecodeError> for Violation {
    fn from(error: DecodeError) -> Self {
        let reason = match error {
            DecodeError::UnknownOperation | DecodeError::Malformed => CloseReason::ParseError,
            DecodeError::MaximumPayload => CloseReason::MaxPayloadExceeded,
            DecodeError::MaximumControlLine => CloseReason::MaxControlLineExceeded,
        };
        Self {
            text: error.err_line(),
            reason,
        }
    }
}

impl From<AuthError> for Violation {
    fn from(error: AuthError) -> Self {
        let reason = match error {
            AuthError::Refused => CloseReason::AuthenticationViolation,
            AuthError::Expired => CloseReason::AuthenticationExpired,
            AuthError::Revoked => CloseReason::Revocation,
        };
        Self::new(error.text(), reason)
    }
}

/// Why CONNECT's own words end the connection.
pub(crate) fn connect_violation(text: &'static str) -> Violation {
    let reason = match text {
        "invalid client protocol" => CloseReason::BadClientProtocolVersion,
        "no responders requires headers support" => CloseReason::NoRespondersRequiresHeaders,
        _ => CloseReason::AuthenticationViolation,
    };
    Violation::new(text, reason)
}

pub(crate) fn subscription_violation(filter: &[u8], queue: Option<&[u8]>) -> String {
    let filter = String::from_utf8_lossy(filter);
    let text = format!("Permissions Violation for Subscription to \"{filter}\"");
    match queue {
        None => text,
        Some(queue) => format!("{text} using queue \"{}\"", String::from_utf8_lossy(queue)),
    }
}

/// The same for a subscription that was allowed once: with its sid, and never with its queue.
pub(crate) fn withdrawn_subscription(filter: &[u8], subscription: &Subscription) -> String {
    let text = subscription_violation(filter, None);
    let sid = String::from_utf8_lossy(&subscription.sid);
    format!("{text} (sid \"{sid}\")")
}

/// For a filter with more tokens than `max_subscription_tokens`.
pub(crate) fn too_many_tokens(filter: &[u8]) -> String {
    format!("{}, too many tokens", subscription_violation(filter, None))
}
