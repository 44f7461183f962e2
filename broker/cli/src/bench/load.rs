//! The bounds of a run, what it has done so far, and the clients that do it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use super::AmountArgs;
use super::report::Report;
use crate::error::{CliError, Result};
use crate::output;

/// Pause between two looks at what was done.
const TICK: Duration = Duration::from_millis(200);
/// Longest time that is told apart, in nanoseconds: a minute.
const LONGEST_NS: u64 = 60_000_000_000;
/// Significant figures of times.
const FIGURES: u8 = 3;
/// How many messages are taken at a time, so that clients rarely meet.
const TAKEN: u64 = 16;

/// Times of single messages, in nanoseconds.
pub(super) type Times = Histogram<u64>;

/// An empty histogram.
///
/// # Errors
/// None in practice: its bounds are constants.
pub(super) fn times() -> Result<Times> {
    Histogram::new_with_bounds(1, LONGEST_NS, FIGURES)
        .map_err(|error| CliError::Failed(format!("no histogram: {error}")))
}

/// Notes the time since `began`.
pub(super) fn note(times: &mut Times, began: Instant) {
    let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
    times.saturating_record(nanos);
}

/// What is to be done and what is done.
pub(super) struct Load {
    limit: u64,
    until: Option<Duration>,
    began: Instant,
    taken: AtomicU64,
    done: AtomicU64,
    stopped: AtomicBool,
}

/// One client's share of the load.
pub(super) struct Share {
    load: Arc<Load>,
    left: u64,
}

impl Share {
    /// Whether to do one more.
    pub(super) fn more(&mut self) -> bool {
        if self.left == 0 {
            self.left = self.load.take();
        }
        self.left = match self.left.checked_sub(1) {
            Some(left) => left,
            None => return false,
        };
        true
    }

    /// One is done.
    pub(super) fn done(&self) {
        self.load.done.fetch_add(1, Ordering::Relaxed);
    }
}

impl Load {
    /// A load that begins now.
    pub(super) fn new(limit: u64, until: Option<Duration>) -> Arc<Self> {
        Arc::new(Self {
            limit,
            until,
            began: Instant::now(),
            taken: AtomicU64::new(0),
            done: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        })
    }

    /// A client's share.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share {
            load: Arc::clone(self),
            left: 0,
        }
    }

    /// Ends it early.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether it ended early.
    pub(super) fn is_over(&self) -> bool {
        let late = self
            .until
            .is_some_and(|until| self.began.elapsed() >= until);
        late || self.stopped.load(Ordering::Relaxed)
    }

    /// How many are done.
    pub(super) fn finished(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    fn take(&self) -> u64 {
        if self.is_over() {
            return 0;
        }
        let before = self.taken.fetch_add(TAKEN, Ordering::Relaxed);
        self.limit.saturating_sub(before).min(TAKEN)
    }
}

/// A phase of a bench: its clients at work, live figures, and the report.
///
/// # Errors
/// The first that a client had; the others are stopped.
pub(super) async fn phase<F, Fut>(
    what: &str,
    amount: &AmountArgs,
    load: &Arc<Load>,
    work: F,
) -> Result<Report>
where
    F: Fn(u16, Share) -> Fut,
    Fut: Future<Output = Result<Times>> + Send + 'static,
{
    let began = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..amount.clients {
        clients.spawn(work(number, load.share()));
    }
    let bar = bar(what, load.limit);
    let mut all = times()?;
    let mut problem = None;
    loop {
        let ended = tokio::select! {
            ended = clients.join_next() => ended,
            () = tokio::time::sleep(TICK) => {
                bar.set_position(load.finished());
                continue;
            }
            _ = tokio::signal::ctrl_c() => {
                load.stop();
                continue;
            }
        };
        match ended {
            None => break,
            Some(Ok(Ok(times))) => {
                let merged = all.add(times);
                merged.map_err(|error| CliError::Failed(format!("no histogram: {error}")))?;
            }
            Some(Ok(Err(error))) => {
                load.stop();
                problem.get_or_insert(error);
            }
            Some(Err(error)) => {
                load.stop();
                problem.get_or_insert_with(|| CliError::Failed(format!("a client ended: {error}")));
            }
        }
    }
    let took = began.elapsed();
    bar.finish_and_clear();
    match problem {
        Some(error) => Err(error),
        None => Ok(Report::new(what, amount, load.finished(), took, all)),
    }
}

fn bar(what: &str, limit: u64) -> ProgressBar {
    let bar = ProgressBar::new(limit);
    if !output::person_watches() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let template = "{msg:10} {bar:32} {human_pos}/{human_len} {per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar
}

/// A payload of `size` bytes.
pub(super) fn payload(size: u64) -> Bytes {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    Bytes::from(vec![b'x'; size])
}

#[cfg(test)]
mod tests {
    use super::Load;

    #[test]
    fn shares_add_up_to_the_load() {
        let load = Load::new(100, None);
        let (mut one, mut two, mut done) = (load.share(), load.share(), 0);
        loop {
            let (a, b) = (one.more(), two.more());
            done += u64::from(a) + u64::from(b);
            if !a && !b {
                break;
            }
        }
        assert_eq!(done, 100);
    }

    #[test]
    fn a_stopped_load_ends() {
        let load = Load::new(1000, None);
        let mut share = load.share();
        assert!(share.more());
        load.stop();
        assert!((0..1000).filter(|_| share.more()).count() < 16);
    }
}
