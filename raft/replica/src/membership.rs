//! Who belongs to the cluster: forming it, admitting nodes one at a time, handing leadership over.
//! The membership itself lives in the log; this only proposes changes to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{Fatal, InitializeError as RaftInitializeError, RaftError};
use tokio::sync::watch;
use tokio::time::Instant;
use unibus_proto::NodeId;

use crate::belonging::{CLUSTER_IDS_FROM, ClusterId};
use crate::change;
use crate::codec;
use crate::errors::{AdmitError, InitializeError};
use crate::replica::{GROUP, Inner, RaftCore};
use crate::rpc::{Join, JoinAnswer, decode_join_answer, encode_join};
use crate::store::Rejoin;
use crate::transport::RpcClass;
use crate::types::{Peer, TypeConfig};

/// A learner this close to the end of the log is caught up, entries.
const CAUGHT_UP_ENTRIES: u64 = 64;
/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(20);
/// A new member that is not connected for this long is not waited for any longer.
const GONE_AFTER: Duration = Duration::from_secs(3);
/// How often a leader looks for an unfinished change of voters.
const JOINT_POLL: Duration = Duration::from_secs(1);

/// See [`crate::Replica::initialize`].
pub(crate) async fn initialize(
    inner: &Inner,
    members: BTreeMap<NodeId, String>,
) -> Result<(), InitializeError> {
    if inner.rejoining.load(Ordering::Relaxed) {
        return Err(InitializeError::Rejoining);
    }
    if !members.contains_key(&inner.id) {
        return Err(InitializeError::Members(format!(
            "this node ({}) is not in it",
            inner.id.0
        )));
    }
    // Members that know no identities could not read a membership with one: it is given later.
    let cluster = knows_identities(inner, members.keys())
        .then(|| ClusterId::of(members.keys().map(|id| id.0)));
    let nodes: BTreeMap<u64, Peer> = members
        .into_iter()
        .map(|(id, name)| (id.0, Peer { name, cluster }))
        .collect();
    if inner.has_members() {
        return Err(InitializeError::NotPristine);
    }
    if let Some(id) = cluster {
        found(inner, id).await?;
    }
    match inner.raft.initialize(nodes).await {
        Ok(()) => Ok(()),
        Err(RaftError::APIError(RaftInitializeError::NotAllowed(_))) => {
            Err(InitializeError::NotPristine)
        }
        Err(RaftError::APIError(error)) => Err(InitializeError::Members(error.to_string())),
        Err(RaftError::Fatal(_)) => Err(InitializeError::Stopped),
    }
}

/// Whether these nodes are there, this one aside, and know identities of clusters.
fn knows_identities<'a>(inner: &Inner, ids: impl IntoIterator<Item = &'a NodeId>) -> bool {
    let mut others = ids.into_iter().filter(|id| **id != inner.id);
    others.all(|id| inner.transport.protocol(*id) >= Some(CLUSTER_IDS_FROM))
}

/// From here on this node takes part in no other cluster.
async fn found(inner: &Inner, id: ClusterId) -> Result<(), InitializeError> {
    let belonging = Arc::clone(&inner.belonging);
    let founding = tokio::task::spawn_blocking(move || belonging.found(id));
    let founded = founding.await.map_err(|_| InitializeError::Stopped)?;
    founded.map_err(|error| InitializeError::Elsewhere(error.to_string()))
}

/// Gives a cluster of the time before there were identities one, once every voter knows them. The caller
/// holds `admitting`.
async fn identify(inner: &Inner) -> Result<(), AdmitError> {
    let members = members(inner);
    let connected = inner.transport.connected();
    // A learner that is away may never come back.
    let is_asked = |id: &&NodeId| members.voters.contains(id) || connected.contains(id);
    let asked = members.names.keys().filter(is_asked);
    if members.cluster.is_some() || !knows_identities(inner, asked) {
        return Ok(());
    }
    let id = ClusterId::of(members.names.keys().map(|id| id.0));
    let nodes = members.names.into_iter().map(|(node, name)| {
        let cluster = Some(id);
        (node.0, Peer { name, cluster })
    });
    let nodes = ChangeMembers::SetNodes(nodes.collect());
    let named = inner.raft.change_membership(nodes, true).await;
    named.map_err(refused)?;
    tracing::info!(cluster = %id, "the cluster has an identity from now on");
    Ok(())
}

/// The only voter has nobody to wait for: it stands for election at once.
pub(crate) async fn lead_if_alone(raft: &RaftCore, own: NodeId) -> Result<(), Fatal<TypeConfig>> {
    let is_alone = raft
        .with_raft_state(move |state| {
            let membership = state.membership_state.effective();
            membership.voter_ids().eq([own.0])
        })
        .await?;
    if is_alone {
        raft.trigger().elect(false).await?;
    }
    Ok(())
}

/// Admits a node: here if this node leads, else by asking the leader, else by asking any peer.
pub(crate) async fn admit(inner: &Inner, join: &Join) -> Result<(), AdmitError> {
    let leadership = *inner.leadership.borrow();
    match leadership.leader {
        Some(leader) if leader == inner.id => admit_here(inner, join).await,
        _ if join.forwarded => Err(AdmitError::NoLeader),
        Some(leader) => ask(inner, leader, join).await,
        None => {
            // An empty node knows no leader, but one of its peers may.
            let mut last = AdmitError::NoLeader;
            for peer in inner.transport.connected() {
                // Members pass it on once; whoever is not a member has nobody to pass it to.
                let question = Join {
                    forwarded: join.id != inner.id,
                    ..join.clone()
                };
                match ask(inner, peer, &question).await {
                    Ok(()) => return Ok(()),
                    Err(AdmitError::NoLeader) => {}
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    }
}

async fn ask(inner: &Inner, peer: NodeId, join: &Join) -> Result<(), AdmitError> {
    let question = Join {
        forwarded: join.forwarded || inner.leadership.borrow().leader == Some(peer),
        ..join.clone()
    };
    let call = inner
        .transport
        .call(peer, RpcClass::Join, GROUP, encode_join(&question));
    let answer = tokio::time::timeout(inner.options.admit_timeout, call)
        .await
        .map_err(|_| AdmitError::NotCaughtUp(join.id))?
        .map_err(|_| AdmitError::NoLeader)?;
    match decode_join_answer(answer) {
        Ok(JoinAnswer::Admitted) => Ok(()),
        Ok(JoinAnswer::NoLeader) => Err(AdmitError::NoLeader),
        Ok(JoinAnswer::NotCaughtUp) => Err(AdmitError::NotCaughtUp(join.id)),
        Ok(JoinAnswer::Refused(reason)) => Err(AdmitError::Refused(reason)),
        Err(error) => Err(AdmitError::Refused(error.to_string())),
    }
}

/// What is left to do for a node that asks to be admitted.
enum Standing {
    Admitted,
    Voter,
    Learner,
}

/// Makes a node a learner that has caught up.
pub(crate) async fn make_ready(inner: &Inner, id: NodeId, name: &str) -> Result<(), AdmitError> {
    let join = Join {
        id,
        name: name.to_owned(),
        forwarded: true,
    };
    match enlist(inner, &join).await? {
        Standing::Admitted | Standing::Voter => Ok(()),
        Standing::Learner => wait_caught_up(inner, id).await,
    }
}

/// Learner, caught up, voter. Changes are made one at a time; a node that is slow to catch up does
/// not keep others waiting.
async fn admit_here(inner: &Inner, join: &Join) -> Result<(), AdmitError> {
    match enlist(inner, join).await? {
        Standing::Admitted => return Ok(()),
        Standing::Voter => {}
        Standing::Learner => wait_caught_up(inner, join.id).await?,
    }
    promote(inner, join).await
}

/// As [`admit`] does on the leader, for a node that nobody but itself wants: it gets no vote while voters are
/// away, unless it takes the place of one of its name. Answers with the names of those that are.
pub(crate) async fn welcome(inner: &Inner, join: &Join) -> Result<Vec<String>, AdmitError> {
    match enlist(inner, join).await? {
        Standing::Admitted => return Ok(Vec::new()),
        Standing::Voter => {}
        Standing::Learner => wait_caught_up(inner, join.id).await?,
    }
    let members = members(inner);
    let mut voters = members.voters.iter();
    if !voters.any(|id| members.replaces(join, id)) {
        let connected = inner.transport.connected();
        let is_away = |id: &&NodeId| **id != inner.id && !connected.contains(id);
        let away = members.voters.iter().filter(is_away);
        let away = away.map(|id| members.names.get(id).cloned().unwrap_or_default());
        let away: Vec<String> = away.collect();
        if !away.is_empty() {
            return Ok(away);
        }
    }
    promote(inner, join).await?;
    Ok(Vec::new())
}

/// Makes the node a learner, or gives a voter its new name.
async fn enlist(inner: &Inner, join: &Join) -> Result<Standing, AdmitError> {
    let _one_at_a_time = inner.admitting.lock().await;
    finish_joint(inner).await?;
    let members = members(inner);
    let is_voter = members.voters.contains(&join.id);
    let is_known = members.names.get(&join.id) == Some(&join.name);
    let mut replaced = members
        .voters
        .iter()
        .filter(|id| members.replaces(join, id));
    let is_sole = replaced.clone().next().is_none();
    let connected = inner.transport.connected();
    if let Some(alive) = replaced.find(|id| **id == inner.id || connected.contains(id)) {
        return Err(AdmitError::Refused(format!(
            "a node named {} is a member and alive (id {alive}): two nodes can't have one name",
            join.name
        )));
    }
    if is_voter && is_known && is_sole {
        return Ok(Standing::Admitted);
    }
    if is_known {
        return Ok(if is_voter {
            Standing::Voter
        } else {
            Standing::Learner
        });
    }
    if members.cluster.is_some() && !knows_identities(inner, [&join.id]) {
        return Err(AdmitError::Refused(format!(
            "{} is not connected, or runs a version from before clusters had identities: start it with the \
             version of the others",
            join.name
        )));
    }
    let peer = Peer {
        name: join.name.clone(),
        cluster: members.cluster,
    };
    if is_voter {
        // The same node under a new name: nothing to catch up with.
        let rename = ChangeMembers::SetNodes(BTreeMap::from([(join.id.0, peer)]));
        inner
            .raft
            .change_membership(rename, true)
            .await
            .map_err(refused)?;
        return Ok(Standing::Voter);
    }
    inner
        .raft
        .add_learner(join.id.0, peer, false)
        .await
        .map_err(refused)?;
    Ok(Standing::Learner)
}

/// Makes the node a voter, in place of one of the same name.
async fn promote(inner: &Inner, join: &Join) -> Result<(), AdmitError> {
    let _one_at_a_time = inner.admitting.lock().await;
    finish_joint(inner).await?;
    let members = members(inner);
    let next: BTreeSet<u64> = members
        .voters
        .iter()
        .filter(|id| !members.replaces(join, id))
        .chain([&join.id])
        .map(|id| id.0)
        .collect();
    if next
        .iter()
        .copied()
        .map(NodeId)
        .eq(members.voters.iter().copied())
    {
        return Ok(());
    }
    let connected = inner.transport.connected();
    let next_ids = next.iter().map(|id| NodeId(*id)).collect();
    let is_there = |id: &NodeId| *id == inner.id || connected.contains(id);
    change::judge(
        &next_ids,
        &next_ids.iter().copied().filter(is_there).collect(),
    )
    .map_err(AdmitError::Refused)?;
    tracing::info!(id = join.id.0, name = %join.name, voters = next.len(), "admitting a voter");
    inner
        .raft
        .change_membership(next, false)
        .await
        .map_err(refused)?;
    Ok(())
}

/// Brings a change of voters to its end that was interrupted between its two steps. The caller holds
/// `admitting`, so it is not one that is under way.
pub(crate) async fn finish_joint(inner: &Inner) -> Result<(), AdmitError> {
    let members = members(inner);
    if !members.is_joint {
        return Ok(());
    }
    let voters: BTreeSet<u64> = members.voters.iter().map(|id| id.0).collect();
    tracing::info!(voters = voters.len(), "finishing a change of voters");
    inner
        .raft
        .change_membership(voters, false)
        .await
        .map_err(refused)?;
    Ok(())
}

/// Finishes interrupted changes of voters while this node leads, until the replica stops.
pub(crate) async fn watch(inner: Arc<Inner>, mut stop: watch::Receiver<bool>) {
    let mut leadership = inner.leadership.clone();
    while !*stop.borrow() {
        let leads = leadership.borrow_and_update().is_leader;
        let known = members(&inner);
        if leads && (known.is_joint || known.cluster.is_none()) {
            let finished = tokio::select! {
                _ = stop.changed() => break,
                finished = async {
                    let _one_at_a_time = inner.admitting.lock().await;
                    finish_joint(&inner).await?;
                    identify(&inner).await
                } => finished,
            };
            if let Err(error) = finished {
                tracing::warn!(%error, "a change of voters is still unfinished");
            }
        }
        tokio::select! {
            _ = stop.changed() => break,
            changed = leadership.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(JOINT_POLL) => {}
        }
    }
}

/// Takes the mark of a lost store away once this node votes again.
pub(crate) async fn watch_rejoin(inner: Arc<Inner>, rejoin: Rejoin) {
    let mut stop = inner.stop.subscribe();
    let mut changed = inner.raft.server_metrics();
    while !*stop.borrow() {
        if members(&inner).voters.contains(&inner.id) {
            match rejoin.is_over() {
                Ok(()) => {
                    inner.rejoining.store(false, Ordering::Relaxed);
                    tracing::info!("this node has been admitted again, with everything it lost");
                    return;
                }
                Err(error) => tracing::error!(%error, "the mark of the lost store stays"),
            }
        }
        tokio::select! {
            _ = stop.changed() => break,
            changed = changed.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(JOINT_POLL) => {}
        }
    }
}

fn refused(error: impl std::fmt::Display) -> AdmitError {
    AdmitError::Refused(error.to_string())
}

/// The membership as far as changes look at it.
pub(crate) struct Members {
    /// The voters, of the last configuration if there are two.
    pub(crate) voters: BTreeSet<NodeId>,
    /// A change of voters is between its two steps.
    is_joint: bool,
    /// The cluster's identity.
    pub(crate) cluster: Option<ClusterId>,
    /// Of all members.
    pub(crate) names: BTreeMap<NodeId, String>,
}

impl Members {
    /// Whether the node that joins takes the place of `id`.
    fn replaces(&self, join: &Join, id: &NodeId) -> bool {
        *id != join.id && self.names.get(id) == Some(&join.name)
    }
}

pub(crate) fn members(inner: &Inner) -> Members {
    let metrics = inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    let configs = membership.get_joint_config();
    let voters = configs.last().into_iter().flatten().copied();
    Members {
        voters: voters.map(NodeId).collect(),
        is_joint: configs.len() > 1,
        cluster: codec::cluster_of(membership),
        names: membership
            .nodes()
            .map(|(id, peer)| (NodeId(*id), peer.name.clone()))
            .collect(),
    }
}

async fn wait_caught_up(inner: &Inner, id: NodeId) -> Result<(), AdmitError> {
    let deadline = Instant::now() + inner.options.admit_timeout;
    let metrics = inner.raft.metrics();
    let mut seen = Instant::now();
    loop {
        if inner.transport.connected().contains(&id) {
            seen = Instant::now();
        }
        {
            let metrics = metrics.borrow_watched();
            let Some(replication) = &metrics.replication else {
                return Err(AdmitError::NoLeader);
            };
            let matched = replication.get(&id.0).and_then(|matched| *matched);
            let last = metrics.last_log_index.unwrap_or(0);
            if matched.is_some_and(|matched| matched.index + CAUGHT_UP_ENTRIES >= last) {
                return Ok(());
            }
        }
        if *inner.stop.borrow() {
            return Err(AdmitError::Stopped);
        }
        if Instant::now() >= deadline || seen.elapsed() >= GONE_AFTER {
            return Err(AdmitError::NotCaughtUp(id));
        }
        tokio::time::sleep(POLL).await;
    }
}
