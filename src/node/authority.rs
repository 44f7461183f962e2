//! A node that has been without a leader for long, or has applied nothing for long of what its leader
//! committed, does not know whom the others have revoked: it
//! admits nobody new, and rooms open nothing on its connections, until it has caught up again
//! (cluster.md, no quorum).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use unibus_raft::{Leadership, Replica};

use crate::access::Directory;
use crate::shutdown::Shutdown;

/// A node is not taken for one that lags before this, however short the staleness: a read barrier takes
/// its time on a busy machine.
const BEHIND_MIN: Duration = Duration::from_secs(2);
/// Between two looks whether a node that did not know the users has caught up.
const RETRY: Duration = Duration::from_millis(100);

/// Keeps the directory's authority in step with the quorum, until shutdown. `staleness` is how old
/// a node's knowledge of the users may be before it stops going by it.
pub(super) async fn follow(
    replica: Replica,
    directory: Arc<Directory>,
    mut caught_up: watch::Receiver<bool>,
    staleness: Duration,
    mut shutdown: Shutdown,
) {
    tokio::select! {
        () = shutdown.wait() => {}
        () = async {
            if caught_up.wait_for(|done| *done).await.is_ok() {
                follow_leader(&replica, &directory, staleness).await;
            }
        } => {}
    }
}

async fn follow_leader(replica: &Replica, directory: &Directory, staleness: Duration) {
    let mut leadership = replica.leadership();
    loop {
        directory.set_authority(true);
        directory.suspend_rooms(false);
        let why = tokio::select! {
            why = without_leader(&mut leadership, staleness) => why,
            () = behind(replica, staleness) => Some("nothing learnt from the leader"),
        };
        directory.set_authority(false);
        directory.suspend_rooms(true);
        let Some(why) = why else {
            // A lease may go on for a moment and say otherwise: nothing is believed of it any more.
            tracing::warn!("the store has failed: nobody new is admitted, and rooms are suspended");
            return std::future::pending().await;
        };
        tracing::warn!(
            "{why} for {staleness:?}: nobody new is admitted, and rooms are suspended on this \
             node's connections, until this node knows the users again"
        );
        while replica.read_barrier().await.is_err() {
            tokio::time::sleep(RETRY).await;
        }
        tracing::info!("the users are known for certain again");
    }
}

/// Resolves when there has been no leader for so long, or when there will be none: `None`, the store failed.
async fn without_leader(
    leadership: &mut watch::Receiver<Leadership>,
    staleness: Duration,
) -> Option<&'static str> {
    loop {
        let lost = leadership.wait_for(|known| known.leader.is_none()).await;
        lost.ok()?;
        let returned = leadership.wait_for(|known| known.leader.is_some());
        match tokio::time::timeout(staleness, returned).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return None,
            Err(_) => return Some("no leader"),
        }
    }
}

/// Resolves when this node has applied nothing for so long of what the leader had committed: it hears
/// of a leader, and its disk stands still.
async fn behind(replica: &Replica, staleness: Duration) {
    let longest = staleness.max(BEHIND_MIN);
    let mut known = Instant::now();
    loop {
        let asked = Instant::now();
        match tokio::time::timeout_at(known + longest, replica.read_barrier()).await {
            Ok(Ok(_)) => known = asked,
            Ok(Err(_)) if known.elapsed() < longest => {}
            Ok(Err(_)) | Err(_) => return,
        }
        tokio::time::sleep(longest / 4).await;
    }
}
