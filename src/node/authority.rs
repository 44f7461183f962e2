//! A node that has been without a leader for long does not know whom the others have revoked: it
//! admits nobody new, and rooms open nothing on its connections, until it has caught up again
//! (cluster.md, no quorum).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use unibus_raft::Replica;

use crate::access::Directory;
use crate::shutdown::Shutdown;

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
        if leadership
            .wait_for(|known| known.leader.is_none())
            .await
            .is_err()
        {
            return;
        }
        let returned = leadership.wait_for(|known| known.leader.is_some());
        if tokio::time::timeout(staleness, returned).await.is_ok() {
            continue;
        }
        directory.set_authority(false);
        directory.suspend_rooms(true);
        tracing::warn!(
            "no leader for {staleness:?}: nobody new is admitted, and rooms are suspended on \
             this node's connections, until there is one"
        );
        while replica.read_barrier().await.is_err() {
            if leadership
                .wait_for(|known| known.leader.is_some())
                .await
                .is_err()
            {
                return;
            }
        }
        tracing::info!("the users are known for certain again");
    }
}
