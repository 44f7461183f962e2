//! What was said before: pages of a room's stream, in either direction, and what they say about
//! threads.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use bytes::Bytes;
use futures::StreamExt;
use unibus_proto::control::{RoomId, room_stream};

use super::read::{Came, stored};
use super::rooms::Room;
use super::{Inner, Session};
use crate::error::Error;
use crate::event::Event;
use crate::rooms::frame::FrameId;

/// Frames of one page at most.
const PAGE_MAX: usize = 1000;
/// What is being done, in the words of an error.
const DOING: &str = "reading the room's history";
/// How long a page waits for its frames.
const FETCH_EXPIRES: Duration = Duration::from_secs(4);
/// How long the server keeps the consumer of a page that was not removed.
const CONSUMER_LIFE: Duration = Duration::from_secs(10);

/// Which part of a room's history is wanted.
///
/// ```
/// use unibus_client::HistoryQuery;
/// let last_fifty = HistoryQuery::last(50);
/// let what_i_missed = HistoryQuery::after(1234, 200);
/// let older = HistoryQuery::before(1185, 50);
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HistoryQuery {
    after: Option<u64>,
    before: Option<u64>,
    limit: usize,
}

impl HistoryQuery {
    /// The last `limit` frames (at most 1000). Example: [`HistoryQuery`].
    #[must_use]
    pub fn last(limit: usize) -> Self {
        Self {
            after: None,
            before: None,
            limit: limit.clamp(1, PAGE_MAX),
        }
    }

    /// The first `limit` frames after a place: what somebody missed who has seen that one. 0 = from
    /// the beginning. Example: [`HistoryQuery`].
    #[must_use]
    pub fn after(seq: u64, limit: usize) -> Self {
        Self {
            after: Some(seq),
            ..Self::last(limit)
        }
    }

    /// The last `limit` frames before a place. Example: [`HistoryQuery`].
    #[must_use]
    pub fn before(seq: u64, limit: usize) -> Self {
        Self {
            before: Some(seq),
            ..Self::last(limit)
        }
    }

    /// First and last place of the page in a stream that holds `first..=last`; `None` = nothing.
    fn span(self, first: u64, last: u64) -> Option<(u64, u64)> {
        let limit = self.limit as u64;
        let (from, to) = match (self.after, self.before) {
            (Some(after), _) => {
                let from = after.saturating_add(1).max(first);
                (from, last.min(from.saturating_add(limit - 1)))
            }
            (None, before) => {
                let to = last.min(before.map_or(last, |before| before.saturating_sub(1)));
                (first.max((to + 1).saturating_sub(limit)), to)
            }
        };
        (from <= to && last > 0).then_some((from, to))
    }
}

/// A page of history. Example: [`Session::history`].
#[derive(Clone, Debug)]
pub struct HistoryPage {
    /// What happened, oldest first. Frames that can't be read are in it, with the reason.
    pub events: Vec<Event>,
    /// Where to go on: the place of the page's last frame, for [`HistoryQuery::after`] and
    /// [`Start::After`](crate::Start::After).
    pub next: u64,
    /// Where the page before this one ends, for [`HistoryQuery::before`]; `None` = there is nothing
    /// before.
    pub previous: Option<u64>,
}

/// A thread, as a page of history shows it. Example: [`Session::threads`].
#[derive(Clone, Debug)]
pub struct ThreadSummary {
    /// The frame that it began with.
    pub root: FrameId,
    /// That frame, if it is on the page.
    pub first: Option<Event>,
    /// How many frames belong to it.
    pub replies: usize,
    /// The last of them.
    pub last: Event,
}

impl Session {
    /// A page of what was said in a room before.
    ///
    /// ```no_run
    /// use unibus_client::{HistoryPage, HistoryQuery, Start};
    /// # async fn run(session: unibus_client::Session, room: unibus_proto::control::RoomId) -> Result<(), unibus_client::Error> {
    /// let HistoryPage { events, next, previous } = session.history(&room, HistoryQuery::last(50)).await?;
    /// for message in events.iter().filter_map(|event| event.message()) {
    ///     println!("{}: {}", message.from(), message.text());
    /// }
    /// // The page before it, if there is one.
    /// if let Some(previous) = previous {
    ///     let older = session.history(&room, HistoryQuery::before(previous, 50)).await?;
    /// }
    /// // Nothing is lost between the page and what comes next.
    /// let live = session.subscribe(&room, Start::After(next)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Options`] for a room that keeps no history, and as every call.
    pub async fn history(&self, room: &RoomId, query: HistoryQuery) -> Result<HistoryPage, Error> {
        let inner = &self.inner;
        let room = inner.room(room).await?;
        if !room.policy()?.0.persisted {
            let id = &room.id;
            return Err(Error::Options(format!("the room {id} keeps no history")));
        }
        let (first, last) = inner.stream_bounds(&room).await?;
        let Some((from, to)) = query.span(first, last) else {
            return Ok(HistoryPage {
                events: Vec::new(),
                next: query.after.unwrap_or(last),
                previous: None,
            });
        };
        let events = inner.pages(&room, from, to).await?;
        Ok(HistoryPage {
            events,
            next: to,
            previous: (from > first).then_some(from),
        })
    }

    /// The threads of the last `limit` frames of a room, the one with the latest frame first.
    ///
    /// ```no_run
    /// use unibus_client::ThreadSummary;
    /// # async fn run(session: unibus_client::Session, room: unibus_proto::control::RoomId) -> Result<(), unibus_client::Error> {
    /// for ThreadSummary { root, replies, last, .. } in session.threads(&room, 200).await? {
    ///     println!("{root}: {replies} replies, the last one at {:?}", last.seq());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Session::history`].
    pub async fn threads(&self, room: &RoomId, limit: usize) -> Result<Vec<ThreadSummary>, Error> {
        let page = self.history(room, HistoryQuery::last(limit)).await?;
        Ok(threads(&page.events))
    }
}

/// The threads among events that are in order.
fn threads(events: &[Event]) -> Vec<ThreadSummary> {
    let mut by_id: HashMap<FrameId, &Event> = HashMap::new();
    let mut found: HashMap<FrameId, ThreadSummary> = HashMap::new();
    let mut order = Vec::new();
    for event in events {
        let Some(message) = event.message() else {
            continue;
        };
        by_id.insert(message.id(), event);
        let Some(root) = message.thread() else {
            continue;
        };
        order.retain(|other| *other != root);
        order.push(root);
        let thread = found.entry(root).or_insert_with(|| ThreadSummary {
            root,
            first: by_id.get(&root).map(|first| (*first).clone()),
            replies: 0,
            last: event.clone(),
        });
        thread.replies += 1;
        thread.last = event.clone();
    }
    let latest_first = order.into_iter().rev();
    latest_first
        .filter_map(|root| found.remove(&root))
        .collect()
}

impl Inner {
    /// First and last place of a room's stream.
    pub(super) async fn stream_bounds(&self, room: &Room) -> Result<(u64, u64), Error> {
        let stream = room_stream(room.id.as_str());
        let stream = self.jetstream.get_stream(stream).await;
        let stream =
            stream.map_err(|error| Error::messages("looking at the room's stream", error))?;
        let state = &stream.cached_info().state;
        Ok((state.first_sequence.max(1), state.last_sequence))
    }

    /// The frames of `from..=to` that are there. A slow line may need several pages for them.
    async fn pages(&self, room: &Room, from: u64, to: u64) -> Result<Vec<Event>, Error> {
        let known = Instant::now();
        let mut events = Vec::new();
        let mut next = from;
        loop {
            let page = self.page(room, next, to).await?;
            for (seq, stored_ms, payload) in &page.frames {
                let came = Came {
                    seq: Some(*seq),
                    stored_ms: *stored_ms,
                    known,
                };
                events.push(self.read(room, payload, came).await);
            }
            match page.frames.last() {
                _ if page.whole => return Ok(events),
                Some((last, ..)) => next = last + 1,
                None => {
                    let cause = format!("nothing came of places {next} to {to} in time");
                    return Err(Error::messages(DOING, cause));
                }
            }
        }
    }

    /// As much of `from..=to` as comes before the time is up.
    async fn page(&self, room: &Room, from: u64, to: u64) -> Result<Page, Error> {
        let stream = room_stream(room.id.as_str());
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: from,
            },
            ack_policy: AckPolicy::None,
            inactive_threshold: CONSUMER_LIFE,
            ..pull::Config::default()
        };
        let context = &self.jetstream;
        let consumer = context.create_consumer_on_stream(config, &stream).await;
        let consumer = consumer.map_err(|error| Error::messages(DOING, error))?;
        let page = fetch(&consumer, from, to).await;
        let name = &consumer.cached_info().name;
        // What stays behind ends by itself.
        drop(context.delete_consumer_from_stream(name, &stream).await);
        page
    }
}

/// What one fetch brought.
struct Page {
    /// Places, times of storing and frames, in order.
    frames: Vec<(u64, Option<u64>, Bytes)>,
    /// Nothing more of it is there.
    whole: bool,
}

async fn fetch(consumer: &PullConsumer, from: u64, to: u64) -> Result<Page, Error> {
    let wanted = usize::try_from(to - from + 1).unwrap_or(PAGE_MAX);
    let mut page = Page {
        frames: Vec::new(),
        whole: consumer.cached_info().num_pending == 0,
    };
    let fetching = consumer.fetch().max_messages(wanted).expires(FETCH_EXPIRES);
    let mut fetching = fetching
        .messages()
        .await
        .map_err(|error| Error::messages(DOING, error))?;
    // An end says nothing: it comes when the time is up, too.
    while !page.whole
        && let Some(frame) = fetching.next().await
    {
        let frame = frame.map_err(|error| Error::messages(DOING, error))?;
        let (seq, pending) = {
            let info = frame.info();
            let info = info.map_err(|error| Error::messages(DOING, error))?;
            (info.stream_sequence, info.pending)
        };
        page.whole = seq >= to || pending == 0;
        if seq <= to {
            let stored_ms = stored(&frame).and_then(|(_, at)| at);
            page.frames.push((seq, stored_ms, frame.message.payload));
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_the_part_of_the_stream_that_was_asked_for() {
        for (query, first, last, wanted) in [
            (HistoryQuery::last(3), 1, 10, Some((8, 10))),
            (HistoryQuery::last(30), 1, 10, Some((1, 10))),
            (HistoryQuery::last(30), 5, 10, Some((5, 10))),
            (HistoryQuery::last(3), 1, 0, None),
            (HistoryQuery::after(4, 3), 1, 10, Some((5, 7))),
            (HistoryQuery::after(9, 3), 1, 10, Some((10, 10))),
            (HistoryQuery::after(10, 3), 1, 10, None),
            (HistoryQuery::after(0, 2), 4, 10, Some((4, 5))),
            (HistoryQuery::after(u64::MAX, 2), 4, 10, None),
            (HistoryQuery::before(5, 3), 1, 10, Some((2, 4))),
            (HistoryQuery::before(1, 3), 1, 10, None),
            (HistoryQuery::before(0, 3), 1, 10, None),
            (HistoryQuery::before(100, 3), 1, 10, Some((8, 10))),
        ] {
            assert_eq!(
                query.span(first, last),
                wanted,
                "{query:?} {first}..={last}"
            );
        }
    }
}
