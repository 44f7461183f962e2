//! `object`: files of any size in buckets, kept in a stream `OBJ_<bucket>` (ADR-20).

mod buckets;
mod files;

use async_nats::jetstream::object_store::ObjectStore;
use clap::Subcommand;
use std::path::PathBuf;

use crate::api;
use crate::connect::{Bus, connect};
use crate::error::{CliError, Result};
use crate::settings::Settings;

pub(crate) use buckets::AddArgs;
pub(crate) use files::PutArgs;

const EXAMPLES: &str = "\
Examples:
  unibus object add builds
  unibus object put builds target/app.tar.gz --name app-1.2
  unibus object get builds app-1.2 --output app.tar.gz
  unibus object get builds app-1.2 --output - | tar tz
  unibus object link builds latest --to app-1.2
  unibus object ls builds --json";

/// The commands about objects.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum ObjectCommand {
    /// Make a bucket
    Add(AddArgs),
    /// Store a file, or what comes on stdin
    Put(PutArgs),
    /// Fetch an object into a file
    Get {
        /// The bucket
        bucket: String,
        /// The object
        name: String,
        /// Where to write it; - is stdout [default: the last part of the object's name]
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Replace the file if it is there
        #[arg(long, short)]
        force: bool,
    },
    /// List the buckets, or the objects of one
    #[command(alias = "list")]
    Ls {
        /// The bucket whose objects to list
        bucket: Option<String>,
    },
    /// Print what a bucket or an object is
    #[command(alias = "status")]
    Info {
        /// The bucket
        bucket: String,
        /// The object
        name: Option<String>,
    },
    /// Delete an object, or a whole bucket
    Rm {
        /// The bucket
        bucket: String,
        /// The object [default: the bucket with everything in it]
        name: Option<String>,
        /// Don't ask
        #[arg(long, short)]
        force: bool,
    },
    /// Print objects as they change
    Watch {
        /// The bucket
        bucket: String,
        /// Begin with the next change
        #[arg(long)]
        updates_only: bool,
        /// End after so many changes
        #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
    /// Make a name that stands for another object, or for a bucket
    Link {
        /// The bucket of the new name
        bucket: String,
        /// The new name
        name: String,
        /// The object it stands for
        #[arg(long, value_name = "OBJECT", required_unless_present = "to_bucket")]
        to: Option<String>,
        /// The bucket of that object; alone: the bucket it stands for
        #[arg(long, value_name = "BUCKET")]
        to_bucket: Option<String>,
    },
    /// Make a bucket read-only for good
    Seal {
        /// The bucket
        bucket: String,
        /// Don't ask
        #[arg(long, short)]
        force: bool,
    },
}

/// Runs a command about objects.
///
/// # Errors
/// [`CliError`].
pub(crate) async fn run(command: &ObjectCommand, settings: &Settings, json: bool) -> Result {
    let bus = connect(settings).await?;
    match command {
        ObjectCommand::Add(args) => buckets::add(args, &bus, json).await,
        ObjectCommand::Put(args) => files::put(args, &open(&bus, args.bucket()).await?, json).await,
        ObjectCommand::Get {
            bucket,
            name,
            output,
            force,
        } => {
            let store = open(&bus, bucket).await?;
            files::get(&store, name, output.as_deref(), *force, json).await
        }
        ObjectCommand::Ls { bucket: None } => buckets::list(&bus, json).await,
        ObjectCommand::Ls {
            bucket: Some(bucket),
        } => files::list(&open(&bus, bucket).await?, bucket, json).await,
        ObjectCommand::Info { bucket, name: None } => buckets::info(bucket, &bus, json).await,
        ObjectCommand::Info {
            bucket,
            name: Some(name),
        } => files::info(&open(&bus, bucket).await?, name, json).await,
        ObjectCommand::Rm {
            bucket,
            name: None,
            force,
        } => buckets::remove(bucket, &bus, *force).await,
        ObjectCommand::Rm {
            bucket,
            name: Some(name),
            ..
        } => files::remove(&open(&bus, bucket).await?, bucket, name).await,
        ObjectCommand::Watch {
            bucket,
            updates_only,
            count,
        } => {
            let store = open(&bus, bucket).await?;
            files::watch(&store, bucket, *updates_only, *count, json).await
        }
        ObjectCommand::Link {
            bucket,
            name,
            to,
            to_bucket,
        } => {
            let store = open(&bus, bucket).await?;
            let from = match to_bucket {
                Some(other) => open(&bus, other).await?,
                None => store.clone(),
            };
            let target = to_bucket.as_deref().unwrap_or(bucket);
            files::link(&store, name, &from, to.as_deref(), target).await
        }
        ObjectCommand::Seal { bucket, force } => {
            buckets::seal(open(&bus, bucket).await?, bucket, *force).await
        }
    }
}

/// Opens a bucket.
///
/// # Errors
/// Where there is none of the name.
async fn open(bus: &Bus, bucket: &str) -> Result<ObjectStore> {
    api::name("bucket", bucket)?;
    let context = bus.jetstream();
    let opened = Box::pin(context.get_object_store(bucket)).await;
    opened.map_err(|error| {
        let text = error.to_string();
        // 10059: stream not found.
        CliError::Failed(if text.contains("10059") {
            format!("there is no bucket {bucket:?}; make it with: unibus object add {bucket}")
        } else {
            format!("can't open bucket {bucket:?}: {text}")
        })
    })
}
