//! Rooms: encrypting and publishing until it is stored, reading again, and what a new key costs. All of
//! it through the rooms' library, as any other program does it.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout};
use unibus_client::{Event, HistoryQuery, Identity, NewRoom, Session, Start};
use unibus_proto::control::{Party, RoomId, RoomSubject};

use super::load::{Load, Share, Times, note, payload, phase, times};
use super::report::Report;
use super::{AmountArgs, RekeyArgs, RoomArgs};
use crate::error::{Attempt, Result, failed};
use crate::output;
use crate::room::ready_to_speak;
use crate::session::{self, Care, as_failed, open};
use crate::settings::Settings;

/// How long silence lasts before what has not come counts as lost.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(10);
/// Members who are invited between two looks at the room.
const INVITED_AT_ONCE: usize = 512;

/// Makes a room that nobody else uses.
async fn own_room(session: &Session) -> Result<RoomId> {
    let inbox = session.nats().new_inbox();
    let id = inbox.rsplit('.').next().unwrap_or_default();
    let subject: RoomSubject = format!("unibus.bench.{id}")
        .parse()
        .or_failed(|| "no subject for the room".to_owned())?;
    let new = NewRoom::new(subject);
    let room = session.create_room(new).await.map_err(as_failed)?;
    output::tell(&format!("room {room} of this bench stays"));
    Ok(room)
}

/// Publishes in a room, then reads it.
///
/// # Errors
/// [`crate::error::CliError`].
pub(super) async fn room(args: &RoomArgs, settings: &Settings) -> Result<Vec<Report>> {
    let mut sessions = Vec::with_capacity(args.amount.clients.into());
    for _ in 0..args.amount.clients {
        sessions.push(open(settings, Care::Nothing).await?);
    }
    let Some(first) = sessions.first().cloned() else {
        return failed("no client was wanted");
    };
    let room = match &args.room {
        Some(named) => session::room(&first, named).await?,
        None => own_room(&first).await?,
    };
    ready_to_speak(&first, &room).await?;
    let page = first.history(&room, HistoryQuery::last(1)).await;
    let before = page.map_err(as_failed)?.next;
    let load = Load::new(args.amount.msgs, args.amount.time);
    let sessions = Arc::new(sessions);
    let written = phase("publish", &args.amount, &load, |number, share| {
        let session = sessions.get(usize::from(number)).cloned();
        say(session, room.clone(), args.clone(), share)
    })
    .await?;
    if args.no_read {
        return Ok(vec![written]);
    }
    let load = Load::new(load.finished(), args.amount.time);
    let one = AmountArgs {
        clients: 1,
        ..args.amount.clone()
    };
    let read = phase("read", &one, &load, |_, share| {
        hear(first.clone(), room.clone(), before, share)
    })
    .await?;
    let lost = match load.is_over() {
        true => 0,
        false => written.messages().saturating_sub(load.finished()),
    };
    Ok(vec![written, read.lost(lost)])
}

async fn say(
    session: Option<Session>,
    room: RoomId,
    args: RoomArgs,
    mut share: Share,
) -> Result<Times> {
    let Some(session) = session else {
        return failed("a session is missing");
    };
    let (mut times, payload) = (times()?, payload(args.amount.size));
    let mut flying = FuturesUnordered::new();
    loop {
        while flying.len() < usize::from(args.in_flight) && share.more() {
            let (session, room, payload) = (&session, &room, payload.to_vec());
            flying.push(async move {
                let began = Instant::now();
                session.publish(room, payload).await.map(|_| began)
            });
        }
        match flying.next().await {
            Some(sent) => {
                note(&mut times, sent.map_err(as_failed)?);
                share.done();
            }
            None => return Ok(times),
        }
    }
}

async fn hear(session: Session, room: RoomId, after: u64, mut share: Share) -> Result<Times> {
    let events = session.subscribe(&room, Start::After(after)).await;
    let mut events = events.map_err(as_failed)?;
    while share.more() {
        loop {
            match timeout(SILENCE, events.next()).await {
                Ok(Some(Event::Message(_))) => break,
                Ok(Some(Event::Undecryptable(frame))) => return failed(frame.reason.to_string()),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return times(),
            }
        }
        share.done();
    }
    times()
}

/// Invites, then makes new keys.
///
/// # Errors
/// [`crate::error::CliError`].
pub(super) async fn rekey(args: &RekeyArgs, settings: &Settings) -> Result<Vec<Report>> {
    // Who made a room follows what happens in it: a session of its own, so that nobody does here.
    let maker = open(settings, Care::Nothing).await?;
    let room = own_room(&maker).await?;
    maker.close().await;
    let session = open(settings, Care::Nothing).await?;
    let amount = |msgs: u16| AmountArgs {
        msgs: msgs.into(),
        time: None,
        size: 0,
        clients: 1,
    };
    let guests = amount(args.members - 1);
    let load = Load::new(guests.msgs, None);
    let invited = phase("invite", &guests, &load, |_, share| {
        invite(session.clone(), room.clone(), share)
    })
    .await?;
    let rounds = amount(args.rounds);
    let load = Load::new(rounds.msgs, None);
    let rekeyed = phase("rekey", &rounds, &load, |_, share| {
        make_keys(session.clone(), room.clone(), share)
    })
    .await?;
    Ok(vec![invited, rekeyed])
}

async fn invite(session: Session, room: RoomId, mut share: Share) -> Result<Times> {
    loop {
        let mut guests: Vec<Party> = Vec::new();
        while guests.len() < INVITED_AT_ONCE && share.more() {
            let guest = Identity::generate().or_failed(|| "no identity".to_owned())?;
            guests.push(guest.party().clone());
        }
        if guests.is_empty() {
            return times();
        }
        let invited = session.invite_all(&room, &guests).await;
        invited.map_err(as_failed)?;
        guests.iter().for_each(|_| share.done());
    }
}

async fn make_keys(session: Session, room: RoomId, mut share: Share) -> Result<Times> {
    let mut times = times()?;
    while share.more() {
        let began = Instant::now();
        session.rekey(&room).await.map_err(as_failed)?;
        note(&mut times, began);
        share.done();
    }
    Ok(times)
}
