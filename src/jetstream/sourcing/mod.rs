//! Mirrors and sources: on the leader, reads what is new in the origins and proposes it as copies. It
//! decides nothing: apply takes a batch only if it continues where the copy stands.
//!
//! All streams are in one state, so nothing has to be in between. Where an origin keeps messages only for
//! its consumers, or a copy's configuration names a consumer, what to copy comes from that consumer
//! (`ways`) and is acknowledged once it is applied.

mod sinks;
mod turns;
mod ways;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::watch;
use unibus_proto::jetstream::source::StreamSource;
use unibus_raft::Leadership;
use unibus_state::command::{Command, CopiedMessage, CopyBatch};
use unibus_state::{CopyRules, Location, Outcome, State, StoredMessage, Stream};

use self::turns::Turns;
use self::ways::{CopyId, Way, Ways};
use super::core::{Core, Unread};
use super::text;

pub(super) use self::sinks::{Sink, Sinks};

/// Messages of one copy batch at most.
const BATCH_MESSAGES_MAX: usize = 512;
/// Bytes of one copy batch; the first message goes whatever its size.
const BATCH_BYTES_MAX: u64 = 512 * 1024;
/// Copies that are read and proposed at once.
const AT_ONCE_MAX: usize = 32;
/// Longest time between two looks at all copies.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(5);

/// One copy that has something to do.
struct Job {
    id: CopyId,
    batch: CopyBatch,
    source: StreamSource,
    places: Vec<Location>,
}

/// Copies until the task is aborted.
pub(super) async fn run(core: Arc<Core>) {
    let mut leadership = core.replica.leadership();
    loop {
        if leadership.wait_for(|known| known.is_leader).await.is_err() {
            return;
        }
        lead(&core, &mut leadership).await;
    }
}

/// Copies until this node leads no more.
async fn lead(core: &Core, leadership: &mut watch::Receiver<Leadership>) {
    let term = leadership.borrow_and_update().term;
    let (mut ways, mut turns) = (Ways::new(core), Turns::default());
    // Everything is looked at first of all, and once in a while.
    let mut all_at = Instant::now();
    // In another term somebody else may have led in between.
    let leads = |known: &Leadership| known.is_leader && known.term == term;
    while leads(&leadership.borrow_and_update()) {
        let all = Instant::now() >= all_at;
        if all {
            all_at = Instant::now() + LOOK_INTERVAL_MAX;
        }
        ways.prepare(core.hooks.take_shape() || all).await;
        ways.settle(all);
        let (jobs, looked_upto) = core
            .replica
            .with_state(|state| find_jobs(state, &ways, &turns));
        turns.end(looked_upto);
        if jobs.is_empty() {
            let until = turns.next_retry().map_or(all_at, |at| at.min(all_at));
            let news = core.hooks.wake_copies.notified();
            drop(tokio::time::timeout_at(until.into(), news).await);
            continue;
        }
        let copied = jobs.into_iter().map(|job| copy(core, job));
        for (id, outcome) in join_all(copied).await {
            if let Err(why) = outcome {
                if let Some(why) = why {
                    ways.tell(&id, &why);
                }
                turns.rest(id);
            }
        }
    }
}

/// What is to be copied, and the last copy looked at if there may be more to do.
fn find_jobs(state: &State, ways: &Ways<'_>, turns: &Turns) -> (Vec<Job>, Option<CopyId>) {
    let copying = state
        .streams()
        .filter(|stream| stream.origins().next().is_some());
    let copies = copying.flat_map(|stream| stream.origins().map(move |source| (stream, source)));
    let mut jobs = Vec::new();
    let copies = turns.order(copies.collect(), |(stream, source)| id_of(stream, source));
    for (stream, source) in copies {
        jobs.extend(find_job(state, ways, stream, source));
        if jobs.len() == AT_ONCE_MAX {
            return (jobs, Some(id_of(stream, source)));
        }
    }
    (jobs, None)
}

/// What a batch takes, bounded.
#[derive(Default)]
struct Load {
    places: Vec<Location>,
    bytes: u64,
    /// The last message looked at; 0 = none.
    upto: u64,
}

impl Load {
    fn has_room(&self) -> bool {
        self.places.len() < BATCH_MESSAGES_MAX
            && (self.places.is_empty() || self.bytes < BATCH_BYTES_MAX)
    }

    fn add(&mut self, seq: u64, place: Location) {
        self.bytes += u64::from(place.len);
        self.upto = seq;
        self.places.push(place);
    }
}

fn find_job(state: &State, ways: &Ways<'_>, stream: &Stream, source: &StreamSource) -> Option<Job> {
    let origin = state.stream(&source.name)?;
    let from = stream.copy_from(source, origin);
    let (mut load, mut whole) = (Load::default(), false);
    match ways.of(stream, source, origin) {
        Way::Wait => return None,
        Way::Through(sink) => {
            whole = true;
            sink.each_after(from.after, |seq, place| {
                let has_room = load.has_room();
                if has_room {
                    load.upto = seq;
                    // Else it was removed since it was delivered.
                    if origin.get(seq) == Some(place) {
                        load.add(seq, place);
                    }
                }
                has_room
            });
        }
        Way::Read => {
            let rules = CopyRules::new(source);
            let mut next = from.after.saturating_add(1);
            while load.has_room()
                && let Some((seq, place)) = origin.next_for(&rules.filters, next)
            {
                load.add(seq, place);
                next = seq.saturating_add(1);
            }
        }
    }
    if load.upto <= from.after {
        return None;
    }
    let batch = CopyBatch {
        stream: stream.name().to_string(),
        created_ns: stream.created_ns(),
        origin: source.identity(),
        origin_uid: from.origin_uid.0,
        after: from.after,
        upto: load.upto,
        whole,
        messages: Vec::new(),
    };
    Some(Job {
        id: id_of(stream, source),
        batch,
        source: source.clone(),
        places: load.places,
    })
}

/// Why a batch was not taken; `Some` is worth telling.
type NotTaken = Option<String>;

async fn copy(core: &Core, job: Job) -> (CopyId, Result<(), NotTaken>) {
    let id = job.id.clone();
    let outcome = propose(core, job).await;
    (id, outcome)
}

async fn propose(core: &Core, mut job: Job) -> Result<(), NotTaken> {
    let rules = CopyRules::new(&job.source);
    let mirror = core.replica.with_state(|state| {
        let stream = state.stream(&job.batch.stream);
        stream.is_some_and(|stream| stream.config().mirror.is_some())
    });
    for place in &job.places {
        let message = match core.read_message(place) {
            Ok(message) => message,
            // Removed since it was found: not copied, like any message removed before its copy.
            Err(Unread::Gone) => continue,
            // Not lost: the batch is made again later.
            Err(Unread::Damaged) => return Err(None),
        };
        let renamed = rules.rename(&message.subject);
        let copied = if mirror {
            as_mirrored(message, renamed)
        } else {
            as_sourced(message, renamed, &job.source)
        };
        job.batch.messages.push(copied);
    }
    let whole = job.batch.whole;
    let call = core.ingest.call(&Command::Copy(job.batch));
    let why = match call.await {
        Ok(Ok(answered)) => match answered.outcome {
            Outcome::Refused(refusal) => refusal.error.to_string(),
            _ => return Ok(()),
        },
        Ok(Err(error)) => error.to_string(),
        Err(_) => return Err(None),
    };
    tracing::debug!(stream = %job.id.0, origin = %job.id.1, %why, "a copy was not applied");
    // Its origin waits for it, and somebody has to make room.
    Err(whole.then_some(why))
}

fn id_of(stream: &Stream, source: &StreamSource) -> CopyId {
    (Arc::clone(stream.name()), source.identity())
}

fn as_mirrored(message: StoredMessage, renamed: Option<Vec<u8>>) -> CopiedMessage {
    let headers = text::without_expectations(&message.headers);
    let headers = headers.as_deref().unwrap_or(&message.headers);
    copied(&message, renamed, headers)
}

fn as_sourced(
    message: StoredMessage,
    renamed: Option<Vec<u8>>,
    source: &StreamSource,
) -> CopiedMessage {
    let stripped = text::without_expectations(&message.headers);
    let stored = stripped.as_deref().unwrap_or(&message.headers);
    let (filters, destinations) = source.described();
    let mut headers = Vec::with_capacity(stored.len() + 96);
    let origin = text::Origin {
        stream: &source.name,
        seq: message.seq,
        filters: &filters,
        destinations: &destinations,
        subject: &message.subject,
    };
    text::source_headers(&mut headers, stored, &origin);
    copied(&message, renamed, &headers)
}

fn copied(message: &StoredMessage, renamed: Option<Vec<u8>>, headers: &[u8]) -> CopiedMessage {
    let mut data = Vec::with_capacity(headers.len() + message.payload.len());
    data.extend_from_slice(headers);
    data.extend_from_slice(&message.payload);
    CopiedMessage {
        seq: message.seq,
        ts_ns: message.ts_ns,
        subject: renamed.map_or_else(|| message.subject.clone(), Bytes::from),
        header_len: u32::try_from(headers.len()).unwrap_or(u32::MAX),
        data: data.into(),
    }
}
