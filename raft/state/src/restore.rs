//! Streams that are being restored from an archive: filled message by message under their own sequences
//! and times, seen by nobody until the restore ends, and dropped when it is given up or goes silent.

use serde::{Deserialize, Serialize};
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::subject;

use crate::command::{
    CopiedMessage, RestoreBegin, RestoreConsumers, RestoreEnd, RestoreMessages, RestoredConsumer,
    StreamPut,
};
use crate::consumer::{self, Consumer};
use crate::dedupe::{Remembered, key_of};
use crate::entries::{MARKER, NEVER};
use crate::header_scan::{HEADER_BYTES_MAX, Ttl, header_value, scan};
use crate::ledger::{Ledger, Position, Unsettled};
use crate::location::StreamUid;
use crate::outcome::{Effect, Outcome};
use crate::publish::{Publisher, SEQUENCE_MAX};
use crate::record::{RECORD_BYTES_MAX, RECORD_HEAD_BYTES};
use crate::rules::Rules;
use crate::schedules::ScheduleWish;
use crate::state::{State, Step};
use crate::stream::{Context, Stream};

/// Restores at once.
const RESTORES_MAX: usize = 64;
/// A restore that says nothing for this long is given up, nanoseconds.
const IDLE_NS_MAX: u64 = 120_000_000_000;

/// The restore that a stream belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restoring {
    pub(crate) token: String,
    /// When something was restored last, Unix nanoseconds.
    touched_ns: u64,
}

impl Restoring {
    /// When it counts as given up, Unix nanoseconds.
    pub(crate) fn deadline_ns(&self) -> u64 {
        self.touched_ns.saturating_add(IDLE_NS_MAX)
    }
}

fn failed(text: impl std::fmt::Display) -> ApiError {
    ApiError::with(500, 10062, format!("restore failed: {text}"))
}

impl State {
    pub(crate) fn begin_restore(
        &mut self,
        begin: RestoreBegin,
        step: &mut Step<'_>,
    ) -> Result<Outcome, ApiError> {
        let token = begin.token;
        if self.restores.contains_key(&token) {
            // Asked twice.
            return Ok(Outcome::Done);
        }
        let config = self.check_config(&StreamPut {
            config: begin.config,
            privileged: begin.privileged,
            replicas_max: begin.replicas_max,
            pedantic: false,
        })?;
        self.check_place(&config)?;
        if self.restores.len() >= RESTORES_MAX {
            return Err(error::INSUFFICIENT_RESOURCES);
        }
        self.next_uid += 1;
        let now_ns = step.ctx.now_ns;
        let mut stream = Stream::new(StreamUid(self.next_uid), config, now_ns);
        stream.restoring = Some(Restoring {
            token,
            touched_ns: now_ns,
        });
        self.insert_stream(stream);
        Ok(Outcome::Done)
    }

    /// Whether there is a place for a restored stream.
    fn check_place(
        &self,
        config: &unibus_proto::jetstream::config::StreamConfig,
    ) -> Result<(), ApiError> {
        if self.stream(&config.name).is_some() {
            return Err(error::STREAM_NAME_EXIST_RESTORE_FAILED);
        }
        self.check_overlap(config, None)?;
        self.check_stream_limits(config, None)
    }

    /// The stream of a restore that is under way.
    fn restoring(&self, token: &str) -> Result<u32, ApiError> {
        let slot = self.restores.get(token).copied();
        slot.ok_or_else(|| failed("there is no such restore (any more)"))
    }

    pub(crate) fn restore_messages(
        &mut self,
        batch: &RestoreMessages,
        step: &mut Step<'_>,
    ) -> Result<Outcome, ApiError> {
        let slot = self.restoring(&batch.token)?;
        let bytes = batch.messages.iter().map(|m| m.data.len() as u64).sum();
        let storage = self.at(slot).map(|stream| stream.config.storage);
        self.check_room(storage.unwrap_or_default(), bytes)?;
        step.touch(slot);
        let stream = self.at_mut(slot).ok_or(error::STREAM_NOT_FOUND)?;
        for message in &batch.messages {
            stream.restore_message(message, &mut step.ctx)?;
        }
        for seq in &batch.removed {
            stream.remove(*seq, &mut step.ctx);
        }
        stream.touch_restore(step.ctx.now_ns);
        Ok(Outcome::Done)
    }

    pub(crate) fn restore_consumers(
        &mut self,
        batch: RestoreConsumers,
        step: &mut Step<'_>,
    ) -> Result<Outcome, ApiError> {
        let slot = self.restoring(&batch.token)?;
        step.touch(slot);
        let stream = self.at_mut(slot).ok_or(error::STREAM_NOT_FOUND)?;
        for restored in batch.consumers {
            let name = restored.config.name.clone();
            stream
                .restore_consumer(restored, &mut step.ctx)
                .map_err(|error| failed(format_args!("consumer {name:?}: {error}")))?;
        }
        stream.touch_restore(step.ctx.now_ns);
        Ok(Outcome::Done)
    }

    /// Makes the stream what clients see, or drops it and says why.
    pub(crate) fn end_restore(
        &mut self,
        end: &RestoreEnd,
        step: &mut Step<'_>,
    ) -> Result<Outcome, ApiError> {
        let slot = self.restoring(&end.token)?;
        let config = self.at(slot).map(|stream| stream.config.clone());
        let config = config.ok_or(error::STREAM_NOT_FOUND)?;
        if let Err(error) = self.check_place(&config) {
            self.drop_slot(slot, step);
            return Err(error);
        }
        self.restores.remove(&end.token);
        let stream = self.at_mut(slot).ok_or(error::STREAM_NOT_FOUND)?;
        stream.restoring = None;
        stream.dirty.row = true;
        stream.end_restore(end, step);
        self.announce(slot);
        step.touch(slot);
        Ok(Outcome::Done)
    }

    pub(crate) fn abort_restore(
        &mut self,
        token: &str,
        step: &mut Step<'_>,
    ) -> Result<Outcome, ApiError> {
        let slot = self.restoring(token)?;
        self.drop_slot(slot, step);
        Ok(Outcome::Done)
    }

    /// Streams that are being restored.
    pub(crate) fn hidden_streams(&self) -> impl Iterator<Item = &Stream> {
        self.restores.values().filter_map(|slot| self.at(*slot))
    }
}

impl Stream {
    fn touch_restore(&mut self, now_ns: u64) {
        self.dirty.row = true;
        if let Some(restoring) = &mut self.restoring {
            restoring.touched_ns = now_ns;
        }
    }

    fn restore_message(
        &mut self,
        message: &CopiedMessage,
        ctx: &mut Context<'_>,
    ) -> Result<(), ApiError> {
        let len = RECORD_HEAD_BYTES + message.subject.len() + message.data.len();
        if message.seq <= self.last_seq || message.seq >= SEQUENCE_MAX {
            return Err(failed(format_args!(
                "sequence {} follows {}",
                message.seq, self.last_seq
            )));
        }
        if len > RECORD_BYTES_MAX
            || message.header_len as usize > HEADER_BYTES_MAX
            || !subject::is_valid_filter(&message.subject)
        {
            return Err(failed(format_args!("message {} is not valid", message.seq)));
        }
        let (block, payload) = message.data.split_at(message.header_len as usize);
        let headers = scan(block);
        let ttl = self.ttl_of(&headers, ctx.rules).ok().flatten();
        let marks = if ctx.rules.have(Rules::TOLD_MARKERS) {
            headers.marks
        } else {
            header_value(block, b"Nats-Marker-Reason").is_some()
        };
        let marker = if marks { MARKER } else { 0 };
        let (flags, expiry) = match ttl {
            None => (0, None),
            Some(Ttl::Never) => (NEVER, None),
            Some(Ttl::For(ns)) => (0, Some(message.ts_ns.saturating_add(ns))),
        };
        let mut at = Context {
            now_ns: message.ts_ns,
            rules: ctx.rules,
            work: 0,
            sink: &mut *ctx.sink,
        };
        let wish = self.schedule_of(&headers, &message.subject, Publisher::Client, &at);
        self.skip_to(message.seq, message.ts_ns);
        let flags = flags | marker;
        let data = &message.data;
        let name = &message.subject;
        self.store(name, message.header_len, data, flags, expiry, &mut at);
        // What is restored is not published again.
        self.again.clear();
        if let Ok(ScheduleWish::Plan(planned)) = wish {
            self.schedules.plan(message.seq, planned);
        }
        if self.config.allow_msg_counter {
            self.restore_count(message.seq, block, payload);
        }
        if let Some(id) = headers.msg_id.filter(|id| !id.is_empty()) {
            self.remember_restored(id, message, ctx.now_ns);
        }
        Ok(())
    }

    fn remember_restored(&mut self, id: &[u8], message: &CopiedMessage, now_ns: u64) {
        self.last_msg_id = Some(String::from_utf8_lossy(id).into());
        let window = u64::try_from(self.config.duplicate_window).unwrap_or(0);
        if message.ts_ns.saturating_add(window) > now_ns && !self.dedupe.is_full() {
            self.dedupe.remember(Remembered {
                key: key_of(id),
                seq: message.seq,
                ts_ns: message.ts_ns,
            });
        }
    }

    fn restore_consumer(
        &mut self,
        restored: RestoredConsumer,
        ctx: &mut Context<'_>,
    ) -> Result<(), ApiError> {
        let now_ns = ctx.now_ns;
        let mut config = restored.config;
        consumer::fill_defaults(&mut config, "")?;
        consumer::check(&config, self)?;
        consumer::check_count(self)?;
        let positions = [restored.delivered, restored.ack_floor];
        let beyond = |at: &Position| at.stream_seq.max(at.consumer_seq) > SEQUENCE_MAX;
        if ctx.rules.have(Rules::LIKE_NATS) && positions.iter().any(beyond) {
            return Err(failed(format_args!("its positions are beyond any stream")));
        }
        let pending: Vec<(u64, Unsettled)> = restored
            .pending
            .into_iter()
            .filter(|(seq, _)| self.blocks.is_live(*seq) && *seq <= restored.delivered.stream_seq)
            .collect();
        let mut consumer = Consumer::new(config, ctx, self);
        consumer.row.created_ns = restored.created_ns.min(now_ns);
        // Not the number of any update that was made for a consumer of this name.
        consumer.row.stamp = now_ns;
        consumer.row.start_seq = restored.ack_floor.stream_seq.saturating_add(1);
        consumer.row.ledger = Ledger::restore(restored.delivered, restored.ack_floor, pending);
        self.dirty.consumers.insert(consumer.name().clone());
        self.add_consumer(consumer);
        Ok(())
    }

    fn end_restore(&mut self, end: &RestoreEnd, step: &mut Step<'_>) {
        if end.created_ns > 0 {
            self.created_ns = end.created_ns.min(self.created_ns);
        }
        let last_seq = end.last_seq.min(SEQUENCE_MAX);
        if last_seq > self.last_seq {
            self.skip_to(last_seq + 1, self.last_ts_ns);
        }
        if self.messages == 0 && self.last_seq > 0 {
            self.first_seq = self.last_seq + 1;
        }
        self.trim(&mut step.ctx);
        self.start_sweep(&mut step.ctx);
        let name = self.name.clone();
        step.tell(Effect::StreamCreated { name: name.clone() });
        for consumer in self.consumers.keys() {
            step.tell(Effect::ConsumerCreated {
                stream: name.clone(),
                name: consumer.clone(),
            });
        }
    }
}
