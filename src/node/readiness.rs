//! When a node may answer for the cluster: once it has held everything that was acknowledged before.
//! Until then it knows neither all users nor all streams, and would refuse people it should admit.

use std::time::Duration;

use tokio::sync::watch;
use unibus_raft::Replica;

use crate::access::first_users::FirstUsers;
use crate::control::{buckets, first_users};
use crate::shutdown::Shutdown;

/// Between two attempts at a read barrier while there is no leader.
const RETRY: Duration = Duration::from_millis(50);

/// What the control plane of a node that keeps its records starts with.
#[derive(Debug)]
pub(super) struct Beginnings {
    /// The users that were added before the node first started, where it has a place for them.
    pub(super) first_users: Option<FirstUsers>,
}

/// Sets `caught_up` when a read barrier has passed and the control plane's buckets are there, with
/// its first users, where it has any; then ends.
pub(super) async fn watch_for(
    replica: Replica,
    caught_up: watch::Sender<bool>,
    control_plane: Option<Beginnings>,
    mut shutdown: Shutdown,
) {
    tokio::select! {
        () = shutdown.wait() => {}
        () = catch_up(&replica, control_plane.as_ref()) => {
            caught_up.send_replace(true);
            tracing::info!(applied_index = replica.status().applied_index, "ready");
        }
    }
}

async fn catch_up(replica: &Replica, control_plane: Option<&Beginnings>) {
    loop {
        if replica.read_barrier().await.is_ok()
            && (control_plane.is_none() || replica.with_state(buckets::complete))
        {
            break;
        }
        tokio::time::sleep(RETRY).await;
    }
    if let Some(file) = control_plane.and_then(|plane| plane.first_users.as_ref()) {
        first_users::take(replica, file).await;
    }
}
