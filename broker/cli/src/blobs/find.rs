//! Which file is meant: by its reference, or by what a room says of it.

use serde_json::Value;
use unibus_client::rooms::blob::BlobRef;
use unibus_client::rooms::frame::FrameId;
use unibus_client::{Event, HistoryQuery, Message, Session};
use unibus_proto::control::RoomId;

use super::Which;
use crate::error::{Attempt, CliError, Result, failed, wrong};
use crate::output;
use crate::room::event_json;
use crate::session::{as_failed, room};
use crate::text;

/// Frames of a room that are looked at for a file, from the latest on.
const SEARCHED_MAX: usize = 100_000;
/// Frames that are asked for at once.
const PAGE: usize = 1000;
/// Longest reference that is read from stdin, in bytes.
const REFERENCE_MAX: u64 = 64 * 1024;

/// The reference that is meant.
///
/// # Errors
/// Where there is none, or it is none.
pub(super) async fn reference(which: &Which, session: &Session) -> Result<BlobRef> {
    let Some(named) = &which.room else {
        let text = match which.file.as_str() {
            "-" => from_stdin()?,
            text => text.to_owned(),
        };
        let hint = "; a file of a room needs --room";
        return BlobRef::from_text(&text)
            .map_err(|error| CliError::Wrong(format!("{error}{hint}")));
    };
    let id = room(session, named).await?;
    let wanted = Wanted::of(&which.file);
    let mut found = None;
    walk(session, &id, |event| {
        if let Event::File { file, message } = event
            && wanted.is(file, message)
        {
            found = Some(file.clone());
        }
        found.is_none()
    })
    .await?;
    match found {
        Some(file) => Ok(file),
        None => failed(format!(
            "no file {:?} was shared in room {named}: unibus blob ls {named} lists them",
            which.file
        )),
    }
}

fn from_stdin() -> Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let mut stdin = std::io::stdin().lock().take(REFERENCE_MAX);
    stdin
        .read_to_string(&mut text)
        .or_wrong(|| "can't read a reference from stdin".to_owned())?;
    match text.trim() {
        "" => wrong("stdin holds no reference"),
        text => Ok(text.to_owned()),
    }
}

/// What a file of a room is called by.
enum Wanted<'a> {
    Id(FrameId),
    Seq(u64),
    Name(&'a str),
}

impl<'a> Wanted<'a> {
    fn of(text: &'a str) -> Self {
        let id = text.parse().ok().map(Self::Id);
        let seq = || text.parse().ok().map(Self::Seq);
        id.or_else(seq).unwrap_or(Self::Name(text))
    }

    fn is(&self, file: &BlobRef, message: &Message) -> bool {
        match self {
            Self::Id(id) => message.id() == *id,
            // A file may be called like a number.
            Self::Seq(seq) => {
                message.seq == Some(*seq) || file.name.as_deref() == Some(&seq.to_string())
            }
            Self::Name(name) => file.name.as_deref() == Some(name),
        }
    }
}

/// Looks at what was said in a room, the latest first, until `more` says no.
async fn walk(session: &Session, room: &RoomId, mut more: impl FnMut(&Event) -> bool) -> Result {
    let (mut query, mut looked) = (HistoryQuery::last(PAGE), 0);
    while looked < SEARCHED_MAX {
        let page = session.history(room, query).await.map_err(as_failed)?;
        looked += page.events.len();
        for event in page.events.iter().rev() {
            if !more(event) {
                return Ok(());
            }
        }
        match page.previous {
            Some(previous) => query = HistoryQuery::before(previous, PAGE),
            None => return Ok(()),
        }
    }
    output::tell(&format!(
        "unibus: the last {} frames of the room were looked at; what is older was not",
        text::count_shown(looked as u64)
    ));
    Ok(())
}

/// Lists the files of a room.
///
/// # Errors
/// As every call.
pub(super) async fn list(named: &str, session: &Session, json: bool) -> Result {
    let id = room(session, named).await?;
    let mut files: Vec<Event> = Vec::new();
    walk(session, &id, |event| {
        if matches!(event, Event::File { .. }) {
            files.push(event.clone());
        }
        true
    })
    .await?;
    if json {
        return output::json(&files.iter().map(event_json).collect::<Vec<Value>>());
    }
    if files.is_empty() {
        output::tell("no file was shared in this room");
        return Ok(());
    }
    let rows = files.iter().filter_map(|event| match event {
        Event::File { file, message } => Some(vec![
            message.id().to_string(),
            text::harmless(file.name.as_deref().unwrap_or_default()),
            text::size_shown(file.size),
            text::harmless(file.media_type.as_deref().unwrap_or_default()),
            message.from().to_string(),
        ]),
        _ => None,
    });
    output::table(&["id", "name", "size", "type", "from"], rows)
}

#[cfg(test)]
mod tests {
    use super::Wanted;

    #[test]
    fn a_file_is_named_by_id_place_or_name() {
        assert!(matches!(Wanted::of("17"), Wanted::Seq(17)));
        assert!(matches!(Wanted::of("cat.png"), Wanted::Name("cat.png")));
        let id = "0190a5b4c3d27e8f9a0b1c2d3e4f5a6b";
        assert!(matches!(Wanted::of(id), Wanted::Id(found) if found.to_string() == id));
    }
}
