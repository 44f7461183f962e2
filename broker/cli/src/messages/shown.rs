//! How a message is printed: for people, raw, or as JSON.

use async_nats::HeaderMap;
use clap::Args;
use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::error::Result;
use crate::output;
use crate::text;

/// The flags about how messages are printed.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Shape {
    /// Print the payload alone, as it is, and a line end
    #[arg(long, short)]
    pub(crate) raw: bool,
    /// Print headers too
    #[arg(long)]
    pub(crate) headers: bool,
    /// Print headers and no payload
    #[arg(long, conflicts_with = "raw")]
    pub(crate) headers_only: bool,
}

/// Names and values of headers, in order of their names.
pub(crate) fn header_pairs(headers: Option<&HeaderMap>) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = headers
        .into_iter()
        .flat_map(HeaderMap::iter)
        .flat_map(|(name, values)| {
            values
                .iter()
                .map(|value| (name.to_string(), value.as_str().to_owned()))
        })
        .collect();
    pairs.sort();
    pairs
}

/// Headers in JSON: a list for each name.
pub(crate) fn headers_json(headers: Option<&HeaderMap>) -> Value {
    let mut all = serde_json::Map::new();
    for (name, value) in header_pairs(headers) {
        let list = all.entry(name).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(value.into());
        }
    }
    Value::Object(all)
}

/// A payload in JSON: `payload` where it is text, else `payload_base64`.
pub(crate) fn payload_json(record: &mut Value, payload: &[u8]) {
    match std::str::from_utf8(payload) {
        Ok(text) => record["payload"] = text.into(),
        Err(_) => record["payload_base64"] = BASE64.encode(payload).into(),
    }
}

/// Prints a message under a title; `extra` goes into the JSON record.
///
/// # Errors
/// Where the output can't be written.
pub(crate) fn show(
    message: &async_nats::Message,
    title: &str,
    extra: Value,
    shape: Shape,
    json: bool,
) -> Result {
    if json {
        let mut record = json!({"subject": message.subject.as_str()});
        if let Some(reply) = &message.reply {
            record["reply"] = reply.as_str().into();
        }
        record["headers"] = headers_json(message.headers.as_ref());
        if let (Some(record), Value::Object(extra)) = (record.as_object_mut(), extra) {
            record.extend(extra);
        }
        if !shape.headers_only {
            payload_json(&mut record, &message.payload);
        }
        return output::json_line(&record);
    }
    if shape.raw {
        let mut line = message.payload.to_vec();
        line.push(b'\n');
        return output::bytes(&line);
    }
    let mut printed = title.to_owned();
    if shape.headers || shape.headers_only {
        for (name, value) in header_pairs(message.headers.as_ref()) {
            printed.push_str(&format!("\n{name}: {}", text::harmless(&value)));
        }
        printed.push('\n');
    }
    if !shape.headers_only {
        printed.push_str(&format!("\n{}\n", text::payload_shown(&message.payload)));
    }
    output::say(&printed)
}
