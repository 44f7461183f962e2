//! Scheduled messages (ADR-51): which live messages are schedules, when they are due, and what a run
//! does. Apply knows no message bodies, so the leader reads a schedule that is due and proposes its run;
//! a run names the schedule and the time it was due, so one that comes twice or late changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::jetstream::schedule::{NEXT_PURGE, Schedule, Zone};
use unibus_proto::subject;

use crate::command::{AppendRef, ScheduleRun};
use crate::header_scan::{PublishHeaders, Rollup, ScheduleHeaders, parse_rollup, parse_ttl};
use crate::location::Location;
use crate::outcome::Outcome;
use crate::publish::Publisher;
use crate::rules::Rules;
use crate::state::{State, Step};
use crate::stream::{Context, Stream};

/// A run that is refused (a full stream) is tried again after this, nanoseconds.
const RETRY_NS: u64 = 5_000_000_000;

/// When a schedule runs next.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Unix nanoseconds.
    pub(crate) at_ns: u64,
    /// False: the time has to be worked out by a zone's clock, which only the leader does, for the rules
    /// of zones come with the program and not with the log.
    pub(crate) armed: bool,
}

/// The schedules of one stream, by sequence and by time.
#[derive(Debug, Default)]
pub(crate) struct Schedules {
    planned: BTreeMap<u64, Planned>,
    due: BTreeSet<(u64, u64)>,
}

impl Schedules {
    pub(crate) fn plan(&mut self, seq: u64, planned: Planned) {
        self.remove(seq);
        self.planned.insert(seq, planned);
        self.due.insert((planned.at_ns, seq));
    }

    pub(crate) fn remove(&mut self, seq: u64) {
        if let Some(planned) = self.planned.remove(&seq) {
            self.due.remove(&(planned.at_ns, seq));
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn range(&self, seqs: Range<u64>) -> impl Iterator<Item = (u64, Planned)> {
        self.planned
            .range(seqs)
            .map(|(seq, planned)| (*seq, *planned))
    }
}

/// What a message asks for by its schedule headers.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum ScheduleWish<'a> {
    /// Nothing.
    None,
    /// It is a schedule.
    Plan(Planned),
    /// The schedule on this subject is to go.
    Cancel(&'a [u8]),
}

/// A schedule that is due, for the leader to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueSchedule {
    /// The stream.
    pub stream: Arc<str>,
    /// Its creation, Unix nanoseconds.
    pub created_ns: u64,
    /// The message that holds the schedule.
    pub seq: u64,
    /// When it was due, Unix nanoseconds.
    pub due_ns: u64,
    /// Whether it is to run; false: only its time is to be worked out.
    pub armed: bool,
    /// Where the message is.
    pub location: Location,
}

fn text(value: Option<&[u8]>) -> &str {
    value
        .and_then(|value| std::str::from_utf8(value).ok())
        .unwrap_or_default()
}

impl Stream {
    /// What a message of `subject` asks for, or why that is refused.
    pub(crate) fn schedule_of<'a>(
        &self,
        headers: &PublishHeaders<'a>,
        own: &[u8],
        publisher: Publisher,
        at: &Context<'_>,
    ) -> Result<ScheduleWish<'a>, ApiError> {
        let now_ns = at.now_ns;
        let Some(wish) = &headers.schedule else {
            return Ok(ScheduleWish::None);
        };
        if matches!(publisher, Publisher::Copy | Publisher::Schedule) {
            return Ok(ScheduleWish::None);
        }
        let Some(pattern) = wish.pattern.filter(|pattern| !pattern.is_empty()) else {
            return self.cancel_of(wish, own);
        };
        if !self.config.allow_msg_schedules {
            return Err(error::MESSAGE_SCHEDULES_DISABLED);
        }
        let schedule = std::str::from_utf8(pattern).ok().and_then(Schedule::parse);
        let schedule = schedule.ok_or(error::SCHEDULE_PATTERN_INVALID)?;
        self.check_schedule(wish, own, at.rules)?;
        let rollup = headers.rollup.filter(|value| !value.is_empty());
        if rollup.is_some_and(|value| parse_rollup(value) != Ok(Rollup::Subject)) {
            return Err(error::SCHEDULE_ROLLUP_INVALID);
        }
        let zone = text(wish.zone);
        if zone.is_empty() {
            let next = schedule.next(now_ns);
            let at_ns = next.ok_or(error::SCHEDULE_PATTERN_INVALID)?;
            return Ok(ScheduleWish::Plan(Planned { at_ns, armed: true }));
        }
        if !matches!(schedule, Schedule::Cron(_)) || Zone::named(zone).is_none() {
            return Err(error::SCHEDULE_TIME_ZONE_INVALID);
        }
        Ok(ScheduleWish::Plan(Planned {
            at_ns: now_ns,
            armed: false,
        }))
    }

    /// `Nats-Schedule-Next: purge` ends the schedule named by `Nats-Scheduler`.
    fn cancel_of<'a>(
        &self,
        wish: &ScheduleHeaders<'a>,
        own: &[u8],
    ) -> Result<ScheduleWish<'a>, ApiError> {
        let purge = wish.next == Some(NEXT_PURGE.as_bytes());
        if !purge || !self.config.allow_msg_schedules {
            return Ok(ScheduleWish::None);
        }
        match wish.scheduler {
            Some(scheduler) if subject::is_literal(scheduler) && scheduler != own => {
                Ok(ScheduleWish::Cancel(scheduler))
            }
            _ => Err(error::SCHEDULE_SCHEDULER_INVALID),
        }
    }

    fn check_schedule(
        &self,
        wish: &ScheduleHeaders<'_>,
        own: &[u8],
        rules: Rules,
    ) -> Result<(), ApiError> {
        if let Some(ttl) = wish.ttl.filter(|ttl| !ttl.is_empty()) {
            parse_ttl(ttl, rules).map_err(|_| error::SCHEDULE_TTL_INVALID)?;
            if !self.config.allow_msg_ttl {
                return Err(error::MESSAGE_TTL_DISABLED);
            }
        }
        let captured = |name: &[u8]| {
            let filters = self.config.subjects.iter();
            subject::is_literal(name)
                && filters
                    .map(String::as_bytes)
                    .any(|filter| subject::matches(filter, name))
        };
        let target = wish.target.unwrap_or_default();
        if !captured(target) || target == own {
            return Err(error::SCHEDULE_TARGET_INVALID);
        }
        let source = wish.source.filter(|source| !source.is_empty());
        if source.is_some_and(|source| !captured(source) || source == own || source == target) {
            return Err(error::SCHEDULE_SOURCE_INVALID);
        }
        let rollup = wish.rollup.filter(|value| !value.is_empty());
        if rollup.is_some_and(|value| parse_rollup(value).is_err()) {
            return Err(error::SCHEDULE_ROLLUP_INVALID);
        }
        Ok(())
    }

    /// Does what a message that was stored as `seq` asked for.
    pub(crate) fn grant_schedule(
        &mut self,
        wish: ScheduleWish<'_>,
        seq: u64,
        ctx: &mut Context<'_>,
    ) {
        match wish {
            ScheduleWish::Plan(planned) if self.blocks.is_live(seq) => {
                self.schedules.plan(seq, planned);
            }
            ScheduleWish::Cancel(scheduler) => {
                let id = self.subjects.find(scheduler);
                let last = id.and_then(|id| self.subjects.seqs(id).last());
                if let Some(last) = last.filter(|seq| self.schedules.planned.contains_key(seq)) {
                    self.remove(last, ctx);
                }
            }
            ScheduleWish::None | ScheduleWish::Plan(_) => {}
        }
    }

    /// When the first schedule is due.
    pub(crate) fn next_schedule_ns(&self) -> Option<u64> {
        let first = self.schedules.due.first().map(|(at_ns, _)| *at_ns);
        first.filter(|_| !self.config.sealed && self.restoring.is_none())
    }

    fn replan(&mut self, seq: u64, planned: Planned) {
        self.schedules.plan(seq, planned);
        self.blocks.mark_changed(seq);
    }

    fn run_schedule(
        &mut self,
        run: &ScheduleRun,
        room: Result<(), ApiError>,
        ctx: &mut Context<'_>,
    ) -> Result<Outcome, ApiError> {
        let planned = self.schedules.planned.get(&run.seq);
        if self.created_ns != run.created_ns
            || planned.is_none_or(|planned| planned.at_ns != run.due_ns)
        {
            // Run before, replaced or removed.
            return Ok(Outcome::Done);
        }
        let stored = room.and_then(|()| match &run.message {
            None => Ok(()),
            Some(message) => {
                let append = AppendRef {
                    subject: &message.subject,
                    header_len: message.header_len,
                    data: &message.data,
                    privileged: false,
                };
                self.publish(append, Publisher::Schedule, ctx).map(drop)
            }
        });
        let again = Planned {
            at_ns: if stored.is_ok() {
                run.next_ns
            } else {
                ctx.now_ns.saturating_add(RETRY_NS)
            },
            armed: true,
        };
        // What was produced may have rolled the schedule up with everything else.
        if self.blocks.is_live(run.seq) {
            if again.at_ns == 0 {
                self.remove(run.seq, ctx);
            } else {
                self.replan(run.seq, again);
            }
        }
        stored.map(|()| Outcome::Done)
    }
}

impl State {
    /// When the leader has a schedule to run, Unix nanoseconds.
    #[must_use]
    pub fn next_schedule_ns(&self) -> Option<u64> {
        self.due.first().map(|(at_ns, ..)| *at_ns)
    }

    /// Schedules that are due, at most `limit`.
    #[must_use]
    pub fn due_schedules(&self, now_ns: u64, limit: usize) -> Vec<DueSchedule> {
        let late = self.due.iter().take_while(|(at_ns, ..)| *at_ns <= now_ns);
        let streams = late.filter_map(|(_, _, slot)| self.at(*slot));
        let schedules = streams.flat_map(|stream| {
            let due = stream.schedules.due.range(..=(now_ns, u64::MAX));
            due.filter_map(|(due_ns, seq)| {
                Some(DueSchedule {
                    stream: stream.name.clone(),
                    created_ns: stream.created_ns,
                    seq: *seq,
                    due_ns: *due_ns,
                    armed: stream.schedules.planned.get(seq)?.armed,
                    location: stream.get(*seq)?,
                })
            })
        });
        schedules.take(limit).collect()
    }

    pub(crate) fn run_schedule(
        &mut self,
        run: &ScheduleRun,
        step: &mut Step<'_>,
    ) -> Result<Outcome, ApiError> {
        let slot = self.slot_of(&run.stream, true)?;
        let bytes = run.message.as_ref();
        let bytes = bytes.map_or(0, |message| message.subject.len() + message.data.len());
        let storage = self.at(slot).map(|stream| stream.config.storage);
        let room = self.check_room(storage.unwrap_or_default(), bytes as u64);
        self.change_stream(slot, step, |stream, ctx| {
            stream.run_schedule(run, room, ctx)
        })
    }
}
