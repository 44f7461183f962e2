//! Our own encodings of everything that openraft hands us, for the wire and for disk. openraft's
//! types change between alphas; these bytes do not. Golden-bytes tests pin them.
//!
//! Every message starts with [`FORMAT`]. Small structs are bincode of private mirror structs, read
//! under a byte limit; payloads of entries are framed by hand beside them and decode into slices of
//! the received buffer, without a copy. Nothing outside this module knows bincode.

mod append;
mod mirror;
#[cfg(test)]
mod tests;

use bincode::{Decode, Encode};
use bytes::Bytes;

pub(crate) use append::{
    PayloadKind, decode_append_request, decode_payload, encode_append_request, encode_payload,
};

use crate::belonging::ClusterId;
use crate::types::{
    AppendEntriesResponse, LogId, Membership, Peer, SnapshotMeta, SnapshotResponse,
    StoredMembership, TransferLeaderRequest, TransferLeaderResponse, Vote, VoteRequest,
    VoteResponse,
};

/// First byte of every message. A reader refuses any other value.
pub(crate) const FORMAT: u8 = 1;
/// First byte of a membership, and of what holds one, with the cluster's identity before the rest.
const FORMAT_IDENTIFIED: u8 = 2;

/// Bytes of one small struct, at most. A membership of a thousand members with long names fits.
pub(crate) const SMALL_BYTES_MAX: usize = 256 * 1024;

/// Entries of one AppendEntries request, at most.
pub(crate) const APPEND_ENTRIES_MAX: usize = 64 * 1024;

/// Why bytes could not be read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum CodecError {
    /// The first byte names a format this version does not know.
    #[error("unknown format {0}, expected {FORMAT}")]
    Format(u8),
    /// The message ends early.
    #[error("the message ends after {0} bytes")]
    Truncated(usize),
    /// Bytes follow the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// A length or count is over its limit.
    #[error("{what}: {got} is over the limit of {limit}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// The value found.
        got: usize,
        /// The largest value allowed.
        limit: usize,
    },
    /// The content makes no sense.
    #[error("malformed {what}: {detail}")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// What was wrong with it.
        detail: String,
    },
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Encodes a vote.
pub(crate) fn encode_vote(vote: &Vote) -> Result<Bytes, CodecError> {
    encode("vote", mirror::Vote::from(vote))
}

/// Decodes [`encode_vote`].
pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, CodecError> {
    decode::<mirror::Vote>("vote", bytes).map(Into::into)
}

/// Encodes a log id, which may be absent.
pub(crate) fn encode_log_id(log_id: Option<&LogId>) -> Result<Bytes, CodecError> {
    encode("log id", log_id.map(mirror::LogId::from))
}

/// Decodes [`encode_log_id`].
pub(crate) fn decode_log_id(bytes: &[u8]) -> Result<Option<LogId>, CodecError> {
    Ok(decode::<Option<mirror::LogId>>("log id", bytes)?.map(Into::into))
}

/// Encodes a membership.
pub(crate) fn encode_membership(membership: &Membership) -> Result<Bytes, CodecError> {
    let mirror = mirror::Membership::from(membership);
    encode_identified("membership", cluster_of(membership), mirror)
}

/// Decodes [`encode_membership`].
pub(crate) fn decode_membership(bytes: &[u8]) -> Result<Membership, CodecError> {
    let (id, mirror) = decode_identified::<mirror::Membership>("membership", bytes)?;
    identified(mirror.try_into()?, id)
}

/// Encodes a membership with the log id that brought it.
pub(crate) fn encode_stored_membership(stored: &StoredMembership) -> Result<Bytes, CodecError> {
    let (id, mirror) = (cluster_of(stored.membership()), stored.into());
    encode_identified::<mirror::StoredMembership>("stored membership", id, mirror)
}

/// Decodes [`encode_stored_membership`].
pub(crate) fn decode_stored_membership(bytes: &[u8]) -> Result<StoredMembership, CodecError> {
    let (id, mirror) = decode_identified::<mirror::StoredMembership>("stored membership", bytes)?;
    identified_stored(mirror.try_into()?, id)
}

/// Encodes the description of a snapshot.
pub(crate) fn encode_snapshot_meta(meta: &SnapshotMeta) -> Result<Bytes, CodecError> {
    let id = cluster_of(meta.last_membership.membership());
    encode_identified("snapshot meta", id, mirror::SnapshotMeta::from(meta))
}

/// Decodes [`encode_snapshot_meta`].
pub(crate) fn decode_snapshot_meta(bytes: &[u8]) -> Result<SnapshotMeta, CodecError> {
    let (id, mirror) = decode_identified::<mirror::SnapshotMeta>("snapshot meta", bytes)?;
    let meta: SnapshotMeta = mirror.try_into()?;
    Ok(SnapshotMeta {
        last_membership: identified_stored(meta.last_membership, id)?,
        ..meta
    })
}

/// Encodes the answer to AppendEntries.
pub(crate) fn encode_append_response(
    response: &AppendEntriesResponse,
) -> Result<Bytes, CodecError> {
    encode("append response", mirror::AppendResponse::from(response))
}

/// Decodes [`encode_append_response`].
pub(crate) fn decode_append_response(bytes: &[u8]) -> Result<AppendEntriesResponse, CodecError> {
    decode::<mirror::AppendResponse>("append response", bytes).map(Into::into)
}

/// Encodes a vote or pre-vote request.
pub(crate) fn encode_vote_request(request: &VoteRequest) -> Result<Bytes, CodecError> {
    encode("vote request", mirror::VoteRequest::from(request))
}

/// Decodes [`encode_vote_request`].
pub(crate) fn decode_vote_request(bytes: &[u8]) -> Result<VoteRequest, CodecError> {
    decode::<mirror::VoteRequest>("vote request", bytes).map(Into::into)
}

/// Encodes the answer to a vote or pre-vote request.
pub(crate) fn encode_vote_response(response: &VoteResponse) -> Result<Bytes, CodecError> {
    encode("vote response", mirror::VoteResponse::from(response))
}

/// Decodes [`encode_vote_response`].
pub(crate) fn decode_vote_response(bytes: &[u8]) -> Result<VoteResponse, CodecError> {
    decode::<mirror::VoteResponse>("vote response", bytes).map(Into::into)
}

/// Encodes a leadership transfer.
pub(crate) fn encode_transfer_request(
    request: &TransferLeaderRequest,
) -> Result<Bytes, CodecError> {
    encode("transfer request", mirror::TransferRequest::from(request))
}

/// Decodes [`encode_transfer_request`].
pub(crate) fn decode_transfer_request(bytes: &[u8]) -> Result<TransferLeaderRequest, CodecError> {
    decode::<mirror::TransferRequest>("transfer request", bytes).map(Into::into)
}

/// Encodes the answer to a leadership transfer.
pub(crate) fn encode_transfer_response(
    response: &TransferLeaderResponse,
) -> Result<Bytes, CodecError> {
    encode(
        "transfer response",
        mirror::TransferResponse::from(response),
    )
}

/// Decodes [`encode_transfer_response`].
pub(crate) fn decode_transfer_response(bytes: &[u8]) -> Result<TransferLeaderResponse, CodecError> {
    decode::<mirror::TransferResponse>("transfer response", bytes).map(Into::into)
}

/// Encodes the answer to an installed snapshot.
pub(crate) fn encode_snapshot_response(response: &SnapshotResponse) -> Result<Bytes, CodecError> {
    encode("snapshot response", mirror::Vote::from(&response.vote))
}

/// Decodes [`encode_snapshot_response`].
pub(crate) fn decode_snapshot_response(bytes: &[u8]) -> Result<SnapshotResponse, CodecError> {
    let vote = decode::<mirror::Vote>("snapshot response", bytes)?;
    Ok(SnapshotResponse::new(vote.into()))
}

/// What the log keeps of a group besides its entries; written at the start of each segment so that
/// older segments can go.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct GroupHead {
    /// Last vote saved.
    pub(crate) vote: Option<Vote>,
    /// Everything up to here is purged.
    pub(crate) purged: Option<LogId>,
    /// Last committed hint.
    pub(crate) committed: Option<LogId>,
    /// First and last index of the entries that live in older segments.
    pub(crate) live: Option<(u64, u64)>,
}

/// Encodes the head record of a group.
pub(crate) fn encode_group_head(head: &GroupHead) -> Result<Bytes, CodecError> {
    encode("group head", mirror::GroupHead::from(head))
}

/// Decodes [`encode_group_head`].
pub(crate) fn decode_group_head(bytes: &[u8]) -> Result<GroupHead, CodecError> {
    decode::<mirror::GroupHead>("group head", bytes).map(Into::into)
}

/// The identity in a membership.
pub(crate) fn cluster_of(membership: &Membership) -> Option<ClusterId> {
    membership.nodes().find_map(|(_, peer)| peer.cluster)
}

/// The membership with this identity, or with none, in every entry.
pub(crate) fn identified(
    membership: Membership,
    id: Option<ClusterId>,
) -> Result<Membership, CodecError> {
    if id.is_none() {
        return Ok(membership);
    }
    let nodes = membership.nodes().map(|(node, peer)| {
        let name = peer.name.clone();
        (*node, Peer { name, cluster: id })
    });
    let nodes: std::collections::BTreeMap<u64, Peer> = nodes.collect();
    let configs = membership.get_joint_config().clone();
    Membership::new(configs, nodes).map_err(|error| malformed("membership", error))
}

fn identified_stored(
    stored: StoredMembership,
    id: Option<ClusterId>,
) -> Result<StoredMembership, CodecError> {
    let membership = identified(stored.membership().clone(), id)?;
    Ok(StoredMembership::new(*stored.log_id(), membership))
}

/// As [`encode`], with an identity in front if there is one: who knows none reads what has none.
fn encode_identified<T: Encode>(
    what: &'static str,
    id: Option<ClusterId>,
    value: T,
) -> Result<Bytes, CodecError> {
    let Some(ClusterId(id)) = id else {
        return encode(what, value);
    };
    let mut out = vec![FORMAT_IDENTIFIED];
    out.extend_from_slice(&id);
    encode_into(what, value, &mut out)?;
    Ok(out.into())
}

fn decode_identified<T: Decode<()>>(
    what: &'static str,
    bytes: &[u8],
) -> Result<(Option<ClusterId>, T), CodecError> {
    match bytes.split_first() {
        Some((&FORMAT_IDENTIFIED, rest)) => {
            let parts = rest.split_first_chunk();
            let (id, rest) = parts.ok_or(CodecError::Truncated(bytes.len()))?;
            Ok((Some(ClusterId(*id)), decode_exact(what, rest)?))
        }
        _ => Ok((None, decode(what, bytes)?)),
    }
}

/// The bincode dialect: little endian, variable-length integers, bounded.
fn dialect() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<SMALL_BYTES_MAX>()
}

/// `FORMAT`, then bincode of `value`.
fn encode<T: Encode>(what: &'static str, value: T) -> Result<Bytes, CodecError> {
    let mut out = vec![FORMAT];
    encode_into(what, value, &mut out)?;
    Ok(out.into())
}

/// Appends bincode of `value` to `out`.
fn encode_into<T: Encode>(
    what: &'static str,
    value: T,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    let before = out.len();
    bincode::encode_into_std_write(value, out, dialect())
        .map_err(|error| malformed(what, error))?;
    let got = out.len() - before;
    if got > SMALL_BYTES_MAX {
        return Err(CodecError::Limit {
            what,
            got,
            limit: SMALL_BYTES_MAX,
        });
    }
    Ok(())
}

/// Reads `FORMAT` and one `T` that fills the rest.
fn decode<T: Decode<()>>(what: &'static str, bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        None => Err(CodecError::Truncated(0)),
        Some((&FORMAT, rest)) => decode_exact(what, rest),
        Some((&other, _)) => Err(CodecError::Format(other)),
    }
}

/// Reads one `T` that fills `bytes`.
fn decode_exact<T: Decode<()>>(what: &'static str, bytes: &[u8]) -> Result<T, CodecError> {
    let (value, used) =
        bincode::decode_from_slice(bytes, dialect()).map_err(|error| malformed(what, error))?;
    if used != bytes.len() {
        return Err(CodecError::Trailing(bytes.len() - used));
    }
    Ok(value)
}

fn malformed(what: &'static str, detail: impl ToString) -> CodecError {
    CodecError::Malformed {
        what,
        detail: detail.to_string(),
    }
}
