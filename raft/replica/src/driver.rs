//! When checkpoints are taken: by bytes of entries applied, or on request. Each purges the log up to
//! the checkpoint before it, so that a follower that lags less than one interval is fed from the log. And
//! when the members are others than in the newest one, which says who can be asked if the log is lost: such
//! a checkpoint purges nothing, and the intervals stay what they are.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;

use crate::errors::CheckpointError;
use crate::machine;
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
        let is_due = bytes >= inner.options.checkpoint_log_bytes;
        if !is_due && !has_new_members(&inner) {
            continue;
        }
        let taken = tokio::select! {
            _ = stop.changed() => break,
            taken = take(&inner) => taken,
        };
        match taken {
            Ok(index) if !is_due => {
                let counted = &inner.shared.bytes_since_checkpoint;
                counted.fetch_add(bytes, Ordering::Relaxed);
                tracing::info!(index, "checkpoint taken, with its new members");
            }
            Ok(index) => {
                let upto = inner.previous_checkpoint.swap(index, Ordering::AcqRel);
                tracing::info!(index, purged = upto, bytes, "checkpoint taken");
                purge(&inner, upto).await;
            }
            Err(error) => tracing::error!(%error, "no checkpoint"),
        }
    }
}

/// Whether the newest checkpoint names other members than those of now.
fn has_new_members(inner: &Inner) -> bool {
    let now = inner.shared.members_since.load(Ordering::Relaxed);
    let current = inner.shared.store.current();
    current.is_some_and(|current| machine::since(&current.manifest.meta.last_membership) != now)
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
        // Consensus tells of one that it has begun to install, which is not the newest here yet.
        let told = metrics.snapshot.map_or(0, |id| id.index);
        let current = inner.shared.store.current();
        let index = told.min(current.map_or(0, |current| current.manifest.index()));
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
