//! Buckets themselves: making, listing, looking at, deleting.

use std::time::Duration;

use async_nats::jetstream::{kv, stream::StorageType};
use clap::Args;
use serde_json::{Value, json};

use crate::api;
use crate::connect::Bus;
use crate::error::{Attempt, Result};
use crate::output;
use crate::text;

/// What the names of streams that are buckets begin with (ADR-8).
const PREFIX: &str = "KV_";

/// Flags of `kv add`.
#[derive(Args, Debug)]
pub(crate) struct AddArgs {
    /// The bucket's name
    bucket: String,
    /// How many values of a key are kept
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    history: u8,
    /// How long values are kept [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = text::duration)]
    ttl: Option<Duration>,
    /// Most bytes of a value
    #[arg(long, value_name = "SIZE", value_parser = text::size)]
    max_value_size: Option<u64>,
    /// Most bytes of the bucket
    #[arg(long, value_name = "SIZE", value_parser = text::size)]
    max_bytes: Option<u64>,
    /// How many nodes keep it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    replicas: u8,
    /// Keep it in memory only
    #[arg(long)]
    memory: bool,
    /// Compress it
    #[arg(long)]
    compress: bool,
    /// Keys may have times to live of their own; the mark of one that ended stays for so long
    #[arg(long, value_name = "TIME", value_parser = text::duration)]
    marker_ttl: Option<Duration>,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
}

/// Makes a bucket.
///
/// # Errors
/// Where there is one of the name with another configuration, or the server refuses it.
pub(super) async fn add(args: &AddArgs, bus: &Bus, json: bool) -> Result {
    api::name("bucket", &args.bucket)?;
    let config = kv::Config {
        bucket: args.bucket.clone(),
        description: args.description.clone(),
        history: args.history.into(),
        max_age: args.ttl.unwrap_or_default(),
        max_value_size: bounded(args.max_value_size, "--max-value-size")?.unwrap_or(-1),
        max_bytes: bounded(args.max_bytes, "--max-bytes")?.unwrap_or(-1),
        storage: if args.memory {
            StorageType::Memory
        } else {
            StorageType::File
        },
        num_replicas: args.replicas.into(),
        compression: args.compress,
        limit_markers: args.marker_ttl,
        ..kv::Config::default()
    };
    Box::pin(bus.jetstream().create_key_value(config))
        .await
        .or_failed(|| format!("can't make bucket {:?}", args.bucket))?;
    if json {
        return info(&args.bucket, bus, json).await;
    }
    output::say(&format!("made bucket {}", args.bucket))
}

fn bounded<T: TryFrom<u64>>(size: Option<u64>, flag: &str) -> Result<Option<T>> {
    match size.map(T::try_from) {
        None => Ok(None),
        Some(Ok(size)) => Ok(Some(size)),
        Some(Err(_)) => crate::error::wrong(format!("{flag} is too large")),
    }
}

/// Lists the buckets.
///
/// # Errors
/// Where the server does not tell them.
pub(super) async fn list(bus: &Bus, json: bool) -> Result {
    let filter = json!({"subject": "$KV.>"});
    let mut buckets =
        api::list(bus, "STREAM.LIST", &filter, "streams", "can't list buckets").await?;
    buckets.retain(|info| api::string(info, "/config/name").starts_with(PREFIX));
    if json {
        let all: Vec<Value> = buckets.iter().map(summary).collect();
        return output::json(&all);
    }
    if buckets.is_empty() {
        output::tell("there are no buckets");
        return Ok(());
    }
    output::table(
        &[
            "bucket",
            "values",
            "size",
            "history",
            "ttl",
            "replicas",
            "last change",
        ],
        buckets.iter().map(|info| {
            vec![
                bucket_of(info),
                text::count_shown(api::number(info, "/state/messages")),
                text::size_shown(api::number(info, "/state/bytes")),
                api::number(info, "/config/max_msgs_per_subject").to_string(),
                api::limit(info, "/config/max_age", api::nanos_shown),
                api::number(info, "/config/num_replicas").to_string(),
                api::moment(info, "/state/last_ts"),
            ]
        }),
    )
}

fn bucket_of(info: &Value) -> String {
    let stream = api::string(info, "/config/name");
    stream.strip_prefix(PREFIX).unwrap_or(&stream).to_owned()
}

fn summary(info: &Value) -> Value {
    json!({"bucket": bucket_of(info), "values": info["state"]["messages"],
        "bytes": info["state"]["bytes"], "history": info["config"]["max_msgs_per_subject"],
        "ttl_ns": info["config"]["max_age"], "replicas": info["config"]["num_replicas"],
        "storage": info["config"]["storage"], "description": api::string(info, "/config/description"),
        "last_revision": info["state"]["last_seq"]})
}

/// Prints what a bucket is.
///
/// # Errors
/// Where there is none of the name.
pub(super) async fn info(bucket: &str, bus: &Bus, json: bool) -> Result {
    api::name("bucket", bucket)?;
    let stream = api::stream_info(bus, &format!("{PREFIX}{bucket}")).await;
    let info = stream.or_failed(|| format!("can't look up bucket {bucket}"))?;
    if json {
        return output::json(&summary(&info));
    }
    output::facts(
        &format!("bucket {bucket}"),
        &[
            ("description", api::string(&info, "/config/description")),
            (
                "values",
                text::count_shown(api::number(&info, "/state/messages")),
            ),
            ("size", text::size_shown(api::number(&info, "/state/bytes"))),
            (
                "revision",
                api::number(&info, "/state/last_seq").to_string(),
            ),
            (
                "history",
                api::number(&info, "/config/max_msgs_per_subject").to_string(),
            ),
            (
                "ttl",
                api::limit(&info, "/config/max_age", api::nanos_shown),
            ),
            (
                "max bytes",
                api::limit(&info, "/config/max_bytes", text::size_shown),
            ),
            (
                "max value",
                api::limit(&info, "/config/max_msg_size", text::size_shown),
            ),
            ("storage", api::string(&info, "/config/storage")),
            (
                "replicas",
                api::number(&info, "/config/num_replicas").to_string(),
            ),
            ("cluster", api::cluster_shown(&info)),
            ("created", api::moment(&info, "/created")),
        ],
    )
}

/// Deletes a bucket.
///
/// # Errors
/// Where there is none of the name, or nobody confirmed it.
pub(super) async fn remove(bucket: &str, bus: &Bus, force: bool) -> Result {
    api::name("bucket", bucket)?;
    output::confirm(&format!("Delete bucket {bucket} with all its keys?"), force)?;
    let what = format!("can't delete bucket {bucket}");
    let subject = format!("STREAM.DELETE.{PREFIX}{bucket}");
    api::ask(bus, &subject, &json!({}), &what).await?;
    output::say(&format!("deleted bucket {bucket}"))
}
