//! Drives cluster formation: forms the cluster where [`super::bootstrap`] says so, and on the leader
//! admits nodes that are connected without being members. Owns the waiting and the log lines.

use std::sync::Arc;
use std::time::{Duration, Instant};

use unibus_proto::NodeId;
use unibus_raft::Replica;

use super::bootstrap::{RouteView, Step, Stranger, next_step, to_admit};
use crate::mesh::{Mesh, RouteState};
use crate::shutdown::Shutdown;

/// How often a node that waits says what it is waiting for.
const REMINDER: Duration = Duration::from_secs(5);
/// After this long the waiting is an error that somebody has to look at; the node keeps trying.
const BUDGET: Duration = Duration::from_secs(120);
/// Longest time between two looks, in case a change went unnoticed.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a node waits for that lost its store.
const LOST: &str = "this node lost its store, which is set aside in the folder damaged; the members that \
                    are left will admit it once a majority of them is there. If no majority is left: \
                    unibus-node recover --help";

/// Runs until shutdown.
pub(super) async fn run(replica: Replica, mesh: Arc<Mesh>, name: String, mut shutdown: Shutdown) {
    tokio::select! {
        () = shutdown.wait() => {}
        () = form_and_admit(&replica, &mesh, &name) => {}
    }
}

async fn form_and_admit(replica: &Replica, mesh: &Mesh, name: &str) {
    form(replica, mesh, name).await;
    mesh.status_changed();
    admit_for_ever(replica, mesh).await;
}

/// Returns once this node belongs to a cluster.
async fn form(replica: &Replica, mesh: &Mesh, name: &str) {
    let started = Instant::now();
    let mut reminded = Instant::now();
    let mut changes = mesh.changes();
    loop {
        let status = replica.status();
        if status.initialized {
            return;
        }
        let step = match status.rejoining {
            true => Step::Wait(LOST.to_owned()),
            false => next_step(NodeId(status.node_id), name, &view(mesh)),
        };
        match step {
            Step::Initialize(members) => {
                let names: Vec<_> = members.values().cloned().collect();
                match replica.initialize(members).await {
                    Ok(()) => {
                        tracing::info!(members = ?names, "formed the cluster");
                        return;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "forming the cluster failed; trying again")
                    }
                }
            }
            Step::Wait(why) if reminded.elapsed() >= REMINDER => {
                reminded = Instant::now();
                let waited_s = started.elapsed().as_secs();
                if started.elapsed() > BUDGET {
                    tracing::error!(waited_s, %why, "this node still belongs to no cluster");
                } else {
                    tracing::info!(waited_s, %why, "waiting to form or join the cluster");
                }
            }
            Step::Wait(_) => {}
        }
        // An error means that the mesh is gone, and with it this task.
        let _changed = tokio::time::timeout(LOOK_EVERY, changes.changed()).await;
    }
}

/// While this node leads, makes members of the nodes that are connected without being any.
async fn admit_for_ever(replica: &Replica, mesh: &Mesh) {
    let mut changes = mesh.changes();
    loop {
        if replica.leadership().borrow().is_leader {
            let status = replica.status();
            let peers: Vec<_> = mesh
                .peers()
                .into_iter()
                .map(|p| Stranger {
                    id: p.id,
                    name: p.name,
                    initialized: p.initialized,
                    rejoining: p.rejoining,
                })
                .collect();
            for (id, name) in to_admit(&peers, &status.voters, &status.learners) {
                match replica.admit(id, name.clone()).await {
                    Ok(()) => tracing::info!(node = %id, name, "admitted to the cluster"),
                    Err(error) => {
                        tracing::warn!(node = %id, name, %error, "not admitted; trying again");
                    }
                }
            }
        }
        let _changed = tokio::time::timeout(LOOK_EVERY, changes.changed()).await;
    }
}

/// The route entries as the decision wants them.
fn view(mesh: &Mesh) -> Vec<RouteView> {
    let peers = mesh.peers();
    let entry = |status: crate::mesh::RouteStatus| match status.state {
        RouteState::Own => RouteView::Myself,
        RouteState::Connected(id) => match peers.iter().find(|peer| peer.id == id) {
            Some(peer) => RouteView::Peer {
                id,
                name: peer.name.clone(),
                initialized: peer.initialized,
            },
            None => RouteView::Pending(format!("{}: just disconnected", status.route)),
        },
        RouteState::Pending { last_error } => {
            let why = last_error.unwrap_or_else(|| "no answer yet".to_owned());
            RouteView::Pending(format!("{}: {why}", status.route))
        }
    };
    mesh.routes().into_iter().map(entry).collect()
}
