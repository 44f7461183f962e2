//! `worker`: a bot that joins the rooms it is invited to and answers what is said there. Follows which
//! rooms there are; each has a task (`room`), which asks `answer` what to answer.

mod answer;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use unibus_client::{MyRoom, RoomsChange, Start};
use unibus_proto::control::{EndpointId, RoomId};

use crate::error::{Result, failed, wrong};
use crate::output;
use crate::room::{Fresh, endpoint};
use crate::session::{Care, as_failed, is_called, joined, open};
use crate::settings::Settings;
use crate::text;

use answer::Answerer;
use room::{Answered, Begun, Desk};

/// Rooms that one worker listens in at most.
const ROOMS_MAX: usize = 1024;
/// Answers that wait to be printed.
const PRINTED_MAX: usize = 64;

const EXAMPLES: &str = "\
Examples:
  unibus worker --echo
  unibus worker --exec 'bc -l' --prefix '='              answers \"=2+2\" with 4
  unibus worker --exec ./bot.sh --room ops.alerts --owner unibus-contact:…
  unibus worker --exec 'tr a-z A-Z' --exec-timeout 2s --parallel 4 --output-max 4K

The command runs in sh: the message is its stdin, what it prints is the answer, nothing is none.
UNIBUS_ROOM, UNIBUS_SUBJECT, UNIBUS_FROM, UNIBUS_ID and UNIBUS_TIME tell about the message. Whoever may
speak in a room may make it run: --owner says whose invitations are accepted.

A worker answers what begins a conversation, and replies to its own answers. It answers no other
reply, so two workers in a room can't talk each other into a loop. What was said while it was not
running, it does not answer.";

/// Flags of `worker`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WorkerArgs {
    /// Answer with what this command prints
    #[arg(
        long,
        short,
        value_name = "COMMAND",
        required_unless_present = "echo",
        conflicts_with = "echo"
    )]
    exec: Option<String>,
    /// Answer with what was said
    #[arg(long)]
    echo: bool,
    /// Listen in this room only: its id or its subject, joined already or of an --owner; may be given more than
    /// once [default: all of one's rooms]
    #[arg(id = "rooms", long = "room", value_name = "ROOM")]
    rooms: Vec<String>,
    /// Accept invitations to rooms of this owner only: an endpoint or a contact; may be given more than once
    #[arg(id = "owners", long = "owner", value_name = "WHO", value_parser = endpoint)]
    owners: Vec<EndpointId>,
    /// Accept no invitation
    #[arg(long, conflicts_with = "owners")]
    no_join: bool,
    /// Answer only what begins with this, which is left out of what the command gets
    #[arg(long, value_name = "TEXT", default_value = "")]
    prefix: String,
    /// How long a command may run
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = text::duration)]
    exec_timeout: Duration,
    /// Most bytes of an answer; what a command prints beyond them is left out
    #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = text::size)]
    output_max: u64,
    /// How many messages are answered at the same time; the others wait
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: u16,
    /// End after so many answers
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Answers until it is enough.
///
/// # Errors
/// [`crate::error::CliError`].
pub(crate) async fn run(args: &WorkerArgs, settings: &Settings, json: bool) -> Result {
    let session = open(settings, Care::Rooms).await?;
    let (answered, answers) = mpsc::channel(PRINTED_MAX);
    let desk = Arc::new(Desk {
        session: session.clone(),
        answerer: Answerer::of(args),
        turns: Arc::new(Semaphore::new(args.parallel.into())),
        answered,
    });
    let mut worker = Worker {
        args,
        desk,
        named: BTreeMap::new(),
        listening: BTreeSet::new(),
        changed: BTreeMap::new(),
        tasks: JoinSet::new(),
    };
    let done = Box::pin(worker.work(answers, json)).await;
    // Commands that run are killed, and not left behind.
    worker.tasks.shutdown().await;
    session.close().await;
    done
}

struct Worker<'a> {
    args: &'a WorkerArgs,
    desk: Arc<Desk>,
    /// The rooms of `--room` that are known: none is taken for another one of the same name later.
    named: BTreeMap<String, RoomId>,
    /// Rooms that have a task.
    listening: BTreeSet<RoomId>,
    /// What was said of them last, since their task began: looked at when it ends.
    changed: BTreeMap<RoomId, MyRoom>,
    tasks: JoinSet<RoomId>,
}

impl Worker<'_> {
    async fn work(&mut self, mut answers: mpsc::Receiver<Answered>, json: bool) -> Result {
        let session = self.desk.session.clone();
        let rooms = session.list_my_rooms().await.map_err(as_failed)?;
        self.name_rooms(&rooms)?;
        let begun = rooms
            .iter()
            .filter(|room| room.joined && self.is_meant(room));
        // What is said from now on is answered, whoever reads that this has begun.
        for room in begun.cloned().collect::<Vec<_>>() {
            let fresh = Fresh::now();
            let events = Some(session.subscribe(&room.id, Start::Now).await);
            self.begin(room, Begun { fresh, events });
        }
        let mut changes = session.watch_rooms().await.map_err(as_failed)?;
        output::tell(&format!(
            "answering in rooms as {}",
            session.identity().endpoint()
        ));
        let mut seen = 0;
        while self.args.count.is_none_or(|count| seen < count) {
            tokio::select! {
                change = changes.next() => match change {
                    Some(change) => self.follow(change),
                    None => return failed("the session ended"),
                },
                Some(ended) = self.tasks.join_next() => {
                    if let Ok(room) = ended {
                        self.listening.remove(&room);
                        if let Some(room) = self.changed.remove(&room) {
                            self.follow(RoomsChange::Changed(room));
                        }
                    }
                }
                Some(answered) = answers.recv() => {
                    seen += 1;
                    answered.print(json)?;
                }
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        }
        Ok(())
    }

    /// Finds the rooms of `--room` once and for all, among those that were joined. Whoever invites chooses a
    /// room's id and subject: an invitation by name counts only from an owner who was named.
    fn name_rooms(&mut self, rooms: &[MyRoom]) -> Result {
        for name in &self.args.rooms {
            match joined(rooms, name)? {
                Some(room) => drop(self.named.insert(name.clone(), room.id.clone())),
                None if self.args.owners.is_empty() => {
                    return wrong(format!(
                        "you have joined no room {name:?}: join it first (unibus room join), or say with --owner \
                         whose invitation to it is accepted"
                    ));
                }
                None => {}
            }
        }
        Ok(())
    }

    fn follow(&mut self, change: RoomsChange) {
        match change {
            RoomsChange::Added(room) | RoomsChange::Changed(room) if self.is_meant(&room) => {
                if self.listening.contains(&room.id) {
                    self.changed.insert(room.id.clone(), room);
                    return;
                }
                if !room.joined && self.args.no_join {
                    return;
                }
                if self.listening.len() >= ROOMS_MAX {
                    return output::tell(&format!(
                        "unibus: {ROOMS_MAX} rooms are the most: {} is left out",
                        room.id
                    ));
                }
                let (fresh, events) = (Fresh::now(), None);
                self.begin(room, Begun { fresh, events });
            }
            // The task of a room that was left hears of it by itself.
            RoomsChange::Removed(room) => drop(self.changed.remove(&room)),
            _ => {}
        }
    }

    fn is_meant(&self, room: &MyRoom) -> bool {
        let is_it = |name: &String| match self.named.get(name) {
            Some(id) => *id == room.id,
            None => !room.joined && is_called(room, name),
        };
        self.args.rooms.is_empty() || self.args.rooms.iter().any(is_it)
    }

    /// Begins a room's task, which accepts its invitation first. What can't be begun at once it begins later.
    fn begin(&mut self, room: MyRoom, begun: Begun) {
        let desk = Arc::clone(&self.desk);
        let owners = self.args.owners.clone();
        self.listening.insert(room.id.clone());
        self.tasks.spawn(async move {
            let from = match room.joined {
                true => Some(Start::Now),
                false => desk.join(&room, &owners, begun.fresh.began_ms()).await,
            };
            if let Some(from) = from {
                desk.listen(&room, from, begun).await;
            }
            room.id
        });
    }
}
