//! Consumers as rows of their stream: configuration, where they start, what they have delivered and what
//! of it is unsettled. Only [`Consumer::apply`] changes a row's ledger; the leader's `cursor` runs ahead
//! of it.

mod check;

use std::sync::Arc;

use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig, DeliverPolicy};
use unibus_proto::jetstream::error::ApiError;
use unibus_proto::jetstream::info::SequenceInfo;

use crate::consumer_update::{ConsumerUpdate, Pin};
use crate::ledger::{Ledger, Position};
use crate::stream::{Context, Stream};

pub use self::check::DEAD_LETTER_KEY;
pub(crate) use self::check::{
    check, check_count, check_update, check_workqueue, dead_letter_subject, fill_defaults,
    sample_percent,
};

/// An update that is not built on the row as it is: its cursor is not the truth any more.
pub const STALE_UPDATE: ApiError = ApiError::fixed(
    409,
    10012,
    "consumer update is not built on the current state",
);

/// One consumer.
#[derive(Clone, Debug)]
pub struct Consumer {
    pub(crate) name: Arc<str>,
    pub(crate) row: ConsumerRow,
    filters: Vec<Box<[u8]>>,
}

/// What a checkpoint keeps of a consumer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ConsumerRow {
    pub(crate) config: Arc<ConsumerConfig>,
    pub(crate) created_ns: u64,
    pub(crate) start_seq: u64,
    pub(crate) resume_seq: u64,
    /// Changes with every update of the ledger.
    pub(crate) stamp: u64,
    pub(crate) ledger: Ledger,
    pub(crate) pin: Option<Pin>,
}

fn filters_of(config: &ConsumerConfig) -> Vec<Box<[u8]>> {
    config
        .filters()
        .map(|filter| filter.as_bytes().into())
        .collect()
}

impl Consumer {
    pub(crate) fn of_row(row: ConsumerRow) -> Self {
        Self {
            name: row.config.name.as_str().into(),
            filters: filters_of(&row.config),
            row,
        }
    }

    /// A consumer at its start position in `stream`.
    pub(crate) fn new(config: ConsumerConfig, ctx: &mut Context<'_>, stream: &Stream) -> Self {
        let filters = filters_of(&config);
        let after = stream.last_seq() + 1;
        let start_seq = match config.deliver_policy {
            DeliverPolicy::All | DeliverPolicy::LastPerSubject => stream.first_seq().max(1),
            DeliverPolicy::New => after,
            DeliverPolicy::ByStartSequence => config.opt_start_seq.max(stream.first_seq()).max(1),
            DeliverPolicy::ByStartTime => {
                let time = config.opt_start_time.unwrap_or_default();
                stream.first_seq_at(time.0).unwrap_or(after)
            }
            DeliverPolicy::Last => last_of(stream, &filters, &mut ctx.work).unwrap_or(after),
        };
        let row = ConsumerRow {
            created_ns: ctx.now_ns,
            start_seq,
            resume_seq: stream.last_seq(),
            stamp: 0,
            ledger: Ledger::starting_at(start_seq),
            pin: None,
            config: Arc::new(config),
        };
        Self {
            name: row.config.name.as_str().into(),
            row,
            filters,
        }
    }

    /// Name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Configuration with defaults filled in, without `_nats.*` metadata.
    #[must_use]
    pub fn config(&self) -> &Arc<ConsumerConfig> {
        &self.row.config
    }

    /// Creation, Unix nanoseconds: tells it from another consumer of the same name.
    #[must_use]
    pub fn created_ns(&self) -> u64 {
        self.row.created_ns
    }

    /// The first sequence it may deliver.
    #[must_use]
    pub fn start_seq(&self) -> u64 {
        self.row.start_seq
    }

    /// The stream's last sequence at creation.
    #[must_use]
    pub fn resume_seq(&self) -> u64 {
        self.row.resume_seq
    }

    /// Its filters; none = everything.
    #[must_use]
    pub fn filters(&self) -> &[Box<[u8]>] {
        &self.filters
    }

    /// Starts with the last message of each subject.
    #[must_use]
    pub fn is_last_per_subject(&self) -> bool {
        self.row.config.deliver_policy == DeliverPolicy::LastPerSubject
    }

    /// Deliveries and what of them is unsettled, as far as is replicated.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.row.ledger
    }

    /// The client that the priority group is pinned to.
    #[must_use]
    pub fn pin(&self) -> Option<&Pin> {
        self.row.pin.as_ref()
    }

    pub(crate) fn stamp(&self) -> u64 {
        self.row.stamp
    }

    /// How far it is known to have come (its leader may be further).
    #[must_use]
    pub fn delivered(&self) -> SequenceInfo {
        info(self.row.ledger.delivered())
    }

    /// Everything up to here is settled.
    #[must_use]
    pub fn ack_floor(&self) -> SequenceInfo {
        info(self.row.ledger.ack_floor())
    }

    /// Messages it still has to deliver, as far as is known here.
    #[must_use]
    pub fn num_pending(&self, stream: &Stream) -> u64 {
        self.count_pending(stream, &mut 0)
    }

    /// Like [`Consumer::num_pending`]; adds what had to be looked at to `work`.
    pub(crate) fn count_pending(&self, stream: &Stream, work: &mut u64) -> u64 {
        let delivered = self.row.ledger.delivered();
        let fresh = delivered.consumer_seq == 0;
        let next = delivered.stream_seq.saturating_add(1);
        let from = self.row.start_seq.max(next);
        let each = fresh && self.is_last_per_subject();
        stream.count_pending(&self.filters, from, each, work)
    }

    /// Whether a message of this subject is for this consumer.
    pub(crate) fn wants(&self, subject: &[u8]) -> bool {
        self.filters.is_empty() || crate::stream::matches_any(&self.filters, subject)
    }

    /// The position of a consumer without acknowledgements, as older entries report it.
    pub(crate) fn advance(&mut self, consumer_seq: u64, stream_seq: u64) -> bool {
        let further = consumer_seq > self.row.ledger.delivered().consumer_seq;
        if further {
            self.row.ledger.advance(Position {
                consumer_seq,
                stream_seq,
            });
            self.row.ledger.settle_floor();
        }
        further
    }

    /// Applies what the leader's cursor reports. Gives the messages that are settled by it: exactly
    /// those that this consumer was waiting for or that the update itself delivers.
    pub(crate) fn apply(&mut self, update: &ConsumerUpdate) -> Result<Vec<u64>, ApiError> {
        let row = &mut self.row;
        if update.created_ns != row.created_ns || update.base != row.stamp {
            return Err(STALE_UPDATE);
        }
        let before = row.ledger.delivered();
        let after = update.delivered;
        let backwards =
            after.consumer_seq < before.consumer_seq || after.stream_seq < before.stream_seq;
        let fresh = |seq: u64| seq > before.stream_seq && seq <= after.stream_seq;
        let unknown = |seq: &u64| !fresh(*seq) && !row.ledger.pending().contains_key(seq);
        if backwards || update.pending.iter().any(|(seq, _)| unknown(seq)) {
            return Err(STALE_UPDATE);
        }
        row.stamp = update.stamp;
        row.ledger.advance(after);
        let mut settled = Vec::with_capacity(update.settled.len());
        for seq in &update.settled {
            if row.ledger.remove(*seq).is_some() || fresh(*seq) {
                settled.push(*seq);
            }
        }
        for seq in &update.dropped {
            row.ledger.remove(*seq);
        }
        if row.config.ack_policy != AckPolicy::None {
            for (seq, entry) in &update.pending {
                row.ledger.insert(*seq, *entry);
            }
        }
        row.ledger.raise_floor(update.ack_floor);
        if let Some(pin) = &update.pin {
            row.pin.clone_from(pin);
        }
        Ok(settled)
    }

    /// Moves the consumer so that `seq` (0: what follows the ack floor) is next. Updates of a cursor that
    /// does not know it yet are stale.
    pub(crate) fn reset(&mut self, seq: u64) -> Result<(), ApiError> {
        let row = &mut self.row;
        let floor = row.ledger.ack_floor();
        let next = if seq == 0 { floor.stream_seq + 1 } else { seq };
        if next < row.start_seq {
            let text = format!(
                "invalid reset: sequence {next} is below the start {}",
                row.start_seq
            );
            return Err(ApiError::with(400, 10204, text));
        }
        row.stamp = row.stamp.wrapping_add(1);
        row.ledger.reset(next);
        Ok(())
    }

    /// Takes over an accepted new configuration, keeping the position.
    pub(crate) fn reconfigure(&mut self, config: ConsumerConfig) {
        self.filters = filters_of(&config);
        self.row.config = Arc::new(config);
    }
}

fn info(at: Position) -> SequenceInfo {
    SequenceInfo {
        consumer_seq: at.consumer_seq,
        stream_seq: at.stream_seq,
        last_active: None,
    }
}

fn last_of(stream: &Stream, filters: &[Box<[u8]>], work: &mut u64) -> Option<u64> {
    if filters.is_empty() {
        return stream.last_seq_for(b">");
    }
    filters
        .iter()
        .filter_map(|filter| stream.last_seq_of(filter, work))
        .max()
}
