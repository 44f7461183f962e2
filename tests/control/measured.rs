//! Measures what signed requests cost, and what a change of permission costs with many connections
//! open. Asserts only that everything was answered as it should be; prints rows for `ops/bench`.
//!
//! `cargo build --release && UNIBUS_TEST_NODE=$PWD/target/release/unibus-node cargo test --workspace \
//! --test control measured -- --ignored --nocapture --test-threads 1`

#![allow(clippy::print_stdout, reason = "the figures are what this is for")]

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use unibus_proto::control::Policy;

use crate::golden::with_room;
use crate::people::{Person, Request, fresh};
use crate::world::{Size, World, connect, read_answer};

/// Nothing of what protects a node from one address: all the load comes from one.
const FLAGS: [&str; 6] = [
    "--http-rate",
    "1000000",
    "--http-burst",
    "1000000",
    "--http-max-connections-per-address",
    "1000",
];
/// How long each row is measured.
const ROW: Duration = Duration::from_secs(10);
/// Connections that are open while permissions change.
const MANY: usize = 10_000;
/// Identities that they belong to.
const PEOPLE: usize = 100;
/// Changes that are timed with many connections open.
const CHANGES: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of minutes: see the command at the top of the file"]
async fn signed_requests() -> anyhow::Result<()> {
    println!("| nodes | clients | call | requests/s | p50 ms | p99 ms | nodes' CPU ms a request |");
    println!("|---|---|---|---|---|---|---|");
    for size in [Size::One, Size::Three] {
        let world = World::get(size, &FLAGS).await?;
        for clients in [1, 16, 64] {
            reads(&world, clients).await?;
            changes(&world, clients).await?;
        }
    }
    Ok(())
}

/// `GET /members/{endpoint}/rooms`: its nonce is claimed in an entry of its own.
async fn reads(world: &World, clients: usize) -> anyhow::Result<()> {
    let mut people = Vec::new();
    for _ in 0..clients {
        people.push(world.person().await?);
    }
    let request = |person: &Person| {
        let uri = format!("/members/{}/rooms", person.endpoint());
        person.request("GET", &uri, b"")
    };
    measure(world, "read own rooms", &people, &world.http, request).await
}

/// `POST /rooms`: room, owner, key, stream and nonce in one entry. At one node, which creates them one
/// after the other: at several they get in each other's way, and with 16 clients some are told to ask again.
async fn changes(world: &World, clients: usize) -> anyhow::Result<()> {
    let mut people = Vec::new();
    for _ in 0..clients {
        people.push(world.person().await?);
    }
    let request = |person: &Person| {
        let body = person.room(&fresh("r"), &fresh("room."), Policy::NATS);
        person.request("POST", "/rooms", body.to_string().as_bytes())
    };
    measure(world, "create a room", &people, &world.http[..1], request).await
}

/// Every person asks over a connection of its own, at `ports` in turn, one request after the other.
async fn measure(
    world: &World,
    what: &str,
    people: &[Person],
    ports: &[u16],
    request: impl Fn(&Person) -> Request,
) -> anyhow::Result<()> {
    let (started, cpu) = (Instant::now(), cpu_seconds(world)?);
    let asking = people.iter().enumerate().map(|(at, person)| {
        let port = ports[at % ports.len()];
        let request = &request;
        async move {
            let (mut line, mut taken) = (connect(port, [127, 0, 0, 1]).await?, Vec::new());
            while started.elapsed() < ROW {
                taken.push(ask(&mut line, &request(person)).await?);
            }
            anyhow::Ok(taken)
        }
    });
    let mut taken = try_join_all(asking).await?.concat();
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds(world)? - cpu);
    let count = taken.len() as f64;
    let (p50, p99) = percentiles(&mut taken);
    println!(
        "| {} | {} | {what} | {:.0} | {p50:.2} | {p99:.2} | {:.2} |",
        world.http.len(),
        people.len(),
        count / seconds,
        cpu * 1000.0 / count,
    );
    Ok(())
}

/// One request on a connection that stays open; answers with the time it took.
async fn ask(line: &mut TcpStream, request: &Request) -> anyhow::Result<Duration> {
    let bytes = request.bytes();
    let (close, keep) = (b"connection: close\r\n", bytes);
    let at = keep
        .windows(close.len())
        .position(|part| part == close)
        .context("a header")?;
    let bytes = [&keep[..at], &keep[at + close.len()..]].concat();
    let asked = Instant::now();
    line.write_all(&bytes).await?;
    let answer = read_answer(line, false).await?;
    let taken = asked.elapsed();
    ensure!(
        (200..300).contains(&answer.status),
        "{} {}",
        answer.status,
        answer.words()
    );
    Ok(taken)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of minutes: see the command at the top of the file"]
async fn a_change_of_permission() -> anyhow::Result<()> {
    println!(
        "| nodes | connections | of them the changed identity's | p50 ms | p99 ms | nodes' CPU ms a change |"
    );
    println!("|---|---|---|---|---|---|");
    for size in [Size::One, Size::Three] {
        for (others, own) in [(0, 1), (MANY - 1, 1), (MANY - 1000, 1000), (0, MANY)] {
            let world = World::get(size, &FLAGS).await?;
            changing(&world, others, own).await?;
        }
    }
    Ok(())
}

/// Invites and removes somebody again and again: each is a change of its permissions that is in force
/// on every node before it is acknowledged.
async fn changing(world: &World, others: usize, own: usize) -> anyhow::Result<()> {
    let guest = world.person().await?;
    let mut held = Vec::new();
    for _ in 0..PEOPLE.min(others) {
        let person = world.person().await?;
        held.extend(connections(world, &person, others.div_ceil(PEOPLE)).await?);
    }
    held.extend(connections(world, &guest, own).await?);
    let (owner, room, _) = with_room(world).await?;
    let mut line = connect(world.http[0], [127, 0, 0, 1]).await?;
    let invite = format!("/rooms/{room}/invite");
    let remove = format!("/rooms/{room}/members/{}", guest.endpoint());
    let invitation = owner.invitation(&room, 1, &guest).to_string();
    let (mut taken, cpu) = (Vec::new(), cpu_seconds(world)?);
    for _ in 0..CHANGES / 2 {
        let request = owner.request("POST", &invite, invitation.as_bytes());
        taken.push(ask(&mut line, &request).await?);
        let request = owner.request("DELETE", &remove, b"");
        taken.push(ask(&mut line, &request).await?);
    }
    let cpu = (cpu_seconds(world)? - cpu) * 1000.0 / taken.len() as f64;
    let (p50, p99) = percentiles(&mut taken);
    println!(
        "| {} | {} | {own} | {p50:.2} | {p99:.2} | {cpu:.2} |",
        world.http.len(),
        held.len(),
    );
    Ok(())
}

/// NATS connections as one person, to the nodes in turn.
async fn connections(
    world: &World,
    person: &Person,
    count: usize,
) -> anyhow::Result<Vec<BufReader<TcpStream>>> {
    let mut held = Vec::with_capacity(count);
    for at in 0..count {
        let url = &world.nats[at % world.nats.len()];
        let address = url.strip_prefix("nats://").context("a plain URL")?;
        let mut stream = BufReader::with_capacity(1024, TcpStream::connect(address).await?);
        let mut info = String::new();
        stream.read_line(&mut info).await?;
        let info: Value = serde_json::from_str(info.trim_start_matches("INFO "))?;
        let seed = person.seed();
        let nonce = info["nonce"].as_str().context("a nonce")?;
        let connect = json!({
            "verbose": false, "pedantic": false, "lang": "raw", "version": "1", "protocol": 1,
            "nkey": seed.public().to_nkey(), "sig": seed.sign(nonce.as_bytes()),
        });
        let hello = format!("CONNECT {connect}\r\nPING\r\n");
        stream.write_all(hello.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_line(&mut answer).await?;
        ensure!(answer.trim() == "PONG", "{answer}");
        held.push(stream);
    }
    Ok(held)
}

fn percentiles(taken: &mut [Duration]) -> (f64, f64) {
    taken.sort_unstable();
    let at = |part: f64| {
        let index = ((taken.len() - 1) as f64 * part) as usize;
        taken[index].as_secs_f64() * 1000.0
    };
    (at(0.5), at(0.99))
}

fn cpu_seconds(world: &World) -> anyhow::Result<f64> {
    (0..world.http.len())
        .map(|at| Ok(world.process(at).cpu_time()?.as_secs_f64()))
        .sum()
}
