//! Atomic batches on their way (ADR-50): the node that a publisher is connected to stages its batch
//! and proposes it as one command when it is committed. What is staged is in memory only: a batch
//! whose node or publisher goes away was never there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use unibus_broker::{Broker, Inbound};
use unibus_proto::headers::HeaderMap;
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::jetstream::info::write_pub_refusal;
use unibus_state::Append;
use unibus_state::atomic::BATCH_MESSAGES_MAX;
use unibus_state::command::{AtomicBatch, Command};

use super::ingest::{Ingest, answer_to};
use crate::config::batches::BatchLimits;

/// The header that makes a message part of a batch.
const ID: &str = "Nats-Batch-Id";
/// Bytes of a batch's id.
const ID_BYTES_MAX: usize = 64;
/// Bytes of one batch: it has to fit one log entry.
const BATCH_BYTES_MAX: usize = 32 << 20;
/// Between two looks for batches that nothing is heard of, at least.
const TIDY_PAUSE_MIN: Duration = Duration::from_millis(100);

/// One batch that is not committed yet.
#[derive(Debug)]
struct Staged {
    messages: Vec<Append>,
    bytes: usize,
    touched: Instant,
    /// It holds nothing any more and waits for its end to be refused.
    too_large: bool,
}

/// (stream, batch id) → what came of it.
type Batches = HashMap<(Arc<str>, String), Staged>;

/// The batches of this node's publishers.
#[derive(Debug)]
pub(super) struct Stage {
    batches: Mutex<Batches>,
    limits: BatchLimits,
}

/// What becomes of a message of a batch.
#[derive(Debug)]
enum Step {
    Staged,
    Commit(AtomicBatch),
    Refused(ApiError),
}

/// What a message's headers say of its batch.
#[derive(Debug)]
struct Part {
    id: String,
    seq: u64,
    commit: Commit,
}

#[derive(Debug, PartialEq, Eq)]
enum Commit {
    No,
    WithThis,
    WithoutThis,
}

/// Whether a message may be part of a batch at all: most are told apart by one search.
pub(super) fn is_part(m: &Inbound<'_>) -> bool {
    m.header_len > 0 && memchr::memmem::find(&m.data[..m.header_len], ID.as_bytes()).is_some()
}

fn part(headers: &[u8]) -> Option<Result<Part, ApiError>> {
    let map = HeaderMap::parse(headers).ok()?;
    let id = map.get(ID).filter(|id| !id.is_empty())?;
    if id.len() > ID_BYTES_MAX {
        return Some(Err(error::ATOMIC_PUBLISH_INVALID_ID));
    }
    let seq = map
        .get("Nats-Batch-Sequence")
        .and_then(|seq| seq.parse().ok());
    let Some(seq) = seq else {
        return Some(Err(error::ATOMIC_PUBLISH_MISSING_SEQ));
    };
    let commit = match map.get("Nats-Batch-Commit").unwrap_or_default() {
        "" => Commit::No,
        "1" => Commit::WithThis,
        "eob" => Commit::WithoutThis,
        _ => return Some(Err(error::ATOMIC_PUBLISH_INVALID_COMMIT)),
    };
    let id = id.to_owned();
    Some(Ok(Part { id, seq, commit }))
}

impl Stage {
    pub(super) fn new(limits: BatchLimits) -> Self {
        Self {
            batches: Mutex::default(),
            limits,
        }
    }

    /// Takes a message of a batch for `stream`. False: it is an ordinary message after all.
    pub(super) fn take(
        &self,
        stream: &Arc<str>,
        m: &Inbound<'_>,
        ingest: &Ingest,
        broker: &Broker,
    ) -> bool {
        let Some(part) = part(&m.data[..m.header_len]) else {
            return false;
        };
        let step = match part {
            Ok(part) => self.step(stream, &part, m),
            Err(error) => Step::Refused(error),
        };
        let reply = m.reply.unwrap_or_default();
        match step {
            Step::Commit(batch) => ingest.submit(&Command::Atomic(batch), reply),
            Step::Staged if reply.is_empty() => {}
            Step::Staged => {
                broker.publish(answer_to(reply, 0, b""));
            }
            Step::Refused(_) if reply.is_empty() => {}
            Step::Refused(error) => {
                let mut text = Vec::new();
                write_pub_refusal(&mut text, stream, &error);
                broker.publish(answer_to(reply, 0, &text));
            }
        }
        true
    }

    /// Gives up batches that nothing is heard of, until the task is aborted.
    pub(super) async fn tidy(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.limits.idle_max.max(TIDY_PAUSE_MIN)).await;
            self.give_up_idle(Instant::now());
        }
    }

    fn give_up_idle(&self, now: Instant) {
        let mut batches = self.batches.lock();
        batches.retain(|_, staged| now.duration_since(staged.touched) < self.limits.idle_max);
    }

    fn step(&self, stream: &Arc<str>, part: &Part, m: &Inbound<'_>) -> Step {
        let now = Instant::now();
        self.give_up_idle(now);
        let mut batches = self.batches.lock();
        let key = (Arc::clone(stream), part.id.clone());
        if part.seq == 1 && part.commit != Commit::WithoutThis {
            let held = batches
                .keys()
                .filter(|(of, id)| of == stream && *id != part.id);
            if held.count() >= self.limits.atomic_per_stream_max {
                return Step::Refused(error::ATOMIC_PUBLISH_TOO_MANY_INFLIGHT);
            }
            batches.insert(key.clone(), Staged::new(now));
        }
        let total: usize = batches.values().map(|staged| staged.bytes).sum();
        let room = self.limits.atomic_staged_bytes_max.saturating_sub(total);
        let Some(staged) = batches.get_mut(&key) else {
            return Step::Refused(error::ATOMIC_PUBLISH_INCOMPLETE);
        };
        staged.touched = now;
        if staged.too_large {
            if part.commit != Commit::No {
                batches.remove(&key);
            }
            return Step::Refused(too_large());
        }
        if part.seq != staged.messages.len() as u64 + 1 {
            batches.remove(&key);
            return Step::Refused(error::ATOMIC_PUBLISH_INCOMPLETE);
        }
        if part.commit != Commit::WithoutThis && !staged.push(m, room) {
            staged.give_up();
            return Step::Refused(too_large());
        }
        if part.commit == Commit::No {
            return Step::Staged;
        }
        let Some(mut staged) = batches.remove(&key) else {
            return Step::Refused(error::ATOMIC_PUBLISH_INCOMPLETE);
        };
        if part.commit == Commit::WithoutThis {
            staged.mark_last();
        }
        Step::Commit(AtomicBatch {
            id: part.id.clone(),
            messages: staged.messages,
        })
    }
}

fn too_large() -> ApiError {
    let text = format!("atomic publish batch is too large: {BATCH_MESSAGES_MAX}");
    ApiError::with(400, 10199, text)
}

impl Staged {
    fn new(now: Instant) -> Self {
        Self {
            messages: Vec::new(),
            bytes: 0,
            touched: now,
            too_large: false,
        }
    }

    /// False: there is no room, of so many bytes beside the batch's own bounds.
    fn push(&mut self, m: &Inbound<'_>, room: usize) -> bool {
        let bytes = m.subject.len() + m.data.len();
        if self.messages.len() >= BATCH_MESSAGES_MAX
            || self.bytes + bytes > BATCH_BYTES_MAX
            || bytes > room
        {
            return false;
        }
        self.bytes += bytes;
        self.messages.push(Append {
            subject: Bytes::copy_from_slice(m.subject),
            header_len: u32::try_from(m.header_len).unwrap_or(u32::MAX),
            data: Bytes::copy_from_slice(m.data),
            privileged: m.origin.internal,
        });
        true
    }

    fn give_up(&mut self) {
        self.messages = Vec::new();
        self.bytes = 0;
        self.too_large = true;
    }

    /// The commit came without a message of its own: the last one tells where the batch ends.
    fn mark_last(&mut self) {
        let Some(last) = self.messages.last_mut() else {
            return;
        };
        let (headers, payload) = last.data.split_at(last.header_len as usize);
        let mut data = Vec::with_capacity(last.data.len() + 32);
        data.extend_from_slice(headers.strip_suffix(b"\r\n").unwrap_or(headers));
        data.extend_from_slice(b"Nats-Batch-Commit: 1\r\n\r\n");
        last.header_len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        data.extend_from_slice(payload);
        last.data = data.into();
    }
}

#[cfg(test)]
mod tests {
    use unibus_broker::Origin;

    use super::*;

    #[tokio::test]
    async fn a_batch_that_nothing_is_heard_of_is_given_up() {
        let stage = Arc::new(Stage::new(BatchLimits {
            idle_max: Duration::from_millis(1),
            ..BatchLimits::default()
        }));
        let part = Part {
            id: "b".to_owned(),
            seq: 1,
            commit: Commit::No,
        };
        let message = Inbound {
            subject: b"s",
            reply: None,
            header_len: 0,
            data: b"staged",
            origin: &Origin::default(),
        };
        let step = stage.step(&"S".into(), &part, &message);
        assert!(matches!(step, Step::Staged));
        assert_eq!(stage.batches.lock().len(), 1);
        let tidy = tokio::spawn(Arc::clone(&stage).tidy());
        let freed = async {
            while !stage.batches.lock().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        let freed = tokio::time::timeout(Duration::from_secs(20), freed).await;
        tidy.abort();
        assert!(freed.is_ok(), "it is still staged");
    }
}
