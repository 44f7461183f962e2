//! `room sub`, `room history` and `room watch`: what is said, was said, and where one is invited.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use unibus_client::{Event, HistoryQuery, Session, Start};

use super::room;
use super::shown::{event_json, event_line, rooms_change_json, rooms_change_line};
use crate::error::{Result, failed};
use crate::output;
use crate::session::as_failed;
use crate::silence::silence;
use crate::text;

/// Flags of `room sub`.
#[derive(Args, Debug)]
pub(crate) struct SubArgs {
    /// The room: its id or its subject
    room: String,
    /// Begin with the first message that is kept
    #[arg(long, conflicts_with = "after")]
    from_beginning: bool,
    /// Begin after this place in the room's stream (seq)
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// Print the payload of messages alone, as it is, and a line end
    #[arg(long, short)]
    raw: bool,
    /// End after so many messages, reactions and files
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End when nothing came for so long; status 1 where --count is not reached then
    #[arg(long, value_name = "TIME", value_parser = text::duration)]
    wait: Option<Duration>,
}

/// Flags of `room history`.
#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    /// The room: its id or its subject
    room: String,
    /// How many at most
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    last: u16,
    /// The first ones after this place in the room's stream (seq)
    #[arg(long, value_name = "SEQ", conflicts_with = "before")]
    after: Option<u64>,
    /// The last ones before this place
    #[arg(long, value_name = "SEQ")]
    before: Option<u64>,
}

/// Flags of `room watch`.
#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// End after so many changes; the rooms that are there come first
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Prints what happens in a room until it is enough.
///
/// # Errors
/// Where one is no member (any more), or it can't be printed.
pub(super) async fn subscribe(args: &SubArgs, session: &Session, json: bool) -> Result {
    let id = room(session, &args.room).await?;
    let start = match (args.after, args.from_beginning) {
        (Some(seq), _) => Start::After(seq),
        (None, true) => Start::Beginning,
        (None, false) => Start::Now,
    };
    let mut events = session.subscribe(&id, start).await.map_err(as_failed)?;
    output::tell(&format!("listening in {}", args.room));
    let mut seen = 0;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = silence(args.wait) => return match args.count {
                Some(count) => failed(format!("{seen} of {count} messages came")),
                None => Ok(()),
            },
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let Some(event) = event else {
            return failed("the subscription ended");
        };
        show(&event, args.raw, json)?;
        if let Event::Gone { words } = event {
            return failed(words);
        }
        seen += u64::from(event.message().is_some());
        if args.count.is_some_and(|count| seen >= count) {
            return Ok(());
        }
    }
}

fn show(event: &Event, raw: bool, json: bool) -> Result {
    if json {
        return output::json_line(&event_json(event));
    }
    if raw {
        return match event {
            Event::Message(message) => {
                let mut line = message.payload.to_vec();
                line.push(b'\n');
                output::bytes(&line)
            }
            _ => Ok(()),
        };
    }
    match event_line(event) {
        Some(line) => output::say(&line),
        None => Ok(()),
    }
}

/// Prints a page of a room's history.
///
/// # Errors
/// Where the room keeps none, and as every call.
pub(super) async fn history(args: &HistoryArgs, session: &Session, json: bool) -> Result {
    let id = room(session, &args.room).await?;
    let limit = usize::from(args.last);
    let query = match (args.after, args.before) {
        (Some(seq), _) => HistoryQuery::after(seq, limit),
        (None, Some(seq)) => HistoryQuery::before(seq, limit),
        (None, None) => HistoryQuery::last(limit),
    };
    let page = session.history(&id, query).await.map_err(as_failed)?;
    if json {
        let events: Vec<_> = page.events.iter().map(event_json).collect();
        return output::json(&json!({"room": id, "events": events, "next": page.next,
            "previous": page.previous}));
    }
    for line in page.events.iter().filter_map(event_line) {
        output::say(&line)?;
    }
    if let Some(previous) = page.previous {
        output::tell(&format!("there is more: --before {previous}"));
    }
    Ok(())
}

/// Prints how one's rooms change until it is enough.
///
/// # Errors
/// As every call.
pub(super) async fn watch(args: &WatchArgs, session: &Session, json: bool) -> Result {
    let mut changes = session.watch_rooms().await.map_err(as_failed)?;
    output::tell("watching your rooms");
    let mut seen = 0;
    while args.count.is_none_or(|count| seen < count) {
        let change = tokio::select! {
            change = changes.next() => change,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let Some(change) = change else {
            return failed("the watch ended");
        };
        seen += 1;
        match json {
            true => output::json_line(&rooms_change_json(&change))?,
            false => output::say(&rooms_change_line(&change))?,
        }
    }
    Ok(())
}
