//! Pull requests: the body of `CONSUMER.MSG.NEXT` and of `+NXT` acknowledgements (nats-surface §2.6).

use serde::Deserialize;

use super::or_default;

/// The highest number (the lowest urgency) of a prioritized request.
pub const PRIORITY_MAX: i64 = 9;

/// What a pull request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PullRequest {
    /// Messages, at least 1.
    #[serde(deserialize_with = "or_default")]
    pub batch: i64,
    /// Nanoseconds from its arrival; 0 = never.
    #[serde(deserialize_with = "or_default")]
    pub expires: i64,
    /// Answers at once with what is there.
    #[serde(deserialize_with = "or_default")]
    pub no_wait: bool,
    /// Bytes of subjects, replies, headers and payloads; 0 = unlimited.
    #[serde(deserialize_with = "or_default")]
    pub max_bytes: i64,
    /// Nanoseconds of silence before a heartbeat; 0 = none.
    #[serde(deserialize_with = "or_default")]
    pub idle_heartbeat: i64,
    /// Priority group.
    #[serde(deserialize_with = "or_default")]
    pub group: String,
    /// Overflow: serve only when at least that many messages are pending.
    #[serde(deserialize_with = "or_default")]
    pub min_pending: i64,
    /// Overflow: serve only when at least that many messages wait for an acknowledgement.
    #[serde(deserialize_with = "or_default")]
    pub min_ack_pending: i64,
    /// Pinned client: the pin that the server gave.
    #[serde(deserialize_with = "or_default")]
    pub id: String,
    /// Prioritized: 0 is served first.
    #[serde(deserialize_with = "or_default")]
    pub priority: i64,
}

/// Why a pull request is refused with `400 Bad Request - …`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// Not JSON, or of the wrong types.
    #[error("invalid request: {0}")]
    Json(String),
    /// Two heartbeats do not fit before the expiry.
    #[error("heartbeat value too large")]
    Heartbeat,
    /// Not 0 to 9.
    #[error("Priority must be between 0 and 9")]
    Priority,
}

impl PullRequest {
    /// Reads a body: nothing, a number of messages, or JSON.
    pub fn parse(body: &[u8]) -> Result<Self, PullError> {
        let body = body.trim_ascii();
        if body.first() != Some(&b'{') {
            let number = std::str::from_utf8(body).ok().and_then(|n| n.parse().ok());
            return Ok(Self {
                batch: number.unwrap_or(1).max(1),
                ..Self::default()
            });
        }
        let mut request: Self =
            serde_json::from_slice(body).map_err(|error| PullError::Json(error.to_string()))?;
        request.batch = request.batch.max(1);
        if request.idle_heartbeat > 0 && request.idle_heartbeat.saturating_mul(2) > request.expires
        {
            return Err(PullError::Heartbeat);
        }
        if !(0..=PRIORITY_MAX).contains(&request.priority) {
            return Err(PullError::Priority);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_empty_numbers_or_json() {
        let batch = |body: &[u8]| PullRequest::parse(body).unwrap().batch;
        assert_eq!((batch(b""), batch(b"7"), batch(b" 8 ")), (1, 7, 8));
        assert_eq!((batch(b"x"), batch(b"-3"), batch(b"{}")), (1, 1, 1));
        let full = br#"{"batch":3,"expires":10,"no_wait":true,"max_bytes":9,"idle_heartbeat":5,
            "group":"A","min_pending":1,"min_ack_pending":2,"id":"p","priority":4,"zzz":1}"#;
        let read = PullRequest::parse(full).unwrap();
        let expected = PullRequest {
            batch: 3,
            expires: 10,
            no_wait: true,
            max_bytes: 9,
            idle_heartbeat: 5,
            group: "A".into(),
            min_pending: 1,
            min_ack_pending: 2,
            id: "p".into(),
            priority: 4,
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn impossible_requests_are_refused() {
        let text = |body: &[u8]| PullRequest::parse(body).unwrap_err().to_string();
        assert_eq!(
            text(br#"{"expires":10,"idle_heartbeat":6}"#),
            "heartbeat value too large"
        );
        assert_eq!(
            text(br#"{"idle_heartbeat":6}"#),
            "heartbeat value too large"
        );
        assert_eq!(
            text(br#"{"priority":10}"#),
            "Priority must be between 0 and 9"
        );
        assert!(PullRequest::parse(br#"{"batch":"x"}"#).is_err());
        assert!(PullRequest::parse(b"{").is_err());
    }
}
