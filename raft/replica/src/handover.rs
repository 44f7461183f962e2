//! Handing leadership over while everything runs: proposals wait, the successor gets what it lacks, and
//! is told until it leads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::time::{Instant, timeout_at};
use unibus_proto::NodeId;

use crate::replica::{Inner, Metrics};

/// How often the successor is told again: it ignores a call that overtook the end of the log, and a call
/// may be lost.
const REPEAT: Duration = Duration::from_millis(25);
/// How often the same successor is told before another one has its turn.
const CALLS_IN_A_ROW: usize = 8;

/// Hands leadership to the connected voter that holds most of the log, and waits until it leads (or
/// about two election timeouts are over).
pub(crate) async fn transfer(inner: &Arc<Inner>) {
    let _one_at_a_time = inner.handing_over.lock().await;
    let Some(target) = successor(inner, 0) else {
        return;
    };
    let deadline = Instant::now() + inner.options.election_max * 2;
    let pause = inner.pause.begin();
    tracing::info!(target = target.0, "handing leadership over");
    // What is on its way is answered first: as a follower this node would hear with the next heartbeat that
    // it is committed. An entry that came late would also make the successor refuse.
    let level = timeout_at(Instant::now() + inner.options.election_min, async {
        pause.is_kept().await;
        is_level(inner, target).await
    });
    if !matches!(level.await, Ok(true)) {
        tracing::warn!(
            target = target.0,
            "leadership stays: its successor did not catch up in time"
        );
        return;
    }
    // From the first call on openraft takes no entries here: this goes on, whoever asked for it gives up.
    let handing = tokio::spawn(hand_over(Arc::clone(inner)));
    if timeout_at(deadline, handing).await.is_err() {
        tracing::warn!("leadership was not taken over in time");
    }
}

/// Tells the successor to stand for election until this node follows or stops; meanwhile, and for the rest of
/// its term, this node answers no reads by its lease.
async fn hand_over(inner: Arc<Inner>) {
    inner.lease.suspend();
    // Nothing more is answered here if consensus has ended.
    if let Some(term) = tell_successors(&inner).await {
        inner.lease.resume_after(term);
    }
}

/// The term of this node, behind everything that consensus has been told so far; `None` if it has ended.
async fn term(inner: &Inner) -> Option<u64> {
    let raft = &inner.raft;
    let term = raft.with_raft_state(|state| state.vote_ref().leader_id.term);
    term.await.ok()
}

/// Answers with the term in which the last of them was told: no call is left that could break the lease of a
/// later one. `None` if consensus has ended.
async fn tell_successors(inner: &Arc<Inner>) -> Option<u64> {
    let mut told = term(inner).await?;
    let me = inner.id;
    let mut leadership = inner.leadership.clone();
    let mut stop = inner.stop.subscribe();
    for attempt in 0.. {
        let Some(target) = successor(inner, attempt / CALLS_IN_A_ROW) else {
            // It does not lead any more, or its peers are away: then they elect, or come back.
            if !leads(inner) {
                break;
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return Some(told),
                () = tokio::time::sleep(REPEAT) => continue,
            }
        };
        let trigger = inner.raft.trigger();
        trigger.transfer_leader(target.0).await.ok()?;
        told = term(inner).await?;
        let moved = leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != me));
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Some(told),
            moved = tokio::time::timeout(REPEAT, moved) => {
                if moved.is_ok() {
                    return Some(told);
                }
            }
        }
    }
    // The next leader is about to be heard of.
    let known = leadership.wait_for(|now| now.leader.is_some());
    drop(tokio::time::timeout(inner.options.election_max, known).await);
    Some(told)
}

/// Waits until the node holds everything that is in this node's log; false if this node does not lead.
async fn is_level(inner: &Inner, target: NodeId) -> bool {
    let mut metrics = inner.raft.metrics();
    loop {
        {
            let now = metrics.borrow_watched();
            let Some(replication) = &now.replication else {
                return false;
            };
            let matched = replication.get(&target.0).and_then(|matched| *matched);
            let last = now.last_log_index;
            if matched.map(|matched| matched.index) >= last {
                return true;
            }
        }
        if metrics.changed().await.is_err() {
            return false;
        }
    }
}

fn leads(inner: &Inner) -> bool {
    let metrics = inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    metrics.current_leader == Some(inner.id.0)
}

fn successor(inner: &Inner, turn: usize) -> Option<NodeId> {
    let metrics = inner.raft.metrics();
    let connected = inner.transport.connected().into_iter().collect();
    best(&metrics.borrow_watched(), &connected, turn)
}

/// The connected voter that holds most of the log of the node whose metrics these are, if that leads.
/// Those that hold the same take turns.
pub(crate) fn best(metrics: &Metrics, connected: &BTreeSet<NodeId>, turn: usize) -> Option<NodeId> {
    let replication = metrics.replication.as_ref()?;
    let held = |id: &u64| replication.get(id).and_then(|matched| *matched);
    let voters: BTreeSet<u64> = metrics
        .membership_config
        .voter_ids()
        .filter(|id| *id != metrics.id && connected.contains(&NodeId(*id)))
        .collect();
    let most = voters.iter().map(held).max()?;
    let equal: Vec<u64> = voters.into_iter().filter(|id| held(id) == most).collect();
    equal.get(turn % equal.len().max(1)).copied().map(NodeId)
}
