//! Who forms the cluster, who joins it, who waits: decided from what the mesh sees and what this
//! node has on disk. The decision is pure; the driver in [`super::formation`] acts on it.
//!
//! A node that has state never initializes again: it could only split the cluster. Nodes without
//! state form one only when every route entry answers and nobody who is connected, by an entry or by
//! dialing this node, has state. A node whose entries name nobody else may have lost its disk, and the
//! others' entries may name it: it waits until they would have dialed it.

use std::collections::BTreeMap;

use unibus_proto::NodeId;

use crate::mesh::PeerClaim;

/// What one `--routes` entry has turned out to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum RouteView {
    /// This node itself.
    Myself,
    /// A connected peer.
    Peer {
        /// Its id.
        id: NodeId,
        /// Its certificate's name.
        name: String,
        /// Whether it belongs to a cluster already.
        initialized: bool,
    },
    /// Nobody yet; the text says why, for the operator.
    Pending(String),
}

/// What a node without state does next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// Form the cluster from exactly these members.
    Initialize(BTreeMap<NodeId, String>),
    /// Another node will act; the text says what is awaited.
    Wait(String),
    /// This node will form a cluster of its own unless somebody of one turns up; others wait for it.
    WaitAlone(String),
}

/// A connected peer as a node without state looks at it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Company {
    pub(super) name: String,
    /// Whether it belongs to a cluster, for certain; `None`: it may, or is about to form one.
    pub(super) belongs: Option<bool>,
}

/// Decides for a node that has no state yet. `patient`: it has waited for those that may know it.
pub(super) fn next_step(
    id: NodeId,
    name: &str,
    routes: &[RouteView],
    company: &[Company],
    patient: bool,
) -> Step {
    let is_alone = routes.iter().all(|route| *route == RouteView::Myself);
    let belongs = |peer: &&Company| peer.belongs == Some(true);
    if let Some(peer) = company.iter().find(belongs) {
        let name = &peer.name;
        return Step::Wait(format!(
            "{name} belongs to a running cluster and will admit us"
        ));
    }
    if is_alone && (!patient || company.iter().any(|peer| peer.belongs.is_none())) {
        return Step::WaitAlone(
            "--routes name no other node: this one forms a cluster of its own, unless one of a running \
             cluster dials it first"
                .to_owned(),
        );
    }
    let mut members = BTreeMap::from([(id, name.to_owned())]);
    let mut missing = Vec::new();
    for route in routes {
        match route {
            RouteView::Myself => {}
            RouteView::Peer {
                name,
                initialized: true,
                ..
            } => {
                return Step::Wait(format!(
                    "{name} belongs to a running cluster and will admit us"
                ));
            }
            RouteView::Peer { id, name, .. } => {
                members.insert(*id, name.clone());
            }
            RouteView::Pending(why) => missing.push(why.as_str()),
        }
    }
    if !missing.is_empty() {
        return Step::Wait(format!(
            "every node of --routes has to answer once: {}",
            missing.join("; ")
        ));
    }
    match members.first_key_value() {
        Some((first, _)) if *first == id => Step::Initialize(members),
        Some((_, other)) => Step::Wait(format!("{other} forms the cluster")),
        None => Step::Wait("no member".to_owned()),
    }
}

/// Whether a node of the cluster `own`, which has these members as far as is known, gives a peer a route.
pub(super) fn judge(own: &str, peer: &PeerClaim, members: &[NodeId]) -> Result<(), String> {
    const MEND: &str = "Two clusters must not be joined: keep one of them, stop the nodes of the other, move \
                        their data folders away, and start them again";
    let name = &peer.name;
    match &peer.cluster_id {
        Some(other) if other != own => Err(format!(
            "this node is of cluster {own}, {name:?} of cluster {other}: one of them was recovered, restored or \
             formed apart from the other. {MEND}"
        )),
        // It may not have applied yet that its cluster has an identity.
        None if peer.unidentified && !members.is_empty() && !members.contains(&peer.id) => {
            Err(format!(
                "{name:?} has a store of a cluster without an identity, and is no member of this node's cluster \
                 {own}. {MEND}"
            ))
        }
        _ => Ok(()),
    }
}

/// A connected peer as the leader looks at it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Stranger {
    pub(super) id: NodeId,
    pub(super) name: String,
    /// It belongs to a cluster, or did.
    pub(super) initialized: bool,
    /// It lost what it had and asks to be admitted.
    pub(super) rejoining: bool,
}

/// The connected peers that the leader has to admit: they have no cluster, lost what they had of it, or
/// hold no vote yet.
pub(super) fn to_admit(
    peers: &[Stranger],
    voters: &BTreeMap<NodeId, String>,
    learners: &BTreeMap<NodeId, String>,
) -> Vec<(NodeId, String)> {
    peers
        .iter()
        .filter(|peer| {
            let asks = !peer.initialized || peer.rejoining || learners.contains_key(&peer.id);
            asks && !voters.contains_key(&peer.id)
        })
        .map(|peer| (peer.id, peer.name.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: u64, initialized: bool) -> RouteView {
        RouteView::Peer {
            id: NodeId(id),
            name: format!("n{id}"),
            initialized,
        }
    }

    fn members(ids: &[u64]) -> BTreeMap<NodeId, String> {
        ids.iter()
            .map(|id| (NodeId(*id), format!("n{id}")))
            .collect()
    }

    #[test]
    fn the_lowest_id_forms_the_cluster_once_all_answer() {
        let routes = [RouteView::Myself, peer(2, false), peer(3, false)];
        assert_eq!(
            next_step(NodeId(1), "n1", &routes, &[], true),
            Step::Initialize(members(&[1, 2, 3]))
        );
        let routes = [peer(1, false), RouteView::Myself, peer(3, false)];
        assert!(matches!(
            next_step(NodeId(2), "n2", &routes, &[], true),
            Step::Wait(_)
        ));
    }

    #[test]
    fn this_node_need_not_stand_in_the_list() {
        let routes = [peer(2, false), peer(3, false)];
        assert_eq!(
            next_step(NodeId(1), "n1", &routes, &[], true),
            Step::Initialize(members(&[1, 2, 3]))
        );
    }

    #[test]
    fn a_missing_node_is_named_and_awaited() {
        let routes = [
            RouteView::Myself,
            peer(2, false),
            RouteView::Pending("n3: refused".into()),
        ];
        let Step::Wait(why) = next_step(NodeId(1), "n1", &routes, &[], true) else {
            panic!("must wait")
        };
        assert!(why.contains("n3: refused"), "{why}");
    }

    #[test]
    fn nobody_initializes_beside_a_running_cluster() {
        let routes = [RouteView::Myself, peer(2, true), peer(3, false)];
        assert!(matches!(
            next_step(NodeId(1), "n1", &routes, &[], true),
            Step::Wait(_)
        ));
    }

    fn step(routes: &[RouteView], company: &[Option<bool>], patient: bool) -> Step {
        let company = company.iter().map(|belongs| Company {
            name: "n9".to_owned(),
            belongs: *belongs,
        });
        let company: Vec<Company> = company.collect();
        next_step(NodeId(1), "n1", routes, &company, patient)
    }

    #[test]
    fn whose_routes_name_nobody_else_waits_for_those_that_may_dial_it() {
        let alone = Step::Initialize(members(&[1]));
        for routes in [&[RouteView::Myself][..], &[]] {
            assert!(matches!(step(routes, &[], false), Step::WaitAlone(_)));
            assert_eq!(step(routes, &[], true), alone);
            // It is somebody's seed.
            assert_eq!(step(routes, &[Some(false)], true), alone);
            assert!(matches!(step(routes, &[None], true), Step::WaitAlone(_)));
            let known = step(routes, &[Some(false), Some(true)], true);
            assert!(matches!(known, Step::Wait(_)), "{known:?}");
        }
    }

    #[test]
    fn who_dialed_us_from_a_running_cluster_counts_whatever_our_routes_name() {
        let routes = [RouteView::Myself, peer(2, false)];
        let known = step(&routes, &[Some(false), Some(true)], true);
        assert!(matches!(known, Step::Wait(_)), "{known:?}");
    }

    #[test]
    fn only_nodes_of_the_same_cluster_and_those_of_none_are_given_a_route() {
        let claim = |cluster_id: Option<&str>, unidentified| PeerClaim {
            id: NodeId(2),
            name: "n2".to_owned(),
            cluster_id: cluster_id.map(str::to_owned),
            unidentified,
        };
        let knows = |claim: &PeerClaim, ids: &[u64]| {
            let members: Vec<NodeId> = ids.iter().map(|id| NodeId(*id)).collect();
            judge("aa", claim, &members)
        };
        assert_eq!(knows(&claim(Some("aa"), false), &[1]), Ok(()));
        assert_eq!(knows(&claim(None, false), &[1]), Ok(()));
        let other = knows(&claim(Some("bb"), false), &[1, 2]).unwrap_err();
        assert!(other.contains("aa") && other.contains("bb"), "{other}");
        // A store without an identity: a member that is behind, or a stranger.
        assert_eq!(knows(&claim(None, true), &[1, 2]), Ok(()));
        assert_eq!(knows(&claim(None, true), &[]), Ok(()));
        assert!(knows(&claim(None, true), &[1, 3]).is_err());
    }

    #[test]
    fn strangers_without_a_cluster_learners_and_those_that_lost_theirs_are_admitted() {
        let stranger = |(id, initialized, rejoining): (u64, bool, bool)| Stranger {
            id: NodeId(id),
            name: format!("n{id}"),
            initialized,
            rejoining,
        };
        let peers = [
            (2, true, false),
            (3, false, false),
            (4, true, false),
            (5, true, false),
            (6, true, true),
        ];
        let peers = peers.map(stranger);
        let admitted = to_admit(&peers, &members(&[1, 2]), &members(&[4]));
        let ids: Vec<u64> = admitted.iter().map(|(id, _)| id.0).collect();
        assert_eq!(ids, [3, 4, 6]);
    }
}
