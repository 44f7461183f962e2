//! Keys: reading, setting, deleting and listing them.

use async_nats::jetstream::kv::{CreateErrorKind, Entry, Operation, Store, UpdateErrorKind};
use clap::Args;
use futures::TryStreamExt;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

use super::open;
use crate::connect::connect;
use crate::error::{Attempt, CliError, Result, failed, wrong};
use crate::messages::{Body, BodyArgs, payload_json};
use crate::output;
use crate::settings::Settings;
use crate::text;

/// Flags of `kv put` and `kv create`.
#[derive(Args, Debug)]
pub(crate) struct ValueArgs {
    /// The bucket
    bucket: String,
    /// The key
    key: String,
    /// The value [default: what comes on stdin]
    value: Option<String>,
    /// Read the value from a file
    #[arg(long, short, value_name = "FILE", conflicts_with = "value")]
    file: Option<PathBuf>,
    /// The key ends after so long; the bucket needs --marker-ttl, and the key must be new
    #[arg(long, value_name = "TIME", value_parser = text::duration)]
    ttl: Option<Duration>,
}

/// Sets a key.
///
/// # Errors
/// Where it is there and `create` was asked for; where the server refuses it.
pub(super) async fn set(args: &ValueArgs, create: bool, settings: &Settings, json: bool) -> Result {
    let key = checked(&args.key)?;
    let body = Body::read(&BodyArgs {
        payload: args.value.clone(),
        file: args.file.clone(),
        ..BodyArgs::default()
    })?;
    let value = body.of(1, String::new);
    let bus = connect(settings).await?;
    let store = open(&bus, &args.bucket).await?;
    let what = || format!("can't set {key:?}");
    let revision = match (create, args.ttl) {
        (false, None) => store.put(key, value).await.or_failed(what)?,
        (false, Some(_)) => {
            return wrong("--ttl goes with kv create: only a new key gets a time to live");
        }
        (true, ttl) => {
            let made = match ttl {
                Some(ttl) => store.create_with_ttl(key, value, ttl).await,
                None => store.create(key, value).await,
            };
            match made {
                Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {
                    return failed(format!(
                        "key {key:?} is there already; kv put sets it all the same"
                    ));
                }
                made => made.or_failed(what)?,
            }
        }
    };
    set_to(&args.bucket, key, revision, json)
}

fn set_to(bucket: &str, key: &str, revision: u64, json: bool) -> Result {
    if json {
        return output::json_line(&json!({"bucket": bucket, "key": key, "revision": revision}));
    }
    output::say(&format!("{key} is at revision {revision}"))
}

/// Sets a key if its revision still is `revision`.
///
/// # Errors
/// Where it is another.
pub(super) async fn update(
    store: &Store,
    key: &str,
    value: &str,
    revision: u64,
    json: bool,
) -> Result {
    let key = checked(key)?;
    match store.update(key, value.to_owned().into(), revision).await {
        Ok(revision) => set_to(&store.name, key, revision, json),
        Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => failed(format!(
            "key {key:?} is not at revision {revision} any more; nothing was changed"
        )),
        Err(error) => Err(error).or_failed(|| format!("can't set {key:?}")),
    }
}

/// Prints a value.
///
/// # Errors
/// Where the key, or the revision of it, is not there.
pub(super) async fn get(
    store: &Store,
    key: &str,
    revision: Option<u64>,
    raw: bool,
    json: bool,
) -> Result {
    let key = checked(key)?;
    let found = match revision {
        Some(revision) => store.entry_for_revision(key, revision).await,
        None => store.entry(key).await,
    };
    let entry = found.or_failed(|| format!("can't get {key:?}"))?;
    // A revision that was asked for is shown even where it says that the key was deleted.
    let entry = entry.filter(|entry| revision.is_some() || entry.operation == Operation::Put);
    let Some(entry) = entry else {
        return failed(match revision {
            Some(revision) => format!("key {key:?} has no revision {revision}"),
            None => format!("there is no key {key:?} in bucket {:?}", store.name),
        });
    };
    if json {
        return output::json(&entry_json(&entry));
    }
    if raw {
        return output::bytes(&entry.value);
    }
    if entry.operation != Operation::Put {
        return output::say(&format!("({} at this revision)", operation(&entry)));
    }
    output::say(&text::payload_shown(&entry.value))
}

/// Deletes a key.
///
/// # Errors
/// Where it has another revision than the given one.
pub(super) async fn delete(store: &Store, key: &str, revision: Option<u64>) -> Result {
    let key = checked(key)?;
    store
        .delete_expect_revision(key, revision)
        .await
        .or_failed(|| format!("can't delete {key:?}"))?;
    output::say(&format!("deleted {key}"))
}

/// Deletes a key and its history.
///
/// # Errors
/// Where the server refuses it.
pub(super) async fn purge(store: &Store, key: &str) -> Result {
    let key = checked(key)?;
    let purged = store.purge(key).await;
    purged.or_failed(|| format!("can't purge {key:?}"))?;
    output::say(&format!("purged {key}"))
}

/// Lists the keys of a bucket in order.
///
/// # Errors
/// Where they can't be read.
pub(super) async fn list(store: &Store, verbose: bool, json: bool) -> Result {
    let what = || format!("can't list the keys of {:?}", store.name);
    let keys = store.keys().await.or_failed(what)?;
    let mut keys: Vec<String> = keys.try_collect().await.or_failed(what)?;
    keys.sort();
    if !verbose {
        return match (json, keys.is_empty()) {
            (true, _) => output::json(&keys),
            (false, true) => {
                output::tell("the bucket has no keys");
                Ok(())
            }
            (false, false) => output::say(&keys.join("\n")),
        };
    }
    let mut entries = Vec::with_capacity(keys.len());
    for key in keys {
        // A key that was deleted since is left out.
        let entry = store.entry(&key).await.or_failed(what)?;
        entries.extend(entry.filter(|entry| entry.operation == Operation::Put));
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

/// An entry as a row: key, revision, time, value on one line.
pub(super) fn row(entry: &Entry) -> Vec<String> {
    let value = match entry.operation {
        Operation::Put => text::payload_shown(&entry.value).replace('\n', "⏎"),
        _ => format!("({})", operation(entry)),
    };
    vec![
        entry.key.clone(),
        entry.revision.to_string(),
        text::moment_shown(entry.created),
        value,
    ]
}

/// What happened to a key.
pub(super) fn operation(entry: &Entry) -> &'static str {
    match entry.operation {
        Operation::Put => "put",
        Operation::Delete => "deleted",
        Operation::Purge => "purged",
    }
}

/// An entry as JSON.
pub(super) fn entry_json(entry: &Entry) -> Value {
    let mut record = json!({"bucket": entry.bucket, "key": entry.key, "revision": entry.revision,
        "operation": operation(entry), "created": text::rfc3339(entry.created)});
    if entry.operation == Operation::Put {
        payload_json(&mut record, &entry.value);
    }
    record
}

/// A key, if it can be one (ADR-8).
fn checked(key: &str) -> Result<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/' | '=' | '.');
    if key.is_empty() || key.starts_with('.') || key.ends_with('.') || !key.chars().all(plain) {
        return Err(CliError::Wrong(format!(
            "{key:?} can't be a key: letters, digits, '-', '_', '/', '=', and '.' between them"
        )));
    }
    Ok(key)
}
