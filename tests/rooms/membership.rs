//! Who comes, who goes, who was made up: what each of them can read.

use async_nats::jetstream;
use unibus_client::rooms::roster::{InventedReason, RosterError};
use unibus_client::{
    Error, Event, HistoryQuery, Identity, MembershipChange, NewRoom, RoomsChange, Session, Start,
    Unreadable,
};
use unibus_proto::control::{EndpointId, History, MemberRecord, MemberRole, Party, Policy, RoomId};
use unibus_testkit::PATIENCE;

use crate::world::{World, admit_to_room, next_change, next_text, next_where};

#[tokio::test]
async fn comings_and_goings() -> anyhow::Result<()> {
    let world = World::new().await?;
    invitations_come_without_asking(&world).await?;
    whoever_is_removed_reads_nothing_more(&world).await?;
    whoever_leaves_is_followed_by_a_new_key(&world).await?;
    a_newcomer_reads_what_the_policy_says(&world).await?;
    a_member_that_the_server_made_up_gets_no_key(&world).await?;
    Box::pin(who_has_gone_is_not_brought_back(&world)).await?;
    many_at_once_look_once(&world).await?;
    inviting_asks_for_no_members(&world).await?;
    cleartext_rooms_are_signed(&world).await
}

async fn invitations_come_without_asking(world: &World) -> anyhow::Result<()> {
    let (alice, bob) = (world.person(0).await?, world.person(2).await?);
    let mut rooms = bob.watch_rooms().await?;
    let room = alice
        .create_room(NewRoom::new("watch.one".parse()?))
        .await?;
    alice.invite(&room, bob.identity().party()).await?;
    let added = tokio::time::timeout(PATIENCE, rooms.next()).await?;
    assert!(
        matches!(&added, Some(RoomsChange::Added(new)) if new.id == room && !new.joined),
        "{added:?}"
    );
    let early = bob.publish(&room, "too early").await;
    assert!(matches!(early, Err(Error::NotJoined(_))), "{early:?}");
    bob.join(&room).await?;
    let changed = tokio::time::timeout(PATIENCE, rooms.next()).await?;
    assert!(
        matches!(&changed, Some(RoomsChange::Changed(new)) if new.joined),
        "{changed:?}"
    );
    alice.remove(&room, bob.identity().endpoint()).await?;
    let removed = tokio::time::timeout(PATIENCE, rooms.next()).await?;
    assert_eq!(removed, Some(RoomsChange::Removed(room)));
    Ok(())
}

async fn whoever_is_removed_reads_nothing_more(world: &World) -> anyhow::Result<()> {
    let (alice, bob, carol) = (
        world.person(0).await?,
        world.person(1).await?,
        world.person(2).await?,
    );
    let room = alice.create_room(NewRoom::new("gone.one".parse()?)).await?;
    admit_to_room(&alice, &room, &bob).await?;
    admit_to_room(&alice, &room, &carol).await?;
    let mut bobs = bob.subscribe(&room, Start::Beginning).await?;
    let mut carols = carol.subscribe(&room, Start::Beginning).await?;
    bob.publish(&room, "before").await?;
    assert_eq!(next_text(&mut bobs).await?, "before");
    assert_eq!(next_text(&mut carols).await?, "before");

    alice.remove(&room, bob.identity().endpoint()).await?;
    alice.publish(&room, "after").await?;
    assert_eq!(next_text(&mut carols).await?, "after");
    let end = next_where(&mut bobs, "the end", |event| match event {
        Event::Message(message) => Some(message.text().into_owned()),
        Event::Gone { words } => Some(words),
        _ => None,
    })
    .await?;
    assert!(end.contains("no member"), "{end}");
    assert!(bobs.next().await.is_none());
    let refused = bob.history(&room, HistoryQuery::last(5)).await;
    assert!(
        matches!(&refused, Err(error) if error.is_forbidden()),
        "{refused:?}"
    );
    // Others still read what he said, and so does a session that has never met him.
    let again = Identity::from_secrets([9; 32], [9; 32])?;
    world.admit(&again).await?;
    let dave = world.connect(again, 1).await?;
    admit_to_room(&alice, &room, &dave).await?;
    let page = carol.history(&room, HistoryQuery::last(10)).await?;
    let texts: Vec<_> = page.events.iter().filter_map(Event::message).collect();
    assert_eq!(texts.len(), 2, "{:?}", page.events);
    let page = dave.history(&room, HistoryQuery::last(10)).await?;
    assert!(
        matches!(&page.events[0], Event::Undecryptable(frame) if frame.reason == Unreadable::NoKey(1)),
        "{:?}",
        page.events
    );
    let after = matches!(&page.events[1], Event::Message(message) if message.text() == "after");
    assert!(after, "{:?}", page.events);
    Ok(())
}

async fn whoever_leaves_is_followed_by_a_new_key(world: &World) -> anyhow::Result<()> {
    let (alice, bob) = (world.person(0).await?, world.person(1).await?);
    let room = alice.create_room(NewRoom::new("left.one".parse()?)).await?;
    admit_to_room(&alice, &room, &bob).await?;
    let mut events = alice.subscribe(&room, Start::Now).await?;
    bob.leave(&room).await?;
    // Nobody asks her to: her session makes the new key by itself.
    next_change(&mut events, &MembershipChange::Rekeyed { epoch: 2 }).await?;
    let sent = alice.publish(&room, "alone").await?;
    assert_eq!(next_text(&mut events).await?, "alone");
    assert!(sent.seq.is_some());

    // A session that does not care for its rooms refuses to speak until somebody has rekeyed.
    let owner = Identity::generate()?;
    world.admit(&owner).await?;
    let careless = Session::connect(owner, world.options(0).caretaker(false)).await?;
    let room = careless
        .create_room(NewRoom::new("left.two".parse()?))
        .await?;
    admit_to_room(&careless, &room, &bob).await?;
    let mut events = careless.subscribe(&room, Start::Now).await?;
    bob.leave(&room).await?;
    next_change(&mut events, &MembershipChange::NeedsRekey).await?;
    let refused = careless.publish(&room, "hello?").await;
    assert!(matches!(refused, Err(Error::NeedsRekey(_))), "{refused:?}");
    assert_eq!(careless.rekey(&room).await?, 2);
    careless.publish(&room, "hello").await?;
    let info = careless.room_info(&room).await?;
    assert_eq!((info.record.epoch, info.record.needs_rekey), (2, false));
    Ok(())
}

async fn a_newcomer_reads_what_the_policy_says(world: &World) -> anyhow::Result<()> {
    let (alice, bob) = (world.person(0).await?, world.person(1).await?);
    for (history, subject, wanted) in [
        (History::Shared, "past.shared", &["one", "two", "three"][..]),
        (History::Joined, "past.closed", &["three"]),
    ] {
        let policy = Policy {
            history,
            ..Policy::MATRIX
        };
        let new = NewRoom::new(subject.parse()?).policy(policy);
        let room = alice.create_room(new).await?;
        alice.publish(&room, "one").await?;
        alice.rekey(&room).await?;
        alice.publish(&room, "two").await?;
        alice.rekey(&room).await?;
        alice.publish(&room, "three").await?;
        admit_to_room(&alice, &room, &bob).await?;
        let page = bob.history(&room, HistoryQuery::last(10)).await?;
        assert_eq!(page.events.len(), 3);
        let read = page.events.iter().filter_map(Event::message);
        let read: Vec<String> = read.map(|message| message.text().into_owned()).collect();
        assert_eq!(read, wanted, "{history:?}");
    }
    Ok(())
}

/// Somebody with the server's own rights writes a member into its records.
async fn a_member_that_the_server_made_up_gets_no_key(world: &World) -> anyhow::Result<()> {
    let (alice, bob) = (world.person(0).await?, world.person(1).await?);
    let room = alice.create_room(NewRoom::new("made.up".parse()?)).await?;
    admit_to_room(&alice, &room, &bob).await?;
    let mut events = bob.subscribe(&room, Start::Now).await?;
    let mut alices = alice.subscribe(&room, Start::Now).await?;
    let spy = world.person(2).await?;
    invent(world, &room, &spy, &alice).await?;
    let invented = MembershipChange::Invented {
        endpoint: spy.identity().endpoint().clone(),
        reason: InventedReason::Signature,
    };
    next_change(&mut events, &invented).await?;
    next_change(&mut alices, &invented).await?;
    let info = bob.room_info(&room).await?;
    assert_eq!((info.members.len(), info.invented.len()), (2, 1));

    // The next key is not for the spy, whatever the server's records say.
    let epoch = alice.rekey(&room).await?;
    alice.publish(&room, "between us").await?;
    assert_eq!(next_text(&mut events).await?, "between us");
    let refused = spy.history(&room, HistoryQuery::last(1)).await;
    let read = refused.map(|page| page.events.iter().any(|event| event.message().is_some()));
    assert!(!read.unwrap_or(false), "the spy reads");
    assert!(epoch >= 2);
    Ok(())
}

async fn invent(
    world: &World,
    room: &RoomId,
    spy: &Session,
    owner: &Session,
) -> anyhow::Result<()> {
    let Party {
        endpoint,
        sign_pub,
        kex_pub,
    } = spy.identity().party().clone();
    let record = MemberRecord {
        role: MemberRole::Member,
        joined_at: Some("2026-01-01T00:00:00Z".into()),
        inviter: owner.identity().endpoint().clone(),
        inviter_signature: spy
            .identity()
            .sign_text("nothing that the owner has signed"),
        endpoint: endpoint.clone(),
        sign_pub,
        kex_pub,
    };
    let records = records(world).await?;
    put_member(&records, room, &endpoint, serde_json::to_vec(&record)?).await
}

/// The records of the cluster, with the server's own rights: what a lying server says is what it writes here.
async fn records(world: &World) -> anyhow::Result<jetstream::Context> {
    let file = world.cluster.data_dir(0).join("internal.json");
    let internal: serde_json::Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let seed = internal["seed"].as_str().expect("a seed").to_owned();
    let node = &world.cluster.nodes[0];
    let client = async_nats::ConnectOptions::with_nkey(seed)
        .add_root_certificates(world.cluster.ca())
        .require_tls(true)
        .connect(format!("tls://127.0.0.1:{}", node.client_port))
        .await?;
    Ok(jetstream::new(client))
}

async fn put_member(
    records: &jetstream::Context,
    room: &RoomId,
    endpoint: &EndpointId,
    record: Vec<u8>,
) -> anyhow::Result<()> {
    let members = records.get_key_value("UNIBUS_members").await?;
    members
        .put(format!("{room}.{endpoint}"), record.into())
        .await?;
    let index = records.get_key_value("UNIBUS_rooms_by_member").await?;
    let role = serde_json::json!({ "role": "member" }).to_string();
    index.put(format!("{endpoint}.{room}"), role.into()).await?;
    Ok(())
}

/// The server shows the owner's next session somebody's genuine admission after their removal, and a room as
/// it was before.
async fn who_has_gone_is_not_brought_back(world: &World) -> anyhow::Result<()> {
    let owner = || Identity::from_secrets([21; 32], [22; 32]);
    world.admit(&owner()?).await?;
    // No session makes a key unless it is told to: what is asserted is what that one does.
    let careless = world.options(0).caretaker(false);
    let alice = Session::connect(owner()?, careless).await?;
    let (bob, carol) = (world.person(1).await?, world.person(2).await?);
    let room = alice.create_room(NewRoom::new("gone.two".parse()?)).await?;
    admit_to_room(&alice, &room, &bob).await?;
    admit_to_room(&alice, &room, &carol).await?;
    let records = records(world).await?;
    let (members, rooms, keys) = (
        records.get_key_value("UNIBUS_members").await?,
        records.get_key_value("UNIBUS_rooms").await?,
        records.get_key_value("UNIBUS_room_keys").await?,
    );
    let him = bob.identity().endpoint().clone();
    let admission = members.get(format!("{room}.{him}")).await?;
    let before = rooms.get(room.to_string()).await?;
    alice.remove(&room, &him).await?;
    let admission = admission.expect("a record").to_vec();
    put_member(&records, &room, &him, admission).await?;

    // A session that remembers nothing takes him for a member, and gives him no key all the same.
    let memory = world.cluster.dir().join("memory.json");
    let options = world.options(1).caretaker(false).memory(&memory);
    let again = Session::connect(owner()?, options.clone()).await?;
    let mut events = again.subscribe(&room, Start::Now).await?;
    assert_eq!(again.room_info(&room).await?.members.len(), 3);
    assert_eq!(again.rekey(&room).await?, 3);
    let told = MembershipChange::Invented {
        endpoint: him.clone(),
        reason: InventedReason::Keyless,
    };
    next_change(&mut events, &told).await?;
    assert_eq!(again.room_info(&room).await?.members.len(), 2);
    assert!(
        keys.get(format!("{room}.3.{him}")).await?.is_none(),
        "a key"
    );
    let hers = format!("{room}.3.{}", carol.identity().endpoint());
    assert!(keys.get(hers).await?.is_some(), "no key for a member");

    // Whom another session of the owner has admitted again is a member to this one too.
    admit_to_room(&alice, &room, &bob).await?;
    assert_eq!(again.rekey(&room).await?, 4);
    assert!(
        keys.get(format!("{room}.4.{him}")).await?.is_some(),
        "no key"
    );
    assert_eq!(again.room_info(&room).await?.members.len(), 3);

    // The room as it was before the removal, shown to a session that remembers better.
    again.close().await;
    let now = rooms.get(room.to_string()).await?.expect("a record");
    rooms
        .put(room.to_string(), before.expect("a record"))
        .await?;
    let later = Session::connect(owner()?, options).await?;
    let refused = later.publish(&room, "for whom?").await;
    assert!(
        matches!(
            refused,
            Err(Error::Memory {
                error: RosterError::EpochWentBack { before: 4, now: 1 },
                ..
            })
        ),
        "{refused:?}"
    );
    rooms.put(room.to_string(), now).await?;
    later.publish(&room, "for you three").await?;
    Ok(())
}

/// Requests that the control planes of all nodes have taken.
async fn requests(world: &World) -> anyhow::Result<u64> {
    let mut sum = 0;
    for node in &world.cluster.nodes {
        let text = node.metrics().await?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("unibus_control_requests_total "));
        sum += line.expect("the metric").parse::<u64>()?;
    }
    Ok(sum)
}

/// Hundreds who publish in a room that their session does not know yet need its record once, not each.
async fn many_at_once_look_once(world: &World) -> anyhow::Result<()> {
    let (alice, bob) = (world.person(0).await?, world.person(1).await?);
    let room = alice.create_room(NewRoom::new("many.one".parse()?)).await?;
    admit_to_room(&alice, &room, &bob).await?;
    let identity = Identity::from_secrets([23; 32], [24; 32])?;
    world.admit(&identity).await?;
    let carol = world.connect(identity, 2).await?;
    alice.invite(&room, carol.identity().party()).await?;
    bob.publish(&room, "first").await?;
    let before = requests(world).await?;
    let first = futures::future::join_all((0..200).map(|_| bob.room_info(&room))).await;
    assert!(first.iter().all(Result::is_ok));
    // Who has not joined is told so after a look, that others may have had for them.
    let refused = futures::future::join_all((0..200).map(|_| carol.publish(&room, "hello?"))).await;
    let all = refused
        .iter()
        .all(|one| matches!(one, Err(Error::NotJoined(_))));
    assert!(all, "{refused:?}");
    let asked = requests(world).await? - before;
    assert!(asked < 100, "{asked} requests for 400 calls");
    Ok(())
}

/// An invitation costs the same in every room: who is in it already is not asked for.
async fn inviting_asks_for_no_members(world: &World) -> anyhow::Result<()> {
    let identity = || Identity::from_secrets([25; 32], [26; 32]);
    world.admit(&identity()?).await?;
    // Whoever makes a room follows its notices, which make it look: the session that invites does not.
    let maker = world.connect(identity()?, 0).await?;
    let new = NewRoom::new("growing.one".parse()?);
    let room = maker.create_room(new).await?;
    maker.close().await;
    let options = world.options(0).caretaker(false);
    let alice = Session::connect(identity()?, options).await?;
    let before = requests(world).await?;
    let mut guests = Vec::new();
    for _ in 0..20 {
        let guest = Identity::generate()?;
        alice.invite(&room, guest.party()).await?;
        guests.push(guest.party().clone());
    }
    let asked = requests(world).await? - before;
    // The room's own record, and the invitation; with the members, and looking afterwards, five.
    assert!(asked < 3 * 20, "{asked} requests for 20 invitations");
    let info = alice.room_info(&room).await?;
    assert_eq!(info.members.len(), 21);
    assert!(guests.iter().all(|guest| {
        let mut members = info.members.iter();
        members.any(|member| member.party == *guest && !member.joined)
    }));
    // Whoever is there already is said to be so.
    let again = alice.invite(&room, &guests[0]).await;
    assert!(
        matches!(again, Err(Error::Refused { status: 409, .. })),
        "{again:?}"
    );
    Ok(())
}

async fn cleartext_rooms_are_signed(world: &World) -> anyhow::Result<()> {
    let (alice, bob) = (world.person(0).await?, world.person(1).await?);
    let new = NewRoom::new("clear.one".parse()?).policy(Policy::NATS);
    let room = alice.create_room(new).await?;
    admit_to_room(&alice, &room, &bob).await?;
    let mut events = bob.subscribe(&room, Start::Now).await?;
    let mut alices = alice.subscribe(&room, Start::Now).await?;
    alice.publish(&room, "hello").await?;
    assert_eq!(next_text(&mut alices).await?, "hello");
    // Interest may reach the speaker's node later than the first message: it is said until it is heard.
    let spoken = async {
        loop {
            alice.publish(&room, "hello").await?;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        #[expect(unreachable_code, reason = "gives the block its type")]
        Ok::<(), Error>(())
    };
    tokio::select! {
        heard = next_text(&mut events) => assert_eq!(heard?, "hello"),
        failed = spoken => failed?,
    }
    // Bytes that are no frame, from a member: said to be so.
    bob.nats()
        .publish("clear.one", "not a frame".into())
        .await?;
    let reason = next_where(&mut alices, "garbage", |event| match event {
        Event::Undecryptable(frame) => Some(frame.reason),
        _ => None,
    })
    .await?;
    assert!(matches!(reason, Unreadable::Frame(_)), "{reason:?}");
    Ok(())
}
