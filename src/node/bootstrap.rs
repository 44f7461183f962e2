//! Who forms the cluster, who joins it, who waits: decided from what the mesh sees and what this
//! node has on disk. The decision is pure; the driver in [`super::formation`] acts on it.
//!
//! A node that has state never initializes again: it could only split the cluster. Nodes without
//! state form one only when every route entry answers and none of them has state.

use std::collections::BTreeMap;

use unibus_proto::NodeId;

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
}

/// Decides for a node that has no state yet.
pub(super) fn next_step(id: NodeId, name: &str, routes: &[RouteView]) -> Step {
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
            next_step(NodeId(1), "n1", &routes),
            Step::Initialize(members(&[1, 2, 3]))
        );
        let routes = [peer(1, false), RouteView::Myself, peer(3, false)];
        assert!(matches!(next_step(NodeId(2), "n2", &routes), Step::Wait(_)));
    }

    #[test]
    fn this_node_need_not_stand_in_the_list() {
        let routes = [peer(2, false), peer(3, false)];
        assert_eq!(
            next_step(NodeId(1), "n1", &routes),
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
        let Step::Wait(why) = next_step(NodeId(1), "n1", &routes) else {
            panic!("must wait")
        };
        assert!(why.contains("n3: refused"), "{why}");
    }

    #[test]
    fn nobody_initializes_beside_a_running_cluster() {
        let routes = [RouteView::Myself, peer(2, true), peer(3, false)];
        assert!(matches!(next_step(NodeId(1), "n1", &routes), Step::Wait(_)));
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
