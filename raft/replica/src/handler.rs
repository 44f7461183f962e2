//! What this node does for its peers: raft's calls, snapshot transfers, forwarded proposals, read
//! index, barriers and joins. Everything whose order matters happens before the future is polled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, ready};
use unibus_proto::NodeId;

use crate::belonging::ClusterId;
use crate::change;
use crate::codec;
use crate::errors::{AdmitError, ProposeError};
use crate::membership;
use crate::network::{Head, Kind};
use crate::queue::Answer;
use crate::read::read_index;
use crate::replica::{GROUP, Inner};
use crate::rpc::{
    JoinAnswer, ProposeAnswer, decode_barrier, decode_change, decode_join, decode_propose,
    decode_read, encode_index, encode_join_answer, encode_propose_answer,
};
use crate::transfer;
use crate::transport::{GroupId, RpcClass, RpcHandler};
use crate::types::AppendEntriesResponse;

/// A peer may not make a barrier wait longer than this.
const BARRIER_MAX: Duration = Duration::from_secs(30);

/// Serves peers. Holds the replica alive as long as the transport may call.
pub(crate) struct Handler {
    pub(crate) inner: Arc<Inner>,
}

impl RpcHandler for Handler {
    fn handle(
        &self,
        from: NodeId,
        class: RpcClass,
        group: GroupId,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        if group != GROUP {
            return ready(Err(format!("unknown group {}", group.0))).boxed();
        }
        let inner = Arc::clone(&self.inner);
        match class {
            RpcClass::Vote | RpcClass::Append => raft_call(inner, from, request).boxed(),
            RpcClass::Snapshot => async move {
                let named = transfer::cluster_named(&request);
                belongs(&inner, from, named).await?;
                if transfer::is_of_leader(&request) {
                    inner.contact.heard(from);
                }
                inner
                    .receiver
                    .handle(request, &inner.shared, &inner.raft)
                    .await
            }
            .boxed(),
            RpcClass::Propose => propose(&inner, request),
            RpcClass::Read => read(inner, request),
            RpcClass::Barrier => barrier(inner, request).boxed(),
            RpcClass::Join => join(inner, from, request).boxed(),
            RpcClass::Leader | RpcClass::System => {
                ready(Err("not served by the replica".to_owned())).boxed()
            }
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Refuses calls of other clusters. A node that has nothing belongs to the first that calls it, from before
/// it answers.
async fn belongs(inner: &Arc<Inner>, from: NodeId, named: Option<ClusterId>) -> Result<(), String> {
    match (inner.belonging.id(), named) {
        (Some(own), Some(named)) if own == named => Ok(()),
        (Some(own), Some(named)) => Err(format!(
            "this node is of cluster {own}, the call of {named}"
        )),
        // A member may not have applied yet that there is an identity.
        (Some(_), None) if membership::members(inner).names.contains_key(&from) => Ok(()),
        (Some(own), None) => Err(format!("this node is of cluster {own}, the call of none")),
        (None, Some(named)) if !inner.has_members() => {
            let belonging = Arc::clone(&inner.belonging);
            let admitting = tokio::task::spawn_blocking(move || belonging.admit(named));
            admitting.await.map_err(text)?.map_err(text)?;
            tracing::info!(cluster = %named, by = %from, "this node belongs to a cluster from now on");
            Ok(())
        }
        (None, _) => Ok(()),
    }
}

async fn raft_call(inner: Arc<Inner>, from: NodeId, mut request: Bytes) -> Result<Bytes, String> {
    let head = Head::take(&mut request).ok_or("unknown kind of call")?;
    let kind = head.kind;
    belongs(&inner, from, head.cluster).await?;
    if matches!(kind, Kind::Vote | Kind::PreVote) && Instant::now() < inner.no_votes_before {
        return Err("started too recently to vote".to_owned());
    }
    let raft = &inner.raft;
    match kind {
        Kind::Append => {
            let call = codec::decode_append_request(request).map_err(text)?;
            let answer = raft.append_entries(call).await.map_err(text)?;
            if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                inner.contact.heard(from);
                inner.contact.leader_has_quorum(!head.quorum_lost);
            }
            codec::encode_append_response(&answer).map_err(text)
        }
        Kind::Vote => {
            let call = codec::decode_vote_request(&request).map_err(text)?;
            let answer = raft.vote(call).await.map_err(text)?;
            codec::encode_vote_response(&answer).map_err(text)
        }
        Kind::PreVote => {
            let call = codec::decode_vote_request(&request).map_err(text)?;
            let answer = raft.pre_vote(call).await.map_err(text)?;
            codec::encode_vote_response(&answer).map_err(text)
        }
        Kind::TransferLeader => {
            let call = codec::decode_transfer_request(&request).map_err(text)?;
            let answer = raft.handle_transfer_leader(call).await.map_err(text)?;
            codec::encode_transfer_response(&answer).map_err(text)
        }
    }
}

/// Enqueues at once; only waiting for the outcome is left to the future.
fn propose(inner: &Inner, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
    let parts = match decode_propose(request) {
        Ok(parts) => parts,
        Err(error) => return ready(Err(text(error))).boxed(),
    };
    let answer = inner.queue.push(parts, true);
    async move {
        let answer: Answer = answer.await.unwrap_or(Err(ProposeError::Stopped));
        Ok(encode_propose_answer(&match answer {
            Ok(proposed) => ProposeAnswer::Applied {
                index: proposed.index,
                outcomes: proposed.outcomes,
            },
            Err(
                ProposeError::NoLeader
                | ProposeError::TimedOut {
                    maybe_applied: false,
                },
            ) => ProposeAnswer::NotLeader,
            Err(ProposeError::Overloaded) => ProposeAnswer::Overloaded,
            Err(ProposeError::TimedOut { .. } | ProposeError::Stopped) => ProposeAnswer::Unknown,
        }))
    }
    .boxed()
}

/// Answered at once where the lease allows it; only asking a quorum is left to the future.
fn read(inner: Arc<Inner>, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
    if let Err(error) = decode_read(request) {
        return ready(Err(text(error))).boxed();
    }
    let index = inner.lease.read_index();
    let leads = inner.leadership.borrow().leader == Some(inner.id);
    if index.is_some() || !leads {
        return ready(Ok(encode_index(index))).boxed();
    }
    async move {
        // Concurrent requests of peers are rare (each batches), so none are batched here.
        let max_age = inner.lease.max_age();
        let index = read_index(&inner.raft, max_age, inner.options.election_max).await;
        Ok(encode_index(index))
    }
    .boxed()
}

async fn barrier(inner: Arc<Inner>, request: Bytes) -> Result<Bytes, String> {
    let (index, within_ms) = decode_barrier(request).map_err(text)?;
    let within = Duration::from_millis(within_ms).min(BARRIER_MAX);
    let deadline = Instant::now() + within;
    inner.wait_applied(index, deadline).await.map_err(text)?;
    let left = deadline.saturating_duration_since(Instant::now());
    if !inner.shared.settled(left).await {
        return Err("connections still act by what was before".to_owned());
    }
    Ok(encode_index(Some(index)))
}

async fn join(inner: Arc<Inner>, from: NodeId, request: Bytes) -> Result<Bytes, String> {
    let done = match decode_change(&request) {
        Some(wanted) => change::change(&inner, &wanted.map_err(text)?, true).await,
        None => {
            let join = decode_join(request).map_err(text)?;
            tracing::info!(from = from.0, id = join.id.0, name = %join.name, "asked to admit a node");
            membership::admit(&inner, &join).await
        }
    };
    let answer = match done {
        Ok(()) => JoinAnswer::Admitted,
        Err(AdmitError::NoLeader | AdmitError::Stopped) => JoinAnswer::NoLeader,
        Err(AdmitError::NotCaughtUp(_)) => JoinAnswer::NotCaughtUp,
        Err(AdmitError::Refused(reason)) => JoinAnswer::Refused(reason),
    };
    Ok(encode_join_answer(&answer))
}
