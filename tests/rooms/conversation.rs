//! Two people talk while an outsider tries to listen, share a file, and a node is lost in the middle.

use futures::{FutureExt, StreamExt};
use unibus_client::{
    Error, Event, FileInfo, HistoryQuery, Identity, NewRoom, Session, Speech, Start,
};
use unibus_proto::control::{Policy, RoomId};
use unibus_testkit::{PATIENCE, eventually};

use crate::world::{World, admit_to_room, next_text, next_where};

/// Bytes of the file that is shared in every run, and with `UNIBUS_TEST_FULL=1`.
const FILE_BYTES: usize = 5 * 1024 * 1024 + 17;
const FILE_BYTES_FULL: usize = 100 * 1024 * 1024;

#[tokio::test]
async fn two_people_and_an_outsider() -> anyhow::Result<()> {
    let mut world = World::new().await?;
    let (alice, bob) = (world.person(0).await?, world.person(1).await?);
    let room = alice
        .create_room(NewRoom::new("team.kitchen".parse()?))
        .await?;
    outsiders_are_refused(&world, &alice, &room).await?;
    admit_to_room(&alice, &room, &bob).await?;
    talk(&alice, &bob, &room).await?;
    share(&mut world, &alice, &bob, &room).await?;
    lose_a_node(&mut world, &alice, &bob, &room).await
}

/// Registered or not, an outsider gets refusals.
async fn outsiders_are_refused(
    world: &World,
    alice: &Session,
    room: &RoomId,
) -> anyhow::Result<()> {
    let stranger = Session::connect(Identity::generate()?, world.options(0)).await;
    assert!(stranger.is_err(), "an unregistered key was let in");
    let outsider = world.person(2).await?;
    for refused in [
        outsider.room_info(room).await.err(),
        outsider.publish(room, "me too").await.err(),
        outsider.subscribe(room, Start::Beginning).await.err(),
        outsider.history(room, HistoryQuery::last(1)).await.err(),
        outsider.join(room).await.err(),
        outsider.leave(room).await.err(),
        outsider.rekey(room).await.err(),
        outsider
            .invite(room, outsider.identity().party())
            .await
            .err(),
    ] {
        let refused = refused.expect("a refusal");
        assert!(refused.is_forbidden(), "{refused:?}");
        let words = refused.to_string();
        assert!(
            words.contains("member") || words.contains("invited"),
            "{words}"
        );
    }
    // On the message plane as well.
    let stream = format!("UNIBUS_{room}");
    let context = async_nats::jetstream::new(outsider.nats().clone());
    assert!(context.get_stream(&stream).await.is_err());
    let mut live = outsider.nats().subscribe("team.kitchen").await?;
    nothing_is_there(&outsider, &mut live).await?;
    alice.publish(room, "nobody else hears this").await?;
    nothing_is_there(&outsider, &mut live).await?;
    assert_eq!(outsider.list_my_rooms().await?, []);
    Ok(())
}

/// Whatever the server has sent has arrived, and it was nothing.
async fn nothing_is_there(
    outsider: &Session,
    live: &mut async_nats::Subscriber,
) -> anyhow::Result<()> {
    let nats = outsider.nats();
    let nobody = nats.request(nats.new_inbox(), "".into()).await;
    assert!(nobody.is_err(), "somebody answers");
    let heard = live.next().now_or_never();
    assert!(!matches!(heard, Some(Some(_))), "an outsider listens");
    Ok(())
}

async fn talk(alice: &Session, bob: &Session, room: &RoomId) -> anyhow::Result<()> {
    let mut heard = bob.subscribe(room, Start::Beginning).await?;
    assert_eq!(next_text(&mut heard).await?, "nobody else hears this");
    let root = alice.publish(room, "tea?").await?;
    let message = next_where(&mut heard, "the message", |event| match event {
        Event::Message(message) => Some(message),
        _ => None,
    })
    .await?;
    assert_eq!((message.text().as_ref(), message.id()), ("tea?", root.id));
    assert_eq!(message.from(), alice.identity().endpoint());
    assert_eq!(message.seq, root.seq);

    let first_bytes = stored(alice, room, root.seq).await?;
    let reply = bob.publish_reply(room, root.id, "yes, please").await?;
    bob.react(room, root.id, "\u{1fad6}").await?;
    alice
        .publish(room, Speech::message("milk?").in_thread(root.id))
        .await?;
    let in_thread = Speech::message("no").in_thread(root.id);
    bob.publish(room, in_thread.reply_to(reply.id)).await?;

    let page = alice.history(room, HistoryQuery::after(1, 100)).await?;
    let texts: Vec<_> = page.events.iter().filter_map(Event::message).collect();
    let texts: Vec<String> = texts.iter().map(|m| m.text().into_owned()).collect();
    assert_eq!(texts, ["tea?", "yes, please", "\u{1fad6}", "milk?", "no"]);
    assert!(matches!(&page.events[1], Event::Message(m) if m.header.reply_to == Some(root.id)));
    assert!(
        matches!(&page.events[2], Event::Reaction { to, reaction, .. }
        if *to == root.id && reaction == "\u{1fad6}")
    );
    let threads = alice.threads(room, 100).await?;
    assert_eq!(threads.len(), 1);
    assert_eq!((threads[0].root, threads[0].replies), (root.id, 2));
    assert!(threads[0].first.is_some());
    // Resume points: nothing twice, nothing lost.
    let rest = bob.history(room, HistoryQuery::after(4, 100)).await?;
    assert_eq!((rest.events.len(), rest.next), (2, page.next));
    let older = bob.history(room, HistoryQuery::before(4, 1)).await?;
    assert_eq!((older.events[0].seq(), older.previous), (Some(3), Some(3)));
    // What came after has not changed a byte of what was there.
    assert_eq!(stored(bob, room, root.seq).await?, first_bytes);
    Ok(())
}

/// The bytes of a frame as the room's stream keeps them.
async fn stored(session: &Session, room: &RoomId, seq: Option<u64>) -> anyhow::Result<Vec<u8>> {
    let context = async_nats::jetstream::new(session.nats().clone());
    let stream = context.get_stream(format!("UNIBUS_{room}")).await?;
    let raw = stream.get_raw_message(seq.expect("a place")).await?;
    Ok(raw.payload.to_vec())
}

/// A file of several pieces; the node that takes them is killed in the middle of it, and comes back when
/// the file was fetched. With `UNIBUS_TEST_FULL=1` it has 100 MiB:
/// `UNIBUS_TEST_FULL=1 cargo test --workspace --test rooms two_people`.
async fn share(
    world: &mut World,
    alice: &Session,
    bob: &Session,
    room: &RoomId,
) -> anyhow::Result<()> {
    let full = std::env::var_os("UNIBUS_TEST_FULL").is_some();
    let size = if full { FILE_BYTES_FULL } else { FILE_BYTES };
    let file: Vec<u8> = (0..size).map(|at| (at * 31 % 251) as u8).collect();
    let (mut steps, lost) = (Vec::new(), &mut world.cluster.nodes[0]);
    let info = FileInfo {
        name: Some("tea.png".into()),
        size: Some(size as u64),
        ..FileInfo::default()
    };
    let stored = alice
        .put_blob(&file[..], info, |step| {
            if step.done >= size as u64 / 2 {
                // Alice's session asks this one first.
                lost.kill();
            }
            steps.push(step);
        })
        .await?;
    assert!(stored.has_manifest() && steps.len() > 1);
    assert_eq!(steps.last().map(|step| step.done), Some(size as u64));
    let mut heard = bob.subscribe(room, Start::Now).await?;
    alice.publish(room, Speech::file(&stored)).await?;
    let shared = next_where(&mut heard, "the file", |event| match event {
        Event::File { file, .. } => Some(file),
        _ => None,
    })
    .await?;
    assert_eq!(shared.name.as_deref(), Some("tea.png"));
    let mut fetched = Vec::new();
    bob.get_blob(&shared, &mut fetched, |_| {}).await?;
    assert!(fetched == file, "the file has changed on its way");
    let lost = &mut world.cluster.nodes[0];
    lost.start()?;
    lost.ready(PATIENCE).await?;
    let mut other = shared.clone();
    other.size -= 1;
    let refused = bob.get_blob(&other, Vec::new(), |_| {}).await;
    assert!(matches!(refused, Err(Error::Blob(_))), "{refused:?}");
    // A small file has no manifest, and an empty one is a file.
    for small in [&b"small"[..], b""] {
        let stored = alice.put_blob(small, FileInfo::default(), |_| {}).await?;
        assert!(!stored.has_manifest());
        let mut fetched = Vec::new();
        bob.get_blob(&stored, &mut fetched, |_| {}).await?;
        assert_eq!(fetched, small);
    }
    Ok(())
}

/// The node that Alice is connected to is killed while she talks: every acknowledged message arrives, once
/// and in order.
async fn lose_a_node(
    world: &mut World,
    alice: &Session,
    bob: &Session,
    room: &RoomId,
) -> anyhow::Result<()> {
    let mut heard = bob.subscribe(room, Start::Now).await?;
    let name = alice.nats().server_info().server_name;
    let lost: usize = name.trim_start_matches('n').parse()?;
    for at in 0..30 {
        if at == 10 {
            world.cluster.nodes[lost].kill();
        }
        alice.publish(room, format!("message {at}")).await?;
    }
    for at in 0..30 {
        assert_eq!(next_text(&mut heard).await?, format!("message {at}"));
    }
    bob.publish(room, "still here").await?;
    let info = eventually("the control plane", PATIENCE, || async {
        Ok(alice.room_info(room).await?)
    })
    .await?;
    assert_eq!(info.members.len(), 2);
    assert_eq!(info.record.policy, Policy::MATRIX);
    Ok(())
}
