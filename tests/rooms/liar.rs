//! Servers that lie or are late, on the way between a session and the control plane of a real node: what they
//! can't get, and what is not lost by them.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, ensure};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use unibus_client::{Error, Event, HistoryQuery, Identity, NewRoom, Options, Session, Start};
use unibus_proto::control::{EndpointId, Policy, RoomId};
use unibus_testkit::{NodeProcess, PATIENCE};

use crate::world::{admit_to_room, next_text};

/// What becomes of requests on their way.
#[derive(Clone, Debug, Default)]
enum Way {
    /// They pass.
    #[default]
    Open,
    /// New keys are kept, and refused in these words.
    NoKeys(&'static str),
    /// They wait here before the node sees them.
    Waits,
    /// Their answers wait here.
    AnswersWait,
}

/// A proxy before a control plane.
struct Liar {
    port: u16,
    way: watch::Sender<Way>,
    /// The new keys that were refused.
    kept: Arc<Mutex<Vec<Value>>>,
    /// How many requests or answers wait.
    waiting: watch::Receiver<usize>,
}

impl Liar {
    async fn before(port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let (waits, waiting) = watch::channel(0);
        let liar = Self {
            port: listener.local_addr()?.port(),
            way: watch::Sender::default(),
            kept: Arc::default(),
            waiting,
        };
        let desk = Desk {
            port,
            way: liar.way.subscribe(),
            kept: Arc::clone(&liar.kept),
            waits,
        };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let desk = desk.clone();
                // A client that hangs up ends its own request only.
                tokio::spawn(async move { drop(desk.serve(client).await) });
            }
        });
        Ok(liar)
    }

    fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    async fn something_waits(&mut self) -> anyhow::Result<()> {
        let waits = self.waiting.wait_for(|waiting| *waiting > 0);
        tokio::time::timeout(PATIENCE, waits).await??;
        Ok(())
    }
}

#[derive(Clone)]
struct Desk {
    port: u16,
    way: watch::Receiver<Way>,
    kept: Arc<Mutex<Vec<Value>>>,
    waits: watch::Sender<usize>,
}

impl Desk {
    async fn serve(mut self, mut client: TcpStream) -> anyhow::Result<()> {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            client.read_exact(&mut byte).await?;
            head.push(byte[0]);
        }
        let text = String::from_utf8(head)?;
        let length = text.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            let is_length = name.eq_ignore_ascii_case("content-length");
            is_length.then(|| value.parse().ok())?
        });
        let mut body = vec![0; length.unwrap_or(0)];
        client.read_exact(&mut body).await?;
        let way = self.way.borrow().clone();
        let (line, rest) = text.split_once("\r\n").context("a request")?;
        if let Way::NoKeys(words) = way
            && line.starts_with("POST")
            && line.contains("/rekey ")
        {
            self.kept.lock().push(serde_json::from_slice(&body)?);
            let words = serde_json::json!({ "error": words }).to_string();
            let length = words.len();
            let answer = format!(
                "HTTP/1.1 409 -\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{words}"
            );
            return Ok(client.write_all(answer.as_bytes()).await?);
        }
        if matches!(way, Way::Waits) {
            self.wait().await?;
        }
        let mut node = TcpStream::connect(("127.0.0.1", self.port)).await?;
        // One request for each connection: the answer ends with it.
        let asked = format!("{line}\r\nConnection: close\r\n{rest}");
        node.write_all(asked.as_bytes()).await?;
        node.write_all(&body).await?;
        let mut answer = Vec::new();
        node.read_to_end(&mut answer).await?;
        if matches!(way, Way::AnswersWait) {
            self.wait().await?;
        }
        Ok(client.write_all(&answer).await?)
    }

    async fn wait(&mut self) -> anyhow::Result<()> {
        self.waits.send_modify(|waiting| *waiting += 1);
        self.way.wait_for(|way| matches!(way, Way::Open)).await?;
        self.waits.send_modify(|waiting| *waiting -= 1);
        Ok(())
    }
}

/// A node, and a liar before its control plane.
struct World {
    node: NodeProcess,
    dir: tempfile::TempDir,
    liar: Liar,
}

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_unibus-node"))
}

impl World {
    async fn new() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let args = ["--bus-auth", "enforce"].map(str::to_owned).to_vec();
        let mut node = NodeProcess::single(binary(), dir.path())?.with_args(args);
        node.start()?;
        node.ready(PATIENCE).await?;
        Ok(Self {
            liar: Liar::before(node.http_port).await?,
            node,
            dir,
        })
    }

    fn options(&self, control: u16) -> Options {
        let control = format!("http://127.0.0.1:{control}");
        Options::new().server(control, self.node.url())
    }

    fn admit(&self, who: &Identity) -> anyhow::Result<()> {
        let added = Command::new(binary())
            .args(["user", "add", &who.nkey()])
            .args(["--nats-url", &self.node.url(), "--internal-id-file"])
            .arg(self.dir.path().join("data/internal.json"))
            .output()?;
        ensure!(added.status.success(), "{added:?}");
        Ok(())
    }

    /// Somebody whom the node serves itself.
    async fn person(&self) -> anyhow::Result<Session> {
        let who = Identity::generate()?;
        self.admit(&who)?;
        Ok(Session::connect(who, self.options(self.node.http_port)).await?)
    }

    /// Somebody whom the liar serves, and who makes a new key only when told to.
    async fn deceived(&self, secret: u8) -> anyhow::Result<Session> {
        self.admit(&Identity::from_secrets([secret; 32], [secret; 32])?)?;
        self.again(secret).await
    }

    /// Another session of theirs, with the same memory.
    async fn again(&self, secret: u8) -> anyhow::Result<Session> {
        let who = Identity::from_secrets([secret; 32], [secret; 32])?;
        let options = self.options(self.liar.port).caretaker(false);
        let options = options.memory(self.dir.path().join(format!("{secret}.json")));
        Ok(Session::connect(who, options).await?)
    }

    /// A bucket of the node's own records.
    async fn records(&self, bucket: &str) -> anyhow::Result<async_nats::jetstream::kv::Store> {
        let file = self.dir.path().join("data/internal.json");
        let internal: Value = serde_json::from_slice(&std::fs::read(file)?)?;
        let seed = internal["seed"].as_str().context("a seed")?.to_owned();
        let client = async_nats::ConnectOptions::with_nkey(seed)
            .connect(self.node.url())
            .await?;
        let context = async_nats::jetstream::new(client);
        Ok(context.get_key_value(bucket).await?)
    }
}

/// Whom a new key was sealed to.
fn recipients(rekey: &Value) -> Vec<&str> {
    let keys = rekey["keys"].as_array().into_iter().flatten();
    keys.filter_map(|key| key["endpoint"].as_str()).collect()
}

/// A server takes a new key and says that it has not; once somebody was removed it shows them, with that key,
/// as a member again.
#[tokio::test]
async fn a_key_that_was_refused_brings_nobody_back() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (alice, bob, eve) = (
        world.deceived(1).await?,
        world.person().await?,
        world.person().await?,
    );
    let room = alice.create_room(NewRoom::new("lies.one".parse()?)).await?;
    for guest in [&bob, &eve] {
        admit_to_room(&alice, &room, guest).await?;
    }
    world.liar.set(Way::NoKeys("a member came or went"));
    let refused = alice.rekey(&room).await;
    assert!(
        matches!(refused, Err(Error::Refused { status: 409, .. })),
        "{refused:?}"
    );
    world.liar.set(Way::Open);
    let kept = world.liar.kept.lock().clone();
    // As often as it is asked for, it is one key, for the same three.
    assert!(kept.iter().all(|rekey| *rekey == kept[0]), "{kept:?}");
    assert_eq!(
        (&kept[0]["epoch"], recipients(&kept[0]).len()),
        (&2.into(), 3)
    );

    let her = eve.identity().endpoint().clone();
    let members = world.records("UNIBUS_members").await?;
    let admission = members.get(format!("{room}.{her}")).await?;
    alice.remove(&room, &her).await?;
    // The key that Eve may have is that of no epoch that anybody speaks in.
    assert_eq!(alice.room_info(&room).await?.record.epoch, 3);
    bob.room_info(&room).await?;
    bob.publish(&room, "without her").await?;

    let admission = admission.context("a record")?;
    let keys = world.records("UNIBUS_room_keys").await?;
    let captured = kept[0]["keys"].as_array().context("keys")?;
    let captured = captured.iter().find(|key| key["endpoint"] == her.as_str());
    let captured = captured.context("a key for her")?;
    for epoch in [2, 3] {
        let record = serde_json::json!({
            "sealed_key": captured["sealed_key"], "sealer_signature": captured["signature"],
            "sealer": alice.identity().endpoint(),
        });
        let key = format!("{room}.{epoch}.{her}");
        keys.put(key, record.to_string().into()).await?;
    }
    for again in [alice, world.again(1).await?] {
        members
            .put(format!("{room}.{her}"), admission.clone())
            .await?;
        let epoch = again.rekey(&room).await?;
        let hers = keys.get(format!("{room}.{epoch}.{her}")).await?;
        assert!(hers.is_none(), "she has the key of epoch {epoch}");
        assert!(!is_member(&again, &room, &her).await?);
    }
    Ok(())
}

async fn is_member(session: &Session, room: &RoomId, who: &EndpointId) -> anyhow::Result<bool> {
    let info = session.room_info(room).await?;
    Ok(info.members.iter().any(|one| one.party.endpoint == *who))
}

/// What was signed in one session is not signed differently in the next one; a node of the build before this
/// one, which takes the next epoch only, is named.
#[tokio::test]
async fn the_next_session_signs_for_a_later_epoch() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.deceived(2).await?, world.person().await?);
    let room = alice.create_room(NewRoom::new("lies.two".parse()?)).await?;
    admit_to_room(&alice, &room, &bob).await?;
    world.liar.set(Way::NoKeys("a member came or went"));
    alice.rekey(&room).await.expect_err("refused");
    alice.close().await;
    let alice = world.again(2).await?;
    world
        .liar
        .set(Way::NoKeys("the room's epoch is 1 now; look again"));
    let refused = alice.rekey(&room).await;
    assert!(
        matches!(refused, Err(Error::OlderNode { .. })),
        "{refused:?}"
    );
    world.liar.set(Way::Open);
    assert_eq!(alice.rekey(&room).await?, 3);
    let epochs: Vec<Value> = {
        let kept = world.liar.kept.lock();
        kept.iter().map(|rekey| rekey["epoch"].clone()).collect()
    };
    let (first, later) = (epochs.first(), epochs.last());
    assert_eq!((first, later), (Some(&2.into()), Some(&3.into())));
    alice.publish(&room, "at last").await?;
    let page = bob.history(&room, HistoryQuery::last(1)).await?;
    assert!(page.events[0].message().is_some(), "{:?}", page.events);
    Ok(())
}

/// An epoch that a server makes up is forgotten as soon as it says another one.
#[tokio::test]
async fn an_epoch_without_a_key_locks_nobody_out() -> anyhow::Result<()> {
    let world = World::new().await?;
    let alice = world.deceived(3).await?;
    let room = alice
        .create_room(NewRoom::new("lies.five".parse()?))
        .await?;
    let rooms = world.records("UNIBUS_rooms").await?;
    let genuine = rooms.get(room.to_string()).await?.context("a record")?;
    let mut record: Value = serde_json::from_slice(&genuine)?;
    record["epoch"] = u64::MAX.into();
    rooms
        .put(room.to_string(), record.to_string().into())
        .await?;
    assert_eq!(alice.room_info(&room).await?.record.epoch, u64::MAX);
    // Nothing follows it, and nothing is signed for it.
    let refused = alice.rekey(&room).await;
    assert!(matches!(refused, Err(Error::NoKey { .. })), "{refused:?}");
    rooms.put(room.to_string(), genuine).await?;
    alice.room_info(&room).await?;
    alice.publish(&room, "still here").await?;
    let again = world.again(3).await?;
    again.publish(&room, "and again").await?;
    assert_eq!(again.rekey(&room).await?, 2);

    // A room that the memory can't follow is not even made.
    let id: RoomId = "chosen".parse()?;
    let chosen = || Ok::<_, anyhow::Error>(NewRoom::new("lies.six".parse()?).id("chosen".parse()?));
    again.create_room(chosen()?).await?;
    again.rekey(&id).await?;
    let elsewhere = World::new().await?;
    let who = Identity::from_secrets([3; 32], [3; 32])?;
    elsewhere.admit(&who)?;
    let memory = world.dir.path().join("3.json");
    let options = elsewhere.options(elsewhere.node.http_port).memory(&memory);
    let there = Session::connect(who, options).await?;
    let refused = there.create_room(chosen()?).await.expect_err("refused");
    let words = refused.to_string();
    assert!(
        words.contains("3.json") && words.contains("chosen"),
        "{words}"
    );
    assert!(there.list_my_rooms().await?.is_empty());
    Ok(())
}

/// An encrypted room whose messages nobody keeps.
fn live(subject: &str) -> anyhow::Result<NewRoom> {
    let policy = Policy {
        persisted: false,
        ..Policy::MATRIX
    };
    Ok(NewRoom::new(subject.parse()?).policy(policy))
}

/// The look that is under way when a frame comes may have begun before the key of that frame was made.
#[tokio::test]
async fn the_first_message_with_a_new_key_is_read() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let (alice, bob) = (world.person().await?, world.deceived(4).await?);
    let carol = world.person().await?;
    let room = alice.create_room(live("lies.three")?).await?;
    admit_to_room(&alice, &room, &bob).await?;
    let mut bobs = bob.subscribe(&room, Start::Now).await?;
    bob.room_info(&room).await?;
    let mut arrives = bob.nats().subscribe("lies.three").await?;
    bob.nats().flush().await?;

    world.liar.set(Way::AnswersWait);
    // Bob's session hears of this, and looks.
    alice.invite(&room, carol.identity().party()).await?;
    world.liar.something_waits().await?;
    alice.rekey(&room).await?;
    alice.publish(&room, "after").await?;
    let arrived = futures::StreamExt::next(&mut arrives);
    tokio::time::timeout(PATIENCE, arrived)
        .await?
        .context("a frame")?;
    tokio::task::yield_now().await;
    world.liar.set(Way::Open);
    assert_eq!(next_text(&mut bobs).await?, "after");
    Ok(())
}

/// Who was removed and let in again before their session could look hears the room again: the node had
/// withdrawn the subscription.
#[tokio::test]
async fn a_subscription_that_was_withdrawn_is_made_anew() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let (alice, bob) = (world.person().await?, world.deceived(5).await?);
    let policy = Policy::NATS;
    let new = NewRoom::new("lies.four".parse()?).policy(policy);
    let room = alice.create_room(new).await?;
    admit_to_room(&alice, &room, &bob).await?;
    let mut bobs = bob.subscribe(&room, Start::Now).await?;

    world.liar.set(Way::Waits);
    alice.remove(&room, bob.identity().endpoint()).await?;
    world.liar.something_waits().await?;
    alice.invite(&room, bob.identity().party()).await?;
    let who = Identity::from_secrets([5; 32], [5; 32])?;
    let options = world.options(world.node.http_port).caretaker(false);
    Session::connect(who, options).await?.join(&room).await?;
    world.liar.set(Way::Open);
    let mut said = tokio::time::interval(std::time::Duration::from_millis(100));
    let heard = async {
        loop {
            tokio::select! {
                heard = next_text(&mut bobs) => return heard,
                _ = said.tick() => drop(alice.publish(&room, "welcome back").await?),
            }
        }
    };
    assert_eq!(
        tokio::time::timeout(PATIENCE, heard).await??,
        "welcome back"
    );
    Ok(())
}

/// Who has not looked for more than one epoch does not know when somebody left, and asks.
#[tokio::test]
async fn what_was_said_before_leaving_is_read_after_it() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (alice, bob, carol) = (
        world.person().await?,
        world.person().await?,
        world.deceived(6).await?,
    );
    let room = alice
        .create_room(NewRoom::new("lies.seven".parse()?))
        .await?;
    for guest in [&bob, &carol] {
        admit_to_room(&alice, &room, guest).await?;
    }
    alice.rekey(&room).await?;
    bob.room_info(&room).await?;
    bob.publish(&room, "my last words").await?;
    alice.remove(&room, bob.identity().endpoint()).await?;
    let page = carol.history(&room, HistoryQuery::last(5)).await?;
    let heard = page.events.iter().filter_map(Event::message);
    let heard: Vec<String> = heard.map(|message| message.text().into_owned()).collect();
    assert_eq!(heard, ["my last words"], "{:?}", page.events);
    Ok(())
}
