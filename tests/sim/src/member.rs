//! One node: its log, its replica of the state, what it proposes and what it does as a leader. Consensus
//! itself is a sketch of Raft (terms, votes, log matching), only there to make histories that a real
//! cluster could make; what is under test is everything that such a history is fed to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use unibus_state::{Applied, LoadError, RowOp, State, decode_entry};

use crate::blocks::Disk;
use crate::desk::Desk;
use crate::plane::Sessions;
use crate::rng::Rng;
use crate::tokens::FlightId;

/// Entries in the log, from 1.
pub(crate) type Index = usize;

/// One entry of a log.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) term: u64,
    pub(crate) bytes: Bytes,
}

/// A consistent cut on disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checkpoint {
    pub(crate) applied: Index,
    pub(crate) term: u64,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) disk: Disk,
}

/// One node.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) up: bool,
    pub(crate) term: u64,
    /// The term in which it gave its vote.
    pub(crate) voted: u64,
    /// Entries up to here are purged; the last of them had this term.
    pub(crate) base: (Index, u64),
    pub(crate) log: Vec<Record>,
    pub(crate) committed: Index,
    pub(crate) leads: bool,
    /// Who leads in `term`, as far as is known here.
    pub(crate) leader: Option<usize>,
    /// Per peer, how far its log is known to be equal. Only at a leader.
    pub(crate) matched: Vec<Index>,
    /// Who waits for an entry that this leader appended in this term.
    pub(crate) waiting: BTreeMap<Index, FlightId>,
    /// Its clock, against the true time, nanoseconds.
    pub(crate) skew_ns: i64,
    pub(crate) state: State,
    pub(crate) applied: Index,
    pub(crate) applied_term: u64,
    pub(crate) disk: Disk,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) queue: VecDeque<FlightId>,
    /// Proposals that are with `target`.
    pub(crate) flying: Vec<FlightId>,
    pub(crate) target: Option<(usize, u64)>,
    /// Proposals that were surely not applied; they go first, in their order, when nothing is on its way.
    pub(crate) refused: BTreeSet<FlightId>,
    pub(crate) desk: Desk,
    /// Cursors some of whose updates were not applied: what waits for others is not answered.
    pub(crate) void: BTreeSet<u64>,
    /// The quorum was silent for a moment.
    pub(crate) lapsed: bool,
    pub(crate) sessions: Sessions,
}

impl Member {
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            up: true,
            term: 0,
            voted: 0,
            base: (0, 0),
            log: Vec::new(),
            committed: 0,
            leads: false,
            leader: None,
            matched: vec![0; nodes],
            waiting: BTreeMap::new(),
            skew_ns: 0,
            state: State::new(),
            applied: 0,
            applied_term: 0,
            disk: Disk::default(),
            checkpoint: Checkpoint::default(),
            queue: VecDeque::new(),
            flying: Vec::new(),
            target: None,
            refused: BTreeSet::new(),
            desk: Desk::default(),
            void: BTreeSet::new(),
            lapsed: false,
            sessions: Sessions::new(nodes),
        }
    }

    /// The index of the last entry.
    pub(crate) fn last(&self) -> Index {
        self.base.0 + self.log.len()
    }

    pub(crate) fn term_at(&self, index: Index) -> u64 {
        match index.checked_sub(self.base.0) {
            None => 0,
            Some(0) => self.base.1,
            Some(at) => self.log.get(at - 1).map_or(0, |record| record.term),
        }
    }

    pub(crate) fn record(&self, index: Index) -> Option<&Record> {
        self.log.get(index.checked_sub(self.base.0 + 1)?)
    }

    /// Leads, and knows everything that earlier leaders had acknowledged: only then does the node act
    /// as the leader (`unibus_raft::Leadership::is_leader`).
    pub(crate) fn acts(&self) -> bool {
        self.up && self.leads && !self.lapsed && self.applied_term == self.term
    }

    /// Time as this node's clock tells it.
    pub(crate) fn clock(&self, now_ns: u64) -> u64 {
        now_ns.saturating_add_signed(self.skew_ns)
    }

    /// Stops acting as leader for now.
    pub(crate) fn lapse(&mut self) {
        self.desk = Desk::default();
        self.lapsed = true;
    }

    /// Puts what was refused in front of the queue.
    pub(crate) fn put_back(&mut self) {
        if self.flying.is_empty() {
            for flight in std::mem::take(&mut self.refused).into_iter().rev() {
                self.queue.push_front(flight);
            }
        }
    }

    /// Forgets leading; answers with the proposals nobody will answer.
    pub(crate) fn step_down(&mut self) -> Vec<FlightId> {
        self.leads = false;
        self.lapse();
        std::mem::take(&mut self.waiting).into_values().collect()
    }

    /// Applies the next committed entry.
    pub(crate) fn apply(&mut self) -> Option<(Index, Record, Applied)> {
        if !self.up || self.applied >= self.committed.min(self.last()) {
            return None;
        }
        let index = self.applied + 1;
        let record = self.record(index)?.clone();
        let entry = decode_entry(&record.bytes).ok()?;
        let applied = self.state.apply(index as u64, &entry, &mut self.disk);
        self.applied = index;
        self.applied_term = record.term;
        Some((index, record, applied))
    }

    /// Writes a checkpoint and purges the log up to the one before it.
    pub(crate) fn take_checkpoint(&mut self, is_incremental: bool) {
        let mut rows = std::mem::take(&mut self.checkpoint.rows);
        let full = !is_incremental || self.checkpoint.applied == 0;
        if full {
            rows.clear();
        }
        // A full dump does not forget what the next incremental one has to say.
        let mut write = |op| match op {
            RowOp::Put { key, value } => drop(rows.insert(key, value)),
            RowOp::Delete { key } => drop(rows.remove(&key)),
        };
        if full {
            self.state.dump_rows(false, &mut |_| {});
            self.state.dump_rows(true, &mut write);
        } else {
            self.state.dump_rows(false, &mut write);
        }
        let purge_to = self.checkpoint.applied;
        self.checkpoint = Checkpoint {
            applied: self.applied,
            term: self.term_at(self.applied),
            rows,
            disk: self.disk.clone(),
        };
        if purge_to > self.base.0 {
            let term = self.term_at(purge_to);
            self.log.drain(..purge_to - self.base.0);
            self.base = (purge_to, term);
        }
    }

    /// Everything that is not on disk is gone; answers with the proposals that are lost with it.
    pub(crate) fn crash(&mut self) -> Vec<FlightId> {
        self.up = false;
        self.leader = None;
        self.target = None;
        let mut lost = self.step_down();
        lost.extend(self.queue.drain(..));
        lost.append(&mut self.flying);
        lost.extend(std::mem::take(&mut self.refused));
        lost
    }

    /// Starts again from the checkpoint and replays what is committed later.
    pub(crate) fn restart(&mut self, rng: &mut Rng) -> Result<(), LoadError> {
        self.disk.power_cut(&self.checkpoint.disk, rng);
        self.load()?;
        self.up = true;
        // A node that comes back knows of nothing committed beyond its checkpoint.
        self.committed = self.applied;
        Ok(())
    }

    fn load(&mut self) -> Result<(), LoadError> {
        let rows = &self.checkpoint.rows;
        self.state = if self.checkpoint.applied == 0 {
            State::new()
        } else {
            State::load_rows(rows.iter().map(|(k, v)| (k.clone(), v.clone())))?
        };
        self.applied = self.checkpoint.applied;
        self.applied_term = self.checkpoint.term;
        Ok(())
    }

    /// Takes over another node's checkpoint in place of its own data.
    pub(crate) fn install(&mut self, from: &Checkpoint) -> Result<(), LoadError> {
        self.checkpoint = from.clone();
        self.disk = from.disk.clone();
        self.load()?;
        self.committed = self.committed.max(self.applied);
        self.base = (self.applied, self.applied_term);
        self.log.clear();
        Ok(())
    }
}
