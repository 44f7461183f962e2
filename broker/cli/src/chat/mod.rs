//! `chat`: people talk in rooms, in a terminal.
//!
//! `model` is the pure core and `view` draws it. The driver here takes turns between the terminal
//! (`terminal`), the session (`tasks`) and the clock, hands inputs to the core and does what it orders.

mod files;
mod model;
mod tasks;
mod terminal;
mod view;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use unibus_client::Session;

use self::files::Files;
use self::model::state::{Chat, Input, News, Order};
use self::tasks::Tasks;
use self::terminal::{Act, Screen};
use crate::error::{Attempt, Result};
use crate::session::{self, Care, as_failed};
use crate::settings::Settings;

/// How often the clock is looked at.
const TICK: Duration = Duration::from_secs(1);
/// News and keys that are taken before the screen is drawn again.
const INPUTS_MAX: usize = 512;

const EXAMPLES: &str = "\
Examples:
  unibus chat                                the rooms of your identity
  unibus --context work chat --room team     and which one is open first
  ssh -t host unibus chat                    a terminal is all it needs

In the chat: /help. Names that you give to people are kept in ~/.config/unibus/people, one line each:
NAME CONTACT, or NAME ENDPOINT. NO_COLOR=1 does without colours.";

/// Flags of `chat`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ChatArgs {
    /// The room that is open first, by the beginning of its subject
    #[arg(long, short, value_name = "ROOM")]
    room: Option<String>,
}

/// Runs a chat until its user ends it.
///
/// # Errors
/// Where no server lets the identity in, there is no terminal, or it goes away.
pub(crate) async fn run(args: &ChatArgs, settings: &Settings) -> Result {
    let session = session::open(settings, Care::Rooms).await?;
    let mut files = Files::of(session.identity().endpoint())?;
    let (names, marks) = (files.names()?, files.marks()?);
    let mut chat = Chat::new(session.identity(), names, marks, unix_ms());
    chat.wanted.clone_from(&args.room);
    let mut rooms = session.list_my_rooms().await.map_err(as_failed)?;
    // The first one is open first.
    rooms.sort_by_cached_key(|room| (!room.joined, room.subject.to_string()));
    let mut screen = Screen::open()?;
    let (tasks, news) = Tasks::start(session.clone());
    let mut driver = Driver {
        chat,
        files,
        tasks,
        news,
        session,
    };
    for room in rooms {
        driver.give(Input::News(News::Room(room)), &mut screen)?;
    }
    let done = driver.drive(&mut screen).await;
    drop(screen);
    let saved = driver.files.save_marks(&driver.chat.marks);
    driver.session.close().await;
    done.and(saved)
}

/// What takes turns.
struct Driver {
    chat: Chat,
    files: Files,
    tasks: Tasks,
    news: mpsc::Receiver<News>,
    session: Session,
}

/// What woke the driver.
enum Turn {
    Act(Option<Act>),
    News(Option<News>),
    Tick,
    End,
}

impl Driver {
    async fn drive(&mut self, screen: &mut Screen) -> Result {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ends = Ends::listen()?;
        loop {
            self.chat.drawn = screen.draw(&self.chat)?;
            let turn = tokio::select! {
                act = screen.act() => Turn::Act(act),
                news = self.news.recv() => Turn::News(news),
                _ = ticks.tick() => Turn::Tick,
                () = ends.come() => Turn::End,
            };
            let mut go_on = match turn {
                Turn::Act(Some(act)) => self.on_act(act, screen)?,
                Turn::News(Some(news)) => self.give(Input::News(news), screen)?,
                Turn::Tick => self.on_tick(screen)?,
                Turn::Act(None) | Turn::News(None) | Turn::End => false,
            };
            // What is there already is drawn at once.
            for _ in 0..INPUTS_MAX {
                if !go_on {
                    break;
                }
                if let Some(act) = screen.act_now() {
                    go_on = self.on_act(act, screen)?;
                } else if let Ok(news) = self.news.try_recv() {
                    go_on = self.give(Input::News(news), screen)?;
                } else {
                    break;
                }
            }
            if !go_on {
                return Ok(());
            }
        }
    }

    fn on_act(&mut self, act: Act, screen: &mut Screen) -> Result<bool> {
        match act {
            Act::Key(key) => self.give(Input::Key(key), screen),
            Act::Paste(text) => self.give(Input::Paste(text), screen),
            Act::Nothing => Ok(true),
        }
    }

    fn on_tick(&mut self, screen: &mut Screen) -> Result<bool> {
        let state = self.session.nats().connection_state();
        let tick = Input::Tick {
            now_ms: unix_ms(),
            connected: state == async_nats::connection::State::Connected,
        };
        let go_on = self.give(tick, screen)?;
        if let Err(error) = self.files.save_marks(&self.chat.marks) {
            self.chat.warn(error.to_string());
        }
        Ok(go_on)
    }

    /// Gives an input to the core and does what it orders; answers whether the chat goes on.
    fn give(&mut self, input: Input, screen: &mut Screen) -> Result<bool> {
        for order in self.chat.take(input) {
            match order {
                Order::Quit => return Ok(false),
                Order::Redraw => screen.clear()?,
                Order::Suspend => screen.suspend()?,
                Order::Remember(line) => {
                    if let Err(error) = self.files.remember(&line) {
                        self.chat.warn(error.to_string());
                    }
                }
                other => self.tasks.perform(other),
            }
        }
        Ok(true)
    }
}

/// Signals that end the program in an orderly way.
struct Ends {
    terminate: Signal,
    hang_up: Signal,
    interrupt: Signal,
}

impl Ends {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).or_failed(|| "signals can't be heard".to_owned());
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn come(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
