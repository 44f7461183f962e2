//! The message plane of one node: sessions and what they may use, subscriptions, what peers want, and
//! ordered byte streams between nodes. Grants follow the replica; nothing here remembers who was allowed
//! what.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BytesMut};
use unibus_proto::NodeId;
use unibus_proto::control::RoomAccess;
use unibus_proto::interest::{InterestChange, InterestTable, RemoteInterest};
use unibus_proto::permissions::{Permissions, SubjectSet};
use unibus_proto::route::{self, OutgoingMessage, RouteLimits, RouteOp};
use unibus_proto::sublist::{Cursor, Handle, Walk};

/// A user's session on a node: the place of the user.
pub(crate) type User = usize;

/// One node's sessions (one per user) and peers.
#[derive(Debug)]
pub(crate) struct Sessions {
    table: InterestTable<User>,
    subscribed: BTreeMap<(User, String), Handle>,
    grants: BTreeMap<User, Permissions>,
    remote: RemoteInterest<usize>,
    /// Bytes to each peer that did not leave yet; `None`: no route.
    outgoing: Vec<Option<BytesMut>>,
    /// Bytes of each peer that are no whole frame yet.
    incoming: Vec<BytesMut>,
}

/// Something a session received: the user, the subject and the payload.
pub(crate) type Received = (User, String, Vec<u8>);

impl Sessions {
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            table: InterestTable::new(),
            subscribed: BTreeMap::new(),
            grants: BTreeMap::new(),
            remote: RemoteInterest::new(),
            outgoing: vec![None; nodes],
            incoming: vec![BytesMut::new(); nodes],
        }
    }

    /// Takes over what a user may do; subscriptions that it may not have any more end.
    pub(crate) fn grant(&mut self, user: User, rooms: &[RoomAccess]) {
        let (mut publish, mut subscribe) = (Vec::new(), Vec::new());
        for room in rooms {
            room.open(&mut publish, &mut subscribe);
        }
        let set = |texts: Vec<String>| {
            SubjectSet::allowing(texts.iter().filter_map(|text| text.parse().ok()).collect())
        };
        let grant = Permissions {
            publish: set(publish),
            subscribe: set(subscribe),
            ..Permissions::all()
        };
        let mine = self.subscribed.keys().filter(|(of, _)| *of == user);
        let lost: Vec<String> = mine
            .filter(|(_, filter)| !grant.can_subscribe(filter.as_bytes(), None))
            .map(|(_, filter)| filter.clone())
            .collect();
        self.grants.insert(user, grant);
        for filter in lost {
            self.unsubscribe(user, &filter);
        }
    }

    pub(crate) fn subscribe(&mut self, user: User, filter: &str) {
        let key = (user, filter.to_owned());
        let grant = self.grants.get(&user);
        let allowed = grant.is_some_and(|g| g.can_subscribe(filter.as_bytes(), None));
        if !allowed || self.subscribed.contains_key(&key) {
            return;
        }
        let (inserted, told) = self.table.insert(filter.as_bytes(), None, user);
        self.subscribed.insert(key, inserted.handle);
        self.tell(filter, told);
    }

    pub(crate) fn unsubscribe(&mut self, user: User, filter: &str) {
        if let Some(handle) = self.subscribed.remove(&(user, filter.to_owned())) {
            let told = self
                .table
                .remove(handle, None, 0, |of| *of == user, |_, _| {});
            self.tell(filter, told);
        }
    }

    fn tell(&mut self, filter: &str, weight: Option<u32>) {
        let Some(weight) = weight else { return };
        for out in self.outgoing.iter_mut().flatten() {
            let change = InterestChange {
                filter: filter.as_bytes(),
                queue: None,
                weight,
            };
            route::interest(out, change);
        }
    }

    /// A user publishes here: what local sessions receive, `None` where it may not.
    pub(crate) fn publish(
        &mut self,
        user: User,
        subject: &str,
        payload: &[u8],
    ) -> Option<Vec<Received>> {
        let grant = self.grants.get(&user)?;
        if !grant.can_publish(subject.as_bytes()) {
            return None;
        }
        let mut peers = BTreeSet::new();
        let mut walk = Walk::default();
        self.remote
            .for_each_match(subject.as_bytes(), &mut walk, |found| {
                peers.extend(found.members.iter().map(|remote| remote.peer));
            });
        for peer in peers {
            if let Some(Some(out)) = self.outgoing.get_mut(peer) {
                let message = OutgoingMessage {
                    subject: subject.as_bytes(),
                    shown: None,
                    reply: None,
                    header_len: 0,
                    data: payload,
                };
                route::message(out, &message, std::iter::empty(), || true);
            }
        }
        Some(self.local(subject, payload))
    }

    fn local(&self, subject: &str, payload: &[u8]) -> Vec<Received> {
        let mut received = Vec::new();
        self.table
            .sublist()
            .for_each_match(subject.as_bytes(), &mut Walk::default(), |found| {
                for user in found.members {
                    received.push((*user, subject.to_owned(), payload.to_vec()));
                }
            });
        received
    }

    /// A route to a peer is there: it hears of everything that is wanted here.
    pub(crate) fn connect(&mut self, me: usize, peer: usize) {
        let mut out = BytesMut::new();
        route::hello(&mut out, NodeId(me as u64));
        let mut cursor = Cursor::default();
        let mut tell = |change: InterestChange<'_>| {
            route::interest(&mut out, change);
            true
        };
        while !self.table.visit_from(&mut cursor, &mut tell) {}
        route::synced(&mut out);
        self.outgoing[peer] = Some(out);
        self.incoming[peer].clear();
    }

    /// The route to a peer is gone, with everything that was on its way.
    pub(crate) fn disconnect(&mut self, peer: usize) {
        self.outgoing[peer] = None;
        self.incoming[peer].clear();
        self.remote.forget(peer);
    }

    pub(crate) fn is_connected(&self, peer: usize) -> bool {
        self.outgoing[peer].is_some()
    }

    /// Takes up to `bytes` of what waits for a peer.
    pub(crate) fn send(&mut self, peer: usize, bytes: usize) -> Option<BytesMut> {
        let out = self.outgoing[peer].as_mut()?;
        (!out.is_empty()).then(|| out.split_to(bytes.min(out.len())))
    }

    /// Bytes from a peer: what local sessions receive.
    pub(crate) fn receive(&mut self, peer: usize, bytes: &[u8]) -> Result<Vec<Received>, String> {
        let mut buffer = std::mem::take(&mut self.incoming[peer]);
        buffer.extend_from_slice(bytes);
        let mut received = Vec::new();
        loop {
            let decoded = route::decode(&buffer, &RouteLimits::default());
            let Some((op, len)) = decoded.map_err(|error| error.to_string())? else {
                break;
            };
            match op {
                RouteOp::Interest(change) => self.remote.set(peer, change, 0),
                RouteOp::Message(message) => {
                    let subject = String::from_utf8_lossy(message.subject);
                    received.extend(self.local(&subject, message.data));
                }
                RouteOp::Hello { node, .. } if node.0 != peer as u64 => {
                    return Err(format!("{node:?} speaks on the route of {peer}"));
                }
                _ => {}
            }
            buffer.advance(len);
        }
        self.incoming[peer] = buffer;
        Ok(received)
    }
}
