//! A stream's configuration, from flags and files to what the server takes. Pure but for the file.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::api;
use crate::error::{Result, wrong};
use crate::text;

/// The flags of `stream add` and `stream edit`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct StreamFlags {
    /// Subjects to keep; may be given more than once, or separated by commas [default: the name]
    #[arg(long, value_name = "SUBJECT", value_delimiter = ',')]
    subjects: Vec<String>,
    /// Begin with a configuration in JSON, as stream info --json prints it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// When messages go: by limits, when every consumer has acknowledged them, or when one has
    #[arg(long, value_name = "POLICY", value_parser = ["limits", "interest", "workqueue"])]
    retention: Option<String>,
    /// Where it is kept
    #[arg(long, value_name = "STORAGE", value_parser = ["file", "memory"])]
    storage: Option<String>,
    /// How many nodes keep it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=5))]
    replicas: Option<u8>,
    /// Most messages; 0 = no limit
    #[arg(long, value_name = "N")]
    max_msgs: Option<u64>,
    /// Most messages of one subject; 0 = no limit
    #[arg(long, value_name = "N")]
    max_msgs_per_subject: Option<u64>,
    /// Most bytes; 0 = no limit
    #[arg(long, value_name = "SIZE", value_parser = text::size)]
    max_bytes: Option<u64>,
    /// How long messages are kept; 0 = for ever
    #[arg(long, value_name = "TIME", value_parser = text::duration)]
    max_age: Option<Duration>,
    /// Most bytes of one message; 0 = no limit but the server's
    #[arg(long, value_name = "SIZE", value_parser = text::size)]
    max_msg_size: Option<u64>,
    /// Most consumers; 0 = no limit
    #[arg(long, value_name = "N")]
    max_consumers: Option<u64>,
    /// What gives way when it is full: old messages, or new ones
    #[arg(long, value_name = "WHICH", value_parser = ["old", "new"])]
    discard: Option<String>,
    /// How long a message id is remembered, so that it is stored once
    #[arg(long, value_name = "TIME", value_parser = text::duration)]
    dupe_window: Option<Duration>,
    /// Compress messages on disk
    #[arg(long, value_name = "HOW", value_parser = ["none", "s2"])]
    compression: Option<String>,
    /// Copy another stream instead of keeping subjects
    #[arg(long, value_name = "STREAM", conflicts_with_all = ["subjects", "source"])]
    mirror: Option<String>,
    /// Copy other streams into this one too; may be given more than once
    #[arg(long, value_name = "STREAM")]
    source: Vec<String>,
    /// Let clients read without asking the leader (true or false)
    #[arg(long, value_name = "BOOL")]
    allow_direct: Option<bool>,
    /// Let a message replace those before it (true or false)
    #[arg(long, value_name = "BOOL")]
    allow_rollup: Option<bool>,
    /// Let messages have times to live of their own (true or false)
    #[arg(long, value_name = "BOOL")]
    allow_msg_ttl: Option<bool>,
    /// Refuse to delete single messages; can't be taken back
    #[arg(long)]
    deny_delete: bool,
    /// Refuse to purge; can't be taken back
    #[arg(long)]
    deny_purge: bool,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

impl StreamFlags {
    /// The configuration of a new stream.
    ///
    /// # Errors
    /// Where the file can't be used.
    pub(super) fn fresh(&self, name: &str) -> Result<Value> {
        let defaults = [
            ("retention", json!("limits")),
            ("storage", json!("file")),
            ("num_replicas", json!(1)),
            ("discard", json!("old")),
            ("max_msgs", json!(-1)),
            ("max_bytes", json!(-1)),
            ("max_consumers", json!(-1)),
            ("allow_direct", json!(true)),
        ];
        let mut config = match &self.config {
            Some(path) => api::config_file(path)?,
            None => Map::new(),
        };
        for (key, value) in defaults {
            config.entry(key).or_insert(value);
        }
        config.insert("name".into(), name.into());
        self.apply(&mut config);
        let feeds = ["subjects", "mirror", "sources"];
        if !feeds.iter().any(|key| config.contains_key(*key)) {
            config.insert("subjects".into(), json!([name]));
        }
        Ok(Value::Object(config))
    }

    /// The configuration of a stream that is there, changed.
    ///
    /// # Errors
    /// Where the file can't be used, or nothing would change.
    pub(super) fn changed(&self, held: &Value) -> Result<Value> {
        let mut config = held.as_object().cloned().unwrap_or_default();
        if let Some(path) = &self.config {
            let mut given = api::config_file(path)?;
            given.remove("name");
            config.extend(given);
        }
        self.apply(&mut config);
        let config = Value::Object(config);
        if config == *held {
            return wrong(
                "nothing would change: give a flag that differs from what the stream has",
            );
        }
        Ok(config)
    }

    fn apply(&self, config: &mut Map<String, Value>) {
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                config.insert(key.to_owned(), value);
            }
        };
        let text = |value: &Option<String>| value.clone().map(Value::from);
        // The API says -1 where there is no limit.
        let limit = |value: Option<u64>| value.map(|n| if n == 0 { json!(-1) } else { json!(n) });
        let nanos = |time: Duration| json!(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        let feed = |name: &String| json!({"name": name});
        let subjects = (!self.subjects.is_empty()).then(|| json!(self.subjects));
        set("subjects", subjects);
        set("retention", text(&self.retention));
        set("storage", text(&self.storage));
        set("num_replicas", self.replicas.map(Value::from));
        set("max_msgs", limit(self.max_msgs));
        set("max_msgs_per_subject", limit(self.max_msgs_per_subject));
        set("max_bytes", limit(self.max_bytes));
        set("max_age", self.max_age.map(nanos));
        set("max_msg_size", limit(self.max_msg_size));
        set("max_consumers", limit(self.max_consumers));
        set("discard", text(&self.discard));
        set("duplicate_window", self.dupe_window.map(nanos));
        set("compression", text(&self.compression));
        set("mirror", self.mirror.as_ref().map(feed));
        let sources: Vec<Value> = self.source.iter().map(feed).collect();
        set("sources", (!sources.is_empty()).then(|| json!(sources)));
        set("allow_direct", self.allow_direct.map(Value::from));
        set("allow_rollup_hdrs", self.allow_rollup.map(Value::from));
        set("allow_msg_ttl", self.allow_msg_ttl.map(Value::from));
        set("deny_delete", self.deny_delete.then_some(Value::Bool(true)));
        set("deny_purge", self.deny_purge.then_some(Value::Bool(true)));
        set("description", text(&self.description));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::StreamFlags;

    #[test]
    fn a_stream_without_flags_keeps_its_name() {
        let config = StreamFlags::default().fresh("S").unwrap();
        assert_eq!(config["subjects"], json!(["S"]));
        assert_eq!(
            (&config["name"], &config["max_msgs"]),
            (&json!("S"), &json!(-1))
        );
    }

    #[test]
    fn a_mirror_has_no_subjects() {
        let flags = StreamFlags {
            mirror: Some("A".into()),
            ..StreamFlags::default()
        };
        let config = flags.fresh("B").unwrap();
        assert_eq!(config["mirror"], json!({"name": "A"}));
        assert!(config.get("subjects").is_none());
    }

    #[test]
    fn an_edit_keeps_what_it_does_not_name() {
        let held = json!({"name": "S", "subjects": ["a"], "max_msgs": 5, "later_field": true});
        let flags = StreamFlags {
            max_msgs: Some(0),
            ..StreamFlags::default()
        };
        let config = flags.changed(&held).unwrap();
        assert_eq!(config["max_msgs"], json!(-1));
        assert_eq!(config["later_field"], json!(true));
        assert_eq!(
            StreamFlags::default().changed(&held).unwrap_err().status(),
            2
        );
    }
}
