//! Structs with the exact fields that are encoded, and conversions from and to the crate's types.
//! Changing a field here changes the format: raise `FORMAT` and keep the old reader.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};
use openraft::raft::TransferLeaderError;

use super::{CodecError, malformed};
use crate::types::{self, LeaderId, Peer};

/// Term, node, committed.
#[derive(Encode, Decode)]
pub(super) struct Vote {
    term: u64,
    node: u64,
    committed: bool,
}

impl From<&types::Vote> for Vote {
    fn from(vote: &types::Vote) -> Self {
        Self {
            term: vote.leader_id.term,
            node: vote.leader_id.node_id,
            committed: vote.committed,
        }
    }
}

impl From<Vote> for types::Vote {
    fn from(vote: Vote) -> Self {
        let leader_id = LeaderId {
            term: vote.term,
            node_id: vote.node,
        };
        Self {
            leader_id,
            committed: vote.committed,
        }
    }
}

/// Term, node, index.
#[derive(Encode, Decode)]
pub(super) struct LogId {
    term: u64,
    node: u64,
    index: u64,
}

impl From<&types::LogId> for LogId {
    fn from(log_id: &types::LogId) -> Self {
        Self {
            term: log_id.leader_id.term,
            node: log_id.leader_id.node_id,
            index: log_id.index,
        }
    }
}

impl From<LogId> for types::LogId {
    fn from(log_id: LogId) -> Self {
        let leader_id = LeaderId {
            term: log_id.term,
            node_id: log_id.node,
        };
        Self {
            leader_id,
            index: log_id.index,
        }
    }
}

/// Voter sets (two while joint) and the name of every member.
#[derive(Encode, Decode)]
pub(super) struct Membership {
    configs: Vec<Vec<u64>>,
    names: Vec<(u64, String)>,
}

impl From<&types::Membership> for Membership {
    fn from(membership: &types::Membership) -> Self {
        Self {
            configs: membership
                .get_joint_config()
                .iter()
                .map(|voters| voters.iter().copied().collect())
                .collect(),
            names: membership
                .nodes()
                .map(|(id, peer)| (*id, peer.name.clone()))
                .collect(),
        }
    }
}

impl TryFrom<Membership> for types::Membership {
    type Error = CodecError;

    fn try_from(membership: Membership) -> Result<Self, CodecError> {
        let configs: Vec<BTreeSet<u64>> = membership
            .configs
            .into_iter()
            .map(|voters| voters.into_iter().collect())
            .collect();
        let nodes: BTreeMap<u64, Peer> = membership
            .names
            .into_iter()
            .map(|(id, name)| {
                let cluster = None;
                (id, Peer { name, cluster })
            })
            .collect();
        Self::new(configs, nodes).map_err(|error| malformed("membership", error))
    }
}

/// A membership and its log id.
#[derive(Encode, Decode)]
pub(super) struct StoredMembership {
    log_id: Option<LogId>,
    membership: Membership,
}

impl From<&types::StoredMembership> for StoredMembership {
    fn from(stored: &types::StoredMembership) -> Self {
        Self {
            log_id: stored.log_id().as_ref().map(LogId::from),
            membership: stored.membership().into(),
        }
    }
}

impl TryFrom<StoredMembership> for types::StoredMembership {
    type Error = CodecError;

    fn try_from(stored: StoredMembership) -> Result<Self, CodecError> {
        Ok(Self::new(
            stored.log_id.map(Into::into),
            stored.membership.try_into()?,
        ))
    }
}

/// Last log id and last membership.
#[derive(Encode, Decode)]
pub(super) struct SnapshotMeta {
    last_log_id: Option<LogId>,
    last_membership: StoredMembership,
}

impl From<&types::SnapshotMeta> for SnapshotMeta {
    fn from(meta: &types::SnapshotMeta) -> Self {
        Self {
            last_log_id: meta.last_log_id.as_ref().map(LogId::from),
            last_membership: (&meta.last_membership).into(),
        }
    }
}

impl TryFrom<SnapshotMeta> for types::SnapshotMeta {
    type Error = CodecError;

    fn try_from(meta: SnapshotMeta) -> Result<Self, CodecError> {
        Ok(Self {
            last_log_id: meta.last_log_id.map(Into::into),
            last_membership: meta.last_membership.try_into()?,
        })
    }
}

/// Everything of AppendEntries but its entries.
#[derive(Encode, Decode)]
pub(super) struct AppendHead {
    pub(super) vote: Vote,
    pub(super) prev: Option<LogId>,
    pub(super) commit: Option<LogId>,
    /// Number of framed entries that follow.
    pub(super) entries: u32,
}

/// Answer to AppendEntries.
#[derive(Encode, Decode)]
pub(super) enum AppendResponse {
    Success,
    Partial(Option<LogId>),
    Conflict,
    HigherVote(Vote),
}

impl From<&types::AppendEntriesResponse> for AppendResponse {
    fn from(response: &types::AppendEntriesResponse) -> Self {
        match response {
            types::AppendEntriesResponse::Success => Self::Success,
            types::AppendEntriesResponse::PartialSuccess(upto) => {
                Self::Partial(upto.as_ref().map(LogId::from))
            }
            types::AppendEntriesResponse::Conflict => Self::Conflict,
            types::AppendEntriesResponse::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<AppendResponse> for types::AppendEntriesResponse {
    fn from(response: AppendResponse) -> Self {
        match response {
            AppendResponse::Success => Self::Success,
            AppendResponse::Partial(upto) => Self::PartialSuccess(upto.map(Into::into)),
            AppendResponse::Conflict => Self::Conflict,
            AppendResponse::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

/// Vote and pre-vote.
#[derive(Encode, Decode)]
pub(super) struct VoteRequest {
    vote: Vote,
    last_log_id: Option<LogId>,
    leadership_transfer: bool,
}

impl From<&types::VoteRequest> for VoteRequest {
    fn from(request: &types::VoteRequest) -> Self {
        Self {
            vote: (&request.vote).into(),
            last_log_id: request.last_log_id.as_ref().map(LogId::from),
            leadership_transfer: request.leadership_transfer,
        }
    }
}

impl From<VoteRequest> for types::VoteRequest {
    fn from(request: VoteRequest) -> Self {
        Self {
            vote: request.vote.into(),
            last_log_id: request.last_log_id.map(Into::into),
            leadership_transfer: request.leadership_transfer,
        }
    }
}

/// Answer to a vote or pre-vote.
#[derive(Encode, Decode)]
pub(super) struct VoteResponse {
    vote: Vote,
    granted: bool,
    last_log_id: Option<LogId>,
}

impl From<&types::VoteResponse> for VoteResponse {
    fn from(response: &types::VoteResponse) -> Self {
        Self {
            vote: (&response.vote).into(),
            granted: response.vote_granted,
            last_log_id: response.last_log_id.as_ref().map(LogId::from),
        }
    }
}

impl From<VoteResponse> for types::VoteResponse {
    fn from(response: VoteResponse) -> Self {
        Self {
            vote: response.vote.into(),
            vote_granted: response.granted,
            last_log_id: response.last_log_id.map(Into::into),
        }
    }
}

/// Leadership transfer.
#[derive(Encode, Decode)]
pub(super) struct TransferRequest {
    from: Vote,
    to: u64,
    last_log_id: Option<LogId>,
}

impl From<&types::TransferLeaderRequest> for TransferRequest {
    fn from(request: &types::TransferLeaderRequest) -> Self {
        Self {
            from: request.from_leader().into(),
            to: *request.to_node_id(),
            last_log_id: request.last_log_id().map(LogId::from),
        }
    }
}

impl From<TransferRequest> for types::TransferLeaderRequest {
    fn from(request: TransferRequest) -> Self {
        Self::new(
            request.from.into(),
            request.to,
            request.last_log_id.map(Into::into),
        )
    }
}

/// Answer to a leadership transfer.
#[derive(Encode, Decode)]
pub(super) enum TransferResponse {
    Accepted,
    VoteChanged(Vote, Vote),
    LogNotFlushed(Option<LogId>, Option<LogId>),
}

impl From<&types::TransferLeaderResponse> for TransferResponse {
    fn from(response: &types::TransferLeaderResponse) -> Self {
        match response {
            Ok(()) => Self::Accepted,
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                Self::VoteChanged(expected.into(), actual.into())
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => Self::LogNotFlushed(
                expected.as_ref().map(LogId::from),
                actual.as_ref().map(LogId::from),
            ),
        }
    }
}

impl From<TransferResponse> for types::TransferLeaderResponse {
    fn from(response: TransferResponse) -> Self {
        match response {
            TransferResponse::Accepted => Ok(()),
            TransferResponse::VoteChanged(expected, actual) => {
                Err(TransferLeaderError::VoteChanged {
                    expected: expected.into(),
                    actual: actual.into(),
                })
            }
            TransferResponse::LogNotFlushed(expected, actual) => {
                Err(TransferLeaderError::LogNotFlushed {
                    expected: expected.map(Into::into),
                    actual: actual.map(Into::into),
                })
            }
        }
    }
}

/// What the log re-logs of a group at the start of a segment.
#[derive(Encode, Decode)]
pub(super) struct GroupHead {
    vote: Option<Vote>,
    purged: Option<LogId>,
    committed: Option<LogId>,
    live: Option<(u64, u64)>,
}

impl From<&super::GroupHead> for GroupHead {
    fn from(head: &super::GroupHead) -> Self {
        Self {
            vote: head.vote.as_ref().map(Vote::from),
            purged: head.purged.as_ref().map(LogId::from),
            committed: head.committed.as_ref().map(LogId::from),
            live: head.live,
        }
    }
}

impl From<GroupHead> for super::GroupHead {
    fn from(head: GroupHead) -> Self {
        Self {
            vote: head.vote.map(Into::into),
            purged: head.purged.map(Into::into),
            committed: head.committed.map(Into::into),
            live: head.live,
        }
    }
}
