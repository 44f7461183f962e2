//! Saved contexts, and what is said to mistakes that need no server.

use std::os::unix::fs::PermissionsExt;

use crate::world::World;

#[tokio::test]
async fn contexts_are_saved_selected_shown_and_removed() {
    let world = World::alone();
    let saved = "context save lab --server nats://127.0.0.1:1,nats://127.0.0.1:2 --user ann --password hunter2 --select";
    world.run(saved).await.done();
    let file = world.dir.path().join(".config/unibus/context/lab.json");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    world
        .run("context save other --server tls://h --description it's")
        .await
        .done();

    let list = world.run("context list --json").await.json();
    assert_eq!(list[0]["name"], "lab");
    assert_eq!(list[0]["selected"], true);
    assert_eq!(list[1]["servers"][0], "tls://h");
    let table = world.run("context ls").await.done().out;
    assert!(
        table.starts_with("   NAME") && table.contains("*  lab"),
        "{table}"
    );

    let shown = world.run("context show").await.done().out;
    assert!(
        shown.contains("user ann") && !shown.contains("hunter2"),
        "{shown}"
    );
    let shown = world.run("context show lab --json").await.done().out;
    assert!(!shown.contains("hunter2"), "{shown}");

    // A second save changes what it names and keeps the rest.
    world.run("context save lab --timeout 50ms").await.done();
    let shown = world.run("context show lab").await.done().out;
    assert!(
        shown.contains("user ann") && shown.contains("50ms"),
        "{shown}"
    );

    world.run("context remove lab").await.refused(2, "--force");
    world.run("context remove lab --force").await.done();
    world
        .run("context show")
        .await
        .refused(2, "no context is selected");
    world
        .run("context show lab")
        .await
        .refused(2, "there is no context \"lab\"");
}

#[tokio::test]
async fn the_selected_context_is_used_and_a_server_flag_sets_it_aside() {
    let world = World::alone();
    world
        .run("context save a --server nats://127.0.0.1:9 --timeout 2s --select")
        .await
        .done();
    world.run("pub x y").await.refused(1, "127.0.0.1:9");
    world
        .run("pub x y --server nats://127.0.0.1:8")
        .await
        .refused(1, "127.0.0.1:8");
    world
        .run("--context b pub x y")
        .await
        .refused(2, "there is no context \"b\"");
    std::fs::write(world.dir.path().join(".config/unibus/context/a.json"), "{").unwrap();
    world.run("pub x y").await.refused(2, "is no context");
}

#[tokio::test]
async fn mistakes_are_told_with_status_2() {
    let world = World::alone();
    for (line, words) in [
        ("nonsense", "unrecognized subcommand"),
        ("pub", "required"),
        ("pub x y --count 0", "0 is not in"),
        ("pub x y --timeout 5", "is no duration"),
        ("pub x y --header novalue", "is no header"),
        ("pub x y --server http://x", "is no address"),
        ("pub x y --nkey missing.nk", "missing.nk"),
        ("pub x y --tls-ca missing.pem", "missing.pem"),
        ("pub x y --user ann", "--password"),
        ("pub x y --token t --nkey f", "cannot be used with"),
        ("pub x --file missing", "missing"),
        ("reply x", "required"),
        ("bench pub --size 1X", "is no size"),
        ("context save ../x --server h", "can't be a context's name"),
    ] {
        world.run(line).await.refused(2, words);
    }
    std::fs::write(world.dir.path().join("bad.nk"), "UABC").unwrap();
    world
        .run("pub x y --nkey bad.nk")
        .await
        .refused(2, "no user's seed");
}

#[tokio::test]
async fn completions_are_there_for_three_shells() {
    let world = World::alone();
    for shell in ["bash", "zsh", "fish"] {
        let script = world.run(&format!("completions {shell}")).await.done().out;
        assert!(
            script.contains("context") && script.contains("unibus"),
            "{shell}"
        );
    }
    world
        .run("completions tcsh")
        .await
        .refused(2, "invalid value");
}
