//! Keys as they change, and as they were.

use async_nats::jetstream::kv::{Entry, Store};
use clap::Args;
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

use super::keys::{entry_json, operation, row};
use crate::error::{Attempt, Result, failed};
use crate::output;
use crate::text;

/// Flags of `kv watch`.
#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// The bucket
    bucket: String,
    /// Keys; * and > stand for tokens of keys
    #[arg(default_value = ">")]
    key: String,
    /// Begin with everything that is kept of the keys, not with their present values
    #[arg(long, conflicts_with = "updates_only")]
    history: bool,
    /// Begin with the next change
    #[arg(long)]
    updates_only: bool,
    /// End after so many changes
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

impl WatchArgs {
    /// The bucket that is watched.
    pub(super) fn bucket(&self) -> &str {
        &self.bucket
    }
}

/// Prints changes until it is enough.
///
/// # Errors
/// Where the bucket can't be watched any longer.
pub(super) async fn watch(args: &WatchArgs, store: &Store, json: bool) -> Result {
    let what = || format!("can't watch {:?} in {:?}", args.key, args.bucket);
    let watching = if args.updates_only {
        store.watch(&args.key).await
    } else if args.history {
        store.watch_from_revision(&args.key, 1).await
    } else {
        // The library calls the present values "history".
        store.watch_with_history(&args.key).await
    };
    let changes = watching.or_failed(what)?;
    output::tell(&format!("watching {} in {}", args.key, args.bucket));
    follow(args, changes, json).await
}

async fn follow(
    args: &WatchArgs,
    mut changes: async_nats::jetstream::kv::Watch,
    json: bool,
) -> Result {
    let mut seen = 0;
    while args.count.is_none_or(|count| seen < count) {
        let change = tokio::select! {
            change = changes.next() => change,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let Some(change) = change else {
            return failed("the watch ended");
        };
        let entry = change.or_failed(|| "the watch ended".to_owned())?;
        seen += 1;
        if json {
            output::json_line(&entry_json(&entry))?;
        } else {
            output::say(&line(&entry))?;
        }
    }
    Ok(())
}

fn line(entry: &Entry) -> String {
    format!(
        "{}  {}  {} @{}  {}",
        text::moment_shown(entry.created),
        operation(entry),
        entry.key,
        entry.revision,
        text::payload_shown(&entry.value)
    )
}

/// Prints what is kept of a key, the oldest first.
///
/// # Errors
/// Where nothing is.
pub(super) async fn history(store: &Store, key: &str, json: bool) -> Result {
    let what = || format!("can't read the history of {key:?}");
    let entries = store.history(key).await.or_failed(what)?;
    let entries: Vec<Entry> = entries.try_collect().await.or_failed(what)?;
    if entries.is_empty() {
        return failed(format!(
            "there is no key {key:?} in bucket {:?}",
            store.name
        ));
    }
    if json {
        let all: Vec<Value> = entries.iter().map(entry_json).collect();
        return output::json(&all);
    }
    output::table(
        &["key", "revision", "set", "value"],
        entries.iter().map(row),
    )
}
