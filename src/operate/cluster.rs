//! The members of the cluster: who they are, and changing them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use unibus_proto::NodeId;
use unibus_raft::{AdmitError, Change, ReplicaStatus};

use super::{Answer, Parts, Request};
use crate::mesh::PeerStatus;

/// The members, as the asked node sees them.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ClusterStatus {
    /// Name of the cluster, if it has one.
    pub cluster: Option<String>,
    /// Name of the node that was asked.
    pub asked: String,
    /// Name of the leader, if there is one.
    pub leader: Option<String>,
    /// The term that it was elected in.
    pub term: u64,
    /// Whether something can be written.
    pub quorum: bool,
    /// Entries applied at the asked node.
    pub applied_index: u64,
    /// Block files of the asked node that are damaged and not mended yet.
    pub damaged_blocks: usize,
    /// The members.
    pub members: Vec<MemberStatus>,
    /// Connected nodes that are no members.
    pub others: Vec<StrangerStatus>,
}

/// One member.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// Its id, 16 hex digits.
    pub id: String,
    /// `leader`, `voter` or `learner`.
    pub role: String,
    /// Whether the asked node is connected to it (or is it).
    pub connected: bool,
}

/// A node that is connected and no member.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct StrangerStatus {
    /// Its name.
    pub name: String,
    /// Its id, 16 hex digits.
    pub id: String,
    /// What it is.
    pub state: String,
}

pub(super) fn status(parts: &Parts) -> ClusterStatus {
    let status = parts.replica.status();
    let peers = peers(parts);
    let own = NodeId(status.node_id);
    let is_connected = |id: &NodeId| *id == own || peers.iter().any(|peer| peer.id == *id);
    let member = |(id, name): (&NodeId, &String), votes: bool| MemberStatus {
        name: name.clone(),
        id: id.to_string(),
        role: match () {
            () if status.leader == Some(*id) => "leader",
            () if votes => "voter",
            () => "learner",
        }
        .to_owned(),
        connected: is_connected(id),
    };
    let voters = status.voters.iter().map(|entry| member(entry, true));
    let learners = status.learners.iter().map(|entry| member(entry, false));
    let all = members(&status);
    ClusterStatus {
        cluster: parts.cluster_name.clone(),
        asked: all.get(&own).cloned().unwrap_or_else(|| own.to_string()),
        leader: status.leader.and_then(|id| all.get(&id).cloned()),
        term: status.term,
        quorum: status.has_quorum,
        applied_index: status.applied_index,
        damaged_blocks: status.damaged_blocks,
        members: voters.chain(learners).collect(),
        others: peers
            .iter()
            .filter(|peer| !all.contains_key(&peer.id))
            .map(|peer| StrangerStatus {
                name: peer.name.clone(),
                id: peer.id.to_string(),
                state: state_of(peer).to_owned(),
            })
            .collect(),
    }
}

fn state_of(peer: &PeerStatus) -> &'static str {
    match (peer.rejoining, peer.initialized) {
        (true, _) => "lost its store; waits to be admitted again",
        (false, false) => "joining",
        (false, true) => "no member; has a store of its own",
    }
}

fn members(status: &ReplicaStatus) -> BTreeMap<NodeId, String> {
    let all = status.voters.iter().chain(&status.learners);
    all.map(|(id, name)| (*id, name.clone())).collect()
}

fn peers(parts: &Parts) -> Vec<PeerStatus> {
    parts
        .mesh
        .as_ref()
        .map(|mesh| mesh.peers())
        .unwrap_or_default()
}

/// The one member that `text` names, by name or by id.
fn member_named(status: &ReplicaStatus, text: &str) -> Result<Option<NodeId>, String> {
    let all = members(status);
    let found: Vec<NodeId> = all
        .iter()
        .filter(|(id, name)| *name == text || id.to_string() == text)
        .map(|(id, _)| *id)
        .collect();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(*one)),
        several => {
            let ids: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(format!(
                "{text} is the name of several members: say which by its id: {}",
                ids.join(", ")
            ))
        }
    }
}

/// The connected node of that name which may become a member.
fn candidate(
    parts: &Parts,
    status: &ReplicaStatus,
    name: &str,
) -> Result<(NodeId, String), Answer> {
    let peers = peers(parts);
    let all = members(status);
    let named = peers
        .iter()
        .filter(|peer| peer.name == name || peer.id.to_string() == name);
    let mut stranger = None;
    for peer in named {
        let is_member = all.contains_key(&peer.id);
        if !is_member && peer.initialized && !peer.rejoining {
            return Err(Answer::Refused(format!(
                "{name} is connected and has a store of its own, of another cluster or of the time before it \
                 was removed: stop it, move its data folder away, start it again"
            )));
        }
        stranger = Some((peer.id, peer.name.clone()));
    }
    stranger.ok_or_else(|| {
        let connected: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
        Answer::Refused(format!(
            "no node named {name} is connected (there are: {}): start it with --routes that name this \
             cluster, and ask again",
            if connected.is_empty() {
                "none".to_owned()
            } else {
                connected.join(", ")
            }
        ))
    })
}

pub(super) async fn add(parts: &Parts, request: &Request) -> Answer {
    let status = parts.replica.status();
    let name = &request.node;
    match member_named(&status, name) {
        Err(words) => return Answer::Refused(words),
        Ok(Some(id)) if status.voters.contains_key(&id) => {
            return Answer::Done(format!(
                "{name} is a voter; there are {}",
                status.voters.len()
            ));
        }
        Ok(_) => {}
    }
    let (id, name) = match candidate(parts, &status, name) {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    match parts.replica.admit(id, name.clone()).await {
        Ok(()) => Answer::Done(format!("{name} is a voter")),
        Err(error) => outcome(error),
    }
}

pub(super) async fn remove(parts: &Parts, request: &Request) -> Answer {
    let status = parts.replica.status();
    let id = match member_named(&status, &request.node) {
        Ok(Some(id)) => id,
        Ok(None) => return Answer::Done(format!("{} is no member", request.node)),
        Err(words) => return Answer::Refused(words),
    };
    let change = Change {
        remove: id,
        replacement: None,
        accept_quorum_loss: request.accept_quorum_loss,
    };
    match parts.replica.change_members(&change).await {
        Ok(()) => Answer::Done(format!(
            "{} is removed; stop it if it runs: it is no part of the cluster any more",
            request.node
        )),
        Err(error) => outcome(error),
    }
}

pub(super) async fn replace(parts: &Parts, request: &Request) -> Answer {
    let status = parts.replica.status();
    let with = match request.with.as_str() {
        "" => &request.node,
        with => with,
    };
    let id = match member_named(&status, &request.node) {
        Ok(id) => id,
        Err(words) => return Answer::Refused(words),
    };
    let Some(id) = id else {
        return match member_named(&status, with) {
            Ok(Some(there)) if status.voters.contains_key(&there) => Answer::Done(format!(
                "{} is no member any more and {with} is a voter",
                request.node
            )),
            _ => Answer::Refused(format!("there is no member {}", request.node)),
        };
    };
    let replacement = match candidate(parts, &status, with) {
        Ok((new, _)) if new == id && *with == request.node => {
            return Answer::Done(format!("{with} is a member and connected"));
        }
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let change = Change {
        remove: id,
        replacement: Some(replacement),
        accept_quorum_loss: request.accept_quorum_loss,
    };
    match parts.replica.change_members(&change).await {
        Ok(()) => Answer::Done(format!(
            "{with} is a voter in the place of {}",
            request.node
        )),
        Err(error) => outcome(error),
    }
}

fn outcome(error: AdmitError) -> Answer {
    match error {
        AdmitError::NoLeader => Answer::Working("there is no leader at this moment".to_owned()),
        AdmitError::NotCaughtUp(_) => Answer::Working("the new member is catching up".to_owned()),
        AdmitError::Refused(words) => Answer::Refused(words),
        AdmitError::Stopped => Answer::Working("the asked node is stopping".to_owned()),
    }
}
