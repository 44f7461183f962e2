//! What was said, and every key, is looked for where a server could have it: its disk and its
//! memory, which everything that crosses the wire to it passes through. The search itself is tested on what
//! has to be there.

use std::path::Path;

use unibus_client::{FileInfo, NewRoom, Speech, Start};

use crate::world::{World, admit_to_room, next_text};

const PLAINTEXT: &str = "the-plaintext-that-nobody-but-members-may-ever-see";
const FILE_TEXT: &str = "the-file-that-nobody-but-members-may-ever-see";
/// A room's subject is known to the servers: what the search finds for sure.
const SUBJECT: &str = "secret.subject-that-servers-know";

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

    let mut secrets: Vec<(&str, Vec<u8>)> = vec![
        ("plaintext", PLAINTEXT.into()),
        ("file", FILE_TEXT.into()),
        ("file's reference", stored.encode()),
    ];
    for session in [&alice, &bob] {
        let key = session.room_key(&room, 1).await?;
        secrets.push(("room key", key.reveal().to_vec()));
        let hex = data_encoding::HEXLOWER.encode(key.reveal());
        secrets.push(("room key in hex", hex.into_bytes()));
        let kex = session.identity().agreement().to_bytes();
        secrets.push(("key-agreement key", kex.to_vec()));
        let seed = session.identity().signing().to_nkey();
        secrets.push(("signing key", seed.into_bytes()));
    }
    for at in 0..world.cluster.nodes.len() {
        let mut known = 0;
        for bytes in everything(&world, at)? {
            known += usize::from(contains(&bytes, SUBJECT.as_bytes()));
            for (what, secret) in &secrets {
                assert!(!contains(&bytes, secret), "node {at} holds a {what}");
            }
        }
        assert!(known > 0, "the search finds nothing at all on node {at}");
    }
    Ok(())
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    memchr::memmem::find(bytes, wanted).is_some()
}

/// A node's files, its log and its memory.
fn everything(world: &World, at: usize) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    files(&world.cluster.data_dir(at), &mut all)?;
    let node = &world.cluster.nodes[at];
    all.push(node.log_text().into_bytes());
    all.extend(node.memory()?);
    Ok(all)
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
