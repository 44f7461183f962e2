//! One room of a worker: what is said there, and the answers, each a task of its own that waits for
//! its turn.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use unibus_client::rooms::frame::FrameId;
use unibus_client::{Error, Event, Message, MyRoom, Sent, Session, Speech, Start, Subscription};

use super::answer::{Answerer, wants_answer};
use crate::error::Result;
use crate::output;
use crate::room::{event_json, event_line, sent_json};

/// Pause before what failed is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// Attempts at an answer, one a second: the owner may have to make a new key first.
const ATTEMPTS_MAX: usize = 30;
/// Answers of one room that are remembered, so that replies to them are answered.
const OWN_MAX: usize = 4096;

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
    /// Answers in a room until it ends for this identity; a subscription that fails is made anew after
    /// what was seen last.
    pub(super) async fn listen(
        self: &Arc<Self>,
        room: &MyRoom,
        mut events: std::result::Result<Subscription, Error>,
        mut from: Start,
    ) {
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
                            Event::Message(message) => {
                                self.consider(room, message, &mut own, &mut answers).await;
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

    async fn consider(
        self: &Arc<Self>,
        room: &MyRoom,
        message: Message,
        own: &mut Own,
        answers: &mut JoinSet<()>,
    ) {
        let me = self.session.identity().endpoint();
        if message.from() == me {
            // A room tells everything in one order: our answer comes before what replies to it.
            return own.note(message.id());
        }
        let is_own = |id| own.ids.contains(&id);
        if !wants_answer(&message.header, me, is_own) || !self.answerer.is_meant(&message.payload) {
            return;
        }
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
