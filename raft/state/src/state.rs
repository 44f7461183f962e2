//! The whole replicated state and how an entry changes it.

mod consumers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use unibus_proto::jetstream::config::{Storage, StreamConfig};
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::jetstream::info::AccountInfo;

use crate::batch::Entry;
use crate::command::{
    Append, AppendRef, Command, CommandRef, CopyBatch, MessageDelete, StreamDelete, StreamPurge,
    StreamPut,
};
use crate::compiled::Compiled;
use crate::limits::{Limits, Used};
use crate::location::{BlockMeta, BlockSink, StreamUid};
use crate::outcome::{Applied, Effect, Outcome, Refusal};
use crate::routes::Routes;
use crate::rules::Rules;
use crate::stream::{Context, Stream, is_control_name};
use crate::validate;

/// Streams at most.
pub const STREAMS_MAX: usize = 65_536;
/// Messages one `Tick` removes at most; the deadline stays due, so the leader asks again.
pub const EXPIRED_PER_TICK_MAX: usize = 65_536;

/// Everything that is replicated.
#[derive(Debug, Default)]
pub struct State {
    slots: Vec<Option<Box<Stream>>>,
    /// Slots of streams that are gone.
    free: BTreeSet<u32>,
    names: BTreeMap<Arc<str>, u32>,
    routes: Routes,
    /// By stream identity, so that replicas with different slots expire in the same order.
    deadlines: BTreeSet<(u64, StreamUid, u32)>,
    /// Streams that are being restored, by the name of the restore.
    pub(crate) restores: BTreeMap<String, u32>,
    /// Streams with schedules by the time of their first.
    pub(crate) due: BTreeSet<(u64, StreamUid, u32)>,
    pub(crate) next_uid: u64,
    pub(crate) last_stamp_ns: u64,
    /// Entries applied by this memory; marks streams that this entry advanced. Not replicated.
    applies: u64,
    pub(crate) limits: Limits,
    pub(crate) rules: Rules,
    /// Bytes in use, if counted. Follows from the streams.
    pub(crate) used: Option<Used>,
    /// Rows of deleted streams that the next checkpoint removes.
    pub(crate) dead_rows: Vec<Vec<u8>>,
}

/// One entry being applied.
pub(crate) struct Step<'a> {
    pub(crate) ctx: Context<'a>,
    effects: Vec<Effect>,
    touched: Vec<u32>,
}

type Result<T, E = ApiError> = std::result::Result<T, E>;

impl State {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies one committed entry: one outcome per command. `_index` is the entry's log index.
    pub fn apply(&mut self, _index: u64, entry: &Entry, sink: &mut dyn BlockSink) -> Applied {
        // Stamps never go backwards, whatever a new leader's clock says.
        self.last_stamp_ns = self.last_stamp_ns.max(entry.stamp_ns);
        self.applies += 1;
        let ctx = Context {
            now_ns: self.last_stamp_ns,
            rules: self.rules,
            work: 0,
            sink,
        };
        let mut step = Step {
            ctx,
            effects: Vec::new(),
            touched: Vec::new(),
        };
        let mut outcomes = Vec::with_capacity(entry.count as usize);
        for command in entry.commands() {
            outcomes.push(match command {
                Ok(CommandRef::Append(append)) => self.append(append, &mut step),
                Ok(CommandRef::Other(command)) => match self.change(*command, &mut step) {
                    Ok(outcome) => outcome,
                    Err(error) => Outcome::Refused(error.into()),
                },
                Err(_) => Outcome::Refused(error::BAD_REQUEST.into()),
            });
        }
        self.capture_again(&mut step);
        for slot in std::mem::take(&mut step.touched) {
            self.note_deadline(slot);
            if let Some(stream) = self.at_mut(slot) {
                stream.tell_again(&mut step.effects);
            }
        }
        Applied {
            outcomes,
            effects: step.effects,
        }
    }

    /// The time of the last entry, Unix nanoseconds.
    #[must_use]
    pub fn last_stamp_ns(&self) -> u64 {
        self.last_stamp_ns
    }

    /// The rules by which entries are applied now.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// When a `Tick` will have something to do, Unix nanoseconds.
    #[must_use]
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline, ..)| *deadline)
    }

    /// Streams by name.
    pub fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.names.values().filter_map(|slot| self.at(*slot))
    }

    /// Streams.
    #[must_use]
    pub fn stream_count(&self) -> usize {
        self.names.len()
    }

    /// One stream.
    #[must_use]
    pub fn stream(&self, name: &str) -> Option<&Stream> {
        self.at(*self.names.get(name)?)
    }

    /// The stream that stores a subject.
    #[must_use]
    pub fn stream_for_subject(&self, subject: &[u8]) -> Option<&Stream> {
        self.at(self.routes.find(subject)?)
    }

    /// All blocks of all streams.
    #[must_use]
    pub fn live_blocks(&self) -> Vec<BlockMeta> {
        self.slots
            .iter()
            .flatten()
            .flat_map(|stream| stream.live_blocks())
            .collect()
    }

    /// Use of the account; API counters are the caller's.
    #[must_use]
    pub fn account_info(&self) -> AccountInfo {
        let mut info = AccountInfo {
            limits: self.limits.account.clone(),
            ..AccountInfo::default()
        };
        for stream in self.streams().filter(|stream| !stream.is_control()) {
            info.streams += 1;
            info.consumers += stream.consumers().len() as u64;
            let reserved = u64::try_from(stream.config().max_bytes).unwrap_or(0);
            match stream.config().storage {
                Storage::File => {
                    info.storage += stream.bytes();
                    info.reserved_storage = info.reserved_storage.saturating_add(reserved);
                }
                Storage::Memory => {
                    info.memory += stream.bytes();
                    info.reserved_memory = info.reserved_memory.saturating_add(reserved);
                }
            }
        }
        info
    }

    pub(crate) fn at(&self, slot: u32) -> Option<&Stream> {
        self.slots.get(slot as usize)?.as_deref()
    }

    pub(crate) fn at_mut(&mut self, slot: u32) -> Option<&mut Stream> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    pub(crate) fn streams_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slots.iter_mut().flatten().map(|stream| &mut **stream)
    }

    pub(crate) fn slot_of(&self, name: &str, privileged: bool) -> Result<u32> {
        let slot = *self.names.get(name).ok_or(error::STREAM_NOT_FOUND)?;
        if self.at(slot).is_some_and(Stream::is_control) && !privileged {
            return Err(error::RESERVED);
        }
        Ok(slot)
    }

    fn open(&mut self, name: &str, privileged: bool) -> Result<(u32, &mut Stream)> {
        let slot = self.slot_of(name, privileged)?;
        let stream = self.at_mut(slot).ok_or(error::STREAM_NOT_FOUND)?;
        Ok((slot, stream))
    }

    pub(crate) fn append(&mut self, append: AppendRef<'_>, step: &mut Step<'_>) -> Outcome {
        let Some(slot) = self.routes.find(append.subject) else {
            return Outcome::NoStream;
        };
        if let Err(refused) = self.check_append(slot, append.subject.len() + append.data.len()) {
            return refused;
        }
        let applies = self.applies;
        let Some(stream) = self.at_mut(slot) else {
            return Outcome::NoStream;
        };
        let before = (stream.last_seq, stream.bytes);
        let outcome = stream.append(append, &mut step.ctx);
        if stream.last_seq != before.0 {
            step.advanced(slot, stream, applies);
        }
        let (storage, after) = (stream.config.storage, stream.bytes);
        self.note_use(storage, before.1, after);
        outcome
    }

    /// Keeps the bytes in use, if they are counted, when a stream had `before` bytes and has `after`.
    fn note_use(&mut self, storage: Storage, before: u64, after: u64) {
        if let Some(used) = &mut self.used {
            let used = used.of(storage);
            *used = (*used + after).saturating_sub(before);
        }
    }

    /// The streams that this entry has changed so far, by identity: slots differ between replicas.
    pub(crate) fn touched_streams(&self, step: &Step<'_>) -> Vec<u32> {
        let touched = step.touched.iter();
        let by_uid: BTreeMap<StreamUid, u32> = touched
            .filter_map(|slot| Some((self.at(*slot)?.uid, *slot)))
            .collect();
        by_uid.into_values().collect()
    }

    /// Whether a stream stores a subject.
    pub(crate) fn captures(&self, subject: &[u8]) -> bool {
        self.routes.find(subject).is_some()
    }

    /// The limits that streams share.
    fn check_append(&mut self, slot: u32, bytes: usize) -> Result<(), Outcome> {
        if !self.limits.bounds_bytes() {
            return Ok(());
        }
        let Some(stream) = self.at(slot).filter(|stream| !stream.is_control()) else {
            return Ok(());
        };
        let (name, storage) = (stream.name.clone(), stream.config.storage);
        let silent = stream.config.no_ack;
        self.check_room(storage, bytes as u64).map_err(|error| {
            Outcome::Refused(Refusal {
                stream: Some(name),
                silent,
                error,
            })
        })
    }

    /// A command other than one that publishes may change streams in ways that nobody notes: what is in
    /// use is counted again before something is compared with it, and after it.
    fn change(&mut self, command: Command, step: &mut Step<'_>) -> Result<Outcome> {
        let publishes = matches!(
            command,
            Command::Append(_) | Command::Atomic(_) | Command::Series(_)
        );
        if publishes {
            return self.execute(command, step);
        }
        self.used = None;
        let outcome = self.execute(command, step);
        self.used = None;
        outcome
    }

    fn execute(&mut self, command: Command, step: &mut Step<'_>) -> Result<Outcome> {
        match command {
            Command::Append(a) => {
                let append = AppendRef {
                    subject: &a.subject,
                    header_len: a.header_len,
                    data: &a.data,
                    privileged: a.privileged,
                };
                Ok(self.append(append, step))
            }
            Command::StreamCreate(put) => self.create_stream(put, step),
            Command::StreamUpdate(put) => self.update_stream(put, step),
            Command::StreamDelete(delete) => self.delete_stream(&delete, step),
            Command::StreamPurge(purge) => self.purge(&purge, step),
            Command::MessageDelete(delete) => self.delete_message(&delete, step),
            Command::ConsumerCreate(create) => self.create_consumer(create, step),
            Command::ConsumerDelete(delete) => self.delete_consumer(&delete, step),
            Command::ConsumerProgress(progress) => self.progress(&progress),
            Command::ConsumerUpdate(update) => self.update_consumer(&update, step),
            Command::ConsumerPause(pause) => self.pause_consumer(&pause, step),
            Command::ConsumerReset(reset) => self.reset_consumer(&reset, step),
            Command::Copy(batch) => self.copy(&batch, step),
            Command::Atomic(batch) => Ok(self.batch(&batch.messages, step, |stream, ctx| {
                stream.append_batch(&batch, ctx)
            })),
            Command::Series(series) => Ok(self.batch(&series.messages, step, |stream, ctx| {
                stream.append_series(&series, ctx)
            })),
            Command::RestoreBegin(begin) => self.begin_restore(begin, step),
            Command::RestoreMessages(batch) => self.restore_messages(&batch, step),
            Command::RestoreConsumers(batch) => self.restore_consumers(batch, step),
            Command::RestoreEnd(end) => self.end_restore(&end, step),
            Command::RestoreAbort(token) => self.abort_restore(&token, step),
            Command::ScheduleRun(run) => self.run_schedule(&run, step),
            Command::Limits(limits) => {
                self.limits = limits;
                Ok(Outcome::Done)
            }
            Command::Rules(rules) => {
                self.rules = self.rules.max(rules);
                step.ctx.rules = self.rules;
                Ok(Outcome::Done)
            }
            Command::Control(change) => self.control(change, step),
            Command::Tick => Ok(self.tick(step)),
        }
    }

    pub(crate) fn check_config(&self, put: &StreamPut) -> Result<StreamConfig> {
        let mut config = put.config.clone();
        validate::fill_defaults(&mut config);
        validate::check(&config, put.replicas_max)?;
        validate::check_privilege(&config, put.privileged)?;
        if put.pedantic
            && put.config.duplicate_window > put.config.max_age
            && put.config.max_age > 0
        {
            return Err(error::PEDANTIC);
        }
        Ok(config)
    }

    pub(crate) fn check_overlap(&self, config: &StreamConfig, except: Option<u32>) -> Result<()> {
        for filter in &config.subjects {
            if self
                .routes
                .find_overlap(filter.as_bytes(), except)
                .is_some()
            {
                return Err(error::SUBJECT_OVERLAP);
            }
        }
        Ok(())
    }

    pub(crate) fn create_stream(&mut self, put: StreamPut, step: &mut Step<'_>) -> Result<Outcome> {
        let config = self.check_config(&put)?;
        if config.sealed {
            return Err(ApiError::stream_config(
                "stream configuration for create can not be sealed",
            ));
        }
        if let Some(existing) = self.stream(&config.name) {
            // Asking twice for the same is fine: retries have to be safe.
            return if *existing.config() == config {
                Ok(Outcome::Done)
            } else {
                Err(error::STREAM_NAME_EXIST)
            };
        }
        self.check_overlap(&config, None)?;
        if !is_control_name(&config.name) {
            self.check_stream_limits(&config, None)?;
        }
        if self.names.len() >= STREAMS_MAX {
            return Err(error::MAXIMUM_STREAMS_LIMIT);
        }
        self.next_uid += 1;
        let stream = Stream::new(StreamUid(self.next_uid), config, step.ctx.now_ns);
        step.effects.push(Effect::StreamCreated {
            name: stream.name.clone(),
        });
        self.insert_stream(stream);
        Ok(Outcome::Done)
    }

    pub(crate) fn insert_stream(&mut self, stream: Stream) {
        let free = self.free.pop_first();
        let at = free.map_or(self.slots.len(), |slot| slot as usize);
        // STREAMS_MAX keeps slots far below 2^32.
        let slot = u32::try_from(at).unwrap_or(u32::MAX);
        let restore = stream.restoring.as_ref();
        let restore = restore.map(|restoring| restoring.token.clone());
        let stream = Some(Box::new(stream));
        if at == self.slots.len() {
            self.slots.push(stream);
        } else {
            self.slots[at] = stream;
        }
        match restore {
            Some(token) => {
                self.restores.insert(token, slot);
            }
            None => self.announce(slot),
        }
        self.note_deadline(slot);
    }

    /// From here on a stream is found by its name and takes what is published to its subjects.
    pub(crate) fn announce(&mut self, slot: u32) {
        let stream = self.slots.get(slot as usize).and_then(Option::as_ref);
        if let Some(stream) = stream {
            for filter in &stream.config.subjects {
                self.routes.insert(filter.as_bytes(), slot);
            }
            self.names.insert(stream.name.clone(), slot);
        }
    }

    fn update_stream(&mut self, put: StreamPut, step: &mut Step<'_>) -> Result<Outcome> {
        let slot = self.slot_of(&put.config.name, put.privileged)?;
        let config = self.check_config(&put)?;
        self.check_overlap(&config, Some(slot))?;
        if let Some(before) = self.at(slot).filter(|stream| !stream.is_control()) {
            self.check_stream_limits(&config, Some(&before.config))?;
        }
        let stream = self.at_mut(slot).ok_or(error::STREAM_NOT_FOUND)?;
        validate::check_update(&stream.config, &config)?;
        validate::check_consumers(stream, &config)?;
        if stream.config == config {
            return Ok(Outcome::Done);
        }
        stream.compiled = Compiled::new(&config);
        let before = std::mem::replace(&mut stream.config, config);
        stream.dirty.row = true;
        stream.trim(&mut step.ctx);
        if before.retention != stream.config.retention {
            if step.ctx.rules.have(Rules::SWEEPS) {
                stream.sweep_from = None;
            }
            stream.start_sweep(&mut step.ctx);
        }
        step.effects.push(Effect::StreamUpdated {
            name: stream.name.clone(),
        });
        let after = stream.config.subjects.clone();
        for filter in &before.subjects {
            self.routes.remove(filter.as_bytes(), slot);
        }
        for filter in &after {
            self.routes.insert(filter.as_bytes(), slot);
        }
        step.touched.push(slot);
        Ok(Outcome::Done)
    }

    fn delete_stream(&mut self, delete: &StreamDelete, step: &mut Step<'_>) -> Result<Outcome> {
        let slot = self.slot_of(&delete.name, delete.privileged)?;
        let name = self.drop_slot(slot, step).ok_or(error::STREAM_NOT_FOUND)?;
        step.effects.push(Effect::StreamRemoved { name });
        Ok(Outcome::Done)
    }

    /// Forgets a stream, with everything it holds.
    pub(crate) fn drop_slot(&mut self, slot: u32, step: &mut Step<'_>) -> Option<Arc<str>> {
        let stream = self.slots.get_mut(slot as usize).and_then(Option::take)?;
        self.free.insert(slot);
        match &stream.restoring {
            Some(restoring) => {
                self.restores.remove(&restoring.token);
            }
            None => {
                self.names.remove(&stream.name);
                for filter in &stream.config.subjects {
                    self.routes.remove(filter.as_bytes(), slot);
                }
            }
        }
        if let Some(noted) = stream.noted_deadline {
            self.deadlines.remove(&(noted, stream.uid, slot));
        }
        if let Some(noted) = stream.noted_due {
            self.due.remove(&(noted, stream.uid, slot));
        }
        self.bury_rows(&stream);
        step.ctx.sink.drop_stream(stream.uid);
        Some(stream.name.clone())
    }

    fn purge(&mut self, purge: &StreamPurge, step: &mut Step<'_>) -> Result<Outcome> {
        let applies = self.applies;
        let (slot, stream) = self.open(&purge.name, purge.privileged)?;
        if purge.seq > 0 && purge.keep > 0 {
            return Err(error::BAD_REQUEST);
        }
        if stream.config.sealed {
            return Err(error::STREAM_SEALED);
        }
        if stream.config.deny_purge {
            return Err(error::STREAM_PURGE_NOT_PERMITTED);
        }
        let filter = purge.filter.as_bytes();
        if !filter.is_empty() && !unibus_proto::subject::is_valid_filter(filter) {
            return Err(error::BAD_REQUEST);
        }
        let count = stream.purge(filter, purge.seq, purge.keep, &mut step.ctx);
        if count > 0 {
            step.advanced(slot, stream, applies);
        }
        Ok(Outcome::Purged { count })
    }

    fn delete_message(&mut self, delete: &MessageDelete, step: &mut Step<'_>) -> Result<Outcome> {
        let applies = self.applies;
        let (slot, stream) = self.open(&delete.stream, delete.privileged)?;
        if stream.config.sealed {
            return Err(error::STREAM_SEALED);
        }
        if stream.config.deny_delete {
            return Err(error::MESSAGE_DELETE_NOT_PERMITTED);
        }
        if !stream.remove(delete.seq, &mut step.ctx) {
            return Err(ApiError::sequence_not_found(delete.seq));
        }
        step.advanced(slot, stream, applies);
        Ok(Outcome::Done)
    }

    /// Messages that are meant for one stream: stores them with `store`.
    fn batch(
        &mut self,
        messages: &[Append],
        step: &mut Step<'_>,
        store: impl FnOnce(&mut Stream, &mut Context<'_>) -> Outcome,
    ) -> Outcome {
        let mut slots = messages.iter().map(|m| self.routes.find(&m.subject));
        let Some(Some(slot)) = slots.next() else {
            return Outcome::NoStream;
        };
        // A batch belongs to one stream.
        if !slots.all(|other| other == Some(slot)) {
            return Outcome::Refused(error::ATOMIC_PUBLISH_INCOMPLETE.into());
        }
        let bytes: usize = messages
            .iter()
            .map(|m| m.subject.len() + m.data.len())
            .sum();
        if let Err(refused) = self.check_append(slot, bytes) {
            return refused;
        }
        let applies = self.applies;
        let Some(stream) = self.at_mut(slot) else {
            return Outcome::NoStream;
        };
        let before = (stream.last_seq, stream.bytes);
        let outcome = store(stream, &mut step.ctx);
        if stream.last_seq != before.0 {
            step.advanced(slot, stream, applies);
        }
        let (storage, after) = (stream.config.storage, stream.bytes);
        self.note_use(storage, before.1, after);
        outcome
    }

    fn copy(&mut self, batch: &CopyBatch, step: &mut Step<'_>) -> Result<Outcome> {
        let applies = self.applies;
        let (slot, stream) = self.open(&batch.stream, true)?;
        let before = stream.last_seq;
        let taken = stream.copy(batch, &mut step.ctx);
        if stream.last_seq != before {
            step.advanced(slot, stream, applies);
        }
        taken.map(|()| Outcome::Done)
    }

    /// Expires in the order of deadlines, a bounded number of messages.
    fn tick(&mut self, step: &mut Step<'_>) -> Outcome {
        let now_ns = step.ctx.now_ns;
        let applies = self.applies;
        let mut budget = EXPIRED_PER_TICK_MAX;
        for slot in &step.touched {
            self.note_deadline(*slot);
        }
        while let Some((at, _, slot)) = self.deadlines.first().copied() {
            if at > now_ns {
                break;
            }
            let Some(stream) = self.at_mut(slot) else {
                break;
            };
            if stream.restoring.is_some() {
                // Given up: nobody restores it any more.
                self.drop_slot(slot, step);
                continue;
            }
            let gone = stream.expire(budget, &mut step.ctx) + stream.sweep(&mut step.ctx);
            if gone > 0 {
                step.advanced(slot, stream, applies);
            }
            self.note_deadline(slot);
            budget = budget.saturating_sub(gone.max(1));
            if budget == 0 {
                break;
            }
        }
        Outcome::Done
    }

    fn note_deadline(&mut self, slot: u32) {
        let Some(stream) = self
            .slots
            .get_mut(slot as usize)
            .and_then(Option::as_deref_mut)
        else {
            return;
        };
        stream.pass_lasting();
        let (uid, deadline, due) = (
            stream.uid,
            stream.next_deadline_ns(),
            stream.next_schedule_ns(),
        );
        note(
            &mut self.deadlines,
            &mut stream.noted_deadline,
            deadline,
            (uid, slot),
        );
        note(&mut self.due, &mut stream.noted_due, due, (uid, slot));
    }

    /// Changes a stream, and notes that it has changed if its messages have.
    pub(crate) fn change_stream<T>(
        &mut self,
        slot: u32,
        step: &mut Step<'_>,
        change: impl FnOnce(&mut Stream, &mut Context<'_>) -> Result<T>,
    ) -> Result<T> {
        let applies = self.applies;
        let stream = self.at_mut(slot).ok_or(error::STREAM_NOT_FOUND)?;
        let before = (stream.last_seq, stream.removals());
        let changed = change(stream, &mut step.ctx);
        if (stream.last_seq, stream.removals()) == before {
            step.touched.push(slot);
        } else {
            step.advanced(slot, stream, applies);
        }
        changed
    }
}

/// Keeps what the state notes of a stream's next time as the stream has it.
fn note(
    times: &mut BTreeSet<(u64, StreamUid, u32)>,
    noted: &mut Option<u64>,
    time: Option<u64>,
    (uid, slot): (StreamUid, u32),
) {
    if time == *noted {
        return;
    }
    if let Some(before) = *noted {
        times.remove(&(before, uid, slot));
    }
    *noted = time;
    if let Some(time) = time {
        times.insert((time, uid, slot));
    }
}

impl Step<'_> {
    /// Something other than a stream's messages may have changed when it is due.
    pub(crate) fn touch(&mut self, slot: u32) {
        self.touched.push(slot);
    }

    /// Adds what every node has to react to.
    pub(crate) fn tell(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Notes that a stream changed, once per entry.
    fn advanced(&mut self, slot: u32, stream: &mut Stream, applies: u64) {
        if stream.advanced_in == applies {
            return;
        }
        stream.advanced_in = applies;
        self.touched.push(slot);
        let name = stream.name.clone();
        if stream.is_control() {
            self.effects.push(Effect::ControlChanged {
                bucket: name.clone(),
            });
        }
        self.effects.push(Effect::StreamAdvanced { name });
    }
}
