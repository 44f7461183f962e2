//! When checkpoints are taken: by bytes of entries applied, or on request. Each purges the log up to
//! the checkpoint before it, so that a follower that lags less than one interval is fed from the log.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;

use crate::errors::CheckpointError;
use crate::replica::Inner;

/// How often the bytes are looked at.
const POLL: Duration = Duration::from_millis(500);
/// How long a checkpoint may take before it is reported as late (it goes on).
const LATE: Duration = Duration::from_secs(600);
/// How often a wait for a checkpoint looks again.
const WAIT_POLL: Duration = Duration::from_millis(10);

/// Takes checkpoints until the replica stops.
pub(crate) async fn run(inner: Arc<Inner>, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        tokio::select! {
            _ = stop.changed() => break,
            () = tokio::time::sleep(POLL) => {}
        }
        let bytes = inner.shared.bytes_since_checkpoint.load(Ordering::Relaxed);
        if bytes < inner.options.checkpoint_log_bytes {
            continue;
        }
        let taken = tokio::select! {
            _ = stop.changed() => break,
            taken = take(&inner) => taken,
        };
        match taken {
            Ok(index) => {
                let upto = inner.previous_checkpoint.swap(index, Ordering::AcqRel);
                tracing::info!(index, purged = upto, bytes, "checkpoint taken");
                purge(&inner, upto).await;
            }
            Err(error) => tracing::error!(%error, "no checkpoint"),
        }
    }
}

/// Takes a checkpoint that covers everything applied by now, and purges the log up to it.
pub(crate) async fn checkpoint_now(inner: &Inner) -> Result<u64, CheckpointError> {
    let index = take(inner).await?;
    inner.previous_checkpoint.store(index, Ordering::Release);
    purge(inner, index).await;
    Ok(index)
}

/// Has a checkpoint taken that covers everything applied by now.
pub(crate) async fn take(inner: &Inner) -> Result<u64, CheckpointError> {
    let wanted = *inner.shared.applied.borrow();
    let taken = || {
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = metrics.snapshot.map_or(0, |id| id.index);
        (index >= wanted).then_some(index)
    };
    let started = tokio::time::Instant::now();
    let mut triggered = None;
    loop {
        if let Some(index) = taken() {
            return Ok(index);
        }
        // A trigger is ignored while another checkpoint is being built: repeat it now and then.
        if triggered.is_none_or(|at: tokio::time::Instant| at.elapsed() >= POLL) {
            inner
                .raft
                .trigger()
                .snapshot()
                .await
                .map_err(|_| CheckpointError::Stopped)?;
            triggered = Some(tokio::time::Instant::now());
        }
        if *inner.stop.borrow() {
            return Err(CheckpointError::Stopped);
        }
        if started.elapsed() >= LATE {
            return Err(CheckpointError::TimedOut);
        }
        tokio::time::sleep(WAIT_POLL).await;
    }
}

async fn purge(inner: &Inner, upto: u64) {
    if upto > 0
        && let Err(error) = inner.raft.trigger().purge_log(upto).await
    {
        tracing::error!(%error, "the log was not purged");
    }
}
