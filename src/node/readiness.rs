//! When a node may answer for the cluster: once it has held everything that was acknowledged before.
//! Until then it knows neither all users nor all streams, and would refuse people it should admit.

use std::time::Duration;

use tokio::sync::watch;
use unibus_raft::Replica;

use super::users::USERS_STREAM;
use crate::shutdown::Shutdown;

/// Between two attempts at a read barrier while there is no leader.
const RETRY: Duration = Duration::from_millis(50);

/// Sets `caught_up` when a read barrier has passed and the users' bucket is there, where users are
/// kept in one; then ends.
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
        if replica.read_barrier().await.is_ok() && (!users_bucket || has_users(replica)) {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn has_users(replica: &Replica) -> bool {
    replica.with_state(|state| state.stream(USERS_STREAM).is_some())
}
