//! What is enforced before anybody is asked who they are: sizes, rates, the budget of all bodies,
//! and time.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use unibus_testkit::PATIENCE;

use crate::people::Person;
use crate::world::{World, connect, raw, read_answer};

const MIB: usize = 1024 * 1024;
const HOME: [u8; 4] = [127, 0, 0, 1];

#[tokio::test]
async fn oversized_bodies_are_cut_whether_declared_or_not() -> anyhow::Result<()> {
    let world = World::single().await?;
    let (person, port) = (world.person().await?, world.http[0]);
    // Declared: refused before a byte of it is sent.
    for (path, length) in [
        ("/rooms", MIB + 1),
        ("/blobs", 16 * MIB + 1),
        ("/rooms", usize::MAX / 2),
    ] {
        let head = format!("POST {path} HTTP/1.1\r\nhost: n\r\ncontent-length: {length}\r\n\r\n");
        let mut stream = connect(port, HOME).await?;
        stream.write_all(head.as_bytes()).await?;
        read_answer(&mut stream, false).await?.expect(413);
    }
    // Chunked: cut at the ceiling.
    let mut chunked =
        b"POST /rooms HTTP/1.1\r\nhost: n\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..17 {
        chunked.extend_from_slice(b"10000\r\n");
        chunked.extend_from_slice(&[b'x'; 0x10000]);
        chunked.extend_from_slice(b"\r\n");
    }
    raw(port, HOME, &chunked).await?.expect(413);
    // The twin: as much as is allowed.
    let full = person.request("POST", "/blobs", &vec![7; 16 * MIB]);
    full.send(port).await?.expect(201);
    let json = person.request("POST", "/rooms", &vec![b' '; MIB]);
    json.send(port).await?.expect(400);
    Ok(())
}

#[tokio::test]
async fn a_flood_from_one_address_leaves_another_alone() -> anyhow::Result<()> {
    let world = World::single_with(&["--http-rate", "5"]).await?;
    let port = world.http[0];
    let request = b"GET /livez HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n";
    let flooder = [127, 0, 0, 66];
    let mut refused = None;
    for _ in 0..100 {
        let answer = raw(port, flooder, request).await?;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.context("the flood was never refused")?;
    let wait: u64 = refused
        .header("retry-after")
        .context("Retry-After")?
        .parse()?;
    assert!((1..=2).contains(&wait), "{wait}");
    raw(port, [127, 0, 0, 77], request).await?.expect(200);
    Ok(())
}

#[tokio::test]
async fn forty_uploads_at_once_stay_within_the_budget_and_give_it_back() -> anyhow::Result<()> {
    let budget = 64 * MIB;
    let text = budget.to_string();
    let mut world = World::single_with(&["--http-body-budget", &text, "--cache-mb", "8"]).await?;
    let (person, port) = (world.person().await?, world.http[0]);
    let mut streams = Vec::new();
    let mut held = 0;
    for n in 0..40u8 {
        let blob = vec![n; 16 * MIB];
        let request = person.request("POST", "/blobs", &blob);
        let mut bytes = request.bytes();
        // Everything but the last byte: the body stays in flight.
        let last = bytes.split_off(bytes.len() - 1);
        let mut stream = connect(port, [127, 0, 1, n + 1]).await?;
        let sent = tokio::time::timeout(PATIENCE, stream.write_all(&bytes)).await?;
        if sent.is_ok() {
            held += 1;
        }
        streams.push((stream, last));
    }
    let resident = world.node().resident_bytes()?;
    let (mut stored, mut shed) = (0, 0);
    for (mut stream, last) in streams {
        let _cut = stream.write_all(&last).await;
        // A connection that was shed may be reset before its answer is read.
        match read_answer(&mut stream, false)
            .await
            .map(|answer| answer.status)
        {
            Ok(201) => stored += 1,
            Ok(503) | Err(_) => shed += 1,
            Ok(other) => anyhow::bail!("status {other}"),
        }
    }
    assert_eq!(stored, 4, "{held} were taken in, {shed} shed");
    let baseline = 96 * MIB as u64;
    assert!(
        resident < 2 * budget as u64 + baseline,
        "{} MiB",
        resident / MIB as u64
    );
    // All of it is back: the next four are taken.
    for n in 100..104u8 {
        let request = person.request("POST", "/blobs", &vec![n; 16 * MIB]);
        request.send(port).await?.expect(201);
    }
    Ok(())
}

#[tokio::test]
async fn slow_and_large_heads_are_cut() -> anyhow::Result<()> {
    let world = World::single().await?;
    let port = world.http[0];
    let mut slow = connect(port, HOME).await?;
    slow.write_all(b"GET /livez HTTP/1.1\r\nhost: n\r\n")
        .await?;
    let large = format!(
        "GET /livez HTTP/1.1\r\nhost: n\r\nx: {}\r\n\r\n",
        "y".repeat(64 * 1024)
    );
    let mut stream = connect(port, HOME).await?;
    let _cut = stream.write_all(large.as_bytes()).await;
    if let Ok(answer) = read_answer(&mut stream, false).await {
        assert!((400..500).contains(&answer.status), "{}", answer.status);
    }
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(30), slow.read_to_end(&mut rest)).await;
    let _reset_or_closed = closed.context("a slow head is waited for")?;
    assert!(
        !rest.starts_with(b"HTTP/1.1 200"),
        "an unfinished request was answered"
    );
    raw(
        port,
        HOME,
        b"GET /livez HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n",
    )
    .await?
    .expect(200);
    Ok(())
}

/// What an unknown sender uploads is never kept, whatever its size.
#[tokio::test]
async fn a_strangers_blob_is_refused_and_not_stored() -> anyhow::Result<()> {
    let world = World::single().await?;
    let (person, stranger) = (world.person().await?, Person::new());
    let blob = vec![9; MIB];
    let hash = data_encoding::HEXLOWER.encode(&unibus_proto::signing::body_hash(&blob));
    let refused = stranger
        .request("POST", "/blobs", &blob)
        .send(world.http[0])
        .await?;
    refused.expect(401);
    person
        .get(world.http[0], &format!("/blobs/{hash}"))
        .await?
        .expect(404);
    person
        .request("POST", "/blobs", &blob)
        .send(world.http[0])
        .await?
        .expect(201);
    let empty = person.post(world.http[0], "/blobs", &Value::Null).await?;
    empty.expect(400);
    Ok(())
}
