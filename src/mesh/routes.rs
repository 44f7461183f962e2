//! The entries of `--routes` and what each of them leads to.

use parking_lot::Mutex;
use unibus_proto::NodeId;

use super::limits::ROUTES_MAX;
use super::options::RouteAddr;

/// What an entry leads to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RouteState {
    /// Nobody has answered yet, or the peer is gone.
    Pending {
        /// Why the last attempt failed.
        last_error: Option<String>,
    },
    /// This node itself.
    Own,
    /// A connected peer.
    Connected(NodeId),
}

/// One entry of `--routes` and its state.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteStatus {
    /// As configured.
    pub route: RouteAddr,
    /// What it leads to.
    pub state: RouteState,
}

#[derive(Debug)]
pub(crate) struct Routes {
    entries: Mutex<Vec<RouteStatus>>,
}

impl Routes {
    pub(crate) fn new(routes: Vec<RouteAddr>) -> Self {
        let pending = |route| RouteStatus {
            route,
            state: RouteState::Pending { last_error: None },
        };
        Self {
            entries: Mutex::new(routes.into_iter().map(pending).collect()),
        }
    }

    /// Adds an entry to dial, where it is new and there is room; its index.
    pub(crate) fn add(&self, route: RouteAddr) -> Option<usize> {
        let mut entries = self.entries.lock();
        let known =
            |entry: &RouteStatus| entry.route.host == route.host && entry.route.port == route.port;
        if entries.len() >= ROUTES_MAX || entries.iter().any(known) {
            return None;
        }
        entries.push(RouteStatus {
            route,
            state: RouteState::Pending { last_error: None },
        });
        Some(entries.len() - 1)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.lock().len()
    }

    pub(crate) fn all(&self) -> Vec<RouteStatus> {
        self.entries.lock().clone()
    }

    pub(crate) fn route(&self, index: usize) -> Option<RouteAddr> {
        self.entries
            .lock()
            .get(index)
            .map(|entry| entry.route.clone())
    }

    /// Sets an entry's state; whether it was another before.
    pub(crate) fn set(&self, index: usize, state: RouteState) -> bool {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(index).filter(|entry| entry.state != state) else {
            return false;
        };
        entry.state = state;
        true
    }
}
