//! Buckets of objects: making, listing, sealing, deleting.

use std::time::Duration;

use async_nats::jetstream::object_store::{Config, ObjectStore};
use async_nats::jetstream::stream::StorageType;
use clap::Args;
use serde_json::{Value, json};

use crate::api;
use crate::connect::Bus;
use crate::error::{Attempt, Result};
use crate::output;
use crate::text;

/// What the names of streams that are object buckets begin with (ADR-20).
const PREFIX: &str = "OBJ_";

/// Flags of `object add`.
#[derive(Args, Debug)]
pub(crate) struct AddArgs {
    /// The bucket's name
    bucket: String,
    /// How long objects are kept [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = text::duration)]
    ttl: Option<Duration>,
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
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

/// Makes a bucket.
///
/// # Errors
/// Where the server refuses it.
pub(super) async fn add(args: &AddArgs, bus: &Bus, json: bool) -> Result {
    api::name("bucket", &args.bucket)?;
    let max_bytes = args.max_bytes.map(i64::try_from);
    let config = Config {
        bucket: args.bucket.clone(),
        description: args.description.clone(),
        max_age: args.ttl.unwrap_or_default(),
        max_bytes: max_bytes
            .transpose()
            .or_wrong(|| "--max-bytes".to_owned())?
            .unwrap_or(-1),
        storage: if args.memory {
            StorageType::Memory
        } else {
            StorageType::File
        },
        num_replicas: args.replicas.into(),
        compression: args.compress,
        placement: None,
    };
    Box::pin(bus.jetstream().create_object_store(config))
        .await
        .or_failed(|| format!("can't make bucket {:?}", args.bucket))?;
    if json {
        return info(&args.bucket, bus, json).await;
    }
    output::say(&format!("made bucket {}", args.bucket))
}

/// Lists the buckets.
///
/// # Errors
/// Where the server does not tell them.
pub(super) async fn list(bus: &Bus, json: bool) -> Result {
    let filter = json!({"subject": "$O.>"});
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
            "size",
            "sealed",
            "replicas",
            "last change",
            "description",
        ],
        buckets.iter().map(|info| {
            vec![
                bucket_of(info),
                text::size_shown(api::number(info, "/state/bytes")),
                if sealed(info) { "yes" } else { "" }.to_owned(),
                api::number(info, "/config/num_replicas").to_string(),
                api::moment(info, "/state/last_ts"),
                api::string(info, "/config/description"),
            ]
        }),
    )
}

fn sealed(info: &Value) -> bool {
    info["config"]["sealed"] == true
}

fn bucket_of(info: &Value) -> String {
    let stream = api::string(info, "/config/name");
    stream.strip_prefix(PREFIX).unwrap_or(&stream).to_owned()
}

fn summary(info: &Value) -> Value {
    json!({"bucket": bucket_of(info), "bytes": info["state"]["bytes"], "sealed": sealed(info),
        "ttl_ns": info["config"]["max_age"], "replicas": info["config"]["num_replicas"],
        "storage": info["config"]["storage"], "description": api::string(info, "/config/description")})
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
            ("size", text::size_shown(api::number(&info, "/state/bytes"))),
            ("sealed", if sealed(&info) { "yes" } else { "" }.to_owned()),
            (
                "ttl",
                api::limit(&info, "/config/max_age", api::nanos_shown),
            ),
            (
                "max bytes",
                api::limit(&info, "/config/max_bytes", text::size_shown),
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

/// Makes a bucket read-only for good.
///
/// # Errors
/// Where nobody confirmed it, or the server refuses it.
pub(super) async fn seal(mut store: ObjectStore, bucket: &str, force: bool) -> Result {
    output::confirm(&format!("Make bucket {bucket} read-only for good?"), force)?;
    let sealed = store.seal().await;
    sealed.or_failed(|| format!("can't seal bucket {bucket}"))?;
    output::say(&format!("sealed bucket {bucket}"))
}

/// Deletes a bucket.
///
/// # Errors
/// Where nobody confirmed it, or there is none of the name.
pub(super) async fn remove(bucket: &str, bus: &Bus, force: bool) -> Result {
    api::name("bucket", bucket)?;
    output::confirm(
        &format!("Delete bucket {bucket} with everything in it?"),
        force,
    )?;
    let subject = format!("STREAM.DELETE.{PREFIX}{bucket}");
    let what = format!("can't delete bucket {bucket}");
    api::ask(bus, &subject, &json!({}), &what).await?;
    output::say(&format!("deleted bucket {bucket}"))
}
