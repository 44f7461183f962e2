//! `room`: what people do in rooms, told by the program; who is not let in, and what is said to them.

use serde_json::Value;
use unibus_testkit::{PATIENCE, eventually};

use crate::world::{World, ended};

/// Somebody's own word in what `identity new` says of them.
fn word<'a>(person: &'a Value, name: &str) -> &'a str {
    person[name].as_str().unwrap()
}

#[tokio::test]
async fn two_people_talk_and_an_outsider_is_told_no() -> anyhow::Result<()> {
    let world = World::enforced().await?;
    world
        .run("room list")
        .await
        .refused(2, "unibus identity new");
    let alice = world.person("alice", &[]).await?;
    let bob = world.person("bob", &[]).await?;
    world.run("identity new stranger.json").await.done();
    world
        .run_as("stranger", "room list")
        .await
        .refused(1, "an admin lets you in: unibus-node user add U");

    let made = world
        .run_as("alice", "room create team.kitchen --json")
        .await
        .json();
    assert_eq!(made["owner"], alice["endpoint"]);
    assert_eq!(made["policy"]["encrypted"], true);
    let id = word(&made, "room").to_owned();
    world
        .run_as("alice", "room create team.kitchen")
        .await
        .refused(1, "subject");
    world
        .run_as("bob", "room pub team.kitchen hello")
        .await
        .refused(1, "you belong to no room \"team.kitchen\"");
    world
        .run_as("alice", "room invite team.kitchen nobody")
        .await
        .refused(2, "is no contact");
    let invite = format!("room invite team.kitchen {}", word(&bob, "contact"));
    world.run_as("alice", &invite).await.done();
    world.run_as("alice", &invite).await.refused(1, "member");

    let list = world.run_as("bob", "room ls --json").await.json();
    assert_eq!(
        (&list[0]["room"], &list[0]["joined"]),
        (&made["room"], &false.into())
    );
    world
        .run_as("bob", "room pub team.kitchen early")
        .await
        .refused(1, "invited");
    let other = format!("room join team.kitchen --owner {}", word(&bob, "endpoint"));
    world.run_as("bob", &other).await.refused(1, "not joined");
    let join = format!("room join {id} --owner {}", word(&alice, "contact"));
    world.run_as("bob", &join).await.done();
    talk(&world, &id, &alice).await;
    look_back(&world, &id, &alice, &bob).await;
    part(&world, &id, &alice, &bob).await;
    Ok(())
}

async fn talk(world: &World, id: &str, alice: &Value) {
    let listening = format!("room sub {id} --count 3 --json --identity bob.json");
    let listening = world.listening(&listening).await.unwrap();
    let said = world
        .run_args(
            &[
                "room",
                "pub",
                id,
                "tea, anyone?",
                "--json",
                "--identity",
                "alice.json",
            ],
            b"",
        )
        .await
        .json();
    let root = word(&said, "id");
    let line = format!("room pub team.kitchen yes --reply-to {root} --thread {root}");
    world.run_as("bob", &line).await.done();
    let line = format!("room react {id} {root} +1");
    world.run_as("bob", &line).await.done();
    let heard = ended(listening).await.json_lines();
    let frames: Vec<&Value> = heard
        .iter()
        .filter(|event| event["id"].is_string())
        .collect();
    assert_eq!(frames.len(), 3, "{heard:?}");
    assert_eq!(frames[0]["payload"], "tea, anyone?");
    assert_eq!(frames[0]["from"], alice["endpoint"]);
    assert_eq!(
        (&frames[1]["reply_to"], &frames[1]["thread"]),
        (&said["id"], &said["id"])
    );
    assert_eq!(
        (&frames[2]["event"], &frames[2]["reaction"]),
        (&"reaction".into(), &"+1".into())
    );
}

/// Lines of stdin, what was said before, and who is there.
async fn look_back(world: &World, id: &str, alice: &Value, bob: &Value) {
    world
        .run_args(
            &[
                "room",
                "pub",
                id,
                "--lines",
                "--quiet",
                "--identity",
                "alice.json",
            ],
            b"one\ntwo\n",
        )
        .await
        .done();
    let page = world
        .run_as("bob", &format!("room history {id} -n 2 --json"))
        .await
        .json();
    let texts: Vec<_> = page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["payload"].clone())
        .collect();
    assert_eq!(texts, ["one", "two"]);
    let before = format!("room history {id} -n 1 --before {}", page["previous"]);
    let page = world.run_as("bob", &before).await.done();
    assert!(
        page.out.contains("reacts to") && page.err.contains("--before"),
        "{page:?}"
    );
    let raw = world
        .run_as("alice", &format!("room sub {id} --after 3 --count 2 --raw"))
        .await;
    assert_eq!(raw.done().out, "one\ntwo\n");
    let members = world
        .run_as("bob", "room members team.kitchen --json")
        .await
        .json();
    assert_eq!(members.as_array().unwrap().len(), 2);
    let mine = members
        .as_array()
        .unwrap()
        .iter()
        .find(|member| member["you"] == true);
    assert_eq!(mine.unwrap()["endpoint"], bob["endpoint"]);
    let info = world
        .run_as("bob", "room info team.kitchen")
        .await
        .done()
        .out;
    assert!(
        info.contains("encrypted, kept") && info.contains(word(alice, "endpoint")),
        "{info}"
    );
}

async fn part(world: &World, id: &str, alice: &Value, bob: &Value) {
    let watch = "room watch --count 2 --json --identity bob.json";
    let watch = world.listening(watch).await.unwrap();
    world
        .run_as(
            "bob",
            &format!("room remove {id} {}", word(alice, "endpoint")),
        )
        .await
        .refused(1, "owner");
    let remove = format!("room remove {id} {} --json", word(bob, "endpoint"));
    assert_eq!(world.run_as("alice", &remove).await.json()["epoch"], 2);
    world
        .run_as("bob", &format!("room sub {id}"))
        .await
        .refused(1, "you belong to no room");
    let changes = ended(watch).await.json_lines();
    let changes: Vec<_> = changes
        .iter()
        .map(|change| change["change"].clone())
        .collect();
    assert_eq!(changes, ["added", "removed"]);
    let rekeyed = world
        .run_as("alice", &format!("room rekey {id} --json"))
        .await
        .json();
    assert_eq!(rekeyed["epoch"], 3);

    // Whoever leaves is followed by a new key, which the owner's next word makes.
    let invite = format!("room invite {id} {}", word(bob, "contact"));
    world.run_as("alice", &invite).await.done();
    world.run_as("bob", &format!("room join {id}")).await.done();
    world
        .run_as("bob", &format!("room leave {id}"))
        .await
        .done();
    world
        .run_as("alice", &format!("room leave {id}"))
        .await
        .refused(1, "owner");
    let list = world.run_as("alice", "room list").await.done().out;
    assert!(list.contains("needs a key"), "{list}");
    let said = world
        .run_as("alice", &format!("room pub {id} alone"))
        .await
        .done();
    assert!(said.err.contains("a new key, of epoch 4"), "{said:?}");
}

#[tokio::test]
async fn rooms_of_every_policy_and_a_context_that_names_both_planes() -> anyhow::Result<()> {
    let world = World::enforced().await?;
    world.person("alice", &[]).await?;
    let node = world.node.as_ref().unwrap();
    let save = format!(
        "context save team --control http://127.0.0.1:1,http://127.0.0.1:{} --identity alice.json",
        node.http_port
    );
    world.run(&save).await.done();
    // The first one is not there.
    let two = format!(
        "room ls --identity alice.json --control http://127.0.0.1:1,http://127.0.0.1:{}",
        node.http_port
    );
    world.run(&two).await.done();
    let gone = "room ls --identity alice.json --control http://127.0.0.1:1 --timeout 500ms";
    world.run(gone).await.refused(1, "http://127.0.0.1:1");
    world
        .run("context save bad --control https://127.0.0.1:1")
        .await
        .refused(2, "needs the CA file");
    let show = world.run("context show team").await.done().out;
    assert!(show.contains("http://127.0.0.1:1,"), "{show}");

    world
        .run("--context team room create plain.one --policy nats")
        .await
        .done();
    let mut listening = world
        .listening("--context team room sub plain.one --count 1")
        .await?;
    world
        .run("--context team room pub plain.one hello")
        .await
        .done();
    let mut heard = String::new();
    let out = listening.stdout.as_mut().unwrap();
    tokio::io::AsyncReadExt::read_to_string(out, &mut heard).await?;
    assert!(heard.ends_with(": hello\n"), "{heard}");
    world
        .run("--context team room history plain.one")
        .await
        .refused(2, "keeps no history");
    let flags = "--ephemeral --shared-history --id spare-1 --json";
    let made = world
        .run(&format!("--context team room create spare.one {flags}"))
        .await
        .json();
    assert_eq!(
        (&made["room"], &made["policy"]["persisted"]),
        (&"spare-1".into(), &false.into())
    );
    world
        .run("--context team room sub spare-1 --wait 50ms --count 1")
        .await
        .refused(1, "0 of 1");
    Ok(())
}

#[tokio::test]
async fn an_owner_who_listens_makes_a_new_key_when_somebody_leaves() -> anyhow::Result<()> {
    let world = World::enforced().await?;
    world.person("alice", &[]).await?;
    let bob = world.person("bob", &[]).await?;
    let made = world.run_as("alice", "room create left.one --json").await;
    let id = word(&made.json(), "room").to_owned();
    let invite = format!("room invite {id} {}", word(&bob, "contact"));
    world.run_as("alice", &invite).await.done();
    world.run_as("bob", &format!("room join {id}")).await.done();
    let listening = format!("room sub {id} --json --count 1 --identity alice.json");
    let listening = world.listening(&listening).await?;
    world
        .run_as("bob", &format!("room leave {id}"))
        .await
        .done();
    let epoch = eventually("the new key", PATIENCE, || async {
        let info = world
            .run_as("alice", &format!("room info {id} --json"))
            .await
            .json();
        anyhow::ensure!(info["needs_rekey"] == false && info["epoch"] == 2, "{info}");
        Ok(info["epoch"].clone())
    })
    .await?;
    world
        .run_as("alice", &format!("room pub {id} alone"))
        .await
        .done();
    let heard = ended(listening).await.json_lines();
    let told = |change: &str| heard.iter().find(|event| event["change"] == change);
    assert_eq!(told("left").unwrap()["endpoint"], bob["endpoint"]);
    assert_eq!(told("rekeyed").unwrap()["epoch"], epoch);
    assert_eq!(heard.last().unwrap()["payload"], "alone");
    Ok(())
}
