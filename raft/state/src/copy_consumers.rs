//! Copies that are made through a consumer of their origin (ADR-60): which of them, by what name, and
//! which consumers no copy needs any more. A stream that keeps messages only for its consumers keeps
//! them until they are copied this way, and not longer.

use std::collections::BTreeMap;

use unibus_proto::jetstream::config::{Retention, StreamSource};
use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig, DeliverPolicy};
use unibus_proto::jetstream::error::{self, ApiError};

use crate::consumer::Consumer;
use crate::copies::CopyRules;
use crate::state::State;
use crate::stream::Stream;

/// Characters that tell the consumers of several copies apart.
const SUFFIX_CHARS: usize = 16;
/// Messages that such a consumer has on their way (nats-server's default).
const UNDER_WAY_MAX: i64 = 1000;
/// The account that streams belong to.
const ACCOUNT: &str = "$G";

/// What consumers of mirrors and of sources are called, deliver to, and say about themselves.
struct Names {
    prefix: &'static str,
    deliver: &'static str,
    stream_key: &'static str,
    account_key: &'static str,
}

const MIRROR: Names = Names {
    prefix: "JS_MIRROR_",
    deliver: "$JS.M.",
    stream_key: "_nats.mirror.stream",
    account_key: "_nats.mirror.acc",
};
const SOURCE: Names = Names {
    prefix: "JS_SRC_",
    deliver: "$JS.S.",
    stream_key: "_nats.src.stream",
    account_key: "_nats.src.acc",
};

/// The consumer that a copy is made through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyConsumer {
    /// Its name.
    pub name: String,
    /// Where it has to deliver.
    pub deliver_subject: String,
    /// It is made for the copy; else the copy's configuration names it, and somebody makes it.
    pub made: bool,
}

impl CopyConsumer {
    /// Whether `consumer` can be used: a copy has to hear of every message once, and as a whole.
    #[must_use]
    pub fn fits(&self, consumer: &Consumer) -> bool {
        let config = consumer.config();
        config.ack_policy == AckPolicy::FlowControl
            && config.deliver_subject == self.deliver_subject
            && config.deliver_group.is_empty()
            && !config.headers_only
    }
}

/// What keeps a copy from being made, as the replicated state tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyTrouble {
    /// There is no stream of that name.
    #[error("the origin is not there")]
    OriginMissing,
    /// Sequences of the origin that is copied and of the one that is there now would be mixed up.
    #[error("the origin was made anew: make the mirror anew as well")]
    OriginAnew,
    /// Somebody has to make it.
    #[error("the consumer that the configuration names is not there")]
    ConsumerMissing,
    /// A copy could miss messages through it.
    #[error(
        "the consumer has to acknowledge by flow control, and to deliver whole messages to the subject \
         that the configuration names"
    )]
    ConsumerUnfit,
}

impl CopyTrouble {
    /// As `STREAM.INFO` of the copy tells it (nats-server's errors 10029, 10045 and 10059).
    #[must_use]
    pub fn told_of(self, copy: &Stream) -> ApiError {
        match self {
            Self::OriginMissing => error::STREAM_NOT_FOUND,
            _ => setup_failed(copy, self.to_string()),
        }
    }
}

fn setup_failed(copy: &Stream, why: String) -> ApiError {
    let is_mirror = copy.config().mirror.is_some();
    ApiError {
        code: 500,
        err_code: if is_mirror { 10029 } else { 10045 },
        description: why.into(),
    }
}

/// A consumer that was made for a copy which is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forsaken {
    /// Its stream.
    pub stream: String,
    /// Its name.
    pub consumer: String,
    /// Its incarnation.
    pub created_ns: u64,
}

impl Stream {
    /// The consumer through which `source` is copied from `origin`: the one that the source names, or one
    /// made for it where the origin keeps messages only for its consumers. `None`: the origin is read.
    #[must_use]
    pub fn copy_consumer(&self, source: &StreamSource, origin: &Self) -> Option<CopyConsumer> {
        if let Some(named) = &source.consumer {
            return Some(CopyConsumer {
                name: named.name.clone(),
                deliver_subject: named.deliver_subject.clone(),
                made: false,
            });
        }
        if origin.config().retention == Retention::Limits {
            return None;
        }
        let names = self.copy_names();
        let suffix = self.suffix(source);
        Some(CopyConsumer {
            name: format!("{}{suffix}", names.prefix),
            deliver_subject: format!("{}{suffix}", names.deliver),
            made: true,
        })
    }

    /// Whether the origin was made anew and the mirror holds messages of the one before: their sequences
    /// would be mixed up with new ones.
    #[must_use]
    pub fn mirrors_another(&self, source: &StreamSource, origin: &Self) -> bool {
        let before = self.progress(source);
        self.config().mirror.is_some()
            && before.is_some_and(|progress| progress.origin_uid != origin.uid().0)
    }

    fn copy_names(&self) -> &'static Names {
        match self.config().mirror {
            Some(_) => &MIRROR,
            None => &SOURCE,
        }
    }

    /// The same on every node and after every change of leader; another one for a stream made anew.
    fn suffix(&self, source: &StreamSource) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.created_ns().to_le_bytes());
        hasher.update(self.name().as_bytes());
        hasher.update(b"\0");
        hasher.update(source.identity().as_bytes());
        let mut hex = hasher.finalize().to_hex().to_string();
        hex.truncate(SUFFIX_CHARS);
        hex
    }

    /// How a consumer is made for the copy of `source`.
    #[must_use]
    pub fn copy_consumer_config(
        &self,
        source: &StreamSource,
        origin: &Self,
        through: CopyConsumer,
    ) -> ConsumerConfig {
        let names = self.copy_names();
        let name = through.name;
        let allowed = origin.config().consumer_limits.max_ack_pending;
        let max_ack_pending = if allowed > 0 {
            allowed.min(UNDER_WAY_MAX)
        } else {
            UNDER_WAY_MAX
        };
        let mut filters = CopyRules::new(source).filters;
        let one = if filters.len() == 1 {
            filters.pop()
        } else {
            None
        };
        let deliver_policy = match (source.opt_start_seq, source.opt_start_time) {
            (1.., _) => DeliverPolicy::ByStartSequence,
            (0, Some(_)) => DeliverPolicy::ByStartTime,
            (0, None) => DeliverPolicy::All,
        };
        let metadata = [
            (names.stream_key, self.name().to_string()),
            (names.account_key, ACCOUNT.to_owned()),
        ];
        ConsumerConfig {
            durable_name: name.clone(),
            name,
            deliver_policy,
            opt_start_seq: source.opt_start_seq,
            opt_start_time: (source.opt_start_seq == 0)
                .then_some(source.opt_start_time)
                .flatten(),
            ack_policy: AckPolicy::FlowControl,
            filter_subject: one.unwrap_or_default(),
            filter_subjects: filters,
            max_ack_pending,
            deliver_subject: through.deliver_subject,
            sourcing: true,
            metadata: metadata.map(|(key, of)| (key.to_owned(), of)).into(),
            ..ConsumerConfig::default()
        }
    }
}

impl State {
    /// What keeps `source` from being copied into `copy`, whatever a leader does.
    #[must_use]
    pub fn copy_trouble(&self, copy: &Stream, source: &StreamSource) -> Option<CopyTrouble> {
        let Some(origin) = self.stream(&source.name) else {
            return Some(CopyTrouble::OriginMissing);
        };
        let through = copy.copy_consumer(source, origin)?;
        if copy.mirrors_another(source, origin) {
            return Some(CopyTrouble::OriginAnew);
        }
        match origin.consumer(&through.name) {
            None => (!through.made).then_some(CopyTrouble::ConsumerMissing),
            Some(consumer) => (!through.fits(consumer)).then_some(CopyTrouble::ConsumerUnfit),
        }
    }

    /// Consumers that were made for copies which are not configured any more. Looks at all consumers.
    #[must_use]
    pub fn forsaken_copy_consumers(&self) -> Vec<Forsaken> {
        let of = |stream: &Stream| {
            let made = stream.consumers().filter(|c| is_made_for_copy(c));
            let forsaken = made.filter(|consumer| !self.is_copied_through(stream, consumer));
            forsaken
                .map(|consumer| Forsaken {
                    stream: stream.name().to_string(),
                    consumer: consumer.name().to_string(),
                    created_ns: consumer.created_ns(),
                })
                .collect::<Vec<_>>()
        };
        self.streams().flat_map(of).collect()
    }

    fn is_copied_through(&self, origin: &Stream, consumer: &Consumer) -> bool {
        let copy = owner(&consumer.config().metadata).and_then(|name| self.stream(name));
        copy.is_some_and(|copy| {
            let sources = copy.origins().filter(|s| s.name == **origin.name());
            sources
                .filter_map(|source| copy.copy_consumer(source, origin))
                .any(|way| way.name == **consumer.name())
        })
    }
}

fn is_made_for_copy(consumer: &Consumer) -> bool {
    consumer.config().sourcing
        && is_made_name(consumer.name())
        && owner(&consumer.config().metadata).is_some()
}

/// Whether consumers that are made for copies are called so.
pub(crate) fn is_made_name(name: &str) -> bool {
    [MIRROR.prefix, SOURCE.prefix]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// The stream that a consumer was made for.
fn owner(metadata: &BTreeMap<String, String>) -> Option<&str> {
    let keys = [MIRROR.stream_key, SOURCE.stream_key];
    keys.iter()
        .find_map(|key| metadata.get(*key))
        .map(String::as_str)
}
