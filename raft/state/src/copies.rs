//! Copies of other streams: how far a mirror or source has come, and taking over what the leader read
//! for it. A batch names the place it continues at, so one that arrives twice or late changes nothing.
//!
//! A mirror keeps the origin's sequences and times; a source stores its copies like new messages.

use serde::{Deserialize, Serialize};
use unibus_proto::jetstream::config::StreamSource;
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::jetstream::source::SourceInfo;
use unibus_proto::transform::Transform;

use crate::codec::len_u32;
use crate::command::{AppendRef, CopiedMessage, CopyBatch};
use crate::entries::{MARKER, NEVER};
use crate::header_scan::{Rollup, Ttl, parse_rollup, parse_ttl, scan};
use crate::location::StreamUid;
use crate::record::RECORD_HEAD_BYTES;
use crate::rules::Rules;
use crate::state::State;
use crate::stream::{Context, Stream, message_size};
use crate::validate_sources::SOURCES_MAX;

/// Origins whose progress a stream remembers; more than it can have at once, so that one that is
/// removed and added again goes on where it was.
const PROGRESS_MAX: usize = SOURCES_MAX * 4;
/// A gap in a mirror's sequences up to this is kept inside its block.
const INNER_GAP_MAX: u64 = 4096;

/// How far one mirror or source has come.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Which incarnation of the origin.
    pub origin_uid: u64,
    /// Every message of the origin up to here was looked at.
    pub seq: u64,
    /// When something was copied last, Unix nanoseconds; 0 = never.
    pub copied_ns: u64,
}

/// Where a copy goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyFrom {
    /// The origin's incarnation.
    pub origin_uid: StreamUid,
    /// Everything up to here is copied.
    pub after: u64,
}

/// What a copy takes of its origin, and under which subjects.
#[derive(Debug)]
pub struct CopyRules {
    /// Filters; none = everything.
    pub filters: Vec<String>,
    transforms: Vec<Transform>,
}

impl CopyRules {
    /// Reads a source's filters and transforms.
    #[must_use]
    pub fn new(source: &StreamSource) -> Self {
        let single = Some(&source.filter_subject).filter(|filter| !filter.is_empty());
        let several = source.subject_transforms.iter().map(|t| &t.src);
        let filters: Vec<String> = single
            .into_iter()
            .chain(several)
            .map(|filter| if filter.is_empty() { ">" } else { filter }.to_owned())
            .collect();
        let everything = filters.iter().any(|filter| filter == ">");
        let transforms = source.subject_transforms.iter();
        Self {
            filters: if everything { Vec::new() } else { filters },
            transforms: transforms
                .filter(|t| !t.dest.is_empty())
                .filter_map(|t| Transform::new(&t.src, &t.dest).ok())
                .collect(),
        }
    }

    /// The subject under which a message is copied.
    #[must_use]
    pub fn rename(&self, name: &[u8]) -> Option<Vec<u8>> {
        self.transforms.iter().find_map(|t| t.apply(name))
    }
}

impl Stream {
    /// What it copies: its mirror, or its sources.
    pub fn origins(&self) -> impl Iterator<Item = &StreamSource> {
        self.config().mirror.iter().chain(&self.config().sources)
    }

    /// How far a copy has come; `None` before its first batch.
    #[must_use]
    pub fn progress(&self, source: &StreamSource) -> Option<Progress> {
        self.progress.get(&source.identity()).copied()
    }

    /// Where the copy of `source` from `origin` goes on.
    #[must_use]
    pub fn copy_from(&self, source: &StreamSource, origin: &Self) -> CopyFrom {
        let origin_uid = origin.uid();
        let mirror = self.config().mirror.is_some();
        let after = match self.progress(source) {
            Some(progress) if progress.origin_uid == origin_uid.0 => progress.seq,
            // The origin was made anew: a mirror can't go back, a source begins again.
            Some(_) if mirror => self.last_seq,
            Some(_) => 0,
            None => match source.opt_start_time {
                _ if source.opt_start_seq > 0 => source.opt_start_seq - 1,
                Some(time) => origin
                    .first_seq_at(time.0)
                    .map_or_else(|| origin.last_seq(), |seq| seq - 1),
                None if mirror => self.last_seq,
                None => 0,
            },
        };
        CopyFrom { origin_uid, after }
    }

    /// Takes over a batch. An error names what keeps the stream from taking more now; what came
    /// before it is stored.
    pub(crate) fn copy(
        &mut self,
        batch: &CopyBatch,
        ctx: &mut Context<'_>,
    ) -> Result<(), ApiError> {
        let mirror = self.config.mirror.as_ref();
        let mirror = mirror.is_some_and(|source| source.identity() == batch.origin);
        let source = self.config.sources.iter();
        let wanted = mirror || source.clone().any(|s| s.identity() == batch.origin);
        if !wanted || self.created_ns != batch.created_ns {
            return Err(error::STREAM_NOT_FOUND);
        }
        let mut progress = self
            .progress
            .get(&batch.origin)
            .copied()
            .unwrap_or_default();
        if progress.origin_uid == batch.origin_uid && progress.seq != batch.after {
            // Applied before, or overtaken.
            return Ok(());
        }
        progress.origin_uid = batch.origin_uid;
        progress.seq = batch.after;
        let mut stopped = None;
        for message in &batch.messages {
            let taken = if mirror {
                self.copy_mirrored(message, ctx)
            } else {
                self.copy_sourced(message, ctx)
            };
            if let Err(error) = taken
                && (batch.whole
                    || error.code >= 500
                    || error.err_code == error::STREAM_SEALED.err_code)
            {
                stopped = Some(error);
                break;
            }
            progress.seq = message.seq;
            progress.copied_ns = ctx.now_ns;
        }
        if stopped.is_none() {
            progress.seq = progress.seq.max(batch.upto);
        }
        self.note_progress(&batch.origin, progress);
        stopped.map_or(Ok(()), Err)
    }

    fn note_progress(&mut self, origin: &str, progress: Progress) {
        self.dirty.row = true;
        self.progress.insert(origin.to_owned(), progress);
        if self.progress.len() > PROGRESS_MAX {
            let kept: Vec<String> = self.origins().map(StreamSource::identity).collect();
            self.progress.retain(|origin, _| kept.contains(origin));
        }
    }

    fn copy_sourced(
        &mut self,
        message: &CopiedMessage,
        ctx: &mut Context<'_>,
    ) -> Result<(), ApiError> {
        let append = AppendRef {
            subject: &message.subject,
            header_len: message.header_len,
            data: &message.data,
            privileged: false,
        };
        self.append_copy(append, ctx)
    }

    /// Stores a message under the origin's sequence and time.
    fn copy_mirrored(
        &mut self,
        message: &CopiedMessage,
        ctx: &mut Context<'_>,
    ) -> Result<(), ApiError> {
        if message.seq <= self.last_seq {
            return Ok(());
        }
        if self.config.sealed {
            return Err(error::STREAM_SEALED);
        }
        let renamed = self.compiled.rename.as_ref();
        let renamed = renamed.and_then(|transform| transform.apply(&message.subject));
        let subject = renamed.as_deref().unwrap_or(&message.subject);
        let (ttl, rollup, marks) = self.wishes(message, ctx.rules);
        let record_len = len_u32(RECORD_HEAD_BYTES + subject.len() + message.data.len());
        let size = message_size(self.config.storage, record_len, message.header_len > 0);
        self.check_limits(self.subjects.find(subject), size, rollup, ctx.rules)?;
        self.skip_to(message.seq, message.ts_ns);
        let (flags, expiry) = match ttl {
            None => (0, None),
            Some(Ttl::Never) => (NEVER, None),
            Some(Ttl::For(ns)) => (0, Some(message.ts_ns.saturating_add(ns))),
        };
        let flags = flags | if marks { MARKER } else { 0 };
        let at = Context {
            now_ns: message.ts_ns,
            rules: ctx.rules,
            work: 0,
            sink: &mut *ctx.sink,
        };
        self.store_and_trim(subject, message, flags, expiry, rollup, at);
        Ok(())
    }

    fn store_and_trim(
        &mut self,
        subject: &[u8],
        message: &CopiedMessage,
        flags: u32,
        expiry_ns: Option<u64>,
        rollup: Option<Rollup>,
        mut at: Context<'_>,
    ) {
        let ctx = &mut at;
        let rollup = self.clear_for(rollup, ctx);
        let (seq, id) = self.store(
            subject,
            message.header_len,
            &message.data,
            flags,
            expiry_ns,
            ctx,
        );
        self.roll_up(rollup, id, seq, ctx);
        self.enforce_limits(id, ctx);
    }

    /// What a copied message's headers ask for, as far as this stream grants it.
    fn wishes(&self, message: &CopiedMessage, rules: Rules) -> (Option<Ttl>, Option<Rollup>, bool) {
        let block = message.data.get(..message.header_len as usize);
        let Some(headers) = block.map(scan) else {
            return (None, None, false);
        };
        let ttl = headers.ttl.filter(|_| self.config.allow_msg_ttl);
        let rollup = headers.rollup.filter(|_| !self.config.deny_purge);
        (
            ttl.and_then(|value| parse_ttl(value, rules).ok()).flatten(),
            rollup.and_then(|value| parse_rollup(value).ok()),
            headers.marks && rules.have(Rules::TOLD_MARKERS),
        )
    }

    /// Makes `seq` the next sequence.
    pub(crate) fn skip_to(&mut self, seq: u64, ts_ns: u64) {
        let gap = seq - 1 - self.last_seq;
        if gap > 0 && gap <= INNER_GAP_MAX {
            for skipped in self.last_seq + 1..seq {
                self.blocks.skip(skipped, ts_ns);
            }
        }
        self.last_seq = seq - 1;
    }
}

impl State {
    /// How far the copies of a stream have come, as clients are told.
    #[must_use]
    pub fn source_infos(&self, stream: &Stream, now_ns: u64) -> Vec<SourceInfo> {
        stream
            .origins()
            .map(|source| self.source_info(stream, source, now_ns))
            .collect()
    }

    fn source_info(&self, stream: &Stream, source: &StreamSource, now_ns: u64) -> SourceInfo {
        let lag = self.stream(&source.name).map_or(0, |origin| {
            let from = stream.copy_from(source, origin);
            let named = source.consumer.as_ref();
            let through = named.and_then(|named| origin.consumer(&named.name));
            let filters = through.map_or_else(
                || CopyRules::new(source).filters,
                |consumer| consumer.config().filters().map(str::to_owned).collect(),
            );
            origin.num_pending(&filters, from.after.saturating_add(1), false)
        });
        let copied_ns = stream.progress(source).map_or(0, |p| p.copied_ns);
        let active = i64::try_from(now_ns.saturating_sub(copied_ns)).unwrap_or(i64::MAX);
        SourceInfo {
            name: source.name.clone(),
            lag,
            active: if copied_ns == 0 { -1 } else { active },
            error: self
                .copy_trouble(stream, source)
                .map(|trouble| trouble.told_of(stream)),
            external: source.external.clone(),
            filter_subject: source.filter_subject.clone(),
            subject_transforms: source.subject_transforms.clone(),
        }
    }
}
