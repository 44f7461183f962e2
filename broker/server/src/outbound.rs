//! What waits to be written to one client or peer.
//!
//! Owns the pending bytes with their limit, and who writes: for plain TCP any task that has just
//! appended (it takes the socket out, so there is one writer at a time and no lock is held in a system
//! call), else the connection's own task. Must never know what the bytes mean.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::{Buf, BytesMut};
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;
use tokio::time::Instant;
use unibus_proto::permissions::{Permissions, Reading};

use crate::backlog::{Backlog, Losses, News};
use crate::clock;
use crate::meter::{Amount, Meter};
use crate::options::Limits;
use crate::reason::CloseReason;
use crate::replies::Replies;
use crate::subscription::Subscription;
use crate::trace;

/// Writes of fresh bytes by one flush; what comes later is left to the connection's task.
const FLUSH_ROUNDS_MAX: usize = 4;

/// A written buffer above this capacity, in bytes, is freed rather than kept.
const SPARE_BYTES_MAX: usize = 1024 * 1024;

/// Pending bytes at which publishers may go on after a stall.
const DRAINED_BYTES: usize = 512 * 1024;

/// Pending bytes over this share of the limit, in percent, make publishers wait: for a client,
const CROWDED_PERCENT: usize = 75;
/// and for a peer, where they wait longer and the rest is for those who could not know.
const CROWDED_PEER_PERCENT: usize = 25;

/// The revision of a peer that takes more queues than a frame had room for, and interest told anew.
const REVISION_WIDE: u8 = 2;

/// Why a connection ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Close {
    /// The other side closed.
    Gone,
    /// The socket failed.
    Failed,
    /// Over `pending_bytes_max`.
    SlowPending,
    /// No progress within `write_deadline`.
    SlowDeadline,
    /// The node stops.
    Shutdown,
    /// Protocol violation, or an error that has been written already: flush, then close.
    AfterFlush(CloseReason),
}

impl Close {
    pub(crate) const fn reason(self) -> CloseReason {
        match self {
            Self::Gone => CloseReason::ClientClosed,
            Self::Failed => CloseReason::WriteError,
            Self::SlowPending => CloseReason::SlowConsumerPendingBytes,
            Self::SlowDeadline => CloseReason::SlowConsumerWriteDeadline,
            Self::Shutdown => CloseReason::ServerShutdown,
            Self::AfterFlush(reason) => reason,
        }
    }

    /// Nothing more can be written.
    const fn is_dead(self) -> bool {
        matches!(self, Self::Gone | Self::Failed)
    }
}

/// A look at an [`Outbound`] for its connection's task.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) close: Option<Close>,
    /// The socket refused bytes.
    pub(crate) full: bool,
    /// Since when it has taken none.
    pub(crate) blocked: Option<Instant>,
    pub(crate) pending: usize,
    /// The node's limits have changed.
    pub(crate) nudged: bool,
    /// Subscriptions that reached their maximum.
    pub(crate) expired: Vec<Arc<Subscription>>,
}

/// The writing side of one connection, shared with everyone who delivers to it.
pub(crate) struct Outbound {
    /// Unique in the process.
    pub(crate) id: u64,
    /// The bytes are operations for a client, which traces may show.
    to_client: bool,
    /// For a peer: how long publishers wait for it at most.
    patience: Option<Duration>,
    /// What the peer understands; 0 = it has not said.
    revision: AtomicU8,
    pub(crate) meter: Meter,
    /// Bytes that may wait.
    pending_max: AtomicUsize,
    state: Mutex<State>,
    /// Wakes the connection's task.
    waker: AtomicWaker,
    drained: Notify,
    closed: AtomicBool,
    headers: AtomicBool,
    /// Replies are noted: the client may answer where it may not publish.
    answers: AtomicBool,
    replies: Mutex<Option<Box<Replies>>>,
    /// For subscriptions whose deliveries have to be checked.
    permissions: ArcSwapOption<Permissions>,
}

#[derive(Default)]
struct State {
    /// Absent while somebody writes, after a close, and when only the connection's task can write.
    socket: Option<OwnedWriteHalf>,
    /// What a full socket refused; goes first.
    front: BytesMut,
    buffer: BytesMut,
    /// For a peer: what comes before `buffer`.
    backlog: Option<Box<Backlog>>,
    /// Bytes in `front`, `backlog`, `buffer` and in a writer's hands.
    pending: usize,
    /// The socket refused bytes: nobody tries before it is writable again.
    full: bool,
    /// Since when it has taken none.
    blocked: Option<Instant>,
    /// Somebody holds the socket or bytes.
    writing: bool,
    /// Publishers wait for `drained`.
    stalled: bool,
    close: Option<Close>,
    /// The node's limits have changed.
    nudged: bool,
    /// Subscriptions that reached their maximum, for the connection to forget.
    expired: Vec<Arc<Subscription>>,
}

impl Outbound {
    pub(crate) fn new(id: u64, pending_max: usize, socket: Option<OwnedWriteHalf>) -> Self {
        Self {
            id,
            to_client: false,
            patience: None,
            revision: AtomicU8::new(0),
            meter: Meter::default(),
            pending_max: AtomicUsize::new(pending_max),
            state: Mutex::new(State {
                socket,
                ..State::default()
            }),
            waker: AtomicWaker::new(),
            drained: Notify::new(),
            closed: AtomicBool::new(false),
            headers: AtomicBool::new(false),
            answers: AtomicBool::new(false),
            replies: Mutex::new(None),
            permissions: ArcSwapOption::empty(),
        }
    }

    /// The same for a client's connection.
    pub(crate) fn for_client(id: u64, pending_max: usize, socket: Option<OwnedWriteHalf>) -> Self {
        Self {
            to_client: true,
            ..Self::new(id, pending_max, socket)
        }
    }

    /// The same for a peer. Over its limit it loses messages, never the route.
    pub(crate) fn for_peer(id: u64, limits: &Limits) -> Self {
        let outbound = Self {
            patience: Some(limits.route_stall),
            ..Self::new(id, limits.route_pending_bytes_max, None)
        };
        let backlog = Backlog::new(limits.route_interest_bytes_max);
        outbound.state.lock().backlog = Some(Box::new(backlog));
        outbound
    }

    /// The peer has said what it understands.
    pub(crate) fn hear_revision(&self, revision: u8) {
        self.revision.store(revision, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Whether the peer is of revision 2; `None` = it has not said.
    pub(crate) fn is_wide(&self) -> Option<bool> {
        let revision = self.revision.load(Ordering::Relaxed);
        (revision > 0).then_some(revision >= REVISION_WIDE)
    }

    fn trace(&self, operations: &[u8]) {
        if trace::is_on() && self.to_client {
            trace::outgoing(self.id, operations);
        }
    }

    /// Gives it the socket of a client that does not encrypt after all.
    pub(crate) fn attach(&self, socket: OwnedWriteHalf) {
        self.state.lock().socket = Some(socket);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(crate) fn takes_headers(&self) -> bool {
        self.headers.load(Ordering::Relaxed)
    }

    pub(crate) fn set_headers(&self, headers: bool) {
        self.headers.store(headers, Ordering::Relaxed);
    }

    /// Whether replies have to be told to [`Self::asked`].
    pub(crate) fn may_owe_answers(&self) -> bool {
        self.answers.load(Ordering::Relaxed)
    }

    /// A message with this reply subject is on its way to the client.
    pub(crate) fn asked(&self, reply: &[u8]) {
        if let Some(replies) = &mut *self.replies.lock() {
            replies.ask(reply, clock::now());
        }
    }

    /// Whether the client may publish to `subject` because it was asked there; counts as an answer.
    pub(crate) fn may_answer(&self, subject: &[u8]) -> bool {
        let mut replies = self.replies.lock();
        let replies = replies.as_mut();
        replies.is_some_and(|replies| replies.answer(subject, clock::now()))
    }

    pub(crate) fn set_permissions(&self, permissions: Option<Arc<Permissions>>) {
        let rule = permissions.as_ref().and_then(|p| p.responses);
        {
            let mut replies = self.replies.lock();
            match (rule, &mut *replies) {
                (None, _) => *replies = None,
                (Some(rule), Some(replies)) => replies.set_rule(rule),
                (Some(rule), None) => *replies = Some(Box::new(Replies::new(rule))),
            }
        }
        self.answers.store(rule.is_some(), Ordering::Relaxed);
        self.permissions.store(permissions);
    }

    /// Whether a wildcard subscription here must not get this subject.
    pub(crate) fn denies(&self, subject: &[u8]) -> bool {
        self.permissions
            .load()
            .as_ref()
            .is_some_and(|p| p.delivery_denied(subject))
    }

    /// What the client may read of what the consumer `names` delivers, here a message of `subject`.
    pub(crate) fn reading(&self, names: &[u8], subject: &[u8]) -> Reading {
        self.permissions
            .load()
            .as_ref()
            .map_or(Reading::All, |p| p.reading(names, subject))
    }

    /// Takes over everything in `staged`, `sent` messages among it, and leaves it empty. `now` is in
    /// [`crate::clock`] nanoseconds. Returns the pending bytes then. Over the limit the connection is closed as a slow consumer;
    /// a peer does not get what is staged.
    pub(crate) fn append(&self, staged: &mut BytesMut, sent: Amount, now: u64) -> usize {
        let mut state = self.state.lock();
        if state.close.is_some() {
            staged.clear();
            return 0;
        }
        if state.backlog.is_some() {
            return self.queue(&mut state, staged);
        }
        self.trace(staged);
        self.meter.sent(sent, now);
        state.pending += staged.len();
        if state.buffer.is_empty() {
            std::mem::swap(&mut state.buffer, staged);
        } else {
            state.buffer.extend_from_slice(staged);
        }
        staged.clear();
        if state.pending > self.pending_max() {
            self.close_locked(&mut state, Close::SlowPending);
        }
        state.pending
    }

    /// [`Self::append`] for a peer.
    fn queue(&self, state: &mut State, staged: &mut BytesMut) -> usize {
        let more = staged.len();
        let fits = state.pending == 0 || state.pending + more <= self.pending_max();
        if let Some(backlog) = &mut state.backlog {
            if fits {
                backlog.seal(&mut state.buffer);
            } else {
                backlog.lose(staged);
            }
        }
        if fits {
            state.pending += more;
            if state.buffer.is_empty() {
                std::mem::swap(&mut state.buffer, staged);
            } else {
                state.buffer.extend_from_slice(staged);
            }
        }
        staged.clear();
        state.pending
    }

    /// Appends interest that `write` writes, for a peer. Returns false, with nothing appended, where it has
    /// no room: the peer has to be told anew.
    pub(crate) fn tell(&self, news: News, write: impl FnOnce(&mut BytesMut)) -> bool {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(backlog) = state.backlog.as_mut().filter(|_| state.close.is_none()) else {
            return true;
        };
        if !backlog.admits(news) {
            return false;
        }
        backlog.seal(&mut state.buffer);
        let before = state.buffer.len();
        write(&mut state.buffer);
        let more = state.buffer.len() - before;
        backlog.tell(more);
        state.pending += more;
        true
    }

    /// For a peer: bytes of interest that wait.
    pub(crate) fn told(&self) -> usize {
        let state = self.state.lock();
        state.backlog.as_ref().map_or(0, |backlog| backlog.told())
    }

    /// For a peer: a message, or some of its queues, could not be put into a frame.
    #[cold]
    pub(crate) fn lose_message(&self) {
        if let Some(backlog) = &mut self.state.lock().backlog {
            backlog.lose_one();
        }
    }

    /// For a peer: what had no room since the last call.
    pub(crate) fn take_losses(&self) -> Losses {
        let mut state = self.state.lock();
        let losses = state.backlog.as_mut().map(|backlog| backlog.take_losses());
        losses.unwrap_or_default()
    }

    /// Appends what `write` writes.
    pub(crate) fn append_with(&self, write: impl FnOnce(&mut BytesMut)) {
        let mut state = self.state.lock();
        if state.close.is_some() {
            return;
        }
        let before = state.buffer.len();
        write(&mut state.buffer);
        self.trace(&state.buffer[before..]);
        if state.backlog.is_some() && state.pending > self.pending_max() {
            state.buffer.truncate(before);
        }
        state.pending += state.buffer.len() - before;
        if state.pending > self.pending_max() && state.backlog.is_none() {
            self.close_locked(&mut state, Close::SlowPending);
        }
    }

    /// Bytes that may wait.
    pub(crate) fn pending_max(&self) -> usize {
        self.pending_max.load(Ordering::Relaxed)
    }

    /// How many bytes may be staged for it, where `staged` are. `None` = it takes no more: with these it
    /// is over its limit, and closed as a slow consumer.
    pub(crate) fn room_beside(&self, staged: usize) -> Option<usize> {
        let mut state = self.state.lock();
        let room = self.pending_max().saturating_sub(state.pending);
        if staged > room {
            self.close_locked(&mut state, Close::SlowPending);
        }
        state.close.is_none().then_some(room)
    }

    pub(crate) fn set_pending_max(&self, bytes: usize) {
        self.pending_max.store(bytes, Ordering::Relaxed);
    }

    /// Makes the connection's task look at the node's limits again.
    pub(crate) fn nudge(&self) {
        self.state.lock().nudged = true;
        self.waker.wake();
    }

    /// Writes to the socket from the caller's task, or wakes the connection's task to do it.
    pub(crate) fn flush(&self) {
        let mut state = self.state.lock();
        for _ in 0..FLUSH_ROUNDS_MAX {
            if state.pending == 0 || state.writing || state.full {
                if state.close.is_some() {
                    break;
                }
                return;
            }
            let Some(socket) = state.socket.take() else {
                break;
            };
            let mut chunk = state.take_chunk();
            drop(state);
            let before = chunk.len();
            let result = write_now(&socket, &mut chunk);
            state = self.state.lock();
            if !state.is_dead() {
                state.socket = Some(socket);
            }
            if !self.after_write(&mut state, chunk, before, result) {
                break;
            }
        }
        drop(state);
        self.waker.wake();
    }

    /// Takes bytes to write for a task that writes itself; [`Self::wrote`] has to follow.
    pub(crate) fn take_chunk(&self) -> Option<BytesMut> {
        let mut state = self.state.lock();
        if state.pending == 0 || state.writing || state.is_dead() {
            return None;
        }
        Some(state.take_chunk())
    }

    /// Part of a taken chunk has been written: those who wait for the receiver see it at once.
    pub(crate) fn progressed(&self, written: usize) {
        let mut state = self.state.lock();
        self.book(&mut state, written);
    }

    fn book(&self, state: &mut State, written: usize) {
        state.pending = state.pending.saturating_sub(written);
        if state.stalled && state.pending < DRAINED_BYTES {
            state.stalled = false;
            self.drained.notify_waiters();
        }
    }

    /// Gives back what is left of a chunk of `before` bytes.
    pub(crate) fn wrote(&self, chunk: BytesMut, before: usize, result: io::Result<()>) -> bool {
        let mut state = self.state.lock();
        self.after_write(&mut state, chunk, before, result)
    }

    /// Books a write. Returns whether the socket takes more.
    fn after_write(
        &self,
        state: &mut State,
        mut chunk: BytesMut,
        before: usize,
        result: io::Result<()>,
    ) -> bool {
        state.writing = false;
        if state.is_dead() {
            return false;
        }
        self.book(state, before - chunk.len());
        match result {
            Ok(()) => {
                state.full = false;
                // What was written in parts no longer shows how much memory it has.
                let whole = state.blocked.take().is_none();
                if whole && state.buffer.capacity() == 0 && chunk.capacity() <= SPARE_BYTES_MAX {
                    chunk.clear();
                    state.buffer = chunk;
                }
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let progress = chunk.len() < before;
                state.front = chunk;
                state.full = true;
                if progress || state.blocked.is_none() {
                    state.blocked = Some(Instant::now());
                }
                false
            }
            Err(_) => {
                self.close_locked(state, Close::Failed);
                // Where another reason came first it stays, and with it whoever would flush the rest.
                state.drop_pending();
                false
            }
        }
    }

    /// Ends the connection. The first reason stays, and is returned.
    pub(crate) fn close(&self, reason: Close) -> Close {
        let mut state = self.state.lock();
        self.close_locked(&mut state, reason);
        state.close.unwrap_or(reason)
    }

    /// The same, for callers that don't ask.
    pub(crate) fn close_quietly(&self, reason: Close) {
        self.close(reason);
    }

    fn close_locked(&self, state: &mut State, reason: Close) {
        if state.close.is_none() {
            state.close = Some(reason);
            self.closed.store(true, Ordering::Relaxed);
            state.stalled = false;
            self.drained.notify_waiters();
            self.waker.wake();
        }
    }

    /// Drops the socket's writing side and all bytes: nobody writes to it any more.
    pub(crate) fn detach(&self) {
        let mut state = self.state.lock();
        self.close_locked(&mut state, Close::Gone);
        state.close = Some(Close::Gone);
        state.socket = None;
        state.expired = Vec::new();
        state.drop_pending();
    }

    /// Bytes that wait to be written.
    pub(crate) fn pending(&self) -> usize {
        self.state.lock().pending
    }

    /// Registers the connection's task to be woken by [`Self::flush`], [`Self::wake`] and closing.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// What the connection's task has to act on.
    pub(crate) fn status(&self) -> Status {
        let mut state = self.state.lock();
        Status {
            close: state.close,
            full: state.full,
            blocked: state.blocked,
            pending: state.pending,
            nudged: std::mem::take(&mut state.nudged),
            expired: std::mem::take(&mut state.expired),
        }
    }

    /// The socket has room again.
    pub(crate) fn writable(&self) {
        self.state.lock().full = false;
    }

    /// Whether with so many pending bytes the limit is near.
    pub(crate) fn is_crowded(&self, pending: usize) -> bool {
        let percent = match self.patience {
            None => CROWDED_PERCENT,
            Some(_) => CROWDED_PEER_PERCENT,
        };
        pending > self.pending_max() / 100 * percent
    }

    /// How long publishers wait for it at most where the limit is near, if it is a peer.
    pub(crate) const fn patience(&self) -> Option<Duration> {
        self.patience
    }

    /// Resolves when the receiver has caught up, at the latest after `longest`.
    pub(crate) async fn caught_up(&self, longest: Duration) {
        let mut drained = std::pin::pin!(self.drained.notified());
        drained.as_mut().enable();
        {
            let mut state = self.state.lock();
            if state.close.is_some() || state.pending < DRAINED_BYTES {
                return;
            }
            state.stalled = true;
        }
        let _ = tokio::time::timeout(longest, drained).await;
    }

    /// A subscription reached its maximum; the connection forgets its sid.
    pub(crate) fn expire(&self, subscription: Arc<Subscription>) {
        let mut state = self.state.lock();
        if state.close.is_none() {
            state.expired.push(subscription);
            self.waker.wake();
        }
    }

    /// Frees empty buffers. Returns whether nothing is pending.
    pub(crate) fn shrink(&self) -> bool {
        let mut state = self.state.lock();
        if state.pending == 0 && !state.writing {
            state.buffer = BytesMut::new();
            state.front = BytesMut::new();
        }
        state.pending == 0
    }
}

impl State {
    fn is_dead(&self) -> bool {
        self.close.is_some_and(Close::is_dead)
    }

    /// Nothing more can be written.
    fn drop_pending(&mut self) {
        self.front = BytesMut::new();
        self.buffer = BytesMut::new();
        if let Some(backlog) = &mut self.backlog {
            backlog.clear();
        }
        self.pending = 0;
    }

    fn take_chunk(&mut self) -> BytesMut {
        self.writing = true;
        if !self.front.is_empty() {
            std::mem::take(&mut self.front)
        } else if let Some(backlog) = &mut self.backlog {
            backlog.take(&mut self.buffer)
        } else {
            std::mem::take(&mut self.buffer)
        }
    }
}

/// Writes until everything is written or the socket is full; keeps the rest in `chunk`.
fn write_now(socket: &OwnedWriteHalf, chunk: &mut BytesMut) -> io::Result<()> {
    let mut written = 0;
    while written < chunk.len() {
        match socket.try_write(&chunk[written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(more) => written += more,
            Err(error) => {
                chunk.advance(written);
                return Err(error);
            }
        }
    }
    // Not `advance`: the whole capacity stays usable.
    chunk.clear();
    Ok(())
}

/// Whether a peer's outbound has bytes or losses, or is closed; else the task is woken then.
pub(crate) fn poll_work(outbound: &Outbound, cx: &Context<'_>) -> bool {
    outbound.register(cx.waker());
    let state = outbound.state.lock();
    let owes = state.backlog.as_ref().is_some_and(|backlog| backlog.owes());
    state.close.is_some() || state.pending > 0 || owes
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
