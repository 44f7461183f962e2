//! When a node may answer for the cluster: once it has held everything that was acknowledged before.
//! Until then it knows neither all users nor all streams, and would refuse people it should admit.

use std::time::Duration;

use tokio::sync::watch;
use unibus_raft::Replica;

use crate::control::buckets;
use crate::shutdown::Shutdown;

/// Between two attempts at a read barrier while there is no leader.
const RETRY: Duration = Duration::from_millis(50);

/// Sets `caught_up` when a read barrier has passed and the control plane's buckets are there, where
/// it has any; then ends.
pub(super) async fn watch_for(
    replica: Replica,
    caught_up: watch::Sender<bool>,
    users_bucket: bool,
    mut shutdown: Shutdown,
) {
    tokio::select! {
        () = shutdown.wait() => {}
        () = catch_up(&replica, users_bucket) => {
            caught_up.send_replace(true);
            tracing::info!(applied_index = replica.status().applied_index, "ready");
        }
    }
}

async fn catch_up(replica: &Replica, users_bucket: bool) {
    loop {
        if replica.read_barrier().await.is_ok()
            && (!users_bucket || replica.with_state(buckets::complete))
        {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}
