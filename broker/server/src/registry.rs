//! Who is connected, and who was.
//!
//! Owns the record of each open connection and the bounded ring of closed ones. Connections write their
//! own record; everyone else reads. Must never hold its lock while it calls somebody.

use std::collections::VecDeque;
use std::hash::RandomState;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock;
use crate::outbound::Outbound;
use crate::ports::Grant;
use crate::reason::CloseReason;
use crate::report::{ClientFacts, ConnectionKind, ConnectionReport, TlsFacts};
use crate::settings::Greeting;

/// One open connection, shared by its task and the registry.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) outbound: Arc<Outbound>,
    peer: SocketAddr,
    greeting: Arc<Greeting>,
    start: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kind: ConnectionKind,
    client: ClientFacts,
    /// It takes INFO at any time.
    follows_info: bool,
    /// What it may do: changed = not yet seen by its session.
    grant: Option<watch::Receiver<Grant>>,
    /// Its session is about to apply what it has seen.
    regranting: bool,
}

impl Record {
    pub(crate) fn new(outbound: Arc<Outbound>, peer: SocketAddr, greeting: Arc<Greeting>) -> Self {
        let start = clock::now();
        outbound.meter.touch(start);
        Self {
            outbound,
            peer,
            greeting,
            start,
            state: Mutex::default(),
        }
    }

    pub(crate) const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// What INFO says to clients of its listener.
    pub(crate) fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// How the client talks to the node.
    pub(crate) fn kind(&self) -> ConnectionKind {
        self.state.lock().kind
    }

    /// How the client talks to the node: known once TLS and WebSocket have been agreed upon.
    pub(crate) fn set_link(&self, kind: ConnectionKind, tls: Option<TlsFacts>) {
        let mut state = self.state.lock();
        state.kind = kind;
        state.client.tls = tls.map(Arc::new);
    }

    /// Changes what is known about the client.
    pub(crate) fn learn(&self, change: impl FnOnce(&mut ClientFacts)) {
        change(&mut self.state.lock().client);
    }

    pub(crate) fn follow(&self, grant: watch::Receiver<Grant>) {
        self.state.lock().grant = Some(grant);
    }

    /// No grant matters any more: the connection has no subscriptions and reads nothing.
    pub(crate) fn unfollow(&self) {
        let mut state = self.state.lock();
        (state.grant, state.regranting) = (None, false);
    }

    /// The session reads the grant next.
    pub(crate) fn begin_regrant(&self) {
        let mut state = self.state.lock();
        state.regranting = true;
        if let Some(grant) = &mut state.grant {
            grant.mark_unchanged();
        }
    }

    pub(crate) fn end_regrant(&self) {
        self.state.lock().regranting = false;
    }

    /// Whether the session still acts under an older grant than the one in force.
    pub(crate) fn is_behind_its_grant(&self) -> bool {
        let state = self.state.lock();
        let changed = |grant: &watch::Receiver<Grant>| grant.has_changed().unwrap_or(false);
        state.regranting || state.grant.as_ref().is_some_and(changed)
    }

    pub(crate) fn follow_info(&self) {
        self.state.lock().follows_info = true;
    }

    pub(crate) fn follows_info(&self) -> bool {
        self.state.lock().follows_info
    }

    /// A copy of the numbers as they are now.
    pub(crate) fn report(&self) -> ConnectionReport {
        let meter = &self.outbound.meter;
        let (incoming, outgoing) = (meter.incoming(), meter.outgoing());
        let (kind, client) = {
            let state = self.state.lock();
            (state.kind, state.client.clone())
        };
        ConnectionReport {
            cid: self.outbound.id,
            kind,
            peer: self.peer,
            start: clock::date(self.start),
            last_activity: clock::date(meter.active()),
            stop: None,
            reason: None,
            rtt: meter.rtt(),
            pending_bytes: self.outbound.pending(),
            in_msgs: incoming.msgs,
            out_msgs: outgoing.msgs,
            in_bytes: incoming.bytes,
            out_bytes: outgoing.bytes,
            subscriptions: meter.subscriptions(),
            client,
            subscription_list: Vec::new(),
        }
    }
}

/// All connections of a broker.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    open: Mutex<HashMap<u64, Arc<Record>, RandomState>>,
    closed: Mutex<VecDeque<ConnectionReport>>,
}

impl Registry {
    pub(crate) fn opened(&self, record: &Arc<Record>) {
        let id = record.outbound.id;
        self.open.lock().insert(id, Arc::clone(record));
    }

    /// Moves a connection to the ring, which keeps the last `kept`. Returns its last report.
    pub(crate) fn closed(
        &self,
        record: &Record,
        reason: CloseReason,
        subscriptions: usize,
        kept: usize,
    ) -> ConnectionReport {
        let report = ConnectionReport {
            stop: Some(SystemTime::now()),
            reason: Some(reason),
            subscriptions,
            ..record.report()
        };
        self.open.lock().remove(&record.outbound.id);
        let mut closed = self.closed.lock();
        while closed.len() >= kept.max(1) {
            closed.pop_front();
        }
        if kept > 0 {
            closed.push_back(report.clone());
        }
        report
    }

    /// Everyone who is connected now.
    pub(crate) fn records(&self) -> Vec<Arc<Record>> {
        self.open.lock().values().cloned().collect()
    }

    pub(crate) fn get(&self, cid: u64) -> Option<Arc<Record>> {
        self.open.lock().get(&cid).cloned()
    }

    /// Copies of the closed connections that `wanted` accepts, oldest first.
    pub(crate) fn past(
        &self,
        mut wanted: impl FnMut(&ConnectionReport) -> bool,
    ) -> Vec<ConnectionReport> {
        let closed = self.closed.lock();
        closed.iter().filter(|r| wanted(r)).cloned().collect()
    }
}
