//! Atomic batches (ADR-50): all messages of a batch are checked against the stream as it is before any
//! of them is stored, and are then stored one after the other in the same entry. What was staged is
//! the origin node's business; here a batch is whole or it is nothing.

use std::collections::{BTreeMap, BTreeSet};

use unibus_proto::jetstream::config::Discard;
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::subject;

use crate::codec::len_u32;
use crate::command::{Append, AppendRef, AtomicBatch};
use crate::counter;
use crate::dedupe::{IdKey, key_of};
use crate::header_scan::{HEADER_BYTES_MAX, PublishHeaders, Rollup, parse_rollup, scan};
use crate::outcome::{Outcome, Refusal};
use crate::publish::Publisher;
use crate::record::{RECORD_BYTES_MAX, RECORD_HEAD_BYTES};
use crate::schedules::ScheduleWish;
use crate::stream::{Context, Stream, limit, message_size};

/// Messages of one batch at most.
pub const BATCH_MESSAGES_MAX: usize = 1000;

/// What the messages looked at so far would add.
#[derive(Default)]
struct Overlay {
    subjects: BTreeMap<Vec<u8>, u64>,
    ids: BTreeSet<IdKey>,
    messages: u64,
    bytes: u64,
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
        if let Err(error) = self.check_batch(batch, ctx.now_ns) {
            return refused(error);
        }
        let mut val = None;
        for message in &batch.messages {
            // Checked above: only a stream out of sequences refuses here.
            match self.publish(append_ref(message), Publisher::Batch, ctx) {
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

    fn check_batch(&mut self, batch: &AtomicBatch, now_ns: u64) -> Result<(), ApiError> {
        if !self.config.allow_atomic {
            return Err(error::ATOMIC_PUBLISH_DISABLED);
        }
        if batch.messages.is_empty() || batch.messages.len() > BATCH_MESSAGES_MAX {
            return Err(error::ATOMIC_PUBLISH_INCOMPLETE);
        }
        let window = u64::try_from(self.config.duplicate_window).unwrap_or(0);
        self.dirty.row |= self.dedupe.expire(window, now_ns);
        let mut overlay = Overlay::default();
        for message in &batch.messages {
            self.check_batched(append_ref(message), &mut overlay)?;
        }
        Ok(())
    }

    fn check_batched(&self, a: AppendRef<'_>, overlay: &mut Overlay) -> Result<(), ApiError> {
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
        self.ttl_of(&headers)?;
        self.check_batched_id(&headers, overlay)?;
        self.check_batched_expectations(&headers, name, overlay)?;
        let schedule = self.schedule_of(&headers, name, Publisher::Batch, 0)?;
        if matches!(schedule, ScheduleWish::Plan(_)) && overlay.subjects.contains_key(name) {
            return Err(error::SCHEDULE_ROLLUP_INVALID);
        }
        self.check_batched_rollup(&headers, name, overlay)?;
        self.check_batched_size(name, a, overlay)?;
        *overlay.subjects.entry(name.to_vec()).or_default() += 1;
        overlay.messages += 1;
        Ok(())
    }

    fn check_batched_id(
        &self,
        headers: &PublishHeaders<'_>,
        overlay: &mut Overlay,
    ) -> Result<(), ApiError> {
        let Some(id) = headers.msg_id.filter(|id| !id.is_empty()) else {
            return Ok(());
        };
        let key = key_of(id);
        if self.dedupe.find(&key).is_some() || !overlay.ids.insert(key) {
            return Err(error::ATOMIC_PUBLISH_DUPLICATE_ID);
        }
        if self.dedupe.is_full() {
            return Err(error::INSUFFICIENT_RESOURCES);
        }
        Ok(())
    }

    fn check_batched_expectations(
        &self,
        headers: &PublishHeaders<'_>,
        name: &[u8],
        overlay: &Overlay,
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
        self.check_expected(&own, name)
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
        a: AppendRef<'_>,
        overlay: &mut Overlay,
    ) -> Result<(), ApiError> {
        let record_len = RECORD_HEAD_BYTES + name.len() + a.data.len();
        let too_big = limit(self.config.max_msg_size).is_some_and(|max| a.data.len() as u64 > max);
        if too_big || record_len > RECORD_BYTES_MAX {
            return Err(error::MESSAGE_EXCEEDS_MAXIMUM);
        }
        if !subject::is_literal(name) {
            return Err(error::BAD_REQUEST);
        }
        let size = message_size(self.config.storage, len_u32(record_len), a.header_len > 0);
        let bytes_max = limit(self.config.max_bytes);
        if bytes_max.is_some_and(|max| size > max) {
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
