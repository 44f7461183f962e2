//! `worker`: a bot that joins the rooms it is invited to and answers what is said there. Follows which
//! rooms there are; each has a task (`room`), which asks `answer` what to answer.

mod answer;
mod room;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use unibus_client::{HistoryQuery, MyRoom, RoomsChange, Start};
use unibus_proto::control::{EndpointId, RoomId};

use crate::error::{Result, failed};
use crate::output;
use crate::room::{accept, endpoint};
use crate::session::{Care, as_failed, open};
use crate::settings::Settings;
use crate::text;

use answer::Answerer;
use room::{Answered, Desk};

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
    /// Listen in this room only: its id or its subject; may be given more than once [default: all of one's rooms]
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
        listening: BTreeSet::new(),
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
    /// Rooms that have a task.
    listening: BTreeSet<RoomId>,
    tasks: JoinSet<RoomId>,
}

impl Worker<'_> {
    async fn work(&mut self, mut answers: mpsc::Receiver<Answered>, json: bool) -> Result {
        let session = self.desk.session.clone();
        for room in session.list_my_rooms().await.map_err(as_failed)? {
            self.follow(RoomsChange::Added(room)).await;
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
                    Some(change) => self.follow(change).await,
                    None => return failed("the session ended"),
                },
                Some(ended) = self.tasks.join_next() => {
                    if let Ok(room) = ended {
                        self.listening.remove(&room);
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

    async fn follow(&mut self, change: RoomsChange) {
        match change {
            RoomsChange::Added(room) | RoomsChange::Changed(room) if self.is_meant(&room) => {
                if self.listening.contains(&room.id) {
                    return;
                }
                if self.listening.len() >= ROOMS_MAX {
                    return output::tell(&format!(
                        "unibus: {ROOMS_MAX} rooms are the most: {} is left out",
                        room.id
                    ));
                }
                let from = match room.joined {
                    true => Some(Start::Now),
                    false => self.join(&room).await,
                };
                if let Some(from) = from {
                    self.listen(room, from).await;
                }
            }
            // The task of a room that was left hears of it by itself.
            _ => {}
        }
    }

    fn is_meant(&self, room: &MyRoom) -> bool {
        let named = |name: &String| *name == room.id.as_str() || *name == room.subject.as_str();
        self.args.rooms.is_empty() || self.args.rooms.iter().any(named)
    }

    /// Accepts an invitation; answers with where to begin, so that nothing that is said after it is missed.
    async fn join(&self, room: &MyRoom) -> Option<Start> {
        if self.args.no_join {
            return None;
        }
        let session = &self.desk.session;
        let from = match room.policy.persisted {
            true => match session.history(&room.id, HistoryQuery::last(1)).await {
                Ok(page) => Start::After(page.next),
                Err(_) => Start::Now,
            },
            false => Start::Now,
        };
        match accept(session, &room.id, &self.args.owners).await {
            Ok(owner) => {
                output::tell(&format!(
                    "joined {} on {} of {owner}",
                    room.id, room.subject
                ));
                Some(from)
            }
            Err(error) => {
                output::tell(&format!("unibus: {}: {error}", room.id));
                None
            }
        }
    }

    /// Listens from now on; what can't be begun at once the room's task begins later.
    async fn listen(&mut self, room: MyRoom, from: Start) {
        let desk = Arc::clone(&self.desk);
        self.listening.insert(room.id.clone());
        let events = desk.session.subscribe(&room.id, from).await;
        self.tasks.spawn(async move {
            desk.listen(&room, events, from).await;
            room.id
        });
    }
}
