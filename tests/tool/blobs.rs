//! `blob`: files that are larger than one request, in rooms and out of them, and who does not get them.

use crate::world::World;

#[tokio::test]
async fn files_are_shared_with_a_room_and_with_nobody_else() -> anyhow::Result<()> {
    let world = World::enforced().await?;
    world.person("alice", &[]).await?;
    let bob = world.person("bob", &[]).await?;
    world.person("carol", &[]).await?;
    world.run_as("alice", "room create files.one").await.done();
    let invite = format!("room invite files.one {}", bob["contact"].as_str().unwrap());
    world.run_as("alice", &invite).await.done();
    world.run_as("bob", "room join files.one").await.done();

    // More than two pieces, and none of them full at the end.
    let bytes: Vec<u8> = (0..9_000_000u32).map(|at| (at * 7 % 251) as u8).collect();
    std::fs::write(world.path("app.bin"), &bytes)?;
    let put = "blob put app.bin --room files.one --media-type application/x-thing --json";
    let put = world.run_as("alice", put).await.json();
    assert_eq!(
        (&put["name"], &put["size"], &put["seq"]),
        (&"app.bin".into(), &9_000_000.into(), &1.into())
    );
    let get = "blob get app.bin --room files.one --output got/app.bin";
    world.run_as("bob", get).await.done();
    assert!(std::fs::read(world.path("got/app.bin"))? == bytes);
    world
        .run_as("bob", get)
        .await
        .refused(1, "is there already");
    let stdout = format!(
        "blob get {} --room files.one --output - --json",
        put["id"].as_str().unwrap()
    );
    world
        .run_as("bob", &format!("{stdout} --force"))
        .await
        .done();
    world
        .run_as("carol", "blob get app.bin --room files.one")
        .await
        .refused(1, "you belong to no room");
    world
        .run_as("bob", "blob get nothing --room files.one")
        .await
        .refused(1, "no file \"nothing\"");
    let list = world.run_as("bob", "blob ls files.one --json").await.json();
    assert_eq!(list[0]["file"]["reference"], put["reference"]);
    let table = world.run_as("bob", "blob ls files.one").await.done().out;
    assert!(
        table.contains("app.bin") && table.contains("8.6 MiB"),
        "{table}"
    );
    let info = world
        .run_as("bob", "blob info 1 --room files.one")
        .await
        .done()
        .out;
    assert!(
        info.contains("application/x-thing") && info.contains("pieces     3"),
        "{info}"
    );
    let line = world
        .run_as("bob", "room history files.one")
        .await
        .done()
        .out;
    assert!(line.contains("shares app.bin, 8.6 MiB"), "{line}");
    Ok(())
}

#[tokio::test]
async fn a_reference_alone_is_enough_and_a_changed_one_is_not() -> anyhow::Result<()> {
    let world = World::enforced().await?;
    world.person("alice", &[]).await?;
    world.person("bob", &[]).await?;
    let put = world
        .run_args(
            &["blob", "put", "-", "--identity", "alice.json"],
            b"hello, file",
        )
        .await
        .done();
    let reference = put.out.trim().to_owned();
    assert!(reference.starts_with("unibus-blob:"), "{put:?}");
    let get = [
        "blob",
        "get",
        "-",
        "--output",
        "-",
        "--identity",
        "bob.json",
    ];
    let got = world.run_args(&get, put.out.as_bytes()).await.done();
    assert_eq!(got.out, "hello, file");
    world
        .run_as("bob", &format!("blob get {reference}"))
        .await
        .refused(2, "--output");
    // One digit of the hash or the key is another file, or none.
    let at = reference.len() / 2;
    let digit = if reference.as_bytes()[at] == b'A' {
        "B"
    } else {
        "A"
    };
    let mut other = reference.clone();
    other.replace_range(at..=at, digit);
    let got = world
        .run_as("bob", &format!("blob get {other} --output x"))
        .await;
    assert_ne!(got.status, 0, "{got:?}");
    assert!(!std::path::Path::new(&world.path("x")).exists());
    world
        .run_as("bob", "blob get app.bin")
        .await
        .refused(2, "needs --room");
    world
        .run_as("bob", "blob put missing")
        .await
        .refused(2, "missing");
    world
        .run_as("bob", "room create clear.one --policy nats")
        .await
        .done();
    std::fs::write(world.path("secret"), "x")?;
    world
        .run_as("bob", "blob put secret --room clear.one")
        .await
        .refused(1, "in cleartext");
    Ok(())
}
