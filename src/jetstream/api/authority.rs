//! What the node does for a client, it does with its own authority: here is asked whether the client
//! could do it itself. Pure: it looks at nothing but the asker and what is asked for.
//!
//! It is asked once: a maker who loses a permission leaves what it made, which an operator removes.
//!
//! Identities whose permissions allow everything are asked as nats-server asks them: within an account
//! streams may be copied, captured and republished at will.

use unibus_broker::Origin;
use unibus_proto::jetstream::config::StreamConfig;
use unibus_proto::jetstream::consumer::ConsumerConfig;
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::jetstream::source::StreamSource;
use unibus_proto::permissions::{Permissions, SubjectSet};
use unibus_state::{Command, DEAD_LETTER_KEY};

use crate::jetstream::internal;

/// Why `origin` may not have a command proposed: it would reach where its asker may not.
pub(super) fn refuse(origin: &Origin, command: &Command) -> Option<ApiError> {
    match command {
        Command::ConsumerCreate(create) => refuse_consumer(origin, &create.config),
        Command::StreamCreate(put) | Command::StreamUpdate(put) => {
            refuse_stream(origin, &put.config)
        }
        _ => None,
    }
}

/// Why a consumer may not be made by `origin`: it would publish where its maker may not.
pub(super) fn refuse_consumer(origin: &Origin, config: &ConsumerConfig) -> Option<ApiError> {
    if !may_deliver(origin, config) {
        return Some(error::DELIVER_SUBJECT_NOT_VALID);
    }
    // What is stored there are bodies and headers that anybody may have chosen who publishes to the
    // consumer's stream.
    let letters = config.metadata.get(DEAD_LETTER_KEY)?;
    (!origin.may_publish(letters.as_bytes())).then(|| {
        ApiError::consumer_create(format!(
            "{DEAD_LETTER_KEY} {letters:?} is a subject that you may not publish to"
        ))
    })
}

/// Nobody has the node deliver where he could neither publish nor listen himself.
fn may_deliver(origin: &Origin, config: &ConsumerConfig) -> bool {
    let deliver = config.deliver_subject.as_bytes();
    let group = config.deliver_group.as_bytes();
    if deliver.is_empty() || origin.internal {
        return true;
    }
    internal::is_deliverable(deliver)
        && (origin.may_be_answered_at(deliver)
            || (!group.is_empty()
                && origin
                    .permissions
                    .as_deref()
                    .is_none_or(|held| held.can_subscribe(deliver, Some(group)))))
}

/// Why a stream may not be made by `origin` or changed to this: it would read, or have the node publish,
/// what its maker may not.
pub(super) fn refuse_stream(origin: &Origin, config: &StreamConfig) -> Option<ApiError> {
    let held = origin.permissions.as_deref().filter(|_| !origin.internal)?;
    let mut subjects = config.subjects.iter();
    if let Some(subject) = subjects.find(|subject| !may_capture(held, subject)) {
        return Some(ApiError::stream_config(format!(
            "subject {subject:?} is one that you may neither publish nor subscribe to"
        )));
    }
    let republish = config.republish.as_ref().map(|rule| rule.dest.as_str());
    if let Some(dest) = republish.filter(|dest| !dest.is_empty())
        && !covers(&held.publish, pattern_of(dest).as_bytes())
    {
        return Some(ApiError::stream_config(format!(
            "republish destination {dest:?} is one that you may not publish to"
        )));
    }
    let mut origins = config.mirror.iter().chain(&config.sources);
    let foreign = origins.find(|source| !may_copy(origin, source))?;
    Some(ApiError::stream_config(format!(
        "stream {:?} is one that you may not make consumers of",
        foreign.name
    )))
}

/// A stream is a way to read what is published there.
fn may_capture(held: &Permissions, subject: &str) -> bool {
    let subject = subject.as_bytes();
    covers(&held.publish, subject) || covers(&held.subscribe, subject)
}

/// Whether all subjects of a filter are allowed. Where everything is that is not denied, a wildcard may
/// overlap what is denied, as it may in a subscription.
fn covers(set: &SubjectSet, filter: &[u8]) -> bool {
    match &set.allow {
        None => !set.deny.covers(filter),
        Some(allow) => {
            let allowed = allow.covers(filter) || set.allow_literal.covers_literally(filter);
            allowed && !set.deny.collides(filter)
        }
    }
}

/// Copying a stream is reading it: who could read it through a consumer may copy it.
fn may_copy(origin: &Origin, source: &StreamSource) -> bool {
    let create = format!("$JS.API.CONSUMER.CREATE.{}", source.name);
    let may = |rest: &str| origin.may_publish(format!("{create}{rest}").as_bytes());
    if may("") || may(".copy") {
        return true;
    }
    let transforms = source.subject_transforms.iter();
    let mut filters: Vec<&str> = transforms.map(|transform| transform.src.as_str()).collect();
    if filters.is_empty() {
        filters.push(&source.filter_subject);
    }
    // Those of consumers with one filter name it in the request's subject.
    let may_filter = |filter: &&str| !filter.is_empty() && may(&format!(".copy.{filter}"));
    filters.iter().all(may_filter)
}

/// A filter for every subject that a destination can become: `{{wildcard(1)}}`, `{{partition(3,1)}}` and
/// `$1` stand for one token, what splits and slices for any number of them.
fn pattern_of(dest: &str) -> String {
    let mut tokens = Vec::new();
    for token in dest.split('.') {
        let function = token.to_ascii_lowercase();
        let place = token.strip_prefix('$');
        let is_place = place.is_some_and(|place| place.bytes().all(|byte| byte.is_ascii_digit()));
        if !function.contains("{{") && !is_place {
            tokens.push(token);
        } else if function.contains("split") || function.contains("slice") {
            tokens.push(">");
            break;
        } else {
            tokens.push("*");
        }
    }
    tokens.join(".")
}

#[cfg(test)]
mod tests {
    use super::pattern_of;

    #[test]
    fn destinations_are_known_by_what_they_can_become() {
        for (dest, pattern) in [
            ("a.b", "a.b"),
            ("a.>", "a.>"),
            ("$KV.b.{{wildcard(1)}}", "$KV.b.*"),
            ("a.$2.x", "a.*.x"),
            ("a.{{ Partition(3,1,2) }}.x", "a.*.x"),
            ("a.{{SplitFromLeft(1,3)}}.x", "a.>"),
            ("{{slicefromright(1,2)}}", ">"),
            ("$.a", "*.a"),
            ("é{{wildcard(1)}}.é", "*.é"),
            ("a..b", "a..b"),
        ] {
            assert_eq!(pattern_of(dest), pattern, "{dest}");
        }
    }
}
