//! Where a stream's messages come from and go to besides its own subjects: mirrors, sources, subject
//! transforms and republishing, as clients write them (nats-surface §2.3).

use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::timestamp::Timestamp;
use super::{is_default, or_default};

/// Renames subjects that match `src` to `dest` (see [`crate::transform::Transform`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SubjectTransform {
    /// A filter; empty = `>`.
    #[serde(deserialize_with = "or_default")]
    pub src: String,
    /// The new subject; empty = as it was.
    #[serde(deserialize_with = "or_default")]
    pub dest: String,
}

/// Publishes what the stream stores once more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Republish {
    /// Which subjects; empty = `>`.
    #[serde(deserialize_with = "or_default")]
    pub src: String,
    /// Under which subject; empty = not at all.
    #[serde(deserialize_with = "or_default")]
    pub dest: String,
    /// Without the payload.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub headers_only: bool,
}

/// A stream in another account or domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExternalStream {
    /// API prefix.
    #[serde(deserialize_with = "or_default")]
    pub api: String,
    /// Delivery prefix.
    #[serde(deserialize_with = "or_default")]
    pub deliver: String,
}

/// A consumer of the origin that the copy is made through (2.14, ADR-60): somebody has made it, and it
/// acknowledges by flow control. It says where to begin and what to take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceConsumer {
    /// Its name.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub name: String,
    /// Where it delivers.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub deliver_subject: String,
}

/// A stream that is copied, as a whole or in parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamSource {
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The first sequence to copy; 0 = the first there is.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_default")]
    pub opt_start_seq: u64,
    /// The oldest message to copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opt_start_time: Option<Timestamp>,
    /// Only matching subjects; empty = all.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub filter_subject: String,
    /// Only subjects that match one of these, renamed.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub subject_transforms: Vec<SubjectTransform>,
    /// In another account or domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalStream>,
    /// The origin's consumer for the copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<SourceConsumer>,
}

impl StreamSource {
    /// What tells it from the other sources of a stream: name, filters and destinations, and the consumer
    /// that it names.
    #[must_use]
    pub fn identity(&self) -> String {
        let (filters, destinations) = self.described();
        let mut identity = format!("{} {filters} {destinations}", self.name);
        if let Some(consumer) = &self.consumer {
            identity.push(' ');
            identity.push_str(&consumer.name);
        }
        identity
    }

    /// `<filters> <destinations>` as the `Nats-Stream-Source` header tells them: joined by form
    /// feeds, `>` where there is none.
    #[must_use]
    pub fn described(&self) -> (String, String) {
        if self.subject_transforms.is_empty() {
            return (shown(&self.filter_subject), ">".to_owned());
        }
        let join = |of: fn(&SubjectTransform) -> &String| {
            let all = self.subject_transforms.iter().map(|t| shown(of(t)));
            all.collect::<Vec<_>>().join("\u{c}")
        };
        (join(|t| &t.src), join(|t| &t.dest))
    }
}

fn shown(subject: &str) -> String {
    if subject.is_empty() { ">" } else { subject }.to_owned()
}

/// How far a mirror or source has come, as `STREAM.INFO` tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceInfo {
    /// The origin.
    pub name: String,
    /// Messages of the origin that are not copied yet.
    pub lag: u64,
    /// Nanoseconds since the last copy; -1 = never.
    pub active: i64,
    /// What keeps it from being copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
    /// As configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalStream>,
    /// As configured.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filter_subject: String,
    /// As configured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_transforms: Vec<SubjectTransform>,
}

#[cfg(test)]
mod tests {
    use super::{StreamSource, SubjectTransform};

    #[test]
    fn identities_tell_sources_apart() {
        let mut source = StreamSource {
            name: "O".into(),
            ..StreamSource::default()
        };
        assert_eq!(source.identity(), "O > >");
        source.filter_subject = "o.a".into();
        assert_eq!(source.identity(), "O o.a >");
        let transform = |src: &str, dest: &str| SubjectTransform {
            src: src.into(),
            dest: dest.into(),
        };
        source.filter_subject.clear();
        source.subject_transforms = vec![transform("o.a", ""), transform("o.b", "q")];
        assert_eq!(source.identity(), "O o.a\u{c}o.b >\u{c}q");
    }
}
