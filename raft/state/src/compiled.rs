//! What follows from a stream's configuration and is needed for every message: its transforms, read
//! once. Not replicated: made from the configuration wherever that comes from.

use std::sync::Arc;

use unibus_proto::jetstream::config::StreamConfig;
use unibus_proto::transform::Transform;

use crate::location::Location;
use crate::outcome::Effect;
use crate::stream::Stream;
use crate::validate_sources::compile;

/// Transforms, ready to be applied.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    /// Renames what is published to the stream.
    pub(crate) rename: Option<Transform>,
    /// From a stored subject to that under which it is published again.
    pub(crate) republish: Option<Transform>,
}

impl Compiled {
    /// Reads a configuration that has been checked; what does not parse does nothing.
    pub(crate) fn new(config: &StreamConfig) -> Self {
        let rename = config.subject_transform.as_ref();
        let republish = config.republish.as_ref();
        Self {
            rename: rename.and_then(|transform| compile(transform).ok().flatten()),
            republish: republish
                .filter(|republish| !republish.dest.is_empty())
                .and_then(|republish| Transform::new(&republish.src, &republish.dest).ok()),
        }
    }
}

/// A stored message that is to be published once more.
#[derive(Debug)]
pub(crate) struct Again {
    pub(crate) to: Vec<u8>,
    pub(crate) seq: u64,
    pub(crate) last_seq: u64,
    pub(crate) location: Location,
}

impl Again {
    pub(crate) fn effect(self, stream: &Arc<str>, headers_only: bool) -> Effect {
        Effect::Republish {
            stream: stream.clone(),
            subject: self.to.into(),
            seq: self.seq,
            last_seq: self.last_seq,
            location: self.location,
            headers_only,
        }
    }
}

impl Stream {
    /// Turns what this entry stored into effects.
    pub(crate) fn tell_again(&mut self, effects: &mut Vec<Effect>) {
        let republish = self.config.republish.as_ref();
        let headers_only = republish.is_some_and(|republish| republish.headers_only);
        for again in self.again.drain(..) {
            effects.push(again.effect(&self.name, headers_only));
        }
    }
}
