//! Storing one message: the checks in the order clients can observe (nats-surface §2.5; duplicates are
//! recognised before expectations are compared, trap 28), then the store, then the limits.

use unibus_proto::jetstream::config::{Discard, Retention};
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::subject;

use crate::codec::len_u32;
use crate::command::AppendRef;
use crate::counter::{self, Counted};
use crate::dedupe::{IdKey, Remembered, key_of};
use crate::entries::{HEADERS, MARKER, NEVER, TTL};
use crate::header_scan::{
    HEADER_BYTES_MAX, PublishHeaders, Rollup, Ttl, parse_rollup, parse_ttl, scan, stored_form,
};
use crate::location::Location;
use crate::outcome::{Outcome, Refusal};
use crate::record::{self, RECORD_BYTES_MAX, RECORD_HEAD_BYTES};
use crate::rules::Rules;
use crate::schedules::ScheduleWish;
use crate::stream::{Context, Stream, TOO_MUCH_AT_ONCE, limit, message_size};

/// Sequences end here, far from where counting on would overflow.
pub(crate) const SEQUENCE_MAX: u64 = 1 << 63;
/// From so many messages on, a rollup of everything clears the stream instead of removing one by one,
/// which keeps the file that is written to.
const CLEAR_MESSAGES_MIN: u64 = 1024;

/// Where a message comes from, and so what its headers may ask for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Publisher {
    /// A client.
    Client,
    /// Another stream: what was expected of it was settled at the origin.
    Copy,
    /// A batch that was checked as a whole.
    Batch,
    /// A schedule of this stream.
    Schedule,
}

/// What a message asks of the store.
#[derive(Copy, Clone, Debug, Default)]
struct Asked {
    ttl: Option<Ttl>,
    rollup: Option<Rollup>,
    /// It marks a removal: nothing marks its own end.
    marks: bool,
    /// Its size as `max_msg_size` has it, bytes.
    measured: usize,
}

pub(crate) enum Stored {
    New(u64),
    Duplicate(u64),
    /// A counter's message and the value it led to.
    Counted(u64, String),
}

impl Stored {
    /// The value of a counter.
    pub(crate) fn val(self) -> Option<String> {
        match self {
            Self::Counted(_, val) => Some(val),
            Self::New(_) | Self::Duplicate(_) => None,
        }
    }
}

/// A message's header length and data as they are stored, where those are not the published ones. A
/// schedule is the only message of its subject, and says so.
pub(crate) fn rewritten(
    a: AppendRef<'_>,
    headers: &PublishHeaders<'_>,
    schedule: &ScheduleWish<'_>,
) -> Option<(u32, Vec<u8>)> {
    let plain = headers.rollup.is_none_or(<[u8]>::is_empty);
    let added: &[u8] = match schedule {
        ScheduleWish::Plan(_) if plain => b"Nats-Rollup: sub\r\n",
        _ => b"",
    };
    (headers.rewrite || !added.is_empty()).then(|| {
        let (block, payload) = a.data.split_at(a.header_len as usize);
        let mut data = stored_form(block, added);
        let header_len = len_u32(data.len());
        data.extend_from_slice(payload);
        (header_len, data)
    })
}

/// What was expected of the stream has been compared.
fn settle_expectations(headers: &mut PublishHeaders<'_>) {
    headers.expected_last_seq = None;
    headers.expected_last_subject_seq = None;
    headers.expected_last_subject = None;
    headers.expected_last_msg_id = None;
}

impl Stream {
    /// Stores a message whose subject belongs to this stream, or says why not.
    pub(crate) fn append(&mut self, a: AppendRef<'_>, ctx: &mut Context<'_>) -> Outcome {
        let (seq, duplicate, val) = match self.publish(a, Publisher::Client, ctx) {
            Ok(Stored::New(seq)) => (seq, false, None),
            Ok(Stored::Duplicate(seq)) => (seq, true, None),
            Ok(Stored::Counted(seq, val)) => (seq, false, Some(val)),
            Err(error) => {
                return Outcome::Refused(Refusal {
                    stream: Some(self.name.clone()),
                    silent: self.config.no_ack,
                    error,
                });
            }
        };
        if self.config.no_ack {
            return Outcome::Silent;
        }
        let stream = self.name.clone();
        match val {
            Some(val) => Outcome::Counted { stream, seq, val },
            None => Outcome::Published {
                stream,
                seq,
                duplicate,
            },
        }
    }

    /// Stores a copy made for a source: what it expects of its stream was settled at the origin.
    pub(crate) fn append_copy(
        &mut self,
        a: AppendRef<'_>,
        ctx: &mut Context<'_>,
    ) -> Result<(), ApiError> {
        self.publish(a, Publisher::Copy, ctx).map(drop)
    }

    /// Stores one message, or says why not.
    pub(crate) fn publish(
        &mut self,
        a: AppendRef<'_>,
        publisher: Publisher,
        ctx: &mut Context<'_>,
    ) -> Result<Stored, ApiError> {
        self.publish_counted(a, publisher, None, ctx)
    }

    /// Like [`Stream::publish`]; what a counter's message leads to may be known already.
    pub(crate) fn publish_counted(
        &mut self,
        a: AppendRef<'_>,
        publisher: Publisher,
        counted: Option<Counted>,
        ctx: &mut Context<'_>,
    ) -> Result<Stored, ApiError> {
        if self.is_control() && !a.privileged {
            return Err(error::RESERVED);
        }
        if self.config.sealed {
            return Err(error::STREAM_SEALED);
        }
        let renamed = self
            .compiled
            .rename
            .as_ref()
            .and_then(|t| t.apply(a.subject));
        let a = AppendRef {
            subject: renamed.as_deref().unwrap_or(a.subject),
            ..a
        };
        let header_len = a.header_len as usize;
        if header_len == 0 {
            counter::check(self.config.allow_msg_counter, &PublishHeaders::default())?;
            let asked = Asked {
                measured: a.data.len(),
                ..Asked::default()
            };
            return self.store_checked(a, asked, ctx).map(Stored::New);
        }
        if header_len > HEADER_BYTES_MAX {
            return Err(error::HEADER_EXCEEDS_MAXIMUM);
        }
        let mut headers = scan(&a.data[..header_len]);
        match publisher {
            Publisher::Client | Publisher::Schedule => {}
            Publisher::Copy => self.settle_copied(&mut headers),
            Publisher::Batch => settle_expectations(&mut headers),
        }
        self.check_features(&headers, publisher)?;
        let ttl = self.ttl_of(&headers, ctx.rules)?;
        let (key, known) = self.look_up_id(&headers, ctx.now_ns)?;
        if let Some(seq) = known {
            return Ok(Stored::Duplicate(seq));
        }
        self.check_expected(&headers, a.subject, ctx)?;
        let schedule = self.schedule_of(&headers, a.subject, publisher, ctx)?;
        let asked = Asked {
            ttl,
            rollup: self.rollup_of(&headers)?,
            marks: headers.marks && ctx.rules.have(Rules::TOLD_MARKERS),
            measured: a.data.len(),
        };
        if self.config.allow_msg_counter {
            let counted = match counted {
                Some(counted) => counted,
                None => self.count(a, &headers, publisher == Publisher::Copy, ctx.rules)?,
            };
            let (seq, val) = self.store_counted(a, counted, asked, ctx)?;
            self.remember(key, headers.msg_id, seq, ctx.now_ns);
            return Ok(Stored::Counted(seq, val));
        }
        let seq = self.store_rewritten(a, &headers, schedule, asked, ctx)?;
        self.remember(key, headers.msg_id, seq, ctx.now_ns);
        Ok(Stored::New(seq))
    }

    /// Stores a message in its stored form, and does what it wants of schedules.
    fn store_rewritten(
        &mut self,
        a: AppendRef<'_>,
        headers: &PublishHeaders<'_>,
        schedule: ScheduleWish<'_>,
        mut asked: Asked,
        ctx: &mut Context<'_>,
    ) -> Result<u64, ApiError> {
        let rewritten = rewritten(a, headers, &schedule);
        if matches!(schedule, ScheduleWish::Plan(_)) {
            asked.rollup = asked.rollup.or(Some(Rollup::Subject));
        }
        if let Some((_, data)) = &rewritten {
            // What is added here is not the publisher's.
            asked.measured = if ctx.rules.have(Rules::WHOLE_BATCHES) {
                a.data.len().min(data.len())
            } else {
                data.len()
            };
        }
        let a = rewritten
            .as_ref()
            .map_or(a, |(header_len, data)| AppendRef {
                header_len: *header_len,
                data,
                ..a
            });
        let seq = self.store_checked(a, asked, ctx)?;
        self.grant_schedule(schedule, seq, ctx);
        Ok(seq)
    }

    /// The key of a message's id, and the sequence of the message that had the id before.
    fn look_up_id(
        &mut self,
        headers: &PublishHeaders<'_>,
        now_ns: u64,
    ) -> Result<(Option<IdKey>, Option<u64>), ApiError> {
        let window = u64::try_from(self.config.duplicate_window).unwrap_or(0);
        self.dirty.row |= self.dedupe.expire(window, now_ns);
        let key = headers.msg_id.filter(|id| !id.is_empty()).map(key_of);
        let known = key.as_ref().and_then(|key| self.dedupe.find(key));
        if key.is_some() && known.is_none() && self.dedupe.is_full() {
            return Err(error::INSUFFICIENT_RESOURCES);
        }
        Ok((key, known))
    }

    /// Takes out of a copy's headers what was settled when the origin stored it, or what this stream
    /// does not grant.
    fn settle_copied(&self, headers: &mut PublishHeaders<'_>) {
        headers.expected_stream = None;
        settle_expectations(headers);
        if !self.config.allow_msg_counter {
            headers.incr = None;
        }
        if !self.config.allow_msg_ttl {
            headers.ttl = None;
        }
        if !self.config.allow_rollup_hdrs || self.config.deny_purge {
            headers.rollup = None;
        }
    }

    /// Features a message may ask for that this stream does not have.
    pub(crate) fn check_features(
        &self,
        headers: &PublishHeaders<'_>,
        publisher: Publisher,
    ) -> Result<(), ApiError> {
        counter::check(self.config.allow_msg_counter, headers)?;
        if headers.batch && publisher == Publisher::Client {
            return Err(if self.config.allow_atomic {
                error::ATOMIC_PUBLISH_INCOMPLETE
            } else {
                error::ATOMIC_PUBLISH_DISABLED
            });
        }
        if headers.source && publisher != Publisher::Copy {
            return Err(error::SOURCE_HEADER_NOT_ALLOWED);
        }
        match headers.expected_stream {
            Some(name) if !name.is_empty() && name != self.name.as_bytes() => {
                Err(error::STREAM_NOT_MATCH)
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn ttl_of(
        &self,
        headers: &PublishHeaders<'_>,
        rules: Rules,
    ) -> Result<Option<Ttl>, ApiError> {
        let Some(value) = headers.ttl.filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        if !self.config.allow_msg_ttl {
            return Err(error::MESSAGE_TTL_DISABLED);
        }
        let ttl = parse_ttl(value, rules)?;
        // An expiring message leaves a marker: it must not go before the marker would.
        let floor = u64::try_from(self.config.subject_delete_marker_ttl).unwrap_or(0);
        Ok(match ttl {
            Some(Ttl::For(ns)) if self.config.max_msgs_per_subject != 1 => {
                Some(Ttl::For(ns.max(floor)))
            }
            other => other,
        })
    }

    pub(crate) fn check_expected(
        &self,
        headers: &PublishHeaders<'_>,
        own: &[u8],
        ctx: &mut Context<'_>,
    ) -> Result<(), ApiError> {
        if let Some(expected) = headers.expected_last_subject_seq {
            let filter = headers
                .expected_last_subject
                .filter(|f| !f.is_empty())
                .unwrap_or(own);
            if !subject::is_valid_filter(filter) {
                return Err(error::BAD_REQUEST);
            }
            if ctx.is_spent() && subject::has_wildcard(filter) {
                return Err(TOO_MUCH_AT_ONCE);
            }
            let last = self.last_seq_of(filter, &mut ctx.work).unwrap_or(0);
            if last != expected {
                return Err(ApiError::wrong_last_sequence(last));
            }
        } else if headers.expected_last_subject.is_some() {
            return Err(error::EXPECTED_LAST_SUBJECT_SEQUENCE_INVALID);
        }
        if headers
            .expected_last_seq
            .is_some_and(|expected| expected != self.last_seq)
        {
            return Err(ApiError::wrong_last_sequence(self.last_seq));
        }
        let last_id = self.last_msg_id.as_deref().unwrap_or_default();
        match headers.expected_last_msg_id {
            Some(id) if !id.is_empty() && id != last_id.as_bytes() => {
                Err(ApiError::wrong_last_msg_id(last_id))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn rollup_of(
        &self,
        headers: &PublishHeaders<'_>,
    ) -> Result<Option<Rollup>, ApiError> {
        let Some(value) = headers.rollup.filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        if !self.config.allow_rollup_hdrs || self.config.deny_purge {
            return Err(error::ROLLUP_NOT_PERMITTED);
        }
        parse_rollup(value).map(Some)
    }

    fn store_checked(
        &mut self,
        a: AppendRef<'_>,
        asked: Asked,
        ctx: &mut Context<'_>,
    ) -> Result<u64, ApiError> {
        let Asked { ttl, rollup, .. } = asked;
        let record_len = RECORD_HEAD_BYTES + a.subject.len() + a.data.len();
        if self.last_seq >= SEQUENCE_MAX {
            return Err(error::INSUFFICIENT_RESOURCES);
        }
        let too_big =
            limit(self.config.max_msg_size).is_some_and(|max| asked.measured as u64 > max);
        if too_big || record_len > RECORD_BYTES_MAX {
            return Err(error::MESSAGE_EXCEEDS_MAXIMUM);
        }
        // A subject that is already stored is known to be valid. `*` and `>` are tokens like others here:
        // clients may publish to them (nats-surface §1.9).
        let known = self.subjects.find(a.subject);
        if known.is_none() && !subject::is_valid_filter(a.subject) {
            return Err(error::BAD_REQUEST);
        }
        if self.has_no_interest(a.subject) {
            self.skip(ctx.now_ns);
            return Ok(self.last_seq);
        }
        let size = message_size(self.config.storage, len_u32(record_len), a.header_len > 0);
        self.check_limits(known, size, rollup, ctx.rules)?;
        let (flags, expiry) = match ttl {
            None => (0, None),
            Some(Ttl::Never) => (NEVER, None),
            Some(Ttl::For(ns)) => (0, Some(ctx.now_ns.saturating_add(ns))),
        };
        let flags = flags | if asked.marks { MARKER } else { 0 };
        let rollup = self.clear_for(rollup, ctx);
        let (seq, id) = self.store(a.subject, a.header_len, a.data, flags, expiry, ctx);
        self.roll_up(rollup, id, seq, ctx);
        self.enforce_limits(id, ctx);
        Ok(seq)
    }

    /// Makes room for a message that replaces everything; what is left to do once it is stored.
    pub(crate) fn clear_for(
        &mut self,
        rollup: Option<Rollup>,
        ctx: &mut Context<'_>,
    ) -> Option<Rollup> {
        let clears = ctx.rules.have(Rules::ROLLUP_CLEARS) && self.messages >= CLEAR_MESSAGES_MIN;
        if clears && rollup == Some(Rollup::All) {
            self.clear(ctx);
            return None;
        }
        rollup
    }

    /// Removes what a message that was stored as `seq` replaces.
    pub(crate) fn roll_up(
        &mut self,
        rollup: Option<Rollup>,
        id: u32,
        seq: u64,
        ctx: &mut Context<'_>,
    ) {
        match rollup {
            None => {}
            Some(Rollup::Subject) if subject::has_wildcard(self.subjects.name(id)) => {
                // nats-server takes the subject for a filter: `kv.purge("a.*")` empties what it matches.
                let filter = self.subjects.shared_name(id);
                let mut matching = Vec::new();
                self.subjects.visit(&filter, |id, _| {
                    matching.push(id);
                    true
                });
                for id in matching {
                    self.remove_subject_before(id, seq, ctx);
                }
            }
            Some(Rollup::Subject) => self.remove_subject_before(id, seq, ctx),
            Some(Rollup::All) => while self.first_seq < seq && self.remove(self.first_seq, ctx) {},
        }
    }

    fn remove_subject_before(&mut self, id: u32, seq: u64, ctx: &mut Context<'_>) {
        while let Some(oldest) = self.subjects.seqs(id).first().filter(|first| *first < seq) {
            if !self.remove(oldest, ctx) {
                return;
            }
        }
    }

    /// `discard: new`: a full stream refuses, except a message that replaces one of its own subject. With
    /// `discard: old` even what is larger than the stream is taken, and goes with everything before it.
    pub(crate) fn check_limits(
        &self,
        known: Option<u32>,
        size: u64,
        rollup: Option<Rollup>,
        rules: Rules,
    ) -> Result<(), ApiError> {
        let bytes_max = limit(self.config.max_bytes);
        let is_full = self.config.discard == Discard::New || !rules.have(Rules::OVERSIZED);
        if is_full && bytes_max.is_some_and(|max| size > max) {
            return Err(error::MAXIMUM_BYTES);
        }
        if self.config.discard == Discard::Old {
            return Ok(());
        }
        let per_subject = limit(self.config.max_msgs_per_subject);
        let seqs = known.map(|id| self.subjects.seqs(id));
        let replaced = seqs
            .filter(|seqs| per_subject.is_some_and(|max| seqs.len() >= max))
            .and_then(|seqs| self.blocks.find(seqs.first()?))
            .map(|(_, entry)| self.size_of(entry));
        if self.config.discard_new_per_subject && replaced.is_some() && rollup.is_none() {
            return Err(error::MAXIMUM_MESSAGES_PER_SUBJECT);
        }
        if limit(self.config.max_msgs).is_some_and(|max| self.messages >= max) && replaced.is_none()
        {
            return Err(error::MAXIMUM_MESSAGES);
        }
        if bytes_max.is_some_and(|max| self.bytes + size > max)
            && replaced.is_none_or(|replaced| replaced < size)
        {
            return Err(error::MAXIMUM_BYTES);
        }
        Ok(())
    }

    /// Interest retention stores only what some consumer will see.
    fn has_no_interest(&self, name: &[u8]) -> bool {
        self.config.retention == Retention::Interest && self.interest.of(name).next().is_none()
    }

    /// Gives a sequence to a message that is not stored.
    fn skip(&mut self, now_ns: u64) {
        self.last_seq += 1;
        self.last_ts_ns = now_ns;
        self.last_msg_id = None;
        if self.messages == 0 {
            self.first_seq = self.last_seq + 1;
        }
        self.blocks.skip(self.last_seq, now_ns);
        self.dirty.row = true;
    }

    fn store_counted(
        &mut self,
        a: AppendRef<'_>,
        counted: Counted,
        asked: Asked,
        ctx: &mut Context<'_>,
    ) -> Result<(u64, String), ApiError> {
        let a = AppendRef {
            header_len: counted.header_len,
            data: &counted.data,
            ..a
        };
        let asked = Asked {
            measured: a.data.len(),
            ..asked
        };
        let seq = self.store_checked(a, asked, ctx)?;
        let val = counted.count.val.clone();
        if self.blocks.is_live(seq) {
            self.counts.insert(seq, counted.count);
        }
        Ok((seq, val))
    }

    fn remember(&mut self, key: Option<IdKey>, id: Option<&[u8]>, seq: u64, ts_ns: u64) {
        if let (Some(key), Some(id)) = (key, id) {
            self.dedupe.remember(Remembered { key, seq, ts_ns });
            self.last_msg_id = Some(String::from_utf8_lossy(id).into());
        } else {
            self.last_msg_id = None;
        }
    }

    /// Stores without asking. Returns the sequence and the subject's id.
    pub(crate) fn store(
        &mut self,
        subject: &[u8],
        header_len: u32,
        data: &[u8],
        flags: u32,
        expiry_ns: Option<u64>,
        ctx: &mut Context<'_>,
    ) -> (u64, u32) {
        let seq = self.last_seq + 1;
        let len = len_u32(RECORD_HEAD_BYTES + subject.len() + data.len());
        let (block, offset, dropped) = self.blocks.place(seq, len);
        if let Some(dropped) = dropped {
            self.drop_block(dropped, ctx);
        }
        let head = record::head(seq, ctx.now_ns, subject, header_len, data);
        let at = Location {
            stream: self.uid,
            block,
            offset,
            len,
        };
        ctx.sink.append(&at, &[&head, subject, data]);

        let id = self.subjects.intern(subject);
        self.note_again(id, header_len, data, at, ctx.now_ns);
        self.subjects.push(id, seq);
        let has_headers = if header_len > 0 { HEADERS } else { 0 };
        let has_ttl = if expiry_ns.is_some() { TTL } else { 0 };
        self.blocks
            .push(ctx.now_ns, len, flags | has_headers | has_ttl, id);
        if let Some(expiry) = expiry_ns {
            self.expiry_of.insert(seq, expiry);
            self.by_expiry.insert((expiry, seq));
        }
        if self.messages == 0 {
            self.first_seq = seq;
        }
        self.messages += 1;
        self.bytes += message_size(self.config.storage, len, header_len > 0);
        self.last_seq = seq;
        self.last_ts_ns = ctx.now_ns;
        self.last_msg_id = None;
        self.dirty.row = true;
        (seq, id)
    }
}
