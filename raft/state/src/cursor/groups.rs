//! Priority groups: the pin of a pinned client (ADR-42). A pin is replicated with the row so that a new
//! leader keeps it.

use std::sync::Arc;

use super::ConsumerCursor;
use super::settings::Policy;
use super::waiting::{Request, Verdict};
use crate::consumer_update::Pin;
use crate::delivery::{Advisory, Status};

/// Bytes of the hash that a pin shows.
const PIN_HASH_BYTES: usize = 11;

/// Whether a request of a pinned consumer may be served. Without a pin, the first that shows none gets
/// one.
pub(super) fn judge(policy: Policy, pin: Option<&Pin>, request: &Request) -> Verdict {
    if policy != Policy::Pinned {
        return Verdict::Serve;
    }
    match (pin, request.pin.as_str()) {
        (None, "") => Verdict::Serve,
        (Some(pin), shown) if *pin.id == *shown => Verdict::Serve,
        (Some(_), "") => Verdict::Pass,
        _ => Verdict::WrongPin,
    }
}

impl ConsumerCursor {
    /// Takes the pin of a group from its client, on an administrator's request. False: no such group.
    pub fn handle_unpin(&mut self, group: &str, now_ns: u64) -> bool {
        self.note_time(now_ns);
        if self.settings.policy != Policy::Pinned
            || !self.settings.groups.iter().any(|known| **known == *group)
        {
            return false;
        }
        self.unpin("admin");
        true
    }

    pub(super) fn set_pin(&mut self, pin: Option<Pin>) {
        if self.pin != pin {
            self.pin = pin;
            self.changes.pin();
        }
    }

    fn unpin(&mut self, reason: &'static str) {
        if let Some(pin) = self.pin.clone() {
            self.set_pin(None);
            let group = pin.group;
            self.advisories
                .push_back(Advisory::Unpinned { group, reason });
        }
    }

    /// A request that shows another pin than the one in force. Without one in force, it is told when its
    /// turn comes.
    pub(super) fn refuse_pin(&mut self, shown: &str) -> Option<Status> {
        self.expire_pin();
        if self.settings.policy != Policy::Pinned || shown.is_empty() {
            return None;
        }
        let pin = self.pin.as_ref()?;
        if *pin.id != *shown {
            return Some(Status::PIN_MISMATCH);
        }
        self.pin_used_ns = self.now_ns;
        None
    }

    /// The pin to show with a delivery, made for whoever gets the first.
    pub(super) fn pin_for_delivery(&mut self) -> Option<Arc<str>> {
        if self.settings.policy != Policy::Pinned {
            return None;
        }
        self.pin_used_ns = self.now_ns;
        if let Some(pin) = &self.pin {
            return Some(pin.id.clone());
        }
        let group = self.settings.groups.first()?.clone();
        let id = self.new_pin_id();
        let advisory = Advisory::Pinned {
            group: group.clone(),
            pin: id.clone(),
        };
        self.advisories.push_back(advisory);
        self.set_pin(Some(Pin {
            group,
            id: id.clone(),
            since_ns: self.now_ns,
        }));
        Some(id)
    }

    /// Not a secret, only different from every other.
    fn new_pin_id(&self) -> Arc<str> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.stream.as_bytes());
        hasher.update(self.consumer.as_bytes());
        let delivered = self.ledger.delivered();
        for part in [self.created_ns, self.now_ns, delivered.consumer_seq] {
            hasher.update(&part.to_le_bytes());
        }
        let hash = hasher.finalize();
        hash.as_bytes()[..PIN_HASH_BYTES]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
            .into()
    }

    /// When an unused pin ends.
    pub(super) fn pin_ends_ns(&self) -> Option<u64> {
        let pin = self.pin.as_ref()?;
        let used = self.pin_used_ns.max(pin.since_ns);
        Some(used.saturating_add(self.settings.pin_ns))
    }

    pub(super) fn expire_pin(&mut self) {
        if self.pin_ends_ns().is_some_and(|at| at <= self.now_ns) {
            self.unpin("timeout");
        }
    }
}
