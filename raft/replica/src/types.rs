//! The types openraft is instantiated with, and short names for them. Nothing outside this crate
//! sees them, and nothing here is ever written to disk or wire: `codec` owns both encodings.

use std::fmt;

use bytes::Bytes;
use openraft::RaftTypeConfig;
use unibus_state::Outcome;

use crate::belonging::ClusterId;

/// What one log entry carries: an encoded `unibus_state` entry (stamp and commands), shared by the
/// wire, the log and apply without a copy.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Batch(pub(crate) Bytes);

impl fmt::Display for Batch {
    /// The size only: payloads never reach a log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What apply answers to the proposer of an entry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    /// Log index of the entry.
    pub(crate) index: u64,
    /// One outcome for each command of the batch, in its order. Empty for blank and membership
    /// entries.
    pub(crate) outcomes: Vec<Outcome>,
}

/// A member as the replicated membership knows it. Addresses are the mesh's business.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Peer {
    /// Server name, equal to the DNS name in its route certificate.
    pub(crate) name: String,
    /// The cluster's identity, the same in every member's entry; `None` in clusters of the time before there
    /// were any.
    pub(crate) cluster: Option<ClusterId>,
}

/// The openraft type configuration of every group.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct TypeConfig;

// Spelled out instead of `declare_raft_types!`: the macro has no way to name `Responder<T>`, and the
// leader id must stay the "advanced" one (term and node) because record headers store both.
impl RaftTypeConfig for TypeConfig {
    type D = Batch;
    type R = Reply;
    type NodeId = u64;
    type Node = Peer;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = EntryPayload;
    type Entry = Entry;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// Term and node of a leader or candidate; totally ordered.
pub(crate) type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
/// Leader id and index of an entry.
pub(crate) type LogId = openraft::LogId<LeaderId>;
/// A vote given, or a leadership granted by a quorum.
pub(crate) type Vote = openraft::impls::Vote<LeaderId>;
/// Blank, a batch of commands, or a membership.
pub(crate) type EntryPayload = openraft::EntryPayload<Batch, u64, Peer>;
/// A log entry.
pub(crate) type Entry = openraft::Entry<LeaderId, EntryPayload>;
/// Voters (joint or not) and learners.
pub(crate) type Membership = openraft::Membership<u64, Peer>;
/// A membership and the log id that brought it.
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, u64, Peer>;
/// Last log id and membership of a snapshot. The data type is the state machine's
/// (`RaftStateMachine::SnapshotData`), not the configuration's.
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, Peer>;
/// First and last log id of a log.
pub(crate) type LogState = openraft::LogState<TypeConfig>;
/// The callback that an append calls once it is on disk.
pub(crate) type IoFlushed = openraft::storage::IOFlushed<TypeConfig>;

/// AppendEntries, heartbeats included.
pub(crate) type AppendEntriesRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
/// Its answer.
pub(crate) type AppendEntriesResponse = openraft::raft::AppendEntriesResponse<TypeConfig>;
/// Vote and pre-vote.
pub(crate) type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
/// Their answer.
pub(crate) type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;
/// A leader tells its successor to start an election.
pub(crate) type TransferLeaderRequest = openraft::raft::TransferLeaderRequest<TypeConfig>;
/// Its answer.
pub(crate) type TransferLeaderResponse = openraft::raft::TransferLeaderResponse<TypeConfig>;
/// The answer to an installed snapshot.
pub(crate) type SnapshotResponse = openraft::raft::SnapshotResponse<TypeConfig>;
