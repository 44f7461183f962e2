//! Consumers themselves: making, listing, looking at, pausing, deleting.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::config::ConsumerFlags;
use crate::api;
use crate::connect::Bus;
use crate::error::{Result, wrong};
use crate::output;
use crate::text;

/// Lists a stream's consumers.
///
/// # Errors
/// Where there is no such stream.
pub(super) async fn list(stream: &str, names: bool, bus: &Bus, json: bool) -> Result {
    api::name("stream", stream)?;
    let what = format!("can't list the consumers of {stream}");
    let subject = format!("CONSUMER.LIST.{stream}");
    let mut consumers = api::list(bus, &subject, &json!({}), "consumers", &what).await?;
    consumers.sort_by_key(|info| api::string(info, "/name"));
    if names {
        let names: Vec<String> = consumers
            .iter()
            .map(|info| api::string(info, "/name"))
            .collect();
        return match (json, names.is_empty()) {
            (true, _) => output::json(&names),
            (false, true) => Ok(()),
            (false, false) => output::say(&names.join("\n")),
        };
    }
    if json {
        return output::json(&consumers);
    }
    if consumers.is_empty() {
        output::tell(&format!("stream {stream} has no consumers"));
        return Ok(());
    }
    output::table(
        &[
            "consumer",
            "filter",
            "waiting",
            "unacked",
            "redelivered",
            "floor",
            "state",
        ],
        consumers.iter().map(|info| {
            vec![
                api::string(info, "/name"),
                filters(info),
                text::count_shown(api::number(info, "/num_pending")),
                text::count_shown(api::number(info, "/num_ack_pending")),
                text::count_shown(api::number(info, "/num_redelivered")),
                api::number(info, "/ack_floor/stream_seq").to_string(),
                state(info).to_owned(),
            ]
        }),
    )
}

fn filters(info: &Value) -> String {
    let many = info["config"]["filter_subjects"].as_array();
    match many {
        Some(many) => {
            let all: Vec<String> = many.iter().map(|one| api::string(one, "")).collect();
            all.join(", ")
        }
        None => api::string(info, "/config/filter_subject"),
    }
}

fn state(info: &Value) -> &'static str {
    match (
        info["paused"] == true,
        info["config"]["deliver_subject"].is_string(),
    ) {
        (true, _) => "paused",
        (false, true) if info["push_bound"] == true => "pushing",
        (false, true) => "idle (push)",
        (false, false) => "pull",
    }
}

/// Makes a consumer.
///
/// # Errors
/// Where the server refuses it, or one of the name is there with another configuration.
pub(super) async fn add(
    stream: &str,
    name: &str,
    flags: &ConsumerFlags,
    bus: &Bus,
    json: bool,
) -> Result {
    api::name("stream", stream)?;
    api::name("consumer", name)?;
    let config = flags.fresh(name, OffsetDateTime::now_utc())?;
    let body = json!({"stream_name": stream, "config": config, "action": "create"});
    // One filter may stand in the subject, so that a server can grant it (ADR-42).
    let subject = match config["filter_subject"].as_str() {
        Some(filter) => format!("CONSUMER.CREATE.{stream}.{name}.{filter}"),
        None => format!("CONSUMER.CREATE.{stream}.{name}"),
    };
    let what = format!("can't make consumer {name} of {stream}");
    let info = api::ask(bus, &subject, &body, &what).await?;
    if json {
        return output::json(&info);
    }
    let waiting = text::count_shown(api::number(&info, "/num_pending"));
    output::say(&format!(
        "made consumer {name} of {stream}, {waiting} messages wait for it"
    ))
}

/// Prints what a consumer is.
///
/// # Errors
/// Where there is none of the name.
pub(super) async fn info(stream: &str, name: &str, bus: &Bus, json: bool) -> Result {
    let info = found(stream, name, bus).await?;
    if json {
        return output::json(&info);
    }
    let config = &info["config"];
    output::facts(
        &format!("consumer {name} of {stream}"),
        &[
            ("description", api::string(config, "/description")),
            ("filter", filters(&info)),
            ("begins", api::string(config, "/deliver_policy")),
            ("pushes to", api::string(config, "/deliver_subject")),
            ("ack", api::string(config, "/ack_policy")),
            (
                "ack wait",
                api::limit(config, "/ack_wait", api::nanos_shown),
            ),
            (
                "max deliver",
                api::limit(config, "/max_deliver", text::count_shown),
            ),
            (
                "max unacked",
                api::limit(config, "/max_ack_pending", text::count_shown),
            ),
            (
                "delivered",
                api::number(&info, "/delivered/stream_seq").to_string(),
            ),
            (
                "ack floor",
                api::number(&info, "/ack_floor/stream_seq").to_string(),
            ),
            (
                "waiting",
                text::count_shown(api::number(&info, "/num_pending")),
            ),
            (
                "unacked",
                text::count_shown(api::number(&info, "/num_ack_pending")),
            ),
            (
                "redelivered",
                text::count_shown(api::number(&info, "/num_redelivered")),
            ),
            ("pulls", api::number(&info, "/num_waiting").to_string()),
            ("state", state(&info).to_owned()),
            (
                "paused for",
                api::limit(&info, "/pause_remaining", api::nanos_shown),
            ),
            ("cluster", api::cluster_shown(&info)),
            ("created", api::moment(&info, "/created")),
        ],
    )
}

async fn found(stream: &str, name: &str, bus: &Bus) -> Result<Value> {
    api::name("stream", stream)?;
    api::name("consumer", name)?;
    let what = format!("can't look up consumer {name} of {stream}");
    let subject = format!("CONSUMER.INFO.{stream}.{name}");
    api::ask(bus, &subject, &json!({}), &what).await
}

/// Deletes a consumer.
///
/// # Errors
/// Where nobody confirmed it, or there is none of the name.
pub(super) async fn remove(stream: &str, name: &str, bus: &Bus, force: bool) -> Result {
    api::name("stream", stream)?;
    api::name("consumer", name)?;
    output::confirm(&format!("Delete consumer {name} of {stream}?"), force)?;
    let what = format!("can't delete consumer {name} of {stream}");
    let subject = format!("CONSUMER.DELETE.{stream}.{name}");
    api::ask(bus, &subject, &json!({}), &what).await?;
    output::say(&format!("deleted consumer {name} of {stream}"))
}

/// Pauses a consumer, or lets it go on (`until` is `None`).
///
/// # Errors
/// Where there is none of the name, or `until` is no time.
pub(super) async fn pause(
    stream: &str,
    name: &str,
    until: Option<&str>,
    bus: &Bus,
    json: bool,
) -> Result {
    found(stream, name, bus).await?;
    let body = match until.map(|text| (text::duration(text), text::moment(text), text)) {
        None => json!({}),
        Some((Ok(time), _, _)) => {
            json!({"pause_until": text::rfc3339(OffsetDateTime::now_utc() + time)})
        }
        Some((_, Ok(at), _)) => json!({"pause_until": text::rfc3339(at)}),
        Some((_, _, text)) => {
            return wrong(format!(
                "{text:?} is no time: wanted 1h, or 2026-01-31T12:00:00Z"
            ));
        }
    };
    let what = format!("can't pause consumer {name} of {stream}");
    let subject = format!("CONSUMER.PAUSE.{stream}.{name}");
    let answer = api::ask(bus, &subject, &body, &what).await?;
    if json {
        return output::json(&answer);
    }
    if answer["paused"] == true {
        let until = api::moment(&answer, "/pause_until");
        return output::say(&format!("{name} delivers nothing until {until}"));
    }
    output::say(&format!("{name} delivers"))
}
