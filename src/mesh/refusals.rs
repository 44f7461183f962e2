//! The memory of refused routes: one clear log line each, and a bounded list for /healthz.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::limits::{REFUSAL_LOG_PERIOD, REFUSAL_LOGS_MAX, REFUSALS_MAX};

/// Why there is no route. On the wire by name.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// The certificate is not signed by the route CA, out of date, or missing.
    #[error("TLS failed")]
    Tls,
    /// No common protocol version.
    #[error("no common protocol version")]
    Protocol,
    /// Another cluster.
    #[error("different cluster name")]
    Cluster,
    /// A cluster of the same name that is another one.
    #[error("another cluster of the same name")]
    ClusterId,
    /// Not the name that was expected, or not the certificate's.
    #[error("wrong name")]
    Name,
    /// The node is run less strictly.
    #[error("weaker posture")]
    Posture,
    /// The route secrets differ.
    #[error("different route secret")]
    Secret,
    /// Two nodes have the same id.
    #[error("node id in use by another node")]
    NodeId,
    /// Something else came than the handshake.
    #[error("handshake broken")]
    #[serde(other)]
    Handshake,
}

/// Which way the refused connection went.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// This node dialed.
    Dialed,
    /// The peer dialed.
    Accepted,
}

/// Who refused.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedBy {
    /// This node.
    Us,
    /// The peer, for the reason it sent.
    Peer,
}

/// A refused route.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Refusal {
    /// The peer's address.
    pub addr: SocketAddr,
    /// Its name, where TLS got as far as proving one.
    pub name: Option<String>,
    /// Which way the connection went.
    pub direction: Direction,
    /// Who refused.
    pub by: RefusedBy,
    /// Why.
    pub reason: RefusalReason,
    /// The particulars, for people.
    pub detail: String,
    /// How often the same happened in a row.
    pub count: u64,
    /// When it last happened.
    pub last: SystemTime,
}

impl Refusal {
    /// Whether `other` is the same trouble with the same peer. Ports of incoming connections come
    /// and go, so only the address counts there.
    fn is_again(&self, other: &Self) -> bool {
        let place = match self.direction {
            Direction::Dialed => self.addr == other.addr,
            Direction::Accepted => self.addr.ip() == other.addr.ip(),
        };
        place
            && self.direction == other.direction
            && self.by == other.by
            && self.reason == other.reason
            && self.name == other.name
    }
}

#[derive(Debug)]
struct Slot {
    refusal: Refusal,
    logged: Instant,
}

/// The newest refusals, each kind once.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    slots: VecDeque<Slot>,
    loud: Loud,
}

/// How many were logged loudly since when.
#[derive(Debug, Default)]
struct Loud {
    since: Option<Instant>,
    count: u32,
}

impl Loud {
    /// Whether one more may be.
    fn one_more(&mut self, now: Instant) -> bool {
        let over = |since: Instant| now.duration_since(since) >= REFUSAL_LOG_PERIOD;
        if self.since.is_none_or(over) {
            *self = Self {
                since: Some(now),
                count: 0,
            };
        }
        self.count = self.count.saturating_add(1);
        self.count <= REFUSAL_LOGS_MAX
    }
}

impl Refusals {
    pub(crate) fn all(&self) -> Vec<Refusal> {
        self.slots.iter().map(|slot| slot.refusal.clone()).collect()
    }

    /// Remembers a refusal and logs it, unless the same was logged within the minute: peers
    /// redial for ever. Nor are more than so many logged in that time.
    pub(crate) fn record(&mut self, mut refusal: Refusal) {
        let now = Instant::now();
        let known = self
            .slots
            .iter()
            .position(|slot| slot.refusal.is_again(&refusal));
        let known = known.and_then(|at| self.slots.remove(at));
        let mut logged = now;
        let mut loud = true;
        if let Some(slot) = known {
            refusal.count = slot.refusal.count.saturating_add(1);
            if now.duration_since(slot.logged) < REFUSAL_LOG_PERIOD {
                loud = false;
                logged = slot.logged;
            }
        } else if self.slots.len() >= REFUSALS_MAX {
            self.slots.pop_front();
        }
        log(&refusal, loud && self.loud.one_more(now));
        self.slots.push_back(Slot { refusal, logged });
    }
}

fn log(refusal: &Refusal, loud: bool) {
    let Refusal {
        addr,
        name,
        direction,
        by,
        reason,
        detail,
        ..
    } = refusal;
    let name = name.as_deref().unwrap_or("unknown");
    if loud {
        tracing::warn!(%addr, name, ?direction, ?by, %reason, "no route to peer: {detail}");
    } else {
        tracing::debug!(%addr, name, ?direction, ?by, %reason, "still no route to peer: {detail}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use super::{Direction, Loud, Refusal, RefusalReason, Refusals, RefusedBy};
    use crate::mesh::limits::{REFUSAL_LOG_PERIOD, REFUSAL_LOGS_MAX, REFUSALS_MAX};

    fn refusal(port: u16, reason: RefusalReason) -> Refusal {
        Refusal {
            addr: ([127, 0, 0, 1], port).into(),
            name: None,
            direction: Direction::Dialed,
            by: RefusedBy::Us,
            reason,
            detail: String::new(),
            count: 1,
            last: SystemTime::now(),
        }
    }

    #[test]
    fn repeats_are_counted_and_the_list_is_bounded() {
        let mut refusals = Refusals::default();
        refusals.record(refusal(1, RefusalReason::Secret));
        refusals.record(refusal(1, RefusalReason::Secret));
        refusals.record(refusal(1, RefusalReason::Name));
        let counts: Vec<_> = refusals.all().iter().map(|r| (r.reason, r.count)).collect();
        assert_eq!(
            counts,
            [(RefusalReason::Secret, 2), (RefusalReason::Name, 1)]
        );
        for port in 2..500 {
            refusals.record(refusal(port, RefusalReason::Tls));
        }
        assert_eq!(refusals.all().len(), REFUSALS_MAX);
        assert_eq!(refusals.all().last().unwrap().addr.port(), 499);
    }

    #[test]
    fn a_host_with_many_addresses_does_not_fill_the_log() {
        let (mut loud, start) = (Loud::default(), Instant::now());
        let told = (0..1000).filter(|_| loud.one_more(start)).count();
        assert_eq!(told, REFUSAL_LOGS_MAX as usize);
        assert!(loud.one_more(start + REFUSAL_LOG_PERIOD));
    }

    #[test]
    fn an_unknown_reason_of_a_later_version_is_still_read() {
        let read: RefusalReason = serde_json::from_str("\"phase_of_the_moon\"").unwrap();
        assert_eq!(read, RefusalReason::Handshake);
        let text = serde_json::to_string(&RefusalReason::NodeId).unwrap();
        assert_eq!(text, "\"node_id\"");
    }
}
