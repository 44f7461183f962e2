//! Proposals: one task that joins what waits into entries, keeps a bounded number of them on their
//! way, and hands each proposer its outcomes. On the leader an entry goes into the log, elsewhere to
//! the leader. It never guesses: what is not known to be unapplied is reported as "may have been".

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use openraft::errors::ClientWriteError;
use openraft::impls::OneshotResponder;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use unibus_proto::NodeId;
use unibus_state::{EncodedBatch, Outcome, decode_entry, encode_entry};

use crate::errors::ProposeError;
use crate::machine::Shared;
use crate::options::ReplicaOptions;
use crate::pause::Keeper;
use crate::queue::{Answer, Item, Queue, send};
use crate::replica::{GROUP, RaftCore};
use crate::rpc::{ProposeAnswer, decode_propose_answer, encode_propose};
use crate::status::{Contact, Leadership};
use crate::transport::{RpcClass, Transport, TransportError};
use crate::types::Batch;

/// Pause before entries that were refused (no leader, or one that is not ready) are sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How often waiting proposals are checked for their deadlines.
const TICK: Duration = Duration::from_millis(25);
/// A proposal that finds no leader waits at least this long, however long there has been none: one
/// may be elected and not known here yet.
const NO_LEADER_GRACE: Duration = Duration::from_millis(200);
/// Entries that are with a leader of the past get this long once there is another, or once it fell
/// silent, then they count as unknown: a leader that was cut off would hold up everything behind them.
const OUTDATED_GRACE: Duration = Duration::from_millis(500);
/// An entry gets at least this long, however long its proposals waited before.
const FLIGHT_MIN: Duration = Duration::from_secs(1);

/// What became of a batch: one outcome per command, in order.
#[derive(Debug)]
pub struct Proposed {
    /// Index of the entry that carried the batch. Wait for it ([`crate::Replica::wait_applied`])
    /// before reading the effect from local state on a node that does not lead.
    pub index: u64,
    /// One outcome for each command of the batch.
    pub outcomes: Vec<Outcome>,
}

/// A batch that is on its way. Dropping it does not take the batch back.
#[derive(Debug)]
pub struct Proposal {
    answer: oneshot::Receiver<Answer>,
}

impl Proposal {
    pub(crate) fn new(answer: oneshot::Receiver<Answer>) -> Self {
        Self { answer }
    }
}

impl Future for Proposal {
    type Output = Result<Proposed, ProposeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer)
            .poll(cx)
            .map(|answer| answer.unwrap_or(Err(ProposeError::Stopped)))
    }
}

/// What the proposer task works with.
pub(crate) struct Proposer {
    pub(crate) id: NodeId,
    pub(crate) queue: Arc<Queue>,
    pub(crate) raft: RaftCore,
    pub(crate) shared: Arc<Shared>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) contact: Arc<Contact>,
    /// Nothing goes into the local log while another node is about to lead.
    pub(crate) pause: Keeper,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) options: ReplicaOptions,
}

/// Entries on their way, and what to do with those that came back.
struct Flight {
    entries: FuturesUnordered<BoxFuture<'static, Landed>>,
    next: u64,
    /// Entries that were surely not applied, by order of sending. They are sent again when nothing
    /// is on its way any more, so that no later batch overtakes them.
    refused: BTreeMap<u64, Vec<Item>>,
    /// Where the entries on their way went, and in which term. Nothing goes elsewhere before they
    /// have landed: it could overtake them.
    target: Option<(Route, u64)>,
    /// Since when that target is outdated and something waits for it.
    outdated_since: Option<Instant>,
    /// Changes when what is on its way to peers is given up.
    give_up: watch::Sender<()>,
    /// An entry was refused, and none was applied since: whoever refused it may take the next one,
    /// so that only one goes at a time.
    is_wary: bool,
    not_before: Instant,
    last_expired: Instant,
    no_leader_since: Option<Instant>,
    last_stamp_ns: u64,
}

struct Landed {
    number: u64,
    items: Vec<Item>,
    answer: ProposeAnswer,
}

#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Route {
    Local,
    Peer(NodeId),
}

impl Flight {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            entries: FuturesUnordered::new(),
            next: 0,
            refused: BTreeMap::new(),
            target: None,
            outdated_since: None,
            give_up: watch::channel(()).0,
            is_wary: false,
            not_before: now,
            last_expired: now,
            no_leader_since: Some(now),
            last_stamp_ns: 0,
        }
    }

    fn has_room(&self, entries_max: usize) -> bool {
        let entries_max = if self.is_wary { 1 } else { entries_max };
        self.refused.is_empty()
            && self.entries.len() < entries_max
            && Instant::now() >= self.not_before
    }

    /// Whether an entry may go to `target` now; from then on it is the target.
    fn aim(&mut self, target: (Route, u64), contact: &Contact) -> bool {
        if self.is_outdated(target, contact) {
            return false;
        }
        self.target = Some(target);
        true
    }

    /// Whether what is on its way went elsewhere. Gives it up once it has had its time, whether or not
    /// there is room for more: what is with a leader that died fills every place.
    fn is_outdated(&mut self, target: (Route, u64), contact: &Contact) -> bool {
        if self.entries.is_empty() || self.target == Some(target) {
            self.outdated_since = None;
            return false;
        }
        let since = *self.outdated_since.get_or_insert_with(Instant::now);
        // One that handed over answers soon; one that was silent for so long that another was elected
        // has had its time.
        let silent = match self.target {
            Some((Route::Peer(old), _)) => contact.age_of(old),
            Some((Route::Local, _)) | None => None,
        };
        if since.elapsed().max(silent.unwrap_or_default()) >= OUTDATED_GRACE {
            self.give_up.send_replace(());
        }
        true
    }

    /// Looks at who leads, each time something has happened: what is with another may have to be given up,
    /// and the pause after a refusal ends when there is somebody else to go to.
    fn heed(&mut self, target: Option<(Route, u64)>, contact: &Contact) {
        let Some(target) = target else {
            return;
        };
        self.is_outdated(target, contact);
        if self.target != Some(target) {
            self.not_before = Instant::now();
        }
    }
}

impl Proposer {
    /// Runs until the replica stops; then everything that waits is answered with `Stopped`.
    pub(crate) async fn run(mut self) {
        let mut flight = Flight::new();
        let in_flight_max = self.options.entries_in_flight_max;
        while !*self.stop.borrow() {
            flight.heed(self.route(), &self.contact);
            while flight.has_room(in_flight_max) && self.send_next(&mut flight).await {}
            if flight.entries.is_empty() {
                self.pause.keep();
            }
            let may_send = flight.has_room(in_flight_max);
            // Whoever proposes may wait for what is on its way before it proposes more: an empty queue
            // does not mean that there is nothing to give up.
            let outdated = flight.outdated_since.is_some();
            let waiting = !may_send || outdated || !self.queue.is_empty();
            tokio::select! {
                biased;
                _ = self.stop.changed() => {}
                Some(landed) = flight.entries.next(), if !flight.entries.is_empty() => {
                    land(&mut flight, landed, &self.queue);
                }
                () = self.queue.wake.notified(), if may_send => {}
                changed = self.leadership.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                goes_on = self.pause.changed() => {
                    if !goes_on {
                        break;
                    }
                }
                () = tokio::time::sleep(TICK), if waiting => {}
            }
            self.expire(&mut flight);
        }
        self.queue.close();
    }

    /// Where entries go now, and the term; `None` without a leader that is ready.
    fn route(&self) -> Option<(Route, u64)> {
        let leadership = *self.leadership.borrow();
        let route = match leadership.leader {
            Some(leader) if leader != self.id => Route::Peer(leader),
            Some(_) if leadership.is_leader && !self.pause.is_paused() => Route::Local,
            _ => return None,
        };
        Some((route, leadership.term))
    }

    /// Deadlines of what waits. Without a leader for long, waiting is pointless for new ones too.
    fn expire(&self, flight: &mut Flight) {
        if flight.last_expired.elapsed() < TICK {
            return;
        }
        flight.last_expired = Instant::now();
        let timeout = self.options.propose_timeout;
        let late = ProposeError::TimedOut {
            maybe_applied: false,
        };
        self.queue.expire(timeout, false, &late);
        // A leader that has not applied an entry of its own term yet will in a moment.
        if self.leadership.borrow().leader.is_some() {
            flight.no_leader_since = None;
            return;
        }
        let since = *flight.no_leader_since.get_or_insert_with(Instant::now);
        let hopeless = since.elapsed() >= self.options.no_leader_timeout;
        let age = if hopeless { NO_LEADER_GRACE } else { timeout };
        self.queue.expire(age, true, &ProposeError::NoLeader);
    }

    /// Sends the next entry. `false` if there is nothing to send or nowhere to send it.
    async fn send_next(&self, flight: &mut Flight) -> bool {
        let Some(target) = self.route() else {
            return false;
        };
        if self.queue.is_empty() || !flight.aim(target, &self.contact) {
            return false;
        }
        let (route, _) = target;
        let mixed = route == Route::Local;
        let (commands, bytes) = (
            self.options.entry_commands_max,
            self.options.entry_bytes_max,
        );
        let items = self.queue.take(commands, bytes, mixed);
        let Some(first) = items.first() else {
            return false;
        };
        if route != Route::Local && first.forwarded {
            // Back to the node they came from: it looks for the leader itself.
            fail(items, &ProposeError::NoLeader);
            return true;
        }
        let deadline =
            (first.since + self.options.propose_timeout).max(Instant::now() + FLIGHT_MIN);
        let answer = match route {
            Route::Local => self.write(flight, &items).await,
            Route::Peer(leader) => {
                let answer = self.forward(leader, &items);
                unless_given_up(answer, flight.give_up.subscribe())
            }
        };
        let number = flight.next;
        flight.next += 1;
        flight.entries.push(
            async move {
                let answer = tokio::time::timeout_at(deadline, answer)
                    .await
                    .unwrap_or(ProposeAnswer::Unknown);
                Landed {
                    number,
                    items,
                    answer,
                }
            }
            .boxed(),
        );
        true
    }

    /// Hands an entry to the local log. The order of these calls is the order in the log.
    async fn write(
        &self,
        flight: &mut Flight,
        items: &[Item],
    ) -> BoxFuture<'static, ProposeAnswer> {
        let parts: Vec<EncodedBatch> = items.iter().flat_map(|item| item.parts.clone()).collect();
        let stamp = now_ns()
            .max(flight.last_stamp_ns)
            .max(self.shared.state.read().last_stamp_ns());
        flight.last_stamp_ns = stamp;
        let entry = encode_entry(stamp, &parts);
        // An entry that does not decode would stop every node that applies it.
        if let Err(error) = decode_entry(&entry) {
            tracing::error!(%error, "a malformed batch was dropped");
            return futures::future::ready(ProposeAnswer::Overloaded).boxed();
        }
        let (responder, receiver) = OneshotResponder::new_pair();
        if let Err(error) = self
            .raft
            .client_write_ff(Batch(entry), Some(responder))
            .await
        {
            tracing::error!(%error, "consensus has stopped");
            return futures::future::ready(ProposeAnswer::Unknown).boxed();
        }
        async move {
            match receiver.await {
                Ok(Ok(written)) => ProposeAnswer::Applied {
                    index: written.data.index,
                    outcomes: written.data.outcomes,
                },
                Ok(Err(ClientWriteError::ForwardToLeader(_))) => ProposeAnswer::NotLeader,
                Ok(Err(_)) | Err(_) => ProposeAnswer::Unknown,
            }
        }
        .boxed()
    }

    /// Sends an entry's batches to the leader. The transport keeps the order of these calls.
    fn forward(&self, leader: NodeId, items: &[Item]) -> BoxFuture<'static, ProposeAnswer> {
        let parts: Vec<EncodedBatch> = items.iter().flat_map(|item| item.parts.clone()).collect();
        let call = self
            .transport
            .call(leader, RpcClass::Propose, GROUP, encode_propose(&parts));
        async move { answer_of(call.await) }.boxed()
    }
}

fn unless_given_up(
    answer: BoxFuture<'static, ProposeAnswer>,
    mut given_up: watch::Receiver<()>,
) -> BoxFuture<'static, ProposeAnswer> {
    async move {
        tokio::select! {
            biased;
            answer = answer => answer,
            _ = given_up.changed() => ProposeAnswer::Unknown,
        }
    }
    .boxed()
}

fn answer_of(answer: Result<Bytes, TransportError>) -> ProposeAnswer {
    match answer {
        Ok(bytes) => decode_propose_answer(bytes).unwrap_or(ProposeAnswer::Unknown),
        Err(TransportError::Unreachable(_)) => ProposeAnswer::NotLeader,
        Err(TransportError::Lost(..) | TransportError::Refused(..)) => ProposeAnswer::Unknown,
    }
}

/// Answers the proposers of an entry, or keeps it for another attempt.
fn land(flight: &mut Flight, landed: Landed, queue: &Queue) {
    match landed.answer {
        ProposeAnswer::Applied { index, outcomes } => {
            flight.is_wary = false;
            hand_out(landed.items, index, outcomes);
        }
        ProposeAnswer::NotLeader => {
            flight.is_wary = true;
            flight.refused.insert(landed.number, landed.items);
        }
        ProposeAnswer::Overloaded => fail(landed.items, &ProposeError::Overloaded),
        ProposeAnswer::Unknown => fail(
            landed.items,
            &ProposeError::TimedOut {
                maybe_applied: true,
            },
        ),
    }
    if flight.entries.is_empty() && !flight.refused.is_empty() {
        // Forwarded ones too: this node may lead again. If not, they go back when they are due.
        let again = std::mem::take(&mut flight.refused);
        queue.put_back(again.into_values().flatten().collect());
        flight.not_before = Instant::now() + RETRY_PAUSE;
    }
}

fn hand_out(items: Vec<Item>, index: u64, outcomes: Vec<Outcome>) {
    let expected: usize = items.iter().map(|item| item.count).sum();
    if expected != outcomes.len() {
        tracing::error!(
            expected,
            got = outcomes.len(),
            index,
            "outcomes do not match"
        );
        let unknown = ProposeError::TimedOut {
            maybe_applied: true,
        };
        return fail(items, &unknown);
    }
    let mut outcomes = outcomes.into_iter();
    for item in items {
        let own = outcomes.by_ref().take(item.count).collect();
        let proposed = Proposed {
            index,
            outcomes: own,
        };
        send(item.answer, Ok(proposed));
    }
}

fn fail(items: Vec<Item>, error: &ProposeError) {
    for item in items {
        send(item.answer, Err(error.clone()));
    }
}

/// Unix time in nanoseconds. Only the leader's clock matters, and only as a stamp in the entry.
fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::QueueLimits;

    fn queue() -> Arc<Queue> {
        Queue::new(QueueLimits {
            batches_max: 100,
            bytes_max: 1000,
        })
    }

    fn batch(len: usize) -> Vec<EncodedBatch> {
        vec![EncodedBatch {
            count: 1,
            bytes: Bytes::from(vec![0; len]),
        }]
    }

    #[tokio::test]
    async fn what_was_refused_waits_again_in_its_order_whoever_proposed_it() {
        let queue = queue();
        let mut answers = Vec::new();
        for (len, forwarded) in [(1, true), (2, false), (3, true), (4, true)] {
            answers.push(queue.push(batch(len), forwarded));
        }
        let mut flight = Flight::new();
        for number in 0..3 {
            let items = queue.take(1, 100, true);
            flight.refused.insert(number, items);
        }
        let landed = Landed {
            number: 1,
            items: flight.refused.remove(&1).unwrap(),
            answer: ProposeAnswer::NotLeader,
        };
        land(&mut flight, landed, &queue);
        let again: Vec<usize> = queue
            .take(10, 100, true)
            .iter()
            .map(|item| item.bytes)
            .collect();
        assert_eq!(again, [1, 2, 3, 4]);
        assert!(answers.iter_mut().all(|answer| {
            matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed))
        }));
    }

    #[tokio::test]
    async fn nothing_overtakes_what_is_on_its_way_elsewhere() {
        let mut flight = Flight::new();
        let contact = Contact::new(Duration::from_secs(1));
        let peer = (Route::Peer(NodeId(2)), 5);
        let untouched = flight.give_up.subscribe();
        contact.heard(NodeId(2));
        assert!(flight.aim(peer, &contact));
        flight
            .entries
            .push(futures::future::pending::<Landed>().boxed());
        assert!(flight.aim(peer, &contact));
        let given_up = unless_given_up(
            futures::future::pending().boxed(),
            flight.give_up.subscribe(),
        );
        for other in [
            (Route::Local, 5),
            (Route::Local, 6),
            (Route::Peer(NodeId(2)), 6),
        ] {
            assert!(!flight.aim(other, &contact));
        }
        assert!(!untouched.has_changed().unwrap());
        // What hangs at the old target is given up after a while.
        flight.outdated_since = Some(Instant::now() - OUTDATED_GRACE);
        assert!(!flight.aim((Route::Local, 6), &contact));
        assert!(matches!(given_up.await, ProposeAnswer::Unknown));
        flight.entries.clear();
        assert!(flight.aim((Route::Local, 6), &contact));
    }

    #[tokio::test]
    async fn what_hangs_at_a_leader_that_was_silent_for_long_is_given_up_at_once() {
        for (silence, is_given_up) in [(OUTDATED_GRACE, true), (OUTDATED_GRACE / 2, false)] {
            let mut flight = Flight::new();
            let contact = Contact::heard_before(NodeId(2), silence);
            assert!(flight.aim((Route::Peer(NodeId(2)), 5), &contact));
            flight
                .entries
                .push(futures::future::pending::<Landed>().boxed());
            let given_up = flight.give_up.subscribe();
            contact.heard(NodeId(3));
            assert!(!flight.aim((Route::Peer(NodeId(3)), 6), &contact));
            assert_eq!(given_up.has_changed().unwrap(), is_given_up);
        }
    }

    #[tokio::test]
    async fn a_refusal_is_not_waited_out_when_somebody_else_leads() {
        let queue = queue();
        let mut flight = Flight::new();
        let refusing = (Route::Peer(NodeId(2)), 5);
        assert!(flight.aim(refusing, &Contact::new(Duration::from_secs(1))));
        let landed = Landed {
            number: 0,
            items: queue.take(1, 100, true),
            answer: ProposeAnswer::NotLeader,
        };
        land(&mut flight, landed, &queue);
        for nobody_new in [None, Some(refusing)] {
            flight.heed(nobody_new, &Contact::new(Duration::from_secs(1)));
            assert!(!flight.has_room(4));
        }
        flight.heed(
            Some((Route::Local, 6)),
            &Contact::new(Duration::from_secs(1)),
        );
        assert!(flight.has_room(4));
    }

    #[tokio::test]
    async fn after_a_refusal_entries_go_one_by_one_until_one_is_applied() {
        let queue = queue();
        let mut flight = Flight::new();
        let landed = |answer| Landed {
            number: 0,
            items: Vec::new(),
            answer,
        };
        land(&mut flight, landed(ProposeAnswer::NotLeader), &queue);
        flight.not_before = Instant::now();
        assert!(flight.has_room(4));
        flight
            .entries
            .push(futures::future::pending::<Landed>().boxed());
        assert!(!flight.has_room(4));
        let applied = ProposeAnswer::Applied {
            index: 1,
            outcomes: Vec::new(),
        };
        land(&mut flight, landed(applied), &queue);
        assert!(flight.has_room(4));
    }
}
