//! Moving the control plane as a whole: a membershipd database into a cluster, and snapshots out of
//! one cluster and into another.

use std::path::{Path, PathBuf};

use anyhow::Context;
use rusqlite::{Connection, params};
use serde_json::Value;
use unibus_proto::control::{
    MemberRole, Policy, member_statement, room_statement, sealed_key_statement,
};

use crate::commands::{ended, run};
use crate::golden::{join, with_room};
use crate::people::{Person, fresh};
use crate::world::World;

const TABLES: [&str; 4] = ["users", "rooms", "members", "room_keys"];

/// A membershipd database and those in it.
struct Sample {
    path: PathBuf,
    admin: Person,
    owner: Person,
    guest: Person,
    revoked: Person,
    room: String,
    subject: String,
}

impl Sample {
    /// A database with the documented tables: an encrypted, persisted room at epoch 3, a member that
    /// has joined, and one user who was revoked.
    fn make(dir: &Path) -> anyhow::Result<Self> {
        let sample = Self {
            path: dir.join("membership.sqlite"),
            admin: Person::new(),
            owner: Person::new(),
            guest: Person::new(),
            revoked: Person::new(),
            room: fresh("old"),
            subject: fresh("room."),
        };
        let db = Connection::open(&sample.path)?;
        let schema = run(&["migrate-to-kv", "--schema"])?;
        db.execute_batch(std::str::from_utf8(&schema.stdout)?)?;
        let people = [
            (&sample.admin, "admin", None),
            (&sample.owner, "member", None),
            (&sample.guest, "member", None),
            (&sample.revoked, "member", Some(1_780_000_000)),
        ];
        for (person, role, revoked_at) in people {
            let status = if revoked_at.is_some() {
                "revoked"
            } else {
                "active"
            };
            db.execute(
                "INSERT INTO users VALUES (?1, 'somebody', ?2, ?3, NULL, '2026-01-02T03:04:05Z', ?4)",
                params![person.sign_pub().to_uppercase(), role, status, revoked_at],
            )?;
        }
        sample.add_room(&db)?;
        Ok(sample)
    }

    fn add_room(&self, db: &Connection) -> anyhow::Result<()> {
        let (id, place) = (self.room.parse()?, self.subject.parse()?);
        let party = self.owner.party();
        let statement = room_statement(&id, &place, &Policy::MATRIX, &party);
        let signature = self.owner.seed().sign(statement.as_bytes());
        db.execute(
            "INSERT INTO rooms VALUES (?1, ?2, 'matrix', ?3, 3, 1770000000, ?4, 0)",
            params![self.room, self.subject, party.endpoint.as_str(), signature],
        )?;
        for (person, role) in [
            (&self.owner, MemberRole::Owner),
            (&self.guest, MemberRole::Member),
        ] {
            let member = person.party();
            let statement = member_statement(&id, &member, role);
            db.execute(
                "INSERT INTO members VALUES (?1, ?2, ?3, ?4, ?5, '2026-01-03T00:00:00Z', ?6, ?7)",
                params![
                    self.room,
                    member.endpoint.as_str(),
                    person.sign_pub(),
                    member.kex_pub.as_str(),
                    role.as_str(),
                    party.endpoint.as_str(),
                    self.owner.seed().sign(statement.as_bytes()),
                ],
            )?;
            for epoch in 1..=3i64 {
                let sealed = format!("sealed {epoch}");
                let statement =
                    sealed_key_statement(&id, epoch as u64, &member.endpoint, sealed.as_bytes());
                db.execute(
                    "INSERT INTO room_keys VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    params![
                        self.room,
                        epoch,
                        member.endpoint.as_str(),
                        // As a BLOB: the other form is text.
                        sealed.as_bytes(),
                        party.endpoint.as_str(),
                        self.owner.seed().sign(statement.as_bytes()),
                    ],
                )?;
            }
        }
        Ok(())
    }

    fn migrate(&self, world: &World, more: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
        let db = self.path.display().to_string();
        command(world, &[&["migrate-to-kv", "--db", &db], more].concat())
    }

    fn backups(&self) -> anyhow::Result<Vec<PathBuf>> {
        let folder = self.path.parent().context("a folder")?;
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.display().to_string();
            // SQLite's own files beside a database that is open are no backups.
            if name.contains(".sqlite.backup-") && name.ends_with('Z') {
                found.push(path);
            }
        }
        Ok(found)
    }
}

/// Runs a command against a world's first node, as that node.
fn command(world: &World, words: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let identity = world.identity().display().to_string();
    let url = world.nats.first().context("a node")?;
    let target = ["--internal-id-file", &identity, "--nats-url", url];
    Ok(ended(&run(&[words, &target].concat())?))
}

/// Every row of every table, in order.
fn rows(path: &Path) -> anyhow::Result<Vec<String>> {
    let db = Connection::open(path)?;
    let mut all = Vec::new();
    for table in TABLES {
        let mut statement = db.prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2, 3"))?;
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let mut text = table.to_owned();
            for column in 0..columns {
                text.push_str(&format!("|{:?}", row.get_ref(column)?));
            }
            all.push(text);
        }
    }
    Ok(all)
}

/// The last sequences of the buckets: a write anywhere raises one.
async fn sequences(world: &World) -> anyhow::Result<Vec<u64>> {
    let context = async_nats::jetstream::new(world.internal().await?);
    let mut seqs = Vec::new();
    for bucket in ["users", "rooms", "members", "rooms_by_member", "room_keys"] {
        let stream = context.get_stream(format!("KV_UNIBUS_{bucket}")).await?;
        seqs.push(stream.get_info().await?.state.last_sequence);
    }
    Ok(seqs)
}

#[tokio::test]
async fn a_database_is_moved_into_a_cluster_once() -> anyhow::Result<()> {
    let world = World::cluster().await?;
    let dir = tempfile::tempdir()?;
    let sample = Sample::make(dir.path())?;
    let before = rows(&sample.path)?;
    assert_eq!(before.len(), 4 + 1 + 2 + 6);
    // Somebody writes to the database meanwhile, and has not committed.
    let writer = Connection::open(&sample.path)?;
    writer.pragma_update(None, "journal_mode", "WAL")?;
    writer.execute_batch("BEGIN IMMEDIATE; DELETE FROM users;")?;
    let (code, text) = sample.migrate(&world, &["--replicas", "3"])?;
    assert_eq!(code, Some(0), "{text}");
    for part in [
        "4 users, 1 room, 2 members, 6 sealed keys",
        "compared: every record",
    ] {
        assert!(text.contains(part), "{text}");
    }
    writer.execute_batch("ROLLBACK")?;
    drop(writer);
    let backups = sample.backups()?;
    assert_eq!(backups.len(), 1);
    assert_eq!(rows(&backups[0])?, before, "the backup differs");
    assert_eq!(rows(&sample.path)?, before, "the database was changed");
    moved(&world, &sample).await?;
    again(&world, &sample).await
}

/// What was moved is in force: real epochs, real statuses, live permissions.
async fn moved(world: &World, sample: &Sample) -> anyhow::Result<()> {
    let (here, there) = (world.http[0], world.other());
    let room = format!("/rooms/{}", sample.room);
    for person in [&sample.owner, &sample.guest] {
        let found = person.get(there, &room).await?.expect(200).json();
        assert_eq!(found["epoch"], 3, "{found}");
        for epoch in 1..=3 {
            let uri = format!("{room}/key?endpoint={}&epoch={epoch}", person.endpoint());
            let key = person.get(there, &uri).await?.expect(200).json();
            let sealed = data_encoding::BASE64.encode(format!("sealed {epoch}").as_bytes());
            assert_eq!(key["sealed_key"], sealed.as_str());
        }
    }
    sample.admin.get(here, "/users").await?.expect(200);
    sample.admin.get(here, &room).await?.expect(403);
    let mine = format!("/members/{}/rooms", sample.revoked.endpoint());
    sample.revoked.get(here, &mine).await?.expect(401);
    assert!(world.client(0, &sample.revoked).await.is_err());
    // The room's stream is there, and takes what its members say.
    let client = world.client(2, &sample.guest).await?;
    let context = async_nats::jetstream::new(client);
    let said = context
        .publish(sample.subject.clone(), "hello".into())
        .await?;
    assert_eq!(said.await?.stream, format!("UNIBUS_{}", sample.room));
    // Life goes on from epoch 3.
    let rekey = sample
        .owner
        .rekey(&sample.room, 4, &[&sample.owner, &sample.guest]);
    let uri = format!("{room}/rekey");
    sample.owner.post(there, &uri, &rekey).await?.expect(200);
    Ok(())
}

/// A second time changes nothing, and nothing goes back behind what the cluster did since.
async fn again(world: &World, sample: &Sample) -> anyhow::Result<()> {
    let before = sequences(world).await?;
    let (code, text) = sample.migrate(world, &["--no-backup"])?;
    assert_eq!(code, Some(1), "the cluster is at epoch 4: {text}");
    assert!(text.contains("further with this room"), "{text}");
    assert_eq!(sequences(world).await?, before, "something was written");
    let (code, text) = sample.migrate(world, &["--no-backup", "--roll-back"])?;
    assert_eq!(code, Some(0), "{text}");
    let before = sequences(world).await?;
    for _ in 0..2 {
        let (code, text) = sample.migrate(world, &["--no-backup"])?;
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("wrote 0 records"), "{text}");
    }
    assert_eq!(sequences(world).await?, before, "a second run wrote");
    let uri = format!("/users/{}/revoke", sample.guest.sign_pub());
    world
        .admin
        .post(world.http[0], &uri, &Value::Null)
        .await?
        .expect(200);
    let (code, text) = sample.migrate(world, &["--no-backup"])?;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("has revoked this user"), "{text}");
    let mine = format!("/members/{}/rooms", sample.guest.endpoint());
    sample.guest.get(world.http[0], &mine).await?.expect(401);
    let (code, text) = sample.migrate(world, &["--no-backup", "--replicas", "4"])?;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("--replicas wants 4"), "{text}");
    assert_eq!(sample.backups()?.len(), 1, "--no-backup made one");
    Ok(())
}

#[tokio::test]
async fn a_database_that_is_no_whole_changes_nothing() -> anyhow::Result<()> {
    let world = World::single().await?;
    let before = sequences(&world).await?;
    let dir = tempfile::tempdir()?;
    let sample = Sample::make(dir.path())?;
    let db = Connection::open(&sample.path)?;
    db.execute_batch(
        "UPDATE members SET endpoint = '00000000000000000000000000000000' WHERE role = 'member';
         UPDATE users SET role = 'root' WHERE role = 'admin';
         UPDATE rooms SET epoch = 0;",
    )?;
    let (code, text) = sample.migrate(&world, &[])?;
    assert_eq!(code, Some(1), "{text}");
    for word in [
        "table members",
        "does not follow",
        "table users",
        "root",
        "table rooms",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    db.execute_batch("DROP TABLE room_keys")?;
    let (code, text) = sample.migrate(&world, &[])?;
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("room_keys") && text.contains("--schema"),
        "{text}"
    );
    std::fs::write(
        &sample.path,
        "this is no database, only some text that is long enough",
    )?;
    let (code, text) = sample.migrate(&world, &[])?;
    assert_eq!(code, Some(1), "{text}");
    assert_eq!(sequences(&world).await?, before, "something was written");
    Ok(())
}

/// The lines of a snapshot without the first and the last, which have times and digests.
fn lines(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(path)?;
    let all: Vec<String> = text.lines().map(str::to_owned).collect();
    let records = all
        .get(1..all.len() - 1)
        .context("a first and a last line")?;
    Ok(records.to_vec())
}

fn half_a_file_is_no_snapshot(world: &World, first: &str, half: &str) -> anyhow::Result<()> {
    let whole = std::fs::read(first)?;
    std::fs::write(half, whole.get(..whole.len() / 2).context("half")?)?;
    let (code, text) = command(world, &["snapshot", "import", half])?;
    assert_eq!(code, Some(1), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_snapshot_of_one_cluster_is_another_ones_beginning() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (first, second) = (path("first.jsonl"), path("second.jsonl"));
    let world = World::single().await?;
    let (owner, id, _) = with_room(&world).await?;
    let guest = world.person().await?;
    join(&world, &owner, &id, &guest).await?;
    let blob = vec![7u8; 3 * 1024 * 1024 + 5];
    let stored = owner
        .request("POST", "/blobs", &blob)
        .send(world.http[0])
        .await?;
    let hash = stored.expect(201).json()["hash"]
        .as_str()
        .context("a hash")?
        .to_owned();
    let (code, text) = command(&world, &["snapshot", "export", &first])?;
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("3 users, 1 room, 2 members, 2 sealed keys, 1 blobs"),
        "{text}"
    );
    let (code, text) = command(&world, &["snapshot", "export", &first])?;
    assert_eq!(code, Some(1), "a snapshot was overwritten: {text}");

    let other = World::single().await?;
    let (code, text) = command(&other, &["snapshot", "import", &first, "--dry-run"])?;
    assert_eq!(code, Some(0), "{text}");
    owner
        .get(other.http[0], &format!("/rooms/{id}"))
        .await?
        .expect(401);
    let mut seen = Vec::new();
    for wrote in ["wrote 10 records", "wrote 0 records"] {
        let (code, text) = command(&other, &["snapshot", "import", &first])?;
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains(wrote), "{text}");
        seen.push(sequences(&other).await?);
    }
    assert_eq!(seen[0], seen[1], "a second import wrote");
    guest
        .get(other.http[0], &format!("/rooms/{id}"))
        .await?
        .expect(200);
    let fetched = guest.get(other.http[0], &format!("/blobs/{hash}")).await?;
    assert_eq!(fetched.expect(200).body, blob);
    let (code, text) = command(&other, &["snapshot", "export", &second])?;
    assert_eq!(code, Some(0), "{text}");
    let theirs = lines(Path::new(&second))?;
    for line in lines(Path::new(&first))? {
        assert!(theirs.contains(&line), "{line}");
    }

    half_a_file_is_no_snapshot(&other, &first, &path("half.jsonl"))?;
    // A room cannot come in on a subject that another one has.
    let thief = World::single().await?;
    let holder = thief.person().await?;
    let taken = owner
        .get(world.http[0], &format!("/rooms/{id}"))
        .await?
        .json();
    let subject = taken["subject"].as_str().context("a subject")?;
    let body = holder.room(&fresh("r"), subject, Policy::MATRIX);
    holder
        .post(thief.http[0], "/rooms", &body)
        .await?
        .expect(201);
    let before = sequences(&thief).await?;
    let (code, text) = command(&thief, &["snapshot", "import", &first])?;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("has its subject"), "{text}");
    assert_eq!(sequences(&thief).await?, before);
    Ok(())
}
