//! Consumers as rows of their stream: configuration, where they start, how far they came. What a
//! consumer may ask for is decided here (nats-surface §2.3); how it is served is in `delivery`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use unibus_proto::jetstream::config::{Retention, strip_server_metadata};
use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig, DeliverPolicy, ReplayPolicy};
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::jetstream::info::SequenceInfo;
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

/// One consumer.
#[derive(Clone, Debug)]
pub struct Consumer {
    pub(crate) name: Arc<str>,
    pub(crate) row: ConsumerRow,
    filters: Vec<Box<[u8]>>,
}

/// What a checkpoint keeps of a consumer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConsumerRow {
    pub(crate) config: ConsumerConfig,
    pub(crate) created_ns: u64,
    pub(crate) start_seq: u64,
    pub(crate) resume_seq: u64,
    pub(crate) consumer_seq: u64,
    pub(crate) stream_seq: u64,
}

impl Consumer {
    pub(crate) fn of_row(row: ConsumerRow) -> Self {
        let filters = row
            .config
            .filters()
            .map(|filter| filter.as_bytes().into())
            .collect();
        Self {
            name: row.config.name.as_str().into(),
            row,
            filters,
        }
    }

    /// A consumer at its start position in `stream`.
    pub(crate) fn new(config: ConsumerConfig, created_ns: u64, stream: &Stream) -> Self {
        let filters: Vec<Box<[u8]>> = config
            .filters()
            .map(|filter| filter.as_bytes().into())
            .collect();
        let after = stream.last_seq() + 1;
        let start_seq = match config.deliver_policy {
            DeliverPolicy::All | DeliverPolicy::LastPerSubject => stream.first_seq().max(1),
            DeliverPolicy::New => after,
            DeliverPolicy::ByStartSequence => config.opt_start_seq.max(1),
            DeliverPolicy::ByStartTime => {
                let time = config.opt_start_time.unwrap_or_default();
                stream.first_seq_at(time.0).unwrap_or(after)
            }
            DeliverPolicy::Last => last_of(stream, &filters).unwrap_or(after),
        };
        let row = ConsumerRow {
            created_ns,
            start_seq,
            resume_seq: stream.last_seq(),
            consumer_seq: 0,
            stream_seq: start_seq - 1,
            config,
        };
        Self {
            name: row.config.name.as_str().into(),
            row,
            filters,
        }
    }

    /// Name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Configuration with defaults filled in, without `_nats.*` metadata.
    #[must_use]
    pub fn config(&self) -> &ConsumerConfig {
        &self.row.config
    }

    /// Creation, Unix nanoseconds.
    #[must_use]
    pub fn created_ns(&self) -> u64 {
        self.row.created_ns
    }

    /// The first sequence it may deliver.
    #[must_use]
    pub fn start_seq(&self) -> u64 {
        self.row.start_seq
    }

    /// The stream's last sequence at creation.
    #[must_use]
    pub fn resume_seq(&self) -> u64 {
        self.row.resume_seq
    }

    /// Its filters; none = everything.
    #[must_use]
    pub fn filters(&self) -> &[Box<[u8]>] {
        &self.filters
    }

    /// Starts with the last message of each subject.
    #[must_use]
    pub fn is_last_per_subject(&self) -> bool {
        self.row.config.deliver_policy == DeliverPolicy::LastPerSubject
    }

    /// How far it is known to have come (its host may be further).
    #[must_use]
    pub fn delivered(&self) -> SequenceInfo {
        SequenceInfo {
            consumer_seq: self.row.consumer_seq,
            stream_seq: self.row.stream_seq,
            last_active: None,
        }
    }

    /// Messages it still has to deliver, as far as is known here.
    #[must_use]
    pub fn num_pending(&self, stream: &Stream) -> u64 {
        let fresh = self.row.consumer_seq == 0;
        let from = self
            .row
            .start_seq
            .max(self.row.stream_seq.saturating_add(1));
        stream.num_pending(&self.filters, from, fresh && self.is_last_per_subject())
    }

    pub(crate) fn advance(&mut self, consumer_seq: u64, stream_seq: u64) -> bool {
        let further = consumer_seq > self.row.consumer_seq;
        if further {
            self.row.consumer_seq = consumer_seq;
            self.row.stream_seq = self.row.stream_seq.max(stream_seq);
        }
        further
    }

    /// Takes over an accepted new configuration, keeping the position.
    pub(crate) fn reconfigure(&mut self, config: ConsumerConfig) {
        self.filters = config
            .filters()
            .map(|filter| filter.as_bytes().into())
            .collect();
        self.row.config = config;
    }
}

fn last_of(stream: &Stream, filters: &[Box<[u8]>]) -> Option<u64> {
    if filters.is_empty() {
        return stream.last_seq_for(b">");
    }
    filters
        .iter()
        .filter_map(|filter| stream.last_seq_for(filter))
        .max()
}

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
    if config.ack_policy != AckPolicy::None {
        if config.ack_wait == 0 {
            config.ack_wait = config.backoff.first().copied().unwrap_or(ACK_WAIT_NS);
        }
        if config.max_ack_pending == 0 {
            config.max_ack_pending = 1000;
        }
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
    check_filters(config)?;
    check_start(config)?;
    if config.is_push() {
        check_push(config, stream)?;
    } else {
        check_pull(config)?;
    }
    if config.max_deliver > 0 && config.backoff.len() as i64 >= config.max_deliver {
        return Err(error::CONSUMER_MAX_DELIVER_BACKOFF);
    }
    check_stream_limits(config, stream)?;
    check_retention(config, stream)?;
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
        return Err(ApiError::consumer_create("malformed filter subject"));
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
    if config.ack_policy != AckPolicy::Explicit {
        return Err(if config.is_push() {
            error::CONSUMER_WORKQUEUE_ACK_EXPLICIT
        } else {
            error::CONSUMER_PULL_REQUIRES_ACK
        });
    }
    if config.deliver_policy != DeliverPolicy::All {
        return Err(error::CONSUMER_WORKQUEUE_DELIVER_ALL);
    }
    Ok(())
}

fn check_supported(config: &ConsumerConfig) -> Result<(), ApiError> {
    let unsupported = [
        (!config.is_push(), "pull consumers"),
        (config.ack_policy != AckPolicy::None, "acknowledgements"),
        (
            config.replay_policy == ReplayPolicy::Original,
            "replays at the original speed",
        ),
        (config.rate_limit_bps > 0, "rate limits"),
        (
            config.pause_until.is_some_and(|until| !until.is_zero()),
            "pauses",
        ),
        (!config.priority_groups.is_empty(), "priority groups"),
        (config.direct || config.sourcing, "sourcing consumers"),
    ];
    for (used, what) in unsupported {
        if used {
            let text = format!("{what} are not supported by this server");
            return Err(ApiError::consumer_create(text));
        }
    }
    Ok(())
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
            old.max_waiting != new.max_waiting,
            "max waiting can not be updated",
        ),
        (
            old.mem_storage != new.mem_storage,
            "storage can not be updated",
        ),
        (
            old.durable_name != new.durable_name,
            "durable name can not be updated",
        ),
        (
            old.is_push() != new.is_push(),
            "can not update push consumer to pull based or the other way round",
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
