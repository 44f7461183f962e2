//! `worker` and `bridge`: what answers and passes on, what does not, and that nothing goes round.

use serde_json::Value;
use tokio::process::Child;

use crate::world::{World, ended};

/// A world with alice, who owns the room `bots.one`, and a bot that is invited to it.
async fn world_with(bot_flags: &[&str]) -> anyhow::Result<World> {
    let world = World::enforced().await?;
    world.person("alice", &[]).await?;
    let bot = world.person("bot", bot_flags).await?;
    world.run_as("alice", "room create bots.one").await.done();
    invite(&world, &bot).await;
    Ok(world)
}

async fn invite(world: &World, who: &Value) {
    let contact = who["contact"].as_str().unwrap();
    let line = format!("room invite bots.one {contact}");
    world.run_as("alice", &line).await.done();
}

/// Says something as alice; answers with its id.
async fn say(world: &World, words: &[&str]) -> String {
    let mut args = vec![
        "room",
        "pub",
        "bots.one",
        "--json",
        "--identity",
        "alice.json",
    ];
    args.extend(words);
    let said = world.run_args(&args, b"").await.json();
    said["id"].as_str().unwrap().to_owned()
}

/// Listens as alice for so many frames.
async fn listening(world: &World, count: usize) -> Child {
    let line = format!("room sub bots.one --count {count} --json --identity alice.json");
    world.listening(&line).await.unwrap()
}

/// The frames that were heard from others than alice.
async fn answers(child: Child) -> Vec<Value> {
    let heard = ended(child).await.json_lines();
    let frames = heard.into_iter().filter(|event| event["id"].is_string());
    let mut frames: Vec<Value> = frames.collect();
    let first = frames[0]["from"].clone();
    frames.retain(|frame| frame["from"] != first);
    frames
}

#[tokio::test]
async fn a_worker_joins_answers_and_never_talks_to_itself() -> anyhow::Result<()> {
    let world = world_with(&[]).await?;
    let other = world.person("other", &[]).await?;
    let exec = [
        "worker",
        "--exec",
        "tr a-z A-Z",
        "--count",
        "2",
        "--json",
        "--identity",
        "bot.json",
    ];
    let worker = world.at_work(&exec).await?;
    world.joined("alice", "bots.one", 2).await?;
    let heard = listening(&world, 2).await;
    let asked = say(&world, &["tea?"]).await;
    let first = answers(heard).await.remove(0);
    assert_eq!(
        (&first["payload"], &first["reply_to"]),
        (&"TEA?".into(), &asked.into())
    );

    // A second one, which echoes: each answers what begins, and neither the other.
    invite(&world, &other).await;
    let echo = world
        .at_work(&[
            "worker",
            "--echo",
            "--count",
            "1",
            "--identity",
            "other.json",
        ])
        .await?;
    world.joined("alice", "bots.one", 3).await?;
    let heard = listening(&world, 3).await;
    say(&world, &["more"]).await;
    let mut both: Vec<_> = answers(heard)
        .await
        .iter()
        .map(|f| f["payload"].clone())
        .collect();
    both.sort_by_key(ToString::to_string);
    assert_eq!(both, ["MORE", "more"]);
    let printed = ended(worker).await.json_lines();
    assert_eq!(printed.len(), 2);
    assert_eq!(printed[0]["answer"]["id"], first["id"]);
    ended(echo).await.done();
    let page = world
        .run_as("alice", "room history bots.one --json")
        .await
        .json();
    assert_eq!(page["events"].as_array().unwrap().len(), 5, "{page}");
    Ok(())
}

#[tokio::test]
async fn a_worker_is_bounded_and_chooses_its_rooms() -> anyhow::Result<()> {
    let world = world_with(&[]).await?;
    let worker = |flags: &'static [&'static str]| {
        let mut args = vec!["worker", "--identity", "bot.json", "--count", "1"];
        args.extend(flags);
        args
    };
    let stranger = world.run("identity new stranger.json --json").await.json();
    let contact = stranger["contact"].as_str().unwrap();
    let mut args = worker(&["--echo", "--owner"]);
    args.push(contact);
    let mut picky = world.start(&args);
    // The invitation is looked at beside everything else: that it is at work may be said first.
    let mut told = world.said(&mut picky).await?;
    while told.starts_with("answering") {
        told = world.said(&mut picky).await?;
    }
    assert!(told.contains("not joined"), "{told}");
    drop(picky);

    let slow = worker(&[
        "--exec",
        "sleep 1000",
        "--exec-timeout",
        "200ms",
        "--prefix",
        "!",
    ]);
    let slow = world.at_work(&slow).await?;
    world.joined("alice", "bots.one", 2).await?;
    let heard = listening(&world, 3).await;
    say(&world, &["not for the worker"]).await;
    say(&world, &["!wait"]).await;
    let answer = answers(heard).await.remove(0);
    assert_eq!(
        answer["payload"],
        "no answer: the command took longer than 200ms"
    );
    ended(slow).await.done();

    let chatty = worker(&["--exec", "cat; yes", "--output-max", "10"]);
    let chatty = world.at_work(&chatty).await?;
    let heard = listening(&world, 2).await;
    say(&world, &["abc "]).await;
    assert_eq!(answers(heard).await[0]["payload"], "abc y\ny\ny");
    ended(chatty).await.done();
    world.run("worker").await.refused(2, "--exec");
    Ok(())
}

/// Any member has every frame of a room as it was signed, and may publish it again.
#[tokio::test]
async fn what_is_said_again_by_somebody_else_is_not_answered() -> anyhow::Result<()> {
    let world = world_with(&[]).await?;
    let mallory = world.person("mallory", &[]).await?;
    invite(&world, &mallory).await;
    for who in ["bot", "mallory"] {
        world.run_as(who, "room join bots.one").await.done();
    }
    say(&world, &["transfer"]).await;
    let rooms = world.run_as("mallory", "room list --json").await.json();
    let stream = format!("UNIBUS_{}", rooms[0]["room"].as_str().unwrap());
    let get = format!("stream get {stream} 1 --raw");
    let raw = world
        .run_bytes(&format!("{get} --identity mallory.json"))
        .await;
    let again = ["pub", "bots.one", "--identity", "mallory.json"];

    // Said before the worker was there, and while it is.
    let args = [
        "worker",
        "--echo",
        "--count",
        "2",
        "--json",
        "--identity",
        "bot.json",
    ];
    let worker = world.at_work(&args).await?;
    world.run_args(&again, &raw).await.done();
    say(&world, &["one"]).await;
    let get = format!("stream get {stream} 3 --raw");
    let raw = world
        .run_bytes(&format!("{get} --identity mallory.json"))
        .await;
    world.run_args(&again, &raw).await.done();
    say(&world, &["two"]).await;
    let answered = ended(worker).await.json_lines();
    let answered: Vec<_> = answered.iter().map(|one| one["payload"].clone()).collect();
    assert_eq!(answered, ["one", "two"]);
    Ok(())
}

/// Whoever invites chooses a room's id and subject.
#[tokio::test]
async fn a_worker_stays_in_the_room_that_was_named() -> anyhow::Result<()> {
    let world = World::enforced().await?;
    world.person("alice", &[]).await?;
    let bot = world.person("bot", &[]).await?;
    let contact = bot["contact"].as_str().unwrap();
    let mallory = world.person("mallory", &[]).await?;
    world.run_as("alice", "room create kitchen").await.done();
    let line = format!("room invite kitchen {contact}");
    world.run_as("alice", &line).await.done();
    let args = [
        "worker",
        "--echo",
        "--room",
        "kitchen",
        "--identity",
        "bot.json",
    ];
    // What it is invited to only it does not take for the room that is meant.
    world.run_args(&args, b"").await.refused(2, "--owner");
    world.run_as("bot", "room join kitchen").await.done();
    // A room with that name as its id.
    world
        .run_as("mallory", "room create other.place --id kitchen")
        .await
        .done();
    let line = format!("room invite other.place {contact}");
    world.run_as("mallory", &line).await.done();
    let mut args = args.to_vec();
    args.extend(["--count", "1", "--json"]);
    let worker = world.at_work(&args).await?;
    world
        .run_as("mallory", "room pub other.place hers")
        .await
        .done();
    world.run_as("alice", "room pub kitchen ours").await.done();
    let answered = ended(worker).await.json_lines();
    assert_eq!(answered[0]["payload"], "ours");
    let rooms = world.run_as("bot", "room list --json").await.json();
    let joined = rooms
        .as_array()
        .unwrap()
        .iter()
        .filter(|room| room["joined"] == true);
    assert_eq!(joined.count(), 1, "{rooms}");
    // Once both are joined the name says nothing; an owner's word lets an invitation in by name.
    world.run_as("bot", "room join kitchen").await.done();
    world.run_args(&args, b"").await.refused(2, "two rooms");
    world.run_as("bot", "room leave other.place").await.done();
    let line = format!("room invite other.place {contact}");
    world.run_as("mallory", &line).await.done();
    let owner = mallory["contact"].as_str().unwrap();
    let args = [
        "worker",
        "--echo",
        "--room",
        "other.place",
        "--owner",
        owner,
        "--count",
        "1",
        "--json",
        "--identity",
        "bot.json",
    ];
    let worker = world.at_work(&args).await?;
    world.joined("mallory", "other.place", 2).await?;
    world
        .run_as("mallory", "room pub other.place welcome")
        .await
        .done();
    assert_eq!(ended(worker).await.json_lines()[0]["payload"], "welcome");
    Ok(())
}

#[tokio::test]
async fn a_bridge_passes_both_ways_and_nothing_goes_round() -> anyhow::Result<()> {
    let flags = ["--role", "service", "--pub", "dev.out", "--sub", "dev.in.*"];
    let world = world_with(&flags).await?;
    let may = ["--role", "service", "--pub", "dev.in.*", "--sub", "dev.out"];
    world.person("device", &may).await?;
    world.run_as("bot", "room join bots.one").await.done();
    world
        .run_as("bot", "bridge bots.one --in dev.> --out dev.out")
        .await
        .refused(2, "overlap");
    world
        .run_as("bot", "bridge bots.one --in bots.*")
        .await
        .refused(2, "the room's own subject");
    world
        .run_as("bot", "bridge bots.one --in secret.x")
        .await
        .refused(1, "Permissions Violation");
    let line =
        "bridge bots.one --in dev.in.* --out dev.out --label --count 3 --json --identity bot.json";
    let bridge = world.listening(line).await?;
    let device = world
        .listening("sub dev.out --json --count 1 --identity device.json")
        .await?;

    let heard = listening(&world, 3).await;
    let asked = say(&world, &["open the valve"]).await;
    let out = ended(device).await.json_lines().remove(0);
    assert_eq!(out["payload"], "open the valve");
    assert_eq!(out["headers"]["Unibus-Id"][0], asked.as_str());
    // What came out of a room is not said again; what a device says is, once, and it is told so.
    world
        .run_args(
            &[
                "pub",
                "dev.in.7",
                "again",
                "-H",
                "Unibus-Room: other",
                "--identity",
                "device.json",
            ],
            b"",
        )
        .await
        .done();
    let stored = world
        .run_as("device", "req dev.in.7 21.5 --raw")
        .await
        .done();
    let stored: Value = serde_json::from_str(&stored.out)?;
    assert_eq!(stored["seq"], 2);
    let args = [
        "pub",
        "dev.in.7",
        "22",
        "-H",
        "Unibus-Sender: attic",
        "--identity",
        "device.json",
    ];
    world.run_args(&args, b"").await.done();
    let passed = ended(bridge).await.json_lines();
    let ways: Vec<_> = passed.iter().map(|one| one["way"].clone()).collect();
    assert_eq!(ways, ["out", "in", "in"]);
    let texts: Vec<_> = answers(heard)
        .await
        .iter()
        .map(|f| f["payload"].clone())
        .collect();
    assert_eq!(texts, ["dev.in.7: 21.5", "attic: 22"]);
    Ok(())
}
