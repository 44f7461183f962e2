//! Attacks on the message plane, by those who are connected to it: what they hear, what they are
//! answered, and what the control plane's buckets hold afterwards. Each next to what its attacker may
//! really do; each on one node and on three.

use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::{Client, Subscriber, jetstream};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use unibus_testkit::next;

use crate::golden::{hear, join, round_trip_own, with_room};
use crate::people::{Person, fresh};
use crate::world::World;

on_one_and_three!(
    a_non_member_gets_nothing_on_the_message_plane,
    the_buckets_are_seen_by_the_node_itself_and_nobody_else,
    a_granted_user_cannot_write_control_records,
    a_granted_user_cannot_ask_about_control_buckets,
    a_granted_user_cannot_draw_control_records_into_a_stream,
    a_stream_cannot_say_its_messages_again_as_control_records,
    an_answer_cannot_be_sent_into_a_control_bucket,
    a_granted_user_hears_nothing_of_the_control_plane,
    a_member_reads_its_rooms_stream_and_changes_nothing_of_it,
);

const MOMENT: Duration = Duration::from_millis(1);
const CONTROL_STREAMS: [&str; 7] = [
    "KV_UNIBUS_users",
    "KV_UNIBUS_rooms",
    "KV_UNIBUS_members",
    "KV_UNIBUS_rooms_by_member",
    "KV_UNIBUS_room_keys",
    "KV_UNIBUS_nonces",
    "OBJ_UNIBUS_blobs",
];

/// Somebody with the role `service` who was granted everything.
async fn almighty(world: &World) -> anyhow::Result<Person> {
    let person = Person::new();
    let grants = json!({ "publish": [">"], "subscribe": [">"] });
    let body = json!({ "sign_pub": person.sign_pub(), "role": "service", "grants": grants });
    let added = world.admin.post(world.http[0], "/users", &body).await?;
    added.expect(201);
    Ok(person)
}

/// Requests of one client with a shared inbox: what is denied is never answered.
struct Questions {
    client: Client,
    inbox: String,
    answers: Subscriber,
}

impl Questions {
    async fn of(client: &Client) -> anyhow::Result<Self> {
        let inbox = client.new_inbox();
        Ok(Self {
            answers: client.subscribe(format!("{inbox}.*")).await?,
            client: client.clone(),
            inbox,
        })
    }

    async fn ask(&self, name: &str, subject: String, body: Value) -> anyhow::Result<()> {
        let body = match body {
            Value::Null => Vec::new(),
            body => body.to_string().into_bytes(),
        };
        let reply = format!("{}.{name}", self.inbox);
        Ok(self
            .client
            .publish_with_reply(subject, reply, body.into())
            .await?)
    }

    /// Every answer so far, after one that must come has come: none but refusals.
    async fn are_refused(mut self) -> anyhow::Result<()> {
        let last = self.client.request("$JS.API.INFO", "".into()).await?;
        anyhow::ensure!(!last.payload.is_empty(), "the twin was not answered");
        round_trip_own(&self.client).await?;
        while let Ok(Some(answer)) = tokio::time::timeout(MOMENT, self.answers.next()).await {
            let text = String::from_utf8_lossy(&answer.payload);
            let refused = serde_json::from_str::<Value>(&text)
                .is_ok_and(|json| json["error"].is_object())
                || answer.status.is_some();
            assert!(refused, "{} was answered: {text}", answer.subject);
        }
        Ok(())
    }
}

async fn a_granted_user_cannot_write_control_records(world: &World) -> anyhow::Result<()> {
    let person = almighty(world).await?;
    let client = world.client(1, &person).await?;
    let own = fresh("own");
    let context = jetstream::new(client.clone());
    let config = jetstream::kv::Config {
        bucket: own.clone(),
        ..Default::default()
    };
    let bucket = context.create_key_value(config).await?;
    let forged = json!({
        "sign_pub": person.sign_pub(), "name": "", "role": "admin", "status": "active",
        "grants": {}, "created_at": "2026-01-01T00:00:00Z", "revoked_at": null,
    });
    let key = person.sign_pub();
    for subject in [
        format!("$KV.UNIBUS_users.{key}"),
        format!("$KV.UNIBUS_users.{}", world.admin.sign_pub()),
        "$KV.UNIBUS_rooms.r".to_owned(),
        "$KV.UNIBUS_nonces.n".to_owned(),
        "$O.UNIBUS_blobs.C.x".to_owned(),
    ] {
        client
            .publish(subject.clone(), forged.to_string().into())
            .await?;
        let mut batch = async_nats::HeaderMap::new();
        batch.insert("Nats-Batch-Id", "b");
        batch.insert("Nats-Batch-Sequence", "1");
        batch.insert("Nats-Batch-Commit", "1");
        client
            .publish_with_headers(subject, batch, forged.to_string().into())
            .await?;
    }
    round_trip_own(&client).await?;
    // The twin: its own bucket takes what it writes.
    bucket.put(&key, forged.to_string().into()).await?;
    person.get(world.http[0], "/users").await?.expect(403);
    person.get(world.other(), "/users").await?.expect(403);
    world.admin.get(world.other(), "/users").await?.expect(200);
    let users = jetstream::new(world.internal().await?)
        .get_key_value("UNIBUS_users")
        .await?;
    let stored = users.get(key).await?.context("a record")?;
    let stored: Value = serde_json::from_slice(&stored)?;
    assert_eq!(stored["role"], "service");
    context.delete_key_value(&own).await?;
    Ok(())
}

async fn a_granted_user_cannot_ask_about_control_buckets(world: &World) -> anyhow::Result<()> {
    let person = almighty(world).await?;
    let client = world.client(1, &person).await?;
    let questions = Questions::of(&client).await?;
    for stream in CONTROL_STREAMS {
        for (verb, body) in [
            ("INFO", Value::Null),
            ("DELETE", Value::Null),
            ("PURGE", Value::Null),
            ("UPDATE", json!({ "name": stream, "subjects": ["x"] })),
            ("CREATE", json!({ "name": stream, "subjects": ["x"] })),
            ("MSG.GET", json!({ "seq": 1 })),
            ("MSG.DELETE", json!({ "seq": 1 })),
            ("SNAPSHOT", json!({ "deliver_subject": client.new_inbox() })),
            (
                "RESTORE",
                json!({ "config": { "name": stream }, "state": {} }),
            ),
            ("LEADER.STEPDOWN", Value::Null),
        ] {
            let subject = format!("$JS.API.STREAM.{verb}.{stream}");
            questions.ask("s", subject, body).await?;
        }
        let consumer =
            json!({ "stream_name": stream, "config": { "name": "c", "durable_name": "c" } });
        for subject in [
            format!("$JS.API.CONSUMER.CREATE.{stream}"),
            format!("$JS.API.CONSUMER.CREATE.{stream}.c"),
            format!("$JS.API.CONSUMER.CREATE.{stream}.c.$KV.>"),
            format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.c"),
        ] {
            questions.ask("c", subject, consumer.clone()).await?;
        }
        for subject in [
            format!("$JS.API.DIRECT.GET.{stream}"),
            format!("$JS.API.CONSUMER.LIST.{stream}"),
            format!("$JS.API.CONSUMER.NAMES.{stream}"),
        ] {
            questions.ask("d", subject, json!({ "seq": 1 })).await?;
        }
    }
    // What may be asked does not tell of them either.
    for list in ["LIST", "NAMES"] {
        let answer = client.request(format!("$JS.API.STREAM.{list}"), "".into());
        let answer = answer.await?;
        let text = String::from_utf8_lossy(&answer.payload);
        assert!(
            !text.contains("KV_UNIBUS_") && !text.contains("OBJ_UNIBUS_"),
            "{text}"
        );
    }
    let context = jetstream::new(client.clone());
    assert!(context.get_key_value("UNIBUS_users").await.is_err());
    assert!(context.get_object_store("UNIBUS_blobs").await.is_err());
    questions.are_refused().await?;
    let internal = jetstream::new(world.internal().await?);
    for stream in CONTROL_STREAMS {
        let stream = internal.get_stream(stream).await?;
        let consumers: Vec<String> = stream.consumer_names().try_collect().await?;
        assert!(!consumers.iter().any(|name| name == "c"), "{consumers:?}");
    }
    Ok(())
}

/// Streams that would store, or store into, what belongs to the control plane.
async fn a_granted_user_cannot_draw_control_records_into_a_stream(
    world: &World,
) -> anyhow::Result<()> {
    let person = almighty(world).await?;
    let client = world.client(1, &person).await?;
    let questions = Questions::of(&client).await?;
    let name = fresh("S");
    let origin = json!({ "name": "KV_UNIBUS_users" });
    for config in [
        json!({ "name": name, "subjects": ["$KV.UNIBUS_users.>"] }),
        json!({ "name": name, "subjects": ["$KV.*.>"], "no_ack": true }),
        json!({ "name": name, "subjects": [">"], "no_ack": true }),
        json!({ "name": name, "subjects": ["$O.UNIBUS_blobs.>"] }),
        json!({ "name": name, "mirror": origin }),
        json!({ "name": name, "sources": [origin] }),
        json!({ "name": format!("KV_UNIBUS_{name}"), "subjects": [name] }),
        json!({ "name": format!("OBJ_UNIBUS_{name}"), "subjects": [name] }),
    ] {
        let subject = format!(
            "$JS.API.STREAM.CREATE.{}",
            config["name"].as_str().unwrap_or_default()
        );
        questions.ask("s", subject, config).await?;
    }
    questions.are_refused().await?;
    // The twin: a stream of its own. What was asked before it is decided before it.
    let context = jetstream::new(client);
    let twin = fresh("twin");
    let config = jetstream::stream::Config {
        name: twin.clone(),
        subjects: vec![twin.clone()],
        ..Default::default()
    };
    context.create_stream(config).await?;
    context.publish(twin.clone(), "mine".into()).await?.await?;
    let internal = jetstream::new(world.internal().await?);
    let names: Vec<String> = internal.stream_names().try_collect().await?;
    let made: Vec<&String> = names.iter().filter(|found| found.contains(&name)).collect();
    assert!(made.is_empty(), "{made:?}");
    context.delete_stream(&twin).await?;
    Ok(())
}

/// A stream may give its messages other subjects, and say them again elsewhere: never as a record of
/// the control plane.
async fn a_stream_cannot_say_its_messages_again_as_control_records(
    world: &World,
) -> anyhow::Result<()> {
    let person = almighty(world).await?;
    let client = world.client(1, &person).await?;
    let context = jetstream::new(client.clone());
    let key = person.sign_pub();
    let forged = json!({
        "sign_pub": key, "name": "", "role": "admin", "status": "active",
        "grants": {}, "created_at": "2026-01-01T00:00:00Z", "revoked_at": null,
    });
    let users = jetstream::new(world.internal().await?)
        .get_key_value("UNIBUS_users")
        .await?;
    let before = users.entry(&key).await?.context("a record")?.revision;
    for (name, more) in [
        (
            fresh("R"),
            json!({ "republish": { "src": ">", "dest": "$KV.UNIBUS_users.{{wildcard(1)}}" } }),
        ),
        (
            fresh("P"),
            json!({ "republish": { "src": ">", "dest": format!("$KV.UNIBUS_users.{key}") } }),
        ),
        (
            fresh("T"),
            json!({ "subject_transform": { "src": "SUBJECT", "dest": "$KV.UNIBUS_users.{{wildcard(1)}}" } }),
        ),
    ] {
        let filter = format!("{name}.*");
        let mut config = json!({ "name": name, "subjects": [filter] });
        let more = more
            .to_string()
            .replace("\"SUBJECT\"", &json!(filter).to_string());
        let more: Value = serde_json::from_str(&more.replace("\">\"", &json!(filter).to_string()))?;
        config
            .as_object_mut()
            .context("an object")?
            .extend(more.as_object().context("an object")?.clone());
        let subject = format!("$JS.API.STREAM.CREATE.{name}");
        let answer = client.request(subject, config.to_string().into()).await?;
        let answer: Value = serde_json::from_slice(&answer.payload)?;
        if answer["error"].is_object() {
            continue;
        }
        let stored = context.publish(format!("{name}.{key}"), forged.to_string().into());
        assert_eq!(stored.await?.await?.stream, name, "it went elsewhere");
        round_trip_own(&client).await?;
        // The twin, stored after whatever came of it.
        context
            .publish(format!("{name}.b"), "{}".into())
            .await?
            .await?;
        context.delete_stream(&name).await?;
    }
    let entry = users.entry(&key).await?.context("a record")?;
    assert_eq!(entry.revision, before, "{:?}", entry.value);
    person.get(world.other(), "/users").await?.expect(403);
    Ok(())
}

/// Where the server answers, delivers and republishes, it acts with its own authority: nobody may
/// point that at a bucket of the control plane. An answer that were stored over a user's record
/// would shut that user out.
#[allow(clippy::too_many_lines, reason = "one story, told in order")]
async fn an_answer_cannot_be_sent_into_a_control_bucket(world: &World) -> anyhow::Result<()> {
    let person = almighty(world).await?;
    let client = world.client(1, &person).await?;
    let context = jetstream::new(client.clone());
    let name = fresh("S");
    let config = jetstream::stream::Config {
        name: name.clone(),
        subjects: vec![format!("{name}.>")],
        ..Default::default()
    };
    let stream = context.create_stream(config).await?;
    context
        .publish(format!("{name}.a"), "{}".into())
        .await?
        .await?;
    let pull = jetstream::consumer::pull::Config {
        durable_name: Some("pull".into()),
        ..Default::default()
    };
    stream.create_consumer(pull).await?;
    let target = format!("$KV.UNIBUS_users.{}", world.admin.sign_pub());
    let victim = || target.clone();
    // Acknowledgements of publishes, answers of the API, messages that are pulled.
    for (subject, body) in [
        (format!("{name}.b"), "{}".to_owned()),
        ("$JS.API.INFO".to_owned(), String::new()),
        (format!("$JS.API.STREAM.INFO.{name}"), String::new()),
        (
            format!("$JS.API.STREAM.MSG.GET.{name}"),
            r#"{"seq":1}"#.to_owned(),
        ),
        (
            format!("$JS.API.DIRECT.GET.{name}"),
            r#"{"seq":1}"#.to_owned(),
        ),
        (
            format!("$JS.API.CONSUMER.MSG.NEXT.{name}.pull"),
            "1".to_owned(),
        ),
        (format!("$JS.ACK.{name}.pull.1.1.1.1.0"), "+NXT".to_owned()),
        ("$SYS.REQ.USER.INFO".to_owned(), String::new()),
        ("nobody.serves.this".to_owned(), String::new()),
    ] {
        client
            .publish_with_reply(subject, victim(), body.into())
            .await?;
    }
    // A consumer that delivers there, or whose dead letters go there.
    let questions = Questions::of(&client).await?;
    let push =
        json!({ "stream_name": name, "config": { "name": "push", "deliver_subject": target } });
    questions
        .ask("push", format!("$JS.API.CONSUMER.CREATE.{name}.push"), push)
        .await?;
    let dead = json!({ "stream_name": name, "config": {
        "name": "dead", "durable_name": "dead", "ack_policy": "explicit", "max_deliver": 1,
        "ack_wait": 1_000_000, "metadata": { "unibus.dead_letter": target } } });
    questions
        .ask("dead", format!("$JS.API.CONSUMER.CREATE.{name}.dead"), dead)
        .await?;
    questions.are_refused().await?;
    // What the stream stores after all of it is the proof that its answers were sent.
    context
        .publish(format!("{name}.c"), "{}".into())
        .await?
        .await?;
    round_trip_own(&client).await?;
    for port in &world.http {
        world.admin.get(*port, "/users").await?.expect(200);
    }
    let users = jetstream::new(world.internal().await?)
        .get_key_value("UNIBUS_users")
        .await?;
    let entry = users
        .entry(world.admin.sign_pub())
        .await?
        .context("the admin's record")?;
    let record: Value = serde_json::from_slice(&entry.value)?;
    assert_eq!(record["role"], "admin", "{record}");
    context.delete_stream(&name).await?;
    Ok(())
}

async fn a_granted_user_hears_nothing_of_the_control_plane(world: &World) -> anyhow::Result<()> {
    let person = almighty(world).await?;
    let client = world.client(1, &person).await?;
    let mut all = client.subscribe(">").await?;
    let mut closed = Vec::new();
    for filter in [
        "$KV.UNIBUS_users.>",
        "$KV.UNIBUS_*.>",
        "$O.UNIBUS_blobs.>",
        "$SYS.>",
    ] {
        closed.push(client.subscribe(filter).await?);
    }
    round_trip_own(&client).await?;
    let (owner, id, _) = with_room(world).await?;
    let guest = world.person().await?;
    join(world, &owner, &id, &guest).await?;
    let blob = owner.request("POST", "/blobs", fresh("blob").as_bytes());
    blob.send(world.http[0]).await?.expect(201);
    // What the node's own identity writes with an ordinary client does cross the message plane.
    let claim = format!("$KV.UNIBUS_nonces.{}", fresh(""));
    let internal = world.internal().await?;
    internal.request(claim, "{}".into()).await?;
    // The twin, which comes after all of it.
    let twin = fresh("twin.");
    let speaker = world.client(0, &person).await?;
    for attempt in 0.. {
        anyhow::ensure!(attempt < 1000, "the twin was not heard");
        speaker.publish(twin.clone(), "hello".into()).await?;
        speaker.flush().await?;
        let message = next(&mut all).await?;
        let subject = message.subject.as_str();
        let ours = ["$KV.UNIBUS_", "$O.UNIBUS_", "$SYS."];
        assert!(
            !ours.iter().any(|prefix| subject.starts_with(prefix)),
            "{subject}"
        );
        if subject == twin {
            break;
        }
    }
    for mut filter in closed {
        let heard = tokio::time::timeout(MOMENT, filter.next()).await;
        assert!(!matches!(heard, Ok(Some(_))), "{heard:?}");
    }
    Ok(())
}

async fn a_member_reads_its_rooms_stream_and_changes_nothing_of_it(
    world: &World,
) -> anyhow::Result<()> {
    let (owner, id, subject) = with_room(world).await?;
    let (_, foreign, _) = with_room(world).await?;
    let guest = world.person().await?;
    join(world, &owner, &id, &guest).await?;
    let client = world.client(1, &guest).await?;
    let context = jetstream::new(client.clone());
    context
        .publish(subject.clone(), "said".into())
        .await?
        .await?;
    let stream = format!("UNIBUS_{id}");
    let other = format!("UNIBUS_{foreign}");
    let questions = Questions::of(&client).await?;
    for verb in [
        "DELETE",
        "PURGE",
        "UPDATE",
        "MSG.DELETE",
        "SNAPSHOT",
        "LEADER.STEPDOWN",
    ] {
        let body = json!({ "name": stream, "seq": 1 });
        questions
            .ask("own", format!("$JS.API.STREAM.{verb}.{stream}"), body)
            .await?;
    }
    for subject in [
        format!("$JS.API.STREAM.INFO.{other}"),
        format!("$JS.API.STREAM.MSG.GET.{other}"),
        format!("$JS.API.DIRECT.GET.{other}"),
        format!("$JS.API.CONSUMER.CREATE.{other}.c"),
        format!("$JS.API.CONSUMER.CREATE.{other}.{stream}"),
        format!("$JS.API.CONSUMER.MSG.NEXT.{other}.{stream}"),
        "$JS.API.STREAM.NAMES".to_owned(),
        "$JS.API.STREAM.LIST".to_owned(),
        format!("$JS.API.STREAM.CREATE.{}", fresh("S")),
    ] {
        questions
            .ask("foreign", subject, json!({ "seq": 1 }))
            .await?;
    }
    // Its own stream may be consumed, but not delivered to where it may not speak.
    for target in ["elsewhere", "$KV.UNIBUS_users.x", "_INBOX.>"] {
        let push =
            json!({ "stream_name": stream, "config": { "name": "p", "deliver_subject": target } });
        let subject = format!("$JS.API.CONSUMER.CREATE.{stream}.p");
        questions.ask("push", subject, push).await?;
    }
    questions.are_refused().await?;
    // The twin: what was said is read.
    let own = context.get_stream(&stream).await?;
    let pull = jetstream::consumer::pull::Config::default();
    let consumer = own.create_consumer(pull).await?;
    let mut messages = consumer.fetch().max_messages(1).messages().await?;
    let message = messages.next().await.context("a message")?;
    let message = message.map_err(|error| anyhow::anyhow!("{error}"))?;
    assert_eq!(&message.payload[..], b"said");
    Ok(())
}

/// The seven buckets are ordinary ones to the node's own identity, and closed to an admin, a member
/// and a service with a bucket of its own.
async fn the_buckets_are_seen_by_the_node_itself_and_nobody_else(
    world: &World,
) -> anyhow::Result<()> {
    let (owner, id, _) = with_room(world).await?;
    let blob = fresh("blob");
    let stored = owner.request("POST", "/blobs", blob.as_bytes());
    let hash = stored.send(world.http[0]).await?.expect(201).json();
    let hash = hash["hash"].as_str().context("a hash")?;
    let endpoint = owner.endpoint();
    let context = jetstream::new(world.internal().await?);
    for (bucket, key) in [
        ("UNIBUS_users", owner.sign_pub()),
        ("UNIBUS_rooms", id.clone()),
        ("UNIBUS_members", format!("{id}.{endpoint}")),
        ("UNIBUS_rooms_by_member", format!("{endpoint}.{id}")),
        ("UNIBUS_room_keys", format!("{id}.1.{endpoint}")),
    ] {
        let store = context.get_key_value(bucket).await?;
        let value = store
            .get(&key)
            .await?
            .with_context(|| format!("{bucket} {key}"))?;
        let value: Value = serde_json::from_slice(&value)?;
        assert!(value.is_object(), "{bucket} {key}: {value}");
    }
    let nonces = context.get_key_value("UNIBUS_nonces").await?;
    let info = nonces.stream.get_info().await?;
    assert!(info.state.messages > 0, "no nonce was claimed");
    let life = Duration::from_millis(unibus_proto::signing::NONCE_LIFE_MS);
    assert_eq!(info.config.max_age, life, "a replay could be accepted");
    let blobs = context.get_object_store("UNIBUS_blobs").await?;
    let mut object = blobs.get(hash).await?;
    let mut bytes = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut object, &mut bytes).await?;
    assert_eq!(bytes, blob.as_bytes());
    for person in [&world.admin, &owner, &almighty(world).await?] {
        let client = world.client(1, person).await?;
        let questions = Questions::of(&client).await?;
        for stream in CONTROL_STREAMS {
            let subject = format!("$JS.API.STREAM.INFO.{stream}");
            questions.ask("info", subject, Value::Null).await?;
        }
        round_trip_own(&client).await?;
        let mut answers = questions.answers;
        let answered = tokio::time::timeout(MOMENT, answers.next()).await;
        if let Ok(Some(answer)) = answered
            && answer.status.is_none()
            && !String::from_utf8_lossy(&answer.payload).contains("\"error\"")
        {
            bail!("{answer:?}");
        }
    }
    Ok(())
}

/// What a client hears when it tries everything a non-member must not.
async fn a_non_member_gets_nothing_on_the_message_plane(world: &World) -> anyhow::Result<()> {
    let (owner, id, subject) = with_room(world).await?;
    let outsider = world.person().await?;
    let client = world.client(0, &outsider).await?;
    let mut harvests = Vec::new();
    let foreign = format!("$JS.API.STREAM.INFO.UNIBUS_{id}");
    for filter in [
        ">",
        "*.>",
        "$KV.>",
        "$KV.UNIBUS_users.>",
        "$O.UNIBUS_blobs.>",
        "$JS.API.>",
        "_INBOX.>",
        "_INBOX.*.>",
        "$SYS.>",
        subject.as_str(),
        foreign.as_str(),
    ] {
        harvests.push(client.subscribe(filter.to_owned()).await?);
    }
    round_trip_own(&client).await?;
    let speaker = world.client(world.nats.len() - 1, &owner).await?;
    speaker.publish(subject.clone(), "secret".into()).await?;
    let context = jetstream::new(speaker.clone());
    context.get_stream(format!("UNIBUS_{id}")).await?;
    let mine = world.client(0, &owner).await?;
    let mut messages = mine.subscribe(subject.clone()).await?;
    round_trip_own(&mine).await?;
    client.publish(subject.clone(), "intruder".into()).await?;
    client.publish("$KV.UNIBUS_users.x", "{}".into()).await?;
    round_trip_own(&client).await?;
    let first = hear(&speaker, &subject, "legitimate", &mut messages).await?;
    assert_eq!(first, "legitimate", "a non-member's message came through");
    round_trip_own(&client).await?;
    for mut harvest in harvests {
        let heard = next(&mut harvest);
        if let Ok(Ok(message)) = tokio::time::timeout(MOMENT, heard).await {
            bail!("a non-member heard {message:?}");
        }
    }
    let asked = tokio::time::timeout(Duration::from_secs(1), client.request(foreign, "".into()));
    assert!(
        !matches!(asked.await, Ok(Ok(_))),
        "a foreign stream answered"
    );
    Ok(())
}
