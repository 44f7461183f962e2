//! What is enforced before anybody is asked who they are: sizes, rates, the budget of all bodies,
//! and time.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use unibus_testkit::hostile::{drip, sip};
use unibus_testkit::{PATIENCE, eventually};

use crate::people::Person;
use crate::world::{World, connect, raw, read_answer};

on_one_and_three!(
    oversized_bodies_are_cut_whether_declared_or_not,
    a_flood_from_one_address_leaves_another_alone("--http-rate", "5"),
    one_address_with_many_connections_leaves_room_for_another(
        "--http-max-connections-per-address",
        "4"
    ),
    // The memory for stored messages has a bound of its own, which is not what is measured.
    forty_uploads_at_once_stay_within_the_budget_and_give_it_back("--cache-mb", "8"),
    slow_and_large_heads_are_cut("--http-header-timeout-ms", "500"),
    slow_bodies_are_cut(
        "--http-body-timeout-ms",
        "300",
        "--http-blob-timeout-ms",
        "600"
    ),
    a_reader_that_does_not_read_is_cut("--http-write-timeout-ms", "400"),
    who_trickles_is_cut(
        "--http-min-rate",
        "100000",
        "--http-body-grace-ms",
        "1000",
        "--http-body-timeout-ms",
        "600000",
        "--http-blob-timeout-ms",
        "600000",
        "--http-write-timeout-ms",
        "2000"
    ),
    a_full_house_keeps_no_connection("--http-max-connections", "1"),
    a_strangers_blob_is_refused_and_not_stored,
);

const MIB: usize = 1024 * 1024;
const HOME: [u8; 4] = [127, 0, 0, 1];

async fn oversized_bodies_are_cut_whether_declared_or_not(world: &World) -> anyhow::Result<()> {
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
    assert!(
        world
            .metric("unibus_control_bodies_too_large_total")
            .await?
            >= 4
    );
    Ok(())
}

async fn a_flood_from_one_address_leaves_another_alone(world: &World) -> anyhow::Result<()> {
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
    assert!(world.metric("unibus_control_rate_limited_total").await? > 0);
    Ok(())
}

async fn one_address_with_many_connections_leaves_room_for_another(
    world: &World,
) -> anyhow::Result<()> {
    let port = world.http[0];
    let request = b"GET /livez HTTP/1.1\r\nhost: n\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(port, [127, 0, 0, 88]).await?;
        stream.write_all(request).await?;
        read_answer(&mut stream, false).await?.expect(200);
        held.push(stream);
    }
    let fifth = raw(port, [127, 0, 0, 88], request).await;
    assert!(
        fifth.is_err(),
        "one connection too many was served: {fifth:?}"
    );
    raw(port, [127, 0, 0, 99], request).await?.expect(200);
    for stream in &mut held {
        stream.write_all(request).await?;
        read_answer(stream, false).await?.expect(200);
    }
    assert!(
        world
            .metric("unibus_control_connections_refused_total")
            .await?
            > 0
    );
    drop(held);
    eventually("its seats are free again", PATIENCE, || async {
        raw(port, [127, 0, 0, 88], request)
            .await
            .map(|answer| drop(answer.expect(200)))
    })
    .await
}

async fn forty_uploads_at_once_stay_within_the_budget_and_give_it_back(
    world: &World,
) -> anyhow::Result<()> {
    let budget = 128 * MIB;
    let (person, port) = (world.person().await?, world.http[0]);
    let mut streams = Vec::new();
    for n in 0..40u8 {
        let blob = vec![n; 16 * MIB];
        let request = person.request("POST", "/blobs", &blob);
        let mut bytes = request.bytes();
        // Everything but the last byte: the body stays in flight.
        let last = bytes.split_off(bytes.len() - 1);
        let mut stream = connect(port, [127, 0, 1, n + 1]).await?;
        let _cut = timeout(PATIENCE, stream.write_all(&bytes)).await?;
        streams.push((stream, last));
    }
    // An eighth of it is for small bodies alone.
    let held = eventually("the budget is used up", PATIENCE, || async {
        let held = world.metric("unibus_control_body_bytes").await?;
        anyhow::ensure!(held == (budget - budget / 8) as u64, "{held}");
        Ok(())
    });
    held.await?;
    assert!(world.metric("unibus_control_shed_total").await? >= 33);
    let small = json!({ "subject": "room.small", "policy": "persisted" });
    let refused = person.post(port, "/rooms", &small).await?;
    assert_ne!(refused.status, 503, "{}", refused.words());
    // Three are finished, the others' clients go away: every path gives its share back.
    let (mut stored, mut shed) = (0, 0);
    for (mut stream, last) in streams {
        if stored == 3 {
            break;
        }
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
    assert_eq!(stored, 3, "{shed} were shed");
    eventually("the budget is back at zero", PATIENCE, || async {
        let held = world.metric("unibus_control_body_bytes").await?;
        anyhow::ensure!(held == 0, "{held} bytes are still counted");
        Ok(())
    })
    .await?;
    // The budget, what is stored of it in the caches of messages and of the log, and what the node takes without
    // it; all forty would be 640 MiB.
    let peak = world.process(0).peak_resident_bytes()?;
    assert!(peak < 3 * budget as u64, "{} MiB", peak / MIB as u64);
    let request = person.request("POST", "/blobs", &vec![100; 16 * MIB]);
    request.send(port).await?.expect(201);
    Ok(())
}

/// A connection is counted when it has ended, which may be after its client has read the answer.
async fn counted(world: &World, metric: &str) -> anyhow::Result<()> {
    eventually(metric, PATIENCE, || async {
        anyhow::ensure!(world.metric(metric).await? > 0, "none yet");
        Ok(())
    })
    .await
}

async fn slow_and_large_heads_are_cut(world: &World) -> anyhow::Result<()> {
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
        assert_eq!(answer.status, 431);
    }
    counted(world, "unibus_control_heads_too_large_total").await?;
    let mut rest = Vec::new();
    let closed = timeout(Duration::from_secs(30), slow.read_to_end(&mut rest)).await;
    let _reset_or_closed = closed.context("a slow head is waited for")?;
    counted(world, "unibus_control_too_slow_total").await?;
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

/// A body that trickles is cut at its time, and gives its share of the budget back.
async fn slow_bodies_are_cut(world: &World) -> anyhow::Result<()> {
    let (person, port) = (world.person().await?, world.http[0]);
    for (uri, bytes) in [("/rooms", 1000), ("/blobs", MIB)] {
        let request = person.request("POST", uri, &vec![b'x'; bytes]).bytes();
        let mut stream = connect(port, HOME).await?;
        stream
            .write_all(request.get(..request.len() - 1).context("most of it")?)
            .await?;
        read_answer(&mut stream, false).await?.expect(408);
    }
    assert!(world.metric("unibus_control_too_slow_total").await? >= 2);
    assert_eq!(world.metric("unibus_control_body_bytes").await?, 0);
    person
        .request("POST", "/blobs", &vec![b'x'; MIB])
        .send(port)
        .await?
        .expect(201);
    Ok(())
}

/// Whoever asks for much and reads nothing of it gives its connection back.
async fn a_reader_that_does_not_read_is_cut(world: &World) -> anyhow::Result<()> {
    let (person, port) = (world.person().await?, world.http[0]);
    let blob = vec![5; 16 * MIB];
    let stored = person.request("POST", "/blobs", &blob).send(port).await?;
    let uri = format!(
        "/blobs/{}",
        stored.expect(201).json()["hash"]
            .as_str()
            .context("a hash")?
    );
    let before = world.metric("unibus_control_too_slow_total").await?;
    let mut stream = connect(port, HOME).await?;
    stream
        .write_all(&person.request("GET", &uri, b"").bytes())
        .await?;
    eventually("the reader is cut", PATIENCE, || async {
        let cut = world.metric("unibus_control_too_slow_total").await?;
        anyhow::ensure!(cut > before, "still served");
        Ok(())
    })
    .await?;
    let mut rest = Vec::new();
    let _reset_or_closed = stream.read_to_end(&mut rest).await;
    assert!(rest.len() < blob.len(), "all of it had arrived");
    // The twin reads.
    let whole = person.get(port, &uri).await?.expect(200);
    assert_eq!(whole.body, blob);
    Ok(())
}

/// A few bytes now and then keep neither a request nor an answer going, and what is slow but fast enough is served
/// for longer than anybody may be behind.
async fn who_trickles_is_cut(world: &World) -> anyhow::Result<()> {
    let (person, port) = (world.person().await?, world.http[0]);
    let every = Duration::from_millis(50);
    let (trickle, steady) = ((500, every), (50_000, every));
    for (uri, bytes) in [("/rooms", MIB), ("/blobs", 2 * MIB)] {
        let request = person.request("POST", uri, &vec![b'x'; bytes]).bytes();
        let (head, body) = request.split_at(request.len() - bytes);
        let sending = drip((HOME, port), (head, body), trickle);
        let answer = timeout(PATIENCE, sending).await.context("it trickles on")?;
        assert!(answer?.starts_with(b"HTTP/1.1 408"), "{uri}");
    }
    assert_eq!(world.metric("unibus_control_body_bytes").await?, 0);
    let blob = vec![b'y'; 2 * MIB];
    let request = person.request("POST", "/blobs", &blob).bytes();
    let sending = drip((HOME, port), (&[], &request), steady);
    let answer = timeout(PATIENCE, sending).await.context("no answer")??;
    assert!(answer.starts_with(b"HTTP/1.1 201"));

    let hash = data_encoding::HEXLOWER.encode(&unibus_proto::signing::body_hash(&blob));
    let uri = format!("/blobs/{hash}");
    let once = person.request("GET", &uri, b"").bytes();
    let again = person.request("GET", &uri, b"").bytes();
    let reading = sip((HOME, port), &once, trickle);
    let read = timeout(PATIENCE, reading)
        .await
        .context("it trickles on")??;
    assert!(read < MIB as u64, "{read} bytes were read");
    let reading = sip((HOME, port), &again, steady);
    let read = timeout(PATIENCE, reading).await.context("no answer")??;
    assert!(read > blob.len() as u64, "{read} bytes were read");
    Ok(())
}

/// Where nobody else can have a connection, who asks now and then does not keep its own.
async fn a_full_house_keeps_no_connection(world: &World) -> anyhow::Result<()> {
    let request = b"GET /livez HTTP/1.1\r\nhost: n\r\n\r\n";
    for _ in 0..3 {
        let mut stream = connect(world.http[0], HOME).await?;
        stream.write_all(request).await?;
        let answer = read_answer(&mut stream, false).await?.expect(200);
        assert_eq!(answer.header("connection"), Some("close"));
        let mut rest = Vec::new();
        let closing = timeout(PATIENCE, stream.read_to_end(&mut rest));
        closing.await.context("it is kept")??;
    }
    Ok(())
}

/// What an unknown sender uploads is never kept, whatever its size.
async fn a_strangers_blob_is_refused_and_not_stored(world: &World) -> anyhow::Result<()> {
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
