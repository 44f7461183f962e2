//! What is done outside: tasks that ask the session what the core has ordered, and bring back news. Their
//! number is bounded by the core: one that listens for each room, one load and one look at a time for
//! each, so many errands.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::fs::{self, File};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use unibus_client::rooms::blob::BlobRef;
use unibus_client::rooms::frame::FrameId;
use unibus_client::{
    Error, FileInfo, HistoryQuery, NewRoom, RoomsChange, Session, Speech, Start, Subscription,
};
use unibus_proto::control::{MemberRole, Policy, RoomId};

use super::model::clean::clean_line;
use super::model::heard::{Heard, heard, page};
use super::model::log::Part;
use super::model::state::{Errand, Look, News, Order, Person, Speaking};

/// News that wait for the core; whoever brings more waits.
const NEWS_MAX: usize = 512;
/// Messages and reactions that wait to be sent.
const SPEECHES_MAX: usize = 128;
/// Frames of a page.
const PAGE: usize = 100;
/// Pause before something that failed is tried again.
const PAUSE: Duration = Duration::from_secs(2);
/// Longest words of an error, in bytes.
const WORDS_MAX: usize = 400;

/// The tasks.
#[derive(Debug)]
pub(super) struct Tasks {
    session: Session,
    news: mpsc::Sender<News>,
    speeches: mpsc::Sender<Order>,
    listening: HashMap<RoomId, AbortHandle>,
    running: JoinSet<()>,
}

impl Tasks {
    /// Begins to watch the rooms.
    pub(super) fn start(session: Session) -> (Self, mpsc::Receiver<News>) {
        let (news, receiver) = mpsc::channel(NEWS_MAX);
        let (speeches, orders) = mpsc::channel(SPEECHES_MAX);
        let mut running = JoinSet::new();
        running.spawn(watch(session.clone(), news.clone()));
        running.spawn(speak(session.clone(), orders, news.clone()));
        let tasks = Self {
            session,
            news,
            speeches,
            listening: HashMap::new(),
            running,
        };
        (tasks, receiver)
    }

    /// Does what was ordered; what needs a terminal or a file is not for here.
    pub(super) fn perform(&mut self, order: Order) {
        // Ended tasks leave the set; a panic goes on here.
        while let Some(ended) = self.running.try_join_next() {
            if let Err(error) = ended
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        }
        let (session, news) = (self.session.clone(), self.news.clone());
        match order {
            Order::Open { room, persisted } => {
                let task = listen(session, room.clone(), persisted, news);
                let task = self.running.spawn(task);
                if let Some(before) = self.listening.insert(room, task) {
                    before.abort();
                }
            }
            Order::Close(room) => {
                if let Some(task) = self.listening.remove(&room) {
                    task.abort();
                }
            }
            Order::Load { room, part } => {
                self.running.spawn(load(session, room, part, news));
            }
            Order::Look(room) => {
                self.running.spawn(look(session, room, news));
            }
            Order::Errand { ticket, errand } => {
                self.running.spawn(async move {
                    let outcome = run(&session, ticket, errand, &news).await;
                    tell(&news, News::Done { ticket, outcome }).await;
                });
            }
            Order::Say(_) | Order::React { .. } => self.queue(order),
            Order::Remember(_) | Order::Redraw | Order::Suspend | Order::Quit => {}
        }
    }

    /// Messages are sent one after the other, in the order in which they were written.
    fn queue(&mut self, order: Order) {
        if let Err(error) = self.speeches.try_send(order) {
            let failed = not_sent(&error.into_inner(), "too much waits to be sent".into());
            let news = self.news.clone();
            self.running.spawn(async move { tell(&news, failed).await });
        }
    }
}

/// Nobody is there any more once the program ends.
async fn tell(news: &mpsc::Sender<News>, what: News) {
    drop(news.send(what).await);
}

/// An error's words. A server may have chosen them.
fn words(error: &Error) -> String {
    clean_line(&error.to_string(), WORDS_MAX)
}

async fn watch(session: Session, news: mpsc::Sender<News>) {
    loop {
        if let Ok(mut rooms) = session.watch_rooms().await {
            while let Some(change) = rooms.next().await {
                let what = match change {
                    RoomsChange::Added(room) | RoomsChange::Changed(room) => News::Room(room),
                    RoomsChange::Removed(room) => News::RoomGone(room),
                    _ => continue,
                };
                tell(&news, what).await;
            }
            // Ended with the session.
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Loads the end of a room's history and listens from there on, until this identity is no member any more.
async fn listen(session: Session, room: RoomId, persisted: bool, news: mpsc::Sender<News>) {
    let mut told = false;
    loop {
        let error = match open(&session, &room, persisted, &news).await {
            Ok(events) => return follow(events, room, news).await,
            Err(error) => error,
        };
        if !told {
            told = true;
            let (room, words) = (room.clone(), words(&error));
            tell(&news, News::NotLoaded { room, words }).await;
        }
        if error.is_forbidden() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn open(
    session: &Session,
    room: &RoomId,
    persisted: bool,
    news: &mpsc::Sender<News>,
) -> Result<Subscription, Error> {
    let (start, last) = if persisted {
        let last = page(session.history(room, HistoryQuery::last(PAGE)).await?);
        (Start::After(last.next), last)
    } else {
        (Start::Now, super::model::log::Page::default())
    };
    let events = session.subscribe(room, start).await?;
    let loaded = News::Loaded {
        room: room.clone(),
        part: Part::Last,
        page: last,
    };
    tell(news, loaded).await;
    Ok(events)
}

async fn follow(mut events: Subscription, room: RoomId, news: mpsc::Sender<News>) {
    while let Some(event) = events.next().await {
        let Some(heard) = heard(event) else {
            continue;
        };
        let gone = matches!(heard, Heard::Gone(_));
        let room = room.clone();
        tell(&news, News::Heard { room, heard }).await;
        if gone {
            return;
        }
    }
}

async fn load(session: Session, room: RoomId, part: Part, news: mpsc::Sender<News>) {
    let query = match part {
        Part::Last => HistoryQuery::last(PAGE),
        Part::Before(seq) => HistoryQuery::before(seq, PAGE),
        Part::After(seq) => HistoryQuery::after(seq, PAGE),
    };
    let what = match session.history(&room, query).await {
        Ok(loaded) => News::Loaded {
            room,
            part,
            page: page(loaded),
        },
        Err(error) => News::NotLoaded {
            room,
            words: words(&error),
        },
    };
    tell(&news, what).await;
}

async fn look(session: Session, room: RoomId, news: mpsc::Sender<News>) {
    let info = session.room_info(&room).await.ok();
    let look = info.map(|info| Look {
        epoch: info.record.epoch,
        needs_rekey: info.record.needs_rekey,
        invented: info.invented.len(),
        people: info
            .members
            .into_iter()
            .map(|member| Person {
                endpoint: member.party.endpoint,
                owner: member.role == MemberRole::Owner,
                joined: member.joined,
            })
            .collect(),
    });
    tell(&news, News::Looked { room, look }).await;
}

async fn speak(session: Session, mut orders: mpsc::Receiver<Order>, news: mpsc::Sender<News>) {
    while let Some(order) = orders.recv().await {
        let (room, speech) = match &order {
            Order::Say(speaking) => (&speaking.room, speech(speaking)),
            Order::React { room, to, reaction } => {
                if let Err(error) = session.react(room, *to, reaction).await {
                    tell(&news, not_sent(&order, words(&error))).await;
                }
                continue;
            }
            _ => continue,
        };
        let what = match session.publish(room, speech).await {
            Ok(sent) => sent_news(&order, sent.id),
            Err(error) => Some(not_sent(&order, words(&error))),
        };
        if let Some(what) = what {
            tell(&news, what).await;
        }
    }
}

fn speech(speaking: &Speaking) -> Speech {
    let mut speech = Speech::message(speaking.text.as_str());
    if let Some(root) = speaking.thread {
        speech = speech.in_thread(root);
    }
    if let Some(to) = speaking.reply_to {
        speech = speech.reply_to(to);
    }
    speech
}

fn sent_news(order: &Order, id: FrameId) -> Option<News> {
    match order {
        Order::Say(speaking) => Some(News::Sent {
            room: speaking.room.clone(),
            ticket: speaking.ticket,
            id,
        }),
        _ => None,
    }
}

fn not_sent(order: &Order, words: String) -> News {
    match order {
        Order::Say(Speaking { room, ticket, .. }) => News::NotSent {
            room: room.clone(),
            ticket: *ticket,
            words,
        },
        _ => News::Done {
            ticket: 0,
            outcome: Err(format!("the reaction was not sent: {words}")),
        },
    }
}

/// Runs an errand; answers with what to tell.
async fn run(
    session: &Session,
    ticket: u64,
    errand: Errand,
    news: &mpsc::Sender<News>,
) -> Result<String, String> {
    let done = match errand {
        Errand::Create { subject, plain } => {
            let policy = if plain { Policy::NATS } else { Policy::MATRIX };
            let text = format!("{subject} is there; /invite lets others in");
            let made = session
                .create_room(NewRoom::new(subject).policy(policy))
                .await;
            match made {
                Ok(room) => {
                    tell(news, News::Created(room)).await;
                    Ok(text)
                }
                Err(error) => Err(error),
            }
        }
        Errand::Invite { room, party } => {
            let who = party.endpoint.to_string();
            let text = format!("{who} is invited, and sees it without being told");
            session.invite(&room, &party).await.map(|()| text)
        }
        Errand::Join(room) => session.join(&room).await.map(|()| "welcome".to_owned()),
        Errand::Leave(room) => session
            .leave(&room)
            .await
            .map(|()| "you have left".to_owned()),
        Errand::Remove { room, endpoint } => {
            let done = session.remove(&room, &endpoint).await;
            done.map(|()| format!("{endpoint} is removed, and can't read what follows"))
        }
        Errand::Rekey(room) => {
            let done = session.rekey(&room).await;
            done.map(|epoch| format!("the key of epoch {epoch} is made"))
        }
        Errand::Send { room, path, thread } => {
            return send(session, ticket, &room, &path, thread, news).await;
        }
        Errand::Save { file, path } => return save(session, ticket, &file, &path, news).await,
    };
    done.map_err(|error| words(&error))
}

/// Tells how far a transfer has come, where there is room for it.
fn progress(
    ticket: u64,
    what: String,
    news: &mpsc::Sender<News>,
) -> impl FnMut(unibus_client::Progress) + use<> {
    let news = news.clone();
    move |progress| {
        let percent = match progress.total {
            Some(total) if total > 0 => format!("{} %", progress.done * 100 / total),
            _ => crate::text::size_shown(progress.done),
        };
        let text = format!("{what} {percent}");
        drop(news.try_send(News::Progress { ticket, text }));
    }
}

async fn send(
    session: &Session,
    ticket: u64,
    room: &RoomId,
    path: &Path,
    thread: Option<FrameId>,
    news: &mpsc::Sender<News>,
) -> Result<String, String> {
    let path = from_home(path);
    let shown = path.display();
    let file = File::open(&path).await;
    let file = file.map_err(|error| format!("{shown}: {error}"))?;
    let about = file.metadata().await;
    let about = about.map_err(|error| format!("{shown}: {error}"))?;
    if !about.is_file() {
        return Err(format!("{shown} is no file"));
    }
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let what = format!("sending {}", name.as_deref().unwrap_or("a file"));
    let info = FileInfo {
        name,
        size: Some(about.len()),
        ..FileInfo::default()
    };
    let stored = session
        .put_blob(file, info, progress(ticket, what, news))
        .await;
    let stored = stored.map_err(|error| words(&error))?;
    let mut speech = Speech::file(&stored);
    if let Some(root) = thread {
        speech = speech.in_thread(root);
    }
    let sent = session.publish(room, speech).await;
    sent.map_err(|error| words(&error))?;
    Ok(format!("{shown} is shared"))
}

async fn save(
    session: &Session,
    ticket: u64,
    file: &BlobRef,
    path: &Path,
    news: &mpsc::Sender<News>,
) -> Result<String, String> {
    let path = from_home(path);
    let shown = path.display();
    let open = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .await;
    let to = open.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            format!("{shown} is there already: /save PATH takes another place")
        }
        _ => format!("{shown}: {error}"),
    })?;
    let what = format!("fetching {shown}");
    let fetched = session
        .get_blob(file, to, progress(ticket, what, news))
        .await;
    if let Err(error) = fetched {
        // Half a file looks like one; that it can't be removed changes nothing of what is told.
        drop(fs::remove_file(&path).await);
        return Err(words(&error));
    }
    Ok(format!("saved {shown}"))
}

/// A path that begins with `~/` is below the home, as shells have it.
fn from_home(path: &Path) -> PathBuf {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => Path::new(&home).join(rest),
        _ => path.to_owned(),
    }
}
