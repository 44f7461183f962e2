//! Objects: storing, fetching, listing, watching and linking them, with progress on long work.

use std::path::{Path, PathBuf};

use async_nats::jetstream::object_store::{
    GetErrorKind, InfoErrorKind, ObjectInfo, ObjectMetadata, ObjectStore,
};
use clap::Args;
use futures::{StreamExt, TryStreamExt};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::error::{Attempt, Result, failed, wrong};
use crate::local_file::{Source, Target, progress, whole};
use crate::messages::headers;
use crate::output;
use crate::text;

/// Bytes moved at a time.
const PIECE: usize = 64 * 1024;

/// Flags of `object put`.
#[derive(Args, Debug)]
pub(crate) struct PutArgs {
    /// The bucket
    bucket: String,
    /// The file; - is stdin
    file: PathBuf,
    /// The object's name [default: the file's name]
    #[arg(long, value_name = "NAME", required_if_eq("file", "-"))]
    name: Option<String>,
    /// What it is
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// A header, 'Name: value'; may be given more than once
    #[arg(long = "header", short = 'H', value_name = "HEADER", value_parser = text::header)]
    headers: Vec<(String, String)>,
    /// Size of the pieces it is stored in
    #[arg(long, value_name = "SIZE", default_value = "128K", value_parser = text::size)]
    chunk_size: u64,
}

impl PutArgs {
    /// The bucket it goes to.
    pub(super) fn bucket(&self) -> &str {
        &self.bucket
    }
}

/// Stores a file.
///
/// # Errors
/// Where it can't be read, or the server does not take it; nothing is under the name then.
pub(super) async fn put(args: &PutArgs, store: &ObjectStore, json: bool) -> Result {
    let chunk_size = usize::try_from(args.chunk_size).or_wrong(|| "--chunk-size".to_owned())?;
    if chunk_size == 0 {
        return wrong("--chunk-size 0 makes no pieces");
    }
    let source = Source::open(&args.file).await?;
    let Some(name) = args.name.as_deref().or(source.name.as_deref()) else {
        return wrong("the object needs a --name");
    };
    let about = ObjectMetadata {
        name: name.to_owned(),
        description: args.description.clone(),
        chunk_size: Some(chunk_size),
        headers: headers(&args.headers),
        ..ObjectMetadata::default()
    };
    let bar = progress(source.size, !json);
    let mut counted = bar.wrap_async_read(source.reader);
    let stored = store.put(about, &mut counted).await;
    bar.finish_and_clear();
    let info = stored.or_failed(|| format!("can't store {name:?}"))?;
    if json {
        return output::json(&info);
    }
    output::say(&format!(
        "stored {name}: {}, {}",
        text::size_shown(info.size as u64),
        info.digest.unwrap_or_default()
    ))
}

/// Fetches an object. The file appears whole or not at all.
///
/// # Errors
/// Where there is no such object, the file is there already, or what came is not what was stored.
pub(super) async fn get(
    store: &ObjectStore,
    name: &str,
    output: Option<&Path>,
    force: bool,
    json: bool,
) -> Result {
    let found = store.get(name).await;
    let mut object = match found {
        Err(error) if error.kind() == GetErrorKind::NotFound => {
            return failed(format!("there is no object {name:?}"));
        }
        found => found.or_failed(|| format!("can't get {name:?}"))?,
    };
    let info = object.info.clone();
    let target = Target::of(output, name, force)?;
    let bar = progress(Some(info.size as u64), !json && !target.is_terminal());
    let path = match target {
        Target::File(path) => path,
        Target::Stdout => {
            let write = async |piece: &[u8]| output::bytes(piece);
            return copy(&mut object, &bar, name, write).await;
        }
    };
    let what = || format!("can't write {}", path.display());
    whole(&path, async |file| {
        let write = async |piece: &[u8]| file.write_all(piece).await.or_failed(what);
        copy(&mut object, &bar, name, write).await
    })
    .await?;
    if json {
        return output::json(&info);
    }
    let size = text::size_shown(info.size as u64);
    output::say(&format!("wrote {}: {size}", path.display()))
}

/// Moves an object's bytes; the library checks the digest at the end.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    bar: &ProgressBar,
    name: &str,
    mut write: impl AsyncFnMut(&[u8]) -> Result,
) -> Result {
    let mut piece = vec![0; PIECE];
    let done = loop {
        match from.read(&mut piece).await {
            Ok(0) => break Ok(()),
            Ok(read) => {
                if let Err(error) = write(piece.get(..read).unwrap_or_default()).await {
                    break Err(error);
                }
                bar.inc(read as u64);
            }
            Err(error) => break Err(error).or_failed(|| format!("{name:?} did not come whole")),
        }
    };
    bar.finish_and_clear();
    done
}

/// Lists the objects of a bucket by name.
///
/// # Errors
/// Where they can't be read.
pub(super) async fn list(store: &ObjectStore, bucket: &str, json: bool) -> Result {
    let what = || format!("can't list bucket {bucket}");
    let objects = store.list().await.or_failed(what)?;
    let mut objects: Vec<ObjectInfo> = objects.try_collect().await.or_failed(what)?;
    objects.sort_by(|a, b| a.name.cmp(&b.name));
    if json {
        return output::json(&objects);
    }
    if objects.is_empty() {
        output::tell("the bucket is empty");
        return Ok(());
    }
    output::table(
        &["name", "size", "stored", "description"],
        objects.iter().map(|object| {
            vec![
                text::harmless(&object.name),
                match link_shown(object) {
                    Some(link) => link,
                    None => text::size_shown(object.size as u64),
                },
                object.modified.map_or_else(String::new, text::moment_shown),
                text::harmless(object.description.as_deref().unwrap_or_default()),
            ]
        }),
    )
}

fn link_shown(object: &ObjectInfo) -> Option<String> {
    let link = object.options.as_ref()?.link.as_ref()?;
    let name = link.name.as_deref().unwrap_or_default();
    Some(text::harmless(&format!("→ {}/{name}", link.bucket)))
}

/// Prints what an object is.
///
/// # Errors
/// Where there is none of the name.
pub(super) async fn info(store: &ObjectStore, name: &str, json: bool) -> Result {
    let info = found(store, name).await?;
    if json {
        return output::json(&info);
    }
    output::facts(
        &format!("object {name}"),
        &[
            ("description", info.description.clone().unwrap_or_default()),
            ("link", link_shown(&info).unwrap_or_default()),
            ("size", text::size_shown(info.size as u64)),
            ("pieces", info.chunks.to_string()),
            ("digest", info.digest.clone().unwrap_or_default()),
            (
                "stored",
                info.modified.map_or_else(String::new, text::moment_shown),
            ),
        ],
    )
}

async fn found(store: &ObjectStore, name: &str) -> Result<ObjectInfo> {
    match store.info(name).await {
        Ok(info) if !info.deleted => Ok(info),
        Ok(_) => failed(format!("object {name:?} was deleted")),
        Err(error) if error.kind() == InfoErrorKind::NotFound => {
            failed(format!("there is no object {name:?}"))
        }
        Err(error) => Err(error).or_failed(|| format!("can't look up {name:?}")),
    }
}

/// Deletes an object.
///
/// # Errors
/// Where there is none of the name.
pub(super) async fn remove(store: &ObjectStore, bucket: &str, name: &str) -> Result {
    found(store, name).await?;
    let deleted = store.delete(name).await;
    deleted.or_failed(|| format!("can't delete {name:?}"))?;
    output::say(&format!("deleted {name} of {bucket}"))
}

/// Makes a name that stands for another object, or for a whole bucket.
///
/// # Errors
/// Where the target is not there, or is a link itself.
pub(super) async fn link(
    store: &ObjectStore,
    name: &str,
    from: &ObjectStore,
    to: Option<&str>,
    bucket: &str,
) -> Result {
    let what = || format!("can't link {name:?}");
    let target = match to {
        Some(object) => {
            let target = found(from, object).await?;
            store.add_link(name, &target).await.or_failed(what)?;
            format!("{bucket}/{object}")
        }
        None => {
            store.add_bucket_link(name, bucket).await.or_failed(what)?;
            bucket.to_owned()
        }
    };
    output::say(&format!("{name} stands for {target}"))
}

/// Prints changes until it is enough.
///
/// # Errors
/// Where the bucket can't be watched any longer.
pub(super) async fn watch(
    store: &ObjectStore,
    bucket: &str,
    updates_only: bool,
    count: Option<u64>,
    json: bool,
) -> Result {
    let watching = if updates_only {
        store.watch().await
    } else {
        store.watch_with_history().await
    };
    let mut changes = watching.or_failed(|| format!("can't watch bucket {bucket}"))?;
    output::tell(&format!("watching {bucket}"));
    let mut seen = 0;
    while count.is_none_or(|count| seen < count) {
        let change = tokio::select! {
            change = changes.next() => change,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let Some(change) = change else {
            return failed("the watch ended");
        };
        let object = change.or_failed(|| "the watch ended".to_owned())?;
        seen += 1;
        if json {
            output::json_line(&record(&object))?;
        } else {
            let happened = if object.deleted { "deleted" } else { "stored" };
            let at = object.modified.map_or_else(String::new, text::moment_shown);
            let size = text::size_shown(object.size as u64);
            output::say(&format!(
                "{at}  {happened}  {}  {size}",
                text::harmless(&object.name)
            ))?;
        }
    }
    Ok(())
}

fn record(object: &ObjectInfo) -> Value {
    json!({"operation": if object.deleted { "deleted" } else { "put" }, "object": object})
}
