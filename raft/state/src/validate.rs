//! What a stream's configuration may say: defaults, limits, and what an update may change
//! (nats-surface §2.3). Mirrors, sources and transforms are in `validate_sources`.

use unibus_proto::jetstream::config::{
    Discard, PersistMode, Placement, Retention, Storage, StreamConfig, strip_server_metadata,
};
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::subject;

use crate::stream::{Stream, is_control_name};
use crate::validate_sources;

const NAME_BYTES_MAX: usize = 255;
pub(crate) const DESCRIPTION_BYTES_MAX: usize = 4096;
pub(crate) const METADATA_BYTES_MAX: usize = 128 << 10;
/// Subjects of one stream at most: they are compared pairwise while every node waits.
pub(crate) const SUBJECTS_PER_STREAM_MAX: usize = 1024;
/// Bytes of all subjects of one stream at most: each pair costs its length.
pub(crate) const SUBJECT_BYTES_PER_STREAM_MAX: usize = 64 << 10;
/// The highest first sequence: what follows it can be counted without overflow for ever.
pub(crate) const FIRST_SEQ_MAX: u64 = 1 << 62;
const REPLICAS_MAX: i64 = 5;
const SHORTEST_NS: i64 = 100_000_000;
const SECOND_NS: i64 = 1_000_000_000;
const DUPLICATE_WINDOW_NS: i64 = 120 * SECOND_NS;

fn bad(text: impl Into<std::borrow::Cow<'static, str>>) -> ApiError {
    ApiError::stream_config(text)
}

/// Fills in what the client left out, so that equal wishes are equal configurations.
pub(crate) fn fill_defaults(config: &mut StreamConfig) {
    strip_server_metadata(&mut config.metadata);
    let copies = config.mirror.is_some() || !config.sources.is_empty();
    if config.subjects.is_empty() && !copies {
        config.subjects.push(config.name.clone());
    }
    for unlimited in [
        &mut config.max_consumers,
        &mut config.max_msgs,
        &mut config.max_bytes,
        &mut config.max_msgs_per_subject,
        &mut config.max_msg_size,
    ] {
        if *unlimited <= 0 {
            *unlimited = -1;
        }
    }
    if config.num_replicas == 0 {
        config.num_replicas = 1;
    }
    if config.duplicate_window == 0 && !copies {
        let bounded = config.max_age > 0 && config.max_age < DUPLICATE_WINDOW_NS;
        config.duplicate_window = if bounded {
            config.max_age
        } else {
            DUPLICATE_WINDOW_NS
        };
    }
    if config.placement == Some(Placement::default()) {
        config.placement = None;
    }
    if config.subject_delete_marker_ttl > 0 && config.mirror.is_none() {
        config.allow_msg_ttl = true;
        config.allow_rollup_hdrs = true;
    }
    if config.allow_msg_schedules {
        config.allow_rollup_hdrs = true;
    }
    if let Some(republish) = &mut config.republish
        && republish.src.is_empty()
    {
        republish.src.push('>');
    }
    if config.sealed {
        config.discard = Discard::New;
        config.max_age = 0;
        config.deny_delete = true;
        config.deny_purge = true;
        config.allow_rollup_hdrs = false;
    }
}

/// Everything that can be said without looking at other streams.
pub(crate) fn check(config: &StreamConfig, replicas_max: u32) -> Result<(), ApiError> {
    check_name(&config.name)?;
    check_texts(config)?;
    if config.num_replicas < 0 {
        return Err(error::REPLICAS_NEGATIVE);
    }
    if config.num_replicas > REPLICAS_MAX {
        return Err(bad(format!("maximum replicas is {REPLICAS_MAX}")));
    }
    if config.num_replicas > i64::from(replicas_max.max(1)) {
        return Err(error::STREAM_REPLICAS_NOT_SUPPORTED);
    }
    if config.first_seq > FIRST_SEQ_MAX {
        return Err(bad(format!(
            "first sequence is too high, maximum allowed is {FIRST_SEQ_MAX}"
        )));
    }
    check_ages(config)?;
    check_flags(config)?;
    validate_sources::check(config)?;
    check_subjects(config)?;
    check_features(config)
}

pub(crate) fn check_name(name: &str) -> Result<(), ApiError> {
    if name.contains(['/', '\\']) {
        return Err(error::STREAM_NAME_PATH_SEPARATORS);
    }
    if name.is_empty() || name.contains(['.', '*', '>']) || has_blank(name) {
        return Err(bad(
            "stream name is required and can not contain '.', '*', '>'",
        ));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(bad("stream name is too long, maximum allowed is 255"));
    }
    Ok(())
}

pub(crate) fn has_blank(name: &str) -> bool {
    name.chars().any(|c| c.is_whitespace() || c.is_control())
}

fn check_texts(config: &StreamConfig) -> Result<(), ApiError> {
    if config.description.len() > DESCRIPTION_BYTES_MAX {
        return Err(bad(
            "stream description is too long, maximum allowed is 4096",
        ));
    }
    let metadata: usize = config.metadata.iter().map(|(k, v)| k.len() + v.len()).sum();
    if metadata > METADATA_BYTES_MAX {
        return Err(bad("stream metadata exceeds maximum size of 131072 bytes"));
    }
    Ok(())
}

fn check_ages(config: &StreamConfig) -> Result<(), ApiError> {
    if config.max_age < 0 {
        return Err(bad("max age can not be negative"));
    }
    if config.max_age != 0 && config.max_age < SHORTEST_NS {
        return Err(bad("max age needs to be >= 100ms"));
    }
    if config.duplicate_window < 0 {
        return Err(bad("duplicates window can not be negative"));
    }
    if config.max_age > 0 && config.duplicate_window > config.max_age {
        return Err(bad("duplicates window can not be larger then max age"));
    }
    if config.duplicate_window != 0 && config.duplicate_window < SHORTEST_NS {
        return Err(bad("duplicates window needs to be >= 100ms"));
    }
    let marker = config.subject_delete_marker_ttl;
    if marker < 0 {
        return Err(bad("subject delete marker TTL must not be negative"));
    }
    if marker > 0 && marker < SECOND_NS {
        return Err(bad("subject delete marker TTL must be at least 1 second"));
    }
    Ok(())
}

fn check_flags(config: &StreamConfig) -> Result<(), ApiError> {
    if config.deny_purge && config.allow_rollup_hdrs {
        return Err(bad("roll-ups require the purge permission"));
    }
    if config.discard_new_per_subject {
        if config.discard != Discard::New {
            return Err(bad(
                "discard new per subject requires discard new policy to be set",
            ));
        }
        if config.max_msgs_per_subject <= 0 {
            return Err(bad(
                "discard new per subject requires max msgs per subject > 0",
            ));
        }
    }
    Ok(())
}

fn check_subjects(config: &StreamConfig) -> Result<(), ApiError> {
    if config.subjects.len() > SUBJECTS_PER_STREAM_MAX {
        return Err(bad(format!(
            "too many stream subjects, maximum allowed is {SUBJECTS_PER_STREAM_MAX}"
        )));
    }
    if config.subjects.iter().map(String::len).sum::<usize>() > SUBJECT_BYTES_PER_STREAM_MAX {
        return Err(bad(format!(
            "stream subjects are too long, maximum allowed is {SUBJECT_BYTES_PER_STREAM_MAX} bytes"
        )));
    }
    for (at, filter) in config.subjects.iter().enumerate() {
        if !subject::is_valid_filter(filter.as_bytes()) || filter.len() > usize::from(u16::MAX) {
            return Err(bad("invalid subject"));
        }
        for other in &config.subjects[..at] {
            if subject::collide(other.as_bytes(), filter.as_bytes()) {
                return Err(bad(format!(
                    "subject \"{other}\" overlaps with \"{filter}\""
                )));
            }
        }
        check_reserved(config, filter.as_bytes())?;
    }
    Ok(())
}

/// Subjects of the system may be captured only without acknowledgements, which would feed themselves.
fn check_reserved(config: &StreamConfig, filter: &[u8]) -> Result<(), ApiError> {
    if config.no_ack {
        if filter == b">" && config.num_replicas != 1 {
            return Err(bad("capturing all subjects requires replicas of 1"));
        }
        return Ok(());
    }
    if filter == b">" {
        return Err(bad("capturing all subjects requires no-ack to be true"));
    }
    let inside = |outer: &[u8]| subject::is_subset(filter, outer);
    let touches = |outer: &[u8]| subject::collide(filter, outer);
    if touches(b"$JS.>") && !inside(b"$JS.EVENT.>") || touches(b"$JSC.>") || touches(b"$NRG.>") {
        return Err(bad(
            "subjects that overlap with jetstream api require no-ack to be true",
        ));
    }
    if touches(b"$SYS.>") && !inside(b"$SYS.ACCOUNT.>") {
        return Err(bad(
            "subjects that overlap with system api require no-ack to be true",
        ));
    }
    Ok(())
}

/// Combinations that contradict each other.
fn check_features(config: &StreamConfig) -> Result<(), ApiError> {
    let counter = config.allow_msg_counter;
    let asynchronous = config.persist_mode == PersistMode::Async;
    let refused = [
        (
            counter && config.retention != Retention::Limits,
            "counter stream can only use limits retention",
        ),
        (
            counter && config.discard == Discard::New,
            "counter stream cannot use discard new",
        ),
        (
            counter && config.allow_msg_ttl,
            "counter stream cannot use message TTLs",
        ),
        (
            counter && config.allow_msg_schedules,
            "counter stream cannot use message schedules",
        ),
        (
            asynchronous && config.storage != Storage::File,
            "async persist mode is only supported on file storage",
        ),
        (
            asynchronous && config.allow_atomic,
            "async persist mode is not supported with atomic batch publish",
        ),
        (
            asynchronous && config.num_replicas > 1,
            "async persist mode is not supported on replicated streams",
        ),
    ];
    match refused.into_iter().find(|(wrong, _)| *wrong) {
        Some((_, text)) => Err(bad(text)),
        None => Ok(()),
    }
}

/// The control plane's names and subjects belong to the node itself.
pub(crate) fn check_privilege(config: &StreamConfig, privileged: bool) -> Result<(), ApiError> {
    if privileged {
        return Ok(());
    }
    if is_control_name(&config.name) {
        return Err(error::RESERVED);
    }
    let reserved = config
        .subjects
        .iter()
        .any(|filter| touches_control(filter.as_bytes()));
    if reserved {
        Err(error::SUBJECT_OVERLAP)
    } else {
        Ok(())
    }
}

/// Whether some `$KV.UNIBUS_….` or `$O.UNIBUS_….` subject matches the filter.
fn touches_control(filter: &[u8]) -> bool {
    let mut tokens = subject::tokens(filter);
    let first = match tokens.next() {
        Some(b">") => return true,
        Some(token) => token,
        None => return false,
    };
    if !matches!(first, b"$KV" | b"$O" | b"*") {
        return false;
    }
    // A single token is too short for a key's subject; `*.name` can only mean that very bucket.
    match tokens.next() {
        Some(b">") => true,
        Some(b"*") => tokens.next().is_some(),
        Some(second) => second.starts_with(b"UNIBUS_"),
        None => false,
    }
}

/// What an update of `old` may not change. Both have their defaults.
pub(crate) fn check_update(old: &StreamConfig, new: &StreamConfig) -> Result<(), ApiError> {
    let workqueue = |config: &StreamConfig| config.retention == Retention::Workqueue;
    if old.mirror != new.mirror && new.mirror.is_some() {
        return Err(error::STREAM_MIRROR_NOT_UPDATABLE);
    }
    let refused = [
        (
            old.sealed && !new.sealed,
            "stream configuration update can not unseal a sealed stream",
        ),
        (
            old.storage != new.storage,
            "stream configuration update can not change storage type",
        ),
        (
            workqueue(old) != workqueue(new),
            "stream configuration update can not change retention policy to/from workqueue",
        ),
        (
            old.deny_delete && !new.deny_delete,
            "stream configuration update can not cancel deny message deletes",
        ),
        (
            old.deny_purge && !new.deny_purge,
            "stream configuration update can not cancel deny purge",
        ),
        (
            old.allow_msg_ttl && !new.allow_msg_ttl,
            "message TTL status can not be disabled",
        ),
        (
            old.allow_msg_counter != new.allow_msg_counter,
            "stream configuration update can not change message counter setting",
        ),
        (
            old.allow_msg_schedules && !new.allow_msg_schedules,
            "message schedules can not be disabled",
        ),
        (
            old.persist_mode != new.persist_mode,
            "stream configuration update can not change persist mode",
        ),
    ];
    for (changed, text) in refused {
        if changed {
            return Err(bad(text));
        }
    }
    Ok(())
}

/// Limits for consumers that become tighter must hold for those there are.
pub(crate) fn check_consumers(stream: &Stream, new: &StreamConfig) -> Result<(), ApiError> {
    let (before, after) = (stream.config().consumer_limits, new.consumer_limits);
    if before == after {
        return Ok(());
    }
    let over = |limit: i64, value: i64| limit > 0 && value > limit;
    let violated: Vec<&str> = stream
        .consumers()
        .filter(|consumer| {
            let config = consumer.config();
            over(after.max_ack_pending, config.max_ack_pending)
                || over(after.inactive_threshold, config.inactive_threshold)
        })
        .map(|consumer| &**consumer.name())
        .collect();
    if violated.is_empty() {
        return Ok(());
    }
    Err(bad(format!(
        "change to limits violates consumers: {}",
        violated.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, subjects: &[&str]) -> StreamConfig {
        let subjects = subjects.iter().map(ToString::to_string).collect();
        StreamConfig {
            name: name.into(),
            subjects,
            ..StreamConfig::default()
        }
    }

    fn checked(mut config: StreamConfig) -> Result<(), (u16, String)> {
        fill_defaults(&mut config);
        check(&config, 3).map_err(|e| (e.err_code, e.description.into_owned()))
    }

    #[test]
    fn defaults_are_those_clients_expect() {
        let mut c = config("S", &[]);
        c.max_age = SECOND_NS;
        c.metadata.insert("_nats.ver".into(), "1".into());
        fill_defaults(&mut c);
        assert_eq!(c.subjects, ["S"]);
        assert_eq!(
            (c.max_msgs, c.max_bytes, c.max_msg_size, c.num_replicas),
            (-1, -1, -1, 1)
        );
        assert_eq!(c.duplicate_window, SECOND_NS);
        assert!(c.metadata.is_empty());
        assert!(check(&c, 1).is_ok());
    }

    #[test]
    fn bad_configurations_have_their_codes() {
        assert_eq!(checked(config("a.b", &[])).unwrap_err().0, 10052);
        assert_eq!(checked(config("a/b", &[])).unwrap_err().0, 10128);
        assert_eq!(checked(config("", &["a"])).unwrap_err().0, 10052);
        assert_eq!(checked(config("S", &["a.*", "a.b"])).unwrap_err().0, 10052);
        assert_eq!(
            checked(config("S", &["a..b"])).unwrap_err().1,
            "invalid subject"
        );
        let no_mirror = StreamConfig {
            mirror_direct: true,
            ..config("S", &["a"])
        };
        assert_eq!(
            checked(no_mirror).unwrap_err(),
            (
                10052,
                "stream has no mirror but does have mirror direct".into()
            )
        );
        for reserved in ["$JS.API.>", "$SYS.>", ">", "*.API.INFO"] {
            assert_eq!(
                checked(config("S", &[reserved])).unwrap_err().0,
                10052,
                "{reserved}"
            );
        }
        for fine in ["$JS.EVENT.>", "$SYS.ACCOUNT.>", "$KV.b.>"] {
            assert_eq!(checked(config("S", &[fine])), Ok(()), "{fine}");
        }
        let four = StreamConfig {
            num_replicas: 4,
            ..config("S", &[])
        };
        assert_eq!(checked(four).unwrap_err().0, 10074);
        let rollup = StreamConfig {
            deny_purge: true,
            allow_rollup_hdrs: true,
            ..config("S", &[])
        };
        assert_eq!(
            checked(rollup).unwrap_err().1,
            "roll-ups require the purge permission"
        );
    }

    #[test]
    fn the_control_plane_is_out_of_reach() {
        for subjects in [
            "$KV.UNIBUS_users.>",
            "$KV.>",
            "$KV.*.a",
            "*.>",
            "*.UNIBUS_x.a",
            "$O.UNIBUS_a.C.>",
        ] {
            assert!(
                check_privilege(&config("S", &[subjects]), false).is_err(),
                "{subjects}"
            );
            assert!(check_privilege(&config("S", &[subjects]), true).is_ok());
        }
        for subjects in ["$KV.users.>", "a.>", "*.a", "*", "*.*"] {
            assert!(
                check_privilege(&config("S", &[subjects]), false).is_ok(),
                "{subjects}"
            );
        }
        assert_eq!(
            check_privilege(&config("KV_UNIBUS_x", &["a"]), false),
            Err(error::RESERVED)
        );
    }
}
