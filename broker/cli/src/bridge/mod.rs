//! `bridge`: a gateway between one room and plain subjects, for devices that can't do the cryptography.
//! It is a member of the room and speaks for the devices: what passes it is in cleartext beyond it.

mod outward;

use clap::Args;
use futures::StreamExt;
use futures::stream::SelectAll;
use serde_json::json;
use unibus_client::{Error, Event, Session, Speech, Start, Subscription};
use unibus_proto::control::RoomId;
use unibus_proto::subject;

use crate::connect::{Bus, connect};
use crate::context::Store;
use crate::error::{Attempt, Result, failed, wrong};
use crate::identity;
use crate::output;
use crate::room::{Fresh, sent_json};
use crate::session::{Care, as_failed, open, room};
use crate::settings::Settings;
use crate::text;

use outward::{ROOM_HEADER, outward};

/// Names a device to the room, with --label.
const SENDER_HEADER: &str = "Unibus-Sender";
/// Pause before something is said again in a room whose owner has to make a new key.
const REKEY_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
/// Attempts at saying it.
const ATTEMPTS_MAX: usize = 30;

const EXAMPLES: &str = "\
Examples:
  unibus bridge lab.heating --in 'sensors.*.temp' --label --out valves.orders
  unibus bridge lab.heating --in sensors.temp --plain factory     the devices' own server, by its context
  unibus pub sensors.temp 21.5                        a device speaks in the room
  unibus req sensors.temp 21.5                        and is answered when the room has stored it
  unibus sub valves.orders --headers                  a device hears the room

What the room says goes out with the headers Unibus-From (the sender's endpoint), Unibus-Room, Unibus-Id,
Unibus-Kind, Unibus-Time, and where there are any Unibus-Seq, Unibus-Thread and Unibus-Reply-To.
Unibus-Id is the Nats-Msg-Id too, so a stream keeps it once. Of files the name and size go out, and no key.

Nothing goes round: what the bridge said itself does not go out, and what came out of a room (it has
Unibus-Room) does not come in, to whatever room. The subjects of the two ways must not overlap.";

/// Flags of `bridge`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BridgeArgs {
    /// The room: its id or its subject; one has joined it
    room: String,
    /// What devices publish here is said in the room; may have wildcards and be given more than once
    #[arg(
        id = "inward",
        long = "in",
        value_name = "SUBJECT",
        required_unless_present = "outward"
    )]
    inward: Vec<String>,
    /// What the room says is published here
    #[arg(id = "outward", long = "out", value_name = "SUBJECT")]
    outward: Option<String>,
    /// Saved context of the devices' side [default: the same servers, as the same identity]
    #[arg(long, value_name = "CONTEXT")]
    plain: Option<String>,
    /// Put who spoke in front of what devices say: their header Unibus-Sender, or the subject
    #[arg(long)]
    label: bool,
    /// Queue group of --in: of several bridges one takes each message
    #[arg(long, short, value_name = "GROUP", default_value = "unibus-bridge")]
    queue: String,
    /// End after so many messages, both ways together
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Passes on until it is enough.
///
/// # Errors
/// [`crate::error::CliError`].
pub(crate) async fn run(args: &BridgeArgs, settings: &Settings, json: bool) -> Result {
    check(args)?;
    let plain = plain_settings(args, settings)?;
    let session = open(settings, Care::Rooms).await?;
    let id = room(&session, &args.room).await?;
    let info = session.room_info(&id).await.map_err(as_failed)?;
    own_subject(args, info.record.subject.as_str())?;
    let bus = connect(&plain).await?;
    let bridge = Bridge {
        args,
        json,
        session: session.clone(),
        room: id,
        bus,
    };
    let done = Box::pin(bridge.run()).await;
    session.close().await;
    done
}

/// The devices' side: another context, or the same servers as the same identity.
fn plain_settings(args: &BridgeArgs, settings: &Settings) -> Result<Settings> {
    if let Some(name) = &args.plain {
        return Store::open()?.load(name);
    }
    let mut plain = settings.clone();
    plain.login.identity = Some(identity::file_of(settings)?);
    Ok(plain)
}

/// Refuses subjects through which something could go round, or that can't be.
fn check(args: &BridgeArgs) -> Result {
    for inward in &args.inward {
        if !subject::is_valid_filter(inward.as_bytes()) {
            return wrong(format!("--in {inward:?} is no subject"));
        }
    }
    let Some(outward) = &args.outward else {
        return Ok(());
    };
    if !subject::is_literal(outward.as_bytes()) {
        return wrong(format!("--out {outward:?} is no subject without wildcards"));
    }
    match args.inward.iter().find(|inward| overlap(inward, outward)) {
        Some(inward) => wrong(format!(
            "--in {inward} and --out {outward} overlap: what the room says would come back into it"
        )),
        None => Ok(()),
    }
}

/// Refuses the room's own subject, where frames are.
fn own_subject(args: &BridgeArgs, own: &str) -> Result {
    let named = args.inward.iter().chain(&args.outward);
    match named.into_iter().find(|named| overlap(named, own)) {
        Some(named) => wrong(format!(
            "{named} covers the room's own subject {own}: a bridge needs others"
        )),
        None => Ok(()),
    }
}

fn overlap(a: &str, b: &str) -> bool {
    subject::collide(a.as_bytes(), b.as_bytes())
}

struct Bridge<'a> {
    args: &'a BridgeArgs,
    json: bool,
    session: Session,
    room: RoomId,
    bus: Bus,
}

impl Bridge<'_> {
    async fn run(&self) -> Result {
        let mut devices = self.devices().await?;
        let mut fresh = Fresh::now();
        let mut events = match self.args.outward {
            Some(_) => Some(self.events().await?),
            None => None,
        };
        output::tell(&format!("listening: room {} is bridged", self.room));
        let mut passed = 0;
        while self.args.count.is_none_or(|count| passed < count) {
            let event = async {
                match &mut events {
                    Some(events) => events.next().await,
                    None => std::future::pending().await,
                }
            };
            passed += u64::from(tokio::select! {
                event = event => match event {
                    Some(event) => match event.message() {
                        Some(message) if let Err(why) = fresh.take(&message.header, message.stored_ms) => {
                            output::tell(&format!("unibus: not passed on: {why}"));
                            false
                        }
                        _ => self.outward(event).await?,
                    },
                    None => return failed("the session ended"),
                },
                Some(message) = devices.next() => self.inward(message).await?,
                refusal = self.bus.refusal() => return Err(refusal),
                _ = tokio::signal::ctrl_c() => return Ok(()),
            });
        }
        self.bus.published().await
    }

    async fn devices(&self) -> Result<SelectAll<async_nats::Subscriber>> {
        let mut all = SelectAll::new();
        for inward in &self.args.inward {
            let queue = self.args.queue.clone();
            let subscribed = self.bus.client.queue_subscribe(inward.clone(), queue).await;
            all.push(subscribed.or_wrong(|| format!("can't subscribe to {inward:?}"))?);
        }
        self.bus.subscribed().await?;
        Ok(all)
    }

    async fn events(&self) -> Result<Subscription> {
        let subscribed = self.session.subscribe(&self.room, Start::Now).await;
        subscribed.map_err(as_failed)
    }

    /// Passes on what the room says; answers whether it was something to pass on.
    async fn outward(&self, event: Event) -> Result<bool> {
        if let Event::Gone { words } = &event {
            return failed(words.clone());
        }
        let Some(to) = &self.args.outward else {
            return Ok(false);
        };
        let me = self.session.identity().endpoint();
        let Some((headers, payload)) = outward(&event, me) else {
            return Ok(false);
        };
        let sent = self
            .bus
            .client
            .publish_with_headers(to.clone(), headers, payload)
            .await;
        sent.or_failed(|| format!("can't publish to {to}"))?;
        let id = event.message().map(|message| message.id().to_string());
        let id = id.unwrap_or_default();
        match self.json {
            true => output::json_line(&json!({"way": "out", "id": id, "subject": to}))?,
            false => output::say(&format!("out  {id} to {to}"))?,
        }
        Ok(true)
    }

    /// Says in the room what a device said; answers whether it was something to say. A device that
    /// asked is told what came of it.
    async fn inward(&self, message: async_nats::Message) -> Result<bool> {
        if self.bus.is_echo(&message) {
            return Ok(false);
        }
        let headers = message.headers.as_ref();
        if headers.is_some_and(|headers| headers.get(ROOM_HEADER).is_some()) {
            return Ok(false);
        }
        let said = self.say(&message).await;
        let from = text::harmless(&message.subject);
        let answer = match &said {
            Ok(sent) => {
                let mut record = sent_json(&self.room, sent);
                match self.json {
                    true => {
                        record["way"] = "in".into();
                        record["subject"] = message.subject.as_str().into();
                        output::json_line(&record)?;
                    }
                    false => output::say(&format!("in   {} from {from}", sent.id))?,
                }
                record
            }
            Err(error) => {
                output::tell(&format!("unibus: from {from}: {error}"));
                json!({"error": error.to_string()})
            }
        };
        if let Some(reply) = message.reply {
            let answered = self.bus.client.publish(reply, answer.to_string().into());
            answered.await.or_failed(|| "can't answer".to_owned())?;
        }
        match said {
            Err(error) if error.is_forbidden() => failed(error.to_string()),
            _ => Ok(true),
        }
    }

    async fn say(
        &self,
        message: &async_nats::Message,
    ) -> std::result::Result<unibus_client::Sent, Error> {
        let mut payload = message.payload.to_vec();
        if self.args.label {
            let headers = message.headers.as_ref();
            let named = headers.and_then(|headers| headers.get(SENDER_HEADER));
            let label = named.map_or(message.subject.as_str(), |named| named.as_str());
            payload.splice(..0, format!("{label}: ").into_bytes());
        }
        for _ in 1..ATTEMPTS_MAX {
            let said = self.session.publish(&self.room, payload.clone()).await;
            match said {
                Err(Error::NeedsRekey(_)) => tokio::time::sleep(REKEY_PAUSE).await,
                said => return said,
            }
        }
        let speech = Speech::message(payload);
        self.session.publish(&self.room, speech).await
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{BridgeArgs, check, own_subject};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BridgeArgs,
    }

    fn args(line: &str) -> BridgeArgs {
        Line::try_parse_from(line.split_whitespace()).unwrap().args
    }

    #[test]
    fn subjects_that_would_let_something_go_round_are_refused() {
        for (line, words) in [
            ("b r --in a.b --out a.b", "overlap"),
            ("b r --in a.* --out a.b", "overlap"),
            ("b r --in x --in > --out a.b", "overlap"),
            ("b r --in a..b", "no subject"),
            ("b r --out a.*", "no subject"),
        ] {
            let refused = check(&args(line)).unwrap_err();
            assert!(refused.to_string().contains(words), "{line}: {refused}");
            assert_eq!(refused.status(), 2);
        }
        for line in ["b r --in a.* --out b", "b r --in a", "b r --out b"] {
            assert!(check(&args(line)).is_ok(), "{line}");
        }
        assert!(own_subject(&args("b r --in team.*"), "team.kitchen").is_err());
        assert!(own_subject(&args("b r --out team.kitchen"), "team.kitchen").is_err());
        assert!(own_subject(&args("b r --out team.x --in y"), "team.kitchen").is_ok());
        assert!(Line::try_parse_from(["b", "r"]).is_err());
    }
}
