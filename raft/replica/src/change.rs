//! Changes of the membership that an operator asks for: removing a member, putting a new one in the place
//! of a dead one. Safe to repeat. Each is judged by the leader: what would leave a cluster without a quorum
//! is refused, unless the operator says that it is meant.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use unibus_proto::NodeId;

use crate::errors::AdmitError;
use crate::handover;
use crate::membership::{self, Members};
use crate::replica::{GROUP, Inner};
use crate::rpc::{JoinAnswer, decode_join_answer, encode_change};
use crate::transport::RpcClass;

/// How long the members may take to agree to a change.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(20);

/// What an operator asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// The member that goes.
    pub remove: NodeId,
    /// The node that takes its place, with its name.
    pub replacement: Option<(NodeId, String)>,
    /// Do it even if the members that stay have no quorum among those that are connected, or if the one
    /// that is replaced is alive.
    pub accept_quorum_loss: bool,
}

/// Makes the change here if this node leads, else by asking the leader.
pub(crate) async fn change(
    inner: &Arc<Inner>,
    change: &Change,
    forwarded: bool,
) -> Result<(), AdmitError> {
    let leader = inner.leadership.borrow().leader;
    match leader {
        Some(leader) if leader == inner.id => change_here(inner, change).await,
        Some(leader) if !forwarded => {
            let call = inner
                .transport
                .call(leader, RpcClass::Join, GROUP, encode_change(change));
            let answer = tokio::time::timeout(inner.options.admit_timeout, call)
                .await
                .map_err(|_| AdmitError::NoLeader)?
                .map_err(|_| AdmitError::NoLeader)?;
            match decode_join_answer(answer) {
                Ok(JoinAnswer::Admitted) => Ok(()),
                Ok(JoinAnswer::NoLeader) => Err(AdmitError::NoLeader),
                Ok(JoinAnswer::NotCaughtUp) => Err(AdmitError::NotCaughtUp(change.remove)),
                Ok(JoinAnswer::Refused(reason)) => Err(AdmitError::Refused(reason)),
                Err(error) => Err(AdmitError::Refused(error.to_string())),
            }
        }
        _ => Err(AdmitError::NoLeader),
    }
}

async fn change_here(inner: &Arc<Inner>, change: &Change) -> Result<(), AdmitError> {
    if let Some((id, name)) = &change.replacement {
        let is_member = membership::members(inner)
            .names
            .contains_key(&change.remove);
        if is_member {
            check(inner, change)?;
        }
        // First what takes time and can be repeated: a learner that has caught up harms nobody.
        membership::make_ready(inner, *id, name).await?;
    }
    let _one_at_a_time = inner.admitting.lock().await;
    membership::finish_joint(inner).await?;
    let members = check(inner, change)?;
    if !members.names.contains_key(&change.remove) {
        return gone(&members, change);
    }
    let next: BTreeSet<u64> = next_voters(&members, change)
        .iter()
        .map(|id| id.0)
        .collect();
    if change.remove == inner.id {
        // A leader that is to go lets another one lead, and that one makes the change.
        handover::transfer(inner).await;
        return Err(AdmitError::NoLeader);
    }
    tracing::warn!(removed = change.remove.0, replacement = ?change.replacement, voters = next.len(),
        "changing the members, as asked");
    if members.voters.contains(&change.remove) {
        agreed(inner, ChangeMembers::ReplaceAllVoters(next)).await?;
    }
    let left = membership::members(inner);
    if left.names.contains_key(&change.remove) {
        let removed = BTreeSet::from([change.remove.0]);
        agreed(inner, ChangeMembers::RemoveNodes(removed)).await?;
    }
    Ok(())
}

/// Asks the members, for a bounded time: without a majority of them there is no answer.
async fn agreed(
    inner: &Inner,
    change: ChangeMembers<u64, crate::types::Peer>,
) -> Result<(), AdmitError> {
    let changing = inner.raft.change_membership(change, false);
    match tokio::time::timeout(COMMIT_TIMEOUT, changing).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(AdmitError::Refused(error.to_string())),
        Err(_) => Err(AdmitError::Refused(format!(
            "the members did not agree within {COMMIT_TIMEOUT:?}: a majority of those there are now has to \
             be connected"
        ))),
    }
}

/// The member is gone already: done, if its replacement is there.
fn gone(members: &Members, change: &Change) -> Result<(), AdmitError> {
    match &change.replacement {
        Some((id, _)) if members.voters.contains(id) => Ok(()),
        Some(_) => Err(AdmitError::Refused(format!(
            "there is no member {} to replace",
            change.remove
        ))),
        None => Ok(()),
    }
}

fn next_voters(members: &Members, change: &Change) -> BTreeSet<NodeId> {
    let mut next = members.voters.clone();
    next.remove(&change.remove);
    next.extend(change.replacement.as_ref().map(|(id, _)| *id));
    next
}

/// Refuses what would leave no quorum, and the replacement of a node that is alive.
fn check(inner: &Inner, change: &Change) -> Result<Members, AdmitError> {
    let members = membership::members(inner);
    let connected = inner.transport.connected();
    let is_alive = |id: &NodeId| *id == inner.id || connected.contains(id);
    let next = next_voters(&members, change);
    let verdict = judge(&next, &next.iter().copied().filter(is_alive).collect());
    if let Err(words) = verdict
        && (!change.accept_quorum_loss || next.is_empty())
    {
        return Err(AdmitError::Refused(words));
    }
    if change.replacement.is_some() && is_alive(&change.remove) && !change.accept_quorum_loss {
        return Err(AdmitError::Refused(format!(
            "node {} is alive: only a dead node is replaced; add the new one and remove this one",
            change.remove
        )));
    }
    Ok(members)
}

/// Whether these voters can go on, given those of them that are alive.
pub(crate) fn judge(next: &BTreeSet<NodeId>, alive: &BTreeSet<NodeId>) -> Result<(), String> {
    if next.is_empty() {
        return Err("it is the only voter: a cluster of none can't be".to_owned());
    }
    let majority = next.len() / 2 + 1;
    if alive.len() < majority {
        return Err(format!(
            "of the {} voters that would be left {} are connected and {majority} are needed: nothing could \
             be written any more. Bring nodes back first, or say --accept-quorum-loss",
            next.len(),
            alive.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn what_would_lose_the_quorum_is_refused() {
        for (next, alive) in [
            (&[1][..], &[1][..]),
            (&[1, 2], &[1, 2]),
            (&[1, 2, 3], &[1, 2]),
            (&[1, 2, 3, 4], &[1, 2, 4]),
        ] {
            assert_eq!(judge(&ids(next), &ids(alive)), Ok(()), "{next:?} {alive:?}");
        }
        for (next, alive) in [
            (&[][..], &[][..]),
            (&[1], &[]),
            (&[1, 2], &[1]),
            (&[1, 2, 3], &[3]),
            (&[1, 2, 3, 4], &[1, 2]),
        ] {
            assert!(
                judge(&ids(next), &ids(alive)).is_err(),
                "{next:?} {alive:?}"
            );
        }
    }
}
