//! The records as the control plane reads and changes them: typed values with revisions, changes
//! under expectations, deadlines. The only part that knows how a bucket is stored; what goes wrong
//! in the store is logged here and never told to a caller (control-plane.md, Records).

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use unibus_proto::NodeId;
use unibus_raft::{Replica, StorageError};
use unibus_state::command::StreamPut;
use unibus_state::record::RECORD_HEAD_BYTES;
use unibus_state::{
    Command, CommandBatch, ControlChange, ControlCheck, ControlRecord, EncodedBatch, Location,
    MessageView, Outcome, Refusal, Stream,
};

use super::buckets::Bucket;
use super::follow::value_of;

/// Records that one listing reads at most.
pub(crate) const LIST_MAX: usize = 16 * 1024;
/// Keys that one listing looks at; those whose records were removed are looked at too.
const KEYS_MAX: usize = 16 * LIST_MAX;
/// Attempts at a record that was overwritten between its lookup and its reading.
const READ_ATTEMPTS: usize = 4;
/// Header block of a tombstone.
const TOMBSTONE: &[u8] = b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n";

/// Why the store gave no answer. Says nothing about the store itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
pub(crate) enum StoreError {
    /// No quorum, or no answer in time; nothing was changed.
    #[error("the cluster can't answer now")]
    Unavailable,
    /// No answer in time; what was asked for may have happened.
    #[error("the outcome is not known")]
    Unknown,
    /// A record can't be read.
    #[error("a record can't be read")]
    Damaged,
    /// More records than one answer holds.
    #[error("there are more records than one answer holds")]
    TooMany,
}

/// A record as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Entry<T> {
    /// What to expect when it is changed; 0 = there has never been one.
    pub(crate) revision: u64,
    /// `None` = there is none (any more).
    pub(crate) value: Option<T>,
}

/// What became of a change.
#[derive(Clone, Debug)]
pub(crate) enum Committed {
    /// It is in force on this node; `index` is its entry.
    Done { index: u64 },
    /// This expectation did not hold.
    Conflict { check: usize },
    /// A stream could not be made.
    Refused(Refusal),
}

/// Expectations and writes that are one step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft(ControlChange);

impl Draft {
    /// Expects the revision that was read. Answers with the expectation's place.
    pub(crate) fn expect(&mut self, bucket: Bucket, key: &str, revision: u64) -> usize {
        self.0.checks.push(ControlCheck {
            stream: bucket.stream().to_owned(),
            filter: bucket.subject(key).into(),
            last_seq: revision,
        });
        self.0.checks.len() - 1
    }

    /// Expects that nothing in the stream has changed since its last sequence was read.
    pub(crate) fn expect_stream(&mut self, stream: &str, last_seq: u64) {
        self.0.checks.push(ControlCheck {
            stream: stream.to_owned(),
            filter: Bytes::new(),
            last_seq,
        });
    }

    /// Expects the last sequence of a literal subject outside the key-value buckets.
    pub(crate) fn expect_subject(&mut self, stream: &str, subject: &str, last_seq: u64) {
        self.0.checks.push(ControlCheck {
            stream: stream.to_owned(),
            filter: Bytes::copy_from_slice(subject.as_bytes()),
            last_seq,
        });
    }

    /// Writes a record as JSON.
    pub(crate) fn put<T: Serialize>(&mut self, bucket: Bucket, key: &str, value: &T) {
        // Structs of strings, numbers and enums always serialise.
        let json = serde_json::to_vec(value).unwrap_or_default();
        self.put_bytes(bucket, key, json.into());
    }

    /// Writes a record as it is.
    pub(crate) fn put_bytes(&mut self, bucket: Bucket, key: &str, data: Bytes) {
        self.append(bucket.subject(key), 0, data);
    }

    /// Leaves a tombstone.
    pub(crate) fn delete(&mut self, bucket: Bucket, key: &str) {
        let data = Bytes::from_static(TOMBSTONE);
        self.append(bucket.subject(key), TOMBSTONE.len(), data);
    }

    /// Writes a message with headers to any control stream.
    pub(crate) fn append(&mut self, subject: String, header_len: usize, data: Bytes) {
        self.0.records.push(ControlRecord {
            subject: subject.into(),
            header_len: u32::try_from(header_len).unwrap_or(u32::MAX),
            data,
        });
    }

    /// Creates a stream with the records.
    pub(crate) fn create_stream(&mut self, put: StreamPut) {
        self.0.create = Some(put);
    }
}

/// The records of this node's replica. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    replica: Replica,
    /// How long a read or a write may take before it is denied (`OpTimeout`).
    timeout: Duration,
}

impl Records {
    pub(crate) fn new(replica: Replica, timeout: Duration) -> Self {
        Self { replica, timeout }
    }

    /// How long a read or a write may take before it is denied.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Resolves when this node holds everything acknowledged before the call.
    pub(crate) async fn barrier(&self) -> Result<(), StoreError> {
        match tokio::time::timeout(self.timeout, self.replica.read_barrier()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a control read has no barrier");
                Err(StoreError::Unavailable)
            }
            Err(_) => Err(StoreError::Unavailable),
        }
    }

    /// One record as this node holds it.
    pub(crate) fn get<T: DeserializeOwned>(
        &self,
        bucket: Bucket,
        key: &str,
    ) -> Result<Entry<T>, StoreError> {
        let found = self.get_bytes(bucket.stream(), &bucket.subject(key))?;
        let value = match found.value {
            None => None,
            Some(bytes) => Some(decoded(bucket, key, &bytes)?),
        };
        Ok(Entry {
            revision: found.revision,
            value,
        })
    }

    /// The last message of a subject, without its headers.
    pub(crate) fn get_bytes(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Entry<Bytes>, StoreError> {
        for _ in 0..READ_ATTEMPTS {
            let found = self.replica.with_state(|state| {
                let stream = state.stream(stream).ok_or(StoreError::Unavailable)?;
                Ok(stream.last_for(subject.as_bytes()))
            })?;
            let Some((revision, at)) = found else {
                return Ok(Entry {
                    revision: 0,
                    value: None,
                });
            };
            // What is missing was overwritten since: the next look finds its successor.
            let record = match self.replica.read_record(&at) {
                Ok(record) => record,
                Err(StorageError::Missing { .. }) => continue,
                Err(error) => {
                    tracing::error!(%subject, %error, "a control record can't be read");
                    return Err(StoreError::Damaged);
                }
            };
            let value = value_of(record).map_err(|error| {
                tracing::error!(%subject, %error, "a control record is damaged");
                StoreError::Damaged
            })?;
            return Ok(Entry { revision, value });
        }
        tracing::error!(%subject, "a control record can't be read");
        Err(StoreError::Damaged)
    }

    /// The records whose keys match `pattern`, in the order of their keys, and the bucket's last
    /// sequence at that moment.
    pub(crate) fn list<T: DeserializeOwned>(
        &self,
        bucket: Bucket,
        pattern: &str,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let filter = bucket.subject(pattern);
        for _ in 0..READ_ATTEMPTS {
            if let Some(listed) = self.try_list(bucket, &filter)? {
                return Ok(listed);
            }
        }
        tracing::error!(bucket = bucket.stream(), "a listing keeps changing");
        Err(StoreError::Unavailable)
    }

    /// `None`: a record was overwritten meanwhile.
    fn try_list<T: DeserializeOwned>(
        &self,
        bucket: Bucket,
        filter: &str,
    ) -> Result<Option<Vec<(String, T)>>, StoreError> {
        let places = self.replica.with_state(|state| {
            let stream = state
                .stream(bucket.stream())
                .ok_or(StoreError::Unavailable)?;
            places(stream, filter)
        })?;
        let mut listed = Vec::with_capacity(places.len());
        for (key, at) in places {
            let record = match self.replica.read_record(&at) {
                Ok(record) => record,
                Err(StorageError::Missing { .. }) => return Ok(None),
                Err(error) => {
                    tracing::error!(%key, %error, "a control record can't be read");
                    return Err(StoreError::Damaged);
                }
            };
            let key = key.strip_prefix(bucket.prefix()).unwrap_or(&key).to_owned();
            let value = value_of(record).map_err(|_| StoreError::Damaged)?;
            if let Some(bytes) = value {
                let value = decoded(bucket, &key, &bytes)?;
                listed.push((key, value));
            }
        }
        listed.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Some(listed))
    }

    /// The last sequence of what matches a pattern of keys; 0 = nothing does.
    pub(crate) fn revision_of(&self, bucket: Bucket, pattern: &str) -> Result<u64, StoreError> {
        let filter = bucket.subject(pattern);
        self.replica.with_state(|state| {
            let stream = state
                .stream(bucket.stream())
                .ok_or(StoreError::Unavailable)?;
            Ok(stream.last_seq_for(filter.as_bytes()).unwrap_or(0))
        })
    }

    /// Whether some stream captures a subject.
    pub(crate) fn is_captured(&self, subject: &str) -> bool {
        self.replica
            .with_state(|state| state.stream_for_subject(subject.as_bytes()).is_some())
    }

    /// Proposes a change and waits until it is in force here.
    pub(crate) async fn commit(&self, draft: Draft) -> Result<Committed, StoreError> {
        let command = Command::Control(draft.0);
        let batch = EncodedBatch::of(&command).map_err(|error| {
            tracing::error!(%error, "a control change can't be encoded");
            StoreError::TooMany
        })?;
        let (index, outcome) = self.propose(batch).await?;
        match outcome {
            Some(Outcome::Done) => Ok(Committed::Done { index }),
            Some(Outcome::CheckFailed { check }) => Ok(Committed::Conflict {
                check: check as usize,
            }),
            Some(Outcome::Refused(refusal)) => Ok(Committed::Refused(refusal)),
            other => {
                tracing::error!(outcome = ?other, "a control change has a strange outcome");
                Err(StoreError::Unknown)
            }
        }
    }

    /// Proposes commands that need no expectations, such as a blob's chunks.
    pub(crate) async fn run(&self, batch: CommandBatch) -> Result<Outcome, StoreError> {
        let (_, outcome) = self.propose(batch.freeze()).await?;
        outcome.ok_or(StoreError::Unknown)
    }

    /// The index of the entry, and the first outcome that is not plain success, or the last.
    async fn propose(&self, batch: EncodedBatch) -> Result<(u64, Option<Outcome>), StoreError> {
        let deadline = Instant::now() + self.timeout;
        let proposed = tokio::time::timeout_at(deadline.into(), self.replica.propose(batch)).await;
        let proposed = proposed
            .map_err(|_| StoreError::Unknown)?
            .map_err(|error| {
                tracing::warn!(%error, "a control change was not made");
                match error {
                    unibus_raft::ProposeError::TimedOut {
                        maybe_applied: true,
                    }
                    | unibus_raft::ProposeError::Stopped => StoreError::Unknown,
                    _ => StoreError::Unavailable,
                }
            })?;
        let index = proposed.index;
        self.replica
            .wait_applied(index, deadline)
            .await
            .map_err(|_| StoreError::Unknown)?;
        let mut outcomes = proposed.outcomes;
        let failed = outcomes
            .iter()
            .position(|outcome| matches!(outcome, Outcome::Refused(_) | Outcome::NoStream));
        let outcome = match failed {
            Some(at) => Some(outcomes.swap_remove(at)),
            None => outcomes.pop(),
        };
        Ok((index, outcome))
    }

    /// Waits until every reachable node acts by entry `index`; answers with the names of those that
    /// do and of those members that did not say so within `within`.
    pub(crate) async fn settle(
        &self,
        index: u64,
        within: Duration,
        reachable: &[NodeId],
    ) -> (Vec<String>, Vec<String>) {
        let late = self.replica.applied_everywhere(index, within).await;
        let status = self.replica.status();
        let members = status.voters.into_iter().chain(status.learners);
        let (mut applied, mut pending) = (Vec::new(), Vec::new());
        for (id, name) in members {
            let asked = id.0 == status.node_id || reachable.contains(&id);
            if asked && !late.contains(&id) {
                applied.push(name);
            } else {
                pending.push(name);
            }
        }
        (applied, pending)
    }

    /// The replica, for what reads records of its own.
    pub(crate) fn replica(&self) -> &Replica {
        &self.replica
    }
}

/// Where the records of matching keys are. Tombstones don't count: a room has those of all who ever left.
fn places(stream: &Stream, filter: &str) -> Result<Vec<(String, Location)>, StoreError> {
    let seqs = stream.last_seqs_up_to(&[filter], stream.last_seq(), KEYS_MAX);
    if seqs.len() > KEYS_MAX {
        return Err(StoreError::TooMany);
    }
    let messages = seqs.into_iter().filter_map(|seq| stream.message(seq));
    let records = messages.filter(|message| !is_tombstone(message));
    let places: Vec<_> = records
        .map(|message| {
            let subject = String::from_utf8_lossy(message.subject).into_owned();
            (subject, message.location)
        })
        .take(LIST_MAX + 1)
        .collect();
    if places.len() > LIST_MAX {
        return Err(StoreError::TooMany);
    }
    Ok(places)
}

/// As far as can be told without reading it: a header block of that length, and nothing else.
fn is_tombstone(message: &MessageView<'_>) -> bool {
    let bytes = RECORD_HEAD_BYTES + message.subject.len() + TOMBSTONE.len();
    message.has_headers && message.location.len as usize == bytes
}

fn decoded<T: DeserializeOwned>(bucket: Bucket, key: &str, json: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(json).map_err(|error| {
        tracing::error!(bucket = bucket.stream(), %key, %error, "a record can't be read");
        StoreError::Damaged
    })
}
