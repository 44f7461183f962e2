//! One function for each attack of control-plane.md, with the legitimate twin of the request beside
//! it: those that come by HTTP. Each on one node and on three, under its own name.

use anyhow::Context;
use async_nats::connection::State;
use serde_json::{Value, json};
use unibus_proto::control::Policy;
use unibus_proto::signing::{HEADER_KEY, HEADER_NONCE, HEADER_SIGNATURE, HEADER_TIMESTAMP};

use crate::golden::{is_closed, join, with_room};
use crate::people::{Person, fresh, now};
use crate::world::{Size, World};

on_one_and_three!(
    an_unregistered_key_is_nobody,
    a_revoked_user_is_nobody,
    a_replay_is_refused_on_every_node,
    a_skewed_clock_is_refused,
    a_tampered_request_is_refused,
    missing_headers_are_refused,
    a_strangers_nonce_poisons_nobody,
    a_refused_request_cannot_be_replayed_later,
    a_room_cannot_be_owned_by_somebody_else,
    a_foreign_room_shows_nothing,
    only_the_owner_changes_a_room,
    only_admins_see_and_change_users,
    a_room_cannot_take_a_subject_that_is_in_use,
    error_texts_leak_nothing,
    a_room_in_cleartext_is_refused_where_rooms_are_encrypted("--encrypted-rooms"),
);

const ROOMS: &str = "/rooms";

fn my_rooms(person: &Person) -> String {
    format!("/members/{}/rooms", person.endpoint())
}

async fn an_unregistered_key_is_nobody(world: &World) -> anyhow::Result<()> {
    let (known, stranger) = (world.person().await?, Person::new());
    for port in &world.http {
        let refused = stranger.get(*port, &my_rooms(&stranger)).await?.expect(401);
        assert!(
            refused.words().contains("not authorized"),
            "{}",
            refused.words()
        );
        known.get(*port, &my_rooms(&known)).await?.expect(200);
    }
    assert!(world.client(0, &stranger).await.is_err());
    assert!(world.client(0, &known).await.is_ok());
    Ok(())
}

async fn a_revoked_user_is_nobody(world: &World) -> anyhow::Result<()> {
    let (stays, goes) = (world.person().await?, world.person().await?);
    for person in [&stays, &goes] {
        person
            .get(world.other(), &my_rooms(person))
            .await?
            .expect(200);
    }
    let uri = format!("/users/{}/revoke", goes.sign_pub());
    // Somebody who was never connected: nothing but its record can refuse it.
    let absent = world.person().await?;
    let out = format!("/users/{}/revoke", absent.sign_pub());
    let revoked = world.admin.post(world.other(), &out, &Value::Null).await?;
    revoked.expect(200);
    assert!(world.client(0, &absent).await.is_err());
    let open = world.client(2, &goes).await?;
    let kept = world.client(2, &stays).await?;
    world
        .admin
        .post(world.http[0], &uri, &Value::Null)
        .await?
        .expect(200);
    is_closed(&open).await?;
    assert_eq!(kept.connection_state(), State::Connected);
    for port in &world.http {
        goes.get(*port, &my_rooms(&goes)).await?.expect(401);
        stays.get(*port, &my_rooms(&stays)).await?.expect(200);
    }
    let again = world.admin.post(world.http[0], &uri, &Value::Null).await?;
    again.expect(409);
    Ok(())
}

async fn a_replay_is_refused_on_every_node(world: &World) -> anyhow::Result<()> {
    let person = world.person().await?;
    let read = person.request("GET", &my_rooms(&person), b"");
    read.send(world.http[0]).await?.expect(200);
    let (id, subject) = (fresh("r"), fresh("room."));
    let body = person.room(&id, &subject, Policy::MATRIX).to_string();
    let write = person.request("POST", ROOMS, body.as_bytes());
    write.send(world.other()).await?.expect(201);
    for port in &world.http {
        for request in [&read, &write] {
            let refused = request.send(*port).await?.expect(401);
            assert!(refused.words().contains("replayed"), "{}", refused.words());
        }
        // The twin: the same question, signed anew.
        person.get(*port, &my_rooms(&person)).await?.expect(200);
    }
    // The same nonce in another request is a replay too.
    let mut other = person.request("GET", &my_rooms(&person), b"");
    let nonce = other.header(HEADER_NONCE).clone();
    other.send(world.http[0]).await?.expect(200);
    let at = now();
    let hash = unibus_proto::signing::body_hash(b"");
    let bytes = data_encoding::BASE64.decode(nonce.as_bytes())?;
    let bytes: [u8; 16] = bytes.try_into().ok().context("16 bytes")?;
    let uri = "/blobs/".to_owned() + &"0".repeat(64);
    let headers =
        unibus_proto::signing::sign_request(&person.seed(), "GET", &uri, at, &bytes, &hash);
    let mut reused = person.request("GET", &uri, b"");
    reused.headers = headers.into();
    reused.send(world.other()).await?.expect(401);
    Ok(())
}

async fn a_skewed_clock_is_refused(world: &World) -> anyhow::Result<()> {
    let person = world.person().await?;
    for at in [now() - 60, now() + 60, 1] {
        let request = person.request_at(at, "GET", &my_rooms(&person), b"");
        let refused = request.send(world.http[0]).await?.expect(401);
        assert!(refused.words().contains("clock"), "{}", refused.words());
    }
    let request = person.request_at(now() - 20, "GET", &my_rooms(&person), b"");
    request.send(world.http[0]).await?.expect(200);
    Ok(())
}

async fn a_tampered_request_is_refused(world: &World) -> anyhow::Result<()> {
    let person = world.person().await?;
    let body = person.room(&fresh("r"), &fresh("room."), Policy::MATRIX);
    let good = person.request("POST", "/rooms?wait=all", body.to_string().as_bytes());
    let mut other_body = good.clone();
    other_body.body = person
        .room(&fresh("r"), &fresh("room."), Policy::MATRIX)
        .to_string()
        .into();
    let mut other_path = good.clone();
    other_path.uri = "/users?wait=all".into();
    let mut other_query = good.clone();
    other_query.uri = "/rooms?wait=none".into();
    let mut other_method = good.clone();
    other_method.method = "GET".into();
    other_method.uri = my_rooms(&person);
    for tampered in [other_body, other_path, other_query, other_method] {
        tampered.send(world.http[0]).await?.expect(401);
    }
    good.send(world.http[0]).await?.expect(201);
    Ok(())
}

async fn missing_headers_are_refused(world: &World) -> anyhow::Result<()> {
    let person = world.person().await?;
    let good = person.request("GET", &my_rooms(&person), b"");
    for name in [HEADER_KEY, HEADER_TIMESTAMP, HEADER_NONCE, HEADER_SIGNATURE] {
        let mut without = good.clone();
        without.headers.retain(|(header, _)| *header != name);
        let refused = without.send(world.http[0]).await?.expect(401);
        assert!(refused.words().contains(name), "{}", refused.words());
        let mut garbled = good.clone();
        *garbled.header(name) = "garbage".into();
        garbled.send(world.http[0]).await?.expect(401);
        let mut twice = good.clone();
        let value = twice.header(name).clone();
        twice.headers.push((name, value));
        twice.send(world.http[0]).await?.expect(401);
    }
    good.send(world.http[0]).await?.expect(200);
    for exempt in ["/healthz", "/livez"] {
        let mut request = person.request("GET", exempt, b"");
        request.headers.clear();
        request.send(world.http[0]).await?.expect(200);
    }
    Ok(())
}

/// A nonce is claimed after the signer was found to be a user: an unregistered key that uses
/// somebody's nonce first can't make it unusable.
async fn a_strangers_nonce_poisons_nobody(world: &World) -> anyhow::Result<()> {
    let (person, stranger) = (world.person().await?, Person::new());
    let mut good = person.request("GET", &my_rooms(&person), b"");
    let nonce = data_encoding::BASE64.decode(good.header(HEADER_NONCE).as_bytes())?;
    let nonce: [u8; 16] = nonce.try_into().ok().context("16 bytes")?;
    let hash = unibus_proto::signing::body_hash(b"");
    let mut poison = good.clone();
    let signed = |seed: &_| {
        unibus_proto::signing::sign_request(seed, "GET", &good.uri, now(), &nonce, &hash)
    };
    poison.headers = signed(&stranger.seed()).into();
    poison.send(world.http[0]).await?.expect(401);
    // Nor can one whose signature is false.
    let mut forged = good.clone();
    *forged.header(HEADER_SIGNATURE) = stranger.seed().sign(b"something else");
    forged.send(world.http[0]).await?.expect(401);
    good.send(world.other()).await?.expect(200);
    Ok(())
}

async fn a_refused_request_cannot_be_replayed_later(world: &World) -> anyhow::Result<()> {
    let (owner, id, _) = with_room(world).await?;
    let guest = world.person().await?;
    let uri = format!("/rooms/{id}/join");
    let early = guest.request("POST", &uri, b"");
    early.send(world.http[0]).await?.expect(403);
    let invitation = owner.invitation(&id, 1, &guest);
    let invite = format!("/rooms/{id}/invite");
    owner
        .post(world.http[0], &invite, &invitation)
        .await?
        .expect(201);
    let refused = early.send(world.other()).await?.expect(401);
    assert!(refused.words().contains("replayed"), "{}", refused.words());
    guest
        .post(world.other(), &uri, &Value::Null)
        .await?
        .expect(200);
    Ok(())
}

async fn a_room_cannot_be_owned_by_somebody_else(world: &World) -> anyhow::Result<()> {
    let (thief, victim) = (world.person().await?, world.person().await?);
    let (id, subject) = (fresh("r"), fresh("room."));
    let spoofs = {
        let mut by_endpoint = thief.party();
        by_endpoint.endpoint = victim.endpoint();
        let mut by_key = thief.party();
        by_key.sign_pub = victim.party().sign_pub;
        [by_endpoint, by_key, victim.party()]
    };
    for owner in spoofs {
        let body = thief.room_of(&owner, &id, &subject, Policy::MATRIX);
        thief.post(world.http[0], ROOMS, &body).await?.expect(403);
    }
    let mut forged = thief.room(&id, &subject, Policy::MATRIX);
    forged["signature"] = json!(victim.seed().sign(b"another statement"));
    thief.post(world.http[0], ROOMS, &forged).await?.expect(403);
    let body = thief.room(&id, &subject, Policy::MATRIX);
    thief.post(world.http[0], ROOMS, &body).await?.expect(201);
    Ok(())
}

async fn a_foreign_room_shows_nothing(world: &World) -> anyhow::Result<()> {
    let (owner, id, _) = with_room(world).await?;
    let outsider = world.person().await?;
    let nowhere = fresh("none");
    let key = |room: &str, of: &Person| format!("/rooms/{room}/key?endpoint={}", of.endpoint());
    for (uri, legitimate) in [
        (format!("/rooms/{id}"), true),
        (format!("/rooms/{id}/members"), true),
        (format!("/rooms/{id}/keys"), true),
        (my_rooms(&owner), true),
        (key(&id, &owner), true),
        (key(&id, &outsider), false),
    ] {
        let refused = outsider.get(world.other(), &uri).await?.expect(403);
        // Whether the room exists is not told.
        let absent = uri.replace(&id, &nowhere);
        let unknown = outsider.get(world.other(), &absent).await?.expect(403);
        assert_eq!(refused.words(), unknown.words(), "{uri}");
        if legitimate {
            owner.get(world.other(), &uri).await?.expect(200);
        }
    }
    // A member sees its own key and nobody else's.
    let guest = world.person().await?;
    join(world, &owner, &id, &guest).await?;
    guest
        .get(world.http[0], &key(&id, &guest))
        .await?
        .expect(200);
    guest
        .get(world.http[0], &key(&id, &owner))
        .await?
        .expect(403);
    // Whom the key was given is the owner's to see; nobody's key can be opened by it.
    let keys = format!("/rooms/{id}/keys?epoch=1");
    guest.get(world.http[0], &keys).await?.expect(403);
    let listed = owner.get(world.http[0], &keys).await?.expect(200).json();
    let listed: Vec<_> = listed.as_array().into_iter().flatten().collect();
    assert_eq!(listed.len(), 2, "{listed:?}");
    let uri = key(&id, &guest) + "&epoch=7";
    let none = guest.get(world.http[0], &uri).await?.expect(403);
    assert!(none.words().contains("epoch 7"), "{}", none.words());
    Ok(())
}

async fn only_the_owner_changes_a_room(world: &World) -> anyhow::Result<()> {
    let (owner, id, _) = with_room(world).await?;
    let (guest, third) = (world.person().await?, world.person().await?);
    join(world, &owner, &id, &guest).await?;
    let uri = |what: &str| format!("/rooms/{id}/{what}");
    let invitation = guest.invitation(&id, 1, &third);
    let port = world.other();
    guest
        .post(port, &uri("invite"), &invitation)
        .await?
        .expect(403);
    let rekey = guest.rekey(&id, 2, &[&owner, &guest]);
    guest.post(port, &uri("rekey"), &rekey).await?.expect(403);
    let removal = uri(&format!("members/{}", owner.endpoint()));
    guest.delete(port, &removal).await?.expect(403);
    third
        .post(port, &uri("join"), &Value::Null)
        .await?
        .expect(403);
    third
        .post(port, &uri("leave"), &Value::Null)
        .await?
        .expect(403);
    owner
        .post(port, &uri("leave"), &Value::Null)
        .await?
        .expect(403);
    let fourth = world.person().await?;
    join(world, &owner, &id, &fourth).await?;
    let removal = uri(&format!("members/{}", fourth.endpoint()));
    guest.delete(port, &removal).await?.expect(403);
    owner.delete(port, &removal).await?.expect(200);
    // An invitation that the owner sends with somebody else's signature admits nobody.
    let forged = guest.invitation(&id, 1, &third);
    owner.post(port, &uri("invite"), &forged).await?.expect(403);
    let invitation = owner.invitation(&id, 1, &third);
    owner
        .post(port, &uri("invite"), &invitation)
        .await?
        .expect(201);
    owner
        .post(port, &uri("invite"), &invitation)
        .await?
        .expect(409);
    guest
        .post(port, &uri("leave"), &Value::Null)
        .await?
        .expect(200);
    let late = owner.invitation(&id, 9, &guest);
    owner.post(port, &uri("invite"), &late).await?.expect(409);
    Ok(())
}

async fn only_admins_see_and_change_users(world: &World) -> anyhow::Result<()> {
    let person = world.person().await?;
    let port = world.other();
    let body = json!({ "sign_pub": Person::new().sign_pub(), "role": "admin" });
    person.get(port, "/users").await?.expect(403);
    person.post(port, "/users", &body).await?.expect(403);
    let uri = format!("/users/{}/revoke", world.admin.sign_pub());
    person.post(port, &uri, &Value::Null).await?.expect(403);
    let users = world.admin.get(port, "/users").await?.expect(200).json();
    let users = users.as_array().context("a list")?;
    assert!(
        users
            .iter()
            .any(|user| user["sign_pub"] == person.sign_pub())
    );
    assert!(
        !users
            .iter()
            .any(|user| user["sign_pub"] == body["sign_pub"])
    );
    world.admin.post(port, "/users", &body).await?.expect(201);
    world.admin.post(port, "/users", &body).await?.expect(409);
    Ok(())
}

/// Whoever creates a room may use its subject: that must not be a way to other people's subjects.
async fn a_room_cannot_take_a_subject_that_is_in_use(world: &World) -> anyhow::Result<()> {
    let (_, id, subject) = with_room(world).await?;
    let thief = world.person().await?;
    let port = world.other();
    let service = Person::new();
    let granted = fresh("orders");
    let grants = json!({ "publish": [format!("{granted}.>")] });
    let body = json!({ "sign_pub": service.sign_pub(), "role": "service", "grants": grants });
    world
        .admin
        .post(world.http[0], "/users", &body)
        .await?
        .expect(201);
    for (room, place) in [
        (fresh("r"), subject.clone()),
        (id, fresh("room.")),
        (fresh("r"), format!("{granted}.new")),
    ] {
        // Where nothing is stored there is no stream whose subjects would overlap.
        let fleeting = Policy {
            persisted: false,
            ..Policy::MATRIX
        };
        for policy in [Policy::MATRIX, fleeting] {
            let body = thief.room(&room, &place, policy);
            thief.post(port, ROOMS, &body).await?.expect(409);
        }
    }
    for place in ["$KV.UNIBUS_users.x", "_INBOX.a", "$SYS.x", "a.>", "*", ""] {
        let mut body = thief.room(&fresh("r"), &fresh("room."), Policy::MATRIX);
        body["subject"] = json!(place);
        thief.post(port, ROOMS, &body).await?.expect(400);
    }
    let body = thief.room(&fresh("r"), &fresh("room."), Policy::NATS);
    thief.post(port, ROOMS, &body).await?.expect(201);
    Ok(())
}

async fn a_room_in_cleartext_is_refused_where_rooms_are_encrypted(
    world: &World,
) -> anyhow::Result<()> {
    let person = world.person().await?;
    let (id, subject) = (fresh("r"), fresh("room."));
    for port in &world.http {
        let clear = person.room(&id, &subject, Policy::NATS);
        let refused = person.post(*port, ROOMS, &clear).await?.expect(403);
        assert!(refused.words().contains("cleartext"), "{}", refused.words());
    }
    // An encrypted room without a key for its owner is none either.
    let mut keyless = person.room(&id, &subject, Policy::MATRIX);
    keyless["sealed_key"].take();
    person
        .post(world.other(), ROOMS, &keyless)
        .await?
        .expect(400);
    let sealed = person.room(&id, &subject, Policy::MATRIX);
    person
        .post(world.other(), ROOMS, &sealed)
        .await?
        .expect(201);
    // The twin elsewhere, where only this host can connect.
    let loopback = World::get(Size::One, &[]).await?;
    let person = loopback.person().await?;
    let clear = person.room(&id, &subject, Policy::NATS);
    person
        .post(loopback.http[0], ROOMS, &clear)
        .await?
        .expect(201);
    Ok(())
}

async fn error_texts_leak_nothing(world: &World) -> anyhow::Result<()> {
    let person = world.person().await?;
    let port = world.http[0];
    let mut answers = vec![
        person.get(port, "/nothing/here").await?,
        person.get(port, "/rooms/%2e%2e").await?,
        person.get(port, "/rooms/..%2f..%2fetc").await?,
        person.get(port, "/blobs/abc").await?,
        person.get(port, "/members/xyz/rooms").await?,
        person
            .get(port, "/rooms/none/key?endpoint=1&epoch=-1")
            .await?,
        person.post(port, "/users/zz/revoke", &Value::Null).await?,
        person.delete(port, "/users").await?,
        person
            .request("POST", ROOMS, b"{not json")
            .send(port)
            .await?,
        person
            .request("POST", ROOMS, b"\xff\xfe")
            .send(port)
            .await?,
        person
            .post(port, ROOMS, &json!({ "id": "../../etc" }))
            .await?,
    ];
    let absent = "/blobs/".to_owned() + &"0".repeat(64);
    answers.push(person.get(port, &absent).await?);
    for answer in answers {
        assert!((400..500).contains(&answer.status), "{answer:?}");
        let words = answer.words();
        assert!(!words.is_empty(), "{answer:?}");
        for leak in [
            "KV_UNIBUS",
            "$KV",
            "/tmp",
            "/home",
            "raft",
            "sled",
            "src/",
            "Err(",
            "Some(",
            "::",
            "{ ",
        ] {
            assert!(!words.contains(leak), "{words}");
        }
    }
    Ok(())
}
