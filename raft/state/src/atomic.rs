//! Atomic batches (ADR-50): all messages of a batch are checked against the stream as it is before any
//! of them is stored, and are then stored one after the other in the same entry. What was staged is
//! the origin node's business; here a batch is whole or it is nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use unibus_proto::jetstream::config::Discard;
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::subject;

use crate::codec::len_u32;
use crate::command::{Append, AppendRef, AtomicBatch};
use crate::counter::{self, Count, Counted};
use crate::dedupe::{IdKey, key_of};
use crate::header_scan::{HEADER_BYTES_MAX, PublishHeaders, Rollup, parse_rollup, scan};
use crate::outcome::{Outcome, Refusal};
use crate::publish::{Publisher, SEQUENCE_MAX, rewritten};
use crate::record::{RECORD_BYTES_MAX, RECORD_HEAD_BYTES};
use crate::rules::Rules;
use crate::schedules::ScheduleWish;
use crate::stream::{Context, Stream, limit, message_size};

/// Messages of one batch at most.
pub const BATCH_MESSAGES_MAX: usize = 1000;

/// What the messages looked at so far would add.
#[derive(Default)]
struct Overlay {
    subjects: BTreeMap<Vec<u8>, u64>,
    ids: BTreeSet<IdKey>,
    /// What counters lead to, by subject and for each message.
    counts: BTreeMap<Vec<u8>, Count>,
    counted: VecDeque<Counted>,
    messages: u64,
    bytes: u64,
}

/// A message's sizes, bytes.
#[derive(Copy, Clone)]
struct Form {
    /// As `max_msg_size` has it.
    measured: usize,
    /// Of what is stored.
    stored: usize,
    has_headers: bool,
}

pub(crate) fn append_ref(message: &Append) -> AppendRef<'_> {
    AppendRef {
        subject: &message.subject,
        header_len: message.header_len,
        data: &message.data,
        privileged: message.privileged,
    }
}

impl Stream {
    /// Stores all messages, or none and says why.
    pub(crate) fn append_batch(&mut self, batch: &AtomicBatch, ctx: &mut Context<'_>) -> Outcome {
        let (name, silent) = (self.name.clone(), self.config.no_ack);
        let refused = |error| {
            Outcome::Refused(Refusal {
                stream: Some(name.clone()),
                silent,
                error,
            })
        };
        let mut counted = match self.check_batch(batch, ctx) {
            Ok(counted) => counted,
            Err(error) => return refused(error),
        };
        let mut val = None;
        for message in &batch.messages {
            // Checked above, in the form in which it is stored.
            let counted = counted.pop_front();
            match self.publish_counted(append_ref(message), Publisher::Batch, counted, ctx) {
                Ok(stored) => val = stored.val(),
                Err(error) => return refused(error),
            }
        }
        if self.config.no_ack {
            return Outcome::Silent;
        }
        Outcome::Batched {
            stream: self.name.clone(),
            seq: self.last_seq,
            batch: batch.id.clone(),
            count: batch.messages.len() as u64,
            val,
        }
    }

    /// Whether all of it can be stored; what the messages of counters lead to.
    fn check_batch(
        &mut self,
        batch: &AtomicBatch,
        ctx: &mut Context<'_>,
    ) -> Result<VecDeque<Counted>, ApiError> {
        if !self.config.allow_atomic {
            return Err(error::ATOMIC_PUBLISH_DISABLED);
        }
        if batch.messages.is_empty() || batch.messages.len() > BATCH_MESSAGES_MAX {
            return Err(error::ATOMIC_PUBLISH_INCOMPLETE);
        }
        let window = u64::try_from(self.config.duplicate_window).unwrap_or(0);
        self.dirty.row |= self.dedupe.expire(window, ctx.now_ns);
        let mut overlay = Overlay::default();
        for message in &batch.messages {
            self.check_batched(append_ref(message), &mut overlay, ctx)?;
        }
        Ok(overlay.counted)
    }

    fn check_batched(
        &self,
        a: AppendRef<'_>,
        overlay: &mut Overlay,
        ctx: &mut Context<'_>,
    ) -> Result<(), ApiError> {
        if self.is_control() && !a.privileged {
            return Err(error::RESERVED);
        }
        if self.config.sealed {
            return Err(error::STREAM_SEALED);
        }
        let renamed = self.compiled.rename.as_ref();
        let renamed = renamed.and_then(|transform| transform.apply(a.subject));
        let name = renamed.as_deref().unwrap_or(a.subject);
        let header_len = a.header_len as usize;
        if header_len > HEADER_BYTES_MAX {
            return Err(error::HEADER_EXCEEDS_MAXIMUM);
        }
        let (block, payload) = a.data.split_at(header_len);
        let headers = scan(block);
        self.check_features(&headers, Publisher::Batch)?;
        counter::check(self.config.allow_msg_counter, &headers)?;
        if self.config.allow_msg_counter && !payload.is_empty() {
            return Err(error::MESSAGE_INCR_PAYLOAD);
        }
        self.ttl_of(&headers, ctx.rules)?;
        self.check_batched_id(&headers, overlay, ctx.rules)?;
        self.check_batched_expectations(&headers, name, overlay, ctx)?;
        let schedule = self.batched_schedule(&headers, name, ctx)?;
        if matches!(schedule, ScheduleWish::Plan(_)) && overlay.subjects.contains_key(name) {
            return Err(error::SCHEDULE_ROLLUP_INVALID);
        }
        self.check_batched_rollup(&headers, name, overlay)?;
        let a = AppendRef { subject: name, ..a };
        let form = self.batched_form(a, &headers, &schedule, overlay, ctx.rules)?;
        self.check_batched_size(name, form, overlay, ctx.rules)?;
        *overlay.subjects.entry(name.to_vec()).or_default() += 1;
        overlay.messages += 1;
        Ok(())
    }

    fn batched_schedule<'a>(
        &self,
        headers: &PublishHeaders<'a>,
        name: &[u8],
        ctx: &mut Context<'_>,
    ) -> Result<ScheduleWish<'a>, ApiError> {
        let now_ns = if ctx.rules.have(Rules::WHOLE_BATCHES) {
            ctx.now_ns
        } else {
            0
        };
        let at = Context {
            now_ns,
            rules: ctx.rules,
            work: 0,
            sink: &mut *ctx.sink,
        };
        self.schedule_of(headers, name, Publisher::Batch, &at)
    }

    /// What is going to be stored of a message, as far as its size goes.
    fn batched_form(
        &self,
        a: AppendRef<'_>,
        headers: &PublishHeaders<'_>,
        schedule: &ScheduleWish<'_>,
        overlay: &mut Overlay,
        rules: Rules,
    ) -> Result<Form, ApiError> {
        let published = Form {
            measured: a.data.len(),
            stored: a.data.len(),
            has_headers: a.header_len > 0,
        };
        if !rules.have(Rules::WHOLE_BATCHES) {
            return Ok(published);
        }
        if !self.config.allow_msg_counter {
            let stored = rewritten(a, headers, schedule).map(|(_, data)| data.len());
            return Ok(Form {
                stored: stored.unwrap_or(published.stored),
                ..published
            });
        }
        let base = match overlay.counts.get(a.subject) {
            Some(count) => count.clone(),
            None => self.last_count(a.subject)?,
        };
        let counted = base.add(a, headers, false, rules)?;
        let form = Form {
            measured: counted.data.len(),
            stored: counted.data.len(),
            has_headers: counted.header_len > 0,
        };
        let count = counted.count.clone();
        overlay.counts.insert(a.subject.to_vec(), count);
        overlay.counted.push_back(counted);
        Ok(form)
    }

    fn check_batched_id(
        &self,
        headers: &PublishHeaders<'_>,
        overlay: &mut Overlay,
        rules: Rules,
    ) -> Result<(), ApiError> {
        let Some(id) = headers.msg_id.filter(|id| !id.is_empty()) else {
            return Ok(());
        };
        let key = key_of(id);
        if self.dedupe.find(&key).is_some() || !overlay.ids.insert(key) {
            return Err(error::ATOMIC_PUBLISH_DUPLICATE_ID);
        }
        let own = if rules.have(Rules::WHOLE_BATCHES) {
            overlay.ids.len()
        } else {
            1
        };
        if !self.dedupe.has_room_for(own) {
            return Err(error::INSUFFICIENT_RESOURCES);
        }
        Ok(())
    }

    fn check_batched_expectations(
        &self,
        headers: &PublishHeaders<'_>,
        name: &[u8],
        overlay: &Overlay,
        ctx: &mut Context<'_>,
    ) -> Result<(), ApiError> {
        if headers
            .expected_last_msg_id
            .is_some_and(|id| !id.is_empty())
        {
            let text = "atomic publish unsupported header used: Nats-Expected-Last-Msg-Id";
            return Err(ApiError::fixed(400, 10177, text));
        }
        let expected = headers.expected_last_seq;
        if expected.is_some_and(|expected| expected != self.last_seq + overlay.messages) {
            return Err(ApiError::wrong_last_sequence(self.last_seq));
        }
        if headers.expected_last_subject_seq.is_some() {
            let filter = headers.expected_last_subject.filter(|f| !f.is_empty());
            let filter = filter.unwrap_or(name);
            // Compared with the stream before the batch: a subject the batch touches has moved on.
            if overlay
                .subjects
                .keys()
                .any(|name| subject::matches(filter, name))
            {
                return Err(ApiError::fixed(400, 10164, "wrong last sequence"));
            }
        }
        let own = PublishHeaders {
            expected_last_seq: None,
            expected_last_msg_id: None,
            ..headers.clone()
        };
        self.check_expected(&own, name, ctx)
    }

    fn check_batched_rollup(
        &self,
        headers: &PublishHeaders<'_>,
        name: &[u8],
        overlay: &Overlay,
    ) -> Result<(), ApiError> {
        self.rollup_of(headers)?;
        let Some(value) = headers.rollup.filter(|value| !value.is_empty()) else {
            return Ok(());
        };
        // A rollup takes away what was there before the batch, never a part of the batch.
        let own = match parse_rollup(value)? {
            Rollup::All => overlay.messages > 0,
            Rollup::Subject => overlay.subjects.contains_key(name),
        };
        if own {
            Err(error::ROLLUP_NOT_PERMITTED)
        } else {
            Ok(())
        }
    }

    fn check_batched_size(
        &self,
        name: &[u8],
        form: Form,
        overlay: &mut Overlay,
        rules: Rules,
    ) -> Result<(), ApiError> {
        let record_len = RECORD_HEAD_BYTES + name.len() + form.stored;
        let too_big = limit(self.config.max_msg_size).is_some_and(|max| form.measured as u64 > max);
        if too_big || record_len > RECORD_BYTES_MAX {
            return Err(error::MESSAGE_EXCEEDS_MAXIMUM);
        }
        if !subject::is_literal(name) {
            return Err(error::BAD_REQUEST);
        }
        if rules.have(Rules::WHOLE_BATCHES) && self.last_seq + overlay.messages >= SEQUENCE_MAX {
            return Err(error::INSUFFICIENT_RESOURCES);
        }
        let size = message_size(self.config.storage, len_u32(record_len), form.has_headers);
        let bytes_max = limit(self.config.max_bytes);
        let is_full = self.config.discard == Discard::New || !rules.have(Rules::OVERSIZED);
        if is_full && bytes_max.is_some_and(|max| size > max) {
            return Err(error::MAXIMUM_BYTES);
        }
        overlay.bytes += size;
        if self.config.discard == Discard::Old {
            return Ok(());
        }
        let held = self
            .subjects
            .find(name)
            .map_or(0, |id| self.subjects.seqs(id).len());
        let own = overlay.subjects.get(name).copied().unwrap_or(0);
        let per_subject = limit(self.config.max_msgs_per_subject);
        if self.config.discard_new_per_subject && per_subject.is_some_and(|max| held + own >= max) {
            return Err(error::MAXIMUM_MESSAGES_PER_SUBJECT);
        }
        // What a message would replace is not counted against the batch here: a batch that needs
        // that room comes one message at a time.
        if limit(self.config.max_msgs).is_some_and(|max| self.messages + overlay.messages >= max) {
            return Err(error::MAXIMUM_MESSAGES);
        }
        if bytes_max.is_some_and(|max| self.bytes + overlay.bytes > max) {
            return Err(error::MAXIMUM_BYTES);
        }
        Ok(())
    }
}
