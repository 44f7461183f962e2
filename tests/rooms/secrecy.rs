//! What was said, and every key, is looked for where a server could have it: its disk, its log and its
//! memory (`wire` looks at what passes between). The search itself is tested on what has to be there.

use std::path::Path;

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use unibus_client::rooms::blob::BlobRef;
use unibus_client::{FileInfo, NewRoom, Session, Speech, Start};
use unibus_proto::control::RoomId;

use crate::world::{World, admit_to_room, next_text};

pub(crate) const PLAINTEXT: &str = "the-plaintext-that-nobody-but-members-may-ever-see";
pub(crate) const FILE_TEXT: &str = "the-file-that-nobody-but-members-may-ever-see";
/// A room's subject is known to the servers: what the search finds for sure.
pub(crate) const SUBJECT: &str = "secret.subject-that-servers-know";

/// What nobody but members may have, in every form that it could be written in.
pub(crate) struct Secrets(Vec<(&'static str, Vec<u8>)>);

impl Secrets {
    /// What was said and shared, the room's keys up to `epoch`, and the people's own.
    pub(crate) async fn of(
        people: &[&Session],
        room: &RoomId,
        epoch: u64,
        file: &BlobRef,
    ) -> anyhow::Result<Self> {
        let mut all = Self(Vec::new());
        all.add("plaintext", PLAINTEXT.as_bytes());
        all.add("file", FILE_TEXT.as_bytes());
        all.add("file's reference", &file.encode());
        all.add("file's reference", file.to_text().as_bytes());
        for session in people {
            for epoch in 1..=epoch {
                let key = session.room_key(room, epoch).await?;
                all.add("room key", key.reveal());
            }
            let kex = session.identity().agreement().to_bytes();
            all.add("key-agreement key", kex.as_slice());
            let seed = session.identity().signing().to_nkey();
            all.add("signing key", seed.as_bytes());
        }
        Ok(all)
    }

    fn add(&mut self, what: &'static str, secret: &[u8]) {
        let hex = HEXLOWER.encode(secret);
        for form in [
            hex.to_uppercase(),
            hex,
            BASE64.encode(secret),
            BASE64URL_NOPAD.encode(secret),
        ] {
            self.0.push((what, form.into_bytes()));
        }
        self.0.push((what, secret.to_vec()));
    }

    pub(crate) fn assert_absent<'a>(&self, all: impl Iterator<Item = &'a Vec<u8>>, place: &str) {
        for bytes in all {
            for (what, secret) in &self.0 {
                assert!(!contains(bytes, secret), "{place} holds a {what}");
            }
        }
    }
}

#[tokio::test]
async fn a_node_holds_no_plaintext_and_no_key() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person(0).await?, world.person(1).await?);
    let room = alice.create_room(NewRoom::new(SUBJECT.parse()?)).await?;
    admit_to_room(&alice, &room, &bob).await?;
    let mut heard = bob.subscribe(&room, Start::Beginning).await?;
    for _ in 0..20 {
        alice.publish(&room, PLAINTEXT).await?;
        assert_eq!(next_text(&mut heard).await?, PLAINTEXT);
    }
    let file = FILE_TEXT.repeat(1000);
    let stored = alice
        .put_blob(file.as_bytes(), FileInfo::default(), |_| {})
        .await?;
    alice.publish(&room, Speech::file(&stored)).await?;

    let secrets = Secrets::of(&[&alice, &bob], &room, 1, &stored).await?;
    for at in 0..world.cluster.nodes.len() {
        let node = &world.cluster.nodes[at];
        let mut disk = Vec::new();
        files(&world.cluster.data_dir(at), &mut disk)?;
        let log = vec![node.log_text().into_bytes()];
        // What the node has not kept may still be in what it has freed.
        let memory = node.memory()?;
        for (place, all) in [("disk", &disk), ("log", &log), ("memory", &memory)] {
            secrets.assert_absent(all.iter(), &format!("the {place} of node {at}"));
        }
        for (place, all) in [("disk", &disk), ("memory", &memory)] {
            let known = all.iter().any(|bytes| contains(bytes, SUBJECT.as_bytes()));
            assert!(
                known,
                "the search finds nothing in the {place} of node {at}"
            );
        }
    }
    Ok(())
}

pub(crate) fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    memchr::memmem::find(bytes, wanted).is_some()
}

fn files(folder: &Path, all: &mut Vec<Vec<u8>>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, all)?;
        } else {
            all.push(std::fs::read(&path)?);
        }
    }
    Ok(())
}
