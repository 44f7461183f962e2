//! The streams' JSON API as the server speaks it: what it tells is handed on whole, whatever the
//! library knows of it (ADR-31 and the JetStream API reference).

use async_nats::jetstream::response::Response;
use serde_json::{Map, Value, json};

use crate::connect::Bus;
use crate::error::{Attempt, CliError, Result, wrong};
use crate::text;

/// Pages of a list that are asked for at most; a page has 256 entries.
const PAGES_MAX: usize = 4096;

/// One question below `$JS.API.`.
///
/// # Errors
/// `what: the server's words`.
pub(crate) async fn ask(bus: &Bus, subject: &str, body: &Value, what: &str) -> Result<Value> {
    let asked = bus.jetstream().request(subject.to_owned(), body).await;
    match asked.or_failed(|| what.to_owned())? {
        Response::Ok(answer) => Ok(answer),
        Response::Err { error } => Err(CliError::Failed(format!("{what}: {error}"))),
    }
}

/// Every entry of a list that comes in pages; `key` names it in the answer.
///
/// # Errors
/// As [`ask`].
pub(crate) async fn list(
    bus: &Bus,
    subject: &str,
    filter: &Value,
    key: &str,
    what: &str,
) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for _ in 0..PAGES_MAX {
        let mut body = filter.clone();
        body["offset"] = all.len().into();
        let mut answer = ask(bus, subject, &body, what).await?;
        let total = answer["total"].as_u64().unwrap_or(0);
        let page = match answer[key].take() {
            Value::Array(page) => page,
            _ => Vec::new(),
        };
        let last = page.is_empty();
        all.extend(page);
        if last || all.len() as u64 >= total {
            break;
        }
    }
    Ok(all)
}

/// What a stream is and holds.
///
/// # Errors
/// As [`ask`].
pub(crate) async fn stream_info(bus: &Bus, stream: &str) -> Result<Value> {
    name("stream", stream)?;
    let what = format!("can't look up stream {stream}");
    ask(bus, &format!("STREAM.INFO.{stream}"), &json!({}), &what).await
}

/// Refuses what can't be a name of a stream, consumer or bucket.
///
/// # Errors
/// [`CliError::Wrong`].
pub(crate) fn name(kind: &str, name: &str) -> Result {
    let bad =
        |c: char| c.is_whitespace() || matches!(c, '.' | '*' | '>' | '/' | '\\') || c.is_control();
    if name.is_empty() || name.contains(bad) {
        return wrong(format!(
            "{name:?} can't be the name of a {kind}: no spaces, dots, slashes, * or >"
        ));
    }
    Ok(())
}

/// A document from a file, for `--config`.
///
/// # Errors
/// [`CliError::Wrong`] where it is no JSON object.
pub(crate) fn config_file(path: &std::path::Path) -> Result<Map<String, Value>> {
    let what = || format!("--config {}", path.display());
    let text = std::fs::read_to_string(path).or_wrong(what)?;
    let mut document: Value = serde_json::from_str(&text).or_wrong(what)?;
    // What `info --json` prints has the configuration inside.
    if document["config"].is_object() {
        document = document["config"].take();
    }
    match document {
        Value::Object(map) => Ok(map),
        _ => wrong(format!("{}: it is no JSON object", what())),
    }
}

/// A number in a document; 0 where it is absent.
pub(crate) fn number(document: &Value, pointer: &str) -> u64 {
    document
        .pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or(0)
}

/// A text in a document; empty where it is absent.
pub(crate) fn string(document: &Value, pointer: &str) -> String {
    let text = document.pointer(pointer).and_then(Value::as_str);
    text::harmless(text.unwrap_or_default())
}

/// A limit for people: empty where there is none.
pub(crate) fn limit(document: &Value, pointer: &str, shown: impl Fn(u64) -> String) -> String {
    let limit = document.pointer(pointer).and_then(Value::as_i64);
    match limit.and_then(|limit| u64::try_from(limit).ok()) {
        Some(limit) if limit > 0 => shown(limit),
        _ => String::new(),
    }
}

/// A time in a document, to the second.
pub(crate) fn moment(document: &Value, pointer: &str) -> String {
    let text = document.pointer(pointer).and_then(Value::as_str);
    let at = text.and_then(|text| text::moment(text).ok());
    // The zero time of the API's home says "never".
    at.filter(|at| at.year() > 1)
        .map_or_else(String::new, text::moment_shown)
}

/// Nanoseconds for people.
pub(crate) fn nanos_shown(nanos: u64) -> String {
    text::duration_shown(std::time::Duration::from_nanos(nanos))
}

/// The leader of a replicated thing and how its other replicas do.
pub(crate) fn cluster_shown(document: &Value) -> String {
    let Some(cluster) = document.get("cluster").filter(|value| value.is_object()) else {
        return String::new();
    };
    let mut text = format!("leader {}", string(cluster, "/leader"));
    let replicas = cluster["replicas"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    for replica in replicas {
        let state = if replica["offline"] == true {
            "offline"
        } else if replica["current"] == true {
            "current"
        } else {
            "behind"
        };
        text.push_str(&format!(", {} {state}", string(replica, "/name")));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{cluster_shown, limit, moment, name};

    #[test]
    fn names_that_would_become_other_subjects_are_refused() {
        for bad in ["", "a.b", "a b", "*", ">", "a/b"] {
            assert_eq!(name("stream", bad).unwrap_err().status(), 2, "{bad}");
        }
        assert!(name("stream", "ORDERS_1-x").is_ok());
    }

    #[test]
    fn what_is_unlimited_or_never_was_is_left_out() {
        let document = json!({"a": -1, "b": 0, "c": 5, "t": "0001-01-01T00:00:00Z"});
        let shown = |pointer| limit(&document, pointer, |n| n.to_string());
        assert_eq!(
            (shown("/a"), shown("/b"), shown("/c")),
            (String::new(), String::new(), "5".into())
        );
        assert_eq!(moment(&document, "/t"), "");
    }

    #[test]
    fn replicas_are_told_apart() {
        let info = json!({"cluster": {"leader": "a", "replicas": [
            {"name": "b", "current": true}, {"name": "c", "current": false, "offline": true}]}});
        assert_eq!(cluster_shown(&info), "leader a, b current, c offline");
    }
}
