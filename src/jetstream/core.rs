//! What all parts of JetStream share: the handles of the node, the options, and the infos that more
//! than one answer tells.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::future::BoxFuture;
use unibus_broker::Broker;
use unibus_proto::NodeId;
use unibus_proto::jetstream::config::add_server_metadata;
use unibus_proto::jetstream::info::{ClusterInfo, PeerInfo, StreamInfo};
use unibus_proto::jetstream::timestamp::Timestamp;
use unibus_raft::{GroupId, Replica, RpcClass, StorageError, Transport, TransportError};
use unibus_state::{Location, State, StoredMessage, Stream};

use super::JetStreamOptions;
use super::api::Counters;
use super::delivery::Engine;
use super::hooks::Hooks;
use super::ingest::Ingest;
use super::inlet::Inlet;
use super::leader::ToLeader;
use super::reign::Reign;
use super::sourcing::Sinks;
use crate::config::auth::SYSTEM_ACCOUNT;

/// Handles and options.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) broker: Broker,
    pub(super) replica: Replica,
    pub(super) options: JetStreamOptions,
    pub(super) hooks: Arc<Hooks>,
    pub(super) ingest: Arc<Ingest>,
    pub(super) leader_link: Arc<dyn Transport>,
    pub(super) engine: Arc<Engine>,
    pub(super) inlet: Inlet,
    pub(super) sinks: Sinks,
    pub(super) counters: Counters,
    pub(super) reign: Reign,
}

/// Nodes that speak this version of routes know consumers that acknowledge by flow control.
const FLOW_ACKS_FROM: u32 = 3;
/// Why no such consumer can be made now.
pub(super) const FLOW_ACKS_NOT_YET: &str =
    "acknowledgements by flow control need every node of the cluster connected and of this version";

/// Why a stored message could not be read.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Unread {
    /// It was removed since its place was looked up.
    Gone,
    /// What is on this node's disk is not what was written. It is being fetched from the other nodes.
    Damaged,
}

impl Unread {
    fn of(error: &StorageError) -> Self {
        match error {
            StorageError::Missing { .. } => Self::Gone,
            _ => Self::Damaged,
        }
    }
}

impl Core {
    pub(super) fn now() -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    pub(super) fn is_leader(&self) -> bool {
        self.replica.leadership().borrow().is_leader
    }

    /// Whether an input for a consumer goes to the leader. The leader delivers as soon as it has applied
    /// that the consumer is made, and clients answer within a millisecond: only the leader can say that
    /// there is none.
    pub(super) fn may_be_consumer(&self, stream: &str, consumer: &str) -> bool {
        self.hooks.consumer_pushes(stream, consumer).is_some()
            || (self.hooks.has_stream(stream) && !self.is_leader())
    }

    /// Whether every voter is there and knows consumers that acknowledge by flow control. A node of an
    /// older version would have to end when the log tells it of one.
    pub(super) fn knows_flow_acks(&self) -> bool {
        self.all_speak(FLOW_ACKS_FROM)
    }

    /// Whether every voter is there and speaks this version of routes, or a later one.
    pub(super) fn all_speak(&self, version: u32) -> bool {
        let status = self.replica.status();
        let mut others = status.voters.keys().filter(|id| id.0 != status.node_id);
        others.all(|id| self.leader_link.protocol(*id) >= Some(version))
    }

    /// A stored message.
    pub(super) fn read_message(&self, place: &Location) -> Result<StoredMessage, Unread> {
        let record = self.replica.read_record(place).map_err(|error| {
            tracing::warn!(%error, "a stored message can't be read");
            Unread::of(&error)
        })?;
        Self::decode_message(record).ok_or(Unread::Damaged)
    }

    /// The records of stored messages, in their order.
    pub(super) fn read_records(&self, places: &[Location]) -> Vec<Result<Bytes, Unread>> {
        let records = self.replica.read_records(places).into_iter();
        records
            .map(|record| {
                record.map_err(|error| {
                    tracing::warn!(%error, "a stored message can't be read");
                    Unread::of(&error)
                })
            })
            .collect()
    }

    /// Whether what is damaged here may be whole on other nodes, and is fetched from them.
    pub(super) fn may_be_mended(&self) -> bool {
        self.replica.status().voters.len() > 1
    }

    /// What a record says; `None` when it is damaged.
    pub(super) fn decode_message(record: Bytes) -> Option<StoredMessage> {
        StoredMessage::decode(record)
            .inspect_err(|error| tracing::error!(%error, "a stored message is damaged"))
            .ok()
    }

    pub(super) fn stream_info_of(state: &State, stream: &Stream, now: Timestamp) -> StreamInfo {
        let mut sources = state.source_infos(stream, now.0);
        let mirrors = stream.config().mirror.is_some();
        StreamInfo {
            config: stream.config().clone(),
            created: Timestamp(stream.created_ns()),
            state: stream.state(),
            cluster: None,
            mirror: if mirrors { sources.pop() } else { None },
            sources,
            ts: now,
        }
    }

    /// The info that answers a create or update: with the server's metadata, and the cluster only where
    /// there is one, as nats-server has it.
    pub(super) fn created_stream_info(&self, name: &str) -> Option<StreamInfo> {
        let mut info = self.replica.with_state(|state| {
            Some(Self::stream_info_of(
                state,
                state.stream(name)?,
                Self::now(),
            ))
        })?;
        let needs = info.config.required_api_level();
        let (level, version) = (self.options.api_level, self.options.version.as_str());
        add_server_metadata(&mut info.config.metadata, needs, level, version);
        if self.replica.status().voters.len() > 1 {
            info.cluster = Some(self.cluster_info());
        }
        Some(info)
    }

    /// Sends to a node that leads. The order is that of the calls.
    pub(super) fn call_leader(
        &self,
        leader: NodeId,
        request: &ToLeader,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        self.leader_link
            .call(leader, RpcClass::Leader, GroupId(0), request.encode())
    }

    /// Sends to the leader. The order is that of the calls.
    pub(super) fn ask_leader(
        &self,
        request: &ToLeader,
    ) -> impl Future<Output = Option<Bytes>> + Send + 'static {
        let leader = self.replica.leadership().borrow().leader;
        let call = leader.map(|leader| self.call_leader(leader, request));
        async move {
            call?
                .await
                .inspect_err(|error| tracing::debug!(%error, "the leader was not reached"))
                .ok()
        }
    }

    /// Where all streams and consumers live: the one group.
    pub(super) fn cluster_info(&self) -> ClusterInfo {
        let status = self.replica.status();
        let own_name = &self.options.server_name;
        if status.voters.len() <= 1 {
            return ClusterInfo {
                leader: Some(own_name.clone()),
                ..ClusterInfo::default()
            };
        }
        let connected = self.leader_link.connected();
        let reachable = |id: &NodeId| id.0 == status.node_id || connected.contains(id);
        let replicas = status
            .voters
            .iter()
            .filter(|(id, _)| Some(**id) != status.leader)
            .map(|(id, name)| PeerInfo {
                name: name.clone(),
                current: reachable(id),
                offline: !reachable(id),
                active: 0,
                lag: 0,
                peer: format!("{:08x}", id.0 >> 32),
            })
            .collect();
        ClusterInfo {
            name: self.options.cluster_name.clone(),
            raft_group: None,
            leader: status.leader.and_then(|id| status.voters.get(&id).cloned()),
            leader_since: status.leader.and_then(|id| self.reign.since(id)),
            // What nodes tell each other belongs to no account's traffic.
            system_account: true,
            traffic_account: Some(SYSTEM_ACCOUNT.to_owned()),
            replicas,
        }
    }
}
