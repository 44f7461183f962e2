//! What follows from a stream's configuration and is needed for every message: its transforms, read
//! once. Not replicated: made from the configuration wherever that comes from.

use unibus_proto::jetstream::config::StreamConfig;
use unibus_proto::transform::Transform;

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
