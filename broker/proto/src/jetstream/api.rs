//! Requests and the response envelope of the JetStream API (nats-surface §2.1, §2.2). Unknown request
//! fields are ignored; wrong types are an error the caller reports as 10025.

use serde::{Deserialize, Serialize};

use super::config::{ConsumerConfig, StreamConfig};
use super::error::ApiError;
use super::info::{ConsumerInfo, MessageJson, StreamInfo};
use super::or_default;
use super::timestamp::Timestamp;

/// Before every response type.
pub const TYPE_PREFIX: &str = "io.nats.jetstream.api.v1.";
/// Names on one page.
pub const NAMES_PAGE_MAX: usize = 1024;
/// Infos on one page.
pub const LIST_PAGE_MAX: usize = 256;
/// Subjects on one page of a stream info.
pub const SUBJECTS_PAGE_MAX: usize = 100_000;

/// `STREAM.CREATE`, `STREAM.UPDATE`: the configuration and how strictly to take it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct StreamRequest {
    /// The configuration.
    #[serde(flatten)]
    pub config: StreamConfig,
    /// Refuse rather than fill in.
    #[serde(deserialize_with = "or_default")]
    pub pedantic: bool,
}

/// `STREAM.NAMES`, `STREAM.LIST`, `CONSUMER.NAMES`, `CONSUMER.LIST`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PagedRequest {
    /// First item of the page.
    #[serde(deserialize_with = "or_default")]
    pub offset: u64,
    /// Only streams with a subject that collides with this one.
    #[serde(deserialize_with = "or_default")]
    pub subject: String,
}

/// `STREAM.INFO`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct StreamInfoRequest {
    /// Lists deleted sequences.
    #[serde(deserialize_with = "or_default")]
    pub deleted_details: bool,
    /// Lists subjects that match.
    #[serde(deserialize_with = "or_default")]
    pub subjects_filter: String,
    /// First subject of the page.
    #[serde(deserialize_with = "or_default")]
    pub offset: u64,
}

/// `STREAM.PURGE`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PurgeRequest {
    /// Only subjects that match.
    #[serde(deserialize_with = "or_default")]
    pub filter: String,
    /// Only sequences below; 0 = all.
    #[serde(deserialize_with = "or_default")]
    pub seq: u64,
    /// Keeps that many of the newest; 0 = none.
    #[serde(deserialize_with = "or_default")]
    pub keep: u64,
}

/// `STREAM.MSG.GET` and `DIRECT.GET`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MsgGetRequest {
    /// By sequence, or where to begin with `next_by_subj`.
    #[serde(deserialize_with = "or_default")]
    pub seq: u64,
    /// The last message that matches.
    #[serde(deserialize_with = "or_default")]
    pub last_by_subj: String,
    /// The next message that matches.
    #[serde(deserialize_with = "or_default")]
    pub next_by_subj: String,
    /// The first message not older.
    pub start_time: Option<Timestamp>,
    /// Several messages.
    #[serde(deserialize_with = "or_default")]
    pub batch: u64,
    /// Bytes of several messages.
    #[serde(deserialize_with = "or_default")]
    pub max_bytes: u64,
    /// The last message of each of these.
    #[serde(deserialize_with = "or_default")]
    pub multi_last: Vec<String>,
    /// With `multi_last`: as of this sequence.
    #[serde(deserialize_with = "or_default")]
    pub up_to_seq: u64,
    /// With `multi_last`: as of this time.
    pub up_to_time: Option<Timestamp>,
    /// Without headers.
    #[serde(deserialize_with = "or_default")]
    pub no_hdr: bool,
}

/// `STREAM.MSG.DELETE`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MsgDeleteRequest {
    /// The sequence.
    #[serde(deserialize_with = "or_default")]
    pub seq: u64,
    /// Do not overwrite the bytes.
    #[serde(deserialize_with = "or_default")]
    pub no_erase: bool,
}

/// What a consumer create request may do.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConsumerAction {
    /// Create or update.
    #[default]
    #[serde(rename = "")]
    CreateOrUpdate,
    /// Only create.
    #[serde(rename = "create")]
    Create,
    /// Only update.
    #[serde(rename = "update")]
    Update,
}

/// `CONSUMER.CREATE` in all its forms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsumerCreateRequest {
    /// Must equal the name in the subject.
    #[serde(deserialize_with = "or_default")]
    pub stream_name: String,
    /// The configuration.
    pub config: ConsumerConfig,
    /// What is allowed.
    #[serde(deserialize_with = "or_default")]
    pub action: ConsumerAction,
    /// Refuse rather than fill in.
    #[serde(deserialize_with = "or_default")]
    pub pedantic: bool,
}

/// `DIRECT.GET` and `MSG.GET` share one body; deletes and others answer this.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Success {
    /// Always true.
    pub success: bool,
}

/// Answer to a purge.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeResponse {
    /// Always true.
    pub success: bool,
    /// Messages removed.
    pub purged: u64,
}

/// Answer to a stream creation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StreamCreateResponse {
    /// The stream.
    #[serde(flatten)]
    pub info: StreamInfo,
    /// Always true on success.
    pub did_create: bool,
}

/// Answer to a stream info: paging is about subjects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StreamInfoResponse {
    /// All matching subjects.
    pub total: u64,
    /// First subject of the page.
    pub offset: u64,
    /// Page size.
    pub limit: u64,
    /// The stream.
    #[serde(flatten)]
    pub info: StreamInfo,
}

/// A page of names of streams.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StreamNamesResponse {
    /// All items.
    pub total: u64,
    /// First item of the page.
    pub offset: u64,
    /// Page size.
    pub limit: u64,
    /// Never null.
    pub streams: Vec<String>,
}

/// A page of streams.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StreamListResponse {
    /// All items.
    pub total: u64,
    /// First item of the page.
    pub offset: u64,
    /// Page size.
    pub limit: u64,
    /// Never null.
    pub streams: Vec<StreamInfo>,
}

/// A page of names of consumers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ConsumerNamesResponse {
    /// All items.
    pub total: u64,
    /// First item of the page.
    pub offset: u64,
    /// Page size.
    pub limit: u64,
    /// Never null.
    pub consumers: Vec<String>,
}

/// A page of consumers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ConsumerListResponse {
    /// All items.
    pub total: u64,
    /// First item of the page.
    pub offset: u64,
    /// Page size.
    pub limit: u64,
    /// Never null.
    pub consumers: Vec<ConsumerInfo>,
}

/// Answer to `STREAM.MSG.GET`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MsgGetResponse {
    /// The message.
    pub message: MessageJson,
}

#[derive(Serialize)]
struct Envelope<'a, T: Serialize> {
    r#type: String,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Serialize)]
struct Failure<'a> {
    r#type: String,
    error: &'a ApiError,
    #[serde(flatten)]
    paging: Option<ZeroPage>,
    // What some answers always have, as nats-server writes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    purged: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_until: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_subject: Option<&'static str>,
}

#[derive(Serialize)]
struct ZeroPage {
    total: u64,
    offset: u64,
    limit: u64,
}

/// A successful response: `kind` is the type without its prefix, such as `stream_info_response`.
pub fn response<T: Serialize>(kind: &str, body: &T) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Envelope {
        r#type: format!("{TYPE_PREFIX}{kind}"),
        body,
    })
}

/// A failed response. Types that page carry zero-valued paging fields, as clients expect.
#[must_use]
pub fn error_response(kind: &str, error: &ApiError) -> Vec<u8> {
    let pages = matches!(
        kind,
        "stream_info_response"
            | "stream_names_response"
            | "stream_list_response"
            | "consumer_names_response"
            | "consumer_list_response"
    );
    let paging = pages.then_some(ZeroPage {
        total: 0,
        offset: 0,
        limit: 0,
    });
    let failure = Failure {
        r#type: format!("{TYPE_PREFIX}{kind}"),
        error,
        paging,
        purged: (kind == "stream_purge_response").then_some(0),
        paused: (kind == "consumer_pause_response").then_some(false),
        pause_until: (kind == "consumer_pause_response").then(Timestamp::default),
        deliver_subject: (kind == "stream_restore_response").then_some(""),
    };
    serde_json::to_vec(&failure).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::error;
    use super::*;

    #[test]
    fn stream_not_found_is_byte_exact() {
        assert_eq!(
            String::from_utf8(error_response(
                "stream_info_response",
                &error::STREAM_NOT_FOUND
            ))
            .unwrap(),
            r#"{"type":"io.nats.jetstream.api.v1.stream_info_response","error":{"code":404,"err_code":10059,"description":"stream not found"},"total":0,"offset":0,"limit":0}"#
        );
    }

    #[test]
    fn nulls_and_missing_fields_are_defaults() {
        let body = r#"{"name":"S","subjects":null,"retention":"limits","max_msgs":null,"zzz":1,"pedantic":true}"#;
        let request: StreamRequest = serde_json::from_str(body).unwrap();
        assert!(request.pedantic && request.config.subjects.is_empty());
        let request: ConsumerCreateRequest =
            serde_json::from_str(r#"{"stream_name":"S","config":{"ack_policy":"explicit"}}"#)
                .unwrap();
        assert_eq!(request.action, ConsumerAction::CreateOrUpdate);
        assert!(serde_json::from_str::<StreamRequest>(r#"{"max_msgs":"x"}"#).is_err());
    }

    #[test]
    fn stream_config_keeps_the_golden_order() {
        let config = StreamConfig {
            name: "S".into(),
            subjects: vec!["s.>".into()],
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&config).unwrap(),
            concat!(
                r#"{"name":"S","subjects":["s.>"],"retention":"limits","max_consumers":0,"max_msgs":0,"max_bytes":0,"#,
                r#""max_age":0,"max_msgs_per_subject":0,"discard":"old","storage":"file","num_replicas":0,"#,
                r#""compression":"none","allow_direct":false,"mirror_direct":false,"sealed":false,"#,
                r#""deny_delete":false,"deny_purge":false,"allow_rollup_hdrs":false,"consumer_limits":{},"allow_msg_ttl":false}"#
            )
        );
    }
}
