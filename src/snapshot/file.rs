//! A snapshot as a file: JSON lines. The first names the form, then one line for each record
//! (`bucket`, `key`, `value`), then blobs in parts (`blob`, `data` in base64, `more`), and the last
//! counts everything and has the SHA-256 of all lines before it, so that a file that was cut or
//! changed is never taken for a whole one.

use std::io::{BufRead, Read, Write};

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{BUCKETS, Place, Problems, Record, Snapshot};
use crate::access::users::now;

/// The form's number.
const FORM: u64 = 1;
/// Longest line, in bytes: a user's grants, or a part of a blob.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Bytes of a blob in one line.
pub(crate) const PART_BYTES: usize = 1024 * 1024;

/// Why a file is no snapshot.
#[derive(Debug, Error)]
pub(crate) enum SnapshotFileError {
    #[error("it can't be read or written: {0}")]
    Io(#[from] std::io::Error),
    #[error("line {line}: {reason}")]
    Line { line: u64, reason: String },
    #[error("it ends after line {0} without its last line: it was cut")]
    Cut(u64),
    #[error("what stands in it is not what was written: it was changed or damaged")]
    Digest,
    #[error("its records are no whole:\n  {0}")]
    Problems(#[from] Problems),
}

#[derive(Deserialize, Serialize)]
struct First {
    unibus_snapshot: u64,
    exported_at: String,
}

#[derive(Deserialize, Serialize)]
struct RecordLine<'a> {
    bucket: &'a str,
    key: &'a str,
    value: Value,
}

#[derive(Deserialize, Serialize)]
struct BlobLine<'a> {
    blob: &'a str,
    data: &'a str,
    more: bool,
}

#[derive(Deserialize, Serialize)]
struct Last {
    records: u64,
    blobs: u64,
    sha256: String,
}

/// Writes lines and counts them.
pub(crate) struct Writer<W> {
    out: W,
    hash: Sha256,
    records: u64,
    blobs: u64,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W) -> std::io::Result<Self> {
        let mut writer = Self {
            out,
            hash: Sha256::new(),
            records: 0,
            blobs: 0,
        };
        let first = First {
            unibus_snapshot: FORM,
            exported_at: now(),
        };
        writer.line(&first)?;
        Ok(writer)
    }

    pub(crate) fn records(&mut self, snapshot: &Snapshot) -> std::io::Result<()> {
        for (place, record) in snapshot.records() {
            self.line(&RecordLine {
                bucket: place.bucket.name(),
                key: &place.key,
                value: serde_json::from_slice(&record.encode())?,
            })?;
            self.records += 1;
        }
        Ok(())
    }

    /// One part of a blob; `more` = it has others.
    pub(crate) fn blob_part(&mut self, hash: &str, part: &[u8], more: bool) -> std::io::Result<()> {
        self.line(&BlobLine {
            blob: hash,
            data: &BASE64.encode(part),
            more,
        })?;
        self.blobs += u64::from(!more);
        Ok(())
    }

    /// Writes the last line; answers with what was written to.
    pub(crate) fn finish(mut self) -> std::io::Result<W> {
        let last = Last {
            records: self.records,
            blobs: self.blobs,
            sha256: HEXLOWER.encode(&self.hash.clone().finalize()),
        };
        self.line(&last)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn line(&mut self, value: &impl Serialize) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(value)?;
        text.push(b'\n');
        self.hash.update(&text);
        self.out.write_all(&text)
    }
}

/// A part of a blob as it stands in a file.
#[derive(Debug)]
pub(crate) struct BlobPart {
    pub(crate) hash: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) more: bool,
}

/// Reads a whole file: its records, checked, and each part of its blobs by way of `blob`, in the order
/// of the file. Nothing that `blob` is given is certain before this returns.
pub(crate) fn read(
    file: impl BufRead,
    mut blob: impl FnMut(BlobPart) -> Result<(), String>,
) -> Result<Snapshot, SnapshotFileError> {
    let mut lines = Lines {
        file,
        number: 0,
        hash: Sha256::new(),
    };
    let first = lines.next()?.ok_or(SnapshotFileError::Cut(0))?;
    let form: First = lines.parse(&first)?;
    if form.unibus_snapshot != FORM {
        let reason = format!(
            "form {} is not known here; this version reads form {FORM}",
            form.unibus_snapshot
        );
        return Err(lines.error(reason));
    }
    let (mut snapshot, mut blobs) = (Snapshot::default(), 0u64);
    loop {
        let digest = lines.hash.clone();
        let line = lines.next()?.ok_or(SnapshotFileError::Cut(lines.number))?;
        if let Ok(last) = serde_json::from_slice::<Last>(&line) {
            let same = last.sha256 == HEXLOWER.encode(&digest.finalize())
                && last.records == snapshot.len() as u64
                && last.blobs == blobs;
            if !same || lines.next()?.is_some() {
                return Err(SnapshotFileError::Digest);
            }
            snapshot.check()?;
            return Ok(snapshot);
        }
        if let Ok(part) = serde_json::from_slice::<BlobLine<'_>>(&line) {
            let bytes = BASE64.decode(part.data.as_bytes());
            let bytes = bytes.map_err(|error| lines.error(error.to_string()))?;
            blobs += u64::from(!part.more);
            let part = BlobPart {
                hash: part.blob.to_owned(),
                bytes,
                more: part.more,
            };
            blob(part).map_err(|reason| lines.error(reason))?;
            continue;
        }
        let (place, record) = lines.record(&line)?;
        snapshot.insert(place, record);
    }
}

struct Lines<R> {
    file: R,
    number: u64,
    hash: Sha256,
}

impl<R: BufRead> Lines<R> {
    /// The next line; `None` at the end.
    fn next(&mut self) -> Result<Option<Vec<u8>>, SnapshotFileError> {
        let mut line = Vec::new();
        let read = self
            .file
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.hash.update(&line);
        if line.pop() == Some(b'\n') {
            return Ok(Some(line));
        }
        if read as u64 == LINE_BYTES_MAX {
            return Err(self.error("it is longer than any line of a snapshot".into()));
        }
        Err(SnapshotFileError::Cut(self.number))
    }

    fn parse<'a, T: Deserialize<'a>>(&self, line: &'a [u8]) -> Result<T, SnapshotFileError> {
        serde_json::from_slice(line).map_err(|error| self.error(error.to_string()))
    }

    fn record(&self, line: &[u8]) -> Result<(Place, Record), SnapshotFileError> {
        let line: RecordLine<'_> = self.parse(line)?;
        let bucket = BUCKETS
            .into_iter()
            .find(|bucket| bucket.name() == line.bucket)
            .ok_or_else(|| self.error(format!("{:?} is no bucket of a snapshot", line.bucket)))?;
        let place = Place {
            bucket,
            key: line.key.to_owned(),
        };
        let record = Record::decode(&place, line.value.to_string().as_bytes())
            .map_err(|reason| self.error(format!("{place}: {reason}")))?;
        Ok((place, record))
    }

    fn error(&self, reason: String) -> SnapshotFileError {
        SnapshotFileError::Line {
            line: self.number,
            reason,
        }
    }
}
