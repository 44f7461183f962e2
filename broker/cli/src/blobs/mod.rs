//! `blob`: files that are encrypted here and stored in pieces, which the servers can't read. A reference
//! says where a file is and holds its key; in a room it is shared with the members, and with nobody else.

mod find;
mod transfer;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::error::Result;
use crate::session::{Care, open};
use crate::settings::Settings;

const EXAMPLES: &str = "\
Examples:
  unibus blob put cat.png --room team.kitchen        encrypted, stored, and shared in the room
  unibus blob ls team.kitchen                        the files that were shared there
  unibus blob get cat.png --room team.kitchen        by name (the latest), id or place (seq)
  unibus blob put cat.png                            prints its reference; whoever has it reads the file
  unibus blob get unibus-blob:… --output - | file -
  unibus blob get - < reference.txt                  a reference that no other user of this host sees";

/// The commands about encrypted files.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum BlobCommand {
    /// Encrypt and store a file, or what comes on stdin
    Put(PutArgs),
    /// Fetch, verify and decrypt a file
    Get(GetArgs),
    /// Print what a file is
    Info {
        /// Which one.
        #[command(flatten)]
        which: Which,
    },
    /// List the files that were shared in a room, the latest first
    #[command(alias = "list")]
    Ls {
        /// The room: its id or its subject
        room: String,
    },
}

/// Flags of `blob put`.
#[derive(Args, Debug)]
pub(crate) struct PutArgs {
    /// The file; - is stdin
    file: PathBuf,
    /// Share it in this room: its id or its subject
    #[arg(long, value_name = "ROOM")]
    room: Option<String>,
    /// What it is called [default: the file's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What it is, such as image/png
    #[arg(long, value_name = "TYPE")]
    media_type: Option<String>,
}

/// Flags of `blob get`.
#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// Which one.
    #[command(flatten)]
    which: Which,
    /// Where to write it; - is stdout [default: the last part of the file's name]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file if it is there
    #[arg(long, short)]
    force: bool,
}

/// A file that is meant.
#[derive(Args, Debug)]
pub(crate) struct Which {
    /// A reference (unibus-blob:…), - for one on stdin, or with --room a file's name, id or place (seq)
    file: String,
    /// The room that it was shared in: its id or its subject
    #[arg(long, value_name = "ROOM")]
    room: Option<String>,
}

/// Runs a command about encrypted files.
///
/// # Errors
/// [`crate::error::CliError`].
pub(crate) async fn run(command: &BlobCommand, settings: &Settings, json: bool) -> Result {
    let session = open(settings, Care::Nothing).await?;
    let done = match command {
        BlobCommand::Put(args) => Box::pin(transfer::put(args, &session, json)).await,
        BlobCommand::Get(args) => Box::pin(transfer::get(args, &session, json)).await,
        BlobCommand::Info { which } => transfer::info(which, &session, json).await,
        BlobCommand::Ls { room } => find::list(room, &session, json).await,
    };
    session.close().await;
    done
}
