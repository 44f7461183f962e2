//! `kv`: buckets of keys and values, kept in a stream `KV_<bucket>`.

mod buckets;
mod keys;
mod watch;

use async_nats::jetstream::kv::Store;
use clap::Subcommand;

use crate::api;
use crate::connect::{Bus, connect};
use crate::error::{CliError, Result};
use crate::settings::Settings;

pub(crate) use buckets::AddArgs;
pub(crate) use keys::ValueArgs;
pub(crate) use watch::WatchArgs;

const EXAMPLES: &str = "\
Examples:
  unibus kv add config --history 5
  unibus kv put config theme dark
  unibus kv get config theme --raw
  unibus kv update config theme light 1     only if the revision still is 1
  unibus kv watch config 'user.*'
  unibus kv put config logo < logo.png";

/// The commands about buckets and keys.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum KvCommand {
    /// Make a bucket
    Add(AddArgs),
    /// Print a key's value
    Get {
        /// The bucket
        bucket: String,
        /// The key
        key: String,
        /// An older revision
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
        /// Print the value alone, as it is, without a line end
        #[arg(long, short)]
        raw: bool,
    },
    /// Set a key, whatever it was
    Put(ValueArgs),
    /// Set a key that is not there
    Create(ValueArgs),
    /// Set a key if its revision still is the given one
    Update {
        /// The bucket
        bucket: String,
        /// The key
        key: String,
        /// The value
        value: String,
        /// The revision that the key must have
        revision: u64,
    },
    /// Delete a key; its history stays
    #[command(alias = "delete")]
    Del {
        /// The bucket
        bucket: String,
        /// The key
        key: String,
        /// Only if its revision still is this
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
    },
    /// Delete a key and its history
    Purge {
        /// The bucket
        bucket: String,
        /// The key
        key: String,
    },
    /// Print keys as they change
    Watch(WatchArgs),
    /// List the buckets, or the keys of one
    #[command(alias = "list")]
    Ls {
        /// The bucket whose keys to list
        bucket: Option<String>,
        /// Values and revisions too
        #[arg(long, short, requires = "bucket")]
        verbose: bool,
    },
    /// Print what a key was
    History {
        /// The bucket
        bucket: String,
        /// The key
        key: String,
    },
    /// Print what a bucket is and holds
    #[command(alias = "status")]
    Info {
        /// The bucket
        bucket: String,
    },
    /// Delete a bucket with all its keys
    Rm {
        /// The bucket
        bucket: String,
        /// Don't ask
        #[arg(long, short)]
        force: bool,
    },
}

/// Runs a command about buckets and keys.
///
/// # Errors
/// [`CliError`].
pub(crate) async fn run(command: &KvCommand, settings: &Settings, json: bool) -> Result {
    if let KvCommand::Put(args) | KvCommand::Create(args) = command {
        return keys::set(
            args,
            matches!(command, KvCommand::Create(_)),
            settings,
            json,
        )
        .await;
    }
    let bus = connect(settings).await?;
    match command {
        KvCommand::Add(args) => buckets::add(args, &bus, json).await,
        KvCommand::Get {
            bucket,
            key,
            revision,
            raw,
        } => keys::get(&open(&bus, bucket).await?, key, *revision, *raw, json).await,
        KvCommand::Put(_) | KvCommand::Create(_) => Ok(()),
        KvCommand::Update {
            bucket,
            key,
            value,
            revision,
        } => keys::update(&open(&bus, bucket).await?, key, value, *revision, json).await,
        KvCommand::Del {
            bucket,
            key,
            revision,
        } => keys::delete(&open(&bus, bucket).await?, key, *revision).await,
        KvCommand::Purge { bucket, key } => keys::purge(&open(&bus, bucket).await?, key).await,
        KvCommand::Watch(args) => {
            let store = open(&bus, args.bucket()).await?;
            watch::watch(args, &store, json).await
        }
        KvCommand::Ls { bucket: None, .. } => buckets::list(&bus, json).await,
        KvCommand::Ls {
            bucket: Some(bucket),
            verbose,
        } => keys::list(&open(&bus, bucket).await?, *verbose, json).await,
        KvCommand::History { bucket, key } => {
            watch::history(&open(&bus, bucket).await?, key, json).await
        }
        KvCommand::Info { bucket } => buckets::info(bucket, &bus, json).await,
        KvCommand::Rm { bucket, force } => buckets::remove(bucket, &bus, *force).await,
    }
}

/// Opens a bucket.
///
/// # Errors
/// Where there is none of the name.
async fn open(bus: &Bus, bucket: &str) -> Result<Store> {
    api::name("bucket", bucket)?;
    let context = bus.jetstream();
    let opened = Box::pin(context.get_key_value(bucket)).await;
    opened.map_err(|error| {
        let text = error.to_string();
        // 10059: stream not found.
        CliError::Failed(if text.contains("10059") {
            format!("there is no bucket {bucket:?}; make it with: unibus kv add {bucket}")
        } else {
            format!("can't open bucket {bucket:?}: {text}")
        })
    })
}
