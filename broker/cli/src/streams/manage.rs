//! Streams themselves: making, listing, looking at, changing, purging, deleting.

use serde_json::{Value, json};

use super::config::StreamFlags;
use crate::api;
use crate::connect::Bus;
use crate::error::Result;
use crate::output;
use crate::text;

/// Subjects whose counts are printed for people; JSON has all of them.
const SUBJECTS_SHOWN: usize = 50;

/// Lists the streams.
///
/// # Errors
/// Where the server does not tell them.
pub(super) async fn list(subject: Option<&str>, names: bool, bus: &Bus, json: bool) -> Result {
    let filter = subject.map_or_else(|| json!({}), |subject| json!({"subject": subject}));
    let what = "can't list streams";
    let mut streams = api::list(bus, "STREAM.LIST", &filter, "streams", what).await?;
    streams.sort_by_key(|info| api::string(info, "/config/name"));
    if names {
        let names: Vec<String> = streams
            .iter()
            .map(|info| api::string(info, "/config/name"))
            .collect();
        return match (json, names.is_empty()) {
            (true, _) => output::json(&names),
            (false, true) => Ok(()),
            (false, false) => output::say(&names.join("\n")),
        };
    }
    if json {
        return output::json(&streams);
    }
    if streams.is_empty() {
        output::tell("there are no streams");
        return Ok(());
    }
    output::table(
        &[
            "stream",
            "subjects",
            "messages",
            "size",
            "consumers",
            "replicas",
            "last message",
        ],
        streams.iter().map(|info| {
            vec![
                api::string(info, "/config/name"),
                feeds(info),
                text::count_shown(api::number(info, "/state/messages")),
                text::size_shown(api::number(info, "/state/bytes")),
                api::number(info, "/state/consumer_count").to_string(),
                api::number(info, "/config/num_replicas").to_string(),
                api::moment(info, "/state/last_ts"),
            ]
        }),
    )
}

/// Where a stream's messages come from.
fn feeds(info: &Value) -> String {
    let config = &info["config"];
    let list = |key: &str| config[key].as_array().cloned().unwrap_or_default();
    let mut feeds: Vec<String> = list("subjects")
        .iter()
        .map(|subject| api::string(subject, ""))
        .collect();
    if config["mirror"].is_object() {
        feeds.push(format!("mirror of {}", api::string(config, "/mirror/name")));
    }
    let sources = list("sources");
    feeds.extend(
        sources
            .iter()
            .map(|source| format!("source {}", api::string(source, "/name"))),
    );
    feeds.join(", ")
}

/// Makes a stream.
///
/// # Errors
/// Where the server refuses it.
pub(super) async fn add(name: &str, flags: &StreamFlags, bus: &Bus, json: bool) -> Result {
    api::name("stream", name)?;
    let what = format!("can't make stream {name}");
    let subject = format!("STREAM.CREATE.{name}");
    let info = api::ask(bus, &subject, &flags.fresh(name)?, &what).await?;
    if json {
        return output::json(&info);
    }
    output::say(&format!("made stream {name}, which keeps {}", feeds(&info)))
}

/// Changes a stream.
///
/// # Errors
/// Where nothing would change, or the server refuses it.
pub(super) async fn edit(name: &str, flags: &StreamFlags, bus: &Bus, json: bool) -> Result {
    let held = api::stream_info(bus, name).await?;
    let config = flags.changed(&held["config"])?;
    let what = format!("can't change stream {name}");
    let info = api::ask(bus, &format!("STREAM.UPDATE.{name}"), &config, &what).await?;
    if json {
        return output::json(&info);
    }
    output::say(&format!("changed stream {name}"))
}

/// Prints what a stream is.
///
/// # Errors
/// Where there is none of the name.
pub(super) async fn info(name: &str, subjects: bool, bus: &Bus, json: bool) -> Result {
    api::name("stream", name)?;
    let body = if subjects {
        json!({"subjects_filter": ">"})
    } else {
        json!({})
    };
    let what = format!("can't look up stream {name}");
    let info = api::ask(bus, &format!("STREAM.INFO.{name}"), &body, &what).await?;
    if json {
        return output::json(&info);
    }
    let (config, state) = (&info["config"], &info["state"]);
    let sequence = |end: &str| {
        let number = api::number(state, &format!("/{end}_seq"));
        let at = api::moment(state, &format!("/{end}_ts"));
        format!("{number}  {at}").trim_end().to_owned()
    };
    output::facts(
        &format!("stream {name}"),
        &[
            ("description", api::string(config, "/description")),
            ("subjects", feeds(&info)),
            (
                "messages",
                text::count_shown(api::number(state, "/messages")),
            ),
            ("size", text::size_shown(api::number(state, "/bytes"))),
            ("first", sequence("first")),
            ("last", sequence("last")),
            (
                "consumers",
                api::number(state, "/consumer_count").to_string(),
            ),
            ("retention", api::string(config, "/retention")),
            ("storage", api::string(config, "/storage")),
            ("discard", api::string(config, "/discard")),
            (
                "max messages",
                api::limit(config, "/max_msgs", text::count_shown),
            ),
            (
                "max a subject",
                api::limit(config, "/max_msgs_per_subject", text::count_shown),
            ),
            (
                "max bytes",
                api::limit(config, "/max_bytes", text::size_shown),
            ),
            ("max age", api::limit(config, "/max_age", api::nanos_shown)),
            (
                "max message",
                api::limit(config, "/max_msg_size", text::size_shown),
            ),
            (
                "dupe window",
                api::limit(config, "/duplicate_window", api::nanos_shown),
            ),
            ("replicas", api::number(config, "/num_replicas").to_string()),
            ("cluster", api::cluster_shown(&info)),
            ("created", api::moment(&info, "/created")),
        ],
    )?;
    if subjects { counts(state) } else { Ok(()) }
}

fn counts(state: &Value) -> Result {
    let Some(counts) = state["subjects"].as_object() else {
        return Ok(());
    };
    output::table(
        &["subject", "messages"],
        counts.iter().take(SUBJECTS_SHOWN).map(|(subject, count)| {
            vec![
                text::harmless(subject),
                text::count_shown(count.as_u64().unwrap_or(0)),
            ]
        }),
    )?;
    if counts.len() > SUBJECTS_SHOWN {
        output::tell(&format!(
            "and {} more subjects; --json has all of them",
            counts.len() - SUBJECTS_SHOWN
        ));
    }
    Ok(())
}

/// Deletes a stream.
///
/// # Errors
/// Where nobody confirmed it, or there is none of the name.
pub(super) async fn remove(name: &str, bus: &Bus, force: bool) -> Result {
    api::name("stream", name)?;
    output::confirm(&format!("Delete stream {name} with its messages?"), force)?;
    let what = format!("can't delete stream {name}");
    api::ask(bus, &format!("STREAM.DELETE.{name}"), &json!({}), &what).await?;
    output::say(&format!("deleted stream {name}"))
}

/// Which messages to delete.
pub(super) struct Purge<'a> {
    pub(super) subject: Option<&'a str>,
    pub(super) seq: Option<u64>,
    pub(super) keep: Option<u64>,
}

/// Deletes messages.
///
/// # Errors
/// Where nobody confirmed it, or the server refuses it.
pub(super) async fn purge(
    name: &str,
    purge: &Purge<'_>,
    bus: &Bus,
    force: bool,
    json: bool,
) -> Result {
    api::name("stream", name)?;
    output::confirm(&format!("Delete messages of stream {name}?"), force)?;
    let mut body = json!({});
    if let Some(subject) = purge.subject {
        body["filter"] = subject.into();
    }
    if let Some(seq) = purge.seq {
        body["seq"] = seq.into();
    }
    if let Some(keep) = purge.keep {
        body["keep"] = keep.into();
    }
    let what = format!("can't purge stream {name}");
    let answer = api::ask(bus, &format!("STREAM.PURGE.{name}"), &body, &what).await?;
    if json {
        return output::json(&answer);
    }
    let purged = text::count_shown(api::number(&answer, "/purged"));
    output::say(&format!("deleted {purged} messages of stream {name}"))
}
