//! openraft's outgoing calls over the transport port. Heartbeats, votes and transfers go by their
//! own class, so that neither entries nor snapshots can delay them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::RPCOption;
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use unibus_proto::NodeId;

use crate::belonging::{Belonging, CLUSTER_IDS_FROM, ClusterId, ID_BYTES};
use crate::codec::{self, CodecError};
use crate::lease::Told;
use crate::machine::Snapshot;
use crate::replica::GROUP;
use crate::snapshot::SnapshotDir;
use crate::transfer;
use crate::transport::{RpcClass, Transport, TransportError};
use crate::types::{
    AppendEntriesRequest, AppendEntriesResponse, Peer, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, TypeConfig, Vote, VoteRequest, VoteResponse,
};

/// Bytes per second that entries get through with at least: a request gets this much more time.
const APPEND_FLOOR_RATE: f64 = 1_048_576.0;

/// What a request of class Vote or Append holds.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Kind {
    Append = 1,
    Vote = 2,
    PreVote = 3,
    TransferLeader = 4,
}

impl Kind {
    pub(crate) fn from_wire(byte: u8) -> Option<Self> {
        [
            Self::Append,
            Self::Vote,
            Self::PreVote,
            Self::TransferLeader,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// Set in the first byte of a request with a [`Head`] of more than its kind.
const EXTENDED: u8 = 0x80;
/// In the second byte of such a one: the cluster's identity follows.
const IDENTIFIED: u8 = 1;
/// In the second byte: the sender, which leads, has not been acknowledged by a quorum lately.
const QUORUM_LOST: u8 = 2;

/// What stands before the message of a request of class Vote or Append. Peers that don't know identities are
/// told the kind only.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    /// The sender's cluster, where it has an identity.
    pub(crate) cluster: Option<ClusterId>,
    /// The sender leads and can commit nothing.
    pub(crate) quorum_lost: bool,
}

impl Head {
    /// The head, then the message. With nothing but the kind for a peer that knows no more.
    fn frame(self, knows_more: bool, message: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(2 + ID_BYTES + message.len());
        if knows_more {
            out.put_u8(self.kind as u8 | EXTENDED);
            let identified = self.cluster.map_or(0, |_| IDENTIFIED);
            out.put_u8(identified | if self.quorum_lost { QUORUM_LOST } else { 0 });
            if let Some(ClusterId(id)) = self.cluster {
                out.put_slice(&id);
            }
        } else {
            out.put_u8(self.kind as u8);
        }
        out.put_slice(message);
        out.freeze()
    }

    /// Takes the head off a request; `None` if it is none.
    pub(crate) fn take(request: &mut Bytes) -> Option<Self> {
        let first = request.try_get_u8().ok()?;
        let kind = Kind::from_wire(first & !EXTENDED)?;
        let flags = match first & EXTENDED {
            0 => 0,
            _ => request.try_get_u8().ok()?,
        };
        if flags & !(IDENTIFIED | QUORUM_LOST) != 0 {
            return None;
        }
        let mut id = [0; ID_BYTES];
        let identified = flags & IDENTIFIED != 0;
        if identified {
            request.try_copy_to_slice(&mut id).ok()?;
        }
        Some(Self {
            kind,
            cluster: identified.then_some(ClusterId(id)),
            quorum_lost: flags & QUORUM_LOST != 0,
        })
    }
}

/// Makes the connections openraft asks for.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) id: NodeId,
    pub(crate) transport: Arc<dyn Transport>,
    /// A lost answer to entries is noticed by the transport, so this only bounds silence.
    pub(crate) append_timeout: Duration,
    /// What followers have been told is committed.
    pub(crate) told: Arc<Told>,
    /// The cluster that calls are made for.
    pub(crate) belonging: Arc<Belonging>,
    /// Whether this node leads without a quorum.
    pub(crate) quorum_lost: Arc<AtomicBool>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _node: &Peer) -> Connection {
        self.connection(target, RpcClass::Append, self.append_timeout)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &Peer) -> Connection {
        self.connection(target, RpcClass::Vote, Duration::ZERO)
    }
}

impl Network {
    fn connection(&self, target: u64, class: RpcClass, append_timeout: Duration) -> Connection {
        Connection {
            network: self.clone(),
            target: NodeId(target),
            class,
            append_timeout,
        }
    }
}

/// Calls to one peer.
#[derive(Debug)]
pub(crate) struct Connection {
    network: Network,
    target: NodeId,
    /// The class of AppendEntries of this client.
    class: RpcClass,
    append_timeout: Duration,
}

impl Connection {
    /// The request with what a peer of its version is told before the message.
    fn request(&self, kind: Kind, message: &[u8]) -> Bytes {
        let Network {
            transport,
            belonging,
            quorum_lost,
            ..
        } = &self.network;
        let head = Head {
            kind,
            cluster: belonging.id(),
            quorum_lost: kind == Kind::Append && quorum_lost.load(Ordering::Relaxed),
        };
        head.frame(
            transport.protocol(self.target) >= Some(CLUSTER_IDS_FROM),
            message,
        )
    }

    async fn call(
        &self,
        class: RpcClass,
        action: RPCTypes,
        request: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, RPCError<TypeConfig>> {
        let call = self
            .network
            .transport
            .call(self.target, class, GROUP, request);
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error @ TransportError::Lost(..))) => Err(NetworkError::new(&error).into()),
            Ok(Err(error)) => Err(Unreachable::new(&error).into()),
            Err(_) => Err(Timeout {
                action,
                id: self.network.id.0,
                target: self.target.0,
                timeout,
            }
            .into()),
        }
    }
}

fn bad(error: CodecError) -> RPCError<TypeConfig> {
    Unreachable::new(&error).into()
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = Arc<SnapshotDir>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse, RPCError<TypeConfig>> {
        let message = codec::encode_append_request(&rpc).map_err(bad)?;
        self.network.told.note(rpc.leader_commit.as_ref());
        let size = Duration::from_secs_f64(message.len() as f64 / APPEND_FLOOR_RATE);
        let timeout = option.hard_ttl().max(self.append_timeout + size);
        let request = self.request(Kind::Append, &message);
        let answer = self
            .call(self.class, RPCTypes::AppendEntries, request, timeout)
            .await?;
        codec::decode_append_response(&answer).map_err(bad)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RPCError<TypeConfig>> {
        let message = codec::encode_vote_request(&rpc).map_err(bad)?;
        let request = self.request(Kind::Vote, &message);
        let answer = self
            .call(RpcClass::Vote, RPCTypes::Vote, request, option.hard_ttl())
            .await?;
        codec::decode_vote_response(&answer).map_err(bad)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RPCError<TypeConfig>> {
        let message = codec::encode_vote_request(&rpc).map_err(bad)?;
        let request = self.request(Kind::PreVote, &message);
        let answer = self
            .call(RpcClass::Vote, RPCTypes::Vote, request, option.hard_ttl())
            .await?;
        codec::decode_vote_response(&answer).map_err(bad)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse, StreamingError<TypeConfig>> {
        let transport = &self.network.transport;
        let knows = transport.protocol(self.target) >= Some(CLUSTER_IDS_FROM);
        let cluster = self.network.belonging.id().filter(|_| knows);
        let target = (self.target, cluster);
        let sending = transfer::send(transport, target, &vote, &snapshot.snapshot);
        tokio::select! {
            sent = sending => sent.map_err(|error| match error {
                transfer::SendError::Transport(error @ TransportError::Unreachable(_)) => {
                    StreamingError::Unreachable(Unreachable::new(&error))
                }
                error => {
                    tracing::warn!(target = self.target.0, %error, "snapshot transfer failed");
                    StreamingError::Unreachable(Unreachable::new(&error))
                }
            }),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse, RPCError<TypeConfig>> {
        let message = codec::encode_transfer_request(&req).map_err(bad)?;
        let request = self.request(Kind::TransferLeader, &message);
        let answer = self
            .call(
                RpcClass::Vote,
                RPCTypes::TransferLeader,
                request,
                option.hard_ttl(),
            )
            .await?;
        codec::decode_transfer_response(&answer).map_err(bad)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{Head, Kind};
    use crate::belonging::ClusterId;

    #[test]
    fn heads_round_trip_and_older_peers_read_the_kind_alone() {
        for cluster in [None, Some(ClusterId::of([1]))] {
            for quorum_lost in [false, true] {
                let head = Head {
                    kind: Kind::Append,
                    cluster,
                    quorum_lost,
                };
                let mut request = head.frame(true, b"rest");
                let whole = request.clone();
                assert_eq!(Head::take(&mut request), Some(head));
                assert_eq!(&request[..], b"rest");
                let head_bytes = whole.len() - 4;
                for len in 0..head_bytes {
                    assert_eq!(Head::take(&mut whole.slice(..len)), None, "{len}");
                }
                let bare = head.frame(false, b"rest");
                assert_eq!(&bare[..], b"\x01rest");
                let taken = Head::take(&mut bare.clone()).unwrap();
                assert_eq!((taken.cluster, taken.quorum_lost), (None, false));
            }
        }
        for unknown in [&[0][..], &[9], &[0x81, 4], &[0x89, 0]] {
            assert_eq!(Head::take(&mut Bytes::copy_from_slice(unknown)), None);
        }
    }
}
