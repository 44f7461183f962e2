//! `pub`, `sub`, `req`, `reply`.

use crate::world::{World, ended};

#[tokio::test]
async fn what_is_published_is_printed_in_three_forms() -> anyhow::Result<()> {
    let world = World::with_node(&[]).await?;
    let people = world.listening("sub news.> --count 2 --headers").await?;
    let json = world
        .listening("sub other news.b --queue q --count 1 --json")
        .await?;
    let sent = world
        .run_args(
            &[
                "pub",
                "news.a",
                "-H",
                "Kind: test",
                "--reply",
                "back",
                "first",
            ],
            b"",
        )
        .await
        .done();
    assert_eq!(sent.out, "published 1 message, 5 B, to \"news.a\"\n");
    world
        .run_args(&["pub", "news.b"], b"\x1b[2J from stdin")
        .await
        .done();
    let json = ended(json).await.json_lines();
    assert_eq!(
        (&json[0]["subject"], &json[0]["payload"]),
        (&"news.b".into(), &"\u{1b}[2J from stdin".into())
    );
    let run = ended(people).await.done();
    assert_eq!(
        run.out,
        "[#1] news.a, reply to back\nKind: test\n\nfirst\n\n[#2] news.b\n\n\\u{1b}[2J from stdin\n\n"
    );
    Ok(())
}

#[tokio::test]
async fn many_are_published_by_count_template_and_lines() -> anyhow::Result<()> {
    let world = World::with_node(&[]).await?;
    let raw = world.listening("sub n --raw --count 4").await?;
    let run = world
        .run_args(
            &["pub", "n", "--count", "2", "--template", "{{Count}}!"],
            b"",
        )
        .await
        .done();
    assert!(run.out.starts_with("published 2 messages"), "{run:?}");
    world
        .run_args(&["pub", "n", "--lines"], b"a\nb\n")
        .await
        .done();
    assert_eq!(ended(raw).await.done().out, "1!\n2!\na\nb\n");
    Ok(())
}

#[tokio::test]
async fn questions_are_answered_or_it_is_said_why_not() -> anyhow::Result<()> {
    let world = World::with_node(&[]).await?;
    world
        .run("req nobody x")
        .await
        .refused(1, "no responders: nobody listens on \"nobody\"");

    let echo = world
        .listening("reply echo --echo --count 3 --queue one")
        .await?;
    let answer = world.run("req echo hello --raw").await.done();
    assert_eq!(answer.out, "hello\n");
    let json = world
        .run_args(&["req", "echo", "-H", "A: b", "--json", "x"], b"")
        .await
        .json_lines();
    assert_eq!(json[0]["payload"], "x");
    assert_eq!(json[0]["headers"]["A"][0], "b");
    assert!(json[0]["round_trip_us"].is_u64());
    world
        .run("req echo x --replies 2 --timeout 300ms")
        .await
        .refused(1, "1 of 2 answers");
    assert!(ended(echo).await.done().out.contains("[#3] echo"));

    let one = world.listening("reply many --queue a one").await?;
    let two = world.listening("reply many --queue b two").await?;
    let both = world.run("req many x --replies 2 --raw").await.done().out;
    let mut lines: Vec<&str> = both.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["one", "two"]);
    let all = world
        .run("req many x --replies 0 --raw --timeout 300ms")
        .await
        .done();
    assert_eq!(all.out.lines().count(), 2);
    drop((one, two));
    Ok(())
}

#[tokio::test]
async fn a_command_answers_and_its_failure_is_told() -> anyhow::Result<()> {
    let world = World::with_node(&[]).await?;
    let script = world.path("answer.sh");
    std::fs::write(&script, "echo \"$UNIBUS_SUBJECT $(cat)\"; [ ! -e fail ]")?;
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let line = format!("reply run --command {script} --count 2");
    let serving = world.listening(&line).await?;
    assert_eq!(world.run("req run hi --raw").await.done().out, "run hi\n\n");
    std::fs::write(world.path("fail"), "")?;
    let answer = world.run("req run hi --headers").await.done().out;
    assert!(
        answer.contains("Unibus-Error: ended with exit status: 1"),
        "{answer}"
    );
    ended(serving).await.done();
    Ok(())
}

#[tokio::test]
async fn what_the_server_refuses_is_a_failure() -> anyhow::Result<()> {
    let world = World::with_node(&["--bus-auth", "enforce"]).await?;
    world
        .run("pub x y")
        .await
        .refused(1, "does not let nobody in");
    world
        .run("sub x --server nats://127.0.0.1:1 --timeout 1s")
        .await
        .refused(1, "can't connect to nats://127.0.0.1:1");
    Ok(())
}

#[tokio::test]
async fn too_few_messages_in_time_is_a_failure() -> anyhow::Result<()> {
    let world = World::with_node(&[]).await?;
    world
        .run("sub silent --count 1 --wait 200ms")
        .await
        .refused(1, "0 of 1 messages came");
    world.run("sub silent --wait 200ms").await.done();
    world.run("sub a.>.b").await.refused(2, "no subject");
    world
        .run_args(&["pub", "a b", "x"], b"")
        .await
        .refused(2, "no subject");
    Ok(())
}

#[tokio::test]
async fn somebody_who_hears_everything_is_in_nobodys_way() -> anyhow::Result<()> {
    let world = World::enforced().await?;
    let all = ["--role", "service", "--pub", ">", "--sub", ">"];
    world.person("auditor", &all).await?;
    world.person("alice", &[]).await?;
    let everything = world.listening("sub > --identity auditor.json").await?;
    world
        .run_as("alice", "room create clear.one --policy nats")
        .await
        .done();
    let heard = "room sub clear.one --count 1 --identity alice.json";
    let heard = world.listening(heard).await?;
    world
        .run_as("alice", "room pub clear.one hello")
        .await
        .done();
    let heard = ended(heard).await.done();
    assert!(heard.out.contains("hello"), "{heard:?}");
    // Nor does it take what it says to itself for something that it hears.
    let echo = "reply > --echo --count 1 --identity auditor.json";
    let echo = world.listening(echo).await?;
    let answered = world
        .run_as("auditor", "req any.body hello --raw")
        .await
        .done();
    assert_eq!(answered.out, "hello\n");
    let echo = ended(echo).await.done();
    assert!(echo.err.is_empty(), "{echo:?}");
    drop(everything);
    Ok(())
}
