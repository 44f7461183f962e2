//! A consumer's configuration in the form its cursor works with.

use std::sync::Arc;

use bytes::Bytes;
use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig};
use unibus_proto::jetstream::duration::format_duration;
use unibus_proto::jetstream::pull::PullRequest;

use super::redelivery::Patience;
use crate::consumer::{dead_letter_subject, sample_percent};
use crate::delivery::Status;

/// Requests of one consumer that wait at most, whatever its `max_waiting`.
const WAITING_MAX: usize = 65_536;

/// How pull requests of a group are served.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    None,
    Overflow,
    Pinned,
    Prioritized,
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// The deliver subject of a push consumer.
    pub(super) push: Option<Bytes>,
    pub(super) ack: AckPolicy,
    /// Deliveries of one message.
    pub(super) max_deliver: u32,
    /// Unsettled messages at most.
    pub(super) max_ack_pending: usize,
    pub(super) headers_only: bool,
    pub(super) flow_control: bool,
    pub(super) heartbeat_ns: Option<u64>,
    pub(super) policy: Policy,
    pub(super) groups: Vec<Arc<str>>,
    pub(super) pin_ns: u64,
    pub(super) paused_until_ns: u64,
    pub(super) sample_percent: u64,
    pub(super) dead_letter: Option<Arc<str>>,
    pub(super) inactive_ns: Option<u64>,
    pub(super) rate_bps: u64,
    max_waiting: usize,
    max_batch: Option<i64>,
    max_expires: Option<i64>,
    max_bytes: Option<i64>,
}

fn ns(value: i64) -> Option<u64> {
    u64::try_from(value).ok().filter(|ns| *ns > 0)
}

fn at_most(value: i64) -> Option<i64> {
    (value > 0).then_some(value)
}

impl Settings {
    pub(super) fn of(config: &ConsumerConfig) -> Self {
        let subject = config.is_push().then_some(&config.deliver_subject);
        Self {
            push: subject.map(|subject| Bytes::copy_from_slice(subject.as_bytes())),
            ack: config.ack_policy,
            max_deliver: u32::try_from(config.max_deliver)
                .ok()
                .filter(|max| *max > 0)
                .unwrap_or(u32::MAX),
            max_ack_pending: usize::try_from(config.max_ack_pending)
                .ok()
                .filter(|max| *max > 0)
                .unwrap_or(usize::MAX),
            headers_only: config.headers_only,
            flow_control: config.flow_control,
            heartbeat_ns: ns(config.idle_heartbeat),
            policy: match config.priority_policy.as_str() {
                "overflow" => Policy::Overflow,
                "pinned_client" => Policy::Pinned,
                "prioritized" => Policy::Prioritized,
                _ => Policy::None,
            },
            groups: config
                .priority_groups
                .iter()
                .map(|group| group.as_str().into())
                .collect(),
            pin_ns: ns(config.priority_timeout).unwrap_or(u64::MAX),
            paused_until_ns: config.pause_until.map_or(0, |until| until.0),
            sample_percent: sample_percent(&config.sample_freq).unwrap_or(0),
            dead_letter: dead_letter_subject(config).map(Into::into),
            inactive_ns: ns(config.inactive_threshold),
            rate_bps: config.rate_limit_bps,
            max_waiting: usize::try_from(config.max_waiting)
                .unwrap_or(0)
                .clamp(1, WAITING_MAX),
            max_batch: at_most(config.max_batch),
            max_expires: at_most(config.max_expires),
            max_bytes: at_most(config.max_bytes),
        }
    }

    pub(super) fn patience(config: &ConsumerConfig) -> Patience {
        if config.ack_policy == AckPolicy::FlowControl {
            return Patience::endless();
        }
        Patience::new(config.ack_wait, &config.backoff)
    }

    pub(super) fn acks_by_flow(&self) -> bool {
        self.ack == AckPolicy::FlowControl
    }

    /// Whether a message may not come after later ones: what is not acknowledged one by one would be lost.
    pub(super) fn is_in_order(&self) -> bool {
        self.ack != AckPolicy::Explicit
    }

    pub(super) fn tracks_acks(&self) -> bool {
        self.ack != AckPolicy::None
    }

    /// Why a pull request can't be taken, whatever is waiting.
    pub(super) fn refuse(&self, asked: &PullRequest) -> Option<Status> {
        if self.push.is_some() {
            return Some(Status::PUSH_BASED);
        }
        if let Some(max) = self.max_batch.filter(|max| asked.batch > *max) {
            return Some(limit(format!("Exceeded MaxRequestBatch of {max}")));
        }
        if let Some(max) = self.max_expires.filter(|max| asked.expires > *max) {
            let max = format_duration(max.unsigned_abs());
            return Some(limit(format!("Exceeded MaxRequestExpires of {max}")));
        }
        if let Some(max) = self.max_bytes.filter(|max| asked.max_bytes > *max) {
            return Some(limit(format!("Exceeded MaxRequestMaxBytes of {max}")));
        }
        self.refuse_group(asked)
    }

    fn refuse_group(&self, asked: &PullRequest) -> Option<Status> {
        let overflow = asked.min_pending > 0 || asked.min_ack_pending > 0;
        let why = if overflow && self.policy != Policy::Overflow {
            "Not a Overflow Priority consumer"
        } else if !asked.id.is_empty() && !asked.group.is_empty() && self.policy != Policy::Pinned {
            "Not a Pinned Client Priority consumer"
        } else if self.policy == Policy::None {
            return None;
        } else if asked.group.is_empty() {
            "Priority Group missing"
        } else if !self.groups.iter().any(|group| **group == *asked.group) {
            "Invalid Priority Group"
        } else {
            return None;
        };
        Some(Status::bad_request(why))
    }

    pub(super) fn is_full(&self, waiting: usize) -> bool {
        waiting >= self.max_waiting
    }
}

fn limit(text: String) -> Status {
    Status::limit(409, text)
}
