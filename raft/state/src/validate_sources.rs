//! What a stream's mirror, sources, subject transform and republishing may say. The order of the
//! checks and the texts are nats-server's; what is in another account or domain is refused by name.

use std::collections::BTreeSet;

use unibus_proto::jetstream::config::{StreamConfig, StreamSource, SubjectTransform};
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::subject;
use unibus_proto::transform::Transform;

use crate::copy_consumers::is_made_name;
use crate::stream::is_control_name;
use crate::validate::check_name;

/// Sources of one stream at most.
pub(crate) const SOURCES_MAX: usize = 256;
/// Transforms of one mirror or source at most.
const TRANSFORMS_MAX: usize = 64;

fn bad(text: impl Into<std::borrow::Cow<'static, str>>) -> ApiError {
    ApiError::stream_config(text)
}

/// Everything about copies and renames that can be said without other streams.
pub(crate) fn check(config: &StreamConfig) -> Result<(), ApiError> {
    if let Some(mirror) = &config.mirror {
        check_mirror(config, mirror)?;
    } else if config.mirror_direct {
        return Err(bad("stream has no mirror but does have mirror direct"));
    }
    check_sources(config)?;
    check_transform(config)?;
    check_republish(config)
}

fn check_mirror(config: &StreamConfig, mirror: &StreamSource) -> Result<(), ApiError> {
    if check_name(&mirror.name).is_err() {
        return Err(error::MIRROR_INVALID_STREAM_NAME);
    }
    let refused = [
        (!config.subjects.is_empty(), error::MIRROR_WITH_SUBJECTS),
        (!config.sources.is_empty(), error::MIRROR_WITH_SOURCES),
        (config.first_seq > 0, error::MIRROR_WITH_FIRST_SEQ),
        (config.allow_msg_counter, error::MIRROR_WITH_COUNTERS),
        (config.allow_atomic, error::MIRROR_WITH_ATOMIC),
        (config.allow_batched, error::MIRROR_WITH_BATCH_PUBLISH),
        (config.allow_msg_schedules, error::MIRROR_WITH_SCHEDULES),
        (
            config.subject_delete_marker_ttl > 0,
            bad("subject delete markers forbidden on mirrors"),
        ),
    ];
    if let Some((_, error)) = refused.into_iter().find(|(wrong, _)| *wrong) {
        return Err(error);
    }
    if mirror.name == config.name {
        return Err(bad("detected cycle"));
    }
    check_origin(mirror, &Texts::MIRROR)
}

fn check_sources(config: &StreamConfig) -> Result<(), ApiError> {
    if config.sources.len() > SOURCES_MAX {
        return Err(bad(format!(
            "too many sources, maximum allowed is {SOURCES_MAX}"
        )));
    }
    if !config.sources.is_empty() && config.allow_msg_schedules {
        return Err(error::SOURCE_WITH_SCHEDULES);
    }
    let mut known = BTreeSet::new();
    for source in &config.sources {
        if check_name(&source.name).is_err() {
            return Err(error::SOURCE_INVALID_STREAM_NAME);
        }
        if !known.insert(source.identity()) {
            return Err(error::SOURCE_DUPLICATE);
        }
        // A stream that gathers from itself would never come to an end.
        if source.name == config.name {
            return Err(bad("detected cycle"));
        }
        check_origin(source, &Texts::SOURCE)?;
    }
    Ok(())
}

/// The errors in which a mirror and a source differ.
struct Texts {
    multiple: ApiError,
    overlapping: ApiError,
    source: (u16, &'static str),
    destination: (u16, &'static str),
}

impl Texts {
    const MIRROR: Self = Self {
        multiple: error::MIRROR_MULTIPLE_FILTERS,
        overlapping: error::MIRROR_OVERLAPPING_FILTERS,
        source: (10151, "mirror transform source"),
        destination: (10154, "mirror transform"),
    };
    const SOURCE: Self = Self {
        multiple: error::SOURCE_MULTIPLE_FILTERS,
        overlapping: error::SOURCE_OVERLAPPING_FILTERS,
        source: (10145, "source transform source"),
        destination: (10146, "source transform"),
    };
}

fn check_origin(origin: &StreamSource, texts: &Texts) -> Result<(), ApiError> {
    if origin.external.is_some() {
        return Err(bad(
            "mirrors and sources in other accounts or domains are not supported by this server",
        ));
    }
    if is_control_name(&origin.name) {
        return Err(error::RESERVED);
    }
    if !origin.filter_subject.is_empty() {
        if !origin.subject_transforms.is_empty() {
            return Err(texts.multiple.clone());
        }
        check_filter(&origin.filter_subject, texts.source)?;
    }
    if origin.subject_transforms.len() > TRANSFORMS_MAX {
        return Err(bad(format!(
            "too many subject transforms, maximum allowed is {TRANSFORMS_MAX}"
        )));
    }
    for (at, transform) in origin.subject_transforms.iter().enumerate() {
        check_filter(&transform.src, texts.source)?;
        let filter = or_everything(&transform.src);
        if !transform.dest.is_empty() {
            Transform::new(&transform.src, &transform.dest)
                .map_err(|error| numbered(texts.destination, &error.to_string()))?;
        }
        let others = &origin.subject_transforms[..at];
        if others
            .iter()
            .any(|other| subject::collide(or_everything(&other.src), filter))
        {
            return Err(texts.overlapping.clone());
        }
    }
    Ok(())
}

/// What a mirror or sources may say of the consumers that they are copied through (ADR-60). To be asked
/// before a configuration is proposed: versions that know no such copies apply it whatever it says.
///
/// # Errors
/// 10213 and 10215 where a mirror's or a source's consumer has no name or subject, or something beside it
/// says where to begin or what to take; 10216 where two sources name the same consumer.
pub fn check_copy_consumers(config: &StreamConfig) -> Result<(), ApiError> {
    if config
        .mirror
        .iter()
        .any(|mirror| !is_consumer_valid(mirror))
    {
        return Err(error::MIRROR_CONSUMER_INVALID);
    }
    let (mut sources, mut consumers) = (BTreeSet::new(), BTreeSet::new());
    for source in &config.sources {
        if !is_consumer_valid(source) {
            return Err(error::SOURCE_CONSUMER_INVALID);
        }
        let once = sources.insert(source.identity());
        if let Some(consumer) = &source.consumer
            && once
            && !consumers.insert((&source.name, &consumer.name))
        {
            return Err(error::SOURCE_CONSUMER_DUPLICATE);
        }
    }
    Ok(())
}

/// A copy through a consumer begins where that says and takes what that selects. Consumers that are made
/// for copies are not to be had.
fn is_consumer_valid(origin: &StreamSource) -> bool {
    let Some(consumer) = &origin.consumer else {
        return true;
    };
    let by_consumer = origin.opt_start_seq == 0
        && origin.opt_start_time.is_none()
        && origin.filter_subject.is_empty();
    by_consumer
        && check_name(&consumer.name).is_ok()
        && !is_made_name(&consumer.name)
        && subject::is_literal(consumer.deliver_subject.as_bytes())
        && !consumer.deliver_subject.starts_with("$JS.")
}

fn numbered((err_code, what): (u16, &'static str), text: &str) -> ApiError {
    ApiError::with(400, err_code, format!("{what}: {text}"))
}

fn check_filter(filter: &str, error: (u16, &'static str)) -> Result<(), ApiError> {
    if filter.is_empty() || subject::is_valid_filter(filter.as_bytes()) {
        return Ok(());
    }
    Err(numbered(error, &format!("invalid subject {filter}")))
}

fn or_everything(filter: &str) -> &[u8] {
    if filter.is_empty() {
        b">"
    } else {
        filter.as_bytes()
    }
}

fn check_transform(config: &StreamConfig) -> Result<(), ApiError> {
    let Some(transform) = &config.subject_transform else {
        return Ok(());
    };
    check_filter(&transform.src, (10155, "stream transform source"))?;
    compile(transform)
        .map(drop)
        .map_err(|text| numbered((10156, "stream transform"), &text))
}

fn check_republish(config: &StreamConfig) -> Result<(), ApiError> {
    let Some(republish) = &config.republish else {
        return Ok(());
    };
    if republish.dest.is_empty() {
        return Ok(());
    }
    let transform = Transform::new(&republish.src, &republish.dest).map_err(|_| {
        bad(format!(
            "stream configuration for republish with transform from '{}' to '{}' not valid",
            republish.src, republish.dest
        ))
    })?;
    let target = transform.destination_filter();
    let cycle = config
        .subjects
        .iter()
        .any(|filter| subject::collide(filter.as_bytes(), &target));
    if cycle {
        return Err(bad(
            "stream configuration for republish destination forms a cycle",
        ));
    }
    // What a client may not publish, a stream does not publish for it.
    for reserved in [&b"$JS.>"[..], b"$SYS.>", b"$NRG.>", b"$JSC.>"] {
        if subject::collide(reserved, &target) {
            return Err(bad(format!(
                "republish destination '{}' is reserved",
                republish.dest
            )));
        }
    }
    Ok(())
}

/// `Ok(None)`: nothing to rename.
pub(crate) fn compile(transform: &SubjectTransform) -> Result<Option<Transform>, String> {
    if transform.dest.is_empty() {
        return Ok(None);
    }
    Transform::new(&transform.src, &transform.dest)
        .map(Some)
        .map_err(|error| error.to_string())
}
