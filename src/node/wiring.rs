//! The small adapters between the parts: mesh → broker, replica → directory and JetStream, peers'
//! requests → replica, JetStream or monitoring, and the transport of a node without peers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use parking_lot::Mutex;
use unibus_broker::{Broker, ConnectUrls, Peer, Publication};
use unibus_proto::NodeId;
use unibus_proto::control::Notice;
use unibus_raft::{
    Belonging, GroupId, Observer, Replica, ReplicaStatus, RpcClass, RpcHandler, Transport,
    TransportError,
};
use unibus_state::{Effect, Location, State};

use super::bootstrap;
use crate::control::follow::{Follower, News};
use crate::jetstream::{JetStream, JetStreamHooks};
use crate::mesh::{MeshHooks, PeerClaim, PeerInfo, PeerLocalStatus};
use crate::monitor::sys::PeerAnswers;

/// The replica, once it has started; taken out again at shutdown so that nothing keeps itself alive.
#[derive(Debug, Default)]
pub(super) struct ReplicaSlot(Mutex<Option<Replica>>);

impl ReplicaSlot {
    pub(super) fn set(&self, replica: Option<Replica>) {
        *self.0.lock() = replica;
    }

    fn get(&self) -> Option<Replica> {
        self.0.lock().clone()
    }
}

/// Hands route streams to the broker and tells peers how this node stands.
pub(super) struct RouteHooks {
    pub(super) broker: Broker,
    pub(super) replica: Arc<ReplicaSlot>,
    /// Where clients reach this node, for peers to tell theirs.
    pub(super) urls: ConnectUrls,
    /// `None` on a node that stores nothing: it is of every cluster of its name.
    pub(super) belonging: Option<Arc<Belonging>>,
    /// This node is about to form a cluster of its own.
    pub(super) forming: Arc<AtomicBool>,
}

impl MeshHooks for RouteHooks {
    fn connected(
        &self,
        peer: PeerInfo,
        stream: (quinn::RecvStream, quinn::SendStream),
    ) -> BoxFuture<'static, ()> {
        let (reader, writer) = stream;
        let task = self.broker.attach_route(
            Peer {
                id: peer.id,
                name: peer.name,
            },
            reader,
            writer,
        );
        task.map(drop).boxed()
    }

    fn disconnected(&self, _id: NodeId) {
        // The broker notices by the end of the stream.
    }

    fn accepts(&self, peer: &PeerClaim) -> Result<(), String> {
        let Some(own) = self.belonging.as_ref().and_then(|known| known.id()) else {
            // If it has one, it judges this node.
            return Ok(());
        };
        let members = self.replica.get().map(|replica| replica.status());
        let members = members
            .map(|status| members_of(&status))
            .unwrap_or_default();
        bootstrap::judge(&own.to_string(), peer, &members)
    }

    fn local_status(&self) -> PeerLocalStatus {
        // Until its store is open nobody knows whether this node has state. Peers without any must
        // not form a cluster beside one that it may belong to, so unknown means "it has".
        let status = self.replica.get().map(|replica| replica.status());
        let cluster_id = self.belonging.as_ref().and_then(|known| known.id());
        let is_new = |status: &ReplicaStatus| !status.initialized && !status.rejoining;
        let may_have = status.as_ref().is_none_or(|status| !is_new(status));
        PeerLocalStatus {
            initialized: may_have || self.forming.load(Ordering::Relaxed),
            rejoining: status.as_ref().is_some_and(|status| status.rejoining),
            unidentified: cluster_id.is_none()
                && status
                    .as_ref()
                    .is_some_and(|status| status.initialized && !status.rejoining),
            cluster_id: cluster_id.map(|id| id.to_string()),
            quorum: status.as_ref().is_some_and(|status| status.has_quorum),
            members: status.as_ref().map(members_of).unwrap_or_default(),
            client_urls: self.urls.clients.clone(),
            websocket_urls: self.urls.websockets.clone(),
            routes: Vec::new(),
        }
    }
}

/// Voters or not.
fn members_of(status: &ReplicaStatus) -> Vec<NodeId> {
    let all = status.voters.keys().chain(status.learners.keys());
    all.copied().collect()
}

/// Lets permissions and streams follow what is applied, before it is acknowledged.
pub(super) struct StateObserver {
    /// `None` where users are not kept in the store.
    pub(super) follower: Option<Follower>,
    pub(super) broker: Broker,
    pub(super) jetstream: JetStreamHooks,
    pub(super) replica: Arc<ReplicaSlot>,
}

impl StateObserver {
    /// Takes all that `state` holds: what was applied before the replica was known.
    pub(super) fn resync(&self, state: &State, replica: &Replica) {
        if let Some(follower) = &self.follower {
            let read = |at: &Location| replica.read_record(at).map_err(|error| error.to_string());
            follower.resync(state, &read);
        }
    }
}

impl StateObserver {
    /// Tells this node's clients; every node tells its own.
    fn tell(&self, news: BTreeSet<News>) {
        for News { subject, room } in news {
            // A struct of one text always serialises.
            let notice = serde_json::to_vec(&Notice { room_id: room }).unwrap_or_default();
            self.broker.publish(Publication {
                subject: subject.as_bytes(),
                data: &notice,
                local: true,
                ..Publication::default()
            });
        }
    }
}

impl Observer for StateObserver {
    fn applied(&self, state: &State, effects: &[Effect]) {
        if let Some(follower) = &self.follower
            && let Some(replica) = self.replica.get()
        {
            let read = |at: &Location| replica.read_record(at).map_err(|error| error.to_string());
            let news = follower.applied(state, effects, &read);
            self.tell(news);
        }
        self.jetstream.applied(state, effects);
    }

    fn settled(&self, within: Duration) -> BoxFuture<'static, bool> {
        if self.follower.is_none() {
            return ready(true).boxed();
        }
        let broker = self.broker.clone();
        async move { broker.grants_settled(within).await }.boxed()
    }
}

/// Sends peers' requests to the part that serves them.
pub(super) struct Dispatch {
    /// `None` on a node that stores nothing.
    pub(super) store: Option<(Arc<dyn RpcHandler>, JetStream)>,
    pub(super) answers: PeerAnswers,
}

impl RpcHandler for Dispatch {
    fn handle(
        &self,
        from: NodeId,
        class: RpcClass,
        group: GroupId,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        match (class, &self.store) {
            (RpcClass::System, _) => self.answers.clone().answer(request).boxed(),
            (RpcClass::Leader, Some((_, jetstream))) => jetstream.handle_leader_rpc(from, request),
            (_, Some((replica, _))) => replica.handle(from, class, group, request),
            (_, None) => ready(Err("this node stores nothing".to_owned())).boxed(),
        }
    }
}

/// The transport of a node without peers: a group of one runs the same code as a cluster.
#[derive(Debug)]
pub(super) struct Alone;

impl Transport for Alone {
    fn call(
        &self,
        target: NodeId,
        _class: RpcClass,
        _group: GroupId,
        _request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        async move { Err(TransportError::Unreachable(target)) }.boxed()
    }

    fn connected(&self) -> Vec<NodeId> {
        Vec::new()
    }

    fn protocol(&self, _peer: NodeId) -> Option<u32> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Directory, InternalIdentity};
    use crate::config::args::BusAuth;
    use unibus_broker::{BrokerOptions, ConnectUrls};

    #[test]
    fn a_node_whose_store_is_not_open_yet_counts_as_one_with_state() {
        let dir = tempfile::tempdir().unwrap();
        let identity = InternalIdentity::load_or_create(&dir.path().join("id.json")).unwrap();
        let directory = Arc::new(Directory::new(BusAuth::Off, &identity));
        let hooks = RouteHooks {
            broker: Broker::new(BrokerOptions::default(), directory),
            replica: Arc::default(),
            urls: ConnectUrls::default(),
            belonging: None,
            forming: Arc::default(),
        };
        assert!(hooks.local_status().initialized);
    }
}
