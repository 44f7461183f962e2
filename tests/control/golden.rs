//! What the control plane is for: a room from its creation to the first message on a connection
//! that was there before, and live permission on every node.

use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use serde_json::Value;
use unibus_proto::control::Policy;
use unibus_testkit::{PATIENCE, eventually, next};

use crate::people::{Person, fresh};
use crate::world::World;

/// Long enough for what is there already, too short for what would have to come.
const MOMENT: Duration = Duration::from_millis(1);

#[tokio::test]
async fn golden_on_one_node() -> anyhow::Result<()> {
    let world = World::single().await?;
    golden(&world).await?;
    removal_is_live(&world).await?;
    revocation_closes_connections(&world).await?;
    one_of_two_rekeys_wins(&world).await?;
    wait_all_names_the_nodes(&world).await
}

#[tokio::test]
async fn golden_on_three_nodes() -> anyhow::Result<()> {
    let world = World::cluster().await?;
    golden(&world).await?;
    removal_is_live(&world).await?;
    revocation_closes_connections(&world).await?;
    one_of_two_rekeys_wins(&world).await?;
    wait_all_names_the_nodes(&world).await
}

/// Somebody with an encrypted room, and its id and subject.
pub(crate) async fn with_room(world: &World) -> anyhow::Result<(Person, String, String)> {
    let owner = world.person().await?;
    let (id, subject) = (fresh("r"), fresh("room."));
    let body = owner.room(&id, &subject, Policy::MATRIX);
    owner
        .post(world.http[0], "/rooms", &body)
        .await?
        .expect(201);
    Ok((owner, id, subject))
}

/// Invites and lets join.
pub(crate) async fn join(
    world: &World,
    owner: &Person,
    id: &str,
    guest: &Person,
) -> anyhow::Result<()> {
    let invitation = owner.invitation(id, 1, guest);
    let uri = format!("/rooms/{id}/invite");
    owner
        .post(world.http[0], &uri, &invitation)
        .await?
        .expect(201);
    let uri = format!("/rooms/{id}/join");
    guest
        .post(world.other(), &uri, &Value::Null)
        .await?
        .expect(200);
    Ok(())
}

async fn golden(world: &World) -> anyhow::Result<()> {
    let (here, there) = (world.http[0], world.other());
    let guest = world.person().await?;
    let connection = world.client(2, &guest).await?;
    let (owner, id, subject) = with_room(world).await?;
    let listener = world.client(0, &owner).await?;
    let mut messages = listener.subscribe(subject.clone()).await?;
    round_trip_own(&listener).await?;

    let invitation = owner.invitation(&id, 1, &guest);
    let uri = format!("/rooms/{id}/invite");
    owner.post(here, &uri, &invitation).await?.expect(201);
    let rooms = guest
        .get(there, &format!("/members/{}/rooms", guest.endpoint()))
        .await?;
    let rooms = rooms.expect(200).json();
    assert_eq!(rooms.as_array().map(Vec::len), Some(1), "{rooms}");
    assert_eq!(rooms[0]["room_id"], id.as_str());
    assert_eq!(rooms[0]["subject"], subject.as_str());
    assert_eq!(
        (&rooms[0]["role"], &rooms[0]["epoch"]),
        (&"member".into(), &1.into())
    );

    let uri = format!("/rooms/{id}/key?endpoint={}&epoch=1", guest.endpoint());
    let key = guest.get(there, &uri).await?.expect(200).json();
    assert_eq!(key["sealed_key"], invitation["sealed_key"]["sealed_key"]);
    assert_eq!(key["sealer"].as_str(), Some(owner.endpoint().as_str()));

    let uri = format!("/rooms/{id}/join");
    guest.post(there, &uri, &Value::Null).await?.expect(200);
    assert_eq!(
        hear(&connection, &subject, "hello", &mut messages).await?,
        "hello"
    );

    let members = owner.get(here, &format!("/rooms/{id}/members")).await?;
    let members = members.expect(200).json();
    assert_eq!(members.as_array().map(Vec::len), Some(2), "{members}");
    let room = guest
        .get(there, &format!("/rooms/{id}"))
        .await?
        .expect(200)
        .json();
    assert_eq!(
        (&room["epoch"], &room["needs_rekey"]),
        (&1.into(), &false.into())
    );
    // The room is persisted: its stream has the message, for its members.
    let context = async_nats::jetstream::new(connection);
    let stream = context.get_stream(format!("UNIBUS_{id}")).await?;
    let kept = stream.get_last_raw_message_by_subject(&subject).await?;
    assert_eq!(&kept.payload[..], b"hello");
    Ok(())
}

/// A round trip that needs no permission but that of inboxes.
pub(crate) async fn round_trip_own(client: &async_nats::Client) -> anyhow::Result<()> {
    match client.request(client.new_inbox(), "".into()).await {
        Err(_) | Ok(_) => Ok(()),
    }
}

/// Publishes until a subscriber hears something (its interest has to reach the speaker's node
/// first); answers with the first thing heard.
pub(crate) async fn hear(
    speaker: &async_nats::Client,
    subject: &str,
    text: &'static str,
    messages: &mut async_nats::Subscriber,
) -> anyhow::Result<String> {
    for _ in 0..300 {
        speaker.publish(subject.to_owned(), text.into()).await?;
        speaker.flush().await?;
        let heard = tokio::time::timeout(Duration::from_millis(200), messages.next()).await;
        if let Ok(message) = heard {
            let message = message.context("the subscription ended")?;
            return Ok(String::from_utf8_lossy(&message.payload).into_owned());
        }
    }
    bail!("nothing was heard on {subject}")
}

async fn removal_is_live(world: &World) -> anyhow::Result<()> {
    let (owner, id, subject) = with_room(world).await?;
    let guest = world.person().await?;
    let connection = world.client(1, &guest).await?;
    join(world, &owner, &id, &guest).await?;
    let mut messages = connection.subscribe(subject.clone()).await?;
    round_trip_own(&connection).await?;
    let speaker = world.client(0, &owner).await?;
    assert_eq!(
        hear(&speaker, &subject, "before", &mut messages).await?,
        "before"
    );

    let uri = format!("/rooms/{id}/members/{}", guest.endpoint());
    let room = owner.delete(world.http[0], &uri).await?.expect(200).json();
    assert_eq!(room["needs_rekey"], true);
    speaker.publish(subject.clone(), "after".into()).await?;
    round_trip_own(&speaker).await?;
    round_trip_own(&connection).await?;
    while let Ok(Some(message)) = tokio::time::timeout(MOMENT, messages.next()).await {
        assert_eq!(
            &message.payload[..],
            b"before",
            "a removed member heard this"
        );
    }
    let uri = format!("/rooms/{id}");
    guest.get(world.other(), &uri).await?.expect(403);
    let rekey = owner.rekey(&id, 2, &[&owner]);
    let room = owner
        .post(world.other(), &format!("/rooms/{id}/rekey"), &rekey)
        .await?;
    let room = room.expect(200).json();
    assert_eq!(
        (&room["needs_rekey"], &room["epoch"]),
        (&false.into(), &2.into())
    );
    Ok(())
}

/// Waits until a connection was closed by the server.
pub(crate) async fn is_closed(connection: &async_nats::Client) -> anyhow::Result<()> {
    eventually("the connection is closed", PATIENCE, || async {
        match connection.connection_state() {
            async_nats::connection::State::Connected => bail!("still connected"),
            _ => Ok(()),
        }
    })
    .await
}

async fn revocation_closes_connections(world: &World) -> anyhow::Result<()> {
    let person = world.person().await?;
    let mut connections = Vec::new();
    for node in 0..world.nats.len() {
        connections.push(world.client(node, &person).await?);
    }
    let uri = format!("/users/{}/revoke", person.sign_pub());
    world
        .admin
        .post(world.http[0], &uri, &Value::Null)
        .await?
        .expect(200);
    for node in 0..world.nats.len() {
        let again = world.client(node, &person).await;
        assert!(again.is_err(), "node {node} admits a revoked user");
    }
    for connection in &connections {
        is_closed(connection).await?;
    }
    for port in &world.http {
        person
            .get(*port, &format!("/members/{}/rooms", person.endpoint()))
            .await?
            .expect(401);
    }
    Ok(())
}

async fn one_of_two_rekeys_wins(world: &World) -> anyhow::Result<()> {
    let (owner, id, _) = with_room(world).await?;
    let uri = format!("/rooms/{id}/rekey");
    for epoch in 2..6 {
        let body = owner.rekey(&id, epoch, &[&owner]);
        let (one, other) = tokio::join!(
            owner.post(world.http[0], &uri, &body),
            owner.post(world.other(), &uri, &body)
        );
        let mut statuses = [one?.status, other?.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "epoch {epoch}");
    }
    let guest = world.person().await?;
    let invitation = owner.invitation(&id, 5, &guest);
    owner
        .post(world.http[0], &format!("/rooms/{id}/invite"), &invitation)
        .await?
        .expect(201);
    let without = owner.rekey(&id, 6, &[&owner]);
    let refused = owner.post(world.http[0], &uri, &without).await?.expect(409);
    assert!(refused.words().contains("missing"), "{}", refused.words());
    let with = owner.rekey(&id, 6, &[&owner, &guest]);
    owner.post(world.http[0], &uri, &with).await?.expect(200);
    // A client that does not know what became of a key goes past its epoch.
    for (epoch, wanted) in [(6, 409), (9, 200), (8, 409), (u64::MAX, 400)] {
        let body = owner.rekey(&id, epoch, &[&owner, &guest]);
        let answer = owner.post(world.http[0], &uri, &body).await?;
        assert_eq!(answer.status, wanted, "epoch {epoch}");
    }
    Ok(())
}

async fn wait_all_names_the_nodes(world: &World) -> anyhow::Result<()> {
    let person = Person::new();
    let body = serde_json::json!({ "sign_pub": person.sign_pub() });
    let added = world
        .admin
        .post(world.http[0], "/users?wait=all", &body)
        .await?;
    let added = added.expect(201).json();
    let applied = added["applied_on"].as_array().context("applied_on")?;
    assert_eq!(applied.len(), world.nats.len(), "{added}");
    assert_eq!(added["pending_on"].as_array().map(Vec::len), Some(0));
    Ok(())
}

/// The twin of every denied subscription: what a member of nothing may do.
#[tokio::test]
async fn a_member_of_nothing_can_still_ask_and_answer() -> anyhow::Result<()> {
    let world = World::single().await?;
    let person = world.person().await?;
    let client = world.client(0, &person).await?;
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await?;
    client.publish(inbox, "answer".into()).await?;
    assert_eq!(&next(&mut answers).await?.payload[..], b"answer");
    Ok(())
}
