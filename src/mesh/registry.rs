//! The connected peers: at most one connection each, announced to the node in order.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use quinn::Connection;
use unibus_proto::NodeId;

use super::MeshHooks;
use super::claims::Claims;
use super::peer::Peer;
use super::shared::CloseCode;

/// The two directions of the broker's message stream.
pub(crate) type MessageStream = (quinn::RecvStream, quinn::SendStream);

#[derive(Debug, Default)]
pub(crate) struct Registry {
    peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
    /// Held while the map changes and the node is told, so that the node hears of one peer's
    /// coming and going in the order in which it happened. Never held across an await.
    order: Mutex<Claims>,
}

/// Who decides between two connections of the same pair.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Arbiter {
    /// This node, which has the lower id.
    Us,
    /// The peer: it has decided already.
    Peer,
}

/// What became of a connection that was offered.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Admitted,
    /// The pair is connected already.
    Duplicate,
    /// A node of another name holds the id.
    IdTaken,
    /// Two processes run under the id: neither is believed.
    Contested,
}

impl Registry {
    pub(crate) fn find(&self, id: NodeId) -> Option<Arc<Peer>> {
        self.peers.read().get(&id).map(Arc::clone)
    }

    pub(crate) fn named(&self, name: &str) -> Option<NodeId> {
        self.peers
            .read()
            .values()
            .find(|peer| peer.name() == name)
            .map(|peer| peer.id())
    }

    /// The connections of the peers at this address.
    pub(crate) fn routes_from(&self, ip: IpAddr) -> Vec<Connection> {
        let peers = self.peers.read();
        let at_address = peers.values().filter(|peer| peer.addr().ip() == ip);
        at_address.map(|peer| peer.connection().clone()).collect()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Peer>> {
        self.peers.read().values().map(Arc::clone).collect()
    }

    /// Makes `peer` the connection of its pair, if it may be, and tells the node.
    pub(crate) fn offer(
        &self,
        peer: &Arc<Peer>,
        arbiter: Arbiter,
        hooks: &dyn MeshHooks,
        stream: MessageStream,
    ) -> Verdict {
        let mut claims = self.order.lock();
        let old = self.find(peer.id());
        if let Some(old) = old.as_ref().filter(|old| old.is_open()) {
            if old.name() != peer.name() {
                return Verdict::IdTaken;
            }
            // The same process twice is the race of two dials; another incarnation means that the
            // old connection is a leftover of a process that is gone.
            if arbiter == Arbiter::Us && old.incarnation() == peer.incarnation() {
                return Verdict::Duplicate;
            }
        }
        let held = old.as_ref().map(|old| old.incarnation());
        if claims.are_contested(peer.id(), peer.incarnation(), held, Instant::now()) {
            if let Some(old) = old {
                self.peers.write().remove(&old.id());
                old.close(CloseCode::Refused, "another process has its node id");
                hooks.disconnected(old.id());
            }
            return Verdict::Contested;
        }
        self.peers.write().insert(peer.id(), Arc::clone(peer));
        if let Some(old) = old {
            old.close(CloseCode::Replaced, "replaced by a newer connection");
            hooks.disconnected(old.id());
        }
        peer.set_stream_end(hooks.connected(peer.info(), stream));
        Verdict::Admitted
    }

    /// Forgets `peer`, unless a newer connection has taken its place; whether it was forgotten.
    pub(crate) fn withdraw(&self, peer: &Arc<Peer>, hooks: &dyn MeshHooks) -> bool {
        let _order = self.order.lock();
        let current = self
            .find(peer.id())
            .is_some_and(|current| Arc::ptr_eq(&current, peer));
        if current {
            self.peers.write().remove(&peer.id());
            hooks.disconnected(peer.id());
        }
        current
    }
}
