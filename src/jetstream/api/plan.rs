//! From an API request's subject and body to what has to be done: a command to propose, a question
//! to answer, or a refusal. Pure: it looks at nothing but the request.

use serde::de::DeserializeOwned;
use unibus_proto::jetstream::api::{
    MsgDeleteRequest, MsgGetRequest, PagedRequest, PurgeRequest, StreamInfoRequest, StreamRequest,
};
use unibus_proto::jetstream::config::{StreamConfig, strip_server_metadata};
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_state::command::{MessageDelete, StreamDelete, StreamPurge, StreamPut};
use unibus_state::{Command, check_copy_consumers};

use super::consumer;
use super::restore::RestoreRequest;
use super::snapshot::SnapshotRequest;
use crate::jetstream::subject::{ConsumerTarget, Endpoint};
use crate::jetstream::{ConsumerLimits, internal};

/// What a request asks for.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "taken apart where it is made")]
pub(super) enum Plan {
    Write {
        command: Command,
        then: Then,
    },
    Read(Read),
    Leader(AtLeader),
    Snapshot {
        stream: String,
        request: SnapshotRequest,
    },
    Restore(Box<RestoreRequest>),
}

/// What only the leader can do and what is not replicated.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum AtLeader {
    /// Another node is to lead.
    StepDown {
        stream: Option<String>,
        consumer: Option<String>,
    },
    /// Take the pin of a priority group away.
    Unpin {
        stream: String,
        consumer: String,
        group: String,
    },
}

/// A consumer that a request is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Target {
    pub(super) stream: String,
    pub(super) consumer: String,
}

impl Target {
    pub(super) fn new(stream: &str, consumer: &str) -> Self {
        Self {
            stream: stream.to_owned(),
            consumer: consumer.to_owned(),
        }
    }
}

/// What the answer to a write tells, once the command is applied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Then {
    StreamCreated(String),
    StreamUpdated(String),
    StreamDeleted(String),
    Purged,
    MessageDeleted,
    ConsumerCreated { stream: String },
    ConsumerDeleted(Target),
    ConsumerPaused(Target),
    ConsumerReset(Target),
}

/// A question about the state.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Read {
    Account,
    StreamNames(PagedRequest),
    StreamList(PagedRequest),
    StreamInfo {
        stream: String,
        request: StreamInfoRequest,
    },
    Message {
        stream: String,
        request: MsgGetRequest,
    },
    ConsumerInfo {
        stream: String,
        consumer: String,
    },
    ConsumerNames {
        stream: String,
        request: PagedRequest,
    },
    ConsumerList {
        stream: String,
        request: PagedRequest,
    },
    Direct {
        stream: String,
        request: MsgGetRequest,
    },
}

/// Who asks, and what that allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    /// The node itself: may use the control plane's streams.
    pub(super) internal: bool,
    /// Voting members of the cluster; 0 = not known yet.
    pub(super) group_size: usize,
    /// What a consumer may ask for.
    pub(super) limits: ConsumerLimits,
}

/// The type of an endpoint's response, without its prefix.
pub(super) fn response_type(endpoint: &Endpoint<'_>) -> &'static str {
    match endpoint {
        Endpoint::AccountInfo => "account_info_response",
        Endpoint::StreamCreate(_) => "stream_create_response",
        Endpoint::StreamUpdate(_) => "stream_update_response",
        Endpoint::StreamNames => "stream_names_response",
        Endpoint::StreamList => "stream_list_response",
        Endpoint::StreamInfo(_) => "stream_info_response",
        Endpoint::StreamDelete(_) => "stream_delete_response",
        Endpoint::StreamPurge(_) => "stream_purge_response",
        Endpoint::StreamSnapshot(_) => "stream_snapshot_response",
        Endpoint::StreamRestore(_) => "stream_restore_response",
        Endpoint::MessageGet(_) => "stream_msg_get_response",
        Endpoint::MessageDelete(_) => "stream_msg_delete_response",
        Endpoint::ConsumerCreate(_) => "consumer_create_response",
        Endpoint::ConsumerInfo { .. } => "consumer_info_response",
        Endpoint::ConsumerNames(_) => "consumer_names_response",
        Endpoint::ConsumerList(_) => "consumer_list_response",
        Endpoint::ConsumerDelete { .. } => "consumer_delete_response",
        Endpoint::ConsumerPause { .. } => "consumer_pause_response",
        Endpoint::ConsumerUnpin { .. } => "consumer_unpin_response",
        Endpoint::ConsumerReset { .. } => "consumer_reset_response",
        Endpoint::ConsumerStepdown { .. } => "consumer_leader_stepdown_response",
        Endpoint::StreamStepdown(_) => "stream_leader_stepdown_response",
        Endpoint::MetaStepdown => "meta_leader_stepdown_response",
        Endpoint::Unsupported(kind) => kind,
        Endpoint::ConsumerNext { .. } | Endpoint::DirectGet { .. } | Endpoint::Unknown => {
            "error_response"
        }
    }
}

/// The stream a request is about.
fn stream_of<'a>(endpoint: &Endpoint<'a>) -> Option<&'a str> {
    match *endpoint {
        Endpoint::StreamUpdate(stream)
        | Endpoint::StreamInfo(stream)
        | Endpoint::StreamStepdown(stream)
        | Endpoint::StreamDelete(stream)
        | Endpoint::StreamPurge(stream)
        | Endpoint::StreamSnapshot(stream)
        | Endpoint::StreamRestore(stream)
        | Endpoint::MessageGet(stream)
        | Endpoint::MessageDelete(stream)
        | Endpoint::ConsumerNames(stream)
        | Endpoint::ConsumerList(stream)
        | Endpoint::ConsumerInfo { stream, .. }
        | Endpoint::ConsumerDelete { stream, .. }
        | Endpoint::ConsumerPause { stream, .. }
        | Endpoint::ConsumerUnpin { stream, .. }
        | Endpoint::ConsumerReset { stream, .. }
        | Endpoint::ConsumerStepdown { stream, .. }
        | Endpoint::ConsumerCreate(ConsumerTarget { stream, .. }) => Some(stream),
        _ => None,
    }
}

/// Reads the request. `generated` names a consumer that has no name.
pub(super) fn plan(
    endpoint: &Endpoint<'_>,
    body: &[u8],
    caller: Caller,
    generated: impl FnOnce() -> String,
) -> Result<Plan, ApiError> {
    if !caller.internal && stream_of(endpoint).is_some_and(internal::is_stream) {
        return Err(error::STREAM_NOT_FOUND);
    }
    match *endpoint {
        Endpoint::AccountInfo => Ok(Plan::Read(Read::Account)),
        Endpoint::StreamNames => Ok(Plan::Read(Read::StreamNames(optional(body)?))),
        Endpoint::StreamList => Ok(Plan::Read(Read::StreamList(optional(body)?))),
        Endpoint::StreamInfo(stream) => Ok(Plan::Read(Read::StreamInfo {
            stream: stream.to_owned(),
            request: optional(body)?,
        })),
        Endpoint::ConsumerNames(stream) => Ok(Plan::Read(Read::ConsumerNames {
            stream: stream.to_owned(),
            request: optional(body)?,
        })),
        Endpoint::ConsumerList(stream) => Ok(Plan::Read(Read::ConsumerList {
            stream: stream.to_owned(),
            request: optional(body)?,
        })),
        Endpoint::ConsumerInfo { stream, consumer } => Ok(Plan::Read(Read::ConsumerInfo {
            stream: stream.to_owned(),
            consumer: consumer.to_owned(),
        })),
        Endpoint::MessageGet(stream) => message_get(stream, body),
        Endpoint::StreamCreate(name) => stream_write(name, body, caller, true),
        Endpoint::StreamUpdate(name) => stream_write(name, body, caller, false),
        Endpoint::StreamDelete(name) => stream_delete(name, body, caller),
        Endpoint::StreamPurge(name) => stream_purge(name, body, caller),
        Endpoint::StreamSnapshot(stream) => Ok(Plan::Snapshot {
            stream: stream.to_owned(),
            request: required(body)?,
        }),
        Endpoint::StreamRestore(stream) => stream_restore(stream, body),
        Endpoint::MessageDelete(stream) => message_delete(stream, body, caller),
        Endpoint::ConsumerCreate(target) => consumer::create(&target, body, caller, generated),
        Endpoint::ConsumerDelete { stream, consumer } => {
            Ok(consumer::delete(stream, consumer, caller))
        }
        Endpoint::ConsumerPause { stream, consumer } => {
            consumer::pause(stream, consumer, body, caller)
        }
        Endpoint::ConsumerReset { stream, consumer } => {
            consumer::reset(stream, consumer, body, caller)
        }
        Endpoint::ConsumerUnpin { stream, consumer } => consumer::unpin(stream, consumer, body),
        Endpoint::ConsumerStepdown { stream, consumer } => Ok(Plan::Leader(AtLeader::StepDown {
            stream: Some(stream.to_owned()),
            consumer: Some(consumer.to_owned()),
        })),
        Endpoint::StreamStepdown(stream) => Ok(Plan::Leader(AtLeader::StepDown {
            stream: Some(stream.to_owned()),
            consumer: None,
        })),
        Endpoint::MetaStepdown => Ok(Plan::Leader(AtLeader::StepDown {
            stream: None,
            consumer: None,
        })),
        Endpoint::Unsupported(_) if caller.group_size == 1 => Err(error::CLUSTER_REQUIRED),
        Endpoint::Unsupported(_) => {
            Err(ApiError::fixed(500, 10009, "this request is not supported"))
        }
        Endpoint::ConsumerNext { .. } | Endpoint::DirectGet { .. } | Endpoint::Unknown => Err(
            ApiError::fixed(400, 10003, "bad request: unknown API subject"),
        ),
    }
}

fn stream_write(name: &str, body: &[u8], caller: Caller, create: bool) -> Result<Plan, ApiError> {
    // No body at all is a configuration without a name.
    if body.trim_ascii().is_empty() {
        return Err(error::STREAM_MISMATCH);
    }
    let request: StreamRequest = required(body)?;
    let mut config: StreamConfig = request.config;
    if config.name != name {
        return Err(error::STREAM_MISMATCH);
    }
    strip_server_metadata(&mut config.metadata);
    check_copy_consumers(&config)?;
    let put = StreamPut {
        config,
        privileged: caller.internal,
        replicas_max: u32::try_from(caller.group_size).unwrap_or(u32::MAX).max(1),
        pedantic: request.pedantic,
    };
    let name = name.to_owned();
    Ok(if create {
        Plan::Write {
            command: Command::StreamCreate(put),
            then: Then::StreamCreated(name),
        }
    } else {
        Plan::Write {
            command: Command::StreamUpdate(put),
            then: Then::StreamUpdated(name),
        }
    })
}

fn stream_restore(name: &str, body: &[u8]) -> Result<Plan, ApiError> {
    let request: Box<RestoreRequest> = required(body)?;
    if request.config.name != name {
        return Err(error::STREAM_MISMATCH);
    }
    Ok(Plan::Restore(request))
}

fn stream_delete(name: &str, body: &[u8], caller: Caller) -> Result<Plan, ApiError> {
    if !matches!(body.trim_ascii(), b"" | b"{}" | b"null") {
        return Err(error::NOT_EMPTY_REQUEST);
    }
    let command = Command::StreamDelete(StreamDelete {
        name: name.to_owned(),
        privileged: caller.internal,
    });
    Ok(Plan::Write {
        command,
        then: Then::StreamDeleted(name.to_owned()),
    })
}

fn stream_purge(name: &str, body: &[u8], caller: Caller) -> Result<Plan, ApiError> {
    let request: PurgeRequest = optional(body)?;
    if request.seq > 0 && request.keep > 0 {
        return Err(error::BAD_REQUEST);
    }
    let command = Command::StreamPurge(StreamPurge {
        name: name.to_owned(),
        filter: request.filter,
        seq: request.seq,
        keep: request.keep,
        privileged: caller.internal,
    });
    Ok(Plan::Write {
        command,
        then: Then::Purged,
    })
}

fn message_get(stream: &str, body: &[u8]) -> Result<Plan, ApiError> {
    let request: MsgGetRequest = required(body)?;
    if request.batch > 0 || !request.multi_last.is_empty() || !names_one_message(&request) {
        return Err(error::BAD_REQUEST);
    }
    Ok(Plan::Read(Read::Message {
        stream: stream.to_owned(),
        request,
    }))
}

/// Whether exactly one of the ways to name a message is used.
pub(super) fn names_one_message(request: &MsgGetRequest) -> bool {
    let next = !request.next_by_subj.is_empty();
    let last = !request.last_by_subj.is_empty();
    let time = request.start_time.is_some();
    match (request.seq > 0, last, time) {
        (seq, false, false) => seq || next,
        (false, true, false) => !next,
        (false, false, true) => true,
        _ => false,
    }
}

fn message_delete(stream: &str, body: &[u8], caller: Caller) -> Result<Plan, ApiError> {
    let request: MsgDeleteRequest = required(body)?;
    let command = Command::MessageDelete(MessageDelete {
        stream: stream.to_owned(),
        seq: request.seq,
        no_erase: request.no_erase,
        privileged: caller.internal,
    });
    Ok(Plan::Write {
        command,
        then: Then::MessageDeleted,
    })
}

/// A body that must be there.
pub(super) fn required<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::invalid_json(&error))
}

/// A body that may be missing; one that is not JSON counts as missing.
pub(super) fn optional<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, ApiError> {
    match body.trim_ascii().first() {
        Some(b'{') => required(body),
        _ => Ok(T::default()),
    }
}

#[cfg(test)]
mod tests {
    use unibus_proto::jetstream::api::MsgGetRequest;
    use unibus_state::Command;

    use super::{Caller, Plan, Read, names_one_message, plan};
    use crate::jetstream::ConsumerLimits;
    use crate::jetstream::subject::parse;

    const USER: Caller = Caller {
        internal: false,
        group_size: 1,
        limits: ConsumerLimits::NONE,
    };
    const NODE: Caller = Caller {
        internal: true,
        group_size: 1,
        limits: ConsumerLimits::NONE,
    };

    fn planned(subject: &str, body: &str, caller: Caller) -> Result<Plan, u16> {
        plan(&parse(subject.as_bytes()), body.as_bytes(), caller, || {
            "GENERATED".into()
        })
        .map_err(|error| error.err_code)
    }

    fn refused(subject: &str, body: &str) -> u16 {
        planned(subject, body, USER).unwrap_err()
    }

    #[test]
    fn stream_requests_are_checked() {
        let config = r#"{"name":"S","subjects":["s.>"],"metadata":{"_nats.ver":"1","a":"b"}}"#;
        let Ok(Plan::Write {
            command: Command::StreamCreate(put),
            ..
        }) = planned("$JS.API.STREAM.CREATE.S", config, USER)
        else {
            panic!("not planned");
        };
        assert!(!put.privileged);
        assert_eq!(put.config.metadata.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(refused("$JS.API.STREAM.CREATE.S", r#"{"name":"T"}"#), 10056);
        assert_eq!(refused("$JS.API.STREAM.CREATE.S", "hello"), 10025);
        assert_eq!(refused("$JS.API.STREAM.CREATE.S", r#"{"name":1}"#), 10025);
        assert_eq!(refused("$JS.API.STREAM.DELETE.S", r#"{"a":1}"#), 10038);
        assert!(planned("$JS.API.STREAM.DELETE.S", "{}", USER).is_ok());
        assert_eq!(
            refused("$JS.API.STREAM.PURGE.S", r#"{"seq":1,"keep":1}"#),
            10003
        );
        assert!(planned("$JS.API.STREAM.PURGE.S", "", USER).is_ok());
        assert_eq!(refused("$JS.API.NOPE", ""), 10003);
        assert_eq!(refused("$JS.API.STREAM.SNAPSHOT.S", ""), 10025);
        assert_eq!(
            refused("$JS.API.STREAM.RESTORE.S", r#"{"config":{"name":"T"}}"#),
            10056
        );
        assert_eq!(refused("$JS.API.SERVER.REMOVE", ""), 10010);
    }

    #[test]
    fn the_control_plane_does_not_exist_for_others() {
        assert_eq!(refused("$JS.API.STREAM.INFO.KV_UNIBUS_users", ""), 10059);
        assert_eq!(refused("$JS.API.STREAM.DELETE.KV_UNIBUS_users", ""), 10059);
        assert!(matches!(
            planned("$JS.API.STREAM.INFO.KV_UNIBUS_users", "", NODE),
            Ok(Plan::Read(Read::StreamInfo { .. }))
        ));
    }

    #[test]
    fn a_message_is_named_in_one_way() {
        let named =
            |json: &str| names_one_message(&serde_json::from_str::<MsgGetRequest>(json).unwrap());
        assert!(named(r#"{"seq":1}"#));
        assert!(named(r#"{"last_by_subj":"a"}"#));
        assert!(named(r#"{"next_by_subj":"a"}"#));
        assert!(named(r#"{"seq":1,"next_by_subj":"a"}"#));
        assert!(named(
            r#"{"start_time":"2026-01-01T00:00:00Z","next_by_subj":"a"}"#
        ));
        assert!(!named("{}"));
        assert!(!named(r#"{"seq":1,"last_by_subj":"a"}"#));
        assert!(!named(r#"{"last_by_subj":"a","next_by_subj":"b"}"#));
    }
}
