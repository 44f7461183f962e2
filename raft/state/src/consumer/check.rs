//! What a consumer may be asked to be, and what of it may change (nats-surface §2.3).

use unibus_proto::jetstream::config::{Retention, strip_server_metadata};
use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig, DeliverPolicy};
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::subject;

use crate::stream::{Stream, limit};
use crate::validate::{DESCRIPTION_BYTES_MAX, METADATA_BYTES_MAX, has_blank};

/// Consumers of one stream at most.
pub(crate) const CONSUMERS_MAX: usize = 100_000;
/// Filters of one consumer at most: they are compared pairwise while every node waits.
pub(crate) const FILTERS_PER_CONSUMER_MAX: usize = 1024;
/// Bytes of all filters of one consumer at most: each pair costs its length.
pub(crate) const FILTER_BYTES_PER_CONSUMER_MAX: usize = 64 << 10;
const NAME_BYTES_MAX: usize = 255;
const INACTIVE_THRESHOLD_NS: i64 = 5_000_000_000;
const ACK_WAIT_NS: i64 = 30_000_000_000;
const HEARTBEAT_NS_MIN: i64 = 100_000_000;
/// Consumers that acknowledge by flow control say so often how far they are (nats-server 2.14).
const FLOW_HEARTBEAT_NS: i64 = 1_000_000_000;
/// A pin lasts that long without a request, nanoseconds.
const PIN_NS: i64 = 120_000_000_000;
/// Backoff values of one consumer at most.
const BACKOFF_MAX: usize = 1024;
/// Priority groups of one consumer at most.
const GROUPS_MAX: usize = 16;
const GROUP_NAME_BYTES_MAX: usize = 255;
const PRIORITY_POLICIES: [&str; 3] = ["overflow", "pinned_client", "prioritized"];
/// The key of a consumer's metadata that names the subject which receives messages that ran out of
/// deliveries. The subject has to belong to a stream for the messages to be kept.
pub const DEAD_LETTER_KEY: &str = "unibus.dead_letter";

/// Settles the name and fills in what the client left out.
pub(crate) fn fill_defaults(
    config: &mut ConsumerConfig,
    generated_name: &str,
) -> Result<(), ApiError> {
    strip_server_metadata(&mut config.metadata);
    let both = !config.name.is_empty() && !config.durable_name.is_empty();
    if both && config.name != config.durable_name {
        return Err(error::CONSUMER_DURABLE_AND_NAME_NOT_EQUAL);
    }
    if config.name.is_empty() {
        config.name = if config.durable_name.is_empty() {
            generated_name.to_owned()
        } else {
            config.durable_name.clone()
        };
    }
    if config.max_deliver == 0 {
        config.max_deliver = -1;
    }
    if config.durable_name.is_empty() && config.inactive_threshold == 0 {
        config.inactive_threshold = INACTIVE_THRESHOLD_NS;
    }
    for value in [
        &mut config.max_batch,
        &mut config.max_waiting,
        &mut config.inactive_threshold,
    ] {
        *value = (*value).max(0);
    }
    if let Some(first) = config.backoff.first() {
        config.ack_wait = *first;
    }
    if config.priority_policy == "pinned_client" && config.priority_timeout == 0 {
        config.priority_timeout = PIN_NS;
    }
    if config.ack_policy == AckPolicy::FlowControl {
        config.flow_control = true;
        config.idle_heartbeat = FLOW_HEARTBEAT_NS;
    }
    if config.ack_policy != AckPolicy::None {
        // By flow control nothing is settled or due one by one.
        if config.ack_wait == 0 && config.ack_policy != AckPolicy::FlowControl {
            config.ack_wait = ACK_WAIT_NS;
        }
        if config.max_ack_pending == 0 {
            config.max_ack_pending = 1000;
        }
        config.max_ack_pending = config.max_ack_pending.max(-1);
    }
    if !config.is_push() && config.max_waiting == 0 {
        config.max_waiting = 512;
    }
    Ok(())
}

/// Everything about a configuration that does not depend on other consumers.
pub(crate) fn check(config: &ConsumerConfig, stream: &Stream) -> Result<(), ApiError> {
    check_name(&config.name)?;
    check_texts(config)?;
    let replicas = stream.config().num_replicas;
    if config.num_replicas < 0 {
        return Err(error::REPLICAS_NEGATIVE);
    }
    if config.num_replicas > replicas {
        return Err(error::CONSUMER_REPLICAS_EXCEED_STREAM);
    }
    check_flow_acknowledged(config)?;
    check_filters(config)?;
    check_start(config)?;
    if config.is_push() {
        check_push(config, stream)?;
    } else {
        check_pull(config)?;
    }
    check_patience(config)?;
    check_stream_limits(config, stream)?;
    check_retention(config, stream)?;
    check_groups(config)?;
    check_sampling(config)?;
    check_dead_letter(config, stream)?;
    check_supported(config)
}

fn check_name(name: &str) -> Result<(), ApiError> {
    if name.contains(['/', '\\']) {
        return Err(error::CONSUMER_NAME_PATH_SEPARATORS);
    }
    if name.is_empty() || name.contains(['.', '*', '>']) || has_blank(name) {
        return Err(error::CONSUMER_BAD_DURABLE_NAME);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(error::CONSUMER_NAME_TOO_LONG);
    }
    Ok(())
}

fn check_texts(config: &ConsumerConfig) -> Result<(), ApiError> {
    if config.description.len() > DESCRIPTION_BYTES_MAX {
        return Err(error::CONSUMER_DESCRIPTION_TOO_LONG);
    }
    let metadata: usize = config.metadata.iter().map(|(k, v)| k.len() + v.len()).sum();
    if metadata > METADATA_BYTES_MAX {
        return Err(error::CONSUMER_METADATA_LENGTH);
    }
    Ok(())
}

fn check_filters(config: &ConsumerConfig) -> Result<(), ApiError> {
    if !config.filter_subject.is_empty() && !config.filter_subjects.is_empty() {
        return Err(error::CONSUMER_DUPLICATE_FILTERS);
    }
    if config.filter_subjects.len() > FILTERS_PER_CONSUMER_MAX {
        return Err(ApiError::consumer_create(format!(
            "too many filter subjects, maximum allowed is {FILTERS_PER_CONSUMER_MAX}"
        )));
    }
    if config.filters().map(str::len).sum::<usize>() > FILTER_BYTES_PER_CONSUMER_MAX {
        return Err(ApiError::consumer_create(format!(
            "filter subjects are too long, maximum allowed is {FILTER_BYTES_PER_CONSUMER_MAX} bytes"
        )));
    }
    for (at, filter) in config.filter_subjects.iter().enumerate() {
        if filter.is_empty() {
            return Err(error::CONSUMER_EMPTY_FILTER);
        }
        for other in &config.filter_subjects[..at] {
            let (a, b) = (filter.as_bytes(), other.as_bytes());
            if subject::is_subset(a, b) || subject::is_subset(b, a) {
                return Err(error::CONSUMER_OVERLAPPING_FILTERS);
            }
        }
    }
    if config
        .filters()
        .any(|filter| !subject::is_valid_filter(filter.as_bytes()))
    {
        return Err(ApiError::stream_config("invalid subject"));
    }
    Ok(())
}

fn check_start(config: &ConsumerConfig) -> Result<(), ApiError> {
    let policy = match config.deliver_policy {
        DeliverPolicy::All => "all",
        DeliverPolicy::Last => "last",
        DeliverPolicy::New => "new",
        DeliverPolicy::ByStartSequence => "by start sequence",
        DeliverPolicy::ByStartTime => "by start time",
        DeliverPolicy::LastPerSubject => "last per subject",
    };
    let by_seq = config.deliver_policy == DeliverPolicy::ByStartSequence;
    let by_time = config.deliver_policy == DeliverPolicy::ByStartTime;
    let has_seq = config.opt_start_seq > 0;
    let has_time = config.opt_start_time.is_some_and(|time| !time.is_zero());
    let what = if config.deliver_policy == DeliverPolicy::LastPerSubject
        && config.filters().next().is_none()
    {
        "filter subject is not set"
    } else if by_seq && !has_seq {
        "start sequence is not set"
    } else if by_time && !has_time {
        "start time is not set"
    } else if !by_seq && has_seq {
        "start sequence is also set"
    } else if !by_time && has_time {
        "start time is also set"
    } else {
        return Ok(());
    };
    let text = format!("consumer delivery policy is deliver {policy}, but optional {what}");
    Err(ApiError::with(400, 10094, text))
}

/// Acknowledgements by flow control settle everything up to a place and are never missed for a time.
fn check_flow_acknowledged(config: &ConsumerConfig) -> Result<(), ApiError> {
    if config.ack_policy != AckPolicy::FlowControl {
        return Ok(());
    }
    if !config.is_push() {
        return Err(error::CONSUMER_ACK_FLOW_REQUIRES_PUSH);
    }
    if config.max_ack_pending <= 0 {
        return Err(error::CONSUMER_ACK_FLOW_REQUIRES_MAX_ACK_PENDING);
    }
    if config.ack_wait != 0 || !config.backoff.is_empty() {
        return Err(error::CONSUMER_ACK_FLOW_REQUIRES_NO_ACK_WAIT);
    }
    if config.max_deliver > 0 {
        return Err(error::CONSUMER_ACK_FLOW_REQUIRES_NO_MAX_DELIVER);
    }
    Ok(())
}

fn check_push(config: &ConsumerConfig, stream: &Stream) -> Result<(), ApiError> {
    let deliver = config.deliver_subject.as_bytes();
    if subject::is_valid_filter(deliver) && subject::has_wildcard(deliver) {
        return Err(error::CONSUMER_DELIVER_TO_WILDCARDS);
    }
    if !subject::is_literal(deliver) {
        return Err(error::DELIVER_SUBJECT_NOT_VALID);
    }
    let cycle = |filter: &String| subject::matches(filter.as_bytes(), deliver);
    if stream.config().subjects.iter().any(cycle) {
        return Err(error::CONSUMER_DELIVER_CYCLE);
    }
    if config.max_waiting != 0 {
        return Err(error::CONSUMER_PUSH_MAX_WAITING);
    }
    if config.max_ack_pending > 0 && config.ack_policy == AckPolicy::None {
        return Err(error::CONSUMER_MAX_PENDING_ACK_POLICY);
    }
    if config.idle_heartbeat != 0 && config.idle_heartbeat < HEARTBEAT_NS_MIN {
        return Err(error::CONSUMER_SMALL_HEARTBEAT);
    }
    if config.flow_control && config.idle_heartbeat == 0 {
        return Err(error::CONSUMER_WITH_FLOW_CONTROL_NEEDS_HEARTBEATS);
    }
    Ok(())
}

fn check_pull(config: &ConsumerConfig) -> Result<(), ApiError> {
    if config.rate_limit_bps > 0 {
        return Err(error::CONSUMER_PULL_WITH_RATE_LIMIT);
    }
    if config.max_waiting < 0 {
        return Err(error::CONSUMER_MAX_WAITING_NEGATIVE);
    }
    if config.idle_heartbeat > 0 {
        return Err(error::CONSUMER_HEARTBEAT_REQUIRES_PUSH);
    }
    if config.flow_control {
        return Err(error::CONSUMER_FLOW_CONTROL_REQUIRES_PUSH);
    }
    if config.max_batch < 0 {
        return Err(error::CONSUMER_MAX_REQUEST_BATCH_NEGATIVE);
    }
    if config.max_expires != 0 && config.max_expires < 1_000_000 {
        return Err(error::CONSUMER_MAX_REQUEST_EXPIRES_TOO_SMALL);
    }
    Ok(())
}

fn check_patience(config: &ConsumerConfig) -> Result<(), ApiError> {
    if config.backoff.iter().any(|wait| *wait < 0) {
        return Err(error::CONSUMER_BACKOFF_NEGATIVE);
    }
    if config.ack_wait < 0 {
        return Err(error::CONSUMER_ACK_WAIT_NEGATIVE);
    }
    if config.backoff.len() > BACKOFF_MAX {
        return Err(ApiError::consumer_create(format!(
            "too many backoff values, maximum allowed is {BACKOFF_MAX}"
        )));
    }
    if config.max_deliver > 0 && config.backoff.len() as i64 > config.max_deliver {
        return Err(error::CONSUMER_MAX_DELIVER_BACKOFF);
    }
    Ok(())
}

fn check_stream_limits(config: &ConsumerConfig, stream: &Stream) -> Result<(), ApiError> {
    let limits = stream.config().consumer_limits;
    if limits.inactive_threshold > 0 && config.inactive_threshold > limits.inactive_threshold {
        return Err(error::CONSUMER_INACTIVE_THRESHOLD_EXCESS);
    }
    if limits.max_ack_pending > 0 && config.max_ack_pending > limits.max_ack_pending {
        let text = format!(
            "consumer max ack pending exceeds system limit of {}",
            limits.max_ack_pending
        );
        return Err(ApiError::with(400, 10121, text));
    }
    Ok(())
}

fn check_retention(config: &ConsumerConfig, stream: &Stream) -> Result<(), ApiError> {
    if stream.config().retention != Retention::Workqueue {
        return Ok(());
    }
    if !matches!(
        config.ack_policy,
        AckPolicy::Explicit | AckPolicy::FlowControl
    ) {
        let pull = !config.is_push() && config.ack_policy == AckPolicy::None;
        return Err(if pull {
            error::CONSUMER_PULL_REQUIRES_ACK
        } else {
            error::CONSUMER_WORKQUEUE_ACK_EXPLICIT
        });
    }
    if config.deliver_policy != DeliverPolicy::All && !config.sourcing {
        return Err(error::CONSUMER_WORKQUEUE_DELIVER_ALL);
    }
    Ok(())
}

/// What the priority groups of a consumer may be (ADR-42).
fn check_groups(config: &ConsumerConfig) -> Result<(), ApiError> {
    let none = matches!(config.priority_policy.as_str(), "" | "none");
    if !none && !PRIORITY_POLICIES.contains(&config.priority_policy.as_str()) {
        let text = format!(
            "invalid JSON: unknown priority policy: {:?}",
            config.priority_policy
        );
        return Err(ApiError::with(400, 10025, text));
    }
    if none {
        return if !config.priority_groups.is_empty() {
            Err(error::CONSUMER_PRIORITY_GROUP_WITHOUT_POLICY)
        } else if config.priority_timeout != 0 {
            Err(error::CONSUMER_PINNED_TTL_WITHOUT_POLICY)
        } else {
            Ok(())
        };
    }
    if config.is_push() {
        return Err(error::CONSUMER_PUSH_WITH_PRIORITY_GROUP);
    }
    if config.priority_groups.is_empty() {
        return Err(error::CONSUMER_PRIORITY_POLICY_WITHOUT_GROUP);
    }
    let named = |group: &String| !group.is_empty() && group.len() <= GROUP_NAME_BYTES_MAX;
    if config.priority_groups.len() > GROUPS_MAX || !config.priority_groups.iter().all(named) {
        return Err(error::CONSUMER_EMPTY_GROUP_NAME);
    }
    if !config
        .priority_groups
        .iter()
        .all(|group| is_group_name(group))
    {
        return Err(error::CONSUMER_INVALID_GROUP_NAME);
    }
    Ok(())
}

fn is_group_name(group: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_/=".contains(&byte);
    group.len() <= 16 && group.bytes().all(known)
}

/// What this version does not do, said when it is asked for rather than found out later.
fn check_supported(config: &ConsumerConfig) -> Result<(), ApiError> {
    if config.direct {
        return Err(ApiError::consumer_create(
            "direct consumers are not supported by this server",
        ));
    }
    Ok(())
}

/// The share of acknowledgements to sample: `30%`, `30`.
pub(crate) fn sample_percent(text: &str) -> Option<u64> {
    let digits = text.strip_suffix('%').unwrap_or(text);
    digits.parse().ok()
}

fn check_sampling(config: &ConsumerConfig) -> Result<(), ApiError> {
    if config.sample_freq.is_empty() || sample_percent(&config.sample_freq).is_some() {
        return Ok(());
    }
    let text = format!(
        "failed to parse consumer sampling configuration: {:?} is no number of percent such as \"30%\"",
        config.sample_freq
    );
    Err(ApiError::with(400, 10095, text))
}

/// Where messages go that ran out of deliveries.
pub(crate) fn dead_letter_subject(config: &ConsumerConfig) -> Option<&str> {
    config.metadata.get(DEAD_LETTER_KEY).map(String::as_str)
}

fn check_dead_letter(config: &ConsumerConfig, stream: &Stream) -> Result<(), ApiError> {
    let Some(to) = dead_letter_subject(config) else {
        return Ok(());
    };
    let why = if !subject::is_literal(to.as_bytes()) {
        "is not a subject without wildcards"
    } else if config.max_deliver <= 0 || config.ack_policy == AckPolicy::None {
        "needs acknowledgements and max_deliver, or no message ever runs out of deliveries"
    } else if (stream.config().subjects.iter())
        .any(|own| subject::matches(own.as_bytes(), to.as_bytes()))
    {
        "belongs to the consumer's own stream: name a subject of another one"
    } else {
        return Ok(());
    };
    let text = format!("{DEAD_LETTER_KEY} {to:?} {why}");
    Err(ApiError::consumer_create(text))
}

/// Each message of a work queue is for one consumer, besides those that copies are made through.
pub(crate) fn check_workqueue(config: &ConsumerConfig, stream: &Stream) -> Result<(), ApiError> {
    if stream.config().retention != Retention::Workqueue || config.sourcing {
        return Ok(());
    }
    let own: Vec<&[u8]> = config.filters().map(str::as_bytes).collect();
    let is_worker = |name: &str| {
        let held = stream.consumer(name);
        *name != *config.name && held.is_some_and(|held| !held.config().sourcing)
    };
    if !stream.interest.overlaps(&own, is_worker) {
        return Ok(());
    }
    Err(if own.is_empty() {
        error::CONSUMER_WORKQUEUE_MULTIPLE_UNFILTERED
    } else {
        error::CONSUMER_WORKQUEUE_NOT_UNIQUE
    })
}

/// What an update of `old` may not change.
pub(crate) fn check_update(old: &ConsumerConfig, new: &ConsumerConfig) -> Result<(), ApiError> {
    let refused = [
        (
            old.deliver_policy != new.deliver_policy,
            "deliver policy can not be updated",
        ),
        (
            old.opt_start_seq != new.opt_start_seq,
            "start sequence can not be updated",
        ),
        (
            old.opt_start_time != new.opt_start_time,
            "start time can not be updated",
        ),
        (
            old.ack_policy != new.ack_policy,
            "ack policy can not be updated",
        ),
        (
            old.replay_policy != new.replay_policy,
            "replay policy can not be updated",
        ),
        (
            old.idle_heartbeat != new.idle_heartbeat,
            "heart beats can not be updated",
        ),
        (
            old.flow_control != new.flow_control,
            "flow control can not be updated",
        ),
        (
            old.is_push() && !new.is_push(),
            "can not update push consumer to pull based",
        ),
        (
            !old.is_push() && new.is_push(),
            "can not update pull consumer to push based",
        ),
        (
            old.max_waiting != new.max_waiting,
            "max waiting can not be updated",
        ),
        (
            old.durable_name != new.durable_name,
            "durable name can not be updated",
        ),
        (
            old.sourcing != new.sourcing,
            "the consumer of a copy can not become another or be made of one",
        ),
    ];
    for (changed, text) in refused {
        if changed {
            return Err(ApiError::consumer_create(text));
        }
    }
    Ok(())
}

/// Whether the stream has room for one more.
pub(crate) fn check_count(stream: &Stream) -> Result<(), ApiError> {
    let count = stream.consumers().len();
    let own = limit(stream.config().max_consumers).and_then(|max| usize::try_from(max).ok());
    if count >= own.unwrap_or(CONSUMERS_MAX).min(CONSUMERS_MAX) {
        return Err(error::MAXIMUM_CONSUMERS_LIMIT);
    }
    Ok(())
}
