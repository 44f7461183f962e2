//! From messages and API mutations to proposals, and from outcomes to answers.
//!
//! Owns the node's one queue of commands: everything that changes the state passes through it, so
//! that a connection's purge comes after its own publishes. Messages are copied once, straight into
//! the batch that is proposed. It never reads the state and never decides an outcome.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use unibus_broker::{Broker, Inbound, Internal, Publication, Service};
use unibus_proto::jetstream::error::{CLUSTER_NOT_AVAILABLE, MESSAGE_EXCEEDS_MAXIMUM};
use unibus_proto::jetstream::info::{write_pub_ack, write_pub_ack_of, write_pub_refusal};
use unibus_raft::{Proposal, ProposeError, Proposed, Replica};
use unibus_state::command::Series;
use unibus_state::{Append, Command, CommandBatch, Outcome};

use super::batches::{self, Stage};
use super::fast::{self, FastBatches, Sent};
use super::hooks::Hooks;
use super::internal;
use super::text;
use crate::config::batches::BatchLimits;

/// While this many proposals are on their way, what waits is collected instead of proposed: one
/// being synced and one behind it keep the log busy.
const SMALL_IN_FLIGHT_MAX: usize = 2;
/// Full batches are proposed up to this number in flight.
const IN_FLIGHT_MAX: usize = 8;
/// A batch with this many commands is full.
const BATCH_COMMANDS_MAX: usize = 2048;
/// A batch with this many bytes is full.
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// A batch takes no command that would bring it over this many bytes: what is large goes alone, and what is
/// small is not refused with it. Far below what the replica refuses (48 MiB).
const BATCH_BYTES_BOUND: usize = 4 * 1024 * 1024;
/// A larger message can't be stored: alone it would be more than the replica takes.
const MESSAGE_BYTES_MAX: usize = 47 * 1024 * 1024;
/// About the bytes of a restored consumer's unacknowledged message, as JSON.
const PENDING_BYTES: usize = 80;
/// Connections wait before their next read while more than this is queued.
const QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Connections wait before their next read while more than this many commands are queued.
const QUEUE_COMMANDS_MAX: usize = 64 * 1024;
/// Answers sent before the answering task lets others run.
const ANSWERS_PER_TURN: usize = 256;
/// How long a control-plane acknowledgement waits for nodes to apply the change.
pub(super) const EVERYWHERE_MAX: Duration = Duration::from_secs(1);

/// The outcome of one API mutation and the entry that carried it.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) index: u64,
    pub(super) outcome: Outcome,
}

/// What an API mutation waits for.
pub(super) type Call = oneshot::Receiver<Result<Answered, ProposeError>>;

/// Who waits for the outcome of one command.
#[derive(Debug)]
enum Slot {
    /// Nobody.
    Silent,
    /// A publisher; its reply subject is in the arena.
    Reply { at: usize, len: usize },
    /// A fast batch.
    Series(Sent),
    /// An API request.
    Call(oneshot::Sender<Result<Answered, ProposeError>>),
}

/// Commands that are proposed together, with those who wait for their outcomes.
#[derive(Default)]
struct Piece {
    batch: CommandBatch,
    slots: Vec<Slot>,
    /// Reply subjects, back to back.
    replies: Vec<u8>,
}

/// Commands that wait to be proposed.
#[derive(Default)]
struct Queue {
    /// Batches that take no more, in their order.
    closed: VecDeque<Piece>,
    /// What `closed` holds.
    closed_bytes: usize,
    closed_commands: usize,
    open: Piece,
}

/// One proposal on its way.
struct Flight {
    proposal: Proposal,
    slots: Vec<Slot>,
    replies: Vec<u8>,
}

/// The queue of this node's commands. Shared by the capture service and the API.
pub(super) struct Ingest {
    queue: Mutex<Queue>,
    /// Wakes the flusher: something was queued into an empty queue, a batch became full, or a
    /// proposal came back.
    wake: Notify,
    /// Wakes connections that wait for room.
    drained: Notify,
    in_flight: AtomicUsize,
    /// Messages that wait for room: mirrors the queue's size so that `ready` takes no lock.
    queued_bytes: AtomicUsize,
    queued_commands: AtomicUsize,
    stopped: AtomicBool,
    fast: FastBatches,
    /// Told in acknowledgements.
    pub(super) domain: Option<Arc<str>>,
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingest")
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl Ingest {
    pub(super) fn new(domain: Option<Arc<str>>, batches: BatchLimits) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            wake: Notify::new(),
            drained: Notify::new(),
            in_flight: AtomicUsize::new(0),
            queued_bytes: AtomicUsize::new(0),
            queued_commands: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            fast: FastBatches::new(batches),
            domain,
        })
    }

    /// Starts proposing and answering. The tasks end after [`Ingest::stop`].
    pub(super) fn start(self: &Arc<Self>, broker: Broker, replica: Replica) -> [JoinHandle<()>; 2] {
        let (flights, landed) = mpsc::channel(IN_FLIGHT_MAX);
        let flusher = Arc::clone(self).flush_all(replica.clone(), flights);
        let answerer = Answerer {
            ingest: Arc::clone(self),
            broker,
            replica,
            scratch: Vec::new(),
        };
        [tokio::spawn(flusher), tokio::spawn(answerer.run(landed))]
    }

    /// Queues one message for the stream that captures its subject. False: it can't be framed.
    pub(super) fn publish(&self, m: &Inbound<'_>) -> bool {
        let mut queue = self.queue.lock();
        let privileged = m.origin.internal;
        if queue
            .with_room(m.subject.len() + m.data.len())
            .push_append(m.subject, m.header_len, m.data, privileged)
            .is_err()
        {
            return false;
        }
        let slot = queue.open.slot(m.reply.unwrap_or_default());
        self.queued(queue, slot);
        true
    }

    /// Queues a command whose outcome a publisher is told.
    pub(super) fn submit(&self, command: &Command, reply: &[u8]) {
        let mut queue = self.queue.lock();
        if let Err(error) = queue.with_room(weight(command)).push(command) {
            return tracing::error!(%error, "a command does not encode");
        }
        let slot = queue.open.slot(reply);
        self.queued(queue, slot);
    }

    /// Queues messages of a fast batch, which is told of their outcome.
    pub(super) fn series(&self, series: &Series, sent: Sent) {
        let mut queue = self.queue.lock();
        let batch = queue.with_room(bytes_of(&series.messages));
        if let Err(error) = batch.push(&Command::Series(series.clone())) {
            return tracing::error!(%error, "a command does not encode");
        }
        self.queued(queue, Slot::Series(sent));
    }

    /// Queues one API mutation. One that can't be framed is answered at once: the sender is gone.
    pub(super) fn call(&self, command: &Command) -> Call {
        let (sender, receiver) = oneshot::channel();
        let mut queue = self.queue.lock();
        match queue.with_room(weight(command)).push(command) {
            Ok(()) => self.queued(queue, Slot::Call(sender)),
            Err(error) => tracing::error!(%error, "a command does not encode"),
        }
        receiver
    }

    /// Queues a message of the node itself whose outcome is of interest. `None`: it can't be framed.
    pub(super) fn append(&self, subject: &[u8], header_len: usize, data: &[u8]) -> Option<Call> {
        let (sender, receiver) = oneshot::channel();
        let mut queue = self.queue.lock();
        queue
            .with_room(subject.len() + data.len())
            .push_append(subject, header_len, data, false)
            .ok()?;
        self.queued(queue, Slot::Call(sender));
        Some(receiver)
    }

    /// `Some`: too much is queued; resolves when there is room again.
    pub(super) fn room(self: &Arc<Self>) -> Option<BoxFuture<'static, ()>> {
        if !self.is_full() {
            return None;
        }
        let ingest = Arc::clone(self);
        Some(Box::pin(async move {
            loop {
                let drained = ingest.drained.notified();
                tokio::pin!(drained);
                // Registered before the check: a drain in between is not missed.
                drained.as_mut().enable();
                if !ingest.is_full() {
                    return;
                }
                drained.await;
            }
        }))
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake.notify_one();
        self.drained.notify_waiters();
    }

    fn is_full(&self) -> bool {
        !self.stopped.load(Ordering::Acquire)
            && (self.queued_bytes.load(Ordering::Relaxed) > QUEUE_BYTES_MAX
                || self.queued_commands.load(Ordering::Relaxed) > QUEUE_COMMANDS_MAX
                || self.fast.is_full())
    }

    fn queued(&self, mut queue: parking_lot::MutexGuard<'_, Queue>, slot: Slot) {
        let was_full = queue.open.slots.len() + 1 >= BATCH_COMMANDS_MAX;
        queue.open.slots.push(slot);
        let (commands, bytes) = (queue.commands(), queue.bytes());
        self.queued_bytes.store(bytes, Ordering::Relaxed);
        self.queued_commands.store(commands, Ordering::Relaxed);
        drop(queue);
        if commands == 1 || was_full || bytes >= BATCH_BYTES_MAX {
            self.wake.notify_one();
        }
    }

    async fn flush_all(self: Arc<Self>, replica: Replica, flights: mpsc::Sender<Flight>) {
        loop {
            self.wake.notified().await;
            if self.stopped.load(Ordering::Acquire) {
                return self.fail_queued();
            }
            // The connection that woke us has more messages in its read buffer: let it add them.
            tokio::task::yield_now().await;
            while let Some(piece) = self.take() {
                if let Some(ready) = replica.propose_ready() {
                    ready.await;
                }
                let proposal = replica.propose(piece.batch.freeze());
                if flights
                    .send(Flight {
                        proposal,
                        slots: piece.slots,
                        replies: piece.replies,
                    })
                    .await
                    .is_err()
                {
                    return self.fail_queued();
                }
            }
        }
    }

    /// Takes the next batch if a proposal may leave now.
    fn take(&self) -> Option<Piece> {
        let in_flight = self.in_flight.load(Ordering::Acquire);
        if in_flight >= IN_FLIGHT_MAX {
            return None;
        }
        let mut queue = self.queue.lock();
        if in_flight >= SMALL_IN_FLIGHT_MAX && !queue.is_full() {
            return None;
        }
        let taken = queue.take()?;
        let (commands, bytes) = (queue.commands(), queue.bytes());
        self.queued_bytes.store(bytes, Ordering::Relaxed);
        self.queued_commands.store(commands, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        drop(queue);
        self.drained.notify_waiters();
        Some(taken)
    }

    fn landed(&self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.wake.notify_one();
    }

    /// Dropped slots tell their callers that the node stops.
    fn fail_queued(&self) {
        *self.queue.lock() = Queue::default();
        self.drained.notify_waiters();
    }
}

impl Piece {
    fn slot(&mut self, reply: &[u8]) -> Slot {
        if reply.is_empty() {
            return Slot::Silent;
        }
        let at = self.replies.len();
        self.replies.extend_from_slice(reply);
        Slot::Reply {
            at,
            len: reply.len(),
        }
    }
}

impl Queue {
    /// The batch that takes the next command, of so many bytes.
    fn with_room(&mut self, bytes: usize) -> &mut CommandBatch {
        let held = self.open.batch.bytes();
        if held > 0 && held.saturating_add(bytes) > BATCH_BYTES_BOUND {
            let closed = std::mem::take(&mut self.open);
            self.closed_bytes += held;
            self.closed_commands += closed.slots.len();
            self.closed.push_back(closed);
        }
        &mut self.open.batch
    }

    fn take(&mut self) -> Option<Piece> {
        if let Some(piece) = self.closed.pop_front() {
            self.closed_bytes -= piece.batch.bytes();
            self.closed_commands -= piece.slots.len();
            return Some(piece);
        }
        (!self.open.slots.is_empty()).then(|| std::mem::take(&mut self.open))
    }

    fn commands(&self) -> usize {
        self.closed_commands + self.open.slots.len()
    }

    fn bytes(&self) -> usize {
        self.closed_bytes + self.open.batch.bytes()
    }

    /// Whether its first batch is full.
    fn is_full(&self) -> bool {
        !self.closed.is_empty()
            || self.open.slots.len() >= BATCH_COMMANDS_MAX
            || self.open.batch.bytes() >= BATCH_BYTES_MAX
    }
}

fn bytes_of(messages: &[Append]) -> usize {
    let sizes = messages.iter().map(|m| m.subject.len() + m.data.len());
    sizes.sum()
}

/// About how many bytes a command is, where it may be many.
fn weight(command: &Command) -> usize {
    match command {
        Command::Append(message) => bytes_of(std::slice::from_ref(message)),
        Command::Series(series) => bytes_of(&series.messages),
        Command::Atomic(batch) => bytes_of(&batch.messages),
        Command::ScheduleRun(run) => run.message.as_ref().map_or(0, |m| m.data.len()),
        Command::RestoreMessages(restore) => {
            let sizes = restore.messages.iter().map(|m| m.data.len());
            sizes.sum()
        }
        Command::RestoreConsumers(restore) => {
            let pending = restore.consumers.iter().map(|c| c.pending.len());
            pending.sum::<usize>() * PENDING_BYTES
        }
        _ => 0,
    }
}

/// Takes the messages of stream subjects.
#[derive(Debug)]
pub(super) struct Capture {
    pub(super) ingest: Arc<Ingest>,
    pub(super) hooks: Arc<Hooks>,
    pub(super) broker: Broker,
    pub(super) stage: Arc<Stage>,
}

impl Capture {
    fn refuse_too_large(&self, m: &Inbound<'_>) {
        let Some(reply) = m.reply.filter(|reply| !reply.is_empty()) else {
            return;
        };
        let mut text = Vec::new();
        write_pub_refusal(&mut text, "", &MESSAGE_EXCEEDS_MAXIMUM);
        self.broker.publish(answer_to(reply, 0, &text));
    }
}

impl Service for Capture {
    fn deliver(&self, m: &Inbound<'_>) -> bool {
        if !m.origin.internal && internal::is_subject(m.subject) {
            return false;
        }
        if m.subject.len() + m.data.len() > MESSAGE_BYTES_MAX {
            self.refuse_too_large(m);
            return true;
        }
        if self.hooks.has_atomic()
            && batches::is_part(m)
            && let Some(stream) = self.hooks.atomic_stream(m.subject)
            && self.stage.take(&stream, m, &self.ingest, &self.broker)
        {
            return true;
        }
        if fast::is_part(m.reply) {
            let stream = self.hooks.fast_stream(m.subject);
            self.ingest.fast.take(stream, m, &self.ingest, &self.broker);
            return true;
        }
        self.ingest.publish(m)
    }

    fn ready(&self) -> Option<BoxFuture<'static, ()>> {
        self.ingest.room()
    }
}

/// Sends the answers of one proposal after the other.
struct Answerer {
    ingest: Arc<Ingest>,
    broker: Broker,
    replica: Replica,
    scratch: Vec<u8>,
}

impl Answerer {
    async fn run(mut self, mut flights: mpsc::Receiver<Flight>) {
        while let Some(flight) = flights.recv().await {
            let result = flight.proposal.await;
            self.ingest.landed();
            match result {
                Ok(proposed) => self.answer(proposed, flight.slots, &flight.replies).await,
                Err(error) => self.refuse(&error, flight.slots, &flight.replies),
            }
        }
    }

    async fn answer(&mut self, proposed: Proposed, slots: Vec<Slot>, replies: &[u8]) {
        let index = proposed.index;
        if slots.len() != proposed.outcomes.len() {
            tracing::error!(
                index,
                waiting = slots.len(),
                "outcomes do not fit their commands"
            );
        }
        let mut settled = slots.into_iter().zip(proposed.outcomes);
        let (mut deferred, mut series) = (Vec::new(), Vec::new());
        loop {
            let (scratch, domain) = (&mut self.scratch, self.ingest.domain.as_deref());
            // One wake-up of each receiver for a whole turn of answers.
            let more = self.broker.batch(|out| {
                for (slot, outcome) in settled.by_ref().take(ANSWERS_PER_TURN) {
                    match slot {
                        Slot::Silent => {}
                        // The caller may have gone.
                        Slot::Call(sender) => drop(sender.send(Ok(Answered { index, outcome }))),
                        Slot::Series(sent) => series.push((sent, outcome)),
                        Slot::Reply { at, len } if is_control(&outcome) => {
                            deferred.push((replies[at..at + len].to_vec(), outcome));
                        }
                        Slot::Reply { at, len } => {
                            acknowledge(out, scratch, domain, &replies[at..at + len], &outcome);
                        }
                    }
                }
                settled.len() > 0
            });
            if !more {
                break;
            }
            tokio::task::yield_now().await;
        }
        for (sent, outcome) in series {
            let ingest = &*self.ingest;
            ingest.fast.settled(sent, &outcome, ingest, &self.broker);
            ingest.drained.notify_waiters();
        }
        if !deferred.is_empty() {
            let (broker, replica) = (self.broker.clone(), self.replica.clone());
            let domain = self.ingest.domain.clone();
            tokio::spawn(answer_everywhere(broker, replica, domain, index, deferred));
        }
    }

    fn refuse(&mut self, error: &ProposeError, slots: Vec<Slot>, replies: &[u8]) {
        tracing::warn!(%error, commands = slots.len(), "proposal failed");
        for slot in slots {
            match slot {
                Slot::Silent => {}
                Slot::Call(sender) => {
                    let _ = sender.send(Err(error.clone()));
                }
                // Silence is the only true answer when nobody knows what became of the message.
                Slot::Reply { .. } if may_be_applied(error) => {}
                Slot::Series(sent) if may_be_applied(error) => {
                    self.ingest.fast.lost(&sent, &self.broker);
                }
                Slot::Series(sent) => {
                    let outcome = Outcome::Refused(CLUSTER_NOT_AVAILABLE.into());
                    let ingest = &*self.ingest;
                    ingest.fast.settled(sent, &outcome, ingest, &self.broker);
                }
                Slot::Reply { at, len } => {
                    self.scratch.clear();
                    write_pub_refusal(&mut self.scratch, "", &CLUSTER_NOT_AVAILABLE);
                    self.broker
                        .publish(answer_to(&replies[at..at + len], 0, &self.scratch));
                }
            }
        }
        self.ingest.drained.notify_waiters();
    }
}

/// Control-plane changes are acknowledged when every reachable node acts by them.
async fn answer_everywhere(
    broker: Broker,
    replica: Replica,
    domain: Option<Arc<str>>,
    index: u64,
    answers: Vec<(Vec<u8>, Outcome)>,
) {
    // Everywhere includes here: a proposal that was forwarded is answered by the leader's apply.
    let here = replica
        .wait_applied(index, Instant::now() + EVERYWHERE_MAX)
        .await;
    if let Err(error) = here {
        tracing::warn!(index, %error, "a control change is not in force on this node yet");
    }
    let late = replica.applied_everywhere(index, EVERYWHERE_MAX).await;
    if !late.is_empty() {
        tracing::warn!(
            index,
            nodes = late.len(),
            "a control change is not in force everywhere"
        );
    }
    let mut scratch = Vec::new();
    broker.batch(|out| {
        for (reply, outcome) in answers {
            acknowledge(out, &mut scratch, domain.as_deref(), &reply, &outcome);
        }
    });
}

fn is_control(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Published { stream, .. } if internal::is_stream(stream))
}

fn may_be_applied(error: &ProposeError) -> bool {
    match error {
        ProposeError::TimedOut { maybe_applied } => *maybe_applied,
        ProposeError::Stopped => true,
        ProposeError::NoLeader | ProposeError::Overloaded => false,
    }
}

/// Tells a publisher what became of its message.
fn acknowledge(
    out: &mut Internal<'_>,
    scratch: &mut Vec<u8>,
    domain: Option<&str>,
    reply: &[u8],
    outcome: &Outcome,
) {
    scratch.clear();
    let mut header_len = 0;
    match outcome {
        Outcome::Published {
            stream,
            seq,
            duplicate,
        } => {
            write_pub_ack(scratch, stream, domain, *seq, *duplicate);
        }
        Outcome::Counted { stream, seq, val } => {
            write_pub_ack_of(scratch, stream, domain, *seq, None, Some(val));
        }
        Outcome::Batched {
            stream,
            seq,
            batch,
            count,
            val,
        } => {
            let batch = Some((batch.as_str(), *count));
            write_pub_ack_of(scratch, stream, domain, *seq, batch, val.as_deref());
        }
        Outcome::Refused(refusal) => {
            if refusal.silent {
                return;
            }
            let stream = refusal.stream.as_deref().unwrap_or_default();
            write_pub_refusal(scratch, stream, &refusal.error);
        }
        Outcome::NoStream => {
            scratch.extend_from_slice(text::NO_RESPONDERS);
            header_len = scratch.len();
        }
        _ => return,
    }
    out.publish(answer_to(reply, header_len, scratch));
}

/// An answer to a reply subject; streams do not see answers.
pub(super) fn answer_to<'a>(reply: &'a [u8], header_len: usize, data: &'a [u8]) -> Publication<'a> {
    Publication {
        subject: reply,
        shown: None,
        reply: None,
        header_len,
        data,
        capture: false,
        local: false,
    }
}

#[cfg(test)]
mod tests {
    use unibus_broker::Origin;

    use super::*;

    fn publish(ingest: &Ingest, bytes: usize) {
        let message = Inbound {
            subject: b"s",
            reply: Some(b"r"),
            header_len: 0,
            data: &vec![b'x'; bytes],
            origin: &Origin::default(),
        };
        assert!(ingest.publish(&message));
    }

    #[test]
    fn what_is_large_is_proposed_alone() {
        let ingest = Ingest::new(None, BatchLimits::default());
        let large = BATCH_BYTES_BOUND * 2;
        for bytes in [1, 2, large, 3, large, large, 4] {
            publish(&ingest, bytes);
        }
        assert_eq!(ingest.queued_commands.load(Ordering::Relaxed), 7);
        assert!(ingest.is_full());
        let mut taken = Vec::new();
        while let Some(piece) = ingest.take() {
            assert_eq!(piece.slots.len(), piece.batch.len());
            assert_eq!(piece.replies.len(), piece.slots.len());
            assert!(piece.slots.len() == 1 || piece.batch.bytes() <= BATCH_BYTES_BOUND);
            taken.push(piece.slots.len());
            ingest.landed();
        }
        assert_eq!(taken, [2, 1, 1, 1, 1, 1]);
        assert_eq!(ingest.queued_bytes.load(Ordering::Relaxed), 0);
        assert!(!ingest.is_full());
    }

    #[test]
    fn what_is_small_is_proposed_together() {
        let ingest = Ingest::new(None, BatchLimits::default());
        for _ in 0..1000 {
            publish(&ingest, 1000);
        }
        assert_eq!(ingest.take().map(|piece| piece.slots.len()), Some(1000));
    }
}
