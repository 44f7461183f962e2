//! Membership of a room, taken away while its member listens at every node: once that is acknowledged,
//! nothing that is said later reaches the member at a node that acts by it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use unibus_proto::control::{
    EndpointId, MemberRole, Party, Policy, SignPublic, member_statement, room_statement,
    sealed_key_statement,
};
use unibus_proto::nkey::UserSeed;

use super::{Ctx, rest};
use crate::history::{Ending, Micros};
use crate::host::{CLIENT_PORT, HTTP_PORT};
use crate::http::{Answer, Request};
use crate::lab::{Key, STALENESS_S, connect};

/// How long is listened after a removal, beyond the time in which a cut-off node suspends rooms.
const LISTEN: Duration = Duration::from_millis(1500);
/// What a node that does not act by a change yet may still deliver, after it should have suspended
/// rooms: its own pace on a busy machine.
const SLACK: Duration = Duration::from_secs(2);
/// Calls of one kind at most before a room is given up.
const TRIES_MAX: usize = 3;

/// Somebody with keys.
struct Person {
    key: Key,
    seed: UserSeed,
}

impl Person {
    fn new() -> Self {
        let key = Key::new();
        Self {
            key,
            seed: key.seed(),
        }
    }

    fn party(&self) -> anyhow::Result<Party> {
        let key = self.seed.public();
        Ok(Party {
            endpoint: EndpointId::of(&key),
            sign_pub: SignPublic(key),
            // Only its form matters to the node.
            kex_pub: key.to_hex().parse().ok().context("a key")?,
        })
    }

    fn sealed(&self, room: &str, to: &EndpointId) -> anyhow::Result<Value> {
        let sealed = format!("sealed for {to}");
        let id = room.parse().ok().context("a room id")?;
        let statement = sealed_key_statement(&id, 1, to, sealed.as_bytes());
        let text = data_encoding::BASE64.encode(sealed.as_bytes());
        Ok(json!({ "sealed_key": text, "signature": self.seed.sign(statement.as_bytes()) }))
    }

    fn room(&self, id: &str, subject: &str) -> anyhow::Result<Value> {
        let policy = Policy {
            persisted: false,
            ..Policy::MATRIX
        };
        let (room, place) = (
            id.parse().ok().context("a room id")?,
            subject.parse().ok().context("a subject")?,
        );
        let owner = self.party()?;
        let statement = room_statement(&room, &place, &policy, &owner);
        Ok(json!({
            "id": id,
            "subject": subject,
            "policy": policy,
            "owner": owner,
            "signature": self.seed.sign(statement.as_bytes()),
            "sealed_key": self.sealed(id, &owner.endpoint)?,
        }))
    }

    fn invitation(&self, room: &str, member: &Self) -> anyhow::Result<Value> {
        let party = member.party()?;
        let id = room.parse().ok().context("a room id")?;
        let statement = member_statement(&id, &party, MemberRole::Member);
        Ok(json!({
            "member": party,
            "signature": self.seed.sign(statement.as_bytes()),
            "epoch": 1,
            "sealed_key": self.sealed(room, &party.endpoint)?,
        }))
    }
}

/// What happened in one room.
#[derive(Debug, Default)]
struct Round {
    /// When each message was published, by its number.
    published: Mutex<BTreeMap<u64, Micros>>,
    /// Node, number and time of what the member received.
    received: Mutex<Vec<(usize, u64, Micros)>>,
    over: AtomicBool,
}

/// Rooms, one after the other, until told to stop.
pub(crate) async fn work(ctx: Ctx, nodes: Vec<String>, admin: Key) {
    let mut number = 0;
    while !ctx.is_stopped() {
        number += 1;
        let started = ctx.recorder.now();
        let ending = match one(&ctx, &nodes, admin, number).await {
            Ok(()) => Ending::Done,
            Err(_) => Ending::Unknown,
        };
        ctx.recorder.span("revocation", started, ending);
        rest(200).await;
    }
}

async fn one(ctx: &Ctx, nodes: &[String], admin: Key, number: usize) -> anyhow::Result<()> {
    let (owner, member) = (Person::new(), Person::new());
    for person in [&owner, &member] {
        let body = json!({ "sign_pub": person.seed.public().to_hex(), "name": "nemesis" });
        call(nodes, number, &admin.seed(), ("POST", "/users"), &body).await?;
    }
    let (id, subject) = (format!("r{number}"), format!("nemesis.room{number}"));
    let body = owner.room(&id, &subject)?;
    call(nodes, number, &owner.seed, ("POST", "/rooms"), &body).await?;
    let body = owner.invitation(&id, &member)?;
    let invite = format!("/rooms/{id}/invite");
    call(nodes, number, &owner.seed, ("POST", &invite), &body).await?;
    let join = format!("/rooms/{id}/join?wait=all");
    call(nodes, number, &member.seed, ("POST", &join), &Value::Null).await?;

    let round = Arc::new(Round::default());
    let mut tasks = Vec::new();
    for (node, ip) in nodes.iter().enumerate() {
        let client = connect_patiently(ip, member.key).await?;
        let subscription = client.subscribe(subject.clone()).await?;
        let (ctx, round) = (ctx.clone(), Arc::clone(&round));
        tasks.push(tokio::spawn(async move {
            listen(&ctx, node, &round, (client, subscription)).await;
        }));
    }
    for ip in nodes {
        let client = connect_patiently(ip, owner.key).await?;
        let (ctx, round, subject) = (ctx.clone(), Arc::clone(&round), subject.clone());
        tasks.push(tokio::spawn(async move {
            say(&ctx, &round, client, subject).await;
        }));
    }
    rest(400).await;
    let removed = remove(ctx, nodes, number, (&id, &owner, &member)).await;
    if removed.is_ok() {
        tokio::time::sleep(LISTEN + Duration::from_secs(STALENESS_S) + SLACK).await;
    }
    round.over.store(true, Ordering::Release);
    for task in tasks {
        let _ = task.await;
    }
    let (at, applied) = removed?;
    judge(ctx, &round, at, &applied, nodes.len());
    Ok(())
}

async fn connect_patiently(ip: &str, key: Key) -> anyhow::Result<async_nats::Client> {
    let url = format!("nats://{ip}:{CLIENT_PORT}");
    let mut last = None;
    for _ in 0..TRIES_MAX {
        match connect(&url, key).await {
            Ok(client) => return Ok(client),
            Err(error) => last = Some(error),
        }
        rest(500).await;
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("no try")))
}

async fn listen(
    ctx: &Ctx,
    node: usize,
    round: &Round,
    (client, mut subscription): (async_nats::Client, async_nats::Subscriber),
) {
    while !round.over.load(Ordering::Acquire) {
        let next = tokio::time::timeout(Duration::from_millis(200), subscription.next()).await;
        let Ok(Some(message)) = next else {
            if matches!(next, Ok(None)) {
                return;
            }
            continue;
        };
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        if let Ok(number) = text.parse() {
            let now = ctx.recorder.now();
            round.received.lock().push((node, number, now));
        }
    }
    drop(client);
}

async fn say(ctx: &Ctx, round: &Round, client: async_nats::Client, subject: String) {
    while !round.over.load(Ordering::Acquire) {
        let number = {
            let mut published = round.published.lock();
            let number = published.len() as u64;
            published.insert(number, ctx.recorder.now());
            number
        };
        let _ = client
            .publish(subject.clone(), number.to_string().into())
            .await;
        let _ = client.flush().await;
        rest(20).await;
    }
}

/// Takes the membership away: when that was acknowledged, and the nodes that act by it.
async fn remove(
    ctx: &Ctx,
    nodes: &[String],
    number: usize,
    (id, owner, member): (&str, &Person, &Person),
) -> anyhow::Result<(Micros, Vec<String>)> {
    let endpoint = member.party()?.endpoint;
    let uri = format!("/rooms/{id}/members/{endpoint}?wait=all");
    let answer = call(nodes, number, &owner.seed, ("DELETE", &uri), &Value::Null).await?;
    let at = ctx.recorder.now();
    let json = answer.json();
    let applied = json["applied_on"].as_array().cloned().unwrap_or_default();
    let names = applied.iter().filter_map(Value::as_str).map(str::to_owned);
    let names: Vec<String> = names.collect();
    if names.is_empty() {
        ctx.recorder
            .finding(format!("a removal names no node that acts by it: {json}"));
    }
    Ok((at, names))
}

/// A call to one node after the other, until one answers. Somebody's call that had no answer may have
/// been granted: a repetition that meets that is fine.
async fn call(
    nodes: &[String],
    number: usize,
    who: &UserSeed,
    (method, uri): (&str, &str),
    body: &Value,
) -> anyhow::Result<Answer> {
    let mut last = anyhow::anyhow!("no try");
    for attempt in 0..TRIES_MAX {
        let ip = &nodes[(number + attempt) % nodes.len()];
        let request = Request::signed(who, method, uri, body);
        match request.send(ip, HTTP_PORT).await {
            Ok(answer) if answer.status < 300 => return Ok(answer),
            Ok(answer) if answer.status == 409 && attempt > 0 => return Ok(answer),
            Ok(answer) => {
                last = anyhow::anyhow!("{method} {uri}: {} {}", answer.status, answer.body());
            }
            Err(error) => last = error,
        }
        rest(300).await;
    }
    bail!(last)
}

/// Nothing published after the acknowledgement reached the member at a node that acts by it; at others
/// nothing after the time in which they have to suspend rooms.
fn judge(ctx: &Ctx, round: &Round, at: Micros, applied: &[String], nodes: usize) {
    let published = round.published.lock();
    let late = (Duration::from_secs(STALENESS_S) + SLACK).as_micros();
    let late = at + u64::try_from(late).unwrap_or(u64::MAX);
    for (node, number, when) in round.received.lock().iter() {
        let said = published.get(number).copied().unwrap_or(0);
        let acts = applied.contains(&format!("n{node}"));
        if said > if acts { at } else { late } {
            ctx.recorder.finding(format!(
                "message {number} of {said} us reached a removed member at node {node} at {when} us; \
                 the removal was acknowledged at {at} us by {applied:?} of {nodes}"
            ));
            return;
        }
    }
}
