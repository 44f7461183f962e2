//! JetStream's error numbers and texts (nats-surface §2.10). Clients match on `err_code`, some on the
//! text, so both are exact.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The `error` object of a response. Exactly these keys: nats.py refuses others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{description} ({err_code})")]
pub struct ApiError {
    /// HTTP-like class: 400, 404, 412, 500, 503.
    pub code: u16,
    /// The number clients match on.
    pub err_code: u16,
    /// The text some clients match on.
    pub description: Cow<'static, str>,
}

impl ApiError {
    /// An error with a fixed text.
    #[must_use]
    pub const fn fixed(code: u16, err_code: u16, description: &'static str) -> Self {
        Self {
            code,
            err_code,
            description: Cow::Borrowed(description),
        }
    }

    /// An error with a text made for the occasion.
    #[must_use]
    pub fn with(code: u16, err_code: u16, description: String) -> Self {
        Self {
            code,
            err_code,
            description: Cow::Owned(description),
        }
    }

    /// 10025 for a body that does not parse.
    #[must_use]
    pub fn invalid_json(error: &serde_json::Error) -> Self {
        Self::with(400, 10025, format!("invalid JSON: {error}"))
    }

    /// 10071 with the sequence that is really the last.
    #[must_use]
    pub fn wrong_last_sequence(last: u64) -> Self {
        Self::with(400, 10071, format!("wrong last sequence: {last}"))
    }

    /// 10070 with the id that is really the last.
    #[must_use]
    pub fn wrong_last_msg_id(last: &str) -> Self {
        Self::with(400, 10070, format!("wrong last msg ID: {last}"))
    }

    /// 10043.
    #[must_use]
    pub fn sequence_not_found(seq: u64) -> Self {
        Self::with(400, 10043, format!("sequence {seq} not found"))
    }

    /// 10052, class 500: the stream configuration is not acceptable.
    #[must_use]
    pub fn stream_config(text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code: 500,
            err_code: 10052,
            description: text.into(),
        }
    }

    /// 10012, class 500: the consumer can't be made or changed.
    #[must_use]
    pub fn consumer_create(text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code: 500,
            err_code: 10012,
            description: text.into(),
        }
    }
}

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $err:literal, $text:literal;)*) => {
        $($(#[$doc])* #[doc = $text] pub const $name: ApiError = ApiError::fixed($code, $err, $text);)*
    };
}

errors! {
    BAD_REQUEST = 400, 10003, "bad request";
    CONSUMER_NAME_IN_USE = 400, 10013, "consumer name already in use";
    CONSUMER_NOT_FOUND = 404, 10014, "consumer not found";
    DELIVER_SUBJECT_NOT_VALID = 400, 10112, "invalid push consumer deliver subject";
    DURABLE_NAME_NOT_IN_SUBJECT = 400, 10016, "consumer expected to be durable but no durable name set in subject";
    DURABLE_NAME_NOT_MATCH_SUBJECT = 400, 10017, "consumer name in subject does not match durable name in request";
    DURABLE_NAME_NOT_SET = 400, 10018, "consumer expected to be durable but a durable name was not set";
    CONSUMER_EPHEMERAL_WITH_DURABLE_IN_SUBJECT = 400, 10019, "consumer expected to be ephemeral but detected a durable name set in subject";
    CONSUMER_EPHEMERAL_WITH_DURABLE_NAME = 400, 10020, "consumer expected to be ephemeral but a durable name was set in request";
    INSUFFICIENT_RESOURCES = 503, 10023, "insufficient resources";
    MAXIMUM_CONSUMERS_LIMIT = 400, 10026, "maximum consumers limit reached";
    MAXIMUM_STREAMS_LIMIT = 400, 10027, "maximum number of streams reached";
    NO_MESSAGE_FOUND = 404, 10037, "no message found";
    NOT_ENABLED_FOR_ACCOUNT = 503, 10039, "JetStream not enabled for account";
    NOT_EMPTY_REQUEST = 400, 10038, "expected an empty request payload";
    CLUSTER_NOT_AVAILABLE = 503, 10008, "JetStream system temporarily unavailable";
    MESSAGE_EXCEEDS_MAXIMUM = 400, 10054, "message size exceeds maximum allowed";
    STREAM_MISMATCH = 400, 10056, "stream name in subject does not match request";
    MESSAGE_DELETE_NOT_PERMITTED = 500, 10057, "message delete not permitted";
    STREAM_NAME_EXIST = 400, 10058, "stream name already in use with a different configuration";
    STREAM_NOT_FOUND = 404, 10059, "stream not found";
    STREAM_NOT_MATCH = 400, 10060, "expected stream does not match";
    SUBJECT_OVERLAP = 400, 10065, "subjects overlap with an existing stream";
    CLUSTER_REQUIRED = 503, 10010, "JetStream clustering support required";
    STREAM_REPLICAS_NOT_SUPPORTED = 500, 10074, "replicas > 1 not supported in non-clustered mode";
    NOT_ENABLED = 503, 10076, "JetStream not enabled";
    MAXIMUM_MESSAGES = 503, 10077, "maximum messages exceeded";
    MAXIMUM_BYTES = 503, 10077, "maximum bytes exceeded";
    MAXIMUM_MESSAGES_PER_SUBJECT = 503, 10077, "maximum messages per subject exceeded";
    CONSUMER_DELIVER_TO_WILDCARDS = 400, 10079, "consumer deliver subject has wildcards";
    CONSUMER_PUSH_MAX_WAITING = 400, 10080, "consumer in push mode can not set max waiting";
    CONSUMER_DELIVER_CYCLE = 400, 10081, "consumer deliver subject forms a cycle";
    CONSUMER_MAX_PENDING_ACK_POLICY = 400, 10082, "consumer requires ack policy for max ack pending";
    CONSUMER_SMALL_HEARTBEAT = 400, 10083, "consumer idle heartbeat needs to be >= 100ms";
    CONSUMER_PULL_REQUIRES_ACK = 400, 10084, "consumer in pull mode requires explicit ack policy on workqueue stream";
    CONSUMER_PULL_NOT_DURABLE = 400, 10085, "consumer in pull mode requires a durable name";
    CONSUMER_PULL_WITH_RATE_LIMIT = 400, 10086, "consumer in pull mode can not have rate limit set";
    CONSUMER_MAX_WAITING_NEGATIVE = 400, 10087, "consumer max waiting needs to be positive";
    CONSUMER_HEARTBEAT_REQUIRES_PUSH = 400, 10088, "consumer idle heartbeat requires a push based consumer";
    CONSUMER_FLOW_CONTROL_REQUIRES_PUSH = 400, 10089, "consumer flow control requires a push based consumer";
    CONSUMER_DIRECT_REQUIRES_PUSH = 400, 10090, "consumer direct requires a push based consumer";
    CONSUMER_WORKQUEUE_ACK_EXPLICIT = 400, 10098, "workqueue stream requires explicit ack";
    CONSUMER_WORKQUEUE_MULTIPLE_UNFILTERED = 400, 10099, "multiple non-filtered consumers not allowed on workqueue stream";
    CONSUMER_WORKQUEUE_NOT_UNIQUE = 400, 10100, "filtered consumer not unique on workqueue stream";
    CONSUMER_WORKQUEUE_DELIVER_ALL = 400, 10101, "consumer must be deliver all on workqueue stream";
    CONSUMER_NAME_TOO_LONG = 400, 10102, "consumer name is too long, maximum allowed is 255";
    CONSUMER_BAD_DURABLE_NAME = 400, 10103, "durable name can not contain '.', '*', '>'";
    CONSUMER_EXISTING_ACTIVE = 400, 10105, "consumer already exists and is still active";
    CONSUMER_DESCRIPTION_TOO_LONG = 400, 10107, "consumer description is too long, maximum allowed is 4096";
    CONSUMER_WITH_FLOW_CONTROL_NEEDS_HEARTBEATS = 400, 10108, "consumer with flow control also needs heartbeats";
    STREAM_SEALED = 400, 10109, "invalid operation on sealed stream";
    STREAM_PURGE_NOT_PERMITTED = 500, 10110, "stream purge not permitted";
    ROLLUP_NOT_PERMITTED = 500, 10111, "rollup not permitted";
    CONSUMER_MAX_REQUEST_BATCH_NEGATIVE = 400, 10114, "consumer max request batch needs to be > 0";
    CONSUMER_MAX_REQUEST_EXPIRES_TOO_SMALL = 400, 10115, "consumer max request expires needs to be >= 1ms";
    CONSUMER_MAX_DELIVER_BACKOFF = 400, 10116, "max deliver is required to be > length of backoff values";
    CONSUMER_REPLICAS_EXCEED_STREAM = 400, 10126, "consumer config replica count exceeds parent stream";
    STREAM_NAME_PATH_SEPARATORS = 400, 10128, "Stream name can not contain path separators";
    CONSUMER_NAME_PATH_SEPARATORS = 400, 10127, "Consumer name can not contain path separators";
    CONSUMER_FILTER_MISMATCH = 400, 10131, "Consumer create request did not match filtered subject from create subject";
    CONSUMER_DURABLE_AND_NAME_NOT_EQUAL = 400, 10132, "Consumer Durable and Name have to be equal if both are provided";
    REPLICAS_NEGATIVE = 400, 10133, "replicas count cannot be negative";
    CONSUMER_METADATA_LENGTH = 400, 10135, "consumer metadata exceeds maximum size of 131072";
    CONSUMER_DUPLICATE_FILTERS = 400, 10136, "consumer cannot have both FilterSubject and FilterSubjects specified";
    CONSUMER_MULTIPLE_FILTERS_NOT_ALLOWED = 400, 10137, "consumer with multiple subject filters cannot use subject based API";
    CONSUMER_OVERLAPPING_FILTERS = 400, 10138, "consumer subject filters cannot overlap";
    CONSUMER_EMPTY_FILTER = 400, 10139, "consumer filter in FilterSubjects cannot be empty";
    HEADER_EXCEEDS_MAXIMUM = 400, 10097, "header size exceeds maximum allowed of 64k";
    CONSUMER_ALREADY_EXISTS = 400, 10148, "consumer already exists";
    CONSUMER_DOES_NOT_EXIST = 400, 10149, "consumer does not exist";
    CONSUMER_INACTIVE_THRESHOLD_EXCESS = 400, 10153, "consumer inactive threshold exceeds system limit";
    PEDANTIC = 400, 10157, "pedantic mode: configuration needs server defaults";
    CONSUMER_PRIORITY_POLICY_WITHOUT_GROUP = 400, 10159, "Setting PriorityPolicy requires at least one PriorityGroup to be set";
    CONSUMER_INVALID_PRIORITY_GROUP = 400, 10160, "Provided priority group does not exist for this consumer";
    CONSUMER_EMPTY_GROUP_NAME = 400, 10161, "Group name cannot be an empty string";
    CONSUMER_INVALID_GROUP_NAME = 400, 10162, "Valid priority group name must match A-Z, a-z, 0-9, -_/=)+ and may not exceed 16 characters";
    CONSUMER_PUSH_WITH_PRIORITY_GROUP = 400, 10178, "priority groups can not be used with push consumers";
    CONSUMER_ACK_WAIT_NEGATIVE = 400, 10183, "consumer ack wait needs to be positive";
    CONSUMER_BACKOFF_NEGATIVE = 400, 10184, "consumer backoff needs to be positive";
    CONSUMER_PRIORITY_GROUP_WITHOUT_POLICY = 400, 10196, "consumer can not have priority groups when policy is none";
    CONSUMER_PINNED_TTL_WITHOUT_POLICY = 400, 10197, "PinnedTTL cannot be set when PriorityPolicy is none";
    MESSAGE_TTL_INVALID = 400, 10165, "invalid per-message TTL";
    MESSAGE_TTL_DISABLED = 400, 10166, "per-message TTL is disabled";
    TOO_MANY_REQUESTS = 429, 10167, "too many requests";
    MESSAGE_COUNTER_DISABLED = 400, 10168, "message counters is disabled";
    ATOMIC_PUBLISH_DISABLED = 400, 10174, "atomic publish is disabled";
    REQUIRED_API_LEVEL = 412, 10185, "JetStream minimum api level required";
    MESSAGE_SCHEDULES_DISABLED = 400, 10188, "message schedules is disabled";
    EXPECTED_LAST_SUBJECT_SEQUENCE_INVALID = 400, 10193, "missing sequence for expected last sequence per subject";
    SOURCE_HEADER_NOT_ALLOWED = 400, 10227, "stream source header is not allowed";
    ACCOUNT_RESOURCES_EXCEEDED = 400, 10002, "resource limits exceeded for account";
    CLUSTER_NOT_ACTIVE = 500, 10006, "JetStream not in clustered mode";
    MEMORY_RESOURCES_EXCEEDED = 500, 10028, "insufficient memory resources available";
    MIRROR_WITH_SOURCES = 400, 10031, "stream mirrors can not also contain other sources";
    MIRROR_WITH_SUBJECTS = 400, 10034, "stream mirrors can not contain subjects";
    CLUSTER_PEER_NOT_MEMBER = 400, 10040, "peer not a member";
    STORAGE_RESOURCES_EXCEEDED = 500, 10047, "insufficient storage resources available";
    STREAM_MIRROR_NOT_UPDATABLE = 400, 10055, "stream mirror configuration can not be updated";
    PEER_REMAP = 503, 10075, "peer remap failed";
    STREAM_MAX_BYTES_REQUIRED = 400, 10113, "account requires a stream config to have max bytes set";
    STREAM_MAX_STREAM_BYTES_EXCEEDED = 400, 10122, "stream max bytes exceeds account limit max stream bytes";
    SNAPSHOT_DELIVER_SUBJECT_INVALID = 400, 10015, "deliver subject not valid";
    STREAM_NAME_EXIST_RESTORE_FAILED = 400, 10130, "stream name already in use, cannot restore";
    SOURCE_DUPLICATE = 400, 10140, "duplicate source configuration detected";
    SOURCE_INVALID_STREAM_NAME = 400, 10141, "sourced stream name is invalid";
    MIRROR_INVALID_STREAM_NAME = 400, 10142, "mirrored stream name is invalid";
    MIRROR_WITH_FIRST_SEQ = 400, 10143, "stream mirrors can not have first sequence configured";
    SOURCE_MULTIPLE_FILTERS = 400, 10144, "source with multiple subject transforms cannot also have a single subject filter";
    SOURCE_OVERLAPPING_FILTERS = 400, 10147, "source filters can not overlap";
    MIRROR_MULTIPLE_FILTERS = 400, 10150, "mirror with multiple subject transforms cannot also have a single subject filter";
    MIRROR_OVERLAPPING_FILTERS = 400, 10152, "mirror subject filters can not overlap";
    MESSAGE_INCR_MISSING = 400, 10169, "message counter increment is missing";
    MESSAGE_INCR_PAYLOAD = 400, 10170, "message counter has payload";
    MESSAGE_INCR_INVALID = 400, 10171, "message counter increment is invalid";
    MESSAGE_COUNTER_BROKEN = 400, 10172, "message counter is broken";
    MIRROR_WITH_COUNTERS = 400, 10173, "stream mirrors can not also calculate counters";
    ATOMIC_PUBLISH_MISSING_SEQ = 400, 10175, "atomic publish sequence is missing";
    ATOMIC_PUBLISH_INCOMPLETE = 400, 10176, "atomic publish batch is incomplete";
    ATOMIC_PUBLISH_INVALID_ID = 400, 10179, "atomic publish batch ID is invalid";
    MIRROR_WITH_SCHEDULES = 400, 10186, "stream mirrors can not also schedule messages";
    SOURCE_WITH_SCHEDULES = 400, 10187, "stream source can not also schedule messages";
    SCHEDULE_PATTERN_INVALID = 400, 10189, "message schedules pattern is invalid";
    SCHEDULE_TARGET_INVALID = 400, 10190, "message schedules target is invalid";
    SCHEDULE_TTL_INVALID = 400, 10191, "message schedules invalid per-message TTL";
    SCHEDULE_ROLLUP_INVALID = 400, 10192, "message schedules invalid rollup";
    MIRROR_WITH_ATOMIC = 400, 10198, "stream mirrors can not also use atomic publishing";
    ATOMIC_PUBLISH_INVALID_COMMIT = 400, 10200, "atomic publish batch commit is invalid";
    ATOMIC_PUBLISH_DUPLICATE_ID = 400, 10201, "atomic publish batch contains duplicate message id";
    SCHEDULE_SOURCE_INVALID = 400, 10203, "message schedules source is invalid";
    BATCH_PUBLISH_DISABLED = 400, 10205, "batch publish is disabled";
    BATCH_PUBLISH_INVALID_PATTERN = 400, 10206, "batch publish pattern is invalid";
    BATCH_PUBLISH_INVALID_ID = 400, 10207, "batch publish ID is invalid";
    BATCH_PUBLISH_UNKNOWN_ID = 400, 10208, "batch publish ID unknown";
    BATCH_PUBLISH_TOO_MANY_INFLIGHT = 429, 10211, "batch publish too many inflight";
    MIRROR_WITH_BATCH_PUBLISH = 400, 10209, "stream mirrors can not also use batch publishing";
    ATOMIC_PUBLISH_TOO_MANY_INFLIGHT = 429, 10210, "atomic publish too many inflight";
    SCHEDULE_SCHEDULER_INVALID = 400, 10212, "message schedules invalid scheduler";
    MIRROR_CONSUMER_INVALID = 400, 10213, "stream mirror consumer config is invalid";
    SOURCE_CONSUMER_INVALID = 400, 10215, "stream source consumer config is invalid";
    SOURCE_CONSUMER_DUPLICATE = 400, 10216, "duplicate stream source consumer detected";
    CONSUMER_ACK_FLOW_REQUIRES_PUSH = 400, 10218, "flow control ack policy requires a push based consumer";
    CONSUMER_ACK_FLOW_REQUIRES_MAX_ACK_PENDING = 400, 10220, "flow control ack policy requires max ack pending";
    CONSUMER_ACK_FLOW_REQUIRES_NO_ACK_WAIT = 400, 10221, "flow control ack policy requires unset ack wait";
    CONSUMER_ACK_FLOW_REQUIRES_NO_MAX_DELIVER = 400, 10222, "flow control ack policy requires unset max deliver";
    SCHEDULE_TIME_ZONE_INVALID = 400, 10223, "message schedules time zone is invalid";
    RESERVED = 403, 10003, "reserved for the control plane";
}
