//! What consumers deliver to those who have lost the right to read: nothing, whoever made the consumer,
//! wherever it delivers and whichever node they are connected to. Beside each listens somebody with the
//! right, on the same inbox and node: what that one hears was there to be heard.

use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream::{self, consumer, stream};
use async_nats::{Client, Subscriber};
use futures::StreamExt;
use serde_json::{Value, json};
use unibus_proto::control::Policy;
use unibus_testkit::next;

use crate::commands::user;
use crate::golden::{join, round_trip_own, with_room};
use crate::people::{Person, fresh};
use crate::world::{Size, World};

on_one_and_three!(
    consumers_of_a_removed_member_deliver_to_members_only,
    a_watch_ends_with_its_grant,
    a_narrower_grant_narrows_what_comes,
    who_listens_by_name_needs_no_right_to_read,
);

/// Long enough for what is there already, too short for what would have to come.
const MOMENT: Duration = Duration::from_millis(1);
const HOUR_NS: u64 = 3_600_000_000_000;

/// A service with these grants.
async fn service(world: &World, grants: Value) -> anyhow::Result<Person> {
    let person = Person::new();
    let body = json!({ "sign_pub": person.sign_pub(), "role": "service", "grants": grants });
    let added = world.admin.post(world.http[0], "/users?wait=all", &body);
    added.await?.expect(201);
    Ok(person)
}

/// Takes something from a service, as an operator does.
fn ungrant(world: &World, person: &Person, what: &[&str]) -> anyhow::Result<()> {
    let key = person.sign_pub();
    let words = [&["ungrant"], what, &[key.as_str()]].concat();
    let file = world.identity().display().to_string();
    let (code, text) = user(&words, &file, &world.nats[0], &[])?;
    ensure!(code == Some(0), "{text}");
    Ok(())
}

/// A question of the JetStream API that must not be refused.
async fn ask(client: &Client, subject: String, body: Value) -> anyhow::Result<Value> {
    let answer = client.request(subject, body.to_string().into()).await?;
    let answer: Value = serde_json::from_slice(&answer.payload)?;
    ensure!(answer["error"].is_null(), "{answer}");
    Ok(answer)
}

/// A push consumer of what is stored from now on.
async fn push_to(client: &Client, stream: &str, deliver: &str) -> anyhow::Result<()> {
    let config =
        json!({ "deliver_subject": deliver, "ack_policy": "none", "deliver_policy": "new" });
    let body = json!({ "stream_name": stream, "config": config });
    ask(client, format!("$JS.API.CONSUMER.CREATE.{stream}"), body).await?;
    Ok(())
}

/// A durable consumer, and a request that waits at it for an hour.
async fn pull_to(client: &Client, stream: &str, ack: &str, inbox: &str) -> anyhow::Result<()> {
    let name = fresh("c");
    let config = json!({ "durable_name": name, "ack_policy": ack });
    let config = json!({ "stream_name": stream, "config": config });
    let place = format!("{stream}.{name}");
    ask(
        client,
        format!("$JS.API.CONSUMER.DURABLE.CREATE.{place}"),
        config,
    )
    .await?;
    wait_at(client, &place, inbox).await?;
    // Asked after the request, and answered by the leader, which has taken that by then or soon after.
    ask(
        client,
        format!("$JS.API.CONSUMER.INFO.{place}"),
        Value::Null,
    )
    .await?;
    Ok(())
}

async fn wait_at(client: &Client, place: &str, inbox: &str) -> anyhow::Result<()> {
    let body = json!({ "batch": 1000, "expires": HOUR_NS }).to_string();
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{place}");
    let inbox = inbox.to_owned();
    client
        .publish_with_reply(subject, inbox, body.into())
        .await?;
    Ok(())
}

/// The next stored message, past what else comes to an inbox.
async fn delivered(messages: &mut Subscriber) -> anyhow::Result<String> {
    loop {
        let message = next(messages).await?;
        if message.status.is_none() {
            return Ok(String::from_utf8_lossy(&message.payload).into_owned());
        }
    }
}

/// That nothing stored has come to a client that may have been told other things.
async fn hears_nothing(client: &Client, messages: &mut Subscriber) -> anyhow::Result<()> {
    round_trip_own(client).await?;
    while let Ok(Some(message)) = tokio::time::timeout(MOMENT, messages.next()).await {
        ensure!(message.status.is_some(), "{} came through", message.subject);
    }
    Ok(())
}

/// Somebody at one node, and what comes to the places of one consumer's deliveries.
struct Listener {
    client: Client,
    places: Vec<Subscriber>,
}

impl Listener {
    async fn new(world: &World, at: usize, who: &Person, on: &[String]) -> anyhow::Result<Self> {
        let client = world.client(at, who).await?;
        let mut places = Vec::new();
        for place in on {
            places.push(client.subscribe(place.clone()).await?);
        }
        round_trip_own(&client).await?;
        Ok(Self { client, places })
    }

    async fn hears(&mut self, text: &str) -> anyhow::Result<()> {
        for place in &mut self.places {
            let heard = delivered(place).await?;
            ensure!(heard == text, "{heard:?} instead of {text:?}");
        }
        Ok(())
    }

    async fn hears_nothing(&mut self) -> anyhow::Result<()> {
        for place in &mut self.places {
            hears_nothing(&self.client, place).await?;
        }
        Ok(())
    }
}

/// Whoever is removed has a push consumer and a waiting request that deliver to an inbox, and one that
/// delivers to the subject of a room of their own, at each node. A member listens on the same places,
/// and so do a stranger and, later, a new connection of the removed one.
async fn consumers_of_a_removed_member_deliver_to_members_only(
    world: &World,
) -> anyhow::Result<()> {
    let (owner, room, subject) = with_room(world).await?;
    let (guest, friend, stranger) = (
        world.person().await?,
        world.person().await?,
        world.person().await?,
    );
    for member in [&guest, &friend] {
        join(world, &owner, &room, member).await?;
    }
    let (own_room, own_subject) = (fresh("r"), fresh("room."));
    let body = guest.room(&own_room, &own_subject, Policy::MATRIX);
    guest
        .post(world.http[0], "/rooms?wait=all", &body)
        .await?
        .expect(201);
    join(world, &guest, &own_room, &friend).await?;

    let stream = format!("UNIBUS_{room}");
    let speaker = world.client(0, &owner).await?;
    let (mut guests, mut friends, mut strangers) = (Vec::new(), Vec::new(), Vec::new());
    let mut inboxes = Vec::new();
    for at in 0..world.nats.len() {
        let inbox = speaker.new_inbox();
        let on = [format!("{inbox}.push"), format!("{inbox}.pull")];
        let guest = Listener::new(world, at, &guest, &on).await?;
        friends.push(Listener::new(world, at, &friend, &on).await?);
        strangers.push(Listener::new(world, at, &stranger, &on).await?);
        push_to(&guest.client, &stream, &on[0]).await?;
        pull_to(&guest.client, &stream, "none", &on[1]).await?;
        guests.push(guest);
        inboxes.push(on);
    }
    push_to(&guests[0].client, &stream, &own_subject).await?;
    let on = [own_subject];
    for (at, who) in [(0, &guest), (1, &guest)] {
        guests.push(Listener::new(world, at, who, &on).await?);
    }
    for at in 0..world.nats.len() {
        friends.push(Listener::new(world, at, &friend, &on).await?);
    }
    speaker.publish(subject.clone(), "before".into()).await?;
    for listener in guests.iter_mut().chain(&mut friends) {
        listener.hears("before").await?;
    }
    let uri = format!("/rooms/{room}/members/{}?wait=all", guest.endpoint());
    owner.delete(world.http[0], &uri).await?.expect(200);
    for (at, on) in inboxes.iter().enumerate() {
        guests.push(Listener::new(world, at, &guest, on).await?);
    }
    for text in ["after", "and after that"] {
        speaker.publish(subject.clone(), text.into()).await?;
        for friend in &mut friends {
            friend.hears(text).await?;
        }
    }
    for listener in guests.iter_mut().chain(&mut strangers) {
        listener.hears_nothing().await?;
    }

    // A revoked user's consumers are nobody's key either.
    let uri = format!("/users/{}/revoke?wait=all", guest.sign_pub());
    let revoked = world.admin.post(world.http[0], &uri, &Value::Null).await?;
    revoked.expect(200);
    speaker.publish(subject, "at last".into()).await?;
    for friend in &mut friends {
        friend.hears("at last").await?;
    }
    for stranger in &mut strangers {
        stranger.hears_nothing().await?;
    }
    Ok(())
}

/// A key-value watch of a service whose bucket is taken from it, heard by another service too.
async fn a_watch_ends_with_its_grant(world: &World) -> anyhow::Result<()> {
    let name = fresh("b");
    let context = jetstream::new(world.internal().await?);
    let config = jetstream::kv::Config {
        bucket: name.clone(),
        ..Default::default()
    };
    let bucket = context.create_key_value(config).await?;
    let grants = json!({ "buckets": [name] });
    let (loser, keeper) = (
        service(world, grants.clone()).await?,
        service(world, grants).await?,
    );
    let mut watches = Vec::new();
    for at in 0..world.nats.len() {
        let prefix = fresh("_INBOX.");
        let options = async_nats::ConnectOptions::with_nkey(loser.seed().to_nkey())
            .custom_inbox_prefix(prefix.clone());
        let watcher = options.connect(&world.nats[at]).await?;
        let store = jetstream::new(watcher.clone()).get_key_value(&name).await?;
        let other = world.client(at, &keeper).await?;
        let own_store = jetstream::new(other.clone()).get_key_value(&name).await?;
        // Before the watch: it must not miss the first delivery.
        let overheard = other.subscribe(format!("{prefix}.>")).await?;
        round_trip_own(&other).await?;
        watches.push((store.watch_all().await?, overheard, watcher));
        watches.push((
            own_store.watch_all().await?,
            other.subscribe("_INBOX.none").await?,
            other,
        ));
    }
    bucket.put("a", "v1".into()).await?;
    for (watch, ..) in &mut watches {
        let entry = watch.next().await.context("the watch ended")??;
        assert_eq!(&entry.value[..], b"v1");
    }
    ungrant(world, &loser, &["--bucket", &name])?;
    bucket.put("a", "v2".into()).await?;
    for pair in watches.chunks_mut(2) {
        let [(lost, overheard, client), (kept, ..)] = pair else {
            unreachable!("watches come in pairs")
        };
        let entry = kept.next().await.context("the watch ended")??;
        assert_eq!(&entry.value[..], b"v2");
        while delivered(overheard).await? != "v2" {}
        round_trip_own(client).await?;
        if let Ok(Some(Ok(entry))) = tokio::time::timeout(MOMENT, lost.next()).await {
            anyhow::bail!("a watch without a grant saw {entry:?}");
        }
    }
    Ok(())
}

async fn some_stream(world: &World, retention: stream::RetentionPolicy) -> anyhow::Result<String> {
    let name = fresh("S");
    let config = stream::Config {
        name: name.clone(),
        subjects: vec![format!("{name}.>")],
        retention,
        ..Default::default()
    };
    jetstream::new(world.internal().await?)
        .create_stream(config)
        .await?;
    Ok(name)
}

/// A service that could read a whole stream, and then only some of its subjects.
async fn a_narrower_grant_narrows_what_comes(world: &World) -> anyhow::Result<()> {
    let stream = some_stream(world, stream::RetentionPolicy::Limits).await?;
    let some = format!("$JS.API.CONSUMER.CREATE.{stream}.*.{stream}.open.>");
    let grants = json!({ "streams": [stream], "publish": [some] });
    let reader = service(world, grants).await?;
    let writer = jetstream::new(world.internal().await?);
    let mut readers = Vec::new();
    for at in 0..world.nats.len() {
        let inbox = writer_inbox();
        let reader = Listener::new(world, at, &reader, std::slice::from_ref(&inbox)).await?;
        push_to(&reader.client, &stream, &inbox).await?;
        readers.push(reader);
    }
    let say = async |place: &str, text: &'static str| {
        let subject = format!("{stream}.{place}");
        writer.publish(subject, text.into()).await?.await?;
        anyhow::Ok(())
    };
    say("open.a", "1").await?;
    say("secret.a", "2").await?;
    for reader in &mut readers {
        reader.hears("1").await?;
        reader.hears("2").await?;
    }
    ungrant(world, &reader, &["--stream", &stream])?;
    say("secret.a", "3").await?;
    say("open.a", "4").await?;
    for reader in &mut readers {
        reader.hears("4").await?;
        reader.hears_nothing().await?;
    }
    Ok(())
}

fn writer_inbox() -> String {
    fresh("_INBOX.")
}

/// A worker that may only listen on a subject granted to it by name, as with nats-server; an inbox is
/// no such subject, whatever its prefix.
async fn who_listens_by_name_needs_no_right_to_read(world: &World) -> anyhow::Result<()> {
    let stream = some_stream(world, stream::RetentionPolicy::Limits).await?;
    let (place, inbox) = (fresh("work."), fresh("_INBOX_"));
    let grants = json!({ "subscribe": [place, format!("{inbox}.>")] });
    let worker = service(world, grants).await?;
    let internal = world.internal().await?;
    let inbox = format!("{inbox}.a");
    for deliver in [&place, &inbox] {
        push_to(&internal, &stream, deliver).await?;
    }
    let mut overheard = internal.subscribe(inbox.clone()).await?;
    let mut workers = Vec::new();
    for at in 0..world.nats.len() {
        let places = [place.clone(), inbox.clone()];
        workers.push(Listener::new(world, at, &worker, &places).await?);
    }
    let subject = format!("{stream}.job");
    jetstream::new(internal.clone())
        .publish(subject, "job".into())
        .await?
        .await?;
    assert_eq!(delivered(&mut overheard).await?, "job");
    for worker in &mut workers {
        assert_eq!(delivered(&mut worker.places[0]).await?, "job");
        hears_nothing(&worker.client, &mut worker.places[1]).await?;
    }
    Ok(())
}

/// A work queue on which a worker waits that then loses its right: its job is the next one's, at once.
#[tokio::test]
async fn a_job_is_not_spent_on_a_worker_that_lost_the_right() -> anyhow::Result<()> {
    let world = &*World::get(Size::One, &[]).await?;
    let stream = some_stream(world, stream::RetentionPolicy::WorkQueue).await?;
    let grants = json!({ "streams": [stream] });
    let (loser, keeper) = (
        service(world, grants.clone()).await?,
        service(world, grants).await?,
    );
    let internal = jetstream::new(world.internal().await?);
    let config = consumer::pull::Config {
        durable_name: Some("w".into()),
        ack_wait: Duration::from_secs(3600),
        ..Default::default()
    };
    internal.create_consumer_on_stream(config, &stream).await?;
    let place = format!("{stream}.w");
    let mut losers = Vec::new();
    for at in 0..world.nats.len() {
        let inbox = writer_inbox();
        let listener = Listener::new(world, at, &loser, std::slice::from_ref(&inbox)).await?;
        wait_at(&listener.client, &place, &inbox).await?;
        listener.client.flush().await?;
        losers.push(listener);
    }
    unibus_testkit::eventually("the requests wait", unibus_testkit::PATIENCE, || async {
        let info: Value = internal
            .request(format!("CONSUMER.INFO.{place}"), &())
            .await?;
        ensure!(info["num_waiting"] == losers.len(), "{info}");
        Ok(())
    })
    .await?;
    ungrant(world, &loser, &["--stream", &stream])?;
    let inbox = writer_inbox();
    let mut worker = Listener::new(world, 1, &keeper, std::slice::from_ref(&inbox)).await?;
    wait_at(&worker.client, &place, &inbox).await?;
    for number in ["1", "2", "3"] {
        let subject = format!("{stream}.job");
        internal.publish(subject, number.into()).await?.await?;
        worker.hears(number).await?;
    }
    for loser in &mut losers {
        loser.hears_nothing().await?;
    }
    Ok(())
}
