//! `room`: end-to-end encrypted rooms. Everything is done by the rooms' library: this reads flags, finds
//! the room that is meant, and prints.

mod fresh;
mod listen;
mod manage;
mod members;
mod shown;
mod speak;

use clap::{Args, Subcommand};
use unibus_client::{Error, Session};
use unibus_proto::control::RoomId;

use crate::error::Result;
use crate::session::{Care, as_failed, open, room};
use crate::settings::Settings;

pub(crate) use fresh::Fresh;
pub(crate) use members::{accept, endpoint};
pub(crate) use shown::{event_json, event_line, file_json, file_shown};
pub(crate) use speak::sent_json;

const EXAMPLES: &str = "\
Examples:
  unibus room create team.kitchen                    encrypted, kept in a stream
  unibus room invite team.kitchen unibus-contact:…   what unibus identity show prints for the guest
  unibus room watch                                  (guest) invitations, as they are made
  unibus room join team.kitchen                      (guest)
  unibus room pub team.kitchen 'tea is ready'
  unibus room sub team.kitchen --from-beginning
  unibus room history team.kitchen --last 20 --json
  unibus room remove team.kitchen 3f2a…              and makes a key that they don't get

ROOM is a room's id or its subject. The servers route and store, and can't read: keys are sealed to
members whom the room's owner admitted. An admin lets identities in (unibus-node user add).";

/// The commands about rooms.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum RoomCommand {
    /// Make a room that one owns
    #[command(visible_alias = "add")]
    Create(manage::CreateArgs),
    /// List the rooms that one belongs to or is invited to
    #[command(visible_alias = "ls")]
    List,
    /// Print what a room is, verified
    Info(Meant),
    /// List a room's members, verified
    Members(Meant),
    /// Let somebody in: gives them the room's key
    Invite(members::InviteArgs),
    /// Accept an invitation
    Join(members::JoinArgs),
    /// Leave a room
    Leave(Meant),
    /// Remove somebody, and make a key that they don't get
    #[command(visible_alias = "rm")]
    Remove(members::RemoveArgs),
    /// Make a new key for a room that one owns
    Rekey(Meant),
    /// Say something
    #[command(alias = "publish")]
    Pub(speak::PubArgs),
    /// React to something, such as with an emoji
    React(speak::ReactArgs),
    /// Print what is said, and who comes and goes
    #[command(alias = "subscribe")]
    Sub(listen::SubArgs),
    /// Print what was said before
    History(listen::HistoryArgs),
    /// Print invitations, and how one's rooms change
    Watch(listen::WatchArgs),
}

/// A room.
#[derive(Args, Debug)]
pub(crate) struct Meant {
    /// The room: its id or its subject
    pub(crate) room: String,
}

/// Runs a command about rooms.
///
/// # Errors
/// [`crate::error::CliError`].
pub(crate) async fn run(command: &RoomCommand, settings: &Settings, json: bool) -> Result {
    let care = match command {
        RoomCommand::Sub(_) | RoomCommand::Watch(_) => Care::Rooms,
        _ => Care::Nothing,
    };
    let session = open(settings, care).await?;
    let done = Box::pin(run_in(command, &session, json)).await;
    session.close().await;
    done
}

async fn run_in(command: &RoomCommand, session: &Session, json: bool) -> Result {
    match command {
        RoomCommand::Create(args) => manage::create(args, session, json).await,
        RoomCommand::List => manage::list(session, json).await,
        RoomCommand::Info(meant) => manage::info(session, &meant.room, json).await,
        RoomCommand::Members(meant) => members::list(session, &meant.room, json).await,
        RoomCommand::Invite(args) => members::invite(args, session, json).await,
        RoomCommand::Join(args) => members::join(args, session, json).await,
        RoomCommand::Leave(meant) => members::leave(session, &meant.room, json).await,
        RoomCommand::Remove(args) => members::remove(args, session, json).await,
        RoomCommand::Rekey(meant) => manage::rekey(session, &meant.room, json).await,
        RoomCommand::Pub(args) => speak::publish(args, session, json).await,
        RoomCommand::React(args) => speak::react(args, session, json).await,
        RoomCommand::Sub(args) => listen::subscribe(args, session, json).await,
        RoomCommand::History(args) => listen::history(args, session, json).await,
        RoomCommand::Watch(args) => listen::watch(args, session, json).await,
    }
}

/// Makes the key that a room needs where one owns it; anybody else is told who has to.
///
/// # Errors
/// As every call.
pub(crate) async fn ready_to_speak(session: &Session, room: &RoomId) -> Result {
    let info = session.room_info(room).await.map_err(as_failed)?;
    if !info.record.needs_rekey {
        return Ok(());
    }
    if info.record.owner != *session.identity().endpoint() {
        return Err(as_failed(Error::NeedsRekey(room.clone())));
    }
    let epoch = session.rekey(room).await.map_err(as_failed)?;
    crate::output::tell(&format!(
        "unibus: somebody has gone: the room has a new key, of epoch {epoch}"
    ));
    Ok(())
}
