//! A consumer's configuration, from flags and files to what the server takes. Pure but for the file.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::api;
use crate::error::{Result, wrong};
use crate::text;

/// The flags of `consumer add`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ConsumerFlags {
    /// Only these subjects; may be given more than once, or separated by commas
    #[arg(long, value_name = "SUBJECT", value_delimiter = ',')]
    filter: Vec<String>,
    /// Begin with a configuration in JSON, as consumer info --json prints it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to begin: all, last, new, last-per-subject, a sequence (42), a time
    /// (2026-01-31T12:00:00Z) or so long ago (1h) [default: all]
    #[arg(long, value_name = "WHERE")]
    deliver: Option<String>,
    /// What has to be acknowledged [default: explicit]
    #[arg(long, value_name = "POLICY", value_parser = ["explicit", "all", "none"])]
    ack: Option<String>,
    /// How long an acknowledgement is awaited before the message is delivered again [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = text::duration)]
    ack_wait: Option<Duration>,
    /// Pauses between deliveries, instead of --ack-wait; separated by commas
    #[arg(long, value_name = "TIME", value_delimiter = ',', value_parser = text::duration)]
    backoff: Vec<Duration>,
    /// How often a message is delivered at most; 0 = no limit
    #[arg(long, value_name = "N")]
    max_deliver: Option<u64>,
    /// How many messages may wait for their acknowledgements
    #[arg(long, value_name = "N")]
    max_pending: Option<u64>,
    /// Deliver as fast as possible, or as messages came [default: instant]
    #[arg(long, value_name = "HOW", value_parser = ["instant", "original"])]
    replay: Option<String>,
    /// Push to this subject instead of waiting to be asked
    #[arg(long, value_name = "SUBJECT")]
    deliver_to: Option<String>,
    /// Queue group of those who are pushed to
    #[arg(long, value_name = "GROUP", requires = "deliver_to")]
    deliver_group: Option<String>,
    /// Goes when nobody has used it for so long
    #[arg(long, value_name = "TIME", value_parser = text::duration)]
    inactive: Option<Duration>,
    /// Is not kept: goes when nobody uses it
    #[arg(long)]
    ephemeral: bool,
    /// Deliver headers without payloads
    #[arg(long)]
    headers_only: bool,
    /// How many nodes keep its state [default: as many as the stream]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=5))]
    replicas: Option<u8>,
    /// Keep its state in memory only
    #[arg(long)]
    memory: bool,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

impl ConsumerFlags {
    /// The configuration of a new consumer; `now` is for `--deliver 1h`.
    ///
    /// # Errors
    /// Where the file can't be used, or `--deliver` names no place.
    pub(super) fn fresh(&self, name: &str, now: time::OffsetDateTime) -> Result<Value> {
        let mut config = match &self.config {
            Some(path) => api::config_file(path)?,
            None => Map::new(),
        };
        config.insert("name".into(), name.into());
        config.remove("durable_name");
        if !self.ephemeral {
            config.insert("durable_name".into(), name.into());
        }
        for (key, value) in [
            ("deliver_policy", "all"),
            ("ack_policy", "explicit"),
            ("replay_policy", "instant"),
        ] {
            config.entry(key).or_insert_with(|| value.into());
        }
        if let Some(place) = &self.deliver {
            begin(&mut config, place, now)?;
        }
        self.apply(&mut config);
        Ok(Value::Object(config))
    }

    fn apply(&self, config: &mut Map<String, Value>) {
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                config.insert(key.to_owned(), value);
            }
        };
        let text = |value: &Option<String>| value.clone().map(Value::from);
        let nanos = |time: Duration| json!(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        match self.filter.as_slice() {
            [] => {}
            [one] => set("filter_subject", Some(json!(one))),
            many => set("filter_subjects", Some(json!(many))),
        }
        set("ack_policy", text(&self.ack));
        set("ack_wait", self.ack_wait.map(nanos));
        let backoff: Vec<Value> = self.backoff.iter().copied().map(nanos).collect();
        set("backoff", (!backoff.is_empty()).then(|| json!(backoff)));
        let deliveries = |n: u64| if n == 0 { json!(-1) } else { json!(n) };
        set("max_deliver", self.max_deliver.map(deliveries));
        set("max_ack_pending", self.max_pending.map(Value::from));
        set("replay_policy", text(&self.replay));
        set("deliver_subject", text(&self.deliver_to));
        set("deliver_group", text(&self.deliver_group));
        set("inactive_threshold", self.inactive.map(nanos));
        set(
            "headers_only",
            self.headers_only.then_some(Value::Bool(true)),
        );
        set("num_replicas", self.replicas.map(Value::from));
        set("mem_storage", self.memory.then_some(Value::Bool(true)));
        set("description", text(&self.description));
    }
}

/// Sets where delivery begins.
fn begin(config: &mut Map<String, Value>, place: &str, now: time::OffsetDateTime) -> Result {
    config.remove("opt_start_seq");
    config.remove("opt_start_time");
    let named = ["all", "last", "new"];
    let policy = if named.contains(&place) {
        place
    } else if matches!(place, "last-per-subject" | "last_per_subject") {
        "last_per_subject"
    } else if let Ok(seq) = place.parse::<u64>() {
        config.insert("opt_start_seq".into(), seq.into());
        "by_start_sequence"
    } else {
        let at = match (text::moment(place), text::duration(place)) {
            (Ok(at), _) => at,
            (Err(_), Ok(ago)) => now - ago,
            (Err(_), Err(_)) => {
                return wrong(format!(
                    "--deliver {place:?}: wanted all, last, new, last-per-subject, a sequence, a time or a duration"
                ));
            }
        };
        config.insert("opt_start_time".into(), text::rfc3339(at).into());
        "by_start_time"
    };
    config.insert("deliver_policy".into(), policy.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::OffsetDateTime;

    use super::ConsumerFlags;

    fn deliver(place: &str) -> crate::error::Result<serde_json::Value> {
        let flags = ConsumerFlags {
            deliver: Some(place.into()),
            ..ConsumerFlags::default()
        };
        flags.fresh("c", OffsetDateTime::UNIX_EPOCH + time::Duration::hours(2))
    }

    #[test]
    fn delivery_begins_where_it_is_said() {
        assert_eq!(deliver("new").unwrap()["deliver_policy"], json!("new"));
        let at = deliver("42").unwrap();
        assert_eq!(
            (&at["deliver_policy"], &at["opt_start_seq"]),
            (&json!("by_start_sequence"), &json!(42))
        );
        assert_eq!(
            deliver("1h").unwrap()["opt_start_time"],
            json!("1970-01-01T01:00:00Z")
        );
        assert_eq!(
            deliver("2026-01-31T12:00:00Z").unwrap()["deliver_policy"],
            json!("by_start_time")
        );
        assert_eq!(deliver("soon").unwrap_err().status(), 2);
    }

    #[test]
    fn an_ephemeral_consumer_is_not_durable() {
        let flags = ConsumerFlags {
            ephemeral: true,
            filter: vec!["a".into(), "b".into()],
            ..ConsumerFlags::default()
        };
        let config = flags.fresh("c", OffsetDateTime::UNIX_EPOCH).unwrap();
        assert!(config.get("durable_name").is_none());
        assert_eq!(config["filter_subjects"], json!(["a", "b"]));
    }
}
