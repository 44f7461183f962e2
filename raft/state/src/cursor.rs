//! Serving one consumer on the leader: which message goes to whom, what acknowledgements mean, what is
//! due again, and what of it the replicated row has to learn. Pure: the host polls with the time, does
//! what it is told in that order, and reports what happens through the `handle_…` functions.
//!
//! The cursor runs ahead of the row by the updates that are under way ([`ConsumerCursor::take_changes`]).
//! A new leader makes a new cursor from the row: what the row does not know was not delivered.

mod acks;
mod backlog;
mod changes;
mod deliver;
mod flow;
mod groups;
mod pace;
mod redelivery;
mod settings;
mod waiting;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use unibus_proto::jetstream::config::Retention;
use unibus_proto::jetstream::consumer::ReplayPolicy;
use unibus_proto::jetstream::pull::PullRequest;

use self::backlog::{Backlog, Followed};
use self::changes::Changes;
use self::deliver::Attempt;
use self::flow::Flow;
use self::pace::Pace;
use self::redelivery::Redelivery;
use self::settings::{Policy, Settings};
use self::waiting::{Request, Waiting};
use crate::consumer::Consumer;
use crate::consumer_update::Pin;
use crate::delivery::{Advisory, CursorInfo, DeadLetter, Poll, Status};
use crate::ledger::{Ledger, Position};
use crate::stream::Stream;

/// Between two reminders that nobody uses a consumer, nanoseconds.
const ABANDONED_AGAIN_NS: u64 = 5_000_000_000;
/// A dead letter that could not be stored is tried again after this, nanoseconds; twice as long after
/// each further failure.
const DEAD_LETTER_RETRY_NS: u64 = 1_000_000_000;
/// A message that could not be read is delivered after this, nanoseconds.
const UNREAD_RETRY_NS: u64 = 1_000_000_000;
/// The pause is doubled so often at most: 64 s.
const DEAD_LETTER_DOUBLINGS_MAX: u32 = 6;

/// A message that was handed out as a dead letter.
#[derive(Copy, Clone, Debug, Default)]
struct Letter {
    /// When it is handed out again: it could not be stored.
    retry_ns: Option<u64>,
    /// How often that was so.
    failures: u32,
}

/// One consumer at the leader.
#[derive(Clone, Debug)]
pub struct ConsumerCursor {
    stream: Arc<str>,
    consumer: Arc<str>,
    created_ns: u64,
    settings: Settings,
    ledger: Ledger,
    backlog: Backlog,
    redelivery: Redelivery,
    waiting: Waiting,
    pace: Pace,
    flow: Option<Flow>,
    pin: Option<Pin>,
    /// The pin's client was last heard of then.
    pin_used_ns: u64,
    changes: Changes,
    /// Statuses to send before anything else.
    statuses: VecDeque<(Bytes, Status)>,
    /// Announcements to make before anything else.
    advisories: VecDeque<Advisory>,
    /// Messages that ran out of deliveries and wait to be told.
    letters_out: VecDeque<DeadLetter>,
    /// Messages handed out as dead letters.
    letters: BTreeMap<u64, Letter>,
    /// Nothing is delivered before: a message could not be read.
    held_until_ns: u64,
    /// Somebody listens on the deliver subject.
    listening: bool,
    /// Silence counts from here.
    active_ns: u64,
    /// Disuse counts from here.
    used_ns: u64,
    /// Disuse was last reported then.
    abandoned_ns: u64,
    last_delivery_ns: Option<u64>,
    last_ack_ns: Option<u64>,
    /// The latest time seen.
    now_ns: u64,
}

impl ConsumerCursor {
    /// A cursor where the row says that the consumer is. `now_ns` (Unix nanoseconds) never goes back
    /// from here on.
    #[must_use]
    pub fn new(stream: &Stream, consumer: &Consumer, now_ns: u64) -> Self {
        let config = consumer.config();
        let settings = Settings::of(config);
        let ledger = consumer.ledger().clone();
        let replay_to =
            (config.replay_policy == ReplayPolicy::Original).then(|| consumer.resume_seq());
        let mut cursor = Self {
            stream: stream.name().clone(),
            consumer: consumer.name().clone(),
            created_ns: consumer.created_ns(),
            backlog: backlog_of(stream, consumer),
            redelivery: Redelivery::new(Settings::patience(config), &ledger),
            waiting: Waiting::default(),
            pace: Pace::new(replay_to, settings.rate_bps),
            flow: settings.flow_control.then(Flow::new),
            pin: consumer.pin().cloned(),
            pin_used_ns: now_ns,
            changes: Changes::new(consumer, keeps_messages(stream), now_ns),
            statuses: VecDeque::new(),
            advisories: VecDeque::new(),
            letters_out: VecDeque::new(),
            letters: BTreeMap::new(),
            held_until_ns: 0,
            listening: true,
            active_ns: now_ns,
            used_ns: now_ns,
            abandoned_ns: 0,
            last_delivery_ns: None,
            last_ack_ns: None,
            now_ns,
            settings,
            ledger,
        };
        cursor.lose_removed(stream);
        cursor
    }

    /// Takes over a changed configuration; the position and what waits stay.
    pub fn handle_update(&mut self, stream: &Stream, consumer: &Consumer) {
        let config = consumer.config();
        self.settings = Settings::of(config);
        self.pace.set_rate(self.settings.rate_bps);
        self.backlog
            .set_filters(stream, consumer.filters().to_vec());
        self.redelivery
            .set_patience(Settings::patience(config), &self.ledger);
        if self.settings.flow_control != self.flow.is_some() {
            self.flow = self.settings.flow_control.then(Flow::new);
        }
        if self.settings.policy != Policy::Pinned {
            self.set_pin(None);
        }
    }

    /// The row says something else than this cursor (an update was refused, or the consumer was reset):
    /// goes back to the row. Pull requests keep waiting; changes that were not applied are forgotten, so
    /// nothing that depended on them may be answered.
    pub fn handle_refused(&mut self, stream: &Stream, consumer: &Consumer, now_ns: u64) {
        let fresh = Self::new(stream, consumer, now_ns.max(self.now_ns));
        let before = std::mem::replace(self, fresh);
        self.waiting = before.waiting;
        self.flow = if self.settings.acks_by_flow() {
            before.flow.as_ref().map(Flow::renewed)
        } else {
            before.flow
        };
        self.pace = before.pace;
        self.listening = before.listening;
        self.active_ns = before.active_ns;
        self.statuses = before.statuses;
        self.advisories = before.advisories;
    }

    /// A pull request arrived. A status is the answer to a refused one; otherwise it waits until `poll`
    /// has served it.
    pub fn handle_pull(
        &mut self,
        stream: &Stream,
        asked: &PullRequest,
        reply: Bytes,
        now_ns: u64,
    ) -> Option<Status> {
        self.note_time(now_ns);
        self.used_ns = self.now_ns;
        if let Some(refused) = self.settings.refuse(asked) {
            return Some(refused);
        }
        if let Some(refused) = self.refuse_pin(&asked.id) {
            return Some(refused);
        }
        self.expire_pulls();
        if self.settings.is_full(self.waiting.len()) {
            // Clients that expect heartbeats notice their absence; they do not expect this status.
            return (asked.idle_heartbeat <= 0).then_some(Status::MAX_WAITING);
        }
        if asked.no_wait {
            self.follow(stream);
            let there = self.backlog.count() + self.redelivery.ready_count();
            if there == 0 && asked.expires <= 0 {
                return Some(Status::NO_MESSAGES);
            }
            if there > 0 && there < self.waiting.wanted() {
                return Some(Status::REQUESTS_PENDING);
            }
        }
        let mut request = Request::new(asked, reply, self.now_ns);
        if self.settings.policy != Policy::Prioritized {
            request.level();
        }
        self.waiting.push(request);
        None
    }

    /// Nobody listens on the reply subject of pull requests any more: they are over, without a word.
    pub fn handle_interest_lost(&mut self, reply: &[u8]) -> bool {
        self.waiting.forget(reply)
    }

    /// Whether somebody listens on the deliver subject of a push consumer; assumed until said otherwise.
    pub fn handle_listening(&mut self, listening: bool, now_ns: u64) {
        self.note_time(now_ns);
        if self.listening != listening {
            self.listening = listening;
            self.used_ns = self.now_ns;
        }
    }

    /// Grants what the client never confirmed, for instance once its connection has drained.
    pub fn handle_flow_timeout(&mut self) {
        if let Some(flow) = &mut self.flow {
            flow.confirm();
        }
    }

    /// Whether deliveries wait for a flow control answer.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.flow.as_ref().is_some_and(Flow::is_stalled)
    }

    /// Deliveries and what of them is unsettled, as this cursor knows it.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Reply subjects of the waiting pull requests, one for each.
    pub fn replies(&self) -> impl Iterator<Item = &Bytes> {
        self.waiting.replies()
    }

    /// Ends all waiting pull requests: to each its reply subject and the status.
    pub fn close(&mut self, status: &Status) -> Vec<(Bytes, Status)> {
        let mut ended: Vec<_> = self.statuses.drain(..).collect();
        ended.extend(self.waiting.close(status));
        ended
    }

    /// Matching messages not delivered yet.
    pub fn num_pending(&mut self, stream: &Stream) -> u64 {
        self.follow(stream);
        self.backlog.count()
    }

    /// Numbers for clients.
    pub fn info(&mut self, stream: &Stream) -> CursorInfo {
        self.follow(stream);
        let pin = self.pin.as_ref();
        CursorInfo {
            delivered: self.ledger.delivered(),
            last_delivery_ns: self.last_delivery_ns,
            ack_floor: self.ledger.ack_floor(),
            last_ack_ns: self.last_ack_ns,
            num_ack_pending: self.ledger.pending().len() as u64,
            num_redelivered: self.ledger.redelivered(),
            num_waiting: self.waiting.len() as u64,
            num_pending: self.backlog.count(),
            pinned: pin.map(|pin| (pin.group.clone(), pin.id.clone(), pin.since_ns)),
        }
    }

    /// The next thing to do.
    pub fn poll(&mut self, stream: &Stream, now_ns: u64) -> Poll {
        self.note_time(now_ns);
        self.follow(stream);
        self.expire_acks(stream);
        self.expire_pulls();
        self.expire_pin();
        if let Some(told) = self.next_told() {
            return told;
        }
        let attempt = self.try_deliver(stream);
        if let Attempt::Deliver(delivery) = attempt {
            return Poll::Deliver(delivery);
        }
        if matches!(attempt, Attempt::Empty | Attempt::Paused(_)) {
            self.waiting.end_one_shots(&mut self.statuses);
        }
        if let Some(told) = self.next_told() {
            return told;
        }
        if let Some(beat) = self.heartbeat() {
            return beat;
        }
        if self.is_abandoned() {
            return Poll::Abandoned;
        }
        Poll::Idle {
            deadline_ns: self.deadline(&attempt),
        }
    }

    fn note_time(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
    }

    /// Keeps up with what was stored and removed.
    fn follow(&mut self, stream: &Stream) {
        self.changes.keeps_messages = keeps_messages(stream);
        let mut lost = Vec::new();
        let pending = self.ledger.pending();
        let followed = self.backlog.follow(stream, |seq| {
            if pending.contains_key(&seq) {
                lost.push(seq);
            }
        });
        for seq in lost {
            self.lose(seq);
            self.ledger.settle_floor();
        }
        if followed == Followed::NotAll {
            self.lose_removed(stream);
        }
    }

    /// Stops waiting for every message that is gone.
    fn lose_removed(&mut self, stream: &Stream) {
        let pending = self.ledger.pending().keys().copied();
        let lost: Vec<u64> = pending.filter(|seq| stream.get(*seq).is_none()).collect();
        for seq in lost {
            self.lose(seq);
            self.ledger.settle_floor();
        }
    }

    fn expire_pulls(&mut self) {
        let before = self.waiting.len();
        let last = self.ledger.delivered();
        self.waiting.expire(self.now_ns, last, &mut self.statuses);
        if self.waiting.len() < before {
            self.used_ns = self.now_ns;
        }
    }

    /// What was decided and not told yet.
    fn next_told(&mut self) -> Option<Poll> {
        if let Some((to, status)) = self.statuses.pop_front() {
            return Some(Poll::Status { to, status });
        }
        if let Some(letter) = self.letters_out.pop_front() {
            return Some(Poll::DeadLetter(letter));
        }
        if let Some(advisory) = self.advisories.pop_front() {
            return Some(Poll::Advisory(advisory));
        }
        let reply = self.flow.as_mut().and_then(Flow::announce)?;
        Some(Poll::FlowControl { reply })
    }

    fn heartbeat(&mut self) -> Option<Poll> {
        let interval = self.settings.heartbeat_ns?;
        if !self.listening || self.now_ns < self.active_ns.saturating_add(interval) {
            return None;
        }
        self.active_ns = self.now_ns;
        let asked_for_acks = self.settings.acks_by_flow();
        let flow = self.flow.as_ref();
        let flow = flow.filter(|flow| asked_for_acks || flow.is_stalled());
        let stalled = flow.and_then(Flow::asked).map(str::to_owned);
        self.ask_for_acks(1);
        let last = self.ledger.delivered();
        Some(Poll::Heartbeat {
            last_consumer: last.consumer_seq,
            last_stream: last.stream_seq,
            stalled,
        })
    }

    /// Where flow control acknowledges, asks for it once so many messages wait.
    fn ask_for_acks(&mut self, pending: usize) {
        if let Some(flow) = &mut self.flow
            && self.settings.acks_by_flow()
            && self.ledger.pending().len() >= pending
        {
            flow.ask(&self.stream, &self.consumer);
        }
    }

    /// When disuse has lasted long enough.
    fn abandoned_at(&self) -> Option<u64> {
        let threshold = self.settings.inactive_ns?;
        let used = if self.settings.push.is_some() {
            self.listening
        } else {
            !self.waiting.is_empty()
        };
        let again = self.abandoned_ns.saturating_add(ABANDONED_AGAIN_NS);
        (!used).then(|| self.used_ns.saturating_add(threshold).max(again))
    }

    fn is_abandoned(&mut self) -> bool {
        let abandoned = self.abandoned_at().is_some_and(|at| at <= self.now_ns);
        if abandoned {
            self.abandoned_ns = self.now_ns;
        }
        abandoned
    }

    fn deadline(&self, attempt: &Attempt) -> Option<u64> {
        let later = match attempt {
            Attempt::Later(at_ns) | Attempt::Paused(at_ns) => Some(*at_ns),
            _ => None,
        };
        let beat = self.settings.heartbeat_ns.filter(|_| self.listening);
        let beat = beat.map(|interval| self.active_ns.saturating_add(interval));
        let times = [
            later,
            beat,
            self.redelivery.next_ns(),
            self.waiting.next_ns(),
            self.pin_ends_ns(),
            self.abandoned_at(),
        ];
        times.into_iter().flatten().min()
    }
}

/// Settled messages of other streams have to be reported one by one: they are removed.
fn keeps_messages(stream: &Stream) -> bool {
    stream.config().retention == Retention::Limits
}

fn backlog_of(stream: &Stream, consumer: &Consumer) -> Backlog {
    backlog_after(stream, consumer, consumer.ledger().delivered())
}

/// What is to be delivered after `delivered`.
fn backlog_after(stream: &Stream, consumer: &Consumer, delivered: Position) -> Backlog {
    let delivered = delivered.stream_seq;
    let next = consumer.start_seq().max(delivered.saturating_add(1));
    let firsts_to = consumer
        .is_last_per_subject()
        .then(|| consumer.resume_seq());
    Backlog::new(stream, consumer.filters().to_vec(), next, firsts_to)
}
