//! `snapshot export`, `snapshot import` and `migrate-to-kv`: the control plane's records as a whole,
//! out of a cluster, into one, and from a membershipd database.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use thiserror::Error;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::sync::mpsc;

use super::link::{LinkError, Target};
use super::mover::{MoveError, Mover};
use super::out::{say, tell};
use super::users::TargetArgs;
use super::{FAILED, WRONG, quiet_logging};
use crate::snapshot::file::{self, SnapshotFileError, Writer};
use crate::snapshot::sqlite::{self, SqliteError};
use crate::snapshot::{Problems, Snapshot};

/// Names that are tried for a backup made within one second.
const BACKUPS_PER_SECOND: usize = 100;

/// The snapshot commands.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Write every user, room, member, sealed key and blob of the cluster to a file (mode 0600)
    Export(ExportArgs),
    /// Write what is in such a file to the cluster, and compare; a second time changes nothing
    Import(ImportArgs),
}

/// Flags of `snapshot export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// The file; it must not exist
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Leave the blobs out
    #[arg(long)]
    pub no_blobs: bool,
    /// How to reach the cluster.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// How records are written.
#[derive(Args, Clone, Copy, Debug)]
pub struct WriteFlags {
    /// Say what would be written, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Go back even where the cluster went on since: a revoked user is active again, a room is at an
    /// older epoch and has the snapshot's members alone
    #[arg(long)]
    pub roll_back: bool,
    /// Nodes that must have everything before this is done
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub replicas: usize,
}

/// Flags of `snapshot import`.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// A file that `snapshot export` wrote
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How it is written.
    #[command(flatten)]
    pub write: WriteFlags,
    /// How to reach the cluster.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// Flags of `migrate-to-kv`.
#[derive(Args, Debug)]
pub struct MigrateArgs {
    /// The membershipd database (SQLite)
    #[arg(long, value_name = "FILE", required_unless_present = "schema")]
    pub db: Option<PathBuf>,
    /// Make no copy of the database first
    #[arg(long)]
    pub no_backup: bool,
    /// Print the tables that are read, and do nothing
    #[arg(long)]
    pub schema: bool,
    /// How it is written.
    #[command(flatten)]
    pub write: WriteFlags,
    /// How to reach the cluster.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// Why a command did not work.
#[derive(Debug, Error)]
enum CommandError {
    #[error(transparent)]
    Move(#[from] MoveError),
    #[error("{}: {source}", path.display())]
    File {
        path: PathBuf,
        source: SnapshotFileError,
    },
    #[error("{}: {source}", path.display())]
    Sqlite { path: PathBuf, source: SqliteError },
    #[error("nothing was written:\n  {0}")]
    Conflicts(Problems),
    #[error("the cluster is not what {what} says:\n  {differences}")]
    Differs { what: String, differences: Problems },
}

impl CommandError {
    fn is_usage(&self) -> bool {
        matches!(self, Self::Move(MoveError::Link(error)) if LinkError::is_usage(error))
    }
}

impl From<LinkError> for CommandError {
    fn from(error: LinkError) -> Self {
        Self::Move(error.into())
    }
}

fn ended(done: Result<(), CommandError>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("unibus-node: {error}"));
            ExitCode::from(if error.is_usage() { WRONG } else { FAILED })
        }
    }
}

pub(super) async fn snapshot(command: &SnapshotCommand) -> ExitCode {
    ended(match command {
        SnapshotCommand::Export(args) => export(args).await,
        SnapshotCommand::Import(args) => import(args).await,
    })
}

async fn export(args: &ExportArgs) -> Result<(), CommandError> {
    quiet_logging(args.target.debug);
    let path = &args.file;
    let failed = |error: std::io::Error| CommandError::File {
        path: path.clone(),
        source: error.into(),
    };
    let mover = Mover::open(&Target::from(&args.target)).await?;
    let held = mover.read().await?;
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    let written = write_file(&mover, &held.snapshot, file, !args.no_blobs).await;
    match written {
        Ok(blobs) => {
            let summary = held.snapshot.summary();
            say(&format!("{}: {summary}, {blobs} blobs", path.display()));
            Ok(())
        }
        Err(error) => {
            // A part of a snapshot is of no use to anybody.
            drop(std::fs::remove_file(path));
            Err(match error {
                WriteError::Io(error) => failed(error),
                WriteError::Move(error) => error.into(),
            })
        }
    }
}

enum WriteError {
    Io(std::io::Error),
    Move(MoveError),
}

impl From<std::io::Error> for WriteError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<MoveError> for WriteError {
    fn from(error: MoveError) -> Self {
        Self::Move(error)
    }
}

/// Writes and syncs the whole file; answers with the number of blobs.
async fn write_file(
    mover: &Mover,
    snapshot: &Snapshot,
    file: File,
    with_blobs: bool,
) -> Result<usize, WriteError> {
    let mut writer = Writer::new(BufWriter::new(file))?;
    writer.records(snapshot)?;
    let mut hashes = Vec::new();
    if with_blobs {
        let blobs = mover.blobs().await?;
        hashes = blobs.list().await?;
        for hash in &hashes {
            let part = |bytes: &[u8], more| writer.blob_part(hash, bytes, more);
            blobs.read(hash, part).await?;
        }
    }
    let file = writer.finish()?;
    file.into_inner()
        .map_err(std::io::IntoInnerError::into_error)?
        .sync_all()?;
    Ok(hashes.len())
}

async fn import(args: &ImportArgs) -> Result<(), CommandError> {
    quiet_logging(args.target.debug);
    let path = &args.file;
    let failed = |source| CommandError::File {
        path: path.clone(),
        source,
    };
    // The whole file is read and checked before the first record is written.
    let (snapshot, blobs) = read_file(path).map_err(failed)?;
    let summary = snapshot.summary();
    say(&format!("{}: {summary}, {blobs} blobs", path.display()));
    let mover = Mover::open(&Target::from(&args.target)).await?;
    if !args.write.dry_run {
        let (written, there) = import_blobs(&mover, path).await?;
        say(&format!("blobs: {written} written, {there} were there"));
    }
    carry_over(&mover, &snapshot, &path.display().to_string(), args.write).await
}

/// Reads and checks a file, its blobs too; answers with the number of those.
fn read_file(path: &Path) -> Result<(Snapshot, usize), SnapshotFileError> {
    let mut blobs = 0;
    let mut hash = Sha256::new();
    let snapshot = file::read(BufReader::new(File::open(path)?), |part| {
        hash.update(&part.bytes);
        if part.more {
            return Ok(());
        }
        blobs += 1;
        let found = HEXLOWER.encode(&std::mem::take(&mut hash).finalize());
        if found == part.hash {
            Ok(())
        } else {
            Err(format!("blob {} has another hash: {found}", part.hash))
        }
    })?;
    Ok((snapshot, blobs))
}

/// Writes the blobs of a file that was checked; answers with how many were written, and how many were
/// there.
async fn import_blobs(mover: &Mover, path: &Path) -> Result<(usize, usize), CommandError> {
    let store = mover.blobs().await?;
    // One blob is written while the next one is read.
    let (sender, mut whole) = mpsc::channel::<(String, Vec<u8>)>(1);
    let from = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || {
        let mut blob = Vec::new();
        file::read(BufReader::new(File::open(from)?), |part| {
            blob.extend(part.bytes);
            if part.more {
                return Ok(());
            }
            let whole = (part.hash, std::mem::take(&mut blob));
            sender
                .blocking_send(whole)
                .map_err(|_| "writing the blobs stopped".to_owned())
        })
    });
    let (mut written, mut there) = (0, 0);
    while let Some((hash, bytes)) = whole.recv().await {
        if store.has(&hash, bytes.len()).await {
            there += 1;
            continue;
        }
        store.write(&hash, &bytes).await?;
        written += 1;
    }
    let failed = |source| CommandError::File {
        path: path.to_owned(),
        source,
    };
    match reading.await {
        Ok(read) => read.map(|_| (written, there)).map_err(failed),
        Err(error) => Err(failed(std::io::Error::other(error).into())),
    }
}

/// Writes a snapshot to the cluster, then reads the cluster again and compares.
async fn carry_over(
    mover: &Mover,
    snapshot: &Snapshot,
    what: &str,
    flags: WriteFlags,
) -> Result<(), CommandError> {
    let held = mover.read().await?;
    let conflicts = snapshot.conflicts(&held.snapshot);
    if !conflicts.is_empty() {
        return Err(CommandError::Conflicts(Problems(conflicts)));
    }
    let plan = snapshot.plan(&held, flags.roll_back);
    for reason in &plan.held_back {
        tell(&format!(
            "unibus-node: left as it is: {reason} (--roll-back writes it all the same)"
        ));
    }
    for member in &plan.more_members {
        tell(&format!(
            "unibus-node: kept: {member}: the snapshot does not have this member (--roll-back removes it)"
        ));
    }
    let removals = plan.writes.iter().filter(|w| w.value.is_none()).count();
    let (writes, unchanged) = (plan.writes.len() - removals, plan.unchanged);
    if flags.dry_run {
        say(&format!(
            "would write {writes} records and remove {removals}; {unchanged} are the same already"
        ));
        return Ok(());
    }
    for room in snapshot.rooms() {
        mover.make_stream(room).await?;
    }
    mover.write(&plan).await?;
    say(&format!(
        "wrote {writes} records, removed {removals}; {unchanged} were the same already"
    ));
    let (have, all) = mover.replicas(flags.replicas).await?;
    let now = mover.read().await?.snapshot;
    let differences = snapshot.missing_in(&now);
    if !differences.is_empty() {
        let differences = Problems(differences);
        let what = what.to_owned();
        return Err(CommandError::Differs { what, differences });
    }
    say(&format!(
        "compared: every record of {what} is the same in the cluster, which has {} more; {have} of \
         {all} replicas have it",
        snapshot.more_in(&now)
    ));
    Ok(())
}

pub(super) async fn migrate(args: &MigrateArgs) -> ExitCode {
    match &args.db {
        Some(db) if !args.schema => ended(migrate_from(db, args).await),
        _ => {
            say(sqlite::SCHEMA.trim_end());
            ExitCode::SUCCESS
        }
    }
}

async fn migrate_from(db: &Path, args: &MigrateArgs) -> Result<(), CommandError> {
    quiet_logging(args.target.debug);
    let failed = |source| CommandError::Sqlite {
        path: db.to_owned(),
        source,
    };
    let mut source = db.to_owned();
    if !args.no_backup && !args.write.dry_run {
        // What is moved is what the backup holds, whoever writes to the database meanwhile.
        source = back_up(db).map_err(failed)?;
        say(&format!("backup: {}", source.display()));
    }
    let snapshot = sqlite::read(&source).map_err(failed)?;
    say(&format!("{}: {}", db.display(), snapshot.summary()));
    let mover = Mover::open(&Target::from(&args.target)).await?;
    carry_over(&mover, &snapshot, &db.display().to_string(), args.write).await
}

/// Copies a database beside itself, under a name with the time.
fn back_up(db: &Path) -> Result<PathBuf, SqliteError> {
    let form = format_description!("[year][month][day]T[hour][minute][second]Z");
    let stamp = OffsetDateTime::now_utc().format(form).unwrap_or_default();
    let mut path = with_suffix(db, &format!(".backup-{stamp}"));
    for number in 2..BACKUPS_PER_SECOND {
        if !path.exists() {
            break;
        }
        path = with_suffix(db, &format!(".backup-{stamp}-{number}"));
    }
    sqlite::back_up(db, &path)?;
    Ok(path)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
