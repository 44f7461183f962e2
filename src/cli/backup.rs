//! `backup create`, `verify`, `restore`: the whole state of a cluster as one file. `create` asks a running
//! node for it, piece by piece; the other two need no node.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use unibus_raft::backup::{self, BackupError, BackupWriter};

use super::asker::{AskError, Asker};
use super::link::Target;
use super::out::{say, tell};
use super::users::TargetArgs;
use super::{FAILED, WRONG, quiet_logging};
use crate::operate::{Answer, BackupPiece, Request};

/// Longest a whole backup may take.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// The backups' commands.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Write the state of the running cluster at this moment into a file, while it serves
    Create(CreateArgs),
    /// Read a backup and check every byte of it
    Verify(VerifyArgs),
    /// Make the data folder of a new node from a backup; the node is the first of a new cluster
    Restore(RestoreArgs),
}

/// `backup create`.
#[derive(Args, Debug)]
pub struct CreateArgs {
    /// The file to write; one that is there is never overwritten
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The cluster.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// `backup verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `backup restore`.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Data folder of the new node; it must hold no node
    #[arg(long, value_name = "DIR", env = "UNIBUS_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Name of the new node, as it will be started: its --server-name, or its certificate's name
    #[arg(long, value_name = "NAME", env = "UNIBUS_SERVER_NAME")]
    pub server_name: String,
}

pub(super) async fn backup(command: &BackupCommand) -> ExitCode {
    let done = match command {
        BackupCommand::Create(args) => create(args).await,
        BackupCommand::Verify(args) => verify(args),
        BackupCommand::Restore(args) => restore(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Ask(error)) if error.is_usage() => ended(&error, WRONG),
        Err(Failure::Ask(error)) => ended(&error, FAILED),
        Err(Failure::Backup(error)) => ended(&error, FAILED),
    }
}

fn ended(error: &dyn std::fmt::Display, status: u8) -> ExitCode {
    tell(&format!("unibus-node: {error}"));
    ExitCode::from(status)
}

enum Failure {
    Ask(AskError),
    Backup(BackupError),
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        Self::Ask(error)
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        Self::Backup(error)
    }
}

async fn create(args: &CreateArgs) -> Result<(), Failure> {
    quiet_logging(args.target.debug);
    let asker = Asker::open(&Target::from(&args.target), PATIENCE).await?;
    let request = Request {
        backup: Some(BackupPiece {
            id: format!("{:032x}", rand::random::<u128>()),
            ..BackupPiece::default()
        }),
        ..Request::default()
    };
    let begun = loop {
        match asker.ask("BACKUP.BEGIN", &request).await? {
            Answer::Backup(begun) => break begun,
            Answer::Working(words) => asker.pause(words).await?,
            Answer::Refused(words) => return Err(AskError::Refused(words).into()),
            _ => return Err(strange()),
        }
    };
    let ask = |piece: BackupPiece| {
        let request = Request {
            backup: Some(BackupPiece {
                id: begun.id.clone(),
                ..piece
            }),
            ..Request::default()
        };
        let asker = &asker;
        async move { asker.ask_raw("BACKUP.READ", &request).await }
    };
    let mut manifest = Vec::new();
    while (manifest.len() as u64) < begun.manifest_bytes {
        let offset = manifest.len() as u64;
        let answer = ask(BackupPiece::manifest(offset)).await?;
        manifest.extend_from_slice(bytes_of(&answer)?);
    }
    let mut writer = BackupWriter::create(&args.file, &manifest.into())?;
    while let Some((file, offset, _)) = writer.wants() {
        let answer = ask(BackupPiece::of(file, offset)).await?;
        writer.write(bytes_of(&answer)?)?;
    }
    let size = writer.finish()?;
    say(&format!(
        "{}: everything up to entry {}, {size} bytes",
        args.file.display(),
        begun.index
    ));
    Ok(())
}

/// A piece's bytes: the first byte of the answer says whether they are some, or words.
fn bytes_of(answer: &[u8]) -> Result<&[u8], Failure> {
    match answer.split_first() {
        Some((0, bytes)) if !bytes.is_empty() => Ok(bytes),
        Some((1, words)) => {
            let words = String::from_utf8_lossy(words).into_owned();
            Err(AskError::Refused(words).into())
        }
        _ => Err(strange()),
    }
}

fn strange() -> Failure {
    AskError::Strange.into()
}

fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let (index, bytes) = backup::verify(&args.file)?;
    say(&format!(
        "{}: whole; everything up to entry {index}, {bytes} bytes of state",
        args.file.display()
    ));
    Ok(())
}

fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    let seeded = backup::restore(&args.file, &args.data_dir, &args.server_name)?;
    say(&format!(
        "restored into {}: node {} ({}), everything up to entry {}, {} bytes, from the cluster of {}",
        args.data_dir.display(),
        args.server_name,
        seeded.id,
        seeded.index,
        seeded.bytes,
        seeded.members.join(", ")
    ));
    say("start it with its usual flags; other nodes join it with empty data folders");
    Ok(())
}
