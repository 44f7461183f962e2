//! Moving encrypted files, with progress.

use std::io::ErrorKind;

use indicatif::ProgressBar;
use serde_json::json;
use unibus_client::rooms::blob::{BlobRef, pieces_of};
use unibus_client::{Error, FileInfo, Progress, Sent, Session, Speech};
use unibus_proto::control::RoomId;

use super::{GetArgs, PutArgs, Which, find};
use crate::error::{CliError, Result, failed};
use crate::local_file::{Source, Target, progress, stdout, whole};
use crate::output;
use crate::room::{file_json, ready_to_speak};
use crate::session::{as_failed, room};
use crate::text;

/// Stores a file, and shares it where that is wanted.
///
/// # Errors
/// Where it can't be read or stored, or the room can't keep its key.
pub(super) async fn put(args: &PutArgs, session: &Session, json: bool) -> Result {
    let to = match &args.room {
        Some(named) => Some(confidential(session, named).await?),
        None => None,
    };
    let source = Source::open(&args.file).await?;
    let about = FileInfo {
        name: args.name.clone().or(source.name),
        media_type: args.media_type.clone(),
        size: source.size,
    };
    let bar = progress(source.size, !json);
    let stored = session
        .put_blob(source.reader, about, |step| show(&bar, step))
        .await;
    bar.finish_and_clear();
    let file = stored.map_err(as_failed)?;
    let shared = match &to {
        Some(id) => {
            ready_to_speak(session, id).await?;
            let sent = session.publish(id, Speech::file(&file)).await;
            Some((id, sent.map_err(as_failed)?))
        }
        None => None,
    };
    told(&file, shared, json)
}

fn told(file: &BlobRef, shared: Option<(&RoomId, Sent)>, json: bool) -> Result {
    let mut record = file_json(file);
    let name = text::harmless(file.name.as_deref().unwrap_or("a file"));
    let size = text::size_shown(file.size);
    match shared {
        Some((room, sent)) => {
            record["room"] = room.to_string().into();
            record["id"] = sent.id.to_string().into();
            record["seq"] = sent.seq.into();
            match json {
                true => output::json(&record),
                false => output::say(&format!("shared {name}, {size}, as {}", sent.id)),
            }
        }
        None if json => output::json(&record),
        None => {
            output::tell(&format!(
                "stored {name}, {size}; whoever has its reference reads it:"
            ));
            output::say(&file.to_text())
        }
    }
}

/// A room that keeps a key to itself.
async fn confidential(session: &Session, named: &str) -> Result<RoomId> {
    let id = room(session, named).await?;
    let info = session.room_info(&id).await.map_err(as_failed)?;
    match info.record.policy.encrypted {
        true => Ok(id),
        false => failed(format!(
            "room {named} is in cleartext: the servers would read the file's key there"
        )),
    }
}

fn show(bar: &ProgressBar, step: Progress) {
    bar.set_position(step.done);
}

/// Fetches a file. It appears whole or not at all.
///
/// # Errors
/// Where there is none, the file is there already, or what came is not what was stored.
pub(super) async fn get(args: &GetArgs, session: &Session, json: bool) -> Result {
    let file = find::reference(&args.which, session).await?;
    let name = file.name.clone().unwrap_or_default();
    let target = Target::of(args.output.as_deref(), &name, args.force)?;
    let bar = progress(Some(file.size), !json && !target.is_terminal());
    let fetched = match target {
        Target::Stdout => {
            let to = stdout()?;
            let got = session.get_blob(&file, to, |step| show(&bar, step)).await;
            bar.finish_and_clear();
            return got.map_err(trouble);
        }
        Target::File(path) => whole(&path, async |to| {
            let got = session.get_blob(&file, to, |step| show(&bar, step)).await;
            got.map_err(trouble)
        })
        .await
        .map(|()| path),
    };
    bar.finish_and_clear();
    let path = fetched?;
    if json {
        let mut record = file_json(&file);
        record["path"] = path.display().to_string().into();
        return output::json(&record);
    }
    let size = text::size_shown(file.size);
    output::say(&format!("wrote {}: {size}", path.display()))
}

fn trouble(error: Error) -> CliError {
    match error {
        Error::Io { source, .. } if source.kind() == ErrorKind::BrokenPipe => CliError::ReaderGone,
        other => as_failed(other),
    }
}

/// Prints what a file is.
///
/// # Errors
/// Where there is none.
pub(super) async fn info(which: &Which, session: &Session, json: bool) -> Result {
    let file = find::reference(which, session).await?;
    let pieces = pieces_of(file.size);
    if json {
        let mut record = file_json(&file);
        record["pieces"] = json!(pieces);
        return output::json(&record);
    }
    let name = file.name.as_deref().unwrap_or("(no name)");
    output::facts(
        &format!("file {}", text::harmless(name)),
        &[
            ("size", text::size_shown(file.size)),
            (
                "type",
                text::harmless(file.media_type.as_deref().unwrap_or_default()),
            ),
            ("pieces", pieces.to_string()),
            ("hash", file.hash.to_string()),
            ("reference", file.to_text()),
        ],
    )
}
