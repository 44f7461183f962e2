//! What the store has to do with it: the buckets, a lost quorum, and nodes that are killed while
//! rooms are made.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use unibus_proto::control::Policy;
use unibus_testkit::{PATIENCE, eventually};

use crate::golden::{hear, round_trip_own, with_room};
use crate::people::fresh;
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
    person.post(port, "/rooms", &body).await?.expect(503);
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

/// Kills a node at random moments while rooms are made; afterwards each room is whole or not there.
#[tokio::test]
async fn no_kill_leaves_half_a_room() -> anyhow::Result<()> {
    let mut world = World::single().await?;
    let owner = world.person().await?;
    let port = world.http[0];
    let mut asked = Vec::new();
    for round in 0..5u64 {
        let rooms: Vec<String> = (0..6).map(|_| fresh("r")).collect();
        asked.extend(rooms.clone());
        let creating = async {
            for id in &rooms {
                let body = owner.room(id, &format!("room.{id}"), Policy::MATRIX);
                let _killed = owner.post(port, "/rooms", &body).await;
            }
        };
        let pause = Duration::from_millis(rand::random_range(0..60) + round);
        let _cut = tokio::time::timeout(pause, creating).await;
        world.node().kill();
        world.node().start()?;
        world.node().ready(PATIENCE).await?;
    }
    let mine = owner
        .get(port, &format!("/members/{}/rooms", owner.endpoint()))
        .await?;
    let mine = mine.expect(200).json();
    let mine: Vec<&str> = mine
        .as_array()
        .context("a list")?
        .iter()
        .filter_map(|room| room["room_id"].as_str())
        .collect();
    for id in &asked {
        let room = owner.get(port, &format!("/rooms/{id}")).await?.status;
        let key = format!("/rooms/{id}/key?endpoint={}", owner.endpoint());
        let key = owner.get(port, &key).await?.status;
        let members = owner
            .get(port, &format!("/rooms/{id}/members"))
            .await?
            .status;
        let wanted = if mine.contains(&id.as_str()) {
            200
        } else {
            403
        };
        assert_eq!([room, key, members], [wanted; 3], "room {id} is half there");
    }
    Ok(())
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
    // The quorum is back a moment before the node is certain: a subscription may be refused.
    eventually("the room is open again", PATIENCE, || async {
        let mut again = client.subscribe(subject.clone()).await?;
        client.publish(subject.clone(), "after".into()).await?;
        client.flush().await?;
        let heard = tokio::time::timeout(Duration::from_millis(500), again.next()).await?;
        anyhow::ensure!(heard.is_some(), "the subscription was refused");
        Ok(())
    })
    .await?;
    while let Ok(Some(message)) =
        tokio::time::timeout(Duration::from_millis(1), messages.next()).await
    {
        assert_ne!(&message.payload[..], b"stale", "a suspended room was heard");
    }
    Ok(())
}
