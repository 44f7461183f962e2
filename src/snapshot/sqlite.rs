//! A membershipd database (SQLite) as a snapshot, and a consistent copy of it. The tables that are
//! read are those of [`SCHEMA`]. The database is opened read-only and never changed.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64;
use rusqlite::backup::Backup;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row, Transaction};
use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use unibus_proto::control::{MemberRecord, RoomId, RoomRecord, SealedKeyRecord, SignPublic};

use super::{Place, Problems, Record, Snapshot};
use crate::access::{Grants, UserRecord};
use crate::control::buckets::Bucket;

/// The tables, documented.
pub(crate) const SCHEMA: &str = include_str!("membershipd.sql");

/// Pages that are copied in one step of a backup.
const PAGES_PER_STEP: i32 = 1024;
/// Pause between two steps, so that whoever writes to the database gets a turn.
const PAUSE: Duration = Duration::from_millis(5);
/// How long somebody else's lock is waited for.
const BUSY: Duration = Duration::from_secs(10);

/// Why a database can't be moved.
#[derive(Debug, Error)]
pub(crate) enum SqliteError {
    #[error("the database {} can't be opened: {reason}", path.display())]
    Open { path: PathBuf, reason: String },
    #[error(
        "table {table} of the database can't be read: {reason}; see migrate-to-kv --schema for the tables that are wanted"
    )]
    Table { table: &'static str, reason: String },
    #[error("what is in the database is no whole, nothing was written:\n  {0}")]
    Problems(#[from] Problems),
    #[error("the backup {} can't be made: {reason}", path.display())]
    Backup { path: PathBuf, reason: String },
}

fn open(path: &Path) -> Result<Connection, SqliteError> {
    let failed = |error: rusqlite::Error| SqliteError::Open {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    // A file that is no database is found out here.
    connection
        .query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))
        .map_err(failed)?;
    Ok(connection)
}

/// Makes a consistent copy (mode 0600) of the database in `from`, while others may write to it. `to`
/// must not exist.
///
/// # Errors
/// [`SqliteError`]; then there is no file at `to` that was not there before.
pub(crate) fn back_up(from: &Path, to: &Path) -> Result<(), SqliteError> {
    let failed = |reason: String| SqliteError::Backup {
        path: to.to_owned(),
        reason,
    };
    let source = open(from)?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(|error| failed(error.to_string()))?;
    let copied = copy(&source, to);
    if copied.is_err() {
        drop(std::fs::remove_file(to));
    }
    copied.map_err(|error| failed(error.to_string()))
}

fn copy(source: &Connection, to: &Path) -> rusqlite::Result<()> {
    let mut target = Connection::open(to)?;
    Backup::new(source, &mut target)?.run_to_completion(PAGES_PER_STEP, PAUSE, None)?;
    target.query_row("PRAGMA integrity_check", [], |row| {
        let word: String = row.get(0)?;
        let sound = word == "ok";
        sound.then_some(()).ok_or(rusqlite::Error::InvalidQuery)
    })
}

/// Everything in the database, as it is at one moment, checked.
///
/// # Errors
/// [`SqliteError`]; [`SqliteError::Problems`] holds all that is wrong with its rows.
pub(crate) fn read(path: &Path) -> Result<Snapshot, SqliteError> {
    let mut connection = open(path)?;
    let moment = connection
        .transaction()
        .map_err(|error| table("users", &error))?;
    let mut reading = Reading::default();
    reading.all(&moment, "users", USERS, user)?;
    reading.all(&moment, "rooms", ROOMS, room)?;
    reading.all(&moment, "members", MEMBERS, member)?;
    reading.all(&moment, "room_keys", ROOM_KEYS, room_key)?;
    if !reading.problems.is_empty() {
        return Err(Problems(reading.problems).into());
    }
    reading.snapshot.check()?;
    Ok(reading.snapshot)
}

const USERS: &str =
    "SELECT sign_pub, name, role, status, grants, created_at, revoked_at FROM users";
const ROOMS: &str =
    "SELECT id, subject, policy, owner, epoch, created_at, owner_signature, needs_rekey FROM rooms";
const MEMBERS: &str = "SELECT room_id, endpoint, sign_pub, kex_pub, role, joined_at, inviter, inviter_signature FROM members";
const ROOM_KEYS: &str =
    "SELECT room_id, epoch, endpoint, sealed_key, sealer, sealer_signature FROM room_keys";

fn table(table: &'static str, error: &rusqlite::Error) -> SqliteError {
    SqliteError::Table {
        table,
        reason: error.to_string(),
    }
}

/// What was read so far, and every row that is none.
#[derive(Default)]
struct Reading {
    snapshot: Snapshot,
    problems: Vec<String>,
}

impl Reading {
    fn all(
        &mut self,
        moment: &Transaction<'_>,
        name: &'static str,
        sql: &str,
        take: fn(&mut Snapshot, &Cells<'_, '_>) -> Result<(), String>,
    ) -> Result<(), SqliteError> {
        let failed = |error: rusqlite::Error| table(name, &error);
        let mut statement = moment.prepare(sql).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut number = 0u64;
        while let Some(row) = rows.next().map_err(failed)? {
            number += 1;
            if let Err(problem) = take(&mut self.snapshot, &Cells(row)) {
                self.problems
                    .push(format!("table {name}, row {number}: {problem}"));
            }
        }
        Ok(())
    }
}

/// A row, whose columns are read by name.
struct Cells<'a, 'b>(&'a Row<'b>);

impl Cells<'_, '_> {
    fn get(&self, column: &str) -> Result<ValueRef<'_>, String> {
        self.0.get_ref(column).map_err(|error| error.to_string())
    }

    fn text(&self, column: &str) -> Result<String, String> {
        self.maybe(column)?
            .ok_or_else(|| format!("{column} is NULL"))
    }

    fn maybe(&self, column: &str) -> Result<Option<String>, String> {
        match self.get(column)? {
            ValueRef::Null => Ok(None),
            ValueRef::Text(text) => match std::str::from_utf8(text) {
                Ok(text) => Ok(Some(text.to_owned())),
                Err(_) => Err(format!("{column} is no UTF-8")),
            },
            other => Err(format!("{column} is {}, wanted text", other.data_type())),
        }
    }

    fn number(&self, column: &str) -> Result<u64, String> {
        match self.get(column)? {
            ValueRef::Integer(number) => {
                u64::try_from(number).map_err(|_| format!("{column} is {number}, wanted 0 or more"))
            }
            other => Err(format!(
                "{column} is {}, wanted a number",
                other.data_type()
            )),
        }
    }

    /// RFC 3339, from text in that form or from Unix seconds (which a column of text makes text).
    fn time(&self, column: &str) -> Result<Option<String>, String> {
        let text = match self.get(column)? {
            ValueRef::Integer(seconds) => seconds.to_string(),
            _ => match self.maybe(column)? {
                Some(text) => text,
                None => return Ok(None),
            },
        };
        let wrong = || format!("{column} is {text:?}, wanted RFC 3339 or Unix seconds");
        if OffsetDateTime::parse(&text, &Rfc3339).is_ok() {
            return Ok(Some(text));
        }
        let seconds = text.parse().map_err(|_| wrong())?;
        let moment = OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| wrong())?;
        moment.format(&Rfc3339).map(Some).map_err(|_| wrong())
    }

    fn parsed<T: std::str::FromStr>(&self, column: &str) -> Result<T, String>
    where
        T::Err: std::fmt::Display,
    {
        let text = self.text(column)?;
        text.parse()
            .map_err(|error| format!("{column} is {text:?}: {error}"))
    }

    /// A word or JSON of a type that is written as either.
    fn worded<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<T, String> {
        let text = self.text(column)?;
        let json = if text.starts_with('{') {
            text.clone()
        } else {
            serde_json::Value::String(text.clone()).to_string()
        };
        serde_json::from_str(&json).map_err(|error| format!("{column} is {text:?}: {error}"))
    }
}

fn wanted(column: &str) -> impl FnOnce() -> String {
    let words = format!("{column} is NULL");
    move || words
}

/// Takes a record where it belongs, unless it is none.
fn take(
    snapshot: &mut Snapshot,
    bucket: Bucket,
    key: String,
    record: &Record,
) -> Result<(), String> {
    let place = Place { bucket, key };
    // Through its own form, so that it passes what a stored record has to.
    let record = Record::decode(&place, &record.encode())?;
    snapshot.insert(place, record);
    Ok(())
}

fn user(snapshot: &mut Snapshot, row: &Cells<'_, '_>) -> Result<(), String> {
    let sign_pub = row.parsed::<SignPublic>("sign_pub")?.to_string();
    let grants = match row.maybe("grants")? {
        Some(json) if !json.is_empty() => {
            serde_json::from_str(&json).map_err(|error| format!("grants: {error}"))?
        }
        _ => Grants::default(),
    };
    let record = UserRecord {
        sign_pub: sign_pub.clone(),
        name: row.maybe("name")?.unwrap_or_default(),
        role: row.worded("role")?,
        status: row.worded("status")?,
        grants,
        created_at: row.time("created_at")?.ok_or_else(wanted("created_at"))?,
        revoked_at: row.time("revoked_at")?,
    };
    take(snapshot, Bucket::Users, sign_pub, &Record::User(record))
}

fn room(snapshot: &mut Snapshot, row: &Cells<'_, '_>) -> Result<(), String> {
    let id: RoomId = row.parsed("id")?;
    let record = RoomRecord {
        id: id.clone(),
        subject: row.parsed("subject")?,
        policy: row.worded("policy")?,
        owner: row.parsed("owner")?,
        epoch: row.number("epoch")?,
        created_at: row.time("created_at")?.ok_or_else(wanted("created_at"))?,
        owner_signature: row.text("owner_signature")?,
        needs_rekey: row.number("needs_rekey")? != 0,
    };
    take(
        snapshot,
        Bucket::Rooms,
        id.to_string(),
        &Record::Room(record),
    )
}

fn member(snapshot: &mut Snapshot, row: &Cells<'_, '_>) -> Result<(), String> {
    let room: RoomId = row.parsed("room_id")?;
    let record = MemberRecord {
        endpoint: row.parsed("endpoint")?,
        sign_pub: row.parsed("sign_pub")?,
        kex_pub: row.parsed("kex_pub")?,
        role: row.worded("role")?,
        joined_at: row.time("joined_at")?,
        inviter: row.parsed("inviter")?,
        inviter_signature: row.text("inviter_signature")?,
    };
    if record.sign_pub.endpoint() != record.endpoint {
        return Err(format!(
            "endpoint {} does not follow from sign_pub",
            record.endpoint
        ));
    }
    snapshot.put_member(&room, record);
    Ok(())
}

fn room_key(snapshot: &mut Snapshot, row: &Cells<'_, '_>) -> Result<(), String> {
    let room: RoomId = row.parsed("room_id")?;
    let epoch = row.number("epoch")?;
    let endpoint: unibus_proto::control::EndpointId = row.parsed("endpoint")?;
    let sealed_key = match row.get("sealed_key")? {
        ValueRef::Blob(bytes) => BASE64.encode(bytes),
        _ => row.text("sealed_key")?,
    };
    if BASE64.decode(sealed_key.as_bytes()).is_err() {
        return Err("sealed_key is no base64".to_owned());
    }
    let record = SealedKeyRecord {
        sealed_key,
        sealer: row.parsed("sealer")?,
        sealer_signature: row.text("sealer_signature")?,
    };
    let key = format!("{room}.{epoch}.{endpoint}");
    take(snapshot, Bucket::RoomKeys, key, &Record::Key(record))
}
