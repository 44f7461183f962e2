//! `room pub` and `room react`: a message is said when the room's stream has stored it.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use unibus_client::rooms::frame::{FrameId, FrameKind};
use unibus_client::{Error, Sent, Session, Speech};
use unibus_proto::control::RoomId;

use super::{ready_to_speak, room};
use crate::error::{Attempt, Result};
use crate::messages::{Body, BodyArgs, stdin};
use crate::output;
use crate::session::as_failed;

/// Flags of `room pub`.
#[derive(Args, Debug)]
pub(crate) struct PubArgs {
    /// The room: its id or its subject
    room: String,
    /// What to say [default: what comes on stdin]
    #[arg(value_name = "TEXT")]
    text: Option<String>,
    /// Read it from a file; for large ones see unibus blob put
    #[arg(long, short, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
    /// Each line of stdin is a message
    #[arg(long, conflicts_with_all = ["text", "file"])]
    lines: bool,
    /// Make it a reply to a message
    #[arg(long, value_name = "ID")]
    reply_to: Option<FrameId>,
    /// Put it into the thread that began with a message
    #[arg(long, value_name = "ID")]
    thread: Option<FrameId>,
    /// A kind of frame of one's own: capitals, digits and _
    #[arg(long, value_name = "KIND", default_value = "MSG")]
    kind: FrameKind,
    /// Say nothing when it worked
    #[arg(long, short)]
    quiet: bool,
}

/// Flags of `room react`.
#[derive(Args, Debug)]
pub(crate) struct ReactArgs {
    /// The room: its id or its subject
    room: String,
    /// The message
    #[arg(value_name = "ID")]
    to: FrameId,
    /// The reaction, such as an emoji
    reaction: String,
}

impl PubArgs {
    fn speech(&self, payload: Vec<u8>) -> Speech {
        let mut speech = Speech::of(self.kind.clone(), payload);
        if let Some(root) = self.thread {
            speech = speech.in_thread(root);
        }
        if let Some(to) = self.reply_to {
            speech = speech.reply_to(to);
        }
        speech
    }

    fn payload(&self) -> Result<Vec<u8>> {
        let body = Body::read(&BodyArgs {
            payload: self.text.clone(),
            file: self.file.clone(),
            ..BodyArgs::default()
        })?;
        Ok(body.of(1, String::new).to_vec())
    }
}

/// Says something.
///
/// # Errors
/// Where the room does not take it.
pub(super) async fn publish(args: &PubArgs, session: &Session, json: bool) -> Result {
    let id = room(session, &args.room).await?;
    ready_to_speak(session, &id).await?;
    let tell = |sent: &Sent| match args.quiet {
        true => Ok(()),
        false => told(&id, sent, json),
    };
    if !args.lines {
        let speech = args.speech(args.payload()?);
        return tell(&said(session, &id, speech).await?);
    }
    let mut lines = BufReader::new(stdin()?).lines();
    loop {
        let line = lines.next_line().await;
        let Some(line) = line.or_failed(|| "can't read stdin".to_owned())? else {
            return Ok(());
        };
        let speech = args.speech(line.into_bytes());
        tell(&said(session, &id, speech).await?)?;
    }
}

/// Reacts to something.
///
/// # Errors
/// As [`publish`].
pub(super) async fn react(args: &ReactArgs, session: &Session, json: bool) -> Result {
    let id = room(session, &args.room).await?;
    ready_to_speak(session, &id).await?;
    let reacted = session.react(&id, args.to, &args.reaction).await;
    told(&id, &reacted.map_err(as_failed)?, json)
}

/// Says something, once more where somebody has gone in between and one owns the room.
async fn said(session: &Session, room: &RoomId, speech: Speech) -> Result<Sent> {
    match session.publish(room, speech.clone()).await {
        Err(Error::NeedsRekey(_)) => {
            ready_to_speak(session, room).await?;
            session.publish(room, speech).await.map_err(as_failed)
        }
        sent => sent.map_err(as_failed),
    }
}

/// What was sent, in JSON.
pub(crate) fn sent_json(room: &RoomId, sent: &Sent) -> Value {
    json!({"room": room, "id": sent.id.to_string(), "seq": sent.seq})
}

fn told(room: &RoomId, sent: &Sent, json: bool) -> Result {
    if json {
        return output::json_line(&sent_json(room, sent));
    }
    let place = match sent.seq {
        Some(seq) => format!(", stored as {seq}"),
        None => String::new(),
    };
    output::say(&format!("said {}{place}", sent.id))
}
