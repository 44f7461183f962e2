//! The least rate at which clients of HTTP send and read, so that a byte now and then does not hold a
//! connection for ever (Apache's mod_reqtimeout, Kestrel's `MinDataRate` and IIS's `minBytesPerSecond` are
//! of the kind). A client falls behind while it is what is waited for, and catches up with each byte. Where
//! the node itself is slow, nothing is counted: it waits for its own store without looking at the client, and
//! a pause of the whole process counts as one [`tick`].

use std::io;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tracing::debug;

use crate::config::limits::HttpLimits;

/// Bytes of an answer that the kernel holds and has not sent yet. It tells of room only when half of them
/// are gone, so more would make a client on a slow line look as if it read nothing: by default it would hold
/// megabytes. What it takes and sends is a segment at a time, of up to 64 KiB on some networks: there the least
/// rate of reading is rather such a segment within the time that a reader may be behind.
const UNSENT_BYTES_MAX: u32 = 16 * 1024;
/// Looks at a client within the time that it may be behind.
const TICKS: u32 = 8;
/// The longest time between two looks.
const TICK_MAX: Duration = Duration::from_secs(1);

/// The time between two looks at a client that may be `grace` behind.
fn tick(grace: Duration) -> Duration {
    (grace / TICKS).clamp(Duration::from_millis(1), TICK_MAX)
}

/// How far a client is behind the least rate.
#[derive(Debug)]
struct Lag {
    bytes_per_second: NonZeroU32,
    /// How far it may be behind.
    grace: Duration,
    /// How far it may be ahead: what was fast before makes up for what is slow.
    ahead_max: Duration,
    /// Time that was waited for it, without that which its bytes may take at the least rate.
    behind_ns: i128,
}

impl Lag {
    fn new(bytes_per_second: NonZeroU32, grace: Duration, ahead_max: Duration) -> Self {
        Self {
            bytes_per_second,
            grace,
            ahead_max,
            behind_ns: 0,
        }
    }

    /// Adds time in which it was waited for; true = it is further behind than it may be.
    fn waited(&mut self, time: Duration) -> bool {
        self.behind_ns += nanoseconds(time);
        self.behind_ns > nanoseconds(self.grace)
    }

    /// Adds bytes that it has sent or read.
    fn moved(&mut self, bytes: u64) {
        let worth = i128::from(bytes) * 1_000_000_000 / i128::from(self.bytes_per_second.get());
        self.behind_ns = (self.behind_ns - worth).max(-nanoseconds(self.ahead_max));
    }
}

fn nanoseconds(time: Duration) -> i128 {
    i128::try_from(time.as_nanos()).unwrap_or(i128::MAX / 2)
}

/// Bytes that came over one connection, the encryption's among them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrived(Arc<AtomicU64>);

/// A client that sends its body more slowly than it has to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TooSlow;

impl Arrived {
    /// Reads a body with `reading`, which waits for nothing but the client, as long as the client keeps up.
    /// Over the whole body counts what it sent: how long that may take is bounded elsewhere.
    pub(crate) async fn keeping_up<T>(
        &self,
        limits: &HttpLimits,
        reading: impl Future<Output = T>,
    ) -> Result<T, TooSlow> {
        let grace = limits.body_grace;
        let mut lag = Lag::new(limits.client_bytes_per_second_min, grace, Duration::MAX);
        let mut seen = self.0.load(Ordering::Relaxed);
        let mut reading = std::pin::pin!(reading);
        loop {
            let looking = sleep(tick(grace));
            tokio::select! {
                biased;
                read = &mut reading => return Ok(read),
                () = looking => {}
            }
            let now = self.0.load(Ordering::Relaxed);
            lag.moved(now - seen);
            seen = now;
            if lag.waited(tick(grace)) {
                return Err(TooSlow);
            }
        }
    }
}

/// A connection on which who reads too slowly gets an error of the kind `TimedOut`, and on which
/// is counted what comes.
#[derive(Debug)]
pub(crate) struct Paced {
    stream: TcpStream,
    arrived: Arrived,
    lag: Lag,
    /// When the client was looked at last, while it is waited for.
    waiting_since: Option<Instant>,
    /// Until it is looked at next; made when a client lets the node wait for the first time.
    look: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    pub(crate) fn new(stream: TcpStream, limits: &HttpLimits) -> Self {
        if let Err(error) = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX) {
            debug!(%error, "slow readers may look as if they read nothing");
        }
        let rate = limits.client_bytes_per_second_min;
        Self {
            stream,
            arrived: Arrived::default(),
            // An answer may take for ever: what was fast before makes up for nothing.
            lag: Lag::new(rate, limits.write_timeout, Duration::ZERO),
            waiting_since: None,
            look: None,
        }
    }

    /// What is counted of it.
    pub(crate) fn arrived(&self) -> Arrived {
        self.arrived.clone()
    }

    fn heed(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            if let Some(since) = self.waiting_since.take() {
                self.lag.waited(since.elapsed().min(tick(self.lag.grace)));
            }
            self.lag.moved(written.as_ref().map_or(0, |n| *n as u64));
            return Poll::Ready(written);
        }
        ready!(self.poll_behind(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ready when the client, which is waited for, is further behind than it may be.
    fn poll_behind(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let tick = tick(self.lag.grace);
        let look = self.look.get_or_insert_with(|| Box::pin(sleep(tick)));
        if self.waiting_since.is_none() {
            let now = Instant::now();
            self.waiting_since = Some(now);
            look.as_mut().reset(now + tick);
        }
        loop {
            ready!(look.as_mut().poll(cx));
            if self.lag.waited(tick) {
                return Poll::Ready(());
            }
            let now = Instant::now();
            self.waiting_since = Some(now);
            look.as_mut().reset(now + tick);
        }
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let came = (buf.filled().len() - before) as u64;
        self.arrived.0.fetch_add(came, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.heed(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.heed(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn lag(ahead_max: Duration) -> Lag {
        Lag::new(NonZeroU32::new(240).unwrap(), 5 * SECOND, ahead_max)
    }

    #[test]
    fn who_keeps_the_rate_goes_on_for_ever_and_who_trickles_does_not() {
        let mut steady = lag(Duration::ZERO);
        for _ in 0..100_000 {
            assert!(!steady.waited(SECOND));
            steady.moved(240);
        }
        // In lumps, as the kernel tells of them.
        for _ in 0..10_000 {
            assert!(!(0..5).any(|_| steady.waited(SECOND)));
            steady.moved(5 * 240);
        }
        let mut trickling = lag(Duration::ZERO);
        let cut_after = (1..).find(|_| {
            trickling.moved(1);
            trickling.waited(SECOND)
        });
        assert_eq!(cut_after, Some(6));
    }

    #[test]
    fn what_was_fast_makes_up_for_what_is_slow_only_as_far_as_it_may() {
        let (mut answer, mut body) = (lag(Duration::ZERO), lag(Duration::MAX));
        answer.moved(u64::MAX);
        body.moved(2400);
        assert!(!answer.waited(5 * SECOND) && answer.waited(SECOND));
        assert!(!body.waited(15 * SECOND) && body.waited(SECOND));
        body.moved(u64::MAX);
        assert!(!body.waited(1_000_000 * SECOND));
    }

    #[tokio::test]
    #[allow(
        clippy::disallowed_methods,
        reason = "the node itself stands still, as on a machine that is short of processors"
    )]
    async fn a_pause_of_the_node_is_not_the_clients_slowness() {
        let limits = HttpLimits {
            body_grace: Duration::from_millis(200),
            ..HttpLimits::default()
        };
        let pausing = async {
            std::thread::sleep(3 * limits.body_grace);
            sleep(tick(limits.body_grace)).await;
        };
        let read = Arrived::default().keeping_up(&limits, pausing).await;
        assert_eq!(read, Ok(()));
        let waiting = std::future::pending::<()>();
        let read = Arrived::default().keeping_up(&limits, waiting).await;
        assert_eq!(read, Err(TooSlow));
    }
}
