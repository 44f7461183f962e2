//! Notices that consensus has ended by a panic. openraft's metrics tell of an end with an error only: after a
//! panic they stay as they were.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::replica::Inner;

/// How often consensus is asked whether it is there.
const LOOK: Duration = Duration::from_millis(500);

/// Runs until the replica stops or consensus has ended, which [`crate::ReplicaStatus::fatal`] then tells.
pub(crate) async fn watch(inner: Arc<Inner>, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        let asked = tokio::select! {
            asked = inner.raft.with_raft_state(|_| ()) => asked,
            _ = stop.changed() => continue,
        };
        if let Err(fatal) = asked {
            // One that was told to stop has not failed.
            if !*stop.borrow() {
                tracing::error!(%fatal, "consensus has ended on this node");
                // It is set once, here.
                let _set = inner.ended.set(fatal.to_string());
            }
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stop.changed() => {}
        }
    }
}
