//! One read's worth of operations.
//!
//! Owns the table's read lock while messages are routed, and lets it go, with everything staged handed
//! over first, for each change of the table. Lives within one synchronous call: never across a wait.

use std::sync::Arc;

use parking_lot::RwLockReadGuard;

use crate::fanout::Fanout;
use crate::plane::Plane;
use crate::service::ServiceTable;
use crate::shared::Shared;
use crate::table::Table;

pub(crate) struct Burst<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) plane: &'a Arc<Plane>,
    table: Option<RwLockReadGuard<'a, Table>>,
    services: arc_swap::Guard<Arc<ServiceTable>>,
    interest_changed: bool,
}

impl<'a> Burst<'a> {
    pub(crate) fn new(shared: &'a Shared, plane: &'a Arc<Plane>) -> Self {
        Self {
            shared,
            plane,
            table: None,
            services: plane.services.load(),
            interest_changed: false,
        }
    }

    /// The tables to publish with; the engine's cache is good for them.
    pub(crate) fn tables(&mut self, fanout: &mut Fanout) -> (&Table, &ServiceTable) {
        let plane = self.plane;
        let services = &self.services;
        let table = self.table.get_or_insert_with(|| {
            let table = plane.table.read();
            fanout.sync(&table, services);
            table
        });
        (table, services)
    }

    /// Whether the table is locked for publishing.
    pub(crate) const fn is_open(&self) -> bool {
        self.table.is_some()
    }

    /// Hands over what is staged and lets the table go.
    pub(crate) fn release(&mut self, fanout: &mut Fanout) {
        fanout.hand_over();
        self.table = None;
    }

    /// Changes local interest. When this returns, no other burst uses the table as it was.
    pub(crate) fn change<T>(
        &mut self,
        fanout: &mut Fanout,
        change: impl FnOnce(&mut Table) -> T,
    ) -> T {
        self.release(fanout);
        self.interest_changed = true;
        change(&mut self.plane.table.write())
    }

    /// Ends the burst: everything staged is on its way when this returns.
    pub(crate) fn finish(mut self, fanout: &mut Fanout) {
        self.release(fanout);
        fanout.flush();
        self.interest_changed |= fanout.has_expired();
        fanout.reap(&self.plane.table);
        self.plane.traffic.book(fanout.tally());
        if self.interest_changed {
            self.plane.interest_changed();
        }
    }
}
