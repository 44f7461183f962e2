//! openraft's outgoing calls over the transport port. Heartbeats, votes and transfers go by their
//! own class, so that neither entries nor snapshots can delay them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::RPCOption;
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use unibus_proto::NodeId;

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

/// The kind, then the message.
fn frame(kind: Kind, message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + message.len());
    out.put_u8(kind as u8);
    out.put_slice(message);
    out.freeze()
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
        let request = frame(Kind::Append, &message);
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
        let request = frame(Kind::Vote, &codec::encode_vote_request(&rpc).map_err(bad)?);
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
        let request = frame(Kind::PreVote, &message);
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
        let sending = transfer::send(transport, self.target, &vote, &snapshot.snapshot);
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
        let request = frame(Kind::TransferLeader, &message);
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
