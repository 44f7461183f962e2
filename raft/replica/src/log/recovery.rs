//! Reads the log back. It changes nothing on disk before everything has been checked.
//!
//! Segments in front of the last one were synced before their successor took its first record, so
//! anything wrong in them is damage. In the last one a bad record is a torn tail exactly when
//! nothing behind it claims that its place was synced (`record`: the `durable` field): a power cut
//! may keep any subset of the pages of a write that was never synced. Otherwise it is damage.
//!
//! What is read may be in the page cache only: of a process that was killed before its sync, where a
//! sync now would do, or whose sync failed, after which a sync succeeds and writes nothing. So everything
//! that no record proves to be synced is written again before it counts. That can be the end of the
//! last segment and of the one before it, which was sealed just then.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::index::{GroupIndex, Logged, Place};
use super::keeper;
use super::record::{self, ALIGN, Found, HEAD_BYTES, Kind};
use super::segment::{self, HEADER_BYTES, Segment};
use super::synced::Synced;
use super::writer::Tail;
use super::{Cut, LogError, LogOptions, OpenReport};
use crate::codec::{self, CodecError};
use crate::disk;
use crate::transport::GroupId;
use crate::types::Vote;

/// Says that the directory holds a log. Without it, no segments means a new log; with it, no
/// segments means that they were lost.
const MARKER: &str = "FORMAT";

/// Says that what is behind the end of the log is being filled with zeros. As long as it is there, zeros
/// that are read may not be on disk.
const ZEROING: &str = "zeroing";

/// A log that has been read.
pub(super) struct Recovered {
    pub(super) segments: BTreeMap<u64, Arc<Segment>>,
    pub(super) groups: BTreeMap<GroupId, Arc<Mutex<GroupIndex>>>,
    pub(super) tail: Tail,
    pub(super) report: OpenReport,
}

/// Reads the log in `dir`, or makes an empty one.
pub(super) fn open(dir: &Path, options: &LogOptions) -> Result<Recovered, LogError> {
    let sequences = list(dir)?;
    let is_marked = dir.join(MARKER).exists();
    if sequences.is_empty() && !is_marked {
        return create(dir, options);
    }
    let mut segments = Vec::with_capacity(sequences.len());
    for sequence in check_gaps(dir, &sequences)? {
        segments.push(Arc::new(Segment::open(dir, sequence)?));
    }
    let mut scan = Scan::default();
    let tail = scan.run(dir, &mut segments)?;
    scan.check_complete(dir, &segments)?;
    check_reach(dir, &segments, &tail)?;
    if !is_marked {
        write_marker(dir)?;
    }
    finish(dir, scan, segments, tail)
}

/// Whether `dir` holds a log, or what is left of one.
pub(super) fn has_traces(dir: &Path) -> bool {
    dir.join(MARKER).exists() || list(dir).is_ok_and(|sequences| !sequences.is_empty())
}

/// The log must reach at least as far as it was noted to be synced.
fn check_reach(dir: &Path, segments: &[Arc<Segment>], end: &End) -> Result<(), LogError> {
    let (Some(synced), Some(last)) = (Synced::read(dir), segments.last()) else {
        return Ok(());
    };
    if synced.sequence > last.sequence {
        return Err(LogError::Missing {
            file: dir.join(segment::file_name(synced.sequence)),
            detail: "records in it were synced".to_owned(),
        });
    }
    let used = segments.len() - 1 - usize::from(end.is_tail_before_last);
    match segments.get(used) {
        Some(tail) if synced.is_of(tail.sequence, tail.stamp) && synced.offset > end.offset => {
            let detail = format!(
                "there is no valid record here, and records up to byte {} were synced",
                synced.offset
            );
            Err(LogError::damaged(&tail.path, u64::from(end.offset), detail))
        }
        _ => Ok(()),
    }
}

/// Sequence numbers of the segments in `dir`, in order.
pub(super) fn list(dir: &Path) -> Result<Vec<u64>, LogError> {
    let mut sequences = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| LogError::io("list", dir, e))? {
        let name = entry.map_err(|e| LogError::io("list", dir, e))?.file_name();
        sequences.extend(name.to_str().and_then(segment::parse_name));
    }
    sequences.sort_unstable();
    Ok(sequences)
}

fn check_gaps(dir: &Path, sequences: &[u64]) -> Result<Vec<u64>, LogError> {
    let Some((&first, &last)) = sequences.first().zip(sequences.last()) else {
        return Err(LogError::Missing {
            file: dir.join(segment::file_name(1)),
            detail: "the directory was a log and has no segments".to_owned(),
        });
    };
    for (expected, &found) in (first..=last).zip(sequences) {
        if expected != found {
            return Err(LogError::Missing {
                file: dir.join(segment::file_name(expected)),
                detail: format!("segments {first} to {last} are there"),
            });
        }
    }
    Ok(sequences.to_vec())
}

/// A new log: its first segment, then the marker.
fn create(dir: &Path, options: &LogOptions) -> Result<Recovered, LogError> {
    let bytes = keeper::segment_bytes(options);
    let spare = keeper::create(dir, bytes)?;
    let segment = Segment::activate(dir, &spare.path, spare.file, bytes, 1)?;
    write_marker(dir)?;
    let end = End {
        offset: HEADER_BYTES,
        cut: None,
        zero_from: None,
        is_tail_before_last: false,
        unproven: Vec::new(),
    };
    let mut scan = Scan::default();
    scan.report.segments = 1;
    finish(dir, scan, vec![Arc::new(segment)], end)
}

fn write_marker(dir: &Path) -> Result<(), LogError> {
    write_note(dir, MARKER, &format!("unibus-log {}\n", segment::FORMAT))
}

/// Writes a file that counts by being there.
fn write_note(dir: &Path, name: &str, text: &str) -> Result<(), LogError> {
    let path = dir.join(name);
    fs::write(&path, text)
        .and_then(|()| fs::File::open(&path)?.sync_all())
        .map_err(|e| LogError::io("write", &path, e))?;
    segment::sync_dir(dir)
}

/// Makes the end of the log clean and durable, and builds what the log runs on.
fn finish(
    dir: &Path,
    mut scan: Scan,
    mut segments: Vec<Arc<Segment>>,
    end: End,
) -> Result<Recovered, LogError> {
    if end.is_tail_before_last
        && let Some(unused) = segments.pop()
    {
        fs::remove_file(&unused.path).map_err(|e| LogError::io("remove", &unused.path, e))?;
        segment::sync_dir(dir)?;
    }
    let Some(tail) = segments.last().map(Arc::clone) else {
        return Err(LogError::Missing {
            file: dir.join(segment::file_name(1)),
            detail: "there is no segment".to_owned(),
        });
    };
    for unproven in &end.unproven {
        unproven.write_again()?;
        if unproven.segment.sequence != tail.sequence {
            sync(&unproven.segment)?;
        }
    }
    let is_zeroing = dir.join(ZEROING).exists();
    let zero_from = end.zero_from.or_else(|| is_zeroing.then_some(end.offset));
    if let Some(from) = zero_from {
        // Records behind the cut must never be found again behind new ones.
        write_note(dir, ZEROING, "")?;
        segment::zero(&tail.file, u64::from(from), u64::from(tail.bytes))
            .map_err(|e| LogError::io("fill", &tail.path, e))?;
    }
    sync(&tail)?;
    if zero_from.is_some() {
        // One that comes back after a power cut does no harm: what is behind the end is nothing.
        let path = dir.join(ZEROING);
        fs::remove_file(&path).map_err(|e| LogError::io("remove", &path, e))?;
    }
    scan.report.cut = end.cut;
    let mut groups = BTreeMap::new();
    let mut logged = BTreeMap::new();
    for (id, group) in scan.groups {
        groups.insert(id, Arc::new(Mutex::new(group.index)));
        logged.insert(id, group.logged);
    }
    Ok(Recovered {
        segments: segments.into_iter().map(|s| (s.sequence, s)).collect(),
        groups,
        tail: Tail {
            segment: tail,
            offset: end.offset,
            groups: logged,
        },
        report: scan.report,
    })
}

fn sync(segment: &Segment) -> Result<(), LogError> {
    disk::sync_all(&segment.file).map_err(|e| LogError::io("sync", &segment.path, e))
}

/// Where the log ends.
struct End {
    offset: u32,
    cut: Option<Cut>,
    /// From here on the tail segment must be zeroed.
    zero_from: Option<u32>,
    /// The last segment was prepared and never used.
    is_tail_before_last: bool,
    /// The ends of the last two segments in use, in their order.
    unproven: Vec<Unproven>,
}

/// What no record proves to be synced of what was read of a segment.
struct Unproven {
    segment: Arc<Segment>,
    from: usize,
    bytes: Vec<u8>,
}

impl Unproven {
    /// Makes what was read what is in the file, also where that is what it looks like. Not synced.
    fn write_again(&self) -> Result<(), LogError> {
        let Segment { file, path, .. } = &*self.segment;
        disk::write_at(file, &self.bytes, self.from as u64)
            .map_err(|e| LogError::io("write", path, e))
    }
}

/// What reading a segment came to.
pub(super) enum Stop {
    /// At its seal.
    Sealed,
    /// At this offset there is no valid record.
    At(usize),
}

/// A group as it is read.
#[derive(Default)]
struct ScanGroup {
    index: GroupIndex,
    logged: Logged,
    /// Entries that were in segments older than the first one read, and that must turn out to be
    /// purged or truncated.
    missing: Option<(u64, u64)>,
}

/// Why a record whose checksum is right can't be followed.
enum Wrong {
    /// It contradicts the records before it.
    Damage(String),
    /// Another version wrote it.
    Format(u8),
}

impl From<String> for Wrong {
    fn from(detail: String) -> Self {
        Self::Damage(detail)
    }
}

impl From<CodecError> for Wrong {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::Format(found) => Self::Format(found),
            error => Self::Damage(error.to_string()),
        }
    }
}

#[derive(Default)]
pub(super) struct Scan {
    groups: BTreeMap<GroupId, ScanGroup>,
    report: OpenReport,
    /// Of the segment read last: how far its records prove it to be synced, and where they end.
    proven: usize,
    end: usize,
}

impl Scan {
    /// Reads all segments, in order.
    fn run(&mut self, dir: &Path, segments: &mut [Arc<Segment>]) -> Result<End, LogError> {
        let mut buffer = Vec::new();
        let mut unproven = Vec::new();
        let count = segments.len();
        for (at, segment) in segments.iter().enumerate() {
            self.report.segments += 1;
            let on_disk = segment.read_all(&mut buffer)?;
            let stop = self.read_segment(segment, &buffer)?;
            // All but the last two were synced before the next but one took its first record.
            unproven.drain(..unproven.len().saturating_sub(1));
            unproven.push(self.unproven(segment, &buffer));
            match (stop, at + 1 == count) {
                (Stop::Sealed, false) => {}
                (Stop::Sealed, true) => {
                    return Err(LogError::Missing {
                        file: dir.join(segment::file_name(segment.sequence + 1)),
                        detail: format!("{} says that it exists", segment.path.display()),
                    });
                }
                (Stop::At(offset), true) => {
                    let end = torn(segment, &buffer, offset, on_disk, false)?;
                    return Ok(End { unproven, ..end });
                }
                (Stop::At(offset), false) => {
                    let end = torn(segment, &buffer, offset, on_disk, true)?;
                    let next = segments.get(at + 1);
                    if at + 2 == count && next.is_some_and(|next| is_unused(next)) {
                        return Ok(End { unproven, ..end });
                    }
                    return Err(LogError::damaged(
                        &segment.path,
                        offset as u64,
                        "there is no valid record here, and later segments exist",
                    ));
                }
            }
        }
        Err(LogError::Missing {
            file: dir.join(segment::file_name(1)),
            detail: "there is no segment".to_owned(),
        })
    }

    fn unproven(&self, segment: &Arc<Segment>, buffer: &[u8]) -> Unproven {
        let from = self.proven.min(self.end);
        Unproven {
            segment: Arc::clone(segment),
            from,
            bytes: buffer.get(from..self.end).unwrap_or_default().to_vec(),
        }
    }

    /// What was read of one group.
    pub(super) fn into_index(mut self, group: GroupId) -> GroupIndex {
        self.groups.remove(&group).unwrap_or_default().index
    }

    pub(super) fn read_segment(
        &mut self,
        segment: &Segment,
        buffer: &[u8],
    ) -> Result<Stop, LogError> {
        let mut at = HEADER_BYTES as usize;
        (self.proven, self.end) = (at, at);
        while let Some(found) = buffer
            .get(at..)
            .and_then(|rest| record::read(rest, segment.stamp))
        {
            self.report.records += 1;
            self.proven = self.proven.max(found.durable as usize);
            self.end = at + found.size;
            if found.head.kind == Kind::Seal {
                return Ok(Stop::Sealed);
            }
            let place = Place {
                segment: segment.sequence,
                offset: u32::try_from(at).unwrap_or(u32::MAX),
                size: u32::try_from(found.size).unwrap_or(u32::MAX),
            };
            self.apply(&found, place).map_err(|wrong| match wrong {
                Wrong::Damage(detail) => LogError::damaged(&segment.path, at as u64, detail),
                Wrong::Format(found) => LogError::Format {
                    file: segment.path.clone(),
                    found: u32::from(found),
                    supported: u32::from(codec::FORMAT),
                },
            })?;
            at += found.size;
        }
        Ok(Stop::At(at))
    }

    /// Does again what the record says.
    fn apply(&mut self, found: &Found<'_>, place: Place) -> Result<(), Wrong> {
        let head = &found.head;
        if head.kind == Kind::Mark {
            return Ok(());
        }
        let is_new = !self.groups.contains_key(&head.group);
        let group = self.groups.entry(head.group).or_default();
        match head.kind {
            Kind::Entry => group.entry(found, place)?,
            Kind::Vote => {
                let vote = Vote {
                    leader_id: head.leader_id(),
                    committed: head.detail == 1,
                };
                group.set_vote(Some(vote));
            }
            Kind::Truncate => {
                let keep = (head.detail == 1).then_some(head.index);
                group.truncate(keep);
            }
            Kind::Purge => group.purge(&head.log_id()),
            Kind::Committed => {
                group.index.committed = Some(head.log_id());
                group.logged.committed = Some(head.log_id());
            }
            Kind::Head => {
                let state = codec::decode_group_head(found.body)?;
                if is_new {
                    group.missing = state.live;
                }
                group.set_vote(state.vote);
                group.index.committed = state.committed;
                group.logged.committed = state.committed;
                if let Some(purged) = &state.purged {
                    group.purge(purged);
                }
            }
            Kind::Mark | Kind::Seal => {}
        }
        Ok(())
    }

    /// Every entry that was in older segments must have been given up by a later record.
    fn check_complete(&self, dir: &Path, segments: &[Arc<Segment>]) -> Result<(), LogError> {
        for (id, group) in &self.groups {
            if let Some((first, last)) = group.missing {
                let oldest = segments.first().map_or(1, |segment| segment.sequence);
                return Err(LogError::Missing {
                    file: dir.join(segment::file_name(oldest.saturating_sub(1))),
                    detail: format!("it holds entries {first} to {last} of group {}", id.0),
                });
            }
        }
        Ok(())
    }
}

impl ScanGroup {
    fn entry(&mut self, found: &Found<'_>, place: Place) -> Result<(), String> {
        let log_id = found.head.log_id();
        match self.missing {
            // Its predecessors are in a segment that is not here; the check comes at the end.
            Some((_, last)) if self.index.state().last_log_id == self.index.purged => {
                if log_id.index != last + 1 {
                    return Err(format!("entry {} where {} is due", log_id.index, last + 1));
                }
            }
            _ => self.index.check_next(log_id.index)?,
        }
        self.index.append(&log_id, place, None);
        self.logged.append(log_id.index, place.segment);
        Ok(())
    }

    fn set_vote(&mut self, vote: Option<Vote>) {
        self.index.vote = vote;
        self.logged.vote = vote;
    }

    fn truncate(&mut self, keep: Option<u64>) {
        self.index.truncate(keep);
        self.logged.truncate(keep);
        self.missing = match (self.missing, keep) {
            (Some((first, last)), Some(keep)) if keep >= first => Some((first, last.min(keep))),
            _ => None,
        };
    }

    fn purge(&mut self, upto: &crate::types::LogId) {
        self.index.purge(upto);
        self.logged.purge(upto);
        self.missing = match self.missing {
            Some((first, last)) if last > upto.index => Some((first.max(upto.index + 1), last)),
            _ => None,
        };
    }
}

/// Decides what the absence of a valid record at `offset` of the last used segment means.
fn torn(
    segment: &Segment,
    buffer: &[u8],
    offset: usize,
    on_disk: u64,
    is_tail_before_last: bool,
) -> Result<End, LogError> {
    let mut records = 0;
    let mut last_trace = offset;
    let mut at = offset + ALIGN;
    while let Some(rest) = buffer.get(at..)
        && rest.len() >= HEAD_BYTES
    {
        let Some(found) = record::read(rest, segment.stamp) else {
            at += ALIGN;
            continue;
        };
        if found.durable as usize > offset {
            return Err(LogError::damaged(
                &segment.path,
                offset as u64,
                format!("there is no valid record here, and the one at {at} says it was synced"),
            ));
        }
        records += 1;
        at += found.size;
        last_trace = at;
    }
    // A segment has its size before it has its name, so no crash leaves a shorter one.
    if on_disk < u64::from(segment.bytes) {
        let detail = format!(
            "the file ends here; it was made with {} bytes",
            segment.bytes
        );
        return Err(LogError::damaged(&segment.path, on_disk, detail));
    }
    let rest = buffer.get(offset..).unwrap_or_default();
    if record::has_tag(rest, segment.stamp) {
        last_trace = last_trace.max(offset + HEAD_BYTES);
    }
    let offset = u32::try_from(offset).unwrap_or(u32::MAX);
    let bytes = (last_trace as u64).saturating_sub(u64::from(offset));
    Ok(End {
        offset,
        cut: (bytes > 0).then(|| Cut {
            file: segment.path.clone(),
            offset: u64::from(offset),
            bytes,
            records,
        }),
        zero_from: (bytes > 0).then_some(offset),
        is_tail_before_last,
        unproven: Vec::new(),
    })
}

/// Whether a segment was prepared and never took a record.
fn is_unused(segment: &Segment) -> bool {
    let mut buffer = Vec::new();
    if segment.read_all(&mut buffer).is_err() {
        return false;
    }
    let mut at = HEADER_BYTES as usize;
    while let Some(rest) = buffer.get(at..)
        && rest.len() >= HEAD_BYTES
    {
        if record::read(rest, segment.stamp).is_some() {
            return false;
        }
        at += ALIGN;
    }
    true
}
