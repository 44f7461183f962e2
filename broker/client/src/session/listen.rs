//! Listening to a room: one task for each subscription, which reads the room's stream from where it
//! was, or the live subject in rooms without a stream, and makes its consumer anew whenever a
//! connection, a node or the consumer is lost.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use futures::{Stream, StreamExt};
use tokio::sync::{broadcast, mpsc, watch};
use unibus_proto::control::{RoomId, RoomSubject, room_stream};

use super::read::{Came, stored};
use super::refused::Watch;
use super::rooms::{Change, Room};
use super::{Inner, REQUEST_TIMEOUT, Session};
use crate::error::Error;
use crate::event::Event;
use crate::rooms::frame::FrameId;

/// Events that wait for the application; the subscription waits with them.
const EVENTS_MAX: usize = 256;
/// Frames that a pull asks for at once.
const BATCH: usize = 256;
/// How often an idle pull shows that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long a pull waits before it is made anew.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// How long the server keeps a consumer that nobody pulls from.
const CONSUMER_LIFE: Duration = Duration::from_secs(60);
/// Pauses between attempts at a consumer.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Ids that are remembered, so that a frame that is sent again is delivered once.
const IDS_MAX: usize = 4096;

/// Where a subscription begins. Example: [`Session::subscribe`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Start {
    /// With what comes next.
    #[default]
    Now,
    /// With the first frame that is kept. Rooms without a stream keep none.
    Beginning,
    /// After this place in the stream: what [`Event::seq`] said of the last event that was seen.
    After(u64),
}

/// Events of a room as they come; a [`Stream`]. Ends when it is dropped, after [`Event::Gone`], and with
/// its session. Example: [`Session::subscribe`].
#[derive(Debug)]
pub struct Subscription {
    events: mpsc::Receiver<Event>,
}

impl Subscription {
    /// The next event; `None` when there will be no more. Example: [`Session::subscribe`].
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Stream for Subscription {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(cx)
    }
}

impl Session {
    /// Listens to a room. Frames are verified and decrypted; changes of membership come as events too.
    ///
    /// ```no_run
    /// use unibus_client::{Event, Start, Subscription};
    /// # async fn run(session: unibus_client::Session, room: unibus_proto::control::RoomId) -> Result<(), unibus_client::Error> {
    /// let mut events: Subscription = session.subscribe(&room, Start::Beginning).await?;
    /// while let Some(event) = events.next().await {
    ///     match event {
    ///         Event::Message(message) => println!("{}: {}", message.from(), message.text()),
    ///         Event::Membership(change) => println!("{change:?}"),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotJoined`], [`Error::Roster`], and as every call.
    pub async fn subscribe(&self, room: &RoomId, from: Start) -> Result<Subscription, Error> {
        let inner = &self.inner;
        let room = inner.room(room).await?;
        let joined = |room: &Room| {
            let me = inner.endpoint();
            room.with(|known| known.roster.member(me).is_some_and(|member| member.joined))
        };
        if !joined(&room)? {
            inner.look(&room).await?;
            if !joined(&room)? {
                return Err(Error::NotJoined(room.id.clone()));
            }
        }
        inner.follow(&room);
        let (policy, subject) = room.policy()?;
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let mut listener = Listener {
            changes: room.changes(),
            connections: inner.connections.clone(),
            inner: Arc::clone(inner),
            room,
            events,
            seen: Seen::default(),
        };
        let closing = inner.closing.clone();
        if policy.persisted {
            let (after, caught_up_at) = inner.place(&listener.room, from).await?;
            tokio::spawn(closing.run_until_cancelled_owned(async move {
                listener.follow_stream(after, caught_up_at).await
            }));
        } else {
            let live = inner.live(&subject).await?;
            inner.settle().await?;
            tokio::spawn(closing.run_until_cancelled_owned(async move {
                listener.follow_subject(&subject, live).await
            }));
        }
        Ok(Subscription { events: receiver })
    }
}

impl Inner {
    /// After which place a subscription begins, and the last place that is there now.
    async fn place(&self, room: &Room, from: Start) -> Result<(u64, u64), Error> {
        let (_, last) = self.stream_bounds(room).await?;
        Ok(match from {
            Start::Now => (last, last),
            Start::Beginning => (0, last),
            Start::After(seq) => (seq, last),
        })
    }

    /// A subscription to a live subject, and what tells when it is refused.
    async fn live(&self, subject: &RoomSubject) -> Result<Live, Error> {
        let refused = self.refused.watch(subject.as_str());
        let frames = self.nats.subscribe(subject.to_string()).await;
        let frames = frames.map_err(|error| Error::messages("subscribing", error))?;
        Ok((frames, refused))
    }

    /// Waits until the server has taken everything that was sent: a subscription is in force then. A word
    /// to oneself comes back after the effects of what went before, whoever else listens.
    pub(super) async fn settle(&self) -> Result<(), Error> {
        let failed = |cause: String| Error::messages("subscribing", cause);
        let inbox = self.nats.new_inbox();
        let heard = self.nats.subscribe(inbox.clone()).await;
        let mut heard = heard.map_err(|error| failed(error.to_string()))?;
        let said = self.nats.publish(inbox, bytes::Bytes::new()).await;
        said.map_err(|error| failed(error.to_string()))?;
        match tokio::time::timeout(REQUEST_TIMEOUT, heard.next()).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Error::Closed),
            Err(late) => Err(failed(late.to_string())),
        }
    }
}

/// The frames of a live subject, and what tells when the server withdraws the subscription.
type Live = (async_nats::Subscriber, Watch);

/// Nobody wants more, or there will be no more: the task ends. Anything else is `Ok`, and goes on.
struct Over;

/// The task behind a subscription.
struct Listener {
    inner: Arc<Inner>,
    room: Arc<Room>,
    events: mpsc::Sender<Event>,
    changes: broadcast::Receiver<Change>,
    connections: watch::Receiver<u64>,
    seen: Seen,
}

impl Listener {
    /// Reads the stream, with one consumer after the other, until it is over.
    async fn follow_stream(&mut self, after: u64, caught_up_at: u64) -> Result<Over, Over> {
        let mut place = Place {
            began: Instant::now(),
            after,
            waiting: Some(caught_up_at),
        };
        let mut pause = PAUSE_MIN;
        loop {
            self.catch_up(&mut place).await?;
            self.connections.mark_unchanged();
            let before = place.after;
            match self.open_consumer(before).await {
                Ok((consumer, mut frames)) => {
                    let read = self.read_consumer(&mut frames, &mut place).await;
                    drop(frames);
                    self.forget(&consumer);
                    read?;
                }
                Err(error) => {
                    tracing::debug!(room = %self.room.id, %error, "opening a consumer");
                }
            }
            if place.after > before {
                pause = PAUSE_MIN;
            }
            self.pause(pause).await?;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Says once that everything was delivered that was there at the beginning.
    async fn catch_up(&self, place: &mut Place) -> Result<(), Over> {
        if place.waiting.is_some_and(|at| place.after >= at) {
            place.waiting = None;
            self.tell(Event::CaughtUp).await?;
        }
        Ok(())
    }

    async fn open_consumer(&self, after: u64) -> Result<(String, pull::Stream), String> {
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: after + 1,
            },
            ack_policy: AckPolicy::None,
            inactive_threshold: CONSUMER_LIFE,
            ..pull::Config::default()
        };
        let stream = room_stream(self.room.id.as_str());
        let context = &self.inner.jetstream;
        let consumer = context.create_consumer_on_stream(config, &stream).await;
        let consumer = consumer.map_err(|error| crate::control::chain(&error))?;
        let frames = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .heartbeat(HEARTBEAT)
            .expires(PULL_EXPIRES)
            .messages()
            .await
            .map_err(|error| crate::control::chain(&error))?;
        Ok((consumer.cached_info().name.clone(), frames))
    }

    /// Removes a consumer without waiting; what stays behind ends by itself.
    fn forget(&self, consumer: &str) {
        let (inner, consumer) = (Arc::clone(&self.inner), consumer.to_owned());
        let stream = room_stream(self.room.id.as_str());
        tokio::spawn(async move {
            let context = &inner.jetstream;
            drop(context.delete_consumer_from_stream(consumer, stream).await);
        });
    }

    /// Reads a consumer until it is lost.
    async fn read_consumer(
        &mut self,
        frames: &mut pull::Stream,
        place: &mut Place,
    ) -> Result<(), Over> {
        loop {
            tokio::select! {
                () = self.events.closed() => return Err(Over),
                change = self.changes.recv() => self.tell_change(change).await?,
                changed = self.connections.changed() => return changed.map_err(|_| Over),
                frame = frames.next() => {
                    let Some(Ok(frame)) = frame else { return Ok(()) };
                    let (seq, stored_ms) = stored(&frame).unwrap_or_default();
                    if seq > place.after {
                        let old = place.waiting.is_some();
                        let known = if old { place.began } else { Instant::now() };
                        let came = Came { seq: Some(seq), stored_ms, known };
                        self.deliver(&frame.payload, came).await?;
                        place.after = seq;
                        self.catch_up(place).await?;
                    }
                }
            }
        }
    }

    /// Reads a live subject. The library that speaks NATS subscribes again after a reconnection; where the
    /// server has withdrawn the subscription that is done here, for as long as this identity belongs to the
    /// room.
    async fn follow_subject(&mut self, subject: &RoomSubject, live: Live) -> Result<Over, Over> {
        self.tell(Event::CaughtUp).await?;
        let mut live = Ok(live);
        let mut pause = PAUSE_MIN;
        loop {
            match live {
                Ok(live) => {
                    if self.read_subject(live).await? {
                        pause = PAUSE_MIN;
                    }
                }
                Err(error) => {
                    tracing::debug!(room = %self.room.id, %error, "subscribing again");
                }
            }
            self.pause(pause).await?;
            pause = (pause * 2).min(PAUSE_MAX);
            live = self.inner.live(subject).await;
        }
    }

    /// Reads a live subject until the subscription is lost; answers whether anything came.
    async fn read_subject(&mut self, (mut frames, mut refused): Live) -> Result<bool, Over> {
        let mut came = false;
        loop {
            tokio::select! {
                () = self.events.closed() => return Err(Over),
                change = self.changes.recv() => self.tell_change(change).await?,
                () = refused.refused() => return Ok(came),
                message = frames.next() => {
                    let message = message.ok_or(Over)?;
                    came = true;
                    let came = Came { seq: None, stored_ms: None, known: Instant::now() };
                    self.deliver(&message.payload, came).await?;
                }
            }
        }
    }

    async fn deliver(&mut self, bytes: &[u8], came: Came) -> Result<(), Over> {
        let event = self.inner.read(&self.room, bytes, came).await;
        match event.message().map(crate::event::Message::id) {
            Some(id) if !self.seen.is_new(id) => Ok(()),
            _ => self.tell(event).await,
        }
    }

    async fn tell(&self, event: Event) -> Result<(), Over> {
        self.events.send(event).await.map_err(|_| Over)
    }

    async fn tell_change(
        &self,
        change: Result<Change, broadcast::error::RecvError>,
    ) -> Result<(), Over> {
        match change {
            Ok(Change::Membership(change)) => self.tell(Event::Membership(change)).await,
            Ok(Change::Gone(words)) => {
                self.tell(Event::Gone { words }).await?;
                Err(Over)
            }
            // What was missed shows when the room is next asked for.
            Err(broadcast::error::RecvError::Lagged(_)) => Ok(()),
            Err(broadcast::error::RecvError::Closed) => Err(Over),
        }
    }

    /// Waits before another attempt, at most until there is a new connection.
    async fn pause(&mut self, pause: Duration) -> Result<(), Over> {
        if pause >= PAUSE_MAX / 4 {
            // Where this identity is no member any more, its subscriptions hear of it from this look.
            drop(self.inner.look(&self.room).await);
        }
        let pausing = tokio::time::sleep(pause);
        tokio::pin!(pausing);
        loop {
            tokio::select! {
                () = &mut pausing => return Ok(()),
                () = self.events.closed() => return Err(Over),
                changed = self.connections.changed() => return changed.map_err(|_| Over),
                change = self.changes.recv() => self.tell_change(change).await?,
            }
        }
    }
}

/// How far a subscription has come.
struct Place {
    /// What is there already was said before this.
    began: Instant,
    /// The last place that was delivered.
    after: u64,
    /// The place from which on everything is new, until it is reached.
    waiting: Option<u64>,
}

/// The ids that were delivered last.
#[derive(Debug, Default)]
struct Seen {
    ids: HashSet<FrameId>,
    order: VecDeque<FrameId>,
}

impl Seen {
    fn is_new(&mut self, id: FrameId) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > IDS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_new_once_and_memory_is_bounded() {
        let mut seen = Seen::default();
        let id = |at: u64| FrameId::new(at, [0; 10]);
        assert!(seen.is_new(id(1)) && !seen.is_new(id(1)));
        for at in 2..10_000 {
            assert!(seen.is_new(id(at)));
        }
        assert_eq!((seen.ids.len(), seen.order.len()), (IDS_MAX, IDS_MAX));
    }
}
