//! `chat` as two people see it, each in a terminal.

use anyhow::Context;
use serde_json::Value;
use unibus_testkit::{PATIENCE, eventually};

use crate::terminal::Terminal;
use crate::world::World;

/// What most terminals begin with.
const SIZE: (u16, u16) = (24, 80);

/// Opens a chat of somebody.
fn chat(world: &World, name: &str, size: (u16, u16)) -> anyhow::Result<Terminal> {
    let identity = world.path(&format!("{name}.json"));
    let mut environment = world.environment();
    environment.extend([
        ("TERM", "xterm".into()),
        ("LANG", "C.UTF-8".into()),
        ("NO_COLOR", "1".into()),
        ("TZ", "UTC".into()),
        // Each has read something else.
        (
            "XDG_CONFIG_HOME",
            world.path(&format!("home-{name}")).into(),
        ),
    ]);
    let args = ["chat", "--identity", &identity];
    Terminal::start(crate::world::UNIBUS, &args, environment, size)
}

fn contact(person: &Value) -> &str {
    person["contact"].as_str().unwrap()
}

/// What somebody is called who has no name here.
fn short(person: &Value) -> &str {
    &person["endpoint"].as_str().unwrap()[..8]
}

#[tokio::test]
async fn two_people_talk_in_their_terminals() -> anyhow::Result<()> {
    let world = World::enforced().await?;
    world.run("chat").await.refused(2, "unibus identity new");
    let alice = world.person("alice", &[]).await?;
    let bob = world.person("bob", &[]).await?;
    world
        .run_as("alice", "chat")
        .await
        .refused(2, "needs a terminal");

    let mut hers = chat(&world, "alice", SIZE)?;
    hers.shows("You belong to no room yet").await?;
    assert!(hers.is_taken());
    hers.enter("/create team.kitchen").await?;
    hers.shows("team.kitchen · end-to-end encrypted, kept · 1 member")
        .await?;
    let mut his = chat(&world, "bob", SIZE)?;
    his.shows("You belong to no room yet").await?;
    hers.enter("/invite nobody").await?;
    hers.shows("neither a name nor a contact").await?;
    hers.keys("\x15").await?;
    hers.enter(&format!("/name {} bob", contact(&bob))).await?;
    hers.enter("/invite bob").await?;
    let invited = his.shows("/join accepts").await?;
    assert!(invited.contains("+team.kitchen"), "{invited}");
    his.shows(&format!("by {}", short(&alice))).await?;
    his.enter("/join").await?;
    hers.shows("- bob joined").await?;

    talk(&world, &mut hers, &mut his, short(&alice)).await?;
    share(&world, &mut hers, &mut his).await?;
    unread(&world, &mut hers, &mut his).await?;
    ends(hers, his).await
}

/// Messages, replies, reactions, and nothing raw.
async fn talk(
    world: &World,
    hers: &mut Terminal,
    his: &mut Terminal,
    alice: &str,
) -> anyhow::Result<()> {
    hers.enter("tea?").await?;
    hers.shows("you         tea?").await?;
    his.shows(&format!("{alice}    tea?")).await?;
    his.enter("/reply yes, please 世界").await?;
    let seen = hers.shows("bob         yes, please 世界").await?;
    assert!(seen.contains("┌ you: tea?"), "{seen}");
    hers.enter("/react ❤").await?;
    his.shows("❤ ").await?;
    // The message before the last one, and its thread.
    his.keys("\x1b[A").await?;
    his.keys("\x1b[A").await?;
    his.shows("▸").await?;
    his.keys("\x14").await?;
    his.shows("thread: tea?").await?;
    his.enter("with milk").await?;
    let seen = hers.shows("┆ in the thread of you: tea?").await?;
    assert!(seen.contains("bob         with milk"), "{seen}");
    his.keys("\x1b").await?;
    his.shows("1 in its thread").await?;
    let hostile = b"\x1b]0;owned\x07\x1b[2J\xc2\x9b31mred";
    let args = ["room", "pub", "team.kitchen", "--identity", "alice.json"];
    world.run_args(&args, hostile).await.done();
    let seen = his.shows("]0;owned[2J31mred").await?;
    assert!(seen.contains("with milk"), "nothing was wiped: {seen}");
    assert!(his.outside().is_empty(), "{:?}", his.outside());
    // A wider terminal has room for who is here.
    his.resize(24, 120)?;
    his.shows("│ 2 members").await?;
    his.resize(12, 40)?;
    his.until("no list of rooms", |screen| !screen.contains("│"))
        .await?;
    his.resize(24, 80)?;
    his.shows("│ ").await?;
    Ok(())
}

/// A file goes from one to the other and lies where it was asked for, whole, and over nothing else.
async fn share(world: &World, hers: &mut Terminal, his: &mut Terminal) -> anyhow::Result<()> {
    let content: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(world.path("holiday.bin"), &content)?;
    hers.enter(&format!("/file {}", world.path("nowhere.bin")))
        .await?;
    hers.shows("No such file").await?;
    hers.enter(&format!("/file {}", world.path("holiday.bin")))
        .await?;
    hers.shows("holiday.bin is shared").await?;
    his.shows("[file] holiday.bin, ").await?;
    let save = format!("/save {}", world.path("got.bin"));
    his.enter(&save).await?;
    his.shows("saved ").await?;
    assert!(
        std::fs::read(world.path("got.bin"))? == content,
        "other bytes"
    );
    his.enter(&save).await?;
    his.shows("is there already").await?;
    // Below the home, where the path says so; it is another's word that the file has.
    hers.enter("/save ~/own.bin").await?;
    hers.shows("saved ").await?;
    assert!(
        std::fs::read(world.path("own.bin"))? == content,
        "other bytes"
    );
    Ok(())
}

/// What somebody has not seen is counted, also while the program does not run.
async fn unread(world: &World, hers: &mut Terminal, his: &mut Terminal) -> anyhow::Result<()> {
    his.enter("/create bob.desk").await?;
    his.shows(" bob.desk · end-to-end").await?;
    hers.enter("one").await?;
    hers.enter("two").await?;
    his.until("two unread", |screen| {
        screen
            .lines()
            .any(|line| line.starts_with(" team.kitchen   2"))
    })
    .await?;
    his.keys("\t").await?;
    let seen = his
        .until("the end of the kitchen", |screen| screen.contains("two"))
        .await?;
    assert!(seen.contains("── new ──"), "{seen}");
    his.until("nothing unread", |screen| {
        screen
            .lines()
            .any(|line| line.starts_with(" team.kitchen     "))
    })
    .await?;
    his.enter("/quit").await?;
    assert_eq!(his.ended().await?, 0);
    assert!(!his.is_taken(), "the terminal was not given back");
    hers.enter("three").await?;
    hers.shows("you         three").await?;
    *his = chat(world, "bob", SIZE)?;
    his.until("one unread", |screen| {
        screen
            .lines()
            .any(|line| line.starts_with(" team.kitchen   1"))
    })
    .await?;
    Ok(())
}

/// A signal and a key end it in order.
async fn ends(mut hers: Terminal, mut his: Terminal) -> anyhow::Result<()> {
    his.enter("/help").await?;
    his.shows("/create SUBJECT [plain]").await?;
    let pid = his.pid()?.to_string();
    let killed = tokio::process::Command::new("kill")
        .args(["-TERM", &pid])
        .status()
        .await?;
    assert!(killed.success());
    assert_eq!(his.ended().await?, 0);
    assert!(!his.is_taken(), "the terminal was not given back");
    hers.keys("\x03").await?;
    assert_eq!(hers.ended().await?, 0);
    assert!(!hers.is_taken(), "the terminal was not given back");
    Ok(())
}

/// Which node the only program that runs is connected to; those that have ended are gone there soon.
async fn node_of_the_only_one(world: &World) -> anyhow::Result<usize> {
    let cluster = world.cluster.as_ref().context("a cluster")?;
    eventually("one connection", PATIENCE, || async {
        let mut found = Vec::new();
        for (i, node) in cluster.nodes.iter().enumerate() {
            let connections: Value = serde_json::from_str(&node.monitor("/connz").await?)?;
            let connections = connections["connections"].as_array().context("a list")?;
            let ours = connections.iter().filter(|one| one["name"] == "unibus");
            found.extend(ours.map(|_| i));
        }
        anyhow::ensure!(found.len() == 1, "{found:?}");
        Ok(found[0])
    })
    .await
}

#[tokio::test]
async fn a_node_dies_under_a_chat_and_nothing_is_lost() -> anyhow::Result<()> {
    let mut world = World::with_cluster().await?;
    world.person("alice", &[]).await?;
    let bob = world.person("bob", &[]).await?;
    world
        .run_as("alice", "room create team.kitchen")
        .await
        .done();
    let invite = format!("room invite team.kitchen {}", contact(&bob));
    world.run_as("alice", &invite).await.done();
    world.run_as("bob", "room join team.kitchen").await.done();

    let mut hers = chat(&world, "alice", SIZE)?;
    hers.shows("end-to-end encrypted, kept · 2 members").await?;
    let under_her = node_of_the_only_one(&world).await?;
    let mut his = chat(&world, "bob", SIZE)?;
    his.shows("end-to-end encrypted, kept · 2 members").await?;
    hers.enter("before the node died").await?;
    his.shows("before the node died").await?;

    let cluster = world.cluster.as_mut().context("a cluster")?;
    cluster.nodes[under_her].kill();
    // Written without a connection, and while another node is elected to lead.
    hers.enter("is anybody there?").await?;
    his.shows("is anybody there?").await?;
    his.enter("yes, still").await?;
    for screen in [hers.shows("yes, still").await?, his.screen()] {
        let lines = ["before the node died", "is anybody there?", "yes, still"];
        let places: Vec<_> = lines.iter().map(|line| screen.find(line)).collect();
        assert!(places.is_sorted() && places[0].is_some(), "{screen}");
        let once = lines.iter().all(|line| screen.matches(line).count() == 1);
        assert!(once, "{screen}");
    }
    hers.shows("connected").await?;
    for mut chat in [hers, his] {
        chat.keys("\x03").await?;
        assert_eq!(chat.ended().await?, 0);
    }
    Ok(())
}
