//! Blobs: once per content, streamed back whole or in part, visible as objects to the node itself.

use anyhow::{Context, ensure};
use futures::TryStreamExt;
use sha2::{Digest, Sha256};
use unibus_testkit::{PATIENCE, eventually};

use crate::people::Person;
use crate::world::World;

const MIB: usize = 1024 * 1024;

fn hash(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

async fn fetch(
    port: u16,
    person: &Person,
    hash: &str,
    range: &str,
) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut request = person.request("GET", &format!("/blobs/{hash}"), b"");
    if !range.is_empty() {
        request.headers.push(("range", range.to_owned()));
    }
    let answer = request.send(port).await?;
    Ok((answer.status, answer.body))
}

#[tokio::test]
async fn a_blob_is_stored_once_and_streamed_back_in_whole_and_in_part() -> anyhow::Result<()> {
    let world = World::single().await?;
    let person = world.person().await?;
    let port = world.http[0];
    // Not a multiple of a chunk, and more than one batch of them.
    let blob: Vec<u8> = (0..MIB + MIB / 2 + 12_345)
        .map(|at| (at * 7 % 251) as u8)
        .collect();
    let name = hash(&blob);
    for _ in 0..2 {
        let stored = person
            .request("POST", "/blobs", &blob)
            .send(port)
            .await?
            .expect(201);
        assert_eq!(stored.json()["hash"], name.as_str());
    }
    assert_eq!(fetch(port, &person, &name, "").await?, (200, blob.clone()));
    let parts = [
        ("bytes=0-0", 0..1),
        ("bytes=131071-131073", 131_071..131_074),
        ("bytes=1000000-", 1_000_000..blob.len()),
        ("bytes=-10", blob.len() - 10..blob.len()),
    ];
    for (range, part) in parts {
        let fetched = fetch(port, &person, &name, range).await?;
        assert_eq!(fetched, (206, blob[part].to_vec()), "{range}");
    }
    assert_eq!(fetch(port, &person, &name, "bytes=99999999-").await?.0, 416);
    assert_eq!(fetch(port, &person, &hash(b"other"), "").await?.0, 404);
    assert_eq!(fetch(port, &Person::new(), &name, "").await?.0, 401);
    let uri = format!("/blobs/{name}");
    let request = person.request("HEAD", &uri, b"").bytes();
    let mut stream = crate::world::connect(port, [127, 0, 0, 1]).await?;
    tokio::io::AsyncWriteExt::write_all(&mut stream, &request).await?;
    let head = crate::world::read_answer(&mut stream, true)
        .await?
        .expect(200);
    assert_eq!(
        head.header("content-length"),
        Some(blob.len().to_string().as_str())
    );
    stored_once(&world, &name, &blob).await
}

/// The internal identity sees the one object through an ordinary client.
async fn stored_once(world: &World, name: &str, blob: &[u8]) -> anyhow::Result<()> {
    let context = async_nats::jetstream::new(world.internal().await?);
    let stream = context.get_stream("OBJ_UNIBUS_blobs").await?;
    let chunks = blob.len().div_ceil(128 * 1024) as u64;
    let messages = stream.get_info().await?.state.messages;
    assert_eq!(messages, chunks + 1, "chunks and one info");
    let store = context.get_object_store("UNIBUS_blobs").await?;
    let info = store.info(name).await?;
    assert_eq!(info.size, blob.len());
    let kv = context.get_key_value("UNIBUS_users").await?;
    assert!(kv.entry(world.admin.sign_pub()).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_blob_is_the_same_on_every_node() -> anyhow::Result<()> {
    let world = World::cluster().await?;
    let person = world.person().await?;
    let blob = vec![42u8; 300_000];
    person
        .request("POST", "/blobs", &blob)
        .send(world.http[0])
        .await?
        .expect(201);
    for port in &world.http {
        let fetched = eventually("the blob", PATIENCE, || async {
            fetch(*port, &person, &hash(&blob), "").await
        })
        .await?;
        assert_eq!(fetched, (200, blob.clone()));
    }
    Ok(())
}

/// How many uploads have chunks, seen by the internal identity.
async fn uploads(world: &World) -> anyhow::Result<usize> {
    let context = async_nats::jetstream::new(world.internal().await?);
    let stream = context.get_stream("OBJ_UNIBUS_blobs").await?;
    let chunks = stream
        .info_with_subjects("$O.UNIBUS_blobs.C.>")
        .await?
        .try_collect::<Vec<_>>()
        .await?;
    Ok(chunks.len())
}

#[tokio::test]
async fn a_blob_that_lost_its_chunks_is_stored_again() -> anyhow::Result<()> {
    let world = World::single().await?;
    let (person, port) = (world.person().await?, world.http[0]);
    let (blob, other) = (vec![7u8; 200_000], vec![8u8; 10]);
    for bytes in [&blob, &other] {
        let request = person.request("POST", "/blobs", bytes);
        request.send(port).await?.expect(201);
    }
    let context = async_nats::jetstream::new(world.internal().await?);
    let stream = context.get_stream("OBJ_UNIBUS_blobs").await?;
    let purged = stream.purge().filter("$O.UNIBUS_blobs.C.>").await?;
    assert_eq!(purged.purged, 3);
    assert_eq!(fetch(port, &person, &hash(&blob), "").await?.0, 404);
    let request = person.request("POST", "/blobs", &blob);
    request.send(port).await?.expect(201);
    let fetched = fetch(port, &person, &hash(&blob), "").await?;
    assert_eq!(fetched, (200, blob));
    assert_eq!(fetch(port, &person, &hash(&other), "").await?.0, 404);
    Ok(())
}

#[tokio::test]
async fn an_upload_of_unknown_outcome_leaves_nothing() -> anyhow::Result<()> {
    let world = World::cluster().await?;
    let person = world.person().await?;
    let cluster = world.cluster.as_ref().context("a cluster")?;
    let leader = cluster.leader(0).await?;
    let others = || (0..cluster.nodes.len()).filter(|at| *at != leader);
    let port = world.http[leader];
    let blob = vec![9u8; 12 * MIB];
    let request = person.request("POST", "/blobs", &blob);
    let (cut, asked) = tokio::join!(
        async {
            // In the middle of the upload, nobody is there any more to say that anything is stored.
            eventually("an upload", PATIENCE, || async {
                ensure!(uploads(&world).await? > 0, "nothing yet");
                Ok(())
            })
            .await?;
            others().try_for_each(|at| cluster.nodes[at].signal("STOP"))
        },
        request.send(port),
    );
    for at in others() {
        cluster.nodes[at].signal("CONT")?;
    }
    cut?;
    asked?.expect(503);
    eventually("nothing of the upload", PATIENCE, || async {
        let left = uploads(&world).await?;
        let stored = fetch(port, &person, &hash(&blob), "").await?.0;
        ensure!(
            left == usize::from(stored == 200),
            "{left} uploads, {stored}"
        );
        // What is settled later than this has been asked for again.
        ensure!(stored == 200 || stored == 404, "{stored}");
        Ok(())
    })
    .await?;
    let request = person.request("POST", "/blobs", &blob);
    request.send(port).await?.expect(201);
    let fetched = fetch(port, &person, &hash(&blob), "").await?;
    assert_eq!(fetched, (200, blob));
    assert_eq!(uploads(&world).await?, 1);
    Ok(())
}
