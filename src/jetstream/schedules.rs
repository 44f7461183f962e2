//! Scheduled messages (ADR-51): on the leader, reads schedules that are due and proposes what they
//! produce. It decides nothing: apply runs a schedule only if it is still due at the time named.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use unibus_proto::headers::HeaderMap;
use unibus_proto::jetstream::schedule::{
    NEXT_PURGE, SCHEDULE, SCHEDULE_NEXT, SCHEDULE_ROLLUP, SCHEDULE_SOURCE, SCHEDULE_TARGET,
    SCHEDULE_TIME_ZONE, SCHEDULE_TTL, SCHEDULER, Schedule, Zone,
};
use unibus_proto::jetstream::timestamp::Timestamp;
use unibus_state::command::{Append, ScheduleRun};
use unibus_state::{Command, DueSchedule, Outcome, StoredMessage};

use super::core::{Core, Unread};
use super::text;

/// Schedules that are run at once.
const AT_ONCE_MAX: usize = 64;
/// Between two looks at the state, so that a busy node does not look after every entry.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// Longest sleep; an upper bound for clocks that were set back.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// Pause after a run that could not be read or proposed.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// What of a schedule's headers its messages do not have.
const LEFT_OUT: [&[u8]; 7] = [
    b"Nats-Schedule:",
    b"Nats-Schedule-",
    b"Nats-Scheduler:",
    b"Nats-Expected-",
    b"Nats-Msg-Id:",
    b"Nats-TTL:",
    b"Nats-Rollup:",
];

/// Runs until the task is aborted.
pub(super) async fn run(core: Arc<Core>) {
    let mut leadership = core.replica.leadership();
    loop {
        if leadership.wait_for(|known| known.is_leader).await.is_err() {
            return;
        }
        let now_ns = Core::now().0;
        let (due, next) = core.replica.with_state(|state| {
            let due = state.due_schedules(now_ns, AT_ONCE_MAX);
            (due, state.next_schedule_ns())
        });
        if !due.is_empty() {
            let ran = join_all(due.iter().map(|due| run_one(&core, due, now_ns))).await;
            if ran.contains(&false) {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            continue;
        }
        let sleep = next.map_or(SLEEP_MAX, |next| {
            let wait = Duration::from_nanos(next.saturating_sub(now_ns));
            wait.clamp(LOOK_INTERVAL_MIN, SLEEP_MAX)
        });
        // A schedule that came in between may be due before.
        let news = core.hooks.wake_schedules.notified();
        if tokio::time::timeout(sleep, news).await.is_ok() {
            tokio::time::sleep(LOOK_INTERVAL_MIN).await;
        }
    }
}

/// Whether the run was taken, or refused for a reason that apply remembers.
async fn run_one(core: &Core, due: &DueSchedule, now_ns: u64) -> bool {
    let Ok(message) = core.read_message(&due.location) else {
        return false;
    };
    let Ok(run) = plan(core, due, &message, now_ns) else {
        return false;
    };
    let call = core.ingest.call(&Command::ScheduleRun(run));
    match call.await {
        Ok(Ok(answered)) => {
            if let Outcome::Refused(refusal) = answered.outcome {
                let (stream, seq) = (&due.stream, due.seq);
                tracing::warn!(%stream, seq, error = %refusal.error, "a schedule was not run");
            }
            true
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "a schedule's run was not applied");
            false
        }
        Err(_) => false,
    }
}

/// What is to be proposed. A schedule that does not read any more ends; one whose source is damaged
/// here waits until the source was fetched from another node.
fn plan(
    core: &Core,
    due: &DueSchedule,
    message: &StoredMessage,
    now_ns: u64,
) -> Result<ScheduleRun, Unread> {
    let mut run = ScheduleRun {
        stream: due.stream.to_string(),
        created_ns: due.created_ns,
        seq: due.seq,
        due_ns: due.due_ns,
        next_ns: 0,
        message: None,
    };
    let Ok(headers) = HeaderMap::parse(&message.headers) else {
        return Ok(run);
    };
    let Some(schedule) = headers.get(SCHEDULE).and_then(Schedule::parse) else {
        return Ok(run);
    };
    let zone = headers.get(SCHEDULE_TIME_ZONE).and_then(Zone::named);
    let after = |ns| match &zone {
        Some(zone) => schedule.next_in(zone, ns),
        None => schedule.next(ns),
    };
    if !due.armed {
        run.next_ns = after(now_ns).unwrap_or(0);
        return Ok(run);
    }
    if schedule.repeats() {
        // Runs that were missed are not made up for, except for one.
        let next = after(due.due_ns).filter(|next| *next > now_ns);
        run.next_ns = next.or_else(|| after(now_ns)).unwrap_or(0);
    }
    let source = headers.get(SCHEDULE_SOURCE).filter(|s| !s.is_empty());
    let source = source.and_then(|source| last_of(core, &due.stream, source).transpose());
    let source = source.transpose()?;
    let body = source.as_ref().unwrap_or(message);
    run.message = produce(&headers, message, body, run.next_ns);
    Ok(run)
}

/// The last message of a subject.
fn last_of(core: &Core, stream: &str, subject: &str) -> Result<Option<StoredMessage>, Unread> {
    let place = core.replica.with_state(|state| {
        let (_, place) = state.stream(stream)?.last_for(subject.as_bytes())?;
        Some(place)
    });
    match place.map(|place| core.read_message(&place)).transpose() {
        Err(Unread::Gone) => Ok(None),
        read => read,
    }
}

/// The message of one run: `body`'s, with the schedule's wishes.
fn produce(
    wishes: &HeaderMap<'_>,
    schedule: &StoredMessage,
    body: &StoredMessage,
    next_ns: u64,
) -> Option<Append> {
    let target = wishes.get(SCHEDULE_TARGET)?;
    let stripped = text::without_lines(&body.headers, &LEFT_OUT);
    let stored = stripped.as_deref().unwrap_or(&body.headers);
    let scheduler = String::from_utf8_lossy(&schedule.subject);
    let next = match next_ns {
        0 => NEXT_PURGE.to_owned(),
        next_ns => Timestamp(next_ns / 1_000_000_000 * 1_000_000_000).to_string(),
    };
    let mut fields = vec![(SCHEDULER, &*scheduler), (SCHEDULE_NEXT, &*next)];
    for (wish, field) in [(SCHEDULE_TTL, "Nats-TTL"), (SCHEDULE_ROLLUP, "Nats-Rollup")] {
        if let Some(value) = wishes.get(wish).filter(|value| !value.is_empty()) {
            fields.push((field, value));
        }
    }
    let mut data = Vec::with_capacity(stored.len() + body.payload.len() + 128);
    let header_len = text::set_headers(&mut data, stored, &fields);
    data.extend_from_slice(&body.payload);
    Some(Append {
        subject: Bytes::copy_from_slice(target.as_bytes()),
        header_len: u32::try_from(header_len).unwrap_or(u32::MAX),
        data: data.into(),
        privileged: false,
    })
}
