//! The replicated state machine: streams, key-value buckets and consumers as deterministic code.
//!
//! Replicas that apply the same entries hold the same state, byte for byte ([`State::digest`]). This
//! crate never reads a clock, a file or a random number; time is the stamp the leader wrote into an
//! entry, and message bytes go to a [`BlockSink`] at a [`Location`] that the state itself chose.

mod blocks;
mod bodies;
mod codec;
mod column;
mod compiled;
mod consumer;
mod consumer_row;
mod consumer_update;
mod copies;
mod copy_consumers;
mod counter;
mod cursor;
mod dedupe;
mod entries;
mod expiry;
mod header_scan;
mod interest;
mod ledger;
mod lookahead;
mod progressions;
mod publish;
mod removal_log;
mod republish;
mod restore;
mod retention;
mod routes;
mod rows;
mod rules;
mod schedules;
mod sequences;
mod series;
mod subject_table;
mod validate;
mod validate_sources;

pub mod atomic;
pub mod batch;
pub mod command;
pub mod control;
pub mod delivery;
pub mod fuzzing;
pub mod limits;
pub mod location;
pub mod outcome;
pub mod record;
pub mod state;
pub mod stream;

pub use batch::{CommandBatch, EncodedBatch, Entry, decode_entry, encode_entry};
pub use codec::CodecError;
pub use command::{Append, AppendRef, Command, CommandRef};
pub use consumer::{Consumer, DEAD_LETTER_KEY, STALE_UPDATE};
pub use consumer_update::{ConsumerUpdate, Pin};
pub use control::{ControlChange, ControlCheck, ControlRecord, RECORDS_MAX};
pub use copies::{CopyFrom, CopyRules, Progress};
pub use copy_consumers::{CopyConsumer, CopyTrouble, Forsaken};
pub use cursor::ConsumerCursor;
pub use delivery::{
    AckOutcome, Advisory, CursorInfo, DeadLetter, Delivery, LetterFate, Poll, Status, StatusDetail,
};
pub use ledger::{Ledger, Position, Unsettled};
pub use location::{BLOCK_BYTES_MAX, BlockId, BlockMeta, BlockSink, Location, NullSink, StreamUid};
pub use outcome::{Applied, Effect, Outcome, Refusal, decode_outcomes, encode_outcomes};
pub use record::{RecordError, RecordView, StoredMessage, first_damaged};
pub use rows::{LoadError, RowOp, sealed_index};
pub use rules::Rules;
pub use schedules::DueSchedule;
pub use state::State;
pub use stream::{MessageView, Stream};
pub use validate_sources::check_copy_consumers;
