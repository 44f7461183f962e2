//! Drives cluster formation: forms the cluster where [`super::bootstrap`] says so, and on the leader
//! admits nodes that are connected without being members. Owns the waiting and the log lines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use unibus_proto::NodeId;
use unibus_raft::{CLUSTER_IDS_FROM, Replica};

use super::bootstrap::{Company, RouteView, Step, Stranger, next_step, to_admit};
use crate::mesh::{Mesh, PeerStatus, RouteState};
use crate::monitor::standing;
use crate::shutdown::Shutdown;

/// How often a node that waits says what it is waiting for.
const REMINDER: Duration = Duration::from_secs(5);
/// After this long the waiting is an error that somebody has to look at; the node keeps trying.
const BUDGET: Duration = Duration::from_secs(120);
/// Longest time between two looks, in case a change went unnoticed.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long a node whose routes name nobody else waits for nodes that may know it: whoever has it among its
/// routes dials it within [`crate::mesh::REDIAL_WITHIN`].
pub(super) const ALONE_AFTER: Duration = crate::mesh::REDIAL_WITHIN;

/// What a node waits for that lost its store.
const LOST: &str = "this node lost its store, which is set aside in the folder damaged; the members that \
                    are left will admit it once a majority of them is there. If no majority is left: \
                    unibus-node recover --help";

/// What forms the cluster, or finds it formed.
pub(super) struct Formation {
    pub(super) replica: Replica,
    pub(super) mesh: Arc<Mesh>,
    /// This node's name.
    pub(super) name: String,
    /// See [`ALONE_AFTER`].
    pub(super) alone_after: Duration,
    /// Whether peers are told that this node is about to form a cluster of its own: they wait for it.
    pub(super) forming: Arc<AtomicBool>,
}

/// Runs until shutdown.
pub(super) async fn run(formation: Formation, mut shutdown: Shutdown) {
    tokio::select! {
        () = shutdown.wait() => {}
        () = form_and_admit(&formation) => {}
    }
}

async fn form_and_admit(formation: &Formation) {
    form(formation).await;
    formation.tell_forming(false);
    formation.mesh.status_changed();
    attend(&formation.replica, &formation.mesh).await;
}

impl Formation {
    fn tell_forming(&self, is_forming: bool) {
        if self.forming.swap(is_forming, Ordering::Relaxed) != is_forming {
            self.mesh.status_changed();
        }
    }

    /// Whether the routes name no other node.
    fn is_alone(&self) -> bool {
        view(&self.mesh)
            .iter()
            .all(|route| *route == RouteView::Myself)
    }

    /// What a node without state does next.
    fn step(&self, patient: bool) -> Option<Step> {
        let status = self.replica.status();
        if status.initialized {
            return None;
        }
        if status.rejoining {
            return Some(Step::Wait(LOST.to_owned()));
        }
        if let Some(cluster) = status.awaits {
            return Some(Step::Wait(format!(
                "cluster {cluster} has begun to admit this node, which takes part in no other: its members \
                 have to be there. To let it join another one, stop it and move its data folder away"
            )));
        }
        let (id, routes) = (NodeId(status.node_id), view(&self.mesh));
        let company: Vec<Company> = self.mesh.peers().iter().map(company).collect();
        Some(next_step(id, &self.name, &routes, &company, patient))
    }
}

/// What a peer says of itself, as far as it matters to a node without state.
fn company(peer: &PeerStatus) -> Company {
    let is_known = peer.cluster_id.is_some() || peer.unidentified || peer.rejoining;
    let belongs = match peer.initialized {
        _ if is_known => Some(true),
        // Of such a version it is all that is told.
        true if peer.protocol < CLUSTER_IDS_FROM => Some(true),
        true => None,
        false => Some(false),
    };
    Company {
        name: peer.name.clone(),
        belongs,
    }
}

/// Returns once this node belongs to a cluster.
async fn form(formation: &Formation) {
    let Formation { replica, mesh, .. } = formation;
    let started = Instant::now();
    let mut reminded = Instant::now();
    let mut changes = mesh.changes();
    while let Some(step) = formation.step(started.elapsed() >= formation.alone_after) {
        let is_alone = matches!(step, Step::WaitAlone(_) | Step::Initialize(_));
        formation.tell_forming(is_alone && formation.is_alone());
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
            Step::Wait(why) | Step::WaitAlone(why) if reminded.elapsed() >= REMINDER => {
                reminded = Instant::now();
                let waited_s = started.elapsed().as_secs();
                if started.elapsed() > BUDGET {
                    tracing::error!(waited_s, %why, "this node still belongs to no cluster");
                } else {
                    tracing::info!(waited_s, %why, "waiting to form or join the cluster");
                }
            }
            Step::Wait(_) | Step::WaitAlone(_) => {}
        }
        // An error means that the mesh is gone, and with it this task.
        let _changed = tokio::time::timeout(LOOK_EVERY, changes.changed()).await;
    }
}

/// What was said last about each peer, so that it is said once.
type Said = BTreeMap<NodeId, String>;

/// While this node leads, makes members of the nodes that are connected without being any; says what is odd
/// about the members otherwise.
async fn attend(replica: &Replica, mesh: &Mesh) {
    let mut changes = mesh.changes();
    let mut said = Said::new();
    let mut outside = false;
    loop {
        let (status, peers) = (replica.status(), mesh.peers());
        if replica.leadership().borrow().is_leader {
            admit(replica, &peers, &mut said).await;
            said.retain(|id, _| peers.iter().any(|peer| peer.id == *id));
        } else {
            said.clear();
        }
        let is_outside = standing::is_outside(&status, &peers);
        if is_outside && !outside {
            tracing::warn!("{}", standing::OUTSIDE);
        }
        outside = is_outside;
        let _changed = tokio::time::timeout(LOOK_EVERY, changes.changed()).await;
    }
}

async fn admit(replica: &Replica, peers: &[PeerStatus], said: &mut Said) {
    let status = replica.status();
    for peer in standing::strangers(&status, peers) {
        say(said, peer.id, &peer.name, standing::STRANGER);
    }
    let strangers = peers.iter().map(|peer| Stranger {
        id: peer.id,
        name: peer.name.clone(),
        initialized: peer.initialized,
        rejoining: peer.rejoining,
    });
    let strangers: Vec<Stranger> = strangers.collect();
    for (id, name) in to_admit(&strangers, &status.voters, &status.learners) {
        match replica.welcome(id, name.clone()).await {
            Ok(away) if away.is_empty() => {
                said.remove(&id);
                tracing::info!(node = %id, name, "admitted to the cluster");
            }
            Ok(away) => {
                let away = away.join(", ");
                let words = format!(
                    "it has everything and no vote yet, because voters are away: {away}. With one more voter \
                     more of them would have to be there. Put it in the place of one that is gone with \
                     `unibus-node cluster replace`, or give it a vote with `cluster add`"
                );
                say(said, id, &name, &words);
            }
            Err(error) => say(
                said,
                id,
                &name,
                &format!("not admitted; trying again: {error}"),
            ),
        }
    }
}

fn say(said: &mut Said, id: NodeId, name: &str, words: &str) {
    if said.get(&id).is_none_or(|before| before != words) {
        tracing::warn!(node = %id, name, "{words}");
        said.insert(id, words.to_owned());
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
