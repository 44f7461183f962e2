//! One client connection: the task that reads, answers and writes.
//!
//! Owns the socket's reading side, the timers and the end of the connection. Each turn runs in a fixed
//! order: what others left to do, writing, timers, reading. An idle connection holds no buffers: it reads
//! into a buffer of the thread and keeps only an unfinished operation. Must never interpret operations
//! (`session`) nor deliver (`fanout`).

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures::future::{BoxFuture, join_all};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use unibus_proto::decoder::{ClientOp, Decoder, DecoderLimits};
use unibus_proto::encoder;

use crate::burst::Burst;
use crate::clock;
use crate::io::Io;
use crate::outbound::{Close, Status};
use crate::plane::Plane;
use crate::ports::{Admission, AuthError, Grant};
use crate::reason::CloseReason;
use crate::session::{Deciding, Session};
use crate::shared::Shared;
use crate::stats::count;
use crate::trace;
use crate::violation::Violation;

/// One read takes at most this many bytes; shared by all connections of a thread. Each read makes the
/// kernel tell the sender how much room there is: few large ones cost half of many small ones.
const SCRATCH_BYTES: usize = 256 * 1024;

/// An unfinished operation of more than this is not kept and put before the next read again and again, but
/// read into a buffer of the connection's own.
const LARGE_BYTES: usize = 64 * 1024;

/// Reads of one turn, before other tasks get theirs.
const READS_PER_TURN: usize = 8;

/// Bytes after which a turn ends although there may be more to read.
const TURN_BYTES: usize = 512 * 1024;

/// Room for what follows in the buffer that a large operation is read into.
const LOOKAHEAD_BYTES: usize = 16 * 1024;

/// After this long without traffic a connection gives its buffers back.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// Bytes a refused client may still send while it reads why, and for how long.
const LINGER_BYTES_MAX: usize = 8 * 1024 * 1024;
const LINGER: Duration = Duration::from_millis(500);

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

pub(crate) struct Connection {
    shared: Arc<Shared>,
    /// The account's; `$G` before CONNECT.
    plane: Arc<Plane>,
    session: Session,
    io: Io,
    decoder: Decoder,
    /// The start of an unfinished operation.
    kept: BytesMut,
    timer: Pin<Box<Sleep>>,
    ping_at: Instant,
    /// Until when CONNECT has to come.
    admit_by: Option<Instant>,
    /// When to look whether the connection is idle; `None` = it has no buffers.
    shrink_at: Option<Instant>,
    last_read: Instant,
    /// Reading or writing.
    last_active: Instant,
    first_ping: bool,
    fed: Vec<BoxFuture<'static, ()>>,
}

/// What a turn ended with.
enum Turn {
    Close(Close),
    /// Wait before the next read.
    Wait,
}

impl Connection {
    pub(crate) fn new(shared: Arc<Shared>, session: Session, io: Io) -> Self {
        let now = Instant::now();
        let decoder = Decoder::new(decoder_limits(&shared, &session));
        let limits = shared.limits();
        let required = shared.is_auth_required();
        let admit_by = required.then(|| now + limits.auth_timeout);
        let ping_at = now + limits.first_ping;
        drop(limits);
        let first = admit_by.map_or(ping_at, |by| by.min(ping_at));
        Self {
            decoder,
            kept: BytesMut::new(),
            timer: Box::pin(tokio::time::sleep_until(first)),
            ping_at,
            admit_by,
            shrink_at: None,
            last_read: now,
            last_active: now,
            first_ping: true,
            fed: Vec::new(),
            plane: Arc::clone(&shared.planes.global),
            shared,
            session,
            io,
        }
    }

    pub(crate) fn register(&self) {
        self.shared.register(&self.session.record);
    }

    /// Serves the client until one side ends it. What is rare is boxed, so that the task of an idle
    /// connection stays small.
    pub(crate) async fn run(mut self: Box<Self>) {
        let mut grant: Option<watch::Receiver<Grant>> = None;
        let reason = loop {
            let turn = match &mut grant {
                None => std::future::poll_fn(|cx| self.poll_turn(cx)).await,
                Some(watch) => tokio::select! {
                    biased;
                    changed = watch.changed() => {
                        match changed {
                            Ok(()) => self.regrant(),
                            Err(_) => grant = None,
                        }
                        continue;
                    }
                    turn = std::future::poll_fn(|cx| self.poll_turn(cx)) => turn,
                },
            };
            let turn = match turn {
                Turn::Wait if self.session.deciding.is_some() => Box::pin(self.decide())
                    .await
                    .err()
                    .map_or(Turn::Wait, Turn::Close),
                turn => turn,
            };
            if let Some(new) = self.session.new_grant.take() {
                grant = Some(new);
                self.follow_limits();
            }
            match turn {
                Turn::Close(reason) => break reason,
                Turn::Wait => Box::pin(self.wait(&mut grant)).await,
            }
        };
        Box::pin(self.end(reason)).await;
    }

    /// Returns `Ready` when the connection ends or has to wait; otherwise everything there is to do has
    /// been done and the task is registered for more.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        if let Poll::Ready(reason) = self.poll_output(cx) {
            return Poll::Ready(Turn::Close(reason));
        }
        let mut bytes = 0;
        for _ in 0..READS_PER_TURN {
            match ready!(self.poll_read(cx)) {
                Err(reason) => return Poll::Ready(Turn::Close(reason)),
                Ok(read) => {
                    bytes += read;
                    let deciding = self.session.deciding.is_some();
                    if deciding || self.session.new_grant.is_some() || self.must_wait() {
                        return Poll::Ready(Turn::Wait);
                    }
                    if bytes >= TURN_BYTES {
                        break;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Everything but reading. Ready when the connection ends.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<Close> {
        self.session.outbound.register(cx.waker());
        loop {
            let Status {
                close,
                full,
                blocked,
                pending,
                nudged,
                expired,
            } = self.session.outbound.status();
            if nudged {
                self.follow_limits();
                self.session.renew_shadows(&self.plane);
            }
            for subscription in expired {
                self.session.forget(&subscription);
                if !subscription.is_closed() {
                    self.plane.table.write().unsubscribe(&subscription);
                }
                self.plane.interest_changed();
            }
            if let Some(close) = close {
                return Poll::Ready(close);
            }
            if pending > 0 || self.io.unflushed().is_some() {
                if self
                    .io
                    .poll_write(cx, &self.session.outbound, full)
                    .is_ready()
                {
                    self.note_activity();
                } else {
                    let since = blocked.or_else(|| self.io.unflushed());
                    let since = since.unwrap_or_else(Instant::now);
                    self.wake_by(since + self.shared.limits().write_deadline);
                }
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let blocked = blocked.or_else(|| self.io.unflushed());
            if let Some(reason) = self.on_timer(Instant::now(), blocked) {
                return Poll::Ready(reason);
            }
        }
    }

    /// One read and the burst it makes: the bytes read.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Close>> {
        let kept = self.kept.len();
        if kept + self.decoder.wanted() > LARGE_BYTES {
            return self.poll_read_large(cx);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(&mut scratch[kept..]);
            let result = ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer));
            let read = buffer.filled().len();
            if result.is_err() || read == 0 {
                return Poll::Ready(Err(Close::Gone));
            }
            scratch[..kept].copy_from_slice(&self.kept);
            let data = &scratch[..kept + read];
            let consumed = self.burst(data)?;
            self.kept.clear();
            self.kept.extend_from_slice(&data[consumed..]);
            Poll::Ready(Ok(read))
        })
    }

    /// The same for a large operation.
    fn poll_read_large(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Close>> {
        self.kept.reserve(self.decoder.wanted() + LOOKAHEAD_BYTES);
        let read = {
            let read = pin!(self.io.read_buf(&mut self.kept));
            ready!(read.poll(cx))
        };
        let read = read.unwrap_or(0);
        if read == 0 {
            return Poll::Ready(Err(Close::Gone));
        }
        let mut data = std::mem::take(&mut self.kept);
        let consumed = self.burst(&data)?;
        data.advance(consumed);
        self.kept = data;
        Poll::Ready(Ok(read))
    }

    /// Acts on the complete operations in `data`. Returns how many bytes they had.
    fn burst(&mut self, data: &[u8]) -> Result<usize, Close> {
        let mut consumed = 0;
        let ended = loop {
            // What follows CONNECT belongs to its account.
            if let Some(plane) = self.session.next_plane.take() {
                self.plane = plane;
            }
            let ended = self.act(data, &mut consumed);
            if ended.is_some() || self.session.next_plane.is_none() {
                break ended;
            }
        };
        self.after_burst(ended)?;
        Ok(consumed)
    }

    /// What every burst ends with.
    fn after_burst(&mut self, ended: Option<Violation>) -> Result<(), Close> {
        self.session.settle_info(&self.shared);
        self.last_read = self.note_activity();
        let meter = &self.session.outbound.meter;
        meter.received(std::mem::take(&mut self.session.received));
        meter.touch(clock::nanos(self.last_read));
        if let Some(Violation { reason, .. }) = ended {
            return Err(Close::AfterFlush(reason));
        }
        if self.session.is_admitted() {
            self.admit_by = None;
        }
        Ok(())
    }

    /// One burst: to the end of `data`, to what ends the connection, or to a change of account.
    fn act(&mut self, data: &[u8], consumed: &mut usize) -> Option<Violation> {
        let mut burst = Burst::new(&self.shared, &self.plane);
        let mut ended: Option<Violation> = None;
        let traced = trace::is_on();
        while ended.is_none()
            && self.session.next_plane.is_none()
            && self.session.deciding.is_none()
        {
            match self.decoder.decode(&data[*consumed..]) {
                Ok(Some((op, used))) => {
                    let rest = &data[*consumed..];
                    *consumed += used;
                    if traced {
                        trace::incoming(self.session.outbound.id, &op);
                    }
                    ended = self.session.handle(op, &mut burst).err();
                    if let ClientOp::Pub(op) = &op
                        && ended.is_none()
                        && !traced
                        && burst.is_open()
                    {
                        *consumed += self.session.skip_unheard(op, used, rest);
                    }
                }
                // Who has not said who it is has no payload kept for it.
                Ok(None) if self.decoder.wanted() > 1 && !self.session.is_admitted() => {
                    ended = self.session.admit_unasked(&mut burst).err();
                    break;
                }
                Ok(None) => break,
                Err(error) => {
                    ended = Some(error.into());
                }
            }
        }
        if let Some(text) = ended.as_ref().and_then(|violation| violation.text) {
            self.session.complain(text);
        }
        burst.finish(&mut self.session.fanout);
        ended
    }

    /// Waits for the decision about a CONNECT, then goes on with what the client sent behind it.
    async fn decide(&mut self) -> Result<(), Close> {
        while let Some(mut deciding) = self.session.deciding.take() {
            let decided = tokio::select! {
                decided = deciding.decision.get_mut() => decided,
                reason = std::future::poll_fn(|cx| self.poll_output(cx)) => return Err(reason),
            };
            let ended = self.conclude(&deciding, decided);
            self.after_burst(ended)?;
            let mut data = std::mem::take(&mut self.kept);
            let consumed = self.burst(&data)?;
            data.advance(consumed);
            self.kept = data;
        }
        self.must_wait();
        Ok(())
    }

    /// A burst of one operation: the CONNECT that has been decided.
    fn conclude(
        &mut self,
        deciding: &Deciding,
        decided: Result<Admission, AuthError>,
    ) -> Option<Violation> {
        let mut burst = Burst::new(&self.shared, &self.plane);
        let ended = self.session.conclude(deciding, decided, &mut burst).err();
        if let Some(text) = ended.as_ref().and_then(|violation| violation.text) {
            self.session.complain(text);
        }
        burst.finish(&mut self.session.fanout);
        if let Some(plane) = self.session.next_plane.take()
            && ended.is_none()
        {
            self.plane = plane;
        }
        ended
    }

    /// Returns the time of it.
    fn note_activity(&mut self) -> Instant {
        self.last_active = Instant::now();
        if self.shrink_at.is_none() {
            let at = self.last_active + IDLE_AFTER;
            self.shrink_at = Some(at);
            self.wake_by(at);
        }
        self.last_active
    }

    /// Takes over the node's limits and the client's own.
    fn follow_limits(&mut self) {
        self.decoder
            .set_limits(decoder_limits(&self.shared, &self.session));
        let limits = self.shared.limits();
        let outbound = &self.session.outbound;
        outbound.set_pending_max(limits.pending_bytes_max);
        self.ping_at = self.ping_at.min(Instant::now() + limits.ping_interval);
        drop(limits);
        self.wake_by(self.ping_at);
        if let Some(at) = self.session.expires_at {
            self.wake_by(at);
        }
    }

    fn wake_by(&mut self, at: Instant) {
        if at < self.timer.deadline() {
            self.timer.as_mut().reset(at);
        }
    }

    fn on_timer(&mut self, now: Instant, blocked: Option<Instant>) -> Option<Close> {
        if self.admit_by.is_some_and(|by| by <= now) && !self.session.is_admitted() {
            return Some(self.refuse("Authentication Timeout", CloseReason::AuthenticationTimeout));
        }
        if self.session.expires_at.is_some_and(|at| at <= now) {
            let expired = AuthError::Expired;
            return Some(self.refuse(expired.text(), CloseReason::AuthenticationExpired));
        }
        let write_by = blocked.map(|since| since + self.shared.limits().write_deadline);
        if write_by.is_some_and(|by| by <= now) {
            return Some(Close::SlowDeadline);
        }
        if self.ping_at <= now
            && let Some(reason) = self.ping(now)
        {
            return Some(reason);
        }
        if self.shrink_at.is_some_and(|at| at <= now) {
            self.shrink(now);
        }
        let admit_by = self.admit_by.filter(|_| !self.session.is_admitted());
        let expires_at = self.session.expires_at;
        let next = [admit_by, write_by, self.shrink_at, expires_at]
            .into_iter()
            .flatten()
            .min();
        let next = next.map_or(self.ping_at, |next| next.min(self.ping_at));
        self.timer.as_mut().reset(next);
        None
    }

    fn ping(&mut self, now: Instant) -> Option<Close> {
        let limits = self.shared.limits();
        let first = std::mem::take(&mut self.first_ping);
        self.ping_at = now + limits.ping_interval;
        // Others may have filled and emptied the buffers without this task.
        self.session.outbound.shrink();
        let active = now.duration_since(self.last_read) < limits.ping_interval;
        let admitted = self.session.is_admitted();
        if (active && !first) || (first && !admitted) {
            return None;
        }
        if self.session.pings_out + 1 > limits.pings_out_max {
            count(&self.shared.counters.stale_connections);
            return Some(self.refuse("Stale Connection", CloseReason::StaleConnection));
        }
        self.session.pings_out += 1;
        // Before CONNECT a PING would meet a client that expects nothing but PONG; its silence counts.
        if admitted {
            self.session.pinged_at = Some(now);
            self.session.outbound.append_with(encoder::ping);
            self.session.outbound.flush();
        }
        None
    }

    fn refuse(&self, text: &str, reason: CloseReason) -> Close {
        self.session
            .outbound
            .append_with(|out| encoder::err(out, text));
        Close::AfterFlush(reason)
    }

    fn shrink(&mut self, now: Instant) {
        // Who only listens is active too.
        self.session.fanout.rest();
        if now.duration_since(self.last_active) < IDLE_AFTER || !self.session.outbound.shrink() {
            self.shrink_at = Some(now + IDLE_AFTER);
            return;
        }
        self.session.fanout.free();
        if self.kept.is_empty() {
            self.kept = BytesMut::new();
        }
        self.shrink_at = None;
    }

    /// Follows a changed grant.
    fn regrant(&mut self) {
        let result = self.session.regrant(&self.shared, &self.plane);
        if let Err(Violation {
            text: Some(text), ..
        }) = &result
        {
            self.session.complain(text);
        }
        self.session.fanout.hand_over();
        self.session.fanout.flush();
        if let Err(Violation { reason, .. }) = result {
            self.session.outbound.close(Close::AfterFlush(reason));
        }
    }

    /// Whether a service or a receiver that this burst fed is behind.
    fn must_wait(&mut self) -> bool {
        let fed = self
            .session
            .fanout
            .take_fed()
            .filter_map(|service| service.ready());
        self.fed.extend(fed);
        !self.fed.is_empty() || self.session.fanout.is_stalling()
    }

    /// Waits for services and lagging receivers while output goes on and the grant is followed.
    async fn wait(&mut self, grant: &mut Option<watch::Receiver<Grant>>) {
        let fed = std::mem::take(&mut self.fed);
        let stalling = self.session.fanout.take_stalling();
        let hard = self.shared.limits().stall;
        let waiting = async {
            if !fed.is_empty() {
                join_all(fed).await;
            }
            if let Some(stalling) = stalling {
                stalling.wait(hard).await;
            }
        };
        let mut waiting = pin!(waiting);
        loop {
            tokio::select! {
                () = &mut waiting => return,
                // The reason stays in the outbound: the next turn finds it again, or the same timeout.
                reason = std::future::poll_fn(|cx| self.poll_output(cx)) => {
                    self.session.outbound.close(reason);
                    return;
                }
                () = changed(grant) => self.regrant(),
            }
        }
    }

    async fn end(mut self: Box<Self>, reason: Close) {
        let outbound = Arc::clone(&self.session.outbound);
        let reason = outbound.close(reason);
        let subscribed = outbound.meter.subscriptions();
        self.session.leave(&self.plane).await;
        self.session.record.unfollow();
        self.shared.regranted.notify_waiters();
        match reason {
            Close::SlowPending | Close::SlowDeadline => {
                count(&self.shared.counters.slow_consumers);
                count(&self.plane.slow_consumers);
                tracing::info!(client_id = outbound.id, ?reason, "slow consumer closed");
            }
            Close::AfterFlush(_) | Close::Shutdown => {
                let longest = self.shared.limits().flush_on_close;
                let flushing = self.flush_rest(reason.reason());
                let _ = tokio::time::timeout(longest, flushing).await;
                outbound.detach();
                if reason != Close::Shutdown {
                    let _ = tokio::time::timeout(LINGER, linger(&mut self.io)).await;
                }
            }
            Close::Gone | Close::Failed if self.io.owes_farewell() => {
                let longest = self.shared.limits().flush_on_close;
                let answering = self.io.shutdown(reason.reason());
                let _ = tokio::time::timeout(longest, answering).await;
            }
            Close::Gone | Close::Failed => {}
        }
        outbound.detach();
        tracing::debug!(client_id = outbound.id, ?reason, "connection closed");
        let record = &self.session.record;
        self.shared.unregister(record, reason.reason(), subscribed);
    }

    async fn flush_rest(&mut self, reason: CloseReason) {
        std::future::poll_fn(|cx| {
            let outbound = &self.session.outbound;
            outbound.register(cx.waker());
            let status = outbound.status();
            let flushed = status.pending == 0 && self.io.unflushed().is_none();
            if flushed || matches!(status.close, Some(Close::Gone | Close::Failed)) {
                return Poll::Ready(());
            }
            let _ = self.io.poll_write(cx, outbound, status.full);
            if outbound.status().pending == 0 && self.io.unflushed().is_none() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        let _ = self.io.shutdown(reason).await;
    }
}

/// What one connection's operations may have.
fn decoder_limits(shared: &Shared, session: &Session) -> DecoderLimits {
    DecoderLimits {
        control_line_bytes_max: shared.limits().control_line_bytes_max,
        payload_bytes_max: session.payload_bytes_max(shared),
    }
}

/// Resolves when the grant has changed; never where there is none.
async fn changed(grant: &mut Option<watch::Receiver<Grant>>) {
    if let Some(watch) = grant
        && watch.changed().await.is_ok()
    {
        return;
    }
    *grant = None;
    std::future::pending().await
}

/// Reads until the client has closed too. Closing with unread bytes would reset the connection, and the
/// client might never see why.
async fn linger(io: &mut Io) -> io::Result<()> {
    let mut sink = vec![0; 2048];
    let mut left = LINGER_BYTES_MAX;
    while left > 0 {
        let read = io.read(&mut sink).await?;
        if read == 0 {
            break;
        }
        left = left.saturating_sub(read);
    }
    Ok(())
}
