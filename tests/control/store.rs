//! What the store has to do with it: the buckets, a lost quorum, and nodes that are killed while
//! rooms are made.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use unibus_proto::control::Policy;
use unibus_testkit::{PATIENCE, eventually};

use crate::golden::{hear, round_trip_own, with_room};
use crate::people::{Person, fresh};
use crate::world::World;

#[tokio::test]
async fn without_a_quorum_everything_is_denied_within_its_deadline() -> anyhow::Result<()> {
    let mut world = World::cluster().await?;
    let person = world.person().await?;
    let cluster = world.cluster.as_mut().context("a cluster")?;
    cluster.nodes[0].kill();
    cluster.nodes[1].kill();
    let port = world.other();
    let uri = format!("/members/{}/rooms", person.endpoint());
    // The node may still lead by its lease for a moment.
    eventually("the node knows that it is alone", PATIENCE, || async {
        let asked = Instant::now();
        let answer = person.get(port, &uri).await?;
        assert!(
            asked.elapsed() < Duration::from_secs(8),
            "no answer within the deadline"
        );
        if answer.status == 200 {
            bail!("still served");
        }
        answer.expect(503);
        Ok(())
    })
    .await?;
    let body = person.room(&fresh("r"), &fresh("room."), Policy::MATRIX);
    // Several at once: what waits for something that another of them holds has a deadline too.
    let asked = Instant::now();
    let others = (0..6).map(|_| person.room(&fresh("r"), &fresh("room."), Policy::MATRIX));
    let creating = others.chain([body.clone()]).map(|body| {
        let person = &person;
        async move { person.post(port, "/rooms", &body).await }
    });
    for answer in futures::future::try_join_all(creating).await? {
        answer.expect(503);
    }
    assert!(
        asked.elapsed() < Duration::from_secs(8),
        "no answer within the deadline"
    );
    world.admin.get(port, "/users").await?.expect(503);
    let health = person.get(port, "/healthz").await?;
    assert_eq!(health.status, 503);
    // The twin: with a quorum again, the same questions are answered.
    let cluster = world.cluster.as_mut().context("a cluster")?;
    cluster.nodes[0].start()?;
    cluster.nodes[1].start()?;
    cluster.ready().await?;
    person.get(port, &uri).await?.expect(200);
    person.post(port, "/rooms", &body).await?.expect(201);
    Ok(())
}

/// More members than one listing may have came and went, and the room is listed and rekeyed as before.
#[tokio::test]
async fn former_members_stand_in_nobodys_way() -> anyhow::Result<()> {
    const GONE: usize = 16_400;
    let world = World::single().await?;
    let (owner, room, _) = with_room(&world).await?;
    let mut tombstone = async_nats::HeaderMap::new();
    tombstone.insert("KV-Operation", "DEL");
    let client = world.internal().await?;
    for n in 0..GONE {
        let subject = format!("$KV.UNIBUS_members.{room}.{n:032x}");
        let headers = tombstone.clone();
        client
            .publish_with_headers(subject, headers, "".into())
            .await?;
    }
    let context = async_nats::jetstream::new(client);
    let stream = context.get_stream("KV_UNIBUS_members").await?;
    eventually("the members are gone", PATIENCE, || async {
        let messages = stream.get_info().await?.state.messages;
        anyhow::ensure!(messages > GONE as u64, "{messages} records");
        Ok(())
    })
    .await?;
    let members = format!("/rooms/{room}/members");
    owner.get(world.http[0], &members).await?.expect(200);
    let rekey = owner.rekey(&room, 2, &[&owner]);
    let uri = format!("/rooms/{room}/rekey");
    owner.post(world.http[0], &uri, &rekey).await?.expect(200);
    Ok(())
}

#[tokio::test]
async fn rooms_are_created_side_by_side_on_one_node() -> anyhow::Result<()> {
    rooms_side_by_side(&World::single_with(&RATES).await?).await
}

#[tokio::test]
async fn rooms_are_created_side_by_side_on_three_nodes() -> anyhow::Result<()> {
    rooms_side_by_side(&World::cluster_with(&RATES).await?).await
}

/// Rooms that have nothing to do with each other do not hinder each other; of those that want the same
/// id or the same subject one comes to be.
async fn rooms_side_by_side(world: &World) -> anyhow::Result<()> {
    let owner = world.person().await?;
    let policy = Policy {
        persisted: false,
        ..Policy::MATRIX
    };
    let create = |wanted: Vec<(String, String)>| {
        let owner = &owner;
        let asked = wanted
            .into_iter()
            .enumerate()
            .map(move |(n, (id, subject))| {
                let port = world.http[n % world.http.len()];
                let body = owner.room(&id, &subject, policy);
                async move { anyhow::Ok(owner.post(port, "/rooms", &body).await?.status) }
            });
        futures::future::try_join_all(asked)
    };
    const CLIENTS: usize = 48;
    let different = (0..CLIENTS).map(|_| (fresh("r"), fresh("room.")));
    assert_eq!(create(different.collect()).await?, [201; CLIENTS]);
    let (id, subject) = (fresh("r"), fresh("room."));
    let same_subject = (0..CLIENTS).map(|_| (fresh("r"), subject.clone()));
    let same_id = (0..CLIENTS).map(|_| (id.clone(), fresh("room.")));
    for wanted in [same_subject.collect(), same_id.collect()] {
        let mut answers = create(wanted).await?;
        answers.sort_unstable();
        assert_eq!(answers[0], 201);
        assert_eq!(answers[1..], [409; CLIENTS - 1]);
    }
    Ok(())
}

/// Everything is asked from one address, as fast as it is answered.
const RATES: [&str; 4] = ["--http-rate", "100000", "--http-burst", "100000"];
/// Kills of a single node: each takes about a second.
const KILLS_OF_ONE: usize = 50;
/// Kills of a node of three, each of which waits for an election.
const KILLS_OF_THREE: usize = 8;

#[tokio::test]
async fn no_kill_of_a_node_leaves_half_a_room() -> anyhow::Result<()> {
    kills_leave_no_half_room(World::single_with(&RATES).await?, KILLS_OF_ONE).await
}

/// As many kills as of one node with `UNIBUS_TEST_FULL=1 cargo test --test control half_a_room`.
#[tokio::test]
async fn no_kill_of_one_of_three_leaves_half_a_room() -> anyhow::Result<()> {
    let full = std::env::var_os("UNIBUS_TEST_FULL").is_some();
    let kills = if full { KILLS_OF_ONE } else { KILLS_OF_THREE };
    kills_leave_no_half_room(World::cluster_with(&RATES).await?, kills).await
}

/// Kills a node at random moments while rooms are made at it and at the others; afterwards each room
/// is whole or not there, the same at every node.
async fn kills_leave_no_half_room(mut world: World, kills: usize) -> anyhow::Result<()> {
    let owner = world.person().await?;
    let ports = world.http.clone();
    let (mut asked, mut acknowledged) = (Vec::new(), Vec::new());
    for round in 0..kills {
        let rooms: Vec<String> = (0..6).map(|_| fresh("r")).collect();
        asked.extend(rooms.clone());
        let victim = round % ports.len();
        let creating = async {
            for (n, id) in rooms.iter().enumerate() {
                let body = owner.room(id, &format!("room.{id}"), Policy::MATRIX);
                let port = ports[(victim + n) % ports.len()];
                if let Ok(answer) = owner.post(port, "/rooms", &body).await
                    && answer.status == 201
                {
                    acknowledged.push(id.clone());
                }
            }
        };
        let pause = Duration::from_millis(rand::random_range(0..60));
        let _cut = tokio::time::timeout(pause, creating).await;
        let node = world.node(victim);
        node.kill();
        node.start()?;
        node.ready(PATIENCE).await?;
    }
    anyhow::ensure!(!acknowledged.is_empty(), "no room was ever made");
    for port in &ports {
        let mine = rooms_that_are_whole(&owner, *port, &asked).await?;
        for id in &acknowledged {
            assert!(mine.contains(id), "room {id} was acknowledged and is gone");
        }
    }
    Ok(())
}

/// The rooms that a node lists, after everything about each was asked of it.
async fn rooms_that_are_whole(
    owner: &Person,
    port: u16,
    asked: &[String],
) -> anyhow::Result<Vec<String>> {
    let uri = format!("/members/{}/rooms", owner.endpoint());
    let mine = owner.get(port, &uri).await?.expect(200).json();
    let mine: Vec<String> = mine
        .as_array()
        .context("a list")?
        .iter()
        .filter_map(|room| room["room_id"].as_str().map(str::to_owned))
        .collect();
    for id in asked {
        let mut found = Vec::new();
        for path in [
            format!("/rooms/{id}"),
            format!("/rooms/{id}/key?endpoint={}", owner.endpoint()),
            format!("/rooms/{id}/members"),
        ] {
            found.push(owner.get(port, &path).await?.status);
        }
        let wanted = if mine.contains(id) { 200 } else { 403 };
        assert_eq!(found, [wanted; 3], "room {id} is half there");
    }
    Ok(mine)
}

/// A member of a room on a node that is cut off hears nothing more there until the node is certain
/// of the memberships again.
#[tokio::test]
async fn a_node_that_is_cut_off_suspends_rooms_on_its_connections() -> anyhow::Result<()> {
    let mut world = World::cluster_with(&["--access-staleness", "1"]).await?;
    let (owner, _, subject) = with_room(&world).await?;
    let client = world.client(2, &owner).await?;
    let mut messages = client.subscribe(subject.clone()).await?;
    assert_eq!(
        hear(&client, &subject, "before", &mut messages).await?,
        "before"
    );
    let cluster = world.cluster.as_mut().context("a cluster")?;
    cluster.nodes[0].kill();
    cluster.nodes[1].kill();
    eventually("the node says that it suspends rooms", PATIENCE, || async {
        if !cluster.nodes[2].log_text().contains("rooms are suspended") {
            bail!("not yet");
        }
        Ok(())
    })
    .await?;
    client.publish(subject.clone(), "stale".into()).await?;
    round_trip_own(&client).await?;
    cluster.nodes[0].start()?;
    cluster.nodes[1].start()?;
    cluster.ready().await?;
    // The subscription that was there before hears again, whoever's client it is: the node closes the
    // connection, which makes every library subscribe anew.
    let mut said = tokio::time::interval(Duration::from_millis(100));
    let heard = tokio::time::timeout(PATIENCE, async {
        loop {
            tokio::select! {
                message = messages.next() => return message.context("the subscription ended"),
                _ = said.tick() => client.publish(subject.clone(), "after".into()).await?,
            }
        }
    });
    let heard = heard.await.context("the room is deaf")??;
    assert_eq!(&heard.payload[..], b"after", "a suspended room was heard");
    Ok(())
}
