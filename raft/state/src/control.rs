//! One change of the control plane: expectations and writes over several control buckets, all of it
//! or nothing. Owns the command's bytes and its apply; everything that could refuse is asked before
//! anything is written, so that there is no state with half a change in it.

use bytes::Bytes;
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::subject;

use crate::codec::{CodecError, Reader, len_u32, put_blob};
use crate::command::{AppendRef, StreamPut};
use crate::header_scan::{HEADER_BYTES_MAX, parse_rollup, scan};
use crate::outcome::Outcome;
use crate::record::{RECORD_BYTES_MAX, RECORD_HEAD_BYTES};
use crate::state::{State, Step};
use crate::stream::{Stream, limit};

/// Expectations of one change at most.
pub const CHECKS_MAX: usize = 4096;
/// Records that one change writes at most: a key for each member of the largest room, and what goes with
/// them. Equal on all nodes of a cluster, because apply refuses what is larger.
pub const RECORDS_MAX: usize = 16 * 1024;

/// Several records written under expectations, as one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ControlChange {
    /// What must hold, in the order in which a failure is told.
    pub checks: Vec<ControlCheck>,
    /// A stream that is created with the records: a room's.
    pub create: Option<StreamPut>,
    /// What is written, in order.
    pub records: Vec<ControlRecord>,
}

/// The last sequence of what matches a filter is still the one that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlCheck {
    /// A control stream.
    pub stream: String,
    /// A subject or filter in it; empty = the whole stream.
    pub filter: Bytes,
    /// The expected last sequence; 0 = there is none.
    pub last_seq: u64,
}

/// One record of a control bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlRecord {
    /// The literal subject of a control stream.
    pub subject: Bytes,
    /// How much of `data` is the header block.
    pub header_len: u32,
    /// Header block and value.
    pub data: Bytes,
}

impl ControlChange {
    /// `checks | create | records`, each list with its count, each byte string with its length.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, CodecError> {
        bounded(self.checks.len(), CHECKS_MAX)?;
        bounded(self.records.len(), RECORDS_MAX)?;
        let mut out = Vec::new();
        out.extend_from_slice(&len_u32(self.checks.len()).to_le_bytes());
        for check in &self.checks {
            put_blob(&mut out, check.stream.as_bytes());
            put_blob(&mut out, &check.filter);
            out.extend_from_slice(&check.last_seq.to_le_bytes());
        }
        match &self.create {
            None => out.push(0),
            Some(put) => {
                out.push(1);
                put_blob(
                    &mut out,
                    &serde_json::to_vec(put).map_err(|_| CodecError::Malformed)?,
                );
            }
        }
        out.extend_from_slice(&len_u32(self.records.len()).to_le_bytes());
        for record in &self.records {
            out.extend_from_slice(&record.header_len.to_le_bytes());
            put_blob(&mut out, &record.subject);
            put_blob(&mut out, &record.data);
        }
        Ok(out)
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(body);
        let mut change = Self::default();
        for _ in 0..bounded(reader.count(16)?, CHECKS_MAX)? {
            change.checks.push(ControlCheck {
                stream: reader.text()?.to_owned(),
                filter: Bytes::copy_from_slice(reader.blob()?),
                last_seq: reader.u64()?,
            });
        }
        if reader.flag()? {
            let put = serde_json::from_slice(reader.blob()?).map_err(|_| CodecError::Malformed)?;
            change.create = Some(put);
        }
        for _ in 0..bounded(reader.count(12)?, RECORDS_MAX)? {
            let header_len = reader.u32()?;
            let record = ControlRecord {
                header_len,
                subject: Bytes::copy_from_slice(reader.blob()?),
                data: Bytes::copy_from_slice(reader.blob()?),
            };
            if header_len as usize > record.data.len() {
                return Err(CodecError::Length);
            }
            change.records.push(record);
        }
        reader.finish()?;
        Ok(change)
    }
}

fn bounded(count: usize, max: usize) -> Result<usize, CodecError> {
    if count > max {
        return Err(CodecError::Length);
    }
    Ok(count)
}

impl State {
    /// Applies a change: `CheckFailed` names the first expectation that does not hold, `Refused` says
    /// why a write can't be; in both cases nothing has changed.
    pub(crate) fn control(
        &mut self,
        change: ControlChange,
        step: &mut Step<'_>,
    ) -> Result<Outcome, ApiError> {
        for (at, check) in change.checks.iter().enumerate() {
            if !self.holds(check) {
                return Ok(Outcome::CheckFailed { check: len_u32(at) });
            }
        }
        for record in &change.records {
            self.stream_for_subject(&record.subject)
                .ok_or(error::STREAM_NOT_FOUND)?
                .admits(record)?;
        }
        if let Some(put) = change.create {
            if self.stream(&put.config.name).is_some() {
                return Err(error::STREAM_NAME_EXIST);
            }
            self.create_stream(put, step)?;
        }
        for record in &change.records {
            let append = AppendRef {
                subject: &record.subject,
                header_len: record.header_len,
                data: &record.data,
                privileged: true,
            };
            if let Outcome::Refused(refusal) = self.append(append, step) {
                return Err(refusal.error);
            }
        }
        Ok(Outcome::Done)
    }

    fn holds(&self, check: &ControlCheck) -> bool {
        let Some(stream) = self.stream(&check.stream) else {
            return false;
        };
        let last = if check.filter.is_empty() {
            stream.last_seq()
        } else {
            stream.last_seq_for(&check.filter).unwrap_or(0)
        };
        last == check.last_seq
    }
}

impl Stream {
    /// Whether `append` will store this record: the control buckets have no limits of number or
    /// size, so what one record would be refused for stands in the record itself.
    fn admits(&self, record: &ControlRecord) -> Result<(), ApiError> {
        if !self.is_control() {
            return Err(error::RESERVED);
        }
        if self.config.sealed {
            return Err(error::STREAM_SEALED);
        }
        let header_len = record.header_len as usize;
        if header_len > HEADER_BYTES_MAX {
            return Err(error::HEADER_EXCEEDS_MAXIMUM);
        }
        let block = record
            .data
            .get(..header_len)
            .ok_or(error::HEADER_EXCEEDS_MAXIMUM)?;
        let headers = scan(block);
        if let Some(rollup) = headers.rollup.filter(|value| !value.is_empty()) {
            parse_rollup(rollup)?;
            if !self.config.allow_rollup_hdrs || self.config.deny_purge {
                return Err(error::ROLLUP_NOT_PERMITTED);
            }
        }
        let plain = headers.msg_id.is_none()
            && headers.expected_stream.is_none()
            && headers.expected_last_seq.is_none()
            && headers.expected_last_subject_seq.is_none()
            && headers.expected_last_subject.is_none()
            && headers.expected_last_msg_id.is_none()
            && headers.ttl.is_none()
            && !headers.batch
            && headers.incr.is_none()
            && headers.schedule.is_none()
            && !headers.source;
        if !plain || !subject::is_literal(&record.subject) {
            return Err(error::BAD_REQUEST);
        }
        let stored = RECORD_HEAD_BYTES + record.subject.len() + record.data.len();
        let over =
            limit(self.config.max_msg_size).is_some_and(|max| record.data.len() as u64 > max);
        if over || stored > RECORD_BYTES_MAX {
            return Err(error::MESSAGE_EXCEEDS_MAXIMUM);
        }
        Ok(())
    }
}
