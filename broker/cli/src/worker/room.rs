//! One room of a worker: what is said there, and the answers, each a task of its own that waits for
//! its turn.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use unibus_client::rooms::frame::FrameId;
use unibus_client::{
    Error, Event, HistoryQuery, Message, MyRoom, Sent, Session, Speech, Start, Subscription,
};
use unibus_proto::control::EndpointId;

use super::answer::{Answerer, wants_answer};
use crate::error::Result;
use crate::output;
use crate::room::{Fresh, accept, event_json, event_line, sent_json};

/// Pause before what failed is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// Messages that are looked through for those that were said while an invitation was accepted.
const LATELY: usize = 50;
/// Attempts at an answer, one a second: the owner may have to make a new key first.
const ATTEMPTS_MAX: usize = 30;
/// Answers of one room that are remembered, so that replies to them are answered.
const OWN_MAX: usize = 4096;

/// How a room's task begins.
pub(super) struct Begun {
    /// From before the subscription, and before an invitation was accepted.
    pub(super) fresh: Fresh,
    /// What was begun already.
    pub(super) events: Option<std::result::Result<Subscription, Error>>,
}

/// What every room's task needs.
pub(super) struct Desk {
    pub(super) session: Session,
    pub(super) answerer: Answerer,
    pub(super) turns: Arc<Semaphore>,
    pub(super) answered: mpsc::Sender<Answered>,
}

/// A message and its answer.
pub(super) struct Answered {
    message: Message,
    sent: Sent,
}

impl Answered {
    /// Prints them.
    ///
    /// # Errors
    /// Where the output can't be written.
    pub(super) fn print(self, json: bool) -> Result {
        let sent = sent_json(&self.message.header.room, &self.sent);
        let event = Event::Message(self.message);
        if json {
            let mut record: Value = event_json(&event);
            record["answer"] = sent;
            return output::json_line(&record);
        }
        let line = event_line(&event).unwrap_or_default();
        output::say(&format!("{line}\n  answered as {}", self.sent.id))
    }
}

impl Desk {
    /// Accepts an invitation; answers with where to begin, so that nothing is missed that was said since
    /// `began_ms`.
    pub(super) async fn join(
        &self,
        room: &MyRoom,
        owners: &[EndpointId],
        began_ms: u64,
    ) -> Option<Start> {
        match accept(&self.session, &room.id, owners).await {
            Ok(owner) => {
                output::tell(&format!(
                    "joined {} on {} of {owner}",
                    room.id, room.subject
                ));
            }
            Err(error) => {
                output::tell(&format!("unibus: {}: {error}", room.id));
                return None;
            }
        }
        if !room.policy.persisted {
            return Some(Start::Now);
        }
        let Ok(page) = self
            .session
            .history(&room.id, HistoryQuery::last(LATELY))
            .await
        else {
            return Some(Start::Now);
        };
        let mut lately = page.events.iter().filter(|event| {
            let message = event.message();
            message.is_some_and(|message| message.header.sent_ms >= began_ms)
        });
        let first = lately.find_map(Event::seq);
        Some(Start::After(first.map_or(page.next, |seq| seq - 1)))
    }

    /// Answers in a room until it ends for this identity; a subscription that fails is made anew after
    /// what was seen last.
    pub(super) async fn listen(self: &Arc<Self>, room: &MyRoom, mut from: Start, begun: Begun) {
        let Begun { mut fresh, events } = begun;
        let mut events = match events {
            Some(events) => events,
            None => self.session.subscribe(&room.id, from).await,
        };
        let mut own = Own::default();
        // Dropped with this future: answers under way end with the room.
        let mut answers = JoinSet::new();
        loop {
            match &mut events {
                Ok(events) => {
                    while let Some(event) = events.next().await {
                        while answers.try_join_next().is_some() {}
                        from = event.seq().map_or(from, Start::After);
                        match event {
                            Event::Message(message)
                                if self.is_for_us(room, &message, &mut own, &mut fresh) =>
                            {
                                self.take_on(room, message, &mut answers).await;
                            }
                            Event::Gone { .. } => return,
                            _ => {}
                        }
                    }
                }
                Err(error) if error.is_forbidden() => return,
                Err(error) => output::tell(&format!("unibus: {}: {error}", room.id)),
            }
            tokio::time::sleep(PAUSE).await;
            events = self.session.subscribe(&room.id, from).await;
        }
    }

    /// Whether a message is to be answered.
    fn is_for_us(
        &self,
        room: &MyRoom,
        message: &Message,
        own: &mut Own,
        fresh: &mut Fresh,
    ) -> bool {
        let me = self.session.identity().endpoint();
        if message.from() == me {
            // A room tells everything in one order: our answer comes before what replies to it.
            own.note(message.id());
            return false;
        }
        let is_own = |id| own.ids.contains(&id);
        if !wants_answer(&message.header, me, is_own) || !self.answerer.is_meant(&message.payload) {
            return false;
        }
        let taken = fresh.take(&message.header, message.stored_ms);
        if let Err(why) = &taken {
            output::tell(&format!("unibus: {}: not answered: {why}", room.id));
        }
        taken.is_ok()
    }

    async fn take_on(self: &Arc<Self>, room: &MyRoom, message: Message, answers: &mut JoinSet<()>) {
        // The semaphore is never closed. What waits here waits in the room's stream.
        let Ok(turn) = Arc::clone(&self.turns).acquire_owned().await else {
            return;
        };
        let (desk, room) = (Arc::clone(self), room.clone());
        answers.spawn(async move {
            let Some(text) = desk.answerer.answer(&room, &message).await else {
                return;
            };
            let mut speech = Speech::message(text).reply_to(message.id());
            if let Some(root) = message.thread() {
                speech = speech.in_thread(root);
            }
            match desk.say(&message, speech).await {
                Ok(sent) => drop(desk.answered.send(Answered { message, sent }).await),
                Err(error) => output::tell(&format!("unibus: {}: {error}", room.id)),
            }
            drop(turn);
        });
    }

    /// Says it, once there is a key for it.
    async fn say(&self, message: &Message, speech: Speech) -> std::result::Result<Sent, Error> {
        let room = &message.header.room;
        for _ in 1..ATTEMPTS_MAX {
            match self.session.publish(room, speech.clone()).await {
                Err(Error::NeedsRekey(_)) => tokio::time::sleep(PAUSE).await,
                said => return said,
            }
        }
        self.session.publish(room, speech).await
    }
}

/// The last answers of one room.
#[derive(Default)]
struct Own {
    ids: HashSet<FrameId>,
    order: VecDeque<FrameId>,
}

impl Own {
    fn note(&mut self, id: FrameId) {
        self.ids.insert(id);
        self.order.push_back(id);
        if self.order.len() > OWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use unibus_client::rooms::frame::FrameId;

    use super::{OWN_MAX, Own};

    #[test]
    fn the_latest_answers_are_remembered_and_no_more() {
        let mut own = Own::default();
        let id = |at| FrameId::new(at, [0; 10]);
        for at in 0..OWN_MAX as u64 + 10 {
            own.note(id(at));
        }
        assert_eq!((own.ids.len(), own.order.len()), (OWN_MAX, OWN_MAX));
        assert!(!own.ids.contains(&id(9)) && own.ids.contains(&id(10)));
    }
}
