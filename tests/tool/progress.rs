//! Bars while files move: a person at a terminal sees them, and nothing else ever gets one.

use crate::terminal::Terminal;
use crate::world::{UNIBUS, World};

/// More than two pieces of a blob, and many of an object.
const BYTES: u32 = 9_000_000;
/// The same, as the bar says it.
const SHOWN: &str = "/8.58 MiB ";

/// A terminal of somebody at home in this world, where a program runs.
fn at_terminal(world: &World, program: &str, args: &[&str]) -> anyhow::Result<Terminal> {
    let mut environment = world.environment();
    environment.extend([("TERM", "xterm".into()), ("LANG", "C.UTF-8".into())]);
    Terminal::start(program, args, environment, (24, 100))
}

/// What was written on a terminal by a program that ran to its end there, and what stands on it then.
async fn run(world: &World, program: &str, args: &[&str]) -> anyhow::Result<(String, String)> {
    let mut terminal = at_terminal(world, program, args)?;
    let status = terminal.ended().await?;
    anyhow::ensure!(status == 0, "status {status}:\n{}", terminal.screen());
    Ok((terminal.written(), terminal.screen()))
}

/// Everything that a bar is made of: its pieces, and what it says of the rate.
fn has_bar(text: &str) -> bool {
    text.contains(['█', '░']) || text.contains("B/s")
}

/// Asserts that a bar has shown how far it was, of how much, and how fast, and that it is gone.
#[track_caller]
fn assert_seen((written, screen): &(String, String)) {
    let states = written
        .split(['\r', '\n'])
        .filter(|state| state.contains('█') && state.contains(SHOWN) && state.contains("B/s "));
    let mut far: Vec<&str> = states
        .filter_map(|state| state.split_once(SHOWN))
        .map(|(before, _)| before)
        .collect();
    far.dedup();
    assert!(far.len() >= 2, "a bar that moves: {far:?} in {written:?}");
    assert!(!has_bar(screen), "it is still there: {screen}");
}

/// A home with a node, a file and somebody.
async fn world() -> anyhow::Result<World> {
    let world = World::enforced().await?;
    world.person("alice", &[]).await?;
    let bytes: Vec<u8> = (0..BYTES).map(|at| (at * 7 % 251) as u8).collect();
    std::fs::write(world.path("app.bin"), bytes)?;
    Ok(world)
}

/// The bytes of two files of a home are the same.
#[track_caller]
fn assert_same(world: &World, name: &str) {
    let read = |name| std::fs::read(world.path(name)).unwrap();
    assert!(read(name) == read("app.bin"), "{name} holds other bytes");
}

#[tokio::test]
async fn a_person_sees_how_far_an_object_is() -> anyhow::Result<()> {
    let world = World::with_node(&[]).await?;
    let bytes: Vec<u8> = (0..BYTES).map(|at| (at * 7 % 251) as u8).collect();
    std::fs::write(world.path("app.bin"), bytes)?;
    world.run("object add builds").await.done();
    let (file, got) = (world.path("app.bin"), world.path("got.bin"));

    let seen = run(&world, UNIBUS, &["object", "put", "builds", &file]).await?;
    assert_seen(&seen);
    assert!(seen.1.contains("stored app.bin: 8.6 MiB"), "{}", seen.1);
    let get = ["object", "get", "builds", "app.bin", "--output"];
    let seen = run(&world, UNIBUS, &[&get[..], &[&got]].concat()).await?;
    assert_seen(&seen);
    assert_same(&world, "got.bin");
    // The data goes elsewhere, the bar does not.
    let piped = format!("exec '{UNIBUS}' object get builds app.bin --output - >'{got}'");
    let seen = run(&world, "/bin/sh", &["-c", &piped]).await?;
    assert_seen(&seen);
    assert_same(&world, "got.bin");
    Ok(())
}

#[tokio::test]
async fn a_person_sees_how_far_a_blob_is() -> anyhow::Result<()> {
    let world = world().await?;
    let (file, got) = (world.path("app.bin"), world.path("got.bin"));
    let identity = world.path("alice.json");
    let whose = ["--identity", &identity];

    let put = [&["blob", "put", &file][..], &whose].concat();
    let seen = run(&world, UNIBUS, &put).await?;
    assert_seen(&seen);
    let put = world.run_as("alice", "blob put app.bin").await.done();
    let get = ["blob", "get", put.out.trim(), "--output", &got];
    let seen = run(&world, UNIBUS, &[&get[..], &whose].concat()).await?;
    assert_seen(&seen);
    assert_same(&world, "got.bin");
    Ok(())
}

#[tokio::test]
async fn nobody_else_gets_a_bar() -> anyhow::Result<()> {
    let world = world().await?;
    let plain = |run: &crate::world::Run| {
        assert!(!has_bar(&run.out) && !run.out.contains('\r'), "{run:?}");
        assert!(!has_bar(&run.err) && !run.err.contains('\r'), "{run:?}");
    };
    let as_alice = async |line: &str| world.run_as("alice", line).await.done();
    world
        .person("bob", &["--role", "service", "--pub", ">", "--sub", ">"])
        .await?;
    let as_bob = async |line: &str| world.run_as("bob", line).await.done();
    as_bob("object add builds").await;
    for json in ["", " --json"] {
        plain(&as_bob(&format!("object put builds app.bin{json}")).await);
        plain(
            &as_bob(&format!(
                "object get builds app.bin --output o --force{json}"
            ))
            .await,
        );
        let put = as_alice(&format!("blob put app.bin{json}")).await;
        plain(&put);
        let reference = match json {
            "" => put.out.trim().to_owned(),
            _ => put.json()["reference"].as_str().unwrap().to_owned(),
        };
        let get = format!("blob get {reference} --output b --force{json}");
        plain(&as_alice(&get).await);
        assert_same(&world, "o");
        assert_same(&world, "b");
    }

    // Nor does a terminal, where JSON was asked for, or where the file itself goes.
    let file = world.path("app.bin");
    let (alice, bob) = (world.path("alice.json"), world.path("bob.json"));
    let put = ["blob", "put", &file, "--json", "--identity", &alice];
    let (written, _) = run(&world, UNIBUS, &put).await?;
    assert!(!has_bar(&written), "{written}");
    let put = [
        "object",
        "put",
        "builds",
        &file,
        "--json",
        "--identity",
        &bob,
    ];
    let (written, _) = run(&world, UNIBUS, &put).await?;
    assert!(!has_bar(&written), "{written}");
    let note = [
        "object",
        "put",
        "builds",
        "-",
        "--name",
        "note",
        "--identity",
        &bob,
    ];
    world.run_args(&note, b"hello").await.done();
    let get = [
        "object",
        "get",
        "builds",
        "note",
        "--output",
        "-",
        "--identity",
        &bob,
    ];
    let (written, _) = run(&world, UNIBUS, &get).await?;
    assert!(written.contains("hello") && !has_bar(&written), "{written}");
    Ok(())
}
